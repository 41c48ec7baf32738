"""How far a restarted server has gone back is told by what it holds; where nothing is proved, nothing old spreads."""

from __future__ import annotations

import json
import math
import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redisrepl.changes import Deleted, ExpirySet, FieldsDeleted, HashSet, Invalidated, StringSet, StringState
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.continuity import Event
from redisrepl.engine.core import Core
from redisrepl.engine.evidence import holds_since, proved
from redisrepl.engine.losses import Findings, agreed_since
from redisrepl.engine.places import Seen
from redisrepl.engine.seen import RING, Ring
from redisrepl.wire.digests import digest_of, element_of, string_digest

KEYS = 30


class Case:
    """A server that has executed numbered changes, and restores some prefix of them; clients may write again then.

    Attributes:
        seen: up to which change the daemon has seen them.
        agreed: by key, the change that both sides agreed on.
        restored: by key, the change that the server has restored.
        site, hub: by key, what both hold when they are compared.
        written_after: keys that clients wrote after the restart.
    """

    def __init__(self, rng):
        self.changes = []  # key, value
        values = {}
        for number in range(rng.randint(5, 600)):
            key = rng.randrange(KEYS)
            unique = f"unique {number}"
            value = rng.choice([None, f"common {rng.randrange(4)}", unique, unique])
            if values.get(key) != value:  # what changes nothing is no witness
                self.changes.append((key, value))
                values[key] = value
        last = len(self.changes)
        self.seen = rng.randint(max(0, last - 5), last)
        self.agreed = [self.last_of(key, rng.randint(0, self.seen)) for key in range(KEYS)]
        kept = rng.choice([last, last, self.seen, rng.randint(max(0, last - 10), last), rng.randint(0, last), 0])
        self.restored = [self.last_of(key, kept) for key in range(KEYS)]
        self.hub = [self.value(number) for number in self.agreed]
        self.site = [self.value(number) for number in self.restored]
        after = rng.choice([0, 0.02, 0.15])
        self.written_after = {key for key in range(KEYS) if rng.random() < after}
        for key in self.written_after:
            self.site[key] = f"after {key}"

    def last_of(self, key, end):
        """Number of the last change of this key among the first `end`, from 1; 0: none."""
        return max((n + 1 for n in range(end) if self.changes[n][0] == key), default=0)

    def value(self, number):
        return self.changes[number - 1][1] if number else None

    def right(self, key):
        """A write after the restart; else the newer of what was restored and what was agreed on."""
        if key in self.written_after or self.restored[key] >= self.agreed[key]:
            return self.site[key]
        return self.hub[key]


def named(key):
    return b"k%d" % key


def state_of(value):
    return None if value is None else StringState(value.encode())


def change_of(key, value):
    return Deleted(named(key)) if value is None else StringSet(named(key), value.encode())


def judged(case):
    """A core that has seen the changes, and was told how far the server has gone back."""
    core = Core(lambda _: True)
    for index in range(case.seen):
        core.record.ring.add(
            index + 1, [change_of(*case.changes[index])]
        )  # which may be agreed on as number `index + 1`
    held = {(named(key), None): digest_of(named(key), state_of(case.site[key])) for key in range(KEYS)}
    number = proved(core.record.ring, held).number
    core.judged(
        "site", Event.RESTARTED if number == case.seen else Event.WENT_BACK, "restarted", Findings(proved=number)
    )
    return core


def outcome(core, case, key):
    """What both sides hold once a key was compared."""
    site, hub, agreed = state_of(case.site[key]), state_of(case.hub[key]), case.agreed[key]
    ancestor = None if hub is None else Agreed(digest_of(named(key), hub), agreed)
    plan = core.plan(named(key), site, hub, ancestor, 0.0)
    if plan.push is not None:
        return case.site[key]
    return case.hub[key] if plan.apply else case.site[key]


def faults(case, core):
    """What went wrong with which of the keys."""
    for key in range(KEYS):
        value, right, newest = outcome(core, case, key), case.right(key), case.last_of(key, case.seen)
        if value == right or (newest > case.agreed[key] and value == case.value(newest)):
            continue  # or what a client wrote last, which the server has lost and holds from before
        back = case.restored[key] < case.agreed[key]
        if key in case.written_after:
            yield "written after the restart, of a key that went back" if back else "written after the restart"
        elif back:
            yield "removal undone" if right is None else "older value spread"
        else:
            yield "newer value lost"


