"""Refused keys are named once, and tried again: one now and then, all of a kind once one of them passes."""

import pytest
from structlog.testing import capture_logs

from redisrepl.engine import refusals as module
from redisrepl.engine.refusals import Refusals


@pytest.fixture
def refusals():
    return Refusals("push.refused")


def test_a_key_is_named_once_for_each_reason(refusals):
    with capture_logs() as logs:
        for error in ("NOPERM x", "NOPERM x", "WRONGTYPE"):
            refusals.name(b"k", error)
    assert [(line["event"], line["key"], line["error"]) for line in logs] == [
        ("push.refused", "k", "NOPERM x"),
        ("push.refused", "k", "WRONGTYPE"),
    ]


def test_one_is_tried_at_a_time_by_turns_and_ever_more_seldom(refusals):
    refusals.name(b"a", "NOPERM")
    refusals.name(b"b", "NOPERM")
    tried = [(second, *keys) for second in range(4000) if (keys := refusals.due(float(second)))]
    assert tried == [
        (30, b"a"),
        (90, b"b"),
        (210, b"a"),
        (450, b"b"),
        (930, b"a"),
        (1830, b"b"),
        (2730, b"a"),
        (3630, b"b"),
    ]


def test_once_one_passes_all_of_its_kind_are_tried(refusals):
    refusals.name(b"a", "NOPERM the key a")
    refusals.name(b"b", "NOPERM the key b")
    refusals.name(b"c", "WRONGTYPE")
    assert not refusals.due(0.0)
    refusals.passed([b"other"])
    assert not refusals.due(1.0)
    refusals.passed([b"a"])
    assert list(refusals.due(2.0)) == [b"b"]
    assert not refusals.due(3.0)
    assert len(refusals) == 2


def test_of_more_than_are_remembered_a_comparison_must_tell(refusals, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 2)
    for key in (b"a", b"b", b"c"):
        refusals.name(key, "NOPERM")
    assert not refusals.take_left_out()
    refusals.passed([b"a"])
    assert refusals.take_left_out()
    assert not refusals.take_left_out()
