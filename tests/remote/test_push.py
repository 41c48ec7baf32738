"""Commands to the hub: in batches where scripts may run, singly where not."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

import httpx
import pytest
import respx
from structlog.testing import capture_logs

from redisrepl.changes import StringSet, StringState
from redisrepl.errors import (
    BodyTooLargeError,
    CommandRefusedError,
    FencedError,
    HubError,
    OutcomeUnknownError,
    PeerUnavailableError,
    ProtocolError,
    denies_key,
)
from redisrepl.remote.fence import Fence
from redisrepl.remote.push import HubPusher
from redisrepl.remote.refusals import is_passing, scripts_refused
from redisrepl.remote.session import HubSession, check_url
from redisrepl.wire.batches import MOVED, UNCHANGED
from redisrepl.wire.digests import digest_of, element_of
from redisrepl.wire.webdis import body
from redisrepl.wire.writes import commands_of_batch
from testbed import Hub
from tests.bodies import batch_body, parse_reply
from tests.samples import ALL_BYTES, AWKWARD_NAMES, resp

URL = "https://hub.example/redis/"


def sets(*numbers):
    return [[b"SET", b"k%d" % number, b"v"] for number in numbers]


def mset(*numbers):
    return [b"MSET", *(word for command in sets(*numbers) for word in command[1:])]


MSET = mset(1, 2)


class FakeHub:
    """Answers by what the body says, and remembers the bodies; tokens are put into the answers and not remembered."""

    def __init__(self, answer):
        self.bodies = []
        self._answer = answer

    def __call__(self, request):
        content, token = request.read(), b""
        if is_script(content):
            token = token_in(content)
            content = content.replace(b"/0/" + token, b"/0/", 1)
        self.bodies.append(content)
        answer = self._answer(content)
        if token and isinstance(answer, bytes) and answer.startswith(b"*") and (items := parse_reply(answer)):
            writes, _, time = items[0].partition(b" ")
            answer = resp(b"%b %b %b" % (writes, time, token), *items[1:])
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, content=answer)


@contextlib.asynccontextmanager
async def pushing(answer, max_body=100_000, **options):
    """A pusher to a hub that answers like this; `hub` holds the bodies it got."""
    hub = answer if isinstance(answer, FakeHub) else FakeHub(answer)
    router = respx.Router()
    router.post(URL).mock(side_effect=hub)
    session = HubSession(URL, ssl.create_default_context(), transport=httpx.MockTransport(router.async_handler))
    pusher = HubPusher(session, max_body, **options)
    pusher.hub = hub
    try:
        yield pusher
    finally:
        await session.close()


def is_script(content):
    return content.startswith((b"EVAL/", b"EVALSHA/"))


def token_in(content):
    return content.partition(b"/0/")[2].partition(b"/")[0]


def keys_in(content):
    return [word for word in content.removesuffix(b".raw").split(b"/") if word.startswith(b"k")]


def all_ran(content, *failed):
    """What the script says of a batch of `sets`."""
    return resp(b"%d" % len(keys_in(content)), *failed)


# Scripts.


async def test_a_batch_is_one_request():
    async with pushing(all_ran) as pusher:
        assert (await pusher.push(sets(1, 2, 3))).errors == {}

    assert pusher.hub.bodies == [batch_body(sets(1, 2, 3))]


async def test_nothing_to_push_is_no_request():
    async with pushing(all_ran) as pusher:
        assert (await pusher.push([])).errors == {}
        assert pusher.hub.bodies == []
        await pusher.push(sets(1))


async def test_commands_refused_for_good_are_named():
    async with pushing(lambda content: all_ran(content, b"1 WRONGTYPE no", b"2 UNCHANGED")) as pusher:
        assert (await pusher.push(sets(1, 2, 3))).errors == {b"k2": "WRONGTYPE no", b"k3": UNCHANGED}


async def test_a_batch_is_split_by_the_size_of_its_body():
    commands = [[b"SET", b"k%d" % number, b"x" * 400] for number in range(10)]
    most = len(batch_body([])) + 1500
    async with pushing(lambda content: all_ran(content, b"0 WRONGTYPE no"), max_body=most) as pusher:
        errors = (await pusher.push(commands)).errors

    assert all(len(content) <= most for content in pusher.hub.bodies)
    assert [key for content in pusher.hub.bodies for key in keys_in(content)] == [command[1] for command in commands]
    assert errors.keys() == {b"k0", b"k3", b"k6", b"k9"}  # the first of each body


async def test_a_command_over_the_limit_goes_alone():
    commands = [*sets(1), [b"SET", b"k2", b"x" * 5000], *sets(3)]
    async with pushing(all_ran, max_body=2048) as pusher:
        await pusher.push(commands)

    assert [keys_in(content) for content in pusher.hub.bodies] == [[b"k1"], [b"k2"], [b"k3"]]


async def test_a_lone_large_value_may_be_refused():
    async with pushing(lambda content: all_ran(content, b"0 WRONGTYPE no"), max_body=2048) as pusher:
        pushed = await pusher.push([[b"HSET", b"k1", b"f", b"+" * 5000]])

    assert pushed.errors == {b"k1": "WRONGTYPE no"}


async def test_many_small_values_are_no_large_one():
    """`HSETNX` by itself takes one field: a request for each."""
    command = [b"HSETNX", b"k", *[b"field"] * 1000]
    async with pushing(lambda _content: resp(b"1 1"), max_body=2048) as pusher:
        await pusher.push([command])

    assert list(map(is_script, pusher.hub.bodies)) == [True]


#: Of a proxy: one value of a thousand bytes fits beside the script.
LIMIT = len(batch_body([])) + 1350


def too_large_over(limit, status=413):
    return lambda content: httpx.Response(status) if len(content) > limit else all_ran(content)


@pytest.mark.parametrize(("limit", "status"), [(LIMIT, 413), (2 * LIMIT, 500), (2 * LIMIT, 507)])
async def test_a_body_that_the_proxy_refuses_is_halved_until_it_fits(limit, status):
    commands = [[b"SET", b"k%d" % number, b"x" * 1000] for number in range(16)]
    async with pushing(too_large_over(limit, status)) as pusher:
        with capture_logs() as lines:
            assert (await pusher.push(commands)).errors == {}
        took = [content for content in pusher.hub.bodies if len(content) <= limit and content != b"PING.raw"]
        assert [key for content in took for key in keys_in(content)] == [command[1] for command in commands]
        assert pusher.max_body < 100_000
        assert {line["event"] for line in lines} == {"push.body_too_large"}


@pytest.mark.parametrize("answer", [too_large_over(0, 500), too_large_over(6000, 502)], ids=["all", "away"])
@pytest.mark.parametrize("scripts", [True, False])
async def test_an_error_that_is_not_about_the_size_shrinks_nothing(answer, scripts):
    async with pushing(answer) as pusher:
        pusher.scripts.allowed = scripts
        with pytest.raises(HubError):
            await pusher.push([[b"SET", b"k1", b"x" * 9000]])
        assert pusher.max_body == 100_000


@pytest.mark.parametrize("status", [400, 502, 503, 504])
async def test_a_status_of_another_meaning_is_about_the_size_if_large_bodies_get_it_again_and_again(status):
    commands, now = [[b"SET", b"k%d" % number, b"x" * 1000] for number in range(20)], 100.0
    async with pushing(too_large_over(2 * LIMIT, status)) as pusher:
        pusher._large._clock = lambda: now
        for seconds in (0, 1) if status > 500 else (0,):  # Webdis may have some of its connections only
            now = 100.0 + seconds
            with pytest.raises(HubError):
                await pusher.push(commands)
            assert pusher.max_body == 100_000
        now = 104.0
        with capture_logs() as lines:
            assert (await pusher.push(commands)).errors == {}
        assert {line["event"] for line in lines} == {"push.body_too_large"}
        large = await pusher.push([[b"SET", b"k", b"x" * 22_000]])  # alone in its request: only this key is refused
        assert str(status) in large.errors[b"k"]


async def test_large_bodies_that_fail_now_and_then_are_not_too_large():
    commands, fails = [[b"SET", b"k", b"x" * 20_000]], True

    def answer(content):
        return httpx.Response(502) if fails and len(content) > 10_000 else all_ran(content)

    async with pushing(answer) as pusher:
        for fails in (True, False, True, False, True):
            with pytest.raises(HubError) if fails else contextlib.nullcontext():
                assert (await pusher.push(commands)).errors == {}
        assert pusher.max_body == 100_000


async def test_a_value_that_redis_itself_takes_from_nobody_is_named_though_webdis_lost_its_connection():
    """Redis ends the connection after it, so Webdis answers nobody for a moment."""
    refused = b"-ERR Protocol error: invalid bulk length\r\n"

    async with pushing(lambda content: refused if len(content) > 10_000 else httpx.Response(503)) as pusher:
        errors = (await pusher.push([[b"SET", b"k", b"x" * 20_000]])).errors
        assert list(errors) == [b"k"]
        assert "proto-max-bulk-len" in errors[b"k"]


async def test_large_bodies_that_fail_together_are_one_failure():
    """Many were on their way when Webdis was restarted, and it is there again when it is asked."""
    away = True

    def answer(content):
        return httpx.Response(502) if away and len(content) > 10_000 else all_ran(content)

    async with pushing(answer) as pusher:
        pushes = [pusher.push([[b"SET", b"k%d" % number, b"x" * 20_000]], slot=number) for number in range(5)]
        failed = await asyncio.gather(*pushes, return_exceptions=True)
        assert [type(error) for error in failed] == [HubError] * 5
        away = False
        assert (await pusher.push([[b"SET", b"k", b"x" * 20_000]])).errors == {}
        assert pusher.max_body == 100_000


async def test_what_failed_before_the_hub_was_away_counts_no_more():
    now, away = 100.0, False

    def answer(content):
        return httpx.Response(502) if away or len(content) > 10_000 else all_ran(content)

    async with pushing(answer) as pusher:
        pusher._large._clock = lambda: now
        for step, is_away in enumerate((False, True, False)):
            now, away = 100.0 + 4 * step, is_away
            with pytest.raises(HubError) as failed:
                await pusher.push([[b"SET", b"k", b"x" * 20_000]])
            assert not isinstance(failed.value, BodyTooLargeError)
        assert pusher.max_body == 100_000


@pytest.mark.parametrize(("later", "between"), [(301.0, 0), (10.0, 30_000)])
async def test_an_earlier_failure_counts_no_more(later, between):
    """Long ago, or when a body was answered since that is larger than the one that fails now."""
    now, limit = 100.0, 10_000

    def answer(content):
        return httpx.Response(502) if len(content) > limit else all_ran(content)

    async with pushing(answer) as pusher:
        pusher._large._clock = lambda: now
        with pytest.raises(HubError):
            await pusher.push([[b"SET", b"k", b"x" * 40_000]])
        if between:
            limit = 40_000
            assert (await pusher.push([[b"SET", b"k", b"x" * between]])).errors == {}
            limit = 10_000
        now += later
        with pytest.raises(HubError) as failed:
            await pusher.push([[b"SET", b"k", b"x" * 20_000]])
        assert not isinstance(failed.value, BodyTooLargeError)
        assert pusher.max_body == 100_000


async def test_a_hub_that_is_back_when_it_is_asked_had_nothing_against_the_size():
    fails = 3  # the second time, it is back before the PING

    def answer(content):
        nonlocal fails
        fails -= 1
        return all_ran(content) if fails < 0 else httpx.Response(500)

    async with pushing(answer) as pusher:
        for _ in range(2):
            with pytest.raises(HubError):
                await pusher.push([[b"SET", b"k", b"x" * 20_000]])
        assert (await pusher.push([[b"SET", b"k", b"x" * 20_000]])).errors == {}
        assert pusher.max_body == 100_000


async def test_joined_sets_are_split_where_a_body_cannot_hold_them():
    command = [b"MSET", *(word for number in range(10) for word in (b"k%d" % number, b"x" * 400))]
    most = len(batch_body([])) + 1000
    async with pushing(all_ran, max_body=most) as pusher:
        assert (await pusher.push([command])).errors == {}

    assert all(len(content) <= most for content in pusher.hub.bodies)
    assert [key for content in pusher.hub.bodies for key in keys_in(content)] == command[1::2]


async def test_joined_sets_that_the_proxy_refuses_are_halved_until_they_fit():
    values = {b"k%d" % number: b"x" * (3 * LIMIT * (number == 5)) for number in range(16)}
    command = [b"MSET", *(word for pair in values.items() for word in pair)]
    async with pushing(too_large_over(LIMIT)) as pusher:
        assert (await pusher.push([command])).errors.keys() == {b"k5"}
        took = [content for content in pusher.hub.bodies if len(content) <= LIMIT]

    assert sorted(k for c in took for k in keys_in(c)) == sorted(set(command[1::2]) - {b"k5"})


async def test_the_limit_found_out_is_kept():
    commands = [[b"SET", b"k%d" % number, b"x" * 1000] for number in range(16)]
    async with pushing(too_large_over(LIMIT), max_body=LIMIT + 2000) as pusher:
        await pusher.push(commands)
        before = len(pusher.hub.bodies)
        await pusher.push(commands)
        assert all(len(content) <= LIMIT for content in pusher.hub.bodies[before:])


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_hub_that_finds_every_request_too_large_is_no_fault_of_a_key(scripts):
    async with pushing(lambda _: httpx.Response(413)) as pusher:
        pusher.scripts.allowed = scripts
        with pytest.raises(HubError, match="small requests too") as raised:
            await pusher.push([[b"SET", b"k1", b"x" * 9000], *sets(2)])
        assert not isinstance(raised.value, BodyTooLargeError)
        assert pusher.max_body == 100_000


async def test_the_limit_never_shrinks_to_nothing():
    async with pushing(too_large_over(len(b"PING.raw"))) as pusher:
        errors = (await pusher.push(sets(*range(8)))).errors
        assert pusher.max_body >= 1024

    assert errors.keys() == {b"k%d" % number for number in range(8)}


async def test_one_command_that_is_too_large_is_given_up_by_name():
    commands = [*sets(1), [b"SET", b"k2", b"x" * LIMIT], *sets(3)]
    async with pushing(too_large_over(LIMIT)) as pusher:
        errors = (await pusher.push(commands)).errors

    assert errors.keys() == {b"k2"}
    assert "client_max_body_size" in errors[b"k2"]


@pytest.mark.parametrize(
    "error",
    [
        *("OOM command not allowed", "MISCONF Redis is", "READONLY You can't", "-OOM x", "ERR BUSY x"),
        "@user_script: 171: -OOM command not allowed",
        "ERR Script attempted to execute a command while the cluster is down",
        "MOVED 123 127.0.0.1:1",
    ],
)
async def test_a_hub_that_is_not_ready_fails_the_batch(error):
    """Nothing is given up for good: the batch comes again."""
    async with pushing(lambda content: all_ran(content, b"0 WRONGTYPE no", b"1 " + error.encode())) as pusher:
        with pytest.raises(HubError, match="not ready for writes") as caught:
            await pusher.push(sets(1, 2))
    assert type(caught.value) is HubError
    assert caught.value.status == 200


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        ("BUSY Redis is busy running a script", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("LOADING Redis is loading", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("NOREPLICAS Not enough good replicas", True),
        ("TRYAGAIN Multiple keys", True),
        ("@user_script: 171: -NOREPLICAS Not enough good replicas to write.\r\n", True),  # Redis 6.2
        ("MOVED 123 127.0.0.1:1", True),
        ("CROSSSLOT Keys in request don't hash to the same slot", True),
        ("@user_script: 3: Script attempted to access a non local key in a cluster node", True),
        (
            "ERR Error running script (call to f_2c5d06): @user_script:7: @user_script: 7: -OOM command not allowed",
            True,
        ),
        ("ERR Error running script (call to f_2c5d06): @user_script:7: attempt to index a nil value", False),
        ("@user_script: 3: WRONGTYPE Operation against", False),
        ("WRONGTYPE Operation against", False),
        ("BUSYKEY Target key name already exists.", False),
        (MOVED, False),
        ("NOPERM this user", False),
        ("ERR value is not an integer", False),
        ("ERR x OOM", False),
        (UNCHANGED, False),
        ("", False),
        ("-", False),
    ],
)
def test_what_will_pass(error, passing):
    assert is_passing(error) is passing


STRANGE = "ERR this Redis has troubles of its own"


def strange(content, refused):
    """What the script says of a batch of which it refuses these keys."""
    said = [b"%d %b" % (index, STRANGE.encode()) for index, key in enumerate(keys_in(content)) if key in refused]
    return all_ran(content, *said)


async def test_an_error_that_all_keys_get_gives_none_of_them_up():
    refused = set()

    def answer(content):
        if is_script(content):
            return strange(content, refused)
        return b"-%b\r\n" % STRANGE.encode() if refused else b":0\r\n"

    async with pushing(answer) as pusher:
        await pusher.push(sets(0))
        refused |= {b"k0", b"k1", b"k2"}
        for others, keys in ((False, (1, 2)), (True, (1, 2, 3))):
            with pytest.raises(HubError, match=f"refuses this client, whatever the key: {STRANGE}") as caught:
                await pusher.push(sets(*keys))
            assert caught.value.may_be_executed == others
        refused.clear()
        assert (await pusher.push(sets(1, 2))).errors == {}


async def test_a_hub_that_never_took_a_key_is_not_asked_for_each():
    """Without scripts each key is a request; 32 of them are under way at once."""
    async with pushing(lambda _content: b"-NOPERM this user has no permissions\r\n") as pusher:
        with pytest.raises(HubError, match="whatever the key"):
            await pusher.push(sets(*range(500)))
        assert len(pusher.hub.bodies) < 60


async def test_a_hub_that_takes_few_keys_comes_to_take_them():
    """Most of those that are tried first are refused, so that nothing passes at once."""
    taken = {b"k%d" % number for number in range(480, 500)}

    def answer(content):
        return b"+OK\r\n" if not is_script(content) and taken & set(keys_in(content)) else b"-NOPERM no\r\n"

    async with pushing(answer, side_by_side=1) as pusher:
        for _ in range(1000):
            with contextlib.suppress(HubError):
                errors = (await pusher.push(sets(*range(500)))).errors
                break
        assert errors.keys() == {b"k%d" % number for number in range(480)}


@pytest.mark.parametrize("probed", [b":0", b"-WRONGTYPE x", b"-NOPERM no permissions to run the 'hdel' command"])
async def test_an_error_that_one_key_gets_twice_gives_up_that_key(probed):
    def answer(content):
        if is_script(content):
            return strange(content, {b"k2"})
        return probed + b"\r\n" if content.startswith(b"HDEL/") else b"+string\r\n"

    async with pushing(answer) as pusher:
        assert (await pusher.push(sets(1, 2, 3))).errors == {b"k2": STRANGE}
        assert len([content for content in pusher.hub.bodies if is_script(content)]) == 2


async def test_the_reply_to_another_request_is_no_answer():
    """What this one did is not known."""

    def stray(request):
        return httpx.Response(200, content=resp(b"1 4711 " + token_in(request.read()) + b"0"))

    session = HubSession(URL, ssl.create_default_context(), transport=httpx.MockTransport(stray))
    with pytest.raises(OutcomeUnknownError, match="another request"):
        await HubPusher(session, 100_000).push(sets(1))


async def test_each_request_has_a_token_of_its_own():
    seen = []

    def seeing(request):
        seen.append(token_in(request.read()))
        return httpx.Response(200, content=resp(b"1 4711 " + seen[-1]))

    session = HubSession(URL, ssl.create_default_context(), transport=httpx.MockTransport(seeing))
    for pusher in (HubPusher(session, 100_000), HubPusher(session, 100_000)):
        for _ in range(3):
            await pusher.push(sets(1))
    assert len(set(seen)) == 6
    assert all(seen)


@pytest.mark.parametrize("answer", [b"", b"*0\r\n", b":1\r\n", resp(b"2"), b"<html>"])
async def test_an_answer_that_does_not_account_for_the_batch(answer):
    async with pushing(lambda _content: answer) as pusher:
        with pytest.raises(ProtocolError) as caught:
            await pusher.push(sets(1))
        assert caught.value.may_be_executed


@pytest.mark.parametrize("status", [401, 500, 502, 503, 404])
async def test_an_http_error_fails_the_batch(status):
    async with pushing(lambda _content: httpx.Response(status)) as pusher:
        with pytest.raises(HubError) as caught:
            await pusher.push(sets(1))
        assert caught.value.status == status
        assert caught.value.may_be_executed == (status >= 500)  # what is behind the proxy may have been lost meanwhile
        assert pusher.scripts.allowed


SMALL_RUNS = len(batch_body([])) + 1500


@pytest.mark.parametrize(
    ("scripts", "values", "limit", "taken", "executed"),
    [
        (True, [400] * 4, 100_000, 0, False),
        (True, [400] * 6, SMALL_RUNS, 0, False),
        (True, [400] * 6, SMALL_RUNS, 1, True),  # in two requests
        (True, [9000], 5000, 0, False),
        (False, [9], 100_000, 0, False),
        (False, [9, 9], 100_000, 1, True),
    ],
)
async def test_a_part_of_a_batch_that_was_executed_is_not_forgotten_when_another_fails(
    scripts, values, limit, taken, executed
):
    requests = 0

    def answer(content):
        nonlocal requests
        requests += 1
        if requests > taken:
            return b"-LOADING Redis is loading the dataset in memory\r\n"
        return all_ran(content) if is_script(content) else b"+OK\r\n"

    commands = [[b"SET", b"k%d" % number, b"x" * size] for number, size in enumerate(values)]
    async with pushing(answer, max_body=limit, side_by_side=1) as pusher:
        pusher.scripts.allowed = scripts
        with pytest.raises(HubError) as caught:
            await pusher.push(commands)
        assert caught.value.may_be_executed == executed


@pytest.mark.parametrize("refused", [1, 2])
async def test_of_writes_that_a_hub_is_not_ready_for_others_may_have_been_executed(refused):
    oom = [b"%d OOM no" % number for number in range(refused)]
    async with pushing(lambda content: all_ran(content, *oom)) as pusher:
        with pytest.raises(HubError) as caught:
            await pusher.push(sets(1, 2))
        assert caught.value.may_be_executed == (refused < 2)


async def test_a_script_that_fails_by_itself_fails_the_batch():
    async with pushing(lambda _content: b"-ERR Error running script\r\n") as pusher:
        with pytest.raises(HubError, match="refused a batch: ERR Error"):
            await pusher.push(sets(1))
        assert pusher.scripts.allowed


async def test_the_script_is_named_by_its_hash_once_the_hub_has_run_it():
    async with pushing(all_ran) as pusher:
        for _ in range(3):
            await pusher.push(sets(1))

        assert pusher.hub.bodies == [batch_body(sets(1)), *[batch_body(sets(1), by_hash=True)] * 2]


@pytest.mark.parametrize(
    ("refusal", "by_hash"),
    [
        (b"-NOSCRIPT No matching script. Please use EVAL.\r\n", [False, True, False, True, False]),
        (b"-NOPERM no evalsha\r\n", [False, True, False, False]),
        (httpx.Response(403), [False, True, False, False]),
    ],
)
async def test_a_hub_that_does_not_take_the_hash_gets_the_script(refusal, by_hash):
    """One that has forgotten it is given it anew; one that forbids `EVALSHA` is not asked again."""

    def answer(content):
        return refusal if content.startswith(b"EVALSHA/") else all_ran(content)

    async with pushing(answer) as pusher:
        for _ in range(3):
            assert (await pusher.push(sets(1))).errors == {}
        assert pusher.scripts.allowed
        assert [content.startswith(b"EVALSHA/") for content in pusher.hub.bodies] == by_hash


async def test_a_busy_hub_is_not_one_without_the_script():
    busy = False

    def answer(content):
        return b"-BUSY Redis is busy running a script\r\n" if busy else all_ran(content)

    async with pushing(answer) as pusher:
        await pusher.push(sets(1))
        busy = True
        with pytest.raises(HubError, match="BUSY"):
            await pusher.push(sets(1))
        busy = False
        await pusher.push(sets(1))
        assert [content.startswith(b"EVALSHA/") for content in pusher.hub.bodies] == [False, True, True]


# Without scripts.


def no_scripts(
    answer=lambda _content: b"+OK\r\n", refusal=b"-NOPERM this user has no permissions to run the 'eval' command\r\n"
):
    return lambda content: refusal if is_script(content) else answer(content)


REFUSALS = [
    httpx.Response(403),
    b"-NOPERM this user has no permissions to run the 'eval' command\r\n",
    b"-ERR unknown command 'EVAL', with args beginning with:\r\n",
    b"-ERR unknown command `EVAL`\r\n",
]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_refused_scripts_are_not_tried_again(refusal):
    async with pushing(no_scripts(refusal=refusal)) as pusher:
        with capture_logs() as lines:
            assert (await pusher.push([[b"HSET", b"k1", b"f", b"v"]])).errors == {}
            assert (await pusher.push([[b"HSET", b"k2", b"f", b"v"]])).errors == {}

        assert not pusher.scripts.allowed
        assert [is_script(content) for content in pusher.hub.bodies] == [True, False, False]
        assert [line["event"] for line in lines] == ["push.scripts_refused"]


@pytest.mark.parametrize(
    ("error", "refused"),
    [("NOPERM x", True), ("ERR unknown command 'EVAL'", True), ("WRONGTYPE", False), ("NOSCRIPT x", False)],
)
def test_whether_scripts_may_run(error, refused):
    assert scripts_refused(error) is refused


async def test_commands_of_different_keys_go_side_by_side():
    commands = [MSET, [b"SET", b"k3", b"v", b"PXAT", b"5"], [b"HSET", b"k4", b"f", b"v"]]
    async with pushing(no_scripts()) as pusher:
        assert (await pusher.push(commands)).errors == {}
        assert sorted(pusher.hub.bodies[1:]) == sorted(body(*command) for command in commands)


async def test_commands_of_one_key_stay_in_order():
    commands = [[b"DEL", b"k1"], [b"HSET", b"k1", b"f", b"v"], [b"PEXPIREAT", b"k1", b"5"]]
    async with pushing(no_scripts()) as pusher:
        await pusher.push(commands)
        assert pusher.hub.bodies[1:] == [body(*command) for command in commands]


@pytest.mark.parametrize(
    ("command", "reply", "bodies", "outcome"),
    [
        ([b"SET", b"k", b"v", b"NX"], b"$-1\r\n", 1, MOVED),
        ([b"HSETNX", b"k", b"f", b"v", b"g", b"w"], b":0\r\n", 2, MOVED),  # Redis takes one field
        ([b"DEL", b"k"], b":0\r\n", 1, UNCHANGED),
        ([b"HDEL", b"k", b"f", b"g"], b":0\r\n", 1, UNCHANGED),
        ([b"PERSIST", b"k"], b":0\r\n", 1, UNCHANGED),
        ([b"PEXPIREAT", b"k", b"5"], b":0\r\n", 1, UNCHANGED),
    ],
)
async def test_what_changes_nothing_is_said_to(command, reply, bodies, outcome):
    async with pushing(no_scripts(lambda _content: reply)) as pusher:
        assert (await pusher.push([command])).errors == {b"k": outcome}
        assert len(pusher.hub.bodies) == 1 + bodies


@pytest.mark.parametrize("refusal", [b"-NOPERM no k2\r\n", httpx.Response(403), httpx.Response(413)])
async def test_a_bad_key_among_sets_is_found_and_the_others_go_on(refusal):
    def answer(content):
        return refusal if b"k2" in keys_in(content) else b"+OK\r\n"

    async with pushing(no_scripts(answer)) as pusher:
        errors = (await pusher.push([mset(*range(64))])).errors
        assert errors.keys() == {b"k2"}
        sets = [content for content in pusher.hub.bodies[1:] if content.startswith((b"SET", b"MSET"))]
        took = [key for content in sets if b"k2" not in (keys := keys_in(content)) for key in keys]
        assert sorted(took) == sorted(b"k%d" % number for number in range(64) if number != 2)
        assert len(sets) <= 13 + 1  # halves, not each by itself; and what was denied is tried once more


DENIED = b"NOPERM this user has no permissions to access one of the keys used as arguments"
FOR_ALL = [
    (
        lambda content: all_ran(content, *(b"%d %b" % (at, DENIED) for at in range(len(keys_in(content))))),
        b"-" + DENIED,
    ),
    (lambda _: httpx.Response(403), httpx.Response(403)),
    (lambda _: httpx.Response(401), httpx.Response(401)),
    (lambda _: b"-NOPERM this user has no permissions to run the 'eval' command\r\n", b"-NOPERM no 'x' command"),
    (lambda _: b"-NOAUTH Authentication required.\r\n", b"-NOAUTH Authentication required."),
    (lambda _: httpx.Response(403), b"-ERR Protocol error: unauthenticated bulk length"),
]


class Guarded:
    """A hub that lets us do everything, or nothing."""

    def __init__(self, of_script, of_command, *, locked=False):
        self._of_script, self._of_command = of_script, of_command
        self.locked = locked
        self.unlock_after = 10**9

    def __call__(self, content):
        if self.locked and self.unlock_after > 0:
            self.unlock_after -= 1
            refusal = self._of_script(content) if is_script(content) else self._of_command
            return refusal if isinstance(refusal, httpx.Response) or is_script(content) else refusal + b"\r\n"
        return all_ran(content) if is_script(content) else b"+OK\r\n"


@pytest.mark.parametrize(("of_script", "of_command"), FOR_ALL)
@pytest.mark.parametrize("locked", [True, False], ids=["from the start", "later"])
async def test_a_hub_that_refuses_everything_is_no_fault_of_a_key(of_script, of_command, locked):
    hub = Guarded(of_script, of_command, locked=locked)
    commands = [mset(*range(64)), [b"HSET", b"k64", b"f", b"v"], [b"SET", b"k65", b"x" * 200_000]]
    async with pushing(hub) as pusher:
        if not locked:
            await pusher.push(sets(1))
            hub.locked = True
            del pusher.hub.bodies[:]
        for command in commands:
            with pytest.raises(HubError), capture_logs() as lines:
                await pusher.push([command])
            assert lines == []
        assert pusher.scripts.allowed
        if not locked:
            assert len(pusher.hub.bodies) < 40  # whoever was let in before, soon finds out
        hub.locked = False
        assert (await pusher.push(commands)).errors == {}


async def test_what_is_allowed_again_while_it_is_found_out_is_done():
    hub = Guarded(*FOR_ALL[0])
    async with pushing(hub) as pusher:
        await pusher.push(sets(1))
        hub.locked, hub.unlock_after = True, 1
        assert (await pusher.push([mset(1, 2, 3)])).errors == {}


async def test_a_hub_that_is_not_ready_is_not_asked_for_each_key():
    async with pushing(no_scripts(lambda _content: b"-OOM command not allowed\r\n")) as pusher:
        with pytest.raises(HubError, match="not ready"):
            await pusher.push([MSET])
        assert len(pusher.hub.bodies) == 2


async def test_refused_scripts_are_tried_again_after_minutes():
    now = 1000.0
    refuse = True

    def answer(content):
        if is_script(content):
            return httpx.Response(403) if refuse else all_ran(content)
        return b"+OK\r\n"

    async with pushing(answer, clock=lambda: now) as pusher:
        with capture_logs() as lines:
            await pusher.push(sets(1))
            now += 299
            await pusher.push(sets(2))
            now += 2
            await pusher.push(sets(3))
            assert [is_script(content) for content in pusher.hub.bodies] == [True, False, False, True, False]
            now += 299
            refuse = False
            await pusher.push(sets(4))
            assert not pusher.scripts.allowed
            now += 2
            await pusher.push(sets(5))
            await pusher.push(sets(6))

        assert pusher.scripts.allowed
        assert [is_script(content) for content in pusher.hub.bodies[5:]] == [False, True, True]
        assert [line["event"] for line in lines] == ["push.scripts_refused", "push.scripts_allowed"]


@pytest.mark.parametrize(
    ("refusal", "text"),
    [(b"-WRONGTYPE no\r\n", "WRONGTYPE no"), (httpx.Response(403), "HTTP 403"), (httpx.Response(413), "HTTP 413")],
)
async def test_a_single_refusal_is_named_and_the_others_go_on(refusal, text):
    commands = [[b"HSET", b"k%d" % number, b"f", b"v"] for number in range(5)]
    async with pushing(no_scripts(lambda content: refusal if b"k2" in content else b":1\r\n")) as pusher:
        errors = (await pusher.push(commands)).errors

    assert errors.keys() == {b"k2"}
    assert text in errors[b"k2"]


async def test_a_hub_that_is_not_ready_fails_single_commands_too():
    async with pushing(no_scripts(lambda _content: b"-OOM command not allowed\r\n")) as pusher:
        with pytest.raises(HubError, match="not ready"):
            await pusher.push(sets(1, 2))


async def test_single_commands_are_so_many_at_a_time_and_stay_when_the_hub_has_had_enough():
    out, most = 0, 0

    async def handler(request):
        nonlocal out, most
        content = await request.aread()
        if is_script(content):
            return httpx.Response(403)
        out += 1
        most = max(most, out)
        sent.append(content)
        for _ in range(20):  # turns of the loop
            await asyncio.sleep(0)
        out -= 1
        return (
            httpx.Response(429, headers={"Retry-After": "7"})
            if len(sent) > 8
            else httpx.Response(200, content=b":1\r\n")
        )

    sent = []
    session = HubSession(URL, ssl.create_default_context(), transport=httpx.MockTransport(handler))
    with pytest.raises(HubError) as caught:
        await HubPusher(session, 10_000, side_by_side=4).push([[b"DEL", b"k%d" % number] for number in range(100)])
    assert caught.value.retry_after == 7
    assert most == 4
    assert len(sent) < 20
    await session.close()


@pytest.mark.parametrize(
    ("first", "then", "kind"),
    [
        (httpx.ConnectError, None, PeerUnavailableError),
        (httpx.ReadError, None, OutcomeUnknownError),
        (httpx.ConnectError, httpx.ReadError, OutcomeUnknownError),
    ],
)
async def test_no_single_command_is_left_behind_by_the_failure_of_another(first, then, kind):
    """One that went on by itself could overtake what is sent for its key later."""
    under_way, slow_may_end = set(), asyncio.Event()

    async def handler(request):
        content = await request.aread()
        if is_script(content):
            return httpx.Response(403)
        key = keys_in(content)[0]
        under_way.add(key)
        try:
            if key == b"k1":
                slow_may_end.set()
                raise first("")
            await slow_may_end.wait()
            await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0.02)
            if then is not None:
                raise then("")
            return httpx.Response(200, content=b":1\r\n")
        finally:
            under_way.discard(key)

    session = HubSession(URL, ssl.create_default_context(), transport=httpx.MockTransport(handler))
    with pytest.raises(kind):
        await HubPusher(session, 10_000).push([[b"HSET", b"k%d" % number, b"f", b"v"] for number in (1, 2, 3)])
    assert not under_way
    await session.close()


# A real hub.

COMMANDS = [
    [b"SET", b"string", ALL_BYTES],
    [b"SET", b"dying", b"v", b"PXAT", b"4000000000000"],
    [b"HSET", b"hash", ALL_BYTES, ALL_BYTES, b"", b""],
    [b"HSET", b"there", b"f", b"v"],
    [b"SET", b"plain", b""],
    [b"DEL", b"gone"],
]


@pytest.fixture(scope="module")
def real(certificates):
    with Hub(certificates) as hub:
        yield hub


@pytest.fixture(scope="module", params=["webdis", "redis"])
def narrow(request, certificates):
    """A hub that allows no scripts: Webdis' own ACL says so, or Redis'."""
    options = (
        {"webdis": {"acl": [{"disabled": ["EVAL"]}]}}
        if request.param == "webdis"
        else {"redis": {"users": ["default on nopass ~* &* +@all -@scripting"]}}
    )
    with Hub(certificates, **options) as hub:
        yield hub


@contextlib.asynccontextmanager
async def connected(hub, max_body=900_000, *, fenced=False, **options):
    session = HubSession(check_url(hub.url), hub.certificates.ssl_context())
    fence = Fence(session, b"us") if fenced else None
    try:
        yield HubPusher(session, max_body, fence=fence, **options)
    finally:
        await session.close()


async def all_arrived(hub, *, scripts):
    hub.redis.flushall()
    hub.redis.mset({"there": "string", "gone": "x"})
    async with connected(hub) as pusher:
        errors = (
            await pusher.push([*COMMANDS, [b"MSET", *(word for name in AWKWARD_NAMES for word in (name, name))]])
        ).errors
        assert pusher.scripts.allowed is scripts

    assert errors.keys() == {b"there"}
    assert errors[b"there"].startswith("WRONGTYPE ")
    assert hub.redis.get("string") == ALL_BYTES
    assert hub.redis.pexpiretime("dying") == 4_000_000_000_000
    assert hub.redis.hgetall("hash") == {ALL_BYTES: ALL_BYTES, b"": b""}
    assert hub.redis.get("plain") == b""
    assert not hub.redis.exists("gone")
    assert hub.redis.mget(AWKWARD_NAMES) == list(AWKWARD_NAMES)


async def test_everything_arrives_by_script(real):
    await all_arrived(real, scripts=True)


async def test_everything_arrives_without_scripts(narrow):
    await all_arrived(narrow, scripts=False)


def whole(key, value):
    return b"%015x" % digest_of(key, StringState(value))


def field(name, value):
    return b"%024x" % element_of(name, value)


CONDITIONS = [
    # A command, what the key holds, what it says, what the key holds then.
    ([b"SETIF", b"k", b"b", b"", whole(b"k", b"a")], b"a", None, b"b"),
    ([b"SETIF", b"k", b"b", b"4000000000000", whole(b"k", b"a")], b"a", None, b"b"),
    ([b"SETIF", b"k", b"b", b"", whole(b"k", b"a")], b"c", MOVED, b"c"),
    ([b"SETIF", b"k", b"b", b"", whole(b"k", b"a")], b"b", UNCHANGED, b"b"),
    ([b"DELIF", b"k", whole(b"k", b"a")], b"a", None, None),
    ([b"DELIF", b"k", whole(b"k", b"a")], b"c", MOVED, b"c"),
    ([b"DELIF", b"k", whole(b"k", b"a")], None, UNCHANGED, None),
    ([b"SET", b"k", b"b", b"NX"], b"a", MOVED, b"a"),
    ([b"HSETNX", b"k", b"f", b"2", b"h", b"2"], {b"f": b"1"}, MOVED, {b"f": b"1", b"h": b"2"}),
    (
        [b"HSETIF", b"k", b"f", field(b"f", b"1"), b"2", b"g", field(b"g", b"0"), b"2", b"h", b"", b"2"],
        {b"f": b"1", b"g": b"1"},
        MOVED,
        {b"f": b"2", b"g": b"1", b"h": b"2"},
    ),
    ([b"HSETIF", b"k", b"f", field(b"f", b"1"), b"2"], {b"f": b"1"}, None, {b"f": b"2"}),
    ([b"HSETIF", b"k", b"f", b"", b"2"], b"a", "WRONGTYPE", b"a"),
    ([b"HDELIF", b"k", b"f", field(b"f", b"1")], {b"f": b"1", b"g": b"1"}, None, {b"g": b"1"}),
    ([b"HDELIF", b"k", b"f", field(b"f", b"0")], {b"f": b"1"}, MOVED, {b"f": b"1"}),
]


async def conditions_hold(hub):
    redis = hub.redis
    async with connected(hub) as pusher:
        for command, held, outcome, after in CONDITIONS:
            redis.delete("k")
            if held is not None:
                (redis.hset("k", mapping=held) if isinstance(held, dict) else redis.set("k", held))
            errors = (await pusher.push([command, [b"SET", b"other", b"v"]])).errors
            assert (errors[b"k"].partition(" ")[0] if errors else None) == outcome, command
            kind = redis.type("k")
            found = redis.hgetall("k") if kind == b"hash" else redis.get("k")
            assert found == after, command
            assert (redis.pexpiretime("k") > 0) == (b"4000000000000" in command), command


async def test_a_condition_holds_by_script(real):
    await conditions_hold(real)


async def test_a_condition_holds_without_scripts(narrow):
    await conditions_hold(narrow)


@pytest.mark.parametrize("large", [False, True])
async def test_the_hub_notes_a_batch_once_all_of_it_was_executed(real, large):
    real.redis.flushall()
    commands = [[b"SET", b"k%d" % number, bytes(3000 if large else 3)] for number in range(8)]
    async with connected(real, 12_000, fenced=True) as pusher:
        await pusher.fence.ready()
        await pusher.push(commands, slot=3, number=17)
        noted = {
            int(slot): int(number)
            for slot, number in real.redis.hgetall("redisrepl:fence:us").items()
            if slot != b"epoch"
        }
        assert noted == {3: 17} | ({10_003: 17} if large else {})
        await pusher.push([[b"SET", b"huge", bytes(20_000)]], slot=4, number=18)
        assert real.redis.hget("redisrepl:fence:us", "4") == b"18"


@pytest.mark.parametrize(
    "command",
    [
        [b"SET", b"k1", b"v"],
        [b"SET", b"k1", bytes(20_000)],
        [b"HSET", b"k1", b"f", bytes(20_000)],
        [b"LISTSET", b"k1", bytes(20_000)],
    ],
    ids=["small", "large", "large field", "large item"],
)
async def test_a_request_of_an_earlier_epoch_fails_as_a_whole(real, command):
    real.redis.flushall()
    async with connected(real, 12_000, fenced=True) as pusher:
        await pusher.fence.ready()
        real.redis.hincrby("redisrepl:fence:us", "epoch", 1)
        with pytest.raises(FencedError):
            await pusher.push([command], slot=1, number=1)
        assert not real.redis.exists("k1")
        pusher.fence.doubt()
        await pusher.fence.ready()
        assert (await pusher.push([command], slot=1, number=1)).errors == {}
        assert real.redis.exists("k1")


async def test_that_the_fence_is_lost_is_told(real):
    told = []
    async with connected(real, fenced=True, on_fence_lost=lambda: told.append(1)) as pusher:
        await pusher.fence.ready()
        await pusher.push(sets(1), slot=1, number=1)
        assert not told
        real.redis.delete("redisrepl:fence:us")
        assert (await pusher.push(sets(1), slot=1, number=2)).errors == {}
    assert told


async def test_where_no_fence_is_allowed_pushing_goes_on_without(certificates):
    users = ["default on nopass ~k* &* +@all", "all on nopass ~* +@all"]
    with Hub(certificates, redis={"users": users}) as hub, capture_logs() as logs:
        async with connected(hub, fenced=True) as pusher:
            await pusher.fence.ready()
            for number in (1, 2):
                assert (await pusher.push(sets(number), slot=0, number=number)).errors == {}
        assert [line["event"] for line in logs] == ["hub.no_fence"]
        assert hub.redis.mget("k1", "k2") == [b"v", b"v"]


async def test_a_hub_that_forgot_the_script_is_given_it_again(real):
    real.redis.flushall()
    async with connected(real) as pusher:
        await pusher.push(sets(1))
        await pusher.push(sets(2))
        real.redis.script_flush()
        before = real.redis.info("commandstats")
        assert (await pusher.push(sets(3))).errors == {}
        assert (await pusher.push(sets(4))).errors == {}
        after = real.redis.info("commandstats")
    assert real.redis.dbsize() == 4
    calls = {
        name: after[f"cmdstat_{name}"]["calls"] - before.get(f"cmdstat_{name}", {"calls": 0})["calls"]
        for name in ("eval", "evalsha")
    }
    assert calls == {"eval": 1, "evalsha": 2}


@pytest.mark.parametrize("scripting", ["+@scripting", "-@scripting"])
async def test_a_key_that_may_not_be_written_does_not_stop_those_it_travels_with(certificates, scripting):
    user = f"default on nopass ~k* ~other &* +@all {scripting}"
    with Hub(certificates, redis={"users": [user, "all on nopass ~* +@all"]}) as hub:
        async with connected(hub) as pusher:
            errors = (await pusher.push([[*mset(*range(50)), b"bad", b"v", b"other", b"v"], *sets(50)])).errors
            assert pusher.scripts.allowed is scripting.startswith("+")
        assert errors.keys() == {b"bad"}
        assert denies_key(errors[b"bad"])
        hub.redis.execute_command("AUTH", "all", "x")
        assert hub.redis.dbsize() == 52


async def test_a_hub_that_is_full_is_waited_for(real):
    real.redis.flushall()
    real.redis.config_set("maxmemory", 1)
    try:
        async with connected(real) as pusher:
            for commands in (sets(1, 2), [MSET]):
                with pytest.raises(HubError, match="OOM"):
                    await pusher.push(commands)
            pusher.scripts.allowed = False
            with pytest.raises(HubError, match="OOM"):
                await pusher.push(sets(1, 2))
    finally:
        real.redis.config_set("maxmemory", 0)


async def test_a_real_proxy_with_a_small_limit_is_found_out(certificates):
    changes = [StringSet(b"k%d" % number, b"x" * 1000) for number in range(50)]
    commands = commands_of_batch([*changes[:20], StringSet(b"huge", b"x" * 30_000), *changes[20:]])
    with Hub(certificates, nginx={"client_max_body_size": "20k"}) as hub:
        async with connected(hub) as pusher:
            errors = (await pusher.push(commands)).errors
        assert errors.keys() == {b"huge"}
        assert hub.redis.dbsize() == 50


async def test_a_real_proxy_that_cannot_keep_bodies_is_found_out(certificates, tmp_path):
    commands = [*[[b"SET", b"k%d" % number, b"x" * 1000] for number in range(50)], [b"SET", b"huge", b"x" * 90_000]]
    away = tmp_path / "away"
    changes = {
        "client_body_temp_path ": f"client_body_temp_path {away}; #",
        "client_body_buffer_size 1m;": "client_body_buffer_size 16k;",
    }
    with Hub(certificates, nginx={"replacements": changes}) as hub:
        away.rmdir()
        async with connected(hub) as pusher:
            errors = (await pusher.push(commands)).errors
        assert errors.keys() == {b"huge"}
        assert "client_body_temp_path" in errors[b"huge"]
        assert hub.redis.dbsize() == 50


def test_errors_used_here_are_those_of_the_session():
    assert issubclass(BodyTooLargeError, HubError)
    assert issubclass(CommandRefusedError, HubError)
