"""What pushing costs: requests and bytes, counted where the hub's proxy sees them."""

from __future__ import annotations

import os
import re

import pytest

from testbed import FaultProxy, Hub, RedisServer, eventually
from tests.e2e.conftest import Daemons
from tests.e2e.support import SWIFT, pushed, wait_until_live

#: Bytes of a request that only asks, at most; one that brings the shortest value has more.
ASKS = 300
_REQUEST = re.compile(r" POST (\d+) in=(\d+) ")


class Sending:
    """A daemon that pushes through a proxy, and the requests that arrive at nginx behind it."""

    def __init__(self, site, hub, proxy, daemon):
        self.site, self.hub, self.proxy, self.daemon = site, hub, proxy, daemon
        self.at_site, self.at_hub = site.client(), hub.redis

    def requests(self):
        """Size of each request, head and body, that the hub's proxy let through."""
        log = (self.hub.nginx.directory / "access.log").read_text()
        return [int(size) for status, size in _REQUEST.findall(log) if status == "200"]

    def pushes(self):
        """Likewise, without those that only ask, for example which server this is: how many of them depends on time."""
        return [size for size in self.requests() if size > ASKS]

    def requests_for(self, write, count):
        """Sizes of the requests that this makes the daemon send; waits for so many, and takes what else comes."""
        before = len(self.pushes())
        write()
        pushed(self.site.client())
        return eventually(lambda: (found := self.pushes()[before:]) and len(found) >= count and found)

    def waiting(self):
        """Keys that wait for the hub, by the daemon's own count."""
        return self.daemon.state()["waiting_keys"]

    def retries_alone(self):
        """Whether no more than one request is under way, and no more may be."""
        state = self.daemon.state()
        return state["flights_limit"] == 1 and state["flights"] <= 1


@pytest.fixture(scope="module")
def sending(certificates):
    logged_at_once = {" buffer=64k flush=5s": ""}
    with (
        RedisServer() as site,
        Hub(certificates, nginx={"replacements": logged_at_once}) as hub,
        FaultProxy(hub.port) as proxy,
        Daemons(certificates) as daemons,
    ):
        daemon = daemons.start(site, proxy.port, *SWIFT, rc=False)
        wait_until_live(daemon, pull=False)
        daemon.wait_for_log("sweep.finished")  # the comparison of the start sends requests of its own
        site.client().set("site1:first", "v")
        pushed(site.client())
        yield Sending(site, hub, proxy, daemon)


def test_a_lone_write_is_one_small_request(sending):
    for number in range(3):
        (size,) = sending.requests_for(lambda n=number: sending.at_site.set(f"site1:lone{n}", b"v" * 64), 1)
        assert size < 600
        assert sending.at_hub.get(f"site1:lone{number}") == b"v" * 64


def test_one_field_of_a_large_hash_is_one_field(sending):
    sending.at_site.hset("site1:hash", mapping={f"field{number}": number for number in range(20_000)})
    pushed(sending.at_site)
    (size,) = sending.requests_for(lambda: sending.at_site.hset("site1:hash", "field77", "new"), 1)

    assert size < 1000
    assert sending.at_hub.hget("site1:hash", "field77") == b"new"
    assert sending.at_hub.hlen("site1:hash") == 20_000


def test_a_large_value_of_any_bytes_is_one_request_of_hardly_more(sending):
    value = os.urandom(1_000_000)
    (size,) = sending.requests_for(lambda: sending.at_site.set("site1:large", value), 1)

    assert size <= 1.05 * len(value)
    assert sending.at_hub.get("site1:large") == value


def test_what_waited_travels_in_few_requests_and_bytes(sending):
    count, key, value = 10_000, "site1:many%05d", b"v" * 64
    before = len(sending.pushes())
    sending.proxy.down()
    with sending.at_site.pipeline(transaction=False) as pipeline:
        for number in range(count):
            pipeline.set(key % number, value)
        pipeline.execute()
    # Of what left while the first writes came, small requests, none waits any more for the hub but one.
    eventually(lambda: sending.retries_alone() and sending.waiting() == count)
    at_first = sending.proxy.counters().bytes_to_target
    sending.proxy.listen()
    pushed(sending.at_site)

    assert sending.at_hub.exists(*(key % number for number in range(count))) == count
    batches, waited, fence = 10, 1, 1  # the fence is raised once requests ended nobody knows how
    assert len(sending.pushes()) - before <= batches + waited + fence
    size = sending.proxy.counters().bytes_to_target - at_first
    assert size <= 1.2 * count * (len(key % 0) + len(value))
