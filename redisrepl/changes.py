"""The vocabulary: what can happen to one key, as frozen values of bytes.

In: nothing. Out: the values that `wire.commands` makes, the pipelines pass along and `wire.writes` turns back.
Left to others: which are replicated (`engine.outbound`, `engine.inbound`), how one is spelled (`wire`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple, Self, TypeVar, dataclass_transform

__all__ = [
    "DENIED",
    "GROUPS",
    "KINDS",
    "KIND_OF_TYPE",
    "Change",
    "Deleted",
    "ExpirySet",
    "FieldsDeleted",
    "Flushed",
    "HashSet",
    "HashState",
    "Invalidated",
    "LargeState",
    "Position",
    "SequenceSet",
    "SequenceState",
    "State",
    "StringSet",
    "StringState",
    "TimedValue",
    "carries_groups",
    "expiries_differ",
    "expiry_ms",
    "is_replicated",
    "times_fields",
    "types_of",
    "value_size",
]

#: Under which name of `--replicate` the values of a type are carried; types are named by Redis' own words for them.
KIND_OF_TYPE = {
    "string": "set",
    "hash": "hset",
    "set": "sets",
    "zset": "zsets",
    "list": "lists",
    "stream": "streams",
    "opaque": "opaque",  # every type that has no portable form (`wire.opaque`)
}

#: All that `--replicate all` means: values of each type, removals, expiry times of keys, and of fields of hashes.
#: `--opaque` adds `opaque`, and `streams-groups` has to be named.
KINDS = frozenset({*KIND_OF_TYPE.values(), "del", "expire", "fields-expire"}) - {"opaque"}

#: The latest expiry that a server can hold, in Unix milliseconds.
_LATEST = (1 << 63) - 1

_Value = TypeVar("_Value")


def expiry_ms(claimed: int) -> int:
    """An expiry that any server takes and the store can hold, whatever a peer claims, or clocks make of it."""
    return max(1, min(claimed, _LATEST))


class ReckonedExpiry(int):
    """An expiry that a server does not tell, reckoned from its clock and the time that was left.

    Redis has `PEXPIRETIME` since 7.0, and an ACL may deny it. Bounded as by `expiry_ms`.
    """

    __slots__ = ()

    #: Milliseconds by which it may be off.
    WITHIN = 20

    def __new__(cls, claimed: int) -> Self:
        """From what was reckoned, whatever that came to."""
        return super().__new__(cls, expiry_ms(claimed))


def expiries_differ(one: int | None, other: int | None, tolerance_ms: int = 0) -> bool:
    """Whether two expiries differ by more than this, and by more than those may be off that were reckoned."""
    if one is None or other is None:
        return one is not other
    if isinstance(one, ReckonedExpiry) or isinstance(other, ReckonedExpiry):
        tolerance_ms = max(tolerance_ms, ReckonedExpiry.WITHIN)
    return abs(one - other) > tolerance_ms


@dataclass_transform(frozen_default=True)
def _value(cls: type[_Value]) -> type[_Value]:
    """A frozen dataclass; that nobody assigns to it mypy checks, for `frozen=True` makes it three times as dear."""
    return dataclass(slots=True, unsafe_hash=True)(cls)


@_value
class StringSet:
    """The key holds this string now; whatever it was before is gone.

    Attributes:
        expires_at_ms: absolute Unix time in milliseconds, None for no expiry.
    """

    key: bytes
    value: bytes
    expires_at_ms: int | None = None


class TimedValue(bytes):
    """The value of a field that expires. It is equal only to the same value with the same expiry.

    So whoever compares, merges or digests values need not know of expiries: `HSET` takes the expiry of a field away,
    and is a value without one.

    Args:
        value: of the field.
        expires_at_ms: absolute Unix time in milliseconds.
    """

    expires_at_ms: int

    def __new__(cls, value: bytes, expires_at_ms: int) -> Self:
        """See the class."""
        timed = super().__new__(cls, value)
        timed.expires_at_ms = expiry_ms(expires_at_ms)
        return timed

    def __eq__(self, other: object) -> bool:
        """Whether it is the same value with the same expiry."""
        return isinstance(other, TimedValue) and self.expires_at_ms == other.expires_at_ms and super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        """The contrary; bytes would compare the values alone."""
        return not self == other

    def __hash__(self) -> int:
        """Of both."""
        return hash((super().__hash__(), self.expires_at_ms))


@_value
class HashSet:
    """These elements of the collection hold these values now; others are as they were.

    A collection is a hash, whose fields have values; a set, whose members all have the same, an empty one; a sorted
    set, whose members have scores, as text (`wire.collections`); or a stream, whose entries have ids (`wire.entries`).
    A value of None says that the element changed to something the command does not tell: it must be read. A field that
    expires has a `TimedValue`.
    Whoever holds the change owns the dictionary.

    Attributes:
        emptied: of changes taken together: it may have lost all its elements before it got these.
    """

    key: bytes
    fields: dict[bytes, bytes | None]
    type: str = "hash"
    emptied: bool = field(default=False, compare=False)


@_value
class SequenceSet:
    """The key holds these items in this order now; whatever it was before is gone, but for its expiry.

    A sequence is a list: it is replicated as a whole, since its items have no names. Or it is a value without a
    portable form (`wire.opaque`), which has one item.
    """

    key: bytes
    items: tuple[bytes, ...]
    type: str = "list"


@_value
class Invalidated:
    """The key changed in a way that the command does not tell: read it, and carry its state.

    Attributes:
        kind: what changed, one of `KINDS`; None when only reading tells (`RENAME`, `COPY`, `RESTORE`). `del`: it is
            gone, unless it is there when it is read. `opaque`: a command that we do not know named it.
        replaces: the key became another one as a whole: elements that are not there any more are gone.
    """

    key: bytes
    kind: str | None = None
    replaces: bool = False


@_value
class Deleted:
    """The key is gone: removed by a client, renamed away, expired or evicted."""

    key: bytes


@_value
class FieldsDeleted:
    """These elements of the collection are gone."""

    key: bytes
    fields: tuple[bytes, ...]
    type: str = "hash"


@_value
class ExpirySet:
    """The key keeps its value and expires at this time; None when its expiry was taken away.

    Conditions (`GT`, `NX`, ...) were met, or the command would not have been replicated.
    """

    key: bytes
    expires_at_ms: int | None


@_value
class Flushed:
    """Every key of the database may have changed at once: FLUSHDB, FLUSHALL, SWAPDB.

    Attributes:
        emptied: True if nothing is left, False if other content took its place.
    """

    emptied: bool


Change = StringSet | HashSet | SequenceSet | Invalidated | Deleted | FieldsDeleted | ExpirySet


@_value
class StringState:
    """What a key holds: a string, and when it expires (Unix milliseconds, None: never)."""

    value: bytes
    expires_at_ms: int | None = None


@_value
class HashState:
    """What a key holds: a collection (see `HashSet`), and when the key expires (Unix milliseconds, None: never)."""

    fields: Mapping[bytes, bytes]
    expires_at_ms: int | None = None
    type: str = "hash"

    def without(self, names: Collection[bytes]) -> HashState:
        """The same but for these fields."""
        return replace(self, fields={name: held for name, held in self.fields.items() if name not in names})


@_value
class SequenceState:
    """What a key holds: a sequence (see `SequenceSet`), and when the key expires (Unix milliseconds, None: never)."""

    items: tuple[bytes, ...]
    expires_at_ms: int | None = None
    type: str = "list"


#: What a key holds; None: there is no such key. Other types are named by Redis' own word for them (`module`, ...).
State = StringState | HashState | SequenceState | str | None


def value_size(state: State) -> int:
    """Bytes of what a key holds: its value, its items, or its elements with their values."""
    match state:
        case StringState(value):
            return len(value)
        case HashState(fields):
            return sum(map(len, fields)) + sum(map(len, fields.values()))
        case SequenceState(items):
            return sum(map(len, items))
        case _:
            return 0


@_value
class LargeState:
    """In the place of a state: a key holds a collection of so many elements that they were not read."""

    type: str
    count: int
    expires_at_ms: int | None = None


#: Stands for a type where the server does not let us read the key.
DENIED = "denied"


#: Among the types that are carried: consumer groups of streams are. No key has it.
GROUPS = "groups"


def types_of(kinds: frozenset[str]) -> frozenset[str]:
    """The types whose values are carried under these of `KINDS`; `GROUPS` where those of streams are."""
    types = {type_ for type_, kind in KIND_OF_TYPE.items() if kind in kinds}
    return frozenset(types | {GROUPS} if carries_groups(kinds) else types)


def carries_groups(kinds: frozenset[str]) -> bool:
    """Whether consumer groups are replicated where these of `KINDS` are: an `XACK` is a removal."""
    return {"streams", "del", "streams-groups"} <= kinds


def times_fields(kinds: frozenset[str]) -> bool:
    """Whether expiries of fields are replicated where these of `KINDS` are."""
    return {"hset", "fields-expire"} <= kinds


def is_replicated(change: Change, kinds: frozenset[str]) -> bool:
    """Whether a change is replicated where these of `KINDS` are."""
    if isinstance(change, StringSet):
        return "set" in kinds
    if isinstance(change, (HashSet, SequenceSet)):  # a union would be made anew each time
        return KIND_OF_TYPE[change.type] in kinds
    if isinstance(change, Invalidated):
        return change.kind in kinds if change.kind is not None else not _VALUES.isdisjoint(kinds)
    if isinstance(change, FieldsDeleted):
        return "del" in kinds and KIND_OF_TYPE[change.type] in kinds
    return _KIND_OF_CHANGE[type(change)] in kinds


_VALUES = frozenset(KIND_OF_TYPE.values())
_KIND_OF_CHANGE: dict[type[Change], str] = {Deleted: "del", ExpirySet: "expire"}


class Position(NamedTuple):
    """A place in a replication stream: everything up to byte `offset` of history `replid` is included."""

    replid: str
    offset: int

    def __str__(self) -> str:
        return f"{self.replid}:{self.offset}"


class HeldBy(NamedTuple):
    """By which place in its history a server held what is known of some keys.

    Attributes:
        position: by this one, but for those keys:
        later: by which later offset of the same history.
    """

    position: Position
    later: Mapping[bytes, int] = MappingProxyType({})
