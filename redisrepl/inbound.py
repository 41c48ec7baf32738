"""Hub to site: subscribe > dirty > fetch > echo > apply.

In: keyspace events of the hub, which say that a key changed and nothing more. Out: changes applied to the site.
Left to others: the subscription (`remote.subscribe`), fetching and writing (`applying`), what is pushed (`outbound`).

It decides and never waits, so that a model can drive it; `applying` moves what it decides.

A key is in at most one of these at a time, beside being dirty again: pending or in flight to the hub, being fetched,
being applied. That order is what the rules of convergence rest on:

1. Conflict: a client's change read from the stream while the echo of an apply is outstanding is pushed, and the key
   fetched again (`changed_at_site`).
2. Stale fetch: a fetched state is applied only if the key had no local change, pending push or push in flight since
   the fetch was sent (`fetched`, `about_to_apply`).
3. Overdue expectation: it is dropped and the key fetched (`tick` for the hub, `outbound.Outbound.read` for the site).
4. Sweep: all keys are compared at start, after every gap and now and then (`sweep`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence

from redisrepl.changes import (
    Change,
    Deleted,
    HashSet,
    State,
    Touch,
    kinds_of,
)
from redisrepl.echo import ExpectedEvents
from redisrepl.freshness import Freshness
from redisrepl.merging import merge, removes
from redisrepl.wire.keyspace import announced_events
from redisrepl.wire.writes import commands_of, events_of

__all__ = ["Inbound", "InboundCounters"]

#: Events that leave the value of a string or hash as it was, or that only a removal causes.
_REMOVALS = frozenset({b"del", b"expired", b"evicted", b"hdel", b"hexpired", b"rename_from", b"move_from"})
#: Events after which the key is another one as a whole: fields of a hash that are not there any more are gone.
_REPLACED = frozenset({b"rename_to", b"copy_to", b"restore", b"move_to"})
#: Events after which something may be gone: the key, or fields of it.
_TAKES_AWAY = _REMOVALS | _REPLACED
#: Keys whose time at the hub is noted.
_NOTED = 100_000
#: Keys, and fields of one, that wait as they were told; while the site is away there may come more.
_TOLD = 1000
_EXPIRIES = frozenset({b"expire", b"persist", b"hexpire", b"hpersist"})


class InboundCounters:
    """What went from hub to site since the start."""

    __slots__ = ("applied", "conflicts", "echoes", "equal", "events", "failed", "fed", "fetched", "stale")

    def __init__(self) -> None:
        self.events = 0  # keyspace events of the namespaces
        self.echoes = 0  # of those, caused by our own pushes
        self.fed = 0  # changes that other sites' pushes told, taken without a fetch
        self.fetched = 0  # keys read from the hub
        self.stale = 0  # of those, thrown away because the site changed meanwhile (rule 2)
        self.equal = 0  # of those, equal at the site already
        self.applied = 0  # changes written to the site
        self.failed = 0  # changes the site refused for good
        self.conflicts = 0  # keys written by a client while our apply was on its way (rule 1)


class Inbound:
    """Decides what of the hub goes to the site.

    Args:
        covers: whether a key belongs to the namespaces: nothing else is ever fetched or applied.
        kinds: which of `changes.KINDS` cross.
        expected_local: filled before an apply.
        expected_remote: filled before a push (`outbound`), used up here.
        busy: whether a local change of a key waits or is on its way to the hub.
        event_patience: seconds after which an event that did not come is overdue.
        max_keys: how many keys may be dirty.

    Attributes:
        overflowed: keys found no room among the dirty ones; all must be compared (sweep).
        dirty: keys whose state at the hub must be looked at; the value says whether a removal was announced.
        echo_patience: None: the echoes of an apply are overdue once the site's stream is past it (`Outbound.read`);
            else after so many seconds (`tick`), see `expect_events`.
    """

    def __init__(
        self,
        *,
        covers: Callable[[bytes], bool],
        kinds: frozenset[str],
        expected_local: ExpectedEvents,
        expected_remote: ExpectedEvents,
        busy: Callable[[bytes], bool],
        event_patience: float = 60.0,
        max_keys: int = 2_000_000,
    ) -> None:
        self._event_patience = event_patience
        self._max_keys = max_keys
        self.overflowed = False
        self.dirty: dict[bytes, bool] = {}
        self.counters = InboundCounters()
        self.kinds = kinds
        self.echo_patience: float | None = None
        self._echoes_of: Callable[[Change], Iterable[Hashable]] = lambda change: (change,)
        self._covers = covers
        self._expected_local = expected_local
        self._expected_remote = expected_remote
        self._busy = busy
        self._fetching: dict[bytes, bool] = {}  # key > the site changed since the fetch was sent, or it was told
        self._removing: set[bytes] = set()  # of `_fetching`, those that something is known to be removed of
        self._told: dict[bytes, Change] = {}  # by the feed, waiting to be applied
        self._taken_told: set[bytes] = set()  # of `_fetching`, those that were told
        self._fresh = Freshness(_NOTED)
        self._announced = announced_events(kinds)
        self._ignored = (frozenset() if "del" in kinds else _REMOVALS) | (
            frozenset() if "expire" in kinds else _EXPIRIES
        )

    def expect_events(self, echoes_of: Callable[[Change], Iterable[Hashable]], patience: float) -> None:
        """The site is followed by its keyspace events: an apply will be seen as these, within so many seconds."""
        self._echoes_of = echoes_of
        self.echo_patience = patience

    # What happens.

    def events(self, events: Iterable[tuple[bytes, bytes]]) -> None:
        """The hub says that something happened to keys."""
        covers, ignored, dirty = self._covers, self._ignored, self.dirty
        covered = [event for event in events if covers(event[0])]
        self.counters.events += len(covered)
        heard = [event for event in covered if event[1] not in ignored]
        foreign = self._expected_remote.consume_each(heard)
        self.counters.echoes += len(heard) - len(foreign)
        if len(dirty) + len(foreign) > self._max_keys:
            foreign = [event for event in foreign if self._has_room_for(event[0])]
        for key, name in foreign:
            if name in _TAKES_AWAY:
                dirty[key] = True
            else:
                dirty.setdefault(key, False)

    def told(self, time: int, changes: Iterable[Change], now: float) -> None:
        """Another redisrepl says what its push did at the hub at this time (`wire.feed`); events of it come as well.

        A change is taken as it is only if nothing newer can be known of its key. All others are left to their events,
        after which the key is fetched: that is always right.
        """
        by_key: dict[bytes, list[Change]] = {}
        for change in changes:
            by_key.setdefault(change.key, []).append(change)
        for key, of_key in by_key.items():
            if self._is_news(key, time, of_key):
                self._take_told(key, of_key, now)
                self._fresh.learn((key,), time)

    def _is_news(self, key: bytes, time: int, changes: Iterable[Change]) -> bool:
        return (
            self._covers(key)
            and all(not self.kinds.isdisjoint(kinds_of(change)) for change in changes)
            and self._fresh.is_news(key, time)
            and key not in self.dirty
            and (key not in self._fetching or key in self._taken_told)
            and (key in self._told or len(self._told) < _TOLD)
            and not self._busy(key)
        )

    def _take_told(self, key: bytes, changes: Iterable[Change], now: float) -> None:
        for change in changes:
            older = self._told.get(key)
            merged = change if older is None else merge(older, change)
            if isinstance(merged, Touch) or (isinstance(merged, HashSet) and len(merged.fields) > _TOLD):
                # It changed its type meanwhile, or is better fetched as a whole.
                self._fetch_told(key, removal=_takes_away(change))
            else:
                self._told[key] = merged
            self.counters.fed += 1
            for command in commands_of(change):
                for event in events_of(command):
                    if event in self._announced:
                        self._expected_remote.expect(key, event, now + self._event_patience)

    def _fetch_told(self, key: bytes, *, removal: bool = False) -> None:
        """Fetch what was told of a key; no event will tell of a removal in it, for those are expected."""
        self._look_again(key, removal=_takes_away(self._told.pop(key, None)) or removal)

    def _look_again(self, key: bytes, *, removal: bool) -> None:
        """It is dirty, and what is known to be removed of it stays known."""
        self.dirty[key] = self.dirty.get(key, False) or removal

    def pushed(self, keys: Collection[bytes], time: float) -> None:
        """The hub took our own push of these keys at this time; infinity if it did not say when."""
        self._fresh.learn(keys, time)

    def changed_at_site(self, keys: Iterable[bytes]) -> None:
        """A client of the site changed these keys; their push will follow."""
        fetching, told, expected = self._fetching, self._told, self._expected_local
        if not (fetching or told or len(expected)):
            return  # the way most of a site's own writes go
        for key in keys:
            if key in fetching:
                fetching[key] = True
            if key in told:
                self._fetch_told(key)  # rule 2
            if expected.holds(key):
                self.counters.conflicts += 1
                self.dirty.setdefault(key, False)  # rule 1

    def mark_dirty(self, keys: Iterable[bytes], *, removal: bool = False) -> None:
        """The state of these keys at the hub must be looked at; whether something is known to be removed there."""
        for key in keys:
            if self._covers(key) and self._has_room_for(key):
                self._look_again(key, removal=removal)

    def refused_at_hub(self, key: bytes) -> None:
        """The hub did not take what the site holds: that it lacks this key tells nothing."""
        if key in self.dirty:
            self.dirty[key] = False

    def holds(self, key: bytes) -> bool:
        """Whether what the hub holds for this key may be on its way to the site."""
        return self.overflowed or key in self.dirty or key in self._fetching or key in self._told

    def removes(self, key: bytes) -> bool:
        """Whether something of this key is known to be removed at the hub, and may be at the site still."""
        if "del" not in self.kinds:
            return False
        return self.dirty.get(key, False) or key in self._removing or _takes_away(self._told.get(key))

    def _has_room_for(self, key: bytes) -> bool:
        room = key in self.dirty or len(self.dirty) < self._max_keys
        self.overflowed = self.overflowed or not room
        return room

    def tick(self, now: float) -> None:
        """Time passes: events that should have come are given up, their keys looked at (rule 3)."""
        if len(self._expected_remote):
            self.mark_dirty(self._expected_remote.drop_overdue(now))
        if self.echo_patience is not None and len(self._expected_local):
            self.mark_dirty(self._expected_local.drop_overdue(now))

    def resubscribed(self) -> None:
        """Events may have been lost: what is expected on that link is void, and so is what was fetched before."""
        self.mark_dirty(self._expected_remote.void_all())
        self.distrust_fetched()
        self._fresh.start_over()

    def distrust_fetched(self) -> None:
        """What is being fetched may be stale without our knowing (rule 2): events, or the site's stream, were lost."""
        for key in self._fetching:
            self._fetching[key] = True
        for key in list(self._told):
            self._fetch_told(key)

    # What is to be done.

    def take(self, most: int) -> dict[bytes, bool]:
        """Keys to fetch now, with whether a removal was announced; none of them is pushed, fetched or applied."""
        taken: dict[bytes, bool] = {}
        blocked: dict[bytes, bool] = {}
        for key, removal in self.dirty.items():
            if self._busy(key) or key in self._fetching or self._expected_local.holds(key):
                blocked[key] = removal
                if len(blocked) >= most:
                    break
                continue
            taken[key] = removal
            if len(taken) >= most:
                break
        for key, announced in taken.items():
            del self.dirty[key]
            told = self._told.pop(key, None)  # what is fetched is newer
            taken[key] = announced or _takes_away(told)
            self._begin(key, removal=taken[key])
        if len(blocked) >= most:  # they would stand in the way of others next time
            for key in blocked:
                self.dirty[key] = self.dirty.pop(key)
        return taken

    def take_told(self, most: int) -> dict[bytes, list[Change]]:
        """What the feed told and may be applied now, in the place of a fetch."""
        taken: dict[bytes, list[Change]] = {}
        for key, change in self._told.items():
            if key in self._fetching or self._expected_local.holds(key) or key in self.dirty:
                continue  # a dirty key is fetched
            taken[key] = [change]
            if len(taken) >= most:
                break
        for key in taken:
            self._begin(key, removal=_takes_away(self._told.pop(key)))
            self._taken_told.add(key)
        return taken

    @property
    def waiting(self) -> bool:
        """Whether there may be a key to fetch or to apply."""
        return bool(self.dirty or self._told)

    def untaken(self, keys: Iterable[bytes]) -> None:
        """The fetch of these keys failed, or did not reach them: they stay dirty."""
        for key in keys:
            self._look_again(key, removal=key in self._removing)
            self._settle(key)

    def fetched(self, states: Mapping[bytes, State], time: float = math.inf) -> dict[bytes, State]:
        """The hub held this at that time; what is not stale (rule 2) goes on to be compared with the site."""
        self.counters.fetched += len(states)
        self._fresh.learn(states, time)
        return {key: state for key, state in states.items() if not self._stale(key)}

    def about_to_apply(self, key: bytes, changes: Sequence[Change]) -> bool:
        """Whether these changes may be sent to the site now; if so their echo is expected from here on."""
        if self._stale(key):
            return False
        if not changes:
            self.counters.equal += 1
            self._settle(key)
            return False
        for change in changes:
            if self.kinds.isdisjoint(kinds_of(change)):
                continue  # the stream's reader does not look at these
            for echo in self._echoes_of(change):
                if not self._expected_local.expect(key, echo, math.inf):
                    self.not_applied((key,))  # no room for the expectation: its echo would cross
                    return False
        return True

    def applied(self, keys: Iterable[bytes], deadline: float) -> None:
        """The site executed these; their echoes stand in its stream before this offset, or come before this time."""
        keys = list(keys)
        self._expected_local.set_deadline(keys, deadline)
        for key in keys:
            self._settle(key)
        self.counters.applied += len(keys)

    def not_applied(self, keys: Collection[bytes]) -> None:
        """The site did not answer: whether it executed these is not known, so no expectation of them holds."""
        self._expected_local.void(keys)
        self.untaken(keys)

    def refused(self, key: bytes) -> None:
        """It was refused for good, and is given up, by name."""
        self._expected_local.void([key])
        self._settle(key)
        self.dirty.pop(key, None)
        self.counters.failed += 1

    @property
    def unsettled(self) -> int:
        """Keys that are dirty, told or being fetched."""
        return len(self.dirty) + len(self._fetching) + len(self._told)

    def outstanding(self) -> dict[str, int]:
        """What is under way, in numbers, for people."""
        return {
            "dirty_keys": len(self.dirty),
            "fetching_keys": len(self._fetching),
            "told_keys": len(self._told),
            "expected_local": len(self._expected_local),
            "expected_remote": len(self._expected_remote),
        }

    def _begin(self, key: bytes, *, removal: bool) -> None:
        self._fetching[key] = False
        if removal:
            self._removing.add(key)

    def _settle(self, key: bytes) -> None:
        self._fetching.pop(key, None)
        self._removing.discard(key)
        self._taken_told.discard(key)

    def _stale(self, key: bytes) -> bool:
        if not self._fetching[key] and not self._busy(key):
            return False
        self.counters.stale += 1
        self.untaken((key,))
        return True


def _takes_away(change: Change | None) -> bool:
    """Whether the key, or fields of it, are or may be gone after this."""
    return change is not None and (isinstance(change, Deleted) or removes(change))
