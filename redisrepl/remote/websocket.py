"""Subscribes through the WebSocket of Webdis: sends one command, and yields its reply and what follows as it arrives.

In: a command. Out: bytes of RESP, in the order in which Redis sent them, every failure as one of our errors. Left to
others: parsing the bytes (`wire.messages`), whether to use a WebSocket at all (`remote.channel`).

At the path `/.raw` Webdis accepts RESP in a text frame and sends RESP; the borders of its frames mean nothing. Older
versions send text frames that are not UTF-8, so frames are not decoded.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
)
from websockets.frames import CloseCode

from redisrepl.errors import (
    CertificateError,
    ConfigError,
    LinkLostError,
    OutcomeUnknownError,
    PeerUnavailableError,
    ProtocolError,
    RedisreplError,
    SilentError,
)
from redisrepl.remote.address import USER_AGENT, without_credentials
from redisrepl.remote.statuses import http_error
from redisrepl.remote.transport import basic_credentials, environment_proxy, named_proxy, parse_url
from redisrepl.tls.contexts import tls_reason
from redisrepl.wire.psync import encode_command

__all__ = ["WebSocketHub"]

#: A frame is one reply or message, so this bounds the length of a key.
_LARGEST_FRAME = 16 << 20
#: What Webdis sends, outside of RESP, when it has lost its Redis.
_NO_REDIS = b"Service Unavailable"
#: What the hub needs for WebSockets, for messages.
_NEEDED = 'it takes Webdis 0.1.12 with "websockets": true, and a proxy that passes Upgrade'
#: The library would log frames, and with them keys, and the password in the address.
_NO_LOG = logging.getLogger("redisrepl.websocket")
_NO_LOG.setLevel(logging.CRITICAL + 1)


class _Connect(connect):
    """Follows no redirections, like our requests over HTTP."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class WebSocketHub:
    """Connections to the WebSocket side of the hub.

    Args:
        url: address of Webdis behind its TLS proxy, with its final slash.
        context: TLS, with the client certificate.
    """

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        address = httpx.URL(url)
        self._shown = without_credentials(url)
        self._root = str(address.copy_with(scheme="wss", userinfo=b""))
        self._url = self._root + ".raw"
        self._context = context
        self._sockets: set[ClientConnection] = set()
        self._headers = {}
        if address.userinfo:
            self._headers["Authorization"] = basic_credentials(address).decode()

    @asynccontextmanager
    async def stream(self, *argv: bytes, silence: float, open_timeout: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """Send a command whose reply does not end, and read it as it arrives, on a separate connection.

        Args:
            argv: the command.
            silence: seconds without a frame after which the stream counts as dead.
            open_timeout: seconds until the hub must have accepted the WebSocket.

        Raises:
            what `HubSession.stream` raises; ProtocolError: the other side does not speak WebSocket as it should.
            SilentError: nothing came over it.
        """
        socket = await self._connect(self._url, open_timeout)
        self._sockets.add(socket)
        try:
            async with aclosing(self._frames(socket, encode_command(*argv), silence)) as frames:
                yield frames
        finally:
            self._sockets.discard(socket)
            socket.transport.abort()  # without the closing handshake, which Webdis does not answer
            await socket.wait_closed()

    def renew(self, context: ssl.SSLContext, *, drop: bool) -> None:
        """Use this context from now on; `drop`: end connections that were made with the former one."""
        self._context = context
        for socket in self._sockets if drop else ():
            socket.transport.abort()

    async def probe(self, *, open_timeout: float) -> None:
        """Find out whether the hub accepts a WebSocket; raises what `stream` raises.

        So we ask at its root first. A Webdis with `"websockets": false` also takes the handshake for a command: at its
        root there is no command, so it refuses at once. Its reply to `.raw` may come when the connection is gone, and
        can then reach another client.
        """
        socket = await self._connect(self._root, open_timeout)
        socket.transport.abort()
        await socket.wait_closed()

    async def _connect(self, url: str, open_timeout: float) -> ClientConnection:
        try:
            return await _Connect(
                url,
                ssl=self._context,
                proxy=environment_proxy(httpx.URL(url)),  # the library's own choice leaves out ALL_PROXY
                additional_headers=self._headers,
                user_agent_header=USER_AGENT,
                compression=None,
                max_size=_LARGEST_FRAME,
                open_timeout=open_timeout,
                logger=_NO_LOG,
            )
        except (OSError, TimeoutError, InvalidHandshake, InvalidProxy, InvalidURI, ImportError) as error:
            raise self._refusal(error) from error

    async def _frames(self, socket: ClientConnection, command: bytes, silence: float) -> AsyncGenerator[bytes]:
        """The frames, until the hub closes the WebSocket in order."""
        try:
            await socket.send(command, text=True)
            while True:
                async with asyncio.timeout(silence):
                    frame = await socket.recv(decode=False)
                if frame == _NO_REDIS:
                    raise LinkLostError(f"the hub {self._shown} says {_NO_REDIS.decode()}: it has lost its Redis")
                yield frame
        except ConnectionClosedOK:
            return
        except ConnectionClosed as error:
            raise self._loss(error) from error
        except TimeoutError as error:
            raise SilentError(f"the hub {self._shown} sent nothing by WebSocket for {silence:g} s") from error

    def _refusal(self, error: Exception) -> RedisreplError:
        """Why no connection was made, as one of our errors."""
        hub = f"the hub {self._shown}"
        if (reason := tls_reason(error)) is not None:
            return CertificateError(f"{hub}: {reason}")
        hub += self._way()
        match error:
            case InvalidStatus(response=answer):
                pause = [pair for pair in answer.headers.raw_items() if pair[0].lower() == "retry-after"]
                response = httpx.Response(answer.status_code, headers=pause, content=bytes(answer.body or b""))
                return http_error(f"{self._shown}, asked for a WebSocket,", response)
            case InvalidProxyStatus(response=answer):
                said = f"the HTTP proxy answers {answer.status_code} {answer.reason_phrase}"
                return PeerUnavailableError(f"{hub} cannot be reached: {said}")
            case InvalidProxy(msg=why) | ImportError(msg=why):  # the text of the first shows the password
                return ConfigError(f"the proxy in the environment cannot be used for a WebSocket: {why}")
            case TimeoutError():
                return LinkLostError(f"{hub} does not answer the handshake of a WebSocket: {_NEEDED}")
            case InvalidMessage(__cause__=EOFError()):
                return OutcomeUnknownError(f"{hub} broke the connection in the handshake of a WebSocket")
            case OSError():
                return PeerUnavailableError(f"{hub} cannot be reached: {str(error) or type(error).__name__}")
        return ProtocolError(f"{hub} does not speak WebSocket ({error}): {_NEEDED}")

    def _way(self) -> str:
        """By which proxy the hub is reached, for messages; empty: by none."""
        proxy = environment_proxy(httpx.URL(self._root))
        try:
            return f" (by way of {named_proxy(parse_url(proxy))})" if proxy else ""
        except ValueError:
            return ""

    def _loss(self, error: ConnectionClosed) -> RedisreplError:
        """Why the connection ended, as one of our errors."""
        hub = f"the hub {self._shown}"
        if (reason := tls_reason(error)) is not None:
            return CertificateError(f"{hub}: {reason}")
        if error.sent is not None and not error.rcvd_then_sent:
            match error.sent.code:
                case CloseCode.PROTOCOL_ERROR | CloseCode.MESSAGE_TOO_BIG | CloseCode.INVALID_DATA:
                    return ProtocolError(f"{hub} sent a damaged frame: {error.sent.reason}")
        return OutcomeUnknownError(f"{hub} broke the connection: {error}")
