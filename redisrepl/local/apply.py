"""Writes changes to the site, unless a client changed the same keys first.

In: keys, then changes of them. Out: the offset of the site's replication stream when they were watched, the error of
each change that was refused, and an offset before which the stream shows the others. Left to others: what to apply, and
expecting its echo (`engine.inbound`); reading the keys (`local.read`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import redis.asyncio
import redis.asyncio.connection
import redis.exceptions
import structlog

from redisrepl.changes import Change, FieldsDeleted, HashSet, HashState, SequenceSet, StringSet, TimedValue
from redisrepl.errors import OutcomeUnknownError, RefusedError, concerns_value, denies_key
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import INFO, is_refused, stream_offset, translated
from redisrepl.permission import Permission
from redisrepl.wire.collections import COLLECTIONS, SEQUENCES, as_server_takes, put_words
from redisrepl.wire.commands import ORIGIN_CHANNEL
from redisrepl.wire.entries import (
    HAS_GROUPS,
    NO_GROUPS,
    PUT_STREAM_IN_GROUPS_SCRIPT,
    PUT_STREAM_SCRIPT,
    REVIVED,
    STREAMS,
)
from redisrepl.wire.fieldtimes import has_times, plain_values, timing_commands
from redisrepl.wire.groups import is_of_group, removal_commands
from redisrepl.wire.opaque import OPAQUE, restore_command
from redisrepl.wire.writes import GROUP_DEL, MAX_WORDS_AT_SITE, NO_FIELD, commands_of

__all__ = ["MOST_FIELDS", "Applied", "SiteWriter", "Turn", "as_site_takes", "site_commands"]

_log = structlog.get_logger("redisrepl")


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of the changes of a turn.

    Attributes:
        errors: by index, the error of each change that was refused for good.
        offset: the stream shows the other changes before this offset.
        revived: indexes of changes with which an entry came back that is pending in a group.
    """

    errors: dict[int, str]
    offset: int
    revived: frozenset[int] = frozenset()


