"""Keyspace events of a real Redis: which come, when a subscription counts as dead, and the flags that it takes."""

import asyncio
import contextlib
import os

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import KINDS
from redisrepl.errors import LinkLostError, PeerUnavailableError, ProtocolError, RefusedError
from redisrepl.local.address import parse_address
from redisrepl.local.client import Followed
from redisrepl.local.connection import open_client
from redisrepl.local.notify import EventsLost, SiteEvents, SiteKeyEvents, Subscribed
from testbed import RedisServer, eventually_async

ALPHABET = bytes(range(256))
OPTION = "notify-keyspace-events"


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@contextlib.asynccontextmanager
async def listening(place, *prefixes, kinds=KINDS, **options):
    """News of one subscription."""
    address = parse_address(place if isinstance(place, str) else f"127.0.0.1:{place.port}", **options.pop("login", {}))
    client = open_client(address, 5, connections=1)
    events = SiteEvents(address, client, prefixes or (b"ns:",), kinds, **options).events()
    try:
        async with asyncio.timeout(20):
            yield events
    finally:
        await events.aclose()
        await client.aclose()


@contextlib.asynccontextmanager
async def subscribed(place):
    """The events of a site, and news of their one subscription, which has begun."""
    address = parse_address(f"127.0.0.1:{place.port}")
    client = open_client(address, 5, connections=1)
    site = SiteEvents(address, client, [b"ns:"], KINDS)
    news = site.events()
    try:
        async with asyncio.timeout(20):
            assert await anext(news) == Subscribed()
            yield site, news
    finally:
        await news.aclose()
        await client.aclose()


async def noticed(events, count):
    found = []
    while len(found) < count:
        news = await anext(events)
        assert isinstance(news, SiteKeyEvents)
        found += news.events
    return found


async def test_a_subscription_tells_whose_events_it_has_and_ends_when_another_server_is_met(server):
    followed = Followed()
    async with listening(server, followed=followed, silence=1.0) as events:
        subscribed = await anext(events)
        assert subscribed.history == server.client().info("replication")["master_replid"]
        followed.differs = True
        with pytest.raises(LinkLostError, match="another server"):
            await anext(events)


async def test_a_server_that_does_not_tell_its_history_is_followed_all_the_same(server):
    server.client().acl_setuser("narrow", enabled=True, nopass=True, commands=["+psubscribe", "+ping"], channels=["*"])
    async with listening(server, login={"username": "narrow", "password": "any"}) as events:
        assert (await anext(events)).history == ""


async def test_a_password_need_not_be_text(server):
    server.client().acl_setuser("bytes", enabled=True, passwords=[b"+\xff\x80"], commands=["+@all"], channels=["*"])
    async with listening(server, login={"username": "bytes", "password": os.fsdecode(b"\xff\x80")}) as events:
        assert await anext(events) == Subscribed()


async def test_what_happens_comes_in_order_and_whole(server):
    at = server.client()
    special = b"a*[b]?\\:"
    async with listening(server, b"ns:", special) as events:
        assert await anext(events) == Subscribed()
        at.set(b"other", "1")
        at.set(b"aXb?\\:", "1")
        at.set(b"ns:" + ALPHABET, "1")
        at.hset(special + ALPHABET, "f", "1")
        at.mset({b"ns:": "1", b"ns:b": "1"})
        at.delete(b"ns:b")
        assert await noticed(events, 5) == [
            (b"ns:" + ALPHABET, b"set"),
            (special + ALPHABET, b"hset"),
            (b"ns:", b"set"),
            (b"ns:b", b"set"),
            (b"ns:b", b"del"),
        ]


async def test_another_database(server):
    async with listening(f"redis://127.0.0.1:{server.port}/3") as events:
        await anext(events)
        server.client().set("ns:here-not", "1")
        server.client(db=3).set("ns:here", "1")
        assert await noticed(events, 1) == [(b"ns:here", b"set")]


