"""HTTPS to the hub: one POST in, one body out, every failure as one of our errors.

In: request bodies. Out: reply bodies. Left to others: what the bodies say (`wire.webdis`), when to try again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import cast

import httpx

from redisrepl.errors import (
    BodyTooLargeError,
    CertificateError,
    CommandRefusedError,
    ConfigError,
    HubError,
    LimitExceededError,
    OutcomeUnknownError,
    PeerUnavailableError,
    ProtocolError,
    RedisreplError,
)
from redisrepl.limits import Limit, Limits
from redisrepl.remote.health import HubHealth, Trial
from redisrepl.remote.transport import HubTransport, basic_credentials, environment_proxy, parse_address
from redisrepl.showing import masked
from redisrepl.tls.contexts import tls_reason, trust_told
from redisrepl.wire.replies import as_bytes, as_clock, as_option, as_pairs, as_strings
from redisrepl.wire.unwanted import MAX_VALUE
from redisrepl.wire.webdis import CommandError, body, integer_body, parse_integer, parse_reply

__all__ = ["USER_AGENT", "HubSession", "check_url", "http_error", "without_credentials"]

_OK = 200
_PIECE = 256 << 10
#: Bytes per second at which the last of a body must arrive: what a system holds of it on its way, nobody is told.
_SLOWEST = 50_000
#: Seconds, in units of `timeout`, that a whole reply may take if it comes no faster than `_SLOWEST`.
_PATIENCE = 4
#: Bytes of a reply beside one value. A fetch asks for two million; where scripts are refused, all keys come in one.
_BESIDE_VALUE = 128 << 20
#: Bytes of the body of an error that are looked at.
_ERROR_BODY = 8 << 10
USER_AGENT = "redisrepl"
_HEADERS = [(b"Content-Type", b"application/octet-stream"), (b"User-Agent", USER_AGENT.encode())]
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


def check_url(url: str, flag: str = "--haddr") -> str:
    """The hub's address with one slash at its end.

    Raises:
        ConfigError: it is not an https:// address.
    """
    shown = without_credentials(url)
    try:
        parsed = parse_address(url)
    except ValueError:
        raise ConfigError(f"{flag} {shown}: not an address: give one like https://hub.example.org/redis") from None
    if parsed.query or parsed.fragment or "?" in url or "#" in url:
        raise ConfigError(f"{flag} {shown}: has a part behind ? or #, which Webdis does not understand: leave it out")
    if parsed.scheme != "https" or not parsed.host:
        raise ConfigError(
            f"{flag} {shown}: must start with https:// and name a host, as in https://hub.example.org/redis"
        )
    return url.rstrip("/") + "/"


def without_credentials(url: str) -> str:
    """The address without what stands before its @, for people."""
    return masked(url).replace("…@", "", 1)


class HubSession:
    """Requests to the hub over kept connections.

    Args:
        url: address of Webdis behind its TLS proxy, with its final slash.
        context: TLS, with the client certificate.
        connections: how many requests may be under way.
        timeout: seconds that a request may take; each piece of a large body or answer that moves begins them anew.
        connect_timeout: seconds for a connection and its TLS handshake.
        max_value: bytes of the largest value that there may be in a reply.
        retry_max: longest pause between tries while the hub is away, in seconds.
        transport: stands in for the network in tests of this module.

    Attributes:
        url: the address without credentials.
        health: whether the hub is there; all who ask it share this.
    """

    def __init__(
        self,
        url: str,
        context: ssl.SSLContext,
        *,
        connections: int = 40,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        max_value: int = MAX_VALUE,
        retry_max: float = 15.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = without_credentials(url)
        address = httpx.URL(url)
        self._address = address.copy_with(userinfo=b"")  # parsed once
        headers = [(b"Host", address.netloc), *_HEADERS]
        if address.userinfo:
            headers.append((b"Authorization", basic_credentials(address)))
        self._headers = httpx.Headers(headers)  # once: to spell them takes httpx as long as all else
        self._context = context
        self.health = HubHealth(retry_max)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._limits = Limits()
        self._max_reply = max_value + _BESIDE_VALUE
        # No httpx.AsyncClient: what it does beside sending a request takes longer than sending it.
        self._transport = transport or HubTransport(
            self._address, context, connections=connections, proxy=environment_proxy(self._address)
        )

    def renew(self, context: ssl.SSLContext, *, drop: bool) -> None:
        """Use other certificates from here on; `drop`: end what was begun with those of before."""
        self._context = context
        if isinstance(self._transport, HubTransport):
            self._transport.renew(context, drop=drop)

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def post(self, *content: bytes) -> bytes:
        """Send a command, or a script over many; return what Webdis answered.

        Args:
            content: the body, or its pieces.

        Raises:
            PeerUnavailableError: it was not sent. OutcomeUnknownError: it was, and may or may not have been executed.
            CertificateError: TLS was refused by either side. HubError and its children: the answer is an HTTP error.
            ProtocolError: the answer is too large, or encoded, which nobody asked for.
        """
        size = sum(map(len, content))
        seconds = self._timeout + size / _SLOWEST
        async with _Judged(self.health, self.url, self._context) as trial:
            with self._limits.within(seconds) as limit:
                response = await self._send(_in_pieces(content, size, partial(limit.put_off, seconds)), size)
                answer = await self._read(response, limit)
            trial.answered()
        return answer

    async def command(self, *argv: bytes) -> object:
        """Run one command.

        Returns:
            Its reply: bytes, int, None or a flat list of bytes.

        Raises:
            CommandRefusedError: Redis or Webdis refused it; and what `post` raises.
        """
        try:
            return parse_reply(await self.post(body(*argv)))
        except CommandError as error:
            raise CommandRefusedError(str(error), status=_OK) from None

    async def integer(self, *argv: bytes) -> int:
        """Run one command whose reply is an integer of any size; raises what `command` raises."""
        try:
            return parse_integer(await self.post(integer_body(*argv)))
        except CommandError as error:
            raise CommandRefusedError(str(error), status=_OK) from None

    def _asked(self, *argv: bytes) -> str:
        words = argv[:2] if argv[0] in (b"CONFIG", b"INFO") else argv[:1]  # no key is named
        return f"{b' '.join(words).decode('ascii', 'backslashreplace')} at the hub {self.url}"

    async def strings(self, *argv: bytes) -> list[bytes]:
        """Run one command whose reply is a list of strings; raises what `command` raises, as all that follow."""
        return as_strings(await self.command(*argv), self._asked(*argv))

    async def pairs(self, *argv: bytes) -> dict[bytes, bytes]:
        """Run one command whose reply is a list of names and values."""
        return as_pairs(await self.command(*argv), self._asked(*argv))

    async def text(self, *argv: bytes) -> bytes:
        """Run one command whose reply is a string."""
        return as_bytes(await self.command(*argv), self._asked(*argv))

    async def text_or_none(self, *argv: bytes) -> bytes | None:
        """Run one command whose reply is a string or nothing."""
        reply = await self.command(*argv)
        return None if reply is None else as_bytes(reply, self._asked(*argv))

    async def option(self, name: bytes) -> str:
        """What an option of the hub's Redis is set to; nothing if there is none of the name."""
        argv = (b"CONFIG", b"GET", name)
        return as_option(await self.command(*argv), self._asked(*argv))

    async def clock(self) -> int:
        """The hub's time, in microseconds."""
        return as_clock(await self.command(b"TIME"), self._asked(b"TIME"))

    @asynccontextmanager
    async def stream(self, content: bytes, *, silence: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a command whose reply does not end, and read it as it comes; a connection of its own.

        Args:
            content: the body.
            silence: seconds without a byte after which the stream counts as dead.
        """
        async with _Judged(self.health, self.url, self._context) as trial:
            response = await self._send(httpx.ByteStream(content), len(content), silence)
            try:
                self._check_encoding(response)
                if response.status_code != _OK:
                    with self._limits.within(self._timeout):
                        raise http_error(self.url, await _beginning(response))
                trial.answered()
                yield response.aiter_raw()
            finally:
                await response.aclose()

    async def _read(self, response: httpx.Response, limit: Limit) -> bytes:
        """The body; each piece of it puts the limit off."""
        stream = cast("httpx.AsyncByteStream", response.stream)
        pieces: list[bytes] = []
        size, now = 0, asyncio.get_running_loop().time
        patience = now() + _PATIENCE * self._timeout
        try:
            self._check_encoding(response)
            if response.status_code != _OK:
                raise http_error(self.url, await _beginning(response))
            # As it is: httpx' own iterators take longer than all else that is done here.
            async for piece in stream:
                pieces.append(piece)
                size += len(piece)
                if size > self._max_reply:
                    raise LimitExceededError(f"a reply of the hub {self.url}", size, self._max_reply)
                if now() > patience + size / _SLOWEST:  # it moves, but would for ever
                    raise TimeoutError
                limit.put_off(self._timeout)
        finally:
            await stream.aclose()
        return b"".join(pieces)

    def _check_encoding(self, response: httpx.Response) -> None:
        """A few bytes that are encoded can stand for any number of others."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise ProtocolError(
                f"the hub {self.url} answered HTTP {response.status_code} in the encoding {encoding[:20]!r}, which was"
                " not asked for: turn compression off in its proxy for this address"
            )

    async def _send(self, stream: httpx.AsyncByteStream, size: int, silence: float | None = None) -> httpx.Response:
        """The response once its head is there; `silence`: seconds without a byte after which it counts as dead."""
        request = httpx.Request(
            "POST",
            self._address,
            headers=self._headers,
            stream=stream,
            extensions={"timeout": {"connect": self._connect_timeout, "read": silence}, "size": size},
        )
        return await self._transport.handle_async_request(request)


