"""Moves dirty keys from the hub to the site: fetch, compare, apply.

In: what `inbound` says is dirty. Out: writes at the site. Left to others: what may be applied (`inbound`), reading
the hub (`remote.fetch`) and the site (`local.read`), writing (`local.apply`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import stamina
import structlog

from redisrepl.changes import Change, State
from redisrepl.errors import RedisreplError
from redisrepl.inbound import Inbound, difference
from redisrepl.namespaces import printable
from redisrepl.observe.troubles import Trouble

__all__ = ["Applying"]

_log = structlog.get_logger("redisrepl")


class Hub(Protocol):
    """What is fetched from: `remote.fetch.HubReader`."""

    async def states(self, keys: Sequence[bytes]) -> dict[bytes, State]:
        """What the first of these keys hold; those that did not fit are left out."""


class Site(Protocol):
    """What is compared with: `local.read.SiteReader`."""

    async def states(self, keys: Sequence[bytes]) -> list[State]:
        """What these keys hold."""


class Writer(Protocol):
    """What applies: `local.apply.SiteWriter`."""

    async def apply(self, changes: Sequence[Change]) -> tuple[dict[int, str], int]:
        """Make changes happen; return errors by index and the replication offset after them."""


class Applying:
    """Moves dirty keys from the hub to the site.

    Args:
        inbound: decides.
        hub: is fetched from.
        site: is compared with.
        writer: applies.
        max_keys: keys in one fetch.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.
    """

    def __init__(
        self, inbound: Inbound, hub: Hub, site: Site, writer: Writer, *, max_keys: int, retry: Mapping[str, Any]
    ) -> None:
        self.inbound = inbound
        self.fetch_trouble = Trouble("fetch")
        self.apply_trouble = Trouble("apply")
        self._hub = hub
        self._site = site
        self._writer = writer
        self._max_keys = max_keys
        self._retry = retry
        self._work = asyncio.Event()
        self._settled = asyncio.Event()
        self.on_apply: Callable[[bytes, State, State], None] | None = None  # told the hub's state and the site's
        self.attached = asyncio.Event()  # the site's stream is followed: without it rules 1 and 2 are blind
        self._site_turn = asyncio.Lock()  # reading and writing a key at the site is one step

    def wake(self) -> None:
        """There may be a key to fetch."""
        self._work.set()

    async def idle(self) -> None:
        """Return when no key is left to be looked at."""
        while self.inbound.unsettled:
            self._settled.clear()
            await self._settled.wait()

    async def run(self) -> None:
        """Fetch and apply for ever; any number of these may run side by side."""
        while True:
            async for attempt in stamina.retry_context(on=RedisreplError, **self._retry):
                with attempt:
                    await self._fetch_batch()

    async def _fetch_batch(self) -> None:
        while not (self.attached.is_set() and (taken := self.inbound.take(self._max_keys))):
            self._work.clear()
            await self._work.wait()
        try:
            states = await self._hub.states(list(taken))
        except BaseException as error:
            self.inbound.untaken(taken)
            if isinstance(error, RedisreplError):
                self.fetch_trouble.failed(error, dirty_keys=len(self.inbound.dirty))
            raise
        self.fetch_trouble.succeeded()
        self.inbound.untaken({key: removal for key, removal in taken.items() if key not in states})
        try:
            async with self._site_turn:
                await self._apply(self.inbound.fetched(states, taken), taken)
        except RedisreplError as error:
            self.apply_trouble.failed(error, dirty_keys=len(self.inbound.dirty))
            raise
        self.apply_trouble.succeeded()
        self.wake()
        self._settled.set()

    async def _apply(self, states: Mapping[bytes, State], removals: Mapping[bytes, bool]) -> None:
        """Compare with the site, write what differs, expect its echo."""
        inbound = self.inbound
        keys = list(states)
        try:
            site_states = await self._site.states(keys) if keys else []
        except BaseException:
            inbound.untaken({key: removals[key] for key in keys})
            raise
        changes: list[Change] = []
        sent: dict[bytes, bool] = {}
        for key, site_state in zip(keys, site_states, strict=True):
            removal = removals[key]
            differing = difference(key, states[key], site_state, inbound.kinds, may_delete=removal)
            if inbound.about_to_apply(key, differing, removal=removal):
                changes += differing
                sent[key] = removal
                if self.on_apply is not None:
                    self.on_apply(key, states[key], site_state)
        if not changes:
            return
        try:
            errors, offset = await self._writer.apply(changes)
        except BaseException:
            inbound.not_applied(sent)
            raise
        for index, error in errors.items():
            key = changes[index].key
            inbound.refused(key)
            sent.pop(key, None)
            _log.error("apply.refused", key=printable(key), error=error)
        patience = inbound.echo_patience
        inbound.applied(sent, offset if patience is None else time.monotonic() + patience)
