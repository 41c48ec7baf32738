"""A flush of the hub, of which no event tells, is found out from what Redis counts."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from redisrepl.errors import RedisreplError
from redisrepl.remote.flushes import Flushes, flush_count
from redisrepl.remote.session import HubSession, check_url
from testbed import Hub, eventually_async


@pytest.fixture(scope="module")
def hub(certificates):
    with Hub(certificates) as hub:
        yield hub


@contextlib.asynccontextmanager
async def looking(hub, period=60.0):
    told = []
    session = HubSession(check_url(hub.url), hub.certificates.ssl_context())
    flushes = Flushes(session, period, on_flush=lambda: told.append("flush"), on_restart=lambda: told.append("restart"))
    flushes.told = told
    try:
        yield flushes
    finally:
        await session.close()


async def looked(flushes):
    """Whether the hub could be asked."""
    try:
        await flushes.look()
    except RedisreplError:
        return False
    return True


@contextlib.asynccontextmanager
async def watching(flushes):
    task = asyncio.create_task(flushes.watch())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def flush_in_a_script(redis):
    redis.eval("return redis.call('FLUSHDB')", 0)


def flush_in_a_transaction(redis):
    redis.pipeline(transaction=True).set("k", "v").flushall().execute()


def flush_after_the_counts_began_again(redis):
    redis.config_resetstat()
    redis.flushall()


@pytest.mark.parametrize(
    "flush",
    [
        pytest.param(lambda redis: redis.flushall(), id="FLUSHALL"),
        pytest.param(lambda redis: redis.flushdb(asynchronous=True), id="FLUSHDB ASYNC"),
        flush_in_a_script,
        flush_in_a_transaction,
        flush_after_the_counts_began_again,
    ],
)
async def test_a_flush_is_told_once(hub, flush):
    hub.redis.flushall()
    hub.redis.flushall()
    async with looking(hub) as flushes:
        await flushes.look()
        await flushes.look()
        assert flushes.told == []  # what was before nobody can have missed
        flush(hub.redis)
        await flushes.look()
        await flushes.look()
        assert flushes.told == ["flush"]


async def test_what_else_removes_keys_is_no_flush(hub):
    async with looking(hub) as flushes:
        await flushes.look()
        hub.redis.set("k", "v")
        hub.redis.delete("k")
        hub.redis.script_flush()
        hub.redis.function_flush()
        await flushes.look()
        hub.redis.config_resetstat()
        await flushes.look()
        assert flushes.told == []


async def test_it_looks_again_and_again(hub):
    async with looking(hub, period=0.01) as flushes:
        await flushes.look()
        hub.redis.flushall()
        async with watching(flushes):
            await eventually_async(lambda: flushes.told == ["flush"])
            hub.redis.flushall()
            await eventually_async(lambda: flushes.told == ["flush", "flush"])


async def test_a_hub_that_was_restarted_is_another_one(certificates):
    """Its count begins again; that keys are missing there has another reason."""
    with Hub(certificates) as hub:
        async with looking(hub) as flushes:
            hub.redis.flushall()
            await flushes.look()
            hub.server.restart()
            hub.redis.flushall()
            hub.redis.flushall()
            await eventually_async(lambda: looked(flushes))  # Webdis connects again in its own time
            assert flushes.told == ["restart"]
            hub.redis.flushall()
            await flushes.look()
            assert flushes.told == ["restart", "flush"]


async def test_a_hub_that_is_away_is_asked_again(certificates):
    with Hub(certificates) as hub:
        async with looking(hub, period=0.01) as flushes:
            await flushes.look()
            hub.nginx.stop()
            with pytest.raises(RedisreplError):
                await flushes.look()
            async with watching(flushes) as task:
                hub.redis.flushall()
                hub.nginx.start()
                await eventually_async(lambda: flushes.told == ["flush"])
                assert not task.done()


async def test_a_hub_that_says_nothing_of_itself(certificates):
    with Hub(certificates) as hub:
        hub.redis.execute_command("ACL", "SETUSER", "default", "-info")
        async with looking(hub) as flushes:
            with capture_logs() as logs:
                await flushes.look()
                hub.redis.flushall()
                await flushes.look()
            assert flushes.told == []
            assert [record["event"] for record in logs] == ["hub.flushes_unknown"]
            assert "NOPERM" in logs[0]["error"]
            hub.redis.execute_command("ACL", "SETUSER", "default", "+info")
            await flushes.look()
            hub.redis.flushall()
            await flushes.look()
            assert flushes.told == ["flush"]


def test_counts_of_what_is_no_info():
    assert flush_count(b"") == (b"", 0)
    assert flush_count(b"cmdstat_flushall:calls=x\r\ncmdstat_flushdb:calls=\r\nrun_id:\r\n") == (b"", 0)
    info = b"run_id:ab12\r\ncmdstat_flushall:calls=3,usec=1\r\ncmdstat_flushdb:calls=4,usec=1\r\n"
    assert flush_count(info) == (b"ab12", 7)
