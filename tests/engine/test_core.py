"""What each event of a link, and each difference that is found, comes to."""

from __future__ import annotations

import json
import math
from itertools import product

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import KINDS, Deleted, HashSet, HashState, Invalidated, StringSet
from redisrepl.engine import refusals
from redisrepl.engine.continuity import SIDES, Continuity, Event, SideState
from redisrepl.engine.core import Core, CoreOptions
from redisrepl.engine.losers import ConflictLoss
from redisrepl.engine.losses import Findings, Losses, agreed_since
from redisrepl.engine.places import Seen
from redisrepl.engine.plans import Plan
from redisrepl.engine.seen import Ring
from redisrepl.engine.streamedkeys import NEVER, StreamedKeys
from redisrepl.engine.winners import Lost, Ruling
from redisrepl.wire.digests import digest_of, element_of
from redisrepl.wire.writes import MOVED
from tests.engine.sides import KEY, ancestor_of, hash_, string

OTHER = b"ns:other"
A, B, C = string("a"), string("b"), string("c")
REPLACE = Invalidated(KEY, replaces=True)
INF = math.inf


def covers(key):
    return key.startswith(b"ns:")


def core_of(kinds=KINDS, site=None, hub=None, *, behind=False, **options):
    """A core whose links are up and settled, unless told otherwise."""
    core = Core(covers, kinds, 0, CoreOptions(**options), continuity=Continuity(settled(site), settled(hub), behind))
    core.lost = []
    core.losers._keep = core.lost.append
    return core


def settled(state):
    return state or SideState(followed=True, judged=True, settled=True)


def doubted(core):
    """Keys in doubt, and what is known to be pushed of them."""
    return core.outbound.doubtful.take(100, 1 << 20)


# Links.


def test_what_was_seen_counts_up_to_a_number_though_no_change_is_remembered():
    assert Core(covers, ring=Ring((), 7)).record.ring.number == 7


def test_a_link_is_known_once_it_is_judged():
    core = Core(covers)
    assert not core.continuity.known
    core.site_attached()
    core.hub_heard()
    core.judged("site", Event.RESUMED)
    assert not core.continuity.known
    core.judged("hub", Event.FIRST, "first contact")
    assert core.continuity.known
    core.site_lost(8)
    assert not core.continuity.known


def test_keys_in_doubt_wait_until_the_sites_history_is_known():
    core = Core(covers)
    core.outbound.doubt(KEY)
    assert core.outbound.ready == 1  # at first contact there is none
    core.site_lost(8)
    core.differs("site", [KEY])
    core.inbound.take(1)
    core.outbound.doubt(KEY)
    assert core.outbound.ready == 0
    core.site_attached()
    assert core.outbound.take(1, 1).changes == ()
    core.judged("site", Event.RESUMED)
    assert list(core.outbound.take(1, 1).changes) == [REPLACE]


@pytest.mark.parametrize("happens", ["site_lost", "site_attached", "hub_heard"])
def test_work_that_was_begun_before_is_void(happens):
    core = core_of()
    core.inbound.mark_dirty([KEY])
    assert core.inbound.take(1) == {KEY: False}
    getattr(core, happens)(*([8] if happens == "site_lost" else []))
    assert core.inbound.fetched({KEY: A}) == {}
    assert core.inbound.dirty == {KEY: False}


def test_what_was_expected_of_a_link_is_void_with_it():
    core = core_of()
    core.expected_remote.expect(KEY, b"set", INF)
    core.expected_local.expect(OTHER, b"set", INF)
    core.hub_heard()
    assert core.inbound.dirty == {KEY: True}
    core.site_attached()
    assert core.inbound.dirty == {KEY: True, OTHER: True}
    assert len(core.expected_local) == len(core.expected_remote) == 0


@pytest.mark.parametrize("side", ["site", "hub"])
def test_for_what_found_no_room_both_sides_are_compared(side):
    """A key that a comparison of one side found may be like the ancestor on the other, which shows nothing then."""
    core = core_of(max_keys=1)
    if side == "hub":
        core.inbound.mark_dirty([KEY, OTHER])
    else:
        core.outbound.pending.add(Invalidated(KEY))
        core.outbound.pending.add(Invalidated(OTHER))
    core.overdue(0.0)
    assert core.continuity.hub.owed == core.continuity.site.owed
    assert core.continuity.hub.owed is not None
    assert core.continuity.of(side).missed
    assert not core.continuity.of("site" if side == "hub" else "hub").missed


def test_what_found_no_room_is_compared_and_the_position_waits_for_that():
    core = core_of(max_keys=1)
    core.outbound.pending.resume_at(7, 0)
    core.inbound.mark_dirty([KEY, OTHER])
    core.outbound.pending.add(Invalidated(KEY))
    core.outbound.pending.add(Invalidated(OTHER))
    core.overdue(0.0)

    assert core.continuity.hub.owed == "more keys changed at the hub than --max-keys"
    assert core.continuity.site.owed == "more keys changed at the hub than --max-keys"  # the first reason is told
    assert core.continuity.site.missed
    assert not any((core.inbound.take_left_out(), core.outbound.take_left_out()))
    assert core.outbound.acknowledged == 0
    core.continuity.begin("site")
    core.outbound.pending.add(Invalidated(b"ns:again"))
    core.overdue(0.0)
    core.compared(["site"])  # in the middle of which more was left out
    assert core.outbound.acknowledged == 0
    core.continuity.begin("site")
    core.compared(["site"])
    assert core.outbound.acknowledged == 7


def test_once_a_clock_was_set_nothing_counts_that_was_read_before_and_both_sides_are_compared():
    core = core_of()
    epoch = core.continuity.epoch
    core.clock_was_set(frozenset({7}))
    assert core.continuity.epoch > epoch
    assert core.continuity.site.owed == core.continuity.hub.owed == "the clock of a server was set"
    assert (core.policy.off_by, core.policy.kinds, core.policy.winner) == ({7}, KINDS, "hub")
    assert core_of(off_by=frozenset({7})).policy.off_by == {7}


