"""HTTPS to the hub: every failure as one of our errors, and real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import socket
import ssl

import httpx
import pytest
import respx

import redisrepl.remote.session as session_module
from redisrepl.errors import (
    BodyTooLargeError,
    CertificateError,
    CommandRefusedError,
    ConfigError,
    HubError,
    OutcomeUnknownError,
    PeerUnavailableError,
    RedisreplError,
    SilentError,
)
from redisrepl.remote.session import HubSession, check_url
from redisrepl.tls.contexts import CertificateFiles, client_context
from redisrepl.wire.messages import MessageReader
from redisrepl.wire.webdis import body, body_pieces
from testbed import FaultProxy, Hub, Nginx, eventually_async, free_port
from tests.bodies import parse_reply
from tests.samples import ALL_BYTES

URL = "https://hub.example/redis/"


@pytest.fixture(scope="module")
def hub(certificates):
    with Hub(certificates) as hub:
        yield hub


@contextlib.asynccontextmanager
async def answering(answer, **options):
    """A session with a hub that answers every request in the same way."""
    if isinstance(answer, httpx.Response):
        router = respx.Router(assert_all_called=False)
        router.post(URL).return_value = answer
        transport = httpx.MockTransport(router.async_handler)
    else:
        transport = httpx.MockTransport(answer)
    session = HubSession(URL, ssl.create_default_context(), transport=transport, **options)
    try:
        yield session
    finally:
        await session.close()


@contextlib.asynccontextmanager
async def connected(url, certificates, pair=None, *, anonymous=False, context=None, **options):
    session = HubSession(check_url(url), context or certificates.ssl_context(pair, anonymous=anonymous), **options)
    try:
        yield session
    finally:
        await session.close()


def raising(error, cause=None):
    async def handler(_request):
        raise error from cause

    return handler


async def failure(answer, **options):
    async with answering(answer, **options) as session:
        with pytest.raises(RedisreplError) as caught:
            await session.post(b"PING.raw")
    return caught.value


# Answers.


async def test_a_good_answer_is_its_body():
    async with answering(httpx.Response(200, content=ALL_BYTES)) as session:
        assert await session.post(b"GET/k.raw") == ALL_BYTES


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, HubError),
        (401, CommandRefusedError),
        (403, CommandRefusedError),
        (404, HubError),
        (413, BodyTooLargeError),
        (429, HubError),
        (500, HubError),
        (502, HubError),
        (503, HubError),
        (504, HubError),
        (201, HubError),
        (301, HubError),
        (418, HubError),
    ],
)
async def test_a_status_as_an_error(status, kind):
    error = await failure(httpx.Response(status, content=b"<html>"))

    assert type(error) is kind
    assert error.status == status
    assert f"HTTP {status}" in str(error)
    assert URL in str(error)


async def test_nginx_says_that_our_certificate_is_missing_or_wrong():
    error = await failure(httpx.Response(400, content=b"<html>No required SSL certificate was sent</html>"))

    assert type(error) is CertificateError
    assert "refuses our client certificate" in str(error)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-1", None),
        ("soon", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None),
        ("²", None),
        ("", None),
    ],
)
async def test_the_hub_may_ask_for_a_pause(header, seconds):
    error = await failure(httpx.Response(503, headers=[(b"Retry-After", header.encode("latin-1"))]))

    assert error.retry_after == seconds


NOW = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    ("header", "date", "seconds"),
    [
        ("Wed, 21 Oct 2015 07:29:30 GMT", NOW, 90.0),
        ("Wednesday, 21-Oct-15 07:29:30 GMT", NOW, 90.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", NOW, 0.0),
        ("Wed, 21 Oct 2015 07:29:30", NOW, None),
        ("Wed, 21 Oct 2015 07:29:30 GMT", "today", None),
        ("Wed, 21 Oct 99999999999 07:29:30 GMT", NOW, None),
    ],
)
async def test_a_time_to_come_back_is_by_the_clock_of_the_hub(header, date, seconds):
    error = await failure(httpx.Response(429, headers={"Retry-After": header, "Date": date}))

    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("answer", "value"), [(b"+PONG\r\n", b"PONG"), (b":5\r\n", 5), (b"$-1\r\n", None), (b"*1\r\n$1\r\na\r\n", [b"a"])]
)
async def test_a_command_has_a_reply(answer, value):
    async with answering(httpx.Response(200, content=answer)) as session:
        assert await session.command(b"ANY") == value


async def test_an_error_in_a_good_answer_is_a_refusal():
    async with answering(httpx.Response(200, content=b"-WRONGTYPE no\r\n")) as session:
        with pytest.raises(CommandRefusedError, match=r"^WRONGTYPE no$") as caught:
            await session.command(b"GET", b"k")
    assert caught.value.status == 200


# No answer.


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError])
async def test_what_was_not_sent_is_known_not_to_be_done(kind):
    error = await failure(raising(kind("why")))

    assert type(error) is PeerUnavailableError
    assert URL in str(error)
    assert type(error.__cause__) is kind


@pytest.mark.parametrize(
    "kind",
    [
        httpx.ReadError,
        httpx.WriteError,
        httpx.CloseError,
        httpx.ReadTimeout,
        httpx.WriteTimeout,
        httpx.RemoteProtocolError,
        httpx.DecodingError,
    ],
)
async def test_what_was_sent_may_be_done(kind):
    error = await failure(raising(kind("why")))

    assert type(error) is OutcomeUnknownError
    assert type(error.__cause__) is kind


@pytest.mark.parametrize("kind", [httpx.ConnectError, httpx.ReadError, httpx.WriteError])
async def test_tls_may_fail_in_any_phase(kind):
    """With TLS 1.3 the server judges our certificate when the handshake is over for us."""
    error = await failure(raising(kind(""), ssl.SSLError(1, "[SSL: TLSV1_ALERT_UNKNOWN_CA] alert")))

    assert type(error) is CertificateError
    assert "does not trust the CA of our certificate" in str(error)


async def test_an_error_without_words_is_named_by_its_kind():
    assert "ReadError" in str(await failure(raising(httpx.ReadError(""))))


async def test_a_request_has_an_end():
    async def never(_request):
        await asyncio.Event().wait()

    error = await failure(never, timeout=0.02)

    assert type(error) is OutcomeUnknownError
    assert "did not answer in time" in str(error)


async def test_a_stop_is_not_a_failure_of_the_hub():
    entered = asyncio.Event()

    async def never(_request):
        entered.set()
        await asyncio.Event().wait()

    async with answering(never) as session:
        waiting = asyncio.ensure_future(session.post(b"PING.raw"))
        await entered.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_proxy_that_is_silent_is_named_before_the_request_is_over(certificates, monkeypatch):
    """However short the time for a request is; nothing was sent to the hub by then."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        place = f"127.0.0.1:{proxy.getsockname()[1]}"
        monkeypatch.setattr("redisrepl.remote.session.environment_proxy", lambda _: f"http://{place}")
        async with connected("https://hub.invalid/", certificates, timeout=0.3) as session:
            with pytest.raises(PeerUnavailableError, match=f"the HTTP proxy http://{place}, .* does not answer"):
                await session.command(b"PING")


