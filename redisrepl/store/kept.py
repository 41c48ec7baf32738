"""Reads the losers of conflicts that a daemon has kept, whether it runs or not.

In: the path of a file. Out: losers and their values. Left to others: the format of the file (`store.losers`), showing
and restoring losers (`subcommands.conflicts`).
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from redisrepl.changes import HashState, SequenceState, State, StringState
from redisrepl.store.losers import COLUMNS, LENGTHS, is_ours, place_of
from redisrepl.store.unusable import UnusableError, reason_of
from redisrepl.wire.collections import COLLECTIONS, SEQUENCES

__all__ = ["Kept", "KeptConflicts"]

#: Seconds to wait for a lock, which a daemon holds while it repairs the file after a crash.
_LOCK_WAIT = 5.0
#: Rows that are read in one transaction.
_CHUNK = 1000

_SELECT = f"SELECT number, {COLUMNS}, value IS NOT NULL FROM losers"  # noqa: S608 - constants

#: Types of the columns of `_SELECT`: a damaged file may return anything.
_TYPES = (
    *(int, float, bytes, str, str, str | None, str | None, str, int, int),
    *(int | None, int),
)


class Kept(NamedTuple):
    """A loser as it is listed: a `LoserRow` without its value.

    Attributes:
        number: counts up from 1 in each file.
        has_value: False if only the digests were kept.
    """

    number: int
    at: float
    key: bytes
    winner: str
    reason: str
    site_digest: str | None
    hub_digest: str | None
    kind: str
    fields: int
    size: int
    expires_at_ms: int | None
    has_value: bool


class KeptConflicts:
    """The losers in a file. A daemon may write to it meanwhile.

    Args:
        path: of the file.

    Attributes:
        path: likewise.
        site: address of the site as the daemon knows it; empty if it did not say.
        database: its number there.

    Raises:
        UnusableError: it is damaged, or belongs to another program. OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not stat.S_ISREG(path.lstat().st_mode):
            raise UnusableError("it is not a regular file")
        path.open("rb").close()  # raises with the reason, which SQLite would not tell
        with _readable():
            self._db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_LOCK_WAIT)
            try:
                self._new = not is_ours(self._db)
                self.site, self.database = ("", 0) if self._new else place_of(self._db)
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def entries(self, key: bytes | None = None) -> Iterator[Kept]:
        """All losers, or those of one key, oldest first.

        Raises:
            UnusableError: the file cannot be read further.
        """
        last, more = 0, not self._new
        while more:
            with _readable():  # each chunk is a transaction: a long one would keep SQLite's journal from shrinking
                rows = self._db.execute(
                    f"{_SELECT} WHERE number > ? AND coalesce(key = ?, 1) ORDER BY number LIMIT {_CHUNK}", (last, key)
                ).fetchall()
            for row in rows:
                if not all(map(isinstance, row, _TYPES)):
                    raise UnusableError("a row holds what was never written")
                yield Kept._make((*row[:-1], bool(row[-1])))
                last = row[0]
            more = len(rows) == _CHUNK

    def state(self, kept: Kept) -> State:
        """The value that lost; None if it was not kept, or was removed since.

        Raises:
            UnusableError: the file cannot be read.
        """
        with _readable():
            row = self._db.execute("SELECT value FROM losers WHERE number = ?", (kept.number,)).fetchone()
        if row is None or not isinstance(value := row[0], bytes):
            return None
        if kept.kind in COLLECTIONS:
            return HashState(dict(_decode_fields(value)), kept.expires_at_ms, kept.kind)
        if kept.kind in SEQUENCES:
            return SequenceState(tuple(item for item, _ in _decode_fields(value)), kept.expires_at_ms, kept.kind)
        return StringState(value, kept.expires_at_ms)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise UnusableError(reason_of(error)) from None


def _decode_fields(value: bytes) -> list[tuple[bytes, bytes]]:
    fields: list[tuple[bytes, bytes]] = []
    at, end = 0, len(value)
    while at < end:
        if at + LENGTHS.size > end:
            raise UnusableError("the fields of a hash are cut off")
        of_field, of_value = LENGTHS.unpack_from(value, at)
        at += LENGTHS.size + of_field + of_value
        if at > end:
            raise UnusableError("the fields of a hash are cut off")
        fields.append((value[at - of_field - of_value : at - of_value], value[at - of_value : at]))
    return fields
