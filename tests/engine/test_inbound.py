"""Which keys are fetched, which are applied as they were told, and what makes either void."""

from __future__ import annotations

import math

import pytest

from redisrepl.changes import KINDS, Deleted, ExpirySet, FieldsDeleted, HashSet, StringSet, StringState, TimedValue
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.following import Following
from redisrepl.engine.inbound import Inbound
from redisrepl.engine.suspicion import ANNOUNCED, OVERTAKEN, SUSPECT

KEY, OTHER = b"ns:key", b"ns:other"
WRITE = HashSet(KEY, {b"g": b"v"})
REMOVALS = [Deleted(KEY), FieldsDeleted(KEY, (b"f",)), HashSet(KEY, {b"f": None, b"g": b"v"})]
A = StringState(b"a")


class World:
    """An inbound half, and what it asks of the other one."""

    def __init__(self, kinds=KINDS, **options):
        self.epoch, self.whole, self.busy, self.changing = 0, True, set(), {}
        self.local, self.remote = ExpectedEvents(100), ExpectedEvents(100)
        self.following = Following()
        self.inbound = Inbound(
            covers=lambda key: key.startswith(b"ns:"),
            kinds=kinds,
            expected_local=self.local,
            expected_remote=self.remote,
            busy=lambda key: key in self.busy or key in self.changing,
            changing=lambda key: None if key in self.busy else self.changing.get(key),
            epoch=lambda: self.epoch,
            whole=lambda: self.whole,
            following=self.following,
            **options,
        )


@pytest.fixture
def world():
    return World()


# What the hub says.


@pytest.mark.parametrize(
    ("kinds", "events", "dirty"),
    [
        (KINDS, [(KEY, b"set"), (b"else", b"set"), (OTHER, b"del"), (KEY, b"hset")], [KEY, OTHER]),
        (KINDS - {"del"}, [(KEY, b"del"), (OTHER, b"hset"), (KEY, b"hdel"), (KEY, b"expired")], [OTHER]),
        (KINDS - {"expire"}, [(KEY, b"expire"), (OTHER, b"persist")], []),
        (KINDS - {"fields-expire"}, [(KEY, b"hexpire"), (OTHER, b"hpersist")], []),
        (KINDS - {"expire"}, [(KEY, b"hexpire"), (OTHER, b"hpersist")], [KEY, OTHER]),
    ],
)
def test_an_event_makes_its_key_dirty(kinds, events, dirty):
    world = World(kinds)
    world.inbound.events(events)
    assert world.inbound.dirty == dict.fromkeys(dirty, False)


def test_the_events_of_our_own_push_make_nothing_dirty(world):
    world.remote.expect(KEY, b"set", 10)
    world.inbound.events([(KEY, b"set")])
    assert (world.inbound.dirty, world.inbound.counters.echoes) == ({}, 1)
    world.inbound.events([(KEY, b"set")])
    assert world.inbound.dirty == {KEY: False}


def test_no_more_keys_are_kept_than_may_wait_however_many_come_at_once():
    world = World(max_keys=2)
    world.inbound.events([(b"ns:%d" % number, b"set") for number in range(5)])
    assert list(world.inbound.dirty) == [b"ns:0", b"ns:1"]
    assert world.inbound.take_left_out()
    world.inbound.events([(b"ns:0", b"set"), (b"ns:1", b"set")])
    assert not world.inbound.take_left_out()


def test_above_the_ceiling_keys_are_left_to_a_sweep():
    world = World(max_keys=2)
    world.inbound.events([(b"ns:%d" % number, b"set") for number in range(2)])
    assert not world.inbound.take_left_out()
    for add in (
        lambda: world.inbound.events([(b"ns:0", b"set"), (KEY, b"set")]),
        lambda: world.inbound.mark_dirty([KEY]),
        lambda: world.inbound.suspect([KEY]),
    ):
        add()
        assert world.inbound.compares
        assert world.inbound.take_left_out()
        assert not world.inbound.take_left_out()
        assert world.inbound.dirty.keys() == {b"ns:0", b"ns:1"}


# What is told, and taken as it is.


