"""Small requests at most so often: what comes in between shares the next one.

In: how much is ready. Out: whether it may leave now. Left to others: what leaves (`flow.applying`), the site's side
(`local.linger`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

__all__ = ["Spacing"]


class Spacing:
    """A lone request leaves at once, and one that is worthwhile; others leave so long after the one before.

    Args:
        seconds: between small requests; 0: each leaves at once.
        worthwhile: keys that are worth a request of their own.
        wake: called when one may leave that might not.
    """

    def __init__(self, seconds: float, worthwhile: int, wake: Callable[[], None]) -> None:
        self._seconds = seconds
        self._worthwhile = worthwhile
        self._wake = wake
        self._last = -math.inf
        self._later: asyncio.TimerHandle | None = None

    def may_leave(self, ready: int) -> bool:
        """Whether a request may leave now, of so many keys; if not, `wake` is called when it may."""
        if not self._seconds or ready >= self._worthwhile:
            return True
        loop = asyncio.get_running_loop()
        if loop.time() >= self._last + self._seconds:
            return True
        if self._later is None:
            self._later = loop.call_at(self._last + self._seconds, self._over)
        return False

    def left(self) -> None:
        """A request leaves."""
        if self._seconds:
            self._last = asyncio.get_running_loop().time()

    def _over(self) -> None:
        self._later = None
        self._wake()
