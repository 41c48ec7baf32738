"""Where in the site's history something lies that was read or written there."""

import asyncio
import contextlib

import pytest

from redisrepl.changes import HeldBy, Position
from redisrepl.engine.continuity import Continuity, SideState
from redisrepl.engine.following import Following
from redisrepl.engine.streamedkeys import StreamedKeys
from redisrepl.errors import LinkLostError
from redisrepl.flow.reach import StreamReach
from tests.flow.streams import streamed

HISTORY = "a" * 40
KNOWN = {"followed": True, "judged": True}


@pytest.mark.parametrize(
    ("state", "history", "offset", "held_by"),
    [
        (KNOWN, HISTORY, 0, HeldBy(Position(HISTORY, 5))),
        (KNOWN, HISTORY, 7, HeldBy(Position(HISTORY, 3), {b"later": 5})),  # the stream has come that far
        (KNOWN, HISTORY, 9, HeldBy(Position(HISTORY, 9))),  # it may have been changed behind what was read
        (KNOWN | {"judged": False}, HISTORY, 0, HeldBy(Position(HISTORY, 5))),  # of what an earlier stream told
        (KNOWN | {"judged": False}, HISTORY, 7, None),
        ({}, HISTORY, 7, None),  # nobody knows what answered
        ({}, HISTORY, 0, HeldBy(Position(HISTORY, 5))),  # the stream has ended meanwhile
        (KNOWN | {"proved": 5.0}, HISTORY, 9, None),  # pending changes may come from the history before
        (KNOWN, "", 0, None),
    ],
)
def test_by_which_place_in_its_history_the_site_held_something(state, history, offset, held_by):
    keys = streamed({b"k": 3, b"too": 3, b"later": 5}, history)
    reach = StreamReach(Following(7), Continuity(site=SideState(**state)), lambda: keys)
    assert reach.held_by([b"k", b"later", b"too"], offset) == held_by


@pytest.mark.parametrize("offset", [0, 7])
def test_without_a_stream_that_is_not_known(offset):
    keys = StreamedKeys()
    keys.history = HISTORY
    for each in (keys, StreamedKeys()):
        reach = StreamReach(Following(by_events=True), Continuity(site=SideState(**KNOWN)), lambda each=each: each)
        assert reach.held_by([b"k"], offset) is None


@pytest.mark.parametrize("by_events", [False, True])
async def test_while_somebody_waits_the_site_is_read_without_pauses(by_events):
    hurried = []

    async def caught_up():
        await asyncio.Event().wait()

    @contextlib.contextmanager
    def hurry():
        hurried.append(1)
        try:
            yield
        finally:
            hurried.clear()

    reach = StreamReach(Following(6, by_events=by_events), Continuity(), caught_up=caught_up, hurried=hurry)
    waits = asyncio.ensure_future(reach.passed(7))
    await asyncio.sleep(0)
    assert hurried == [1]
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)
    assert hurried == []


async def test_where_the_site_is_followed_by_its_events_those_are_waited_for():
    heard = []

    async def caught_up():
        heard.append(1)

    following = Following(7)
    reach = StreamReach(following, Continuity(), caught_up=caught_up)
    await reach.passed(7)
    assert not heard
    following.follow_events(lambda _change: ())
    await reach.passed(7)
    assert heard
    await StreamReach(Following(by_events=True), Continuity()).passed(7)  # nobody follows it


async def test_a_site_whose_events_do_not_come_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr("redisrepl.flow.reach._LONGEST_STANDSTILL", 0.01)
    reach = StreamReach(Following(by_events=True), Continuity(), caught_up=asyncio.Event().wait)
    with pytest.raises(LinkLostError, match="keyspace events"):
        await reach.passed(7)
