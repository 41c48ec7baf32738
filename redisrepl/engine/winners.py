"""Whose value replaces one of the other side, where nobody can tell which of the two is newer.

In: a verdict on a key or an element, and what is known of servers that went back. Out: the side that wins, and why it
is not known. Left to others: the verdict (`engine.reconcile`), keeping what loses (`engine.losers`).

What a server that went back holds may be older than what was agreed on, or a client may have written it since. The
other side wins. But unless it is known to have been there before, nobody else has it: so it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Literal, NamedTuple

from redisrepl.changes import State
from redisrepl.engine.reconcile import Circumstances, Digest, Verdict

__all__ = ["BOTH_CHANGED", "NEITHER", "ConflictWinner", "Lost", "Ruling", "WentBack", "ruling_on"]

ConflictWinner = Literal["hub", "site"]

BOTH_CHANGED = "changed on both sides"


class Ruling(NamedTuple):
    """Who wins.

    Attributes:
        winner: the side whose value replaces the other's.
        reason: why nobody can tell which of the two is newer.
    """

    winner: ConflictWinner
    reason: str = BOTH_CHANGED

    @property
    def verdict(self) -> Verdict:
        """What is to be done."""
        return Verdict.APPLY if self.winner == "hub" else Verdict.PUSH


class Lost(NamedTuple):
    """What is replaced, and will be kept.

    Attributes:
        ruling: who replaces it, and why that is not certain.
        value: it; of a collection, the elements.
    """

    ruling: Ruling
    value: State


def _nothing(_: bytes | None) -> Collection[Digest]:
    return ()


class WentBack(NamedTuple):
    """What is known of one key at servers that went back.

    Attributes:
        newer_at_site, newer_at_hub: elements that were written there since.
        past_of_site, past_of_hub: return what an element, or the key as a whole (None), is known to have been there
            before.
        agreed_before: returns what was ever agreed on there, as far back as that is remembered.
    """

    newer_at_site: Collection[bytes] = ()
    newer_at_hub: Collection[bytes] = ()
    past_of_site: Callable[[bytes | None], Collection[Digest]] = _nothing
    past_of_hub: Callable[[bytes | None], Collection[Digest]] = _nothing
    agreed_before: Callable[[bytes | None], Collection[Digest]] = _nothing

    def bears(self, about: Circumstances, name: bytes) -> Circumstances:
        """What bears on the verdict on an element."""
        if name not in self.newer_at_site and name not in self.newer_at_hub:
            return about
        return replace(
            about,
            site_lost=about.site_lost and name not in self.newer_at_site,
            hub_lost=about.hub_lost and name not in self.newer_at_hub,
        )


#: No server went back.
NEITHER = WentBack()


def ruling_on(
    verdict: Verdict,
    sides: tuple[Digest, Digest],
    known: Iterable[Digest],
    sent: Collection[Digest],
    name: bytes | None,
    policy: ConflictWinner,
    about: Circumstances,
    back: WentBack,
) -> Ruling | None:
    """Whose value replaces one of the other side that may be newer; None: nobody's does.

    Args:
        verdict: on a key, or on an element.
        sides: what site and hub hold there.
        known: what it is known to have been otherwise, such as what was agreed on.
        sent: what pushes of unknown outcome may have left at the hub; the site wrote it last.
        name: of the element; None: it is the key as a whole.
        policy: who wins where both have changed.
        about: what bore on the verdict.
        back: see `WentBack`.
    """
    site, hub = sides
    if verdict is Verdict.CONFLICT:
        older = back.agreed_before(name)
        if (site in older) != (hub in older):  # a server that went back, perhaps one of others, has brought it back
            return Ruling("hub" if site in older else "site")
        return Ruling(policy, "both sides went back" if about.site_lost and about.hub_lost else BOTH_CHANGED)
    if verdict is Verdict.APPLY and about.site_lost and site is not None:
        is_older = site not in sent and site in {*known, *back.past_of_site(name)}
        return None if is_older else Ruling("hub", "the site went back")
    if verdict is Verdict.PUSH and about.hub_lost and hub is not None:
        return None if hub in {*known, *sent, *back.past_of_hub(name)} else Ruling("site", "the hub went back")
    return None
