"""What survives the daemon."""

from __future__ import annotations

import asyncio
import json

import pytest

from redisrepl.changes import Position, StringSet
from redisrepl.engine.continuity import Continuity, Event
from redisrepl.engine.core import Core
from redisrepl.engine.losses import Findings
from redisrepl.engine.seen import Ring
from redisrepl.errors import PeerUnavailableError
from redisrepl.flow import saving
from redisrepl.flow.known import Known
from redisrepl.flow.saving import SavedState, Saving
from redisrepl.remote.history import HubFacts
from testbed import eventually_async

REPLID = "a" * 40


class Mark:
    """Remembers what is written; `error` refuses it."""

    def __init__(self):
        self.written, self.error = [], None

    async def write(self, agreed, durable):
        if self.error is not None:
            raise self.error
        self.written.append(agreed)
        self.durable = durable


class World:
    """The parts that know what is saved; the site holds `held`."""

    def __init__(self, store):
        self.store = store
        self.core = Core(lambda key: key.startswith(b"ns:"))
        self.key = b"redisrepl:fence:ns:us"
        self.position, self.seen, self.epoch, self.known = Position(REPLID, 0), None, 5, {0: 7, 3: 9}
        self.history = Known(store.saved)
        self.held, self.asked = {}, []
        self.mark = Mark()
        self.saving = Saving(store, self.core, self, self.history, self, self.read, "us", self.mark)

    async def read(self, places):
        places = list(places)
        self.asked.append([key for key, _ in places])
        if self.held is None:
            raise PeerUnavailableError("away")
        return {place: self.held.get(place[0]) for place in places}

    def attached(self):
        self.core.site_attached()
        self.core.judged("site", Event.RESUMED)

    def saved(self):
        """What the next process finds."""
        self.saving.save()
        return json.loads(json.dumps(self.store._document))


@pytest.fixture
def world(store):
    world = World(store)
    world.attached()
    return world


def test_the_next_process_goes_on_where_everything_is_at_the_hub(world):
    world.core.outbound.read([[b"SELECT", b"3"]], 100)
    assert SavedState.load(world.saved()) == SavedState(Position(REPLID, 100), 3, "us", 5, {0: 7, 3: 9}, world.key)


def test_a_position_behind_which_something_is_in_doubt_is_not_gone_on_from(world):
    world.core.outbound.read([], 100)
    world.saved()
    world.core.outbound.doubt(b"ns:k")
    world.core.outbound.read([], 200)
    assert SavedState.load(world.saved()).position == Position(REPLID, 100)  # the last one that was good
    world.core.outbound.succeeded(world.core.outbound.take(1, 1000), {})
    assert SavedState.load(world.saved()).position == Position(REPLID, 200)


def test_a_stream_that_is_not_followed_any_more_has_no_position(world):
    world.core.outbound.read([], 100)
    world.saved()
    world.position = None
    assert SavedState.load(world.saved()).position is None


async def test_what_the_last_process_saved_stays_until_there_is_something_newer(store):
    store.saved = {"replid": REPLID, "offset": 50, "database": 2, "seen": [REPLID, 60]}
    world = World(store)
    saved = world.saved()
    assert SavedState.load(saved).position == Position(REPLID, 50)
    assert saved["seen"] == [REPLID, 60]


def test_how_far_the_stream_was_read_counts_once_it_is_known_whose_it_is(world):
    world.seen = Position(REPLID, 70)
    assert world.saved()["seen"] == [REPLID, 70]
    world.core.site_attached()  # it may be another server by now
    world.seen = Position("b" * 40, 5)
    world.core.outbound.read([[b"SET", b"ns:k", b"v"]], 80)
    assert world.saved()["seen"] == [REPLID, 70]
    assert len(world.core.record.ring) == 0
    world.core.judged("site", Event.GAP, "gap")
    assert world.saved()["seen"] == ["b" * 40, 5]
    assert len(world.core.record.ring) == 1


