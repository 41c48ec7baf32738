"""Changes written to the site, unless a client changed the same keys first.

In: keys, then changes of them. Out: where the site's replication stream stood when they were watched, the error of each
change that was refused, and an offset before which the stream shows the others. Left to others: what to apply, and
expecting its echo (`inbound`); reading the keys (`local.read`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import redis.asyncio
import redis.asyncio.connection
import redis.exceptions
import structlog

from redisrepl.changes import Change, HashSet, SequenceSet, StringSet
from redisrepl.errors import PeerUnavailableError, denies_key
from redisrepl.local.address import SiteAddress
from redisrepl.local.connection import translated
from redisrepl.wire.collections import COLLECTIONS, SEQUENCES, put_words
from redisrepl.wire.commands import ORIGIN_CHANNEL
from redisrepl.wire.replies import number
from redisrepl.wire.writes import MAX_WORDS_AT_SITE, commands_of

__all__ = ["Applied", "SiteWriter", "Turn", "site_commands"]

_log = structlog.get_logger("redisrepl")


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of the changes of a turn.

    Attributes:
        errors: text of those that were refused for good, by index.
        offset: the stream shows the others before this.
    """

    errors: dict[int, str]
    offset: int


class SiteWriter:
    """Writes the site's Redis.

    What is applied stands in one transaction behind a message that says who applied it. Both show in the replication
    stream, so that our own writes are known there even by a daemon that was restarted and expects nothing any more.

    Args:
        client: its connections are used by nobody else.
        address: for messages.
        origin: who we are; None: leave no message.
    """

    def __init__(self, client: redis.asyncio.Redis, address: SiteAddress, origin: bytes | None = None) -> None:
        self._client = client
        self._address = address
        self._origin = origin
        self._told_blind = False

    @asynccontextmanager
    async def turn(self, keys: Sequence[bytes], reads: Sequence[Sequence[bytes]] = ()) -> AsyncIterator[Turn]:
        """Watch keys: what is read of them from here on still holds when it is written, or nothing is written.

        Args:
            keys: to watch.
            reads: commands that the server runs once it watches, in the same round trip.

        Raises:
            KeyDeniedError: the server does not let us have one of the keys.
            LinkLostError, PeerUnavailableError, RefusedError: the server cannot be used.
        """
        pool = self._client.connection_pool
        with translated(self._address):
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            opening = [[b"UNWATCH"], [b"WATCH", *keys], _INFO]
            _, watched, info, *replies = await self._replies(connection, [*opening, *reads])
            if isinstance(watched, Exception) and denies_key(str(watched)):
                with translated(self._address):
                    raise watched
            if isinstance(watched, Exception) and not self._told_blind:
                self._told_blind = True
                _log.warning(
                    "apply.no_watch",
                    error=str(watched),
                    hint="a client's write in the moment of an apply may be overwritten: allow +watch +unwatch",
                )
            yield Turn(self, connection, _offset(info), replies)
        finally:
            await pool.release(connection)

    async def _replies(self, connection: Any, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """What the server answers to each; errors are answers."""
        with translated(self._address):
            await connection.send_packed_command(connection.pack_commands(commands))
            replies: list[Any] = []
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except redis.exceptions.ResponseError as error:
                    replies.append(error)
        return replies

    async def transact(self, connection: Any, commands: Sequence[Sequence[bytes]]) -> tuple[list[Any] | None, int]:
        """The replies of one transaction, None if a watched key was changed; and the offset after it."""
        opening: list[Sequence[bytes]] = [[b"MULTI"]]
        if self._origin is not None:
            opening.append([b"PUBLISH", ORIGIN_CHANNEL, self._origin])
        replies = await self._replies(connection, [*opening, *commands, [b"EXEC"], _INFO])
        executed, info = replies[-2:]
        if self._origin is not None and isinstance(replies[1], redis.exceptions.NoPermissionError):
            _log.warning(
                "apply.no_origin",
                error=str(replies[1]),
                hint=f"after a restart our own writes are pushed again: allow PUBLISH on {ORIGIN_CHANNEL.decode()}",
            )
            self._origin = None
            return None, _offset(info)  # and nobody watches any more: the next turn does
        with translated(self._address):
            if isinstance(executed, Exception):
                refused = (reply for reply in replies[:-2] if isinstance(reply, redis.exceptions.ResponseError))
                raise next(refused, executed)
        return (None if executed is None else executed[len(opening) - 1 :]), _offset(info)

    def judged(self, replies: Sequence[Any], owners: Sequence[Sequence[int]]) -> dict[int, str]:
        """Error text by index of the change, from the replies of a transaction.

        Raises:
            PeerUnavailableError, RefusedError: an error that is not about one key.
        """
        errors: dict[int, str] = {}
        with translated(self._address):
            for indexes, reply in zip(owners, replies, strict=True):
                if isinstance(reply, Exception):
                    if not str(reply).startswith("WRONGTYPE"):
                        raise reply
                    errors.update(dict.fromkeys(indexes, str(reply)))
        return errors


class Turn:
    """Keys of the site that are watched; made by `SiteWriter.turn`.

    Attributes:
        offset: of the site's stream. A write that a reader of these keys sees now stands before it, unless it came
            after; then `apply` will notice.
        replies: to what was to be read; errors are replies.
    """

    __slots__ = ("_connection", "_writer", "offset", "replies")

    def __init__(self, writer: SiteWriter, connection: Any, offset: int, replies: Sequence[object]) -> None:
        self._writer = writer
        self._connection = connection
        self.offset = offset
        self.replies = replies

    async def apply(self, changes: Sequence[Change]) -> Applied | None:
        """Make changes of these keys happen, those of one key in order; once in a turn.

        Returns:
            What became of them; None if a client changed one of the keys since the turn began: then nothing happened.

        Raises:
            LinkLostError: the connection failed; whether they happened is not known.
            KeyDeniedError: the server does not let us write one of the keys; nothing happened.
            PeerUnavailableError, RefusedError: the server does not take writes.
        """
        commands, owners = _commands(changes)
        replies, offset = await self._writer.transact(self._connection, commands)
        return None if replies is None else Applied(self._writer.judged(replies, owners), offset)


_INFO = (b"INFO", b"replication")


def _offset(info: Any) -> int:
    """The replication offset in the answer to `INFO replication`."""
    if isinstance(info, bytes):
        _, found, rest = info.partition(b"master_repl_offset:")
        if found and (offset := number(rest.split(b"\r\n", 1)[0])) is not None:
            return offset
    raise PeerUnavailableError(f"the site's Redis does not tell its replication offset: {info!r:.80}")


def _commands(changes: Sequence[Change]) -> tuple[list[list[bytes]], list[list[int]]]:
    """The commands for changes, and for each command the indexes of the changes that it stands for."""
    commands: list[list[bytes]] = []
    owners: list[list[int]] = []
    mset: list[bytes] = [b"MSET"]  # one command for all plain sets: the stream shows it as it is
    in_mset: list[int] = []
    for index, change in enumerate(changes):
        if isinstance(change, StringSet) and change.expires_at_ms is None:
            mset += change.key, change.value
            in_mset.append(index)
        else:
            of_change = site_commands(change)
            commands += of_change
            owners += [[index]] * len(of_change)
    if in_mset:
        commands.append(mset)
        owners.append(in_mset)
    return commands, owners


def site_commands(change: Change) -> list[list[bytes]]:
    """As for the hub, but a collection in one command: its echo is then one change too."""
    if isinstance(change, SequenceSet):  # of a key that is not there, or was removed before
        append, step = SEQUENCES[change.type].append, MAX_WORDS_AT_SITE
        items = change.items
        return [[append, change.key, *items[start : start + step]] for start in range(0, len(items), step)]
    if isinstance(change, HashSet):
        kind, known = COLLECTIONS[change.type], [(name, v) for name, v in change.fields.items() if v is not None]
        return [[kind.put, change.key, *kind.options, *put_words(change.type, known)]]
    return list(commands_of(change))
