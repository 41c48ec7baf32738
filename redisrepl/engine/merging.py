"""Changes of one key taken together: what stands for two of them, and how much memory one holds.

In: changes in the order of the stream. Out: the one change that has the same effect, as far as commands tell it. Left
to others: which changes are kept (`engine.pending`, `engine.everywrite`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from redisrepl.changes import Change, Deleted, ExpirySet, FieldsDeleted, HashSet, Invalidated, SequenceSet, StringSet
from redisrepl.wire.entries import FIRST_ID, LAST_ID, entry_name, is_entry, with_last_id

__all__ = ["elements_changed", "growth", "merge", "note_newer", "remaining", "removes", "size_of"]

#: Bytes that each element of a collection costs beside its name and value (measured).
_FIELD_OVERHEAD = 300
#: Elements that were removed one by one, above which they are kept by name.
_MANY = 1000


def merge(older: Change, newer: Change) -> Change:
    """The one change that stands for both, in this order."""
    if isinstance(older, HashSet) and isinstance(newer, HashSet | FieldsDeleted) and older.type == newer.type:
        _add(older, _by_field(newer))  # the most frequent
        emptied = isinstance(newer, FieldsDeleted) or newer.emptied
        return replace(older, emptied=True) if emptied and not older.emptied else older
    match older, newer:
        case (_, StringSet() | SequenceSet() | Deleted() | Invalidated(replaces=True)):
            return newer
        case (HashSet() | FieldsDeleted(), HashSet() | FieldsDeleted()) if older.type != newer.type:
            return Invalidated(newer.key, replaces=True)  # it has lost its last element between them
        case FieldsDeleted(key, deleted), FieldsDeleted(_, more) if len(deleted) >= _MANY:
            # To read them costs less than to copy so many names for each that is added.
            return HashSet(key, dict.fromkeys(deleted + more), older.type, emptied=True)
        case FieldsDeleted(key, deleted), FieldsDeleted(_, more):
            return FieldsDeleted(key, tuple(dict.fromkeys(deleted + more)), older.type)
        case FieldsDeleted(key, deleted), HashSet(_, fields):
            return HashSet(key, {**dict.fromkeys(deleted), **fields}, newer.type, emptied=True)
        case StringSet(key, value, _), ExpirySet(_, expires_at_ms):
            return StringSet(key, value, expires_at_ms)
        case ExpirySet(), ExpirySet():
            return newer
        case ((Deleted(key) | Invalidated(key, "del")), _):
            return Invalidated(key, replaces=True)
        case Invalidated(replaces=True), _:
            return older
        case _:
            return Invalidated(newer.key, replaces=removes(older) or removes(newer))


def elements_changed(change: Change) -> Collection[bytes] | None:
    """The elements that a change may have changed; None: more of its key than elements, or nobody knows which."""
    match change:
        case HashSet(_, fields, "stream"):
            return None if FIRST_ID in fields else (*fields, LAST_ID)  # a new entry is the last one
        case HashSet(_, fields) | FieldsDeleted(_, fields):
            return fields
        case _:
            return None


def remaining(waiting: Change, newer: Change) -> Change | None:
    """What is left to be sent of a change, which is altered, beside a newer one of its key; None: nothing."""
    match newer:
        case ExpirySet(key):  # tells nothing of the value: both are to be read
            return Invalidated(key)
        case HashSet(key, names, kind) | FieldsDeleted(key, names, kind):
            if not isinstance(waiting, HashSet):
                return waiting
            if waiting.type != kind or elements_changed(newer) is None:  # others of its elements may be gone, too
                return Invalidated(key, replaces=True)
            last = waiting.fields.get(LAST_ID)
            for name in names:
                waiting.fields.pop(name, None)
            if kind == "stream" and last is not None and isinstance(newer, HashSet) and _is_past(newer, last):
                waiting.fields.pop(LAST_ID, None)
            return waiting if waiting.fields else None
        case _:
            return None


def note_newer(newer: list[Change], change: Change) -> None:
    """Add a change to those that are newer than one, of which none is altered, and leave out what it makes needless."""
    latest = newer[-1] if newer else None
    match change:
        case HashSet(key, _, kind) | FieldsDeleted(key, _, kind):
            if (
                not isinstance(latest, HashSet)
                or latest.type != kind
                or None in map(elements_changed, (latest, change))
            ):
                newer.append(latest := HashSet(key, {}, kind))
            for name, value in _by_field(change).items():  # that an entry was there tells of the last id
                latest.fields[name] = latest.fields.get(name) if value is None else value
        case ExpirySet() if isinstance(latest, ExpirySet):
            return
        case ExpirySet():
            newer.append(change)
        case _:
            newer[:] = [change]


def _is_past(change: HashSet, last_id: bytes) -> bool:
    """Whether an entry is added to a stream behind this id, which was the last."""
    last = entry_name(last_id)
    return any(value is not None and is_entry(name) and name >= last for name, value in change.fields.items())


def _by_field(change: HashSet | FieldsDeleted) -> Mapping[bytes, bytes | None]:
    """The elements that a change names, with their values; None: it is to be read, or gone."""
    return change.fields if isinstance(change, HashSet) else dict.fromkeys(change.fields)


def _add(older: HashSet, newer: Mapping[bytes, bytes | None]) -> None:
    """Elements that changed later. A new entry of a stream that is removed again leaves its id behind, as the last."""
    fields = older.fields
    if older.type == "stream":
        if any(value is None and fields.get(name) is not None for name, value in newer.items()):
            fields |= with_last_id(fields)
        if fields.get(LAST_ID) is not None:
            newer = with_last_id(newer)  # new ids are greater
    fields |= newer


def removes(change: Change) -> bool:
    """Whether elements are, or may be, gone: reading what is there would not tell which."""
    match change:
        case FieldsDeleted() | Invalidated(replaces=True):
            return True
        case HashSet(_, fields):
            return None in fields.values()
        case _:
            return False


def size_of(change: Change) -> int:
    """Bytes of memory, roughly, that a change holds beside its key."""
    if isinstance(change, StringSet):
        return len(change.value)
    if isinstance(change, HashSet):
        size = _FIELD_OVERHEAD * len(change.fields)
        for field, value in change.fields.items():
            size += len(field) + (0 if value is None else len(value))
        return size
    if isinstance(change, SequenceSet):
        return sum(map(len, change.items))
    return sum(map(len, change.fields)) if isinstance(change, FieldsDeleted) else 0


def growth(older: HashSet, newer: HashSet | FieldsDeleted) -> int:
    """Bytes by which merging `newer` into `older` makes it larger; counts only what is new."""
    fields = older.fields
    more = 0
    for field, value in _by_field(newer).items():
        more += len(value or b"")
        more += -len(fields[field] or b"") if field in fields else len(field) + _FIELD_OVERHEAD
    return more
