"""Keys of a snapshot as changes.

In: entries, as `wire.rdb` reads them. Out: what would make them. Left to others: which of them cross (`outbound`).
"""

from __future__ import annotations

from typing import cast

from redisrepl.changes import Change, ExpirySet, HashSet, StringSet, Touch
from redisrepl.wire.rdb import Entry

__all__ = ["changes_of", "is_alive"]


def is_alive(entry: Entry, now: float) -> bool:
    """Whether a key has not expired at this Unix time, in seconds."""
    return entry.expires_at_ms is None or entry.expires_at_ms > now * 1000


def changes_of(entry: Entry) -> list[Change]:
    """A key of a snapshot, or a part of a large one, as changes; none for types that are not replicated.

    What the reader left out is too large to be replicated, which reading the key will say.
    """
    match entry.type, entry.value:
        case "string", bytes(value):
            return [StringSet(entry.key, value, entry.expires_at_ms)]
        case "hash", list(items):
            fields: dict[bytes, bytes | None] = {item[0]: item[1] for item in cast("list[tuple[bytes, bytes]]", items)}
            expiry: list[Change] = [] if entry.expires_at_ms is None else [ExpirySet(entry.key, entry.expires_at_ms)]
            return [HashSet(entry.key, fields), *expiry]
        case "string", None:
            return [Touch(entry.key, "set", replaces=True)]
        case "hash", None:
            return [Touch(entry.key, "hset", replaces=True)]
        case _:
            return []
