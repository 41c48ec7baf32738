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


async def test_what_a_pause_has_kept_is_read_to_its_end_before_the_next(writer):
    """After a large read there may be more at once: only the second small one shows that there is not."""
    linger = Linger(FOR_EVER)
    for size in (64 << 10, 3000):
        await linger.pause(size, writer)
    assert calls(writer) == []
    pause = asyncio.ensure_future(linger.pause(100, writer))
    await asyncio.sleep(0)
    assert (calls(writer), linger.pausing) == (["pause_reading"], True)
    with linger.hurried():
        await pause
    assert not linger.pausing


async def test_while_the_site_sends_fast_there_is_none_however_small_the_reads(writer, monkeypatch):
    """The site would keep in its memory what is not read."""
    now, paused_at = 100.0, []
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    writer.transport.pause_reading.side_effect = lambda: paused_at.append(now)
    writer.transport.resume_reading.side_effect = None
    linger = Linger(0.1)
    linger._over.wait = lambda: asyncio.sleep(0)
    for _ in range(100):  # 5 MB a second, for a second
        await linger.pause(10_000, writer)
        now += 0.002
    assert len(paused_at) < 12  # until it is known
    assert paused_at[-1] < 100.05
    for _ in range(10):
        now += 0.1
        await linger.pause(100, writer)
    assert paused_at[-1] == now


async def test_to_catch_up_is_to_read_without_pauses_for_as_long_as_one_takes(writer):
    linger = Linger(0.05)
    pause = asyncio.ensure_future(linger.pause(100, writer))
    await asyncio.sleep(0)
    catching_up = asyncio.ensure_future(linger.catch_up())
    await pause
    await linger.pause(100, writer)
    assert not catching_up.done()
    assert calls(writer) == ["pause_reading", "resume_reading"]
    await catching_up
