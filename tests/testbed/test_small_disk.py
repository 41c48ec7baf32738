"""A disk that is full for the processes that write to it, with and without the right to mount."""

import subprocess
import sys

import pytest

from testbed import SmallDisk

WRITER = """
import sys
for name in sys.stdin:
    try:
        with open(sys.argv[1] + "/" + name.strip(), "w") as file:
            file.write("x" * 100)
    except OSError as error:
        print(error.errno, flush=True)
    else:
        print("written", flush=True)
"""


@pytest.mark.parametrize("may_mount", [True, False], ids=["as this machine allows", "without a mount"])
def test_a_writer_meets_a_full_disk_until_there_is_room(may_mount):
    with (
        SmallDisk(may_mount=may_mount) as disk,
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(disk.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as writer,
    ):

        def write(name):
            print(name, file=writer.stdin, flush=True)
            return writer.stdout.readline().strip()

        before = write("a")
        disk.fill([writer.pid])
        full = write("b")
        disk.free()
        after = write("c")
        writer.stdin.close()

    assert (before, after) == ("written", "written")
    assert full in {"28", "27"}  # ENOSPC, EFBIG


def test_without_a_mount_it_is_an_ordinary_directory():
    with SmallDisk(may_mount=False) as disk:
        path = disk.path

        assert not disk.mounted
        assert path.is_dir()

    assert not path.exists()