@pytest.fixture(scope="module")
def cases():
    return [Case(random.Random(seed)) for seed in range(200)]


def test_no_older_value_spreads_and_few_newer_ones_are_lost(cases):
    wrong = Counter(fault for case in cases for fault in faults(case, judged(case)))

    assert not wrong["older value spread"]
    assert wrong["newer value lost"] < 0.02 * len(cases) * KEYS


def test_without_evidence_one_or_the_other_happens(cases):
    """What the test above would find."""

    def believing(case, number):
        core = judged(case)
        core.continuity.site.proved = number
        core.record.ring = Ring()
        return core

    trusting = Counter(fault for case in cases for fault in faults(case, believing(case, math.inf)))
    distrusting = Counter(fault for case in cases for fault in faults(case, believing(case, -1)))

    assert trusting["older value spread"] > 0.05 * len(cases) * KEYS
    assert distrusting["newer value lost"] > 0.04 * len(cases) * KEYS


def seen(*numbers):
    """Changes of keys of their own, and what a server holds that has those of them below a limit."""
    return [Seen(number, b"k%d" % number, None, number) for number in numbers]


def held(ring, below=math.inf):
    return {change.place: change.digest for change in ring if change.number < below}


@pytest.mark.parametrize(
    ("ring", "now", "number"),
    [
        (seen(*range(10)), held(seen(*range(10))), 99),
        (seen(*range(10)), held(seen(*range(10)), 7), 6),
        (seen(*range(10)), held(seen(*range(10)), 5), 4),
        (seen(*range(10)), held(seen(*range(10)), 4), 0),  # too few witnesses
        (seen(*range(10)), {}, 0),
        (seen(*range(4)), held(seen(*range(4))), 0),
        ([], {}, 0),
        # One key in four may have been written again since; more prove nothing.
        (seen(*range(8)), held(seen(*range(8))) | {(b"k1", None): 99, (b"k2", None): 99}, 99),
        (seen(*range(8)), held(seen(*range(8))) | {(b"k%d" % n, None): 99 for n in (1, 2, 3)}, 0),
        # Of several changes of one place the one that is there counts.
        (
            [*seen(*range(5)), Seen(5, b"k0", None, 50), Seen(6, b"k0", None, 60)],
            held(seen(*range(5))) | {(b"k0", None): 50},
            5,
        ),
        # A removal is no witness, and what it removed is not alive.
        ([*seen(*range(5)), *(Seen(9, b"k%d" % n, None, None) for n in range(5))], {}, 0),
        ([*seen(*range(6)), Seen(9, b"k0", None, None)], held(seen(*range(1, 6))), 5),
    ],
)
def test_how_far_a_server_has_gone_back(ring, now, number):
    assert proved(Ring(ring, 99), now).number == number


@pytest.mark.parametrize(
    ("marked", "number"),
    [
        (0, 0),
        (10, 28),  # ten of the changes after it are there
        (20, 28),  # five are
        (22, 22),  # four are not enough
        (99, 99),
        (120, 120),
    ],
)
def test_a_mark_proves_what_came_before_and_needs_few_witnesses_of_what_came_after(marked, number):
    """Every other key was written again since: that is too many to prove anything without it."""
    ring = seen(*range(30))
    now = held(seen(*range(0, 30, 2))) | {(b"k%d" % n, None): 99 for n in range(1, 30, 2)}
    assert proved(Ring(ring, 99), now, marked).number == number


def test_what_was_written_again_elsewhere_does_not_prove_what_lies_between():
    """Clients write again to a replica that took over; of what it lacks, most is still lacking."""
    kept = [Seen(n, b"hot%d" % (n % 6), None, n) for n in range(30)]
    lost = [Seen(30 + n, b"k%d" % n, None, n) for n in range(30)]
    lost += [Seen(60, b"hot%d" % n, None, 60 + n) for n in range(6)]
    again = {(b"k%d" % n, None): n for n in (7, 28, 29)}
    assert proved(Ring(kept + lost, 99), held(kept) | again).number == 29


