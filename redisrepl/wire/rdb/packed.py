"""Intsets and zipmaps: the two oldest collections packed into one string.

In: the whole blob. Out: its elements as bytes (integers as their decimal text), in parts, or ValueError. Left to
others: what the elements mean (`wire.rdb.values`, `wire.rdb.hashes`).
"""

from __future__ import annotations

from struct import Struct, iter_unpack
from typing import TYPE_CHECKING

from redisrepl.wire.rdb.parts import PART_ITEMS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["INTSET_EMPTY", "ZIPMAP_EMPTY", "intset_elements", "zipmap_elements"]

INTSET_EMPTY = 8
"""Bytes of an intset without elements."""

ZIPMAP_EMPTY = 2
"""Bytes of a zipmap without elements."""

_HEADER = Struct("<II")
_WIDTHS = {2: "<h", 4: "<i", 8: "<q"}  # INTSET_ENC_INT16 and so on
_END = 0xFF
_LONG = 254  # ZIPMAP_BIGLEN; as a count: unknown


def intset_elements(blob: bytes) -> Iterator[list[bytes]]:
    """Yields the members of an intset in parts; raises ValueError when it is damaged."""
    if len(blob) < INTSET_EMPTY:
        raise ValueError("an intset shorter than its header")
    width, count = _HEADER.unpack_from(blob)
    if width not in _WIDTHS or len(blob) - INTSET_EMPTY != width * count:
        raise ValueError("an intset whose width or size is wrong")
    body = memoryview(blob)[INTSET_EMPTY:]
    for start in range(0, len(body), PART_ITEMS * width):
        yield [b"%d" % number for (number,) in iter_unpack(_WIDTHS[width], body[start : start + PART_ITEMS * width])]


def zipmap_elements(blob: bytes) -> Iterator[list[bytes]]:
    """Yields the fields and values of a zipmap, alternating, in parts; raises ValueError when it is damaged."""
    end = len(blob) - 1
    if end < ZIPMAP_EMPTY - 1 or blob[end] != _END:
        raise ValueError("a zipmap without its end mark")
    seen = 0
    out: list[bytes] = []
    pos = 1
    while pos < end:
        for free in (0, 1):  # a field, then a value, which has a byte that counts unused bytes behind it
            size = blob[pos]
            pos += 1
            if size == _LONG:
                size = int.from_bytes(blob[pos : pos + 4], "little")
                pos += 4
            elif size == _END:
                raise ValueError("a zipmap field without its value")
            unused = blob[pos] if free and pos < end else 0
            pos += free
            out.append(blob[pos : pos + size])
            pos += size + unused
            if pos > end:
                raise ValueError("a zipmap entry runs over the end")
        if len(out) >= PART_ITEMS and pos < end:
            seen += len(out)
            yield out
            out = []
    if blob[0] < _LONG and blob[0] * 2 != seen + len(out):
        raise ValueError(f"a zipmap of {(seen + len(out)) // 2} fields that announces {blob[0]}")
    if out:
        yield out
