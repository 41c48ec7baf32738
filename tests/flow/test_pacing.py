"""When a batch may leave, and how many may be on their way."""

from __future__ import annotations

import math

import pytest

from redisrepl.flow.pacing import Pacer


def pacer(most=4, **options):
    return Pacer(most, worthwhile=100, interval=2.0, **options)


def test_a_lone_write_leaves_at_once():
    assert pacer().delay(1, now=50.0) == 0


def test_while_another_is_on_its_way_a_small_batch_waits_for_the_interval():
    pace = pacer()
    pace.left(1, now=50.0)

    assert pace.delay(1, now=50.5) == 1.5
    assert pace.delay(99, now=50.5) == 1.5
    assert pace.delay(1, now=52.0) == 0
    assert pace.delay(1, now=99.0) == 0


def test_pushes_wait_for_the_events_of_those_before():
    pace = pacer()
    assert pace.delay(100, now=50.0, unheard=100_001) == 0  # none ever came: nobody listens
    pace.heard(now=50.0)

    assert pace.delay(100, now=50.25, unheard=100_001) == 0.75
    pace.heard(now=50.5)
    assert pace.delay(100, now=50.5, unheard=100_001) == 1.0
    assert pace.delay(100, now=50.5, unheard=100_000) == 0


def test_a_dead_subscription_does_not_hold_pushes_up():
    pace = pacer()
    pace.heard(now=50.0)

    assert pace.delay(100, now=51.0, unheard=200_000) == 0


def test_a_batch_worth_a_request_leaves_at_once():
    pace = pacer()
    pace.left(1, now=50.0)

    assert pace.delay(100, now=50.0) == 0


def test_once_nothing_is_on_its_way_a_small_batch_leaves_at_once():
    pace = pacer()
    pace.left(1, now=50.0)
    pace.arrived()

    assert pace.delay(1, now=50.1) == 0


def test_no_more_than_the_limit_are_on_their_way():
    pace = pacer(2)
    pace.left(1, now=50.0)
    pace.left(1, now=50.0)

    assert pace.delay(1000, now=99.0) == math.inf
    pace.arrived()
    assert pace.delay(1000, now=99.0) == 0


def test_an_overloaded_hub_gets_half_as_many_but_never_none():
    pace = pacer(4)
    limits = []
    for _ in range(4):
        pace.left(1, now=0.0)
        pace.failed()
        limits.append(pace.limit)

    assert limits == [2, 1, 1, 1]
    assert pace.delay(1, now=0.0) == 0


def test_the_limit_grows_one_by_one_up_to_the_most():
    pace = pacer(3)
    pace.left(1, now=0.0)
    pace.failed()
    limits = []
    for _ in range(4):
        pace.left(1, now=0.0)
        pace.arrived()
        limits.append(pace.limit)

    assert limits == [2, 3, 3, 3]


@pytest.mark.parametrize("out", [3, 4])
def test_a_limit_that_shrank_below_what_is_out_waits_for_them(out):
    pace = pacer(4)
    for _ in range(out):
        pace.left(1, now=0.0)
    pace.failed()

    assert pace.limit == 2
    assert pace.delay(1000, now=99.0) == math.inf


# When the hub asks for a pause, or the operator for a rate.


def test_nothing_leaves_before_the_time_that_the_hub_named():
    pace = pacer()
    pace.hold(60.0)
    pace.hold(55.0)

    assert pace.delay(1, now=50.0) == 10
    assert pace.delay(1000, now=50.0) == 10
    assert pace.delay(1, now=60.0) == 0


def test_changes_leave_at_no_more_than_the_rate():
    pace = pacer(rate=500.0)
    pace.left(1000, now=50.0)

    assert pace.delay(1000, now=50.0) == 2
    assert pace.delay(1, now=51.5) == 0.5
    pace.left(100, now=52.0)
    assert pace.delay(1000, now=52.0) == pytest.approx(0.2)


def test_a_lone_write_leaves_at_once_at_any_rate():
    pace = pacer(rate=10.0)
    pace.left(1, now=50.0)
    pace.arrived()

    assert pace.delay(1, now=50.01) == pytest.approx(0.09)
    assert pace.delay(1, now=51.0) == 0


def test_what_was_not_sent_in_the_past_is_not_made_up_for():
    pace = pacer(rate=10.0)
    pace.left(10, now=1000.0)

    assert pace.delay(1000, now=1000.0) == 1


@pytest.mark.parametrize("size", [1, 7, 500])
def test_with_a_driven_clock_the_rate_is_met(size):
    pace, now, left = pacer(rate=500.0), 0.0, 0
    while left < 2000:
        now += pace.delay(1000, now)
        pace.left(size, now)
        pace.arrived()
        left += size

    assert (left - size) / 500 == pytest.approx(now)


def test_while_the_hub_refuses_everything_pauses_grow_and_one_tries(monkeypatch):
    monkeypatch.setattr("random.uniform", max)
    pace = pacer(8, longest_pause=3.0)
    now, pauses = 50.0, []
    for _ in range(6):
        for _ in range(8):  # all that were on their way are told the same
            pace.refused(now)
        pauses.append(pace.delay(1, now))
        now += pauses[-1]
    assert pauses == [0.25, 0.5, 1.0, 2.0, 3.0, 3.0]
    pace.left(1, now)
    pace.arrived()
    pace.refused(now)
    assert pace.delay(1, now) == 0.25
