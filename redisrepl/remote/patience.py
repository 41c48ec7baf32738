"""How long a request to the hub may take, and how large its reply may be.

In: nothing. Out: the figures. Left to others: keeping to them (`limits`), requests (`remote.session`, `remote.direct`).
"""

from __future__ import annotations

__all__ = ["BESIDE_VALUE", "PATIENCE", "SLOWEST"]

#: Assumed minimum rate in bytes per second: we cannot see how far the kernel's buffers have drained.
SLOWEST = 50_000
#: In units of the timeout, how long a whole reply may take if it comes no faster than `SLOWEST`.
PATIENCE = 4
#: Bytes of a reply beside one value. A fetch asks for two million; where scripts are refused, all keys come in one.
BESIDE_VALUE = 128 << 20
