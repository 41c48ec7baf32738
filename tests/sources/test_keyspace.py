"""What a keyspace event of the site stands for, and how our own are told from those of others."""

import math

import pytest

from redisrepl.changes import KINDS, Deleted, ExpirySet, FieldsDeleted, HashSet, Invalidated, StringSet, TimedValue
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.following import Following
from redisrepl.engine.inbound import Inbound
from redisrepl.engine.outbound import Outbound
from redisrepl.errors import LinkLostError, PsyncRefusedError, RefusedError
from redisrepl.local.notify import EventsLost, SiteKeyEvents, Subscribed
from redisrepl.sources.keyspace import KeyspaceSource, Source, change_of, echoes_of
from redisrepl.wire.commands import ChangeDecoder

DEFAULT = frozenset({"set", "hset"})
KEY = b"ns:k"


def covers(key):
    return key.startswith(b"ns:")


class Sides:
    """Both directions, as a daemon that follows events has them."""

    def __init__(self, kinds=KINDS):
        self.expected = ExpectedEvents(100)
        self.following = Following()
        self.inbound = Inbound(
            covers=covers,
            kinds=kinds,
            expected_local=self.expected,
            expected_remote=ExpectedEvents(100),
            busy=lambda key: self.outbound.busy(key),  # noqa: PLW0108 - it is made below
            following=self.following,
        )
        self.outbound = Outbound(
            ChangeDecoder(covers, kinds), self.expected, None, self.inbound, following=self.following
        )
        noticing(self)[0].begin()

    def apply(self, *changes, key=KEY):
        self.inbound.mark_dirty([key])
        assert self.inbound.take(1) == {key: False}
        assert self.inbound.about_to_apply(key, changes)

    def notice(self, event, key=KEY):
        change = change_of(key, event, self.outbound.kinds)
        if change is not None:
            self.outbound.key_event(key, event, change)

    def waiting(self):
        return list(self.outbound.take(100, 1 << 20).changes)


@pytest.mark.parametrize(
    ("event", "kinds", "change"),
    [
        (b"set", DEFAULT, Invalidated(KEY, "set")),
        (b"append", DEFAULT, Invalidated(KEY, "set")),
        (b"incrby", DEFAULT, Invalidated(KEY, "set")),
        (b"incrbyfloat", DEFAULT, Invalidated(KEY, "set")),
        (b"setrange", DEFAULT, Invalidated(KEY, "set")),
        (b"set", frozenset({"hset"}), None),
        (b"hset", DEFAULT, Invalidated(KEY, "hset")),
        (b"hincrby", DEFAULT, Invalidated(KEY, "hset")),
        (b"hset", frozenset({"set"}), None),
        (b"rename_to", DEFAULT, Invalidated(KEY, replaces=True)),
        (b"copy_to", DEFAULT, Invalidated(KEY, replaces=True)),
        (b"restore", DEFAULT, Invalidated(KEY, replaces=True)),
        *((name, DEFAULT, None) for name in (b"del", b"hdel", b"expired", b"evicted", b"rename_from")),
        *((name, KINDS, Deleted(KEY)) for name in (b"del", b"expired", b"rename_from")),
        (b"evicted", KINDS, None),  # nobody removed it
        (b"hdel", KINDS, Invalidated(KEY, "hset", replaces=True)),
        (b"expire", KINDS, Invalidated(KEY, "expire")),
        (b"persist", KINDS, Invalidated(KEY, "expire")),
        (b"expire", DEFAULT, None),
        *((name, KINDS, Invalidated(KEY, "fields-expire")) for name in (b"hexpire", b"hpersist")),
        *((b"xgroup-" + name, KINDS, None) for name in (b"setid", b"destroy", b"createconsumer", b"delconsumer")),
        *(
            (b"xgroup-" + name, KINDS | {"streams-groups"}, Invalidated(KEY, "streams", replaces=True))
            for name in (b"setid", b"destroy", b"createconsumer", b"delconsumer")
        ),
        (b"xgroup-create", KINDS, Invalidated(KEY, "streams")),
        *((name, DEFAULT, None) for name in (b"hexpire", b"hpersist")),
        (b"hexpire", frozenset({"sets", "fields-expire"}), None),
        *((name, KINDS, Invalidated(KEY, "set")) for name in (b"setbit", b"pfadd", b"incrby")),
        (b"lpush", KINDS, Invalidated(KEY, "lists", replaces=True)),
        (b"sortstore", KINDS, Invalidated(KEY, "lists", replaces=True)),
        (b"sadd", KINDS, Invalidated(KEY, "sets")),
        (b"sadd", KINDS - {"sets"}, None),
        (b"spop", KINDS, Invalidated(KEY, "sets", replaces=True)),
        (b"zincr", KINDS, Invalidated(KEY, "zsets")),
        (b"xadd", KINDS, Invalidated(KEY, "streams")),
        (b"xtrim", KINDS, Invalidated(KEY, "streams", replaces=True)),
        (b"zrangestore", KINDS, Invalidated(KEY, "zsets", replaces=True)),
        (b"xadd", KINDS - {"streams"}, None),
        (b"new", KINDS, None),
        (b"", KINDS, None),
        (b"\xff", KINDS, None),
        (b"bf.add", KINDS | {"opaque"}, Invalidated(KEY, "opaque")),
    ],
)
def test_what_an_event_stands_for(event, kinds, change):
    assert change_of(KEY, event, kinds) == change