class _Judged(Trial):
    """A request when it is time for one; what becomes of it tells how the hub is. Raises our errors, the cause kept.

    A class, for a generator with a decorator takes three times as long, and each request has one.
    """

    __slots__ = ("_context", "_url")

    def __init__(self, health: HubHealth, url: str, context: ssl.SSLContext) -> None:
        super().__init__(health)
        self._url = url
        self._context = context

    async def __aexit__(self, *raised: object) -> None:
        error = raised[1]
        try:
            if isinstance(error, httpx.RequestError | TimeoutError):
                ours = _ours(self._url, self._context, error)
                # That one answer is late says nothing of others: a script may be slow.
                if isinstance(ours, PeerUnavailableError) or not isinstance(
                    error, TimeoutError | httpx.TimeoutException
                ):
                    self.failed()
                raise ours from error
            if isinstance(error, CommandRefusedError | BodyTooLargeError):
                self.answered()
            elif isinstance(error, RedisreplError):
                self.failed()
        finally:
            self.end()


def _ours(url: str, context: ssl.SSLContext, error: httpx.RequestError | TimeoutError) -> RedisreplError:
    """What went wrong with a request to the hub, as one of our errors."""
    if isinstance(error, TimeoutError):
        return OutcomeUnknownError(f"the hub {url} did not answer in time")
    # TLS 1.3: the server refuses our certificate only after the handshake seems done, so in any phase.
    if (reason := tls_reason(error)) is not None:
        return CertificateError(f"the hub {url}: {trust_told(reason, context)}")
    text = str(error) or type(error).__name__
    if isinstance(error, _NEVER_SENT):
        return PeerUnavailableError(f"the hub {url} cannot be reached: {text}")
    if isinstance(error, httpx.TimeoutException):
        return OutcomeUnknownError(f"the hub {url} did not answer in time")
    return OutcomeUnknownError(f"the hub {url} broke the connection: {text}")


