"""Every write command of the types beside strings and hashes, at each side; and what they merge to after an outage.

Real servers: two sites at one hub. What is run is generated from a seed, for each command that the server itself lists
as a write (`COMMAND LIST FILTERBY ACLCAT write`).
"""

from __future__ import annotations

import itertools
import random

import pytest

from testbed import Hub, RedisServer, eventually
from tests.e2e.conftest import Daemons
from tests.e2e.pairs import Pair, overrun
from tests.e2e.support import PREFIX, SWIFT, crossed, settled

ALL = ("--replicate", "all")
MEMBERS = [b"a", b"b", b"c", b"", b"\xff\r\n\x00", b"%/?+", b"10", b"m" * 70]
SCORES = [b"0", b"-0", b"1", b"1.5", b"0.1", b"1e3", b"-3.7e-5", b"inf", b"-inf", b"+7", b"17179869184.000001", b"0x10"]

#: Commands that are not run, and why.
LEFT_OUT = {
    **dict.fromkeys(("flushall", "flushdb", "swapdb"), "of whole databases: `test_removals`, `test_hub_flushed`"),
    **dict.fromkeys(("pfdebug", "restore-asking", "migrate"), "of Redis itself"),
    "function": "of no key",
    **dict.fromkeys(("lpush lpushx rpush rpushx lpop rpop lset lrem ltrim linsert".split()), "lists"),
    **dict.fromkeys(("lmove blmove rpoplpush brpoplpush lmpop blmpop blpop brpop sort".split()), "lists"),
    **dict.fromkeys("xadd xdel xtrim xsetid xack xclaim xautoclaim xgroup xreadgroup".split(), "streams"),
}


