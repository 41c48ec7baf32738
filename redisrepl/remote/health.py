"""Tracks whether the hub answers, for all tasks that send it requests.

In: the outcome of each request. Out: permission to send one. Left to others: sending requests (`remote.session`,
`remote.direct`), and what a failure means.

While the hub answers, nobody waits. When it does not, or a subscription ended, one request at a time may try, after
growing pauses; the others wait for its outcome. The first that is answered lets all go on. At the start nothing is
known, so one tries first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Self

from redisrepl.pauses import Pauses

__all__ = ["HubHealth", "Trial"]


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
        away: whether the last request that told was not answered as it should.
    """

    def __init__(self, retry_max: float = 15.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pauses = Pauses(retry_max)
        self._clock = clock
        self.away = False
        self._next_at = 0.0
        self._turn = asyncio.Lock()
        self.well = False

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
        self.well, self.away = True, False
        self._pauses.passed()
        self._turn.release()

    def doubted(self) -> None:
        """A subscription has ended, perhaps because the hub is away: one request finds out, before all others."""
        self.well = False

    def lost(self, *, probed: bool) -> None:
        """A request failed. Of many that were under way when the hub went away, one counts."""
        if self.well or probed:
            # The first try after a failure is made at once; the pause comes before the second.
            self._next_at = self._clock() + (self._pauses.next() if self.away else 0.0)
            self.well, self.away = False, True

    def released(self) -> None:
        """The request that tried has failed, or was cancelled."""
        self._turn.release()
