"""Snapshots written by the installed redis-server, compared with what that server answers."""

from __future__ import annotations

import random

import pytest

from redisrepl.wire.rdb import Aux, Entry, Function, Stream
from tests.wire.rdb.check import check, check_modes, events


def raw(client, *command):
    """The answer as RESP2 lists, not shaped by the client library."""
    client.connection.send_command(*command)
    return client.connection.read_response()


def answers(client, key):
    """The value as the server tells it, in the shape of an entry's."""
    match client.type(key):
        case b"string":
            return client.get(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return sorted(client.smembers(key))
        case b"zset":
            flat = raw(client, "ZRANGE", key, 0, -1, "WITHSCORES")
            return sorted((member, float(score)) for member, score in zip(flat[::2], flat[1::2], strict=True))
        case b"hash":
            flat = raw(client, "HGETALL", key)
            return sorted(zip(flat[::2], flat[1::2], strict=True))
        case b"stream":
            return stream_answers(client, key)


def fields(flat):
    return dict(zip(flat[::2], flat[1::2], strict=True))


def stream_answers(client, key):
    info = fields(raw(client, "XINFO", "STREAM", key, "FULL", "COUNT", 0))
    groups = []
    for group in map(fields, info[b"groups"]):
        consumers = [
            (
                consumer[b"name"],
                consumer[b"seen-time"],
                [number.decode() for number, *_ in consumer[b"pending"]],
            )
            for consumer in map(fields, group[b"consumers"])
        ]
        pending = [(number.decode(), ms, count) for number, _, ms, count in group[b"pending"]]
        groups.append(
            (group[b"name"], group[b"last-delivered-id"].decode(), group[b"entries-read"], pending, consumers)
        )
    return (
        [(number.decode(), list(zip(flat[::2], flat[1::2], strict=True))) for number, flat in info[b"entries"]],
        info[b"last-generated-id"].decode(),
        info[b"length"],
        info[b"recorded-first-entry-id"].decode(),
        info[b"max-deleted-entry-id"].decode(),
        info[b"entries-added"],
        groups,
    )


def shaped(entry):
    match entry.value:
        case Stream() as stream:
            groups = [
                (
                    group.name,
                    group.last_id,
                    group.entries_read,
                    group.pending,
                    [(one.name, one.seen_ms, one.pending) for one in group.consumers],
                )
                for group in stream.groups
            ]
            return (
                stream.entries,
                stream.last_id,
                stream.length,
                stream.first_id,
                stream.max_deleted_id,
                stream.entries_added,
                groups,
            )
        case list() if entry.type != "list":
            return sorted(entry.value)
    return entry.value


def compare(server, *, modes=True):
    """Reads a fresh snapshot, insists that it is what the server holds, and returns its entries by key."""
    data = server.dump()
    found = check_modes(data, cuts=40) if modes else events(data, 4096)
    entries = {(event.db, event.key): event for event in found if isinstance(event, Entry)}
    client = server.client
    held = set()
    try:
        for db in (0, 3):
            client.select(db)
            for key in client.scan_iter():
                held.add((db, key))
                entry = entries[db, key]
                assert entry.type.encode() == client.type(key)
                assert shaped(entry) == answers(client, key)
                expires = client.pexpiretime(key)
                assert entry.expires_at_ms == (None if expires == -1 else expires)
    finally:
        client.select(0)
    assert held == set(entries)
    return {key: entry for (_, key), entry in entries.items()}


def test_the_frame_of_an_empty_server(server):
    found = check(server.dump())

    aux = dict(found)
    assert aux[b"redis-ver"].decode() == server.client.info("server")["redis_version"]
    assert all(isinstance(event, Aux) for event in found)


@pytest.mark.parametrize("compression", ["yes", "no"])
def test_strings_in_all_encodings(server, compression):
    server.configure(rdbcompression=compression)
    numbers = [0, 1, -1, 127, 128, -128, -129, 32767, 32768, -32769, 2**31 - 1, 2**31, -(2**31), 2**63 - 1]
    for number in numbers:
        server.client.set(f"int:{number}", number)
        server.client.set(str(number), "a key that is a number")
    server.client.set(b"", b"empty key")
    server.client.set("empty", b"")
    server.client.set(bytes(range(256)), bytes(range(256)))
    server.client.set("compressible", b"abc" * 100)
    server.client.set("very compressible", b"\x00" * 30000)
    server.client.set(b"k" * 5000, b"compressed key")
    server.client.set("random", random.Random(1).randbytes(300))
    server.client.set("14 bits", random.Random(2).randbytes(16383))
    server.client.set("32 bits", random.Random(3).randbytes(16384))

    compare(server)


def test_databases_and_expiries(server):
    server.client.set("persistent", "1")
    server.client.set("soon", "2", px=10_000_000)
    server.client.rpush("list", "a")
    server.client.expire("list", 5000)
    server.client.select(3)
    server.client.set("there", "3", ex=9999)
    server.client.select(0)

    entries = compare(server)

    assert entries[b"there"].db == 3


def test_a_key_that_has_expired_is_still_in_the_snapshot(server):
    server.client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    server.client.set("old", "1")
    server.client.set("past", "2", pxat=1)
    data = server.dump()
    server.client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "1")

    found = {event.key: event.expires_at_ms for event in check(data) if isinstance(event, Entry)}

    assert found == {b"old": None, b"past": 1}