def test_a_flush_of_the_site_is_no_gap_and_is_compared():
    core = core_of()
    epoch = core.continuity.epoch
    core.outbound.read([[b"FLUSHDB"]], 7)
    assert core.outbound.acknowledged == 0
    core.overdue(0.0)

    assert (core.continuity.site.owed, core.continuity.site.flushed) == ("the site was flushed", True)
    assert core.continuity.epoch == epoch
    assert core.outbound.acknowledged == 0
    core.continuity.begin("site")
    core.compared(["site"])
    assert core.outbound.acknowledged == 7


def test_time_makes_expected_events_overdue():
    core = core_of()
    core.expected_remote.expect(KEY, b"set", 5.0)
    core.overdue(4.0)
    assert core.inbound.dirty == {}
    core.overdue(6.0)
    assert core.inbound.dirty == {KEY: True}


# What comparisons find.


@pytest.mark.parametrize(
    ("side", "pulls", "winner", "suspect", "doubt", "pushed"),
    [
        ("site", True, "hub", {KEY: True}, [], []),
        ("hub", True, "site", {KEY: True}, [], []),
        ("site", False, "site", None, [REPLACE], []),
        ("site", False, "hub", None, [REPLACE], []),
        ("hub", False, "hub", None, [REPLACE], []),
        ("hub", False, "site", None, [], [Invalidated(KEY)]),
    ],
)
def test_what_differs(side, pulls, winner, suspect, doubt, pushed):
    core = core_of(pulls=pulls, winner=winner)
    core.differs(side, [KEY])
    assert (core.inbound.dirty if pulls else None) == suspect
    assert core.outbound.pending.take(1, 1) == pushed
    assert doubted(core) == doubt


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (StringSet(KEY, b"v"), []),
        (Invalidated(KEY), []),
        (Deleted(KEY), []),
        (HashSet(KEY, {b"f": b"v"}), [Invalidated(KEY)]),
    ],
)
def test_what_differs_while_it_is_on_its_way_is_pushed_again_only_if_that_is_a_part_of_it(change, again):
    core = core_of(pulls=False, winner="site")
    pending = core.outbound.pending
    pending.add(change)
    assert pending.take(1, 1) == [change]
    core.differs("hub", [KEY])
    pending.done([KEY])
    assert pending.take(1, 1) == again


def test_nothing_is_in_doubt_any_more():
    for pulls in (True, False):
        core = core_of(pulls=pulls)
        assert core.quiet
        core.differs("site", [KEY])
        assert not core.quiet
        if pulls:
            core.inbound.take(1)
            assert not core.quiet  # while it is fetched, compared and applied
            core.inbound.fetched({KEY: None})
            core.inbound.about_to_apply(KEY, [])
        else:
            core.outbound.doubtful.take(1, 1)
            assert not core.quiet
            core.outbound.doubtful.done([KEY])
        assert core.quiet


def test_certain_is_what_is_quiet_known_and_settled():
    assert core_of().certain
    for side in ("site", "hub"):
        for state in (
            SideState(followed=True, judged=False, settled=True),
            SideState(followed=True, judged=True, settled=False),
        ):
            assert not core_of(**{side: state}).certain
    core = core_of()
    core.outbound.resume_at(5, 0)
    assert not core.certain
    core.outbound.read_again_to = 0
    core.outbound.doubt(KEY)
    assert not core.certain


# What is to be done with one key.

UNSETTLED = SideState(followed=True, judged=True)


def test_the_ancestor_is_asked_for_what_is_suspect_and_while_the_site_is_not_settled():
    for suspect, site in product((True, False), (None, UNSETTLED)):
        core = core_of(site=site)
        assert core.must_ask(b"ns:k", suspect=suspect) == (suspect or site is UNSETTLED)
        core.outbound.refusals.name(b"ns:k", "NOPERM")
        assert core.must_ask(b"ns:k", suspect=suspect)


EVICTS = SideState(followed=True, judged=True, settled=True, evicts=True)
EMPTIED = SideState(followed=True, judged=True, evicts=True, flushed=True)
WENT_BACK = SideState(followed=True, judged=True, proved=6)
PUSH, APPLY_B, REMOVE = (REPLACE, []), (None, [StringSet(KEY, b"b")]), (None, [Deleted(KEY)])
NOTHING = (None, [])
F_AND_G = hash_(f="1", g="2")


@pytest.mark.parametrize(
    ("states", "site", "hub", "ancestor", "expected"),
    [
        ({}, None, A, A, PUSH),
        ({}, A, None, A, REMOVE),
        ({"kinds": KINDS - {"del"}}, None, B, B, APPLY_B),
        ({"kinds": KINDS - {"del"}}, A, None, A, PUSH),
        # What a server may have evicted, nobody has removed; unless it was emptied on purpose.
        ({"site": EVICTS}, None, A, A, NOTHING),
        ({"site": EVICTS}, A, None, A, REMOVE),
        ({"hub": EVICTS}, A, None, A, NOTHING),
        ({"hub": EVICTS}, None, A, A, PUSH),
        ({"site": EMPTIED}, None, A, A, PUSH),
        ({"hub": EMPTIED}, A, None, A, REMOVE),
        # What was agreed on (as number 7) after what a server has proved to hold.
        ({"site": WENT_BACK}, None, B, B, APPLY_B),
        ({"site": WENT_BACK}, A, B, B, APPLY_B),
        ({"hub": WENT_BACK}, A, None, A, PUSH),
        ({"hub": WENT_BACK}, A, B, A, PUSH),
        ({"site": WENT_BACK, "number": 6}, A, B, B, PUSH),
        ({"hub": WENT_BACK, "number": 6}, A, B, A, APPLY_B),
        ({"site": WENT_BACK}, A, B, None, APPLY_B),  # nothing was agreed on: the policy decides
        # What was agreed on last is not known: what a side lacks may have been gone, and come again on the other.
        ({"behind": True}, None, B, B, APPLY_B),
        ({"behind": True}, A, None, A, PUSH),
        (
            {"behind": True},
            hash_(f="1"),
            hash_(f="1", g="2"),
            hash_(f="1", g="2"),
            (None, [HashSet(KEY, {b"g": b"2"})]),
        ),
    ],
)
def test_what_is_known_of_the_servers_bears_on_the_plan(states, site, hub, ancestor, expected):
    states = dict(states)
    agreed = ancestor_of(ancestor, states.pop("number", 7))
    plan = core_of(**states).plan(KEY, site, hub, agreed, 0.0)
    assert (plan.push, plan.apply) == expected


