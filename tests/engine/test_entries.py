"""Streams in the engine: entries by id, the greater last id, and what keeps a stream the one that it is."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest

from redisrepl.changes import KINDS, Deleted, FieldsDeleted, HashSet, HashState
from redisrepl.engine.ancestor import note_changes
from redisrepl.engine.conditional import Condition, condition_of_state
from redisrepl.engine.merging import merge
from redisrepl.engine.plans import Plan, Policy, plan_for
from redisrepl.engine.reconcile import Circumstances
from redisrepl.wire.digests import digest_of, element_of
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value
from redisrepl.wire.rdb import Entry, Stream
from redisrepl.wire.snapshots import changes_of
from tests.engine.sides import KEY, Memory, ancestor_of
from tests.engine.test_inbound import World

ONE, TWO, THREE = map(entry_name, (b"1-1", b"2-1", b"3-1"))
V, W = entry_value([b"f", b"v"]), entry_value([b"f", b"w"])


def stream(last, *names, value=V):
    return HashState({**dict.fromkeys(names, value), LAST_ID: last}, None, "stream")


def put(elements):
    return HashSet(KEY, elements, "stream")


def removed(*names):
    return FieldsDeleted(KEY, names, "stream")


def agreed_on(state):
    """`ancestor_of` knows only hashes."""
    facts = Memory()
    facts.hash(KEY, {name: element_of(name, value, "stream") for name, value in state.fields.items()}, None)
    return facts.agreed


def plan(site, hub, ancestor, winner="hub"):
    return plan_for(KEY, site, hub, ancestor and agreed_on(ancestor), Policy(KINDS, winner), Circumstances())


@pytest.mark.parametrize("winner", ["hub", "site"])
@pytest.mark.parametrize(
    ("site", "hub", "ancestor", "apply", "push"),
    [
        # A union by id, at first contact and later; of two last ids the greater, and no conflict.
        (stream(b"1-1", ONE), stream(b"2-1", TWO), None, [put({TWO: V, LAST_ID: b"2-1"})], put({ONE: None})),
        (stream(b"9-0", ONE), stream(b"2-1", ONE), stream(b"1-1", ONE), [], put({LAST_ID: None})),
        (stream(b"9-0", ONE), stream(b"10-1", ONE), stream(b"1-1", ONE), [put({LAST_ID: b"10-1"})], None),
        # Removed here, untouched there; a last id that only one side has set back.
        (stream(b"2-1", ONE, TWO), stream(b"2-1", TWO), stream(b"2-1", ONE, TWO), [removed(ONE)], None),
        (stream(b"2-1", TWO), stream(b"2-1", ONE, TWO), stream(b"2-1", ONE, TWO), [], put({ONE: None})),
        (
            stream(b"3-1", ONE, THREE),
            stream(b"1-1", ONE),
            stream(b"3-1", ONE, THREE),
            [removed(THREE), put({LAST_ID: b"1-1"})],
            None,
        ),
    ],
)
def test_two_streams_entry_by_entry(site, hub, ancestor, apply, push, winner):
    found = plan(site, hub, ancestor, winner)
    assert (found.apply, found.push, found.lost) == (apply, push, None)


def test_an_entry_that_both_wrote_is_a_conflict():
    found = plan(stream(b"1-1", ONE), stream(b"1-1", ONE, value=W), None)
    assert isinstance(found, Plan)
    assert (found.apply, found.lost) == ([put({ONE: W})], HashState({ONE: V}, None, "stream"))


def test_a_stream_in_doubt_is_never_replaced_as_a_whole():
    """Its consumer groups at the hub would be gone; not even if no entry is left of those that were agreed on."""

    def pushed(state, ancestor):
        found = condition_of_state(KEY, state, agreed_on(ancestor), None, KINDS)
        if found is not None:
            gone, *others = found.changes
            found = replace(found, changes=(removed(*sorted(gone.fields)), *others))
        return found

    before = stream(b"2-1", ONE, TWO)
    one, two, last = (element_of(name, value, "stream") for name, value in before.fields.items())
    assert pushed(stream(b"2-1"), before) == Condition((removed(ONE, TWO),), fields={ONE: (one,), TWO: (two,)})
    assert pushed(stream(b"3-1", THREE), before) == Condition(
        (removed(ONE, TWO), put({THREE: V, LAST_ID: b"3-1"})),
        fields={ONE: (one,), TWO: (two,), THREE: (None,), LAST_ID: (last,)},
    )
    assert pushed(before, before) is None

    was_hash = ancestor_of(HashState({b"f": b"1"}))
    whole = condition_of_state(KEY, before, was_hash, None, KINDS)
    assert whole.changes[0] == Deleted(KEY)


def test_the_last_id_is_agreed_on_with_the_entries_at_the_end():
    facts = Memory()
    note_changes(facts, [put({ONE: V}), put({THREE: V, TWO: V}), removed(ONE)])
    assert facts.agreed.digest == digest_of(KEY, stream(b"3-1", TWO, THREE))


def test_what_was_told_of_entries_that_came_and_went_is_applied_without_a_fetch():
    world = World()
    world.inbound.feed(1, [put({ONE: V}), put({TWO: V})], now=0.0)
    world.inbound.feed(2, [removed(ONE)], now=0.0)
    world.inbound.events([(KEY, b"xadd"), (KEY, b"xdel"), (KEY, b"xadd")])
    assert world.inbound.dirty == {}
    assert world.inbound.take_fed(9) == {KEY: [put({TWO: V, LAST_ID: b"2-1"}), removed(ONE)]}

    world = World()
    world.inbound.feed(1, [removed(TWO)], now=0.0)
    assert world.inbound.take_fed(9) == {KEY: [removed(TWO)]}


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        # A new entry is removed again: its id stays the last one, whatever else comes and goes.
        ([put({ONE: V}), removed(ONE)], {ONE: None, LAST_ID: b"1-1"}),
        ([put({ONE: V}), put({ONE: None})], {ONE: None, LAST_ID: b"1-1"}),
        ([put({ONE: V}), put({TWO: V}), removed(TWO, ONE)], {ONE: None, TWO: None, LAST_ID: b"2-1"}),
        ([put({ONE: V}), removed(ONE), put({TWO: V})], {ONE: None, TWO: V, LAST_ID: b"2-1"}),
        ([put({ONE: V}), put({LAST_ID: b"9-0"}), removed(ONE)], {ONE: None, LAST_ID: b"9-0"}),
        ([put({LAST_ID: None}), put({ONE: V}), removed(ONE)], {ONE: None, LAST_ID: None}),
        # One that was there before says nothing about the last id.
        ([put({TWO: V}), removed(ONE)], {ONE: None, TWO: V}),
        ([put({ONE: V}), put({TWO: V})], {ONE: V, TWO: V}),
    ],
)
def test_what_changes_of_a_stream_come_to(changes, left):
    assert reduce(merge, changes) == put(left)


def test_each_entry_that_is_applied_comes_back_by_itself():
    world = World()
    world.inbound.feed(1, [put({ONE: V, TWO: V})], now=0.0)
    world.inbound.take_fed(9)
    world.inbound.about_to_apply(KEY, [put({ONE: V, TWO: V})])
    assert world.local.consume(KEY, put({TWO: V}))
    assert world.local.consume(KEY, put({ONE: V}))
    assert not world.local.consume(KEY, put({ONE: V, TWO: V}))


def test_a_stream_of_a_snapshot():
    entries = [("1-1", [(b"f", b"v")]), ("3-1", [(b"f", b"v")])]
    part = Entry(0, KEY, "stream", Stream(entries[:1]), last=False)
    tail = Entry(0, KEY, "stream", Stream(entries[1:], "9-0"), first=False)
    assert changes_of(part, 0) == [put({ONE: V})]
    assert changes_of(tail, 0) == [put({THREE: V, LAST_ID: b"9-0"})]
