"""Consumer groups where they are replicated: `--replicate ..,streams-groups`. Real servers: two sites at one hub."""

from __future__ import annotations

import os
import random

import pytest

from testbed import Hub, RedisServer, eventually
from tests.e2e.conftest import Daemons
from tests.e2e.pairs import Pair, overrun
from tests.e2e.support import PREFIX, SWIFT, all_replicated, settled

GROUPS = ("--replicate", "all,streams-groups")
FIELDS = {"f": "v"}

#: All in one turn of the server: a group may go between two commands.
_GROUPS = """
local told = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if told.err then return false end
local groups = {}
for n, group in ipairs(told) do -- name, NAME, consumers, COUNT, pending, COUNT, last-delivered-id, ID
    groups[n] = {group[2], group[8], redis.call('XPENDING', KEYS[1], group[2], '-', '+', 10000)}
end
return {groups, redis.call('XRANGE', KEYS[1], '-', '+')}
"""


def key(name):
    return PREFIX + name.encode()


def groups(client, name):
    """Of each group its last id, and of each pending entry that is there: who has it, and how often it was given."""
    if (told := client.eval(_GROUPS, 1, name)) is None:
        return None
    groups, entries = told
    there = {id_ for id_, _ in entries}
    return {
        group: (last, {id_: (consumer, times) for id_, consumer, _, times in pending if id_ in there})
        for group, last, pending in groups
    }


def equal_groups(clients, *names, timeout=20):
    """All copies hold the same groups, soon; those of each stream."""

    def equal():
        for name in names:
            first, *others = (groups(client, name) for client in clients)
            assert all(first == other for other in others), f"{name}: {first} {others}"
        return [[groups(clients[0], name) for name in names]]

    return eventually(equal, timeout, "the groups are equal")[0]


class Place:
    """Two sites with a daemon each, and their hub."""

    def __init__(self, sites, hub, daemons):
        self.running = [daemons.live(site, hub, *SWIFT, *GROUPS) for site in sites]
        for daemon in self.running:
            settled(daemon)
        self.clients = [*(site.client() for site in sites), hub.redis]

    def equal(self, *names):
        for site in self.clients[:2]:
            all_replicated(site, self.clients[2])
        return equal_groups(self.clients, *names)


@pytest.fixture(scope="module")
def place(certificates):
    with RedisServer() as one, RedisServer() as two, Hub(certificates) as hub, Daemons(certificates) as daemons:
        yield Place([one, two], hub, daemons)


def run(client, way, *command):
    """One command by itself, in a transaction, or in a script."""
    match way:
        case "EVAL":
            return client.eval("return redis.call(unpack(ARGV))", 0, *command)
        case _:
            with client.pipeline(transaction=way == "MULTI") as pipeline:
                pipeline.execute_command(*command)
                return pipeline.execute()[0]


def commands(client):
    return {name.decode().lower() if isinstance(name, bytes) else name for name in client.command()}


