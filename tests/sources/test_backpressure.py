"""How long a snapshot waits for the hub: as long as that helps, and harms nobody."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import StringSet
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.outbound import Outbound
from redisrepl.engine.pushes import OutboundOptions
from redisrepl.local.info import BufferLimit, SiteInfo
from redisrepl.namespaces import Namespaces
from redisrepl.sources.backpressure import Backpressure
from redisrepl.wire.batches import UNCHANGED
from redisrepl.wire.commands import ChangeDecoder

LIMIT = BufferLimit(hard=1000, soft=400, seconds=60)


class Snapshot:
    """A queue with room for 100 keys before it is crowded, and a hub that takes ten at a time."""

    def __init__(self, facts, *, seconds_per_batch=1.0, batches=1000, holds_all=False):
        decoder = ChangeDecoder(Namespaces([b"n:"]).covers, frozenset({"set"}), 0)
        self.outbound = Outbound(decoder, ExpectedEvents(10), options=OutboundOptions(max_keys=200))
        self.facts = facts
        self.asked = 0
        self.now = 50.0
        self._seconds = seconds_per_batch
        self._batches = batches
        self._holds_all = holds_all
        self.pressure = Backpressure(self.outbound, self.returned, self.ask, clock=lambda: self.now)
        self.pressure.begin(offset=1000)

    async def ask(self):
        self.asked += 1
        return self.facts

    async def returned(self):
        if not self._batches:
            await asyncio.Event().wait()
        self._batches -= 1
        self.now += self._seconds
        batch = self.outbound.take(10, 1 << 20)
        self.outbound.succeeded(batch, {c.key: UNCHANGED for c in batch.changes} if self._holds_all else {})

    def read(self, keys):
        for number in range(keys):
            self.outbound.pending.add(StringSet(b"n:%d:%d" % (self.outbound.counters.pushed, number), b"v"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("redisrepl.sources.backpressure._STALLED", 0.05)


async def test_it_waits_until_there_is_room():
    snapshot = Snapshot(SiteInfo(offset=1000, buffer_limit=LIMIT))
    snapshot.read(100)
    await snapshot.pressure.room()
    assert snapshot.outbound.waiting == 100

    snapshot.read(135)
    await snapshot.pressure.room()
    assert snapshot.outbound.waiting <= 100
    assert snapshot.outbound.counters.pushed > 0


@pytest.mark.parametrize(
    ("facts", "waits"),
    [
        (SiteInfo(offset=1100, buffer_limit=LIMIT), True),
        (SiteInfo(offset=1101, buffer_limit=LIMIT), False),
        (SiteInfo(offset=1250, buffer_limit=BufferLimit(1000, 0, 0)), True),
        (SiteInfo(offset=1251, buffer_limit=BufferLimit(1000, 0, 0)), False),
        (SiteInfo(offset=1000 + (16 << 20), buffer_limit=BufferLimit(0, 0, 0)), True),
        (SiteInfo(offset=1001 + (16 << 20)), False),
        (SiteInfo(failure="refused"), False),
    ],
    ids=["soft", "above soft", "hard", "above hard", "no limit", "limit unknown", "offset unknown"],
)
async def test_a_site_whose_buffer_for_us_fills_up_does_not_have_to_wait(facts, waits):
    snapshot = Snapshot(facts)
    snapshot.read(150)
    with capture_logs() as logs:
        await snapshot.pressure.room()
        snapshot.read(10)
        await snapshot.pressure.room()
    assert (snapshot.outbound.waiting <= 100) is waits
    assert [line["event"] for line in logs] == ([] if waits else ["snapshot.unpaced"])


async def test_a_hub_that_takes_nothing_is_not_waited_for():
    snapshot = Snapshot(SiteInfo(offset=1000), batches=1)
    snapshot.read(150)
    with capture_logs() as logs:
        await snapshot.pressure.room()
        await snapshot.pressure.room()
    assert snapshot.outbound.waiting == 140
    assert [line["reason"] for line in logs] == ["the hub takes nothing"]


async def test_a_hub_that_holds_all_of_it_already_takes_it_too():
    snapshot = Snapshot(SiteInfo(offset=1000), holds_all=True)
    snapshot.read(150)
    with capture_logs() as logs:
        await snapshot.pressure.room()
    assert snapshot.outbound.waiting == 100
    assert logs == []


async def test_a_snapshot_does_not_wait_for_ever_but_the_next_may_wait_again():
    snapshot = Snapshot(SiteInfo(offset=1000), seconds_per_batch=20.0)
    snapshot.read(190)
    with capture_logs() as logs:
        await snapshot.pressure.room()
        assert snapshot.outbound.waiting == 160
        await snapshot.pressure.room()
        assert snapshot.outbound.waiting == 160
        snapshot.pressure.begin(offset=1000)
        await snapshot.pressure.room()
    assert snapshot.outbound.waiting == 130
    assert [line["event"] for line in logs] == ["snapshot.unpaced"] * 2


async def test_the_site_is_asked_once_a_second():
    snapshot = Snapshot(SiteInfo(offset=1000), seconds_per_batch=0.125)
    snapshot.read(190)
    snapshot.outbound.take(40, 1 << 20)  # on their way for longer
    await snapshot.pressure.room()
    assert snapshot.outbound.counters.pushed == 90
    assert snapshot.asked == 2
