"""Saves what the next process needs, a few times a second while there is something new.

In: the parts that know it. Out: the state document; one log line when it cannot be written. Left to others: how it is
stored (`store`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redisrepl.changes import Position
from redisrepl.engine.core import Core
from redisrepl.errors import RedisreplError
from redisrepl.flow.known import Known
from redisrepl.observe.failures import FailureLog
from redisrepl.remote.fence import Fence
from redisrepl.sources.stream import StreamSource
from redisrepl.store import Store

__all__ = ["SavedState", "Saving"]

_PERIOD = 0.2
#: Bytes by which the site's stream must move before that alone is saved; its PINGs take a quarter of an hour for it.
_STILL = 1024
#: Most keys that are read in one period because their changes in the stream have no value.
_WITNESSES = 32

#: A mark at the site is a write there: one is made after so many changes, and otherwise after so many seconds.
_MARK_EVERY = 8
_MARK_PERIOD = 1.0

_Held = Mapping[tuple[bytes, bytes | None], int | None]


class Mark(Protocol):
    """`local.mark.SiteMark`."""

    async def write(self, agreed: int, durable: int) -> None:
        """All that was agreed on up to the one number the site has; up to the other, our store is on the disk."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """Where to go on; None, empty or 0 where nothing is known.

    Attributes:
        position: everything before it is at the hub.
        database: the one that the stream had selected there.
        origin: who wrote what we applied to the site.
        epoch: of our fence at the hub.
        executed: numbers of the last batches that it is known to have executed, by slot.
        fence: key of that fence.
    """

    position: Position | None
    database: int
    origin: str
    epoch: int
    executed: Mapping[int, int]
    fence: bytes = b""

    @classmethod
    def load(cls, document: Mapping[str, Any]) -> SavedState:
        """From a state document of this version or the one before."""
        position = None
        match document.get("replid"), document.get("offset"):
            case str(replid), int(offset) if offset >= 0:
                position = Position(replid, offset)
        database, origin, epoch = document.get("database"), document.get("origin"), document.get("epoch")
        return cls(
            position,
            database if isinstance(database, int) else 0,
            origin if isinstance(origin, str) else "",
            epoch if isinstance(epoch, int) else 0,
            dict(_pairs(document.get("executed"))),
            _fence_of(document),
        )


def _fence_of(document: Mapping[str, Any]) -> bytes:
    match document.get("fence"), document.get("origin"):
        case str(key), _:
            return key.encode("latin-1", "replace")
        case _, str(origin) if origin:  # as it was called at first
            return b"redisrepl:fence:" + origin.encode()
    return b""


def _pairs(document: object) -> Iterator[tuple[int, int]]:
    for pair in document if isinstance(document, list) else ():
        match pair:
            case [int(slot), int(number)]:
                yield slot, number


class Saving:
    """Saves the state of a daemon.

    Args:
        store: where it is saved.
        core, stream, known, fence: what is saved.
        held: reads digests of what the site holds now.
        origin: who we are.
        mark: at the site; None: nothing is written there.
    """

    def __init__(
        self,
        store: Store,
        core: Core,
        stream: StreamSource,
        known: Known,
        fence: Fence,
        held: Callable[[Iterable[tuple[bytes, None]]], Awaitable[_Held]],
        origin: str,
        mark: Mark | None = None,
    ) -> None:
        self.failure_log = FailureLog("store")
        self._store = store
        self._core = core
        self._stream = stream
        self._known = known
        self._fence = fence
        self._held = held
        self._origin = origin
        self._mark = mark
        self._marked, self._marked_at = (0, 0), -math.inf  # in which epoch of the site, after how many changes
        self._valueless: tuple[int, list[bytes]] = 0, []  # keys of changes without a value; in which epoch of the site
        self._news = asyncio.Event()
        self._news.set()
        self._saved: Mapping[str, Any] = store.saved
        self._kept: dict[str, object] = {name: store.saved.get(name) for name in ("replid", "offset", "database")}

    def failed(self, trouble: str | None) -> None:
        """The store cannot write, for this reason; None when it can again."""
        if trouble is None:
            self.failure_log.succeeded()
        else:
            self.failure_log.failed(f"the state is not written: {trouble}", hint="see to the disk of --state-dir")

    def wake(self) -> None:
        """There may be something to save."""
        self._news.set()

    def tick(self) -> None:
        """Time passes: save what changed without a wake-up, and have the store maintain its files."""
        if not self._news.is_set() and self.save_news():
            self._news.set()

    async def run(self) -> None:
        """Save for ever; sleep while there is nothing new and nothing on its way."""
        self.save_news()  # without our origin, the next process would not find our fence, which tells what was executed
        while True:
            await self._news.wait()
            await asyncio.sleep(_PERIOD)
            self._news.clear()
            if await self.once() or self._core.outbound.waiting or not self._core.certain:
                self._news.set()

    async def once(self) -> bool:
        """Take evidence of what the site holds, leave some there, and save; returns whether anything was new."""
        await self._read_witnesses()
        await self._mark_site()
        return self.save_news()

    async def _read_witnesses(self) -> None:
        """Read keys whose changes in the stream had no value: only values are evidence of the site's history.

        Once the link was lost, another server may answer, or one that was restarted: what it lacks, nobody removed.
        """
        (epoch, keys), self._valueless = self._valueless, (0, [])
        if not keys or self._core.continuity.site.epoch != epoch:
            return
        try:
            held = await self._held((key, None) for key in keys)
        except RedisreplError:
            return  # then there is less evidence, which is safe
        if self._core.continuity.site.epoch == epoch:
            self._core.record.ring.add_read({key: digest for (key, _), digest in held.items()})

    def _read_soon(self, epoch: int, keys: Sequence[bytes]) -> None:
        """Changes of these keys told no value, in this epoch of the site."""
        before = [key for key in self._valueless[1] if key not in keys] if self._valueless[0] == epoch else []
        self._valueless = epoch, [*before, *keys][-_WITNESSES:]

    async def _mark_site(self) -> None:
        """Have the site hold up to which agreement it has everything; it is to be evidence, if it is restarted."""
        site, ring, now = self._core.continuity.site, self._core.record.ring, time.monotonic()
        if self._mark is None or not site.judged:
            return  # the number may be of what another server held
        (epoch, before), changes = self._marked, ring.count
        new = changes - before if epoch == site.epoch else _MARK_EVERY
        if new <= 0 or (new < _MARK_EVERY and now < self._marked_at + _MARK_PERIOD):
            return
        try:
            agreed = int(min(ring.number, site.proved))  # what it has lost since, it does not have
            await self._mark.write(agreed, self._store.durable)
        except RedisreplError:
            return  # then there is less evidence, which is safe
        self._marked, self._marked_at = (site.epoch, changes), now

    def save(self) -> None:
        """Save what there is."""
        self._save(self._document())
        self._store.flush()

    def save_news(self) -> bool:
        """Save, unless nothing has happened: a disk that wears has its rest then. Returns whether anything had."""
        document = self._document()
        news = _without_pings(document) != _without_pings(self._saved)
        if news:
            self._save(document)
        self._store.flush()
        return news

    def _save(self, document: Mapping[str, Any]) -> None:
        self._saved = document
        self._store.save(document)

    def _document(self) -> dict[str, Any]:
        """What the next process needs."""
        core, known, outbound = self._core, self._known, self._core.outbound
        judged = core.continuity.site.judged
        if judged:  # otherwise it may be another server
            self._read_soon(core.continuity.site.epoch, core.record.saw(self._store.number))
        if (position := self._position()) is not None:
            self._kept = {"replid": position.replid, "offset": position.offset, "database": outbound.pending.database}
        elif self._stream.position is None:
            self._kept = {"replid": None, "offset": None, "database": 0}
        if judged:
            known.seen = self._stream.seen or known.seen
        fence = {
            "epoch": self._fence.epoch,
            "executed": sorted(self._fence.known.items()),
            "fence": self._fence.key.decode("latin-1"),
        }
        return {**self._kept, "origin": self._origin, **fence, **known.saved(), **core.saved()}

    def _position(self) -> Position | None:
        """Where the next process may resume; None to keep the saved position."""
        acknowledged = self._core.outbound.acknowledged
        if not acknowledged or self._stream.position is None:
            return None
        return Position(self._stream.position.replid, acknowledged)


def _without_pings(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document, but for what moves though nothing happens: the stream by PINGs, and the hub's count of commands."""
    coarse = dict(document)
    match document.get("offset"):
        case int(offset):
            coarse["offset"] = offset // _STILL
    match document.get("seen"):
        case [str(replid), int(offset)]:
            coarse["seen"] = replid, offset // _STILL
    match document.get("hub"):
        case [*facts, int()]:
            coarse["hub"] = facts
    return coarse
