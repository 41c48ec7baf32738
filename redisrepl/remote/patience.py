"""How long a request to the hub may take, and how large its reply may be.

In: word that a piece has moved. Out: limits, put off. Left to others: requests (`remote.session`, `remote.direct`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["BESIDE_VALUE", "PATIENCE", "SLOWEST", "put_off"]

#: Assumed minimum rate in bytes per second: we cannot see how far the kernel's buffers have drained.
SLOWEST = 50_000
#: In units of the timeout, how long a whole reply may take if it comes no faster than `SLOWEST`.
PATIENCE = 4
#: Bytes of a reply beside one value. A fetch asks for two million; where scripts are refused, all keys come in one.
BESIDE_VALUE = 128 << 20


def put_off(limit: asyncio.Timeout, seconds: float) -> None:
    """Allow so many seconds from now on, or nine tenths of them: not every small piece sets a timer."""
    later = asyncio.get_running_loop().time() + seconds
    if (limit.when() or 0.0) < later - seconds / 10:
        with suppress(RuntimeError):  # it is over: the answer came, or time was up, before the last piece was asked for
            limit.reschedule(later)
