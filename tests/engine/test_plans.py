"""What is to be done with one key: whole, or field by field."""

from __future__ import annotations

from dataclasses import replace
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
    StringSet,
    StringState,
    TimedValue,
)
from redisrepl.engine.ancestor import NOTHING_AGREED, note_changes, note_state
from redisrepl.engine.plans import Plan, Policy, plan_for
from redisrepl.engine.reconcile import Circumstances, circumstances
from redisrepl.engine.winners import Lost, Ruling
from redisrepl.wire.digests import digest_of, element_of
from tests.engine.sides import KEY, Memory, ancestor_of, changed, hash_, resolved, string

ORDINARY = Circumstances()
DEFAULT = frozenset({"set", "hset"})
A, B, C, D = (string(value) for value in "abcd")
REPLACE = Invalidated(KEY, replaces=True)


def plan(site, hub, ancestor=None, kinds=KINDS, winner="hub", about=ORDINARY, off_by=(), **known):
    policy = Policy(kinds, winner, frozenset(off_by))
    return plan_for(KEY, site, hub, ancestor_of(ancestor, **known), policy, about)


def digest(state):
    return digest_of(KEY, state)


def hset(**fields):
    return HashSet(KEY, {name.encode(): None if value is None else value.encode() for name, value in fields.items()})


def pushing(change, *expected):
    return Plan(KEY, push=change, expected=tuple(map(digest, expected)))


def applying(*changes, replaced="nothing"):
    return Plan(KEY, apply=list(changes), replaced=replaced)


SET_B = StringSet(KEY, b"b")


@pytest.mark.parametrize(
    ("site", "hub", "ancestor", "expected"),
    [
        (None, None, None, Plan(KEY)),
        (A, A, A, Plan(KEY)),
        (A, A, None, Plan(KEY, agreed=A)),
        (A, A, B, Plan(KEY, agreed=A)),
        (None, None, A, Plan(KEY, agreed=None)),
        (A, None, None, pushing(REPLACE, None)),
        (None, B, None, applying(SET_B)),
        (B, A, A, pushing(REPLACE, A)),
        (A, B, A, applying(SET_B)),
        (None, A, A, pushing(REPLACE, A)),
        (A, None, A, applying(Deleted(KEY))),
        (None, B, A, applying(SET_B, replaced=None)),
        (B, None, A, pushing(REPLACE, None)),
        # Between types, the key is one thing.
        (hash_(f="1"), A, A, pushing(REPLACE, A)),
        (A, hash_(f="1"), A, applying(Deleted(KEY), hset(f="1"))),
        (None, hash_(5, f="1"), None, applying(hset(f="1"), ExpirySet(KEY, 5))),
        (hash_(f="1"), string("b", 5), hash_(f="1"), applying(StringSet(KEY, b"b", 5))),
        (hash_(f="1"), None, hash_(f="1"), applying(Deleted(KEY))),
        (None, hash_(f="1"), hash_(f="1"), pushing(REPLACE, hash_(f="1"))),
    ],
)
def test_a_key_as_a_whole(site, hub, ancestor, expected):
    assert plan(site, hub, ancestor) == expected


@pytest.mark.parametrize("winner", ["hub", "site"])
@pytest.mark.parametrize("ancestor", [None, A])
@pytest.mark.parametrize("other", [C, hash_(f="1")])
def test_of_a_conflict_the_policy_decides_and_the_loser_is_named(winner, ancestor, other):
    for site, hub in ((B, other), (other, B)):
        found = plan(site, hub, ancestor, winner=winner)
        assert found.lost == [Lost(Ruling(winner), site if winner == "hub" else hub)]
        if winner == "hub":
            assert changed(site, found.apply) == hub
            assert found.push is None
        else:
            assert (found.push, found.expected, found.apply) == (REPLACE, (digest(hub),), [])


