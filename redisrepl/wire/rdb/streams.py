"""Streams: entries packed into listpacks, then the stream's own figures and its consumer groups.

In: the source, at the value of a key, and the number of this type's layout. Out: `Stream` parts; only the last one has
more than entries. Left to others: the key and its attributes (`wire.rdb.reader`), joining the parts
(`wire.rdb.events`).

The entries come in parts of bounded size. All groups come with the last part, so a group with ten million pending
entries takes the memory of ten million tuples.
"""

from __future__ import annotations

from itertools import chain, islice
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from redisrepl.wire.rdb import listpack
from redisrepl.wire.rdb.events import Consumer, Group, Stream
from redisrepl.wire.rdb.parts import PART_BYTES, PART_ITEMS, parts
from redisrepl.wire.rdb.source import Source, attempt, skip_strings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from redisrepl.wire.rdb.events import Value
    from redisrepl.wire.rdb.values import Reader, Skipper

    StreamEntry = tuple[str, list[tuple[bytes, bytes]]]

__all__ = ["stream_reader", "stream_skipper"]

T = TypeVar("T")

_ID = Struct(">QQ")
_MASK = (1 << 64) - 1
_UNKNOWN = _MASK  # SCG_INVALID_ENTRIES_READ
_DELETED, _SAME_FIELDS = 1, 2  # STREAM_ITEM_FLAG_*


class _Tail(NamedTuple):
    """The stream's figures behind its entries, without the groups."""

    length: int
    last_id: str
    first_id: str | None
    max_deleted_id: str | None
    entries_added: int | None


def stream_reader(layout: int) -> Reader:
    """A reader of RDB_TYPE_STREAM_LISTPACKS in its layout 1 to 5 (types 15, 19, 21, 26 and 27)."""

    def read(source: Source) -> Iterator[Value]:
        entries: list[StreamEntry] = []
        limit, large = source.weight + PART_BYTES, False
        for _ in range((yield from attempt(source, Source.length))):
            if large:
                yield from skip_strings(source, 2)
                continue
            ms, seq = yield from attempt(source, _take_key)
            blob = yield from attempt(source, Source.string)
            if source.left_out:  # the value is too large: drop what was read, and skip the rest
                large, entries = True, []
                continue
            try:
                for entry in _entries(blob, ms, seq):
                    entries.append(entry)
                    if len(entries) >= PART_ITEMS or source.weight > limit:
                        yield Stream(entries)
                        entries = []
                        limit = source.weight + PART_BYTES
            except ValueError as error:
                raise source.fail(f"a damaged stream node: {error}") from None
        tail = yield from attempt(source, lambda source: _take_tail(source, layout))
        groups = yield from _groups(source, layout)
        yield from _skip_producers(source, layout)
        yield Stream(entries, tail.last_id, tail.length, tail.first_id, tail.max_deleted_id, tail.entries_added, groups)

    return read


def stream_skipper(layout: int) -> Skipper:
    """A skipper of a stream in its layout 1 to 5; a stream may be without entries, so it is never empty."""

    def skip(source: Source) -> Generator[None, None, bool]:
        count = yield from attempt(source, Source.length)
        yield from skip_strings(source, count * 2)
        yield from attempt(source, lambda source: _take_tail(source, layout))
        for _ in range((yield from attempt(source, Source.length))):
            yield from attempt(source, Source.skip_string)
            yield from attempt(source, lambda source: _take_read(source, layout))
            for _ in range((yield from attempt(source, Source.length))):
                source.skip(24)
                yield from attempt(source, Source.length)
            for _ in range((yield from attempt(source, Source.length))):
                yield from attempt(source, Source.skip_string)
                source.skip(8 if layout < 3 else 16)  # noqa: PLR2004 (RDB_TYPE_STREAM_LISTPACKS_3)
                source.skip(16 * (yield from attempt(source, _take_ids)))
            if layout >= 5:  # noqa: PLR2004 (RDB_TYPE_STREAM_LISTPACKS_5)
                source.skip(16 * (yield from attempt(source, _take_ids)))
        yield from _skip_producers(source, layout)
        return True

    return skip


def _take_key(source: Source) -> tuple[int, int]:
    key = source.string()
    if len(key) != _ID.size:
        raise source.fail(f"a stream node whose id has {len(key)} bytes")
    ms, seq = _ID.unpack(key)
    return ms, seq


def _take_id(source: Source) -> str:
    return f"{source.length()}-{source.length()}"


def _take_raw_id(source: Source) -> str:
    ms, seq = _ID.unpack(source.raw(_ID.size))
    return f"{ms}-{seq}"


