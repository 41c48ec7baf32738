"""Values of modules, which are skipped."""

from __future__ import annotations

import pytest

from redisrepl.wire.rdb import Entry, modules
from tests.wire.rdb import build
from tests.wire.rdb.check import check_modes, fails


def length(*numbers):
    return b"".join(map(build.length, numbers))


MODULE_ID = length(0x5A7B_0000_1234_0001)
EVERYTHING = (
    length(1, 1 << 40, 2, 7, 3)
    + b"\x01\x02\x03\x04"
    + length(4)
    + build.double(1.5)
    + length(5)
    + build.string(b"text")
    + length(5)
    + build.repeated(b"x", 500)
    + length(0)
)


def test_a_module_value_has_a_key_and_no_value():
    data = build.rdb(
        build.key(7, b"m", MODULE_ID + EVERYTHING),
        build.key(7, b"nothing in it", MODULE_ID + length(0)),
        build.key(0, b"next", build.string(b"n")),
    )

    found = check_modes(data)

    assert found[0] == Entry(0, b"m", "module2", None, size=len(MODULE_ID + EVERYTHING))
    assert [entry.key for entry in found] == [b"m", b"nothing in it", b"next"]


def test_module_data_beside_the_keys():
    data = build.rdb(b"\xf7" + MODULE_ID + length(2, 1) + EVERYTHING, build.key(0, b"next", build.string(b"n")))

    assert [entry.key for entry in check_modes(data)] == [b"next"]


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (build.key(7, b"m", MODULE_ID + length(6)), "module opcode 6"),
        (b"\xf7" + MODULE_ID + length(1, 1), "begins with 1"),
    ],
)
def test_damaged_module_data(record, match):
    fails(build.rdb(record), match)


def test_module_values_are_limited(monkeypatch):
    monkeypatch.setattr(modules, "MAX_MODULE_BYTES", 1000)

    fails(build.rdb(build.key(7, b"m", MODULE_ID + length(2, 7) * 600 + length(0))), "more than 1000")
