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
import re
from collections.abc import Sequence
from hashlib import sha1
from itertools import groupby
from typing import Any

import hiredis

from redisrepl.changes import (
    State,
)
from redisrepl.errors import OutcomeUnknownError, ProtocolError
from redisrepl.wire.replies import number
from redisrepl.wire.resp import DAMAGED, PIECE, RespReader, parse_one, resp_size
from redisrepl.wire.states import STATES_SCRIPT, parse_states, read_at, token_of
from redisrepl.wire.unwanted import MAX_VALUE

__all__ = [
    "STRAY",
    "CommandError",
    "Message",
    "MessageReader",
    "body",
    "body_pieces",
    "escape",
    "escape_words",
    "fetch_body",
    "flat_reply",
    "integer_body",
    "keyspace_channel",
    "parse_fetch_reply",
    "parse_integer",
    "parse_reply",
]

#: A reply comes whole, and so is bounded by what `remote.session` takes in; this is beyond that.
_LARGEST_REPLY = 1 << 40
#: A channel is a key with a head, data the name of an event, a canary or what the feed tells. A word that is longer is
#: left out while it comes, so that nobody who may PUBLISH can fill our memory.
_LONGEST_CHANNEL = 16 << 20
_LONGEST_DATA = 256 << 10
_LARGEST_MESSAGE = 2 * _LONGEST_CHANNEL
_DATA_AT = 3  # pmessage pattern channel data


def escape(argument: bytes) -> bytes:
    """One argument for the body of a POST: any bytes, C speed (a loop per byte would cost 100 times as much)."""
    return argument.replace(b"%", b"%25").replace(b"/", b"%2f").replace(b"?", b"%3f").replace(b"+", b"%2b")


#: Stands for the slash between words while they are escaped as one. None of its bytes is escaped or comes with an
#: escape, and no end of it is its beginning, so in joined words it is found just where it was put, or once more.
_BETWEEN = b"\x00\x01\xfe\xff"
_MANY = 8
_PIECE = 64 << 10


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


def body_pieces(*argv: bytes) -> list[bytes]:
    """The same in pieces, to be sent one behind the other.

    A piece of a large word stays in the processor's cache while it is escaped; and as a whole the word is not copied,
    since to the system fresh memory of that size is dearer than what is done with it.
    """
    pieces: list[bytes] = []
    for large, words in groupby(argv, lambda word: len(word) > _PIECE):
        if not large:
            pieces += b"/", escape_words(tuple(words))
            continue
        for word in words:
            pieces.append(b"/")
            pieces += (escape(word[start : start + _PIECE]) for start in range(0, len(word), _PIECE))
    return [*pieces[1:], b".raw"]


def integer_body(*argv: bytes) -> bytes:
    """A single command whose reply is one integer, as JSON: Webdis 0.1.9 cuts those over 2^31 short in `.raw`."""
    return escape_words(argv) + b".json"


def parse_integer(reply: bytes) -> int:
    """The reply to an `integer_body`.

    Raises:
        CommandError: Redis refused the command. ProtocolError: the reply is not one integer.
    """
    match = _JSON_INTEGER.fullmatch(reply)
    if match is not None and (value := number(match[1])) is not None:
        return value
    try:
        (value,) = json.loads(reply).values()
    except (ValueError, AttributeError, RecursionError):
        raise ProtocolError("the hub's reply is not JSON with one value") from None
    if isinstance(value, list) and value and isinstance(value[-1], str):
        raise CommandError(value[-1])
    raise ProtocolError("the hub's reply is not an integer")


#: `{"PTTL":-1}`
_JSON_INTEGER = re.compile(rb'\s*\{\s*"[A-Za-z]+"\s*:\s*(-?\d+)\s*\}\s*')


def keyspace_channel(database: int, key: bytes) -> bytes:
    """The channel on which a server tells what happened to a key."""
    return b"__keyspace@%d__:%b" % (database, key)


#: Webdis can answer a request with the reply to one whose connection was closed. Then a batch that was not executed
#: would be taken for executed, and with -rc the values of other keys be applied; so the scripts repeat a token.
STRAY = "the hub answered with the reply to another request"

_FETCH_HEAD = b"EVAL/" + escape(STATES_SCRIPT) + b"/0"
_FETCH_BY_HASH = b"EVALSHA/%b/0" % sha1(STATES_SCRIPT, usedforsecurity=False).hexdigest().encode()


