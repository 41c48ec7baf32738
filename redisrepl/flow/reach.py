"""How far the site's stream was read, for those who must not act before it is.

In: how far it was read by now, and that it was read further. Out: that a place was reached, or never will be. Left to
others: reading the stream (`sources.stream`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection

from redisrepl.changes import Position
from redisrepl.engine.continuity import Continuity
from redisrepl.errors import LinkLostError

__all__ = ["StreamReach"]

#: Seconds after which the stream is not waited for any longer: while it stands still, and in all.
_LONGEST_STANDSTILL = 5.0
_LONGEST_WAIT = 60.0


class StreamReach:
    """How far the site's stream was read.

    Args:
        read_to: tells up to which offset; infinity if nobody reads it.
        continuity: knows whether it still is the stream of the same server.
        history: tells whose stream it is, by its replication id; empty: nobody reads it.
        told: tells before which offset the stream had told all that it has told of some keys; infinity: that is not
            known.
    """

    def __init__(
        self,
        read_to: Callable[[], float],
        continuity: Continuity,
        history: Callable[[], str] = lambda: "",
        told: Callable[[Collection[bytes]], float] = lambda _: math.inf,
    ) -> None:
        self._read_to = read_to
        self._history = history
        self._told = told
        self._continuity = continuity
        self._moved = asyncio.Event()

    def moved(self) -> None:
        """The stream was read further, or was lost."""
        self._moved.set()

    def position(self, keys: Collection[bytes], offset: float = 0) -> Position | None:
        """The place in the site's history by which it held what is known of these keys.

        Args:
            keys: they.
            offset: where the site's stream was when they were read there; 0: the stream has told of them.

        Returns:
            What the stream told of them last lies before it. If the stream was not read that far, where the site was.
            None: that is not known, or the site has lost some of its history.
        """
        site, read_to = self._continuity.site, self._read_to()
        before = offset if offset > read_to else min(read_to, self._told(keys))
        history = self._history() if site.followed and site.judged and site.proved == math.inf else ""
        return Position(history, int(before)) if history and 0 < before < math.inf else None

    async def passed(self, offset: int) -> None:
        """Return when everything that the site did before this offset was seen, or its stream is lost.

        After a failover the offset may be that of the old master, which the stream of the new one never reaches.

        Raises:
            LinkLostError: it does not come so far.
        """
        if self._read_to() >= offset:
            return
        site = self._continuity.site
        epoch = site.epoch  # in another one the offset may mean nothing
        try:
            async with asyncio.timeout(_LONGEST_WAIT):
                while site.epoch == epoch and (read_to := self._read_to()) < offset:
                    async with asyncio.timeout(_LONGEST_STANDSTILL):
                        while site.epoch == epoch and self._read_to() == read_to:
                            self._moved.clear()
                            await self._moved.wait()
        except TimeoutError:
            raise LinkLostError(
                "the site's stream does not come to where the site says that it is: a replaced master may have answered"
            ) from None
