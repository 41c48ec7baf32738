"""When the next link is made: at once, after a pause, or not at all."""

from __future__ import annotations

import pytest
import stamina.instrumentation

from redisrepl.errors import LinkLostError, RefusedError
from redisrepl.links import Links
from tests.clock import Clock

RETRY = {"attempts": None, "timeout": None, "wait_initial": 0.001, "wait_max": 1.0, "wait_jitter": 0.0}


@pytest.fixture
def pauses():
    """How long it was waited before a link, in milliseconds."""
    waited = []
    stamina.instrumentation.set_on_retry_hooks([lambda details: waited.append(round(details.wait_for * 1000))])
    yield waited
    stamina.instrumentation.set_on_retry_hooks(None)


async def lives(links, clock, *lifetimes):
    """Make links that live so long; None: that cannot be made."""
    left = list(lifetimes)
    async for _ in links:
        if not left:
            return
        if (seconds := left.pop(0)) is not None:
            links.made()
            clock.now += seconds
        links.lost(LinkLostError("lost"))


@pytest.mark.parametrize(
    ("lifetimes", "expected"),
    [
        ([None, None, None], [1, 2, 4]),
        ([10, 10, 10], []),  # each worked
        ([1, 1, 1], [1, 2, 4]),  # made, and lost at once
        ([None, None, 10, None, None], [1, 2, 1, 2]),
        ([None, 5, None], [1, 1]),
        ([], []),
    ],
)
async def test_pauses_grow_until_a_link_has_worked(pauses, lifetimes, expected):
    clock = Clock(0.0)
    await lives(Links(RETRY, clock=clock), clock, *lifetimes)

    assert pauses == expected


async def test_what_counts_as_having_worked_may_be_said(pauses):
    clock = Clock(0.0)
    await lives(Links(RETRY, works_after=0.0, clock=clock), clock, 0, 0, None)

    assert pauses == [1]


@pytest.mark.parametrize("accepted", [False, True])
async def test_a_refusal_is_the_last_word_only_at_the_start(accepted):
    links, count = Links(RETRY), 0

    async def refused():
        nonlocal count
        async for _ in links:
            count += 1
            if accepted:
                links.accepted()
            links.lost(RefusedError("no") if count < 3 else LinkLostError("lost"))
            if count == 4:
                return

    if accepted:
        await refused()
        assert count == 4
    else:
        with pytest.raises(RefusedError):
            await refused()
        assert count == 1


async def test_others_may_say_what_is_final():
    links, clock = Links(RETRY, is_final=lambda error: isinstance(error, LinkLostError)), Clock(0.0)
    with pytest.raises(LinkLostError):
        await lives(links, clock, None, None)
