"""Explains a TLS failure in a sentence for the person who runs this.

In: an exception. Out: a sentence, or None if it is not a TLS failure. Left to others: the contexts (`tls.contexts`).
"""

from __future__ import annotations

import ssl

__all__ = ["tls_reason"]

_STRICT = ", which --strict-certificates asks for: have it made anew, or do without that flag"

#: A part of OpenSSL's text, and what it means. The first match counts, so the more specific come first.
_REASONS = (
    # Our check of the server's certificate: X509_V_ERR_*, in the words of X509_verify_cert_error_string.
    ("certificate has expired", "the server's certificate has expired: have it renewed"),
    ("certificate is not yet valid", "the server's certificate is not valid yet: check the clocks of both machines"),
    ("Hostname mismatch", "the server's certificate is for another host name: check the address"),
    ("IP address mismatch", "the server's certificate is for another address: use its host name"),
    ("CA cert does not include key usage extension", f"the CA lacks the extension keyUsage{_STRICT}"),
    ("Missing Authority Key Identifier", f"a certificate of the server's lacks authorityKeyIdentifier{_STRICT}"),
    ("Missing Subject Key Identifier", f"the CA lacks the extension subjectKeyIdentifier{_STRICT}"),
    ("Basic Constraints of CA cert not marked critical", f"the CA's basicConstraints are not critical{_STRICT}"),
    (
        "unable to get local issuer certificate",
        (
            "the server's certificate is not signed by the given CA: check the CA file, and that the server sends its"
            " intermediate certificates"
        ),
    ),
    (
        "unable to get issuer certificate",
        (
            "the server's certificate is not signed by the given CA: the CA file has an intermediate one and lacks"
            " its root: add the root"
        ),
    ),
    (
        "unable to verify the first certificate",
        (
            "the server's certificate is not signed by the given CA: the server sends no intermediate ones, or the"
            " CA file is another"
        ),
    ),
    (
        "certificate in certificate chain",  # "self-signed", before OpenSSL 3 "self signed"
        (
            "the server's certificate is not signed by the given CA, but by a private one: give the certificate of that"
            " as the CA file"
        ),
    ),
    (
        "signed certificate",
        (
            "the server's certificate is self-signed and not the given CA: give it as the CA file, or have it signed by"
            " the CA"
        ),
    ),
    (
        "certificate signature failure",
        "the server's certificate carries a wrong signature: the CA file may be of an older CA of the same name",
    ),
    ("certificate revoked", "the server's certificate was revoked: have it renewed"),
    (
        "invalid CA certificate",
        (
            "the server's certificate is signed by one that is no CA (basicConstraints CA:TRUE is"
            " missing): make the CA anew"
        ),
    ),
    (
        "path length constraint exceeded",
        (
            "there are more intermediate certificates than the CA allows (pathlen): have"
            " the server's certificate issued by a CA nearer to the root"
        ),
    ),
    (
        "certificate purpose",
        "the server's certificate is not meant for servers (extendedKeyUsage): have one issued with serverAuth",
    ),
    ("certificate not trusted", "the given CA is not trusted for servers: check the CA file"),
    (
        "EE certificate key too weak",
        "the key of the server's certificate is too short: have it renewed with 2048 bits or more",
    ),
    ("CA certificate key too weak", "the key of the CA is too short: make a CA with 2048 bits or more"),
    (
        "CA signature digest algorithm too weak",
        (
            "the CA signs with an algorithm that is no longer safe (MD5, SHA-1): have"
            " the certificates issued anew with SHA-256"
        ),
    ),
    ("certificate chain too long", "the server sends too many certificates: have its chain put right"),
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not signed by the given CA: check the CA file"),
    # Alerts: what the server says of our certificate.
    ("CERTIFICATE_REQUIRED", "the server asks for a client certificate and got none"),
    ("ALERT_UNKNOWN_CA", "the server does not trust the CA of our certificate: get one it trusts"),
    ("CERTIFICATE_EXPIRED", "the server says that our certificate has expired: renew it"),
    ("CERTIFICATE_REVOKED", "the server says that our certificate was revoked: get a new one"),
    (
        "UNSUPPORTED_CERTIFICATE",
        "the server does not take this kind of certificate from a client: get one with extendedKeyUsage clientAuth",
    ),
    ("CERTIFICATE_UNKNOWN", "the server refuses our certificate and does not say why: look into its log"),
    ("BAD_CERTIFICATE", "the server refuses our certificate: check that it is meant for this server"),
    ("ALERT_ACCESS_DENIED", "the server knows our certificate and does not let it in: ask who runs it"),
    ("ALERT_DECRYPT_ERROR", "the server could not check our signature: check that the key is the certificate's"),
    ("UNRECOGNIZED_NAME", "the server does not know the host name that we ask for: check the address"),
    ("ALERT_PROTOCOL_VERSION", "the server speaks no version of TLS that is safe: have it speak TLS 1.2 or later"),
    ("UNSUPPORTED_PROTOCOL", "the server speaks no version of TLS that is safe: have it speak TLS 1.2 or later"),
    ("HANDSHAKE_FAILURE", "the server refuses the TLS handshake: a client certificate it accepts may be missing"),
    ("WRONG_VERSION_NUMBER", "the server does not speak TLS on this port: check address and port"),
    ("RECORD_LAYER_FAILURE", "the server does not speak TLS on this port: check address and port"),
    # Our own files, as OpenSSL judges them.
    (
        "KEY_TOO_SMALL",
        "the key of the certificate is too short for OpenSSL's security level: make one with 2048 bits or more",
    ),
    (
        "MD_TOO_WEAK",
        (
            "the certificate is signed with an algorithm that is no longer safe (MD5, SHA-1): have it issued"
            " anew with SHA-256"
        ),
    ),
    ("KEY_VALUES_MISMATCH", "the key is not that of the certificate: give the key that the certificate was made for"),
)

#: The connection broke or timed out during the handshake, which says nothing about certificates.
_INTERRUPTED = (
    ssl.SSLWantReadError,
    ssl.SSLWantWriteError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ssl.SSLSyscallError,
)
#: How far a chain of causes is followed; it may be circular.
_DEEPEST = 16


def tls_reason(error: BaseException) -> str | None:
    """What a TLS failure, or an error caused by one, means; None for any other error, or a broken connection."""
    seen: BaseException | None = error
    for _ in range(_DEEPEST):
        if isinstance(seen, ssl.SSLError) and not isinstance(seen, _INTERRUPTED):
            text = str(seen)
            return next((meaning for needle, meaning in _REASONS if needle in text), f"TLS failed: {text}")
        seen = seen and (seen.__cause__ or seen.__context__)
    text = str(error)
    return next((meaning for needle, meaning in _REASONS if needle in text), None)
