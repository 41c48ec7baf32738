"""Replies that do not end, or are more than they seem: cut, refused, given up in time."""

import asyncio
import gc
import gzip
import itertools
import ssl
import tracemalloc

import httpx
import pytest

from redisrepl.errors import HubError, LimitExceededError, OutcomeUnknownError, ProtocolError
from redisrepl.links import Links
from redisrepl.observe.failures import FailureLog
from redisrepl.remote.connection import Connection
from redisrepl.remote.session import HubSession
from redisrepl.wire.http import ResponseReader
from redisrepl.wire.resp import parse_reply_in_steps
from tests.bodies import parse_reply

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


class Pieces(httpx.AsyncByteStream):
    def __init__(self, pieces):
        self.pieces = pieces

    def __aiter__(self):
        return self.pieces()


class Aborted(asyncio.Transport):
    def abort(self):
        """Nothing."""


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


@pytest.fixture
def allocated():
    """Bytes that Python has allocated since and not freed, while no collector looks for cycles."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    gc.enable()


LISTS = b"*500000\r\n" + b"*0\r\n" * 500_000
FAILING = {
    "too long": (b"x" * 3_000_000, b"PING"),
    "no RESP": (b"{" * 3_000_000, b"GET"),
    "lists": (LISTS, b"KEYS"),
    "a list of others": (b"*4\r\n:1\r\n$1999999\r\n" + b"x" * 1_999_999 + b"\r\n+\r\n+\r\n", b"KEYS"),
}


@pytest.mark.parametrize("kind", FAILING)
async def test_nothing_of_a_reply_that_failed_waits_for_the_collector(allocated, kind):
    """Whoever retries keeps the error; the error must not keep what was read, nor be a part of a cycle."""
    reply, command = FAILING[kind]
    log, kept = FailureLog("test"), []

    async def pieces():
        for start in range(0, len(reply), 1 << 20):
            yield reply[start : start + (1 << 20)]

    hub = session(200, Pieces(pieces), max_value=1)
    before = allocated()
    for _ in range(2):
        try:
            await hub.strings(command, b"x")
        except ProtocolError as error:
            log.failed(error)
            kept.append(error)
    assert len(kept) == 2
    assert allocated() - before < 2_000_000


async def test_links_keep_no_calls_of_what_ended_one(allocated):
    links = Links({"attempts": None, "timeout": None, "wait_initial": 0.001, "wait_max": 0.01, "wait_jitter": 0.0})
    tries, before = 0, allocated()

    def reads():
        reply = bytes(8_000_000)
        raise ProtocolError(f"{len(reply)} bytes")

    async for _ in links:
        tries += 1
        if tries > 3:
            break
        try:
            reads()
        except ProtocolError as error:
            links.lost(error)
        assert allocated() - before < 2_000_000


async def test_what_a_connection_has_read_and_nobody_wants_goes_when_it_is_aborted():
    connection = Connection()
    connection.connection_made(Aborted())
    connection._asked = True
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 1_000_000)
    assert sum(map(len, connection.response.pieces)) == 1_000_000
    connection.abort()
    connection.data_received(b"x" * 1_000_000)
    assert not connection.response.pieces
    connection.closed.cancel()


@pytest.mark.parametrize(
    ("argv", "most"), [((b"PING",), 1 << 20), ((b"CONFIG", b"GET", b"x"), 1 << 20), ((b"KEYS", b"*"), 130 << 20)]
)
async def test_a_reply_has_the_size_that_was_asked_for(argv, most):
    body = Endless()
    with pytest.raises(LimitExceededError):
        await session(200, body, max_value=1).command(*argv)
    assert most / 2 < body.taken < most + (1 << 20)


async def test_a_number_is_read_from_little_json():
    body = Endless(b"[" * 65536)
    with pytest.raises(LimitExceededError):
        await session(200, body, max_value=1).integer(b"PTTL", b"k")
    assert body.taken < 2 << 20


REFUSED = {
    "lists": b"*1500000\r\n" + b"*0\r\n" * 1_500_000,
    "numbers": b"*1500000\r\n" + b":1\r\n" * 1_500_000,
    "nothing": b"*1500000\r\n" + b"$-1\r\n" * 1_500_000,
    "lengths that begin with 0": b"*600000\r\n" + b"$000001\r\nx\r\n" * 600_000,
    "many strings": b"*2500000\r\n" + b"$0\r\n\r\n" * 2_500_000,
    "many replies": b"+\r\n" * 2_000_000,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_large_reply_of_the_wrong_kind_is_refused_early(kind):
    """By the number of its elements, or the first that is none; not when all of it has become values."""
    steps, taken = parse_reply_in_steps(REFUSED[kind], 129 << 20), 0
    try:
        for _ in steps:
            taken += 1
    except ProtocolError:
        assert taken <= 1
    else:
        pytest.fail("it was taken")


def test_a_large_reply_is_parsed_in_steps():
    keys = [b"key:%07d" % number for number in range(700_000)]
    reply = b"*%d\r\n" % len(keys) + b"".join(b"$%d\r\n%b\r\n" % (len(key), key) for key in keys)
    steps, taken = parse_reply_in_steps(reply, 129 << 20), 0
    for _ in steps:
        taken += 1
    assert taken > 20
    assert parse_reply(reply) == keys


def test_a_large_string_is_parsed_as_it_is():
    value = bytes(range(256)) * 40_000
    for ending in (b"", b"x"):
        reply = b"$%d\r\n%b\r\n%b" % (len(value), value, ending)
        steps = parse_reply_in_steps(reply, 129 << 20)
        if ending:
            with pytest.raises(ProtocolError):
                list(steps)
        else:
            assert parse_reply(reply) == value


async def test_messages_before_the_confirmation_of_a_subscription_are_limited():
    message = b"*4\r\n$8\r\npmessage\r\n$1\r\nx\r\n$1\r\ny\r\n$1\r\nz\r\n" * 1000
    body = Endless(message)

    hub = session(200, body)
    hub.health.well = True  # else a PING goes first, whose answer may be no larger than that of any PING

    async def listen():
        async with hub.psubscribe(b"x", silence=5) as lists:
            async for _ in lists:
                pass

    with pytest.raises(LimitExceededError, match="before the confirmation"):
        await listen()
    assert body.taken < 17 << 20
