"""Fetch, compare, apply: against a real site, with a hub that says what the test wants."""

import asyncio
import contextlib

import pytest

from redisrepl.applying import Applying
from redisrepl.changes import HashState, StringState
from redisrepl.echo import ExpectedEvents
from redisrepl.inbound import Inbound
from redisrepl.local.address import parse_address
from redisrepl.local.apply import SiteWriter
from redisrepl.local.connection import open_client
from redisrepl.local.read import SiteReader
from redisrepl.remote.fetch import Fetched
from testbed import RedisServer, eventually_async

KEY, OTHER = b"ns:key", b"ns:other"


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def at_site(server):
    client = server.client()
    client.flushall()
    return client


class Reader(SiteReader):
    """A reader whose answer the test can hold up."""

    def __init__(self, *args):
        super().__init__(*args)
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.asked = []
        self.read_again = 0

    async def _by_script(self, keys, max_bytes):
        self.read_again += 1
        return await super()._by_script(keys, max_bytes)

    async def states(self, keys, replies, large):
        states = await super().states(keys, replies, large)
        self.asked.append(list(keys))
        await self.go_on.wait()
        return states


class World:
    """The parts of a pull; the hub holds `hub`, and the site's stream is read up to `read_to`."""

    def __init__(self, server, kinds=frozenset({"set", "hset", "del"})):
        address = parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr")
        self.client = open_client(address, 5.0, connections=2)
        self.hub = {}
        self.read_to = float("inf")
        self.expected = ExpectedEvents(1000)
        self.inbound = Inbound(
            covers=lambda key: key.startswith(b"ns:"),
            kinds=kinds,
            expected_local=self.expected,
            expected_remote=ExpectedEvents(1000),
            busy=lambda _: False,
        )
        self.reader = Reader(self.client, address)
        self.applying = Applying(
            self.inbound,
            self,
            self.reader,
            SiteWriter(self.client, address, b"us"),
            read_to=lambda: self.read_to,
            max_keys=8,
            retry={"attempts": None, "timeout": None, "wait_initial": 0.01, "wait_max": 0.05},
        )
        self.applying.attached.set()

    async def states(self, keys):
        return Fetched({key: self.hub.get(key) for key in keys}, 1)

    def dirty(self, *keys, removal=False):
        self.inbound.mark_dirty(keys, removal=removal)
        self.applying.wake()


@contextlib.asynccontextmanager
async def running(server, workers=1):
    world = World(server)
    tasks = [asyncio.ensure_future(world.applying.run()) for _ in range(workers)]
    try:
        yield world
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await world.client.aclose()


def offset(client):
    return client.info("replication")["master_repl_offset"]


async def test_what_differs_is_written_and_its_echo_expected(server, at_site):
    at_site.hset(KEY, mapping={"same": "1", "old": "2"})
    async with running(server) as world:
        world.hub[KEY] = HashState({b"same": b"1", b"old": b"3"})
        world.dirty(KEY)
        await world.applying.idle()

        assert at_site.hgetall(KEY) == {b"same": b"1", b"old": b"3"}
        assert world.inbound.counters.applied == 1
        assert world.expected.holds(KEY)


async def test_what_the_hub_has_refused_is_not_removed_because_it_lacks_it(server, at_site):
    """Not even if a removal was announced before the site wrote it anew."""
    at_site.set(KEY, "old")
    async with running(server) as world:
        world.applying.attached.clear()
        world.dirty(KEY, removal=True)
        world.dirty(KEY)
        assert world.inbound.dirty == {KEY: True}
        world.inbound.refused_at_hub(KEY)
        world.inbound.refused_at_hub(b"ns:other")
        assert world.inbound.dirty == {KEY: False}
        world.applying.attached.set()
        world.applying.wake()
        await world.applying.idle()
        assert at_site.get(KEY) == b"old"


async def test_what_may_be_on_its_way_to_the_site(server):
    async with running(server) as world:
        world.applying.attached.clear()
        world.dirty(KEY)
        assert world.inbound.holds(KEY)
        assert not world.inbound.holds(b"ns:other")
        world.inbound.take(1)
        assert world.inbound.holds(KEY)
        world.inbound.overflowed = True
        assert world.inbound.holds(b"ns:other")


@pytest.mark.parametrize("end", ["applied", "equal", "another"])
async def test_what_was_removed_at_the_hub_is_known_until_it_is_removed_here(server, at_site, end):
    at_site.hset(KEY, mapping={"old": "1", "f": "2"})
    async with running(server) as world:
        fields = {b"f": b"2"} | ({b"old": b"1"} if end == "equal" else {})
        world.hub[KEY] = HashState(fields)
        world.reader.go_on.clear()
        world.dirty(OTHER)
        world.dirty(KEY, removal=True)
        assert world.inbound.removes(KEY)  # as it waits
        await eventually_async(lambda: not world.inbound.dirty)
        assert world.inbound.removes(KEY)  # as it is fetched and compared
        if end == "another":
            await eventually_async(lambda: world.reader.asked)
            at_site.hset(KEY, "more", "3")  # so that it has to be compared again
            fields[b"more"] = b"3"  # of the hub's hash
            world.reader.asked.clear()
        world.reader.go_on.set()
        await world.applying.idle()
        assert at_site.hgetall(KEY) == fields
        assert not world.inbound.removes(KEY)
        assert not world.inbound.removes(OTHER)


