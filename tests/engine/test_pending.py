"""What waits for the hub: merging, limits, and how far the stream is acknowledged."""

from __future__ import annotations

import gc
import tracemalloc
from copy import deepcopy
from functools import reduce

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redisrepl.changes import (
    KINDS,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    Invalidated,
    StringSet,
    StringState,
)
from redisrepl.engine.everywrite import EveryWrite
from redisrepl.engine.merging import merge
from redisrepl.engine.pending import OVERHEAD, Pending, parts_of
from redisrepl.engine.pushes import with_values
from redisrepl.wire.entries import FIRST_ID

K = b"k"
SET = StringSet(K, b"v")
TOUCH = Invalidated(K)
REPLACE = Invalidated(K, replaces=True)
UNLESS_THERE = Invalidated(K, "del", replaces=True)
GONE = Deleted(K)
TRIM = HashSet(K, {FIRST_ID: None}, "stream")


def hset(**fields):
    return HashSet(K, {name.encode(): None if value is None else value.encode() for name, value in fields.items()})


def hdel(*fields):
    return FieldsDeleted(K, tuple(field.encode() for field in fields))


def pending(max_bytes=1 << 20, max_keys=1000):
    return Pending(max_bytes, max_keys)


def holding(*changes, **limits):
    waiting = pending(**limits)
    for change in changes:
        waiting.add(change)
    return waiting


def takes(waiting, max_keys=1000, max_bytes=1 << 20):
    return waiting.take(max_keys, max_bytes)


# Merging.


@pytest.mark.parametrize(
    ("older", "newer", "both"),
    [
        (SET, StringSet(K, b"w", 5), StringSet(K, b"w", 5)),
        (hset(f="1"), SET, SET),
        (TOUCH, SET, SET),
        (REPLACE, SET, SET),
        (GONE, SET, SET),
        (SET, GONE, GONE),
        (hset(f="1"), GONE, GONE),
        (TOUCH, GONE, GONE),
        (TOUCH, REPLACE, REPLACE),
        (SET, REPLACE, REPLACE),
        (hset(f="1", g="1"), hset(g="2", h="2"), hset(f="1", g="2", h="2")),
        (hset(f="1"), hset(f=None), hset(f=None)),
        (hset(f=None), hset(f="1"), hset(f="1")),
        (hset(f="1", g="1"), hdel("f", "h"), hset(f=None, g="1", h=None)),
        (hdel("f", "g"), hdel("g", "h"), hdel("f", "g", "h")),
        (hdel("f", "g"), hset(g="1"), hset(f=None, g="1")),
        (SET, ExpirySet(K, 5), StringSet(K, b"v", 5)),
        (StringSet(K, b"v", 5), ExpirySet(K, None), SET),
        (ExpirySet(K, 5), ExpirySet(K, None), ExpirySet(K, None)),
        (ExpirySet(K, 5), hset(f="1"), TOUCH),
        (hset(f="1"), ExpirySet(K, 5), TOUCH),
        (GONE, hset(f="1"), REPLACE),
        (GONE, ExpirySet(K, 5), REPLACE),
        (UNLESS_THERE, hset(f="1"), REPLACE),
        (UNLESS_THERE, TOUCH, REPLACE),
        (UNLESS_THERE, SET, SET),
        (REPLACE, hset(f="1"), REPLACE),
        (REPLACE, TOUCH, REPLACE),
        (SET, hset(f="1"), TOUCH),
        (SET, Invalidated(K, "set"), TOUCH),
        (TOUCH, hset(f="1"), TOUCH),
        # A field that is gone cannot be told from one that never was, once the key is read.
        (hdel("f"), ExpirySet(K, 5), REPLACE),
        (ExpirySet(K, 5), hdel("f"), REPLACE),
        (hset(f=None, g="1"), ExpirySet(K, 5), REPLACE),
        (hdel("f"), TOUCH, REPLACE),
        (TOUCH, hdel("f"), REPLACE),
    ],
)
def test_two_changes_as_one(older, newer, both):
    assert merge(older, newer) == both


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (hset(f=None), REPLACE),
        (hdel("f"), REPLACE),
        (HashSet(K, {b"1-1": b"v"}, "stream"), TOUCH),
        (HashSet(K, {b"1-1": b"v", FIRST_ID: None}, "stream"), REPLACE),  # a trim
        (HashSet(K, {b"1-1": None}, "stream"), REPLACE),  # XDELEX, which may have removed it
    ],
)
def test_a_key_that_is_to_be_read_anyway_may_have_lost_elements(change, left):
    assert takes(holding(ExpirySet(K, 5), hset(f="1"), change)) == [left]


