"""What keys hold at the hub, many in one request.

In: keys. Out: states. Left to others: which keys, and what to do with the states (`engine.inbound`, `flow.sweep`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from redisrepl.changes import DENIED, HashState, SequenceState, State, StringState
from redisrepl.errors import CommandRefusedError, HubError, OutcomeUnknownError, ProtocolError, denies_key
from redisrepl.namespaces import glob_escape
from redisrepl.remote.refusals import ScriptRunner, scripts_refused
from redisrepl.remote.session import HubSession
from redisrepl.wire.collections import COLLECTIONS, READABLE_SINGLY, elements_in, extra_types
from redisrepl.wire.unwanted import MAX_VALUE
from redisrepl.wire.webdis import CommandError, fetch_body, parse_fetch_reply

__all__ = ["Fetched", "HubReader"]

#: Keys read side by side where no script can say when it is enough.
_FEW = 50
#: The smallest reply that is asked for, and by how much one is larger than the last after one that came in time.
_LEAST_BYTES = 16 << 10


class Fetched(NamedTuple):
    """What keys of the hub held.

    Attributes:
        states: by key.
        time: of the hub, in microseconds, when it was read in one step; infinity where scripts are refused.
    """

    states: dict[bytes, State]
    time: float


class HubReader(ScriptRunner):
    """Reads the hub.

    Replies that do not arrive in time are asked for in smaller pieces: over a slow link, what is fetched side by side
    would otherwise be late for ever.

    Args:
        session: HTTPS to the hub.
        max_bytes: how much a reply may carry before the rest of the keys is left for another.
        max_value: values of more bytes are not read: what a key holds is then `wire.states.TOO_LARGE`.
        types: collections of which types are read beside hashes.
        clock: seconds, for when refused scripts are tried again.

    Attributes:
        scripts: whether the hub allows `EVAL`; found out by trying.
    """

    def __init__(
        self,
        session: HubSession,
        max_bytes: int = 2 << 20,
        *,
        max_value: int = MAX_VALUE,
        types: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(clock)
        self._session = session
        self._max_value = max_value
        self._types = sorted(set(types) & READABLE_SINGLY.keys() - {"hash"})
        self._others = extra_types(types)
        self._most_bytes = self._max_bytes = max_bytes

    async def states(self, keys: Sequence[bytes]) -> Fetched:
        """What these keys hold; keys that did not fit into one reply, but never the first, are left out."""
        if self.tries_scripts():
            try:
                at, states = await self._by_script(keys)
            except OutcomeUnknownError:
                self._max_bytes = max(self._max_bytes // 2, _LEAST_BYTES)
                raise
            except CommandRefusedError as error:
                if error.status != 403:  # noqa: PLR2004 - Webdis' ACL
                    raise
            except CommandError as error:
                if not scripts_refused(str(error)):
                    raise HubError(f"the hub refused a fetch: {error}", status=200) from None
            else:
                self._max_bytes = min(self._max_bytes + _LEAST_BYTES, self._most_bytes)
                self.scripts = True
                return Fetched(dict(zip(keys, states, strict=False)), at)
            self.no_scripts()
        few = keys[:_FEW]
        return Fetched(dict(zip(few, await asyncio.gather(*map(self.state, few)), strict=True)), math.inf)

    async def _by_script(self, keys: Sequence[bytes]) -> tuple[int, list[State]]:
        """The hub's time, and the states of the first keys, as many as fit."""

        async def send(*, by_hash: bool) -> tuple[int, list[State]]:
            token = self.token()
            content = fetch_body(
                keys, self._max_bytes, self._max_value, others=self._others, token=token, by_hash=by_hash
            )
            at, states = parse_fetch_reply(await self._session.post(content), token)
            if not 0 < len(states) <= len(keys):
                raise ProtocolError(f"the hub {self._session.url} told of {len(states)} of {len(keys)} keys")
            return at, states

        return await self.run(send)

    async def keys(self, prefix: bytes) -> list[bytes]:
        """Every key of a namespace. `KEYS` blocks the hub while it looks, but is exact for any bytes."""
        return await self._session.strings(b"KEYS", glob_escape(prefix) + b"*")

    async def state(self, key: bytes) -> State:
        """One key, without scripts: the value by what type it may have, then its expiry."""
        session = self._session
        try:
            value = await session.text_or_none(b"GET", key)
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
        return replace(state, expires_at_ms=await self._expiry(key))

    async def _collection(self, key: bytes) -> State:
        """Likewise a key that is no string."""
        for type_ in ("hash", *self._types):
            kind = READABLE_SINGLY[type_]
            try:
                flat = await self._session.strings(kind.read, key, *kind.range)
            except CommandRefusedError as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                continue
            if type_ not in COLLECTIONS:
                return SequenceState(tuple(flat), None, type_) if flat else None
            try:
                return HashState(elements_in(type_, flat), None, type_) if flat else None
            except ValueError:
                raise ProtocolError(f"the hub {self._session.url} did not answer {kind.read.decode()}") from None
        return "other"

    async def _expiry(self, key: bytes) -> int | None:
        """Absolute milliseconds; Redis before 7.0 tells only what is left, and its clock."""
        session = self._session
        try:
            at = await session.integer(b"PEXPIRETIME", key)
        except CommandRefusedError:
            left = await session.integer(b"PTTL", key)
            if left < 0:
                return None
            return await session.clock() // 1000 + left
        return at if at >= 0 else None
