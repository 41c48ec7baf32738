"""Of fields that expire, what one site pushes another takes from the feed, where all servers have them."""

import contextlib
import signal

import pytest

from matrix.cases.expiring import HOUR, KINDS, fields, known, now_ms, quiet, same, skip_without_them
from testbed import Hub, RedisServer, eventually
from testbed.clock import OtherClock
from testbed.programs import hub_redis, site_redis
from tests.e2e.pairs import Pair
from tests.e2e.support import PREFIX, Monitor

READS = {b"HGETALL", b"HGET", b"HMGET", b"HLEN", b"HSCAN", b"HPEXPIRETIME"}


@pytest.fixture(autouse=True, scope="module")
def _have_it():
    skip_without_them()


def reads(monitor, key):
    """What was read of a key, in scripts or not."""
    return [argv for argv in monitor.commands() if argv[:1] and argv[0].upper() in READS and argv[1:2] == [key]]


def calm(pair):
    """Nothing of the hub is under way to this site, nor an event expected from there; what was done until now."""

    def state():
        told = pair.daemon.state()
        waiting = ("dirty_keys", "fetching_keys", "fed_keys", "expected_remote")
        return [told] if not any(map(told.get, waiting)) else None

    pair.daemon.wait_for_log("sweep.finished")
    return eventually(state, 20, "nothing is under way")[0]


def has(client, key, expected):
    """One server comes to hold this."""

    def right():
        assert (held := fields(client, key)) == expected, f"{key!r}: {held} {expected}"
        return True

    eventually(right, 20, "it has the fields with their expiries")


@contextlib.contextmanager
def two_sites(daemons, hub, *kinds, other=None):
    """The writer and the reader of what is told; nothing is under way."""
    with RedisServer() as site, RedisServer(**(other or {})) as second:
        pairs = Pair(daemons, site, hub, *KINDS), Pair(daemons, second, hub, *(kinds or KINDS))
        for pair in pairs:
            pair.level()
        yield pairs


def write_at(client, key, values, times):
    """In one step: values of fields, and when some of them expire."""
    with client.pipeline(transaction=True) as pipeline:
        if values:
            pipeline.hset(key, mapping=values)
        for name, at in times.items():
            pipeline.execute_command("HPEXPIREAT", key, at, "FIELDS", 1, name)
        pipeline.execute()


@pytest.mark.parametrize("source", ["psync", "notify"])
def test_told(daemons, certificates, source):
    """Another site has values and expiries without reading the hash at the hub, also if it follows itself by events."""
    with RedisServer() as site, RedisServer() as other, Hub(certificates) as hub:
        pair, second = Pair(daemons, site, hub, *KINDS), Pair(daemons, other, hub, *KINDS, source=source)
        for each in (pair, second):
            each.level()
        key, at = PREFIX + b"told", now_ms() + HOUR
        before = calm(second)
        with Monitor(hub.server) as of_hub:
            for values, times, expected in (
                ({"a": "1", "b": "2", "c": "3"}, {"a": at, "b": at + 5}, ((b"1", at), (b"2", at + 5), (b"3", -1))),
                ({}, {"a": at + 1, "c": at + 1}, ((b"1", at + 1), (b"2", at + 5), (b"3", at + 1))),
                ({"a": "4", "b": "5"}, {"b": at}, ((b"4", -1), (b"5", at), (b"3", at + 1))),
                ({"c": "6"}, {}, ((b"4", -1), (b"5", at), (b"6", -1))),
            ):
                write_at(pair.at_site, key, values, times)
                has(second.at_site, key, dict(zip((b"a", b"b", b"c"), expected, strict=True)))
            pair.at_site.execute_command("HPERSIST", key, "FIELDS", 1, "b")
            write_at(pair.at_site, key, {}, {"a": at + 7})
            has(second.at_site, key, {b"a": (b"4", at + 7), b"b": (b"5", -1), b"c": (b"6", -1)})
            after = calm(second)
            assert reads(of_hub, key) == []
        same(second, key, {b"a": (b"4", at + 7), b"b": (b"5", -1), b"c": (b"6", -1)})
        assert after["fetched"] == before["fetched"]
        assert after["fed"] >= before["fed"] + 5
        quiet(pair)
        quiet(second)


