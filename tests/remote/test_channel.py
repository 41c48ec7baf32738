"""How the hub's events come: by WebSocket from a stand-in, by long poll from the real Webdis, and which when."""

import asyncio
import contextlib
import subprocess
from base64 import b64encode

import pytest
from structlog.testing import capture_logs

from redisrepl.errors import (
    CertificateError,
    CommandRefusedError,
    HubError,
    LinkLostError,
    OutcomeUnknownError,
    PeerUnavailableError,
    ProtocolError,
    SilentError,
)
from redisrepl.remote import websocket
from redisrepl.remote.notifications import Notifications
from redisrepl.remote.session import HubSession, check_url
from redisrepl.remote.subscribe import Subscription, SubscriptionOptions
from testbed import FaultProxy, Hub, WebSocketWebdis, eventually_async, free_port
from tests.samples import ALL_BYTES

PATTERN = b"__keyspace@0__:site1:*"
CHANNEL = PATTERN[:-1]
RETRY = {"attempts": None, "timeout": None, "wait_initial": 0.05, "wait_max": 0.1, "wait_jitter": 0.0}


@pytest.fixture(scope="module")
def both(certificates):
    """A hub with both channel; the stand-in speaks WebSocket for it."""
    with WebSocketWebdis() as stand_in, Hub(certificates, nginx={"websocket_port": stand_in.port}) as hub:
        stand_in.redis = hub.server
        yield hub, stand_in


@pytest.fixture
def hub(both):
    return both[0]


@pytest.fixture
def stand_in(both):
    stand_in = both[1]
    usual = stand_in.frames
    yield stand_in
    stand_in.frames = usual


@pytest.fixture(scope="module")
def deaf(certificates):
    """Webdis 0.1.9 with WebSockets of an older kind: it never answers a handshake."""
    with Hub(certificates, webdis={"websockets": True}) as hub:
        yield hub


@contextlib.asynccontextmanager
async def ways_to(hub, certificates, choice="auto", *, context=None, connect_timeout=5.0, user=""):
    """Over a link that is cut at the end, for else a connection with an open reply lives on for 30 s."""
    context = context or certificates.ssl_context()
    with FaultProxy(hub.port) as link:
        url = check_url(hub.url_at(link.port).replace("https://", f"https://{user}"))
        session = HubSession(url, context, timeout=5, connect_timeout=connect_timeout, subscribe=choice)
        try:
            yield session.channel
        finally:
            await session.close()
            link.down()
            await eventually_async(lambda: link.counters().open == 0)


async def collected(channel, count, at_first, *, silence=5.0):
    """Subscribe, do something, and return as many messages as that should bring."""
    found, confirmed = [], False
    async with asyncio.timeout(20), channel._session.psubscribe(PATTERN, silence=silence) as lists:
        async for messages in lists:
            if not confirmed:
                confirmed = True
                await asyncio.to_thread(at_first)
            found += messages
            if len(found) >= count:
                break
    return found


def publishing(hub, count, tail=b""):
    def publish():
        with hub.redis.pipeline(transaction=False) as pipeline:
            for number in range(count):
                pipeline.publish(CHANNEL + b"%d" % number + tail, b"set")
            pipeline.execute()

    return publish


# By WebSocket.


async def test_a_burst_arrives_in_order_with_any_bytes(hub, stand_in, certificates):
    async with ways_to(hub, certificates) as channel:
        messages = await collected(channel, 2000, publishing(hub, 2000, ALL_BYTES))
        assert channel.kind == "websocket"
    assert messages == [(CHANNEL + b"%d" % n + ALL_BYTES, b"set") for n in range(2000)]
    assert stand_in.paths[-1] == "/.raw"
    await eventually_async(lambda: stand_in.open == 0, description="the connection is given back")
    await eventually_async(lambda: hub.redis.pubsub_numpat() == 0)


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_where_frames_end_means_nothing(hub, stand_in, certificates, size):
    stand_in.frames = lambda data: [data[n : n + size] for n in range(0, len(data), size)]
    async with ways_to(hub, certificates, "websocket") as channel:
        messages = await collected(channel, 50, publishing(hub, 50))
    assert [channel for channel, _ in messages] == [CHANNEL + b"%d" % n for n in range(50)]


