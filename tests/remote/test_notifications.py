"""The hub's notification flags: what is missing is added, nothing is taken away."""

from __future__ import annotations

import contextlib

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import KINDS
from redisrepl.remote.notifications import ensure_notifications, missing_flags
from redisrepl.remote.session import HubSession, check_url
from testbed import Hub

DEFAULT = frozenset({"set", "hset"})
OPTION = "notify-keyspace-events"


@pytest.fixture(scope="module")
def hub(certificates):
    with Hub(certificates) as hub:
        yield hub


@contextlib.asynccontextmanager
async def connected(hub):
    session = HubSession(check_url(hub.url), hub.certificates.ssl_context())
    try:
        yield session
    finally:
        await session.close()


@pytest.mark.parametrize(
    ("flags", "kinds", "missing"),
    [
        ("", DEFAULT, "K$hg"),
        ("", KINDS, "K$hgxe"),
        ("AK", KINDS, ""),
        ("KA", DEFAULT, ""),
        ("A", DEFAULT, "K"),
        ("AE", KINDS, "K"),
        ("K", DEFAULT, "$hg"),
        ("K$", DEFAULT, "hg"),
        ("K$h", DEFAULT, "g"),
        ("g$hK", DEFAULT, ""),
        ("g$hK", KINDS, "xe"),
        ("lszE", DEFAULT, "K$hg"),
    ],
)
def test_what_is_missing(flags, kinds, missing):
    assert missing_flags(flags, kinds) == missing


@pytest.mark.parametrize("before", ["", "El", "KEA", "Kgm", "Kn$"])
async def test_missing_flags_join_those_that_are_set(hub, before):
    hub.redis.config_set(OPTION, before)
    async with connected(hub) as session:
        assert await ensure_notifications(session, KINDS, "merge")
        after = hub.redis.config_get(OPTION)[OPTION]
        assert missing_flags(after, KINDS) == ""
        assert set(before.replace("A", "g$lshzxetd")) <= set(after.replace("A", "g$lshzxetd"))
        with capture_logs() as lines:
            assert await ensure_notifications(session, KINDS, "merge")
        assert lines == []


async def test_what_was_added_is_told(hub):
    hub.redis.config_set(OPTION, "K$")
    async with connected(hub) as session:
        with capture_logs() as lines:
            await ensure_notifications(session, DEFAULT, "merge")

    assert lines == [{"event": "hub.notifications_enabled", "log_level": "info", "added": "hg", "before": "$K"}]


async def test_only_looking_changes_nothing_and_tells(hub):
    hub.redis.config_set(OPTION, "K$")
    async with connected(hub) as session:
        with capture_logs() as lines:
            assert not await ensure_notifications(session, DEFAULT, "check")
        assert [line["event"] for line in lines] == ["hub.notifications_missing"]
        assert hub.redis.config_get(OPTION)[OPTION] == "$K"
        hub.redis.config_set(OPTION, "K$hg")
        assert await ensure_notifications(session, DEFAULT, "check")


async def test_never_looking_asks_nothing(hub):
    hub.redis.config_set(OPTION, "")
    hub.server.reset_commandstats()
    async with connected(hub) as session:
        assert await ensure_notifications(session, DEFAULT, "never")
    assert not [name for name in hub.server.commandstats() if name.startswith("config|get")]


@pytest.mark.parametrize(
    "options",
    [
        {"webdis": {"acl": [{"disabled": ["CONFIG"]}]}},
        {"redis": {"users": ["default on nopass ~* &* +@all -config"]}},
        {"redis": {"users": ["default on nopass ~* &* +@all -config|set"]}},
    ],
    ids=["webdis", "redis", "redis, set only"],
)
async def test_a_hub_that_does_not_let_us_is_told_of_once_and_lived_with(certificates, options):
    with Hub(certificates, **options) as hub:
        async with connected(hub) as session:
            with capture_logs() as lines:
                assert not await ensure_notifications(session, DEFAULT, "merge")

    assert [line["event"] for line in lines] == ["hub.notifications_unknown"]
    assert "K$hg" in lines[0]["hint"]
