"""How the hub is spoken to: what we write is run by a real Webdis, what it may answer is read."""

from __future__ import annotations

import contextlib
import time
from itertools import product

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.changes import (
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    Invalidated,
    StringSet,
    StringState,
)
from redisrepl.errors import OutcomeUnknownError, ProtocolError, denies_key
from redisrepl.wire.batches import UNCHANGED, parse_batch_reply
from redisrepl.wire.keyspace import keyspace_channel
from redisrepl.wire.messages import MessageReader
from redisrepl.wire.states import parse_fetch
from redisrepl.wire.webdis import (
    CommandError,
    body,
    body_pieces,
    escape,
    escape_words,
    integer_body,
    parse_integer,
    parse_integers,
    script_body,
    script_pieces,
)
from redisrepl.wire.writes import (
    MAX_FIELDS_PER_COMMAND,
    MAX_PAIRS_PER_COMMAND,
    commands_of,
    commands_of_batch,
    events_of,
    halves_of,
    written_keys,
)
from testbed import RedisServer, Webdis, eventually
from tests.bodies import batch_body, fetch_body, flat_reply, parse_reply
from tests.samples import ALL_BYTES, AWKWARD_NAMES, pieces, resp, resp_like

FAR = 4_000_000_000_000


@pytest.fixture(scope="module")
def hub():
    with RedisServer() as server, Webdis(server) as webdis, httpx.Client(timeout=10) as client:

        def post(content):
            answer = client.post(webdis.url, content=content)
            assert answer.status_code == 200
            return answer.content

        post.redis = server.client()
        yield post


@pytest.fixture(autouse=True)
def _empty(request):
    if "hub" in request.fixturenames:
        request.getfixturevalue("hub").redis.flushall()


def fetched(reply):
    """The states alone."""
    return parse_fetch(flat_reply(reply), b"")[1]


def run(hub, *commands):
    """Send commands as a batch; return the errors by index of the write."""
    writes = sum(len(written_keys(command)) for command in commands)
    return parse_batch_reply(flat_reply(hub(batch_body(commands))), writes)[0]


def test_a_batch_tells_when_it_ran_and_what_it_was_given_to_tell(hub):
    pubsub = hub.redis.pubsub(ignore_subscribe_messages=True)
    pubsub.psubscribe("told:*")
    pubsub.get_message(timeout=5)
    commands = [[b"SET", b"k", b"v"]]
    before = hub.redis.time()
    errors, time_us, _ = parse_batch_reply(flat_reply(hub(batch_body(commands, feed=(b"told:\xff/", b"us +/%?")))), 1)

    assert errors == {}
    assert before[0] * 1_000_000 + before[1] <= time_us < (before[0] + 60) * 1_000_000
    message = pubsub.get_message(timeout=5)
    assert (message["channel"], message["data"]) == (b"told:\xff/", b"%d us +/%%?" % time_us)


def test_a_batch_of_which_something_failed_tells_nothing(hub):
    hub.redis.set("k", "a string")
    pubsub = hub.redis.pubsub(ignore_subscribe_messages=True)
    pubsub.psubscribe("told:*")
    pubsub.get_message(timeout=5)
    commands = [[b"HSET", b"k", b"f", b"v"], [b"SET", b"l", b"v"]]
    errors = parse_batch_reply(flat_reply(hub(batch_body(commands, feed=(b"told:", b"x")))), 2).errors
    hub.redis.publish("told:", "the next")

    assert list(errors) == [0]
    assert pubsub.get_message(timeout=5)["data"] == b"the next"


# Escaping.


@pytest.mark.parametrize("byte", range(256))
def test_a_byte_is_escaped_only_where_it_has_a_meaning(byte):
    character = bytes([byte])
    expected = b"%%%02x" % byte if character in b"%/?+" else character

    assert escape(character) == expected
    assert escape(b"a" + character + b"z" + character) == b"a" + expected + b"z" + expected


@given(st.binary())
def test_what_is_escaped_can_be_read_back(data):
    escaped = escape(data)

    assert not set(escaped) & set(b"/?+")
    assert bytes.fromhex("".join(unescaped(escaped))) == data


