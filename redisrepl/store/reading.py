"""Interprets the records of the journal: open batches, the state document, and facts as they become agreed.

In: records, in their order. Out: facts as they become agreed; the batches that are open; the state document. Left to
others: where records come from (`store.journal`), where agreed facts go (`store.folding`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Collection, Mapping
from typing import Any
from zlib import crc32

from redisrepl.changes import HeldBy, Position
from redisrepl.store.facts import Changes, changes_of, concern_the_same, pack_keys, unpack_keys
from redisrepl.store.journal import Kind, record

__all__ = [
    "MALFORMED",
    "Reader",
    "acknowledged",
    "agreed",
    "applying",
    "document",
    "dropped",
    "ended",
    "held_by",
    "patch",
    "sending",
]

#: What reading raises if a record or its facts are not as this package writes them.
MALFORMED = (struct.error, ValueError, IndexError)

_NUMBER = struct.Struct("<Q")
_REFUSED = struct.Struct("<QI")
_HELD_BY = struct.Struct("<QQI")
_LATER = struct.Struct("<II")
_MUCH_LATER = (1 << 32) - 1  # or more


def sending(batch: int, facts: bytes) -> bytes:
    """The record of a batch that is about to be sent to the hub."""
    return record(Kind.SENDING, _NUMBER.pack(batch), facts)


def applying(batch: int, facts: bytes, void: Collection[bytes] = ()) -> bytes:
    """The record of a batch that is about to be applied to the site; its facts about `void` keys do not count."""
    return record(Kind.APPLYING, _REFUSED.pack(batch, len(void)), *pack_keys(list(void)), facts)


def acknowledged(batch: int, refused: Collection[bytes]) -> bytes:
    """The record of a batch whose facts are agreed, except those about refused keys."""
    return record(Kind.ACKNOWLEDGED, _REFUSED.pack(batch, len(refused)), *pack_keys(refused))


def dropped(batch: int) -> bytes:
    """The record of a batch that was not executed."""
    return record(Kind.DROPPED, _NUMBER.pack(batch))


def ended(batch: int) -> bytes:
    """The record of a batch of unknown outcome that is not executed from here on."""
    return record(Kind.ENDED, _NUMBER.pack(batch))


def agreed(number: int, facts: bytes) -> bytes:
    """The record of facts that are agreed already."""
    return record(Kind.AGREED, _NUMBER.pack(number), facts)


def held_by(number: int, place: HeldBy) -> bytes:
    """The record of where in its history the site came to hold what is agreed on under this number."""
    (replid, first), later = place
    parts = [_LATER.pack(crc32(key), min(offset - first, _MUCH_LATER)) for key, offset in later.items()]
    return record(Kind.HELD_BY, _HELD_BY.pack(number, first, len(parts)), *parts, replid.encode())


def _held_before(payload: bytes, number: int, kept: Position) -> Callable[[bytes], bool] | None:
    """Whether, by such a record, the site held what was agreed on of a key by a place; None: it says so of none."""
    of, first, count = _HELD_BY.unpack_from(payload)
    end = _HELD_BY.size + count * _LATER.size
    if of != number or payload[end:] != kept.replid.encode() or first > kept.offset:
        return None
    most = min(kept.offset - first, _MUCH_LATER - 1)
    pairs = _LATER.iter_unpack(payload[_HELD_BY.size : end])
    late = {key for key, later in pairs if later > most}
    return lambda key: crc32(key) not in late


def document(content: Mapping[str, object]) -> bytes:
    """The record of a state document."""
    return record(Kind.DOCUMENT, json.dumps(content).encode())


def patch(news: Mapping[str, object]) -> bytes:
    """The record of the changed values of the state document."""
    return record(Kind.PATCH, json.dumps(news).encode())


def _document(payload: bytes) -> dict[str, Any]:
    content = json.loads(payload)
    return content if isinstance(content, dict) else {}


class Reader:
    """Reads records one after another.

    Attributes:
        document: the state document as it was saved last.
        number: the highest number that was assigned.
        open: facts of batches for the hub that were neither acknowledged nor dropped. Of those that have ended, what
            was agreed on since is left out: whatever the hub holds there now, they did not put it there.
        applying: the same for the site, each with the keys that were agreed on since.
    """

    def __init__(self) -> None:
        self.document: dict[str, Any] = {}
        self.number = 0
        self.open: dict[int, bytes] = {}
        self._ended: dict[int, frozenset[int]] = {}  # of these, with the hashes of their keys
        self.applying: dict[int, tuple[bytes, frozenset[bytes]]] = {}
        self._held_by = b""  # where in the site's history it came to hold what is agreed on next

    def held_before(self, kept: Position | None, number: int) -> Callable[[bytes], bool] | None:
        """Whether the site held what was just agreed on of a key by a place in its history; None: so much for none.

        Args:
            kept: the place; None: none.
            number: of what was just agreed on.

        Raises:
            struct.error: the record of that is damaged.
        """
        return _held_before(self._held_by, number, kept) if kept is not None and self._held_by else None

    def copy(self, *, document: bool = True) -> Reader:
        """Another reader in the same state, with the document or without."""
        other = Reader()
        other.document, other.number = dict(self.document) if document else {}, self.number
        other.open, other.applying, other._held_by = dict(self.open), dict(self.applying), self._held_by
        other._ended = dict(self._ended)
        return other

    def take(self, kind: int, payload: bytes) -> tuple[bytes, int, Collection[bytes]] | None:
        """Read a record; if it makes facts agreed, return them, their number, and the keys to leave out."""
        if kind == Kind.DOCUMENT:
            self.document = _document(payload)
            return None
        if kind == Kind.PATCH:
            self.document |= _document(payload)
            return None
        if kind == Kind.CLEARED:
            self.open, self._ended, self.applying = {}, {}, {}
            return None
        if kind == Kind.AT:
            return None
        if kind == Kind.HELD_BY:
            self._held_by = payload
            return None
        (number,) = _NUMBER.unpack_from(payload)
        self.number = max(self.number, number)
        if kind in {Kind.SENDING, Kind.APPLYING, Kind.ENDED}:
            self._take_of_open(kind, number, payload)
        elif kind == Kind.AGREED:
            return self._agreed(payload[_NUMBER.size :], number, frozenset())
        elif kind in {Kind.ACKNOWLEDGED, Kind.DROPPED}:
            facts, void = self.open.pop(number, None), frozenset[bytes]()
            self._ended.pop(number, None)
            if number in self.applying:
                facts, void = self.applying.pop(number)
            if facts is not None and kind == Kind.ACKNOWLEDGED:
                return self._agreed(facts, number, self._keys(payload)[0] | void)
        elif kind != Kind.NUMBER:
            raise ValueError(f"no such record: {kind}")
        return None

    def _take_of_open(self, kind: int, batch: int, payload: bytes) -> None:
        if kind == Kind.SENDING:
            self.open[batch] = payload[_NUMBER.size :]
            self._ended.pop(batch, None)
        elif kind == Kind.APPLYING:
            void, at = self._keys(payload)
            self.applying[batch] = payload[at:], void
        elif batch in self.open:
            self._ended[batch] = _hashes(changes_of(self.open[batch], batch))

    @staticmethod
    def _keys(payload: bytes) -> tuple[frozenset[bytes], int]:
        """The keys behind a batch's number, and where they end."""
        _, count = _REFUSED.unpack_from(payload)
        keys, at = unpack_keys(payload, _REFUSED.size, count)
        return frozenset(keys), at

    def _agreed(self, facts: bytes, number: int, besides: frozenset[bytes]) -> tuple[bytes, int, Collection[bytes]]:
        """Make facts agreed: for their keys, earlier applies and pushes of unknown outcome no longer matter."""
        if self.applying or self._ended:
            changes = changes_of(facts, number, besides)
            self._overtake(changes, number)
            for batch, (applied, void) in list(self.applying.items()):
                keys = changes_of(applied, batch, void)
                known = {key for key in keys.keys() & changes.keys() if concern_the_same(changes[key], keys[key])}
                if keys.keys() <= known:
                    del self.applying[batch]
                else:
                    self.applying[batch] = applied, void | known
        return facts, number, besides

    def _overtake(self, changes: Changes, number: int) -> None:
        """Leave out of batches that have ended what was agreed on under a later number."""
        hashes = _hashes(changes) if self._ended else frozenset[int]()
        for batch, of_keys in list(self._ended.items()):
            if batch < number and not of_keys.isdisjoint(hashes):
                left = changes_of(self.open[batch], batch).without(changes)
                self.open[batch], self._ended[batch] = left.encoded(), _hashes(left)

    def applied_keys(self) -> frozenset[bytes]:
        """Keys of applies whose outcome is unknown."""
        keys: set[bytes] = set()
        for batch, (facts, void) in self.applying.items():
            keys |= changes_of(facts, batch, void).keys()
        return frozenset(keys)

    def carried(self) -> bytes:
        """A few records that are equivalent to all that were read, except for agreed facts."""
        records = [record(Kind.NUMBER, _NUMBER.pack(self.number)), document(self.document)]
        records += [sending(batch, facts) for batch, facts in self.open.items()]
        records += map(ended, self._ended)
        records += [applying(batch, *facts) for batch, facts in self.applying.items()]
        return b"".join(records)


def _hashes(changes: Changes) -> frozenset[int]:
    """Of the keys: they are held as long as the batch is, and take less than the keys."""
    return frozenset(map(hash, changes))
