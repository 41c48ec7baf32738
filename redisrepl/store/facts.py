"""Facts, that is what both sides agree on about keys: their encoding, and many of them conflated to one entry a key.

In: keys and digests from the engine, or their encoding from the journal. Out: the encoding; entries by key. Left to
others: where facts are kept (`store.journal`, `store.database`), whether they are agreed yet (`store.folding`).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise, repeat

from redisrepl.engine.places import Place, Places
from redisrepl.wire.digests import DISPUTED

__all__ = [
    "DIGEST_SIZE",
    "Changes",
    "Entry",
    "Facts",
    "Patch",
    "changes_of",
    "concern_the_same",
    "last_sent",
    "pack_keys",
    "unpack_keys",
]

DIGEST_SIZE = 12  # bytes of an element's digest

_STRINGS, _STRING, _FIELDS, _HASH, _GONE, _EXPIRY = range(1, 7)
_NEVER = -(1 << 63)  # an expiry that no server can hold

_COUNT = struct.Struct("<BI")
_STRING_HEAD = struct.Struct("<BIQq")
_FIELDS_HEAD = struct.Struct("<BIII")
_HASH_HEAD = struct.Struct("<BIIq")
_EXPIRY_HEAD = struct.Struct("<BIq")


def pack_keys(keys: Collection[bytes]) -> tuple[bytes, ...]:
    """The lengths of the keys, then the keys, to be joined; the caller stores their number."""
    return struct.pack(f"<{len(keys)}I", *map(len, keys)), *keys


def unpack_keys(data: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """Read `count` keys from this offset; returns them and the offset behind them."""
    lengths = struct.unpack_from(f"<{count}I", data, at)
    ends = list(accumulate(lengths, initial=at + 4 * count))
    if ends[-1] > len(data):
        raise ValueError("keys are cut off")
    return [data[start:end] for start, end in pairwise(ends)], ends[-1]


class Facts:
    """A batch of facts, encoded as they are added. A later fact about a key overrides an earlier one.

    Digests of keys have 60 bits, those of elements 96.
    """

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self._parts)

    def encoded(self) -> bytes:
        """Everything added so far."""
        return b"".join(self._parts)

    def strings(self, keys: Sequence[bytes], digests: Sequence[int]) -> None:
        """Each of these keys is a string with this digest, and does not expire."""
        count = len(keys)
        if count:
            self._parts += (
                _COUNT.pack(_STRINGS, count),
                struct.pack(f"<{count}Q", *digests),  # raises if there are more or fewer digests than keys
                *pack_keys(keys),
            )

    def string(self, key: bytes, digest: int, expires_at_ms: int | None = None) -> None:
        """The key is a string."""
        self._parts += (_STRING_HEAD.pack(_STRING, len(key), digest, _or_never(expires_at_ms)), key)

    def fields(self, key: bytes, fields: Mapping[bytes, int], gone: Collection[bytes] = ()) -> None:
        """These elements of the hash have these digests, and `gone` are removed; all others are unchanged.

        The expiry is unchanged too. A hash without elements is absent; one that is filled again does not expire.
        """
        if not fields and not gone:
            return
        head = _FIELDS_HEAD.pack(_FIELDS, len(key), len(fields), len(gone))
        self._parts += (head, key, *_elements(fields), _names(gone))

    def hash(self, key: bytes, fields: Mapping[bytes, int], expires_at_ms: int | None = None) -> None:
        """The key is a hash of exactly these elements; with no elements, the key is absent."""
        head = _HASH_HEAD.pack(_HASH, len(key), len(fields), _or_never(expires_at_ms))
        self._parts += (head, key, *_elements(fields))

    def gone(self, key: bytes) -> None:
        """The key is absent on both sides."""
        self._parts += (_COUNT.pack(_GONE, len(key)), key)

    def expiry(self, key: bytes, expires_at_ms: int | None) -> None:
        """The key, if it exists, expires at this time; its value is unchanged."""
        self._parts += (_EXPIRY_HEAD.pack(_EXPIRY, len(key), _or_never(expires_at_ms)), key)


def _or_never(expires_at_ms: int | None) -> int:
    return _NEVER if expires_at_ms is None else expires_at_ms


def _names(fields: Iterable[bytes]) -> bytes:
    return b"".join(pack_keys(list(fields)))


def _elements(fields: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    return _names(fields), b"".join([digest.to_bytes(DIGEST_SIZE) for digest in fields.values()])


@dataclass(slots=True)
class Patch:
    """What changed of a hash, or of the expiry of any key.

    Attributes:
        number: of the record that made it agreed.
        whole: whether it replaces everything known about the key, which is a hash, or only changes parts.
        elements: digest by field; None: the field is gone.
        sets_expiry: whether it sets the expiry to `expires_at_ms`.
        if_there: whether it sets the expiry only if something was agreed about the key before.
        left: how many of `elements` are there; None: all of them.
        emptied: once, so many of `elements`, the first, were all gone. If the hash had no others it was absent, and
            what was known of its expiry is void.
        expiry_before: what the expiry was set to before that, in a tuple; None: it was not.
        disputed: nothing is agreed on about the key but these elements.
        looked_up, replaced: for so many of `elements`, the first, the sum of the digests that they replace is this.
    """

    number: int
    whole: bool = False
    elements: dict[bytes, int | None] = field(default_factory=dict)
    sets_expiry: bool = False
    if_there: bool = False
    expires_at_ms: int | None = None
    left: int | None = None
    emptied: int = 0
    expiry_before: tuple[int | None] | None = None
    disputed: bool = False
    looked_up: int = 0
    replaced: int = 0

    def change(self, elements: dict[bytes, int | None], gone: Iterable[bytes]) -> None:
        """These elements have these digests, and those are gone."""
        known, gone = self.elements, dict.fromkeys(gone)
        if not gone and self.left is None:
            known |= elements
            return
        left = len(known) if self.left is None else self.left
        left += sum(known.get(name) is None for name in elements)
        known |= elements
        left -= sum(known.get(name) is not None for name in gone)
        known |= gone
        self.left = left
        if not left:
            self._empty()

    def _empty(self) -> None:
        self.emptied = len(self.elements)
        if self.whole:
            self.sets_expiry, self.expires_at_ms = True, None
        elif self.sets_expiry:
            self.sets_expiry, self.expires_at_ms, self.expiry_before = False, None, (self.expires_at_ms,)

    def expire(self, expires_at_ms: int | None) -> None:
        """The key, if it exists, expires at this time."""
        if self.left == 0 or (self.whole and not self.elements):  # it does not, if these were all
            self.expiry_before = (expires_at_ms,)
        else:
            self.sets_expiry, self.expires_at_ms = True, expires_at_ms
            self.if_there = not self.whole and not self.elements


#: Of a string: digest, number, expiry. None: gone.
Entry = tuple[int, int, int | None] | Patch | None


def concern_the_same(one: Entry, other: Entry) -> bool:
    """Whether two changes of a key have something in common: not if they are about other elements of a collection."""
    if isinstance(one, Patch) and isinstance(other, Patch) and not (one.whole or other.whole):
        return not (one.elements and other.elements) or not one.elements.keys().isdisjoint(other.elements)
    return True


def _is_disputed(entry: Entry) -> bool:
    """Whether it says that nothing is agreed on about its key."""
    return isinstance(entry, tuple) and entry[0] == DISPUTED


def _parts_of(entry: Entry) -> Collection[bytes | None]:
    """What of its key an entry is about: all of it (None), or elements."""
    if isinstance(entry, Patch) and (entry.disputed or not entry.whole):
        return entry.elements
    return () if _is_disputed(entry) else (None,)


class Changes(dict[bytes, Entry]):
    """Many facts combined: one entry for each of their keys."""

    def take(self, facts: bytes, number: int, besides: Collection[bytes] = frozenset()) -> None:  # noqa: C901, PLR0912 - a table
        """Add encoded facts.

        Args:
            facts: as `Facts.encoded` returned them.
            number: of the record that made them agreed.
            besides: keys whose facts are left out.

        Raises:
            ValueError, IndexError, struct.error: they are damaged.
        """
        at = 0
        while at < len(facts):
            operation, size = _COUNT.unpack_from(facts, at)
            if operation == _STRINGS:
                at = self._take_strings(facts, at + _COUNT.size, size, number, besides)
                continue
            if operation == _STRING:
                *_, digest, expires = _STRING_HEAD.unpack_from(facts, at)
                key, at = _key(facts, at + _STRING_HEAD.size, size)
                if key not in besides:
                    self[key] = (digest, number, None if expires == _NEVER else expires)
            elif operation == _FIELDS:
                *_, count, missing = _FIELDS_HEAD.unpack_from(facts, at)
                key, at = _key(facts, at + _FIELDS_HEAD.size, size)
                elements, at = _read_elements(facts, at, count)
                gone, at = unpack_keys(facts, at, missing)
                if key not in besides:
                    self._patch(key, number).change(elements, gone)
            elif operation == _HASH:
                *_, count, expires = _HASH_HEAD.unpack_from(facts, at)
                key, at = _key(facts, at + _HASH_HEAD.size, size)
                elements, at = _read_elements(facts, at, count)
                if key not in besides:
                    expires_at_ms = None if expires == _NEVER or not elements else expires
                    self[key] = Patch(number, True, elements, True, expires_at_ms=expires_at_ms)
            elif operation == _EXPIRY:
                *_, expires = _EXPIRY_HEAD.unpack_from(facts, at)
                key, at = _key(facts, at + _EXPIRY_HEAD.size, size)
                if key not in besides:
                    self._expire(key, number, None if expires == _NEVER else expires)
            elif operation == _GONE:
                key, at = _key(facts, at + _COUNT.size, size)
                if key not in besides:
                    self[key] = None
            else:
                raise ValueError(f"no such fact: {operation}")

    def note(self, places: dict[bytes, dict[bytes | None, int]], number: int) -> None:
        """Enter this number in `places` for each key: for the whole key (None), or for its changed elements."""
        for key, entry in self.items():
            if not _is_disputed(entry):
                places.setdefault(key, {}).update(dict.fromkeys(_parts_of(entry), number))

    def note_open(self, places: dict[bytes, dict[bytes | None, int]], number: int) -> None:
        """As `note`, of what is not agreed on yet; what was agreed on since stands."""
        for key, entry in self.items():
            if not _is_disputed(entry):
                parts = places.setdefault(key, {})
                parts.update((part, number) for part in _parts_of(entry) if parts.get(part, number) <= number)

    def forget(self, places: dict[bytes, dict[bytes | None, int]]) -> None:
        """Remove from `places` what `note` enters there; with a whole key, all of its elements."""
        for key, entry in self.items():
            parts = places.get(key)
            if parts is None:
                continue
            for part in _parts_of(entry):
                if part is None:
                    parts.clear()
                parts.pop(part, None)
            if not parts:
                del places[key]

    def without(self, later: Changes) -> Changes:
        """What of this was not agreed on since.

        Args:
            later: what was. That some elements of a key are there does not tell what became of a removal of the key.
                Where a collection was written as a whole, what was agreed on is not among what that has removed.
        """
        left = Changes()
        for key, entry in self.items():
            since = later.get(key, _UNKNOWN)
            if since is _UNKNOWN or _is_disputed(since):
                left[key] = entry
            elif not isinstance(since, Patch) or since.whole:
                continue
            elif not isinstance(entry, Patch) or not entry.elements:
                left[key] = entry
            elif elements := {name: digest for name, digest in entry.elements.items() if name not in since.elements}:
                left[key] = Patch(entry.number, False, elements, entry.sets_expiry, False, entry.expires_at_ms)
        return left

    def encoded(self) -> bytes:
        """The same as facts, as `take` takes them."""
        facts = Facts()
        for key, entry in self.items():
            match entry:
                case None:
                    facts.gone(key)
                case Patch():
                    there = {name: digest for name, digest in entry.elements.items() if digest is not None}
                    if entry.whole:
                        facts.hash(key, there, entry.expires_at_ms)
                    else:
                        facts.fields(key, there, entry.elements.keys() - there.keys())
                        if entry.sets_expiry:
                            facts.expiry(key, entry.expires_at_ms)
                case digest, _, expires_at_ms:
                    facts.string(key, digest, expires_at_ms)
        return facts.encoded()

    def digests(self) -> Iterator[tuple[bytes, bytes | None, int | None]]:
        """Each key as a whole (None), or each of its changed elements, with the digest of what is there since."""
        for key, entry in self.items():
            if isinstance(entry, Patch):
                yield from ((key, name, digest) for name, digest in entry.elements.items())
            elif not _is_disputed(entry):
                yield key, None, None if entry is None else entry[0]

    def _take_strings(self, facts: bytes, at: int, count: int, number: int, besides: Collection[bytes]) -> int:
        digests = struct.unpack_from(f"<{count}Q", facts, at)
        keys, at = unpack_keys(facts, at + 8 * count, count)
        entries = zip(keys, zip(digests, repeat(number), repeat(None)))  # noqa: B905 - `repeat` has no end
        self.update(entries if not besides else ((key, entry) for key, entry in entries if key not in besides))
        return at

    def _patch(self, key: bytes, number: int) -> Patch:
        """The entry of a hash whose elements change."""
        entry = self.get(key, _UNKNOWN)
        if entry is _UNKNOWN:
            entry = self[key] = Patch(number)
        elif not isinstance(entry, Patch):  # it was a string, or gone: the hash is a new one, with no expiry of that
            entry = self[key] = Patch(number, whole=True, sets_expiry=True, disputed=_is_disputed(entry))
        entry.number = number
        return entry

    def _expire(self, key: bytes, number: int, expires_at_ms: int | None) -> None:
        entry = self.get(key, _UNKNOWN)
        if isinstance(entry, tuple):
            self[key] = (entry[0], number, expires_at_ms)
        elif entry is not None:
            self._patch(key, number).expire(expires_at_ms)


_UNKNOWN = Patch(0)


def changes_of(facts: bytes, number: int, besides: Collection[bytes] = frozenset()) -> Changes:
    """Encoded facts, combined; see `Changes.take`."""
    changes = Changes()
    changes.take(facts, number, besides)
    return changes


def last_sent(batches: Iterable[tuple[int, Changes]], places: Places, number: float) -> dict[Place, set[int | None]]:
    """Digests of what batches carried, of places where that was the last.

    Args:
        batches: open ones, by their numbers.
        places: where something was agreed on after a number, or may be by an open batch, each with the last such one.
        number: that one; the batches after it count.
    """
    sent: dict[Place, set[int | None]] = {}
    for batch, changes in batches:
        if batch <= number:
            continue
        for key, part, digest in changes.digests():
            numbers = places.get(key, {})
            if max(numbers.get(part, 0), numbers.get(None, 0)) == batch:
                sent[key, part] = {digest}
    return sent


def _key(facts: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(facts):
        raise ValueError("a key is cut off")
    return facts[at : at + size], at + size


def _read_elements(facts: bytes, at: int, count: int) -> tuple[dict[bytes, int | None], int]:
    names, at = unpack_keys(facts, at, count)
    end = at + DIGEST_SIZE * count
    if end > len(facts):
        raise ValueError("digests are cut off")
    digests = [int.from_bytes(facts[start : start + DIGEST_SIZE]) for start in range(at, end, DIGEST_SIZE)]
    return dict(zip(names, digests, strict=True)), end
