"""Expiries of hash fields are replicated both ways, where both servers have them."""

import random
import time

import pytest
import redis

from matrix.cases.expiring import HOUR, KINDS, fields, now_ms, quiet, same, skip_without_them
from testbed import Daemon, Hub, RedisServer, eventually
from testbed.clock import OtherClock
from testbed.programs import hub_redis, site_redis
from tests.e2e.pairs import Pair
from tests.e2e.support import PREFIX, certificate_flags, place_flags


@pytest.fixture(autouse=True, scope="module")
def _have_it():
    skip_without_them()


@pytest.fixture(scope="module")
def timing(daemons, servers):
    """A running daemon that replicates everything."""
    return Pair(daemons, *servers, *KINDS)


@pytest.mark.parametrize("way", ["up", "down"])
def test_live(timing, way):
    """Each command that changes expiries, at the site and at the hub."""
    client = timing.at_site if way == "up" else timing.at_hub
    key = PREFIX + b"live:" + way.encode()
    at = now_ms() + 500_000
    client.hset(key, mapping={"a": "1", "b": "2", "c": "3", "n": "5"})
    same(timing, key)
    client.execute_command("HPEXPIREAT", key, at, "FIELDS", 2, "a", "b")
    same(timing, key, {b"a": (b"1", at), b"b": (b"2", at), b"c": (b"3", -1), b"n": (b"5", -1)})
    client.execute_command("HPERSIST", key, "FIELDS", 1, "a")
    same(timing, key, {b"a": (b"1", -1), b"b": (b"2", at), b"c": (b"3", -1), b"n": (b"5", -1)})
    client.hset(key, "b", "4")
    same(timing, key, {b"a": (b"1", -1), b"b": (b"4", -1), b"c": (b"3", -1), b"n": (b"5", -1)})
    client.execute_command("HPEXPIREAT", key, at, "FIELDS", 1, "n")
    client.hincrby(key, "n", 1)
    same(timing, key, {b"a": (b"1", -1), b"b": (b"4", -1), b"c": (b"3", -1), b"n": (b"6", at)})
    client.execute_command("HEXPIRE", key, 1000, "FIELDS", 1, "c")
    client.execute_command("HPEXPIRE", key, 0, "FIELDS", 1, "a")
    same(timing, key)
    assert b"a" not in fields(timing.at_hub, key)
    assert fields(timing.at_site, key)[b"c"][1] > 0
    try:
        client.execute_command("HSETEX", key, "PXAT", at, "FIELDS", 2, "x", "1", "y", "2")
        client.execute_command("HSETEX", key, "KEEPTTL", "FIELDS", 1, "x", "3")
        client.execute_command("HGETEX", key, "PERSIST", "FIELDS", 1, "y")
        client.execute_command("HGETDEL", key, "FIELDS", 1, "n")
    except redis.ResponseError:
        pass  # Redis 7.4 has none of them
    else:
        same(timing, key)
        held = fields(timing.at_hub, key)
        assert (held[b"x"], held[b"y"]) == ((b"3", at), (b"2", -1))
        assert b"n" not in held
    quiet(timing)


@pytest.mark.parametrize("way", ["up", "down"])
def test_fields_that_expire_are_gone(timing, way):
    """A field that expires leaves the others, and the key goes with its last field."""
    client = timing.at_site if way == "up" else timing.at_hub
    key, other = PREFIX + b"short:" + way.encode(), PREFIX + b"last:" + way.encode()
    client.hset(key, mapping={"a": "1", "b": "2"})
    client.hset(other, "a", "1")
    client.execute_command("HPEXPIRE", key, 300, "FIELDS", 1, "a")
    client.execute_command("HPEXPIRE", other, 300, "FIELDS", 1, "a")
    for side in (timing.at_site, timing.at_hub):
        eventually(lambda: side.hgetall(key) == {b"b": b"2"} and not side.exists(other), 20, "it has expired")  # noqa: B023
    same(timing, key, {b"b": (b"2", -1)})
    quiet(timing)