@pytest.mark.parametrize("expires_at_ms", [None, 5])
@pytest.mark.parametrize("remover", ["site", "hub"])
def test_of_a_collection_that_one_side_removed_only_what_the_other_changed_since_is_left(remover, expires_at_ms):
    before, since = hash_(expires_at_ms, old="1", both="1"), hash_(expires_at_ms, old="1", both="2", mine="1")
    memory = Memory()
    note_state(memory, KEY, before)
    site, hub = (None, since) if remover == "site" else (since, None)
    for _ in range(2):  # the expiry, and what follows from it, may take a second look
        found = plan_for(KEY, site, hub, memory.agreed, Policy(KINDS, "hub"), ORDINARY)
        site = changed(site, found.apply)
        pushed = resolved(found.push, site)
        hub = changed(hub, pushed)
        note_changes(memory, [*found.apply, *pushed])

    assert site == hub == hash_(both="2", mine="1")


@pytest.mark.parametrize("about", [Circumstances(hub_lost=True), Circumstances(hub_evicts=True)])
def test_a_collection_that_a_server_lost_comes_back_whole(about):
    site = hash_(old="1", mine="1")
    found = plan(site, None, hash_(old="1"), about=about)
    assert (found.push, found.expected) == (REPLACE, (None,))


E = element_of
FIELDS = hash_(f="1", g="1", h="1")


@pytest.mark.parametrize(
    ("site", "hub", "ancestor", "expected"),
    [
        (FIELDS, FIELDS, FIELDS, Plan(KEY)),
        (hash_(f="1", g="1"), hash_(f="1"), hash_(f="1"), Plan(KEY, push=hset(g=None), expected={b"g": (None,)})),
        (hash_(f="2"), hash_(f="1"), hash_(f="1"), Plan(KEY, push=hset(f=None), expected={b"f": (E(b"f", b"1"),)})),
        (hash_(f="1"), hash_(f="2"), hash_(f="1"), applying(hset(f="2"))),
        (hash_(f="1", g="1"), hash_(f="1"), hash_(f="1", g="1"), applying(FieldsDeleted(KEY, (b"g",)))),
        (
            hash_(f="1"),
            hash_(f="1", g="1"),
            hash_(f="1", g="1"),
            Plan(KEY, push=hset(g=None), expected={b"g": (E(b"g", b"1"),)}),
        ),
        # Each to its own field.
        (
            hash_(f="2", g="1", h="1"),
            hash_(f="1", g="2"),
            FIELDS,
            Plan(
                KEY,
                apply=[hset(g="2"), FieldsDeleted(KEY, (b"h",))],
                push=hset(f=None),
                expected={b"f": (E(b"f", b"1"),)},
            ),
        ),
        # A value goes before a removal, either way.
        (hash_(f="1"), hash_(f="1", g="2"), hash_(f="1", g="1"), applying(hset(g="2"), replaced={b"g": None})),
        (
            hash_(f="1", g="2"),
            hash_(f="1"),
            hash_(f="1", g="1"),
            Plan(KEY, push=hset(g=None), expected={b"g": (None,)}),
        ),
        # What both have come to by themselves.
        (hash_(f="2"), hash_(f="2"), FIELDS, Plan(KEY, agreed={b"f": b"2", b"g": None, b"h": None})),
        # Nothing was agreed: all is copied.
        (hash_(f="1"), hash_(g="1"), None, Plan(KEY, [hset(g="1")], hset(f=None), {b"f": (None,)})),
        (hash_(f="1"), hash_(f="1"), A, Plan(KEY, agreed={b"f": b"1"})),
    ],
)
def test_two_hashes_field_by_field(site, hub, ancestor, expected):
    assert plan(site, hub, ancestor) == expected


@pytest.mark.parametrize("winner", ["hub", "site"])
def test_of_a_hash_only_the_fields_conflict_that_both_changed(winner):
    found = plan(hash_(f="2", g="2", h="1"), hash_(f="3", g="1", h="3"), FIELDS, winner=winner)
    if winner == "hub":
        assert found.lost == [Lost(Ruling(winner), hash_(f="2"))]
        assert (found.apply, found.push) == ([hset(f="3", h="3")], hset(g=None))
        assert found.expected == {b"g": (E(b"g", b"1"),)}
    else:
        assert found.lost == [Lost(Ruling(winner), hash_(f="3"))]
        assert (found.apply, found.push) == ([hset(h="3")], hset(f=None, g=None))
        assert found.expected == {b"f": (E(b"f", b"3"),), b"g": (E(b"g", b"1"),)}