def test_histories_and_evidence_are_saved(world):
    world.core.judged("hub", Event.WENT_BACK, "back", Findings(proved=5))
    world.core.outbound.read([[b"SET", b"ns:k", b"v"]], 80)
    saved = world.saved()
    assert Continuity.load(saved["continuity"]).hub.proved == 5
    assert list(Ring.load(saved)) == list(world.core.record.ring) != []
    world.core.outbound.read([[b"SET", b"ns:k", b"w"]], 90)
    world.saving.save()
    assert len(Ring.load(world.saved())) == 2


async def test_what_a_server_lacks_that_came_up_meanwhile_is_no_evidence(world):
    """It would say that a client had removed these keys."""
    world.core.outbound.read([[b"INCR", b"ns:k"]], 80)
    world.saving.save()
    world.core.site_lost(8)
    world.core.site_attached()
    world.core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=0))
    await world.saving._read_witnesses()
    assert world.asked == []
    assert not world.core.record.ring.last(b"ns:k")


async def test_keys_of_changes_without_a_value_are_read_though_the_state_was_saved_again_meanwhile(world):
    world.core.outbound.read([[b"INCR", b"ns:k"], [b"INCR", b"ns:l"]], 80)
    world.saving.save()
    world.core.outbound.read([[b"INCR", b"ns:m"], [b"INCR", b"ns:k"]], 90)
    world.saving.save()
    await world.saving._read_witnesses()
    assert world.asked == [[b"ns:l", b"ns:m", b"ns:k"]]


async def test_the_site_is_marked_with_what_is_agreed_on_about_what_it_holds(world, monkeypatch):
    now = 100.0
    monkeypatch.setattr(saving.time, "monotonic", lambda: now)

    async def mark(agreed, changes=1):
        world.core.record.ring.add(agreed, [StringSet(b"ns:k", b"v")] * changes)
        await world.saving._mark_site()

    await mark(5)
    await mark(6)
    assert world.mark.written == [5]  # not so soon for so few
    await mark(13, saving._MARK_EVERY - 1)
    await mark(20, saving._MARK_EVERY - 1)
    assert world.mark.written == [5, 13]
    now += saving._MARK_PERIOD
    world.mark.error = PeerUnavailableError("away")
    await mark(20)
    world.mark.error = None
    await mark(20)
    assert world.mark.written == [5, 13, 20]
    now += saving._MARK_PERIOD
    await mark(20, 0)  # which it has
    world.core.site_lost(8)
    world.core.site_attached()
    await mark(40)  # whose history is not known yet
    assert world.mark.written == [5, 13, 20]
    world.core.judged("site", Event.WENT_BACK, "restarted", Findings(proved=6, number=41))
    await mark(41)  # which lacks some of it
    await mark(50)
    assert world.mark.written == [5, 13, 20, 6]


async def test_who_we_are_is_on_disk_before_anything_is_sent(world):
    """A daemon that is killed right after its first push: the next one asks the same fence what became of it."""
    task = asyncio.create_task(world.saving.run())
    await asyncio.sleep(0)  # sending takes longer
    written = world.store._journal.path.read_bytes()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert b'"origin": "us"' in written
    assert world.key in written


async def test_what_changes_that_tell_no_value_led_to_is_read(world):
    keys = [b"ns:%d" % number for number in range(50)]
    world.held = dict.fromkeys(keys, 7)
    world.core.outbound.read([[b"INCR", key] for key in keys], 80)
    world.saving.save()
    task = asyncio.create_task(world.saving.run())
    await eventually_async(lambda: len(world.core.record.ring))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.asked[0] == keys[-32:]
    assert [(seen.key, seen.digest) for seen in world.core.record.ring][-32:] == [(key, 7) for key in keys[-32:]]


