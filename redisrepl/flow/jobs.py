"""What is to be done with keys that `flow.applying` took: what the feed told, or what was fetched.

In: keys that are watched at the site. Out: what is to be applied to each, and what both sides agree on then. Left to
others: taking keys and applying (`flow.applying`), deciding (`engine.core`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from redisrepl.changes import Change, FieldsDeleted, HashSet, HashState, State
from redisrepl.engine.ancestor import Agreed, note_state
from redisrepl.engine.core import Core
from redisrepl.engine.plans import Plan
from redisrepl.errors import LinkLostError
from redisrepl.flow.clocks import Clocks
from redisrepl.flow.differences import difference, lacks, news_of
from redisrepl.local.apply import Applied
from redisrepl.store import Facts, Store
from redisrepl.wire.digests import DISPUTED
from redisrepl.wire.entries import LAST_ID, greater_id

__all__ = ["ApplyTarget", "FedJob", "FetchedJob", "Job", "Turn", "Writer"]

#: Fields from which on a hash is large: as many as a script copies while a round trip within a machine takes place.
_LARGE = 500
#: Likewise from which on it is not read by one command: `local.read` reads it in pages.
_VERY_LARGE = 5000
_NONE = frozenset[bytes]()


class ApplyTarget(Protocol):
    """What is compared with: `local.read.SiteReader`."""

    def request(self, keys: Sequence[bytes], large: frozenset[bytes]) -> Sequence[Sequence[bytes]]:
        """Commands that ask for it; `large` hashes one by one."""

    def part_request(self, key: bytes, kind: str, names: Sequence[bytes]) -> Sequence[Sequence[bytes]]:
        """Commands that ask for these elements of a collection."""

    def part(self, kind: str, names: Sequence[bytes], replies: Sequence[object]) -> HashState | None:
        """These elements, from the replies to that; None: it is no such collection, or that is not told."""

    def end_of(self, replies: Sequence[object]) -> tuple[bytes, int] | None:
        """The last id of a stream and how many entries it has, from the same replies; None: it is none."""

    async def states(self, keys: Sequence[bytes], replies: Sequence[object], large: frozenset[bytes]) -> list[State]:
        """What these keys hold, from the replies to that and, if need be, more."""


class Turn(Protocol):
    """Keys that are watched: `local.apply.Turn`."""

    @property
    def offset(self) -> int:
        """Of the site's stream: what is seen of the keys now stands before it."""

    @property
    def replies(self) -> Sequence[object]:
        """To what was read of the keys."""

    async def apply(self, changes: Sequence[Change]) -> Applied | None:
        """Make changes happen, unless a client changed one of the keys meanwhile (None)."""

    async def compare_and_set(self, changes: Sequence[HashSet | FieldsDeleted], held: HashState) -> Applied | None:
        """Likewise for fields of one hash, unless a client changed one of these fields."""


class Writer(Protocol):
    """What applies: `local.apply.SiteWriter`."""

    def turn(self, keys: Sequence[bytes], reads: Sequence[Sequence[bytes]]) -> AbstractAsyncContextManager[Turn]:
        """Watch keys, and run the commands that read them."""

    async def is_denied(self, key: bytes) -> bool:
        """Whether the site does not let us write this key."""


class Job(Protocol):
    """What is to be done with the keys that one round of `Applying` took."""

    final: bool  # what the site refuses is dropped, by name; otherwise it is fetched

    def request(self, keys: Sequence[bytes]) -> Sequence[Sequence[bytes]]:
        """Commands that read what must be known of these, run once they are watched."""

    async def changes(self, keys: Sequence[bytes], replies: Sequence[object]) -> Mapping[bytes, Sequence[Change]]:
        """What is to be applied to each of these, which are watched now; `replies`: to what was read of them."""

    def held(self, key: bytes) -> State:
        """What the site was seen to hold for this key; None: nothing, or it was not looked at."""

    def without(self, key: bytes, fields: Collection[bytes]) -> Sequence[Change] | None:
        """The changes of a key that leave these fields of a hash as they are; None: there are none such."""

    def agreed(self, key: bytes, facts: Facts) -> None:
        """Note what both sides hold of this key beside its changes."""

    def replaces(self, key: bytes, facts: Facts) -> None:
        """Note what the site holds that the changes of this key replace, if that was not agreed on; keep what loses."""

    def decided(self, key: bytes) -> None:
        """What was found out about this key is not stale, and nothing of it can fail any more but an apply."""