def test_after_an_outage(timing):
    """What changed while the daemon was away: expiries alone are a difference, and merged field by field."""
    key, at = PREFIX + b"away", now_ms() + 400_000
    timing.at_site.hset(key, mapping={"a": "1", "b": "2", "c": "3", "d": "4"})
    timing.at_site.execute_command("HPEXPIREAT", key, at, "FIELDS", 1, "d")
    same(timing, key)
    timing.level()
    timing.end("stop")
    timing.at_site.execute_command("HPEXPIREAT", key, at, "FIELDS", 1, "a")
    timing.at_hub.execute_command("HPEXPIREAT", key, at + 5, "FIELDS", 1, "b")
    timing.at_hub.execute_command("HPERSIST", key, "FIELDS", 1, "d")
    timing.start_again()
    same(timing, key, {b"a": (b"1", at), b"b": (b"2", at + 5), b"c": (b"3", -1), b"d": (b"4", -1)})
    quiet(timing)


def test_expired_while_away(timing):
    """A field that expired at the site does not take a newer value away at the hub."""
    key = PREFIX + b"expired away"
    timing.at_site.hset(key, mapping={"a": "1", "b": "2"})
    timing.at_site.execute_command("HPEXPIRE", key, 1500, "FIELDS", 1, "a")
    same(timing, key)
    timing.level()
    timing.end("stop")
    timing.at_hub.hset(key, "a", "newer")
    eventually(lambda: timing.at_site.hgetall(key) == {b"b": b"2"}, 20, "it has expired")
    timing.start_again()
    same(timing, key, {b"a": (b"newer", -1), b"b": (b"2", -1)})
    quiet(timing)


@pytest.mark.parametrize("kept", ["later", "newer", "added"])
def test_the_last_field_expired_while_the_hub_could_not_be_reached(timing, kept):
    """What the hub's clients did to the hash meanwhile stays, however the site tells that it is gone."""
    key, at = PREFIX + b"emptied:" + kept.encode(), now_ms() + 400_000
    timing.at_site.hset(key, "a", "1")
    timing.at_site.execute_command("HPEXPIRE", key, 2500, "FIELDS", 1, "a")
    same(timing, key)
    mark = timing.daemon.mark()
    timing.hub.nginx.stop()
    if kept == "later":
        timing.at_hub.execute_command("HPEXPIREAT", key, at, "FIELDS", 1, "a")
    else:
        timing.at_hub.hset(key, "a" if kept == "newer" else "b", "2")
    eventually(lambda: not timing.at_site.exists(key), 20, "it has expired")
    timing.hub.nginx.start()
    timing.wait_for_hub(mark)
    same(timing, key, {"later": {b"a": (b"1", at)}, "newer": {b"a": (b"2", -1)}, "added": {b"b": (b"2", -1)}}[kept])
    quiet(timing)


def test_large_hash(timing):
    """One expiry of a large hash, on either side."""
    key, at = PREFIX + b"large", now_ms() + 400_000
    timing.at_site.hset(key, mapping={f"f{number}": "v" * 20 for number in range(8000)})
    same(timing, key)
    timing.at_hub.execute_command("HPEXPIREAT", key, at, "FIELDS", 1, "f77")
    same(timing, key)
    timing.at_hub.execute_command("HPEXPIREAT", key, at + 1, "FIELDS", 1, "f78")
    same(timing, key)
    timing.at_site.execute_command("HPEXPIREAT", key, at + 2, "FIELDS", 1, "f79")
    same(timing, key)
    held = fields(timing.at_hub, key)
    assert [held[name][1] for name in (b"f77", b"f78", b"f79", b"f80")] == [at, at + 1, at + 2, -1]
    quiet(timing)


