"""What was sent to the hub and may be there, though nobody has said so.

In: batches about to be sent, and how they ended. Out: records of the store, by which a later look at their keys tells
our writes from those of others. Left to others: sending (`flow.pushing`), what follows from an intent
(`engine.reconcile`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from redisrepl.changes import Change, FieldsDeleted, HashSet
from redisrepl.engine.ancestor import note_changes
from redisrepl.store import Facts, Store

__all__ = ["MOST", "Intents"]

#: Batches of unknown outcome that are remembered: a proxy may fail each try for days.
MOST = 1000


class Intents:
    """Batches of unknown outcome, by number; those of the last process among them.

    Args:
        store: what is agreed on.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[int, Collection[bytes] | None] = dict.fromkeys(store.open_batches)  # with their keys, if known
        self._kept = deque[int]()  # of these, and of those that were, the latest that are no parts
        self._partly: dict[bytes, int] = {}  # of these, those about a key of which some elements have moved

    def __len__(self) -> int:
        return len(self._open)

    def sending(self, changes: Sequence[Change], *, appends: bool) -> int:
        """Record what is about to be sent; returns its number. `appends` as for `note_changes`."""
        facts, number = Facts(), self._store.next_number()
        note_changes(facts, changes, appends=appends)
        self._store.sending(number, facts)
        return number

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

    def answered(self, changes: Sequence[Change], moved: Collection[bytes]) -> None:
        """The hub has answered a batch: it holds nothing any more of what was kept of these keys before.

        Where elements of a key have moved, others whose condition held were written. Which ones, it does not tell.
        """
        if not (moved or self._partly):
            return  # the way most batches go
        earlier = [self._partly.pop(key) for key in {change.key for change in changes} & self._partly.keys()]
        written = [change for change in changes if change.key in moved and isinstance(change, HashSet | FieldsDeleted)]
        for key, of_key in groupby(written, attrgetter("key")):
            self._partly[key] = number = self.sending(list(of_key), appends=False)
            self._open[number] = (key,)
        self.drop(number for number in earlier if number in self._open)

    def settle(self, was_executed: Callable[[int], bool]) -> None:
        """It is known which were executed: what these carried is agreed on."""
        for number in list(filter(was_executed, self._open)):
            self._store.acknowledged(number)
            del self._open[number]

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
        self._partly = {key: number for key, number in self._partly.items() if number in self._open}
