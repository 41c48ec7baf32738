"""Clients of the site's Redis: redis-py with connections that encode in C, check replies, and use our own TLS context.

In: a `SiteAddress`. Out: a client for one server, and its refusals as our errors. Left to others: which server
(`local.connection`, `local.sentinel`), interpreting replies (`wire.replies`).
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
from redis.credentials import CredentialProvider

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
from redisrepl.local.parser import NOT_ENOUGH, ReplyParser
from redisrepl.scripts import Scripts
from redisrepl.tls.contexts import RenewableContext, tls_reason, with_trust
from redisrepl.tls.verdict import SPEAKS_PLAINLY, UNSAID, certificate_refusal, speaks_plainly
from redisrepl.wire.replies import as_strings, number

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
    "is_refused",
    "plain_client",
    "refuses_script",
    "scripts_at",
    "stream_offset",
    "translated",
]

#: What to do when a server refuses the user or password.
LOGIN_HINT = "check the password (--password-file) and the user (--user)"
#: Errors with which a server refuses scripts, or a command in one.
_NO_SCRIPTS = re.compile(
    "unknown command|This Redis command is not allowed|The user executing the script can't run|"
    "(?i:unknown redis command called from)"
)


#: Asks for a server's replication id and the offset of its stream.
INFO = (b"INFO", b"replication")


@dataclass(slots=True)
class Followed:
    """The server that is followed: the one whose stream or events we read.

    After a failover or a restart, another server may answer at the same address. We must not read it or write to it as
    if it were the followed one. While none is followed, clients talk only to the last one that was.

    Attributes:
        number: grows each time that a server is found; connections made before that are not used any more.
        history: replication id of the server that is followed, or was last; empty: none was, or it does not tell.
        following: whether it is followed now.
        differs: whether a client has met another server since.
    """

    number: int = 0
    history: str = ""
    following: bool = False
    differs: bool = False

    def found(self, history: str) -> None:
        """A server is followed from now on."""
        self.number += 1
        self.history, self.following, self.differs = history, True, False

    def lost(self) -> None:
        """No server is followed any more."""
        self.following = self.differs = False

    def asks(self) -> bool:
        """Whether a new connection must ask for the server's history before it is used."""
        return bool(self.history) or (not self.following and self.number > 0)

    def admits(self, history: str) -> bool:
        """Whether a connection to a server with this history (empty: it does not tell) may be used.

        Sets `differs` if it is another server than the followed one.
        """
        if not self.history:
            return self.following
        if history == self.history or (self.following and not history):
            return True
        self.differs = self.following
        return False


