"""A file of the state directory that cannot be used: why, and how it makes way for a new one.

In: what the system or SQLite raised, a path. Out: the reason, as part of a sentence; the file's new name. Left to
others: whether it makes way, saying so.
"""

from __future__ import annotations

import contextlib
import errno
import time
from pathlib import Path

__all__ = ["UnusableError", "reason_of", "set_aside"]

_MARK = ".set-aside-"
#: So many of a file are kept, the newest: what is wrong at each start must not fill the disk.
_KEPT = 3


class UnusableError(Exception):
    """A file that cannot be used; the text says why."""


def reason_of(error: Exception) -> str:
    """Why a file cannot be used, as part of a sentence.

    Args:
        error: of the system, of SQLite, or `UnicodeDecodeError`, which SQLite's quotations of damaged bytes may raise.
    """
    if isinstance(error, OSError):
        # It is opened with O_NOFOLLOW: a link in its place is none of ours.
        return "it is a symbolic link" if error.errno == errno.ELOOP else (error.strerror or str(error)).lower()
    return "it is damaged" if isinstance(error, UnicodeDecodeError) else str(error)


def set_aside(path: Path) -> Path:
    """Rename a file that cannot be used; removes the oldest that were set aside before.

    Returns:
        Its new name.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}{_MARK}{time.time_ns()}")
    path.replace(aside)
    with contextlib.suppress(FileNotFoundError):  # a new database must not find another's write-ahead log
        _log_of(path).replace(_log_of(aside))
    for old in sorted(path.parent.glob(f"{path.name}{_MARK}*[0-9]"))[:-_KEPT]:
        for each in (old, _log_of(old)):
            with contextlib.suppress(OSError):  # another's: it is no reason not to start
                each.unlink(missing_ok=True)
    return aside


def _log_of(database: Path) -> Path:
    """SQLite's write-ahead log of a database."""
    return database.with_name(f"{database.name}-wal")
