"""HTTP as a server speaks it, as little of it as is needed: one GET a connection, one answer.

In: a connection. Out: the request, bytes of the answer. Left to others: what is answered (`server`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from http import HTTPStatus

import httptools

__all__ = ["LONGEST_HEAD", "BadRequestError", "Request", "Response", "read_request"]

LONGEST_HEAD = 16 << 10

#: With every answer. What is served here is for who asked for it: no other site may have a browser fetch and read it.
_ALWAYS = (
    ("Cache-Control", "no-store"),
    ("Connection", "close"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
)


class BadRequestError(Exception):
    """What came is no request that is answered.

    Attributes:
        status: how it is answered.
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
        headers: names in lower case; of those that came twice, both, with a comma.
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
    """An answer.

    Attributes:
        status: of HTTP.
        body: complete; of a stream its beginning.
        content_type: of the body.
        headers: others.
        streams: more follows.
    """

    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    streams: bool = False

    def encoded(self) -> bytes:
        """As it goes over the wire."""
        pairs = [("Content-Type", self.content_type), *self.headers, *_ALWAYS]
        if not self.streams:
            pairs.append(("Content-Length", str(len(self.body))))
        head = "".join(f"{name}: {value}\r\n" for name, value in pairs)
        return f"HTTP/1.1 {self.status.value} {self.status.phrase}\r\n{head}\r\n".encode("latin-1") + self.body


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """The head of a request; None: whoever connected says nothing.

    Raises:
        BadRequestError: it is too long, or no HTTP.
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
        pass  # it asks for another protocol, and gets this one
    except httptools.HttpParserError:
        raise BadRequestError(HTTPStatus.BAD_REQUEST) from None
    request.method = parser.get_method().decode("latin-1")
    request.path = request.path.partition("?")[0]
    return request