async def test_nothing_is_removed_where_removals_do_not_cross(server):
    world = World(server, kinds=frozenset({"set", "hset"}))
    world.inbound.events([(KEY, b"rename_to")])
    assert world.inbound.dirty == {KEY: True}
    assert not world.inbound.removes(KEY)
    await world.client.aclose()


async def test_few_keys_are_watched_at_a_time_however_many_are_fetched(server, at_site, monkeypatch):
    """Redis compares each key to be watched with all that are watched already."""
    monkeypatch.setattr("redisrepl.applying._WATCHED", 3)
    async with running(server) as world:
        keys = [b"ns:%d" % number for number in range(8)]
        world.hub |= dict.fromkeys(keys, StringState(b"v"))
        world.dirty(*keys)
        await world.applying.idle()

        assert at_site.mget(keys) == [b"v"] * 8
        assert [len(asked) for asked in world.reader.asked] == [3, 3, 2]


async def test_what_the_site_holds_is_read_in_the_round_trip_that_watches_it(server, at_site):
    at_site.set(KEY, "old")
    async with running(server) as world:
        world.hub[KEY] = StringState(b"new")
        with at_site.monitor() as monitor:
            world.dirty(KEY)
            await world.applying.idle()
            seen = iter(lambda: monitor.next_command()["command"].split()[0], "EXEC")

            said = [word for word in seen if word in {"WATCH", "INFO", "EVAL", "MULTI"}]
            assert said == ["WATCH", "INFO", "EVAL", "MULTI"]
        assert world.reader.read_again == 0


LARGE = {b"field:%d" % number: b"%d" % number for number in range(600)}


async def test_a_large_hash_is_read_by_itself_and_not_in_a_script(server, at_site):
    """A script takes five times as long, and holds up the clients of the site."""
    at_site.hset(KEY, mapping=LARGE | {b"field:7": b"old"})
    at_site.set(OTHER, "old")
    async with running(server) as world:
        world.hub |= {KEY: HashState(LARGE), OTHER: StringState(b"new")}
        with at_site.monitor() as monitor:
            world.dirty(KEY, OTHER)
            await world.applying.idle()
            seen = [monitor.next_command()["command"]]
            while seen[-1] != "EXEC":
                seen.append(monitor.next_command()["command"])

        assert at_site.hgetall(KEY) == LARGE
        assert at_site.get(OTHER) == b"new"
        (script,) = [command for command in seen if command.startswith("EVAL ")]
        assert script.split()[-1] == OTHER.decode()
        assert "HSET ns:key field:7 7" in seen
        assert world.reader.read_again == 0


@pytest.mark.parametrize("kind", ["none", "string", "hash", "list"])
@pytest.mark.parametrize("version", ["7", "6"])
async def test_what_is_a_large_hash_at_the_hub_may_be_anything_at_the_site(kind, version):
    renamed = {"rename-command": 'PEXPIRETIME ""'} if version == "6" else {}  # which has no such command
    with RedisServer(config=renamed) as server:
        at_site = server.client()
        match kind:
            case "string":
                at_site.set(KEY, "old")
            case "hash":
                at_site.hset(KEY, mapping=LARGE | {b"field:7": b"old", b"more": b"1"})
                at_site.pexpireat(KEY, 4_000_000_000_000)
            case "list":
                at_site.rpush(KEY, "old")
        async with running(server) as world:
            world.hub[KEY] = HashState(LARGE)
            world.dirty(KEY)
            await world.applying.idle()

            assert at_site.hgetall(KEY) == LARGE | ({b"more": b"1"} if kind == "hash" else {})


async def test_what_does_not_fit_into_that_reply_is_read_too(server, at_site, monkeypatch):
    monkeypatch.setattr("redisrepl.local.read._MAX_REPLY", 1)
    async with running(server) as world:
        keys = [b"ns:%d" % number for number in range(5)]
        at_site.mset(dict.fromkeys(keys, b"old"))
        world.hub |= dict.fromkeys(keys, StringState(b"new"))
        world.dirty(*keys)
        await world.applying.idle()

        assert at_site.mget(keys) == [b"new"] * 5
        assert world.reader.read_again == 4


