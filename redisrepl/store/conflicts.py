"""Keeps the losers of conflicts: values that a policy replaced because nobody could tell which side was newer.

In: losers. Out: a file beside the state, bounded in bytes and days. Left to others: which side wins
(`engine.winners`), the format of the file (`store.losers`), reading it (`store.kept`), showing and restoring losers
(`subcommands.conflicts`).

Losers collect in memory and are written together. When the file is full, the oldest are removed first. A disk error
is reported but never raised: losers then stay in memory, up to a limit.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

from redisrepl.namespaces import printable
from redisrepl.paths import identity
from redisrepl.store.losers import (
    INSERT,
    SUFFIX,
    Loser,
    LoserRow,
    Winner,
    claim,
    encode_value,
    is_damage,
    open_for_writing,
    row_of,
)
from redisrepl.store.unusable import UnusableError, reason_of, set_aside

__all__ = ["SUFFIX", "Conflicts", "Loser", "Winner"]

_log = structlog.get_logger("redisrepl")

_PAGE = 4096
#: Pages of a file without losers.
_EMPTY = 8
#: Redis' own limit (proto-max-bulk-len), and well below SQLite's for a row (SQLITE_MAX_LENGTH).
_LARGEST_VALUE = 512 << 20
#: Bytes that may wait in memory.
_MAX_WAITING = 4 << 20
#: Bytes of memory that a loser takes beside its key and value; on disk it takes less.
_OVERHEAD = 400
#: Seconds before a failed disk is tried again, and between removals of losers that are too old.
_RETRY_AFTER = 5.0
_EXPIRE_EVERY = 600.0
_DAY = 86_400.0


class Conflicts:
    """Keeps losers. Only one thread may create, call and close it.

    Args:
        path: of the file, whose name ends in `SUFFIX`. A symbolic link in its place is not followed.
        max_bytes: size of the file. While it is written, SQLite's journal takes some megabytes more.
        max_days: how long a loser is kept.
        clock: Unix time.
        site: address of the site, so that a loser can be restored to it.
        database: its number there.
        on_failed: called with a sentence whenever the disk begins to fail.

    Attributes:
        failed: why the disk cannot be written; None if it can.
        kept: losers written since the start.
        digests_only: losers whose value was too large, so that only its digest is kept.
        dropped: losers that are not kept at all: the disk failed and memory was full, or the key alone is too large.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        max_days: float,
        clock: Callable[[], float],
        *,
        site: str = "",
        database: int = 0,
        on_failed: Callable[[str], object] | None = None,
    ) -> None:
        self.path = path
        self.failed: str | None = None
        self.kept = self.digests_only = self.dropped = 0
        self._max_pages = max_bytes // _PAGE
        self._max_age = max_days * _DAY
        self._clock = clock
        self._place = site, database
        self._on_failed = on_failed
        self._failed_at = 0.0
        self._expired_at = 0.0
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode of the file that `_db` has open
        self._waiting: deque[LoserRow] = deque()
        self._waiting_bytes = 0
        self._attempt()  # report a bad disk at the start, not at the first conflict

    def keep(self, loser: Loser) -> None:
        """Remember a loser; it is on disk after the next `flush`."""
        row = row_of(loser)
        if self._fits(_weight(row) + row.size + 8 * row.fields):
            row = row._replace(value=encode_value(loser.loser))
        else:
            self._too_large(row)
            if not self._fits(_weight(row)):  # nor does the key
                self.dropped += 1
                return
        self._waiting.append(row)
        self._waiting_bytes += _weight(row)
        if self._waiting_bytes > _MAX_WAITING and self.failed is None:
            self._attempt()
        while self._waiting_bytes > _MAX_WAITING:
            self._waiting_bytes -= _weight(self._waiting.popleft())
            self.dropped += 1

    def flush(self) -> None:
        """Write the losers in memory, in one transaction; costs nothing if there are none."""
        now = self._clock()
        if self.failed is not None:
            due = not 0 <= now - self._failed_at < _RETRY_AFTER  # retry too if the clock was set back
        else:
            due = bool(self._waiting) or not 0 <= now - self._expired_at < _EXPIRE_EVERY
        if due:
            self._attempt()

    def close(self) -> None:
        """Write the losers in memory, and close the file."""
        if self._waiting:
            self._attempt()
        self._disconnect()

    def _fits(self, size: int) -> bool:
        return size <= _LARGEST_VALUE and _EMPTY + _pages(size) <= self._max_pages

    def _too_large(self, row: LoserRow) -> None:
        if not self.digests_only:  # `redisrepl conflicts` shows each of them
            hint = "its value is larger than --keep-conflicts allows; further ones are only counted"
            _log.warning("conflicts.digest_only", key=printable(row.key[:200]), bytes=row.size, hint=hint)
        self.digests_only += 1

    def _attempt(self) -> None:
        try:
            try:
                self._write()
            except (sqlite3.Error, UnusableError, UnicodeDecodeError) as error:
                if not is_damage(error):
                    raise
                self._set_aside(error)
                self._write()
        except (sqlite3.Error, OSError, UnusableError, UnicodeDecodeError) as error:
            self._disconnect()  # rolls back an open transaction; its losers are still in memory
            self._failed_at = self._clock()
            begins = self.failed is None
            self.failed = (
                f"{self.path}: {reason_of(error)}: values that lose a conflict cannot be kept: make it writable"
            )
            if begins and self._on_failed is not None:
                self._on_failed(self.failed)
            return
        self.failed = None
        self.kept += len(self._waiting)
        self._waiting.clear()
        self._waiting_bytes = 0

    def _write(self) -> None:
        """Write all losers in memory; remove those that are too old, and the oldest if the file is full."""
        db, now = self._opened(), self._clock()
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM losers WHERE at < ?", (now - self._max_age,))
        used = self._make_room(db, 0)
        for row in self._waiting:
            needed = _pages(_weight(row))  # an upper bound; `_make_room` then counts the pages that are really in use
            if used + needed > self._max_pages:
                used = self._make_room(db, needed)
            db.execute(INSERT, row)
            used += needed
        db.execute("COMMIT")
        self._expired_at = now

    def _make_room(self, db: sqlite3.Connection, needed: int) -> int:
        """Remove the oldest losers until so many more pages fit; returns how many pages are in use then."""
        while True:
            (pages,), (free,) = (db.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count"))
            used = int(pages) - int(free)
            if used + needed <= self._max_pages or not db.execute(_DELETE_OLDEST).rowcount:
                return used

    def _opened(self) -> sqlite3.Connection:
        if self._db is not None:
            if identity(self.path) == self._file:
                return self._db
            self._disconnect()  # the file was removed or replaced: nobody could read what we write to the old one
        self._file = claim(self.path)
        self._db = open_for_writing(self.path, self._file, self._place)
        return self._db

    def _set_aside(self, error: Exception) -> None:
        self._disconnect()
        aside = set_aside(self.path)
        self.path.with_name(f"{self.path.name}-shm").unlink(missing_ok=True)
        _log.warning("conflicts.set_aside", file=str(self.path), kept_as=str(aside), reason=reason_of(error))

    def _disconnect(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
            self._db = None


_DELETE_OLDEST = "DELETE FROM losers WHERE number = (SELECT min(number) FROM losers)"


def _weight(row: LoserRow) -> int:
    """Bytes of a row, in memory."""
    return _OVERHEAD + len(row.key) + len(row.value or b"")


def _pages(size: int) -> int:
    """How many pages a row of this size adds to the file, at most."""
    return size // 4000 + 2  # a page of 4096 bytes holds SQLite's headers too, and some pages hold no rows
