"""What clients write to sets, sorted sets, lists and streams, and how the copies of all types are read.

In: a client and its random choices. Out: writes, and what they make of each element; what servers hold. Left to others:
when a client writes, and what it remembers of that (`writers`); what all copies must hold (`scene`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping

import redis

from redisrepl.changes import HashState, SequenceState, State, StringState
from redisrepl.wire.entries import entry_words, is_entry, last_id_of, plain_id
from redisrepl.wire.groups import is_of_group
from tests.chaos import groups

__all__ = ["LAST_ID", "TYPES", "contents", "elements_of", "type_of", "write_own", "write_shared"]

TYPES = (b"set", b"zset", b"list", b"stream")
#: Among the elements of a stream, its last id.
LAST_ID = b"last-id"
_MEMBERS = 5
_ENTRIES = 10


def type_of(name: bytes) -> bytes:
    """The type of a key, from its name within the namespace."""
    if name.startswith(b"c:"):
        return name.split(b":")[1]
    return b"hash" if name.startswith(b"h") else b"string"


def write_shared(
    client: redis.Redis, rng: random.Random, key: bytes, type_: bytes, value: bytes, *, reads: bool
) -> None:
    """Write to a key that others write, too; `reads`: or read by consumer groups."""
    member = b"m%d" % rng.randrange(20)
    match type_:
        case b"set":
            rng.choice([client.sadd, client.sadd, client.srem])(key, member)
        case b"zset" if rng.random() < 0.1:
            client.zpopmin(key)
        case b"zset":
            client.zincrby(key, rng.randrange(1000), member)
        case b"list":
            client.rpush(key, value)
            client.ltrim(key, -10, -1)
        case _ if reads and rng.random() < 0.5:
            groups.read_shared(client, rng, key)
        case _:
            client.xadd(key, {b"f": value}, maxlen=20, approximate=False)


def write_own(  # noqa: PLR0913 - what a write depends on
    client: redis.Redis,
    rng: random.Random,
    key: bytes,
    type_: bytes,
    number: int,
    held: Mapping[bytes, object],
    doubtful: Collection[bytes],
    saying: groups.Saying,
    *,
    reads: bool,
) -> None:
    """Write to a key that no other client writes.

    Args:
        client: of the writer.
        rng: likewise.
        key: what is written.
        type_: of it.
        number: greater each time.
        held: elements that it may hold, and their values.
        doubtful: elements of which nobody knows, since an answer was lost.
        reads: it also reads by consumer groups.
        saying: around a write, with what the elements hold then (None: nothing); without names, the key as a whole.
    """
    member = b"m%d" % rng.randrange(_MEMBERS)
    match type_:
        case b"set" | b"zset" if rng.random() < 0.3:
            with saying({member: None}):
                client.srem(key, member) if type_ == b"set" else client.zrem(key, member)
        case b"set":
            with saying({member: b""}):
                client.sadd(key, member)
        case b"zset":
            with saying({member: float(number)}):
                client.zadd(key, {member: number})
        case b"list":
            items = tuple(b"%d.%d" % (number, n) for n in range(rng.randint(1, 4)))
            with saying({None: items}):
                client.pipeline().delete(key).rpush(key, *items).execute()
        case _:
            _write_own_stream(client, rng, key, number, held, doubtful, saying, reads=reads)


def _write_own_stream(
    client: redis.Redis,
    rng: random.Random,
    key: bytes,
    number: int,
    held: Mapping[bytes, object],
    doubtful: Collection[bytes],
    saying: groups.Saying,
    *,
    reads: bool,
) -> None:
    """Add or remove entries, or do something with a consumer group."""
    entries = groups.in_order(name for name in held if not is_of_group(name))
    if reads and doubtful:  # what a group delivers must be known, so all of that goes
        with saying(dict.fromkeys({*doubtful, *filter(is_of_group, held)})):
            if client.exists(key):
                client.xgroup_destroy(key, groups.GROUP)
                for id_ in doubtful:
                    if not is_of_group(id_):
                        client.xdel(key, id_)
    elif reads and rng.random() < 0.6 and groups.read_own(client, rng, key, held, saying):
        pass
    elif len(entries) > _ENTRIES:
        first = entries[: rng.choice([1, _ENTRIES // 2])]
        with saying(dict.fromkeys([*first, *groups.pending_of(first, held)])):
            if len(first) == 1:
                client.xdel(key, *first)
            else:
                client.xtrim(key, minid=entries[len(first)], approximate=False)
    else:
        with saying({b"%d-1" % number: {b"f": b"v"}}):
            client.xadd(key, {b"f": b"v"}, id=b"%d-1" % number)


def contents(client: redis.Redis, keys: Iterable[tuple[bytes, bytes]]) -> dict[bytes, object]:
    """What these keys hold, each given with its type; collections as dicts of elements, lists as tuples."""
    pipeline = client.pipeline(transaction=False)
    asked = [(key, type_, len(_READ[type_])) for key, type_ in keys]
    for key, type_, _ in asked:
        for read in _READ[type_]:
            read(pipeline, key)
    replies = iter(pipeline.execute(raise_on_error=False))
    found = {key: _content(type_, [next(replies) for _ in range(count)]) for key, type_, count in asked}
    return {key: held for key, held in found.items() if held or held == b""}


_READ: dict[bytes, list[Callable[[redis.client.Pipeline, bytes], object]]] = {
    b"string": [lambda pipeline, key: pipeline.get(key)],
    b"hash": [lambda pipeline, key: pipeline.hgetall(key)],
    b"set": [lambda pipeline, key: pipeline.smembers(key)],
    b"zset": [lambda pipeline, key: pipeline.zrange(key, 0, -1, withscores=True)],
    b"list": [lambda pipeline, key: pipeline.lrange(key, 0, -1)],
    b"stream": [lambda pipeline, key: pipeline.execute_command("XINFO STREAM", key, "FULL", "COUNT", 0, full=True)],
}


def _content(type_: bytes, replies: list[object]) -> object:
    match type_, replies:
        case b"stream", [redis.ResponseError()]:
            return None  # there is no such key
        case b"stream", [about]:
            return {
                **about["entries"],
                LAST_ID: last_id_of(about["last-generated-id"]),
                **groups.elements_of_groups(about),
            }
        case _, [Exception() as error, *_]:
            raise error
        case b"set", [members]:
            return dict.fromkeys(members, b"")
        case b"list", [items]:
            return tuple(items)
        case b"zset", [scored]:
            return dict(scored)
        case _, [held]:
            return held


def elements_of(state: State) -> list[tuple[bytes | None, object]]:
    """What a daemon has kept of a key, as clients say it."""
    match state:
        case StringState(value):
            return [(None, value)]
        case SequenceState(items):
            return [(None, tuple(items))]
        case HashState(fields, _, "zset"):
            return [(member, float(score)) for member, score in fields.items()]
        case HashState(fields, _, "stream"):
            entries = [(plain_id(name), _pairs(entry_words(fields[name]))) for name in filter(is_entry, fields)]
            return [*entries, *((name, fields[name]) for name in filter(is_of_group, fields))]
        case HashState(fields):
            return [*fields.items()]
    return []


def _pairs(words: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(words[::2], words[1::2], strict=True))
