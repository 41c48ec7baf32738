"""What both sides last agreed on about a key: the third thing that is known beside what they hold.

In: changes that were pushed, applied or found equal. Out: facts to record. Left to others: keeping them (`store`), what
follows from them (`engine.reconcile`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from redisrepl.changes import (
    Change,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    SequenceSet,
    SequenceState,
    State,
    StringSet,
    StringState,
)
from redisrepl.wire.digests import element_of, elements_of, sequence_digest, string_digest
from redisrepl.wire.entries import LAST_ID, with_last_id

__all__ = ["NOTHING_AGREED", "Agreed", "Facts", "named_in", "note_changes", "note_state"]

_Known = TypeVar("_Known")


@dataclass(frozen=True, slots=True)
class Agreed:
    """What is known of one key.

    Attributes:
        digest: of the value that both sides held; None: neither had the key, or nothing is known.
        number: when that was agreed, by the store's count.
        expires_at_ms: its expiry, Unix time in milliseconds.
        total: of a collection, the sums of the digests of its elements, each half by itself.
        elements: of a collection, the digest of each element; None unless they were asked for.
        intents: digests that pushes of unknown outcome may have left at the hub.
        element_intents: likewise for elements.
        applied: digests that applies of unknown outcome may have left at the site, and that the hub had then.
        element_applied: likewise for elements.
    """

    digest: int | None = None
    number: int = 0
    expires_at_ms: int | None = None
    total: tuple[int, int] | None = None
    elements: Mapping[bytes, int] | None = None
    intents: tuple[int | None, ...] = ()
    element_intents: Mapping[bytes, tuple[int | None, ...]] = field(default_factory=dict)
    applied: tuple[int | None, ...] = ()
    element_applied: Mapping[bytes, tuple[int | None, ...]] = field(default_factory=dict)

    def or_gone(self) -> Agreed:
        """The same, where the hub may have let it expire since."""
        return replace(
            self,
            intents=(*self.intents, None),
            element_intents={name: (*self.element_intents.get(name, ()), None) for name in self.elements or ()},
        )

    def without(self, names: Collection[bytes]) -> Agreed:
        """What is known of the other fields of a hash."""

        def others(fields: Mapping[bytes, _Known]) -> dict[bytes, _Known]:
            return {name: known for name, known in fields.items() if name not in names}

        return replace(
            self,
            elements=None if self.elements is None else others(self.elements),
            element_intents=others(self.element_intents),
            element_applied=others(self.element_applied),
        )


NOTHING_AGREED = Agreed()


class Facts(Protocol):
    """What is agreed, or about to be, about some keys: `store.Facts`."""

    def strings(self, keys: Sequence[bytes], digests: Sequence[int]) -> None:
        """Each key is a string with this digest, without expiry."""

    def string(self, key: bytes, digest: int, expires_at_ms: int | None) -> None:
        """The key is a string, or a sequence."""

    def fields(self, key: bytes, fields: Mapping[bytes, int], gone: Collection[bytes] = ()) -> None:
        """These elements of a collection have these digests, those are gone, others are as they were."""

    def hash(self, key: bytes, fields: Mapping[bytes, int], expires_at_ms: int | None) -> None:
        """The key is a collection of exactly these elements."""

    def gone(self, key: bytes) -> None:
        """Neither side has the key."""

    def expiry(self, key: bytes, expires_at_ms: int | None) -> None:
        """The key has this expiry."""


def named_in(changes: Sequence[Change]) -> Mapping[bytes, Collection[bytes]]:
    """The elements that changes of collections name, by key: what is agreed on about others need not be known.

    A stream's last id is changed by its entries too.
    """
    named: dict[bytes, set[bytes]] = {}
    for change in changes:
        if isinstance(change, HashSet | FieldsDeleted):
            last = (LAST_ID,) if change.type == "stream" else ()
            named.setdefault(change.key, set()).update(change.fields, last)
    return named


def note_changes(facts: Facts, changes: Iterable[Change], *, appends: bool = True) -> None:
    """Record that both sides hold what these changes say, once they have happened; those of one key in order.

    Args:
        facts: where.
        changes: with their values: no `Invalidated`, no field of None.
        appends: an entry of a stream is its last one, and has the last id. Otherwise it may be added below that, which
            stays as it is unless a change names it.
    """
    keys: list[bytes] = []
    digests: list[int] = []
    for change in changes:
        if type(change) is StringSet and change.expires_at_ms is None:  # what most are
            keys.append(change.key)
            digests.append(string_digest(change.key, change.value))
            continue
        if keys:
            facts.strings(keys, digests)
            keys, digests = [], []
        match change:
            case StringSet(key, value, expires_at_ms):
                facts.string(key, string_digest(key, value), expires_at_ms)
            case HashSet(key, fields, kind):
                values = with_last_id(fields) if kind == "stream" and appends else fields
                known = {name: element_of(name, value, kind) for name, value in values.items() if value is not None}
                facts.fields(key, known)
            case SequenceSet(key, items, kind):
                facts.string(key, sequence_digest(key, items, kind), None)
            case Deleted(key):
                facts.gone(key)
            case FieldsDeleted(key, names):
                facts.fields(key, {}, names)
            case ExpirySet(key, expires_at_ms):
                facts.expiry(key, expires_at_ms)
    if keys:
        facts.strings(keys, digests)


def note_state(facts: Facts, key: bytes, state: State | Mapping[bytes, bytes | None], kind: str = "hash") -> None:
    """Record that both sides hold this: a state, or elements of a collection of this type (None: neither has it)."""
    match state:
        case None:
            facts.gone(key)
        case StringState(value, expires_at_ms):
            facts.string(key, string_digest(key, value), expires_at_ms)
        case SequenceState(items, expires_at_ms, type_):
            facts.string(key, sequence_digest(key, items, type_), expires_at_ms)
        case HashState(fields, expires_at_ms, type_):
            facts.hash(key, elements_of(fields, type_), expires_at_ms)
        case Mapping():
            held = {name: element_of(name, value, kind) for name, value in state.items() if value is not None}
            facts.fields(key, held, [name for name, value in state.items() if value is None])
