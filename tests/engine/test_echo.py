"""What our own writes will cause, so that it is known when it comes back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.changes import HashSet, StringSet
from redisrepl.engine.echo import ExpectedEvents, shown_in_stream
from redisrepl.wire.entries import LAST_ID

K, L = b"k", b"l"


def expecting(*expected, capacity=100):
    events = ExpectedEvents(capacity)
    for key, event, deadline in expected:
        assert events.expect(key, event, deadline)
    return events


def test_an_expected_event_is_recognized_once():
    events = expecting((K, b"set", 10))

    assert events.consume(K, b"set")
    assert not events.consume(K, b"set")
    assert len(events) == 0


def test_another_event_or_key_is_foreign():
    events = expecting((K, b"set", 10))

    assert not events.consume(K, b"hset")
    assert not events.consume(L, b"set")
    assert len(events) == 1


def test_events_that_come_together_are_used_up_one_after_the_other():
    events = expecting((K, b"set", 10), (L, b"set", 10), (L, b"expire", 10))
    came = [(K, b"set"), (L, b"hset"), (K, b"set"), (b"m", b"set"), (L, b"expire")]

    assert events.consume_each(came) == [(L, b"hset"), (K, b"set"), (b"m", b"set")]
    assert len(events) == 1
    assert events.holds(L)


def test_where_nothing_is_expected_all_that_came_is_foreign():
    assert ExpectedEvents(100).consume_each([(K, b"set"), (K, b"set")]) == [(K, b"set")] * 2


def test_events_of_a_key_come_in_any_order_and_as_often_as_expected():
    events = expecting((K, b"set", 10), (K, b"expire", 10), (K, b"set", 10))

    assert [events.consume(K, event) for event in (b"expire", b"set", b"set", b"set", b"expire")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_an_event_may_be_any_value():
    """The stream of the site shows whole changes."""
    events = expecting((K, StringSet(K, b"v", 5), 10))

    assert not events.consume(K, StringSet(K, b"v"))
    assert not events.consume(K, StringSet(K, b"w", 5))
    assert events.consume(K, StringSet(K, b"v", 5))


def test_a_hash_is_compared_field_by_field():
    """`HashSet` has no hash value of its own."""
    events = ExpectedEvents(10)
    events.expect(K, HashSet(K, {b"f": b"1", b"g": b"2"}), 10)

    assert not events.consume(K, HashSet(K, {b"f": b"1"}))
    assert events.consume(K, HashSet(K, {b"g": b"2", b"f": b"1"}))


def test_the_oldest_of_equal_expectations_is_used_up():
    events = expecting((K, b"set", 5), (K, b"set", 50))
    events.consume(K, b"set")

    assert events.drop_overdue(10) == []
    assert len(events) == 1


def test_a_key_holds_as_long_as_anything_is_expected_on_it():
    events = expecting((K, b"set", 5), (K, b"expire", 5))
    assert events.holds(K)
    assert not events.holds(L)
    events.consume(K, b"set")
    assert events.holds(K)
    events.consume(K, b"expire")
    assert not events.holds(K)


def test_what_does_not_fit_is_not_expected():
    events = expecting((K, b"set", 5), (L, b"set", 5), capacity=2)

    assert not events.expect(b"m", b"set", 5)
    assert len(events) == 2
    assert not events.consume(b"m", b"set")
    events.consume(K, b"set")
    assert events.expect(b"m", b"set", 5)


def test_what_is_overdue_is_dropped_and_named():
    events = expecting((K, b"set", 5), (K, b"expire", 10), (L, b"set", 6), (b"m", b"set", 30))

    assert events.drop_overdue(5) == []  # due, not overdue
    assert sorted(events.drop_overdue(10)) == [K, L]
    assert len(events) == 2
    assert not events.consume(K, b"set")  # a lost event must not swallow a later one
    assert events.consume(K, b"expire")
    assert events.drop_overdue(100) == [b"m"]
    assert len(events) == 0


def test_a_deadline_can_be_set_once_it_is_known():
    events = expecting((K, b"set", float("inf")), (K, b"expire", float("inf")), (L, b"set", float("inf")))
    events.set_deadline([K, b"unknown"], 10)

    assert events.drop_overdue(11) == [K]
    assert events.holds(L)


def test_after_a_fault_nothing_is_expected_on_its_keys():
    events = expecting((K, b"set", 5), (K, b"set", 5), (L, b"set", 5))

    assert events.void([K, b"unknown"]) == {K: 2}
    assert len(events) == 1
    assert not events.consume(K, b"set")
    assert events.consume(L, b"set")


def test_after_a_gap_nothing_is_expected_at_all():
    events = expecting((K, b"set", 5), (K, b"set", 5), (L, b"set", 5), capacity=3)

    assert sorted(events.void_all()) == [K, L]
    assert len(events) == 0
    assert events.void_all() == []
    assert events.expect(K, b"set", 5)


def test_threads_may_share_one():
    events = ExpectedEvents(100_000)

    def work(number):
        key = b"%d" % (number % 3)
        consumed = 0
        for _ in range(2000):
            assert events.expect(key, number, 10)
            consumed += events.consume(key, number)
        return consumed

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == [2000] * 8
    assert len(events) == 0
    assert not any(events.holds(b"%d" % number) for number in range(3))


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("expect"), st.integers(0, 2), st.integers(0, 2), st.integers(0, 9)),
        st.tuples(st.just("consume"), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.just("drop"), st.integers(0, 9)),
        st.tuples(st.just("void"), st.integers(0, 2)),
    ),
    max_size=30,
)


@given(OPERATIONS)
@settings(max_examples=100, deadline=None)
def test_it_agrees_with_a_plain_list(operations):
    events, plain = ExpectedEvents(5), []
    for name, *arguments in operations:
        match name:
            case "expect":
                number, event, deadline = arguments
                fits = len(plain) < 5
                assert events.expect(b"%d" % number, event, deadline) is fits
                plain += [(number, event, deadline)] if fits else []
            case "consume":
                matching = [entry for entry in plain if list(entry[:2]) == arguments]
                assert events.consume(b"%d" % arguments[0], arguments[1]) is bool(matching)
                if matching:
                    plain.remove(matching[0])
            case "drop":
                overdue = [entry for entry in plain if entry[2] < arguments[0]]
                assert set(events.drop_overdue(arguments[0])) == {b"%d" % entry[0] for entry in overdue}
                plain = [entry for entry in plain if entry not in overdue]
            case "void":
                voided = [entry for entry in plain if entry[0] == arguments[0]]
                assert bool(events.void([b"%d" % arguments[0]])) is bool(voided)
                plain = [entry for entry in plain if entry not in voided]
        assert len(events) == len(plain)
        assert all(events.holds(b"%d" % number) is any(entry[0] == number for entry in plain) for number in range(3))


def test_one_event_on_each_of_many_keys():
    expected = ExpectedEvents(10)
    expected.expect(b"a", b"set", 5)
    expected.expect_each([b"a", b"b", b"c"], b"set", 9)

    assert len(expected) == 4
    assert expected.drop_overdue(6) == [b"a"]
    assert [expected.consume(key, b"set") for key in (b"a", b"a", b"b", b"c", b"d")] == [True, False, True, True, False]
    assert len(expected) == 0


def test_a_new_deadline_is_for_its_key_alone():
    expected = ExpectedEvents(10)
    expected.expect_each([b"a", b"b"], b"set", 5)
    expected.set_deadline([b"a", b"none"], 9)

    assert expected.drop_overdue(6) == [b"b"]
    assert expected.holds(b"a")


def test_where_not_all_fit_none_is_expected():
    expected = ExpectedEvents(2)
    expected.expect_each([b"a", b"b", b"c"], b"set", 5)
    assert len(expected) == 0
    assert not expected.holds(b"a")
    expected.expect_each([b"a", b"b"], b"set", 5)
    assert len(expected) == 2


def test_entries_of_a_stream_are_expected_in_the_order_in_which_they_are_added():
    """Else each echo would be looked for among all that are expected."""
    entries = {b"%020d-%020d" % (number, 0): b"v" for number in (3, 1, 2)}
    shown = shown_in_stream(HashSet(b"k", {LAST_ID: b"9-0", **entries}, "stream"))
    assert [name for change in shown for name in change.fields] == [*sorted(entries), LAST_ID]


def test_a_key_with_more_events_than_fit_is_expected_if_there_is_room_at_all():
    """Else what needs so many could never be applied."""
    expected = ExpectedEvents(2)
    assert expected.expect_all(b"k", ["a", "b", "c"], 1.0)
    assert len(expected) == 3
    assert not expected.expect_all(b"l", ["a"], 1.0)
    assert [expected.consume(b"k", event) for event in "abcd"] == [True, True, True, False]
    assert expected.expect_all(b"l", ["a"], 1.0)
    assert expected.expect_all(b"m", [], 1.0)
    assert not expected.holds(b"m")


class Entry(HashSet):
    """That a stream has an entry; counts how often any is compared."""

    compared = 0

    def __eq__(self, other):
        Entry.compared += 1
        return super().__eq__(other)

    __hash__ = None


def entry(number):
    return Entry(b"k", {b"%d" % number: b"v"}, "stream")


def test_what_others_write_is_not_looked_for_among_thousands_of_expected_echoes():
    expected = ExpectedEvents(10_000)
    Entry.compared = 0
    assert expected.expect_all(b"k", list(map(entry, range(5000))), 1.0)
    assert expected.expect(b"k", entry(5000), 1.0)
    expected.expect_each([b"k"], entry(5001), 1.0)
    for number in range(5002):
        assert not expected.consume(b"k", entry(10_000 + number))
        assert expected.consume(b"k", entry(number))
    assert Entry.compared == 5002  # each with the oldest alone
    assert (len(expected), expected.holds(b"k")) == (0, False)


def test_of_many_expectations_those_that_are_overdue_or_void_are_not_expected_any_more():
    expected = ExpectedEvents(10_000)
    expected.expect_all(b"k", list(map(entry, range(300))), 1.0)
    expected.expect_all(b"k", list(map(entry, range(300, 600))), 3.0)
    assert expected.drop_overdue(2.0) == [b"k"]
    assert [expected.consume(b"k", entry(number)) for number in (0, 299, 300, 300, 599)] == [
        False,
        False,
        True,
        False,
        True,
    ]
    assert expected.void([b"k"]).keys() == {b"k"}
    assert not expected.consume(b"k", entry(400))
    expected.expect_all(b"k", [entry(1), b"del"], 3.0)
    assert [expected.consume(b"k", event) for event in (entry(400), entry(1), b"del")] == [False, True, True]
    assert len(expected) == 0


def test_where_nobody_sees_what_comes_nothing_is_expected():
    """Otherwise what is applied would wait for it, once it is to be looked at again or they are too many."""
    expected = ExpectedEvents(None)
    assert expected.expect(b"k", entry(1), 1.0)
    assert expected.expect_all(b"k", [entry(1), b"del"], 1.0)
    expected.expect_each([b"k"], b"del", 1.0)
    assert (len(expected), expected.holds(b"k"), expected.consume(b"k", b"del")) == (0, False, False)
    assert expected.void([b"k"]) == {}