#: Between words while they are escaped as one; see there.
BETWEEN = b"\x00\x01\xfe\xff"


@given(
    st.lists(
        st.binary() | st.text("\x00\x01%/?+2f").map(str.encode) | st.sampled_from(pieces(BETWEEN * 2, 3)), max_size=30
    )
)
def test_words_escaped_as_one_are_the_words_escaped_one_by_one(words):
    assert escape_words(words) == b"/".join(map(escape, words))


@pytest.mark.parametrize("cut", range(5))
def test_words_that_make_up_the_separator_stay_words(cut):
    words = [BETWEEN[:cut], BETWEEN[cut:], BETWEEN, b"x" + BETWEEN + b"/", BETWEEN[cut:], BETWEEN[:cut]]
    for turn in range(len(words)):
        turned = (words[turn:] + words[:turn]) * 2
        assert escape_words(turned) == b"/".join(map(escape, turned))
        without = [word for word in turned if BETWEEN not in word]
        assert escape_words(without) == b"/".join(map(escape, without))


def test_a_body_in_pieces_is_the_same_body():
    """Small words and large ones, in any order; of the large ones, one that fills its pieces and one that does not."""
    words = [b"", b"a/+", ALL_BYTES * 512, ALL_BYTES * 513]
    for argv in [*product(words, repeat=3), words * 3]:
        pieces = body_pieces(*argv)

        assert b"".join(pieces) == body(*argv)
        assert max(map(len, pieces)) <= 70_000


def test_a_script_with_a_large_argument_in_pieces_is_the_same_body():
    for by_hash in (False, True):
        spelled = escape_words([b"3", b"SET", ALL_BYTES * 513])
        pieces = script_pieces(b"return {}", [b"t/"], spelled, by_hash=by_hash)

        assert spelled == b"/".join(map(escape, [b"3", b"SET", ALL_BYTES * 513]))
        assert b"".join(pieces) == script_body(b"return {}", [b"t/"], [spelled], by_hash=by_hash)
        assert any(piece is spelled for piece in pieces)


def unescaped(data):
    position = 0
    while position < len(data):
        if data[position] == ord("%"):
            yield data[position + 1 : position + 3].decode()
            position += 3
        else:
            yield f"{data[position]:02x}"
            position += 1


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_arrives_by_itself(hub, byte):
    """Alone, at the start and at the end of keys and values."""
    character = bytes([byte])
    for value in (character, character + b"x", b"x" + character, character * 3):
        assert parse_reply(hub(body(b"SET", value, value))) == b"OK"
        assert hub.redis.get(value) == value
        assert parse_reply(hub(body(b"GET", value))) == value


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_awkward_names_arrive(hub, name):
    assert not run(hub, [b"SET", name, name], [b"HSET", b"h" + name, name, name])
    assert hub.redis.get(name) == name
    assert hub.redis.hgetall(b"h" + name) == {name: name}
    assert parse_reply(hub(body(b"HGETALL", b"h" + name))) == [name, name]
    assert fetched(hub(fetch_body([name, b"h" + name], 1000))) == [StringState(name), HashState({name: name})]


@pytest.mark.parametrize("value", [b"v.raw", b"v.json", b"v.txt", b".raw", b"a.b.raw", b"", b"v.RAW", b"v.j%son"])
def test_what_looks_like_a_suffix_stays_part_of_the_value(hub, value):
    hub(body(b"SET", b"k", value))
    assert hub.redis.get("k") == value
    run(hub, [b"SET", b"l", value], [b"HSET", b"h", value, value])
    assert hub.redis.get("l") == value
    assert hub.redis.hgetall("h") == {value: value}


@given(key=st.binary(min_size=1, max_size=20), value=st.binary(max_size=50))
@settings(max_examples=60, deadline=None)
def test_any_bytes_arrive_in_a_batch(hub, key, value):
    hub.redis.flushall()

    assert not run(hub, [b"SET", key, value], [b"HSET", b"\xffh" + key, value, key])
    assert hub.redis.get(key) == value
    assert hub.redis.hgetall(b"\xffh" + key) == {value: key}


