"""Redis data as JSON lines."""

from __future__ import annotations

import base64
import json
import math

import pytest

from redisrepl.subcommands.jsonlines import encode_bytes, encode_number, entry_line, function_line
from redisrepl.wire.rdb import Consumer, Entry, Function, Group, Stream


@pytest.mark.parametrize("data", [b"", b"text", 'ü€"\\\n\x00\u2028'.encode(), b'"}'])
def test_utf8_is_a_string(data):
    assert json.loads(encode_bytes(data)) == data.decode()
    assert "\n" not in encode_bytes(data)


@pytest.mark.parametrize("data", [b"\xff", b"ok\x80", b"\xed\xa0\x80", bytes(range(256))])
def test_other_bytes_are_base64(data):
    (form,) = json.loads(encode_bytes(data)).items()

    assert form[0] == "base64"
    assert base64.b64decode(form[1]) == data


def test_numbers():
    assert json.loads(encode_number(1.5)) == 1.5
    assert json.loads(encode_number(-7)) == -7
    assert [json.loads(encode_number(number)) for number in (math.inf, -math.inf, math.nan)] == ["inf", "-inf", "nan"]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("string", b"v\xff", {"base64": "dv8="}),
        ("string", b"", ""),
        ("list", [b"a", b"\xff"], ["a", {"base64": "/w=="}]),
        ("set", [b"a"], ["a"]),
        ("zset", [(b"m", 1.0), (b"n", math.inf)], [["m", 1.0], ["n", "inf"]]),
        ("hash", [(b"f", b"v"), (b"g", b"w")], [["f", "v"], ["g", "w"]]),
        ("hash", [(b"f", b"v", 5), (b"g", b"w", None)], [["f", "v", 5], ["g", "w", None]]),
        ("array", [(0, b"a"), (5, 7), (9, 0.5), (10, -math.inf)], [[0, "a"], [5, 7], [9, 0.5], [10, "-inf"]]),
        ("module2", None, None),
        ("string", None, None),
    ],
)
def test_values(kind, value, expected):
    line = entry_line(Entry(3, b"k\xff", kind, value, 1234))

    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "db": 3,
        "key": {"base64": "a/8="},
        "type": kind,
        "value": expected,
        "expires_at_ms": 1234,
    }


def test_idle_and_freq_are_there_when_stored():
    assert json.loads(entry_line(Entry(0, b"k", "string", b"v", idle=7)))["idle"] == 7
    line = json.loads(entry_line(Entry(0, b"k", "string", b"v", freq=0)))

    assert line == {"db": 0, "key": "k", "type": "string", "value": "v", "expires_at_ms": None, "freq": 0}


STREAM = Stream(
    [("1-0", [(b"f", b"v"), (b"g", b"\xff")]), ("2-0", [])],
    "2-0",
    2,
    "1-0",
    "0-0",
    2,
    [
        Group(
            b"g",
            "1-0",
            1,
            [("1-0", 5, 2)],
            [Consumer(b"c", 5, -1, ["1-0"]), Consumer(b"d", 5, None, [])],
            ["1-0", "2-0"],
        ),
        Group(b"h", "0-0", None, [], [], []),
    ],
)


def test_streams():
    assert json.loads(entry_line(Entry(0, b"s", "stream", STREAM)))["value"] == {
        "entries": [["1-0", [["f", "v"], ["g", {"base64": "/w=="}]]], ["2-0", []]],
        "last_id": "2-0",
        "length": 2,
        "first_id": "1-0",
        "max_deleted_id": "0-0",
        "entries_added": 2,
        "groups": [
            {
                "name": "g",
                "last_id": "1-0",
                "entries_read": 1,
                "pending": [["1-0", 5, 2]],
                "consumers": [
                    {"name": "c", "seen_ms": 5, "active_ms": -1, "pending": ["1-0"]},
                    {"name": "d", "seen_ms": 5, "active_ms": None, "pending": []},
                ],
                "nacked": ["1-0", "2-0"],
            },
            {"name": "h", "last_id": "0-0", "entries_read": None, "pending": [], "consumers": [], "nacked": []},
        ],
    }
    old = json.loads(entry_line(Entry(0, b"s", "stream", Stream([]))))["value"]
    assert (old["entries"], old["first_id"], old["entries_added"]) == ([], None, None)


@pytest.mark.parametrize("kind", ["list", "hash"])
def test_parts_make_the_line_of_the_whole(kind):
    items = [b"a", b"b", b"c"] if kind == "list" else [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    parts = [
        Entry(1, b"k", kind, items[:1], 5, 6, None, first=True, last=False),
        Entry(1, b"k", kind, items[1:2], 5, 6, None, first=False, last=False),
        Entry(1, b"k", kind, items[2:], 5, 6, None, first=False, last=True),
    ]

    assert b"".join(map(entry_line, parts)) == entry_line(Entry(1, b"k", kind, items, 5, 6))


def test_the_last_part_of_a_stream_may_have_no_entries():
    head = Entry(0, b"s", "stream", Stream(STREAM.entries), first=True, last=False)
    tail = Entry(0, b"s", "stream", Stream([], "2-0", 2, "1-0", "0-0", 2, STREAM.groups), first=False, last=True)

    assert entry_line(head) + entry_line(tail) == entry_line(Entry(0, b"s", "stream", STREAM))


def test_functions():
    assert json.loads(function_line(Function(b"#!lua\n"))) == {
        "db": None,
        "key": None,
        "type": "function",
        "value": "#!lua\n",
        "expires_at_ms": None,
    }
