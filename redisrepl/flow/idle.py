"""Tasks that have nothing to do, in the order in which they came to have it: each piece of news wakes one of them.

In: news. Out: one task that goes on. Left to others: whether there is work, which a task that was woken looks for.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Idle"]


class Idle:
    """Tasks that wait for work."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Return when there may be work for this task."""
        woken = asyncio.get_running_loop().create_future()
        self._waiting.append(woken)
        try:
            await woken
        except asyncio.CancelledError:
            if not woken.cancelled():
                self.wake()  # the news came just before: it is for another one
            raise

    def wake(self) -> None:
        """There may be work for one."""
        while self._waiting:
            woken = self._waiting.popleft()
            if not woken.done():  # else its task has been cancelled
                woken.set_result(None)
                return
