"""An HTTPS/1.1 transport for httpx to one server: keeps connections, and goes through an HTTP proxy if there is one.

In: `httpx.Request`. Out: `httpx.Response`, whose body arrives as it is read; failures as the exceptions of httpx, which
tell whether the request can have been executed: with `ConnectError`, `ConnectTimeout` and `ProxyError` no byte of it
was sent, with all others it may have been. Left to others: requests, and how long one may take in total
(`remote.session`).

Why not an existing transport: a single write is a single request, and most of its time and processor was spent in the
client (docs/performance.md).
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
from redisrepl.escaping import refuse_unescaped
from redisrepl.limits import Limits
from redisrepl.remote.connection import Connection
from redisrepl.remote.kept import Connections
from redisrepl.showing import split_scheme
from redisrepl.wire.http import request_head

__all__ = ["HubTransport", "basic_credentials", "environment_proxy", "named_proxy", "parse_url"]

#: Seconds after which the next of a host's addresses is tried beside the one that does not answer (RFC 8305).
_NEXT_ADDRESS = 0.25
_OK = range(200, 300)
#: The headers that `remote.session` reads. Only these are passed to httpx, which spends much time on each header.
_ASKED_FOR = {b"content-encoding", b"date", b"retry-after"}
#: What an error without text means while a connection is made.
_UNSAID: dict[type[Exception], str] = {
    ConnectionResetError: "it closed the connection in the TLS handshake: it may speak no TLS, or none later than 1.1"
}
_HTTP_PORT = 80
_HTTPS_PORT = 443
_LAST_PORT = 65535

_T = TypeVar("_T")


def parse_url(text: str) -> httpx.URL:
    """Parse an address that we can try to connect to.

    Raises:
        ValueError: it is not an address. Without a reason: what looks like a bad port may be a part of a password.
    """
    try:
        url = httpx.URL(text)
        if url.host:  # reading it decodes an international name, which may fail
            url.raw_host.decode("ascii").encode("idna")  # as a look-up will do, which may fail too
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError from None
    if (url.port or 0) > _LAST_PORT:
        raise ValueError
    return url


def basic_credentials(url: httpx.URL) -> bytes:
    """User and password of an address, as a header has them (RFC 7617)."""
    return b"Basic " + b64encode(f"{url.username}:{url.password}".encode())


def named_proxy(proxy: httpx.URL) -> str:
    """A proxy for a message, without user, password and path."""
    return f"the HTTP proxy {proxy.scheme}://{proxy.netloc.decode('ascii')}"


#: An entry of NO_PROXY that may be an IP address or a network; and a port, which there can only be behind a bracket.
_EXCEPTED = re.compile(r"\[?([^\[\]]*)\]?(/\d+)?(?:(?<=\]):(\d+))?")


def _is_excepted(url: httpx.URL) -> bool:
    """Whether NO_PROXY names this IP address, or a network that it is in (`10.0.0.0/8`, `[fd00::]/8`)."""
    try:
        address = ipaddress.ip_address(url.host)
    except ValueError:
        return False  # a name: `proxy_bypass` handles those
    for entry in os.environ.get("no_proxy", os.environ.get("NO_PROXY", "")).split(","):
        if (found := _EXCEPTED.fullmatch(entry.strip())) is None:
            continue
        network, length, port = found.groups(default="")
        with suppress(ValueError):
            named = address in ipaddress.ip_network(network + length, strict=False)
            if named and int(port or url.port or _HTTPS_PORT) == (url.port or _HTTPS_PORT):
                return True
    return False


def environment_proxy(url: httpx.URL) -> str | None:
    """The proxy that the environment names for an https:// address: HTTPS_PROXY or ALL_PROXY, unless NO_PROXY does."""
    if _is_excepted(url):
        return None
    if urllib.request.proxy_bypass(f"{url.host}:{url.port or _HTTPS_PORT}"):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


