"""The replica's side of Redis replication: handshake, snapshot, stream.

In: the bytes a master sends. Out: events, and the bytes to send back. Left to others: sockets and the acknowledgement
timer (`local.stream`), what a command means (`wire.commands`), the format of a snapshot (`wire.rdb`).

The sequence (replication.c, `syncWithMaster`, `readSyncBulkPayload`):

    AUTH > REPLCONF capa .. > PSYNC id offset > +CONTINUE  ------------------------------> stream
                                              > +FULLRESYNC > $length | $EOF:mark > RDB > stream

A bare newline may come before any reply and before the snapshot: the master is alive, but busy saving.
Offsets count every byte of the stream (SELECT, PING and GETACK too) and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from redisrepl.changes import Position
from redisrepl.errors import (
    LimitExceededError,
    LinkLostError,
    PeerUnavailableError,
    ProtocolError,
    PsyncRefusedError,
    RefusedError,
)
from redisrepl.wire.replies import number
from redisrepl.wire.stream import Commands, CommandStream, encode_command
from redisrepl.wire.unwanted import Unwanted

__all__ = [
    "Commands",
    "Continued",
    "Event",
    "FullSync",
    "ReplicaProtocol",
    "SnapshotData",
    "SnapshotEnd",
    "SnapshotParser",
    "encode_command",
]

#: The longest reply line of a handshake; Redis' own limit is 256 bytes (`CONFIG_RUN_ID_SIZE` and words around it).
_MAX_LINE = 4096
_MARK_SIZE = 40  # RDB_EOF_MARK_SIZE
_LONGEST_ID = 64  # Redis: CONFIG_RUN_ID_SIZE, 40
_LARGEST_OFFSET = 1 << 62
_SNAPSHOT_FEED = 65536
#: `-` replies that will pass: the server is loading, saving, full, or has lost its own master.
_NOT_YET = (b"LOADING", b"NOMASTERLINK", b"MASTERDOWN", b"BUSY", b"TRYAGAIN", b"ERR BGSAVE", b"ERR max number")
#: `-` replies that end the handshake even to an optional command.
_FATAL = (b"-noauth", b"-loading", b"-denied", b"-err max number", b"-noperm", b"-err unknown command")


@dataclass(frozen=True, slots=True)
class FullSync:
    """A snapshot follows; it holds the data as of `position`."""

    position: Position


@dataclass(frozen=True, slots=True)
class Continued:
    """The stream continues right after `position`; a failover may have changed its replication id."""

    position: Position


@dataclass(frozen=True, slots=True)
class SnapshotData:
    """The next bytes of the snapshot, and what they hold; `total` is None if the master does not know it (diskless)."""

    size: int
    total: int | None
    events: Sequence[object]


@dataclass(frozen=True, slots=True)
class SnapshotEnd:
    """The snapshot is complete; acknowledgements must start now, or the master does not send the stream."""

    position: Position


Event = FullSync | Continued | SnapshotData | SnapshotEnd | Commands


class SnapshotParser(Protocol):
    """Parses a snapshot while it arrives: `wire.rdb.RdbReader`."""

    def feed(self, data: bytes) -> Iterable[object]:
        """Parse the next bytes; return the events that they complete."""

    def close(self) -> None:
        """No more bytes come; raises RdbError if the snapshot is incomplete."""

    @property
    def finished(self) -> bool:
        """Whether the last byte of the snapshot was seen."""

    @property
    def unused(self) -> bytes:
        """The bytes that were fed beyond the end of the snapshot."""


class ReplicaProtocol:
    """The state machine of one replica link, from the first byte to the last.

    Args:
        position: where to continue; None to start with a snapshot.
        username, password: for AUTH, which is left out if the password is None.
        snapshot: parses the snapshot; None skips it.
        replica_version: the version to report, which lets Valkey use its newest snapshot format; Redis refuses this
            command, which does no harm. None: do not report one.
        empty_snapshot: ask for a snapshot without data (Redis 7.0); older servers send all of it.
        max_snapshot: largest snapshot accepted, in bytes.
        unwanted: decides which large arguments of commands to skip; None: none.

    Attributes:
        online: whether the handshake and the snapshot are over: acknowledgements may and must be sent.
    """

    def __init__(
        self,
        position: Position | None = None,
        *,
        username: bytes | None = None,
        password: bytes | None = None,
        snapshot: SnapshotParser | None = None,
        replica_version: bytes | None = None,
        empty_snapshot: bool = False,
        max_snapshot: int = 1 << 44,
        unwanted: Unwanted | None = None,
    ) -> None:
        self._username = username
        self._password = password
        self._snapshot = snapshot
        self._replica_version = replica_version
        self._empty_snapshot = empty_snapshot
        self._max_snapshot = max_snapshot
        self._position = position
        self._buffer = bytearray()
        self._outgoing = bytearray()
        self._events: deque[Event] = deque()
        self._stream = CommandStream(unwanted)
        self._steps = self._run()
        self.online = False
        self.replid = position.replid if position else ""
        next(self._steps)

    @property
    def received(self) -> int:
        """The offset of the end of the last whole command."""
        return self._stream.received

    def data_to_send(self) -> bytes:
        """The bytes to write to the socket now; each is returned once."""
        data, self._outgoing = bytes(self._outgoing), bytearray()
        return data

    def acknowledge(self, offset: int) -> None:
        """Queue an acknowledgement (`REPLCONF ACK`); the master ignores one that goes backwards."""
        self._outgoing += encode_command(b"REPLCONF", b"ACK", b"%d" % offset)

    def receive(self, data: bytes) -> list[Event]:
        """Parse bytes from the socket.

        Returns:
            The events that they complete, in order.

        Raises:
            ProtocolError: the bytes make no sense (RdbError: inside the snapshot).
            RefusedError: the server refuses us for good; PsyncRefusedError: it only refuses PSYNC.
            PeerUnavailableError: the server is not ready; LinkLostError: it ended the link with an error.
        """
        online = self.online  # it may change below
        if online:
            return [*self._stream.feed(data)]
        self._buffer += data
        next(self._steps)
        events, self._events = list(self._events), deque()
        if self.online and self._buffer:  # the rest belongs to the stream
            rest, self._buffer = bytes(self._buffer), bytearray()
            events += self._stream.feed(rest)
        return events

    # Handshake and snapshot: generators that yield when they need more bytes.

    def _run(self) -> Generator[None, None, None]:
        if self._password is not None:
            credentials = [self._password] if self._username is None else [self._username, self._password]
            yield from self._call(b"AUTH", *credentials)
        yield from self._call(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2", optional=True)
        if self._replica_version is not None:
            yield from self._call(b"REPLCONF", b"version", self._replica_version, optional=True)
        if self._empty_snapshot:
            yield from self._call(b"REPLCONF", b"rdb-filter-only", b"", optional=True)
        replid, offset = (self._position.replid.encode(), self._position.offset + 1) if self._position else (b"?", -1)
        self._outgoing += encode_command(b"PSYNC", replid, b"%d" % offset)
        reply = yield from self._line()
        if reply.startswith(b"+CONTINUE"):
            self._continue(reply)
        elif reply.startswith(b"+FULLRESYNC"):
            yield from self._full_sync(reply)
        else:
            raise _refusal(reply, "PSYNC")
        self.online = True
        yield

    def _call(self, *argv: bytes, optional: bool = False) -> Generator[None, None, None]:
        """Send a command and read its reply.

        Older servers may refuse an optional command because of its arguments. But if they refuse REPLCONF as such, the
        handshake fails: without `REPLCONF ACK`, the master would send an error in the stream, or drop the link as dead.
        """
        self._outgoing += encode_command(*argv)
        reply = yield from self._line()
        if reply.startswith(b"-") and (not optional or reply.lower().startswith(_FATAL)):
            raise _refusal(reply, argv[0].decode("ascii"))

    def _continue(self, reply: bytes) -> None:
        if self._position is None:
            raise ProtocolError("the server continues a history that was not asked for")
        words = reply.split()
        if len(words) > 1:
            try:
                self.replid = _replid(words[1])
            except ValueError:
                raise ProtocolError(f"not a CONTINUE reply: {reply[:80]!r}") from None
        self._stream.received = self._position.offset
        self._events.append(Continued(Position(self.replid, self.received)))

    def _full_sync(self, reply: bytes) -> Generator[None, None, None]:
        try:
            _, replid, offset = reply.split()
            self.replid, self._stream.received = _replid(replid), _offset(offset)
        except ValueError:
            raise ProtocolError(f"not a FULLRESYNC reply: {reply[:80]!r}") from None
        position = Position(self.replid, self.received)
        self._events.append(FullSync(position))
        header = yield from self._line()
        if header.startswith(b"-"):
            raise LinkLostError(f"the server could not make a snapshot: {_text(header)}")
        if header.startswith(b"$EOF:") and len(header) == len(b"$EOF:") + _MARK_SIZE:
            yield from self._marked_snapshot(header[5:])
        elif header.startswith(b"$") and header[1:].isdigit():
            yield from self._sized_snapshot(int(header[1:]))
        else:
            raise ProtocolError(f"not a snapshot header: {header[:80]!r}")
        self._events.append(SnapshotEnd(position))

    def _sized_snapshot(self, total: int) -> Generator[None, None, None]:
        """A snapshot from disk: `$<length>` and exactly that many bytes; the stream follows at once."""
        if total > self._max_snapshot:
            raise LimitExceededError("snapshot", total, self._max_snapshot)
        left = total
        while left:
            chunk = yield from self._some(left)
            left -= len(chunk)
            self._read_snapshot(chunk, total)
        if self._snapshot is not None:
            self._snapshot.close()

    def _marked_snapshot(self, mark: bytes) -> Generator[None, None, None]:
        """A diskless snapshot, followed by a mark. The parser finds its end, since the data may contain the mark.

        Without a parser, the first occurrence of the mark counts as the end; a rolling tail finds it even when split.
        """
        if self._snapshot is None:
            tail = b""
            while True:
                tail += yield from self._some(_SNAPSHOT_FEED)
                end = tail.find(mark)
                if end >= 0:
                    self._events.append(SnapshotData(end, None, ()))
                    self._buffer[:0] = tail[end + _MARK_SIZE :]
                    return
                passed = max(0, len(tail) - _MARK_SIZE + 1)
                self._events.append(SnapshotData(passed, None, ()))
                tail = tail[passed:]
        while not self._snapshot.finished:
            self._read_snapshot((yield from self._some(_SNAPSHOT_FEED)), None)
        self._buffer[:0] = self._snapshot.unused
        while len(self._buffer) < _MARK_SIZE:
            yield
        if (yield from self._some(_MARK_SIZE)) != mark:
            raise ProtocolError("the snapshot is not followed by the mark that was announced")

    def _read_snapshot(self, chunk: bytes, total: int | None) -> None:
        events = list(self._snapshot.feed(chunk)) if self._snapshot is not None else ()
        beyond = len(self._snapshot.unused) if self._snapshot is not None else 0
        self._events.append(SnapshotData(len(chunk) - beyond, total, events))

    def _line(self) -> Generator[None, None, bytes]:
        """The next line without its end; skips bare newlines (keepalives)."""
        while True:
            while self._buffer[:1] == b"\n":
                del self._buffer[:1]
            end = self._buffer.find(b"\n")
            if 0 <= end <= _MAX_LINE:
                line = bytes(self._buffer[:end]).rstrip(b"\r")
                del self._buffer[: end + 1]
                return line
            if len(self._buffer) > _MAX_LINE:
                raise LimitExceededError("reply line", len(self._buffer), _MAX_LINE)
            yield

    def _some(self, most: int) -> Generator[None, None, bytes]:
        """At least one byte, at most `most`."""
        while not self._buffer:
            yield
        chunk = bytes(self._buffer[:most])
        del self._buffer[:most]
        return chunk


def _text(line: bytes) -> str:
    return line[1:].decode("utf-8", "backslashreplace")


def _refusal(reply: bytes, command: str) -> Exception:
    """The exception for a `-` reply of the handshake."""
    if not reply.startswith(b"-"):
        return ProtocolError(f"unexpected reply to {command}: {reply[:80]!r}")
    text = _text(reply)
    if reply[1:].startswith(_NOT_YET):
        return PeerUnavailableError(f"the server is not ready: {text}")
    if reply[1:].startswith((b"NOAUTH", b"WRONGPASS")) or command == "AUTH":
        return RefusedError(f"the server refuses the user or password: {text}")
    return PsyncRefusedError(f"the server refuses {command}: {text}")


def _replid(word: bytes) -> str:
    """A replication id; Redis' own have 40 hexadecimal digits."""
    if len(word) > _LONGEST_ID or not word.isalnum():
        raise ValueError("no replication id")
    return word.decode("ascii")


def _offset(word: bytes) -> int:
    """An offset from which a stream may go on for long, and still fits into 64 bits."""
    offset = number(word)
    if offset is None or not 0 <= offset < _LARGEST_OFFSET:
        raise ValueError("no offset")
    return offset
