"""The content of a snapshot, as small immutable values.

In: fields that the readers parsed. Out: `Aux`, `Function` and `Entry` tuples, and whole values put together from their
parts by `assemble`. Left to others: which of them matter (`wire.snapshots`).

Keys, members, fields and values are bytes as stored, never decoded. Named tuples, because one is built for each key:
as measured, a named tuple costs 0.15 us, a frozen slotted dataclass 1.6 us.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "Aux",
    "Consumer",
    "Entry",
    "Event",
    "Function",
    "Group",
    "Stream",
    "Value",
    "assemble",
]


class Aux(NamedTuple):
    """A field about the server or the snapshot (RDB_OPCODE_AUX), such as `redis-ver`."""

    key: bytes
    value: bytes


class Function(NamedTuple):
    """A function library (RDB_OPCODE_FUNCTION2): its source, beginning with the `#!` line."""

    source: bytes


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer of a stream's group.

    Attributes:
        name: as stored.
        seen_ms: when it last asked, Unix milliseconds.
        active_ms: when it last received an entry, Unix milliseconds; -1: never; None: not stored (before RDB version
            11).
        pending: ids ("ms-seq") that it received and has not acknowledged.
    """

    name: bytes
    seen_ms: int
    active_ms: int | None
    pending: list[str]


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group of a stream.

    Attributes:
        name: as stored.
        last_id: the last id ("ms-seq") delivered.
        entries_read: how many entries it has read; None if the server does not know or did not store it.
        pending: (id, time of delivery in Unix milliseconds, number of deliveries) of every entry not acknowledged.
        consumers: its consumers.
        nacked: ids that a consumer has returned and nobody has received again (RDB version 14).
    """

    name: bytes
    last_id: str
    entries_read: int | None
    pending: list[tuple[str, int, int]]
    consumers: list[Consumer]
    nacked: list[str]


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream, or a part of one: then only the last part has more than entries.

    Attributes:
        entries: (id "ms-seq", [(field, value), ...]) in order, without the deleted ones.
        last_id: the highest id ever used.
        length: the number of entries by the server's own count; may exceed the entries present.
        first_id: the lowest id present; None before RDB version 10.
        max_deleted_id: the highest id ever deleted; None before RDB version 10.
        entries_added: how many entries were ever added; None before RDB version 10.
        groups: the consumer groups.
    """

    entries: list[tuple[str, list[tuple[bytes, bytes]]]]
    last_id: str = "0-0"
    length: int = 0
    first_id: str | None = None
    max_deleted_id: str | None = None
    entries_added: int | None = None
    groups: list[Group] = field(default_factory=list)


Value: TypeAlias = (
    bytes
    | list[bytes]
    | list[tuple[bytes, float]]
    | list[tuple[bytes, bytes]]
    | list[tuple[bytes, bytes, int | None]]
    | list[tuple[int, bytes | int | float]]
    | Stream
    | None
)


class Entry(NamedTuple):
    """A key with its value, or with a part of it.

    A value of up to some thousand elements and a megabyte is whole: `first` and `last` are both true. A bigger one
    is several entries in a row that repeat everything but the value.

    Attributes:
        db: number of the database.
        key: as stored.
        type: "string", "list", "set", "zset", "hash", "stream", "array" or "module2".
        value: bytes for a string; a list of members for list and set; of (member, score) for a zset; of
            (field, value) or (field, value, expiry in Unix milliseconds or None) for a hash; of (index, bytes, int or
            float) for an array; a `Stream`. None for a module's value, for a skipped value (see `RdbReader`), and
            always if only keys are wanted.
        expires_at_ms: when the key expires, Unix milliseconds, maybe in the past; None if never.
        idle: seconds since its last use; None if not stored (stored under maxmemory-policy *-lru).
        freq: its logarithmic access counter 0..255; None if not stored (stored under maxmemory-policy *-lfu).
        first: whether the value begins here.
        last: whether the value ends here.
        size: bytes that the value takes in the snapshot, up to the end of this part.
    """

    db: int
    key: bytes
    type: str
    value: Value
    expires_at_ms: int | None = None
    idle: int | None = None
    freq: int | None = None
    first: bool = True
    last: bool = True
    size: int = 0


Event: TypeAlias = Aux | Function | Entry


def assemble(events: Iterable[Event]) -> Iterator[Event]:
    """Puts the parts of each value together: every entry that it yields is whole.

    Memory is then bounded by the biggest value. Parts of a value that never ends, or that was skipped, are dropped.
    """
    parts: list[Entry] = []
    for event in events:
        if not isinstance(event, Entry) or (event.first and event.last):
            yield event
            continue
        parts.append(event)
        if event.last:
            values = [part.value for part in parts]
            yield event._replace(value=None if event.value is None else _join(values), first=True)
            parts = []


def _join(values: list[Value]) -> Value:
    if isinstance(values[-1], Stream):
        streams = cast("list[Stream]", values)
        tail = streams[-1]
        return Stream(
            [entry for part in streams for entry in part.entries],
            tail.last_id,
            tail.length,
            tail.first_id,
            tail.max_deleted_id,
            tail.entries_added,
            tail.groups,
        )
    lists = cast("list[list[bytes]]", values)  # for mypy: all parts have the same type of elements
    return [element for part in lists for element in part]
