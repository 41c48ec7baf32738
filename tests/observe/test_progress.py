"""What is told of a snapshot while it comes."""

import io

import pytest
import structlog.testing

from redisrepl.observe.progress import SnapshotProgress
from tests.clock import Clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


def test_a_line_every_period_with_rate_and_time_left(clock):
    progress = SnapshotProgress(io.StringIO(), clock=clock)
    with structlog.testing.capture_logs() as logs:
        progress.begin()
        for _ in range(12):
            clock.now += 1
            progress.advance(1000, 24_000, 10)
        progress.end()
        progress.end()

    assert [(log["event"], log["bytes"], log["keys"]) for log in logs] == [
        ("snapshot.reading", 5000, 50),
        ("snapshot.reading", 10_000, 100),
        ("snapshot.read", 12_000, 120),
    ]
    assert logs[0]["bytes_per_s"] == 1000
    assert logs[0]["eta_s"] == 19.0
    assert logs[0]["total_bytes"] == 24_000


def test_a_server_that_does_not_know_the_size(clock):
    progress = SnapshotProgress(io.StringIO(), clock=clock)
    with structlog.testing.capture_logs() as logs:
        progress.begin()
        clock.now += 6
        progress.advance(600, None, 1)

    assert "eta_s" not in logs[0]
    assert "total_bytes" not in logs[0]


def test_nothing_is_told_of_what_never_began(clock):
    progress = SnapshotProgress(io.StringIO(), clock=clock)
    with structlog.testing.capture_logs() as logs:
        progress.advance(1, None, 1)
        progress.end()
        progress.begin()
        progress.end()

    assert logs == []


def test_a_bar_on_a_terminal(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    progress = SnapshotProgress(terminal, clock=clock)
    with structlog.testing.capture_logs() as logs:
        progress.begin()
        clock.now += 10
        progress.advance(500, 1000, 12_345)
        progress.end()

    assert "12,345 keys" in terminal.getvalue()
    assert "0.5/1.0 kB" in terminal.getvalue()
    assert [log["event"] for log in logs] == ["snapshot.read"]
