"""How much is asked of a server that refuses: little, seldom, by one at a time; and all again when that passes."""

import asyncio

import pytest

from redisrepl import pauses
from redisrepl.errors import (
    CertificateError,
    CommandRefusedError,
    HubError,
    OutcomeUnknownError,
    ProtocolError,
    RefusedError,
)
from redisrepl.flow.tries import Tries

SAYS_NO = [RefusedError("no"), CommandRefusedError("no", status=403), ProtocolError("?"), HubError("busy", status=200)]
SAYS_NOTHING = [CertificateError("?"), OutcomeUnknownError("?"), HubError("bad gateway", status=502)]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(pauses, "_FIRST", 0.001)


class World:
    """Tries of up to eight keys, and who was woken to make one."""

    def __init__(self, longest_pause=0.01):
        self.woken = asyncio.Event()
        self.tries = Tries(8, longest_pause, self.woken.set)

    def fails(self, error):
        self.woken.clear()
        with pytest.raises(type(error)), self.tries.one():
            raise error


@pytest.mark.parametrize("error", SAYS_NO)
async def test_after_a_refusal_one_asks_for_one_key_after_a_pause(error):
    world = World()
    assert world.tries.most == 8
    world.fails(error)
    assert world.tries.most == 0
    await world.woken.wait()
    assert world.tries.most == 1
    with world.tries.one():
        assert world.tries.most == 0  # it is not known yet what comes of it
    assert world.tries.most == 2


@pytest.mark.parametrize("error", SAYS_NOTHING)
async def test_for_a_hub_that_says_nothing_its_health_makes_all_wait(error):
    world = World()
    world.fails(error)
    assert world.tries.most == 8


async def test_each_that_passes_lets_the_next_be_larger_until_all_may_ask_again():
    world = World()
    world.fails(SAYS_NO[0])
    await world.woken.wait()
    sizes = []
    for _ in range(3):
        sizes.append(world.tries.most)
        with world.tries.one():
            pass
    assert sizes == [1, 2, 4]
    with world.tries.one(), world.tries.one():
        assert world.tries.most == 8


async def test_of_many_that_were_under_way_one_refusal_counts(monkeypatch):
    paused = []
    monkeypatch.setattr(pauses.Pauses, "next", lambda _: paused.append(None) or 0.001)
    world = World()
    for _ in range(5):
        world.fails(SAYS_NO[0])
    assert len(paused) == 1


async def test_a_try_that_was_cut_short_lets_another_try():
    world = World()
    world.fails(SAYS_NO[0])
    await world.woken.wait()
    world.fails(OutcomeUnknownError("?"))
    assert world.woken.is_set()
    assert world.tries.most == 1
