"""What is still to be pushed: the latest change of each key, and how far the stream is acknowledged.

In: changes in the order of the stream. Out: batches of changes with disjoint keys, and the position below which
everything has arrived at the hub. Left to others: sending (`outbound`), reading what a touch only names (`local.read`).

Changes of one key are merged, so a key that changes a thousand times while a batch is out is sent once more. Above
`max_bytes` values give way to touches: the site's Redis is the spool. Above `max_keys` the map is dropped and a sweep
is owed (`overflowed`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from redisrepl.changes import Change, Deleted, ExpirySet, FieldsDeleted, HashSet, StringSet, Touch

__all__ = ["Mark", "Pending", "merge"]

#: Bytes that an entry costs beside its key and value: dictionary slot, tuple, change, object headers (measured).
_OVERHEAD = 300


class Mark:
    """A stretch of the stream. It is done when no key that changed in it first is outstanding.

    Attributes:
        offset: offset right after the stretch; None while it is still being read.
        database: the one that the stream has selected there.
        outstanding: keys whose oldest unacknowledged change lies in it.
    """

    __slots__ = ("database", "offset", "outstanding")

    def __init__(self) -> None:
        self.offset: int | None = None
        self.database = 0
        self.outstanding = 0


#: A change, its mark and the memory its values take; a mark alone is a touch: the value is to be read.
_Entry = tuple[Change, Mark, int] | Mark


def merge(older: Change, newer: Change) -> Change:
    """The one change that stands for both, in this order."""
    match older, newer:
        case (_, StringSet() | Deleted() | Touch(replaces=True)):
            return newer
        case HashSet(_, fields), HashSet(_, newer_fields):
            fields.update(newer_fields)
            return older
        case HashSet(_, fields), FieldsDeleted(_, deleted):
            fields.update(dict.fromkeys(deleted))
            return older
        case FieldsDeleted(key, deleted), FieldsDeleted(_, more):
            return FieldsDeleted(key, tuple(dict.fromkeys(deleted + more)))
        case FieldsDeleted(key, deleted), HashSet(_, fields):
            return HashSet(key, {**dict.fromkeys(deleted), **fields})
        case StringSet(key, value, _), ExpirySet(_, expires_at_ms):
            return StringSet(key, value, expires_at_ms)
        case ExpirySet(), ExpirySet():
            return newer
        case Deleted(key), _:
            return Touch(key, replaces=True)
        case Touch(replaces=True), _:
            return older
        case _:
            return Touch(newer.key, replaces=_removes(older) or _removes(newer))


def _removes(change: Change) -> bool:
    """Whether fields are, or may be, gone: reading what is there would not tell which."""
    match change:
        case FieldsDeleted() | Touch(replaces=True):
            return True
        case HashSet(_, fields):
            return None in fields.values()
        case _:
            return False


def _size(change: Change) -> int:
    """Bytes of memory, roughly, that a change holds beside its key."""
    match change:
        case StringSet(_, value, _):
            return len(value)
        case HashSet(_, fields):
            return sum(len(field) + len(value or b"") + _OVERHEAD for field, value in fields.items())
        case FieldsDeleted(_, deleted):
            return sum(map(len, deleted))
        case _:
            return 0


class Pending:
    """The map of unsent changes.

    Args:
        max_bytes: memory that waiting changes may take, in bytes, before values give way to touches.
        max_keys: how many keys may wait.

    Attributes:
        acknowledged: offset below which every change is at the hub; 0 while a first snapshot is not there yet.
        database: the one that the stream had selected at `acknowledged`.
        overflowed: keys were dropped; all of the namespace must be compared (sweep).
        bytes: memory that values take now.
    """

    def __init__(self, max_bytes: int, max_keys: int) -> None:
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._ready: dict[bytes, _Entry] = {}
        self._in_flight: dict[bytes, _Entry] = {}
        self._held: dict[bytes, _Entry] = {}  # changed again while in flight
        self._marks: deque[Mark] = deque()
        self._open: Mark | None = None  # the stretch being read
        self.acknowledged = 0
        self.database = 0
        self.overflowed = False
        self.bytes = 0

    def __len__(self) -> int:
        """Keys that wait or are in flight."""
        return len(self._ready) + len(self._in_flight)

    @property
    def ready(self) -> int:
        """Keys that could be sent now."""
        return len(self._ready)

    def busy(self, key: bytes) -> bool:
        """Whether a change of this key waits or is on its way."""
        return key in self._ready or key in self._in_flight

    def resume_at(self, offset: int, database: int) -> None:
        """The stream goes on here, and everything before is at the hub."""
        self.acknowledged = offset
        self.database = database

    def start_over(self) -> None:
        """A new history begins with a snapshot. What waits is kept, and counts as the snapshot's first part."""
        self._marks.clear()
        self._open = None
        self.acknowledged = 0
        if not len(self):
            return
        mark = self._reopen()
        for entries in (self._ready, self._in_flight, self._held):
            mark.outstanding += len(entries)
            for key, entry in entries.items():
                entries[key] = mark if isinstance(entry, Mark) else (entry[0], mark, entry[2])

    def add(self, change: Change) -> None:
        """Take the next change of the stream."""
        key = change.key
        mark = self._open or self._reopen()
        entries = self._held if key in self._in_flight else self._ready
        older = entries.get(key)
        if older is None:
            if len(entries) >= self._max_keys:
                self._overflow()
            mark.outstanding += 1
            size = len(change.value) if type(change) is StringSet else _size(change)  # the common case without a call
            entries[key] = self._entry(change, mark, size)
        elif isinstance(older, Mark):
            # Already a touch: reading the key covers this change too, unless it replaces the key.
            if isinstance(change, FieldsDeleted):
                change = Touch(key, replaces=True)
            if isinstance(change, Deleted) or (isinstance(change, Touch) and change.replaces):
                entries[key] = self._entry(change, older, 0)
        else:
            older_change, mark, size = older
            self.bytes -= size
            if isinstance(older_change, HashSet) and isinstance(change, HashSet):
                size += _growth(older_change, change)
                entries[key] = self._entry(merge(older_change, change), mark, size)
            else:
                merged = merge(older_change, change)
                entries[key] = self._entry(merged, mark, _size(merged))

    def _entry(self, change: Change, mark: Mark, size: int) -> _Entry:
        """The change as it is kept: values only as long as there is room for them."""
        if isinstance(change, Touch) and not change.replaces:
            return mark
        if size and self.bytes + size + _OVERHEAD * len(self._ready) > self._max_bytes:
            return (Touch(change.key, replaces=True), mark, 0) if _removes(change) else mark
        self.bytes += size
        return change, mark, size

    def _overflow(self) -> None:
        """Too many keys: forget all that wait, and owe a sweep. What is in flight stays."""
        for entries in (self._ready, self._held):
            for entry in entries.values():
                self._release(entry)
            entries.clear()
        self.overflowed = True

    def _release(self, entry: _Entry) -> None:
        if isinstance(entry, Mark):
            entry.outstanding -= 1
        else:
            entry[1].outstanding -= 1
            self.bytes -= entry[2]

    def _reopen(self) -> Mark:
        self._open = Mark()
        self._marks.append(self._open)
        return self._open

    def read_up_to(self, offset: int, database: int = 0) -> None:
        """Everything before `offset` was added, and the stream may be resumed there (no transaction is open)."""
        if self._open is None and not self._marks:
            self.resume_at(offset, database)
            return
        mark = self._open
        if mark is not None and not mark.outstanding and len(self._marks) > 1:
            self._marks.pop()  # every key that changed in this stretch had changed before, and holds an older one open
            mark = None
        if mark is None:
            mark = self._marks[-1]  # nothing new to wait for: the stretch before is longer now
        mark.offset, mark.database = offset, database
        self._open = None
        self._advance()

    def take(self, max_keys: int, max_bytes: int) -> list[Change]:
        """Changes to send in one batch, each key in no other batch; ends when either limit is reached."""
        batch: list[Change] = []
        size = 0
        for key, entry in islice(self._ready.items(), max_keys):
            change: Change
            if isinstance(entry, Mark):
                change = Touch(key)
            else:
                change = entry[0]
                size += entry[2]
            size += len(key)
            if batch and size > max_bytes:
                break
            batch.append(change)
        for change in batch:
            self._in_flight[change.key] = self._ready.pop(change.key)
        return batch

    def done(self, keys: Iterable[bytes]) -> None:
        """These are at the hub, or were given up with an error that names them."""
        for key in keys:
            self._release(self._in_flight.pop(key))
            if (held := self._held.pop(key, None)) is not None:
                self._ready[key] = held
        self._advance()

    def put_back(self, keys: Iterable[bytes], *, unknown: bool) -> None:
        """These did not arrive; with `unknown` they may have, or may yet: then what is read anew is sent, not this."""
        for key in keys:
            entry = self._in_flight.pop(key)
            held = self._held.pop(key, None)
            mark = entry if isinstance(entry, Mark) else entry[1]
            change: Change = Touch(key) if isinstance(entry, Mark) else entry[0]
            self._release(entry)
            if unknown:
                change = _reread(change)
            if held is not None:
                self._release(held)
                change = merge(change, Touch(key) if isinstance(held, Mark) else held[0])
            mark.outstanding += 1
            self._ready[key] = self._entry(change, mark, _size(change))

    def forget(self, change: Change) -> None:
        """A newer change makes what waits for its key needless; of a hash, only the fields that it names."""
        entry = self._ready.get(change.key)
        if entry is None:
            return
        match change:
            case ExpirySet():  # tells nothing of the value: both are to be read
                if not isinstance(entry, Mark):
                    self.bytes -= entry[2]
                    self._ready[change.key] = entry[1]
                return
            case HashSet(_, names) | FieldsDeleted(_, names):
                if isinstance(entry, Mark) or not isinstance(entry[0], HashSet):
                    return
                for name in names:
                    entry[0].fields.pop(name, None)
                if entry[0].fields:
                    return
        self._release(self._ready.pop(change.key))
        self._advance()

    def _advance(self) -> None:
        marks = self._marks
        while marks and marks[0].offset is not None and not marks[0].outstanding:
            self.resume_at(marks[0].offset, marks[0].database)
            marks.popleft()


def _growth(older: HashSet, newer: HashSet) -> int:
    """Bytes by which merging `newer` into `older` makes it larger; counts only what is new."""
    fields = older.fields
    growth = 0
    for field, value in newer.fields.items():
        growth += len(value or b"")
        growth += -len(fields[field] or b"") if field in fields else len(field) + _OVERHEAD
    return growth


def _reread(change: Change) -> Change:
    """The same change, its values to be read again: fields of a hash one by one, anything else as a whole."""
    match change:
        case HashSet(key, fields):
            return HashSet(key, dict.fromkeys(fields))
        case StringSet(key) | ExpirySet(key):
            return Touch(key)
        case _:
            return change
