"""Reading the hub, with scripts and without."""

import math

import pytest

from redisrepl.changes import HashState, StringState
from redisrepl.errors import HubError, OutcomeUnknownError
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.session import HubSession, check_url
from redisrepl.tls.contexts import CertificateFiles, client_context
from testbed import Hub
from tests.bodies import fetch_body

FAR = 4_102_444_800_000
STATES = {
    b"ns:s": StringState(b"\x00\xff"),
    b"ns:e": StringState(b"", FAR),
    b"ns:h": HashState({b"f": b"\r\n", b"": b"v"}, FAR),
    b"ns:list": "list",
    b"ns:none": None,
}


@pytest.fixture(scope="module")
def hub(certificates):
    with Hub(certificates) as hub:
        hub.redis.set("ns:s", b"\x00\xff")
        hub.redis.set("ns:e", b"", pxat=FAR)
        hub.redis.hset("ns:h", mapping={b"f": b"\r\n", b"": b"v"})
        hub.redis.pexpireat("ns:h", FAR)
        hub.redis.rpush("ns:list", "x")
        yield hub


@pytest.fixture
async def session(hub, certificates):
    context = client_context(CertificateFiles(certificates.ca, certificates.client, certificates.client_key))
    session = HubSession(check_url(hub.url), context)
    yield session
    await session.close()


async def test_with_scripts_it_is_known_when_it_was_read(hub, session):
    seconds, microseconds = hub.redis.time()
    fetched = await HubReader(session).states(list(STATES))

    assert fetched.states == STATES
    assert seconds * 1_000_000 + microseconds <= fetched.time < (seconds + 60) * 1_000_000


async def test_where_the_hub_does_not_tell_the_time_nobody_knows_when_it_was_read(hub, session):
    """As time 0 it would be older than any message, and an old one would be taken for news."""
    hub.redis.acl_setuser("default", commands=["+@all", "-time"])
    try:
        reader = HubReader(session)
        fetched = await reader.states(list(STATES))
    finally:
        hub.redis.acl_setuser("default", commands=["+@all"])

    assert fetched.states == STATES
    assert (fetched.time, reader.scripts.allowed) == (math.inf, True)


async def test_without_scripts_the_same_is_read_and_scripts_are_tried_again_later(hub, session):
    now = 0.0
    reader = HubReader(session, clock=lambda: now)
    hub.redis.acl_setuser("default", commands=["+@all", "-eval"])
    try:
        fetched = await reader.states(list(STATES))
        assert {**fetched.states, b"ns:list": "list"} == STATES
        assert (fetched.time, reader.scripts.allowed) == (math.inf, False)
    finally:
        hub.redis.acl_setuser("default", commands=["+@all"])
    assert (await reader.states([b"ns:s"])).time == math.inf

    now = 400.0
    assert (await reader.states([b"ns:s"])).time < math.inf
    assert reader.scripts.allowed


def calls(hub, command):
    """How often the hub's Redis ran a command since its statistics were reset."""
    return hub.redis.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


async def test_the_script_is_sent_once_and_then_named_by_its_hash(hub, session):
    hub.redis.script_flush()
    hub.redis.config_resetstat()
    reader = HubReader(session)
    for _ in range(4):
        assert (await reader.states(list(STATES))).states == STATES

    assert (calls(hub, "eval"), calls(hub, "evalsha")) == (1, 3)


async def test_a_hub_that_has_forgotten_the_script_is_given_it_anew(hub, session):
    reader = HubReader(session)
    await reader.states([b"ns:s"])
    hub.redis.script_flush()
    hub.redis.config_resetstat()
    for _ in range(3):
        assert (await reader.states(list(STATES))).states == STATES

    assert (calls(hub, "eval"), calls(hub, "evalsha")) == (1, 3)  # the first of these three did not find it
    assert reader.scripts.allowed


async def test_a_hub_that_forbids_the_hash_is_asked_by_it_once(hub, session):
    reader = HubReader(session)
    await reader.states([b"ns:s"])
    hub.redis.execute_command("ACL", "SETUSER", "default", "-evalsha")
    hub.redis.config_resetstat()
    try:
        for _ in range(3):
            assert (await reader.states(list(STATES))).states == STATES
    finally:
        hub.redis.execute_command("ACL", "SETUSER", "default", "+evalsha")

    statistics = hub.redis.info("commandstats")
    assert (statistics["cmdstat_evalsha"]["rejected_calls"], calls(hub, "eval")) == (1, 3)
    assert reader.scripts.allowed


async def test_a_script_that_fails_is_no_refusal_of_its_hash(hub, session):
    reader = HubReader(session)
    await reader.states([b"ns:s"])
    hub.redis.execute_command("ACL", "SETUSER", "default", "-type")
    try:
        with pytest.raises(HubError, match="refused a fetch"):
            await reader.states([b"ns:s"])
    finally:
        hub.redis.execute_command("ACL", "SETUSER", "default", "+type")
    hub.redis.config_resetstat()
    for _ in range(2):
        await reader.states([b"ns:s"])

    assert (calls(hub, "eval"), calls(hub, "evalsha")) == (0, 2)


async def test_keys_of_any_bytes(hub, session):
    hub.redis.set(b"n[*]s:\xff\x00", 1)
    assert await HubReader(session).keys(b"n[*]s:") == [b"n[*]s:\xff\x00"]


async def test_the_reply_to_another_request_is_not_taken_for_this_one(session, monkeypatch):
    """Its keys are others, and as many."""
    reader, post = HubReader(session), session.post
    stray = await post(fetch_body([b"ns:e"], 1000, b"5f-1"))

    async def mistaken(*_content, **_options):
        return stray

    monkeypatch.setattr(session, "post", mistaken)
    with pytest.raises(OutcomeUnknownError, match="another request"):
        await reader.states([b"ns:s"])
    monkeypatch.setattr(session, "post", post)
    assert (await reader.states([b"ns:s"])).states == {b"ns:s": STATES[b"ns:s"]}
