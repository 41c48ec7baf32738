"""Flushes of the hub (`FLUSHALL`, `FLUSHDB`), of which no event tells: Redis counts them, and says so in INFO.

In: INFO, again and again. Out: word that some database of the hub was flushed, or that the hub is another process now
and may lack keys for another reason. Left to others: what the site holds and the hub does not (`sweep`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import structlog

from redisrepl.errors import CommandRefusedError, RedisreplError
from redisrepl.remote.session import HubSession
from redisrepl.wire.replies import number

__all__ = ["Flushes", "flush_count"]

_log = structlog.get_logger("redisrepl")

_RUN = re.compile(rb"^run_id:(\w+)", re.MULTILINE)
_CALLS = re.compile(rb"^cmdstat_flush(?:all|db):calls=(\d+)", re.MULTILINE)


def flush_count(info: bytes) -> tuple[bytes, int]:
    """Which process a server is, and how often it was told to flush a database, by its `INFO all`."""
    run = _RUN.search(info)
    return run[1] if run else b"", sum(number(match[1]) or 0 for match in _CALLS.finditer(info))


class Flushes:
    """Looks whether the hub was flushed.

    Args:
        session: HTTPS to the hub.
        period: seconds between two looks.
        on_flush: called when it was, since the last look at the same process.
        on_restart: called when it is another process.
    """

    def __init__(
        self, session: HubSession, period: float, *, on_flush: Callable[[], None], on_restart: Callable[[], None]
    ) -> None:
        self._session = session
        self._period = period
        self._on_flush = on_flush
        self._on_restart = on_restart
        self._seen: tuple[bytes, int] | None = None
        self._refused = False
        self._turn = asyncio.Lock()  # else of two answers the older one might be the last

    async def watch(self) -> None:
        """Look once in a period, for ever."""
        while True:
            try:
                await self.look()
            except RedisreplError as error:
                _log.debug("hub.flushes_not_read", error=str(error))
            await asyncio.sleep(self._period)

    async def look(self) -> None:
        """Find out whether the hub was flushed until now.

        Raises:
            RedisreplError: it cannot be asked.
        """
        async with self._turn:
            try:
                info = await self._session.text(b"INFO", b"all")
            except CommandRefusedError as error:
                if not self._refused:
                    self._refused = True
                    hint = "let this client run INFO at the hub; until then what it flushes comes back from the sites"
                    _log.warning("hub.flushes_unknown", error=str(error), hint=hint)
                return
            self._refused = False
            before, self._seen = self._seen, flush_count(info)
            if before is None or before == self._seen:
                return
            run, count = self._seen
            if run != before[0]:
                self._on_restart()
            elif count:  # none: they were counted anew (CONFIG RESETSTAT), and none has been since
                self._on_flush()
