"""What of the stream goes to the hub, whichever way through `Outbound.read` a command takes."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redisrepl.changes import (
    DENIED,
    KINDS,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    Invalidated,
    SequenceSet,
    StringSet,
    StringState,
    TimedValue,
)
from redisrepl.engine import recent
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.doubts import Doubts
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.outbound import Outbound
from redisrepl.engine.pushes import Batch, OutboundOptions, with_values
from redisrepl.engine.seen import RING
from redisrepl.namespaces import Namespaces
from redisrepl.wire.batches import MOVED, UNCHANGED
from redisrepl.wire.commands import ORIGIN_CHANNEL, ChangeDecoder
from redisrepl.wire.digests import digest_of, string_digest
from redisrepl.wire.entries import entry_name, entry_value
from redisrepl.wire.rdb import Aux, Entry
from redisrepl.wire.states import TOO_LARGE

ORIGIN = b"us 0hub"
SCANT = 700  # bytes of memory, which two of the keys below fill


class Listener:
    """The other direction: what it is told, in order."""

    def __init__(self):
        self.changed = []
        self.dirty = []
        self.suspects = []
        self.unheard = []
        self.known = []

    def changed_at_site(self, keys, fields=None):  # noqa: ARG002 - it is told the keys
        self.changed += keys

    def mark_dirty(self, keys):
        self.dirty += keys

    def suspect(self, keys):
        self.suspects += keys

    def unanswered(self, keys, now):
        self.unheard += [(key, now) for key in keys]

    def pushed(self, keys, time):
        self.known.append((list(keys), time))


class DecodesAll(ChangeDecoder):
    """Knows no plain sets: every command takes the general way."""

    __slots__ = ()
    plain = False


class Side:
    def __init__(self, decoder=ChangeDecoder, kinds=KINDS, *, may_judge=lambda: True, went_back=None, **options):
        self.listener, self.expected, self.remote = Listener(), ExpectedEvents(100), ExpectedEvents(100)
        self.outbound = Outbound(
            decoder(Namespaces([b"a:", b"b:"]).covers, kinds),
            self.expected,
            self.remote,
            self.listener,
            told := OutboundOptions(origin=ORIGIN, **options),
            Doubts(
                told.max_bytes // 4,
                told.max_keys,
                kinds,
                self.listener,
                may_judge=may_judge,
                went_back=went_back or (lambda *_: False),
            ),
        )

    def seen(self):
        outbound = self.outbound
        counters = outbound.counters
        return {
            "order": [change.key for change in outbound.pending.take(1, 1)],
            "waiting": outbound.pending.take(1000, 1 << 20),
            "doubtful": outbound.doubtful.take(1000, 1 << 20),
            "recent": outbound.recent.take(),
            "told": (self.listener.changed, self.listener.dirty),
            "suspect": self.listener.suspects,
            "counters": (counters.read, counters.echoes),
            "unreplicated": outbound.decoder.unreplicated,
            "position": (outbound.pending.acknowledged, len(outbound.pending), outbound.read_again_to),
            "bytes": outbound.pending.bytes,
            "expected": len(self.expected),
            "state": (outbound.decoder.selected, outbound.decoder.in_transaction, outbound.decoder.origin),
        }


KEYS = st.sampled_from([b"a:1", b"a:2", b"b:1", b"c:1", b"a", b""])
VALUES = st.sampled_from([b"", b"1", b"2", b"x" * 300])
SETS = st.tuples(st.just(b"SET"), KEYS, VALUES)
COMMANDS = st.one_of(
    SETS,
    SETS,
    SETS,
    st.tuples(st.sampled_from([b"set", b"Set", b"SETNX"]), KEYS, VALUES),
    st.tuples(st.just(b"SET"), KEYS, VALUES, st.just(b"PXAT"), st.just(b"99")),
    st.tuples(st.just(b"SET"), KEYS),
    st.tuples(st.sampled_from([b"HSET", b"hset"]), KEYS, st.just(b"f"), VALUES),
    st.tuples(st.sampled_from([b"INCR", b"LPUSH", b"DEL", b"unlink", b"PERSIST", b"ODD"]), KEYS),
    st.tuples(st.sampled_from([b"MSET", b"RENAME"]), KEYS, KEYS),
    st.tuples(st.just(b"SELECT"), st.sampled_from([b"0", b"1"])),
    st.tuples(st.sampled_from([b"MULTI", b"EXEC", b"PING", b"FLUSHDB"])),
    st.tuples(st.just(b"PUBLISH"), st.just(ORIGIN_CHANNEL), st.sampled_from([ORIGIN, b"another", b"other 0hub"])),
)


@given(
    st.lists(st.lists(COMMANDS, max_size=8), max_size=5),
    st.sampled_from([KINDS, frozenset({"set", "hset"}), frozenset({"hset"})]),
    st.sampled_from([SCANT, 1 << 20]),
    st.lists(st.builds(StringSet, KEYS, VALUES), max_size=3),
    st.lists(st.builds(StringSet, st.sampled_from([b"a:1", b"a:2"]), VALUES), max_size=3),
    st.sampled_from([0, 15, 20]),
)
@example([[[b"SET", b"a:1", b""], [b"SET", b"a:2", b""], [b"SET", b"a:1", b"x" * 300]]], KINDS, SCANT, [], [], 0)
@settings(max_examples=150, deadline=None)
def test_a_plain_set_is_read_as_any_other_command(pieces, kinds, max_bytes, expected, doubtful, again_to):
    sides = Side(ChangeDecoder, kinds, max_bytes=max_bytes), Side(DecodesAll, kinds, max_bytes=max_bytes)
    for side in sides:
        for change in expected:
            side.expected.expect(change.key, change, 25)
        for change in doubtful:
            side.outbound.doubt(change.key, change)
        if again_to:
            side.outbound.resume_at(5, 0)
            side.outbound.new_from(again_to)
        for number, commands in enumerate(pieces, 1):
            side.outbound.read([list(argv) for argv in commands], number * 10)
    quick, general = (side.seen() for side in sides)
    for seen in (quick, general):
        changed, dirty = seen["told"]
        seen["told"] = set(changed), dirty  # of a run each key once, before or after what the decoder was asked for
    if max_bytes == SCANT:  # of a run only the latest of a key takes room, so that others may have some
        for one, other in zip(quick.pop("waiting"), general.pop("waiting"), strict=True):
            assert one == other or (one.key == other.key and Invalidated in (type(one), type(other)))
        assert max(quick.pop("bytes"), general.pop("bytes")) <= SCANT
    assert quick == general


def test_sets_keep_their_place_among_other_commands():
    side = Side()
    side.outbound.read(
        [
            [b"SET", b"a:1", b"1"],
            [b"HSET", b"a:2", b"f", b"1"],
            [b"SET", b"a:2", b"2"],
            [b"SET", b"c:1", b"1"],
            [b"DEL", b"a:1"],
            [b"SET", b"a:1", b"3"],
        ],
        10,
    )

    assert side.outbound.pending.take(10, 1000) == [StringSet(b"a:1", b"3"), StringSet(b"a:2", b"2")]
    assert side.listener.changed == [b"a:1", b"a:2", b"a:2", b"a:1", b"a:1"]


def test_an_expected_set_is_an_echo_though_others_are_on_their_way():
    side = Side()
    side.expected.expect(b"a:1", StringSet(b"a:1", b"1"), 100)
    side.outbound.read([[b"SET", b"a:2", b"1"], [b"SET", b"a:1", b"1"], [b"SET", b"a:1", b"1"]], 10)

    assert side.outbound.counters.echoes == 1
    assert sorted(side.listener.changed) == [b"a:1", b"a:2"]


def test_of_a_key_that_is_set_again_and_again_the_latest_is_kept_and_told():
    side = Side()

    side.outbound.read([[b"SET", b"a:%d" % (n % 3), b"%d" % n] for n in range(600)], 10)

    assert side.outbound.counters.read == 600
    assert side.listener.changed == [b"a:0", b"a:1", b"a:2"]
    assert side.outbound.pending.take(10, 1000) == [StringSet(b"a:%d" % n, b"%d" % (597 + n)) for n in range(3)]


def test_with_every_write_none_of_a_key_is_left_out():
    listener = Listener()
    covers = Namespaces([b"a:"]).covers
    outbound = Outbound(ChangeDecoder(covers), ExpectedEvents(1), None, listener, OutboundOptions(every_write=True))

    outbound.read([[b"SET", b"a:1", b"%d" % n] for n in range(5)], 10)

    assert outbound.pending.take(10, 1000) == [StringSet(b"a:1", b"%d" % n) for n in range(5)]


@pytest.mark.parametrize(
    ("state", "left"),
    [(None, [Deleted(b"k")]), (StringState(b"v"), []), (HashState({b"f": b"v"}), []), ("list", [])],
)
def test_a_key_that_is_removed_unless_it_is_there(state, left):
    assert with_values(Invalidated(b"k", "del", replaces=True), state, KINDS) == left


# Live, or in doubt.

K = b"a:1"
A, B = StringState(b"a"), StringState(b"b")


def agreed_on(state, number=1):
    return Agreed(digest_of(K, state), number)


def sends_in_doubt(side, state, ancestor, changes=()):
    """What is sent for the one key in doubt, of which the site holds this."""
    batch = side.outbound.take(10, 1 << 20)
    assert batch.in_doubt
    states = {} if changes else {K: state}
    return batch, side.outbound.prepare_doubtful(batch, changes, states, {K: ancestor} if ancestor else {}, 0.0)


SETIF = [b"SETIF", K, b"b", b"", b"%015x" % string_digest(K, b"a")]


def test_what_the_stream_tells_live_is_pushed_as_it_is():
    side = Side()
    side.outbound.read([[b"SET", K, b"b"]], 10)
    batch = side.outbound.take(10, 1 << 20)
    assert not batch.in_doubt
    departure = side.outbound.prepare(batch.changes, 0.0)
    assert (departure.commands, departure.changes) == ([[b"SET", K, b"b"]], [StringSet(K, b"b")])
    assert side.remote.holds(K)


def test_what_is_read_again_after_a_restart_is_in_doubt_up_to_where_it_was_read():
    side = Side()
    side.outbound.resume_at(100, 0)
    side.outbound.read([[b"SET", K, b"old"]], 110)
    side.outbound.new_from(120)
    side.outbound.read([[b"SET", K, b"old"], [b"DEL", b"a:2"]], 120)
    side.outbound.read([[b"SET", b"a:3", b"new"]], 130)

    assert side.outbound.doubtful.take(10, 1000) == [Invalidated(K, replaces=True), Invalidated(b"a:2", replaces=True)]
    assert side.outbound.pending.take(10, 1000) == [StringSet(b"a:3", b"new")]
    assert side.outbound.read_again_to == 0


def test_the_end_of_a_hash_that_lost_fields_just_before_may_be_no_removal():
    """Valkey tells so that its last fields have expired; of each it has told before."""
    side = Side()
    side.outbound.decoder.times_fields = True
    side.outbound.read([[b"HSET", b"a:1", b"g", b"1"]], 10)
    side.outbound.read([[b"HDEL", b"a:1", b"f"], [b"UNLINK", b"a:1"], [b"UNLINK", b"a:2"]], 20)
    side.outbound.read([[b"HSET", b"a:1", b"h", b"2"]], 30)
    assert [change.key for change in side.outbound.doubtful.take(9, 999)] == [b"a:1"]
    assert side.outbound.pending.take(9, 999) == [Deleted(b"a:2"), HashSet(b"a:1", {b"h": b"2"})]


def test_where_no_field_expires_the_end_of_a_hash_is_a_removal():
    side = Side()
    side.outbound.decoder.times_fields = False
    side.outbound.read([[b"HSET", b"a:1", b"g", b"1"], [b"HDEL", b"a:1", b"f"], [b"UNLINK", b"a:1"]], 10)
    assert side.outbound.pending.take(9, 999) == [Deleted(b"a:1")]


def test_what_a_command_of_a_module_names_is_in_doubt_unless_the_key_is_on_its_way_already():
    """What it names may be data; but a push that overtook one that waits would be overwritten by it."""
    side = Side(kinds=KINDS | {"opaque"})
    side.outbound.read([[b"BF.ADD", K, b"a:item"], [b"DEL", b"a:2"], [b"BF.ADD", b"a:2", b"item"]], 110)

    assert side.outbound.doubtful.take(10, 1000) == [
        Invalidated(K, replaces=True),
        Invalidated(b"a:item", replaces=True),
    ]
    assert side.outbound.pending.take(10, 1000) == [Invalidated(b"a:2", replaces=True)]


def test_types_that_are_not_replicated_are_counted_when_they_are_read():
    side = Side()
    side.outbound.held_at_site(["MBbloom--", StringState(b"v"), None, DENIED, TOO_LARGE, "MBbloom--"])
    assert side.outbound.decoder.unreplicated == {"type:MBbloom--": 2}


def test_a_stream_that_is_new_from_where_it_goes_on_is_not_in_doubt():
    side = Side()
    side.outbound.resume_at(100, 0)
    side.outbound.new_from(100)
    side.outbound.read([], 100)
    side.outbound.read([[b"SET", K, b"new"]], 110)
    assert side.outbound.pending.take(10, 1000) == [StringSet(K, b"new")]


def test_what_was_too_large_in_a_snapshot_is_read_which_names_it():
    side = Side(kinds=frozenset({"set", "hset"}))
    side.outbound.read_snapshot([Entry(0, K, "string", None), Entry(0, b"a:2", "hash", None)], now=6.0)

    assert sorted(side.outbound.take(10, 1000).changes, key=lambda change: change.key) == [
        Invalidated(K, "set", replaces=True),
        Invalidated(b"a:2", "hset", replaces=True),
    ]


def test_a_field_of_a_snapshot_that_has_expired_is_no_data():
    """Whether the site has reclaimed it or not; the others keep their expiries."""
    side = Side()
    fields = [(b"gone", b"v", 5_999), (b"stays", b"v", 6_001), (b"for good", b"v", None)]
    entries = [Entry(0, K, "hash", fields), Entry(0, b"a:2", "hash", fields[:1])]
    side.outbound.read_snapshot(entries, now=6.0)

    changes = side.outbound.take(10, 1000).changes
    assert changes == [HashSet(K, {b"stays": TimedValue(b"v", 6_001), b"for good": b"v"})]
    assert not side.outbound.decoder.unreplicated


def test_that_expiries_of_fields_are_not_replicated_is_told():
    """If it was not asked for, or if one of the servers has none."""
    side = Side()
    side.outbound.decoder.times_fields = False
    fields = [(b"gone", b"v", 5_999), (b"stays", b"v", 6_001), (b"for good", b"v", None)]
    entries = [Entry(0, K, "hash", fields), Entry(0, b"a:2", "hash", fields[:1])]
    side.outbound.read_snapshot(entries, now=6.0)

    assert side.outbound.take(10, 1000).changes == [HashSet(K, {b"stays": b"v", b"for good": b"v"})]
    assert side.outbound.decoder.unreplicated == {"snapshot:expiry of a field": 2}


def test_other_types_of_a_snapshot():
    side = Side()
    entries = [
        Entry(0, K, "set", [b"a", b""], 9_000_000_000_000),
        Entry(0, b"a:2", "zset", [(b"m", 0.1), (b"n", float("-inf")), (b"o", -0.0)]),
        Entry(0, b"a:3", "list", [b"a"]),
        Entry(0, b"a:4", "list", [b"a"], first=True, last=False),
        Entry(0, b"a:4", "list", [b"b"], first=False, last=True),
    ]
    side.outbound.read_snapshot(entries, now=6.0)

    assert side.outbound.take(10, 1000).changes == [
        Invalidated(K),  # its members, and its expiry
        HashSet(b"a:2", {b"m": b"0.10000000000000001", b"n": b"-inf", b"o": b"0"}, "zset"),
        SequenceSet(b"a:3", (b"a",)),
        Invalidated(b"a:4", "lists", replaces=True),
    ]


def test_a_snapshot_that_names_no_database_changes_none():
    side = Side()
    side.outbound.read_snapshot([Aux(b"repl-stream-db", b"3"), Aux(b"repl-stream-db", b"x" * 5000)], now=6.0)

    assert side.outbound.decoder.selected == 3


def test_what_a_stream_is_to_lose_is_not_forgotten_when_a_group_of_it_is_gone():
    """The echo of `XGROUP DESTROY` does not say which elements it is about."""
    gone = HashSet(K, {b"xgroup-at:g": None}, "stream")
    doubts = Doubts(1 << 20, 100, KINDS)
    doubts.add(K, gone)
    doubts.forget(Invalidated(K, "streams", replaces=True))
    assert K in doubts.queue
    doubts.forget(Invalidated(K, "lists", replaces=True))
    assert K not in doubts.queue


def test_keys_of_a_snapshot_are_in_doubt():
    side = Side(kinds=frozenset({"set"}))
    side.outbound.read_snapshot(
        [
            Aux(b"repl-stream-db", b"3"),
            Entry(0, K, "string", b"v"),
            Entry(1, b"a:2", "string", b"v"),
            Entry(0, b"a:3", "string", b"v", 5000),
            Entry(0, b"a:4", "list", [b"x"]),
        ],
        now=6.0,
    )
    side.outbound.snapshot_complete(100)

    assert side.outbound.decoder.selected == 3
    assert side.outbound.decoder.unreplicated == {"snapshot:list": 1}
    assert side.outbound.acknowledged == 0
    assert side.outbound.doubtful.take(10, 1000) == [StringSet(K, b"v")]
    side.outbound.doubtful.done([K])
    assert side.outbound.acknowledged == 100


def test_keys_in_doubt_are_sent_after_what_is_live_and_once_they_can_be_judged():
    known = False
    side = Side(may_judge=lambda: known)
    side.outbound.doubt(K)
    side.outbound.read([[b"SET", b"a:2", b"v"]], 10)
    assert side.outbound.ready == 1
    live = side.outbound.take(10, 1000)
    assert (live.changes, live.in_doubt) == ([StringSet(b"a:2", b"v")], False)
    assert (side.outbound.ready, side.outbound.take(10, 1000).changes) == (0, ())
    known = True
    assert side.outbound.ready == 1
    assert side.outbound.take(10, 1000).changes == [Invalidated(K, replaces=True)]


def test_a_live_change_of_a_key_waits_until_its_push_in_doubt_is_back():
    """Beside it, it might come to the hub first, and be undone."""
    outbound = Side().outbound
    outbound.doubt(K)
    doubtful = outbound.take(10, 1 << 20)
    outbound.read([[b"DEL", K], [b"SET", b"a:2", b"v"]], 100)
    assert outbound.busy(K)

    others = outbound.take(10, 1 << 20)
    assert others.changes == [StringSet(b"a:2", b"v")]
    assert list(outbound.take(10, 1 << 20).changes) == []
    outbound.succeeded(others, {})
    outbound.succeeded(doubtful, {})
    assert outbound.take(10, 1 << 20).changes == [Deleted(K)]


def test_with_every_write_a_key_in_doubt_waits_until_what_the_stream_told_of_it_has_arrived():
    """Its latest value is read, which must not come before those that led to it."""
    outbound = Side(every_write=True).outbound
    outbound.read([[b"SET", K, b"%d" % number] for number in range(4)], 100)
    outbound.doubt(K)
    outbound.doubt(b"a:2")

    taken = [outbound.take(2, 1 << 20) for _ in range(2)]
    for batch in taken:
        outbound.succeeded(batch, {})
    rest = outbound.take(2, 1 << 20)
    outbound.succeeded(rest, {})

    assert [batch.in_doubt for batch in (*taken, rest)] == [False, True, False]
    assert [*taken[0].changes, *rest.changes] == [StringSet(K, b"%d" % number) for number in range(4)]
    assert taken[1].changes == [Invalidated(b"a:2", replaces=True)]
    assert outbound.take(2, 1 << 20).changes == [Invalidated(K, replaces=True)]


def test_a_live_change_of_the_whole_key_ends_its_doubt():
    side = Side()
    side.outbound.doubt(K, StringSet(K, b"b"), (None,))
    side.outbound.read([[b"SET", K, b"live"]], 10)
    assert len(side.outbound.doubtful) == 0
    assert side.outbound.take(10, 1000).changes == [StringSet(K, b"live")]


@pytest.mark.parametrize(
    ("state", "ancestor", "commands", "noted"),
    [
        (B, agreed_on(A), [SETIF], [StringSet(K, b"b")]),
        (B, None, [[b"SET", K, b"b", b"NX"]], [StringSet(K, b"b")]),
        (None, agreed_on(A), [[b"DELIF", K, SETIF[-1]]], [Deleted(K)]),
        (A, agreed_on(A), [], []),
        (None, None, [], []),
        ("list", agreed_on(A), [], []),
    ],
)
def test_a_key_in_doubt_is_pushed_if_the_hub_still_holds_what_was_agreed(state, ancestor, commands, noted):
    side = Side()
    side.outbound.doubt(K)
    _, departure = sends_in_doubt(side, state, ancestor)
    assert (departure.commands, departure.changes) == (commands, noted)
    assert side.remote.holds(K) == bool(commands)


def test_a_value_that_is_known_is_not_read_to_be_pushed():
    side = Side()
    side.outbound.doubt(K, StringSet(K, b"b"))
    _, departure = sends_in_doubt(side, None, agreed_on(A), [StringSet(K, b"b")])
    assert departure.commands == [SETIF]


def test_where_the_site_wins_and_nothing_is_pulled_a_key_in_doubt_replaces_what_the_hub_holds():
    side = Side(yields=False)
    side.outbound.doubt(K)
    assert sends_in_doubt(side, B, agreed_on(A))[1].commands == [[b"SET", K, b"b"]]
    side.outbound.doubtful.done([K])
    side.outbound.doubt(K)
    assert sends_in_doubt(side, A, agreed_on(A))[1].commands == []


def test_what_the_hub_was_seen_to_hold_is_expected_there_until_the_push_has_arrived():
    side = Side()
    expected = (digest_of(K, B),)
    side.outbound.doubt(K, Invalidated(K, replaces=True), expected)
    command = [b"SETIF", K, b"a", b"", b"%015x" % expected[0]]
    for _ in range(2):
        batch, departure = sends_in_doubt(side, A, agreed_on(A))
        assert departure.commands == [command]
        side.outbound.failed(batch, unknown=False)
    batch, _ = sends_in_doubt(side, A, agreed_on(A))
    side.outbound.succeeded(batch, {})
    side.outbound.doubt(K)
    assert sends_in_doubt(side, A, agreed_on(A))[1].commands == []


@pytest.mark.parametrize("changes", [[], [StringSet(K, b"b")]])
def test_what_may_be_older_than_what_was_agreed_on_is_not_pushed_but_compared(changes):
    asked = []
    side = Side(went_back=lambda *about: asked.append(about) or True)
    side.outbound.doubt(K, *changes)
    batch, departure = sends_in_doubt(side, B, agreed_on(A), changes)
    assert departure.commands == []
    assert side.listener.suspects == [K]
    assert asked == [(K, B, agreed_on(A))]
    side.outbound.succeeded(batch, {})
    side.outbound.doubt(K, Invalidated(K, replaces=True), (digest_of(K, B),))  # it was compared
    assert sends_in_doubt(side, A, agreed_on(A))[1].commands


def test_where_removals_are_not_replicated_what_the_site_lacks_is_compared():
    side = Side(kinds=frozenset({"set", "hset"}))
    side.outbound.doubt(K)
    assert sends_in_doubt(side, None, agreed_on(A))[1].commands == []
    assert side.listener.suspects == [K]


# What became of it.


@pytest.mark.parametrize(
    ("error", "doubt", "suspect", "failed"),
    [
        (UNCHANGED, False, False, 0),
        (UNCHANGED, True, False, 0),
        (MOVED, True, True, 0),
        ("WRONGTYPE Operation against", True, True, 0),
        ("WRONGTYPE Operation against", False, True, 1),  # the hub's may be new, or the site's: the ancestor tells
        ("NOPERM no", True, False, 1),
        ("NOPERM no", False, False, 1),
    ],
)
def test_what_the_hub_did_not_do(error, doubt, suspect, failed):
    side = Side()
    if doubt:
        side.outbound.doubt(K, StringSet(K, b"v"))
    else:
        side.outbound.pending.add(StringSet(K, b"v"))
    side.outbound.pending.add(StringSet(b"a:2", b"v"))
    while (batch := side.outbound.take(1, 1 << 20)).changes:
        side.outbound.prepare(batch.changes, 0.0)
        side.outbound.succeeded(batch, {K: error} if batch.changes[0].key == K else {}, 7.0)
    counters = side.outbound.counters
    assert (counters.answered, counters.pushed, counters.failed) == (2, 1, failed)
    assert side.listener.suspects == ([K] if suspect else [])
    assert side.listener.dirty == ([K] if error == UNCHANGED else [])  # what is refused stays as it is at the site
    assert (side.remote.holds(K), side.remote.holds(b"a:2")) == (False, True)
    assert sorted(side.listener.known) == [([K], 7.0), ([b"a:2"], 7.0)]
    assert side.outbound.waiting == 0


@pytest.mark.parametrize(
    ("answer", "passed"), [({}, True), ({K: UNCHANGED}, True), ({K: MOVED}, False), ({K: "NOPERM"}, False)]
)
def test_a_refused_key_that_is_taken_has_others_tried_though_a_part_of_it_changed_nothing(answer, passed):
    """Of a stream, the last id may be there with the entries that are put."""
    side = Side()
    for key in (K, b"a:2"):
        side.outbound.given_up(key, "NOPERM")
    side.outbound.doubt(K, StringSet(K, b"v"))
    batch = side.outbound.take(1, 1 << 20)
    side.outbound.prepare(batch.changes, 0.0)
    side.outbound.succeeded(batch, answer, 7.0)
    assert (K in side.outbound.refusals) != passed
    assert list(side.outbound.refusals.due(1.0)) == ([b"a:2"] if passed else [])


@pytest.mark.parametrize("doubt", [True, False])
def test_a_batch_that_did_not_arrive_goes_again(doubt):
    side = Side()
    (side.outbound.doubt(K, StringSet(K, b"v")) if doubt else side.outbound.pending.add(StringSet(K, b"v")))
    batch = side.outbound.take(10, 1000)
    side.outbound.prepare(batch.changes, 0.0)
    side.outbound.failed(batch, unknown=False)
    assert len(side.remote) == 0
    assert side.listener.dirty == []
    assert side.outbound.take(10, 1000) == batch


@pytest.mark.parametrize("came", [[], [b"set"], [b"expire"], [b"set", b"expire"]])
def test_an_event_that_a_push_did_not_cause_was_that_of_somebody_else(came):
    """It came between our deciding to send and our finding out that nothing could be sent."""
    side = Side()
    side.outbound.pending.add(StringSet(K, b"v", 2_000_000_000_000))
    side.outbound.pending.add(StringSet(b"a:2", b"v"))
    batch = side.outbound.take(10, 1000)
    departure = side.outbound.prepare(batch.changes, 0.0)
    assert all(side.remote.consume(K, event) for event in came)
    side.outbound.failed(batch, unknown=False, commands=departure.commands)

    assert side.listener.dirty == ([K] if came else [])
    assert len(side.remote) == 0
    assert side.outbound.take(10, 1000) == batch


def test_what_the_hub_refused_of_a_key_is_looked_at_when_it_takes_another_change_of_it():
    """It let us set a field, but had refused that another one is removed."""
    side = Side()
    side.outbound.given_up(K, "NOPERM")
    side.outbound.read([[b"HSET", K, b"f", b"1"]], 10)
    side.outbound.succeeded(side.outbound.take(9, 999), {}, commands=[[b"HSET", K, b"f", b"1"]])
    assert K not in side.outbound.refusals
    assert [change.key for change in side.outbound.doubtful.take(9, 999)] == [K]


@pytest.mark.parametrize("came", [True, False])
def test_so_was_one_of_a_key_that_the_hub_refused(came):
    side = Side()
    side.outbound.pending.add(HashSet(K, {b"f": b"v"}))
    side.outbound.pending.add(StringSet(b"a:2", b"v"))
    batch = side.outbound.take(10, 1000)
    departure = side.outbound.prepare(batch.changes, 0.0)
    if came:
        assert side.remote.consume(K, b"hset")
    side.outbound.succeeded(batch, {K: "OOM command not allowed"}, commands=departure.commands)

    assert side.listener.suspects == ([K] if came else [])
    assert not side.remote.holds(K)
    assert side.remote.holds(b"a:2")


@pytest.mark.parametrize("doubt", [True, False])
def test_after_an_unknown_outcome_the_keys_are_in_doubt_and_what_came_meanwhile_is_live(doubt):
    side = Side()
    for key in (K, b"a:2"):
        (side.outbound.doubt(key, StringSet(key, b"v")) if doubt else side.outbound.pending.add(StringSet(key, b"v")))
    batch = side.outbound.take(10, 1000)
    side.outbound.prepare(batch.changes, 0.0)
    side.outbound.read([[b"SET", K, b"live"]], 10)
    side.outbound.failed(batch, unknown=True)

    assert len(side.remote) == 0
    assert sorted(side.listener.dirty) == [K, b"a:2"]
    one = side.outbound.take(10, 1000)
    assert one.in_doubt is not doubt  # by turns
    side.outbound.succeeded(one, {})
    assert side.outbound.acknowledged == 0
    other = side.outbound.take(10, 1000)
    live, left = (one, other) if doubt else (other, one)
    assert (live.changes, live.in_doubt) == ([StringSet(K, b"live")], False)
    assert Invalidated(b"a:2", replaces=True) in left.changes
    side.outbound.succeeded(other, {})
    assert side.outbound.acknowledged == 10


def test_what_is_in_doubt_has_its_turn_though_the_site_writes_its_key_all_the_time():
    outbound = Side().outbound
    outbound.read([[b"HSET", K, b"f", b"0"]], 10)
    live = outbound.take(10, 1000)
    outbound.doubt(K)
    for number in range(4):
        outbound.read([[b"HSET", K, b"f", b"%d" % number], [b"SET", b"a:2", b"v"]], 20 + number)
        if number == 2:
            outbound.succeeded(live, {})
            live = outbound.take(10, 1000)
            assert live.in_doubt
            assert [change.key for change in live.changes] == [K]
        elif changes := outbound.take(10, 1000).changes:
            assert [change.key for change in changes] == [b"a:2"]


def test_what_does_not_fit_into_a_request_after_all_waits_for_the_next():
    outbound = Side().outbound
    for key in (K, b"a:2"):
        outbound.pending.add(StringSet(key, b"v"))
    batch = outbound.shortened(outbound.take(10, 1000), [K])
    assert batch.changes == [StringSet(b"a:2", b"v")]
    assert outbound.take(10, 1000).changes == [StringSet(K, b"v")]


# Whose write it is.


@pytest.mark.parametrize(
    ("origin", "pushed", "suspect"),
    [
        (ORIGIN, False, False),
        (b"us other-hub", False, False),
        (b"other 0hub", False, True),
        (b"other another-hub", True, False),
        (b"other", True, False),
    ],
)
def test_a_transaction_is_ours_or_of_another_daemon_beside_the_same_hub_or_a_write_like_any_other(
    origin, pushed, suspect
):
    side = Side()
    side.outbound.read(
        [[b"MULTI"], [b"PUBLISH", ORIGIN_CHANNEL, origin], [b"SET", K, b"v"], [b"EXEC"], [b"SET", b"a:2", b"v"]], 10
    )
    changes = [StringSet(b"a:2", b"v")]
    assert side.outbound.pending.take(10, 1000) == ([StringSet(K, b"v"), *changes] if pushed else changes)
    assert side.listener.suspects == ([K] if suspect else [])
    assert side.outbound.foreign_origin == (b"other" if suspect else None)
    assert side.outbound.counters.echoes == (0 if pushed else 1)


@pytest.mark.parametrize("again", [True, False])
def test_what_the_last_process_applied_is_compared_as_nothing_may_have_been_written_down(again):
    side = Side()
    if again:
        side.outbound.resume_at(0, 0)
    side.outbound.read([[b"MULTI"], [b"PUBLISH", ORIGIN_CHANNEL, ORIGIN], [b"SET", K, b"v"], [b"EXEC"]], 10)
    assert side.listener.suspects == [K] * again


# How far everything is at the hub.


def test_the_position_waits_for_what_is_in_doubt_and_for_what_is_left_to_a_sweep():
    outbound = Side().outbound
    outbound.read([], 10)
    assert outbound.acknowledged == 10
    outbound.read([[b"FLUSHALL"]], 10)
    assert outbound.acknowledged == 0
    assert outbound.take_flush()
    assert not outbound.take_flush()
    assert outbound.acknowledged == 0
    outbound.swept()
    assert outbound.acknowledged == 10
    outbound.doubt(K)
    assert outbound.acknowledged == 0
    outbound.doubtful.take(1, 1)
    outbound.doubtful.done([K])
    assert outbound.acknowledged == 10
    outbound.read([[b"FLUSHALL"]], 20)
    assert outbound.acknowledged == 0


def test_what_we_applied_is_not_what_a_client_wrote_there():
    side = Side()
    outbound = side.outbound
    outbound.streamed_from(5)
    outbound.read([[b"SET", K, b"client"]], 10)
    side.expected.expect(K, StringSet(K, b"ours"), math.inf)
    outbound.read([[b"SET", K, b"ours"]], 20)
    assert outbound.counters.echoes == 1
    assert outbound.recent.streamed_keys.written([K]) == (10, {})
    assert outbound.recent.streamed_keys.offsets([K]) == {K: 20}


def test_the_stream_has_told_of_every_key_by_the_end_of_a_flush():
    outbound = Side().outbound
    outbound.streamed_from(5)
    outbound.read([[b"SET", K, b"v"]], 10)
    assert outbound.recent.streamed_keys.offsets([K]) == {K: 10}
    outbound.read([[b"FLUSHALL"]], 20)
    assert outbound.recent.streamed_keys.offsets([K]) == {K: 20}


def test_a_new_history_voids_what_was_expected_of_the_old_one():
    side = Side()
    side.outbound.resume_at(5, 0)
    side.expected.expect(K, StringSet(K, b"v"), math.inf)
    side.outbound.read([[b"MULTI"], [b"PUBLISH", ORIGIN_CHANNEL, ORIGIN]], 10)
    side.outbound.start_over()
    assert side.listener.unheard == [(K, math.inf)]
    assert side.outbound.read_again_to == 0
    side.outbound.read([[b"SET", K, b"v"]], 20)
    assert side.outbound.pending.take(10, 1000) == [StringSet(K, b"v")]


def test_what_was_on_its_way_when_a_new_history_began_is_read_again():
    side = Side()
    side.outbound.read([[b"SET", K, b"v"]], 10)
    batch = side.outbound.take(10, 1000)
    side.outbound.start_over()
    assert not side.outbound.take(10, 1000).changes  # not beside its own push
    side.outbound.succeeded(batch, {}, 1.0)
    assert side.outbound.take(10, 1000) == Batch([Invalidated(K, replaces=True)], side.outbound.doubtful, in_doubt=True)


def test_what_did_not_tell_its_value_when_a_new_history_began_is_in_doubt_alone():
    """It may lead to what another server holds: that is not to be pushed as a client's write."""
    side = Side()
    side.outbound.read([[b"SET", K, b"v"], [b"INCR", b"a:2"]], 10)
    batch = side.outbound.take(10, 1000)
    side.outbound.read([[b"INCR", b"a:3"]], 20)
    assert not side.outbound.is_stale(batch)
    side.outbound.start_over()
    assert side.outbound.is_stale(batch)
    side.outbound.failed(batch, unknown=False)
    assert side.outbound.pending.take(10, 1000) == [StringSet(K, b"v")]
    assert {change.key for change in side.outbound.doubtful.take(10, 1000)} == {K, b"a:2", b"a:3"}