def filled(client, name, count=9, start=1):
    for number in range(start, start + count):
        client.xadd(name, FIELDS, id=f"{number}-0")


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("way", ["alone", "MULTI", "EVAL"])
def test_each_command_of_a_site_comes_to_all(place, way, side):
    """After each command by itself all copies are equal, whatever follows."""
    name, made = key(f"live:{way}:{side}"), key(f"made:{way}:{side}")
    site = place.clients[side]
    known = commands(site)
    newer = "xautoclaim" in known  # Redis 6.2, as CREATECONSUMER
    filled(site, name)

    def then(*command):
        run(site, way, *command)
        return place.equal(name)[0]

    assert then("XGROUP", "CREATE", name, b"g\xff", "0") == {b"g\xff": (b"0-0", {})}
    then("XGROUP", "CREATE", name, "end", "$")
    assert then("XGROUP", "CREATE", made, "g", "$", "MKSTREAM")[b"end"] == (b"9-0", {})
    assert place.equal(made) == [{b"g": (b"0-0", {})}]
    then("XGROUP", "SETID", name, "end", "5-0")
    found = then("XREADGROUP", "GROUP", b"g\xff", "one", "COUNT", "3", "STREAMS", name, ">")
    assert found[b"g\xff"] == (b"3-0", {b"%d-0" % n: (b"one", 1) for n in (1, 2, 3)})
    assert then("XACK", name, b"g\xff", "1-0")[b"g\xff"][1].keys() == {b"2-0", b"3-0"}
    assert then("XCLAIM", name, b"g\xff", b"t\x00wo", "0", "2-0")[b"g\xff"][1][b"2-0"] == (b"t\x00wo", 2)
    then("XCLAIM", name, b"g\xff", "three", "0", "3-0")
    if newer:
        then("XAUTOCLAIM", name, b"g\xff", "four", "0", "3-0")
        then("XGROUP", "CREATECONSUMER", name, b"g\xff", "idle")
    assert then("XREADGROUP", "GROUP", b"g\xff", "one", "COUNT", "1", "NOACK", "STREAMS", name, ">")[b"g\xff"] == (
        b"4-0",
        {b"2-0": (b"t\x00wo", 2), b"3-0": (b"four", 3) if newer else (b"three", 2)},
    )
    assert then("XGROUP", "DELCONSUMER", name, b"g\xff", "four" if newer else "three")[b"g\xff"][1].keys() == {b"2-0"}
    then("XREADGROUP", "GROUP", "end", "one", "STREAMS", name, ">")
    assert b"6-0" not in then("XDEL", name, "6-0")[b"end"][1]
    if "xackdel" in known:  # Redis 8.2
        then("XACKDEL", name, "end", "KEEPREF", "IDS", "1", "7-0")
        assert b"8-0" not in then("XDELEX", name, "DELREF", "IDS", "1", "8-0")[b"end"][1]
    assert then("XTRIM", name, "MAXLEN", "1")[b"end"] == (b"9-0", {b"9-0": (b"one", 1)})
    assert then("XGROUP", "SETID", name, "end", "2-0")[b"end"][0] == b"2-0"
    assert then("XGROUP", "DESTROY", name, "end").keys() == {b"g\xff"}
    then("RENAME", name, name + b":2")
    assert place.equal(name, name + b":2")[0] is None
    for daemon in place.running:
        assert not daemon.logged("push.refused")
        assert not daemon.logged("apply.refused")


@pytest.mark.parametrize("way", ["alone", "MULTI", "EVAL"])
def test_a_client_of_the_hub_manages_groups(place, way):
    """What causes an event comes at once; reading and XACK come with the next event of the stream."""
    name, hub = key(f"hub:{way}"), place.clients[2]
    filled(hub, name)
    run(hub, way, "XGROUP", "CREATE", name, "g", "2-0")
    assert place.equal(name) == [{b"g": (b"2-0", {})}]
    run(hub, way, "XREADGROUP", "GROUP", "g", "c", "COUNT", "2", "STREAMS", name, ">")
    run(hub, way, "XACK", name, "g", "3-0")
    hub.xadd(name, FIELDS)
    assert place.equal(name) == [{b"g": (b"4-0", {b"4-0": (b"c", 1)})}]
    run(hub, way, "XACK", name, "g", "4-0")
    run(hub, way, "XGROUP", "SETID", name, "g", "1-0")
    assert place.equal(name) == [{b"g": (b"1-0", {})}]
    run(hub, way, "XGROUP", "DESTROY", name, "g")
    assert place.equal(name) == [{}]


@pytest.mark.parametrize("command", ["XCLAIM {} g c 0 2-0", "XAUTOCLAIM {} g c 0 2-0 COUNT 1", "XACK {} g 2-0"])
def test_only_reading_sets_the_last_delivered_id(place, command):
    """What is read at the hub causes no event, so the site does not know how far that is."""
    verb, site, hub = command.split()[0], place.clients[0], place.clients[2]
    if verb.lower() not in commands(site):
        pytest.skip("Redis 6.2 has it")
    name = key(f"only:{verb}")
    filled(site, name)
    site.xgroup_create(name, "g", "0")
    site.xreadgroup("g", "a", {name: ">"}, count=3)
    place.equal(name)
    hub.xreadgroup("g", "b", {name: ">"}, count=2)
    site.execute_command(*command.format(name.decode()).split())
    found = place.equal(name)[0]
    assert found[b"g"][0] == b"5-0"
    assert {id_ for id_, (consumer, _) in found[b"g"][1].items() if consumer == b"b"} == {b"4-0", b"5-0"}