def test_copies_and_transactions(timing):
    """COPY and RENAME bring their expiries along, as do scripts and transactions."""
    key, at = PREFIX + b"copied", now_ms() + 400_000
    for client, way in ((timing.at_site, b"up"), (timing.at_hub, b"down")):
        with client.pipeline(transaction=True) as pipeline:
            pipeline.hset(key + way, mapping={"a": "1", "b": "2"})
            pipeline.execute_command("HPEXPIREAT", key + way, at, "FIELDS", 1, "a")
            pipeline.execute()
        client.copy(key + way, key + b":copy:" + way)
        client.copy(key + way, key + b":again:" + way)
        client.rename(key + b":again:" + way, key + b":renamed:" + way)
        client.eval("redis.call('HPEXPIREAT', KEYS[1], ARGV[1], 'FIELDS', 1, 'b')", 1, key + way, at + 7)
        same(timing, key + way, {b"a": (b"1", at), b"b": (b"2", at + 7)})
        for other in (b":copy:", b":renamed:"):
            same(timing, key + other + way, {b"a": (b"1", at), b"b": (b"2", -1)})
    quiet(timing)


# Servers of their own.


def write_each_way(pair):
    """Some expiries of either side, and what comes of them."""
    at = now_ms() + HOUR
    for client, key in ((pair.at_site, PREFIX + b"up"), (pair.at_hub, PREFIX + b"down")):
        client.hset(key, mapping={"a": "1", "b": "2", "c": "3"})
        client.execute_command("HPEXPIREAT", key, at, "FIELDS", 2, "a", "b")
        same(pair, key, {b"a": (b"1", at), b"b": (b"2", at), b"c": (b"3", -1)})
        client.execute_command("HPERSIST", key, "FIELDS", 1, "a")
        client.hset(key, "b", "4")
        client.execute_command("HPEXPIREAT", key, at + 1, "FIELDS", 1, "c")
        same(pair, key, {b"a": (b"1", -1), b"b": (b"4", -1), b"c": (b"3", at + 1)})
    pair.level()
    pair.end("stop")
    pair.at_site.execute_command("HPEXPIREAT", PREFIX + b"up", at, "FIELDS", 1, "a")
    pair.at_hub.execute_command("HPEXPIREAT", PREFIX + b"up", at, "FIELDS", 1, "b")
    pair.start_again()
    same(pair, PREFIX + b"up", {b"a": (b"1", at), b"b": (b"4", at), b"c": (b"3", at + 1)})


@pytest.mark.parametrize("side", ["site", "hub"])
def test_without_scripts(daemons, certificates, side):
    config = {"rename-command": ['EVAL ""', 'EVALSHA ""']}
    of_site, of_hub = (config if side == which else {} for which in ("site", "hub"))
    with RedisServer(config=of_site) as site, Hub(certificates, redis={"config": of_hub}) as hub:
        pair = Pair(daemons, site, hub, *KINDS)
        write_each_way(pair)


def test_by_events(daemons, certificates):
    with RedisServer() as site, Hub(certificates) as hub:
        write_each_way(Pair(daemons, site, hub, *KINDS, source="notify"))


def test_each_write(daemons, certificates):
    with RedisServer() as site, Hub(certificates) as hub:
        write_each_way(Pair(daemons, site, hub, *KINDS, "--every-write"))


def test_without_the_commands(daemons, certificates):
    """An ACL that denies them at the hub: said once, and values are replicated; once allowed, the expiries follow."""
    users = ["user default on nopass ~* &* +@all -hpexpiretime"]
    with RedisServer() as site, Hub(certificates, redis={"users": users}) as hub:
        pair = Pair(daemons, site, hub, *KINDS, "--sweep-period", "1")
        at, key = now_ms() + HOUR, PREFIX + b"k"
        site.client().execute_command("HSET", key, "a", "1", "b", "2")
        site.client().execute_command("HPEXPIREAT", key, at, "FIELDS", 1, "a")
        eventually(lambda: pair.at_hub.hgetall(key) == {b"a": b"1", b"b": b"2"}, 20, "the values are there")
        assert [line["side"] for line in pair.daemon.logged("fields_expire.unavailable")] == ["hub"]
        pair.level()
        hub.redis.execute_command("ACL", "SETUSER", "default", "+hpexpiretime")
        pair.daemon.wait_for_log("fields_expire.available", 30)
        same(pair, key, {b"a": (b"1", at), b"b": (b"2", -1)})


