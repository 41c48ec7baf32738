"""The buffer of a snapshot's bytes, and the primitive items in it.

In: chunks of any size. Out: integers, lengths and strings, or `Short` if the bytes of one have not arrived. Left to
others: what the strings mean (`wire.rdb.reader` and the readers of values).

There is one buffer and one position in it. A reader that runs out of bytes goes back to where its item began and says
how many bytes it needs; reading continues only when they have arrived, so a value that arrives byte by byte costs no
more than one that arrives at once. A value that nobody wants is never held: the position moves on, past the end of the
buffer if necessary, and the bytes that arrive before it are only added to the checksum.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, TypeVar

from redisrepl.errors import RdbError
from redisrepl.wire.rdb import crc64, lzf

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

__all__ = [
    "MAX_KEY",
    "MAX_SKIP",
    "Short",
    "Source",
    "attempt",
    "skip_strings",
]

T = TypeVar("T")

MAX_KEY = 1 << 20
"""The longest key that is read if large strings are skipped."""

MAX_SKIP = 1 << 32
"""The longest string that is skipped: nothing is allocated for it, but a longer length can only be damage."""

LENGTH_32BIT_LEAST = 1 << 14
"""The shortest string whose length takes more than two bytes."""

LENGTH_14BIT, LENGTH_32BIT, LENGTH_64BIT, ENCODED = 0x40, 0x80, 0x81, 0xC0
"""First bytes of lengths (RDB_14BITLEN, ...): below the first two, 6 and 14 bits; from the last on, an encoding."""

#: The newest RDB versions that we know. Later ones are tried too: most change little.
_NEWEST, _NEWEST_VALKEY = 15, 80
#: What to do about a format, or a type in it, that is newer than we are, or one of a fork.
_REMEDY = "upgrade redisrepl, or follow the site with --source notify, which reads no snapshot"

_LZF = 3  # RDB_ENC_LZF; the encodings below it are integers of 1, 2 and 4 bytes
_INT64 = Struct("<q")
DOUBLE = Struct("<d")


class Short(Exception):  # noqa: N818 (not an error: more bytes are needed)
    """The buffer ends before the item does; `Source.target` says what to wait for."""


class Source:
    """The buffer, the position in it and the primitives that move it.

    Attributes:
        buf: bytes that have arrived; those behind `pos` are not consumed yet.
        pos: where the next item begins in `buf`; may be beyond its end.
        base: how many bytes of the snapshot came before `buf`.
        received: how many bytes of the snapshot have arrived.
        expanded: how many bytes decompression has added to those consumed.
        target: how many bytes of the snapshot must have arrived before reading can continue.
        type: the value type or opcode being read, for error messages.
        version: RDB version; None before the header was read.
        valkey: whether the magic was Valkey's.
        templates: field names by the id of their template (RDB_OPCODE_HASH_TEMPLATE).
        kept: how many bytes of the snapshot the templates took.
        left_out: whether a string was longer than allowed and was skipped; the code that reacts to it resets it.
        passes_over: whether such strings are skipped; otherwise they are an error.
        max_string, max_key: bytes of the longest string, and of the longest key.
        summed: whether the checksum is computed.
        crc: checksum of everything before `buf` (a CRC-64 as Redis computes it).
    """

    __slots__ = (
        "_chunks",
        "base",
        "buf",
        "crc",
        "expanded",
        "kept",
        "left_out",
        "max_key",
        "max_string",
        "passes_over",
        "pos",
        "received",
        "summed",
        "target",
        "templates",
        "type",
        "valkey",
        "version",
    )

    def __init__(self, *, max_string: int, verify_checksum: bool, max_value: int | None = None) -> None:
        self.buf = b""
        self.pos = 0
        self.base = 0
        self.target = 1
        self.received = 0
        self.expanded = 0
        self.passes_over = max_value is not None
        self.max_string = self.max_key = max_string
        if max_value is not None:
            self.max_string = max(max_value, LENGTH_32BIT_LEAST - 1)  # fast paths read shorter ones without a check
            self.max_key = MAX_KEY
        self.left_out = False
        self.summed = verify_checksum
        self.crc = 0
        self.type: int | None = None
        self.version: int | None = None
        self.valkey = False
        self.templates: dict[int, list[bytes]] = {}
        self.kept = 0
        self._chunks: list[bytes] = []

    def feed(self, data: bytes) -> bool:
        """Adds a chunk; returns whether reading can continue."""
        self.received += len(data)
        if self.received <= self.base + self.pos:
            self._drop(data)
            return False
        self._chunks.append(data)
        if self.received < self.target:
            return False
        self._drop(b"".join(self._chunks))
        self._chunks = []
        return True

    def _drop(self, data: bytes) -> None:
        """Appends `data` to the unconsumed rest of the buffer, and drops the consumed bytes."""
        buf, pos, size = self.buf, self.pos, len(self.buf)
        if pos >= size:
            self._sum(buf)
            if size:
                self.base += size
                pos -= size
            buf = data
            size = len(data)
            if pos >= size:
                self._sum(buf)
                self.base += size
                self.buf, self.pos = b"", pos - size
                return
            data = b""
        self._sum(memoryview(buf)[:pos])
        self.base += pos
        self.buf, self.pos = buf[pos:] + data, 0

    def _sum(self, data: bytes | memoryview) -> None:
        if self.summed and data:
            self.crc = crc64.update(data, self.crc)

    def checksum(self) -> int:
        """The checksum of all consumed bytes."""
        self._sum(memoryview(self.buf)[: self.pos])
        self.base += self.pos
        self.buf, self.pos = self.buf[self.pos :], 0
        return self.crc

    @property
    def offset(self) -> int:
        """Consumed bytes of the snapshot."""
        return self.base + self.pos

    @property
    def weight(self) -> int:
        """Consumed bytes, with compressed strings at their full size; the measure for parts of a collection."""
        return self.base + self.pos + self.expanded

    def rest(self) -> bytes:
        """All bytes that have arrived and were not consumed."""
        return self.buf[self.pos :] + b"".join(self._chunks)

    def fail(self, reason: str) -> RdbError:
        """The error to raise: `reason`, with the offset where it was noticed."""
        newest = _NEWEST_VALKEY if self.valkey else _NEWEST
        if self.version is not None and self.version > newest:
            reason = f"{reason}; this version of the format is newer than the newest known here, {newest}: {_REMEDY}"
        return RdbError(reason, offset=self.offset, rdb_type=self.type, version=self.version)

    def fail_unknown(self, what: str) -> RdbError:
        """The error to raise at something that the format, as far as we know it, does not have."""
        newest = _NEWEST_VALKEY if self.valkey else _NEWEST
        too_new = self.version is not None and self.version > newest  # `fail` says what to do
        return self.fail(f"unknown {what}" if too_new else f"unknown {what}: if the snapshot is sound, {_REMEDY}")

    def short(self, end: int) -> Short:
        """The exception to raise if `buf` does not reach up to `end`."""
        self.target = self.base + end
        return Short()

    def byte(self) -> int:
        """One byte."""
        pos = self.pos
        if pos >= len(self.buf):
            raise self.short(pos + 1)
        self.pos = pos + 1
        return self.buf[pos]

    def raw(self, size: int) -> bytes:
        """Exactly `size` bytes; the caller has checked the size."""
        pos = self.pos
        end = pos + size
        if end > len(self.buf):
            raise self.short(end)
        self.pos = end
        return self.buf[pos:end]

    def int64(self) -> int:
        """A signed 64-bit integer, little-endian."""
        value: int = _INT64.unpack(self.raw(8))[0]
        return value

    def double(self) -> float:
        """An IEEE 754 double, little-endian."""
        value: float = DOUBLE.unpack(self.raw(8))[0]
        return value

    def _head(self) -> tuple[int, bool]:
        """A length, or the number of a special string encoding (RDB_ENCVAL) and True."""
        first = self.byte()
        if first < LENGTH_14BIT:
            return first, False
        if first < LENGTH_32BIT:
            return (first & 0x3F) << 8 | self.byte(), False
        if first >= ENCODED:
            return first & 0x3F, True
        if first == LENGTH_32BIT:
            return int.from_bytes(self.raw(4), "big"), False
        if first == LENGTH_64BIT:
            return int.from_bytes(self.raw(8), "big"), False
        self.pos -= 1
        raise self.fail(f"invalid length encoding 0x{first:02x}")

    def length(self) -> int:
        """A length or number, 0 to 2**64 - 1 (rdbLoadLen)."""
        value, special = self._head()
        if special:
            raise self.fail("a string encoding stands where a number is expected")
        return value

    def string(self, most: int = 0) -> bytes:
        """A string in any of its encodings (rdbGenericLoadStringObject); empty if it was skipped.

        Args:
            most: its limit in bytes; 0: the limit of values.
        """
        most = most or self.max_string
        size, special = self._head()
        if not special:
            if size <= most:
                return self.raw(size)
            if self.passes_over and size <= MAX_SKIP:
                return self._leave_out(size)
            raise self.fail(f"a string of {size} bytes is over the limit of {most}")
        if size < _LZF:  # RDB_ENC_INT8, RDB_ENC_INT16, RDB_ENC_INT32
            return b"%d" % int.from_bytes(self.raw(1 << size), "little", signed=True)
        packed, original = self._lzf_sizes(size, MAX_SKIP if self.passes_over else most)
        if original > most or packed > most:
            return self._leave_out(packed)
        data = self.raw(packed)
        self.expanded += original
        try:
            return lzf.decompress(data, original)
        except ValueError as error:
            raise self.fail(f"broken LZF data: {error}") from None

    def key(self) -> bytes:
        """A string that is a key."""
        return self.string(self.max_key)

    def _leave_out(self, size: int) -> bytes:
        self.pos += size
        self.left_out = True
        return b""

    def _lzf_sizes(self, encoding: int, limit: int) -> tuple[int, int]:
        if encoding != _LZF:
            raise self.fail(f"unknown string encoding {encoding}")
        packed, original = self.length(), self.length()
        if packed > limit or original > limit:
            raise self.fail(f"a compressed string of {packed} bytes for {original} is over the limit of {limit}")
        if original > packed * lzf.MAX_RATIO:
            raise self.fail(f"{packed} bytes of LZF data cannot become {original}")
        return packed, original

    def skip(self, size: int) -> None:
        """Skips `size` bytes that may not have arrived yet."""
        self.pos += size

    def skip_string(self) -> int:
        """Skips a string without decoding it; returns the bytes that it takes behind its length."""
        size, special = self._head()
        if special:
            size = 1 << size if size < _LZF else self._lzf_sizes(size, MAX_SKIP)[0]
        elif size > MAX_SKIP:
            raise self.fail(f"a string of {size} bytes is over the limit of {MAX_SKIP}")
        self.pos += size
        return size


def attempt(source: Source, take: Callable[[Source], T]) -> Generator[None, None, T]:
    """Returns the result of `take`; yields None, and calls it again, whenever more bytes are needed."""
    while True:
        mark = source.pos
        try:
            return take(source)
        except Short:
            source.pos = mark
            yield None


def skip_strings(source: Source, count: int, tail: int = 0) -> Iterator[None]:
    """Skips `count` strings, each with `tail` more bytes behind it; yields None when more bytes are needed."""
    buf, pos, size = source.buf, source.pos, len(source.buf)
    while count:
        if pos + 1 < size and (length := buf[pos]) < LENGTH_32BIT:
            pos += (length + 1 if length < LENGTH_14BIT else ((length & 0x3F) << 8 | buf[pos + 1]) + 2) + tail
        else:
            source.pos = pos
            yield from attempt(source, Source.skip_string)
            source.pos += tail
            buf, pos, size = source.buf, source.pos, len(source.buf)
        count -= 1
    source.pos = pos
