"""Chooses how the hub's events arrive: by a WebSocket where Webdis speaks it, or by a long poll over HTTP.

In: a pattern. Out: the bytes of a subscription as they arrive. Left to others: parsing them into messages
(`remote.hub`), what they mean and when to subscribe again (`remote.subscribe`).

Over a WebSocket, messages arrive in order and complete, and Webdis reports when it loses its Redis. Over HTTP, bursts
arrive in reverse, a slow reader gets damaged framing, and after a restart of the hub's Redis the stream stays open and
silent; but HTTP works with every Webdis, and through every proxy.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import structlog

from redisrepl.errors import CertificateError, CommandRefusedError, PeerUnavailableError, RedisreplError
from redisrepl.remote.health import HubHealth
from redisrepl.wire.webdis import body

if TYPE_CHECKING:
    from redisrepl.remote.websocket import WebSocketHub

__all__ = ["ChannelKind", "EventChannel", "SubscribeChoice"]

_log = structlog.get_logger("redisrepl")

ChannelKind = Literal["http", "websocket"]
SubscribeChoice = Literal["auto", "http", "websocket"]

#: Seconds for the hub to accept a WebSocket when HTTP is the alternative: Webdis before 0.1.12 never answers.
_BRIEF = 2.0
#: After this many seconds the next subscription tries the WebSocket again.
_FORGET = 3600.0


class _Requests(Protocol):
    """The part of `remote.session.HubSession` that its event channel needs."""

    health: HubHealth

    async def command(self, *argv: bytes) -> object:
        """Run one command."""

    def stream(self, content: bytes, *, silence: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Send a command whose reply does not end."""


class EventChannel:
    """Subscribes at one hub, and remembers whether WebSockets work there.

    Args:
        session: HTTPS to the hub.
        url: address of Webdis behind its TLS proxy, with its final slash.
        context: TLS, with the client certificate.
        choice: which protocol to use; `auto` means WebSocket, unless it fails while HTTP works.
        connect_timeout: seconds for a connection.

    Attributes:
        kind: the protocol in use; None until `auto` has chosen one.
    """

    def __init__(
        self,
        session: _Requests,
        url: str,
        context: ssl.SSLContext,
        choice: SubscribeChoice,
        *,
        connect_timeout: float,
    ) -> None:
        self._session = session
        self._url = url
        self._context = context
        self._choice = choice
        self._open_timeout = min(_BRIEF, connect_timeout) if choice == "auto" else connect_timeout
        self._trying = asyncio.Lock()  # one subscription tries, for those of all namespaces
        self._forget_at = 0.0
        self.kind: ChannelKind | None = None if choice == "auto" else choice

    @cached_property
    def _websocket(self) -> WebSocketHub:
        from redisrepl.remote.websocket import WebSocketHub  # noqa: PLC0415 - most daemons need not load it

        return WebSocketHub(self._url, self._context)

    @asynccontextmanager
    async def listen(self, pattern: bytes, *, silence: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a subscription to a pattern, on a connection of its own; see `Hub.listen`.

        Raises:
            What `HubSession.stream` and `WebSocketHub.stream` raise.
        """
        async with AsyncExitStack() as stack:
            yield await self._open(stack, pattern, silence)

    def renew(self, context: ssl.SSLContext, *, drop: bool) -> None:
        """Use other certificates from here on; see `HubSession.renew`."""
        self._context = context
        if "_websocket" in self.__dict__:
            self._websocket.renew(context, drop=drop)

    async def distrust(self, why: RedisreplError) -> None:
        """See `Hub`: use HTTP from now on if `auto` has chosen the WebSocket; raises if HTTP fails too."""
        if self._choice == "auto" and self.kind == "websocket":
            await self._turn_to_http(why)

    async def _open(self, stack: AsyncExitStack, pattern: bytes, silence: float) -> AsyncIterator[bytes]:
        if self._choice == "auto" and self.kind == "http" and time.monotonic() > self._forget_at:
            self.kind = None
        if self.kind is None:
            async with self._trying:
                if self.kind is None:
                    reads = await self._try_websocket(stack, pattern, silence)
                    if reads is not None:
                        return reads
        if self.kind == "websocket":
            reads = await self._try_websocket(stack, pattern, silence)
            if reads is not None:
                return reads
        return await stack.enter_async_context(self._session.stream(body(b"PSUBSCRIBE", pattern), silence=silence))

    async def _try_websocket(
        self, stack: AsyncExitStack, pattern: bytes, silence: float
    ) -> AsyncIterator[bytes] | None:
        """The reads of a subscription by WebSocket; None if it has to use HTTP.

        Webdis may die of a WebSocket that is opened while its Redis is down, so Redis is asked for first.
        """
        with suppress(CommandRefusedError):  # a refusal is an answer too
            await self._session.command(b"PING")
        try:
            async with self._session.health.trial() as trial:
                try:
                    if self.kind is None:
                        await self._websocket.probe(open_timeout=self._open_timeout)
                    reads = await stack.enter_async_context(
                        self._websocket.stream(b"PSUBSCRIBE", pattern, silence=silence, open_timeout=self._open_timeout)
                    )
                except (PeerUnavailableError, CertificateError):
                    trial.failed()
                    raise  # HTTP would fail in the same way
                trial.answered()
        except (PeerUnavailableError, CertificateError):
            raise
        except RedisreplError as error:
            if self._choice == "websocket":
                raise
            await self._turn_to_http(error)
            return None
        if self.kind is None:
            self.kind = "websocket"
            _log.info("subscribe.channel", channel=self.kind)
        return reads

    async def _turn_to_http(self, why: RedisreplError) -> None:
        """The WebSocket failed: use HTTP if that works. If not, the hub is away, and the failure proves nothing."""
        with suppress(CommandRefusedError):  # a refusal is an answer too: HTTP works
            await self._session.command(b"PING")
        self._forget_at = time.monotonic() + _FORGET
        if self.kind != "http":
            self.kind = "http"
            _log.info("subscribe.channel", channel=self.kind, why=str(why))