class Site:
    """One key of a site's Redis; each command returns the change that the stream would show."""

    def __init__(self, state):
        self.state = state

    def run(self, command):
        name, *arguments = command
        return getattr(self, name)(*arguments)

    def set(self, value, at):
        self.state = StringState(value, at)
        return StringSet(K, value, at)

    def append(self):
        if isinstance(self.state, HashState):
            return None
        old = self.state or StringState(b"")
        self.state = StringState(old.value + b"x", old.expires_at_ms)
        return Invalidated(K, "set")

    def hset(self, field, value):
        if isinstance(self.state, StringState):
            return None
        old = self.state or HashState({})
        self.state = HashState({**old.fields, field: value}, old.expires_at_ms)
        return HashSet(K, {field: value})

    def hincrby(self, field, value):
        return self.hset(field, value) and HashSet(K, {field: None})

    def hdel(self, field):
        if not isinstance(self.state, HashState) or field not in self.state.fields:
            return None
        left = {name: value for name, value in self.state.fields.items() if name != field}
        self.state = HashState(left, self.state.expires_at_ms) if left else None
        return FieldsDeleted(K, (field,))

    def delete(self):
        if self.state is None:
            return None
        self.state = None
        return Deleted(K)

    def expire(self, at):
        match self.state:
            case StringState(value):
                self.state = StringState(value, at)
            case HashState(fields):
                self.state = HashState(fields, at)
            case _:
                return None
        return ExpirySet(K, at)

    def expire_relative(self, at):
        return self.expire(at) and Invalidated(K, "expire")

    def rename_here(self, state):
        self.state = state
        return Invalidated(K, replaces=True)


FIELDS = st.sampled_from([b"f", b"g", b"h"])
VALUES = st.sampled_from([b"1", b"2", b""])
TIMES = st.sampled_from([None, 5, 6])
HASHES = st.dictionaries(FIELDS, VALUES, min_size=1).map(HashState)
STATES = st.none() | HASHES | st.builds(StringState, VALUES, TIMES)
COMMANDS = st.one_of(
    st.tuples(st.just("set"), VALUES, TIMES),
    st.tuples(st.just("append")),
    st.tuples(st.just("hset"), FIELDS, VALUES),
    st.tuples(st.just("hincrby"), FIELDS, VALUES),
    st.tuples(st.just("hdel"), FIELDS),
    st.tuples(st.just("delete")),
    st.tuples(st.just("expire"), TIMES),
    st.tuples(st.just("expire_relative"), st.just(6)),
    st.tuples(st.just("rename_here"), HASHES | st.builds(StringState, VALUES)),
)


def resolved(change, state):
    """What is pushed for a change when the site holds this state: `pushing` reads what the change only names."""
    match change:
        case Invalidated():
            return with_values(change, state, KINDS)
        case HashSet(key, fields):
            read = state.fields if isinstance(state, HashState) else {}
            known = {name: read.get(name) if value is None else value for name, value in fields.items()}
            gone = tuple(name for name, value in known.items() if value is None)
            return [HashSet(key, known), FieldsDeleted(key, gone)]
        case _:
            return [change]