# The address.


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://hub/redis", "https://hub/redis/"),
        ("https://hub/redis/", "https://hub/redis/"),
        ("https://hub:8443", "https://hub:8443/"),
        ("https://[::1]/redis//", "https://[::1]/redis/"),
        ("https://bücher.example.", "https://bücher.example./"),
    ],
)
def test_an_address_ends_in_one_slash(url, checked):
    assert check_url(url) == checked


@pytest.mark.parametrize("url", ["http://hub/redis", "hub/redis", "", "https://", "ftp://hub", "//hub", "https:hub"])
def test_only_https_is_spoken(url):
    with pytest.raises(ConfigError, match=r"^--haddr .*https://"):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://hub:port/",
        "https://hub:99999999/",
        "https://[::1/",
        "https://a\x00b/",
        "https://hub..example/",
        f"https://{'h' * 64}/",
        "https://xn--a/",
        "https://user:geheim@hub:x/",
    ],
)
def test_what_is_no_address(url):
    with pytest.raises(ConfigError, match=r"^--hub .*not an address") as caught:
        check_url(url, "--hub")
    assert "geheim" not in str(caught.value)


# Real TLS, real nginx.


async def test_commands_reach_redis(hub, certificates):
    async with connected(hub.url, certificates) as session:
        assert await session.command(b"SET", ALL_BYTES, ALL_BYTES) == b"OK"
        assert await session.command(b"GET", ALL_BYTES) == ALL_BYTES
        assert await asyncio.gather(*(session.command(b"ECHO", b"%d" % number) for number in range(50))) == [
            b"%d" % number for number in range(50)
        ]
        with pytest.raises(CommandRefusedError, match="WRONGTYPE"):
            await session.command(b"HGETALL", ALL_BYTES)
        with pytest.raises(CommandRefusedError, match="HTTP 403"):
            await session.command(b"MULTI")
    assert hub.redis.get(ALL_BYTES) == ALL_BYTES


