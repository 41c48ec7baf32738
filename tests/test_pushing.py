"""Batches to a hub that has had enough for now."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time

import pytest

from redisrepl.changes import HashSet, StringSet, StringState, Touch
from redisrepl.echo import ExpectedEvents
from redisrepl.errors import HubError
from redisrepl.everywrite import EveryWrite
from redisrepl.outbound import Outbound
from redisrepl.pacing import Pacer
from redisrepl.pushing import Pushing
from redisrepl.remote.push import HubPusher, Pushed
from redisrepl.remote.session import HubSession, check_url
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.writes import keys_of
from testbed import Hub, eventually_async

RETRY = {"attempts": None, "timeout": None, "wait_initial": 0.01, "wait_max": 0.01, "wait_jitter": 0.0}


def outbound_with(count, kind=Outbound):
    outbound = kind(ChangeDecoder(lambda _key: True, frozenset({"set", "hset"})), ExpectedEvents(0))
    for number in range(count):
        outbound.add(StringSet(b"k%d" % number, b"v"))
    return outbound


class Flights:
    """So many tasks that push; they end with the test."""

    def __init__(self, outbound, hub, count, pacer=None, batch=100, site=None):
        self.pacer = pacer or Pacer(count, worthwhile=batch, interval=0.0)
        self.pushing = Pushing(outbound, hub, site, self.pacer, max_keys=batch, retry=RETRY)
        self._count = count

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self.pushing.run()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class FakeHub:
    """Takes what it is given, or raises what it is told to."""

    max_body = 900_000

    def __init__(self):
        self.calls = 0
        self.pushed = []
        self.out = 0
        self.error = None

    async def push(self, commands):
        self.pushed.append(commands)
        self.calls += 1
        self.out += 1
        await asyncio.sleep(0)
        self.out -= 1
        if self.error is not None:
            raise self.error
        return Pushed({}, math.inf)


@pytest.mark.parametrize(("asked", "held"), [(100.0, 100.0), (86_400.0, 300.0), (math.inf, 300.0)])
async def test_nothing_leaves_while_the_hub_wants_a_pause(asked, held):
    outbound, hub = outbound_with(1000), FakeHub()
    hub.error = HubError("enough", status=429, retry_after=asked)
    async with Flights(outbound, hub, 4) as flights:
        await eventually_async(lambda: hub.calls and not hub.out)
        assert flights.pacer.held_until == pytest.approx(time.monotonic() + held, abs=30)
        assert hub.calls <= 4  # those that were on their way already
        calls, hub.error = hub.calls, None
        for _ in range(100):
            flights.pushing.wake()
            await asyncio.sleep(0)
        assert hub.calls == calls

        flights.pacer.held_until = -math.inf  # the time has come
        flights.pushing.wake()
        await flights.pushing.drained()
    assert outbound.counters.pushed == 1000


async def test_after_an_error_that_names_no_time_the_batch_is_tried_again():
    outbound, hub = outbound_with(10), FakeHub()
    hub.error = HubError("broken", status=502)
    async with Flights(outbound, hub, 1) as flights:
        await eventually_async(lambda: hub.calls >= 3)
        hub.error = None
        await flights.pushing.drained()
    assert outbound.counters.pushed == 10


async def test_news_wakes_one_flight():
    """The others wait for their turn; with each awake for each piece of news, idle flights would cost the most."""
    looks = 0

    class Watched(Outbound):
        @property
        def ready(self):
            nonlocal looks
            looks += 1
            return super().ready

    outbound, hub = outbound_with(0, Watched), FakeHub()
    async with Flights(outbound, hub, 32) as flights:
        for number in range(100):
            outbound.add(StringSet(b"k%d" % number, b"v"))
            flights.pushing.wake()
            await flights.pushing.drained()
    assert hub.calls == 100
    assert looks <= 1000


async def test_a_full_batch_of_any_bytes_is_one_request(certificates):
    """It is taken so much smaller than a body that escapes do not make it two."""
    outbound = Outbound(ChangeDecoder(lambda _key: True, frozenset({"set"})), ExpectedEvents(0))
    for number in range(300):
        outbound.add(StringSet(b"k%d" % number, random.Random(number).randbytes(900)))
    with Hub(certificates, nginx={"replacements": {" buffer=64k flush=5s": ""}}) as hub:
        session = HubSession(check_url(hub.url), certificates.ssl_context())
        async with Flights(outbound, HubPusher(session, 100_000), 1, batch=1000) as flights:
            await flights.pushing.drained()
        await session.close()
        assert hub.redis.dbsize() == 300
        requests = (hub.nginx.directory / "access.log").read_text().count(" POST ")

    assert requests == outbound.counters.requests == 3


async def test_a_proxy_with_a_rate_limit_is_not_besieged(certificates):
    """A real nginx that lets in two requests a second and says when to come back."""
    limit = {
        "server_tokens off;": "server_tokens off;\n    limit_req_zone $server_name zone=few:1m rate=2r/s;",
        "limit_except GET POST PUT { deny all; }": "limit_req zone=few; limit_req_status 429; "
        "add_header Retry-After 1 always;",
        " buffer=64k flush=5s": "",
    }
    outbound = outbound_with(400)
    with Hub(certificates, nginx={"replacements": limit}) as hub:
        session = HubSession(check_url(hub.url), certificates.ssl_context())
        async with Flights(outbound, HubPusher(session, 900_000), 4) as flights:
            await flights.pushing.drained()
        await session.close()
        assert hub.redis.dbsize() == 400
        statuses = re.findall(r" POST (\d+) ", (hub.nginx.directory / "access.log").read_text())

    assert set(statuses) == {"200", "429"}
    assert statuses.count("429") <= 8


class LargeValues:
    """A site whose values are known to be large only once they are read."""

    def __init__(self, size):
        self.value = bytes(size)
        self.most = 0

    async def first_states(self, keys, max_bytes):
        few = keys[: max_bytes // len(self.value) + 1]
        self.most = max(self.most, len(few))
        return [StringState(self.value)] * len(few)

    async def fields(self, _key, fields):
        return [self.value] * len(fields)


@pytest.mark.parametrize("every_write", [False, True])
async def test_values_that_are_read_for_a_request_are_no_more_than_fit(every_write):
    outbound, hub = outbound_with(0), FakeHub()
    if every_write:
        outbound.pending = EveryWrite(96 << 20, 1000)
    hub.max_body = 100_000
    for number in range(50):
        outbound.add(StringSet(b"a%d" % number, b"small"))
        outbound.add(Touch(b"t%d" % number))
        outbound.add(HashSet(b"h%d" % number, {b"f": None}))
        outbound.add(Touch(b"a%d" % number, replaces=True))
    site = LargeValues(30_000)
    async with Flights(outbound, hub, 2, site=site) as flights:
        await flights.pushing.drained()

    sizes = [sum(len(word) for command in commands for word in command) for commands in hub.pushed]
    assert max(sizes) < 2 * (hub.max_body + 30_000)
    assert site.most == 4
    arrived = {key for commands in hub.pushed for command in commands for key in keys_of(command)}
    assert arrived == {b"%b%d" % (kind, number) for kind in (b"a", b"t", b"h") for number in range(50)}
    for number in range(50):
        values = [
            value
            for commands in hub.pushed
            for command in commands
            for key, value in zip(command[1::2], command[2::2], strict=False)
            if command[0] in (b"SET", b"MSET") and key == b"a%d" % number
        ]
        assert values == ([b"small"] if every_write else []) + [site.value]
