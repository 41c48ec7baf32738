"""Facts come out of their encoding as they went in, and bytes that are no facts are refused."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisrepl.store.facts import Changes, Patch
from redisrepl.store.reading import MALFORMED
from tests.store.stores import facts, name, strings

EVERYTHING = facts(
    ("strings", [b"a", b""], [1, (1 << 60) - 1]),
    ("string", b"b", 2, 77),
    ("fields", b"c", {name(1): 5}, [name(2)]),
    ("hash", b"d", {name(1): (1 << 96) - 1}, None),
    ("gone", b"e"),
    ("expiry", b"f", None),
    ("expiry", b"b", 78),
)


def test_everything_there_and_back():
    changes = Changes()
    changes.take(EVERYTHING.encoded(), 9)

    assert changes == {
        b"a": (1, 9, None),
        b"": ((1 << 60) - 1, 9, None),
        b"b": (2, 9, 78),
        b"c": Patch(9, False, {name(1): 5, name(2): None}, left=1),
        b"d": Patch(9, True, {name(1): (1 << 96) - 1}, True),
        b"e": None,
        b"f": Patch(9, False, {}, True, True),
    }


@pytest.mark.parametrize("besides", [[b"a"], [b"a", b"b", b"c", b"d", b"e", b"f", b""]])
def test_some_keys_are_left_out(besides):
    whole, changes = Changes(), Changes()
    whole.take(EVERYTHING.encoded(), 9)
    changes.take(EVERYTHING.encoded(), 9, besides)

    assert changes == {key: entry for key, entry in whole.items() if key not in besides}


def test_nothing_is_no_fact():
    empty = facts(("strings", [], []), ("fields", b"key", {}))

    assert not empty
    assert empty.encoded() == b""


def test_a_digest_too_few_is_noticed_at_once():
    with pytest.raises(struct.error):
        facts(("strings", [b"a", b"b"], [1]))


@pytest.mark.parametrize("length", range(1, len(EVERYTHING.encoded())))
def test_facts_that_are_cut_off(length):
    """Either whole facts are left, or it is an error; never half a fact."""
    whole, changes = Changes(), Changes()
    whole.take(EVERYTHING.encoded(), 9)
    try:
        changes.take(EVERYTHING.encoded()[:length], 9)
    except MALFORMED:
        return
    assert all(entry == whole[key] or (key, entry) == (b"b", (2, 9, 77)) for key, entry in changes.items())


@given(st.binary(), st.integers(1, 7))
def test_any_bytes_are_facts_or_an_error(data, operation):
    with_operation = bytes([operation]) + data
    for given_bytes in (data, with_operation):
        with contextlib.suppress(MALFORMED):
            Changes().take(given_bytes, 1)


def test_strings_cost_few_bytes():
    keys = [b"site1:key:%016d" % n for n in range(1000)]
    encoded = strings(*((key, n) for n, key in enumerate(keys))).encoded()

    assert len(encoded) < 39 * 1000
