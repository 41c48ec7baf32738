"""Sites that may go out through a proxy only."""

import pytest

from testbed import HttpProxy
from tests.e2e.support import all_replicated, assert_equal_soon, wait_until_live

SECRET = "proxy-geheim"


def write_both_ways(at_site, at_hub):
    all_replicated(at_site, at_hub)
    at_site.mset({f"site1:up:{number}": number for number in range(100)})
    for number in range(100):
        at_hub.hset(f"site1:down:{number}", "field", number)
    assert len(assert_equal_soon(at_site, at_hub)) == 200


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
def test_everything_goes_through_the_proxy(daemons, site, hub, at_site, at_hub, variable):
    with HttpProxy() as proxy:
        daemon = daemons.live(site, hub, env={variable: proxy.url})
        write_both_ways(at_site, at_hub)
        assert daemon.stop() == 0
        assert set(proxy.connects) == {f"localhost:{hub.port}"}


@pytest.mark.parametrize("no_proxy", ["localhost", "*"])
def test_no_proxy_leads_past_it(daemons, site, hub, at_site, at_hub, no_proxy):
    with HttpProxy() as proxy:
        daemons.live(site, hub, env={"HTTPS_PROXY": proxy.url, "NO_PROXY": no_proxy})
        write_both_ways(at_site, at_hub)
        assert proxy.connects == []


def test_a_proxy_with_a_password(daemons, site, hub, at_site, at_hub):
    with HttpProxy(user="site", password=SECRET) as proxy:
        daemon = daemons.live(site, hub, "--log-level", "debug", env={"HTTPS_PROXY": proxy.url})
        write_both_ways(at_site, at_hub)
        assert daemon.stop() == 0
        assert proxy.connects
        assert SECRET not in daemon.stderr


def test_a_proxy_that_refuses_us_is_told(daemons, site, hub):
    with HttpProxy(user="site", password="another") as proxy:
        url = proxy.url.replace("another", SECRET)
        daemon = daemons.start(site, hub, "--log-level", "debug", env={"HTTPS_PROXY": url})
        told = daemon.wait_for_log("push.failed")
        assert "proxy" in told["error"].lower()
        assert daemon.stop() == 0
        assert SECRET not in daemon.stderr


def test_a_proxy_that_is_away_is_waited_for(daemons, site, hub, at_site, at_hub):
    with HttpProxy() as proxy:
        proxy.stop()
        daemon = daemons.start(site, hub, "--retry-max", "0.2", env={"HTTPS_PROXY": proxy.url})
        daemon.wait_for_log("push.failed")
        proxy.start()
        wait_until_live(daemon, pull=True)
        write_both_ways(at_site, at_hub)
