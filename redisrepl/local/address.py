"""The address of the site's Redis, and the login there.

In: `--raddr` in any of its forms, and the flags that go with it. Out: a `SiteAddress`. Left to others: connecting
(`local.connection`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, unquote, urlsplit

from redisrepl.errors import ConfigError
from redisrepl.escaping import refuse_unescaped
from redisrepl.passwords import Password, text_of
from redisrepl.showing import masked, plain, split_scheme
from redisrepl.tls.contexts import CertificateFiles, RenewableContext, client_context

__all__ = ["SiteAddress", "parse_address"]

_PORT = 6379
_SENTINEL_PORT = 26379
_SCHEMES = frozenset({"redis", "rediss", "unix", "redis-sentinel", "rediss-sentinel"})
#: What may be in the query, once each.
_NAMES = ("db",)
_SENTINEL_NAMES = ("db", "sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class SiteAddress:
    """A Redis server and how to log in; its text never holds the password.

    Attributes:
        path: of a unix socket; if set, `host` and `port` are not used.
        service: the name by which Sentinels know the master; if set, each new connection asks them for host and port
            (`local.sentinel`).
        sentinels: host and port of each.
        silent: those of them that gave no answer when they were asked last; one set for all who ask by this address.
        secret: the password, or the file that holds it.
        sentinel_username, sentinel_secret: for the Sentinels; `username` and `secret` are for the master.
        files, context: TLS, None for plain TCP.
    """

    host: str = "127.0.0.1"
    port: int = _PORT
    path: str | None = None
    database: int = 0
    username: str | None = field(default=None, repr=False)  # a password without a colon before it is taken for one
    secret: Password = field(default=None, repr=False)
    files: CertificateFiles | None = field(default=None, repr=False)
    context: RenewableContext | None = field(default=None, repr=False)
    service: str | None = None
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_username: str | None = field(default=None, repr=False)
    sentinel_secret: Password = field(default=None, repr=False)
    silent: set[tuple[str, int]] = field(default_factory=set, repr=False, compare=False)

    @property
    def password(self) -> str | None:
        """The password, as it is now: to be asked for at each login."""
        return text_of(self.secret)

    @property
    def password_bytes(self) -> bytes | None:
        """Likewise, as it is in its file, which need not be UTF-8."""
        password = self.password
        return None if password is None else password.encode("utf-8", "surrogateescape")

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        scheme = "rediss" if self.context else "redis"
        if self.service is not None:
            places = ",".join(_place(host, port) for host, port in self.sentinels)
            return f"{scheme}-sentinel://{places}/{self.service}"
        return f"{scheme}://{_place(self.host, self.port)}"

    def at(self, host: str, port: int) -> SiteAddress:
        """The same login at the server that the Sentinels named."""
        return replace(self, host=host, port=port, service=None, sentinels=())


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(
    address: str,
    *,
    flag: str = "--raddr",
    username: str | None = None,
    password: Password = None,
    files: CertificateFiles | None = None,
    sentinel_username: str | None = None,
    sentinel_password: Password = None,
) -> SiteAddress:
    """Parse `host:port`, `:port` or a URL.

    The URLs: `redis://`, `rediss://`, `unix://` and `redis-sentinel://host:port,host:port/service`, each with
    `user:password@` and `?db=number` where wanted; `rediss-sentinel://` means TLS to the Sentinels and the master. In
    a password, and in the path of a socket, `@ / ? # %` are percent-encoded, but for the slashes of a path.

    Args:
        address: as given. The other arguments override credentials in a URL.
        flag: the flag that gave it, for messages.
        username: from a flag.
        password: from a file or prompt.
        files: for TLS; they turn it on only together with `rediss://` or `rediss-sentinel://`.
        sentinel_username: for the Sentinels; in the URL `?sentinel_username=`.
        sentinel_password: likewise.

    Raises:
        ConfigError: the address cannot be understood.
    """
    hint = (
        "give --sentinel as host:port,host:port/service"
        if flag == "--sentinel"
        else f"give {flag} as host:port, redis://, rediss://, unix:///path or redis-sentinel://host:port,host:port/service"
    )
    head, _ = split_scheme(address)
    names = _SENTINEL_NAMES if head.endswith("-sentinel://") else _NAMES
    refuse_unescaped(address, flag, by="--password-file" if flag.startswith("--") else None, names=names)
    if address.startswith(("/", "unix:/")) and not address.startswith("unix://"):
        path = address.removeprefix("unix:")
        raise ConfigError(f"{flag} {plain(address)}: a unix socket is given as unix://{plain(path)}")
    if any(letter.isspace() for letter in address.rpartition("@")[2]):
        raise ConfigError(f"{flag}: has a space in it: {hint}")
    if not head:
        address = f"redis://{address}"
    try:
        url = urlsplit(address)
        if url.scheme not in _SCHEMES:
            raise ConfigError(f"{flag} {masked(address)}: {head} is not known: {hint}")
        by_sentinel = url.scheme.endswith("-sentinel")
        sentinels = _sentinels(url) if by_sentinel else ()
        host, port = (None, None) if by_sentinel else (url.hostname, url.port)
    except ValueError:
        raise ConfigError(f"{flag} {masked(address)}: not an address: {hint}") from None
    if port == 0:  # urlsplit accepts it
        raise ConfigError(f"{flag} {masked(address)}: there is no port 0: {hint}")
    query = {name: unquote(value) for name, _, value in (pair.partition("=") for pair in url.query.split("&"))}
    service, _, in_path = url.path.strip("/").partition("/") if by_sentinel else (None, "", url.path.strip("/"))
    in_path = "" if url.scheme == "unix" else in_path
    database = in_path or query.get("db", "0")
    if not database.isdecimal():
        shown = f" {plain(in_path)!r}" if in_path and "@" not in address else ""  # else it may be a part of a password
        said = f"the database{shown} is not a number, as in redis://host:6379/2"
        raise ConfigError(f"{flag} {masked(address)}: {said}")
    if url.scheme == "unix" and not url.path:
        raise ConfigError(f"{flag} {masked(address)}: names no socket: give unix:///path/to/redis.sock")
    if by_sentinel and not (service and all(name for name, _ in sentinels)):
        raise ConfigError(f"{flag} {masked(address)}: names no Sentinel or no service: {hint}")
    tls = (files or CertificateFiles(None, None, None)) if url.scheme.startswith("rediss") else None
    return SiteAddress(
        host=host or "127.0.0.1",
        port=port or _PORT,
        path=unquote(url.path) if url.scheme == "unix" else None,
        database=int(database),
        username=username or (unquote(url.username) if url.username else None),
        secret=password if password is not None else (unquote(url.password) if url.password else None),
        files=tls,
        context=client_context(tls) if tls is not None else None,
        service=unquote(service) if service else None,
        sentinels=sentinels,
        sentinel_username=sentinel_username or query.get("sentinel_username"),
        sentinel_secret=sentinel_password if sentinel_password is not None else query.get("sentinel_password"),
    )


def _sentinels(url: SplitResult) -> tuple[tuple[str, int], ...]:
    """Host and port of each Sentinel; raises ValueError if one is invalid."""
    places = [urlsplit(f"//{place}") for place in url.netloc.rpartition("@")[2].split(",")]
    return tuple((place.hostname or "", place.port or _SENTINEL_PORT) for place in places)
