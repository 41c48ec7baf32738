"""How much may be asked of a server that has refused what it was asked: little, by one at a time, after a pause.

In: what was refused, and what passed. Out: how much may be asked now. Left to others: asking (`flow.applying`).

A refusal may be about one key or about all of them. So the next request is for one key, and asks about another one,
since what was refused waits behind all others. Each that passes lets the next one be twice as large; when they are as
large as ever, all may ask again, and the pauses are short again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redisrepl.errors import RedisreplError
from redisrepl.flow.pacing import is_an_answer
from redisrepl.pauses import Pauses

__all__ = ["Tries"]


class Tries:
    """What several tasks may ask of one server.

    Args:
        most: keys in one request.
        longest_pause: seconds between two tries while the server answers and refuses everything.
        wake: called when one may try.
    """

    def __init__(self, most: int, longest_pause: float, wake: Callable[[], None]) -> None:
        self._most = self._now = most
        self._pauses = Pauses(longest_pause)
        self._wake = wake
        self._later: asyncio.TimerHandle | None = None
        self._trying = False

    @property
    def most(self) -> int:
        """Keys that may be asked for now; 0: `wake` is called when some may."""
        return 0 if self._trying or self._later is not None else self._now

    @contextmanager
    def one(self) -> Iterator[None]:
        """Ask, and learn from what comes of it."""
        tries = self._trying = bool(self._pauses)
        try:
            yield
        except RedisreplError as error:
            if is_an_answer(error):
                self._refused()
            raise
        else:
            if tries:
                self._passed()
        finally:
            if tries:
                self._trying = False
                if self._later is None:
                    self._wake()

    def _refused(self) -> None:
        if self._later is not None:
            return  # another one has told already
        self._now = 1
        self._later = asyncio.get_running_loop().call_later(self._pauses.next(), self._over)

    def _over(self) -> None:
        self._later = None
        self._wake()

    def _passed(self) -> None:
        self._now = min(self._most, 2 * self._now)
        if self._now == self._most:
            self._pauses.passed()
