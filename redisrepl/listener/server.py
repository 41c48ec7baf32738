"""Serves /metrics, /livez, /readyz, /status.json, the status page and its events.

In: requests. Out: responses. Left to others: the daemon's state (`observe.state`), its presentation
(`listener.metrics`, `listener.page`).

Clients cost little: all of them share one document a second, connections are few and short, from before their TLS
handshake until nothing of them is left, and a client that does not read is disconnected. Nor do they keep others out:
where there are too many connections, a new one takes the place of the oldest of whoever has the most, so that probes
are answered in a flood. Those that follow the page have places of their own.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol, cast

import structlog

from redisrepl.errors import without_frames
from redisrepl.listener.addresses import ListenAddress, Listening
from redisrepl.listener.http import LONGEST_HEAD, BadRequestError, Request, Response, read_request
from redisrepl.listener.metrics import Metrics
from redisrepl.listener.page import StatusPage
from redisrepl.observe.failures import FailureLog
from redisrepl.observe.history import History
from redisrepl.observe.recent import recent
from redisrepl.observe.socket import SocketFile

__all__ = ["Listener", "Subject"]

_log = structlog.get_logger("redisrepl")

#: Most connections at a time, and beside them those that receive events of the page.
_CONNECTIONS = 64
_STREAMS = 16
#: Connections that may wait until we take them, and how many of them we take at once: few in relation to those that may
#: be open, so that what a new one has sent is read before others take its place.
_WAITING = 128
_AT_ONCE = 8
#: Seconds within which a client must send its request, and within which it must read the response; before, for the
#: handshake, and after, to take what is on its way and end the connection.
_PATIENCE = 10.0
#: Seconds between two events of the page.
_EVENTS = 2.0
#: Seconds for which a document is reused.
_FRESH = 0.9
#: Seconds between two attempts to listen.
_RETRY = 5.0
#: Seconds that a change may wait before the daemon counts as not ready.
_OVERDUE = 60.0
#: Seconds without a tick after which the event loop counts as dead.
_STUCK = 30.0

_TEXT = "text/plain; charset=utf-8"


class Subject(Protocol):
    """What the listener needs of the daemon."""

    def document(self) -> dict[str, object]:
        """Its state, without asking a server."""

    async def full_document(self) -> dict[str, object]:
        """The same with the lag in bytes, which takes a request to the site."""

    def lag(self) -> float | None:
        """Seconds that the oldest change has waited; None if unknown."""


class Listener:
    """The HTTP server of one daemon.

    Args:
        listening: where it listens, and who may ask.
        subject: the daemon.

    Attributes:
        failure_log: failures to listen.
        history: the last hour.
        access: who may ask.
    """

    def __init__(self, listening: Listening, subject: Subject) -> None:
        self._places, self.access = listening
        self._subject = subject
        self.failure_log = FailureLog("listen")
        self.history = History()
        self._metrics = Metrics()
        self._page = StatusPage()
        self._known: dict[str, object] = {}
        self._known_at = -_FRESH
        self._asking = asyncio.Lock()
        self._servers: dict[ListenAddress, asyncio.Server] = {}
        self._files: list[SocketFile] = []
        self._open: set[asyncio.Task[None]] = set()
        self._entered: dict[asyncio.Transport, _Client] = {}  # those that take a place, oldest first
        self._streams = 0
        self._ticked_at = time.monotonic()
        self._routes: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/": self._show_page,
            "/metrics": self._show_metrics,
            "/status.json": self._show_status,
        }

    def tick(self, now: float) -> None:
        """Take a sample of the state; called once a second.

        Args:
            now: seconds that never go backwards.
        """
        self._ticked_at = now
        document = self._subject.document() if self.history.is_due(now) else None
        self.history.sample(now, self._subject.lag(), document)

    async def run(self) -> None:
        """Listen until cancelled. An address that fails is logged and retried; replication goes on."""
        try:
            self._warn()
            while failed := [reason for place in self._places if (reason := await self._try(place)) is not None]:
                self.failure_log.failed("; ".join(failed))
                await asyncio.sleep(_RETRY)
            self.failure_log.succeeded()
            await asyncio.get_running_loop().create_future()
        finally:
            self.close()

    async def _try(self, place: ListenAddress) -> str | None:
        """Listen at an address, unless that is done; why that fails, if it does."""
        if place not in self._servers:
            try:
                self._servers[place] = await self._listen(place)
            except OSError as error:
                return f"--listen {place}: {(error.strerror or str(error)).lower()}"
            _log.info("listen.started", address=_shown(place, self._servers[place]))
        return None

    def close(self) -> None:
        """Stop listening, and end all connections."""
        for server in self._servers.values():
            server.close()
        for file in self._files:
            file.remove()
        self._servers.clear()
        self._files.clear()
        self.end_connections()

    def end_connections(self) -> None:
        """End all that are open: clients connect again, if they may."""
        for task in self._open:
            task.cancel()

    async def _listen(self, place: ListenAddress) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if place.path is not None:
            # Its group may connect too. A setgid directory passes its own group on to the socket.
            file = SocketFile(place.path, 0o660)
            self._files.append(file)
            server: asyncio.Server = await loop.create_unix_server(
                lambda: _Arrival(self._enter, None), sock=file.listening, backlog=_AT_ONCE
            )
        else:
            context = self.access.context
            # Not `ssl=context`: asyncio would tell of a connection only after its handshake, and let any number wait.
            server = await loop.create_server(
                lambda: _Arrival(self._enter, context), place.host, place.port, backlog=_AT_ONCE
            )
        for listens in server.sockets:  # asyncio has one number for how many wait and how many are taken at once
            with listens.dup() as same:
                same.listen(_WAITING)
        return server

    def _warn(self) -> None:
        """Warn about settings that are allowed but seldom intended."""
        if all(place.is_local for place in self._places):
            return
        access = self.access
        if access.context is None:
            _log.warning("listen.open", hint="the token is sent without TLS: give --listen-cert too")
        elif not access.token and access.files is not None and access.files.ca is None:
            _log.warning(
                "listen.open", hint="whoever reaches the port may read: give --listen-token-file or --listen-ca"
            )

    def _enter(self, transport: asyncio.Transport, context: ssl.SSLContext | None) -> None:
        """Serve this connection, in the place of another one if there are too many."""
        if len(self._entered) >= _CONNECTIONS:
            self._make_room()
        peer = transport.get_extra_info("peername")
        client = self._entered[transport] = _Client(peer[0] if isinstance(peer, tuple) else "")
        if context is not None:
            transport.pause_reading()  # what comes first is for TLS

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            client.task = asyncio.current_task()
            try:
                await self._answer(reader, writer, context, transport)
            finally:
                transport.abort()  # what it has not read until now would be kept for as long as it likes
                self._entered.pop(transport, None)

        protocol = _Protocol(asyncio.StreamReader(LONGEST_HEAD), answer)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _make_room(self) -> None:
        """End the oldest connection of whoever has the most."""
        most, _ = Counter(client.address for client in self._entered.values()).most_common(1)[0]
        oldest = next(transport for transport, client in self._entered.items() if client.address == most)
        task = self._entered.pop(oldest).task
        oldest.abort()
        if task is not None:
            task.cancel()  # it may be waiting for the document, and keeps all of the connection

    async def _answer(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        context: ssl.SSLContext | None,
        transport: asyncio.Transport,
    ) -> None:
        """Serve one connection, until nothing is left of it."""
        task = asyncio.current_task()
        if task is not None:
            self._open.add(task)
        try:
            if context is not None:
                await _start_tls(writer, context)
            await self._converse(reader, writer, transport)
            writer.close()
            async with asyncio.timeout(_PATIENCE):
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.CancelledError) as error:
            # The streams keep it, and it these calls, and they the streams: with TLS 300 KB wait for the collector.
            without_frames(error)
        finally:
            if task is not None:
                self._open.discard(task)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transport: asyncio.Transport
    ) -> None:
        local = writer.get_extra_info("socket").family.name == "AF_UNIX"
        try:
            async with asyncio.timeout(_PATIENCE):
                request = await read_request(reader)
        except BadRequestError as error:
            await _send(writer, _plain(error.status))
            return
        if request is None:
            return
        if (refusal := self._refusal(request, local=local)) is not None:
            await _send(writer, refusal)
        elif request.path == "/events":
            await self._follow(writer, transport)
        else:
            await _send(writer, await self._respond(request))

    def _refusal(self, request: Request, *, local: bool) -> Response | None:
        """The response that refuses a request; None if it may be served."""
        if request.method != "GET":
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, headers=(("Allow", "GET"),))
        probes, host = request.path in {"/livez", "/readyz"}, request.headers.get("host", "")
        # Load balancers probe without one (HTTP/1.0); a browser, against which this guards, always sends one.
        if (host or not probes) and not local and not self.access.knows_host(host):
            hint = "this name is not known here: ask by localhost or an IP address, or name it with --listen-host"
            return _plain(HTTPStatus.MISDIRECTED_REQUEST, hint)
        if probes:
            return None  # they carry no token, and learn only yes or no
        if not self.access.shows_token(request.headers):
            login = (
                'Bearer realm="redisrepl", Basic realm="redisrepl: any user, the token as password", charset="UTF-8"'
            )
            return _plain(HTTPStatus.UNAUTHORIZED, headers=(("WWW-Authenticate", login),))
        return None

    async def _respond(self, request: Request) -> Response:
        match request.path:
            case "/livez":
                alive = time.monotonic() - self._ticked_at < _STUCK
                return _verdict(alive, "alive", "the loop is stuck")
            case "/readyz":
                return self._readiness()
        route = self._routes.get(request.path)
        if route is None:
            return _plain(HTTPStatus.NOT_FOUND, "there are /, /metrics, /status.json, /livez and /readyz")
        return await route(request)

    def _readiness(self) -> Response:
        """Whether the daemon is attached and subscribed, and no change waits too long."""
        document = self._subject.document()
        subscriptions = document.get("subscriptions") or []
        lag = self._subject.lag()
        for wrong, said in (
            (document.get("state") == "starting", "starting"),
            (document.get("attached_at") is None, "not attached to the site's Redis"),
            (
                isinstance(subscriptions, list) and not all(s["live"] for s in subscriptions),
                "not subscribed at the hub",
            ),
            (lag is not None and lag > _OVERDUE, "changes are overdue"),
        ):
            if wrong:
                return _verdict(False, "", said)
        return _verdict(True, "ready", "")

    async def _document(self) -> dict[str, object]:
        """The full state; simultaneous requests share one request to the site."""
        async with self._asking:
            if time.monotonic() - self._known_at >= _FRESH:
                self._known = await self._subject.full_document()
                self._known_at = time.monotonic()
            return self._known

    async def _show_metrics(self, request: Request) -> Response:
        document = await self._document()
        body, content_type = self._metrics.text(document, self._subject.lag(), request.headers.get("accept", ""))
        return Response(HTTPStatus.OK, body, content_type)

    async def _show_status(self, _request: Request) -> Response:
        body = json.dumps(await self._document()).encode() + b"\n"
        return Response(HTTPStatus.OK, body, "application/json")

    async def _show_page(self, _request: Request) -> Response:
        sections = await self._sections()
        return Response(
            HTTPStatus.OK,
            self._page.whole(sections),
            "text/html; charset=utf-8",
            (("Content-Security-Policy", self._page.policy),),
        )

    async def _sections(self) -> dict[str, str]:
        document = await self._document()
        return self._page.sections(document, self._subject.lag(), self.history, recent.lines(), time.time())

    async def _follow(self, writer: asyncio.StreamWriter, transport: asyncio.Transport) -> None:
        """Send changed sections of the page until the client leaves."""
        if self._streams >= _STREAMS:
            await _send(writer, _plain(HTTPStatus.SERVICE_UNAVAILABLE, "too many follow the page"))
            return
        self._streams += 1
        self._entered.pop(transport, None)
        try:
            await _send(writer, Response(HTTPStatus.OK, b"retry: 3000\n\n", "text/event-stream", streams=True))
            sent: dict[str, str] = {}
            while not writer.is_closing():
                sections = await self._sections()
                changed = {name: html for name, html in sections.items() if sent.get(name) != html}
                sent = sections
                await _write(writer, b"data: " + json.dumps(changed).encode() + b"\n\n")
                await asyncio.sleep(_EVENTS)
        finally:
            self._streams -= 1


@dataclass(slots=True)
class _Client:
    """Who takes a place.

    Attributes:
        address: from where; empty for a socket of the file system.
        task: serves it, once it has begun.
    """

    address: str
    task: asyncio.Task[None] | None = None


class _Protocol(asyncio.StreamReaderProtocol):
    """A connection that is served."""

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            without_frames(exc)  # else the reader keeps it, and all that it came through, until the collector comes
        super().connection_lost(exc)


class _Arrival(asyncio.Protocol):
    """A connection that has just been made."""

    def __init__(
        self, enter: Callable[[asyncio.Transport, ssl.SSLContext | None], None], context: ssl.SSLContext | None
    ) -> None:
        self._enter = enter
        self._context = context

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See the class."""
        self._enter(cast("asyncio.Transport", transport), self._context)


