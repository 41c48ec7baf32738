"""Up to which moment of the hub's clock the state of a key is known.

In: what was fetched, pushed or told, and when by the hub. Out: whether news is newer. Left to others: what follows
from that (`engine.inbound`).

Webdis delivers bursts in reverse, so a message of the feed may come after the fetch, or the push, that made it old.
Only the hub's own clock puts them in order. Where that cannot tell, news counts as old: then the key is fetched, which
is always right.
"""

from __future__ import annotations

import math
from collections.abc import Collection

__all__ = ["Freshness"]

#: Keys of one push that are noted one by one; of more, only that anything older is old.
_ONE_BY_ONE = 100


class Freshness:
    """A bounded map from keys to times of the hub, in microseconds.

    Args:
        capacity: keys that are noted; when there are more, all are forgotten.
    """

    __slots__ = ("_blind", "_capacity", "_floor", "_times")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._times: dict[bytes, float] = {}
        self._floor: float = 0
        self._blind = False

    def is_news(self, key: bytes, time: int) -> bool:
        """Whether what happened to the key at this time is newer than all that is known of it."""
        return not self._blind and time > self._floor and time > self._times.get(key, 0)

    def learn(self, keys: Collection[bytes], time: float) -> None:
        """These keys are known as they were at this time; infinity: nobody knows when that was, so nothing is news."""
        if time == math.inf:
            self._blind = True
        elif len(keys) > _ONE_BY_ONE:
            self._floor = max(self._floor, time)
        else:
            if len(self._times) + len(keys) > self._capacity:
                self._forget_keys()
            for key in keys:
                self._times[key] = max(time, self._times.get(key, 0))

    def start_over(self) -> None:
        """No news from before this moment will come any more."""
        self._forget_keys()
        self._blind = False

    def _forget_keys(self) -> None:
        """What is older than the latest that was known of any key counts as old."""
        if self._times:
            self._floor = max(self._floor, *self._times.values())
            self._times.clear()
