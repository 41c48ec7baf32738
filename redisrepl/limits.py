"""Time limits for steps that are many and short: the same as `asyncio.timeout`, but one timer for all of them.

In: seconds. Out: `TimeoutError` in the step that took longer. Left to others: how long a step may take.

Nearly every step ends in time. A timer of its own, set and then stopped, costs as much as a good part of the step, so a
`Limits` has one, which is set to when the first of them might be over and looks at all that are under way then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

__all__ = ["Limit", "Limits"]


class Limits:
    """Limits of one kind of step: those whose lengths differ much had better not share a timer."""

    __slots__ = ("_timer", "_under_way")

    def __init__(self) -> None:
        self._under_way: set[Limit] = set()
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> Limit:
        """What is done inside of this context ends within so many seconds.

        Raises:
            TimeoutError: on leaving it, if the step was stopped for that.
        """
        return Limit(self, seconds)

    def _begin(self, limit: Limit, loop: asyncio.AbstractEventLoop) -> None:
        self._under_way.add(limit)
        timer = self._timer
        if timer is None or limit.ends_at < timer.when():
            if timer is not None:
                timer.cancel()
            self._timer = loop.call_at(limit.ends_at, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop what took too long; come back when the next may have."""
        self._timer = None
        now = loop.time()
        for limit in [limit for limit in self._under_way if limit.ends_at <= now]:
            limit._expire()  # noqa: SLF001 - its own
            self._under_way.discard(limit)
        soonest = min((limit.ends_at for limit in self._under_way), default=math.inf)
        if soonest != math.inf:
            self._timer = loop.call_at(soonest, self._look, loop)


class Limit:
    """One step that has a limit; made by `Limits.within`.

    Attributes:
        ends_at: when it has to be over, by the clock of the event loop.
    """

    __slots__ = ("_cancelling", "_expired", "_limits", "_loop", "_task", "ends_at", "seconds")

    def __init__(self, limits: Limits, seconds: float) -> None:
        self._limits = limits
        self.seconds = seconds
        self.ends_at = 0.0

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only what a task does can be limited")
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self._loop = loop = asyncio.get_running_loop()
        self.ends_at = loop.time() + self.seconds
        self._limits._begin(self, loop)  # noqa: SLF001 - its own
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limits._under_way.discard(self)  # noqa: SLF001 - its own
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def put_off(self, seconds: float) -> None:
        """There is so much time from now on, or what there was, if that is more."""
        self.ends_at = max(self.ends_at, self._loop.time() + seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time does not count meanwhile."""
        left, self.ends_at = self.ends_at - self._loop.time(), math.inf
        try:
            yield
        finally:
            self.ends_at = self._loop.time() + left
            self._limits._begin(self, self._loop)  # noqa: SLF001 - its own

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()
