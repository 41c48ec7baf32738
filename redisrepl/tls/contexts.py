"""The one place where TLS is set up: always verified, with a client certificate where one is given.

In: paths of PEM files and the flags that named them. Out: an SSLContext, or an error that says which file is wrong and
why. Left to others: connecting, what a failure means (`tls.reasons`), and when files are read again
(`tls.certificates`).
"""

from __future__ import annotations

import asyncio
import ssl
import stat
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redisrepl.errors import CertificateError, ConfigError
from redisrepl.files import check_regular, read_file, read_secret
from redisrepl.tls.reasons import tls_reason

if TYPE_CHECKING:
    from cryptography import x509

# ruff: noqa: PLC0415 - cryptography takes 8 MB and long to load, so it is loaded only where certificates are given

__all__ = [
    "CertificateFiles",
    "RenewableContext",
    "client_context",
    "readable_by_others",
    "renew",
    "server_context",
    "tls_reason",
    "with_trust",
]


class CertificateFiles:
    """The PEM files of one TLS link, and the flags that name them.

    Args:
        ca: certificates to trust; None: those of the system.
        cert: our certificate with its chain; None: we present none.
        key: private key of `cert`.
        flags: names of these three flags, for messages.
        password: file that holds the passphrase of `key`; None: it has none.
        strict: refuse authorities that do not follow RFC 5280, as Python 3.13 does by default.
    """

    __slots__ = ("ca", "cert", "flags", "key", "password", "strict")

    def __init__(
        self,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        flags: tuple[str, str, str] = ("--ca", "--cert", "--key"),
        *,
        password: Path | None = None,
        strict: bool = False,
    ) -> None:
        self.ca = ca
        self.cert = cert
        self.key = key
        self.flags = flags
        self.password = password
        self.strict = strict

    @property
    def password_flag(self) -> str:
        """The flag that names the file with the passphrase."""
        return f"{self.flags[2]}-password-file"

    def paths(self) -> list[Path]:
        """All files of the link."""
        return [path for path, _ in self.named()]

    def named(self) -> list[tuple[Path, str]]:
        """All files of the link, each with the flag that names it."""
        files = zip((self.ca, self.cert, self.key, self.password), (*self.flags, self.password_flag), strict=True)
        return [(path, flag) for path, flag in files if path is not None]


class _NotedSSLObject(ssl.SSLObject):
    """One TLS connection; after its handshake it tells the context when the server's certificate expires."""

    def do_handshake(self) -> None:
        super().do_handshake()
        context = self.context
        if (
            not self.server_side
            and isinstance(context, RenewableContext)
            and (end := (self.getpeercert() or {}).get("notAfter"))
        ):
            context.note_peer(datetime.fromtimestamp(ssl.cert_time_to_seconds(str(end)), UTC))


class RenewableContext(ssl.SSLContext):
    """A context whose certificates can be renewed; connections made afterwards use the new ones.

    An authority cannot be removed from an `SSLContext`. So a renewal creates a new context, and this one delegates to
    it; code that holds this one need not change.

    Attributes:
        complaints: what a strict check would refuse in the authorities, as sentences.
        ends_at: when our own certificate expires; None if there is none.
        no_ca: the name of the CA flag if it was not given, so that the system's authorities are trusted; else None.
    """

    sslobject_class = _NotedSSLObject

    def __init__(self, *_: Any, **__: Any) -> None:
        self.complaints: list[str] = []
        self.ends_at: datetime | None = None
        self.no_ca: str | None = None
        self._successor: RenewableContext | None = None
        self._transports: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()
        self._peer_ends_at: datetime | None = None

    @property
    def current(self) -> RenewableContext:
        """The context that makes new connections now."""
        return self._successor or self

    @property
    def peer_ends_at(self) -> datetime | None:
        """When the certificate that the server last presented expires; None before the first handshake."""
        return self.current._peer_ends_at  # noqa: SLF001 - the same class

    def note_peer(self, end: datetime) -> None:
        """Note when a server's certificate expires."""
        self._peer_ends_at = end

    def note_transport(self, transport: asyncio.WriteTransport) -> None:
        """Note a connection that was made with this context."""
        self._transports.add(transport)

    def end_connections(self) -> None:
        """End the noted connections: we may not trust their peers any more."""
        for transport in list(self._transports):
            transport.abort()

    def hand_over(self, successor: RenewableContext) -> None:
        """Let `successor` make all further connections."""
        if successor._peer_ends_at is None:  # until its own first handshake, report the date that we know
            successor._peer_ends_at = self.peer_ends_at
        self._successor = successor

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """As in `SSLContext`; asyncio calls this for every TLS connection."""
        successor = self._successor
        return super().wrap_bio(*args, **kwargs) if successor is None else successor.wrap_bio(*args, **kwargs)


