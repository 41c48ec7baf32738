"""Large collections: what one element costs that a foreign client writes at the hub, and that it arrives."""

from __future__ import annotations

import pytest

from testbed import FaultProxy, eventually
from tests.e2e.support import SWIFT, settled
from tests.e2e.test_types import held
from tests.hostile.peers import peak

FIELDS = 20_000
KEY = "site1:large"
OTHERS = 3000
MANY = 400_000
#: Bytes of the daemon's memory: it takes 60 MB without any collection, and took 240 for one of so many members.
MOST = 180 << 20


@pytest.fixture
def proxy(hub):
    with FaultProxy(hub.port) as proxy:
        yield proxy


def same(site, hub):
    eventually(lambda: held(site) == held(hub), 30, "site and hub hold the same")


def test_one_element_of_a_large_collection_costs_a_thirtieth_of_it_at_most(daemons, site, at_site, at_hub, proxy):
    at_hub.hset(KEY, mapping={f"field:{number:06}": f"{number:020}" for number in range(FIELDS)})
    at_hub.sadd("site1:set", *range(OTHERS))
    at_hub.zadd("site1:zset", {f"member {number}": number / 3 for number in range(OTHERS)})
    at_hub.eval("for i = 1, 3000 do redis.call('XADD', KEYS[1], i, 'n', i) end", 1, "site1:stream")
    settled(daemon := daemons.live(site, proxy.port, *SWIFT, "--replicate", "all", "--canary-period", "60"))
    same(at_site, at_hub)
    at_hub.hset(KEY, "field:000000", "which the daemon compares as a whole")
    same(at_site, at_hub)
    costs = []
    for number in range(1, 4):
        field = f"field:{number * 5000:06}"
        before = proxy.counters()
        at_hub.hset(KEY, field, "of a foreign client")
        eventually(lambda field=field: at_site.hget(KEY, field) == b"of a foreign client")
        after = proxy.counters()
        costs.append(after.bytes_to_client + after.bytes_to_target - before.bytes_to_client - before.bytes_to_target)
    assert max(costs) < 30_000, costs  # 900 KB as a whole

    for _ in range(2):  # first each is compared as a whole, then what differs
        at_hub.hset(KEY, "field:000002", "again" + at_hub.hget(KEY, "field:000002").decode())
        at_hub.hdel(KEY, at_hub.hrandfield(KEY))
        at_hub.sadd("site1:set", f"added {at_hub.scard('site1:set')}")
        at_hub.srem("site1:set", at_hub.srandmember("site1:set"))
        at_hub.zincrby("site1:zset", 0.1, "member 7")
        at_hub.zpopmin("site1:zset")
        at_hub.xadd("site1:stream", {"n": "added"})
        at_hub.xtrim("site1:stream", maxlen=2990, approximate=False)
        at_hub.expire("site1:set", 100_000 + at_hub.scard("site1:set"))
        same(at_site, at_hub)

    for denied, allowed in (["-hscan"], ["+hscan"]), (["-eval", "-evalsha"], ["+eval", "+evalsha"]):
        at_hub.execute_command("ACL", "SETUSER", "default", *denied)
        at_hub.hset(KEY, "field:000003", denied[0])
        at_hub.hdel(KEY, at_hub.hrandfield(KEY))
        eventually(lambda: at_site.hgetall(KEY) == at_hub.hgetall(KEY))
        at_hub.execute_command("ACL", "SETUSER", "default", *allowed)
    assert len(daemon.logged("fetch.elements_refused")) == 1


def test_one_entry_of_a_large_stream_costs_a_twentieth_of_it_at_most(daemons, site, at_site, at_hub, proxy):
    at_hub.eval("for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], i, 'n', i) end", 1, KEY, FIELDS)
    settled(daemons.live(site, proxy.port, *SWIFT, "--replicate", "all", "--canary-period", "60"))
    same(at_site, at_hub)
    at_hub.xadd(KEY, {"n": "which the daemon compares as a whole"})
    same(at_site, at_hub)
    for _ in range(3):
        before = proxy.counters()
        at_hub.xadd(KEY, {"n": "of a foreign client"}, maxlen=FIELDS, approximate=False)
        eventually(lambda: at_site.xinfo_stream(KEY)["last-entry"] == at_hub.xinfo_stream(KEY)["last-entry"])
        after = proxy.counters()
        cost = after.bytes_to_client + after.bytes_to_target - before.bytes_to_client - before.bytes_to_target
        # Most of that is a look at the hub before the trimmed entry is removed at the site, twice if the events of both
        # come one by one.
        assert cost < 30_000
        same(at_site, at_hub)


@pytest.mark.parametrize("owner", ["site", "hub"])
@pytest.mark.parametrize(
    ("add", "count"),
    [("SADD', KEYS[1], 'member:' .. i", MANY), ("XADD', KEYS[1], i, 'n', i", MANY // 2)],
    ids=["set", "stream"],
)
def test_a_very_large_collection_arrives_at_first_contact_without_being_held_whole(
    daemons, site, hub, at_site, at_hub, owner, add, count
):
    begin = f"for i = 1, tonumber(ARGV[1]) do redis.call('{add}) end"
    (at_site if owner == "site" else at_hub).eval(begin, 1, KEY, count)
    daemon = daemons.start(site, hub, "--replicate", "all")  # it is attached once all of the site was read
    size = at_site.scard if add.startswith("SADD") else at_site.xlen
    there = at_hub.scard if add.startswith("SADD") else at_hub.xlen
    eventually(lambda: size(KEY) == there(KEY) == count, 120, "all elements are on both sides")
    eventually(lambda: daemon.state()["sweep"]["settled"], 120, "both sides were compared")
    assert peak(daemon) < MOST