def test_what_is_remembered_of_a_change():
    ring = Ring((), 3)
    ring.add(
        4,
        [
            StringSet(b"s", b"v"),
            HashSet(b"h", {b"f": b"1", b"g": None}),
            Deleted(b"d"),
            Invalidated(b"t"),
            Invalidated(b"t"),
            ExpirySet(b"e", 5),
            FieldsDeleted(b"h", (b"f",)),
        ],
    )
    ring.add_read({b"t": 7, b"none": None})
    assert list(ring) == [
        Seen(3, b"s", None, string_digest(b"s", b"v")),
        Seen(3, b"h", b"f", element_of(b"f", b"1")),
        Seen(3, b"d", None, None),
        Seen(3, b"t", None, 7),
        Seen(4, b"none", None, None),
    ]


def test_what_is_read_takes_the_place_of_its_change():
    """What is read of a key need not have come after what the stream told after that key's change."""
    ring = Ring()
    ring.add(
        4,
        [StringSet(b"a", b"1"), Invalidated(b"n"), StringSet(b"b", b"1"), HashSet(b"h", {b"f": None})],
        valueless=True,
    )
    saved = Ring.load(json.loads(json.dumps(ring.saved())))
    ring.add(7, [StringSet(b"c", b"1"), Invalidated(b"m"), StringSet(b"d", b"1")])
    ring.saved()
    ring.add_read({b"h": 3, b"n": 1, b"other": 4})
    ring.add(8, [StringSet(b"e", b"1")])
    ring.add_read({b"m": 2})
    for one in (ring, Ring.load(json.loads(json.dumps(ring.saved())))):
        assert [(seen.key, seen.number) for seen in one] == [
            *((b"a", 0), (b"n", 0), (b"b", 0), (b"h", 0)),
            *((b"c", 0), (b"m", 0), (b"d", 0), (b"other", 7), (b"e", 7)),
        ]
    assert [seen.key for seen in saved] == [b"a", b"b"]


def ring_of(*steps):
    """After steps: a key changes; an offset is read to, or acknowledged with a number; changes are left out (None)."""
    ring = Ring()
    for step in steps:
        match step:
            case bytes(key):
                ring.add(ring.number, [StringSet(key, b"%d" % len(ring))])
            case int(offset):
                ring.reached(offset)
            case (int(offset), int(number)):
                ring.acknowledged(offset, number)
            case None:
                ring.add(ring.number, [], whole=False)
    return ring


@pytest.mark.parametrize(
    ("steps", "number", "settled"),
    [
        ((b"a", 10), 9, None),  # nothing is agreed on yet
        ((b"a", 10, (9, 3)), 9, None),
        ((b"a", 10, (10, 3)), 9, 3),
        ((b"a", 10, (10, 3)), 2, None),
        ((b"a", 10, b"b", 20, (10, 3), b"c", 30, (30, 5)), 9, 5),
        ((b"a", 10, b"b", 20, (10, 3), b"c", 30, (30, 5)), 4, 3),
        ((b"a", 10, b"b", 20, (20, 5)), 4, None),  # it was agreed on together
        ((b"a", 10, (10, 3), None, b"b", 20), 9, None),  # what followed is not all remembered
        ((b"a", 10, None, b"b", 20, (10, 3)), 9, None),
        ((b"a", 10, (10, 3), None, b"b", 20, (20, 4)), 9, 4),
        ((b"a", 10, (10, 3), *[b"b"] * 1024), 9, 3),
        ((b"a", 10, (10, 3), *[b"b"] * 1025), 9, None),
    ],
)
def test_by_which_number_all_was_agreed_on_that_was_seen(steps, number, settled):
    assert ring_of(*steps).agreed_by(number) == settled


