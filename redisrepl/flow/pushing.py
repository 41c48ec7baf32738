"""Moves batches from `engine.outbound` to the hub, several side by side, no key in two at a time.

In: what `engine.outbound` has ready. Out: requests, and how they ended. Left to others: what to push
(`engine.outbound`), when a batch may leave (`flow.pacing`), how it is sent (`remote.push`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol

from redisrepl.changes import DENIED, Change, Deleted, FieldsDeleted, HashSet, HashState, Invalidated, State
from redisrepl.engine.ancestor import Agreed, named_in
from redisrepl.engine.everywrite import values_passed
from redisrepl.engine.merging import size_of
from redisrepl.engine.outbound import Outbound
from redisrepl.engine.pending import valued_part
from redisrepl.engine.pushes import Batch, Departure, with_values
from redisrepl.errors import (
    FencedError,
    HubError,
    KeyDeniedError,
    LinkLostError,
    RedisreplError,
)
from redisrepl.flow.clocks import Clocks
from redisrepl.flow.denials import Denials
from redisrepl.flow.expiring import Expiring
from redisrepl.flow.idle import Idle
from redisrepl.flow.intents import Intents
from redisrepl.flow.lasting import ExpirySource, with_lost_expiries
from redisrepl.flow.pacing import Pacer, is_an_answer
from redisrepl.flow.pages import Wholes
from redisrepl.flow.reach import StreamReach
from redisrepl.flow.repeating import repeat
from redisrepl.observe.failures import FailureLog
from redisrepl.remote.fence import Fence, NoFence
from redisrepl.remote.push import Pushed
from redisrepl.store import Store
from redisrepl.wire.entries import FIRST_ID, LAST_ID, is_entry, with_last_id
from redisrepl.wire.fieldtimes import FieldTimes
from redisrepl.wire.writes import MOVED, UNCHANGED

__all__ = ["Pushing"]

#: Seconds for which a hub may ask us to stay away at most; after that it is asked again whatever it said.
_LONGEST_HOLD = 300.0
_UNREADABLE = "the site does not let us read it"
_NOT_YET = Departure([], ())
_NOTHING = Pushed({}, 0)  # nothing was sent, so nothing is known of these keys that was not known before


class PushTarget(Protocol):
    """What sends: `remote.push.HubPusher`.

    Attributes:
        max_body: the largest request that it makes, in bytes.
        fence: keeps requests that were given up from being executed later.
    """

    max_body: int
    fence: Fence | NoFence

    async def push(self, commands: Sequence[Sequence[bytes]], *, slot: int, number: int) -> Pushed:
        """Run these commands at the hub; return the error text of what was refused for good, by key."""


class ValueSource(ExpirySource, Protocol):
    """What is read before a push: `local.read.SiteReader`."""

    async def first_states(self, keys: Sequence[bytes], max_bytes: int) -> list[State]:
        """What the first of these keys hold, until so many bytes are read."""

    async def fields(self, key: bytes, fields: Sequence[bytes], kind: str) -> list[bytes | None]:
        """What these elements of a collection hold, None where there is none."""

    async def offset(self) -> int:
        """Where the site's replication stream is now."""


async def _known() -> None:
    """The clocks are known."""


