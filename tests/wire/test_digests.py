"""The digest computed here is the one that a real server's script computes; other content has another one."""

import contextlib
import http.client
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.changes import HashState, StringState
from redisrepl.errors import ProtocolError
from redisrepl.wire.digests import (
    _DIGEST_SCRIPT,
    NO_KEY,
    alike,
    digest,
    digest_body,
    parse_digest_reply,
    parse_scan_reply,
    scan_body,
)
from redisrepl.wire.webdis import CommandError
from testbed import RedisServer, Webdis
from tests.samples import ALL_BYTES, AWKWARD_NAMES, resp, write

FAR = 4_102_444_800_123  # a time in 2100, with milliseconds
values = st.binary(max_size=200) | st.sampled_from([b"", b"0", b"-1", b"1e3", ALL_BYTES, b"\x00", b"\xff" * 100])
expiries = st.none() | st.integers(FAR, 9_007_199_254_740_992 // 4)
strings = st.builds(StringState, values, expiries)
hashes = st.builds(HashState, st.dictionaries(values, values, min_size=1, max_size=40), expiries)


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis(server):
    return server.client()


@pytest.fixture(scope="module")
def webdis(server):
    with Webdis(server) as webdis:
        yield webdis


def of_server(redis, *keys, expiries=True):
    return redis.eval(_DIGEST_SCRIPT, 0, b"1" if expiries else b"0", 1 << 30, *keys)


def ask(webdis, body):
    connection = http.client.HTTPConnection("127.0.0.1", webdis.port, timeout=10)
    try:
        connection.request("POST", "/", body=body)
        return connection.getresponse().read()
    finally:
        connection.close()


# The same here and there.


@settings(max_examples=150, deadline=None)
@given(state=strings | hashes, expire=st.booleans())
def test_whatever_a_key_holds_has_one_digest(redis, state, expire):
    write(redis, b"key", state)
    assert of_server(redis, b"key", expiries=expire) == [digest(state, expiries=expire)]


def test_a_server_that_does_not_tell_the_time_of_an_expiry():
    """Redis before 7.0, or a user who may not ask: what is left of it is all there is, and nothing differs for that."""
    string, lasting, of_hash = StringState(b"v", FAR), StringState(b"v"), HashState({b"f": b"v"}, FAR)
    with RedisServer(users=["default on nopass ~* &* +@all -pexpiretime"]) as server:
        redis = server.client()
        for key, state in {b"s": string, b"l": lasting, b"h": of_hash}.items():
            write(redis, key, state)
        found = of_server(redis, b"s", b"l", b"h")

    assert all(map(alike, [digest(state, expiries=True) for state in (string, lasting, of_hash)], found))
    for other in (StringState(b"w", FAR), StringState(b"v", FAR + 5000), StringState(b"v"), of_hash):
        assert not alike(digest(other, expiries=True), found[0])


@pytest.mark.parametrize("hub", [b"string x ~", b"string x ~-", b"string x ~" + b"9" * 5000, b" ~", b"", b"string x 1"])
def test_what_a_hub_may_say_of_an_expiry(hub):
    assert not alike(b"string x 5", hub)


def test_a_hash_of_a_thousand_fields(redis):
    chance = random.Random(1)
    fields = {chance.randbytes(chance.randrange(1, 30)): chance.randbytes(chance.randrange(60)) for _ in range(1000)}
    fields |= {b"": b"no name", b"no value": b"", ALL_BYTES: ALL_BYTES}
    for at in (None, FAR):
        state = HashState(fields, at)
        write(redis, b"thousand", state)
        assert of_server(redis, b"thousand") == [digest(state, expiries=True)]
        assert of_server(redis, b"thousand", expiries=False) == [digest(state, expiries=False)]


def test_a_large_string(redis):
    state = StringState(random.Random(2).randbytes(3_000_000))
    write(redis, b"large", state)
    assert of_server(redis, b"large") == [digest(state, expiries=True)]


def test_a_hash_in_each_encoding_and_order(redis):
    """A listpack keeps the order of insertion, a table keeps none: the digest knows neither."""
    small = HashState({b"%d" % number: b"v" for number in range(5)})
    write(redis, b"small", small)
    write(redis, b"turned", HashState(dict(reversed(small.fields.items()))))
    redis.hset(b"table", b"big", b"x" * 1000)
    redis.hset(b"table", mapping=dict(small.fields))
    redis.hdel(b"table", b"big")
    assert (redis.object("encoding", b"small"), redis.object("encoding", b"table")) == (b"listpack", b"hashtable")
    assert set(of_server(redis, b"small", b"turned", b"table")) == {digest(small, expiries=True)}


def test_no_key_and_other_types(redis):
    redis.delete(b"gone", b"list", b"set", b"zset", b"stream")
    redis.rpush(b"list", b"x")
    redis.sadd(b"set", b"x")
    redis.zadd(b"zset", {b"x": 1})
    redis.xadd(b"stream", {b"x": b"1"})
    states = [None, "list", "set", "zset", "stream"]
    redis.pexpireat(b"list", FAR)  # not looked at: what such a key holds does not cross
    found = of_server(redis, b"gone", b"list", b"set", b"zset", b"stream")
    assert found == [digest(state, expiries=True) for state in states]
    assert found[0] == NO_KEY
    assert len(set(found)) == 5


def test_through_webdis_any_bytes_in_keys_and_values(redis, webdis):
    states = {}
    for number, name in enumerate(AWKWARD_NAMES):
        states[b"s:" + name] = StringState(name * number, FAR if number % 2 else None)
        states[b"h:" + name] = HashState({name: b"v", b"f": name}, None if number % 2 else FAR)
        states[b"none:" + name] = None
    for key, state in states.items():
        write(redis, key, state)
    for expire in (True, False):
        reply = ask(webdis, digest_body(list(states), expiries=expire))
        expected = [digest(state, expiries=expire) for state in states.values()]
        assert parse_digest_reply(reply, len(states)) == expected


def test_a_scan_through_webdis_finds_every_key_of_a_prefix(redis, webdis):
    names = {b"scan:%d:" % number + name for number, name in enumerate(AWKWARD_NAMES)}
    names |= {b"scan:%d" % number for number in range(500)}
    redis.mset(dict.fromkeys(names, b"v") | {b"scam:1": b"v", b"xscan:1": b"v"})
    found, cursor, steps = set(), b"0", 0
    while steps == 0 or cursor != b"0":
        cursor, keys = parse_scan_reply(ask(webdis, scan_body(cursor, b"scan:*", 50)))
        found.update(keys)
        steps += 1
    assert found == names
    assert steps > 1


# Different content.


@settings(max_examples=200, deadline=None)
@given(one=strings | hashes | st.none(), other=strings | hashes | st.none())
def test_different_states_have_different_digests(one, other):
    assert (digest(one, expiries=True) == digest(other, expiries=True)) == (one == other)


NEIGHBOURS = [
    None,
    StringState(b""),
    StringState(b"v"),
    StringState(b"v", FAR),
    StringState(b"v", FAR + 1),
    HashState({b"a": b"bc"}),
    HashState({b"ab": b"c"}),
    HashState({b"a": b"bc"}, FAR),
    HashState({b"a": b"1", b"b": b"2"}),
    HashState({b"a": b"2", b"b": b"1"}),
    HashState({b"1": b":x"}),
    HashState({b"1:": b"x"}),
    HashState({b"": b"v"}),
    HashState({b"v": b""}),
    "list",
    "set",
]


def test_what_is_easily_mixed_up_is_not():
    assert len({digest(state, expiries=True) for state in NEIGHBOURS}) == len(NEIGHBOURS)


@pytest.mark.parametrize(
    ("plain", "ends"),
    [(HashState({b"f": b"v"}), HashState({b"f": b"v"}, FAR)), (StringState(b"v"), StringState(b"v", FAR))],
)
def test_an_expiry_counts_only_if_asked_for(plain, ends):
    assert digest(plain, expiries=False) == digest(ends, expiries=False)
    assert digest(plain, expiries=True) != digest(ends, expiries=True)


# Replies that are none.


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"garbage",
        b"<html>502</html>",
        resp(),
        resp(b"one", b"two", b"three"),
        resp(b"one", b"two")[:-1],
        resp(b"one", b"two") + b"more",
        b"*2\r\n:1\r\n:2\r\n",
        b"*2\r\n$-1\r\n$1\r\nx\r\n",
        b"*-1\r\n",
        b":2\r\n",
        b"$3\r\none\r\n",
    ],
)
def test_a_malformed_reply_of_digests(reply):
    with pytest.raises(ProtocolError):
        parse_digest_reply(reply, 2)


def test_a_refused_script_is_told_apart():
    with pytest.raises(CommandError, match="NOPERM"):
        parse_digest_reply(b"-NOPERM no\r\n", 2)


@pytest.mark.parametrize(
    "reply", [b"", b"*0\r\n", b"*1\r\n:0\r\n", b"$1\r\n0\r\n", b"*2\r\n$1\r\n0\r\n*0\r\n", b"nothing"]
)
def test_a_malformed_reply_of_a_scan(reply):
    with pytest.raises(ProtocolError):
        parse_scan_reply(reply)


def test_a_whole_reply_of_a_scan():
    assert parse_scan_reply(resp(b"17", b"a", b"")) == (b"17", [b"a", b""])
    assert parse_scan_reply(resp(b"0")) == (b"0", [])


@given(st.binary(max_size=60))
def test_any_bytes_are_a_reply_or_an_error_of_ours(reply):
    for parse in (lambda: parse_digest_reply(reply, 1), lambda: parse_scan_reply(reply)):
        with contextlib.suppress(ProtocolError, CommandError):
            parse()


def test_a_reply_may_be_about_the_first_keys_only():
    assert parse_digest_reply(resp(b"one"), 2) == [b"one"]
