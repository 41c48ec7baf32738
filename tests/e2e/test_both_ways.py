"""Writes cross, both ways, unchanged and once; what should stay stays."""

import itertools
import random
import threading
import time

import pytest

from testbed import FaultProxy, Hub, RedisServer, eventually
from tests.e2e.support import (
    ALPHABET,
    FENCE,
    MARK,
    Monitor,
    all_replicated,
    assert_equal_soon,
    content,
    pushed,
    state,
)

#: What a key, a field or a value may be called; each is put behind a namespace to make a key.
NAMES = [
    b"",
    ALPHABET,
    b"a/b.c?d+e%2f&g h.json",
    b".raw",
    b"x.txt",
    b"%00%ff%zz%",
    b"//a//../b/./",
    b"\r\n$-1\r\n*0\r\n",
    b"\x00",
    "Gruß-日本語".encode(),
    b"'\"\\ {}[]()*?^$|",
    b"redis.call('SET', KEYS[1], 1)",
    b"1",
    b"-0",
    b"k" * 10_000,
]


def both_ways(link):
    """(name, where it is written, where it must arrive) for each direction."""
    return [("up", link.at_site, link.at_hub), ("down", link.at_hub, link.at_site)]


def arrives(here, there, key, timeout=15.0):
    """What `here` holds under this key comes to be what `there` holds."""
    expected = state(here, key)
    eventually(lambda: state(there, key) == expected, timeout, f"{key[:60]!r} is {str(expected)[:100]}")


# Bytes.


def test_names_and_values_of_any_bytes(link):
    for way, here, there in both_ways(link):
        prefix = b"site1:bytes:%b:" % way.encode()
        for number, name in enumerate(NAMES):
            here.set(prefix + b"s" + name, NAMES[number - 1])
            here.hset(prefix + b"h" + name, mapping={name: NAMES[number - 1], NAMES[number - 1]: name})
        written = content(here, prefix)
        assert len(written) == 2 * len(NAMES)
        assert assert_equal_soon(there, here, prefix) == written


def test_a_key_that_is_the_namespace_itself(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub, ns=("site1:", "other:"))
    at_site.set(b"site1:", b"up")
    at_hub.hset(b"other:", ALPHABET, b"down")
    arrives(at_site, at_hub, b"site1:")
    arrives(at_hub, at_site, b"other:")


def test_an_empty_value(link):
    for way, here, there in both_ways(link):
        key = f"site1:empty:{way}".encode()
        here.set(key, b"full")
        arrives(here, there, key)
        here.set(key, b"")
        here.hset(key + b":h", b"", b"")
        arrives(here, there, key)
        arrives(here, there, key + b":h")


@pytest.mark.parametrize("kind", ["string", "hash"])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_value_of_3_megabytes(link, way, kind):
    value = random.Random(3).randbytes(3_000_000)
    _, here, there = both_ways(link)[way == "down"]
    key = f"site1:large:{way}:{kind}".encode()
    if kind == "string":
        here.set(key, value)
        eventually(lambda: there.get(key) == value, 30, "the value arrived")
    else:
        here.hset(key, mapping={b"large": value, b"small": b"1"})
        eventually(lambda: there.hgetall(key) == {b"large": value, b"small": b"1"}, 30, "the fields arrived")


def test_many_large_values_at_once(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub)
    values = [random.Random(n).randbytes(300_000) for n in range(20)]
    for number, value in enumerate(values):
        at_site.set(f"site1:up:{number}", value)
        at_hub.set(f"site1:down:{number}", value)
    assert len(assert_equal_soon(at_site, at_hub, timeout=40)) == 40


# Once.


