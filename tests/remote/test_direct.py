"""The hub's Redis itself, over TLS: what is asked of it, and every way in which it can fail."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import tracemalloc

import pytest

from redisrepl.changes import HashState, StringState
from redisrepl.errors import (
    CertificateError,
    CommandRefusedError,
    ConfigError,
    LinkLostError,
    OutcomeUnknownError,
    PeerUnavailableError,
    ProtocolError,
    RefusedError,
    ValueTooLargeError,
)
from redisrepl.observe.failures import FailureLog
from redisrepl.remote.compare import HubComparer
from redisrepl.remote.direct import DirectHub, direct_address
from redisrepl.remote.fence import Fence
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.push import HubPusher
from redisrepl.wire.digests import look_at
from testbed import FaultProxy, RedisServer, eventually_async
from tests.hasty import HastyServer, early_ends
from tests.samples import ALL_BYTES

LARGE = bytes(range(256)) * 20_000


@pytest.fixture(scope="module")
def redis(certificates):
    with RedisServer(tls=certificates) as server:
        server.redis = server.client()
        yield server


@pytest.fixture(autouse=True)
def _empty(request):
    if "redis" in request.fixturenames:
        request.getfixturevalue("redis").redis.flushall()


@contextlib.asynccontextmanager
async def connected(port, context, *, database=0, user=None, password=None, **options):
    hub = DirectHub(direct_address(f"rediss://localhost:{port}", database, user, password), context, **options)
    try:
        yield hub
    finally:
        await hub.close()


@pytest.fixture
async def hub(redis, certificates):
    async with connected(redis.tls_port, certificates.ssl_context()) as hub:
        yield hub


# What is asked.


async def test_to_wait_until_a_large_reply_may_be_read_takes_none_of_its_time(redis, certificates):
    async with connected(redis.tls_port, certificates.ssl_context(), timeout=2.0) as hub:
        await hub.command(b"SET", b"large", bytes(9 << 20))
        async with hub._large_reply:  # another one is being read
            reply = asyncio.create_task(hub.command(b"GET", b"large"))
            await asyncio.sleep(2.5)  # longer than nothing may come
        assert await reply == bytes(9 << 20)


async def test_commands_of_any_bytes_and_size(hub):
    for value in (ALL_BYTES, b"", LARGE):
        assert await hub.command(b"SET", ALL_BYTES, value) == b"OK"
        assert await hub.command(b"GET", ALL_BYTES) == value
    assert await hub.integer(b"PTTL", ALL_BYTES) == -1
    assert await hub.integers(b"SMISMEMBER", b"none", b"a", b"b") == [0, 0]
    with pytest.raises(ProtocolError):
        await hub.integers(b"GET", ALL_BYTES)
    assert await hub.text_or_none(b"GET", b"none") is None
    with pytest.raises(CommandRefusedError, match=r"^WRONGTYPE"):
        await hub.command(b"HGETALL", ALL_BYTES)
    assert await hub.command(b"PING") == b"PONG"


async def test_requests_side_by_side_share_so_many_connections(redis, certificates):
    async with connected(redis.tls_port, certificates.ssl_context(), connections=3) as hub:
        before = redis.redis.info("clients")["connected_clients"]
        replies = await asyncio.gather(*(hub.command(b"ECHO", b"%d" % number) for number in range(50)))
        assert replies == [b"%d" % number for number in range(50)]
        assert redis.redis.info("clients")["connected_clients"] - before == 3


async def test_a_connection_that_was_idle_for_long_is_not_used_again(hub, redis, monkeypatch):
    first = await hub.integer(b"CLIENT", b"ID")
    assert await hub.integer(b"CLIENT", b"ID") == first
    monkeypatch.setattr("redisrepl.remote.kept._KEPT", -1.0)  # what is kept now is too old at once
    assert await hub.integer(b"CLIENT", b"ID") == first
    second = await hub.integer(b"CLIENT", b"ID")
    assert second != first
    await eventually_async(lambda: str(first) not in {each["id"] for each in redis.redis.client_list()})


async def test_everything_that_uses_scripts(hub, redis):
    pusher, reader = HubPusher(hub, 10_000, fence=(fence := Fence(hub, b"me"))), HubReader(hub)
    await fence.ready()
    commands = [[b"SET", b"k%d" % number, ALL_BYTES * 4] for number in range(50)]  # more than one request holds
    for number in (1, 2):  # in full, and by its hash
        pushed = await pusher.push([*commands, [b"HSET", b"h", b"f", b"v"]], number=number)
        assert pushed.errors == {}
    expected = {b"k7": StringState(ALL_BYTES * 4), b"h": HashState({b"f": b"v"}, None), b"none": None}
    assert (await reader.states(list(expected))).states == expected
    comparer = HubComparer(hub, reader, expiries=False)
    assert await comparer.looks(list(expected)) == [look_at(key, state) for key, state in expected.items()]
    assert redis.commandstats()["evalsha"] >= 1

    await fence.look()
    assert fence.was_executed(2)
    assert not fence.was_executed(3)


async def test_messages_come_in_order_and_complete(hub, redis):
    sent = [(b"ch:%d" % number, ALL_BYTES) for number in range(2000)]

    def publish():
        with redis.redis.pipeline(transaction=False) as pipeline:
            for channel, data in sent:
                pipeline.publish(channel, data)
            pipeline.execute()

    found = []
    async with asyncio.timeout(20), hub.psubscribe(b"ch:*", silence=10) as lists:
        async for messages in lists:
            if hub.listening and not found and not messages:
                await asyncio.to_thread(publish)
            found += messages
            if len(found) >= len(sent):
                break
    assert found == sent
    assert hub.listening == 0
    await eventually_async(lambda: redis.redis.pubsub_numpat() == 0)


async def test_another_database(redis, certificates):
    async with connected(redis.tls_port, certificates.ssl_context(), database=3) as hub:
        await hub.command(b"SET", b"k", b"v")
    assert redis.client(db=3).get("k") == b"v"
    assert redis.redis.get("k") is None


# Who we are.


@pytest.mark.parametrize("which", ["none", "foreign"])
async def test_a_client_certificate_that_the_hub_refuses(redis, certificates, which):
    pair = certificates.foreign_client() if which == "foreign" else None
    context = certificates.ssl_context(pair, anonymous=which == "none")
    async with connected(redis.tls_port, context) as hub:
        with pytest.raises(CertificateError, match=r"client certificate|CA of our certificate"):
            await hub.command(b"PING")


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize(("which", "silent", "kind", "says"), early_ends(PeerUnavailableError))
async def test_an_end_before_the_first_reply(certificates, monkeypatch, which, silent, kind, says, resets):
    """In TLS 1.3 the end of a connection can overtake the alert that says why."""
    monkeypatch.setattr("redisrepl.tls.verdict.VERDICT_WAIT", 0.1)
    pair = certificates.foreign_client() if which == "foreign" else None
    context = certificates.ssl_context(pair, anonymous=which == "none")
    async with HastyServer(certificates, silent, resets=resets) as server, connected(server.port, context) as hub:
        with pytest.raises(kind, match=says):
            await hub.command(b"PING")
        assert server.connections == 2


async def test_a_hub_that_we_do_not_trust(redis, certificates):
    context = certificates.ssl_context()
    stranger = type(context)(context.protocol)
    stranger.load_verify_locations(certificates.foreign_ca())
    async with connected(redis.tls_port, stranger) as hub:
        with pytest.raises(CertificateError, match="not signed by the given CA"):
            await hub.command(b"PING")


async def test_a_login(certificates):
    users = ["site1 on >geheim ~* &* +@all"]
    with RedisServer(tls=certificates, password="x", users=users) as server:
        context = certificates.ssl_context()
        async with connected(server.tls_port, context, user="site1", password="geheim") as hub:
            assert await hub.text(b"ACL", b"WHOAMI") == b"site1"
        for user, password in (("site1", "wrong"), (None, None), (None, "wrong")):
            async with connected(server.tls_port, context, user=user, password=password) as hub:
                with pytest.raises(RefusedError, match="--hub-password-file") as caught:
                    await hub.command(b"PING")
                assert "wrong" not in str(caught.value).replace("WRONGPASS", "").replace("username-password", "")


async def test_a_hub_that_takes_no_more_clients_is_unavailable(certificates):
    with RedisServer(tls=certificates) as server:
        client = server.client()
        client.config_set("maxclients", client.info("clients")["connected_clients"])
        async with connected(server.tls_port, certificates.ssl_context()) as hub:
            with pytest.raises(PeerUnavailableError, match=r"maxclients|reset"):  # a reset may overtake the words
                await hub.command(b"PING")
            client.config_set("maxclients", 100)
            assert await hub.command(b"PING") == b"PONG"


# What can fail.


async def test_a_port_without_tls(redis, certificates):
    async with connected(redis.port, certificates.ssl_context(), connect_timeout=0.5) as hub:
        with pytest.raises(PeerUnavailableError, match="TLS port of a Redis"):
            await hub.command(b"PING")


async def test_a_hub_that_is_away_and_comes_back(certificates):
    with RedisServer(tls=certificates) as server:
        async with connected(server.tls_port, certificates.ssl_context(), retry_max=0.1) as hub:
            await hub.command(b"PING")
            assert hub.health.well
            server.kill()
            with pytest.raises((PeerUnavailableError, OutcomeUnknownError)):
                await hub.command(b"PING")
            with pytest.raises(PeerUnavailableError, match="cannot be reached"):
                await hub.command(b"PING")
            assert not hub.health.well
            server.start()
            assert await hub.command(b"PING") == b"PONG"
            assert hub.health.well


async def test_a_late_reply_is_an_unknown_outcome_and_of_nobody_else(redis, certificates):
    async with connected(redis.tls_port, certificates.ssl_context(), timeout=0.3) as hub:
        await hub.command(b"PING")
        redis.redis.client_pause(1000)
        with pytest.raises(OutcomeUnknownError, match="does not answer"):
            await hub.command(b"ECHO", b"the one given up")
        redis.redis.client_unpause()
        assert await hub.command(b"ECHO", b"mine") == b"mine"
        assert hub.health.well


async def test_a_connection_that_breaks(redis, certificates):
    with FaultProxy(redis.tls_port) as link:
        async with connected(link.port, certificates.ssl_context(), retry_max=0.1) as hub:
            await hub.command(b"PING")
            async with hub.psubscribe(b"ch:*", silence=10) as lists:
                await anext(lists)
                link.cut()
                with pytest.raises(LinkLostError, match="ended the subscription"):
                    await anext(lists)
            with contextlib.suppress(OutcomeUnknownError):  # as soon as it is known to be cut, another is made
                await hub.command(b"PING")
            assert await hub.command(b"PING") == b"PONG"


async def refused_soon(what):
    """The refusal of a value that is too large: now and then the reset overtakes it, and it is sent again."""
    for _ in range(30):
        try:
            return await what()
        except ValueTooLargeError as error:
            return error
        except OutcomeUnknownError:
            continue
    pytest.fail("the hub's refusal never arrived")


async def test_a_value_that_the_hub_takes_from_nobody(certificates, caplog):
    """Redis says so and ends the connection while we are still sending. It says why, and nothing more is sent."""
    with RedisServer(tls=certificates) as server:
        server.client().config_set("proto-max-bulk-len", "1mb")
        async with connected(server.tls_port, certificates.ssl_context(), retry_max=0.01) as hub:
            for size in (3 << 20, 30 << 20):
                error = await refused_soon(lambda size=size: hub.command(b"SET", b"k", bytes(size)))
                assert "proto-max-bulk-len" in str(error)
                assert await hub.command(b"PING") == b"PONG"
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_of_a_batch_only_the_value_that_the_hub_takes_from_nobody_is_refused(certificates):
    with RedisServer(tls=certificates) as server:
        redis = server.client()
        redis.config_set("proto-max-bulk-len", "1mb")
        small = [[b"SET", b"small%d" % number, b"v"] for number in range(9)]
        large = [b"HSET", b"large", b"field", bytes(3 << 20), b"other", b"v"]
        async with connected(server.tls_port, certificates.ssl_context(), retry_max=0.01) as hub:
            for max_body in (900_000, 9_000_000):  # so it has a request of its own, or shares one
                redis.flushall()
                pusher = HubPusher(hub, max_body)
                pushed = await refused_soon(lambda pusher=pusher: pusher.push([*small[:5], large, *small[5:]]))
                assert list(pushed.errors) == [b"large"]
                assert "proto-max-bulk-len" in pushed.errors[b"large"]
                assert len(redis.keys()) == len(small)
                assert pusher.max_body == max_body


async def test_new_certificates_are_used_from_then_on(redis, certificates):
    async with connected(redis.tls_port, certificates.ssl_context()) as hub:
        await hub.command(b"PING")
        hub.renew(certificates.ssl_context(anonymous=True), drop=False)
        with pytest.raises(CertificateError):
            await hub.command(b"PING")


@contextlib.asynccontextmanager
async def answering(certificates, *replies):
    """The port of a server that answers a login, and whatever is asked then with these pieces."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)

    async def answer(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"PING\r\n")
            writer.write(b"+PONG\r\n")
            await reader.read(100)
            for piece in replies:
                writer.write(piece)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("argv", "replies"),
    [
        ((b"PING",), [b"$50000000\r\n", *[b"x" * 65536] * 100]),
        ((b"KEYS", b"*"), [b"*3000000\r\n", *[b"*0\r\n" * 16384] * 100]),
        ((b"KEYS", b"*"), [b"*1500000\r\n", *[b"*0\r\n" * 16384] * 100]),
        ((b"GET", b"k"), [b"$500000000\r\n", *[b"x" * 65536] * 100]),
    ],
)
async def test_a_reply_is_limited_by_what_was_asked_and_leaves_nothing(certificates, argv, replies):
    async with (
        answering(certificates, *replies) as port,
        connected(port, certificates.ssl_context(), max_value=1) as hub,
    ):
        log = FailureLog("test")
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            for _ in range(3):
                with pytest.raises(ProtocolError) as raised:
                    await hub.command(*argv)
                log.failed(raised.value)
            assert tracemalloc.get_traced_memory()[0] < 4 << 20
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()
            gc.enable()


