"""Writes of the site that the hub's values took the place of, after a gap in the site's history: each is named.

In: keys that are to be looked at, and what is applied. Out: the line `sweep.replaced` for each key, up to a bound, then
a count. Left to others: whose value stands (`outbound`, `sweep`), applying it (`applying`).

After such a gap nobody knows which of two values is newer. With `-rc` the hub's stands, so a write of the site may be
lost; what was lost has to be said. A value that replaces another because the hub announced it is simply newer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import structlog

from redisrepl.changes import HashState, State
from redisrepl.inbound import Inbound
from redisrepl.namespaces import printable

__all__ = ["Replacements", "replaces"]

_log = structlog.get_logger("redisrepl")


def replaces(hub: State, site: State) -> bool:
    """Whether something that the site holds is gone when it holds what the hub does; what is only added is no loss."""
    match hub, site:
        case (None, _) | (_, None):
            return False
        case HashState(fields), HashState(ours):
            return any(field in ours and ours[field] != value for field, value in fields.items())
        case _:
            return hub != site


class Replacements:
    """Passes on what is to be looked at, and remembers it while there is something to tell.

    Args:
        inbound: looks at keys.
        most: how many are named after one gap.

    Attributes:
        count: keys whose value was replaced, since the start.
        watching: there may be a gap, or one is being healed.
    """

    def __init__(self, inbound: Inbound, *, most: int = 1000) -> None:
        self.changed_at_site: Callable[[Iterable[bytes]], None] = inbound.changed_at_site
        self.pushed: Callable[[Collection[bytes], float], None] = inbound.pushed
        self.refused_at_hub: Callable[[bytes], None] = inbound.refused_at_hub
        self.holds: Callable[[bytes], bool] = inbound.holds
        self.removes: Callable[[bytes], bool] = inbound.removes
        self.counters = inbound.counters
        self._inbound = inbound
        self._most = most
        self._suspects: set[bytes] = set()
        self._gap = False
        self._since_gap = 0
        self.count = 0
        self.watching = False

    def watch(self) -> None:
        """The site's stream is lost: whether with a gap turns out later, but what differs then may be told before."""
        self.watching = True

    def gap(self) -> None:
        """A part of the site's history is not known; the last one may still be being healed."""
        self.watching = self._gap = True

    def no_gap(self) -> None:
        """The stream went on where it was; a gap before it may still be being healed."""
        if not self._gap:
            self.healed()

    def mark_dirty(self, keys: Iterable[bytes], *, removal: bool = False) -> None:
        """These differ, or may; whether something is known to be removed at the hub."""
        keys = list(keys)
        if self.watching:
            self._suspects.update(keys)
        self._inbound.mark_dirty(keys, removal=removal)

    def applying(self, key: bytes, hub: State, site: State) -> None:
        """The site is going to hold what the hub holds."""
        if key not in self._suspects:
            return
        self._suspects.remove(key)
        if not self._gap or not replaces(hub, site):
            return
        self.count += 1
        self._since_gap += 1
        if self._since_gap <= self._most:
            _log.warning("sweep.replaced", key=printable(key), by="the hub's value")

    def healed(self) -> None:
        """Everything was looked at."""
        if (more := self._since_gap - self._most) > 0:
            _log.warning("sweep.replaced", more_keys=more, by="the hub's values")
        self.watching = self._gap = False
        self._since_gap = 0
        self._suspects.clear()
