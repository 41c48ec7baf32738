"""Temporary directories that go away, at the latest, with the next test run.

In: a name. Out: an empty directory below one that belongs to this process.
Left to others: removing it early, once its server is closed.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["new_directory"]

_PREFIX = "redisrepl-testbed-"
_LOCK = "lock"


def new_directory(name: str) -> Path:
    """Make a directory that only its owner can enter; the path is short enough for a Unix socket in it."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=_ours()))


@cache
def _ours() -> Path:
    """The directory of this process; what killed runs have left behind is removed on the way."""
    for other in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        if _is_abandoned(other):
            shutil.rmtree(other.parent, ignore_errors=True)
    ours = Path(tempfile.mkdtemp(prefix=_PREFIX))
    # Locked first and named afterwards, so that nobody ever sees a lock file of ours that is not locked.
    descriptor = os.open(ours / "new", os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    (ours / "new").rename(ours / _LOCK)
    atexit.register(shutil.rmtree, ours, ignore_errors=True)
    return ours


def _is_abandoned(lock: Path) -> bool:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
