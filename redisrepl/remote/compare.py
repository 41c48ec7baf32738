"""Reads the hub for a comparison: sums, digests, and pages of its keys.

In: a namespace, keys. Out: the hub's answers, parsed by `wire.digests`. Left to others: comparing (`flow.comparison`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import structlog

from redisrepl.namespaces import glob_escape
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.hub import Hub
from redisrepl.remote.refusals import refuses_script, unready
from redisrepl.scripts import Scripts
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
from redisrepl.wire.totals import TOTAL_SCRIPT, Total, look_at_large, parse_total

__all__ = ["HubComparer"]

_log = structlog.get_logger("redisrepl")

#: Marks a cursor that is an index into the list of keys.
_LISTED = b"list:"


class HubComparer:
    """Reads the hub for a comparison; where scripts are refused, it fetches values instead of digests.

    Args:
        hub: the hub to compare.
        reader: reads its values.
        expiries: whether expiries are compared.
        types: the types that are compared beside strings and hashes.
        clock: seconds that never go backwards.

    Attributes:
        where: which server it is, for messages.
    """

    def __init__(
        self,
        hub: Hub,
        reader: HubReader,
        *,
        expiries: bool,
        types: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scripts = Scripts(hub.eval, refuses_script, clock=clock)
        self.where = f"the hub {hub.url}"
        self._reader = reader
        self._shift = hub.clock_shift
        others = extra_types(types)
        self._others = (others,) if others else ()
        self._expiries = (b"1" if expiries else b"0") + others
        self._keys: list[bytes] = []  # of the namespace that is being read without scripts

    async def sums(self, prefix: bytes, cursor: bytes, count: int, sums: list[int]) -> Summed:
        """Add the keys of one step of a scan to the sums of their buckets."""
        if self.scripts.worth_trying and not cursor.startswith(_LISTED):
            reply = await self._script(
                SUMS_SCRIPT, cursor, _pattern(prefix), b"%d" % count, b"%d" % WORK, *self._others
            )
            if reply is not None:
                return parse_sums(reply, sums)
        page = await self._listed_page(prefix, cursor, count, None)
        add_sums(sums, page.looks)
        return Summed(page.cursor, len(page.looks))

    async def page(self, prefix: bytes, cursor: bytes, count: int, buckets: Collection[int] | None) -> Page:
        """Keys of a namespace, from cursor `0` on, in these buckets (None: all). A key may come twice, as with SCAN."""
        if self.scripts.worth_trying and not cursor.startswith(_LISTED):
            words = (self._expiries, cursor, _pattern(prefix), b"%d" % count, b"%d" % WORK, *wanted_buckets(buckets))
            reply = await self._script(PAGE_SCRIPT, *words)
            if reply is not None:
                page = parse_page(reply)
                return page._replace(looks=self._shift.looks(page.looks))
        return await self._listed_page(prefix, cursor, count, buckets)

    async def looks(self, keys: Sequence[bytes]) -> list[Look]:
        """The digests of what these keys hold."""
        looks: list[Look] = []
        while self.scripts.worth_trying and len(looks) < len(keys):
            rest = keys[len(looks) :]
            reply = await self._script(LOOK_SCRIPT, self._expiries, b"%d" % WORK, *rest)
            for key, look in zip(rest, parse_looks(reply, len(rest)) if reply is not None else (), strict=False):
                whole = await look_at_large(key, look, self.where, self._total) if look.type else look
                if whole is None:
                    break
                looks.append(self._shift.look(whole))
        if len(looks) == len(keys):
            return looks
        return list((await self._read(keys)).values())

    async def _total(self, key: bytes, kind: bytes, cursor: bytes) -> Total | None:
        """The sums of some elements of a large collection."""
        reply = await self._script(TOTAL_SCRIPT, key, kind, cursor)
        return None if reply is None else parse_total(reply)

    async def _listed_page(self, prefix: bytes, cursor: bytes, count: int, buckets: Collection[int] | None) -> Page:
        """Without scripts: list all keys at the beginning, then read them page by page."""
        if not cursor.startswith(_LISTED):  # the beginning, or scripts were refused in the middle: begin again
            self._keys, cursor = await self._reader.keys(prefix), _LISTED + b"0"
        begin = int(cursor.removeprefix(_LISTED))
        end = begin + count
        keys = [key for key in self._keys[begin:end] if buckets is None or bucket_of(key) in buckets]
        looks = await self._read(keys)
        if end < len(self._keys):
            return Page(_LISTED + b"%d" % end, looks)
        self._keys = []
        return Page(b"0", looks)

    async def _read(self, keys: Sequence[bytes]) -> dict[bytes, Look]:
        found: dict[bytes, Look] = {}
        while missing := [key for key in keys if key not in found]:
            states = (await self._reader.states(missing)).states
            found |= {key: look_at(key, state) for key, state in states.items()}
        return {key: found[key] for key in keys}

    async def _script(self, script: bytes, *words: bytes) -> list[bytes] | None:
        """The reply to a script; None if the hub refuses scripts."""
        were_allowed = self.scripts.allowed
        with unready("the hub is not ready for a comparison"):
            reply = await self.scripts.run(self._shift.digesting(script), words)
        if reply is None:
            self.scripts.refused()
            if were_allowed:
                hint = "values travel instead of digests: allow EVAL and SCAN at the hub"
                _log.warning("sweep.scripts_refused", hint=hint)
        return reply


def _pattern(prefix: bytes) -> bytes:
    return glob_escape(prefix) + b"*"