def test_large_values_arrive(hub):
    value = ALL_BYTES * 4096
    run(hub, [b"SET", b"k", value])

    assert hub.redis.get("k") == value
    assert fetched(hub(fetch_body([b"k"], 1))) == [StringState(value)]


# From a change to commands.


@pytest.mark.parametrize(
    ("change", "commands"),
    [
        (StringSet(b"k", b"v"), [[b"SET", b"k", b"v"]]),
        (StringSet(b"k", b"v", FAR), [[b"SET", b"k", b"v", b"PXAT", b"%d" % FAR]]),
        (HashSet(b"k", {b"f": b"v", b"g": b""}), [[b"HSET", b"k", b"f", b"v", b"g", b""]]),
        (HashSet(b"k", {b"f": None, b"g": b"w"}), [[b"HSET", b"k", b"g", b"w"]]),
        (HashSet(b"k", {b"f": None}), []),
        (HashSet(b"k", {}), []),
        (Deleted(b"k"), [[b"DEL", b"k"]]),
        (FieldsDeleted(b"k", (b"f", b"g")), [[b"HDEL", b"k", b"f", b"g"]]),
        (FieldsDeleted(b"k", ()), []),
        (ExpirySet(b"k", FAR), [[b"PEXPIREAT", b"k", b"%d" % FAR]]),
        (ExpirySet(b"k", None), [[b"PERSIST", b"k"]]),
        (Invalidated(b"k"), []),
        (Invalidated(b"k", replaces=True), []),
    ],
)
def test_a_change_in_commands(change, commands):
    assert list(commands_of(change)) == commands


def test_plain_sets_are_joined_and_the_rest_stays_in_order():
    changes = [
        HashSet(b"h", {b"f": b"v"}),
        StringSet(b"k1", b"1"),
        Deleted(b"g"),
        HashSet(b"g", {b"f": b"v"}),
        StringSet(b"k2", b"2"),
        StringSet(b"dying", b"v", FAR),
    ]
    rest = [[b"HSET", b"h", b"f", b"v"], [b"DEL", b"g"], [b"HSET", b"g", b"f", b"v"]]
    dying = [b"SET", b"dying", b"v", b"PXAT", b"%d" % FAR]

    assert commands_of_batch(changes) == [[b"MSET", b"k1", b"1", b"k2", b"2"], *rest, dying]
    assert commands_of_batch(changes[1:2]) == [[b"SET", b"k1", b"1"]]
    assert commands_of_batch([]) == []


