"""Small requests at most so often."""

import asyncio

from redisrepl.flow.spacing import Spacing


class World:
    """Requests of which eight keys are worth one, and who was woken to send one."""

    def __init__(self, seconds):
        self.woken = asyncio.Event()
        self.spacing = Spacing(seconds, 8, self.woken.set)


async def test_a_small_one_waits_for_its_turn_after_the_one_before_and_is_woken():
    world = World(0.01)
    assert world.spacing.may_leave(1)
    world.spacing.left()

    assert not world.spacing.may_leave(1)
    assert not world.spacing.may_leave(7)
    await world.woken.wait()
    assert world.spacing.may_leave(1)


async def test_one_that_is_worthwhile_leaves_at_once():
    world = World(60)
    world.spacing.left()

    assert world.spacing.may_leave(8)


async def test_without_it_each_leaves_at_once():
    world = World(0)
    world.spacing.left()

    assert world.spacing.may_leave(1)