def test_the_next_process_knows_by_which_number_all_was_agreed_on():
    ring = ring_of(b"a", 10)
    ring.saved()
    ring.acknowledged(10, 3)
    ring.add(3, [StringSet(b"b", b"1"), Invalidated(b"n"), StringSet(b"c", b"1")], valueless=True)
    ring.reached(20)
    ring.saved()
    ring.add_read({b"n": 1})
    loaded = Ring.load(json.loads(json.dumps(ring.saved())))
    for one in (ring, loaded):
        assert one.agreed_by(9) == 3
        assert list(one)[-(one.count - one._agreed[0][0]) :] == list(one)[1:]


def test_before_which_offset_a_server_has_all_that_has_some_change_after_it():
    ring = ring_of(10, b"a", 20, b"b", b"c", 30, b"d", 40, 50)
    for one in (ring, Ring.load(json.loads(json.dumps(ring.saved())))):
        assert [one.offset_of(changes) for changes in range(5)] == [0, 20, 20, 30, 50 if one is ring else 40]
    ring.add(9, [Invalidated(b"n")], valueless=True)
    ring.add(9, [StringSet(b"e", b"v")])
    ring.saved()
    ring.add_read({b"n": 1})
    ring.add(9, [StringSet(b"%d" % n, b"v") for n in range(1022)])
    assert (len(ring), ring.offset_of(0), ring.offset_of(1)) == (1024, 0, 50)  # the first changes are forgotten
    for one in (ring, Ring.load(json.loads(json.dumps(ring.saved())))):
        assert one.offset_of(len(one)) == (50 if one is ring else 40)


def test_how_far_the_stream_was_read_between_changes_that_come_together():
    ring = Ring()
    ring.add(9, [StringSet(b"a", b"v"), 10, StringSet(b"b", b"v"), StringSet(b"c", b"v"), 20, Invalidated(b"n"), 30])
    assert [ring.offset_of(changes) for changes in range(4)] == [0, 10, 10, 20]
    ring.add(9, [StringSet(b"d", b"v"), 40, StringSet(b"e", b"v"), 50], whole=False)
    ring.add(9, [StringSet(b"f", b"v"), 60])
    assert [ring.offset_of(changes) for changes in range(4, 7)] == [30, 40, 60]


@pytest.mark.parametrize(
    ("others", "whole"),
    [
        ([Invalidated(b"n")], True),
        ([HashSet(b"n", {b"f": None})], True),
        ([FieldsDeleted(b"n", (b"f",))], True),
        ([], False),
    ],
)
def test_what_is_not_among_the_changes_a_server_may_lack_that_has_all_of_them(others, whole):
    ring = ring_of(b"a", 10)
    ring.add(9, others, valueless=bool(others), whole=whole)
    ring.reached(20)
    for one in (ring, Ring.load(json.loads(json.dumps(ring.saved())))):
        assert one.offset_of(1) == 10
    ring.add_read({b"n": 1})
    ring.reached(30)
    assert ring.offset_of(len(ring)) == 10  # what was read may be of a change before 20
    ring.add(9, [StringSet(b"b", b"v")])
    ring.reached(40)
    for one in (ring, Ring.load(json.loads(json.dumps(ring.saved())))):
        assert one.offset_of(len(one)) == 40


def test_what_is_read_of_a_change_before_all_was_agreed_on_does_not_count_as_later():
    ring = ring_of(b"a")
    ring.add(3, [Invalidated(b"n")], valueless=True)
    ring.add(3, [StringSet(b"b", b"1"), StringSet(b"c", b"1")])
    ring.reached(20)
    ring.acknowledged(20, 4)
    ring.add(4, [StringSet(b"d", b"1")])
    ring.saved()
    ring.add_read({b"n": 1})
    for one in (ring, Ring.load(json.loads(json.dumps(ring.saved())))):
        assert one.count - one._agreed[0][0] == 1


