"""A master behind Sentinels: found, followed, and nothing of its stream lost."""

import asyncio
import contextlib
import threading
from contextlib import aclosing

import pytest
import redis
import stamina.instrumentation

from redisrepl import LinkOptions, ReplicaStream
from redisrepl.changes import KINDS
from redisrepl.errors import ConfigError, LinkLostError, PeerUnavailableError, RefusedError
from redisrepl.local.address import SiteAddress, parse_address
from redisrepl.local.client import Followed
from redisrepl.local.connection import find_master, open_client, translated
from redisrepl.local.notify import SiteEvents
from redisrepl.local.sentinel import MasterWatch, ask_sentinels
from redisrepl.local.stream import ReplicaLink
from testbed import FaultProxy, RedisSentinel, RedisServer, eventually, eventually_async, free_port, release_port
from tests.clock import Clock

SWIFT = LinkOptions(retry_max=0.2, connect_wait=2.0)


@pytest.fixture(autouse=True)
def _quiet():
    before = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([])
    yield
    stamina.instrumentation.set_on_retry_hooks(before)


@pytest.fixture
def trio():
    """A master, its replica, and a Sentinel that knows both."""
    config = {"repl-backlog-size": "64mb"}
    with (
        RedisServer(config=config) as master,
        RedisServer(replica_of=master, config=config) as replica,
        RedisSentinel(master) as sentinel,
    ):
        eventually(lambda: replica.client().info("replication")["master_link_status"] == "up")
        eventually(lambda: master.client().info("replication")["slave0"]["state"] == "online")
        eventually(lambda: replica.port in sentinel.replica_ports())
        yield master, replica, sentinel


def offset(server):
    return server.client().info("replication")["master_repl_offset"]


def url(sentinel, *others):
    places = [*(f"127.0.0.1:{port}" for port in others), f"127.0.0.1:{sentinel.port}"]
    return f"redis-sentinel://{','.join(places)}/{sentinel.service}"


async def test_a_master_is_not_found_while_a_failover_from_it_has_begun(trio):
    master, replica, sentinel = trio
    address = parse_address(url(sentinel))
    assert await ask_sentinels(address, 1) == ("127.0.0.1", master.port)
    sentinel.begin_fail_over()
    replica.pause()  # nobody hears of it that it is the master now
    with pytest.raises(PeerUnavailableError, match=r"knows a working master named site: .*: a failover has begun$"):
        await ask_sentinels(address, 1)
    replica.resume()
    assert await found(address) == ("127.0.0.1", replica.port)


async def test_a_replica_that_was_promoted_is_the_master_though_the_failover_goes_on():
    with (
        RedisServer() as master,
        RedisServer(replica_of=master) as replica,
        RedisServer(replica_of=master, config={"replica-priority": 0}) as other,
    ):
        eventually(lambda: master.client().info("replication")["connected_slaves"] == 2)
        with RedisSentinel(master) as sentinel:
            eventually(lambda: {replica.port, other.port} <= {*sentinel.replica_ports()})
            address = parse_address(url(sentinel))
            sentinel.begin_fail_over()
            other.pause()  # the failover is over once it follows the new master
            assert await found(address) == ("127.0.0.1", replica.port)
            with sentinel.client() as client:
                (told,) = client.execute_command("SENTINEL", "MASTERS")
            other.resume()
    fields = dict(zip(told[::2], told[1::2], strict=True))
    assert int(fields[b"port"]) == master.port
    assert b"failover_in_progress" in fields[b"flags"]


