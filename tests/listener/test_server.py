"""What is answered to whom, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import stat
import sys
import tempfile
from asyncio import sslproto
from pathlib import Path

import pytest
import redis
import structlog
from structlog.testing import capture_logs

from redisrepl.listener import server
from redisrepl.listener.addresses import Listening
from redisrepl.listener.server import Listener
from redisrepl.settings.settings import Settings
from testbed import RedisServer
from tests.listener.subject import Subject


@pytest.fixture(autouse=True)
def _plain_logs():
    structlog.reset_defaults()


@contextlib.asynccontextmanager
async def listening(subject=None, *listen, **settings):
    """A listener, and its port or path."""
    with capture_logs() as logs:
        listener = Listener(Listening.of(Settings(listen=listen or ("127.0.0.1:0",), **settings)), subject or Subject())
        task = asyncio.ensure_future(listener.run())
        async with asyncio.timeout(10):
            while not (started := [line for line in logs if line["event"] == "listen.started"]):
                await asyncio.sleep(0.01)
    listener.logs = logs
    address = started[0]["address"]
    try:
        yield (
            listener,
            address.removeprefix("unix://") if address.startswith("unix:") else int(address.rpartition(":")[2]),
        )
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def exchange(place, text, tls=None):
    """Everything that comes back: status, headers, body."""
    async with asyncio.timeout(10):
        if isinstance(place, str):
            reader, writer = await asyncio.open_unix_connection(place)
        else:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", place, ssl=tls, server_hostname=tls and "localhost"
            )
        writer.write(text.replace("\n", "\r\n").encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    status, *lines = head.decode().split("\r\n")
    return int(status.split()[1]), dict(line.split(": ", 1) for line in lines), body.decode()


def get(place, path, *headers, host="127.0.0.1", **options):
    lines = "".join(f"{header}\n" for header in headers)
    return exchange(place, f"GET {path} HTTP/1.1\nHost: {host}\n{lines}\n", **options)


class Anything:
    def __eq__(self, other):
        return True

    __hash__ = None


async def test_every_path_answers():
    async with listening() as (_, port):
        assert await get(port, "/livez") == (200, Anything(), "alive\n")
        assert await get(port, "/readyz") == (200, Anything(), "ready\n")
        status, headers, body = await get(port, "/status.json?x=1")
        assert (status, headers["Content-Type"], json.loads(body)["pid"]) == (200, "application/json", 42)
        status, headers, body = await get(port, "/metrics")
        assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
        assert "redisrepl_pushed_changes_total 1000.0" in body
        status, headers, body = await get(port, "/metrics", "Accept: application/openmetrics-text; version=1.0.0")
        assert headers["Content-Type"].startswith("application/openmetrics-text")
        assert body.endswith("# EOF\n")
        status, headers, _ = await get(port, "/metrics", "Accept: application/openmetrics-text;version=x")
        assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/plain")
        status, headers, body = await get(port, "/")
        assert (status, headers["Content-Type"].split(";")[0]) == (200, "text/html")
        assert "<!--" not in body
        assert (await get(port, "/nothing"))[0] == 404


async def test_nothing_lets_other_sites_read_or_frame_it():
    async with listening() as (_, port):
        for path in ("/", "/metrics", "/status.json", "/nothing"):
            _, headers, _ = await get(port, path, "Origin: https://evil.example")
            assert not [name for name in headers if name.lower().startswith("access-control")]
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"
        _, headers, _ = await get(port, "/")
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
async def test_only_get_is_answered(method):
    async with listening() as (_, port):
        status, headers, _ = await exchange(port, f"{method} / HTTP/1.1\nHost: localhost\n\n")
        assert (status, headers["Allow"]) == (405, "GET")


async def test_the_name_of_a_stranger_is_refused():
    async with listening() as (_, port):
        for path in ("/", "/metrics", "/status.json", "/events", "/readyz"):
            assert (await get(port, path, host="evil.example"))[0] == 421
        assert (await exchange(port, "GET / HTTP/1.1\n\n"))[0] == 421
        assert (await exchange(port, "GET /livez HTTP/1.0\nHost: evil.example\n\n"))[0] == 421
    async with listening(None, "127.0.0.1:0", listen_host=("good.example",)) as (_, port):
        assert (await get(port, "/status.json", host="good.example:80"))[0] == 200


@pytest.mark.parametrize("head", ["HTTP/1.0", "HTTP/1.0\nHost:", "HTTP/1.1"])
async def test_without_a_host_only_probes_are_answered(head):
    """As load balancers ask; no browser leaves it out."""
    async with listening() as (_, port):
        assert (await exchange(port, f"GET /livez {head}\n\n"))[::2] == (200, "alive\n")
        assert (await exchange(port, f"GET /readyz {head}\n\n"))[::2] == (200, "ready\n")
        for path in ("/", "/metrics", "/status.json", "/events", "/livez/x"):
            assert (await exchange(port, f"GET {path} {head}\n\n"))[0] == 421


async def test_with_a_token_only_probes_are_answered_without_it(tmp_path):
    token = tmp_path / "token"
    token.write_text("secret\n")
    async with listening(None, "127.0.0.1:0", listen_token_file=token) as (_, port):
        for path in ("/", "/metrics", "/status.json", "/events", "/nothing"):
            status, headers, body = await get(port, path)
            assert status == 401
            assert "Basic" in headers["WWW-Authenticate"]
            assert "site1" not in body
        assert (await get(port, "/metrics", "Authorization: Bearer secret"))[0] == 200
        assert (await get(port, "/metrics", "Authorization: Bearer secrets"))[0] == 401
        assert (await get(port, "/readyz"))[0] == 200


async def test_over_tls_with_the_certificate_of_a_client(certificates):
    files = {"listen_cert": certificates.server, "listen_key": certificates.server_key, "listen_ca": certificates.ca}
    async with listening(None, "127.0.0.1:0", **files) as (_, port):
        assert (await get(port, "/livez", tls=certificates.ssl_context()))[0] == 200
        with pytest.raises((ssl.SSLError, ConnectionError, IndexError)):
            await get(port, "/livez", tls=certificates.ssl_context(anonymous=True))


async def test_a_unix_socket_is_for_owner_and_group():
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "http.sock"
        async with listening(None, f"unix://{path}") as (_, place):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert (await get(place, "/status.json", host="whatever"))[0] == 200
        assert not path.exists()


async def test_a_unix_socket_that_another_program_serves_is_left_to_it(monkeypatch):
    monkeypatch.setattr(server, "_RETRY", 0.05)
    with RedisServer(unix_socket=True) as redis_server, capture_logs() as logs:
        path = redis_server.socket_path
        listener = Listener(Listening.of(Settings(listen=(f"unix://{path}",))), Subject())
        task = asyncio.ensure_future(listener.run())
        async with asyncio.timeout(10):
            while not (failed := [line for line in logs if line["event"] == "listen.failed"]):
                await asyncio.sleep(0.01)
        assert failed[0]["error"] == f"--listen unix://{path}: address already in use"
        assert redis.Redis(unix_socket_path=str(path)).ping()
        redis_server.kill()  # which leaves its socket behind
        assert path.is_socket()
        async with asyncio.timeout(10):
            while not [line for line in logs if line["event"] == "listen.started"]:
                await asyncio.sleep(0.01)
        assert (await get(str(path), "/livez"))[0] == 200
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not path.exists()


async def test_a_unix_socket_that_is_another_s_by_then_is_not_removed(tmp_path):
    path = tmp_path / "http.sock"
    async with listening(None, f"unix://{path}"):
        path.unlink()
        theirs = socket.socket(socket.AF_UNIX)
        theirs.bind(str(path))
    with theirs:
        assert path.is_socket()


async def test_what_is_no_request_is_refused():
    async with listening() as (_, port):
        assert (await exchange(port, "nonsense\n\n"))[0] == 400
        assert (await exchange(port, "GET / HTTP/1.1\nX: " + "y" * 20_000 + "\n\n"))[0] == 431


async def test_who_says_nothing_holds_nobody_up(monkeypatch):
    monkeypatch.setattr(server, "_PATIENCE", 0.1)
    async with listening() as (listener, port):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(server._CONNECTIONS + 5)]
        for reader, writer in silent:
            await asyncio.wait_for(reader.read(), 10)
            writer.close()
        assert (await get(port, "/livez"))[0] == 200
        assert len(listener._open) <= 1


@contextlib.asynccontextmanager
async def silent(port, number, address="127.0.0.1"):
    """So many connections from there, on which nothing is said."""
    opened = [await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)) for _ in range(number)]
    try:
        yield opened
    finally:
        for _, writer in opened:
            writer.close()


async def ended(reader):
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_of_too_many_connections_the_oldest_make_room():
    async with listening() as (listener, port), silent(port, server._CONNECTIONS + 5) as opened:
        for reader, _ in opened[:5]:
            await ended(reader)
        assert (await get(port, "/livez"))[0] == 200
        assert len(listener._entered) <= server._CONNECTIONS
        opened[-1][1].write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await opened[-1][0].readline()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of the machine")
async def test_whoever_has_most_connections_makes_room():
    async with (
        listening() as (_, port),
        silent(port, 1) as ((reader, writer),),
        silent(port, 3 * server._CONNECTIONS, "127.0.0.2") as others,
    ):
        await ended(others[2 * server._CONNECTIONS][0])
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_what_is_answered_to_a_connection_that_made_room_is_given_up():
    """It would keep all of the connection until the site has answered."""
    subject = Subject()
    subject.full_document = asyncio.get_running_loop().create_future  # of which nothing ever comes
    async with listening(subject) as (listener, port), silent(port, server._CONNECTIONS) as opened:
        for _, writer in opened:
            writer.write(b"GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with silent(port, server._CONNECTIONS) as more:
            for reader, _ in opened:
                await ended(reader)
            assert len(listener._open) <= len(more)


async def test_who_follows_the_page_has_a_place_beside_all_others(monkeypatch):
    monkeypatch.setattr(server, "_EVENTS", 0.01)
    async with listening() as (_, port), silent(port, 1) as ((reader, writer),):
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"data: "), 10)
        async with silent(port, server._CONNECTIONS + 5) as opened:
            await ended(opened[0][0])
            for _ in range(3):
                await asyncio.wait_for(reader.readuntil(b"data: "), 10)


async def test_a_connection_that_ends_right_behind_its_handshake(certificates, monkeypatch):
    """Python then has no transport to go on with, and stumbles over that."""
    completed, said = sslproto.SSLProtocol._on_handshake_complete, []

    def ends(protocol, error):
        if protocol._sslcontext.protocol == ssl.PROTOCOL_TLS_SERVER:
            protocol._transport.abort()
        completed(protocol, error)

    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    async with listening(listen_cert=certificates.server, listen_key=certificates.server_key) as (listener, port):
        monkeypatch.setattr(sslproto.SSLProtocol, "_on_handshake_complete", ends)
        with pytest.raises((ConnectionError, IndexError)):
            await get(port, "/livez", tls=certificates.ssl_context())
        async with asyncio.timeout(10):
            while listener._open:
                await asyncio.sleep(0.01)
    assert said == []


async def test_many_who_ask_at_a_time_ask_the_site_once():
    subject = Subject()
    async with listening(subject) as (_, port):
        answers = await asyncio.gather(*(get(port, "/status.json") for _ in range(20)))
    assert {status for status, _, _ in answers} == {200}
    assert subject.asked == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "starting"}, "starting"),
        ({"attached_at": None}, "not attached to the site's Redis"),
        ({"subscriptions": [{"namespace": "site1:", "live": False}]}, "not subscribed at the hub"),
        ({"lag": 61.0}, "changes are overdue"),
    ],
)
async def test_it_is_not_ready(changes, said):
    async with listening(Subject(**changes)) as (_, port):
        assert await get(port, "/readyz") == (503, Anything(), f"{said}\n")


async def test_a_trouble_that_holds_nothing_up_leaves_it_ready():
    async with listening(Subject(state="not well", lag=59.0)) as (_, port):
        assert (await get(port, "/readyz"))[0] == 200


async def test_a_loop_that_is_stuck_is_not_alive():
    async with listening() as (listener, port):
        listener._ticked_at -= 31
        assert await get(port, "/livez") == (503, Anything(), "the loop is stuck\n")


async def test_what_has_changed_is_sent_to_the_page(monkeypatch):
    monkeypatch.setattr(server, "_EVENTS", 0.01)
    monkeypatch.setattr(server, "_FRESH", 0.0)
    subject = Subject()
    async with listening(subject) as (listener, port), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"text/event-stream" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readuntil(b"\n\n") == b"retry: 3000\n\n"

        async def event():
            return json.loads((await reader.readuntil(b"\n\n")).removeprefix(b"data: "))

        first = await event()
        assert set(first) >= {"headline", "drawing", "numbers", "recent"}
        subject.changes["state"] = "not well"
        while "headline" not in (later := await event()):
            pass
        assert "Not well" in later["headline"]
        assert "certificates" not in later
        writer.close()
        while listener._streams:
            await asyncio.sleep(0.01)


async def test_addresses_that_are_taken_are_told_and_tried_again(monkeypatch):
    monkeypatch.setattr(server, "_RETRY", 0.01)
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    also = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    ports = [one.sockets[0].getsockname()[1] for one in (taken, also)]
    listener = Listener(Listening.of(Settings(listen=tuple(f"127.0.0.1:{port}" for port in ports))), Subject())
    with capture_logs() as logs:
        task = asyncio.ensure_future(listener.run())
        async with asyncio.timeout(10):
            while listener.failure_log.failures < 2:
                await asyncio.sleep(0.01)
            assert logs[0]["event"] == "listen.failed"
            assert all(f"--listen 127.0.0.1:{port}: " in logs[0]["error"] for port in ports)
            for one in (taken, also):
                one.close()
                await one.wait_closed()
            while listener.failure_log.failures:
                await asyncio.sleep(0.01)
    assert [line["event"] for line in logs][-2:] == ["listen.started", "listen.recovered"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_seldom_meant_is_said(tmp_path, certificates):
    token = tmp_path / "token"
    token.write_text("secret\n")
    pair = {"listen_cert": certificates.server, "listen_key": certificates.server_key}
    for settings, said in (
        ({"listen_token_file": token}, "sent without TLS"),
        (pair, "whoever reaches the port"),
        (pair | {"listen_token_file": token}, None),
        (pair | {"listen_ca": certificates.ca}, None),
    ):
        async with listening(None, "0.0.0.0:0", **settings) as (listener, _):
            hints = [line["hint"] for line in listener.logs if line["event"] == "listen.open"]
        assert (not hints) if said is None else (said in hints[0])
