"""The last changes of the site, in their order, until they are remembered as evidence.

In: changes as the stream tells them. Out: the last of them, with offsets. Left to others: what they prove
(`engine.record`, `engine.seen`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from redisrepl.changes import Change, HashSet, StringSet
from redisrepl.engine.seen import RING
from redisrepl.engine.streamedkeys import StreamedKeys

__all__ = ["RecentChanges"]


class RecentChanges:
    """The last changes of the site's history, whoever wrote them, and how far the stream was read in between.

    Runs of `SET` are kept as a whole.
    """

    def __init__(self) -> None:
        self._recent: deque[Change | Sequence[Sequence[bytes]] | int] = deque(maxlen=2 * RING)
        self._count = self._reached_at = 0  # changes since they were taken; by the last offset among them
        self.streamed_keys = StreamedKeys()

    def add(self, change: Change, *, applied: bool = False) -> None:
        """The site took this change, from a client or from us (`applied`)."""
        self.streamed_keys.add((change.key,), applied=applied)
        if isinstance(change, HashSet):
            change = HashSet(change.key, dict(change.fields), change.type)
        self._recent.append(change)
        self._count += 1

    def add_sets(self, run: Sequence[Sequence[bytes]], keys: Iterable[bytes]) -> None:
        """The site took these `SET key value`, of these keys."""
        self.streamed_keys.add(keys)
        self._recent.append(run[-RING:])
        self._count += len(run)

    def flushed(self) -> None:
        """The site removed all keys, which is no change of one."""
        self.streamed_keys.flushed()
        self._count += 1

    def reached(self, offset: int) -> None:
        """The stream has told all that lies before this offset."""
        self.streamed_keys.reached(offset)
        if self._count != self._reached_at:
            self._reached_at = self._count
            self._recent.append(offset)

    def take(self) -> tuple[list[Change | int], bool]:
        """At most the last `RING` since this was asked last, with offsets before which the stream had told them.

        Returns:
            They; and whether these are all.
        """
        taken: list[Change | int] = []  # the last ones first: of a busy site most are older than those
        room = RING
        for recent in reversed(self._recent):
            if isinstance(recent, int):
                taken.append(recent)
            elif isinstance(recent, Change):
                taken.append(recent)
                room -= 1
            else:
                taken += [StringSet(key, value) for _, key, value in reversed(recent[-room:])]
                room -= min(room, len(recent))
            if not room:
                break
        whole = self._count <= RING - room
        self._recent.clear()
        self._count = self._reached_at = 0
        taken.reverse()
        return taken, whole