def pushed(state, changes):
    """The hub's key after these changes."""
    for change in changes:
        match state, change:
            case _, StringSet(_, value, at):
                state = StringState(value, at)
            case _, Deleted():
                state = None
            case StringState(value), ExpirySet(_, at):
                state = StringState(value, at)
            case HashState(fields), ExpirySet(_, at):
                state = HashState(fields, at)
            case None | HashState(), HashSet(_, fields):
                old = state or HashState({})
                new = {**old.fields, **{name: value for name, value in fields.items() if value is not None}}
                state = HashState(new, old.expires_at_ms) if new else None
            case HashState(fields, at), FieldsDeleted(_, names):
                left = {name: value for name, value in fields.items() if name not in names}
                state = HashState(left, at) if left else None
    return state


def content(state):
    """A hash without its expiry: an invalidation does not yet carry that one was taken away."""
    return HashState(state.fields) if isinstance(state, HashState) else state


@given(STATES, st.lists(COMMANDS, min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_one_merged_change_makes_the_hub_what_the_site_is(start, commands):
    site = Site(start)
    changes = [change for command in commands if (change := site.run(command)) is not None]
    if not changes:
        return
    merged = reduce(merge, changes)

    assert content(pushed(start, resolved(merged, site.state))) == content(site.state)


@pytest.mark.parametrize("kind", [Pending, EveryWrite])
@given(STATES, st.lists(COMMANDS, min_size=1, max_size=8), st.sampled_from([0, 310, 700, 1 << 20]), st.data())
@settings(max_examples=120, deadline=None)
def test_what_is_taken_makes_the_hub_what_the_site_is(kind, start, commands, max_bytes, data):
    """At any memory ceiling, whatever came while a batch was out, and whether or not it arrived."""
    site, hub = Site(start), start
    waiting = kind(max_bytes, 1000)
    for command in commands:
        change = site.run(command)
        if change is not None:
            waiting.add(change)
        if data.draw(st.booleans()):
            batch = takes(waiting)
            at_push = site.state
            arrives = data.draw(st.booleans())
            if arrives:
                hub = pushed(hub, [each for sent in batch for each in resolved(sent, at_push)])
            during = site.run(data.draw(COMMANDS))
            if during is not None:
                waiting.add(during)
            if arrives:
                waiting.done([sent.key for sent in batch])
            else:
                waiting.put_back([sent.key for sent in batch])
    while batch := takes(waiting):
        hub = pushed(hub, [each for sent in batch for each in resolved(sent, site.state)])
        waiting.done([sent.key for sent in batch])

    assert content(hub) == content(site.state)
    assert waiting.bytes == 0
    assert len(waiting) == 0


# Taking.


def test_changes_leave_in_the_order_in_which_their_keys_came():
    waiting = holding(StringSet(b"a", b"1"), StringSet(b"b", b"1"), StringSet(b"a", b"2"), Deleted(b"c"))

    assert takes(waiting) == [StringSet(b"a", b"2"), StringSet(b"b", b"1"), Deleted(b"c")]
    assert takes(waiting) == []


def test_a_batch_ends_at_the_number_of_keys_or_of_bytes():
    waiting = holding(*(StringSet(b"k%d" % number, b"x" * 100) for number in range(10)))

    assert len(takes(waiting, max_keys=3)) == 3
    assert len(takes(waiting, max_bytes=204)) == 2
    assert len(takes(waiting, max_bytes=1)) == 1
    assert waiting.ready == 4
    assert len(waiting) == 10


def test_invalidations_are_of_the_size_of_their_keys():
    waiting = holding(*(Invalidated(b"k" * 99 + b"%d" % number) for number in range(5)))

    assert len(takes(waiting, max_bytes=200)) == 2


def test_no_key_is_in_two_batches():
    waiting = holding(SET)
    takes(waiting)
    waiting.add(StringSet(K, b"w"))

    assert takes(waiting) == []
    assert K in waiting
    assert len(waiting) == 1
    waiting.done([K])
    assert takes(waiting) == [StringSet(K, b"w")]
    waiting.done([K])
    assert K not in waiting


def test_what_comes_meanwhile_is_merged_too():
    waiting = holding(SET)
    takes(waiting)
    waiting.add(hset(f="1"))
    waiting.add(hset(g="2"))
    waiting.done([K])

    assert takes(waiting) == [hset(f="1", g="2")]


@pytest.mark.parametrize("change", [SET, hset(f="1"), ExpirySet(K, 5), GONE, hdel("f"), TOUCH, REPLACE])
def test_a_batch_that_did_not_arrive_is_taken_again(change):
    waiting = holding(change)
    takes(waiting)
    waiting.put_back([K])

    assert takes(waiting) == [change]


@pytest.mark.parametrize(
    ("change", "meanwhile", "again"),
    [
        (SET, StringSet(K, b"w"), StringSet(K, b"w")),
        (hset(f="1"), hset(g="2"), hset(f="1", g="2")),
        (SET, TOUCH, TOUCH),
        (TOUCH, hset(f="1"), TOUCH),
        (hdel("f"), TOUCH, REPLACE),
        (SET, GONE, GONE),
    ],
)
def test_a_batch_that_did_not_arrive_takes_in_what_came_meanwhile(change, meanwhile, again):
    waiting = holding(change)
    takes(waiting)
    waiting.add(meanwhile)
    waiting.put_back([K])

    assert takes(waiting) == [again]
    waiting.done([K])
    assert len(waiting) == waiting.bytes == 0


# Ceilings.


def test_above_the_ceiling_values_give_way_to_invalidations():
    waiting = pending(10_000)
    for number in range(100):
        waiting.add(StringSet(b"k%d" % number, b"x" * 1000))
        assert waiting.bytes <= 10_000
    batch = takes(waiting)

    assert len(batch) == 100
    assert isinstance(batch[0], StringSet)
    assert batch[-1] == Invalidated(b"k99")


def test_below_the_ceiling_again_values_are_kept_again():
    waiting = pending(10_000)
    for number in range(20):
        waiting.add(StringSet(b"k%d" % number, b"x" * 1000))
    waiting.done([change.key for change in takes(waiting)])

    assert waiting.bytes == 0
    waiting.add(SET)
    assert takes(waiting) == [SET]


def test_a_hash_that_grows_over_the_ceiling_becomes_an_invalidation():
    waiting = pending(10_000)
    for number in range(100):
        waiting.add(HashSet(K, {b"f%d" % number: b"x" * 50}))
        assert waiting.bytes <= 10_000

    assert takes(waiting) == [TOUCH]
    assert waiting.bytes == 0


def test_the_same_fields_again_take_no_more_memory():
    waiting = pending()
    sizes = set()
    for number in range(10):
        waiting.add(HashSet(K, {b"f": b"%d" % number, b"g": None}))
        sizes.add(waiting.bytes)

    assert len(sizes) == 1


def test_memory_is_counted_down_to_nothing():
    waiting = holding(SET, hset(f="1"), StringSet(K, b"xyz"), hset(f="1"), hset(f="22", g=None), hdel("f", "h"), GONE)
    waiting.add(StringSet(b"l", b"1234"))

    assert waiting.bytes == 4
    takes(waiting)
    waiting.add(SET)
    waiting.put_back([K, b"l"])
    assert waiting.bytes == 5
    waiting.done([change.key for change in takes(waiting)])
    assert waiting.bytes == 0


@pytest.mark.parametrize("change", [hdel("f" * 400), hset(f=None)])
def test_a_field_that_is_gone_is_not_forgotten_above_the_ceiling(change):
    waiting = pending(300)
    waiting.add(change)

    assert takes(waiting) == [REPLACE]


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        (SET, TOUCH),
        (hset(f="1"), TOUCH),
        (ExpirySet(K, 5), TOUCH),
        (GONE, GONE),
        (REPLACE, REPLACE),
        (hdel("f"), REPLACE),
        (hset(f=None), REPLACE),  # it may be gone by the time it is read
        (TRIM, REPLACE),
    ],
)
def test_an_invalidation_covers_all_but_what_reading_does_not_tell(change, taken):
    assert takes(holding(TOUCH, change)) == [taken]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ([hset(f="1"), hdel("g")], {b"f", b"g"}),
        ([HashSet(K, {FIRST_ID: b"1"})], {FIRST_ID}),  # a hash may have such a field
        ([hset(f="1"), ExpirySet(K, 5)], None),
        ([TRIM], None),  # which entries it removes, it does not say
        ([HashSet(K, {b"1": b"v", FIRST_ID: None}, "stream")], None),
    ],
)
def test_which_elements_may_be_judged_meanwhile(changes, fields):
    assert holding(*changes).fields(K) == fields


