"""Elements of a large collection: what the script says on a real server, and what is made of it."""

from __future__ import annotations

import random

import pytest

from redisrepl.changes import ReckonedExpiry, expiries_differ
from redisrepl.errors import OutcomeUnknownError, ProtocolError
from redisrepl.wire.collections import COLLECTIONS, put_words
from redisrepl.wire.elements import ELEMENTS_SCRIPT, Elements, Question, Section, parse_elements
from testbed import RedisServer

KEY = b"k"
FAR = 4_102_444_800_000
#: Names of every length that matters to a bucket, with every byte.
NAMES = [b"", *(bytes([n]) for n in range(256)), *(b"%d:\xff\r\n%d" % (n, n) for n in range(5000))]


@pytest.fixture(scope="module")
def client():
    with RedisServer() as server:
        yield server.client()


def elements_of_type(kind, names=NAMES):
    rng = random.Random(1)
    match kind:
        case "hash":
            return {name: rng.randbytes(rng.randrange(20)) for name in names}
        case "set":
            return dict.fromkeys(names, b"")
        case _:
            return {name: b"%.17g" % rng.choice([rng.random() * 1e9, rng.randrange(100), -0.5]) for name in names}


def put(client, kind, elements):
    client.delete(KEY)
    for start in range(0, len(elements), 1000):
        its = COLLECTIONS[kind]
        client.execute_command(its.put, KEY, *put_words(kind, list(elements.items())[start : start + 1000]))
    client.pexpireat(KEY, FAR)


SHAPE = (64, 80)


def asked(client, kind, wanted, first=0, names=(), shape=SHAPE):
    question = Question(KEY, kind, wanted, shape, first, names)
    return parse_elements(client.execute_command("EVAL", ELEMENTS_SCRIPT, 0, *question.words(b"t-1")), b"t-1", question)


def sections_of(client, kind, wanted, count):
    """All sections, and how many runs it took."""
    found, runs, first = [], 0, 0
    while True:
        page = asked(client, kind, wanted, first)
        assert (page.type, page.expires_at_ms, page.length) == (kind, FAR, count)
        runs += 1
        found += page.sections
        first = page.following
        if not first:
            return found, runs
        assert first == len(found)


def elements_of(sections):
    return {name: value for section in sections for name, value in section.found.items()}


@pytest.mark.parametrize("kind", ["hash", "set", "zset"])
def test_sections_tell_all_elements_and_where_something_has_changed(client, kind):
    elements = elements_of_type(kind)
    put(client, kind, elements)
    found, runs = sections_of(client, kind, b"all", len(elements))
    assert elements_of(found) == elements
    assert sum(len(section.found) for section in found) < 1.5 * len(elements)  # they end with some of the next one
    assert runs > 1  # none goes through all of it
    assert len(found) == 64

    digests, _ = sections_of(client, kind, b"digests", len(elements))
    assert [section.digest for section in digests] == [section.digest for section in found]
    assert {len(section.found) for section in digests} == {0}

    client.execute_command(COLLECTIONS[kind].remove, KEY, b"\xff")
    if kind != "set":
        client.execute_command(COLLECTIONS[kind].put, KEY, *put_words(kind, [(b"7:\xff\r\n7", b"-1")]))
    after, _ = sections_of(client, kind, b"digests", len(elements) - 1)
    differing = [number for number in range(64) if after[number].digest != digests[number].digest]
    assert 1 <= len(differing) <= 8  # what was moved as the table grows, too
    changed = asked(client, kind, b"at", names=[b"%d" % number for number in differing]).sections
    assert [section.digest for section in changed] == [after[number].digest for number in differing]
    was, now = elements_of(found[number] for number in differing), elements_of(changed)
    lost = sorted(was.keys() - now.keys())  # of some a section ends with, the next one may tell now
    assert b"\xff" in lost
    (left,) = asked(client, kind, b"named", names=lost).sections
    assert left.found.keys() == set(lost) - {b"\xff"}
    assert kind == "set" or {name for name in now if now[name] != elements.get(name)} == {b"7:\xff\r\n7"}

    named = asked(client, kind, b"named", names=[b"", b"\xfe", b"\xff"]).sections
    assert [section.found for section in named] == [{b"": elements[b""], b"\xfe": elements[b"\xfe"]}]


def test_a_run_ends_after_so_many_bytes(client):
    elements = {b"%d" % n: bytes(100_000) for n in range(40)}
    put(client, "hash", elements)
    page = asked(client, "hash", b"all", shape=(16, 2))
    assert 0 < sum(len(value) for section in page.sections for value in section.found.values()) < 2_000_000
    assert page.following


def test_a_key_of_another_type_has_no_elements(client):
    client.delete(KEY)
    assert asked(client, "hash", b"digests").type == "none"
    client.set(KEY, "v")
    assert asked(client, "hash", b"all")[1:] == ("string", None, 0, 0, ())


QUESTION = Question(b"k", "hash", b"all", (9, 20), first=5)
HEAD = (b"17 t", b"hash", b"")


@pytest.mark.parametrize(
    "items",
    [
        (),
        (b"17 t",),
        (b"now t", b"hash", b""),
        (*HEAD, b"x", b"0"),
        (*HEAD, b"1", b"0"),
        (*HEAD, b"1", b"5"),
        (*HEAD, b"1", b"7", b"d", b"0"),
        (*HEAD, b"1", b"11", *[b"d", b"0"] * 6),
        (*HEAD, b"1", b"-1"),
        (*HEAD, b"1", b"0", b"d"),
        (*HEAD, b"1", b"0", b"d", b"-2"),
        (*HEAD, b"1", b"0", b"d", b"4", b"name", b"value"),
        (*HEAD, b"1", b"0", b"d", b"1", b"name without a value"),
        (b"17 t", b"hash", b"soon", b"1", b"0"),
        (b"17 t", b"h\xff", b"", b"1", b"0"),
    ],
)
def test_what_is_not_an_answer_of_the_script_is_refused(items):
    with pytest.raises((ProtocolError, OutcomeUnknownError)):
        parse_elements(items, b"t", QUESTION)


def test_an_answer_holds_sections():
    reply = (*HEAD, b"9", b"7", b"d", b"2", b"name", b"value", b"e", b"0")
    sections = [Section(b"d", {b"name": b"value"}), Section(b"e", {})]
    assert parse_elements(reply, b"t", QUESTION) == Elements(17, "hash", None, 9, 7, sections)
    with pytest.raises(OutcomeUnknownError):
        parse_elements(reply, b"other", QUESTION)


def test_a_server_that_does_not_tell_the_time_of_an_expiry():
    """Redis before 7.0, or a user who may not ask: it is reckoned from what is left of it."""
    with RedisServer(users=["default on nopass ~* &* +@all -pexpiretime"]) as server:
        client = server.client()
        put(client, "set", dict.fromkeys(NAMES, b""))
        page = asked(client, "set", b"all")
        assert isinstance(page.expires_at_ms, ReckonedExpiry)
        assert not expiries_differ(page.expires_at_ms, FAR)
        client.persist(KEY)
        assert asked(client, "set", b"all").expires_at_ms is None
