"""What a server that went back may have lost: which of its keys may be older than what was agreed.

In: what was seen of the server before it was lost, what of that is proved, and what was agreed since. Out: for a key,
and for fields of a hash, whether what the server holds now may be older. Left to others: proving (`engine.evidence`),
what follows from it (`engine.plans`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, NamedTuple

from redisrepl.changes import HashState, State
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.continuity import Side
from redisrepl.engine.places import (
    MOST_PLACES,
    Place,
    Places,
    Seen,
    digests_of,
    entries_of_digests,
    entry_of,
    entry_of_place,
    entry_of_valueless,
    field_or_none,
    hex_or_none,
    list_of,
    place_of,
    seen_of,
    valueless_of,
)
from redisrepl.engine.renewed import Renewed
from redisrepl.engine.seen import Ring
from redisrepl.engine.streamedkeys import StreamedKeys
from redisrepl.wire.digests import digest_of, elements_of

__all__ = ["NO_FINDINGS", "DigestsByPlace", "Findings", "Losses", "agreed_since", "joined"]

#: Digests of what may have been at a place.
DigestsByPlace = Mapping[Place, Collection[int | None]]


def joined(*parts: Places | None) -> Places | None:
    """The places of all parts; None: those of one are not known, or there are too many."""
    places: dict[bytes, dict[bytes | None, int]] = {}
    for part in parts:
        if part is None or len(places) + len(part) > MOST_PLACES:
            return None
        for key, numbers in part.items():
            before = places.setdefault(key, {})
            for field, number in numbers.items():
                before[field] = max(number, before.get(field, number))
    return places


def _after(number: float, places: Places | None) -> Places | None:
    """Those that were agreed on after this number."""
    if places is None:
        return None
    later = {key: {part: at for part, at in numbers.items() if at > number} for key, numbers in places.items()}
    return {key: numbers for key, numbers in later.items() if numbers}


def agreed_since(places: Collection[Place], history: Iterable[Seen], number: float) -> DigestsByPlace:
    """Of places, what was agreed on last up to a number, and ever since; without those of which that is not known.

    Args:
        places: they.
        history: what was agreed on, in order.
        number: it.
    """
    since: dict[Place, set[int | None]] = {}
    for seen in history:
        if seen.place not in places:
            continue
        if seen.number < number:  # it became agreed by it
            since[seen.place] = {seen.digest}
        elif seen.place in since:
            since[seen.place].add(seen.digest)
    return since


class Findings(NamedTuple):
    """What was found of a server at the end of a new link.

    Attributes:
        proved: what was agreed up to this number, it has.
        number: of agreements by now.
        agreed: what was agreed, or was about to be, since what is proved, and since it was lost before it went back;
            None: nobody knows that.
        kept_to: it has what the stream told before this offset; None: nobody knows that.
        known_to: of what was agreed on after this number, it is not known whether the stream had told of it.
        kept: places of which it has a change that was seen, and all that came before; empty: that is not known, nor of
            any earlier one.
        held: what it holds now at some places of `Losses.suspects`.
        since: what was agreed on at some of them: last by the number of `Ring.agreed_by`, and ever since.
        past: what was agreed on anywhere, as far back as that is remembered.
        seen: of a hub, what was agreed on of places that it may have lost.
        sent: what it may hold at some of them that the other side was sent after all that was agreed on.
    """

    proved: float = math.inf
    number: int = 0
    agreed: Places | None = None
    kept_to: int | None = None
    known_to: float = math.inf
    kept: frozenset[Place] = frozenset()
    held: Mapping[Place, int | None] = MappingProxyType({})
    since: DigestsByPlace = MappingProxyType({})
    past: DigestsByPlace = MappingProxyType({})
    seen: Iterable[Seen] = ()
    sent: DigestsByPlace = MappingProxyType({})


NO_FINDINGS = Findings()


class _Missed(NamedTuple):
    """What a replica did not have that took over.

    Attributes:
        keys: of which the old master's stream had told since.
        numbers: of what was applied to the old master and not yet shown by its stream.
        known_to: see `StreamedKeys`.
    """

    keys: set[bytes]
    numbers: set[int]
    known_to: float = math.inf


class Losses:
    """What a server may have lost since both sides agreed on all keys.

    Args:
        side: whose server it is.

    Attributes:
        streamed_keys: keys that the site's stream told of last, before it was lost.
        waiting: of a site, what waited for the hub then, and what was agreed on by then; None: more than is remembered.
        renewed: see there.
    """

    def __init__(self, side: Side = "site") -> None:
        self.renewed = Renewed(side)
        self._side = side
        self.streamed_keys = StreamedKeys()
        self.waiting: Places | None = {}
        self._seen = Ring()
        self._missed: _Missed | None = None
        self._places: Places | None = None  # what was agreed, or was about to be, and may be lost; None: not known
        self._kept: frozenset[Place] = frozenset()  # of which it has at least one change of those seen
        self._held: Mapping[Place, int | None] = {}  # what it held at some of these places when it was judged
        self._since: DigestsByPlace = {}  # what else may have been at some of them
        self._past: DigestsByPlace = {}  # what was agreed on anywhere, as far back as that is remembered
        self._sent: DigestsByPlace = {}  # what the other side was sent after all that was agreed on
        self._saved: dict[str, object] | None = None  # made when it is asked for

    def interrupted(self, ring: Ring) -> None:
        """What is seen from now on does not follow upon these last changes; the site has not been compared since."""
        complete, changes = ring.complete + (self._seen.complete if ring.whole else 0), [*self._seen, *ring]
        self._seen = Ring(changes, valueless={**self._seen.valueless, **ring.valueless}, complete=complete)
        if not (ring.whole and self._seen.whole):
            self._since = {}  # of what followed upon it, some is forgotten now
        self._saved = None

    def went_back(self, ring: Ring, proved_before: float, applies: Collection[int], findings: Findings) -> None:
        """The server is judged to have gone back.

        Args:
            ring: the last changes that were seen of it.
            proved_before: what was proved until now; infinity: all of it.
            applies: numbers of what was applied and not yet shown by the stream.
            findings: what was found.
        """
        keys = self._streamed_later(findings.kept_to)
        self.renewed.went_back(findings.number)
        if keys is not None:
            self.renewed.has_all_but(keys)
        self.renewed.agreed(findings.agreed)
        first = proved_before == math.inf
        before = _Missed(set(), set()) if first else self._missed
        self._missed = None
        if keys is not None and before is not None:
            known_to = min(before.known_to, self.streamed_keys.known_to, findings.known_to)
            self._missed = _Missed(before.keys | keys, before.numbers.union(applies), known_to)
        self._kept = findings.kept and findings.kept | self._kept
        since = self._with_held(findings.since) if proved_before != math.inf else findings.since
        self._places = self.suspects(proved_before, findings.proved, findings.agreed, findings.kept_to)
        self._held, self._sent = findings.held, findings.sent
        self.interrupted(ring)
        self._since = since

    def _with_held(self, since: DigestsByPlace) -> DigestsByPlace:
        """With what was there when the server was judged before; without what may have been older then, unlooked at."""
        known = dict[Place, Collection[int | None]]()
        for place, digests in since.items():
            if place in self._held:
                known[place] = {*digests, self._held[place]}
            elif not self._was_suspect(place):
                known[place] = digests
        return known

    def _was_suspect(self, place: Place) -> bool:
        if self._places is None:
            return True
        field, parts = place[1], self._places.get(place[0], {})
        return bool(parts) and (field is None or field in parts or None in parts)

    def suspects(
        self, proved_before: float, proved_now: float, agreed: Places | None, kept_to: int | None
    ) -> Places | None:
        """What may be lost by a server that is judged to have gone back; arguments as of `went_back`."""
        before = {} if proved_before == math.inf else self._places
        waiting, later = self.waiting, self._streamed_later(kept_to)
        if waiting is not None and later is not None:
            waiting = {key: waiting[key] for key in waiting.keys() & later}
        return joined(before, waiting, _after(proved_now, agreed))

    def _streamed_later(self, offset: int | None) -> set[bytes] | None:
        """Keys of which the stream told after this offset; None: they are not known, or the offset is not."""
        return None if offset is None else self.streamed_keys.later_than(offset)

    def made_good(self) -> None:
        """Both sides agree on all keys."""
        self._seen, self._missed, self._places, self._kept, self._saved = Ring(), None, None, frozenset(), None
        self._held, self._since, self._past, self._sent = {}, {}, {}, {}
        self.renewed.made_good()

    def may_be_older(self, key: bytes, state: State, ancestor: Agreed, now: Ring, proved: float) -> bool:
        """Whether what the server holds for a key may be older than what was agreed on; of a collection, some of it.

        What it was seen to write after the agreement is newer, whatever else it has lost; so is what the other side was
        sent after that; what it did not hold yet when it was judged; and what nobody had seen there before, where what
        it held when it was lost is known.

        Args:
            key: it.
            state: what the server holds.
            ancestor: what was agreed on.
            now: the last changes that were seen since it was judged.
            proved: what was agreed up to this number, it has.
        """
        if ancestor.number <= proved:
            return False
        if isinstance(state, HashState):  # what is known of it as a whole tells only that something of it is newer
            return self._places is None or key in self._places
        if self.renewed.holds(key, None, ancestor):
            return False
        held = digest_of(key, state)
        if self._was_written((key, None), held) or self._was_sent((key, None), held):
            return False
        if (missed := self._was_missed(key, ancestor.number)) is not None:
            return missed and not self._written_since(proved, key, None, held)
        agreed_at = ancestor.number
        if self._places is not None:
            if key not in self._places:
                return False
            agreed_at = max(self._places[key].values(), default=0)
        if self._seen_last(key, None, held, agreed_at, now):
            return False
        return not self._written_since(proved, key, None, held)

    def newer_fields(
        self, key: bytes, state: State, others: Iterable[bytes], ancestor: Agreed, now: Ring, proved: float
    ) -> Collection[bytes]:
        """Of a hash that may be older, the fields that are not: of those it has, and of others."""
        if not isinstance(state, HashState):
            return ()
        held, newer = elements_of(state.fields, state.type), set[bytes]()
        for name in {*held, *others}:
            agreed_at: int | None = ancestor.number
            if self._places is not None:
                numbers = self._places.get(key, {})
                agreed_at = max((numbers[part] for part in (name, None) if part in numbers), default=None)
            digest = held.get(name)
            if (
                agreed_at is None
                or (self._places is not None and self._was_missed(key, agreed_at) is False)
                or self.renewed.holds(key, name, ancestor)
                or self._was_written((key, name), digest)
                or self._was_sent((key, name), digest)
                or self._seen_last(key, name, digest, agreed_at, now)
                or self._written_since(proved, key, name, digest)
            ):
                newer.add(name)
        return newer

    def remembers(self, past: DigestsByPlace) -> None:
        """What was agreed on anywhere, as far back as that is remembered."""
        self._past = {**self._past, **past}

    def past(self, key: bytes, field: bytes | None) -> Collection[int | None]:
        """What the server is known to have held at a place before it went back; it may have held more.

        What the stream of a site told of last may not have been pushed yet: it counts only if it was agreed on. So does
        all that it told of, where what was read may have been later.
        """
        place = (key, field)
        known = {*self._since.get(place, ()), *self.agreed(key, field)}
        if self._side == "site" and self._seen.was_read(place):
            return known
        seen = self._seen.digests(key, field)
        if self._side == "site" and (last := self._seen.last(key, field)) is not None:
            seen.discard(last.digest)
        return known | seen

    def agreed(self, key: bytes, field: bytes | None) -> Collection[int | None]:
        """What was ever agreed on at a place, as far back as that is remembered."""
        return self._past.get((key, field), ())

    def _was_missed(self, key: bytes, number: int) -> bool | None:
        """Whether a replica that took over did not have what was agreed on of a key under a number; None: unknown."""
        missed = self._missed
        if missed is None or number > missed.known_to:
            return None
        return key in missed.keys or number in missed.numbers

    def _was_written(self, place: Place, held: int | None) -> bool:
        """Whether a place holds something else than when the server was judged."""
        return place in self._held and self._held[place] != held

    def _was_sent(self, place: Place, held: int | None) -> bool:
        """Whether what a place holds was sent to the other side, after all that was agreed on of it."""
        return held is not None and held in self._sent.get(place, ())

    def _written_since(self, proved: float, key: bytes, field: bytes | None, held: int | None) -> bool:
        kept, since = (key, field) in self._kept, self._since.get((key, field))
        return self._seen.written_since(proved, key, field, held, kept=kept, agreed=since)

    def _seen_last(self, key: bytes, field: bytes | None, held: int | None, agreed_at: int, now: Ring) -> bool:
        """Whether this is the last that was seen there, and that was after the agreement."""
        last = now.last(key, field) or self._seen.last(key, field)
        return last is not None and last.number >= agreed_at and last.digest == held

    def saved(self, *, whole: bool = True) -> dict[str, object] | None:
        """As JSON can hold it: a daemon may end, and both sides not be compared before its successor is there.

        Args:
            whole: the server has gone back; else only what will matter should it be judged to have; None: nothing does.
        """
        renewed: dict[str, object] = {"renewed": self.renewed.saved()} if self.renewed.watches else {}
        if not whole:
            return renewed or None
        if self._saved is None:
            missed = (
                None
                if self._missed is None
                else [
                    sorted(map(bytes.hex, self._missed.keys)),
                    [*self._missed.numbers],
                    None if self._missed.known_to == math.inf else self._missed.known_to,
                ]
            )
            places = (
                None
                if self._places is None
                else {key.hex(): _as_json(numbers) for key, numbers in self._places.items()}
            )
            kept = list(map(entry_of_place, self._kept))
            self._saved = {
                "seen": [entry_of(seen) for seen in self._seen],
                "untold": [entry_of_valueless(*one) for one in self._seen.valueless.items()],
                "complete": self._seen.complete,
                "missed": missed,
                "places": places,
                "kept": kept,
                "held": [(*entry_of_place(place), digest) for place, digest in self._held.items()],
                "settled": entries_of_digests(self._since),
                "sent": entries_of_digests(self._sent),
            }
        return self._saved | renewed

    @classmethod
    def load(cls, document: object, side: Side = "site") -> Losses:
        """From what was saved; what cannot be read is left out, and more may be older then."""
        losses = cls(side)
        if not isinstance(document, Mapping):
            return losses
        losses.renewed = Renewed.load(document.get("renewed"), side)
        match document.get("seen"):
            case [*entries]:
                seen = [seen for entry in entries if (seen := seen_of(entry)) is not None]
                complete = document.get("complete")
                valueless = valueless_of(list_of(document.get("untold")))
                losses._seen = Ring(seen, 0, valueless, complete if isinstance(complete, int) else 0)
        match document.get("missed"):
            case [[*keys], [*numbers], *known_to]:
                with suppress(ValueError, TypeError):
                    to = known_to[0] if known_to and known_to[0] is not None else math.inf
                    missed = _Missed(set(map(bytes.fromhex, keys)), {int(number) for number in numbers}, float(to))
                    losses._missed = missed
        kept: Any = document.get("kept")
        with suppress(ValueError, TypeError):
            losses._kept = frozenset(place_of(key, field) for key, field in kept)
        held: Any = document.get("held")
        with suppress(ValueError, TypeError):
            losses._held = {place_of(key, field): digest for key, field, digest in held}
        since: Any = document.get("settled")
        with suppress(ValueError, TypeError):
            losses._since = digests_of(since)
        sent: Any = document.get("sent")
        with suppress(ValueError, TypeError):
            losses._sent = digests_of(sent)
        places: Any = document.get("places")
        if isinstance(places, Mapping):
            with suppress(ValueError, TypeError):
                losses._places = {bytes.fromhex(key): _from_json(numbers) for key, numbers in places.items()}
        return losses


def _as_json(numbers: Mapping[bytes | None, int]) -> list[tuple[str | None, int]]:
    return [(hex_or_none(field), number) for field, number in numbers.items()]


def _from_json(numbers: Iterable[tuple[str | None, int]]) -> dict[bytes | None, int]:
    return {field_or_none(field): int(number) for field, number in numbers}