class Words:
    """The arguments of one command, by chance.

    Args:
        rng: chance.
        side: of the keys, so that two sides do not write the same key at once.
    """

    def __init__(self, rng, side):
        self.rng = rng
        self._side = side

    def key(self, kind, most=3):
        return b"%s%s:%s:%d" % (PREFIX, self._side, kind, self.rng.randrange(most))

    def any_key(self):
        return self.key(self.rng.choice([b"string", b"hash", b"set", b"zset"]))

    def some(self, items, most=3):
        return self.rng.sample(items, self.rng.randint(1, most))

    def member(self):
        return self.rng.choice(MEMBERS)

    def scored(self, most=3):
        return [word for member in self.some(MEMBERS, most) for word in (self.rng.choice(SCORES), member)]

    def pairs(self):
        return [word for member in self.some(MEMBERS) for word in (member, b"%d" % self.rng.randrange(100))]

    def of(self, name):
        """The arguments of a command of this name."""
        rng, k, member = self.rng, self.key, self.member
        string, hash_, set_, zset = b"string", b"hash", b"set", b"zset"
        number = b"%d" % rng.randrange(5)
        soon, later = b"%d" % (rng.randrange(100, 1000) * 1000), b"%d" % rng.randrange(4_000_000_000, 5_000_000_000)
        match name:
            case "set" | "setnx" | "getset" | "append":
                return [k(string), number]
            case "setex" | "psetex":
                return [k(string), soon, number]
            case "mset" | "msetnx":
                return [k(string), number, k(string), number]
            case "incr" | "decr" | "getdel":
                return [k(string)]
            case "incrby" | "decrby" | "incrbyfloat":
                return [k(string), number]
            case "setrange" | "setbit":
                return [k(string), number, rng.choice([b"0", b"1"])]
            case "bitfield":
                return [k(string), rng.choice([b"SET", b"INCRBY"]), b"u8", number, b"7"]
            case "bitop":
                return [b"XOR", k(string), k(string), k(string)]
            case "getex":
                return [k(string), *rng.choice([[b"EX", b"500"], [b"PERSIST"]])]
            case "pfadd":
                return [k(b"pf"), member()]
            case "pfmerge":
                return [k(b"pf"), k(b"pf")]
            case "hset" | "hmset":
                return [k(hash_), *self.pairs()]
            case "hsetnx" | "hincrby" | "hincrbyfloat":
                return [k(hash_), rng.choice([b"n", b"m"]), number]
            case "hdel":
                return [k(hash_), *self.some([*MEMBERS, b"n"])]
            case "sadd" | "srem":
                return [k(set_), *self.some(MEMBERS, 5)]
            case "spop":
                return [k(set_), *rng.choice([[], [b"1"], [b"2"], [b"100"]])]
            case "smove":
                return [k(set_), k(set_), member()]
            case "sinterstore" | "sunionstore" | "sdiffstore":
                return [k(rng.choice([set_, set_, string])), k(set_), k(set_)]
            case "zadd":
                options = [[], [], [b"CH"], [b"NX"], [b"XX", b"CH"], [b"GT"], [b"LT", b"CH"], [b"INCR"], [b"NX", b"INCR"]]
                chosen = rng.choice(options)
                return [k(zset), *chosen, *self.scored(1 if b"INCR" in chosen else 5)]
            case "zincrby":
                return [k(zset), rng.choice([b"1", b"0.1", b"-2.5"]), member()]
            case "zrem":
                return [k(zset), *self.some(MEMBERS)]
            case "zpopmin" | "zpopmax":
                return [k(zset), *rng.choice([[], [b"2"]])]
            case "zmpop" | "bzmpop":
                return [*([b"0.01"] if name[0] == "b" else []), b"2", k(zset), k(zset), b"MIN", b"COUNT", b"2"]
            case "bzpopmin" | "bzpopmax":
                return [k(zset), b"0.01"]
            case "zremrangebyscore":
                return [k(zset), b"-inf", b"(1"]
            case "zremrangebyrank":
                return [k(zset), b"0", b"0"]
            case "zremrangebylex":
                return [k(zset), b"[a", b"[a"]
            case "zunionstore" | "zinterstore" | "zdiffstore":
                weights = [b"WEIGHTS", b"2", b"0.1"] if name != "zdiffstore" and rng.random() < 0.5 else []
                return [k(zset), b"2", k(zset), k(set_) if name != "zdiffstore" else k(zset), *weights]
            case "zrangestore":
                return [k(zset), k(zset), b"0", b"2"]
            case "geoadd":
                return [k(b"geo"), b"13.%s" % number, b"38.1", member()]
            case "geosearchstore":
                return [k(zset), k(b"geo"), *b"FROMLONLAT 13 38 BYRADIUS 500 km".split()]
            case "georadius":
                return [k(b"geo"), *b"13 38 500 km".split(), rng.choice([b"STORE", b"STOREDIST"]), k(zset)]
            case "georadiusbymember":
                return [k(b"geo"), member(), b"500", b"km", b"STOREDIST", k(zset)]
            case "expire" | "pexpire":
                return [self.any_key(), soon]
            case "expireat":
                return [self.any_key(), later]
            case "pexpireat":
                return [self.any_key(), later + b"000"]
            case "persist":
                return [self.any_key()]
            case "del" | "unlink":
                return [self.any_key(), self.any_key()]
            case "rename" | "renamenx" | "copy":
                return [self.any_key(), self.any_key(), *([b"REPLACE"] if name == "copy" else [])]
            case "move":
                return [self.any_key(), b"1"]
            case "restore":
                kind = rng.choice([set_, zset])
                dump = b"\x11\x0f\x0f\x00\x00\x00\x02\x00\x81a\x02\x01\x01\xff\x0b\x00"
                return [k(kind), b"0", DUMPS[kind], b"REPLACE"] if DUMPS else [k(kind), b"0", dump]
        raise AssertionError(f"{name} is a write command that this test does not know")


#: What `DUMP` says of a set and of a sorted set.
DUMPS: dict[bytes, bytes] = {}