@pytest.mark.parametrize("seed", range(300))
def test_no_value_that_a_server_has_restored_counts_as_written_since(seed):
    """Changes are seen in bursts, agreed on late and not each of them; the server then restores any of its moments."""
    rng = random.Random(seed)
    places, ring, number, offset = [b"%d" % n for n in range(rng.randint(1, 6))], Ring(), 0, 0
    moments = [(0, {}, 0)]  # offset, what was held, agreements that are part of it for sure
    waiting, history, held = {}, [], {}  # by key: since when, and what is there; what was agreed on
    for value in range(rng.randint(1, 60)):
        for _ in range(rng.randint(0, 4)):
            key, offset = rng.choice(places), offset + 1
            held = {**held, key: b"%d" % value}
            ring.add(ring.number, [StringSet(key, held[key])])
            waiting[key] = (waiting.get(key, (offset,))[0], held[key])
            moments.append((offset, held, 0))
        for key in [key for key in waiting if rng.random() < 0.4]:
            number += 1
            history.append(Seen(number - 1, key, None, string_digest(key, waiting.pop(key)[1])))
        ring.add(number, [])
        ring.reached(offset)
        ring.acknowledged(min((since for since, _ in waiting.values()), default=offset + 1) - 1, number)
        moments.append((offset, held, number))
    has = rng.randrange(len(moments))
    proved = max(number for _, _, number in moments[: has + 1])
    agreed_by = ring.agreed_by(proved)
    settled = {} if agreed_by is None else agreed_since({(key, None) for key in places}, history, agreed_by)
    for key, value in moments[has][1].items():
        digest = string_digest(key, value)
        assert not ring.written_since(proved, key, None, digest, agreed=settled.get((key, None)))
    for key in settled:
        assert ring.written_since(proved, *key, string_digest(key[0], b"new"), agreed=settled[key])


def test_what_is_read_proves_no_more_than_its_change():
    ring = Ring()
    ring.add(1, [StringSet(b"k%d" % n, b"1") for n in range(20)])
    ring.add(2, [Invalidated(b"n")], valueless=True)
    ring.add(9, [StringSet(b"other", b"1")])
    ring.add_read({b"n": 7})
    held = {(b"k%d" % n, None): string_digest(b"k%d" % n, b"1") for n in range(20)}
    assert proved(ring, {**held, (b"n", None): 7, (b"other", None): 5}).number == 1


def test_only_the_last_changes_are_remembered_and_few_fields_of_one():
    ring = Ring()
    ring.add(1, [StringSet(b"%d" % number, b"v") for number in range(10 * RING)])
    assert RING < len(ring) < 10 * RING
    assert [change.key for change in ring] == [b"%d" % number for number in range(10 * RING)][-len(ring) :]
    saved = list(Ring.load(ring.saved()))
    assert RING <= len(saved) <= len(ring)
    assert saved == list(ring)[-len(saved) :]
    ring.add(2, [HashSet(b"h", {b"%d" % number: b"v" for number in range(1000)})])
    assert [change.field for change in ring if change.key == b"h"] == [b"%d" % number for number in range(984, 1000)]


@pytest.mark.parametrize(
    ("place", "value", "since"),
    [
        ((b"key", None), b"new", True),
        ((b"key", None), b"first", False),  # as it was when the proved part ended
        ((b"key", None), b"second", False),  # it may lack what came after
        ((b"h", b"f"), b"new", True),
        ((b"h", b"f"), b"first", False),
        ((b"unproved", None), b"new", False),  # what it held before is not known
        ((b"unseen", None), b"new", False),
        ((b"key", None), None, False),
    ],
)
def test_what_nobody_had_seen_before_was_written_since(place, value, since):
    ring = Ring()
    ring.add(5, [StringSet(b"key", b"first"), HashSet(b"h", {b"f": b"first"})])
    ring.add(6, [StringSet(b"key", b"second"), StringSet(b"unproved", b"second")])
    ring.add(7, [StringSet(b"key", b"third")])
    key, field = place
    digest = value and (string_digest(key, value) if field is None else element_of(field, value))
    assert ring.written_since(5, key, field, digest) is since
    assert ring.written_since(0, key, field, digest) is False