@pytest.mark.parametrize(
    "reply", [b"*2\r\n+x\r\n:1\r\n", b"+x\r\n", b"*1000000000\r\n", b"%1\r\n*0\r\n:1\r\n", b"HTTP/1.1"]
)
async def test_a_script_with_a_reply_of_another_shape(certificates, reply):
    context = certificates.ssl_context()
    server_context = type(context)(__import__("ssl").PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificates.server, certificates.server_key)

    answering = set()

    async def answer(reader, writer):
        answering.add(asyncio.current_task())
        await reader.readuntil(b"PING\r\n")
        writer.write(b"+PONG\r\n")
        with contextlib.suppress(OSError):
            await reader.read(100)
            writer.write(reply)
            await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context)
    port = server.sockets[0].getsockname()[1]
    try:
        async with connected(port, context, timeout=0.5) as hub:
            with pytest.raises((ProtocolError, OutcomeUnknownError)):
                await hub.eval(b"return 1", ())
        await asyncio.wait(answering)
    finally:
        server.close()


# Where it is.


def test_the_parts_of_an_address():
    address = direct_address("rediss://us%20er:p%40ss@hub.lab:7000/2", 0, None, None)
    assert (address.host, address.port, address.database) == ("hub.lab", 7000, 2)
    assert (address.username, address.password) == ("us er", "p@ss")
    assert str(address) == "rediss://hub.lab:7000/2"
    assert "p@ss" not in repr(address)
    assert direct_address("rediss://hub", 4, "u", "q").database == 4
    assert direct_address("rediss://a:b@hub", 0, "u", "q").password == "q"


@pytest.mark.parametrize(
    "url", ["rediss://", "rediss://hub/x", "rediss://hub:port/1", "rediss://u:geheim@hub/x", "rediss://u:geheim@hub:x/"]
)
def test_what_is_no_address(url):
    with pytest.raises(ConfigError, match=r"^--haddr .*rediss://hub") as caught:
        direct_address(url, 0, None, None)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["rediss://hub/1?db=2", "rediss://hub/0?", "rediss://hub/0#", "rediss://u:12#geheim@hub", "rediss://u:1/geheim@h"],
)
def test_what_may_be_a_part_of_a_password_is_no_part_of_an_address(url):
    with pytest.raises(ConfigError, match=r"^--haddr: .* or given by --hub-password-file$") as caught:
        direct_address(url, 0, None, None)
    assert "geheim" not in str(caught.value)
    assert "1" not in str(caught.value)


def test_two_databases_are_one_too_many():
    with pytest.raises(ConfigError, match="--hub-database 3"):
        direct_address("rediss://hub/2", 3, None, None)