@pytest.mark.parametrize("change", [*REMOVALS, WRITE, StringSet(KEY, b"v", 5), ExpirySet(KEY, 5)])
def test_what_is_told_is_applied_without_a_fetch(world, change):
    world.inbound.feed(1, [change], now=0.0)
    assert (world.inbound.dirty, world.inbound.in_progress) == ({}, 1)
    assert world.inbound.take_fed(1) == {KEY: [change]}
    assert world.inbound.is_current(KEY)
    assert world.inbound.about_to_apply(KEY, [change])
    world.inbound.applied([KEY], 1, 0.0)
    assert (world.inbound.in_progress, world.inbound.counters.applied) == (0, 1)


def test_the_events_of_what_is_told_are_expected(world):
    world.inbound.feed(1, [StringSet(KEY, b"v", 5), Deleted(OTHER)], now=0.0)
    world.inbound.events([(KEY, b"expire"), (OTHER, b"del"), (KEY, b"set")])
    assert world.inbound.dirty == {}
    assert len(world.remote) == 0


def test_the_events_of_a_field_that_expires_are_expected_with_those_of_its_value(world):
    change = HashSet(KEY, {b"f": TimedValue(b"v", 5), b"g": b"v"})
    world.inbound.feed(1, [change], now=0.0)
    world.inbound.events([(KEY, b"hexpire"), (KEY, b"hset")])
    assert (world.inbound.dirty, len(world.remote)) == ({}, 0)
    assert world.inbound.take_fed(1) == {KEY: [change]}


def test_what_was_told_last_of_a_field_decides_whether_it_expires(world):
    timed = TimedValue(b"v", 5)
    for time, fields in ((1, {b"f": timed, b"g": timed}), (2, {b"f": b"v"}), (3, {b"h": b"v"}), (4, {b"h": timed})):
        world.inbound.feed(time, [HashSet(KEY, dict(fields))], now=0.0)
    assert world.inbound.take_fed(1) == {KEY: [HashSet(KEY, {b"f": b"v", b"g": timed, b"h": timed})]}


def test_several_that_were_told_of_a_key_are_merged_or_fetched(world):
    world.inbound.feed(1, [HashSet(KEY, {b"f": b"1"}), StringSet(OTHER, b"v")], now=0.0)
    world.inbound.feed(2, [HashSet(KEY, {b"g": b"2"}), HashSet(OTHER, {b"f": b"1"})], now=0.0)
    assert world.inbound.take_fed(9) == {KEY: [HashSet(KEY, {b"f": b"1", b"g": b"2"})]}
    assert world.inbound.dirty == {OTHER: False}  # it changed its type


def changed_at_the_site(world):
    world.inbound.changed_at_site([KEY])


def a_foreign_write_came(world):
    world.inbound.events([(KEY, b"set")])
    assert world.inbound.take_fed(1) == {}


def a_link_was_lost(world):
    world.epoch += 1
    assert world.inbound.take_fed(1) == {}


def a_client_wrote_as_it_was_applied(world):
    world.inbound.not_applied(world.inbound.take_fed(1))


def a_link_was_lost_as_it_was_applied(world):
    world.inbound.take_fed(1)
    world.epoch += 1
    assert not world.inbound.is_current(KEY)


def the_site_changed_it_as_it_was_applied(world):
    world.inbound.take_fed(1)
    world.inbound.changed_at_site([KEY])
    assert not world.inbound.is_current(KEY)


BETWEEN = [
    changed_at_the_site,
    a_foreign_write_came,
    a_link_was_lost,
    a_client_wrote_as_it_was_applied,
    a_link_was_lost_as_it_was_applied,
    the_site_changed_it_as_it_was_applied,
]


@pytest.mark.parametrize("change", [WRITE, *REMOVALS])
@pytest.mark.parametrize("between", BETWEEN)
def test_what_was_told_and_not_applied_is_fetched(world, between, change):
    world.inbound.feed(1, [change], now=0.0)
    between(world)
    assert world.inbound.dirty == {KEY: False}
    assert world.inbound.take(1) == {KEY: False}
    assert world.inbound.in_progress == 1


def not_whole(world):
    world.whole = False


def busy(world):
    world.busy.add(KEY)


def dirty(world):
    world.inbound.mark_dirty([KEY])


def fetching(world):
    dirty(world)
    world.inbound.take(1)