async def test_requests_side_by_side_share_so_many_connections(hub, certificates):
    with FaultProxy(hub.port) as link:
        async with connected(hub.url_at(link.port), certificates, connections=3) as session:
            await session.command(b"PING")  # or nobody knows whether the hub is there, and they come one by one
            assert await asyncio.gather(*(session.command(b"ECHO", b"%d" % number) for number in range(20))) == [
                b"%d" % number for number in range(20)
            ]
            assert link.counters().accepted == 3


async def test_a_failure_gives_its_place_back(hub, certificates):
    with FaultProxy(hub.port) as link:
        async with connected(hub.url_at(link.port), certificates, connections=1) as session:
            link.down()
            for _ in range(2):
                with pytest.raises(PeerUnavailableError):
                    await session.command(b"PING")
            link.listen()
            assert await session.command(b"PING") == b"PONG"


async def test_a_request_that_is_done_is_freed_at_once(hub, certificates):
    async with connected(hub.url, certificates) as session:
        gc.collect()
        gc.disable()
        before = {id(kept) for kept in gc.get_objects() if isinstance(kept, (httpx.Request, httpx.Response))}
        try:
            for _ in range(20):
                await session.command(b"ECHO", ALL_BYTES)
                with pytest.raises(CommandRefusedError, match="HTTP 403"):
                    await session.command(b"MULTI")
            now = [kept for kept in gc.get_objects() if isinstance(kept, (httpx.Request, httpx.Response))]
            alive = [kept for kept in now if id(kept) not in before]
        finally:
            gc.enable()
    assert not alive


async def test_requests_share_one_timer(hub, certificates, monkeypatch):
    loop = asyncio.get_running_loop()
    timers, call_at = [], loop.call_at
    async with connected(hub.url, certificates) as session:
        await session.command(b"PING")  # which connects, and sets it
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_at", lambda *args, **kw: timers.append(call_at(*args, **kw)) or timers[-1])
            for _ in range(20):
                await session.command(b"PING")

    assert not timers


async def test_a_body_of_many_pieces_arrives_whole_and_with_its_length(hub, certificates):
    value = ALL_BYTES * 4096
    async with connected(hub.url, certificates) as session:
        assert await session.command(b"SET", b"large", value) == b"OK"
        assert parse_reply(await session.post(*body_pieces(b"SET", b"larger", value * 2))) == b"OK"
        assert await session.command(b"GET", b"large") == value
        assert await session.command(b"GET", b"larger") == value * 2

    pieces = [piece async for piece in session_module._in_pieces([value, b"end"], len(value) + 3, lambda: None)]
    assert b"".join(pieces) == value + b"end"
    assert max(map(len, pieces)) <= 256 << 10


async def test_to_wait_until_a_large_reply_may_be_read_takes_none_of_its_time(hub, certificates):
    async with connected(hub.url, certificates, timeout=2.0) as session:
        await session.command(b"SET", b"large", bytes(9 << 20))
        async with session._large_reply:  # another one is being read
            reply = asyncio.create_task(session.command(b"GET", b"large"))
            await asyncio.sleep(2.5)  # longer than nothing may come
        assert await reply == bytes(9 << 20)


async def test_a_large_integer_arrives_whole(hub, certificates):
    hub.redis.set("dying", "v", pxat=4_000_000_000_000)
    hub.redis.set("string", "v")
    async with connected(hub.url, certificates) as session:
        assert await session.integer(b"PEXPIRETIME", b"dying") == 4_000_000_000_000
        with pytest.raises(CommandRefusedError, match="not an integer"):
            await session.integer(b"INCR", b"string")
        assert await session.integers(b"SMISMEMBER", b"none", b"a", b"b") == [0, 0]
        with pytest.raises(CommandRefusedError, match="WRONGTYPE"):
            await session.integers(b"SMISMEMBER", b"string", b"a")