def held(client):
    """What each key holds: type, elements in an order of their own, expiry."""
    keys = sorted(key for key in client.keys(PREFIX + b"*") if b"~marker" not in key)
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.eval(
                "local t = redis.call('TYPE', KEYS[1]).ok; local e = redis.call('PEXPIRETIME', KEYS[1]); local v = {};"
                "if t == 'string' then v = {redis.call('GET', KEYS[1])} elseif t == 'hash' then v ="
                " redis.call('HGETALL', KEYS[1]) elseif t == 'set' then v = redis.call('SMEMBERS', KEYS[1])"
                " elseif t == 'zset' then v = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')"
                " elseif t == 'list' then v = redis.call('LRANGE', KEYS[1], 0, -1) end; return {t, e, v}",
                *(1, key),
            )
        found = dict(zip(keys, pipeline.execute(), strict=True))
    return {key: (kind, expiry, _in_order(kind, values)) for key, (kind, expiry, values) in found.items()}


def _in_order(kind, values):
    match kind:
        case b"hash":
            return dict(zip(values[::2], values[1::2], strict=True))
        case b"set":
            return set(values)
        case _:
            return values


class Place:
    """Two sites with a daemon each, and their hub."""

    def __init__(self, certificates, daemons):
        self.daemons = daemons
        self.sites = [RedisServer().start(), RedisServer().start()]
        self.hub = Hub(certificates).start()
        self.states = [{"STATE_DIRECTORY": f"/tmp/{number}"} for number in range(2)]
        self.running = [daemons.live(site, self.hub, *SWIFT, *ALL) for site in self.sites]
        for daemon in self.running:
            settled(daemon)
        self.clients = [*(site.client() for site in self.sites), self.hub.redis]

    def close(self):
        for server in (*self.sites, self.hub):
            server.close()

    def assert_equal(self, log=()):
        """All three copies are equal, soon; else the last commands of a key are shown."""
        for site in self.clients[:2]:
            crossed(site, self.clients[2])

        def equal():
            first, second, hub = map(held, self.clients)
            differing = {k for k in hub.keys() | first.keys() | second.keys() if not first.get(k) == second.get(k) == hub.get(k)}
            for key in sorted(differing)[:3]:
                told = [entry for entry in log if key in entry[2:] or any(key in words for words in entry)]
                raise AssertionError(f"{len(differing)} differ: {key}: {first.get(key)} {second.get(key)} hub {hub.get(key)} after {told[-8:]}")
            return [hub]

        return eventually(equal, 20, "all copies are equal")[0]


@pytest.fixture(scope="module")
def place(certificates):
    daemons = Daemons(certificates)
    place = Place(certificates, daemons)
    yield place
    daemons.close()
    place.close()
    for daemon in daemons._started:
        assert "Traceback" not in daemon.stderr


def run(client, commands, way):
    """Run commands one by one, in a transaction, or in a script; what is refused is not the point."""
    match way:
        case "alone":
            with client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                pipeline.execute(raise_on_error=False)
        case "MULTI":
            with client.pipeline(transaction=True) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                pipeline.execute(raise_on_error=False)
        case "EVAL":
            for command in commands:
                client.eval("redis.pcall(unpack(ARGV)) return 1", 0, *command)


def writes(client):
    """The server's own list of commands that write."""
    listed = {name.decode().partition("|")[0] for name in client.execute_command("COMMAND LIST", *"FILTERBY ACLCAT write".split())}
    return sorted(listed - LEFT_OUT.keys())


def test_every_write_command_of_each_side_comes_to_all(place):
    rng = random.Random(16)
    first = place.clients[0]
    for kind, command in ((b"set", "SADD"), (b"zset", "ZADD")):
        words = [b"1", b"2"] if kind == b"zset" else [b"1", b"x"]
        first.execute_command(command, b"dumped", *words)
        DUMPS[kind] = first.dump(b"dumped")
        first.delete(b"dumped")
    names = writes(first)
    log = []
    for number, way in enumerate(itertools.islice(itertools.cycle(["alone", "MULTI", "EVAL"]), 9)):
        for side, client in enumerate(place.clients):
            words = Words(rng, b"%d" % side)
            commands = [(name.upper().encode(), *words.of(name)) for name in [*names, *names]]
            rng.shuffle(commands)
            log += [(side, way, *command) for command in commands]
            run(client, commands, way)
        place.assert_equal(log) if number in (0, 1, 2, 8) else None

    found = place.assert_equal(log)
    assert {kind for kind, *_ in found.values()} >= {b"string", b"hash", b"set", b"zset"}
    for daemon in place.running:
        assert not daemon.logged("push.refused")
        assert not daemon.logged("apply.refused")


