"""What was sent to the hub and may be there, though nobody has said so.

In: batches about to be sent, and how they ended. Out: records of the store, by which a later look at their keys tells
our writes from those of others. Left to others: sending (`flow.pushing`), what follows from an intent
(`engine.reconcile`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from redisrepl.changes import Change, ExpirySet, FieldsDeleted, HashSet
from redisrepl.engine.ancestor import note_changes
from redisrepl.engine.merging import elements_changed
from redisrepl.store import Facts, Store

__all__ = ["MOST", "Intents"]

#: Batches of unknown outcome that are remembered: a proxy may fail each try for days.
MOST = 1000

_Elements = HashSet | FieldsDeleted


class Intents:
    """Batches of unknown outcome, by number; those of the last process among them.

    Args:
        store: what is agreed on.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[int, Collection[bytes] | None] = dict.fromkeys(store.open_batches)  # with their keys, if known
        self._ended = set[int]()  # of these, those that the store knows are not executed any more
        self._kept = deque[int]()  # of these, and of those that were, the latest that are no parts
        self._partly: dict[bytes, dict[int, list[_Elements]]] = {}  # of these, about a key of which some have moved

    def __len__(self) -> int:
        return len(self._open)

    def sending(self, changes: Sequence[Change], *, appends: bool) -> int:
        """Record what is about to be sent; returns its number. `appends` as for `note_changes`.

        For each change a number is set apart: what may be left of one was sent now, however late that is found out.
        """
        number = self._store.next_number(len(changes))
        self._send(number, changes, appends=appends)
        return number

    def _send(self, number: int, changes: Sequence[Change], *, appends: bool) -> None:
        facts = Facts()
        note_changes(facts, changes, appends=appends)
        self._store.sending(number, facts)

    def keep(self, numbers: Sequence[int], keys: Collection[bytes]) -> None:
        """The outcome of these is unknown. Of too many, the earliest are forgotten: later ones carry what is newer."""
        self._open |= dict.fromkeys(numbers, frozenset(keys))
        self._kept.extend(numbers)
        while len(self._kept) > MOST:
            if (earliest := self._kept.popleft()) in self._open:
                self.drop((earliest,))

    def drop(self, numbers: Iterable[int]) -> None:
        """These were not executed, or what they carried is there no more."""
        for number in numbers:
            self._open.pop(number, None)
            self._store.dropped(number)

    def answered(self, number: int, changes: Sequence[Change], moved: Collection[bytes]) -> None:
        """The hub has answered a batch: of what it names, nothing is there any more that was kept before.

        Where elements of a key have moved, others whose condition held were written. Which ones, it does not tell.
        """
        if not (moved or self._partly):
            return  # the way most batches go
        own = number - len(changes)
        for key, group in groupby(changes, attrgetter("key")):
            of_key = list(group)
            if key in self._partly:
                self._keep_others(key, of_key)
            if key in moved and (left := [change for change in of_key if isinstance(change, _Elements)]):
                self._keep_parts(key, own, left)
            own += len(of_key)

    def _keep_others(self, key: bytes, newer: Sequence[Change]) -> None:
        """Of what was kept of a key, only what newer changes do not name may be there."""
        for number, kept in self._partly.pop(key, {}).items():
            if left := _others(kept, newer):
                self._keep_parts(key, number, left)
            elif number in self._open:
                self.drop((number,))

    def _keep_parts(self, key: bytes, number: int, left: list[_Elements]) -> None:
        self._send(number, left, appends=False)
        self._partly.setdefault(key, {})[number] = left
        self._open[number] = (key,)

    def resolve(self, was_executed: Callable[[int], bool], *, ended: bool) -> None:
        """It is known which were executed: what these carried is agreed on.

        Args:
            was_executed: whether one was, by its number.
            ended: the others are not executed from here on. What is agreed on later about their keys is no trace of
                them: without that, a client's later write of the same value, or removal, would be taken for ours.
        """
        for number in list(filter(was_executed, self._open)):
            self._store.acknowledged(number)
            del self._open[number]
        if ended:
            for number in self._open.keys() - self._ended:
                self._store.ended(number)
            self._ended = set(self._open)

    def looked_at(self, pending: Collection[bytes]) -> None:
        """Every key was looked at again, or has changed since: that is pending.

        Until such a change has arrived, the hub may hold what was sent before: that must not be taken for a client's.
        """
        over = [
            number
            for number, keys in self._open.items()
            if not (len(pending) if keys is None else any(key in pending for key in keys))
        ]
        self.drop(over)
        still_open = (
            (key, {number: left for number, left in parts.items() if number in self._open})
            for key, parts in self._partly.items()
        )
        self._partly = {key: parts for key, parts in still_open if parts}


def _others(kept: Iterable[_Elements], newer: Iterable[Change]) -> list[_Elements]:
    """What was kept, without the elements that newer changes of their key may have changed."""
    names = set[bytes]()
    for change in newer:
        if isinstance(change, ExpirySet):
            continue
        if (changed := elements_changed(change)) is None:
            return []
        names.update(changed)
    left: list[_Elements] = []
    for change in kept:
        if isinstance(change, HashSet):
            fields = {name: value for name, value in change.fields.items() if name not in names}
            left += [replace(change, fields=fields)] if fields else []
        elif gone := tuple(name for name in change.fields if name not in names):
            left.append(replace(change, fields=gone))
    return left
