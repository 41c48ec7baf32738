"""Each side is compared when that is owed; a sweep ends when what it found was dealt with."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import KINDS, StringState
from redisrepl.engine.ancestor import note_state
from redisrepl.engine.continuity import Continuity, Event, SideState
from redisrepl.engine.core import Core, CoreOptions
from redisrepl.engine.losses import Findings
from redisrepl.errors import PeerUnavailableError
from redisrepl.flow.comparison import Comparison
from redisrepl.flow.sweep import Sweep
from redisrepl.namespaces import Namespaces
from redisrepl.store import Facts
from testbed import eventually_async
from tests.holder import Holder
from tests.store.stores import disk_full
from tests.tasks import beside

A, B = StringState(b"a"), StringState(b"b")
KEYS = [b"n:%d" % number for number in range(200)]
RETRY = {"attempts": None, "timeout": None, "wait_initial": 0.001, "wait_max": 0.002, "wait_jitter": 0.0}


class World:
    """A sweep between two sides in memory; what it finds is dealt with at once, unless `deals` is off."""

    def __init__(self, store, kinds=KINDS, period=0.0, max_removals=0.5, prefixes=(b"n:",), max_keys=2_000_000):
        site, hub = (SideState(followed=True, judged=True, settled=True) for _ in range(2))
        options = CoreOptions(max_keys=max_keys)
        self.core = Core(lambda key: key.startswith(prefixes), kinds, 0, options, continuity=Continuity(site, hub))
        self.store = store
        self.site, self.hub = Holder(step=500), Holder(step=500)
        self.deals = True
        self.readied = 0
        self.is_ready = asyncio.Event()
        self.is_ready.set()
        self.suspects = []
        self.sweep = Sweep(
            self.core,
            Comparison(store, expiries=False, rate=1e9),
            {"site": self.site, "hub": self.hub},
            store,
            Namespaces(prefixes),
            ready=self.ready,
            period=period,
            max_removals=max_removals,
            wake=self.wake,
            retry=RETRY,
        )

    async def ready(self):
        self.readied += 1
        await self.is_ready.wait()

    def wake(self):
        """As the parts that fetch, apply and push would."""
        if self.deals:
            for key, suspect in self.core.inbound.take(9999).items():
                self.suspects.append((key, suspect))
                self.core.inbound.about_to_apply(key, [])
        self.sweep.look()

    def agree(self, keys=KEYS, state=A):
        facts = Facts()
        for key in keys:
            note_state(facts, key, state)
        self.store.agreed(facts)
        for side in (self.site, self.hub):
            side.held |= dict.fromkeys(keys, state)

    def owe(self, *sides, event=Event.GAP, **about):
        for side in sides:
            self.core.judged(side, event, f"the {side} was away", Findings(**about))
        self.sweep.look()

    def settled(self):
        return [side for side in ("site", "hub") if self.core.continuity.of(side).settled]


@pytest.fixture
def sweeping(store):
    @contextlib.asynccontextmanager
    async def run(**options):
        world = World(store, **options)
        async with beside(world.sweep.run()):
            yield world

    return run


async def finished(world, runs=1):
    await eventually_async(lambda: world.sweep.runs >= runs)


async def test_what_differs_waits_for_room(sweeping):
    """What is left out would have to be found again, and might be left out again."""
    async with sweeping(max_keys=2) as world:
        world.agree()
        world.site.held |= dict.fromkeys(KEYS[:7], B)
        world.owe("site")
        await finished(world)

        assert {key for key, _ in world.suspects} == set(KEYS[:7])
        assert not world.core.inbound.left_out
        assert world.settled() == ["site", "hub"]


@pytest.mark.parametrize("sides", [["site"], ["hub"], ["site", "hub"]])
async def test_the_sides_that_are_owed_it_are_compared_and_settled(sweeping, sides):
    async with sweeping() as world:
        world.agree()
        world.site.held[b"n:1"], world.hub.held[b"n:2"] = B, B
        world.owe(*sides)
        await finished(world)

        assert dict(world.suspects).keys() == {{"site": b"n:1", "hub": b"n:2"}[side] for side in sides}
        assert all(suspect for _, suspect in world.suspects)
        assert world.sweep.owed is None
        assert world.settled() == ["site", "hub"]
        assert world.sweep.last["reason"] == f"the {'hub' if 'hub' in sides else 'site'} was away"
        assert world.sweep.last["different"] == len(sides)
        assert bool(world.site.sums_read) == ("site" in sides)
        assert bool(world.hub.sums_read) == ("hub" in sides)


async def test_a_side_is_compared_with_what_could_not_be_written_too(sweeping, monkeypatch):
    """It was agreed on: a site that went back lacks it."""
    async with sweeping() as world:
        world.agree()
        await world.store.fold()
        with monkeypatch.context() as disk:
            disk.setattr(world.store._journal, "append", disk_full)
            world.agree([b"n:new"])
            del world.site.held[b"n:new"]
            world.owe("site", event=Event.WENT_BACK, proved=0)
            await finished(world)

        assert dict(world.suspects) == {b"n:new": True}
        assert world.settled() == ["site", "hub"]
        assert not world.hub.sums_read


async def test_a_sweep_that_waits_is_not_woken_by_each_write(sweeping):
    async with sweeping() as world:
        world.owe("site")
        await finished(world)
        changed = world.sweep._changed
        await eventually_async(lambda: not changed.is_set())

        world.sweep.look()
        assert not changed.is_set()

        world.owe("hub")
        assert changed.is_set()
        await finished(world, 2)


async def test_all_namespaces_are_compared(sweeping):
    async with sweeping(prefixes=(b"n:", b"m:")) as world:
        world.agree([b"n:1", b"m:1"])
        world.hub.held |= {b"n:1": B, b"m:1": B}
        world.owe("hub")
        await finished(world)
        assert dict(world.suspects).keys() == {b"n:1", b"m:1"}


async def test_nothing_is_compared_before_both_histories_are_known_and_the_epoch_raised(sweeping):
    async with sweeping() as world:
        world.is_ready.clear()
        world.owe("hub")
        await eventually_async(lambda: world.readied)
        assert world.hub.sums_read == world.hub.pages == 0
        world.is_ready.set()
        await finished(world)


async def test_a_sweep_ends_when_what_it_found_was_dealt_with(sweeping):
    async with sweeping() as world:
        world.agree()
        world.deals = False
        world.hub.held[b"n:1"] = B
        world.owe("hub")
        await eventually_async(lambda: world.core.inbound.dirty)
        assert world.core.inbound.dirty == {b"n:1": True}
        for _ in range(20):
            world.sweep.look()
            await asyncio.sleep(0)
        assert (world.sweep.runs, world.settled(), world.sweep.running) == (0, ["site"], "the hub was away")
        world.deals = True
        world.wake()
        await finished(world)
        assert (world.settled(), world.sweep.running) == (["site", "hub"], None)


async def finds_two(world, owe):
    """The hub, which is owed a comparison, differs in two keys, and nobody deals with them yet."""
    world.agree()
    world.deals = False
    world.hub.held |= {b"n:1": B, b"n:2": B}
    owe()
    await eventually_async(lambda: len(world.core.inbound.dirty) == 2)


@pytest.mark.usefixtures("impatient")
async def test_a_side_is_not_settled_before_what_was_found_is_decided(sweeping):
    """By what was missed, and by a flush, keys are decided that come late over a slow link as well."""
    async with sweeping() as world:
        world.core.continuity.hub.evicts = True
        await finds_two(world, lambda: (world.core.flushed("hub"), world.sweep.look()))
        await passes(world)
        hub = world.core.continuity.hub
        assert (hub.settled, hub.missed, hub.may_lack, world.sweep.runs) == (False, True, False, 0)
        world.deals = True
        world.wake()
        await finished(world)
        assert (hub.settled, hub.missed, hub.may_lack) == (True, False, True)


@pytest.mark.usefixtures("impatient")
async def test_what_is_in_doubt_for_what_was_found_is_waited_for_and_nothing_that_came_later(sweeping):
    """As a site that writes keys all the time of which only a comparison tells what to push."""
    async with sweeping() as world:
        world.agree()
        outbound = world.core.outbound
        world.owe("hub")
        outbound.doubt(b"n:1")
        await eventually_async(lambda: world.hub.sums_read)
        await passes(world)
        assert world.settled() == ["site"]
        batch = outbound.take(1, 1000)
        outbound.doubt(b"n:1")
        outbound.doubt(b"n:2")
        outbound.succeeded(batch, {})
        world.sweep.look()
        await finished(world)
        assert world.settled() == ["site", "hub"]
        assert len(outbound.doubtful) == 2


@pytest.mark.usefixtures("impatient")
async def test_keys_that_the_site_writes_all_the_time_are_not_waited_for(sweeping):
    """They are pushed as they are, and agreed on by that."""
    async with sweeping() as world:
        await finds_two(world, lambda: world.owe("hub"))
        world.core.inbound.changed_at_site([b"n:1"])
        world.core.inbound.put_back(world.core.inbound.take(2))
        await passes(world)
        assert world.settled() == ["site"]
        world.core.inbound.changed_at_site([b"n:2"])
        world.sweep.look()
        await finished(world)
        assert world.settled() == ["site", "hub"]
        assert world.core.inbound.dirty.keys() == {b"n:1", b"n:2"}
        world.owe("hub")  # what it finds has to be decided again
        await eventually_async(lambda: world.hub.sums_read == 2)
        await passes(world)
        assert world.settled() == ["site"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("reason", ["went back", "is behind"])
async def test_where_more_rests_on_it_all_keys_are_waited_for(sweeping, reason):
    """What is left may be older than it seems, or would be removed."""
    async with sweeping() as world:
        world.agree()
        world.deals = False
        world.hub.held[b"n:1"] = B
        if reason == "is behind":
            world.core.continuity.is_behind()
        world.owe("hub", event=Event.WENT_BACK if reason == "went back" else Event.GAP, proved=0)
        await eventually_async(lambda: world.core.inbound.dirty)
        world.core.inbound.changed_at_site([b"n:1"])
        await passes(world)
        assert world.sweep.runs == 0
        assert world.core.continuity.behind == (reason == "is behind")
        world.deals = True
        world.wake()
        await finished(world)
        assert world.settled() == ["site", "hub"]
        assert not world.core.continuity.behind


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("reason", ["timer", "owed", "owed, and it went back"])
async def test_a_key_that_cannot_be_decided_keeps_no_other_comparison_from_being_made(sweeping, reason):
    """As a value that the hub never sends."""
    async with sweeping(period=0.1 if reason == "timer" else 0.0) as world:
        world.agree()
        world.deals = False
        world.hub.held[b"n:1"] = B
        world.owe("hub", event=Event.WENT_BACK if "went back" in reason else Event.GAP, proved=0)
        await eventually_async(lambda: world.core.inbound.dirty)
        if reason != "timer":
            await passes(world)
            world.owe("site")
        await eventually_async(lambda: world.hub.sums_read >= 2 and world.site.sums_read)
        assert (world.sweep.runs >= 1, world.core.continuity.hub.settled) == (True, False)
        world.deals = True
        world.wake()
        await finished(world, world.sweep.runs + 1)
        assert world.settled() == ["site", "hub"]


@pytest.fixture
def impatient(monkeypatch):
    """A sweep waits for no key that is written all the time."""
    monkeypatch.setattr("redisrepl.flow.sweep._PATIENCE", 0.01)


async def passes(world):
    """The patience is over."""
    await asyncio.sleep(0.05)
    world.sweep.look()
    await asyncio.sleep(0.01)


async def test_the_site_is_compared_once_what_its_snapshot_brought_is_pushed(sweeping):
    async with sweeping() as world:
        world.agree()
        world.core.outbound.doubt(b"n:1")
        world.owe("site", "hub")
        await eventually_async(lambda: world.hub.sums_read)
        for _ in range(20):
            world.sweep.look()
            await asyncio.sleep(0)
        assert world.site.sums_read == 0
        world.core.outbound.succeeded(world.core.outbound.take(1, 1000), {})
        world.sweep.look()
        await finished(world)
        assert world.site.sums_read


@pytest.mark.parametrize("question", ["sums", "page"])
async def test_a_sweep_that_fails_is_owed_again_and_begins_anew(sweeping, question):
    async with sweeping() as world:
        world.agree()
        world.hub.held[b"n:1"] = B
        failures = 2

        def fail(asked):
            nonlocal failures
            if asked == question and failures:
                failures -= 1
                assert world.sweep.owed is None
                raise PeerUnavailableError("away")

        world.hub.before = fail
        world.owe("hub", "site")
        await finished(world)
        assert world.sweep.failure_log.failures == 0
        assert (world.readied, world.sweep.runs) == (3, 1)
        assert world.sweep.last["reason"] == "the hub was away"
        assert dict(world.suspects) == {b"n:1": True}
        assert world.settled() == ["site", "hub"]


async def test_what_is_missed_during_a_sweep_is_compared_by_another(sweeping):
    async with sweeping() as world:
        world.agree()
        world.hub.before = lambda _: world.hub.sums_read or world.owe("hub")
        world.owe("hub")
        await finished(world, 2)
        assert world.hub.sums_read == 2
        assert world.settled() == ["site", "hub"]


async def test_now_and_then_both_are_compared_though_nothing_is_owed(sweeping):
    async with sweeping(period=0.01) as world:
        world.agree()
        world.core.continuity.hub.settled = False
        await finished(world, 2)
        assert world.sweep.last["reason"] == "timer"
        assert world.settled() == ["site", "hub"]
        assert world.site.sums_read
        assert world.hub.sums_read


# How much may be removed.


@pytest.mark.parametrize("side", ["site", "hub"])
@pytest.mark.parametrize(("gone", "held"), [(100, 0), (101, 101), (200, 200)])
async def test_more_removals_than_a_part_of_all_wait_for_a_person(sweeping, side, gone, held):
    async with sweeping() as world:
        world.agree()
        holder = world.site if side == "site" else world.hub
        for key in KEYS[:gone]:
            del holder.held[key]
        with capture_logs() as logs:
            world.owe(side)
            await finished(world)
        assert len(world.suspects) == (0 if held else gone)
        assert world.sweep.held == held
        assert (side in world.settled()) == (not held)
        said = [line for line in logs if line["event"] == "sweep.removals_held"]
        assert [(line["missing_at"], line["keys"], line["limit"]) for line in said] == (
            [(side, held, 100)] if held else []
        )


async def test_what_differs_is_dealt_with_though_removals_are_held(sweeping):
    async with sweeping() as world:
        world.agree()
        world.hub.held = dict.fromkeys(KEYS[:20], A) | {b"n:1": B}
        world.owe("hub")
        await finished(world)
        assert dict(world.suspects) == {b"n:1": True}
        assert world.sweep.held == 180
        world.owe("site")
        await finished(world, 2)
        assert world.sweep.held == 180  # nobody has looked at the hub again
        world.hub.held = dict.fromkeys(KEYS, A)
        world.owe("hub")
        await finished(world, 3)
        assert (world.sweep.held, world.settled()) == (0, ["site", "hub"])


@pytest.mark.parametrize("reason", ["flushed", "went back", "no removals", "no limit"])
async def test_what_is_no_surprise_or_removes_nothing_is_not_held(sweeping, reason):
    """A flush was meant; what a server lost comes back to it."""
    options = {"no removals": {"kinds": KINDS - {"del"}}, "no limit": {"max_removals": 1.0}}.get(reason, {})
    async with sweeping(**options) as world:
        world.agree()
        world.hub.held = {}
        if reason == "flushed":
            world.core.flushed("hub")
        world.owe("hub", event=Event.WENT_BACK if reason == "went back" else Event.GAP, proved=0)
        await finished(world)
        assert (len(world.suspects), world.sweep.held) == (200, 0)