@pytest.mark.parametrize("depth", ["0", "1"])
@pytest.mark.parametrize("compression", ["yes", "no"])
@pytest.mark.parametrize("size", ["-2", "5"])
def test_lists(server, depth, compression, size):
    server.configure(list_compress_depth=depth, rdbcompression=compression, list_max_listpack_size=size)
    items = [b"", b"x", b"12", b"-5000", b"4095", b"-40000", b"8000000", b"2000000000", b"-9000000000000000000"]
    items += [b"y" * 63, b"y" * 64, b"z" * 4095, b"z" * 4096, bytes(range(256)), random.Random(4).randbytes(20000)]
    server.client.rpush("mixed", *items)
    server.client.rpush("long", *(b"element %d" % number for number in range(700)))

    compare(server, modes=size == "5" and depth == "1")


def test_sets(server):
    server.client.sadd("int16", *range(-5, 20))
    server.client.sadd("int32", *range(100000, 100020))
    server.client.sadd("int64", 1, 2**62, -(2**62))
    server.client.sadd("strings", *(b"member %d" % number for number in range(30)), b"", b"7")
    server.configure(set_max_intset_entries="2")
    server.client.sadd("numbers as strings", *range(2000, 2020))

    compare(server)


@pytest.mark.parametrize("entries", ["128", "0"])
def test_sorted_sets(server, entries):
    server.configure(zset_max_listpack_entries=entries)
    scores = [0, 1, -1, 1.5, 1e300, -1e-300, 3.141592653589793, float("inf"), float("-inf"), 2**53, 12345678901]
    server.client.zadd("scores", {b"member %d" % number: score for number, score in enumerate(scores)})
    server.client.zadd("numbers", {str(number): number for number in range(50)})

    compare(server)


@pytest.mark.parametrize("entries", ["512", "0"])
def test_hashes(server, entries):
    server.configure(hash_max_listpack_entries=entries)
    server.client.hset("mixed", mapping={b"": b"", b"1": b"2", b"f": b"v" * 60, bytes(range(60)): bytes(range(60))})
    server.client.hset("values", mapping={b"big %d" % size: b"v" * size for size in (100, 5000, 20000)})
    server.client.hset("fields", mapping={b"f" * size: b"%d" % size for size in (1, 70, 300)})

    compare(server)


def test_streams(server):
    client = server.client
    server.configure(stream_node_max_entries="4")
    for number in range(10):
        client.xadd("s", {b"a": number, b"b": b"x"}, id=f"{1000 + number}-{number % 3}")
    client.xadd("s", {b"other": b"field", b"\xff": b"\x00" * 70}, id="5000-1")
    client.xadd("s", {b"a": b"1", b"b": b"2"}, id="5000-18446744073709551615")
    client.xdel("s", "1001-1", "1004-1")
    client.xgroup_create("s", b"g\xff", id="0")
    client.xgroup_create("s", "at the end", id="$")
    client.xgroup_create("s", "unread", id="1003-0")
    client.xreadgroup(b"g\xff", "one", {"s": ">"}, count=3)
    client.xreadgroup(b"g\xff", "two", {"s": ">"}, count=4)
    client.xack("s", b"g\xff", "1002-2")
    client.xgroup_createconsumer("s", b"g\xff", "idle")
    client.xadd("emptied", {b"f": b"v"}, id="7-7")
    client.xdel("emptied", "7-7")
    client.xgroup_create("made", "group", mkstream=True)

    compare(server)


def test_functions(server):
    source = b"#!lua name=lib\nredis.register_function('f', function() return 1 end)"
    server.client.function_load(source)
    server.client.set("key", "value")

    found = check_modes(server.dump())

    assert [event.source for event in found if isinstance(event, Function)] == [source]


@pytest.mark.parametrize(("policy", "field"), [("allkeys-lru", "idle"), ("allkeys-lfu", "freq")])
def test_idle_time_and_access_frequency(server, policy, field):
    server.configure(maxmemory_policy=policy, maxmemory="1gb")
    server.client.set("string", "value", ex=1000)
    server.client.hset("hash", "f", "v")

    entries = compare(server)

    assert {key: getattr(entry, field) is not None for key, entry in entries.items()} == {
        b"string": True,
        b"hash": True,
    }


def test_without_a_checksum(server):
    server.client.set("key", "value")
    server.configure(rdbcompression="no")
    data = server.dump()

    found = check(data[:-8] + bytes(8))

    assert found[-1].value == b"value"


@pytest.mark.parametrize("entries", ["0", "100000"])
def test_a_big_collection_comes_in_parts(server, entries):
    server.configure(
        hash_max_listpack_entries=entries, zset_max_listpack_entries=entries, set_max_intset_entries="100000"
    )
    server.client.hset("hash", mapping={b"field %d" % number: b"%d" % number for number in range(7000)})
    server.client.zadd("zset", {b"member %d" % number: number / 4 for number in range(7000)})
    server.client.rpush("list", *range(7000))
    server.client.sadd("set", *range(7000))
    pipeline = server.client.pipeline()
    for number in range(13000):
        pipeline.xadd("stream", {b"f": number}, id=f"{number + 1}-0")
    pipeline.execute()

    compare(server, modes=False)
