"""When a batch may leave, and how many may be on their way.

In: what is ready, the time, how batches came back. Out: a delay. Left to others: waiting (`outbound`).
"""

from __future__ import annotations

import math

__all__ = ["Pacer"]


class Pacer:
    """A lone write leaves at once; small batches never eat the processor.

    While others are on their way, the next batch leaves when it is worth a request of its own, or when the last left
    `interval` seconds ago.

    Args:
        most: batches on their way at a time.
        worthwhile: changes that are worth a request.
        interval: seconds between the departures of smaller batches.

    Attributes:
        limit: batches that may be on their way now; halved when the hub is overloaded, grown one by one.
        out: batches on their way.
    """

    __slots__ = ("_interval", "_last", "_most", "_worthwhile", "limit", "out")

    def __init__(self, most: int, worthwhile: int, interval: float) -> None:
        self._most = most
        self._worthwhile = worthwhile
        self._interval = interval
        self._last = -math.inf
        self.limit = most
        self.out = 0

    def delay(self, ready: int, now: float) -> float:
        """Seconds until a batch may leave; infinity: not before another one came back."""
        if self.out >= self.limit:
            return math.inf
        if not self.out or ready >= self._worthwhile:
            return 0.0
        return max(0.0, self._last + self._interval - now)

    def left(self, now: float) -> None:
        """A batch is on its way."""
        self.out += 1
        self._last = now

    def returned(self, *, overloaded: bool = False) -> None:
        """A batch came back; an overloaded hub gets fewer side by side."""
        self.out -= 1
        self.limit = max(1, self.limit // 2) if overloaded else min(self._most, self.limit + 1)