@pytest.mark.parametrize(
    ("spoiled", "kind", "reason"),
    [
        (b"\x00garbage", ProtocolError, "damaged"),
        (b"x" * ((16 << 20) + 1), ProtocolError, "damaged frame"),
        (b"-NOPERM no\r\n", CommandRefusedError, "refuses PSUBSCRIBE: NOPERM"),
        (b"Service Unavailable", LinkLostError, "has lost its Redis"),
    ],
    ids=["garbage", "oversize", "refused", "no redis"],
)
async def test_what_should_not_come(hub, stand_in, certificates, spoiled, kind, reason):
    stand_in.frames = lambda _: [spoiled]
    async with ways_to(hub, certificates, "websocket") as channel:
        with pytest.raises(kind, match=reason):
            await collected(channel, 1, lambda: None)


async def test_silence_has_an_end(hub, stand_in, certificates):
    stand_in.frames = lambda _: []
    async with ways_to(hub, certificates, "websocket") as channel:
        with pytest.raises(SilentError, match="sent nothing"):
            await collected(channel, 1, lambda: None, silence=0.2)


async def test_an_end_in_order_and_one_without_a_word(hub, stand_in, certificates):
    async with ways_to(hub, certificates, "websocket") as channel:
        assert await collected(channel, 1, stand_in.farewell) == []
        with pytest.raises(OutcomeUnknownError, match="broke the connection"):
            await collected(channel, 1, stand_in.cut)


async def test_the_loss_of_the_hubs_redis_is_told(certificates):
    with WebSocketWebdis() as stand_in, Hub(certificates, nginx={"websocket_port": stand_in.port}) as hub:
        stand_in.redis = hub.server
        async with ways_to(hub, certificates) as channel:
            with pytest.raises(LinkLostError, match="has lost its Redis"):
                await collected(channel, 1, hub.server.stop)
            assert channel.kind == "websocket"


@pytest.mark.parametrize("which", ["anonymous", "foreign"])
async def test_a_client_certificate_that_the_hub_refuses(hub, certificates, which):
    pair = certificates.foreign_client() if which == "foreign" else None
    context = certificates.ssl_context(pair, anonymous=which == "anonymous")
    async with ways_to(hub, certificates, "websocket", context=context) as channel:
        with pytest.raises(CertificateError, match="refuses our client certificate"):
            await collected(channel, 1, lambda: None)


@pytest.mark.parametrize("choice", ["auto", "websocket"])
async def test_a_port_where_nobody_listens(certificates, choice):
    context, url = certificates.ssl_context(), f"https://localhost:{free_port()}/redis/"
    session = HubSession(url, context, connect_timeout=5, subscribe=choice)
    channel = session.channel
    with pytest.raises(PeerUnavailableError, match="cannot be reached"):
        await collected(channel, 1, lambda: None)
    assert channel.kind == (None if choice == "auto" else choice)
    await session.close()


async def test_a_user_and_password_in_the_address(hub, stand_in, certificates):
    async with ways_to(hub, certificates, "websocket", user="us%20er:p%40ss@") as channel:
        await collected(channel, 1, publishing(hub, 1))
    assert stand_in.credentials[-1] == f"Basic {b64encode(b'us er:p@ss').decode()}"


async def test_a_proxy_that_only_requests_can_use(hub, certificates, monkeypatch):
    monkeypatch.setattr(websocket, "environment_proxy", lambda _: "http://user:geheim@proxy:1/path")
    async with ways_to(hub, certificates) as channel:
        with capture_logs() as logs:
            assert len(await collected(channel, 2, publishing(hub, 2))) == 2
    (told,) = [line for line in logs if line["event"] == "subscribe.channel"]
    assert told["channel"] == "http"
    assert "proxy" in told["why"]
    assert "geheim" not in str(logs)


async def test_a_proxy_that_cannot_be_reached_is_named(certificates, monkeypatch):
    place = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr(websocket, "environment_proxy", lambda _: f"http://user:geheim@{place}")
    with pytest.raises(PeerUnavailableError, match=f"by way of the HTTP proxy http://{place}") as caught:
        await websocket.WebSocketHub("https://hub.invalid/", certificates.ssl_context()).probe(open_timeout=5.0)
    assert "geheim" not in str(caught.value)


# Which way.


def connections(port):
    """Established ones at both ends of a port."""
    listed = subprocess.run(["ss", "-Htn", f"sport = :{port} or dport = :{port}"], capture_output=True, check=True)
    return listed.stdout.count(b"ESTAB")


