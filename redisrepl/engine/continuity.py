"""What is known of the histories of both servers: was all seen that happened there, and do they still hold it.

In: what the links and the servers' own words tell. Out: the epoch of each link, which sides must be compared with the
ancestor, and up to where each server is known to hold what was agreed. Left to others: what is void in another epoch
(`engine.inbound`), comparing (`flow.sweep`), how a server's state is judged (`engine.evidence`).

Each link has an *epoch*. Work begun in one epoch is void in another: what was read of a server before its events were
missed may be out of date without anybody noticing. `EFFECTS` is the whole of it: event by event, whether a new epoch
begins, whether the side must be compared, and what becomes of the proof that it holds what was agreed.

A side is *settled* when it has been compared with the ancestor since its last gap, and every difference has been dealt
with. While the site is not settled, nobody may take for granted that its stream has told all that it holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

__all__ = ["EFFECTS", "SIDES", "Continuity", "Effect", "Event", "Side", "SideState"]

Side = Literal["site", "hub"]
#: Both, the nearer one first.
SIDES: tuple[Side, Side] = ("site", "hub")


class Event(Enum):
    """What can happen to a link, or to the server at its end."""

    DETACHED = "the link was lost: what the server does now is not seen"
    ATTACHED = "the link is there: what is the server's history, compared with the one that we know?"
    RESUMED = "the link goes on where it was: nothing was missed"
    FIRST = "the first contact: nothing was known before, so nothing was missed"
    GAP = "something was, or may have been, missed; the server is the same"
    MISSED = "something was missed; that does not tell what the server's history is"
    LEFT_OUT = "nothing was missed, but of what differs, or was agreed on, something found no place in our memory"
    CLOCK_SET = "the clock of one server was set: its earlier expiries are wrong"
    FLUSHED = "the server removed everything, or exchanged it; it still has its history"
    RESTARTED = "another process, which holds everything that was agreed"
    WENT_BACK = "another process, or another server, which holds only what was agreed up to some number"
    COMPARED = "everything was compared with the ancestor, and what differed was dealt with"


@dataclass(frozen=True, slots=True)
class Effect:
    """What follows from an event.

    Attributes:
        epoch: a new one begins.
        owed: the side must be compared.
        missed: writes may have been missed, so what has no ancestor may be new.
        settles: it is settled now.
    """

    epoch: bool = False
    owed: bool = False
    missed: bool = False
    settles: bool = False


EFFECTS: Mapping[Event, Effect] = {
    Event.DETACHED: Effect(epoch=True),
    Event.ATTACHED: Effect(epoch=True),
    Event.RESUMED: Effect(),
    Event.FIRST: Effect(epoch=True, owed=True),
    Event.GAP: Effect(epoch=True, owed=True, missed=True),
    Event.MISSED: Effect(epoch=True, owed=True, missed=True),
    Event.LEFT_OUT: Effect(owed=True),
    Event.CLOCK_SET: Effect(epoch=True, owed=True),
    Event.FLUSHED: Effect(owed=True, missed=True),
    Event.RESTARTED: Effect(epoch=True, owed=True, missed=True),
    Event.WENT_BACK: Effect(epoch=True, owed=True, missed=True),
    Event.COMPARED: Effect(settles=True),
}

#: What the history of a server at the end of a new link can turn out to be.
_JUDGEMENTS = frozenset({Event.RESUMED, Event.FIRST, Event.GAP, Event.RESTARTED, Event.WENT_BACK})


@dataclass(slots=True)
class SideState:
    """What is known of one side.

    Attributes:
        epoch: of its link.
        followed: its events are seen now.
        judged: since then its history was compared with the one that we know. Before that nothing may follow from what
            it lacks.
        owed: why it must be compared; None: it need not be.
        missed: writes may have been missed since it was last settled.
        settled: see the module.
        proved: agreements up to this number are included in what it holds; infinity: all are.
        flushed: it removed everything since it was last compared: that it lacks much is no surprise.
        evicts: it has evicted keys: what it lacks since then, nobody may have removed.
        run_id: of its process, as it was last told; empty: unknown.
    """

    epoch: int = 0
    followed: bool = False
    judged: bool = False
    owed: str | None = None
    missed: bool = False
    settled: bool = False
    proved: float = math.inf
    flushed: bool = False
    evicts: bool = False
    run_id: str = ""

    @property
    def may_lack(self) -> bool:
        """Whether it may lack keys that nobody removed."""
        return self.evicts and not self.flushed

    @property
    def untouched(self) -> bool:
        """Nothing was ever known of it, nor has a link to it been lost: it cannot have gone back."""
        return not (self.epoch or self.run_id or self.settled or self.owed)


@dataclass(slots=True)
class Continuity:
    """Both sides.

    Attributes:
        site, hub: they.
        behind: more was agreed on than is known: what a side lacks may have been agreed on as gone, and come again.
    """

    site: SideState = field(default_factory=SideState)
    hub: SideState = field(default_factory=SideState)
    behind: bool = False

    @property
    def epoch(self) -> int:
        """Another one whenever either link's is."""
        return self.site.epoch + self.hub.epoch

    @property
    def known(self) -> bool:
        """Whether both are followed, and their histories are known."""
        return self.site.followed and self.site.judged and self.hub.judged

    @property
    def kept_all(self) -> bool:
        """Whether neither server is known to have gone back."""
        return self.site.proved == self.hub.proved == math.inf

    def of(self, side: Side) -> SideState:
        """One side."""
        return self.site if side == "site" else self.hub

    def happened(self, side: Side, event: Event, reason: str = "", *, proved: float = math.inf) -> None:
        """Something happened on a side.

        Args:
            side: which.
            event: what.
            reason: why it must be compared, for people; if it must be.
            proved: for `Event.WENT_BACK`: up to which number the server holds what was agreed.
        """
        state, effect = self.of(side), EFFECTS[event]
        state.epoch += effect.epoch
        if event in (Event.DETACHED, Event.ATTACHED):
            state.followed, state.judged = event is Event.ATTACHED, False
        elif event in _JUDGEMENTS:
            state.judged = True
        if effect.owed:
            state.owed = state.owed or reason
            state.settled = False
        state.missed |= effect.missed
        if event is Event.FLUSHED:
            state.flushed = True
        if event is Event.WENT_BACK:
            state.proved = min(state.proved, proved)
        if effect.settles:
            state.settled = state.owed is None
            if state.settled:
                state.proved, state.missed, state.flushed = math.inf, False, False
            self.behind = self.behind and not (self.site.settled and self.hub.settled)

    def digested_anew(self, reason: str) -> None:
        """What elements hold has another digest from now on.

        A side of which nothing was compared yet is compared anyway, and its first snapshot goes on being pushed.
        """
        for side in SIDES:
            if not self.of(side).untouched:
                self.happened(side, Event.CLOCK_SET, reason)

    def is_behind(self, reason: str = "what was agreed on last could not be written") -> None:
        """More was agreed on than is known: until both sides were compared, nothing is removed for it."""
        self.behind = True
        for side in SIDES:
            self.happened(side, Event.LEFT_OUT, reason)

    def begin(self, side: Side) -> str | None:
        """A comparison of this side begins; why it was owed."""
        state = self.of(side)
        reason, state.owed = state.owed, None
        return reason

    def saved(self, *, quiet: bool) -> dict[str, object]:
        """What must survive the daemon: it may end before both sides agree on every key.

        Args:
            quiet: no key that a comparison found is left, and none that was refused.
        """
        return {
            side: {
                "run_id": state.run_id,
                "settled": state.settled and quiet,
                "proved": None if state.proved == math.inf else state.proved,
                "evicts": state.evicts,
                "missed": state.missed,
            }
            for side, state in (("site", self.site), ("hub", self.hub))
        }

    @classmethod
    def load(cls, document: object) -> Continuity:
        """From what was saved; whatever cannot be read counts as unknown."""
        continuity = cls()
        for side in SIDES:
            kept = document.get(side) if isinstance(document, Mapping) else None
            if not isinstance(kept, Mapping):
                continue
            state = continuity.of(side)
            run_id, proved = kept.get("run_id"), kept.get("proved")
            state.run_id = run_id if isinstance(run_id, str) else ""
            state.settled = kept.get("settled") is True
            if not state.settled:
                state.owed = "not all was compared before the last stop"
            state.proved = float(proved) if isinstance(proved, int | float) else math.inf
            state.evicts = kept.get("evicts") is True
            state.missed = kept.get("missed") is True
        return continuity
