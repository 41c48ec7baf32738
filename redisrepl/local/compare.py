"""Reads the site for a comparison: sums, digests, and pages of its keys.

In: a namespace, keys. Out: the site's answers, parsed by `wire.digests`. Left to others: comparing
(`flow.comparison`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import redis.asyncio

from redisrepl.local.address import SiteAddress
from redisrepl.local.client import scripts_at
from redisrepl.local.read import SiteReader
from redisrepl.namespaces import glob_escape
from redisrepl.wire.collections import extra_types
from redisrepl.wire.digests import (
    LOOK_SCRIPT,
    PAGE_SCRIPT,
    SUMS_SCRIPT,
    WORK,
    Look,
    Page,
    Summed,
    add_sums,
    bucket_of,
    look_at,
    parse_looks,
    parse_page,
    parse_sums,
    wanted_buckets,
)
from redisrepl.wire.fieldtimes import FieldTimes
from redisrepl.wire.totals import TOTAL_SCRIPT, Total, look_at_large, parse_total

__all__ = ["SiteComparer"]

#: Bytes of the site's values that are held in memory at a time, where scripts are refused.
_TOGETHER = 8 << 20


class SiteComparer:
    """Reads the site's Redis for a comparison; where scripts are refused, it reads values instead of digests.

    Args:
        client: nobody else may use its connection meanwhile.
        address: for messages.
        reader: reads values.
        expiries: whether expiries are compared.
        types: the types that are compared beside strings and hashes.
        times: whether expiries of fields are compared.

    Attributes:
        where: which server it is, for messages.
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
        self._times = times or FieldTimes()
        self.where = f"the site's Redis {address}"
        self._reader = reader
        others = extra_types(types)
        self._others = (others,) if others else ()
        self._expiries = (b"1" if expiries else b"0") + others
        self._scripts = scripts_at(client, address)

    async def sums(self, prefix: bytes, cursor: bytes, count: int, sums: list[int]) -> Summed:
        """Add the keys of one step of a scan to the sums of their buckets."""
        reply = await self._script(
            SUMS_SCRIPT, cursor, glob_escape(prefix) + b"*", b"%d" % count, b"%d" % WORK, *self._others
        )
        if reply is not None:
            return parse_sums(reply, sums)
        page = await self._read_page(prefix, cursor, count, None)
        add_sums(sums, page.looks)
        return Summed(page.cursor, len(page.looks))

    async def page(self, prefix: bytes, cursor: bytes, count: int, buckets: Collection[int] | None) -> Page:
        """Keys of a namespace, from cursor `0` on, in these buckets (None: all). A key may come twice, as with SCAN."""
        words = (
            self._expiries,
            cursor,
            glob_escape(prefix) + b"*",
            b"%d" % count,
            b"%d" % WORK,
            *wanted_buckets(buckets),
        )
        reply = await self._script(PAGE_SCRIPT, *words)
        return parse_page(reply) if reply is not None else await self._read_page(prefix, cursor, count, buckets)

    async def looks(self, keys: Sequence[bytes]) -> list[Look]:
        """The digests of what these keys hold."""
        looks: list[Look] = []
        while len(looks) < len(keys):
            rest = keys[len(looks) :]
            reply = await self._script(LOOK_SCRIPT, self._expiries, b"%d" % WORK, *rest)
            if reply is None:
                return list((await self._read(keys)).values())
            for key, look in zip(rest, parse_looks(reply, len(rest)), strict=False):
                whole = await look_at_large(key, look, self.where, self._total) if look.type else look
                if whole is None:
                    return list((await self._read(keys)).values())
                looks.append(whole)
        return looks

    async def _total(self, key: bytes, kind: bytes, cursor: bytes) -> Total | None:
        """The sums of some elements of a large collection."""
        reply = await self._script(TOTAL_SCRIPT, key, kind, cursor)
        return None if reply is None else parse_total(reply)

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
        """The reply to a script; None if the site refuses scripts."""
        if not self._scripts.worth_trying:
            return None
        reply = await self._scripts.run(self._times.script(script), words)
        if reply is None:
            self._scripts.refused()
        return reply
