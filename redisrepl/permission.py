"""What a server refuses us, and may allow later: it is left out for a while, and then tried again.

In: what was refused, and what was not. Out: whether to try. Left to others: trying, what is done without it, saying so.

An ACL that somebody edits is wrong for a moment. Without another try, what it refused then would be missing until the
next start.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Permission"]

#: Seconds after which what was refused is tried again: an administrator may have allowed it meanwhile.
_PROBE_EVERY = 300.0


class Permission:
    """To do one thing at one server.

    Args:
        clock: seconds that never go backwards.

    Attributes:
        allowed: whether the server lets us do it; found out by trying.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._probe_at = math.inf
        self.allowed = True

    @property
    def worth_trying(self) -> bool:
        """Whether to do it next time."""
        return self.allowed or self._clock() >= self._probe_at

    def refused(self) -> bool:
        """It was refused: it is not tried for a while. Returns whether that is news."""
        news, self.allowed = self.allowed, False
        self._probe_at = self._clock() + _PROBE_EVERY
        return news

    def granted(self) -> bool:
        """It was done. Returns whether that is news."""
        news, self.allowed = not self.allowed, True
        return news
