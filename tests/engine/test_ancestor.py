"""What is recorded as agreed is what both sides hold, once the changes have happened."""

from __future__ import annotations

from itertools import product

import pytest

from redisrepl.changes import Deleted, ExpirySet, FieldsDeleted, HashSet, HashState, Invalidated, StringSet, StringState
from redisrepl.engine.ancestor import note_changes, note_state
from redisrepl.store import Facts
from redisrepl.store.facts import Changes
from redisrepl.wire.digests import string_digest
from tests.engine.sides import KEY, Memory, changed, hash_, string

STATES = [None, string("a"), string("a", 5), hash_(f="1"), hash_(5, f="1", g="1")]
CHANGES = [
    StringSet(KEY, b"b"),
    StringSet(KEY, b"b", 7),
    HashSet(KEY, {b"f": b"2", b"h": b"1"}),
    HashSet(KEY, {b"f": b"2", b"g": None}),  # read, and not there
    Deleted(KEY),
    FieldsDeleted(KEY, (b"f",)),
    FieldsDeleted(KEY, (b"f", b"g")),
    ExpirySet(KEY, 9),
    ExpirySet(KEY, None),
]


def possible(state, changes):
    """Whether a server would have executed these, one after the other."""
    for change in changes:
        if isinstance(change, HashSet | FieldsDeleted) and isinstance(state, StringState):
            return False
        state = changed(state, [change])
    return True


@pytest.mark.parametrize("state", STATES)
def test_changes_are_noted_as_they_happen(state):
    for changes in [*product(CHANGES), *product(CHANGES, repeat=2), *product(CHANGES, repeat=3)]:
        if possible(state, changes):
            memory = Memory(state)
            note_changes(memory, changes)
            assert memory.holds(changed(state, changes)), changes


@pytest.mark.parametrize("before", STATES)
@pytest.mark.parametrize("state", STATES)
def test_a_state_is_noted_whatever_was_agreed_before(before, state):
    memory = Memory(before)
    note_state(memory, KEY, state)
    assert memory.holds(state)


def test_fields_are_noted_beside_those_that_are_agreed_already():
    memory = Memory(hash_(5, f="1", g="1", h="1"))
    note_state(memory, KEY, {b"f": b"2", b"g": None, b"new": b"1"})
    assert memory.holds(HashState({b"f": b"2", b"h": b"1", b"new": b"1"}, 5))


def test_runs_of_plain_strings_are_noted_together_and_in_their_place():
    told = []

    class StreamedKeys(Memory):
        def strings(self, keys, digests):
            told.append((keys, digests))

        def gone(self, key):
            told.append(key)

    keys = [b"a", b"b", b"c", b"d"]
    one, two, three, four = (StringSet(key, b"v") for key in keys)
    note_changes(StreamedKeys(), [one, two, Deleted(b"a"), three, Invalidated(b"x"), four])
    digests = {key: string_digest(key, b"v") for key in keys}
    assert told[:2] == [(keys[:2], [digests[b"a"], digests[b"b"]]), b"a"]
    assert [key for run, _ in told[2:] for key in run] == [b"c", b"d"]
    note_changes(StreamedKeys(), [])
    assert len(told) <= 4


def test_the_facts_of_the_store_are_of_this_shape():
    """What is told to `store.Facts` comes out of it as it was told."""
    facts, memory, found = Facts(), Memory(), Changes()
    for changes in ([StringSet(KEY, b"v")], [StringSet(KEY, b"v", 7)], [Deleted(KEY)]):
        note_changes(facts, changes)
        note_changes(memory, changes)
        found.take(facts.encoded(), 1)
        expected = None if memory.digest is None else (memory.digest, 1, memory.expires_at_ms)
        assert found[KEY] == expected
    note_changes(facts, [HashSet(KEY, {b"f": b"1", b"g": b"1"}), FieldsDeleted(KEY, (b"g",)), ExpirySet(KEY, 5)])
    note_changes(memory, [HashSet(KEY, {b"f": b"1"}), ExpirySet(KEY, 5)])
    found.take(facts.encoded(), 2)
    patch = found[KEY]
    assert (patch.whole, patch.expires_at_ms) == (True, 5)
    assert {name: digest for name, digest in patch.elements.items() if digest is not None} == memory.elements
