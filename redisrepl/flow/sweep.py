"""Each side compared with the ancestor whenever that is owed: rule 4 of convergence, and what heals any gap.

In: which sides are owed it (`engine.continuity`). Out: keys that differ, handed to the core. Left to others: finding
them (`flow.comparison`), what is done about each (`engine.core`, `flow.applying`, `flow.pushing`).

A sweep has come to its end when every key that it found has been dealt with; or, while keys are written all the time,
after a while: what is left waits in memory, and is compared anew should the daemon end before. Not so where a server
went back, of which the rest may be older than it seems. A sweep that fails begins anew: with nothing to find, that
costs sums only. What a side lacks is removed from the other only by the table of `engine.reconcile`, and
not if it would be more than `--max-removals`: then the sweep says so, and waits for a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import stamina
import structlog

from redisrepl.engine.continuity import Side
from redisrepl.engine.core import Core
from redisrepl.errors import RedisreplError
from redisrepl.flow.comparison import Comparison, Holder
from redisrepl.namespaces import Namespaces
from redisrepl.observe.troubles import Trouble
from redisrepl.store import Store

__all__ = ["FEW_REMOVALS", "Sweep"]

_log = structlog.get_logger("redisrepl")

#: So few removals are followed whatever part of all keys they are.
FEW_REMOVALS = 100
#: Seconds that a sweep waits for keys that are written all the time.
_PATIENCE = 3.0
_SIDES: tuple[Side, ...] = ("hub", "site")


class Sweep:
    """Compares all namespaces when that is owed, and now and then.

    Args:
        core: decides.
        comparison: finds differences.
        sides: what is compared.
        store: remembers the ancestor.
        namespaces: what is compared.
        ready: returns when both servers are followed and their histories known, and nothing is on its way to the hub
            that was given up.
        period: seconds between sweeps that nothing asked for; 0: none.
        max_removals: which part of all keys one comparison may remove, from 0 to 1.
        wake: called when there is something to push or pull.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.

    Attributes:
        runs: sweeps that came to their end.
        running: why one is under way; None if none is.
        held: how many removals wait for a person; 0: none.
        last: what the last one found, for people; empty before the first.
        next_at: when the timer asks for one, Unix time; None: never, or one is due or under way.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        core: Core,
        comparison: Comparison,
        sides: Mapping[Side, Holder],
        store: Store,
        namespaces: Namespaces,
        *,
        ready: Callable[[], Awaitable[None]],
        period: float,
        max_removals: float,
        wake: Callable[[], None],
        retry: Mapping[str, Any],
    ) -> None:
        self._core = core
        self._comparison = comparison
        self._sides = sides
        self._store = store
        self._namespaces = namespaces
        self._ready = ready
        self._period = period
        self._max_removals = max_removals
        self._wake = wake
        self._retry = retry
        self._changed = asyncio.Event()
        self._awaited: Callable[[], bool] = lambda: False  # what `run` waits for
        self.trouble = Trouble("sweep")
        self.runs = 0
        self.running: str | None = None
        self.held = 0
        self.last: dict[str, object] = {}
        self.next_at: float | None = None

    @property
    def owed(self) -> str | None:
        """Why one is due; None if none is."""
        continuity = self._core.continuity
        return continuity.hub.owed or continuity.site.owed

    def look(self) -> None:
        """One may be due, or what was found may have been dealt with; asked for each write, so it wakes for no less."""
        if self._awaited():
            self._changed.set()

    async def run(self) -> None:
        """Sweep whenever it is owed, for ever."""
        while True:
            self.next_at = time.time() + self._period if self._period else None
            timer = False
            try:
                async with asyncio.timeout(self._period or None):
                    await self._until(lambda: self.owed is not None)
            except TimeoutError:
                timer = True
            self.next_at = None
            async for attempt in stamina.retry_context(on=RedisreplError, **self._retry):
                with attempt:
                    await self._ready()
                    await self._sweep(timer=timer)

    async def _until(self, condition: Callable[[], bool], patience: float | None = None) -> None:
        self._awaited = condition
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()

    async def _sweep(self, *, timer: bool) -> None:
        continuity = self._core.continuity
        sides = [side for side in _SIDES if timer or continuity.of(side).owed]
        reasons = {side: continuity.begin(side) for side in sides}
        self.running = next(filter(None, reasons.values()), "timer")
        went_back = any(continuity.of(side).proved != math.inf for side in _SIDES)
        patience = None if went_back else _PATIENCE
        started, before, different, held = time.monotonic(), self._comparison.compared, 0, 0
        try:
            for side in sides:
                if side == "site":  # what the site's snapshot brought is to be pushed first
                    await self._until(lambda: not len(self._core.outbound.doubtful), patience)
                found, refused = await self._compare(side)
                different, held = different + found, held + refused
            self._wake()
            await self._until(lambda: self._core.quiet, patience)
        except BaseException as error:
            for side, reason in reasons.items():
                state = continuity.of(side)
                state.owed = state.owed or reason or "timer"
            if isinstance(error, RedisreplError):
                self.trouble.failed(error)
            raise
        finally:
            reason, self.running = self.running, None
        self.held = held
        if not held:
            self._core.compared(sides)
        self.runs += 1
        self.trouble.succeeded()
        self.last = {
            "reason": reason,
            "compared": self._comparison.compared - before,
            "different": different,
            "duration_s": round(time.monotonic() - started, 2),
        }
        _log.info("sweep.finished", **self.last)
        self.last["finished_at"] = round(time.time(), 3)

    async def _compare(self, side: Side) -> tuple[int, int]:
        """How many keys differ on this side, and how many more are not removed from the other without a person."""
        different, missing = 0, 0
        lacked: list[bytes] = []
        most = await self._most_removals(side)
        for prefix in self._namespaces:
            async for differing, lacking in self._comparison.differing(self._sides[side], prefix):
                different += len(differing) + len(lacking)
                missing += len(lacking)
                self._core.differs(side, differing)
                if most is None:
                    self._core.differs(side, lacking)
                elif missing <= most:
                    lacked += lacking
                self._wake()
        if most is not None and missing > most:
            self.held = missing
            _log.warning(
                "sweep.removals_held",
                missing_at=side,
                keys=missing,
                limit=most,
                hint="if on purpose: stop it and run redisrepl verify --repair --removals, or give --max-removals 100",
            )
            return different - missing, missing
        self._core.differs(side, lacked)
        self._wake()
        return different, 0

    async def _most_removals(self, side: Side) -> int | None:
        """How many keys that a side lacks may be removed from the other; None: there is no limit."""
        state = self._core.continuity.of(side)
        if "del" not in self._core.policy.kinds or state.flushed or state.proved != math.inf or self._store.fresh:
            return None
        return max(FEW_REMOVALS, int(self._max_removals * await self._store.count()))
