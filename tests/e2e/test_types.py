"""Every write command of the types beside strings and hashes, at each side; and what they merge to after an outage.

Real servers: two sites at one hub. What is run is generated from a seed, for each command that the server itself lists
as a write (`COMMAND`).
"""

from __future__ import annotations

import contextlib
import os
import random

import pytest
import redis

from testbed import Hub, RedisServer, eventually
from tests.e2e.commands import ARGUMENTS, NOT_IN_SCRIPTS, Words, writes
from tests.e2e.conftest import Daemons
from tests.e2e.pairs import Pair, overrun
from tests.e2e.support import FOLLOWED, PREFIX, SWIFT, all_replicated, settled

ALL = ("--replicate", "all")
FAR = 4_102_444_800_000


#: Lua: type, expiry, elements of a key, whatever version the server is of, and whether the expiry is exact; of a stream
#: also its last id, of a hash the expiries of its fields.
_HELD = """
local kind, at, v = redis.call('TYPE', KEYS[1]).ok, redis.pcall('PEXPIRETIME', KEYS[1]), {}
local exact = type(at) == 'number' and 1 or 0
if exact == 0 then
  local left, now = redis.call('PTTL', KEYS[1]), redis.call('TIME')
  at = left < 0 and left or left + now[1] * 1000 + math.floor(now[2] / 1000)
end
if kind == 'string' then v = {redis.call('GET', KEYS[1])}
elseif kind == 'set' then v = redis.call('SMEMBERS', KEYS[1])
elseif kind == 'zset' then v = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
elseif kind == 'list' then v = redis.call('LRANGE', KEYS[1], 0, -1)
elseif kind == 'stream' then
  local told = redis.call('XINFO', 'STREAM', KEYS[1])
  for place = 1, #told, 2 do if told[place] == 'last-generated-id' then v[1] = told[place + 1] end end
  v[2] = redis.call('XRANGE', KEYS[1], '-', '+')
elseif kind == 'hash' then
  local flat = redis.call('HGETALL', KEYS[1])
  for place = 1, #flat, 2 do
    local over = redis.pcall('HPEXPIRETIME', KEYS[1], 'FIELDS', 1, flat[place])[1]
    v[#v + 1] = flat[place]
    v[#v + 1] = {flat[place + 1], type(over) == 'number' and over or -1}
  end
end
return {kind, at, v, exact}
"""


def held(client):
    """What each key holds: type, elements in an order of their own, expiry."""
    keys = sorted(key for key in client.keys(PREFIX + b"*") if b"~marker" not in key)
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.eval(_HELD, 1, key)
        found = dict(zip(keys, pipeline.execute(), strict=True))
    return {
        key: (kind, expiry if exact else Around(expiry), _in_order(kind, values))
        for key, (kind, expiry, values, exact) in found.items()
    }


class Around(int):
    """An expiry that a server tells as the time that is left (Redis 6.2): equal to any within a tenth of a second."""

    def __eq__(self, other):
        return abs(int(self) - int(other)) < 100

    __hash__ = None


def _in_order(kind, values):
    match kind:
        case b"hash":
            return {name: tuple(value) for name, value in zip(values[::2], values[1::2], strict=True)}
        case b"set":
            return set(values)
        case b"zset":  # two servers may print the same score in two ways
            return list(zip(values[::2], map(float, values[1::2]), strict=True))
        case b"stream":  # a last id 0-0 cannot be had again
            return [b"0-1" if values[0] == b"0-0" else values[0], values[1]]
        case _:
            return values


