"""What a real site tells of its history, and what it still holds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from redisrepl.changes import HashState, StringState
from redisrepl.errors import LinkLostError, PeerUnavailableError
from redisrepl.local.address import parse_address
from redisrepl.local.connection import open_client
from redisrepl.local.history import Evictions, SiteFacts, SiteHistory
from redisrepl.local.read import SiteReader
from redisrepl.wire.digests import digest_of, element_of
from testbed import RedisServer, eventually, eventually_async
from tests.samples import ALL_BYTES

OURS, OTHER, NO_ID = "a" * 40, "b" * 40, "0" * 40


@pytest.fixture(scope="module")
def server():
    with RedisServer(config={"maxmemory-policy": "allkeys-lru"}) as server:
        yield server


@pytest.fixture
async def history_of():
    clients = []

    def connect(server):
        address = parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr")
        clients.append(open_client(address, 5.0, connections=1))
        return SiteHistory(clients[-1], address, SiteReader(clients[-1], address))

    yield connect
    for client in clients:
        await client.aclose()


async def test_which_process_it_is_and_where_its_history_stands(server, history_of):
    redis = server.client()
    facts = await history_of(server).ask()
    info = redis.info("replication")
    assert facts.run_id == redis.info("server")["run_id"]
    assert (facts.role, facts.replid, facts.offset) == ("master", info["master_replid"], info["master_repl_offset"])
    assert facts.alone
    assert facts.continues(facts.replid, facts.offset)


async def test_a_replica_that_became_a_master_goes_on_from_the_history_of_its_master(history_of):
    with RedisServer() as master, RedisServer(replica_of=master) as replica:
        eventually(lambda: replica.client().info("replication")["master_link_status"] == "up")
        master.client().set("k", "v")
        before = await history_of(master).ask()
        eventually(lambda: replica.client().info("replication")["master_repl_offset"] >= before.offset)
        assert (await history_of(replica).ask()).role == "slave"
        replica.client().replicaof("NO", "ONE")
        after = await history_of(replica).ask()
    assert after.role == "master"
    assert after.replid != before.replid == after.earlier
    assert not after.alone
    assert after.continues(before.replid, before.offset)
    assert not after.continues(before.replid, after.earlier_to)


async def test_a_site_that_is_busy_with_a_script_tells_nothing_rather_than_no_history(server, history_of):
    redis = server.client()
    redis.config_set("busy-reply-threshold", 1)
    with ThreadPoolExecutor(1) as worker:
        script = worker.submit(server.client().eval, "while true do end", 0)
        try:
            await eventually_async(lambda: is_busy(redis))
            with pytest.raises(PeerUnavailableError, match="BUSY"):
                await history_of(server).ask()
        finally:
            redis.script_kill()
            script.exception()


def is_busy(redis):
    try:
        return not redis.ping()
    except ResponseError:
        return True


async def test_how_many_keys_it_has_evicted(server, history_of):
    redis, history = server.client(), history_of(server)
    redis.set("k", "v")
    before = await history.ask()
    redis.config_set("maxmemory", 1)
    redis.config_set("maxmemory", 0)
    assert (await history.ask()).evicted > before.evicted


@pytest.mark.parametrize(
    ("before", "evicted", "processed", "since"),
    [
        ((0, 5), 0, 9, False),
        ((0, 5), 1, 9, True),
        ((7, 5), 7, 9, False),
        ((7, 5), 7, 4, True),  # the counters were reset, and it evicted as many again
        ((7, 5), 0, 4, True),  # the counters were reset, or it is another process
        ((0, 5), 0, 4, False),
    ],
)
def test_whether_it_has_evicted_keys_since(before, evicted, processed, since):
    assert SiteFacts(evicted=evicted, processed=processed).evicted_since(Evictions(*before)) == since


async def test_the_offset_is_behind_the_removals_of_all_evictions_that_are_counted(server, history_of):
    """Each command that we ask evicts more keys; those that are counted must not come later in the stream."""
    redis, history = server.client(), history_of(server)
    with RedisServer(replica_of=server) as replica:
        eventually(lambda: replica.client().info("replication")["master_link_status"] == "up")
        redis.config_set("maxmemory-eviction-tenacity", 0)
        redis.mset({f"key:{number:06}": "v" for number in range(20_000)})
        removal = len(b"*2\r\n$3\r\nDEL\r\n$10\r\nkey:000000\r\n")
        before = await history.ask()
        redis.config_set("maxmemory", 1)
        try:
            for _ in range(20):
                facts = await history.ask()
                assert facts.offset - before.offset >= (facts.evicted - before.evicted) * removal
        finally:
            redis.config_set("maxmemory", 0)
            redis.config_set("maxmemory-eviction-tenacity", 10)
        assert facts.evicted > before.evicted


@pytest.mark.parametrize(
    ("facts", "replid", "seen", "continues"),
    [
        (SiteFacts(replid=OURS, offset=100), OURS, 100, True),
        (SiteFacts(replid=OURS, offset=99), OURS, 100, False),
        (SiteFacts(replid=OTHER, offset=500, earlier=OURS, earlier_to=101), OURS, 100, True),
        (SiteFacts(replid=OTHER, offset=500, earlier=OURS, earlier_to=100), OURS, 100, False),
        (SiteFacts(replid=OTHER, offset=500, earlier=NO_ID), OURS, 0, False),
    ],
)
def test_whether_a_history_continues_another(facts, replid, seen, continues):
    assert facts.continues(replid, seen) is continues


@pytest.mark.parametrize(
    ("facts", "alone"),
    [
        (SiteFacts(role="master", earlier=NO_ID), True),
        (SiteFacts(role="master", earlier="0"), True),
        (SiteFacts(role="master"), True),
        (SiteFacts(role="master", earlier=OTHER), False),
        (SiteFacts(role="slave", earlier=NO_ID), False),
        (SiteFacts(), False),
    ],
)
def test_whether_it_has_always_been_its_own_master(facts, alone):
    assert facts.alone is alone


async def test_where_it_may_not_be_asked_nothing_is_known(server, history_of):
    redis = server.client()
    redis.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        assert await history_of(server).ask() == SiteFacts()
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "+info")


async def test_a_site_that_is_not_there_cannot_be_asked(history_of):
    with RedisServer() as server:
        history = history_of(server)
    with pytest.raises(LinkLostError):
        await history.ask()


@pytest.mark.parametrize("together", [8 << 20, 1])
async def test_what_is_held_at_some_places(server, history_of, monkeypatch, together):
    monkeypatch.setattr("redisrepl.local.history._MAX_BYTES", together)
    redis = server.client()
    redis.flushall()
    redis.set(ALL_BYTES, "v")
    redis.hset("h", mapping={"f": "1", b"\xff": "2"})
    redis.rpush("list", "x")
    places = [
        (ALL_BYTES, None),
        (ALL_BYTES, b"f"),
        (b"h", None),
        (b"h", b"f"),
        (b"h", b"\xff"),
        (b"h", b"gone"),
        (b"gone", None),
        (b"gone", b"f"),
    ]
    assert await history_of(server).held(iter(places)) == {
        places[0]: digest_of(ALL_BYTES, StringState(b"v")),
        places[1]: None,
        places[2]: digest_of(b"h", HashState({b"f": b"1", b"\xff": b"2"})),
        places[3]: element_of(b"f", b"1"),
        places[4]: element_of(b"\xff", b"2"),
        places[5]: None,
        places[6]: None,
        places[7]: None,
    }
    assert await history_of(server).held([]) == {}


async def test_that_it_may_evict_is_told_once(server, history_of):
    history = history_of(server)
    with capture_logs() as logs:
        await history.ask()
        server.client().config_set("maxmemory", "100mb")
        for _ in range(2):
            await history.ask()
    server.client().config_set("maxmemory", 0)
    assert [(line["event"], line["policy"]) for line in logs] == [("site.may_evict", "allkeys-lru above 100 MiB")]
