"""What is written at the site: as one transaction, unless a client was faster."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import redis
from structlog.testing import capture_logs

from redisrepl.changes import Deleted, ExpirySet, FieldsDeleted, HashSet, HashState, SequenceSet, StringSet
from redisrepl.errors import LinkLostError, OutcomeUnknownError, PeerUnavailableError, RefusedError
from redisrepl.local.address import parse_address
from redisrepl.local.apply import Applied, SiteWriter
from redisrepl.local.connection import open_client
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value
from testbed import RedisServer, eventually_async
from tests.clock import Clock

FAR = 4_102_444_800_000
KEYS = [b"s", b"e", b"h", b"gone", b"f"]


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def at_site(server):
    client = server.client()
    client.config_set("min-replicas-to-write", 0)
    client.flushall()
    return client


@pytest.fixture
async def connected(server):
    clients = []

    def connect(url=f"redis://127.0.0.1:{server.port}", origin=b"us", clock=time.monotonic):
        address = parse_address(url, flag="--raddr")
        clients.append(open_client(address, 5.0, connections=1))
        return SiteWriter(clients[-1], address, origin, clock=clock)

    yield connect
    for client in clients:
        await client.aclose()


async def test_every_kind_of_change(at_site, connected):
    at_site.set("gone", "x")
    at_site.hset("f", mapping={"a": 1, "b": 2})
    changes = [
        StringSet(b"s", b"\x00\xff"),
        StringSet(b"e", b"v", FAR),
        HashSet(b"h", {b"f": b"1", b"g": b"\r\n"}),
        Deleted(b"gone"),
        FieldsDeleted(b"f", (b"a",)),
        ExpirySet(b"f", FAR),
    ]
    async with connected().turn(KEYS) as turn:
        applied = await turn.apply(changes)

    assert applied == Applied({}, at_site.info("replication")["master_repl_offset"])
    assert at_site.get("s") == b"\x00\xff"
    assert (at_site.get("e"), at_site.pexpiretime("e")) == (b"v", FAR)
    assert at_site.hgetall("h") == {b"f": b"1", b"g": b"\r\n"}
    assert (at_site.hgetall("f"), at_site.pexpiretime("f")) == ({b"b": b"2"}, FAR)
    assert not at_site.exists("gone")


async def test_streams_of_one_turn_are_put_by_one_script_and_each_has_its_own_outcome(at_site, connected):
    """One of them is no stream, and of one an entry is inserted."""
    names = [b"s1", b"s2", b"s3", b"s4"]
    entries = {entry_name(b"%d-1" % number): entry_value([b"f", b"%d" % number]) for number in (5, 7)}
    at_site.set("s2", "x")
    at_site.xadd("s3", {"f": "6"}, id="6-1")
    at_site.config_resetstat()
    async with connected().turn(names) as turn:
        applied = await turn.apply([HashSet(name, {**entries, LAST_ID: b"9-0"}, "stream") for name in names])

    assert list(applied.errors) == [1]
    assert applied.errors[1].startswith("WRONGTYPE")
    assert at_site.get("s2") == b"x"
    assert [[id_ for id_, _ in at_site.xrange(name)] for name in ("s1", "s3", "s4")] == [
        [b"5-1", b"7-1"],
        [b"5-1", b"6-1", b"7-1"],
        [b"5-1", b"7-1"],
    ]
    assert {at_site.xinfo_stream(name)["last-generated-id"] for name in ("s1", "s3", "s4")} == {b"9-0"}
    assert at_site.info("commandstats")["cmdstat_eval"]["calls"] == 1


async def test_what_was_written_before_the_turn_stands_before_its_offset(at_site, connected):
    at_site.set("s", "x")
    before = at_site.info("replication")["master_repl_offset"]
    async with connected().turn(KEYS) as turn:
        assert turn.offset >= before


async def test_a_client_that_was_faster_wins(at_site, connected):
    async with connected().turn(KEYS) as turn:
        at_site.set("s", "of a client")
        assert await turn.apply([StringSet(b"s", b"ours"), StringSet(b"e", b"ours")]) is None

    assert at_site.get("s") == b"of a client"
    assert not at_site.exists("e")


async def test_what_is_read_in_the_same_round_trip_is_watched_already(at_site, connected):
    at_site.set("s", "x")
    async with connected().turn(KEYS, [[b"GET", b"s"], [b"HGET", b"s", b"f"]]) as turn:
        value, refused = turn.replies
        assert value == b"x"
        assert "WRONGTYPE" in str(refused)
        at_site.set("s", "of a client")
        assert await turn.apply([StringSet(b"s", b"ours")]) is None


async def compare_and_set(connected, held, *changes, meanwhile=lambda: None):
    async with connected().turn([b"h"]) as turn:
        meanwhile()
        return await turn.compare_and_set(changes, HashState(held))


async def test_fields_are_compared_and_set_whatever_clients_write_to_others(at_site, connected):
    at_site.hset("h", mapping={"f": 1, "gone": 1, "own": 1})
    changes = HashSet(b"h", {b"f": b"2", b"new": b"\r\n"}), FieldsDeleted(b"h", (b"gone",))
    seen = {b"f": b"1", b"gone": b"1"}
    applied = await compare_and_set(connected, seen, *changes, meanwhile=lambda: at_site.hset("h", "own", 2))

    assert applied == Applied({}, at_site.info("replication")["master_repl_offset"])
    assert at_site.hgetall("h") == {b"f": b"2", b"new": b"\r\n", b"own": b"2"}


@pytest.mark.parametrize("write", [("HSET", "h", "f", 2), ("HDEL", "h", "f"), ("HSET", "h", "new", 1), ("SET", "h", 1)])
async def test_fields_that_a_client_has_changed_stay(at_site, connected, write):
    at_site.hset("h", "f", 1)
    change = HashSet(b"h", {b"f": b"3", b"new": b"3"})
    written = partial(at_site.execute_command, *write)
    assert await compare_and_set(connected, {b"f": b"1"}, change, meanwhile=written) is None
    assert at_site.type("h") != b"hash" or b"3" not in at_site.hgetall("h").values()


async def test_who_may_not_run_scripts_leaves_them(server, at_site, connected):
    at_site.hset("h", "f", 1)
    at_site.execute_command("ACL", "SETUSER", "narrow", "reset", "on", ">pw", "~*", "&*", "+@all", "-eval")
    writer = connected(f"redis://narrow:pw@127.0.0.1:{server.port}")
    async with writer.turn([b"h"]) as turn:
        assert await turn.compare_and_set([HashSet(b"h", {b"f": b"3"})], HashState({b"f": b"1"})) is None
    assert at_site.hget("h", "f") == b"1"
    async with writer.turn([b"h"]) as turn:
        assert await turn.compare_and_set([HashSet(b"h", {b"f": b"3"})], HashState({b"f": b"1"})) is not None
    assert at_site.hget("h", "f") == b"3"


async def test_a_turn_does_not_remember_the_one_before(at_site, connected):
    writer = connected()
    async with writer.turn([b"s"]):
        at_site.set("s", "x")
    async with writer.turn([b"e"]) as turn:
        assert await turn.apply([StringSet(b"e", b"ours")]) is not None


async def test_a_key_of_another_type_is_refused_and_the_rest_written(at_site, connected):
    at_site.set("h", "a string")
    async with connected().turn(KEYS) as turn:
        applied = await turn.apply([StringSet(b"s", b"1"), HashSet(b"h", {b"f": b"v"}), StringSet(b"e", b"2")])

    assert list(applied.errors) == [1]
    assert applied.errors[1].startswith("WRONGTYPE")
    assert at_site.mget("s", "e") == [b"1", b"2"]


_NOTE = b"\x07\x81\xb5\xeb-\x9e\x8b^\xb0\x00\x05\x02yy\x00\n\x00\xe4\xa1\x06e&\xfb\xed\x87"


@pytest.mark.parametrize("value", [b"no dump at all", _NOTE])
async def test_a_value_that_cannot_be_restored_is_refused_and_leaves_what_is_there(at_site, connected, value):
    """The second is of a module's type that the server has not."""
    at_site.set("h", "a string")
    async with connected().turn(KEYS) as turn:
        applied = await turn.apply([SequenceSet(b"h", (value,), "opaque"), StringSet(b"e", b"2")])

    assert list(applied.errors) == [0]
    assert (at_site.get("h"), at_site.get("e")) == (b"a string", b"2")