def test_500_writes_are_executed_once_on_each_side(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub)
    all_replicated(at_site, at_hub)
    expected = {}
    with Monitor(site) as monitor_of_site, Monitor(hub.server) as monitor_of_hub:
        site.reset_commandstats()
        hub.server.reset_commandstats()
        for number in range(125):
            for way, client in (("up", at_site), ("down", at_hub)):
                string, mapping = f"site1:{way}:s{number}".encode(), f"site1:{way}:h{number}".encode()
                client.set(string, number)
                client.hset(mapping, "field", number)
                expected[string] = expected[mapping] = 1
        assert assert_equal_soon(at_site, at_hub).keys() == expected.keys()
        # Hashes go one command each on both sides; of strings one MSET sets many.
        of_hub, of_site = hub.server.commandstats(), site.commandstats()
        ours = [argv for argv in monitor_of_site.commands() if argv[0] == b"SET" and argv[1].startswith(MARK)]
        assert of_site["hset"] == 250
        assert 125 <= of_site["set"] <= 125 + len(ours)
        assert 125 <= of_hub["set"] <= 250
        hashes = [argv for argv in monitor_of_hub.commands() if argv[0].upper() == b"HSET" and argv[1] in expected]
        assert len(hashes) == 250
        all_replicated(at_site, at_hub)
        for monitor in (monitor_of_site, monitor_of_hub):
            assert {k: n for k, n in monitor.writes().items() if b"~marker" not in k} == expected


def test_writes_of_one_site_are_executed_once_at_another(daemons, site, hub, at_site, at_hub):
    with RedisServer() as other:
        daemons.live(site, hub)
        daemons.live(other, hub)
        at_other = other.client()
        all_replicated(at_site, at_hub)
        all_replicated(at_other, at_hub)
        with Monitor(site) as of_site, Monitor(hub.server) as of_hub, Monitor(other) as of_other:
            for number in range(200):
                at_site.set(f"site1:from-site:{number}", number)
                at_other.hset(f"site1:from-other:{number}", "field", number)
            assert_equal_soon(at_site, at_hub)
            assert_equal_soon(at_other, at_hub)
            assert len(content(at_hub)) == 400
            all_replicated(at_site, at_hub)
            all_replicated(at_other, at_hub)
            for monitor in (of_site, of_hub, of_other):
                counts = {k: n for k, n in monitor.writes().items() if b"~marker" not in k}
                assert len(counts) == 400
                assert set(counts.values()) == {1}


def test_a_write_of_what_is_there_already_is_no_news(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub)
    all_replicated(at_site, at_hub)
    for key, client in ((b"site1:same", at_site), (b"site1:same", at_hub)):
        client.set(key, b"value")
        all_replicated(at_site, at_hub)
    assert content(at_site) == content(at_hub) == {b"site1:same": ("string", b"value", -1)}


# What stays where it is.

OUTSIDE = [b"site10:x", b"site1", b"SITE1:z", b"xsite1:y", b"site1;a", b"Site1:z", b"", b":site1:", b"site1\x00:"]


def test_keys_outside_the_namespace_stay(daemons, site, hub, at_site, at_hub):
    for number, client in enumerate((at_site, at_hub)):
        for key in OUTSIDE:
            client.set(key, b"before %d" % number)
    daemons.live(site, hub)
    all_replicated(at_site, at_hub)
    for way, client in (("up", at_site), ("down", at_hub)):
        for key in OUTSIDE:
            client.set(key, way)
            client.hset(key + b"=hash " + way.encode(), "field", way)
    all_replicated(at_site, at_hub)
    for way, client in (("up", at_site), ("down", at_hub)):
        outside = {key for key in client.keys(b"*") if not key.startswith((b"site1:", FENCE, MARK))}
        assert outside == {*OUTSIDE, *(key + b"=hash " + way.encode() for key in OUTSIDE)}
        assert {client.get(key) for key in OUTSIDE} == {way.encode()}
    assert content(at_site) == content(at_hub) == {}


def test_a_namespace_is_no_pattern(daemons, site, hub, at_site, at_hub):
    literal, others = b"n[x]*?\\:", [b"nx", b"nxab\\:1", b"n[x]", b"nx*?\\:1"]
    daemons.live(site, hub, ns=(literal.decode(),))
    for way, client in (("up", at_site), ("down", at_hub)):
        client.mset(dict.fromkeys(others, way))
        client.set(literal + way.encode(), way)
    all_replicated(at_site, at_hub, literal)
    for way, client in (("up", at_site), ("down", at_hub)):
        assert {client.get(key) for key in others} == {way.encode()}
        assert content(client, literal).keys() == {literal + b"up", literal + b"down"}


