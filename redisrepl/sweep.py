"""Both sides compared, key by key: rule 4 of convergence, and the way back after any gap.

In: pages of keys of both sides, and digests of what they hold. Out: the keys that differ and go on differing, healed by
the same rules as everything else. Left to others: pushing (`outbound`), fetching and applying (`inbound`).

Nothing is deleted by a sweep on a guess: that a key is missing on one side may mean that it was removed there, or that
it never arrived, and which of the two nobody knows after a gap. So what one side has alone is copied to the other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import stamina
import structlog

from redisrepl.changes import Deleted, State, Touch
from redisrepl.errors import RedisreplError
from redisrepl.inbound import Inbound
from redisrepl.namespaces import Namespaces
from redisrepl.observe.troubles import Trouble
from redisrepl.outbound import Outbound
from redisrepl.wire.digests import NO_KEY, digest

__all__ = ["Comparison", "ConflictWinner", "Difference", "Healing", "InitialSync", "Sweep"]

_log = structlog.get_logger("redisrepl")

ConflictWinner = Literal["hub", "site"]
InitialSync = Literal["both", "push", "pull", "none"]

#: Differing keys that are looked at a second time together.
_SECOND_LOOK = 10_000


@dataclass(frozen=True, slots=True)
class Difference:
    """A key that is not the same on both sides; a digest of `NO_KEY` says that it is missing there."""

    key: bytes
    site: bytes
    hub: bytes


class Hub(Protocol):
    """`remote.compare.HubComparer`."""

    def pages(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """The keys of a namespace."""

    async def digests(self, keys: Sequence[bytes]) -> list[bytes]:
        """Digests of what keys hold."""


class Site(Protocol):
    """`local.read.SiteReader`."""

    def pages(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """The keys of a namespace."""

    async def states(self, keys: Sequence[bytes]) -> list[State]:
        """What keys hold."""


class Comparison:
    """Finds the keys that differ.

    Args:
        site: one side.
        hub: the other.
        expiries: whether the expiry of hashes is compared.
        rate: keys per second, at most: a sweep must not disturb what is live.
        patience: seconds after which a difference is looked at again: what was merely on its way has then arrived.

    Attributes:
        compared: keys looked at, on either side.
    """

    def __init__(self, site: Site, hub: Hub, *, expiries: bool, rate: float, patience: float) -> None:
        self._site = site
        self._hub = hub
        self._expiries = expiries
        self._rate = rate
        self._patience = patience
        self.compared = 0

    async def differences(self, prefix: bytes) -> AsyncIterator[list[Difference]]:
        """Keys of a namespace that differ at both of two looks."""
        suspects: dict[bytes, None] = {}
        async for keys in self._suspects(prefix):
            suspects.update(dict.fromkeys(keys))
            if len(suspects) >= _SECOND_LOOK:
                yield await self._second_look(list(suspects))
                suspects.clear()
        if suspects:
            yield await self._second_look(list(suspects))

    async def _suspects(self, prefix: bytes) -> AsyncIterator[list[bytes]]:
        """Keys that differ at the first look.

        The keys of both sides are gone through, and each is compared whole: a key that one side had alone when its
        page was read may be on both a moment later, and different.
        """
        async for keys in self._paced(self._site.pages(prefix)):
            self.compared += len(keys)
            yield [difference.key for difference in await self._look(keys)]
        async for keys in self._paced(self._hub.pages(prefix)):
            differences = await self._look([key for key in keys if key.startswith(prefix)])
            self.compared += sum(difference.site == NO_KEY for difference in differences)
            yield [difference.key for difference in differences]

    async def _paced(self, pages: AsyncIterator[list[bytes]]) -> AsyncIterator[list[bytes]]:
        async for keys in pages:
            started = time.monotonic()
            yield keys
            await asyncio.sleep(max(0.0, len(keys) / self._rate - (time.monotonic() - started)))

    async def _second_look(self, keys: Sequence[bytes]) -> list[Difference]:
        await asyncio.sleep(self._patience)
        found: list[Difference] = []
        for start in range(0, len(keys), 500):
            found += await self._look(keys[start : start + 500])
        return found

    async def _look(self, keys: Sequence[bytes]) -> list[Difference]:
        if not keys:
            return []
        site_states, hub_digests = await asyncio.gather(self._site.states(keys), self._hub.digests(keys))
        pairs = zip(keys, site_states, hub_digests, strict=True)
        looks = (Difference(key, digest(state, expiries=self._expiries), hub) for key, state, hub in pairs)
        return [look for look in looks if look.site != look.hub]


@dataclass(frozen=True, slots=True)
class Healing:
    """How differences are made good.

    Attributes:
        outbound: pushes.
        inbound: pulls; None without `-rc`.
        winner: whose string, or field of a hash, stands where both sides have one.
        direction: which way anything is copied at all.
    """

    outbound: Outbound
    inbound: Inbound | None
    winner: ConflictWinner
    direction: InitialSync

    def heal(self, difference: Difference, *, removals: bool = False) -> None:
        """Have a difference made good; with `removals`, what the hub has alone is removed there."""
        key = difference.key
        if removals and difference.site == NO_KEY:
            self.outbound.add(Deleted(key))
            return
        if difference.site != NO_KEY and self.direction in {"both", "push"}:
            if self.winner == "site":
                self.outbound.add(Touch(key))
            else:
                self.outbound.seed(Touch(key))
        if difference.hub != NO_KEY and self.direction in {"both", "pull"} and self.inbound is not None:
            self.inbound.mark_dirty([key])


class Sweep:
    """Compares all namespaces when that is owed, and now and then.

    Args:
        comparison: finds differences.
        namespaces: what is compared.
        healing: what is done about them.
        period: seconds between sweeps that nothing asked for; 0: none.
        wake: called when there is something to push or pull.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.

    Attributes:
        runs: sweeps that came to their end.
        owed: why one is due; None if none is.
    """

    def __init__(
        self,
        comparison: Comparison,
        namespaces: Namespaces,
        healing: Healing,
        *,
        period: float,
        wake: Callable[[], None],
        retry: Mapping[str, Any],
    ) -> None:
        self._comparison = comparison
        self._namespaces = namespaces
        self._healing = healing
        self._period = period
        self._wake = wake
        self._retry = retry
        self._due = asyncio.Event()
        self.attached = asyncio.Event()  # the site's stream is followed: what a sweep finds there is then up to date
        self.trouble = Trouble("sweep")
        self.runs = 0
        self.owed: str | None = None
        self._removals = False

    def owe(self, reason: str, *, removals: bool = False) -> None:
        """Something may have been missed.

        Args:
            reason: why, for the log.
            removals: the site is known to have removed all that it does not hold now (`FLUSHALL`); then, and only then,
                what the hub has alone is removed there.
        """
        self.owed = self.owed or reason
        self._removals = self._removals or removals
        self._due.set()

    async def run(self) -> None:
        """Sweep whenever it is owed, for ever."""
        while True:
            try:
                async with asyncio.timeout(self._period or None):
                    await self._due.wait()
            except TimeoutError:
                self.owed = self.owed or "timer"
            async for attempt in stamina.retry_context(on=RedisreplError, **self._retry):
                with attempt:
                    await self.attached.wait()
                    await self._sweep()

    async def _sweep(self) -> None:
        self._due.clear()
        reason, self.owed = self.owed, None
        removals, self._removals = self._removals, False
        started, before, different = time.monotonic(), self._comparison.compared, 0
        try:
            for prefix in self._namespaces:
                async for differences in self._comparison.differences(prefix):
                    for difference in differences:
                        self._healing.heal(difference, removals=removals)
                    different += len(differences)
                    self._wake()
        except RedisreplError as error:
            self.owe(reason or "failed", removals=removals)
            self.trouble.failed(error)
            raise
        self.runs += 1
        self.trouble.succeeded()
        _log.info(
            "sweep.finished",
            reason=reason,
            compared=self._comparison.compared - before,
            different=different,
            duration_s=round(time.monotonic() - started, 2),
        )
