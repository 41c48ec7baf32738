"""Standard output that is full, or that nobody reads; standard error that cannot be written."""

from __future__ import annotations

import io
import sys

import pytest
import structlog

from redisrepl.errors import OutputError
from redisrepl.observe.logging import configure_logging
from redisrepl.stdio import PlainOutput, writing


class Failing(io.StringIO):
    """Writes fail with this error, as long as there is one."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        if self.error:
            raise self.error
        return super().write(text)


def test_the_rest_is_dropped_once_nobody_reads():
    out = Failing(BrokenPipeError())
    assert PlainOutput(out).write("line") == 4


def test_what_cannot_be_written_says_why():
    with pytest.raises(OutputError, match="cannot be written: No space left"):
        PlainOutput(Failing(OSError(28, "No space left on device"))).write("line")


def test_what_writes_ends_early_when_nobody_reads():
    out, done = Failing(BrokenPipeError()), []
    with writing(out):
        out.write("line")
        done.append(out)
    assert not done


def test_lines_that_could_not_be_written_are_counted(monkeypatch):
    class Sometimes(io.StringIO):
        """As `Stderr`: returns 0 for what was dropped."""

        full = False

        def write(self, text):
            return 0 if self.full else super().write(text)

    said = Sometimes()
    monkeypatch.setattr(sys, "stderr", said)
    try:
        configure_logging("json", "info")
        log = structlog.get_logger("redisrepl")
        said.full = True
        log.info("a.lost")
        log.info("b.lost")
        said.full = False
        log.info("c.written")
        log.info("d.written")
    finally:
        structlog.reset_defaults()
    events = [line.split('"event": "')[1].split('"')[0] for line in said.getvalue().splitlines()]
    assert events == ["c.written", "log.lost", "d.written"]
    assert '"lines": 2' in said.getvalue()
