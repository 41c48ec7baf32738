"""Reads what the site sends less often, and more at a time, for those who prefer less work to the least delay.

In: how much was read. Out: a pause before more is read. Left to others: reading (`local.stream`, `local.notify`), the
hub's side (`flow.spacing`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

__all__ = ["Linger"]

#: Bytes of one read after which there may be more at once: a socket, or the site's own buffer, is being emptied.
_MUCH = 16 << 10
#: Bytes per second at which writes come together anyway, and a pause would only make the site keep more of them.
_FAST = 1 << 20


class Linger:
    """Pauses between small reads. What comes first after a longer silence is read at once.

    Args:
        seconds: of each pause; 0: there is none.

    Attributes:
        pausing: there is a pause now.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        self._hurried = 0  # how many wait for what was not read yet
        self._over = asyncio.Event()
        self._emptied = True  # the last read was a small one
        self._window = -math.inf  # when that of `_read` began, which is as long as a pause
        self._read = self._read_before = 0  # bytes, in this window and in the one before
        self.pausing = False

    async def pause(self, size: int, writer: asyncio.StreamWriter) -> None:
        """So many bytes were read of this connection, and taken; no more are read until the pause is over."""
        if not self._seconds:
            return
        emptied, self._emptied = self._emptied, size < _MUCH
        fast = self._count(size) >= max(_MUCH, _FAST * self._seconds)
        if fast or self._hurried or not (emptied and self._emptied):
            return
        self._over.clear()
        transport = cast("asyncio.Transport", writer.transport)
        transport.pause_reading()  # else each segment wakes the loop all the same
        self.pausing = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    await self._over.wait()
        finally:
            self.pausing = False
            transport.resume_reading()

    def _count(self, size: int) -> int:
        """Bytes that were read lately, with these."""
        now = asyncio.get_running_loop().time()
        if (passed := now - self._window) >= self._seconds:
            self._read_before = self._read if passed < 2 * self._seconds else 0
            self._window, self._read = now, 0
        self._read += size
        return self._read + self._read_before

    async def catch_up(self) -> None:
        """Read what was sent during a pause: go on without one for as long as one takes."""
        with self.hurried():
            await asyncio.sleep(self._seconds)

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Meanwhile there are no pauses: somebody waits for what the site has sent."""
        self._hurried += 1
        self._over.set()
        try:
            yield
        finally:
            self._hurried -= 1
