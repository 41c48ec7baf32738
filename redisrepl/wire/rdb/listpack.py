"""Listpacks: small collections packed into one string, since Redis 7.0.

In: the whole blob. Out: its elements as bytes (integers as their decimal text), in parts, or ValueError. Left to
others: what the elements mean (`wire.rdb.values`, `wire.rdb.hashes`, `wire.rdb.streams`).

Each entry is followed by its own length (`backlen`), 7 bits per byte. Servers differ in its width: for entries of
exactly 16383, 2097151 and 268435455 bytes, Redis up to 8.6 and Valkey up to 8.0 use one byte more than needed. The
short form then begins with 0x7F, the long one with 0x00.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from redisrepl.wire.rdb.parts import PART_ITEMS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EMPTY", "elements"]

EMPTY = 7
"""Bytes of a listpack without elements."""

_HEADER = Struct("<IH")
_COUNT_UNKNOWN = 0xFFFF
_END = 0xFF
_UINT7 = [b"%d" % number for number in range(128)]
_INTEGERS = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}  # LP_ENCODING_16BIT_INT and so on: bytes of the number
_STRING32 = 0xF0
_AMBIGUOUS = {(1 << 14) - 1: 2, (1 << 21) - 1: 3, (1 << 28) - 1: 4}  # size: bytes of the short form


def elements(blob: bytes) -> Iterator[list[bytes]]:
    """Yields the elements in parts of at most `PART_ITEMS`; nothing for an empty listpack.

    Raises ValueError, maybe after some parts, when the blob is damaged.
    """
    end = len(blob) - 1
    if end < EMPTY - 1:
        raise ValueError("a listpack shorter than its header")
    total, count = _HEADER.unpack_from(blob)
    if total != end + 1 or blob[end] != _END:
        raise ValueError("a listpack whose size or end mark is wrong")
    seen = 0
    out: list[bytes] = []
    append = out.append
    pos = 6
    while pos < end:
        first = blob[pos]
        if first < 0x80:  # LP_ENCODING_7BIT_UINT  # noqa: PLR2004
            append(_UINT7[first])
            pos += 2
        elif first < 0xC0:  # LP_ENCODING_6BIT_STR  # noqa: PLR2004
            pos += 1
            after = pos + (first & 0x3F)
            append(blob[pos:after])
            pos = after + 1
        else:
            pos = _long_element(blob, pos, end, out)
        if len(out) >= PART_ITEMS and pos < end:
            seen += len(out)
            yield out
            out = []
            append = out.append
    if pos != end:
        raise ValueError("a listpack entry runs over the end")
    if count not in (_COUNT_UNKNOWN, seen + len(out)):
        raise ValueError(f"a listpack of {seen + len(out)} elements that announces {count}")
    if out:
        yield out


def _long_element(blob: bytes, pos: int, end: int, out: list[bytes]) -> int:
    """Reads an entry of one of the rarer encodings at `pos`; returns where the next one begins."""
    first = blob[pos]
    if first < 0xE0:  # LP_ENCODING_13BIT_INT  # noqa: PLR2004
        number = (first & 0x1F) << 8 | blob[pos + 1]
        out.append(b"%d" % (number - 0x2000 if number & 0x1000 else number))
        return pos + 3
    if first < _STRING32:  # LP_ENCODING_12BIT_STR
        size = (first & 0x0F) << 8 | blob[pos + 1]
        start = pos + 2
    elif first == _STRING32:  # LP_ENCODING_32BIT_STR
        size = int.from_bytes(blob[pos + 1 : pos + 5], "little")
        start = pos + 5
    elif first in _INTEGERS:
        width = _INTEGERS[first]
        out.append(b"%d" % int.from_bytes(blob[pos + 1 : pos + 1 + width], "little", signed=True))
        return pos + 1 + width + 1
    else:
        raise ValueError(f"a listpack entry of unknown encoding 0x{first:02x}")
    after = start + size
    if after >= end:
        raise ValueError("a listpack entry runs over the end")
    out.append(blob[start:after])
    return after + _backlen_width(blob, after, after - pos)


def _backlen_width(blob: bytes, pos: int, size: int) -> int:
    """How many bytes the length at `pos` takes, which is `size`."""
    if size in _AMBIGUOUS:
        return _AMBIGUOUS[size] + (blob[pos] != 0x7F)  # noqa: PLR2004 (see the module's docstring)
    return (size.bit_length() + 6) // 7
