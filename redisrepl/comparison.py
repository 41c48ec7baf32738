"""Both sides compared, key by key: which keys differ, and go on differing.

In: pages of keys of both sides, and digests of what they hold. Out: differences. Left to others: when to compare
(`sweep`), and what is done about a difference (`healing`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from redisrepl.changes import State
from redisrepl.healing import Difference
from redisrepl.wire.digests import NO_KEY, alike, digest

__all__ = ["Comparison", "Place"]

#: Differing keys that wait for their second look together.
_SECOND_LOOK = 10_000
#: Keys that a server goes through for one page; those of other namespaces among them cost a tenth of one compared.
_PAGE = 500
_SCANNED = 0.1
#: Bytes of the site's values that are held at a time.
_TOGETHER = 8 << 20


class Hub(Protocol):
    """`remote.compare.HubComparer`."""

    async def page(self, prefix: bytes, cursor: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """Keys of a namespace, from `0` on, and where to go on: `0` is the end. Some may come twice."""

    async def digests(self, keys: Sequence[bytes]) -> list[bytes]:
        """Digests of what keys hold."""


class Site(Protocol):
    """`local.read.SiteReader`."""

    async def page(self, prefix: bytes, cursor: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """Keys of a namespace, from `0` on, and where to go on: `0` is the end. Some may come twice."""

    async def first_states(self, keys: Sequence[bytes], max_bytes: int) -> list[State]:
        """What the first of these keys hold, until so many bytes are read."""


async def _nothing() -> None:
    """Where a difference is only told, and not healed."""


@dataclass(slots=True)
class Place:
    """How far the comparison of a namespace has come.

    Attributes:
        cursor: where the next page begins.
        at_hub: the site's keys are done, the hub's are gone through.
        complete: so are these.
        suspects: keys that differed at their first look, and how.
        begun: how often the site's keys were begun with.
    """

    cursor: bytes = b"0"
    at_hub: bool = False
    complete: bool = False
    suspects: dict[bytes, Difference] = field(default_factory=dict)
    begun: int = 1

    def advance(self, cursor: bytes) -> None:
        """A page was compared."""
        self.cursor = cursor
        if cursor == b"0":
            self.complete, self.at_hub = self.at_hub, True

    def begin_site_again(self) -> None:
        """The site may be another server now, and a cursor of the old one would leave keys out."""
        self.begun += 1
        if not self.at_hub:
            self.cursor = b"0"


class Comparison:
    """Finds the keys that differ.

    Args:
        site: one side.
        hub: the other.
        expiries: whether expiries are compared.
        rate: keys per second, at most: a sweep must not disturb what is live.
        patience: seconds after which a difference is looked at again: what was merely on its way has then arrived.
        before_telling: called before it is said that keys differ.

    Attributes:
        compared: keys looked at, on either side.
    """

    def __init__(
        self,
        site: Site,
        hub: Hub,
        *,
        expiries: bool,
        rate: float,
        patience: float,
        before_telling: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self._site = site
        self._hub = hub
        self._expiries = expiries
        self._rate = rate
        self._patience = patience
        self._before_telling = before_telling
        self.compared = 0

    async def differences(self, prefix: bytes, place: Place | None = None) -> AsyncIterator[list[Difference]]:
        """Keys of a namespace that differ at both of two looks.

        The keys of both sides are gone through, and each is compared whole: a key that one side had alone when its
        page was read may be on both a moment later, and different.

        Args:
            prefix: the namespace.
            place: where to begin; moved on with every page, so that it is where to go on after a failure.
        """
        place = place or Place()
        while not place.complete:
            await self._compare_page(prefix, place)
            if len(place.suspects) >= _SECOND_LOOK:
                async for found in self._second_looks(place):
                    yield found
        async for found in self._second_looks(place):
            yield found

    async def _compare_page(self, prefix: bytes, place: Place) -> None:
        started, begun = time.monotonic(), place.begun
        at_hub = place.at_hub
        cursor, keys = await (self._hub if at_hub else self._site).page(prefix, place.cursor, _PAGE)
        looks = await self._look([key for key in keys if key.startswith(prefix)])
        self.compared += sum(look.site == NO_KEY for look in looks) if at_hub else len(keys)
        place.suspects.update((look.key, look) for look in looks)
        if begun == place.begun or at_hub:
            place.advance(cursor)
        await self._pace(len(keys) + _SCANNED * _PAGE, started)

    async def _second_looks(self, place: Place) -> AsyncIterator[list[Difference]]:
        if place.suspects:
            await asyncio.sleep(self._patience)
        while place.suspects:
            started = time.monotonic()
            keys = list(place.suspects)[:_PAGE]
            found = await self._look(keys)
            if found:
                await self._before_telling()
            before = {key: place.suspects.pop(key) for key in keys}
            yield [replace(look, steady=look == before[look.key]) for look in found]
            await self._pace(len(keys), started)

    async def _pace(self, keys: float, started: float) -> None:
        await asyncio.sleep(max(0.0, keys / self._rate - (time.monotonic() - started)))

    async def _look(self, keys: Sequence[bytes]) -> list[Difference]:
        if not keys:
            return []
        site, hub = await asyncio.gather(self._site_digests(keys), self._hub.digests(keys))
        looks = map(Difference, keys, site, hub)
        return [look for look in looks if not alike(look.site, look.hub)]

    async def _site_digests(self, keys: Sequence[bytes]) -> list[bytes]:
        """Of what keys hold, which as a whole may be more than memory is for."""
        digests: list[bytes] = []
        while len(digests) < len(keys):
            states = await self._site.first_states(keys[len(digests) :], _TOGETHER)
            digests += [digest(state, expiries=self._expiries) for state in states]
        return digests
