"""Where in the site's history something lies that was read or written there."""

import math

import pytest

from redisrepl.changes import HeldBy, Position
from redisrepl.engine.continuity import Continuity, SideState
from redisrepl.flow.reach import StreamReach

HISTORY = "a" * 40
KNOWN = {"followed": True, "judged": True}


@pytest.mark.parametrize(
    ("state", "history", "offset", "held_by"),
    [
        (KNOWN, HISTORY, 0, HeldBy(Position(HISTORY, 3), {b"later": 5})),
        (KNOWN, HISTORY, 7, HeldBy(Position(HISTORY, 3), {b"later": 5})),  # the stream has come that far
        (KNOWN, HISTORY, 9, HeldBy(Position(HISTORY, 9))),  # it may have been changed behind what was read
        (KNOWN | {"judged": False}, HISTORY, 0, None),
        (KNOWN | {"followed": False}, HISTORY, 9, None),
        (KNOWN | {"proved": 5.0}, HISTORY, 9, None),  # what waits may be of the history before
        (KNOWN, "", 0, None),
    ],
)
def test_by_which_place_in_its_history_the_site_held_something(state, history, offset, held_by):
    told = {b"k": 3, b"later": 5, b"too": 3}
    reach = StreamReach(lambda: 7, Continuity(site=SideState(**state)), lambda: history, lambda _: told)
    assert reach.held_by(told, offset) == held_by


@pytest.mark.parametrize("history", ["", HISTORY])
def test_without_a_stream_that_is_not_known(history):
    reach = StreamReach(lambda: math.inf, Continuity(site=SideState(**KNOWN)), lambda: history)
    assert reach.held_by([b"k"], 7) is None
