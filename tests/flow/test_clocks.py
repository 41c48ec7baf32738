"""Two clocks that agree change nothing; two that do not shift all expiries by one number that stays."""

import time

import pytest

from redisrepl.flow.clocks import Clocks
from redisrepl.remote.clock_shift import ClockShift

HOUR = 3600
HOUR_MS = 1000 * HOUR


class Scene:
    """Clocks of which the test says what they show."""

    def __init__(self, saved=None):
        self.shift = ClockShift()
        self.steady = 1000.0
        self.clocks = Clocks(saved, self.shift, steady=lambda: self.steady)

    def saw(self, site, hub, *, within=0.0):
        """Both are asked, the site first; whether either answer changed what had been in force."""
        changed = self.clocks.saw("site", site, within=within)
        return changed | self.clocks.saw("hub", hub, within=within)


@pytest.mark.parametrize(
    ("site", "hub", "within", "shift"),
    [
        (0.0, 1.9, 0.0, 0),
        (0.0, 2.1, 0.0, 2000),
        (0.0, 2.1, 0.1, 0),  # which may be less
        (0.0, -7200.4, 0.0, -7_200_000),
        (7200.0, 0.0, 0.0, -7_200_000),
        (7200.0, 7201.0, 0.0, 0),  # it is ours that is wrong
        (None, 7200.0, 0.0, 7_200_000),  # the site has our clock, for all we know
        (0.0, None, 0.0, 0),
    ],
)
def test_by_how_much_expiries_are_shifted(site, hub, within, shift):
    scene = Scene()
    assert not scene.saw(site, hub, within=within)  # nothing was replicated before
    assert (scene.shift.ms, scene.clocks.off_by) == (shift, frozenset())


def test_the_shift_stays_until_it_is_off_by_more_than_can_be_seen():
    scene = Scene()
    scene.saw(0.0, 100.4)
    for hub in (98.1, 101.9, 100.0):
        assert not scene.saw(0.0, hub)
        assert scene.shift.ms == 100_000
    assert scene.saw(0.0, 97.6)
    assert scene.shift.ms == 98_000
    assert scene.saw(0.0, 1.0)
    assert scene.shift.ms == 0


def test_where_our_own_clock_is_set_nothing_has_changed(monkeypatch):
    scene = Scene()
    scene.saw(0.0, 0.0)
    now = time.time
    monkeypatch.setattr("redisrepl.flow.clocks.time.time", lambda: now() + HOUR)
    assert not scene.clocks.saw("hub", -float(HOUR))  # the site is asked later
    assert scene.shift.ms == 0


def test_what_crossed_before_the_clock_of_the_hub_was_set_is_off_by_that():
    scene = Scene()
    scene.saw(0.0, 2.0 * HOUR)
    assert scene.clocks.saw("hub", 0.0)
    assert scene.clocks.off_by == {2 * HOUR_MS}
    assert scene.clocks.saw("hub", float(HOUR))
    assert scene.clocks.off_by == {HOUR_MS, -HOUR_MS}
    assert scene.clocks.saw("hub", 2.0 * HOUR)  # as at first
    assert scene.clocks.off_by == {-2 * HOUR_MS, -HOUR_MS}


def test_where_the_clock_of_the_site_was_set_it_is_the_hub_that_is_right():
    scene = Scene()
    scene.saw(2.0 * HOUR, 0.0)
    assert scene.clocks.saw("site", 0.0)
    assert (scene.shift.ms, scene.clocks.off_by) == (0, frozenset())


def test_of_many_former_shifts_the_last_are_remembered():
    scene = Scene()
    for hours in range(12):
        scene.saw(0.0, float(hours * HOUR))
    assert scene.clocks.off_by == {-hours * HOUR_MS for hours in range(1, 9)}


@pytest.mark.parametrize("saved", [None, {}])
def test_clocks_are_known_once_both_were_looked_at(saved):
    scene = Scene(saved)
    assert not scene.clocks.known
    scene.clocks.saw("hub", 5.0)
    assert not scene.clocks.known
    scene.clocks.saw("site", None)
    assert scene.clocks.known


def test_what_is_known_survives_the_daemon():
    first = Scene()
    first.saw(0.0, 0.0)
    first.saw(0.0, 2.0 * HOUR)
    first.saw(2.0 * HOUR, 2.0 * HOUR)
    second = Scene(first.clocks.saved())
    assert second.clocks.known
    assert (second.shift.ms, second.clocks.off_by) == (first.shift.ms, first.clocks.off_by) == (0, frozenset())
    assert second.clocks.saved() == first.clocks.saved()
    assert second.saw(0.0, float(HOUR))  # of which it is taken that the hub's was set
    assert second.clocks.off_by == {-HOUR_MS}


def test_what_was_saved_before_the_clocks_were_looked_at_is_not_in_force():
    second = Scene(Scene().clocks.saved())
    assert not second.clocks.known
    assert not second.saw(0.0, 2.0 * HOUR)
    assert (second.clocks.known, second.clocks.off_by) == (True, frozenset())


def test_a_state_of_before_expiries_were_shifted():
    """All that it knows of has crossed without a shift."""
    scene = Scene({"site": 5, "hub": 6})
    assert scene.saw(0.0, 2.0 * HOUR)
    assert scene.clocks.off_by == {-2 * HOUR_MS}


@pytest.mark.parametrize("saved", [{"shift": "x", "former": 3}, {"former": [["a", True], [1], [2, 3], 4]}, "x", 7])
def test_what_cannot_be_read_counts_as_nothing(saved):
    scene = Scene(saved)
    assert (scene.shift.ms, scene.clocks.off_by) == (0, frozenset())


def seconds_from_now(ms):
    return ms / 1000 - time.time()


def test_what_a_server_may_have_let_expire():
    scene = Scene()
    latest = scene.clocks.latest_ms
    scene.saw(0.0, -2.0 * HOUR)
    assert seconds_from_now(latest("hub")) == pytest.approx(0, abs=5)
    scene = Scene()
    latest = scene.clocks.latest_ms
    scene.saw(0.0, 2.0 * HOUR)
    assert seconds_from_now(latest("hub")) == pytest.approx(0, abs=5)  # all has crossed by the shift
    assert seconds_from_now(latest("site")) == pytest.approx(0, abs=5)
    assert seconds_from_now(latest("hub", (time.time() + 3 * HOUR) * 1000)) == pytest.approx(HOUR, abs=5)
    scene.saw(0.0, 0.0)  # what had crossed before the clock was set back, it may have let expire before
    assert seconds_from_now(latest("hub")) == pytest.approx(2 * HOUR, abs=5)
    scene = Scene()
    scene.saw(0.0, 0.0)
    scene.saw(0.0, 2.0 * HOUR)  # and what had crossed before it was set forward
    assert seconds_from_now(scene.clocks.latest_ms("hub")) == pytest.approx(2 * HOUR, abs=5)
