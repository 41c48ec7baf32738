"""How far the site's stream was read, for those who must not act before it is.

In: how far it was read by now, and that it was read further. Out: that a place was reached, or never will be. Left to
others: reading the stream (`sources.stream`).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractContextManager, nullcontext

from redisrepl.changes import HeldBy, Position
from redisrepl.engine.continuity import Continuity
from redisrepl.engine.following import Following
from redisrepl.engine.streamedkeys import StreamedKeys
from redisrepl.errors import LinkLostError

__all__ = ["StreamReach"]

#: Seconds after which the stream is not waited for any longer: while it stands still, and in all.
_LONGEST_STANDSTILL = 5.0
_LONGEST_WAIT = 60.0


class StreamReach:
    """How far the site's stream was read.

    Args:
        following: tells up to which offset, or that its events are followed instead.
        continuity: knows whether it still is the stream of the same server.
        keys: tells what the stream has told of; while the site is not followed, or not judged, what the last one had.
        caught_up: where they are, returns once those were heard of all that happened before; None: nobody follows it.
        hurried: while somebody waits here, what the site sends is read without pauses.
    """

    def __init__(
        self,
        following: Following,
        continuity: Continuity,
        keys: Callable[[], StreamedKeys] = StreamedKeys,
        caught_up: Callable[[], Awaitable[None]] | None = None,
        hurried: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._hurried = hurried
        self._caught_up = caught_up
        self._following = following
        self._keys = keys
        self._continuity = continuity
        self._moved = asyncio.Event()

    def moved(self) -> None:
        """The stream was read further, or was lost."""
        self._moved.set()

    def held_by(self, keys: Collection[bytes], offset: int = 0) -> HeldBy | None:
        """By which place in its history the site held what is known of these keys.

        Args:
            keys: they.
            offset: where the site's stream was when they were read there; 0: the stream told what clients wrote.

        Returns:
            Where the stream told of them last; or where the site was, if the stream was not read that far. None: that
            is not known, or the site has lost some of its history.
        """
        site, streamed = self._continuity.site, self._keys()
        history = streamed.history
        if not history or site.proved != math.inf or (offset and not (site.followed and site.judged)):
            return None
        if not self._following.by_events and offset > self._following.read_to:
            return HeldBy(Position(history, offset))
        if not offset:  # clients wrote all of it: one place does for most, and takes no time
            written = streamed.written(keys)
            return None if written is None else HeldBy(Position(history, written[0]), written[1])
        offsets = streamed.offsets(keys)
        if not offsets:
            return None
        first = min(offsets.values())
        return HeldBy(Position(history, first), {key: at for key, at in offsets.items() if at != first})

    async def passed(self, offset: int) -> None:
        """Return when everything that the site did before this offset was seen, or its stream is lost.

        After a failover the offset may be that of the old master, which the stream of the new one never reaches.

        Raises:
            LinkLostError: it does not come so far.
        """
        if self._following.by_events and self._caught_up is not None:
            with self._hurried():
                await self._events_heard(self._caught_up)
        if self._is_behind(offset):
            with self._hurried():
                await self._reached(offset)

    def _is_behind(self, offset: int) -> bool:
        return not self._following.by_events and self._following.read_to < offset

    async def _reached(self, offset: int) -> None:
        site = self._continuity.site
        epoch = site.epoch  # in another one the offset may mean nothing
        try:
            async with asyncio.timeout(_LONGEST_WAIT):
                while site.epoch == epoch and self._is_behind(offset):
                    read_to = self._following.read_to
                    async with asyncio.timeout(_LONGEST_STANDSTILL):
                        while site.epoch == epoch and self._following.read_to == read_to:
                            self._moved.clear()
                            await self._moved.wait()
        except TimeoutError:
            raise LinkLostError(
                "the site's stream does not come to where the site says that it is: a replaced master may have answered"
            ) from None

    async def _events_heard(self, caught_up: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(_LONGEST_STANDSTILL):
                await caught_up()
        except TimeoutError:
            raise LinkLostError("the site's Redis does not answer on the connection of its keyspace events") from None
