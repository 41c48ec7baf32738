"""What is to live for an hour lives for an hour on both sides, whatever the clocks show, and nobody removes it."""

import time

import pytest

from testbed import Hub, RedisServer, eventually
from testbed.clock import OtherClock
from testbed.programs import hub_redis, site_redis
from tests.e2e.pairs import Pair
from tests.e2e.support import PREFIX, SWIFT, all_replicated

HOUR = 3600
WITH_EXPIRIES = ("--replicate", "set,hset,del,expire")
KINDS = [WITH_EXPIRIES, ("--replicate", "set,hset,del")]
EARLY = 120  # seconds that a test may have taken


def compared(daemon):
    """Both sides were compared once more."""
    sweeps = len(daemon.logged("sweep.finished"))
    eventually(lambda: len(daemon.logged("sweep.finished")) >= sweeps + 2, 30, "two more sweeps")


def lives(client, *keys, hours=1):
    """These keys have so many hours left."""
    return all(hours * HOUR - EARLY < client.ttl(key) <= hours * HOUR for key in keys)


def live_for_an_hour(at_site, at_hub, kinds):
    """Keys of either side that are to live for an hour: those that both sides know to expire."""
    at_site.set("site1:from the site", "v", ex=HOUR)
    at_hub.set("site1:from the hub", "v", ex=HOUR)
    at_site.set("site1:stays", "v", ex=5 * HOUR)
    keys = ["site1:from the site", "site1:from the hub"]
    if kinds == WITH_EXPIRIES:
        for client, key in ((at_site, "site1:hash of the site"), (at_hub, "site1:hash of the hub")):
            client.hset(key, "f", "v")
            client.expire(key, HOUR)
            keys.append(key)
    return keys


@pytest.mark.parametrize("kinds", KINDS, ids=["expire", "no expire"])
def test_a_hub_two_hours_ahead(daemons, certificates, site, at_site, kinds):
    with OtherClock(2 * HOUR) as clock, Hub(certificates, redis={"program": clock.program(hub_redis())}) as hub:
        daemon = daemons.live(site, hub, *SWIFT, *kinds, "--sweep-period", "1")
        daemon.wait_for_log("hub.clock_differs")
        keys = live_for_an_hour(at_site, hub.redis, kinds)
        eventually(lambda: lives(hub.redis, *keys) and lives(at_site, *keys), 20, "they live for an hour on both sides")
        compared(daemon)
        assert lives(hub.redis, *keys)
        assert lives(at_site, *keys)
        clock.set(0)  # which gives all keys of the hub two hours more
        if kinds == WITH_EXPIRIES:
            eventually(lambda: lives(hub.redis, *keys), 20, "they have an hour left again")
        compared(daemon)
        daemon.restart()
        daemon.wait_for_log("sweep.finished", after=daemon.mark())
        all_replicated(at_site, hub.redis)
        assert lives(at_site, *keys)
        if kinds == WITH_EXPIRIES:
            assert lives(hub.redis, *keys)
        hub.redis.delete("site1:stays")  # that is a removal all the same
        eventually(lambda: not at_site.exists("site1:stays"))


@pytest.mark.parametrize("kinds", KINDS, ids=["expire", "no expire"])
def test_a_site_two_hours_ahead(daemons, hub, at_hub, kinds):
    with OtherClock(2 * HOUR) as clock, RedisServer(program=clock.program(site_redis())) as site:
        at_site = site.client()
        daemon = daemons.live(site, hub, *SWIFT, *kinds, "--sweep-period", "1")
        keys = live_for_an_hour(at_site, at_hub, kinds)
        eventually(lambda: lives(at_hub, *keys) and lives(at_site, *keys), 20, "they live for an hour on both sides")
        compared(daemon)
        assert lives(at_hub, *keys)
        clock.set(0)
        if kinds == WITH_EXPIRIES:
            eventually(lambda: lives(at_site, *keys), 20, "they have an hour left again")
        compared(daemon)
        daemon.restart()
        daemon.wait_for_log("sweep.finished", after=daemon.mark())
        all_replicated(at_site, at_hub)
        assert lives(at_hub, *keys)
        at_site.delete("site1:stays")
        eventually(lambda: not at_hub.exists("site1:stays"))


def test_a_hub_two_hours_behind_whose_clock_is_set_takes_nothing_from_the_site(daemons, certificates, site, at_site):
    """Its own copies expire then; a clock removes nothing anywhere else."""
    with OtherClock(-2 * HOUR) as clock, Hub(certificates, redis={"program": clock.program(hub_redis())}) as hub:
        daemon = daemons.live(site, hub, *SWIFT, *WITH_EXPIRIES, "--sweep-period", "1")
        keys = live_for_an_hour(at_site, hub.redis, WITH_EXPIRIES)
        eventually(lambda: lives(hub.redis, *keys) and lives(at_site, *keys), 20, "they live for an hour on both sides")
        clock.set(0)
        eventually(lambda: not hub.redis.exists(*keys) and lives(hub.redis, "site1:stays", hours=5), 20, "it went on")
        compared(daemon)
        assert lives(at_site, *keys)
        at_site.set(keys[0], "newer", ex=HOUR)
        eventually(lambda: hub.redis.get(keys[0]) == b"newer" and lives(hub.redis, keys[0]), 20)


def test_the_clock_of_a_site_on_another_machine_is_set_back(daemons, hub, at_hub):
    """That is seen before the next regular comparison: until then what is written expires on its way to the hub."""
    with OtherClock() as clock, RedisServer(program=clock.program(site_redis())) as site:
        daemon = daemons.live(site, hub, *SWIFT, *WITH_EXPIRIES)
        at_site = site.client()
        all_replicated(at_site, at_hub)
        clock.set(-2 * HOUR)
        daemon.wait_for_log("site.clock_differs")
        at_site.set("site1:short", "v", ex=HOUR)
        eventually(lambda: lives(at_hub, "site1:short") and lives(at_site, "site1:short"), 10, "it lives for an hour")


@pytest.mark.parametrize("source", ["psync", "notify"])
def test_what_is_written_anew_has_nothing_of_what_a_hub_that_is_a_second_behind_still_holds(
    daemons, certificates, site, at_site, source
):
    """The former key has expired at the site and will at the hub; the new one has neither its fields nor its expiry."""
    with OtherClock(-1) as clock, Hub(certificates, redis={"program": clock.program(hub_redis())}) as hub:
        pair = Pair(daemons, site, hub, "--replicate", "all", source=source)
        keys = [PREFIX + b"%d" % number for number in range(60)]
        for key in keys:
            at_site.hset(key, mapping={"former": "v", "f": "former"})
            at_site.pexpire(key, 1500)
        eventually(lambda: hub.redis.dbsize() >= len(keys), description="the hub has them")
        for key in keys:
            eventually(lambda: not at_site.exists(key), 5, "it has expired")  # noqa: B023
            time.sleep(0.01)
            at_site.hset(key, "f", "anew")
        time.sleep(2.5)
        pair.expect({key: {b"f": b"anew"} for key in keys})