def test_above_the_key_ceiling_further_keys_are_left_to_a_sweep():
    waiting = pending(max_keys=10)
    for number in range(10):
        waiting.add(StringSet(b"k%d" % number, b"v"))
    assert not waiting.left_out
    assert len(takes(waiting, max_keys=2)) == 2
    waiting.add(StringSet(b"k0", b"held"))
    for number in range(10, 13):
        waiting.add(StringSet(b"k%d" % number, b"v"))

    assert waiting.left_out
    assert takes(waiting) == [StringSet(b"k%d" % number, b"v") for number in range(2, 12)]
    waiting.read_up_to(100)
    waiting.done(b"k%d" % number for number in range(12))
    assert waiting.acknowledged == 0
    assert takes(waiting) == [StringSet(b"k0", b"held")]
    waiting.done([b"k0"])
    assert waiting.acknowledged == 100
    assert len(waiting) == waiting.bytes == 0


def filled(max_bytes, count=25_000, size=64):
    """Distinct keys of ordinary length, in pieces as the stream brings them, and what they take of memory, each."""
    waiting = pending(max_bytes, max_keys=count)
    tracemalloc.start()
    try:
        for start in range(0, count, 500):
            waiting.add_sets([[b"SET", b"site1:key:%08d" % n, b"%0*d" % (size, n)] for n in range(start, start + 500)])
            waiting.read_up_to(start + 1)
        return waiting, tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [8, 64, 1000])