async def _start_tls(writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
    """Take the handshake of a client.

    Raises:
        OSError: it fails.
    """
    arrived = writer.transport
    try:
        await writer.start_tls(context, ssl_handshake_timeout=_PATIENCE)
    except AttributeError:
        # If the connection ends right behind the handshake, asyncio returns no transport and stumbles over that, here
        # and when it forgets the writer.
        left: object = writer.transport
        if left is not None:
            raise
        writer._transport = arrived  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way to set it
        raise ConnectionResetError("the connection ended with its handshake") from None


async def _send(writer: asyncio.StreamWriter, response: Response) -> None:
    await _write(writer, response.encoded())


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    async with asyncio.timeout(_PATIENCE):
        await writer.drain()


def _plain(status: HTTPStatus, text: str = "", headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, f"{text or status.phrase.lower()}\n".encode(), _TEXT, headers)


def _verdict(good: bool, yes: str, no: str) -> Response:
    return _plain(HTTPStatus.OK, yes) if good else _plain(HTTPStatus.SERVICE_UNAVAILABLE, no)


def _shown(place: ListenAddress, server: asyncio.Server) -> str:
    """The address, with the port that the system chose for port 0."""
    if place.path is not None:
        return str(place)
    return str(ListenAddress(place.host, server.sockets[0].getsockname()[1]))
