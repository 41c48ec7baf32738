"""A site, a hub and a daemon for all cases of a file: starting them costs more than any case."""

import os

import pytest

from testbed import Certificates, Daemon, HttpProxy, Hub, RedisServer
from testbed.prefork import Parent
from tests.e2e.conftest import Daemons
from tests.e2e.pairs import REMOVALS, Pair
from tests.e2e.support import forget_proxies

Daemon.parent = Parent()  # most of what a case costs is the start of daemons


@pytest.fixture(autouse=True, scope="session")
def _way_out():
    """Daemons reach the hub directly, or by the proxy that is being tried."""
    with pytest.MonkeyPatch.context() as patch:
        forget_proxies(patch)
        if os.environ.get("TESTBED_CONNECT"):
            with HttpProxy() as proxy:
                patch.setenv("HTTPS_PROXY", proxy.url)
                yield
                assert proxy.connects
        else:
            yield


@pytest.fixture(scope="session")
def certificates():
    with Certificates() as certificates:
        yield certificates


@pytest.fixture(scope="module")
def servers(certificates):
    """A site and a hub without a daemon; what a case writes there it names after itself."""
    with RedisServer() as site, Hub(certificates) as hub:
        yield site, hub


@pytest.fixture(scope="module")
def daemons(certificates):
    daemons = Daemons(certificates)
    yield daemons
    daemons.close_and_check()


@pytest.fixture(scope="module")
def pair(request, daemons, servers):
    """A running daemon between both, with removals; `SOURCE` of the file says how it follows the site."""
    return Pair(daemons, *servers, *REMOVALS, source=getattr(request.module, "SOURCE", "psync"))
