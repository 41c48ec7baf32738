"""Lists, sets, sorted sets and arrays."""

from __future__ import annotations

import math

import pytest

from tests.wire.rdb import build
from tests.wire.rdb.check import check_modes, events, fails, values

EMPTY_ZIPLIST = build.ziplist()


def length(*numbers):
    return b"".join(map(build.length, numbers))


def strings(*items):
    return b"".join(map(build.string, items))


def test_counted_strings():
    data = build.rdb(
        build.key(1, b"list", length(3) + strings(b"a", b"", b"a") + b""),
        build.key(2, b"set", length(2) + build.integer(-7) + build.string(b"m" * 70)),
    )

    assert values(data) == {b"list": [b"a", b"", b"a"], b"set": [b"-7", b"m" * 70]}


def test_sorted_sets_with_text_scores():
    def scored(member, score):
        return build.string(member) + (bytes([score]) if isinstance(score, int) else bytes([len(score)]) + score)

    members = [
        (b"one", b"1"),
        (b"half", b"-0.5"),
        (b"tiny", b"4.9406564584124654e-324"),
        (b"inf", 254),
        (b"-inf", 255),
        (b"nan", 253),
    ]
    data = build.rdb(build.key(3, b"z", length(6) + b"".join(scored(*pair) for pair in members)), version=2)

    found = dict(values(data)[b"z"])

    assert math.isnan(found.pop(b"nan"))
    assert found == {b"one": 1.0, b"half": -0.5, b"tiny": 5e-324, b"inf": math.inf, b"-inf": -math.inf}


@pytest.mark.parametrize("score", [b"", b"one", b"1_0", b"\xff"])
def test_scores_that_are_no_numbers(score):
    fails(build.rdb(build.key(3, b"z", length(1) + strings(b"m", score))), "score that is no number")
    fails(build.rdb(build.key(17, b"z", build.string(build.listpack(b"m", score)))), "score|float")


def test_sorted_sets_with_binary_scores():
    pairs = [(b"m%d" % number, number / 3) for number in range(5)] + [(b"inf", math.inf)]
    body = b"".join(build.string(member) + build.double(score) for member, score in pairs)
    data = build.rdb(build.key(5, b"z", length(6) + body), build.key(0, b"s", build.string(b"")))

    assert values(data) == {b"z": pairs, b"s": b""}


def test_packed_collections():
    data = build.rdb(
        build.key(10, b"list", build.string(build.ziplist(b"a", 12, -1))),
        build.key(11, b"set", build.string(build.intset(2, -5, 5))),
        build.key(12, b"zset", build.string(build.ziplist(b"a", 1, b"b", b"2.5"))),
        build.key(17, b"zset2", build.string(build.listpack(b"a", 1, b"b", b"-inf"))),
        build.key(20, b"set2", build.string(build.listpack(b"a", 1))),
    )

    assert values(data) == {
        b"list": [b"a", b"12", b"-1"],
        b"set": [b"-5", b"5"],
        b"zset": [(b"a", 1.0), (b"b", 2.5)],
        b"zset2": [(b"a", 1.0), (b"b", -math.inf)],
        b"set2": [b"a", b"1"],
    }


def test_lists_of_nodes():
    data = build.rdb(
        build.key(14, b"quick", length(3) + strings(build.ziplist(b"a", 1), EMPTY_ZIPLIST, build.ziplist(b"b"))),
        build.key(
            18,
            b"quick2",
            length(4, 2)
            + build.string(build.listpack(b"a", 1))
            + length(1)
            + build.string(b"plain" * 30)
            + length(2)
            + build.string(build.EMPTY_LISTPACK)
            + length(1)
            + build.integer(17),
        ),
    )

    assert values(data) == {b"quick": [b"a", b"1", b"b"], b"quick2": [b"a", b"1", b"plain" * 30, b"17"]}


def test_empty_collections_are_skipped():
    data = build.rdb(
        *(build.key(kind, b"%d" % kind, length(0)) for kind in (1, 2, 3, 4, 5, 14, 18)),
        *(build.key(kind, b"%d" % kind, build.string(EMPTY_ZIPLIST)) for kind in (10, 12, 13)),
        *(build.key(kind, b"%d" % kind, build.string(build.EMPTY_LISTPACK)) for kind in (16, 17, 20, 23)),
        build.key(11, b"11", build.string(build.intset(2))),
        build.key(9, b"9", build.string(build.zipmap())),
        build.key(14, b"14", length(2) + strings(EMPTY_ZIPLIST, EMPTY_ZIPLIST)),
        build.key(18, b"18", length(1, 2) + build.string(build.EMPTY_LISTPACK)),
        b"\xfc" + build.millis(5) + build.key(2, b"with an expiry", length(0)),
        build.key(0, b"left", build.string(b"over")),
    )

    assert [entry[:5] for entry in check_modes(data)] == [(0, b"left", "string", b"over", None)]


def test_a_node_in_an_unknown_container():
    fails(build.rdb(build.key(18, b"l", length(1, 3) + build.string(b"x"))), "container 3")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (10, b"no ziplist at all"),
        (11, b"no"),
        (12, build.ziplist(b"member")),
        (13, build.ziplist(b"field")),
        (16, build.listpack(b"field", b"value", b"field")),
        (17, build.listpack(b"member")),
        (20, b"no listpack"),
    ],
)
def test_damaged_packed_collections(kind, body):
    error = fails(build.rdb(build.key(kind, b"k", build.string(body))))

    assert error.rdb_type == kind


def test_damaged_nodes():
    fails(build.rdb(build.key(14, b"l", length(1) + build.string(b"x" * 20))), "ziplist")
    fails(build.rdb(build.key(18, b"l", length(1, 2) + build.string(b"x" * 20))), "listpack")


def test_arrays():
    items = (
        length(0, 0)
        + build.string(b"text")
        + length(7, 1)
        + build.millis(-9)
        + length(70000, 2)
        + build.double(2.5)
        + length(1 << 40, 3)
        + build.integer(5)
    )
    expected = [(0, b"text"), (7, -9), (70000, 2.5), (1 << 40, b"5")]

    data = build.rdb(
        build.key(28, b"plain", length(4, 0) + items), build.key(28, b"cursor", length(4, 1, 99) + items), version=14
    )

    assert values(data) == {b"plain": expected, b"cursor": expected}


@pytest.mark.parametrize("body", [length(0, 0), length(1, 2), length(1, 0, 5, 4)])
def test_damaged_arrays(body):
    fails(build.rdb(build.key(28, b"a", body + b"12345678")), "array")


def test_a_list_node_bigger_than_a_part_is_split():
    items = [b"%d" % number for number in range(13000)]
    data = build.rdb(
        build.key(10, b"packed", build.string(build.ziplist(*items))),
        build.key(14, b"nodes", length(2) + strings(build.ziplist(*items[:6500]), build.ziplist(*items[6500:]))),
    )

    assert {event.key: event.value for event in events(data)} == {b"packed": items, b"nodes": items}