def test_reading_goes_on_at_the_other_side_where_it_ended(place):
    """Whatever readers did on the one side: on the other they get the next entry, and what is pending, each once."""
    rng = random.Random(int(os.environ.get("TESTBED_SEED", "16")))
    for number in range(6):
        name = key(f"turns:{number}")
        place.clients[0].xgroup_create(name, "g", "0", mkstream=True)
        left, added = {}, 0
        for turn in range(4):
            here = place.clients[turn % 2]
            for _ in range(rng.randint(1, 12)):
                consumer = rng.choice([b"a", b"b"])
                match rng.choice(["add", "add", "read", "read", "ack", "claim", "delete"]):
                    case "add":
                        added += 1
                        here.xadd(name, FIELDS, id=f"{added}-0")
                    case "read":
                        got = here.xreadgroup("g", consumer, {name: ">"}, count=rng.randint(1, 3))
                        left |= {id_: consumer for _, entries in got for id_, _ in entries}
                    case "ack" if left:
                        here.xack(name, "g", ids := rng.choice(list(left)))
                        del left[ids]
                    case "claim" if left:
                        id_ = rng.choice(list(left))
                        assert here.xclaim(name, "g", consumer, 0, [id_])
                        left[id_] = consumer
                    case "delete" if left:
                        here.xdel(name, id_ := rng.choice(list(left)))
                        here.xack(name, "g", id_)
                        del left[id_]
                    case _:
                        pass
            (found,) = place.equal(name)
            assert {id_: consumer for id_, (consumer, _) in found[b"g"][1].items()} == left
        there = place.clients[0]
        pending = {
            id_: consumer
            for consumer in (b"a", b"b")
            for _, entries in there.xreadgroup("g", consumer, {name: "0"})  # which no server tells its replicas
            for id_, fields in entries
            if fields  # else the entry is gone
        }
        assert pending == left
        last = int(groups(there, name)[b"g"][0].split(b"-")[0])
        got = there.xreadgroup("g", "a", {name: ">"}, count=1000)
        ids = [id_ for _, entries in got for id_, _ in entries]
        assert ids == [id_ for id_, _ in there.xrange(name) if int(id_.split(b"-")[0]) > last]
        assert groups(there, name)[b"g"][0] == b"%d-0" % added or not added