@pytest.mark.parametrize("count", [2, 499, 500, 501, 502, 1250])
def test_many_sets_are_spread_over_commands_that_lua_can_unpack(hub, count):
    commands = commands_of_batch([StringSet(b"k%d" % number, b"v") for number in range(count)])

    assert len(commands) == -(-count // MAX_PAIRS_PER_COMMAND)
    assert [key for command in commands for key in written_keys(command)] == [
        b"k%d" % number for number in range(count)
    ]
    assert not run(hub, *commands)
    assert hub.redis.dbsize() == count


@pytest.mark.parametrize("count", [2, 3, 4, 5, 500])
def test_joined_sets_in_halves(count):
    (command,) = commands_of_batch([StringSet(b"k%d" % number, b"v") for number in range(count)])
    halves = halves_of(command)

    assert [len(written_keys(half)) for half in halves] == [count // 2, count - count // 2]
    assert [word for half in halves for word in half[1:]] == command[1:]
    assert {half[0] for half in halves} <= {b"SET", b"MSET"}
    assert all((half[0] == b"SET") == (len(written_keys(half)) == 1) for half in halves)


def test_other_commands_have_no_halves():
    assert halves_of([b"HSET", b"k", b"f", b"v", b"g", b"w"]) == [[b"HSET", b"k", b"f", b"v", b"g", b"w"]]


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500])
def test_a_large_hash_is_spread_over_commands_that_lua_can_unpack(hub, count):
    fields = {b"f%d" % number: b"%d" % number for number in range(count)}
    commands = list(commands_of(HashSet(b"h", fields)))

    assert len(commands) == -(-count // MAX_FIELDS_PER_COMMAND)
    assert not run(hub, *commands)
    assert hub.redis.hgetall("h") == fields
    removals = list(commands_of(FieldsDeleted(b"h", tuple(fields)[1:])))
    assert not run(hub, *removals) or count == 1
    assert hub.redis.hgetall("h") == {b"f0": b"0"}


@pytest.mark.parametrize(
    ("change", "events"),
    [
        (StringSet(b"k", b"w"), [b"set"]),
        (StringSet(b"k", b"w", FAR), [b"set", b"expire"]),
        (Deleted(b"k"), [b"del"]),
        (ExpirySet(b"k", FAR), [b"expire"]),
        (ExpirySet(b"k", None), [b"persist"]),
        (HashSet(b"h", {b"f": b"1", b"i": b"2"}), [b"hset"]),
        (FieldsDeleted(b"h", (b"f", b"g")), [b"hdel"]),
    ],
)
def test_a_command_causes_the_events_that_we_expect(hub, change, events):
    """Compared with what a real server publishes."""
    redis = hub.redis
    redis.config_set("notify-keyspace-events", "KA")
    redis.set("k", "v", px=100_000)
    redis.hset("h", mapping={"f": 1, "g": 2, "keep": 3})
    (command,) = commands_of(change)
    with redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.psubscribe("__keyspace@0__:*")
        eventually(redis.pubsub_numpat)
        run(hub, command)
        redis.publish("__keyspace@0__:end", "end")
        seen = []
        while not seen or seen[-1] != b"end":
            message = listener.get_message(timeout=5)
            seen += [message["data"]] if message else []

    assert seen == [*events, b"end"]
    assert list(events_of(command)) == events


def test_joined_sets_cause_one_event_for_each_key(hub):
    hub.redis.config_set("notify-keyspace-events", "KA")
    hub.redis.set("k1", "v", px=100_000)
    command = [b"MSET", b"k1", b"v", b"k2", b"v"]
    with hub.redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.psubscribe("__keyspace@0__:*")
        eventually(hub.redis.pubsub_numpat)
        run(hub, command)
        hub.redis.publish("__keyspace@0__:end", "end")
        seen = []
        while not seen or seen[-1][1] != b"end":
            message = listener.get_message(timeout=5)
            seen += [(message["channel"], message["data"])] if message else []

    expected = [(keyspace_channel(0, key), event) for key in written_keys(command) for event in events_of(command)]
    assert seen[:-1] == expected


def test_the_channel_of_a_key():
    assert keyspace_channel(0, b"site1:\xff") == b"__keyspace@0__:site1:\xff"
    assert keyspace_channel(12, b"") == b"__keyspace@12__:"


# Batches.


def test_a_command_that_fails_does_not_stop_the_others(hub):
    hub.redis.set("string", "v")
    errors = run(
        hub,
        [b"SET", b"a", b"1"],
        [b"HSET", b"string", b"f", b"v"],
        [b"SET", b"b", b"2", b"PXAT", b"soon"],
        [b"NOSUCH", b"c"],
        [b"SET", b"d", b"4"],
    )

    assert errors.keys() == {1, 2, 3}
    assert errors[1].startswith("WRONGTYPE ")
    assert errors[2].startswith("ERR value is not an integer")
    assert hub.redis.mget("a", "d") == [b"1", b"4"]


def test_sets_that_cannot_be_made_together_are_made_one_by_one(hub):
    """What fails is named by its place among all writes."""
    hub.redis.execute_command("ACL", "SETUSER", "default", "resetkeys", "~k*", "~h")
    try:
        errors = run(
            hub,
            [b"MSET", b"k1", b"1", b"bad", b"x", b"k2", b"2"],
            [b"HSET", b"h", b"f", b"v"],
            [b"MSET", b"k3", b"3", b"k4", b"4"],
            [b"HSET", b"k1", b"f", b"v"],
        )
    finally:
        hub.redis.execute_command("ACL", "SETUSER", "default", "allkeys")

    assert errors.keys() == {1, 6}
    assert denies_key(errors[1])
    assert errors[6].startswith("WRONGTYPE ")
    assert hub.redis.mget("k1", "k2", "k3", "k4", "bad") == [b"1", b"2", b"3", b"4", None]


def test_an_expiry_crosses_as_the_time_it_is(hub):
    run(hub, [b"SET", b"k", b"v", b"PXAT", b"%d" % FAR])
    assert hub.redis.pexpiretime("k") == FAR
    run(hub, [b"PERSIST", b"k"])
    assert hub.redis.pexpiretime("k") == -1


def test_what_finds_nothing_to_do_says_so(hub):
    hub.redis.delete("none")
    hub.redis.set("k", "v")
    hub.redis.hset("h", mapping={"f": "v", "g": "v"})
    errors = run(
        hub,
        [b"DEL", b"none"],
        [b"HDEL", b"h", b"none"],
        [b"PERSIST", b"k"],
        [b"PEXPIREAT", b"none", b"%d" % FAR],
        [b"HSET", b"h", b"f", b"v"],
        [b"HDEL", b"h", b"f"],
        [b"PEXPIREAT", b"k", b"%d" % FAR],
        [b"PERSIST", b"k"],
        [b"DEL", b"k"],
    )

    assert errors == dict.fromkeys(range(4), UNCHANGED)


def test_an_empty_batch(hub):
    assert run(hub) == {}


@pytest.mark.parametrize("count", [1, 1000])
def test_as_many_commands_as_a_batch_holds(hub, count):
    assert not run(hub, *([b"SET", b"k%d" % number, b"v"] for number in range(count)))
    assert hub.redis.dbsize() == count


def reply(*items):
    return resp(*items)


@pytest.mark.parametrize(
    "answer",
    [
        reply(),
        reply(b"2"),
        reply(b""),
        reply(b"3", b"x WRONGTYPE"),
        reply(b"3", b"-1 WRONGTYPE"),
        reply(b"3", b"3 WRONGTYPE"),
        reply(b"3", b""),
        reply(b"3 x"),
        reply(b"3 " + b"9" * 5000),
        b":3\r\n",
        b"$1\r\n3\r\n",
        b"*1\r\n:3\r\n",
        b"*1\r\n*1\r\n$1\r\n3\r\n",
        b"*2\r\n$1\r\n3\r\n$-1\r\n",
        b"*2\r\n$1\r\n3\r\n",
        b"",
    ],
)
def test_a_batch_reply_that_does_not_account_for_all_commands(answer):
    with pytest.raises(ProtocolError):
        parse_batch_reply(flat_reply(answer), 3)


def test_a_batch_reply_names_what_failed():
    answer = reply(b"3 1700000000000000", b"0 UNCHANGED", b"2 ERR caf\xe9  x")

    assert parse_batch_reply(flat_reply(answer), 3) == ({0: UNCHANGED, 2: "ERR caf\\xe9  x"}, 1_700_000_000_000_000, "")


def test_a_refused_script_is_not_a_reply():
    with pytest.raises(CommandError, match=r"^NOPERM no scripts$"):
        flat_reply(b"-NOPERM no scripts\r\n")


# Reading.


def test_states_are_read_with_their_expiry(hub):
    redis = hub.redis
    redis.set("string", b"\x00\xff")
    redis.set("empty", b"")
    redis.set("dying", "v", pxat=FAR)
    redis.hset("hash", mapping={"f": "v", "g": ""})
    redis.hset("dying hash", mapping={b"\xff": "v"})
    redis.pexpireat("dying hash", FAR)
    redis.rpush("list", "a")
    redis.pexpireat("list", FAR)
    redis.sadd("set", "a")
    redis.zadd("zset", {"a": 1})
    redis.xadd("stream", {"a": 1})
    keys = [
        b"string",
        b"none",
        b"empty",
        b"dying",
        b"hash",
        b"dying hash",
        b"list",
        b"set",
        b"zset",
        b"stream",
        b"string",
    ]

    assert fetched(hub(fetch_body(keys, 10_000))) == [
        StringState(b"\x00\xff"),
        None,
        StringState(b""),
        StringState(b"v", FAR),
        HashState({b"f": b"v", b"g": b""}),
        HashState({b"\xff": b"v"}, FAR),
        "list",
        "set",
        "zset",
        "stream",
        StringState(b"\x00\xff"),
    ]


def test_a_server_without_pexpiretime_tells_the_expiry_too():
    """Redis before 7.0; a renamed command stands for one that is not there."""
    with RedisServer(config={"rename-command": ['PEXPIRETIME ""']}) as server, Webdis(server) as webdis:
        server.client().set("k", "v", px=100_000)
        server.client().set("l", "v")
        before = time.time() * 1000
        dying, lasting = fetched(httpx.post(webdis.url, content=fetch_body([b"k", b"l"], 1000)).content)

    assert abs(dying.expires_at_ms - before - 100_000) < 20_000
    assert lasting == StringState(b"v")


@pytest.mark.parametrize(("budget", "count"), [(1, 1), (0, 0), (200, 1), (201, 1), (202, 2), (402, 2), (10_000, 5)])
def test_a_reply_carries_no_more_than_the_budget_and_one_key(hub, budget, count):
    for number in range(5):
        hub.redis.set(f"k{number}", b"x" * 100)
    states = fetched(hub(fetch_body([b"k%d" % number for number in range(5)], budget)))

    assert states == [StringState(b"x" * 100)] * count


def test_a_script_that_the_hub_has_run_may_be_named_by_its_hash(hub):
    hub.redis.set("k", "v")
    in_full, by_hash = fetch_body([b"k"], 1000), fetch_body([b"k"], 1000, by_hash=True)

    assert fetched(hub(in_full)) == fetched(hub(by_hash)) == [StringState(b"v")]
    assert len(by_hash) < 80 < len(in_full)


def test_missing_keys_count_too(hub):
    assert fetched(hub(fetch_body([b"none"] * 50, 10))) == [None] * 10


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"5", b"string"),
        reply(b"5", b"string", b""),
        reply(b"5", b"string", b"", b"1"),
        reply(b"5", b"string", b"", b"0"),
        reply(b"5", b"string", b"", b"x", b"v"),
        reply(b"5", b"string", b"soon", b"1", b"v"),
        reply(b"5", b"string", b"", b"9" * 30, b"v"),
        reply(b"5", b"string", b"", b"9" * 5000, b"v"),
        reply(b"5", b"hash", b"", b"3", b"f", b"v", b"g"),
        reply(b"5", b"hash", b"", b"2", b"f"),
        b"*1\r\n:5\r\n",
        b"+OK\r\n",
    ],
)
def test_a_fetch_reply_that_the_script_does_not_return(answer):
    with pytest.raises(ProtocolError):
        fetched(answer)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (b"$3\r\nabc\r\n", b"abc"),
        (b"$0\r\n\r\n", b""),
        (b"$-1\r\n", None),
        (b"+OK\r\n", b"OK"),
        (b":-5\r\n", -5),
        (b"*0\r\n", []),
        (b"*2\r\n$1\r\na\r\n:1\r\n", [b"a", 1]),
    ],
)
def test_a_reply_by_itself(answer, value):
    assert parse_reply(answer) == value


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"$3\r\nab",
        b"$1\r\na\r\nx",
        b"+OK\r\n+OK\r\n",
        b"<html>",
        b'{"GET":null}',
        b"%1\r\n*0\r\n:1\r\n",
        b"*4294967295\r\n",
    ],
)
def test_what_is_not_one_reply(answer):
    with pytest.raises(ProtocolError):
        parse_reply(answer)


