"""Reads the hub for a comparison.

In: a namespace, keys. Out: the hub's answers. Left to others: which scripts are run (`comparer`), comparing
(`flow.comparison`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import structlog

from redisrepl.comparer import Comparer
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.hub import Hub
from redisrepl.remote.refusals import refuses_script, unready
from redisrepl.scripts import Scripts
from redisrepl.wire.digests import Look, Page, bucket_of, look_at

__all__ = ["HubComparer"]

_log = structlog.get_logger("redisrepl")

#: Marks a cursor that is an index into the list of keys.
_LISTED = b"list:"


class HubComparer(Comparer):
    """Reads the hub for a comparison.

    Args:
        hub: the hub to compare.
        reader: reads its values.
        expiries: whether expiries are compared.
        types: the types that are compared beside strings and hashes.
        clock: seconds that never go backwards.
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
        super().__init__(f"the hub {hub.url}", expiries=expiries, types=types)
        self.scripts = Scripts(hub.eval, refuses_script, clock=clock)
        self._reader = reader
        self._shift = hub.clock_shift
        self._keys: list[bytes] = []  # of the namespace that is being read without scripts

    def _reads_values(self, cursor: bytes) -> bool:
        return cursor.startswith(_LISTED)

    def _as_at_site(self, looks: dict[bytes, Look]) -> dict[bytes, Look]:
        return self._shift.looks(looks)

    async def _read_page(self, prefix: bytes, cursor: bytes, count: int, buckets: Collection[int] | None) -> Page:
        """List all keys at the beginning, then read them page by page."""
        if not self._reads_values(cursor):  # the beginning, or scripts were refused in the middle: begin again
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
        if not self.scripts.worth_trying:
            return None
        were_allowed = self.scripts.allowed
        with unready("the hub is not ready for a comparison"):
            reply = await self.scripts.run(self._shift.digesting(script), words)
        if reply is None:
            self.scripts.refused()
            if were_allowed:
                hint = "values travel instead of digests: allow EVAL and SCAN at the hub"
                _log.warning("sweep.scripts_refused", hint=hint)
        return reply
