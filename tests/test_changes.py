"""The vocabulary."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from redisrepl.changes import (
    KINDS,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    Flushed,
    HashSet,
    HashState,
    Invalidated,
    Position,
    ReckonedExpiry,
    SequenceSet,
    SequenceState,
    StringSet,
    StringState,
    expiries_differ,
    is_replicated,
    types_of,
)

CHANGES = [
    (StringSet(b"k", b"v"), {"set"}),
    (StringSet(b"k", b"v", 5), {"set"}),
    (HashSet(b"k", {b"f": b"v"}), {"hset"}),
    (HashSet(b"k", {b"m": b""}, "set"), {"sets"}),
    (HashSet(b"k", {b"m": b"1"}, "zset"), {"zsets"}),
    (SequenceSet(b"k", (b"a", b"a")), {"lists"}),
    (Invalidated(b"k"), {"set", "hset", "sets", "zsets", "lists", "streams"}),
    (Invalidated(b"k", replaces=True), {"set", "hset", "sets", "zsets", "lists", "streams"}),
    (Invalidated(b"k", "set"), {"set"}),
    (Invalidated(b"k", "expire"), {"expire"}),
    (Deleted(b"k"), {"del"}),
    (ExpirySet(b"k", 5), {"expire"}),
    (ExpirySet(b"k", None), {"expire"}),
]


ALL_CHOICES = [frozenset(choice) for choice in chain(*(combinations(sorted(KINDS), size) for size in (1, 2, 6)))]


@pytest.mark.parametrize(("change", "kinds"), CHANGES)
def test_a_change_crosses_under_any_of_its_kinds(change, kinds):
    assert kinds <= KINDS
    for choice in ALL_CHOICES:
        assert is_replicated(change, choice) is bool(kinds & choice)


@pytest.mark.parametrize(
    ("type_", "kind"), [("hash", "hset"), ("set", "sets"), ("zset", "zsets"), ("stream", "streams")]
)
def test_the_removal_of_an_element_crosses_where_removals_and_its_type_do(type_, kind):
    for choice in ALL_CHOICES:
        assert is_replicated(FieldsDeleted(b"k", (b"f",), type_), choice) is (choice >= {"del", kind})


def test_a_type_is_carried_under_its_kind():
    assert types_of(frozenset({"set", "hset", "del"})) == {"string", "hash"}
    assert types_of(KINDS) == {"string", "hash", "set", "zset", "list", "stream"}


@pytest.mark.parametrize(
    "value",
    [change for change, _ in CHANGES]
    + [FieldsDeleted(b"k", (b"f",)), Flushed(emptied=True), StringState(b""), HashState({}), SequenceState(())],
)
def test_a_value_has_its_fields_and_no_others(value):
    with pytest.raises(AttributeError):
        value.other = b"other"
    assert not hasattr(value, "__dict__")


def test_values_without_a_dictionary_can_be_looked_up():
    assert {StringSet(b"k", b"v"), Invalidated(b"k"), Deleted(b"k")} == {
        Deleted(b"k"),
        Invalidated(b"k"),
        StringSet(b"k", b"v"),
    }


def test_equal_values_are_equal():
    assert StringSet(b"k", b"v") == StringSet(b"k", b"v", None)
    assert StringSet(b"k", b"v") != StringSet(b"k", b"v", 0)
    assert Invalidated(b"k") != Invalidated(b"k", replaces=True)
    assert Deleted(b"k") != Invalidated(b"k")
    assert HashState({b"f": b"1", b"g": b"2"}) == HashState({b"g": b"2", b"f": b"1"})


def test_a_position_reads_as_redis_writes_it():
    assert str(Position("abc", 15)) == "abc:15"


@pytest.mark.parametrize(
    ("one", "other", "tolerance_ms", "differ"),
    [
        (5, 5, 0, False),
        (5, 6, 0, True),
        (5, 6, 1, False),
        (5, None, 9, True),
        (None, None, 0, False),
        (1000, ReckonedExpiry(1020), 0, False),
        (1000, ReckonedExpiry(1021), 0, True),
        (1000, ReckonedExpiry(1021), 21, False),
        (ReckonedExpiry(1020), ReckonedExpiry(1000), 5, False),
        (None, ReckonedExpiry(1), 0, True),
    ],
)
def test_whether_expiries_differ(one, other, tolerance_ms, differ):
    assert expiries_differ(one, other, tolerance_ms) is differ
    assert expiries_differ(other, one, tolerance_ms) is differ