def newer_known(world):
    world.inbound.pushed([KEY], 7)


@pytest.mark.parametrize("reason", [not_whole, busy, dirty, fetching, newer_known])
def test_what_may_be_old_news_is_left_to_its_events(world, reason):
    reason(world)
    world.inbound.feed(7, [StringSet(KEY, b"v")], now=0.0)
    assert world.inbound.take_fed(1) == {}
    assert len(world.remote) == 0


def test_what_is_told_of_others_or_is_not_replicated_is_not_taken():
    world = World(frozenset({"set"}))
    world.inbound.feed(1, [StringSet(b"else", b"v"), HashSet(KEY, {b"f": b"1"}), Deleted(OTHER)], now=0.0)
    assert world.inbound.in_progress == 0


def test_so_much_is_told_and_the_rest_fetched(world):
    world.inbound.feed(1, [StringSet(b"ns:%d" % number, b"v") for number in range(1500)], now=0.0)
    assert len(world.inbound.take_fed(9999)) == 1000
    assert world.inbound.dirty == {}  # they are left to their events


def test_more_news_of_a_key_that_is_applied_as_it_was_told_waits_for_that(world):
    world.inbound.feed(1, [StringSet(KEY, b"1")], now=0.0)
    world.inbound.take_fed(1)
    world.inbound.feed(2, [StringSet(KEY, b"2")], now=0.0)
    assert world.inbound.take_fed(1) == {}
    world.inbound.about_to_apply(KEY, [StringSet(KEY, b"1")])
    world.inbound.applied([KEY], 1, 0.0)
    assert world.inbound.take_fed(1) == {}  # until its echo has come
    world.local.consume(KEY, StringSet(KEY, b"1"))
    assert world.inbound.take_fed(1) == {KEY: [StringSet(KEY, b"2")]}


# What is fetched.


def test_a_key_is_in_one_place_at_a_time(world):
    keys = [b"ns:%d" % number for number in range(4)]
    world.inbound.mark_dirty(keys)
    world.busy.add(keys[0])
    world.local.expect(keys[1], b"x", math.inf)
    assert world.inbound.take(9) == {keys[2]: False, keys[3]: False}
    world.inbound.mark_dirty([keys[2]])
    assert world.inbound.take(9) == {}
    assert world.inbound.dirty.keys() == set(keys[:3])


def test_keys_that_cannot_be_fetched_now_do_not_stand_in_the_way_of_others(world):
    world.busy |= {b"ns:%d" % number for number in range(10)}
    world.inbound.mark_dirty([*(b"ns:%d" % number for number in range(10)), KEY])
    taken = [world.inbound.take(2) for _ in range(6)]
    assert [one for one in taken if one] == [{KEY: False}]


@pytest.mark.parametrize("suspect", [False, True])
@pytest.mark.parametrize("void", ["changed", "busy", "epoch", "put_back", "not applied", "no room"])
def test_what_was_fetched_is_void_if_the_key_may_have_changed_and_is_fetched_again(suspect, void):
    world = World()
    (world.inbound.suspect if suspect else world.inbound.mark_dirty)([KEY])
    assert world.inbound.take(1) == {KEY: suspect}
    match void:
        case "changed":
            world.inbound.changed_at_site([KEY])
        case "busy":
            world.busy.add(KEY)
        case "epoch":
            world.epoch += 1
        case "put_back":
            world.inbound.put_back([KEY])
        case "not applied":
            world.inbound.about_to_apply(KEY, [StringSet(KEY, b"a")])
            world.inbound.not_applied([KEY])
        case "no room":
            for number in range(100):
                world.local.expect(b"%d" % number, b"x", math.inf)
            assert not world.inbound.about_to_apply(KEY, [StringSet(KEY, b"a")])
    if void in {"changed", "busy", "epoch"}:
        assert world.inbound.fetched({KEY: A}) == {}
        assert world.inbound.counters.stale == 1
    overtaken = OVERTAKEN if suspect and void == "changed" else 0
    assert world.inbound.dirty == {KEY: suspect | overtaken}
    assert not world.local.holds(KEY)
    world.busy.clear()
    world.local.void_all()
    assert world.inbound.take(1) == {KEY: suspect}
    assert world.inbound.fetched({KEY: A}) == {KEY: A}
    assert world.inbound.compares == suspect