@pytest.mark.parametrize(
    ("change", "kinds", "events"),
    [
        (StringSet(KEY, b"v"), DEFAULT, [b"set"]),
        (StringSet(KEY, b"v", 5), DEFAULT, [b"set"]),
        (StringSet(KEY, b"v", 5), KINDS, [b"set", b"expire"]),
        (HashSet(KEY, {b"%d" % n: b"v" * 1000 for n in range(3000)}), DEFAULT, [b"hset"]),
        (Deleted(KEY), DEFAULT, []),
        (Deleted(KEY), KINDS, [b"del"]),
        (FieldsDeleted(KEY, (b"a", b"b")), KINDS, [b"hdel"]),
        (FieldsDeleted(KEY, tuple(b"%d" % n for n in range(1001))), KINDS, [b"hdel", b"hdel"]),
        (ExpirySet(KEY, 5), KINDS, [b"expire"]),
        (HashSet(KEY, {b"f": TimedValue(b"v", 5), b"g": b"v"}), KINDS, [b"hset", b"hexpire"]),
        (ExpirySet(KEY, None), KINDS, [b"persist"]),
    ],
)
def test_what_an_apply_will_be_noticed_by(change, kinds, events):
    assert list(echoes_of(change, kinds)) == events


def test_an_echo_is_not_pushed_and_what_comes_after_is():
    sides = Sides()
    sides.apply(Deleted(KEY), HashSet(KEY, {b"f": b"v"}), ExpirySet(KEY, 5))
    for event in (b"hset", b"del", b"expire"):
        sides.notice(event)
    assert sides.waiting() == []
    assert not sides.expected.holds(KEY)
    sides.notice(b"hset")
    assert sides.waiting() == [Invalidated(KEY)]
    assert sides.outbound.counters.echoes == 3


def test_a_client_between_our_apply_and_its_echo_is_a_conflict():
    sides = Sides()
    sides.apply(StringSet(KEY, b"v"))
    sides.notice(b"append")
    assert sides.inbound.counters.conflicts == 1
    assert sides.inbound.dirty == {KEY: False}
    sides.notice(b"set")
    assert sides.waiting() == [Invalidated(KEY)]


def test_of_two_equal_events_one_is_ours():
    """Which of them does not matter: the value is read after both."""
    sides = Sides()
    sides.apply(StringSet(KEY, b"v"))
    sides.notice(b"set")
    sides.notice(b"set")
    assert sides.waiting() == [Invalidated(KEY)]


def test_an_echo_that_does_not_come_is_given_up_and_swallows_nothing():
    """An event that comes after it is compared, since it may be the echo."""
    sides = Sides()
    sides.apply(StringSet(KEY, b"v"))
    sides.inbound.tick(1e12)
    assert sides.expected.holds(KEY)  # whether the site has executed it is not known yet
    sides.inbound.applied([KEY], 0, 85.0)
    sides.inbound.tick(99.0)
    assert sides.inbound.take(1) == {}
    sides.inbound.tick(101.0)
    assert sides.inbound.take(1) == {KEY: True}  # rule 3
    sides.notice(b"set")
    assert (sides.waiting(), sides.inbound.fetched({KEY: None}), [*sides.inbound.dirty]) == ([], {}, [KEY])
    assert sides.inbound.compares
    sides.inbound.tick(116.1)
    sides.notice(b"set")
    assert sides.waiting() == [Invalidated(KEY)]


def test_an_event_that_may_be_of_an_apply_without_an_answer_is_compared():
    """What the apply has set may be older by now than what the hub holds, so it must not be pushed as it is."""
    sides = Sides()
    sides.apply(StringSet(KEY, b"v"))
    sides.inbound.not_applied([KEY])
    sides.inbound.unanswered([KEY], 100.0)
    assert sides.inbound.take(1) == {KEY: True}
    sides.notice(b"set")
    assert (sides.waiting(), sides.inbound.fetched({KEY: None}), [*sides.inbound.dirty]) == ([], {}, [KEY])
    assert sides.inbound.compares
    sides.inbound.tick(115.0)
    sides.notice(b"set")
    assert sides.waiting() == []
    sides.inbound.tick(115.1)
    sides.notice(b"set")
    assert sides.waiting() == [Invalidated(KEY)]


