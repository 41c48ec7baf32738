"""The feed: what one redisrepl pushes, published to the others in the same step, so that they need not fetch it.

In: commands of a batch; messages. Out: messages, and the changes in them. Left to others: when to publish
(`remote.push`), which changes may be applied without a fetch (`engine.inbound`).

The script of a batch publishes `TIME ORIGIN CONTENT` after its commands, in one step with them: the hub's time in
microseconds, the sender, and the commands as RESP, in URL-safe base64. ASCII throughout, because Webdis leaves elements
that are not UTF-8 out of JSON, and redisRepl 1.2, which reads JSON, would miss an element and exit.

A message has no version. Who finds a command in it that he does not know takes nothing of it, and fetches.

A field that expires is an `HSET` with `HPEXPIREAT` behind it, in one message: together they are one value.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

from redisrepl.changes import Change, FieldsDeleted, HashSet, StringSet
from redisrepl.errors import ProtocolError
from redisrepl.wire.collections import score_text
from redisrepl.wire.entries import checked_elements, entry_name
from redisrepl.wire.fieldtimes import expiring_fields, timed_by
from redisrepl.wire.groups import checked_names
from redisrepl.wire.keyspace import keyspace_channel
from redisrepl.wire.psync import encode_command
from redisrepl.wire.resp import parse_all
from redisrepl.wire.writes import written_keys

__all__ = ["FEED_KEY", "Feed", "FeedWriter", "feed_content", "parse_feed"]

#: The channel is the keyspace channel of a key of this name, so that the one pattern of a subscription matches it.
FEED_KEY = b"redisrepl:feed"
#: Larger batches are fetched instead: one request for hundreds of keys is cheap, and a slow reader of large messages
#: gets damaged framing from Webdis.
_MAX_COMMANDS = 64
_MAX_BYTES = 8 << 10
#: No message within these limits is longer; but any client of the hub can publish a longer one.
_LONGEST = 128 << 10
_LONGEST_TIME = 18  # digits


class Feed(NamedTuple):
    """What one batch did at the hub, in one step.

    Attributes:
        time: of the hub, in microseconds.
        origin: the redisrepl that pushed it.
        commands: with their arguments: `SET`, `MSET`, `HSET`, `HPEXPIREAT`, `SADD`, `ZADD`, `STREAMSET`, `XDEL` and
            `GROUPDEL` only.
    """

    time: int
    origin: bytes
    commands: list[list[bytes]]

    def changes(self) -> list[Change]:
        """The changes, in order, with expiries by the hub's clock; none of keys that are to be fetched.

        Raises:
            ProtocolError: a command is none of those.
        """
        try:
            changes = _all_changes(self.commands)
        except (ValueError, IndexError):
            raise ProtocolError("a message of the feed holds a command that it should not") from None
        gone = {change.key for change in changes if self._removed_fields(change)}
        return [change for change in changes if change.key not in gone] if gone else changes

    def _removed_fields(self, change: Change) -> bool:
        """Whether the expiry of a field was in the past: the hub has removed it, which causes other events."""
        if not isinstance(change, HashSet):
            return False
        return any(value.expires_at_ms * 1000 <= self.time for value in expiring_fields(change.fields).values())


class FeedWriter:
    """Makes the message for the commands of one request.

    Args:
        origin: identifies this daemon.
        database: number of the hub's database, part of the channel's name.
        prefixes: the namespaces; a request with keys of several is not published.
    """

    __slots__ = ("_channels", "_origin")

    def __init__(self, origin: bytes, database: int, prefixes: Sequence[bytes]) -> None:
        self._origin = origin
        self._channels = {prefix: keyspace_channel(database, prefix + FEED_KEY) for prefix in prefixes}

    def __call__(self, commands: Sequence[Sequence[bytes]]) -> tuple[bytes, bytes]:
        """The channel, and the message without the time; both empty if these commands are not published."""
        if content := feed_content(commands):
            keys = [key for command in commands for key in written_keys(command)]
            for prefix, channel in self._channels.items():
                if all(key.startswith(prefix) for key in keys):
                    return channel, self._origin + b" " + content
        return b"", b""


def feed_content(commands: Sequence[Sequence[bytes]]) -> bytes:
    """These commands for a message; empty if they are too many or too large, or one of them is not published."""
    if not 0 < len(commands) <= _MAX_COMMANDS or not all(argv[0] in _FED for argv in commands):
        return b""
    if sum(len(word) for argv in commands for word in argv) > _MAX_BYTES or any(map(_is_conditional, commands)):
        return b""
    if any(argv[0] == _TIMES for argv in commands) and not _is_understood(commands):
        return b""
    return base64.urlsafe_b64encode(b"".join(encode_command(*argv) for argv in commands))


def _is_understood(commands: Sequence[Sequence[bytes]]) -> bool:
    """Whether the values of all fields that expire are here: a large hash, or a small body, may part them."""
    try:
        _all_changes(commands)
    except (ValueError, IndexError):
        return False
    return True


def _is_conditional(argv: Sequence[bytes]) -> bool:
    """`SET key value .. NX`: whether it sets anything is not known beforehand."""
    return argv[0] == b"SET" and len(argv) > 3 and argv[-1] == b"NX"  # noqa: PLR2004 - SET key value


def parse_feed(message: bytes) -> Feed:
    """Parse a message.

    Raises:
        ProtocolError: it is damaged, or of another version.
    """
    if len(message) > _LONGEST:
        raise ProtocolError("a message of the feed is too long")
    try:
        time, origin, content = message.split(b" ")
        decoded = base64.b64decode(content, altchars=b"-_", validate=True)
        commands = parse_all(decoded, len(decoded))
    except ValueError:  # binascii.Error is one
        raise ProtocolError("a message of the feed is damaged") from None
    except ProtocolError as error:
        raise ProtocolError(f"a message of the feed is damaged: {error}") from None
    if not time.isdigit() or len(time) > _LONGEST_TIME:
        raise ProtocolError("a message of the feed does not say when")
    for argv in commands:
        if not isinstance(argv, list) or not argv or not all(isinstance(word, bytes) for word in argv):
            raise ProtocolError("a message of the feed does not hold commands")
    return Feed(int(time), origin, commands)


_TIMES = b"HPEXPIREAT"
#: Only commands with values: whether a removal or an expiry changes anything, and so causes an event, is not known
#: beforehand. `XDEL` may be published, because a stream stays even without entries. So may the expiry of a field, since
#: the `HSET` before it has set the field, and taken its former expiry away.
_FED = frozenset({b"SET", b"MSET", b"HSET", _TIMES, b"SADD", b"ZADD", b"STREAMSET", b"XDEL", b"GROUPDEL"})


def _all_changes(commands: Sequence[Sequence[bytes]]) -> list[Change]:
    """The changes that commands make, in order.

    Raises:
        ValueError, IndexError: a command is none of those that are published, or is not where it may be.
    """
    changes: list[Change] = []
    for argv in commands:
        if argv[0] == _TIMES:
            changes[-1] = timed_by(changes[-1], argv)
        else:
            changes += _changes(argv)
    return changes


def _changes(argv: Sequence[bytes]) -> list[Change]:
    match argv:
        case [b"SET", key, value]:
            return [StringSet(key, value)]
        case [b"SET", key, value, b"PXAT", expires_at_ms]:
            return [StringSet(key, value, int(expires_at_ms))]
        case [b"MSET", *pairs]:
            return [StringSet(key, value) for key, value in zip(pairs[::2], pairs[1::2], strict=True)]
        case [b"HSET", key, *pairs] if pairs:
            return [HashSet(key, dict(zip(pairs[::2], pairs[1::2], strict=True)))]
        case [b"SADD", key, *members] if members:
            return [HashSet(key, dict.fromkeys(members, b""), "set")]
        case [b"ZADD", key, b"CH", *pairs] if pairs:
            return [HashSet(key, dict(zip(pairs[1::2], map(score_text, pairs[::2]), strict=True)), "zset")]
        case [b"STREAMSET", key, *pairs] if pairs:
            return [HashSet(key, dict(checked_elements(pairs)), "stream")]
        case [b"XDEL", key, *ids] if ids:
            return [FieldsDeleted(key, tuple(map(entry_name, ids)), "stream")]
        case [b"GROUPDEL", key, *names] if names:
            return [FieldsDeleted(key, checked_names(names), "stream")]
        case _:
            raise ValueError
