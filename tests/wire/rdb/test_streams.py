"""Streams in all five layouts."""

from __future__ import annotations

import pytest

from redisrepl.wire.rdb import Consumer, Group, RdbReader, Stream
from tests.wire.rdb import build
from tests.wire.rdb.check import events, fails, feed, values

NODE = build.stream_node(
    1000,
    5,
    [b"a", b"b"],
    (2, 0, 0, [b"1", b"2"]),
    (3, 1, -5, [b"gone", b"gone"]),
    (0, 2, -4, [b"x", b"y", b"z", 7]),
    (1, 3, 0, [b"also", b"gone"]),
    (0, 4, (1 << 63) - 1, []),
    deleted=2,
)
ENTRIES = [
    ("1000-5", [(b"a", b"1"), (b"b", b"2")]),
    ("1002-1", [(b"x", b"y"), (b"z", b"7")]),
    (f"1004-{(1 << 63) + 4}", []),
]


def length(*numbers):
    return b"".join(map(build.length, numbers))


def stream(layout, *nodes, entries_read=3):
    """A stream with one group of two consumers, as that layout writes it."""
    out = length(len(nodes)) + b"".join(nodes) + length(9, 1004, 7)
    if layout >= 2:
        out += length(1000, 5, 1003, 8, 20)
    out += length(2) + build.string(b"g\xff") + length(1004, 6)
    if layout >= 2:
        out += length(entries_read)
    out += length(2)
    for number in range(2):
        out += build.stream_id(1000, number) + build.millis(1_700_000_000_000 + number) + length(number + 1)
    out += length(2)
    for number, name in enumerate((b"one", b"two")):
        out += build.string(name) + build.millis(1_700_000_000_100)
        if layout >= 3:
            out += build.millis(-1 if number else 1_700_000_000_200)
        out += length(1) + build.stream_id(1000, number)
    if layout >= 5:
        out += length(1) + build.stream_id(1000, 1)
    out += build.string(b"empty") + length(0, 0)
    if layout >= 2:
        out += length((1 << 64) - 1)
    out += length(0, 0)
    if layout >= 5:
        out += length(0)
    if layout >= 4:
        out += (
            length(100, 50, 1) + build.string(b"producer") + length(1) + build.string(b"item") + length(1000, 5, 3, 1)
        )
    return out


@pytest.mark.parametrize(("kind", "layout"), [(15, 1), (19, 2), (21, 3), (26, 4), (27, 5)])
def test_all_layouts(kind, layout):
    data = build.rdb(build.key(kind, b"s", stream(layout, NODE, NODE)), build.key(0, b"next", build.string(b"n")))

    found = values(data)

    assert found[b"next"] == b"n"
    assert found[b"s"] == Stream(
        ENTRIES * 2,
        "1004-7",
        9,
        "1000-5" if layout >= 2 else None,
        "1003-8" if layout >= 2 else None,
        20 if layout >= 2 else None,
        [
            Group(
                b"g\xff",
                "1004-6",
                3 if layout >= 2 else None,
                [("1000-0", 1_700_000_000_000, 1), ("1000-1", 1_700_000_000_001, 2)],
                [
                    Consumer(b"one", 1_700_000_000_100, 1_700_000_000_200 if layout >= 3 else None, ["1000-0"]),
                    Consumer(b"two", 1_700_000_000_100, -1 if layout >= 3 else None, ["1000-1"]),
                ],
                ["1000-1"] if layout >= 5 else [],
            ),
            Group(b"empty", "0-0", None, [], [], []),
        ],
    )


def test_a_stream_without_entries_is_there():
    data = build.rdb(build.key(15, b"s", length(0, 0, 0, 0, 0)))

    assert values(data) == {b"s": Stream([])}


def test_a_big_stream_comes_in_parts():
    entries = [(2, number, 0, [b"%d" % number]) for number in range(13000)]
    nodes = [build.stream_node(1, 0, [b"f"], *entries[:7000]), build.stream_node(1, 0, [b"f"], *entries[7000:])]
    data = build.rdb(build.key(15, b"s", length(2) + b"".join(nodes) + length(13000, 1, 2, 0)), checksum=False)

    found = list(feed(RdbReader(), data))

    assert [len(part.value.entries) for part in found] == [6000, 6000, 1000]
    assert [part.value.length for part in found] == [0, 0, 13000]
    assert [(part.first, part.last) for part in found] == [(True, False), (False, False), (False, True)]
    (whole,) = events(data)
    assert whole.value == Stream(
        [(f"{number + 1}-0", [(b"f", b"%d" % number)]) for number in range(13000)], "1-2", 13000
    )


LONG = build.stream_node(1, 0, [b"f"], (2, 0, 0, [b"x" * 20_001]))


@pytest.mark.parametrize("nodes", [[LONG], [NODE, LONG, NODE], [LONG, LONG], [NODE, LONG, b"\x01x\x02no"]])
@pytest.mark.parametrize("chunk", [1, 4096])
def test_a_stream_with_an_entry_that_is_too_long_is_passed_over(nodes, chunk):
    data = build.rdb(build.key(19, b"s", stream(2, *nodes)), build.key(0, b"next", build.string(b"n")), checksum=False)

    found = events(data, chunk, max_value=20_000)

    assert [(entry.key, entry.value) for entry in found] == [(b"s", None), (b"next", b"n")]


def node(*items):
    return build.string(build.stream_id(1, 1)) + build.string(build.listpack(*items))


@pytest.mark.parametrize(
    "broken",
    [
        build.string(b"short id") + build.string(build.EMPTY_LISTPACK),
        build.string(build.stream_id(1, 1)) + build.string(b"no listpack"),
        node(),
        node(1, 0, b"x"),
        node(1, 0, 1, b"f", 0),
        node(1, 0, 5, b"f", 0),
        node(1, 0, 1 << 60, b"f", 0),
        node(1, 0, -1, b"f", 0),
        node(1, 0, 1, b"f", 0, 2, 0, 0),
        node(1, 0, 1, b"f", 0, 0, 0, 0, 1 << 60, b"f"),
        node(1, 0, 1, b"f", 0, 0, 0, 0, -1, b"f"),
        node(1 << 60, 0, 1, b"f", 0, 2, 0, 0, b"v", 4),
        node(0, 0, 1, b"f", 0, 2, 0, 0, b"v", 4),
        node(-5, 0, 1, b"f", 0, 2, 0, 0, b"v", 4),
    ],
)
def test_damaged_nodes(broken):
    error = fails(build.rdb(build.key(15, b"s", length(1) + broken + length(1, 2, 0, 0, 0))), "stream")

    assert error.rdb_type == 15


def test_forged_numbers_of_ids():
    head = length(0, 0, 0, 0, 1) + build.string(b"g") + length(0, 0, 0, 1) + build.string(b"c") + build.millis(0)

    fails(build.rdb(build.key(15, b"s", head + length(1 << 50))), "stream ids", want_values=False)
    fails(build.rdb(build.key(15, b"s", head + length(1 << 50))), "truncated|encoding|limit|number")
