"""Consumer groups as elements of their stream: names, values, what commands did to them, and their Lua."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from redisrepl.changes import KINDS, FieldsDeleted, HashSet, HashState, Invalidated, StringSet, carries_groups, types_of
from redisrepl.local.apply import site_commands
from redisrepl.wire.batches import MOVED, UNCHANGED, push_script
from redisrepl.wire.collections import extra_types
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.digests import LOOK_SCRIPT, digest_of, element_of, parse_looks
from redisrepl.wire.entries import (
    LAST_ID,
    PUT_STREAM_IN_GROUPS_SCRIPT,
    PUT_STREAM_SCRIPT,
    as_server_takes_stream,
    checked_elements,
    entry_name,
    entry_value,
    is_entry,
    stream_elements,
    with_last_id,
)
from redisrepl.wire.feed import FeedWriter, parse_feed
from redisrepl.wire.groupcommands import shown_when_removed, without_groups
from redisrepl.wire.groups import (
    Delivery,
    checked_names,
    delivery,
    events_of_groups,
    is_of_group,
    is_place,
    pending_name,
    place_name,
    questions_of_groups,
    removal_commands,
    value_at_server,
    value_here,
    values_of_groups,
)
from redisrepl.wire.keyspace import announced_events
from redisrepl.wire.rdb import Entry, RdbReader
from redisrepl.wire.snapshots import replicated_of
from redisrepl.wire.writes import commands_if, commands_of, events_of, simple_commands
from tests.samples import ALL_BYTES
from tests.wire.test_batches import answer_to, outcomes, state_of

ALL = KINDS | {"streams-groups"}
OTHERS = extra_types(types_of(ALL))
SCRIPT = push_script(types_of(ALL))
K, G = b"k", b"g"
ONE, TWO = pending_name(G, b"1-0"), pending_name(G, b"2-0")
PLACE = place_name(G)
V = entry_value([b"f", b"v"])
T = 1_700_000_000_000


def put(elements):
    return HashSet(K, elements, "stream")


# Names and values.


def test_groups_are_replicated_beside_streams_and_removals_only():
    assert carries_groups(ALL)
    assert not carries_groups(KINDS)
    for kind in ("streams", "del"):
        assert not carries_groups(ALL - {kind})
        assert "groups" not in types_of(ALL - {kind})
    assert b" groups " in OTHERS
    assert b" groups " not in extra_types(types_of(KINDS))


def test_names_sort_behind_the_last_id_and_the_group_before_its_entries():
    names = [entry_name(b"1-0"), LAST_ID, place_name(b""), place_name(ALL_BYTES), pending_name(ALL_BYTES, b"9-9")]
    assert names == sorted(names)
    assert list(map(is_of_group, names)) == [False, False, True, True, True]
    assert list(map(is_place, names)) == [False, False, True, True, False]
    assert list(map(is_entry, names)) == [True, False, False, False, False]
    assert with_last_id({entry_name(b"7-0"): V, PLACE: b"9-0"})[LAST_ID] == b"7-0"
    assert LAST_ID not in with_last_id({PLACE: b"9-0", ONE: delivery(b"c", 1, T)})


def test_a_group_may_be_named_like_the_entry_of_another():
    """The length of its name comes first."""
    assert pending_name(b"g1-0", b"2-0") != pending_name(b"g", b"1-02-0"[3:])
    assert checked_names([pending_name(b"1:g", b"2-0"), place_name(b"7-0")])


def test_a_delivery_is_equal_to_the_same_at_another_time():
    assert delivery(b"c", 2, T) == delivery(b"c", 2, None) == b"2 c"
    assert delivery(b"c", 2, T) != delivery(b"c", 3, T)
    assert delivery(b"c", 2, T) != delivery(b"d", 2, T)
    assert element_of(ONE, delivery(b"c", 2, T), "stream") == element_of(ONE, b"2 c", "stream")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        (PLACE, b"5-0", b"5-0"),
        (ONE, delivery(b"c", 2, T), b"2 %d c" % T),
        (ONE, delivery(b"", 2, None), b"2  "),
        (ONE, delivery(ALL_BYTES, 0, 0), b"0 0 " + ALL_BYTES),
    ],
)
def test_what_scripts_are_told_is_read_back(name, value, told):
    assert value_at_server(name, value) == told
    assert as_server_takes_stream({name: value, entry_name(b"3-0"): None}) == {b"3-0": None, name: told}
    again = stream_elements([name, told])[name]
    assert again == value
    if isinstance(value, Delivery):
        assert isinstance(again, Delivery)
        assert again.at_ms == value.at_ms


def test_a_value_that_has_lost_its_time_still_has_its_count():
    assert value_at_server(ONE, b"2 c") == b"2  c"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (PLACE, b"x"),
        (PLACE, b"%d-0" % (1 << 64)),
        (PLACE, b"0-%d" % (1 << 64)),
        (ONE, b"2 c"),
        (ONE, b"-1 5 c"),
        (ONE, b"1 -5 c"),
        (ONE, b"1 1234567890123456789 c"),
        (ONE, b""),
        (b"xgroup-pending:9:g1-0", b"1 5 c"),
        (b"xgroup-pending:1:g", b"1 5 c"),
        (b"xgroup-pending:01:g1-0", b"1 5 c"),
        (b"xgroup-pending:1:g01-0", b"1 5 c"),
        (b"xgroup-other", b"1"),
    ],
)
def test_what_is_no_element_of_a_group(name, told):
    with pytest.raises(ValueError, match=r"group|id|pending"):
        value_here(name, told)
    with pytest.raises(ValueError, match=r"group|id|pending"):
        checked_elements([name, told])


# Commands in the stream.


@pytest.mark.parametrize(
    ("command", "changes"),
    [
        ("XGROUP CREATE k g 0", [put({PLACE: b"0-0"})]),
        ("XGROUP CREATE k g $", [put({PLACE: None})]),
        ("xgroup create k g 7 mkstream entriesread 5", [put({LAST_ID: None}), put({PLACE: b"7-0"})]),
        ("XGROUP SETID k g 9-3 ENTRIESREAD 5", [put({PLACE: b"9-3"})]),
        ("XGROUP SETID k g $", [put({PLACE: None})]),
        ("XGROUP CREATECONSUMER k g c", []),
        ("XGROUP DELCONSUMER k g c", [Invalidated(K, "streams", replaces=True)]),
        ("XGROUP DESTROY k g", [Invalidated(K, "streams", replaces=True)]),
        (
            "XCLAIM k g c 0 1-0 TIME 1700000000000 RETRYCOUNT 2 FORCE JUSTID LASTID 5-0",
            [put({ONE: delivery(b"c", 2, T)})],
        ),
        (
            "XCLAIM k g c 0 1-0 TIME 1700000000000 RETRYCOUNT 1 FORCE JUSTID LASTID 1-0",
            [put({PLACE: b"1-0"}), put({ONE: delivery(b"c", 1, T)})],
        ),
        ("XCLAIM k g c 0 1 2-0 IDLE 3 FORCE", [put({ONE: None, TWO: None})]),
        ("XACK k g 1-0 2-0", [FieldsDeleted(K, (ONE, TWO), "stream")]),
        (
            "XACKDEL k g KEEPREF IDS 2 1-0 2-0",
            [put(dict.fromkeys([entry_name(b"1-0"), entry_name(b"2-0"), ONE, TWO]))],
        ),
        ("XGROUP CREATE k g no", [Invalidated(K)]),
        ("XCLAIM k g c 0 no", [Invalidated(K, replaces=True)]),
        ("XACK other g 1-0", []),
        ("XGROUP CREATE other g 0", []),
    ],
)
def test_what_a_command_does_to_groups(command, changes):
    decoder = ChangeDecoder(lambda key: key == K, ALL)
    assert list(decoder.decode(command.encode().split())) == changes
    assert not decoder.unreplicated


def test_the_time_of_delivery_is_told_too():
    decoder = ChangeDecoder(lambda _: True, ALL)
    (change,) = decoder.decode(b"XCLAIM k g c 0 1-0 TIME 1700000000000 RETRYCOUNT 2 FORCE JUSTID LASTID 5-0".split())
    assert change.fields[ONE].at_ms == T


@pytest.mark.parametrize(
    ("command", "counted"),
    [("XACK k g 1-0", "XACK"), ("XCLAIM k g c 0 1-0", "XCLAIM"), ("XGROUP CREATE k g 0", "XGROUP")],
)
@pytest.mark.parametrize("kinds", [KINDS, ALL - {"del"}])
def test_without_it_they_are_counted(command, counted, kinds):
    decoder = ChangeDecoder(lambda _: True, kinds)
    assert not decoder.decode(command.encode().split())
    assert decoder.unreplicated == {counted: 1}


# Commands that we send.


def test_elements_of_groups_are_removed_by_a_command_of_their_own():
    removed = FieldsDeleted(K, (entry_name(b"3-0"), ONE, PLACE), "stream")
    assert list(commands_of(removed)) == [[b"GROUPDEL", K, ONE, PLACE], [b"XDEL", K, b"3-0"]]
    assert list(commands_of(FieldsDeleted(K, (ONE,), "stream"))) == [[b"GROUPDEL", K, ONE]]
    many = tuple(pending_name(G, b"%d-0" % number) for number in range(1500))
    assert [len(command) for command in commands_of(FieldsDeleted(K, many, "stream"))] == [1002, 502]
    assert [len(command) for command in removal_commands(K, many)] == [1003, 503]
    assert list(removal_commands(K, [ONE, TWO])) == [[b"XACK", K, G, b"1-0", b"2-0"]]
    assert list(removal_commands(K, [ONE, PLACE, pending_name(b"h", b"1-0")])) == [
        [b"XGROUP", b"DESTROY", K, G],
        [b"XACK", K, b"h", b"1-0"],
    ]


def test_at_the_site_they_are_removed_by_commands_of_redis():
    removed = FieldsDeleted(K, (entry_name(b"3-0"), ONE, TWO, place_name(b"h")), "stream")
    groups = [[b"XACK", K, G, b"1-0", b"2-0"], [b"XGROUP", b"DESTROY", K, b"h"]]
    assert site_commands(removed) == [*groups, [b"XDEL", K, b"3-0"]]
    assert site_commands(FieldsDeleted(K, (ONE,), "stream")) == [[b"XACK", K, G, b"1-0"]]
    assert [events_of(command) for command in groups] == [(), (b"xgroup-destroy",)]


def test_without_scripts_groups_are_left_out():
    (command,) = commands_of(put({entry_name(b"3-0"): V, PLACE: b"3-0", ONE: delivery(b"c", 1, T)}))
    assert simple_commands(command) == [[b"XADD", K, b"3-0", b"f", b"v"]]
    assert simple_commands([b"GROUPDEL", K, ONE]) == []


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (FieldsDeleted(K, (entry_name(b"3-0"),), "stream"), None),
        (FieldsDeleted(K, (ONE, TWO), "stream"), [FieldsDeleted(K, (ONE, TWO), "stream")]),
        (
            FieldsDeleted(K, (entry_name(b"3-0"), ONE), "stream"),
            [FieldsDeleted(K, (entry_name(b"3-0"),), "stream"), FieldsDeleted(K, (ONE,), "stream")],
        ),
        (FieldsDeleted(K, (PLACE, ONE), "stream"), [Invalidated(K, "streams", replaces=True)]),
    ],
)
def test_what_the_site_shows_once_elements_were_removed(change, shown):
    assert list(shown_when_removed(change)) == ([change] if shown is None else shown)


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (StringSet(K, b"v"), StringSet(K, b"v")),
        (FieldsDeleted(K, (ONE,), "stream"), None),
        (FieldsDeleted(K, (entry_name(b"3-0"), ONE), "stream"), FieldsDeleted(K, (entry_name(b"3-0"),), "stream")),
        (put({PLACE: b"1-0"}), None),
        (put({LAST_ID: b"1-0", PLACE: b"1-0"}), put({LAST_ID: b"1-0"})),
        (put({LAST_ID: b"1-0"}), put({LAST_ID: b"1-0"})),
        (HashSet(K, {ONE: b"v"}), HashSet(K, {ONE: b"v"})),
    ],
)
def test_a_site_without_groups_leaves_out_what_it_is_told_of_them(change, left):
    assert without_groups(change) == left


def test_the_feed_carries_them_and_refuses_what_is_none():
    commands = [*commands_of(put({PLACE: b"1-0", ONE: delivery(b"c", 1, T)})), [b"GROUPDEL", K, TWO]]
    _, message = FeedWriter(b"us", 0, [b""])(commands)
    first, second = parse_feed(b"5 " + message).changes()
    assert (first, second) == (put({PLACE: b"1-0", ONE: b"1 c"}), FieldsDeleted(K, (TWO,), "stream"))
    assert first.fields[ONE].at_ms == T
    for wrong in ([b"GROUPDEL", K], [b"GROUPDEL", K, b"1-0"], [b"STREAMSET", K, ONE, b"c"]):
        _, message = FeedWriter(b"us", 0, [b""])([wrong])
        with pytest.raises(Exception, match="feed"):
            parse_feed(b"5 " + message).changes()


def test_which_events_are_expected():
    other = place_name(b"h")
    assert events_of_groups([LAST_ID, PLACE, ONE, TWO, other]) == (b"xgroup-setid",) * 2
    assert events_of_groups([PLACE, ONE, other], removed=True) == (b"xgroup-destroy",) * 2
    (command,) = commands_of(put({entry_name(b"3-0"): V, LAST_ID: b"3-0", PLACE: b"3-0", ONE: delivery(b"c", 1, T)}))
    assert events_of(command) == (b"xadd", b"xsetid", b"xgroup-setid")
    assert events_of([b"XDELIF", K, b"1-0", b""]) == (b"xdel",)
    assert events_of([b"XDELIF", K, ONE, b""]) == (b"xgroup-setid",)
    assert {b"xgroup-setid", b"xgroup-destroy"} <= announced_events(ALL)
    assert not {b"xgroup-setid", b"xgroup-destroy"} & announced_events(KINDS)


# At a server.


@pytest.fixture
def at_work(redis):
    """A group of nine entries: six were delivered, one of them is acknowledged, and one is not there any more."""
    for number in range(1, 10):
        redis.xadd(K, {"f": "v"}, id=f"{number}-0")
    redis.xgroup_create(K, ALL_BYTES, "0")
    redis.xgroup_create(K, b"idle", "2-0")
    redis.xreadgroup(ALL_BYTES, b"c", {K: ">"}, count=4)
    redis.xreadgroup(ALL_BYTES, ALL_BYTES, {K: ">"}, count=2)
    redis.xclaim(K, ALL_BYTES, b"d", 0, ["2-0"], time=T, retrycount=9, justid=True)
    redis.xack(K, ALL_BYTES, "1-0")
    redis.xdel(K, "3-0")
    return redis


AT_WORK = {
    place_name(ALL_BYTES): b"6-0",
    place_name(b"idle"): b"2-0",
    pending_name(ALL_BYTES, b"2-0"): b"9 d",
    pending_name(ALL_BYTES, b"4-0"): b"1 c",
    pending_name(ALL_BYTES, b"5-0"): b"1 " + ALL_BYTES,
    pending_name(ALL_BYTES, b"6-0"): b"1 " + ALL_BYTES,
}


def of_groups(state):
    return {name: value for name, value in state.fields.items() if is_of_group(name)}


def assert_delivered_about(found, at_ms):
    """The server tells how long ago that was, and later milliseconds may have begun since it was asked."""
    assert abs(found.at_ms - at_ms) < 1000


def test_a_script_reads_them_and_digests_them_as_we_do(at_work):
    state = state_of(at_work, others=OTHERS)
    assert of_groups(state) == AT_WORK
    assert_delivered_about(state.fields[pending_name(ALL_BYTES, b"2-0")], T)
    (look,) = parse_looks(at_work.eval(LOOK_SCRIPT, 0, b"0" + OTHERS, b"1000000", K), 1)
    assert look.digest == digest_of(K, state)
    without = state_of(at_work, others=b" stream ")
    assert not of_groups(without)
    assert without.fields.items() <= state.fields.items()
    (look,) = parse_looks(at_work.eval(LOOK_SCRIPT, 0, b"0 stream ", b"1000000", K), 1)
    assert look.digest == digest_of(K, without)


def test_single_commands_read_the_same(at_work):
    absent = [place_name(b"none"), pending_name(b"none", b"2-0"), pending_name(b"idle", b"2-0")]
    names = [*AT_WORK, *absent, pending_name(ALL_BYTES, b"1-0"), pending_name(ALL_BYTES, b"3-0")]
    with at_work.pipeline(transaction=False) as pipeline:
        for question in questions_of_groups(K, names):
            pipeline.execute_command("EVAL", "return redis.pcall(unpack(ARGV))", 0, *question)
        replies = pipeline.execute(raise_on_error=False)
    found = values_of_groups(names, replies)
    assert found == AT_WORK
    assert_delivered_about(found[pending_name(ALL_BYTES, b"2-0")], T)
    assert questions_of_groups(K, []) == []
    assert values_of_groups([], []) == {}
    assert values_of_groups([PLACE, ONE], [ValueError(), 7, 8, 9]) == {}


def test_a_snapshot_holds_the_same(at_work):
    """And nothing of entries that are not there any more; if it is told in parts, what they were in is to be read."""
    at_work.save()
    path = Path(at_work.config_get("dir")["dir"], at_work.config_get("dbfilename")["dbfilename"])
    reader = RdbReader([b""])
    (entry,) = [event for event in reader.feed(path.read_bytes()) if isinstance(event, Entry)]
    (change,), left_out = replicated_of(entry, ALL, 0)
    assert left_out is None
    assert {name: value for name, value in change.fields.items() if is_of_group(name)} == AT_WORK
    assert change.fields[pending_name(ALL_BYTES, b"2-0")].at_ms == T
    tail = entry._replace(value=replace(entry.value, entries=entry.value.entries[4:]), first=False)  # from 6-0
    (change,), _ = replicated_of(tail, ALL, 0)
    unknown = dict.fromkeys(pending_name(ALL_BYTES, id_) for id_ in (b"2-0", b"3-0", b"4-0", b"5-0"))
    assert {name: value for name, value in change.fields.items() if is_of_group(name)} == AT_WORK | unknown
    (change,), _ = replicated_of(entry, KINDS, 0)
    assert not any(map(is_of_group, change.fields))


def told(redis, name=K):
    """Of each group its last id, how many entries it has read, and what is pending."""
    found = {}
    for group in redis.xinfo_groups(name):
        rows = redis.xpending_range(name, group["name"], "-", "+", 1000) if group["pending"] else []
        pending = {row["message_id"]: (row["consumer"], row["times_delivered"]) for row in rows}
        found[group["name"]] = group["last-delivered-id"], group["entries-read"], pending
    return found


@pytest.mark.parametrize("where", ["site", "hub"])
def test_a_state_that_was_read_can_be_put_elsewhere(at_work, where):
    state = state_of(at_work, others=OTHERS)
    there = b"there"
    if where == "hub":
        for command in commands_of(HashSet(there, dict(state.fields), "stream")):
            assert outcomes(at_work, command, script=SCRIPT) == {}
    else:
        taken = as_server_takes_stream(state.fields)
        assert at_work.eval(PUT_STREAM_SCRIPT, 1, there, *(word for pair in taken.items() for word in pair)) == 1
    again = state_of(at_work, there, OTHERS)
    assert again == state
    assert_delivered_about(again.fields[pending_name(ALL_BYTES, b"2-0")], T)
    lags = {group["name"]: group["lag"] for group in at_work.xinfo_groups(there)}
    assert lags == {ALL_BYTES: 3, b"idle": 6}  # of what is there


@pytest.mark.parametrize("script", [PUT_STREAM_SCRIPT, PUT_STREAM_IN_GROUPS_SCRIPT])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_where_groups_are_replicated_it_is_told_that_an_entry_that_comes_back_is_pending(redis, script, number):
    """Redis keeps it pending while it is gone; and those that are moved stay so."""
    for n in range(1, 6):
        redis.xadd(K, {"f": "v"}, id=f"{n}-0")
    redis.xgroup_create(K, G, "0")
    redis.xreadgroup(G, "c", {K: ">"})
    redis.xack(K, G, "1-0")
    redis.xdel(K, "1-0", "2-0", "5-0")
    redis.execute_command("XSETID", K, "4-0", "ENTRIESADDED", 5, "MAXDELETEDID", "0-1")
    told = redis.eval(script, 1, K, b"%d-0" % number, V)
    assert told == (b"REVIVED" if script == PUT_STREAM_IN_GROUPS_SCRIPT and number > 1 else 1)
    pending = [row["message_id"] for row in redis.xpending_range(K, G, "-", "+", 9)]
    assert pending == [b"%d-0" % n for n in range(2, 6)]

    redis.xdel(K, f"{number}-0")
    moved = {0: MOVED if number > 1 else UNCHANGED}  # it is not the last one
    assert outcomes(redis, [b"STREAMSET", K, b"%d-0" % number, V], script=SCRIPT) == moved


def test_last_ids_are_set_forward_and_back_and_the_count_of_entries_goes_along(redis):
    for number in range(1, 9):
        redis.xadd(K, {"f": "v"}, id=f"{number}-0")
    reads = []
    for last in (b"0-0", b"3-0", b"3-0", b"8-0", b"2-0"):
        assert outcomes(redis, [b"STREAMSET", K, PLACE, last], script=SCRIPT) == {}
        reads.append(told(redis)[G][:2])
    assert reads == [(b"0-0", 0), (b"3-0", 3), (b"3-0", 3), (b"8-0", 8), (b"2-0", 2)]


def test_what_needs_something_that_is_not_there_is_compared(redis):
    """The stream, the group, or the entry: all else was done."""
    claim = b"1 %d c" % T
    assert outcomes(redis, [b"STREAMSET", K, PLACE, b"0-0"], script=SCRIPT) == {0: MOVED}
    redis.xadd(K, {"f": "v"}, id="1-0")
    assert outcomes(redis, [b"STREAMSET", K, ONE, claim], script=SCRIPT) == {0: MOVED}
    assert outcomes(redis, [b"STREAMSET", K, PLACE, b"0-0", ONE, claim, TWO, claim], script=SCRIPT) == {0: MOVED}
    assert told(redis)[G][2] == {b"1-0": (b"c", 1)}
    redis.set("string", "v")
    (error,) = outcomes(redis, [b"STREAMSET", b"string", PLACE, b"0-0"], script=SCRIPT).values()
    assert error.startswith("WRONGTYPE")


def conditions(held, *changes):
    """Commands on the condition that what is named is still as it was held; what was not is new."""
    digests = {name: (element_of(name, value, "stream"),) for name, value in held.items()}
    names = {name for change in changes for name in change.fields}
    return list(commands_if(changes, None, {name: digests.get(name, (None,)) for name in names}))


def test_conditions_hold_for_the_value_without_its_time(at_work):
    first, second = pending_name(ALL_BYTES, b"2-0"), pending_name(ALL_BYTES, b"4-0")
    moved = {first: delivery(b"e", 10, T), second: delivery(b"e", 2, T)}
    held = {first: b"9 d", second: b"1 nobody"}
    (command,) = conditions(held, HashSet(K, dict(moved), "stream"))
    assert outcomes(at_work, command, script=SCRIPT) == {0: MOVED}
    pending = told(at_work)[ALL_BYTES][2]
    assert (pending[b"2-0"], pending[b"4-0"]) == ((b"e", 10), (b"c", 1))
    removals = conditions({first: b"9 d", second: b"1 c"}, FieldsDeleted(K, (first, second), "stream"))
    assert outcomes(at_work, *removals, script=SCRIPT) == {0: MOVED}
    assert told(at_work)[ALL_BYTES][2].keys() & {b"2-0", b"4-0"} == {b"2-0"}
    place = place_name(b"idle")
    (removal,) = conditions({place: b"2-0"}, FieldsDeleted(K, (place,), "stream"))
    assert outcomes(at_work, removal, script=SCRIPT) == {}
    assert told(at_work).keys() == {ALL_BYTES}
    assert outcomes(at_work, removal, script=SCRIPT) == {0: UNCHANGED}
    (new,) = conditions({}, HashSet(K, {place: b"3-0"}, "stream"))
    assert outcomes(at_work, new, script=SCRIPT) == {}
    assert told(at_work)[b"idle"][0] == b"3-0"
    assert outcomes(at_work, [b"STREAMNEW", K, place, b"4-0"], script=SCRIPT) == {0: MOVED}


def test_a_condition_on_the_whole_stream_covers_its_groups(at_work):
    state = state_of(at_work, others=OTHERS)
    without = digest_of(K, state_of(at_work, others=b" stream "))
    assert outcomes(at_work, [b"DELIF", K, b"%015x" % without], script=SCRIPT) == {0: MOVED}
    assert outcomes(at_work, [b"DELIF", K, b"%015x" % digest_of(K, state)], script=SCRIPT) == {}
    assert not at_work.exists(K)


def test_what_is_pending_of_an_entry_that_is_gone_is_as_if_it_were_not_there(at_work):
    name = pending_name(ALL_BYTES, b"3-0")
    removal = [b"XDELIF", K, name, b"%024x" % element_of(name, b"1 c", "stream")]
    assert outcomes(at_work, removal, script=SCRIPT) == {0: UNCHANGED}
    assert outcomes(at_work, [b"STREAMNEW", K, name, b"1 5 c"], script=SCRIPT) == {0: MOVED}  # and cannot be made


def test_the_count_of_entries_is_that_of_the_server_where_it_is_known(redis):
    with redis.pipeline(transaction=False) as pipeline:
        for number in range(1, 2501):
            pipeline.xadd(K, {"f": "v"}, id=f"{number}-0")
        pipeline.execute()
    assert outcomes(redis, [b"STREAMSET", K, PLACE, b"5-0"], script=SCRIPT) == {}
    assert told(redis)[G][1] is None  # a new group, far behind
    redis.xgroup_setid(K, G, "5-0", entries_read=5)
    assert outcomes(redis, [b"STREAMSET", K, pending_name(G, b"7-0"), b"1 5 c"], script=SCRIPT) == {}
    assert told(redis)[G][1] == 5
    redis.xdel(K, "8-0")
    assert outcomes(redis, [b"STREAMSET", K, PLACE, b"9-0"], script=SCRIPT) == {}
    assert told(redis)[G][1] == 8  # those that it may have read
    assert outcomes(redis, [b"STREAMSET", K, PLACE, b"1200-0"], script=SCRIPT) == {}
    assert told(redis)[G][1] is None  # too many to count
    assert outcomes(redis, [b"STREAMSET", K, PLACE, b"2400-0"], script=SCRIPT) == {}
    assert told(redis)[G][1] == 2400
    redis.xdel(K, "2450-0")
    assert outcomes(redis, [b"STREAMSET", K, PLACE, b"2500-0"], script=SCRIPT) == {}
    assert told(redis)[G][1] == 2500  # all


def test_removing_says_whether_all_groups_were_there(at_work):
    pending = pending_name(ALL_BYTES, b"4-0")
    assert outcomes(at_work, [b"GROUPDEL", K, pending], script=SCRIPT) == {}
    assert outcomes(at_work, [b"GROUPDEL", K, place_name(b"idle")], script=SCRIPT) == {}
    assert told(at_work) == {ALL_BYTES: (b"6-0", 6, told(at_work)[ALL_BYTES][2])}
    assert told(at_work)[ALL_BYTES][2].keys() == {b"2-0", b"3-0", b"5-0", b"6-0"}
    assert outcomes(at_work, [b"GROUPDEL", K, ONE], script=SCRIPT) == {0: UNCHANGED}
    assert outcomes(at_work, [b"GROUPDEL", b"none", ONE], script=SCRIPT) == {0: UNCHANGED}
    assert outcomes(at_work, [b"GROUPDEL", K, place_name(ALL_BYTES), pending], script=SCRIPT) == {}
    assert told(at_work) == {}


@pytest.mark.parametrize(
    "command",
    [
        [b"STREAMSET", K, b"10-0", V, LAST_ID, b"10-0", place_name(ALL_BYTES), b"7-0"],
        [b"STREAMSET", K, pending_name(ALL_BYTES, b"4-0"), b"2 5 c", place_name(b"idle"), b"3-0"],
        [b"GROUPDEL", K, pending_name(ALL_BYTES, b"4-0"), pending_name(ALL_BYTES, b"5-0")],
        [b"GROUPDEL", K, pending_name(ALL_BYTES, b"4-0"), place_name(ALL_BYTES)],
        [b"XDELIF", K, pending_name(ALL_BYTES, b"4-0"), b"%024x" % element_of(
            pending_name(ALL_BYTES, b"4-0"), b"1 c", "stream")],
        [b"XDELIF", K, place_name(b"idle"), b"%024x" % element_of(place_name(b"idle"), b"2-0", "stream")],
    ],
)  # fmt: skip
def test_our_commands_cause_the_events_that_are_expected(at_work, command):
    """One for each group, though Redis has none for what is pending."""
    at_work.config_set("notify-keyspace-events", "KA")
    pubsub = at_work.pubsub(ignore_subscribe_messages=True)
    pubsub.psubscribe("__keyspace@0__:*", "end")
    while not pubsub.subscribed or pubsub.get_message(timeout=1):
        pass
    assert answer_to(at_work, command, script=SCRIPT).errors == {}
    at_work.publish("end", "")
    seen = []
    while (message := pubsub.get_message(timeout=5)) is None or message["channel"] != b"end":
        if message is not None:
            seen.append(message["data"])
    pubsub.close()
    assert sorted(seen) == sorted(events_of(command))


def test_states_compare_without_times(at_work):
    state = state_of(at_work, others=OTHERS)
    at_work.xclaim(K, ALL_BYTES, b"d", 0, ["2-0"], time=T + 60_000, retrycount=9, justid=True)
    later = state_of(at_work, others=OTHERS)
    assert isinstance(later, HashState)
    assert later == state
    assert_delivered_about(later.fields[pending_name(ALL_BYTES, b"2-0")], T + 60_000)
