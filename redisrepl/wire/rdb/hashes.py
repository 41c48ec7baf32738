"""Hashes, with and without fields that expire, and with field names kept in a template.

In: the source, at the value of a key. Out: readers that yield (field, value) or (field, value, expiry) in parts, and
skippers that decode nothing. Left to others: the key and its attributes (`wire.rdb.reader`), joining the parts
(`wire.rdb.events`).

Redis 7.4 and Valkey 9 both let fields expire, each with its own layouts; type 22 means one thing under Redis' magic and
another under Valkey's.
"""

from __future__ import annotations

from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING

from redisrepl.wire.rdb import listpack
from redisrepl.wire.rdb.parts import string_parts, tuple_parts
from redisrepl.wire.rdb.source import Source, attempt, skip_strings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from redisrepl.wire.rdb.events import Value

    Triple = tuple[bytes, bytes, int | None]

__all__ = [
    "MAX_TEMPLATE_BYTES",
    "paired",
    "read_hash",
    "read_hash_metadata",
    "read_hash_metadata_rc",
    "read_hash_packed_ttl",
    "read_hash_valkey",
    "read_template_dump",
    "read_template_dump_packed",
    "read_template_packed",
    "read_template_reference",
    "skip_hash_metadata",
    "skip_hash_metadata_rc",
    "skip_hash_packed_ttl",
    "skip_hash_valkey",
    "skip_template_dump",
    "skip_template_dump_packed",
    "skip_template_reference",
    "take_template",
    "timed",
]

MAX_TEMPLATE_BYTES = 16 << 20
"""Most bytes of all templates together: their field names are kept until the end of the snapshot."""

_MAX_MS = 1 << 48  # EB_EXPIRE_TIME_MAX
_TOO_MANY_NAMES = f"field names of hash templates take more than {MAX_TEMPLATE_BYTES} bytes"
_NAMES_PACKED, _NAMES_STRINGS = 0, 1


