"""What Webdis and nginx really do, as far as `wire.webdis` and `remote` rely on it (facts M1 to M10).

A failure here says that a new version behaves otherwise, and which of our precautions can go.
"""

from __future__ import annotations

import contextlib
import socket

import httpx
import pytest

from redisrepl.wire.messages import MessageReader
from redisrepl.wire.webdis import body
from testbed import Hub, eventually


@pytest.fixture(scope="module")
def hub(certificates):
    with Hub(certificates) as hub:
        yield hub


@pytest.fixture(autouse=True)
def _empty(hub):
    hub.redis.flushall()


@pytest.fixture
def webdis(hub):
    with httpx.Client(timeout=10) as client:
        yield lambda content: client.post(hub.webdis.url, content=content)


@contextlib.contextmanager
def subscribed(hub, *patterns, timeout=10):
    """The chunks of a long poll, past its confirmation."""
    with (
        httpx.Client(timeout=timeout) as client,
        client.stream("POST", hub.webdis.url, content=body(b"PSUBSCRIBE", *patterns)) as answer,
    ):
        chunks = answer.iter_raw()
        assert b"psubscribe" in next(chunks)
        yield chunks


def test_m1_a_burst_arrives_backwards(hub):
    with subscribed(hub, b"news*") as chunks:
        pipe = hub.redis.pipeline(transaction=False)
        for number in range(10):
            pipe.publish("news", number)
        pipe.execute()
        reader, messages = MessageReader(), []
        while len(messages) < 10:
            messages += reader.feed(next(chunks))

    assert sorted(data for _, data in messages) == [b"%d" % number for number in range(10)]
    assert [data for _, data in messages] != [b"%d" % number for number in range(10)]


def test_m2_two_patterns_break_the_response(hub):
    """A chunk comes before the status line."""
    request = body(b"PSUBSCRIBE", b"a*", b"b*")
    with socket.create_connection(("127.0.0.1", hub.webdis.port), timeout=10) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: hub\r\nContent-Length: %d\r\n\r\n%b" % (len(request), request))
        answer = b""
        while b"HTTP/1.1 200" not in answer:
            answer += connection.recv(4096)

    assert not answer.startswith(b"HTTP/1.1")


def test_m3_a_subscription_survives_its_own_death_in_silence(hub):
    with subscribed(hub, b"news*", timeout=0.5) as chunks:
        eventually(hub.redis.pubsub_numpat)
        hub.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        eventually(lambda: not hub.redis.pubsub_numpat())
        assert hub.redis.publish("news", "lost") == 0
        with httpx.Client() as other:  # Webdis itself is well, and has had the time to say so
            assert other.post(hub.webdis.url, content=b"PING.raw").content == b"+PONG\r\n"
        with pytest.raises(httpx.ReadTimeout):
            next(chunks)


def test_m6_json_is_not_binary_safe(hub, webdis):
    hub.redis.set("nul", b"ab\x00cd")
    hub.redis.set("latin", b"\xff")
    hub.redis.hset("h", mapping={b"\xff": "lost", b"f": "v"})

    assert webdis(b"GET/nul").json() == {"GET": "ab"}
    assert webdis(b"GET/latin").json() == {}
    assert webdis(b"HGETALL/h").json() == {"HGETALL": {"f": "v"}}
    assert webdis(b"HGETALL/none").json() == {"HGETALL": {}}


def test_m7_raw_drops_what_is_no_string_from_a_list(hub, webdis):
    hub.redis.set("k", "v")

    assert webdis(b"MGET/none/k.raw").content == b"*2\r\n$1\r\nv\r\n"
    assert webdis(b"SCAN/0.raw").content == b"*2\r\n$1\r\n0\r\n"
    assert webdis(b"EVAL/return {{'a'},'b'}/0.raw").content.startswith(b"*2\r\n$1\r\nb")


def test_m7_raw_is_exact_for_strings_and_flat_lists(hub, webdis):
    value = bytes(range(256))
    hub.redis.set(value, value)
    hub.redis.hset("h", mapping={value: value, b"": b""})

    assert webdis(b"KEYS/h.raw").content == b"*1\r\n$1\r\nh\r\n"
    assert webdis(body(b"GET", value)).content == b"$256\r\n" + value + b"\r\n"
    assert webdis(b"HGETALL/h.raw").content.count(value) == 2
    assert webdis(b"GET/none.raw").content == b"$-1\r\n"


def test_raw_cuts_large_integers_short(hub, webdis):
    hub.redis.set("k", "v", pxat=4_000_000_000_000)

    assert webdis(b"PEXPIRETIME/k.raw").content != b":4000000000000\r\n"
    assert webdis(b"PEXPIRETIME/k.json").json() == {"PEXPIRETIME": 4_000_000_000_000}


@pytest.mark.parametrize(
    "request_body", [b"HGET/string/f", b"SET/k", b"NOSUCH/k", b"EVAL/return redis.call('NOSUCH')/0"]
)
def test_m8_a_command_error_is_http_200(hub, webdis, request_body):
    hub.redis.set("string", "v")
    raw, json = webdis(request_body + b".raw"), webdis(request_body + b".json")

    assert raw.status_code == json.status_code == 200
    assert raw.content.startswith(b"-")
    assert next(iter(json.json().values()))[0] is False


@pytest.mark.parametrize("refused", [b"", b"MULTI.raw", b"SELECT/1.raw", b"WATCH/k.raw"])
def test_m8_what_webdis_itself_refuses_is_http_403(webdis, refused):
    assert webdis(refused).status_code == 403


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (b"hello.json", b"hello"),
        (b"a?b", b"a"),
        (b"a+b", b"a b"),
        (b"a%2ejson", b"a.json"),
        (b"a%3fb", b"a?b"),
        (b"a%2bb", b"a+b"),
        (b"a%2fb", b"a/b"),
        (b"hello.json.raw", b"hello.json"),
    ],
)
def test_m9_some_bytes_have_a_meaning_in_a_body_too(hub, webdis, value, stored):
    webdis(b"SET/k/" + value)
    assert hub.redis.get("k") == stored


def test_m9_empty_and_binary_arguments_pass_in_a_body(hub, webdis):
    assert webdis(b"SET/k/.raw").content == b"+OK\r\n"
    assert hub.redis.get("k") == b""
    assert webdis(b"HSET/h/\x00//\xff/\xfe.raw").content == b":2\r\n"
    assert hub.redis.hgetall("h") == {b"\x00": b"", b"\xff": b"\xfe"}


@pytest.mark.parametrize("value", [b"a%2fb", b"a%2eb", b"%2e%2e%2f..", b"a%25b", b"a%2f%2fb", b"a//b"])
def test_m10_nginx_leaves_bodies_alone(hub, certificates, value):
    """In a path it would decode and merge what is here; the shipped configuration avoids that for paths, too."""
    direct = httpx.post(hub.webdis.url, content=b"RPUSH/direct/" + value + b".raw").content
    with httpx.Client(verify=certificates.ssl_context()) as client:
        behind = client.post(hub.url, content=b"RPUSH/behind/" + value + b".raw").content

    assert behind == direct
    assert hub.redis.lrange("behind", 0, -1) == hub.redis.lrange("direct", 0, -1)


def test_m13_a_pattern_is_a_glob(hub):
    with subscribed(hub, b"n[x]*"):
        eventually(hub.redis.pubsub_numpat)
        assert hub.redis.publish("nx1", "") == 1
        assert hub.redis.publish("n[x]1", "") == 0
