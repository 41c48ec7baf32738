"""Tasks without work: each piece of news wakes one."""

import asyncio

import pytest

from redisrepl.flow.idle import Idle


async def waiting(idle, count):
    """So many tasks that wait, and the list to which each adds its number once it goes on."""
    woken = []

    async def wait(number):
        await idle.wait()
        woken.append(number)

    tasks = [asyncio.ensure_future(wait(number)) for number in range(count)]
    await asyncio.sleep(0)
    return tasks, woken


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def end(tasks):
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_news_wakes_one_in_turn():
    idle = Idle()
    tasks, woken = await waiting(idle, 3)
    idle.wake()
    await settle()

    assert woken == [0]

    idle.wake()
    idle.wake()
    idle.wake()  # nobody is left, which is no error
    await settle()

    assert woken == [0, 1, 2]
    await end(tasks)


async def test_news_for_one_that_ends_goes_to_the_next():
    idle = Idle()
    tasks, woken = await waiting(idle, 2)
    idle.wake()
    tasks[0].cancel()  # before it could go on
    await settle()

    assert woken == [1]
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


async def test_one_that_has_ended_gets_no_news():
    idle = Idle()
    tasks, woken = await waiting(idle, 2)
    tasks[0].cancel()
    idle.wake()  # before it has ended
    await settle()

    assert woken == [1]
    await end(tasks)
