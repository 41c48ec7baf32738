"""What keys hold at the site.

In: keys. Out: states. Left to others: which keys, and what follows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import cast

import redis.asyncio
import redis.exceptions

from redisrepl.changes import HashState, State, StringState
from redisrepl.local.address import SiteAddress
from redisrepl.local.connection import translated
from redisrepl.namespaces import glob_escape

__all__ = ["SiteReader"]


class SiteReader:
    """Reads the site's Redis.

    Args:
        client: its connection is used by nobody else.
        address: for messages.
    """

    def __init__(self, client: redis.asyncio.Redis, address: SiteAddress) -> None:
        self._client = client
        self._address = address
        self._has_pexpiretime = True  # Redis 7.0 and later

    async def states(self, keys: Sequence[bytes]) -> list[State]:
        """What these keys hold, in their order."""
        with translated(self._address):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.mget(keys)
            for key in keys:
                pipeline.execute_command("PEXPIRETIME" if self._has_pexpiretime else "PTTL", key)
            pipeline.time()
            values, *times, clock = await pipeline.execute(raise_on_error=False)
            if times and isinstance(times[0], redis.exceptions.ResponseError) and self._has_pexpiretime:
                self._has_pexpiretime = False
                return await self.states(keys)
            for reply in (values, clock, *times):
                if isinstance(reply, Exception):
                    raise reply
            now = 0 if self._has_pexpiretime else clock[0] * 1000 + clock[1] // 1000
            expiries = [time + now if time >= 0 else None for time in times]
            # MGET has no value for a key of another type: such a key has an expiry time of -1 or later, a missing -2.
            others = [
                key for key, value, time in zip(keys, values, times, strict=True) if value is None and time != _NO_KEY
            ]
            hashes = await self._hashes(others) if others else {}
        return [
            StringState(value, expiry) if value is not None else _with_expiry(hashes.get(key), expiry)
            for key, value, expiry in zip(keys, values, expiries, strict=True)
        ]

    async def _hashes(self, keys: Sequence[bytes]) -> dict[bytes, State]:
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.type(key)
            pipeline.execute_command("HGETALL", key)
        replies = await pipeline.execute(raise_on_error=False)
        states: dict[bytes, State] = {}
        for key, kind, fields in zip(keys, replies[::2], replies[1::2], strict=True):
            if isinstance(kind, Exception):
                raise kind
            if isinstance(fields, dict):
                states[key] = HashState(fields) if fields else None
            else:
                states[key] = kind.decode("ascii", "replace")
        return states

    async def pages(self, prefix: bytes, count: int = 500) -> AsyncIterator[list[bytes]]:
        """The keys of a namespace, page by page; some may come twice."""
        cursor = 0
        while True:
            with translated(self._address):
                reply = await self._client.scan(cursor, match=glob_escape(prefix) + b"*", count=count)
            cursor, keys = int(reply[0]), cast("list[bytes]", reply[1])
            if keys:
                yield keys
            if not cursor:
                return

    async def existing(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of these keys are there."""
        with translated(self._address):
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.exists(key)
            return [bool(reply) for reply in await pipeline.execute()]

    async def fields(self, key: bytes, fields: Sequence[bytes]) -> list[bytes | None]:
        """What these fields of a hash hold; None for one that is not there, and for all if the key is no hash."""
        with translated(self._address):
            try:
                return list(await self._client.hmget(key, list(fields)))  # type: ignore[arg-type]
            except redis.exceptions.ResponseError as error:
                if str(error).startswith("WRONGTYPE"):
                    return [None] * len(fields)
                raise


_NO_KEY = -2


def _with_expiry(state: State, expires_at_ms: int | None) -> State:
    return HashState(state.fields, expires_at_ms) if isinstance(state, HashState) else state
