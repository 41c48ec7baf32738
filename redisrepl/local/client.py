"""Clients of a Redis server beside us: connections that pack in C, check what they read, and trust who we say.

In: a `SiteAddress`. Out: a client for one server, and its refusals as our errors. Left to others: which server
(`local.connection`, `local.sentinel`), reading replies (`wire.replies`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import hiredis
import redis.asyncio
import redis.asyncio.connection
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from redisrepl.errors import (
    CertificateError,
    ConfigError,
    KeyDeniedError,
    LimitExceededError,
    LinkLostError,
    PeerUnavailableError,
    ProtocolError,
    RedisreplError,
    RefusedError,
    denies_key,
)
from redisrepl.limits import Limits
from redisrepl.local.address import SiteAddress
from redisrepl.scripts import Scripts
from redisrepl.tls.contexts import RenewableContext, tls_reason, trust_told
from redisrepl.wire.replies import as_strings
from redisrepl.wire.replyreader import ReplyReader

__all__ = [
    "INFO",
    "LOGIN_HINT",
    "Followed",
    "PlainConnection",
    "SSLConnection",
    "SiteConnection",
    "UnixConnection",
    "ask",
    "ask_all",
    "ask_within",
    "client_of",
    "client_options",
    "history_in",
    "plain_client",
    "scripts_at",
    "translated",
]

#: What to do when a server refuses the user or password.
LOGIN_HINT = "check the password (--password-file) and the user (--user)"
_PLAIN = "it speaks without TLS on this port: write redis:// instead of rediss://, or give its TLS port"
#: How a server refuses scripts, or a command in one.
_NO_SCRIPTS = re.compile(
    "unknown command|This Redis command is not allowed|The user executing the script can't run|"
    "(?i:unknown redis command called from)"
)
#: Seconds within which a server without TLS answers a PING.
_VERDICT = 2.0
#: Bytes of one reply. A reading script stops at 8 MB, and the largest value there can be is half a gigabyte.
_LARGEST_REPLY = 1 << 30


class _Parser(redis.asyncio.connection._AsyncHiredisParser):  # type: ignore[misc, name-defined]  # noqa: SLF001
    """redis-py's own, on a reader that checks."""

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)
        self._reader = ReplyReader(
            _LARGEST_REPLY,
            protocolError=redis.exceptions.InvalidResponse,
            replyError=self.parse_error,
            notEnoughData=_NOT_ENOUGH,
        )

    async def read_response(self, disable_decoding: bool = False, push_request: bool = False) -> Any:  # noqa: ARG002
        while (reply := self.at_hand()) is _NOT_ENOUGH:
            await self.read_from_socket()
        return reply

    def at_hand(self) -> Any:
        """The next reply, if it has come already; else `_NOT_ENOUGH`."""
        if not self._connected:
            raise redis.exceptions.ConnectionError("the server has closed it")
        reply = self._reader.gets()
        first = reply[0] if isinstance(reply, list) and reply else reply
        if isinstance(first, redis.exceptions.ConnectionError):
            raise first
        return reply

    def allow(self, most: int | None) -> None:
        """So many bytes may come from here on; None: any number."""
        self._reader.left = most


_NOT_ENOUGH = object()
#: Tells the history of a server, and where its stream is.
INFO = (b"INFO", b"replication")


@dataclass(slots=True)
class Followed:
    """The server whose writes are seen.

    Another one may answer at its address, after a failover or a restart: what that holds, or is told, is not this
    one's. While nobody is followed, only the last one that was is spoken with.

    Attributes:
        number: grows each time that a server is found; connections of before are not used any more.
        history: replication id of the one that is followed, or was last; empty: there was none, or it does not tell.
        following: it is followed.
        differs: another server was met since it was found.
    """

    number: int = 0
    history: str = ""
    following: bool = False
    differs: bool = False

    def found(self, history: str) -> None:
        """A server is followed from here on."""
        self.number += 1
        self.history, self.following, self.differs = history, True, False

    def lost(self) -> None:
        """Nobody is followed."""
        self.following = self.differs = False

    def asks(self) -> bool:
        """Whether a server must tell its history before it is spoken with."""
        return bool(self.history) or (not self.following and self.number > 0)

    def admits(self, history: str) -> bool:
        """Whether a server with this history (empty: it does not tell) may be spoken with; another one is noted."""
        if not self.history:
            return self.following
        if history == self.history or (self.following and not history):
            return True
        self.differs = self.following
        return False


