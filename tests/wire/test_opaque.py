"""Values without a portable form, read, digested and written by the scripts of a server that has such a type."""

from __future__ import annotations

import pytest

from redisrepl.changes import KINDS, Deleted, ExpirySet, SequenceSet, SequenceState, StringState
from redisrepl.engine.echo import shown_in_stream
from redisrepl.engine.plans import replacing
from redisrepl.local.apply import site_commands
from redisrepl.wire.batches import MOVED, batch_words, parse_batch_reply, push_script
from redisrepl.wire.collections import extra_types
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.digests import LOOK_SCRIPT, Look, digest_of, parse_looks
from redisrepl.wire.states import STATES_SCRIPT, parse_states
from redisrepl.wire.writes import events_of, simple_commands
from testbed import RedisServer
from testbed.module import NOTES, NotesModule

FAR = 4_000_000_000_000
K = b"k"
OTHERS = extra_types({"list", "opaque"})


@pytest.fixture(scope="module")
def redis():
    with NotesModule() as module, RedisServer(config={"loadmodule": str(module.file)}) as server:
        yield server.client()


@pytest.fixture
def dump(redis):
    """What DUMP says of a note with this text."""

    def dump(text):
        redis.execute_command("NOTE.SET", "of another", text)
        return redis.dump("of another")

    return dump


def note(redis):
    return redis.execute_command("NOTE.GET", K)


def pushed(redis, *command):
    words = (b"%d" % len(command), *command)
    items = redis.eval(push_script(frozenset({"opaque"})), 0, *batch_words(b"t"), *words)
    return parse_batch_reply(items, 1, b"t").errors.get(0, "")


def digest(*texts):
    return b"%015x" % digest_of(K, SequenceState(texts, None, "opaque"))


def test_it_is_read_where_it_is_replicated_and_named_by_its_type_elsewhere(redis):
    redis.execute_command("NOTE.SET", K, "text")
    redis.pexpireat(K, FAR)
    state = SequenceState((redis.dump(K),), FAR, "opaque")

    assert parse_states(redis.eval(STATES_SCRIPT, 0, b"1000%b" % OTHERS, b"", K)) == [state]
    assert parse_states(redis.eval(STATES_SCRIPT, 0, b"1000 list ", b"", K)) == [NOTES.decode()]
    looks = redis.eval(LOOK_SCRIPT, 0, b"1" + OTHERS, b"1000", K)
    assert parse_looks(looks, 1) == [Look(digest_of(K, state), FAR)]


def test_the_version_and_the_checksum_at_its_end_are_not_compared(dump):
    value = dump("text")
    assert digest(value) == digest(value[:-10] + bytes(10))
    assert digest(value) != digest(dump("texts"))


@pytest.mark.parametrize("before", ["note", "string", "nothing"])
def test_it_replaces_what_is_there_and_keeps_the_expiry(redis, dump, before):
    if before != "nothing":
        redis.execute_command("NOTE.SET" if before == "note" else "SET", K, "before")
        redis.pexpireat(K, FAR)

    assert pushed(redis, b"OPAQUESET", K, dump("after")) == ""
    assert (note(redis), redis.pexpiretime(K)) == (b"after", -1 if before == "nothing" else FAR)


def test_on_a_condition_it_is_put_where_the_key_holds_what_it_should(redis, dump):
    first, second = dump("first"), dump("second")
    assert pushed(redis, b"OPAQUEIF", K, digest(second), first) == MOVED
    assert pushed(redis, b"OPAQUEIF", K, b",%b" % digest(second), first) == ""
    assert pushed(redis, b"OPAQUEIF", K, b"", second) == MOVED
    assert note(redis) == b"first"
    assert pushed(redis, b"OPAQUEIF", K, digest(first), second) == ""
    assert note(redis) == b"second"


def test_what_is_refused_leaves_what_is_there(redis):
    redis.set(K, "before")
    assert pushed(redis, b"OPAQUESET", K, b"no dump") == "ERR DUMP payload version or checksum are wrong"
    assert redis.get(K) == b"before"


def test_where_scripts_are_refused_it_is_one_plain_command(redis, dump):
    (command,) = simple_commands([b"OPAQUESET", K, dump("text")])
    redis.execute_command(*command)
    assert note(redis) == b"text"
    assert events_of(command) == events_of([b"OPAQUESET", K, b""]) == (b"restore",)


def test_what_takes_the_place_of_something_at_the_site_is_no_removal_first():
    value = SequenceState((b"dump",), FAR, "opaque")
    changes = [SequenceSet(K, (b"dump",), "opaque"), ExpirySet(K, FAR)]
    assert replacing(K, StringState(b"v"), value, frozenset({"opaque", "expire"})) == changes
    assert replacing(K, value, None, frozenset({"opaque"})) == [Deleted(K)]


def test_what_is_applied_to_the_site_shows_in_its_stream_as_what_is_expected():
    """Where no message may say who applied it, that is all by which we know our own write."""
    change = SequenceSet(K, (b"dump",), "opaque")
    decode = ChangeDecoder(lambda _: True, KINDS | {"opaque"})
    assert [shown for command in site_commands(change) for shown in decode.decode(command)] == [
        *shown_in_stream(change)
    ]
