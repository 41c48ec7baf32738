"""Temporary directories."""

import subprocess
import sys
from pathlib import Path

from testbed.directories import _is_abandoned, new_directory

MAKE_ONE = "from testbed.directories import new_directory; print(new_directory('x'), flush=True); input()"


def process():
    return subprocess.Popen(
        [sys.executable, "-c", MAKE_ONE],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_each_is_new_and_private():
    first, second = new_directory("same"), new_directory("same")
    assert first != second
    assert first.stat().st_mode & 0o777 == 0o700
    assert not _is_abandoned(first.parent / "lock")


def test_they_go_with_their_process():
    with process() as run:
        directory = Path(run.stdout.readline().strip())
        assert directory.is_dir()
        run.communicate("\n")
    assert not directory.parent.exists()


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else():
    with process() as killed, process() as running:
        abandoned = Path(killed.stdout.readline().strip())
        in_use = Path(running.stdout.readline().strip())
        killed.kill()
        killed.wait()
        assert abandoned.is_dir()
        with process() as following:
            following.stdout.readline()
            assert not abandoned.parent.exists()
            assert in_use.is_dir()
            following.communicate("\n")
        running.communicate("\n")
