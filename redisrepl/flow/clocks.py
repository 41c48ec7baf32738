"""What time each server is known to have shown: what was to expire by then, that server may have let expire by itself.

In: by how much its clock was seen to be ahead. Out: Unix times in milliseconds. Left to others: asking
(`local.history`, `remote.history`), what follows (`flow.jobs`, `flow.pushing`).

Expiries are replicated as the points in time that they are, so a server whose clock is wrong lets its own copies expire
too early or too late, and is right again as soon as its clock is. Until then, and after it, that it lacks such a key
says nothing of the other copies: each expires by the clock of its own server. The latest time that was seen is kept,
since a clock that was ahead may be set back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from redisrepl.engine.continuity import Side

__all__ = ["Clocks"]

#: Seconds by which a clock must be ahead for that to be worth writing down.
_WORTH = 0.1


class Clocks:
    """The clocks of site and hub.

    Args:
        latest: what was saved, in milliseconds, by side.
    """

    def __init__(self, latest: object = None) -> None:
        told: Mapping[object, object] = latest if isinstance(latest, dict) else {}
        self._latest: dict[Side, int] = {"site": _time(told.get("site")), "hub": _time(told.get("hub"))}
        self._ahead: dict[Side, float] = {"site": 0.0, "hub": 0.0}

    def saw(self, side: Side, ahead: float | None) -> None:
        """A server's clock is so many seconds ahead of ours; None: it does not tell."""
        self._ahead[side] = ahead = ahead or 0.0
        if ahead > _WORTH:
            self._latest[side] = max(self._latest[side], int((time.time() + ahead) * 1000))

    def expired(self, side: Side) -> None:
        """A server removed a key that was to expire: whatever our clock is worth, it may be set back too."""
        self._latest[side] = max(self._latest[side], int(self.latest_ms(side)))

    def latest_ms(self, side: Side) -> float:
        """What was to expire by then, this server may have let expire."""
        return max(self._latest[side], (time.time() + max(0.0, self._ahead[side])) * 1000)

    def saved(self) -> dict[Side, int]:
        """For the next process."""
        return dict(self._latest)


def _time(told: object) -> int:
    return told if isinstance(told, int) else 0
