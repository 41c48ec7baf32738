"""Talks to the hub's Redis directly over TLS, for sites that can reach it.

In: commands and scripts. Out: their replies, failures as our errors. Left to others: encoding a request and parsing a
reply (`wire.psync`, `wire.replyreader`), TLS (`tls.contexts`), which commands to send (`remote.push`, `remote.fetch`).

A connection carries one request at a time, as those to Webdis do. So a large value delays no other request, and a
request that fails halfway takes only its own connection with it. A subscription has its own connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NoReturn, SupportsIndex

import hiredis

from redisrepl.errors import (
    CertificateError,
    ConfigError,
    LimitExceededError,
    LinkLostError,
    OutcomeUnknownError,
    PeerUnavailableError,
    ProtocolError,
    RedisreplError,
    RefusedError,
    SilentError,
)
from redisrepl.escaping import refuse_unescaped
from redisrepl.limits import Limit, Limits
from redisrepl.passwords import Password, text_of
from redisrepl.remote.clock_shift import ClockShift
from redisrepl.remote.health import HubHealth, Trial
from redisrepl.remote.hub import Hub
from redisrepl.remote.kept import Connections
from redisrepl.remote.patience import BESIDE_VALUE, SLOWEST, Patience, Room
from redisrepl.remote.refusals import ends_connection, refusal
from redisrepl.remote.transport import parse_url
from redisrepl.showing import masked
from redisrepl.tls.contexts import tls_reason, with_trust
from redisrepl.tls.verdict import UNSAID, certificate_refusal
from redisrepl.wire.lua import sha_of
from redisrepl.wire.psync import encode_command
from redisrepl.wire.replies import as_integer, as_integers, as_strings
from redisrepl.wire.replyreader import ReplyReader
from redisrepl.wire.resp import DAMAGED
from redisrepl.wire.sizes import SMALL, most_of
from redisrepl.wire.unwanted import MAX_VALUE

__all__ = ["DirectAddress", "DirectHub", "direct_address"]

_PORT = 6379
_OK = 200
_NEXT_ADDRESS = 0.25  # seconds; RFC 8305
#: Bytes that are written or read in one go.
_PIECE = 256 << 10
#: Redis answers every command of a client with these if it does not serve the client now, or at all.
_FULL = "ERR max number of clients"
_UNKNOWN_CLIENT = ("NOAUTH", "WRONGPASS", "DENIED")
#: When Redis has too many clients, it closes the connection before the TLS handshake, and so cannot say why.
_UNSAID = "it closed the connection in the TLS handshake: it may take no more clients (maxclients)"
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class DirectAddress:
    """Where the hub's Redis is, and as whom we log in; its text never holds the password."""

    host: str
    port: int = _PORT
    database: int = 0
    username: str | None = field(default=None, repr=False)  # a password without a colon before it is taken for one
    secret: Password = field(default=None, repr=False)

    @property
    def password(self) -> str | None:
        """The password, as it is now: to be asked for at each login."""
        return text_of(self.secret)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"rediss://{host}:{self.port}/{self.database}"


def direct_address(url: str, database: int, username: str | None, password: Password) -> DirectAddress:
    """A hub's address of the form `rediss://user:password@host:port/database`; the other arguments override its parts.

    Raises:
        ConfigError: it cannot be understood.
    """
    refuse_unescaped(url, "--haddr", by="--hub-password-file")
    hint = "give one like rediss://hub.example.org:6379/0"
    try:
        parsed = parse_url(url)
    except ValueError:
        raise ConfigError(f"--haddr {masked(url)}: not an address: {hint}") from None
    path = parsed.path.strip("/")
    if parsed.scheme != "rediss" or not parsed.host or not (path or "0").isdecimal():
        raise ConfigError(f"--haddr {masked(url)}: {hint}")
    if path and database and int(path) != database:
        raise ConfigError(
            f"--haddr {masked(url)} names database {path} and --hub-database {database}: give one of them"
        )
    return DirectAddress(
        parsed.raw_host.decode("ascii"),
        parsed.port or _PORT,
        int(path or database),
        username or parsed.username or None,
        password if password is not None else parsed.password or None,
    )


