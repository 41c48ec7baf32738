"""A push in doubt brings the hub what the site has changed, and never replaces what somebody else has written there."""

from __future__ import annotations

from itertools import product

import pytest

from redisrepl.changes import (
    KINDS,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    Invalidated,
    ReckonedExpiry,
    SequenceSet,
    SequenceState,
    StringSet,
)
from redisrepl.engine import conditional
from redisrepl.engine.ancestor import Agreed, note_changes, note_state
from redisrepl.engine.conditional import Condition, condition_for, condition_of_state
from redisrepl.engine.plans import Policy, plan_for
from redisrepl.engine.reconcile import Circumstances
from redisrepl.wire.digests import digest_of, element_of
from redisrepl.wire.writes import CONDITIONAL, MOVED, UNCHANGED, commands_if, plain_command
from tests.engine.sides import KEY, Memory, ancestor_of, changed, hash_, resolved, string

A, B, HASH = string("a"), string("b"), hash_(f="1", g="1")
DEFAULT = frozenset({"set", "hset"})
E = element_of


def digest(state):
    return digest_of(KEY, state)


def of_state(state, ancestor=None, expected=None, kinds=KINDS, **known):
    return condition_of_state(KEY, state, ancestor_of(ancestor, **known), expected, kinds)


SET_A, SET_B, GONE, LIST = StringSet(KEY, b"a"), StringSet(KEY, b"b"), Deleted(KEY), SequenceSet(KEY, (b"x",))


def test_at_first_contact_no_value_is_digested(monkeypatch):
    """It was a sixth of what each of millions of keys takes; a value may be of 500 MB."""
    monkeypatch.setattr(conditional, "digest_of", None)

    for change in (SET_A, LIST):
        assert condition_for((change,), None, None, KINDS) == Condition((change,), (None,))
    assert of_state(A) == Condition((SET_A,), (None,))


@pytest.mark.parametrize(
    ("state", "ancestor", "expected", "condition"),
    [
        # As it was agreed on: nothing is to be sent.
        (None, None, None, None),
        (A, A, None, None),
        (string("a", ReckonedExpiry(1020)), string("a", 1000), None, None),
        (hash_(ReckonedExpiry(980), f="1"), hash_(1000, f="1"), None, None),
        (HASH, HASH, None, None),
        # Changed, new, or removed: if the hub holds the ancestor.
        (B, A, None, Condition((SET_B,), (digest(A),))),
        (A, None, None, Condition((SET_A,), (None,))),
        (None, A, None, Condition((GONE,), (digest(A),))),
        (None, HASH, None, Condition((GONE,), (digest(HASH),))),
        (B, HASH, None, Condition((SET_B,), (digest(HASH),))),
        (string("a", 5), A, None, Condition((StringSet(KEY, b"a", 5),), (digest(A),))),
        # What was seen at the hub counts, not the ancestor.
        (A, A, (digest(B),), Condition((SET_A,), (digest(B),))),
        (A, None, (None,), Condition((SET_A,), (None,))),
        (None, None, (digest(B),), Condition((GONE,), (digest(B),))),
        # Of a hash, the fields.
        (hash_(f="1"), None, None, Condition((HashSet(KEY, {b"f": b"1"}),), fields={b"f": (None,)})),
        (
            hash_(5, f="2", h="1"),
            HASH,
            None,
            Condition(
                (HashSet(KEY, {b"f": b"2", b"h": b"1"}), FieldsDeleted(KEY, (b"g",)), ExpirySet(KEY, 5)),
                fields={b"f": (E(b"f", b"1"),), b"h": (None,), b"g": (E(b"g", b"1"),)},
            ),
        ),
        (hash_(5, f="1", g="1"), HASH, None, Condition((ExpirySet(KEY, 5),), fields={})),
        (
            hash_(f="2", g="1"),
            HASH,
            {b"f": (E(b"f", b"3"),)},
            Condition((HashSet(KEY, {b"f": b"2"}), ExpirySet(KEY, None)), fields={b"f": (E(b"f", b"3"),)}),
        ),
        # A hash in the place of something else.
        (hash_(5, f="1"), A, None, Condition((GONE, HashSet(KEY, {b"f": b"1"}), ExpirySet(KEY, 5)), (digest(A),))),
        (hash_(f="1"), HASH, (None,), Condition((GONE, HashSet(KEY, {b"f": b"1"})), (None,))),
        (
            hash_(f="1"),
            A,
            {b"f": (None,)},
            Condition((HashSet(KEY, {b"f": b"1"}), ExpirySet(KEY, None)), fields={b"f": (None,)}),
        ),
        ("list", A, None, None),
    ],
)
def test_the_condition_of_a_whole_state(state, ancestor, expected, condition):
    assert of_state(state, ancestor, expected) == condition


@pytest.mark.parametrize(
    ("state", "kinds"),
    [(None, DEFAULT), (B, frozenset({"hset", "del"})), (hash_(f="2"), frozenset({"set", "del"}))],
)
def test_what_is_not_replicated_is_not_pushed(state, kinds):
    for ancestor in (None, A, HASH):
        assert of_state(state, ancestor, kinds=kinds) is None


