"""Batches to the hub: when they leave, what is remembered of them, and what follows from how they ended."""

from __future__ import annotations

import asyncio
import math
import random
import re
import sys
import time
from itertools import groupby

import pytest

from redisrepl.changes import (
    DENIED,
    KINDS,
    Deleted,
    FieldsDeleted,
    HashSet,
    HashState,
    Invalidated,
    Position,
    StringSet,
    StringState,
    TimedValue,
)
from redisrepl.engine.ancestor import note_state
from redisrepl.engine.continuity import Continuity, SideState
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.everywrite import EveryWrite
from redisrepl.engine.following import Following
from redisrepl.engine.inbound import Inbound
from redisrepl.engine.outbound import Outbound
from redisrepl.engine.pushes import Departure, OutboundOptions
from redisrepl.errors import (
    FencedError,
    HubError,
    KeyDeniedError,
    LinkLostError,
    OutcomeUnknownError,
    PeerUnavailableError,
    ProtocolError,
)
from redisrepl.flow.pacing import Pacer
from redisrepl.flow.pushing import Pushing
from redisrepl.flow.reach import StreamReach
from redisrepl.remote.fence import NoFence
from redisrepl.remote.push import HubPusher, Pushed
from redisrepl.remote.session import HubSession, check_url
from redisrepl.store import Facts
from redisrepl.wire.batches import MOVED, UNCHANGED
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.digests import digest_of, element_of, elements_of, string_digest
from redisrepl.wire.entries import FIRST_ID, LAST_ID, entry_name, entry_value
from redisrepl.wire.fieldtimes import FieldTimes
from redisrepl.wire.groups import pending_name, place_name
from redisrepl.wire.writes import written_keys
from testbed import Hub, eventually_async
from tests.flow.streams import streamed

RETRY = {"attempts": None, "timeout": None, "wait_initial": 0.01, "wait_max": 0.01, "wait_jitter": 0.0}


def outbound_with(count, kind=Outbound):
    outbound = kind(ChangeDecoder(lambda _key: True, frozenset({"set", "hset"})), ExpectedEvents(0))
    for number in range(count):
        outbound.pending.add(StringSet(b"k%d" % number, b"v"))
    return outbound


class Flights:
    """So many tasks that push; they end with the test."""

    def __init__(self, outbound, store, hub, count=1, pacer=None, batch=100, site=None, times=None):
        self.pacer = pacer or Pacer(count, worthwhile=batch, interval=0.0)
        self.evicted = False
        self.following = Following(read_to=sys.maxsize)
        self.reach = StreamReach(self.following, Continuity())
        self.pushing = Pushing(
            outbound,
            store,
            hub,
            site,
            self.pacer,
            self.reach,
            site_evicted=self.site_evicted,
            max_keys=batch,
            retry=RETRY,
            times=times,
        )
        self._count = count
        self.asked = 0

    async def site_evicted(self):
        self.asked += 1
        return self.evicted

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self.pushing.run()) for _ in range(self._count)]
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class WatchedFence(NoFence):
    """Remembers what was asked of it; has executed `executed`."""

    def __init__(self):
        self.calls = []
        self.executed = set()

    async def ready(self):
        self.calls.append("ready")

    def doubt(self):
        self.calls.append("doubt")

    def was_executed(self, number):
        return number in self.executed


class FakeHub:
    """Takes what it is given, or raises what it is told to; `before` is called with each batch."""

    max_body = 900_000

    def __init__(self, *errors):
        self.calls = 0
        self.pushed = []
        self.numbers = []
        self.refused = {}
        self.out = 0
        self.error = None
        self.errors = list(errors)
        self.fence = WatchedFence()
        self.before = lambda: None

    async def push(self, commands, *, slot, number):
        self.pushed.append(commands)
        self.numbers.append((slot, number))
        self.calls += 1
        self.out += 1
        self.fence.calls.append("push")
        self.before()
        await asyncio.sleep(0)
        self.out -= 1
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        if self.error is not None:
            raise self.error
        return Pushed(self.refused, math.inf)


@pytest.mark.parametrize(("asked", "held"), [(100.0, 100.0), (86_400.0, 300.0), (math.inf, 300.0)])
async def test_nothing_leaves_while_the_hub_wants_a_pause(store, asked, held):
    outbound, hub = outbound_with(1000), FakeHub()
    hub.error = HubError("enough", status=429, retry_after=asked)
    async with Flights(outbound, store, hub, 4) as flights:
        await eventually_async(lambda: hub.calls and not hub.out)
        assert flights.pacer.held_until == pytest.approx(time.monotonic() + held, abs=30)
        assert hub.calls <= 4  # those that were on their way already
        calls, hub.error = hub.calls, None
        for _ in range(100):
            flights.pushing.wake()
            await asyncio.sleep(0)
        assert hub.calls == calls

        flights.pacer.held_until = -math.inf  # the time has come
        flights.pushing.wake()
        await flights.pushing.drained()
    assert outbound.counters.pushed == 1000


async def test_at_the_end_keys_in_doubt_are_waited_for_only_if_they_can_leave(store):
    """While the site is not followed, what it holds cannot be compared, so nothing would come of it."""
    outbound, hub = outbound_with(10), FakeHub()
    outbound.doubts.may_judge = lambda: False
    outbound.doubt(b"doubtful", StringSet(b"doubtful", b"v"))
    async with Flights(outbound, store, hub, 1) as flights:
        await asyncio.wait_for(flights.pushing.drained(), 30)
        assert (outbound.counters.pushed, outbound.waiting) == (10, 1)
        outbound.doubts.may_judge = lambda: True
        flights.pushing.wake()
        await flights.pushing.drained()
    assert outbound.waiting == 0


