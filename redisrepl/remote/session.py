"""Talks to a hub behind Webdis over HTTPS: one POST for each request, every failure as one of our errors.

In: commands and scripts, or bodies of requests. Out: their replies. Left to others: their encoding (`wire.webdis`),
connections (`remote.transport`), what a status other than 200 means (`remote.statuses`), how events arrive
(`remote.channel`).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Any, cast

import httpx

from redisrepl.errors import (
    BodyTooLargeError,
    CertificateError,
    CommandRefusedError,
    LimitExceededError,
    OutcomeUnknownError,
    PeerUnavailableError,
    ProtocolError,
    RedisreplError,
    SilentError,
)
from redisrepl.limits import Limit, Limits
from redisrepl.remote.address import USER_AGENT, check_url, without_credentials
from redisrepl.remote.channel import EventChannel, SubscribeChoice
from redisrepl.remote.clock_shift import ClockShift
from redisrepl.remote.health import HubHealth, Trial
from redisrepl.remote.hub import Hub
from redisrepl.remote.patience import BESIDE_VALUE, SLOWEST, Patience, Room
from redisrepl.remote.refusals import refusal
from redisrepl.remote.statuses import OK, http_error
from redisrepl.remote.transport import HubTransport, basic_credentials, environment_proxy
from redisrepl.tls.contexts import tls_reason, with_trust
from redisrepl.wire.sizes import SMALL, most_of
from redisrepl.wire.unwanted import MAX_VALUE
from redisrepl.wire.webdis import (
    CommandError,
    as_flat,
    body,
    body_pieces,
    escape_words,
    integer_body,
    parse_integer,
    parse_integers,
    reply_in_steps,
    script_body,
    script_pieces,
)

__all__ = ["HubSession", "check_url"]

_PIECE = 256 << 10
#: Larger commands are escaped piece by piece.
_LARGE = 64 << 10
#: How many bytes we read of an error's body.
_ERROR_BODY = 8 << 10
_HEADERS = [(b"Content-Type", b"application/octet-stream"), (b"User-Agent", USER_AGENT.encode())]
#: Largest part of the time for a request that may be spent on its connection.
_CONNECTING = 0.9
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)


class HubSession(Hub):
    """Requests to the hub over kept connections.

    Args:
        url: address of Webdis behind its TLS proxy, with its final slash.
        context: TLS, with the client certificate.
        connections: how many requests may be under way beside subscriptions; others wait, without a timeout.
        timeout: seconds that a request may take; they start again with each piece of a large body or answer.
        connect_timeout: seconds for a connection and its TLS handshake.
        max_value: bytes of the largest value that a reply may hold.
        retry_max: longest pause between tries while the hub is away, in seconds.
        subscribe: how the hub's events arrive.
        database: number of the database that Webdis uses.
        transport: replaces the network in tests of this module.

    Attributes:
        channel: how the hub's events arrive.
    """

    user = None
    login_hint = "redis_auth in webdis.json must be the password in users.acl; restart Webdis then"

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        url: str,
        context: ssl.SSLContext,
        *,
        connections: int = 40,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        max_value: int = MAX_VALUE,
        retry_max: float = 15.0,
        subscribe: SubscribeChoice = "http",
        database: int = 0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = without_credentials(url)
        address = httpx.URL(url)
        self._address = address.copy_with(userinfo=b"")  # parsed once
        headers = [(b"Host", address.netloc), *_HEADERS]
        if address.userinfo:
            headers.append((b"Authorization", basic_credentials(address)))
        self._headers = httpx.Headers(headers)  # built once: for httpx that is half the work of a request
        self._context = context
        self.health = HubHealth(retry_max)
        self.clock_shift = ClockShift()
        self._timeout = timeout
        # It ends before the whole request does, so who did not answer, perhaps a proxy, is named.
        self._connect_wait = min(connect_timeout, _CONNECTING * timeout)
        self._limits = Limits()
        self.listening = 0
        self.database = database
        self.channel = EventChannel(self, url, context, subscribe, connect_timeout=connect_timeout)
        self._max_reply = max_value + BESIDE_VALUE
        self._large_reply = asyncio.Lock()
        # Not httpx.AsyncClient: it spends more time around a request than on sending it.
        self._transport = transport or HubTransport(self._address, context, proxy=environment_proxy(self._address))
        self._slots = asyncio.Semaphore(connections)

    def renew(self, context: ssl.SSLContext, *, drop: bool) -> None:
        """See `Hub`."""
        self._context = context
        if isinstance(self._transport, HubTransport):
            self._transport.renew(context, drop=drop)
        self.channel.renew(context, drop=drop)

    async def close(self) -> None:
        """Close every connection."""
        await self._transport.aclose()

    async def post(self, *content: bytes, most: int | None = None, room: Room | None = None) -> bytes:
        """Send a command, or a script over many commands; returns Webdis' answer.

        Args:
            content: the body, or its pieces.
            most: bytes that the answer may have; None: as many as any.
            room: where the answer is kept until it is parsed.

        Raises:
            PeerUnavailableError: it was not sent. OutcomeUnknownError: it was sent, and may or may not have been
                executed. CertificateError: either side refused TLS. HubError and its children: the answer is an HTTP
                error. ProtocolError: the answer is too large, or compressed although we did not ask for that.
        """
        if room is None:
            async with Room(self._large_reply) as own:
                return await self.post(*content, most=most, room=own)
        size = sum(map(len, content))
        seconds = self._timeout + size / SLOWEST
        # Those that waited for a slot while the hub went away must not try all the same: the trial comes last.
        async with self._slots, _Judged(self.health, self.url, self._context) as trial:
            with self._limits.within(seconds) as limit:
                response = await self._send(_in_pieces(content, size, partial(limit.put_off, seconds)), size)
                answer = await self._read(response, limit, self._max_reply if most is None else most, room)
            trial.answered()
        return answer

    def spell(self, words: Sequence[bytes]) -> bytes:
        """See `Hub`."""
        return escape_words(words)

    async def eval(
        self,
        script: bytes,
        words: Sequence[bytes],
        *,
        by_hash: bool = False,
        spelled: Sequence[bytes] = (),
        count: int = 0,  # noqa: ARG002 - Webdis counts itself
        most: int | None = None,
    ) -> list[bytes]:
        """See `Hub`."""
        if len(spelled) == 1 and len(spelled[0]) > _PIECE:
            pieces = script_pieces(script, words, spelled[0], by_hash=by_hash)
        else:
            pieces = [script_body(script, words, spelled, by_hash=by_hash)]
        return as_flat(await self._value(*pieces, most=most))

    async def command(self, *argv: bytes) -> object:
        """See `Hub`."""
        pieces = body_pieces(*argv) if sum(map(len, argv)) > _LARGE else (body(*argv),)
        return await self._value(*pieces, most=most_of(argv, self._max_reply))

    async def _value(self, *content: bytes, most: int | None) -> object:
        """The reply to this body."""
        async with Room(self._large_reply) as room:
            try:
                steps = reply_in_steps(await self.post(*content, most=most, room=room), most or self._max_reply)
                return cast("object", await _in_turns(steps))
            except CommandError as error:
                raise refusal(str(error)) from None

    async def integer(self, *argv: bytes) -> int:
        """See `Hub`."""
        try:
            return parse_integer(await self.post(integer_body(*argv), most=SMALL))
        except CommandError as error:
            raise refusal(str(error)) from None

    async def integers(self, *argv: bytes) -> list[int]:
        """See `Hub`."""
        try:
            return parse_integers(await self.post(integer_body(*argv), most=SMALL))
        except CommandError as error:
            raise refusal(str(error)) from None

    @property
    def event_channel(self) -> str | None:
        """See `Hub`."""
        return self.channel.kind

    def listen(self, pattern: bytes, *, silence: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """See `Hub`."""
        return self.channel.listen(pattern, silence=silence)

    async def distrust(self, why: RedisreplError) -> None:
        """See `Hub`."""
        await self.channel.distrust(why)

    @asynccontextmanager
    async def stream(self, content: bytes, *, silence: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a command whose reply does not end, and read it as it arrives, on a separate connection.

        Args:
            content: the body.
            silence: seconds without a byte after which the stream counts as dead.

        Raises:
            What `post` raises. SilentError: nothing came for so long, from the beginning or since the last byte.
        """
        if not self.health.well:  # who tries must get an answer, and a stream that is refused may never begin
            with suppress(CommandRefusedError):
                await self.command(b"PING")
        try:
            async with _Judged(self.health, self.url, self._context) as trial:
                response = await self._send(httpx.ByteStream(content), len(content), silence)
                try:
                    self._check_encoding(response)
                    if response.status_code != OK:
                        with self._limits.within(self._timeout):
                            raise http_error(self.url, await _beginning(response))
                    trial.answered()
                    yield response.aiter_raw()
                finally:
                    await response.aclose()
        except OutcomeUnknownError as error:
            if isinstance(error.__cause__, httpx.ReadTimeout):
                raise SilentError(f"the hub {self.url} sent nothing for {silence:g} s") from error
            raise

    async def _read(self, response: httpx.Response, limit: Limit, most: int, room: Room) -> bytes:
        """The body; each piece of it starts the time limit again.

        Large ones are read one at a time, since together they might need more memory than there is.
        """
        stream = cast("httpx.AsyncByteStream", response.stream)
        pieces: list[bytes] = []
        now = asyncio.get_running_loop().time
        patience = Patience(self._timeout, now())
        try:
            self._check_encoding(response)
            if response.status_code != OK:
                raise http_error(self.url, await _beginning(response))
            # The raw stream: httpx' own iterators would take longer than everything else in this method.
            async for piece in stream:
                pieces.append(piece)
                await room.grown(len(piece), limit)
                if room.size > most:
                    raise LimitExceededError(f"a reply of the hub {self.url}", room.size, most)
                if patience.is_over(now() - room.waited, room.size):  # bytes still arrive, but too slowly to wait for
                    raise TimeoutError
                limit.put_off(self._timeout)
            return b"".join(pieces)
        finally:
            pieces.clear()  # an error keeps this call, and whoever retries keeps the error
            await stream.aclose()

    def _check_encoding(self, response: httpx.Response) -> None:
        """Refuse a compressed answer: a few bytes of it could expand to any number."""
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise ProtocolError(
                f"the hub {self.url} answered HTTP {response.status_code} in the encoding {encoding[:20]!r}, which was"
                " not asked for: turn compression off in its proxy for this address"
            )

    async def _send(self, stream: httpx.AsyncByteStream, size: int, silence: float | None = None) -> httpx.Response:
        """The response, when its head has arrived; `silence`: seconds without a byte after which it counts as dead."""
        request = httpx.Request(
            "POST",
            self._address,
            headers=self._headers,
            stream=stream,
            extensions={"timeout": {"connect": self._connect_wait, "read": silence}, "size": size},
        )
        return await self._transport.handle_async_request(request)