async def test_a_burst(server):
    async with listening(server) as events:
        await anext(events)
        with server.client().pipeline(transaction=False) as pipeline:
            for number in range(20_000):
                pipeline.set(f"ns:{number}", number)
            await asyncio.to_thread(pipeline.execute)
        found = await noticed(events, 20_000)
        assert [key for key, _ in found] == [b"ns:%d" % number for number in range(20_000)]


async def test_who_catches_up_has_heard_of_all_that_happened_before(server):
    async with subscribed(server) as (site, news):
        taken = []

        async def take():
            async for one in news:
                await asyncio.sleep(0)  # what was yielded only is not taken yet
                taken.extend(one.events)

        taking = asyncio.create_task(take())
        for number in range(3):
            with server.client().pipeline(transaction=False) as pipeline:
                for n in range(1000):
                    pipeline.set(f"ns:{n}", number)
                pipeline.execute()
            await site.caught_up()
            assert len(taken) == 1000 * (number + 1)
        taking.cancel()
        await asyncio.wait({taking})


async def test_what_a_server_reads_from_its_own_file_is_no_event_of_a_client():
    """Redis takes subscriptions while it reads its append-only file, and reports all that it reads."""
    config = {"appendonly": "yes", "aof-use-rdb-preamble": "no", OPTION: "KA"}
    with RedisServer(config=config) as server:
        with server.client().pipeline(transaction=False) as pipeline:
            for number in range(20_000):
                pipeline.set(f"ns:{number}", number)
            pipeline.execute()
        server.stop()
        server.config["key-load-delay"] = 100  # microseconds
        starting = asyncio.create_task(asyncio.to_thread(server.start))
        address = parse_address(f"127.0.0.1:{server.port}")
        client = open_client(address, 5, connections=1)
        refusals, news = [], None
        while not isinstance(news, Subscribed):
            events = SiteEvents(address, client, [b"ns:"], KINDS).events()
            try:
                news = await anext(events)
            except (PeerUnavailableError, LinkLostError) as error:
                refusals.append(str(error))
                await asyncio.sleep(0.01)
        await starting
        server.client().set("ns:of a client", "v")
        assert await noticed(events, 1) == [(b"ns:of a client", b"set")]
        assert any("LOADING" in refusal for refusal in refusals), "it was never asked while it was reading"
        await events.aclose()
        await client.aclose()


async def test_nobody_catches_up_without_a_subscription(server):
    async with subscribed(server) as (site, news):
        server.pause()
        try:
            catching_up = asyncio.create_task(site.caught_up())
            await asyncio.sleep(0)
            assert not catching_up.done()
            await news.aclose()
        finally:
            server.resume()
        with pytest.raises(LinkLostError, match="ended"):
            await catching_up
        with pytest.raises(LinkLostError, match="no subscription"):
            await site.caught_up()


@pytest.mark.parametrize(("before", "after"), [("", "K$hlstzgxe"), ("Elx", "ElxK$hstzge"), ("KA", "KA")])
async def test_flags_are_added_to(server, before, after):
    at = server.client()
    at.config_set(OPTION, before)
    with capture_logs() as lines:
        async with listening(server) as events:
            await anext(events)
    assert set(at.config_get(OPTION)[OPTION].replace("A", "g$lshzxetd")) == set(after.replace("A", "g$lshzxetd"))
    assert [line["event"] for line in lines] == ([] if before == "KA" else ["site.notifications_enabled"])


async def test_flags_that_are_taken_away_are_a_gap(server, monkeypatch):
    monkeypatch.setattr("redisrepl.local.notify._FLAGS_PERIOD", 0.1)
    async with listening(server) as events:
        assert await anext(events) == Subscribed()
        server.client().config_set(OPTION, "")
        assert isinstance(await anext(events), EventsLost)
        server.client().set("ns:a", "1")
        assert await noticed(events, 1) == [(b"ns:a", b"set")]