@pytest.mark.parametrize("without_it", ["site", "hub"])
def test_where_one_server_has_none(daemons, certificates, without_it):
    """Values are replicated both ways without expiries, and a field that expires is removed on the other side."""
    programs = {"site": site_redis(), "hub": hub_redis()} | {without_it: "redis-server"}
    with (
        RedisServer(program=programs["site"]) as site,
        Hub(certificates, redis={"program": programs["hub"]}) as hub,
    ):
        pair = Pair(daemons, site, hub, *KINDS)
        client, key, short = (pair.at_hub if without_it == "site" else pair.at_site), PREFIX + b"k", PREFIX + b"short"
        for name in (key, short):
            client.hset(name, mapping={"a": "1", "b": "2"})
        client.execute_command("HPEXPIREAT", key, now_ms() + HOUR, "FIELDS", 1, "a")
        client.execute_command("HPEXPIRE", short, 700, "FIELDS", 1, "a")
        pair.expect({key: {b"a": b"1", b"b": b"2"}, short: {b"b": b"2"}})
        said = pair.daemon.logged("fields_expire.unavailable")
        assert [line["side"] for line in said] == [without_it]
        assert not pair.daemon.logged("push.refused")


def test_first_contact_and_verify(daemons, certificates):
    """Snapshots with small and large hashes; what has expired is no data; both sides have some of their own."""
    with RedisServer() as site, Hub(certificates) as hub:
        at, at_site, at_hub = now_ms() + HOUR, site.client(), hub.redis
        for number in range(300):
            at_site.hset(PREFIX + b"small:%d" % number, mapping={"a": "1", "b": "2"})
            at_site.execute_command("HPEXPIREAT", PREFIX + b"small:%d" % number, at + number, "FIELDS", 1, "a")
        wide = {f"f{number}": "v" * 70 for number in range(7000)}
        at_site.hset(PREFIX + b"wide", mapping=wide)
        for start in range(0, 7000, 500):
            names = [f"f{number}" for number in range(start, start + 500, 2)]
            at_site.execute_command("HPEXPIREAT", PREFIX + b"wide", at + start, "FIELDS", len(names), *names)
        at_site.execute_command("HPEXPIRE", PREFIX + b"wide", 1, "FIELDS", 1, "f1")
        at_hub.hset(PREFIX + b"small:1", mapping={"c": "3"})
        at_hub.hset(PREFIX + b"own", mapping={"a": "1", "b": "2"})
        at_hub.execute_command("HPEXPIREAT", PREFIX + b"own", at, "FIELDS", 1, "a")
        pair = Pair(daemons, site, hub, *KINDS)
        for number in range(300):
            own = {b"c": (b"3", -1)} if number == 1 else {}
            held = {b"a": (b"1", at + number), b"b": (b"2", -1)} | own
            same(pair, PREFIX + b"small:%d" % number, held)
        same(pair, PREFIX + b"own", {b"a": (b"1", at), b"b": (b"2", -1)})
        same(pair, PREFIX + b"wide")
        held = fields(at_hub, PREFIX + b"wide")
        assert (len(held), held[b"f500"][1], held[b"f3"][1]) == (6999, at + 500, -1)
        pair.level()
        words = ["--ns", "site1:", *certificate_flags(certificates), *place_flags(site, hub), *KINDS]
        pair.end("stop")
        for code in (0, 1):
            with Daemon(["verify", *words, "--state-dir", site.directory / "state"]) as process:
                assert process.wait(60) == code, process.stdout + process.stderr
            at_hub.execute_command("HPEXPIREAT", PREFIX + b"small:7", at, "FIELDS", 1, "b")
        assert "site1:small:7" in process.stdout


