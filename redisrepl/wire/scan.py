"""A scan from its beginning to its end, by cursors that a server returns; it has an end, whatever the server says.

In: cursors, one after the other. Out: with which to go on, or that this was the last. Left to others: asking, and what
the steps bring (`flow.comparison`, `local.read`, `wire.totals`).

A server may return any cursor, and any number of steps that bring nothing: others' keys, or a table that was emptied.
But it keeps nothing between two steps, and each brings it further: in Redis and Valkey the bits of the cursor, turned
round, only grow, also while the table does. So a cursor that comes again would come again for ever.
"""

from __future__ import annotations

from redisrepl.errors import ProtocolError

__all__ = ["Scan"]

#: Steps in one scan: of 500 keys or 5,000 places in a table each, that is twice as many keys as a Redis can hold.
_MOST = 1 << 24


class Scan:
    """One scan.

    Args:
        asked: what is asked of whom, for messages.

    Attributes:
        cursor: of the next step.
    """

    __slots__ = ("_asked", "_earlier", "_steps", "cursor")

    def __init__(self, asked: str) -> None:
        self._asked = asked
        self._steps = 0
        self._earlier = b""  # at the last step whose number is a power of two: so any circle is found, and one is kept
        self.cursor = b"0"

    def ends(self, cursor: bytes) -> bool:
        """Go on with the cursor that a step returned; whether it was the last step.

        Raises:
            ProtocolError: it would go on for ever.
        """
        if cursor == b"0":
            return True
        self._steps += 1
        if cursor == self._earlier:
            raise ProtocolError(f"{self._asked} goes round in a circle: it returned the cursor {cursor.decode()} again")
        if self._steps > _MOST:
            raise ProtocolError(f"{self._asked} has no end: it has returned {self._steps} cursors")
        if not self._steps & (self._steps - 1):
            self._earlier = cursor
        self.cursor = cursor
        return False