def test_more_was_agreed_on_than_is_known_until_both_sides_were_compared():
    core = core_of()
    core.continuity.is_behind()
    for side, behind in (("site", True), ("hub", False)):
        core.continuity.begin(side)
        core.compared([side])
        assert core.continuity.behind is behind


@pytest.mark.parametrize(("value", "pushed"), [("b", True), ("a", False)])
def test_what_the_site_was_seen_to_write_after_the_agreement_did_not_go_back(value, pushed):
    core = core_of(site=WENT_BACK)
    core.record.ring = Ring((), 7)
    core.record.ring.add(8, [StringSet(KEY, b"b")])
    plan = core.plan(KEY, string(value), C, ancestor_of(C, 7), 0.0)
    assert (plan.push == REPLACE) == pushed
    core.record.ring = Ring((), 6)
    core.record.ring.add(8, [StringSet(KEY, value.encode())])  # before it
    assert core.plan(KEY, string(value), C, ancestor_of(C, 7), 0.0).push is None


def test_where_each_key_was_told_of_is_known_though_much_is_read_at_once():
    """Else all that came with what a new master lacks would count as what it may lack."""
    core = core_of()
    core.outbound.streamed_from(0)
    keys = [b"ns:%d" % number for number in range(100)]
    core.outbound.read([[b"SET", key, b"v"] for key in keys], 1000, range(10, 1001, 10))
    told = core.outbound.recent.streamed_keys
    assert told.later_than(320) == set(keys[32:])  # a piece is 32 commands
    assert told.later_than(330) == set(keys[32:])
    assert told.later_than(960) == set(keys[96:])
    assert told.later_than(1000) == set()
    assert core.following.read_to == 1000


def went_back(kept_to, known_to=math.inf):
    """A site that had told of A, then of `OTHER`, and proves to hold what was agreed up to 5 of 8."""
    core = core_of()
    core.outbound.streamed_from(0)
    core.outbound.read([[b"SET", KEY, b"a"]], 9)
    core.record.saw(5)
    core.outbound.read([[b"SET", OTHER, b"a"]], 20)
    core.record.saw(8)
    core.site_lost(8)
    core.site_attached()
    core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=5, kept_to=kept_to, known_to=known_to))
    return core


@pytest.mark.parametrize(("kept_to", "newer"), [(9, {b"old"}), (8, set())])
def test_of_a_hash_the_fields_are_newer_of_which_a_replica_that_took_over_has_all(kept_to, newer):
    """Though another field was agreed on after it was saved what the stream had told of."""
    core = core_of()
    core.outbound.streamed_from(0)
    core.outbound.read([[b"HSET", KEY, b"old", b"v"]], 9)
    core.record.saw(7)
    core = gone_and_begun_again(core)
    agreed = {KEY: {b"old": 7, b"new": 9}}
    core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=5, kept_to=kept_to, agreed=agreed, number=9))
    assert pushed_of_hash(core, 9) == newer


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize(("agreed", "newer"), [({KEY: {b"old": 6, b"new": 7}}, {b"new"}), (None, set())])
def test_a_field_that_a_new_master_missed_is_older_though_another_was_agreed_on_since(agreed, newer, restarts):
    """Of the key as a whole, only the last agreement is known."""
    core = core_of()
    core.outbound.streamed_from(0)
    core.outbound.read([[b"SET", b"ns:first", b"v"]], 9)
    core.record.saw(5)
    core.record.applies(6, 20.0)
    core.site_lost(8)
    core.site_attached()
    core.judged("site", Event.WENT_BACK, "failover", Findings(proved=5, kept_to=10, agreed=agreed, number=8))
    assert pushed_of_hash(after_restarts(core, restarts), 7) == newer


@pytest.mark.parametrize("streamed", [True, False])
def test_what_is_agreed_on_counts_from_where_the_stream_is_read(streamed):
    """Not from where it was read in another link, nor while nobody reads it: a replica may take over from before."""
    core = core_of()
    core.outbound.read([[b"SET", KEY, b"a"]], 9)
    core.site_attached()
    if streamed:
        core.outbound.streamed_from(50)
    else:
        core.following.read_to = 0
    core.judged("site", Event.GAP, "overrun")
    for _ in range(2):
        core.record.saw(5)
    assert [core.record.ring.number_at(offset) for offset in (49, 50)] == [0, 5 * streamed]


HASH = HashState({b"old": b"v", b"new": b"site"})


@pytest.mark.parametrize(
    ("agreed", "waiting", "older"),
    [
        ({KEY: {b"old": 7}}, None, {b"old"}),
        ({KEY: {None: 7}}, None, {b"old", b"new"}),
        ({OTHER: {None: 7}}, None, set()),
        ({}, [b"HSET", KEY, b"new", b"v"], {b"new"}),  # it was about to be agreed
        (None, None, {b"old", b"new"}),
    ],
)
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_field_that_was_not_agreed_on_since_did_not_go_back(agreed, waiting, older, restarts):
    """Whenever the rest of its hash was."""
    core = core_of()
    core.record.ring = Ring((), 7)
    if waiting:
        core.outbound.read([waiting], 9)
    core.site_lost(8)
    core.site_attached()
    core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=6, agreed=agreed, number=8))
    core = after_restarts(core, restarts)
    assert pushed_of_hash(core) == HASH.fields.keys() - older


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize(("kept_to", "pushed"), [(9, {b"old", b"new"}), (8, {b"old"})])
def test_what_waited_is_not_lost_if_the_site_has_what_its_stream_told_before(kept_to, pushed, restarts):
    """Though it was agreed on after all that is known of the stream."""
    core = core_of()
    core.record.ring = Ring((), 7)
    core.outbound.streamed_from(1, "ours")
    core.outbound.read([[b"HSET", KEY, b"new", b"v"]], 9)
    core.site_lost(8)
    core.site_attached()
    findings = Findings(proved=6, agreed={}, number=8, kept_to=kept_to, known_to=7)
    core.judged("site", Event.WENT_BACK, "restarted", findings)
    assert pushed_of_hash(after_restarts(core, restarts), number=9) == pushed


