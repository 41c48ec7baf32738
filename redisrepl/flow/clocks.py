"""The clocks of both servers: how far they are apart, and up to when each may have let keys expire.

In: by how much each was seen to be ahead of ours. Out: the shift that is added to expiries (`remote.clock_shift`), and
what it was before; Unix times in milliseconds. Left to others: asking (`local.history`, `remote.history`), what follows
(`flow.jobs`, `flow.pushing`, `engine.plans`).

A key is replicated with the time that it has left. Where the clocks agree within `CLOCK_TOLERANCE`, which is what one
can see over a network, that is the point in time itself. Where they do not, the shift is a whole number of seconds and
stays until it is off by more than the tolerance: what was agreed on keeps its expiry to the millisecond.

When a server's clock was set, all that it holds expires too early or too late, and the other's copies are right. At the
hub such an expiry is recognised by the former shift, and written anew; at the site it gives way to the hub's.

That a server lacks what it may have let expire by itself says nothing of the other's copy. The latest time that was
seen is kept, since a clock that was ahead may be set back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from redisrepl.engine.continuity import Side
from redisrepl.remote.clock_shift import ClockShift
from redisrepl.wire.replies import CLOCK_TOLERANCE

__all__ = ["Clocks"]

#: Seconds by which a clock must be ahead for that to be worth writing down.
_WORTH = 0.1
#: Former shifts that are remembered.
_MOST_FORMER = 8


def _steady() -> float:
    """Seconds that go on whatever our own clock is set to, also while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class _Seen(NamedTuple):
    """A server's clock, against the steady seconds, and by how much that may be off; both in seconds."""

    ahead: float
    within: float


class Clocks:
    """The clocks of site and hub.

    Args:
        saved: what was saved; None: nothing.
        shift: of the hub; from here on as it was last.
        steady: see `_steady`.
    """

    def __init__(
        self, saved: object = None, shift: ClockShift | None = None, *, steady: Callable[[], float] = _steady
    ) -> None:
        document: Mapping[object, object] = saved if isinstance(saved, dict) else {}
        self._latest: dict[Side, int] = {"site": _time(document.get("site")), "hub": _time(document.get("hub"))}
        self._ahead: dict[Side, float] = {"site": 0.0, "hub": 0.0}
        self._seen: dict[Side, _Seen | None] = {}
        self._shift = shift or ClockShift()
        self._shift.ms = _time(document.get("shift"))
        #: What the shift was before, and whether it was the hub's clock that was set then.
        self._former = _former(document.get("former"))
        # Whether anything may have been replicated with the present shift; a state without it knew no shift.
        self._in_force = bool(document) and document.get("known", True) is True
        self._steady = steady

    def saw(self, side: Side, ahead: float | None, *, within: float = 0.0) -> bool:
        """A server's clock was looked at.

        Args:
            side: whose.
            ahead: it is so many seconds ahead of ours; None: it does not tell.
            within: seconds by which that may be off, since it was asked over a network.

        Returns:
            Whether another shift is added to expiries from now on than to earlier ones.
        """
        self._ahead[side] = ahead or 0.0
        if self._ahead[side] > _WORTH:
            self._latest[side] = max(self._latest[side], int((time.time() + self._ahead[side]) * 1000))
        ours, known = time.time() - self._steady(), side in self._seen
        self._seen[side] = None if ahead is None else _Seen(ahead + ours, within)
        if len(self._seen) < len(self._ahead):
            return False
        before = self._shift.ms
        self._measure(_Seen(ours, 0.0))
        changed = self._in_force and self._shift.ms != before
        if changed:
            self._former.pop(self._shift.ms, None)
            self._former[before] = side == "hub" or not known
            self._former = dict(list(self._former.items())[-_MOST_FORMER:])
        self._in_force = True
        return changed

    def _measure(self, ours: _Seen) -> None:
        """Both clocks were seen; of a site that does not tell we take it that it has our clock."""
        site, hub = self._seen["site"] or ours, self._seen["hub"]
        if hub is None:
            return
        apart = hub.ahead - site.ahead
        if abs(apart - self._shift.ms / 1000) > CLOCK_TOLERANCE + site.within + hub.within:
            self._shift.ms = round(apart) * 1000 if abs(apart) > CLOCK_TOLERANCE else 0

    @property
    def known(self) -> bool:
        """Whether both clocks were looked at, by this process or one before it."""
        return self._in_force

    @property
    def off_by(self) -> frozenset[int]:
        """By how many milliseconds expiries may seem to be off which the hub has had since before its clock was set."""
        return frozenset(ms - self._shift.ms for ms, of_hub in self._former.items() if of_hub)

    def expired(self, side: Side) -> None:
        """A server removed a key that was to expire: whatever our clock is worth, it may be set back too."""
        self._latest[side] = max(self._latest[side], int((time.time() + max(0.0, self._ahead[side])) * 1000))

    def latest_ms(self, side: Side, read_at_ms: float = 0.0) -> float:
        """What was to expire by then, in the site's time, this server may have let expire.

        Args:
            side: which.
            read_at_ms: its clock shows at least this.
        """
        now = time.time()
        shown = max(self._latest[side], (now + self._ahead[side]) * 1000, read_at_ms)
        least = min([self._shift.ms, *self._former]) if side == "hub" else 0
        return max(shown - least, now * 1000)

    def earliest_ms(self, side: Side) -> float:
        """What was to expire by then, in the site's time, this server has let expire for sure."""
        shown = (time.time() + self._ahead[side] - CLOCK_TOLERANCE) * 1000
        return shown - (max([self._shift.ms, *self._former]) if side == "hub" else 0)

    def saved(self) -> dict[str, object]:
        """For the next process."""
        return {
            "site": self._latest["site"],
            "hub": self._latest["hub"],
            "known": self._in_force,
            "shift": self._shift.ms,
            "former": [list(one) for one in self._former.items()],
        }


def _former(saved: object) -> dict[int, bool]:
    found: dict[int, bool] = {}
    for one in saved if isinstance(saved, list) else ():
        match one:
            case [int(ms), bool(of_hub)]:
                found[ms] = of_hub
    return found


def _time(saved: object) -> int:
    return saved if isinstance(saved, int) else 0