class SiteWriter:
    """Writes to the site's Redis.

    Each apply is one transaction that begins with a published message: the origin of the changes. The message shows in
    the replication stream too, so that even a restarted daemon, which expects no echoes, recognises its own writes.

    Args:
        client: nobody else may use its connections.
        address: for messages.
        origin: identifies this daemon; None: publish no message.
        groups: whether consumer groups are replicated.
        clock: seconds that never go backwards.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        address: SiteAddress,
        origin: bytes | None = None,
        *,
        groups: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._groups = groups
        self._address = address
        self._origin = origin
        self._publishes = Permission(clock)
        self.compares = Permission(clock)
        self._logged_blind = False
        self._transacts = False  # whether the server allows transactions; tried before the first apply

    @asynccontextmanager
    async def turn(self, keys: Sequence[bytes], reads: Sequence[Sequence[bytes]] = ()) -> AsyncIterator[Turn]:
        """Watch keys: if a client changes one of them after this, nothing is written.

        Args:
            keys: to watch.
            reads: commands that the server runs after WATCH, in the same round trip.

        Raises:
            KeyDeniedError: the server denies us one of the keys.
            LinkLostError, PeerUnavailableError, RefusedError: the server cannot be used.
        """
        pool = self._client.connection_pool
        with translated(self._address):
            connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            if not self._transacts:
                await self._try_a_transaction(connection)
            opening = [
                [b"UNWATCH"],
                [b"WATCH", *keys],
                INFO,
            ]  # an earlier turn that did not apply still watches its keys
            _, watched, info, *replies = await self._replies(connection, [*opening, *reads])
            if isinstance(watched, Exception) and denies_key(str(watched)):
                with translated(self._address):
                    raise watched
            if isinstance(watched, Exception) and not self._logged_blind:
                self._logged_blind = True
                _log.warning(
                    "apply.no_watch",
                    error=str(watched),
                    hint="a client's write in the moment of an apply may be overwritten: allow +watch +unwatch",
                )
            yield Turn(self, connection, stream_offset(info), replies)
        finally:
            await pool.release(connection)

    async def _try_a_transaction(self, connection: Any) -> None:
        """Check that MULTI and EXEC are allowed: after a refused MULTI, the server executes commands one by one."""
        begun, ended = await self._replies(connection, [[b"MULTI"], [b"EXEC"]])
        refused = begun if isinstance(begun, Exception) else ended
        if isinstance(refused, Exception):
            await connection.disconnect(nowait=True)
            # An EXEC that is denied is answered with EXECABORT and the reason; so is one while a script runs for long.
            if not is_refused(refused) and "NOPERM" not in str(refused):
                with translated(self._address):
                    raise refused
            raise RefusedError(
                f"the site's Redis {self._address} refuses transactions, so nothing of the hub's can be applied:"
                f" {refused}: allow +multi +exec"
            )
        self._transacts = True

    async def is_denied(self, key: bytes) -> bool:
        """Whether the server denies us writing this key.

        Raises:
            LinkLostError, PeerUnavailableError: the server cannot be asked.
        """
        with translated(self._address):
            try:
                await self._client.execute_command(b"HDEL", key, NO_FIELD)  # type: ignore[no-untyped-call]
            except redis.exceptions.ResponseError as error:
                if isinstance(error, redis.exceptions.NoPermissionError):
                    return denies_key(str(error))
                if not str(error).startswith("WRONGTYPE"):
                    raise
        return False

    async def _replies(self, connection: Any, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """The server's reply to each command; errors are replies."""
        with translated(self._address):
            replies: list[Any] = await connection.exchange(commands)
        return replies

    async def transact(self, connection: Any, commands: Sequence[Sequence[bytes]]) -> tuple[list[Any] | None, int]:
        """Run one transaction; returns its replies, or None if a watched key was changed, and the offset after it."""
        opening: list[Sequence[bytes]] = [[b"MULTI"]]
        if origin := self._published_origin:
            opening.append([b"PUBLISH", ORIGIN_CHANNEL, origin])
        as_taken = _together(commands, groups=self._groups)
        spelled = [*opening, *(command for command, _ in as_taken), [b"EXEC"], INFO]
        replies = await self._replies(connection, spelled)
        begun, executed, info = replies[0], *replies[-2:]
        if isinstance(begun, Exception):  # it was allowed before: what followed was executed all the same, unwatched
            self._transacts = False
            raise OutcomeUnknownError(f"the site's Redis {self._address} refuses transactions now: {begun}") from begun
        if origin and is_refused(replies[1]):
            self._origin_refused(replies[1])
            return None, stream_offset(info)  # EXEC was aborted, and WATCH ended with it: the next turn applies again
        if origin and replies[1] == b"QUEUED":
            self._say_allowed()
        with translated(self._address):
            if isinstance(executed, Exception):
                # Any other error means that EXEC itself was refused: the transaction may still be open.
                if not isinstance(executed, redis.exceptions.ExecAbortError):
                    self._transacts = False
                    await connection.disconnect(nowait=True)
                refused = (reply for reply in replies[:-2] if isinstance(reply, redis.exceptions.ResponseError))
                raise next(refused, executed)
        if executed is not None:
            counts = (count for _, count in as_taken)
            executed = _apart(zip(counts, executed[len(opening) - 1 :], strict=True))
        return executed, stream_offset(info)

    @property
    def _published_origin(self) -> bytes:
        """The origin to publish; empty: none, for now."""
        return self._origin if self._origin is not None and self._publishes.worth_trying else b""

    def _origin_refused(self, error: Exception) -> None:
        if self._publishes.refused():
            _log.warning(
                "apply.no_origin",
                error=str(error),
                hint=f"after a restart our own writes are pushed again: allow PUBLISH on {ORIGIN_CHANNEL.decode()}",
            )

    def _say_allowed(self) -> None:
        if self._publishes.granted():
            _log.info("apply.origin_allowed")

    async def compare_and_set(
        self, connection: Any, key: bytes, fields: Sequence[tuple[bytes, bytes | None, bytes | None]]
    ) -> int | None:
        """Set fields of a hash in one step, if each of them still holds the value that was read.

        Args:
            connection: of a turn.
            key: of the hash.
            fields: name, value that was read, new value; None: no value.

        Returns:
            The offset after it; None if nothing happened, because a field holds another value, or scripts are refused.
        """
        timed = any(type(value) is TimedValue for _, *values in fields for value in values)
        text, spelled = (_COMPARE_AND_SET_TIMED, _timed) if timed else (_COMPARE_AND_SET, _optional)
        words = [word for field in fields for word in (field[0], *spelled(field[1]), *spelled(field[2]))]

        async def run(origin: bytes) -> Sequence[Any]:
            channel = ORIGIN_CHANNEL if origin else b""
            return await self._replies(connection, [[b"EVAL", text, b"1", key, channel, origin, *words], INFO])

        origin = self._published_origin
        done, info = await run(origin)
        if isinstance(done, redis.exceptions.ResponseError) and origin:
            error = done
            done, info = await run(b"")
            if not isinstance(done, redis.exceptions.ResponseError):
                self._origin_refused(error)
        elif origin and done:
            self._say_allowed()
        if isinstance(done, redis.exceptions.ResponseError):
            self.compares.refused()
            return None
        self.compares.granted()
        return stream_offset(info) if done else None

    def judged(self, replies: Sequence[Any], owners: Sequence[Sequence[int]]) -> dict[int, str]:
        """Error text by index of the change, from the replies of a transaction.

        Raises:
            PeerUnavailableError, RefusedError: an error does not concern one key alone.
        """
        errors: dict[int, str] = {}
        with translated(self._address):
            for indexes, reply in zip(owners, replies, strict=True):
                if isinstance(reply, Exception):
                    if not concerns_value(str(reply)):
                        raise reply
                    errors.update(dict.fromkeys(indexes, str(reply)))
        return errors