class Pushing:
    """Moves batches from `Outbound` to the hub.

    Args:
        outbound: decides.
        store: remembers what both sides agree on.
        hub: sends.
        site: is read for values that the stream did not tell.
        pacer: when a batch may leave.
        reach: how far the site's stream was read.
        took: told of what the hub has taken, and under which number.
        site_evicted: whether removals that the site's stream told may be evictions, which remove nothing at the hub.
        max_keys: changes in a batch, at most.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.
        clocks: of both servers.
        see_clocks: has both looked at, if they are not known yet; asked before anything leaves.
        times: whether expiries of fields are replicated.
        pages: reads keys in doubt; None: as a whole, each of them.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        outbound: Outbound,
        store: Store,
        hub: PushTarget,
        site: ValueSource,
        pacer: Pacer,
        reach: StreamReach,
        *,
        took: Callable[[int, Sequence[Change]], None] = lambda _number, _changes: None,
        site_evicted: Callable[[], Awaitable[bool]],
        max_keys: int,
        retry: Mapping[str, Any],
        clocks: Clocks | None = None,
        see_clocks: Callable[[], Awaitable[None]] = _known,
        times: FieldTimes | None = None,
        pages: Wholes | None = None,
    ) -> None:
        self._times = times or FieldTimes()
        self._expiring = Expiring(outbound, store, clocks or Clocks())
        self.outbound = outbound
        self.failure_log = FailureLog("push")
        self._store = store
        self._hub = hub
        self._site = site
        self._pacer = pacer
        self._reach = reach
        self._took = took
        self._see_clocks = see_clocks
        self._site_evicted = site_evicted
        self._denials = Denials("the site's Redis", self._is_denied)
        self._slots: list[int] = []  # that are free
        self._slot_count = 0
        self._intents = Intents(store)
        self._pages = pages or Wholes(site)
        self._max_keys = max_keys
        self._retry = retry
        self._idle = Idle()
        self._later: asyncio.TimerHandle | None = None  # when a batch may leave that may not leave yet
        self._returned = asyncio.Event()

    def wake(self) -> None:
        """There may be something to push."""
        if self.outbound.ready:
            self._idle.wake()

    def heard(self) -> None:
        """The hub said that something of what was pushed happened."""
        self._pacer.heard(time.monotonic())
        self.wake()

    async def drained(self) -> None:
        """Return when everything that was read is at the hub, but for what cannot leave.

        Keys in doubt stay while the site is not followed: the next process compares them.
        """
        outbound = self.outbound
        while len(outbound.pending) or outbound.doubtful.in_flight or outbound.ready:
            await self.returned()

    async def returned(self) -> None:
        """Return when the next batch came back, arrived or not."""
        self._returned.clear()
        await self._returned.wait()

    async def run(self) -> None:
        """Push for ever; any number of these may run side by side."""
        await repeat(self._push_batch, self._retry)

    async def _departure(self) -> Batch:
        """The next batch, once it may leave."""
        while (batch := self._leaving()) is None:
            await self._idle.wait()
        self.wake()  # what is left is for another task
        return batch

    def _leaving(self) -> Batch | None:
        """A batch that leaves now; None: nothing may, and when something may for sure, it is looked at again."""
        outbound = self.outbound
        if not (ready := outbound.ready):
            return None
        now = time.monotonic()
        if delay := self._pacer.delay(ready, now, outbound.unheard):
            if delay != math.inf:
                self._look_in(delay)
            return None
        batch = outbound.take(self._max_keys, self._hub.max_body * 15 // 16)  # the rest is for what escapes add
        if not batch.changes:
            return None  # each that waits is on its way already: as a key in doubt, or as a change if it is in doubt
        self._pacer.left(len(batch.changes), now)
        return batch

    def _look_in(self, seconds: float) -> None:
        """Wake one who waits, at the latest after so many seconds."""
        loop = asyncio.get_running_loop()
        if self._later is not None:
            if loop.time() < self._later.when() <= loop.time() + seconds:
                return
            self._later.cancel()
        self._later = loop.call_later(seconds, self._idle.wake)

    async def _push_batch(self) -> None:
        outbound, pacer, batch = self.outbound, self._pacer, await self._departure()
        slot, numbers, departure = self._take_slot(), list[int](), _NOT_YET
        try:
            await self._see_clocks()
            await self._fenced()
            batch, departure, read_at = await self._prepared(batch)
            held_by = self._reach.held_by(batch.keys) if read_at == 0 else None
            outbound.counters.requests += 1
            pushed = _NOTHING
            if departure.commands:
                numbers = self._sending(departure.changes, appends=not batch.in_doubt)
                pushed = await self._hub.push(departure.commands, slot=slot, number=numbers[-1])
        except FencedError as error:  # the epoch was raised while it was on its way
            pacer.arrived()
            self._hub.fence.doubt()
            self._failed(batch, departure, numbers, unknown=error.may_be_executed)
        except RedisreplError as error:
            (pacer.gave_up if departure is _NOT_YET else pacer.failed)()  # else the site may be to blame
            if isinstance(error, HubError) and error.retry_after is not None:
                pacer.hold(time.monotonic() + min(error.retry_after, _LONGEST_HOLD))
            elif is_an_answer(error):  # the hub is there, so its health makes nobody wait
                pacer.refused(time.monotonic())
            self._failed(batch, departure, numbers, unknown=error.may_be_executed)
            self.failure_log.failed(error, pending_keys=outbound.waiting)
            raise
        except asyncio.CancelledError:
            pacer.gave_up()
            self._failed(batch, departure, numbers, unknown=True)
            raise
        else:
            pacer.arrived()
            self._intents.drop(numbers[:-1])
            number = numbers[-1] if numbers else None
            if number is not None:
                if read_at and outbound.follows(batch):  # by now the stream may have come that far
                    held_by = self._reach.held_by(batch.keys, read_at)
                refused = [key for key, error in pushed.errors.items() if error != UNCHANGED]
                self._store.acknowledged(number, refused, held_by)
                moved = {key for key, error in pushed.errors.items() if error.startswith(MOVED)}
                self._intents.answered(number, departure.changes, moved)
            outbound.succeeded(batch, pushed.errors, pushed.time, number, departure.commands)
            self._took(number or 0, [change for change in departure.changes if change.key not in pushed.errors])
            self._pages.arrived(batch.keys, pushed.errors)
            self.failure_log.succeeded(pending_keys=outbound.waiting)
        finally:
            self._slots.append(slot)
            self._returned.set()
            self.wake()

    def _take_slot(self) -> int:
        if not self._slots:
            self._slot_count += 1
            return self._slot_count - 1
        return self._slots.pop()

    def _sending(self, changes: Sequence[Change], *, appends: bool) -> list[int]:
        """Record what is about to be sent, under the last of these numbers.

        Under those before is what it passes through where each write counts: a batch that is cut off may leave that.
        """
        passing = values_passed(changes) if self.outbound.every_write else []
        return [self._intents.sending(each, appends=appends) for each in (*passing, changes)]

    def _failed(self, batch: Batch, departure: Departure, numbers: Sequence[int], *, unknown: bool) -> None:
        if numbers and unknown:
            self._intents.keep(numbers, batch.keys)
            self._hub.fence.doubt()
        else:
            self._intents.drop(numbers)
        self.outbound.failed(batch, unknown=unknown and bool(numbers), commands=departure.commands)
        self._pages.failed(batch.keys)

    async def outcomes(self) -> None:
        """Find out what became of batches of unknown outcome, if there are any.

        What is agreed on later about their keys is newer than what they carried, and must be noted later.
        """
        if len(self._intents):
            await self._fenced()

    async def _fenced(self) -> None:
        """Nothing of what was given up is executed from here on; and the hub has said which of it was."""
        await self._hub.fence.ready()
        self._intents.resolve(self._hub.fence.was_executed, ended=self._hub.fence.allowed)

    def nothing_in_doubt(self) -> None:
        """Every key has been looked at again whose push had an unknown outcome, or has changed since at the site."""
        self._intents.looked_at(self.outbound.pending)

    async def _prepared(self, batch: Batch) -> tuple[Batch, Departure, int | None]:
        """What to send for a batch, and what is left of it, once what it takes was read.

        Returns:
            Also where the site's stream was when keys in doubt were read; 0: the stream has told of all; None: unknown.
        """
        outbound = self.outbound
        read_at = 0 if all(valued_part(change) is change for change in batch.changes) else None
        if not batch.in_doubt:
            changes, late = await self._resolve(batch)
            _refuse_stale(outbound, batch)
            if any(type(change) is Deleted for change in changes) and await self._site_evicted():
                changes = [change for change in changes if type(change) is not Deleted]
            changes = self._times.changes(await self._expiring.without(changes, fields=self._times.on))
            changes = await with_lost_expiries(changes, outbound.kinds, self._store, self._site)
            batch = outbound.shortened(batch, late)  # only now: should it fail before, all of it has to be put back
            return batch, outbound.prepare(changes, time.monotonic()), read_at
        unread = [change.key for change in batch.changes if isinstance(change, Invalidated)]
        states, pages = await self._pages.read(unread, self._hub.max_body, batch.history)
        if unread:
            read_at = await self._site.offset() or None
        outbound.held_at_site(states.values())
        late = set(unread) - states.keys() - pages.keys() | await self._denials.look(states)
        if unread and outbound.every_write:  # the values before the one that was read may still be under way
            await self._reach.passed(read_at or 0)
            for key in [key for key in states if key in outbound.pending]:
                late.add(key)
                del states[key]
        for key in [key for key, state in states.items() if state is DENIED]:
            if key not in late:
                outbound.given_up(key, _UNREADABLE)
            del states[key]
        changes = [change for change in batch.changes if not isinstance(change, Invalidated)] + [*pages.values()]
        valued = self._times.changes([piece for change in changes for piece in await self._with_values(change, None)])
        ancestors = await self._store.lookup(batch.keys, elements=True, names=named_in(changes))
        known = self._expiring.where_passed(states, ancestors)
        if any(_lacks(state, ancestors.get(key)) for key, state in states.items()):
            await self._site_evicted()  # as of now, what is in doubt is judged by that
        _refuse_stale(outbound, batch)
        batch = outbound.shortened(batch, late)
        return batch, outbound.prepare_doubtful(batch, valued, states, known, time.monotonic()), read_at

    async def _resolve(self, batch: Batch) -> tuple[Sequence[Change], Collection[bytes]]:
        """The changes of a batch with the values that they only name, read from the site.

        Returns:
            Also keys that wait for the next batch: nobody knew how large they are, and they would make more than one
            request.
        """
        valueless = {Invalidated, HashSet, Deleted} if self.outbound.following.by_events else {Invalidated, HashSet}
        if valueless.isdisjoint(map(type, batch.changes)):
            return batch.changes, ()
        most = self._hub.max_body
        unread = list(dict.fromkeys(change.key for change in batch.changes if isinstance(change, Invalidated)))
        states = dict(zip(unread, await self._site.first_states(unread, most) if unread else (), strict=False))
        self.outbound.held_at_site(states.values())
        late = set(unread[len(states) :]) | await self._denials.look(states)
        resolved: list[Change] = []
        size = 0
        for key, of_key in groupby(batch.changes, attrgetter("key")):
            if key in late or size > most:
                late.add(key)
                continue
            ready: list[Change] = []
            for change in of_key:
                ready += await self._with_values(change, states.get(key), ready)
            size += sum(map(size_of, ready))
            resolved += ready
        return resolved, late

    async def _is_denied(self, key: bytes) -> bool:
        return (await self._site.first_states([key], 1))[0] is DENIED

    async def _with_values(self, change: Change, state: State, before: Sequence[Change] = ()) -> Sequence[Change]:
        """A change with its values.

        Args:
            change: it.
            state: what the key of an invalidation holds.
            before: earlier changes of the key in the same batch.
        """
        kinds = self.outbound.kinds
        match change:
            case Invalidated(key):
                if state is DENIED:
                    self.outbound.given_up(key, _UNREADABLE)
                if isinstance(state, HashState) and (
                    # Nobody knows which elements changed: the others may have changed at the hub meanwhile.
                    self.outbound.following.by_events
                    # A new stream would have no consumer groups.
                    or (change.replaces and state.type == "stream")
                ):
                    self.outbound.doubt(key)  # only elements that are not as they were agreed on are pushed
                    return ()
                return with_values(change, state, kinds)
            case Deleted(key) if self.outbound.following.by_events:
                # A collection went with its last element: what others have added at the hub meanwhile stays.
                self.outbound.doubt(key)
                return ()
            case HashSet(key, fields, kind) if None in fields.values():
                names = [field for field, value in fields.items() if value is None]
                try:
                    values = await self._site.fields(key, names, kind)
                except KeyDeniedError as error:
                    if await self._denials.alone(key, str(error)):
                        self.outbound.given_up(key, _UNREADABLE)
                    else:
                        self.outbound.doubt(key)
                    return ()
                self._denials.passed((key,))
                read = dict(zip(names, values, strict=True))
                if kind == "stream" and FIRST_ID in read:
                    return await self._trimmed(key, {**fields, **read}, before)
                gone = _absent(kind, read) if "del" in kinds else ()
                put = HashSet(key, {**fields, **read}, kind, change.emptied)
                return [put, *([FieldsDeleted(key, gone, kind)] if gone else [])]
            case _:
                return [change]

    async def _trimmed(
        self, key: bytes, elements: dict[bytes, bytes | None], before: Sequence[Change]
    ) -> Sequence[Change]:
        """What became of a stream whose first entries were removed: those that both sides have until then are to go."""
        first = elements.pop(FIRST_ID) or LAST_ID  # which sorts behind all entries
        known: dict[bytes, bytes | None] = {name: value for name, value in elements.items() if value is not None}
        there = {name: value for name, value in known.items() if name >= first}
        last = with_last_id(known).get(LAST_ID)
        if last is not None and not any(map(is_entry, there)):
            there[LAST_ID] = last  # the trim removed new entries too, but the last id is still theirs
        changes: list[Change] = [HashSet(key, there, "stream")] if there else []
        if "del" in self.outbound.kinds:
            on_its_way = {name for put in before if isinstance(put, HashSet) for name in put.fields if name < first}
            gone = await self._store.names(key, before=first) | (elements.keys() - there.keys() - {LAST_ID})
            gone |= set(filter(is_entry, on_its_way))
            if gone:
                changes.append(FieldsDeleted(key, tuple(sorted(gone)), "stream"))
        return changes


def _absent(kind: str, read: Mapping[bytes, bytes | None]) -> tuple[bytes, ...]:
    """Which elements are gone. The last id of a stream goes with its key only: what removed that, the stream tells."""
    return tuple(name for name, value in read.items() if value is None and (kind != "stream" or name != LAST_ID))


def _lacks(state: State, ancestor: Agreed | None) -> bool:
    """Whether the site lacks a key, or elements of one that were agreed on: it was filled anew, or lost these alone."""
    if not isinstance(state, HashState):
        return state is None
    return ancestor is not None and not (ancestor.elements or {}).keys() <= state.fields.keys()


def _refuse_stale(outbound: Outbound, batch: Batch) -> None:
    """What a server lacks that came up meanwhile, nobody removed."""
    if outbound.is_stale(batch):
        raise LinkLostError("the link to the site's Redis was lost while values were read there")