async def test_after_an_error_that_names_no_time_the_batch_is_tried_again(store):
    outbound, hub = outbound_with(10), FakeHub()
    hub.error = HubError("enough", status=429)
    async with Flights(outbound, store, hub, 1) as flights:
        await eventually_async(lambda: hub.calls >= 3)
        hub.error = None
        await flights.pushing.drained()
    assert outbound.counters.pushed == 10


async def test_only_errors_of_the_hub_halve_the_batches_side_by_side(store):
    class Lost(StatesOf):
        async def first_states(self, keys, max_bytes):
            self.asked.append(keys)
            if self.lost:
                raise LinkLostError("the site ended the connection")
            return await super().first_states(keys, max_bytes)

    site, outbound, hub = Lost({b"k": A}), outbound_of(Invalidated(b"k")), FakeHub()
    site.lost = True
    pacer = Pacer(8, worthwhile=100, interval=0.0)
    async with Flights(outbound, store, hub, site=site, pacer=pacer) as flights:
        await eventually_async(lambda: len(site.asked) >= 4)
        assert (hub.calls, pacer.limit) == (0, 8)
        hub.error, site.lost = HubError("overloaded", status=503), False
        await eventually_async(lambda: hub.calls >= 4)
        assert pacer.limit == 1
        hub.error = None
        await flights.pushing.drained()
    assert pacer.out == 0


async def test_news_wakes_one_flight(store):
    """The others wait for their turn; with each awake for each piece of news, idle flights would cost the most."""
    looks = 0

    class Watched(Outbound):
        @property
        def ready(self):
            nonlocal looks
            looks += 1
            return super().ready

    outbound, hub = outbound_with(0, Watched), FakeHub()
    async with Flights(outbound, store, hub, 32) as flights:
        for number in range(100):
            outbound.pending.add(StringSet(b"k%d" % number, b"v"))
            flights.pushing.wake()
            await flights.pushing.drained()
    assert hub.calls == 100
    assert looks <= 1000


async def test_a_full_batch_of_any_bytes_is_one_request(store, certificates):
    """It is taken so much smaller than a body that escapes do not make it two."""
    outbound = Outbound(ChangeDecoder(lambda _key: True, frozenset({"set"})), ExpectedEvents(0))
    for number in range(750):
        outbound.pending.add(StringSet(b"k%d" % number, random.Random(number).randbytes(900)))
    with Hub(certificates, nginx={"replacements": {" buffer=64k flush=5s": ""}}) as hub:
        session = HubSession(check_url(hub.url), certificates.ssl_context())
        async with Flights(outbound, store, HubPusher(session, 330_000), 1, batch=1000) as flights:
            await flights.pushing.drained()
        await session.close()
        assert hub.redis.dbsize() == 750
        log = hub.nginx.directory / "access.log"  # it is written after the answer
        await eventually_async(lambda: log.read_text().count(" POST ") >= 3)
        assert log.read_text().count(" POST ") == outbound.counters.requests == 3


async def test_a_proxy_with_a_rate_limit_is_not_besieged(store, certificates):
    """A real nginx that lets in two requests a second and says when to come back."""
    limit = {
        "server_tokens off;": "server_tokens off;\n    limit_req_zone $server_name zone=few:1m rate=2r/s;",
        "limit_except GET POST PUT { deny all; }": "limit_req zone=few; limit_req_status 429; "
        "add_header Retry-After 1 always;",
        " buffer=64k flush=5s": "",
    }
    outbound = outbound_with(400)
    with Hub(certificates, nginx={"replacements": limit}) as hub:
        session = HubSession(check_url(hub.url), certificates.ssl_context())
        async with Flights(outbound, store, HubPusher(session, 900_000), 4) as flights:
            await flights.pushing.drained()
        await session.close()
        assert hub.redis.dbsize() == 400
        statuses = re.findall(r" POST (\d+) ", (hub.nginx.directory / "access.log").read_text())

    assert set(statuses) == {"200", "429"}
    assert statuses.count("429") <= 8


# What is remembered of a batch, and what follows from how it ended.

A, B = StringState(b"a"), StringState(b"b")


def outbound_of(*changes, kinds=KINDS, **options):
    options = OutboundOptions(**options)
    outbound = Outbound(ChangeDecoder(lambda _key: True, kinds), ExpectedEvents(0), options=options)
    for change in changes:
        outbound.pending.add(change)
    return outbound


async def agreed(store, *keys):
    found = await store.lookup(keys)
    return [found[key].digest if key in found else None for key in keys]


def digests(**values):
    return [None if value is None else string_digest(key.encode(), value) for key, value in values.items()]


async def test_what_a_batch_carries_is_written_before_it_is_sent_and_agreed_once_it_is_there(store):
    outbound, hub = outbound_of(StringSet(b"k", b"v"), Deleted(b"gone"), StringSet(b"no", b"v")), FakeHub()
    hub.refused = {b"no": "WRONGTYPE", b"gone": UNCHANGED}
    sent, sending = [], store.sending
    store.sending = lambda number, facts: sent.append(number) or sending(number, facts)
    hub.before = lambda: sent.append("push")
    async with Flights(outbound, store, hub) as flights:
        await flights.pushing.drained()

    ((_, number),) = hub.numbers
    assert sent == [number, "push"]
    assert number > 0
    assert hub.fence.calls[:2] == ["ready", "push"]
    assert await agreed(store, b"k", b"gone", b"no") == digests(k=b"v", gone=None, no=None)
    assert not (await store.lookup([b"no"]))


