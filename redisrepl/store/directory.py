"""The state directory: which pair it belongs to, the lock that keeps a second daemon out, permissions.

In: a path and a pair of site and hub. Out: paths of the files, private to this user. Left to others: the files'
content.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import structlog

from redisrepl.errors import ConfigError
from redisrepl.store.unusable import reason_of, set_aside

__all__ = [
    "ForeignStateError",
    "Pair",
    "StateDirectory",
    "StateDirectoryError",
    "is_of_another",
    "open_private",
    "sync_directory",
]

_log = structlog.get_logger("redisrepl")

_ROOT = 0
#: What opening a link, a directory or a socket gives.
_NO_FILE = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class StateDirectoryError(ConfigError):
    """The state directory cannot be created or written."""


class ForeignStateError(ConfigError):
    """The files of the state directory cannot be used with these settings, and must stay as they are."""


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
    """Open a file that nobody else may read, whatever the umask; symbolic links are not followed.

    Raises:
        OSError: it cannot be opened, is no regular file, or another user made it, who may keep it open, and locked.
    """
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise (_no_file(path) if error.errno in _NO_FILE else error) from None
    try:
        _check(path, os.fstat(file))
        with contextlib.suppress(PermissionError):  # root's, or that of the owner of the directory
            os.fchmod(file, 0o600)
    except BaseException:
        os.close(file)
        raise
    return file


def _no_file(path: Path) -> OSError:
    return PermissionError(errno.EPERM, f"{path.name} is no regular file: remove it, or")


def _check(path: Path, found: os.stat_result) -> None:
    """Refuse what is no regular file, and the file of another user.

    A pipe opens, and would fail later, in words that say nothing.
    """
    if not stat.S_ISREG(found.st_mode):
        raise _no_file(path)
    if is_of_another(path, found):
        said = f"{path.name} belongs to another user (uid {found.st_uid}), who may keep it locked: remove it, or"
        raise PermissionError(errno.EPERM, said)


def is_of_another(path: Path, found: os.stat_result) -> bool:
    """Whether a file belongs to neither us nor root nor the owner of its directory, who could replace it anyway."""
    return found.st_uid not in {os.geteuid(), _ROOT, path.parent.stat().st_uid}


def sync_directory(path: Path) -> None:
    """Force the names of its files to the disk."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class StateDirectory:
    """The directory, created if missing, and locked for this pair.

    Args:
        path: of the directory.
        pair: whose files are used.
        sets_aside: files that cannot be used are renamed, so that new ones can be made; otherwise that is an error.

    Raises:
        StateDirectoryError: it cannot be created or written.
        ConfigError: another daemon uses it for the same pair.
    """

    def __init__(self, path: Path, pair: Pair, *, sets_aside: bool = True) -> None:
        self.path = path
        self._pair = pair
        self._sets_aside = sets_aside
        self._warned = False
        self._lock = self._acquire()

    def file(self, ending: str) -> Path:
        """The file of this pair with this ending."""
        return self.path / f"{self._pair.stem}.{ending}"

    def _acquire(self) -> int:
        try:
            if not self.path.is_dir():
                self._create()
            self._check_who_may_write()
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

    def _create(self) -> None:
        """Make it so that nobody else may ever write it, whatever the umask."""
        for parent in reversed(self.path.parents):
            if not parent.is_dir():
                parent.mkdir(mode=0o755, exist_ok=True)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            if not self.path.is_dir():
                raise
        else:
            self.path.chmod(0o700)  # a umask may have taken from it what we need

    def _check_who_may_write(self) -> None:
        """Refuse a directory of another user that more than that one may write; warn if ours, or root's, is open.

        Whoever may write in it can make the lock before us, or put another in its place. Root's are those of containers
        and volumes, where root gives a directory to a group (fsGroup): that group is ours.
        """
        found, us = self.path.stat(), os.geteuid()
        others = found.st_mode & _OTHERS_WRITE
        if others and found.st_uid not in {us, _ROOT} and us != _ROOT:
            said = f"it belongs to another user (uid {found.st_uid}), and others may write it: chown {us} it, or"
            raise PermissionError(errno.EPERM, said)
        if found.st_uid == _ROOT and us != _ROOT:
            others = 0 if found.st_mode & stat.S_ISVTX else found.st_mode & stat.S_IWOTH
        if others and not self._warned:
            self._warned = True
            hint = f"who may write there can keep this daemon from starting: chmod 700 {self.path}"
            _log.warning(
                "store.open_to_others", file=str(self.path), mode=f"{stat.S_IMODE(found.st_mode):o}", hint=hint
            )

    def error(self, error: Exception) -> StateDirectoryError:
        """What to raise when the directory cannot be used."""
        if self.path.is_file():
            reason = "is a file"
        else:
            reason = (
                "not a directory" if isinstance(error, FileExistsError) else reason_of(error)
            )  # one above it is a file
        then = "" if reason.endswith(", or") else ":"
        return StateDirectoryError(f"--state-dir {self.path}: {reason}{then} give a directory that this user may write")

    def acquire_again(self) -> None:
        """Create and lock the directory again, after it was removed."""
        lock = self._acquire()
        os.close(self._lock)
        self._lock = lock

    def set_aside(self, path: Path, reason: str) -> None:
        """Rename a file that cannot be used, and log it.

        Raises:
            OSError: it cannot be renamed.
            ForeignStateError: it is to stay as it is.
        """
        if not self._sets_aside:
            raise ForeignStateError(
                f"--state-dir {self.path}: {path.name} cannot be used: {reason}; give --raddr, --haddr, --ns and "
                "--replicate as the daemon has them or, if it has these, start it, which sets the file aside"
            )
        aside = set_aside(path)
        _log.warning(
            "store.set_aside", file=str(path), kept_as=str(aside), reason=reason, then="everything is compared again"
        )

    def release(self) -> None:
        """Release the lock."""
        os.close(self._lock)
