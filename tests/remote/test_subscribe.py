"""A subscription that the hub refuses is asked for ever more seldom, while all else goes on."""

import asyncio

import pytest

from redisrepl.errors import CommandRefusedError, ProtocolError
from redisrepl.remote.subscribe import Subscription, SubscriptionOptions
from tests.tasks import beside

SOON = {"attempts": None, "timeout": None, "wait_initial": 0.0, "wait_max": 0.0, "wait_jitter": 0.0}
GROWING = SOON | {"wait_initial": 1.0, "wait_max": 8.0}


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
    subscription = Subscription(
        hub,
        hub,
        b"site1:",
        options=SubscriptionOptions(0, b"me", 1.0, SOON, GROWING),
        on_events=lambda _: None,
        on_feed=lambda *_: None,
        on_subscribed=lambda: None,
    )
    async with beside(subscription.listen()):
        while hub.asked < 8:
            await sleep(0)
    assert [seconds for seconds in pauses if seconds][:6] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