class Place:
    """Two sites with a daemon each, which follows the stream or the events, and their hub."""

    def __init__(self, sites, hub, daemons, source):
        self.daemons = daemons
        self.sites, self.hub, self.source = sites, hub, source
        self.running = [daemons.start(site, self.hub, *SWIFT, *ALL, "--source", source) for site in self.sites]
        for daemon in self.running:
            daemon.wait_for_log(FOLLOWED[source])
            daemon.wait_for_log("subscribe.started")
            settled(daemon)
        self.clients = [*(site.client() for site in self.sites), self.hub.redis]

    def assert_equal(self, log=()):
        """All three copies are equal, soon; else the last commands of a key are shown."""
        with contextlib.ExitStack() as stack:
            for daemon in self.running:
                stack.enter_context(daemon.explaining())
            for site in self.clients[:2]:
                all_replicated(site, self.clients[2], acknowledged=self.source == "psync")

        def equal():
            first, second, hub = map(held, self.clients)
            differing = {
                k for k in hub.keys() | first.keys() | second.keys() if not first.get(k) == second.get(k) == hub.get(k)
            }
            for key in sorted(differing)[:3]:
                told = [entry for entry in log if key in entry][-8:]
                copies = [copy.get(key) for copy in (first, second, hub)]
                raise AssertionError(f"{len(differing)} differ, as {key}: {copies} after {told}")
            return [hub]

        return eventually(equal, 20, "all copies are equal")[0]


@pytest.fixture(scope="module", params=["psync", "notify"])
def place(certificates, request):
    with RedisServer() as one, RedisServer() as two, Hub(certificates) as hub, Daemons(certificates) as daemons:
        yield Place([one, two], hub, daemons, request.param)


def run(client, commands, way):
    """Run commands one by one, in a transaction, or in a script; returns the names of those that were not refused."""
    match way:
        case "alone" | "MULTI":
            with client.pipeline(transaction=way == "MULTI") as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                replies = pipeline.execute(raise_on_error=False)
        case "EVAL":
            tried = "local reply = redis.pcall(unpack(ARGV)) return not (type(reply) == 'table' and reply.err) and 1"
            replies = [client.eval(tried, 0, *command) or redis.ResponseError() for command in commands]
    done = zip(commands, replies, strict=True)
    return {command[0] for command, reply in done if not isinstance(reply, redis.ResponseError)}


def test_every_write_command_of_each_side_comes_to_all(place):
    """Alone, in MULTI and in EVAL, each side with keys of its own."""
    rng = random.Random(int(os.environ.get("TESTBED_SEED", "16")))
    first = place.clients[0]
    names = writes(first)
    version = first.info("server")["redis_version"].split(".")
    harmful = NOT_IN_SCRIPTS.get((int(version[0]), int(version[1])), ())
    first.sadd("dumped:set", 1, "x")
    first.zadd("dumped:zset", {"a": 1.5})
    first.rpush("dumped:list", 1, "x")
    first.xadd("dumped:stream", {"f": "v"}, id="2-2")
    dumps = {kind: first.dump(b"dumped:" + kind) for kind in (b"set", b"zset", b"list", b"stream")}
    log, done = [], set()
    for number, way in enumerate(["alone", "MULTI", "EVAL"] * 3 + ["alone"] * 10):
        if number > 8 and len(done) == len(names):
            break  # the seed made something for each command to work on
        for side, client in enumerate(place.clients):
            words = Words(rng, b"%s%d:" % (PREFIX, side), dumps, names)
            commands = [(name.upper().encode(), *ARGUMENTS[name](words)) for name in [*names, *names]]
            rng.shuffle(commands)
            if way == "EVAL":
                commands = [command for command in commands if command[0] not in harmful]
            log += [(side, way, *command) for command in commands]
            done |= run(client, commands, way)
        if number in {0, 1, 2} or number >= 8:
            found = place.assert_equal(log)

    refused = [name for name in names if name.upper().encode() not in done]
    assert not refused, f"whatever their arguments, these were refused: {refused}"
    assert {kind for kind, *_ in found.values()} == {b"string", b"hash", b"set", b"zset", b"list", b"stream"}
    for daemon in place.running:
        # A key that has become one of another type by the time when it is read is refused, and pushed once more.
        refused = [(entry["key"], entry["error"]) for entry in daemon.logged("push.refused")]
        assert not [told for told in refused if not told[1].startswith("WRONGTYPE")]
        assert not daemon.logged("apply.refused")


