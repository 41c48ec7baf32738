"""Ziplists."""

from __future__ import annotations

import struct

import pytest

from redisrepl.wire.rdb import ziplist
from tests.wire.rdb import build

ITEMS = [
    0,
    12,
    13,
    -1,
    127,
    -128,
    128,
    32767,
    -32768,
    32768,
    2**23 - 1,
    2**23,
    -(2**31),
    2**31,
    2**63 - 1,
    -(2**63),
    b"",
    b"a",
    b"x" * 63,
    b"x" * 64,
    b"x" * 251,
    b"x" * 252,
    b"x" * 300,
    b"x" * 16383,
    b"x" * 16384,
    b"after",
]


def decoded(blob):
    return [element for part in ziplist.elements(blob) for element in part]


def test_all_encodings():
    expected = [b"%d" % item if isinstance(item, int) else item for item in ITEMS]

    assert decoded(build.ziplist(*ITEMS)) == expected
    assert decoded(build.ziplist(*ITEMS, count=65535)) == expected


def test_a_short_length_of_the_entry_before_in_the_long_form():
    assert decoded(blob(b"\x00\x01a", b"\xfe\x03\x00\x00\x00\x01b", count=2)) == [b"a", b"b"]


def test_parts():
    items = range(13000)
    parts = list(ziplist.elements(build.ziplist(*items)))

    assert [len(part) for part in parts] == [6000, 6000, 1000]
    assert [int(element) for part in parts for element in part] == list(items)
    assert list(ziplist.elements(build.ziplist())) == []


def blob(*entries, count=1):
    body = b"".join(entries)
    return struct.pack("<IIH", len(body) + 11, 10, count) + body + b"\xff"


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        build.ziplist()[:-1],
        build.ziplist(1)[:-1] + b"\x00",
        b"\x15" + build.ziplist(1, 2)[1:],
        build.ziplist(1, 2, count=3),
        blob(b"\x00"),
        blob(b"\x01\x01a"),
        blob(b"\x00\x01a", b"\x00\x01b", count=2),
        blob(b"\xfe\x00\x00\x00"),
        blob(b"\xfe\x00\x00\x00\x00"),
        blob(b"\x00\x05abc"),
        blob(b"\x00\x40"),
        blob(b"\x00\x7f\xffabc"),
        blob(b"\x00\x80\xff\xff\xff\xff"),
        blob(b"\x00\x80\x00"),
        blob(b"\x00\xc0\x01"),
        blob(b"\x00\xfe"),
        blob(b"\x00\xff"),
        blob(b"\x00\x81"),
    ],
)
def test_damaged(damaged):
    with pytest.raises(ValueError, match="ziplist"):
        decoded(damaged)
