"""Reads collections in parts, so that memory stays bounded.

In: the source, at the first of a number of elements. Out: lists of elements, and None whenever more bytes are needed.
Left to others: reading one element (`wire.rdb.source`), how many there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from redisrepl.wire.rdb.source import DOUBLE, LENGTH_14BIT, LENGTH_32BIT, Short, Source, attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PART_BYTES", "PART_ITEMS", "parts", "scored_parts", "string_parts", "tuple_parts"]

T = TypeVar("T")

PART_ITEMS = 6000
"""Elements in one part of a collection; divisible by 2 and 3, so that pairs and triples are never split."""

PART_BYTES = 1 << 20
"""Bytes of the snapshot after which a part of a collection ends."""


def parts(source: Source, count: int, take: Callable[[Source], T]) -> Iterator[list[T] | None]:
    """Takes `count` elements; yields them in parts, and None whenever more bytes are needed."""
    out: list[T] = []
    limit = source.weight + PART_BYTES
    while count:
        mark = source.pos
        try:
            out.append(take(source))
        except Short:
            source.pos = mark
            yield None
            continue
        count -= 1
        if len(out) >= PART_ITEMS or source.weight > limit:
            yield out
            out = []
            limit = source.weight + PART_BYTES
    if out:
        yield out


def tuple_parts(source: Source, count: int, *takes: Callable[[Source], Any]) -> Iterator[Any]:
    """As `parts`, for elements of several items; each item is taken by itself, so that a long one can be skipped."""
    out: list[Any] = []
    limit = source.weight + PART_BYTES
    for _ in range(count):
        element: tuple[Any, ...] = ()
        for take in takes:
            element += ((yield from attempt(source, take)),)
        out.append(element)
        if len(out) >= PART_ITEMS or source.weight > limit:
            yield out
            out = []
            limit = source.weight + PART_BYTES
    if out:
        yield out


def scored_parts(source: Source, count: int) -> Iterator[list[tuple[bytes, float]] | None]:
    """Takes `count` strings with a double behind each, in parts; with a fast path as in `string_parts`."""
    out: list[tuple[bytes, float]] = []
    limit = source.weight + PART_BYTES
    buf, pos, size = source.buf, source.pos, len(source.buf)
    unpack = DOUBLE.unpack_from
    for _ in range(count):
        if pos + 1 < size and (length := buf[pos]) < LENGTH_32BIT:
            if length < LENGTH_14BIT:
                start = pos + 1
            else:
                length = (length & 0x3F) << 8 | buf[pos + 1]
                start = pos + 2
            end = start + length
        else:
            start = end = size
        if end + 8 <= size:
            out.append((buf[start:end], unpack(buf, end)[0]))
            pos = end + 8
        else:
            source.pos = pos
            member = yield from attempt(source, Source.string)
            out.append((member, (yield from attempt(source, Source.double))))
            buf, pos, size = source.buf, source.pos, len(source.buf)
        if len(out) >= PART_ITEMS or source.weight > limit:
            source.pos = pos
            yield out
            out = []
            limit = source.weight + PART_BYTES
    source.pos = pos
    if out:
        yield out


def string_parts(source: Source, count: int, group: int = 1) -> Iterator[list[bytes] | None]:
    """Takes `count` strings as `parts` does, a multiple of `group` in each part; with a fast path.

    Short strings are read here from local variables; all others, and those cut by the end of the buffer, by
    `Source.string`.
    """
    out: list[bytes] = []
    append = out.append
    limit = source.weight + PART_BYTES
    buf, pos, size = source.buf, source.pos, len(source.buf)
    for left in range(count, 0, -1):
        if pos + 1 < size and (length := buf[pos]) < LENGTH_32BIT:
            if length < LENGTH_14BIT:
                start = pos + 1
            else:
                length = (length & 0x3F) << 8 | buf[pos + 1]
                start = pos + 2
            end = start + length
        else:
            start = end = size + 1
        if end <= size:
            append(buf[start:end])
            pos = end
        else:
            source.pos = pos
            append((yield from attempt(source, Source.string)))
            buf, pos, size = source.buf, source.pos, len(source.buf)
        if (len(out) >= PART_ITEMS or source.weight > limit) and not (left - 1) % group:
            source.pos = pos
            yield out
            out = []
            append = out.append
            limit = source.weight + PART_BYTES
    source.pos = pos
    if out:
        yield out
