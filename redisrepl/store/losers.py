"""The file of kept losers: its format, and opening it.

In: losers, a path. Out: rows, an open SQLite file of ours. Left to others: writing and bounding it (`store.conflicts`),
reading it (`store.kept`).

One row is one loser. The file is in WAL mode, so that no reader blocks the daemon.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from redisrepl.changes import HashState, SequenceState, State, StringState, value_size
from redisrepl.paths import identity
from redisrepl.store.directory import is_of_another
from redisrepl.store.unusable import UnusableError

__all__ = [
    "COLUMNS",
    "INSERT",
    "LENGTHS",
    "SUFFIX",
    "Loser",
    "LoserRow",
    "Winner",
    "claim",
    "encode_value",
    "is_damage",
    "is_ours",
    "open_for_writing",
    "place_of",
    "row_of",
]

#: The ending of the file's name; before it comes the stem that all files of a pair share.
SUFFIX = ".conflicts"

Winner = Literal["site", "hub"]

_APPLICATION = 0x72726366  # "rrcf", in SQLite's own field for the program that a file belongs to
_FORMAT = 1
#: Seconds to wait for a lock; only an operator's `sqlite3` holds one for long.
_LOCK_WAIT = 0.1
_WAL_LIMIT = 4 << 20

_SCHEMA = """\
BEGIN IMMEDIATE;
CREATE TABLE place (site TEXT NOT NULL, database INTEGER NOT NULL);
CREATE TABLE losers (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    key BLOB NOT NULL,
    winner TEXT NOT NULL,
    reason TEXT NOT NULL,
    site_digest TEXT,
    hub_digest TEXT,
    kind TEXT NOT NULL,
    fields INTEGER NOT NULL,
    size INTEGER NOT NULL,
    expires_at_ms INTEGER,
    value BLOB
);
CREATE INDEX losers_at ON losers (at);
"""
COLUMNS = "at, key, winner, reason, site_digest, hub_digest, kind, fields, size, expires_at_ms"
INSERT = f"INSERT INTO losers ({COLUMNS}, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - constants
#: The largest integer of SQLite; an expiry that a peer claims may be larger.
_INTEGER = (1 << 63) - 1
#: A field and its value are preceded by their lengths.
LENGTHS = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class Loser:
    """One side's value that a conflict has replaced.

    Attributes:
        key: of both sides.
        at: when it lost, Unix time.
        winner: the side whose value replaced it.
        reason: why nobody could tell which is newer, in a few words.
        site_digest: of the site's value; None if unknown.
        hub_digest: of the hub's value; None if unknown.
        loser: the value that lost; of a collection only the elements that lost.
    """

    key: bytes
    at: float
    winner: Winner
    reason: str
    site_digest: int | None
    hub_digest: int | None
    loser: State


class LoserRow(NamedTuple):
    """A loser as it is written.

    Attributes:
        kind: the type, `none` for a removal.
        fields: how many elements of a collection, or items of a list.
        size: bytes of the value, or of elements and their values.
        value: None if only the digests are kept.
    """

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
    value: bytes | None


def row_of(loser: Loser) -> LoserRow:
    """The row of a loser, still without its value."""
    kind, fields, size, expires_at_ms = _described(loser.loser)
    return LoserRow(
        at=loser.at,
        key=loser.key,
        winner=loser.winner,
        reason=loser.reason.encode(errors="backslashreplace").decode(),
        site_digest=_hex(loser.site_digest),
        hub_digest=_hex(loser.hub_digest),
        kind=kind,
        fields=fields,
        size=size,
        expires_at_ms=None if expires_at_ms is None else max(-_INTEGER, min(expires_at_ms, _INTEGER)),
        value=None,
    )


def _hex(digest: int | None) -> str | None:
    """A digest as text: SQLite's integers are signed, and JSON numbers are exact up to 53 bits only."""
    return None if digest is None else f"{digest:016x}"