def test_an_error_reply_keeps_redis_words():
    with pytest.raises(CommandError, match=r"^WRONGTYPE Operation against$"):
        parse_reply(b"-WRONGTYPE Operation against\r\n")


@pytest.mark.parametrize("name", [b"k", b"k.raw", b"a/b?c+d%2f.json"])
def test_a_large_integer_arrives_whole(hub, name):
    hub.redis.set(name, "v", pxat=FAR)

    assert parse_integer(hub(integer_body(b"PEXPIRETIME", name))) == FAR
    assert parse_integer(hub(integer_body(b"PEXPIRETIME", b"none"))) == -2


def test_a_command_without_its_integer_keeps_redis_words(hub):
    hub.redis.rpush("list", "a")
    with pytest.raises(CommandError, match=r"^WRONGTYPE "):
        parse_integer(hub(integer_body(b"INCR", b"list")))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"5",
        b"[]",
        b"{}",
        b'{"A":1,"B":2}',
        b'{"A":"1"}',
        b'{"A":null}',
        b'{"A":true}',
        b'{"A":[]}',
        b"\xff",
    ],
)
def test_what_is_not_one_integer(answer):
    with pytest.raises(ProtocolError):
        parse_integer(answer)


@pytest.mark.parametrize(
    ("answer", "integers"),
    [(b'{"A":[]}', []), (b'{"A":[4000000000000,-1,-2]}', [FAR, -1, -2]), (b'{"A":[0]}', [0])],
)
def test_integers_of_any_size(answer, integers):
    assert parse_integers(answer) == integers


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{}", b'{"A":1}', b'{"A":[true]}', b'{"A":[null]}', b'{"A":[1.5]}', b'{"A":[[1]]}']
)
def test_what_is_not_a_list_of_integers(answer):
    with pytest.raises(ProtocolError):
        parse_integers(answer)


