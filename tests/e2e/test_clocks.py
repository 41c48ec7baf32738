"""A server whose clock is wrong lets its own copies expire at the wrong time, and takes nothing from anybody else."""

import pytest

from testbed import Hub, RedisServer, eventually
from testbed.clock import OtherClock
from testbed.programs import hub_redis, site_redis
from tests.e2e.support import SWIFT, all_replicated

HOUR = 3600
KINDS = [("--replicate", "set,hset,del,expire"), ("--replicate", "set,hset,del")]


def compared(daemon):
    """Both sides were compared once more."""
    sweeps = len(daemon.logged("sweep.finished"))
    eventually(lambda: len(daemon.logged("sweep.finished")) >= sweeps + 2, 30, "two more sweeps")


@pytest.mark.parametrize("kinds", KINDS)
def test_a_hub_two_hours_ahead(daemons, certificates, site, at_site, kinds):
    """What has an hour to live lives an hour at the site, also once the hub's clock was set right."""
    with OtherClock(2 * HOUR) as clock, Hub(certificates, redis={"program": clock.program(hub_redis())}) as hub:
        daemon = daemons.live(site, hub, *SWIFT, *kinds, "--sweep-period", "1")
        daemon.wait_for_log("hub.clock_differs")
        at_site.set("site1:string", "v", ex=HOUR)
        at_site.set("site1:stays", "v", ex=5 * HOUR)
        if "expire" in kinds[1]:
            at_site.hset("site1:hash", "f", "v")
            at_site.expire("site1:hash", HOUR)
        all_replicated(at_site, hub.redis)
        expiring = at_site.exists("site1:string", "site1:hash")
        eventually(lambda: not hub.redis.exists("site1:string") and hub.redis.get("site1:stays") == b"v")
        compared(daemon)
        assert at_site.exists("site1:string", "site1:hash") == expiring
        clock.set(0)
        compared(daemon)
        assert at_site.exists("site1:string", "site1:hash") == expiring
        daemon.restart()
        daemon.wait_for_log("sweep.finished", after=daemon.mark())
        all_replicated(at_site, hub.redis)
        assert at_site.exists("site1:string", "site1:hash") == expiring
        assert abs(at_site.ttl("site1:string") - HOUR) < 120
        hub.redis.delete("site1:stays")  # that is a removal all the same
        eventually(lambda: not at_site.exists("site1:stays"))


@pytest.mark.parametrize("kinds", KINDS)
def test_a_site_two_hours_ahead(daemons, hub, at_hub, kinds):
    """It takes nothing from the hub, and so from no other site, that has an hour to live there."""
    with OtherClock(2 * HOUR) as clock, RedisServer(program=clock.program(site_redis())) as site:
        at_site = site.client()
        daemon = daemons.live(site, hub, *SWIFT, *kinds, "--sweep-period", "1")
        at_hub.set("site1:string", "v", ex=HOUR)
        at_hub.set("site1:stays", "v", ex=5 * HOUR)
        at_hub.hset("site1:hash", "f", "v")
        at_hub.expire("site1:hash", HOUR)
        all_replicated(at_site, at_hub)
        eventually(lambda: at_site.exists("site1:stays") and not at_site.exists("site1:string"))
        all_replicated(at_site, at_hub)
        compared(daemon)
        assert at_hub.exists("site1:string", "site1:hash") == 2
        clock.set(0)
        compared(daemon)
        daemon.restart()
        daemon.wait_for_log("sweep.finished", after=daemon.mark())
        all_replicated(at_site, at_hub)
        assert at_hub.exists("site1:string", "site1:hash") == 2
        at_site.delete("site1:stays")
        eventually(lambda: not at_hub.exists("site1:stays"))