def test_two_namespaces(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub, ns=("site1:", "shared/"))
    for way, client in (("up", at_site), ("down", at_hub)):
        for prefix in ("site1:", "shared/", "neither:"):
            client.set(f"{prefix}{way}", way)
    all_replicated(at_site, at_hub, b"site1:")
    all_replicated(at_site, at_hub, b"shared/")
    for way, client in (("up", at_site), ("down", at_hub)):
        ours = {key: held for key, held in content(client, b"").items() if not key.startswith(b"redisrepl:")}
        assert ours == {
            prefix + name: ("string", name, -1) for prefix in (b"site1:", b"shared/") for name in (b"up", b"down")
        } | {b"neither:" + way.encode(): ("string", way.encode(), -1)}


def test_without_rc_nothing_comes_back(daemons, site, hub, at_site, at_hub):
    at_hub.set("site1:before", "hub")
    daemon = daemons.live(site, hub, rc=False)
    at_hub.set("site1:after", "hub")
    at_site.set("site1:up", "site")
    all_replicated(at_site, at_hub, back=False)
    assert daemon.stop() == 0
    assert content(at_site) == {b"site1:up": ("string", b"site", -1)}
    assert at_hub.config_get("notify-keyspace-events") == {"notify-keyspace-events": ""}


def test_what_does_not_cross_is_told_once_for_each_command(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub)
    at_site.mset({"site1:a": 1, "site1:b": 2})
    pushed(at_site)
    at_site.delete("site1:a")
    at_site.lpush("site1:list", "x")
    at_site.delete("outside:a")
    at_site.zadd("outside:b", {"x": 1})
    for command in ("DEL", "LPUSH"):
        daemon.wait_for_log("stream.not_replicated", command=command)
    at_site.delete("site1:b")
    at_site.lpush("site1:list", "y")
    at_site.expire("site1:list", 1000)
    daemon.wait_for_log("stream.not_replicated", command="PEXPIREAT")
    at_site.sadd("site1:set", "x")
    daemon.wait_for_log("stream.not_replicated", command="SADD")
    told = [record["command"] for record in daemon.logged("stream.not_replicated")]
    assert sorted(told) == ["DEL", "LPUSH", "PEXPIREAT", "SADD"]
    assert content(at_hub) == {b"site1:a": ("string", b"1", -1), b"site1:b": ("string", b"2", -1)}


# Only what was written.


def test_one_field_of_a_large_hash_costs_one_field(daemons, site, hub, at_site, at_hub):
    fields = {f"field {n}": f"value {n}" for n in range(5000)}
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, rc=False)
        daemon.wait_for_log("sweep.finished")  # the comparison of the start sends requests of its own
        at_site.hset("site1:channel", mapping=fields)
        pushed(at_site)
        at_site.hset("site1:channel", "field 7", "warm")  # the connection that the next one takes is open now
        pushed(at_site)
        with Monitor(hub.server) as monitor:
            before = wire.counters()
            at_site.hset("site1:channel", "field 8", "new")
            pushed(at_site)
            after = wire.counters()
            hsets = [argv for argv in monitor.commands() if argv[0].lower() == b"hset" and argv[1] == b"site1:channel"]
        assert hsets == [[hsets[0][0], b"site1:channel", b"field 8", b"new"]]
        assert 0 < after.bytes_to_target - before.bytes_to_target < 2048
        assert after.bytes_to_client - before.bytes_to_client < 2048
        assert at_hub.hgetall("site1:channel") == at_site.hgetall("site1:channel")


def test_one_field_of_a_large_hash_is_applied_alone(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub)
    at_hub.hset("site1:channel", mapping={f"field {n}": f"value {n}" for n in range(5000)})
    assert_equal_soon(at_site, at_hub)
    all_replicated(at_site, at_hub)
    with Monitor(site) as monitor:
        at_hub.hset("site1:channel", "field 8", "new")
        assert_equal_soon(at_site, at_hub)
        all_replicated(at_site, at_hub)
        hsets = [argv[1:] for argv in monitor.commands() if argv and argv[0].upper() == b"HSET"]
    assert hsets == [[b"site1:channel", b"field 8", b"new"]]


def test_fields_of_both_sides_come_together(link):
    key = b"site1:merged"
    for number in range(20):
        link.at_site.hset(key, f"site {number}", number)
        link.at_hub.hset(key, f"hub {number}", number)
    expected = {f"{side} {n}".encode(): b"%d" % n for side in ("site", "hub") for n in range(20)}
    for client in (link.at_site, link.at_hub):
        eventually(lambda client=client: client.hgetall(key) == expected, description="all 40 fields")


