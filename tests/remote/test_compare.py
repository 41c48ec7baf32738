"""What a comparison asks of a real hub, with scripts and without."""

import contextlib
import time

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import HashState, StringState
from redisrepl.remote.compare import HubComparer
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.session import HubSession, check_url
from redisrepl.wire.digests import NO_KEY, digest
from testbed import Hub
from tests.samples import AWKWARD_NAMES

PREFIX = b"n*[:"  # a glob, were it not taken literally


@pytest.fixture(scope="module", params=["scripts", "no scripts"])
def hub(request, certificates):
    users = ["user default on nopass ~* &* +@all -eval"] if request.param == "no scripts" else []
    with Hub(certificates, redis={"users": users}) as hub:
        hub.scripts = not users
        yield hub


@contextlib.asynccontextmanager
async def comparing(hub, clock=time.monotonic):
    session = HubSession(check_url(hub.url), hub.certificates.ssl_context())
    try:
        yield HubComparer(session, HubReader(session), expiries=True, clock=clock)
    finally:
        await session.close()


async def test_the_keys_of_a_prefix(hub):
    names = {PREFIX + name for name in AWKWARD_NAMES} | {PREFIX + b"%d" % number for number in range(300)}
    hub.redis.flushall()
    hub.redis.mset(dict.fromkeys(names | {b"nx:", b"n", b"other"}, b"v"))
    with capture_logs() as logs:
        async with comparing(hub) as comparer:
            cursor, pages = b"0", []
            while not pages or cursor != b"0":
                cursor, keys = await comparer.page(PREFIX, cursor, 50)
                pages.append(keys)
            assert comparer.scripts == hub.scripts
    assert {key for keys in pages for key in keys} == names
    assert len(pages) > 1
    assert [record["event"] for record in logs] == ([] if hub.scripts else ["sweep.scripts_refused"])


async def test_the_digests_of_any_keys(hub):
    wanted = {b"s:" + name: StringState(name) for name in AWKWARD_NAMES}
    wanted |= {b"h:" + name: HashState({name: name}) for name in AWKWARD_NAMES}
    hub.redis.flushall()
    for key, state in wanted.items():
        if isinstance(state, StringState):
            hub.redis.set(key, state.value)
        else:
            hub.redis.hset(key, mapping=dict(state.fields))
    async with comparing(hub) as comparer:
        found = await comparer.digests([*wanted, b"none"])
    assert found == [*(digest(state, expiries=True) for state in wanted.values()), NO_KEY]


async def test_big_hashes_are_digested_a_few_at_a_time(hub):
    """The hub does nothing else while a script runs, so one run is bounded by fields and bytes, not by keys."""
    hub.redis.flushall()
    states = {}
    for number in range(20):
        states[b"h:%d" % number] = HashState({b"%d" % field: b"v" for field in range(2000)})
        hub.redis.hset(b"h:%d" % number, mapping=dict(states[b"h:%d" % number].fields))
    states |= {b"s:%d" % number: StringState(bytes(500_000)) for number in range(10)}
    hub.redis.mset({key: state.value for key, state in states.items() if isinstance(state, StringState)})
    hub.server.reset_commandstats()
    async with comparing(hub) as comparer:
        found = await comparer.digests(list(states))
    assert found == [digest(state, expiries=True) for state in states.values()]
    runs = hub.server.commandstats().get("eval", 0)
    assert runs == 15 if hub.scripts else runs <= 2  # two hashes, or two strings, fill a run


async def test_scripts_that_are_refused_midway_leave_no_key_out(certificates):
    """The cursor of the SCAN means nothing to the other way of going through the keys."""
    with Hub(certificates) as hub:
        names = {PREFIX + b"%d" % number for number in range(300)}
        hub.redis.mset(dict.fromkeys(names, b"v"))
        async with comparing(hub) as comparer:
            cursor, found = await comparer.page(PREFIX, b"0", 50)
            assert cursor != b"0"
            comparer.scripts = False
            pages = 0
            while cursor != b"0":
                cursor, keys = await comparer.page(PREFIX, cursor, 50)
                found += keys
                pages += 1
    assert set(found) == names
    assert pages == 6


async def test_scripts_are_tried_again_after_minutes(certificates):
    now = 1000.0
    with Hub(certificates, redis={"users": ["user default on nopass ~* &* +@all -eval"]}) as hub:
        names = {PREFIX + b"%d" % number for number in range(300)}
        hub.redis.mset(dict.fromkeys(names, b"v"))
        with capture_logs() as logs:
            async with comparing(hub, clock=lambda: now) as comparer:
                cursor, found = await comparer.page(PREFIX, b"0", 150)
                assert not comparer.scripts
                now += 301
                assert await comparer.digests([b"none"]) == [NO_KEY]
                assert not comparer.scripts
                hub.redis.execute_command("ACL", "SETUSER", "default", "+@all")
                now += 299
                await comparer.digests([b"none"])
                assert not comparer.scripts
                now += 2
                cursor, keys = await comparer.page(PREFIX, cursor, 150)
                assert (cursor, {*found, *keys}) == (b"0", names)  # what was begun one way ends that way
                await comparer.digests([b"none"])
                assert comparer.scripts
    assert [record["event"] for record in logs] == ["sweep.scripts_refused"]