class Turn:
    """Watched keys of the site; `SiteWriter.turn` makes one.

    Attributes:
        offset: of the site's stream when the keys were watched. A write of these keys is either before it in the
            stream, or came later, and then `apply` does nothing.
        replies: to the commands given as `reads`; errors are replies.
    """

    __slots__ = ("_connection", "_writer", "offset", "replies")

    def __init__(self, writer: SiteWriter, connection: Any, offset: int, replies: Sequence[object]) -> None:
        self._writer = writer
        self._connection = connection
        self.offset = offset
        self.replies = replies

    async def apply(self, changes: Sequence[Change]) -> Applied | None:
        """Apply changes of these keys, those of one key in order. Call it at most once in a turn.

        Returns:
            Their outcome; None if nothing happened, because a client changed one of the keys since the turn began.

        Raises:
            LinkLostError: the connection failed, or transactions are not allowed any more; the outcome is unknown.
            KeyDeniedError: the server denies us writing one of the keys; nothing happened.
            PeerUnavailableError, RefusedError: the server accepts no writes.
        """
        commands, owners = _commands(changes)
        replies, offset = await self._writer.transact(self._connection, commands)
        if replies is None:
            return None
        revived = [indexes for indexes, reply in zip(owners, replies, strict=True) if reply == REVIVED]
        return Applied(self._writer.judged(replies, owners), offset, frozenset().union(*revived))

    async def compare_and_set(self, changes: Sequence[HashSet | FieldsDeleted], held: HashState) -> Applied | None:
        """Apply changes of fields of one hash, whatever clients write to its other fields meanwhile.

        Args:
            changes: of one key, to at most `MOST_FIELDS` fields.
            held: what the hash held when it was read.

        Returns:
            As `apply`, which it is where scripts are refused; None also when that has just turned out.
        """
        if not self._writer.compares.worth_trying:
            return await self.apply(changes)
        becomes: dict[bytes, bytes | None] = {}
        for change in changes:
            becomes |= change.fields if isinstance(change, HashSet) else dict.fromkeys(change.fields)
        fields = [(name, held.fields.get(name), value) for name, value in becomes.items()]
        offset = await self._writer.compare_and_set(self._connection, changes[0].key, fields)
        return None if offset is None else Applied({}, offset)


#: Fields that one script sets at most: Lua's stack holds 8,000 words.
MOST_FIELDS = 1000
_COMPARE_AND_SET = b"""
for at = 3, #ARGV, 5 do
  local held = redis.call('HGET', KEYS[1], ARGV[at])
  if (held and '1' or '0') ~= ARGV[at + 1] or (held or '') ~= ARGV[at + 2] then return 0 end
end
local put, gone = {}, {}
for at = 3, #ARGV, 5 do
  if ARGV[at + 3] == '1' then
    put[#put + 1] = ARGV[at]
    put[#put + 1] = ARGV[at + 4]
  else
    gone[#gone + 1] = ARGV[at]
  end
end
if ARGV[1] ~= '' then redis.call('PUBLISH', ARGV[1], ARGV[2]) end
if #put > 0 then redis.call('HSET', KEYS[1], unpack(put)) end
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
return 1
"""


#: The same for fields of which some expire.
_COMPARE_AND_SET_TIMED = b"""
local function time_of(name)
  local at = redis.call('HPEXPIRETIME', KEYS[1], 'FIELDS', '1', name)[1]
  return at and at >= 0 and string.format('%.0f', at) or ''
end
for at = 3, #ARGV, 7 do
  local held = redis.call('HGET', KEYS[1], ARGV[at])
  if (held and '1' or '0') ~= ARGV[at + 1] or (held or '') ~= ARGV[at + 2] then return 0 end
  if held and time_of(ARGV[at]) ~= ARGV[at + 3] then return 0 end
end
if ARGV[1] ~= '' then redis.call('PUBLISH', ARGV[1], ARGV[2]) end
local gone = {}
for at = 3, #ARGV, 7 do
  if ARGV[at + 4] == '1' then
    redis.call('HSET', KEYS[1], ARGV[at], ARGV[at + 5])
    if ARGV[at + 6] ~= '' then redis.call('HPEXPIREAT', KEYS[1], ARGV[at + 6], 'FIELDS', '1', ARGV[at]) end
  else
    gone[#gone + 1] = ARGV[at]
  end
end
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
return 1
"""


