"""What was seen of a server, as evidence of its history: its last changes, in order.

In: changes, and what keys were read to hold. Out: the last changes with their digests, in memory and as JSON can hold
them; whether what a place holds is among them. Left to others: what that proves (`engine.evidence`), and what follows
(`engine.losses`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple

from redisrepl.changes import Change, Deleted, HashSet, Invalidated, StringSet
from redisrepl.engine.pieces import Pieces
from redisrepl.engine.places import Place, Seen, Valueless, entry_of, entry_of_valueless, seen_of, valueless_of
from redisrepl.wire.digests import element_of, string_digest

__all__ = ["HISTORY", "RING", "Ring"]

#: Changes that are remembered at a time, and saved; and in all, while the daemon runs.
RING = 512
_KEPT = 1024
#: Changes, and what is known of moments between them, that are saved.
_ENTRIES = 2 * RING
#: Offsets of which the number of agreements by then is remembered: of some minutes, where agreements are many.
_MILESTONES = 512
#: What was agreed on that the hub is judged by.
HISTORY = 20_000
#: Saved in the place of changes that were left out.
_LEFT_OUT: Sequence[object] = ()
#: Fields of one change that are remembered.
_FIELDS = 16


class _Moment(NamedTuple):
    """Something that is known of all changes that were seen by then.

    Attributes:
        offset: the stream has told them before it.
        number: they are agreed on by it.
        all: the stream had told nothing else by then.
    """

    offset: int | None = None
    number: int | None = None
    all: bool = False


def _entry(what: Seen | _Moment | None, later: int) -> Sequence[object]:
    """An entry of the ring, as JSON can hold it; see `Ring._unsaved`."""
    match what:
        case None:
            return _LEFT_OUT
        case _Moment(None, number):
            return None, number, later
        case _Moment(offset, _, exact):
            return offset, exact, later
        case seen:
            return entry_of(seen, later)


class Ring:
    """The last changes that were seen of one server.

    Args:
        seen: they, in order.
        number: agreements up to this one are about what was seen by then.
        valueless: places of which changes were seen that did not tell to what; with the number by the last of them.
        complete: of the last so many changes, none was left out; None: of all.

    Attributes:
        number: likewise.
        complete: likewise; where one was left out, what a place held then is not known.
        whole: none was ever left out.
        count: changes that were ever added.
    """

    def __init__(
        self,
        seen: Iterable[Seen] = (),
        number: int = 0,
        valueless: Valueless = MappingProxyType({}),
        complete: int | None = None,
    ) -> None:
        self._seen: deque[Seen] = deque(maxlen=_KEPT)
        self._by_place: dict[Place, list[Seen]] | None = None  # made when it is asked for
        # Each with how many before it are later changes; None: something was left out.
        self._unsaved: deque[tuple[Seen | _Moment | None, int]] = deque(maxlen=_ENTRIES)
        self._seen_saved, self._milestones_saved = Pieces("seen", _ENTRIES), Pieces("milestones", _MILESTONES)
        self.count = 0
        self._invalid: dict[bytes, tuple[int, int]] = {}  # keys yet to be read: that count at their change, the number
        self._valueless: dict[Place, float] = {}
        self._valueless_unsaved: deque[Place] = deque(maxlen=RING)
        self._valueless_saved = Pieces("untold", RING)
        self.complete, self.whole = 0, True
        self.number = number
        self._unread: int | None = None  # the number once the keys of changes that told no value were read
        self._milestones: deque[tuple[int, int]] = deque(maxlen=_MILESTONES)  # offsets, each with its number
        self._number_before = 0
        self._other_at = -1  # so many changes there were when the last was seen that is not among them
        # Counts of changes, each with an offset, and whether the stream had told all of them; or a number: `_Moment`.
        self._offsets: deque[tuple[int, int, bool]] = deque(maxlen=_KEPT)
        self._reached_at = -1  # so many changes there were when such an offset was noted to be saved
        self._agreed: deque[tuple[int, int]] = deque(maxlen=_MILESTONES)
        self._not_agreed: deque[tuple[int, int]] = deque(maxlen=_MILESTONES)  # of the offsets, since the last of those
        self._remember(seen)
        self._do_not_know(valueless)
        self.complete = self.complete if complete is None else complete

    def __iter__(self) -> Iterator[Seen]:
        return iter(self._seen)

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def valueless(self) -> Valueless:
        """Places of which changes were seen that did not tell to what; with the number by the last of them."""
        return self._valueless

    @property
    def complete_from(self) -> int:
        """Index of the first change since which none was left out."""
        return max(0, len(self._seen) - self.complete)

    def last(self, key: bytes, field: bytes | None = None) -> Seen | None:
        """The last change that told what a key holds as a whole, or what a field of it does."""
        return of_place[-1] if (of_place := self._of(key, field)) else None

    def digests(self, key: bytes, field: bytes | None) -> set[int | None]:
        """What was seen at a place, as far as none is left out."""
        return {seen.digest for seen in self._of(key, field)}

    def _of(self, key: bytes, field: bytes | None) -> Sequence[Seen]:
        if self._by_place is None:
            self._by_place = {}
            for seen in islice(self._seen, self.complete_from, None):
                self._by_place.setdefault(seen.place, []).append(seen)
        return self._by_place.get((key, field), ())

    def written_since(
        self,
        number: float,
        key: bytes,
        field: bytes | None,
        digest: int | None,
        *,
        kept: bool = False,
        agreed: Collection[int | None] | None = None,
    ) -> bool:
        """Whether a server that holds this at a place, and has all that was agreed up to a number, wrote it after that.

        What it held then is known, and so is all that may have followed; it holds none of it.

        Args:
            number: agreements up to this one it has.
            key: of the place.
            field: likewise.
            digest: of what it holds there.
            kept: it has some change of that place that was seen, whatever the number.
            agreed: what was agreed on of it since `agreed_by` this number; None: that is not known.
        """
        if self.was_valueless((key, field)):
            return False
        of_place = self._of(key, field)
        known = kept or agreed is not None or any(seen.number < number for seen in of_place)
        return (
            known
            and digest is not None
            and all(seen.digest != digest for seen in of_place)
            and digest not in (agreed or ())
        )

    def was_read(self, place: Place) -> bool:
        """Whether a change did not tell what it left there: what was read instead need not be in its order."""
        return bool(self._valueless_at(place))

    def was_valueless(self, place: Place) -> bool:
        """Whether values were there that nobody knows: a change did not tell, and none before it is remembered."""
        at, of_place = self._valueless_at(place), self._of(*place)
        return bool(at) and (not of_place or max(at) >= of_place[0].number)

    def _valueless_at(self, place: Place) -> list[float]:
        """The numbers of changes that did not tell what they left at a place, or in its key as a whole."""
        return [self._valueless[one] for one in (place, (place[0], None)) if one in self._valueless]

    def add(
        self, now: float, changes: Collection[Change | int], *, valueless: bool = False, whole: bool = True
    ) -> None:
        """These are the newest changes, with offsets before which they were told; so many agreements there are now.

        What is without a value (`valueless`) is no witness: such agreements count once its keys were read, or others
        followed. There were others before them, unless this is the `whole`.
        """
        number = self.number
        if not whole:
            self._left_out()
        if valueless:
            self._unread = int(now)
        elif changes or self._unread is None:
            self.number, self._unread = max(number, int(now)), None
        for change in changes:
            if isinstance(change, int):
                self._reached_before(change, exact=whole and self._other_at != self.count)
                continue
            before = self.count
            self._take_in(change, number)
            if self.count == before:
                self._other_at = self.count
        if not whole:
            self._other_at = self.count  # it may be the last

    def _take_in(self, change: Change, number: int) -> None:
        match change:
            case StringSet(key, value):
                self._remember([Seen(number, key, None, string_digest(key, value))])
            case HashSet(key, fields, kind):
                last = list(fields.items())[-_FIELDS:]
                if len(last) < len(fields):
                    self._do_not_know({(key, None): number})
                known = [(name, value) for name, value in last if value is not None]
                self._remember(Seen(number, key, name, element_of(name, value, kind)) for name, value in known)
                self._do_not_know({(key, name): number for name, value in last if value is None})
                if len(known) < len(last):
                    self._invalidate(key, number)
            case Invalidated(key):
                self._do_not_know({(key, None): number})
                self._invalidate(key, number)
            case Deleted(key):
                self._remember([Seen(number, key, None, None)])

    def add_read(self, held: Mapping[bytes, int | None]) -> None:
        """Keys of which a change told no value were read to hold this now.

        Each takes the place of its change, at the latest: of a server that holds this, it proves no more than that one.
        """
        now = self.count, self.number
        read = sorted(((key, self._invalid.pop(key, now)) for key in held), key=itemgetter(1))
        for key, (count, number) in read:
            seen, later = Seen(number, key, None, held[key]), now[0] - count
            self._insert(seen, later)
            self._unsaved.append((seen, later))
        counts = [count for _, (count, _) in read]
        self._make_room(counts)
        self._invalid = {key: (at + bisect_right(counts, at), number) for key, (at, number) in self._invalid.items()}
        if self._other_at == self.count:
            self._other_at += len(read)  # others may have come after those that were read
        self.count += len(read)
        self._by_place = None
        if self._unread is not None:
            self.number, self._unread = max(self.number, self._unread), None

    def _invalidate(self, key: bytes, number: int) -> None:
        self._invalid.pop(key, None)
        self._invalid[key] = self.count, number
        if len(self._invalid) > _KEPT:
            del self._invalid[next(iter(self._invalid))]

    def _insert(self, seen: Seen, later: int) -> None:
        """Put a change before this many later ones."""
        if len(self._seen) == _KEPT:
            self._seen.popleft()
            self.whole = False
        self.complete += later < self.complete
        self._seen.insert(len(self._seen) - min(later, len(self._seen)), seen)

    def _make_room(self, counts: Sequence[int]) -> None:
        """Where so many changes had been seen, in ascending order, one is inserted: later ones have been seen since."""
        reached = [*self._offsets]
        self._offsets.clear()
        for at, offset, exact in reached:  # if not exact, what is inserted may be of what had been told by then
            before = bisect_left(counts, at) if exact else bisect_right(counts, at)
            self._offsets.append((at + before, offset, exact))
        for moments in (self._agreed, self._not_agreed):
            moved = [(at + bisect_left(counts, at), of_them) for at, of_them in moments]
            moments.clear()
            moments.extend(moved)

    def reached(self, offset: int) -> None:
        """The stream was read up to this offset, and so all that was agreed on when it was read up to the last one.

        What is agreed on just now may have been read at the site, ahead of its stream.
        """
        if self._number_before > (self._milestones[-1][1] if self._milestones else 0):
            self._mark((offset, self._number_before))
        self._number_before = self.number
        exact = self._other_at != self.count
        self._reached_before(offset, exact=exact)
        if self._reached_at != self.count:
            self._reached_at = self.count
            self._not_agreed.append((self.count, offset))
            self._unsaved.append((_Moment(offset, all=exact), 0))

    def _reached_before(self, offset: int, *, exact: bool) -> None:
        """The stream has told the changes until now before this offset; with `exact`, nothing else."""
        if self._offsets and self._offsets[-1][0] == self.count and self._offsets[-1][2] == exact:
            self._offsets.pop()  # nothing else of ours was told in between
        self._offsets.append((self.count, offset, exact))

    def acknowledged(self, offset: int, number: int) -> None:
        """What the stream had told before this offset is agreed on, up to this number."""
        count = None
        while self._not_agreed and self._not_agreed[0][1] <= offset:
            count, _ = self._not_agreed.popleft()
        if count is not None:
            self._note_agreed(count, number)

    def begins_agreed(self) -> None:
        """What the server holds as it begins is agreed on, or known otherwise."""
        self._note_agreed(self.count, self.number)

    def _note_agreed(self, count: int, number: int) -> None:
        self._agreed.append((count, number))
        self._unsaved.append((_Moment(number=number), self.count - count))

    def agreed_by(self, number: float) -> int | None:
        """The last number, up to this one, by which all was agreed on that was seen before some change.

        That change and all later ones are remembered. None: that is not known of any.
        """
        remembered = self.count - (len(self._seen) - self.complete_from)
        return next((n for count, n in reversed(self._agreed) if n <= number and count >= remembered), None)

    def offset_of(self, changes: int) -> int:
        """Before which offset a server has all, if it has the first so many of these changes; 0: that is not known."""
        if not changes:  # it may be empty
            return 0
        count = self.count - len(self._seen) + changes
        # Where another came between the last change and the offset, only a later change is behind that.
        return max((offset for at, offset, exact in self._offsets if at + (not exact) <= count), default=0)

    def _do_not_know(self, places: Valueless) -> None:
        for place, number in places.items():
            before = self._valueless.pop(place, number)
            self._valueless[place] = max(number, before)  # the last
            self._valueless_unsaved.append(place)
        while len(self._valueless) > _KEPT:
            del self._valueless[next(iter(self._valueless))]
            self._left_out()

    def _remember(self, changes: Iterable[Seen]) -> None:
        self._by_place, before = None, self.count
        for seen in changes:
            self._seen.append(seen)
            self._unsaved.append((seen, 0))
            self.count += 1
        self.complete += self.count - before
        self.whole &= self.count <= _KEPT

    def _left_out(self) -> None:
        self._by_place, self.complete, self.whole = None, 0, False
        self._agreed.clear()
        self._not_agreed.clear()
        self._unsaved.append((None, 0))

    def _mark(self, milestone: tuple[int, int]) -> None:
        self._milestones.append(milestone)
        self._milestones_saved.add(milestone)

    def number_at(self, offset: int) -> int:
        """Agreements up to this number are about what the stream had told before this offset."""
        return max((number for reached, number in self._milestones if reached <= offset), default=0)

    def saved(self) -> dict[str, object]:
        """As JSON can hold it, by names of which few have another value than when it was asked for last."""
        if len(self._unsaved) == _ENTRIES:  # there may have been more
            self._seen_saved.add(_LEFT_OUT)
        for seen, later in self._unsaved:
            self._seen_saved.add(_entry(seen, later))
        self._unsaved.clear()
        for place in dict.fromkeys(self._valueless_unsaved):
            self._valueless_saved.add(entry_of_valueless(place, self._valueless[place]))
        self._valueless_unsaved.clear()
        saved = self._seen_saved.saved | self._milestones_saved.saved | self._valueless_saved.saved
        return {"ring": self.number, **saved}

    @classmethod
    def load(cls, document: Mapping[str, object]) -> Ring:
        """From a document with what was saved; what cannot be read is left out, which only proves less."""
        number = document.get("ring")
        ring = cls(number=number if isinstance(number, int) else 0)
        ring.whole = ring._seen_saved.has_all(document)
        for entry in ring._seen_saved.load(document):
            match entry:
                case []:
                    ring._left_out()
                case [_, _, _, _, int(later)] if later > 0 and (seen := seen_of(entry)) is not None:
                    ring._insert(seen, later)
                    ring._make_room([ring.count - later])
                    ring.count += 1
                case [int(offset), bool() | None as exact, 0]:
                    ring._offsets.append((ring.count, offset, bool(exact)))
                case [None, int(agreed_by), int(later)] if later >= 0:
                    ring._agreed.append((ring.count - later, agreed_by))
                case _ if (seen := seen_of(entry)) is not None:
                    ring._remember([seen])
        ring._do_not_know(valueless_of(ring._valueless_saved.load(document)))
        for pair in ring._milestones_saved.load(document):
            match pair:
                case [int(offset), int(reached)]:
                    ring._mark((offset, reached))
        return ring