def test_what_waits_takes_no_more_memory_than_is_counted(size):
    waiting, taken = filled(1 << 30, size=size)

    assert waiting.bytes == len(waiting) * size
    assert taken <= size + OVERHEAD


def test_an_invalidation_takes_little_more_than_its_key():
    waiting, taken = filled(0)

    assert waiting.bytes == 0
    assert taken <= 130


def test_the_garbage_collector_need_not_look_at_what_waits():
    waiting, _ = filled(1 << 20, count=10_000)
    gc.collect()

    assert waiting.bytes > 0
    assert not any(map(gc.is_tracked, waiting._ready.values()))


# How far the stream is acknowledged.


def test_a_stream_without_changes_is_acknowledged_as_it_is_read():
    waiting = pending()
    waiting.read_up_to(10, 3)

    assert (waiting.acknowledged, waiting.database) == (10, 3)


def test_a_position_counts_once_all_before_it_is_there():
    waiting = holding(StringSet(b"a", b"1"))
    waiting.read_up_to(10, 1)
    waiting.add(StringSet(b"b", b"1"))
    waiting.read_up_to(20, 2)
    waiting.read_up_to(25, 4)
    waiting.add(StringSet(b"c", b"1"))  # of a stretch that is not complete

    takes(waiting)
    waiting.done([b"b"])
    assert waiting.acknowledged == 0
    waiting.done([b"a"])
    assert (waiting.acknowledged, waiting.database) == (25, 4)
    waiting.done([b"c"])
    assert waiting.acknowledged == 25
    waiting.read_up_to(30)
    assert waiting.acknowledged == 30


def test_a_position_is_resumed():
    waiting = pending()
    waiting.resume_at(500, 2)

    assert (waiting.acknowledged, waiting.database) == (500, 2)


@pytest.mark.parametrize("busy", [False, True])
def test_positions_do_not_pile_up_while_the_hub_is_away(busy):
    waiting = holding(SET)
    for offset in range(1, 1000):
        if busy:
            waiting.add(SET)
        waiting.read_up_to(offset)

    assert len(waiting._marks) == 1
    takes(waiting)
    waiting.done([K])
    assert waiting.acknowledged == 999
    assert not waiting._marks


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 4), st.sampled_from(["set", "read", "hset"])),
        st.tuples(st.just("read"), st.integers(1, 5)),
        st.tuples(st.just("take"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["done", "put back"]), st.integers(0, 3)),
        st.tuples(st.just("forget"), st.integers(0, 4)),
    ),
    max_size=40,
)


