"""What is kept of pushes whose outcome is unknown."""

import pytest

from redisrepl.changes import Deleted, ExpirySet, FieldsDeleted, HashSet, StringSet
from redisrepl.engine.ancestor import NOTHING_AGREED, note_changes
from redisrepl.flow.intents import MOST, Intents
from redisrepl.store import Facts
from redisrepl.wire.digests import string_digest


async def test_of_more_tries_than_can_be_kept_the_latest_are(store):
    """A proxy may fail each of them for days."""
    intents = Intents(store)
    for number in range(MOST + 2):
        intents.keep((intents.sending([StringSet(b"k", b"%d" % number)], appends=False),), (b"k",))
    assert len(intents) == MOST
    known = (await store.lookup([b"k"]))[b"k"].intents
    assert known == tuple(string_digest(b"k", b"%d" % number) for number in range(2, MOST + 2))


async def test_a_push_that_has_ended_is_not_taken_for_what_is_agreed_on_later(store):
    intents = Intents(store)
    number = intents.sending([StringSet(b"k", b"1"), Deleted(b"l")], appends=False)
    intents.keep((number,), (b"k", b"l"))

    async def known():
        return [known.intents for known in (await store.lookup([b"k", b"l"])).values()]

    def agree(value):
        facts = Facts()
        note_changes(facts, [StringSet(b"k", value), StringSet(b"l", value)])
        store.agreed(facts)

    intents.resolve(lambda _: False, ended=False)  # without a fence it may be executed yet
    agree(b"2")
    assert await known() == [(string_digest(b"k", b"1"),), (None,)]
    intents.resolve(lambda _: False, ended=True)
    assert await known() == [(string_digest(b"k", b"1"),), (None,)]
    agree(b"3")
    assert await known() == [(), ()]
    assert len(intents) == 1


def pushed(store, intents, *changes, moved=()):
    """A push of elements under a condition, and the hub's answer."""
    number = intents.sending(changes, appends=False)
    store.acknowledged(number, moved)
    intents.answered(number, changes, moved)


async def test_that_elements_of_many_keys_have_moved_costs_no_try(store):
    intents = Intents(store)
    intents.keep((intents.sending([StringSet(b"k", b"v")], appends=False),), (b"k",))
    keys = [b"h%d" % number for number in range(MOST + 1)]
    pushed(store, intents, *(HashSet(key, {b"f": b"v"}) for key in keys), moved=keys)
    assert len(intents) == MOST + 2
    assert (await store.lookup([b"k"]))[b"k"].intents == (string_digest(b"k", b"v"),)


async def test_what_was_written_beside_moved_elements_is_known_until_it_changes_or_is_compared(store):
    """An answer about other elements of the key tells nothing of it: a removal of it would come back."""

    async def known():
        return (await store.lookup([b"h"], elements=True)).get(b"h", NOTHING_AGREED).element_intents.keys()

    intents = Intents(store)
    pushed(store, intents, HashSet(b"h", dict.fromkeys((b"a", b"b", b"c", b"d"), b"v")), moved={b"h"})
    pushed(store, intents, HashSet(b"h", {b"e": b"v"}), ExpirySet(b"h", None), HashSet(b"other", {b"a": b"v"}))
    assert await known() == {b"a", b"b", b"c", b"d"}
    pushed(store, intents, HashSet(b"h", {b"a": b"w"}))
    assert await known() == {b"b", b"c", b"d"}
    pushed(store, intents, HashSet(b"h", {b"f": b"v"}), FieldsDeleted(b"h", (b"b",)), moved={b"h"})
    assert await known() == {b"b", b"c", b"d", b"f"}
    assert len(intents) == 2
    intents.looked_at({b"h"})
    pushed(store, intents, FieldsDeleted(b"h", (b"b", b"c")))
    assert await known() == {b"d", b"f"}
    intents.looked_at(())
    assert not await known()
    pushed(store, intents, HashSet(b"h", {b"a": b"v"}), moved={b"h"})
    assert await known() == {b"a"}
    pushed(store, intents, Deleted(b"h"))
    assert not await known()
    assert not len(intents)


async def test_what_a_push_may_have_left_counts_as_sent_when_it_was_however_late_that_is_found_out(store):
    """What is sent after a server went back tells what it holds since; what had been sent before does not."""
    intents, sent = Intents(store), HashSet(b"h", {b"a": b"v", b"b": b"v"})
    number = intents.sending([sent], appends=False)
    store.acknowledged(number, {b"h"})
    later = store.next_number()
    intents.answered(number, [sent], {b"h"})
    pushed(store, intents, HashSet(b"h", {b"a": b"w"}))
    told = (await store.agreed_since(later, most=9))[b"h"]
    assert told[b"b"] < later < told[b"a"]
    assert (await store.lookup([b"h"], elements=True))[b"h"].element_intents.keys() == {b"b"}


@pytest.mark.parametrize("appends", [False, True])
async def test_of_each_key_of_a_push_what_may_be_left_has_a_number_of_its_own(store, appends):
    """Also without a condition: what comes at the end of a stream is added though others cannot be inserted."""
    intents = Intents(store)
    keys = [b"a", b"b", b"c"]
    changes = [StringSet(b"s", b"v"), *(HashSet(key, {b"f": b"v"}) for key in keys), FieldsDeleted(b"c", (b"g",))]
    before, number = store.number, intents.sending(changes, appends=appends)
    store.acknowledged(number, keys)
    intents.answered(number, changes, set(keys))
    known = await store.lookup(keys, elements=True)
    assert {key: agreed.element_intents.keys() for key, agreed in known.items()} == {
        b"a": {b"f"},
        b"b": {b"f"},
        b"c": {b"f", b"g"},
    }
    places = await store.agreed_since(number, most=9)
    numbers = [{*places[key].values()} for key in keys]
    assert all(len(own) == 1 and before < max(own) < number for own in numbers)
    assert len(set.union(*numbers)) == len(intents) == len(keys)
