"""The vocabulary: what can happen to one key, as frozen values of bytes.

In: nothing. Out: the values that `wire.commands` makes, the pipelines pass along and `wire.writes` turns back.
Left to others: which changes cross (`outbound`, `inbound`), how one is spelled (`wire`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, dataclass_transform

__all__ = [
    "DENIED",
    "KINDS",
    "Change",
    "Deleted",
    "ExpirySet",
    "FieldsDeleted",
    "Flushed",
    "HashSet",
    "HashState",
    "Position",
    "State",
    "StringSet",
    "StringState",
    "Touch",
    "kinds_of",
]

#: What `--replicate` may name: values of strings, fields of hashes, removals, expiry times.
KINDS = frozenset({"set", "hset", "del", "expire"})

_Value = TypeVar("_Value")


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


@_value
class HashSet:
    """These fields of the hash hold these values now; other fields are as they were.

    A value of None says that the field changed to something the command does not tell: it must be read.
    Whoever holds the change owns the dictionary.
    """

    key: bytes
    fields: dict[bytes, bytes | None]


@_value
class Touch:
    """The key changed in a way that the command does not tell: read it, and carry its state.

    Attributes:
        kind: what changed, one of `KINDS`; None when only reading tells (`RENAME`, `COPY`, `RESTORE`). `del`: it is
            gone, unless it is there when it is read.
        replaces: the key became another one as a whole: fields of a hash that are not there any more are gone.
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
    """These fields of the hash are gone."""

    key: bytes
    fields: tuple[bytes, ...]


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


Change = StringSet | HashSet | Touch | Deleted | FieldsDeleted | ExpirySet


@_value
class StringState:
    """What a key holds: a string, and when it expires (Unix milliseconds, None: never)."""

    value: bytes
    expires_at_ms: int | None = None


@_value
class HashState:
    """What a key holds: a hash, and when the key expires (Unix milliseconds, None: never)."""

    fields: Mapping[bytes, bytes]
    expires_at_ms: int | None = None

    def without(self, names: Collection[bytes]) -> HashState:
        """The same but for these fields."""
        return HashState({name: held for name, held in self.fields.items() if name not in names}, self.expires_at_ms)


#: What a key holds; None: there is no such key. Other types are named by Redis' own word for them (`list`, ...).
State = StringState | HashState | str | None

#: Stands for a type where the server does not let us read the key.
DENIED = "denied"


def kinds_of(change: Change) -> frozenset[str]:
    """Under which of `KINDS` a change may cross: any one of them suffices."""
    if isinstance(change, Touch):
        return _SET | _HSET if change.kind is None else frozenset({change.kind})
    return _KINDS_OF[type(change)]


_SET = frozenset({"set"})
_HSET = frozenset({"hset"})
_DEL = frozenset({"del"})
_KINDS_OF: dict[type[Change], frozenset[str]] = {
    StringSet: _SET,
    HashSet: _HSET,
    Deleted: _DEL,
    FieldsDeleted: _DEL,
    ExpirySet: frozenset({"expire"}),
}


class Position(NamedTuple):
    """A place in a replication stream: everything up to byte `offset` of history `replid` is included."""

    replid: str
    offset: int

    def __str__(self) -> str:
        return f"{self.replid}:{self.offset}"
