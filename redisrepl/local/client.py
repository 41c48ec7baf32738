"""Clients of a Redis server beside us: connections that pack in C, check what they read, and trust who we say.

In: a `SiteAddress`. Out: a client for one server, and its refusals as our errors. Left to others: which server
(`local.connection`, `local.sentinel`), reading replies (`wire.replies`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    LinkLostError,
    PeerUnavailableError,
    ProtocolError,
    RefusedError,
    denies_key,
)
from redisrepl.local.address import SiteAddress
from redisrepl.scripts import Scripts
from redisrepl.tls.contexts import RenewableContext, tls_reason, trust_told
from redisrepl.wire.replies import as_strings
from redisrepl.wire.replyreader import ReplyReader

__all__ = [
    "LOGIN_HINT",
    "PlainConnection",
    "SSLConnection",
    "UnixConnection",
    "ask",
    "ask_all",
    "client_of",
    "client_options",
    "plain_client",
    "scripts_at",
    "translated",
]

#: What to do when a server refuses the user or password.
LOGIN_HINT = "check the password (--password-file) and the user (--user)"
_PLAIN = "it speaks without TLS on this port: write redis:// instead of rediss://, or give its TLS port"
#: How a server that knows no scripts refuses one.
_UNKNOWN = ("unknown command", "This Redis command is not allowed")
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


_NOT_ENOUGH = object()


class _SiteConnection(redis.asyncio.connection.AbstractConnection):
    """A connection that packs commands in C, which redis-py does only where it is not asynchronous.

    And that says so when the server has closed it. From Python 3.12 on, asyncio fails with an `AttributeError` then; to
    connect again in silence, as redis-py does before the first command, would lose a `WATCH`.
    """

    def pack_command(self, *args: Any) -> list[bytes]:
        return [hiredis.pack_command((*args[0].split(), *args[1:]))]  # the name may be two words: `CONFIG GET`

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
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


class PlainConnection(_SiteConnection, redis.asyncio.Connection):
    """Over TCP."""


class UnixConnection(_SiteConnection, redis.asyncio.UnixDomainSocketConnection):
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


def plain_client(address: SiteAddress, wait: float, connections: int) -> redis.asyncio.Redis:
    """A client of this one server, which connects when first used and never sends anything twice by itself."""
    if address.path is not None:
        connection_class: type[Any] = UnixConnection
    else:
        connection_class = PlainConnection if address.context is None else SSLConnection
    return client_of(connection_class, client_options(address, wait), connections)


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


def scripts_at(client: redis.asyncio.Redis, address: SiteAddress) -> Scripts:
    """The scripts that one reader runs at the site; in full, since they have no way to go."""

    async def evaluate(script: bytes, words: Sequence[bytes], *, by_hash: bool) -> list[bytes]:  # noqa: ARG001
        with translated(address):
            reply = await ask(client, b"EVAL", script, b"0", *words)
        return as_strings(reply, f"a script at the site's Redis {address}")

    return Scripts(evaluate, _refuses_scripts, hashes=False)


def _refuses_scripts(error: Exception) -> bool:
    """Whether it says that no script may run; redis-py takes NOPERM off the text."""
    said = error.__cause__
    unknown = isinstance(said, redis.exceptions.ResponseError) and str(said).startswith(_UNKNOWN)
    return unknown or isinstance(said, redis.exceptions.NoPermissionError)


@contextmanager
def translated(address: SiteAddress) -> Iterator[None]:
    """redis-py's exceptions as ours, the cause kept.

    It sends under `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that comes just as it ends: a
    task would then go on for ever. So one that is being cancelled goes no further than this.
    """
    try:
        yield
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
    except redis.exceptions.AuthenticationError as error:
        raise RefusedError(f"the site's Redis {address} refuses us: {str(error).rstrip('.')}: {LOGIN_HINT}") from error
    except redis.exceptions.NoPermissionError as error:
        refusal = KeyDeniedError if denies_key(str(error)) else RefusedError
        raise refusal(f"the site's Redis {address} refuses us: {error}") from error
    except (redis.exceptions.BusyLoadingError, redis.exceptions.ReadOnlyError) as error:
        raise PeerUnavailableError(f"the site's Redis {address} is not ready: {error}") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
        if (trouble := tls_reason(error)) is not None:
            raise CertificateError(f"the site's Redis {address}: {trust_told(trouble, address.context)}") from error
        reason = str(error) or "no answer in time"
        raise LinkLostError(f"the connection to the site's Redis {address} failed: {reason}") from error
    except redis.exceptions.InvalidResponse as error:
        raise PeerUnavailableError(
            f"what answers at {address} is no Redis: check address and port (--raddr)"
        ) from error
    except ProtocolError as error:
        raise ProtocolError(f"the site's Redis {address} sent what makes no sense: {error}") from error
    except redis.exceptions.ResponseError as error:
        if str(error).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            raise RefusedError(f"the site's Redis {address} refuses us: {error}") from error
        if "DB index is out of range" in str(error):
            has = "its redis.conf says how many it has (databases, by default 16: 0 to 15)"
            raise ConfigError(
                f"--raddr: the site's Redis {address} has no database {address.database}: {has}"
            ) from error
        raise PeerUnavailableError(f"the site's Redis {address} answered: {error}") from error