def test_the_last_changes_of_the_site_are_remembered_once():
    side = Side()
    side.expected.expect(K, StringSet(K, b"ours"), math.inf)
    side.outbound.read(
        [
            [b"SET", K, b"ours"],
            [b"SET", b"a:2", b"1"],
            [b"HSET", b"a:3", b"f", b"1"],
            [b"HDEL", b"a:3", b"g"],
            [b"INCR", b"a:4"],
            [b"PEXPIREAT", K, b"5"],
        ],
        10,
    )
    changes = [
        StringSet(K, b"ours"),
        StringSet(b"a:2", b"1"),
        HashSet(b"a:3", {b"f": b"1"}),
        FieldsDeleted(b"a:3", (b"g",)),
        Invalidated(b"a:4", "set"),
        ExpirySet(K, 5),
    ]
    assert side.outbound.recent.take() == ([*changes, 10], True)
    assert side.outbound.recent.take() == ([], True)


def test_with_the_last_changes_is_remembered_how_far_the_stream_was_read_in_between():
    side = Side()
    sets = [[b"SET", b"a:%d" % number, b"v"] for number in range(40)]
    side.outbound.read(sets, 400, [10 * number for number in range(1, 41)])
    side.outbound.read([[b"SET", b"foreign", b"v"]], 500)
    side.outbound.read([[b"DEL", b"a:1"]], 600)
    told = [StringSet(key, value) for _, key, value in sets]
    assert side.outbound.recent.take() == ([*told[:32], 320, *told[32:], 400, Deleted(b"a:1"), 600], True)
    side.outbound.read([[b"FLUSHALL"]], 700)
    assert side.outbound.recent.take() == ([700], False)


