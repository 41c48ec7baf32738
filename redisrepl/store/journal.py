"""An append-only file of checksummed records; when it has grown, a new one replaces it.

In: records, in their order. Out: the same records, up to the first damaged or incomplete one. Left to others: their
meaning (`store.reading`), when to replace the file, and when to try again to write what is kept (`store.store`).

Records that cannot be written are kept in memory, as the end of the journal: reading goes on through them.

A place in the file is a byte count that never decreases, not even when a new one begins: its header holds the place
of its first record.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from zlib import crc32

from redisrepl.store.directory import Pair, open_private, sync_directory
from redisrepl.store.unusable import UnusableError

__all__ = ["Journal", "Kind", "Record", "parse", "record"]

_MAGIC = b"redisrepl journal\n"
_FORMAT = 2
_FORMATS = {1, _FORMAT}  # the ones that we can read: format 1 had no `PATCH`
_HEAD = struct.Struct("<IBI")  # length of the payload, kind, checksum of both and of the payload
_SUMMED = 5  # bytes of the head that its checksum covers
_BLOCK = 1 << 20
_LONGEST_HEADER = 1 << 20


class Kind(IntEnum):
    """What a record says. No kind is 0, so that zeros, as after a crash of the system, are no record."""

    HEADER = 1
    SENDING = 2  # batch, facts
    ACKNOWLEDGED = 3  # batch, count and keys that were refused
    DROPPED = 4  # batch
    AGREED = 5  # number, facts
    DOCUMENT = 6  # JSON: the state document
    NUMBER = 7  # the last number that was assigned
    CLEARED = 8  # nothing is agreed about any key, and no batch is open
    APPLYING = 9  # batch, count of keys whose facts no longer count, those keys, facts
    PATCH = 10  # JSON: the values of the state document that changed, by name
    AT = 11  # not written any more, and not read: a former `HELD_BY`
    HELD_BY = 12  # number, offset, count; of keys their checksum, and how much later; history: of what is agreed next
    ENDED = 13  # batch: of unknown outcome, and not executed from here on


#: Kind, payload, and the place behind the record.
Record = tuple[int, bytes, int]


def record(kind: Kind, *parts: bytes) -> bytes:
    """The bytes of a record."""
    payload = b"".join(parts)
    head = _HEAD.pack(len(payload), kind, 0)[:_SUMMED]
    return b"".join((head, crc32(payload, crc32(head)).to_bytes(4, "little"), payload))


def parse(data: bytes) -> Iterator[Record]:
    """The records of these bytes, up to the first damaged or incomplete one."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, kind, checksum = _HEAD.unpack_from(data, at)
        start, end = at + _HEAD.size, at + _HEAD.size + length
        payload = data[start:end]
        if len(payload) < length or crc32(payload, crc32(data[at : at + _SUMMED])) != checksum:
            return
        yield kind, payload, end
        at = end


