"""Where state is kept on this machine, and how its sockets are reached.

In: the environment, paths. Out: paths. Left to others: what is kept there (`store`) and said there
(`observe.socket`). Loads next to nothing, for `redisrepl status`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["default_directory", "identity", "short_path"]


def default_directory() -> Path:
    """Where state is kept: systemd's `StateDirectory`, else as the XDG base directories say."""
    if directory := os.environ.get("STATE_DIRECTORY"):
        return Path(directory.partition(":")[0])
    state_home = os.environ.get("XDG_STATE_HOME")
    return (Path(state_home) if state_home else Path.home() / ".local" / "state") / "redisrepl"


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Another name of a socket, by its open directory: the address of one holds 107 bytes (`sun_path`), a path more."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file at this path; None if there is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
