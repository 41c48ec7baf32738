"""What the history of a server is taken to be, from what it tells and from what is remembered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import Position, StringSet, StringState
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.continuity import SIDES, Event
from redisrepl.engine.core import Core
from redisrepl.engine.losses import NO_FINDINGS
from redisrepl.engine.places import Seen
from redisrepl.engine.seen import Ring
from redisrepl.errors import PeerUnavailableError
from redisrepl.flow.found import Found, Judgement
from redisrepl.flow.judging import Judging
from redisrepl.flow.known import Known
from redisrepl.local.history import SiteFacts
from redisrepl.local.mark import Marked
from redisrepl.remote.history import HubFacts
from redisrepl.wire.digests import UNREADABLE, string_digest
from testbed import eventually_async
from tests.tasks import beside

OURS, OTHER, NO_ID = "a" * 40, "b" * 40, "0" * 40
RUN, NEW = "run", "new"
RETRY = {"attempts": None, "timeout": None, "wait_initial": 0.001, "wait_max": 0.002, "wait_jitter": 0.0}
NUMBER = 50  # agreements, by now


class World:
    """Judging between two servers that tell what the test wants; it is their fence as well."""

    clock_ahead, clock_within, lacks_times, may_evict = None, 0.0, "", False

    def __init__(self, known=None, *, first=False, run_id=RUN, ring=()):
        self.site = SiteFacts(RUN, "master", OURS, 100)
        self.hub = HubFacts(RUN, 0, 0, 100)
        self.held_by_site = {}
        self.seen = None
        self.sent_by, self.sent = "site", {}
        self.mark_at_site = Marked()
        self.site_asked = self.hub_asked = 0
        self.before = lambda _side: None
        self.calls = []
        self.found, self.highest, self.held_to, self.there = True, NUMBER, math.inf, True
        self.number = NUMBER
        self.core = Core(lambda _key: True, ring=Ring(ring, NUMBER))
        self.core.following.read_to = 100
        self.core.continuity.site.run_id = run_id
        self.told = []
        judged = self.core.judged
        self.core.judged = lambda side, event, reason="", findings=NO_FINDINGS: (
            self.told.append((side, event, findings.proved)),
            judged(side, event, reason, findings),
        )
        self.judging = Judging(
            self.core,
            Known(known if known is not None else {"seen": [OURS, 100], "hub": [RUN, 0, 0, 50], "evicted": 0}),
            self,
            self,
            self,
            lambda: self.number,
            self.agreed_since,
            unanswered=self.unanswered,
            history=self.history,
            marked=self.marked,
            first=first,
            retry=RETRY,
        )

    @property
    def asks(self):
        return self.site_asked + self.hub_asked

    async def ask(self):
        """Both sides are asked through this; who is being judged is who is meant."""
        side = "site" if self._judges_site else "hub"
        self.before(side)
        if side == "site":
            self.site_asked += 1
            return self.site
        self.hub_asked += 1
        return self.hub

    @property
    def _judges_site(self):
        site = self.core.continuity.site
        return site.followed and not site.judged

    async def held(self, places):
        return {place: self.held_by_site.get(place) for place in places}

    async def agreed_since(self, number, kept=None):
        self.kept = kept
        return {b"since": {None: 7}} if number == 6 else None

    async def unanswered(self, by, places, number):
        return self.sent if (by, places, number) == (self.sent_by, {b"since": {None: 7}}, 6) else {}

    async def history(self, number):  # noqa: ARG002 - all of it is remembered, or none
        return self.seen

    async def marked(self):
        return self.mark_at_site

    # As a fence.

    async def look(self):
        self.calls.append("look")

    async def ready(self):
        self.calls.append("ready")

    async def mark(self, number):
        self.calls.append(("mark", number))
        return self.there

    async def is_there(self):
        return self.there

    def doubt(self):
        self.calls.append("doubt")

    def forget(self):
        self.calls.append("forget")
        self.held_to = math.inf

    def holds_up_to(self):
        return self.held_to


class Telling:
    """A site that tells this."""

    def __init__(self, facts):
        self._facts = facts
        self.asked = 0

    async def ask(self):
        self.asked += 1
        return self._facts


@contextlib.asynccontextmanager
async def judging(world):
    async with beside(*map(world.judging.run, SIDES)):
        yield world.judging


async def site_judged(world, *, resumed):
    async with judging(world) as judge:
        judge.site_attached(resumed=resumed)
        await eventually_async(lambda: world.told)
    return world.told[-1]


async def hub_judged(world):
    async with judging(world) as judge:
        judge.hub_heard()
        await eventually_async(lambda: world.told)
    return world.told[-1]


async def gone_back(world, side):
    """The server of this side is judged to have gone back to what was agreed on up to 6; what it may have lost."""
    if side == "site":
        world.site, world.mark_at_site = SiteFacts(NEW, "master", OTHER, 9), Marked(6)
        await site_judged(world, resumed=False)
    else:
        world.hub, world.highest = HubFacts(NEW, 0, 0, 9), 6
        await hub_judged(world)
    return world.core.losses if side == "site" else world.core.hub_losses


# The site.

WENT_BACK = (Event.WENT_BACK, 0.0)


@pytest.mark.parametrize(
    ("facts", "resumed", "judged"),
    [
        # The same history: its position is not before the one that was seen.
        (SiteFacts(RUN, "master", OURS, 100), True, (Event.RESUMED, math.inf)),
        (SiteFacts(RUN, "master", OURS, 5000), False, (Event.GAP, math.inf)),
        (SiteFacts(NEW, "master", OURS, 100), True, (Event.RESUMED, math.inf)),  # restarted, with its history
        (SiteFacts(NEW, "master", OURS, 99), False, WENT_BACK),
        # Another one, that goes on from where this was left, or before.
        (SiteFacts(NEW, "master", OTHER, 500, OURS, 101), True, (Event.RESUMED, math.inf)),
        (SiteFacts(NEW, "master", OTHER, 500, OURS, 101), False, (Event.GAP, math.inf)),
        (SiteFacts(NEW, "master", OTHER, 500, OURS, 100), False, WENT_BACK),
        (SiteFacts(NEW, "master", OTHER, 500, NO_ID, -1), False, WENT_BACK),
        # The same process has taken a new id, since it has no replicas any more; but not as a replica.
        (SiteFacts(RUN, "master", OTHER, 500, NO_ID, 0), False, (Event.GAP, math.inf)),
        (SiteFacts(RUN, "slave", OTHER, 500, NO_ID, 0), False, WENT_BACK),
        (SiteFacts(RUN, "master", OTHER, 500, "c" * 40, 400), False, WENT_BACK),
        # It tells nothing: the link itself is all there is.
        (SiteFacts(), True, (Event.RESUMED, math.inf)),
        (SiteFacts(), False, WENT_BACK),
        (SiteFacts(run_id=NEW), True, WENT_BACK),
        (SiteFacts(run_id=RUN), False, (Event.GAP, math.inf)),
    ],
)
async def test_the_history_of_the_site(facts, resumed, judged):
    world = World()
    world.site = facts
    assert await site_judged(world, resumed=resumed) == ("site", *judged)
    side = world.core.continuity.site
    assert (side.judged, side.run_id) == (True, facts.run_id)
    assert side.proved == judged[1]


async def test_at_first_contact_nothing_was_missed():
    world = World({}, first=True)
    world.site = SiteFacts(NEW, "master", OTHER, 5)
    assert await site_judged(world, resumed=False) == ("site", Event.FIRST, math.inf)
    world.told.clear()
    world.judging.known.seen = Position(OTHER, 5)
    assert await site_judged(world, resumed=False) == ("site", Event.GAP, math.inf)


def ring_of(count):
    ring = Ring()
    for number in range(1, count + 1):
        ring.add(number, [StringSet(b"%d" % number, b"v")])
    return list(ring)


@pytest.mark.parametrize(
    ("kept", "event", "number"), [(40, Event.RESTARTED, math.inf), (30, Event.WENT_BACK, 29), (4, Event.WENT_BACK, 0)]
)
async def test_another_process_is_judged_by_what_it_holds(kept, event, number):
    ring = ring_of(40)
    world = World(ring=ring)
    world.site = SiteFacts(NEW, "master", OTHER, 9)
    world.held_by_site = {change.place: change.digest for change in ring[:kept]}
    with capture_logs() as logs:
        assert await site_judged(world, resumed=False) == ("site", event, number)
    assert [line["event"] for line in logs] == (["site.went_back"] if event is Event.WENT_BACK else [])
    assert world.core.continuity.site.proved == number


@pytest.mark.parametrize("side", SIDES)
async def test_what_was_ever_agreed_on_is_known_of_a_server_that_went_back_until_both_are_equal(side):
    """Of all keys; and to the next daemon, which finds nothing new."""
    world = World()
    key = b"k"
    losses = world.core.losses if side == "site" else world.core.hub_losses
    world.seen = [Seen(number, key, field, number) for number in (1, 2) for field in (None, b"f")]
    assert not losses.past(key, None)
    state = world.core.continuity.of(side)
    state.followed = state.judged = True
    judge = world.judging.judge_site if side == "site" else world.judging.judge_hub
    state.proved = 1  # as the last daemon left it
    state.judged = False
    world.core.following.read_to = 100
    await judge()
    assert (losses.past(key, None), losses.past(key, b"f")) == ({1, 2}, {1, 2})
    losses.made_good()
    assert not losses.past(key, None)


@pytest.mark.parametrize(
    ("mark", "event", "number"),
    [(20, Event.WENT_BACK, 29), (35, Event.WENT_BACK, 35), (NUMBER, Event.RESTARTED, math.inf)],
)
async def test_a_mark_that_it_still_holds_proves_all_that_came_before(mark, event, number):
    ring = ring_of(40)
    world = World(ring=ring)
    world.site = SiteFacts(NEW, "master", OTHER, 9)
    world.held_by_site = {change.place: change.digest for change in ring[:30]}
    world.mark_at_site = Marked(mark)
    assert await site_judged(world, resumed=False) == ("site", event, number)


@pytest.mark.parametrize(
    ("process", "kept", "agreed", "judged"),
    [
        (NEW, 30, 0, (Event.WENT_BACK, 29)),
        (NEW, 30, 1, (Event.WENT_BACK, 29)),
        (NEW, 40, 0, (Event.RESTARTED, math.inf)),
        (NEW, 40, 1, WENT_BACK),  # what was agreed on since, it may lack
        ("d" * 40, 30, 0, WENT_BACK),
        ("", 30, 0, WENT_BACK),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
async def test_what_was_found_of_a_site_stays_true_though_the_link_is_lost_meanwhile(
    process, kept, agreed, judged, killed
):
    """Until the next link, its clients overwrite whatever it can be judged by."""
    ring = ring_of(40)
    world = World(ring=ring)
    world.site = SiteFacts(NEW if process else "", "master", OTHER, 9)
    world.held_by_site = {change.place: change.digest for change in ring[:kept]}

    async def link_is_lost():
        world.core.site_lost(NUMBER)
        return Marked()

    world.judging._site_marked = link_is_lost
    world.judging.site_attached(resumed=False)
    await world.judging.judge_site()
    assert world.told == []
    if killed:
        world.judging.known = Known(json.loads(json.dumps(world.judging.known.saved())))
    world.judging._site_marked = world.marked
    world.held_by_site, world.site, world.number = {}, SiteFacts(process, "master", OTHER, 900), NUMBER + agreed
    world.judging.site_attached(resumed=False)
    await world.judging.judge_site()
    assert world.told == [("site", *judged)]
    assert world.judging.known.found is None


@pytest.mark.parametrize("damage", ["process", "judged", "kept", "held", "settled"])
def test_what_was_found_is_saved_and_found_anew_if_it_cannot_be_read(damage):
    place, field = (b"k", None), (b"h", b"f")
    judged = Judgement(Event.WENT_BACK, "restarted", 7, frozenset([place, field]), 90, 5)
    found = Found((RUN, OURS), judged, {place: 1, field: None}, {field: [2, None]})
    saved = json.loads(json.dumps(found.saved))
    assert Found.load(saved) == found
    for unreadable in (None, 7, saved | {damage: 7}, {name: value for name, value in saved.items() if name != damage}):
        assert Found.load(unreadable) is None


async def test_what_was_agreed_on_after_the_evidence_was_taken_is_not_proved():
    ring = ring_of(40)
    world = World(ring=ring)
    world.number = NUMBER + 1
    world.site = SiteFacts(NEW, "master", OTHER, 9)
    world.held_by_site = {change.place: change.digest for change in ring}
    assert await site_judged(world, resumed=False) == ("site", Event.WENT_BACK, NUMBER)


@pytest.mark.parametrize(
    ("run_id", "number", "sees", "judged"),
    [
        (NEW, NUMBER + 3, False, (Event.WENT_BACK, NUMBER)),
        (RUN, NUMBER + 3, False, (Event.RESUMED, math.inf)),
        (NEW, NUMBER, False, (Event.RESUMED, math.inf)),
        (NEW, NUMBER + 3, True, (Event.RESUMED, math.inf)),
    ],
)
async def test_what_was_agreed_on_after_the_state_was_saved_last_a_new_master_may_lack(run_id, number, sees, judged):
    """The stream had told of it, and the daemon was killed; what was saved, the replica that took over has."""
    world = World()
    world.number = number
    if sees:
        world.core.record.saw(number)
    world.site = SiteFacts(run_id, "master", OTHER, 200, earlier=OURS, earlier_to=151)
    assert await site_judged(world, resumed=True) == ("site", *judged)


@pytest.mark.parametrize(
    ("begins", "sees", "judged"),
    [
        (Position(OURS, 120), False, (Event.RESUMED, math.inf)),
        (Position(OURS, 160), False, (Event.WENT_BACK, NUMBER)),  # of which the new master may lack some
        (Position(OTHER, 120), False, (Event.WENT_BACK, NUMBER)),
        (Position(OURS, 160), True, (Event.RESUMED, math.inf)),  # what this process saw itself, it knows better
    ],
)
@pytest.mark.parametrize("killed", [False, True], ids=["", "and killed again"])
async def test_a_killed_daemon_has_seen_no_more_than_its_master_told_the_next_one(begins, sees, judged, killed):
    """The next one was about to be sent a snapshot when that master was replaced."""
    world = World()
    world.number = NUMBER + 3
    if sees:
        world.core.record.saw(world.number)
    for offset in (90, 100):
        world.core.record.ring.reached(offset)
    world.judging.site_begins(begins)
    if killed and not sees:
        known, world = world.judging.known.saved(), World(world.judging.known.saved())
        world.number = NUMBER + 3
        for offset in (90, 100):
            world.core.record.ring.reached(offset)
        assert world.judging.known.saved() == known
    world.site = SiteFacts(NEW, "master", OTHER, 200, earlier=OURS, earlier_to=151)
    assert await site_judged(world, resumed=True) == ("site", *judged)


async def test_from_where_it_was_judged_on_what_the_stream_tells_is_new():
    world = World()
    world.core.outbound.resume_at(50, 0)
    await site_judged(world, resumed=True)
    assert world.core.outbound.read_again_to == 100


async def test_a_clock_that_is_set_is_noticed_whichever_it_is():
    world = await judged_world()
    core, site = world.core, Telling(SiteFacts(RUN, "master", OURS, 100, clock_ahead=0.0))
    world.judging._site, world.clock_ahead = site, 0.0
    await world.judging.site_evicted()
    await world.judging.look_at_hub()
    assert (core.policy.off_by, site.asked) == (frozenset(), 1)
    core.continuity.begin("site")
    world.before = lambda _: setattr(world, "clock_ahead", 7200.0)
    for _ in range(2):
        await world.judging.look_at_hub()
    assert core.policy.off_by == world.judging.known.clocks.off_by == {-7_200_000}
    assert core.continuity.site.owed == "the clock of a server was set"
    assert site.asked == 2  # for it may be ours that was set, and so the site's


async def test_clocks_are_looked_at_before_anything_else_is_known():
    world, site = World(), Telling(SiteFacts(RUN, "master", OURS, 100, clock_ahead=-100.0))
    world.judging._site, world.clock_ahead = site, 0.0
    for _ in range(2):
        await world.judging.see_clocks()
    assert (site.asked, world.hub_asked, world.judging.known.clocks.known) == (1, 1, True)
    assert world.judging.known.clocks._shift.ms == 100_000


@pytest.mark.parametrize("process", [RUN, NEW])
async def test_a_daemon_that_ended_before_it_judged_the_site_knows_its_process(process):
    """A first snapshot is pushed while it is read."""
    world, saved = World(known={}, first=True, run_id=""), []
    world.judging._site = Telling(SiteFacts(RUN, "master", OURS, 100))
    world.judging.save = lambda: saved.append(json.loads(json.dumps(world.judging.known.saved())))
    for _ in range(2):
        await world.judging.see_clocks()
    (document,) = saved
    again = World(known=document, run_id="")
    again.site = SiteFacts(process, "master", OTHER, 5000)
    judged = (Event.GAP, math.inf) if process == RUN else WENT_BACK
    assert await site_judged(again, resumed=False) == ("site", *judged)


async def test_that_the_site_evicts_is_noticed():
    for evicted in (0, 7):
        world = World()
        world.site = SiteFacts(RUN, "master", OURS, 100, evicted=evicted)
        await site_judged(world, resumed=True)
        assert world.core.continuity.site.evicts == bool(evicted)
        assert world.judging.known.evicted == (evicted, 0)


@pytest.mark.parametrize("policy", [False, True])
@pytest.mark.parametrize("process", [RUN, NEW])
async def test_what_a_former_process_evicted_at_the_end_nobody_has_counted(policy, process):
    at_site, at_hub = World(), World()
    at_site.site = SiteFacts(process, "master", OURS, 100, may_evict=policy)
    await site_judged(at_site, resumed=True)
    at_hub.hub, at_hub.may_evict = HubFacts(process, 0, 0, 100), policy
    await hub_judged(at_hub)
    for side in (at_site.core.continuity.site, at_hub.core.continuity.hub):
        assert side.judged
        assert side.evicts == (policy and process == NEW)


async def test_removals_that_are_read_once_the_link_is_made_again_may_be_evictions():
    world = World()
    world.site = SiteFacts(RUN, "master", OURS, 100, evicted=7)
    await site_judged(world, resumed=True)
    world.core.continuity.site.judged = False  # for `ask`
    for acknowledged, may in ((50, True), (100, False)):
        world.core.outbound.pending.acknowledged = acknowledged
        assert await world.judging.site_evicted() == may


async def test_a_judgement_of_a_link_that_was_lost_meanwhile_is_void():
    world = World()
    world.before = lambda _: world.site_asked or world.judging.site_attached(resumed=False)
    assert await site_judged(world, resumed=True) == ("site", Event.GAP, math.inf)
    assert world.site_asked == 2
    assert len(world.told) == 1


async def test_a_server_that_cannot_be_asked_is_asked_again():
    world = World()
    failures = iter([True, True, False])

    def fail(_):
        if next(failures, False):
            raise PeerUnavailableError("away")

    world.before = fail
    with capture_logs() as logs:
        assert await site_judged(world, resumed=True) == ("site", Event.RESUMED, math.inf)
        told = [(log["event"], log["error"]) for log in logs if log["event"].startswith("history.")]
        assert told == [("history.failed", "away")]
        assert world.judging.failure_log.failures == 2
        world.told.clear()
        await hub_judged(world)
    assert logs[-1]["event"] == "history.recovered"
    assert world.core.continuity.known


async def test_a_hub_that_does_not_answer_holds_up_no_judgement_of_the_site():
    world, silent = World(), asyncio.Event()
    world.look = silent.wait
    async with judging(world) as judge:
        judge.hub_heard()
        await asyncio.sleep(0)
        judge.site_attached(resumed=True)
        await eventually_async(lambda: world.told)
    assert world.told == [("site", Event.RESUMED, math.inf)]


# The hub.


@pytest.mark.parametrize(
    ("hub", "fence", "judged"),
    [
        # The same process, which has our fence: events may have been missed, and no more.
        (HubFacts(RUN, 0, 0, 100), {}, (Event.GAP, math.inf)),
        (HubFacts(), {}, (Event.RESTARTED, math.inf)),
        # The fence tells how far its history reaches.
        (HubFacts(RUN, 0, 0, 100), {"held_to": 7}, (Event.WENT_BACK, 7)),
        (HubFacts(NEW, 0, 0, 9), {"held_to": 0}, (Event.WENT_BACK, 0)),
        (HubFacts(NEW, 0, 0, 9), {}, (Event.RESTARTED, math.inf)),
        (HubFacts(NEW, 0, 0, 9), {"highest": NUMBER - 1}, (Event.WENT_BACK, NUMBER - 1)),
        (HubFacts(NEW, 0, 0, 9), {"found": None}, (Event.WENT_BACK, 0)),
        (HubFacts(RUN, 0, 0, 100), {"found": None}, (Event.GAP, math.inf)),
        # What it removed as a whole, or evicted, it has not lost.
        (HubFacts(RUN, 1, 0, 100), {"held_to": 0}, (Event.GAP, math.inf)),
        (HubFacts(RUN, 0, 5, 100), {"held_to": 0}, (Event.GAP, math.inf)),
        (HubFacts(NEW, 1, 5, 100), {"held_to": 0}, (Event.WENT_BACK, 0)),
    ],
)
async def test_the_history_of_the_hub(hub, fence, judged):
    world = World()
    world.hub = hub
    vars(world).update(fence)
    assert await hub_judged(world) == ("hub", *judged)
    side = world.core.continuity.hub
    assert (side.judged, side.proved, side.run_id) == (True, judged[1], hub.run_id)
    assert side.flushed == (hub.run_id == RUN and hub.flushes > 0)
    assert side.evicts == (hub.evicted > 0)
    assert world.judging.known.hub == hub
    # A fence that is not as it was left is replaced, before anything else is sent.
    expected = ["forget", "doubt", "ready", ("mark", NUMBER)] if "held_to" in fence else []
    assert world.calls == ["look", *expected]


@pytest.mark.parametrize(
    ("seen", "held", "has_all"),
    [
        ([Seen(40, b"k", None, 1), Seen(NUMBER - 1, b"k", None, 2)], 2, True),  # the last that was applied is there
        ([Seen(40, b"k", None, 1), Seen(NUMBER - 1, b"k", None, 2)], 1, False),  # what it was before
        ([Seen(40, b"k", None, 1), Seen(NUMBER - 1, b"k", None, 2)], 3, False),  # nothing to go by
        ([Seen(40, b"k", None, 1)], 7, True),  # nothing was agreed on since it noted a number
        (None, 2, False),  # the journal does not reach back
    ],
)
async def test_a_hub_that_was_restarted_is_judged_by_what_it_held_last(seen, held, has_all):
    world = World()
    world.hub, world.highest = HubFacts(NEW, 0, 0, 9), NUMBER - 1
    world.seen, world.held_by_site = seen, {(b"k", None): held}
    judged = (Event.RESTARTED, math.inf) if has_all else (Event.WENT_BACK, NUMBER - 1)
    assert await hub_judged(world) == ("hub", *judged)


@pytest.mark.parametrize(
    ("value", "reaches", "older"), [(b"agreed", True, True), (b"new", True, False), (b"new", False, True)]
)
async def test_what_a_site_never_held_since_all_was_agreed_on_it_has_written_since(value, reaches, older):
    """Though it held it already when it was judged."""
    world = World()
    world.core.record.ring.reached(90)
    world.core.record.ring.acknowledged(90, 5)
    world.held_by_site = {(b"since", None): string_digest(b"since", value)}
    world.seen = [Seen(4, b"since", None, string_digest(b"since", b"agreed"))] if reaches else None
    world.site, world.mark_at_site = SiteFacts(NEW, "master", OTHER, 9), Marked(6)
    await site_judged(world, resumed=False)
    ancestor = Agreed(string_digest(b"since", b"later"), 7)
    assert world.core.losses.may_be_older(b"since", StringState(value), ancestor, Ring(), 6) == older


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("sent_by", SIDES)
async def test_what_was_sent_last_without_an_answer_is_asked_of_the_side_that_went_back(side, sent_by):
    world = World()
    held = string_digest(b"since", b"sent")
    world.held_by_site = {(b"since", None): held}
    world.sent_by, world.sent = sent_by, {(b"since", None): {held}}
    losses = await gone_back(world, side)
    ancestor = Agreed(string_digest(b"since", b"agreed"), 7)
    assert losses.may_be_older(b"since", StringState(b"sent"), ancestor, Ring(), 6) == (side != sent_by)


async def test_a_site_that_shows_the_last_changes_has_what_was_told_before_them():
    """What was agreed on of other keys is not suspected, though no change of theirs is remembered."""
    world = World()
    changes = [StringSet(b"last %d" % n, b"v") for n in range(8)]
    for offset, change in enumerate(changes, start=90):
        world.core.record.ring.reached(offset)
        world.core.record.ring.add(NUMBER, [change])
    world.held_by_site = {(change.key, None): string_digest(change.key, change.value) for change in changes}
    world.site, world.number = SiteFacts(NEW, "master", OTHER, 9), NUMBER + 9
    assert await site_judged(world, resumed=False) == ("site", Event.WENT_BACK, NUMBER)
    assert world.kept == Position(OURS, 97)


@pytest.mark.parametrize(("history", "kept"), [(OURS, Position(OURS, 80)), (OTHER, None), ("", None)])
async def test_a_site_that_holds_a_mark_has_what_its_stream_had_told_when_that_was_written(history, kept):
    """Though clients have overwritten the last changes, so that they prove nothing."""
    world = World(ring=ring_of(40))
    world.site, world.mark_at_site = SiteFacts(NEW, "master", OTHER, 9), Marked(20, history, 80)
    assert await site_judged(world, resumed=False) == ("site", Event.WENT_BACK, 20)
    assert world.kept == kept


@pytest.mark.parametrize("readable", [True, False])
@pytest.mark.parametrize("side", SIDES)
async def test_what_a_server_does_not_hold_yet_when_it_is_judged_it_has_written_since(side, readable):
    world = World()
    world.held_by_site = {(b"since", None): string_digest(b"since", b"old") if readable else UNREADABLE}
    losses = await gone_back(world, side)
    ancestor = Agreed(string_digest(b"since", b"agreed"), 7)
    assert losses.may_be_older(b"since", StringState(b"old"), ancestor, Ring(), 6)
    assert losses.may_be_older(b"since", StringState(b"new"), ancestor, Ring(), 6) == (not readable)


async def test_what_was_agreed_on_tells_what_a_hub_has_written_since():
    world = World()
    world.hub, world.highest = HubFacts(NEW, 0, 0, 9), 6
    world.seen, world.held_by_site = (
        [Seen(4, b"since", None, 1), Seen(7, b"since", None, 2), Seen(7, b"k", None, 2)],
        {},
    )
    await hub_judged(world)
    ancestor = Agreed(2, 7)
    states = {digest: StringState(b"%d" % digest) for digest in range(1, 4)}
    told = {held: world.core.hub_losses._seen.written_since(6, b"since", None, held) for held in states}
    assert told == {1: False, 2: False, 3: True}
    assert not world.core.hub_losses.may_be_older(b"k", states[3], ancestor, Ring(), 6)  # it is not among what was lost


@pytest.mark.parametrize(("value", "older"), [(b"agreed", True), (b"new", False)])
async def test_what_was_agreed_on_of_a_hub_is_known_however_much_followed(value, older):
    """A busy hash fills what is remembered of a hub with changes of its other fields."""
    world = World()
    world.hub, world.highest = HubFacts(NEW, 0, 0, 9), 6
    world.seen = [Seen(4, b"since", None, string_digest(b"since", b"agreed"))]
    world.seen += [Seen(7, b"since", b"field", number) for number in range(5000)]
    world.held_by_site = {(b"since", None): string_digest(b"since", value)}
    await hub_judged(world)
    ancestor = Agreed(string_digest(b"since", b"later"), 7)
    assert world.core.hub_losses.may_be_older(b"since", StringState(value), ancestor, Ring(), 6) == older


async def test_at_first_contact_the_hub_has_lost_nothing():
    world = World({}, first=True)
    world.found = None
    assert await hub_judged(world) == ("hub", Event.FIRST, math.inf)
    world.told.clear()
    world.hub = HubFacts(RUN, 0, 0, 200)
    assert await hub_judged(world) == ("hub", Event.GAP, math.inf)


async def judged_world():
    world = World()
    world.core.site_attached()
    world.core.judged("site", Event.RESUMED)
    world.told.clear()
    await hub_judged(world)
    world.told.clear()
    return world


@pytest.mark.parametrize(
    ("hub", "there", "judged", "flushed", "evicts"),
    [
        (HubFacts(RUN, 0, 0, 200), True, True, False, False),
        (HubFacts(NEW, 0, 0, 1), True, False, False, False),
        (HubFacts(RUN, 0, 0, 200), False, False, False, False),
        (HubFacts(RUN, 1, 0, 200), True, True, True, False),
        (HubFacts(RUN, 0, 3, 200), True, True, False, True),
        (HubFacts(), True, True, False, False),
        (HubFacts(), False, False, False, False),
    ],
)
async def test_what_happens_to_the_hub_while_it_is_heard(hub, there, judged, flushed, evicts):
    world = await judged_world()
    world.hub, world.there = hub, there
    assert await world.judging.same_hub() == judged
    side = world.core.continuity.hub
    assert (side.judged, side.flushed, side.evicts) == (judged, flushed, evicts)
    assert (side.owed == "the hub was flushed") == flushed or side.owed == "subscribed"


async def test_a_hub_that_was_not_judged_is_not_known_to_be_the_same():
    world = World()
    assert not await world.judging.same_hub()
    assert world.asks == 0


async def test_how_much_was_agreed_is_marked_at_the_hub_if_it_is_more_than_before():
    world = World()
    await world.judging.mark()
    assert world.calls == []  # nobody knows whose hub it is
    world = await judged_world()
    world.calls.clear()
    await world.judging.mark()
    await world.judging.mark()
    assert world.calls == [("mark", NUMBER)]
    await world.judging.mark(always=True)
    world.number += 1
    await world.judging.mark()
    assert world.calls == [("mark", NUMBER), ("mark", NUMBER), ("mark", NUMBER + 1)]
    world.there, world.number = False, NUMBER + 2
    await world.judging.mark()
    assert not world.core.continuity.hub.judged  # it has lost the fence: it is judged anew


async def test_who_waits_is_told_when_both_are_known():
    world = World()
    async with judging(world) as judge:
        waiting = asyncio.create_task(judge.known_now())
        judge.hub_heard()
        await eventually_async(lambda: world.told)
        assert not waiting.done()
        judge.site_attached(resumed=True)
        await waiting
    assert world.core.continuity.known


@pytest.mark.parametrize(("removed", "evicted", "may"), [(50, 0, False), (50, 7, True), (100, 7, False)])
async def test_removals_that_the_stream_told_before_an_eviction_was_seen_may_be_evictions(removed, evicted, may):
    world = World()
    await site_judged(world, resumed=True)
    world.core.continuity.site.judged = False  # for `ask`
    world.core.outbound.pending.acknowledged = removed
    world.site = SiteFacts(RUN, "master", OURS, 100, evicted=evicted)
    assert await world.judging.site_evicted() == may
    assert world.core.continuity.site.evicts == bool(evicted)
    assert await world.judging.site_evicted() == may  # until they are acknowledged


@pytest.mark.parametrize(
    ("by_events", "replid", "again"),
    [(True, OTHER, True), (True, OURS, False), (True, "", False), (False, OTHER, False)],  # a stream tells itself
)
async def test_a_site_followed_by_its_events_is_judged_again_if_its_history_is_another(by_events, replid, again):
    world = World()
    await site_judged(world, resumed=True)
    world.core.following.by_events = by_events
    world.judging._site = Telling(SiteFacts(RUN, "master", replid, 100))
    await world.judging.look_at_site()
    assert world.core.continuity.site.judged is not again


# What is kept.


def test_what_is_known_survives_the_daemon():
    clocks = {"site": 5, "hub": 6, "known": True, "shift": 7000, "former": [[0, True], [9000, False]]}
    document = {"seen": [OURS, 5], "seen number": 8, "hub": [RUN, 1, 2, 3], "evicted": [4, 9], "clocks": clocks}
    known = Known(document)
    assert (known.seen, known.hub, known.evicted) == (Position(OURS, 5), HubFacts(RUN, 1, 2, 3), (4, 9))
    assert known.saved() == document | {"found": None}
    assert Known(known.saved()).saved() == known.saved()


@pytest.mark.parametrize("value", [None, 5, "x", [], [1, 2], {}, ["x"], ["x", "y"], [RUN, 1, 2], [RUN, 1, 2, "3"]])
def test_what_cannot_be_read_is_not_known(value):
    known = Known({"seen": value, "hub": value, "evicted": [value]})
    assert (known.seen, known.hub, known.evicted) == (None, None, (0, 0))


def test_evictions_as_they_were_saved_at_first():
    assert Known({"evicted": 4}).evicted == (4, 0)
