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
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol

from redisrepl.changes import DENIED, Change, FieldsDeleted, HashSet, State, Touch
from redisrepl.errors import HubError, KeyDeniedError, OutcomeUnknownError, RedisreplError
from redisrepl.merging import size_of
from redisrepl.observe.troubles import Trouble
from redisrepl.outbound import Batch, Outbound, settle
from redisrepl.pacing import Pacer
from redisrepl.remote.push import Pushed
from redisrepl.repeating import repeat

__all__ = ["Pushing"]

#: Seconds for which a hub may ask us to stay away at most; after that it is asked again whatever it said.
_LONGEST_HOLD = 300.0
_UNREADABLE = "the site does not let us read it"
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

    async def first_states(self, keys: Sequence[bytes], max_bytes: int) -> list[State]:
        """What the first of these keys hold, until so many bytes are read."""

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
        self.wake()

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
        await repeat(self._push_batch, self._retry)

    async def _departure(self) -> Batch:
        """The next batch, once it may leave."""
        outbound = self.outbound
        while True:
            now, ready = time.monotonic(), outbound.ready
            delay = self._pacer.delay(ready, now, outbound.unheard) if ready else math.inf
            if not delay:
                batch = outbound.take(self._max_keys, self._hub.max_body * 15 // 16)  # the rest is for what escapes add
                if batch.changes:
                    return batch
                delay = math.inf  # each key that waits is on its way as a seed
            self._work.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if delay == math.inf else delay):
                    await self._work.wait()

    async def _push_batch(self) -> None:
        outbound, pacer = self.outbound, self._pacer
        async with self._turn:  # one waits for work, the others for their turn: news wakes one
            batch = await self._departure()
            pacer.left(len(batch.changes), time.monotonic())
        try:
            batch, changes = await self._resolve(batch)
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

    async def _resolve(self, batch: Batch) -> tuple[Batch, Sequence[Change]]:
        """The changes of a batch with the values that they only name, read from the site; and what is left of it.

        Keys of which nobody knew how large they are, and that would make more than one request, wait for the next.
        """
        if {Touch, HashSet}.isdisjoint(map(type, batch.changes)):
            return batch, batch.changes
        most = self._hub.max_body
        touched = list(dict.fromkeys(change.key for change in batch.changes if isinstance(change, Touch)))
        states = dict(zip(touched, await self._site.first_states(touched, most) if touched else (), strict=False))
        late: set[bytes] = set(touched[len(states) :])
        resolved: list[Change] = []
        size = 0
        for key, of_key in groupby(batch.changes, attrgetter("key")):
            if key in late or size > most:
                late.add(key)
                continue
            ready = [piece for change in of_key for piece in await self._settled(change, states.get(key))]
            size += sum(map(size_of, ready))
            resolved += ready
        return (self.outbound.shortened(batch, late) if late else batch), resolved

    async def _settled(self, change: Change, state: State) -> Sequence[Change]:
        """A change with its values; `state` is what the key of a touch holds."""
        kinds = self.outbound.kinds
        match change:
            case Touch(key):
                if state is DENIED:
                    self.outbound.given_up(key, _UNREADABLE)
                return settle(change, state, kinds)
            case HashSet(key, fields) if None in fields.values():
                names = [field for field, value in fields.items() if value is None]
                try:
                    values = await self._site.fields(key, names)
                except KeyDeniedError:
                    self.outbound.given_up(key, _UNREADABLE)
                    return ()
                read = dict(zip(names, values, strict=True))
                gone = tuple(field for field, value in read.items() if value is None) if "del" in kinds else ()
                return [HashSet(key, {**fields, **read}), *([FieldsDeleted(key, gone)] if gone else [])]
            case _:
                return [change]