def _described(state: State) -> tuple[str, int, int, int | None]:
    match state:
        case None:
            return "none", 0, 0, None
        case StringState(_, expires_at_ms):
            return "string", 0, value_size(state), expires_at_ms
        case SequenceState(items, expires_at_ms, type_):
            return type_, len(items), value_size(state), expires_at_ms
        case HashState(fields, expires_at_ms, type_):
            return type_, len(fields), value_size(state), expires_at_ms
        case kind:
            return kind, 0, 0, None


def encode_value(state: State) -> bytes | None:
    """A value as it is stored; None if there is none."""
    match state:
        case StringState(value):
            return value
        case SequenceState(items):
            return b"".join(part for item in items for part in (LENGTHS.pack(len(item), 0), item))
        case HashState(fields):
            return b"".join(part for f, v in fields.items() for part in (LENGTHS.pack(len(f), len(v)), f, v))
        case _:
            return None


def claim(path: Path) -> tuple[int, int]:
    """Create the file if missing, and make it private to this user; returns its device and inode.

    A symbolic link in its place is not followed. SQLite gives the files that it creates beside this one the same
    permissions. SQLite must not have this one open yet: by the rules of POSIX, closing any descriptor of a file
    releases every lock that the process has on it.

    Raises:
        OSError: it is a link or not a regular file, it belongs to somebody else, the disk is full, ...
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        if is_of_another(path, found):
            raise PermissionError(errno.EPERM, f"it belongs to another user (uid {found.st_uid})")
        if stat.S_IMODE(found.st_mode) & ~0o600:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    return found.st_dev, found.st_ino


def open_for_writing(path: Path, file: tuple[int, int], place: tuple[str, int]) -> sqlite3.Connection:
    """A connection in autocommit mode. A new file gets its tables; an existing file has to be ours.

    Args:
        path: of the file.
        file: its device and inode, as `claim` returned them.
        place: address and database of the site, which are written to the file.

    Raises:
        UnusableError: it belongs to another program or version. OSError: another file has taken its place.
        sqlite3.Error: it is damaged, locked, read-only, ...
    """
    db = sqlite3.connect(path, timeout=_LOCK_WAIT, isolation_level=None)
    try:
        _check_same(db, file)
        db.execute("PRAGMA auto_vacuum = FULL")  # the file shrinks when rows are removed; only before the first table
        if not is_ours(db):
            db.executescript(_SCHEMA)
            db.execute("INSERT INTO place VALUES (?, ?)", place)
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {_FORMAT}")
            db.execute("COMMIT")
        elif place_of(db) != place:
            db.execute("UPDATE place SET site = ?, database = ?", place)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
    except BaseException:
        db.close()
        raise
    return db


def _check_same(db: sqlite3.Connection, file: tuple[int, int]) -> None:
    """Check that SQLite has opened the file that we claimed: it resolves links to the directory by their text."""
    opened = db.execute("PRAGMA database_list").fetchone()[2]
    if identity(Path(opened)) != file:
        raise OSError(errno.ESTALE, f"SQLite opens another file instead, {opened}")


def is_ours(db: sqlite3.Connection) -> bool:
    """Whether it has our tables; False if nothing was ever written.

    Raises:
        UnusableError: it belongs to another program or version.
    """
    (application,), (version,) = (
        db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
    )
    (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not (application or version or tables):
        return False
    if application != _APPLICATION:
        raise UnusableError("it belongs to another program")
    if version != _FORMAT:
        raise UnusableError(f"its format is {version}, not {_FORMAT}")
    place_of(db)
    return True


def place_of(db: sqlite3.Connection) -> tuple[str, int]:
    """Address and database of the site whose losers the file holds."""
    row = db.execute("SELECT site, database FROM place").fetchone()
    if row is None:
        raise UnusableError("it does not say whose losers it holds")
    return str(row[0]), int(row[1])


def is_damage(error: Exception) -> bool:
    """Whether a file will never be usable, as opposed to a full disk or a locked file.

    SQLite's message about a damaged schema quotes the damaged bytes, which Python may be unable to decode: hence
    `UnicodeDecodeError`.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code, without the extended part
    return isinstance(error, UnusableError | UnicodeDecodeError) or code in {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
    }
