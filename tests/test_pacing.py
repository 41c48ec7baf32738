"""When a batch may leave, and how many may be on their way."""

from __future__ import annotations

import math

import pytest

from redisrepl.pacing import Pacer


def pacer(most=4):
    return Pacer(most, worthwhile=100, interval=2.0)


def test_a_lone_write_leaves_at_once():
    assert pacer().delay(1, now=50.0) == 0


def test_while_another_is_on_its_way_a_small_batch_waits_for_the_interval():
    pace = pacer()
    pace.left(50.0)

    assert pace.delay(1, now=50.5) == 1.5
    assert pace.delay(99, now=50.5) == 1.5
    assert pace.delay(1, now=52.0) == 0
    assert pace.delay(1, now=99.0) == 0


def test_a_batch_worth_a_request_leaves_at_once():
    pace = pacer()
    pace.left(50.0)

    assert pace.delay(100, now=50.0) == 0


def test_once_nothing_is_on_its_way_a_small_batch_leaves_at_once():
    pace = pacer()
    pace.left(50.0)
    pace.returned()

    assert pace.delay(1, now=50.1) == 0


def test_no_more_than_the_limit_are_on_their_way():
    pace = pacer(2)
    pace.left(50.0)
    pace.left(50.0)

    assert pace.delay(1000, now=99.0) == math.inf
    pace.returned()
    assert pace.delay(1000, now=99.0) == 0


def test_an_overloaded_hub_gets_half_as_many_but_never_none():
    pace = pacer(4)
    limits = []
    for _ in range(4):
        pace.left(0.0)
        pace.returned(overloaded=True)
        limits.append(pace.limit)

    assert limits == [2, 1, 1, 1]
    assert pace.delay(1, now=0.0) == 0


def test_the_limit_grows_one_by_one_up_to_the_most():
    pace = pacer(3)
    pace.left(0.0)
    pace.returned(overloaded=True)
    limits = []
    for _ in range(4):
        pace.left(0.0)
        pace.returned()
        limits.append(pace.limit)

    assert limits == [2, 3, 3, 3]


@pytest.mark.parametrize("out", [3, 4])
def test_a_limit_that_shrank_below_what_is_out_waits_for_them(out):
    pace = pacer(4)
    for _ in range(out):
        pace.left(0.0)
    pace.returned(overloaded=True)

    assert pace.limit == 2
    assert pace.delay(1000, now=99.0) == math.inf
