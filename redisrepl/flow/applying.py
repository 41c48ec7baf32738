"""Moves changes from the hub to the site: fetch, compare, apply; or apply at once what the feed told.

In: what `engine.inbound` says is dirty, or was told. Out: writes at the site. Left to others: what may be applied
(`engine.inbound`), what to do with a key that may have changed on both sides (`engine.core`), reading the hub
(`remote.fetch`) and the site (`local.read`), writing (`local.apply`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import structlog

from redisrepl.changes import DENIED, Change, FieldsDeleted, HashSet, HashState, LargeState
from redisrepl.engine.ancestor import note_changes
from redisrepl.engine.core import Core
from redisrepl.engine.inbound import Inbound
from redisrepl.errors import KeyDeniedError, LinkLostError, RedisreplError
from redisrepl.flow.clocks import Clocks
from redisrepl.flow.compared import Part
from redisrepl.flow.denials import Denials
from redisrepl.flow.elements import LargeCollections, PartJob, UnfitError
from redisrepl.flow.idle import Idle
from redisrepl.flow.jobs import ApplyTarget, FedJob, FetchedJob, Job, Turn, Writer
from redisrepl.flow.reach import StreamReach
from redisrepl.flow.repeating import repeat
from redisrepl.flow.spacing import Spacing
from redisrepl.flow.tries import Tries
from redisrepl.local.apply import MOST_FIELDS, Applied
from redisrepl.observe.failures import FailureLog
from redisrepl.remote.fetch import Fetched
from redisrepl.store import Facts, Store

__all__ = ["Applying"]

#: Keys watched at a time, at most: Redis compares each with all that its client watches already.
_WATCHED = 350
#: Keys that clients write all the time which are remembered.
_OVERTAKEN = 1000

_log = structlog.get_logger("redisrepl")


async def _known() -> None:
    """No push has an unknown outcome."""


class FetchSource(Protocol):
    """What is fetched from: `remote.fetch.HubReader`."""

    async def states(self, keys: Sequence[bytes], *, large: int = 0) -> Fetched:
        """What the first of these keys hold; those that did not fit are left out, and `large` collections not read."""


class Applying:
    """Moves dirty keys from the hub to the site.

    Args:
        core: decides.
        store: remembers what both sides agree on.
        hub: is fetched from.
        site: is compared with.
        writer: applies.
        same_hub: whether the hub still is the server whose history is known; asked before anything is removed for it.
        site_evicted: has the core know whether the site evicts; asked before the hub loses what the site lacks.
        reach: how far the site's stream was read.
        max_keys: keys in one fetch.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.
        longest_pause: seconds between two fetches while the hub answers and refuses everything.
        linger: seconds between two small batches.
        clocks: of both servers.
        outcomes: has the store know which pushes of unknown outcome were executed; asked before each fetch.
        elements: finds what differs of large collections; None: they are fetched as a whole.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        core: Core,
        store: Store,
        hub: FetchSource,
        site: ApplyTarget,
        writer: Writer,
        *,
        same_hub: Callable[[], Awaitable[bool]],
        site_evicted: Callable[[], Awaitable[bool]],
        reach: StreamReach,
        max_keys: int,
        retry: Mapping[str, Any],
        longest_pause: float = 15.0,
        linger: float = 0.0,
        clocks: Clocks | None = None,
        outcomes: Callable[[], Awaitable[None]] = _known,
        elements: LargeCollections | None = None,
    ) -> None:
        self._outcomes = outcomes
        self._elements = elements
        self._clocks = clocks or Clocks()
        if core.inbound is None:
            raise AssertionError("nothing is applied where nothing is pulled")
        self.inbound: Inbound = core.inbound
        self._core = core
        self._store = store
        self.fetch_failures = FailureLog("fetch")
        self.apply_failures = FailureLog("apply")
        self._hub = hub
        self._site = site
        self._writer = writer
        self._max_keys = max_keys
        self._retry = retry
        self._idle = Idle()
        self._progress = asyncio.Event()
        self._site_turn = asyncio.Lock()  # reading and writing a key at the site is one step
        self._most_together = min(max_keys, _WATCHED)
        self._together = self._most_together  # keys in one step
        self._same_hub = same_hub
        self._site_evicted = site_evicted
        self._reach = reach
        self._overtaken: dict[bytes, None] = {}  # keys that a client wrote while they alone were being applied
        self._tries = Tries(max_keys, longest_pause, self.wake)
        self._was_full = False  # the last batch: it may have left keys behind
        self._put_backs = 0  # of `inbound`, when that left
        self._spacing = Spacing(linger, max(1, max_keys // 2), self.wake)
        self._hub_denials = Denials("the hub", self._hub_denies)
        self._site_denials = Denials("the site's Redis", writer.is_denied)

    async def _hub_denies(self, key: bytes) -> bool:
        return (await self._hub.states([key])).states.get(key) is DENIED

    def wake(self) -> None:
        """There may be a key to fetch."""
        if self.inbound.waiting:
            self._idle.wake()

    async def idle(self) -> None:
        """Return when no key is left to be looked at."""
        while self.inbound.in_progress:
            self._progress.clear()
            await self._progress.wait()

    async def run(self) -> None:
        """Fetch and apply for ever; any number of these may run side by side."""
        await repeat(self._next, self._retry)

    async def _next(self) -> None:
        """Move one batch."""
        while (move := self._take()) is None:
            await self._idle.wait()
        self.wake()  # what is left is for another task
        await move

    def _take(self) -> Coroutine[None, None, None] | None:
        """What moves the next batch: what the feed told, or else what must be fetched."""
        inbound = self.inbound
        if not self._core.continuity.known:  # rules 1 and 2 are blind, or a server may have lost what it lacks
            return None
        left_over = self._was_full or inbound.put_backs != self._put_backs
        if not (left_over or inbound.compares or self._spacing.may_leave(inbound.in_progress)):
            return None  # only what is new can wait for more
        if fed := inbound.take_fed(most := self._max_keys):
            taken, move = len(fed), self._apply_fed(fed)
        elif (most := self._tries.most) and (keys := inbound.take(most)):
            taken, move = len(keys), self._fetch(keys)
        else:
            return None
        self._was_full, self._put_backs = taken == most, inbound.put_backs
        self._spacing.left()
        return move

    async def _apply_fed(self, fed: Mapping[bytes, Sequence[Change]]) -> None:
        await self._at_the_site(list(fed), FedJob(fed, self._site if self._core.following.by_events else None))

    async def _fetch(self, taken: Mapping[bytes, bool]) -> None:
        least = 0 if self._elements is None else self._elements.least
        with self._fetching(taken):
            await self._outcomes()
            fetched = await self._hub.states(list(taken), large=least)
            for key in await self._hub_denials.look(fetched.states):
                del fetched.states[key]
        large = dict(fetched.large)
        self.inbound.put_back([key for key in taken if key not in fetched.states and key not in large])
        if self._elements is not None:
            self._elements.not_large(fetched.states.keys())
        try:
            if fetched.states:
                await self._compare(fetched, taken)
            while large:
                key, state = large.popitem()
                await self._fetch_large(key, state, suspect=taken[key])
        except BaseException:
            self.inbound.put_back(large)
            raise

    async def _fetch_large(self, key: bytes, large: LargeState, *, suspect: bool) -> None:
        """Move what differs of a large collection; all of it, where nobody knows what that is."""
        with self._fetching((key,)):
            part = None if self._elements is None else await self._elements.read(key, large, suspect=suspect)
            fetched = await self._hub.states([key]) if part is None else Fetched({key: part.state}, part.time)
        try:
            await self._compare(fetched, {key: suspect}, part)
        except UnfitError:  # it is dirty again, and nothing is kept of it any more
            if self._elements is not None:
                self._elements.unfit(key)

    @contextmanager
    def _fetching(self, keys: Collection[bytes]) -> Iterator[None]:
        """Read these keys at the hub; what goes wrong is told, and they stay dirty."""
        try:
            with self._tries.one():
                yield
        except BaseException as error:
            self.inbound.put_back(keys)
            if isinstance(error, RedisreplError):
                self.fetch_failures.failed(error, dirty_keys=len(self.inbound.dirty))
            raise
        self.fetch_failures.succeeded()

    async def _compare(self, fetched: Fetched, taken: Mapping[bytes, bool], part: Part | None = None) -> None:
        """Compare what was fetched with the site, and apply what differs."""
        states = self.inbound.fetched(fetched.states, fetched.time)
        for key in [key for key, state in states.items() if state is DENIED]:
            del states[key]
            self._give_up(key, "the hub does not let us read it")
        asks = self._same_hub, self._site_evicted
        known = self._core, self._site, self._store, *asks, states, taken, fetched.time, self._clocks
        job = (
            FetchedJob(*known)
            if part is None or part.names is None
            else PartJob(*known, names=part.names, opens=part.opens, before=part.before)
        )
        if part is None or self._elements is None:
            await self._at_the_site(list(states), job)
            return
        (key,) = taken
        with self.inbound.piece(key) if part.begun is not None else nullcontext():
            await self._at_the_site(list(states), job)
            if self._elements.keep(key, part, complete=job.complete):
                self.inbound.suspect((key,))  # the next piece; or is anything there that no piece has shown?

    async def _at_the_site(self, keys: Sequence[bytes], job: Job) -> None:
        """Apply changes of these keys, one job at a time; what goes wrong is told."""
        try:
            async with self._site_turn:
                await self._apply(keys, job)
        except RedisreplError as error:
            self.apply_failures.failed(error, dirty_keys=len(self.inbound.dirty))
            raise
        self.apply_failures.succeeded()
        self.wake()
        self._progress.set()

    async def _apply(self, keys: Sequence[bytes], job: Job) -> None:
        """Apply changes of these keys, as many keys at a time as the site's own clients let us."""
        while keys:
            piece, keys = keys[: self._together], keys[self._together :]
            try:
                applied = await self._apply_together(piece, job)
            except KeyDeniedError:
                applied = False  # by halves, until those are alone that are denied
            except BaseException:
                self.inbound.put_back(keys)
                raise
            if not applied and len(piece) == 1:
                self._overtaken[piece[0]] = None
                if len(self._overtaken) > _OVERTAKEN:
                    del self._overtaken[next(iter(self._overtaken))]
            # One key that changes all the time must not hold up the others for ever.
            self._together = min(2 * self._together, self._most_together) if applied else max(1, len(piece) // 2)

    async def _apply_together(self, keys: Sequence[bytes], job: Job) -> bool:
        """Apply changes, and expect their echo; False if a client of the site wrote one of the keys meanwhile.

        Args:
            keys: those of one step.
            job: asked for the changes once the keys are watched. What was only told and the site refuses is fetched;
                what was fetched and refused is dropped, by name.
        """
        inbound = self.inbound
        changes: list[Change] = []
        equal, are_equal = Facts(), []
        in_progress = set(keys)
        try:
            async with self._writer.turn(keys, job.request(keys)) as turn:
                found = await job.changes(keys, turn.replies)
                # What was read of a key may hold a client's write that `inbound` has not heard of yet. A computed one
                # (`HINCRBY`) has no value in the stream: overwritten here, it would be gone.
                await self._reach.passed(turn.offset)
                for key in keys:
                    in_progress.remove(key)
                    of_key = self._still_true(key, found[key], job)
                    if of_key is None:
                        continue
                    if not of_key:
                        job.agreed(key, equal)
                        are_equal.append(key)
                        job.decided(key)
                    if inbound.about_to_apply(key, of_key):
                        changes += of_key
                        in_progress.add(key)
                self._store.agreed(equal, self._reach.held_by(are_equal, turn.offset))
                if not changes:
                    return True
                number, applied = await self._sent(turn, changes, job)
        except KeyDeniedError as error:
            return await self._is_denied_alone(keys, in_progress, error)
        except BaseException:
            inbound.not_applied(in_progress)
            raise
        if applied is None:
            self._store.dropped(number)
            inbound.not_applied(in_progress)
            return False
        self._done(number, changes, applied, in_progress, job)
        return True

    def _done(
        self, number: int, changes: Sequence[Change], applied: Applied, in_progress: set[bytes], job: Job
    ) -> None:
        """The site has executed these changes of the keys in progress, but for those that it refused."""
        inbound = self.inbound
        for index, reason in applied.errors.items():
            key = changes[index].key
            if key not in in_progress:
                continue
            in_progress.remove(key)
            if job.final:
                self._give_up(key, reason)
            else:
                inbound.not_applied((key,))
        by = self._reach.held_by(in_progress, applied.offset)
        self._store.acknowledged(number, {change.key for change in changes} - in_progress, by)
        self._core.applied(number, [change for change in changes if change.key in in_progress])
        for key in in_progress:
            job.decided(key)
        if in_progress:
            self._site_denials.passed(in_progress)
        inbound.applied(in_progress, applied.offset, time.monotonic())
        inbound.suspect({changes[index].key for index in applied.revived})  # the hub does not know what is pending

    async def _is_denied_alone(
        self, keys: Sequence[bytes], in_progress: Collection[bytes], error: KeyDeniedError
    ) -> bool:
        """Drop the key that is denied, if it is alone here, and if others are not denied; False: it is tried again."""
        if len(keys) > 1:
            self.inbound.not_applied(in_progress)
            raise error
        try:
            is_alone = await self._site_denials.alone(keys[0], str(error))
        except BaseException:
            self.inbound.not_applied(in_progress)
            raise
        if is_alone:
            self._give_up(keys[0], str(error))
        else:
            self.inbound.not_applied(in_progress)
        return is_alone

    def _still_true(self, key: bytes, found: Sequence[Change], job: Job) -> Sequence[Change] | None:
        """What of this the site has not overtaken; None: it is to be found out again."""
        if not self.inbound.is_current(key):
            return None
        own = self.inbound.own_fields(key)
        if not own:
            return found
        changes = job.without(key, own)
        if changes is None:
            self.inbound.stale(key)
        return changes

    async def _write(self, turn: Turn, changes: Sequence[Change], job: Job) -> Applied | None:
        """Make changes happen; of a hash that clients write all the time, by comparing the fields one by one."""
        key = changes[0].key
        held = job.held(key) if key in self._overtaken else None
        fields = [c for c in changes if isinstance(c, HashSet | FieldsDeleted) and c.key == key]
        few = len(fields) == len(changes) and sum(len(change.fields) for change in fields) <= MOST_FIELDS
        if few and isinstance(held, HashState) and held.type == "hash":
            return await turn.compare_and_set(fields, held)
        return await turn.apply(changes)

    async def _sent(self, turn: Turn, changes: Sequence[Change], job: Job) -> tuple[int, Applied | None]:
        """Apply changes; should we not hear of it any more, it is remembered that the site may have them from us."""
        facts, replaced, lost = Facts(), Facts(), self._core.losers.count
        for key in dict.fromkeys(change.key for change in changes):
            job.agreed(key, facts)  # first: of that, the changes may be newer
            job.replaces(key, replaced)
        if self._core.losers.count > lost:
            await asyncio.sleep(0)  # until then what loses is on disk: nobody holds it any more once it is replaced
        # Over this the hub's has won. Should the apply not happen, and the site still hold it later, it has not written
        # that since: it must not replace what won.
        self._store.agreed(replaced)
        number = self._store.next_number()
        note_changes(facts, changes, appends=not job.final)  # what was fetched names the last id if it is another one
        self._store.sending(number, facts, to_site=True)
        shown_before: float | None = None
        try:
            self._core.record.applies(number)
            applied = await self._write(turn, changes, job)
            if applied is not None and not self._core.following.by_events:
                shown_before = applied.offset
        except (LinkLostError, asyncio.CancelledError):
            self.inbound.unanswered({change.key for change in changes}, time.monotonic())
            raise
        except RedisreplError:  # they were refused
            self._store.dropped(number)
            raise
        finally:
            self._core.record.applies(number, shown_before)
        return number, applied

    def _give_up(self, key: bytes, reason: str) -> None:
        self.inbound.refused(key, reason)