def test_where_the_stream_is_followed_it_tells_whose_a_change_is():
    sides = Sides()
    sides.following.by_events = False
    sides.inbound.unanswered([KEY], 100.0)
    assert not sides.inbound.may_be_echo(KEY)


def test_offsets_are_not_taken_for_times():
    """Where the stream is followed, time alone makes no echo overdue."""
    sides = Sides()
    sides.following.by_events = False
    sides.apply(StringSet(KEY, b"v"))
    sides.inbound.applied([KEY], 100, 0.0)
    sides.inbound.tick(math.inf)
    assert sides.expected.holds(KEY)


def test_what_was_in_doubt_gives_way_to_what_a_client_does():
    sides = Sides()
    sides.outbound.doubt(KEY)
    sides.notice(b"set")
    assert len(sides.outbound.doubtful) == 0
    assert sides.waiting() == [Invalidated(KEY)]


def test_a_removal_and_what_follows_it():
    sides = Sides()
    sides.notice(b"del")
    assert sides.waiting() == [Deleted(KEY)]
    sides.notice(b"del", b"ns:other")
    sides.notice(b"hset", b"ns:other")
    assert sides.waiting() == [Invalidated(b"ns:other", replaces=True)]


class Events:
    """Subscriptions as they are told; the last of them never ends."""

    def __init__(self, *subscriptions):
        self._subscriptions = list(subscriptions)
        self.open = 0

    async def events(self):
        self.open += 1
        try:
            for news in self._subscriptions.pop(0):
                if isinstance(news, Exception):
                    raise news
                yield news
        finally:
            self.open -= 1


class Listener:
    def __init__(self):
        self.told = []

    async def about_to_follow(self):
        self.told.append("about to follow")

    def attached(self, *, resumed, history):
        assert not resumed
        self.told.append("attached")
        self.history = history

    def detached(self):
        self.told.append("detached")

    def wake(self):
        pass


class EnoughError(Exception):
    """The end of a test."""


def noticing(sides, *subscriptions):
    listener = Listener()
    return KeyspaceSource(
        Events(*subscriptions, [EnoughError()]),
        sides.outbound,
        covers=covers,
        retry={"attempts": None, "timeout": None, "wait_initial": 0.001, "wait_max": 0.001, "wait_jitter": 0.0},
        listener=listener,
    ), listener.told


async def test_every_subscription_is_a_new_link_and_voids_what_was_expected():
    sides = Sides()
    sides.apply(StringSet(KEY, b"v"))
    news = [
        Subscribed(),
        SiteKeyEvents([(b"ns:a", b"set"), (b"else", b"set"), (b"ns:b", b"unknown")]),
        LinkLostError("away"),
    ]
    room, told = noticing(sides, news, [Subscribed("a history"), EventsLost("flags"), LinkLostError("away")])
    with pytest.raises(EnoughError):
        await room.run()
    link = ["about to follow", "attached"]
    assert told == [*link, "detached", *link, "attached", "detached", "about to follow", "detached"]
    assert sides.waiting() == [Invalidated(b"ns:a", replaces=True)]  # in doubt
    assert not sides.expected.holds(KEY)
    assert KEY in sides.inbound.dirty
    assert room._listener.history == "a history"


async def test_a_refusal_at_the_start_is_the_end_and_later_is_not():
    room, _ = noticing(Sides(), [RefusedError("no")])
    with pytest.raises(RefusedError):
        await room.run()
    room, _ = noticing(Sides(), [Subscribed(), LinkLostError("away")], [RefusedError("no")])
    with pytest.raises(EnoughError):
        await room.run()


class StreamSource:
    def __init__(self, error):
        self._error = error
        self.begins_anew = False

    async def run(self):
        raise self._error

    def begin_anew(self):
        self.begins_anew = True


async def test_a_subscription_ends_with_whoever_takes_its_events():
    source, _ = noticing(Sides(), [Subscribed("a")])

    def fail():
        raise EnoughError

    source._listener.wake = fail
    with pytest.raises(EnoughError):
        await source.run()
    assert not source._events.open


@pytest.mark.parametrize("choice", ["auto", "psync", "notify"])
@pytest.mark.parametrize("error", [PsyncRefusedError("no"), RefusedError("password")], ids=["psync", "login"])
async def test_which_way_is_taken(choice, error):
    sides = Sides()
    sides.following.by_events = False
    keyspace, _ = noticing(sides)
    stream = StreamSource(error)
    source = Source(choice, stream, keyspace, sides.following)
    assert source.kind == ("notify" if choice == "notify" else "psync")
    falls_back = choice == "notify" or (choice == "auto" and isinstance(error, PsyncRefusedError))
    with pytest.raises(EnoughError if falls_back else type(error)):
        await source.run()
    assert source.kind == ("notify" if falls_back else "psync")
    assert stream.begins_anew == falls_back