def test_told_of_a_large_hash(daemons, certificates):
    with Hub(certificates) as hub, two_sites(daemons, hub) as (pair, second):
        key, at = PREFIX + b"large", now_ms() + HOUR
        pair.at_site.hset(key, mapping={f"f{number}": "v" * 20 for number in range(8000)})
        eventually(lambda: second.at_site.hlen(key) == 8000, 30, "it is there")
        before = calm(second)
        with Monitor(hub.server) as of_hub:
            pair.at_site.execute_command("HPEXPIREAT", key, at, "FIELDS", 1, "f77")
            same(second, key)
            assert fields(second.at_site, key)[b"f77"] == (b"v" * 20, at)
            after = calm(second)
            assert [argv for argv in of_hub.commands() if argv[:1] and argv[0].upper() == b"HSCAN"] == []
        assert after["fetched"] == before["fetched"]


def test_told_where_clocks_differ(daemons, certificates):
    """The hub's is two hours ahead and the reader's one behind: everywhere the field lives for an hour."""
    with (
        OtherClock(7200) as of_hub,
        OtherClock(-3600) as of_other,
        Hub(certificates, redis={"program": of_hub.program(hub_redis())}) as hub,
        two_sites(daemons, hub, other={"program": of_other.program(site_redis())}) as (pair, second),
    ):
        key, at = PREFIX + b"clocks", now_ms() + HOUR
        before = calm(second)
        with Monitor(hub.server) as monitor:
            write_at(pair.at_site, key, {"a": "1", "b": "2"}, {"a": at})
            has(second.at_site, key, {b"a": (b"1", at - 3_600_000), b"b": (b"2", -1)})
            after = calm(second)
            assert reads(monitor, key) == []
        assert after["fetched"] == before["fetched"]
        second.level()
        for client, ahead in ((pair.at_site, 0), (hub.redis, 7_200_000), (second.at_site, -3_600_000)):
            assert fields(client, key) == {b"a": (b"1", at + ahead), b"b": (b"2", -1)}


@pytest.mark.parametrize("lacks", ["the kind", "the commands"])
def test_told_to_a_site_without_them(daemons, certificates, lacks):
    """It has the values, and no expiries."""
    kinds, program = (("--replicate", "set,hset"), {}) if lacks == "the kind" else (KINDS, {"program": "redis-server"})
    with Hub(certificates) as hub, two_sites(daemons, hub, *kinds, other=program) as (pair, second):
        if lacks == "the commands" and known(second.at_site):
            pytest.skip("the machine's own redis-server has them")
        key, at = PREFIX + b"without", now_ms() + HOUR
        before = calm(second)
        write_at(pair.at_site, key, {"a": "1", "b": "2"}, {"a": at})
        same(pair, key, {b"a": (b"1", at), b"b": (b"2", -1)})
        eventually(lambda: second.at_site.hgetall(key) == {b"a": b"1", b"b": b"2"}, 20, "the values are there")
        after = calm(second)
        second.level()
        assert second.at_site.hgetall(key) == {b"a": b"1", b"b": b"2"}
        assert not second.daemon.logged("apply.refused")
        same(pair, key, {b"a": (b"1", at), b"b": (b"2", -1)})
        if lacks == "the kind":
            assert fields(second.at_site, key) == {b"a": (b"1", -1), b"b": (b"2", -1)}
            assert (after["fetched"], after["fed"]) == (before["fetched"], before["fed"] + 1)


@pytest.mark.parametrize("kinds", ["all", "set,hset,fields-expire"])
def test_expired_on_the_way(daemons, certificates, kinds):
    """What was told is read when the field is gone everywhere else; it goes here too, and nobody hears of it."""
    patient = ("--replicate", kinds, "--canary-period", "60", "--timeout", "60")
    with Hub(certificates) as hub, two_sites(daemons, hub, *patient) as (pair, second):
        key = PREFIX + b"on the way"
        pair.at_site.hset(key, mapping={"a": "0", "b": "2"})
        same(second, key, {b"a": (b"0", -1), b"b": (b"2", -1)})
        before = calm(second)
        second.daemon.signal(signal.SIGSTOP)
        write_at(pair.at_site, key, {"a": "1"}, {"a": now_ms() + 1000})
        eventually(lambda: hub.redis.hget(key, "a") == b"1", 20, "the hub has it")
        eventually(lambda: hub.redis.hgetall(key) == pair.at_site.hgetall(key) == {b"b": b"2"}, 20, "it has expired")
        second.daemon.signal(signal.SIGCONT)
        same(second, key, {b"b": (b"2", -1)})
        quiet(second)
        same(pair, key, {b"b": (b"2", -1)})
        assert calm(second)["fed"] > before["fed"]
        assert second.daemon.logged("conflict.resolved") == []