@pytest.mark.parametrize("count", [RING, RING + 1, 2 * RING])
@pytest.mark.parametrize("command", [b"SET", b"SETRANGE"])
@pytest.mark.parametrize("run", [1, 7, 10_000])
def test_of_many_changes_only_the_last_are_remembered_and_that_there_were_more(count, command, run):
    side = Side()
    commands = [[command, b"a:%d" % number, b"v"] for number in range(count)]
    if command == b"SETRANGE":
        commands = [[command, key, b"0", value] for command, key, value in commands]
    for start in range(0, count, run):
        side.outbound.read(commands[start : start + run], 10 + start)
    changes, whole = side.outbound.recent.take()
    assert [change.key for change in changes if not isinstance(change, int)] == [
        b"a:%d" % number for number in range(count - RING, count)
    ]
    assert whole == (count == RING)
    assert side.outbound.recent.take() == ([], True)


def test_no_more_is_made_of_what_a_busy_site_writes_than_is_remembered(monkeypatch):
    """Several times a second, of some hundred thousand commands: it was a fifth of what reading them takes."""
    side, made = Side(), []
    monkeypatch.setattr(recent, "StringSet", lambda *words: made.append(1) or StringSet(*words))
    for start in range(0, 20 * RING, 100):
        side.outbound.read([[b"SET", b"a:%d" % (start + n), b"v"] for n in range(100)], 10 + start)

    changes, whole = side.outbound.recent.take()
    assert len(made) == sum(not isinstance(change, int) for change in changes) == RING
    assert not whole


