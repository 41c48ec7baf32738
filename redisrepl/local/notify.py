"""Subscribes to the keyspace events of the site, where its replication stream cannot be used.

In: namespaces. Out: keys and events in the site's order, and from when on none is missed. Left to others: what an event
means (`sources.keyspace`), comparing after lost events (`flow.sweep`).

When the connection is silent, we send a PING. The notification flags are checked now and then: if somebody removes
them, the server sends no events, but the connection stays up.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import hiredis
import redis.asyncio
import redis.exceptions
import structlog

from redisrepl.errors import CertificateError, LinkLostError, PeerUnavailableError, ProtocolError, RefusedError
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import INFO, LOGIN_HINT, Followed, ask, history_in, translated
from redisrepl.local.connection import find_master, open_connection
from redisrepl.local.linger import Linger
from redisrepl.local.sentinel import MasterWatch
from redisrepl.namespaces import glob_escape
from redisrepl.permission import Permission
from redisrepl.tls.contexts import tls_reason
from redisrepl.wire.keyspace import NOTIFY_OPTION, missing_flags
from redisrepl.wire.psync import encode_command
from redisrepl.wire.replies import as_option
from redisrepl.wire.resp import DAMAGED, PIECE, RespReader, resp_size
from redisrepl.wire.walker import ELEMENT

__all__ = ["EventsLost", "SiteEvents", "SiteKeyEvents", "Subscribed"]

_log = structlog.get_logger("redisrepl")

_CHUNK = 256 << 10
_LONGEST_WORD = 16 << 20
_LARGEST_MESSAGE = 2 * _LONGEST_WORD
#: Seconds between checks of the flags.
_FLAGS_PERIOD = 30.0
#: Seconds before the second check: right after a failover, the first may have asked the replaced server.
_FLAGS_AGAIN = 3.0
_LEAST_WAIT = 0.05
#: A server answers a PING with this once it has read its own data: what it reads from an append-only file makes events
#: as if clients wrote it.
_LIVE = b"live"
_OF_INFO = b"# Replication"
_NOT_NOW = ("LOADING", "MASTERDOWN", "TRYAGAIN", "BUSY ", "ERR max number of clients")


@dataclass(frozen=True, slots=True)
class Subscribed:
    """From now on we receive every event; earlier changes were not seen.

    Attributes:
        history: replication id of the server; empty if it does not tell.
    """

    history: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class SiteKeyEvents:
    """Keys and names of events, in the order in which they happened."""

    events: Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class EventsLost:
    """Events were lost although the subscription did not end."""

    reason: str


class SiteEvents:
    """One subscription after another to the keyspace events of the site's namespaces.

    Args:
        address: of the site's Redis.
        client: for the notification flags; used before any server counts as followed, so it may talk to any.
        prefixes: the namespaces.
        kinds: which of `changes.KINDS` are replicated.
        silence: seconds without a byte after which the subscription counts as dead; after a third of them we send PING.
        connect_wait: seconds for connecting.
        followed: knows whether a client of this address has met another server.
        linger: pauses between small reads.
    """

    def __init__(
        self,
        address: SiteAddress,
        client: redis.asyncio.Redis,
        prefixes: Sequence[bytes],
        kinds: frozenset[str],
        *,
        silence: float = 60.0,
        connect_wait: float = 10.0,
        followed: Followed | None = None,
        linger: Linger | None = None,
    ) -> None:
        self._address = address
        self._linger = linger or Linger()
        self._followed = followed or Followed()
        self._client = client
        self._kinds = kinds
        self._silence = silence
        self._connect_wait = connect_wait
        self._head = b"__keyspace@%d__:" % address.database
        self._patterns = [self._head + glob_escape(prefix) + b"*" for prefix in prefixes]
        self._configures = Permission()
        self._history = ""
        self._pings: _Pings | None = None  # of the present subscription

    async def caught_up(self) -> None:
        """Return once all events were yielded, and taken, of what happened at the site before this was called.

        Raises:
            LinkLostError: there is no subscription, or it ended meanwhile.
        """
        if self._pings is None:
            raise LinkLostError(f"there is no subscription at {self._address}")
        await self._pings.answered()

    async def events(self) -> AsyncGenerator[Subscribed | SiteKeyEvents | EventsLost, None]:
        """Subscribe, and yield events until the subscription ends.

        Raises:
            LinkLostError: it ended; PeerUnavailableError: the server is away or not ready; RefusedError: it refuses us.
            ProtocolError: the server sent something that is not RESP.
        """
        watch = MasterWatch(self._address, self._connect_wait)
        master = await find_master(self._address, self._connect_wait)
        reader, writer = await open_connection(master, self._connect_wait)
        parser = RespReader(_LARGEST_MESSAGE, skip=_too_long, cost=ELEMENT)
        live = False
        pings = _Pings(writer)
        try:
            writer.write(b"".join(encode_command(*argv) for argv in self._opening()))
            heard = time.monotonic()
            flags_due = math.inf
            while True:
                wait = min(self._silence / 3, min(watch.due, flags_due) - time.monotonic())
                data = await self._read(reader, max(wait, _LEAST_WAIT))
                now = time.monotonic()
                if successor := await watch.successor(master.host, master.port):
                    raise LinkLostError(f"{self._address}: {master} was replaced by {successor}")
                if self._followed.differs:
                    raise LinkLostError(f"{self._address}: another server answers there now")
                if data is None:
                    if now - heard > self._silence:
                        raise LinkLostError(f"no byte from {self._address} for {self._silence:g} s")
                    writer.write(encode_command(b"PING"))
                else:
                    heard = now
                    events, answers = self._parse(parser, data)
                    if not live and _LIVE in answers:
                        live = True
                        await self._ensure_flags()
                        flags_due = now + min(_FLAGS_AGAIN, _FLAGS_PERIOD)
                        self._pings = pings
                        yield Subscribed(self._history)
                    elif live and events:
                        yield SiteKeyEvents(events)
                    pings.take(answers)  # now that the events before them were taken
                    if live:
                        await self._linger.pause(len(data), writer)
                        heard = time.monotonic()  # nobody listened meanwhile
                if now >= flags_due:
                    flags_due = now + _FLAGS_PERIOD
                    if added := await self._ensure_flags():
                        yield EventsLost(f"the site's {NOTIFY_OPTION} lacked {added}")
        finally:
            self._pings = None
            pings.end(f"the subscription at {self._address} ended")
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _opening(self) -> Iterator[Sequence[bytes]]:
        """The commands with which a connection begins; the answer to the last shows that the subscription is live."""
        if (password := self._address.password_bytes) is not None:
            username = [] if self._address.username is None else [self._address.username.encode()]
            yield (b"AUTH", *username, password)
        yield INFO
        yield (b"PSUBSCRIBE", *self._patterns)
        yield (b"PING", _LIVE)

    async def _read(self, reader: asyncio.StreamReader, wait: float) -> bytes | None:
        """The next bytes; None if none arrive in time."""
        try:
            async with asyncio.timeout(wait):
                data = await reader.read(_CHUNK)
        except TimeoutError:
            return None
        except OSError as error:
            # In TLS 1.3 the server checks our certificate after our side of the handshake is complete.
            if (trouble := tls_reason(error)) is not None:
                raise CertificateError(f"the site's Redis {self._address}: {trouble}") from error
            raise LinkLostError(f"the subscription at {self._address} broke: {error.strerror or error}") from error
        if not data:
            raise LinkLostError(f"{self._address} closed the subscription")
        return data

    def _parse(self, parser: RespReader, data: bytes) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
        """The events in these bytes, and which PINGs were answered."""
        found: list[tuple[bytes, bytes]] = []
        answers: list[bytes] = []
        skip = len(self._head)
        try:
            for start in range(0, len(data), PIECE):
                size = 0
                for item in parser.feed(data[start : start + PIECE]):
                    match item:
                        case [b"pmessage", _, bytes(channel), bytes(event)]:
                            found.append((channel[skip:], event))
                        case [b"pong", bytes(number)]:
                            answers.append(number)
                        case bytes() if item.startswith(_OF_INFO):
                            self._history = history_in(item)
                        case hiredis.ReplyError() if "info" in str(item):
                            self._history = ""  # INFO is refused
                        case hiredis.ReplyError():
                            raise self._refusal(str(item))
                        case _:
                            pass  # +OK to AUTH, and the confirmations, which come before the answer to the PING
                    size += _size(item)
                if parser.sizes is None:
                    parser.taken(size)
        except DAMAGED as error:
            raise ProtocolError(f"{self._address} sent what is not RESP: {error}") from error
        return found, answers

    def _refusal(self, text: str) -> Exception:
        who = f"the site's Redis {self._address}"
        if text.startswith(_NOT_NOW):
            return PeerUnavailableError(f"{who} is not ready: {text}")
        if text.startswith(("NOAUTH", "WRONGPASS")) or "AUTH" in text:
            return RefusedError(f"{who} refuses us: {text.rstrip('.')}: {LOGIN_HINT}")
        patterns = " ".join("&" + pattern.decode("utf-8", "backslashreplace") for pattern in self._patterns)
        return RefusedError(f"{who} refuses PSUBSCRIBE: {text}: allow it to this user (ACL: +psubscribe {patterns})")

    async def _ensure_flags(self) -> str:
        """Add the notification flags that are missing, perhaps since a restart; returns them."""
        if not self._configures.worth_trying:
            return ""
        flags = missing = ""
        with translated(self._address):
            try:
                option = NOTIFY_OPTION.encode()
                reply = await ask(self._client, b"CONFIG", b"GET", option)
                flags = as_option(reply, f"CONFIG GET at the site's Redis {self._address}")
                if missing := missing_flags(flags, self._kinds):
                    await ask(self._client, b"CONFIG", b"SET", option, (flags + missing).encode())
                    _log.info("site.notifications_enabled", added=missing, before=flags)
            except redis.exceptions.ResponseError as error:
                if isinstance(error, (redis.exceptions.AuthenticationError, redis.exceptions.ReadOnlyError)):
                    raise
                if self._configures.refused():
                    self._say_unknown(error, missing)
                return ""
        if self._configures.granted():
            _log.info("site.notifications_allowed")
        return missing

    def _say_unknown(self, error: Exception, missing: str) -> None:
        """Warn that we cannot see or set the flags: an administrator has to set them, or to let us."""
        wanted = missing_flags("", self._kinds)
        _log.warning(
            "site.notifications_unknown",
            error=str(error),
            missing=missing or "unknown",
            hint=f"have {NOTIFY_OPTION} of the site's Redis include {wanted}: without it writes there are not seen",
        )


class _Pings:
    """Tells when a server has sent all events of what happened before: it answers a PING behind them.

    Args:
        writer: of the subscription.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._sent: dict[bytes, asyncio.Future[None]] = {}
        self._count = 0

    async def answered(self) -> None:
        """Send one, and return once it is answered."""
        self._count += 1
        number = b"%d" % self._count
        answer = self._sent[number] = asyncio.get_running_loop().create_future()
        self._writer.write(encode_command(b"PING", number))
        try:
            await answer
        finally:
            self._sent.pop(number, None)

    def take(self, numbers: Iterable[bytes]) -> None:
        """These were answered; what was not sent here, nobody waits for."""
        for number in numbers:
            if (answer := self._sent.get(number)) is not None and not answer.done():
                answer.set_result(None)

    def end(self, reason: str) -> None:
        """The others will not be answered any more."""
        for answer in self._sent.values():
            if not answer.done():
                answer.set_exception(LinkLostError(reason))


def _size(item: object) -> int:
    """Bytes that a reply took on the wire."""
    if isinstance(item, hiredis.ReplyError):
        return len(f"-{item}\r\n".encode())
    if isinstance(item, bytes) and not item.startswith(_OF_INFO):
        return len(b"+%b\r\n" % item)
    return resp_size(item)


def _too_long(_: object, length: int) -> bool:
    """Whether to skip a word while it arrives: it is too long for the name of a key that we replicate."""
    return length > _LONGEST_WORD
