"""Runs a sample through the reader in every way that bytes can arrive, and insists on one answer."""

from __future__ import annotations

import pytest

from redisrepl.errors import RdbError
from redisrepl.wire.rdb import RdbReader, assemble

GARBAGE = b"\x00\xffafter the end\xfa"


def events(data, chunk=None, **options):
    """The events of a whole snapshot, parts put together; `chunk` bytes are fed at a time, all by default."""
    reader = RdbReader(**options)
    return list(assemble(feed(reader, data, chunk)))


def feed(reader, data, chunk=None):
    for start in range(0, len(data), chunk or len(data) or 1):
        yield from reader.feed(data[start : start + (chunk or len(data))])
    reader.close()


def check(data, *, cuts=300, **options):
    """Reads the sample whole, in pieces, with garbage behind it, and cut off; returns its events."""
    whole = events(data, **options)

    for chunk in (1, 7):
        assert repr(events(data, chunk, **options)) == repr(whole)  # repr, because NaN differs from itself
    for chunk in (None, 1, 11):
        reader = RdbReader(**options)
        assert repr(list(assemble(feed(reader, data + GARBAGE, chunk)))) == repr(whole)
        assert reader.unused == GARBAGE
        assert reader.offset == len(data)
    for cut in range(0, len(data), max(1, len(data) // cuts)):
        reader = RdbReader(**options)
        with pytest.raises(RdbError, match="truncated"):
            list(feed(reader, data[:cut], None if cut % 2 else 5))
        with pytest.raises(RdbError, match="truncated"):
            reader.close()
        with pytest.raises(RdbError, match="truncated"):
            reader.feed(b"x")
    return whole


def check_modes(data, **options):
    """`check`, and that keys alone and keys filtered away say the same about the frame."""
    whole = check(data, **options)
    keys = check(data, want_values=False, **options)
    assert [strip(event) for event in keys] == [strip(event) for event in whole]
    none = check(data, prefixes=(b"\x00no such key",), **options)
    assert none == [event for event in whole if not hasattr(event, "db")]
    return whole


def strip(event):
    return event._replace(value=None) if hasattr(event, "db") else event


def values(data, **options):
    """Key: value of a checked sample."""
    return {event.key: event.value for event in check_modes(data, **options) if hasattr(event, "db")}


def fails(data, match=None, **options):
    """The error of a damaged sample, the same however it arrives."""
    with pytest.raises(RdbError, match=match) as whole:
        events(data, **options)
    reader = RdbReader(**options)
    with pytest.raises(RdbError, match=match):
        list(feed(reader, data, 1))
    with pytest.raises(RdbError, match=match):
        reader.feed(b"")
    with pytest.raises(RdbError, match=match):
        reader.close()
    return whole.value
