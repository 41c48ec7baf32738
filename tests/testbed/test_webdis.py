"""Webdis alone."""

import httpx
import pytest

from testbed import FaultProxy, RedisServer, Webdis


@pytest.fixture(scope="module")
def server():
    with RedisServer(password="secret") as server:
        yield server


def test_it_carries_commands(server):
    with Webdis(server) as webdis:
        assert httpx.post(webdis.url, content=b"SET/webdis/1").json() == {"SET": [True, "OK"]}
        assert server.client().get("webdis") == b"1"


def test_settings_reach_it(server):
    with Webdis(server, database=3, http_max_request_size=2000, acl=[{"disabled": ["DEBUG"]}]) as webdis:
        httpx.post(webdis.url, content=b"SET/third/1")
        assert server.client(db=3).get("third") == b"1"
        assert httpx.post(webdis.url, content=b"DEBUG/SLEEP/0").status_code == 403
        assert httpx.post(webdis.url, content=b"SET/long/" + b"x" * 10_000).status_code == 413


def test_a_wrong_password_shows_in_answers_not_at_start(server):
    with Webdis(server, password="wrong") as webdis:
        assert "NOAUTH" in httpx.post(webdis.url, content=b"GET/a").text


def test_it_starts_without_redis_and_recovers():
    with RedisServer() as server:
        server.stop()
        with Webdis(server) as webdis:
            assert httpx.post(webdis.url, content=b"PING").status_code == 503
            server.start()
            webdis.restart()
            assert httpx.post(webdis.url, content=b"PING").status_code == 200


def test_a_fault_proxy_fits_between_it_and_redis(server):
    with FaultProxy(server.port) as link, Webdis(server, redis_port=link.port) as webdis:
        assert httpx.post(webdis.url, content=b"PING").status_code == 200
        assert link.counters().bytes_to_target
