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
    reckoned = _expiry_of(state)
    if known is None or not isinstance(reckoned, ReckonedExpiry) or abs(reckoned - known) > ReckonedExpiry.WITHIN:
        return state
    return _expiring(state, known)


def with_known_expiries(site: State, hub: State, agreed: int | None) -> tuple[State, State]:
    """Likewise both sides: what is known is the agreed expiry, and for the hub also the site's."""
    site = with_known_expiry(site, agreed)
    return site, with_known_expiry(with_known_expiry(hub, agreed), _expiry_of(site))


def by_the_clock_as_set(hub: State, agreed: int | None, off_by: Collection[int]) -> tuple[State, bool]:
    """What the hub holds; if its expiry dates from before a clock was set, with the agreed one. And whether it does."""
    expires_at_ms = _expiry_of(hub)
    if agreed is None or expires_at_ms is None or expires_at_ms - agreed not in off_by:
        return hub, False
    return _expiring(hub, agreed), True


def _expiry_of(state: State) -> int | None:
    return state.expires_at_ms if isinstance(state, StringState | HashState | SequenceState) else None


def _expiring(state: State, at_ms: int) -> State:
    return replace(state, expires_at_ms=at_ms) if isinstance(state, StringState | HashState | SequenceState) else state
