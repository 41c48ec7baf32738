"""Compares each side with the ancestor whenever that is owed: rule 4 of convergence, which repairs any outage.

In: which sides must be compared (`engine.continuity`). Out: keys that differ, handed to the core. Left to others:
finding them (`flow.comparison`), what is done about each (`engine.core`, `flow.applying`, `flow.pushing`).

A sweep ends when every key that it found is decided. Until then it counts what is known of the sides (whether writes
were missed, or all was removed), which is forgotten when they are settled. Keys that the site's clients write all the
time are left after a while, since what they write is pushed and agreed on in any case; they stay in memory, and are
compared again if the daemon ends before. After a server went back, or where more was agreed on than is known, these are
waited for too, because they may be older than they seem. If another comparison is due first (the hub may never send one
of the values), it includes the sides of this one. A sweep that fails starts again; if nothing differs, that costs sums
only. Keys that one side lacks are removed from the other only by the table of `engine.reconcile`, and not if they are
more than `--max-removals`: then the sweep says so and waits for a person.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import stamina
import structlog

from redisrepl.engine.continuity import Side
from redisrepl.engine.core import Core
from redisrepl.errors import RedisreplError
from redisrepl.flow.comparison import Comparison, Holder
from redisrepl.namespaces import Namespaces
from redisrepl.observe.failures import FailureLog
from redisrepl.store import Store

__all__ = ["FEW_REMOVALS", "Sweep"]

_log = structlog.get_logger("redisrepl")

#: This many removals are always followed, whatever share of all keys they are.
FEW_REMOVALS = 100
#: Seconds that a sweep waits for keys that are written all the time.
_PATIENCE = 3.0
_SIDES: tuple[Side, ...] = ("hub", "site")


class Sweep:
    """Compares all namespaces when that is owed, and once per period.

    Args:
        core: decides what to do with differences.
        comparison: finds differences.
        sides: read site and hub.
        store: holds the ancestor.
        namespaces: to compare.
        ready: returns when both servers are followed, their histories are known, and no request of unknown outcome can
            still be executed.
        period: seconds between regular sweeps; 0 for none.
        max_removals: the share of all keys that one comparison may remove, from 0 to 1.
        wake: called when there is something to push or pull.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.

    Attributes:
        runs: completed sweeps.
        running: why one is under way; None if none is.
        last: what the last one found, for people; empty before the first.
        next_at: Unix time of the next regular sweep; None if there is none, or one is due or under way.
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
        self.failure_log = FailureLog("sweep")
        self.runs = 0
        self.running: str | None = None
        self._held: dict[Side, int] = {}  # of each side, what the last look at it found
        self.last: dict[str, object] = {}
        self.next_at: float | None = None

    @property
    def held(self) -> int:
        """How many removals wait for a person."""
        return sum(self._held.values())

    @property
    def owed(self) -> str | None:
        """Why a sweep is due; None if none is."""
        continuity = self._core.continuity
        return continuity.hub.owed or continuity.site.owed

    def look(self) -> None:
        """Wake the sweep if it can go on; called for each write, so it checks first."""
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
        reasons = self._core.begin(sides)
        self.running = next(filter(None, reasons.values()), "timer")
        went_back = any(continuity.of(side).proved != math.inf for side in _SIDES)
        patience = None if went_back else _PATIENCE
        started, before, different = time.monotonic(), self._comparison.compared, 0
        try:
            for side in sides:
                if side == "site":  # first push what the site's snapshot brought
                    await self._until(lambda: not len(self._core.outbound.doubtful), patience)
                found, self._held[side] = await self._compare(side)
                different += found
            self._wake()
            decided = await self._decided(all_keys=went_back or continuity.behind)
        except BaseException as error:
            self._owe_again(reasons)
            if isinstance(error, RedisreplError):
                self.failure_log.failed(error)
            raise
        finally:
            reason, self.running = self.running, None
        if not decided:  # another side is owed, or the period has passed: then all are due
            self._owe_again(reasons if self.owed else dict.fromkeys(_SIDES) | reasons)
        elif not any(self._held[side] for side in sides):
            self._core.compared(sides)
        self.runs += 1
        self.failure_log.succeeded()
        self.last = {
            "reason": reason,
            "compared": self._comparison.compared - before,
            "different": different,
            "duration_s": round(time.monotonic() - started, 2),
        }
        _log.info("sweep.finished", **self.last)
        self.last["finished_at"] = round(time.time(), 3)

    def _owe_again(self, reasons: Mapping[Side, str | None]) -> None:
        for side, reason in reasons.items():
            state = self._core.continuity.of(side)
            state.owed = state.owed or reason or "timer"

    async def _decided(self, *, all_keys: bool) -> bool:
        """Wait until what was found is decided, `all_keys` or those that are not written all the time.

        Returns:
            Whether it is; otherwise another comparison is due before.
        """
        core = self._core
        if all_keys:
            return await self._unless_due(lambda: core.quiet)
        await self._until(lambda: core.quiet, _PATIENCE)
        if not await self._unless_due(lambda: not core.undecided):
            return False
        # What was decided for the hub waits among what is in doubt; what joins it from here on was seen to happen.
        return await self._unless_due(core.outbound.doubts.mark())

    async def _unless_due(self, condition: Callable[[], bool]) -> bool:
        """Wait for this as long as no other comparison is due; whether it has come true."""
        await self._until(lambda: condition() or self.owed is not None, self._period or None)
        return condition()

    async def _compare(self, side: Side) -> tuple[int, int]:
        """How many keys differ on this side, and how many further removals wait for a person."""
        different, missing = 0, 0
        lacked: list[bytes] = []
        most = await self._most_removals(side)
        for prefix in self._namespaces:
            async for differing, lacking in self._comparison.differing(self._sides[side], prefix):
                different += len(differing) + len(lacking)
                missing += len(lacking)
                await self._found(side, differing)
                if most is None:
                    await self._found(side, lacking)
                elif missing <= most:
                    lacked += lacking
        if most is not None and missing > most:
            _log.warning(
                "sweep.removals_held",
                missing_at=side,
                keys=missing,
                limit=most,
                hint="if on purpose: stop it and run redisrepl verify --repair --removals, or start it with "
                "--max-removals 100; otherwise only the next comparison looks at them again (--sweep-period; with 0 "
                "after a restart or an outage)",
            )
            return different - missing, missing
        await self._found(side, lacked)
        return different, 0

    async def _found(self, side: Side, keys: Sequence[bytes]) -> None:
        """Hand on keys that differ, as there is room: what is left out has to be found again."""
        while keys:
            await self._until(lambda: self._core.room > 0)
            room = self._core.room
            self._core.differs(side, keys[:room])
            self._wake()
            keys = keys[room:]

    async def _most_removals(self, side: Side) -> int | None:
        """How many keys that this side lacks may be removed from the other; None for no limit."""
        state = self._core.continuity.of(side)
        if "del" not in self._core.policy.kinds or state.flushed or state.proved != math.inf or self._store.fresh:
            return None
        return max(FEW_REMOVALS, int(self._max_removals * await self._store.count()))