_CREATE = {
    b"string": b"SET k v",
    b"hash": b"HSET k e v",
    b"set": b"SADD k e",
    b"zset": b"ZADD k 1 e",
    b"list": b"RPUSH k e",
    b"stream": b"XADD k 1-1 e v",
}
#: By the type of the key `k` before: commands that end with it being gone, though no stream says `DEL` of most.
_REMOVE = {
    b"string": [
        b"BITOP XOR k none none",
        b"RENAME k other",
        b"GETDEL k",
        b"SET k v PXAT 1",
        b"GETEX k PXAT 1",
        b"PEXPIREAT k 1",
        b"PEXPIRE k -1",
        b"MSETEX 1 k v PXAT 1",
        b"DELEX k",
        b"SINTERSTORE k none none",
        b"SUNIONSTORE k none none",
        b"SDIFFSTORE k none none",
        b"ZUNIONSTORE k 1 none",
        b"ZINTERSTORE k 2 none none",
        b"ZDIFFSTORE k 1 none",
        b"ZRANGESTORE k none 0 -1",
        b"GEOSEARCHSTORE k far FROMLONLAT 13 38 BYRADIUS 500 km",
        b"GEORADIUS far 13 38 500 km STORE k",
        b"SORT none STORE k",
    ],
    b"hash": [b"HDEL k e", b"BITOP XOR k none none", b"HGETDEL k FIELDS 1 e", b"HPEXPIRE k 0 FIELDS 1 e"],
    b"set": [b"SREM k e", b"SPOP k", b"SPOP k 5", b"SMOVE k other e", b"SDIFFSTORE k k k", b"SORT none STORE k"],
    b"zset": [b"ZREM k e", b"ZPOPMIN k", b"ZPOPMAX k 5", b"ZREMRANGEBYRANK k 0 -1", b"ZREMRANGEBYSCORE k -inf inf"],
    b"list": [b"LPOP k", b"LREM k 0 e", b"LTRIM k 1 0", b"LMOVE k other LEFT LEFT", b"RPOPLPUSH k other"],
    b"stream": [b"BITOP XOR k none none", b"RENAME k other"],
}


@pytest.mark.parametrize("way", ["alone", "MULTI", "EVAL"])
def test_what_a_command_leaves_empty_is_gone_everywhere(place, way):
    """As the only change of the key: no other one that follows carries the removal along."""
    first = place.clients[0]
    names = {name.upper().encode() for name in writes(first)}
    removals = [(kind, line) for kind, lines in _REMOVE.items() for line in lines if line.split()[0] in names]
    keys, log = set(), []
    for side, client in enumerate(place.clients):
        client.geoadd(b"far", (100, -50, "e"))
        commands = []
        for number, (kind, line) in enumerate(removals):
            key = PREFIX + b"%s:%d:%d" % (way.encode(), side, number)
            known = {b"k": key, b"none": PREFIX + b"none", b"far": b"far", b"other": key + b":other"}
            client.execute_command(*(known.get(word, word) for word in _CREATE[kind].split()))
            commands.append([known.get(word, word) for word in line.split()])
            keys.add(key)
        log.append((client, commands))
    assert keys <= place.assert_equal().keys()
    for client, commands in log:
        assert run(client, commands, way) == {command[0] for command in commands}
    found = place.assert_equal([(way, *command) for _, commands in log for command in commands])
    assert not found.keys() & keys


