"""Which keys are named: those whose value the hub's took the place of while a gap was healed, and no others."""

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import HashState, StringState
from redisrepl.inbound import InboundCounters
from redisrepl.replaced import Replacements, replaces

ONE, TWO = StringState(b"1"), StringState(b"2")


class Inbound:
    """Remembers what it is told."""

    def __init__(self):
        self.counters = InboundCounters()
        self.dirty = []
        self.changed = []

    def mark_dirty(self, keys, *, removal=False):
        self.dirty += keys
        self.removal = removal

    def changed_at_site(self, keys):
        self.changed += keys

    def pushed(self, keys, time):
        pass

    def refused_at_hub(self, key):
        pass

    def holds(self, key):
        return key in self.dirty

    def removes(self, key):
        return self.removal and key in self.dirty


@pytest.mark.parametrize(
    ("hub", "site", "expected"),
    [
        (ONE, TWO, True),
        (ONE, ONE, False),
        (StringState(b"1", 5), ONE, True),
        (ONE, None, False),
        (None, ONE, False),
        (ONE, HashState({b"f": b"1"}), True),
        (ONE, "list", True),
        (HashState({b"f": b"1"}), HashState({b"f": b"2"}), True),
        (HashState({b"f": b"1"}), HashState({b"g": b"2"}), False),
        (HashState({b"f": b"1", b"g": b"1"}), HashState({b"g": b"1"}), False),
    ],
)
def test_what_is_a_loss(hub, site, expected):
    assert replaces(hub, site) is expected


def told_by(replacements, *keys, suspected=True):
    with capture_logs() as logs:
        if suspected:
            replacements.mark_dirty(iter(keys))
        for key in keys:
            replacements.applying(key, ONE, TWO)
    return [record["key"] for record in logs if "key" in record]


@pytest.mark.parametrize("removal", [True, False])
def test_whether_something_was_removed_is_passed_on(removal):
    inbound = Inbound()
    Replacements(inbound).mark_dirty([b"key"], removal=removal)
    assert (inbound.dirty, inbound.removal) == ([b"key"], removal)


def test_keys_are_named_while_a_gap_is_healed():
    inbound = Inbound()
    replacements = Replacements(inbound)
    assert told_by(replacements, b"before") == []
    replacements.gap()
    assert told_by(replacements, b"a", b"b") == ["a", "b"]
    assert told_by(replacements, b"announced by the hub", suspected=False) == []
    assert told_by(replacements, b"a", suspected=False) == []  # once looked at it is like any other
    replacements.mark_dirty([b"late"])
    replacements.healed()
    assert told_by(replacements, b"late", suspected=False) == []
    assert inbound.dirty == [b"before", b"a", b"b", b"late"]
    assert replacements.count == 2
    replacements.changed_at_site([b"k"])
    assert inbound.changed == [b"k"]


def test_what_was_told_before_a_gap_turned_out_counts():
    replacements = Replacements(Inbound())
    replacements.watch()
    replacements.mark_dirty([b"early"])
    replacements.gap()
    assert told_by(replacements, b"early", suspected=False) == ["early"]


def test_without_a_gap_nothing_is_named_but_one_before_it_is_not_forgotten():
    replacements = Replacements(Inbound())
    replacements.watch()
    replacements.mark_dirty([b"early"])
    replacements.no_gap()
    assert told_by(replacements, b"early", suspected=False) == []
    replacements.gap()
    replacements.watch()
    replacements.no_gap()
    assert told_by(replacements, b"key") == ["key"]


def test_after_so_many_they_are_only_counted():
    replacements = Replacements(Inbound(), most=3)
    for _ in range(2):
        replacements.gap()
        assert told_by(replacements, *(b"%d" % number for number in range(8))) == ["0", "1", "2"]
        with capture_logs() as logs:
            replacements.healed()
        assert [record["more_keys"] for record in logs] == [5]
    assert replacements.count == 16


def test_of_gaps_in_quick_succession_no_more_is_named_than_of_one():
    replacements = Replacements(Inbound(), most=3)
    told = []
    for number in range(5):
        replacements.gap()
        told += told_by(replacements, b"%d" % number)
    assert told == ["0", "1", "2"]
    with capture_logs() as logs:
        replacements.healed()
    assert [record["more_keys"] for record in logs] == [2]