class _Judged(Trial):
    """A trial that reports its own outcome to the hub's health, and translates exceptions into our errors.

    A class rather than a decorated generator, which takes three times as long, and each request needs one.
    """

    __slots__ = ("_context", "_url")

    def __init__(self, health: HubHealth, url: str, context: ssl.SSLContext) -> None:
        super().__init__(health)
        self._url = url
        self._context = context

    async def __aexit__(self, *raised: object) -> None:
        error, ours = raised[1], None
        try:
            if isinstance(error, httpx.RequestError | TimeoutError):
                ours = _ours(self._url, self._context, error)
                # One late answer does not mean that the hub is away: a script may be slow.
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
            del error, ours, raised  # or this call and the errors would hold each other, and what was read


def _ours(url: str, context: ssl.SSLContext, error: httpx.RequestError | TimeoutError) -> RedisreplError:
    """What went wrong with a request to the hub, as one of our errors."""
    if isinstance(error, TimeoutError):
        return OutcomeUnknownError(f"the hub {url} did not answer in time")
    # In TLS 1.3 the server refuses our certificate after our side of the handshake is complete: in any phase, for us.
    if (reason := tls_reason(error)) is not None:
        return CertificateError(f"the hub {url}: {with_trust(reason, context)}")
    text = str(error) or type(error).__name__
    if isinstance(error, _NEVER_SENT):
        return PeerUnavailableError(f"the hub {url} cannot be reached: {text}")
    if isinstance(error, httpx.TimeoutException):
        return OutcomeUnknownError(f"the hub {url} did not answer in time")
    return OutcomeUnknownError(f"the hub {url} broke the connection: {text}")


async def _in_turns(steps: Generator[None, None, Any]) -> Any:
    """The outcome of many steps, in between which others have their turn."""
    try:
        while True:
            next(steps)
            await asyncio.sleep(0)
    except StopIteration as done:
        return done.value


async def _beginning(response: httpx.Response) -> httpx.Response:
    """An error response with the beginning of its body."""
    body = b""
    async for piece in cast("httpx.AsyncByteStream", response.stream):
        body += piece
        if len(body) > _ERROR_BODY:
            break
    return httpx.Response(
        response.status_code, headers=response.headers, content=body[:_ERROR_BODY], extensions=response.extensions
    )


def _in_pieces(content: Sequence[bytes], size: int, moved: Callable[[], None]) -> httpx.AsyncByteStream:
    """A body; a large one is sent in pieces, since asyncio moves its whole buffer at each send.

    `moved` is called before each piece.
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
