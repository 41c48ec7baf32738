"""How long a request to the hub may take, and how large its reply may be.

In: a timeout, the bytes received so far. Out: the limits, and whether a reply has taken too long. Left to others: what
a command may be answered with (`wire.sizes`), stopping a request that makes no progress (`limits`), requests
(`remote.session`, `remote.direct`).
"""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import Self

from redisrepl.limits import Limit
from redisrepl.memory import left_over
from redisrepl.wire.sizes import SMALL

__all__ = ["BESIDE_VALUE", "LARGE", "SLOWEST", "Patience", "Room"]

#: Assumed minimum rate in bytes per second: we cannot see how far the kernel's buffers have drained.
SLOWEST = 50_000
#: Timeouts that a whole reply may take beyond the time that it needs at `SLOWEST`.
_PATIENCE = 4
#: Bytes that a reply with values may have beside one value, with what its elements take in memory. A fetch asks for two
#: million; where scripts are refused, the list of all keys is one reply.
BESIDE_VALUE = 128 << 20
#: Larger replies are read one at a time, so that together they do not fill the memory.
LARGE = 8 << 20


class Patience:
    """How long one whole reply may take, even if its bytes keep arriving.

    Args:
        timeout: seconds after which a request without progress has failed.
        now: by any clock that never goes backwards.
    """

    __slots__ = ("_until",)

    def __init__(self, timeout: float, now: float) -> None:
        self._until = now + _PATIENCE * timeout

    def is_over(self, now: float, received: int) -> bool:
        """Whether the bytes received by now have arrived too slowly."""
        return now > self._until + received / SLOWEST


class Room:
    """The place that one reply takes in memory, until it is a value: of large ones there is one at a time.

    Args:
        turn: shared by all that may be large.

    Attributes:
        size: bytes received so far.
        waited: seconds for which it has waited for its turn.
    """

    __slots__ = ("_taken", "_turn", "size", "waited")

    def __init__(self, turn: asyncio.Lock) -> None:
        self._turn = turn
        self._taken = False
        self.size = 0
        self.waited = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def grown(self, size: int, limit: Limit | None = None) -> None:
        """So many more bytes have come; to wait for its turn does not count against the limit."""
        self.size += size
        if self.size <= LARGE or self._taken:
            return
        now = asyncio.get_running_loop().time
        began = now()
        with limit.paused() if limit is not None else nullcontext():
            await self._turn.acquire()
        self._taken = True
        self.waited = now() - began

    async def __aexit__(self, kind: object, *_: object) -> None:
        if self._taken:
            self._turn.release()
        if kind is not None and self.size > SMALL:
            left_over()
