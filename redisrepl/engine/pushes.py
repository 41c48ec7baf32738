"""What is pushed: how that is decided, what a batch is, what an invalidated key comes to.

In: changes, what the site holds. Out: batches and departures. Left to others: deciding (`engine.outbound`,
`engine.doubts`), sending (`flow.pushing`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from redisrepl.changes import (
    DENIED,
    KIND_OF_TYPE,
    Change,
    Deleted,
    ExpirySet,
    HashSet,
    HashState,
    Invalidated,
    SequenceSet,
    SequenceState,
    State,
    StringSet,
    StringState,
)
from redisrepl.engine.pending import Pending
from redisrepl.wire.states import TOO_LARGE

__all__ = [
    "Batch",
    "Departure",
    "OutboundOptions",
    "Pulling",
    "types_left_out",
    "with_values",
]


class Pulling(Protocol):
    """What the other direction must know of this one: `inbound.Inbound`, or nothing without `-rc`."""

    def changed_at_site(self, keys: Iterable[bytes], fields: Collection[bytes] | None = None) -> None:
        """A client of the site, not we, changed these keys; of hashes, no more than these fields."""

    def mark_dirty(self, keys: Iterable[bytes]) -> None:
        """What the hub holds for these keys must be looked at again."""

    def suspect(self, keys: Iterable[bytes]) -> None:
        """These keys may have changed on both sides: they must be compared, with the ancestor."""

    def unanswered(self, keys: Collection[bytes], now: float) -> None:
        """Whether the site has executed an apply of these keys, or will, is not known; now: infinity, until told."""

    def may_be_echo(self, key: bytes) -> bool:
        """Whether an event of the site may be that of an apply without an answer; the key is compared then."""

    def pushed(self, keys: Collection[bytes], time: float) -> None:
        """The hub took our push of these keys at this time of its own, in microseconds."""


def with_values(change: Invalidated, state: State, kinds: frozenset[str]) -> list[Change]:
    """What to push for an invalidated key whose state was read.

    A key that is gone is left to the `Deleted` that the stream brings, except where elements of it were removed; a type
    that we do not carry is left to its own kind.
    """
    match state:
        case StringState() | HashState() | SequenceState() if change.kind == "del":
            return []  # it is there again, and its own change will say so
        case StringState(value, expires_at_ms) if "set" in kinds:
            return [StringSet(change.key, value, expires_at_ms)]
        case HashState(fields, expires_at_ms, type_) if KIND_OF_TYPE[type_] in kinds:
            changes: list[Change] = [Deleted(change.key)] if change.replaces and "del" in kinds else []
            changes.append(HashSet(change.key, dict(fields), type_))
            if "expire" in kinds:
                changes.append(ExpirySet(change.key, expires_at_ms))
            return changes
        case SequenceState(items, expires_at_ms, type_) if KIND_OF_TYPE[type_] in kinds:
            expiry: list[Change] = [ExpirySet(change.key, expires_at_ms)] if "expire" in kinds else []
            return [SequenceSet(change.key, items, type_), *expiry]
        case None if change.replaces and "del" in kinds:  # it went with its last element, which the stream leaves out
            return [Deleted(change.key)]
        case _:
            return []


def types_left_out(states: Iterable[State], kinds: Collection[str]) -> Iterator[str]:
    """Types among what keys hold that are not replicated."""
    for state in states:
        if isinstance(state, str) and state not in (DENIED, TOO_LARGE) and KIND_OF_TYPE.get(state) not in kinds:
            yield state


@dataclass(frozen=True, slots=True)
class OutboundOptions:
    """How `Outbound` decides.

    Attributes:
        origin: who we are, in transactions that we apply: what is in one is an echo even if nobody expects it.
        max_bytes: memory for changes that wait; a quarter of it again for keys in doubt.
        max_keys: how many keys may wait.
        yields: a key in doubt is pushed only if the hub still holds the ancestor; otherwise the site's value replaces
            whatever the hub holds.
        event_patience: seconds after which an event that did not come is overdue.
        every_write: each change of a key reaches the hub, in order; otherwise what waits for a key is merged.
    """

    origin: bytes = b""
    max_bytes: int = 64 << 20
    max_keys: int = 2_000_000
    yields: bool = True
    event_patience: float = 60.0
    every_write: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that travel together.

    Attributes:
        changes: they.
        queue: where they go back to if they do not arrive.
        in_doubt: see `engine.outbound`.
        history: of the site, by number, in which it was taken.
    """

    changes: Sequence[Change]
    queue: Pending
    in_doubt: bool
    history: int = field(default=0, compare=False)

    @property
    def keys(self) -> list[bytes]:
        """Those that change."""
        return [change.key for change in self.changes]

    @property
    def streams(self) -> list[bytes]:
        """Those that get new entries. Where these change nothing more, they were inserted below the last id."""
        return [change.key for change in self.changes if isinstance(change, HashSet) and change.type == "stream"]


@dataclass(frozen=True, slots=True)
class Departure:
    """A batch about to be sent.

    Attributes:
        commands: for the hub.
        changes: what both sides will hold once these have been executed.
    """

    commands: list[list[bytes]]
    changes: Sequence[Change]
