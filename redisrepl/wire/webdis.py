r"""The encoding of Webdis: commands as request bodies, `.raw` replies as values.

In: commands as lists of bytes, and bytes of replies. Out: request bodies, reply values. Left to others: HTTP
(`remote.session`), what to send (`remote.push`, `remote.fetch`), subscriptions (`wire.messages`).

Webdis accepts a command as `NAME/argument/..` in the body of a POST to its root. Four bytes have a meaning there and
are percent-encoded; all others, NUL and 0xFF included, are sent as they are. Every body ends in `.raw`, so the reply is
RESP, exact for any bytes; any other dot is then not taken for a suffix. In a `.raw` array Webdis drops nil, status and
nested elements but not their count (formats/raw.c), so all our scripts return a flat list of strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Sequence
from functools import cache
from itertools import groupby
from typing import Any, cast

import hiredis

from redisrepl.errors import LimitExceededError, ProtocolError
from redisrepl.wire.lua import sha_of
from redisrepl.wire.replies import number
from redisrepl.wire.resp import CommandError, parse_reply_in_steps

__all__ = [
    "CommandError",
    "as_flat",
    "body",
    "body_pieces",
    "escape",
    "escape_words",
    "integer_body",
    "parse_integer",
    "parse_integers",
    "reply_in_steps",
    "script_body",
    "script_pieces",
]

#: Bytes of a reply in JSON, whose parser makes many times as much of it: a number, or the text of an error.
_LARGEST_JSON = 64 << 10


def escape(argument: bytes) -> bytes:
    """Escape one argument for the body of a POST, in C (a loop over bytes would cost 100 times as much)."""
    return argument.replace(b"%", b"%25").replace(b"/", b"%2f").replace(b"?", b"%3f").replace(b"+", b"%2b")


#: Replaces the slash between words while they are escaped as one. None of its bytes is escaped or part of an escape,
#: and it cannot overlap itself. So it is found where we put it, and elsewhere only if a word contains it.
_BETWEEN = b"\x00\x01\xfe\xff"
_MANY = 8
_PIECE = 64 << 10


def escape_words(words: Sequence[bytes]) -> bytes:
    """Escape arguments for the body of a POST, with slashes between them; many are faster as one string."""
    if len(words) < _MANY:  # one of few words can be large, and joining would copy it twice more
        if max(map(len, words), default=0) > _PIECE:
            return b"".join(_escaped_in_pieces(words))
        return b"/".join(map(escape, words))
    joined = _BETWEEN.join(words)
    if joined.count(_BETWEEN) != len(words) - 1:  # a word contains it
        return b"/".join(map(escape, words))
    return escape(joined).replace(_BETWEEN, b"/")


def body(*argv: bytes) -> bytes:
    """The body of a single command with a `.raw` reply."""
    return escape_words(argv) + b".raw"


def body_pieces(*argv: bytes) -> list[bytes]:
    """The same in pieces, to be sent one after the other.

    The whole of a large word is never copied: to allocate that much memory would cost more than escaping it.
    """
    return [*_escaped_in_pieces(argv), b".raw"]


def _escaped_in_pieces(argv: Sequence[bytes]) -> list[bytes]:
    """Escape arguments; a piece of a large word stays in the processor's cache meanwhile."""
    pieces: list[bytes] = []
    for large, words in groupby(argv, lambda word: len(word) > _PIECE):
        if not large:
            pieces += b"/", escape_words(tuple(words))
            continue
        for word in words:
            pieces.append(b"/")
            pieces += (escape(word[start : start + _PIECE]) for start in range(0, len(word), _PIECE))
    return pieces[1:]


@cache
def _script_head(script: bytes) -> bytes:
    return b"EVAL/" + escape(script) + b"/0"


@cache
def _hash_head(script: bytes) -> bytes:
    return b"EVALSHA/%b/0" % sha_of(script)


def script_body(
    script: bytes, words: Sequence[bytes], spelled: Iterable[bytes] = (), *, by_hash: bool = False
) -> bytes:
    """The body of a script without keys, with a `.raw` reply.

    Args:
        script: one of our few scripts; its encoding is cached.
        words: its first arguments.
        spelled: the arguments that follow, encoded by `escape_words`.
        by_hash: whether to send only its hash, because the hub has run it before.
    """
    head = _hash_head(script) if by_hash else _script_head(script)
    return b"/".join([head, *([escape_words(words)] if words else []), *spelled]) + b".raw"


def script_pieces(script: bytes, words: Sequence[bytes], spelled: bytes, *, by_hash: bool = False) -> list[bytes]:
    """The same with one large argument, in pieces, so that it is not copied."""
    return [script_body(script, words, by_hash=by_hash).removesuffix(b".raw"), b"/", spelled, b".raw"]


def integer_body(*argv: bytes) -> bytes:
    """The body of a single command with integers as JSON reply: in `.raw`, Webdis 0.1.9 truncates those over 2^31."""
    return escape_words(argv) + b".json"


def parse_integer(reply: bytes) -> int:
    """Parse the reply to an `integer_body`.

    Raises:
        CommandError: Redis refused the command. ProtocolError: the reply is not one integer.
    """
    match = _JSON_INTEGER.fullmatch(reply)
    if match is not None and (value := number(match[1])) is not None:
        return value
    _json_value(reply)
    raise ProtocolError("the hub's reply is not an integer")


def parse_integers(reply: bytes) -> list[int]:
    """Parse the reply to an `integer_body` that must be a list of integers.

    Raises:
        CommandError: Redis refused the command. ProtocolError: the reply is something else.
    """
    value = _json_value(reply)
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        raise ProtocolError("the hub's reply is not a list of integers")
    return value


def _json_value(reply: bytes) -> object:
    """The one value of a JSON reply that is no error."""
    if len(reply) > _LARGEST_JSON:
        raise LimitExceededError("the hub's reply", len(reply), _LARGEST_JSON)
    try:
        (value,) = json.loads(reply).values()
    except (ValueError, AttributeError, RecursionError):
        raise ProtocolError("the hub's reply is not JSON with one value") from None
    if isinstance(value, list) and value and isinstance(value[-1], str):
        raise CommandError(value[-1])
    return cast("object", value)


#: `{"PTTL":-1}`
_JSON_INTEGER = re.compile(rb'\s*\{\s*"[A-Za-z]+"\s*:\s*(-?\d+)\s*\}\s*')


def reply_in_steps(reply: bytes, limit: int) -> Generator[None, None, Any]:
    """Parse one `.raw` reply: bytes, an int, None, or a list of them; see `parse_reply_in_steps`.

    Raises:
        CommandError: the reply is an error; Webdis sends one with HTTP 200 too.
        ProtocolError: it is not one whole reply.
    """
    try:
        value = yield from parse_reply_in_steps(reply, limit)
    except ProtocolError as error:
        raise ProtocolError(f"the hub's reply is damaged: {error}") from error
    if isinstance(value, hiredis.ReplyError):
        raise CommandError(str(value))
    return value


def as_flat(value: object) -> list[bytes]:
    """A reply that must be a list of strings."""
    if not isinstance(value, list) or not set(map(type, value)) <= {bytes}:
        raise ProtocolError("the hub's reply is not a flat list of strings")
    return value
