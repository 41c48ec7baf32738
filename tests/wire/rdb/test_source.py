"""Lengths and strings, and what is refused before anything is allocated."""

from __future__ import annotations

import resource

import pytest

from redisrepl.wire.rdb import Entry, RdbReader
from redisrepl.wire.rdb.parts import PART_BYTES, PART_ITEMS
from redisrepl.wire.rdb.source import MAX_KEY, MAX_SKIP
from tests.wire.rdb import build
from tests.wire.rdb.check import events, fails, feed, values


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        (b"\x03abc", b"abc"),
        (b"\x40\x03abc", b"abc"),
        (b"\x80\x00\x00\x00\x03abc", b"abc"),
        (b"\x81\x00\x00\x00\x00\x00\x00\x00\x03abc", b"abc"),
        (b"\x00", b""),
        (b"\xc0\x80", b"-128"),
        (b"\xc1\x00\x80", b"-32768"),
        (b"\xc2\xff\xff\xff\x7f", b"2147483647"),
        (build.repeated(b"z", 1000), b"z" * 1000),
    ],
)
def test_strings_as_keys_values_and_members(encoded, value):
    data = build.rdb(
        b"\x00" + encoded + encoded,
        build.key(0, b"value", encoded),
        build.key(2, b"member", build.length(2) + encoded + build.string(b"last")),
        build.key(0, b"next", build.string(b"n")),
    )

    assert values(data) == {value: value, b"value": value, b"member": [value, b"last"], b"next": b"n"}


@pytest.mark.parametrize(
    ("encoded", "match"),
    [
        (b"\x82abc", "invalid length encoding 0x82"),
        (b"\xbfabc", "invalid length encoding 0xbf"),
        (b"\xc4abc", "unknown string encoding 4"),
        (b"\xff", "unknown string encoding 63"),
        (b"\x81" + b"\xff" * 8, "over the limit"),
        (b"\x80" + b"\xff" * 4, "over the limit"),
        (build.compressed(b"\x00a", 1 << 40), "over the limit"),
        (b"\xc3" + build.length(1 << 40) + build.length(1 << 30), "over the limit"),
        (build.compressed(b"\x00a", 177), "cannot become"),
        (build.compressed(b"\x00a", 2), "LZF"),
        (build.compressed(b"\x00a", 0), "LZF"),
        (build.compressed(b"\x20\x00", 3), "LZF"),
    ],
)
def test_damaged_strings(encoded, match):
    fails(build.rdb(b"\x00" + build.string(b"key") + encoded), match)
    fails(build.rdb(b"\x00" + encoded), match)


@pytest.mark.parametrize("encoded", [b"\x81" + b"\xff" * 8, b"\xc3\x81" + b"\xff" * 8 + b"\x01", b"\xc5", b"\x90"])
def test_damaged_strings_are_noticed_when_skipped(encoded):
    assert MAX_SKIP < 1 << 33
    fails(build.rdb(b"\x00" + build.string(b"key") + encoded), "limit|encoding", want_values=False)


def test_a_string_encoding_is_no_count():
    fails(build.rdb(build.key(2, b"set", b"\xc0\x05")), "a number is expected")


def test_a_forged_count_allocates_nothing():
    data = build.rdb(build.key(2, b"set", b"\x81" + b"\xff" * 8 + build.string(b"member")))

    fails(data, "truncated|limit|unknown|encoding")


def parts(data, **options):
    return list(feed(RdbReader(**options), data, 1 << 16))


def test_a_collection_ends_a_part_by_its_elements():
    count = PART_ITEMS * 2 + 3
    body = b"".join(build.string(b"%d" % number) for number in range(count * 2))
    data = build.rdb(
        build.key(1, b"list", build.length(count * 2) + body), build.key(4, b"hash", build.length(count) + body)
    )

    found = parts(data)
    lists, hashes = ([entry for entry in found if entry.type == kind] for kind in ("list", "hash"))

    assert [len(entry.value) for entry in lists] == [PART_ITEMS] * 4 + [6]
    assert [len(entry.value) for entry in hashes] == [PART_ITEMS // 2] * 4 + [3]
    for several in (lists, hashes):
        assert [entry.first for entry in several] == [True] + [False] * 4
        assert [entry.last for entry in several] == [False] * 4 + [True]
        assert [entry.size for entry in several] == sorted(entry.size for entry in several)
    assert lists[-1].size == len(build.length(count * 2)) + len(body)
    (whole,) = [entry for entry in events(data) if entry.type == "hash"]
    assert len(whole.value) == count


@pytest.mark.parametrize("element", [build.string(b"x" * 300_000), build.repeated(b"x", 300_000)])
def test_a_collection_ends_a_part_by_its_bytes(element):
    data = build.rdb(
        build.key(1, b"list", build.length(10) + element * 10),
        build.key(4, b"hash", build.length(5) + element * 10),
        build.key(5, b"zset", build.length(10) + (element + build.double(1.0)) * 10),
        build.key(14, b"quick", build.length(0)),
        checksum=False,
    )

    found = parts(data)

    for kind in ("list", "hash", "zset"):
        sizes = [len(entry.value) for entry in found if entry.type == kind]
        assert sum(sizes) == (5 if kind == "hash" else 10)
        assert max(sizes) <= PART_BYTES // 300_000 + 1


LONG = b"x" * 20_001
ONE = build.length(1)
SHORT = build.string(b"f")
LISTPACK = build.listpack(b"f", LONG)
AFTER = build.key(0, b"after", build.string(b"v"))
PLAIN = build.length(1)  # QUICKLIST_NODE_CONTAINER_PLAIN


@pytest.mark.parametrize("string", [build.string(LONG), build.repeated(b"x", len(LONG))], ids=["plain", "compressed"])
@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (0, "string", lambda long: long),
        (4, "hash", lambda long: ONE + SHORT + long),
        (4, "hash", lambda long: ONE + long + SHORT),
        (4, "hash", lambda long: build.length(3) + SHORT + SHORT + SHORT + long + build.string(b"g") + SHORT),
        (22, "hash", lambda long: ONE + build.length(5) + SHORT + long),
        (24, "hash", lambda long: build.millis(5) + ONE + ONE + long + SHORT),
        (2, "set", lambda long: build.length(2) + SHORT + long),
        (5, "zset", lambda long: build.length(2) + long + build.double(1.0) + SHORT + build.double(1.0)),
        (3, "zset", lambda long: build.length(2) + long + b"\x011" + SHORT + b"\x011"),
        (1, "list", lambda long: build.length(2) + long + SHORT),
        (14, "list", lambda _: build.length(2) + build.string(build.ziplist(b"f", LONG)) * 2),
        (18, "list", lambda long: build.length(3) + PLAIN + SHORT + PLAIN + long + PLAIN + SHORT),
    ],
)
def test_a_value_that_is_too_long_is_passed_over(kind, name, value, string):
    data = build.rdb(build.key(kind, b"k", value(string)), AFTER, checksum=False)

    long, after = read(data, max_value=len(LONG) - 1)

    assert long == Entry(0, b"k", name, None, size=len(value(string)))
    assert after.value == b"v"
    assert None not in values_of(read(data, max_value=2 * len(LONG)))


