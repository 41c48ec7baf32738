"""Opens connections to the site's Redis, and translates its refusals into our errors.

In: a `SiteAddress`. Out: a raw connection for the replication stream or events, a client for reads and writes; behind
Sentinels each connection of a client goes to the current master. Left to others: what is sent on them (`local.stream`,
`local.read`, `local.apply`), asking the Sentinels (`local.sentinel`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis.asyncio
import redis.asyncio.connection
import redis.exceptions

from redisrepl.errors import CertificateError, PeerUnavailableError, RefusedError
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import (
    LOGIN_HINT,
    Followed,
    PlainConnection,
    SiteConnection,
    SSLConnection,
    ask,
    client_of,
    client_options,
    plain_client,
    translated,
)
from redisrepl.local.sentinel import MasterWatch, ask_sentinels
from redisrepl.tls.contexts import tls_reason, with_trust
from redisrepl.tls.verdict import SPEAKS_PLAINLY, speaks_plainly
from redisrepl.wire.replies import wrong

__all__ = ["LOGIN_HINT", "find_master", "open_client", "open_connection", "translated"]

#: asyncio stops reading a socket at twice this many unread bytes.
_READ_LIMIT = 1 << 20


async def open_connection(address: SiteAddress, wait: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection, and send nothing on it.

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
            context = address.context
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context, limit=_READ_LIMIT)
    except TimeoutError:
        said = f"did not answer in {wait:g} s"
        if address.context is not None and await speaks_plainly(address.host, address.port):
            said += f": {SPEAKS_PLAINLY}"
        raise PeerUnavailableError(f"the site's Redis {address} {said}") from None
    except OSError as error:
        if (trouble := tls_reason(error)) is not None:
            raise CertificateError(f"the site's Redis {address}: {with_trust(trouble, address.context)}") from error
        reason = error.strerror or str(error)
        raise PeerUnavailableError(f"the site's Redis {address} cannot be reached: {reason}") from error
    if context is not None:
        context.note_transport(writer.transport)
    return reader, writer


def open_client(
    address: SiteAddress,
    wait: float,
    connections: int,
    followed: Followed | None = None,
    *,
    connect_wait: float | None = None,
) -> redis.asyncio.Redis:
    """A client that connects when first used and never repeats a command by itself.

    Args:
        address: of the server.
        wait: seconds for a reply, and for a connection unless `connect_wait` says another number.
        connections: how many it may have; a caller that needs another waits.
        followed: the followed server; connections to any other are refused. None: any server will do.
        connect_wait: seconds for a connection.
    """
    if address.service is None:
        return plain_client(address, wait, connections, followed, connect_wait=connect_wait)
    options = client_options(address, wait, connect_wait) | {"followed": followed}
    options |= {"find": lambda: find_master(address, wait), "watch": lambda: MasterWatch(address, wait)}
    connection_class = _MasterConnection if address.context is None else _SSLMasterConnection
    return client_of(connection_class, options, connections)


async def find_master(address: SiteAddress, wait: float) -> SiteAddress:
    """The address itself, or the address of the master that its Sentinels name, if that server confirms that it is one.

    Raises:
        PeerUnavailableError, LinkLostError: there is no master now. RefusedError: a Sentinel or the master refuses us.
    """
    if address.service is None:
        return address
    master = address.at(*await ask_sentinels(address, wait))
    client = open_client(master, wait, connections=1)
    try:
        with translated(address):
            reply = await ask(client, b"ROLE")
    except RefusedError as error:
        if isinstance(error.__cause__, redis.exceptions.NoPermissionError):
            return master  # a user that may not run ROLE; if it is a replica, it will refuse our writes
        raise
    finally:
        await client.aclose()
    if not isinstance(reply, list) or not reply:
        raise wrong(f"ROLE at the site's Redis {master}", "a role", reply)
    if reply[0] != b"master":
        raise PeerUnavailableError(f"the site's Redis {address}: {master}, named as its master, is a replica now")
    return master


class _FollowsMaster(SiteConnection):
    """A connection to the current master; it leaves a server that was replaced.

    Args:
        find: returns the address of the master.
        watch: returns a `MasterWatch`, which notices when the master is replaced.
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
        if self.is_current and not await self._watch.successor(self.host, self.port):
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

    async def exchange(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        replies: list[Any] = await super().exchange(commands)
        if any(isinstance(reply, redis.exceptions.ReadOnlyError) for reply in replies):
            await self.disconnect()
            raise redis.exceptions.ConnectionError(f"{self.host}:{self.port} is a replica now")
        return replies


class _MasterConnection(_FollowsMaster, PlainConnection):
    pass


class _SSLMasterConnection(_FollowsMaster, SSLConnection):
    pass
