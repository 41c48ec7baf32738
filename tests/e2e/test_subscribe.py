"""Which way the hub's events come to the daemon, and that it works on each."""

import pytest

from testbed import HttpProxy, Hub, RedisServer, WebSocketWebdis, eventually
from tests.e2e.support import SWIFT, all_replicated, assert_equal_soon


@pytest.fixture
def new_hub(certificates):
    """Of a Webdis that speaks WebSocket, for which a stand-in does it."""
    with WebSocketWebdis() as stand_in, Hub(certificates, nginx={"websocket_port": stand_in.port}) as hub:
        stand_in.redis = hub.server
        yield hub, stand_in


def pulls(at_site, at_hub):
    all_replicated(at_site, at_hub)
    with at_hub.pipeline(transaction=False) as pipeline:
        for number in range(1000):
            pipeline.set(b"site1:\xff\x00%d" % number, number)
        pipeline.execute()
    assert len(assert_equal_soon(at_site, at_hub)) == 1000


def test_a_hub_without_websockets_is_polled(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, "--subscribe", "auto")
    told = daemon.wait_for_log("subscribe.channel", channel="http")
    assert "asked for a WebSocket" in told["why"]
    pulls(at_site, at_hub)
    assert len(daemon.logged("subscribe.channel")) == 1


@pytest.mark.parametrize("flags", ["", "K$h"], ids=["nothing", "what redisRepl 1.2 sets"])
def test_flags_that_another_client_takes_away_are_added_again(daemons, site, hub, at_site, at_hub, flags):
    daemon = daemons.live(site, hub, *SWIFT)
    at_hub.set("site1:old", "v")
    eventually(lambda: at_site.exists("site1:old"))
    mark = daemon.mark()
    at_hub.config_set("notify-keyspace-events", flags)
    at_hub.rename("site1:old", "site1:new")  # of which nobody hears
    daemon.wait_for_log("hub.notifications_enabled", after=mark)
    eventually(lambda: at_site.get("site1:new") == b"v")
    at_hub.rename("site1:new", "site1:newer")
    eventually(lambda: at_site.get("site1:newer") == b"v")
    assert len(daemon.logged("subscribe.started")) == 1
    all_replicated(at_site, at_hub)


def test_who_adds_flags_again_tells_the_others_what_they_missed(daemons, site, hub, at_site, at_hub):
    with RedisServer() as other, other.client() as at_other:
        daemons.live(site, hub, *SWIFT)
        daemons.live(other, hub, *SWIFT, "--canary-period", "30")  # so it does not look by itself
        all_replicated(at_site, at_hub)
        all_replicated(at_other, at_hub)
        with at_hub.pipeline(transaction=True) as at_once:
            at_once.config_set("notify-keyspace-events", "")
            at_once.set("site1:unheard", "v")
            at_once.execute()
        eventually(lambda: at_site.get("site1:unheard") == at_other.get("site1:unheard") == b"v", 15)


def test_a_hub_with_websockets_is_listened_to(daemons, site, new_hub, at_site):
    hub, stand_in = new_hub
    daemon = daemons.live(site, hub, "--subscribe", "auto", *SWIFT)
    daemon.wait_for_log("subscribe.channel", channel="websocket")
    eventually(lambda: stand_in.open == 1)
    pulls(at_site, hub.redis)

    after = daemon.mark()
    stand_in.cut()
    daemon.wait_for_log("subscribe.started", after=after)
    hub.redis.set("site1:later", 1)
    eventually(lambda: at_site.get("site1:later") == b"1")

    after = daemon.mark()
    hub.server.restart()
    daemon.wait_for_log("subscribe.started", after=after)
    hub.redis.set("site1:last", 1)
    eventually(lambda: at_site.get("site1:last") == b"1")
    assert daemon.stop() == 0
    eventually(lambda: stand_in.open == 0)


def test_a_websocket_goes_through_the_proxy(daemons, site, new_hub, at_site):
    hub, stand_in = new_hub
    with HttpProxy() as proxy:
        daemon = daemons.live(site, hub, "--subscribe", "websocket", env={"HTTPS_PROXY": proxy.url})
        assert stand_in.open == 1
        pulls(at_site, hub.redis)
        assert daemon.stop() == 0
        assert set(proxy.connects) == {f"localhost:{hub.port}"}
        assert len(proxy.connects) >= 2  # requests, and the WebSocket


def test_a_websocket_that_was_asked_for_is_not_given_up(daemons, site, hub):
    daemon = daemons.start(site, hub, "--subscribe", "websocket", *SWIFT)
    told = daemon.wait_for_log("subscribe.failed")
    assert "asked for a WebSocket" in told["error"]
    assert daemon.logged("subscribe.started") == []
    assert daemon.stop() == 0


def test_each_namespace_has_a_connection_for_its_long_poll(daemons, site, hub, at_site, at_hub):
    """More of them than there may be requests at a time otherwise: `--flights`, and 20."""
    prefixes = [f"ns{number}:" for number in range(60)]
    daemons.live(site, hub, "--flights", "1", ns=prefixes)

    at_site.set("ns59:up", "v")
    at_hub.set("ns0:down", "v")
    eventually(lambda: at_hub.get("ns59:up") == b"v", 20)
    eventually(lambda: at_site.get("ns0:down") == b"v", 20)


def test_three_hundred_namespaces_with_one_push_at_a_time(daemons, site, hub, at_site, at_hub):
    """A long poll each, for as long as the daemon runs: they must leave connections for everything else."""
    names = [f"n{number}:" for number in range(300)]
    daemon = daemons.live(site, hub, "--flights", "1", ns=names)
    eventually(lambda: all(line["live"] for line in daemon.state()["subscriptions"]), 30, "all are live")
    for client in (at_site, at_hub):
        client.mset({f"{name}{client is at_hub}": "v" for name in names})
    eventually(lambda: at_hub.keys("n*:False") and len(at_hub.keys("n*:False")) == len(at_site.keys("n*:True")) == 300)
