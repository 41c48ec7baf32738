r"""How the hub is spoken to: commands as request bodies, `.raw` replies and events as values.

In: commands as lists of bytes, and bytes of replies. Out: request bodies, reply values, keyspace events.
Left to others: HTTP (`remote.session`), what to send (`remote.push`, `remote.fetch`).

Webdis takes a command as `NAME/argument/..` in the body of a POST to its root. Four bytes have a meaning there and
are percent-encoded; all others, NUL and 0xFF included, pass as they are. Every body ends in `.raw`, so the reply is
RESP, exact for any bytes; a dot elsewhere is then no suffix. In `.raw` arrays nil, status and nested elements are
lost while the count stays (Webdis' formats/raw.c), so every script here returns a flat list of strings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any

import hiredis

from redisrepl.changes import (
    Change,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    State,
    StringSet,
)
from redisrepl.errors import ProtocolError
from redisrepl.wire.states import STATES_SCRIPT, parse_states, read_at

__all__ = [
    "EXISTS",
    "PUSH_SCRIPT",
    "CommandError",
    "Message",
    "MessageReader",
    "batch_body",
    "body",
    "commands_of",
    "commands_of_batch",
    "encode_batch_command",
    "escape",
    "escape_words",
    "events_of",
    "fetch_body",
    "flat_reply",
    "halves_of",
    "integer_body",
    "keys_of",
    "keyspace_channel",
    "parse_batch_reply",
    "parse_fetch_reply",
    "parse_integer",
    "parse_reply",
]

#: What hiredis raises over bytes that are no reply: a list as a key of a map, an array larger than memory, ...
_DAMAGED = (hiredis.ProtocolError, TypeError, MemoryError)
_LONGEST_TIME = 18  # digits
#: Lua's C stack takes 8,000 values (LUAI_MAXCSTACK) and `unpack` puts a whole command on it.
MAX_FIELDS_PER_COMMAND = 1000
#: Likewise for the pairs of an `MSET`. From 50 to 1,000 it makes no difference (2 us of processor a pair, all servers).
MAX_PAIRS_PER_COMMAND = 500
#: A hash goes in commands of about this many bytes, so that a body can be split between them.
MAX_BYTES_PER_COMMAND = 64 << 10

#: Runs each command by itself: one that fails does not stop the others. A write is a command, or a pair of an `MSET`;
#: pairs that cannot be set together are tried one by one, so that one bad key does not take others with it. If nothing
#: failed, what was done is told on a channel (`wire.feed`). Returns how many writes there were and the hub's time in
#: microseconds, then `index message` of each that failed, or `index EXISTS` where a value was to be set only if there
#: was none, and there was. ARGV: a channel or nothing, what to tell there, and for each command its length, then its
#: words; `HSETNX` may name many fields.
PUSH_SCRIPT = b"""\
local out, i, n = {''}, 3, 0
local function tried(reply, exists)
  if type(reply) == 'table' and reply.err then
    out[#out + 1] = n .. ' ' .. reply.err
  elseif exists then
    out[#out + 1] = n .. ' EXISTS'
  end
  n = n + 1
end
while i <= #ARGV do
  local name, key, last = ARGV[i + 1], ARGV[i + 2], i + ARGV[i]
  if name == 'MSET' then
    if redis.pcall(unpack(ARGV, i + 1, last)).ok then
      n = n + (last - i - 1) / 2
    else
      for j = i + 2, last, 2 do
        tried(redis.pcall('SET', ARGV[j], ARGV[j + 1]))
      end
    end
  elseif name == 'HSETNX' then
    local reply, exists
    for j = i + 3, last, 2 do
      reply = redis.pcall('HSETNX', key, ARGV[j], ARGV[j + 1])
      exists = exists or reply == 0
      if type(reply) == 'table' then break end
    end
    tried(reply, exists)
  else
    local reply = redis.pcall(unpack(ARGV, i + 1, last))
    tried(reply, reply == false)
  end
  i = last + 1
end
local t, now = redis.pcall('TIME'), ''
if not t.err then
  now = string.format('%.0f', t[1] * 1000000 + t[2])
  if ARGV[1] ~= '' and #out == 1 then redis.pcall('PUBLISH', ARGV[1], now .. ' ' .. ARGV[2]) end
end
out[1] = n .. ' ' .. now
return out
"""


def escape(argument: bytes) -> bytes:
    """One argument for the body of a POST: any bytes, C speed (a loop per byte would cost 100 times as much)."""
    return argument.replace(b"%", b"%25").replace(b"/", b"%2f").replace(b"?", b"%3f").replace(b"+", b"%2b")


#: Stands for the slash between words while they are escaped as one. None of its bytes is escaped or comes with an
#: escape, and no end of it is its beginning, so in joined words it is found just where it was put, or once more.
_BETWEEN = b"\x00\x01\xfe\xff"
_MANY = 8


def escape_words(words: Sequence[bytes]) -> bytes:
    """Arguments for the body of a POST, slashes between them: of many, all in four calls instead of four for each."""
    if len(words) < _MANY:  # one can be large, and joining copies it twice more
        return b"/".join(map(escape, words))
    joined = _BETWEEN.join(words)
    if joined.count(_BETWEEN) != len(words) - 1:  # a word holds it
        return b"/".join(map(escape, words))
    return escape(joined).replace(_BETWEEN, b"/")


def body(*argv: bytes) -> bytes:
    """A single command, its reply wanted in `.raw`."""
    return escape_words(argv) + b".raw"


def integer_body(*argv: bytes) -> bytes:
    """A single command whose reply is one integer, as JSON: Webdis 0.1.9 cuts those over 2^31 short in `.raw`."""
    return escape_words(argv) + b".json"


def parse_integer(reply: bytes) -> int:
    """The reply to an `integer_body`.

    Raises:
        CommandError: Redis refused the command. ProtocolError: the reply is not one integer.
    """
    try:
        (value,) = json.loads(reply).values()
    except (ValueError, AttributeError):
        raise ProtocolError("the hub's reply is not JSON with one value") from None
    if isinstance(value, list) and value:
        raise CommandError(str(value[-1]))
    if type(value) is not int:
        raise ProtocolError("the hub's reply is not an integer")
    return value


def keyspace_channel(database: int, key: bytes) -> bytes:
    """The channel on which a server tells what happened to a key."""
    return b"__keyspace@%d__:%b" % (database, key)


#: What stands for an error where a value was to be set only if there was none, and there was.
EXISTS = "EXISTS"


def commands_of(change: Change, *, if_absent: bool = False) -> Iterator[list[bytes]]:
    """The commands that make a change happen; large hashes in several.

    Args:
        change: what was to be read first (`Touch`, fields of None) has no commands.
        if_absent: a string, or a field of a hash, is set only where there is none.
    """
    if if_absent:
        yield from _commands_if_absent(change)
        return
    match change:
        case StringSet(key, value, None):
            yield [b"SET", key, value]
        case StringSet(key, value, int(expires_at_ms)):
            yield [b"SET", key, value, b"PXAT", b"%d" % expires_at_ms]
        case HashSet(key, fields):
            yield from _hset_commands(key, fields)
        case Deleted(key):
            yield [b"DEL", key]
        case FieldsDeleted(key, fields):
            for start in range(0, len(fields), MAX_FIELDS_PER_COMMAND):
                yield [b"HDEL", key, *fields[start : start + MAX_FIELDS_PER_COMMAND]]
        case ExpirySet(key, None):
            yield [b"PERSIST", key]
        case ExpirySet(key, int(expires_at_ms)):
            yield [b"PEXPIREAT", key, b"%d" % expires_at_ms]


def commands_of_batch(changes: Iterable[Change], *, if_absent: bool = False) -> list[list[bytes]]:
    """The commands for many changes: plain sets together in `MSET`s, then the others in their order.

    Args:
        changes: a plain set is the only change of its key.
        if_absent: see `commands_of`.
    """
    words: list[bytes] = []
    others: list[list[bytes]] = []
    for change in changes:
        if type(change) is StringSet and change.expires_at_ms is None and not if_absent:
            words += change.key, change.value
        else:
            others += commands_of(change, if_absent=if_absent)
    step = 2 * MAX_PAIRS_PER_COMMAND
    return [_set_command(words[start : start + step]) for start in range(0, len(words), step)] + others


def _set_command(words: Sequence[bytes]) -> list[bytes]:
    """Keys and values in turn as one command."""
    return [b"SET" if len(words) == 2 else b"MSET", *words]  # noqa: PLR2004 - one key, one value


def keys_of(command: Sequence[bytes]) -> Sequence[bytes]:
    """The key of each write of a command of ours."""
    return command[1::2] if command[0] == b"MSET" else command[1:2]


def halves_of(command: Sequence[bytes]) -> list[list[bytes]]:
    """An `MSET` as two commands; any other command as it is."""
    if command[0] != b"MSET":
        return [list(command)]
    middle = 1 + len(command) // 4 * 2
    return [_set_command(command[1:middle]), _set_command(command[middle:])]


def _hset_commands(key: bytes, fields: Mapping[bytes, bytes | None]) -> Iterator[list[bytes]]:
    """The known fields, in commands that Lua can unpack and a request body can hold."""
    command, size = [b"HSET", key], 0
    for field, value in fields.items():
        if value is None:
            continue
        command += field, value
        size += len(field) + len(value)
        if len(command) >= 2 + 2 * MAX_FIELDS_PER_COMMAND or size >= MAX_BYTES_PER_COMMAND:
            yield command
            command, size = [b"HSET", key], 0
    if len(command) > 2:  # noqa: PLR2004 - more than name and key
        yield command


def _commands_if_absent(change: Change) -> Iterator[list[bytes]]:
    for command in commands_of(change):
        if command[0] == b"SET":
            yield [*command, b"NX"]
        elif command[0] == b"HSET":
            yield [b"HSETNX", *command[1:]]


_EVENTS = {
    b"MSET": b"set",
    b"HSET": b"hset",
    b"DEL": b"del",
    b"HDEL": b"hdel",
    b"PEXPIREAT": b"expire",
    b"PERSIST": b"persist",
}


def events_of(command: Sequence[bytes]) -> tuple[bytes, ...]:
    """The keyspace events that a command of ours causes on each of its keys when it changes what it names."""
    if command[0] == b"SET":
        return (b"set",) if len(command) == 3 else (b"set", b"expire")  # noqa: PLR2004 - SET key value
    return (_EVENTS[command[0]],)


_PUSH_HEAD = b"EVAL/" + escape(PUSH_SCRIPT) + b"/0"
_PUSH_BY_HASH = b"EVALSHA/%b/0" % sha1(PUSH_SCRIPT, usedforsecurity=False).hexdigest().encode()
_FETCH_HEAD = b"EVAL/" + escape(STATES_SCRIPT) + b"/0"


def encode_batch_command(command: Sequence[bytes]) -> bytes:
    """A command as `PUSH_SCRIPT` wants it: its length, then its words."""
    return b"%d/" % len(command) + escape_words(command)


def batch_body(encoded: Iterable[bytes], *, by_hash: bool = False, told: tuple[bytes, bytes] = (b"", b"")) -> bytes:
    """Many encoded commands in one request.

    Args:
        encoded: by `encode_batch_command`.
        by_hash: for a hub that has run `PUSH_SCRIPT` before.
        told: a channel, and what to tell there behind the time.
    """
    return b"/".join([_PUSH_BY_HASH if by_hash else _PUSH_HEAD, *map(escape, told), *encoded]) + b".raw"


def parse_batch_reply(reply: bytes, sent: int) -> tuple[dict[int, str], float]:
    """What `PUSH_SCRIPT` answered.

    Returns:
        Error text by index of the write, for those that failed; and the hub's time in microseconds, infinity if it does
        not tell.

    Raises:
        CommandError: the script itself was refused.
        ProtocolError: the reply does not account for all `sent` writes.
    """
    items = flat_reply(reply)
    tried, _, time = items[0].partition(b" ") if items else (b"", b"", b"")
    if tried != b"%d" % sent or (time and not (time.isdigit() and len(time) <= _LONGEST_TIME)):
        raise ProtocolError(f"the hub did not say that it tried all {sent} writes")
    errors = {}
    for item in items[1:]:
        index, _, message = item.partition(b" ")
        if not index.isdigit() or int(index) >= sent:
            raise ProtocolError("the hub names a write that it was not sent")
        errors[int(index)] = message.decode("utf-8", "backslashreplace")
    return errors, int(time) if time else math.inf


def fetch_body(keys: Sequence[bytes], max_bytes: int) -> bytes:
    """Read the state of many keys in one request, as many as fit into `max_bytes`: `STATES_SCRIPT` over them."""
    return b"/".join([_FETCH_HEAD, b"%d" % max_bytes, *map(escape, keys)]) + b".raw"


def parse_fetch_reply(reply: bytes) -> tuple[int, list[State]]:
    """What `STATES_SCRIPT` answered: the hub's time in microseconds, and the states of the keys that fitted."""
    items = flat_reply(reply)
    return read_at(items), parse_states(items)


def parse_reply(reply: bytes) -> Any:
    """One `.raw` reply: bytes, an int, None, or a list of them.

    Raises:
        CommandError: the reply is an error; in HTTP 200 too, Webdis answers a refused command that way.
        ProtocolError: it is not one whole reply.
    """
    reader = hiredis.Reader()
    try:
        reader.feed(reply)
        value = reader.gets()
    except _DAMAGED as error:
        raise ProtocolError(f"the hub's reply is damaged: {error}") from error
    if value is False or reader.has_data():
        raise ProtocolError("the hub's reply is not one whole reply")
    if isinstance(value, hiredis.ReplyError):
        raise CommandError(str(value))
    return value


def flat_reply(reply: bytes) -> list[bytes]:
    """A reply that must be a list of strings."""
    value = parse_reply(reply)
    if not isinstance(value, list) or not all(isinstance(item, bytes) for item in value):
        raise ProtocolError("the hub's reply is not a flat list of strings")
    return value


class CommandError(Exception):
    """Redis' own error text for one command, as it arrived: `WRONGTYPE Operation against ...`."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a subscription: on a keyspace channel `data` is the name of the event."""

    channel: bytes
    data: bytes


class MessageReader:
    """The bytes of a subscription to messages.

    Attributes:
        subscribed: the server confirmed the subscription.
    """

    __slots__ = ("_reader", "subscribed")

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self.subscribed = False

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes of the body; return the messages they completed, in the order of arrival (which means nothing).

        Raises:
            CommandError: the subscription was refused.
            ProtocolError: the framing is damaged, as Webdis leaves it when a reader was too slow.
        """
        messages: list[Message] = []
        try:
            self._reader.feed(data)
            while (item := self._reader.gets()) is not False:
                match item:
                    case [b"pmessage", _, bytes(channel), bytes(message)]:
                        messages.append(Message(channel, message))
                    case [b"psubscribe", *_]:
                        self.subscribed = True
                    case hiredis.ReplyError():
                        raise CommandError(str(item))
                    case _:
                        raise ProtocolError("the subscription brought something that is not a message")
        except _DAMAGED as error:
            raise ProtocolError(f"the subscription's framing is damaged: {error}") from error
        return messages