# Expiry.


def in_milliseconds(seconds):
    return int((time.time() + seconds) * 1000)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("pxat", lambda client, key: client.set(key, "v", pxat=in_milliseconds(3600) + 7)),
        ("exat", lambda client, key: client.set(key, "v", exat=int(time.time()) + 3600)),
        ("ex", lambda client, key: client.set(key, "v", ex=3600)),
        ("px", lambda client, key: client.set(key, "v", px=3_600_007)),
        ("setex", lambda client, key: client.execute_command("SETEX", key, 3600, "v")),
        ("psetex", lambda client, key: client.execute_command("PSETEX", key, 3_600_007, "v")),
        ("keepttl", lambda client, key: (client.set(key, "v", ex=3600), client.set(key, "w", keepttl=True))),
        ("incr", lambda client, key: (client.set(key, 1, ex=3600), client.incr(key))),
    ],
)
def test_an_expiry_given_with_a_set_crosses_as_the_same_moment(link, name, write):
    for way, here, there in both_ways(link):
        key = f"site1:expiry:{name}:{way}".encode()
        write(here, key)
        assert here.pexpiretime(key) > in_milliseconds(3000)
        arrives(here, there, key)


def test_a_set_without_expiry_takes_it_away(link):
    for way, here, there in both_ways(link):
        key = f"site1:no-expiry:{way}".encode()
        here.set(key, "v", ex=3600)
        arrives(here, there, key)
        here.set(key, "v")
        arrives(here, there, key)
        assert there.pexpiretime(key) == -1


# Commands that compute.

