"""The WebSocket of Webdis: one command in, its reply and what follows as it comes.

In: a command. Out: bytes of RESP, in the order in which Redis sent them, every failure as one of our errors. Left to
others: what the bytes say (`wire.webdis`), whether to come this way at all (`ways`).

At the path `/.raw` Webdis takes RESP in a text frame and sends RESP; where its frames end means nothing here. It sends
text frames that are no UTF-8 in older versions, so nothing is decoded.
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
from redisrepl.remote.transport import basic_credentials, environment_proxy
from redisrepl.tls.contexts import tls_reason
from redisrepl.wire.psync import encode_command

__all__ = ["WebSocketHub"]

#: A frame is one reply or message, so this bounds the length of a key.
_LARGEST_FRAME = 16 << 20
#: What Webdis says, outside of RESP, when it has lost its Redis.
_NO_REDIS = b"Service Unavailable"
#: What a hub must have.
_NEEDED = 'it takes Webdis 0.1.12 with "websockets": true, and a proxy that passes Upgrade'
#: The library would log frames, and with them keys, and the password in the address.
_NO_LOG = logging.getLogger("redisrepl.websocket")
_NO_LOG.setLevel(logging.CRITICAL + 1)


class _Connect(connect):
    """Without redirections: like the requests over HTTP, it goes where the address says or nowhere."""

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
        """Send a command whose reply does not end, and read it as it comes; a connection of its own.

        Args:
            argv: the command.
            silence: seconds without a frame after which the stream counts as dead.
            open_timeout: seconds until the hub must have agreed to speak WebSocket.

        Raises:
            what `HubSession.stream` raises; ProtocolError: the other side does not speak WebSocket as it should.
            SilentError: nothing came.
        """
        socket = await self._connect(self._url, open_timeout)
        self._sockets.add(socket)
        try:
            async with aclosing(self._frames(socket, encode_command(*argv), silence)) as frames:
                yield frames
        finally:
            self._sockets.discard(socket)
            socket.transport.abort()  # Webdis does not answer a farewell
            await socket.wait_closed()

    def renew(self, context: ssl.SSLContext, *, drop: bool) -> None:
        """Use other certificates from here on; `drop`: end what was begun with those of before."""
        self._context = context
        for socket in self._sockets if drop else ():
            socket.transport.abort()

    async def probe(self, *, open_timeout: float) -> None:
        """Find out whether the hub agrees to a WebSocket; raises what `stream` raises.

        A Webdis with `"websockets": false` takes a handshake for a command as well. At its root, where there is none,
        it refuses at once; the reply to `.raw` comes when the connection may be gone, and can reach another client.
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
        """What comes, until the hub ends it in order."""
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
        """Why there is no connection."""
        hub = f"the hub {self._shown}"
        if (reason := tls_reason(error)) is not None:
            return CertificateError(f"{hub}: {reason}")
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
                return SilentError(f"{hub} does not answer the handshake of a WebSocket: {_NEEDED}")
            case InvalidMessage(__cause__=EOFError()):
                return OutcomeUnknownError(f"{hub} broke the connection in the handshake of a WebSocket")
            case OSError():
                return PeerUnavailableError(f"{hub} cannot be reached: {str(error) or type(error).__name__}")
        return ProtocolError(f"{hub} does not speak WebSocket ({error}): {_NEEDED}")

    def _loss(self, error: ConnectionClosed) -> RedisreplError:
        """Why the connection is no more."""
        hub = f"the hub {self._shown}"
        if (reason := tls_reason(error)) is not None:
            return CertificateError(f"{hub}: {reason}")
        if error.sent is not None and not error.rcvd_then_sent:
            match error.sent.code:
                case CloseCode.PROTOCOL_ERROR | CloseCode.MESSAGE_TOO_BIG | CloseCode.INVALID_DATA:
                    return ProtocolError(f"{hub} sent a damaged frame: {error.sent.reason}")
        return OutcomeUnknownError(f"{hub} broke the connection: {error}")