@pytest.mark.parametrize("ahead_s", [7200, -7200])
def test_clocks(daemons, certificates, ahead_s):
    """What is to live for an hour does so on both sides, and nobody removes it; also when the hub's clock is set."""
    with (
        OtherClock(ahead_s) as clock,
        RedisServer() as site,
        Hub(certificates, redis={"program": clock.program(hub_redis())}) as hub,
    ):
        pair = Pair(daemons, site, hub, *KINDS, "--sweep-period", "1")
        pair.daemon.wait_for_log("hub.clock_differs")
        for client, key in ((pair.at_site, PREFIX + b"up"), (pair.at_hub, PREFIX + b"down")):
            client.hset(key, mapping={"a": "1", "b": "2"})
            client.execute_command("HEXPIRE", key, 3600, "FIELDS", 1, "a")

        def lives():
            return all(
                3500 < client.execute_command("HTTL", PREFIX + key, "FIELDS", 2, "a", "b")[0] <= 3600
                for client in (pair.at_site, pair.at_hub)
                for key in (b"up", b"down")
            )

        eventually(lives, 20, "they live for an hour on both sides")
        pair.level()
        assert lives()
        sweeps = len(pair.daemon.logged("sweep.finished"))
        clock.set(0 if ahead_s > 0 else ahead_s - 100)
        eventually(lambda: len(pair.daemon.logged("sweep.finished")) >= sweeps + 3, 30, "three more sweeps")
        eventually(lives, 20, "they have an hour left again")
        assert pair.daemon.logged("conflict.resolved") == []


def test_two_sites(daemons, certificates):
    """What one site pushes reaches the other by the hub."""
    with RedisServer() as site, RedisServer() as other, Hub(certificates) as hub:
        pair, second = (Pair(daemons, each, hub, *KINDS) for each in (site, other))
        at = now_ms() + HOUR
        for number, client in enumerate((pair.at_site, second.at_site, pair.at_hub) * 3):
            key = PREFIX + b"two:%d" % (number % 2)
            client.hset(key, mapping={"a": str(number), f"n{number}": "1"})
            client.execute_command("HPEXPIREAT", key, at + number, "FIELDS", 2, "a", f"n{number}")
            for each in (pair, second):
                same(each, key)
        assert fields(second.at_site, PREFIX + b"two:0")[b"a"] == (b"8", at + 8)


@pytest.mark.parametrize("seed", range(3))
def test_random_writes(daemons, certificates, seed):
    """Both sides write the same fields, while daemon and servers end and start again; in the end both hold the same."""
    choice = random.Random(seed)
    with RedisServer(persistent=True) as site, Hub(certificates, redis={"persistent": True}) as hub:
        pair = Pair(daemons, site, hub, *KINDS, "--sweep-period", "2")
        keys = [PREFIX + b"random:%d" % number for number in range(6)]
        for piece in range(6):
            if piece in (1, 3):
                pair.end(choice.choice(["stop", "kill"]))
            for _ in range(150):
                client, key = choice.choice([pair.at_site, pair.at_hub]), choice.choice(keys)
                field, at = choice.choice("abcdefgh"), now_ms() + choice.choice([-5, 20, 300, HOUR, HOUR + 1, 2 * HOUR])
                command = choice.choice(
                    [
                        ("HSET", key, field, choice.randrange(5)),
                        ("HPEXPIREAT", key, max(at, 1), "FIELDS", 1, field),
                        ("HPEXPIREAT", key, max(at, 1), "FIELDS", 2, field, "a"),
                        ("HPERSIST", key, "FIELDS", 1, field),
                        ("HDEL", key, field),
                        ("HINCRBY", key, field, 1),
                        ("HSETEX", key, "PXAT", max(at, 1), "FIELDS", 1, field, choice.randrange(5)),
                        ("HSETEX", key, "KEEPTTL", "FIELDS", 1, field, choice.randrange(5)),
                        ("HGETDEL", key, "FIELDS", 1, field),
                        ("DEL", key) if choice.random() < 0.1 else ("HSET", key, field, "v"),
                    ]
                )
                try:
                    client.execute_command(*command)
                except redis.ResponseError:
                    continue
            if piece in (1, 3):
                pair.start_again()
            if piece in (2, 4):
                restarted = site if piece == 2 else hub.server
                mark = pair.daemon.mark()
                restarted.restart()
                pair.wait_for_site(mark) if piece == 2 else pair.wait_for_hub(mark)
        time.sleep(0.5)  # the last of the short ones expire: what is compared then must be the same
        pair.level()
        for key in keys:
            same(pair, key)
