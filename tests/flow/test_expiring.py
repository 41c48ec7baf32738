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


async def test_what_is_filled_anew_may_find_at_the_hub_what_has_expired_at_the_site(expiring, doubts):
    """All that the hub may hold, also once a push had no answer; until the new value is agreed on."""
    ours, store = expiring()
    former = agreed(-100, b"f")
    ours.where_passed({K: None}, {K: former})
    assert store.gone == [K]
    anew = HashSet(K, {b"g": b"1"})
    assert await ours.without([anew, HashSet(L, {b"g": b"1"})], fields=False) == [HashSet(L, {b"g": b"1"})]
    assert doubts.keys == [K]
    states = {K: HashState({b"g": b"1"})}
    assert ours.where_passed(states, {}) == {K: former.or_gone()}
    unanswered = Agreed(element_intents={b"g": (5,)})
    known = ours.where_passed(states, {K: unanswered})[K]
    assert (known.digest, known.intents) == (former.digest, (None,))
    assert known.element_intents == {b"f": (None,), b"g": (5,)}
    assert ours.where_passed(states, {K: agreed(None, b"g")})[K].digest is not None
    assert await ours.without([anew], fields=False) == [anew]


async def test_what_has_expired_at_the_hub_too_leaves_nothing(expiring, doubts):
    ours, _ = expiring()
    ours.where_passed({K: None}, {K: agreed(SOON, b"f")})
    anew = HashSet(K, {b"g": b"1"})
    assert await ours.without([anew], fields=False) == [anew]
    assert not doubts.keys
