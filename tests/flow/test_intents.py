"""What is kept of pushes whose outcome is unknown."""

from redisrepl.changes import Deleted, ExpirySet, FieldsDeleted, HashSet, StringSet
from redisrepl.engine.ancestor import NOTHING_AGREED
from redisrepl.flow.intents import MOST, Intents
from redisrepl.wire.digests import string_digest


async def test_of_more_tries_than_can_be_kept_the_latest_are(store):
    """A proxy may fail each of them for days."""
    intents = Intents(store)
    for number in range(MOST + 2):
        intents.keep((intents.sending([StringSet(b"k", b"%d" % number)], appends=False),), (b"k",))
    assert len(intents) == MOST
    known = (await store.lookup([b"k"]))[b"k"].intents
    assert known == tuple(string_digest(b"k", b"%d" % number) for number in range(2, MOST + 2))


async def test_that_elements_of_many_keys_have_moved_costs_no_try(store):
    intents = Intents(store)
    intents.keep((intents.sending([StringSet(b"k", b"v")], appends=False),), (b"k",))
    keys = [b"h%d" % number for number in range(MOST + 1)]
    intents.answered([HashSet(key, {b"f": b"v"}) for key in keys], keys)
    assert len(intents) == MOST + 2
    assert (await store.lookup([b"k"]))[b"k"].intents == (string_digest(b"k", b"v"),)


async def test_what_was_written_beside_moved_elements_is_known_until_it_changes_or_is_compared(store):
    """An answer about other elements of the key tells nothing of it: a removal of it would come back."""

    async def known():
        return (await store.lookup([b"h"], elements=True)).get(b"h", NOTHING_AGREED).element_intents.keys()

    intents = Intents(store)
    intents.answered([HashSet(b"h", dict.fromkeys((b"a", b"b", b"c", b"d"), b"v"))], {b"h"})
    intents.answered([HashSet(b"h", {b"e": b"v"}), ExpirySet(b"h", None), HashSet(b"other", {b"a": b"v"})], ())
    assert await known() == {b"a", b"b", b"c", b"d"}
    intents.answered([HashSet(b"h", {b"a": b"w"})], ())
    assert await known() == {b"b", b"c", b"d"}
    intents.answered([HashSet(b"h", {b"f": b"v"}), FieldsDeleted(b"h", (b"b",))], {b"h"})
    assert await known() == {b"b", b"c", b"d", b"f"}
    assert len(intents) == 1
    intents.looked_at({b"h"})
    intents.answered([FieldsDeleted(b"h", (b"b", b"c"))], ())
    assert await known() == {b"d", b"f"}
    intents.answered([Deleted(b"h")], ())
    assert not await known()
    assert not len(intents)
