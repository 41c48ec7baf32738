"""The state directory: which pair it belongs to, the lock that keeps a second daemon out, permissions.

In: a path and a pair of site and hub. Out: paths of the files, private to this user. Left to others: the files'
content.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from redisrepl.errors import ConfigError

__all__ = [
    "Pair",
    "StateDirectory",
    "StateDirectoryError",
    "UnusableError",
    "open_private",
    "reason_of",
    "sync_directory",
]

_log = structlog.get_logger("redisrepl")


class StateDirectoryError(ConfigError):
    """The state directory cannot be created or written."""


class UnusableError(Exception):
    """A file that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The site and hub that a state belongs to; it cannot be used with any other.

    Attributes:
        site, hub: addresses.
        scope: what is replicated: database, namespaces and kinds, in any fixed spelling.
    """

    site: str
    hub: str
    scope: str

    @property
    def stem(self) -> str:
        """Name of the files, without their endings: the same for the same pair of site and hub."""
        return hashlib.sha256(f"{self.site}\n{self.hub}".encode()).hexdigest()[:16]


def open_private(path: Path, flags: int) -> int:
    """Open a file that nobody else may read, whatever the umask; symbolic links are not followed."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(PermissionError):  # another user owns it, but lets us write
        os.fchmod(file, 0o600)
    return file


def sync_directory(path: Path) -> None:
    """Force the names of its files to the disk."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def reason_of(error: Exception) -> str:
    """Why the system, or SQLite, refused, as part of a sentence."""
    strerror: str | None = getattr(error, "strerror", None)
    return strerror.lower() if strerror else str(error)


class StateDirectory:
    """The directory, created if missing, and locked for this pair.

    Raises:
        StateDirectoryError: it cannot be created or written.
        ConfigError: another daemon uses it for the same pair.
    """

    def __init__(self, path: Path, pair: Pair) -> None:
        self.path = path
        self._pair = pair
        self._lock = self._acquire()

    def file(self, ending: str) -> Path:
        """The file of this pair with this ending."""
        return self.path / f"{self._pair.stem}.{ending}"

    def _acquire(self) -> int:
        try:
            if not self.path.is_dir():
                self.path.mkdir(parents=True, exist_ok=True)
                self.path.chmod(0o700)
            lock = open_private(self.file("lock"), os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise self.error(error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise ConfigError(
                f"--state-dir {self.path}: another redisrepl replicates {self._pair.site} to {self._pair.hub}: "
                "stop it, or give this one a directory of its own"
            ) from None
        return lock

    def error(self, error: Exception) -> StateDirectoryError:
        """What to raise when the directory cannot be used."""
        reason = "is a file" if self.path.is_file() else reason_of(error)
        return StateDirectoryError(f"--state-dir {self.path}: {reason}: give a directory that this user may write")

    def acquire_again(self) -> None:
        """Create and lock the directory again, after it was removed."""
        lock = self._acquire()
        os.close(self._lock)
        self._lock = lock

    def set_aside(self, path: Path, reason: str) -> None:
        """Rename a file that cannot be used, and log it.

        Raises:
            OSError: it cannot be renamed.
        """
        aside = path.with_name(f"{path.name}.set-aside-{time.time_ns()}")
        path.replace(aside)
        with contextlib.suppress(FileNotFoundError):  # a database may have a write-ahead log beside it
            path.with_name(path.name + "-wal").replace(aside.with_name(aside.name + "-wal"))
        _log.warning(
            "store.set_aside", file=str(path), kept_as=str(aside), reason=reason, then="everything is compared again"
        )

    def release(self) -> None:
        """Release the lock."""
        os.close(self._lock)
