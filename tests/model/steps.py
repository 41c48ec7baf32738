"""Coroutines that are moved on step by step, in any order, without an event loop.

In: coroutines whose every wait is a `Wire` or an `Until`. Out: `Task`, which says what it waits for. Left to others:
which of them is moved on next (`world`).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any

from redisrepl.errors import RedisreplError


class Wire:
    """Something is on its way; it arrives when its task is moved on, or is lost.

    Args:
        lose: what its loss does, and the error by which it is seen; None: it cannot be lost.
    """

    def __init__(self, lose: Callable[[], RedisreplError] | None = None) -> None:
        self.lose = lose

    def __await__(self) -> Generator[Wire, None, None]:
        yield self


class Until:
    """Something must come about first."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self.condition = condition

    def __await__(self) -> Generator[Until, None, None]:
        while not self.condition():
            yield self


class Lock:
    """`asyncio.Lock` without a loop."""

    def __init__(self) -> None:
        self._held = False

    async def __aenter__(self) -> None:
        await Until(lambda: not self._held)
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self._held = False

    def locked(self) -> bool:
        return self._held


class Task:
    """One coroutine.

    Attributes:
        kind: what it does.
        over: it has come to its end, or failed.
    """

    def __init__(self, kind: str, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.kind = kind
        self._coroutine = coroutine
        self._waits: object = None
        self.over = False
        self.step()

    @property
    def movable(self) -> bool:
        """Whether it can be moved on."""
        return not isinstance(self._waits, Until) or self._waits.condition()

    @property
    def losable(self) -> bool:
        """Whether it waits for something that may be lost."""
        return isinstance(self._waits, Wire) and self._waits.lose is not None

    def step(self) -> None:
        """What it waits for has come."""
        try:
            self._waits = self._coroutine.send(None)
        except (StopIteration, RedisreplError):
            self.over = True

    def lose(self) -> None:
        """What it waits for is lost."""
        try:
            self._waits = self._coroutine.throw(self._waits.lose())
        except (StopIteration, RedisreplError):
            self.over = True

    def kill(self) -> None:
        """Nobody waits any more; what is on its way may arrive nevertheless."""
        if self.losable:
            self._waits.lose()
        self._coroutine.close()
        self.over = True