class Journal:
    """The journal file, and behind it the records that are kept. One thread appends; another reads, syncs and renews.

    Args:
        path: of the file, which is created if missing.
        pair: site and hub that it belongs to.

    Attributes:
        base: the place of the first record.
        existed: whether the file existed before.

    Raises:
        OSError: it cannot be read or created.
        UnusableError: it is damaged or belongs to another pair.
    """

    def __init__(self, path: Path, pair: Pair) -> None:
        self.path = path
        self._pair = pair
        self._lock = threading.Lock()
        self._torn = False
        try:
            self._file = open_private(path, os.O_RDWR)
        except FileNotFoundError:
            self.existed = False
            self._replace(0, b"", None)
        else:
            self.existed = True
            try:
                size = os.fstat(self._file).st_size
                self.base, self._first = self._read_header(size)
            except BaseException:
                os.close(self._file)
                raise
            self._tail = self.base + size - self._first, bytearray()

    def _read_header(self, size: int) -> tuple[int, int]:
        start = os.pread(self._file, min(size, _LONGEST_HEADER), 0)
        found = next(parse(start[len(_MAGIC) :]), None)
        if not start.startswith(_MAGIC) or found is None or found[0] != Kind.HEADER:
            raise UnusableError("it is damaged")
        try:
            header = json.loads(found[1])
            if header["format"] not in _FORMATS:
                raise UnusableError(f"its format is {header['format']}, not {_FORMAT}")
            if [header[name] for name in ("site", "hub", "scope")] != [
                self._pair.site,
                self._pair.hub,
                self._pair.scope,
            ]:
                raise UnusableError("it was written for other addresses, namespaces or kinds of change")
            return int(header["base"]), len(_MAGIC) + found[2]
        except (ValueError, KeyError, TypeError):
            raise UnusableError("it is damaged") from None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._first + self.written - self.base

    @property
    def written(self) -> int:
        """The place behind the last record of the file."""
        return self._tail[0]

    @property
    def unwritten(self) -> int:
        """Bytes of the records behind that, which are kept."""
        return len(self._tail[1])

    @property
    def end(self) -> int:
        """The place behind the last record."""
        written, unwritten = self._tail
        return written + len(unwritten)

    def records(self, start: int, end: int) -> Iterator[Record]:
        """The records between two places, up to the first damaged or incomplete one."""
        window, begin, place = b"", start, start
        while end - place >= _HEAD.size:
            at = place - begin
            if at + _HEAD.size > len(window):
                window, begin, at = self._read(place, min(_BLOCK, end - place)), place, 0
            if at + _HEAD.size > len(window):
                return
            length, kind, checksum = _HEAD.unpack_from(window, at)
            if length > end - place - _HEAD.size:
                return
            stop = at + _HEAD.size + length
            if stop > len(window):
                window, begin, at = self._read(place, min(max(_BLOCK, _HEAD.size + length), end - place)), place, 0
                stop = _HEAD.size + length
            payload = window[at + _HEAD.size : stop]
            if len(payload) < length or crc32(payload, crc32(window[at : at + _SUMMED])) != checksum:
                return
            place = begin + stop
            yield kind, payload, place

    def _read(self, place: int, size: int) -> bytes:
        """So many bytes, or less: up to the end of the file, or of what could not be written."""
        written, unwritten = self._tail  # which may be another one at any moment
        if place >= written:
            return bytes(unwritten[place - written : place - written + size])
        return os.pread(self._file, min(size, written - place), place - self.base + self._first)

    def cut(self, end: int) -> int:
        """Truncate the file at this place; returns how many bytes were cut."""
        behind = self.end - end
        os.ftruncate(self._file, end - self.base + self._first)
        self._tail = end, bytearray()
        return behind

    def append(self, records: bytes = b"") -> None:
        """Write whole records, behind those that are kept.

        Raises:
            OSError: nothing was written.
        """
        with self._lock:
            if self._torn:
                self._untear()
            end, kept = self._tail
            records = bytes(kept) + records if kept else records
            self._torn = True
            offset = self._first + end - self.base
            written = os.pwrite(self._file, records, offset)
            while written < len(records):  # if the disk is full, the next call raises
                written += os.pwrite(self._file, records[written:], offset + written)
            self._torn = False
            self._tail = end + written, bytearray()

    def keep(self, records: bytes) -> None:
        """Keep whole records that could not be written: they are read as if they were in the file."""
        with self._lock:
            self._tail[1].extend(records)

    def keep_instead(self, place: int, records: bytes) -> int:
        """Keep these records in the place of all that are kept up to a place; returns where they begin.

        If what is before the place was written meanwhile nothing is done, and it is returned.
        """
        with self._lock:
            written, unwritten = self._tail
            if place > written:
                self._tail = written, bytearray(records) + unwritten[place - written :]
            return min(place, written)

    def _untear(self) -> None:
        """Remove the remains of a failed write."""
        os.ftruncate(self._file, self.size)
        self._torn = False

    def sync(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._file)

    @property
    def removed(self) -> bool:
        """Whether the file was removed from its directory."""
        try:
            found = self.path.lstat()
        except OSError:
            return True
        ours = os.fstat(self._file)
        return (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino)

    def renew(self, base: int, carried: bytes) -> None:
        """Replace the file by one with the records `carried`, followed by those behind `base`.

        Raises:
            OSError: the old file stays in use.
        """
        self._replace(base, carried, self._file)

    def _replace(self, base: int, carried: bytes, old: int | None) -> None:
        header = {"format": _FORMAT, "site": self._pair.site, "hub": self._pair.hub, "scope": self._pair.scope}
        start = _MAGIC + record(Kind.HEADER, json.dumps(header | {"base": base}).encode())
        fresh = self.path.with_name(self.path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        file = open_private(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            _write(file, start + carried)
            copied = base if old is None else self._copy(file, base, self.end)
            os.fsync(file)
            with self._lock:  # held only while the records appended since are copied
                if old is not None:
                    copied = self._copy(file, copied, self.end)
                fresh.replace(self.path)
                self._file, self.base, self._first, self._torn = file, base, len(start), False
                self._tail = copied + len(carried), bytearray()
        except BaseException:
            os.close(file)
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise
        if old is not None:
            os.close(old)
        sync_directory(self.path.parent)

    def _copy(self, file: int, start: int, end: int) -> int:
        while start < end:
            block = self._read(start, min(_BLOCK, end - start))
            if not block:
                raise OSError(5, os.strerror(5))
            _write(file, block)
            start += len(block)
        return start

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _write(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
