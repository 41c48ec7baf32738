"""What is still to be pushed where each intermediate value counts (`--every-write`).

In: changes in the order of the stream. Out: batches that may hold several changes of a key, in their order; otherwise
as `engine.pending`. Left to others: as there.

A key is in one batch at a time, like there, so its changes reach the hub one after the other. Above `max_bytes` a value
is not kept: an invalidation stands for it and for what follows, until there is room again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest

import structlog

from redisrepl.changes import Change, Invalidated, StringSet
from redisrepl.engine.merging import merge, removes, size_of
from redisrepl.engine.pending import OVERHEAD, Pending, Waiting, fields_of, parts_of, valued_part

__all__ = ["EveryWrite", "values_passed"]

_log = structlog.get_logger("redisrepl")


class EveryWrite(Pending):
    """A queue of unsent changes for each key; see `Pending` for the arguments and attributes.

    The first change of a key is where `Pending` has it, ready or in flight; the others wait behind it.
    """

    def __init__(self, max_bytes: int, max_keys: int) -> None:
        super().__init__(max_bytes, max_keys)
        self._behind: dict[bytes, deque[Waiting]] = {}
        self._along: dict[bytes, list[Waiting]] = {}  # those that went with the first one
        self._logged = False

    def start_over(self) -> None:
        """A new history begins with a snapshot; see `Pending`."""
        super().start_over()
        for queue in (*self._behind.values(), *self._along.values()):
            mark = self._open or self._reopen()
            mark.outstanding += len(queue)
            for waiting in queue:
                waiting.mark = mark.number

    def add(self, change: Change) -> None:
        """Take the next change of the stream."""
        key = change.key
        size = size_of(change)
        full = self.bytes + size + OVERHEAD * (len(self) + 1) > self._max_bytes
        if full:
            change, size = _without_values(change), 0
            self._tell()
        if key not in self:
            super().add(change)
            return
        last = self._last(key)
        if last is not None and (full or (isinstance(change, Invalidated) and isinstance(last, Invalidated))):
            self._replace_last(key, _without_values(merge(last, change)))
            return
        mark = self._open or self._reopen()
        mark.outstanding += 1
        self._behind.setdefault(key, deque()).append(Waiting(change, mark.number, size + OVERHEAD))
        self.bytes += size + OVERHEAD

    def add_sets(self, commands: Collection[Sequence[bytes]]) -> None:
        """Take the next changes of the stream, all of them `SET key value`."""
        for _, key, value in commands:
            self.add(StringSet(key, value))

    def fields(self, key: bytes) -> set[bytes] | None:
        """Fields of a hash that wait or are on their way; see `Pending`."""
        first = super().fields(key)
        others = fields_of((*self._along.get(key, ()), *self._behind.get(key, ())))
        return None if first is None or others is None else first | others

    def take(self, max_keys: int, max_bytes: int, unless: Collection[bytes] = ()) -> list[Change]:
        """Changes to send in one batch, those of a key in their order; see `Pending`."""
        first = super().take(max_keys, max_bytes, unless)
        if not self._behind:
            return first
        left, room = max_keys - len(first), max_bytes - sum(len(change.key) + size_of(change) for change in first)
        batch: list[Change] = []
        for change in first:
            batch.append(change)
            queue = self._behind.get(change.key, ())
            while queue and left > 0 and len(change.key) + queue[0].size <= room:
                waiting = queue.popleft()
                left -= 1
                room -= len(change.key) + waiting.size
                batch.append(waiting.change)
                self._along.setdefault(change.key, []).append(waiting)
            if not queue:
                self._behind.pop(change.key, None)
        return batch

    def done(self, keys: Iterable[bytes]) -> None:
        """These are at the hub, or were given up with an error that names them."""
        keys = dict.fromkeys(keys)
        for key in keys:
            for waiting in self._along.pop(key, ()):
                self._let_go(waiting)
        super().done(keys)
        for key in keys.keys() & self._behind.keys():
            queue = self._behind[key]
            self._ready[key] = queue.popleft()
            if not queue:
                del self._behind[key]

    def put_back(self, keys: Iterable[bytes]) -> None:
        """These did not arrive, and never will: they wait again, in their order."""
        for key in dict.fromkeys(keys):
            self._ready[key] = self._in_flight.pop(key)
            along, behind = self._along.pop(key, []), self._behind.pop(key, ())
            if along or behind:
                self._behind[key] = deque((*along, *behind))

    def forget_valueless(self, keys: Iterable[bytes]) -> None:
        """Drop the pending changes of these keys that carry no value, but for those in flight."""
        super().forget_valueless(keys := [*keys])
        for key in keys:
            queue = deque(filter(self._tells, self._behind.pop(key, ())))
            if queue and key not in self:
                self._ready[key] = queue.popleft()
            if queue:
                self._behind[key] = queue
        self._advance()

    def _tells(self, waiting: Waiting) -> bool:
        """Whether it tells a value, once what does not is dropped of it."""
        valued = valued_part(waiting.change)
        if valued is None:
            self._let_go(waiting)
            return False
        if valued is not waiting.change:
            size = size_of(valued) + OVERHEAD
            self.bytes += size - waiting.size
            waiting.change, waiting.size = valued, size
        return True

    def _last(self, key: bytes) -> Change | None:
        """The last change of a key that is not on its way."""
        if queue := self._behind.get(key):
            return queue[-1].change
        entry = self._ready.get(key)
        return None if entry is None else parts_of(key, entry)[0]

    def _replace_last(self, key: bytes, change: Change) -> None:
        """What waits last becomes this, which holds no values."""
        if queue := self._behind.get(key):
            last = queue[-1]
            self.bytes -= last.size - OVERHEAD
            last.change, last.size = change, OVERHEAD
        else:
            _, mark, size = parts_of(key, self._ready[key])
            self.bytes -= size
            self._ready[key] = Waiting(change, mark, 0)

    def _let_go(self, waiting: Waiting) -> None:
        self._marks[waiting.mark].outstanding -= 1
        self.bytes -= waiting.size

    def _tell(self) -> None:
        if not self._logged:
            self._logged = True
            _log.warning(
                "push.not_every_write",
                reason="more waits for the hub than --max-memory",
                then="the latest values are read and pushed",
            )


def _without_values(change: Change) -> Change:
    """The change, or an invalidation where it holds values."""
    return Invalidated(change.key, replaces=removes(change)) if size_of(change) else change


def values_passed(changes: Iterable[Change]) -> list[list[Change]]:
    """What keys hold on the way to the last of these changes: of each key its first change, then its second, and so on.

    The last change of a key is not among them.
    """
    of_keys: dict[bytes, list[Change]] = {}
    for change in changes:
        of_keys.setdefault(change.key, []).append(change)
    return [
        [each for each in of_turn if each is not None] for of_turn in zip_longest(*(c[:-1] for c in of_keys.values()))
    ]
