"""Keys in doubt: the site may hold something newer than the hub, since nobody followed it when it changed.

In: keys of snapshots, of what is read again, of pushes of unknown outcome, and of plans. Out: conditions on which they
are pushed. Left to others: the conditions themselves (`engine.conditional`), sending (`flow.pushing`), when a key is to
be compared as a whole instead (`engine.inbound`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, groupby
from operator import attrgetter

from redisrepl.changes import Change, Deleted, FieldsDeleted, HashSet, Invalidated, State
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.conditional import Condition, condition_for, condition_of_state, state_of
from redisrepl.engine.pending import Pending
from redisrepl.engine.plans import Expectation
from redisrepl.engine.pushes import Pulling
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.rdb import Aux, Entry
from redisrepl.wire.replies import number
from redisrepl.wire.snapshots import is_alive, replicated_of

__all__ = ["Doubts"]


class Doubts:
    """The keys in doubt of one site.

    Args:
        max_bytes, max_keys: as for `Pending`.
        kinds: which of `changes.KINDS` are replicated.
        pulling: told of keys that must be compared as a whole; None without `-rc`.
        may_judge: whether what the site holds now can be compared with the ancestor: it is followed, and its history is
            known. Until then keys in doubt wait.
        went_back: whether what the site holds for a key may be older than what was agreed on.
        evicts: whether the site may have evicted what it lacks, so that nobody removed it.
        behind: whether more was agreed on than is known: nothing is removed for what the site lacks.

    Attributes:
        queue: the keys, with what is to be pushed as far as that is known.
        may_judge: as above.
    """

    def __init__(
        self,
        max_bytes: int,
        max_keys: int,
        kinds: frozenset[str],
        pulling: Pulling | None = None,
        *,
        may_judge: Callable[[], bool] = lambda: True,
        went_back: Callable[[bytes, State, Agreed], bool] = lambda _key, _state, _ancestor: False,
        evicts: Callable[[], bool] = lambda: False,
        behind: Callable[[], bool] = lambda: False,
    ) -> None:
        self.queue = Pending(max_bytes, max_keys)
        self.may_judge = may_judge
        self._all_kinds = kinds
        self._behind = behind
        self._pulling = pulling
        self._went_back = went_back
        self._evicts = evicts
        self._expected: dict[bytes, Expectation] = {}  # what the hub was seen to hold
        self._lost_fields: bytes | None = None  # the hash that lost some last
        self._in_flight: dict[bytes, Expectation] = {}  # likewise, of keys that are on their way
        self._marks = count(1)  # stretches of the queue

    @property
    def _kinds(self) -> frozenset[str]:
        """What is replicated; no key and no element is removed that the site may lack though nobody removed it."""
        return self._all_kinds - {"del"} if self._behind() or self._evicts() else self._all_kinds

    def add(self, key: bytes, change: Change | None = None, expected: Expectation | None = None) -> None:
        """A key is in doubt; see `Outbound.doubt`."""
        if expected is None:
            self._expected.pop(key, None)
        else:
            self._expected[key] = expected
        self.queue.add(change or Invalidated(key, replaces=True))

    def may_have_expired(self, change: Change) -> bool:
        """Whether this may be no removal: by `HDEL` and `UNLINK` Valkey 9 tells that the last fields of a hash expired.

        What others wrote to the hash stays then.
        """
        if isinstance(change, FieldsDeleted) and change.type == "hash":
            self._lost_fields = change.key
        return type(change) is Deleted and change.key == self._lost_fields

    def mark(self) -> Callable[[], bool]:
        """Tells, when asked, whether all that is in doubt now has left; what joins it later does not count."""
        number = next(self._marks)
        self.queue.read_up_to(number)
        return lambda: self.queue.acknowledged >= number

    def expects(self, key: bytes) -> bool:
        """Whether the hub was seen to hold something else than what was agreed on about a key."""
        return key in self._expected or key in self._in_flight

    def read_snapshot(self, entries: Iterable[object], decoder: ChangeDecoder, now: float) -> None:
        """What a snapshot holds is in doubt; see `Outbound.read_snapshot`."""
        for entry in entries:
            match entry:
                case Aux(b"repl-stream-db", text) if (database := number(text)) is not None:
                    decoder.selected = database
                case Entry(db) if db == decoder.database and is_alive(entry, now):
                    changes, left_out = replicated_of(entry, self._all_kinds, now, times=decoder.times_fields)
                    for change in changes:
                        self.queue.add(change)
                    if left_out is not None:
                        decoder.count_unreplicated(f"snapshot:{left_out}")

    def forget(self, change: Change, *, applied: bool = True) -> None:
        """What the site held before this change need not be pushed any more.

        Args:
            change: of a client, or an echo.
            applied: it is what we have applied. To insert an entry of a stream, others are removed and added again:
                these are as they were.
        """
        if not len(self.queue) or (not applied and getattr(change, "type", None) == "stream"):
            return
        if isinstance(change, Invalidated) and change.kind == "streams":
            return  # which elements it is about, such as a group that is gone, it does not say
        self.queue.forget(change)
        self._expect_no_more(change)

    def _expect_no_more(self, change: Change) -> None:
        """What the hub was seen to hold of what changes here is of no use; what it was of other elements still is."""
        expected = self._expected.pop(change.key, None)
        if isinstance(expected, Mapping) and isinstance(change, HashSet | FieldsDeleted) and change.key in self.queue:
            self._expected[change.key] = {name: held for name, held in expected.items() if name not in change.fields}

    def conditions(
        self,
        batch: Iterable[Change],
        changes: Sequence[Change],
        states: Mapping[bytes, State],
        ancestors: Mapping[bytes, Agreed],
    ) -> list[Condition]:
        """How to push a batch; keys that are as they were agreed on are left out.

        Args:
            batch: as it was taken from the queue.
            changes: of it, those that say what is to be pushed, their values read.
            states: what the site holds for the other keys of it.
            ancestors: what is known of all of them.
        """
        found = [self._of_state(key, ancestors.get(key), state) for key, state in states.items()]
        for key, of_key in groupby(changes, attrgetter("key")):
            valued, ancestor = tuple(of_key), ancestors.get(key)
            if ancestor is None or key in self._expected or not self._must_be_compared(key, state_of(valued), ancestor):
                found.append(condition_for(valued, ancestor, self._expected.get(key), self._kinds))
        for key in {change.key for change in batch} & self._expected.keys():
            self._in_flight[key] = self._expected.pop(key)
        return [condition for condition in found if condition is not None]

    def _of_state(self, key: bytes, ancestor: Agreed | None, state: State) -> Condition | None:
        if state is None and self._evicts():
            return None
        if state is None and "del" not in self._kinds and ancestor is not None and self._pulling is not None:
            self._pulling.suspect((key,))  # removals are not replicated: what the site lacks is copied back
        if ancestor is not None and key not in self._expected and self._must_be_compared(key, state, ancestor):
            return None
        return condition_of_state(key, state, ancestor, self._expected.get(key), self._kinds)

    def _must_be_compared(self, key: bytes, state: State, ancestor: Agreed) -> bool:
        """Whether the site may have gone back on this key, or may have it from the hub; then it is compared."""
        if not (ancestor.applied or ancestor.element_applied or self._went_back(key, state, ancestor)):
            return False
        if self._pulling is not None:
            self._pulling.suspect((key,))
        return True

    def arrived(self, keys: Iterable[bytes]) -> None:
        """What the hub was seen to hold of keys that were on their way is of no use any more."""
        if self._in_flight:
            for key in keys:
                self._in_flight.pop(key, None)

    def returned(self, keys: Iterable[bytes]) -> None:
        """These did not arrive, and nothing has changed."""
        if self._in_flight:
            for key in keys:
                if key in self._in_flight:
                    self._expected.setdefault(key, self._in_flight.pop(key))