def paired(elements: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Fields and values that alternate, as pairs."""
    if len(elements) % 2:
        raise ValueError("a field without its value")
    return list(zip(elements[::2], elements[1::2], strict=True))


def timed(elements: list[bytes]) -> list[Triple]:
    """Fields, values and expiries that alternate, as triples; an expiry of 0 is none."""
    if len(elements) % 3:
        raise ValueError("a field without its value or expiry")
    return [
        (field, value, None if expiry == b"0" else _packed_ms(expiry))
        for field, value, expiry in zip(elements[::3], elements[1::3], elements[2::3], strict=True)
    ]


def _packed_ms(text: bytes) -> int:
    if not text.isdigit() or len(text) > 15 or int(text) >= _MAX_MS:  # noqa: PLR2004 (digits of 2**48)
        raise ValueError("a field expiry out of range")
    return int(text)


def read_hash(source: Source) -> Iterator[Value]:
    """A hash of plain strings (RDB_TYPE_HASH)."""
    count = yield from attempt(source, Source.length)
    for part in string_parts(source, count * 2, group=2):
        yield None if part is None else list(zip(part[::2], part[1::2], strict=True))


def read_hash_metadata(source: Source) -> Iterator[Value]:
    """A hash with expiring fields (RDB_TYPE_HASH_METADATA): expiries relative to the earliest one."""
    earliest = yield from attempt(source, Source.int64)

    def take_expiry(source: Source) -> int | None:
        delta = source.length()
        return _ms(source, earliest + delta - 1) if delta else None

    yield from _expiry_first(source, take_expiry)


def _expiry_first(source: Source, take_expiry: Callable[[Source], int | None]) -> Iterator[Value]:
    count = yield from attempt(source, Source.length)
    for part in tuple_parts(source, count, take_expiry, Source.string, Source.string):
        yield None if part is None else [(field, value, expiry) for expiry, field, value in part]


def skip_hash_metadata(source: Source) -> Generator[None, None, bool]:
    """Skips a hash with expiring fields."""
    source.skip(8)
    return (yield from skip_hash_metadata_rc(source))


def read_hash_metadata_rc(source: Source) -> Iterator[Value]:
    """A hash with expiring fields as release candidates of Redis 7.4 wrote it (RDB_TYPE_HASH_METADATA_PRE_GA)."""

    def take_expiry(source: Source) -> int | None:
        expiry = source.length()
        return _ms(source, expiry) if expiry else None

    yield from _expiry_first(source, take_expiry)


def skip_hash_metadata_rc(source: Source) -> Generator[None, None, bool]:
    """Skips a count and that many times a number and two strings."""
    count = yield from attempt(source, Source.length)
    for _ in range(count):
        yield from attempt(source, Source.length)
        yield from skip_strings(source, 2)
    return count > 0


def _ms(source: Source, expiry: int) -> int:
    if not 0 <= expiry < _MAX_MS:
        raise source.fail(f"a field expiry of {expiry} ms")
    return expiry


def read_hash_valkey(source: Source) -> Iterator[Value]:
    """A hash with expiring fields as Valkey writes it (RDB_TYPE_HASH_2)."""

    def take_expiry(source: Source) -> int | None:
        expiry = source.int64()
        return None if expiry == -1 else _ms(source, expiry)

    count = yield from attempt(source, Source.length)
    yield from tuple_parts(source, count, Source.string, Source.string, take_expiry)


def skip_hash_valkey(source: Source) -> Generator[None, None, bool]:
    """Skips a hash with expiring fields as Valkey writes it."""
    count = yield from attempt(source, Source.length)
    for _ in range(count):
        yield from skip_strings(source, 2)
        source.skip(8)
    return count > 0


def read_hash_packed_ttl(source: Source) -> Iterator[Value]:
    """A small hash with expiring fields (RDB_TYPE_HASH_LISTPACK_EX)."""
    yield from attempt(source, Source.int64)  # the earliest expiry, not needed
    blob = yield from attempt(source, Source.string)
    if source.left_out:
        return
    try:
        for part in listpack.elements(blob):
            yield timed(part)
    except ValueError as error:
        raise source.fail(str(error)) from None


def skip_hash_packed_ttl(source: Source) -> Generator[None, None, bool]:
    """Skips a small hash with expiring fields."""
    source.skip(8)
    return (yield from attempt(source, Source.skip_string)) > listpack.EMPTY


def take_template(source: Source) -> Generator[None, None, None]:
    """Takes a template (RDB_OPCODE_HASH_TEMPLATE) and keeps it in `source.templates`."""
    number = yield from attempt(source, Source.length)
    began = source.weight
    fields = yield from _names(source, MAX_TEMPLATE_BYTES - source.kept)
    source.kept += source.weight - began
    if number in source.templates:
        raise source.fail(f"hash template {number} is there twice")
    if any(not (len(one), one) < (len(two), two) for one, two in pairwise(fields)):
        raise source.fail(f"the fields of hash template {number} are not in order")
    source.templates[number] = fields


def _names(source: Source, room: int) -> Generator[None, None, list[bytes]]:
    """A count and that many field names, at most `room` bytes."""
    count = yield from attempt(source, Source.length)
    limit = source.weight + room
    fields: list[bytes] = []
    for part in string_parts(source, count):
        if part is None:
            yield None
        else:
            fields += part
        if source.weight > limit or source.left_out:
            raise source.fail(_TOO_MANY_NAMES)
    if not fields:
        raise source.fail("a hash template without fields")
    return fields


def _dumped_names(source: Source) -> Generator[None, None, list[bytes]]:
    """The field names that a hash brings itself (RDB_TYPE_HASH_TEMPLATE_DUMP and its listpack form)."""
    form = yield from attempt(source, Source.length)
    if form == _NAMES_STRINGS:
        return (yield from _names(source, MAX_TEMPLATE_BYTES))
    if form != _NAMES_PACKED:
        raise source.fail(f"unknown form of field names {form}")
    blob = yield from attempt(source, Source.string)
    if source.left_out or len(blob) > MAX_TEMPLATE_BYTES:
        raise source.fail(_TOO_MANY_NAMES)
    try:
        return list(chain.from_iterable(listpack.elements(blob)))
    except ValueError as error:
        raise source.fail(str(error)) from None


def _known_names(source: Source, number: int) -> list[bytes]:
    if number not in source.templates:
        raise source.fail(f"hash template {number} was never described")
    return source.templates[number]


def _packed_values(source: Source, names: list[bytes] | None) -> Iterator[Value]:
    """A listpack of a template's id and the values; the names are those of that template unless given."""
    blob = yield from attempt(source, Source.string)
    if source.left_out:
        return
    try:
        values = chain.from_iterable(listpack.elements(blob))
        number = next(values, b"")
        if names is None:
            names = _known_names(source, int(number) if number.isdigit() else -1)
        fields = list(zip(names, values, strict=True))
    except ValueError as error:
        raise source.fail(f"a hash that does not fit its template: {error}") from None
    yield fields


def read_template_dump_packed(source: Source) -> Iterator[Value]:
    """A small hash that brings its template along (type 29)."""
    names = yield from _dumped_names(source)
    yield from _packed_values(source, names)


def skip_template_dump_packed(source: Source) -> Generator[None, None, bool]:
    """Skips a small hash that brings its template along."""
    yield from _skip_dumped_names(source)
    yield from attempt(source, Source.skip_string)
    return True


def read_template_packed(source: Source) -> Iterator[Value]:
    """A small hash of a template described before (type 30)."""
    yield from _packed_values(source, None)


def _named_values(source: Source, names: list[bytes]) -> Iterator[Value]:
    rest = iter(names)
    for part in string_parts(source, len(names)):
        yield None if part is None else list(zip(islice(rest, len(part)), part, strict=True))


def read_template_dump(source: Source) -> Iterator[Value]:
    """A hash that brings its template along (type 31)."""
    yield from _named_values(source, (yield from _dumped_names(source)))


def skip_template_dump(source: Source) -> Generator[None, None, bool]:
    """Skips a hash that brings its template along."""
    yield from skip_strings(source, (yield from _skip_dumped_names(source)))
    return True


def _skip_dumped_names(source: Source) -> Generator[None, None, int]:
    """Skips field names; returns how many there are."""
    return len((yield from _dumped_names(source)))


def read_template_reference(source: Source) -> Iterator[Value]:
    """A hash of a template described before (type 32)."""
    number = yield from attempt(source, Source.length)
    yield from _named_values(source, _known_names(source, number))


def skip_template_reference(source: Source) -> Generator[None, None, bool]:
    """Skips a hash of a template described before."""
    number = yield from attempt(source, Source.length)
    yield from skip_strings(source, len(_known_names(source, number)))
    return True