def partly_executed(error):
    """Of a batch that takes more than one request, or of which a part was refused."""
    error.may_be_executed = True
    return error


async def test_a_batch_that_never_arrived_leaves_nothing_behind_and_goes_again(store):
    outbound, hub = (
        outbound_of(StringSet(b"k", b"v")),
        FakeHub(PeerUnavailableError("away"), HubError("enough", status=429)),
    )
    async with Flights(outbound, store, hub) as flights:
        hub.before = lambda: hub.calls == 3 and outbound.pending.add(StringSet(b"k", b"w"))
        await eventually_async(lambda: hub.calls == 2 and not outbound.pending.in_flight)
        assert await store.lookup([b"k"]) == {}
        await flights.pushing.drained()
    assert "doubt" not in hub.fence.calls
    assert hub.pushed[0] == hub.pushed[1] == [[b"SET", b"k", b"v"]]
    assert await agreed(store, b"k") == digests(k=b"w")


@pytest.mark.parametrize(
    "fault",
    [
        OutcomeUnknownError("lost"),
        *(HubError("the proxy lost Webdis, or Webdis its Redis", status=status) for status in (500, 502, 503, 504)),
        ProtocolError("not an answer of ours"),
        partly_executed(HubError("LOADING", status=200)),
        partly_executed(FencedError("late")),
    ],
    ids=repr,
)
async def test_after_an_unknown_outcome_the_epoch_is_raised_and_the_key_pushed_on_a_condition(store, fault):
    outbound, site = outbound_of(StringSet(b"k", b"b")), StatesOf({b"k": B})
    facts = Facts()
    note_state(facts, b"k", A)
    store.agreed(facts)
    hub = FakeHub(fault)
    async with Flights(outbound, store, hub, site=site) as flights:
        await flights.pushing.drained()
        found = (await store.lookup([b"k"]))[b"k"]
        assert found.intents == (string_digest(b"k", b"b"),)  # that one may still be at the hub
        flights.pushing.nothing_in_doubt()
        assert not (await store.lookup([b"k"]))[b"k"].intents

    calls = [call for call in hub.fence.calls if isinstance(call, str)]
    assert [call for call, _ in groupby(calls)][:5] == ["ready", "push", "doubt", "ready", "push"]
    old, new = (b"%015x" % string_digest(b"k", value) for value in (b"a", b"b"))
    assert hub.pushed == [[[b"SET", b"k", b"b"]], [[b"SETIF", b"k", b"b", b"", old, new]]]
    assert await agreed(store, b"k") == digests(k=b"b")


@pytest.mark.parametrize("of_another_process", [False, True])
async def test_what_a_push_of_unknown_outcome_left_is_known_until_a_later_change_has_arrived(store, of_another_process):
    """Else, should we end before that, it would seem to be a client's, and come back to the site that removed it."""
    facts = Facts()
    note_state(facts, b"k", B)
    store.sending(store.next_number(), facts)
    store.open_batches = [1] if of_another_process else []
    outbound = outbound_of() if of_another_process else outbound_of(StringSet(b"k", b"b"))
    async with Flights(outbound, store, FakeHub(), 0) as flights:
        if not of_another_process:
            flights.pushing._failed(outbound.take(10, 1000), Departure([], ()), [1], unknown=True)
        outbound._add(Deleted(b"k"))
        assert not len(outbound.doubtful)
        flights.pushing.nothing_in_doubt()
        assert (await store.lookup([b"k"]))[b"k"].intents
        outbound.pending.done([change.key for change in outbound.pending.take(10, 1000)])
        flights.pushing.nothing_in_doubt()
        assert b"k" not in await store.lookup([b"k"])


async def test_a_batch_of_unknown_outcome_that_the_hub_has_executed_is_agreed(store):
    outbound, site = outbound_of(StringSet(b"k", b"b")), StatesOf({b"k": B})
    hub = FakeHub(OutcomeUnknownError("lost"))
    hub.before = lambda: hub.fence.executed.add(hub.numbers[-1][1])
    async with Flights(outbound, store, hub, site=site) as flights:
        await flights.pushing.drained()
    assert hub.pushed == [[[b"SET", b"k", b"b"]]]  # it is as it was agreed on: nothing is to be sent
    assert await agreed(store, b"k") == digests(k=b"b")


async def test_batches_that_an_earlier_process_left_open_are_asked_for(store):
    facts = Facts()
    note_state(facts, b"k", B)
    for number in (store.next_number(), store.next_number()):
        store.sending(number, facts)
    store.open_batches = [1, 2]  # as the next process finds them
    outbound, hub = outbound_of(StringSet(b"other", b"v")), FakeHub()
    hub.fence.executed.add(1)
    async with Flights(outbound, store, hub) as flights:
        await flights.pushing.drained()
        found = (await store.lookup([b"k"]))[b"k"]
        assert (found.digest, found.intents) == (digest_of(b"k", B), (digest_of(b"k", B),))
        flights.pushing.nothing_in_doubt()
        assert (await store.lookup([b"k"]))[b"k"].intents == ()


