"""The frame of a snapshot: magic, opcodes, keys, checksum, and how bytes arrive."""

from __future__ import annotations

import pytest

from redisrepl.errors import RdbError
from redisrepl.wire.rdb import Aux, Entry, Function, RdbReader
from tests.wire.rdb import build
from tests.wire.rdb.check import check, check_modes, events, fails, feed, values

STRING = build.key(0, b"key", build.string(b"value"))


def length(*numbers):
    return b"".join(map(build.length, numbers))


@pytest.mark.parametrize("version", [1, 4, 5, 9, 15, 99])
def test_every_version_of_redis(version):
    data = build.rdb(STRING, version=version)
    reader = RdbReader()

    assert (reader.version, reader.magic, reader.offset) == (None, None, 0)

    found = list(feed(reader, data))

    assert found == check(data) == [Entry(0, b"key", "string", b"value", size=6)]
    assert (reader.version, reader.magic, reader.offset) == (version, b"REDIS", len(data))


def test_valkey():
    data = build.rdb(STRING, version=80, valkey=True)
    reader = RdbReader()

    assert list(feed(reader, data)) == check_modes(data)
    assert (reader.version, reader.magic) == (80, b"VALKEY")


@pytest.mark.parametrize("magic", [b"REDISX011", b"RESID0011", b"REDIS0000", b"VALKEY0x0", b"VALKEY000", b"$EOF:abcd"])
def test_what_is_no_snapshot(magic):
    error = fails(magic + b"\xff", "does not begin like a snapshot")

    assert (error.offset, error.version) == (0, None)


def test_opcodes_that_carry_no_key():
    data = build.rdb(
        b"\xfa" + build.string(b"redis-ver") + build.string(b"7.0.0"),
        b"\xfa" + build.integer(5) + build.integer(-70000),
        b"\xf5" + build.string(b"#!lua name=f\n"),
        b"\xf7" + length(1 << 40, 2, 2, 5) + build.string(b"aux") + length(0),
        b"\xf4" + length(16383, 10, 3),
        b"\x6b" + length(7),
        b"\x79" + length(7),
        b"\xfe" + length(20),
        b"\xfb" + length(100, 70000),
        STRING,
    )
    reader = RdbReader()

    assert list(feed(reader, data)) == check_modes(data)
    assert check(data) == [
        Aux(b"redis-ver", b"7.0.0"),
        Aux(b"5", b"-70000"),
        Function(b"#!lua name=f\n"),
        Entry(20, b"key", "string", b"value", size=6),
    ]
    assert reader.db == 20
    assert reader.db_sizes == {20: (100, 70000)}


def test_attributes_belong_to_the_next_key_only():
    data = build.rdb(
        b"\xfc" + build.millis(1234567890123) + b"\xf8" + length(99) + STRING,
        build.key(0, b"plain", build.string(b"v")),
        b"\xfd"
        + (-5).to_bytes(4, "little", signed=True)
        + b"\xf9\xfe"
        + build.key(2, b"s", length(1) + build.string(b"m")),
        b"\xfc" + build.millis(-1) + build.key(2, b"t", length(1) + build.string(b"m")),
        build.key(2, b"u", length(1) + build.string(b"m")),
    )

    found = check_modes(data)

    assert [entry[:7] for entry in found] == [
        (0, b"key", "string", b"value", 1234567890123, 99, None),
        (0, b"plain", "string", b"v", None, None, None),
        (0, b"s", "set", [b"m"], -5000, None, 254),
        (0, b"t", "set", [b"m"], -1, None, None),
        (0, b"u", "set", [b"m"], None, None, None),
    ]


def test_attributes_of_a_filtered_key_do_not_reach_the_next():
    data = build.rdb(
        b"\xfc" + build.millis(5) + STRING,
        build.key(0, b"site:a", build.string(b"v")),
        b"\xfc" + build.millis(5) + build.key(2, b"t", length(1) + build.string(b"m")),
        build.key(0, b"other:b", build.string(b"v")),
    )

    assert [entry[:5] for entry in check(data, prefixes=(b"site:", b"other:"))] == [
        (0, b"site:a", "string", b"v", None),
        (0, b"other:b", "string", b"v", None),
    ]


def test_key_metadata_of_modules():
    meta = b"\xf3" + length(2) + b"abcd" + length(1, 7, 0) + b"efgh" + length(0)

    assert values(build.rdb(meta + STRING, version=13)) == {b"key": b"value"}


def test_slot_imports_of_valkey():
    slots = b"\xf3" + build.string(b"j" * 40) + length(2, 0, 5, 16383, 16383)

    assert values(build.rdb(slots, STRING, version=80, valkey=True)) == {b"key": b"value"}
    for start, end in ((0, 16384), (3, 2)):
        slots = b"\xf3" + build.string(b"j" * 40) + length(1, start, end)
        fails(build.rdb(slots, version=80, valkey=True), "hash slots")


