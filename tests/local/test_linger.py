"""Pauses between small reads of what the site sends."""

import asyncio
from unittest.mock import Mock

import pytest

from redisrepl.local.linger import Linger

FOR_EVER = 3600.0


@pytest.fixture
def writer():
    return Mock(transport=Mock(spec=asyncio.Transport))


def calls(writer):
    return [name for name, _, _ in writer.transport.method_calls]


async def test_after_a_small_read_nothing_is_read_until_the_pause_is_over(writer):
    await Linger(0.01).pause(100, writer)

    assert calls(writer) == ["pause_reading", "resume_reading"]


@pytest.mark.parametrize(("seconds", "size"), [(0.0, 100), (FOR_EVER, 16 << 10)])
async def test_there_is_none_if_nobody_wants_it_or_the_site_sends_much(writer, seconds, size):
    await Linger(seconds).pause(size, writer)

    assert calls(writer) == []


async def test_who_waits_for_what_the_site_has_sent_ends_it_and_forbids_the_next(writer):
    linger = Linger(FOR_EVER)
    pause = asyncio.ensure_future(linger.pause(100, writer))
    await asyncio.sleep(0)
    assert calls(writer) == ["pause_reading"]

    with linger.hurried():
        await pause
        await linger.pause(100, writer)
    assert calls(writer) == ["pause_reading", "resume_reading"]


async def test_a_link_that_is_given_up_meanwhile_is_left_as_it_was(writer):
    pause = asyncio.ensure_future(Linger(FOR_EVER).pause(100, writer))
    await asyncio.sleep(0)
    pause.cancel()

    with pytest.raises(asyncio.CancelledError):
        await pause
    assert calls(writer) == ["pause_reading", "resume_reading"]