async def test_a_daemon_that_is_idle_is_not_woken_to_save_nothing(world, monkeypatch):
    monkeypatch.setattr(saving, "_PERIOD", 0.0)
    world.core.judged("hub", Event.RESUMED)
    world.core.compared(["site", "hub"])
    saves, save = [], world.saving.save_news
    monkeypatch.setattr(world.saving, "save_news", lambda: saves.append(save()) or saves[-1])
    task = asyncio.create_task(world.saving.run())
    await eventually_async(lambda: saves and not saves[-1])

    before = len(saves)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(saves) == before

    world.core.outbound.read([[b"SELECT", b"3"]], 10_000)
    world.saving.wake()
    await eventually_async(lambda: SavedState.load(world.store._document).position == Position(REPLID, 10_000))
    await eventually_async(lambda: not saves[-1])
    world.known = {0: 8}  # of which nobody tells
    world.saving.tick()
    assert SavedState.load(world.store._document).executed == {0: 8}

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_nothing_is_written_for_what_moves_though_nothing_happens(world):
    """A gateway's disk is a card that wears: PINGs of the site and questions to the hub come day and night."""
    world.history.hub = HubFacts("r" * 40, 1, 2, 1000)
    world.core.outbound.read([], 5000)
    world.seen = Position(REPLID, 5000)
    world.saving.save()
    before = world.store._journal.end

    world.core.outbound.read([], 5056)
    world.seen, world.history.hub = Position(REPLID, 5056), HubFacts("r" * 40, 1, 2, 1100)
    assert not world.saving.save_news()
    assert world.store._journal.end == before

    world.history.hub = HubFacts("r" * 40, 2, 2, 1100)  # it was flushed
    assert world.saving.save_news()
    assert world.store._journal.end > before


@pytest.mark.parametrize("seen", [Position(REPLID, 9000), Position("b" * 40, 5000)])
def test_a_stream_that_moved_far_or_is_another_one_is_written(world, seen):
    world.core.outbound.read([], 5000)
    world.seen = Position(REPLID, 5000)
    world.saving.save()

    world.core.outbound.read([], seen.offset)
    world.seen = seen
    assert world.saving.save_news()
    assert world.store._document["seen"] == list(seen)


def test_little_is_written_where_little_has_changed(world):
    for number in range(1000):
        world.core.outbound.read([[b"SET", b"ns:%d" % number, b"v"]], 100 * number)
        world.saving.save()
    before = world.store._journal.end
    for number in range(100):
        world.core.outbound.read([[b"SET", b"ns:%d" % number, b"w"]], 100_000 + 100 * number)
        world.saving.save()

    assert world.store._journal.end - before < 100 * 1000  # a whole document has 13,000 bytes


@pytest.mark.parametrize("why", ["away", "lost meanwhile"])
async def test_what_cannot_be_read_is_no_evidence(world, why):
    world.held = None if why == "away" else {}
    read = world.read

    async def lost(places):
        if why == "lost meanwhile":
            world.core.site_attached()
        return await read(places)

    world.saving._held = lost
    world.core.outbound.read([[b"INCR", b"ns:1"]], 80)
    world.saving.save()
    task = asyncio.create_task(world.saving.run())
    await eventually_async(lambda: world.asked)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(world.core.record.ring) == 0


def test_a_store_that_cannot_write_is_named_once(world):
    world.saving.failed("no space left on device")
    assert world.saving.failure_log.failures == 1
    world.saving.failed(None)
    assert not world.saving.failure_log.failures


@pytest.mark.parametrize(
    ("document", "state"),
    [
        ({}, SavedState(None, 0, "", 0, {})),
        (
            {"replid": "x", "offset": 5, "database": 2, "origin": "us", "epoch": 3, "executed": [[1, 2], [3, 4]]},
            SavedState(Position("x", 5), 2, "us", 3, {1: 2, 3: 4}, b"redisrepl:fence:us"),
        ),
        (
            {"replid": "x", "offset": 5, "database": 2, "origin": "us"},
            SavedState(Position("x", 5), 2, "us", 0, {}, b"redisrepl:fence:us"),
        ),
        ({"replid": "x", "offset": -1}, SavedState(None, 0, "", 0, {})),
        ({"replid": 5, "offset": 5}, SavedState(None, 0, "", 0, {})),
        ({"database": "2", "origin": 5, "epoch": "x", "executed": 5}, SavedState(None, 0, "", 0, {})),
        ({"executed": [[1], "x", [1, "2"], [3, 4], None]}, SavedState(None, 0, "", 0, {3: 4})),
    ],
)
def test_a_document_of_any_kind(document, state):
    assert SavedState.load(document) == state