@pytest.mark.parametrize("which", ["anonymous", "expired", "foreign"])
async def test_a_client_certificate_that_the_hub_refuses(hub, certificates, which):
    pair = {"expired": certificates.expired_client, "foreign": certificates.foreign_client}.get(which, lambda: None)()
    async with connected(hub.url, certificates, pair, anonymous=which == "anonymous") as session:
        with pytest.raises(CertificateError, match="refuses our client certificate"):
            await session.post(b"SET/site1:intruder/1.raw")
    assert hub.redis.get("site1:intruder") is None


async def test_a_hub_of_another_authority_is_refused(hub, certificates):
    context = ssl.create_default_context(cafile=str(certificates.foreign_ca()))
    context.load_cert_chain(certificates.client, certificates.client_key)
    async with connected(hub.url, certificates, context=context) as session:
        with pytest.raises(CertificateError, match="not signed by the given CA"):
            await session.post(b"SET/site1:intruder/1.raw")
    assert hub.redis.get("site1:intruder") is None


async def test_that_no_authority_is_given_is_said(hub, certificates):
    context = client_context(CertificateFiles(None, certificates.client, certificates.client_key))
    async with connected(hub.url, certificates, context=context) as session:
        with pytest.raises(CertificateError, match="no --ca is given, so the system's authorities are trusted"):
            await session.post(b"SET/site1:intruder/1.raw")


@pytest.mark.parametrize(
    ("broken", "reason"), [("expired_server", "has expired: have it renewed"), ("misnamed_server", "another host name")]
)
async def test_a_hub_whose_certificate_is_broken_is_refused(hub, certificates, broken, reason):
    with Nginx(hub.webdis, certificates, server_pair=getattr(certificates, broken)()) as nginx:
        async with connected(nginx.url, certificates) as session:
            with pytest.raises(CertificateError, match=reason):
                await session.post(b"PING.raw")


async def test_a_port_without_tls(hub, certificates):
    async with connected(f"https://localhost:{hub.webdis.port}/", certificates, connect_timeout=3) as session:
        with pytest.raises((CertificateError, PeerUnavailableError)):
            await session.post(b"PING.raw")


async def test_a_port_where_nobody_listens(certificates):
    async with connected(f"https://localhost:{free_port()}/redis", certificates) as session:
        with pytest.raises(PeerUnavailableError, match="cannot be reached"):
            await session.post(b"PING.raw")


async def test_a_name_that_nobody_has(certificates):
    async with connected("https://hub.invalid/redis", certificates) as session:
        with pytest.raises(PeerUnavailableError, match="cannot be reached"):
            await session.post(b"PING.raw")


async def test_a_hub_without_its_redis(certificates):
    with Hub(certificates) as hub:
        hub.webdis.stop()
        async with connected(hub.url, certificates) as session:
            with pytest.raises(HubError, match="HTTP 502") as caught:
                await session.post(b"PING.raw")
    assert caught.value.status == 502


async def test_an_answer_that_is_cut_short_leaves_the_outcome_unknown(hub, certificates):
    with FaultProxy(hub.port) as link:
        async with connected(hub.url_at(link.port), certificates) as session:
            await session.command(b"PING")
            link.truncate(20, "to_client")
            with pytest.raises(OutcomeUnknownError):
                await session.command(b"SET", b"cut", b"1")
            link.heal()
            assert await session.command(b"PING") == b"PONG"


async def test_an_answer_that_does_not_come_leaves_the_outcome_unknown(hub, certificates):
    with FaultProxy(hub.port) as link:
        async with connected(hub.url_at(link.port), certificates, timeout=0.3) as session:
            await session.command(b"PING")
            link.stall("to_client")
            with pytest.raises(OutcomeUnknownError, match="in time"):
                await session.command(b"SET", b"stalled", b"1")
    assert hub.redis.get("stalled") == b"1"