def fetch_body(
    keys: Sequence[bytes],
    max_bytes: int,
    max_value: int = MAX_VALUE,
    *,
    others: bytes = b"",
    token: bytes = b"",
    by_hash: bool = False,
) -> bytes:
    """Read the state of many keys in one request, as many as fit into `max_bytes`: `STATES_SCRIPT` over them.

    Args:
        keys: in their order.
        max_bytes: of values in the reply.
        max_value: of one value; of a larger one it is only said that it is too large.
        others: types that are read beside strings and hashes (`wire.collections.extra_types`).
        token: by which the answer is known; without spaces.
        by_hash: for a hub that has run `STATES_SCRIPT` before.
    """
    head = _FETCH_BY_HASH if by_hash else _FETCH_HEAD
    return b"/".join((head, b"%d %d%b" % (max_bytes, max_value, others), token, escape_words(keys))) + b".raw"


def parse_fetch_reply(reply: bytes, token: bytes = b"") -> tuple[int, list[State]]:
    """What `STATES_SCRIPT` answered to the request with this token.

    Returns:
        The hub's time in microseconds, and the states of the keys that fitted.

    Raises:
        OutcomeUnknownError: it is the answer to another request. ProtocolError: it is not what the script returns.
    """
    items = flat_reply(reply)
    if items and token_of(items) != token:
        raise OutcomeUnknownError(STRAY)
    return read_at(items), parse_states(items)


def parse_reply(reply: bytes) -> Any:
    """One `.raw` reply: bytes, an int, None, or a list of them.

    Raises:
        CommandError: the reply is an error; in HTTP 200 too, Webdis answers a refused command that way.
        ProtocolError: it is not one whole reply.
    """
    try:
        value = parse_one(reply, _LARGEST_REPLY)
    except ProtocolError as error:
        raise ProtocolError(f"the hub's reply is damaged: {error}") from error
    if isinstance(value, hiredis.ReplyError):
        raise CommandError(str(value))
    return value


def flat_reply(reply: bytes) -> list[bytes]:
    """A reply that must be a list of strings."""
    value = parse_reply(reply)
    if not isinstance(value, list) or not set(map(type, value)) <= {bytes}:
        raise ProtocolError("the hub's reply is not a flat list of strings")
    return value


class CommandError(Exception):
    """Redis' own error text for one command, as it arrived: `WRONGTYPE Operation against ...`."""


#: One message of a subscription: channel and data. On a keyspace channel the data is the name of the event.
Message = tuple[bytes, bytes]


class MessageReader:
    """The bytes of a subscription to messages.

    Attributes:
        subscribed: the server confirmed the subscription.
    """

    __slots__ = ("_reader", "subscribed")

    def __init__(self) -> None:
        self._reader = RespReader(_LARGEST_MESSAGE, skip=_too_long)
        self.subscribed = False

    def feed(self, data: bytes) -> list[Message]:
        """Take bytes of the body; return the messages they completed, in the order of arrival (which means nothing).

        Raises:
            CommandError: the subscription was refused.
            ProtocolError: the framing is damaged, as Webdis leaves it when a reader was too slow.
        """
        messages: list[Message] = []
        reader = self._reader
        try:
            for start in range(0, len(data), PIECE):
                size = 0
                for item in reader.feed(data[start : start + PIECE]):
                    match item:
                        case [b"pmessage", pattern, channel, message] if type(channel) is type(message) is bytes:
                            messages.append((channel, message))
                            size += _HEAD_SIZE + resp_size(pattern) + resp_size(channel) + resp_size(message)
                        case [b"psubscribe", *_]:
                            self.subscribed = True
                            size += resp_size(item)
                        case hiredis.ReplyError():
                            raise CommandError(str(item))
                        case _:
                            raise ProtocolError("the subscription brought something that is not a message")
                if reader.sizes is None:
                    reader.settle(size)
        except DAMAGED as error:
            raise ProtocolError(f"the subscription's framing is damaged: {error}") from error
        return messages


_HEAD_SIZE = len(b"*4\r\n$8\r\npmessage\r\n")


def _too_long(items: Sequence[object], length: int) -> bool:
    """Whether the next word of a message is left out."""
    return length > (_LONGEST_DATA if len(items) == _DATA_AT else _LONGEST_CHANNEL)
