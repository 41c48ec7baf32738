"""How large the reply to a command may be, at either server.

In: a command. Out: bytes. Left to others: counting them (`wire.replyreader`, `remote.session`), and how much a reply
with values may have.
"""

from __future__ import annotations

from collections.abc import Sequence

from redisrepl.wire.collections import COLLECTIONS, READABLE

__all__ = ["SMALL", "most_of"]

#: Bytes of a reply to all that does not ask for keys or values; the longest is that to INFO.
SMALL = 1 << 20
#: Commands that ask for them. What a transaction or a script returns depends on what is in it.
_ASKING = frozenset(
    {
        *(b"GET", b"KEYS", b"SCAN", b"EVAL", b"EVALSHA", b"EXEC"),
        *(kind.read for kind in READABLE.values()),
        *(command for kind in COLLECTIONS.values() for command in (kind.read_some, kind.scan) if command),
    }
)


def most_of(argv: Sequence[object], most: int) -> int:
    """Bytes that the reply to a command may have, if that to one that asks for values may have `most`."""
    return most if argv[0] in _ASKING else min(SMALL, most)