async def _beginning(response: httpx.Response) -> httpx.Response:
    """An error with so much of its body as is of interest."""
    body = b""
    async for piece in cast("httpx.AsyncByteStream", response.stream):
        body += piece
        if len(body) > _ERROR_BODY:
            break
    return httpx.Response(
        response.status_code, headers=response.headers, content=body[:_ERROR_BODY], extensions=response.extensions
    )


def _in_pieces(content: Sequence[bytes], size: int, moved: Callable[[], None]) -> httpx.AsyncByteStream:
    """A body; a large one goes in pieces, since asyncio moves all that is unsent with each that is.

    `moved` is called when there is room for one.
    """
    if size > _PIECE:
        return _Pieces(content, moved)
    return httpx.ByteStream(content[0] if len(content) == 1 else b"".join(content))


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, content: Sequence[bytes], moved: Callable[[], None]) -> None:
        self._content = content
        self._moved = moved

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._content:
            for start in range(0, len(part), _PIECE):
                self._moved()
                yield part[start : start + _PIECE]


def http_error(url: str, response: httpx.Response) -> RedisreplError:
    """What an answer other than the one hoped for means."""
    status = response.status_code
    retry_after = response.headers.get("Retry-After", "")
    said = f"the hub {url} answered HTTP {status} {response.reason_phrase}"
    match status:
        case 400 if b"SSL certificate" in response.content:  # nginx, ssl_verify_client on
            return CertificateError(f"the hub {url} refuses our client certificate: check that its CA is the hub's")
        case 401 | 403:
            return CommandRefusedError(f"{said}: it does not allow this command or this client", status=status)
        case 404:
            return HubError(f"{said}: check the path of the address", status=status)
        case 413:
            return BodyTooLargeError(
                f"{said}: its proxy limits request bodies (nginx: client_max_body_size)", status=status
            )
        case 502 | 504:
            said = f"{said}: Webdis is down or restarting"
        case 503:
            said = f"{said}: Webdis is down or restarting, or its Redis is"
    return HubError(said, status=status, retry_after=_seconds_until(retry_after, response.headers.get("Date", "")))


def _seconds_until(retry_after: str, date: str) -> float | None:
    """What `Retry-After` asks for, by the hub's own clock where it names a time; None if it says nothing sound."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        until, now = parsedate_to_datetime(retry_after), parsedate_to_datetime(date)
        return max(0.0, (until - now).total_seconds())
    except (TypeError, ValueError, OverflowError):  # no dates, or one with a zone and one without
        return None