async def test_a_batch_of_an_earlier_epoch_was_not_executed(store):
    outbound, hub = outbound_of(StringSet(b"k", b"v")), FakeHub(FencedError("old"))
    async with Flights(outbound, store, hub) as flights:
        await flights.pushing.drained()
    assert hub.pushed == [[[b"SET", b"k", b"v"]]] * 2
    assert [call for call in hub.fence.calls if isinstance(call, str)][:5] == [
        "ready",
        "push",
        "doubt",
        "ready",
        "push",
    ]
    assert not outbound.counters.failed


async def test_what_was_on_its_way_when_the_daemon_ends_stays_an_intent(store):
    outbound, hub = outbound_of(StringSet(b"k", b"v")), FakeHub()
    never = asyncio.Event()

    async def push(*_, **__):
        hub.calls += 1
        await never.wait()

    hub.push = push
    async with Flights(outbound, store, hub):
        await eventually_async(lambda: hub.calls)
    assert (await store.lookup([b"k"]))[b"k"].intents == (string_digest(b"k", b"v"),)
    assert outbound.busy(b"k")


class StatesOf:
    """A site that holds these; counts what it is asked for."""

    def __init__(self, states):
        self.states = states
        self.asked = []
        self.stands_at = 0

    async def offset(self):
        return self.stands_at

    async def first_states(self, keys, _max_bytes):
        self.asked.append(list(keys))
        return [self.states.get(key) for key in keys]

    async def fields(self, key, fields, _kind):
        if self.states.get(key) is DENIED:
            raise KeyDeniedError("no")
        return [self.states[key].fields.get(field) for field in fields]


async def test_keys_in_doubt_are_read_and_compared_with_what_was_agreed(store):
    states = {
        b"same": A,
        b"changed": B,
        b"list": "list",
        b"denied": DENIED,
        b"hash": HashState({b"f": b"2", b"g": b"1"}),
    }
    facts = Facts()
    for key, state in {b"same": A, b"changed": A, b"gone": A, b"hash": HashState({b"f": b"1", b"g": b"1"})}.items():
        note_state(facts, key, state)
    store.agreed(facts)
    outbound, hub, site = outbound_of(), FakeHub(), StatesOf(states)
    for key in (*states, b"gone"):
        outbound.doubt(key)
    async with Flights(outbound, store, hub, site=site) as flights:
        await flights.pushing.drained()

    (commands,) = hub.pushed
    assert sorted(command[0] + b" " + command[1] for command in commands) == [
        b"DELIF gone",
        b"HSETIF hash",
        b"SETIF changed",
    ]
    assert outbound.counters.failed == 1
    assert await agreed(store, b"changed", b"gone", b"same") == digests(changed=b"b", gone=None, same=b"a")


@pytest.mark.parametrize("written", [True, False])
async def test_where_every_write_counts_a_value_that_was_read_waits_for_those_before_it(store, written):
    """A comparison may see it long before the stream tells of it."""
    options = OutboundOptions(every_write=True)
    outbound = Outbound(ChangeDecoder(lambda _key: True, KINDS), ExpectedEvents(0), options=options)
    hub, site = FakeHub(), StatesOf({b"k": StringState(b"3"), b"other": A})
    site.stands_at = 100
    outbound.doubt(b"k")
    outbound.doubt(b"other")
    async with Flights(outbound, store, hub, site=site) as flights:
        flights.following.read_to = 99
        flights.pushing.wake()
        await eventually_async(lambda: site.asked)
        for _ in range(20):
            flights.reach.moved()
            await asyncio.sleep(0)
        assert not hub.pushed

        outbound.read([[b"SET", b"k", b"%d" % number] for number in range(4 * written)], 100)
        flights.following.read_to = 100
        flights.reach.moved()
        await flights.pushing.drained()

    values = [command[2] for commands in hub.pushed for command in commands if command[1] == b"k"]
    assert values == ([b"0", b"1", b"2", b"3"] if written else [b"3"])
    assert await agreed(store, b"k", b"other") == digests(k=b"3", other=b"a")


async def test_elements_that_were_pushed_beside_one_that_has_moved_are_no_others_writes(store):
    """Which were written, the hub does not tell: a later value of ours must not be taken for a conflict with them."""
    facts = Facts()
    note_state(facts, b"h", HashState({b"f": b"1", b"g": b"1"}))
    store.agreed(facts)
    outbound, hub = outbound_of(), FakeHub()
    hub.refused = {b"h": MOVED}
    outbound.doubt(b"h")
    async with Flights(outbound, store, hub, site=StatesOf({b"h": HashState({b"f": b"2", b"g": b"3"})})) as flights:
        await flights.pushing.drained()
        known = (await store.lookup([b"h"], elements=True))[b"h"]
        assert known.elements == elements_of({b"f": b"1", b"g": b"1"}, "hash")
        written = elements_of({b"f": b"2", b"g": b"3"}, "hash")
        assert known.element_intents == {name: (digest,) for name, digest in written.items()}
        outbound.doubt(b"h")  # an answer later, what was kept before is there no more
        flights.pushing.wake()
        await flights.pushing.drained()
        assert len(flights.pushing._intents) == 1
        assert (await store.lookup([b"h"], elements=True))[b"h"].element_intents == known.element_intents
        flights.pushing.nothing_in_doubt()
        assert not (await store.lookup([b"h"], elements=True))[b"h"].element_intents


async def test_followed_by_events_a_key_that_is_gone_is_compared_with_what_was_agreed(store):
    """A collection went with its last element; at the hub it may have others meanwhile."""
    facts = Facts()
    note_state(facts, b"h", HashState({b"f": b"1"}))
    store.agreed(facts)
    outbound, hub = outbound_of(Deleted(b"h")), FakeHub()
    outbound.following.by_events = True
    async with Flights(outbound, store, hub, site=StatesOf({b"h": None})) as flights:
        await flights.pushing.drained()
    assert [command[:2] for commands in hub.pushed for command in commands] == [[b"DELIF", b"h"]]