@pytest.mark.parametrize(
    ("site", "hub", "ancestor", "known", "expected"),
    [
        # The hub holds what a push of ours may have left, and nobody else's change.
        (C, B, A, {"intents": (digest(B),)}, pushing(REPLACE, B)),
        (C, None, A, {"intents": (None,)}, pushing(REPLACE, None)),
        (None, B, A, {"intents": (digest(B),)}, pushing(REPLACE, B)),
        (B, B, A, {"intents": (digest(B),)}, Plan(KEY, agreed=B)),
        (A, A, A, {"intents": (digest(B),)}, Plan(KEY, agreed=A)),  # the push is known not to have happened
        (
            hash_(f="3"),
            hash_(f="2"),
            hash_(f="1"),
            {"element_intents": {b"f": (E(b"f", b"2"),)}},
            Plan(KEY, push=hset(f=None), expected={b"f": (E(b"f", b"2"),)}),
        ),
        (
            hash_(f="1"),
            hash_(f="1"),
            hash_(f="1"),
            {"element_intents": {b"f": (E(b"f", b"2"),)}},
            Plan(KEY, agreed={b"f": b"1"}),
        ),
        # Likewise an apply, at the site.
        (B, C, A, {"applied": (digest(B),)}, applying(StringSet(KEY, b"c"), replaced=B)),
        (A, B, A, {"applied": (digest(B),)}, applying(SET_B)),
        (C, B, A, {"applied": (digest(B),)}, pushing(REPLACE, B)),
        (A, A, A, {"applied": (digest(B),)}, Plan(KEY, agreed=A)),
        (
            hash_(f="2"),
            hash_(f="3"),
            hash_(f="1"),
            {"element_applied": {b"f": (E(b"f", b"2"),)}},
            applying(hset(f="3"), replaced={b"f": b"2"}),
        ),
        (
            hash_(f="1"),
            hash_(f="1"),
            hash_(f="1"),
            {"element_applied": {b"f": (E(b"f", b"2"),)}},
            Plan(KEY, agreed={b"f": b"1"}),
        ),
    ],
)
def test_what_an_exchange_of_unknown_outcome_may_have_left(site, hub, ancestor, known, expected):
    assert plan(site, hub, ancestor, **known) == expected


@pytest.mark.parametrize("ancestor", [None, A, D])
@pytest.mark.parametrize(("site", "hub"), [(B, C), (B, hash_(f="1")), (hash_(f="2"), hash_(f="1")), (None, C)])
def test_what_the_hub_has_won_over_does_not_replace_what_won_should_that_not_be_applied(site, hub, ancestor):
    """Nothing tells then that the site has written it before, and not since."""
    memory = Memory()
    if ancestor is not None:
        note_state(memory, KEY, ancestor)
    found = plan_for(KEY, site, hub, memory.agreed, Policy(KINDS, "hub"), ORDINARY)
    if found.replaced != "nothing":
        note_state(memory, KEY, found.replaced, found.type)
    applied = Memory()
    note_changes(applied, found.apply)
    left = {"applied": (applied.agreed.digest,)}
    if isinstance(hub, HashState) and found.type == "hash" and applied.agreed.elements:
        left["element_applied"] = {name: (digest,) for name, digest in applied.agreed.elements.items()}
    known = replace(memory.agreed or NOTHING_AGREED, **left)
    again = plan_for(KEY, site, hub, known, Policy(KINDS, "hub"), ORDINARY)
    assert (again.apply, again.push) == (found.apply, None)
    # What its clients write afterwards is newer.
    later = plan_for(KEY, string("e"), hub, known, Policy(KINDS, "hub"), ORDINARY)
    assert (later.apply, later.push) == ([], REPLACE)


