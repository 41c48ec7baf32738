"""One side compared with the ancestor: which of its keys are not as both sides last agreed on.

In: sums and digests of what a side holds, and what was agreed on. Out: keys. Left to others: when to compare
(`flow.sweep`), what is done about a key that differs (`engine.core`).

First all keys are summed in 256 buckets, on the side and in the ancestor: of a million keys that are as they were, that
is a few megabytes and no key by name. Only in buckets whose sums differ are keys looked at one by one. Whatever is
found is looked at again before anything follows from it, so a key that changes meanwhile costs no more than that look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

from redisrepl.changes import expiries_differ
from redisrepl.engine.ancestor import Agreed
from redisrepl.wire.digests import BUCKETS, UNREADABLE, Look, Page, Summed, add_sums
from redisrepl.wire.scan import Scan

__all__ = ["Comparison", "Holder", "Remembered"]

#: Keys that a server goes through in one step.
_STEP = 500
#: A step through keys of other namespaces costs a tenth of what it costs to look at so many of ours.
_SCANNED = 0.1
#: At first contact everything is to be copied, so a server is gone through so many times as fast.
_FIRST = 4


class Holder(Protocol):
    """A side: `local.compare.SiteComparer`, `remote.compare.HubComparer`."""

    where: str  # which server that is, for messages

    async def sums(self, prefix: bytes, cursor: bytes, count: int, sums: list[int]) -> Summed:
        """Add the keys of one step of a scan to the sums of their buckets."""

    async def page(self, prefix: bytes, cursor: bytes, count: int, buckets: Collection[int] | None) -> Page:
        """Keys of a namespace, from cursor `0` on, in these buckets (None: all). Some may come twice."""

    async def looks(self, keys: Sequence[bytes]) -> list[Look]:
        """What these keys hold."""


class Remembered(Protocol):
    """What both sides last agreed on: `store.Store`."""

    @property
    def fresh(self) -> bool:
        """Nothing is agreed about any key."""

    async def lookup(self, keys: Sequence[bytes], *, elements: bool = False) -> Mapping[bytes, Agreed]:
        """What is agreed about these keys."""

    async def sums(self, prefix: bytes) -> list[int]:
        """For each bucket the sum of the digests of the prefix's keys."""

    def listed(self, prefix: bytes, buckets: Collection[int]) -> AsyncIterator[list[tuple[bytes, int]]]:
        """The prefix's keys in these buckets, with their digests."""


class Comparison:
    """Compares a side with the ancestor.

    Args:
        store: remembers the ancestor.
        expiries: whether expiries are compared.
        rate: keys per second, at most: a comparison must not disturb what is live.

    Attributes:
        compared: keys summed or looked at.
    """

    def __init__(self, store: Remembered, *, expiries: bool, rate: float) -> None:
        self._store = store
        self._expiries = expiries
        self._rate = rate
        self.compared = 0

    async def differing(self, side: Holder, prefix: bytes) -> AsyncIterator[tuple[list[bytes], list[bytes]]]:
        """Keys of a namespace that are not on this side as they were agreed on.

        Args:
            side: what is compared.
            prefix: the namespace.

        Yields:
            Keys that hold something else, of which some may come twice, and keys that are missing.
        """
        speed = _FIRST if self._store.fresh else 1
        buckets = await self._differing_buckets(side, prefix)
        if buckets is not None and not buckets:
            return
        found = [0] * BUCKETS  # sums of what is agreed about the keys that the side has
        scan = Scan(f"a scan of {side.where}")
        while True:
            started = time.monotonic()
            page = await side.page(prefix, scan.cursor, _STEP, buckets)
            looks = page.looks | dict(zip(page.left, await side.looks(page.left) if page.left else (), strict=True))
            looks = {key: look for key, look in looks.items() if key.startswith(prefix)}
            agreed = {} if self._store.fresh else await self._store.lookup(list(looks))
            add_sums(found, {key: Look(known.digest) for key, known in agreed.items()})
            differing = [key for key, look in looks.items() if self._differs(look, agreed.get(key))]
            if buckets is None:
                self.compared += len(looks)
            if differing:
                yield differing, []
            await self._pace(len(looks) + _SCANNED * _STEP, started, speed)
            if scan.ends(page.cursor):
                break
        if not self._store.fresh:
            async for differing, missing in self._not_seen(side, prefix, buckets, found):
                yield differing, missing

    def _differs(self, look: Look, agreed: Agreed | None) -> bool:
        if look.digest == UNREADABLE:
            return False
        if agreed is None:
            return look.digest is not None
        if look.digest != agreed.digest:
            return True
        if agreed.intents or agreed.element_intents or agreed.applied or agreed.element_applied:
            return True
        return self._expiries and expiries_differ(look.expires_at_ms, agreed.expires_at_ms)

    async def _differing_buckets(self, side: Holder, prefix: bytes) -> list[int] | None:
        """Buckets in which something is not as agreed; None: look at every key, sums do not tell."""
        if self._store.fresh or self._expiries:
            return None  # nothing is agreed, or expiries count, which sums do not cover
        sums = [0] * BUCKETS
        scan = Scan(f"a scan of {side.where}")
        while True:
            started = time.monotonic()
            step = await side.sums(prefix, scan.cursor, _STEP, sums)
            if step.left:
                looks = dict(zip(step.left, await side.looks(step.left), strict=True))
                add_sums(sums, looks)
            self.compared += step.keys
            await self._pace(step.keys + _SCANNED * _STEP, started)
            if scan.ends(step.cursor):
                break
        agreed = await self._store.sums(prefix)
        return [bucket for bucket in range(BUCKETS) if sums[bucket] != agreed[bucket]]

    async def _not_seen(
        self, side: Holder, prefix: bytes, buckets: Collection[int] | None, found: Sequence[int]
    ) -> AsyncIterator[tuple[list[bytes], list[bytes]]]:
        """As `differing`, of keys that were agreed on: those that the side has not.

        Or had not when it was gone through: a client may have written a field of what was lost.
        """
        sums = await self._store.sums(prefix)
        wanted = range(BUCKETS) if buckets is None else buckets
        lacking = [bucket for bucket in wanted if sums[bucket] != found[bucket]]
        if not lacking:
            return
        async for page in self._store.listed(prefix, lacking):
            started = time.monotonic()
            digests = dict(page)
            keys = list(digests)
            looks = dict(zip(keys, await side.looks(keys), strict=True))
            missing = [key for key, look in looks.items() if look.digest is None]
            self.compared += len(missing)  # which nothing has counted, since the side has not got them
            others = {key: look for key, look in looks.items() if look.digest not in {None, digests[key]}}
            agreed = await self._store.lookup(list(others)) if others else {}
            differing = [key for key, look in others.items() if self._differs(look, agreed.get(key))]
            if differing or missing:
                yield differing, missing
            await self._pace(len(keys), started)

    async def _pace(self, keys: float, started: float, speed: float = 1) -> None:
        await asyncio.sleep(max(0.0, keys / (speed * self._rate) - (time.monotonic() - started)))
