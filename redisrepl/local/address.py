"""Where the site's Redis is, and who we are there.

In: `--raddr` in any of its forms, and the flags that go with it. Out: a `SiteAddress`.
Left to others: connecting (`local.connection`).
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from redisrepl.errors import ConfigError
from redisrepl.tls import CertificateFiles, client_context

__all__ = ["SiteAddress", "parse_address"]

_PORT = 6379


@dataclass(frozen=True, slots=True)
class SiteAddress:
    """A Redis server and the way to log in; its text never holds the password.

    Attributes:
        path: of a unix socket; if set, `host` and `port` mean nothing.
        files, context: TLS, None for plain TCP.
    """

    host: str = "127.0.0.1"
    port: int = _PORT
    path: str | None = None
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    files: CertificateFiles | None = field(default=None, repr=False)
    context: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.context else 'redis'}://{host}:{self.port}"


def parse_address(
    address: str,
    *,
    flag: str = "--raddr",
    username: str | None = None,
    password: str | None = None,
    files: CertificateFiles | None = None,
) -> SiteAddress:
    """`host:port`, `:port`, `redis://`, `rediss://` or `unix://` to an address.

    Args:
        address: as given. Credentials in a URL give way to the other arguments.
        flag: how it was given, for messages.
        username: from a flag.
        password: from a file or prompt.
        files: for TLS; they turn it on only together with `rediss://`.

    Raises:
        ConfigError: the address cannot be understood.
    """
    hint = f"give {flag} as host:port, redis://, rediss:// or unix:///path"
    if "://" not in address:
        address = f"redis://{address}"
    try:
        url = urlsplit(address)
        port = url.port or _PORT
    except ValueError:
        raise ConfigError(f"{flag} {_masked(address)}: not an address: {hint}") from None
    if url.scheme not in {"redis", "rediss", "unix"}:
        raise ConfigError(f"{flag} {_masked(address)}: {url.scheme}:// is not known: {hint}")
    query = dict(pair.partition("=")[::2] for pair in url.query.split("&") if pair)
    database = query.get("db", "0") if url.scheme == "unix" else url.path.strip("/") or query.get("db", "0")
    if not database.isdigit():
        raise ConfigError(f"{flag} {_masked(address)}: the database {database!r} is not a number")
    if url.scheme == "unix" and not url.path:
        raise ConfigError(f"{flag} {_masked(address)}: names no socket: give unix:///path/to/redis.sock")
    tls = (files or CertificateFiles(None, None, None)) if url.scheme == "rediss" else None
    return SiteAddress(
        host=url.hostname or "127.0.0.1",
        port=port,
        path=url.path if url.scheme == "unix" else None,
        database=int(database),
        username=username or (unquote(url.username) if url.username else None),
        password=password if password is not None else (unquote(url.password) if url.password else None),
        files=tls,
        context=client_context(tls) if tls is not None else None,
    )


def _masked(address: str) -> str:
    """The address without what stands before its @."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://…@{rest.rpartition('@')[2]}" if "@" in rest else address
