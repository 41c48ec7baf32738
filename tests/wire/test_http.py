"""Responses, whole and in pieces, and what is none."""

import pytest

from redisrepl.errors import ProtocolError
from redisrepl.wire.http import ResponseReader, request_head

PLAIN = b"HTTP/1.1 200 OK\r\nServer: Webdis\r\nContent-Length: 5\r\n\r\n\x00+OK\xff"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\x00+\r\n3\r\nOK\xff\r\n0\r\n\r\n"
UNTIL_THE_END = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n\x00+OK\xff"
INTERIM = b"HTTP/1.1 100 Continue\r\nX-Early: 1\r\n\r\n" + PLAIN


def read(*pieces):
    reader = ResponseReader()
    for piece in pieces:
        reader.feed(piece)
    return reader


def bytes_of(data):
    return [data[place : place + 1] for place in range(len(data))]


def test_a_request_head():
    headers = [(b"Host", b"hub"), (b"Content-Length", b"0")]

    assert (
        request_head("POST", b"/redis/", headers) == b"POST /redis/ HTTP/1.1\r\nHost: hub\r\nContent-Length: 0\r\n\r\n"
    )


@pytest.mark.parametrize("data", [PLAIN, CHUNKED, UNTIL_THE_END, INTERIM])
@pytest.mark.parametrize("split", [lambda data: [data], bytes_of], ids=["at once", "byte by byte"])
def test_a_response_is_the_same_however_it_comes(data, split):
    reader = read(*split(data))
    reader.feed_end()

    assert (reader.status, reader.reason, b"".join(reader.pieces)) == (200, b"OK", b"\x00+OK\xff")
    assert reader.complete


@pytest.mark.parametrize("data", [PLAIN, CHUNKED, UNTIL_THE_END, INTERIM])
def test_no_shorter_one_is_complete(data):
    for length in range(len(data)):
        reader = read(data[:length])
        if not (data == UNTIL_THE_END and length >= data.index(b"\r\n\r\n") + 4):
            reader.feed_end()
        assert not reader.complete


def test_headers_are_kept_as_they_came():
    assert read(PLAIN).headers == [(b"Server", b"Webdis"), (b"Content-Length", b"5")]
    assert read(INTERIM).headers == [(b"Server", b"Webdis"), (b"Content-Length", b"5")]


@pytest.mark.parametrize(
    ("data", "keeps_alive"),
    [
        (PLAIN, True),
        (CHUNKED, True),
        (UNTIL_THE_END, False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 304 Not Modified\r\n\r\n", True),
    ],
)
def test_whether_another_may_follow(data, keeps_alive):
    reader = read(data)
    reader.feed_end()

    assert reader.complete
    assert reader.keeps_alive is keeps_alive


def test_one_after_another():
    reader = ResponseReader()
    for data, status in ((PLAIN, 200), (b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", 503), (CHUNKED, 200)):
        reader.begin()
        reader.feed(data)
        assert (reader.status, reader.complete, reader.keeps_alive) == (status, True, True)


def test_a_second_one_is_not_taken_for_the_answer_to_what_follows():
    reader = read(PLAIN)

    with pytest.raises(ProtocolError):
        reader.feed(CHUNKED)
    with pytest.raises(ProtocolError):
        read(PLAIN + CHUNKED)


@pytest.mark.parametrize(
    "data",
    [
        b"$5\r\nvalue\r\n",
        b"\x15\x03\x01\x00\x02\x02\x16",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n+OK\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (65 << 10),
    ],
)
def test_what_is_no_response(data):
    with pytest.raises(ProtocolError, match="no HTTP response"):
        read(data)