def _optional(value: bytes | None) -> tuple[bytes, ...]:
    """A value that may be missing, for the script."""
    return (b"0", b"") if value is None else (b"1", value)


def _timed(value: bytes | None) -> tuple[bytes, ...]:
    """The same with its expiry."""
    return *_optional(value), b"%d" % max(value.expires_at_ms, 0) if isinstance(value, TimedValue) else b""


def as_site_takes(command: Sequence[bytes], *, groups: bool = False) -> Sequence[bytes]:
    """A command of `site_commands` as the site's Redis runs it: `STREAMSET` is our own, and becomes a script.

    Args:
        command: it.
        groups: whether consumer groups are replicated.
    """
    if command[0] != b"STREAMSET":
        return command
    return [b"EVAL", PUT_STREAM_IN_GROUPS_SCRIPT if groups else PUT_STREAM_SCRIPT, b"1", *command[1:]]


_PUT_STREAMS = b"""
local replies, at = {}, 1
for j = 1, #KEYS do
  local set = {}
  for k = 1, tonumber(ARGV[at]) do set[k] = ARGV[at + k] end
  at = at + #set + 1
  local ran, failed, _, _, revived = pcall(streams().put, KEYS[j], set)
  if not ran and type(failed) ~= 'table' then failed = {err = failed} end
  replies[j] = failed or revived and {ok = 'REVIVED'} or 1
end
return replies
"""
#: Puts several streams, by whether it knows consumer groups: of each the number of its words, and these. Returns what
#: came of each, which may be an error.
_PUT_STREAMS_SCRIPT = {
    groups: declared + STREAMS + _PUT_STREAMS for groups, declared in ((False, NO_GROUPS), (True, HAS_GROUPS))
}


def _together(commands: Sequence[Sequence[bytes]], *, groups: bool) -> list[tuple[Sequence[bytes], int]]:
    """Commands as the site's Redis runs them, and how many each stands for.

    Streams that follow one another are put by one script: its text is a hundred times longer than most entries.
    """
    taken: list[tuple[Sequence[bytes], int]] = []
    for are_streams, run in groupby(commands, lambda command: command[0] == b"STREAMSET"):
        those = list(run)
        if are_streams and len(those) > 1:
            count, keys = len(those), [key for _, key, *_ in those]
            words = [word for _, _, *put in those for word in (b"%d" % len(put), *put)]
            taken.append(([b"EVAL", _PUT_STREAMS_SCRIPT[groups], b"%d" % count, *keys, *words], count))
        else:
            taken += ((as_site_takes(command, groups=groups), 1) for command in those)
    return taken


def _apart(replies: Iterable[tuple[int, Any]]) -> list[Any]:
    """The reply to each command, from those to what `_together` made of them."""
    each: list[Any] = []
    for count, reply in replies:
        each += reply if count > 1 and isinstance(reply, list) else [reply] * count
    return each


def _commands(changes: Sequence[Change]) -> tuple[list[list[bytes]], list[list[int]]]:
    """The commands for changes, and for each command the indexes of its changes."""
    commands: list[list[bytes]] = []
    owners: list[list[int]] = []
    mset: list[bytes] = [b"MSET"]  # one command for all plain sets; the stream shows it unchanged
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
    """The commands for one change: as for the hub, but a collection in one command, so that its echo is one change."""
    if isinstance(change, SequenceSet) and change.type == OPAQUE:
        return [restore_command(change.key, change.items[0])]
    if isinstance(change, SequenceSet):  # the key is absent, or an earlier command has removed it
        append, step = SEQUENCES[change.type].append, MAX_WORDS_AT_SITE
        items = change.items
        return [[append, change.key, *items[start : start + step]] for start in range(0, len(items), step)]
    if isinstance(change, HashSet):
        kind, known = COLLECTIONS[change.type], as_server_takes(change.type, plain_values(change.fields))
        words = put_words(change.type, [(name, v) for name, v in known.items() if v is not None])
        times = timing_commands(change.key, change.fields) if has_times(change.fields) else ()
        return [[kind.put, change.key, *kind.options, *words], *times]
    commands = list(commands_of(change))
    if commands and commands[0][0] == GROUP_DEL and isinstance(change, FieldsDeleted):
        ours = (name for name in change.fields if is_of_group(name))
        return [*removal_commands(change.key, ours), *(command for command in commands if command[0] != GROUP_DEL)]
    return commands
