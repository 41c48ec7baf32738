"""A side is compared with what was agreed on: what differs is found, and what does not is not looked at by name."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.changes import HashState, ReckonedExpiry, StringState
from redisrepl.engine.ancestor import note_state
from redisrepl.flow.comparison import Comparison
from redisrepl.store import Facts, Pair, Store
from redisrepl.wire.digests import DISPUTED, bucket_of, hash_digest
from tests.holder import Holder

PREFIX = b"ns:"
A, B = StringState(b"a"), StringState(b"b")


def agree(store, states):
    facts = Facts()
    for key, state in states.items():
        note_state(facts, key, state)
    store.agreed(facts)


def comparing(store, *, expiries=False, rate=1e9):
    return Comparison(store, expiries=expiries, rate=rate)


async def found_by(comparison, side, prefix=PREFIX):
    """Keys that hold something else, and keys that are missing."""
    differing, missing = [], []
    async for different, lacking in comparison.differing(side, prefix):
        differing += different
        missing += lacking
    return sorted(set(differing)), sorted(missing)


def keys(count):
    return [b"ns:%d" % number for number in range(count)]


async def test_what_is_as_agreed_is_not_looked_at_by_name(store):
    states = dict.fromkeys(keys(100), A) | {b"ns:h": HashState({b"f": b"1"})}
    agree(store, states)
    side, comparison = Holder(states), comparing(store)
    assert await found_by(comparison, side) == ([], [])
    assert (side.pages, side.looked) == (0, [])
    assert side.sums_read == 34
    assert comparison.compared == 101


async def test_only_buckets_that_differ_are_looked_into(store):
    states = dict.fromkeys(keys(1000), A)
    agree(store, states)
    changed = b"ns:512"
    side = Holder(states | {changed: B}, step=100)
    assert await found_by(comparing(store), side) == ([changed], [])
    assert {bucket_of(key) for key in side.looked} == {bucket_of(changed)}
    assert len(side.looked) < 30


async def test_what_is_missing_is_found_without_looking_at_the_rest(store):
    agree(store, dict.fromkeys(keys(1000), A))
    gone = b"ns:512"
    side = Holder({key: A for key in keys(1000) if key != gone}, step=100)
    comparison = comparing(store)
    assert await found_by(comparison, side) == ([], [gone])
    assert {bucket_of(key) for key in side.looked} == {bucket_of(gone)}
    assert comparison.compared == 1000


async def test_a_disputed_key_is_found_where_it_is_missing_and_where_it_is_not(store):
    """Its push was planned, and the daemon was killed before it left: all else may be as it was agreed on."""
    agree(store, dict.fromkeys(keys(3), A))
    facts = Facts()
    facts.string(b"ns:3", DISPUTED)
    store.agreed(facts)
    assert await found_by(comparing(store), Holder(dict.fromkeys(keys(3), A))) == ([], [b"ns:3"])
    assert await found_by(comparing(store), Holder(dict.fromkeys(keys(4), A))) == ([b"ns:3"], [])


async def test_where_nothing_is_agreed_every_key_differs(store):
    side, comparison = Holder({**dict.fromkeys(keys(10), A), b"ns:list": "list"}), comparing(store)
    assert await found_by(comparison, side) == (keys(10), [])
    assert (side.sums_read, comparison.compared) == (0, 11)


@pytest.mark.parametrize("expiries", [False, True])
async def test_expiries_are_compared_where_they_are_replicated(store, expiries):
    agree(store, {b"ns:1": StringState(b"a", 5), b"ns:2": StringState(b"a", 5), b"ns:3": A})
    side = Holder({b"ns:1": StringState(b"a", 6), b"ns:2": StringState(b"a", 5), b"ns:3": A})
    assert await found_by(comparing(store, expiries=expiries), side) == ([b"ns:1"] if expiries else [], [])


@pytest.mark.parametrize(("expires_at_ms", "differs"), [(1020, False), (980, False), (1021, True), (None, True)])
async def test_an_expiry_that_is_not_known_exactly_may_be_off_by_some_milliseconds(store, expires_at_ms, differs):
    agree(store, {b"ns:1": StringState(b"a", 1000)})
    side = Holder({b"ns:1": StringState(b"a", expires_at_ms and ReckonedExpiry(expires_at_ms))})
    assert await found_by(comparing(store, expiries=True), side) == ([b"ns:1"] if differs else [], [])


async def test_a_key_of_which_an_exchange_has_an_unknown_outcome_differs(store):
    agree(store, {b"ns:1": A, b"ns:2": A})
    facts = Facts()
    note_state(facts, b"ns:1", B)
    store.sending(store.next_number(), facts)
    side = Holder({b"ns:1": A, b"ns:2": A})
    assert (await found_by(comparing(store, expiries=True), side))[0] == [b"ns:1"]


async def test_other_namespaces_are_left_alone(store):
    agree(store, {b"ns:1": A, b"other:1": A})
    side = Holder({b"ns:1": B, b"other:1": B, b"other:2": B})
    page = side.page

    async def careless(_prefix, *about):
        return await page(b"", *about)

    side.page = careless
    assert await found_by(comparing(store, expiries=True), side) == ([b"ns:1"], [])


@pytest.mark.parametrize("when", ["sums", "page"])
async def test_what_changes_meanwhile_is_found_or_left_to_its_own_event(store, when):
    states = dict.fromkeys(keys(9), A)
    agree(store, states)
    side = Holder(states | {b"ns:7": B})

    def change(question):
        if question == when:
            side.held[b"ns:7"] = A
            side.held.pop(b"ns:3", None)

    side.before = change
    differing, missing = await found_by(comparing(store), side)
    assert differing == []
    assert set(missing) <= {b"ns:3"}


async def test_what_was_lost_and_written_anew_while_the_side_was_gone_through_is_found(store):
    """A client wrote one field of a hash that the server had lost; a scan need not show what came after it began."""
    agree(store, {b"ns:h": HashState({b"f": b"1", b"g": b"1"})})
    side = Holder({})

    def write(question):
        if question == "looks":
            side.held[b"ns:h"] = HashState({b"f": b"2"})

    side.before = write
    assert await found_by(comparing(store), side) == ([b"ns:h"], [])


VALUES = st.sampled_from([A, B, HashState({b"f": b"1"}), HashState({b"f": b"2"}), "list"])
SIDES = st.dictionaries(st.sampled_from([*keys(12), b"ns:", b"ns:\xff", b"other"]), VALUES, max_size=14)


@given(SIDES, SIDES, st.integers(1, 6), st.integers(0, 2), st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_differs_is_found(held, agreed, step, left, expiries):
    agreed = {key: state for key, state in agreed.items() if state != "list"}

    async def compared():
        with tempfile.TemporaryDirectory() as directory:
            pair = Pair("site", "hub", "{}")
            store = Store(Path(directory), pair, digest_of_hash=hash_digest, bucket_of=bucket_of)
            agree(store, agreed)
            found = await found_by(comparing(store, expiries=expiries), Holder(held, step=step, left=left))
            await store.close()
            return found

    ours = {key: state for key, state in held.items() if key.startswith(PREFIX)}
    differing = sorted(key for key, state in ours.items() if state not in ("list", agreed.get(key)))
    missing = sorted(key for key in agreed if key.startswith(PREFIX) and key not in held)
    assert asyncio.run(compared()) == (differing, missing)


@pytest.mark.parametrize("differs", [False, True])
async def test_a_comparison_takes_its_time(store, monkeypatch, differs):
    """So much that the rate of keys is not exceeded, by the clock that it looks at."""
    now = slept = 0.0

    async def sleep(seconds):
        nonlocal now, slept
        now, slept = now + seconds, slept + seconds

    monkeypatch.setattr("redisrepl.flow.comparison.time.monotonic", lambda: now)
    monkeypatch.setattr("redisrepl.flow.comparison.asyncio.sleep", sleep)
    agree(store, dict.fromkeys(keys(300), A))
    side = Holder(dict.fromkeys(keys(300), B if differs else A), step=100)
    await found_by(comparing(store, rate=100.0), side)
    assert slept >= 3.0 * (2 if differs else 1)