class FedJob:
    """What the feed told: it is applied as it is.

    Args:
        fed: by key.
        site: is asked first, and what would change nothing is left out; None: it is not. Where the site is followed by
            its events, another redisrepl beside it would take each apply for a client's write, and push it back.
    """

    final = False

    def __init__(self, fed: Mapping[bytes, Sequence[Change]], site: ApplyTarget | None) -> None:
        self._fed = fed
        self._site = site

    def request(self, keys: Sequence[bytes]) -> Sequence[Sequence[bytes]]:
        """See `Job.request`."""
        return () if self._site is None else self._site.request(keys, _NONE)

    async def changes(self, keys: Sequence[bytes], replies: Sequence[object]) -> Mapping[bytes, Sequence[Change]]:
        """See `Job.changes`."""
        if self._site is None:
            return self._fed
        states = await self._site.states(keys, replies, _NONE)
        return {key: news_of(self._fed[key], state) for key, state in zip(keys, states, strict=True)}

    def held(self, key: bytes) -> State:  # noqa: ARG002 - of no key
        """It is not looked at."""
        return None

    def without(self, key: bytes, fields: Collection[bytes]) -> Sequence[Change] | None:
        """See `Job.without`; what was told of a field that the site has changed is left to a fetch."""
        changes = self._fed[key]
        apart = (isinstance(c, HashSet | FieldsDeleted) and set(fields).isdisjoint(c.fields) for c in changes)
        return changes if all(apart) else None

    def agreed(self, key: bytes, facts: Facts) -> None:
        """There is nothing beside the apply."""

    def replaces(self, key: bytes, facts: Facts) -> None:
        """What was told is news only where all that the site holds was agreed on, or is on its way to the hub."""

    def decided(self, key: bytes) -> None:
        """Likewise."""