def test_a_suspect_key_is_compared_whatever_else_was_heard_of_it(world):
    world.inbound.feed(1, [StringSet(KEY, b"v")], now=0.0)
    world.inbound.suspect([KEY, b"else"])
    assert (world.inbound.in_progress, world.inbound.take_fed(1)) == (1, {})
    world.inbound.mark_dirty([KEY])
    world.inbound.events([(KEY, b"set")])
    assert world.inbound.dirty == {KEY: SUSPECT | ANNOUNCED}
    assert world.inbound.compares
    assert world.inbound.take(1) == {KEY: True}
    assert world.inbound.compares
    world.inbound.mark_dirty([KEY])
    world.inbound.put_back([KEY])
    assert world.inbound.dirty == {KEY: SUSPECT | ANNOUNCED}
    world.inbound.take(1)
    world.inbound.about_to_apply(KEY, [])
    assert not world.inbound.compares


# A hash whose fields the site writes all the time.


def test_of_a_hash_that_the_site_changes_the_other_fields_are_taken(world):
    world.changing[KEY] = {b"own"}
    world.inbound.mark_dirty([KEY])
    assert world.inbound.take(1) == {KEY: False}
    world.inbound.changed_at_site([KEY], {b"more": b"v"})
    world.changing[KEY] = {b"more"}
    assert world.inbound.fetched({KEY: A}) == {KEY: A}
    assert world.inbound.is_current(KEY)
    assert set(world.inbound.own_fields(KEY)) == {b"own", b"more"}
    world.inbound.about_to_apply(KEY, [])
    assert world.inbound.dirty == {KEY: False}  # what the hub holds for the site's own fields was left out


@pytest.mark.parametrize("suspect", [False, True])
@pytest.mark.parametrize("news", ["rest", "event", "dirty", "suspect"])
def test_it_is_fetched_again_once_it_rests_or_there_are_news_of_it(news, suspect):
    world = World()
    world.changing[KEY] = {b"own"}
    (world.inbound.suspect if suspect else world.inbound.mark_dirty)([KEY])
    world.inbound.take(1)
    world.inbound.about_to_apply(KEY, [])
    assert world.inbound.take(1) == {}
    match news:
        case "rest":
            world.changing.clear()
        case "event":
            world.inbound.events([(KEY, b"hset")])
        case "dirty":
            world.inbound.mark_dirty([KEY])
        case "suspect":
            world.inbound.suspect([KEY])
    assert world.inbound.take(1) == {KEY: suspect or news == "suspect"}


@pytest.mark.parametrize("suspect", [False, True])
def test_a_key_that_is_suspected_while_it_is_fetched_is_compared_with_the_ancestor(world, suspect):
    """A fetch that began before would be applied as it is."""
    (world.inbound.suspect if suspect else world.inbound.mark_dirty)([KEY])
    world.inbound.take(1)
    world.inbound.suspect([KEY])
    assert bool(world.inbound.fetched({KEY: A})) == suspect
    assert world.inbound.dirty == {KEY: SUSPECT if suspect else SUSPECT | ANNOUNCED}


@pytest.mark.parametrize("then", ["event", "told", "dirty", "event while it is fetched", "not"])
@pytest.mark.parametrize("found", ["before", "after", "not"])
def test_it_is_known_whether_the_hub_announced_a_key_that_a_comparison_found(world, found, then):
    """Whichever came first, and whatever becomes of a fetch."""
    assert not world.inbound.is_announced(KEY)
    world.inbound.suspect([KEY] if found == "before" else ())
    match then:
        case "event":
            world.inbound.events([(KEY, b"set")])
        case "told":
            world.inbound.feed(1, [StringSet(KEY, b"v")], now=0.0)
            world.inbound.events([(KEY, b"set")])
        case "dirty":
            world.inbound.mark_dirty([KEY])
        case "event while it is fetched":
            world.inbound.take(1)
            world.inbound.events([(KEY, b"set")])
            world.inbound.put_back([KEY] if found == "before" else ())
    world.inbound.suspect([KEY] if found == "after" else ())
    if then == found == "not" or (then == "told" and found == "not"):
        assert world.inbound.take(1) == {}  # nothing is fetched
        return
    assert world.inbound.take(1) == {KEY: found != "not"}
    announced = then != "not" and (then, found) != ("dirty", "before")
    assert world.inbound.is_announced(KEY) == announced
    world.inbound.put_back([KEY])
    assert world.inbound.take(1) == {KEY: found != "not"}
    assert world.inbound.is_announced(KEY) == announced


