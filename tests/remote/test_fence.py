"""The fence at a real hub: what is on its way is executed before the epoch is raised, or never."""

from __future__ import annotations

import contextlib
import math

import pytest
from structlog.testing import capture_logs

from redisrepl.errors import FencedError, HubError, OutcomeUnknownError, PeerUnavailableError, ProtocolError
from redisrepl.remote.fence import Fence, NoFence
from redisrepl.remote.push import HubPusher
from redisrepl.remote.session import HubSession, check_url
from redisrepl.wire.batches import NO_FENCE, Fencing
from testbed import Hub
from tests.samples import resp

KEY = "redisrepl:fence:us"


@pytest.fixture(scope="module")
def hub(certificates):
    with Hub(certificates) as hub:
        yield hub


@pytest.fixture
async def session(hub):
    hub.redis.flushall()
    session = HubSession(check_url(hub.url), hub.certificates.ssl_context())
    yield session
    await session.close()


def noted(hub):
    return {int(slot): int(number) for slot, number in hub.redis.hgetall(KEY).items() if slot != b"epoch"}


async def pushed(fence, session, number, slot=0, command=(b"SET", b"k", b"v")):
    """Push a batch as `pushing` does; whether it was executed."""
    try:
        await HubPusher(session, 900_000, fence=fence).push([list(command)], slot=slot, number=number)
    except FencedError:
        return False
    return True


async def test_the_epoch_is_raised_once_at_the_start_and_after_each_unknown_outcome(hub, session):
    fence = Fence(session, b"us")
    for epoch in (1, 1, 2):
        if epoch == 2:
            fence.doubt()
        await fence.ready()
        assert (fence.epoch, int(hub.redis.hget(KEY, "epoch")), fence.raised) == (epoch, epoch, epoch)
    assert 29 * 86400 < hub.redis.ttl(KEY) <= 30 * 86400


async def test_the_epoch_is_above_whatever_the_hub_or_the_store_knows(hub, session):
    hub.redis.hset(KEY, "epoch", 9)
    fence = Fence(session, b"us", 3)
    await fence.ready()
    assert (fence.epoch, fence.found) == (10, True)
    fence = Fence(session, b"us", 50)
    await fence.ready()
    assert (fence.epoch, fence.found) == (51, False)


@pytest.mark.parametrize("size", [4, 1_000_000], ids=["small", "fills a body"])
async def test_what_was_sent_before_is_not_executed_after(hub, session, size):
    fence, late = Fence(session, b"us"), Fence(session, b"us")
    await late.ready()
    assert await pushed(late, session, 1)
    await fence.ready()  # as after an unknown outcome, or by another process
    assert not await pushed(late, session, 2, command=(b"SET", b"k", b"l" * size))
    assert hub.redis.get("k") == b"v"
    assert await pushed(fence, session, 3)
    assert noted(hub) == {0: 3}


async def test_which_of_the_batches_of_unknown_outcome_were_executed(hub, session):
    fence = Fence(session, b"us")
    await fence.ready()
    hub.redis.rpush("list", "x")
    await pushed(fence, session, 5, slot=0)
    await pushed(fence, session, 7, slot=1, command=(b"HSET", b"list", b"f", b"v"))  # refused
    await pushed(fence, session, 8, slot=2, command=(b"DEL", b"none"))  # nothing to do
    await fence.mark(6)
    fence.doubt()
    await fence.ready()
    assert [fence.was_executed(number) for number in range(4, 10)] == [False, True, False, False, True, False]
    assert fence.highest == 8


async def test_a_flaw_of_parts_that_others_followed_counts_as_well(hub, session):
    fence = Fence(session, b"us")
    await fence.ready()
    hub.redis.rpush("list", "x")
    pusher = HubPusher(session, 8000, fence=fence)
    commands = [[b"HSET", b"list", b"f", b"v"], *([b"SET", b"k%d" % number, bytes(2000)] for number in range(4))]
    await pusher.push(commands, slot=1, number=4)
    await pusher.push([[b"SET", b"k", b"v"]], slot=2, number=5)
    fence.doubt()
    await fence.ready()
    assert [fence.was_executed(number) for number in (4, 5)] == [False, True]


