"""What a real hub tells of its history."""

from __future__ import annotations

import time

import pytest
from structlog.testing import capture_logs

from redisrepl.remote.fetch import HubReader
from redisrepl.remote.history import HubFacts, HubHistory, parse_info
from redisrepl.remote.session import HubSession, check_url
from testbed import Hub


@pytest.fixture(scope="module")
def hub(certificates):
    with Hub(certificates, redis={"config": {"maxmemory-policy": "allkeys-lru"}}) as hub:
        yield hub


@pytest.fixture
async def history(hub):
    session = HubSession(check_url(hub.url), hub.certificates.ssl_context())
    yield HubHistory(session, HubReader(session))
    await session.close()


async def test_which_process_it_is(hub, history):
    facts = await history.ask()
    assert facts.run_id == hub.redis.info("server")["run_id"]
    assert facts.processed > 0


@pytest.mark.parametrize(
    ("commands", "flushed"),
    [
        ([["SET", "k", "v"], ["DEL", "k"]], False),
        ([["FLUSHALL"]], True),
        ([["FLUSHDB"]], True),
        ([["SWAPDB", "0", "1"]], True),
        ([["FLUSHDB", "ASYNC"], ["CONFIG", "RESETSTAT"], ["FLUSHDB"]], True),  # of the counters since then
        ([["CONFIG", "RESETSTAT"]], False),
    ],
)
async def test_whether_it_was_emptied_or_exchanged(hub, history, commands, flushed):
    for _ in range(50):
        hub.redis.ping()
    before = await history.ask()
    for command in commands:
        hub.redis.execute_command(*command)
    assert (await history.ask()).flushed_since(before) == flushed


async def test_a_clock_that_differs_is_told_once(history, monkeypatch):
    await history.ask()
    assert abs(history.clock_ahead) < 1
    now = time.time
    monkeypatch.setattr("redisrepl.remote.history.time.time", lambda: now() - 7200)
    with capture_logs() as logs:
        for _ in range(2):
            await history.ask()
    assert [(line["event"], line["ahead_s"]) for line in logs] == [("hub.clock_differs", pytest.approx(7200, abs=1))]
    assert history.clock_ahead == pytest.approx(7200, abs=1)


async def test_whether_it_evicts(hub, history):
    before = await history.ask()
    hub.redis.set("k", "v")
    assert not (await history.ask()).evicted_since(before)
    hub.redis.config_set("maxmemory", 1)
    hub.redis.config_set("maxmemory", 0)
    assert (await history.ask()).evicted_since(before)


async def test_a_restarted_hub_is_another_process(certificates):
    runs = set()
    with Hub(certificates) as hub:
        for _ in range(2):
            session = HubSession(check_url(hub.url), certificates.ssl_context())
            runs.add((await HubHistory(session, HubReader(session)).ask()).run_id)
            await session.close()
            hub.restart()
    assert len(runs) == 2


async def test_where_it_may_not_be_asked_nothing_is_known_and_that_is_said_once(hub, history):
    hub.redis.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        with capture_logs() as logs:
            assert [await history.ask() for _ in range(2)] == [HubFacts()] * 2
    finally:
        hub.redis.execute_command("ACL", "SETUSER", "default", "+info")
    assert [line["event"] for line in logs] == ["hub.flushes_unknown"]
    assert (await history.ask()).run_id


@pytest.mark.parametrize(
    ("before", "now", "more"),
    [
        ((5, 100), (5, 200), False),
        ((5, 100), (6, 200), True),
        ((5, 100), (0, 10), False),  # its counters were reset
        ((5, 100), (3, 10), True),
    ],
)
def test_counters_that_were_reset_begin_at_nothing(before, now, more):
    (count, processed), (later, processed_later) = before, now
    assert HubFacts("r", later, 0, processed_later).flushed_since(HubFacts("r", count, 0, processed)) == more
    assert HubFacts("r", 0, later, processed_later).evicted_since(HubFacts("r", 0, count, processed)) == more


@pytest.mark.parametrize(
    ("info", "facts"),
    [
        (b"", HubFacts()),
        (b"run_id:" + b"a" * 40 + b"\r\nevicted_keys:7\r\ntotal_commands_processed:9\r\n", HubFacts("a" * 40, 0, 7, 9)),
        (
            b"cmdstat_flushall:calls=2,usec=1\r\ncmdstat_flushdb:calls=3,usec=1\r\ncmdstat_swapdb:calls=4,usec=1\r\n",
            HubFacts("", 9),
        ),
        (b"xrun_id:abc\r\nxcmdstat_flushall:calls=1\r\ncmdstat_flushall:calls=x\r\n", HubFacts()),
        (b"run_id:" + b"a" * 5000 + b"\r\nevicted_keys:" + b"9" * 5000, HubFacts("a" * 64, 0, 10**18 - 1)),
    ],
)
def test_what_info_tells(info, facts):
    assert parse_info(info) == facts


async def test_that_it_may_evict_is_told_once(hub, history):
    with capture_logs() as logs:
        await history.ask()
        hub.redis.config_set("maxmemory", "100mb")
        for _ in range(2):
            await history.ask()
    hub.redis.config_set("maxmemory", 0)
    assert [(line["event"], line["policy"]) for line in logs] == [("hub.may_evict", "allkeys-lru above 100 MiB")]
