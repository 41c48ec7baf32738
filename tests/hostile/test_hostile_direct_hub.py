"""A hub's Redis, reached directly by TLS, that does its worst, like the hub behind Webdis of `test_hostile_peers`."""

import itertools
import random
import time
from types import SimpleNamespace

import pytest

from testbed import Hub, RedisServer, eventually
from tests.e2e.conftest import Daemons
from tests.e2e.support import SWIFT, all_replicated, wait_until_live
from tests.hostile.peers import HostileRedis, Switch, peak, turned
from tests.hostile.test_hostile_peers import (
    AGAIN,
    FLAGS,
    HUGE,
    LISTS,
    MILLIONS,
    MOST,
    NEAR,
    PIECE,
    WORDS,
    endured,
    messages,
    says_what_is_wrong,
)


def always(*pieces, then=None):
    """Whatever is asked, it says this."""
    return lambda _: itertools.chain(pieces, () if then is None else itertools.repeat(then))


def once_let_in(*pieces, then=None):
    """It lets clients in and says PONG to them; to all else this."""

    def answer(words):
        if words[0] in {b"PING", b"AUTH", b"SELECT"}:
            return [b"+PONG\r\n"]
        return always(*pieces, then=then)(words)

    return answer


def subscription(*messages, then=None):
    """To a subscription this, once it was asked for the flags of events; to all else what Redis would say to a PING."""

    def answer(words):
        if words[0] == b"CONFIG":
            return [FLAGS]
        if words[0] != b"PSUBSCRIBE":
            return [b"+PONG\r\n"]
        return always(b"*3\r\n$10\r\npsubscribe\r\n$1\r\nx\r\n:1\r\n", *messages, then=then)(words)

    return answer


def at_random(seed):
    rng = random.Random(seed)
    return lambda _: [b"".join(rng.choices(WORDS, k=rng.randrange(60)))]


HUBS = {
    "a list of a thousand million at the login": always(HUGE),
    "a list of a thousand million": once_let_in(HUGE),
    "no end of a string": once_let_in(b"$9000000000\r\n", then=PIECE),
    "no end of a line": once_let_in(b"+", then=PIECE),
    "no end of an error": once_let_in(b"-ERR ", then=PIECE),
    "no end of replies": once_let_in(then=b"+OK\r\n" * 10_000),
    "levels": once_let_in(b"*1\r\n" * 100_000),
    "HTTP": always(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    **messages(subscription),
    "millions of lists": once_let_in(LISTS),
    "millions of empty strings": once_let_in(b"*%d\r\n" % MILLIONS + b"$0\r\n\r\n" * MILLIONS),
    "random 1": at_random(1),
    "random 2": at_random(2),
}
SAID = {
    "no end of a string": "is over the limit",
    "no end of a line": "is over the limit",
    "no end of an error": "is over the limit",
    "no end of replies": "more replies than it was asked for",
    "levels": "Max nesting depth exceeded",
    "a list in a subscription": "is over the limit",
    "millions of lists": "is over the limit",
    "millions of empty strings": "is over the limit",
}


@pytest.fixture(scope="module")
def scene(certificates):
    with (
        RedisServer() as site,
        Hub(certificates, redis={"tls": certificates}) as hub,
        Switch(hub.server.tls_port) as to_hub,
    ):
        yield site, hub, to_hub


@pytest.fixture
def daemon(certificates, scene):
    site, _, to_hub = scene
    with Daemons(certificates) as daemons:
        daemon = daemons.start(site, f"rediss://localhost:{to_hub.port}", "--max-value", "1MB", *SWIFT)
        wait_until_live(daemon, pull=True)
        daemon.wait_for_log("sweep.finished")
        yield daemon
        assert daemon.stop() == 0


def healed(daemon, scene, kind):
    site, hub, _ = scene
    with daemon.explaining():
        all_replicated(site.client(), hub.redis)
    eventually(lambda: hub.redis.get("site1:key") == kind.encode(), 20, "what was written meanwhile is there")


@pytest.mark.parametrize("kind", HUBS)
def test_a_hostile_hub(daemon, scene, certificates, kind):
    site, hub, to_hub = scene
    usual, mark, before = SimpleNamespace(port=hub.server.tls_port), daemon.mark(), peak(daemon)
    with (
        HostileRedis(HUBS[kind], certificates) as peer,
        turned(to_hub, peer, usual),
    ):
        site.client().set("site1:key", kind)
        endured(daemon, peer, before)
        says_what_is_wrong(daemon, ("push.failed", "subscribe.failed", "fetch.failed"), mark, SAID.get(kind, ""))
    healed(daemon, scene, kind)


@pytest.mark.parametrize("kind", [kind for kind in ("no end of a string", *AGAIN) if kind in HUBS])
def test_what_a_hostile_hub_sends_again_and_again_does_not_add_up(daemon, scene, certificates, kind):
    site, hub, to_hub = scene
    usual, before = SimpleNamespace(port=hub.server.tls_port), peak(daemon)
    with (
        HostileRedis(HUBS[kind], certificates) as peer,
        turned(to_hub, peer, usual),
    ):
        site.client().set("site1:key", kind)
        until = time.monotonic() + 30
        eventually(lambda: peer.asked >= 15 or time.monotonic() > until, 40, "the peer was asked often")
        assert peak(daemon) - before < MOST
    healed(daemon, scene, kind)
    eventually(lambda: peak(daemon, "VmRSS") - before < NEAR, 20, "memory was given back")
