"""Both sides compared, key by key: rule 4 of convergence, and the way back after any gap.

In: pages of keys of both sides, and digests of what they hold. Out: the keys that differ and go on differing, healed by
the same rules as everything else. Left to others: pushing (`outbound`), fetching and applying (`inbound`).

Nothing is deleted by a sweep on a guess: that a key is missing on one side may mean that it was removed there, or that
it never arrived, and which of the two nobody knows after a gap. So what one side has alone is copied to the other.

A sweep that fails goes on with the page where it failed. What it did before may be out of date by then, but only if
there was another gap, and a gap makes another sweep due: that one begins when this one has come to its end, so that
gaps in quick succession cannot keep the last keys from being looked at for ever. Two things make it begin anew: the
link to the site was lost (a cursor means nothing to a server that was restarted; the hub's restart is a gap itself),
and FLUSHALL at either side, since what it would bring back is to be removed. No event tells of one at the hub: before
the sweep says that the two differ, the hub is asked whether it was flushed.

`--initial-sync` says which way differences are copied at first contact, and by a sweep that only the timer asked for.
After a gap, what was missed is healed whichever way it had to go; older differences cannot be told from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import stamina
import structlog

from redisrepl.changes import State
from redisrepl.errors import RedisreplError
from redisrepl.healing import Difference, Healing, Side, Way
from redisrepl.namespaces import Namespaces
from redisrepl.observe.troubles import Trouble
from redisrepl.wire.digests import NO_KEY, alike, digest

__all__ = ["Comparison", "Place", "Sweep"]

_log = structlog.get_logger("redisrepl")

#: Differing keys that wait for their second look together.
_SECOND_LOOK = 10_000
#: Keys that a server goes through for one page; those of other namespaces among them cost a tenth of one compared.
_PAGE = 500
_SCANNED = 0.1
#: Bytes of the site's values that are held at a time.
_TOGETHER = 8 << 20
_NOT_ALL_WAS_THERE = "not all that the other side holds is known to have been there"


class Hub(Protocol):
    """`remote.compare.HubComparer`."""

    async def page(self, prefix: bytes, cursor: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """Keys of a namespace, from `0` on, and where to go on: `0` is the end. Some may come twice."""

    async def digests(self, keys: Sequence[bytes]) -> list[bytes]:
        """Digests of what keys hold."""


async def _assume_unflushed() -> None:
    """Where a difference is only told, and not healed."""


class Site(Protocol):
    """`local.read.SiteReader`."""

    async def page(self, prefix: bytes, cursor: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """Keys of a namespace, from `0` on, and where to go on: `0` is the end. Some may come twice."""

    async def first_states(self, keys: Sequence[bytes], max_bytes: int) -> list[State]:
        """What the first of these keys hold, until so many bytes are read."""


@dataclass(slots=True)
class Place:
    """How far the comparison of a namespace has come.

    Attributes:
        cursor: where the next page begins.
        at_hub: the site's keys are done, the hub's are gone through.
        complete: so are these.
        suspects: keys that differed at their first look.
        begun: how often the site's keys were begun with.
    """

    cursor: bytes = b"0"
    at_hub: bool = False
    complete: bool = False
    suspects: dict[bytes, None] = field(default_factory=dict)
    begun: int = 1

    def advance(self, cursor: bytes) -> None:
        """A page was compared."""
        self.cursor = cursor
        if cursor == b"0":
            self.complete, self.at_hub = self.at_hub, True

    def begin_site_again(self) -> None:
        """The site may be another server now, and a cursor of the old one would leave keys out."""
        self.begun += 1
        if not self.at_hub:
            self.cursor = b"0"


class Comparison:
    """Finds the keys that differ.

    Args:
        site: one side.
        hub: the other.
        expiries: whether expiries are compared.
        rate: keys per second, at most: a sweep must not disturb what is live.
        patience: seconds after which a difference is looked at again: what was merely on its way has then arrived.
        look_for_flush: called before it is said that keys differ.

    Attributes:
        compared: keys looked at, on either side.
    """

    def __init__(
        self,
        site: Site,
        hub: Hub,
        *,
        expiries: bool,
        rate: float,
        patience: float,
        look_for_flush: Callable[[], Awaitable[None]] = _assume_unflushed,
    ) -> None:
        self._site = site
        self._hub = hub
        self._expiries = expiries
        self._rate = rate
        self._patience = patience
        self._look_for_flush = look_for_flush
        self.compared = 0

    async def differences(self, prefix: bytes, place: Place | None = None) -> AsyncIterator[list[Difference]]:
        """Keys of a namespace that differ at both of two looks.

        The keys of both sides are gone through, and each is compared whole: a key that one side had alone when its
        page was read may be on both a moment later, and different.

        Args:
            prefix: the namespace.
            place: where to begin; moved on with every page, so that it is where to go on after a failure.
        """
        place = place or Place()
        while not place.complete:
            await self._compare_page(prefix, place)
            if len(place.suspects) >= _SECOND_LOOK:
                async for found in self._second_looks(place):
                    yield found
        async for found in self._second_looks(place):
            yield found

    async def _compare_page(self, prefix: bytes, place: Place) -> None:
        started, begun = time.monotonic(), place.begun
        at_hub = place.at_hub
        cursor, keys = await (self._hub if at_hub else self._site).page(prefix, place.cursor, _PAGE)
        looks = await self._look([key for key in keys if key.startswith(prefix)])
        self.compared += sum(look.site == NO_KEY for look in looks) if at_hub else len(keys)
        place.suspects.update((look.key, None) for look in looks)
        if begun == place.begun or at_hub:
            place.advance(cursor)
        await self._pace(len(keys) + _SCANNED * _PAGE, started)

    async def _second_looks(self, place: Place) -> AsyncIterator[list[Difference]]:
        if place.suspects:
            await asyncio.sleep(self._patience)
        while place.suspects:
            started = time.monotonic()
            keys = list(place.suspects)[:_PAGE]
            found = await self._look(keys)
            if found:  # a hash may be there again, with fewer fields
                await self._look_for_flush()
            for key in keys:
                del place.suspects[key]
            yield found
            await self._pace(len(keys), started)

    async def _pace(self, keys: float, started: float) -> None:
        await asyncio.sleep(max(0.0, keys / self._rate - (time.monotonic() - started)))

    async def _look(self, keys: Sequence[bytes]) -> list[Difference]:
        if not keys:
            return []
        site, hub = await asyncio.gather(self._site_digests(keys), self._hub.digests(keys))
        looks = map(Difference, keys, site, hub)
        return [look for look in looks if not alike(look.site, look.hub)]

    async def _site_digests(self, keys: Sequence[bytes]) -> list[bytes]:
        """Of what keys hold, which as a whole may be more than memory is for."""
        digests: list[bytes] = []
        while len(digests) < len(keys):
            states = await self._site.first_states(keys[len(digests) :], _TOGETHER)
            digests += [digest(state, expiries=self._expiries) for state in states]
        return digests


@dataclass(slots=True)
class _Run:
    """A sweep that has begun.

    Attributes:
        reason: why.
        missed: ways on which there was a gap.
        emptied: sides that were flushed, as long as `Healing.hearing` is what it was then.
        namespaces: those not yet done.
        place: in the first of them.
    """

    reason: str
    missed: frozenset[Way]
    emptied: dict[Side, int | None]
    namespaces: list[bytes]
    place: Place = field(default_factory=Place)
    started: float = field(default_factory=time.monotonic)
    compared: int = 0
    different: int = 0


class Sweep:
    """Compares all namespaces when that is owed, and now and then.

    Args:
        comparison: finds differences.
        namespaces: what is compared.
        healing: what is done about them.
        period: seconds between sweeps that nothing asked for; 0: none.
        wake: called when there is something to push or pull.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.

    Attributes:
        runs: sweeps that came to their end.
        owed: why one is due; None if none is.
        settled: all keys were compared after the last gap; of what differs now nothing was missed.
        last: what the last one found, for people; empty before the first.
        next_at: when the timer asks for one, Unix time; None: never, or one is due or under way.
    """

    def __init__(
        self,
        comparison: Comparison,
        namespaces: Namespaces,
        healing: Healing,
        *,
        period: float,
        wake: Callable[[], None],
        retry: Mapping[str, Any],
    ) -> None:
        self._comparison = comparison
        self._namespaces = namespaces
        self._healing = healing
        self._period = period
        self._wake = wake
        self._retry = retry
        self._due = asyncio.Event()
        self.attached = asyncio.Event()  # the site's stream is followed: what a sweep finds there is then up to date
        self.trouble = Trouble("sweep")
        self.runs = 0
        self.owed: str | None = None
        self.settled = False
        self.last: dict[str, object] = {}
        self.next_at: float | None = None
        self._missed: set[Way] = set()
        self._emptied: dict[Side, int | None] = {}
        self._gap = False  # since the sweep that is under way has begun
        self._run: _Run | None = None

    def owe(self, reason: str, *missed: Way, emptied: Side | None = None) -> None:
        """Something may have been missed.

        Args:
            reason: why, for the log.
            missed: which way it had to go; none: nothing was known before, it is the first contact.
            emptied: this side has removed all that it does not hold now (`FLUSHALL`): so the other is to do.
        """
        self.owed = self.owed or reason
        self._missed.update(missed)
        if emptied is None:
            self.settled, self._gap = False, True
            for way in missed:
                self._distrust_flush("hub" if way == "push" else "site")
        else:
            self._emptied[emptied] = self._healing.hearing()
        self._due.set()

    def hub_flushed(self, *, followed: bool) -> None:
        """The hub has removed what the site alone holds now; but only if all of that was there, and it is known.

        Args:
            followed: the site's stream is; its events may come after what they tell of was compared.
        """
        known = followed and self.settled and self._healing.all_was_pushed
        self.owe("the hub was flushed", emptied="hub" if known else None)
        if not known:
            _log.warning("sweep.flush_undone", flushed="hub", reason=_NOT_ALL_WAS_THERE)

    def site_flushed(self) -> None:
        """Likewise; without a way back nothing but the site's own keys can be meant."""
        known = self._healing.all_was_pulled and (self.settled or self._healing.inbound is None)
        self.owe("the site was flushed", "push", emptied="site" if known else None)
        if not known:
            _log.warning("sweep.flush_undone", flushed="site", reason=_NOT_ALL_WAS_THERE)

    def detached(self) -> None:
        """The site's stream is lost."""
        self.attached.clear()
        if self._run is not None:
            self._run.place.begin_site_again()

    @property
    def unfinished(self) -> bool:
        """Whether one is due or under way."""
        return self.owed is not None or self._run is not None

    @property
    def running(self) -> str | None:
        """Why a sweep is under way; None if none is."""
        return None if self._run is None else self._run.reason

    async def run(self) -> None:
        """Sweep whenever it is owed, for ever."""
        while True:
            self.next_at = time.time() + self._period if self._period else None
            try:
                async with asyncio.timeout(self._period or None):
                    await self._due.wait()
            except TimeoutError:
                self.owed = self.owed or "timer"
            self.next_at = None
            async for attempt in stamina.retry_context(on=RedisreplError, **self._retry):
                with attempt:
                    await self.attached.wait()
                    await self._sweep()

    async def _sweep(self) -> None:
        """Begin, or go on after a failure, and come to the end."""
        before = self._comparison.compared
        run = self._run = self._run or self._begin(None)
        try:
            while run.namespaces:
                async for differences in self._comparison.differences(run.namespaces[0], run.place):
                    if not self._emptied.keys() <= run.emptied.keys():
                        self._run = run = self._begin(run)
                        break
                    self._check_emptied(run)
                    for difference in differences:
                        self._healing.heal(difference, emptied=run.emptied, missed=run.missed)
                    run.different += len(differences)
                    self._wake()
                else:
                    del run.namespaces[0]
                    run.place = Place()
        except RedisreplError as error:
            self.trouble.failed(error)
            raise
        finally:
            run.compared += self._comparison.compared - before
        self._run = None
        self.settled = not self._gap
        self.runs += 1
        self.trouble.succeeded()
        self.last = {
            "reason": run.reason,
            "compared": run.compared,
            "different": run.different,
            "duration_s": round(time.monotonic() - run.started, 2),
        }
        _log.info("sweep.finished", **self.last)
        self.last["finished_at"] = round(time.time(), 3)

    def _check_emptied(self, run: _Run) -> None:
        """After a gap in what the hub tells nobody knows what is newer than the flush, or was lost in another way."""
        for side in [s for s, heard in run.emptied.items() if heard is None or heard != self._healing.hearing()]:
            del run.emptied[side]
            _log.warning("sweep.flush_undone", flushed=side, reason="the hub's events were missed since")
        if not self._healing.all_was_pushed:
            self._distrust_flush("hub")

    def _distrust_flush(self, side: Side) -> None:
        """What the other side alone holds may never have been there."""
        emptied = [self._emptied, *([self._run.emptied] if self._run else [])]
        if [sides.pop(side) for sides in emptied if side in sides]:
            _log.warning("sweep.flush_undone", flushed=side, reason=_NOT_ALL_WAS_THERE)

    def _begin(self, given_up: _Run | None) -> _Run:
        """Begin with all that is owed, and what the sweep in whose place this one comes was for."""
        self._due.clear()
        missed, emptied = frozenset(self._missed), dict(self._emptied)
        if given_up is not None:
            missed, emptied = missed | given_up.missed, emptied | given_up.emptied
        run = _Run(self.owed or "failed", missed, emptied, list(self._namespaces))
        self.owed, self._gap = None, False
        self._missed.clear()
        self._emptied.clear()
        return run