class _Received(asyncio.StreamReader):
    """What has arrived. It can still be read after the connection was lost: it may say why the server ended it.

    Attributes:
        size: bytes that have arrived.
        lost: what ended the connection; None if the server closed it, or has not.
    """

    def __init__(self) -> None:
        super().__init__(limit=_PIECE)
        self.size = 0
        self.lost: Exception | None = None

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """Asyncio calls this for what arrives."""
        self.size += len(data)  # type: ignore[arg-type]
        super().feed_data(data)

    def set_exception(self, exc: Exception) -> None:
        """Asyncio calls this when the connection is lost, and would raise it before what has arrived was read."""
        self.lost = exc
        self.feed_eof()


class _Link:
    """One connection, which carries one request at a time."""

    def __init__(self, reader: _Received, writer: asyncio.StreamWriter, limit: int) -> None:
        self._reader = reader
        self._writer = writer
        self._spent = False  # whether the server closes it, or waits for the rest of a request
        self._replies = ReplyReader(
            limit, flat=True, protocolError=hiredis.ProtocolError, replyError=hiredis.ReplyError, notEnoughData=_NOTHING
        )

    @property
    def usable(self) -> bool:
        """Whether it can carry another request: the server has neither closed it nor sent anything unasked."""
        ended = self._spent or self._writer.transport.is_closing() or self._reader.at_eof()
        return not ended and not self._replies.has_data()

    async def ask(
        self,
        request: bytes,
        room: Room,
        replies: int = 1,
        *,
        most: int = SMALL,
        moved: Callable[[int], None] = lambda _: None,
        limit: Limit | None = None,
    ) -> list[object]:
        """Send commands and return their replies, error replies too; `moved` is called with the bytes received so far.

        If the server refuses what it has read so far, and ends the connection, its refusal is the reply.

        Args:
            request: the commands.
            room: where the replies are kept.
            replies: how many there will be.
            most: bytes that they may have.
            moved: see above.
            limit: of the request; to wait until a large reply may be read does not count.

        Raises:
            OSError, ProtocolError: the connection cannot be used any more.
        """
        await self._write(request, moved)
        found: list[object] = []
        while len(found) < replies:
            data = await self.read()
            await room.grown(len(data), limit)
            if room.size > most:
                raise LimitExceededError("a reply of the hub", room.size, most)
            try:
                self._replies.feed(data)
                while (reply := self._replies.gets()) is not _NOTHING:
                    found.append(reply)
            except DAMAGED as error:
                said = "an answer of HTTP: write https:// instead of rediss://, or give the TLS port of its Redis"
                if not data.startswith(b"HTTP/"):
                    said = f"what makes no sense: {error}"
                raise ProtocolError(f"the hub sent {said}") from error
            if len(found) > replies:
                raise ProtocolError("the hub sent more replies than it was asked for")
            moved(room.size)
        self._spent |= any(isinstance(reply, hiredis.ReplyError) and ends_connection(str(reply)) for reply in found)
        return found

    async def _write(self, request: bytes, moved: Callable[[int], None]) -> None:
        """Send what the server takes of it: it answers before the end only to refuse the rest."""
        before = self._reader.size
        for start in range(0, len(request), _PIECE):
            if start:
                # `drain` lets no other code run while the system takes all. One round of the loop sees what has
                # arrived, the next one hands it over.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            try:
                if self._reader.size > before or self._reader.at_eof():
                    raise ConnectionResetError
                self._writer.write(request[start : start + _PIECE])
                await self._writer.drain()  # asyncio moves its whole buffer at each send, so we keep the buffer small
            except ConnectionError:  # `ask` reads what the server has said, if anything, or raises
                self._spent = True
                return
            moved(0)

    async def read(self) -> bytes:
        """The next bytes.

        Raises:
            OSError: there will be none.
        """
        if data := await self._reader.read(_PIECE):
            return data
        raise self._reader.lost or ConnectionResetError("it closed the connection")

    def abort(self) -> None:
        """Close it at once, without waiting for what is on its way."""
        self._writer.transport.abort()

    async def closed(self) -> None:
        """Return when it is closed."""
        with suppress(OSError):
            await self._writer.wait_closed()