@given(OPERATIONS, st.sampled_from([300, 1 << 20]))
@example([("add", 2, "set"), ("read", 1), ("take", 1), ("forget", 2), ("add", 2, "set"), ("put back", 0)], 300).via(
    "what was out of date kept the place of what came after it"
)
@settings(max_examples=120, deadline=None)
def test_acknowledged_is_exactly_what_a_naive_account_says(operations, max_bytes):
    """Every change by itself, with the offset at the end of its stretch: never past one that is not there."""
    waiting = pending(max_bytes)
    offset, open_stretch, ends = 0, [], []  # ends: of each stretch, with the changes that are not acknowledged
    unsent, flying, batches, outdated = {}, {}, [], set()
    acknowledged = 0
    for name, *arguments in operations:
        match name:
            case "add":
                number, kind = arguments
                key = b"%d" % number
                change = {"set": StringSet(key, b"v"), "read": Invalidated(key), "hset": HashSet(key, {b"f": b"v"})}[
                    kind
                ]
                waiting.add(change)
                token = object()
                open_stretch.append(token)
                unsent.setdefault(key, []).append(token)
            case "read":
                offset += arguments[0]
                ends.append((offset, open_stretch))
                open_stretch = []
                waiting.read_up_to(offset)
            case "take":
                batch = [change.key for change in waiting.take(arguments[0], 1 << 20)]
                assert batch == [key for key in batch if key not in flying]
                flying |= {key: unsent.pop(key) for key in batch}
                batches += [batch] if batch else []
            case "forget":
                key = b"%d" % arguments[0]
                waiting.forget(StringSet(key, b"newer"))
                unsent.pop(key, None)
                if key in flying:
                    outdated |= {*flying[key]}
            case _ if batches:
                batch = batches.pop(arguments[0] % len(batches))
                for key in batch:
                    tokens = flying.pop(key)
                    if name != "done" and (left := [token for token in tokens if token not in outdated]):
                        unsent[key] = left + unsent.get(key, [])
                if name == "done":
                    waiting.done(batch)
                else:
                    waiting.put_back(batch)
        missing = {token for tokens in (*unsent.values(), *flying.values()) for token in tokens}
        while ends and not missing.intersection(ends[0][1]):
            acknowledged = ends.pop(0)[0]
        assert waiting.acknowledged == acknowledged
        assert len(waiting) == len(unsent.keys() | flying.keys())
        assert waiting.bytes >= 0


# Starting over, and forgetting.


def test_a_new_history_keeps_what_waits_and_counts_it_as_of_the_snapshot():
    waiting = holding(StringSet(b"ready", b"1"), StringSet(b"flying", b"1"), StringSet(b"left", b"1"))
    waiting.read_up_to(100)
    taken = takes(waiting, max_keys=2)
    waiting.add(StringSet(b"flying", b"2"))
    waiting.start_over()

    assert waiting.acknowledged == 0
    waiting.add(StringSet(b"snapshot", b"1"))
    waiting.read_up_to(50)
    waiting.done([change.key for change in taken])
    assert waiting.acknowledged == 0
    left = takes(waiting)
    assert {change.key for change in left} == {b"left", b"flying", b"snapshot"}
    waiting.done([change.key for change in left])
    assert waiting.acknowledged == 50


def test_a_new_history_drops_what_does_not_tell_its_value():
    """What is there now need not be what it led to."""
    fields = {b"known": b"1", b"unknown": None}
    flying = [Invalidated(b"flying"), HashSet(b"flying hash", dict(fields))]
    waiting = holding(*flying)
    waiting.read_up_to(100)
    assert takes(waiting) == flying
    for change in (
        Invalidated(b"t"),
        HashSet(b"h", dict(fields)),
        HashSet(b"g", {b"f": None}),
        Invalidated(b"flying"),
        SET,
    ):
        waiting.add(change)
    waiting.start_over()
    assert takes(waiting) == [HashSet(b"h", {b"known": b"1"}), SET]
    waiting.read_up_to(50)

    waiting.put_back([change.key for change in flying])
    waiting.forget_valueless([change.key for change in flying])
    assert takes(waiting) == [HashSet(b"flying hash", {b"known": b"1"})]
    waiting.done([b"h", K, b"flying hash"])
    assert (len(waiting), waiting.bytes, waiting.acknowledged) == (0, 0, 50)


