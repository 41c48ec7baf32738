"""Values put together from their parts."""

from __future__ import annotations

from redisrepl.wire.rdb import Aux, Entry, Function, Group, Stream, assemble


def test_what_is_whole_passes():
    events = [Aux(b"a", b"1"), Function(b"#!"), Entry(0, b"k", "string", b"v")]

    assert list(assemble(events)) == events


def test_parts_become_one_entry_with_the_last_ones_size():
    group = Group(b"g", "1-0", None, [], [], [])
    events = [
        Entry(1, b"l", "list", [b"a"], 5, last=False, size=10),
        Entry(1, b"l", "list", [b"b"], 5, first=False, last=False, size=20),
        Entry(1, b"l", "list", [b"c"], 5, first=False, size=30),
        Entry(1, b"s", "stream", Stream([("1-0", [])]), last=False),
        Entry(1, b"s", "stream", Stream([], "1-0", 1, "1-0", "0-0", 1, [group]), first=False),
    ]

    assert list(assemble(events)) == [
        Entry(1, b"l", "list", [b"a", b"b", b"c"], 5, size=30),
        Entry(1, b"s", "stream", Stream([("1-0", [])], "1-0", 1, "1-0", "0-0", 1, [group])),
    ]


def test_a_value_that_never_ends_is_dropped():
    assert list(assemble([Entry(0, b"l", "list", [b"a"], last=False)])) == []
