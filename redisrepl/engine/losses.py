"""What a site that went back may have lost: which of its keys may be older than what was agreed.

In: what was seen of the site before it was lost, and what of that is proved. Out: for a key, and for fields of a hash,
whether what the site holds now may be older. Left to others: proving (`evidence`), what follows from it (`merge`).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

from redisrepl.changes import HashState, State
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.evidence import Ring, Told
from redisrepl.wire.digests import digest_of, elements_of

__all__ = ["Losses"]


class _Missed(NamedTuple):
    """What a replica did not have that took over.

    Attributes:
        keys: of which the old master's stream had told since.
        numbers: of what was applied to the old master and not yet shown by its stream.
    """

    keys: set[bytes]
    numbers: set[int]


class Losses:
    """What the site may have lost when it was judged last.

    Attributes:
        seen: the last changes of the history that it had before.
        told: keys that the stream of that history told of last.
    """

    def __init__(self) -> None:
        self.seen = Ring()
        self.told = Told()
        self._missed: _Missed | None = None

    def went_back(self, proved_before: float, kept_to: int | None, applies: Collection[int]) -> None:
        """The site is judged to have gone back.

        Args:
            proved_before: what was proved until now; infinity: all of it.
            kept_to: a replica took over, which has what the stream told before this offset; None: nobody knows that.
            applies: numbers of what was applied and not yet shown by the stream.
        """
        keys = None if kept_to is None else self.told.later_than(kept_to)
        before = self._missed if proved_before != math.inf else _Missed(set(), set())
        self._missed = None
        if keys is not None and before is not None:
            self._missed = _Missed(before.keys | keys, before.numbers.union(applies))

    def may_be_older(self, key: bytes, state: State, ancestor: Agreed, now: Ring, proved: float) -> bool:
        """Whether what the site holds for a key may be older than what was agreed on.

        What it was seen to write after the agreement is newer, whatever else it has lost; so is what nobody had seen
        there before, where what it held when it was lost is known.

        Args:
            key: it.
            state: what the site holds.
            ancestor: what was agreed on.
            now: the last changes that were seen since it was judged.
            proved: what was agreed up to this number, it has.
        """
        if ancestor.number <= proved:
            return False
        if self._missed is not None:
            return key in self._missed.keys or ancestor.number in self._missed.numbers
        held = digest_of(key, state)
        last = now.last(key) or self.seen.last(key)
        if last is not None and last.number >= ancestor.number and last.digest == held:
            return False
        return not self.seen.written_since(proved, key, None, held)

    def newer_fields(self, key: bytes, state: State, proved: float) -> Collection[bytes]:
        """Of a hash that may be older, the fields that are not."""
        if not isinstance(state, HashState):
            return ()
        held, since = elements_of(state.fields, state.type), self.seen.written_since
        return {name for name, digest in held.items() if since(proved, key, name, digest)}
