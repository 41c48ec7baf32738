"""One pair of servers behind switches, and a daemon between them."""

import pytest

from testbed import Hub, RedisServer
from tests.e2e.conftest import Daemons
from tests.e2e.support import SWIFT, wait_until_live
from tests.hostile.peers import Switch


@pytest.fixture(scope="module")
def scene(certificates):
    """One pair of servers for all; a daemon for each test, since what it took at most is what counts."""
    with RedisServer() as site, Hub(certificates) as hub, Switch(site.port) as to_site, Switch(hub.port) as to_hub:
        yield site, hub, to_site, to_hub


@pytest.fixture
def daemon(certificates, scene):
    _, hub, to_site, to_hub = scene
    flags = ["--max-value", "1MB", "--site-silence", "3"]
    with Daemons(certificates) as daemons:
        daemon = daemons.start(to_site.port, hub.url_at(to_hub.port), *SWIFT, *flags)
        wait_until_live(daemon, pull=True)
        daemon.wait_for_log("sweep.finished")  # until then nothing is agreed on, and each write may be in conflict
        yield daemon
        assert daemon.stop() == 0
