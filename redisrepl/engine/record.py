"""The record of what the site's stream told: its last changes, each with the number of agreements by which it was seen.

In: what `engine.outbound` read of the stream, what is applied to the site, the number of agreements. Out: the changes,
as evidence of the site's history. Left to others: keeping them (`engine.seen`), judging by them (`flow.judging`).
"""

from __future__ import annotations

import math
from collections.abc import Collection

from redisrepl.engine.continuity import Continuity
from redisrepl.engine.outbound import Outbound
from redisrepl.engine.pending import valued_part
from redisrepl.engine.seen import Ring

__all__ = ["StreamRecord"]


class StreamRecord:
    """What the stream of one site told.

    Args:
        ring: the last changes seen by the process before.
        outbound: reads the stream.
        continuity: what is known of the site's history.

    Attributes:
        ring: the last changes seen.
        complete: they are all that the stream told; one that was loaded may lack the last of it.
    """

    def __init__(self, ring: Ring, outbound: Outbound, continuity: Continuity) -> None:
        self.ring = ring
        self.complete = False
        self._outbound = outbound
        self._continuity = continuity
        self._applies: dict[int, float] = {}  # by number, before which offset the stream shows them

    def applies(self, number: int, offset: float | None = math.inf) -> None:
        """Something is applied to the site under this number, and its stream will show it.

        Args:
            number: of the batch.
            offset: it will be shown before this; infinity: that is not known yet; None: it was not applied.
        """
        if offset is None:
            self._applies.pop(number, None)
        else:
            self._applies[number] = offset

    @property
    def unshown(self) -> Collection[int]:
        """Numbers of what was applied to the site and was not yet shown by its stream."""
        return self._applies.keys()

    def saw(self, number: int) -> list[bytes]:
        """Take what was read since, under this number of agreements.

        Returns:
            Keys of which a change told no value.
        """
        outbound, read_to = self._outbound, self._outbound.following.read_to
        self.complete = True
        keys = self._add(self._shown(number))
        if read_to:
            self.ring.reached(read_to)
            outbound.recent.streamed_keys.looked(read_to)
            self.ring.acknowledged(outbound.acknowledged, number)
        return keys

    def ends(self) -> None:
        """The stream has ended: take the last of it."""
        self._add(self.ring.number)

    def begins_anew(self, number: int = 0, *, agreed: bool = False) -> None:
        """What is seen from here on does not follow upon what was seen before.

        Args:
            number: of agreements that the site has by now, if it is more than what was seen.
            agreed: see `Ring.begins_agreed`.
        """
        self.ring = Ring(number=max(self.ring.number, number))
        if agreed:
            self.ring.begins_agreed()
        self._applies = {number: offset for number, offset in self._applies.items() if offset == math.inf}

    def evidence(self, number: int) -> Ring:
        """What was seen of the site until it was lost, to judge its history by.

        What the hub took meanwhile, the stream had told before: the last changes stand for that too.

        Args:
            number: of agreements by now.
        """
        if self.complete:
            self.ring.add(self._shown(number), ())
        return self.ring

    def is_unseen(self, number: int) -> bool:
        """Whether something was agreed on, up to this number, that the stream may not have shown for all we know."""
        return not self.complete and self.ring.number < number

    def _add(self, number: float) -> list[bytes]:
        changes, whole = self._outbound.recent.take()
        valueless = [one.key for one in changes if not isinstance(one, int) and valued_part(one) is not one]
        self.ring.add(number, changes, valueless=bool(valueless), whole=whole)
        return list(reversed(dict.fromkeys(reversed(valueless))))  # those that were told of last are last

    def _shown(self, number: int) -> float:
        """The number without what was applied to the site and not yet shown by its stream."""
        if self._outbound.read_again_to:
            return self.ring.number  # what the last process applied, the stream may have yet to show
        if self._continuity.site.judged:  # else it is the offset of another server, perhaps
            read_to = self._outbound.following.read_to
            self._applies = {apply: offset for apply, offset in self._applies.items() if offset > read_to}
        return min(number, min(self._applies, default=math.inf) - 1)