# What both sides changed while nobody carried it.


def write_each(client, *commands):
    for command in commands:
        client.execute_command(*command)


@pytest.mark.parametrize(
    ("source", "way", "scripts"), [("psync", "stop", True), ("psync", "kill", True), ("notify", "kill", True), ("psync", "stop", False)]
)
def test_over_an_outage_collections_are_merged_element_by_element(daemons, certificates, source, way, scripts):
    """Added on both sides: all are there. Removed on one, untouched on the other: gone. The backlog does not reach."""
    acl = {} if scripts else {"disabled": ["EVAL", "EVALSHA"]}
    with RedisServer() as site, Hub(certificates, webdis={"acl": [acl]} if acl else None) as hub:
        at_site, at_hub = site.client(), hub.redis
        at_site.sadd(key(b"set"), *range(300))  # before the first contact: in the snapshot, and found at the hub
        at_hub.zadd(key(b"zset"), {b"%d" % number: number / 10 for number in range(300)})
        at_site.sadd(key(b"both"), "a", "b")
        at_hub.sadd(key(b"both"), "b", "c")
        at_site.zadd(key(b"scores"), {"same": 0.1, "site": 1, "both": 1})
        at_hub.zadd(key(b"scores"), {"same": 0.1, "hub": float("inf"), "both": 2})
        pair = Pair(daemons, site, hub, *ALL, source=source)
        pair.level()
        equal_soon(at_site, at_hub)
        assert at_site.smembers(key(b"both")) == {b"a", b"b", b"c"}
        assert at_site.zscore(key(b"scores"), "both") == 2

        write_each(at_site, (b"SADD", key(b"turns"), b"x"), (b"ZADD", key(b"clash"), b"1", b"m", b"1", b"n"))
        pair.level()
        pair.end(way)
        with overrun(at_site):
            at_site.srem(key(b"set"), *range(100))
            at_site.sadd(key(b"set"), "of the site")
            at_hub.srem(key(b"set"), *range(90, 200))
            at_hub.sadd(key(b"set"), "of the hub")
            at_site.zadd(key(b"zset"), {b"1": 7.77, b"new": -1})
            at_site.zremrangebyrank(key(b"zset"), -50, -1)
            at_hub.zincrby(key(b"zset"), 0.1, b"2")
            at_hub.zrem(key(b"zset"), b"3", b"4")
            at_site.zadd(key(b"clash"), {b"m": 5})
            at_hub.zadd(key(b"clash"), {b"m": 6, b"n": 7})
            write_each(at_site, (b"DEL", key(b"turns")), (b"ZADD", key(b"turns"), b"1", b"x"))  # another type now
            at_hub.delete(key(b"both"))
        pair.start_again()
        pair.level()
        held_now = equal_soon(at_site, at_hub)

        assert at_hub.smembers(key(b"set")) == {b"%d" % n for n in range(200, 300)} | {b"of the site", b"of the hub"}
        left = dict(at_hub.zrange(key(b"zset"), 0, -1, withscores=True))
        assert left[b"1"] == 7.77
        assert left[b"2"] == 0.2 + 0.1
        assert left[b"new"] == -1
        assert left.keys().isdisjoint({b"3", b"4", b"299"})
        assert dict(at_hub.zrange(key(b"clash"), 0, -1, withscores=True)) == {b"m": 6, b"n": 7}
        assert held_now[key(b"turns")][0] == b"zset"
        assert key(b"both") not in held_now
        lost = pair.daemon.logged("conflict.resolved")
        assert [entry["key"] for entry in lost if "clash" in entry["key"]]


def key(name):
    return PREFIX + name


def equal_soon(at_site, at_hub):
    def equal():
        here, there = held(at_site), held(at_hub)
        assert here == there, {k: (here.get(k), there.get(k)) for k in here.keys() | there.keys() if here.get(k) != there.get(k)}
        return [here]

    return eventually(equal, 20, "both copies are equal")[0]
