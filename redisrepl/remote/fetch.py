"""Fetches what keys hold at the hub, many in one request.

In: keys. Out: states. Left to others: which keys, and what to do with the states (`engine.inbound`, `flow.applying`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from redisrepl.changes import (
    DENIED,
    HashState,
    LargeState,
    ReckonedExpiry,
    SequenceState,
    State,
    StringState,
    expiry_ms,
)
from redisrepl.errors import CommandRefusedError, OutcomeUnknownError, ProtocolError, denies_key
from redisrepl.namespaces import glob_escape
from redisrepl.remote.hub import Hub
from redisrepl.remote.refusals import refuses_scripts, unready
from redisrepl.scripts import Scripts
from redisrepl.wire.collections import COLLECTIONS, READABLE_SINGLY, elements_in, extra_types
from redisrepl.wire.fieldtimes import question_of_times, with_times
from redisrepl.wire.states import STATES_SCRIPT, parse_fetch
from redisrepl.wire.unwanted import MAX_VALUE

__all__ = ["Fetched", "HubReader"]

#: Fields of which one command reads the expiries.
_NAMES = 1000
#: Keys read at a time without scripts, where nothing bounds the size of their replies.
_FEW = 50
#: The smallest limit for a reply, and by how much the limit grows after each reply that arrived in time.
_LEAST_BYTES = 16 << 10


class Fetched(NamedTuple):
    """What keys held at the hub.

    Attributes:
        states: by key.
        time: of the hub, in microseconds, when it read all of them in one step; infinity where scripts or TIME are
            refused.
        large: collections that were not read.
    """

    states: dict[bytes, State]
    time: float
    large: Mapping[bytes, LargeState] = {}


class HubReader:
    """Reads the hub.

    If a reply does not arrive in time, the next request asks for less: over a slow link, parallel fetches would
    otherwise time out again and again.

    Args:
        hub: the hub to read.
        max_bytes: bytes of a reply after which the remaining keys are left for another.
        max_value: larger values are not read: their state is `wire.states.TOO_LARGE`.
        types: the types of collection to read beside hashes.
        clock: seconds, for when refused scripts are tried again.

    Attributes:
        scripts: runs the script, and knows whether the hub allows it.
    """

    def __init__(
        self,
        hub: Hub,
        max_bytes: int = 2 << 20,
        *,
        max_value: int = MAX_VALUE,
        types: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self.scripts = Scripts(hub.eval, refuses_scripts, clock=clock)
        self._max_value = max_value
        self._types = sorted(set(types) & READABLE_SINGLY.keys() - {"hash"})
        self._others = extra_types(types)
        self._most_bytes = self._max_bytes = max_bytes
        self._lets_us = False  # whether it has let us read the last keys that were read without scripts

    async def states(self, keys: Sequence[bytes], *, large: int = 0) -> Fetched:
        """What these keys hold. Keys that do not fit into one reply are left out, but never the first.

        Args:
            keys: in their order.
            large: collections of more elements are not read if a script can tell how many there are; 0: all are.
        """
        if self.scripts.worth_trying:
            try:
                with unready("the hub refused a fetch"):
                    reply = await self._by_script(keys, large)
            except OutcomeUnknownError:
                self._max_bytes = max(self._max_bytes // 2, _LEAST_BYTES)
                raise
            if reply is not None:
                self._max_bytes = min(self._max_bytes + _LEAST_BYTES, self._most_bytes)
                return reply
            self.scripts.refused()
            self._lets_us = False
        return Fetched(await self._one_by_one(keys[:_FEW]), math.inf)

    async def _one_by_one(self, keys: Sequence[bytes]) -> dict[bytes, State]:
        """Without scripts; side by side, unless the hub has refused the last of them: it may refuse them all."""
        first = keys[: None if self._lets_us else 1]
        try:
            states = [*await asyncio.gather(*map(self.state, first))]
            states += await asyncio.gather(*map(self.state, keys[len(first) :]))
        except BaseException:
            self._lets_us = False
            raise
        self._lets_us = True
        return dict(zip(keys, states, strict=True))

    async def _by_script(self, keys: Sequence[bytes], large: int) -> Fetched | None:
        """The states of the first keys, as many as fit; None: scripts are refused."""
        token = self.scripts.token()
        limits = b"%d %d%b%b" % (self._max_bytes, self._max_value, b":%d" % large if large else b"", self._others)
        items = await self.scripts.run(self._hub.clock_shift.fields.script(STATES_SCRIPT), (limits, token, *keys))
        if items is None:
            return None
        at, states = parse_fetch(items, token)
        if not 0 < len(states) <= len(keys):
            raise ProtocolError(f"the hub {self._hub.url} told of {len(states)} of {len(keys)} keys")
        found: dict[bytes, State] = {}
        left: dict[bytes, LargeState] = {}
        shift = self._hub.clock_shift
        for key, state in zip(keys, states, strict=False):
            if isinstance(state, LargeState):
                left[key] = shift.large(state)
            else:
                found[key] = shift.state(state)
        return Fetched(found, at or math.inf, left)

    async def keys(self, prefix: bytes) -> list[bytes]:
        """Every key of a namespace. `KEYS` blocks the hub while it runs, but is exact for any bytes."""
        return await self._hub.strings(b"KEYS", glob_escape(prefix) + b"*")

    async def state(self, key: bytes) -> State:
        """One key, without scripts: tries the command of one type after the other, then reads the expiry."""
        hub = self._hub
        try:
            value = await hub.text_or_none(b"GET", key)
            if value is None:
                return None
            state: StringState | HashState | SequenceState = StringState(value)
        except CommandRefusedError as error:
            if denies_key(str(error)):
                return DENIED
            if not str(error).startswith("WRONGTYPE"):
                raise
            collection = await self._collection(key)
            if collection is None or isinstance(collection, str):
                return collection
            state = collection
        return self._hub.clock_shift.state(replace(state, expires_at_ms=await self._expiry(key)))

    async def _collection(self, key: bytes) -> State:
        """What a key holds that is not a string, without its expiry."""
        for type_ in ("hash", *self._types):
            kind = READABLE_SINGLY[type_]
            try:
                flat = await self._hub.strings(kind.read, key, *kind.range)
            except CommandRefusedError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                continue
            if type_ not in COLLECTIONS:
                return SequenceState(tuple(flat), None, type_) if flat else None
            try:
                elements = elements_in(type_, flat)
            except ValueError:
                raise ProtocolError(f"the hub {self._hub.url} did not answer {kind.read.decode()}") from None
            if type_ == "hash" and elements and self._hub.clock_shift.fields.on:
                elements = await self._timed(key, elements)
            return HashState(elements, None, type_) if elements else None
        return "other"

    async def _timed(self, key: bytes, fields: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """Fields with their expiries, by the hub's clock."""
        times: list[int] = []
        names = list(fields)
        try:
            for start in range(0, len(names), _NAMES):
                times += await self._hub.integers(*question_of_times(key, names[start : start + _NAMES]))
            return with_times(fields, times)
        except CommandRefusedError as error:  # it is another type by now, or the hub has none
            if denies_key(str(error)):
                raise
            return fields

    async def _expiry(self, key: bytes) -> int | None:
        """The expiry as Unix time in milliseconds. Redis before 7.0 has no PEXPIRETIME, so we add PTTL to its clock."""
        hub = self._hub
        try:
            at = await hub.integer(b"PEXPIRETIME", key)
        except CommandRefusedError:
            left = await hub.integer(b"PTTL", key)
            if left < 0:
                return None
            return ReckonedExpiry(await hub.clock() // 1000 + left)
        return expiry_ms(at) if at >= 0 else None
