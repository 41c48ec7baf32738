"""What must be applied so that the site holds what the hub holds, and where the hub lacks something."""

from __future__ import annotations

from itertools import product

import pytest

from redisrepl.changes import KINDS, Deleted, ExpirySet, HashSet, HashState, ReckonedExpiry, StringSet, StringState
from redisrepl.flow.differences import difference, lacks, news_of

K = b"k"
A, B, DYING = StringState(b"a"), StringState(b"b"), StringState(b"a", 5)
H, G, HG = HashState({b"f": b"1"}), HashState({b"g": b"1"}), HashState({b"f": b"1", b"g": b"2"})
STATES = [None, A, B, DYING, H, G, HG, HashState({b"f": b"1"}, 5), "list", "denied"]


@pytest.mark.parametrize(
    ("hub", "site", "missing"),
    [
        (None, A, True),
        (None, H, True),
        (None, "list", False),
        (None, None, False),
        (H, HG, True),
        (G, H, True),
        (HG, H, False),
        (H, H, False),
        (A, H, False),  # it became something else, which is no lack
        (H, A, False),
    ],
)
def test_whether_the_hub_lacks_something(hub, site, missing):
    assert lacks(hub, site) is missing


@pytest.mark.parametrize(
    ("hub", "site", "changes"),
    [
        (A, None, [StringSet(K, b"a")]),
        (A, B, [StringSet(K, b"a")]),
        (DYING, A, [StringSet(K, b"a", 5)]),
        (A, H, [StringSet(K, b"a")]),
        (H, None, [HashSet(K, {b"f": b"1"})]),
        (H, A, [Deleted(K), HashSet(K, {b"f": b"1"})]),
        (HashState({b"f": b"1"}, 5), None, [HashSet(K, {b"f": b"1"}), ExpirySet(K, 5)]),
        (HG, H, [HashSet(K, {b"g": b"2"})]),
        (H, G, [HashSet(K, {b"f": b"1"})]),  # what the hub lacks is another matter
        (HashState({b"f": b"1"}, 5), H, [ExpirySet(K, 5)]),
        (H, HashState({b"f": b"1"}, 5), [ExpirySet(K, None)]),
        (None, A, []),
        ("list", A, []),
        ("denied", None, []),
    ],
)
def test_what_is_to_be_applied(hub, site, changes):
    assert difference(K, hub, site, KINDS) == changes


@pytest.mark.parametrize(("reckoned", "differs"), [(1020, False), (1021, True)])
def test_an_expiry_that_was_reckoned_may_be_off_by_some_milliseconds(reckoned, differs):
    reckoned = ReckonedExpiry(reckoned)
    for one, other in ((1000, reckoned), (reckoned, 1000)):
        string, hash_ = StringState(b"a", one), HashState({b"f": b"1"}, one)
        assert bool(difference(K, string, StringState(b"a", other), KINDS)) is differs
        assert bool(difference(K, hash_, HashState({b"f": b"1"}, other), KINDS)) is differs
        assert bool(news_of([StringSet(K, b"a", one)], StringState(b"a", other))) is differs


def test_equal_sides_and_what_is_not_replicated_differ_in_nothing():
    for state in STATES:
        assert difference(K, state, state, KINDS) == []
    for hub, site in product(STATES, repeat=2):
        assert not any(isinstance(change, StringSet) for change in difference(K, hub, site, KINDS - {"set"}))
        assert not any(isinstance(change, HashSet) for change in difference(K, hub, site, KINDS - {"hset"}))
        assert not any(isinstance(change, ExpirySet) for change in difference(K, hub, site, KINDS - {"expire"}))
