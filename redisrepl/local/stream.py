"""The replication stream of the site's Redis: pumps `wire.psync` and owns the acknowledgement timer.

In: an address and a position. Out: events. Left to others: every decision of the protocol (`wire.psync`), when to
attach again and from where (`daemon`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from redisrepl.changes import Position
from redisrepl.errors import LinkLostError, RedisreplError
from redisrepl.local.address import SiteAddress
from redisrepl.local.connection import open_connection
from redisrepl.wire.psync import Event, ReplicaProtocol, SnapshotParser

__all__ = ["ReplicaLink"]

_CHUNK = 65536


class ReplicaLink:
    """One attachment to a master, from connecting to its end.

    Args:
        address: of the master, or of one of its replicas.
        position: where to go on; None to start with a snapshot.
        snapshot: reads the snapshot; None passes over it unread.
        acknowledged: asked every `ack_period` seconds; `WAIT` at the master then means what this returns.
        ack_period: seconds.
        silence: seconds without a byte after which the link counts as dead; a master pings every 10 (by default).
        connect_wait: seconds for connecting.
    """

    def __init__(
        self,
        address: SiteAddress,
        position: Position | None = None,
        *,
        snapshot: SnapshotParser | None = None,
        acknowledged: Callable[[], int],
        ack_period: float = 1.0,
        silence: float = 60.0,
        connect_wait: float = 10.0,
    ) -> None:
        self._address = address
        self._acknowledged = acknowledged
        self._ack_period = ack_period
        self._silence = silence
        self._connect_wait = connect_wait
        self._timer: asyncio.TimerHandle | None = None
        self._protocol = ReplicaProtocol(
            position,
            username=None if address.username is None else address.username.encode(),
            password=None if address.password is None else address.password.encode(),
            snapshot=snapshot,
        )

    @property
    def position(self) -> Position:
        """Up to where whole commands were taken in: `PSYNC` from here continues without a gap."""
        return Position(self._protocol.replid, self._protocol.received)

    async def events(self) -> AsyncIterator[Event]:
        """Attach, and yield what comes until the link ends.

        Raises:
            LinkLostError: it ended; RefusedError, PeerUnavailableError, ProtocolError: see `ReplicaProtocol.receive`.
        """
        protocol = self._protocol
        reader, writer = await open_connection(self._address, self._connect_wait)
        try:
            writer.write(protocol.data_to_send())
            while True:
                try:
                    async with asyncio.timeout(self._silence):
                        data = await reader.read(_CHUNK)
                except TimeoutError:
                    raise LinkLostError(f"no byte from {self._address} for {self._silence:g} s") from None
                except OSError as error:
                    raise LinkLostError(f"the link to {self._address} broke: {error.strerror or error}") from error
                if not data:
                    raise LinkLostError(f"{self._address} closed the replication link")
                for event in protocol.receive(data):
                    yield event
                    if getattr(event, "wants_ack", False):
                        protocol.acknowledge(self._acknowledged())
                if protocol.online and self._timer is None:
                    self._acknowledge(writer)
                writer.write(protocol.data_to_send())
        except RedisreplError as error:
            error.add_note(f"site {self._address}")
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            writer.close()

    def _acknowledge(self, writer: asyncio.StreamWriter) -> None:
        """Tell the master where we are, now and every period: it drops a replica that is silent for long."""
        if writer.is_closing():
            return
        self._protocol.acknowledge(self._acknowledged())
        writer.write(self._protocol.data_to_send())
        self._timer = asyncio.get_running_loop().call_later(self._ack_period, self._acknowledge, writer)