@pytest.mark.parametrize("fault", [OutcomeUnknownError("lost"), PeerUnavailableError("away"), None])
async def test_where_every_write_counts_the_hub_may_hold_each_value_of_a_batch_of_unknown_outcome(store, fault):
    """A batch that takes more than one request may have ended between two of them."""
    outbound = Outbound(
        ChangeDecoder(lambda _key: True, KINDS), ExpectedEvents(0), options=OutboundOptions(every_write=True)
    )
    outbound.read([[b"SET", b"k", b"1"], [b"SET", b"k", b"2"], [b"SET", b"k", b"3"]], 100)
    hub = FakeHub(*filter(None, [fault]))
    async with Flights(outbound, store, hub, site=StatesOf({b"k": StringState(b"3")})) as flights:
        await eventually_async(lambda: hub.calls)
        await eventually_async(lambda: not outbound.pending.in_flight)
        left = (await store.lookup([b"k"]))[b"k"].intents if isinstance(fault, OutcomeUnknownError) else ()
        await flights.pushing.drained()
        flights.pushing.nothing_in_doubt()
    assert set(left) == ({string_digest(b"k", b"%d" % n) for n in (1, 2, 3)} if left else set())
    assert bool(left) == isinstance(fault, OutcomeUnknownError)
    known = (await store.lookup([b"k"]))[b"k"]
    assert (known.digest, known.intents) == (string_digest(b"k", b"3"), ())


@pytest.mark.parametrize("refused", [False, True])
async def test_what_others_write_while_a_push_fails_is_fetched(store, refused):
    """Their event looks like that of the push; that of the next one is its own."""
    remote = ExpectedEvents(10)
    inbound = Inbound(
        covers=lambda _: True,
        kinds=KINDS,
        expected_local=ExpectedEvents(0),
        expected_remote=remote,
        busy=lambda _: False,
    )
    outbound = Outbound(ChangeDecoder(lambda _key: True, KINDS), ExpectedEvents(0), remote, inbound)
    outbound.pending.add(StringSet(b"k", b"v"))
    hub = FakeHub(None if refused else PeerUnavailableError("away"))
    hub.refused = {b"k": "OOM command not allowed"} if refused else {}
    hub.before = lambda: inbound.events([(b"k", b"set")])
    async with Flights(outbound, store, hub) as flights:
        await flights.pushing.drained()
    assert inbound.dirty == {b"k": refused}


async def test_where_nothing_differs_nothing_is_sent(store):
    facts = Facts()
    note_state(facts, b"k", A)
    store.agreed(facts)
    outbound, hub = outbound_of(), FakeHub()
    outbound.doubt(b"k")
    number = store.number
    async with Flights(outbound, store, hub, site=StatesOf({b"k": A})) as flights:
        await flights.pushing.drained()
    assert (hub.calls, outbound.waiting, store.number) == (0, 0, number)


async def test_a_push_lies_where_the_stream_told_of_its_keys_last(store):
    """What is read at the site itself may lie behind it."""
    told = [StringSet(b"told", b"v"), HashSet(b"fields told", {b"f": b"v"})]
    outbound = outbound_of(*told, Invalidated(b"read"), HashSet(b"fields read", {b"f": None}))
    flights = Flights(
        outbound, store, FakeHub(), batch=1, site=StatesOf({b"read": A, b"fields read": HashState({b"f": b"v"})})
    )
    known = Continuity(site=SideState(followed=True, judged=True))
    at = {b"told": 5, b"fields told": 7}
    flights.pushing._reach = StreamReach(Following(9), known, lambda: streamed(at))
    async with flights:
        await flights.pushing.drained()
    assert (await store.agreed_since(0, Position("history", 7), most=9)).keys() == {b"read", b"fields read"}
    assert (await store.agreed_since(0, Position("history", 6), most=9)).keys() == at.keys() - {b"told"} | {
        b"read",
        b"fields read",
    }
    assert len(await store.agreed_since(0, Position("history", 4), most=9)) == 4
    assert len(await store.agreed_since(0, Position("another", 7), most=9)) == 4


@pytest.mark.parametrize(
    ("site_at", "read_to", "lost", "last"),
    [
        (7, 9, False, 5),  # the stream has shown what was read, and told of the key before that
        (7, 6, False, 7),  # it may have been written where the site was then
        (7, 9, True, None),  # the stream is another one by now
        (0, 9, False, None),  # the site does not say where it is
    ],
)
async def test_a_push_of_a_key_in_doubt_lies_before_where_the_site_was_when_it_was_read(
    store, site_at, read_to, lost, last
):
    outbound, hub, site = outbound_of(), FakeHub(), StatesOf({b"k": A})
    site.stands_at = site_at
    outbound.doubt(b"k")
    flights = Flights(outbound, store, hub, site=site)
    known = Continuity(site=SideState(followed=True, judged=True))
    flights.pushing._reach = StreamReach(Following(read_to), known, lambda: streamed({b"k": 5}))
    if lost:
        hub.before = outbound.take_streamed_keys
    async with flights:
        await flights.pushing.drained()
    lying = [at for at in range(12) if not await store.agreed_since(0, Position("history", at), most=9)]
    assert lying[:1] == ([] if last is None else [last])