class DirectHub(Hub):
    """Requests to the hub's Redis over kept connections.

    Args:
        address: where it is.
        context and all that follow: as for `remote.session.HubSession`; `connect_timeout` includes the login.
    """

    login_hint = "check the password (--hub-password-file) and the user (--hub-user)"
    event_channel = "resp"

    def __init__(
        self,
        address: DirectAddress,
        context: ssl.SSLContext,
        *,
        connections: int = 40,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        max_value: int = MAX_VALUE,
        retry_max: float = 15.0,
    ) -> None:
        self.url = str(address)
        self.database = address.database
        self.user = address.username or "default"
        self.health = HubHealth(retry_max)
        self.clock_shift = ClockShift()
        self.listening = 0
        self._address = address
        self._context = context
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._limit = max_value + BESIDE_VALUE
        self._limits = Limits()
        self._large_reply = asyncio.Lock()
        self._slots = asyncio.Semaphore(connections)
        self._asked_why = False  # whether it was asked why it ends connections, since it last let us in
        self._refusal: OSError | None = None
        self._links = Connections[_Link]()

    def renew(self, context: ssl.SSLContext, *, drop: bool) -> None:
        """See `Hub`."""
        self._context = context
        self._forget_why()
        self._links.drop(used=drop)

    async def close(self) -> None:
        """See `Hub`; no request may be under way."""
        await asyncio.gather(*(link.closed() for link in self._links.close()))

    def spell(self, words: Sequence[bytes]) -> bytes:
        """See `Hub`."""
        return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])

    async def eval(
        self,
        script: bytes,
        words: Sequence[bytes],
        *,
        by_hash: bool = False,
        spelled: Sequence[bytes] = (),
        count: int = 0,
        most: int | None = None,
    ) -> list[bytes]:
        """See `Hub`."""
        named = (b"EVALSHA", sha_of(script)) if by_hash else (b"EVAL", script)
        head = self.spell((*named, b"0", *words))
        request = b"".join([b"*%d\r\n" % (3 + len(words) + count), head, *spelled])
        reply = await self._request(request, self._limit if most is None else most)
        return as_strings(reply, f"a script at the hub {self.url}")

    async def command(self, *argv: bytes) -> object:
        """See `Hub`."""
        return await self._request(encode_command(*argv), most_of(argv, self._limit))

    async def integer(self, *argv: bytes) -> int:
        """See `Hub`."""
        return as_integer(await self._request(encode_command(*argv), SMALL), self.asked(*argv))

    async def integers(self, *argv: bytes) -> list[int]:
        """See `Hub`."""
        return as_integers(await self._request(encode_command(*argv), SMALL), self.asked(*argv))

    async def _request(self, request: bytes, most: int) -> object:
        """The reply to one command, which may have so many bytes."""
        # Those that waited for a slot while the hub went away must not try all the same: the trial comes last.
        async with self._slots, self.health.trial() as trial:
            link = self._links.take() or await self._connect(trial)
            seconds, now = self._timeout + len(request) / SLOWEST, asyncio.get_running_loop().time
            patience = Patience(self._timeout, now())

            def moved(received: int) -> None:
                # Bytes still arrive, but too slowly to wait for.
                if received and patience.is_over(now() - room.waited, received):
                    raise TimeoutError
                limit.put_off(self._timeout if received else seconds)

            try:
                async with Room(self._large_reply) as room:
                    with self._limits.within(seconds) as limit:
                        (reply,) = await link.ask(request, room, most=most, moved=moved, limit=limit)
            except BaseException as error:
                self._links.discard(link)
                if isinstance(error, OSError | ProtocolError):
                    self._raise(error, trial, sent=True)
                raise
            self._links.keep(link)
            trial.answered()
        if isinstance(reply, hiredis.ReplyError):
            raise refusal(str(reply))
        return reply

    def _raise(self, error: OSError | ProtocolError, trial: Trial, *, sent: bool) -> NoReturn:
        """Raise what went wrong as one of our errors."""
        if not (sent and isinstance(error, TimeoutError)):  # one late reply does not mean that the hub is away
            trial.failed()
        if isinstance(error, ProtocolError):
            try:
                raise error
            finally:
                del error  # or this call and the error would hold each other, and what was read
        if (reason := tls_reason(error)) is not None:
            raise CertificateError(f"the hub {self.url}: {with_trust(reason, self._context)}") from error
        late = isinstance(error, TimeoutError)
        said = "it does not answer" if late else error.strerror or str(error) or _UNSAID
        if sent:
            raise OutcomeUnknownError(f"the hub {self.url} gave no reply: {said}") from error
        hint = ": is it the TLS port of a Redis?" if late else ""
        raise PeerUnavailableError(f"the hub {self.url} cannot be reached: {said}{hint}") from error

    async def _connect(self, trial: Trial) -> _Link:
        """A connection that is logged in."""
        link: _Link | None = None
        try:
            async with asyncio.timeout(self._connect_timeout):
                link = await self._opened()
                await self._log_in(link)
        except BaseException as error:
            if link is not None:
                self._links.discard(link)
            if isinstance(error, OSError):
                if link is not None and tls_reason(error) is None and isinstance(error, ConnectionError):
                    place = (self._address.host, self._address.port)
                    if not self._asked_why:  # once in an outage, for that takes a connection of its own
                        self._asked_why = True
                        self._refusal = await certificate_refusal(*place, self._context, self._connect_timeout)
                    error = self._refusal or ConnectionResetError(f"{error.strerror or error}: {UNSAID}")
                self._raise(error, trial, sent=False)
            if isinstance(error, RedisreplError):
                trial.failed()
            raise
        self._forget_why()
        return link

    def _forget_why(self) -> None:
        """The next connection that ends before its first reply may do so for another reason."""
        self._asked_why, self._refusal = False, None

    async def _opened(self) -> _Link:
        place = (self._address.host, self._address.port)
        reader, loop = _Received(), asyncio.get_running_loop()
        transport, protocol = await loop.create_connection(
            lambda: asyncio.StreamReaderProtocol(reader),
            *place,
            ssl=self._context,
            happy_eyeballs_delay=_NEXT_ADDRESS,
        )
        link = _Link(reader, asyncio.StreamWriter(transport, protocol, reader, loop), self._limit)
        self._links.open.add(link)
        return link

    async def _log_in(self, link: _Link) -> None:
        """Log in and select the database, and check that the server serves us at all."""
        address = self._address
        commands = []
        if (password := address.password) is not None:
            names = (address.username.encode(),) if address.username else ()
            commands.append((b"AUTH", *names, password.encode("utf-8", "surrogateescape")))
        commands.append((b"SELECT", b"%d" % address.database) if address.database else (b"PING",))
        async with Room(self._large_reply) as room:
            replies = await link.ask(b"".join(encode_command(*argv) for argv in commands), room, len(commands))
        for argv, reply in zip(commands, replies, strict=True):
            if not isinstance(reply, hiredis.ReplyError):
                continue
            text = str(reply)
            if text.startswith(_FULL):
                raise PeerUnavailableError(f"the hub {self.url} takes no more connections: {text} (maxclients)")
            if argv[0] == b"AUTH" or text.startswith(_UNKNOWN_CLIENT):
                raise RefusedError(f"the hub {self.url} refuses us: {text}: {self.login_hint}")
            if argv[0] == b"SELECT":
                raise RefusedError(f"the hub {self.url} refuses SELECT {address.database}: {text}")

    @asynccontextmanager
    async def listen(self, pattern: bytes, *, silence: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Hub`."""
        async with self.health.trial() as trial:
            link = await self._connect(trial)
            trial.answered()
        try:
            async with aclosing(self._reads(link, encode_command(b"PSUBSCRIBE", pattern), silence)) as reads:
                yield reads
        finally:
            self._links.discard(link)

    async def _reads(self, link: _Link, request: bytes, silence: float) -> AsyncGenerator[bytes]:
        try:
            await link.ask(request, Room(self._large_reply), replies=0)
            while True:
                async with asyncio.timeout(silence):
                    data = await link.read()
                yield data
        except TimeoutError:
            raise SilentError(f"the hub {self.url} said nothing for {silence:g} s") from None
        except OSError as error:
            raise LinkLostError(f"the hub {self.url} ended the subscription: {error}") from error

    async def distrust(self, why: RedisreplError) -> None:
        """See `Hub`; there is no other channel to change to."""
