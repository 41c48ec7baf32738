"""What breaks and comes back: nothing written meanwhile is lost, and the log tells it once."""

import contextlib
import threading

import pytest

from testbed import FaultProxy, Hub, RedisServer, eventually
from tests.e2e.support import SWIFT, all_replicated, assert_equal_soon, content, pushed, wait_until_live

PERSISTENT = {"redis": {"persistent": True}}


@pytest.fixture
def lasting_hub(certificates):
    """A hub whose Redis keeps its data over a restart."""
    with Hub(certificates, **PERSISTENT) as hub:
        yield hub


def write(client, side, count=200):
    """Strings, hashes and computed values, under keys of this side."""
    with client.pipeline(transaction=False) as pipeline:
        for number in range(count):
            pipeline.set(f"site1:{side}:{number}", number)
            pipeline.hset(f"site1:{side}:hash", f"{number}", number)
            pipeline.incr(f"site1:{side}:counter")
        pipeline.execute()
    return count + 2


def part_of(hub, name):
    return {"nginx": hub.nginx, "Webdis": hub.webdis, "Redis": hub.server}[name]


# The hub is away.


@pytest.mark.parametrize(("part", "way"), [("nginx", "stop"), ("Webdis", "kill"), ("Redis", "stop"), ("Redis", "kill")])
def test_a_part_of_the_hub_goes_and_comes_back(daemons, site, lasting_hub, at_site, part, way):
    hub = lasting_hub
    daemon = daemons.live(site, hub, *SWIFT)
    keys = write(at_site, "before")
    assert_equal_soon(at_site, hub.redis)
    mark = daemon.mark()
    getattr(part_of(hub, part), way)()
    keys += write(at_site, "meanwhile")
    daemon.wait_for_log("push.failed", after=mark)
    at_site.hset("site1:before:hash", "0", "newer")
    if part != "Redis":  # then others can still write there
        keys += write(hub.redis, "by others")
    part_of(hub, part).start()
    assert len(assert_equal_soon(at_site, hub.redis)) == keys
    all_replicated(at_site, hub.redis)
    told = [r["event"] for r in daemon.records[mark:] if r["event"] in {"push.failed", "push.recovered"}]
    assert told == ["push.failed", "push.recovered"]
    assert daemon.running


def test_health_is_told_once_for_each_outage(daemons, site, hub, at_site, at_hub):
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, rc=False)
        for number in range(2):
            mark = daemon.mark()
            wire.down()
            at_site.set("site1:key", f"{number} first")
            failed = daemon.wait_for_log("push.failed", after=mark)
            assert failed["failures"] == 1
            assert failed["level"] == "warning"
            assert hub.url_at(wire.port) in failed["error"]
            at_site.set("site1:key", f"{number} second")
            refused = wire.counters().accepted
            wire.listen()
            recovered = daemon.wait_for_log("push.recovered", after=mark)
            assert recovered["failures"] >= 1
            pushed(at_site)
            assert wire.counters().accepted > refused
            assert at_hub.get("site1:key") == b"%d second" % number
        assert len(daemon.logged("push.failed")) == len(daemon.logged("push.recovered")) == 2


def test_the_hub_restarts_while_both_sides_write(daemons, site, lasting_hub, at_site):
    hub = lasting_hub
    daemon = daemons.live(site, hub, *SWIFT)
    over = threading.Event()

    def keep_writing(server, side):
        number = 0
        with server.client() as client:
            while not over.is_set():
                with contextlib.suppress(Exception):  # the hub's Redis is away at times
                    client.set(f"site1:{side}:{number % 50}", number)
                number += 1
                over.wait(0.002)

    threads = [threading.Thread(target=keep_writing, args=pair) for pair in ((site, "site"), (hub.server, "hub"))]
    for thread in threads:
        thread.start()
    try:
        for part in ("nginx", "Webdis", "Redis"):
            mark = daemon.mark()
            part_of(hub, part).restart()
            wait_until_subscribed(daemon, mark)
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
    assert len(assert_equal_soon(at_site, hub.redis)) == 100
    all_replicated(at_site, hub.redis)
    assert_equal_soon(at_site, hub.redis)


def wait_until_subscribed(daemon, mark):
    daemon.wait_for_log("subscribe.started", after=mark, timeout=20)


# The network fails in the middle of something.


@pytest.mark.parametrize("where", ["before nginx", "before the hub's Redis"])
def test_connections_cut_while_writes_cross(certificates, daemons, site, at_site, where):
    with contextlib.ExitStack() as stack:
        if where == "before nginx":
            hub = stack.enter_context(Hub(certificates))
            wire = stack.enter_context(FaultProxy(hub.port))
            port = wire.port
        else:
            server = stack.enter_context(RedisServer())
            wire = stack.enter_context(FaultProxy(server.port))
            hub = Hub(certificates, webdis={"redis_port": wire.port})
            hub.server.close()
            hub.server = hub.webdis.redis = server
            hub._inside_out = (hub.webdis, hub.nginx)
            stack.enter_context(hub)
            port = hub.port
        daemons.live(site, port, *SWIFT)
        at_hub = hub.server.client()
        for number in range(12):
            write(at_site, f"site {number}", 50)
            wire.cut()
            write(at_hub, f"hub {number}", 50)
            wire.truncate(200 + 97 * number, "to_client" if number % 2 else "to_target")
        wire.heal()
        assert len(assert_equal_soon(at_site, at_hub, timeout=30)) == 2 * 12 * 52
        all_replicated(at_site, at_hub)
        assert_equal_soon(at_site, at_hub)
        for number in range(12):
            assert at_hub.get(f"site1:site {number}:counter") == b"50"
            assert at_site.get(f"site1:hub {number}:counter") == b"50"


