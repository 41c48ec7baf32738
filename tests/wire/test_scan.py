"""Scans have an end: no circle of cursors goes unnoticed, and no real server's cursors are taken for one."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisrepl.errors import ProtocolError
from redisrepl.wire import scan as module
from redisrepl.wire.scan import Scan
from testbed import RedisServer


def gone_on(scan, cursors):
    for cursor in cursors:
        assert not scan.ends(b"%d" % cursor)


@given(st.integers(0, 50), st.integers(1, 50))
def test_a_circle_of_any_length_is_found_wherever_it_begins(before, length):
    cursors = itertools.chain(range(1, before + 1), itertools.cycle(range(1001, 1001 + length)))
    with pytest.raises(ProtocolError, match=r"^a scan of x goes round in a circle"):
        gone_on(Scan("a scan of x"), itertools.islice(cursors, 4 * (before + length)))


def test_the_same_cursor_twice_in_a_row_is_a_circle_at_once():
    scan = Scan("x")
    assert not scan.ends(b"7")
    with pytest.raises(ProtocolError):
        scan.ends(b"7")


def test_cursors_that_never_end(monkeypatch):
    monkeypatch.setattr(module, "_MOST", 1000)
    scan = Scan("a scan of x")
    with pytest.raises(ProtocolError, match=r"^a scan of x has no end: it has returned 1001 cursors"):
        gone_on(scan, itertools.count(1))


@pytest.mark.parametrize(
    "cursors",
    [
        itertools.count(1),
        itertools.count(1 << 40, 1 << 20),
        range((1 << 64) - 1, 0, -1),
        map(random.Random(7).randrange, itertools.repeat(1), itertools.repeat(1 << 64)),
    ],
    ids=["counted", "in large steps", "backwards", "by chance"],
)
def test_cursors_that_are_in_no_order_of_a_table_end_soon(cursors):
    with pytest.raises(ProtocolError, match=r"^a scan of x has no end: .* out of order$"):
        gone_on(Scan("a scan of x"), itertools.islice(cursors, 100_000))


@pytest.mark.parametrize("sizes", [[20_000], [1000, 20_000, 10], [20_000, 10, 0, 5000, 5]])
def test_a_real_server_whose_table_grows_and_shrinks_never_goes_round_nor_back(monkeypatch, sizes):
    """Its keys come and go between the steps, so that its table is being moved most of the time."""
    monkeypatch.setattr(module, "_MOST_BACK", 0)
    with RedisServer() as server:
        redis = server.client()
        redis.config_set("hash-max-listpack-entries", 1)
        wanted, held, step = iter(itertools.cycle(sizes)), 0, 0
        target = next(wanted)
        redis.hset("hash", mapping=dict.fromkeys(range(2000), "v"))
        scans = [(Scan("SCAN"), "SCAN", ()), (Scan("HSCAN"), "HSCAN", ("hash",))]
        ended = 0
        while ended < 6:
            for index, (scan, command, key) in enumerate(scans):
                cursor, _ = redis.execute_command(command, *key, scan.cursor, "COUNT", 60)
                if scan.ends(b"%d" % int(cursor)):
                    scans[index] = (Scan(command), command, key)
                    ended += command == "SCAN"
            change = min(2000, abs(target - held))
            names = range(held, held + change) if target > held else range(held - change, held)
            if names and target > held:
                redis.mset(dict.fromkeys(names, "v"))
                redis.hset("hash", mapping=dict.fromkeys((f"x{name}" for name in names), "v"))
            elif names:
                redis.delete(*names)
                redis.hdel("hash", *(f"x{name}" for name in names))
            held += change if target > held else -change
            step += 1
            if held == target:
                target = next(wanted)
        assert step > 20