def test_what_an_apply_only_moves_in_a_stream_stays_in_doubt():
    """To insert entry 1, a script removes entry 3 and adds it again; nobody has told the hub of that one."""
    one, three = (HashSet(K, {entry_name(id_): entry_value([b"f", b"v"])}, "stream") for id_ in (b"1-1", b"3-1"))
    side = Side()
    side.outbound.doubt(K, HashSet(K, one.fields | three.fields, "stream"))
    side.expected.expect(K, one, math.inf)
    script = [[b"XDEL", K, b"3-1"], [b"XADD", K, b"1-1", b"f", b"v"], [b"XADD", K, b"3-1", b"f", b"v"]]
    side.outbound.read([[b"MULTI"], [b"PUBLISH", ORIGIN_CHANNEL, ORIGIN], *script, [b"EXEC"]], 10)
    assert side.outbound.counters.echoes == len(script)
    assert side.outbound.doubtful.take(9, 1 << 20) == [three]


@pytest.mark.parametrize("kind", ["hash", "stream"])
def test_a_stream_whose_entries_the_hub_has_inserted_is_compared(kind):
    """Its last id is not that of an entry that was pushed, as would be agreed on otherwise."""
    side = Side()
    side.outbound.pending.add(HashSet(K, {entry_name(b"1-1"): entry_value([b"f", b"v"])}, kind))
    batch = side.outbound.take(9, 1 << 20)
    side.outbound.succeeded(batch, {K: UNCHANGED}, 1, 1)
    assert side.listener.suspects == ([K] if kind == "stream" else [])