def test_a_new_history_with_nothing_waiting():
    waiting = holding(SET)
    waiting.read_up_to(100)
    takes(waiting)
    waiting.done([K])
    waiting.start_over()

    assert waiting.acknowledged == 0
    waiting.read_up_to(50)
    assert waiting.acknowledged == 50


NEWER = pytest.mark.parametrize(
    ("seed", "newer", "left"),
    [
        (SET, StringSet(K, b"w"), []),
        (SET, GONE, []),
        (SET, Invalidated(K, "set"), []),
        (SET, hset(f="1"), [SET]),
        (hset(f="1", g="1"), SET, []),
        (hset(f="1", g="1"), hset(f="2"), [hset(g="1")]),
        (hset(f="1", g="1"), hset(f="2", g="2"), []),
        (hset(f="1", g="1"), hdel("g", "h"), [hset(f="1")]),
        (TOUCH, hset(f="1"), [TOUCH]),
        (TOUCH, SET, []),
        (SET, ExpirySet(K, 5), [TOUCH]),
        (TOUCH, ExpirySet(K, 5), [TOUCH]),
        (HashSet(K, {b"1": None}, "stream"), TRIM, [REPLACE]),
    ],
)


@NEWER
def test_a_newer_change_makes_a_waiting_one_needless_as_far_as_it_goes(seed, newer, left):
    """An expiry goes nowhere: the value is still to be there."""
    waiting = holding(deepcopy(seed))
    waiting.forget(newer)
    waiting.read_up_to(10)

    assert waiting.acknowledged == (0 if left else 10)
    assert takes(waiting) == left
    waiting.done([change.key for change in left])
    assert waiting.acknowledged == 10
    assert waiting.bytes == 0


@NEWER
@pytest.mark.parametrize("held", [False, True])
def test_likewise_one_that_is_on_its_way_and_comes_back(seed, newer, left, held):
    """Sent after the newer one, which need not wait for it any more, it would undo that."""
    waiting = holding(deepcopy(seed))
    takes(waiting)
    if held:
        waiting.add(deepcopy(seed))  # once more, as a snapshot tells of a collection in parts
    waiting.forget(newer)
    waiting.put_back([K])
    waiting.read_up_to(10)

    assert waiting.acknowledged == (0 if left else 10)
    assert takes(waiting) == left
    waiting.done([change.key for change in left])
    assert (waiting.acknowledged, waiting.bytes, len(waiting)) == (10, 0, 0)


def test_of_one_that_arrives_the_newer_ones_are_forgotten_too():
    waiting = holding(hset(f="1", g="1"))
    takes(waiting)
    waiting.forget(hset(f="2"))
    waiting.done([K])
    waiting.add(hset(f="3"))
    takes(waiting)
    waiting.put_back([K])

    assert takes(waiting) == [hset(f="3")]


def test_what_is_held_back_behind_one_on_its_way_is_forgotten_as_well():
    waiting = holding(hset(f="1"))
    takes(waiting)
    waiting.add(hset(g="1", h="1"))
    waiting.forget(hdel("g"))
    waiting.done([K])

    assert takes(waiting) == [hset(h="1")]


@pytest.mark.parametrize(
    ("newer", "left"),
    [
        ([hset(f="2"), hdel("g")], [hset(h="1")]),
        ([hset(f="2"), ExpirySet(K, 5), ExpirySet(K, 6), hset(g="2")], [TOUCH]),
        ([ExpirySet(K, 5), GONE], []),
        ([hset(f="2"), GONE, hset(f="3")], []),
    ],
)
def test_several_newer_changes_of_one_on_its_way(newer, left):
    waiting = holding(hset(f="1", g="1", h="1"))
    takes(waiting)
    for change in newer:
        waiting.forget(change)
    waiting.put_back([K])

    assert takes(waiting) == left


