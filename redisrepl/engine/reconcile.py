"""The table that decides what to do with a key, or an element of one, of which three things are known.

In: what site and hub hold, and what both last agreed on (the ancestor), each by digest. Out: one verdict. Left to
others: which element of which key (`engine.plans`), what is known of a server's history (`engine.continuity`).

Invariants, each kept by the branch that names it:

- I8: a write is replaced only by a newer one, or by one that conflicts with it.
- I9: a removal is not undone, where removals are replicated.
- I10: a server that lost its data gets it back, and takes none from the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from enum import Enum

__all__ = ["ABSENT", "ORDINARY", "Circumstances", "Digest", "Verdict", "circumstances", "reconcile"]

#: By which the values of a key, or of an element, are compared; None: it is not there.
Digest = int | None
ABSENT: Digest = None


class Verdict(Enum):
    """What to do."""

    AGREE = "both hold the same: it becomes the ancestor"
    NOTHING = "leave both as they are"
    PUSH = "what the site holds goes to the hub"
    APPLY = "what the hub holds goes to the site"
    CONFLICT = "both changed: the policy decides, and the loser is kept"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else bears on the verdict on one key or element: expiry and losses differ from key to key.

    Attributes:
        removals: removals are replicated. Otherwise what one side lacks is copied back to it.
        site_lost, hub_lost: that server may hold something older than what was agreed, or nothing.
        site_evicts, hub_evicts: that server may have evicted keys: that it lacks one is no removal.
        expired: the ancestor had an expiry, which has passed: that a side lacks it is no removal either.
    """

    removals: bool = True
    site_lost: bool = False
    hub_lost: bool = False
    site_evicts: bool = False
    hub_evicts: bool = False
    expired: bool = False


#: Nothing but the ancestor bears on it.
ORDINARY = Circumstances()


def circumstances(
    base: Circumstances, agreed: int | None, *, now_ms: float, expiries: Iterable[int | None] = ()
) -> Circumstances:
    """What bears on the verdict on one key.

    Args:
        base: what is known already.
        agreed: the expiry that was agreed on; this and the others are Unix times in milliseconds.
        now_ms: what was to expire by then, a server may have let expire.
        expiries: of the values that the sides hold.
    """
    if agreed is None or agreed > now_ms:
        return base
    if any(later is None or later > now_ms for later in expiries):
        # It was given a later expiry, of which the other side has not heard, or written anew once it had expired.
        return replace(base, removals=False)
    return replace(base, expired=True)


def reconcile(
    ancestor: Digest,
    site: Digest,
    hub: Digest,
    intents: Collection[Digest] = (),
    about: Circumstances = ORDINARY,
    applied: Collection[Digest] = (),
) -> Verdict:
    """What to do with one key, or one element.

    Args:
        ancestor: what both sides last agreed on.
        site: what the site holds.
        hub: what the hub holds.
        intents: what pushes of unknown outcome may have left at the hub.
        about: see `Circumstances`.
        applied: what applies of unknown outcome may have left at the site; the hub had it then.
    """
    if site == hub:
        return Verdict.AGREE
    if about.site_lost or about.hub_lost:
        return _two_way(site, hub, about)
    if site in applied or (site == ancestor and hub in applied):
        # Nobody else changed the site, so the hub's state is the newer one.
        return _removed_at_hub(about) if hub is ABSENT else Verdict.APPLY
    if hub == ancestor or hub in intents or hub in applied:
        # Nobody else changed the hub, so the site's state is the newer one (I8), and its removal too (I9).
        if site is ABSENT:
            return _removed_at_site(about)
        return Verdict.PUSH
    if site == ancestor:
        if hub is ABSENT:
            return _removed_at_hub(about)
        return Verdict.APPLY
    if site is ABSENT:
        return Verdict.APPLY  # removed here, changed there: a value goes before a removal
    if hub is ABSENT:
        return Verdict.PUSH
    return Verdict.CONFLICT


def _two_way(site: Digest, hub: Digest, about: Circumstances) -> Verdict:
    """A server went back, or may have: all is copied, nothing removed, the one that has its history wins (I10)."""
    if hub is ABSENT:
        return Verdict.PUSH
    if site is ABSENT or not about.hub_lost:
        return Verdict.APPLY
    if not about.site_lost:
        return Verdict.PUSH
    return Verdict.CONFLICT


def _removed_at_site(about: Circumstances) -> Verdict:
    """The site lacks what the hub still holds as it was agreed."""
    if about.expired or about.site_evicts:
        return Verdict.NOTHING
    return Verdict.PUSH if about.removals else Verdict.APPLY


def _removed_at_hub(about: Circumstances) -> Verdict:
    """The hub lacks what the site still holds as it was agreed."""
    if about.expired or about.hub_evicts:
        return Verdict.NOTHING
    return Verdict.APPLY if about.removals else Verdict.PUSH