async def test_a_handshake_without_an_answer_is_tried_once_for_all_and_leaves_nothing(deaf, certificates):
    async with ways_to(deaf, certificates, connect_timeout=0.5) as channel:
        before = connections(deaf.webdis.port)
        with capture_logs() as logs:
            confirmed = asyncio.Semaphore(0)
            done = asyncio.Event()

            async def subscribe(number):
                async with channel._session.psubscribe(b"quiet%d*" % number, silence=10) as lists:
                    async for _ in lists:
                        confirmed.release()
                        await done.wait()
                        return

            tried = []
            real = channel._websocket.probe
            channel._websocket.probe = lambda *a, **k: tried.append(a) or real(*a, **k)
            async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
                for number in range(4):
                    tasks.create_task(subscribe(number))
                for _ in range(4):
                    await confirmed.acquire()
                # Four long polls, each seen from both ends, one kept connection for requests at most.
                await eventually_async(lambda: connections(deaf.webdis.port) - before <= 2 * 5)
                done.set()
        assert channel.kind == "http"
        assert len(tried) == 1
        (told,) = [line for line in logs if line["event"] == "subscribe.channel"]
        assert told["channel"] == "http"
        assert "does not answer the handshake" in told["why"]


async def test_a_webdis_without_websockets_is_polled(certificates):
    with Hub(certificates) as hub:
        async with ways_to(hub, certificates) as channel:
            assert len(await collected(channel, 3, publishing(hub, 3))) == 3
            assert channel.kind == "http"
            for _ in range(20):  # nobody gets the second answer of the refused handshake
                channel._forget_at = 0.0
                await collected(channel, 1, publishing(hub, 1))
                assert await channel._session.command(b"ECHO", b"mine") == b"mine"
            assert channel.kind == "http"


async def test_a_proxy_that_does_not_pass_an_upgrade(certificates):
    plain = {"proxy_set_header Upgrade $with_upgrade;": "", "Connection $with_connection;": 'Connection "";'}
    with Hub(certificates, nginx={"replacements": plain}) as hub:
        async with ways_to(hub, certificates) as channel:
            with capture_logs() as logs:
                assert len(await collected(channel, 3, publishing(hub, 3))) == 3
            assert "HTTP 403" in next(line["why"] for line in logs if line["event"] == "subscribe.channel")
            assert channel.kind == "http"
        async with ways_to(hub, certificates, "websocket") as channel:
            with pytest.raises(HubError, match="HTTP 200"):
                await collected(channel, 1, lambda: None)


async def test_http_is_forgotten_after_a_while(both, certificates):
    hub, _ = both
    async with ways_to(hub, certificates) as channel:
        channel.kind, channel._forget_at = "http", float("inf")
        await collected(channel, 1, publishing(hub, 1))
        assert channel.kind == "http"
        channel._forget_at = 0.0
        await collected(channel, 1, publishing(hub, 1))
        assert channel.kind == "websocket"


async def test_a_hub_that_is_away_decides_nothing(certificates):
    with WebSocketWebdis() as stand_in, Hub(certificates, nginx={"websocket_port": stand_in.port}) as hub:
        stand_in.redis = hub.server
        stand_in.close()
        hub.webdis.stop()
        async with ways_to(hub, certificates) as channel:
            with pytest.raises(HubError, match="HTTP 502"):
                await collected(channel, 1, lambda: None)
            assert channel.kind is None


@pytest.mark.parametrize("choice", ["auto", "websocket"])
async def test_no_websocket_is_opened_while_the_hub_has_no_redis(certificates, choice):
    """Webdis 0.1.22 to 0.1.24-dev would die of it, sooner or later."""
    with WebSocketWebdis() as stand_in, Hub(certificates, nginx={"websocket_port": stand_in.port}) as hub:
        stand_in.redis = hub.server
        async with ways_to(hub, certificates, choice) as channel:
            await collected(channel, 1, publishing(hub, 1))
            opened = len(stand_in.paths)
            hub.server.stop()
            with pytest.raises(HubError, match="HTTP 503"):
                await collected(channel, 1, lambda: None)
            assert len(stand_in.paths) == opened
            assert channel.kind == "websocket"


