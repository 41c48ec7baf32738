"""A comparison finds what differs and goes on differing; a sweep heals it, and stays owed until it came to its end."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import KINDS, HashState, StringState, Touch
from redisrepl.comparison import Comparison
from redisrepl.errors import PeerUnavailableError
from redisrepl.healing import Difference, Healing
from redisrepl.namespaces import Namespaces
from redisrepl.outbound import OutboundCounters
from redisrepl.sweep import Sweep
from redisrepl.wire.digests import NO_KEY, digest
from testbed import eventually_async

PREFIX = b"n:"
RETRY = {"attempts": None, "timeout": None, "wait_initial": 0.001, "wait_max": 0.002, "wait_jitter": 0.0}


class Side:
    """Keys of one side; `before_page` and `before_look` are called with a number, and may change anything."""

    def __init__(self, held, size=2):
        self.held = {key: value if isinstance(value, HashState) else StringState(value) for key, value in held.items()}
        self.size = size
        self.cursors = []
        self.pages_read = self.looks = 0
        self.together = 1000
        self.before_page = self.before_look = lambda _number: None

    def set(self, key, value):
        self.held[key] = StringState(value)

    async def page(self, prefix, cursor, _count):
        keys = sorted(key for key in self.held if key.startswith(prefix))
        self.pages_read += 1
        self.before_page(self.pages_read - 1)
        begin = int(cursor)
        end = begin + self.size
        self.cursors.append(begin)
        return b"%d" % (end if end < len(keys) else 0), keys[begin:end]

    async def first_states(self, keys, _max_bytes):
        self.looks += 1
        self.before_look(self.looks - 1)
        return [self.held.get(key) for key in keys[: self.together]]

    async def digests(self, keys):
        self.looks += 1
        self.before_look(self.looks - 1)
        return [digest(self.held.get(key), expiries=True) for key in keys]


async def not_flushed():
    pass


def comparing(site, hub, look_for_flush=not_flushed):
    return Comparison(site, hub, expiries=True, rate=1e9, patience=0.0, before_telling=look_for_flush)


async def found_by(comparison, prefix=PREFIX):
    return [difference async for batch in comparison.differences(prefix) for difference in batch]


async def test_values_of_the_site_are_held_a_few_at_a_time():
    site, hub = Side({b"n:%d" % number: b"%d" % number for number in range(10)}, size=10), Side({b"n:3": b"3"}, size=10)
    site.together = 3
    found = await found_by(comparing(site, hub))
    assert sorted(difference.key for difference in found) == [b"n:%d" % number for number in range(10) if number != 3]


class Recorder:
    """Stands for both directions; remembers what it is told."""

    def __init__(self, kinds=KINDS):
        self.told = []
        self.counters = OutboundCounters()
        self.kinds = kinds
        self.on_its_way = set()
        self.waiting = set()
        self.removed = set()

    def busy(self, key):
        return key in self.waiting

    def add(self, change):
        self.told.append(("push", change))

    def seed(self, change):
        self.told.append(("seed", change))

    def mark_dirty(self, keys, *, removal=False):
        self.told += [("remove here" if removal else "pull", key) for key in keys]

    def holds(self, key):
        return key in self.on_its_way

    def removes(self, key):
        return key in self.removed


# Comparing.


async def test_equal_sides():
    held = {b"n:%d" % number: b"v" for number in range(7)}
    comparison = comparing(Side(held), Side(held))
    assert await found_by(comparison) == []
    assert comparison.compared == 7


async def test_keys_here_there_and_different():
    site = Side({b"n:here": b"v", b"n:both": b"one", b"n:same": b"v", b"n:hash": HashState({b"f": b"1"})})
    hub = Side({b"n:there": b"v", b"n:both": b"two", b"n:same": b"v", b"n:hash": HashState({b"f": b"2"})})
    comparison = comparing(site, hub)
    found = {difference.key: difference for difference in await found_by(comparison)}
    assert found.keys() == {b"n:here", b"n:there", b"n:both", b"n:hash"}
    assert found[b"n:here"].hub == NO_KEY != found[b"n:here"].site
    assert found[b"n:there"].site == NO_KEY != found[b"n:there"].hub
    assert NO_KEY not in {found[b"n:both"].site, found[b"n:both"].hub}
    assert comparison.compared == 5


async def test_each_difference_is_told_once():
    held = {b"n:%d" % number: b"site" for number in range(20)}
    found = await found_by(comparing(Side(held), Side(dict.fromkeys(held, b"hub"))))
    assert sorted(difference.key for difference in found) == sorted(held)


async def test_a_difference_that_vanishes_at_the_second_look_is_not_told():
    site, hub = Side({b"n:late": b"v", b"n:lost": b"v"}), Side({})

    def arrive(number):
        if number == 1:
            hub.set(b"n:late", b"v")

    hub.before_look = arrive
    assert [difference.key for difference in await found_by(comparing(site, hub))] == [b"n:lost"]


async def test_a_key_that_is_created_between_the_passes_is_compared_whole():
    """The hub's pass meets a key that the site's pass did not; by then both have one, and not the same."""
    site, hub = Side({b"n:a": b"v"}), Side({b"n:a": b"v"})

    def appear(_number):
        site.set(b"n:b", b"site")
        hub.set(b"n:b", b"hub")

    site.before_page = appear
    (found,) = await found_by(comparing(site, hub))
    assert found.key == b"n:b"
    assert NO_KEY not in {found.site, found.hub}


@pytest.mark.parametrize("written", ["neither", "site", "hub"])
async def test_a_difference_is_steady_if_it_is_the_same_at_both_looks(written):
    site, hub = Side({b"n:a": b"0", b"n:b": b"0"}, size=9), Side({b"n:a": b"1", b"n:b": b"1"}, size=9)

    def write(number):
        if number == 2:  # after a page of either side
            {"neither": Side({}), "site": site, "hub": hub}[written].set(b"n:b", b"2")

    site.before_look = write
    first, second = sorted(await found_by(comparing(site, hub)), key=lambda difference: difference.key)
    assert (first.key, first.steady) == (b"n:a", True)
    assert (second.key, second.steady) == (b"n:b", written == "neither")


async def test_other_namespaces_are_left_alone():
    class Careless(Side):
        async def page(self, _prefix, _cursor, _count):
            return b"0", list(self.held)

    found = await found_by(comparing(Side({}), Careless({b"x:other": b"v", b"n:key": b"v"})))
    assert [difference.key for difference in found] == [b"n:key"]


async def test_no_keys_at_all_are_no_look():
    site, hub = Side({}), Side({})
    assert await found_by(comparing(site, hub)) == []
    assert (site.looks, hub.looks) == (0, 0)


# Healing.

SITE_ONLY = Difference(b"k", b"string site ", NO_KEY)
HUB_ONLY = Difference(b"k", NO_KEY, b"string hub ")
BOTH = Difference(b"k", b"string site ", b"string hub ")


def remove(key):
    """At the hub, unless the site has it again when that leaves."""
    return "push", Touch(key, "del", replaces=True)


PUSH, SEED, PULL, REMOVE = ("push", Touch(b"k")), ("seed", Touch(b"k")), ("pull", b"k"), remove(b"k")
REMOVE_HERE = ("remove here", b"k")


@pytest.mark.parametrize(
    ("winner", "direction", "expected"),
    [
        ("hub", "both", ([SEED], [PULL], [SEED, PULL])),
        ("site", "both", ([PUSH], [PULL], [PUSH, PULL])),
        ("hub", "push", ([SEED], [], [SEED])),
        ("site", "push", ([PUSH], [], [PUSH])),
        ("hub", "pull", ([], [PULL], [PULL])),
        ("site", "pull", ([], [PULL], [PULL])),
        ("hub", "none", ([], [], [])),
        ("site", "none", ([], [], [])),
    ],
)
def test_healing(winner, direction, expected):
    for difference, calls in zip((SITE_ONLY, HUB_ONLY, BOTH), expected, strict=True):
        recorder = Recorder()
        Healing(recorder, recorder, winner, direction).heal(difference)
        assert recorder.told == calls


@pytest.mark.parametrize(("winner", "calls"), [("hub", [SEED]), ("site", [PUSH])])
def test_healing_without_a_way_back(winner, calls):
    for difference, expected in ((SITE_ONLY, calls), (HUB_ONLY, []), (BOTH, calls)):
        recorder = Recorder()
        Healing(recorder, None, winner, "both").heal(difference)
        assert recorder.told == expected


@pytest.mark.parametrize("winner", ["hub", "site"])
def test_what_is_removed_at_the_hub_and_not_yet_here_is_not_brought_back(winner):
    """Seen where a flush of the hub was still being followed when the next sweep, a second later, found the rest."""
    for difference, calls in ((SITE_ONLY, []), (BOTH, [PULL])):
        recorder = Recorder()
        recorder.removed.add(b"k")
        Healing(recorder, recorder, winner, "both").heal(difference, settled=True)
        assert recorder.told == calls


@pytest.mark.parametrize("winner", ["hub", "site"])
@pytest.mark.parametrize("inbound", [True, False])
def test_a_key_that_is_being_written_is_not_pushed_for_differing(winner, inbound):
    """By the time that it is, what the site still held may have been removed at the hub."""
    for difference, calls in (
        (SITE_ONLY, []),
        (BOTH, [PULL] if inbound else []),
        (HUB_ONLY, [PULL] if inbound else []),
    ):
        recorder = Recorder()
        healing = Healing(recorder, recorder if inbound else None, winner, "both")
        healing.heal(replace(difference, steady=False), settled=True)
        assert recorder.told == calls


@pytest.mark.parametrize(("winner", "call"), [("hub", SEED), ("site", PUSH)])
def test_what_may_never_have_been_at_the_hub_is_pushed_whatever_happens_to_it(winner, call):
    recorder = Recorder()
    recorder.removed.add(b"k")
    Healing(recorder, recorder, winner, "both").heal(replace(SITE_ONLY, steady=False))
    assert recorder.told == [call]


@pytest.mark.parametrize(
    ("emptied", "expected"),
    [
        ({"site"}, ([SEED], [REMOVE], [SEED, PULL])),
        ({"hub"}, ([REMOVE_HERE], [PULL], [REMOVE_HERE])),  # a hash that is there again may lack fields
        ({"site", "hub"}, ([REMOVE_HERE], [REMOVE], [REMOVE_HERE])),
    ],
)
def test_healing_after_a_flush(emptied, expected):
    for difference, calls in zip((SITE_ONLY, HUB_ONLY, BOTH), expected, strict=True):
        recorder = Recorder()
        Healing(recorder, recorder, "hub", "both").heal(difference, emptied=emptied)
        assert recorder.told == calls


@pytest.mark.parametrize("digest", [b"hash 1.2 ", b"list  "])
def test_a_flush_tells_nothing_of_keys_of_a_kind_that_does_not_cross(digest):
    recorder = Recorder(kinds=frozenset({"set", "del"}))
    healing = Healing(recorder, recorder, "hub", "both")
    for difference in (Difference(b"k", digest, NO_KEY), Difference(b"k", NO_KEY, digest)):
        healing.heal(difference, emptied={"site", "hub"})
    assert recorder.told == [SEED, PULL]


@pytest.mark.parametrize("where", ["on_its_way", "waiting"])
def test_a_key_on_its_way_to_either_side_is_not_what_a_flush_of_the_site_removed(where):
    recorder = Recorder()
    getattr(recorder, where).add(b"k")
    Healing(recorder, recorder, "hub", "both").heal(HUB_ONLY, emptied={"site"})
    assert recorder.told == []


@pytest.mark.parametrize(
    ("direction", "failed", "known"),
    [("both", 0, True), ("push", 0, False), ("pull", 0, True), ("none", 0, False), ("both", 1, False)],
)
def test_whether_all_that_the_hub_holds_was_at_the_site(direction, failed, known):
    recorder = Recorder()
    recorder.counters.failed = failed
    assert Healing(recorder, recorder, "hub", direction).all_was_pulled is known
    assert Healing(recorder, None, "hub", direction).all_was_pulled


@pytest.mark.parametrize(
    ("direction", "failed", "known"),
    [("both", 0, True), ("push", 0, True), ("pull", 0, False), ("none", 0, False), ("both", 1, False)],
)
def test_whether_all_that_the_site_holds_was_at_the_hub(direction, failed, known):
    recorder = Recorder()
    recorder.counters.failed = failed
    assert Healing(recorder, recorder, "hub", direction).all_was_pushed is known


@pytest.mark.parametrize(
    ("direction", "missed", "expected"),
    [
        ("none", {"push"}, ([SEED], [], [SEED])),
        ("none", {"pull"}, ([], [PULL], [PULL])),
        ("none", {"push", "pull"}, ([SEED], [PULL], [SEED, PULL])),
        ("push", {"pull"}, ([SEED], [PULL], [SEED, PULL])),
        ("pull", {"push"}, ([SEED], [PULL], [SEED, PULL])),
        ("pull", {"pull"}, ([], [PULL], [PULL])),
    ],
)
def test_a_gap_is_healed_whichever_way_first_contact_copied(direction, missed, expected):
    for difference, calls in zip((SITE_ONLY, HUB_ONLY, BOTH), expected, strict=True):
        recorder = Recorder()
        Healing(recorder, recorder, "hub", direction).heal(difference, missed=frozenset(missed))
        assert recorder.told == calls


# Sweeping.


@contextlib.asynccontextmanager
async def sweeping(
    site, hub, *, prefixes=(PREFIX,), period=0.0, attached=True, direction="both", hearing=lambda: 0, flushes=None
):
    """A sweep that runs; `told` is what it did. `flushes`: called when it looks whether the hub was flushed."""
    recorder, wakes = Recorder(), []

    async def look_for_flush():
        if flushes is not None:
            flushes()

    sweep = Sweep(
        comparing(site, hub, look_for_flush),
        Namespaces(prefixes),
        Healing(recorder, recorder, "hub", direction, hearing),
        period=period,
        wake=lambda: wakes.append(1),
        retry=RETRY,
    )
    sweep.told, sweep.wakes, sweep.pushes = recorder.told, wakes, recorder.counters
    if attached:
        sweep.attached.set()
    task = asyncio.create_task(sweep.run())
    try:
        yield sweep
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_sweep_that_is_owed_heals_every_namespace():
    site, hub = Side({b"n:here": b"v"}), Side({b"m:there": b"v"})
    with capture_logs() as logs:
        async with sweeping(site, hub, prefixes=(b"n:", b"m:")) as sweep:
            sweep.owe("a reason")
            await eventually_async(lambda: sweep.runs == 1)
    assert sorted(sweep.told) == [("pull", b"m:there"), ("seed", Touch(b"n:here"))]
    assert sweep.wakes
    assert sweep.owed is None
    (record,) = [record for record in logs if record["event"] == "sweep.finished"]
    assert (record["reason"], record["compared"], record["different"]) == ("a reason", 2, 2)


def being_written():
    site, hub = Side({b"n:k": b"v"}), Side({b"n:k": b"0"})
    hub.before_look = lambda number: hub.set(b"n:k", b"%d" % number)
    return site, hub


async def test_what_is_being_written_may_have_been_missed_in_a_gap():
    async with sweeping(*being_written()) as sweep:
        for missed in ((), ("pull",), ("push",)):
            runs = sweep.runs
            sweep.owe("a gap", *missed)
            await eventually_async(lambda runs=runs: sweep.runs > runs)
            assert sweep.told == [("seed", Touch(b"n:k")), ("pull", b"n:k")]
            sweep.told.clear()


async def test_what_is_being_written_is_not_pushed_where_nothing_was_missed():
    async with sweeping(*being_written(), period=0.001) as sweep:
        await eventually_async(lambda: sweep.runs > 2)
        assert sweep.told[:2] == [("seed", Touch(b"n:k")), ("pull", b"n:k")]  # at first contact
        assert sweep.told[2:4] == [("pull", b"n:k")] * 2


async def test_it_waits_for_the_sites_stream():
    site = Side({b"n:here": b"v"})
    async with sweeping(site, Side({}), attached=False) as sweep:
        sweep.owe("start")
        for _ in range(20):
            await asyncio.sleep(0)
        assert site.pages_read == 0
        assert sweep.owed == "start"
        sweep.attached.set()
        await eventually_async(lambda: sweep.runs == 1)


async def test_a_sweep_on_a_timer():
    async with sweeping(Side({}), Side({}), period=0.01) as sweep:
        await eventually_async(lambda: sweep.runs >= 2)


async def test_removals_are_for_one_sweep_only():
    async with sweeping(Side({}), Side({b"n:there": b"v"})) as sweep:
        sweep.owe("flushed", emptied="site")
        await eventually_async(lambda: sweep.runs == 1)
        assert sweep.told == [remove(b"n:there")]
        sweep.owe("later")
        await eventually_async(lambda: sweep.runs == 2)
        assert sweep.told[1:] == [("pull", b"n:there")]


@pytest.mark.parametrize("removals", [True, False])
async def test_a_sweep_that_fails_midway_stays_owed_and_is_tried_again(removals):
    site, hub = Side({}), Side({b"n:%d" % number: b"v" for number in range(5)})
    owed = []

    def fail(number):
        if number in {0, 2, 3}:
            raise PeerUnavailableError("away")
        owed.append(sweep.owed)

    hub.before_look = fail
    with capture_logs() as logs:
        async with sweeping(site, hub) as sweep:
            sweep.owe("first", emptied="site" if removals else None)
            await eventually_async(lambda: sweep.runs == 1)
    keys = {entry[1].key if removals else entry[1] for entry in sweep.told}
    assert keys == set(hub.held)
    assert {entry[0] for entry in sweep.told} == {"push" if removals else "pull"}
    assert set(owed) == {None}  # while it is under way it is owed no more, so that another can be
    assert sweep.owed is None
    events = [record["event"] for record in logs]
    assert events.count("sweep.failed") == events.count("sweep.recovered") == 1
    assert [record["reason"] for record in logs if record["event"] == "sweep.finished"] == ["first"]


async def test_what_is_owed_while_one_is_under_way_is_done_next():
    site, hub = Side({b"n:a": b"v"}), Side({b"n:a": b"v"})

    def gap(number):
        if number == 0:
            sweep.owe("gap")

    hub.before_page = gap
    with capture_logs() as logs:
        async with sweeping(site, hub) as sweep:
            sweep.owe("start")
            await eventually_async(lambda: sweep.runs == 2)
    assert [record["reason"] for record in logs if record["event"] == "sweep.finished"] == ["start", "gap"]


async def test_it_goes_on_with_the_page_where_it_failed():
    """Each page is read once more than it failed, and each key compared once."""
    held = {b"n:%02d" % number: b"v" for number in range(20)}
    site, hub = Side(held), Side(held)
    site.set(b"n:00", b"early")  # what was found before the failure is not forgotten
    hub.set(b"n:19", b"late")

    def fail(number):
        if number in {2, 3, 7}:
            raise PeerUnavailableError("away")

    def fail_too(number):
        if number in {12, 25}:
            raise PeerUnavailableError("away")

    site.before_page, hub.before_look = fail, fail_too
    with capture_logs() as logs:
        async with sweeping(site, hub) as sweep:
            sweep.owe("first")
            await eventually_async(lambda: sweep.runs == 1)
    assert sorted(set(site.cursors)) == sorted(set(hub.cursors)) == list(range(0, 20, 2))
    assert site.cursors == sorted(site.cursors)  # never back to the beginning
    assert hub.cursors == sorted(hub.cursors)
    assert {entry[1] for entry in sweep.told if entry[0] == "pull"} == {b"n:00", b"n:19"}
    assert len(sweep.told) == 4
    (record,) = [record for record in logs if record["event"] == "sweep.finished"]
    assert (record["compared"], record["different"]) == (20, 2)


async def test_a_second_look_that_failed_is_taken_again():
    site, hub = Side({b"n:a": b"v"}), Side({})

    def fail(number):
        if number == 1:
            raise PeerUnavailableError("away")

    hub.before_look = fail
    async with sweeping(site, hub) as sweep:
        sweep.owe("first")
        await eventually_async(lambda: sweep.runs == 1)
    assert sweep.told == [("seed", Touch(b"n:a"))]
    assert site.pages_read == hub.pages_read == 1


async def test_after_the_sites_link_was_lost_its_keys_are_gone_through_anew():
    """The server may be another one: a cursor of the old one would leave keys out. Also one that is just being read."""
    held = {b"n:%d" % number: b"v" for number in range(6)}
    site, hub = Side(held), Side(held)

    def lose(number):
        if number == 1:
            sweep.detached()
            sweep.attached.set()

    site.before_page = lose
    async with sweeping(site, hub) as sweep:
        sweep.owe("first")
        await eventually_async(lambda: sweep.runs == 1)
    assert site.cursors == [0, 2, 0, 2, 4]
    assert hub.cursors == [0, 2, 4]


async def test_a_link_that_is_lost_later_leaves_what_is_done():
    held = {b"n:%d" % number: b"v" for number in range(6)}
    site, hub = Side(held), Side(held)

    def lose(number):
        if number == 1:
            sweep.detached()
            sweep.attached.set()

    hub.before_page = lose
    async with sweeping(site, hub) as sweep:
        sweep.owe("first")
        await eventually_async(lambda: sweep.runs == 1)
    assert site.cursors == hub.cursors == [0, 2, 4]


async def test_flushall_makes_it_begin_anew():
    """What it would bring back from the hub is what must be removed there."""
    site, hub = Side({}), Side({b"n:%d" % number: b"v" for number in range(4)})

    def flush(number):
        if number == 0:
            sweep.owe("flushed", emptied="site")

    hub.before_page = flush
    async with sweeping(site, hub) as sweep:
        sweep.owe("first")
        await eventually_async(lambda: sweep.runs == 1)
        assert sweep.owed is None
    assert sweep.told == [remove(b"n:%d" % number) for number in range(4)]


async def settled(sweep):
    """Both sides were compared once, and told nothing."""
    sweep.owe("start")
    await eventually_async(lambda: sweep.settled)
    runs = sweep.runs
    sweep.told.clear()
    return runs


def undone(logs):
    return [(record["flushed"], record["reason"]) for record in logs if record["event"] == "sweep.flush_undone"]


UNKNOWN = "not all that the other side holds is known to have been there"
MISSED = "the hub's events were missed since"


async def test_a_flush_of_the_hub_removes_what_the_site_alone_holds():
    held = {b"n:%d" % number: b"v" for number in range(5)}
    site, hub = Side(held), Side(held)
    with capture_logs() as logs:
        async with sweeping(site, hub) as sweep:
            runs = await settled(sweep)
            hub.held = {b"n:3": StringState(b"new"), b"n:after": StringState(b"v")}
            sweep.hub_flushed(followed=True)
            await eventually_async(lambda: sweep.runs > runs)
            assert sweep.settled
    assert sorted(sweep.told) == [
        ("pull", b"n:after"),
        *(("remove here", key) for key in sorted(held)),
    ]
    assert undone(logs) == []


@pytest.mark.parametrize("why", ["nothing was compared yet", "a gap", "some was not pushed", "not followed"])
async def test_a_flush_of_the_hub_is_undone_where_keys_may_never_have_been_there(why):
    site, hub = Side({b"n:key": b"v"}), Side({})
    with capture_logs() as logs:
        async with sweeping(site, hub, direction="pull" if why == "some was not pushed" else "both") as sweep:
            runs = 0 if why == "nothing was compared yet" else await settled(sweep)
            if why == "a gap":
                sweep.owe("gap", "push")
            sweep.hub_flushed(followed=why != "not followed")
            await eventually_async(lambda: sweep.runs > runs)
    assert sweep.told == ([] if why == "some was not pushed" else [("seed", Touch(b"n:key"))])
    assert undone(logs) == [("hub", UNKNOWN)]


async def test_a_flush_of_the_hub_that_only_the_sweep_has_found_out():
    """It began before the flush, and would have brought everything back."""
    held = {b"n:%d" % number: b"v" for number in range(5)}
    site, hub = Side(held), Side(held)
    flushed = []

    def look():
        if not flushed:
            flushed.append(True)
            sweep.hub_flushed(followed=True)

    def flush(number):
        if number == begun + 1:
            hub.held = {}

    async with sweeping(site, hub, flushes=look, period=0.05) as sweep:
        runs = await settled(sweep)
        begun = site.pages_read
        site.before_page = flush
        await eventually_async(lambda: flushed and sweep.runs > runs)
        assert sorted(sweep.told) == [("remove here", key) for key in sorted(held)]


@pytest.mark.parametrize("hearing", [None, 2])
async def test_a_flush_of_the_hub_is_undone_if_its_events_were_missed(hearing):
    site, hub, gaps = Side({b"n:key": b"v"}), Side({b"n:key": b"v"}), [1]

    def miss():
        gaps[0] = hearing

    with capture_logs() as logs:
        async with sweeping(site, hub, hearing=lambda: gaps[0], flushes=miss) as sweep:
            runs = await settled(sweep)
            hub.held = {}
            sweep.hub_flushed(followed=True)
            await eventually_async(lambda: sweep.runs > runs)
    assert sweep.told == [("seed", Touch(b"n:key"))]
    assert undone(logs) == [("hub", MISSED)]


@pytest.mark.parametrize("why", ["refused", "left to a sweep"])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_flush_of_the_hub_is_undone_if_not_all_of_the_site_arrived_since(why, begun):
    site, hub = Side({b"n:key": b"v"}), Side({b"n:key": b"v"})

    def write(*_):
        hub.before_look = lambda _number: None
        site.set(b"n:new", b"v")
        if why == "refused":
            sweep.pushes.failed = 1
        else:
            sweep.owe("more keys waited than --max-keys", "push")

    with capture_logs() as logs:
        async with sweeping(site, hub) as sweep:
            runs = await settled(sweep)
            hub.held = {}
            sweep.hub_flushed(followed=True)
            if begun:
                hub.before_look = write
            else:
                write()
            await eventually_async(lambda: sweep.runs > runs)
    assert {told for told, _ in sweep.told} == {"seed"}
    assert undone(logs) == [("hub", UNKNOWN)]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_flush_of_the_site_is_undone_if_not_all_of_the_hub_was_heard_of_since(begun):
    site, hub = Side({b"n:key": b"v"}), Side({b"n:key": b"v"})

    def write(*_):
        site.before_look = lambda _number: None
        hub.set(b"n:new", b"v")
        sweep.owe("more keys changed at the hub than --max-keys", "pull")

    with capture_logs() as logs:
        async with sweeping(site, hub) as sweep:
            runs = await settled(sweep)
            site.held = {}
            sweep.site_flushed()
            if begun:
                site.before_look = write
            else:
                write()
            await eventually_async(lambda: sweep.runs > runs)
    assert {told for told, _ in sweep.told} == {"pull"}
    assert undone(logs) == [("site", UNKNOWN)]


async def test_whether_the_hub_was_flushed_is_asked_where_a_hash_has_fewer_fields():
    """It may be there again, and the sweep would bring its old fields back."""
    site, hub, asked = Side({b"n:hash": HashState({b"a": b"1", b"b": b"2"})}), Side({}), []
    hub.held[b"n:hash"] = HashState({b"a": b"new"})
    async with sweeping(site, hub, flushes=lambda: asked.append(list(sweep.told))) as sweep:
        sweep.owe("first")
        await eventually_async(lambda: sweep.runs == 1)
    assert asked == [[]]
    assert sweep.told


@pytest.mark.parametrize("why", ["nothing was compared yet", "a gap", "not pulled"])
async def test_a_flush_of_the_site_is_undone_where_keys_may_never_have_been_there(why):
    site, hub = Side({}), Side({b"n:key": b"v"})
    with capture_logs() as logs:
        async with sweeping(site, hub, direction="push" if why == "not pulled" else "both") as sweep:
            runs = 0 if why == "nothing was compared yet" else await settled(sweep)
            if why == "a gap":
                sweep.owe("gap", "pull")
            sweep.site_flushed()
            await eventually_async(lambda: sweep.runs > runs)
    assert sweep.told == ([] if why == "not pulled" else [("pull", b"n:key")])
    assert undone(logs) == [("site", UNKNOWN)]


async def test_a_flush_of_the_site_removes_what_the_hub_alone_holds():
    site, hub = Side({}), Side({b"n:key": b"v"})
    async with sweeping(site, hub) as sweep:
        runs = await settled(sweep)
        sweep.site_flushed()
        await eventually_async(lambda: sweep.runs > runs)
        assert sweep.told == [remove(b"n:key")]


async def test_a_flush_of_the_site_is_not_followed_any_more_once_the_site_refuses_a_key_of_the_hub():
    site, hub = Side({}), Side({b"n:key": b"v"})

    def refuse(_):
        sweep.told.clear()
        sweep.pushes.failed = 1  # it counts for both ways here

    with capture_logs() as logs:
        async with sweeping(site, hub) as sweep:
            runs = await settled(sweep)
            hub.before_look = refuse
            sweep.site_flushed()
            await eventually_async(lambda: sweep.runs > runs)
    assert sweep.told == [("pull", b"n:key")]
    assert undone(logs) == [("site", UNKNOWN)]


async def test_two_flushes_in_a_row():
    """The second one comes while the first is being healed, and the other side is flushed in between."""
    held = {b"n:%d" % number: b"v" for number in range(5)}
    site, hub = Side(held), Side(held)

    def flush_again(number):
        if number == begun + 1:
            site.held = {b"n:site": StringState(b"v")}
            sweep.owe("the site was flushed", "push", emptied="site")
            sweep.hub_flushed(followed=True)

    with capture_logs() as logs:
        async with sweeping(site, hub) as sweep:
            await settled(sweep)
            begun = site.pages_read
            site.before_page = flush_again
            hub.held = {b"n:hub": StringState(b"v")}
            sweep.hub_flushed(followed=True)
            await eventually_async(lambda: sweep.owed is None and sweep.running is None)
    assert set(sweep.told) == {("remove here", b"n:site"), remove(b"n:hub")}
    assert undone(logs) == []


async def test_a_sweep_that_begins_anew_is_still_for_what_the_first_one_was():
    site, hub = Side({}), Side({b"n:there": b"v"})

    def flush(number):
        if number == 0:
            site.set(b"n:here", b"v")
            sweep.owe("the site was flushed", "push", emptied="site")

    hub.before_page = flush
    async with sweeping(site, hub, direction="none", hearing=lambda: None) as sweep:
        sweep.owe("gap", "pull")
        await eventually_async(lambda: sweep.runs == 1)
    assert sorted(sweep.told) == [("pull", b"n:there"), ("seed", Touch(b"n:here"))]


async def test_what_a_gap_missed_is_for_one_sweep_only():
    async with sweeping(Side({b"n:here": b"v"}), Side({b"n:there": b"v"}), direction="none") as sweep:
        sweep.owe("first contact")
        await eventually_async(lambda: sweep.runs == 1)
        assert sweep.told == []
        sweep.owe("gap", "pull")
        await eventually_async(lambda: sweep.runs == 2)
        assert sweep.told == [("pull", b"n:there")]
        sweep.owe("timer")
        await eventually_async(lambda: sweep.runs == 3)
        assert len(sweep.told) == 1
        assert sweep.last["different"] == 2


async def test_pages_and_second_looks_are_paced(monkeypatch):
    """Keys per second hold for what is compared, on either side and at either look; passing over others is cheap."""
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr("redisrepl.comparison.asyncio.sleep", sleep)
    held = {b"n:%d" % number: b"v" for number in range(4)}
    comparison = Comparison(Side(held), Side(dict.fromkeys(held, b"w")), expiries=True, rate=1.0, patience=1000.0)
    assert len(await found_by(comparison)) == 4
    pages, patience, looks = slept[:4], slept[4], slept[5:]
    assert patience == 1000.0
    assert [round(seconds) for seconds in pages] == [52] * 4  # two keys, and 50 for going through 500
    assert [round(seconds) for seconds in looks] == [4]