async def test_a_server_that_takes_no_writes(at_site, connected):
    at_site.config_set("min-replicas-to-write", 1)
    with pytest.raises(PeerUnavailableError, match="NOREPLICAS"):
        async with connected().turn(KEYS) as turn:
            await turn.apply([StringSet(b"s", b"1")])
    assert not at_site.exists("s")


async def test_a_connection_that_breaks_within_the_turn(at_site, connected):
    async with connected().turn(KEYS) as turn:
        at_site.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(LinkLostError):
            await turn.apply([StringSet(b"s", b"1")])
    assert not at_site.exists("s")


@pytest.fixture(params=["denied", "missing"])
def lacking(request, server, at_site):
    """An address where a command is denied to us, or not there."""
    with contextlib.ExitStack() as stack:

        def lacking(command, *rights):
            if request.param == "missing":
                other = stack.enter_context(RedisServer(config={"rename-command": f'{command} ""'}))
                return f"redis://127.0.0.1:{other.port}", other.client()
            words = ["on", ">pw", "~*", "&*", "+@all", *(rights or [f"-{command}"])]
            at_site.execute_command("ACL", "SETUSER", "lacking", "reset", *words)
            return f"redis://lacking:pw@127.0.0.1:{server.port}", at_site

        yield lacking


@pytest.mark.parametrize("rights", [(), ("resetchannels",)])
async def test_who_may_not_publish_writes_without_an_origin_in_the_next_turn(lacking, connected, rights):
    url, at_site = lacking("PUBLISH", *rights)
    writer = connected(url)
    async with writer.turn(KEYS) as turn:
        assert await turn.apply([StringSet(b"s", b"1")]) is None
    async with writer.turn(KEYS) as turn:
        assert await turn.apply([StringSet(b"s", b"1")]) is not None
    assert at_site.get("s") == b"1"


