"""Hashes: plain, packed, with expiring fields, and with templates."""

from __future__ import annotations

import pytest

from redisrepl.wire.rdb import hashes
from tests.wire.rdb import build
from tests.wire.rdb.check import fails, values

FIELDS = (b"a", b"b", b"aa")
PLAIN = [(b"f", b"1"), (b"g", b"2")]
TIMED = [(b"f", b"1", 1500), (b"g", b"2", None), (b"h", b"3", 2000)]


def length(*numbers):
    return b"".join(map(build.length, numbers))


def strings(*items):
    return b"".join(map(build.string, items))


def template(number, *fields):
    return b"\xf2" + length(number, len(fields)) + strings(*fields)


def test_hashes_without_expiries():
    data = build.rdb(
        build.key(4, b"plain", length(2) + strings(b"f", b"1", b"g") + build.integer(2)),
        build.key(9, b"zipmap", build.string(build.zipmap(*PLAIN))),
        build.key(13, b"ziplist", build.string(build.ziplist(b"f", 1, b"g", 2))),
        build.key(16, b"listpack", build.string(build.listpack(b"f", 1, b"g", 2))),
    )

    assert values(data) == dict.fromkeys((b"plain", b"zipmap", b"ziplist", b"listpack"), PLAIN)


def test_hashes_with_expiries():
    packed = build.listpack(*(item or 0 for triple in TIMED for item in triple))
    data = build.rdb(
        build.key(
            22,
            b"rc",
            length(3, 1500)
            + strings(b"f", b"1")
            + length(0)
            + strings(b"g", b"2")
            + length(2000)
            + strings(b"h", b"3"),
        ),
        build.key(23, b"rc packed", build.string(packed)),
        build.key(
            24,
            b"release",
            build.millis(1500)
            + length(3, 1)
            + strings(b"f", b"1")
            + length(0)
            + strings(b"g", b"2")
            + length(501)
            + strings(b"h", b"3"),
        ),
        build.key(25, b"release packed", build.millis(1500) + build.string(packed)),
        build.key(0, b"next", build.string(b"n")),
        version=12,
    )

    assert values(data) == {
        **dict.fromkeys((b"rc", b"rc packed", b"release", b"release packed"), TIMED),
        b"next": b"n",
    }


def test_hashes_with_expiries_of_valkey():
    body = length(3) + b"".join(
        strings(field, value) + build.millis(-1 if ms is None else ms) for field, value, ms in TIMED
    )

    data = build.rdb(build.key(22, b"h", body), build.key(0, b"n", build.string(b"")), version=80, valkey=True)

    assert values(data) == {b"h": TIMED, b"n": b""}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (22, length(1, 1 << 48)),
        (23, build.string(build.listpack(b"f", b"v"))),
        (23, build.string(build.listpack(b"f", b"v", b"soon"))),
        (23, build.string(build.listpack(b"f", b"v", -5))),
        (23, build.string(build.listpack(b"f", b"v", b"9" * 5000))),
        (23, build.string(build.listpack(b"f", b"v", 1 << 48))),
        (24, build.millis(1 << 47) + length(1, (1 << 47) + 1) + strings(b"f", b"v")),
        (24, build.millis((1 << 48) - 1) + length(1, 2) + strings(b"f", b"v")),
        (24, build.millis(-5) + length(1, 2) + strings(b"f", b"v")),
        (25, build.millis(0) + build.string(b"short")),
    ],
)
def test_damaged_expiries(kind, body):
    fails(build.rdb(build.key(kind, b"h", body + strings(b"f", b"v"))), "expiry|listpack")


@pytest.mark.parametrize("expiry", [-2, 1 << 48])
def test_damaged_expiries_of_valkey(expiry):
    body = length(1) + strings(b"f", b"v") + build.millis(expiry)

    fails(build.rdb(build.key(22, b"h", body), valkey=True, version=80), "expiry")


def test_hashes_with_templates():
    named = [(b"a", b"1"), (b"b", b"x"), (b"aa", b"")]
    data = build.rdb(
        template(3, *FIELDS),
        template(70000, b"only"),
        build.key(29, b"29 packed", length(0) + strings(build.listpack(*FIELDS), build.listpack(0, 1, b"x", b""))),
        build.key(29, b"29 plain", length(1, 3) + strings(*FIELDS, build.listpack(0, 1, b"x", b""))),
        build.key(30, b"30", build.string(build.listpack(3, 1, b"x", b""))),
        build.key(30, b"30 only", build.string(build.listpack(70000, b"v"))),
        build.key(31, b"31 packed", length(0) + strings(build.listpack(*FIELDS), b"1", b"x", b"")),
        build.key(31, b"31 plain", length(1, 3) + strings(*FIELDS, b"1", b"x", b"")),
        build.key(32, b"32", length(3) + strings(b"1", b"x", b"")),
        version=15,
    )

    assert values(data) == {
        **dict.fromkeys((b"29 packed", b"29 plain", b"30", b"31 packed", b"31 plain", b"32"), named),
        b"30 only": [(b"only", b"v")],
    }


@pytest.mark.parametrize(
    ("records", "match"),
    [
        ([template(1)], "without fields"),
        ([template(1, b"a"), template(1, b"b")], "twice"),
        ([template(1, b"b", b"a")], "order"),
        ([template(1, b"aa", b"b")], "order"),
        ([template(1, b"a", b"a")], "order"),
        ([build.key(32, b"h", length(9))], "never described"),
        ([build.key(30, b"h", build.string(build.listpack(9, b"v")))], "never described"),
        ([build.key(30, b"h", build.string(build.listpack(b"x", b"v")))], "never described"),
        ([build.key(30, b"h", build.string(build.EMPTY_LISTPACK))], "never described"),
        ([template(1, b"a"), build.key(30, b"h", build.string(build.listpack(1)))], "does not fit"),
        ([template(1, b"a"), build.key(30, b"h", build.string(build.listpack(1, 2, 3)))], "does not fit"),
        ([build.key(29, b"h", length(2))], "form"),
        ([build.key(29, b"h", length(0) + build.string(b"broken blob"))], "listpack"),
    ],
)
def test_damaged_templates(records, match):
    fails(build.rdb(*records, version=15), match)


def test_templates_are_limited(monkeypatch):
    monkeypatch.setattr(hashes, "MAX_TEMPLATE_BYTES", 100)
    long = [b"%050d" % number for number in range(3)]

    fails(build.rdb(template(1, *long), version=15), "take more than")
    fails(build.rdb(template(1, long[0]), template(2, long[1]), version=15), "take more than")
    body = length(0) + strings(build.listpack(*long), build.listpack(0, 1, 2, 3))
    fails(build.rdb(build.key(29, b"h", body), version=15), "take more than")
