"""How far the hub has acknowledged, on disk: where to go on after a restart.

In: positions, in the order of the stream. Out: one small file per pair of site and hub, replaced as a whole. Left to
others: when a position is acknowledged (`pending`), what follows from having none (a full synchronisation).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from redisrepl.changes import Position
from redisrepl.errors import ConfigError
from redisrepl.places import default_directory

__all__ = ["Checkpoint", "Pair", "SavedPosition", "StateDirectoryError", "default_directory", "open_checkpoint"]

_log = structlog.get_logger("redisrepl")

_FORMAT = 2
_REPLID = re.compile(r"[0-9a-fA-F]{40}")  # CONFIG_RUN_ID_SIZE


class _UnusableError(Exception):
    """A whole file, but not one to go on from; the text says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What a checkpoint belongs to; with anything else it would be a guess.

    Attributes:
        site, hub: addresses.
        scope: what crosses: database, namespaces and kinds, in any fixed spelling.
    """

    site: str
    hub: str
    scope: str

    @property
    def stem(self) -> str:
        """Name of the file, without its ending: the same for the same pair of site and hub."""
        return hashlib.sha256(f"{self.site}\n{self.hub}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class SavedPosition:
    """Where to go on.

    Attributes:
        position: everything before it is at the hub.
        database: the one that the stream had selected there.
        origin: who wrote what we applied to the site.
    """

    position: Position
    database: int
    origin: str


def open_checkpoint(directory: Path | None, pair: Pair) -> Checkpoint | None:
    """The checkpoint of a pair in this directory, or in the default one; None if that one cannot be used.

    Raises:
        StateDirectoryError: the directory that was named cannot be used.
    """
    try:
        return Checkpoint(directory or default_directory(), pair)
    except StateDirectoryError as error:
        if directory is not None:
            raise
        _log.warning("checkpoint.none", error=str(error), hint="each start is a full synchronisation: set --state-dir")
        return None


def _checksum(content: dict[str, object]) -> str:
    """A flipped digit of the offset would be a position as good as any other, and what lies between would be lost."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class StateDirectoryError(ConfigError):
    """The directory for the state cannot be made or written."""


class Checkpoint:
    """The file of one pair, and the lock that keeps a second daemon away from it.

    Args:
        directory: where it lies; made if it is not there.
        pair: what it belongs to.
        sync_period: seconds between calls that force the file to the disk.
        clock: seconds that never go backwards.

    Raises:
        StateDirectoryError: the directory cannot be used.
        ConfigError: another daemon uses it for the same pair.
    """

    def __init__(
        self, directory: Path, pair: Pair, *, sync_period: float = 1.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = directory / f"{pair.stem}.json"
        self._pair = pair
        self._sync_period = sync_period
        self._clock = clock
        self._synced = 0.0
        self._saved: SavedPosition | None = None
        self._lock = self._acquire(directory, directory / f"{pair.stem}.lock")

    def _acquire(self, directory: Path, path: Path) -> IO[str]:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = path.open("a+")
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StateDirectoryError(
                f"--state-dir {directory}: {reason}: give a directory that this user may write"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise ConfigError(
                f"--state-dir {directory}: another redisrepl replicates {self._pair.site} to {self._pair.hub}: "
                "stop it, or give this one a directory of its own"
            ) from None
        return lock

    def load(self) -> SavedPosition | None:
        """The saved position; None if there is none that can be trusted, and then everything is compared anew.

        A damaged file, or one that was written for something else, is named, and kept under another name.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._set_aside((error.strerror or str(error)).lower())
            return None
        try:
            return self._parse(content)
        except _UnusableError as error:
            self._set_aside(str(error))
        except (ValueError, KeyError, TypeError, RecursionError):
            self._set_aside("it is damaged")
        return None

    def _parse(self, content: bytes) -> SavedPosition:
        saved = json.loads(content)
        if saved["format"] != _FORMAT:
            raise _UnusableError(f"its format is {saved['format']}, not {_FORMAT}")
        checksum = saved.pop("checksum")
        if checksum != _checksum(saved):
            raise _UnusableError("its checksum does not fit")
        if (saved["site"], saved["hub"], saved["scope"]) != (self._pair.site, self._pair.hub, self._pair.scope):
            raise _UnusableError("it was written for other addresses, namespaces or kinds of change")
        replid, offset, database, origin = saved["replid"], saved["offset"], saved["database"], saved["origin"]
        numbers = isinstance(offset, int) and isinstance(database, int) and offset >= 0
        if not (numbers and _REPLID.fullmatch(replid) and isinstance(origin, str)):
            raise _UnusableError("it holds no position")
        return SavedPosition(Position(replid, offset), database, origin)

    def _set_aside(self, reason: str) -> None:
        aside = self.path.with_suffix(f".set-aside-{time.time_ns()}")
        with contextlib.suppress(OSError):
            self.path.replace(aside)
        _log.warning("checkpoint.set_aside", file=str(self.path), kept_as=str(aside), reason=reason, then="full sync")

    def save(self, saved: SavedPosition) -> None:
        """Replace the file as a whole, unless it says this already.

        Raises:
            OSError: the disk is full, or gone; the file is as it was.
        """
        if saved == self._saved:
            return
        content: dict[str, object] = {
            "format": _FORMAT,
            "site": self._pair.site,
            "hub": self._pair.hub,
            "scope": self._pair.scope,
            "replid": saved.position.replid,
            "offset": saved.position.offset,
            "database": saved.database,
            "origin": saved.origin,
        }
        content["checksum"] = _checksum(content)
        fresh = self.path.with_suffix(".new")
        now = self._clock()
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            if now - self._synced >= self._sync_period:
                file.flush()
                os.fsync(file.fileno())
                self._synced = now
        fresh.replace(self.path)
        self._saved = saved

    def forget(self) -> None:
        """Have no saved position any more."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
        self._saved = None

    def close(self) -> None:
        """Let go of the lock."""
        self._lock.close()
