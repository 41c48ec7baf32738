"""Follows the site's replication stream: saved position > link > outbound > acknowledged position.

In: an address and a position. Out: everything in the stream, handed to `engine.outbound`. Left to others: the link
(`local.stream`), what is replicated (`engine.outbound`), judging the site's history (`flow.judging`), saving the
position (`flow.saving`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from redisrepl.changes import Position, types_of
from redisrepl.engine.outbound import Outbound
from redisrepl.errors import PsyncRefusedError, RedisreplError, SilentError
from redisrepl.links import Links
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import Followed
from redisrepl.local.diagnosis import LinkDiagnosis, LostLink
from redisrepl.local.linger import Linger
from redisrepl.local.stream import ReplicaLink
from redisrepl.observe.failures import FailureLog
from redisrepl.observe.progress import SnapshotProgress
from redisrepl.settings.settings import Settings
from redisrepl.sources.backpressure import Backpressure
from redisrepl.wire.psync import Commands, Continued, Event, FullSync, SnapshotData, SnapshotEnd
from redisrepl.wire.rdb import Entry, RdbReader
from redisrepl.wire.transactions import says_nothing
from redisrepl.wire.unwanted import MAX_VALUE, Unwanted

__all__ = ["LinkListener", "StreamOptions", "StreamSource"]

_log = structlog.get_logger("redisrepl")

#: Bytes of pings and other commands without effect (`wire.transactions.says_nothing`) after which the saved position
#: moves behind them too.
_QUIET = 8 << 10
#: Seconds after which the log says that the site has not begun to send.
_UNANSWERED = 1.0


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Options of a link; see `StreamSource`."""

    silence: float
    connect_wait: float
    retry: Mapping[str, Any]
    push_snapshot: bool = True
    max_value: int = MAX_VALUE

    @classmethod
    def of(cls, settings: Settings, retry: Mapping[str, Any]) -> StreamOptions:
        """From the settings."""
        return cls(
            settings.site_silence,
            settings.connect_timeout,
            retry,
            push_snapshot=settings.initial_sync in {"both", "push"},
            max_value=settings.max_value,
        )


class LinkListener(Protocol):
    """Hears when the link to the site begins and ends."""

    async def about_to_follow(self) -> None:
        """A link is about to be made; nothing follows from the site before this returns.

        Raises:
            RedisreplError: the site cannot be asked what has to be known before that.
        """

    def begins(self, position: Position) -> None:
        """A snapshot of the site at this position follows."""

    def attached(self, *, resumed: bool, history: str) -> None:
        """The link is up.

        Args:
            resumed: the stream continues where it was, without a snapshot.
            history: replication id of the server; empty if it does not tell.
        """

    def detached(self) -> None:
        """The link has ended: nobody follows the site's writes now."""

    def wake(self) -> None:
        """There may be something to push."""