@pytest.mark.parametrize("about", [Circumstances(site_lost=True), Circumstances(hub_lost=True)])
@pytest.mark.parametrize(("site", "hub"), [(B, C), (hash_(f="2"), hash_(f="1"))])
def test_what_a_server_that_went_back_holds_does_not_become_agreed_by_being_replaced(about, site, hub):
    assert plan(site, hub, A, about=about).replaced == "nothing"


@pytest.mark.parametrize(
    ("kinds", "site", "hub"),
    [
        *((KINDS, A, other) for other in ("list", "denied")),
        *((KINDS, other, A) for other in ("list", "denied")),
        *((KINDS, other, None) for other in ("list", "denied")),
        (frozenset({"set", "del"}), hash_(f="1"), None),
        (frozenset({"set", "del"}), hash_(f="1"), A),
        (frozenset({"set", "del"}), hash_(f="1"), hash_(f="2")),
        (frozenset({"hset", "del"}), A, None),
        (frozenset({"hset", "del"}), hash_(f="1"), A),
    ],
)
def test_what_cannot_be_replicated_is_not_destroyed_by_what_can(kinds, site, hub):
    for ancestor in (None, A, hash_(f="1")):
        for one, other in ((site, hub), (hub, site)):
            assert replace(plan(one, other, ancestor, kinds=kinds), clash=None) == Plan(KEY)