async def test_nothing_leaves_before_the_clocks_are_known(store):
    outbound, hub = outbound_of(StringSet(b"k", b"v")), FakeHub()
    flights, seen = Flights(outbound, store, hub), []

    async def see():
        seen.append(hub.calls)
        if len(seen) == 1:
            raise PeerUnavailableError("away")

    flights.pushing._see_clocks = see
    async with flights:
        await flights.pushing.drained()
    assert (seen, hub.calls) == ([0, 0], 1)


async def test_what_the_site_evicted_is_not_removed_at_the_hub(store):
    outbound, hub = outbound_of(Deleted(b"evicted"), StringSet(b"k", b"v")), FakeHub()
    flights = Flights(outbound, store, hub)
    flights.evicted = True
    async with flights:
        await flights.pushing.drained()
        flights.evicted = False
        outbound.pending.add(Deleted(b"k"))
        flights.pushing.wake()
        await flights.pushing.drained()
    assert hub.pushed == [[[b"SET", b"k", b"v"]], [[b"DEL", b"k"]]]


@pytest.mark.parametrize(
    ("state", "asked"), [(None, 1), (A, 0), (HashState({b"f": b"v", b"g": b"v"}), 0), (HashState({b"g": b"v"}), 1)]
)
async def test_before_what_is_in_doubt_is_removed_the_site_is_asked_whether_it_evicts(store, state, asked):
    outbound = outbound_of()
    facts = Facts()
    note_state(facts, b"k", HashState({b"f": b"v"}))
    store.agreed(facts)
    outbound.doubt(b"k")
    flights = Flights(outbound, store, FakeHub(), site=StatesOf({b"k": state}))
    async with flights:
        await flights.pushing.drained()
    assert flights.asked == asked


async def test_a_removal_that_may_be_an_expiry_is_left_to_the_clock_of_the_hub(store):
    """And where it was to expire later, it takes only what was agreed on."""
    later = StringSet(b"k", b"v", int((time.time() + 3600) * 1000))
    outbound, hub = outbound_of(later, StringSet(b"expired", b"v", 1_000), StringSet(b"lasts", b"v")), FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf({b"k": None, b"expired": None})) as flights:
        await flights.pushing.drained()
        outbound.pending.add(Deleted(b"expired"))
        outbound.pending.add(Deleted(b"k"))
        outbound.pending.add(Deleted(b"lasts"))
        flights.pushing.wake()
        await flights.pushing.drained()
    digest = b"%015x" % string_digest(b"k", b"v")
    assert hub.pushed[1:] == [[[b"DEL", b"lasts"]], [[b"DELIF", b"k", digest]]]


async def test_the_removal_of_a_field_that_was_to_expire_takes_only_what_was_agreed_on(store):
    """The stream tells a removal and an expiry alike; what is there by now at the hub may be newer."""
    value = TimedValue(b"v", int((time.time() + 3600) * 1000))
    outbound, hub = outbound_of(HashSet(b"h", {b"f": value, b"g": b"v"})), FakeHub()
    async with Flights(
        outbound, store, hub, site=StatesOf({b"h": HashState({})}), times=FieldTimes(wanted=True)
    ) as flights:
        await flights.pushing.drained()
        outbound.pending.add(FieldsDeleted(b"h", (b"f", b"g")))
        flights.pushing.wake()
        await flights.pushing.drained()
    assert hub.pushed[1:] == [[[b"HDEL", b"h", b"g"]], [[b"HDELIF", b"h", b"f", b"%024x" % element_of(b"f", value)]]]


async def test_where_a_server_has_no_expiries_of_fields_values_are_pushed_without(store):
    times = FieldTimes(wanted=True)
    times.on = False
    value = TimedValue(b"v", 4_000_000_000_000)
    outbound, hub = outbound_of(HashSet(b"h", {b"f": value})), FakeHub()
    outbound.doubt(b"i", HashSet(b"i", {b"f": value}))
    async with Flights(outbound, store, hub, times=times) as flights:
        await flights.pushing.drained()
        outbound.pending.add(FieldsDeleted(b"h", (b"f",)))
        flights.pushing.wake()
        await flights.pushing.drained()
    assert sorted(hub.pushed) == sorted(
        [
            [[b"HSET", b"h", b"f", b"v"]],
            [[b"HSETNX", b"i", b"f", b"v"]],
            [[b"HDEL", b"h", b"f"]],
        ]
    )


async def test_values_that_only_the_site_knows_are_read_before_they_are_pushed(store):
    states = {b"t": B, b"h": HashState({b"f": b"1"}), b"denied": DENIED, b"no": DENIED}
    changes = [
        Invalidated(b"t"),
        HashSet(b"h", {b"f": None, b"g": None}),
        Invalidated(b"denied"),
        HashSet(b"no", {b"f": None}),
    ]
    outbound, hub = outbound_of(*changes), FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf(states)) as flights:
        await flights.pushing.drained()
    assert hub.pushed == [[[b"SET", b"t", b"b"], [b"HSET", b"h", b"f", b"1"], [b"HDEL", b"h", b"g"]]]
    assert outbound.counters.failed == 2


