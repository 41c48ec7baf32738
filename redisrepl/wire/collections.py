"""The kinds of collection: how the elements of each are read, written and removed, and which events that causes.

In: the type of a collection, by Redis' own word. Out: words of commands, names of events, elements from replies. Left
to others: which elements (`engine`), how many in one command (`wire.writes`).

A hash's fields with their values, a set's members, a sorted set's members with their scores and a stream's entries are
the same thing to everybody else: elements, each with a name and a value. Another kind of collection is another row of
the table here, its commands in `wire.commands`, and its branch in the scripts of `wire.states`, `wire.digests` and
`wire.batches`. Types without a portable form are one kind of sequence, whose only item is what `DUMP` says
(`wire.opaque`).

A score is text. Redis prints the same double in different ways (`%.17g` before 7.2, the shortest form since), so it is
brought to one form here, and in each script: what C's `%.17g` makes of it. A zero has no sign there: a small sorted set
forgets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from redisrepl.wire.entries import element_name, plain_id, stream_elements
from redisrepl.wire.opaque import FOOTER, OPAQUE

__all__ = [
    "COLLECTIONS",
    "READABLE",
    "READABLE_SINGLY",
    "SEQUENCES",
    "Collection",
    "SequenceKind",
    "as_server_takes",
    "elements_in",
    "extra_types",
    "name_here",
    "names_at_server",
    "put_words",
    "score_of",
    "score_text",
]

Value = TypeVar("Value")


class Collection(NamedTuple):
    """A kind of collection.

    Attributes:
        put: the command that adds elements or changes them.
        options: words of it between key and elements.
        remove: the command that removes elements.
        put_if: adds an element on a condition; `wire.batches` has the script that knows it.
        put_new: adds an element where there is none.
        remove_if: removes an element on a condition.
        put_event: keyspace event of `put`.
        remove_event: keyspace event of `remove`.
        read: the command that returns all elements.
        range: words of it behind the key.
        read_some: the command that returns the values of some elements.
        salt: begins what an element's digest is taken of, so that equal elements of two kinds have two digests.
        flag: class of its keyspace events.
    """

    put: bytes
    options: tuple[bytes, ...]
    remove: bytes
    put_if: bytes
    put_new: bytes
    remove_if: bytes
    put_event: bytes
    remove_event: bytes
    read: bytes
    range: tuple[bytes, ...]
    read_some: bytes
    salt: bytes
    flag: str


COLLECTIONS = {
    "hash": Collection(
        *(b"HSET", (), b"HDEL", b"HSETIF", b"HSETNX", b"HDELIF", b"hset", b"hdel"),
        *(b"HGETALL", (), b"HMGET", b"", "h"),
    ),
    "set": Collection(
        *(b"SADD", (), b"SREM", b"SADDIF", b"SADD", b"SREMIF", b"sadd", b"srem"),
        *(b"SMEMBERS", (), b"SMISMEMBER", b"m", "s"),
    ),
    # CH: it answers how many members it changed, not only how many it added.
    "zset": Collection(
        *(b"ZADD", (b"CH",), b"ZREM", b"ZADDIF", b"ZADDNX", b"ZREMIF", b"zadd", b"zrem"),
        *(b"ZRANGE", (b"0", b"-1", b"WITHSCORES"), b"ZMSCORE", b"z", "z"),
    ),
    # `STREAMSET` and its like only the scripts know (`wire.entries`); an entry is read by itself, with its last id.
    "stream": Collection(
        *(b"STREAMSET", (), b"XDEL", b"STREAMIF", b"STREAMNEW", b"XDELIF", b"xadd", b"xdel"),
        *(b"XRANGE", (b"-", b"+"), b"XINFO", b"x", "t"),
    ),
}


class SequenceKind(NamedTuple):
    """A kind of sequence.

    Attributes:
        put: replaces whatever the key holds; `wire.batches` has the script that knows it.
        put_if: likewise on a condition.
        append: the command that adds items at the end.
        read: the command that returns all items.
        range: words of it behind the key.
        salt: begins what a key's digest is taken of.
        flag: class of its keyspace events.
        ignored: how many bytes at the end of each item are not digested.
    """

    put: bytes
    put_if: bytes
    append: bytes
    read: bytes
    range: tuple[bytes, ...]
    salt: bytes
    flag: str
    ignored: int = 0


SEQUENCES = {
    "list": SequenceKind(b"LISTSET", b"LISTIF", b"RPUSH", b"LRANGE", (b"0", b"-1"), b"l", "l"),
    OPAQUE: SequenceKind(b"OPAQUESET", b"OPAQUEIF", b"", b"DUMP", (), b"o", "d", FOOTER),
}

#: What is read by one command.
READABLE: dict[str, Collection | SequenceKind] = {**COLLECTIONS, **SEQUENCES}

#: What can be read where scripts are refused: a stream and its last id, a type and its `DUMP` only one step can tell.
READABLE_SINGLY = {type_: kind for type_, kind in READABLE.items() if type_ not in ("stream", OPAQUE)}

#: Scores of so many digits at most are exact, and printed alike by everybody.
_PLAIN = 15


def score_of(score: float) -> bytes:
    """A score as text."""
    return b"%.17g" % (score + 0.0)


def score_text(text: bytes) -> bytes:
    """A score, as a server prints it or a client writes it, in the one form that is compared.

    Raises:
        ValueError: it is none, or written in a way that Python does not read (hexadecimal).
    """
    if text.isdigit() and len(text) <= _PLAIN and (not text.startswith(b"0") or text == b"0"):
        return text
    if b"_" in text:  # Python would read 1_0 as 10
        raise ValueError("a score that is no number")
    return score_of(float(text))


def put_words(type_: str, elements: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Elements as words of the command that adds them."""
    for name, value in elements:
        if type_ == "zset":
            yield value
        yield name
        if type_ in _VALUES_BEHIND:
            yield value


_VALUES_BEHIND = frozenset({"hash", "stream"})


def as_server_takes(type_: str, elements: Mapping[bytes, Value]) -> Mapping[bytes, Value]:
    """Elements by the names that servers have for them, and in an order in which they can be added."""
    if type_ == "stream":
        return {plain_id(name): value for name, value in sorted(elements.items())}
    return elements


def name_here(type_: str, name: bytes) -> bytes:
    """The name of an element, from the one that servers have for it."""
    return element_name(name) if type_ == "stream" else name


def names_at_server(type_: str, names: Iterable[bytes]) -> Iterable[bytes]:
    """The names of elements as servers have them."""
    return map(plain_id, names) if type_ == "stream" else names


def elements_in(type_: str, flat: Sequence[bytes]) -> Mapping[bytes, bytes]:
    """The elements in the reply to a command that returns all.

    Raises:
        ValueError: it is not what such a command returns.
    """
    if type_ == "set":
        return dict.fromkeys(flat, b"")
    if type_ == "stream":
        return stream_elements(flat)
    pairs = zip(flat[::2], flat[1::2], strict=True)
    return {name: score_text(score) for name, score in pairs} if type_ == "zset" else dict(pairs)


def extra_types(types: Iterable[str]) -> bytes:
    """Those of some types that scripts must be told of, strings and hashes aside; each between spaces."""
    others = sorted(set(types) & (COLLECTIONS.keys() | SEQUENCES.keys()) - {"hash"})
    return b" %b " % " ".join(others).encode() if others else b""
