"""The expiry of a key, where a side tells another one than it has, or than it should have.

In: what a side holds, and the expiry that was agreed on; Unix times in milliseconds. Out: what it holds, with the
expiry by which it is to be compared. Left to others: what follows from a difference (`engine.plans`), by how much a
clock was set (`flow.clocks`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from redisrepl.changes import HashState, ReckonedExpiry, SequenceState, State, StringState

__all__ = ["by_the_clock_as_set", "with_known_expiries", "with_known_expiry"]


def with_known_expiry(state: State, known: int | None) -> State:
    """What a side holds, with the known expiry if its own was reckoned and may be that."""
    if known is None or not isinstance(state, StringState | HashState | SequenceState):
        return state
    reckoned = state.expires_at_ms
    if not isinstance(reckoned, ReckonedExpiry) or abs(reckoned - known) > ReckonedExpiry.WITHIN:
        return state
    return replace(state, expires_at_ms=known)


def with_known_expiries(site: State, hub: State, agreed: int | None) -> tuple[State, State]:
    """Likewise both sides: what is known is the agreed expiry, and for the hub also the site's."""
    site, hub = with_known_expiry(site, agreed), with_known_expiry(hub, agreed)
    if isinstance(site, StringState | HashState | SequenceState):
        hub = with_known_expiry(hub, site.expires_at_ms)
    return site, hub


def by_the_clock_as_set(hub: State, agreed: int | None, off_by: Collection[int]) -> tuple[State, bool]:
    """What the hub holds; if its expiry dates from before a clock was set, with the agreed one. And whether it does."""
    if agreed is None or not isinstance(hub, StringState | HashState | SequenceState) or hub.expires_at_ms is None:
        return hub, False
    if hub.expires_at_ms - agreed not in off_by:
        return hub, False
    return replace(hub, expires_at_ms=agreed), True
