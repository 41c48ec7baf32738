"""Which collections have lost their expiry with their last element, and were filled anew before that was pushed.

In: changes about to be pushed. Out: the same, with the expiries that are gone. Left to others: all other expiries: the
site's stream tells them (`wire.commands`), or they are read with the value (`engine.pushes`).

A collection that loses its last element is removed, with its expiry; no command of the stream says so. If it is filled
anew before the change is pushed, the hub sees it lose elements and get others, and keeps the expiry. Where removals are
not replicated, it never sees it empty.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from redisrepl.changes import Change, ExpirySet, FieldsDeleted, HashSet
from redisrepl.engine.ancestor import Agreed

__all__ = ["Ancestors", "ExpirySource", "with_lost_expiries"]


class Ancestors(Protocol):
    """What both sides agreed on: `store.Store`."""

    async def lookup(self, keys: Sequence[bytes]) -> Mapping[bytes, Agreed]:
        """What is known of these keys."""


class ExpirySource(Protocol):
    """What is asked: `local.read.SiteReader`."""

    async def lasting(self, keys: Sequence[bytes]) -> Collection[bytes]:
        """Which of these keys are there and do not expire."""


async def with_lost_expiries(
    changes: Sequence[Change], kinds: frozenset[str], store: Ancestors, site: ExpirySource
) -> Sequence[Change]:
    """The changes, and behind those of a key that the site has no expiry for any more, that this is so.

    Args:
        changes: with their values, those of one key side by side.
        kinds: which of `changes.KINDS` are replicated.
        store: knows which keys are to expire at the hub.
        site: is read.
    """
    if "expire" not in kinds:
        return changes
    put = {change.key for change in changes if isinstance(change, HashSet) and change.type != "stream"}
    if put and "del" in kinds:
        put &= {c.key for c in changes if isinstance(c, FieldsDeleted) or (isinstance(c, HashSet) and c.emptied)}
    if not (put := put - {change.key for change in changes if isinstance(change, ExpirySet)}):
        return changes
    agreed = await store.lookup(sorted(put))
    expiring = [key for key, known in agreed.items() if known.expires_at_ms is not None]
    if not expiring:
        return changes
    return [*changes, *(ExpirySet(key, None) for key in await site.lasting(expiring))]
