"""`ReplicaStream` at a real server: nothing lost, nothing repeated, whatever becomes of the link."""

import asyncio
import contextlib
import itertools
import socket
import threading
import time

import pytest
import stamina.instrumentation

from redisrepl import (
    CertificateFiles,
    Command,
    Entry,
    Function,
    LinkOptions,
    Position,
    ReplicaStream,
    SnapshotEnd,
    SnapshotStart,
)
from redisrepl.errors import ConfigError, PeerUnavailableError, RdbError, RefusedError
from redisrepl.local.replica import parse_place
from redisrepl.wire.transactions import StreamPlace
from testbed import FaultProxy, RedisServer, eventually_async

SWIFT = LinkOptions(retry_max=0.1, connect_wait=5.0)


@pytest.fixture(autouse=True)
def _quiet():
    before = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([])
    yield
    stamina.instrumentation.set_on_retry_hooks(before)


@pytest.fixture
def server():
    with RedisServer(config={"repl-backlog-size": "64mb"}) as server:
        yield server


@pytest.fixture
def client(server):
    return server.client()


def keep(server):
    """A replica that is there first: the server has a backlog to go on from."""
    return ReplicaStream(server.url, snapshot=False, options=SWIFT)


async def until(stream, key):
    """Events up to the command that names this key."""
    events = []
    async with asyncio.timeout(20):
        async for event in stream:
            events.append(event)
            if isinstance(event, Command) and key in event.argv:
                break
    return events


async def snapshot(stream):
    events = []
    async with asyncio.timeout(20):
        async for event in stream:
            events.append(event)
            if isinstance(event, SnapshotEnd):
                break
    return events


def argvs(events):
    return [list(event.argv) for event in events if isinstance(event, Command)]


async def test_a_snapshot_then_every_command(server, client):
    client.set("a", "1")
    client.hset("h", "f", "v")
    client.select(5)
    client.rpush("l", *range(20_000))
    client.function_load("#!lua name=lib\nredis.register_function('f', function() return 1 end)")
    async with ReplicaStream(server.url, options=SWIFT) as stream:
        assert stream.position is None
        events = await snapshot(stream)
        start, *middle, end = events

        assert start == SnapshotStart(end.position, restarted=False)
        assert stream.position == end.position
        assert {(e.db, e.key) for e in middle if isinstance(e, Entry)} == {(0, b"a"), (0, b"h"), (5, b"l")}
        assert [len(e.value) for e in middle if isinstance(e, Entry) and e.key == b"l"] == [20_000]
        assert len([e for e in middle if isinstance(e, Function)]) == 1

        client.set("x", "1")
        server.client().set("y", "2")
        first, second = await until(stream, b"y")
        assert first[:2] == ([b"SET", b"x", b"1"], 5)
        assert second[:2] == ([b"SET", b"y", b"2"], 0)
        assert stream.position == second.position
        assert stream.bookmark == f"{second.replid}:{second.offset}:0"


async def test_prefixes_choose_keys_and_commands(server, client):
    client.mset({"site:a": 1, "other:a": 2})
    async with ReplicaStream(server.url, prefixes=(b"site:",), options=SWIFT) as stream:
        keys = [event.key for event in await snapshot(stream) if isinstance(event, Entry)]
        client.set("other:b", 1)
        client.mset({"other:c": 1, "site:c": 2})
        client.rpush("site:l", "x")
        events = await until(stream, b"site:l")

    assert keys == [b"site:a"]
    assert [event.argv[0] for event in events] == [b"MSET", b"RPUSH"]


async def test_resume_from_a_bookmark_in_another_database(server):
    client = server.client(db=7)
    async with keep(server) as stream:
        client.set("a", 1)
        await until(stream, b"a")
        bookmark = stream.bookmark
        client.set("b", 1)
    assert bookmark.endswith(":7")
    async with ReplicaStream(server.url, bookmark, options=SWIFT) as stream:
        client.set("c", 1)
        events = await until(stream, b"c")

        assert (argvs(events), {event.database for event in events}) == (
            [[b"SET", b"b", b"1"], [b"SET", b"c", b"1"]],
            {7},
        )
        assert (stream.full_syncs, stream.partial_syncs) == (0, 1)
    position = parse_place(bookmark).position
    async with ReplicaStream(server.url, position, database=7, options=SWIFT) as stream:
        assert [event.database for event in await until(stream, b"c")] == [7, 7]


async def test_without_a_snapshot_it_begins_with_the_next_write(server, client):
    client.set("old", 1)
    async with keep(server) as first:
        assert [type(event) for event in await snapshot(first)] == [SnapshotStart, SnapshotEnd]
        async with ReplicaStream(server.url, snapshot=False, options=SWIFT) as second:
            client.set("new", 1)

            assert argvs(await until(second, b"new")) == [[b"SET", b"new", b"1"]]
            assert (second.full_syncs, second.partial_syncs) == (0, 1)