#: By the type of the key `k` before, which is to expire: commands of one transaction that leave it without its former
#: elements or expiry, or with a last id of an entry that is gone.
_ANEW = {
    b"string": [
        [b"DEL k", b"HSET k f w"],
        [b"RESTORE-ASKING k 0 dump REPLACE"],
        [b"SORT numbers BY store GET # GET store STORE other STORE k"],
        [b"GEORADIUSBYMEMBER places store 9 km STORE other STOREDIST k"],
    ],
    b"hash": [[b"HDEL k e", b"HSET k f w"], [b"HDEL k e", b"HINCRBY k f 1"], [b"HDEL k e e", b"HSET k e v"]],
    b"set": [[b"SREM k e", b"SADD k f"], [b"SPOP k", b"SADD k f"], [b"SMOVE k other e", b"SADD k f"]],
    b"zset": [[b"ZREM k e", b"ZADD k 1 f"], [b"ZPOPMIN k", b"ZADD k 1 f"], [b"ZREM k e", b"ZINCRBY k 1 e"]],
    b"list": [[b"LPOP k", b"RPUSH k f"]],
    b"stream": [
        [b"XADD k MAXLEN 0 5-1 f v"],
        [b"XADD k MINID 9 5-1 f v"],
        [b"XADD k 5-1 f v", b"XDEL k 5-1"],
        [b"XADD k 5-1 f v", b"XADD k 6-1 f v", b"XTRIM k MAXLEN 0"],
        [b"XADD k 5-1 f v", b"XADD k 6-1 f v", b"XDEL k 6-1", b"XADD k 7-1 f v", b"XDEL k 7-1 5-1"],
        [b"DEL k", b"XADD k 1-1 f v", b"XDEL k 1-1"],
        [b"XDEL k +1-1"],
        [b"XDEL k 0000000000000000000000001-01"],
    ],
}


def test_what_is_emptied_and_filled_anew_is_the_same_everywhere(place):
    """Its expiry is gone; and a stream keeps the id of an entry that came and went."""
    log = []
    for side, client in enumerate(place.clients):
        names = {word: b"%sanew:%d:%b" % (PREFIX, side, word) for word in (b"numbers", b"places", b"dumped")}
        client.sadd(names[b"numbers"], 1, 2)
        client.geoadd(names[b"places"], (13, 38, "store"))
        client.hset(names[b"dumped"], "f", "v")
        names[b"dump"] = client.dump(names[b"dumped"])
        turns = [(kind, lines) for kind, those in _ANEW.items() for lines in those]
        for number, (kind, lines) in enumerate(turns):
            key = b"%sanew:%d:%d" % (PREFIX, side, number)
            known = {**names, b"k": key, b"other": key + b":other"}
            client.execute_command(*(known.get(word, word) for word in _CREATE[kind].split()))
            client.pexpireat(key, FAR)
            log.append((client, [[known.get(word, word) for word in line.split()] for line in lines]))
    place.assert_equal()
    for client, commands in log:
        assert run(client, commands, "MULTI") == {command[0] for command in commands}
    place.assert_equal([("MULTI", *command) for _, commands in log for command in commands])


def test_a_stream_that_is_removed_and_made_anew_keeps_its_lower_last_id(place):
    """Whether it was removed or has expired is to be found out first; its last id may well be pushed before that."""
    at_site = place.clients[0]
    keys = [b"%slower:%d" % (PREFIX, number) for number in range(100)]
    for key in keys:
        at_site.xadd(key, {"f": "v"}, id="9-0")
        at_site.pexpireat(key, FAR)
    place.assert_equal()
    for key in keys:
        at_site.delete(key)
        at_site.xgroup_create(key, "g", "0", mkstream=True)
    found = place.assert_equal()
    assert {found[key][2][0] for key in keys} == {b"0-1"}