@pytest.mark.parametrize("in_doubt", [False, True])
async def test_what_was_read_while_the_site_was_lost_is_read_again(store, in_doubt):
    """A server that came back empty has removed nothing."""
    facts = Facts()
    note_state(facts, b"k", A)
    store.agreed(facts)
    outbound, hub, states = outbound_of(), FakeHub(), {}
    if in_doubt:
        outbound.doubt(b"k")
    else:
        outbound.pending.add(Invalidated(b"k", replaces=True))

    class Restarted(StatesOf):
        async def first_states(self, keys, max_bytes):
            read = await super().first_states(keys, max_bytes)
            if len(self.asked) == 1:
                outbound.start_over()
                states[b"k"] = B
            return read

    async with Flights(outbound, store, hub, site=Restarted(states)) as flights:
        await flights.pushing.drained()
    ((command,),) = hub.pushed
    assert command[:2] == [b"SETIF", b"k"]


@pytest.mark.parametrize("in_doubt", [False, True])
async def test_a_batch_that_is_shortened_and_then_fails_is_put_back_as_a_whole(store, in_doubt):
    """Some of its keys wait for the next batch, and the link is lost while the others are looked at."""
    states = dict.fromkeys((b"a", b"b"), A)
    outbound, hub = outbound_of(), FakeHub()
    for key in states:
        outbound.doubt(key) if in_doubt else outbound.pending.add(Invalidated(key, replaces=True))

    class Reads(StatesOf):
        async def first_states(self, keys, max_bytes):
            return (await super().first_states(keys, max_bytes))[:1]

        async def offset(self):
            return await self.fails()

        async def fails(self):
            if len(self.asked) == 1:
                outbound.start_over()
            return self.stands_at

    site = Reads(states)
    async with Flights(outbound, store, hub, site=site) as flights:
        if not in_doubt:
            first_states = site.first_states

            async def read(keys, max_bytes):
                found = await first_states(keys, max_bytes)
                await site.fails()
                return found

            site.first_states = read
        await flights.pushing.drained()
    assert {command[1] for batch in hub.pushed for command in batch} == set(states)


async def test_flights_do_not_spin_while_all_that_waits_is_on_its_way_in_doubt(store):
    outbound, hub = outbound_of(), FakeHub()
    outbound.doubt(b"k", StringSet(b"k", b"v"))
    go, looks = asyncio.Event(), []
    push = hub.push

    async def slow(commands, **about):
        looks.append(commands)
        await go.wait()
        return await push(commands, **about)

    hub.push = slow
    async with Flights(outbound, store, hub, 2) as flights:
        await eventually_async(lambda: looks)
        outbound.read([[b"DEL", b"k"]], 100)
        flights.pushing.wake()
        for _ in range(20):
            await asyncio.sleep(0)
        go.set()
        await flights.pushing.drained()
    assert hub.pushed == [[[b"SET", b"k", b"v", b"NX"]], [[b"DEL", b"k"]]]


async def test_each_of_the_batches_side_by_side_has_a_slot_of_its_own(store):
    outbound, hub = outbound_with(0), FakeHub()
    for number in range(40):
        outbound.pending.add(StringSet(b"k%d" % number, b"v"))
    at_once = []
    hub.before = lambda: at_once.append(hub.out)
    async with Flights(outbound, store, hub, 4, batch=5) as flights:
        await flights.pushing.drained()
    assert max(at_once) > 1
    assert {slot for slot, _ in hub.numbers} == set(range(max(at_once)))
    assert len({number for _, number in hub.numbers}) == len(hub.numbers) == 8


class LargeValues:
    """A site whose values are known to be large only once they are read."""

    def __init__(self, size):
        self.value = bytes(size)
        self.most = 0

    async def first_states(self, keys, max_bytes):
        few = keys[: max_bytes // len(self.value) + 1]
        self.most = max(self.most, len(few))
        return [StringState(self.value)] * len(few)

    async def fields(self, _key, fields, _kind):
        return [self.value] * len(fields)


@pytest.mark.parametrize("every_write", [False, True])
async def test_values_that_are_read_for_a_request_are_no_more_than_fit(store, every_write):
    outbound, hub = outbound_with(0), FakeHub()
    if every_write:
        outbound.pending = EveryWrite(96 << 20, 1000)
    hub.max_body = 100_000
    for number in range(50):
        outbound.pending.add(StringSet(b"a%d" % number, b"small"))
        outbound.pending.add(Invalidated(b"t%d" % number))
        outbound.pending.add(HashSet(b"h%d" % number, {b"f": None}))
        outbound.pending.add(Invalidated(b"a%d" % number, replaces=True))
    site = LargeValues(30_000)
    async with Flights(outbound, store, hub, 2, site=site) as flights:
        await flights.pushing.drained()

    sizes = [sum(len(word) for command in commands for word in command) for commands in hub.pushed]
    assert max(sizes) < 2 * (hub.max_body + 30_000)
    assert site.most == 4
    arrived = {key for commands in hub.pushed for command in commands for key in written_keys(command)}
    assert arrived == {b"%b%d" % (kind, number) for kind in (b"a", b"t", b"h") for number in range(50)}
    for number in range(50):
        values = [
            value
            for commands in hub.pushed
            for command in commands
            for key, value in zip(command[1::2], command[2::2], strict=False)
            if command[0] in (b"SET", b"MSET") and key == b"a%d" % number
        ]
        assert values == ([b"small"] if every_write else []) + [site.value]


# Streams.

ID = {number: entry_name(b"%d-1" % number) for number in range(1, 8)}
V = entry_value([b"f", b"v"])


async def test_of_a_stream_that_was_trimmed_only_what_both_had_is_removed(store):
    """Not what the hub has besides: the site may not have heard of it yet."""
    states = {b"s": HashState({FIRST_ID: ID[3], LAST_ID: b"7-1"}, None, "stream")}
    facts = Facts()
    facts.hash(b"s", dict.fromkeys((ID[2], ID[3], LAST_ID), 1), None)
    store.agreed(facts)
    new = HashSet(b"s", {ID[1]: V, ID[7]: V, FIRST_ID: None}, "stream")  # 1 came, and was trimmed off again
    outbound, hub = outbound_of(new), FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf(states)) as flights:
        await flights.pushing.drained()
    assert hub.pushed == [[[b"STREAMSET", b"s", b"7-1", V], [b"XDEL", b"s", b"1-1", b"2-1"]]]

    outbound, hub = outbound_of(new, kinds=KINDS - {"del"}), FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf(states)) as flights:
        await flights.pushing.drained()
    assert hub.pushed == [[[b"STREAMSET", b"s", b"7-1", V]]]