@pytest.mark.parametrize("when", ["before it is found", "dirty", "fetched"])
def test_what_the_site_has_written_since_a_comparison_found_it_is_not_undecided(world, when):
    world.inbound.comparison_begins()
    if when == "before it is found":
        world.inbound.changed_at_site([KEY])
    world.inbound.suspect([KEY])
    if when == "dirty":
        world.inbound.changed_at_site([KEY])
    world.inbound.take(1)
    if when == "fetched":
        world.inbound.changed_at_site([KEY], [b"f"])
    for _ in range(2):
        assert world.inbound.undecided == (when == "before it is found")
        world.inbound.put_back([KEY])
    world.inbound.suspect([OTHER])
    assert world.inbound.undecided
    world.inbound.take(2)
    world.inbound.about_to_apply(OTHER, [])
    world.inbound.comparison_begins()
    assert world.inbound.undecided
    world.inbound.about_to_apply(KEY, [])
    assert not world.inbound.undecided


def test_events_of_applies_that_nobody_waits_for_any_more_may_still_come(world):
    """The site was subscribed to anew."""
    world.following.follow_events(lambda _change: ())
    world.inbound.unanswered([KEY], math.inf)
    world.inbound.tick(100.0)
    assert world.inbound.may_be_echo(KEY)
    world.inbound.tick(115.0)
    assert world.inbound.may_be_echo(KEY)
    world.inbound.tick(116.0)
    assert not world.inbound.may_be_echo(KEY)


def test_an_event_that_is_overdue_may_still_come_and_is_no_clients(world):
    """A value that we applied long ago would be pushed over a newer one of the hub."""
    world.following.follow_events(lambda _change: [b"set"])
    world.inbound.mark_dirty([KEY])
    world.inbound.take(1)
    assert world.inbound.about_to_apply(KEY, [StringSet(KEY, b"of the hub")])
    world.inbound.applied([KEY], 0, 0.0)
    world.inbound.tick(15.0)
    assert world.local.holds(KEY)
    world.inbound.tick(16.0)
    assert world.inbound.dirty == {KEY: True}
    assert world.inbound.may_be_echo(KEY)


@pytest.mark.parametrize("by_events", [False, True])
def test_the_event_of_a_client_may_have_been_taken_for_that_of_an_apply_that_did_not_happen(world, by_events):
    """A client wrote between our reading and our writing; its value was never looked at, and is compared now."""
    if by_events:
        world.following.follow_events(lambda _change: [b"set"])
    world.inbound.mark_dirty([KEY])
    world.inbound.take(1)
    assert world.inbound.about_to_apply(KEY, [StringSet(KEY, b"of the hub")])
    assert world.local.consume(KEY, b"set") == by_events
    world.inbound.not_applied([KEY])
    assert world.inbound.dirty == {KEY: SUSPECT | ANNOUNCED if by_events else 0}
    assert not world.local.holds(KEY)


@pytest.mark.parametrize("change", ["whole key", "other fields wait", "the key waits", "too many"])
def test_more_than_known_fields_is_stale(world, change):
    world.changing[KEY] = {b"own"}
    world.inbound.mark_dirty([KEY])
    world.inbound.take(1)
    match change:
        case "whole key":
            world.inbound.changed_at_site([KEY])
        case "other fields wait":
            world.changing[KEY] = {b"own", b"unheard of"}
        case "the key waits":
            world.busy.add(KEY)
        case "too many":
            world.inbound.changed_at_site([KEY], [b"%d" % number for number in range(5000)])
    assert world.inbound.fetched({KEY: A}) == {}
    assert world.inbound.dirty == {KEY: False}
    assert not world.inbound.own_fields(KEY)


def test_a_hash_with_too_many_fields_on_their_way_waits(world):
    world.changing[KEY] = {b"%d" % number for number in range(5000)}
    world.inbound.mark_dirty([KEY])
    assert world.inbound.take(1) == {}


