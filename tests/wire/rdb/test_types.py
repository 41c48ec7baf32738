"""The table of value types."""

from __future__ import annotations

from redisrepl.wire.rdb.types import KINDS, VALKEY_KINDS


def test_every_type_but_the_two_that_cannot_be_read():
    assert set(KINDS) == set(VALKEY_KINDS) == set(range(33)) - {6, 8}


def test_magic_decides_what_type_22_is():
    differing = [number for number in KINDS if KINDS[number] != VALKEY_KINDS[number]]

    assert differing == [22]
