"""Tracks whether the hub answers, for all tasks that send it requests.

In: the outcome of each request. Out: permission to send one. Left to others: sending requests (`remote.session`,
`remote.direct`), and what a failure means.

While the hub answers, nobody waits. When it does not, or a subscription ended, one request at a time may try, after
growing pauses; the others wait for its outcome. The first that is answered lets all go on. At the start nothing is
known, so one tries first.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Self

__all__ = ["HubHealth", "Trial"]

#: Seconds of the first pause. The first try after a failure is made at once; the pause comes before the second.
_FIRST_PAUSE = 0.25


class Trial:
    """One request; its owner reports the outcome."""

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
        self.end()  # in case no outcome was reported: it was cancelled, or failed for another reason

    def answered(self) -> None:
        """The hub has answered. Whatever ends the answer later, the hub counts as there."""
        self._answered = True
        if self._probes:
            self._probes = False
            self._health.found()

    def failed(self) -> None:
        """The hub did not answer, or not as it should."""
        if self._answered:
            return
        self._health.lost(probed=self._probes)
        self.end()

    def end(self) -> None:
        """The request is over: another may try."""
        if self._probes:
            self._probes = False
            self._health.released()


class HubHealth:
    """Whether one hub answers, as far as we know.

    Args:
        retry_max: longest pause between two tries, in seconds.
        clock: seconds that never go backwards.

    Attributes:
        well: whether the last request was answered.
    """

    def __init__(self, retry_max: float = 15.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._retry_max = retry_max
        self._clock = clock
        self._failures = 0
        self._next_at = 0.0
        self._turn = asyncio.Lock()
        self.well = False

    @property
    def away(self) -> bool:
        """Whether the last request that told was not answered as it should."""
        return self._failures > 0

    def trial(self) -> Trial:
        """A context that is entered when a request may be sent."""
        return Trial(self)

    async def may_try(self) -> bool:
        """Wait for the turn to try: True. False: meanwhile another request was answered, so nobody has to try."""
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

    # Called by trials.

    def found(self) -> None:
        """The request that tried was answered."""
        self.well = True
        self._failures = 0
        self._turn.release()

    def doubted(self) -> None:
        """A subscription has ended, perhaps because the hub is away: one request finds out, before all others."""
        self.well = False

    def lost(self, *, probed: bool) -> None:
        """A request failed. Of many that were under way when the hub went away, one counts."""
        if self.well or probed:
            self.well = False
            self._failures += 1
            pause = min(self._retry_max, _FIRST_PAUSE * 2 ** min(self._failures - 2, 20)) if self._failures > 1 else 0.0
            self._next_at = self._clock() + pause * random.uniform(0.5, 1)  # noqa: S311 - so that sites do not retry in step

    def released(self) -> None:
        """The request that tried has failed, or was cancelled."""
        self._turn.release()
