"""Streams in the engine: entries by id, the greater last id, and what keeps a stream the one that it is."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import pytest

from redisrepl.changes import KINDS, Deleted, FieldsDeleted, HashSet, HashState, Invalidated
from redisrepl.engine.ancestor import note_changes
from redisrepl.engine.conditional import Condition, condition_of_state
from redisrepl.engine.doubts import Doubts
from redisrepl.engine.merging import elements_changed, merge
from redisrepl.engine.pending import Pending
from redisrepl.engine.plans import Plan, Policy, plan_for
from redisrepl.engine.reconcile import ORDINARY, Circumstances
from redisrepl.engine.winners import Lost, Ruling
from redisrepl.wire.digests import digest_of, element_of
from redisrepl.wire.entries import FIRST_ID, LAST_ID, entry_name, entry_value
from redisrepl.wire.rdb import Entry, Stream
from redisrepl.wire.snapshots import changes_of
from tests.engine.sides import KEY, Memory, ancestor_of
from tests.engine.test_inbound import World

ONE, TWO, THREE, FOUR = map(entry_name, (b"1-1", b"2-1", b"3-1", b"4-1"))
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
    assert (found.apply, found.push, found.lost) == (apply, push, [])


def test_an_entry_that_both_wrote_is_a_conflict():
    found = plan(stream(b"1-1", ONE), stream(b"1-1", ONE, value=W), None)
    assert isinstance(found, Plan)
    assert (found.apply, found.lost) == ([put({ONE: W})], [Lost(Ruling("hub"), HashState({ONE: V}, None, "stream"))])


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


def test_the_last_id_stays_agreed_on_where_an_entry_may_be_added_below_it():
    facts = Memory()
    note_changes(facts, [put({THREE: V, LAST_ID: b"3-1"})])
    note_changes(facts, [put({ONE: V})], appends=False)
    assert facts.agreed.digest == digest_of(KEY, stream(b"3-1", ONE, THREE))


HIGH, BEHIND = stream(b"4-1", ONE), stream(b"4-1", ONE, FOUR)


@pytest.mark.parametrize(
    ("about", "site", "hub", "ancestor", "apply", "push"),
    [
        # The hub has set the last id back, but the site has added an entry above it.
        (ORDINARY, BEHIND, stream(b"1-1", ONE), HIGH, [], put({FOUR: None, LAST_ID: None})),
        # So has the site, and the hub has one.
        (
            ORDINARY,
            stream(b"1-1", ONE),
            stream(b"4-1", ONE, FOUR),
            stream(b"4-1", ONE),
            [put({FOUR: V, LAST_ID: b"4-1"})],
            None,
        ),
        # A server that went back sets nothing back.
        (
            Circumstances(site_lost=True),
            stream(b"4-1", ONE),
            stream(b"1-1", ONE),
            stream(b"4-1", ONE),
            [],
            put({LAST_ID: None}),
        ),
        (
            Circumstances(hub_lost=True),
            stream(b"1-1", ONE),
            stream(b"4-1", ONE),
            stream(b"4-1", ONE),
            [put({LAST_ID: b"4-1"})],
            None,
        ),
    ],
)
def test_the_greater_last_id_stands_unless_one_side_alone_has_set_it_back(about, site, hub, ancestor, apply, push):
    found = plan_for(KEY, site, hub, agreed_on(ancestor), Policy(KINDS, "hub"), about)
    assert (found.apply, found.push) == (apply, push)


def test_an_entry_that_is_removed_before_anybody_heard_of_it_leaves_its_id_as_the_last():
    assert merge(put({ONE: V, TWO: V}), removed(TWO)) == put({ONE: V, TWO: None, LAST_ID: b"2-1"})
    assert merge(put({TWO: V}), put({TWO: None})) == put({TWO: None, LAST_ID: b"2-1"})
    assert merge(put({TWO: V}), removed(ONE)) == put({TWO: V, ONE: None})


def test_a_new_entry_concerns_the_last_id_and_a_trim_nobody_knows_what():
    assert set(elements_changed(put({ONE: V}))) == {ONE, LAST_ID}
    assert elements_changed(removed(ONE)) == (ONE,)
    assert elements_changed(put({ONE: V, FIRST_ID: None})) is None
    assert elements_changed(Deleted(KEY)) is None
    assert set(elements_changed(HashSet(KEY, {b"f": b"v"}))) == {b"f"}


@pytest.mark.parametrize(
    ("newer", "left"),
    [
        (put({TWO: V}), [put({ONE: V})]),  # the last id of the snapshot is none any more
        (removed(ONE), [put({LAST_ID: b"1-1"})]),
        (put({FIRST_ID: None}), [Invalidated(KEY, replaces=True)]),
    ],
)
def test_what_waits_of_a_stream_is_needless_as_far_as_a_newer_change_goes(newer, left):
    waiting = Pending(1 << 20, 100)
    waiting.add(put({ONE: V, LAST_ID: b"1-1"}))
    waiting.forget(newer)
    assert waiting.take(9, 1 << 20) == left


def test_entries_that_were_moved_to_insert_one_stay_in_doubt():
    doubts = Doubts(1 << 20, 100, KINDS)
    doubts.add(KEY, put({THREE: None, LAST_ID: None}))
    for moved in (removed(THREE), put({THREE: V}), put({LAST_ID: b"3-1"})):
        doubts.forget(moved, applied=False)
    assert doubts.queue.take(9, 1 << 20) == [put({THREE: None, LAST_ID: None})]


def test_what_the_hub_was_seen_to_hold_of_other_elements_counts_after_an_echo():
    """Removals are not replicated: the site has what the hub lacks and both had, and gets another one of the hub."""
    doubts, agreed = Doubts(1 << 20, 100, KINDS - {"del"}), agreed_on(stream(b"2-1", ONE, TWO))
    planned = put({ONE: V, TWO: V})
    doubts.add(KEY, planned, {ONE: (None,), TWO: (None,)})
    doubts.forget(put({THREE: V}))
    (condition,) = doubts.conditions([planned], [planned], {}, {KEY: agreed})
    assert condition == Condition((planned,), fields={ONE: (None,), TWO: (None,)})


def test_what_was_agreed_on_of_another_type_is_no_entry_to_remove():
    """Redis takes only ids for such, and would refuse all."""
    held = stream(b"1-1", ONE)
    was_hash = ancestor_of(HashState({b"f": b"1"}))
    expected = {ONE: (None,), LAST_ID: (None,)}
    found = condition_of_state(KEY, held, was_hash, expected, KINDS - {"expire"})
    assert found == Condition((put({ONE: V, LAST_ID: b"1-1"}),), fields=expected)


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
