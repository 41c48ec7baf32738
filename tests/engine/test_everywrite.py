"""What waits for the hub where each intermediate value counts."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from redisrepl.changes import Deleted, HashSet, Invalidated, StringSet
from redisrepl.engine.everywrite import EveryWrite, values_passed

K, L = b"k", b"l"
BIG = 1 << 20


def value(number, key=K):
    return StringSet(key, b"%d" % number)


def holding(*changes, max_bytes=BIG, max_keys=1000):
    waiting = EveryWrite(max_bytes, max_keys)
    for change in changes:
        waiting.add(change)
    return waiting


def takes(waiting, max_keys=1000, max_bytes=BIG):
    return waiting.take(max_keys, max_bytes)


def arrives(waiting, batch):
    waiting.done([change.key for change in batch])


def test_every_value_of_a_key_leaves_in_order_beside_other_keys():
    changes = [value(1), value(1, L), value(2), Deleted(K), value(3), value(2, L)]
    batch = takes(holding(*changes))

    assert [change for change in batch if change.key == K] == [value(1), value(2), Deleted(K), value(3)]
    assert [change for change in batch if change.key == L] == [value(1, L), value(2, L)]


def test_a_run_of_plain_sets_is_not_merged():
    waiting = holding()
    waiting.add_sets([(b"SET", K, b"%d" % number) for number in range(5)])

    assert takes(waiting) == [value(number) for number in range(5)]


def test_a_key_is_in_one_batch_at_a_time():
    waiting = holding(value(1), value(2))
    batch = takes(waiting)
    waiting.add(value(3))
    waiting.add(value(4))

    assert takes(waiting) == []
    assert K in waiting
    arrives(waiting, batch)
    assert takes(waiting) == [value(3), value(4)]


@pytest.mark.parametrize("limits", [{"max_keys": 2}, {"max_bytes": 510}])
def test_a_batch_ends_inside_of_a_queue(limits):
    waiting = holding(*(value(number) for number in range(5)))
    left = []
    while batch := takes(waiting, **limits):
        assert len(batch) <= 3
        left += batch
        arrives(waiting, batch)

    assert left == [value(number) for number in range(5)]
    assert len(waiting) == waiting.bytes == 0


def test_invalidations_that_wait_side_by_side_are_one():
    waiting = holding(
        Invalidated(K, "set"),
        Invalidated(K, "set"),
        value(1),
        Invalidated(K, "set"),
        Invalidated(K, replaces=True),
        value(2),
    )

    assert takes(waiting) == [Invalidated(K), value(1), Invalidated(K, replaces=True), value(2)]


def test_what_did_not_arrive_is_sent_again_in_order():
    waiting = holding(value(1), value(2))
    batch = takes(waiting)
    waiting.add(value(3))
    waiting.put_back([change.key for change in batch])

    assert takes(waiting) == [value(1), value(2), value(3)]


def test_above_the_ceiling_one_invalidation_stands_for_what_follows_and_that_is_told_once():
    with capture_logs() as logs:
        waiting = holding(*(value(number) for number in range(100)), max_bytes=10_000)
        for number in range(100):
            waiting.add(value(number, b"%d" % (number % 5)))
            waiting.add(Deleted(b"%d" % (number % 5)))
            assert waiting.bytes <= 10_000
    batch = takes(waiting)
    kept = [change for change in batch if change.key == K]

    assert kept == [*(value(number) for number in range(len(kept) - 1)), Invalidated(K)]
    assert 10 < len(kept) < 100
    assert len(batch) - len(kept) <= 10
    assert [(record["event"], record["log_level"]) for record in logs] == [("push.not_every_write", "warning")]
    arrives(waiting, batch)
    assert len(waiting) == waiting.bytes == 0
    waiting.add(value(1))
    waiting.add(value(2))
    assert takes(waiting) == [value(1), value(2)]


def test_above_the_key_ceiling_no_further_key_is_taken_but_each_write_of_those_that_wait():
    writes = [value(number % 2, b"%d" % (number // 2)) for number in range(20)]
    waiting = holding(*writes, max_keys=10)
    assert not waiting.left_out
    waiting.add(value(1, b"one more"))
    waiting.add(value(2, b"0"))

    assert waiting.left_out
    batch = takes(waiting)
    assert sorted(batch, key=lambda change: (change.key, change.value)) == sorted(
        [*writes, value(2, b"0")], key=lambda change: (change.key, change.value)
    )
    waiting.read_up_to(10)
    arrives(waiting, batch)
    assert waiting.acknowledged == 10
    assert len(waiting) == waiting.bytes == 0


def test_a_new_history_keeps_what_waits():
    waiting = holding(value(1), value(2), value(1, L), value(2, L))
    waiting.read_up_to(100)
    batch = takes(waiting, max_keys=3)
    waiting.start_over()
    waiting.read_up_to(50)
    arrives(waiting, batch)

    assert waiting.acknowledged == 0
    left = takes(waiting)
    assert batch + left == [value(1), value(2), value(1, L), value(2, L)]
    arrives(waiting, left)
    assert waiting.acknowledged == 50


def test_a_new_history_drops_what_does_not_tell_its_value():
    """The values before and behind it are kept, in their order."""
    partly = HashSet(L, {b"known": b"1", b"unknown": None})
    waiting = holding(Invalidated(K), value(1), Invalidated(K), value(2), value(1, L), partly, Invalidated(b"flying"))
    waiting.read_up_to(100)
    waiting.start_over()
    waiting.read_up_to(50)
    left = [value(1), value(2), value(1, L), HashSet(L, {b"known": b"1"})]
    batch = takes(waiting)
    assert sorted(batch, key=lambda change: change.key) == sorted(left, key=lambda change: change.key)
    arrives(waiting, batch)
    assert (len(waiting), waiting.bytes, waiting.acknowledged) == (0, 0, 50)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 2)),
        st.tuples(st.just("read")),
        st.tuples(st.just("take"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["done", "put back"]), st.integers(0, 3)),
    ),
    max_size=40,
)


@given(OPERATIONS)
@settings(max_examples=150, deadline=None)
def test_every_change_arrives_once_in_order_and_acknowledged_says_so(operations):
    waiting = EveryWrite(BIG, 1000)
    numbers = itertools.count(1)
    written, arrived, batches = {}, {}, []
    offset, read, ends = 0, [], []  # ends: of each stretch, with the changes in it
    for name, *arguments in [*operations, ("read",), *[("finish",)] * 50]:
        match name:
            case "add":
                change = value(next(numbers), b"%d" % arguments[0])
                waiting.add(change)
                written.setdefault(change.key, []).append(change)
                read.append(change)
            case "read":
                offset += 10
                waiting.read_up_to(offset)
                ends.append((offset, read))
                read = []
            case "take":
                batch = takes(waiting, max_keys=arguments[0])
                assert {c.key for c in batch}.isdisjoint(c.key for other in batches for c in other)
                batches += [batch] if batch else []
            case "put back" if batches:
                batch = batches.pop(arguments[0] % len(batches))
                waiting.put_back([change.key for change in batch])
            case "done" | "finish":
                if name == "finish":
                    batches += [batch] if (batch := takes(waiting)) else []
                if batches:
                    batch = batches.pop((arguments or [0])[0] % len(batches))
                    for change in batch:
                        arrived.setdefault(change.key, []).append(change)
                    arrives(waiting, batch)
        there = {change for changes in arrived.values() for change in changes}
        while ends and there.issuperset(ends[0][1]):
            assert waiting.acknowledged >= ends.pop(0)[0]
        assert waiting.acknowledged < (ends[0][0] if ends else offset + 1)
    assert arrived == written
    assert not batches
    assert len(waiting) == waiting.bytes == 0


def test_what_keys_hold_on_the_way_to_their_last_change():
    changes = [value(1), value(1, L), value(2), Deleted(K), value(3), value(2, L)]
    assert values_passed(changes) == [[value(1), value(1, L)], [value(2)], [Deleted(K)]]
    assert values_passed([value(1), value(1, L)]) == values_passed([]) == []
