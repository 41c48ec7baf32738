"""Intsets and zipmaps."""

from __future__ import annotations

import pytest

from redisrepl.wire.rdb.packed import intset_elements, zipmap_elements
from tests.wire.rdb import build


def decoded(decode, blob):
    return [element for part in decode(blob) for element in part]


@pytest.mark.parametrize("width", [2, 4, 8])
def test_intsets(width):
    limit = 1 << 8 * width - 1
    numbers = [-limit, -1, 0, 5, limit - 1]

    assert decoded(intset_elements, build.intset(width, *numbers)) == [b"%d" % number for number in numbers]
    assert decoded(intset_elements, build.intset(width)) == []


def test_a_big_intset_comes_in_parts():
    parts = list(intset_elements(build.intset(4, *range(13000))))

    assert [len(part) for part in parts] == [6000, 6000, 1000]
    assert parts[2][-1] == b"12999"


@pytest.mark.parametrize(
    "damaged",
    [b"", build.intset(2)[:-1], build.intset(2, 1)[:-1], build.intset(2, 1) + b"x", b"\x03" + build.intset(2, 1)[1:]],
)
def test_damaged_intsets(damaged):
    with pytest.raises(ValueError, match="intset"):
        decoded(intset_elements, damaged)


def test_zipmaps():
    pairs = [(b"f", b"v"), (b"", b""), (b"f" * 253, b"v" * 254), (b"f" * 300, b"v" * 70000)]
    flat = [item for pair in pairs for item in pair]

    assert decoded(zipmap_elements, build.zipmap(*pairs)) == flat
    assert decoded(zipmap_elements, build.zipmap(*pairs, free=3)) == flat
    assert decoded(zipmap_elements, build.zipmap(*pairs, count=254)) == flat
    assert decoded(zipmap_elements, build.zipmap()) == []


def test_a_big_zipmap_comes_in_parts():
    parts = list(zipmap_elements(build.zipmap(*((b"%d" % number, b"v") for number in range(6500)))))

    assert [len(part) for part in parts] == [6000, 6000, 1000]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        build.zipmap((b"f", b"v"), count=2),
        build.zipmap((b"f", b"v"))[:-1],
        b"\x01\x01f\xff",
        b"\x01\x01f\xff" + b"v" * 300 + b"\xff",
        b"\x01\x05f\xff",
        b"\x01\x01f\x05\x00v\xff",
        b"\x01\x01f\x01\x05v\xff",
        b"\x01\x01f\x01\xff",
        b"\x01\x01f\x00\xff",
        b"\x01\xfe\xff\xff\xff\xff\xff",
        b"\x01\x01f\xfe\x01\xff",
    ],
)
def test_damaged_zipmaps(damaged):
    with pytest.raises(ValueError, match="zipmap"):
        decoded(zipmap_elements, damaged)
