"""What keys hold at the site: the same with scripts and without."""

import tracemalloc

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import DENIED, HashState, SequenceState, StringState
from redisrepl.errors import KeyDeniedError, PeerUnavailableError, RefusedError
from redisrepl.local.address import parse_address
from redisrepl.local.connection import open_client
from redisrepl.local.read import SiteReader
from redisrepl.wire.collections import COLLECTIONS
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value
from redisrepl.wire.groups import pending_name, place_name
from redisrepl.wire.states import TOO_LARGE
from testbed import RedisServer
from tests.samples import AWKWARD_NAMES, write

FAR = 4_102_444_800_000
STATES = {
    **{b"s:" + name: StringState(name) for name in AWKWARD_NAMES},
    **{b"h:" + name: HashState({name: name, b"f": b""}) for name in AWKWARD_NAMES},
    b"empty": StringState(b""),
    b"large": StringState(bytes(9 << 20)),
}
WAYS = {
    "scripts": {},
    "no right to run them": {"users": ["default on nopass ~* &* +@all -eval"]},
    "no such command": {"config": {"rename-command": 'EVAL ""'}},
}


@pytest.fixture(scope="module", params=WAYS)
def server(request):
    with RedisServer(**WAYS[request.param]) as server:
        yield server


@pytest.fixture
async def reader(server):
    address = parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr")
    client = open_client(address, 5.0, connections=1)
    yield SiteReader(client, address)
    await client.aclose()


async def test_where_the_stream_is(server, reader):
    at_site = server.client()
    assert await reader.offset() == at_site.info("replication")["master_repl_offset"]
    at_site.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        assert await reader.offset() == 0
    finally:
        at_site.execute_command("ACL", "SETUSER", "default", "+info")


async def test_where_the_stream_is_of_a_server_without_info():
    with RedisServer(config={"rename-command": 'INFO ""'}) as server:
        address = parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr")
        client = open_client(address, 5.0, connections=1)
        assert await SiteReader(client, address).offset() == 0
        await client.aclose()


async def test_all_states(server, reader):
    at_site = server.client()
    at_site.flushall()
    for key, state in STATES.items():
        write(at_site, key, state)
    at_site.rpush("list", 1)
    at_site.set("expires", "v", pxat=FAR)
    keys = [*STATES, b"none", b"list", b"expires"]
    *found, none, other, expires = await reader.states(keys)
    assert found == list(STATES.values())
    assert (none, other, expires.value) == (None, "list", b"v")
    assert abs(expires.expires_at_ms - FAR) < 1000  # without scripts: what is left, added to the server's clock


OTHERS = {
    b"set": HashState({b"a": b"", b"\xff": b""}, None, "set"),
    b"zset": HashState({b"a": b"0.10000000000000001", b"b": b"-inf"}, None, "zset"),
    b"list": SequenceState((b"a", b"", b"a")),
}


async def test_other_types_are_read_where_they_are_asked_for(server):
    address = parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr")
    client, at_site = open_client(address, 5.0, connections=1), server.client()
    at_site.flushall()
    for key, state in OTHERS.items():
        write(at_site, key, state)
    reader = SiteReader(client, address, types={"string", "hash", "set", "zset", "list"})
    assert await reader.states([*OTHERS, b"none"]) == [*OTHERS.values(), None]
    assert await reader.fields(b"set", [b"a", b"none"], "set") == [b"", None]
    assert await reader.fields(b"zset", [b"b", b"none", b"a"], "zset") == [b"-inf", None, b"0.10000000000000001"]
    assert await reader.fields(b"zset", [b"a"], "set") == [None]
    await client.aclose()


LARGE = {
    b"hash": HashState({b"%d" % number: b"v" for number in range(6000)}, FAR),
    b"set": HashState({b"%d" % number: b"" for number in range(6000)}, None, "set"),
    b"zset": HashState({b"%d" % number: b"0.10000000000000001" for number in range(6000)}, None, "zset"),
}


async def test_large_collections_are_read_in_pages(server, request):
    address = parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr")
    client, at_site = open_client(address, 5.0, connections=1), server.client()
    at_site.flushall()
    at_site.hset("hash", mapping=LARGE[b"hash"].fields)
    at_site.pexpireat("hash", FAR)
    at_site.sadd("set", *LARGE[b"set"].fields)
    at_site.zadd("zset", dict.fromkeys(LARGE[b"zset"].fields, 0.1))
    server.reset_commandstats()
    reader = SiteReader(client, address, types=COLLECTIONS)
    found = await reader.states([*LARGE, b"none"])
    assert [(s.fields, s.type) for s in found[:-1]] == [(s.fields, s.type) for s in LARGE.values()]
    assert found[-1] is None
    if request.node.callspec.params["server"] == "scripts":
        assert found[0] == LARGE[b"hash"]
        assert min(server.commandstats()[scan] for scan in ("hscan", "sscan", "zscan")) >= 6
        assert server.commandstats().keys().isdisjoint({"hgetall", "smembers", "zrange"})
        assert len(await reader.first_states(list(LARGE), 20_000)) == 1  # no more are held than that
        small = SiteReader(client, address, 20_000, COLLECTIONS)
        assert await small.states([*LARGE, b"none"]) == [TOO_LARGE, TOO_LARGE, TOO_LARGE, None]
        at_site.execute_command("ACL", "SETUSER", "default", "-hscan")
        assert await reader.states([*LARGE]) == [*LARGE.values()]
        assert "hgetall" in server.commandstats()
        at_site.execute_command("ACL", "SETUSER", "default", "+hscan")
    await client.aclose()


