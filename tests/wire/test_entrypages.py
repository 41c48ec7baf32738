"""Entries of a large stream: what the script says on a real server, and what is made of it."""

from __future__ import annotations

import pytest

from redisrepl.changes import HashState
from redisrepl.errors import OutcomeUnknownError, ProtocolError
from redisrepl.wire.digests import Look, digest_of
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value
from redisrepl.wire.entrypages import BEGINNING, ENTRIES_SCRIPT, StreamFacts, behind, parse_entries, words_of
from redisrepl.wire.totals import TOTAL_SCRIPT, look_at_large, parse_total
from testbed import RedisServer

KEY = b"k"
FAR = 4_102_444_800_000
MOST = b"18446744073709551615"
#: Ids at which the next one is not that with one more behind it; more than one page of them.
IDS = [
    *(b"%d-%d" % (ms, seq) for ms in range(1, 20) for seq in (0, 8, 9, 10, 98, 99, 100, 999)),
    b"20-" + MOST,
    b"21-0",
    b"99-" + MOST,
    b"100-0",
    MOST + b"-0",
    MOST + b"-" + MOST,
]


@pytest.fixture(scope="module")
def client():
    with RedisServer() as server:
        yield server.client()


def fill(client, ids):
    client.delete(KEY)
    for id_ in ids:
        client.execute_command("XADD", KEY, id_, b"f", b"v\0\xff" + id_)
    client.pexpireat(KEY, FAR)
    return {entry_name(id_): entry_value([b"f", b"v\0\xff" + id_]) for id_ in ids}


def asked(client, begin=BEGINNING, enough=60, max_bytes=1 << 20):
    items = client.execute_command("EVAL", ENTRIES_SCRIPT, 0, *words_of(b"t-1", KEY, begin, enough, max_bytes))
    return parse_entries(items, b"t-1", begin)


def all_of(client, begin=BEGINNING, **limits):
    pages = [asked(client, begin, **limits)]
    while pages[-1].following != BEGINNING:
        pages.append(asked(client, pages[-1].following, **limits))
    return pages


@pytest.mark.parametrize("count", [0, 1, 49, 50, 51, len(IDS) - 1, len(IDS)])
def test_pages_tell_all_entries_in_their_order_and_the_last_id_in_the_end(client, count):
    entries = fill(client, IDS[: count or 1])
    if not count:  # there is no stream without an entry, but from which they were removed
        client.xtrim(KEY, maxlen=0)
        entries = {}
    for limits in ({"enough": 1}, {"enough": 1000}, {"max_bytes": 1}):
        pages = all_of(client, **limits)
        found = [name for page in pages for name in page.found]
        assert found == [*entries, LAST_ID]
        assert {name: value for page in pages for name, value in page.found.items() if name != LAST_ID} == entries
        assert all(page.expires_at_ms == FAR for page in pages)
        assert {page.facts.length for page in pages} == {len(entries)}
        assert {page.facts.first for page in pages} == {next(iter(entries), None)}
        assert len(pages) == (1 if limits == {"enough": 1000} else 1 + min(count, len(IDS) - 1) // 50)


@pytest.mark.parametrize("at", range(len(IDS)))
def test_behind_an_id_are_those_that_follow_it(client, at):
    entries = fill(client, IDS)
    found = [name for page in all_of(client, behind(IDS[at])) for name in page.found if name != LAST_ID]
    assert found == list(entries)[at + 1 :]


def test_the_facts_alone(client):
    fill(client, IDS[:70])
    client.xdel(KEY, IDS[0])
    page = asked(client, enough=0)
    assert page.facts == StreamFacts(69, 70, entry_name(IDS[1]), IDS[69])
    assert (page.found, page.following) == ({}, BEGINNING)


def test_what_is_no_stream_has_no_facts(client):
    client.delete(KEY)
    assert asked(client)[1:4] == ("none", None, None)
    client.set(KEY, "v", px=100_000)
    page = asked(client)
    assert (page.type, page.facts) == ("string", None)
    assert page.expires_at_ms is not None


@pytest.mark.parametrize(
    ("before", "now", "new", "removed"),
    [
        ((5, 5), (7, 7), 2, 0),
        ((5, 9), (4, 11), 2, 3),
        ((5, 5), (6, 7), 1, None),  # another was added elsewhere, or is gone again
        ((5, 5), (9, 7), 2, None),  # there are more than can be
        ((5, None), (7, 7), 2, None),
        ((5, 5), (7, None), 2, None),
    ],
)
def test_how_many_entries_are_gone(before, now, new, removed):
    first, last = b"", b"0-1"
    assert StreamFacts(*now, first, last).removed_since(StreamFacts(*before, first, last), new) == removed


PAGE = [b"1 t", b"stream", b"", b"2", b"2", b"1-0", b"2-0", b"0", b"1-0", b"\x92\xa1f\xa1v", b"last-id", b"2-0"]


@pytest.mark.parametrize(
    ("index", "item"),
    [
        (1, b"\xff"),
        (2, b"-1"),
        (3, b""),
        (3, b"x"),
        (4, b"-2"),
        (5, b"no id"),
        (6, b""),
        (7, b""),
        (7, b"2"),
        (7, b"1-0"),  # it would never end
        (8, b"0-9"),  # before the beginning
        (8, b"no id"),
        (11, None),
    ],
)
def test_what_the_script_does_not_return_is_refused(index, item):
    assert parse_entries(PAGE, b"t", b"1-0").found
    broken = [*PAGE[:index], *([] if item is None else [item]), *PAGE[index + 1 :]]
    with pytest.raises(ProtocolError):
        parse_entries(broken, b"t", b"1-0")


def test_a_page_without_entries_or_beyond_what_follows_is_refused():
    """Else a server could go on for ever."""
    for page in ([*PAGE[:7], b"9-0"], [*PAGE[:7], b"1-0", *PAGE[8:10]]):
        with pytest.raises(ProtocolError):
            parse_entries(page, b"t", b"1-0")


def test_entries_out_of_order_and_the_answer_to_another_request_are_refused():
    with pytest.raises(ProtocolError):
        parse_entries([*PAGE[:8], b"3-0", b"v", b"2-0", b"v"], b"t", b"1-0")
    with pytest.raises(OutcomeUnknownError):
        parse_entries(PAGE, b"another", b"1-0")


async def test_the_digest_of_a_large_stream_is_summed_over_several_runs(client):
    entries = fill(client, IDS[:-2])
    for number in range(200, 5000):
        client.xadd(KEY, {"f": number}, id=f"{number}-0")
        entries[entry_name(b"%d-0" % number)] = entry_value([b"f", b"%d" % number])
    cursors = []

    async def run(key, kind, cursor):
        cursors.append(cursor)
        return parse_total(client.execute_command("EVAL", TOTAL_SCRIPT, 0, key, kind, cursor))

    look = await look_at_large(KEY, Look(None, FAR, type="stream"), "a server", run)
    state = HashState({**entries, LAST_ID: b"4999-0"}, None, "stream")
    assert look == Look(digest_of(KEY, state), FAR)
    assert len(cursors) > 2