@pytest.mark.parametrize("rights", ["-config", "-config|set"])
async def test_flags_out_of_reach_are_told_of_once(rights):
    with RedisServer(users=[f"u on >pw ~* &* +@all {rights}"]) as server:
        address = parse_address(f"127.0.0.1:{server.port}", username="u", password="pw")
        client = open_client(address, 5, connections=1)
        site = SiteEvents(address, client, [b"ns:"], KINDS)
        with capture_logs() as lines:
            for _ in range(2):
                events = site.events()
                assert await anext(events) == Subscribed()
                await events.aclose()
        await client.aclose()
    assert [line["event"] for line in lines] == ["site.notifications_unknown"]
    assert "K$hlstzgxe" in lines[0]["hint"]


async def test_flags_out_of_reach_are_tried_again_and_added_once_they_are_not(monkeypatch):
    monkeypatch.setattr("redisrepl.local.notify._FLAGS_PERIOD", 0.05)
    monkeypatch.setattr("redisrepl.permission._PROBE_EVERY", 0.0)
    with RedisServer(users=["u on >pw ~* &* +@all -config"]) as server, capture_logs() as lines:
        at = server.client()
        async with listening(server, login={"username": "u", "password": "pw"}) as events:
            assert await anext(events) == Subscribed()
            reading = asyncio.ensure_future(anext(events))
            await eventually_async(lambda: sum(int(each["count"]) for each in at.acl_log()) >= 3)
            at.acl_setuser("u", commands=["+config"])
            assert isinstance(await reading, EventsLost)
            at.set("ns:a", "1")
            assert await noticed(events, 1) == [(b"ns:a", b"set")]
    told = ["site.notifications_unknown", "site.notifications_enabled", "site.notifications_allowed"]
    assert [line["event"] for line in lines] == told


@pytest.mark.parametrize(
    ("rights", "said"),
    [
        ("resetchannels +@all", "&__keyspace@0__:ns:\\*"),
        ("&* +@all -psubscribe", "\\+psubscribe"),
        ("resetchannels &__keyspace@0__:ns:* -@all +ping +psubscribe +config", None),
    ],
)
async def test_permissions(rights, said):
    with RedisServer(users=[f"u on >pw ~* {rights}"]) as server:
        async with listening(server, login={"username": "u", "password": "pw"}) as events:
            if said is None:
                assert await anext(events) == Subscribed()
            else:
                with pytest.raises(RefusedError, match=said):
                    await anext(events)


async def test_a_wrong_password():
    with RedisServer(password="right") as server:
        for login in ({"password": "wrong"}, {}):
            async with listening(server, login=login) as events:
                with pytest.raises(RefusedError, match="password"):
                    await anext(events)


async def test_nobody_there():
    async with listening("127.0.0.1:1") as events:
        with pytest.raises(PeerUnavailableError):
            await anext(events)


async def test_the_end_of_the_server():
    with RedisServer() as server:
        async with listening(server) as events:
            await anext(events)
            await asyncio.to_thread(server.kill)
            with pytest.raises(LinkLostError):
                await anext(events)


async def test_a_quiet_server_is_alive_and_a_silent_one_is_not():
    with RedisServer() as server:
        async with listening(server, silence=0.9) as events:
            await anext(events)
            task = asyncio.ensure_future(anext(events))
            asked = server.commandstats()["ping"]
            await eventually_async(lambda: server.commandstats()["ping"] >= asked + 3)
            assert not task.done()  # it answers our PINGs
            server.pause()
            try:
                with pytest.raises(LinkLostError, match="no byte"):
                    await task
            finally:
                server.resume()


async def test_a_server_that_never_answers_is_not_asked_again_and_again(monkeypatch):
    monkeypatch.setattr("redisrepl.local.notify._FLAGS_PERIOD", 0.0)
    received = bytearray()

    async def listen(reader, writer):
        while data := await reader.read(1 << 16):
            received.extend(data)
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with listening(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", silence=0.9) as events:
        with pytest.raises(LinkLostError, match="no byte"):
            await anext(events)
    server.close()
    await server.wait_closed()
    assert received.count(b"PING\r\n") <= 4  # once at the start, then a third of the silence apart


async def test_what_is_no_redis():
    closed = asyncio.Event()

    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as events:
        with pytest.raises(ProtocolError):
            await anext(events)
    server.close()
    await server.wait_closed()
    await closed.wait()