async def test_a_key_that_is_denied_does_not_hide_the_others(server, reader):
    at_site = server.client()
    at_site.flushall()
    at_site.mset({"a": 1, "secret": 2, "b": 3})
    at_site.hset("hidden", "f", "v")
    at_site.execute_command("ACL", "SETUSER", "default", "resetkeys", "~a", "~b")
    try:
        found = await reader.states([b"a", b"secret", b"b", b"hidden"])
        with pytest.raises(KeyDeniedError):
            await reader.fields(b"hidden", [b"f"])
    finally:
        at_site.execute_command("ACL", "SETUSER", "default", "allkeys")
    assert found == [StringState(b"1"), DENIED, StringState(b"3"), DENIED]


@pytest.mark.parametrize(("denied", "key"), [("-get", b"string"), ("-hgetall", b"hash"), ("-lrange", b"list")])
async def test_what_may_not_be_read_is_not_taken_for_nothing(denied, key):
    """It would be removed at the hub."""
    with RedisServer(users=[f"default on nopass ~* &* +@all -eval {denied}"]) as server:
        at_site = server.client()
        at_site.set("string", "v")
        at_site.hset("hash", "f", "v")
        at_site.rpush("list", "v")
        address = parse_address(f"redis://127.0.0.1:{server.port}")
        client = open_client(address, 5.0, connections=1)
        reader = SiteReader(client, address, types={"hash", "list"})
        with pytest.raises(RefusedError, match="refuses us to read"):
            await reader.states([b"string", b"hash", b"list"])
        assert await reader.states([b"none"]) == [None]
        (other,) = await reader.states([b"hash" if key != b"hash" else b"string"])
        assert other is not None
        await client.aclose()


async def test_elements_of_groups_are_read_with_those_of_their_stream(server, reader):
    at_site = server.client()
    at_site.flushall()
    for number in (1, 2):
        at_site.xadd("s", {"f": "v"}, id=f"{number}-0")
    at_site.xgroup_create("s", "g", "0")
    at_site.xreadgroup("g", "c", {"s": ">"}, count=1)
    one, two, other = pending_name(b"g", b"1-0"), pending_name(b"g", b"2-0"), pending_name(b"h", b"1-0")
    names = [one, entry_name(b"1-0"), two, LAST_ID, place_name(b"h"), place_name(b"g"), entry_name(b"9-0"), other]
    value = entry_value([b"f", b"v"])
    assert await reader.fields(b"s", names, "stream") == [b"1 c", value, None, b"2-0", None, b"1-0", None, None]
    assert await reader.fields(b"s", [one], "stream") == [b"1 c"]
    assert await reader.fields(b"none", names, "stream") == [None] * len(names)
    at_site.set("string", "v")
    assert await reader.fields(b"string", names, "stream") == [None] * len(names)
    for denied in ("xpending", "xinfo"):
        at_site.execute_command("ACL", "SETUSER", "default", f"-{denied}")
        try:
            with pytest.raises((PeerUnavailableError, RefusedError), match=denied):  # nothing is taken for removed
                await reader.fields(b"s", names, "stream")
        finally:
            at_site.execute_command("ACL", "SETUSER", "default", f"+{denied}")


@pytest.mark.parametrize("kind", ["string", "hash", "list", "many fields"])
async def test_a_value_that_is_too_large_is_named_and_not_held(server, kind):
    at_site = server.client()
    at_site.flushall()
    match kind:
        case "string":
            at_site.set("large", bytes(40 << 20))
        case "hash":
            at_site.hset("large", mapping={b"f%d" % number: bytes(2 << 20) for number in range(12)})
        case "many fields":
            at_site.hset("large", mapping={b"%d" % number: b"x" * 20 for number in range(60_000)})
        case _:
            for _ in range(6):
                at_site.rpush("large", bytes(5 << 20))
    at_site.mset({"small": "v", "most": bytes(1 << 20), "much": bytes((1 << 20) + 1)})
    address = parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr")
    client = open_client(address, 60.0, connections=1)
    reader = SiteReader(client, address, 1 << 20, types={"hash", "list"})
    await reader.states([b"small"])
    tracemalloc.start()
    with capture_logs() as logs:
        found = await reader.states([b"small", b"large", b"most", b"much", b"large"])
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    await client.aclose()
    assert [type(state) for state in found] == [StringState, str, StringState, str, str]
    assert {found[1], found[3], found[4]} == {TOO_LARGE}
    assert sorted(line["key"] for line in logs) == ["large", "much"]
    assert taken < 24 << 20
