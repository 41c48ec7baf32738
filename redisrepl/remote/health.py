"""Whether the hub is there, found out once for all who want something of it.

In: what became of requests. Out: leave to make one. Left to others: making requests (`session`), and what a failure
means.

While the hub answers, nobody waits. Once it does not, one at a time may try, after pauses that grow; the others wait
for what comes of that. Who finds it back wakes all. Whether it is there at the start is not known: so one tries first.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Self

__all__ = ["HubHealth", "Trial"]

#: Seconds before the second try of those that follow a failure; the first is made at once.
_FIRST_PAUSE = 0.25


class Trial:
    """One request; it is told what became of it."""

    __slots__ = ("_answered", "_health", "_probes")

    def __init__(self, health: HubHealth) -> None:
        self._health = health
        self._probes = False
        self._answered = False

    async def __aenter__(self) -> Self:
        if not self._health.well:
            self._probes = await self._health.may_try()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()  # if nothing was said: it was cancelled, or failed for a reason of its own

    def answered(self) -> None:
        """The hub is there; what ends the answer later says nothing of it."""
        self._answered = True
        if self._probes:
            self._probes = False
            self._health.found()

    def failed(self) -> None:
        """It is not, or not well."""
        if self._answered:
            return
        self._health.lost(probed=self._probes)
        self.end()

    def end(self) -> None:
        """It is over: another may try."""
        if self._probes:
            self._probes = False
            self._health.released()


class HubHealth:
    """What is known of one hub.

    Args:
        retry_max: longest pause between two tries, in seconds.
        clock: seconds that never go backwards.
    """

    def __init__(self, retry_max: float = 15.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._retry_max = retry_max
        self._clock = clock
        self._failures = 0
        self._next_at = 0.0
        self._turn = asyncio.Lock()
        self.well = False

    def trial(self) -> Trial:
        """Make a request, once it may be made: inside of this context."""
        return Trial(self)

    async def may_try(self) -> bool:
        """Wait for one's turn to try; no: meanwhile the hub was found."""
        await self._turn.acquire()
        try:
            if not self.well:
                await asyncio.sleep(max(0.0, self._next_at - self._clock()))
                return True
        except BaseException:
            self._turn.release()
            raise
        self._turn.release()
        return False

    # What a trial tells.

    def found(self) -> None:
        """Who tried was answered."""
        self.well = True
        self._failures = 0
        self._turn.release()

    def lost(self, *, probed: bool) -> None:
        """A request failed. Of many that were under way when the hub went, one counts."""
        if self.well or probed:
            self.well = False
            self._failures += 1
            pause = min(self._retry_max, _FIRST_PAUSE * 2 ** min(self._failures - 2, 20)) if self._failures > 1 else 0.0
            self._next_at = self._clock() + pause * random.uniform(0.5, 1)  # noqa: S311 - so that sites do not march

    def released(self) -> None:
        """Who tried has failed, or given up."""
        self._turn.release()
