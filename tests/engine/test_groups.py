"""Consumer groups in the engine: elements of their stream, of which the last delivered id is the greater one."""

from __future__ import annotations

import pytest

from redisrepl.changes import KINDS, FieldsDeleted, HashSet, HashState, Invalidated
from redisrepl.engine.ancestor import note_changes
from redisrepl.engine.plans import Policy, plan_for
from redisrepl.engine.reconcile import Circumstances
from redisrepl.engine.winners import Lost, Ruling
from redisrepl.wire.digests import digest_of
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value
from redisrepl.wire.groups import delivery, pending_name, place_name
from tests.engine.sides import KEY, Memory
from tests.engine.test_entries import agreed_on
from tests.engine.test_inbound import World

ALL = KINDS | {"streams-groups"}
ENTRY, V = entry_name(b"1-0"), entry_value([b"f", b"v"])
PLACE, ONE, TWO = place_name(b"g"), pending_name(b"g", b"1-0"), pending_name(b"g", b"2-0")


def stream(at=None, **pending):
    """One with a group that has delivered so far, and who has the first and the second entry."""
    fields = {ENTRY: V, LAST_ID: b"9-0", **({PLACE: at} if at else {})}
    names = {"one": ONE, "two": TWO}
    return HashState(fields | {names[name]: delivery(who, 1, 5) for name, who in pending.items()}, None, "stream")


def put(elements):
    return HashSet(KEY, elements, "stream")


def removed(*names):
    return FieldsDeleted(KEY, names, "stream")


@pytest.mark.parametrize("winner", ["hub", "site"])
@pytest.mark.parametrize(
    ("site", "hub", "ancestor", "apply", "push"),
    [
        # Of two last ids the greater, at first contact and later, without a conflict; set back on one side alone.
        (stream(b"2-0"), stream(b"10-0"), None, [put({PLACE: b"10-0"})], None),
        (stream(b"10-0"), stream(b"2-0"), stream(b"1-0"), [], put({PLACE: None})),
        (stream(b"2-0"), stream(b"5-0"), stream(b"5-0"), [], put({PLACE: None})),
        # Acknowledged on one side, untouched on the other; delivered on either.
        (stream(b"5-0"), stream(b"5-0", one=b"c"), stream(b"5-0", one=b"c"), [], put({ONE: None})),
        (stream(b"5-0", one=b"c"), stream(b"5-0"), stream(b"5-0", one=b"c"), [removed(ONE)], None),
        (stream(b"5-0", one=b"c"), stream(b"5-0", two=b"d"), stream(b"5-0"), [put({TWO: b"1 d"})], put({ONE: None})),
        # Acknowledged on one side, claimed on the other: a value goes before a removal.
        (stream(b"5-0"), stream(b"5-0", one=b"d"), stream(b"5-0", one=b"c"), [put({ONE: b"1 d"})], None),
        # A group that one side has removed.
        (stream(), stream(b"5-0"), stream(b"5-0"), [], put({PLACE: None})),
    ],
)
def test_groups_are_merged_entry_by_entry(site, hub, ancestor, apply, push, winner):
    agreed = ancestor and agreed_on(ancestor)
    found = plan_for(KEY, site, hub, agreed, Policy(ALL, winner), Circumstances())
    assert (found.apply, found.push, found.lost) == (apply, push, [])


def test_an_entry_that_both_delivered_is_a_conflict():
    found = plan_for(KEY, stream(b"5-0", one=b"c"), stream(b"5-0", one=b"d"), None, Policy(ALL, "hub"), Circumstances())
    assert (found.apply, found.lost) == (
        [put({ONE: b"1 d"})],
        [Lost(Ruling("hub"), HashState({ONE: b"1 c"}, None, "stream"))],
    )


def test_what_a_group_has_delivered_says_nothing_of_the_last_id():
    facts = Memory()
    note_changes(facts, [put({ENTRY: V, LAST_ID: b"9-0"}), put({PLACE: b"5-0", ONE: delivery(b"c", 1, 5)})])
    assert facts.agreed.digest == digest_of(KEY, stream(b"5-0", one=b"c"))


@pytest.mark.parametrize(("kinds", "dirty"), [(ALL, [KEY]), (KINDS, [])])
def test_events_of_groups_are_heard_where_these_are_replicated(kinds, dirty):
    for event in (b"xgroup-setid", b"xgroup-destroy", b"xgroup-createconsumer", b"xgroup-delconsumer"):
        world = World(kinds)
        world.inbound.events([(KEY, event)])
        assert list(world.inbound.dirty) == dirty
    world.inbound.events([(KEY, b"xgroup-create")])  # with MKSTREAM it makes the stream
    assert list(world.inbound.dirty) == [KEY]


def test_what_is_told_of_groups_is_taken_where_these_are_replicated():
    """Elsewhere only the rest of it is."""
    told = {ENTRY: V, PLACE: b"5-0", ONE: delivery(b"c", 1, 5)}
    world = World(ALL)
    world.inbound.feed(1, [put(dict(told)), removed(TWO)], now=0.0)
    world.inbound.events([(KEY, b"xadd"), (KEY, b"xgroup-setid"), (KEY, b"xgroup-setid")])
    assert world.inbound.dirty == {}
    assert world.inbound.take_fed(9) == {KEY: [put(told), removed(TWO)]}

    world = World(KINDS)
    world.inbound.feed(1, [put(dict(told)), removed(TWO)], now=0.0)
    world.inbound.feed(2, [put({PLACE: b"6-0"})], now=0.0)
    world.inbound.events([(KEY, b"xadd"), (KEY, b"xgroup-setid")])
    assert world.inbound.dirty == {}
    assert world.inbound.take_fed(9) == {KEY: [put({ENTRY: V})]}


def test_what_is_removed_comes_back_as_the_stream_shows_it():
    world = World(ALL)
    world.inbound.feed(1, [removed(ENTRY, ONE, TWO, place_name(b"h"))], now=0.0)
    world.inbound.take_fed(9)
    world.inbound.about_to_apply(KEY, [removed(ENTRY, ONE, TWO, place_name(b"h"))])
    assert world.local.consume(KEY, removed(ONE, TWO))
    assert world.local.consume(KEY, removed(ENTRY))
    assert world.local.consume(KEY, Invalidated(KEY, "streams", replaces=True))
    assert not world.local.holds(KEY)