def test_what_was_told_of_other_fields_is_applied_and_the_key_is_done_with(world):
    world.inbound.feed(1, [WRITE], now=0.0)
    world.inbound.take_fed(1)
    world.inbound.changed_at_site([KEY], {b"own": b"v"})
    assert world.inbound.is_current(KEY)
    assert set(world.inbound.own_fields(KEY)) == {b"own"}
    world.inbound.about_to_apply(KEY, [WRITE])
    world.inbound.applied([KEY], 1, 0.0)
    assert (world.inbound.dirty, world.inbound.in_progress) == ({}, 0)


# What is applied.


def test_what_is_equal_or_refused_is_done_with(world):
    world.inbound.mark_dirty([KEY, OTHER])
    world.inbound.take(2)
    assert not world.inbound.about_to_apply(KEY, [])
    world.inbound.about_to_apply(OTHER, [StringSet(OTHER, b"a")])
    world.inbound.refused(OTHER, "WRONGTYPE")
    counters = world.inbound.counters
    assert (counters.equal, counters.failed, world.inbound.in_progress) == (1, 1, 0)
    assert len(world.local) == 0


@pytest.mark.parametrize("suspect", [False, True])
def test_what_the_hub_says_of_a_key_while_the_site_refuses_it_is_looked_at(world, suspect):
    """That may be a value which the site takes; else it would wait for the turn of this key."""
    world.inbound.mark_dirty([KEY])
    world.inbound.take(1)
    world.inbound.about_to_apply(KEY, [StringSet(KEY, b"a")])
    world.inbound.suspect([KEY]) if suspect else world.inbound.events([(KEY, b"set")])
    world.inbound.refused(KEY, "WRONGTYPE")
    assert world.inbound.take(1) == {KEY: suspect}
    assert not world.inbound.about_to_apply(KEY, [])
    assert not world.inbound.refusals


def test_the_echo_of_an_apply_is_expected_as_far_as_it_will_show():
    world = World(frozenset({"set", "hset"}))
    world.inbound.mark_dirty([KEY])
    world.inbound.take(1)
    changes = [Deleted(KEY), HashSet(KEY, {b"f": b"v"}), ExpirySet(KEY, 5)]
    assert world.inbound.about_to_apply(KEY, changes)
    assert len(world.local) == 1
    assert world.local.consume(KEY, changes[1])


def test_fields_that_expire_are_seen_as_their_values_and_then_as_changed(world):
    """That is how the stream tells of the commands that set them."""
    world.inbound.mark_dirty([KEY])
    world.inbound.take(1)
    assert world.inbound.about_to_apply(KEY, [HashSet(KEY, {b"f": TimedValue(b"v", 5), b"g": b"v"})])
    for shown in (HashSet(KEY, {b"f": b"v", b"g": b"v"}), HashSet(KEY, {b"f": None})):
        assert world.local.consume(KEY, shown)
    assert len(world.local) == 0


def test_a_client_between_our_apply_and_its_echo_is_a_conflict(world):
    world.local.expect(KEY, StringSet(KEY, b"ours"), math.inf)
    world.inbound.changed_at_site([KEY, OTHER])
    assert (world.inbound.counters.conflicts, world.inbound.dirty) == (1, {KEY: False})


def test_what_does_not_come_is_given_up_and_its_key_looked_at(world):
    world.remote.expect(KEY, b"set", 5.0)
    world.inbound.tick(5.0)
    assert world.inbound.dirty == {}
    world.inbound.tick(5.1)
    assert world.inbound.dirty == {KEY: True}


def test_a_new_link_to_the_hub_voids_what_was_expected_of_the_old_one(world):
    world.remote.expect(KEY, b"set", math.inf)
    world.inbound.pushed([OTHER], math.inf)  # nobody knows when: nothing is news
    world.inbound.resubscribed()
    assert (world.inbound.dirty, len(world.remote)) == ({KEY: True}, 0)
    world.inbound.feed(1, [StringSet(OTHER, b"v")], now=0.0)
    assert world.inbound.take_fed(1) == {OTHER: [StringSet(OTHER, b"v")]}
