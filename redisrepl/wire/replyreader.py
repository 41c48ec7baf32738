"""Parses the replies of a Redis server to commands from RESP in pieces.

In: bytes, as they are read. Out: replies, as hiredis returns them. Left to others: reading a socket (`local.client`,
`remote.direct`), the replication stream and subscriptions, where sizes have to be counted (`wire.resp`).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import hiredis

from redisrepl.errors import LimitExceededError, ProtocolError
from redisrepl.wire.resp import announces_much, cut_header
from redisrepl.wire.walker import ELEMENT, Walker

__all__ = ["ReplyReader"]

#: Bytes of a reply for hiredis, after which a `Walker` reads it element by element.
_MUCH = 1 << 20


class ReplyReader:
    """Has the interface of hiredis' reader, so that redis-py can use it; but it trusts no length (`wire.resp`).

    It keeps the bytes since the last reply that ended with a read, up to `_MUCH`, so that a `Walker` can begin there.

    Args:
        limit: see below.
        flat: refuse large lists that hold anything but strings.
        options: for hiredis' reader; `replyError` and `notEnoughData` are required.

    Attributes:
        limit: most bytes of one reply, `ELEMENT` for each of its elements included.
        left: bytes that may still arrive; None: any number.
    """

    def __init__(self, limit: int, *, flat: bool = False, **options: Any) -> None:
        self.limit = limit
        self._flat = flat
        self._options = options
        self._replies: deque[Any] = deque()  # replies that the walker has read and `gets` has not returned
        self._walker: Walker | None = None
        self.left: int | None = None
        self._begin()

    def _begin(self) -> None:
        self._hiredis = hiredis.Reader(**self._options)
        self._kept: list[bytes] = []
        self._size = self._given = 0
        self._cut = b""

    def feed(self, data: bytes) -> None:
        """Parse received bytes.

        Raises:
            LimitExceededError: they are more than `left`.
        """
        if self.left is not None:
            self.left -= len(data)
            if self.left < 0:
                raise LimitExceededError("replies", len(data), self.left + len(data))
        if self._walker is None:
            data = self._cut + data
            self._cut = b""
            if self._size + len(data) > _MUCH or announces_much(data):
                self._walker = Walker(self.limit, error=self._options["replyError"], cost=ELEMENT, flat=self._flat)
                self._walk(b"".join(self._kept) + data, self._given)
                self._begin()
                return
            self._cut = cut_header(data)
            if self._cut:
                data = data[: -len(self._cut)]
            self._kept.append(data)
            self._size += len(data)
            self._hiredis.feed(data)
        else:
            self._walk(data, 0)

    def _walk(self, data: bytes, given: int) -> None:
        walker = self._walker
        if walker is not None:
            self._replies += walker.feed(data)[given:]
            if walker.idle:
                self._walker = None

    def gets(self, *arguments: bool) -> Any:
        """The next reply, or `notEnoughData`."""
        if self._replies:
            return self._replies.popleft()
        if self._walker is not None:
            return self._options["notEnoughData"]
        try:
            reply = self._hiredis.gets(*arguments)
        except (TypeError, MemoryError) as error:  # a list as the key of a map, ..
            raise ProtocolError(str(error)) from error
        if reply is not self._options["notEnoughData"]:
            self._given += 1
            if not self._hiredis.has_data() and not self._cut:
                self._kept.clear()
                self._size = self._given = 0
        return reply

    def has_data(self) -> bool:
        """Whether there are bytes or replies that `gets` has not returned."""
        return bool(self._replies or self._cut or self._walker or self._hiredis.has_data())
