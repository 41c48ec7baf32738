"""Lists, sets, sorted sets and arrays.

In: the source, at the value of a key. Out: readers that yield the value in parts (None: more bytes are needed), and
skippers that decode nothing and return whether the value has elements. Left to others: the key and its attributes
(`wire.rdb.reader`), joining the parts (`wire.rdb.events`).
"""

from __future__ import annotations

from math import inf, nan
from typing import TYPE_CHECKING, TypeVar

from redisrepl.wire.rdb import listpack, ziplist
from redisrepl.wire.rdb.parts import PART_BYTES, PART_ITEMS, parts, scored_parts, string_parts, tuple_parts
from redisrepl.wire.rdb.source import Source, attempt, skip_strings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from redisrepl.wire.rdb.events import Value

    Reader = Callable[[Source], Iterator[Value]]
    Skipper = Callable[[Source], Generator[None, None, bool]]

__all__ = [
    "packed",
    "plain",
    "read_array",
    "read_quicklist",
    "read_quicklist2",
    "read_string",
    "read_strings",
    "read_zset",
    "read_zset2",
    "scored",
    "skip_array",
    "skip_counted",
    "skip_packed",
    "skip_quicklist",
    "skip_quicklist2",
    "skip_zset",
    "skip_zset2",
]

T = TypeVar("T")

_PLAIN, _PACKED = 1, 2  # QUICKLIST_NODE_CONTAINER_PLAIN, QUICKLIST_NODE_CONTAINER_PACKED
_SCORES = {253: nan, 254: inf, 255: -inf}
_ARRAY_STRING, _ARRAY_INT, _ARRAY_DOUBLE, _ARRAY_RAW = range(4)


def plain(elements: list[bytes]) -> list[bytes]:
    """The elements as they are."""
    return elements


def scored(elements: list[bytes]) -> list[tuple[bytes, float]]:
    """Members and scores that alternate, as pairs."""
    if len(elements) % 2:
        raise ValueError("a member without its score")
    return list(zip(elements[::2], map(_score, elements[1::2]), strict=True))


def _score(text: bytes) -> float:
    if b"_" in text:  # Python would read 1_0 as 10
        raise ValueError("a score that is no number")
    return float(text)


def packed(decode: Callable[[bytes], Iterator[list[bytes]]], shape: Callable[[list[bytes]], Value]) -> Reader:
    """A reader of values that are one string; `decode` yields its elements, `shape` turns them into a value."""

    def read(source: Source) -> Iterator[Value]:
        blob = yield from attempt(source, Source.string)
        if source.left_out:
            return
        try:
            for part in decode(blob):
                yield shape(part)
        except ValueError as error:
            raise source.fail(str(error)) from None

    return read


def skip_packed(empty: int) -> Skipper:
    """A skipper of values that are one string, `empty` bytes long when it has no elements."""

    def skip(source: Source) -> Generator[None, None, bool]:
        return (yield from attempt(source, Source.skip_string)) > empty

    return skip


def read_string(source: Source) -> Iterator[Value]:
    """A string (RDB_TYPE_STRING)."""
    yield (yield from attempt(source, Source.string))


def read_strings(source: Source) -> Iterator[Value]:
    """A list or set (RDB_TYPE_LIST, RDB_TYPE_SET): a count and that many strings."""
    count = yield from attempt(source, Source.length)
    yield from string_parts(source, count)


def skip_counted(strings: int) -> Skipper:
    """A skipper of a count and that many times `strings` strings."""

    def skip(source: Source) -> Generator[None, None, bool]:
        count = yield from attempt(source, Source.length)
        yield from skip_strings(source, count * strings)
        return count > 0

    return skip


def read_quicklist(source: Source) -> Iterator[Value]:
    """A list of ziplists (RDB_TYPE_LIST_QUICKLIST)."""
    return _read_nodes(source, _take_node, ziplist.elements)


def read_quicklist2(source: Source) -> Iterator[Value]:
    """A list of listpacks and of elements too big for one (RDB_TYPE_LIST_QUICKLIST_2)."""
    return _read_nodes(source, _take_node2, listpack.elements)


