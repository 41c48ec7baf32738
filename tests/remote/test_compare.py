"""What a comparison asks of a real hub, with scripts and without."""

from __future__ import annotations

import contextlib
import time

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import HashState, StringState
from redisrepl.errors import HubError
from redisrepl.remote.compare import HubComparer
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.session import HubSession, check_url
from redisrepl.wire.collections import COLLECTIONS
from redisrepl.wire.digests import UNREADABLE, WORK, Look, look_at
from testbed import Hub
from tests.comparing import (
    PREFIX,
    fill,
    fill_large,
    pages,
    scripts_run,
    sees_all,
    sees_large_in_pieces,
    sums,
    without_expiries,
)
from tests.samples import write


@pytest.fixture(scope="module", params=["scripts", "no scripts"])
def hub(request, certificates):
    users = ["user default on nopass ~* &* +@all -eval"] if request.param == "no scripts" else []
    with Hub(certificates, redis={"users": users}) as hub:
        hub.scripts = not users
        yield hub


@contextlib.asynccontextmanager
async def comparing(hub, clock=time.monotonic, *, expiries=True, types=()):
    session = HubSession(check_url(hub.url), hub.certificates.ssl_context())
    try:
        comparer = HubComparer(session, HubReader(session, types=types), expiries=expiries, types=types, clock=clock)
        comparer.hub = session
        yield comparer
    finally:
        await session.close()


async def test_whichever_way_it_is_asked(hub):
    expected = fill(hub.redis)
    with capture_logs() as logs:
        async with comparing(hub) as comparer:
            await sees_all(comparer, expected)
            assert comparer.scripts.allowed == hub.scripts
    assert [line["event"] for line in logs] == ([] if hub.scripts else ["sweep.scripts_refused"])


async def test_expiries_are_told_where_they_are_compared(hub):
    expected = fill(hub.redis)
    async with comparing(hub, expiries=False) as comparer:
        found, _ = await pages(comparer)
    assert without_expiries(found) == without_expiries(expected)
    assert (found == without_expiries(expected)) == hub.scripts


async def test_a_script_is_sent_once_and_named_by_its_hash_then(hub, monkeypatch):
    """Of a comparison by sums it would be two thirds of all bytes."""
    async with comparing(hub) as comparer:
        sent, post = [], comparer.hub.post

        async def seen(*pieces, **options):
            sent.append(b"".join(pieces).partition(b"/")[0])
            return await post(*pieces, **options)

        monkeypatch.setattr(comparer.hub, "post", seen)
        for _ in range(3):
            await comparer.sums(PREFIX, b"0", 10, [0] * 256)
        hub.redis.script_flush()
        await comparer.sums(PREFIX, b"0", 10, [0] * 256)

    if hub.scripts:
        assert sent == [b"EVAL", b"EVALSHA", b"EVALSHA", b"EVALSHA", b"EVAL"]


async def test_large_hashes_and_values_are_looked_at_a_few_at_a_time(hub):
    """The hub does nothing else while a script runs, so one run is bounded by fields and bytes, not by keys."""
    hub.redis.flushall()
    held = {PREFIX + b"h%d" % number: HashState({b"%d" % field: b"v" for field in range(2000)}) for number in range(6)}
    held |= {PREFIX + b"s%d" % number: StringState(bytes(WORK // 2)) for number in range(6)}
    for key, state in held.items():
        write(hub.redis, key, state)
    hub.server.reset_commandstats()
    async with comparing(hub) as comparer:
        assert await comparer.looks(list(held)) == [look_at(key, state) for key, state in held.items()]
        assert (await pages(comparer))[0].keys() == held.keys()
        assert (await sums(comparer))[1] == len(held)
    if hub.scripts:
        assert scripts_run(hub.server) >= 18


async def test_a_large_collection_is_looked_at_in_pieces(hub):
    expected = fill_large(hub.redis)
    async with comparing(hub, types=COLLECTIONS) as comparer:
        await sees_large_in_pieces(comparer, expected, hub.server, scripts=hub.scripts)


async def test_a_key_that_is_denied_does_not_hide_the_others(hub):
    hub.redis.flushall()
    hub.redis.mset({PREFIX + b"ours": "v", PREFIX + b"theirs": "v"})
    hub.redis.execute_command("ACL", "SETUSER", "default", "resetkeys", "~*ours")
    try:
        async with comparing(hub) as comparer:
            expected = [look_at(PREFIX + b"ours", StringState(b"v")), Look(UNREADABLE)]
            assert await comparer.looks([PREFIX + b"ours", PREFIX + b"theirs"]) == expected
    finally:
        hub.redis.execute_command("ACL", "SETUSER", "default", "allkeys")


async def test_scripts_that_are_refused_midway_leave_no_key_out(certificates):
    """The cursor of the SCAN means nothing to the other way of going through the keys."""
    with Hub(certificates) as hub:
        expected = fill(hub.redis)
        async with comparing(hub) as comparer:
            page = await comparer.page(PREFIX, b"0", 50, None)
            assert page.cursor != b"0"
            comparer.scripts.allowed = False
            found, cursor, steps = page.looks, page.cursor, 0
            while cursor != b"0":
                page = await comparer.page(PREFIX, cursor, 50, None)
                found |= page.looks
                cursor, steps = page.cursor, steps + 1
    assert found.keys() == expected.keys()
    assert steps == -(-len(expected) // 50)


async def test_scripts_are_tried_again_after_minutes(certificates):
    now = 1000.0
    with Hub(certificates, redis={"users": ["user default on nopass ~* &* +@all -eval"]}) as hub:
        expected = fill(hub.redis)
        with capture_logs() as logs:
            async with comparing(hub, clock=lambda: now) as comparer:
                page = await comparer.page(PREFIX, b"0", 200, None)
                assert not comparer.scripts.allowed
                now += 301
                assert await comparer.looks([b"none"]) == [Look(None)]
                assert not comparer.scripts.allowed
                hub.redis.execute_command("ACL", "SETUSER", "default", "+@all")
                now += 299
                await comparer.looks([b"none"])
                assert not comparer.scripts.allowed
                now += 2
                rest = await comparer.page(PREFIX, page.cursor, 200, None)
                assert (rest.cursor, page.looks.keys() | rest.looks.keys()) == (b"0", expected.keys())  # as it began
                await comparer.looks([b"none"])
                assert comparer.scripts.allowed
    assert [line["event"] for line in logs] == ["sweep.scripts_refused"]


async def test_a_hub_that_is_not_ready_is_waited_for(hub, monkeypatch):
    async with comparing(hub) as comparer:

        async def busy(*_, **_options):
            return b"-BUSY Redis is busy running a script\r\n"

        monkeypatch.setattr(comparer.hub, "post", busy)
        with pytest.raises(HubError, match="the hub is not ready: BUSY"):
            await comparer.page(PREFIX, b"0", 10, None)
        assert comparer.scripts.allowed
