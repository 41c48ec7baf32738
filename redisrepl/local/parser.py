"""Replies of the site's Redis: hiredis' parser in redis-py, with limits.

In: commands that are sent, bytes as they come. Out: replies. Left to others: connections (`local.client`), lengths
(`wire.replyreader`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import redis.asyncio
import redis.exceptions

from redisrepl.wire.replyreader import ReplyReader
from redisrepl.wire.sizes import most_of

__all__ = ["NOT_ENOUGH", "ReplyParser"]

#: Largest reply with values in bytes, with what its elements take beside. A reading script stops at 8 MB, and the
#: largest possible value is half a gigabyte.
_LARGEST_REPLY = 640 << 20
#: In the place of a reply that has not arrived.
NOT_ENOUGH = object()


class ReplyParser(redis.asyncio.connection._AsyncHiredisParser):  # type: ignore[misc, name-defined]  # noqa: SLF001
    """redis-py's parser, on a reader that checks lengths.

    Attributes:
        heard: whether the server has sent anything since it was connected to.
    """

    heard = False

    def on_connect(self, connection: Any) -> None:
        """See redis-py; each connection has a reader of its own."""
        super().on_connect(connection)
        self.heard = False
        self._reader = ReplyReader(
            _LARGEST_REPLY,
            protocolError=redis.exceptions.InvalidResponse,
            replyError=self.parse_error,
            notEnoughData=NOT_ENOUGH,
        )

    async def read_response(self, disable_decoding: bool = False, push_request: bool = False) -> Any:  # noqa: ARG002
        """See redis-py; the reply is never decoded."""
        while (reply := self.at_hand()) is NOT_ENOUGH:
            await self.read_from_socket()
            self.heard = True
        return reply

    def at_hand(self) -> Any:
        """The next reply, if it has arrived already; else `NOT_ENOUGH`."""
        if not self._connected:
            raise redis.exceptions.ConnectionError("the server has closed it")
        reply = self._reader.gets()
        first = reply[0] if isinstance(reply, list) and reply else reply
        if isinstance(first, redis.exceptions.ConnectionError):
            raise first
        return reply

    def expect(self, commands: Iterable[Sequence[object]]) -> None:
        """The next replies are those to these commands: each may be as large as the largest of them."""
        if self._reader is not None:
            self._reader.limit = max((most_of(argv, _LARGEST_REPLY) for argv in commands), default=_LARGEST_REPLY)

    def allow(self, most: int | None) -> None:
        """Limit the bytes that may arrive from now on; None: no limit."""
        self._reader.left = most
