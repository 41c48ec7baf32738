"""Keys that the hub may have let expire by itself are looked at before they are pushed."""

from __future__ import annotations

import time

import pytest

from redisrepl.changes import Deleted, ExpirySet, FieldsDeleted, HashSet, HashState, SequenceSet, StringSet, StringState
from redisrepl.engine.ancestor import Agreed
from redisrepl.flow.clocks import Clocks
from redisrepl.flow.expiring import Expiring
from redisrepl.store.facts import Changes

K, L = b"k", b"l"
SOON, LATER = -5_000, 60_000
"""Milliseconds from now, of an expiry."""


class Doubts:
    """`Outbound`, as far as it takes what is in doubt."""

    def __init__(self):
        self.keys = []

    def doubt(self, key, change=None):
        assert change is None
        self.keys.append(key)


class Known:
    """`Store`: what is agreed on."""

    def __init__(self, agreed):
        self.known, self.asked, self.gone = agreed, [], []

    async def lookup(self, keys):
        self.asked += keys
        return {key: self.known[key] for key in keys if key in self.known}

    def agreed(self, facts):
        changes = Changes()
        changes.take(facts.encoded(), 1)
        self.gone += [key for key, entry in changes.items() if entry is None]


def agreed(in_ms, *names):
    expires_at_ms = None if in_ms is None else int(time.time() * 1000) + in_ms
    return Agreed(1, 1, expires_at_ms, elements=dict.fromkeys(names, 7))


@pytest.fixture
def doubts():
    return Doubts()


@pytest.fixture
def expiring(doubts):
    def expiring(**known):
        store = Known({name.encode(): each for name, each in known.items()})
        return Expiring(doubts, store, Clocks()), store

    return expiring


@pytest.mark.parametrize(
    ("changes", "in_ms", "in_doubt"),
    [
        # Whether it was removed or has expired, the stream does not tell.
        ([Deleted(K)], SOON, True),
        ([Deleted(K)], LATER, True),
        ([Deleted(K)], None, False),
        ([Deleted(K), HashSet(K, {b"f": b"1"})], SOON, False),
        # Another expiry may come too late; so may what was written beside it.
        ([ExpirySet(K, 5)], SOON, True),
        ([ExpirySet(K, None)], SOON, True),
        ([HashSet(K, {b"f": b"1"}), ExpirySet(K, 5)], SOON, True),
        ([ExpirySet(K, 5)], LATER, False),
        ([ExpirySet(K, 5)], None, False),
        # These say all of it.
        ([StringSet(K, b"v", 5), ExpirySet(K, None)], SOON, False),
        ([SequenceSet(K, (b"v",)), ExpirySet(K, 5)], SOON, False),
    ],
)
async def test_what_may_be_gone_at_the_hub_is_put_in_doubt(expiring, doubts, changes, in_ms, in_doubt):
    others = [StringSet(L, b"v"), FieldsDeleted(b"m", (b"f",))]
    ours, _ = expiring(k=agreed(in_ms, b"f"), l=agreed(in_ms))
    left = await ours.without([*changes, *others], fields=False)
    assert left == (others if in_doubt else [*changes, *others])
    assert doubts.keys == ([K] if in_doubt else [])


async def test_what_was_never_agreed_on_is_not_in_doubt(expiring, doubts):
    ours, _ = expiring()
    changes = [HashSet(K, {b"f": b"1"}), ExpirySet(K, 5), Deleted(L)]
    assert await ours.without(changes, fields=False) == changes
    assert not doubts.keys


async def test_nothing_is_asked_about_what_has_no_expiry_to_do_with(expiring):
    ours, store = expiring(k=agreed(SOON))
    await ours.without([StringSet(K, b"v", 5), HashSet(L, {b"f": b"1"})], fields=False)
    assert not store.asked


def test_what_the_site_lacks_since_it_was_to_expire_is_agreed_on_no_more(expiring):
    ours, store = expiring()
    ancestors = {K: agreed(SOON, b"f"), L: agreed(LATER, b"f"), b"m": agreed(None, b"f")}
    states = dict.fromkeys(ancestors)
    assert ours.where_passed(states, ancestors) == ancestors
    assert states == {L: None, b"m": None}
    assert store.gone == [K]


@pytest.mark.parametrize("state", [StringState(b"v"), HashState({b"f": b"1"}, 5)])
def test_what_outlived_its_expiry_at_the_site_may_be_gone_at_the_hub(expiring, state):
    ours, store = expiring()
    ancestors = {K: agreed(SOON, b"f"), L: agreed(LATER, b"f")}
    states = {K: state, L: state}
    known = ours.where_passed(states, ancestors)
    assert known == {K: ancestors[K].or_gone(), L: ancestors[L]}
    assert known[K].intents == (None,)
    assert known[K].element_intents == {b"f": (None,)}
    assert states == {K: state, L: state}
    assert not store.gone


def test_what_was_not_read_is_as_it_was(expiring):
    """A change whose own condition tells."""
    ours, store = expiring()
    ancestors = {K: agreed(SOON, b"f")}
    assert ours.where_passed({}, ancestors) == {K: ancestors[K].or_gone()}
    assert not store.gone