def with_trust(reason: str, context: ssl.SSLContext | None) -> str:
    """A reason of `tls_reason`; if it concerns the CA and no CA flag was given, with a note of that."""
    flag = context.current.no_ca if isinstance(context, RenewableContext) else None
    if flag is None or "given CA" not in reason:
        return reason
    return f"{reason} (no {flag} is given, so the system's authorities are trusted)"


def readable_by_others(path: Path) -> bool:
    """Whether more users of this machine than its owner and root may read a file."""
    try:
        return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IRGRP))
    except OSError:
        return False


def server_context(files: CertificateFiles) -> RenewableContext:
    """A context for incoming connections; with `ca`, it accepts only clients with a certificate of that authority.

    Raises:
        ConfigError, CertificateError: as `client_context`.
    """
    context = RenewableContext(ssl.PROTOCOL_TLS_SERVER)
    if files.ca is not None:
        pem = read_file(files.ca, files.flags[0], pipe=True)
        _certificates(pem, files.ca, files.flags[0])
        context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
        context.verify_mode = ssl.CERT_REQUIRED
    _load_pair(context, files, datetime.now(UTC))
    return context


def client_context(files: CertificateFiles, now: datetime | None = None) -> RenewableContext:
    """A context for outgoing connections; checks the files as far as possible without a peer.

    Authorities are checked as Python 3.11 does, whatever Python runs this. From 3.13 on, `create_default_context`
    refuses private authorities without keyUsage, and old installations have such authorities.

    Raises:
        ConfigError: a file is missing, unreadable, not PEM, encrypted without its passphrase, or the key is not the
            certificate's; with `strict`, an authority violates RFC 5280.
        CertificateError: our certificate has expired or is not valid yet.
    """
    ca_flag = files.flags[0]
    context = RenewableContext(ssl.PROTOCOL_TLS_CLIENT)
    if files.strict:
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    if files.ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        context.no_ca = ca_flag
    else:
        pem = read_file(files.ca, ca_flag, pipe=True)
        for authority in _certificates(pem, files.ca, ca_flag):
            context.complaints += [f"{ca_flag} {files.ca}: {fault}" for fault in _faults(authority)]
        if files.strict and context.complaints:
            raise ConfigError(f"{context.complaints[0]}, or do without --strict-certificates")
        context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    if files.cert is not None or files.key is not None:
        _load_pair(context, files, now or datetime.now(UTC))
    return context


def _load_pair(context: RenewableContext, files: CertificateFiles, now: datetime) -> None:
    """Load our certificate and key into a context."""
    _, cert_flag, key_flag = files.flags
    if files.cert is None or files.key is None:
        missing, given = (cert_flag, key_flag) if files.cert is None else (key_flag, cert_flag)
        raise ConfigError(f"{given} is given without {missing}: a certificate needs its key, and a key its certificate")
    certificate = _certificates(read_file(files.cert, cert_flag), files.cert, cert_flag)[0]
    password = _check_key(certificate, files)
    _check_dates(certificate, files.cert, cert_flag, now)
    try:
        context.load_cert_chain(files.cert, files.key, password)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{cert_flag} {files.cert} with {key_flag} {files.key}: {tls_reason(error)}") from None
    context.ends_at = certificate.not_valid_after_utc


