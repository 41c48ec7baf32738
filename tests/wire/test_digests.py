"""The digests computed here are those that a real server's scripts compute; other content has other ones."""

from __future__ import annotations

import contextlib
import random
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redisrepl.changes import HashState, ReckonedExpiry, SequenceState, StringState, expiries_differ
from redisrepl.errors import ProtocolError
from redisrepl.wire.collections import COLLECTIONS
from redisrepl.wire.digests import (
    BUCKETS,
    LOOK_SCRIPT,
    PAGE_SCRIPT,
    SUMS_SCRIPT,
    UNREADABLE,
    WORK,
    Look,
    Page,
    Summed,
    add_sums,
    bucket_of,
    digest_of,
    element_of,
    elements_of,
    hash_digest,
    look_at,
    parse_looks,
    parse_page,
    parse_sums,
    total_of,
    wanted_buckets,
)
from testbed import RedisServer
from tests.samples import ALL_BYTES, AWKWARD_NAMES, scores, streams, write

FAR = 4_102_444_800_123  # a time in 2100, with milliseconds
values = st.binary(max_size=200) | st.sampled_from([b"", b"0", b"-1", b"1e3", ALL_BYTES, b"\x00", b"\xff" * 100])
expiries = st.none() | st.integers(FAR, 9_007_199_254_740_992 // 4)
strings = st.builds(StringState, values, expiries)
hashes = st.builds(HashState, st.dictionaries(values, values, min_size=1, max_size=40), expiries)
sets = st.builds(HashState, st.dictionaries(values, st.just(b""), min_size=1, max_size=20), expiries, st.just("set"))
zsets = st.builds(HashState, st.dictionaries(values, scores, min_size=1, max_size=20), expiries, st.just("zset"))
lists = st.builds(SequenceState, st.lists(values, min_size=1, max_size=20).map(tuple), expiries)
ALL = b" list set stream zset "


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis(server):
    return server.client()


def looks(redis, *keys, expiries=True, work=WORK, others=b""):
    return parse_looks(redis.eval(LOOK_SCRIPT, 0, (b"1" if expiries else b"0") + others, work, *keys), len(keys))


def pages(redis, pattern=b"*", buckets=None, count=1000, work=WORK, others=b""):
    """What all steps of a scan say of its keys."""
    found, cursor, steps = Page(b"", {}), b"0", 0
    while steps == 0 or cursor != b"0":
        words = (b"1" + others, cursor, pattern, count, work, *wanted_buckets(buckets))
        page = parse_page(redis.eval(PAGE_SCRIPT, 0, *words))
        found = Page(b"", found.looks | page.looks, (*found.left, *page.left))
        cursor, steps = page.cursor, steps + 1
    return found, steps


def summed(redis, pattern=b"*", count=1000, work=WORK, others=b""):
    """The sums of all keys, how many there are, and which are left."""
    sums, cursor, number, left, steps = [0] * BUCKETS, b"0", 0, [], 0
    while steps == 0 or cursor != b"0":
        words = (cursor, pattern, count, work, *([others] if others else []))
        step = parse_sums(redis.eval(SUMS_SCRIPT, 0, *words), sums)
        cursor, number, left, steps = step.cursor, number + step.keys, [*left, *step.left], steps + 1
    return sums, number, left


def held(redis, states):
    redis.flushall()
    for key, state in states.items():
        write(redis, key, state)
    return {key: look_at(key, state) for key, state in states.items()}


# The same here and there.


@settings(max_examples=80, deadline=None)
@given(
    key=values,
    state=strings | hashes | sets | zsets | lists | streams(expiries),
    expire=st.booleans(),
    others=st.sampled_from([b"", ALL]),
)
@example(b"", HashState({b"": b""}), True, b"")
@example(b"", HashState({b"": b""}, None, "set"), True, ALL)
@example(b"k", SequenceState(tuple(b"%d" % number for number in range(2000))), False, ALL)
@example(b"k", SequenceState((b"1", b"11", b"") * 500), False, ALL)
@example(b"k", HashState({b"": b"0.10000000000000001", b"a": b"-1.5", b"b": b"inf"}, None, "zset"), True, ALL)
def test_whatever_a_key_holds_has_one_digest(redis, key, state, expire, others):
    """Of types that are not carried it is only said that they are there."""
    expected = held(redis, {key: state})
    assert look_at(key, state) == Look(digest_of(key, state), state.expires_at_ms)
    if not others and not isinstance(state, StringState) and state.type != "hash":
        expected[key] = Look(UNREADABLE)

    found = looks(redis, key, expiries=expire, others=others)
    assert found == [expected[key] if expire else Look(expected[key].digest)]
    assert pages(redis, others=others)[0].looks == expected
    sums = [0] * BUCKETS
    add_sums(sums, expected)
    assert summed(redis, others=others) == (sums, 1, [])


def test_the_same_elements_in_two_types_have_two_digests():
    elements = {b"1": b"", b"2": b""}
    digests = {digest_of(b"k", HashState(elements, None, type_)) for type_ in COLLECTIONS}
    assert len(digests) == len(COLLECTIONS)
    assert len({element_of(b"1", b"1", type_) for type_ in COLLECTIONS}) == len(COLLECTIONS)


MANY = (
    {
        b"s:%d:" % number + name: StringState(name * number, FAR if number % 2 else None)
        for number, name in enumerate(AWKWARD_NAMES)
    }
    | {b"h:%d:" % number + name: HashState({name: b"v", b"f": name}, FAR) for number, name in enumerate(AWKWARD_NAMES)}
    | {b"n:%d" % number: StringState(b"v" * number) for number in range(300)}
)


def test_the_keys_of_a_pattern_in_steps(redis):
    expected = held(redis, MANY | {b"m:1": StringState(b"v"), b"xn:1": StringState(b"v")})
    found, steps = pages(redis, b"n:*", count=20)
    assert found == Page(b"", {key: look for key, look in expected.items() if key.startswith(b"n:")})
    assert steps > 1
    assert pages(redis, count=20)[0].looks == expected

    for pattern, prefix in ((b"n:*", b"n:"), (b"*", b"")):
        sums = [0] * BUCKETS
        add_sums(sums, {key: look for key, look in expected.items() if key.startswith(prefix)})
        assert summed(redis, pattern, count=20) == (sums, sum(key.startswith(prefix) for key in expected), [])


def test_only_the_buckets_that_are_wanted_are_looked_into(redis):
    expected = held(redis, MANY)
    wanted = {0, 7, 100, 255, *range(50, 60)}
    found, _ = pages(redis, buckets=wanted)
    assert found.looks == {key: look for key, look in expected.items() if bucket_of(key) in wanted}
    assert 0 < len(found.looks) < len(expected)
    assert pages(redis, buckets=[])[0].looks == {}


@given(st.binary(max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_key_lies_in_one_bucket(redis, key):
    held(redis, {key: StringState(b"v")})
    sums, _, _ = summed(redis)
    assert [bucket for bucket, total in enumerate(sums) if total] == [bucket_of(key)]
    assert pages(redis, buckets=[bucket_of(key)])[0].looks.keys() == {key}
    assert pages(redis, buckets=set(range(BUCKETS)) - {bucket_of(key)})[0].looks == {}


def test_keys_that_count_up_are_spread_over_the_buckets():
    spread = Counter(bucket_of(b"site1:session:%d" % number) for number in range(100_000))
    assert len(spread) > BUCKETS // 2
    assert max(spread.values()) < 4 * 100_000 / BUCKETS


def test_a_server_is_held_up_for_so_much_work_at_a_time(redis):
    states = {b"h:%d" % number: HashState({b"%d" % f: b"v" for f in range(100)}) for number in range(5)}
    expected = held(redis, states)
    keys = sorted(states)

    assert looks(redis, *keys, work=1) == [expected[keys[0]]]  # one at least
    assert looks(redis, *keys, work=81_000) == [expected[key] for key in keys[:2]]
    found, _ = pages(redis, work=81_000)
    assert (len(found.looks), len(found.left)) == (2, 3)
    assert found.looks.keys() | set(found.left) == set(keys)
    sums, number, left = summed(redis, work=81_000)
    assert (number, len(left)) == (5, 3)
    expected_sums = [0] * BUCKETS
    add_sums(expected_sums, {key: expected[key] for key in keys if key not in left})
    assert sums == expected_sums


def test_a_server_that_does_not_tell_the_time_of_an_expiry():
    """Redis before 7.0, or a user who may not ask: what is left of it is all there is."""
    states = {b"s": StringState(b"v", FAR), b"l": StringState(b"v"), b"h": HashState({b"f": b"v"}, FAR)}
    with RedisServer(users=["default on nopass ~* &* +@all -pexpiretime"]) as server:
        redis = server.client()
        expected = held(redis, states)
        found = dict(zip(states, looks(redis, *states), strict=True))
    assert [type(look.expires_at_ms) for look in found.values()] == [ReckonedExpiry, type(None), ReckonedExpiry]
    for key, look in found.items():
        assert look.digest == expected[key].digest
        assert not expiries_differ(expected[key].expires_at_ms, look.expires_at_ms)


def test_a_hash_of_a_thousand_fields_and_a_large_string(redis):
    chance = random.Random(1)
    fields = {chance.randbytes(chance.randrange(1, 30)): chance.randbytes(chance.randrange(60)) for _ in range(1000)}
    fields |= {b"": b"no name", b"no value": b"", ALL_BYTES: ALL_BYTES}
    expected = held(redis, {b"many": HashState(fields, FAR), b"large": StringState(chance.randbytes(3_000_000))})
    assert looks(redis, *expected, work=1 << 30) == list(expected.values())


def test_a_hash_in_each_encoding_and_order(redis):
    """A listpack keeps the order of insertion, a table keeps none: the digest knows neither."""
    small = HashState({b"%d" % number: b"v" for number in range(5)})
    turned = HashState(dict(reversed(small.fields.items())))
    held(redis, {b"small": small})
    redis.hset(b"table", b"big", b"x" * 1000)
    redis.hset(b"table", mapping=dict(small.fields))
    redis.hdel(b"table", b"big")
    assert (redis.object("encoding", b"small"), redis.object("encoding", b"table")) == (b"listpack", b"hashtable")
    assert [look.digest for look in looks(redis, b"small", b"table")] == [
        digest_of(key, turned) for key in (b"small", b"table")
    ]


def test_no_key_and_what_cannot_be_replicated(redis):
    held(redis, {})
    redis.rpush(b"list", b"x")
    redis.sadd(b"set", b"x")
    redis.zadd(b"zset", {b"x": 1})
    redis.xadd(b"stream", {b"x": b"1"})
    redis.pexpireat(b"list", FAR)  # not looked at
    others = [b"list", b"set", b"zset", b"stream"]
    assert looks(redis, b"gone", *others) == [Look(None), *[Look(UNREADABLE)] * 4]
    assert pages(redis)[0].looks == dict.fromkeys(others, Look(UNREADABLE))
    assert summed(redis) == ([0] * BUCKETS, 4, [])
    sums = [0] * BUCKETS
    add_sums(sums, {b"gone": Look(None), b"list": Look(UNREADABLE)})
    assert sums == [0] * BUCKETS
    assert [digest_of(b"k", state) for state in (None, "list", "denied")] == [None, UNREADABLE, UNREADABLE]


def test_a_key_that_is_denied_does_not_hide_the_others(redis):
    expected = held(redis, {b"ours": StringState(b"v"), b"theirs": StringState(b"v")})
    redis.execute_command("ACL", "SETUSER", "default", "resetkeys", "~ours")
    try:
        assert looks(redis, b"theirs", b"ours") == [Look(UNREADABLE), expected[b"ours"]]
        assert pages(redis)[0].looks == {b"theirs": Look(UNREADABLE), b"ours": expected[b"ours"]}
        _, number, left = summed(redis)
        assert (number, left) == (2, [])
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "allkeys")


# Different content.

NEIGHBOURS = [
    None,
    "list",
    StringState(b""),
    StringState(b"v"),
    HashState({b"a": b"bc"}),
    HashState({b"ab": b"c"}),
    HashState({b"a": b"1", b"b": b"2"}),
    HashState({b"a": b"2", b"b": b"1"}),
    HashState({b"1": b":x"}),
    HashState({b"1:": b"x"}),
    HashState({b"": b"v"}),
    HashState({b"v": b""}),
]


def test_what_is_easily_mixed_up_is_not():
    assert len({digest_of(b"k", state) for state in NEIGHBOURS}) == len(NEIGHBOURS)
    assert digest_of(b"k", StringState(b"ey")) != digest_of(b"ke", StringState(b"y"))
    assert digest_of(b"1", HashState({b"a": b"1"})) != digest_of(b"2", HashState({b"a": b"1"}))


@settings(max_examples=100, deadline=None)
@given(one=strings | hashes | st.none(), other=strings | hashes | st.none())
def test_different_values_have_different_digests(one, other):
    def value(state):
        return state if state is None else getattr(state, "value", None) or dict(getattr(state, "fields", {}))

    same = type(one) is type(other) and value(one) == value(other)
    assert (digest_of(b"k", one) == digest_of(b"k", other)) == same


@given(st.dictionaries(values, values, min_size=1, max_size=8))
def test_the_digest_of_a_hash_comes_from_the_sum_of_its_fields(fields):
    """So a field can be taken out or put in without the others."""
    elements = elements_of(fields)
    assert elements == {name: element_of(name, value) for name, value in fields.items()}
    assert hash_digest(b"k", total_of(elements.values())) == digest_of(b"k", HashState(fields))
    first, second = total_of(elements.values())
    _, element = elements.popitem()
    less = total_of(elements.values())
    assert ((less[0] + (element >> 48)) % (1 << 48), (less[1] + element % (1 << 48)) % (1 << 48)) == (first, second)


# Replies that are none.

DIGEST = b"0123456789abcde"


@pytest.mark.parametrize(
    ("told", "look"),
    [
        (b"", Look(None)),
        (b"?", Look(UNREADABLE)),
        (DIGEST, Look(int(DIGEST, 16))),
        (DIGEST + b" 5", Look(int(DIGEST, 16), 5)),
        (DIGEST + b" ~5", Look(int(DIGEST, 16), ReckonedExpiry(5))),
    ],
)
def test_what_is_told_of_a_key(told, look):
    (found,) = parse_looks([told], 1)
    assert (found, type(found.expires_at_ms)) == (look, type(look.expires_at_ms))
    assert parse_page([b"7", b"key", told]) == Page(b"7", {b"key": look})


@pytest.mark.parametrize(
    "told",
    [
        DIGEST[1:],
        DIGEST + b"0",
        DIGEST.upper(),
        b"-" + DIGEST[1:],
        b"!!",
        b"x",
        DIGEST + b" -1",
        DIGEST + b" " + b"9" * 20,
        DIGEST + b" ~~5",
    ],
)
def test_what_may_not_be_told_of_a_key(told):
    for parse in (lambda: parse_looks([told], 1), lambda: parse_page([b"0", b"k", told])):
        with pytest.raises(ProtocolError):
            parse()


def test_what_is_left_for_later():
    assert parse_page([b"0", b"a", b"!", b"b", DIGEST]) == Page(b"0", {b"b": Look(int(DIGEST, 16))}, (b"a",))


@pytest.mark.parametrize("items", [[], [b""] * 3])
def test_looks_that_were_not_asked_for(items):
    with pytest.raises(ProtocolError):
        parse_looks(items, 2)


@pytest.mark.parametrize("items", [[], [b"0", b"key"]])
def test_a_page_that_is_none(items):
    with pytest.raises(ProtocolError):
        parse_page(items)


@pytest.mark.parametrize(
    "items",
    [
        [],
        [b"0", b"1", b""],
        [b"0", b"1", b"0"],
        [b"0", b"x", b"0", b""],
        [b"x", b"1", b"0", b""],
        [b"0", b"1", b"1", b""],
        [b"0", b"1", b"0", b"k", b""],
        [b"0", b"1", b"-1", b"k", b""],
        [b"0", b"1", b"0", b"07"],
        [b"0", b"1", b"0", b"0700000000000g"],
        [b"0", b"1", b"0", b"07 00000000000"],
    ],
)
def test_sums_that_are_none(items):
    with pytest.raises(ProtocolError):
        parse_sums(items, [0] * BUCKETS)


def test_sums_are_added():
    sums = [0] * BUCKETS
    sums[7] = (1 << 48) - 1
    told = b"0700000000000200000000000009ff100000000000"
    assert parse_sums([b"5", b"3", b"1", b"left", told], sums) == Summed(b"5", 3, [b"left"])
    assert (sums[7], sums[0], sums[255], sum(sums)) == (1, 9, 1 << 44, (1 << 44) + 10)
    assert parse_sums([b"0", b"0", b"0", b""], sums) == Summed(b"0", 0, [])


@given(st.lists(st.binary(max_size=20) | st.sampled_from([b"0", b"1", b"?", b"!", DIGEST, b"255"]), max_size=8))
def test_any_strings_are_an_answer_or_an_error_of_ours(items):
    for parse in (parse_page, lambda items: parse_looks(items, 3), lambda items: parse_sums(items, [0] * BUCKETS)):
        with contextlib.suppress(ProtocolError):
            parse(items)
