"""Bytes to standard output without ever holding up the event loop.

In: bytes. Out: the same on a file descriptor, at once, however slowly it is read. Left to others: what is written, and
what to do when nobody reads any more.

A descriptor that others may share must not be made non-blocking, and a thread that is stuck in a write cannot be
stopped. So a write is made only when the system says that it has room, and is small enough to fit then: a pipe that has
room has it for PIPE_BUF bytes.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Output"]


class Output:
    """An open file descriptor.

    Args:
        descriptor: of a pipe, a file, a terminal or a socket.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    async def write(self, lines: bytes) -> None:
        """Write whole lines; when cancelled meanwhile, the one that was begun is still ended if there is room.

        Raises:
            BrokenPipeError: nobody reads any more. OSError: the disk is full, ...
        """
        rest = memoryview(lines)
        try:
            while rest:
                if not self._has_room():
                    await self._room()
                rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]
        except asyncio.CancelledError:
            written = len(lines) - len(rest)
            if written and lines[written - 1 : written] != b"\n":
                self._end_line(rest[: lines.index(b"\n", written) + 1 - written])
            raise

    @contextmanager
    def watched(self, closed: Callable[[], None]) -> Iterator[None]:
        """Call `closed` as soon as the reader of a pipe is gone; of anything else only a write tells."""
        if not stat.S_ISFIFO(os.fstat(self._descriptor).st_mode):
            yield
            return
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(self._descriptor)  # the error stays: do not be told again and again
            if dict(self._poll.poll(0)).get(self._descriptor, 0) & select.POLLERR:
                closed()

        loop.add_reader(self._descriptor, gone)  # an end to write to is "readable" when it is broken, and only then
        try:
            yield
        finally:
            loop.remove_reader(self._descriptor)

    def _has_room(self) -> bool:
        return bool(self._poll.poll(0))  # an error counts: the write then says which

    async def _room(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_writer(self._descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._descriptor)

    def _end_line(self, rest: memoryview) -> None:
        while rest and self._has_room():
            rest = rest[os.write(self._descriptor, rest[: select.PIPE_BUF]) :]
