"""Moves batches from `outbound` to the hub, several side by side, no key in two at a time.

In: what `outbound` has ready. Out: requests, and how they ended. Left to others: what to push (`outbound`), when a
batch may leave (`pacing`), how it is sent (`remote.push`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import stamina
import structlog

from redisrepl.changes import DENIED, Change, FieldsDeleted, HashSet, State, Touch
from redisrepl.errors import HubError, KeyDeniedError, OutcomeUnknownError, RedisreplError
from redisrepl.namespaces import printable
from redisrepl.observe.troubles import Trouble
from redisrepl.outbound import Outbound, settle
from redisrepl.pacing import Pacer
from redisrepl.remote.push import Pushed

__all__ = ["Pushing"]

#: Seconds for which a hub may ask us to stay away at most; after that it is asked again whatever it said.
_LONGEST_HOLD = 300.0
_log = structlog.get_logger("redisrepl")

_NOTHING = Pushed({}, 0)  # nothing was sent, so nothing is known of these keys that was not known before


class Hub(Protocol):
    """What sends: `remote.push.HubPusher`.

    Attributes:
        max_body: the largest request that it makes, in bytes.
    """

    max_body: int

    async def push(self, commands: Sequence[Sequence[bytes]]) -> Pushed:
        """Run these commands at the hub; return the error text of what was refused for good, by key."""


class Site(Protocol):
    """What is read before a push: `local.read.SiteReader`."""

    async def states(self, keys: Sequence[bytes]) -> list[State]:
        """What these keys hold."""

    async def fields(self, key: bytes, fields: Sequence[bytes]) -> list[bytes | None]:
        """What these fields of a hash hold, None where there is none."""


class Pushing:
    """Moves batches from `Outbound` to the hub.

    Args:
        outbound: decides.
        hub: sends.
        site: is read for values that the stream did not tell.
        pacer: when a batch may leave.
        max_keys: changes in a batch, at most.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.
    """

    def __init__(
        self,
        outbound: Outbound,
        hub: Hub,
        site: Site,
        pacer: Pacer,
        *,
        max_keys: int,
        retry: Mapping[str, Any],
    ) -> None:
        self.outbound = outbound
        self.trouble = Trouble("push")
        self._hub = hub
        self._site = site
        self._pacer = pacer
        self._max_keys = max_keys
        self._retry = retry
        self._turn = asyncio.Lock()
        self._work = asyncio.Event()
        self._returned = asyncio.Event()

    def wake(self) -> None:
        """There may be something to push."""
        self._work.set()

    def heard(self) -> None:
        """The hub said that something of what was pushed happened."""
        self._pacer.heard(time.monotonic())
        self._work.set()

    async def drained(self) -> None:
        """Return when everything that was read is at the hub."""
        while self.outbound.waiting:
            await self.returned()

    async def returned(self) -> None:
        """Return when the next batch came back, arrived or not."""
        self._returned.clear()
        await self._returned.wait()

    async def run(self) -> None:
        """Push for ever; any number of these may run side by side."""
        while True:
            async for attempt in stamina.retry_context(on=RedisreplError, **self._retry):
                with attempt:
                    await self._push_batch()
                    while attempt.num == 1:  # nothing failed: a new context for each batch would cost more than it
                        await self._push_batch()

    async def _departure(self) -> None:
        """Return when a batch may leave."""
        outbound = self.outbound
        while True:
            now, ready = time.monotonic(), outbound.ready
            delay = self._pacer.delay(ready, now, outbound.unheard) if ready else math.inf
            if not delay:
                return
            self._work.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if delay == math.inf else delay):
                    await self._work.wait()

    async def _push_batch(self) -> None:
        outbound, pacer = self.outbound, self._pacer
        async with self._turn:  # one waits for work, the others for their turn: news wakes one
            await self._departure()
            batch = outbound.take(self._max_keys, self._hub.max_body * 15 // 16)  # the rest is for what escapes add
            pacer.left(len(batch.changes), time.monotonic())
        try:
            changes = await self._resolve(batch.changes)
            commands = outbound.prepare(batch, changes, time.monotonic())
            outbound.counters.requests += 1
            pushed = await self._hub.push(commands) if commands else _NOTHING
        except RedisreplError as error:
            pacer.failed()
            if isinstance(error, HubError) and error.retry_after is not None:
                pacer.hold(time.monotonic() + min(error.retry_after, _LONGEST_HOLD))
            outbound.failed(batch, unknown=isinstance(error, OutcomeUnknownError))
            self.trouble.failed(error, pending_keys=outbound.waiting)
            raise
        except asyncio.CancelledError:
            pacer.failed()
            outbound.failed(batch, unknown=True)
            raise
        else:
            pacer.arrived()
            outbound.succeeded(batch, pushed.errors, pushed.time)
            self.trouble.succeeded(pending_keys=outbound.waiting)
        finally:
            self._returned.set()
            self.wake()

    async def _resolve(self, batch: Sequence[Change]) -> Sequence[Change]:
        """The batch with the values that it only names, read from the site."""
        if {Touch, HashSet}.isdisjoint(map(type, batch)):
            return batch
        touches = [change for change in batch if isinstance(change, Touch)]
        states = iter(await self._site.states([touch.key for touch in touches]) if touches else ())
        kinds = self.outbound.kinds
        resolved: list[Change] = []
        for change in batch:
            match change:
                case Touch(key):
                    if (state := next(states)) is DENIED:
                        self._unreadable(key)
                    resolved.extend(settle(change, state, kinds))
                case HashSet(key, fields) if None in fields.values():
                    names = [field for field, value in fields.items() if value is None]
                    try:
                        values = await self._site.fields(key, names)
                    except KeyDeniedError:
                        self._unreadable(key)
                        continue
                    read = dict(zip(names, values, strict=True))
                    resolved.append(HashSet(key, {**fields, **read}))
                    gone = tuple(field for field, value in read.items() if value is None)
                    if gone and "del" in kinds:
                        resolved.append(FieldsDeleted(key, gone))
                case _:
                    resolved.append(change)
        return resolved

    def _unreadable(self, key: bytes) -> None:
        self.outbound.counters.failed += 1
        _log.error("push.refused", key=printable(key), error="the site does not let us read it")