@pytest.mark.parametrize(
    ("kinds", "site", "hub", "clash"),
    [
        (KINDS, A, "vectorset", "a vectorset"),
        (KINDS, hash_(f="1"), "vectorset", "a vectorset"),
        (frozenset({"set", "del"}), A, hash_(f="1"), "a hash"),
        (frozenset({"hset", "del"}), hash_(f="1"), A, "a string"),
        (KINDS, A, "denied", None),
        (KINDS, A, "too large", None),
        (KINDS, None, "vectorset", None),
        (KINDS, "vectorset", A, None),
        (frozenset({"set", "del"}), hash_(f="1"), "vectorset", None),
    ],
)
def test_what_the_hub_does_not_get_for_what_it_holds_is_told(kinds, site, hub, clash):
    told = plan(site, hub, None, kinds=kinds).clash
    assert told == (clash and f"WRONGTYPE the hub holds {clash} there, which is not replicated")


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed", "winner", "expected"),
    [
        (5, 5, 5, "hub", Plan(KEY)),
        (6, 5, 5, "hub", Plan(KEY, push=ExpirySet(KEY, 6), expected={})),
        (None, 5, 5, "hub", Plan(KEY, push=ExpirySet(KEY, None), expected={})),
        (5, 6, 5, "site", applying(ExpirySet(KEY, 6))),
        (5, None, 5, "site", applying(ExpirySet(KEY, None))),
        (6, 7, 5, "hub", applying(ExpirySet(KEY, 7))),
        (6, 7, 5, "site", Plan(KEY, push=ExpirySet(KEY, 6), expected={})),
        (6, 6, 5, "hub", Plan(KEY, expiry=6)),
    ],
)
@pytest.mark.parametrize("kind", ["string", "hash"])
def test_an_expiry_is_reconciled_by_itself(kind, ours, theirs, agreed, winner, expected):
    site, hub, ancestor = (string("a", at) if kind == "string" else hash_(at, f="1") for at in (ours, theirs, agreed))
    assert plan(site, hub, ancestor, winner=winner) == expected
    if kind == "hash":
        assert plan(site, hub, ancestor, winner=winner, kinds=KINDS - {"expire"}) == Plan(KEY)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed", "expected"),
    [
        (1000, ReckonedExpiry(1020), 1000, Plan(KEY)),
        (ReckonedExpiry(1020), 1000, 1000, Plan(KEY)),
        (ReckonedExpiry(1020), ReckonedExpiry(980), 1000, Plan(KEY)),
        (1000, ReckonedExpiry(1021), 1000, applying(ExpirySet(KEY, 1021))),
        (5000, ReckonedExpiry(1020), 1000, Plan(KEY, push=ExpirySet(KEY, 5000), expected={})),
        (5000, ReckonedExpiry(5020), 1000, Plan(KEY, expiry=5000)),
        (1000, 1020, 1000, applying(ExpirySet(KEY, 1020))),
    ],
)
@pytest.mark.parametrize("kind", ["string", "hash"])
def test_an_expiry_that_was_reckoned_is_the_known_one_that_it_must_be(kind, ours, theirs, agreed, expected):
    site, hub, ancestor = (string("a", at) if kind == "string" else hash_(at, f="1") for at in (ours, theirs, agreed))
    assert plan(site, hub, ancestor) == expected


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed", "winner", "expected"),
    [
        (5, 5, 5, "hub", Plan(KEY)),
        (6, 5, 5, "hub", Plan(KEY)),  # by EXPIRE: its stream would have told of a SET
        (None, 5, 5, "hub", Plan(KEY)),
        (5, 6, 5, "site", applying(StringSet(KEY, b"a", 6))),
        (5, None, 5, "site", applying(StringSet(KEY, b"a"))),
        (None, 6, None, "site", applying(StringSet(KEY, b"a", 6))),
        (6, 7, 5, "hub", applying(StringSet(KEY, b"a", 7))),
        (6, 7, 5, "site", Plan(KEY, expiry=7)),
        (6, 6, 5, "hub", Plan(KEY, expiry=6)),
    ],
)
def test_where_only_the_expiry_that_a_set_gives_is_replicated_the_hubs_new_one_crosses(
    ours, theirs, agreed, winner, expected
):
    site, hub = string("a", ours), string("a", theirs)
    assert plan(site, hub, string("a", agreed), winner=winner, kinds=DEFAULT) == expected
    # Which of them is the newer nothing tells, where the value was not agreed on.
    for ancestor in (None, string("b", agreed)):
        assert plan(site, hub, ancestor, winner=winner, kinds=DEFAULT) == Plan(KEY, agreed=hub)


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed", "expected"),
    [
        (50, 57, 50, Plan(KEY, push=ExpirySet(KEY, 50), expected={})),
        (50, 43, 50, Plan(KEY, push=ExpirySet(KEY, 50), expected={})),
        (60, 57, 50, Plan(KEY, push=ExpirySet(KEY, 60), expected={})),
        (None, 57, 50, Plan(KEY, push=ExpirySet(KEY, None), expected={})),
        (50, 56, 50, applying(ExpirySet(KEY, 56))),  # a client of the hub has changed it since
        (50, None, 50, applying(ExpirySet(KEY, None))),
        (50, 50, 50, Plan(KEY)),
    ],
)
@pytest.mark.parametrize("kind", ["string", "hash"])
@pytest.mark.parametrize("winner", ["site", "hub"])
def test_an_expiry_at_the_hub_of_before_its_clock_was_set_is_written_anew(kind, winner, ours, theirs, agreed, expected):
    site, hub, ancestor = (string("a", at) if kind == "string" else hash_(at, f="1") for at in (ours, theirs, agreed))
    assert plan(site, hub, ancestor, winner=winner, off_by=(7, -7)) == expected
    unreplicated = plan(site, hub, ancestor, winner=winner, off_by=(7, -7), kinds=KINDS - {"expire"})
    of_a_set = kind == "string" and expected.apply
    assert unreplicated == (applying(StringSet(KEY, b"a", theirs)) if of_a_set else Plan(KEY))


def test_what_else_changed_of_a_key_whose_expiry_is_off_crosses_as_ever():
    off = {"off_by": (7,)}
    anew = {"push": ExpirySet(KEY, 50), "expected": {}}
    assert plan(string("a", 50), string("b", 57), string("a", 50), **off) == Plan(
        KEY, [StringSet(KEY, b"b", 50)], **anew
    )
    assert plan(string("a", 50), string("b", 57), string("b", 50), **off).push == REPLACE
    assert plan(hash_(50, f="2"), hash_(57, f="1"), hash_(50, f="1"), **off) == Plan(
        KEY, push=REPLACE, expected={b"f": (E(b"f", b"1"),)}
    )
    assert plan(hash_(50, f="1"), hash_(57, f="2"), hash_(50, f="1"), **off) == Plan(KEY, [hset(f="2")], **anew)
    assert plan(None, string("a", 57), string("a", 50), **off) == pushing(REPLACE, string("a", 57))
    assert plan(None, string("a", 57), None, **off).apply == [StringSet(KEY, b"a", 57)]  # by whatever clock


