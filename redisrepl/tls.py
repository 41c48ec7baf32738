"""The one place where TLS is set up: always verified, with a client certificate where one is given.

In: paths of PEM files and the flags that named them. Out: an SSLContext, or an error that says which file is wrong and
why. Left to others: connecting, and what a peer says of our certificate.
"""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from redisrepl.errors import CertificateError, ConfigError

__all__ = ["CertificateFiles", "client_context", "read_file", "readable_by_others", "tls_reason"]


class CertificateFiles:
    """Where the PEM files of one TLS link are, and which flags say so.

    Args:
        ca: certificates to trust; None: those of the system.
        cert: our certificate with its chain; None: we show none.
        key: private key of `cert`.
        flags: names of the three flags, for messages.
    """

    __slots__ = ("ca", "cert", "flags", "key")

    def __init__(
        self,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        flags: tuple[str, str, str] = ("--ca", "--cert", "--key"),
    ) -> None:
        self.ca = ca
        self.cert = cert
        self.key = key
        self.flags = flags


def read_file(path: Path, flag: str) -> bytes:
    """The content of a configured file.

    Raises:
        ConfigError: it cannot be read; names the flag, the file and the reason.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"{flag} {path}: {reason}: check the path and that this user may read it") from None


def readable_by_others(path: Path) -> bool:
    """Whether more users of this machine than its owner and root may read a file."""
    try:
        return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IRGRP))
    except OSError:
        return False


def client_context(files: CertificateFiles, now: datetime | None = None) -> ssl.SSLContext:
    """A context for connections that we open; checks what can be checked before a peer is asked.

    Raises:
        ConfigError: a file is missing, unreadable, not PEM, encrypted, or the key is not the certificate's.
        CertificateError: our certificate is expired or not valid yet.
    """
    ca_flag, cert_flag, key_flag = files.flags
    context = ssl.create_default_context()
    if files.ca is not None:
        pem = read_file(files.ca, ca_flag)
        _certificates(pem, files.ca, ca_flag)
        context = ssl.create_default_context(cadata=pem.decode("ascii", "ignore"))
    if files.cert is None and files.key is None:
        return context
    if files.cert is None or files.key is None:
        missing, given = (cert_flag, key_flag) if files.cert is None else (key_flag, cert_flag)
        raise ConfigError(f"{given} is given without {missing}: a client certificate needs both")
    certificate = _certificates(read_file(files.cert, cert_flag), files.cert, cert_flag)[0]
    _check_key(certificate, files.cert, cert_flag, files.key, key_flag)
    _check_dates(certificate, files.cert, cert_flag, now or datetime.now(UTC))
    try:
        context.load_cert_chain(files.cert, files.key)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{cert_flag} {files.cert} with {key_flag} {files.key}: {tls_reason(error)}") from None
    return context


def _certificates(pem: bytes, path: Path, flag: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{flag} {path}: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from None


def _check_key(certificate: x509.Certificate, cert: Path, cert_flag: str, key: Path, key_flag: str) -> None:
    pem = read_file(key, key_flag)
    try:
        private_key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigError(f"{key_flag} {key}: the key is encrypted: store it without a passphrase") from None
    except ValueError:
        raise ConfigError(f"{key_flag} {key}: holds no private key in PEM form") from None
    except UnsupportedAlgorithm as error:
        raise ConfigError(f"{key_flag} {key}: this kind of key is not supported: {error}") from None
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private_key.public_key().public_bytes(*spki) != certificate.public_key().public_bytes(*spki):
        raise ConfigError(
            f"{key_flag} {key} is not the key of {cert_flag} {cert}: give the key that the certificate was made for"
        )


def _check_dates(certificate: x509.Certificate, path: Path, flag: str, now: datetime) -> None:
    if now > certificate.not_valid_after_utc:
        raise CertificateError(
            f"{flag} {path}: the certificate expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: renew it"
        )
    if now < certificate.not_valid_before_utc:
        raise CertificateError(
            f"{flag} {path}: the certificate is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: "
            "check the clock of this machine"
        )


_FOREIGN = (
    "the server's certificate is not signed by the given CA: check the CA file (without one the system's are trusted)"
)
_OLD = "the server speaks only versions of TLS that are not safe any more: have it speak TLS 1.2 or later"
#: What OpenSSL says, and what it means to the one who runs this.
_REASONS = (
    ("certificate has expired", "the server's certificate has expired: have it renewed"),
    ("certificate is not yet valid", "the server's certificate is not valid yet: check the clocks of both machines"),
    ("certificate purpose", "the server's certificate is not one for servers: have one issued with serverAuth"),
    ("key usage", "the CA's certificate lacks what is asked for today (keyUsage): have the CA make it anew"),
    ("Missing Authority Key Identifier", "the server's certificate lacks an authority key identifier: have it renewed"),
    ("Hostname mismatch", "the server's certificate is for another host name: check the address"),
    ("IP address mismatch", "the server's certificate is for another address: use its host name"),
    ("CERTIFICATE_VERIFY_FAILED", _FOREIGN),
    ("CERTIFICATE_REQUIRED", "the server asks for a client certificate and got none"),
    ("ALERT_UNKNOWN_CA", "the server does not trust the CA of our certificate: get one it trusts"),
    ("CERTIFICATE_EXPIRED", "the server says that our certificate has expired: renew it"),
    ("CERTIFICATE_REVOKED", "the server says that our certificate was revoked: get a new one"),
    ("BAD_CERTIFICATE", "the server refuses our certificate: check that it is meant for this server"),
    ("UNSUPPORTED_PROTOCOL", _OLD),
    ("ALERT_PROTOCOL_VERSION", _OLD),
    ("HANDSHAKE_FAILURE", "the server refuses the TLS handshake: a client certificate it accepts may be missing"),
    ("WRONG_VERSION_NUMBER", "the server does not speak TLS on this port: check address and port"),
    ("RECORD_LAYER_FAILURE", "the server does not speak TLS on this port: check address and port"),
)


#: TLS was under way and the connection broke or fell silent: that says nothing about certificates.
_INTERRUPTED = (
    ssl.SSLWantReadError,
    ssl.SSLWantWriteError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ssl.SSLSyscallError,
)
#: Causes of causes that are looked at; a chain may run in a circle.
_DEEPEST = 16


def tls_reason(error: BaseException) -> str | None:
    """What a TLS failure, or an error caused by one, means; None if it is none, or a connection that broke."""
    seen: BaseException | None = error
    for _ in range(_DEEPEST):
        if isinstance(seen, ssl.SSLError) and not isinstance(seen, _INTERRUPTED):
            text = str(seen)
            return next((meaning for needle, meaning in _REASONS if needle in text), f"TLS failed: {text}")
        seen = seen and (seen.__cause__ or seen.__context__)
    text = str(error)
    return next((meaning for needle, meaning in _REASONS if needle in text), None)
