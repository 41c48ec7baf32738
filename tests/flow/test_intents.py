"""What is kept of pushes whose outcome is unknown."""

from redisrepl.changes import HashSet, StringSet
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
