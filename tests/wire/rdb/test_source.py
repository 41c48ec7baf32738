"""Lengths and strings, and what is refused before anything is allocated."""

from __future__ import annotations

import pytest

from redisrepl.wire.rdb import RdbReader
from redisrepl.wire.rdb.source import MAX_SKIP, PART_BYTES, PART_ITEMS
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