class FetchedJob:
    """What was fetched: compared with the site and, where that alone does not tell what to do, with the ancestor.

    Args:
        core: decides.
        site: is compared with.
        store: remembers the ancestor.
        same_hub, site_evicted: see `Applying`.
        states: what the hub holds, by key.
        suspect: which of the keys may have changed on both sides.
        read_at: the hub's time then, in microseconds; infinity: it did not tell.
        clocks: of both servers.

    Attributes:
        complete: of the one key that was fetched, the site holds all that the hub holds of it.
    """

    final = True

    def __init__(  # noqa: PLR0913, PLR0917 - what it is made of
        self,
        core: Core,
        site: ApplyTarget,
        store: Store,
        same_hub: Callable[[], Awaitable[bool]],
        site_evicted: Callable[[], Awaitable[bool]],
        states: Mapping[bytes, State],
        suspect: Mapping[bytes, bool],
        read_at: float = math.inf,
        clocks: Clocks | None = None,
    ) -> None:
        self._clocks = clocks or Clocks()
        self._core = core
        self._site = site
        self._store = store
        self._same_hub = same_hub
        self._site_evicted = site_evicted
        self._read_at_ms = 0.0 if read_at == math.inf else read_at / 1000
        self._states = states
        self._suspect = suspect
        self._held: dict[bytes, State] = {}
        self._ancestors: Mapping[bytes, Agreed] = {}
        self._plans: dict[bytes, Plan] = {}
        self.complete = False
        self._whole = True
        self._large = frozenset(
            key
            for key, state in states.items()
            if isinstance(state, HashState) and state.type == "hash" and _LARGE <= len(state.fields) < _VERY_LARGE
        )

    def request(self, keys: Sequence[bytes]) -> Sequence[Sequence[bytes]]:
        """See `Job.request`."""
        return self._site.request(keys, self._large)

    async def _held_by_site(self, keys: Sequence[bytes], replies: Sequence[object]) -> Sequence[State]:
        return await self._site.states(keys, replies, self._large)

    async def _lookup(self, keys: Sequence[bytes]) -> Mapping[bytes, Agreed]:
        return await self._store.lookup(keys, elements=True)

    async def changes(self, keys: Sequence[bytes], replies: Sequence[object]) -> Mapping[bytes, Sequence[Change]]:
        """See `Job.changes`."""
        core, states = self._core, self._states
        self._held = held = dict(zip(keys, await self._held_by_site(keys, replies), strict=True))
        asked = [k for k in keys if core.must_ask(k, suspect=self._suspect[k]) or lacks(states[k], held[k])]
        lacking = [key for key in asked if lacks(states[key], held[key])]
        if lacking and not await self._same_hub():
            raise LinkLostError("the hub is not the server any more that it was: nothing is removed for what it lacks")
        self._ancestors = ancestors = await self._lookup(asked) if asked else {}
        if any(held[key] is None and key in ancestors for key in asked):
            await self._site_evicted()  # as of now, `Core.plan` knows
        for key in asked:
            self._plans[key] = core.plan(key, held[key], states[key], ancestors.get(key), self._now_ms(key))
        kinds = core.policy.kinds
        return {
            key: self._plans[key].apply if key in self._plans else difference(key, states[key], held[key], kinds)
            for key in keys
        }

    def _now_ms(self, key: bytes) -> float:
        """A server whose clock is ahead has let keys expire that were not removed: the other's go in their own time."""
        if self._states[key] is None:
            return self._clocks.latest_ms("hub", self._read_at_ms)
        return self._clocks.latest_ms("site")

    def held(self, key: bytes) -> State:
        """See `Job.held`."""
        return self._held.get(key)

    def without(self, key: bytes, fields: Collection[bytes]) -> Sequence[Change] | None:
        """See `Job.without`."""
        self._whole = False
        core, site, hub = self._core, self._held[key], self._states[key]
        if not (isinstance(site, HashState) and isinstance(hub, HashState) and site.type == hub.type):
            return None
        whole = site.type == "stream" and LAST_ID in hub.fields  # not so some of its entries
        if whole and greater_id(site.fields[LAST_ID], hub.fields[LAST_ID]) != site.fields[LAST_ID]:
            fields = {*fields} - {LAST_ID}  # the site has added entries, but the hub later ones
        if key not in self._plans:
            return difference(key, hub.without(fields), site.without(fields), core.policy.kinds)
        plan = core.plan(key, site, hub, self._ancestors.get(key), self._now_ms(key), without=fields)
        if plan.disputed:
            return None  # that concerns the key as a whole
        self._plans[key] = plan
        return plan.apply

    def agreed(self, key: bytes, facts: Facts) -> None:
        """See `Job.agreed`."""
        plan = self._plans.get(key)
        if plan is None:
            return
        if plan.disputed:
            facts.string(key, DISPUTED, None)
        if plan.agreed != "nothing":
            note_state(facts, key, plan.agreed, plan.type)
        if plan.expiry != "nothing":
            facts.expiry(key, plan.expiry)

    def replaces(self, key: bytes, facts: Facts) -> None:
        """See `Job.replaces`."""
        if (plan := self._plans.get(key)) is None:
            return
        if plan.replaced != "nothing":
            note_state(facts, key, plan.replaced, plan.type)
        self._core.apply_planned(plan)

    def decided(self, key: bytes) -> None:
        """See `Job.decided`."""
        self.complete = self._whole
        if (plan := self._plans.get(key)) is not None:
            self._core.push_planned(plan)