async def test_without_a_snapshot_the_database_is_never_guessed(server):
    one, two = server.client(db=1), server.client(db=2)
    one.set("old", 1)
    two.set("old", 1)
    async with keep(server) as first:
        await snapshot(first)
        two.set("x", 1)
        async with ReplicaStream(server.url, snapshot=False, options=SWIFT) as stream:
            two.set("new", 1)
            events = await until(stream, b"new")

    assert [(event.argv[1], event.database) for event in events if isinstance(event, Command)] == [(b"new", 2)]
    assert not [event for event in events if isinstance(event, Entry)]


async def test_the_database_after_the_snapshot_of_a_replica(server):
    client = server.client(db=3)
    with RedisServer(replica_of=server) as replica:
        await eventually_async(lambda: replica.client().info("replication")["master_link_status"] == "up")
        client.set("a", 1)
        await eventually_async(lambda: replica.client(db=3).get("a"))
        async with ReplicaStream(replica.url, options=SWIFT) as stream:
            await snapshot(stream)
            client.set("b", 1)  # the master has selected 3 already, and does not say so again

            assert [event.database for event in await until(stream, b"b")] == [3]


async def test_transactions_and_scripts_stay_together(server, client):
    async with keep(server) as stream:
        await snapshot(stream)
        pipeline = client.pipeline()
        for number in range(3):
            pipeline.set(f"k{number}", number)
        pipeline.execute()
        client.eval("redis.call('SET', 's1', 1) redis.call('SET', 's2', 2)", 0)
        client.set("end", 1)
        positions = []
        async for event in stream:
            positions.append((event, stream.position, stream.bookmark))
            if event.argv[1] == b"end":
                break

    transaction, script, (last, *_) = positions[:3], positions[3:5], positions[5]
    for part in (transaction, script):
        assert len({event.transaction for event, *_ in part} - {None}) == 1
        assert len({position for _, position, _ in part[:-1]}) == 1
        assert part[0][1].offset <= part[0][0].transaction < part[-1][1].offset
        assert [event.completes for event, *_ in part] == [False] * (len(part) - 1) + [True]
    assert last.transaction is None
    async with ReplicaStream(server.url, transaction[1][2], options=SWIFT) as again:  # begun, not completed
        assert [event.argv[1] for event in await until(again, b"end")] == [b"k0", b"k1", b"k2", b"s1", b"s2", b"end"]


async def test_a_transaction_cut_by_the_network_comes_once_and_whole(server, client):
    with FaultProxy(server.port) as proxy:
        lost = []
        options = LinkOptions(retry_max=0.1, on_lost=lost.append)
        async with ReplicaStream(f"redis://127.0.0.1:{proxy.port}", snapshot=False, options=options) as stream:
            await snapshot(stream)
            client.set("before", 1)
            await until(stream, b"before")
            proxy.truncate(3000, "to_client")
            pipeline = client.pipeline()
            for number in range(100):
                pipeline.set(f"k{number}", "x" * 100)
            pipeline.execute()
            client.set("end", 1)
            events = await until(stream, b"end")

            assert [event.argv[1] for event in events] == [*(b"k%d" % n for n in range(100)), b"end"]
            assert len({event.transaction for event in events}) == 2
            assert (stream.full_syncs, stream.partial_syncs) == (1, len(lost))
            assert lost


async def test_a_restart_that_keeps_the_data_is_told_as_a_restart_of_the_history(server, client):
    async with ReplicaStream(server.url, options=SWIFT) as stream:
        await snapshot(stream)
        client.set("a", 1)
        await until(stream, b"a")
        server.kill()
        server.start()
        client.set("b", 1)
        start, *_ = await snapshot(stream)

        assert isinstance(start, SnapshotStart)
        assert start.restarted
        assert stream.full_syncs == 2


async def test_a_position_that_the_server_no_longer_has(server, client):
    client.set("a", 1)
    async with ReplicaStream(server.url, Position("f" * 40, 1000), options=SWIFT) as stream:
        start, entry, _ = await snapshot(stream)

        assert start.restarted
        assert entry.key == b"a"
        assert stream.full_syncs == 1


