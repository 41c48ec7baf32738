"""Replies that do not end, or are more than they seem: cut, refused, given up in time."""

import asyncio
import gzip
import itertools
import ssl

import httpx
import pytest

from redisrepl.errors import HubError, LimitExceededError, OutcomeUnknownError, ProtocolError
from redisrepl.remote.session import HubSession
from redisrepl.wire.http import ResponseReader

PIECE = b"x" * 65536


class Endless(httpx.AsyncByteStream):
    def __init__(self, piece=PIECE, pause=0.0, on_piece=lambda: None):
        self.piece, self.pause, self.taken, self.closed, self.on_piece = piece, pause, 0, False, on_piece

    async def __aiter__(self):
        while True:
            self.taken += len(self.piece)
            self.on_piece()
            yield self.piece
            await asyncio.sleep(self.pause)

    async def aclose(self):
        self.closed = True


class Answers(httpx.AsyncBaseTransport):
    def __init__(self, status, stream, headers=()):
        self.status, self.streams, self.headers = status, itertools.repeat(stream), headers

    async def handle_async_request(self, _request):
        return httpx.Response(self.status, headers=self.headers, stream=next(self.streams))


def session(*answer, **options):
    return HubSession("https://hub.lab/", ssl.create_default_context(), transport=Answers(*answer), **options)


async def ask(hub, *, long_poll):
    if long_poll:
        async with hub.stream(b"PSUBSCRIBE/x.raw", silence=1):
            pass
    else:
        await hub.post(b"PING.raw")


async def test_a_reply_that_does_not_end_is_refused():
    body = Endless()
    with pytest.raises(LimitExceededError, match=r"a reply of the hub https://hub\.lab/"):
        await session(200, body, max_value=1).post(b"PING.raw")

    assert body.taken < 130 << 20
    assert body.closed


async def test_of_large_replies_one_is_read_at_a_time():
    """Each may have 130 MB, and there are dozens of requests at a time."""
    most = 0

    def look():
        nonlocal most
        most = max(most, sum(body.taken > 9 << 20 for body in bodies if not body.closed))

    bodies = [Endless(on_piece=look) for _ in range(4)]
    hub = session(200, None, max_value=1)
    hub._transport.streams = iter([httpx.ByteStream(b"{}"), *bodies])
    await hub.post(b"PING.raw")  # until one was answered, one is asked at a time
    replies = await asyncio.gather(*(hub.post(b"PING.raw") for _ in bodies), return_exceptions=True)
    assert most == 1
    assert [type(reply) for reply in replies] == 4 * [LimitExceededError]


@pytest.mark.parametrize("long_poll", [False, True])
async def test_of_an_error_that_does_not_end_the_beginning_is_read(long_poll):
    body = Endless()
    with pytest.raises(HubError, match="HTTP 500"):
        await ask(session(500, body), long_poll=long_poll)

    assert body.taken < 1 << 20
    assert body.closed


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("long_poll", [False, True])
async def test_an_encoding_is_refused(status, long_poll):
    bomb = gzip.compress(bytes(20 << 20))
    hub = session(status, httpx.ByteStream(bomb), {"Content-Encoding": "gzip"})
    with pytest.raises(ProtocolError, match="turn compression off"):
        await ask(hub, long_poll=long_poll)


async def test_a_reply_that_drips_has_an_end():
    """Each byte comes in time, and all of them would take for ever."""
    dripping = session(200, Endless(b"x", 0.01), timeout=0.1)
    with pytest.raises(OutcomeUnknownError, match="did not answer in time"):
        await asyncio.wait_for(dripping.post(b"PING.raw"), 20)


def test_headers_behind_a_body_are_limited():
    reader = ResponseReader()
    reader.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n")
    lines = b"".join(b"X-%d: %b\r\n" % (number, b"y" * 100) for number in range(100_000))
    with pytest.raises(ProtocolError):
        reader.feed(lines)
    assert len(reader.headers) < 2000
