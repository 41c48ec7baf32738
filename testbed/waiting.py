"""Waiting for a condition: the only way a test passes time.

In: a predicate. Out: its first true value, or an AssertionError that says what was still missing.
Left to others: what to wait for.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["eventually", "eventually_async"]

T = TypeVar("T")

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


def eventually(predicate: Callable[[], T], timeout: float = 10.0, description: str = "") -> T:
    """Return the first true value of `predicate`, asked again and again for at most `timeout` seconds.

    A predicate that raises AssertionError is not true yet; any other exception is the caller's business and passes.
    """
    for pause in _pauses(timeout):
        try:
            value = predicate()
        except AssertionError as error:
            missing: object = error
        else:
            if value:
                return value
            missing = value
        time.sleep(pause)
    raise AssertionError(_complaint(predicate, timeout, description, missing))


async def eventually_async(
    predicate: Callable[[], T | Awaitable[T]],
    timeout: float = 10.0,
    description: str = "",
) -> T:
    """Like `eventually`, for a test whose event loop must go on turning; the predicate may be a coroutine function."""
    for pause in _pauses(timeout):
        try:
            value = predicate()
            if inspect.isawaitable(value):
                value = await value
        except AssertionError as error:
            missing: object = error
        else:
            if value:
                return value
            missing = value
        await asyncio.sleep(pause)
    raise AssertionError(_complaint(predicate, timeout, description, missing))


def _pauses(timeout: float) -> Iterator[float]:
    """Growing pauses until the deadline has passed; at least one, so that every predicate is asked once."""
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while True:
        yield pause
        if time.monotonic() >= deadline:
            return
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _complaint(predicate: Callable[[], object], timeout: float, description: str, missing: object) -> str:
    what = description or _name(predicate)
    return f"not true within {timeout:g} s: {what} (last seen: {missing!r})"


def _name(predicate: Callable[[], object]) -> str:
    code = getattr(predicate, "__code__", None)
    name = getattr(predicate, "__qualname__", repr(predicate))
    return f"{name} at {Path(code.co_filename).name}:{code.co_firstlineno}" if code else name