@pytest.mark.parametrize("source", ["psync", "notify"])
def test_what_another_type_would_replace_is_removed_where_that_is_empty(daemons, site, hub, at_site, source):
    """Of what a command stores nothing is replicated here, but that it removes the key is."""
    daemon = daemons.start(site, hub, *SWIFT, "--replicate", "set,hset,del", "--source", source, rc=False)
    daemon.wait_for_log(FOLLOWED[source])
    storing = [line for line in _REMOVE[b"string"] if b"STORE" in line]
    keys = {PREFIX + b"%d" % number: line for number, line in enumerate(storing)}
    kept = PREFIX + b"kept"
    for key in (*keys, kept):
        at_site.set(key, "v")
    eventually(lambda: hub.redis.exists(*keys, kept) == len(keys) + 1, 10, "all keys are at the hub")
    at_site.sadd("members", 1)
    at_site.sunionstore(kept, "members")
    for key, line in keys.items():
        at_site.execute_command(*(key if word == b"k" else word for word in line.split()))
    eventually(lambda: not [keys[key] for key in keys if hub.redis.exists(key)], 10, "they are gone at the hub")
    assert hub.redis.exists(kept), "it is there, though nothing of it is replicated"


# What both sides changed while nobody carried it.


@pytest.mark.parametrize(
    ("source", "way", "scripts"),
    [("psync", "stop", True), ("psync", "kill", True), ("notify", "kill", True), ("psync", "stop", False)],
)
def test_over_an_outage_collections_are_merged_element_by_element(daemons, certificates, source, way, scripts):
    """Added on both sides: all are there. Removed on one, untouched on the other: gone. The backlog does not reach."""
    webdis = {} if scripts else {"acl": [{"disabled": ["EVAL", "EVALSHA", "DEBUG"]}]}
    with RedisServer() as site, Hub(certificates, webdis=webdis) as hub:
        at_site, at_hub = site.client(), hub.redis
        before_first_contact(at_site, at_hub)
        if scripts:  # without them a stream cannot be read in one step
            streams_before_first_contact(at_site, at_hub)
        pair = Pair(daemons, site, hub, *ALL, source=source)
        pair.level()
        equal_soon(at_site, at_hub)
        assert at_site.smembers(key("both")) == {b"a", b"b", b"c"}
        assert at_site.zscore(key("scores"), "both") == 2

        at_site.sadd(key("turns"), "x")
        at_site.zadd(key("clash"), {"m": 1, "n": 1})
        pair.level()
        pair.end(way)
        with overrun(at_site):
            while_nobody_carries(at_site, at_hub)
            if scripts:
                streams_while_nobody_carries(at_site, at_hub)
        pair.start_again()
        pair.level()
        found = equal_soon(at_site, at_hub)

        values = {name.removeprefix(PREFIX): value for name, (_, _, value) in found.items()}
        assert values[b"set"] == {b"%d" % n for n in range(200, 300)} | {b"of the site", b"of the hub"}
        left = dict(values[b"zset"])
        assert (left[b"1"], left[b"2"], left[b"new"]) == (7.77, 0.2 + 0.1, -1)
        assert left.keys().isdisjoint({b"3", b"4", b"299"})
        assert values[b"clash"] == [(b"m", 6), (b"n", 7)]
        assert values[b"turns"] == [(b"x", 1)]
        assert b"both" not in values
        assert values[b"list:site"] == [b"newer", *(b"%d" % number for number in range(2500))]
        assert values[b"list:hub"] == [b"%d" % number for number in range(1101)]
        assert values[b"list:both"] == [b"hub", b"hub's"]
        if scripts:
            assert ids(values[b"stream"]) == [*(f"{n}-1" for n in range(120, 300)), *("350-1", "400-1", "401-1")]
            assert values[b"stream"][0] == b"401-1"
            assert values[b"stream:both"] == [b"9-0", [[b"5-0", [b"hub", b"2"]]]]
            assert values[b"stream:empty"] == [b"7-7", []]
            assert at_hub.xinfo_groups(key("stream"))[0]["name"] == b"group of the hub"
            assert at_site.xpending(key("stream"), "group of the site")["pending"] == 3
        lost = pair.daemon.logged("conflict.resolved")
        clashes = {"site1:clash", "site1:list:both", *(["site1:stream:both"] if scripts else [])}
        assert {entry["key"] for entry in lost[-len(clashes) :]} == clashes