def pushed_of_hash(core, number=7):
    hub = HashState({b"old": b"hub", b"new": b"hub"})
    plan = core.plan(KEY, HASH, hub, ancestor_of(hub, number), 0.0)
    return set(plan.push.fields) if plan.push else set()


@pytest.mark.parametrize(
    ("held", "value", "pushed"),
    [
        (A, "a", False),  # as it was when it came back: older than what was agreed on
        (A, "new", True),
        (None, "new", True),
        (A, None, True),  # a client has removed it since
        (None, None, False),
    ],
)
@pytest.mark.parametrize("restarts", [0, 1])
def test_what_a_site_did_not_hold_when_it_was_judged_is_newer(held, value, pushed, restarts):
    """Though nobody saw it being written, and what was there before is not known."""
    core = core_of()
    core.record.ring = Ring((), 7)
    core.site_lost(8)
    core.site_attached()
    agreed = {KEY: {None: 7}}
    at = {(KEY, None): digest_of(KEY, held)}
    core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=6, agreed=agreed, held=at, number=8))
    core = after_restarts(core, restarts)
    plan = core.plan(KEY, value and string(value), C, ancestor_of(C, 7), 0.0)
    assert bool(plan.push) == pushed
    assert bool(plan.apply) == (not pushed)
    core.site_lost(8)
    core.site_attached()
    core.judged("site", Event.WENT_BACK, "again", Findings(proved=5, agreed=agreed, number=9))
    assert core.plan(KEY, value and string(value), C, ancestor_of(C, 7), 0.0).push is None


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize(
    ("value", "later", "pushed"),
    [
        ("agreed", (), False),  # what was agreed on there last, or since
        ("since", (), False),
        ("new", (), True),
        ("told", (), False),  # what the stream told of since
        ("new", [[b"SET", b"ns:other", b"v"]], True),
        ("new", [[b"SET", b"ns:other", b"%d" % n] for n in range(2000)], False),  # more than is remembered
        ("new", [[b"SET", b"ns:other", b"%d" % n] for n in range(1020)], False),
        ("new", [[b"APPEND", KEY, b"v"]], False),
        (None, (), False),  # it may have been removed before it was lost
    ],
)
def test_what_a_site_never_held_since_all_was_agreed_on_is_newer(value, later, pushed, restarts):
    core = core_of()
    core.record.ring = Ring((), 5)
    core.outbound.read([[b"SET", KEY, b"told"]], 10)
    core.site_lost(8)
    core.site_attached()
    values = ("agreed", "since")
    findings = Findings(
        proved=6,
        agreed={KEY: {None: 7}},
        since={(KEY, None): {digest_of(KEY, string(one)) for one in values}},
        number=8,
    )
    core.judged("site", Event.WENT_BACK, "restarted", findings)
    if later:
        core.outbound.read(later, 20)
        core.site_lost(8)
        core.site_attached()
        core.judged("site", Event.GAP, "overrun")
    core = after_restarts(core, restarts)
    plan = core.plan(KEY, value and string(value), C, ancestor_of(C, 7), 0.0)
    assert bool(plan.push) == pushed
    assert bool(plan.apply) == (not pushed)


@pytest.mark.parametrize(
    ("suspects", "held", "value", "pushed"),
    [
        ({}, {}, "new", True),  # nothing of it was in doubt when the site had gone back for the first time
        ({}, {}, "settled", False),
        ({KEY: {None: 7}}, {}, "new", False),  # it was, and nobody knows what was there
        ({KEY: {None: 7}}, {(KEY, None): digest_of(KEY, string("held"))}, "new", True),
        ({KEY: {None: 7}}, {(KEY, None): digest_of(KEY, string("held"))}, "held", False),
        ({KEY: {b"f": 7}}, {}, "new", False),
        (None, {}, "new", False),
    ],
)
def test_what_a_site_that_went_back_again_held_meanwhile_is_known(suspects, held, value, pushed):
    core = core_of()
    core.site_lost(8)
    core.site_attached()
    core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=6, agreed=suspects, held=held, number=8))
    assert core.record.ring.agreed_by(8) == 8
    assert core.record.ring.agreed_by(7) is None
    core.site_lost(9)
    core.site_attached()
    since = {(KEY, None): {digest_of(KEY, string("settled"))}}
    agreed = {KEY: {None: 9}}
    core.judged("site", Event.WENT_BACK, "again", Findings(proved=8, agreed=agreed, since=since, number=10))
    plan = core.plan(KEY, string(value), C, ancestor_of(C, 9), 0.0)
    assert bool(plan.push) == pushed
    assert bool(plan.apply) == (not pushed)


@pytest.mark.parametrize("place", [(KEY, b"f"), (KEY, b"other")])
@pytest.mark.parametrize("suspects", [{KEY: {b"f": 7}}, {KEY: {None: 7}}])
def test_of_a_hash_a_field_is_known_that_was_in_no_doubt(place, suspects):
    core = core_of()
    core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=6, agreed=suspects, number=8))
    core.judged("site", Event.WENT_BACK, "again", Findings(proved=8, since={place: {1}}, number=10))
    assert (place in core.losses._since) == (suspects == {KEY: {b"f": 7}} and place == (KEY, b"other"))


def test_what_was_agreed_on_by_a_number_and_since():
    history = [
        *(Seen(1, KEY, None, 1), Seen(2, KEY, None, 2), Seen(2, KEY, b"f", 3), Seen(3, KEY, None, None)),
        *(Seen(4, b"other", None, 4), Seen(4, KEY, b"late", 5), Seen(5, KEY, None, 6)),
    ]
    places = {(KEY, None), (KEY, b"f"), (KEY, b"late"), (b"none", None)}
    assert agreed_since(places, history, 3) == {(KEY, None): {2, None, 6}, (KEY, b"f"): {3}}


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_field_that_a_site_did_not_hold_when_it_was_judged_is_newer(restarts):
    core = core_of()
    core.site_lost(8)
    core.site_attached()
    held = {(KEY, b"old"): element_of(b"old", b"v"), (KEY, b"new"): element_of(b"new", b"v")}
    agreed = {KEY: {b"old": 7, b"new": 7}}
    core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=6, agreed=agreed, held=held, number=8))
    core = after_restarts(core, restarts)
    assert pushed_of_hash(core) == {b"new"}


