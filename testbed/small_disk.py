"""A directory whose disk is full when a test wants it to be.

In: nothing. Out: a directory; writing to it fails for real (ENOSPC, or EFBIG) between `fill` and `free`.
Left to others: the processes that write there.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from testbed.directories import new_directory
from testbed.processes import at_exit, forget_at_exit

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

__all__ = ["SmallDisk"]

_SIZE = 256 << 10
_PAGE = 4096


class SmallDisk:
    """A file system of 256 KB in memory or, where mounting is not allowed, a limit on the writers' file size.

    The file system is unmounted as soon as it is mounted and lives on behind a descriptor of this process, so nothing
    is left behind however the test run ends; `path` leads through that descriptor and is good for other processes of
    the same user.
    """

    def __init__(self, *, may_mount: bool = True) -> None:
        self._directory = new_directory("disk")
        self._descriptor = _detached_tmpfs(self._directory) if may_mount else None
        self._limits: dict[int, tuple[int, int]] = {}
        at_exit(self, self.close)

    @property
    def mounted(self) -> bool:
        """Whether it is a file system of its own."""
        return self._descriptor is not None

    @property
    def path(self) -> Path:
        return Path(f"/proc/{os.getpid()}/fd/{self._descriptor}") if self.mounted else self._directory

    def fill(self, writers: Iterable[int]) -> None:
        """Leave no room; `writers` are the processes that are to feel it where there is no file system to fill."""
        if self.mounted:
            with (self.path / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
                while True:
                    filler.write(bytes(_PAGE))
            return
        for pid in writers:
            self._limits[pid] = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, self._limits[pid][1]))

    def free(self) -> None:
        """Make room again."""
        if self.mounted:
            (self.path / "filler").unlink(missing_ok=True)
        for pid, limits in self._limits.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        self._limits.clear()

    def close(self) -> None:
        """Give everything back."""
        forget_at_exit(self)
        self.free()
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _detached_tmpfs(directory: Path) -> int | None:
    """A descriptor of a new file system that is mounted nowhere; None if we may not mount."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "redisrepl-testbed", directory]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        return None
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)