def ids(stream):
    """Of the entries of one, as `held` tells of it."""
    return [id_.decode() for id_, _ in stream[1]]


def before_first_contact(at_site, at_hub):
    """In the snapshot of the site, and found at the hub."""
    at_site.sadd(key("set"), *range(300))
    at_hub.zadd(key("zset"), {b"%d" % number: number / 10 for number in range(300)})
    at_site.sadd(key("both"), "a", "b")
    at_hub.sadd(key("both"), "b", "c")
    at_site.zadd(key("scores"), {"same": 0.1, "site": 1, "both": 1})
    at_hub.zadd(key("scores"), {"same": 0.1, "hub": float("inf"), "both": 2})
    at_site.rpush(key("list:site"), *range(2500))
    at_hub.rpush(key("list:hub"), *range(2500))
    at_site.rpush(key("list:both"), "site")
    at_hub.rpush(key("list:both"), "hub")


def while_nobody_carries(at_site, at_hub):
    """Both sides change what they hold."""
    at_site.srem(key("set"), *range(100))
    at_site.sadd(key("set"), "of the site")
    at_hub.srem(key("set"), *range(90, 200))
    at_hub.sadd(key("set"), "of the hub")
    at_site.zadd(key("zset"), {b"1": 7.77, b"new": -1})
    at_site.zremrangebyrank(key("zset"), -50, -1)
    at_hub.zincrby(key("zset"), 0.1, b"2")
    at_hub.zrem(key("zset"), b"3", b"4")
    at_site.zadd(key("clash"), {b"m": 5})
    at_hub.zadd(key("clash"), {b"m": 6, b"n": 7})
    at_site.delete(key("turns"))
    at_site.zadd(key("turns"), {"x": 1})  # another type now
    at_hub.delete(key("both"))
    at_site.lpush(key("list:site"), "newer")
    at_hub.ltrim(key("list:hub"), 0, 1100)
    at_site.lset(key("list:both"), 0, "site's")
    at_hub.rpush(key("list:both"), "hub's")


def streams_before_first_contact(at_site, at_hub):
    """Likewise streams."""
    for number in range(300):
        (at_site, at_hub)[number % 2].xadd(key("stream"), {"f": number}, id=f"{number}-1")
    at_site.xgroup_create(key("stream"), "group of the site", "0")
    at_site.xreadgroup("group of the site", "c", {key("stream"): ">"}, count=3)
    at_hub.xgroup_create(key("stream"), "group of the hub", "0")
    at_site.xadd(key("stream:empty"), {"f": 1}, id="7-7")


def streams_while_nobody_carries(at_site, at_hub):
    """Likewise streams."""
    at_site.xtrim(key("stream"), minid="100-0", approximate=False)
    at_hub.xtrim(key("stream"), minid="120-0", approximate=False)
    at_hub.xadd(key("stream"), {"f": "hub"}, id="350-1")
    at_site.xadd(key("stream"), {"f": "site"}, id="400-1")
    at_site.xadd(key("stream"), {"f": "site"}, id="401-1")
    at_site.xadd(key("stream:both"), {"site": "1"}, id="5-0")
    at_hub.xadd(key("stream:both"), {"hub": "2"}, id="5-0")
    at_site.execute_command("XSETID", key("stream:both"), "9-0")
    at_hub.execute_command("XSETID", key("stream:both"), "8-0")
    at_site.xtrim(key("stream:empty"), maxlen=0, approximate=False)


def key(name):
    return PREFIX + name.encode()


def equal_soon(at_site, at_hub):
    def equal():
        here, there = held(at_site), held(at_hub)
        assert here == there, {
            k: (here.get(k), there.get(k)) for k in here.keys() | there.keys() if here.get(k) != there.get(k)
        }
        return [here]

    return eventually(equal, 20, "both copies are equal")[0]
