"""HTTP/1.1 on the client's side: the head of a request, and responses as they arrive.

In: bytes of responses. Out: status, headers and pieces of the body. Left to others: sockets (`remote.connection`),
time, and the meaning of bodies. llhttp parses, through httptools; RFC 9112 defines responses.
"""

from __future__ import annotations

from collections.abc import Iterable

import httptools

from redisrepl.errors import ProtocolError

__all__ = ["ResponseReader", "request_head"]

#: Bytes of a status line and headers.
_LARGEST_HEAD = 64 << 10
_INTERIM = range(100, 200)
_NO_BODY = {204, 304}


def request_head(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head of a request, up to its body."""
    lines = [b"%s: %s\r\n" % header for header in headers]
    return b"%s %s HTTP/1.1\r\n%s\r\n" % (method.encode(), target, b"".join(lines))


class ResponseReader:
    """The responses of one connection, one after another.

    Attributes:
        status: of the response; 0 until its head is complete.
        reason: the text beside the status.
        headers: as received.
        pieces: of the body; the caller removes them.
        complete: whether the response is complete.
        keeps_alive: whether another may follow on this connection.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._head_size = 0
        self.begin()

    def begin(self) -> None:
        """Prepare for the next response."""
        self.status = 0
        self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.pieces: list[bytes] = []
        self.complete = False
        self.keeps_alive = False
        self._until_end = False
        self._header_bytes = 0

    def feed(self, data: bytes) -> None:
        """Parse received bytes.

        Raises:
            ProtocolError: they are not HTTP, or more than one response.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise ProtocolError(f"no HTTP response: {error}") from error
        if self.status:
            self._head_size = 0
        else:
            self._head_size += len(data)
            if self._head_size > _LARGEST_HEAD:
                raise ProtocolError(f"no HTTP response: a head of more than {_LARGEST_HEAD} bytes")

    def feed_end(self) -> None:
        """The server has closed the connection: that completes a response without a length."""
        if self.status and self._until_end:
            self.complete = True

    # What the parser calls.

    def on_message_begin(self) -> None:
        """A response begins."""
        if self.complete:
            raise ProtocolError("a response that nothing was asked for")

    def on_status(self, reason: bytes) -> None:
        """A part of the text beside the status."""
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > _LARGEST_HEAD:  # trailers behind the body count too
            raise ProtocolError(f"no HTTP response: headers of more than {_LARGEST_HEAD} bytes")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is complete."""
        status = self._parser.get_status_code()
        if status in _INTERIM:
            return
        self.status = status
        names = {name.lower() for name, _ in self.headers}
        self._until_end = status not in _NO_BODY and names.isdisjoint((b"content-length", b"transfer-encoding"))

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        self.pieces.append(piece)

    def on_message_complete(self) -> None:
        """A response is complete."""
        if not self.status:  # an interim response, such as 100 Continue: the real one follows
            self.begin()
            return
        self.complete = True
        self.keeps_alive = self._parser.should_keep_alive()