def test_times_of_delivery_and_lags_are_those_of_the_reader(place):
    name = key("times")
    first, second, hub = place.clients
    filled(first, name, 20)
    first.xgroup_create(name, "g", "0")
    first.xreadgroup("g", "c", {name: ">"}, count=5)
    place.equal(name)
    first.xclaim(name, "g", "c", 0, ["2-0"], time=1_700_000_000_000, retrycount=7, justid=True)
    assert place.equal(name)[0][b"g"][1][b"2-0"] == (b"c", 7)
    for client in (second, hub):
        told = client.xpending_range(name, "g", "2-0", "2-0", 1)[0]
        seconds, micros = client.time()
        assert abs(seconds * 1000 + micros // 1000 - told["time_since_delivered"] - 1_700_000_000_000) < 5000
        assert [group.get("lag", 15) for group in client.xinfo_groups(name)] == [15]  # since Redis 7.0


def test_what_groups_do_costs_no_fetch_of_the_stream(place):
    """An event of our own push is expected, and what another site is told it need not fetch."""
    name, first = key("cost"), place.clients[0]
    filled(first, name, 50)
    first.xgroup_create(name, "g", "0")
    first.xreadgroup("g", "c", {name: ">"}, count=1)
    place.equal(name)
    for daemon in place.running:
        settled(daemon)
    before = [daemon.state()["fetched"] for daemon in place.running]
    for _ in range(10):
        ((_, ((id_, _),)),) = first.xreadgroup("g", "c", {name: ">"}, count=1)
        equal_groups(place.clients, name)
        first.xack(name, "g", id_)
        equal_groups(place.clients, name)
    after = [daemon.state()["fetched"] for daemon in place.running]
    assert all(now - then < 5 for now, then in zip(after, before, strict=True)), (before, after)  # for 20 changes


# Over an outage.


def before_first_contact(at_site, at_hub):
    for client in (at_site, at_hub):
        filled(client, key("both"))
    at_site.xgroup_create(key("both"), "of the site", "0")
    at_site.xreadgroup("of the site", "c", {key("both"): ">"}, count=4)
    at_site.xack(key("both"), "of the site", "1-0")
    at_hub.xgroup_create(key("both"), "of the hub", "5-0")
    at_hub.xreadgroup("of the hub", "d", {key("both"): ">"}, count=1)
    at_site.xgroup_create(key("both"), "shared", "2-0")
    at_hub.xgroup_create(key("both"), "shared", "4-0")
    filled(at_site, key("site"))
    at_site.xgroup_create(key("site"), "g", "0")
    at_site.xreadgroup("g", "c", {key("site"): ">"})
    filled(at_hub, key("hub"))
    at_hub.xgroup_create(key("hub"), "g", "0")
    at_hub.xreadgroup("g", "c", {key("hub"): ">"})


def while_nobody_carries(at_site, at_hub):
    at_site.xack(key("site"), "g", "1-0", "2-0")
    at_hub.xack(key("site"), "g", "3-0")
    at_site.xclaim(key("site"), "g", "e", 0, ["4-0"])
    at_hub.xclaim(key("hub"), "g", "e", 0, ["4-0"])
    at_site.xclaim(key("hub"), "g", "f", 0, ["5-0"])
    at_hub.xclaim(key("hub"), "g", "h", 0, ["5-0"])
    at_hub.xdel(key("hub"), "6-0")
    at_site.xreadgroup("of the site", "c", {key("both"): ">"}, count=1)
    at_hub.xreadgroup("of the site", "d", {key("both"): ">"}, count=3)
    at_site.xgroup_destroy(key("both"), "of the hub")
    at_hub.xgroup_create(key("both"), "new", "0")
    at_hub.xgroup_destroy(key("both"), "shared")


def test_an_entry_that_is_copied_back_is_pending_on_both_sides_or_on_none(daemons, site, hub):
    """Redis still counts it as pending where it was removed."""
    at_site, at_hub, name = site.client(), hub.redis, key("back")
    daemon = daemons.live(site, hub, *SWIFT, *GROUPS)
    settled(daemon)
    filled(at_site, name, 3)
    at_site.xgroup_create(name, "g", "0")
    at_site.xreadgroup("g", "c", {name: ">"})
    eventually(lambda: groups(at_hub, name) == {b"g": (b"3-0", {b"%d-0" % n: (b"c", 1) for n in (1, 2, 3)})})
    at_site.xdel(name, "1-0")
    eventually(lambda: at_hub.xlen(name) == 2)
    with at_hub.pipeline() as transaction:  # made anew, with the first entry, and nothing is pending
        transaction.delete(name)
        filled(transaction, name, 3)
        transaction.xgroup_create(name, "g", "3-0")
        transaction.execute()
    eventually(lambda: at_site.xlen(name) == 3)
    (found,) = equal_groups((at_site, at_hub), name)
    assert found in ({b"g": (b"3-0", {b"1-0": (b"c", 1)})}, {b"g": (b"3-0", {})})


@pytest.mark.parametrize(("source", "way"), [("psync", "stop"), ("psync", "kill"), ("notify", "kill")])
def test_over_an_outage_groups_are_merged_entry_by_entry(daemons, site, hub, source, way):
    """Acknowledged on one side, untouched on the other: gone. Whoever read further has the last id."""
    at_site, at_hub = site.client(), hub.redis
    clients = (at_site, at_hub)
    before_first_contact(at_site, at_hub)
    pair = Pair(daemons, site, hub, *GROUPS, source=source)
    pair.level()
    names = [key(name) for name in ("both", "site", "hub")]
    both, at_first, _ = equal_groups(clients, *names)
    assert both == {
        b"of the site": (b"4-0", {b"%d-0" % n: (b"c", 1) for n in (2, 3, 4)}),
        b"of the hub": (b"6-0", {b"6-0": (b"d", 1)}),
        b"shared": (b"4-0", {}),
    }
    assert at_first == {b"g": (b"9-0", {b"%d-0" % n: (b"c", 1) for n in range(1, 10)})}

    pair.level()
    pair.end(way)
    with overrun(at_site):
        while_nobody_carries(at_site, at_hub)
    pair.start_again()
    pair.level()
    both, of_site, of_hub = equal_groups(clients, *names)
    assert both.keys() == {b"of the site", b"new"}
    assert both[b"of the site"] == (
        b"7-0",
        {
            **{b"%d-0" % n: (b"c", 1) for n in (2, 3, 4)},
            **{b"%d-0" % n: (b"d", 1) for n in (5, 6, 7)},
        },
    )
    assert of_site[b"g"][1] == {b"4-0": (b"e", 2), **{b"%d-0" % n: (b"c", 1) for n in range(5, 10)}}
    assert of_hub[b"g"][1] == {
        **{b"%d-0" % n: (b"c", 1) for n in (1, 2, 3, 7, 8, 9)},
        b"4-0": (b"e", 2),
        b"5-0": (b"h", 2),
    }
    for event in ("push.refused", "push.failed", "push.scripts_refused", "apply.refused", "apply.failed"):
        assert not pair.daemon.logged(event)
    lost = pair.daemon.logged("conflict.resolved")
    assert {entry["key"] for entry in lost} == {"site1:both", "site1:hub"}
    pair.level()
    eventually(lambda: not pair.daemon.state()["problems"], 10, "nothing is wrong")


def test_without_it_groups_stay_at_their_side(daemons, site, hub):
    """And so does what they do: it is counted, and said once."""
    at_site, at_hub = site.client(), hub.redis
    pair = Pair(daemons, site, hub, "--replicate", "all")
    filled(at_site, key("s"))
    at_site.xgroup_create(key("s"), "g", "0")
    at_site.xreadgroup("g", "c", {key("s"): ">"})
    at_site.xack(key("s"), "g", "1-0")
    all_replicated(at_site, at_hub)
    assert groups(at_hub, key("s")) == {}
    at_hub.xgroup_create(key("s"), "h", "0")
    pair.level()
    assert groups(at_site, key("s")).keys() == {b"g"}
    assert pair.daemon.state()["not_replicated"].keys() >= {"XGROUP", "XCLAIM", "XACK"}


def test_a_site_without_it_beside_one_with_it_keeps_its_groups(daemons, site, hub):
    """It takes the entries, by the feed too, and nothing of the groups."""
    with RedisServer() as other:
        first, second, at_hub = site.client(), other.client(), hub.redis
        running = [
            daemons.live(site, hub, *SWIFT, *GROUPS),
            daemons.live(other, hub, *SWIFT, "--replicate", "all"),
        ]
        for daemon in running:
            settled(daemon)
        filled(first, key("s"), 3)
        for client in (first, second):
            all_replicated(client, at_hub)
        second.xgroup_create(key("s"), "g", "0")
        second.xreadgroup("g", "own", {key("s"): ">"}, count=1)
        own = groups(second, key("s"))
        with first.pipeline(transaction=True) as pipeline:  # one push tells of all
            pipeline.xgroup_create(key("s"), "g", "0")
            pipeline.xadd(key("s"), FIELDS, id="9-0")
            pipeline.xreadgroup("g", "c", {key("s"): ">"})
            pipeline.xack(key("s"), "g", "1-0")
            pipeline.execute()
        found = equal_groups((first, at_hub), key("s"))[0]
        assert found == {b"g": (b"9-0", dict.fromkeys((b"2-0", b"3-0", b"9-0"), (b"c", 1)))}
        for client in (first, second):
            all_replicated(client, at_hub)
        assert [id_ for id_, _ in second.xrange(key("s"))] == [b"1-0", b"2-0", b"3-0", b"9-0"]
        assert groups(second, key("s")) == own
        first.xgroup_setid(key("s"), "g", "0")  # an event that is not for the other one
        fetched = running[1].state()["fetched"]
        equal_groups((first, at_hub), key("s"))
        all_replicated(first, at_hub)
        assert running[1].state()["fetched"] <= fetched + 2  # the markers of `all_replicated`
