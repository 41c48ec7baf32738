"""Connections to the site's Redis, and its refusals as our errors.

In: a `SiteAddress`. Out: a raw connection for the replication stream, a client for reads and writes; behind Sentinels
each connection of a client goes to the master of the moment. Left to others: what is said on them, asking the Sentinels
(`local.sentinel`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
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
    KeyDeniedError,
    LinkLostError,
    PeerUnavailableError,
    RefusedError,
    denies_key,
)
from redisrepl.local.address import SiteAddress
from redisrepl.local.sentinel import Epoch, MasterWatch, ask_sentinels
from redisrepl.local.tlsconnection import TlsConnection
from redisrepl.tls import tls_reason

__all__ = ["LOGIN_HINT", "certificate_refusal", "find_master", "open_client", "open_connection", "translated"]

#: What to do when a server refuses the user or password.
LOGIN_HINT = "check the password (--password-file) and the user (--user)"

#: Seconds within which a server says that it refuses our certificate.
_VERDICT = 2.0
#: asyncio stops reading a socket at twice this many unread bytes.
_READ_LIMIT = 1 << 20


async def open_connection(address: SiteAddress, wait: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which nothing was said yet.

    Args:
        address: of the server itself, not of its Sentinels.
        wait: seconds for TCP and TLS.

    Raises:
        PeerUnavailableError: nothing answers. CertificateError: TLS was refused.
    """
    try:
        async with asyncio.timeout(wait):
            if address.path is not None:
                return await asyncio.open_unix_connection(address.path, limit=_READ_LIMIT)
            return await asyncio.open_connection(address.host, address.port, ssl=address.context, limit=_READ_LIMIT)
    except TimeoutError:
        raise PeerUnavailableError(f"the site's Redis {address} did not answer in {wait:g} s") from None
    except OSError as error:
        if (trouble := tls_reason(error)) is not None:
            raise CertificateError(f"the site's Redis {address}: {trouble}") from error
        reason = error.strerror or str(error)
        raise PeerUnavailableError(f"the site's Redis {address} cannot be reached: {reason}") from error


async def certificate_refusal(address: SiteAddress, wait: float) -> str | None:
    """Why a server that has reset a connection before it said anything refuses our certificate; None if it does not.

    In TLS 1.3 it judges that after we have begun to speak. It then closes at once, and if our words are unread by then,
    a reset overtakes its reason. So it is asked once more, without a word.

    Args:
        address: of the server itself, not of its Sentinels.
        wait: seconds for TCP and TLS.
    """
    try:
        reader, writer = await open_connection(address, wait)
    except CertificateError as error:
        return tls_reason(error)
    except PeerUnavailableError:
        return None
    try:
        async with asyncio.timeout(min(wait, _VERDICT)):
            await reader.read(1)
    except OSError as error:  # TimeoutError is one: it waits for us to speak
        return tls_reason(error)
    else:
        return None
    finally:
        writer.transport.abort()


def open_client(address: SiteAddress, wait: float, connections: int, epoch: Epoch | None = None) -> redis.asyncio.Redis:
    """A client that connects when first used and never sends anything twice by itself.

    Args:
        address: of the server.
        wait: seconds for a connection, and for an answer.
        connections: how many it may keep; who wants one more waits for one.
        epoch: behind Sentinels, tells when others have found another master.
    """
    options: dict[str, Any] = {
        "db": address.database,
        "username": address.username,
        "password": address.password,
        "protocol": 2,
        "socket_timeout": wait,
        "socket_connect_timeout": wait,
        "retry": Retry(NoBackoff(), 0),
    }
    connection_class: type[redis.asyncio.connection.AbstractConnection] = _Connection
    if address.service is not None:
        connection_class = _MasterConnection
        options |= {"find": lambda: find_master(address, wait), "watch": lambda: MasterWatch(address, wait, epoch)}
    if address.path is not None:
        connection_class = _UnixConnection
        options["path"] = address.path
    else:
        options |= {"host": address.host, "port": address.port}
    if address.files is not None:
        connection_class = _SSLConnection if address.service is None else _SSLMasterConnection
        options["tls"] = address.context
    pool = redis.asyncio.BlockingConnectionPool(
        max_connections=connections, timeout=None, connection_class=connection_class, **options
    )
    return redis.asyncio.Redis.from_pool(pool)


async def find_master(address: SiteAddress, wait: float) -> SiteAddress:
    """The address itself, or the master that its Sentinels name, which must say itself that it is one.

    Raises:
        PeerUnavailableError, LinkLostError: there is none now. RefusedError: a Sentinel or the master refuses us.
    """
    if address.service is None:
        return address
    master = address.at(*await ask_sentinels(address, wait))
    client = open_client(master, wait, connections=1)
    try:
        with translated(address):
            role, *_ = await client.execute_command("ROLE")  # type: ignore[no-untyped-call]
    except RefusedError as error:
        if isinstance(error.__cause__, redis.exceptions.NoPermissionError):
            return master  # a user who may replicate only; a replica would say so when written to
        raise
    finally:
        await client.aclose()
    if role != b"master":
        raise PeerUnavailableError(f"the site's Redis {address}: {master}, named as its master, is a replica now")
    return master


class _FollowsMaster(redis.asyncio.connection.AbstractConnection):
    """A connection to whichever server is the master; one to a server that was replaced is given up.

    Args:
        find: gives the address of the master.
        watch: makes what tells when it was replaced.
    """

    host: str
    port: int

    def __init__(
        self, *, find: Callable[[], Awaitable[SiteAddress]], watch: Callable[[], MasterWatch], **options: Any
    ) -> None:
        self._find = find
        self._watch = watch()
        super().__init__(**options)

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if self.is_connected:
            if not await self._watch.successor(self.host, self.port):
                return
            await self.disconnect()
        master = await self._find()
        self.host, self.port = master.host, master.port
        await super().connect_check_health(check_health, retry_socket_connect)

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except redis.exceptions.ReadOnlyError as error:
            await self.disconnect()
            raise redis.exceptions.ConnectionError(f"{self.host}:{self.port} is a replica now") from error


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


class _Connection(_SiteConnection, redis.asyncio.Connection):
    pass


class _UnixConnection(_SiteConnection, redis.asyncio.UnixDomainSocketConnection):
    pass


class _SSLConnection(_SiteConnection, TlsConnection):
    pass


class _MasterConnection(_FollowsMaster, _Connection):
    pass


class _SSLMasterConnection(_FollowsMaster, _SSLConnection):
    pass


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
            raise CertificateError(f"the site's Redis {address}: {trouble}") from error
        reason = str(error) or "no answer in time"
        raise LinkLostError(f"the connection to the site's Redis {address} failed: {reason}") from error
    except redis.exceptions.ResponseError as error:
        if str(error).startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            raise RefusedError(f"the site's Redis {address} refuses us: {error}") from error
        raise PeerUnavailableError(f"the site's Redis {address} answered: {error}") from error
