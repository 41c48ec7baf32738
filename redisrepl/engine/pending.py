"""What is still to be pushed: the latest change of each key, and how far the stream is acknowledged.

In: changes in the order of the stream. Out: batches of changes with disjoint keys, and the position below which
everything has arrived at the hub. Left to others: sending (`engine.outbound`), reading what an invalidation only names
(`local.read`).

Changes of one key are merged, so a key that changes a thousand times while a batch is out is sent once more. Above
`max_bytes` values give way to invalidations: the site's Redis is the spool. Keys above `max_keys` are left to a sweep,
which is then owed (`take_left_out`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, count, islice

from redisrepl.changes import Change, Deleted, FieldsDeleted, HashSet, Invalidated, StringSet
from redisrepl.engine.merging import elements_changed, growth, merge, note_newer, remaining, removes, size_of

__all__ = ["OVERHEAD", "Entry", "Mark", "Pending", "Waiting", "fields_of", "parts_of", "valued_part"]

#: Bytes that an entry costs beside its value: dictionary slot, a short key, tuple, object headers (measured).
OVERHEAD = 240


class Mark:
    """A stretch of the stream. It is done when no key that changed in it first is outstanding.

    Attributes:
        number: by which entries name it.
        offset: offset right after the stretch; None while it is still being read.
        database: the one that the stream has selected there.
        outstanding: keys whose oldest unacknowledged change lies in it.
    """

    __slots__ = ("database", "number", "offset", "outstanding")

    def __init__(self, number: int) -> None:
        self.number = number
        self.offset: int | None = None
        self.database = 0
        self.outstanding = 0


class Waiting:
    """A change, the number of its mark and the memory its values take."""

    __slots__ = ("change", "mark", "size")

    def __init__(self, change: Change, mark: int, size: int) -> None:
        self.change = change
        self.mark = mark
        self.size = size


#: There may be a million of these, so the frequent ones are small: the value of a string without an expiry, with the
#: number of its mark; a number alone: the value is to be read. Numbers, because the garbage collector passes
#: over tuples of bytes and numbers: looking at a million takes it long.
Entry = tuple[bytes, int] | int | Waiting


def parts_of(key: bytes, entry: Entry) -> tuple[Change, int, int]:
    """The change that an entry stands for, the number of its mark and the memory its values take."""
    if isinstance(entry, tuple):
        return StringSet(key, entry[0]), entry[1], len(entry[0])
    if isinstance(entry, int):
        return Invalidated(key), entry, 0
    return entry.change, entry.mark, entry.size


def fields_of(entries: Iterable[Entry]) -> set[bytes] | None:
    """The fields of a hash that these change; None: one of them changes more than fields."""
    names: set[bytes] = set()
    for entry in entries:
        if not isinstance(entry, Waiting) or (changed := elements_changed(entry.change)) is None:
            return None
        names.update(changed)
    return names


def valued_part(change: Change) -> Change | None:
    """The part of a change that carries values; None: it has none."""
    if isinstance(change, Invalidated):
        return None
    if isinstance(change, HashSet) and None in change.fields.values():
        valued: dict[bytes, bytes | None] = {name: value for name, value in change.fields.items() if value is not None}
        return HashSet(change.key, valued, change.type) if valued else None
    return change


class Pending:
    """The map of unsent changes; as a collection, the keys that wait or are on their way.

    Args:
        max_bytes: memory that waiting changes may take, in bytes, before values give way to invalidations.
        max_keys: how many keys may wait.

    Attributes:
        acknowledged: offset below which every change is at the hub; 0 while a first snapshot is not there yet.
        database: the one that the stream had selected at `acknowledged`.
        left_out: keys were left out since `take_left_out` was asked last.
        bytes: memory that values take now.
    """

    def __init__(self, max_bytes: int, max_keys: int) -> None:
        self._max_bytes = max_bytes
        self._max_keys = max_keys
        self._ready: dict[bytes, Entry] = {}
        self._in_flight: dict[bytes, Entry] = {}
        self._held: dict[bytes, Entry] = {}  # changed again while in flight
        self._newer: dict[bytes, list[Change]] = {}  # of which those in flight are out of date, should they come back
        self._marks: dict[int, Mark] = {}  # in the order of the stream
        self._numbers = count()
        self._open: Mark | None = None  # the stretch being read
        self._left = 0  # keys taken out of `_ready` since it was made; a dictionary steps over their places
        self.acknowledged = 0
        self.database = 0
        self.left_out = False
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._ready) + len(self._in_flight)

    def __iter__(self) -> Iterator[bytes]:
        return chain(self._ready, self._in_flight)

    def __contains__(self, key: object) -> bool:
        return key in self._ready or key in self._in_flight

    @property
    def ready(self) -> int:
        """Keys that could be sent now."""
        return len(self._ready)

    @property
    def in_flight(self) -> Collection[bytes]:
        """Keys that are on their way."""
        return self._in_flight.keys()

    @property
    def crowded(self) -> bool:
        """Whether half of what may wait does."""
        return self.bytes + OVERHEAD * len(self) > self._max_bytes // 2 or len(self) > self._max_keys // 2

    def fields(self, key: bytes) -> set[bytes] | None:
        """Fields of a hash that wait or are on their way; None: more of the key than fields does."""
        return fields_of(entries[key] for entries in (self._ready, self._in_flight, self._held) if key in entries)

    def places(self, number: int, most: int) -> dict[bytes, dict[bytes | None, int]] | None:
        """The keys that wait or are on their way, this number for each of their `fields`; None: there are too many."""
        if len(self) > most:
            return None
        return {key: dict.fromkeys([None] if (names := self.fields(key)) is None else names, number) for key in self}

    def resume_at(self, offset: int, database: int) -> None:
        """The stream goes on here, and everything before is at the hub."""
        self.acknowledged = offset
        self.database = database

    def start_over(self) -> None:
        """A new history begins with a snapshot. Pending changes that carry a value are kept, and count as part of it.

        Those without a value are dropped, but for those in flight: the caller puts their keys in doubt.
        """
        self.forget_valueless([*self])
        self._marks.clear()
        self._open = None
        self.acknowledged = 0
        if not len(self):
            return
        mark = self._reopen()
        for entries in (self._ready, self._in_flight, self._held):
            mark.outstanding += len(entries)
            for key, entry in entries.items():
                if isinstance(entry, tuple):
                    entries[key] = entry[0], mark.number
                elif isinstance(entry, int):
                    entries[key] = mark.number
                else:
                    entry.mark = mark.number

    def take_left_out(self) -> bool:
        """Whether keys were left out since this was asked last: then all of the namespace must be compared."""
        left_out, self.left_out = self.left_out, False
        return left_out

    def add(self, change: Change) -> None:
        """Take the next change of the stream."""
        key = change.key
        opened = self._open or self._reopen()
        entries = self._held if key in self._in_flight else self._ready
        older = entries.get(key)
        if older is None:
            if len(entries) >= self._max_keys:
                self.left_out = True
                return
            opened.outstanding += 1
            entries[key] = self._entry(change, opened.number, size_of(change))
        elif isinstance(older, int):
            # It is to be read already: that covers this change too, unless it replaces the key or removes elements.
            if removes(change):
                change = Invalidated(key, replaces=True)
            if isinstance(change, Deleted) or (isinstance(change, Invalidated) and change.replaces):
                entries[key] = self._entry(change, older, 0)
        else:
            older_change, mark, size = parts_of(key, older)
            self.bytes -= size
            if (
                isinstance(older_change, HashSet)
                and isinstance(change, HashSet | FieldsDeleted)
                and older_change.type == change.type
            ):
                size += growth(older_change, change)
                entries[key] = self._entry(merge(older_change, change), mark, size)
            else:
                merged = merge(older_change, change)
                entries[key] = self._entry(merged, mark, size_of(merged))

    def add_sets(self, commands: Collection[Sequence[bytes]]) -> None:
        """Take the next changes of the stream, all of them `SET key value`: as `add` would, in a third of the time."""
        ready, held, in_flight = self._ready, self._held, self._in_flight
        if len(ready) + len(commands) > self._max_keys or len(held) + len(commands) > self._max_keys:
            for _, key, value in commands:
                self.add(StringSet(key, value))
            return
        opened = self._open or self._reopen()
        number = opened.number
        room = self._max_bytes - self.bytes - OVERHEAD * len(ready)  # what a value may take
        fresh = 0
        for _, key, value in commands:
            entries = held if key in in_flight else ready
            older = entries.get(key)
            size = len(value)
            if older is None:
                fresh += 1
                mark = number
            elif isinstance(older, tuple):
                room += len(older[0])
                mark = older[1]
            elif isinstance(older, int):
                continue  # an invalidation, which covers this too
            else:
                room += older.size
                mark = older.mark
            if size <= room or not size:
                entries[key] = value, mark
                room -= size
            else:
                entries[key] = mark
            if older is None and entries is ready:
                room -= OVERHEAD
        opened.outstanding += fresh
        self.bytes = self._max_bytes - OVERHEAD * len(ready) - room

    def _entry(self, change: Change, mark: int, size: int) -> Entry:
        """The change as it is kept: values only as long as there is room for them."""
        if isinstance(change, Invalidated) and not change.replaces:
            return mark
        if size and self.bytes + size + OVERHEAD * len(self._ready) > self._max_bytes:
            return Waiting(Invalidated(change.key, replaces=True), mark, 0) if removes(change) else mark
        self.bytes += size
        if type(change) is StringSet and change.expires_at_ms is None:
            return change.value, mark
        return Waiting(change, mark, size)

    def _release(self, key: bytes, entry: Entry) -> Change:
        """Account for an entry that is not kept any more; return its change."""
        change, mark, size = parts_of(key, entry)
        self._marks[mark].outstanding -= 1
        self.bytes -= size
        return change

    def _reopen(self) -> Mark:
        self._open = mark = Mark(next(self._numbers))
        self._marks[mark.number] = mark
        return mark

    def read_up_to(self, offset: int, database: int = 0) -> None:
        """Everything before `offset` was added, and the stream may be resumed there (no transaction is open)."""
        if self._open is None and not self._marks:
            self.resume_at(offset, database)
            return
        mark = self._open
        if mark is not None and not mark.outstanding and len(self._marks) > 1:
            self._marks.popitem()  # every key that changed in it had changed before, and holds an older one open
            mark = None
        if mark is None:
            mark = next(reversed(self._marks.values()))  # nothing new to wait for: the stretch before is longer now
        mark.offset, mark.database = offset, database
        self._open = None
        self._advance()

    def take(self, max_keys: int, max_bytes: int, unless: Collection[bytes] = ()) -> list[Change]:
        """Changes to send in one batch, each key in no other batch; ends when either limit is reached.

        Args:
            max_keys: of the batch.
            max_bytes: of its keys and values.
            unless: keys that are left for later.
        """
        ready, in_flight = self._ready, self._in_flight
        batch: list[Change] = []
        size = 0
        items: Iterable[tuple[bytes, Entry]] = ready.items()
        if unless:
            items = (item for item in items if item[0] not in unless)
        for key, entry in islice(items, max_keys):
            change: Change
            if isinstance(entry, tuple):
                change = StringSet(key, entry[0])
                size += len(key) + len(entry[0])
            else:
                change, _, weight = parts_of(key, entry)
                size += len(key) + weight
            if size > max_bytes and batch:
                break
            batch.append(change)
            in_flight[key] = entry
        for change in batch:
            del ready[change.key]
        self._left += len(batch)
        if self._left > 3 * len(ready):  # not sooner: the copy of a million keys would be what memory must suffice for
            self._ready = dict(ready)
            self._left = 0
        return batch

    def done(self, keys: Iterable[bytes]) -> None:
        """These are at the hub, or were given up with an error that names them."""
        take, ready, held, marks = self._in_flight.pop, self._ready, self._held, self._marks
        keys = list(keys) if self._newer else keys
        for key in keys:
            entry = take(key)
            if isinstance(entry, tuple):
                marks[entry[1]].outstanding -= 1
                self.bytes -= len(entry[0])
            else:
                self._release(key, entry)
            if key in held:
                ready[key] = held.pop(key)
        if self._newer:
            for key in keys:
                self._newer.pop(key, None)
        self._advance()

    def put_back(self, keys: Iterable[bytes]) -> None:
        """These did not arrive, and never will: they wait again."""
        for key in keys:
            entry = self._in_flight.pop(key)
            mark = parts_of(key, entry)[1]
            change: Change | None = self._release(key, entry)
            for newer in self._newer.pop(key, ()):
                change = None if change is None else remaining(change, newer)
            if (held := self._held.pop(key, None)) is not None:
                later = self._release(key, held)
                if change is None:  # what is left was read later, and nothing before it is missing
                    change, mark = later, parts_of(key, held)[1]
                else:
                    change = merge(change, later)
            if change is not None:
                self._marks[mark].outstanding += 1
                self._ready[key] = self._entry(change, mark, size_of(change))
        self._advance()

    def forget(self, change: Change) -> None:
        """Drop pending changes that a newer change of their key makes obsolete, element by element in a collection.

        What is on its way arrives before the newer one is sent, which waits for it. Should it not arrive, it is out of
        date: sent after the newer one, it would undo that.
        """
        key = change.key
        if key in self._in_flight:
            note_newer(self._newer.setdefault(key, []), change)
        for entries in (self._ready, self._held):
            if (entry := entries.get(key)) is None:
                continue
            waiting = parts_of(key, entry)[0]
            if (left := remaining(waiting, change)) is not waiting:
                self._leave(entries, key, left)
        self._advance()

    def forget_valueless(self, keys: Iterable[bytes]) -> None:
        """Drop the pending changes of these keys that carry no value, but for those in flight."""
        for key in keys:
            for entries in (self._ready, self._held):
                if (entry := entries.get(key)) is None or isinstance(entry, tuple):
                    continue
                change = parts_of(key, entry)[0]
                if (valued := valued_part(change)) is not change:
                    self._leave(entries, key, valued)
        self._advance()

    def _leave(self, entries: dict[bytes, Entry], key: bytes, left: Change | None) -> None:
        """Keep no more of an entry than this; None: nothing."""
        entry = entries[key]
        mark = parts_of(key, entry)[1]
        self._release(key, entry)
        if left is None:
            del entries[key]
        else:
            self._marks[mark].outstanding += 1
            entries[key] = self._entry(left, mark, size_of(left))

    def _advance(self) -> None:
        marks = self._marks
        while marks:
            oldest = next(iter(marks.values()))
            if oldest.offset is None or oldest.outstanding:
                return
            self.resume_at(oldest.offset, oldest.database)
            del marks[oldest.number]