def test_a_command_without_its_integers_keeps_redis_words():
    with pytest.raises(CommandError, match=r"^ERR unknown"):
        parse_integers(b'{"HPEXPIRETIME":[false,"ERR unknown command"]}')


@given(resp_like() | st.binary(max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_reply_is_read_or_refused(answer):
    for read in (
        parse_reply,
        lambda data: parse_fetch(flat_reply(data), b"t"),
        lambda data: parse_batch_reply(flat_reply(data), 2),
    ):
        with contextlib.suppress(ProtocolError, CommandError, OutcomeUnknownError):
            read(answer)


# The long poll.

CONFIRMED = b"*3\r\n$10\r\npsubscribe\r\n$2\r\ns*\r\n:1\r\n"
EVENT = resp(b"pmessage", b"s*", b"__keyspace@0__:site1:" + ALL_BYTES, b"set")


@pytest.mark.parametrize("size", [None, 1, 7])
def test_messages_are_read_however_they_are_cut(size):
    reader = MessageReader()
    assert not reader.subscribed
    messages = []
    for piece in pieces(CONFIRMED + EVENT + EVENT, size):
        messages += reader.feed(piece)

    assert reader.subscribed
    assert messages == [(b"__keyspace@0__:site1:" + ALL_BYTES, b"set")] * 2


def test_a_message_may_come_before_the_confirmation():
    reader = MessageReader()

    assert len(reader.feed(EVENT)) == 1
    assert not reader.subscribed
    assert reader.feed(CONFIRMED) == []
    assert reader.subscribed


def test_a_refused_subscription():
    with pytest.raises(CommandError, match=r"^NOPERM no channel$"):
        MessageReader().feed(b"-NOPERM no channel\r\n")


@pytest.mark.parametrize(
    "damage",
    [
        b"HTTP/1.1 200 OK\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"*0\r\n",
        resp(b"message", b"c", b"m"),
        resp(b"pmessage", b"p", b"c"),
        b"*4\r\n$8\r\npmessage\r\n$1\r\np\r\n:1\r\n$1\r\nm\r\n",
        b"*4\r\n$8\r\npmessage\r\n$1\r\np\r\n$1\r\nc\r\n$-1\r\n",
        b"*4\r\n$8\r\npmessage\r\n$2\r\ns*\r\n$5\r\nabc\r\n*4\r\n$8\r\n",
        b"%1\r\n*0\r\n:1\r\n",
        b"*4294967295\r\n",
    ],
)
def test_damaged_framing_is_noticed(damage):
    reader = MessageReader()
    reader.feed(CONFIRMED + EVENT)
    with pytest.raises(ProtocolError):
        reader.feed(damage + b"\r\n" * 3)


@given(resp_like(), st.sampled_from([None, 1, 5]))
@settings(max_examples=150, deadline=None)
def test_any_bytes_give_messages_or_an_error_of_ours(data, size):
    reader = MessageReader()
    with contextlib.suppress(ProtocolError, CommandError):
        for piece in pieces(data, size):
            for channel, message in reader.feed(piece):
                assert type(channel) is type(message) is bytes
