"""How a key that is not the same on both sides is made the same.

In: differences. Out: changes to push, keys to look at. Left to others: finding differences (`sweep`), pushing
(`outbound`), fetching and applying (`inbound`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from redisrepl.changes import Touch
from redisrepl.inbound import InboundCounters
from redisrepl.outbound import Outbound
from redisrepl.wire.digests import NO_KEY

__all__ = ["ConflictWinner", "Difference", "Healing", "InitialSync", "Side", "Way"]

ConflictWinner = Literal["hub", "site"]
InitialSync = Literal["both", "push", "pull", "none"]
Side = Literal["site", "hub"]
Way = Literal["push", "pull"]

#: What a digest begins with > which of `changes.KINDS` its key must be of to cross.
_KINDS = {b"string": "set", b"hash": "hset"}
_WAYS: dict[InitialSync, frozenset[Way]] = {
    "both": frozenset({"push", "pull"}),
    "push": frozenset({"push"}),
    "pull": frozenset({"pull"}),
    "none": frozenset(),
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that is not the same on both sides; a digest of `NO_KEY` says that it is missing there.

    Attributes:
        key: it.
        site: digest of what the site holds.
        hub: of what the hub does.
        steady: both sides held just that at an earlier look too.
    """

    key: bytes
    site: bytes
    hub: bytes
    steady: bool = True


class Pulling(Protocol):
    """`inbound.Inbound`, or what stands before it.

    Attributes:
        counters: what it did since the start.
    """

    counters: InboundCounters

    def mark_dirty(self, keys: Iterable[bytes], *, removal: bool = False) -> None:
        """The state of these keys at the hub must be looked at; whether something is known to be removed there."""

    def holds(self, key: bytes) -> bool:
        """Whether what the hub holds for this key may be on its way to the site."""

    def removes(self, key: bytes) -> bool:
        """Whether something of this key is known to be removed at the hub, and may be at the site still."""


@dataclass(frozen=True, slots=True)
class Healing:
    """How differences are made good.

    Attributes:
        outbound: pushes.
        inbound: pulls; None without `-rc`.
        winner: whose string, or field of a hash, stands where both sides have one.
        direction: which way differences are copied that no gap explains.
        hearing: gives a number that is another after each gap in what the hub tells; None while it tells nothing.
    """

    outbound: Outbound
    inbound: Pulling | None
    winner: ConflictWinner
    direction: InitialSync
    hearing: Callable[[], int | None] = lambda: 0

    @property
    def all_was_pushed(self) -> bool:
        """Whether what the site holds was at the hub once both sides had been compared."""
        return "push" in _WAYS[self.direction] and not self.outbound.counters.failed

    @property
    def all_was_pulled(self) -> bool:
        """Whether what the hub holds was at the site then; without a way back the hub holds what the site wrote."""
        return self.inbound is None or ("pull" in _WAYS[self.direction] and not self.inbound.counters.failed)

    def heal(
        self,
        difference: Difference,
        *,
        emptied: Collection[Side] = (),
        missed: frozenset[Way] = frozenset(),
        settled: bool = False,
    ) -> None:
        """Have a difference made good.

        Args:
            difference: it.
            emptied: sides that were flushed: what such a side lacks is removed from the other.
            missed: ways on which there was a gap: there, everything is copied.
            settled: all keys were compared after the last gap: nothing else was missed.
        """
        key = difference.key
        ways = _WAYS[self.direction] | missed
        if difference.site == NO_KEY and "site" in emptied and self._crosses(difference.hub):
            held = self.outbound.busy(key) or (self.inbound is not None and self.inbound.holds(key))
            if not held:  # else it is newer than the flush, or may be
                self.outbound.add(Touch(key, "del", replaces=True))
            return
        if "hub" in emptied and self.inbound is not None and self._crosses(difference.site):
            self.inbound.mark_dirty([key], removal=True)  # a hash may be there again, with fewer fields
            return
        # What was removed at the hub, and is not yet here, would come back.
        moving = not difference.steady or (self.inbound is not None and self.inbound.removes(key))
        if difference.site != NO_KEY and "push" in ways and not (settled and moving):
            if self.winner == "site":
                self.outbound.add(Touch(key))
            else:
                self.outbound.seed(Touch(key))
        if difference.hub != NO_KEY and "pull" in ways and self.inbound is not None:
            self.inbound.mark_dirty([key])

    def _crosses(self, digest: bytes) -> bool:
        """Whether a key with this digest can have been on the other side: not if it is missing, or of another kind."""
        return _KINDS.get(digest.partition(b" ")[0]) in self.outbound.kinds
