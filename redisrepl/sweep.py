"""Both sides compared whenever that is owed: rule 4 of convergence, and the way back after any gap.

In: why. Out: the keys that differ, healed by the same rules as everything else. Left to others: finding them
(`comparison`), pushing (`outbound`), fetching and applying (`inbound`).

Nothing is deleted by a sweep on a guess: that a key is missing on one side may mean that it was removed there, or that
it never arrived, and which of the two nobody knows after a gap. So what one side has alone is copied to the other.

A sweep that fails goes on with the page where it failed. What it did before may be out of date by then, but only if
there was another gap, and a gap makes another sweep due: that one begins when this one has come to its end, so that
gaps in quick succession cannot keep the last keys from being looked at for ever. Two things make it begin anew: the
link to the site was lost (a cursor means nothing to a server that was restarted; the hub's restart is a gap itself),
and FLUSHALL at either side, since what it would bring back is to be removed. No event tells of one at the hub: before
the sweep says that the two differ, the hub is asked whether it was flushed.

`--initial-sync` says which way differences are copied at first contact, when all of them are older than we are; so
does a sweep that only the timer asked for. After a gap, what was missed is healed, whichever way it had to go, and
what has been different since first contact cannot be told from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import stamina
import structlog

from redisrepl.comparison import Comparison, Place
from redisrepl.errors import RedisreplError
from redisrepl.healing import Healing, Side, Way
from redisrepl.namespaces import Namespaces
from redisrepl.observe.troubles import Trouble

__all__ = ["Sweep"]

_log = structlog.get_logger("redisrepl")

_NOT_ALL_WAS_THERE = "not all that the other side holds is known to have been there"


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
        self._flushed("hub", known=followed and self.settled and self._healing.all_was_pushed)

    def site_flushed(self) -> None:
        """Likewise; without a way back nothing but the site's own keys can be meant."""
        healing = self._healing
        self._flushed("site", "push", known=healing.all_was_pulled and (self.settled or healing.inbound is None))

    def _flushed(self, side: Side, *missed: Way, known: bool) -> None:
        self.owe(f"the {side} was flushed", *missed, emptied=side if known else None)
        if not known:
            _log.warning("sweep.flush_undone", flushed=side, reason=_NOT_ALL_WAS_THERE)

    def detached(self) -> None:
        """The site's stream is lost."""
        self.attached.clear()
        if self._run is not None:
            self._run.place.begin_site_again()

    def follows_flush_of(self, side: Side) -> bool:
        """Whether what this side lacks is being removed from the other."""
        return side in self._emptied or (self._run is not None and side in self._run.emptied)

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
                        self._healing.heal(difference, emptied=run.emptied, missed=run.missed, settled=self.settled)
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
        if not self._healing.all_was_pulled:
            self._distrust_flush("site")

    def _distrust_flush(self, side: Side) -> None:
        """What the other side alone holds may never have been there."""
        if self.follows_flush_of(side):
            self._emptied.pop(side, None)
            if self._run is not None:
                self._run.emptied.pop(side, None)
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
