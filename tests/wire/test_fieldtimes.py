"""Expiries of hash fields: values, digests, what is read, and what is sent. Their Lua is tested in `matrix.cases`."""

import pytest

from redisrepl.changes import KINDS, HashSet, HashState, TimedValue, times_fields
from redisrepl.engine.recent import RecentChanges
from redisrepl.wire.batches import push_script
from redisrepl.wire.digests import LOOK_SCRIPT, PAGE_SCRIPT, SUMS_SCRIPT, digest_of, element_of
from redisrepl.wire.elements import ELEMENTS_SCRIPT, Question, parse_elements
from redisrepl.wire.fieldtimes import (
    NO_PUT_TIMED,
    NO_TIMES,
    FieldTimes,
    may_expire,
    moved_by,
    probes,
    question_of_times,
    shown_when_applied,
    timed_fields,
    times_of,
    with_times,
)
from redisrepl.wire.keyspace import announced_events
from redisrepl.wire.states import STATES_SCRIPT, parse_states
from redisrepl.wire.totals import TOTAL_SCRIPT
from redisrepl.wire.writes import (
    CONDITIONAL,
    MOVED,
    UNCHANGED,
    commands_if,
    commands_of,
    events_of,
    later,
    plain_command,
    simple_commands,
    written_keys,
)

K, F, G, V = b"k", b"f", b"g", b"v"
AT = 4_000_000_000_000
T = TimedValue(V, AT)


def test_a_value_that_expires_is_equal_only_to_the_same_with_the_same_expiry():
    assert TimedValue(V, AT) == T
    assert hash(T) == hash(TimedValue(V, AT))
    assert TimedValue(V, 1 << 70).expires_at_ms == (1 << 63) - 1  # whatever a peer claims
    for other in (V, TimedValue(V, AT + 1), TimedValue(b"w", AT), None):
        assert other != T
        assert other != T
    assert bytes(T) == V
    assert {F: T} != {F: V}
    assert HashState({F: T}) != HashState({F: V})
    assert HashSet(K, {F: T}) == HashSet(K, {F: TimedValue(V, AT)})
    assert {T, TimedValue(V, AT), V} == {T, V}


@pytest.mark.parametrize(
    ("kinds", "times"),
    [({"hset"}, False), ({"hset", "fields-expire"}, True), ({"sets", "fields-expire"}, False), (KINDS, True)],
)
def test_fields_without_hashes_mean_nothing(kinds, times):
    assert times_fields(frozenset(kinds)) is times


def test_the_digest_of_a_field_covers_its_expiry_and_is_marked():
    digests = {element_of(F, value) for value in (V, T, TimedValue(V, AT + 1), TimedValue(b"w", AT))}
    assert len(digests) == 4
    assert [may_expire(element_of(F, value)) for value in (T, V, TimedValue(V, -5))] == [True, False, True]
    assert digest_of(K, HashState({F: T})) != digest_of(K, HashState({F: V}))
    assert element_of(F, T) != element_of(F, V) == element_of(F, bytes(T))
    chance = sum(may_expire(element_of(b"%d" % number, V)) for number in range(20_000))
    assert chance < 20  # one in 65,536 has the mark for nothing


@pytest.mark.parametrize(
    "script", [STATES_SCRIPT, LOOK_SCRIPT, PAGE_SCRIPT, SUMS_SCRIPT, TOTAL_SCRIPT, ELEMENTS_SCRIPT, push_script()]
)
def test_scripts_read_expiries_only_where_they_are_replicated(script):
    off, on = FieldTimes(), FieldTimes(wanted=True)
    assert script.count(NO_TIMES.strip()) == 1
    assert b"HPEXPIRE" not in off.script(script) == script
    assert b"HPEXPIRETIME" in on.script(script)
    assert NO_TIMES not in on.script(script)
    assert b"at - 7000)" in on.script(script, 7000)
    assert b"at - -7000)" in on.script(script, -7000)
    on.on = False
    assert on.script(script) == script


def test_only_the_script_of_batches_sets_them():
    script = push_script(frozenset({"hash"}))
    assert script.count(NO_PUT_TIMED) == 1
    assert b"HPEXPIREAT" in FieldTimes(wanted=True).script(script)


def test_changes_lose_their_expiries_where_a_server_has_none():
    times = FieldTimes(wanted=True)
    changes = [HashSet(K, {F: T, G: V}), HashSet(b"s", {F: b""}, "set")]
    assert times.changes(changes) is changes
    times.on = False
    assert times.changes(changes) == [HashSet(K, {F: V, G: V}), HashSet(b"s", {F: b""}, "set")]
    assert type(times.changes(changes)[0].fields[F]) is bytes
    assert FieldTimes().changes(changes) is changes  # not wanted: there are none


def test_what_is_read():
    assert timed_fields([F, V, b"%d" % AT, G, V, b""]) == {F: T, G: V}
    assert timed_fields([F, V, b"-5"]) == {F: TimedValue(V, -5)}
    assert question_of_times(K, [F, G]) == [b"HPEXPIRETIME", K, b"FIELDS", b"2", F, G]
    assert times_of([V, V, None, V], [AT, -1, -2, -1]) == [T, V, None, V]
    assert with_times({F: V, G: V}, [-1, AT]) == {F: V, G: T}
    for damaged in ([AT], ValueError("ERR unknown command"), b"x", [b"x", b"y"]):
        assert with_times({F: V, G: V}, damaged) == {F: V, G: V}


