"""What of the stream goes to the hub, whichever way through `Outbound.read` a command takes."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from redisrepl.changes import KINDS, Deleted, HashState, StringSet, StringState, Touch
from redisrepl.echo import ExpectedEvents
from redisrepl.namespaces import Namespaces
from redisrepl.outbound import Outbound, OutboundOptions, settle
from redisrepl.pacing import Pacer
from redisrepl.pushing import Pushing
from redisrepl.remote.push import Pushed
from redisrepl.wire.batches import UNCHANGED
from redisrepl.wire.commands import ORIGIN_CHANNEL, ChangeDecoder

ORIGIN = b"us"
SCANT = 700  # bytes of memory, which two of the keys below fill


class Listener:
    """The other direction: what it is told, in order."""

    def __init__(self):
        self.changed = []
        self.dirty = []
        self.doubted = []

    def changed_at_site(self, keys):
        self.changed += keys

    def mark_dirty(self, keys):
        self.dirty.extend(keys)

    def refused_at_hub(self, key):
        self.doubted.append(key)

    def pushed(self, keys, time):
        """Nothing is told."""


class DecodesAll(ChangeDecoder):
    """Knows no plain sets: every command takes the general way."""

    __slots__ = ()
    plain = False


class Side:
    def __init__(self, decoder=ChangeDecoder, kinds=KINDS, max_bytes=1 << 20):
        self.listener, self.expected = Listener(), ExpectedEvents(100)
        self.outbound = Outbound(
            decoder(Namespaces([b"a:", b"b:"]).covers, kinds),
            self.expected,
            None,
            self.listener,
            OutboundOptions(origin=ORIGIN, max_bytes=max_bytes),
        )

    def seen(self):
        outbound = self.outbound
        counters = outbound.counters
        return {
            "order": [change.key for change in outbound.pending.take(1, 1)],
            "waiting": outbound.pending.take(1000, 1 << 20),
            "seeds": outbound.seeds.take(1000, 1 << 20),
            "told": (self.listener.changed, self.listener.dirty),
            "counters": (counters.read, counters.echoes),
            "unreplicated": outbound.decoder.unreplicated,
            "position": (outbound.pending.acknowledged, len(outbound.pending)),
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
    st.tuples(st.just(b"PUBLISH"), st.just(ORIGIN_CHANNEL), st.sampled_from([ORIGIN, b"another"])),
)


@given(
    st.lists(st.lists(COMMANDS, max_size=8), max_size=5),
    st.sampled_from([KINDS, frozenset({"set", "hset"}), frozenset({"hset"})]),
    st.sampled_from([SCANT, 1 << 20]),
    st.lists(st.builds(StringSet, KEYS, VALUES), max_size=3),
    st.lists(st.builds(StringSet, st.sampled_from([b"a:1", b"a:2"]), VALUES), max_size=3),
)
@example([[[b"SET", b"a:1", b""], [b"SET", b"a:2", b""], [b"SET", b"a:1", b"x" * 300]]], KINDS, SCANT, [], [])
@settings(max_examples=400, deadline=None)
def test_a_plain_set_is_read_as_any_other_command(pieces, kinds, max_bytes, expected, seeds):
    sides = Side(ChangeDecoder, kinds, max_bytes), Side(DecodesAll, kinds, max_bytes)
    for side in sides:
        for change in expected:
            side.expected.expect(change.key, change, 25)
        for change in seeds:
            side.outbound.seed(change)
        for number, commands in enumerate(pieces, 1):
            side.outbound.read([list(argv) for argv in commands], number * 10)
    quick, general = (side.seen() for side in sides)
    for seen in (quick, general):
        changed, dirty = seen["told"]
        seen["told"] = set(changed), dirty  # of a run each key once, before or after what the decoder was asked for
    if max_bytes == SCANT:  # of a run only the latest of a key takes room, so that others may have some
        for one, other in zip(quick.pop("waiting"), general.pop("waiting"), strict=True):
            assert one == other or (one.key == other.key and Touch in (type(one), type(other)))
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
    side = Side(ChangeDecoder, KINDS, 1 << 20)

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


def test_a_removal_waits_until_the_seed_of_its_key_is_back():
    """Beside it, it might come to the hub first, and be undone."""
    outbound = Side().outbound
    outbound.seed(Touch(b"a:1"))
    seeds = outbound.take(10, 1 << 20)
    outbound.read([[b"DEL", b"a:1"], [b"SET", b"a:2", b"v"]], 100)

    others = outbound.take(10, 1 << 20)
    assert others.changes == [StringSet(b"a:2", b"v")]
    assert outbound.take(10, 1 << 20).changes == []
    outbound.succeeded(others, {})
    outbound.succeeded(seeds, {})
    assert outbound.take(10, 1 << 20).changes == [Deleted(b"a:1")]


@pytest.mark.parametrize(
    ("state", "left"),
    [(None, [Deleted(b"k")]), (StringState(b"v"), []), (HashState({b"f": b"v"}), []), ("list", [])],
)
def test_a_key_that_is_removed_unless_it_is_there(state, left):
    assert settle(Touch(b"k", "del", replaces=True), state, KINDS) == left


def test_that_the_hub_lacks_what_it_refused_tells_nothing():
    side = Side()
    side.outbound.read([[b"SET", b"a:1", b"v"], [b"SET", b"a:2", b"v"]], 100)
    side.outbound.succeeded(side.outbound.take(10, 1 << 20), {b"a:1": "ERR", b"a:2": UNCHANGED})
    assert side.listener.doubted == [b"a:1"]
    assert side.listener.dirty == [b"a:1", b"a:2"]


async def test_flights_do_not_spin_while_all_that_waits_is_a_seed_on_its_way():
    outbound = Side().outbound
    outbound.seed(StringSet(b"a:1", b"v"))
    came, go = asyncio.Event(), asyncio.Event()
    pushed = []

    class Hub:
        max_body = 900_000

        async def push(self, commands):
            pushed.append(commands)
            came.set()
            await go.wait()
            return Pushed({}, 0)

    retry = {"attempts": None, "timeout": None}
    pushing = Pushing(outbound, Hub(), None, Pacer(4, worthwhile=1, interval=0.0), max_keys=10, retry=retry)
    tasks = [asyncio.create_task(pushing.run()) for _ in range(2)]
    await came.wait()
    outbound.read([[b"DEL", b"a:1"]], 100)
    pushing.wake()
    await asyncio.sleep(0)
    go.set()
    await pushing.drained()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert pushed == [[[b"SET", b"a:1", b"v", b"NX"]], [[b"DEL", b"a:1"]]]
