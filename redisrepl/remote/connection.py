"""One connection to an HTTP server: sends a request, receives its response, and says whether another may follow.

In: a request's head and body. Out: the response as it arrives, or the error that ended the connection before. Left to
others: opening connections, how long they are kept, and timeouts (`remote.transport`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable
from typing import cast

from redisrepl.errors import ProtocolError
from redisrepl.wire.http import ResponseReader

__all__ = ["Connection"]

#: Bytes of a body that may wait for `receive` before we stop reading from the socket. As many as this, because Webdis
#: sends damaged framing to a subscriber that reads slowly.
_WAITING = 4 << 20


class Connection(asyncio.Protocol):
    """A connection. The event loop creates it; one request at a time uses it.

    Attributes:
        response: the response to the current request, or to the last one.
        closed: done when the connection is closed.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = asyncio.Transport()
        self._news: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._asked = False  # whether a request is under way
        self._sent = True  # whether all of it was handed to the system
        self._full = False  # whether the system accepts no more for now
        self._paused = False
        self._aborted = False
        self._waiting = 0
        self.response = ResponseReader()
        self.closed: asyncio.Future[None] = self._loop.create_future()

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS from now on; until now we spoke to a proxy."""
        transport = await self._loop.start_tls(self._transport, self, context, server_hostname=host)
        self._transport = cast("asyncio.Transport", transport)
        self.response = ResponseReader()

    async def ask(self, head: bytes, body: bytes | AsyncIterable[bytes]) -> None:
        """Send a request; return when the status and headers of its response have arrived.

        Raises:
            OSError, ssl.SSLError, ProtocolError: the connection ended before.
        """
        await self._send(head, body)
        while not self.response.status:
            await self._something()

    async def _send(self, head: bytes, body: bytes | AsyncIterable[bytes]) -> None:
        """Send a request; stop early if the server answers before it has read everything."""
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
                await asyncio.sleep(
                    0
                )  # asyncio reports a failed write in its next step, and warns of writes before that
            self._transport.write(unsent + piece)
            unsent = b""
            while self._full and not self.response.status:
                await self._something()
            if self.response.status or self._error is not None:
                return  # the server does not want the rest
        if unsent:
            self._transport.write(unsent)
        self._sent = True

    async def receive(self) -> bytes:
        """The next bytes of the response's body; empty when it is complete.

        Raises:
            OSError, ssl.SSLError, ProtocolError: the connection ended before it was complete.
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
        """End the request, whether its response was read or not; returns whether another one may be sent."""
        response = self.response
        whole = self._sent and response.complete and not self._paused
        again = whole and response.keeps_alive and self.usable
        self._asked = False
        if not again:
            self.abort()
        return again

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as we know."""
        return self._error is None and not self._transport.is_closing()

    def abort(self) -> None:
        """Close it at once; what has arrived and was not received is dropped."""
        self._transport.abort()
        self._aborted = True
        self.response.pieces.clear()  # its parser holds it, and it the parser: the collector may come late

    async def _something(self) -> None:
        """Wait for the next event of the connection."""
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
        if self._aborted:  # they had been decrypted already
            return
        if not self._asked:  # such as 408 before the server closes; the next request must not take it for its answer
            self._failed(ProtocolError("the server said something that nothing was asked for"))
            self._transport.abort()
            return
        try:
            self.response.feed(data)
        except ProtocolError as error:
            self._failed(error)
            self._transport.abort()
            return
        self._waiting += len(data)
        if self._waiting > _WAITING and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._tell()

    def eof_received(self) -> None:
        """The server sends no more; the event loop then closes our side too."""
        self.response.feed_end()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, or has failed."""
        self._full = False
        self._failed(exc or ConnectionResetError("the server closed the connection"))
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Asyncio's write buffer is full."""
        self._full = True

    def resume_writing(self) -> None:
        """Asyncio's write buffer has emptied."""
        self._full = False
        self._tell()