def _take_ids(source: Source) -> int:
    """A number of ids, for skipping them: beyond this limit it can only be damage."""
    count = source.length()
    if count >> 40:
        raise source.fail(f"a list of {count} stream ids")
    return count


def _entries(blob: bytes, ms: int, seq: int) -> Iterator[StreamEntry]:
    """The entries of one node, whose ids are relative to `ms` and `seq`; raises ValueError when it is damaged."""
    elements = chain.from_iterable(listpack.elements(blob))
    number = _numbers(elements)
    alive, deleted, size = number(), number(), number()
    names = _take(elements, size, len(blob))
    number()
    for _ in range(alive + deleted):
        flags, ms_delta, seq_delta = number(), number(), number()
        if flags & _SAME_FIELDS:
            fields = list(zip(names, _take(elements, size, len(blob)), strict=True))
        else:
            both = _take(elements, 2 * number(), len(blob))
            fields = list(zip(both[::2], both[1::2], strict=True))
        number()
        if not flags & _DELETED:
            yield f"{ms + ms_delta & _MASK}-{seq + seq_delta & _MASK}", fields
    if next(elements, None) is not None:
        raise ValueError("a stream node with more elements than its count says")


def _numbers(elements: Iterator[bytes]) -> Callable[[], int]:
    """A function that returns the next element as an integer; it raises ValueError if that is not possible."""
    return lambda: int(next(elements, b""))


def _take(elements: Iterator[bytes], count: int, limit: int) -> list[bytes]:
    if not 0 <= count <= limit:
        raise ValueError(f"a stream entry of {count} elements")
    taken = list(islice(elements, count))
    if len(taken) < count:
        raise ValueError("a stream node that ends inside an entry")
    return taken


def _take_tail(source: Source, layout: int) -> _Tail:
    length = source.length()
    last_id = _take_id(source)
    if layout < 2:  # noqa: PLR2004 (RDB_TYPE_STREAM_LISTPACKS_2)
        return _Tail(length, last_id, None, None, None)
    return _Tail(length, last_id, _take_id(source), _take_id(source), source.length())


def _take_read(source: Source, layout: int) -> tuple[str, int | None]:
    """A group's last id, and how many entries it has read."""
    last_id = _take_id(source)
    if layout < 2:  # noqa: PLR2004
        return last_id, None
    count = source.length()
    return last_id, None if count == _UNKNOWN else count


def _take_pending(source: Source) -> tuple[str, int, int]:
    return _take_raw_id(source), source.int64(), source.length()


def _groups(source: Source, layout: int) -> Generator[None, None, list[Group]]:
    groups = []
    for _ in range((yield from attempt(source, Source.length))):
        name = yield from attempt(source, Source.string)
        last_id, entries_read = yield from attempt(source, lambda source: _take_read(source, layout))
        pending = yield from _several(source, _take_pending)
        consumers = []
        for _ in range((yield from attempt(source, Source.length))):
            consumer = yield from attempt(source, lambda source: _take_consumer(source, layout))
            consumer.pending.extend((yield from _several(source, _take_raw_id)))
            consumers.append(consumer)
        nacked = (yield from _several(source, _take_raw_id)) if layout >= 5 else []  # noqa: PLR2004
        groups.append(Group(name, last_id, entries_read, pending, consumers, nacked))
    return groups


def _several(source: Source, take: Callable[[Source], T]) -> Generator[None, None, list[T]]:
    """A count and that many results of `take`."""
    out: list[T] = []
    for part in parts(source, (yield from attempt(source, Source.length)), take):
        if part is None:
            yield None
        else:
            out += part
    return out


def _take_consumer(source: Source, layout: int) -> Consumer:
    name, seen = source.string(), source.int64()
    return Consumer(name, seen, None if layout < 3 else source.int64(), [])  # noqa: PLR2004


def _skip_producers(source: Source, layout: int) -> Generator[None, None, None]:
    """Skips what XADD IDMP stores about its producers (layout 4 and later)."""
    if layout < 4:  # noqa: PLR2004 (RDB_TYPE_STREAM_LISTPACKS_4)
        return
    yield from _skip_lengths(source, 2)
    for _ in range((yield from attempt(source, Source.length))):
        yield from attempt(source, Source.skip_string)
        for _ in range((yield from attempt(source, Source.length))):
            yield from attempt(source, Source.skip_string)
            yield from _skip_lengths(source, 2)
    yield from _skip_lengths(source, 2)


def _skip_lengths(source: Source, count: int) -> Generator[None, None, None]:
    for _ in range(count):
        yield from attempt(source, Source.length)