def renew(context: RenewableContext, files: CertificateFiles) -> None:
    """Make a context use only the current content of the files, from the next connection on.

    Raises:
        ConfigError, CertificateError: as `client_context`; the context is then unchanged.
    """
    for path, flag in files.named():
        check_regular(path, flag)  # a pipe was read at the start, and to wait for another would hold all up
    serves = context.protocol is ssl.PROTOCOL_TLS_SERVER
    context.hand_over(server_context(files) if serves else client_context(files))


def _certificates(pem: bytes, path: Path, flag: str) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{flag} {path}: holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)") from None


def _check_key(certificate: x509.Certificate, files: CertificateFiles) -> bytes | None:
    """Check that the key belongs to the certificate; returns the passphrase of the key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    _, cert_flag, key_flag = files.flags
    key = files.key or Path()
    pem = read_file(key, key_flag)
    password = None
    if files.password is not None:
        password = read_secret(files.password, files.password_flag)
    try:
        private_key = load_pem_private_key(pem, password=password)
    except TypeError:
        if password is None:
            raise ConfigError(
                f"{key_flag} {key}: the key is encrypted: give its passphrase with {files.password_flag}"
            ) from None
        private_key = _plain_key(pem, key, key_flag)  # an unneeded passphrase does no harm
        password = None
    except ValueError:
        if password is not None and b"ENCRYPTED" in pem:
            raise ConfigError(
                f"{files.password_flag} {files.password}: is not the passphrase of {key_flag} {key}: put it on the"
                " first line"
            ) from None
        raise ConfigError(f"{key_flag} {key}: holds no private key in PEM form") from None
    except UnsupportedAlgorithm as error:
        raise ConfigError(f"{key_flag} {key}: this kind of key is not supported: {error}") from None
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if private_key.public_key().public_bytes(*spki) != certificate.public_key().public_bytes(*spki):
        raise ConfigError(
            f"{key_flag} {key} is not the key of {cert_flag} {files.cert}: give the key that the certificate was made"
            " for"
        )
    return password


def _plain_key(pem: bytes, key: Path, flag: str) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(pem, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{flag} {key}: holds no private key in PEM form") from None


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


def _faults(authority: x509.Certificate) -> list[str]:
    """What OpenSSL's X509_V_FLAG_X509_STRICT would refuse in this authority."""
    from cryptography import x509

    try:
        extensions = authority.extensions
    except ValueError:  # for example a duplicate extension, which OpenSSL refuses by itself
        return []
    name = authority.subject.rfc4514_string()
    what = f"the authority {name}" if name else "the authority"

    def find(kind: type[x509.ExtensionType]) -> x509.Extension[Any] | None:
        try:
            return extensions.get_extension_for_class(kind)
        except x509.ExtensionNotFound:
            return None

    def fault(said: str) -> str:
        return f"{what} {said}, which Python 3.13 and OpenSSL's strict check refuse: make it anew"

    constraints = find(x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        return []  # no authority: a server's own certificate, trusted directly
    faults = []
    if not constraints.critical:
        faults.append(fault("has the extension basicConstraints without marking it critical"))
    if find(x509.KeyUsage) is None:
        faults.append(fault("lacks the extension keyUsage (critical, keyCertSign, cRLSign)"))
    if find(x509.SubjectKeyIdentifier) is None:
        faults.append(fault("lacks the extension subjectKeyIdentifier"))
    if authority.issuer != authority.subject and find(x509.AuthorityKeyIdentifier) is None:
        faults.append(fault("lacks the extension authorityKeyIdentifier"))
    return faults
