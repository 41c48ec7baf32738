"""Expiries that a collection loses with its last element, and that the hub would keep."""

from dataclasses import replace

import pytest

from redisrepl.changes import Deleted, ExpirySet, FieldsDeleted, HashSet, StringSet
from redisrepl.engine.ancestor import Agreed
from redisrepl.flow.lasting import with_lost_expiries

K, L = b"k", b"l"
PUT, MORE, GONE = HashSet(K, {b"f": b"v"}), HashSet(L, {b"f": b"v"}, "set"), FieldsDeleted(K, (b"e",))
FEW, MANY = frozenset({"hset", "expire"}), frozenset({"hset", "sets", "del", "expire"})


class Known:
    """What both agreed on, and what the site holds now."""

    def __init__(self, agreed, lasting):
        self.agreed, self.there = agreed, lasting
        self.asked = []

    async def lookup(self, keys):
        self.asked.append(keys)
        return {key: Agreed(1, 1, at) for key, at in self.agreed.items() if key in keys}

    async def lasting(self, keys):
        return [key for key in keys if key in self.there]


@pytest.mark.parametrize(
    ("changes", "kinds", "agreed", "lasting", "lost"),
    [
        # It lost elements and has others; it was to expire, and is not any more.
        ([PUT, GONE, MORE], MANY, {K: 5, L: 5}, [K, L], [K]),
        ([replace(PUT, emptied=True), MORE], MANY, {K: 5, L: 5}, [K, L], [K]),
        ([PUT, GONE], MANY, {K: 5}, [], []),
        ([PUT, GONE], MANY, {K: None}, [K], []),
        ([PUT, GONE], MANY, {}, [K], []),
        # Where removals are not replicated, nobody would say that it lost any.
        ([PUT, MORE], FEW, {K: 5, L: 6}, [K], [K]),
        # Another change says it already; or expiries are not replicated.
        ([PUT, GONE, ExpirySet(K, 7)], MANY, {K: 5}, [K], []),
        ([PUT, GONE], MANY - {"expire"}, {K: 5}, [K], []),
        # No collection; none that is there; one that stays without elements.
        ([StringSet(K, b"v"), Deleted(L)], FEW, {K: 5, L: 5}, [K, L], []),
        ([GONE], MANY, {K: 5}, [K], []),
        ([HashSet(K, {b"1-1": b"v"}, "stream"), FieldsDeleted(K, (b"0-1",), "stream")], MANY, {K: 5}, [K], []),
    ],
)
async def test_an_expiry_that_went_with_the_last_element(changes, kinds, agreed, lasting, lost):
    known = Known(agreed, lasting)
    assert await with_lost_expiries(changes, kinds, known, known) == [*changes, *(ExpirySet(key, None) for key in lost)]


async def test_nothing_is_asked_for_what_cannot_have_been_emptied():
    known = Known({K: 5, L: 5}, [K, L])
    assert await with_lost_expiries([PUT, MORE], MANY, known, known) == [PUT, MORE]
    assert known.asked == []