async def test_writes_go_on_while_the_link_is_cut_again_and_again(server):
    total, cuts = 30_000, 12
    written = threading.Event()

    def write():
        with server.client() as writer:
            for start in range(0, total, 100):
                pipeline = writer.pipeline(transaction=start % 300 == 0)
                for number in range(start, start + 100):
                    pipeline.set("n", number)
                pipeline.execute()
        written.set()

    with FaultProxy(server.port) as proxy:
        async with ReplicaStream(f"redis://127.0.0.1:{proxy.port}", snapshot=False, options=SWIFT) as stream:
            await snapshot(stream)
            thread = threading.Thread(target=write)
            thread.start()
            numbers = []
            async with asyncio.timeout(60):
                async for event in stream:
                    numbers.append(int(event.argv[2]))
                    if len(numbers) % (total // cuts) == 0:
                        proxy.cut()
                    if numbers[-1] == total - 1:
                        break
            thread.join()

            assert numbers == list(range(total))
            assert stream.full_syncs == 1
            assert stream.partial_syncs >= 2  # a cut that comes before the link is made again cuts nothing


async def test_acknowledged_is_what_the_program_has_consumed(server, client):
    async with keep(server) as stream:
        await snapshot(stream)
        client.set("a", 1)
        client.set("b", 1)
        got = await anext(stream)

        def acked():
            return client.info("replication")["slave0"]["offset"]

        assert got.argv[1] == b"a"
        assert client.wait(1, 300) == 0  # handed out is not consumed
        waiting = asyncio.ensure_future(until(stream, b"c"))
        await eventually_async(lambda: acked() >= stream.position.offset > got.offset)
        assert await asyncio.to_thread(client.wait, 1, 5000) == 1
        client.set("c", 1)
        await waiting


async def test_a_slow_program_keeps_its_link(client, server):
    client.config_set("repl-timeout", 2)
    async with keep(server) as stream:
        await snapshot(stream)
        client.set("a", 1)
        assert (await anext(stream)).argv[1] == b"a"
        before = client.info("replication")["master_repl_offset"]
        began = time.monotonic()
        # The server drops a replica that was silent for two seconds: let it have every chance to.
        await eventually_async(lambda: time.monotonic() - began > 4)
        client.set("b", 1)

        assert client.info("replication")["connected_slaves"] == 1
        await until(stream, b"b")
        assert stream.partial_syncs == 0
        assert stream.position.offset > before


async def test_an_own_acknowledgement(server, client):
    durable = itertools.count()
    options = LinkOptions(acknowledged=lambda: next(durable) and 7)
    async with ReplicaStream(server.url, options=options) as stream:
        await snapshot(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await eventually_async(lambda: client.info("replication")["slave0"]["offset"] == 7)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting


async def test_cancelling_loses_nothing(server, client):
    async with keep(server) as stream:
        await snapshot(stream)
        for number in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(stream), 0.05)
            client.set("n", number)
            event = await anext(stream)

            assert event.argv == [b"SET", b"n", b"%d" % number]


async def test_batches_give_the_same(server, client):
    async with keep(server) as stream:
        await snapshot(stream)
        pipeline = client.pipeline(transaction=False)
        for number in range(5000):
            pipeline.set("n", number)
        pipeline.execute()
        first = await anext(stream)
        rest = []
        async for batch in stream.batches():
            rest += batch
            assert stream.position == batch[-1].position
            if len(rest) == 4999:
                break

    assert [int(event.argv[2]) for event in [first, *rest]] == list(range(5000))


async def test_closed_and_entered_again(server, client):
    stream = keep(server)
    async with stream:
        await snapshot(stream)
        client.set("a", 1)
        await until(stream, b"a")
    client.set("b", 1)
    async with stream:
        assert [event.argv[1] for event in await until(stream, b"b")] == [b"b"]


async def test_errors_at_the_start_are_raised(server):
    with RedisServer(password="right") as locked:
        with pytest.raises(RefusedError, match="refuses the user or password"):
            async with ReplicaStream(f"redis://:wrong@127.0.0.1:{locked.port}"):
                pass
        async with ReplicaStream(locked.url, snapshot=False) as stream:
            await snapshot(stream)
    server.stop()
    with pytest.raises(PeerUnavailableError, match="cannot be reached"):
        async with ReplicaStream(server.url):
            pass


async def test_a_user_who_may_replicate_only():
    with RedisServer(users=["repl on >pw +psync +replconf"]) as server:
        url = f"redis://repl:pw@127.0.0.1:{server.port}"
        async with ReplicaStream(url, snapshot=False, options=SWIFT) as stream:
            await snapshot(stream)
            server.client().set("a", 1)

            assert argvs(await until(stream, b"a")) == [[b"SET", b"a", b"1"]]


async def test_a_snapshot_that_cannot_be_read_ends_the_stream():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            with listening.accept()[0] as link, link.makefile("rwb", buffering=0) as file:
                while b"PSYNC" not in (data := file.read(65536)):
                    file.write(b"+OK\r\n")
                file.write(b"+FULLRESYNC " + b"a" * 40 + b" 1\r\n$10\r\nNOTREDIS!!")
                assert data
                file.read(100)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(RdbError):
            async with ReplicaStream(f"redis://127.0.0.1:{listening.getsockname()[1]}") as stream:
                await snapshot(stream)
        thread.join(10)


async def test_tls_and_unix_sockets(certificates):
    with RedisServer(tls=certificates, unix_socket=True) as server:
        files = CertificateFiles(certificates.ca, certificates.client, certificates.client_key)
        for url in (server.tls_url, server.unix_url):
            async with ReplicaStream(url, tls=files, options=SWIFT) as stream:
                assert len(await snapshot(stream)) == 2


@pytest.mark.parametrize("text", ["", "x:1", "f" * 40, "f" * 40 + ":", "f" * 40 + ":1:", "f" * 40 + ":-1"])
def test_no_position(text):
    with pytest.raises(ConfigError, match="REPLID:OFFSET"):
        ReplicaStream("redis://", text)


def test_positions():
    assert parse_place("F" * 40 + ":12") == StreamPlace(Position("F" * 40, 12), 0)
    assert parse_place("f" * 40 + ":12:3") == StreamPlace(Position("f" * 40, 12), 3)