def test_expiries_and_removals_that_are_not_replicated_change_nothing():
    assert of_state(string("a", 5), A, kinds=DEFAULT) is None
    assert of_state(hash_(5, f="1"), HASH, kinds=DEFAULT) is None
    assert condition_for((StringSet(KEY, b"a", 5),), ancestor_of(A), None, DEFAULT) is None


@pytest.mark.parametrize(
    ("state", "ancestor", "known", "condition"),
    [
        # What a push of ours may have left is allowed for; and even what is agreed may not be there any more.
        (A, A, {"intents": (digest(B),)}, Condition((SET_A,), (digest(A), digest(B)))),
        (B, A, {"intents": (None,)}, Condition((SET_B,), (digest(A), None))),
        (None, A, {"intents": (digest(B),)}, Condition((GONE,), (digest(A), digest(B)))),
        (None, None, {"intents": (digest(B),)}, Condition((GONE,), (None, digest(B)))),
        (
            HASH,
            HASH,
            {"element_intents": {b"f": (E(b"f", b"2"),), b"h": (E(b"h", b"1"),)}},
            Condition(
                (HashSet(KEY, {b"f": b"1"}), FieldsDeleted(KEY, (b"h",))),
                fields={b"f": (E(b"f", b"1"), E(b"f", b"2")), b"h": (None, E(b"h", b"1"))},
            ),
        ),
    ],
)
def test_pushes_of_unknown_outcome(state, ancestor, known, condition):
    assert of_state(state, ancestor, **known) == condition


def hset(**fields):
    return HashSet(KEY, {name.encode(): None if value is None else value.encode() for name, value in fields.items()})


@pytest.mark.parametrize(
    ("changes", "ancestor", "expected", "condition"),
    [
        ((SET_A,), A, None, None),
        ((SET_A,), None, None, Condition((SET_A,), (None,))),
        ((SET_B,), A, None, Condition((SET_B,), (digest(A),))),
        ((SET_B,), HASH, None, Condition((SET_B,), (digest(HASH),))),
        ((SET_A,), A, (digest(B),), Condition((SET_A,), (digest(B),))),
        ((StringSet(KEY, b"a", 5),), A, None, Condition((StringSet(KEY, b"a", 5),), (digest(A),))),
        ((hset(f="1"),), HASH, None, None),
        ((hset(f="2", g="1"),), HASH, None, Condition((hset(f="2"),), fields={b"f": (E(b"f", b"1"),)})),
        ((hset(f="1"),), A, None, Condition((GONE, hset(f="1")), (digest(A),))),
        ((hset(f="1"),), A, {b"f": (None,)}, Condition((hset(f="1"),), fields={b"f": (None,)})),
        ((hset(f="1"),), HASH, {}, Condition((hset(f="1"),), fields={b"f": (None,)})),
        (
            (hset(f="1", g=None), FieldsDeleted(KEY, (b"g",))),
            HASH,
            {b"f": (E(b"f", b"2"),), b"g": (E(b"g", b"1"),)},
            Condition(
                (hset(f="1"), FieldsDeleted(KEY, (b"g",))), fields={b"f": (E(b"f", b"2"),), b"g": (E(b"g", b"1"),)}
            ),
        ),
        ((LIST,), SequenceState((b"x",)), None, None),
        ((LIST,), None, None, Condition((LIST,), (None,))),
        ((LIST,), A, None, Condition((LIST,), (digest(A),))),
        ((LIST,), A, (digest(B),), Condition((LIST,), (digest(B),))),
        ((LIST,), string("a", 5), None, Condition((LIST, ExpirySet(KEY, None)), (digest(A),))),
        ((ExpirySet(KEY, 5),), A, None, Condition((ExpirySet(KEY, 5),), fields={})),
        ((ExpirySet(KEY, None),), A, None, None),
        ((ExpirySet(KEY, None),), A, {}, Condition((ExpirySet(KEY, None),), fields={})),
    ],
)
def test_the_condition_of_changes_that_tell_no_whole_state(changes, ancestor, expected, condition):
    assert condition_for(changes, ancestor_of(ancestor), expected, KINDS) == condition


def test_a_change_without_its_values_is_a_mistake():
    with pytest.raises(AssertionError):
        condition_for((Invalidated(KEY),), None, None, KINDS)


# What comes of it at a hub.


def executed(state, condition):
    """The hub's key after a push on a condition, and what the hub said: the script, as `wire.writes` describes it."""
    if condition is None:
        return state, set()
    outcomes = set()
    for command in commands_if(condition.changes, condition.whole, condition.fields):
        singly = [command]
        if command[0] in (b"HSETIF", b"HSETNX"):
            step = 3 if command[0] == b"HSETIF" else 2
            singly = [[*command[:2], *command[at : at + step]] for at in range(2, len(command), step)]
        for single in singly:
            state, outcome = _executed(state, single)
            outcomes.add(outcome)
    return state, outcomes - {None}


