"""The replication stream for programs: `ReplicaStream`.

In: the address of a server and perhaps a position. Out: the entries of its snapshot, then every command; it attaches
again by itself. Left to others: one link (`local.stream`), the protocol (`wire.psync`), transactions and databases
(`wire.transactions`), the snapshot's format (`wire.rdb`).

Three places in the stream are kept apart:

    taken in    the link has read it; after a lost link the stream continues here, or before an open transaction
    handed out  the program has it: `ReplicaStream.position`
    consumed    the program has asked for what follows: this is acknowledged to the server
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

from redisrepl.changes import Position
from redisrepl.errors import ConfigError, LimitExceededError, RdbError, RedisreplError, is_transient
from redisrepl.links import Links
from redisrepl.local.address import SiteAddress, parse_address
from redisrepl.local.info import ask_place
from redisrepl.local.stream import ReplicaLink
from redisrepl.tls.contexts import CertificateFiles
from redisrepl.wire.psync import Commands, Continued, FullSync, SnapshotData, SnapshotEnd
from redisrepl.wire.rdb import Aux, Entry, Function, RdbReader, assemble
from redisrepl.wire.transactions import Command, CommandReader, StreamPlace

__all__ = [
    "Command",
    "LinkOptions",
    "ReplicaStream",
    "SnapshotEnd",
    "SnapshotStart",
    "StreamEvent",
    "parse_place",
]

_PLACE = re.compile(r"([0-9a-fA-F]{40}):(\d{1,19})(?::(\d{1,9}))?")  # CONFIG_RUN_ID_SIZE


@dataclass(frozen=True, slots=True)
class SnapshotStart:
    """A snapshot begins: forget what you know. Its keys follow, and then `SnapshotEnd`.

    Attributes:
        position: the position whose data the snapshot holds.
        restarted: whether the stream had begun before, or should have continued from a position: the changes since
            then are lost, except for their effect on the snapshot.
    """

    position: Position
    restarted: bool


StreamEvent: TypeAlias = SnapshotStart | Entry | Function | SnapshotEnd | Command


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """Options of a stream's link.

    Attributes:
        acknowledged: called every second for the offset to acknowledge, on which `WAIT` at the master then relies;
            None: what the program has consumed.
        on_lost: called with the error of each lost link, before another attempt.
        silence: seconds without a byte after which the link counts as dead; a master pings every 10 (by default).
        connect_wait: seconds for connecting.
        retry_max: longest pause between tries, in seconds.
    """

    acknowledged: Callable[[], int] | None = None
    on_lost: Callable[[RedisreplError], None] | None = None
    silence: float = 60.0
    connect_wait: float = 10.0
    retry_max: float = 15.0


class _Batch(NamedTuple):
    events: Sequence[StreamEvent]
    end: StreamPlace | None  # None inside a snapshot: there is no place to continue from


class ReplicaStream:
    """Everything that happens in a Redis server, from its replication stream.

    Entering the context attaches; from then on nothing is missed. Iterating yields one event after another:
    `SnapshotStart`, the snapshot's `Entry` and `Function` values, each whole, `SnapshotEnd`, then a `Command` for each
    write. `batches()` yields the same in lists, which is faster.

    When a link is lost, the stream attaches again, after growing pauses, and continues where it was; commands are then
    neither lost nor repeated. If the server no longer has the missing part, it sends a full resynchronisation: a
    `SnapshotStart` follows. Until the first link works, every error is raised; later only those that a retry cannot
    solve.

    Memory holds the data of one read from the socket (64 KiB), the largest value of the snapshot, and a transaction
    until it is complete. If the program is slow, the server's buffer grows, not ours: beyond
    `client-output-buffer-limit replica` (256 MiB) the server closes the link. Acknowledgements are sent every second as
    long as the event loop runs.

    Cancelling a task that waits for an event ends the link; asking for the next event makes a new one.

    Args:
        address: `redis://`, `rediss://`, `unix://` or `redis-sentinel://host:port,host:port/service`, with user and
            password where needed. All databases are followed, even if it names one.
        position: where to continue: a `Position` or `bookmark` of an earlier stream; None to start with a snapshot.
        database: the database that the stream had selected there, which commands do not repeat. Zero if neither this
            nor the bookmark says.
        snapshot: False to leave the snapshot out: without a position, begin with the next write.
        prefixes: yield only keys of the snapshot that begin with one of these, and only commands that name such a key
            or write whole databases. A transaction may then be incomplete.
        want_values: False to get only the keys of the snapshot.
        tls: PEM files for `rediss://`.
        options: of the link.

    Attributes:
        full_syncs, partial_syncs: how many links began with a snapshot, and how many without.

    Raises:
        ConfigError: the address or the position cannot be understood.

    Example:
        >>> async def follow(url):
        ...     async with ReplicaStream(url) as stream:
        ...         async for event in stream:
        ...             match event:
        ...                 case Entry(key=key, value=value):
        ...                     print("had", key, value)
        ...                 case Command(argv=argv):
        ...                     print("did", argv)
        ...                     return stream.bookmark
        >>> bookmark = asyncio.run(follow("redis://127.0.0.1:6379"))
        had b'greeting' b'hello'
        did [b'SET', b'greeting', b'good bye']
    """

    def __init__(
        self,
        address: str | SiteAddress,
        position: Position | str | None = None,
        *,
        database: int | None = None,
        snapshot: bool = True,
        prefixes: Sequence[bytes] = (),
        want_values: bool = True,
        tls: CertificateFiles | None = None,
        options: LinkOptions | None = None,
    ) -> None:
        self._address = parse_address(address, flag="address", files=tls) if isinstance(address, str) else address
        self._options = options or LinkOptions()
        self._snapshot = snapshot
        self._prefixes = tuple(prefixes)
        self._want_values = want_values and snapshot
        self._commands = CommandReader(self._prefixes)
        if position is not None:
            self._commands.start(*_given_place(position, database))
        self._begun = position is not None
        self._snapshot_database = 0
        self._parts: list[Entry] = []
        self._pump: AsyncGenerator[_Batch, None] | None = None
        self._batch: Sequence[StreamEvent] = ()
        self._handed = 0  # how many events of the batch were handed out
        self._whole = False  # whether they were handed out as one list
        self._base = self._end = self._commands.place  # the places before and after the batch
        wait = {"wait_initial": 0.1, "wait_max": self._options.retry_max, "wait_jitter": 0.5}
        self._links = Links(
            {"attempts": None, "timeout": None, **wait}, is_final=lambda error: not self._worth_another_try(error)
        )
        self.full_syncs = 0
        self.partial_syncs = 0

    @property
    def position(self) -> Position | None:
        """Where to continue after everything that was handed out; None inside a snapshot.

        Never inside a transaction: while one is handed out, this is where it begins.
        """
        place = self._place_after(self._handed)
        return place.position if place else None

    @property
    def database(self) -> int:
        """The database that the stream has selected at `position`."""
        place = self._place_after(self._handed)
        return place.database if place else 0

    @property
    def bookmark(self) -> str | None:
        """Position and database in one string, `REPLID:OFFSET:DB`, for `ReplicaStream(.., position=bookmark)`."""
        place = self._place_after(self._handed)
        return f"{place.position}:{place.database}" if place else None

    async def batches(self) -> AsyncIterator[Sequence[StreamEvent]]:
        """Yield events in lists, as they come from the socket, which is faster than one by one.

        `position` is the end of the list; the list counts as consumed when you ask for the next one. A transaction is
        never split between lists.
        """
        while True:
            if rest := self._batch[self._handed :]:
                self._handed = len(self._batch)
                self._whole = True
                yield rest
            await self._advance()

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        return self._events()

    async def __anext__(self) -> StreamEvent:
        while self._handed >= len(self._batch):
            await self._advance()
        self._handed += 1
        return self._batch[self._handed - 1]

    async def _events(self) -> AsyncIterator[StreamEvent]:
        while True:
            batch = self._batch
            while self._handed < len(batch):
                self._handed += 1
                yield batch[self._handed - 1]
            await self._advance()

    async def __aenter__(self) -> Self:
        await self._advance()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the link. Iterating again continues after what was handed out."""
        pump, self._pump = self._pump, None
        if pump is not None:
            await pump.aclose()

    def _place_after(self, count: int) -> StreamPlace | None:
        """Where to continue after this many events of the batch."""
        if count >= len(self._batch):
            return self._end
        for event in reversed(self._batch[:count]):
            if not isinstance(event, Command):
                break
            if event.completes:
                return StreamPlace(event.position, event.database)
        return self._base

    def _acknowledged(self) -> int:
        if self._options.acknowledged is not None:
            return self._options.acknowledged()
        place = self._base if self._whole else self._place_after(self._handed - 1)
        return place.position.offset if place else 0

    async def _advance(self) -> None:
        """Everything was consumed: wait for the next batch, which may be empty."""
        self._batch, self._handed, self._whole = (), 0, False
        self._base = self._end
        if self._pump is None:
            self._pump = self._batches_of_links()
        try:
            batch = await anext(self._pump)
        except BaseException:
            self._pump = None  # it has ended; the next call starts another
            raise
        self._batch, self._end = batch
        if self._end is None:
            self._base = None

    # The pump: link after link.

    async def _batches_of_links(self) -> AsyncGenerator[_Batch, None]:
        options = self._options
        async for _ in self._links:
            try:
                async with aclosing(self._link()) as batches:
                    async for batch in batches:
                        yield batch
            except RedisreplError as error:
                self._links.lost(error)
                if options.on_lost is not None and self._worth_another_try(error):
                    options.on_lost(error)

    def _worth_another_try(self, error: Exception) -> bool:
        """Whether a retry may succeed; a snapshot that cannot be read will not be readable next time."""
        attached = bool(self.full_syncs or self.partial_syncs)
        return attached and is_transient(error) and not isinstance(error, (RdbError, LimitExceededError))

    async def _link(self) -> AsyncGenerator[_Batch, None]:
        """One link, from attaching to the error that ends it."""
        options = self._options
        place = self._commands.resume
        if place is None and not self._snapshot:
            place = await ask_place(self._address, self._options.connect_wait)
        link = ReplicaLink(
            self._address,
            place.position if place else None,
            snapshot=RdbReader(self._prefixes, want_values=self._want_values),
            acknowledged=self._acknowledged,
            silence=options.silence,
            connect_wait=options.connect_wait,
            empty_snapshot=not self._snapshot,
        )
        async with aclosing(link.events()) as events:
            async for event in events:
                match event:
                    case Commands(commands, ends):
                        taken = self._commands.take(commands, ends)
                        yield _Batch(taken, self._commands.place)
                    case SnapshotData(events=entries):
                        yield _Batch(self._entries(entries), None)
                    case FullSync(position):
                        yield _Batch((self._start_over(position),), None)
                    case SnapshotEnd(position):
                        self._links.made()
                        self._commands.start(position, self._snapshot_database)
                        yield _Batch((event,), self._commands.place)
                    case Continued(position):
                        self.partial_syncs += 1
                        self._begun = True
                        self._links.made()
                        self._commands.start(position, place.database if place else 0)
                        yield _Batch((), self._commands.place)

    def _start_over(self, position: Position) -> SnapshotStart:
        self.full_syncs += 1
        event = SnapshotStart(position, restarted=self._begun)
        self._begun = True
        self._commands.forget()
        self._parts = []
        self._snapshot_database = 0
        return event

    def _entries(self, events: Iterable[object]) -> list[StreamEvent]:
        """The events of a piece of the snapshot; the parts of a value are put together."""
        found: list[StreamEvent] = []
        for event in events:
            match event:
                case Aux(b"repl-stream-db", number) if number.isdigit():
                    self._snapshot_database = int(number)
                case Entry(first=True, last=True) | Function() if self._snapshot:
                    found.append(event)
                case Entry(last=last) if self._snapshot:
                    self._parts.append(event)
                    if last:
                        found += (whole for whole in assemble(self._parts) if isinstance(whole, Entry))
                        self._parts = []
        return found


def parse_place(text: str) -> StreamPlace:
    """Parse `REPLID:OFFSET` or `REPLID:OFFSET:DB`; without DB it is database 0.

    Raises:
        ConfigError: it is neither.
    """
    match = _PLACE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text[:80]!r} is no position: give REPLID:OFFSET or REPLID:OFFSET:DB")
    replid, offset, database = match.groups()
    return StreamPlace(Position(replid, int(offset)), int(database or 0))


def _given_place(position: Position | str, database: int | None) -> StreamPlace:
    place = parse_place(position) if isinstance(position, str) else StreamPlace(position, 0)
    return place if database is None else StreamPlace(place.position, database)