def test_that_values_agree_says_nothing_of_their_expiries():
    """Else an expiry would count as agreed before it is there, and if its push fails never be pushed."""
    assert plan(string("a", 6), string("a", 7), winner="site") == Plan(
        KEY, push=ExpirySet(KEY, 6), expected={}, agreed=A
    )
    assert plan(A, string("a", 6)) == Plan(KEY, [ExpirySet(KEY, 6)], agreed=A)
    assert plan(string("a", 6), A, string("b", 7)) == Plan(KEY, [ExpirySet(KEY, None)], agreed=string("a", 7))
    assert plan(string("a", 6), string("a", 6)) == Plan(KEY, agreed=string("a", 6), expiry=6)


def test_fields_and_the_expiry_of_a_hash_are_pushed_together():
    found = plan(hash_(5, f="2"), hash_(f="1"), hash_(f="1"))
    assert found == Plan(KEY, push=REPLACE, expected={b"f": (E(b"f", b"1"),)})


def test_expiries_that_are_not_replicated_are_not_applied():
    assert plan(None, hash_(5, f="1"), kinds=DEFAULT).apply == [hset(f="1")]


@pytest.mark.parametrize(("expires_at_ms", "expired"), [(None, False), (999, True), (1000, True), (1001, False)])
def test_an_expiry_that_has_passed_bears_on_the_verdict(expires_at_ms, expired):
    assert circumstances(ORDINARY, expires_at_ms, now_ms=1000) == Circumstances(expired=expired)
    assert circumstances(ORDINARY, None, now_ms=1000) == ORDINARY


@pytest.mark.parametrize(
    ("expiries", "about"),
    [
        ([], Circumstances(expired=True)),
        ([1000], Circumstances(expired=True)),
        # One side has changed the expiry, and the other let the key expire before it heard of that.
        ([1001], Circumstances(removals=False)),
        ([None], Circumstances(removals=False)),
        # Or the hub let a set expire, and then got a member that the site had added after giving it a later expiry.
        ([1000, None], Circumstances(removals=False)),
        ([1001, None], Circumstances(removals=False)),
    ],
)
def test_what_outlives_the_agreed_expiry_was_not_removed_by_the_other_side(expiries, about):
    assert circumstances(ORDINARY, 999, now_ms=1000, expiries=expiries) == about
    assert circumstances(ORDINARY, 1001, now_ms=1000, expiries=expiries) == ORDINARY


def test_circumstances_of_all_keys_are_kept_beside_those_of_one():
    base = Circumstances(removals=False, site_evicts=True, hub_evicts=True)
    found = circumstances(base, 5, now_ms=5)
    assert found == Circumstances(removals=False, site_evicts=True, hub_evicts=True, expired=True)


# Whatever both sides hold.

VALUES = [
    None,
    A,
    B,
    string("a", 5),
    string("a", 6),
    hash_(f="1"),
    hash_(5, f="1"),
    hash_(f="2"),
    hash_(g="1"),
    hash_(f="1", g="1"),
    hash_(6, f="2", g="2"),
    hash_(f="2", g="1", h="1"),
]


def carried_out(site, hub, found, memory):
    """Both sides after a plan, and what is noted, in the order in which `applying` and `pushing` do it."""
    site = changed(site, found.apply)
    noted(found, memory)
    note_changes(memory, found.apply)
    pushed = resolved(found.push, site)
    note_changes(memory, pushed)
    return site, changed(hub, pushed)


def noted(found, memory):
    if found.agreed != "nothing":
        note_state(memory, KEY, found.agreed)
    if found.expiry != "nothing":
        memory.expiry(KEY, found.expiry)
    if found.disputed:
        memory.forget(KEY)


def places(state):
    """What is held where: a value of the key, or of each field."""
    match state:
        case StringState(value):
            return {None: value}
        case HashState(fields):
            return dict(fields)
        case _:
            return {}