def test_forgetting_a_key_that_does_not_wait():
    waiting = holding(SET)
    waiting.forget(StringSet(b"other", b"v"))
    takes(waiting)
    waiting.forget(GONE)  # in flight: too late

    waiting.done([K])
    assert len(waiting) == 0


# Runs of plain sets.


def entries_of(waiting):
    """All that is kept, without the identity of marks: which stretch each key holds open is told by its number."""
    numbers = {mark: place for place, mark in enumerate(waiting._marks)}

    def parts(key, entry):
        change, mark, size = parts_of(key, entry)
        return change, numbers[mark], size

    kept = [[(key, *parts(key, entry)) for key, entry in part.items()] for part in (waiting._ready, waiting._held)]
    return (
        kept,
        [(mark.offset, mark.outstanding) for mark in waiting._marks.values()],
        waiting.bytes,
        waiting.left_out,
    )


KEYS = st.integers(0, 5).map(lambda number: b"%d" % number)
BEFORE = st.one_of(
    st.builds(StringSet, KEYS, VALUES, TIMES),
    st.builds(Invalidated, KEYS),
    st.builds(Invalidated, KEYS, replaces=st.just(True)),
    st.builds(Deleted, KEYS),
    st.builds(HashSet, KEYS, st.dictionaries(FIELDS, VALUES, min_size=1)),
    st.builds(FieldsDeleted, KEYS, st.just((b"f",))),
    st.builds(ExpirySet, KEYS, TIMES),
)
RUNS = st.lists(st.tuples(st.just(b"SET"), KEYS, st.binary(max_size=400)), max_size=8)


@given(
    st.lists(st.tuples(st.lists(BEFORE, max_size=4), RUNS, st.booleans(), st.booleans()), max_size=5),
    st.sampled_from([0, 700, 1200, 1 << 20]),
    st.sampled_from([3, 1000]),
)
@settings(max_examples=120, deadline=None)
def test_a_run_of_plain_sets_is_taken_like_each_of_them(rounds, max_bytes, max_keys):
    by_runs, one_by_one = pending(max_bytes, max_keys), pending(max_bytes, max_keys)
    offset = 0
    for before, run, leaves, arrives in rounds:
        for change in before:
            by_runs.add(deepcopy(change))
            one_by_one.add(deepcopy(change))
        by_runs.add_sets(run)
        for _, key, value in run:
            one_by_one.add(StringSet(key, value))
        offset += 10
        for waiting in (by_runs, one_by_one):
            waiting.read_up_to(offset)
            if leaves:
                keys = [change.key for change in takes(waiting, max_keys=2)]
                if arrives:
                    waiting.done(keys)
        assert entries_of(by_runs) == entries_of(one_by_one)
    assert takes(by_runs) == takes(one_by_one)


def test_many_elements_that_are_removed_one_by_one_are_kept_by_name():
    """Copying all their names for each that is added would take longer than to read them."""
    names = [f"{number}" for number in range(1200)]
    waiting = holding(*map(hdel, names))
    (change,) = takes(waiting)
    assert change == hset(**dict.fromkeys(names))
    assert list(change.fields) == [name.encode() for name in names]
    assert change.emptied
    (few,) = takes(holding(*map(hdel, names[:1000])))
    assert few == hdel(*names[:1000])


@pytest.mark.parametrize("older", [hset(a="1", b=None), hset(**dict.fromkeys(map(str, range(5)), "12345"))])
@pytest.mark.parametrize("newer", [hdel("a", "new"), hdel("3"), hset(a="123", new="4")])
def test_the_memory_of_what_was_merged_is_that_of_what_is_kept(older, newer):
    whole = merge(HashSet(K, dict(older.fields)), newer)
    merged = holding(HashSet(K, dict(older.fields)), newer)
    assert merged.bytes == holding(whole).bytes
    merged.done([change.key for change in takes(merged)])
    assert merged.bytes == 0
