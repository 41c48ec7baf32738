"""Who asks a hub that is away: one at a time, seldom; and all are back as soon as one is."""

import asyncio
import contextlib
import ssl

import httpx
import pytest

from redisrepl.errors import CommandRefusedError, HubError, LinkLostError, RedisreplError, SilentError
from redisrepl.remote.direct import DirectHub, direct_address
from redisrepl.remote.health import HubHealth
from redisrepl.remote.session import HubSession
from tests.tasks import beside

OK = b"+PONG\r\n"


class Hub(httpx.AsyncBaseTransport):
    """Away, or there."""

    def __init__(self):
        self.attempts, self.status, self.away, self.under_way, self.most = 0, 200, True, 0, 0

    async def handle_async_request(self, _request):
        self.attempts += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        away = self.away  # what comes of an attempt is decided when it is made
        await asyncio.sleep(0.001)
        self.under_way -= 1
        if away:
            raise httpx.ConnectError("refused")
        return httpx.Response(self.status, stream=httpx.ByteStream(OK))


@pytest.fixture
def hub():
    return Hub()


def of(hub, **options):
    return HubSession("https://hub.lab/", ssl.create_default_context(), transport=hub, **options)


def to_redis(hub, **options):
    """Likewise, of which no connection can be made."""
    session = DirectHub(direct_address("rediss://hub.lab", 0, None, None), ssl.create_default_context(), **options)

    async def opened():
        try:
            await hub.handle_async_request(None)
        except httpx.ConnectError as error:
            raise ConnectionRefusedError from error

    session._opened = opened
    return session


async def ask_for_ever(session, answered):
    while True:
        with contextlib.suppress(RedisreplError):
            await session.command(b"PING")
            answered.append(1)
            return
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def many(session, count):
    answered = []
    async with beside(*(ask_for_ever(session, answered) for _ in range(count))) as tasks:
        yield answered, tasks


async def test_a_hub_that_is_away_is_asked_by_one_at_a_time_and_seldom(hub):
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with many(of(hub), 64):
        while hub.attempts < 4:
            await asyncio.sleep(0.01)
        assert loop.time() - began > 0.25 / 2 + 0.5 / 2  # the least pauses before the third and the fourth

    assert hub.most == 1


@pytest.mark.parametrize("direct", [False, True], ids=["Webdis", "direct"])
async def test_what_waits_for_its_place_while_the_hub_goes_away_does_not_try_all_the_same(hub, direct):
    """Those whose place it was when the hub went away found that out; behind them there may be hundreds."""
    hub.away = False
    session = to_redis(hub, connections=4) if direct else of(hub, connections=4)
    async with session.health.trial() as trial:
        trial.answered()
    hub.away = True
    async with many(session, 64):
        while hub.attempts < 4 + 2:  # the first of those behind may try before all of the four have failed
            await asyncio.sleep(0)
        assert hub.most == 4
        hub.most = 0
        while hub.attempts < 4 + 4:
            await asyncio.sleep(0)

    assert hub.most == 1


async def test_the_pauses_allow_ten_attempts_in_ten_seconds_and_end_at_retry_max(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda low, _: low)
    now = 0.0
    pauses = []

    async def sleep(seconds):
        nonlocal now
        pauses.append(seconds)
        now += seconds

    monkeypatch.setattr(asyncio, "sleep", sleep)
    health = HubHealth(5.0, clock=lambda: now)
    attempts = 0
    while now <= 10:
        async with health.trial() as trial:
            attempts += now <= 10
            trial.failed()

    assert attempts <= 10
    assert max(pauses) <= 5.0


async def test_whoever_finds_the_hub_back_wakes_all(hub):
    session = of(hub)
    async with many(session, 64) as (answered, tasks):
        while hub.attempts < 3:
            await asyncio.sleep(0.01)
        hub.away = False
        await asyncio.wait_for(tasks[0], 10)
        while len(answered) < 64:
            await asyncio.sleep(0.01)

    assert session.health.well
    assert hub.attempts == 64 + 3


@pytest.mark.parametrize("status", [500, 502, 404])
async def test_a_hub_that_answers_with_errors_is_not_well(hub, status):
    hub.away, hub.status = False, status
    session = of(hub)
    with pytest.raises(HubError):
        await session.post(b"PING.raw")
    assert not session.health.well


async def test_a_refusal_is_an_answer(hub):
    hub.away, hub.status = False, 403
    session = of(hub)
    with pytest.raises(CommandRefusedError):
        await session.post(b"PING.raw")
    assert session.health.well


async def test_the_end_of_a_long_poll_says_nothing_of_the_hub(hub):
    hub.away = False
    session = of(hub)

    async def listen():
        async with session.stream(b"PSUBSCRIBE/x.raw", silence=1) as reads:
            assert [data async for data in reads] == [OK]
            raise LinkLostError("it ended")

    with pytest.raises(LinkLostError):
        await listen()
    assert session.health.well


async def test_after_the_end_of_a_subscription_one_request_finds_out_for_all(hub):
    """Or each of hundreds of subscriptions would open a connection at once."""
    hub.away = False
    session = of(hub)

    async def listen():
        async with session.psubscribe(b"x", silence=1):
            raise LinkLostError("it ended")

    await session.post(b"PING.raw")
    assert session.health.well
    with pytest.raises(LinkLostError):
        await listen()
    assert not session.health.well
    hub.attempts = hub.most = 0
    async with many(session, 64) as (answered, _):
        while not answered:
            assert hub.most <= 1
            await asyncio.sleep(0)
        while len(answered) < 64:
            await asyncio.sleep(0)
    assert session.health.well


async def test_a_subscription_that_never_begins_keeps_nobody_waiting():
    """That the hub is there must be found out by something that it answers: it may refuse PSUBSCRIBE in silence."""
    never = asyncio.Event()

    class Mute(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            if b"PSUBSCRIBE" in await request.aread():
                await never.wait()
                raise httpx.ReadTimeout("", request=request)
            return httpx.Response(200, content=OK)

    session = HubSession("https://hub.lab/", ssl.create_default_context(), transport=Mute())

    async def listen():
        async with session.psubscribe(b"site1:*", silence=1):
            raise AssertionError("it began")

    listening = asyncio.ensure_future(listen())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not listening.done()
    assert await session.post(b"PING.raw") == OK
    never.set()
    with pytest.raises(SilentError, match=r"\+psubscribe '&site1:\*'.*rename-command"):
        await listening
    assert session.health.well


async def test_who_gives_up_leaves_his_turn_to_another(hub):
    session = of(hub)
    with pytest.raises(RedisreplError):
        await session.post(b"PING.raw")
    with pytest.raises(RedisreplError):
        await session.post(b"PING.raw")  # the next has to wait
    waiting = [asyncio.ensure_future(session.post(b"PING.raw")) for _ in range(3)]
    await asyncio.sleep(0)
    for task in waiting[:2]:
        task.cancel()
    hub.away = False

    assert await asyncio.wait_for(waiting[2], 5) == OK