class SlowLink(httpx.AsyncBaseTransport):
    """Takes the pieces of a body, and brings those of an answer, each after a pause; then it stops, if told to."""

    def __init__(self, pause=0.0, answer=0, stops_after=math.inf):
        self._pause = pause
        self._answer = answer
        self._stops_after = stops_after
        self._moved = 0

    async def _move(self):
        if self._moved >= self._stops_after:
            await asyncio.Event().wait()
        self._moved += 1
        await asyncio.sleep(self._pause)

    async def handle_async_request(self, request):
        async for _ in request.stream:
            await self._move()

        async def pieces():
            for _ in range(self._answer):
                await self._move()
                yield b"piece"

        return httpx.Response(200, content=pieces())


@contextlib.asynccontextmanager
async def over(link, certificates, timeout):
    session = HubSession("https://hub.test/", certificates.ssl_context(), timeout=timeout, transport=link)
    try:
        yield session
    finally:
        await session.close()


@pytest.mark.parametrize(("pieces", "answer"), [(8, 0), (0, 8), (4, 4)])
async def test_a_body_may_take_long_as_long_as_it_moves(certificates, monkeypatch, pieces, answer):
    monkeypatch.setattr(session_module, "SLOWEST", math.inf)
    body = bytes(max(1, pieces) * (256 << 10))
    async with over(SlowLink(0.25, answer), certificates, timeout=1.0) as session:
        assert await session.post(body) == b"piece" * answer


@pytest.mark.parametrize(("pieces", "answer"), [(8, 0), (0, 8)])
async def test_a_body_that_does_not_move_any_more_is_given_up(certificates, monkeypatch, pieces, answer):
    monkeypatch.setattr(session_module, "SLOWEST", math.inf)
    body = bytes(max(1, pieces) * (256 << 10))
    async with over(SlowLink(0.0, answer, stops_after=4), certificates, timeout=0.1) as session:
        with pytest.raises(OutcomeUnknownError, match="in time"):
            await session.post(body)


async def test_a_connection_that_is_not_made_in_time_sent_nothing(hub, certificates):
    with FaultProxy(hub.port) as link:
        link.stall()
        async with connected(hub.url_at(link.port), certificates, connect_timeout=0.3) as session:
            with pytest.raises(PeerUnavailableError):
                await session.command(b"SET", b"early", b"1")
    assert hub.redis.get("early") is None


# The long poll.


async def test_the_long_poll_brings_what_is_published(hub, certificates):
    async with (
        through(hub, certificates) as (session, _),
        session.stream(body(b"PSUBSCRIBE", b"news*"), silence=10) as chunks,
    ):
        reader, messages = MessageReader(), []
        async for chunk in chunks:
            messages += reader.feed(chunk)
            if messages:
                break
            await asyncio.to_thread(hub.redis.publish, b"news:\xff", ALL_BYTES)
    assert messages[0] == (b"news:\xff", ALL_BYTES)


@contextlib.asynccontextmanager
async def through(hub, certificates):
    """A session over a link that is cut at the end, for else a connection with an open reply lives on for 30 s."""
    with FaultProxy(hub.port) as link:
        async with asyncio.timeout(20), connected(hub.url_at(link.port), certificates) as session:
            yield session, link
            link.down()
            await eventually_async(lambda: link.counters().open == 0)


async def drained(session, pattern, *, silence, at_first=lambda: None):
    """Read a long poll until it ends."""
    async with session.stream(body(b"PSUBSCRIBE", pattern), silence=silence) as chunks:
        async for _ in chunks:
            at_first()


async def test_a_silent_long_poll_is_given_up(hub, certificates):
    async with through(hub, certificates) as (session, _):
        with pytest.raises(SilentError, match=r"sent nothing for 0\.3 s"):
            await drained(session, b"quiet", silence=0.3)


async def test_a_refused_long_poll_says_so(hub, certificates):
    async with connected(hub.url, certificates) as session:
        with pytest.raises(CommandRefusedError):
            async with session.stream(b"MULTI.raw", silence=5):
                pass


async def test_a_long_poll_that_is_cut_is_noticed(hub, certificates):
    async with through(hub, certificates) as (session, link):
        with pytest.raises(OutcomeUnknownError):
            await drained(session, b"cut", silence=10, at_first=link.cut)


async def test_what_goes_wrong_while_a_long_poll_is_read_stays_what_it_is(hub, certificates):
    async with through(hub, certificates) as (session, _):
        with pytest.raises(KeyError):
            async with session.stream(body(b"PSUBSCRIBE", b"own"), silence=10):
                raise KeyError
