"""Which keys the site's stream told of last, and before which offset.

In: keys, as the stream tells of them. Out: which of them it told of after an offset; before which offset it had told
all of some keys; both for the next process as well. Left to others: what follows (`engine.losses`, `flow.reach`).
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from itertools import islice, repeat

from redisrepl.engine.pieces import Pieces

__all__ = ["NEVER", "StreamedKeys"]

#: Streams of which each may have told of all keys that wait.
_OTHERS = 8
#: An offset that no history comes to.
NEVER = sys.maxsize

#: Keys that are remembered with the offset of the stream that told of them, and of these saved.
_KEYS = 20_000
_STREAMED = 2048


def _streamed_of(entry: object) -> tuple[int, bytes] | None:
    """From what JSON held; None: that is no such entry."""
    match entry:
        case [int(offset), str(key)]:
            with suppress(ValueError):
                return offset, bytes.fromhex(key)
    return None


class StreamedKeys:
    """Which keys the stream told of last, and up to which offset.

    Attributes:
        history: whose stream it is, by its replication id; empty: that is not known, or too many others told since.
        whole_to: what is not remembered, it had told before this offset; infinity: that is not known.
        known_to: of what was agreed on after this number, it is not known whether the stream had told of it.
        forgot: it has told of some keys that are not remembered.
    """

    def __init__(self) -> None:
        self.history = ""
        self.whole_to: float = math.inf
        self.known_to: float = math.inf
        self.forgot = False
        self._keys: deque[tuple[int, list[bytes]]] = deque()
        # The last offset of each, by whom it was changed there; of some that are not remembered any more, too.
        self._written: dict[bytes, int] = {}
        self._applied: dict[bytes, int] = {}
        self._count = 0
        self._others: list[StreamedKeys] = []
        self._now: list[bytes] = []
        self._applied_now: list[bytes] = []
        self._flushed = False
        self._looked_at = self._recent_from = 0
        self._unsaved = 0  # of `_keys`, the last so many
        self._saved = Pieces("streamed", _STREAMED)
        self._saved_from: float = 0  # what was told before this offset, not all of it was saved

    def add(self, keys: Iterable[bytes], *, applied: bool = False) -> None:
        """The stream tells that clients, or we (`applied`), changed these; without one, they have no offset."""
        if self.whole_to != math.inf:
            now = self._applied_now if applied else self._now
            now += keys

    def flushed(self) -> None:
        """It tells that all keys are gone, and names none."""
        self.forgot = True
        self._keys.clear()
        self._written.clear()
        self._applied.clear()
        self._now, self._applied_now, self._count, self._flushed = [], [], 0, True

    def reached(self, offset: int) -> None:
        """It has told all that lies before this offset."""
        if self._flushed:
            self.whole_to, self._flushed = max(offset, self.whole_to), False
        self._written.update(dict.fromkeys(self._now, offset))
        if self._applied_now:
            self._applied.update(dict.fromkeys(self._applied_now, offset))
            self._now += self._applied_now
            self._applied_now = []
        if not self._now:
            return
        self._keys.append((offset, self._now))
        self._unsaved += 1
        self._count += len(self._now)
        self._now = []
        while self._count > _KEYS and len(self._keys) > 1:
            self.whole_to, keys = self._keys.popleft()
            self._count -= len(keys)
        if len(self._written) + len(self._applied) > 2 * _KEYS:
            self.forgot = True
            for last in (self._written, self._applied):
                for key in [key for key, at in last.items() if at <= self.whole_to]:
                    del last[key]

    def offsets(self, keys: Iterable[bytes]) -> dict[bytes, int] | None:
        """By which offset it had told all that it has told of each of these keys until now; None: that is not known."""
        if self.whole_to == math.inf:
            return None
        written, applied, whole_to = self._written, self._applied, int(self.whole_to)
        return {key: max(whole_to, written.get(key, 0), applied.get(key, 0)) for key in keys}

    def followed_by(self, other: StreamedKeys) -> None:
        """What this other stream tells is about a server that may not have the history of this one."""
        if any(known is other for known in self._others):
            return
        if len(self._others) < _OTHERS:
            self._others.append(other)
        else:
            self.history = ""

    def tells_of(self, key: bytes) -> bool:
        """Whether it has told of this key, as far as that is remembered."""
        return key in self._written or key in self._applied

    def looked(self, offset: int) -> None:
        """Its changes up to this offset were taken as evidence; those since the look before are recent."""
        self._recent_from, self._looked_at = self._looked_at, offset

    def written(self, keys: Collection[bytes]) -> tuple[int, dict[bytes, int]] | None:
        """By which offset it had told what clients wrote of these until now; None: that is not known.

        Returns:
            One for all, but for recent ones among others: a server that is lost may lack the last of all. And but for
            those that another history has told of since.
        """
        if self.whole_to == math.inf:
            return None
        whole_to, cut = int(self.whole_to), self._recent_from
        if self._others:
            if any(other.forgot for other in self._others):
                return None
            doubtful = {key for key in keys if any(other.tells_of(key) for other in self._others)}
            known = [key for key in keys if key not in doubtful]
            last = max((self._written.get(key, 0) for key in known), default=0)
            return (max(whole_to, last), dict.fromkeys(doubtful, NEVER)) if known else None
        offsets = list(map(self._written.get, keys, repeat(0)))
        last = max(whole_to, max(offsets, default=0))
        if not max(whole_to, min(offsets, default=0)) <= cut < last:
            return last, {}
        later = {key: at for key, at in zip(keys, offsets, strict=True) if at > cut}
        return max(whole_to, *(at for at in offsets if at <= cut)), later

    def later_than(self, offset: int) -> set[bytes] | None:
        """Keys that it told of after this offset; None: not all of them are remembered."""
        if self.whole_to > offset:
            return None
        return {key for reached, keys in self._keys if reached > offset for key in keys}

    def saved(self) -> dict[str, object]:
        """The last of them as JSON can hold them, in the form of `Ring.saved`."""
        if self.whole_to == math.inf:
            return {}
        new: list[tuple[int, bytes]] = []
        for offset, keys in islice(reversed(self._keys), self._unsaved):
            new += [(offset, key) for key in dict.fromkeys(keys)]
            if len(new) >= _STREAMED:
                self._saved_from = offset  # of what was told before, not all is saved
                break
        if self._unsaved > len(self._keys):  # some were forgotten before they were saved
            self._saved_from = max(self._saved_from, self.whole_to)
        for offset, key in reversed(new[:_STREAMED]):
            self._saved.add((offset, key.hex()))
        self._unsaved = 0
        return {"streamed": [max(self.whole_to, self._saved_from), self._saved.count], **self._saved.saved}

    @classmethod
    def load(cls, document: Mapping[str, object]) -> StreamedKeys:
        """From a document with what was saved by this and `Ring.saved`; if it cannot be read, nothing is known."""
        streamed, number = cls(), document.get("ring")
        match document.get("streamed"):
            case [int(whole_to), int(count)]:
                streamed.whole_to = whole_to
                for entry in streamed._saved.load(document):
                    if (one := _streamed_of(entry)) is None:
                        return cls()
                    offset, key = one
                    streamed.add([key])
                    streamed.reached(offset)
                if count > len(streamed._keys):  # the first have made room
                    streamed.whole_to = max(whole_to, streamed._keys[0][0] if streamed._keys else math.inf)
        streamed.known_to = number if isinstance(number, int) else 0
        return streamed