@pytest.mark.parametrize("event", [Event.WENT_BACK, Event.RESTARTED, Event.GAP])
def test_what_a_site_did_after_it_went_back_is_newer_than_what_was_agreed_before(event):
    """Even if it is lost again meanwhile."""
    core = core_of()
    core.record.ring = Ring((), 6)
    core.outbound.read([[b"HSET", KEY, b"old", b"v", b"new", b"v"]], 9)
    core.site_lost(8)
    core.site_attached()
    core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=6, agreed={KEY: {None: 7}}, number=8))
    assert pushed_of_hash(core) == set()
    core.outbound.read([[b"HSET", KEY, b"new", b"site"]], 20)
    core.site_lost(8)
    core.site_attached()
    core.judged("site", event, "again", Findings(proved=8, agreed={}, number=9))
    assert pushed_of_hash(core) == {b"new"}


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize(
    ("kept", "again", "newer"), [((KEY, b"new"), None, {b"new"}), (None, None, set()), ((KEY, b"new"), "", set())]
)
def test_what_nobody_had_seen_at_a_place_that_was_kept_is_newer(restarts, kept, again, newer):
    """A client wrote it while the site was not followed, and no agreement need have been made since."""
    core = core_of()
    core.record.ring = Ring((), 7)
    core.outbound.read([[b"HSET", KEY, b"old", b"x", b"new", b"x"]], 9)
    core.site_lost(8)
    for place in (kept, again) if again is not None else (kept,):
        core.site_attached()
        places = frozenset([place] if place else [])
        core.judged(
            "site", Event.WENT_BACK, "restarted", Findings(proved=6, agreed={KEY: {None: 7}}, kept=places, number=8)
        )
    core = after_restarts(core, restarts)
    assert pushed_of_hash(core) == newer


def test_what_was_agreed_since_the_first_time_may_be_lost_after_the_second():
    core = core_of()
    for agreed in ({KEY: {b"old": 7}}, {KEY: {b"new": 7}}):
        core.site_attached()
        core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=6, agreed=agreed, number=8))
    assert pushed_of_hash(core) == set()


# What a hub has that went back.


def hub_gone_back(seen=(), agreed=None):
    """It proves to hold what was agreed up to 6 of 8."""
    core = core_of()
    core.hub_heard()
    core.judged("hub", Event.WENT_BACK, "restarted", Findings(proved=6, agreed=agreed, seen=seen, number=8))
    return core


def seen_of(number, state):
    return Seen(number - 1, KEY, None, digest_of(KEY, state))


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize(
    ("agreed", "seen", "applied"),
    [
        ({KEY: {None: 7}}, [seen_of(5, A), seen_of(7, C)], True),  # B was never there before
        ({KEY: {None: 7}}, [seen_of(5, B), seen_of(7, C)], False),
        ({KEY: {None: 8}}, [seen_of(5, A), seen_of(7, B), seen_of(8, C)], False),
        ({KEY: {None: 7}}, [seen_of(7, C)], False),  # what was there before, nobody knows
        ({KEY: {None: 7}}, [], False),
        ({OTHER: {None: 7}}, [], True),  # nothing of it can be lost
        (None, [], False),
    ],
)
def test_what_nobody_had_seen_at_a_hub_that_went_back_is_newer(restarts, agreed, seen, applied):
    core = hub_gone_back(seen, agreed)
    for _ in range(restarts):
        core = gone_and_begun_again(core)
        core.judged("hub", Event.GAP, "subscribed")
    plan = core.plan(KEY, C, B, ancestor_of(C, 7), 0.0)
    assert (plan.push, plan.apply) == (APPLY_B if applied else PUSH)


@pytest.mark.parametrize("side", ["site", "hub"])
@pytest.mark.parametrize("known", [True, False])
def test_what_a_server_that_went_back_holds_is_kept_unless_it_is_known(side, known):
    core = core_of()
    past = {(KEY, None): {digest_of(KEY, A)}} if known else {}
    core.judged(side, Event.WENT_BACK, "restarted", Findings(1, 9, {KEY: {None: 7}}, past=past))
    site, hub = (A, B) if side == "site" else (B, A)
    plan = core.plan(KEY, site, hub, ancestor_of(B, 7), 0.0)
    assert [lost.value for lost in plan.lost] == ([] if known else [A])


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize(("sent", "newer"), [(A, True), (C, False), (None, False)])
@pytest.mark.parametrize("side", SIDES)
def test_what_a_server_that_went_back_sent_last_without_an_answer_is_newer(side, sent, newer, restarts):
    """The other may have never got it, and still hold what was agreed on before."""
    core = core_of()
    findings = Findings(6, 8, {KEY: {None: 8}}, sent={(KEY, None): {digest_of(KEY, sent)}})
    core.judged(side, Event.WENT_BACK, "restarted", findings)
    core = after_restarts(core, restarts)
    site, hub = (A, B) if side == "site" else (B, A)
    plan = core.plan(KEY, site, hub, ancestor_of(B, 7), 0.0)
    assert ((plan.push, bool(plan.apply)) == (REPLACE, False)) == (newer == (side == "site"))
    assert [lost.value for lost in plan.lost] == ([] if newer else [A])
    core.continuity.begin(side)
    core.compared([side])
    core.judged(side, Event.WENT_BACK, "again", Findings(6, 8, {KEY: {None: 8}}))
    assert core.plan(KEY, site, hub, ancestor_of(B, 7), 0.0).lost  # nothing of the first time bears on it


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize(("sent", "newer"), [(b"v", {b"old"}), (b"another", set())])
def test_a_field_that_was_sent_last_without_an_answer_is_newer(sent, newer, restarts):
    core = core_of()
    findings = Findings(6, 8, {KEY: {b"old": 8, b"new": 7}}, sent={(KEY, b"old"): {element_of(b"old", sent)}})
    core.judged("site", Event.WENT_BACK, "restarted", findings)
    assert pushed_of_hash(after_restarts(core, restarts)) == newer


