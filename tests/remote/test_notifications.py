"""The hub's notification flags: what is missing is added, nothing is taken away."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import KINDS
from redisrepl.errors import OutcomeUnknownError
from redisrepl.remote.notifications import Notifications, missing_flags
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
        ("", KINDS, "K$hlstzgxe"),
        ("AK", KINDS, ""),
        ("KA", DEFAULT, ""),
        ("A", DEFAULT, "K"),
        ("AE", KINDS, "K"),
        ("K", DEFAULT, "$hg"),
        ("K$", DEFAULT, "hg"),
        ("K$h", DEFAULT, "g"),
        ("g$hK", DEFAULT, ""),
        ("g$hK", KINDS, "lstzxe"),
        ("g$hK", frozenset({"sets", "zsets"}), "sz"),
        ("", frozenset({"lists"}), "K$hlg"),
        ("lszE", DEFAULT, "K$hg"),
    ],
)
def test_what_is_missing(flags, kinds, missing):
    assert missing_flags(flags, kinds) == missing


@pytest.mark.parametrize("before", ["", "El", "KEA", "Kgm", "Kn$"])
async def test_missing_flags_join_those_that_are_set(hub, before):
    hub.redis.config_set(OPTION, before)
    async with connected(hub) as session:
        notifications = Notifications(session, KINDS, "merge")
        assert await notifications.ensure() is bool(missing_flags(before, KINDS))
        after = hub.redis.config_get(OPTION)[OPTION]
        assert missing_flags(after, KINDS) == ""
        assert set(before.replace("A", "g$lshzxetd")) <= set(after.replace("A", "g$lshzxetd"))
        with capture_logs() as lines:
            assert not await notifications.ensure()
        assert lines == []


async def test_what_was_added_is_told(hub):
    hub.redis.config_set(OPTION, "K$")
    async with connected(hub) as session:
        with capture_logs() as lines:
            await Notifications(session, DEFAULT, "merge").ensure()

    assert lines == [{"event": "hub.notifications_enabled", "log_level": "info", "added": "hg", "before": "$K"}]


class LosesAnswers:
    """A hub that executes each command of one kind, and whose first answer to that is lost."""

    def __init__(self, session, word):
        self.option, self._session, self._word = session.option, session, word

    async def command(self, *argv):
        answer = await self._session.command(*argv)
        if argv[:2] == self._word:
            self._word = None
            raise OutcomeUnknownError("the hub did not answer in time")
        return answer


async def test_flags_that_were_set_without_an_answer_were_missing_too(hub):
    """Who asks next finds them set, and yet events were lost."""
    hub.redis.config_set(OPTION, "K$")
    async with connected(hub) as session:
        notifications = Notifications(LosesAnswers(session, (b"CONFIG", b"SET")), DEFAULT, "merge")
        with pytest.raises(OutcomeUnknownError):
            await notifications.ensure()
        assert missing_flags(hub.redis.config_get(OPTION)[OPTION], DEFAULT) == ""
        assert await notifications.ensure()
        assert not await notifications.ensure()
        assert notifications.restored == 1


async def test_only_looking_changes_nothing_and_tells(hub):
    hub.redis.config_set(OPTION, "K$")
    async with connected(hub) as session:
        notifications = Notifications(session, DEFAULT, "check")
        with capture_logs() as lines:
            assert not await notifications.ensure()
            assert not await notifications.ensure()
            assert hub.redis.config_get(OPTION)[OPTION] == "$K"
            hub.redis.config_set(OPTION, "K$hg")
            assert await notifications.ensure()  # what happened until now was not seen
            assert not await notifications.ensure()
            hub.redis.config_set(OPTION, "K$")
            assert not await notifications.ensure()
        assert [line["event"] for line in lines] == ["hub.notifications_missing"] * 2


async def test_never_looking_asks_nothing(hub):
    hub.redis.config_set(OPTION, "")
    hub.server.reset_commandstats()
    async with connected(hub) as session:
        assert not await Notifications(session, DEFAULT, "never").ensure()
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
                notifications = Notifications(session, DEFAULT, "merge")
                assert not await notifications.ensure()
                assert not await notifications.ensure()

    assert [line["event"] for line in lines] == ["hub.notifications_unknown"]
    assert "K$hg" in lines[0]["hint"]


async def test_many_who_ask_are_answered_by_one_request(hub):
    """Each namespace asks at its start and with each of its canaries."""
    hub.redis.config_set(OPTION, "K$")
    hub.server.reset_commandstats()
    async with connected(hub) as session:
        notifications = Notifications(session, DEFAULT, "merge", fresh=60.0)
        await asyncio.gather(*(notifications.ensure() for _ in range(300)))
        await notifications.ensure()
    assert notifications.restored == 1
    assert hub.server.commandstats()["config|get"] == 1
