"""The frame of a snapshot: magic, opcodes, keys, checksum.

In: the bytes of an RDB file or of a full resynchronisation, in chunks of any size. Out: events in order (`Aux`,
`Function`, `Entry`), or one `RdbError` that says where and what. Left to others: where the bytes come from, what comes
after them (`RdbReader.unused`), the layouts of values (`wire.rdb.types`), what events mean (`wire.snapshots`).

Theory of operation. One generator reads from top to bottom. It suspends with an event, or with None when the bytes are
used up. Each item (an opcode, a key, a string, a length) is read whole or not at all, so there is no state in the
middle of one. Most keys of most servers are strings with short names: if such a key is whole in the buffer, the loop of
`_keys` reads it from local variables. All other items, and those cut by the end of the buffer, take the general path.
An unknown opcode or type is an error, like damage: it cannot be skipped, because nothing says how long it is.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from redisrepl.errors import RdbError
from redisrepl.wire.rdb import hashes, modules
from redisrepl.wire.rdb.events import Aux, Entry, Function
from redisrepl.wire.rdb.source import LENGTH_14BIT, LENGTH_32BIT, Short, Source, attempt
from redisrepl.wire.rdb.types import KINDS, STRING, VALKEY_KINDS

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence

    from redisrepl.wire.rdb.events import Event, Value

__all__ = ["DEFAULT_MAX_STRING", "MAX_SLOT", "RdbReader"]

DEFAULT_MAX_STRING = 512 << 20
"""The server's own limit for one string (proto-max-bulk-len)."""

MAX_SLOT = 1 << 14
"""Hash slots of a cluster."""

_EXPIRETIME_MS, _EOF = 252, 255  # RDB_OPCODE_*
_CHECKSUM_SINCE = 5
_MAGIC_SIZE = 9
_LAST_TYPE = 106  # the first opcode, of Redis Enterprise, is 107

_INT32 = Struct("<i")


