"""One connection to an HTTP server: a request out, its response in, and whether the next may follow.

In: a request's head and body. Out: the response as it comes, or what ended the connection before that was complete.
Left to others: what is opened, for how long it is kept (`transport`), and time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable
from typing import cast

from redisrepl.errors import ProtocolError
from redisrepl.wire.http import ResponseReader

__all__ = ["Connection"]

#: Bytes of a body that may wait to be taken before the other side has to wait too. A subscription had better be read
#: as it comes: what a slow reader does not take, Webdis damages.
_WAITING = 4 << 20


class Connection(asyncio.Protocol):
    """Made by the event loop; used by one request at a time.

    Attributes:
        response: that of the request under way, or of the last.
        closed: done when the connection is no more.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = asyncio.Transport()
        self._news: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._asked = False  # a request is under way
        self._sent = True  # .. and all of it was taken
        self._full = False  # the system takes no more for now
        self._paused = False
        self._waiting = 0
        self.response = ResponseReader()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from here on; what was said before was to a proxy."""
        transport = await self._loop.start_tls(self._transport, self, context, server_hostname=host)
        self._transport = cast("asyncio.Transport", transport)
        self.response = ResponseReader()

    async def ask(self, head: bytes, body: bytes | AsyncIterable[bytes]) -> None:
        """Send a request; return when status and headers of its response are there.

        Raises:
            OSError, ssl.SSLError, ProtocolError: the connection ended before.
        """
        await self._send(head, body)
        while not self.response.status:
            await self._something()

    async def _send(self, head: bytes, body: bytes | AsyncIterable[bytes]) -> None:
        """Send a request, or so much of it as is wanted."""
        self._asked, self._sent = True, False
        self._waiting = 0
        self.response.begin()
        if isinstance(body, bytes):
            self._transport.write(head + body)
            while self._full and not self.response.status:
                await self._something()
            self._sent = not self.response.status and self._error is None
            return
        unsent = head
        async for piece in body:
            if not unsent:
                await asyncio.sleep(0)  # until then asyncio does not tell what a write met, and complains of the next
            self._transport.write(unsent + piece)
            unsent = b""
            while self._full and not self.response.status:
                await self._something()
            if self.response.status or self._error is not None:
                return  # nobody wants to read the rest
        if unsent:
            self._transport.write(unsent)
        self._sent = True

    async def receive(self) -> bytes:
        """What has come of the response's body, at least a byte; nothing: it is complete.

        Raises:
            OSError, ssl.SSLError, ProtocolError: the connection ended before it was.
        """
        response = self.response
        while not response.pieces and not response.complete:
            await self._something()
        data = b"".join(response.pieces)
        response.pieces.clear()
        self._waiting = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def finish(self) -> bool:
        """The response was taken, or is not wanted any more; whether another request may be sent."""
        response = self.response
        whole = self._sent and response.complete and not self._paused
        again = whole and response.keeps_alive and self.usable
        self._asked = False
        if not again:
            self.abort()
        return again

    @property
    def usable(self) -> bool:
        """Whether it is not known to have ended."""
        return self._error is None and not self._transport.is_closing()

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    async def _something(self) -> None:
        """Wait for whatever comes next."""
        if self._error is not None:
            raise self._error
        self._news = self._loop.create_future()
        try:
            await self._news
        finally:
            self._news = None

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _failed(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._tell()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if not self._asked:  # a farewell, such as 408, or something that must not be taken for an answer
            self._failed(ProtocolError("the server said something that nothing was asked for"))
            self.abort()
            return
        try:
            self.response.feed(data)
        except ProtocolError as error:
            self._failed(error)
            self.abort()
            return
        self._waiting += len(data)
        if self._waiting > _WAITING and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._tell()

    def eof_received(self) -> None:
        """No more will come; the event loop then closes our side too."""
        self.response.feed_end()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, or has failed."""
        self._full = False
        self._failed(exc or ConnectionResetError("the server closed the connection"))
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """More is unsent than should be."""
        self._full = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._full = False
        self._tell()
