"""Pauses between tries of something that fails."""

import pytest

from redisrepl.pauses import Pauses


@pytest.mark.parametrize(("share", "of_each"), [("least", 0.5), ("most", 1.0)])
def test_pauses_grow_to_the_longest_and_are_short_again_once_a_try_passes(share, of_each, monkeypatch):
    monkeypatch.setattr("random.uniform", min if share == "least" else max)
    pauses = Pauses(3.0)
    assert not pauses
    assert [pauses.next() for _ in range(6)] == [of_each * seconds for seconds in (0.25, 0.5, 1.0, 2.0, 3.0, 3.0)]
    assert pauses
    pauses.passed()
    assert not pauses
    assert pauses.next() == of_each * 0.25


def test_what_fails_for_days_is_tried_all_the_same():
    pauses = Pauses(15.0)
    for _ in range(10_000):
        assert pauses.next() <= 15.0