async def test_a_site_that_allows_no_scripts_is_read_without(server, at_site):
    at_site.execute_command("ACL", "SETUSER", "default", "-eval")
    try:
        async with running(server) as world:
            for value in (b"1", b"2"):
                world.hub[KEY] = StringState(value)
                world.dirty(KEY)
                await eventually_async(lambda value=value: at_site.get(KEY) == value)
                world.expected.void([KEY])  # nobody reads the stream
            assert not world.applying.apply_trouble.failures
    finally:
        at_site.execute_command("ACL", "SETUSER", "default", "+eval")


async def test_news_wakes_one_of_those_who_wait_for_work(server, at_site):
    async with running(server, workers=16) as world:
        world.hub = {OTHER: StringState(b"first"), KEY: StringState(b"second")}
        world.dirty(OTHER)
        await world.applying.idle()
        looks, take = [], world.inbound.take
        world.inbound.take = lambda most: looks.append(most) or take(most)
        world.dirty(KEY)
        await world.applying.idle()

        assert at_site.get(KEY) == b"second"
        assert 0 < len(looks) < 8


async def test_batches_are_moved_side_by_side(server, at_site):
    async with running(server, workers=4) as world:
        asked, go_on = [], asyncio.Event()

        async def states(keys):
            asked.append(len(keys))
            await go_on.wait()
            return Fetched(dict.fromkeys(keys, StringState(b"v")), 1)

        world.applying._hub.states = states
        world.dirty(*(b"ns:%d" % number for number in range(40)))
        await eventually_async(lambda: len(asked) == 4)
        go_on.set()
        await world.applying.idle()

        assert asked == [8] * 5
        assert at_site.dbsize() == 40


async def test_nothing_is_written_before_the_stream_has_shown_what_was_read(server, at_site):
    at_site.set(KEY, "of a client")
    async with running(server) as world:
        world.read_to = offset(at_site) - 1
        world.hub[KEY] = StringState(b"of the hub")
        world.dirty(KEY)
        await eventually_async(lambda: world.reader.asked)
        assert at_site.get(KEY) == b"of a client"
        assert world.inbound.unsettled == 1

        world.inbound.changed_at_site([KEY])  # now it shows
        world.read_to = offset(at_site)
        world.applying.stream_moved()
        await eventually_async(lambda: world.inbound.counters.stale)


async def test_a_lost_stream_ends_the_wait(server, at_site):
    async with running(server) as world:
        world.read_to = -1
        world.hub[KEY] = StringState(b"of the hub")
        world.dirty(KEY)
        await eventually_async(lambda: world.reader.asked)

        world.applying.attached.clear()
        world.inbound.distrust_fetched()
        world.applying.stream_moved()
        await eventually_async(lambda: KEY in world.inbound.dirty)
        assert at_site.get(KEY) is None


@pytest.mark.parametrize("limit", ["_LONGEST_STANDSTILL", "_LONGEST_WAIT"])
async def test_a_stream_that_never_comes_so_far_does_not_hold_up_for_ever(server, at_site, monkeypatch, limit):
    """As when the server that answers was replaced by the one that is followed."""
    monkeypatch.setattr(f"redisrepl.applying.{limit}", 0.1)
    async with running(server) as world:
        world.read_to = -1
        world.hub[KEY] = StringState(b"of the hub")
        world.dirty(KEY)
        await eventually_async(lambda: world.applying.apply_trouble.failures > 1)
        assert at_site.get(KEY) is None

        world.read_to = float("inf")
        await eventually_async(lambda: at_site.get(KEY) == b"of the hub")


async def test_a_key_that_a_client_writes_meanwhile_is_left_alone_and_looked_at_again(server, at_site):
    at_site.set(KEY, 1)
    async with running(server) as world:
        world.reader.go_on.clear()
        world.hub = {KEY: StringState(b"of the hub"), OTHER: StringState(b"other")}
        world.dirty(KEY, OTHER)
        await eventually_async(lambda: world.reader.asked)
        at_site.incr(KEY)
        world.inbound._busy = lambda key: key == KEY  # as the stream will show
        world.reader.go_on.set()

        await eventually_async(lambda: at_site.get(OTHER) == b"other")
        assert at_site.get(KEY) == b"2"
        assert list(world.inbound.dirty) == [KEY]
        assert not world.expected.holds(KEY)


async def test_a_key_that_is_written_all_the_time_does_not_hold_up_the_others(server, at_site):
    """What clients do to it (a list, say) may not even show as busy."""
    keys = [b"ns:%d" % number for number in range(8)]

    async with running(server) as world:
        read = world.reader.states

        async def disturbed(asked, replies, large):
            states = await read(asked, replies, large)
            if keys[3] in asked:
                at_site.rpush(keys[3], "x")
            return states

        world.reader.states = disturbed
        world.hub = {key: StringState(b"value") for key in keys}
        world.dirty(*keys)

        quiet = [key for key in keys if key != keys[3]]
        await eventually_async(lambda: at_site.mget(quiet) == [b"value"] * 7)
        assert at_site.type(keys[3]) == b"list"
