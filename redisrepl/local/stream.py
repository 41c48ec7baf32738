"""The replication stream of the site's Redis: does the I/O for `wire.psync`, and sends acknowledgements on a timer.

In: an address and a position. Out: events. Left to others: every decision of the protocol (`wire.psync`), when to
attach again and from where (`sources.stream`, `local.replica`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from redisrepl.changes import Position
from redisrepl.errors import (
    CertificateError,
    LinkLostError,
    PsyncRefusedError,
    RedisreplError,
    RefusedError,
    SilentError,
)
from redisrepl.limits import Limits
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import Followed
from redisrepl.local.connection import LOGIN_HINT, find_master, open_connection
from redisrepl.local.linger import Linger
from redisrepl.local.sentinel import MasterWatch
from redisrepl.tls.contexts import tls_reason
from redisrepl.tls.verdict import UNSAID, certificate_refusal
from redisrepl.wire.psync import Commands, Event, ReplicaProtocol, SnapshotParser
from redisrepl.wire.transactions import says_nothing
from redisrepl.wire.unwanted import Unwanted

__all__ = ["ReplicaLink"]

_CHUNK = 65536
#: After a diskless snapshot the master starts the stream at our first acknowledgement, but ignores those that arrive
#: before it has reaped the child process that wrote the snapshot. So we send the first few in quick succession.
_EARLY_ACKS = 20
_EARLY_PERIOD = 0.05
_PSYNC_HINT = "let this user run PSYNC and REPLCONF (ACL: +psync +replconf), or follow a Redis that takes replicas"
#: The version that we report, for Valkey: its snapshots then have RDB version 80, which `wire.rdb` reads. Otherwise
#: Valkey 9 writes version 11, in which it cannot write a hash with field expiries.
_REPLICA_VERSION = b"9.0.0"


class ReplicaLink:
    """One attachment to a master, from connecting to its end.

    Args:
        address: of the master, or of one of its replicas.
        position: where to continue; None to start with a snapshot.
        snapshot: parses the snapshot; None skips it.
        acknowledged: called every `ack_period` seconds for the offset to acknowledge, on which `WAIT` at the master
            relies.
        ack_period: seconds between acknowledgements.
        silence: seconds without a byte after which the link counts as dead; a master pings every 10 (by default).
        connect_wait: seconds for connecting.
        empty_snapshot: ask for a snapshot without data; servers before Redis 7.0 send all of it.
        unwanted: decides which large arguments to skip; None: none.
        followed: knows whether a client of this address has met another server.
        linger: pauses between small reads of the stream.
    """

    def __init__(  # noqa: PLR0913 - each is by itself
        self,
        address: SiteAddress,
        position: Position | None = None,
        *,
        snapshot: SnapshotParser | None = None,
        acknowledged: Callable[[], int],
        ack_period: float = 1.0,
        silence: float = 60.0,
        connect_wait: float = 10.0,
        empty_snapshot: bool = False,
        unwanted: Unwanted | None = None,
        followed: Followed | None = None,
        linger: Linger | None = None,
    ) -> None:
        self._address = address
        self._linger = linger or Linger()
        self._followed = followed or Followed()
        self._acknowledged = acknowledged
        self._ack_period = ack_period
        self._silence = silence
        self._connect_wait = connect_wait
        self._timer: asyncio.TimerHandle | None = None
        self._early_acks = _EARLY_ACKS
        self._acked_at = 0.0
        self._limits = Limits()
        self._heard = False  # whether the server has sent anything
        self._watch = MasterWatch(address, connect_wait)
        self._protocol = ReplicaProtocol(
            position,
            username=None if address.username is None else address.username.encode(),
            password=address.password_bytes,
            snapshot=snapshot,
            replica_version=_REPLICA_VERSION,
            empty_snapshot=empty_snapshot,
            unwanted=unwanted,
        )

    @property
    def position(self) -> Position:
        """The end of the last whole command: `PSYNC` from here continues without loss."""
        return Position(self._protocol.replid, self._protocol.received)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Attach, and yield events until the link ends.

        Raises:
            LinkLostError: it ended; RefusedError, PeerUnavailableError, ProtocolError: see `ReplicaProtocol.receive`.
        """
        protocol = self._protocol
        master = await find_master(self._address, self._connect_wait)
        reader, writer = await open_connection(master, self._connect_wait)
        try:
            writer.write(protocol.data_to_send())
            while True:
                await self._check_master(master)
                data = await self._read(reader, master)
                wrote = False
                for event in protocol.receive(data):
                    wrote = wrote or (isinstance(event, Commands) and not says_nothing(event.commands))
                    yield event
                    if getattr(event, "wants_ack", False):
                        self._note_ack()
                if protocol.online and self._timer is None:
                    self._acknowledge(writer)
                elif protocol.online and time.monotonic() - self._acked_at >= self._ack_period:  # it fell into a pause
                    self._note_ack()
                writer.write(protocol.data_to_send())
                if wrote:
                    await self._linger.pause(len(data), writer)
        except PsyncRefusedError as error:
            raise PsyncRefusedError(f"the site's Redis {self._address}: {error}: {_PSYNC_HINT}") from error
        except CertificateError:
            raise
        except RefusedError as error:
            raise RefusedError(f"the site's Redis {self._address}: {error}: {LOGIN_HINT}") from error
        except RedisreplError as error:
            error.add_note(f"site {self._address}")
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
            writer.transport.abort()  # unsent data is of no use any more, and a stuck peer would never read it
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _read(self, reader: asyncio.StreamReader, master: SiteAddress) -> bytes:
        """The next bytes; while there are none, asks the Sentinels now and then."""
        deadline = time.monotonic() + self._silence
        while (now := time.monotonic()) < deadline:
            wait = min(deadline, self._watch.due) - now
            try:
                with self._limits.within(wait):
                    data = await reader.read(_CHUNK)
            except TimeoutError:
                await self._check_master(master)
                continue
            except OSError as error:
                said = f"the link to {self._address} broke: {error.strerror or error}"
                raise await self._loss(master, said, tls_reason(error)) from error
            if not data:
                raise await self._loss(master, f"{self._address} closed the replication link")
            self._heard = True
            return data
        raise SilentError(f"no byte from {self._address} for {self._silence:g} s")

    async def _loss(self, master: SiteAddress, said: str, trouble: str | None = None) -> RedisreplError:
        """The error for a link that ended; `trouble`: what TLS said of it."""
        if trouble is None and not self._heard and master.context is not None:
            refusal = await certificate_refusal(master.host, master.port, master.context, self._connect_wait)
            if refusal is None:
                return LinkLostError(f"{said}: {UNSAID}")
            trouble = tls_reason(refusal)
        return (
            LinkLostError(said) if trouble is None else CertificateError(f"the site's Redis {self._address}: {trouble}")
        )

    async def _check_master(self, master: SiteAddress) -> None:
        """Leave a master as soon as another server has replaced it: its later writes will be lost."""
        if self._followed.differs:
            raise LinkLostError(f"{self._address}: another server answers there now")
        if successor := await self._watch.successor(master.host, master.port):
            raise LinkLostError(f"{self._address}: {master} was replaced by {successor}")

    def _note_ack(self) -> None:
        """Have an acknowledgement sent with what is written next."""
        self._protocol.acknowledge(self._acknowledged())
        self._acked_at = time.monotonic()

    def _acknowledge(self, writer: asyncio.StreamWriter) -> None:
        """Acknowledge an offset to the master, now and every period: it drops a replica that is silent for long."""
        if writer.is_closing():
            return
        if not self._linger.pausing:  # a server that is gone would not take it, and the system drop what it sent last
            self._note_ack()
            writer.write(self._protocol.data_to_send())
        period = min(_EARLY_PERIOD, self._ack_period) if self._early_acks else self._ack_period
        self._early_acks = max(0, self._early_acks - 1)
        self._timer = asyncio.get_running_loop().call_later(period, self._acknowledge, writer)