@pytest.mark.parametrize(("number", "applied"), [(8, False), (9, True)])
@pytest.mark.parametrize("way", ["applied", "pushed"])
def test_what_was_agreed_on_since_the_hub_came_back_it_has(way, number, applied):
    core = hub_gone_back()
    getattr(core, way)(number, [StringSet(KEY, b"c")])
    plan = core.plan(KEY, C, B, ancestor_of(C, number), 0.0)
    assert (plan.push, plan.apply) == (APPLY_B if applied else PUSH)


def test_after_the_hub_has_gone_back_again_nothing_of_the_time_between_counts():
    core = hub_gone_back()
    core.pushed(9, [StringSet(KEY, b"c")])
    core.hub_heard()
    core.judged("hub", Event.WENT_BACK, "again", Findings(proved=8, number=9))
    assert core.plan(KEY, C, B, ancestor_of(C, 9), 0.0).push == REPLACE


@pytest.mark.parametrize("restarts", [0, 1])
@pytest.mark.parametrize("whole", [True, False])
def test_a_site_that_went_back_may_hold_what_was_left_out_of_what_was_seen(whole, restarts):
    core = core_of()
    core.record.ring = Ring()
    core.record.ring.add(5, [StringSet(KEY, b"a")])
    core.record.ring.add(6, [StringSet(KEY, b"c")], whole=whole)
    core.site_lost(8)
    core.site_attached()
    core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=5, agreed={KEY: {None: 7}}, number=8))
    core = after_restarts(core, restarts)
    assert bool(core.plan(KEY, B, C, ancestor_of(C, 7), 0.0).push) == whole


def test_of_a_hash_the_fields_that_were_agreed_on_since_the_hub_came_back_are_newer():
    core = hub_gone_back()
    core.pushed(9, [HashSet(KEY, {b"new": b"hub"})])
    agreed = HashState({b"old": b"hub", b"new": b"hub"})
    hub = HashState({b"old": b"older", b"new": b"newer"})
    plan = core.plan(KEY, agreed, hub, ancestor_of(agreed, 9), 0.0)
    assert plan.push.fields.keys() == {b"old"}
    assert plan.apply == [HashSet(KEY, {b"new": b"newer"})]


def test_what_the_daemon_agreed_on_before_it_died_the_hub_has_too():
    core = gone_and_begun_again(hub_gone_back())
    core.judged("hub", Event.GAP, "subscribed", Findings(agreed={KEY: {None: 9}, OTHER: {None: 8}}))
    for key, applied in ((KEY, True), (OTHER, False)):
        plan = core.plan(key, C, B, ancestor_of(C, 9), 0.0)
        assert (plan.push is None) == applied


def test_a_push_of_unknown_outcome_does_not_tell_what_the_hub_has():
    core = hub_gone_back()
    core.judged("hub", Event.GAP, "subscribed", Findings(agreed={KEY: {None: 9}}))
    ancestor = ancestor_of(C, 9, intents=(digest_of(KEY, A),))
    assert core.plan(KEY, C, B, ancestor, 0.0).push == REPLACE


def test_a_hub_that_was_compared_is_not_older_any_more():
    core = hub_gone_back()
    core.continuity.begin("hub")
    core.compared(["hub"])
    assert core.saved()["hub losses"] is None
    assert core.plan(KEY, C, B, ancestor_of(C, 7), 0.0).apply == [StringSet(KEY, b"b")]


def after_restarts(core, restarts, event=Event.GAP):
    """So many processes later, each of which judged the site so."""
    for _ in range(restarts):
        core = gone_and_begun_again(core)
        core.judged("site", event, "overrun")
    return core


def gone_and_begun_again(core):
    """The same in another process, with what was saved."""
    saved = json.loads(json.dumps(core.saved()))
    again = Core(
        covers,
        continuity=Continuity.load(saved["continuity"]),
        ring=Ring.load(saved),
        losses=Losses.load(saved["losses"]),
        hub_losses=Losses.load(saved["hub losses"], "hub"),
        streamed_keys=StreamedKeys.load(saved),
        refused=saved["refused"],
    )
    again.site_attached()
    return again


@pytest.mark.parametrize(
    ("kept_to", "key", "number", "pushed"),
    [
        (20, KEY, 7, True),
        (20, OTHER, 7, True),  # the new master has all that the stream had told
        (15, KEY, 7, True),
        (15, OTHER, 7, False),  # and may lack this
        (5, KEY, 7, False),
        (20, KEY, 9, False),  # agreed on after the state was saved: the stream may have told of it later
    ],
)
def test_what_the_stream_of_a_replaced_master_had_told_is_known_to_the_next_process(kept_to, key, number, pushed):
    core = core_of()
    core.outbound.streamed_from(0)
    core.outbound.read([[b"SET", KEY, b"a"]], 9)
    core.outbound.read([[b"SET", OTHER, b"a"]], 20)
    core.record.saw(8)
    core = gone_and_begun_again(core)
    findings = Findings(proved=6, kept_to=kept_to, agreed={key: {None: number}}, number=9)
    core.judged("site", Event.WENT_BACK, "restarted", findings)
    for _ in range(2):
        assert bool(core.plan(key, A, C, ancestor_of(C, number, key), 0.0).push) == pushed
        core = gone_and_begun_again(core)
        core.judged("site", Event.GAP, "overrun")


@pytest.mark.parametrize("many", [False, True])
def test_what_was_refused_is_tried_again_after_a_restart_and_needs_no_comparison_unless_it_is_much(many, monkeypatch):
    if many:
        monkeypatch.setattr(refusals, "_SAVED", 0)
    core = core_of()
    core.outbound.given_up(KEY, "NOPERM")
    core.inbound.refused(OTHER, "NOPERM")
    again = gone_and_begun_again(core)
    assert again.continuity.site.settled == (not many)
    again.overdue(0.0)
    assert (KEY in again.outbound.doubtful, OTHER in again.inbound.dirty) == (not many, not many)


