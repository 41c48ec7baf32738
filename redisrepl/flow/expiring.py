"""Pushes of keys and fields that the hub may have let expire by itself, or will.

In: changes about to be pushed, what the site holds, what was agreed on. Out: the changes without those whose keys have
to be looked at first, which are put in doubt; what the hub may hold where an agreed expiry has passed. Left to others:
which expiries are gone with a collection (`flow.lasting`), what is pushed of a key in doubt (`engine.conditional`).

The stream of a site tells alike whether a key was removed or has expired. The latter says nothing of a value that
others wrote at the hub meanwhile, nor, by the clock of the site, of when it expires there. And a key that was given
another expiry may have expired at the hub before it hears of that: then the hub needs all of it, not its expiry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from redisrepl.changes import Change, Deleted, ExpirySet, FieldsDeleted, HashSet, SequenceSet, State, StringSet
from redisrepl.engine.ancestor import NOTHING_AGREED, Agreed, named_in
from redisrepl.engine.outbound import Outbound
from redisrepl.flow.clocks import Clocks
from redisrepl.store import Facts, Store
from redisrepl.wire.fieldtimes import may_expire

__all__ = ["Expiring"]

#: Milliseconds that a push may be under way to the hub.
_UNDER_WAY = 10_000
#: Keys that are remembered until the hub has let them expire too, and elements of each of them.
_MOST_LEFT = 10_000
_MOST_ELEMENTS = 1_000


class Expiring:
    """What bears on the expiries of what is pushed.

    Args:
        outbound: takes what is in doubt.
        store: what is agreed on.
        clocks: of both servers.
    """

    def __init__(self, outbound: Outbound, store: Store, clocks: Clocks) -> None:
        self._outbound = outbound
        self._store = store
        self._clocks = clocks
        self._left = dict[bytes, Agreed]()  # keys that expired at the site, and may be at the hub still

    async def without(self, changes: Sequence[Change], *, fields: bool) -> Sequence[Change]:
        """What is left once keys are put in doubt that were removed or given another expiry, and may have expired.

        Args:
            changes: with their values, those of one key side by side.
            fields: whether expiries of fields are replicated.
        """
        removed = {change.key for change in {c.key: c for c in changes}.values() if type(change) is Deleted}
        whole = {change.key for change in changes if isinstance(change, StringSet | SequenceSet)}
        asked = removed | {change.key for change in changes if type(change) is ExpirySet} - whole
        if self._left and (anew := self._filled_anew({change.key for change in changes} - removed - whole)):
            for key in anew:
                self._outbound.doubt(key)
            changes = [change for change in changes if change.key not in anew]
            asked -= anew
        if asked:
            agreed, by_then = await self._store.lookup(list(asked)), self._at_hub_ms()
            expiring = {
                key
                for key, known in agreed.items()
                if known.expires_at_ms is not None and (key in removed or known.expires_at_ms <= by_then)
            }
            for key in expiring:
                self._outbound.doubt(key)
            changes = [change for change in changes if change.key not in expiring]
        return await self._without_fields(changes) if fields else changes

    def _filled_anew(self, keys: set[bytes]) -> set[bytes]:
        """Those of these of which the hub may hold a former key: what it holds is compared with that, and replaced."""
        past = self._clocks.earliest_ms("hub")
        while self._left and (next(iter(self._left.values())).expires_at_ms or 0) <= past:  # about in this order
            self._left.pop(next(iter(self._left)))
        return keys & self._left.keys()

    def _left_at_hub(self, states: Mapping[bytes, State], ancestors: Mapping[bytes, Agreed]) -> dict[bytes, Agreed]:
        """Of keys that were filled anew since they expired at the site: what the hub may hold."""
        found = dict[bytes, Agreed]()
        for key in self._filled_anew({key for key, state in states.items() if state is not None}):
            known, left = ancestors.get(key, NOTHING_AGREED), self._left[key].or_gone()
            if known.digest is not None:  # that is at the hub by now
                del self._left[key]
                continue
            elements = {
                name: (*left.element_intents.get(name, ()), *known.element_intents.get(name, ()))
                for name in left.element_intents.keys() | known.element_intents.keys()
            }
            found[key] = replace(left, intents=(*left.intents, *known.intents), element_intents=elements)
        return found

    async def _without_fields(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Likewise fields that were removed."""
        removals = [c for c in changes if isinstance(c, FieldsDeleted) and c.type == "hash"]
        if not removals:
            return changes
        agreed = await self._store.lookup([c.key for c in removals], elements=True, names=named_in(removals))
        left: list[Change] = []
        for change in changes:
            if not (isinstance(change, FieldsDeleted) and change.type == "hash" and change.key in agreed):
                left.append(change)
                continue
            elements = agreed[change.key].elements or {}
            expiring = {name for name in change.fields if may_expire(elements.get(name, 0))}
            if expiring:
                self._outbound.doubt(change.key, HashSet(change.key, dict.fromkeys(expiring)))
            if removed := tuple(name for name in change.fields if name not in expiring):
                left.append(FieldsDeleted(change.key, removed))
        return left

    def where_passed(self, states: dict[bytes, State], ancestors: Mapping[bytes, Agreed]) -> Mapping[bytes, Agreed]:
        """What the hub may hold of keys in doubt: what was agreed on or, where that was to expire, nothing.

        Args:
            states: what the site holds. What it lacks since it was to expire is taken out: the hub lets its own expire.
                Nothing is agreed on about such a key any more, so what is written there has nothing of that expiry.
            ancestors: what was agreed on.
        """
        gone, may_be_gone = Facts(), self._left_at_hub(states, ancestors)
        at_site, at_hub = self._clocks.latest_ms("site"), self._at_hub_ms()
        for key, known in ancestors.items():
            expires_at_ms, lacks = known.expires_at_ms, states.get(key, "unread") is None
            if expires_at_ms is None or expires_at_ms > (at_site if lacks else at_hub):
                continue
            if lacks:
                del states[key]
                gone.gone(key)
                if len(self._left) < _MOST_LEFT and len(known.elements or ()) <= _MOST_ELEMENTS:
                    self._left[key] = known
            else:
                may_be_gone[key] = known.or_gone()
        if gone:
            self._clocks.expired("site")
            self._store.agreed(gone)
        return {**ancestors, **may_be_gone} if may_be_gone else ancestors

    def _at_hub_ms(self) -> float:
        """What has expired at the hub by the time a push arrives there had an expiry before this."""
        return self._clocks.latest_ms("hub") + _UNDER_WAY