async def found(address):
    """The master, once there is one."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await ask_sentinels(address, 1)
            except PeerUnavailableError:
                await asyncio.sleep(0.01)


class Writer:
    """Writes 0, 1, 2, ... to whichever server is the master."""

    def __init__(self, servers, sentinel):
        self._servers = {server.port: server for server in servers}
        self._sentinel = sentinel
        self._done = threading.Event()
        self.written = 0
        self._thread = threading.Thread(target=self._write)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join(30)

    def _write(self):
        while not self._done.is_set():
            with contextlib.suppress(redis.RedisError), self._servers[self._sentinel.master_port].client() as client:
                self._write_to(client)

    def _write_to(self, client):
        while not self._done.is_set():
            with client.pipeline() as pipeline:  # all or nothing; which of both is asked after a fail-over
                pipeline.watch("n")
                last = int(pipeline.get("n") or -1)
                pipeline.multi()
                for number in range(last + 1, last + 11):
                    pipeline.set("n", number)
                pipeline.execute()
            self.written = last + 10


async def test_a_fail_over_under_load_loses_and_repeats_nothing(trio):
    master, replica, sentinel = trio
    lost = []
    options = LinkOptions(retry_max=0.2, on_lost=lost.append)
    async with ReplicaStream(url(sentinel), snapshot=False, options=options) as stream:
        assert (stream.full_syncs, stream.partial_syncs) == (0, 1)  # the replica has seen to a backlog
        numbers, ids = [], set()

        async def read(enough):
            async with asyncio.timeout(60):
                async for event in stream:
                    numbers.append(int(event.argv[2])) if event.argv[1] == b"n" else None
                    ids.add(event.replid)
                    if enough():
                        return

        with Writer((master, replica), sentinel) as writer:
            await read(lambda: len(numbers) > 500)
            # A fail-over loses what the old master took and the new one had not got: that is Redis', not the stream's.
            # So writes are refused, not stopped, for the moment of the switch, as FAILOVER does it.
            master.client().config_set("min-replicas-to-write", 10)
            await asyncio.to_thread(eventually, lambda: offset(replica) == offset(master))
            failing_over = asyncio.ensure_future(asyncio.to_thread(sentinel.fail_over))
            await read(lambda: failing_over.done() and stream.partial_syncs >= 2)
            before = len(numbers)
            await read(lambda: len(numbers) > before + 2000)
        replica.client().set("n", writer.written + 1000)
        await read(lambda: numbers[-1] == writer.written + 1000)

        assert failing_over.result() == replica.port
        assert numbers[:-1] == list(range(writer.written + 1))
        assert len(ids) == 2
        assert stream.full_syncs == 0
        assert lost


async def test_clients_follow_the_master(trio):
    master, replica, sentinel = trio
    address = parse_address(url(sentinel))
    client = open_client(address, 2.0, connections=1)
    await client.set("a", 1)
    assert (await find_master(address, 2.0)).port == master.port

    await asyncio.to_thread(sentinel.fail_over)

    async def written():
        with contextlib.suppress(LinkLostError, PeerUnavailableError), translated(address):
            await client.set("a", 2)
        return replica.client().get("a") == b"2"  # until it was demoted, the old master took writes, and lost them

    await eventually_async(written, 20)
    await client.aclose()


async def test_whoever_finds_another_master_first_lets_all_clients_know(trio, monkeypatch):
    """Else they would write to the old one, or compare with it, until they ask for themselves."""
    _, replica, sentinel = trio
    monkeypatch.setattr("redisrepl.local.sentinel.WATCH_PERIOD", 3600.0)
    followed, address = Followed(), parse_address(url(sentinel))
    client = open_client(address, 2.0, connections=1, followed=followed)
    for number in (1, 2):  # connected, and asked
        await client.set("a", number)
    await asyncio.to_thread(sentinel.fail_over)

    async def named():
        return (await ask_sentinels(address, 2.0))[1] == replica.port  # a moment later than by GET-MASTER-ADDR-BY-NAME

    await eventually_async(named)
    followed.found("")
    await client.set("a", 3)

    assert replica.client().get("a") == b"3"
    await client.aclose()


async def test_a_connection_to_a_master_that_was_demoted_is_given_up(trio):
    master, replica, sentinel = trio
    address = parse_address(url(sentinel))
    client = open_client(address, 2.0, connections=1)
    await client.set("a", 1)
    master.client().config_set("min-replicas-to-write", 0)
    master.client().execute_command("FAILOVER", "TO", "127.0.0.1", replica.port)  # does not cut clients' connections
    await eventually_async(lambda: replica.client().role()[0] == b"master")

    with pytest.raises(LinkLostError, match="is a replica now"), translated(address):
        await client.set("a", 2)
    assert not client.connection_pool._available_connections[0].is_connected
    await client.aclose()


async def test_a_replica_that_is_named_as_master_is_not_taken(trio):
    master, replica, sentinel = trio
    sentinel.pause()  # it must not see what comes
    master.client().execute_command("FAILOVER", "TO", "127.0.0.1", replica.port)
    await eventually_async(lambda: replica.client().role()[0] == b"master")
    sentinel.resume()
    address = parse_address(url(sentinel))
    seen = []

    async def refused():
        try:
            seen.append((await find_master(address, 2.0)).port)
        except PeerUnavailableError as error:
            seen.append(str(error))
        return seen[-1] == replica.port or "is a replica now" in str(seen[-1])

    assert await eventually_async(refused)
    assert master.port not in seen


async def test_the_next_sentinel_is_asked_when_one_is_away(trio):
    master, _, sentinel = trio
    nobody = free_port()

    assert await ask_sentinels(parse_address(url(sentinel, nobody)), 2.0) == ("127.0.0.1", master.port)
    release_port(nobody)


async def test_a_service_that_no_sentinel_knows(trio):
    *_, sentinel = trio

    said = f"knows a working master named other: .*:{sentinel.port}: it knows no such master, but site$"
    with pytest.raises(PeerUnavailableError, match=said):
        await ask_sentinels(parse_address(f"redis-sentinel://127.0.0.1:{sentinel.port}/other"), 2.0)


async def test_a_master_that_its_sentinel_counts_as_down_is_said_to_be(trio):
    master, replica, sentinel = trio
    replica.client().config_set("replica-priority", 0)  # nobody can be promoted
    master.pause()
    said = []

    async def down():
        try:
            await ask_sentinels(parse_address(url(sentinel)), 2.0)
        except PeerUnavailableError as error:
            said.append(str(error))
        return said

    try:
        await eventually_async(down, 20)
    finally:
        master.resume()
    assert said[0].endswith(
        f"named {sentinel.service}: redis://127.0.0.1:{sentinel.port}: it counts that master as down"
    )


async def test_sentinels_that_want_a_password(trio):
    master, _, sentinel = trio
    with redis.Redis(port=sentinel.port) as client:
        client.execute_command("ACL", "SETUSER", "ask", "on", ">pw", "+@all")
        client.execute_command("ACL", "SETUSER", "default", "resetpass", ">other")
    base = url(sentinel)

    for address in (parse_address(base), parse_address(f"{base}?sentinel_username=ask&sentinel_password=no")):
        with pytest.raises(RefusedError, match="refuses"):
            await ask_sentinels(address, 2.0)
    right = parse_address(f"{base}?sentinel_username=ask&sentinel_password=pw")
    assert await ask_sentinels(right, 2.0) == ("127.0.0.1", master.port)
    assert "pw" not in repr(right)


async def test_a_sentinel_that_says_nothing_is_asked_once_by_all_who_use_an_address(trio, monkeypatch):
    master, _, sentinel = trio
    monkeypatch.setattr("redisrepl.local.sentinel.WATCH_PERIOD", 0.0)
    with FaultProxy(sentinel.port) as silent:
        silent.stall()
        address = parse_address(url(sentinel, silent.port))
        clients = [open_client(address, 2.0, connections=1) for _ in range(2)]
        for client in clients * 3:  # connected, and asked before each of the next
            await client.set("a", 1)
        assert await ask_sentinels(address, 2.0) == ("127.0.0.1", master.port)
        assert silent.counters().accepted == 1
        for client in clients:
            await client.aclose()


@pytest.mark.parametrize(("silent", "rounds"), [({("a", 1), ("b", 2)}, 5), ({("a", 1)}, 33)])
async def test_where_no_sentinel_answers_they_hold_up_whoever_asks_for_a_tenth_of_the_time(monkeypatch, silent, rounds):
    """Where one does, though it knows no working master, a failover is under way, and each second counts."""
    address, clock, asked = SiteAddress(service="site", sentinels=(("a", 1), ("b", 2))), Clock(), []

    async def ask(*_):
        asked.append(clock.now)
        clock.now += 2.0
        address.silent.update(silent)
        raise PeerUnavailableError("no Sentinel knows a master")

    monkeypatch.setattr("redisrepl.local.sentinel.ask_sentinels", ask)
    watch = MasterWatch(address, 2.0, clock=clock)
    began = clock.now
    while clock.now < began + 99.0:
        assert await watch.successor("127.0.0.1", 1) is None
        clock.now = max(clock.now, watch.due)
    assert len(asked) == rounds


def events_at(address, client):
    return SiteEvents(address, client, [b"ns:"], KINDS, silence=600.0, connect_wait=600.0).events()


def stream_of(address, _):
    return ReplicaLink(address, acknowledged=lambda: 0, silence=600.0).events()


@pytest.mark.parametrize("follow", [events_at, stream_of])
async def test_a_link_to_a_master_that_says_nothing_more_ends_when_another_takes_its_place(trio, follow, monkeypatch):
    monkeypatch.setattr("redisrepl.local.notify._FLAGS_AGAIN", 600.0)  # nothing else is asked of it
    monkeypatch.setattr("redisrepl.local.notify._FLAGS_PERIOD", 600.0)
    master, replica, sentinel = trio
    address = parse_address(url(sentinel))
    client = open_client(address.at("127.0.0.1", master.port), 5.0, connections=1)
    async with asyncio.timeout(30), aclosing(follow(address, client)) as news:
        await anext(news)
        master.pause()
        try:
            with pytest.raises(LinkLostError, match=f"was replaced by 127.0.0.1:{replica.port}"):
                async for _ in news:
                    pass
        finally:
            master.resume()
    await client.aclose()


def test_the_url():
    address = parse_address("redis-sentinel://me:se%40cret@one:1,[::1]:2,three/site/4?sentinel_password=p%2Bw")

    assert address.sentinels == (("one", 1), ("::1", 2), ("three", 26379))
    assert (address.service, address.database, address.username, address.password) == ("site", 4, "me", "se@cret")
    assert address.sentinel_secret == "p+w"
    assert str(address) == "redis-sentinel://one:1,[::1]:2,three:26379/site"
    assert str(address.at("two", 2)) == "redis://two:2"
    assert str(parse_address("rediss-sentinel://one/site")) == "rediss-sentinel://one:26379/site"


@pytest.mark.parametrize(
    "text",
    ["redis-sentinel://", "redis-sentinel://one:1", "redis-sentinel:///site", "redis-sentinel://one,,two/site"],
)
def test_a_url_that_names_nothing(text):
    with pytest.raises(ConfigError, match="no Sentinel or no service"):
        parse_address(text)


@pytest.mark.parametrize("text", ["redis-sentinel://one:x/site", "redis-sentinel://one:70000/site"])
def test_a_url_that_makes_no_sense(text):
    with pytest.raises(ConfigError, match="not an address"):
        parse_address(text)
