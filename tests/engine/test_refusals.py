"""Refused keys are named once, and tried again: a few now and then, all of a kind once one of them passes."""

import pytest
from structlog.testing import capture_logs

from redisrepl.engine import refusals as module
from redisrepl.engine.refusals import Refusals


@pytest.fixture
def refusals():
    return Refusals("push.refused", "push.accepted")


def test_a_key_is_named_once_for_each_reason(refusals):
    with capture_logs() as logs:
        for error in ("NOPERM x", "NOPERM x", "WRONGTYPE"):
            refusals.name(b"k", error)
    assert [(line["event"], line["key"], line["error"]) for line in logs] == [
        ("push.refused", "k", "NOPERM x"),
        ("push.refused", "k", "WRONGTYPE"),
    ]


def test_what_passes_is_said_and_counts_no_more(refusals):
    refusals.name(b"k", "NOPERM x")
    with capture_logs() as logs:
        assert refusals.passed([b"k", b"other"]) == {b"k"}
    assert [(line["event"], line["key"], line["log_level"]) for line in logs] == [("push.accepted", "k", "info")]
    assert len(refusals) == 0


def test_a_few_are_tried_at_a_time_by_turns_and_ever_more_seldom(refusals):
    for number in range(20):
        refusals.name(b"%d" % number, "NOPERM")
    tried = [(second, *map(int, keys)) for second in range(300) if (keys := refusals.due(float(second)))]
    assert tried == [
        (30, 0, 1, 2, 3, 4, 5, 6, 7),
        (90, 8, 9, 10, 11, 12, 13, 14, 15),
        (210, 16, 17, 18, 19, 0, 1, 2, 3),
    ]


def test_pauses_grow_to_a_quarter_of_an_hour(refusals, monkeypatch):
    monkeypatch.setattr(module, "_TRIED", 1)
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
    assert not refusals.passed([b"other"])
    assert not refusals.due(1.0)
    assert refusals.passed([b"a"]) == {b"a"}
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


def test_what_was_refused_is_tried_again_at_once_by_the_next_process(refusals):
    refusals.name(b"\xffa", "NOPERM")
    for _ in range(2):  # also if a process ends before it has tried
        again = Refusals("push.refused", "push.accepted")
        again.load(refusals.saved())
        refusals = again
    assert list(refusals.due(0.0)) == [b"\xffa"]
    assert not refusals.due(1.0)
    assert refusals.saved() == []
    with capture_logs() as logs:
        refusals.name(b"\xffa", "NOPERM")
    assert [line["event"] for line in logs] == ["push.refused"]


@pytest.mark.parametrize("saved", [None, 7, "00", {}, [7, None, "x", "0"]])
def test_what_cannot_be_read_is_left_out(refusals, saved):
    refusals.load(saved)
    assert not refusals.due(0.0)


def test_too_many_to_be_saved(refusals, monkeypatch):
    monkeypatch.setattr(module, "_SAVED", 2)
    monkeypatch.setattr(module, "_MOST", 3)
    counts = []
    for key in (b"a", b"b", b"c", b"d"):
        refusals.name(key, "NOPERM")
        counts.append(refusals.saved() and len(refusals.saved()))
    assert counts == [1, 2, None, None]


@pytest.mark.parametrize("together", [1, 50])
def test_each_key_is_looked_at_once_however_many_pass(refusals, monkeypatch, together):
    """Somebody mends an ACL, and all that it denied passes, batch by batch, before anything is tried again."""
    keys = [b"%d" % number for number in range(300)]
    for key in keys:
        refusals.name(key, "NOPERM")
    looked, kind = [], module._kind
    monkeypatch.setattr(module, "_kind", lambda error: looked.append(error) or kind(error))
    for start in range(0, 200, together):
        refusals.passed(keys[start : start + together])
    assert sorted(refusals.due(0.0)) == sorted(keys[200:])
    assert len(looked) == 300
