"""The agreed digests of all keys, and of the elements of collections, in SQLite.

In: changes conflated by key. Out: rows. Left to others: which facts are agreed (`store.folding`), in which thread this
runs (`store.store`).

Each write is one transaction that also stores how far the journal has been folded in. So a crash at any point leaves
either the old rows with the old place, or the new rows with the new place.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from redisrepl.store.directory import Pair, open_private
from redisrepl.store.facts import DIGEST_SIZE, Changes, Patch
from redisrepl.store.unusable import UnusableError
from redisrepl.wire.digests import BUCKETS, total_of

__all__ = ["PAGE", "Database", "Row", "add", "is_damage"]

_FORMAT = 1
_APPLICATION = 0x52455052  # `file` and SQLite's own tools show it
_PART = (1 << 48) - 1
_HALF = (1 << 24) - 1
_ASKED = 500  # parameters of one statement; SQLite before 3.32 takes 999
PAGE = 1000  # rows that are listed at once

_SCHEMA = """
CREATE TABLE about (pair TEXT NOT NULL, place INTEGER NOT NULL, number INTEGER NOT NULL);
CREATE TABLE keys (key BLOB PRIMARY KEY, bucket INTEGER NOT NULL, digest INTEGER NOT NULL, number INTEGER NOT NULL,
                   expires_at_ms INTEGER, total BLOB) WITHOUT ROWID;
CREATE TABLE elements (key BLOB NOT NULL, field BLOB NOT NULL, digest BLOB NOT NULL,
                       PRIMARY KEY (key, field)) WITHOUT ROWID;
"""
_PUT = "INSERT OR REPLACE INTO keys (key, bucket, digest, number, expires_at_ms, total) VALUES (?, ?, ?, ?, ?, ?)"


class Row(NamedTuple):
    """What is agreed about a key.

    Attributes:
        total: sum of the digests of a collection's elements; None: the key is a string or a sequence.
    """

    digest: int
    number: int
    expires_at_ms: int | None
    total: int | None


def add(total: int, digest: int, sign: int = 1) -> int:
    """Add a digest to a sum of digests, or subtract it; each half by itself, modulo 2**48."""
    first = (total >> 48) + sign * (digest >> 48) & _PART
    return first << 48 | (total + sign * digest & _PART)


def _sum(digests: Iterable[int]) -> int:
    """The sum of digests, as `add` makes it."""
    first, second = total_of(digests)
    return first << 48 | second


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is damaged, rather than the disk full or the file locked."""
    if not isinstance(error, sqlite3.OperationalError):
        return isinstance(error, sqlite3.DatabaseError)
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR  # a table that is not there


