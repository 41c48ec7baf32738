"""A scan from its beginning to its end, by cursors that a server returns; it has an end, whatever the server says.

In: cursors, one after the other. Out: with which to go on, or that this was the last. Left to others: asking, and what
the steps bring (`flow.comparison`, `local.read`, `wire.totals`).

A server may return any cursor, and any number of steps that bring nothing: others' keys, or a table that was emptied.
So neither the number of its keys nor the steps that bring none say when a scan has to end. But it keeps nothing between
two steps, and each brings it further: in Redis and Valkey the bits of the cursor, turned round, only grow, also while
the table does. So a cursor that comes again would come again for ever, and one that is ahead of the next is from a
server that has no such order. Others may have another one, so that is allowed as often as no small server needs it.
"""

from __future__ import annotations

from redisrepl.errors import ProtocolError

__all__ = ["Scan"]

#: Steps in one scan: of 500 keys or 5,000 places in a table each, that is twice as many keys as a Redis can hold.
_MOST = 1 << 24
#: Cursors that may be behind the one before, of which Redis and Valkey return none. Where numbers have no order or that
#: of counting, it is every second, so that is a scan of 16 million keys.
_MOST_BACK = 1 << 14
_BITS = 64


class Scan:
    """One scan.

    Args:
        asked: what is asked of whom, for messages.

    Attributes:
        cursor: of the next step.
    """

    __slots__ = ("_asked", "_back", "_earlier", "_place", "_steps", "cursor")

    def __init__(self, asked: str) -> None:
        self._asked = asked
        self._steps = self._back = 0
        self._place = 0
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
        place = _place(cursor)
        self._back += place < self._place
        self._place = place
        if self._steps > _MOST or self._back > _MOST_BACK:
            raise ProtocolError(
                f"{self._asked} has no end: it has returned {self._steps} cursors, {self._back} of them out of order"
            )
        if not self._steps & (self._steps - 1):
            self._earlier = cursor
        self.cursor = cursor
        return False


def _place(cursor: bytes) -> int:
    """How far a cursor has come, in the order in which Redis goes through a table; all of a server's are numbers."""
    return int(format(int(cursor), f"0{_BITS}b")[::-1], 2) if cursor.isdigit() else 0
