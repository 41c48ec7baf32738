"""A directory whose disk is full when a test wants it to be.

In: nothing. Out: a directory; writing to it fails for real (ENOSPC, or EFBIG) between `fill` and `free`.
Left to others: the processes that write there.
"""

from __future__ import annotations

import contextlib
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

_SIZE = 2 << 20
_STEPS = (1 << 20, 4096)


class SmallDisk:
    """A small file system in memory or, where mounting is not allowed, a limit on the writers' file size.

    It stays mounted at `path` until `close`, which comes however the run ends: SQLite finds its way only to paths that
    are what they seem.

    Args:
        size: in bytes.
        may_mount: whether mounting is tried.
    """

    def __init__(self, size: int = _SIZE, *, may_mount: bool = True) -> None:
        self.path = new_directory("disk")
        self.mounted = may_mount and _mount(self.path, size)  #: whether it is a file system of its own
        self._limits: dict[int, tuple[int, int]] = {}
        at_exit(self, self.close)

    def fill(self, writers: Iterable[int]) -> None:
        """Leave no room; `writers` are the processes that are to feel it where there is no file system to fill."""
        if self.mounted:
            with (self.path / "filler").open("wb", buffering=0) as filler:
                for step in _STEPS:
                    with contextlib.suppress(OSError):
                        while filler.write(bytes(step)) == step:
                            pass
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
        if self.mounted:
            subprocess.run(["umount", "--lazy", self.path], check=True)
            self.mounted = False
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _mount(directory: Path, size: int) -> bool:
    """Mount a new file system there; False if we may not."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "redisrepl-testbed", directory]
    return not subprocess.run(mount, capture_output=True, check=False).returncode
