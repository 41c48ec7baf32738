"""Where in the site's history something lies that was read or written there."""

import math

import pytest

from redisrepl.changes import Position
from redisrepl.engine.continuity import Continuity, SideState
from redisrepl.flow.reach import StreamReach

HISTORY = "a" * 40
KNOWN = {"followed": True, "judged": True}


@pytest.mark.parametrize(
    ("state", "read_to", "history", "offset", "position"),
    [
        (KNOWN, 7, HISTORY, 0, Position(HISTORY, 3)),
        (KNOWN, 7, HISTORY, 7, Position(HISTORY, 3)),  # what was read there then, the stream has told of since
        (KNOWN, 7, HISTORY, 9, Position(HISTORY, 9)),  # it may have been changed behind what was read
        (KNOWN, 2, HISTORY, 0, Position(HISTORY, 2)),
        (KNOWN | {"judged": False}, 7, HISTORY, 0, None),
        (KNOWN | {"followed": False}, 7, HISTORY, 9, None),
        (KNOWN | {"proved": 5.0}, 7, HISTORY, 9, None),  # what waits may be of the history before
        (KNOWN, 0, HISTORY, 0, None),
        (KNOWN, math.inf, "", 0, None),  # it is followed by its events
    ],
)
def test_the_place_in_the_sites_history(state, read_to, history, offset, position):
    reach = StreamReach(lambda: read_to, Continuity(site=SideState(**state)), lambda: history, {b"k": 3}.get)
    assert reach.position(b"k", offset) == position


def test_without_a_stream_nothing_has_a_place():
    assert StreamReach(lambda: math.inf, Continuity(site=SideState(**KNOWN))).position([b"k"], 7) is None