class HubTransport(httpx.AsyncBaseTransport):
    """Requests to one server.

    Args:
        url: of the server; all requests go to its host and port.
        context: TLS.
        proxy: an HTTP proxy to go through, `http://`, with user and password if need be. (Not `https://`: up to Python
            3.12.1, asyncio cannot close TLS within TLS after an error.)

    Raises:
        ConfigError: the proxy cannot be used.
    """

    def __init__(self, url: httpx.URL, context: ssl.SSLContext, *, proxy: str | None = None) -> None:
        self._host = url.raw_host.decode("ascii")
        self._port = url.port or _HTTPS_PORT
        self._context = context
        self._proxy = None if proxy is None else _checked(proxy)
        self._limits = Limits()
        self._connections = Connections[Connection]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return its response when the head has arrived; see httpx for `timeout`.

        The extension `size` is the length of the body, for the Content-Length header. The response has only the headers
        that `remote.session` reads.
        """
        timeout = request.extensions.get("timeout", {})
        silence = timeout.get("read")
        connection = self._connections.take()
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
        """Use another context for new connections.

        Args:
            context: TLS.
            drop: whether to end all present connections, since their peers may not be trusted any more. Unused ones end
                in any case.
        """
        self._context = context
        self._connections.drop(used=drop)

    async def aclose(self) -> None:
        """Close every connection; no request may be under way."""
        await asyncio.gather(*(connection.closed for connection in self._connections.close()))

    def _done(self, connection: Connection | None) -> None:
        """A request is over, however it ended."""
        if connection is not None and connection.finish():
            self._connections.keep(connection)

    async def _connect(self, seconds: float | None) -> Connection:
        loop = asyncio.get_running_loop()
        until = None if seconds is None else loop.time() + seconds
        tunnel = None if self._proxy is None else await self._tunnel(self._proxy, until)
        try:
            async with asyncio.timeout_at(until):
                connection = await (self._directly() if tunnel is None else self._through(tunnel))
        except TimeoutError as error:
            raise httpx.ConnectTimeout("it does not answer") from error
        except (OSError, ProtocolError) as error:
            raise httpx.ConnectError(str(error) or _UNSAID.get(type(error), type(error).__name__)) from error
        self._connections.open.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.forget(connection))
        return connection

    async def _directly(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, self._host, self._port, ssl=self._context, happy_eyeballs_delay=_NEXT_ADDRESS
        )
        return connection

    async def _through(self, tunnel: Connection) -> Connection:
        """Speak TLS with the server to which a proxy has connected us."""
        try:
            await tunnel.start_tls(self._context, self._host)
        except BaseException:
            tunnel.abort()
            raise
        return tunnel

    async def _tunnel(self, proxy: httpx.URL, until: float | None) -> Connection:
        """A connection to the server that the proxy has made for us (RFC 9110, 9.3.6), without TLS yet.

        Raises:
            httpx.ProxyError: there is none, and it is the proxy's fault, or the proxy says why.
        """
        named = named_proxy(proxy)
        given = f"{named}, which the environment names,"
        try:
            async with asyncio.timeout_at(until):
                status, reason, connection = await self._asked(proxy)
        except TimeoutError as error:
            raise httpx.ProxyError(f"{given} does not answer") from error
        except ProtocolError as error:
            raise httpx.ProxyError(f"{given} is no HTTP proxy: {error}") from error
        except (ConnectionResetError, BrokenPipeError) as error:
            raise httpx.ProxyError(f"{given} ended the connection without an answer") from error
        except OSError as error:
            raise httpx.ProxyError(f"{given} cannot be reached: {str(error) or type(error).__name__}") from error
        if status not in _OK:
            connection.abort()
            raise httpx.ProxyError(f"{named} answers {status} {reason.decode('latin-1')}")
        return connection

    async def _asked(self, proxy: httpx.URL) -> tuple[int, bytes, Connection]:
        """What the proxy answers when it is asked for a connection to the server, and on which connection."""
        host, port = proxy.raw_host.decode("ascii"), proxy.port or _HTTP_PORT
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, host, port, happy_eyeballs_delay=_NEXT_ADDRESS
        )
        name = f"[{self._host}]" if ":" in self._host else self._host
        there = f"{name}:{self._port}".encode()
        headers = [(b"Host", there)]
        if proxy.userinfo:
            headers.append((b"Proxy-Authorization", basic_credentials(proxy)))
        try:
            await connection.ask(request_head("CONNECT", there, headers), b"")
        except BaseException:
            connection.abort()
            raise
        return connection.response.status, connection.response.reason, connection


class _Body(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """The body of a response, as it arrives."""

    def __init__(self, connection: Connection, silence: float | None, limits: Limits, done: Callable[[], None]) -> None:
        self._connection = connection
        self._silence = silence
        self._limits = limits
        self._done: Callable[[], None] | None = done

    def __aiter__(self) -> Self:
        return self  # not a generator: asyncio keeps a list of those, which costs more

    async def __anext__(self) -> bytes:
        if data := await _translated(self._connection.receive(), self._silence, self._limits):
            return data
        raise StopAsyncIteration

    async def aclose(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()


async def _translated(step: Coroutine[None, None, _T], silence: float | None, limits: Limits) -> _T:
    """Run a step of a request; after its first byte was sent, failures become the exceptions of httpx."""
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
    refuse_unescaped(proxy, "the proxy that the environment names")
    try:
        url = parse_url(proxy)
    except ValueError:
        raise ConfigError(
            "the proxy that the environment names is not an address: name one like http://proxy.example.org:3128"
        ) from None
    if url.scheme != "http" or not url.host:
        raise ConfigError(
            f"the proxy that the environment names begins with {split_scheme(proxy)[0]}: name one that begins with http://"
        )
    return url