@pytest.mark.parametrize(
    ("lost", "held"),
    [
        ({}, math.inf),
        ({"1": 6}, 6),  # that slot has gone back, and everything later with it
        ({"0": 5, "1": 6}, 5),
        ({"0": None}, 0),
        ({"9998": 3}, 3),
        ({"epoch": None}, 0),
    ],
)
async def test_how_far_the_history_of_the_hub_reaches(hub, session, lost, held):
    fence = Fence(session, b"us")
    await fence.ready()
    await pushed(fence, session, 8, slot=0)
    await pushed(fence, session, 9, slot=1)
    assert await fence.mark(10)
    for slot, number in lost.items():
        if number is None:
            hub.redis.hdel(KEY, slot)
        else:
            hub.redis.hset(KEY, slot, number)
    await fence.look()
    assert fence.holds_up_to() == held
    assert fence.found == ("epoch" not in lost)


async def test_what_follows_does_not_hide_that_the_hub_went_back(hub, session):
    """Nobody has noticed yet that it is another process, and the epoch may be raised before that."""
    fence, lost = Fence(session, b"us"), []
    await fence.ready()
    pusher = HubPusher(session, 900_000, fence=fence, on_fence_lost=lambda: lost.append(1))
    await pusher.push([[b"SET", b"k", b"v"]], slot=0, number=8)
    assert await fence.mark(9)
    hub.redis.hset(KEY, mapping={"0": 4, "9998": 3})
    fence.doubt()
    await fence.ready()
    await pusher.push([[b"SET", b"k", b"v"]], slot=0, number=10)
    assert not await fence.mark(11)
    await fence.look()
    assert (fence.holds_up_to(), lost) == (3, [1])


async def test_numbers_that_begin_anew_are_not_those_of_repeated_requests(hub, session):
    """As after a journal was lost with the end of a power supply; what a proxy repeats is refused nonetheless."""
    fence = Fence(session, b"us")
    await fence.ready()
    assert await pushed(fence, session, 100)
    again = Fence(session, b"us", fence.epoch, {0: 50})
    await again.ready()
    for number in (51, 52):
        assert await pushed(again, session, number)
    assert (noted(hub), again.known) == ({0: 52}, {0: 52})
    again.known[0] = 51
    with pytest.raises(OutcomeUnknownError):
        await pushed(again, session, 52)


async def test_another_process_knows_what_the_last_one_knew(hub, session):
    fence = Fence(session, b"us")
    await fence.ready()
    await pushed(fence, session, 8, slot=4)
    again = Fence(session, b"us", fence.epoch, fence.known)
    await again.look()
    assert (again.epoch, again.holds_up_to()) == (2, math.inf)  # what the last one has sent is not executed any more
    hub.redis.hset(KEY, "4", 7)
    await again.look()
    assert again.holds_up_to() == 7
    again.forget()
    again.doubt()
    await again.look()
    assert again.holds_up_to() == math.inf


async def test_what_the_hub_did_without_the_fence_says_nothing_about_the_next_one(hub, session):
    fence = Fence(session, b"us")
    await fence.ready()
    before = fence.fencing(1, 7)
    hub.redis.delete(KEY)
    await pushed(fence, session, 8)
    fence.forget()
    fence.doubt()
    await fence.ready()
    fence.noted(before)
    await fence.look()
    assert (fence.known, fence.holds_up_to()) == ({}, math.inf)
    await pushed(fence, session, 9)
    assert fence.known == {0: 9}


async def test_looking_raises_nothing_that_is_not_due(hub, session):
    fence = Fence(session, b"us")
    await fence.look()
    assert fence.raised == 1
    await fence.look()
    assert (fence.raised, hub.redis.hget(KEY, "epoch")) == (1, b"1")


async def test_a_fence_that_is_lost_is_noticed(hub, session):
    fence = Fence(session, b"us")
    assert await fence.is_there()
    assert await fence.mark(3)  # before it was ever raised there is nothing to lose
    assert not hub.redis.exists(KEY)
    await fence.ready()
    assert await fence.is_there()
    hub.redis.expire(KEY, 100)
    assert await fence.mark(3)
    assert hub.redis.ttl(KEY) > 100
    hub.redis.delete(KEY)
    assert not await fence.is_there()
    assert not await fence.mark(4)
    assert not hub.redis.exists(KEY)


@pytest.mark.parametrize("denied", ["+@all -eval ~*", "+@all ~k*"])
async def test_a_hub_that_allows_none_is_gone_on_with_and_that_is_said_once(hub, session, denied):
    hub.redis.execute_command("ACL", "SETUSER", "default", "resetkeys", "nocommands", "+acl", *denied.split())
    try:
        with capture_logs() as logs:
            fence = Fence(session, b"us")
            for _ in range(2):
                await fence.ready()
                await fence.look()
                fence.doubt()
            assert await fence.mark(5)
            assert await fence.is_there()
    finally:
        hub.redis.execute_command("ACL", "SETUSER", "default", "allkeys", "+@all")
    assert [line["event"] for line in logs] == ["hub.no_fence"]
    assert (fence.found, fence.holds_up_to(), fence.fencing(1, 2)) == (None, math.inf, NO_FENCE)


