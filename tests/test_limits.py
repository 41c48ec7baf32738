"""Limits of many short steps: the same as `asyncio.timeout` has, and one timer for all."""

import asyncio

import pytest

from redisrepl.limits import Limits


async def for_ever():
    await asyncio.Event().wait()


async def test_what_takes_too_long_is_stopped():
    limits = Limits()

    with pytest.raises(TimeoutError), limits.within(0.01):
        await for_ever()


async def test_what_ends_in_time_is_left_alone():
    limits = Limits()
    with limits.within(0.01):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)  # past the end: nothing may come of it


async def test_the_shorter_of_two_ends_first_whichever_began_first():
    limits = Limits()
    ended = []

    async def step(name, seconds):
        try:
            with limits.within(seconds):
                await for_ever()
        except TimeoutError:
            ended.append(name)

    await asyncio.gather(step("long", 0.2), step("short", 0.01), step("middle", 0.1))

    assert ended == ["short", "middle", "long"]


async def test_what_moves_has_more_time():
    limits = Limits()
    with limits.within(0.02) as limit:
        for _ in range(5):
            await asyncio.sleep(0.005)
            limit.put_off(10)
        await asyncio.sleep(0.03)


async def test_what_waits_for_its_turn_has_all_of_its_time_left_and_no_more():
    limits = Limits()
    with limits.within(0.02) as limit:
        with limit.paused():
            await asyncio.sleep(0.06)
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError), limits.within(0.01):  # which another one is not held up by
            await for_ever()

    async def wait_and_go_on_for_ever():
        with limits.within(0.01) as limit:
            with limit.paused():
                await asyncio.sleep(0.03)
            await for_ever()

    with pytest.raises(TimeoutError):
        await wait_and_go_on_for_ever()


async def test_a_limit_inside_of_another_ends_alone():
    limits = Limits()
    with limits.within(10):
        with pytest.raises(TimeoutError), limits.within(0.01):
            await for_ever()
        await asyncio.sleep(0)  # goes on


async def test_whoever_is_cancelled_is_not_late():
    limits = Limits()

    async def step():
        with limits.within(10):
            await for_ever()

    task = asyncio.ensure_future(step())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_step_stays_what_it_is():
    with pytest.raises(KeyError), Limits().within(10):
        raise KeyError


async def test_a_thousand_steps_set_one_timer(monkeypatch):
    loop = asyncio.get_running_loop()
    set_, call_at = [], loop.call_at
    monkeypatch.setattr(loop, "call_at", lambda *args, **kw: set_.append(args) or call_at(*args, **kw))
    limits = Limits()
    for _ in range(1000):
        with limits.within(30):
            pass

    assert len(set_) == 1


def test_only_what_a_task_does_can_be_limited():
    async def callback():
        loop = asyncio.get_running_loop()
        told = loop.create_future()

        def call():
            try:
                with Limits().within(1):
                    pass
            except RuntimeError as error:
                told.set_result(str(error))

        loop.call_soon(call)
        return await told

    assert "a task" in asyncio.run(callback())
