"""`make demo`, small: what it says, how it ends, what it leaves behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from testbed import demo, eventually

CHECKOUT = Path(__file__).parents[2]
SMALL = ["--writes", "300", "--steady", "0.3"]


@pytest.fixture
def start(tmp_path):
    """Starts the demonstration as `make demo` does; its temporary files are in a directory of their own."""
    started = []

    def start(*args, terminal=None):
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "testbed.demo", *args],
            cwd=CHECKOUT,
            env={name: value for name, value in os.environ.items() if not name.startswith("COV")}
            | {"TMPDIR": str(tmp_path), "TERM": "xterm", "COLUMNS": "120"},
            stdin=subprocess.DEVNULL,
            stdout=terminal or subprocess.PIPE,
            stderr=terminal or subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def test_it_succeeds_in_plain_lines_and_leaves_nothing(start, tmp_path):
    process = start(*SMALL)
    said, _ = process.communicate(timeout=60)

    assert process.returncode == 0, said
    assert "EQUAL: " in said
    assert "no echo" in said
    assert "not every write is everywhere" not in said
    assert "one write: east to hub" in said
    assert "said: " not in said, "a daemon warned"
    assert "\x1b" not in said
    assert list(tmp_path.iterdir()) == []


def test_two_at_a_time_do_not_disturb_each_other(start):
    first, second = start(*SMALL), start(*SMALL)

    for process in (first, second):
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 0, said


def test_on_a_terminal_the_table_is_live(start):
    master, slave = os.openpty()
    process = start(*SMALL, terminal=slave)
    os.close(slave)
    shown = b""
    while chunk := _read(master):
        shown += chunk
    os.close(master)

    assert process.wait(timeout=60) == 0, shown.decode()
    assert "executed twice" in shown.decode()
    assert "steady" in shown.decode()
    assert "settled" in shown.decode()
    assert b"\x1b[" in shown


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_cleans_up(start, tmp_path, number, code):
    process = start("--writes", "300", "--steady", "60")
    for line in process.stdout:
        if "older keys were copied" in line:
            break
    process.send_signal(number)

    assert process.wait(timeout=30) == code
    assert list(tmp_path.iterdir()) == []
    eventually(lambda: not _processes_in(tmp_path), description="no server left")


def test_copies_that_differ_end_in_1_and_are_named(capsys):
    """The daemon of one site runs without -rc, so that what others write does not get there."""

    class HalfADemo(demo.Demo):
        def daemon_arguments(self, site, name):
            arguments = super().daemon_arguments(site, name)
            if name == "west":
                arguments.remove("-rc")
            return arguments

    code = HalfADemo(demo.Screen(Console()), count=3, steady=0.1, patience=1.0).run()
    said = capsys.readouterr().out

    assert code == 1
    assert "after 1 s not every write is everywhere" in said
    assert "NOT EQUAL" in said
    assert "DIFFERENT demo:east-hub:0  east: string of 1 bytes, hub: string of 1 bytes, west: missing" in said


def test_a_server_that_is_missing_is_told(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nonexistent")

    assert demo.main(SMALL) == 1
    assert "the demonstration failed" in capsys.readouterr().out


def test_differences_are_told_by_key_and_side():
    copies = {"east": {b"a": b"1", b"h": {b"f": b"1"}}, "hub": {b"a": b"1", b"h": {b"f": b"2"}, b"new\n": b""}}

    assert demo.differences(copies) == [
        "h  east: hash of 1 fields, hub: hash of 1 fields",
        "new\\n  east: missing, hub: string of 0 bytes",
    ]


def _read(descriptor):
    try:
        return os.read(descriptor, 65536)
    except OSError:  # how Linux says that the other end of a pseudo-terminal is closed
        return b""


def _processes_in(directory):
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(directory) in path.read_bytes():
                found.append(path)
        except OSError:
            continue
    return found