class SiteConnection(redis.asyncio.connection.AbstractConnection):
    """A connection that encodes commands in C, which redis-py does only in its synchronous client.

    It also raises an error when the server has closed it. Otherwise, from Python 3.12 on, asyncio fails with an
    `AttributeError`; and to reconnect silently, as redis-py does before a first command, would lose a `WATCH`.
    """

    def __init__(self, *, followed: Followed | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._wait: float = options["socket_timeout"]
        self._limits = Limits()
        self._followed = followed or Followed()
        self._made_for = self._followed.number

    @property
    def is_current(self) -> bool:
        """Whether it is connected, and was made since the followed server was found."""
        return self.is_connected and self._made_for == self._followed.number

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """See redis-py."""
        if self.is_connected and not self.is_current:
            await self.disconnect()
        await super().connect_check_health(check_health, retry_socket_connect)

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """See redis-py; also refuse a server that is not the followed one."""
        await super().on_connect_check_health(check_health)
        self._made_for = self._followed.number
        if not self._followed.asks():
            return
        (info,) = await self.exchange([INFO])
        if not self._followed.admits(history_in(info)):
            raise redis.exceptions.ConnectionError("another server may answer there than the one that is followed")

    def pack_command(self, *args: Any) -> list[bytes]:
        """See redis-py."""
        argv = (*args[0].split(), *args[1:])  # redis-py passes two words as one: `CONFIG GET`
        self._expect([argv])
        return [hiredis.pack_command(argv)]

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """See redis-py."""
        argvs = [[*argv] for argv in commands]
        packed: list[bytes] = super().pack_commands(argvs)
        self._expect(argvs)
        return packed

    def _expect(self, commands: Iterable[Sequence[Any]]) -> None:
        """What is packed is sent next, and nothing before it waits for a reply."""
        if isinstance(self._parser, ReplyParser):
            self._parser.expect(commands)

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """See redis-py."""
        if self._writer is not None:
            if self._writer.is_closing():
                await self.disconnect(nowait=True)
                raise redis.exceptions.ConnectionError("the server has closed it")
            if isinstance(command, list):
                self._writer.write(b"".join(command))
                if not self._writer.transport.get_write_buffer_size():
                    return  # the system has accepted all of it; redis-py would create a task to wait for that
                command = []
        await super().send_packed_command(command, check_health)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py does; but without a timer for a reply that has arrived already."""
        if isinstance(self._parser, ReplyParser):
            try:
                reply = self._parser.at_hand()
            except BaseException:  # as redis-py does: it is unknown which reply would come next
                await self.disconnect(nowait=True)
                raise
            if reply is not NOT_ENOUGH:
                if isinstance(reply, redis.exceptions.ResponseError):
                    try:
                        raise reply
                    finally:
                        del reply  # or this call and the error would hold each other
                return reply
        return await super().read_response(*args, **options)

    async def exchange(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """Send commands together, and return the reply to each; errors are replies."""
        await self.send_packed_command([hiredis.pack_command((*argv,)) for argv in commands])  # type: ignore[arg-type]
        self._expect(commands)
        parser: Any = self._parser
        try:
            with self._limits.within(self._wait):
                return [await parser.read_response() for _ in commands]
        except BaseException:  # as redis-py does: it is unknown which reply would come next
            await self.disconnect(nowait=True)
            raise


class PlainConnection(SiteConnection, redis.asyncio.Connection):
    """Over TCP."""


class UnixConnection(SiteConnection, redis.asyncio.UnixDomainSocketConnection):
    """Over a unix socket."""


class SSLConnection(PlainConnection):
    """Over TLS, with the context that the replication link uses too.

    redis-py would make its own context, which trusts the system's authorities beside the given one. This class also
    detects a server without TLS, which never answers a handshake: to Redis it is an incomplete line. And it finds out
    whether a server that ends the connection before its first reply refuses our certificate.
    """

    def __init__(self, *, context: RenewableContext, **options: Any) -> None:
        self._context = context
        self._asks_why = False
        super().__init__(**options)

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._context}

    async def _connect(self) -> None:
        self._asks_why = False
        try:
            await super()._connect()  # type: ignore[no-untyped-call]
        except TimeoutError:
            if await speaks_plainly(self.host, self.port):
                raise redis.exceptions.ConnectionError(SPEAKS_PLAINLY) from None
            raise
        if self._writer is not None:
            self._context.note_transport(self._writer.transport)
        self._asks_why = True

    async def send_packed_command(self, command: bytes | str | Iterable[bytes], check_health: bool = True) -> None:
        """See redis-py."""
        try:
            await super().send_packed_command(command, check_health)
        except (redis.exceptions.ConnectionError, OSError) as error:
            await self._raise_why(error)
            raise

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        try:
            return await super().read_response(*args, **options)
        except (redis.exceptions.ConnectionError, OSError) as error:
            await self._raise_why(error)
            raise

    async def exchange(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """As for any connection."""
        try:
            return await super().exchange(commands)
        except (redis.exceptions.ConnectionError, OSError) as error:
            await self._raise_why(error)
            raise

    async def _raise_why(self, error: Exception) -> None:
        """Raise why the server ended the connection, if it has said nothing before."""
        if not self._asks_why or getattr(self._parser, "heard", True) or isinstance(error, TimeoutError):
            return
        self._asks_why = False
        refusal = await certificate_refusal(self.host, self.port, self._context, self._wait)
        said = UNSAID if refusal is None else tls_reason(refusal)
        raise redis.exceptions.ConnectionError(f"{error}: {said}") from refusal


def history_in(info: object) -> str:
    """The replication id in the reply to `INFO replication`; empty if there is none."""
    _, _, rest = info.partition(b"master_replid:") if isinstance(info, bytes) else (b"", b"", b"")
    return rest.partition(b"\r\n")[0].decode("ascii", "replace")


def stream_offset(info: object) -> int:
    """The replication offset in the reply to `INFO replication`.

    Raises:
        PeerUnavailableError: there is none.
    """
    if isinstance(info, bytes):
        _, found, rest = info.partition(b"master_repl_offset:")
        if found and (offset := number(rest.split(b"\r\n", 1)[0])) is not None:
            return offset
    said = str(info) if isinstance(info, Exception) else f"{info!r:.80}"
    raise PeerUnavailableError(f"the site's Redis does not report its replication offset: {said}")


class _Login(CredentialProvider):
    """How redis-py logs in; it asks at each connection, so that a new password is used at once."""

    def __init__(self, address: SiteAddress) -> None:
        self._address = address

    def get_credentials(self) -> tuple[Any, ...]:
        """See redis-py, which takes bytes too."""
        password = self._address.password_bytes or b""
        return (self._address.username, password) if self._address.username else (password,)

    async def get_credentials_async(self) -> tuple[Any, ...]:
        """See redis-py."""
        return self.get_credentials()


def client_options(address: SiteAddress, wait: float, connect_wait: float | None = None) -> dict[str, Any]:
    """The options of a redis-py connection to this server."""
    options: dict[str, Any] = {
        "db": address.database,
        "credential_provider": _Login(address) if address.username or address.secret else None,
        "protocol": 2,
        "socket_timeout": wait,
        "socket_connect_timeout": wait if connect_wait is None else connect_wait,
        "retry": Retry(NoBackoff(), 0),
        "parser_class": ReplyParser,
    }
    if address.path is not None:
        return options | {"path": address.path}
    if address.context is not None:
        options["context"] = address.context
    return options | {"host": address.host, "port": address.port}


def client_of(connection_class: type[Any], options: Mapping[str, Any], connections: int) -> redis.asyncio.Redis:
    """A client with at most this many connections of a class, each made with these options."""
    pool = redis.asyncio.BlockingConnectionPool(
        max_connections=connections, timeout=None, connection_class=connection_class, **options
    )
    return redis.asyncio.Redis.from_pool(pool)


def plain_client(
    address: SiteAddress,
    wait: float,
    connections: int,
    followed: Followed | None = None,
    *,
    connect_wait: float | None = None,
) -> redis.asyncio.Redis:
    """A client of this one server, which connects when first used and never repeats a command by itself."""
    if address.path is not None:
        connection_class: type[Any] = UnixConnection
    else:
        connection_class = PlainConnection if address.context is None else SSLConnection
    return client_of(
        connection_class, client_options(address, wait, connect_wait) | {"followed": followed}, connections
    )


async def ask(client: redis.asyncio.Redis, *argv: bytes) -> Any:
    """Run a command and return the raw reply, for `wire.replies` to check.

    redis-py converts replies by the name of the command, but only if that is a `str`.
    """
    return await client.execute_command(*argv)  # type: ignore[no-untyped-call]


async def ask_all(client: redis.asyncio.Redis, commands: Sequence[Sequence[bytes]]) -> list[Any]:
    """Run commands in one round trip and return the raw replies, errors too."""
    pipeline = client.pipeline(transaction=False)
    for argv in commands:
        pipeline.execute_command(*argv)
    return await pipeline.execute(raise_on_error=False)


async def ask_within(client: redis.asyncio.Redis, most: int, commands: Sequence[Sequence[bytes]]) -> list[Any] | None:
    """As `ask_all`; None if the replies together take more than `most` bytes, which are then not read to the end."""
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
        await connection.disconnect(nowait=True)  # it is unknown which reply would come next
        raise
    finally:
        await pool.release(connection)
    return replies


def scripts_at(client: redis.asyncio.Redis, address: SiteAddress) -> Scripts:
    """Runs scripts for one reader at the site; always in full, since the site is near."""

    async def evaluate(script: bytes, words: Sequence[bytes], *, by_hash: bool) -> list[bytes]:  # noqa: ARG001
        with translated(address):
            reply = await ask(client, b"EVAL", script, b"0", *words)
        return as_strings(reply, f"a script at the site's Redis {address}")

    # The single commands then show what is refused.
    return Scripts(evaluate, lambda error: refuses_script(error.__cause__), hashes=False)


def is_refused(reply: object) -> bool:
    """Whether the server denies us this command, or does not have it."""
    unknown = isinstance(reply, redis.exceptions.ResponseError) and str(reply).startswith("unknown command")
    return unknown or isinstance(reply, redis.exceptions.NoPermissionError)


def refuses_script(said: object) -> bool:
    """Whether what redis-py raised means that the server refuses scripts, or a command or key in this one."""
    unknown = isinstance(said, redis.exceptions.ResponseError) and _NO_SCRIPTS.match(str(said)) is not None
    return unknown or isinstance(said, redis.exceptions.NoPermissionError)  # redis-py removes NOPERM from its text


class translated:  # noqa: N801 - used like a function: `with translated(address):`
    """Translates redis-py's exceptions into ours, with the original as the cause.

    redis-py sends under `asyncio.wait_for`, which before Python 3.12 swallows a cancellation that arrives just as it
    ends: the task would then go on for ever. So this raises the cancellation again.

    A class rather than a decorated generator, which takes three times as long, and each apply enters several.
    """

    __slots__ = ("_address",)

    def __init__(self, address: SiteAddress) -> None:
        self._address = address

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
        elif (ours := _ours(self._address, error)) is not None:
            try:
                raise ours from error
            finally:
                del error, ours  # or this call and the errors would hold each other, and what was sent or read


def _ours(address: SiteAddress, error: BaseException) -> RedisreplError | None:
    """A failure at the site's Redis as one of our errors; None if it is not such a failure."""
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
                return CertificateError(f"the site's Redis {address}: {with_trust(trouble, address.context)}")
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
    """An error reply that redis-py has no class for, as one of our errors."""
    if error.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
        hint = "" if error.startswith("NOPERM") else f": {LOGIN_HINT}"
        return RefusedError(f"the site's Redis {address} refuses us: {error}{hint}")
    if "DB index is out of range" in error:
        has = "its redis.conf says how many it has (databases, by default 16: 0 to 15)"
        return ConfigError(f"--raddr: the site's Redis {address} has no database {address.database}: {has}")
    return PeerUnavailableError(f"the site's Redis {address} answered: {error}")
