"""A site, a hub and daemons between them; all real, each test its own."""

import tempfile
from dataclasses import dataclass

import pytest
import redis

from testbed import Daemon, Hub, RedisServer
from tests.e2e.support import certificate_flags, forget_proxies, place_flags, wait_until_live


@pytest.fixture(autouse=True, scope="session")
def _no_proxy_of_the_machine():
    with pytest.MonkeyPatch.context() as patch:
        forget_proxies(patch)
        yield


@pytest.fixture
def site():
    with RedisServer() as server:
        yield server


@pytest.fixture
def hub(certificates):
    with Hub(certificates) as hub:
        yield hub


@pytest.fixture
def at_site(site):
    return site.client()


@pytest.fixture
def at_hub(hub):
    return hub.redis


class Daemons:
    """Starts daemons and ends them with the test; as a context manager, with what stands in it, whatever comes."""

    def __init__(self, certificates):
        self._certificates = certificates
        self._started = []
        self._state = tempfile.TemporaryDirectory(prefix="redisrepl-state-")

    def raw(self, *args, env=None, **options):
        """With exactly these arguments; logs as JSON all the same, and a state directory of its own."""
        state = tempfile.mkdtemp(dir=self._state.name)
        daemon = Daemon(args, env={"REDISREPL_LOG_FORMAT": "json", "STATE_DIRECTORY": state, **(env or {})}, **options)
        self._started.append(daemon)
        return daemon.start()

    def start(self, site, hub, *args, ns=("site1:",), rc=True, env=None):
        """Between this site and this hub."""
        namespaces = [word for prefix in ns for word in ("--ns", prefix)]
        return self.raw(
            *certificate_flags(self._certificates),
            *place_flags(site, hub),
            *namespaces,
            *(["-rc"] if rc else []),
            *args,
            env=env,
        )

    def live(self, site, hub, *args, ns=("site1:",), rc=True, env=None):
        """Likewise, and wait until both directions are open."""
        daemon = self.start(site, hub, *args, ns=ns, rc=rc, env=env)
        wait_until_live(daemon, pull=rc, namespaces=len(ns))
        return daemon

    def close(self):
        for daemon in self._started:
            if daemon.running:
                daemon.kill()  # its hub may be gone, and it would wait for it
            daemon.close()
        self._state.cleanup()

    def close_and_check(self):
        """End them; none has said that it met with something unforeseen."""
        self.close()
        for daemon in self._started:
            assert "Traceback" not in daemon.stderr

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close() if kind else self.close_and_check()


@pytest.fixture
def daemons(certificates):
    with Daemons(certificates) as daemons:
        yield daemons


@dataclass(frozen=True)
class Link:
    """A site and a hub with a daemon between them."""

    site: RedisServer
    hub: Hub
    daemon: Daemon
    at_site: redis.Redis
    at_hub: redis.Redis


@pytest.fixture(scope="module")
def link(certificates):
    """One for all tests of a module, which use keys of their own."""
    with RedisServer() as site, Hub(certificates) as hub, Daemons(certificates) as daemons:
        daemon = daemons.live(site, hub)
        yield Link(site, hub, daemon, site.client(), hub.redis)
        assert daemon.stop() == 0