async def test_who_may_not_publish_compares_and_sets_without_an_origin(at_site, server, connected):
    """Also when that is tried again after a while: nothing else writes to this hash."""
    at_site.execute_command("ACL", "SETUSER", "lacking", "reset", "on", ">pw", "~*", "&*", "+@all", "-publish")
    clock = Clock()
    writer = connected(f"redis://lacking:pw@127.0.0.1:{server.port}", clock=clock)
    with capture_logs() as logs:
        for number in range(6):
            async with writer.turn([b"h"]) as turn:
                held = HashState({} if not number else {b"f": b"%d" % (number - 1)})
                assert await turn.compare_and_set([HashSet(b"h", {b"f": b"%d" % number})], held) is not None
            clock.now += 150
    assert at_site.hget("h", "f") == b"5"
    assert [line["event"] for line in logs] == ["apply.no_origin"]


async def told_origins(at_site, writer, compare):
    """Which origins one apply was told with; tried again like one that a client was faster than."""
    with at_site.pubsub(ignore_subscribe_messages=True) as messages:
        messages.subscribe("redisrepl:origin")
        messages.get_message(timeout=5)
        applied = None
        while applied is None:
            async with writer.turn([b"h"]) as turn:
                change = HashSet(b"h", {b"f": b"1"})
                if compare:
                    applied = await turn.compare_and_set([change], HashState({}))
                applied = applied or await turn.apply([change])
        at_site.delete("h")
        at_site.publish("redisrepl:origin", "end")
        told = iter(lambda: messages.get_message(timeout=5)["data"], b"end")
        return list(told)


@pytest.mark.parametrize("compare", [False, True])
async def test_who_may_not_publish_tries_again_after_a_while(at_site, server, connected, compare):
    words = "reset", "on", ">pw", "~*", "&*", "+@all"
    at_site.execute_command("ACL", "SETUSER", "lacking", *words, "-publish")
    clock = Clock()
    writer = connected(f"redis://lacking:pw@127.0.0.1:{server.port}", clock=clock)
    with capture_logs() as logs:
        assert await told_origins(at_site, writer, compare) == []
        clock.now += 301
        assert await told_origins(at_site, writer, compare) == []  # refused again
        at_site.execute_command("ACL", "SETUSER", "lacking", "+publish")
        clock.now += 299
        assert await told_origins(at_site, writer, compare) == []
        clock.now += 2
        for _ in range(2):
            assert await told_origins(at_site, writer, compare) == [b"us"]
    assert [line["event"] for line in logs] == ["apply.no_origin", "apply.origin_allowed"]


async def test_who_may_not_watch_is_told_once_and_writes_all_the_same(lacking, connected):
    url, at_site = lacking("WATCH")
    writer = connected(url)
    with capture_logs() as logs:
        for _ in range(2):
            async with writer.turn(KEYS) as turn:
                assert await turn.apply([StringSet(b"s", b"1")]) is not None

    assert [line["event"] for line in logs] == ["apply.no_watch"]
    assert at_site.get("s") == b"1"


