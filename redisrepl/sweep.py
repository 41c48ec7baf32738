"""Both sides compared: after a gap nobody knows what was missed.

In: a sweep that is owed. Out: keys of the hub marked dirty, to be fetched, compared and applied. Left to others:
fetching and applying (`inbound`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import stamina
import structlog

from redisrepl.errors import RedisreplError
from redisrepl.inbound import Inbound
from redisrepl.namespaces import Namespaces
from redisrepl.observe.troubles import Trouble
from redisrepl.remote.fetch import HubReader

__all__ = ["HubSweep"]

_log = structlog.get_logger("redisrepl")


class HubSweep:
    """Looks at every key that the hub holds under the namespaces, when that is owed.

    Args:
        hub: is read.
        namespaces: what is looked at.
        inbound: is told of the keys.
        wake: called when it was.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.
    """

    def __init__(
        self,
        hub: HubReader,
        namespaces: Namespaces,
        inbound: Inbound,
        wake: Callable[[], None],
        retry: Mapping[str, Any],
    ) -> None:
        self._hub = hub
        self._namespaces = namespaces
        self._inbound = inbound
        self._wake = wake
        self._retry = retry
        self._owed = asyncio.Event()
        self._trouble = Trouble("sweep")
        self.runs = 0

    def owe(self) -> None:
        """Something may have been missed."""
        self._owed.set()

    async def run(self) -> None:
        """Sweep whenever it is owed, for ever."""
        while True:
            await self._owed.wait()
            self._owed.clear()
            async for attempt in stamina.retry_context(on=RedisreplError, **self._retry):
                with attempt:
                    await self._sweep()

    async def _sweep(self) -> None:
        try:
            for prefix in self._namespaces:
                keys = await self._hub.keys(prefix)
                self._inbound.mark_dirty(keys)
                self._wake()
                _log.info("sweep.started", keys=len(keys))
        except RedisreplError as error:
            self._trouble.failed(error)
            raise
        self.runs += 1
        self._trouble.succeeded()