@pytest.mark.parametrize("way", ["both", "to_client", "to_target"])
def test_a_stall_longer_than_the_timeout(daemons, site, hub, at_site, at_hub, way):
    """Requests are given up, their outcome unknown; what they carried is sent again, and does no harm."""
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, "--timeout", "0.5")
        at_site.set("site1:key", "first")
        all_replicated(at_site, at_hub)
        mark = daemon.mark()
        wire.stall(way)
        at_site.set("site1:key", "second")
        write(at_site, "site")
        daemon.wait_for_log("push.failed", after=mark)
        at_site.set("site1:key", "third")
        write(at_hub, "hub")
        daemon.wait_for_log("subscribe.failed", after=mark)
        wire.heal()
        daemon.wait_for_log("push.recovered", after=mark)
        assert len(assert_equal_soon(at_site, at_hub)) == 1 + 2 * 202
        all_replicated(at_site, at_hub)
        assert at_site.get("site1:key") == at_hub.get("site1:key") == b"third"


def test_a_frozen_hub(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *SWIFT, "--timeout", "0.5")
    for server in (hub.webdis, hub.server):
        mark = daemon.mark()
        server.pause()
        try:
            write(at_site, f"{server.name}")
            daemon.wait_for_log("push.failed", after=mark)
            daemon.wait_for_log("subscribe.failed", after=mark)
        finally:
            server.resume()
        write(at_hub, f"{server.name} hub")
        daemon.wait_for_log("push.recovered", after=mark)
        daemon.wait_for_log("subscribe.recovered", after=mark)
    assert len(assert_equal_soon(at_site, at_hub)) == 4 * 202
    all_replicated(at_site, at_hub)


def test_a_slow_link(daemons, site, hub, at_site, at_hub):
    with FaultProxy(hub.port) as wire:
        wire.delay(0.025)
        daemons.live(site, wire.port)
        for number in range(500):
            at_site.set(f"site1:site:{number % 100}", number)
            at_hub.set(f"site1:hub:{number % 100}", number)
        assert len(assert_equal_soon(at_site, at_hub)) == 200
        all_replicated(at_site, at_hub)


def test_more_than_a_slow_link_brings_in_time(daemons, site, hub, at_site, at_hub):
    with FaultProxy(hub.port) as wire:
        at_hub.mset({f"site1:{number}": b"%d" % number + bytes(7000) for number in range(160)})
        wire.trickle(12_500, 0.04, "to_client")  # 312 kB/s
        daemons.live(site, wire.port, "--timeout", "1", "--retry-max", "0.2")
        assert len(assert_equal_soon(at_site, at_hub, timeout=40)) == 160


# The subscription dies.


def test_a_killed_subscription_is_made_again(daemons, site, hub, at_site, at_hub):
    """Webdis says nothing when its link is killed: only the missing canary tells."""
    daemon = daemons.live(site, hub, *SWIFT)
    all_replicated(at_site, at_hub)
    mark = daemon.mark()
    assert at_hub.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1
    keys = write(at_hub, "gap")
    at_hub.set("site1:late", "v")
    wait_until_subscribed(daemon, mark)
    assert len(assert_equal_soon(at_site, at_hub)) == keys + 1
    all_replicated(at_site, at_hub)
    daemon.wait_for_log("subscribe.failed", after=mark)
    daemon.wait_for_log("subscribe.recovered", after=mark)


def test_the_hubs_redis_restarts_behind_a_living_webdis(daemons, site, lasting_hub, at_site):
    """Its notification flags are gone then, too."""
    hub = lasting_hub
    daemon = daemons.live(site, hub, *SWIFT)
    all_replicated(at_site, hub.redis)
    mark = daemon.mark()
    hub.server.restart()
    keys = write(hub.redis, "gap")
    wait_until_subscribed(daemon, mark)
    assert daemon.wait_for_log("hub.notifications_enabled", after=mark)["before"] == ""
    assert len(assert_equal_soon(at_site, hub.redis)) == keys
    all_replicated(at_site, hub.redis)
    keys += write(hub.redis, "after")
    assert len(assert_equal_soon(at_site, hub.redis)) == keys


def test_nginx_ends_an_idle_stream(certificates, daemons, site, at_site):
    """Canaries keep it open; where they come too seldom, the end of the stream costs nothing either."""
    with Hub(certificates, nginx={"proxy_read_timeout": "1s"}) as hub:
        daemon = daemons.live(site, hub, *SWIFT, "--canary-period", "30")
        mark = daemon.mark()
        wait_until_subscribed(daemon, mark)
        keys = write(hub.redis, "hub")
        wait_until_subscribed(daemon, daemon.mark())
        assert len(assert_equal_soon(at_site, hub.redis)) == keys
        all_replicated(at_site, hub.redis)