class Database:
    """The SQLite file. Opened in one thread, used in another.

    Args:
        path: of the file, which is created if missing.
        pair: site and hub that it belongs to.
        place: the place in the journal from which a new file has to be filled.
        digest_of_hash: digest of a hash, from its key and the two halves of its total.
        bucket_of: to which of 256 buckets a key belongs.

    Attributes:
        place: how far the journal is folded in.
        number: the highest number that is folded in.

    Raises:
        UnusableError: it is damaged or belongs to another pair or program.
        sqlite3.OperationalError, OSError: it cannot be read or created.
    """

    def __init__(
        self,
        path: Path,
        pair: Pair,
        place: int,
        *,
        digest_of_hash: Callable[[bytes, tuple[int, int]], int],
        bucket_of: Callable[[bytes], int],
    ) -> None:
        self.path = path
        self._digest_of_hash = digest_of_hash
        self._bucket_of = bucket_of
        self._identity = repr((pair.site, pair.hub, pair.scope))
        os.close(open_private(path, os.O_RDWR | os.O_CREAT))  # SQLite gives its other files the same permissions
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._open(place)
        except BaseException as error:
            self._connection.close()
            if isinstance(error, sqlite3.Error) and is_damage(error):
                raise UnusableError("it is damaged") from None
            raise

    def _open(self, place: int) -> None:
        execute = self._connection.execute
        execute("PRAGMA busy_timeout = 5000")
        execute("PRAGMA locking_mode = EXCLUSIVE")  # spares the shared memory file
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        execute("PRAGMA wal_autocheckpoint = 8000")
        execute("PRAGMA cache_size = -32000")
        if not execute("SELECT 1 FROM sqlite_master").fetchone():
            with self._transaction():
                for statement in _SCHEMA.split(";"):
                    execute(statement)
                execute("INSERT INTO about VALUES (?, ?, 0)", (self._identity, place))
                execute(f"PRAGMA application_id = {_APPLICATION}")
                execute(f"PRAGMA user_version = {_FORMAT}")
        if execute("PRAGMA application_id").fetchone() != (_APPLICATION,):
            raise UnusableError("it is not redisrepl's")
        (version,) = execute("PRAGMA user_version").fetchone()
        if version != _FORMAT:
            raise UnusableError(f"its format is {version}, not {_FORMAT}")
        about = execute("SELECT pair, place, number FROM about").fetchone()
        if about is None:
            raise UnusableError("it is damaged")
        pair, self.place, self.number = about
        if pair != self._identity:
            raise UnusableError("it was written for other addresses, namespaces or kinds of change")
        self._has_hashes = execute("SELECT 1 FROM elements").fetchone() is not None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    # Writing.

    def write(self, changes: Changes, place: int, number: int) -> None:
        """Apply the changes that the journal held up to this place, in order of their keys."""
        strings: list[tuple[bytes, tuple[int, int, int | None]]] = []
        patches: list[tuple[bytes, Patch]] = []
        gone: list[tuple[bytes]] = []
        for key in sorted(changes):
            entry = changes[key]
            if isinstance(entry, tuple):
                strings.append((key, entry))
            elif entry is None:
                gone.append((key,))
            else:
                patches.append((key, entry))
        with self._transaction():
            many, bucket_of = self._connection.executemany, self._bucket_of
            if self._has_hashes:
                many("DELETE FROM elements WHERE key = ?", ((key,) for key, *_ in chain(strings, gone)))
            many(_PUT, ((key, bucket_of(key), *entry, None) for key, entry in strings))
            many("DELETE FROM keys WHERE key = ?", gone)
            for key, patch in patches:
                self._write_patch(key, patch)
            self._connection.execute("UPDATE about SET place = ?, number = max(number, ?)", (place, number))
        self.place, self.number = place, max(number, self.number)
        self._has_hashes = self._has_hashes or bool(patches)

    def try_to_write(self) -> None:
        """Raise what `write` would raise, without changing anything."""
        with self._transaction():
            self._connection.execute("UPDATE about SET place = place")

    def _write_patch(self, key: bytes, patch: Patch) -> None:
        before = None if patch.whole else self.read([key]).get(key)
        row = self.patched(key, patch, before)
        execute, many = self._connection.execute, self._connection.executemany
        if row is None:
            execute("DELETE FROM keys WHERE key = ?", (key,))
            execute("DELETE FROM elements WHERE key = ?", (key,))
            return
        if before is None or before.total is None:
            execute("DELETE FROM elements WHERE key = ?", (key,))
        total = None if row.total is None else row.total.to_bytes(DIGEST_SIZE)
        execute(_PUT, (key, self._bucket_of(key), row.digest, row.number, row.expires_at_ms, total))
        many(
            "INSERT OR REPLACE INTO elements (key, field, digest) VALUES (?, ?, ?)",
            ((key, name, new.to_bytes(DIGEST_SIZE)) for name, new in sorted(patch.elements.items()) if new is not None),
        )
        many(
            "DELETE FROM elements WHERE key = ? AND field = ?",
            ((key, name) for name, new in patch.elements.items() if new is None),
        )

    def patched(self, key: bytes, patch: Patch, row: Row | None) -> Row | None:
        """The row of a key after a patch, without writing it; None if the key is then absent."""
        if row is not None and not patch.elements and not patch.whole:
            return row._replace(number=patch.number, expires_at_ms=patch.expires_at_ms)
        total = _sum(changed for changed in patch.elements.values() if changed is not None)
        if row is not None and row.total is not None and not patch.whole:
            total = add(add(total, row.total), self._replaced(key, patch), -1)
        if not total and not self.merged(key, patch, row):  # a total of 0 alone does not prove that none are left
            return None
        emptied = bool(patch.emptied) and self._emptied(key, patch, row)
        before = None if row is None or row.total is None else row  # a collection in the place of a string is new
        expires_at_ms = None if before is None or emptied else before.expires_at_ms
        if patch.sets_expiry and (before is not None or not patch.if_there):
            expires_at_ms = patch.expires_at_ms
        elif patch.expiry_before is not None and not emptied:
            (expires_at_ms,) = patch.expiry_before
        return Row(self._digest_of_hash(key, (total >> 48, total & _PART)), patch.number, expires_at_ms, total)

    def _replaced(self, key: bytes, patch: Patch) -> int:
        """The sum of the digests that a patch replaces; it may be asked for whenever the patch has grown a little."""
        names = islice(patch.elements, patch.looked_up, None)
        patch.replaced = add(patch.replaced, _sum(self.elements(key, list(names)).values()))
        patch.looked_up = len(patch.elements)
        return patch.replaced

    def _emptied(self, key: bytes, patch: Patch, row: Row | None) -> bool:
        """Whether a hash had no elements but those that the patch found gone at once, and was absent then."""
        if row is None or row.total is None or patch.whole:
            return True
        gone = dict.fromkeys(islice(patch.elements, patch.emptied))
        rest = add(row.total, _sum(self.elements(key, gone).values()), -1)
        return not rest and self.elements(key).keys() <= gone.keys()

    def merged(
        self, key: bytes, patch: Patch, row: Row | None, names: Collection[bytes] | None = None
    ) -> dict[bytes, int]:
        """The elements of a hash after a patch: those named, or all."""
        before = self.elements(key, names) if row is not None and row.total is not None and not patch.whole else {}
        changed: Mapping[bytes, int | None] = patch.elements
        if names is not None:
            changed = {name: changed[name] for name in names if name in changed}
        return {name: digest for name, digest in {**before, **changed}.items() if digest is not None}

    def clear(self, place: int) -> None:
        """Remove every row."""
        with self._transaction():
            self._connection.execute("DELETE FROM keys")
            self._connection.execute("DELETE FROM elements")
            self._connection.execute("UPDATE about SET place = ?", (place,))
        self.place, self._has_hashes = place, False

    def checkpoint(self) -> None:
        """Force all that was written to the disk."""
        busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError("the database is in use by another program")

    def move(self) -> None:
        """Write the whole file again at its path, after somebody removed it."""
        os.close(open_private(self.path, os.O_RDWR | os.O_CREAT))
        copy = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            self._connection.backup(copy)
        except BaseException:
            copy.close()
            raise
        self._connection.close()
        self._connection = copy
        self._open(self.place)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    # Reading.

    def read(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """The rows of these keys; keys without a row are missing."""
        return {
            key: Row(digest, number, expires_at_ms, None if total is None else int.from_bytes(total))
            for key, digest, number, expires_at_ms, total in self._select(
                "SELECT key, digest, number, expires_at_ms, total FROM keys WHERE key IN", keys
            )
        }

    def elements(self, key: bytes, names: Collection[bytes] | None = None) -> dict[bytes, int]:
        """The agreed elements of a hash: those named, or all."""
        query = "SELECT field, digest FROM elements WHERE key = ?"
        rows = (
            self._connection.execute(query, (key,))
            if names is None
            else self._select(f"{query} AND field IN", names, key)
        )
        return {name: int.from_bytes(digest) for name, digest in rows}

    def names(self, key: bytes, wanted: Callable[[bytes], bool] | None, before: bytes | None) -> set[bytes]:
        """The names of agreed elements of a collection: the `wanted` ones that sort `before` another; None: all."""
        query = "SELECT field FROM elements WHERE key = ?"
        found = self._connection.execute(
            *((query, (key,)) if before is None else (f"{query} AND field < ?", (key, before)))
        )
        return {name for (name,) in found if wanted is None or wanted(name)}

    def _select(self, query: str, names: Iterable[bytes], *parameters: bytes) -> Iterator[tuple[Any, ...]]:
        remaining = iter(names)
        while part := tuple(islice(remaining, _ASKED)):
            yield from self._connection.execute(f"{query} ({','.join('?' * len(part))})", parameters + part)

    def changed(
        self, changes: Changes, prefix: bytes, buckets: Collection[int] = range(BUCKETS)
    ) -> dict[bytes, tuple[int | None, int | None]]:
        """Of the keys of the prefix and these buckets that have changes, the digests before and after; None: absent."""
        keys = [key for key in changes if key.startswith(prefix) and self._bucket_of(key) in buckets]
        rows, digests = self.read(keys), dict[bytes, tuple[int | None, int | None]]()
        for key in keys:
            entry, row = changes[key], rows.get(key)
            after = self.patched(key, entry, row) if isinstance(entry, Patch) else entry
            digests[key] = None if row is None else row.digest, None if after is None else after[0]
        return digests

    def sums(self, prefix: bytes, changes: Changes) -> list[int]:
        """For each bucket, the sum of the digests of the prefix's keys after these changes, modulo 2**48."""
        where, bounds = _within(prefix)
        sums = [0] * BUCKETS
        halves = f"sum(digest & {_HALF}), sum(digest >> 24 & {_HALF})"  # SQLite's sum fails beyond 64 bits
        query = f"SELECT bucket, {halves} FROM keys WHERE {where} GROUP BY bucket"  # noqa: S608 - constants
        for bucket, low, high in self._connection.execute(query, bounds):
            sums[bucket] = low + (high << 24) & _PART
        for key, (before, after) in self.changed(changes, prefix).items():
            bucket = self._bucket_of(key)
            sums[bucket] = sums[bucket] - (before or 0) + (after or 0) & _PART
        return sums

    def page(self, prefix: bytes, buckets: Collection[int], after: bytes | None) -> list[tuple[bytes, int]]:
        """The next keys, and their digests, of the prefix and of these buckets."""
        where, bounds = _within(prefix)
        if after is not None:
            where, bounds = f"{where} AND key > ?", (*bounds, after)
        chosen = ",".join(str(int(bucket)) for bucket in buckets)
        where = f"{where} AND bucket IN ({chosen})"
        query = f"SELECT key, digest FROM keys WHERE {where} ORDER BY key LIMIT {PAGE}"  # noqa: S608 - no user's text
        return self._connection.execute(query, bounds).fetchall()

    def count(self, changes: Changes) -> int:
        """The number of keys with an agreed state after these changes."""
        (count,) = self._connection.execute("SELECT count(*) FROM keys").fetchone()
        changed = self.changed(changes, b"").values()
        return int(count) + sum((after is not None) - (before is not None) for before, after in changed)

    @property
    def empty(self) -> bool:
        """Whether nothing is agreed about any key."""
        return self._connection.execute("SELECT 1 FROM keys").fetchone() is None


def _within(prefix: bytes) -> tuple[str, tuple[bytes, ...]]:
    """The SQL condition that a key starts with this prefix, and its parameters."""
    whole = prefix.rstrip(b"\xff")
    if not whole:
        return "key >= ?", (prefix,)
    return "key >= ? AND key < ?", (prefix, whole[:-1] + bytes([whole[-1] + 1]))
