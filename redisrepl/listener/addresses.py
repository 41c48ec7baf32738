"""Where `--listen` listens and who may ask: addresses, host names, token, TLS.

In: settings. Out: checked addresses; whether to serve a request. Left to others: sockets (`listener.server`).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

from redisrepl.errors import ConfigError
from redisrepl.files import read_secret
from redisrepl.settings.settings import Settings
from redisrepl.tls.contexts import CertificateFiles, RenewableContext, server_context

__all__ = ["Access", "ListenAddress", "Listening", "access_of", "parse_listen_address"]

_HIGHEST_PORT = 65535
_HINT = "give host:port, as in 127.0.0.1:9646, or unix:///path/to/a.sock"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """One address to listen at.

    Attributes:
        host, port: for TCP; port 0 means any free one.
        path: of a unix socket, instead of host and port.
    """

    host: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse_listen_address(text: str) -> ListenAddress:
    """An address of `--listen`.

    Raises:
        ConfigError: it cannot be understood.
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise ConfigError(f"--listen {text}: names no socket: {_HINT}")
        return ListenAddress(path=Path(path))
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if (
        not colon
        or not port.isascii()
        or not port.isdecimal()
        or int(port) > _HIGHEST_PORT
        or (":" in host) != (host != bare)
    ):
        raise ConfigError(f"--listen {text}: not an address: {_HINT}")
    if not bare or bare == "*":
        raise ConfigError(f"--listen {text}: names no host: give 127.0.0.1:{port}, or 0.0.0.0:{port} for all addresses")
    return ListenAddress(bare, int(port))


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    Attributes:
        token: the token that a request must carry; empty if none is needed.
        names: host names that a request may use, in lower case.
        context: for TLS; None for plain HTTP.
        files: from which `context` was made.
    """

    token: bytes
    names: frozenset[str]
    context: RenewableContext | None
    files: CertificateFiles | None

    def knows_host(self, host: str) -> bool:
        """Whether a `Host` header names us.

        Guards against DNS rebinding: a foreign web page, open in a browser on this machine, may let its name resolve to
        127.0.0.1 and then read what we serve there. But the browser sends the page's own name as `Host`, never an IP
        address or one of our names.
        """
        name = host.lower()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") <= 1:
            name = name.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.removesuffix(".") in self.names
        return True

    def shows_token(self, headers: Mapping[str, str]) -> bool:
        """Whether a request carries the token, as a bearer token or as the password of basic authentication."""
        if not self.token:
            return True
        scheme, _, value = headers.get("authorization", "").partition(" ")
        shown = value.strip().encode("latin-1", "replace")
        if scheme.lower() == "basic":
            try:
                shown = base64.b64decode(shown, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(shown, self.token)


def access_of(settings: Settings, places: list[ListenAddress]) -> Access:
    """Who may ask at these places.

    Raises:
        ConfigError, CertificateError: a file cannot be used, or other machines could ask without authentication.
    """
    token, files, context = b"", None, None
    if settings.listen_token_file is not None:
        token = read_secret(settings.listen_token_file, "--listen-token-file").strip()
        if not token:
            raise ConfigError(
                f"--listen-token-file {settings.listen_token_file}: is empty: put a token on its first line"
            )
    if settings.listen_cert is not None or settings.listen_key is not None or settings.listen_ca is not None:
        files = CertificateFiles(
            settings.listen_ca,
            settings.listen_cert,
            settings.listen_key,
            ("--listen-ca", "--listen-cert", "--listen-key"),
        )
        if settings.listen_cert is None and settings.listen_key is None:
            raise ConfigError("--listen-ca is given without --listen-cert and --listen-key: TLS needs all three")
        context = server_context(files)
    for place in places:
        if not place.is_local and not token and context is None:
            raise ConfigError(
                f"--listen {place}: others than this machine could read it: give --listen-token-file, or --listen-cert"
                " and --listen-key, or listen at 127.0.0.1"
            )
    ours = {"localhost", socket.gethostname(), *settings.listen_host, *(place.host for place in places)}
    return Access(token, frozenset(name.lower().removesuffix(".") for name in ours if name), context, files)


class Listening(NamedTuple):
    """Where it listens, and who may ask."""

    places: Sequence[ListenAddress]
    access: Access

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """By the settings.

        Raises:
            ConfigError, CertificateError: they cannot be used.
        """
        places = [parse_listen_address(text) for text in settings.listen]
        return cls(places, access_of(settings, places))
