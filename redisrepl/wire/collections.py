"""The kinds of collection: how the elements of each are read, written and removed, and which events that causes.

In: the type of a collection, in Redis' own word. Out: words of commands, names of events, elements from replies. Left
to others: which elements (`engine.plans`), how many in one command (`wire.writes`).

All other modules see a hash's fields with their values, a set's members, a sorted set's members with their scores and a
stream's entries as the same thing: elements, each with a name and a value. To add a kind of collection, add a row to
the table here, its commands to `wire.commands`, and a branch to the scripts of `wire.states`, `wire.digests` and
`wire.batches`. Types without a portable form are one kind of sequence, whose only item is the reply to `DUMP`
(`wire.opaque`).

A score is text. Redis prints the same double in different ways (`%.17g` before 7.2, the shortest form since), so we
bring it to one form, here and in each script: C's `%.17g`. A zero has no sign in that form, because a small sorted set
does not keep it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from redisrepl.changes import GROUPS
from redisrepl.wire.entries import as_server_takes_stream, element_name, plain_id, stream_elements
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
        options: its words between key and elements.
        remove: the command that removes elements.
        put_if: our own command that sets an element on a condition; the script of `wire.batches` runs it.
        put_new: the command that adds an element if it is absent.
        remove_if: our own command that removes an element on a condition.
        put_event: keyspace event of `put`.
        remove_event: keyspace event of `remove`.
        read: the command that returns all elements.
        range: its words behind the key.
        read_some: the command that returns the values of some elements.
        scan: the command that returns elements in pages; none for a stream.
        salt: a prefix of the digested bytes, so that equal elements of two kinds have different digests.
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
    scan: bytes
    salt: bytes
    flag: str


COLLECTIONS = {
    "hash": Collection(
        *(b"HSET", (), b"HDEL", b"HSETIF", b"HSETNX", b"HDELIF", b"hset", b"hdel"),
        *(b"HGETALL", (), b"HMGET", b"HSCAN", b"", "h"),
    ),
    "set": Collection(
        *(b"SADD", (), b"SREM", b"SADDIF", b"SADD", b"SREMIF", b"sadd", b"srem"),
        *(b"SMEMBERS", (), b"SMISMEMBER", b"SSCAN", b"m", "s"),
    ),
    # CH: it returns how many members it changed, not only how many it added.
    "zset": Collection(
        *(b"ZADD", (b"CH",), b"ZREM", b"ZADDIF", b"ZADDNX", b"ZREMIF", b"zadd", b"zrem"),
        *(b"ZRANGE", (b"0", b"-1", b"WITHSCORES"), b"ZMSCORE", b"ZSCAN", b"z", "z"),
    ),
    # `STREAMSET`, `STREAMIF` and `STREAMNEW` are our own, for scripts (`wire.entries`). Single entries are read one by
    # one, and the last id by XINFO.
    "stream": Collection(
        *(b"STREAMSET", (), b"XDEL", b"STREAMIF", b"STREAMNEW", b"XDELIF", b"xadd", b"xdel"),
        *(b"XRANGE", (b"-", b"+"), b"XINFO", b"", b"x", "t"),
    ),
}


class SequenceKind(NamedTuple):
    """A kind of sequence.

    Attributes:
        put: our own command that replaces whatever the key holds; the script of `wire.batches` runs it.
        put_if: the same on a condition.
        append: the command that adds items at the end.
        read: the command that returns all items.
        range: its words behind the key.
        salt: a prefix of the digested bytes.
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

#: All types whose values are elements or items.
READABLE: dict[str, Collection | SequenceKind] = {**COLLECTIONS, **SEQUENCES}

#: The types that one command reads, so that scripts are not needed. A stream takes two commands (its last id), and an
#: opaque value too (its type), between which the key may change.
READABLE_SINGLY = {type_: kind for type_, kind in READABLE.items() if type_ not in ("stream", OPAQUE)}

#: Integers of at most this many digits are exact as scores, and every server prints them alike.
_PLAIN = 15


def score_of(score: float) -> bytes:
    """A score as text."""
    return b"%.17g" % (score + 0.0)


def score_text(text: bytes) -> bytes:
    """A score, as a server prints it or a client writes it, in the form that we compare.

    Raises:
        ValueError: it is not a score, or is written in a way that Python does not read (hexadecimal).
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
    """Elements under their names at a server, and in an order in which they can be added."""
    if type_ == "stream":
        return as_server_takes_stream(elements)
    return elements


def name_here(type_: str, name: bytes) -> bytes:
    """The name of an element, from its name at a server."""
    return element_name(name) if type_ == "stream" else name


def names_at_server(type_: str, names: Iterable[bytes]) -> Iterable[bytes]:
    """The names of elements at a server."""
    return map(plain_id, names) if type_ == "stream" else names


def elements_in(type_: str, flat: Sequence[bytes]) -> Mapping[bytes, bytes]:
    """The elements in the reply to `Collection.read`.

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
    """Those of these types that scripts handle beside strings and hashes, as an argument; each between spaces."""
    others = sorted(set(types) & (COLLECTIONS.keys() | SEQUENCES.keys() | {GROUPS}) - {"hash"})
    return b" %b " % " ".join(others).encode() if others else b""