def test_what_changed_without_a_value_may_have_been_any_value():
    """A counter was 1, 2 and 3, of which only 1 and 3 were seen: a server that holds 2 may have lost the last."""
    ring = Ring()
    ring.add(5, [StringSet(b"n", b"1"), HashSet(b"h", {b"f": b"1"}), HashSet(b"g", {b"f": b"1"})])
    ring.add(6, [Invalidated(b"n"), Invalidated(b"n"), HashSet(b"h", {b"f": None}), Invalidated(b"g")])
    ring.add_read({b"n": string_digest(b"n", b"3")})
    assert not ring.written_since(5, b"n", None, string_digest(b"n", b"2"))
    assert not ring.written_since(5, b"h", b"f", element_of(b"f", b"2"))
    assert not ring.written_since(5, b"g", b"f", element_of(b"f", b"2"))
    kept = [Seen(n, b"k%d" % n, None, n) for n in range(8)]
    kept.append(Seen(8, b"k0", None, 9))
    at = held(kept) | {(b"k0", None): 99}
    assert proved(Ring(kept, 99), at).number == 99
    assert proved(Ring(kept, 99, valueless={(b"k0", None): 8}), at).number == 7
    assert Ring.load(json.loads(json.dumps(ring.saved()))).valueless == ring.valueless


def saved_and_loaded(ring):
    return Ring.load(json.loads(json.dumps(ring.saved())))


def test_where_changes_were_left_out_what_a_place_held_then_is_not_known():
    """A server that went back may hold one that was left out, which is older than what followed."""
    ring = Ring()
    ring.add(5, [StringSet(b"k", b"1")])
    ring.saved()
    assert ring.written_since(5, b"k", None, 99)
    ring.add(6, [StringSet(b"k", b"3"), StringSet(b"l", b"1")], whole=False)
    for one in (ring, saved_and_loaded(ring)):
        assert [seen.key for seen in one] == [b"k", b"k", b"l"]
        assert not one.written_since(5, b"k", None, 99)
        assert one.last(b"k").digest == string_digest(b"k", b"3")
        one.add(9, [StringSet(b"k", b"4")])
        assert one.written_since(8, b"k", None, 99)


def test_more_than_can_be_saved_was_left_out():
    ring = Ring()
    ring.add(5, [StringSet(b"k", b"1")])
    ring.saved()
    for offset in range(RING + 100):
        ring.add(6, [StringSet(b"other", b"1")])
        ring.reached(offset)
    assert ring.written_since(5, b"k", None, 99)
    assert not saved_and_loaded(ring).written_since(5, b"k", None, 99)


def test_fields_of_a_change_that_are_not_remembered_may_have_been_anything():
    ring = Ring()
    ring.add(5, [HashSet(b"h", {b"f": b"1"}), HashSet(b"few", {b"f": b"1"})])
    more = {b"%d" % number: b"v" for number in range(20)}
    ring.add(6, [HashSet(b"h", {b"f": b"2", **more}), HashSet(b"few", {b"g": b"2"})])
    assert not ring.written_since(5, b"h", b"f", 99)
    assert ring.written_since(5, b"few", b"f", 99)


def test_more_places_than_are_remembered_may_have_been_anything():
    ring = Ring()
    ring.add(5, [StringSet(b"n", b"1")])
    ring.add(6, [Invalidated(b"n")])
    ring.add(7, [Invalidated(b"%d" % number) for number in range(2000)])
    assert not ring.written_since(5, b"n", None, 99)


def test_what_was_left_out_proves_nothing():
    kept = [Seen(n, b"k%d" % n, None, n) for n in range(8)]
    changes = [*kept, Seen(8, b"k0", None, 9)]
    at = held(kept) | {(b"k0", None): 99}
    assert proved(Ring(changes, 99), at).number == 99
    assert proved(Ring(changes, 99, complete=1), at)[:2] == (7, frozenset())
    assert proved(Ring(changes, 99, complete=3), at)[:2] == (7, {(b"k6", None), (b"k7", None)})


def test_what_did_not_tell_before_all_that_is_remembered_does_not_matter():
    ring = Ring()
    ring.add(3, [Invalidated(b"n")])
    ring.add(5, [StringSet(b"other", b"v")])
    ring.add(6, [StringSet(b"n", b"1")])
    ring.add(9, [StringSet(b"n", b"3")])
    for one in (ring, Ring.load(json.loads(json.dumps(ring.saved())))):
        assert one.written_since(8, b"n", None, string_digest(b"n", b"4"))
    ring.add(10, [Invalidated(b"n")])
    for one in (ring, Ring.load(json.loads(json.dumps(ring.saved())))):
        assert not one.written_since(8, b"n", None, string_digest(b"n", b"4"))
    unnumbered = {
        name: [e[:2] if isinstance(e, list) else e for e in entries] if "untold" in name else entries
        for name, entries in json.loads(json.dumps(ring.saved())).items()
    }  # as it was saved at first
    assert not Ring.load(unnumbered).written_since(8, b"n", None, string_digest(b"n", b"4"))