@pytest.mark.parametrize("restarts", [0, 1, 2])
@pytest.mark.parametrize("event", [Event.RESUMED, Event.GAP])
@pytest.mark.parametrize(
    ("kept_to", "key", "site", "pushed"),
    [
        (None, KEY, B, True),  # nobody had seen it there before it went back
        (None, KEY, A, False),
        (None, OTHER, B, False),  # what it held at the end of what is proved, nobody knows
        (15, KEY, A, True),  # a replica that took over, and had been told all of this key
        (15, OTHER, B, False),
    ],
)
def test_what_a_site_that_went_back_has_lost_is_not_forgotten(restarts, event, kept_to, key, site, pushed):
    core = went_back(kept_to)
    core = after_restarts(core, restarts, event)
    plan = core.plan(key, site, C, ancestor_of(C, 7, key), 0.0)
    assert (plan.push is not None) == pushed


def test_what_was_agreed_on_last_may_have_been_read_ahead_of_the_stream():
    """So that the stream had not told of a key does not mean that nothing of it is missing."""
    assert went_back(15, 7).plan(KEY, A, C, ancestor_of(C, 7), 0.0).push is not None
    assert went_back(15, 6).plan(KEY, A, C, ancestor_of(C, 7), 0.0).push is None


def test_until_the_next_stream_is_judged_the_last_one_tells_where_what_waits_lies():
    """But not of what a stream told that was not judged, whose server may be another one."""
    core = core_of(site=SideState())

    def link(history, offset, *keys, judged):
        core.site_attached(history)
        core.outbound.streamed_from(offset, history)
        if judged:
            core.judged("site", Event.GAP, "overrun")
        for number, key in enumerate(keys, 1):
            core.outbound.read([[b"SET", key, b"a"]], offset + number)
        return core.streamed_keys()

    assert link("never judged", 5, KEY, judged=False).history == ""
    core.site_lost(8)
    assert link("first", 10, KEY, OTHER, judged=True).written([KEY, OTHER]) == (12, {})
    core.site_lost(8)
    told = core.streamed_keys()
    assert (told.history, told.written([KEY, OTHER])) == ("first", (12, {}))
    known = (12, {KEY: NEVER})
    for _ in range(2):
        assert link("second", 90, KEY, judged=False) is told
        assert told.written([KEY, OTHER]) == known
        assert told.written([KEY]) is None
        core.site_lost(8)
        assert core.streamed_keys().written([KEY, OTHER]) == known
    link("third", 0, OTHER, judged=False)
    assert told.written([KEY, OTHER]) is None
    core.outbound.read([[b"FLUSHALL"]], 7)
    assert told.written([b"untold"]) is None  # it may be among those that are gone
    for _ in range(5):
        core.site_lost(8)
        assert link("again", 0, OTHER, judged=False).history == "first"
    core.site_lost(8)
    assert link("again", 0, OTHER, judged=False).history == ""  # so many are not remembered
    core.site_lost(8)
    link("again", 0, OTHER, judged=False)
    assert len(told._others) == 8
    assert link("last", 50, KEY, judged=True).written([KEY]) == (51, {})


def test_what_is_made_good_is_not_lost_any_more():
    core = went_back(None)
    core.continuity.begin("site")
    core.compared(["site"])
    assert core.saved()["losses"].keys() == {"renewed"}  # something still waits for the hub
    core.judged("site", Event.WENT_BACK, "again", Findings(proved=6))
    assert core.plan(KEY, B, C, ancestor_of(C, 7), 0.0).push is None  # nothing of the first time bears on it


@pytest.mark.parametrize(
    "document", [None, 7, {}, {"seen": 7, "missed": 7}, {"seen": [7, [1, "xx", None, 1]], "missed": [["xx"], []]}]
)
def test_losses_that_cannot_be_read_are_none(document):
    losses = Losses.load(document)
    assert losses.saved() == Losses().saved()


@pytest.mark.parametrize("now", [999.0, 1001.0])
def test_what_has_expired_was_not_removed(now):
    plan = core_of().plan(KEY, None, string("a", 1000), ancestor_of(string("a", 1000)), now)
    assert plan.push == (REPLACE if now < 1000 else None)


MISSED = SideState(followed=True, judged=True, missed=True)


@pytest.mark.parametrize(
    ("ways", "states", "pushes", "applies"),
    [
        ("both", {}, True, True),
        ("push", {}, True, False),
        ("pull", {}, False, True),
        ("none", {}, False, False),
        ("none", {"site": MISSED}, True, False),
        ("none", {"hub": MISSED}, False, True),
        ("push", {"hub": MISSED}, True, True),
        ("pull", {"site": MISSED}, True, True),
    ],
)
def test_first_contact_copies_the_ways_that_were_asked_for(ways, states, pushes, applies):
    """But what was missed may be newer than first contact."""
    core = core_of(initial_sync=ways, **states)
    assert core.plan(KEY, A, None, None, 0.0).push == (REPLACE if pushes else None)
    assert core.plan(KEY, None, A, None, 0.0).apply == ([StringSet(KEY, b"a")] if applies else [])
    conflict = core.plan(KEY, A, B, None, 0.0)
    assert (conflict.apply, conflict.lost) == (
        ([StringSet(KEY, b"b")], [Lost(Ruling("hub"), A)]) if applies else ([], [])
    )
    assert core.plan(KEY, A, A, None, 0.0).agreed == A
    # What has an ancestor is not a matter of first contact.
    assert core.plan(KEY, A, None, ancestor_of(B), 0.0).push == REPLACE
    assert core.plan(KEY, None, A, ancestor_of(B), 0.0).apply == [StringSet(KEY, b"a")]


@pytest.mark.parametrize("winner", ["hub", "site"])
@pytest.mark.parametrize("written_at", ["hub", "site"])
@pytest.mark.parametrize("ways", ["none", "push", "pull", "both"])
def test_what_is_written_since_we_came_did_not_stand_there(ways, written_at, winner):
    """If it wins a conflict with what stands on the other side, that is kept."""
    core = core_of(initial_sync=ways, winner=winner)
    if written_at == "hub":
        core.inbound.events([(KEY, b"set")])
    else:
        core.outbound.streamed_from(100)
        core.outbound.resume_at(100, 0)
        core.outbound.read([[b"SET", KEY, b"a"]], 200)
    core.inbound.suspect([KEY])
    core.inbound.take(1)
    if written_at == "site":
        assert core.inbound.dirty  # it is pushed first
        core.outbound.succeeded(core.outbound.take(1, 1000), {KEY: MOVED})
        assert core.inbound.take(1)
    plan = core.plan(KEY, A, B, None, 0.0)
    wins = winner if ways == "both" else written_at
    assert (plan.push, plan.apply) == ((None, [StringSet(KEY, b"b")]) if wins == "hub" else (REPLACE, []))
    assert [lost.ruling.winner for lost in plan.lost] == [wins]