class RdbReader:
    """Reads a snapshot that is pushed in with `feed`.

    Args:
        prefixes: report only keys that begin with one of these, and skip the values of others by length; empty: all.
        want_values: False to report only keys: `Entry.value` is None, nothing is decoded or decompressed.
        verify_checksum: False to skip the CRC-64, which without the C extension costs about as much as reading.
        max_string: longest string accepted, in bytes, before and after decompression; those under 16 KiB always are.
        types: read only values of these types: `Entry.value` is None for all others. None: read all.
        max_value: skip values with a longer string in them, in bytes, while it arrives: their `Entry.value` is None,
            and keys longer than `MAX_KEY` are not reported. Strings under 16 KiB are always read. None: read all.

    Attributes:
        db: number of the database of the next key.
        db_sizes: by database, the numbers of keys, and of keys with an expiry, by the server's own count; a hint that
            may be missing.
        finished: whether the end mark was read and the checksum, if there is one, agreed.
    """

    def __init__(
        self,
        prefixes: Sequence[bytes] = (),
        *,
        want_values: bool = True,
        verify_checksum: bool = True,
        max_string: int = DEFAULT_MAX_STRING,
        max_value: int | None = None,
        types: Collection[str] | None = None,
    ) -> None:
        self.db = 0
        self.db_sizes: dict[int, tuple[int, int]] = {}
        self.finished = False
        self._prefixes = tuple(prefixes) or (b"",)
        self._want_values = want_values
        self._types = types
        self._source = Source(max_string=max_string, max_value=max_value, verify_checksum=verify_checksum)
        self._error: RdbError | None = None
        self._expires: int | None = None
        self._idle: int | None = None
        self._freq: int | None = None
        self._next = self._run().__next__

    def feed(self, data: bytes) -> Iterator[Event]:
        """Parses the next bytes and returns the events that they complete.

        The iterator parses on demand, so memory stays bounded; exhaust it before feeding again, or that raises
        RuntimeError. After the end of the snapshot there are no events, and the bytes are in `unused`. 64 KiB to 1 MiB
        at a time is best.

        Raises:
            RdbError: from the iterator, after the events before the damage; from then on from `feed` itself.
        """
        source = self._source
        if self._error is not None:
            raise self._error
        if source.received >= source.target and not self.finished:
            raise RuntimeError("feed: the events of the chunk before were not all taken")
        if source.feed(data) and not self.finished:
            return iter(self._next, None)
        return iter(())

    def close(self) -> None:
        """No more bytes come: raises RdbError unless the snapshot is complete."""
        if self._error is not None:
            raise self._error
        if not self.finished:
            self._error = self._source.fail("the snapshot is truncated")
            raise self._error

    @property
    def unused(self) -> bytes:
        """The bytes that were fed beyond the end of the snapshot; empty before `finished`."""
        return self._source.rest() if self.finished else b""

    @property
    def offset(self) -> int:
        """Bytes of the snapshot read so far; when finished, its size."""
        return self._source.offset

    @property
    def version(self) -> int | None:
        """RDB version; None before the header was read."""
        return self._source.version

    @property
    def magic(self) -> bytes | None:
        """`REDIS` or `VALKEY`; None before the header was read."""
        if self._source.version is None:
            return None
        return b"VALKEY" if self._source.valkey else b"REDIS"

    def _run(self) -> Generator[Event | None, None, None]:
        try:
            yield from attempt(self._source, _take_magic)
            yield from self._keys()
            yield from self._end()
            self.finished = True
        except RdbError as error:
            self._error = error
            raise

    def _keys(self) -> Generator[Event | None, None, None]:  # noqa: C901, PLR0912, PLR0915 (the hot loop)
        """Reads up to the end mark. Strings and expiries are read here, everything else in `_key` and `_opcode`."""
        source, prefixes, want, new = self._source, self._prefixes, self._want_values, tuple.__new__
        buf, pos, size = source.buf, source.pos, len(source.buf)
        expires = idle = freq = None
        while True:
            try:
                opcode = buf[pos]
                if opcode == STRING:
                    start = pos + 1
                    length = buf[start]
                    if length < LENGTH_14BIT:
                        start += 1
                    elif length < LENGTH_32BIT:
                        length = (length & 0x3F) << 8 | buf[start + 1]
                        start += 2
                    else:
                        raise Short  # noqa: TRY301 (the general path handles it)
                    end = start + length
                    length = buf[end]  # fails unless the whole key is there
                    key = buf[start:end]
                    wanted = key.startswith(prefixes)
                    value: bytes | None = None
                    if length < LENGTH_32BIT:
                        if length < LENGTH_14BIT:
                            start = end + 1
                        else:
                            length = (length & 0x3F) << 8 | buf[end + 1]
                            start = end + 2
                        after = start + length
                        if after > size:
                            raise Short  # noqa: TRY301
                        if wanted and want:
                            value = buf[start:after]
                    else:
                        source.type = STRING
                        source.pos = end
                        if wanted and want:
                            value = source.string()
                            if source.left_out:
                                value, source.left_out = None, False
                        else:
                            source.skip_string()
                        after = source.pos
                    pos = after
                    if wanted:
                        yield new(Entry, (self.db, key, "string", value, expires, idle, freq, True, True, after - end))
                    expires = idle = freq = None
                    continue
                if opcode == _EXPIRETIME_MS and pos + 9 <= size:
                    expires = int.from_bytes(buf[pos + 1 : pos + 9], "little", signed=True)
                    pos += 9
                    continue
            except (IndexError, Short):
                pass
            source.pos = pos
            self._expires, self._idle, self._freq = expires, idle, freq
            opcode = yield from attempt(source, Source.byte)
            source.type = opcode
            if opcode == _EOF:
                return
            yield from self._key(opcode) if opcode <= _LAST_TYPE else self._opcode(opcode)
            expires, idle, freq = self._expires, self._idle, self._freq
            buf, pos, size = source.buf, source.pos, len(source.buf)

    def _key(self, number: int) -> Generator[Event | None, None, None]:
        """Reads a key of any type, with its value."""
        source = self._source
        kind = (VALKEY_KINDS if source.valkey else KINDS).get(number)
        if kind is None:
            raise source.fail_unknown("value type")
        key = yield from attempt(source, Source.key)
        wanted = not self._left_out() and key.startswith(self._prefixes)
        start = source.offset
        entry = Entry(self.db, key, kind.name, None, self._expires, self._idle, self._freq)
        if wanted and self._want_values and kind.read is not None and (self._types is None or kind.name in self._types):
            held: Value = None  # a part is known to be the last one when no other follows
            first = True
            for part in kind.read(source):
                if part is None:
                    yield None
                    continue
                if source.left_out:  # the value is too large: drop this part and the ones to come
                    held = None
                    continue
                if held is not None:
                    yield entry._replace(value=held, first=first, last=False, size=source.offset - start)
                    first = False
                held = part
            if self._left_out():
                yield entry._replace(first=first, size=source.offset - start)
            elif held is not None:
                yield entry._replace(value=held, first=first, size=source.offset - start)
        elif (yield from kind.skip(source)) and wanted:
            yield entry._replace(size=source.offset - start)
        self._expires = self._idle = self._freq = None

    def _opcode(self, opcode: int) -> Generator[Event | None, None, None]:  # noqa: C901, PLR0912 (a table)
        """Reads the data of an opcode (RDB_OPCODE_*)."""
        source = self._source
        match opcode:
            case 254:  # SELECTDB
                self.db = yield from attempt(source, Source.length)
            case 253:  # EXPIRETIME, in seconds
                self._expires = _INT32.unpack((yield from attempt(source, _take_4)))[0] * 1000
            case 252:  # EXPIRETIME_MS
                self._expires = yield from attempt(source, Source.int64)
            case 251:  # RESIZEDB
                self.db_sizes[self.db] = yield from attempt(source, _take_sizes)
            case 250:  # AUX
                key = yield from attempt(source, Source.string)
                text = yield from attempt(source, Source.string)
                if not self._left_out():
                    yield Aux(key, text)
            case 249:  # FREQ
                self._freq = yield from attempt(source, Source.byte)
            case 248:  # IDLE
                self._idle = yield from attempt(source, Source.length)
            case 247:  # MODULE_AUX
                yield from modules.skip_aux(source)
            case 245:  # FUNCTION2
                text = yield from attempt(source, Source.string)
                if not self._left_out():
                    yield Function(text)
            case 244:  # SLOT_INFO
                yield from attempt(source, _check_slots)
            case 243 if source.valkey:  # SLOT_IMPORT
                yield from attempt(source, Source.skip_string)
                for _ in range((yield from attempt(source, Source.length))):
                    yield from attempt(source, _check_range)
            case 243:  # KEY_META
                yield from modules.skip_key_meta(source)
            case 242:  # HASH_TEMPLATE
                yield from hashes.take_template(source)
            case 107 | 121:  # of Redis Enterprise: one number each, which we do not need
                yield from attempt(source, Source.length)
            case 246:  # FUNCTION_PRE_GA
                raise source.fail("a function as release candidates of Redis 7.0 wrote it")
            case _:
                raise source.fail_unknown("opcode")

    def _left_out(self) -> bool:
        """Whether a string was skipped since the last call."""
        left_out, self._source.left_out = self._source.left_out, False
        return left_out

    def _end(self) -> Generator[None, None, None]:
        """Compares the checksum, if this version has one and the server has not disabled it (zero)."""
        source = self._source
        if source.version is None or source.version < _CHECKSUM_SINCE:
            return
        computed = source.checksum()
        stored = int.from_bytes((yield from attempt(source, _take_8)), "little")
        if source.summed and stored not in (0, computed):
            raise source.fail(f"the checksum is {computed:016x} and should be {stored:016x}")
        source.summed = False


def _take_magic(source: Source) -> None:
    """Reads `REDIS` and four digits, or `VALKEY` and three."""
    magic = source.raw(_MAGIC_SIZE)
    valkey = magic.startswith(b"VALKEY")
    digits = magic[6 if valkey else 5 :]
    if not (valkey or magic.startswith(b"REDIS")) or not digits.isdigit() or not int(digits):
        source.pos -= _MAGIC_SIZE
        raise source.fail("this does not begin like a snapshot")
    source.valkey = valkey
    source.version = int(digits)


def _take_4(source: Source) -> bytes:
    return source.raw(4)


def _take_8(source: Source) -> bytes:
    return source.raw(8)


def _take_sizes(source: Source) -> tuple[int, int]:
    return source.length(), source.length()


def _check_slots(source: Source) -> None:
    slot, _, _ = source.length(), source.length(), source.length()
    if slot >= MAX_SLOT:
        raise source.fail(f"hash slot {slot}")


def _check_range(source: Source) -> None:
    start, end = source.length(), source.length()
    if not start <= end < MAX_SLOT:
        raise source.fail(f"hash slots {start} to {end}")