def test_nginx_reloads(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub, *SWIFT)
    for number in range(3):
        write(at_site, f"site {number}")
        hub.nginx.reload()
        write(at_hub, f"hub {number}")
    assert len(assert_equal_soon(at_site, at_hub)) == 6 * 202
    all_replicated(at_site, at_hub)


# The site is away.


def test_the_sites_redis_restarts_with_its_data(daemons, hub, at_hub):
    with RedisServer(persistent=True) as site:
        at_site = site.client()
        daemon = daemons.live(site, hub, *SWIFT)
        keys = write(at_site, "before")
        all_replicated(at_site, at_hub)
        mark = daemon.mark()
        site.stop()
        keys += write(at_hub, "gap")
        daemon.wait_for_log("stream.failed", after=mark)
        site.start()
        daemon.wait_for_log("stream.attached", after=mark)
        keys += write(at_site, "after")
        assert len(assert_equal_soon(at_site, at_hub)) == keys
        all_replicated(at_site, at_hub)
        told = [r["event"] for r in daemon.records[mark:] if r["event"] in {"stream.failed", "stream.recovered"}]
        assert told[0] == "stream.failed"
        assert told[1:].count("stream.recovered") == 1
        assert told[-1] == "stream.recovered"


def test_the_sites_redis_comes_back_empty(daemons, site, hub, at_site, at_hub):
    """Then the hub has what it held, and with -rc gives it back."""
    daemon = daemons.live(site, hub, *SWIFT)
    keys = write(at_site, "before")
    all_replicated(at_site, at_hub)
    mark = daemon.mark()
    site.kill()
    site.start()
    daemon.wait_for_log("stream.attached", after=mark)
    assert len(assert_equal_soon(at_site, at_hub)) == keys
    all_replicated(at_site, at_hub)
    assert content(at_hub).keys() == content(at_site).keys()


def test_a_daemon_that_was_killed_starts_again(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *SWIFT)
    keys = write(at_site, "before")
    all_replicated(at_site, at_hub)
    daemon.kill()
    keys += write(at_site, "site") + write(at_hub, "hub")
    mark = daemon.mark()
    daemon.start()
    wait_until_live(daemon, pull=True, after=mark)
    assert len(assert_equal_soon(at_site, at_hub)) == keys
    all_replicated(at_site, at_hub)


# Neither is there yet.


def test_it_starts_before_the_hub_and_the_site(certificates, daemons):
    with contextlib.ExitStack() as stack:
        site, hub = RedisServer(), Hub(certificates)
        stack.callback(site.close)
        stack.callback(hub.close)
        daemon = daemons.start(site, hub, *SWIFT)
        daemon.wait_for_log("stream.failed")
        daemon.wait_for_log("push.failed")
        daemon.wait_for_log("daemon.started")
        site.start()
        daemon.wait_for_log("stream.attached")
        at_site = site.client()
        write(at_site, "site")
        hub.start()
        wait_until_live(daemon, pull=True)
        write(hub.redis, "hub")
        assert len(assert_equal_soon(at_site, hub.redis)) == 404
        all_replicated(at_site, hub.redis)
        for link in ("stream", "push"):
            eventually(lambda link=link: daemon.logged(f"{link}.recovered"), description=f"{link} recovered")
            told = [record["error"] for record in daemon.logged(f"{link}.failed")]
            assert len(told) == len(set(told)), "a failure of one kind was told twice"
            assert len(daemon.logged(f"{link}.recovered")) == 1


def test_values_for_which_there_was_no_room_are_found_by_a_comparison(daemons, site, hub, at_site, at_hub):
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, "--max-keys", "1000")
        at_site.mset({f"site1:{number}": "older" for number in range(1500)})
        all_replicated(at_site, at_hub)
        wire.down()
        at_site.mset({f"site1:{number}": "newer" for number in range(1500)})
        daemon.wait_for_log("push.failed")
        wire.listen()
        eventually(lambda: at_hub.mget(f"site1:{number}" for number in range(1500)) == [b"newer"] * 1500, 20)
        values = [state[1] for state in assert_equal_soon(at_site, at_hub).values()]
        assert values == [b"newer"] * 1500
        daemon.stop()


def test_more_keys_of_the_hub_than_may_wait_for_the_site(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *SWIFT, "--max-keys", "1000", "--batch", "50")
    all_replicated(at_site, at_hub)
    site.pause()
    try:
        for start in (0, 1500):
            at_hub.mset({f"site1:{number}": "v" for number in range(start, start + 1500)})
        assert daemon.wait_for_log("apply.failed")["dirty_keys"] < 3000
    finally:
        site.resume()
    assert len(assert_equal_soon(at_site, at_hub)) == 3000
    daemon.wait_for_log("sweep.finished", reason="more keys changed at the hub than --max-keys", timeout=20)
