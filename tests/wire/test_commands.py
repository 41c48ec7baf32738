"""Replicated commands and what they did to our keys; what a real master sends is read from a real one."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.changes import (
    KINDS,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    Flushed,
    HashSet,
    Invalidated,
    StringSet,
    TimedValue,
    is_replicated,
)
from redisrepl.local.address import parse_address
from redisrepl.local.stream import ReplicaLink
from redisrepl.namespaces import Namespaces
from redisrepl.wire.commands import ORIGIN_CHANNEL, ChangeDecoder
from redisrepl.wire.entries import FIRST_ID, LAST_ID, entry_name, entry_value
from redisrepl.wire.keys import names_one_key
from redisrepl.wire.psync import Commands, SnapshotEnd
from testbed import RedisServer, eventually
from tests.samples import ALL_BYTES

K, L = b"site1:k", b"site1:l"
ID5, ID7 = entry_name(b"5-1"), entry_name(b"7")
FV = entry_value([b"f", b"v"])
FAR = 4_000_000_000_000  # 2096


def decoder(kinds=KINDS, database=0):
    return ChangeDecoder(Namespaces([b"site1:"]).covers, frozenset(kinds), database)


def words(line):
    """`SET k v` to arguments: k and l are followed keys, x is another, 0x00 stands for every byte there is."""
    names = {b"k": K, b"l": L, b"x": b"other:x", b"''": b"", b"0x00": ALL_BYTES}
    return [names.get(word, word) for word in line.encode().split()]


def decode(line, **options):
    return list(decoder(**options).decode(words(line)))


# The table.

STRINGS = [
    ("SET k v", [StringSet(K, b"v")]),
    ("SET k 0x00", [StringSet(K, ALL_BYTES)]),
    ("SET k ''", [StringSet(K, b"")]),
    ("SET k v NX", [StringSet(K, b"v")]),
    ("SET k v XX GET", [StringSet(K, b"v")]),
    (f"SET k v PXAT {FAR}", [StringSet(K, b"v", FAR)]),
    ("SET k v EXAT 4000000000", [StringSet(K, b"v", FAR)]),
    ("SET k v PXAT 1", [StringSet(K, b"v", 1)]),
    ("SET k v PX 5000", [Invalidated(K, "set")]),
    ("SET k v EX 5", [Invalidated(K, "set")]),
    ("SET k v KEEPTTL", [Invalidated(K, "set")]),
    ("SET k v IFEQ old", [StringSet(K, b"v")]),
    (f"SET k v IFNE PXAT PXAT {FAR}", [StringSet(K, b"v", FAR)]),
    ("SET k v IFDEQ KEEPTTL", [StringSet(K, b"v")]),
    ("GETSET k v", [StringSet(K, b"v")]),
    ("SETNX k v", [StringSet(K, b"v")]),
    ("MSET k v l w", [StringSet(K, b"v"), StringSet(L, b"w")]),
    ("MSET x v l w", [StringSet(L, b"w")]),
    ("MSETNX k v", [StringSet(K, b"v")]),
    ("MSETEX 2 k v l w", [StringSet(K, b"v"), StringSet(L, b"w")]),
    (f"MSETEX 2 k v x w NX PXAT {FAR}", [StringSet(K, b"v", FAR)]),
    ("MSETEX 1 k v KEEPTTL", [Invalidated(K, "set")]),
    ("SETEX k 5 v", [Invalidated(K, "set")]),
    ("PSETEX k 5 v", [Invalidated(K, "set")]),
    ("APPEND k v", [Invalidated(K, "set")]),
    ("SETRANGE k 1 v", [Invalidated(K, "set")]),
    ("SETBIT k 1 1", [Invalidated(K, "set")]),
    ("BITFIELD k SET u8 0 1", [Invalidated(K, "set")]),
    ("BITOP OR k x", [Invalidated(K, "set", replaces=True)]),
    ("BITOP OR x k", []),
    ("INCR k", [Invalidated(K, "set")]),
    ("DECR k", [Invalidated(K, "set")]),
    ("INCRBY k 2", [Invalidated(K, "set")]),
    ("DECRBY k 2", [Invalidated(K, "set")]),
    ("INCRBYFLOAT k 2", [Invalidated(K, "set")]),
    ("INCREX k", [Invalidated(K, "set")]),
    ("PFADD k a", [Invalidated(K, "set")]),
    ("PFMERGE k x", [Invalidated(K, "set")]),
    ("PFMERGE x k", []),
]
HASHES = [
    ("HSET k f v g w", [HashSet(K, {b"f": b"v", b"g": b"w"})]),
    ("HSET k f v f w", [HashSet(K, {b"f": b"w"})]),
    ("HSET k '' 0x00", [HashSet(K, {b"": ALL_BYTES})]),
    ("HMSET k f v", [HashSet(K, {b"f": b"v"})]),
    ("HSETNX k f v", [HashSet(K, {b"f": b"v"})]),
    ("HINCRBY k f 1", [HashSet(K, {b"f": None})]),
    ("HINCRBYFLOAT k f 1", [HashSet(K, {b"f": None})]),
    ("SADD k a b", [HashSet(K, {b"a": b"", b"b": b""}, "set")]),
    ("SREM k a b", [FieldsDeleted(K, (b"a", b"b"), "set")]),
    ("SMOVE k l a", [FieldsDeleted(K, (b"a",), "set"), HashSet(L, {b"a": b""}, "set")]),
    ("SPOP k 2", [Invalidated(K, "sets", replaces=True)]),
    ("SINTERSTORE k l l", [Invalidated(K, "sets", replaces=True)]),
    ("ZADD k 1 a 1e3 b", [HashSet(K, {b"a": b"1", b"b": b"1000"}, "zset")]),
    ("ZADD k CH -inf a 0.1 b", [HashSet(K, {b"a": b"-inf", b"b": b"0.10000000000000001"}, "zset")]),
    ("ZADD k 0x10 a 1_0 b", [HashSet(K, {b"a": None, b"b": None}, "zset")]),
    ("ZADD k nx CH 1 a 2 b", [HashSet(K, {b"a": None, b"b": None}, "zset")]),
    ("ZADD k GT 1 a", [HashSet(K, {b"a": None}, "zset")]),
    ("ZADD k INCR 1 a", [HashSet(K, {b"a": None}, "zset")]),
    ("ZINCRBY k 1 a", [HashSet(K, {b"a": None}, "zset")]),
    ("GEOADD k NX 1 2 a 3 4 b", [HashSet(K, {b"a": None, b"b": None}, "zset")]),
    ("ZREM k a b", [FieldsDeleted(K, (b"a", b"b"), "zset")]),
    ("ZPOPMIN k 2", [Invalidated(K, "zsets", replaces=True)]),
    ("ZREMRANGEBYSCORE k 1 2", [Invalidated(K, "zsets", replaces=True)]),
    ("ZUNIONSTORE k 1 l", [Invalidated(K, "zsets", replaces=True)]),
    ("ZRANGESTORE k l 0 1", [Invalidated(K, "zsets", replaces=True)]),
    ("GEORADIUS l 1 2 3 km STORE k", [Invalidated(K, "zsets", replaces=True)]),
    ("GEORADIUSBYMEMBER x store 3 km COUNT 1 ANY STOREDIST k", [Invalidated(K, "zsets", replaces=True)]),
    ("XADD k 5-1 f v g ''", [HashSet(K, {ID5: entry_value([b"f", b"v", b"g", b""])}, "stream")]),
    ("XADD k NOMKSTREAM 5-1 f v", [HashSet(K, {ID5: FV}, "stream")]),
    ("XADD k 7 f v", [HashSet(K, {ID7: FV}, "stream")]),
    ("XADD k MAXLEN = 3 5-1 f v", [HashSet(K, {ID5: FV, FIRST_ID: None}, "stream")]),
    ("XADD k maxlen ~ 3 LIMIT 10 5-1 f v", [HashSet(K, {ID5: FV, FIRST_ID: None}, "stream")]),
    ("XADD k KEEPREF MINID 5-0 5-1 f v", [HashSet(K, {ID5: FV, FIRST_ID: None}, "stream")]),
    ("XADD k IDMP p 1 5-1 f v", [HashSet(K, {ID5: FV}, "stream")]),
    ("XTRIM k MAXLEN = 5", [HashSet(K, {FIRST_ID: None}, "stream")]),
    ("XDEL k 5-1 7", [FieldsDeleted(K, (ID5, ID7), "stream")]),
    ("XDELEX k ACKED IDS 2 5-1 7-0", [HashSet(K, {ID5: None, ID7: None}, "stream")]),
    ("XACKDEL k group IDS 1 5-1", [HashSet(K, {ID5: None}, "stream")]),
    ("XSETID k 5-1 ENTRIESADDED 7 MAXDELETEDID 3-0", [HashSet(K, {LAST_ID: b"5-1"}, "stream")]),
    ("XGROUP CREATE k group 0 MKSTREAM", [HashSet(K, {LAST_ID: None}, "stream")]),
    ("XGROUP CREATE k group 0", []),
    ("XGROUP CREATE x k 0 MKSTREAM", []),
    ("LPUSH k a b", [Invalidated(K, "lists", replaces=True)]),
    ("LTRIM k 0 1", [Invalidated(K, "lists", replaces=True)]),
    ("LMOVE k l LEFT RIGHT", [Invalidated(K, "lists", replaces=True), Invalidated(L, "lists", replaces=True)]),
    ("SORT x BY y LIMIT 0 5 STORE k", [Invalidated(K, "lists", replaces=True)]),
    ("SORT x BY store GET store STORE l STORE k", [Invalidated(K, "lists", replaces=True)]),
    ("HSETEX k FIELDS 1 f v", [HashSet(K, {b"f": b"v"})]),
    ("HDEL k f g", [FieldsDeleted(K, (b"f", b"g"))]),
    ("HGETDEL k FIELDS 2 f g", [FieldsDeleted(K, (b"f", b"g"))]),
]
GENERIC = [
    ("DEL k", [Deleted(K)]),
    ("DEL k x l", [Deleted(K), Deleted(L)]),
    ("UNLINK l", [Deleted(L)]),
    ("GETDEL k", [Deleted(K)]),
    ("DELEX k IFEQ v", [Deleted(K)]),
    ("DELIFEQ k l", [Deleted(K)]),
    (f"PEXPIREAT k {FAR}", [ExpirySet(K, FAR)]),
    (f"PEXPIREAT k {FAR} GT", [ExpirySet(K, FAR)]),
    ("EXPIREAT k 4000000000", [ExpirySet(K, FAR)]),
    ("PERSIST k", [ExpirySet(K, None)]),
    ("EXPIRE k 5", [Invalidated(K, "expire")]),
    ("PEXPIRE k 5", [Invalidated(K, "expire")]),
    ("GETEX k PX 5", [Invalidated(K, "expire")]),
    ("RENAME k l", [Deleted(K), Invalidated(L, replaces=True)]),
    ("RENAME x k", [Invalidated(K, replaces=True)]),
    ("RENAMENX k x", [Deleted(K)]),
    ("RESTORE k 0 payload REPLACE ABSTTL", [Invalidated(K, replaces=True)]),
    ("RESTORE-ASKING k 0 payload REPLACE ABSTTL", [Invalidated(K, replaces=True)]),
    ("COPY x k", [Invalidated(K, replaces=True)]),
    ("COPY x k REPLACE", [Invalidated(K, replaces=True)]),
    ("COPY k x", []),
    ("COPY x k DB 0", [Invalidated(K, replaces=True)]),
    ("COPY x k db 0 replace", [Invalidated(K, replaces=True)]),
    ("COPY x k DB 1", []),
    ("MOVE k 1", [Deleted(K)]),
    ("MOVE x 1", []),
    ("FLUSHALL", [Flushed(emptied=True)]),
    ("FLUSHDB ASYNC", [Flushed(emptied=True)]),
    ("SWAPDB 0 1", [Flushed(emptied=False)]),
    ("SWAPDB 2 0", [Flushed(emptied=False)]),
    ("SWAPDB 1 2", []),
]
TABLE = STRINGS + HASHES + GENERIC


@pytest.mark.parametrize(("line", "expected"), TABLE, ids=[line for line, _ in TABLE])
def test_what_a_command_did(line, expected):
    assert decode(line) == expected


@pytest.mark.parametrize(("line", "expected"), TABLE, ids=[line for line, _ in TABLE])
def test_a_script_may_write_the_verb_in_lower_case(line, expected):
    verb, *arguments = words(line)
    for spelling in (verb.lower(), verb.title()):
        assert list(decoder().decode([spelling, *arguments])) == expected


@pytest.mark.parametrize(
    "line", [line for line, _ in STRINGS + HASHES] + ["DEL k", "RENAME k l", "PERSIST k", "COPY k l"]
)
def test_other_databases_are_left_alone(line):
    other = decoder()
    other.decode([b"SELECT", b"1"])

    assert not other.decode(words(line))
    assert not other.unreplicated
    other.decode([b"select", b"0"])
    assert list(other.decode(words(line))) == decode(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("MOVE k 0", [Invalidated(K, replaces=True)]),
        ("MOVE x 0", []),
        ("MOVE k 2", []),
        ("COPY k l DB 0", [Invalidated(L, replaces=True)]),
        ("COPY k l", []),
        ("FLUSHDB", []),
        ("FLUSHALL", [Flushed(emptied=True)]),
        ("SWAPDB 1 0", [Flushed(emptied=False)]),
        ("MSET k", []),
        ("COPY k", []),
    ],
)
def test_what_reaches_our_database_from_another(line, expected):
    other = decoder()
    other.decode([b"SELECT", b"1"])

    assert list(other.decode(words(line))) == expected


def test_the_database_followed_need_not_be_the_first():
    assert decode("SET k v", database=3) == [StringSet(K, b"v")]
    assert decode("SWAPDB 0 1", database=3) == []
    assert decode("SWAPDB 0 3", database=3) == [Flushed(emptied=False)]


def test_a_transaction_is_known_from_multi_to_exec():
    decode = decoder()
    assert not decode.in_transaction
    decode.decode([b"multi"])
    assert decode.in_transaction
    assert list(decode.decode(words("SET k v"))) == [StringSet(K, b"v")]
    decode.decode([b"SELECT", b"2"])
    decode.decode([b"PUBLISH", K, b"x"])
    assert decode.in_transaction
    decode.decode([b"EXEC"])
    assert not decode.in_transaction
    assert decode.selected == 2
    assert not decode.unreplicated


def test_a_transaction_may_say_who_wrote_it():
    """M14: our own applies open with a message on a channel of ours; it holds up to EXEC."""
    followed = decoder()
    followed.decode([b"PUBLISH", ORIGIN_CHANNEL, b"stray"])  # what is left of a transaction that changed nothing
    assert followed.origin is None
    followed.decode([b"MULTI"])
    followed.decode([b"PUBLISH", b"other", b"x"])
    followed.decode([b"PUBLISH", ORIGIN_CHANNEL])
    assert followed.origin is None
    followed.decode([b"publish", ORIGIN_CHANNEL, b"us"])
    assert followed.origin == b"us"
    followed.decode(words("SET k v"))
    assert followed.origin == b"us"
    followed.decode([b"EXEC"])
    assert followed.origin is None


@pytest.mark.parametrize(
    ("key", "followed"),
    [(b"site1:", True), (b"site1:x", True), (b"site10:x", False), (b"site1", False), (b"SITE1:z", False), (b"", False)],
)
def test_a_namespace_is_a_literal_prefix(key, followed):
    for argv in ([b"SET", key, b"v"], [b"HSET", key, b"f", b"v"], [b"DEL", key], [b"SET", key, b"v", b"PXAT", b"9"]):
        assert bool(decoder().decode(argv)) is followed


# Commands in a form that we do not know.


@pytest.mark.parametrize(
    "line",
    [
        "SET k",
        "SET k v PXAT",
        "SET k v PXAT soon",
        "MSET k v l",
        "MSETEX k l",
        "MSETEX 3 k v l",
        "HSET k f",
        "HSET k f v g",
        "HSETEX k f v",
        "HSETEX k FIELDS",
        "HINCRBY k",
        "PEXPIREAT k",
        "PEXPIREAT k soon",
        "RENAME k",
        "BITOP k",
        "COPY k",
        "COPY x k DB",
        "COPY x k DB one",
        "MOVE k",
        "MOVE k one",
    ],
)
def test_a_form_that_we_do_not_know_invalidates_each_key_it_names(line):
    named = [word for word in words(line)[1:] if word in (K, L)]

    assert decode(line) == [Invalidated(key, replaces=names_one_key(line.split()[0].encode())) for key in named]


@pytest.mark.parametrize("line", ["SELECT", "SELECT one", "SWAPDB", "MULTI 1", "EXEC now", "FLUSHDB a b c"])
def test_a_damaged_command_about_the_connection_is_passed_over(line):
    odd = decoder()
    odd.decode(words(line))

    assert odd.selected == 0


VERBS = sorted({line.split()[0] for line, _ in TABLE} | {"SELECT", "MULTI", "EXEC", "PING", "LPUSH", "NEW.COMMAND"})
ARGUMENTS = [
    K,
    L,
    b"x",
    b"0",
    b"1",
    b"2",
    b"-1",
    b"9" * 5000,
    b"PXAT",
    b"FIELDS",
    b"DB",
    b"KEEPTTL",
    b"IFEQ",
    b"",
    b"\xff",
]


@given(
    st.sampled_from(VERBS).map(str.encode) | st.binary(max_size=4),
    st.lists(st.sampled_from(ARGUMENTS) | st.binary(max_size=4), max_size=8),
    st.sets(st.sampled_from(sorted(KINDS))),
)
@settings(max_examples=300, deadline=None)
def test_no_command_is_an_exception(verb, arguments, kinds):
    followed = decoder(kinds)
    for argv in ([verb, *arguments], [verb.lower(), *arguments]):
        for change in followed.decode(argv):
            assert isinstance(change, Flushed) or change.key.startswith(b"site1:")


# What crosses.


STORING = {"BITOP", "SORT", "GEORADIUS", "GEORADIUSBYMEMBER", "GEOSEARCHSTORE", "ZRANGESTORE"} | {
    f"{kind}{operation}STORE" for kind in "SZ" for operation in ("UNION", "INTER", "DIFF")
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("line", "expected"), TABLE, ids=[line for line, _ in TABLE])
def test_only_the_kinds_asked_for_come_out(line, expected, kind):
    changes = [change for change in expected if isinstance(change, Flushed) or is_replicated(change, frozenset({kind}))]
    if line.startswith("COPY"):
        changes = expected  # settled when the state is read
    if kind == "del" and line.split()[0] in STORING:  # what it overwrites may be of a type that is replicated
        changes = [Invalidated(change.key, "del", replaces=True) for change in expected]

    assert decode(line, kinds={kind}) == changes


@pytest.mark.parametrize(
    ("line", "fields", "without"),
    [
        ("HSETEX k KEEPTTL FIELDS 2 f v g w", {b"f": None, b"g": None}, {b"f": b"v", b"g": b"w"}),
        (f"HSETEX k FNX PXAT {FAR} FIELDS 1 f v", {b"f": TimedValue(b"v", FAR)}, {b"f": b"v"}),
        (f"HSETEX k FIELDS 1 f v PXAT {FAR}", {b"f": TimedValue(b"v", FAR)}, {b"f": b"v"}),
        ("HSETEX k EXAT 5 FIELDS 1 f v", {b"f": TimedValue(b"v", 5000)}, {b"f": b"v"}),
        ("HSETEX k EX 5 FIELDS 1 f v", {b"f": None}, {b"f": b"v"}),
        (f"HPEXPIREAT k {FAR} FIELDS 2 f g", {b"f": None, b"g": None}, None),
        (f"HPEXPIREAT k {FAR} GT FIELDS 1 f", {b"f": None}, None),
        ("HPERSIST k FIELDS 1 FIELDS", {b"FIELDS": None}, None),
        ("hgetex k PERSIST FIELDS 1 f", {b"f": None}, None),
    ],
)
def test_expiries_of_fields(line, fields, without):
    """A field with an expiry that the command tells, or a field to be read; without the kind, its value alone."""
    timed = decoder({"hset", "fields-expire"})
    plain = decoder({"hset"})

    assert timed.decode(words(line)) == [HashSet(K, fields)]
    assert not timed.unreplicated
    assert list(plain.decode(words(line))) == ([HashSet(K, without)] if without else [])
    assert bool(plain.unreplicated) == ("KEEPTTL" not in line)
    timed.times_fields = False  # one of the servers has none
    assert list(timed.decode(words(line))) == ([HashSet(K, without)] if without else [])


def test_expiries_of_fields_outside_the_namespace_are_passed_over():
    timed = decoder({"hset", "fields-expire"})

    assert not timed.decode(words("HPEXPIREAT x 5 FIELDS 1 k"))
    assert not timed.decode(words("HSETEX x PXAT 5 FIELDS 1 k v"))


@pytest.mark.parametrize(
    "line", ["HPEXPIREAT k 5 f", "HPEXPIREAT k 5 FIELDS many f", "HSETEX k PXAT soon FIELDS 1 f v"]
)
def test_expiries_of_fields_in_a_form_that_we_do_not_know(line):
    assert decode(line) == [Invalidated(K, replaces=True)]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("DEL k", "DEL"),
        ("unlink k", "UNLINK"),
        ("PEXPIREAT k 5", "PEXPIREAT"),
        ("HDEL k f", "HDEL"),
        ("RENAME k x", "RENAME"),
        ("LPUSH k v", "LPUSH"),
        ("lpush k v", "LPUSH"),
        ("SMOVE x k v", "SMOVE"),
        ("HPEXPIREAT k 5 FIELDS 1 f", "HPEXPIREAT"),
        ("XADD k 5-1 f v", "XADD"),
    ],
)
def test_what_does_not_cross_is_counted(line, name):
    followed = decoder({"set", "hset"})
    for count in (1, 2):
        assert not followed.decode(words(line))
        assert followed.unreplicated == {name: count}


@pytest.mark.parametrize(
    "line",
    ["PING", "REPLCONF GETACK k", "PUBLISH k v", "SPUBLISH k v", "SCRIPT LOAD k", "LPUSH x v", "DEL x"],
)
def test_what_says_nothing_about_our_keys_is_not_counted(line):
    followed = decoder({"set", "hset"})
    followed.decode(words(line))

    assert not followed.unreplicated


def test_a_peer_that_invents_commands_does_not_fill_our_memory():
    followed = decoder()
    for number in range(3000):
        followed.decode([b"VERB%d" % number, K])
        followed.decode([b"verb%d" % (number % 10), K])

    assert len(followed.unreplicated) <= 1000
    assert len(followed._forms) <= 1000
    assert followed.unreplicated["VERB3"] == 1 + 300
    followed.count_unreplicated("VERB3")
    assert followed.unreplicated["VERB3"] == 302


# What a real master sends for what its clients say.

#: What a client says, and the changes that come of it; an expiry of 1,000,000 is so many milliseconds from now.
SAID = [
    ("SET k v", [StringSet(K, b"v")]),
    ("SET k w XX GET", [StringSet(K, b"w")]),
    ("SET k v EX 1000", [StringSet(K, b"v", 1_000_000)]),
    ("SET k v KEEPTTL", [Invalidated(K, "set")]),
    (f"SET k v PXAT {FAR}", [StringSet(K, b"v", FAR)]),
    ("SETEX k 1000 v", [StringSet(K, b"v", 1_000_000)]),
    ("PSETEX k 1000000 v", [StringSet(K, b"v", 1_000_000)]),
    ("SET k v NX", []),
    ("GETSET k w", [StringSet(K, b"w")]),
    ("GETEX k EX 1000", [ExpirySet(K, 1_000_000)]),
    ("GETEX k PERSIST", [ExpirySet(K, None)]),
    ("GETDEL k", [Deleted(K)]),
    ("SETNX k v", [StringSet(K, b"v")]),
    ("MSET k 1 l 2 x 3", [StringSet(K, b"1"), StringSet(L, b"2")]),
    ("MSETNX k 1 l 2", []),
    ("INCR k", [Invalidated(K, "set")]),
    ("DECRBY k 5", [Invalidated(K, "set")]),
    ("INCRBYFLOAT k 0.5", [Invalidated(K, "set")]),
    ("APPEND l z", [Invalidated(L, "set")]),
    ("SETRANGE l 3 z", [Invalidated(L, "set")]),
    ("SETBIT l 3 0", [Invalidated(L, "set")]),
    ("SETBIT l 3 0", []),
    ("BITFIELD l SET u8 0 65", [Invalidated(L, "set")]),
    ("BITOP NOT k l", [Invalidated(K, "set", replaces=True)]),
    ("DEL k l", [Deleted(K), Deleted(L)]),
    ("DEL k l", []),
    ("PFADD k a", [Invalidated(K, "set")]),
    ("PFCOUNT k", [Invalidated(K, "set")]),
    ("UNLINK k", [Deleted(K)]),
    ("HSET k f 1 g 2", [HashSet(K, {b"f": b"1", b"g": b"2"})]),
    ("HSET k f 1", [HashSet(K, {b"f": b"1"})]),
    ("HMSET k f 2 h 3", [HashSet(K, {b"f": b"2", b"h": b"3"})]),
    ("HSETNX k i 9", [HashSet(K, {b"i": b"9"})]),
    ("HSETNX k i 9", []),
    ("HINCRBY k f 1", [HashSet(K, {b"f": None})]),
    ("HINCRBYFLOAT k f 0.5", [HashSet(K, {b"f": b"3.5"})]),
    ("HDEL k f nothere", [FieldsDeleted(K, (b"f", b"nothere"))]),
    ("HDEL k nothere", []),
    ("EXPIRE k 1000", [ExpirySet(K, 1_000_000)]),
    ("PEXPIRE k 1000000", [ExpirySet(K, 1_000_000)]),
    (f"PEXPIREAT k {FAR} GT", [ExpirySet(K, FAR)]),
    ("EXPIREAT k 4100000000", [ExpirySet(K, 4_100_000_000_000)]),
    ("PEXPIREAT k 5 GT", []),
    ("PERSIST k", [ExpirySet(K, None)]),
    ("RENAME k l", [Deleted(K), Invalidated(L, replaces=True)]),
    ("RENAMENX l k", [Deleted(L), Invalidated(K, replaces=True)]),
    ("COPY k l", [Invalidated(L, replaces=True)]),
    ("COPY k k DB 1", []),
    ("MOVE l 2", [Deleted(L)]),
    ("EXPIRE k -1", [Deleted(K)]),
    (
        "EVAL redis.call('set',KEYS[1],'a');redis.call('hset','site1:l','f','b') 1 k",
        [StringSet(K, b"a"), HashSet(L, {b"f": b"b"})],
    ),
    ("EVAL redis.call('select','5');redis.call('set',KEYS[1],'a') 1 k", []),
    ("LPUSH site1:list a", [Invalidated(b"site1:list", "lists", replaces=True)]),
    ("SADD site1:set a b", [HashSet(b"site1:set", {b"a": b"", b"b": b""}, "set")]),
    ("SPOP site1:set 5", [Deleted(b"site1:set")]),
    ("ZADD site1:z 0.1 a", [HashSet(b"site1:z", {b"a": b"0.10000000000000001"}, "zset")]),
    ("GEOADD site1:z 1 2 g", [HashSet(b"site1:z", {b"g": b"3378080408407459"}, "zset")]),
    ("XADD site1:stream 5-1 f v", [HashSet(b"site1:stream", {ID5: FV}, "stream")]),
    ("XADD site1:stream MAXLEN ~ 1 7-* f v", [HashSet(b"site1:stream", {ID7: FV, FIRST_ID: None}, "stream")]),
    ("XTRIM site1:stream MAXLEN 1", [HashSet(b"site1:stream", {FIRST_ID: None}, "stream")]),
    ("XDEL site1:stream 7 5-1", [FieldsDeleted(b"site1:stream", (ID7, ID5), "stream")]),
    ("XSETID site1:stream 9-0", [HashSet(b"site1:stream", {LAST_ID: b"9-0"}, "stream")]),
    ("XGROUP CREATE site1:stream g $", []),
    ("FLUSHDB", [Flushed(emptied=True)]),
    ("SWAPDB 0 1", [Flushed(emptied=False)]),
    ("FLUSHALL", [Flushed(emptied=True)]),
]
_MARK = b"site1:mark"


def normal(change, now_ms):
    """A time a thousand seconds from now as just that: 1,000,000 ms."""
    at = getattr(change, "expires_at_ms", None)
    if at is None or abs(at - now_ms - 1_000_000) > 60_000:
        return change
    return (
        StringSet(change.key, change.value, 1_000_000)
        if isinstance(change, StringSet)
        else ExpirySet(change.key, 1_000_000)
    )


async def test_every_listed_command_on_a_real_server():
    with RedisServer() as server:
        link = ReplicaLink(parse_address(f"127.0.0.1:{server.port}"), acknowledged=lambda: 0)
        followed = decoder()
        changes = []
        async with asyncio.timeout(30), contextlib.aclosing(link.events()) as events:
            async for event in events:
                if isinstance(event, SnapshotEnd):
                    await asyncio.to_thread(say, server)
                elif isinstance(event, Commands):
                    for argv in event.commands:
                        changes += followed.decode(argv)
                    if StringSet(_MARK, b"%d" % len(SAID)) in changes:
                        break
        now_ms = time.time() * 1000
        server.kill()  # told to stop, it would wait for a replica that never acknowledges

    came, part = [], []
    for change in changes:
        if isinstance(change, StringSet) and change.key == _MARK:
            came.append(part)
            part = []
        else:
            part.append(normal(change, now_ms))
    # Redis 8.6 says of HINCRBYFLOAT that the field keeps its expiry, whatever that is, so its value is read.
    kept = [(line, [HashSet(K, {b"f": None})] if "FLOAT k f" in line else said) for line, said in SAID]
    assert [(line, got) for (line, _), got in zip(SAID, came[1:], strict=True)] in (SAID, kept)
    assert followed.unreplicated == {"XGROUP": 1}
    assert not followed.in_transaction


def say(server):
    client = server.client(single_connection_client=True)
    # While the process that sent the snapshot is there, FLUSHALL ends it, and the link with it.
    eventually(lambda: not client.info("persistence")["rdb_bgsave_in_progress"])
    client.set(_MARK, 0)
    for number, (line, _) in enumerate(SAID, start=1):
        client.execute_command(*words(line))
        client.set(_MARK, number)


def test_all_that_an_unknown_command_names_is_read_where_types_of_modules_are_replicated():
    decode = ChangeDecoder(lambda key: key.startswith(b"ns:"), KINDS | {"opaque"})
    assert decode.decode([b"BF.ADD", b"ns:filter", b"ns:item", b"other"]) == [
        Invalidated(b"ns:filter", "opaque"),
        Invalidated(b"ns:item", "opaque"),
    ]
    assert not decode.unreplicated
    assert decode.decode([b"BF.ADD", b"other", b"item"]) == ()
