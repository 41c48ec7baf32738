"""Reads the site for a comparison.

In: a namespace, keys. Out: the site's answers. Left to others: which scripts are run (`comparer`), comparing
(`flow.comparison`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import redis.asyncio

from redisrepl.comparer import Comparer
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import scripts_at
from redisrepl.local.read import SiteReader
from redisrepl.wire.digests import Look, Page, bucket_of, look_at
from redisrepl.wire.fieldtimes import FieldTimes

__all__ = ["SiteComparer"]

#: Bytes of the site's values that are held in memory at a time, where scripts are refused.
_TOGETHER = 8 << 20


class SiteComparer(Comparer):
    """Reads the site's Redis for a comparison.

    Args:
        client: nobody else may use its connection meanwhile.
        address: for messages.
        reader: reads values.
        expiries: whether expiries are compared.
        types: the types that are compared beside strings and hashes.
        times: whether expiries of fields are compared.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        address: SiteAddress,
        reader: SiteReader,
        *,
        expiries: bool,
        types: Collection[str] = (),
        times: FieldTimes | None = None,
    ) -> None:
        super().__init__(f"the site's Redis {address}", expiries=expiries, types=types)
        self._times = times or FieldTimes()
        self._reader = reader
        self._scripts = scripts_at(client, address)

    async def _read_page(self, prefix: bytes, cursor: bytes, count: int, buckets: Collection[int] | None) -> Page:
        following, keys = await self._reader.page(prefix, cursor, count)
        return Page(following, await self._read([k for k in keys if buckets is None or bucket_of(k) in buckets]))

    async def _read(self, keys: Sequence[bytes]) -> dict[bytes, Look]:
        looks: dict[bytes, Look] = {}
        left = list(keys)
        while left:
            states = await self._reader.first_states(left, _TOGETHER)
            looks |= {key: look_at(key, state) for key, state in zip(left, states, strict=False)}
            left = left[len(states) :]
        return looks

    async def _script(self, script: bytes, *words: bytes) -> list[bytes] | None:
        if not self._scripts.worth_trying:
            return None
        reply = await self._scripts.run(self._times.script(script), words)
        if reply is None:
            self._scripts.refused()
        return reply
