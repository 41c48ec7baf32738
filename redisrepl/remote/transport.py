"""HTTPS/1.1 to one server, below httpx' interface: connections that are kept, a proxy on the way if there has to be.

In: `httpx.Request`. Out: `httpx.Response`, whose body comes as it is read; failures as the exceptions of httpx, which
tell what became of the request: with `ConnectError`, `ConnectTimeout` and `ProxyError` no byte of it has left, with all
others it may have been executed. Left to others: what is asked, and how long it may take altogether (`session`).

Why none that is there already: a write that comes alone is a request that comes alone, and most of its time and of its
cost was spent in the client (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Self, TypeVar, cast

import httpx

from redisrepl.errors import ConfigError, ProtocolError
from redisrepl.limits import Limits
from redisrepl.remote.connection import Connection
from redisrepl.wire.http import request_head

__all__ = ["HubTransport", "basic_credentials", "environment_proxy", "parse_url"]

#: Seconds for which an unused connection is kept. Longer than the time between canaries (10, unless set otherwise),
#: so that a lone write finds one open; shorter than the patience of nginx (75, and 90 in deploy/hub).
_KEPT = 15.0
#: Seconds after which the next of a host's addresses is tried beside the one that does not answer (RFC 8305).
_NEXT_ADDRESS = 0.25
_OK = range(200, 300)
#: Headers that `session` looks at: httpx spells out each that it is given, which takes longer than to read them.
_ASKED_FOR = {b"content-encoding", b"date", b"retry-after"}
#: What is meant by an error without words, while a connection is made.
_UNSAID: dict[type[Exception], str] = {
    ConnectionResetError: "it closed the connection in the TLS handshake: it may speak no TLS, or none later than 1.1"
}
_HTTP_PORT = 80
_HTTPS_PORT = 443
_LAST_PORT = 65535

_T = TypeVar("_T")


def parse_url(text: str) -> httpx.URL:
    """An address to which a connection can be tried.

    Raises:
        ValueError: it is none. Without a reason: what would be shown as a bad port may be a part of a password.
    """
    try:
        url = httpx.URL(text)
        if url.host:  # asked for, an international name is decoded
            url.raw_host.decode("ascii").encode("idna")  # as it is when the system is asked for it
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError from None
    if (url.port or 0) > _LAST_PORT:
        raise ValueError
    return url


def basic_credentials(url: httpx.URL) -> bytes:
    """User and password of an address, as a header has them (RFC 7617)."""
    return b"Basic " + b64encode(f"{url.username}:{url.password}".encode())


def _is_excepted(host: str) -> bool:
    """Whether NO_PROXY names this IP address, or a network that it is in (`10.0.0.0/8`, `[fd00::]/8`)."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False  # a name: that is the library's business
    for entry in os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")).split(","):
        text = re.sub(r"\[(.*)\](/\d+)?(:\d+)?", r"\1\2", entry.strip())
        with suppress(ValueError):
            if address in ipaddress.ip_network(text, strict=False):
                return True
    return False


def environment_proxy(url: httpx.URL) -> str | None:
    """The proxy that the environment names for an https:// address: HTTPS_PROXY or ALL_PROXY, unless NO_PROXY does."""
    if _is_excepted(url.host):
        return None
    if urllib.request.proxy_bypass(f"{url.host}:{url.port or _HTTPS_PORT}"):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