def _executed(state, command):
    name = command[0]
    fields = state.fields if isinstance(state, HashState) else {}
    if name[:1] == b"H" and state is not None and not isinstance(state, HashState):
        return state, "WRONGTYPE"
    if name in CONDITIONAL:
        plain, outcome = plain_command(command, state)
        return (state, outcome) if plain is None else _executed(state, plain)
    match command:
        case [b"SET", key, value, *_, b"NX"] if state is not None:
            return state, UNCHANGED if state == string(value.decode()) else MOVED
        case [b"SET", key, value, *options]:
            return changed(state, [StringSet(key, value, int(options[1]) if b"PXAT" in options else None)]), None
        case [b"HSETNX", key, field, value] if field in fields:
            return state, UNCHANGED if fields[field] == value else MOVED
        case [b"HSETNX" | b"HSET", key, field, value]:
            return changed(state, [HashSet(key, {field: value})]), None
        case [b"DEL", key]:
            return None, None
        case [b"HDEL", key, field]:
            return changed(state, [FieldsDeleted(key, (field,))]), None
        case [b"PEXPIREAT", key, at]:
            return changed(state, [ExpirySet(key, int(at))]), None
        case [b"PERSIST", key]:
            return changed(state, [ExpirySet(key, None)]), None
    raise AssertionError(command)


VALUES = [
    None,
    A,
    B,
    string("a", 5),
    hash_(f="1"),
    hash_(5, f="1"),
    hash_(f="2"),
    hash_(g="1"),
    hash_(f="1", g="1"),
    hash_(6, f="2", h="2"),
]


def places(state):
    match state:
        case HashState(fields):
            return dict(fields)
        case None:
            return {}
        case _:
            return {None: state.value}


def test_the_hub_gets_what_the_site_changed_where_nobody_else_has():
    for ancestor, site in product(VALUES, repeat=2):
        condition = of_state(site, ancestor)
        hub, outcomes = executed(ancestor, condition)
        assert (hub, outcomes) == (site, set()), (ancestor, site)
        memory = Memory(ancestor)
        note_changes(memory, condition.changes if condition else ())
        assert memory.holds(site), (ancestor, site)


def test_what_somebody_else_wrote_at_the_hub_is_not_replaced_and_the_key_is_compared():
    for ancestor, site, hub in product(VALUES, repeat=3):
        after, outcomes = executed(hub, of_state(site, ancestor))
        about = (ancestor, site, hub)
        for place, value in places(hub).items():
            if places(ancestor).get(place) != value:
                assert places(after).get(place) == value, about
        for place, value in places(ancestor).items():  # removed there, and not changed here
            if place not in places(hub) and places(site).get(place) == value:
                assert place not in places(after), about
        for place, value in places(site).items():
            if places(ancestor).get(place) != value and places(after).get(place) != value:
                assert outcomes & {MOVED, "WRONGTYPE"}, about


def carried_out(site, hub, found, memory):
    """A plan, done as the daemon does it: applied here, pushed on its condition there, and noted."""
    site = changed(site, found.apply)
    if found.agreed != "nothing":
        note_state(memory, KEY, found.agreed)
    if found.expiry != "nothing":
        memory.expiry(KEY, found.expiry)
    if found.disputed:
        memory.forget(KEY)
    note_changes(memory, found.apply)
    if found.push is None:
        return site, hub, set()
    if isinstance(found.push, Invalidated):
        condition = condition_of_state(KEY, site, memory.agreed, found.expected, KINDS)
    else:
        condition = condition_for(tuple(resolved(found.push, site)), memory.agreed, found.expected, KINDS)
    hub, outcomes = executed(hub, condition)
    note_changes(memory, condition.changes if condition else ())
    return site, hub, outcomes


@pytest.mark.parametrize("winner", ["hub", "site"])
@pytest.mark.parametrize("lost", ["neither", "site", "hub"])
def test_what_is_planned_is_pushed_at_once_and_both_sides_are_equal_then(winner, lost):
    """Else it would be planned again and again."""
    about = Circumstances(site_lost=lost == "site", hub_lost=lost == "hub")
    for ancestor, site, hub in product(VALUES, repeat=3):
        memory = Memory(ancestor)
        found = plan_for(KEY, site, hub, memory.agreed, Policy(KINDS, winner), about)
        site_after, hub_after, outcomes = carried_out(site, hub, found, memory)
        assert outcomes <= {UNCHANGED}, (ancestor, site, hub)
        assert site_after == hub_after, (ancestor, site, hub)
        again = plan_for(KEY, site_after, hub_after, memory.agreed, Policy(KINDS, winner), Circumstances())
        assert (again.apply, again.push) == ([], None), (ancestor, site, hub)


def test_what_has_no_ancestor_and_what_has_an_empty_one_are_the_same():
    for site in VALUES:
        assert condition_of_state(KEY, site, Agreed(), None, KINDS) == of_state(site)
