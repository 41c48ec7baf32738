"""Large collections in doubt are read page by page: a real site."""

from __future__ import annotations

import pytest

from redisrepl.changes import HashSet, HashState, Invalidated, StringState
from redisrepl.engine.core import Core
from redisrepl.flow.pages import Pages
from redisrepl.local.address import parse_address
from redisrepl.local.connection import open_client
from redisrepl.local.read import SiteReader
from redisrepl.wire.collections import COLLECTIONS
from redisrepl.wire.entries import LAST_ID, entry_name
from redisrepl.wire.writes import MOVED
from testbed import RedisServer

KEY, SMALL = b"ns:large", b"ns:small"
COUNT = 45_000
MANY = 1 << 30
ADD = "for i = 1, tonumber(ARGV[1]) do redis.call('SADD', KEYS[1], 'member:' .. i) end"
MEMBERS = {b"member:%d" % number for number in range(1, COUNT + 1)}


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def at_site(server):
    client = server.client()
    client.flushall()
    client.eval(ADD, 1, KEY, COUNT)
    client.set(SMALL, "value")
    return client


class World:
    """What is in doubt, and what has it read."""

    def __init__(self, server, client):
        self.core = Core(lambda key: key.startswith(b"ns:"))
        self.outbound = self.core.outbound
        self.compared = []
        reader = SiteReader(
            client, parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr"), types=COLLECTIONS
        )
        self.pages = Pages(self.outbound, reader, self.compared.extend)

    def taken(self):
        """The keys in doubt, which travel from here on."""
        changes = self.outbound.doubtful.take(100, MANY)
        assert all(isinstance(change, Invalidated) for change in changes)
        return [change.key for change in changes]

    def arrived(self, keys, errors=None):
        self.outbound.doubtful.done(keys)
        self.pages.arrived(keys, errors or {})


@pytest.fixture
async def world(server, at_site):  # noqa: ARG001 - what it holds
    client = open_client(parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr"), 5.0, connections=1)
    yield World(server, client)
    await client.aclose()


async def test_all_of_it_is_read_page_by_page_and_compared_in_the_end(world):
    found, pages = set(), 0
    world.outbound.doubt(KEY)
    while keys := world.taken():
        assert not world.compared
        states, read = await world.pages.read(keys, MANY, 0)
        assert (keys, states, type(read[KEY])) == ([KEY], {}, HashSet)
        found |= read[KEY].fields.keys()
        pages += 1
        world.arrived(keys, {KEY: MOVED} if pages == 1 else {})  # some had moved at the hub: others had not
    assert (found, pages, world.compared) == (MEMBERS, 3, [KEY])


def with_stream(at_site):
    at_site.delete(KEY)
    at_site.eval("for i = 1, tonumber(ARGV[1]) do redis.call('XADD', KEYS[1], i, 'n', i) end", 1, KEY, COUNT)


async def test_the_pages_of_a_stream_are_in_its_order_with_the_last_id_in_the_end(world, at_site):
    with_stream(at_site)
    world.outbound.doubt(KEY)
    found = []
    while keys := world.taken():
        _, read = await world.pages.read(keys, MANY, 0)
        found += read[KEY].fields
        world.arrived(keys)
    assert found == [*(entry_name(b"%d-0" % number) for number in range(1, COUNT + 1)), LAST_ID]
    assert world.compared == [KEY]


async def test_a_page_that_has_not_arrived_is_read_again(world, at_site):
    world.outbound.doubt(KEY)
    keys = world.taken()
    _, read = await world.pages.read(keys, MANY, 0)
    world.arrived(keys)
    for _ in range(2):
        _, again = await world.pages.read(keys, MANY, 0)
        world.pages.failed(keys)
        assert again[KEY].fields.keys().isdisjoint(read[KEY].fields)
        at_site.srem(KEY, gone := next(iter(again[KEY].fields)))
    _, last = await world.pages.read(keys, MANY, 0)
    assert gone not in last[KEY].fields


async def test_of_another_history_it_is_read_from_the_beginning(world):
    world.outbound.doubt(KEY)
    keys = world.taken()
    _, first = await world.pages.read(keys, MANY, 0)
    world.arrived(keys)
    _, again = await world.pages.read(keys, MANY, 1)
    assert again == first


async def test_what_the_hub_refuses_is_not_gone_on_with(world):
    world.outbound.doubt(KEY)
    keys = world.taken()
    await world.pages.read(keys, MANY, 0)
    world.arrived(keys, {KEY: "WRONGTYPE of it"})
    assert (world.taken(), world.compared) == ([], [])


async def test_small_keys_are_read_beside_it_and_those_behind_it_wait(world):
    states, read = await world.pages.read([SMALL, KEY, SMALL + b"er"], MANY, 0)
    assert states == {SMALL: StringState(b"value")}
    assert read.keys() == {KEY}


@pytest.mark.parametrize("why", ["expiry", "expected"])
async def test_what_concerns_the_key_as_a_whole_has_it_read_as_a_whole(world, at_site, why):
    if why == "expiry":
        at_site.pexpireat(KEY, 4_102_444_800_000)
    world.outbound.doubt(KEY, expected=(7,) if why == "expected" else None)
    keys = world.taken()
    states, read = await world.pages.read(keys, MANY, 0)
    assert isinstance(states[KEY], HashState)
    assert (states[KEY].fields.keys(), read) == (MEMBERS, {})


async def test_a_collection_that_is_another_type_in_the_middle_is_compared(world, at_site):
    world.outbound.doubt(KEY)
    keys = world.taken()
    await world.pages.read(keys, MANY, 0)
    world.arrived(keys)
    at_site.set(KEY, "a string")
    states, read = await world.pages.read(world.taken(), MANY, 0)
    assert (states, read) == ({KEY: StringState(b"a string")}, {})
