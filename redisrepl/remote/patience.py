"""How long a request to the hub may take, and how large its reply may be.

In: a timeout, how much has come. Out: the figures, and whether a reply has taken too long. Left to others: stopping
what stands still (`limits`), requests (`remote.session`, `remote.direct`).
"""

from __future__ import annotations

__all__ = ["BESIDE_VALUE", "LARGE", "SLOWEST", "Patience"]

#: Assumed minimum rate in bytes per second: we cannot see how far the kernel's buffers have drained.
SLOWEST = 50_000
#: In units of the timeout, how long a whole reply may take if it comes no faster than `SLOWEST`.
_PATIENCE = 4
#: Bytes of a reply beside one value. A fetch asks for two million; where scripts are refused, all keys come in one.
BESIDE_VALUE = 128 << 20
#: Bytes from which on a reply is a large one, of which one is read at a time.
LARGE = 8 << 20


class Patience:
    """How long one reply may take as a whole, however steadily it moves.

    Args:
        timeout: seconds after which a request that does not move has failed.
        now: by any clock that never goes backwards.
    """

    __slots__ = ("_until",)

    def __init__(self, timeout: float, now: float) -> None:
        self._until = now + _PATIENCE * timeout

    def is_over(self, now: float, received: int) -> bool:
        """Whether what has come by now, in bytes, has come too slowly."""
        return now > self._until + received / SLOWEST