@pytest.mark.parametrize("words", [[F, V], [F, V, b"x"], [F, V, b"--1"], [F, V, b"1" * 19], [F, V, b"-"]])
def test_triples_that_are_none(words):
    with pytest.raises(ValueError):  # noqa: PT011 - callers catch just that
        timed_fields(words)


def test_replies_of_scripts():
    reply = [b"1 t", b"hash+", b"", b"6", F, V, b"%d" % AT, G, V, b"", b"hash", b"5", b"2", F, V]
    assert parse_states(reply) == [HashState({F: T, G: V}), HashState({F: V}, 5)]
    question = Question(K, "hash", b"named", (4, 1), names=[F, G])
    elements = parse_elements(
        [b"1 t", b"hash+", b"", b"2", b"0", b"", b"6", F, V, b"%d" % AT, G, V, b""], b"t", question
    )
    assert (elements.type, elements.sections[0].found) == ("hash", {F: T, G: V})


def test_fields_are_set_then_given_their_expiries():
    change = HashSet(K, {F: T, G: V, b"h": T, b"i": TimedValue(V, 5), b"j": None})
    commands = list(commands_of(change))
    assert commands == [
        [b"HSET", K, F, V, G, V, b"h", V, b"i", V],
        [b"HPEXPIREAT", K, b"%d" % AT, b"FIELDS", b"2", F, b"h"],
        [b"HPEXPIREAT", K, b"5", b"FIELDS", b"1", b"i"],
    ]
    assert [event for command in commands for event in events_of(command)] == [b"hset", b"hexpire", b"hexpire"]
    many = HashSet(K, {b"%d" % number: T for number in range(2500)})
    assert [len(c) - 5 for c in commands_of(many) if c[0] == b"HPEXPIREAT"] == [1000, 1000, 500]
    assert list(shown_when_applied(change))[1:] == [HashSet(K, {F: None, b"h": None}), HashSet(K, {b"i": None})]
    assert shown_when_applied(change)[0] == HashSet(K, {F: V, G: V, b"h": V, b"i": V, b"j": None})


def test_on_a_condition_a_field_that_expires_takes_a_command_of_its_own():
    there = element_of(F, TimedValue(V, 5))
    plain, timed = commands_if([HashSet(K, {F: T, G: V})], None, {F: (there, None), G: (None,)})
    assert plain == [b"HSETNX", K, G, V]
    assert timed == [b"HTIMEIF", K, F, b"%024x," % there, V, b"%d" % AT]
    assert type(timed[4]) is bytes
    assert timed[0] in CONDITIONAL
    assert list(written_keys(timed)) == [K]
    assert events_of(timed) == (b"hset", b"hexpire")
    assert list(commands_if([HashSet(K, {F: T})], None, None)) == [[b"HTIMEIF", K, F, b"", V, b"%d" % AT]]
    assert later(timed, 7) == [*timed[:5], b"%d" % (AT + 7)]
    assert later([b"HPEXPIREAT", K, b"5", b"FIELDS", b"1", F], -9)[2] == b"1"


@pytest.mark.parametrize(
    ("held", "alternatives", "outcome"),
    [
        (None, b"", ""),
        ({G: V}, b"", ""),
        ({F: T}, b"", UNCHANGED),
        ({F: V}, b"", MOVED),
        ({F: V}, b"%024x" % element_of(F, V), ""),
        ({F: TimedValue(V, 5)}, b"%024x" % element_of(F, V), MOVED),
        ({F: TimedValue(V, 5)}, b",%024x" % element_of(F, TimedValue(V, 5)), ""),
    ],
)
def test_on_a_condition_without_scripts(held, alternatives, outcome):
    command = [b"HTIMEIF", K, F, alternatives, V, b"%d" % AT]
    plain, found = plain_command(command, None if held is None else HashState(held))
    assert found == outcome
    if plain is None:
        assert outcome
    else:
        assert simple_commands(plain) == [[b"HSET", K, F, V], [b"HPEXPIREAT", K, b"%d" % AT, b"FIELDS", b"1", F]]


@pytest.mark.parametrize("held", [T, TimedValue(V, 5)])
def test_a_value_without_an_expiry_replaces_one_with(held):
    """Also where scripts are refused, and the bytes are the same."""
    command = [b"HSETIF", K, F, b"%024x" % element_of(F, held), V]
    assert plain_command(command, HashState({F: held})) == ([b"HSET", K, F, V], "")


def test_expiries_are_moved_between_the_clocks():
    assert moved_by({F: T, G: V}, -7) == {F: TimedValue(V, AT - 7), G: V}
    plain = {F: V}
    assert moved_by(plain, 7) is plain


def test_their_events_are_expected_where_they_are_replicated():
    assert b"hexpire" in announced_events(KINDS)
    assert b"hexpire" not in announced_events(KINDS - {"fields-expire"})


def test_a_server_is_asked_for_what_it_must_know():
    read, write = probes(b"a:", writes=True)
    assert read == [b"HPEXPIRETIME", b"a:redisrepl:check", b"FIELDS", b"1", b"f"]
    assert write[0] == b"HPEXPIREAT"
    assert probes(b"a:", writes=False) == [read]


def test_what_was_seen_last_keeps_them():
    recent = RecentChanges()
    recent.add(HashSet(K, {F: T}))
    assert recent.take()[0] == [HashSet(K, {F: T})]
