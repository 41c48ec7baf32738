"""Pauses between tries of something that fails: each is twice as long as the one before.

In: how the tries went. Out: seconds. Left to others: waiting, and what is tried (`flow.pacing`, `flow.tries`,
`remote.health`, `remote.subscribe`); links, which are made again in their own way (`links`).
"""

from __future__ import annotations

import random

__all__ = ["Pauses"]

_FIRST = 0.25
#: Doublings after which a pause is the longest, whatever that is.
_MOST = 20


class Pauses:
    """The pauses before further tries; a part of each, by chance, so that many sites do not try in step.

    Args:
        longest: seconds of the longest.
    """

    __slots__ = ("_failures", "_longest")

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._failures = 0

    def __bool__(self) -> bool:
        """Whether the last try failed."""
        return self._failures > 0

    def next(self) -> float:
        """A try has failed: seconds until the next one."""
        pause: float = min(self._longest, _FIRST * 2 ** min(self._failures, _MOST))
        self._failures += 1
        return pause * random.uniform(0.5, 1)  # noqa: S311 - nobody has to be unable to guess it

    def passed(self) -> None:
        """A try has not failed: the next pause is a short one again."""
        self._failures = 0
