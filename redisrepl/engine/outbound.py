"""Site to hub: stream > namespace > echo > pending > push > acknowledged.

In: commands of the site's replication stream. Out: commands for the hub, and the offset up to which everything is
there. Left to others: reading the stream (`sources.stream`), sending (`flow.pushing`), what is pulled
(`engine.inbound`).

What the stream tells live is *pending*: it is pushed as it is, since arrival at the hub decides between live writers.
What the site may have changed while nobody followed it is *in doubt*: keys of a snapshot, what is read again after a
restart, and pushes of unknown outcome. Such a key is compared with the ancestor, and pushed only if the hub still holds
the ancestor (`engine.conditional`).

It decides and never waits, so that a model can drive it; `flow.pushing` moves its batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from redisrepl.changes import Change, Flushed, Invalidated, State
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.counters import OutboundCounters
from redisrepl.engine.doubts import Doubts
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.everywrite import EveryWrite
from redisrepl.engine.following import Following
from redisrepl.engine.losses import joined
from redisrepl.engine.merging import elements_changed
from redisrepl.engine.pending import Pending
from redisrepl.engine.places import MOST_PLACES, Places
from redisrepl.engine.plans import Expectation
from redisrepl.engine.pushechoes import PushEchoes
from redisrepl.engine.pushes import Batch, Departure, OutboundOptions, Pulling, types_left_out
from redisrepl.engine.recent import RecentChanges
from redisrepl.engine.refusals import Refusals
from redisrepl.engine.renewed import Renewed
from redisrepl.engine.streamedkeys import StreamedKeys
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.keyspace import announced_events
from redisrepl.wire.opaque import OPAQUE
from redisrepl.wire.writes import MOVED, UNCHANGED, commands_if, commands_of_batch, written_keys

__all__ = ["Outbound"]

#: Commands of the stream of which only the end of the last is remembered.
_PIECE = 32


class Outbound:
    """Decides what of the stream goes to the hub.

    Args:
        decoder: commands to changes of the namespaces; knows which kinds of change are replicated.
        expected_local: what our own applies will make the stream show.
        expected_remote: what our own pushes will make the hub's keyspace events say; None without `-rc`.
        pulling: told of what concerns the other direction; None without `-rc`.
        options: see there.
        doubts: keys in doubt; None: there is nothing that bears on them.
        renewed: told of what the site's clients change, and of what arrives, while it asks for that.

    Attributes:
        pending: changes of the stream that wait for the hub.
        doubtful: keys in doubt; see the module.
        refusals: keys that the hub refused.
        recent: what the stream told last.
        following: how the site is followed, and how far its stream was read.
        every_write: each intermediate value of a key is to arrive, in order.
        read_again_to: offset up to which the stream may have been read before a restart: what is read again may be at
            the hub already, or overwritten there.
    """

    def __init__(
        self,
        decoder: ChangeDecoder,
        expected_local: ExpectedEvents,
        expected_remote: ExpectedEvents | None = None,
        pulling: Pulling | None = None,
        options: OutboundOptions | None = None,
        doubts: Doubts | None = None,
        renewed: Renewed | None = None,
        following: Following | None = None,
    ) -> None:
        options = options or OutboundOptions()
        self.decoder = decoder
        self.kinds = kinds = decoder.kinds
        self.pending = (EveryWrite if options.every_write else Pending)(options.max_bytes, options.max_keys)
        self.doubts = doubts or Doubts(options.max_bytes // 4, options.max_keys, kinds, pulling)
        self.doubtful = self.doubts.queue
        self.refusals = Refusals("push.refused", "push.accepted")
        self.every_write = options.every_write
        self.counters = OutboundCounters()
        self._flushed = self._unswept = False  # by the stream, not asked for yet; waits for the end of a comparison
        self.read_again_to: float = 0
        self.following = following or Following()
        self.foreign_origin: bytes | None = None  # another redisrepl that applies what comes from the same hub
        self.recent = RecentChanges()
        self._doubts_turn = False  # to leave, before what the stream told
        self._history = self._begun = 0  # grows when the site is lost or begins anew; what it was when that began
        self._renewed = renewed or Renewed()
        self._expected_local = expected_local
        self._push_echoes = PushEchoes(expected_remote, pulling, announced_events(kinds), options.event_patience)
        self._pulling = pulling
        self.origin, self._yields = options.origin, options.yields

    def read(self, commands: Sequence[Sequence[bytes]], end: int, ends: Sequence[int] = ()) -> None:
        """Take commands of the stream, which then is at offset `end`; `ends`: where each of them ends, if known.

        By that, after a failover, only keys may be older that were told of behind what the new master has kept.
        """
        together = _PIECE if ends else len(commands) or 1
        for start in range(0, len(commands), together):
            piece = commands[start : start + together]
            self._read(piece)
            self.recent.reached(ends[start + len(piece) - 1] if ends else end)
        self.following.read_to, expected = end, self._expected_local
        if self.read_again_to and end >= self.read_again_to:
            self.read_again_to = 0
        if not self.decoder.in_transaction:
            self.pending.read_up_to(end, self.decoder.selected)
        if len(expected) and (overdue := expected.drop_overdue(end)) and self._pulling is not None:
            self._pulling.mark_dirty(overdue)  # rule 3: the stream is past the place where the echo must have been

    def _read(self, commands: Sequence[Sequence[bytes]]) -> None:
        """Take some commands of the stream.

        `SET key value` is what a busy site sends most, so it is passed on as it is, in runs, unless someone must be
        asked about it first.
        """
        decoder = self.decoder
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

    def _concerning_others(self) -> Callable[[bytes], bool] | None:
        """Whether a change of a key needs more than to be pushed; None, most of the time: no key's does."""
        expected, doubtful = self._expected_local, self.doubtful
        if self.read_again_to:
            return lambda _: True
        if len(expected) and len(doubtful):
            return lambda key: expected.holds(key) or key in doubtful
        if len(expected):
            return expected.holds
        return doubtful.__contains__ if len(doubtful) else None

    def _take_in_sets(self, run: list[Sequence[bytes]]) -> None:
        """Take `SET key value` commands of the stream that concern nobody else; leave the list empty."""
        if not run:
            return
        self.counters.read += len(run)
        latest = {argv[1]: argv for argv in run}  # of hot keys a run holds many values, of which one will be sent
        if self._pulling is not None:
            self._pulling.changed_at_site(latest)
        if self._renewed.watches:
            self._renewed.changed(latest)
        self.pending.add_sets(run if self.every_write else latest.values())
        self.recent.add_sets(run, latest)
        run.clear()

    def places(self, number: int) -> Places | None:
        """What waits for the hub, or is on its way: it will be agreed on after this number."""
        return joined(self.pending.places(number, MOST_PLACES), self.doubtful.places(number, MOST_PLACES))

    def take_streamed_keys(self) -> StreamedKeys:
        """The stream ends: what it told of; what follows may be another one."""
        self._history += 1
        keys, self.recent.streamed_keys = self.recent.streamed_keys, StreamedKeys()
        return keys

    def take_left_out(self) -> bool:
        """Whether changes were left out since this was asked last; until `swept` no later position counts."""
        left_out = self.pending.take_left_out() | self.doubtful.take_left_out()
        self._unswept |= left_out
        return left_out

    def take_flush(self) -> bool:
        """Whether the site was flushed since this was asked last; likewise."""
        flushed, self._flushed = self._flushed, False
        self._unswept |= flushed
        return flushed

    def swept(self) -> None:
        """The site was compared with nothing left out: positions count again."""
        self._unswept = False

    def _take_in(self, change: Change | Flushed) -> None:
        """Take one change of the stream, unless it is the echo of our own apply."""
        if isinstance(change, Flushed):
            self._flushed = True
            self.recent.flushed()
            return
        self.counters.read += 1
        expected, origin = self._expected_local, self.decoder.origin
        was_expected = bool(len(expected)) and expected.consume(change.key, change)
        if was_expected or (origin and self._is_ours(origin, change.key)):
            self.counters.echoes += 1
            self.doubts.forget(change, applied=was_expected)  # what a snapshot told of it before is out of date
            self.recent.add(change, applied=True)  # it is part of the site's history, whoever wrote it
            return
        self._add(change)

    def _is_ours(self, origin: bytes, key: bytes) -> bool:
        """Whether a transaction is one of our own applies, or one by another redisrepl of what the same hub holds.

        `ORIGIN HUB`: who applied it, and what from; a transaction from another hub is a write like any other.
        """
        who, _, hub = origin.partition(b" ")
        own, _, own_hub = self.origin.partition(b" ")
        if who == own:
            if self.read_again_to and self._pulling is not None:
                self._pulling.suspect((key,))  # it may not have been written down that we applied it (disk full)
            return True
        if not own_hub or hub != own_hub:
            return False
        self.foreign_origin = who
        if self._pulling is not None:
            self._pulling.changed_at_site((key,))
            self._pulling.suspect((key,))  # it is what the hub holds, or held: no need to push it
        return True

    def key_event(self, key: bytes, event: bytes, change: Change) -> None:
        """Take a keyspace event of the site, where its stream is not to be had: it means this change."""
        self.counters.read += 1
        if self._expected_local.consume(key, event):
            self.counters.echoes += 1
        elif self._pulling is None or not self._pulling.may_be_echo(key):
            self._add(change)

    def _add(self, change: Change) -> None:
        """A client of the site, not we, changed this key."""
        if self._pulling is not None:
            self._pulling.changed_at_site((change.key,), elements_changed(change))
        if isinstance(change, Invalidated) and change.kind == OPAQUE and change.key in self.pending:
            change = Invalidated(change.key, replaces=True)
        expired = self.decoder.times_fields and not self.every_write and self.doubts.may_have_expired(change)
        if expired:
            self.pending.forget(change)  # it was written before
        # What is read again may be older than what was seen; what a strange command names may be no key of it.
        if expired or self.read_again_to or (isinstance(change, Invalidated) and change.kind == OPAQUE):
            self.recent.add(Invalidated(change.key))
            self.doubt(change.key)
            return
        self.recent.add(change)
        self.doubts.forget(change)
        if self._renewed.watches:
            self._renewed.changed_by(change)
        self.pending.add(change)

    def read_snapshot(self, entries: Iterable[object], now: float) -> None:
        """Take entries of the snapshot that opens a full synchronisation.

        Args:
            entries: of the namespaces, as `wire.rdb` reads them.
            now: Unix time in seconds; what has expired by then is left to the site to remove.
        """
        self.doubts.read_snapshot(entries, self.decoder, now)

    def held_at_site(self, states: Iterable[State]) -> None:
        """What keys of the site hold, which were read to be pushed: types that are not replicated are counted."""
        for type_ in types_left_out(states, self.kinds):
            self.decoder.count_unreplicated(f"type:{type_}")

    def snapshot_complete(self, offset: int) -> None:
        """Everything of the snapshot was taken; its position counts once all of it is at the hub."""
        self.pending.read_up_to(offset, self.decoder.selected)

    def resume_at(self, offset: int, database: int) -> None:
        """The stream goes on here after a restart; everything before is at the hub, and some of what follows."""
        self.pending.resume_at(offset, database)
        self.decoder.selected = database
        self.read_again_to = math.inf

    def streamed_from(self, offset: int, history: str = "") -> None:
        """A link begins: from here on, the stream of this history tells all keys that change."""
        self.following.read_to = self.recent.streamed_keys.whole_to = offset
        self.recent.streamed_keys.history = history

    def new_from(self, offset: int) -> None:
        """What the stream tells from here on, nobody has read before."""
        self.read_again_to = min(self.read_again_to, offset)

    def doubt(self, key: bytes, change: Change | None = None, expected: Expectation | None = None) -> None:
        """The site may hold something newer than the hub; find out, and push it if nobody else has changed it there.

        Args:
            key: it.
            change: what is to be pushed, if that is known already.
            expected: what the hub was seen to hold; None: it is taken to hold the ancestor.
        """
        self.doubts.add(key, change, expected)

    @property
    def acknowledged(self) -> int:
        """Offset below which everything is at the hub; 0 while keys in doubt, or left to a sweep, are still to go."""
        left = self._unswept or self._flushed or self.pending.left_out or self.doubtful.left_out
        return 0 if left or len(self.doubtful) else self.pending.acknowledged

    @property
    def waiting(self) -> int:
        """Keys that wait for the hub or are on their way."""
        return len(self.pending) + len(self.doubtful)

    @property
    def ready(self) -> int:
        """Keys that could be sent now."""
        return self.pending.ready or (self.doubtful.ready if self.doubts.may_judge() else 0)

    @property
    def crowded(self) -> bool:
        """Whether so much waits that what can be had later had better come later."""
        return self.pending.crowded or self.doubtful.crowded

    @property
    def unheard(self) -> int:
        """Events of our own pushes that the hub has yet to send; 0 without `-rc`."""
        return len(self._push_echoes)

    def busy(self, key: bytes) -> bool:
        """Whether a change of this key waits for the hub or is on its way."""
        return key in self.pending or key in self.doubtful

    def changing(self, key: bytes) -> set[bytes] | None:
        """Fields of a hash that wait for the hub or are on their way; None: more of the key than fields does."""
        return None if key in self.doubtful else self.pending.fields(key)

    def start_over(self) -> None:
        """A new history of the site begins with a snapshot: what was expected of the old one is void.

        A key that waits or is on its way may be gone by now, which no snapshot tells. And what did not tell its value
        is no more than in doubt from here on: what is read now need not be what it led to.
        """
        self._history += 1
        self._begun = self._history
        for key in self.pending:
            self.doubt(key)
        self.pending.start_over()
        self.read_again_to = 0
        self.decoder.in_transaction = False
        self.decoder.origin = None
        self.void_expected()

    def void_expected(self) -> None:
        """The stream may never show what was applied, or not where it was expected: that server may be replaced."""
        if (voided := self._expected_local.void_all()) and self._pulling is not None:
            self._pulling.unanswered(voided, math.inf)

    def take(self, max_keys: int, max_bytes: int) -> Batch:
        """What to send next, what the stream told and what is in doubt by turns; nothing if all of it is on its way.

        A removal that flew beside the conditional push of its key might arrive before it, and be undone. Where every
        write counts, a key in doubt, whose latest value is read, waits until those before have arrived.
        """
        doubts_first = self._doubts_turn and self.doubts.may_judge()
        if doubts_first and (changes := self._take_doubts(max_keys, max_bytes)):
            self._doubts_turn = False
            return Batch(changes, self.doubtful, True, self._history)
        # What the site changes all the time must not stay in doubt for ever.
        unless = self.doubtful if doubts_first and not self.every_write else self.doubtful.in_flight
        if changes := self.pending.take(max_keys, max_bytes, unless=unless):
            self._doubts_turn = True
            return Batch(changes, self.pending, False, self._history)
        left = self._take_doubts(max_keys, max_bytes) if not doubts_first and self.doubts.may_judge() else ()
        return Batch(left, self.doubtful, True, self._history)

    def _take_doubts(self, max_keys: int, max_bytes: int) -> Sequence[Change]:
        unless = self.pending if self.every_write else self.pending.in_flight
        return self.doubtful.take(max_keys, max_bytes, unless=unless) if self.doubtful.ready else ()

    def follows(self, batch: Batch) -> bool:
        """Whether the link is still there from which the batch was taken."""
        return batch.history == self._history

    def is_stale(self, batch: Batch) -> bool:
        """Whether a new history of the site has begun since: what was read for it may be of another server."""
        return batch.history < self._begun

    def prepare(self, changes: Sequence[Change], now: float) -> Departure:
        """What to send for a batch of the stream whose values were read; its events are expected from here on."""
        departure = Departure(commands_of_batch(changes, in_order=self.every_write), changes)
        self._push_echoes.expect(departure.commands, now)
        return departure

    def prepare_doubtful(
        self,
        batch: Batch,
        changes: Sequence[Change],
        states: Mapping[bytes, State],
        ancestors: Mapping[bytes, Agreed],
        now: float,
    ) -> Departure:
        """Likewise for keys in doubt; those that are as they were agreed on are not sent at all.

        Args:
            batch: as it was taken, or shortened.
            changes: those of the batch that say what is to be pushed, their values read.
            states: what the site holds for the other keys of it.
            ancestors: what is known of all of them.
            now: seconds that never go backwards.
        """
        conditions = self.doubts.conditions(batch.changes, changes, states, ancestors)
        left = [change for condition in conditions for change in condition.changes]
        if self._yields:
            commands = [c for it in conditions for c in commands_if(it.changes, it.whole, it.fields)]
        else:
            commands = commands_of_batch(left)
        self._push_echoes.expect(commands, now)
        return Departure(commands, left)

    def succeeded(
        self,
        batch: Batch,
        errors: Mapping[bytes, str],
        time: float = math.inf,
        number: int | None = None,
        commands: Sequence[Sequence[bytes]] = (),
    ) -> None:
        """The hub has these changes, but for keys that it refused for good; those are dropped, by name.

        Args:
            batch: as it was taken.
            errors: text by key.
            time: of the hub, in microseconds, when it took them; infinity if it does not tell.
            number: of the agreement; None: nothing was sent.
            commands: those that were sent.
        """
        # What is of another type there may have changed there too; which of them counts, the ancestor tells.
        moved = [key for key, error in errors.items() if error.startswith((MOVED, "WRONGTYPE"))]
        moved += [key for key in batch.streams if errors.get(key) == UNCHANGED]  # the last id is another
        no_refusals = (MOVED, UNCHANGED, "WRONGTYPE") if batch.in_doubt else (MOVED, UNCHANGED)
        for key, error in errors.items():
            if not error.startswith(no_refusals):
                self.given_up(key, error)  # and what the site holds stays there
        self._push_echoes.void([key for key, error in errors.items() if error == UNCHANGED])
        moved += self._push_echoes.not_caused([key for key in errors if errors[key] != UNCHANGED], commands)
        self.counters.answered += len(batch.changes)
        self.counters.pushed += len(batch.changes) - len(errors)
        keys = batch.keys
        self.doubts.arrived(keys)
        if self.refusals:  # of the commands of a stream, one may change nothing
            taken = self.refusals.passed({key for key in keys if errors.get(key, UNCHANGED) == UNCHANGED})
            sent = {key for command in commands for key in written_keys(command)}
            for key in () if batch.in_doubt else taken & sent:  # a live change need not be what was refused before
                self.doubt(key)
        if self._pulling is not None:
            self._pulling.suspect(moved)
            self._pulling.pushed(keys, time)
        batch.queue.done(keys)
        if number is not None and not batch.in_doubt and self._renewed.watches:
            taken_before = batch.history < self._history
            more = [key for key in keys if taken_before or (self.every_write and key in self.pending)]
            self._renewed.arrived([change for change in batch.changes if change.key not in errors], number, more=more)

    def given_up(self, key: bytes, error: str) -> None:
        """A change of this key will not arrive: the hub refused it for good, or it cannot be read.

        It is tried again now and then, and with the next comparison, and named only if the reason is another one then.
        """
        self.counters.failed += 1
        self.refusals.name(key, error)

    def tick(self, now: float) -> None:
        """Time passes: what was refused is tried again."""
        for key in self.refusals.due(now):
            self.doubt(key)
        self.pending.left_out |= self.refusals.take_left_out()

    def shortened(self, batch: Batch, keys: Collection[bytes]) -> Batch:
        """The batch without these keys, which do not travel in it after all and wait again."""
        batch.queue.put_back(keys)
        return replace(batch, changes=[c for c in batch.changes if c.key not in keys]) if keys else batch

    def failed(self, batch: Batch, *, unknown: bool, commands: Sequence[Sequence[bytes]] = ()) -> None:
        """These commands did not arrive; with `unknown`, they may have, or may yet: then their keys are in doubt."""
        keys = list(dict.fromkeys(batch.keys))
        if not unknown:
            self.doubts.returned(keys)
            self._push_echoes.void(self._push_echoes.not_caused(keys, commands))  # others wrote these
            batch.queue.put_back(keys)
            if self.is_stale(batch) and not batch.in_doubt:
                batch.queue.forget_valueless(keys)
            return
        self._push_echoes.void(keys)
        self.doubts.arrived(keys)
        for key in keys:
            self.doubt(key)
        batch.queue.done(keys)
