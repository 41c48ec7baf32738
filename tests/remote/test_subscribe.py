"""A subscription is asked for ever more seldom while it is refused, and proves that it lives as soon as it is made."""

import asyncio
import contextlib

import pytest

from redisrepl.errors import CommandRefusedError, PeerUnavailableError, ProtocolError
from redisrepl.remote.direct import DirectHub, direct_address
from redisrepl.remote.notifications import Notifications
from redisrepl.remote.subscribe import Subscription, SubscriptionOptions
from testbed import RedisServer, eventually_async
from tests.tasks import beside

SOON = {"attempts": None, "timeout": None, "wait_initial": 0.0, "wait_max": 0.0, "wait_jitter": 0.0}


def to(hub, notifications, *, canary_period):
    return Subscription(
        hub,
        notifications,
        b"site1:",
        options=SubscriptionOptions(0, b"me", canary_period, SOON, longest_pause=2.0),
        on_events=lambda _: None,
        on_feed=lambda *_: None,
        on_subscribed=lambda: None,
    )


class Refusing:
    """A hub, its flags, and a subscription to it: all that is asked for here."""

    listening = 0
    restored = 0

    def __init__(self, error):
        self.error = error
        self.asked = 0

    async def ensure(self):
        return False

    def psubscribe(self, _pattern, *, silence):  # noqa: ARG002
        self.asked += 1
        raise self.error


@pytest.mark.parametrize("error", [CommandRefusedError("NOPERM", status=200), ProtocolError("damaged")])
async def test_pauses_grow_while_it_is_refused(monkeypatch, error):
    hub, pauses, sleep = Refusing(error), [], asyncio.sleep

    async def pause(seconds):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pause)
    monkeypatch.setattr("random.uniform", max)
    subscription = to(hub, hub, canary_period=1.0)
    async with beside(subscription.listen()):
        while hub.asked < 8:
            await sleep(0)
    assert [seconds for seconds in pauses if seconds][:6] == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]


class Unpublished(Refusing):
    """A hub whose subscription lasts; PUBLISH fails, but for one."""

    succeeds = 6

    @contextlib.asynccontextmanager
    async def psubscribe(self, _pattern, *, silence):  # noqa: ARG002
        async def reads():
            yield []
            await asyncio.Event().wait()

        yield reads()

    async def command(self, *_argv):
        self.asked += 1
        if self.asked != self.succeeds:
            raise self.error


async def test_canaries_that_cannot_be_sent_are_tried_ever_more_seldom(monkeypatch):
    hub, pauses, sleep = Unpublished(PeerUnavailableError("away")), [], asyncio.sleep

    async def pause(seconds):
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pause)
    monkeypatch.setattr("random.uniform", max)
    subscription = to(hub, hub, canary_period=3.0)
    async with beside(subscription.listen(), subscription.send_canaries()):
        while hub.asked < 9:
            await sleep(0)
    assert [seconds for seconds in pauses if seconds][:8] == [0.25, 0.5, 1.0, 2.0, 3.0, 3.0, 0.25, 0.5]


async def test_its_canaries_may_be_stopped_before_it_is():
    subscription = to(hub := Unpublished(PeerUnavailableError("away")), hub, canary_period=3.0)
    async with beside(subscription.listen(), subscription.send_canaries()) as (listening, canaries):
        while not hub.asked:
            await asyncio.sleep(0)
        for task in (canaries, listening):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


# With canaries so seldom that no second one is sent in a test, unless it is sent for a reason.


@pytest.fixture(scope="module")
def redis(certificates):
    with RedisServer(tls=certificates, config={"notify-keyspace-events": "KEA"}) as server:
        yield server


@pytest.fixture
def at_hub(redis):
    client = redis.client()
    yield client
    client.client_unpause()


@pytest.fixture
async def subscription(redis, certificates, at_hub):  # noqa: ARG001 - unpaused after this
    hub = DirectHub(direct_address(f"rediss://localhost:{redis.tls_port}", 0, None, None), certificates.ssl_context())
    subscription = to(hub, Notifications(hub, frozenset({"set"}), "merge"), canary_period=3600.0)
    async with beside(subscription.listen(), subscription.send_canaries()):
        yield subscription
    await hub.close()


async def live(subscription, count):
    """So many subscriptions were made, and the canary of the last came back."""
    await eventually_async(lambda: subscription.subscriptions == count, description="it is subscribed")
    await eventually_async(lambda: subscription.live, description="its canary came back")


async def kept_back(at_hub, *, but=None):
    """The client whose PUBLISH the hub keeps back; another than this one."""

    def clients():
        return [client["id"] for client in at_hub.client_list() if client["cmd"] == "publish" and client["id"] != but]

    return (await eventually_async(clients, description="a canary is sent"))[0]


async def test_the_next_subscription_does_not_wait_for_the_rest_of_a_period(subscription, at_hub):
    await live(subscription, 1)
    at_hub.client_kill_filter(_type="pubsub")
    await live(subscription, 2)
    at_hub.client_kill_filter(_type="pubsub")
    await live(subscription, 3)


async def test_the_next_subscription_does_not_wait_for_a_canary_of_the_one_before(subscription, at_hub):
    at_hub.client_pause(60_000, all=False)
    first = await kept_back(at_hub)
    at_hub.client_kill_filter(_type="pubsub")
    await kept_back(at_hub, but=first)
    at_hub.client_unpause()
    await live(subscription, 2)


async def test_a_canary_that_was_not_sent_is_soon_followed_by_another(subscription, at_hub):
    at_hub.client_pause(60_000, all=False)
    first = await kept_back(at_hub)
    at_hub.client_kill_filter(_id=first)
    at_hub.client_kill_filter(_id=await kept_back(at_hub, but=first))
    at_hub.client_unpause()
    await live(subscription, 1)
