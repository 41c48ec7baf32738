"""What the script of a batch does at a real server with commands that have a condition, and with the fence."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.changes import (
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    SequenceSet,
    SequenceState,
    StringSet,
    StringState,
)
from redisrepl.errors import FencedError, OutcomeUnknownError, ProtocolError, denies_key
from redisrepl.wire.batches import (
    MOVED,
    NO_FENCE,
    PUSH_SCRIPT,
    UNCHANGED,
    Answer,
    Fencing,
    batch_words,
    changed_nothing,
    parse_batch_reply,
    push_script,
)
from redisrepl.wire.digests import digest_of, element_of
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value
from redisrepl.wire.states import STATES_SCRIPT, parse_states
from redisrepl.wire.writes import (
    CONDITIONAL,
    commands_if,
    commands_of_batch,
    events_of,
    plain_command,
    simple_commands,
    written_keys,
)
from testbed import eventually
from tests.samples import write

FAR = 4_000_000_000_000
K = b"k"
TOKEN = b"5f-1"
FENCE = b"redisrepl:fence:us"


def answer_to(redis, *commands, fencing=NO_FENCE, feed=(b"", b""), token=TOKEN, script=PUSH_SCRIPT):
    """What the script answers to these commands."""
    words = [word for command in commands for word in (b"%d" % len(command), *command)]
    items = redis.eval(script, 0, *batch_words(token, feed, fencing), *words)
    return parse_batch_reply(items, sum(len(written_keys(command)) for command in commands), token)


def outcomes(redis, *commands, **options):
    return answer_to(redis, *commands, **options).errors


def state_of(redis, key=K, others=b" list set zset "):
    (state,) = parse_states(redis.eval(STATES_SCRIPT, 0, b"%d %b" % (1 << 30, others), b"", key))
    return state


def string(value, at=None):
    return StringState(value, at)


def hash_(at=None, **fields):
    return HashState({name.encode(): value.encode() for name, value in fields.items()}, at)


def d(state):
    """The digest of a key as the commands have it."""
    return b"" if state is None else b"%015x" % digest_of(K, state)


def e(field, value, type_="hash"):
    """Likewise that of a field."""
    return b"%024x" % element_of(field, value, type_)


def set_(*members):
    return HashState({member.encode(): b"" for member in members}, None, "set")


def zset(**scores):
    return HashState({member.encode(): score.encode() for member, score in scores.items()}, None, "zset")


def m(member):
    return e(member, b"", "set")


def z(member, score):
    return e(member, score, "zset")


A, B, DYING = string(b"a"), string(b"b"), string(b"a", FAR)
H, G = hash_(f="1"), hash_(f="2", g="1")
S, Z = set_("a"), zset(a="1.5")
L, LONG = SequenceState((b"a", b"b", b"a")), SequenceState(tuple(b"%d" % number for number in range(2500)))

# Each command by itself.


@pytest.mark.parametrize(
    ("held", "command", "outcome", "after"),
    [
        (A, [b"SETIF", K, b"b", b"", d(A)], None, B),
        (A, [b"SETIF", K, b"b", b"", b"", d(B), d(A)], None, B),
        (A, [b"SETIF", K, b"b", b"%d" % FAR, d(A)], None, string(b"b", FAR)),
        (DYING, [b"SETIF", K, b"b", b"", d(A)], None, B),
        (None, [b"SETIF", K, b"b", b"", d(A), b""], None, B),
        (H, [b"SETIF", K, b"b", b"", d(H)], None, B),
        (B, [b"SETIF", K, b"b", b"", d(A)], UNCHANGED, B),
        (None, [b"SETIF", K, b"b", b"", d(A)], MOVED, None),
        (G, [b"SETIF", K, b"b", b"", d(H)], MOVED, G),
        (A, [b"SETIF", K, b"b", b"", b""], MOVED, A),
        (A, [b"SETIF", K, b"b", b""], MOVED, A),
        ("stream", [b"SETIF", K, b"b", b"", b"", d(A)], MOVED, "stream"),
        (A, [b"DELIF", K, d(A)], None, None),
        (H, [b"DELIF", K, d(A), d(H)], None, None),
        (None, [b"DELIF", K, d(A)], UNCHANGED, None),
        (None, [b"DELIF", K, b""], UNCHANGED, None),
        (B, [b"DELIF", K, d(A)], MOVED, B),
        ("stream", [b"DELIF", K, d(A), b""], MOVED, "stream"),
        (None, [b"SET", K, b"a", b"NX"], None, A),
        (None, [b"SET", K, b"a", b"PXAT", b"%d" % FAR, b"NX"], None, DYING),
        (A, [b"SET", K, b"a", b"NX"], UNCHANGED, A),
        (B, [b"SET", K, b"a", b"NX"], MOVED, B),
        (H, [b"SET", K, b"a", b"NX"], MOVED, H),
        (None, [b"HSETNX", K, b"f", b"1"], None, H),
        (H, [b"HSETNX", K, b"f", b"1"], UNCHANGED, H),
        (G, [b"HSETNX", K, b"f", b"1"], MOVED, G),
        (H, [b"HSETNX", K, b"f", b"1", b"g", b"2"], None, hash_(f="1", g="2")),
        (G, [b"HSETNX", K, b"f", b"1", b"h", b"2"], MOVED, hash_(f="2", g="1", h="2")),
        (A, [b"HSETNX", K, b"f", b"1"], "WRONGTYPE", A),
        (H, [b"HSETIF", K, b"f", e(b"f", b"1"), b"2"], None, hash_(f="2")),
        (H, [b"HSETIF", K, b"f", b"," + e(b"f", b"1"), b"2"], None, hash_(f="2")),
        (H, [b"HSETIF", K, b"f", e(b"f", b"0") + b"," + e(b"f", b"1"), b"2"], None, hash_(f="2")),
        (None, [b"HSETIF", K, b"f", e(b"f", b"1") + b",", b"2"], None, hash_(f="2")),
        (H, [b"HSETIF", K, b"f", e(b"f", b"0"), b"1"], UNCHANGED, H),
        (H, [b"HSETIF", K, b"f", b"", b"2"], MOVED, H),
        (H, [b"HSETIF", K, b"f", e(b"f", b"0"), b"2"], MOVED, H),
        (H, [b"HSETIF", K, b"f", e(b"f", b"1")[:-1], b"2"], MOVED, H),
        (None, [b"HSETIF", K, b"f", e(b"f", b"1"), b"2"], MOVED, None),
        (A, [b"HSETIF", K, b"f", b"", b"2"], "WRONGTYPE", A),
        (
            G,
            [b"HSETIF", K, b"f", e(b"f", b"2"), b"3", b"g", e(b"g", b"0"), b"4", b"h", b"", b"5"],
            MOVED,
            hash_(f="3", g="1", h="5"),
        ),
        (G, [b"HSETIF", K, b"f", e(b"f", b"2"), b"3", b"g", b"", b"1"], None, hash_(f="3", g="1")),
        (hash_(FAR, f="1"), [b"HSETIF", K, b"f", e(b"f", b"1"), b"2"], None, hash_(FAR, f="2")),
        (G, [b"HDELIF", K, b"g", e(b"g", b"1")], None, hash_(f="2")),
        (H, [b"HDELIF", K, b"f", b"," + e(b"f", b"1")], None, None),
        (H, [b"HDELIF", K, b"g", e(b"g", b"1")], UNCHANGED, H),
        (None, [b"HDELIF", K, b"g", e(b"g", b"1")], UNCHANGED, None),
        (G, [b"HDELIF", K, b"g", e(b"g", b"0")], MOVED, G),
        (G, [b"HDELIF", K, b"g", b""], MOVED, G),
        (A, [b"HDELIF", K, b"g", b""], "WRONGTYPE", A),
        (S, [b"DELIF", K, d(S)], None, None),
        (S, [b"DELIF", K, d(hash_(a=""))], MOVED, S),
        (Z, [b"SETIF", K, b"a", b"", d(Z)], None, A),
        (S, [b"SADD", K, b"a"], UNCHANGED, S),
        (S, [b"SADD", K, b"a", b"b"], None, set_("a", "b")),
        (S, [b"SADDIF", K, b"a", b"", b"", b"b", b"", b""], None, set_("a", "b")),
        (S, [b"SADDIF", K, b"b", m(b"b"), b""], MOVED, S),
        (S, [b"SADDIF", K, b"b", m(b"b") + b",", b""], None, set_("a", "b")),
        (None, [b"SADDIF", K, b"a", b"", b""], None, S),
        (H, [b"SADDIF", K, b"a", b"", b""], "WRONGTYPE", H),
        (S, [b"SREMIF", K, b"a", m(b"a")], None, None),
        (S, [b"SREMIF", K, b"a", e(b"a", b"")], MOVED, S),
        (S, [b"SREMIF", K, b"b", m(b"b")], UNCHANGED, S),
        (Z, [b"ZADDNX", K, b"a", b"1.5"], UNCHANGED, Z),
        (Z, [b"ZADDNX", K, b"a", b"2", b"b", b"-inf"], MOVED, zset(a="1.5", b="-inf")),
        (Z, [b"ZADD", K, b"CH", b"1.5", b"a"], UNCHANGED, Z),
        (Z, [b"ZADD", K, b"CH", b"2", b"a"], None, zset(a="2")),
        (Z, [b"ZADDIF", K, b"a", z(b"a", b"1.5"), b"0.10000000000000001"], None, zset(a="0.10000000000000001")),
        (Z, [b"ZADDIF", K, b"a", z(b"a", b"2"), b"1.5"], UNCHANGED, Z),
        (Z, [b"ZADDIF", K, b"a", z(b"a", b"2"), b"3", b"b", b"", b"1"], MOVED, zset(a="1.5", b="1")),
        (A, [b"ZADDIF", K, b"a", b"", b"3"], "WRONGTYPE", A),
        (Z, [b"ZREMIF", K, b"a", b"," + z(b"a", b"1.5")], None, None),
        (Z, [b"ZREMIF", K, b"a", z(b"a", b"2")], MOVED, Z),
        (None, [b"LISTSET", K, *L.items], None, L),
        (LONG, [b"LISTSET", K, *L.items], None, L),
        (L, [b"LISTSET", K, *LONG.items], None, LONG),
        (H, [b"LISTSET", K, b"x"], None, SequenceState((b"x",))),
        (SequenceState((b"x",), FAR), [b"LISTSET", K, *L.items], None, SequenceState(L.items, FAR)),
        (L, [b"LISTIF", K, d(L), b"x"], None, SequenceState((b"x",))),
        (LONG, [b"LISTIF", K, d(A) + b"," + d(LONG), b"x"], None, SequenceState((b"x",))),
        (None, [b"LISTIF", K, d(A) + b",", *LONG.items], None, LONG),
        (LONG, [b"LISTIF", K, d(L), *LONG.items], UNCHANGED, LONG),
        (L, [b"LISTIF", K, d(LONG), b"a", b"b"], MOVED, L),
        (A, [b"LISTIF", K, d(L), b"a"], MOVED, A),
        (L, [b"DELIF", K, d(L)], None, None),
    ],
)
def test_a_command_with_a_condition(redis, held, command, outcome, after):
    put(redis, held)
    errors = outcomes(redis, command)

    assert (errors[0].partition(" ")[0] if errors else None) == outcome
    assert state_of(redis) == after


def put(redis, held):
    redis.delete(K)
    if held == "stream":
        redis.xadd(K, {"f": "v"})
    else:
        write(redis, K, held)


HELD = [None, A, B, DYING, H, G, hash_(f="1", g="1"), "stream", L, LONG, S, Z, set_("a", "b"), zset(a="2")]


def all_conditional():
    """Conditional commands of one write or field, on each condition that may matter."""
    digests = [b"", d(A), d(H), d(G)]
    for value, expiry, some in product(
        (b"a", b"b"), (b"", b"%d" % FAR), [[], *([one] for one in digests), digests[:2]]
    ):
        yield [b"SETIF", K, value, expiry, *some]
    for some in ([], *([one] for one in digests), digests[1:]):
        yield [b"DELIF", K, *some]
    for some in (b"", e(b"f", b"1"), e(b"f", b"1") + b"," + e(b"f", b"2"), b"," + e(b"f", b"2")):
        yield [b"HSETIF", K, b"f", some, b"2"]
        yield [b"HDELIF", K, b"f", some]
    for some in (b"", m(b"a"), b"," + m(b"a")):
        yield [b"SADDIF", K, b"a", some, b""]
        yield [b"SREMIF", K, b"a", some]
    yield [b"ZADDNX", K, b"a", b"2"]
    for some in (b"", d(L), d(LONG) + b"," + d(A)):
        yield [b"LISTIF", K, some, b"a", b"b", b"a"]
    for some in (b"", z(b"a", b"1.5"), b"," + z(b"a", b"2")):
        yield [b"ZADDIF", K, b"a", some, b"2"]
        yield [b"ZREMIF", K, b"a", some]


V, W = entry_value([b"f", b"v"]), entry_value([b"f", b"w"])
X = HashState({entry_name(b"5-1"): V, LAST_ID: b"9-0"}, None, "stream")


def stream(last, **entries):
    """Entries by `n5_1`."""
    ids = {entry_name(name[1:].replace("_", "-").encode()): value for name, value in entries.items()}
    return HashState({**ids, LAST_ID: last}, None, "stream")


def x(name, value):
    return e(name if name == LAST_ID else entry_name(name), value, "stream")


@pytest.mark.parametrize(
    ("held", "command", "outcome", "after"),
    [
        (None, [b"STREAMSET", K, b"5-1", V, b"last-id", b"9-0"], None, X),
        (X, [b"STREAMSET", K, b"10-1", V, b"11-1", W], None, stream(b"11-1", n5_1=V, n10_1=V, n11_1=W)),
        (X, [b"STREAMSET", K, b"6-1", V], UNCHANGED, stream(b"9-0", n5_1=V, n6_1=V)),  # what followed is not foreseen
        (X, [b"STREAMSET", K, b"5-1", V], UNCHANGED, X),
        (A, [b"STREAMSET", K, b"5-1", V], "WRONGTYPE", A),
        (X, [b"STREAMSET", K, b"last-id", b"6-0"], None, stream(b"6-0", n5_1=V)),
        (X, [b"STREAMSET", K, b"last-id", b"5-0"], MOVED, X),  # an entry is above it
        (X, [b"STREAMSET", K, b"4-0", V, b"last-id", b"4-0"], MOVED, stream(b"9-0", n4_0=V, n5_1=V)),
        (X, [b"STREAMIF", K, b"last-id", x(LAST_ID, b"9-0"), b"5-0"], MOVED, X),
        (X, [b"XDEL", K, b"5-1", b"6-1"], None, stream(b"9-0")),
        (X, [b"XDEL", K, b"6-1"], UNCHANGED, X),
        (X, [b"STREAMNEW", K, b"10-1", V], None, stream(b"10-1", n5_1=V, n10_1=V)),
        (X, [b"STREAMNEW", K, b"5-1", W, b"10-1", V], MOVED, stream(b"10-1", n5_1=V, n10_1=V)),
        (X, [b"STREAMIF", K, b"5-1", x(b"5-1", V), W], UNCHANGED, stream(b"9-0", n5_1=W)),
        (X, [b"STREAMIF", K, b"5-1", x(b"5-1", W), W], MOVED, X),
        (X, [b"STREAMIF", K, b"last-id", x(LAST_ID, b"9-0"), b"6-0"], None, stream(b"6-0", n5_1=V)),
        (X, [b"STREAMIF", K, b"last-id", x(LAST_ID, b"8-0"), b"6-0"], MOVED, X),
        (X, [b"STREAMIF", K, b"last-id", b"", b"9-0"], UNCHANGED, X),
        (A, [b"STREAMIF", K, b"last-id", b"", b"9-0"], "WRONGTYPE", A),
        (X, [b"XDELIF", K, b"5-1", x(b"5-1", V)], None, stream(b"9-0")),
        (X, [b"XDELIF", K, b"5-1", x(b"5-1", W)], MOVED, X),
        (X, [b"XDELIF", K, b"6-1", x(b"5-1", W)], UNCHANGED, X),
        (None, [b"XDELIF", K, b"6-1", x(b"5-1", W)], UNCHANGED, None),
        (X, [b"DELIF", K, d(X)], None, None),
        (X, [b"SETIF", K, b"a", b"", d(stream(b"9-1", n5_1=V))], MOVED, X),
    ],
)
def test_a_command_about_streams(redis, held, command, outcome, after):
    put(redis, held)
    errors = outcomes(redis, command, script=push_script(frozenset({"stream"})))

    assert (errors[0].partition(" ")[0] if errors else None) == outcome
    assert state_of(redis, others=b" stream ") == after


def test_without_scripts_entries_are_added_at_the_end(redis):
    (command,) = commands_of_batch(
        [HashSet(K, {LAST_ID: b"9-0", entry_name(b"7-1"): W, entry_name(b"5-1"): V}, "stream")]
    )
    for simple in simple_commands(command):
        redis.execute_command(*simple)
    assert state_of(redis, others=b" stream ") == stream(b"9-0", n5_1=V, n7_1=W)


def test_without_scripts_each_comes_to_the_same(redis):
    for held, command in product(HELD, all_conditional()):
        put(redis, held)
        errors = outcomes(redis, command)
        after = state_of(redis)

        put(redis, held)
        plain, outcome = plain_command(command, held)
        about = (held, command)
        if errors.get(0, "").startswith("WRONGTYPE"):
            assert (plain is None) == (outcome in (MOVED, UNCHANGED)), about
            continue
        assert (plain is None) == bool(errors), about
        assert outcome == errors.get(0, ""), about
        if plain is not None:
            assert plain[0] not in CONDITIONAL
            for simple in simple_commands(plain):
                redis.execute_command(*simple)
        assert state_of(redis) == after, about


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes(redis, key, field, value):
    redis.flushall()
    whole = b"%015x" % digest_of(key, string(value))
    redis.set(key, value)
    assert outcomes(redis, [b"SETIF", key, value + b"x", b"", whole]) == {}
    assert outcomes(redis, [b"SETIF", key, b"other", b"", whole]) == {0: MOVED}
    assert redis.get(key) == value + b"x"
    redis.delete(key)
    redis.hset(key, field, value)
    whole = b"%015x" % digest_of(key, HashState({field: value}))
    assert outcomes(redis, [b"HSETIF", key, field, e(field, value), value + b"x"]) == {}
    assert outcomes(redis, [b"DELIF", key, whole]) == {0: MOVED}
    assert outcomes(redis, [b"HSETIF", key, field, e(field, value + b"x"), value]) == {}
    assert outcomes(redis, [b"DELIF", key, whole]) == {}
    assert not redis.exists(key)


# How they are spelled.


@pytest.mark.parametrize(
    ("changes", "whole", "fields", "commands"),
    [
        ([StringSet(K, b"a")], (None,), None, [[b"SET", K, b"a", b"NX"]]),
        ([StringSet(K, b"a", FAR)], (None,), None, [[b"SET", K, b"a", b"PXAT", b"%d" % FAR, b"NX"]]),
        ([StringSet(K, b"b")], (digest_of(K, A),), None, [[b"SETIF", K, b"b", b"", d(A)]]),
        ([StringSet(K, b"b", 5)], (digest_of(K, A), None), None, [[b"SETIF", K, b"b", b"5", d(A), b""]]),
        ([StringSet(K, b"b")], None, None, [[b"SETIF", K, b"b", b""]]),
        ([Deleted(K)], (digest_of(K, A), digest_of(K, H)), None, [[b"DELIF", K, d(A), d(H)]]),
        ([Deleted(K)], (None,), None, []),
        ([Deleted(K)], (-1,), None, [[b"DELIF", K, b"0" * 15]]),
        ([HashSet(K, {b"f": b"1", b"g": b"2"})], (None,), None, [[b"HSETNX", K, b"f", b"1", b"g", b"2"]]),
        ([HashSet(K, {b"f": b"1"})], None, {b"f": (None,)}, [[b"HSETNX", K, b"f", b"1"]]),
        (
            [HashSet(K, {b"f": b"1", b"g": b"2", b"h": None})],
            None,
            {b"f": (None, 5), b"g": (None,)},
            [[b"HSETIF", K, b"f", b"," + b"%024x" % 5, b"1", b"g", b"", b"2"]],
        ),
        (
            [FieldsDeleted(K, (b"f", b"g"))],
            None,
            {b"f": (5, None)},
            [[b"HDELIF", K, b"f", b"%024x," % 5], [b"HDELIF", K, b"g", b""]],
        ),
        (
            [Deleted(K), HashSet(K, {b"f": b"1"}), ExpirySet(K, 5)],
            (digest_of(K, A),),
            None,
            [[b"DELIF", K, d(A)], [b"HSETNX", K, b"f", b"1"], [b"PEXPIREAT", K, b"5"]],
        ),
        ([ExpirySet(K, None)], None, {}, [[b"PERSIST", K]]),
        ([HashSet(K, {b"a": b"", b"b": b""}, "set")], (None,), None, [[b"SADD", K, b"a", b"b"]]),
        ([HashSet(K, {b"a": b""}, "set")], None, {b"a": (5,)}, [[b"SADDIF", K, b"a", b"%024x" % 5, b""]]),
        ([FieldsDeleted(K, (b"a",), "set")], None, {b"a": (5,)}, [[b"SREMIF", K, b"a", b"%024x" % 5]]),
        ([SequenceSet(K, L.items)], (digest_of(K, A), None), None, [[b"LISTIF", K, d(A) + b",", *L.items]]),
        ([HashSet(K, {b"a": b"1"}, "zset")], None, {b"a": (None,)}, [[b"ZADDNX", K, b"a", b"1"]]),
        ([HashSet(K, {b"a": b"1"}, "zset")], None, {b"a": (5,)}, [[b"ZADDIF", K, b"a", b"%024x" % 5, b"1"]]),
        ([FieldsDeleted(K, (b"a",), "zset")], None, {b"a": (5,)}, [[b"ZREMIF", K, b"a", b"%024x" % 5]]),
        (
            [HashSet(K, {LAST_ID: b"9-0", entry_name(b"10-1"): b"v", entry_name(b"9-1"): b"w"}, "stream")],
            (None,),
            None,
            [[b"STREAMNEW", K, b"9-1", b"w", b"10-1", b"v", b"last-id", b"9-0"]],
        ),
        (
            [HashSet(K, {entry_name(b"9-1"): b"w"}, "stream"), FieldsDeleted(K, (entry_name(b"5-1"),), "stream")],
            None,
            {entry_name(b"9-1"): (5,), entry_name(b"5-1"): (6,)},
            [[b"STREAMIF", K, b"9-1", b"%024x" % 5, b"w"], [b"XDELIF", K, b"5-1", b"%024x" % 6]],
        ),
    ],
)
def test_changes_on_a_condition(changes, whole, fields, commands):
    assert list(commands_if(changes, whole, fields)) == commands


@pytest.mark.parametrize("count", [1000, 2500])
def test_a_large_hash_on_a_condition_is_spread_over_commands_that_lua_can_unpack(redis, count):
    fields = {b"%d" % number: b"old" for number in range(count)}
    redis.hset(K, mapping=fields)
    conditions = {name: (element_of(name, value),) for name, value in fields.items()}
    changes = [HashSet(K, dict.fromkeys(fields, b"new"))]
    assert outcomes(redis, *commands_if(changes, None, conditions)) == {}
    assert redis.hgetall(K) == dict.fromkeys(fields, b"new")
    errors = outcomes(redis, *commands_if([FieldsDeleted(K, tuple(fields))], None, conditions))
    assert set(errors.values()) == {MOVED}
    redis.delete(K)
    assert outcomes(redis, *commands_if(changes, None, dict.fromkeys(fields, (None,)))) == {}


@pytest.mark.parametrize(
    ("command", "reply", "outcome"),
    [
        ([b"SET", K, b"v", b"NX"], None, MOVED),
        ([b"HSETNX", K, b"f", b"v"], 0, MOVED),
        ([b"DEL", K], 0, UNCHANGED),
        ([b"HDEL", K, b"f"], 0, UNCHANGED),
        ([b"PEXPIREAT", K, b"5"], 0, UNCHANGED),
        ([b"PERSIST", K], 0, UNCHANGED),
        ([b"HSET", K, b"f", b"v"], 0, None),
        ([b"HSETNX", K, b"f", b"v"], 1, None),
        ([b"DEL", K], 1, None),
        ([b"SET", K, b"v"], b"OK", None),
    ],
)
def test_what_a_plain_command_says_that_found_nothing_to_do(command, reply, outcome):
    assert changed_nothing(command, reply) == outcome


@pytest.mark.parametrize(
    ("held", "command"),
    [
        (A, [b"SETIF", K, b"b", b"", d(A)]),
        (A, [b"SETIF", K, b"b", b"%d" % FAR, d(A)]),
        (A, [b"DELIF", K, d(A)]),
        (H, [b"HSETIF", K, b"f", e(b"f", b"1"), b"2"]),
        (H, [b"HSETNX", K, b"g", b"2"]),
        (G, [b"HDELIF", K, b"g", e(b"g", b"1")]),
        (S, [b"SADD", K, b"b"]),
        (S, [b"SADDIF", K, b"b", b"", b""]),
        (set_("a", "b"), [b"SREMIF", K, b"a", m(b"a")]),
        (Z, [b"ZADD", K, b"CH", b"2", b"a"]),
        (Z, [b"ZADDNX", K, b"b", b"2"]),
        (Z, [b"ZADDIF", K, b"a", z(b"a", b"1.5"), b"2"]),
        (zset(a="1", b="2"), [b"ZREMIF", K, b"a", z(b"a", b"1")]),
        (X, [b"STREAMSET", K, b"10-1", V, b"10-2", V]),
        (X, [b"STREAMNEW", K, b"10-1", V]),
        (X, [b"STREAMIF", K, b"10-1", b"", V, b"last-id", x(LAST_ID, b"9-0"), b"11-0"]),
        (X, [b"XDEL", K, b"5-1"]),
        (X, [b"XDELIF", K, b"5-1", x(b"5-1", V)]),
        (L, [b"LISTIF", K, d(L), b"x"]),
        (None, [b"LISTIF", K, b"", *LONG.items]),
        (None, [b"SET", K, b"v", b"NX"]),
        (None, [b"SET", K, b"v", b"PXAT", b"%d" % FAR, b"NX"]),
    ],
)
def test_a_command_causes_the_events_that_we_expect_and_none_where_it_does_nothing(redis, held, command):
    """Compared with what a real server publishes."""
    put(redis, held)
    redis.config_set("notify-keyspace-events", "KA")
    with redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.psubscribe("__keyspace@0__:*")
        eventually(redis.pubsub_numpat)
        script = push_script(frozenset({"stream"})) if held == X else PUSH_SCRIPT
        assert outcomes(redis, command, script=script) == {}
        if command[0] != b"DELIF":
            assert outcomes(redis, command, script=script).keys() == {0}  # nothing, the second time
        redis.publish("__keyspace@0__:end", "end")
        seen = []
        while not seen or seen[-1] != b"end":
            message = listener.get_message(timeout=5)
            seen += [message["data"]] if message else []
    redis.config_set("notify-keyspace-events", "")

    assert seen == [*events_of(command), b"end"]


# Together.


def test_outcomes_are_named_by_their_place_among_all_writes(redis):
    redis.mset({"moved": "x", "same": "v"})
    errors = outcomes(
        redis,
        [b"MSET", b"a", b"1", b"b", b"2"],
        [b"SETIF", b"moved", b"v", b"", b""],
        [b"SETIF", b"same", b"v", b"", b""],
        [b"DELIF", b"none", b""],
        [b"SET", b"moved", b"v", b"NX"],
        [b"HSETIF", b"h", b"f", b"", b"1", b"g", b"", b"2"],
        [b"HSETNX", b"h", b"f", b"3"],
        [b"DEL", b"none"],
        [b"SET", b"c", b"3"],
    )
    assert errors == {2: MOVED, 3: UNCHANGED, 4: UNCHANGED, 5: MOVED, 7: MOVED, 8: UNCHANGED}
    assert redis.mget("a", "b", "c", "moved") == [b"1", b"2", b"3", b"x"]
    assert redis.hgetall("h") == {b"f": b"1", b"g": b"2"}


def test_keys_that_an_acl_denies_are_named_and_the_others_go_on(redis):
    denied = [
        [b"SETIF", b"no", b"v", b"", b""],
        [b"DELIF", b"no", b""],
        [b"HSETIF", b"no", b"f", b"", b"1"],
        [b"HSETNX", b"no", b"f", b"1"],
        [b"HDELIF", b"no", b"f", b""],
        [b"SET", b"no", b"v", b"NX"],
    ]
    redis.execute_command("ACL", "SETUSER", "default", "resetkeys", "~k*")
    try:
        errors = outcomes(redis, *denied, [b"SETIF", b"k", b"v", b"", b""])
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "allkeys")
    assert list(errors) == list(range(len(denied)))
    assert all(map(denies_key, errors.values()))
    assert redis.get("k") == b"v"


@pytest.mark.parametrize(
    ("command", "told"), [([b"SETIF", K, b"v", b"", b""], True), ([b"SETIF", K, b"v", b""], False)]
)
def test_what_did_not_happen_is_not_told(redis, command, told):
    with redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("channel")
        eventually(lambda: redis.pubsub_numsub("channel")[0][1])
        answer = answer_to(redis, command, feed=(b"channel", b"us"))
        redis.publish("channel", "end")
        first = eventually(lambda: listener.get_message(timeout=5))["data"]
    assert first == (b"%d us" % answer.time if told else b"end")


# The fence.

SET = [b"SET", K, b"v"]


def test_without_a_fence_nothing_is_noted(redis):
    assert answer_to(redis, SET).fence == ""
    assert redis.dbsize() == 1


@pytest.mark.parametrize(("epoch", "fenced"), [(6, True), (7, False), (8, False), (10, False)])
def test_a_request_of_an_earlier_epoch_is_refused_as_a_whole(redis, epoch, fenced):
    """By number, not as text."""
    redis.hset(FENCE, mapping={"epoch": 7, "2": 30})
    fencing = Fencing(FENCE, epoch, 2, 40)
    if fenced:
        with pytest.raises(FencedError):
            answer_to(redis, SET, fencing=fencing)
        assert not redis.exists(K)
    else:
        assert answer_to(redis, SET, fencing=fencing).fence == ""
        assert redis.get(K) == b"v"
    assert redis.hgetall(FENCE) == {b"epoch": b"7", b"2": b"30" if fenced else b"40"}


def test_that_a_batch_was_executed_is_noted_and_whether_all_of_it_came_to_pass(redis):
    redis.hset(FENCE, "epoch", 7)
    redis.rpush(K, "x")
    moved, refused, unchanged = [b"SETIF", K, b"v", b""], [b"HSET", K, b"f", b"v"], [b"DEL", b"none"]
    for slot, number, command in ((0, 5, refused), (1, 6, moved), (2, 7, unchanged), (3, 8, SET), (0, 9, unchanged)):
        answer_to(redis, command, fencing=Fencing(FENCE, 7, slot, number))
    fence = {b"epoch": b"7", b"0": b"9", b"1": b"6", b"2": b"7", b"3": b"8"}
    assert redis.hgetall(FENCE) == fence | {b"0!": b"5", b"1!": b"6"}


@pytest.mark.parametrize("there", [{}, {"3": "9"}])
def test_a_hub_that_has_lost_the_fence_says_so_and_makes_none(redis, there):
    if there:
        redis.hset(FENCE, mapping=there)
    assert answer_to(redis, SET, fencing=Fencing(FENCE, 7, 2, 40)).fence == "?"
    assert redis.get(K) == b"v"
    assert redis.hlen(FENCE) == len(there)


@pytest.mark.parametrize(
    ("held", "known", "lost"), [(9, 10, True), (None, 10, True), (10, 10, False), (100, 20, False)]
)
def test_a_hub_that_went_back_behind_a_number_says_so_and_keeps_that_it_did(redis, held, known, lost):
    """By number, not as text."""
    redis.hset(FENCE, mapping={"epoch": 7} | ({"2": held} if held else {}))
    before = redis.hgetall(FENCE)
    assert answer_to(redis, SET, fencing=Fencing(FENCE, 7, 2, 400, known)).fence == ("?" if lost else "")
    assert redis.get(K) == b"v"
    assert redis.hgetall(FENCE) == (before if lost else before | {b"2": b"400"})


@pytest.mark.parametrize(
    ("slot", "number", "known", "held", "repeated"),
    [
        (2, 40, 9, 40, True),
        (2, 40, 9, 100, True),
        (2, 40, 40, 40, False),  # what was refused is tried once more
        (2, 40, 50, 50, False),  # numbers begin anew after the journal was lost
        (2, 40, 9, 39, False),
        (10_002, 40, 9, 40, True),  # a part of a batch whose last part was executed
        (10_002, 40, 9, 39, False),
    ],
)
def test_a_request_that_was_executed_is_refused_when_it_comes_again(redis, slot, number, known, held, repeated):
    redis.hset(FENCE, mapping={"epoch": 7, "2": held})
    fencing = Fencing(FENCE, 7, slot, number, known)
    if repeated:
        with pytest.raises(OutcomeUnknownError, match="twice"):
            answer_to(redis, SET, fencing=fencing)
        assert not redis.exists(K)
        assert redis.hgetall(FENCE) == {b"epoch": b"7", b"2": b"%d" % held}
    else:
        assert answer_to(redis, SET, fencing=fencing).fence == ""
        assert redis.get(K) == b"v"


def test_a_hub_that_allows_no_fence_says_so_and_takes_the_batch(redis):
    redis.execute_command("ACL", "SETUSER", "default", "resetkeys", "~k*")
    try:
        assert answer_to(redis, SET, fencing=Fencing(FENCE, 7, 2, 40)) == Answer(
            {}, pytest.approx(1.8e15, abs=1e15), "-"
        )
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "allkeys")
    assert redis.get(K) == b"v"


@pytest.mark.parametrize("kind", ["string", "list"])
def test_a_fence_that_is_none_is_not_used(redis, kind):
    redis.set(FENCE, "x") if kind == "string" else redis.rpush(FENCE, "x")
    assert answer_to(redis, SET, fencing=Fencing(FENCE, 7, 2, 40)).fence == "-"


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"2 17 5f-1", Answer({1: MOVED}, 17)),
        (b"2? 17 5f-1", Answer({1: MOVED}, 17, "?")),
        (b"2- 17 5f-1", Answer({1: MOVED}, 17, "-")),
        (b"2-  5f-1", Answer({1: MOVED}, float("inf"), "-")),
    ],
)
def test_the_answer_to_a_batch(head, answer):
    assert parse_batch_reply([head, b"1 MOVED"], 2, TOKEN) == answer


@pytest.mark.parametrize(
    ("items", "error"),
    [
        ((b"FENCED 5f-1",), FencedError),
        ((b"FENCED 5f-2",), (OutcomeUnknownError, ProtocolError)),
        ((b"2 17 5f-2",), OutcomeUnknownError),
        ((b"3? 17 5f-1",), ProtocolError),
        ((b"2x 17 5f-1",), ProtocolError),
        ((b"2 17 5f-1", b"2 MOVED"), ProtocolError),
        ((), ProtocolError),
    ],
)
def test_an_answer_that_the_script_does_not_give(items, error):
    with pytest.raises(error):
        parse_batch_reply(items, 2, TOKEN)
