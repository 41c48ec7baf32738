"""What `STATES_SCRIPT` reads on a real server is what the keys hold."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.changes import HashState, SequenceState, StringState
from redisrepl.errors import OutcomeUnknownError, ProtocolError
from redisrepl.wire.states import STATES_SCRIPT, TOO_LARGE, parse_fetch, parse_states
from tests.samples import ALL_BYTES, AWKWARD_NAMES, scores, streams, write

FAR = 4_102_444_800_123
UNLIMITED = 1 << 30
values = st.binary(max_size=100) | st.sampled_from([b"", b"12345678901234567890", ALL_BYTES])
expiries = st.none() | st.integers(FAR, FAR * 1000)
states = (
    st.none()
    | st.builds(StringState, values, expiries)
    | st.builds(HashState, st.dictionaries(values, values, min_size=1, max_size=20), expiries)
    | st.builds(HashState, st.dictionaries(values, st.just(b""), min_size=1, max_size=9), expiries, st.just("set"))
    | st.builds(HashState, st.dictionaries(values, scores, min_size=1, max_size=9), expiries, st.just("zset"))
    | st.builds(SequenceState, st.lists(values, min_size=1, max_size=9).map(tuple), expiries)
    | streams(expiries)
)


def read(redis, *keys, budget=UNLIMITED):
    return parse_states(redis.eval(STATES_SCRIPT, 0, budget, b"", *keys))


@settings(max_examples=50, deadline=None)
@given(wanted=st.lists(states, max_size=6))
def test_what_was_written_is_read(redis, wanted):
    keys = [b"key:%d" % number for number in range(len(wanted))]
    for key, state in zip(keys, wanted, strict=True):
        write(redis, key, state)
    assert read(redis, *keys, budget=b"%d  list set stream zset " % UNLIMITED) == wanted
    others = {"list", "set", "zset", "stream"}
    named = [state.type if getattr(state, "type", None) in others else state for state in wanted]
    assert read(redis, *keys) == named


def test_keys_of_any_bytes_in_their_order(redis):
    wanted = {name: StringState(name) for name in AWKWARD_NAMES}
    for name, state in wanted.items():
        write(redis, name, state)
    assert read(redis, *wanted) == list(wanted.values())
    assert read(redis, *reversed(wanted)) == list(reversed(wanted.values()))


def test_keys_of_any_type_are_read_without_an_error_at_the_server(redis):
    """Operators watch `INFO errorstats`; hashes are read all day."""
    redis.hset("hash", "f", "v")
    redis.rpush("list", "v")
    redis.config_resetstat()
    read(redis, "hash", "list", "none")

    assert redis.info("errorstats") == {}


def test_the_time_of_reading_is_that_of_the_server(redis):
    before = redis.time()
    at, _ = parse_fetch(redis.eval(STATES_SCRIPT, 0, UNLIMITED, b"", b"none"), b"")
    after = redis.time()
    assert before[0] * 1_000_000 + before[1] <= at <= after[0] * 1_000_000 + after[1]


def test_the_reply_repeats_the_token(redis):
    reply = redis.eval(STATES_SCRIPT, 0, UNLIMITED, b"5f-1", b"none")
    assert parse_fetch(reply, b"5f-1")[1] == [None]
    with pytest.raises(OutcomeUnknownError):
        parse_fetch(reply, b"5f-2")


def test_a_key_asked_for_twice(redis):
    redis.set(b"key", b"v")
    assert read(redis, b"key", b"none", b"key") == [StringState(b"v"), None, StringState(b"v")]


def test_a_hash_of_many_fields(redis):
    """More than Lua could unpack onto its stack."""
    chance = random.Random(3)
    fields = {b"%d" % number: chance.randbytes(10) for number in range(20_000)}
    for start in range(0, len(fields), 1000):
        redis.hset(b"hash", mapping=dict(list(fields.items())[start : start + 1000]))
    assert read(redis, b"hash") == [HashState(fields)]


def test_other_types_are_named_and_not_read(redis):
    redis.rpush(b"list", *[b"x" * 1000] * 100)
    redis.sadd(b"set", b"x")
    redis.zadd(b"zset", {b"x": 1})
    redis.xadd(b"stream", {b"x": b"1"})
    redis.pexpireat(b"list", FAR)
    reply = redis.eval(STATES_SCRIPT, 0, UNLIMITED, b"", b"list", b"set", b"zset", b"stream", b"none")
    assert parse_states(reply) == ["list", "set", "zset", "stream", None]
    assert sum(map(len, reply)) < 120


def test_what_other_kinds_of_string_hold(redis):
    redis.incr(b"counter")
    redis.setbit(b"bits", 7, 1)
    redis.pfadd(b"hll", b"x")
    expected = [StringState(b"1"), StringState(b"\x01"), StringState(redis.get(b"hll"))]
    assert read(redis, b"counter", b"bits", b"hll") == expected


# The budget.


@pytest.mark.parametrize(
    ("budget", "read_keys"), [(0, 0), (1, 1), (100, 1), (201, 1), (202, 2), (402, 2), (403, 3), (10_000, 10)]
)
def test_the_reply_ends_with_the_key_that_fills_it(redis, budget, read_keys):
    """Each string costs its bytes and 100 more, each key one, so that missing keys come to an end, too."""
    keys = [b"key:%d" % number for number in range(10)]
    redis.mset(dict.fromkeys(keys, b"x" * 100))
    assert read(redis, *keys, budget=budget) == [StringState(b"x" * 100)] * read_keys


def test_a_single_key_larger_than_the_budget_is_read_whole(redis):
    redis.set(b"large", b"x" * 100_000)
    redis.set(b"next", b"v")
    assert read(redis, b"large", b"next", budget=10) == [StringState(b"x" * 100_000)]


def test_what_does_not_fit_can_be_asked_for_next(redis):
    chance = random.Random(4)
    wanted = {b"key:%d" % n: StringState(chance.randbytes(chance.randrange(300))) for n in range(200)}
    wanted |= {b"hash:%d" % n: HashState({chance.randbytes(5): chance.randbytes(50)}) for n in range(50)}
    for key, state in wanted.items():
        write(redis, key, state)
    keys, found, rounds = list(wanted), [], 0
    while len(found) < len(keys):
        found += read(redis, *keys[len(found) :], budget=1000)
        rounds += 1
    assert found == list(wanted.values())
    assert rounds > 10


@pytest.mark.parametrize("make", [lambda r, k: r.set(k, b"v" * 2000), lambda r, k: r.hset(k, b"f", b"v" * 2000)])
def test_what_is_too_large_uses_up_the_budget_too(redis, make):
    """The server reads it, and meanwhile serves nobody else."""
    keys = [b"key%d" % number for number in range(5)]
    for key in keys:
        make(redis, key)

    assert read(redis, *keys, budget=b"1000 500") == [TOO_LARGE]
    assert read(redis, *keys, budget=b"4500 500") == [TOO_LARGE] * 3


def test_missing_keys_use_up_the_budget_too(redis):
    assert read(redis, *[b"none"] * 50, budget=20) == [None] * 20


# Replies that are none.


WHOLE = [
    b"1700000000000000",
    b"string",
    b"",
    b"1",
    b"v",
    b"hash",
    b"%d" % FAR,
    b"4",
    b"f",
    b"1",
    b"g",
    b"2",
    b"none",
    b"",
    b"0",
]


def test_a_whole_reply():
    assert parse_states(WHOLE) == [StringState(b"v"), HashState({b"f": b"1", b"g": b"2"}, FAR), None]
    assert parse_fetch(WHOLE, b"")[0] == 1_700_000_000_000_000
    assert parse_states(WHOLE[:1]) == []


@pytest.mark.parametrize("length", [n for n in range(len(WHOLE)) if n not in {1, 5, 12}])
def test_a_reply_that_ends_early(length):
    with pytest.raises(ProtocolError):
        parse_states(WHOLE[:length])


@pytest.mark.parametrize(
    "items",
    [
        [b"5", b"string", b"", b"one", b"v"],
        [b"5", b"string", b"soon", b"1", b"v"],
        [b"5", b"hash", b"", b"3", b"f", b"v", b"g"],
        [b"5", b"hash", b"", b"2", b"f"],
        [b"5", b"list", b"", b"1"],
        [b"5", b"string", b"", b"0"],
        [b"5", b"none", b""],
        [b"none", b"", b"0"],
        [b"", b"none", b"", b"0"],
        [b"9" * 5000, b"none", b"", b"0"],
    ],
)
def test_a_malformed_reply(items):
    with pytest.raises(ProtocolError):
        parse_states(items)


@given(
    st.lists(st.sampled_from([b"string", b"hash", b"none", b"list", b"", b"0", b"1", b"2", b"-1", b"-3", b"9", b"x"]))
)
def test_any_items_are_states_or_an_error_of_ours(items):
    try:
        parsed = parse_states([b"5", *items])
    except ProtocolError:
        return
    assert len(parsed) <= len(items)