@pytest.mark.parametrize("winner", ["hub", "site"])
def test_the_loser_of_a_conflict_is_named_and_kept_once_it_is_replaced(winner):
    core = core_of(winner=winner)
    plan = core.plan(KEY, A, B, ancestor_of(C), 0.0)
    with capture_logs() as logs:
        core.push_planned(plan)
        assert len(core.lost) == (winner == "site")
        if winner == "hub":
            core.apply_planned(plan)
    assert core.lost == [ConflictLoss(KEY, winner, A if winner == "hub" else B)]
    assert core.losers.count == 1
    assert [(line["event"], line["key"], line["winner"]) for line in logs] == [("conflict.resolved", "ns:k", winner)]
    assert doubted(core) == ([REPLACE] if winner == "site" else [])


def test_of_many_conflicts_the_rest_is_counted():
    core = core_of()
    plan = Plan(KEY, lost=[Lost(Ruling("hub"), A)])
    with capture_logs() as logs:
        for _ in range(1002):
            core.apply_planned(plan)
        core.compared(["hub"])
        core.compared(["hub"])
    assert (len(logs), logs[-1]["more_keys"], core.losers.count) == (1001, 2, 1002)


def test_a_plan_without_a_conflict_names_nobody():
    core = core_of()
    for plan in (Plan(KEY), core.plan(KEY, A, B, ancestor_of(B), 0.0), core.plan(KEY, A, B, ancestor_of(A), 0.0)):
        core.push_planned(plan)
        core.apply_planned(plan)
    assert core.lost == []
    assert doubted(core) == [REPLACE]


def test_a_key_that_the_hub_holds_as_a_type_that_is_not_replicated_is_named_once():
    core = core_of()
    with capture_logs() as logs:
        for _ in range(3):
            core.push_planned(core.plan(KEY, A, "vectorset", None, 0.0))
    assert [(line["event"], line["key"]) for line in logs] == [("push.refused", "ns:k")]
    assert "vectorset" in logs[0]["error"]
    assert doubted(core) == []


def test_what_the_hub_was_seen_to_hold_is_what_it_must_still_hold():
    core = core_of(winner="site")
    core.push_planned(core.plan(KEY, A, B, ancestor_of(C), 0.0))
    batch = core.outbound.take(10, 1000)
    departure = core.outbound.prepare_doubtful(batch, [], {KEY: A}, {KEY: ancestor_of(C)}, 0.0)
    assert departure.commands == [[b"SETIF", KEY, b"a", b"", b"%015x" % digest_of(KEY, B)]]
    assert departure.changes == [StringSet(KEY, b"a")]


# What is seen, and what is kept.


def test_the_last_changes_of_the_site_are_remembered_with_the_number_before_them():
    core = core_of()
    core.record.ring = Ring((), 3)
    core.outbound.read([[b"SET", KEY, b"a"], [b"HSET", OTHER, b"f", b"v"], [b"INCR", b"ns:n"]], 9)
    core.outbound.read([[b"HINCRBY", OTHER, b"f", b"1"], [b"SET", KEY, b"b"], [b"SET", b"else", b"v"]], 99)

    assert core.record.saw(4) == [b"ns:n", OTHER]
    told = [(seen.number, seen.key, seen.field) for seen in core.record.ring]
    assert sorted(told) == sorted([(3, KEY, None), (3, OTHER, b"f"), (3, KEY, None)])
    assert set(core.record.ring.valueless) == {(b"ns:n", None), (OTHER, b"f")}
    assert core.record.ring.last(KEY).digest == digest_of(KEY, B)
    assert (core.record.saw(5), core.record.ring.number) == ([], 3)  # not before it is known what the counter came to
    core.record.ring.add_read({b"ns:n": digest_of(b"ns:n", A)})
    assert (core.record.saw(5), core.record.ring.number) == ([], 5)


def test_what_the_hub_took_after_the_site_was_lost_had_been_told_before():
    core = core_of()
    core.record.ring = Ring((), 3)
    assert core.record.evidence(9).number == 3  # of a ring that was loaded nobody knows what it lacks
    core.outbound.read([[b"SET", KEY, b"a"]], 9)
    core.record.saw(4)
    core.site_lost(8)
    core.record.applies(8, 20)
    core.outbound.read([], 30)  # of another server, as it turns out
    assert core.record.evidence(9).number == 7  # what was applied is no word of the stream


def test_what_is_read_again_is_read_at_the_site_before_it_counts_as_evidence():
    core = core_of()
    core.record.ring = Ring((), 3)
    core.outbound.resume_at(0, 0)
    core.outbound.new_from(20)
    core.outbound.read([[b"SET", KEY, b"a"]], 9)
    assert (core.record.saw(5), core.record.ring.number) == ([KEY], 3)
    core.record.ring.add_read({KEY: digest_of(KEY, B)})
    # The stream may have yet to show what the last process applied.
    assert (core.record.saw(5), core.record.ring.number) == ([], 3)
    core.outbound.read([], 20)
    assert (core.record.saw(5), core.record.ring.number) == ([], 5)


@pytest.mark.parametrize("missed", [False, True])
def test_evidence_with_a_gap_in_it_is_none(missed):
    core = core_of()
    core.record.ring = ring = Ring([Seen(1, KEY, None, 1)], 3)
    if missed:
        core.site_missed()
    core.judged("site", Event.RESUMED)
    assert (core.record.ring is ring) == (not missed)
    assert core.record.ring.number == 3


def test_without_rc_nothing_is_pulled_and_nothing_breaks():
    core = core_of(pulls=False)
    core.hub_heard()
    core.overdue(1.0)
    core.outbound.start_over()
    core.outbound.read([[b"SET", KEY, b"a"]], 9)
    assert core.inbound is None
    assert core.outbound.take(10, 1000).changes == [StringSet(KEY, b"a")]