def read(data, **options):
    """The events, the same however they arrive."""
    found = events(data, **options)
    assert events(data, 1, **options) == events(data, 4096, **options) == found
    return found


def values_of(entries):
    return [entry.value for entry in entries]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (16, build.string(LISTPACK)),
        (23, build.string(build.listpack(b"f", LONG, 0))),
        (25, build.millis(5) + build.string(build.listpack(b"f", LONG, 0))),
        (29, b"\x00" + build.string(build.listpack(b"f")) + build.string(build.listpack(0, LONG))),
        (20, build.string(LISTPACK)),
        (17, build.string(build.listpack(LONG, 1))),
        (18, ONE + build.length(2) + build.string(LISTPACK)),
    ],
)
def test_a_packed_value_that_is_too_long_is_passed_over(kind, value):
    assert values_of(read(build.rdb(build.key(kind, b"k", value), AFTER, checksum=False), max_value=20_000)) == [
        None,
        b"v",
    ]


def test_a_field_of_valkey_that_is_too_long_is_passed_over():
    hashed = build.key(22, b"k", ONE + build.string(LONG) + SHORT + build.millis(-1))
    data = build.rdb(hashed, AFTER, version=80, valkey=True, checksum=False)

    assert values_of(read(data, max_value=20_000)) == [None, b"v"]


def test_of_types_that_are_not_replicated_only_the_key_is_told():
    data = build.rdb(
        build.key(2, b"s", build.length(2) + SHORT + build.string(LONG)),
        build.key(5, b"z", ONE + build.string(LONG) + build.double(1.0)),
        build.key(4, b"h", ONE + SHORT + SHORT),
        checksum=False,
    )

    assert values_of(read(data, max_value=1, types={"hash"})) == [None, None, [(b"f", b"f")]]
    assert values_of(read(data, types={"set"})) == [[b"f", LONG], None, None]


def test_a_key_that_is_too_long_is_not_told():
    name = b"k" * (MAX_KEY + 1)
    data = build.rdb(build.key(0, name, SHORT), build.key(4, name, ONE + SHORT + SHORT), checksum=False)

    assert events(data, max_value=100 << 20) == []
    assert len(events(data)) == 2


def test_what_a_server_says_of_itself_is_left_out_if_it_is_too_long():
    data = build.rdb(b"\xfa" + SHORT + build.string(LONG), b"\xf5" + build.string(LONG), AFTER, checksum=False)

    assert [entry.key for entry in read(data, max_value=20_000)] == [b"after"]


PIECE = b"x" * (1 << 20)


@pytest.mark.parametrize(
    "head",
    [
        b"\x00" + SHORT,
        b"\x04" + SHORT + ONE + SHORT,
        b"\x04" + SHORT + ONE,
        b"\x10" + SHORT,
        b"\x18" + SHORT + build.millis(5) + ONE + b"\x00",
        b"\x16" + SHORT + ONE + b"\x00",
        b"\x05" + SHORT + ONE,
        b"\x03" + SHORT + ONE,
        b"\x02" + SHORT + ONE,
        b"\x12" + SHORT + ONE + PLAIN,
        b"\x00",
        b"\xfa" + SHORT,
        b"\xf5",
    ],
    ids=[
        *("string", "value", "field", "packed", "field that expires", "older", "sorted set", "older sorted set", "set"),
        *("list", "key", "aux", "function"),
    ],
)
def test_memory_does_not_depend_on_what_is_passed_over(head):
    reader = RdbReader([b"f"], max_value=1 << 20, verify_checksum=False)
    list(reader.feed(b"REDIS0011" + head + build.length(300 * len(PIECE))))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(300):
        assert list(reader.feed(PIECE)) == []

    assert reader.offset > 300 * len(PIECE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10
