"""Ziplists: small collections packed into one string, before Redis 7.0.

In: the whole blob. Out: its elements as bytes (integers as their decimal text), in parts, or ValueError. Left to
others: what the elements mean (`wire.rdb.values`, `wire.rdb.hashes`).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from redisrepl.wire.rdb.parts import PART_ITEMS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EMPTY", "elements"]

EMPTY = 11
"""Bytes of a ziplist without elements."""

_HEADER = Struct("<IIH")
_COUNT_UNKNOWN = 0xFFFF
_END = 0xFF
_BIG_PREVLEN = 0xFE
_IMMEDIATE = {0xF1 + number: b"%d" % number for number in range(13)}
_INTEGERS = {0xC0: 2, 0xD0: 4, 0xE0: 8, 0xF0: 3, 0xFE: 1}  # ZIP_INT_16B and so on: bytes of the number
_STRING32 = 0x80


def elements(blob: bytes) -> Iterator[list[bytes]]:
    """Yields the elements in parts of at most `PART_ITEMS`; nothing for an empty ziplist.

    Raises ValueError, maybe after some parts, when the blob is damaged.
    """
    end = len(blob) - 1
    if end < EMPTY - 1:
        raise ValueError("a ziplist shorter than its header")
    total, _, count = _HEADER.unpack_from(blob)
    if total != end + 1 or blob[end] != _END:
        raise ValueError("a ziplist whose size or end mark is wrong")
    seen = 0
    out: list[bytes] = []
    pos = 10
    previous = 0
    while pos < end:
        began = pos
        pos = _element(blob, pos, end, previous, out)
        previous = pos - began
        if len(out) >= PART_ITEMS and pos < end:
            seen += len(out)
            yield out
            out = []
    if pos != end:
        raise ValueError("a ziplist entry runs over the end")
    if count not in (_COUNT_UNKNOWN, seen + len(out)):
        raise ValueError(f"a ziplist of {seen + len(out)} elements that announces {count}")
    if out:
        yield out


def _element(blob: bytes, pos: int, end: int, previous: int, out: list[bytes]) -> int:
    """Reads the entry at `pos`, which must say that the one before took `previous` bytes; returns where the next is."""
    size = blob[pos]
    pos += 1
    if size == _BIG_PREVLEN:
        size = int.from_bytes(blob[pos : pos + 4], "little")
        pos += 4
    if size != previous:
        raise ValueError("a ziplist entry that does not fit the one before it")
    if pos >= end:
        raise ValueError("a ziplist entry runs over the end")
    first = blob[pos]
    pos += 1
    if first in _IMMEDIATE:
        out.append(_IMMEDIATE[first])
        return pos
    if first in _INTEGERS:
        after = pos + _INTEGERS[first]
        out.append(b"%d" % int.from_bytes(blob[pos:after], "little", signed=True))
        return after
    if first < 0x40:  # ZIP_STR_06B  # noqa: PLR2004
        size = first
    elif first < 0x80:  # ZIP_STR_14B  # noqa: PLR2004
        size = (first & 0x3F) << 8 | blob[pos]
        pos += 1
    elif first == _STRING32:  # ZIP_STR_32B
        size = int.from_bytes(blob[pos : pos + 4], "big")
        pos += 4
    else:
        raise ValueError(f"a ziplist entry of unknown encoding 0x{first:02x}")
    after = pos + size
    if after > end:
        raise ValueError("a ziplist entry runs over the end")
    out.append(blob[pos:after])
    return after