async def test_where_info_is_not_to_be_had_the_words_of_the_server_are_told(lacking, connected):
    url, _ = lacking("INFO")
    with pytest.raises(PeerUnavailableError, match=r"offset: .*(unknown command|has no permissions)"):
        async with connected(url).turn(KEYS):
            pass


async def test_who_may_not_write_is_refused(server, at_site, connected):
    at_site.acl_setuser("reader", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-@write"])
    at_site.execute_command("ACL", "SETUSER", "reader", "allchannels")
    with pytest.raises(RefusedError, match=r"refuses us: .* has no permissions"):
        async with connected(f"redis://reader:pw@127.0.0.1:{server.port}").turn(KEYS) as turn:
            await turn.apply([StringSet(b"s", b"1")])
    with pytest.raises(redis.exceptions.NoPermissionError):
        redis.Redis(port=server.port, username="reader", password="pw").set("s", "1")


@pytest.fixture
def narrow(server, at_site):
    """An address of a user who may run any command but these; call it again to change that."""

    def allow(*denied):
        words = "reset", "on", ">pw", "~*", "&*", "+@all", *(f"-{command}" for command in denied)
        at_site.execute_command("ACL", "SETUSER", "narrow", *words)
        return f"redis://narrow:pw@127.0.0.1:{server.port}"

    return allow


async def applies_again(writer, at_site):
    async with writer.turn([b"s"]) as turn:
        assert await turn.apply([StringSet(b"s", b"ours")]) is not None
    assert at_site.get("s") == b"ours"


@pytest.mark.parametrize("command", ["multi", "exec"])
async def test_without_transactions_nothing_is_written_until_they_are_allowed(at_site, connected, narrow, command):
    """Not even by the first apply: behind a MULTI that is refused, each command would be run by itself."""
    writer = connected(narrow(command))
    for _ in range(2):
        with pytest.raises(RefusedError, match=r"refuses transactions.*(NOPERM|no permissions)"):
            async with writer.turn([b"s"]) as turn:
                await turn.apply([StringSet(b"s", b"ours")])
    assert not at_site.exists("s")

    narrow()
    await applies_again(writer, at_site)


async def test_a_script_that_runs_for_long_is_not_taken_for_a_missing_permission(server, at_site, connected):
    at_site.config_set("busy-reply-threshold", 1)
    writer = connected()
    with ThreadPoolExecutor(1) as worker:
        script = worker.submit(server.client().eval, "while true do end", 0)
        try:
            await eventually_async(lambda: is_busy(at_site))
            with pytest.raises(PeerUnavailableError, match="BUSY"):
                async with writer.turn([b"s"]):
                    pass
        finally:
            at_site.script_kill()
            script.exception()
    await applies_again(writer, at_site)


def is_busy(at_site):
    try:
        return not at_site.ping()
    except redis.exceptions.ResponseError:
        return True


async def test_a_transaction_that_cannot_be_ended_does_not_stay_open(at_site, connected, narrow):
    writer = connected(narrow())
    async with writer.turn([b"s"]) as turn:
        narrow("exec")
        with pytest.raises((RefusedError, PeerUnavailableError), match=r"NOPERM|no permissions"):
            await turn.apply([StringSet(b"s", b"first")])
    with pytest.raises((RefusedError, PeerUnavailableError), match=r"NOPERM|no permissions"):
        async with writer.turn([b"s"]) as turn:
            await turn.apply([StringSet(b"s", b"second")])
    assert not at_site.exists("s")
    narrow()
    await applies_again(writer, at_site)


@pytest.mark.parametrize("others", [(), ("publish",)])
async def test_whether_an_apply_was_executed_is_unknown_if_multi_is_denied_meanwhile(
    at_site, connected, narrow, others
):
    """It was then, command by command: who takes it for refused takes it for a client's write later."""
    writer = connected(narrow())
    async with writer.turn([b"s"]) as turn:
        narrow("multi", *others)
        with pytest.raises(OutcomeUnknownError, match=r"NOPERM|no permissions"):
            await turn.apply([StringSet(b"s", b"first")])
    assert at_site.getdel("s") == b"first"
    with pytest.raises(RefusedError, match="refuses transactions"):
        async with writer.turn([b"s"]):
            pass
    assert not at_site.exists("s")
