"""What travels from the site to the hub: how it is decided, what a batch is, what an invalidated key comes to.

In: changes, what the site holds. Out: batches and departures. Left to others: deciding (`engine.outbound`,
`engine.doubts`), sending (`flow.pushing`).
"""

from __future__ import annotations

from collections import Counter, deque
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
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.pending import Pending
from redisrepl.engine.seen import RING
from redisrepl.engine.streamedkeys import StreamedKeys
from redisrepl.wire.states import TOO_LARGE
from redisrepl.wire.writes import events_of, written_keys

__all__ = [
    "Batch",
    "Departure",
    "OutboundCounters",
    "OutboundOptions",
    "Pulling",
    "PushEchoes",
    "RecentChanges",
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


class OutboundCounters:
    """What went from site to hub since the start."""

    __slots__ = ("answered", "echoes", "failed", "pushed", "read", "requests")

    def __init__(self) -> None:
        self.read = 0  # changes of the namespaces seen in the stream
        self.echoes = 0  # of those, our own applies coming back
        self.pushed = 0  # changes acknowledged by the hub
        self.failed = 0  # changes refused by the hub for good
        self.requests = 0  # batches sent
        self.answered = 0  # changes that the hub has taken, refused or had already


class PushEchoes:
    """Events that our own pushes will make the hub send; what it sends beside those that it is asked for is not heard.

    Args:
        expected: remembers them; None: nobody listens.
        pulling: told of keys of which an event may have been taken for one of these; None: likewise.
        announced: names of the events that the hub is asked to send.
        patience: seconds after which an event that did not come is overdue.
    """

    def __init__(
        self, expected: ExpectedEvents | None, pulling: Pulling | None, announced: Collection[bytes], patience: float
    ) -> None:
        self._expected = expected
        self._pulling = pulling
        self._announced = announced
        self._patience = patience

    def __len__(self) -> int:
        """How many have yet to come."""
        return 0 if self._expected is None else len(self._expected)

    def expect(self, commands: Iterable[Sequence[bytes]], now: float) -> None:
        """These commands are about to be sent."""
        if self._expected is None:
            return
        deadline = now + self._patience
        for command in commands:
            for event in self._caused(command):
                self._expected.expect_each(written_keys(command), event, deadline)

    def void(self, keys: Iterable[bytes]) -> None:
        """The events of these keys may have come, may come later, or never: what the hub holds is looked at again."""
        if self._expected is not None:
            self._expected.void(keys)
        if self._pulling is not None:
            self._pulling.mark_dirty(keys)

    def not_caused(self, keys: Collection[bytes], commands: Iterable[Sequence[bytes]]) -> list[bytes]:
        """Of these keys, the hub has not executed these commands: they cause no event.

        Returns:
            Keys of which one did come: it was that of somebody else, and was taken for ours.
        """
        if self._expected is None or not keys:
            return []
        left = self._expected.void(keys)
        caused = Counter(key for command in commands for _ in self._caused(command) for key in written_keys(command))
        return [key for key in keys if caused[key] > left.get(key, 0)]

    def _caused(self, command: Sequence[bytes]) -> Iterator[bytes]:
        return (event for event in events_of(command) if event in self._announced)


class RecentChanges:
    """The last changes of the site's history, whoever wrote them, and how far the stream was read in between.

    Runs of `SET` are kept as a whole.
    """

    def __init__(self) -> None:
        self._recent: deque[Change | Sequence[Sequence[bytes]] | int] = deque(maxlen=2 * RING)
        self._count = self._reached_at = 0  # changes since they were taken; by the last offset among them
        self.streamed_keys = StreamedKeys()

    def add(self, change: Change, *, applied: bool = False) -> None:
        """The site took this change, from a client or from us (`applied`)."""
        self.streamed_keys.add((change.key,), applied=applied)
        if isinstance(change, HashSet):
            change = HashSet(change.key, dict(change.fields), change.type)
        self._recent.append(change)
        self._count += 1

    def add_sets(self, run: Sequence[Sequence[bytes]], keys: Iterable[bytes]) -> None:
        """The site took these `SET key value`, of these keys."""
        self.streamed_keys.add(keys)
        self._recent.append(run[-RING:])
        self._count += len(run)

    def flushed(self) -> None:
        """The site removed all keys, which is no change of one."""
        self.streamed_keys.flushed()
        self._count += 1

    def reached(self, offset: int) -> None:
        """The stream has told all that lies before this offset."""
        self.streamed_keys.reached(offset)
        if self._count != self._reached_at:
            self._reached_at = self._count
            self._recent.append(offset)

    def take(self) -> tuple[list[Change | int], bool]:
        """At most the last `RING` since this was asked last, with offsets before which the stream had told them.

        Returns:
            They; and whether these are all.
        """
        taken: list[Change | int] = []  # the last ones first: of a busy site most are older than those
        room = RING
        for recent in reversed(self._recent):
            if isinstance(recent, int):
                taken.append(recent)
            elif isinstance(recent, Change):
                taken.append(recent)
                room -= 1
            else:
                taken += [StringSet(key, value) for _, key, value in reversed(recent[-room:])]
                room -= min(room, len(recent))
            if not room:
                break
        whole = self._count <= RING - room
        self._recent.clear()
        self._count = self._reached_at = 0
        taken.reverse()
        return taken, whole


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