COMMANDS = {
    "incr": lambda c, k: c.incr(k),
    "incrby": lambda c, k: (c.set(k, 5), c.incrby(k, 37)),
    "decr": lambda c, k: c.decr(k),
    "incrbyfloat": lambda c, k: c.incrbyfloat(k, 1.5),
    "append": lambda c, k: (c.set(k, "one"), c.append(k, ALPHABET)),
    "setrange": lambda c, k: c.setrange(k, 5, "x"),
    "setbit": lambda c, k: c.setbit(k, 77, 1),
    "bitfield": lambda c, k: c.execute_command("BITFIELD", k, "SET", "u8", 8, 200),
    "bitop": lambda c, k: (c.set(k + b"1", "abc"), c.bitop("NOT", k, k + b"1")),
    "pfadd": lambda c, k: c.pfadd(k, "a", "b"),
    "getset": lambda c, k: (c.set(k, "old"), c.getset(k, "new")),
    "set get": lambda c, k: c.set(k, "new", get=True),
    "setnx": lambda c, k: (c.setnx(k, "first"), c.setnx(k, "second")),
    "set xx": lambda c, k: (c.set(k, "first"), c.set(k, "second", xx=True)),
    "mset": lambda c, k: c.mset({k: ALPHABET, k + b"2": ""}),
    "msetnx": lambda c, k: c.msetnx({k: ALPHABET, k + b"2": ""}),
    "hmset": lambda c, k: c.execute_command("HMSET", k, "a", "1", "b", "2"),
    "hsetnx": lambda c, k: (c.hsetnx(k, "a", "1"), c.hsetnx(k, "a", "2")),
    "hincrby": lambda c, k: (c.hset(k, "a", 1), c.hincrby(k, "a", 41)),
    "hincrbyfloat": lambda c, k: c.hincrbyfloat(k, "a", 1.25),
    "rename": lambda c, k: (c.set(k + b"old", "v"), c.rename(k + b"old", k)),
    "rename a hash": lambda c, k: (c.hset(k + b"old", "f", "v"), c.rename(k + b"old", k)),
    "rename from outside": lambda c, k: (c.set("outside", "v", ex=3600), c.rename("outside", k)),
    "renamenx": lambda c, k: (c.set(k + b"old", "v"), c.renamenx(k + b"old", k)),
    "copy": lambda c, k: (c.set(k + b"from", "v"), c.copy(k + b"from", k)),
    "copy a hash": lambda c, k: (c.hset("outside:hash", "f", "v"), c.copy("outside:hash", k)),
    "restore": lambda c, k: (c.set("outside", "v"), c.restore(k, 0, c.dump("outside"))),
    "getex": lambda c, k: (c.set(k, "v"), c.getex(k)),
    "eval": lambda c, k: c.eval("redis.call('SET', KEYS[1], ARGV[1]) redis.call('APPEND', KEYS[1], '!')", 1, k, "v"),
    "string over hash": lambda c, k: (c.hset(k, "f", "v"), c.set(k, "v")),
    "lower case": lambda c, k: c.execute_command("sEt", k, "v"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_computes(link, name):
    for way, here, there in both_ways(link):
        key = f"site1:computed:{name}:{way}:".encode()
        COMMANDS[name](here, key)
        assert here.exists(key)
        arrives(here, there, key)


def test_a_transaction(link):
    for way, here, there in both_ways(link):
        keys = [f"site1:transaction:{way}:{n}".encode() for n in range(20)]
        with here.pipeline(transaction=True) as pipeline:
            for key in keys:
                pipeline.set(key, way)
                pipeline.hset(key + b"h", way, way)
            pipeline.execute()
        for key in keys:
            arrives(here, there, key)
            arrives(here, there, key + b"h")


# Order.


@pytest.mark.parametrize("way", ["up", "down"])
def test_500_writes_of_one_key_end_with_the_last(link, way):
    _, here, there = both_ways(link)[way == "down"]
    key = f"site1:order:{way}".encode()
    for number in range(500):
        here.set(key, number)
    arrives(here, there, key)
    with here.pipeline(transaction=False) as pipeline:
        for number in range(500):
            pipeline.set(key, -number)
            pipeline.hset(key + b":hash", "field", -number)
        pipeline.execute()
    arrives(here, there, key)
    arrives(here, there, key + b":hash")
    all_replicated(link.at_site, link.at_hub)
    for client in (here, there):
        assert (client.get(key), client.hget(key + b":hash", "field")) == (b"-499", b"-499")


@pytest.mark.parametrize("seed", range(3))
def test_both_sides_write_the_same_keys_and_end_equal(daemons, site, hub, seed):
    daemons.live(site, hub)
    start = threading.Barrier(2)

    def write(server, side):
        choose = random.Random(f"{seed} {side}")
        with server.client() as client:
            start.wait()
            for number in range(1500):
                key = f"site1:{choose.randrange(8)}"
                match choose.randrange(4):
                    case 0:
                        client.hset(f"{key}:h", choose.randrange(3), f"{side} {number}")
                    case 1:
                        client.incrby(f"{key}:n", choose.randrange(9))
                    case _:
                        client.set(key, f"{side} {number}")

    threads = [threading.Thread(target=write, args=pair) for pair in ((site, "site"), (hub.server, "hub"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with site.client() as at_site:
        assert len(assert_equal_soon(at_site, hub.redis)) == 24
        all_replicated(at_site, hub.redis)
        assert content(at_site) == content(hub.redis)


# What was there before.


@pytest.mark.parametrize("rc", [True, False])
def test_what_was_there_before_crosses(daemons, site, hub, at_site, at_hub, rc):
    for way, client in (("up", at_site), ("down", at_hub)):
        client.set(f"site1:{way}", ALPHABET, ex=3600)
        client.hset(f"site1:{way}:h", mapping={ALPHABET: b"", b"": ALPHABET})
        client.set("site1:both", way)
        client.hset("site1:both:h", mapping={way: way, "shared": way})
    daemons.live(site, hub, rc=rc)
    if rc:  # the hub's values stand
        held = assert_equal_soon(at_site, at_hub)
        assert held[b"site1:both"][1] == b"down"
        assert held[b"site1:both:h"][1] == {b"up": b"up", b"down": b"down", b"shared": b"down"}
        assert len(held) == 6
    else:  # the site's do, and nothing comes back
        all_replicated(at_site, at_hub, back=False)
        held = content(at_hub)
        assert held[b"site1:both"][1] == b"up"
        assert held[b"site1:both:h"][1] == {b"up": b"up", b"down": b"down", b"shared": b"up"}
        assert len(held) == 6
        assert len(content(at_site)) == 4


# Notification flags of the hub.


def flags(client):
    return set(client.config_get("notify-keyspace-events")["notify-keyspace-events"])


def test_notification_flags_of_the_hub_are_added_to(daemons, site, hub, at_site, at_hub):
    at_hub.config_set("notify-keyspace-events", "Elx")
    daemon = daemons.live(site, hub)
    assert flags(at_hub) == set("ElxK$hg")
    assert daemon.wait_for_log("hub.notifications_enabled")["added"] == "K$hg"
    all_replicated(at_site, at_hub)


def test_flags_that_suffice_are_left_alone(daemons, site, hub, at_site, at_hub):
    at_hub.config_set("notify-keyspace-events", "KA")
    before = flags(at_hub)
    with Monitor(hub.server) as monitor:
        daemon = daemons.live(site, hub)
        all_replicated(at_site, at_hub)
        sets = [argv for argv in monitor.commands() if [word.upper() for word in argv[:2]] == [b"CONFIG", b"SET"]]
    assert not sets
    assert flags(at_hub) == before
    assert not daemon.logged("hub.notifications_enabled")


@pytest.mark.parametrize("mode", ["check", "never"])
def test_flags_are_not_touched_when_that_is_forbidden(daemons, site, hub, at_hub, mode):
    at_hub.config_set("notify-keyspace-events", "Elx")
    daemon = daemons.live(site, hub, "--notify-config", mode)
    assert flags(at_hub) == set("Elx")
    told = daemon.logged("hub.notifications_missing")
    assert [sorted(record["missing"]) for record in told] == ([sorted("K$hg")] if mode == "check" else [])


# A key that cannot cross.


@pytest.mark.parametrize("rc", [False, True])
def test_a_key_of_another_type_at_the_hub_is_named_and_the_rest_goes_on(daemons, site, hub, at_site, at_hub, rc):
    daemon = daemons.live(site, hub, rc=rc)
    at_hub.lpush("site1:list", "x")
    at_site.hset("site1:list", "field", "v")
    at_site.set("site1:other", "v")
    told = daemon.wait_for_log("push.refused")
    assert told["key"] == "site1:list"
    assert told["error"].startswith("WRONGTYPE")
    all_replicated(at_site, at_hub, back=False)
    assert at_hub.get("site1:other") == b"v"
    assert at_site.hgetall("site1:list") == {b"field": b"v"}
    assert at_hub.lrange("site1:list", 0, -1) == [b"x"]
    assert len(daemon.logged("push.refused")) == 1


def test_numbers_of_a_burst_all_arrive(daemons, site, hub, at_site, at_hub):
    """Events of a burst come through Webdis in reverse; each key ends with its last value all the same."""
    daemons.live(site, hub)
    for start in range(0, 4000, 2000):
        with at_hub.pipeline(transaction=False) as pipeline:
            for number in range(start, start + 2000):
                pipeline.set(f"site1:{number % 1600}", number)
            pipeline.execute()
    assert len(assert_equal_soon(at_site, at_hub, timeout=40)) == 1600


def test_scripts_may_be_forbidden_at_the_hub(certificates, daemons, site):
    with Hub(certificates, webdis={"acl": [{"disabled": ["EVAL", "EVALSHA", "DEBUG"]}]}) as hub:
        daemon = daemons.live(site, hub)
        at_site, at_hub = site.client(), hub.redis
        for way, client in (("up", at_site), ("down", at_hub)):
            for number, name in enumerate(NAMES):
                client.set(f"site1:{way}:{number}".encode() + name, name, ex=3600 if number % 2 else None)
                client.hset(f"site1:{way}:h{number}".encode() + name, name, name)
        assert len(assert_equal_soon(at_site, at_hub)) == 4 * len(NAMES)
        daemon.wait_for_log("push.scripts_refused")


def test_the_text_of_a_log_never_holds_a_value(daemons, site, hub, at_site, at_hub):
    secret = "value-nobody-may-read"
    daemon = daemons.live(site, hub, "--log-level", "debug")
    for number, client in itertools.product(range(3), (at_site, at_hub)):
        client.set(f"site1:{number}", secret)
        client.hset(f"site1:h{number}", "field", secret)
    at_hub.lpush("site1:list", "x")
    at_site.hset("site1:list", "field", secret)
    daemon.wait_for_log("push.refused")
    all_replicated(at_site, at_hub)
    assert daemon.stop() == 0
    assert secret not in daemon.stderr + daemon.stdout