class SiteConnection(redis.asyncio.connection.AbstractConnection):
    """A connection that packs commands in C, which redis-py does only where it is not asynchronous.

    And that says so when the server has closed it. From Python 3.12 on, asyncio fails with an `AttributeError` then; to
    connect again in silence, as redis-py does before the first command, would lose a `WATCH`.
    """

    def __init__(self, *, followed: Followed | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._wait: float = options["socket_timeout"]
        self._limits = Limits()
        self._followed = followed or Followed()
        self._made_for = self._followed.number

    @property
    def is_current(self) -> bool:
        """Whether it is connected, and was since the server was found that is followed."""
        return self.is_connected and self._made_for == self._followed.number

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """See redis-py."""
        if self.is_connected and not self.is_current:
            await self.disconnect()
        await super().connect_check_health(check_health, retry_socket_connect)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """See redis-py; and leave a server that is not the one that is followed."""
        await super().on_connect_check_health(check_health)
        self._made_for = self._followed.number
        if not self._followed.asks():
            return
        (info,) = await self.exchange([INFO])
        if not self._followed.admits(history_in(info)):
            raise redis.exceptions.ConnectionError("another server may answer there than the one that is followed")

    def pack_command(self, *args: Any) -> list[bytes]:
        """See redis-py."""
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]  # the name may be two words: `CONFIG GET`

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """See redis-py."""
        if self._writer is not None:
            if self._writer.is_closing():
                await self.disconnect(nowait=True)
                raise redis.exceptions.ConnectionError("the server has closed it")
            if isinstance(command, list):
                self._writer.write(b"".join(command))
                if not self._writer.transport.get_write_buffer_size():
                    return  # the system took all of it: redis-py would make a task to wait for that
                command = []
        await super().send_packed_command(command, check_health)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py does; but a reply that came in one read with the last needs no time, and so no timer."""
        if isinstance(self._parser, _Parser):
            try:
                reply = self._parser.at_hand()
            except BaseException:  # as redis-py: nobody knows what comes next on it
                await self.disconnect(nowait=True)
                raise
            if reply is not _NOT_ENOUGH:
                if isinstance(reply, redis.exceptions.ResponseError):
                    raise reply
                return reply
        return await super().read_response(*args, **options)

    async def exchange(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """What the server answers to each of these, which leave together; errors are answers."""
        await self.send_packed_command([hiredis.pack_command((*argv,)) for argv in commands])  # type: ignore[arg-type]
        parser: Any = self._parser
        try:
            with self._limits.within(self._wait):
                return [await parser.read_response() for _ in commands]
        except BaseException:  # as redis-py: nobody knows what comes next on it
            await self.disconnect(nowait=True)
            raise


class PlainConnection(SiteConnection, redis.asyncio.Connection):
    """Over TCP."""


class UnixConnection(SiteConnection, redis.asyncio.UnixDomainSocketConnection):
    """Over a unix socket."""


class SSLConnection(PlainConnection):
    """Over TLS, in the context that the replication link has too.

    redis-py makes one of its own, which trusts the system's authorities beside the one that was given. And this says so
    when the server speaks without TLS: to such a one the handshake is half a line.
    """

    def __init__(self, *, context: RenewableContext, **options: Any) -> None:
        self._context = context
        super().__init__(**options)

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._context}

    async def _connect(self) -> None:
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            if await _speaks_plainly(self.host, self.port):
                raise redis.exceptions.ConnectionError(_PLAIN) from None
            raise
        if self._writer is not None:
            self._context.note_transport(self._writer.transport)


def history_in(info: object) -> str:
    """The replication id in the answer to `INFO replication`; empty if that is none."""
    _, _, rest = info.partition(b"master_replid:") if isinstance(info, bytes) else (b"", b"", b"")
    return rest.partition(b"\r\n")[0].decode("ascii", "replace")


async def _speaks_plainly(host: str, port: int) -> bool:
    """Whether a Redis without TLS listens there."""
    try:
        async with asyncio.timeout(_VERDICT):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"PING\r\n")
                return (await reader.read(1)) in {b"+", b"-"}
            finally:
                writer.transport.abort()
    except OSError:  # TimeoutError is one
        return False


def client_options(address: SiteAddress, wait: float) -> dict[str, Any]:
    """What a connection to this server is made with."""
    options: dict[str, Any] = {
        "db": address.database,
        "username": address.username,
        "password": address.password,
        "protocol": 2,
        "socket_timeout": wait,
        "socket_connect_timeout": wait,
        "retry": Retry(NoBackoff(), 0),
        "parser_class": _Parser,
    }
    if address.path is not None:
        return options | {"path": address.path}
    if address.context is not None:
        options["context"] = address.context
    return options | {"host": address.host, "port": address.port}


def client_of(connection_class: type[Any], options: Mapping[str, Any], connections: int) -> redis.asyncio.Redis:
    """A client with so many connections of a class, each made with these options."""
    pool = redis.asyncio.BlockingConnectionPool(
        max_connections=connections, timeout=None, connection_class=connection_class, **options
    )
    return redis.asyncio.Redis.from_pool(pool)


def plain_client(
    address: SiteAddress, wait: float, connections: int, followed: Followed | None = None
) -> redis.asyncio.Redis:
    """A client of this one server, which connects when first used and never sends anything twice by itself."""
    if address.path is not None:
        connection_class: type[Any] = UnixConnection
    else:
        connection_class = PlainConnection if address.context is None else SSLConnection
    return client_of(connection_class, client_options(address, wait) | {"followed": followed}, connections)


async def ask(client: redis.asyncio.Redis, *argv: bytes) -> Any:
    """Run a command; the reply as it is, which then has to go through `wire.replies`.

    Under a name that is no `str`, redis-py does nothing to it.
    """
    return await client.execute_command(*argv)  # type: ignore[no-untyped-call]


async def ask_all(client: redis.asyncio.Redis, commands: Sequence[Sequence[bytes]]) -> list[Any]:
    """Run commands in one round trip; the replies as they are, errors too."""
    pipeline = client.pipeline(transaction=False)
    for argv in commands:
        pipeline.execute_command(*argv)
    return await pipeline.execute(raise_on_error=False)


async def ask_within(client: redis.asyncio.Redis, most: int, commands: Sequence[Sequence[bytes]]) -> list[Any] | None:
    """As `ask_all`; None if the replies take more than so many bytes together: then no more than that is held."""
    pool = client.connection_pool
    connection = await pool.get_connection()  # type: ignore[no-untyped-call]
    try:
        connection._parser.allow(most)  # noqa: SLF001 - ours
        await connection.send_packed_command(connection.pack_commands(commands))
        replies: list[Any] = []
        for _ in commands:
            try:
                replies.append(await connection.read_response())
            except redis.exceptions.ResponseError as error:
                replies.append(error)
        connection._parser.allow(None)  # noqa: SLF001
    except LimitExceededError:
        await connection.disconnect(nowait=True)
        return None
    except BaseException:
        await connection.disconnect(nowait=True)  # nobody knows what comes next on it
        raise
    finally:
        await pool.release(connection)
    return replies


def scripts_at(client: redis.asyncio.Redis, address: SiteAddress) -> Scripts:
    """The scripts that one reader runs at the site; in full, since they have no way to go."""

    async def evaluate(script: bytes, words: Sequence[bytes], *, by_hash: bool) -> list[bytes]:  # noqa: ARG001
        with translated(address):
            reply = await ask(client, b"EVAL", script, b"0", *words)
        return as_strings(reply, f"a script at the site's Redis {address}")

    return Scripts(evaluate, _refuses_scripts, hashes=False)


def _refuses_scripts(error: Exception) -> bool:
    """Whether no script may run, or not with the commands in it, which tell more by themselves."""
    said = error.__cause__
    unknown = isinstance(said, redis.exceptions.ResponseError) and _NO_SCRIPTS.match(str(said)) is not None
    return unknown or isinstance(said, redis.exceptions.NoPermissionError)  # redis-py takes NOPERM off its text


class translated:  # noqa: N801 - used like a function: `with translated(address):`
    """redis-py's exceptions as ours, the cause kept.

    It sends under `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes just as it ends: a
    task would then go on for ever. So one that is being cancelled goes no further than this.

    A class, for a generator with a decorator takes three times as long, and each apply passes several.
    """

    __slots__ = ("_address",)

    def __init__(self, address: SiteAddress) -> None:
        self._address = address

    def __enter__(self) -> None:
        """Nothing has happened yet."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
        elif (ours := _ours(self._address, error)) is not None:
            raise ours from error


def _ours(address: SiteAddress, error: BaseException) -> RedisreplError | None:
    """What a failure at the site's Redis means; None: it is no failure of that."""
    match error:
        case redis.exceptions.AuthenticationError():
            return RefusedError(f"the site's Redis {address} refuses us: {str(error).rstrip('.')}: {LOGIN_HINT}")
        case redis.exceptions.NoPermissionError():
            refusal = KeyDeniedError if denies_key(str(error)) else RefusedError
            return refusal(f"the site's Redis {address} refuses us: {error}")
        case redis.exceptions.BusyLoadingError() | redis.exceptions.ReadOnlyError():
            return PeerUnavailableError(f"the site's Redis {address} is not ready: {error}")
        case redis.exceptions.ConnectionError() | redis.exceptions.TimeoutError() | OSError():
            if (trouble := tls_reason(error)) is not None:
                return CertificateError(f"the site's Redis {address}: {trust_told(trouble, address.context)}")
            return LinkLostError(
                f"the connection to the site's Redis {address} failed: {str(error) or 'no answer in time'}"
            )
        case redis.exceptions.InvalidResponse():
            return PeerUnavailableError(f"what answers at {address} is no Redis: check address and port (--raddr)")
        case ProtocolError():
            return ProtocolError(f"the site's Redis {address} sent what makes no sense: {error}")
        case redis.exceptions.ResponseError():
            return _refusal(address, str(error))
    return None


def _refusal(address: SiteAddress, error: str) -> RedisreplError:
    """What an error means that redis-py has no class for."""
    if error.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
        return RefusedError(f"the site's Redis {address} refuses us: {error}")
    if "DB index is out of range" in error:
        has = "its redis.conf says how many it has (databases, by default 16: 0 to 15)"
        return ConfigError(f"--raddr: the site's Redis {address} has no database {address.database}: {has}")
    return PeerUnavailableError(f"the site's Redis {address} answered: {error}")
