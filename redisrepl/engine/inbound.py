"""Hub to site: subscribe > dirty > fetch > echo > apply.

In: keyspace events of the hub, which say that a key changed and nothing more. Out: changes applied to the site. Left to
others: the subscription (`remote.subscribe`), fetching and writing (`flow.applying`), what is pushed
(`engine.outbound`).

It decides and never waits, so that a model can drive it; `flow.applying` moves what it decides.

A dirty key is fetched, and what the hub holds is applied: the site's stream is the authority for the site's own changes
as long as it is whole. Where it is not, a key is *suspect*: what both sides hold is compared with what they last agreed
on (`engine.plans`), and so is each key of which the hub lacks something that the site has.

A key is in at most one of these at a time, beside being dirty again: pending or in flight to the hub, being fetched,
being applied. That order is what the rules of convergence rest on:

1. Conflict: a client's change read from the stream while the echo of an apply is outstanding is pushed, and the key
fetched again (`changed_at_site`). 2. Stale fetch: a fetched state is applied only if the key had no local change,
pending push or push in flight since the fetch was sent (`fetched`, `is_current`). Of a hash this holds field by field
(`own_fields`), so that one whose fields the site writes all the time still gets the others; it is fetched once more
when the site leaves it alone. 3. Overdue expectation: it is dropped and the key fetched (`tick` for the hub,
`outbound.Outbound.read` for the site). 4. Sweep: all keys are compared at start, after every gap and now and then
(`flow.sweep`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

from redisrepl.changes import (
    Change,
    FieldsDeleted,
    HashSet,
    Invalidated,
    State,
    carries_groups,
    is_replicated,
    times_fields,
)
from redisrepl.engine.counters import InboundCounters
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.following import Following
from redisrepl.engine.freshness import Freshness
from redisrepl.engine.merging import merge
from redisrepl.engine.refusals import Refusals
from redisrepl.engine.suspicion import ANNOUNCED, OVERTAKEN, SUSPECT, both
from redisrepl.wire.groupcommands import without_groups
from redisrepl.wire.keyspace import KeyEffect, announced_events, events_with
from redisrepl.wire.writes import commands_of, events_of

__all__ = ["Inbound"]

#: Events that only a removal causes.
_REMOVALS = events_with(KeyEffect.GONE, KeyEffect.EVICTED, KeyEffect.REMOVED)
#: In the place of the epoch in which a fetch began: what it finds out is stale.
_CHANGED = -1
#: Keys whose time at the hub is noted.
_NOTED = 100_000
#: Keys, and fields of one, that wait as they were told; while the site is away there may come more.
_FED = 1000
#: Fields of a hash that the site may change while it is fetched.
_OWN = 1000
#: Seconds to wait for the event of an apply; after that its key is fetched again.
_ECHO_PATIENCE = 15.0
_EXPIRIES = events_with(KeyEffect.EXPIRY)
_FIELD_EXPIRIES = events_with(KeyEffect.FIELD_EXPIRY)
_GROUPS = events_with(KeyEffect.GROUPS)


class Inbound:
    """Decides what of the hub goes to the site.

    Args:
        covers: whether a key belongs to the namespaces: nothing else is ever fetched or applied.
        kinds: which of `changes.KINDS` are replicated.
        expected_local: filled before an apply.
        expected_remote: filled before a push (`outbound`), used up here.
        busy: whether a local change of a key waits or is on its way to the hub.
        changing: which fields of a hash such changes concern; None: more than fields.
        epoch: of the links: what was begun in another one is void.
        whole: whether all that the site holds and the hub may lack is known: its stream has no gap that was not healed.
        following: how the site is followed. Echoes of an apply are overdue once its stream is past it, by
            `Outbound.read`, or if its events did not come for some time, by `tick`.
        event_patience: seconds after which an event of the hub that did not come is overdue.
        max_keys: how many keys may be dirty.

    Attributes:
        left_out: keys found no place among the dirty ones since `take_left_out` was asked last.
        dirty: keys whose state at the hub must be looked at; the value says which are suspect (`engine.suspicion`).
        put_backs: how often a key was taken, and became dirty again.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        *,
        covers: Callable[[bytes], bool],
        kinds: frozenset[str],
        expected_local: ExpectedEvents,
        expected_remote: ExpectedEvents,
        busy: Callable[[bytes], bool],
        changing: Callable[[bytes], Collection[bytes] | None] = lambda _: None,
        epoch: Callable[[], int] = lambda: 0,
        whole: Callable[[], bool] = lambda: True,
        following: Following | None = None,
        event_patience: float = 60.0,
        max_keys: int = 2_000_000,
    ) -> None:
        self._event_patience = event_patience
        self._max_keys = max_keys
        self.left_out = False
        self.dirty: dict[bytes, int] = {}
        self.put_backs = 0
        self.counters = InboundCounters()
        self.kinds = kinds
        self._following = following or Following()
        self._covers = covers
        self._expected_local = expected_local
        self._expected_remote = expected_remote
        self._busy = busy
        self._changing = changing
        self._epoch = epoch
        self._whole = whole
        self._fetching: dict[bytes, int] = {}  # key > the epoch in which it began; `_CHANGED`: the site changed since
        self._suspect: dict[bytes, int] = {}  # of `_fetching`, those that are suspect, and what else is known of them
        self._own: dict[bytes, set[bytes]] = {}  # of `_fetching`, fields that the site itself changes or changed since
        self._resting: set[bytes] = set()  # of `dirty`, those that were fetched but for such fields, without news since
        self._fed: dict[bytes, tuple[Change, int]] = {}  # by the feed, waiting to be applied, and in which epoch
        self._unheard: dict[bytes, float] = {}  # keys of applies without an answer; until when their events may come
        self._in_pieces: set[bytes] = set()  # of which a piece is being compared, that is not all of it
        self._taken_fed: set[bytes] = set()  # of `_fetching`, those that came by the feed
        self._fresh = Freshness(_NOTED)
        self.refusals = Refusals("apply.refused", "apply.accepted")
        self._announced = announced_events(kinds)
        self._groups = carries_groups(kinds)
        heard = {_REMOVALS: "del" in kinds, _EXPIRIES: "expire" in kinds}
        heard |= {_FIELD_EXPIRIES: times_fields(kinds), _GROUPS: self._groups}
        self._ignored = frozenset().union(*(events for events, wanted in heard.items() if not wanted))

    # What happens.

    def events(self, events: Iterable[tuple[bytes, bytes]]) -> None:
        """The hub says that something happened to keys."""
        covers, ignored, dirty = self._covers, self._ignored, self.dirty
        covered = [event for event in events if covers(event[0])]
        self.counters.events += len(covered)
        heard = [event for event in covered if event[1] not in ignored]
        foreign = self._expected_remote.consume_each(heard)
        self.counters.echoes += len(heard) - len(foreign)
        full = len(dirty) + len(foreign) > self._max_keys
        for key, _ in foreign:
            if (not full or self._has_room_for(key)) and dirty.setdefault(key, False):
                dirty[key] |= ANNOUNCED
        if self._resting:
            self._resting.difference_update(key for key, _ in foreign)

    def feed(self, time: int, changes: Iterable[Change], now: float) -> None:
        """Another redisrepl says what its push did at the hub at this time (`wire.feed`); events of it come as well.

        A change is taken as it is only if nothing newer can be known of its key. All others are left to their events,
        after which the key is fetched: that is always right.
        """
        by_key: dict[bytes, list[Change]] = {}
        for announced in changes:
            if (change := announced if self._groups else without_groups(announced)) is not None:
                by_key.setdefault(change.key, []).append(change)
        for key, of_key in by_key.items():
            if self._is_news(key, time, of_key):
                self._take_feed(key, of_key, now)
                self._fresh.learn((key,), time)

    def _is_news(self, key: bytes, time: int, changes: Iterable[Change]) -> bool:
        return (
            self._whole()
            and self._covers(key)
            and all(is_replicated(change, self.kinds) for change in changes)
            and self._fresh.is_news(key, time)
            and key not in self.dirty
            and (key not in self._fetching or key in self._taken_fed)
            and (key in self._fed or len(self._fed) < _FED)
            and not self._busy(key)
        )

    def _take_feed(self, key: bytes, changes: Iterable[Change], now: float) -> None:
        for change in changes:
            older = self._fed.get(key)
            merged = change if older is None else merge(older[0], change)
            if isinstance(merged, Invalidated) or (isinstance(merged, HashSet) and len(merged.fields) > _FED):
                # It changed its type meanwhile, or is better fetched as a whole.
                self._fetch_fed(key)
            else:
                self._fed[key] = (merged, self._epoch())
            self.counters.fed += 1
            for command in commands_of(change):
                for event in events_of(command):
                    if event in self._announced:
                        self._expected_remote.expect(key, event, now + self._event_patience)

    def _fetch_fed(self, key: bytes) -> None:
        """Fetch what was told of a key; its events are expected, so nothing else would lead to it."""
        self._fed.pop(key, None)
        self.dirty.setdefault(key, False)

    def pushed(self, keys: Collection[bytes], time: float) -> None:
        """The hub took our own push of these keys at this time; infinity if it did not say when."""
        self._fresh.learn(keys, time)

    def changed_at_site(self, keys: Iterable[bytes], fields: Collection[bytes] | None = None) -> None:
        """A client of the site changed these keys, of hashes no more than these fields; their push will follow."""
        fetching, fed, expected, dirty = self._fetching, self._fed, self._expected_local, self.dirty
        if not (fetching or fed or dirty or len(expected)):
            return  # the way most of a site's own writes go
        for key in keys:
            if 0 < dirty.get(key, 0) < OVERTAKEN:  # it goes to the end, so that `undecided` soon comes to another
                dirty[key] = dirty.pop(key) | OVERTAKEN
            if key in self._suspect:
                self._suspect[key] |= OVERTAKEN
            if key in fetching:
                self._changed_while_fetched(key, fields)
            if key in fed:
                self._fetch_fed(key)  # rule 2
            if expected.holds(key):
                self.counters.conflicts += 1
                self.dirty.setdefault(key, False)  # rule 1

    def _changed_while_fetched(self, key: bytes, fields: Collection[bytes] | None) -> None:
        if fields is None or len(self._own.get(key, ())) + len(fields) > _OWN:
            self._fetching[key] = _CHANGED
        else:
            self._own.setdefault(key, set()).update(fields)

    def mark_dirty(self, keys: Iterable[bytes]) -> None:
        """The state of these keys at the hub must be looked at."""
        for key in keys:
            if self._covers(key) and self._has_room_for(key):
                self.dirty.setdefault(key, False)
                self._resting.discard(key)

    def suspect(self, keys: Iterable[bytes]) -> None:
        """These keys may have changed on both sides: they must be compared, with the ancestor."""
        for key in keys:
            if self._covers(key) and self._has_room_for(key):
                told = self._fed.pop(key, None) is not None  # what is fetched is newer
                self.dirty[key] = both(self.dirty.get(key, False if told else SUSPECT), SUSPECT)
                self._resting.discard(key)
                if key in self._fetching and key not in self._suspect:
                    self._fetching[key] = _CHANGED  # that fetch will not be compared with the ancestor

    def _has_room_for(self, key: bytes) -> bool:
        room = key in self.dirty or len(self.dirty) < self._max_keys
        self.left_out = self.left_out or not room
        return room

    def take_left_out(self) -> bool:
        """Whether keys were left out since this was asked last: then all of the namespace must be compared."""
        left_out, self.left_out = self.left_out, False
        return left_out

    def tick(self, now: float) -> None:
        """Time passes: events that should have come are given up, their keys looked at (rule 3); see `Refusals`."""
        self.suspect(self.refusals.due(now))
        self.left_out |= self.refusals.take_left_out()
        if len(self._expected_remote):
            self.suspect(self._expected_remote.drop_overdue(now))  # a push that was refused makes no event
        if self._following.by_events and len(self._expected_local):
            self.unanswered(self._expected_local.drop_overdue(now), now)  # they may come later still
        if self._unheard:
            latest = now + _ECHO_PATIENCE
            self._unheard = {key: min(until, latest) for key, until in self._unheard.items() if until >= now}

    def resubscribed(self) -> None:
        """Events may have been lost: what is expected on that link is void."""
        self.suspect(self._expected_remote.void_all())
        self._fresh.start_over()

    # What is to be done.

    def take(self, most: int) -> dict[bytes, bool]:
        """Keys to fetch now, with whether they are suspect; none of them is pushed, fetched or applied."""
        taken: dict[bytes, int] = {}
        blocked: dict[bytes, int] = {}
        for key, suspect in self.dirty.items():
            if key in self._fetching or self._expected_local.holds(key) or (self._busy(key) and not self._begin(key)):
                blocked[key] = suspect
                if len(blocked) >= most:
                    break
                continue
            taken[key] = suspect
            if len(taken) >= most:
                break
        for key, suspect in taken.items():
            del self.dirty[key]
            self._resting.discard(key)
            self._fed.pop(key, None)  # what is fetched is newer
            self._fetching[key] = self._epoch()
            if suspect:
                self._suspect[key] = suspect
        if len(blocked) >= most:  # they would stand in the way of others next time
            for key in blocked:
                self.dirty[key] = self.dirty.pop(key)
        return {key: bool(suspect) for key, suspect in taken.items()}

    def _begin(self, key: bytes) -> bool:
        """Whether a key that the site is changing may be fetched now: it changes some fields of a hash, and no more."""
        fields = None if key in self._resting else self._changing(key)
        if fields is None or len(fields) > _OWN:
            return False
        self._own[key] = set(fields)
        return True

    def take_fed(self, most: int) -> dict[bytes, list[Change]]:
        """What the feed told and may be applied now, in the place of a fetch."""
        taken: dict[bytes, list[Change]] = {}
        now = self._epoch()
        for key in [key for key, (_, epoch) in self._fed.items() if epoch != now]:
            self._fetch_fed(key)  # something may have been missed since
        for key, (change, _) in self._fed.items():
            if key in self._fetching or self._expected_local.holds(key) or key in self.dirty:
                continue  # a dirty key is fetched
            taken[key] = _apart(change)
            if len(taken) >= most:
                break
        for key in taken:
            del self._fed[key]
            self._fetching[key] = now
            self._taken_fed.add(key)
        return taken

    @property
    def waiting(self) -> bool:
        """Whether there may be a key to fetch or to apply."""
        return bool(self.dirty or self._fed)

    def put_back(self, keys: Iterable[bytes]) -> None:
        """The fetch of these keys failed, or did not reach them: they stay dirty."""
        for key in keys:
            self.put_backs += 1
            suspect = self._suspect.get(key, False)
            self.dirty[key] = both(self.dirty.get(key, suspect), suspect)
            self._done_with(key)

    def fetched(self, states: Mapping[bytes, State], time: float = math.inf) -> dict[bytes, State]:
        """The hub held this at that time; what is not stale (rule 2) goes on to be compared with the site."""
        self.counters.fetched += len(states)
        self._fresh.learn(states, time)
        return {key: state for key, state in states.items() if not self._stale(key)}

    def is_current(self, key: bytes) -> bool:
        """Whether what was found out about this key is not stale; if it is, it is to be found out again."""
        return not self._stale(key)

    def own_fields(self, key: bytes) -> Collection[bytes]:
        """Fields of a key that is being fetched which the site itself changes: they must be left as they are."""
        return self._own.get(key, ())

    def stale(self, key: bytes) -> None:
        """What was found out about this key cannot be told apart from what the site changes: it is fetched again."""
        self.counters.stale += 1
        self._resting.add(key)
        self.put_back((key,))

    def about_to_apply(self, key: bytes, changes: Sequence[Change]) -> bool:
        """Whether these changes may be sent to the site now; if so their echo is expected from here on."""
        if not changes:
            self.counters.equal += 1
            self._pass((key,))
            self._leave_own(key)
            self._done_with(key)
            return False
        seen = (change for change in changes if is_replicated(change, self.kinds))  # as the stream's reader does
        if self._expected_local.expect_all(key, [*chain.from_iterable(map(self._following.echoes_of, seen))], math.inf):
            return True
        self.not_applied((key,))  # no room for the expectation: its echo would be pushed back
        return False

    def applied(self, keys: Iterable[bytes], offset: int, now: float) -> None:
        """The site executed these; their echoes stand in its stream before this offset, or come soon after now."""
        keys = list(keys)
        self._expected_local.set_deadline(keys, now + _ECHO_PATIENCE if self._following.by_events else offset)
        for key in keys:
            self._leave_own(key)
            self._done_with(key)
        self.counters.applied += len(keys)
        self._pass(keys)

    def not_applied(self, keys: Collection[bytes]) -> None:
        """The site did not execute these, or did not answer: no expectation of them holds."""
        self._expected_local.void(keys)
        if self._following.by_events:  # the event of a client may have been taken for that of the apply
            self.suspect(keys)
        self.put_back(keys)

    def unanswered(self, keys: Collection[bytes], now: float) -> None:
        """The site may execute, or have executed, an apply of these keys; now: seconds; infinity: `tick` will tell."""
        self.suspect(keys)
        if self._following.by_events:  # a stream tells whose each change is
            self._unheard |= dict.fromkeys(keys, now + _ECHO_PATIENCE)

    def may_be_echo(self, key: bytes) -> bool:
        """Whether an event of the site may be that of an apply without an answer; the key is compared then.

        What the apply has set there may be older by now than what the hub holds.
        """
        if key not in self._unheard:
            return False
        self.changed_at_site((key,))
        self.suspect((key,))
        return True

    def _pass(self, keys: Collection[bytes]) -> None:
        if self.refusals:
            self.refusals.passed(keys)

    def refused(self, key: bytes, error: str) -> None:
        """It was refused, and is named; it is tried again now and then."""
        self.refusals.name(key, error)
        self._expected_local.void([key])
        self._done_with(key)  # if it is dirty again, the hub holds something else by now, which may be taken
        self.counters.failed += 1

    @property
    def in_progress(self) -> int:
        """Keys that are dirty, told or being fetched."""
        return len(self.dirty) + len(self._fetching) + len(self._fed)

    @property
    def compares(self) -> bool:
        """Whether a suspect key may be left."""
        return self.left_out or bool(self._suspect or self._in_pieces) or any(self.dirty.values())

    def comparison_begins(self) -> None:
        """What the site has written before does not count: the comparison may find that it differs again."""
        for suspects in (self.dirty, self._suspect):
            suspects.update({key: suspect & ~OVERTAKEN for key, suspect in suspects.items() if suspect & OVERTAKEN})

    @property
    def undecided(self) -> bool:
        """Whether a suspect key may be left that the site has not written since the comparison began."""
        suspects = chain(self._suspect.values(), self.dirty.values())
        return self.left_out or bool(self._in_pieces) or any(it and not it & OVERTAKEN for it in suspects)

    def is_announced(self, key: bytes) -> bool:
        """Whether the hub has announced a write of this key, which is being fetched; else a comparison found it."""
        return key in self._fetching and bool(self._suspect.get(key, ANNOUNCED) & ANNOUNCED)

    @contextmanager
    def piece(self, key: bytes) -> Iterator[None]:
        """A piece of this key is compared, and more of it will be: until then it is not settled."""
        self._in_pieces.add(key)
        try:
            yield
        finally:
            self._in_pieces.discard(key)

    def outstanding(self) -> dict[str, int]:
        """What is under way, in numbers, for people."""
        return {
            "dirty_keys": len(self.dirty),
            "fetching_keys": len(self._fetching),
            "fed_keys": len(self._fed),
            "expected_local": len(self._expected_local),
            "expected_remote": len(self._expected_remote),
        }

    def _leave_own(self, key: bytes) -> None:
        """What the hub holds for the site's own fields is looked at once the site leaves the key alone."""
        if key in self._own and key not in self._taken_fed and key not in self.dirty and self._has_room_for(key):
            self.dirty[key] = self._suspect.get(key, False)
            self._resting.add(key)

    def _done_with(self, key: bytes) -> None:
        self._fetching.pop(key, None)
        self._own.pop(key, None)
        self._suspect.pop(key, None)
        self._taken_fed.discard(key)

    def _stale(self, key: bytes) -> bool:
        if self._fetching[key] == self._epoch() and (not self._busy(key) or self._changes_own_fields(key)):
            return False
        self.counters.stale += 1
        self.put_back((key,))
        return True

    def _changes_own_fields(self, key: bytes) -> bool:
        fields = self._changing(key)
        return fields is not None and key in self._own and self._own[key].issuperset(fields)


def _apart(change: Change) -> list[Change]:
    """What was told of a stream's entries that are there now, and of such that are gone."""
    if not isinstance(change, HashSet) or change.type != "stream" or None not in change.fields.values():
        return [change]
    there: dict[bytes, bytes | None] = {name: value for name, value in change.fields.items() if value is not None}
    gone = FieldsDeleted(change.key, tuple(name for name in change.fields if name not in there), change.type)
    return [HashSet(change.key, there, change.type), gone] if there else [gone]
