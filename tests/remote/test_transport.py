"""Connections to the hub: which are kept, which are not, and what httpx is told when one breaks."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import httpx
import pytest

import redisrepl.remote.connection as connection_module
from redisrepl.errors import ConfigError
from redisrepl.remote.transport import HubTransport, environment_proxy
from testbed import FaultProxy, HttpProxy, Hub, eventually_async, free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n+OK\r\n"
LARGE = 30 << 20
URL = httpx.URL("https://localhost/redis/")


@pytest.fixture(scope="module")
def hub(certificates):
    with Hub(certificates) as hub:
        yield hub


@contextlib.asynccontextmanager
async def over(url, context, *, proxy=None):
    transport = HubTransport(httpx.URL(url), context, proxy=proxy)
    try:
        async with asyncio.timeout(30):
            yield transport
    finally:
        await transport.aclose()


@contextlib.asynccontextmanager
async def by_link(hub):
    """A transport to the hub, and the link on which its connections can be counted and cut."""
    with FaultProxy(hub.port) as link:
        async with over(hub.url_at(link.port), hub.certificates.ssl_context()) as transport:
            yield transport, link


async def post(transport, content=b"PING.raw", **timeout):
    response = await send(transport, content, **timeout)
    try:
        return await response.aread()
    finally:
        await response.aclose()


async def send(transport, content=b"PING.raw", *, size=None, **timeout):
    """Send bytes, or what makes `size` of them; the response once its head is there."""
    headers = {} if size is None else {"Content-Length": str(size)}
    request = httpx.Request("POST", URL, content=content, headers=headers, extensions={"timeout": timeout})
    return await transport.handle_async_request(request)


# Which are kept.


async def test_requests_one_after_another_share_a_connection(hub):
    async with by_link(hub) as (transport, link):
        for _ in range(50):
            assert await post(transport) == b"+PONG\r\n"
        assert link.counters().accepted == 1


async def test_requests_side_by_side_have_one_each(hub):
    async with by_link(hub) as (transport, link):
        assert await asyncio.gather(*(post(transport) for _ in range(20))) == [b"+PONG\r\n"] * 20
        assert link.counters().accepted == 20


async def test_what_broke_while_nobody_used_it_is_not_used(hub):
    async with by_link(hub) as (transport, link):
        for _ in range(5):
            await asyncio.gather(*(post(transport) for _ in range(3)))
            link.cut()
            await eventually_async(lambda: not transport._connections.open)


async def test_what_broke_as_it_was_used_is_sent_no_more(hub, caplog):
    """Asyncio complains of writes to a connection that it knows to be broken, on stderr."""
    async with by_link(hub) as (transport, link):
        await post(transport)
        link.cut()  # and the event loop has not seen it yet
        sent = 0

        async def content():
            nonlocal sent
            for _ in range(100):
                sent += 1
                yield bytes(64 << 10)

        with pytest.raises(httpx.ReadError):
            await send(transport, content(), size=100 << 16)
    assert sent < 10
    assert not caplog.records


async def test_what_is_not_used_is_closed(hub, monkeypatch):
    monkeypatch.setattr("redisrepl.remote.kept._KEPT", 0.2)
    async with by_link(hub) as (transport, link):
        await asyncio.gather(*(post(transport) for _ in range(3)))
        await eventually_async(lambda: link.counters().open == 0)
        assert not transport._connections._unused
        await post(transport)
        assert link.counters().accepted == 4


async def test_a_response_that_nobody_read_to_its_end_ends_its_connection(hub):
    hub.redis.set("large", bytes(LARGE))
    async with by_link(hub) as (transport, link):
        response = await send(transport, b"GET/large.raw")
        await response.aclose()
        assert await post(transport) == b"+PONG\r\n"
        assert link.counters().accepted == 2


async def test_a_request_that_is_given_up_ends_its_connection(hub):
    async with by_link(hub) as (transport, link):
        await post(transport)
        link.stall("to_client")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(post(transport, b"ECHO/late.raw"), 0.1)
        link.heal()
        assert await post(transport) == b"+PONG\r\n"
        assert link.counters().accepted == 2


async def test_nothing_is_left_open(hub):
    with FaultProxy(hub.port) as link:
        async with over(hub.url_at(link.port), hub.certificates.ssl_context()) as transport:
            await asyncio.gather(*(post(transport) for _ in range(3)))
            under_way = await send(transport, b"GET/nothing.raw")
        await eventually_async(lambda: link.counters().open == 0)
        await under_way.aclose()


# Bodies.


async def test_a_slow_reader_does_not_have_it_all_in_memory(hub, monkeypatch):
    monkeypatch.setattr(connection_module, "_WAITING", 1 << 20)
    hub.redis.set("large", bytes(LARGE))
    async with by_link(hub) as (transport, link):
        response = await send(transport, b"GET/large.raw")
        (connection,) = transport._connections.open
        await eventually_async(lambda: connection._paused)
        assert sum(map(len, connection.response.pieces)) < 2 << 20
        assert len(await response.aread()) == LARGE + len(b"$%d\r\n\r\n" % LARGE)
        await response.aclose()
        assert await post(transport) == b"+PONG\r\n"
        assert link.counters().accepted == 1


async def test_a_body_that_is_refused_is_not_sent_to_its_end(hub):
    async def endless():
        while True:
            yield bytes(64 << 10)

    async with by_link(hub) as (transport, _):
        response = await send(transport, endless(), size=1 << 40)
        await response.aclose()
        assert response.status_code == 413
        assert await post(transport) == b"+PONG\r\n"


async def test_a_body_waits_until_the_other_side_takes_it(hub):
    taken = 0

    async def counted():
        nonlocal taken
        for _ in range(480):
            taken += 1
            yield bytes(64 << 10)

    async with by_link(hub) as (transport, link):
        await post(transport)
        link.stall("to_target")
        size = len(b"SET/k/") + LARGE + len(b".raw")

        async def content():
            yield b"SET/k/"
            async for piece in counted():
                yield piece
            yield b".raw"

        sending = asyncio.ensure_future(send(transport, content(), size=size))
        (connection,) = transport._connections.open
        await eventually_async(lambda: connection._full)
        assert taken < 480
        link.heal()
        response = await sending
        assert await response.aread() == b"+OK\r\n"
        await response.aclose()
    assert taken == 480
    assert hub.redis.strlen("k") == LARGE


# What no server of ours would say.


@contextlib.asynccontextmanager
async def saying(certificates, *answers, ends=False):
    """A transport to a server with one answer for each request of a connection, and the connections so far."""
    accepted = []

    async def serve(reader, writer):
        accepted.append(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            for answer in answers:
                await reader.readuntil(b"PING.raw")
                writer.write(answer)
            await writer.drain()
            if not ends:
                await reader.read()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.server, certificates.server_key)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    try:
        async with over(f"https://localhost:{port}/", certificates.ssl_context()) as transport:
            yield transport, accepted
    finally:
        server.close()
        for writer in accepted:
            writer.close()


async def test_a_body_without_a_length_ends_with_its_connection(certificates):
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n+OK\r\n"
    async with saying(certificates, answer, ends=True) as (transport, accepted):
        assert await post(transport) == b"+OK\r\n"
        assert await post(transport) == b"+OK\r\n"
        assert len(accepted) == 2


async def test_an_interim_response_is_not_the_answer(certificates):
    async with saying(certificates, b"HTTP/1.1 100 Continue\r\n\r\n" + OK) as (transport, _):
        assert await post(transport) == b"+OK\r\n"


async def test_a_farewell_is_not_taken_for_the_next_answer(certificates):
    farewell = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with saying(certificates, OK, OK) as (transport, accepted):
        assert await post(transport) == b"+OK\r\n"
        accepted[0].write(farewell)
        await eventually_async(lambda: not transport._connections._unused)
        assert await post(transport) == b"+OK\r\n"
        assert len(accepted) == 2


async def test_two_answers_to_one_request_leave_none_for_the_next(certificates):
    async with saying(certificates, OK + OK) as (transport, accepted):
        assert await post(transport) == b"+OK\r\n"
        assert await post(transport) == b"+OK\r\n"
        assert len(accepted) == 2


async def test_a_server_that_does_not_want_to_keep_it(certificates):
    async with saying(certificates, OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)) as (
        transport,
        accepted,
    ):
        assert await post(transport) == b"+OK\r\n"
        assert await post(transport) == b"+OK\r\n"
        assert len(accepted) == 2


@pytest.mark.parametrize(
    "answer", [b"$5\r\nvalue\r\n", OK.replace(b"5", b"five"), b"HTTP/1.1 101 No\r\nUpgrade: x\r\n\r\n"]
)
async def test_what_is_no_http(certificates, answer):
    async with saying(certificates, answer) as (transport, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await post(transport)


@pytest.mark.parametrize("length", [0, 10, len(OK) - 1])
async def test_an_answer_that_is_cut_short(certificates, length):
    async with saying(certificates, OK[:length], ends=True) as (transport, _):
        with pytest.raises(httpx.ReadError):
            await post(transport)


# Connecting.


async def test_nobody_there(certificates):
    async with over(f"https://localhost:{free_port()}/", certificates.ssl_context()) as transport:
        with pytest.raises(httpx.ConnectError):
            await post(transport)


async def test_nobody_answers_the_handshake(hub):
    async with by_link(hub) as (transport, link):
        link.stall()
        with pytest.raises(httpx.ConnectTimeout):
            await post(transport, connect=0.2)
        link.heal()
        await eventually_async(lambda: link.counters().open == 0)


# By way of a proxy.


async def test_a_proxy_connects_us_once(hub):
    with HttpProxy() as proxy:
        async with over(hub.url, hub.certificates.ssl_context(), proxy=proxy.url) as transport:
            for _ in range(5):
                assert await post(transport) == b"+PONG\r\n"
        assert proxy.connects == [f"localhost:{hub.port}"]


async def test_a_proxy_that_refuses_us_says_why_and_keeps_its_password(hub):
    with HttpProxy(user="site", password="another") as proxy:
        url = proxy.url.replace("another", "geheim")
        async with over(hub.url, hub.certificates.ssl_context(), proxy=url) as transport:
            with pytest.raises(httpx.ProxyError, match=r"^the HTTP proxy http://127.0.0.1:\d+ answers 40\d") as caught:
                await post(transport)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (None, "does not answer"),
        (b"", "ended the connection without an answer"),
        (b"HTTP/1.1 200", "ended the connection without an answer|is no HTTP proxy"),
        (b"SSH-2.0-OpenSSH\r\n", "is no HTTP proxy: no HTTP response"),
    ],
)
async def test_a_proxy_that_does_not_do_its_part_is_named(certificates, said, what):
    """Whatever goes wrong up to its reply; and nothing was sent to the hub by then."""
    over_now = asyncio.Event()

    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said or b"")
        if said is None:
            await reader.read()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        over_now.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with over(
        "https://hub.invalid/", certificates.ssl_context(), proxy=f"http://u:geheim@{place}/x"
    ) as transport:
        with pytest.raises(
            httpx.ProxyError, match=rf"^the HTTP proxy http://{place}, which .* names, ({what})"
        ) as caught:
            await post(transport, connect=0.2)
        await over_now.wait()
    server.close()
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "proxy",
    [
        "socks5://user:geheim@localhost:1080",
        "ftp://localhost",
        "https://user:geheim@localhost",
        "http://:3128",
        "http://[::1",
        "http://proxy:99999",
        "http://proxy..example:3128",
        "http://user:geheim/2@proxy:3128",
        "http://user:2/geheim@proxy:3128",
        "http://user:2#geheim@proxy:3128",
        "user:geheim://@proxy:3128",
        "geheim://proxy:3128",
    ],
)
def test_a_proxy_that_cannot_be_used(certificates, proxy):
    with pytest.raises(ConfigError, match=r"^the proxy that the environment names") as caught:
        HubTransport(httpx.URL("https://hub/"), certificates.ssl_context(), proxy=proxy)
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "proxy:3128"}, "http://proxy:3128"),
        ({"ALL_PROXY": "http://all:1"}, "http://all:1"),
        ({"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"HTTP_PROXY": "http://plain:1", "WSS_PROXY": "http://other:1"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "hub.example"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".example"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "other.example"}, "http://proxy:3128"),
    ],
)
def test_the_proxy_of_the_environment(monkeypatch, environment, proxy):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "WSS_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert environment_proxy(httpx.URL("https://hub.example/redis/")) == proxy
    assert environment_proxy(httpx.URL("wss://hub.example/redis/.raw")) == proxy


@pytest.mark.parametrize(
    ("excepted", "host", "goes_by_proxy"),
    [
        ("10.0.0.0/8", "10.1.2.3", False),
        ("10.0.0.0/8,x", "11.1.2.3", True),
        ("192.168.1.7", "192.168.1.7", False),
        ("[fd00::1]", "[fd00::1]", False),
        ("[fd00::1]:443", "[fd00::1]", False),
        ("[fd00::1]:8443", "[fd00::1]:8443", False),
        ("[fd00::1]:8443", "[fd00::1]", True),
        ("[fd00::1]:443", "[fd00::1]:8443", True),
        ("10.1.2.3:8443", "10.1.2.3:8443", False),
        ("10.1.2.3:8443", "10.1.2.3", True),
        ("fd00::/8", "[fd12::1]", False),
        ("[fd00::]/8", "[fd12::1]", False),
        ("fd00::/8", "[fe80::1]", True),
        ("nonsense/8,,/", "10.1.2.3", True),
    ],
)
def test_addresses_that_go_without_a_proxy(monkeypatch, excepted, host, goes_by_proxy):
    for name in ("https_proxy", "ALL_PROXY", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", excepted)

    assert (environment_proxy(httpx.URL(f"https://{host}/")) is not None) is goes_by_proxy


async def test_a_proxy_that_is_away_is_named(certificates):
    port = free_port()
    transport = HubTransport(
        httpx.URL("https://hub.lab/"),
        certificates.ssl_context(),
        proxy=f"http://me:secret@127.0.0.1:{port}",
    )
    with pytest.raises(
        httpx.ProxyError, match=f"the HTTP proxy http://127.0.0.1:{port}, which the environment"
    ) as caught:
        await post(transport)
    assert "secret" not in str(caught.value)
    await transport.aclose()