@pytest.mark.parametrize("winner", ["hub", "site"])
def test_a_plan_makes_both_sides_equal_agreed_and_nothing_vanishes_unnamed(winner):
    for ancestor, site, hub in product(VALUES, repeat=3):
        memory = Memory(ancestor)
        found = plan_for(KEY, site, hub, memory.agreed, Policy(KINDS, winner), ORDINARY)
        site_after, hub_after = carried_out(site, hub, found, memory)
        about = (ancestor, site, hub)

        assert site_after == hub_after, about
        again = plan_for(KEY, site_after, hub_after, memory.agreed, Policy(KINDS, winner), ORDINARY)
        assert (again.apply, again.push, again.agreed) == ([], None, "nothing"), about
        noted(again, memory)  # an expiry, where there was no key yet to note it for
        assert memory.holds(site_after), about
        for held in (site, hub):
            for place, value in places(held).items():
                if places(ancestor).get(place) != value and places(site_after).get(place) != value:
                    assert value in [places(lost.value).get(place) for lost in found.lost], about
        assert [lost.ruling for lost in found.lost] in ([], [Ruling(winner)]), about


def test_without_removals_nothing_is_ever_removed():
    for ancestor, site, hub in product(VALUES, repeat=3):
        found = plan(site, hub, ancestor, kinds=DEFAULT, about=Circumstances(removals=False))
        if not (isinstance(site, StringState) or isinstance(hub, StringState)):  # one type replaces another
            assert not any(isinstance(change, Deleted | FieldsDeleted) for change in found.apply)
            if site is None:
                assert found.push is None


def test_what_is_pushed_because_a_server_lost_it_is_not_agreed_on_before_it_has_arrived():
    """Else, should it not arrive, a later comparison would take it for removed there."""
    for site_lost, hub_lost in product((False, True), repeat=2):
        about = Circumstances(site_lost=site_lost, hub_lost=hub_lost)
        assert plan(A, None, A, about=about).disputed == (site_lost or hub_lost)
        assert not plan(None, A, A, about=about).disputed or not (site_lost or hub_lost)
        assert not plan(A, A, A, about=about).disputed


@pytest.mark.parametrize("lost", ["site", "hub"])
def test_what_a_server_lost_comes_back_and_nothing_is_taken_for_it(lost):
    about = Circumstances(site_lost=lost == "site", hub_lost=lost == "hub")
    for ancestor, site, hub in product(VALUES, repeat=3):
        if ancestor is None:
            continue
        memory = Memory(ancestor)
        found = plan_for(KEY, site, hub, memory.agreed, Policy(KINDS, "hub"), about)
        site_after, hub_after = carried_out(site, hub, found, memory)
        whole = hub if lost == "site" else site
        for place, value in places(whole).items():
            assert places(site_after).get(place) == places(hub_after).get(place) == value, (ancestor, site, hub)


# Fields that expire.

LATER = 4_000_000_000_000


def timed(at=LATER, value=b"1"):
    return TimedValue(value, at)


@pytest.mark.parametrize(
    ("site", "hub", "ancestor", "apply", "push"),
    [
        (timed(), b"1", b"1", [], {b"f": None}),
        (b"1", timed(), b"1", [HashSet(KEY, {b"f": timed()})], None),
        (timed(), timed(), b"1", [], None),
        (b"1", timed(), timed(), [], {b"f": None}),
        (timed(), timed(5), timed(), [HashSet(KEY, {b"f": timed(5)})], None),
    ],
)
def test_an_expiry_alone_is_a_difference(site, hub, ancestor, apply, push):
    found = plan(HashState({b"f": site, b"g": b"1"}), HashState({b"f": hub, b"g": b"1"}), HashState({b"f": ancestor}))
    assert found.apply == apply
    assert (found.push.fields if found.push else None) == push
    assert found.lost == []


def test_of_two_expiries_that_differ_one_wins_and_the_other_is_lost():
    found = plan(HashState({b"f": timed(5)}), HashState({b"f": timed(6)}), HashState({b"f": timed()}))
    assert found.apply == [HashSet(KEY, {b"f": timed(6)})]
    assert found.lost == [Lost(Ruling("hub"), HashState({b"f": timed(5)}))]


