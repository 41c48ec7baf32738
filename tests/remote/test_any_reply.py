"""Whatever the hub answers, to whatever it is asked, is a value of the type that was asked for or an error of ours."""

import asyncio
import contextlib
import ssl

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.errors import ProtocolError, RedisreplError
from redisrepl.remote.compare import HubComparer
from redisrepl.remote.elements import HubElements
from redisrepl.remote.fence import Fence
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.history import HubHistory
from redisrepl.remote.notifications import Notifications
from redisrepl.remote.push import HubPusher
from redisrepl.remote.session import HubSession
from redisrepl.wire.digests import BUCKETS
from redisrepl.wire.elements import Question
from redisrepl.wire.fieldtimes import probes

of = pytest.mark.parametrize
REPLIES = [
    b"*1000000000\r\n",
    b"[" * 100_000,
    b'{"PTTL":' + b"[" * 100_000,
    b'{"PTTL":' + b"9" * 5000 + b"}",
    b'{"PTTL":[false,{}]}',
    b'{"PTTL":-1}',
    b"*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n",
    b"*2\r\n$8\r\nlist:xyz\r\n$1\r\na\r\n",
    b"*2\r\n$6\r\nlist:0\r\n$1\r\na\r\n",
    b"*1\r\n$2\r\n1 \r\n",
    b"*2\r\n:1\r\n:2\r\n",
    b"*2\r\n$3\r\nabc\r\n$3\r\ndef\r\n",
    b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
    b":0\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"+OK\r\n",
    b"-WRONGTYPE Operation\r\n",
    b"-ERR unknown command\r\n",
    b"%1\r\n*0\r\n:1\r\n",
    b"$46\r\nrun_id:x\r\ncmdstat_flushall:calls=" + b"9" * 13 + b"\r\n",
    b"<html>hello</html>",
    b"",
    b"\xff\xfe\x00",
]


#: Nothing is sent; to load the system's authorities for each takes longer than all the rest.
NO_TLS = ssl.create_default_context()


class Answers(httpx.AsyncBaseTransport):
    def __init__(self, content):
        self.content = content

    async def handle_async_request(self, _request):
        return httpx.Response(200, stream=httpx.ByteStream(self.content))


async def everything_that_is_asked(content, *, scripts):
    session = HubSession("https://hub.lab/", NO_TLS, transport=Answers(content))
    reader, pusher = HubReader(session), HubPusher(session, 10_000)
    comparer = HubComparer(session, reader, expiries=True)
    if not scripts:
        for user in (reader, pusher, comparer):
            user.scripts.refused()
    keys = [b"k", b"l"]

    async def messages():
        async with session.psubscribe(b"k*", silence=1) as lists:
            async for _ in lists:
                pass

    async def everything_of_the_fence():
        fence = Fence(session, b"o")
        for ask in (fence.ready, fence.look, lambda: fence.mark(1), fence.is_there):
            with contextlib.suppress(RedisreplError):
                await ask()
            fence.raised = fence.raised or 1

    questions = [
        lambda: HubElements(session).ask(Question(b"k", "hash", b"all", (8, 500))),
        lambda: reader.states(keys),
        lambda: reader.keys(b"k"),
        lambda: pusher.push([[b"SET", b"k", b"v"], [b"HSET", b"l", b"f", b"v"]]),
        lambda: pusher.push([[b"SET", b"k", b"v" * 20_000]]),
        lambda: comparer.page(b"k", b"0", 10, None),
        lambda: comparer.looks(keys),
        lambda: comparer.sums(b"k", b"0", 10, [0] * BUCKETS),
        lambda: Notifications(session, frozenset({"set"}), "merge").ensure(),
        HubHistory(session, HubReader(session)).ask,
        everything_of_the_fence,
        lambda: session.command(b"PING"),
        lambda: session.integer(b"PTTL", b"k"),
        lambda: session.integers(b"HPEXPIRETIME", b"k", b"FIELDS", b"1", b"f"),
        HubHistory(session, HubReader(session), probes(b"k", writes=True)).ask,
        session.clock,
        messages,
    ]
    for question in questions:
        with contextlib.suppress(RedisreplError):
            async with asyncio.timeout(10):  # for ever would be wrong too
                await question()
    await session.close()


@of("scripts", [True, False])
@of("content", REPLIES)
async def test_replies_of_any_shape(content, scripts):
    await everything_that_is_asked(content, scripts=scripts)


@settings(max_examples=30, deadline=None)
@given(
    st.binary(max_size=100) | st.lists(st.sampled_from([b"*", b"2", b"\r\n", b"$1", b":1", b"a", b"-E"])).map(b"".join)
)
def test_any_bytes(content):
    for scripts in (True, False):
        asyncio.run(everything_that_is_asked(content, scripts=scripts))


async def test_what_was_asked_of_whom_is_said():
    session = HubSession("https://hub.lab/", ssl.create_default_context(), transport=Answers(b"*1\r\n:1\r\n"))

    with pytest.raises(
        ProtocolError, match=r"^CONFIG GET at the hub https://hub\.lab/ was answered with a list of 1, not"
    ):
        await session.option(b"notify-keyspace-events")