class StreamSource:
    """Keeps `outbound` attached to the site's stream.

    Args:
        address: of the site's Redis.
        outbound: receives what the stream says.
        prefixes: namespaces; other keys of a snapshot are skipped.
        position: where to continue; None to begin with a snapshot.
        backpressure: makes a snapshot wait for the hub.
        options: silence after which a link counts as dead and time for connecting, in seconds; how to wait between
            tries, as arguments of `stamina.retry_context`; whether the snapshot of the first contact is pushed.
        listener: hears when a link begins and ends, and when there may be something to push.
        followed: knows which server is followed, and whether a client of this address has met another one.
        linger: pauses between small reads.

    Attributes:
        failure_log: failures of the link.
        position: where to attach again; None while no complete snapshot was read.
        diagnosis: finds out why a link was lost.
        first_contact: no earlier link is known, and no snapshot was complete yet.
        full_syncs, partial_syncs: how many links began with a snapshot, and how many without.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        address: SiteAddress,
        outbound: Outbound,
        prefixes: tuple[bytes, ...],
        position: Position | None,
        backpressure: Backpressure,
        *,
        options: StreamOptions,
        listener: LinkListener,
        followed: Followed | None = None,
        linger: Linger | None = None,
    ) -> None:
        self._address = address
        self._followed = followed
        self._linger = linger
        self._outbound = outbound
        self._prefixes = prefixes
        self._backpressure = backpressure
        self._options = options
        self._listener = listener
        self._links = Links(options.retry)
        self._heard_at = time.monotonic()  # when we last acknowledged an offset
        self._pause = 0.0  # the longest time between two acknowledgements
        self._progress = SnapshotProgress()
        self.failure_log = FailureLog("stream")
        self.diagnosis = LinkDiagnosis(address)
        self.position = position
        self.full_syncs = 0
        self.partial_syncs = 0
        self.first_contact = position is None

    async def run(self) -> None:
        """Attach, and attach again after each failure, for ever.

        Raises:
            RefusedError: the server refuses us, and never accepted us before.
        """
        async for _ in self._links:
            try:
                await self._follow_link()
            except RedisreplError as error:
                self._links.lost(error)
                if self._links.is_final(error):
                    continue  # `self._links` raises it
                logged = self.failure_log.failed(error)
                if self._links.accepted_once and not isinstance(error, PsyncRefusedError):
                    self.diagnosis.lost(self._loss(error), logged=logged)

    async def _follow_link(self) -> None:
        """One link, from attaching to its end."""
        await self._listener.about_to_follow()
        link = ReplicaLink(
            self._address,
            self.position,
            snapshot=RdbReader(self._prefixes, max_value=self._options.max_value, types=types_of(self._outbound.kinds)),
            acknowledged=self._acknowledged,
            silence=self._options.silence,
            connect_wait=self._options.connect_wait,
            unwanted=Unwanted(self._outbound.decoder.covers, self._options.max_value),
            followed=self._followed,
            linger=self._linger,
        )
        unanswered = asyncio.get_running_loop().call_later(_UNANSWERED, self._say_unanswered)
        try:
            async with aclosing(link.events()) as events:
                async for event in events:
                    unanswered.cancel()
                    self._take(event, link)
                    self._listener.wake()
                    if isinstance(event, SnapshotData):
                        await self._backpressure.room()
        finally:
            unanswered.cancel()
            self._progress.end()
            self._listener.detached()

    def _say_unanswered(self) -> None:
        if not self.failure_log.duration:  # else an outage, of which the log tells already
            _log.info("stream.waiting", hint="the site has not begun to send")

    def _acknowledged(self) -> int:
        """The offset up to which the hub has everything; called before each acknowledgement to the site."""
        now = time.monotonic()
        if self._links.is_made:
            self._pause = max(self._pause, now - self._heard_at)
        self._heard_at = now
        return self._outbound.acknowledged

    def _loss(self, error: RedisreplError) -> LostLink:
        self._acknowledged()
        silence = self._options.silence if isinstance(error, SilentError) else None
        return LostLink(str(error), self.position, self._pause, silence)

    def _take(self, event: Event, link: ReplicaLink) -> None:
        match event:
            case Commands(commands, ends):
                self._outbound.read(commands, ends[-1], ends)
                self._advance(commands, ends, link.position)
            case SnapshotData(size, total, entries):
                if self.first_contact and not self._options.push_snapshot:
                    # --initial-sync: existing keys are not pushed, but the other parts of the snapshot are read.
                    self._outbound.read_snapshot((e for e in entries if not isinstance(e, Entry)), time.time())
                else:
                    self._outbound.read_snapshot(entries, time.time())
                self._progress.advance(size, total, sum(type(entry) is Entry and entry.last for entry in entries))
            case FullSync(position):
                _log.info("stream.full_sync", position=str(position))
                self._links.accepted()
                self._listener.begins(position)
                self.full_syncs += 1
                if self.position is not None:
                    self.diagnosis.restarted(self.position)
                self.position = None  # there is no position to resume from until the snapshot is complete
                self._outbound.start_over()
                self._progress.begin()
                self._backpressure.begin(position.offset)
            case SnapshotEnd(position):
                self._outbound.snapshot_complete(position.offset)
                self._progress.end()
                self._attached(position, resumed=False)
            case Continued(position):
                self.partial_syncs += 1
                self._attached(position, resumed=True)

    def _advance(self, commands: Sequence[Sequence[bytes]], ends: Sequence[int], position: Position) -> None:
        """Move the position behind the last command with an effect.

        Not behind the pings that follow it: a replica that becomes master may lack them, and would then refuse to
        continue from there. Many bytes of them move it all the same, so that it stays inside the server's backlog.
        """
        last = next((i for i in range(len(commands) - 1, -1, -1) if not says_nothing(commands[i : i + 1])), None)
        if last is not None and position.offset - ends[last] < _QUIET:
            self.position = Position(position.replid, ends[last])
        elif self.position is None or position.offset - self.position.offset >= _QUIET:
            self.position = position

    def _attached(self, position: Position, *, resumed: bool) -> None:
        self._links.made()
        self._heard_at = time.monotonic()
        self._pause = 0.0
        self.position = position
        self._outbound.streamed_from(position.offset, position.replid)
        self.diagnosis.attached()
        self.failure_log.succeeded()
        _log.info("stream.attached", position=str(position), partial=resumed)
        self._listener.attached(resumed=resumed, history=position.replid)
        self.first_contact = False

    @property
    def seen(self) -> Position | None:
        """How far the stream was read; None if not at all."""
        if self.position is None or not self._links.accepted_once:
            return None
        return Position(self.position.replid, max(self.position.offset, self._outbound.following.read_to))

    @property
    def history(self) -> str:
        """The replication id of the server whose stream is read; empty: none is."""
        return "" if self.position is None else self.position.replid

    def begin_anew(self) -> None:
        """Where to continue is not known after all: the next link begins with a snapshot."""
        self.position = None
