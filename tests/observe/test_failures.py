"""Repeated failures: one line at once, then few, then one that it is over."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from redisrepl.observe.failures import FailureLog
from tests.clock import Clock


@pytest.fixture
def clock():
    return Clock(1000.0)


@pytest.fixture
def trouble(clock):
    return FailureLog("push", period=30.0, clock=clock)


def test_the_first_failure_is_told_at_once(trouble):
    with capture_logs() as lines:
        trouble.failed(ValueError("no route"), pending_keys=7)

    assert lines == [
        {"event": "push.failed", "log_level": "warning", "error": "no route", "failures": 1, "pending_keys": 7}
    ]
    assert (trouble.failures, trouble.last_error) == (1, "no route")


def test_then_one_line_per_period_with_the_count(trouble, clock):
    with capture_logs() as lines:
        for _ in range(100):
            trouble.failed("no route")
            clock.now += 1.0

    assert [line["failures"] for line in lines] == [1, 31, 61, 91]


def test_a_line_tells_the_latest_error(trouble, clock):
    with capture_logs() as lines:
        trouble.failed("first")
        trouble.failed("second")
        clock.now += 30
        trouble.failed("third")

    assert [line["error"] for line in lines] == ["first", "third"]
    assert trouble.last_error == "third"


def test_another_kind_of_error_is_told_at_once_and_once(trouble):
    with capture_logs() as lines:
        trouble.failed(TimeoutError("no answer"))
        for _ in range(3):
            trouble.failed(ValueError("the certificate is refused"))
            trouble.failed(TimeoutError("no answer"))

    assert [(line["error"], line["failures"]) for line in lines] == [
        ("no answer", 1),
        ("the certificate is refused", 2),
    ]


def test_the_end_is_told_once_with_its_length(trouble, clock):
    with capture_logs() as lines:
        trouble.failed("no route")
        clock.now += 12.34
        trouble.failed("no route")
        trouble.succeeded(pending_keys=0)
        trouble.succeeded()

    assert lines[1:] == [
        {"event": "push.recovered", "log_level": "info", "failures": 2, "after_s": 12.3, "pending_keys": 0}
    ]
    assert (trouble.failures, trouble.last_error) == (0, None)


def test_success_without_trouble_is_silent(trouble):
    with capture_logs() as lines:
        trouble.succeeded()

    assert lines == []


def test_the_next_trouble_is_told_at_once_again(trouble):
    with capture_logs() as lines:
        for _ in range(2):
            trouble.failed("no route")
            trouble.succeeded()

    assert [line["event"] for line in lines] == ["push.failed", "push.recovered"] * 2


def test_the_first_failure_is_told_even_when_the_clock_has_just_begun():
    """A monotonic clock may start near zero: no period has passed since the machine came up."""
    with capture_logs() as lines:
        FailureLog("push", clock=lambda: 0.5).failed("no route")

    assert len(lines) == 1


def test_its_own_clock_is_the_machine_s():
    trouble = FailureLog("push")
    with capture_logs() as lines:
        trouble.failed("a")
        trouble.failed("b")
        trouble.succeeded()

    assert len(lines) == 2
    assert lines[1]["after_s"] >= 0


def test_what_a_peer_said_is_kept_fit_to_be_printed(trouble):
    trouble.failed("a\x1b]0;x\x07\x9b31m\ud800")

    assert trouble.last_error == "a\\x1b]0;x\\x07\\x9b31m\\ud800"
