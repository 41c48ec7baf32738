"""The change feed: what a redisrepl pushes, told to the others while it happens, so that they need not fetch it.

In: commands of a batch; messages. Out: payloads, and what messages say. Left to others: which batches are told
(`remote.push`), what may be applied straight from a message (`inbound`).

The script of a batch publishes `TIME ORIGIN CONTENT` after its commands, in one step with them: the hub's clock in
microseconds, who pushed, and the commands as Redis' protocol has them, in base64. ASCII throughout, because Webdis
leaves what is not UTF-8 out of JSON, and redisRepl 1.2, which reads JSON there, would miss an element and end.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import NamedTuple

import hiredis

from redisrepl.changes import Change, HashSet, StringSet
from redisrepl.errors import ProtocolError
from redisrepl.wire.psync import encode_command

__all__ = ["FEED_KEY", "Feed", "feed_content", "parse_feed"]

#: The channel is that of a key of this name in the namespace, so that the one pattern of a subscription matches it.
FEED_KEY = b"redisrepl:feed"
#: More than this is fetched instead: one request for hundreds of keys is cheap, and a slow reader of large messages
#: gets damaged framing from Webdis.
_MAX_COMMANDS = 64
_MAX_BYTES = 8 << 10


class Feed(NamedTuple):
    """What one batch did, in one moment.

    Attributes:
        time: of the hub, in microseconds.
        origin: who pushed it.
        commands: with their arguments: `SET`, `MSET` and `HSET` only.
    """

    time: int
    origin: bytes
    commands: list[list[bytes]]

    def changes(self) -> list[Change]:
        """What happened, in order.

        Raises:
            ProtocolError: a command is none of those.
        """
        try:
            return [change for argv in self.commands for change in _changes(argv)]
        except (ValueError, IndexError):
            raise ProtocolError("a message of the feed holds a command that it should not") from None


def feed_content(commands: Sequence[Sequence[bytes]]) -> bytes:
    """These commands for a message; empty if they are too many, too large, or not all of a kind that is told."""
    if len(commands) > _MAX_COMMANDS or not all(argv[0] in _TOLD for argv in commands):
        return b""
    if sum(len(word) for argv in commands for word in argv) > _MAX_BYTES or any(argv[-1] == b"NX" for argv in commands):
        return b""
    return base64.b64encode(b"".join(encode_command(*argv) for argv in commands))


def parse_feed(message: bytes) -> Feed:
    """What a message says.

    Raises:
        ProtocolError: it is damaged, or of another version.
    """
    try:
        time, origin, content = message.split(b" ")
        reader = hiredis.Reader()
        reader.feed(base64.b64decode(content, validate=True))
        commands: list[list[bytes]] = []
        while (argv := reader.gets()) is not False:
            if not isinstance(argv, list) or not all(isinstance(word, bytes) for word in argv):
                raise ProtocolError("a message of the feed does not hold commands")
            commands.append(argv)
        if reader.has_data():
            raise ProtocolError("a message of the feed ends early")
        return Feed(int(time), origin, commands)
    except (ValueError, binascii.Error, hiredis.ProtocolError, TypeError, MemoryError):
        raise ProtocolError("a message of the feed is damaged") from None


#: Values only: whether a removal or an expiry has changed anything, and so causes an event, its script cannot foresee.
_TOLD = frozenset({b"SET", b"MSET", b"HSET"})


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
        case _:
            raise ValueError