@pytest.mark.parametrize("expired", [True, False])
@pytest.mark.parametrize("lacks", ["site", "hub"])
def test_a_field_that_one_side_has_let_expire_goes_in_its_own_time(lacks, expired):
    """The other side's clock may be behind: that a side lacks it then is no removal."""
    whole, part = HashState({b"f": timed(1000), b"g": b"1"}), HashState({b"g": b"1"})
    site, hub = (part, whole) if lacks == "site" else (whole, part)
    now_ms = 1000 if expired else 999
    found = plan_for(KEY, site, hub, ancestor_of(whole), Policy(KINDS, "hub"), ORDINARY, now_ms=now_ms)
    assert (not found.apply and found.push is None) == expired


def test_an_expiry_of_a_field_from_before_the_clock_was_set_is_written_anew():
    """It is nobody's change. Other changes of the same hash are what they are."""
    agreed = HashState({b"f": timed(), b"g": timed(), b"h": b"1"})
    hub = HashState({b"f": timed(LATER - 7000), b"g": timed(LATER - 6000), b"h": b"1"})
    found = plan(agreed, hub, agreed, off_by=(-7000, 9000))
    assert found.apply == [HashSet(KEY, {b"g": timed(LATER - 6000)})]
    assert found.push == HashSet(KEY, {b"f": None})
    assert found.expected == {b"f": (element_of(b"f", timed(LATER - 7000)),)}
    changed_here = HashState({b"f": timed(), b"g": timed(), b"h": b"2"})
    found = plan(changed_here, hub, agreed, off_by=(-7000,))
    assert found.push == HashSet(KEY, {b"f": None, b"h": None})
    assert found.expected == {b"f": (element_of(b"f", timed(LATER - 7000)),), b"h": (element_of(b"h", b"1"),)}
    gone_here = HashState({b"g": timed(), b"h": b"1"})
    found = plan(gone_here, hub, agreed, off_by=(-7000,))
    assert found.push == HashSet(KEY, {b"f": None})
    assert found.expected == {b"f": (element_of(b"f", timed(LATER - 7000)),)}
    assert plan(agreed, hub, agreed).push is None  # no clock was set: then it is the hub's change


def test_what_expired_at_the_site_does_not_stay_at_a_hub_whose_clock_was_set_back():
    """Nobody has given it a later expiry. What a server lost is another matter: the hub's is all there is."""
    policy, about = Policy(KINDS, "hub", frozenset({7000})), circumstances(ORDINARY, LATER, now_ms=LATER + 1)
    agreed, hub = HashState({b"f": timed(), b"g": b"1"}), HashState({b"f": timed(LATER + 7000), b"g": b"1"})
    found = plan_for(KEY, HashState({b"g": b"1"}), hub, ancestor_of(agreed), policy, ORDINARY, now_ms=LATER + 1)
    assert (found.apply, found.push) == ([], HashSet(KEY, {b"f": None}))
    assert found.expected == {b"f": (element_of(b"f", timed(LATER + 7000)),)}
    agreed, hub = string("a", LATER), string("a", LATER + 7000)
    assert plan_for(KEY, None, hub, ancestor_of(agreed), policy, about) == Plan(
        KEY, push=ExpirySet(KEY, LATER), expected={}
    )
    lost = replace(about, site_lost=True)
    assert plan_for(KEY, None, hub, ancestor_of(agreed), policy, lost).apply == [StringSet(KEY, b"a", LATER)]


def test_of_a_collection_that_outlived_its_expiry_the_site_tells_the_new_one():
    """A late push may have left a part of it at the hub, without an expiry."""
    ancestor = ancestor_of(hash_(5, f="1"))
    site, hub = hash_(99, f="1", g="2"), hash_(None, g="2")
    about = circumstances(ORDINARY, 5, now_ms=6, expiries=(99, None))
    found = plan_for(KEY, site, hub, ancestor, Policy(KINDS, "hub"), about, now_ms=6)
    assert (found.apply, found.push, found.expected) == ([], REPLACE, {b"f": (None,)})
