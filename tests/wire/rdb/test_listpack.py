"""Listpacks, with both widths of the entry length where servers disagree."""

from __future__ import annotations

import pytest

from redisrepl.wire.rdb import listpack
from tests.wire.rdb import build

ITEMS = [
    0,
    1,
    127,
    128,
    -1,
    4095,
    -4096,
    4096,
    32767,
    -32768,
    32768,
    2**23 - 1,
    -(2**23),
    2**23,
    2**31 - 1,
    -(2**31),
    2**31,
    2**63 - 1,
    -(2**63),
    b"",
    b"a",
    b"x" * 62,
    b"x" * 63,
    b"x" * 64,
    b"x" * 125,
    b"x" * 126,
    b"x" * 127,
    b"x" * 4095,
    b"x" * 4096,
    b"x" * 16377,
    b"x" * 16379,
    b"x" * 40000,
]


def decoded(blob):
    return [element for part in listpack.elements(blob) for element in part]


def test_all_encodings():
    expected = [b"%d" % item if isinstance(item, int) else item for item in ITEMS]

    assert decoded(build.listpack(*ITEMS)) == expected
    assert decoded(build.listpack(*ITEMS, count=65535)) == expected
    for item, one in zip(ITEMS, expected, strict=True):
        assert decoded(build.listpack(item)) == [one]


@pytest.mark.parametrize("size", [16383, 2097151])
@pytest.mark.parametrize("long", [True, False])
def test_both_widths_of_the_entry_length(size, long):
    item = b"x" * (size - 5)
    entry = build.listpack_entry(item, long=long) + build.listpack_entry(b"next")
    blob = (len(entry) + 7).to_bytes(4, "little") + b"\x02\x00" + entry + b"\xff"

    assert decoded(blob) == [item, b"next"]


def test_parts():
    items = range(13000)
    parts = list(listpack.elements(build.listpack(*items)))

    assert [len(part) for part in parts] == [6000, 6000, 1000]
    assert [int(element) for part in parts for element in part] == list(items)
    assert list(listpack.elements(build.EMPTY_LISTPACK)) == []


def blob(*entries, count=1):
    body = b"".join(entries)
    return (len(body) + 7).to_bytes(4, "little") + count.to_bytes(2, "little") + body + b"\xff"


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x06\x00\x00\x00\x00\x00",
        build.listpack(1)[:-1] + b"\x00",
        b"\x09" + build.listpack(1, 2)[1:],
        build.listpack(1, 2, count=3),
        build.listpack(1, 2, count=1),
        blob(b"\x01"),
        blob(b"\x82a"),
        blob(b"\x81a"),
        blob(b"\xc1"),
        blob(b"\xe1"),
        blob(b"\xe0\x05abc"),
        blob(b"\xe0\x03abc"),
        blob(b"\xf0\x05\x00\x00"),
        blob(b"\xf0\xff\xff\xff\xff"),
        blob(b"\xf1\x01"),
        blob(b"\xf4\x01\x02\x03"),
        blob(b"\xf5\x01\x02\x03"),
        blob(b"\xff\x01"),
        blob(build.listpack_entry(b"x" * 16378)[:-1]),
    ],
)
def test_damaged(damaged):
    with pytest.raises(ValueError, match="listpack"):
        decoded(damaged)
