"""Entries of streams: their names and values, and the script that puts them where Redis would not."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.errors import ProtocolError
from redisrepl.wire.entries import (
    LAST_ID,
    PUT_STREAM_SCRIPT,
    checked_elements,
    entries_in,
    entry_name,
    entry_value,
    entry_words,
    greater_id,
    is_element_name,
    last_id_of,
    plain_id,
    stream_facts,
    with_last_id,
)
from redisrepl.wire.groups import pending_name, place_name
from tests.samples import ALL_BYTES

V = entry_value([b"f", b"v"])
HIGHEST = b"18446744073709551615-18446744073709551615"


# Here.


@given(st.tuples(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1)), st.data())
def test_names_sort_as_ids_do(first, data):
    second = data.draw(st.just(first) | st.tuples(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1)))
    ids = [b"%d-%d" % id_ for id_ in (first, second)]
    assert (entry_name(ids[0]) < entry_name(ids[1])) == (first < second)
    assert [plain_id(entry_name(id_)) for id_ in ids] == ids
    assert entry_name(HIGHEST) < LAST_ID
    assert greater_id(*ids) == b"%d-%d" % max(first, second)


def test_an_id_without_its_second_number():
    assert entry_name(b"5") == entry_name(b"5-0") == entry_name(b"005-00")


@pytest.mark.parametrize("text", [b"", b"-", b"5-", b"-5", b"5-1-2", b"+5-1", b" 5-1", b"5_0-1", b"*", b"5" * 21])
def test_what_is_no_id(text):
    with pytest.raises(ValueError, match="id"):
        entry_name(text)


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"", b"3:abc", ALL_BYTES])).map(lambda words: 2 * words))
def test_words_in_one_value(words):
    assert entry_words(entry_value(words)) == words


@pytest.mark.parametrize("count", [2, 14, 16, 70_000])
@pytest.mark.parametrize("size", [0, 31, 32, 255, 256, 70_000])
def test_words_are_packed_as_servers_pack_them(redis, count, size):
    words = [b"x" * (size if number < 4 else 3) for number in range(count)]
    assert redis.eval("return cmsgpack.pack(ARGV)", 0, *words) == entry_value(words)
    assert entry_words(entry_value(words)) == words


@pytest.mark.parametrize(
    "value",
    [
        *(b"", V[:-1], V + b"x", b"\x91\xa1f", b"\x94" + V[1:], b"\x92\xa1f\xd9", b"\xdc\x00", b"\x92\xa1f\x01", b"[]"),
    ],
)
def test_what_is_no_value(value):
    with pytest.raises(ValueError, match="entry"):
        entry_words(value)
    with pytest.raises(ValueError, match="entry"):
        checked_elements([b"5-1", value])


@pytest.mark.parametrize("flat", [[b"", V], [b"5-1", V, b"x", V], [LAST_ID, b"x"], [b"5-1"], [b"first-id", b"5-1"]])
def test_what_is_no_element_of_a_stream(flat):
    with pytest.raises(ValueError, match=r"id|shorter"):
        checked_elements(flat)


def test_elements_by_the_names_that_servers_have():
    assert checked_elements([b"5-1", V, LAST_ID, b"7-0"]) == {entry_name(b"5-1"): V, LAST_ID: b"7-0"}


def test_the_least_last_id():
    assert [last_id_of(id_) for id_ in (b"0", b"0-0", b"0-1", b"00-2")] == [b"0-1", b"0-1", b"0-1", b"0-2"]


def test_the_last_id_follows_from_entries_at_the_end():
    five, seven = entry_name(b"5-1"), entry_name(b"7-0")
    assert with_last_id({five: b"v", seven: b"v"})[LAST_ID] == b"7-0"
    assert with_last_id({five: b"v", seven: None})[LAST_ID] == b"5-1"
    assert with_last_id({five: b"v", LAST_ID: b"9-0"})[LAST_ID] == b"9-0"
    assert with_last_id({five: b"v", LAST_ID: b"3-0"})[LAST_ID] == b"5-1"  # it was set before the entry came
    assert with_last_id({five: None}) == {five: None}


@pytest.mark.parametrize("reply", [[b"5-1"], [[b"5-1", b"v"]], [[1, []]], [[b"5-1", [1]]], [None]])
def test_what_xrange_does_not_answer(reply):
    with pytest.raises(ProtocolError, match="XRANGE"):
        entries_in(reply)


@pytest.mark.parametrize(
    "reply",
    [
        *(None, b"OK", [], [b"length"], [b"last-generated-id", b"x", b"first-entry", None]),
        [b"last-generated-id", b"5-1", b"first-entry", [b"x", []]],
        [b"last-generated-id", 5, b"first-entry", None],
    ],
)
def test_what_xinfo_does_not_answer(reply):
    with pytest.raises(ProtocolError, match="asked did not answer"):
        stream_facts(reply, "asked")


# At a server.


def put(redis, elements, key="s"):
    """What the script says: 1, or an error."""
    words = [word for name in sorted(elements) for word in (plain_id(name), elements[name])]
    try:
        return redis.eval(PUT_STREAM_SCRIPT, 1, key, *words)
    except redis_errors() as error:
        return str(error)


def redis_errors():
    from redis.exceptions import ResponseError  # noqa: PLC0415 - the name `redis` is a client's here

    return ResponseError


def entries(*ids, value=V):
    return {entry_name(id_): value for id_ in ids}


def held(redis, key="s"):
    """Ids with their words in turn, and the last id."""
    found = redis.execute_command("XRANGE", key, "-", "+")
    words = {id_: [word for pair in fields.items() for word in pair] for id_, fields in found}
    return words, redis.xinfo_stream(key)["last-generated-id"]


some_ids = st.tuples(st.integers(0, 3), st.integers(1, 4)).filter((0, 1).__ne__).map(lambda id_: b"%d-%d" % id_)
some_values = st.sampled_from([b"a", b"b", b""]).map(lambda text: entry_value([b"f", text]))
steps = st.lists(
    st.tuples(st.just("put"), st.dictionaries(some_ids.map(entry_name), some_values, min_size=1, max_size=5))
    | st.tuples(st.just("delete"), some_ids)
    | st.tuples(st.just("trim"), st.integers(0, 4)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_entries_come_to_their_place_wherever_that_is(redis, steps):
    """As in a dictionary by id; the last id never falls, and groups and what is pending there stay as they are."""
    redis.flushall()
    put(redis, entries(b"2-2"))
    redis.xgroup_create("s", "g", "1-1")
    redis.xreadgroup("g", "c", {"s": ">"})
    groups, pending = redis.xinfo_groups("s"), redis.xpending("s", "g")
    model, last = {b"2-2": [b"f", b"v"]}, b"2-2"
    added = 1
    for step, about in steps:
        if step == "put":
            assert put(redis, about) == 1
            ids = {plain_id(name): entry_words(value) for name, value in about.items()}
            added += len(ids.keys() - model.keys())
            model |= ids
            last = greater_id(last, plain_id(max(about)))
        elif step == "delete":
            redis.xdel("s", about)
            model.pop(about, None)
        else:
            redis.xtrim("s", maxlen=about, approximate=False)
            model = dict(sorted(model.items(), key=lambda item: entry_name(item[0]))[max(0, len(model) - about) :])

        assert held(redis) == (model, last)
        assert redis.xinfo_stream("s")["entries-added"] == added
    assert [group | {"lag": 0} for group in redis.xinfo_groups("s")] == [group | {"lag": 0} for group in groups]
    assert redis.xpending("s", "g") == pending


@pytest.mark.parametrize("entries_of_a_node", [4, 100])
@pytest.mark.parametrize("number", [5, 8, 9, 12, 13, 200, 301])
@pytest.mark.parametrize("inserted", ["first", "middle", "last"])
def test_a_client_that_trims_a_stream_in_which_entries_were_inserted_removes_all_that_it_names(
    redis, entries_of_a_node, number, inserted
):
    """Where ids are removed and added again in one node, XTRIM MINID stops at those that were removed."""
    redis.config_set("stream-node-max-entries", entries_of_a_node)
    ids = [b"%d-1" % (10 * (n + 1)) for n in range(number)]
    put(redis, entries(*ids))
    redis.xdel("s", ids[-1])
    new = {"first": b"5-1", "middle": b"%d-1" % (10 * (number // 2) + 5), "last": b"%d-1" % (10 * number - 5)}[inserted]
    put(redis, entries(new))
    held = sorted([*ids[:-1], new], key=lambda id_: int(id_[:-2]))
    assert [id_ for id_, _ in redis.xrange("s")] == held
    for kept in (held[number // 2 :], held[-1:]):
        redis.xtrim("s", minid=kept[0], approximate=False)
        assert [id_ for id_, _ in redis.xrange("s")] == kept


def test_an_entry_is_inserted_into_a_large_stream_by_moving_those_above_and_one_node_below(redis):
    put(redis, entries(*(b"%d-1" % (2 * n) for n in range(1, 20_001))))
    redis.config_resetstat()
    put(redis, entries(b"39801-1"))
    assert redis.info("commandstats")["cmdstat_xadd"]["calls"] <= 2 + 100 + 100
    assert redis.xtrim("s", minid="39990-1", approximate=False) == 19_995


def test_many_entries_are_inserted_together(redis):
    """Each is added once, as are those above; only the first is tried at the end."""
    put(redis, entries(*(b"%d-1" % (2 * n) for n in range(1, 2001))))
    redis.config_resetstat()
    assert put(redis, entries(*(b"%d-1" % (2 * n + 1) for n in range(1000, 3000)))) == 1
    stats = redis.info("commandstats")["cmdstat_xadd"]
    assert stats["failed_calls"] == 1
    assert stats["calls"] <= 1 + 2000 + 1000 + 100
    assert redis.xlen("s") == 4000


def test_words_of_an_entry_are_kept_in_their_order_and_number(redis):
    words = [b"f", ALL_BYTES, b"f", b"", b"", b"1"]
    assert put(redis, {entry_name(b"9-9"): entry_value(words)}) == 1
    assert put(redis, entries(b"5-1")) == 1
    raw = redis.eval("return redis.call('XRANGE', 's', '-', '+')", 0)
    assert raw == [[b"5-1", [b"f", b"v"]], [b"9-9", words]]


def test_a_stream_without_entries(redis):
    assert put(redis, {LAST_ID: b"7-3"}) == 1
    assert held(redis) == ({}, b"7-3")
    assert put(redis, {LAST_ID: b"0-1"}, "t") == 1
    assert held(redis, "t") == ({}, b"0-1")
    assert redis.xinfo_stream("t")["max-deleted-entry-id"] == b"0-0"


def test_the_last_id_is_what_it_is_said_to_be_but_never_below_an_entry(redis):
    assert put(redis, entries(b"5-1") | {LAST_ID: b"9-0"}) == 1
    assert held(redis)[1] == b"9-0"
    redis.xadd("s", {"f": "v"}, id="9-1")
    redis.xdel("s", "9-1")
    assert put(redis, {LAST_ID: b"6-0"}) == 1  # below what was removed
    assert held(redis)[1] == b"6-0"
    assert put(redis, {LAST_ID: b"3-0"}) == 1
    assert held(redis)[1] == b"6-0"
    redis.xdel("s", "5-1")
    assert put(redis, {LAST_ID: b"0-1"}) == 1
    assert held(redis)[1] == b"0-1"
    assert put(redis, {LAST_ID: b"6-0"}) == 1
    assert put(redis, entries(b"2-0") | {LAST_ID: b"6-0"}) == 1
    assert held(redis)[1] == b"6-0"


@pytest.mark.parametrize("low", [False, True])
def test_what_cannot_be_put_there_changes_nothing(redis, low):
    """Lua cannot call a command of so many words; and the very first id is lost once anything was removed."""
    many = {entry_name(b"4-0"): entry_value([b"f", b"v"] * 3600)}
    with contextlib.suppress(redis_errors()):
        redis.xadd("s", {"f": "v"}, id="5-0")
    if low:
        redis.execute_command("XADD", "s", "6-0", *[b"f", b"v"] * 3600)
    before = redis.dump("s")
    assert "3,500 fields" in put(redis, entries(b"4-0") if low else many)
    assert redis.dump("s") == before

    redis.delete("s")
    redis.xadd("s", {"f": "v"}, id="5-0")
    redis.xadd("s", {"f": "v"}, id="6-0")
    redis.xdel("s", "6-0")
    before = redis.dump("s")
    assert "0-1" in put(redis, entries(b"0-1"))
    assert redis.dump("s") == before


def test_beside_what_cannot_be_inserted_what_comes_at_the_end_is_added(redis):
    redis.xadd("s", {"f": "v"}, id="5-0")
    redis.xadd("s", {"f": "v"}, id="6-0")
    redis.xdel("s", "6-0")
    large = {entry_name(b"8-0"): entry_value([b"f", b"v"] * 3600)}
    assert "0-1" in put(redis, entries(b"0-1", b"7-0", b"9-0"))
    assert "3,500 fields" in put(redis, entries(b"1-1", b"10-0") | large)
    assert [id_ for id_, _ in redis.xrange("s")] == [b"5-0", b"7-0", b"9-0", b"10-0"]


def test_a_key_of_another_type(redis):
    redis.set("s", "v")
    assert put(redis, entries(b"5-1")).startswith("WRONGTYPE")
    assert put(redis, {LAST_ID: b"5-1"}).startswith("WRONGTYPE")
    assert redis.get("s") == b"v"


@pytest.mark.parametrize(
    ("name", "may_be"),
    [
        (entry_name(b"5-1"), True),
        (LAST_ID, True),
        (place_name(b"g"), True),
        (pending_name(b"g", b"5-1"), True),
        (b"5-1", False),  # fields that a hash had before
        (b"field", False),
        (b"xgroup-pending:g", False),
        (b"xgroup-pending:99:g5-1", False),
    ],
)
def test_which_names_an_element_of_a_stream_may_have(name, may_be):
    assert is_element_name(name) is may_be
