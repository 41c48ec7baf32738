"""Site to hub: stream > namespace > echo > pending > push > acknowledged.

In: commands of the site's replication stream. Out: commands for the hub, and the offset up to which everything is
there. Left to others: reading the stream (`following`), sending (`pushing`), what is pulled (`inbound`).

It decides and never waits, so that a model can drive it; `pushing` moves its batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from redisrepl.changes import (
    Change,
    Deleted,
    ExpirySet,
    Flushed,
    HashSet,
    HashState,
    State,
    StringSet,
    StringState,
    Touch,
    kinds_of,
)
from redisrepl.echo import ExpectedEvents
from redisrepl.everywrite import EveryWrite
from redisrepl.namespaces import printable
from redisrepl.pending import Pending
from redisrepl.wire.batches import UNCHANGED
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.keyspace import announced_events
from redisrepl.wire.rdb import Aux, Entry
from redisrepl.wire.snapshots import changes_of, is_alive
from redisrepl.wire.writes import commands_of_batch, events_of, keys_of

__all__ = ["Batch", "Outbound", "OutboundCounters", "OutboundOptions", "Pulling", "settle"]

_log = structlog.get_logger("redisrepl")


class Pulling(Protocol):
    """What the other direction must know of this one: `inbound.Inbound`, or nothing without `-rc`."""

    def changed_at_site(self, keys: Iterable[bytes]) -> None:
        """A client of the site, not we, changed these keys."""

    def mark_dirty(self, keys: Iterable[bytes]) -> None:
        """What the hub holds for these keys must be looked at again."""

    def refused_at_hub(self, key: bytes) -> None:
        """The hub did not take what the site holds: that it lacks this key tells nothing."""

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


def settle(change: Touch, state: State, kinds: frozenset[str]) -> list[Change]:
    """What to push for a touched key whose state was read.

    A key that is gone is left to the `Deleted` that the stream brings, except where fields of it were removed; a type
    that we do not carry is left to its own kind.
    """
    match state:
        case StringState() | HashState() if change.kind == "del":
            return []  # it is there again, and its own change will say so
        case StringState(value, expires_at_ms) if "set" in kinds:
            return [StringSet(change.key, value, expires_at_ms)]
        case HashState(fields, expires_at_ms) if "hset" in kinds:
            changes: list[Change] = [Deleted(change.key)] if change.replaces and "del" in kinds else []
            changes.append(HashSet(change.key, dict(fields)))
            if "expire" in kinds:
                changes.append(ExpirySet(change.key, expires_at_ms))
            return changes
        case None if change.replaces and "del" in kinds:  # a hash goes with its last field, which the stream leaves out
            return [Deleted(change.key)]
        case _:
            return []


@dataclass(frozen=True, slots=True)
class OutboundOptions:
    """How `Outbound` decides.

    Attributes:
        origin: who we are, in transactions that we apply: what stands in one is an echo even if nobody expects it.
        max_bytes: memory for changes that wait; a quarter of it again for keys of snapshots.
        max_keys: how many keys may wait.
        site_wins: keys of a snapshot replace those of the hub; otherwise they only join them.
        event_patience: seconds after which an event that did not come is overdue.
        every_write: each change of a key reaches the hub, in order; otherwise what waits for a key is merged.
    """

    origin: bytes = b""
    max_bytes: int = 96 << 20
    max_keys: int = 2_000_000
    site_wins: bool = True
    event_patience: float = 60.0
    every_write: bool = False


class Outbound:
    """Decides what of the stream goes to the hub.

    Args:
        decoder: commands to changes of the namespaces; knows which kinds of change cross.
        expected_local: what our own applies will make the stream show.
        expected_remote: what our own pushes will make the hub's keyspace events say; None without `-rc`.
        pulling: told of what concerns the other direction; None without `-rc`.
        options: see there.

    Attributes:
        pending: changes of the stream that wait for the hub.
        seeds: keys that wait, and are to be there only if the hub has none: of a snapshot, or found by a sweep.
        flushed: the last command that changed the whole database at once.
        unswept: changes were left to a sweep that has not come to its end.
    """

    def __init__(
        self,
        decoder: ChangeDecoder,
        expected_local: ExpectedEvents,
        expected_remote: ExpectedEvents | None = None,
        pulling: Pulling | None = None,
        options: OutboundOptions | None = None,
    ) -> None:
        options = options or OutboundOptions()
        self.decoder = decoder
        self.kinds = kinds = decoder.kinds
        self.pending = (EveryWrite if options.every_write else Pending)(options.max_bytes, options.max_keys)
        self.seeds = Pending(options.max_bytes // 4, options.max_keys)
        self._every_write = options.every_write
        self.counters = OutboundCounters()
        self.flushed: Flushed | None = None
        self.unswept = False
        self._expected_local = expected_local
        self._expected_remote = expected_remote
        self._pulling = pulling
        self.origin = options.origin
        self._site_wins = options.site_wins
        self._patience = options.event_patience
        # Events that the hub is asked to send; what it sends beside is not expected and not listened to.
        self._announced = announced_events(kinds)

    def read(self, commands: Iterable[Sequence[bytes]], end: int) -> None:
        """Take commands of the stream, which then stands at offset `end`.

        `SET key value` is what a busy site sends most, so it is passed on as it is, in runs, unless someone must be
        asked about it first.
        """
        decoder, expected, pending = self.decoder, self._expected_local, self.pending
        decode, covers = decoder.decode, decoder.covers
        concerns_others = self._concerning_others()
        run: list[Sequence[bytes]] = []
        plain = decoder.plain
        for argv in commands:
            if plain and argv[0] == b"SET" and len(argv) == 3:  # noqa: PLR2004
                if not covers(argv[1]):
                    continue
                if concerns_others is None or not concerns_others(argv[1]):
                    run.append(argv)
                    continue
            if changes := decode(argv):
                self._take_in_sets(run)
                for change in changes:
                    self._take_in(change)
            plain = decoder.plain
        self._take_in_sets(run)
        if not decoder.in_transaction:
            pending.read_up_to(end, decoder.selected)
        if len(expected) and (overdue := expected.drop_overdue(end)) and self._pulling is not None:
            self._pulling.mark_dirty(overdue)  # rule 3: the stream is past the place where the echo must have been

    def _concerning_others(self) -> Callable[[bytes], bool] | None:
        """Whether a change of a key may be an echo, or make a seed needless; None, most of the time: no key's is."""
        expected, seeds = self._expected_local, self.seeds
        if len(expected) and len(seeds):
            return lambda key: expected.holds(key) or seeds.busy(key)
        if len(expected):
            return expected.holds
        return seeds.busy if len(seeds) else None

    def _take_in_sets(self, run: list[Sequence[bytes]]) -> None:
        """Take `SET key value` commands of the stream that concern nobody else; leave the list empty."""
        if not run:
            return
        self.counters.read += len(run)
        latest = {argv[1]: argv for argv in run}  # of hot keys a run holds many values, of which one will be sent
        if self._pulling is not None:
            self._pulling.changed_at_site(latest)
        self.pending.add_sets(run if self._every_write else latest.values())
        run.clear()

    def _take_in(self, change: Change | Flushed) -> None:
        """Take one change of the stream, unless it is the echo of our own apply."""
        if isinstance(change, Flushed):
            self.flushed = change
            return
        self.counters.read += 1
        expected = self._expected_local
        if (len(expected) and expected.consume(change.key, change)) or self.decoder.origin == self.origin:
            self.counters.echoes += 1
            return
        if self._pulling is not None:
            self._pulling.changed_at_site((change.key,))
        if len(self.seeds):
            self.seeds.forget(change)
        self.pending.add(change)

    def noticed(self, key: bytes, event: bytes, change: Change) -> None:
        """Take a keyspace event of the site, where its stream is not to be had: it stands for this change."""
        self.counters.read += 1
        if self._expected_local.consume(key, event):
            self.counters.echoes += 1
            return
        if self._pulling is not None:
            self._pulling.changed_at_site((key,))
        if len(self.seeds):
            self.seeds.forget(change)
        self.pending.add(change)

    def read_snapshot(self, entries: Iterable[object], now: float) -> None:
        """Take entries of the snapshot that opens a full synchronisation.

        Args:
            entries: of the namespaces, as `wire.rdb` reads them.
            now: Unix time in seconds; what has expired by then is left to the site to remove.
        """
        queue = self.pending if self._site_wins else self.seeds
        for entry in entries:
            match entry:
                case Aux(b"repl-stream-db", database):
                    self.decoder.selected = int(database)
                case Entry(db) if db == self.decoder.database and is_alive(entry, now):
                    changes = [c for c in changes_of(entry) if not self.kinds.isdisjoint(kinds_of(c))]
                    for change in changes:
                        queue.add(change)
                    if not changes:
                        self.decoder.count_unreplicated(f"snapshot:{entry.type}")

    def snapshot_complete(self, offset: int) -> None:
        """Everything of the snapshot was taken; its position counts once all of it is at the hub."""
        self.pending.read_up_to(offset, self.decoder.selected)

    def resume_at(self, offset: int, database: int) -> None:
        """The stream goes on here after a restart; everything before is at the hub."""
        self.pending.resume_at(offset, database)
        self.decoder.selected = database

    def add(self, change: Change) -> None:
        """Push this too: a sweep found that the hub lacks it."""
        self.pending.add(change)

    def seed(self, change: Change) -> None:
        """Push this too, but only what the hub does not have."""
        self.seeds.add(change)

    @property
    def acknowledged(self) -> int:
        """Offset below which everything is at the hub; 0 while keys of a snapshot or of a sweep are still to go."""
        left = self.unswept or self.flushed is not None or self.pending.overflowed or self.seeds.overflowed
        return 0 if left or len(self.seeds) else self.pending.acknowledged

    @property
    def waiting(self) -> int:
        """Keys that wait for the hub or are on their way."""
        return len(self.pending) + len(self.seeds)

    @property
    def ready(self) -> int:
        """Keys that could be sent now."""
        return self.pending.ready or self.seeds.ready

    @property
    def crowded(self) -> bool:
        """Whether so much waits that what can be had later had better come later."""
        return self.pending.crowded or self.seeds.crowded

    @property
    def unheard(self) -> int:
        """Events of our own pushes that the hub has yet to send; 0 without `-rc`."""
        return 0 if self._expected_remote is None else len(self._expected_remote)

    def busy(self, key: bytes) -> bool:
        """Whether a change of this key waits for the hub or is on its way."""
        return self.pending.busy(key) or self.seeds.busy(key)

    def start_over(self) -> None:
        """A new history of the site begins with a snapshot: what was expected of the old one is void."""
        self.pending.start_over()
        self.decoder.in_transaction = False
        self.decoder.origin = None
        if (voided := self._expected_local.void_all()) and self._pulling is not None:
            self._pulling.mark_dirty(voided)

    def take(self, max_keys: int, max_bytes: int) -> Batch:
        """What to send next; changes of the stream first. Nothing if each key that waits is on its way as a seed.

        A removal that flew beside the seed of its key might arrive before it, and be undone.
        """
        if changes := self.pending.take(max_keys, max_bytes, unless=self.seeds.in_flight):
            return Batch(changes, self.pending, if_absent=False)
        return Batch(self.seeds.take(max_keys, max_bytes), self.seeds, if_absent=True)

    def prepare(self, batch: Batch, changes: Sequence[Change], now: float) -> list[list[bytes]]:
        """The commands for a batch whose values were read; about to be sent, so their events are expected."""
        commands = commands_of_batch(changes, if_absent=batch.if_absent, in_order=self._every_write)
        if self._expected_remote is not None and not batch.if_absent:
            deadline = now + self._patience
            for command in commands:
                for event in events_of(command):
                    if event in self._announced:
                        self._expected_remote.expect_each(keys_of(command), event, deadline)
        return commands

    def succeeded(self, batch: Batch, errors: Mapping[bytes, str], time: float = math.inf) -> None:
        """The hub has these changes, but for keys that it refused for good; those are given up, by name.

        Args:
            batch: as it was taken.
            errors: text by key.
            time: of the hub, in microseconds, when it took them; infinity if it does not tell.
        """
        for key, error in errors.items():
            if error != UNCHANGED:
                self.given_up(key, error)
        self._void(errors.keys())
        self.counters.answered += len(batch.changes)
        self.counters.pushed += len(batch.changes) - len(errors)
        keys = [change.key for change in batch.changes]
        if self._pulling is not None:
            self._pulling.pushed(keys, time)
        batch.queue.done(keys)

    def given_up(self, key: bytes, error: str) -> None:
        """A change of this key will not arrive: the hub refused it for good, or it cannot be read."""
        self.counters.failed += 1
        _log.error("push.refused", key=printable(key), error=error)
        if self._pulling is not None:
            self._pulling.refused_at_hub(key)

    def shortened(self, batch: Batch, keys: Collection[bytes]) -> Batch:
        """The batch without these keys, which do not travel in it after all and wait again."""
        batch.queue.put_back(keys, unknown=False)
        return Batch([change for change in batch.changes if change.key not in keys], batch.queue, batch.if_absent)

    def failed(self, batch: Batch, *, unknown: bool) -> None:
        """The batch did not arrive; with `unknown`, it may have, or may yet."""
        keys = [change.key for change in batch.changes]
        if unknown:
            self._void(keys)
        elif self._expected_remote is not None:
            self._expected_remote.void(keys)
        batch.queue.put_back(keys, unknown=unknown)

    def _void(self, keys: Collection[bytes]) -> None:
        """No guess survives a fault: what the hub holds for these keys is looked at again."""
        if self._expected_remote is not None:
            self._expected_remote.void(keys)
        if self._pulling is not None:
            self._pulling.mark_dirty(keys)


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that travel together, and where they go back to if they do not arrive."""

    changes: Sequence[Change]
    queue: Pending
    if_absent: bool
