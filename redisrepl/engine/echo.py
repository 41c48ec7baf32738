"""Expected events: what our own writes will cause, so that it is known when it comes back.

In: what is about to be written, and later what was seen. Out: whether the seen event is the echo of our own write. Left
to others: when an expectation is overdue is judged by a number the caller passes (`engine.inbound` uses stream offsets
for the site and seconds for the hub); what follows from a dropped one (`engine.inbound` fetches the key).

The daemon holds two of these. *Expected local* is filled before an apply and matched, by value, against the site's
replication stream. *Expected remote* is filled before a push and matched, by event name, against the hub's
keyspace events, which carry no value and no order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from threading import Lock
from typing import TypeVar

from redisrepl.changes import KIND_OF_TYPE, Change, FieldsDeleted, HashSet, Invalidated, SequenceSet
from redisrepl.wire.fieldtimes import has_times, shown_when_applied
from redisrepl.wire.groupcommands import shown_when_removed
from redisrepl.wire.opaque import OPAQUE
from redisrepl.wire.writes import MAX_WORDS_AT_SITE

__all__ = ["ExpectedEvents", "shown_in_stream"]

_Event = TypeVar("_Event", bound=Hashable)


#: One event that will come, and the point after which it no longer can.
_Expectation = tuple[Hashable, float]


#: Expectations of one key, of which more are not all looked at for each event.
_MANY = 100


class ExpectedEvents:
    """A bounded, lock-guarded map from a key to the events that our own writes will cause on it.

    Args:
        capacity: how many expectations fit; see `expect`. None: nobody sees what comes, so nothing is expected.
    """

    __slots__ = ("_by_key", "_capacity", "_count", "_lock", "_subjects")

    def __init__(self, capacity: int | None) -> None:
        self._by_key: dict[bytes, list[_Expectation]] = {}
        self._subjects: dict[bytes, Counter[Hashable]] = {}  # of keys with many expectations, what these are about
        self._capacity = capacity
        self._count = 0
        self._lock = Lock()

    def __len__(self) -> int:
        """How many expectations are outstanding."""
        return self._count

    def expect(self, key: bytes, event: Hashable, deadline: float) -> bool:
        """Note that this event will come on this key before `deadline`.

        Returns:
            False if the map is full: the event will look foreign when it comes, which costs a fetch and loses nothing.
        """
        return self.expect_all(key, (event,), deadline)

    def expect_all(self, key: bytes, events: Sequence[Hashable], deadline: float) -> bool:
        """Note that all of these events will come on this key before `deadline`.

        Returns:
            False if the map is full. If it is not, they may be more than fit: a key with more could never be applied.
        """
        if self._capacity is None:
            return True
        with self._lock:
            if self._count >= self._capacity:
                return False
            if events:
                self._add(key, [(event, deadline) for event in events])
            return True

    def _add(self, key: bytes, expectations: list[_Expectation]) -> None:
        self._count += len(expectations)
        held = self._by_key.setdefault(key, expectations)
        if held is not expectations:
            held += expectations
        if key in self._subjects:
            self._subjects[key].update(_subject(event) for event, _ in expectations)
        elif len(held) > _MANY:
            self._subjects[key] = Counter(_subject(event) for event, _ in held)

    def expect_each(self, keys: Sequence[bytes], event: Hashable, deadline: float) -> None:
        """Note that this event will come on each of these keys before `deadline`; on none if not all fit."""
        if self._capacity is None:
            return
        expectation = (event, deadline)
        by_key = self._by_key
        with self._lock:
            if self._count + len(keys) > self._capacity:
                return
            for key in keys:
                if key in by_key:
                    self._add(key, [expectation])
                else:
                    by_key[key] = [expectation]
                    self._count += 1

    def consume(self, key: bytes, event: Hashable) -> bool:
        """Whether this event on this key was expected; the oldest matching expectation is used up."""
        with self._lock:
            return self._consume(key, event)

    def consume_each(self, events: Sequence[tuple[bytes, _Event]]) -> list[tuple[bytes, _Event]]:
        """Use up what was expected of these keys and events, one after the other; return those that were not."""
        if not self._count:
            return list(events)
        with self._lock:
            return [(key, event) for key, event in events if not self._consume(key, event)]

    def _consume(self, key: bytes, event: Hashable) -> bool:
        expectations = self._by_key.get(key)
        if expectations is None:
            return False
        subjects = self._subjects.get(key) if self._subjects else None
        if subjects is not None and not subjects[_subject(event)]:
            return False  # what others write meanwhile is not looked for among thousands
        for index, (expected, _) in enumerate(expectations):
            if expected == event:
                self._count -= 1
                if subjects is not None:
                    subjects[_subject(event)] -= 1
                if len(expectations) == 1:
                    self._forget(key)
                else:
                    del expectations[index]
                return True
        return False

    def _forget(self, key: bytes) -> list[_Expectation]:
        self._subjects.pop(key, None)
        return self._by_key.pop(key)

    def holds(self, key: bytes) -> bool:
        """Whether any event is still expected on this key."""
        return key in self._by_key

    def set_deadline(self, keys: Iterable[bytes], deadline: float) -> None:
        """Give every expectation on these keys a new deadline, now that it is known."""
        with self._lock:
            for key in keys:
                if (expectations := self._by_key.get(key)) is not None:
                    expectations[:] = [(event, deadline) for event, _ in expectations]

    def drop_overdue(self, now: float) -> list[bytes]:
        """Drop what should have come before `now`.

        Returns:
            The keys concerned: a lost event must not swallow a later one, so each must be read again (rule 3).
        """
        with self._lock:
            overdue = [key for key, es in self._by_key.items() if any(deadline < now for _, deadline in es)]
            for key in overdue:
                expectations = self._forget(key)
                self._count -= len(expectations)
                if kept := [expectation for expectation in expectations if expectation[1] >= now]:
                    self._add(key, kept)
            return overdue

    def void(self, keys: Iterable[bytes]) -> dict[bytes, int]:
        """Drop every expectation on these keys: after a fault no guess survives.

        Returns:
            The keys that had any, with how many.
        """
        with self._lock:
            voided = {key: len(self._forget(key)) for key in dict.fromkeys(keys) if key in self._by_key}
            self._count -= sum(voided.values())
            return voided

    def void_all(self) -> list[bytes]:
        """Drop everything: the link that was to bring the events is gone. Returns the keys that had any."""
        with self._lock:
            keys = list(self._by_key)
            self._by_key.clear()
            self._subjects.clear()
            self._count = 0
            return keys


def _subject(event: Hashable) -> Hashable:
    """What an event is about: two that are equal have the same."""
    if isinstance(event, HashSet | FieldsDeleted) and event.fields:
        return min(event.fields)
    return event if isinstance(event, bytes) else type(event)


def shown_in_stream(change: Change) -> Sequence[Change]:
    """The changes that the site's stream shows once this one was applied."""
    if isinstance(change, SequenceSet) and change.type == OPAQUE:
        return (Invalidated(change.key, replaces=True),)  # `RESTORE`
    if isinstance(change, SequenceSet):
        invalidated = Invalidated(change.key, KIND_OF_TYPE[change.type], replaces=True)
        return [invalidated] * -(-len(change.items) // MAX_WORDS_AT_SITE)
    if isinstance(change, HashSet) and change.type == "stream":  # in the order of their ids, as they are added
        return [HashSet(change.key, {name: value}, change.type) for name, value in sorted(change.fields.items())]
    if isinstance(change, HashSet) and has_times(change.fields):
        return shown_when_applied(change)
    if isinstance(change, FieldsDeleted) and change.type == "stream":
        return shown_when_removed(change)
    return (change,)
