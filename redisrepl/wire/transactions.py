"""Gives each command of the stream its database and position, and keeps transactions together.

In: the arguments of one command after another with their offsets, in pieces of any size. Out: `Command` values, those
of a transaction only when it is complete. Left to others: bytes and offsets (`wire.psync`), what a command does
(`wire.commands`).

`MULTI`, `EXEC`, `SELECT`, `PING`, `REPLCONF` and the Sentinels' messages (`PUBLISH`) do not change data: they are
handled here and not passed on. The writes of a script or a module arrive as a transaction too.

A master that is being replaced still sends pings and the Sentinels' messages, which its successor never received: the
successor refuses to continue a stream after them. So `resume` is the end of the last command that was passed on.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

from redisrepl.changes import Position
from redisrepl.errors import ProtocolError
from redisrepl.wire.keys import keys_of, names_one_key, writes_whole_databases

__all__ = ["Command", "CommandReader", "StreamPlace", "says_nothing"]


class Command(NamedTuple):
    """One write, as the master sends it to its replicas.

    Attributes:
        argv: its name, as the client spelled it, and its arguments.
        database: the number of its database.
        replid: the replication id of its history.
        offset: where to continue after it: the end of the command or, for the last command of a transaction, the end of
            that; for its other commands the beginning of the transaction, which is then repeated.
        transaction: the offset at which its transaction began, the same for all commands of one; None outside of one.
    """

    argv: Sequence[bytes]
    database: int
    replid: str
    offset: int
    transaction: int | None = None

    @property
    def position(self) -> Position:
        """`replid` and `offset`."""
        return Position(self.replid, self.offset)

    @property
    def completes(self) -> bool:
        """Whether it is the last command of its transaction, or outside of one."""
        return self.offset != self.transaction


class StreamPlace(NamedTuple):
    """Where to continue a stream: a position, and the database that the stream has selected there."""

    position: Position
    database: int


class _Kind(Enum):
    DATA = auto()
    ONE_KEY = auto()  # data too; distinguished only if there are prefixes
    SILENT = auto()
    SELECT = auto()
    MULTI = auto()
    PUBLISH = auto()
    EXEC = auto()


_KINDS = {
    b"PING": _Kind.SILENT,
    b"REPLCONF": _Kind.SILENT,
    b"PUBLISH": _Kind.PUBLISH,
    b"SELECT": _Kind.SELECT,
    b"MULTI": _Kind.MULTI,
    b"EXEC": _Kind.EXEC,
}
_MULTI_SIZE = len(b"*1\r\n$5\r\nMULTI\r\n")
_HELLO = b"__sentinel__:hello"  # SENTINEL_HELLO_CHANNEL
#: Bytes without data after which `resume` moves too: the smallest backlog is 16 KiB (CONFIG_REPL_BACKLOG_MIN_SIZE).
_QUIET = 6 << 10
_MAX_SPELLINGS = 1000  # a peer that invents spellings must not fill our memory


class CommandReader:
    """Follows one stream, over any number of links.

    Args:
        prefixes: pass on only commands that have a key with one of these prefixes, or that write a whole database;
            empty: all commands.

    Attributes:
        place: the end of the last command taken in, or the beginning of an open transaction. None before `start`.
    """

    def __init__(self, prefixes: Sequence[bytes] = ()) -> None:
        self.place: StreamPlace | None = None
        self._prefixes = tuple(prefixes)
        self._kinds = dict(_KINDS)
        self._replid = ""
        self._database = 0
        self._opened_at: int | None = None  # offset before MULTI
        self._open: list[Command] = []
        # No command between `resume`, `newer` and `place` was passed on.
        self._resume: StreamPlace | None = None
        self._newer: StreamPlace | None = None
        self._completed: StreamPlace | None = None  # the end of the last transaction

    @property
    def resume(self) -> StreamPlace | None:
        """Where to continue after a lost link: `place`, or a little before it if nothing is repeated by that."""
        return self._resume

    def forget(self) -> None:
        """Forget all places: the stream cannot be continued."""
        self.place = self._resume = self._newer = None

    def start(self, position: Position, database: int) -> None:
        """The next commands follow right after this position; a transaction that was cut off starts again."""
        self._replid = position.replid
        self._database = database
        self._opened_at = None
        self._open = []
        self.place = self._resume = self._newer = StreamPlace(position, database)

    def take(self, commands: Sequence[Sequence[bytes]], ends: Sequence[int]) -> list[Command]:
        """Process the next commands, each with the offset right after it.

        Returns:
            Those of them that write data; the commands of a transaction are returned with its EXEC.
        """
        events: list[Command] = []
        append, kinds, new = events.append, self._kinds, tuple.__new__
        database, replid, prefixes = self._database, self._replid, self._prefixes
        data, one_key, publish = _Kind.DATA, _Kind.ONE_KEY, _Kind.PUBLISH
        for argv, end in zip(commands, ends, strict=True):
            kind = kinds.get(argv[0])
            if kind is None:
                kind = self._learn(argv[0])
            if kind is one_key:
                if len(argv) > 1 and not argv[1].startswith(prefixes):
                    continue
            elif kind is data or kind is publish:
                if (prefixes and not self._wanted(argv)) or (kind is publish and _HELLO in argv[1:2]):
                    continue
            else:
                database = self._follow(kind, argv, end, events)
                continue
            if self._opened_at is None:
                append(new(Command, (argv, database, replid, end, None)))
            else:
                self._open.append(Command(argv, database, replid, self._opened_at, self._opened_at))
        if ends and self._opened_at is None:
            self.place = StreamPlace(Position(replid, ends[-1]), database)
        self._stay_behind(events)
        return events

    def _stay_behind(self, events: Sequence[Command]) -> None:
        """Move `resume` to the end of what is passed on now or, after many bytes without data, closer to `place`."""
        if events:
            last = events[-1]
            end = StreamPlace(last.position, last.database) if last.transaction is None else self._completed
            self._resume = self._newer = end
        if self.place and self._newer and self.place.position.offset - self._newer.position.offset > _QUIET:
            self._resume, self._newer = self._newer, self.place

    def _follow(self, kind: _Kind, argv: Sequence[bytes], end: int, events: list[Command]) -> int:
        """Process a command that is not data (EXEC releases its transaction); returns the selected database."""
        match kind:
            case _Kind.SELECT:
                self._database = _number(argv)
            case _Kind.MULTI:
                self._opened_at = end - _MULTI_SIZE
                self.place = StreamPlace(Position(self._replid, self._opened_at), self._database)
            case _Kind.EXEC:
                if self._open:
                    self._open[-1] = self._open[-1]._replace(offset=end)
                events += self._open
                self._open = []
                self._opened_at = None
                self._completed = StreamPlace(Position(self._replid, end), self._database)
        return self._database

    def _wanted(self, argv: Sequence[bytes]) -> bool:
        return any(key.startswith(self._prefixes) for key in keys_of(argv)) or writes_whole_databases(argv)

    def _learn(self, name: bytes) -> _Kind:
        kind = _KINDS.get(name.upper())
        if kind is None:
            kind = _Kind.ONE_KEY if self._prefixes and names_one_key(name) else _Kind.DATA
        if len(self._kinds) < _MAX_SPELLINGS:
            self._kinds[name] = kind
        return kind


def says_nothing(commands: Sequence[Sequence[bytes]]) -> bool:
    """Whether all of these are pings, requests for acknowledgements, and messages of Sentinels.

    A master that is being replaced still sends them, and its successor does not have them. To continue there, ask for
    what follows the last command with an effect.
    """
    for argv in commands:
        kind = _KINDS.get(argv[0].upper())
        if kind is not _Kind.SILENT and not (kind is _Kind.PUBLISH and _HELLO in argv[1:2]):
            return False
    return True


def _number(argv: Sequence[bytes]) -> int:
    try:
        return int(argv[1])
    except (IndexError, ValueError):
        raise ProtocolError(f"the replication stream selects no database: {argv!r:.80}") from None
