"""What a server evicted, or let expire, was not removed by anybody."""

import contextlib
import time

import pytest

from testbed import Hub, eventually
from tests.e2e.pairs import REMOVALS, Pair, emptied, held, overrun, some
from tests.e2e.support import ALL_KINDS, Monitor

LARGE = "v" * 1000
MEDIUM = "v" * 600


def evict(client, least):
    """Have a server evict at least so many keys, and then no more."""
    before = client.info("stats")["evicted_keys"]
    client.config_set("maxmemory-policy", "allkeys-random")
    client.config_set("maxmemory", client.info("memory")["used_memory"] - least * 1200)
    eventually(lambda: client.info("stats")["evicted_keys"] >= before + least, description="keys were evicted")
    client.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("side", "state", "source"),
    [
        ("site", "running", "psync"),
        ("site", "running", "notify"),
        ("site", "stopped", "psync"),
        ("hub", "running", "psync"),
        ("hub", "stopped", "psync"),
    ],
)
def test_what_one_side_evicts_the_other_keeps(daemons, site, hub, side, state, source):
    """Also if the counters begin anew in between."""
    pair = Pair(daemons, site, hub, *REMOVALS, "--sweep-period", "1", source=source)
    everything = some("key", 300, LARGE)
    pair.fill(everything)
    if side == "site":
        here, there, other = pair.at_site, pair.at_hub, hub.server
    else:
        here, there, other = pair.at_hub, pair.at_site, site
    with Monitor(other) as watch:
        for least in (60, 20):
            if state == "stopped":
                pair.end("stop")
            evict(here, least)
            if state == "stopped":
                pair.start_again()
            mark = pair.daemon.mark()
            pair.daemon.wait_for_log("sweep.finished", 30, after=mark)
            pair.level()
            here.config_resetstat()
        for client, least in ((there, len(everything)), (here, 0)):
            found = held(client)
            assert len(found) >= least
            assert found.items() <= everything.items()
        assert emptied(watch) == {}


def test_what_the_hub_evicted_before_it_restarted_the_site_keeps(daemons, certificates, site):
    """Its counters begin anew, while the daemon is away too: that it may evict is all that is known."""
    with Hub(certificates, redis={"persistent": True}) as hub:
        pair = Pair(daemons, site, hub, *REMOVALS)
        everything = some("key", 300, LARGE)
        pair.fill(everything)
        pair.end("stop")
        evict(pair.at_hub, 60)
        hub.restart()
        with hub.server.client() as client:
            client.config_set("maxmemory-policy", "allkeys-random")
            client.config_set("maxmemory", "1gb")
        with Monitor(site) as watch:
            mark = pair.daemon.mark()
            pair.start_again()
            pair.daemon.wait_for_log("sweep.finished", 30, after=mark)
            pair.level()
            assert emptied(watch) == {}
        assert held(pair.at_site) == everything


@pytest.mark.parametrize("source", ["psync", "notify"])
def test_what_is_left_of_an_evicted_collection_that_was_filled_anew_is_not_all_of_it(daemons, site, hub, source):
    """Nobody has removed the elements that it had; the daemon that could have seen that was away."""
    pair = Pair(daemons, site, hub, "--replicate", "set,hset,del,sets,zsets", "--sweep-period", "1", source=source)
    pair.fill({b"site1:h:%d" % number: {b"f": MEDIUM.encode(), b"g": b"v"} for number in range(100)})
    for number in range(100):
        pair.at_site.sadd(f"site1:s:{number}", MEDIUM, "member")
        pair.at_site.zadd(f"site1:z:{number}", {MEDIUM: 1, "member": 2})
    pair.level()
    pair.end("stop")
    evict(pair.at_site, 80)
    for number in range(100):
        pair.at_site.hset(f"site1:h:{number}", "new", "v")
        pair.at_site.sadd(f"site1:s:{number}", "new")
        pair.at_site.zadd(f"site1:z:{number}", {"new": 3})
    pair.start_again()
    mark = pair.daemon.mark()
    pair.daemon.wait_for_log("sweep.finished", 30, after=mark)
    pair.level()
    at_hub = pair.at_hub
    for number in range(100):
        sizes = at_hub.hlen(f"site1:h:{number}"), at_hub.scard(f"site1:s:{number}"), at_hub.zcard(f"site1:z:{number}")
        assert sizes == (3, 3, 3)


@pytest.mark.parametrize(
    ("source", "kinds", "backlog"),
    [("psync", ALL_KINDS, "whole"), ("psync", ALL_KINDS, "overrun"), ("notify", (), "whole")],
    ids=["psync", "psync, backlog overrun", "notify"],
)
def test_what_expired_as_agreed_does_not_come_back(daemons, site, hub, at_site, at_hub, source, kinds, backlog):
    """Nor is what was written in its place meanwhile taken for it: the stream that goes on tells of its end."""
    pair = Pair(daemons, site, hub, *kinds, source=source)
    pair.fill(some("lasts", 30, "v"))
    until = int(time.time() * 1000) + 5000
    for key, value in some("ends", 30, "v").items():
        at_site.set(key, value, pxat=until)
    ends = list(some("ends", 30, ""))
    eventually(lambda: {at_hub.pexpiretime(key) for key in ends} == {until}, 4.5, "both sides agree on the expiry")
    pair.level()
    pair.end("kill")
    with overrun(at_site) if backlog == "overrun" else contextlib.nullcontext():
        eventually(lambda: not at_site.exists(*ends) and not at_hub.exists(*ends), 15, "it has passed")
        at_site.set("site1:ends:0", "written at the site")
        at_hub.set("site1:ends:1", "written at the hub")
    with Monitor(site) as of_site, Monitor(hub.server) as of_hub:
        pair.start_again()
        since = {b"site1:ends:0": b"written at the site", b"site1:ends:1": b"written at the hub"}
        pair.expect(some("lasts", 30, "v"), since)
        for watch in (of_site, of_hub):
            assert not watch.writes().keys() & set(ends[2:]) - emptied(watch).keys()
