"""Folds the journal into the database, and looks up in both what is agreed about a key.

In: the records of the journal. Out: what is agreed, and the intents of batches whose outcome is unknown. Left to
others: when to fold, and in which thread (`store.store`).

Records read from the journal are conflated in memory until there are enough for a transaction; a lookup sees both. The
facts of a batch become agreed when it is acknowledged; until then they are intents.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import structlog

from redisrepl.changes import Position
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.continuity import Side
from redisrepl.engine.places import Place, Places, Seen
from redisrepl.store.database import Database, Row, is_damage
from redisrepl.store.directory import Pair, StateDirectory
from redisrepl.store.facts import Changes, Entry, Patch, changes_of, last_sent
from redisrepl.store.journal import Journal, Kind, record
from redisrepl.store.reading import MALFORMED, Reader
from redisrepl.store.unusable import UnusableError, reason_of

__all__ = ["Agreed", "Folder"]

_log = structlog.get_logger("redisrepl")

_T = TypeVar("_T")
_ENOUGH_KEYS = 100_000
_ENOUGH_BYTES = 6 << 20  # of facts about elements, which take seven times as much memory
_MARK_EVERY = 256 << 10  # bytes of journal between two places from where it can be read on
_TOO_MANY_KEYS = 1_000_000  # to keep in memory while the database cannot be written
_MOST_UNWRITTEN = 16 << 20  # bytes of the journal that wait for room on the disk
_HALF = (1 << 48) - 1
_UNCHANGED = Patch(0)
_Digests = tuple[int | None, ...]
_ElementDigests = dict[bytes, _Digests]
_NO_INTENTS: tuple[_Digests, _ElementDigests, _Digests, _ElementDigests] = ((), {}, (), {})
_NONE: frozenset[bytes] = frozenset()


class Folder:
    """Journal and database of a pair. One thread creates it; another then calls its methods.

    Args:
        directory: where the files are.
        pair: site and hub that they belong to.
        digest_of_hash, bucket_of: as for `Database`.

    Attributes:
        journal: the owner appends to it.
        found: what the journal held at the start.
        fresh: whether nothing is agreed about any key.
        forgot: whether agreements were forgotten; the owner may set it back.
        trouble: why the files cannot be written or read; None if they can.
        stopped: the owner sets it to stop reading the journal.
        carried: bytes of the records that the last `renew` wrote to the new journal.

    Raises:
        OSError, sqlite3.OperationalError: the files cannot be read or created.
    """

    def __init__(
        self,
        directory: StateDirectory,
        pair: Pair,
        *,
        digest_of_hash: Callable[[bytes, tuple[int, int]], int],
        bucket_of: Callable[[bytes], int],
    ) -> None:
        self._directory = directory
        self._pair = pair
        self._digest_of_hash = digest_of_hash
        self._bucket_of = bucket_of
        self.trouble: str | None = None
        self.forgot = False
        self.stopped = False
        self.carried = 0
        self._lost: int | None = None  # place of the journal up to which the database must not tell of anything
        self._changes = Changes()
        self._taken = 0
        self._intents: dict[int, tuple[bytes, Changes]] = {}
        self._marks: list[tuple[int, Reader]] = []  # places of the journal, each with what was read by then
        self.journal = self._open_journal()
        try:
            self._database, lost = self._open_database()
            try:
                self._read_all(lost=lost or self._database.place < self.journal.base)
            except BaseException:
                self._database.close()
                raise
        except BaseException:
            self.journal.close()
            raise

    def _open_journal(self) -> Journal:
        path = self._directory.file("journal")
        try:
            return Journal(path, self._pair)
        except UnusableError as error:
            self._directory.set_aside(path, str(error))
            return Journal(path, self._pair)

    def _open_database(self) -> tuple[Database, bool]:
        """The database, and whether an unusable one was set aside for it."""
        path = self._directory.file("db")
        if not self.journal.existed and path.exists():  # its place refers to a journal that we do not have
            self._directory.set_aside(path, "its journal is missing, or cannot be used")
        try:
            return self._make_database(0), False
        except UnusableError as error:
            self._directory.set_aside(path, str(error))
            return self._make_database(0), True

    def _make_database(self, place: int) -> Database:
        path, functions = self._directory.file("db"), (self._digest_of_hash, self._bucket_of)
        return Database(path, self._pair, place, digest_of_hash=functions[0], bucket_of=functions[1])

    def _read_all(self, *, lost: bool) -> None:
        """Read the journal once: its state, the state at the database's place, and where its whole records end."""
        journal, database = self.journal, self._database
        self.found, reader = Reader(), None
        place, self.fresh = journal.base, database.empty
        for kind, payload, behind in journal.records(place, journal.end):
            if reader is None and place >= database.place:
                reader = self.found.copy()
            try:
                agreed = self.found.take(kind, payload)
            except MALFORMED:
                break
            if reader is not None and (agreed or kind == Kind.CLEARED):
                self.fresh = not agreed
            place = behind
            self._mark(place, self.found)
        if place < journal.end:
            behind = journal.cut(place)
            _log.warning("store.cut", file=str(journal.path), at=journal.size, bytes=behind, reason="no whole record")
        self.found.number = max(self.found.number, database.number)  # the end of the journal may be lost
        self._place = database.place
        self._reader = self.found.copy() if lost or reader is None else reader
        if lost:
            self._lose(place)
            self._clear()
        elif database.place > place:  # the end of the journal was lost after it had been folded
            self._renew()

    def _lose(self, place: int) -> None:
        """Forget all agreements that the journal recorded up to this place."""
        self._changes, self._taken, self._place = Changes(), 0, place
        self._lost, self.fresh, self.forgot = place, True, True

    def _clear(self) -> None:
        """Have the database forget them too."""
        if self._lost is not None:
            self._database.clear(self._lost)
            self._lost = None

    # Called in the worker's thread.

    def undamaged(self, step: Callable[[], _T]) -> _T:
        """Run a step; if the database turns out to be damaged, start with an empty one, and run the step again."""
        try:
            return step()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            reason = reason_of(error)
        self._database.close()
        self._directory.set_aside(self._directory.file("db"), reason)
        self._database = self._make_database(self._place)
        self._lose(self._place)
        return step()

    def catch_up(self) -> None:
        """Read what was appended to the journal; if too much of it could not be written, all agreement ends."""
        self._read_on()
        if self.journal.unwritten > _MOST_UNWRITTEN:
            kept = record(Kind.CLEARED) + self._reader.carried()
            if 2 * len(kept) < self.journal.unwritten:  # else most of it is not agreed on yet
                if not self.forgot:
                    _log.warning("store.forgot", file=str(self.journal.path), then="everything is compared again")
                self._place = self.journal.keep_instead(self._place, kept)
                self._marks.clear()
                self._read_on()
        self._clear()

    def _read_on(self) -> None:
        end = self.journal.end
        for kind, payload, place in self.journal.records(self._place, end):
            try:
                if agreed := self._reader.take(kind, payload):
                    self._changes.take(*agreed)
                    self._taken += len(agreed[0])
                    self.fresh = False
            except MALFORMED:
                break
            if kind == Kind.CLEARED:
                self._lose(place)
            self._place = place
            self._mark(place, self._reader)
            if self.stopped:
                return
            if len(self._changes) >= _ENOUGH_KEYS or self._taken >= _ENOUGH_BYTES:
                self._write_if_possible()
        if self._place < end:
            _log.warning("store.unreadable", file=str(self.journal.path), then="everything is compared again")
            self._lose(end)

    def _mark(self, place: int, reader: Reader) -> None:
        """Remember, now and then, what was read before this place of the journal."""
        if place < (self._marks[-1][0] if self._marks else self.journal.base) + _MARK_EVERY:
            return
        if sum(map(len, reader.open.values())) < _MARK_EVERY:  # which the copy holds for as long as the journal
            self._marks.append((place, reader.copy(document=False)))

    def _write_if_possible(self) -> None:
        """Write the conflated facts; if the disk refuses, keep them in memory, up to a limit."""
        try:
            self._write()
        except sqlite3.OperationalError as error:
            if is_damage(error) or len(self._changes) >= _TOO_MANY_KEYS:
                raise
            self.trouble = reason_of(error)

    def _write(self) -> None:
        """Write the conflated facts, unless the next process would find less in the journal."""
        if self._place > self.journal.written:
            return
        self._clear()
        if self._place != self._database.place:
            self._database.write(self._changes, self._place, self._reader.number)
            self._changes, self._taken = Changes(), 0

    def fold(self) -> bool:
        """Write everything in the journal to the database; False if that has to wait, an error if it fails."""
        self.catch_up()
        if self._place > self.journal.written:
            self._database.try_to_write()
            return False
        self._write()
        return True

    def renew(self) -> None:
        """Fold, then replace the journal by one without the folded records."""
        if self.fold():
            self._renew()

    def _renew(self) -> None:
        self._database.checkpoint()  # force it to the disk before the journal drops its records
        carried = self._reader.carried()
        self.journal.renew(self._database.place, carried)
        self._marks.clear()
        self._place = self._database.place + len(carried)
        self.carried = len(carried)

    def restore(self) -> None:
        """Create the directory again after it was removed, and write both files to it."""
        if self.fold():
            self._directory.acquire_again()
            self._database.move()
            self._renew()

    def close(self) -> None:
        """Close both files."""
        self._database.close()
        self.journal.close()

    def lookup(
        self, keys: Sequence[bytes], *, elements: bool, names: Mapping[bytes, Collection[bytes]], behind: bool
    ) -> dict[bytes, Agreed]:
        """What is agreed about these keys, and their intents.

        Args:
            keys: those with neither are missing in the result.
            elements: whether to return the agreed elements too.
            names: of these keys, no other elements than those.
            behind: see `Store`.
        """
        self.catch_up()
        rows = self._database.read(keys)
        batches = {number: (facts, _NONE) for number, facts in self._reader.open.items()}
        sent = self._sent(keys, batches)
        applied = self._sent(keys, self._reader.applying)
        self._intents = {n: known for n, known in self._intents.items() if n in batches or n in self._reader.applying}
        found = {}
        for key in keys:
            row, its = self._row(key, rows.get(key), elements=elements, names=names.get(key))
            intents = self._intents_of(key, sent.get(key, ()), applied.get(key, ()), its or {}, elements=elements)
            if behind or self.forgot:  # what an apply was to replace may have been agreed on, and not be known
                at_site = {name: left for name, left in intents[3].items() if name in (its or {})}
                intents = *intents[:2], () if row is None else intents[2], at_site
            if row is not None:
                total = None if row.total is None else (row.total >> 48, row.total & _HALF)
                found[key] = Agreed(row.digest, row.number, row.expires_at_ms, total, its, *intents)
            elif intents != _NO_INTENTS:
                found[key] = Agreed(None, 0, None, None, None, *intents)
        return found

    def _row(
        self, key: bytes, row: Row | None, *, elements: bool, names: Collection[bytes] | None
    ) -> tuple[Row | None, dict[bytes, int] | None]:
        """What is agreed about a key, given its row in the database, and about its elements."""
        entry = self._changes.get(key, _UNCHANGED)
        if entry is None:
            return None, None
        if isinstance(entry, tuple):
            return Row(*entry, None), None
        before, row = row, self._database.patched(key, entry, row) if entry is not _UNCHANGED else row
        if not elements or row is None or row.total is None:
            return row, None
        return row, self._database.merged(key, entry, before, names)

    def names(self, key: bytes, wanted: Callable[[bytes], bool] | None, before: bytes | None) -> set[bytes]:
        """See `Database.names`."""
        self.catch_up()
        entry = self._changes.get(key, _UNCHANGED)
        if entry is None or isinstance(entry, tuple):
            return set()
        names = set() if entry.whole else self._database.names(key, wanted, before)
        for changed, digest in entry.elements.items():
            if (wanted is None or wanted(changed)) and (before is None or changed < before):
                (names.discard if digest is None else names.add)(changed)
        return names

    def _sent(
        self, keys: Collection[bytes], batches: Mapping[int, tuple[bytes, frozenset[bytes]]]
    ) -> dict[bytes, list[Entry]]:
        """The facts of these batches about these keys; each batch comes with keys to leave out."""
        wanted = set(keys)
        sent: dict[bytes, list[Entry]] = {}
        for batch, (facts, void) in batches.items():
            known = self._intents.get(batch)
            if known is None or known[0] is not facts:
                known = self._intents[batch] = facts, Changes()
                known[1].take(facts, batch)
            for key in (known[1].keys() & wanted) - void:
                sent.setdefault(key, []).append(known[1][key])
        return sent

    def _intents_of(
        self,
        key: bytes,
        sent: Sequence[Entry],
        applied: Sequence[Entry],
        agreed: Collection[bytes],
        *,
        elements: bool,
    ) -> tuple[_Digests, _ElementDigests, _Digests, _ElementDigests]:
        """The intents of a key and of its elements, at the hub and at the site."""
        if not sent and not applied:
            return _NO_INTENTS
        at_hub, at_site = (self._left_by(key, entries, agreed, elements=elements) for entries in (sent, applied))
        return *at_hub, *at_site

    def _left_by(
        self, key: bytes, entries: Iterable[Entry], agreed: Collection[bytes], *, elements: bool
    ) -> tuple[_Digests, _ElementDigests]:
        """The intents of a key, and by field those of its elements; `agreed` are the names of its agreed fields."""
        of_key: list[int | None] = []
        of_elements: dict[bytes, list[int | None]] = {}
        for entry in entries:
            changed: Mapping[bytes, int | None] = entry.elements if isinstance(entry, Patch) else {}
            if not isinstance(entry, Patch) or entry.whole:
                # This batch sets the whole key: fields that it does not name would be gone.
                of_key.append(self._digest_of(key, entry))
                changed = {**dict.fromkeys((*agreed, *of_elements)), **changed} if elements else {}
            for name, digest in changed.items():
                of_elements.setdefault(name, []).append(digest)
        return _distinct(of_key), {name: _distinct(digests) for name, digests in of_elements.items()}

    def _digest_of(self, key: bytes, entry: Entry) -> int | None:
        """The digest of a key whose entry is complete: a whole hash, a string or an absence."""
        if isinstance(entry, Patch):
            row = self._database.patched(key, entry, None)
            return None if row is None else row.digest
        return None if entry is None else entry[0]

    def agreed_since(
        self, number: float, kept: Position | None = None, *, most: int
    ) -> dict[bytes, dict[bytes | None, int]] | None:
        """What was agreed after this number, or will be once an open batch is acknowledged, from the journal.

        Args:
            number: of a record or batch.
            kept: what the site is known to have held by this place of its history is left out.
            most: the largest number of keys to return.

        Returns:
            For each key the number of its last agreement, as a whole (None) and by element. None if the journal does
            not reach back so far, or if there are more keys.
        """
        self.catch_up()
        places = dict[bytes, dict[bytes | None, int]]()
        begin, reader = self._read_before(number)
        try:
            for facts, at, void in self._agreements(reader, number, begin):
                held_before = reader.held_before(kept, at)
                if at <= number and held_before is None:
                    continue
                changes = changes_of(facts, at, void)
                if held_before is not None:
                    held = Changes({key: changes.pop(key) for key in [*changes] if held_before(key)})
                    held.forget(places)
                if at > number:
                    changes.note(places, at)
                if len(places) > most:
                    return None
        except MALFORMED:
            return None
        batches = {**{batch: (facts, _NONE) for batch, facts in reader.open.items()}, **reader.applying}
        for batch, (facts, void) in sorted(batches.items()):
            changes_of(facts, batch, void).note_open(places, batch)
        return None if len(places) > most else places

    def unanswered(self, by: Side, places: Places, number: float) -> dict[Place, set[int | None]]:
        """What open batches carried of places where nothing was agreed on since, and nothing else sent.

        Args:
            by: the side that held it, and of which the other was sent it.
            places: as `agreed_since` returned them for this number, or an earlier one.
            number: the batches are later.
        """
        of_site = {batch: (facts, _NONE) for batch, facts in self._reader.open.items()}
        batches = of_site if by == "site" else self._reader.applying
        changes = ((batch, changes_of(facts, batch, void)) for batch, (facts, void) in batches.items())
        return last_sent(changes, places, number)

    def history(self, number: float, most: int) -> list[Seen] | None:
        """What was agreed on, in order, as far back as the journal reaches.

        Args:
            number: of a record or batch.
            most: the largest number of entries to return, the last ones.

        Returns:
            None if these do not reach back to the number.
        """
        self.catch_up()
        seen = deque[Seen](maxlen=most)
        for begin, reader in self._ever_earlier():
            seen.clear()
            try:
                for facts, at, void in self._agreements(reader, number, begin):
                    digests = changes_of(facts, at, void).digests()
                    seen.extend(Seen(at - 1, key, part, digest) for key, part, digest in digests)
            except MALFORMED:
                return None
            if len(seen) == most:
                break
        return None if len(seen) == most and seen[0].number >= number else list(seen)

    def _agreements(self, reader: Reader, number: float, begin: int) -> Iterator[tuple[bytes, int, Collection[bytes]]]:
        """The facts that the journal records as agreed from a place on, in order, as `Reader.take` returns them.

        Raises:
            ValueError, IndexError, struct.error (`MALFORMED`): it cannot be read, or does not reach back to `number`.
        """
        for kind, payload, _ in self.journal.records(begin, self.journal.end):
            facts = reader.take(kind, payload)
            # A renewed journal begins with NUMBER: what was agreed up to it is in the database only.
            if kind in {Kind.NUMBER, Kind.CLEARED} and reader.number > number:
                raise ValueError(f"the journal begins after agreement {number}")
            if facts is not None:
                yield facts

    def _read_before(self, number: float) -> tuple[int, Reader]:
        """A late place of the journal before which no later number was assigned, and what was read by then."""
        if at := bisect_right(self._marks, number, key=lambda mark: mark[1].number):
            place, reader = self._marks[at - 1]
            return place, reader.copy()
        return self.journal.base, Reader()

    def _ever_earlier(self) -> Iterator[tuple[int, Reader]]:
        """Places of the journal, and what was read by then: first near the end, each next one much further back."""
        marks = 16  # 4 MB
        while marks < len(self._marks):
            place, reader = self._marks[-marks]
            yield place, reader.copy()
            marks *= 4
        yield self.journal.base, Reader()

    def read(self, question: Callable[[Database, Changes], _T]) -> _T:
        """What the database tells, and the changes that are not folded yet."""
        self._clear()
        return question(self._database, self._changes)

    def page(self, prefix: bytes, buckets: Collection[int], after: bytes | None) -> list[tuple[bytes, int]]:
        """As `Database.page`: only what is folded."""
        return self._database.page(prefix, buckets, after)


def _distinct(digests: Iterable[int | None]) -> tuple[int | None, ...]:
    return tuple(dict.fromkeys(digests))