def test_damage_names_its_place():
    data = build.rdb(STRING, b"\xf4" + length(16384, 1, 1), version=12)

    error = fails(data, "hash slot 16384")

    assert (error.rdb_type, error.version) == (244, 12)
    assert str(error).endswith(f"(at byte {error.offset}, type 244, RDB version 12)")
    assert len(STRING) + 9 < error.offset < len(data)


@pytest.mark.parametrize(
    ("record", "match"),
    [
        (b"\x06", "unknown value type"),
        (b"\x08", "unknown value type"),
        (b"\x21", "unknown value type"),
        (b"\x96", "unknown opcode"),
        (b"\xf6", "release candidates"),
        (b"\xf1", "unknown opcode"),
    ],
)
def test_what_nobody_can_skip(record, match):
    error = fails(build.rdb(STRING, record + b"12345678"), match)

    assert error.rdb_type == record[0]


@pytest.mark.parametrize("record", [b"\x21", b"\x96"])
@pytest.mark.parametrize("version", [12, 99])
def test_a_type_beyond_ours_is_named_with_what_to_do(record, version):
    error = fails(build.rdb(STRING, record + b"12345678", version=version), "upgrade redisrepl, or follow the site")

    assert str(error).count("upgrade redisrepl") == 1
    assert f"type {record[0]}, RDB version {version}" in str(error)


def test_a_version_beyond_ours_is_read_as_long_as_it_holds_nothing_new():
    assert events(build.rdb(STRING, version=99))[0].value == b"value"


def test_events_before_the_damage_are_given_first():
    iterator = RdbReader().feed(build.rdb(STRING, b"\x06"))

    assert next(iterator).key == b"key"
    with pytest.raises(RdbError, match="unknown value type"):
        next(iterator)


def test_a_wrong_checksum_is_noticed_unless_told_not_to():
    data = build.rdb(STRING)
    damaged = data.replace(b"value", b"valuf")

    fails(damaged, "checksum")
    assert events(damaged, verify_checksum=False)[0].value == b"valuf"
    assert check(data, verify_checksum=False) == check(data)


def test_a_checksum_of_zero_is_none():
    assert check(build.rdb(STRING, checksum=False)) == check(build.rdb(STRING))


def test_feeding_before_all_events_were_taken_is_a_mistake():
    reader = RdbReader()
    iterator = reader.feed(build.rdb(STRING, STRING))
    next(iterator)

    with pytest.raises(RuntimeError, match="not all taken"):
        reader.feed(b"more")


def test_bytes_after_the_end_are_kept_in_order():
    reader = RdbReader()
    list(feed(reader, build.rdb(STRING) + b"one"))

    assert list(reader.feed(b"two")) == []
    assert reader.unused == b"onetwo"


def test_nothing_is_unused_before_the_end():
    reader = RdbReader()
    list(reader.feed(build.rdb(STRING)[:-1]))

    assert reader.unused == b""
    assert not reader.finished


def test_values_not_wanted_are_skipped_before_they_arrive():
    big = build.length(1 << 20) + b"x" * (1 << 20)
    data = build.rdb(build.key(0, b"big", big), STRING, checksum=False)
    reader = RdbReader(prefixes=[b"key"])
    held = []
    found = []

    for start in range(0, len(data), 1000):
        found += reader.feed(data[start : start + 1000])
        held.append(len(reader._source.rest()))

    assert found == [Entry(0, b"key", "string", b"value", size=6)]
    assert max(held) < 1010


def test_a_big_value_that_arrives_slowly_is_looked_at_once_it_is_there():
    """A million bytes in pieces of 16 would be copied 65,000 times if each piece were joined to those before."""
    big = build.length(1 << 20) + b"x" * (1 << 20)
    data = build.rdb(build.key(0, b"big", big), checksum=False)
    reader = RdbReader()
    joins = 0

    for start in range(0, len(data), 16):
        before = reader._source.buf
        list(reader.feed(data[start : start + 16]))
        joins += reader._source.buf is not before

    reader.close()
    assert joins < 10


def test_an_empty_prefix_list_means_all_keys():
    assert events(build.rdb(STRING), prefixes=()) == events(build.rdb(STRING), prefixes=(b"",))


def test_string_sizes_are_limited():
    data = build.rdb(build.key(0, b"key", build.string(b"x" * 20001)))

    fails(data, "20001 bytes is over the limit of 20000", max_string=20000)
    fails(build.rdb(build.key(0, b"k" * 20001, build.string(b""))), "over the limit", max_string=20000)
    assert events(data, max_string=20001)[0].value == b"x" * 20001
    assert events(data, max_string=20000, want_values=False)[0].size == 20006