@pytest.mark.parametrize("ask", ["look", "ask_again"])
async def test_a_hub_that_allows_one_after_all_gets_one(hub, session, ask):
    """What was sent without one counts neither as executed nor as lost."""
    fence = Fence(session, b"us", epoch=5, known={1: 7})
    hub.redis.execute_command("ACL", "SETUSER", "default", "resetkeys")
    try:
        with capture_logs() as logs:
            await fence.ready()
            await getattr(fence, ask)()
            assert (fence.allowed, [line["event"] for line in logs]) == (False, ["hub.no_fence"])
    finally:
        hub.redis.execute_command("ACL", "SETUSER", "default", "allkeys")
    with capture_logs() as logs:
        await getattr(fence, ask)()
        await getattr(fence, ask)()
    assert [line["event"] for line in logs] == ["hub.fence_allowed"]
    assert (fence.found, fence.holds_up_to()) == (True, math.inf)
    assert fence.fencing(1, 2) == Fencing(KEY.encode(), int(hub.redis.hget(KEY, "epoch")), 1, 2)


@pytest.mark.parametrize("error", ["LOADING Redis is loading the dataset in memory", "BUSY Redis is busy"])
async def test_a_hub_that_is_not_ready_has_not_lost_the_fence(session, monkeypatch, error):
    """All that was agreed on would pass for lost."""
    fence = Fence(session, b"us")
    await fence.ready()

    async def busy(*_, **_options):
        return b"-%b\r\n" % error.encode()

    for ask in (fence.look, fence.ready, lambda: fence.mark(5), fence.is_there):
        fence.doubt()
        with monkeypatch.context() as patched:
            patched.setattr(session, "post", busy)
            with pytest.raises(HubError, match="the hub is not ready"):
                await ask()
        assert fence.allowed
        await fence.ready()
    assert fence.found


@pytest.mark.parametrize(
    "reply",
    [resp(), resp(b"was"), resp(b"epoch", b"x", b"was", b"0"), resp(b"epoch", b"1"), resp(b"slot", b"1", b"was", b"0")],
)
async def test_a_reply_that_the_script_does_not_give(session, monkeypatch, reply):
    async def post(*_, **_options):
        return reply

    monkeypatch.setattr(session, "post", post)
    with pytest.raises(ProtocolError):
        await Fence(session, b"us").ready()


async def test_a_raise_that_fails_stays_due(session, monkeypatch):
    fence = Fence(session, b"us")
    with monkeypatch.context() as patched, contextlib.suppress(PeerUnavailableError):

        async def away(*_, **_options):
            raise PeerUnavailableError("away")

        patched.setattr(session, "post", away)
        await fence.ready()
    assert fence.raised == 0
    await fence.ready()
    assert fence.raised == 1


async def test_a_doubt_that_comes_while_the_epoch_is_raised_raises_it_again(session, monkeypatch):
    fence, post = Fence(session, b"us"), session.post

    async def doubting(*content, **options):
        monkeypatch.setattr(session, "post", post)
        fence.doubt()
        return await post(*content, **options)

    await fence.ready()
    fence.doubt()
    monkeypatch.setattr(session, "post", doubting)
    await fence.ready()
    assert fence.raised >= 2


async def test_what_a_request_carries(session):
    fence = Fence(session, b"us", 3)
    assert fence.fencing(1, 2) == Fencing(KEY.encode(), 3, 1, 2)


async def test_who_needs_none_has_one_that_does_nothing():
    fence = NoFence()
    await fence.ready()
    fence.doubt()
    fence.noted(NO_FENCE)
    fence.denied()
    assert not fence.was_executed(1)
    assert (fence.fencing(1, 2), fence.allowed) == (NO_FENCE, False)


async def test_a_fence_of_another_name_goes_on_where_that_was(hub, session):
    """As after an update, or with another first namespace; what was sent with the old one is refused from then on."""
    old = Fence(session, b"us", 3, before=b"redisrepl:fence:us")
    await old.ready()
    assert await pushed(old, session, 7)
    new = Fence(session, b"site1:us", old.epoch, old.known, before=old.key)
    await new.ready()
    assert (new.found, new.highest, new.holds_up_to()) == (True, 7, math.inf)
    assert not await pushed(old, session, 8)
    assert await pushed(new, session, 9)
    assert int(hub.redis.hget("redisrepl:fence:site1:us", "epoch")) == new.epoch
