"""Reads what the site sends less often, and more at a time, for those who prefer less work to the least delay.

In: how much was read. Out: a pause before more is read. Left to others: reading (`local.stream`, `local.notify`), the
hub's side (`flow.spacing`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

__all__ = ["Linger"]

#: Bytes of one read after which the next follows at once: the site sends so fast that writes come together anyway.
_MUCH = 16 << 10


class Linger:
    """Pauses between small reads. What comes first after a longer silence is read at once.

    Args:
        seconds: of each pause; 0: there is none.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._hurried = 0  # how many wait for what was not read yet
        self._over = asyncio.Event()

    async def pause(self, size: int, writer: asyncio.StreamWriter) -> None:
        """So many bytes were read of this connection, and taken; no more are read until the pause is over."""
        if not self._seconds or self._hurried or size >= _MUCH:
            return
        self._over.clear()
        transport = cast("asyncio.Transport", writer.transport)
        transport.pause_reading()  # else each segment wakes the loop all the same
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._over.wait()
        finally:
            transport.resume_reading()

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Meanwhile there are no pauses: somebody waits for what the site has sent."""
        self._hurried += 1
        self._over.set()
        try:
            yield
        finally:
            self._hurried -= 1