class HubTransport(httpx.AsyncBaseTransport):
    """Requests to one server.

    Args:
        url: of the server; what is requested is at the same host and port.
        context: TLS.
        connections: how many requests may be under way; others wait, without an end of their own.
        proxy: by way of which to go, `http://`, with user and password if need be. (TLS within TLS: up to Python 3.12.1
            asyncio cannot end it for an error.)

    Raises:
        ConfigError: the proxy cannot be used.
    """

    def __init__(self, url: httpx.URL, context: ssl.SSLContext, *, connections: int, proxy: str | None = None) -> None:
        self._host = url.raw_host.decode("ascii")
        self._port = url.port or _HTTPS_PORT
        self._context = context
        self._proxy = None if proxy is None else _checked(proxy)
        self._slots = asyncio.Semaphore(connections)
        self._kept: dict[Connection, float] = {}  # until when; the one used last comes last
        self._expiry: asyncio.TimerHandle | None = None
        self._limits = Limits()
        self._open: set[Connection] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response once the head of it is there; see httpx for `timeout`.

        The extension `size` tells the bytes of the body where no header does. Of the response's headers only those are
        handed on that are ever asked for.
        """
        timeout = request.extensions.get("timeout", {})
        silence = timeout.get("read")
        await self._slots.acquire()
        connection = self._from_kept()
        try:
            if connection is None:
                connection = await self._connect(timeout.get("connect"))
            headers, stream = request.headers.raw, request.stream
            if (size := request.extensions.get("size")) is not None:
                headers.append((b"Content-Length", b"%d" % size))
            head = request_head(request.method, request.url.raw_path, headers)
            body = b"".join(stream) if isinstance(stream, httpx.ByteStream) else cast("httpx.AsyncByteStream", stream)
            await _translated(connection.ask(head, body), silence, self._limits)
        except BaseException:
            self._done(connection)
            raise
        response = connection.response
        return httpx.Response(
            response.status,
            headers=[header for header in response.headers if header[0].lower() in _ASKED_FOR],
            stream=_Body(connection, silence, self._limits, partial(self._done, connection)),
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": response.reason},
        )

    def renew(self, context: ssl.SSLContext, *, drop: bool) -> None:
        """Use another context for the connections that follow.

        Args:
            context: TLS.
            drop: whether those that there are end now, since their peers may not be trusted any more.
        """
        self._context = context
        for connection in list(self._open if drop else self._kept):
            connection.abort()

    async def aclose(self) -> None:
        """Close every connection; no request may be under way."""
        connections = list(self._open)
        for connection in connections:
            connection.abort()
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        await asyncio.gather(*(connection.closed for connection in connections))

    def _from_kept(self) -> Connection | None:
        while self._kept:
            connection, _ = self._kept.popitem()
            if connection.usable:
                return connection
        return None

    def _done(self, connection: Connection | None) -> None:
        """A request is over, however it ended."""
        if connection is not None and connection.finish():
            loop = asyncio.get_running_loop()
            self._kept[connection] = until = loop.time() + _KEPT
            if self._expiry is None:
                self._expiry = loop.call_at(until, self._expire)
        self._slots.release()

    def _expire(self) -> None:
        """Close what was not used for long. One timer for all: each request would set one, and stop it again."""
        loop, self._expiry = asyncio.get_running_loop(), None
        for connection, until in list(self._kept.items()):
            if until > loop.time():
                self._expiry = loop.call_at(until, self._expire)
                break
            self._kept.pop(connection)
            connection.abort()

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._kept.pop(connection, None)

    async def _connect(self, seconds: float | None) -> Connection:
        try:
            async with asyncio.timeout(seconds):
                connection = await (self._directly() if self._proxy is None else self._by_way_of(self._proxy))
        except TimeoutError as error:
            raise httpx.ConnectTimeout("it does not answer") from error
        except (OSError, ProtocolError) as error:
            raise httpx.ConnectError(str(error) or _UNSAID.get(type(error), type(error).__name__)) from error
        self._open.add(connection)
        connection.closed.add_done_callback(lambda _: self._forget(connection))
        return connection

    async def _directly(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, self._host, self._port, ssl=self._context, happy_eyeballs_delay=_NEXT_ADDRESS
        )
        return connection

    async def _by_way_of(self, proxy: httpx.URL) -> Connection:
        host, port = proxy.raw_host.decode("ascii"), proxy.port or _HTTP_PORT
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                Connection, host, port, happy_eyeballs_delay=_NEXT_ADDRESS
            )
        except OSError as error:
            shown = proxy.copy_with(userinfo=b"")
            raise httpx.ProxyError(
                f"the HTTP proxy {shown}, which the environment names, cannot be reached: {error}"
            ) from error
        try:
            await self._tunnel(connection, proxy)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _tunnel(self, connection: Connection, proxy: httpx.URL) -> None:
        """Have a proxy connect us, and speak TLS to who is there (RFC 9110, 9.3.6)."""
        name = f"[{self._host}]" if ":" in self._host else self._host
        there = f"{name}:{self._port}".encode()
        headers = [(b"Host", there)]
        if proxy.userinfo:
            headers.append((b"Proxy-Authorization", basic_credentials(proxy)))
        await connection.ask(request_head("CONNECT", there, headers), b"")
        response = connection.response
        if response.status not in _OK:
            said = f"{response.status} {response.reason.decode('latin-1')}"
            raise httpx.ProxyError(f"the HTTP proxy {proxy.copy_with(userinfo=b'')} answers {said}")
        await connection.start_tls(self._context, self._host)


class _Body(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """The body of a response, as it comes."""

    def __init__(self, connection: Connection, silence: float | None, limits: Limits, done: Callable[[], None]) -> None:
        self._connection = connection
        self._silence = silence
        self._limits = limits
        self._done: Callable[[], None] | None = done

    def __aiter__(self) -> Self:
        return self  # asyncio keeps a list of generators, which takes longer than this

    async def __anext__(self) -> bytes:
        if data := await _translated(self._connection.receive(), self._silence, self._limits):
            return data
        raise StopAsyncIteration

    async def aclose(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()


async def _translated(step: Coroutine[None, None, _T], silence: float | None, limits: Limits) -> _T:
    """What goes wrong once a request was sent, or a part of it, as the exceptions of httpx."""
    try:
        if silence is None:
            return await step
        with limits.within(silence):
            return await step
    except TimeoutError as error:
        raise httpx.ReadTimeout("it does not answer") from error
    except ProtocolError as error:
        raise httpx.RemoteProtocolError(str(error)) from error
    except OSError as error:
        raise httpx.ReadError(str(error) or type(error).__name__) from error


def _checked(proxy: str) -> httpx.URL:
    try:
        url = parse_url(proxy)
    except ValueError:
        raise ConfigError(
            "the proxy that the environment names is not an address: name one like http://proxy.example.org:3128"
        ) from None
    if url.scheme != "http" or not url.host:
        raise ConfigError(
            f"the proxy that the environment names begins with {url.scheme}://: name one that begins with http://"
        )
    return url
