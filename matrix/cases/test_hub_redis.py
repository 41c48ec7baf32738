"""The hub's Redis restarts, again and again, while its Webdis goes on: by long poll and by WebSocket.

A Webdis with WebSockets may die then (docs/troubleshooting.md), and whatever runs it starts it again, as systemd does
with deploy/hub. The daemon has to recover by itself in either case.
"""

import pytest

from matrix.cases.agreeing import agree, named
from testbed import Hub, RedisServer, eventually
from tests.e2e.pairs import REMOVALS, Pair, write

RESTARTS = 10


@pytest.fixture(scope="module")
def servers(certificates):
    with RedisServer() as site, Hub(certificates, webdis={"websockets": True}) as hub:
        yield site, hub


def listening(daemon):
    """Whether the hub's events come."""
    return all(subscription["live"] for subscription in daemon.state()["subscriptions"])


@pytest.mark.parametrize("way", ["http", "auto"])
def test_the_redis_of_the_hub_restarts(daemons, servers, way):
    site, hub = servers
    pair = Pair(daemons, site, hub, *REMOVALS, "--subscribe", way)
    reader = site.client()
    for number in range(RESTARTS):
        pair.at_hub.save()
        hub.server.kill() if number % 2 else hub.server.stop()
        if number % 3:
            eventually(lambda: not listening(pair.daemon), 20, "the daemon has noticed")
        hub.server.start()
        values = named(f"hub redis {way}:{number}", 20, "v")
        write(pair.at_hub, values)

        def arrived(values=values):
            if not hub.webdis.running:
                hub.webdis.start()
            return reader.mget(values) == list(values.values())

        eventually(arrived, 40, "what the hub holds after the restart is at the site")
    agree(pair, {})
    pair.end("stop")