async def test_where_every_write_counts_a_trim_removes_what_is_pushed_before_it_in_the_same_batch(store):
    """Its entries are not agreed on yet."""
    states = {b"s": HashState({FIRST_ID: ID[3], LAST_ID: b"3-1"}, None, "stream")}
    added = [HashSet(b"s", {ID[number]: V}, "stream") for number in (1, 2, 3)]
    outbound = outbound_of(*added, HashSet(b"s", {FIRST_ID: None}, "stream"), every_write=True)
    hub = FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf(states)) as flights:
        await flights.pushing.drained()
    ((*_, trim),) = hub.pushed
    assert trim == [b"XDEL", b"s", b"1-1", b"2-1"]


async def test_the_last_id_stays_of_an_entry_that_was_added_and_trimmed_off_again(store):
    states = {b"s": HashState({LAST_ID: b"7-1"}, None, "stream")}
    outbound, hub = outbound_of(HashSet(b"s", {ID[7]: V, FIRST_ID: None}, "stream")), FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf(states)) as flights:
        await flights.pushing.drained()
    assert hub.pushed == [[[b"STREAMSET", b"s", b"last-id", b"7-1"], [b"XDEL", b"s", b"7-1"]]]


async def test_of_a_stream_without_entries_all_are_removed(store):
    states = {b"s": HashState({LAST_ID: b"7-1"}, None, "stream")}
    facts = Facts()
    facts.hash(b"s", dict.fromkeys((ID[2], ID[3], LAST_ID), 1), None)
    store.agreed(facts)
    outbound, hub = outbound_of(HashSet(b"s", {FIRST_ID: None}, "stream")), FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf(states)) as flights:
        await flights.pushing.drained()
    assert hub.pushed == [[[b"XDEL", b"s", b"2-1", b"3-1"]]]


@pytest.mark.parametrize("trimmed", [{}, {FIRST_ID: None}], ids=["created with a group", "trimmed, too"])
async def test_the_last_id_of_a_stream_that_is_gone_meanwhile_is_no_entry_to_remove(store, trimmed):
    facts = Facts()
    facts.hash(b"s", dict.fromkeys((ID[2], LAST_ID), 1), None)
    store.agreed(facts)
    outbound, hub = outbound_of(HashSet(b"s", {ID[2]: None, LAST_ID: None} | trimmed, "stream")), FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf({b"s": HashState({}, None, "stream")})) as flights:
        await flights.pushing.drained()
    assert hub.pushed == [[[b"XDEL", b"s", b"2-1"]]]


async def test_a_field_of_a_hash_may_be_called_like_the_last_id_of_a_stream(store):
    outbound, hub = outbound_of(HashSet(b"h", {LAST_ID: None})), FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf({b"h": HashState({}, None)})) as flights:
        await flights.pushing.drained()
    assert hub.pushed == [[[b"HDEL", b"h", LAST_ID]]]


async def test_a_stream_that_may_be_another_one_is_compared_entry_by_entry(store):
    states = {b"s": HashState({ID[2]: V, LAST_ID: b"7-1"}, None, "stream")}
    outbound, hub = outbound_of(Invalidated(b"s", replaces=True)), FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf(states)) as flights:
        await flights.pushing.drained()
    assert hub.pushed == [[[b"STREAMNEW", b"s", b"2-1", V, b"last-id", b"7-1"]]]


@pytest.mark.parametrize("trimmed", [False, True], ids=["by itself", "trimmed, too"])
async def test_of_a_consumer_group_what_is_not_there_any_more_is_removed(store, trimmed):
    """Delivered and acknowledged in one batch: an earlier one may have told of the delivery."""
    place, pending, gone = place_name(b"g"), pending_name(b"g", b"2-1"), place_name(b"h")
    states = {b"s": HashState({LAST_ID: b"7-1", place: b"3-1"}, None, "stream")}
    facts = Facts()
    facts.hash(b"s", dict.fromkeys((ID[2], LAST_ID, place, pending), 1), None)
    store.agreed(facts)
    told = {**dict.fromkeys((place, pending, gone)), **({FIRST_ID: None, ID[2]: V} if trimmed else {})}
    outbound, hub = outbound_of(HashSet(b"s", told, "stream"), kinds=KINDS | {"streams-groups"}), FakeHub()
    async with Flights(outbound, store, hub, site=StatesOf(states)) as flights:
        await flights.pushing.drained()
    ((put, removed, *others),) = hub.pushed
    assert put == [b"STREAMSET", b"s", *([LAST_ID, b"2-1"] if trimmed else []), place, b"3-1"]
    assert (removed[:2], {*removed[2:]}) == ([b"GROUPDEL", b"s"], {pending, gone})
    assert others == ([[b"XDEL", b"s", b"2-1"]] if trimmed else [])