async def test_http_is_not_left_and_websocket_is_not_given_up(deaf, certificates):
    async with ways_to(deaf, certificates, "http") as channel:
        channel._websocket = None
        assert len(await collected(channel, 2, publishing(deaf, 2))) == 2
    async with ways_to(deaf, certificates, "websocket", connect_timeout=0.3) as channel:
        for _ in range(2):
            with pytest.raises(LinkLostError, match=r"0\.1\.12"):
                await collected(channel, 1, lambda: None)
            assert channel.kind == "websocket"


# With canaries.


@contextlib.asynccontextmanager
async def listening(hub, certificates, choice="auto", canary_period=0.1, *, known=None, prefix=b"site1:"):
    async with ways_to(hub, certificates, choice) if known is None else contextlib.nullcontext(known) as channel:
        seen = []
        subscription = Subscription(
            channel._session,
            Notifications(channel._session, frozenset({"set"}), "merge"),
            prefix,
            options=SubscriptionOptions(0, b"me", canary_period, RETRY, RETRY),
            on_events=seen.extend,
            on_feed=lambda time, changes: seen.append((time, changes)),
            on_subscribed=lambda: None,
        )
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(subscription.listen()), tasks.create_task(subscription.send_canaries())]
            yield channel, subscription, seen
            for task in running:
                task.cancel()


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("choice", ["http", "websocket"])
async def test_what_was_announced_before_is_heard_before_it_has_caught_up(hub, certificates, choice):
    """Over HTTP a burst comes in reverse, and the canary with it."""
    # A machine that stands still for three periods is a gap, and what waits for a canary then hears that none came.
    async with listening(hub, certificates, choice, canary_period=2.0) as (_, subscription, seen):
        await eventually_async(lambda: subscription.live, 20)
        for burst in range(20):
            keys = [b"site1:%d:%d" % (burst, number) for number in range(100)]
            pipeline = hub.redis.pipeline(transaction=False)
            for key in keys:
                pipeline.set(key, 1)
            await asyncio.to_thread(pipeline.execute)
            await subscription.caught_up()
            assert {(key, b"set") for key in keys} <= set(seen)


async def test_a_subscription_that_falls_silent_does_not_catch_up(hub, stand_in, certificates):
    async with listening(hub, certificates, "websocket") as (_, subscription, _):
        await eventually_async(lambda: subscription.live)
        stand_in.frames = lambda _: []
        with pytest.raises(SilentError, match="no canary"):
            await subscription.caught_up()


async def test_a_websocket_that_brings_no_canaries_is_left(hub, stand_in, certificates):
    stand_in.frames = lambda data: [data] if data.startswith(b"*3\r\n$10\r\npsubscribe") else []
    async with listening(hub, certificates) as (channel, subscription, seen):
        await eventually_async(lambda: subscription.live, 20)
        assert channel.kind == "http"
        await asyncio.to_thread(hub.redis.set, "site1:a", 1)
        await eventually_async(lambda: (b"site1:a", b"set") in seen)


async def test_a_limit_of_the_hub_is_named_where_others_are_listened_to(certificates):
    """Here its Redis takes no more clients; the first of two subscriptions has its own."""
    with Hub(certificates) as hub:
        async with listening(hub, certificates, "http") as (channel, first, _):
            await eventually_async(lambda: first.live)
            hub.redis.config_set("maxclients", hub.redis.info("clients")["connected_clients"])
            async with listening(hub, certificates, known=channel, prefix=b"site2:") as (_, second, _):
                await eventually_async(lambda: "1 other namespaces" in (second.failure_log.last_error or ""), 20)
                assert "maxclients" in second.failure_log.last_error
                hub.redis.config_set("maxclients", 1000)
                await eventually_async(lambda: second.live, 20)
                assert channel._session.listening == 2
        assert channel._session.listening == 0


async def test_a_websocket_that_falls_silent_is_made_again(hub, stand_in, certificates):
    async with listening(hub, certificates) as (channel, subscription, _):
        await eventually_async(lambda: subscription.live)
        before = subscription.subscriptions
        usual, stand_in.frames = stand_in.frames, lambda _: []
        await eventually_async(lambda: not subscription.live)
        stand_in.frames = usual
        await eventually_async(lambda: subscription.live, 20)
        assert subscription.subscriptions > before
        assert channel.kind in {"websocket", "http"}  # http if a whole subscription fell into the silence
