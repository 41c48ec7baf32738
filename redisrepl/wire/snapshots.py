"""Turns the keys of a snapshot into changes.

In: entries, as `wire.rdb` reads them. Out: the changes that would create them, as far as they are replicated. Left to
others: counting what is not replicated (`engine.outbound`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

from redisrepl.changes import (
    KIND_OF_TYPE,
    Change,
    ExpirySet,
    HashSet,
    Invalidated,
    SequenceSet,
    StringSet,
    TimedValue,
    carries_groups,
    is_replicated,
)
from redisrepl.wire.collections import score_of
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value, last_id_of
from redisrepl.wire.groups import delivery, pending_name, place_name
from redisrepl.wire.opaque import OPAQUE
from redisrepl.wire.rdb import Entry, Group, Stream

__all__ = ["changes_of", "is_alive", "replicated_of"]


def _has_expiring_fields(entry: Entry) -> bool:
    """Whether it is a hash whose fields may expire: each field then has an expiry beside its value."""
    items = entry.value
    return entry.type == "hash" and isinstance(items, list) and bool(items) and len(items[0]) > _PAIR


_PAIR = 2  # a field and its value


def replicated_of(
    entry: Entry, kinds: frozenset[str], now: float, *, times: bool = False
) -> tuple[list[Change], str | None]:
    """The changes of a key that are replicated, and the name of what is not; None: all is.

    Args:
        entry: the key, or a part of it.
        kinds: which of `changes.KINDS` are replicated.
        now: Unix time in seconds.
        times: whether expiries of fields are replicated.
    """
    timed = _has_expiring_fields(entry)
    all_changes = changes_of(entry, now, times=times, groups=carries_groups(kinds))
    changes = [change for change in all_changes if is_replicated(change, kinds)]
    if timed and not times:
        return changes, "expiry of a field"
    return changes, None if changes or timed else entry.type  # all its fields may have expired


def is_alive(entry: Entry, now: float) -> bool:
    """Whether a key has not expired at this Unix time, in seconds."""
    return entry.expires_at_ms is None or entry.expires_at_ms > now * 1000


def changes_of(entry: Entry, now: float, *, times: bool = False, groups: bool = False) -> list[Change]:
    """A key of a snapshot, or a part of a large one, as changes.

    Fields of a hash that have expired by `now`, in Unix seconds, are left out; the others keep their expiries if
    `times` are replicated. A stream has its consumer groups if `groups` are. A value that the parser has skipped is too
    large: the key is invalidated, and reading it will say so.
    """
    match entry.type, entry.value:
        case "string", bytes(value):
            return [StringSet(entry.key, value, entry.expires_at_ms)]
        case "hash", list(items):
            fields: dict[bytes, bytes | None]
            if _has_expiring_fields(entry):
                timed = cast("list[tuple[bytes, bytes, int | None]]", items)
                fields = {
                    name: TimedValue(value, ends) if times and ends is not None else value
                    for name, value, ends in timed
                    if ends is None or ends > now * 1000
                }
            else:
                fields = dict(cast("list[tuple[bytes, bytes]]", items))
            return [HashSet(entry.key, fields), *_expiry(entry)] if fields else []
        case "set", list(members):
            return [HashSet(entry.key, dict.fromkeys(cast("list[bytes]", members), b""), "set"), *_expiry(entry)]
        case "zset", list(scored):
            scores = {member: score_of(score) for member, score in cast("list[tuple[bytes, float]]", scored)}
            return [HashSet(entry.key, dict(scores), "zset"), *_expiry(entry)]
        case "stream", Stream() as stream:
            elements = _stream(stream, last=entry.last)
            for group in stream.groups if groups else ():
                elements |= _group(group, elements, whole=entry.first)
            return [HashSet(entry.key, elements, "stream"), *_expiry(entry)]
        case "list", list(items) if entry.first and entry.last:
            return [SequenceSet(entry.key, tuple(cast("list[bytes]", items))), *_expiry(entry)]
        case "list", list():
            return [Invalidated(entry.key, "lists", replaces=True)]  # a part of a list is not a value: read all of it
        case ("string" | "hash" | "set" | "zset" | "list" | "stream") as type_, None:
            return [Invalidated(entry.key, KIND_OF_TYPE[type_], replaces=True)]
        case _:  # a type without a portable form
            return [Invalidated(entry.key, OPAQUE)]


def _stream(stream: Stream, *, last: bool) -> dict[bytes, bytes | None]:
    """The entries of a stream, or a part of them, and its last id if it is the last part."""
    elements: dict[bytes, bytes | None] = {
        entry_name(id_.encode()): entry_value(word for pair in pairs for word in pair) for id_, pairs in stream.entries
    }
    if last:
        elements[LAST_ID] = last_id_of(stream.last_id.encode())
    return elements


def _group(group: Group, entries: Collection[bytes], *, whole: bool) -> dict[bytes, bytes | None]:
    """A consumer group as elements of its stream. Of an entry that was given back, the consumer has no name.

    Args:
        group: it.
        entries: names of those of the stream, or of its last part.
        whole: they are all. Else what is pending of others is to be read: they may be gone.
    """
    name, owners = group.name, {id_: consumer.name for consumer in group.consumers for id_ in consumer.pending}
    elements: dict[bytes, bytes | None] = {place_name(name): group.last_id.encode()}
    for id_, at_ms, count in group.pending:
        plain = id_.encode()
        if entry_name(plain) in entries:
            elements[pending_name(name, plain)] = delivery(owners.get(id_, b""), count, at_ms)
        elif not whole:
            elements[pending_name(name, plain)] = None
    return elements


def _expiry(entry: Entry) -> list[Change]:
    return [] if entry.expires_at_ms is None else [ExpirySet(entry.key, entry.expires_at_ms)]
