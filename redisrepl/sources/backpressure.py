"""Slows the reading of a snapshot to the pace of the hub, as long as that does not harm the site.

In: how many keys wait for the hub, the site's offset. Out: a pause. Left to others: reading (`sources.stream`), the
queue (`engine.outbound`).

If we read a snapshot no faster than the hub accepts it, it needs little memory, however many keys it has. But a pause
costs the site: its output buffer holds what clients write meanwhile, and it closes the link when the buffer overflows
(`client-output-buffer-limit replica`). Its child process that writes the snapshot also lives longer. So we pause only
while the hub makes progress, while the buffer is far from its limit, and for a limited time. After that we read at full
speed, and a sweep finds the keys that did not fit into memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from redisrepl.engine.outbound import Outbound
from redisrepl.local.info import SiteInfo

__all__ = ["Backpressure"]

_log = structlog.get_logger("redisrepl")

#: Seconds that one snapshot may be delayed in total.
_PATIENCE = 60.0
#: Seconds without progress at the hub after which we stop waiting for it.
_STALLED = 2.0
#: Seconds between two questions for the site's offset.
_LOOK_PERIOD = 1.0
#: A pause may fill this part (a quarter) of the site's output-buffer limit. A site that sets or reports no limit counts
#: as having Redis' default soft limit.
_PART = 4
_DEFAULT_LIMIT = 64 << 20


class Backpressure:
    """The pauses of one snapshot at a time.

    Args:
        outbound: the queue to the hub.
        returned: waits until the hub has answered a batch.
        ask_info: asks the site for its offset and limits.
        clock: seconds that never go backwards.
    """

    def __init__(
        self,
        outbound: Outbound,
        returned: Callable[[], Awaitable[None]],
        ask_info: Callable[[], Awaitable[SiteInfo]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbound = outbound
        self._returned = returned
        self._ask_info = ask_info
        self._clock = clock
        self._offset = 0
        self._patience = 0.0
        self._look_at = 0.0

    def begin(self, offset: int) -> None:
        """A snapshot begins; after it the stream continues from this offset."""
        self._offset = offset
        self._patience = _PATIENCE
        self._look_at = self._clock()

    async def room(self) -> None:
        """Return when the queue has room, or when waiting longer would do harm."""
        while self._outbound.crowded and self._patience > 0:
            began, answered = self._clock(), self._outbound.counters.answered
            if began >= self._look_at:
                self._look_at = began + _LOOK_PERIOD
                if not self._is_harmless(await self._ask_info()):
                    self._give_up("the site has to buffer too much for us, or does not say how much")
                    return
            try:
                async with asyncio.timeout(_STALLED):
                    while self._outbound.counters.answered == answered:
                        await self._returned()
            except TimeoutError:
                self._give_up("the hub takes nothing")
                return
            self._patience -= self._clock() - began
            if self._patience <= 0:
                self._give_up(f"the snapshot was paused for {_PATIENCE:g} s")

    def _is_harmless(self, facts: SiteInfo) -> bool:
        """Whether the site's buffer for us is far from its limit."""
        if facts.offset is None:
            return False  # without an offset we cannot tell how full the buffer is
        limit = facts.buffer_limit
        limits = [most for most in (limit.hard, limit.soft) if most] if limit is not None else []
        return facts.offset - self._offset <= min(limits, default=_DEFAULT_LIMIT) // _PART

    def _give_up(self, reason: str) -> None:
        self._patience = 0
        _log.info("snapshot.unpaced", reason=reason, then="read at full speed; a comparison finds keys that do not fit")