def _read_nodes(
    source: Source,
    take: Callable[[Source], tuple[int, bytes]],
    decode: Callable[[bytes], Iterator[list[bytes]]],
) -> Iterator[Value]:
    out: list[bytes] = []
    limit = source.weight + PART_BYTES
    for _ in range((yield from attempt(source, Source.length))):
        container, blob = yield from attempt(source, take)
        if source.left_out:  # the value is too large: drop what was read, and skip the rest
            out = []
            continue
        try:
            for part in decode(blob) if container == _PACKED else ([blob],):
                out += part
                if len(out) >= PART_ITEMS or source.weight > limit:
                    yield out
                    out = []
                    limit = source.weight + PART_BYTES
        except ValueError as error:
            raise source.fail(str(error)) from None
    if out:
        yield out


def _take_node(source: Source) -> tuple[int, bytes]:
    return _PACKED, source.string()


def _take_node2(source: Source) -> tuple[int, bytes]:
    return _take_container(source), source.string()


def _take_container(source: Source) -> int:
    container = source.length()
    if container not in (_PLAIN, _PACKED):
        raise source.fail(f"unknown list container {container}")
    return container


def skip_quicklist(source: Source) -> Generator[None, None, bool]:
    """Skips a list of ziplists."""
    filled = False
    for _ in range((yield from attempt(source, Source.length))):
        filled |= (yield from attempt(source, Source.skip_string)) > ziplist.EMPTY
    return filled


def skip_quicklist2(source: Source) -> Generator[None, None, bool]:
    """Skips a list of listpacks and plain elements."""
    filled = False
    for _ in range((yield from attempt(source, Source.length))):
        container = yield from attempt(source, _take_container)
        size = yield from attempt(source, Source.skip_string)
        filled |= container == _PLAIN or size > listpack.EMPTY
    return filled


def read_zset(source: Source) -> Iterator[Value]:
    """A sorted set with scores as text (RDB_TYPE_ZSET)."""
    count = yield from attempt(source, Source.length)
    yield from tuple_parts(source, count, Source.string, _take_text_score)


def _take_text_score(source: Source) -> float:
    size = source.byte()
    if size in _SCORES:
        return _SCORES[size]
    text = source.raw(size)
    try:
        return _score(text)
    except ValueError:
        raise source.fail("a score that is no number") from None


def skip_zset(source: Source) -> Generator[None, None, bool]:
    """Skips a sorted set with scores as text."""
    count = yield from attempt(source, Source.length)
    for _ in range(count):
        yield from attempt(source, Source.skip_string)
        size = yield from attempt(source, Source.byte)
        source.skip(0 if size in _SCORES else size)
    return count > 0


def read_zset2(source: Source) -> Iterator[Value]:
    """A sorted set with binary scores (RDB_TYPE_ZSET_2)."""
    count = yield from attempt(source, Source.length)
    yield from scored_parts(source, count)


def skip_zset2(source: Source) -> Generator[None, None, bool]:
    """Skips a sorted set with binary scores."""
    count = yield from attempt(source, Source.length)
    yield from skip_strings(source, count, tail=8)
    return count > 0


def read_array(source: Source) -> Iterator[Value]:
    """An array (RDB_TYPE_ARRAY): indices and their values."""
    count = yield from _array_head(source)
    yield from parts(source, count, _take_indexed)


def _array_head(source: Source) -> Generator[None, None, int]:
    count = yield from attempt(source, Source.length)
    flag = yield from attempt(source, Source.length)
    if not count or flag > 1:
        raise source.fail(f"an array of {count} elements with flag {flag}")
    if flag:
        yield from attempt(source, Source.length)  # where the next insertion goes
    return count


def _take_indexed(source: Source) -> tuple[int, bytes | int | float]:
    index, tag = _take_index(source)
    if tag == _ARRAY_INT:
        return index, source.int64()
    if tag == _ARRAY_DOUBLE:
        return index, source.double()
    return index, source.string()


def _take_index(source: Source) -> tuple[int, int]:
    index, tag = source.length(), source.length()
    if tag > _ARRAY_RAW:
        raise source.fail(f"unknown array tag {tag}")
    return index, tag


def skip_array(source: Source) -> Generator[None, None, bool]:
    """Skips an array."""
    for _ in range((yield from _array_head(source))):
        _, tag = yield from attempt(source, _take_index)
        if tag in (_ARRAY_INT, _ARRAY_DOUBLE):
            source.skip(8)
        else:
            yield from attempt(source, Source.skip_string)
    return True