def test_a_ring_survives_the_daemon():
    ring = Ring((), 3)
    ring.add(5, [StringSet(b"\xff", b"v"), HashSet(b"h", {b"\x00": b"1"}), Deleted(b"d")])
    again = Ring.load(json.loads(json.dumps(ring.saved())))
    assert (list(again), again.number) == (list(ring), 5)


@pytest.mark.parametrize("count", [*range(1, 20), 127, 128, 129, 135, 136, 137, 1000])
def test_a_ring_survives_in_pieces_of_which_one_change_alters_one(count):
    ring, before = Ring(), {}
    for number in range(count):
        ring.add(number, [StringSet(b"%d" % number, b"v")])
        ring.reached(number)
        saved = ring.saved()
        altered = {name for name, value in saved.items() if before.get(name) != value}
        before = saved

        assert len(altered & {name for name in saved if name.startswith("seen")}) == 1
        assert len(altered) <= 3  # the number, and a piece of the milestones
    again = Ring.load(json.loads(json.dumps(saved)))
    assert len(again) >= min(count, RING)
    assert list(again) == list(ring)[-len(again) :]
    assert again.number_at(count) == ring.number_at(count)
    again.add(count, [StringSet(b"next", b"v")])
    third = Ring.load(json.loads(json.dumps(dict.fromkeys(saved) | again.saved())))
    assert list(third) == list(again)[-len(third) :]


ENTRIES = st.lists(st.none() | st.integers() | st.text("0aZ ", max_size=4) | st.binary(max_size=1), max_size=5)


PIECES = st.none() | st.integers() | st.lists(st.integers() | ENTRIES | st.none(), max_size=3)
DOCUMENTS = st.fixed_dictionaries(
    {"ring": st.integers(0, 9) | st.just("x"), "seen 0": PIECES, "seen 16": PIECES, "milestones 0": PIECES}
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(DOCUMENTS)
def test_what_cannot_be_read_of_a_ring_is_left_out(document):
    ring = Ring.load(document)
    assert list(Ring.load(ring.saved())) == list(ring)
    assert proved(ring, {}) == (0, frozenset(), 0)


def test_what_a_server_holds_of_the_last_changes_tells_whether_it_has_them():
    a, b, c = ((key, None) for key in (b"a", b"b", b"c"))
    ring = Ring([Seen(1, *a, 10), Seen(5, *a, 11), Seen(6, *b, 20), Seen(6, *c, None)])
    assert holds_since(7, ring, {a: 10, b: None, c: None})  # nothing is younger than that
    assert holds_since(5, ring, {a: 11, b: 20, c: None})
    assert holds_since(5, ring, {a: 12, b: 20, c: 30})  # others have written since
    assert not holds_since(5, ring, {a: 10, b: 20, c: None})  # what it was before
    assert not holds_since(5, ring, {a: 11, b: None, c: None})
    assert not holds_since(5, ring, {a: 12, b: 21, c: 30})  # nothing to go by


def test_what_is_agreed_on_by_an_offset_is_told_by_the_look_before():
    ring = Ring()
    for offset, number in ((10, 3), (20, 5), (30, 5), (40, 9)):
        ring.add(number, ())
        ring.reached(offset)
    assert [ring.number_at(offset) for offset in (9, 20, 29, 30, 40)] == [0, 3, 3, 5, 5]
    assert Ring.load(ring.saved()).number_at(40) == 5


def test_of_changes_without_a_value_the_latest_are_remembered():
    """Keyspace events tell no value at all: after two links of a busy site the daemon ended."""
    places = [(b"k%d" % number, None) for number in range(1500)]
    ring = Ring(valueless=dict.fromkeys(places, 1))
    assert list(ring.valueless) == places[-1024:]
    assert not ring.whole
    assert ring.complete == 0
