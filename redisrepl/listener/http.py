"""A minimal HTTP server protocol: one GET per connection, one response.

In: a connection. Out: the request, bytes of the response. Left to others: what to answer (`listener.server`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus

import httptools

__all__ = ["LONGEST_HEAD", "BadRequestError", "Request", "Response", "read_request"]

LONGEST_HEAD = 16 << 10

#: Sent with every response, so that no other web site can make a browser fetch and read what we serve.
_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)


class BadRequestError(Exception):
    """A request that cannot be served.

    Attributes:
        status: of the response.
    """

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


@dataclass(slots=True)
class Request:
    """The head of a request.

    Attributes:
        method: such as GET.
        path: without the query.
        headers: by name in lower case; repeated ones are joined by a comma.
    """

    method: str = ""
    path: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    # What httptools calls.

    def on_url(self, url: bytes) -> None:
        """The target, or a part of it."""
        self.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[key] = f"{self.headers[key]},{text}" if key in self.headers else text


@dataclass(frozen=True, slots=True)
class Response:
    """A response.

    Attributes:
        status: of HTTP.
        body: all of it, or the beginning if it streams.
        content_type: of the body.
        headers: more headers.
        streams: whether more of the body follows, so that its length is unknown.
    """

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    streams: bool = False

    def encoded(self) -> bytes:
        """The response as bytes."""
        pairs = [("Content-Type", self.content_type), *self.headers, *_ALWAYS]
        if not self.streams:
            pairs.append(("Content-Length", str(len(self.body))))
        head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        return f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n{head}\r\n".encode("latin-1") + self.body


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The head of a request; None if the client closes without sending one.

    Raises:
        BadRequestError: it is too long, or not HTTP.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise BadRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise BadRequestError(HTTPStatus.BAD_REQUEST) from None
        return None
    request = Request()
    parser = httptools.HttpRequestParser(request)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass  # the client asks for another protocol; we answer in HTTP
    except httptools.HttpParserError:
        raise BadRequestError(HTTPStatus.BAD_REQUEST) from None
    request.method = parser.get_method().decode("latin-1")
    request.path = request.path.partition("?")[0]
    return request
