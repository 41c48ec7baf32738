"""The table, for every combination of what it is asked: as a document prints it, and by what it must never do."""

from __future__ import annotations

from functools import cache
from itertools import chain, combinations, product

import pytest

from redisrepl.engine.reconcile import ABSENT, Circumstances, Verdict, reconcile

VALUES = (ABSENT, 1, 2, 3)
FLAGS = ("removals", "site_lost", "hub_lost", "site_evicts", "hub_evicts", "expired")
ALL_CIRCUMSTANCES = [
    Circumstances(**dict(zip(FLAGS, given, strict=True))) for given in product((False, True), repeat=len(FLAGS))
]
ALL_INTENTS = list(chain.from_iterable(combinations(VALUES, count) for count in range(len(VALUES) + 1)))
STATES = list(product(VALUES, repeat=3))

#: A, S, H: what was agreed, what the site holds, what the hub holds; `-`: nothing, letters: values. The other columns:
#: what to do, in the circumstances at their head; an empty one: as ordinarily.
TABLE = """
| A | S | H | ordinary | no removals | expired | site evicts | hub evicts | site lost | hub lost | both lost |
|---|---|---|----------|-------------|---------|-------------|------------|-----------|----------|-----------|
| - | - | - | AGREE    |             |         |             |            |           |          |           |
| - | - | b | APPLY    |             |         |             |            |           |          |           |
| - | b | - | PUSH     |             |         |             |            |           |          |           |
| - | b | b | AGREE    |             |         |             |            |           |          |           |
| - | b | c | CONFLICT |             |         |             |            | APPLY     | PUSH     |           |
| a | - | - | AGREE    |             |         |             |            |           |          |           |
| a | - | a | PUSH     | APPLY       | NOTHING | NOTHING     |            | APPLY     | APPLY    | APPLY     |
| a | - | b | APPLY    |             |         |             |            |           |          |           |
| a | a | - | APPLY    | PUSH        | NOTHING |             | NOTHING    | PUSH      | PUSH     | PUSH      |
| a | a | a | AGREE    |             |         |             |            |           |          |           |
| a | a | b | APPLY    |             |         |             |            |           | PUSH     | CONFLICT  |
| a | b | - | PUSH     |             |         |             |            |           |          |           |
| a | b | a | PUSH     |             |         |             |            | APPLY     |          | CONFLICT  |
| a | b | b | AGREE    |             |         |             |            |           |          |           |
| a | b | c | CONFLICT |             |         |             |            | APPLY     | PUSH     |           |
"""
HEADS = {
    "ordinary": Circumstances(),
    "no removals": Circumstances(removals=False),
    "expired": Circumstances(expired=True),
    "site evicts": Circumstances(site_evicts=True),
    "hub evicts": Circumstances(hub_evicts=True),
    "site lost": Circumstances(site_lost=True),
    "hub lost": Circumstances(hub_lost=True),
    "both lost": Circumstances(site_lost=True, hub_lost=True),
}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def printed():
    """The rows of the table: the three states, and what to do by the head of the column."""
    head, _, *rows = TABLE.strip().splitlines()
    heads = cells(head)[3:]
    assert heads == list(HEADS)
    for row in rows:
        states, (ordinary, *others) = cells(row)[:3], cells(row)[3:]
        verdicts = [ordinary, *(cell or ordinary for cell in others)]
        yield tuple(states), dict(zip(heads, verdicts, strict=True))


def lettered(*states):
    """Values by letters: that of the ancestor is `a`, others `b` and `c` as they come."""
    letters = {ABSENT: "-"}
    ancestor, *others = states
    if ancestor is not ABSENT:
        letters[ancestor] = "a"
    for value in others:
        letters.setdefault(value, "bc"["b" in letters.values()])
    return tuple(letters[value] for value in states)


@pytest.mark.parametrize("head", HEADS)
def test_the_table_as_it_is_printed(head):
    rows = dict(printed())
    asked = {lettered(*states): reconcile(*states, (), HEADS[head]).name for states in STATES}

    assert asked == {states: verdicts[head] for states, verdicts in rows.items()}
    for states in STATES:  # whichever values the letters stand for
        assert reconcile(*states, (), HEADS[head]).name == asked[lettered(*states)]


@cache
def all_questions():
    return [
        (ancestor, site, hub, intents, about, reconcile(ancestor, site, hub, intents, about))
        for (ancestor, site, hub), intents, about in product(STATES, ALL_INTENTS, ALL_CIRCUMSTANCES)
    ]


def removes(site, hub, verdict):
    """From which side a value is removed."""
    if verdict is Verdict.PUSH and site is ABSENT:
        return "hub"
    return "site" if verdict is Verdict.APPLY and hub is ABSENT else None


def test_equal_sides_agree_and_no_others():
    for _, site, hub, _, _, verdict in all_questions():
        assert (verdict is Verdict.AGREE) == (site == hub)


def test_a_write_is_replaced_only_by_a_newer_one_or_in_a_conflict():
    """I8: what differs from the ancestor is newer than it, and nothing may silently replace it."""
    for ancestor, site, hub, intents, about, verdict in all_questions():
        if about.site_lost or about.hub_lost:
            continue
        if site not in (ABSENT, ancestor, hub):
            assert verdict in {Verdict.PUSH, Verdict.CONFLICT}
            assert (verdict is Verdict.PUSH) == (hub in (ABSENT, ancestor, *intents))
        if hub not in (ABSENT, ancestor, site, *intents):
            assert verdict in {Verdict.APPLY, Verdict.CONFLICT}


def test_a_removal_is_not_undone():
    """I9: of what neither side has changed since, the removal goes to the other side."""
    for ancestor, site, hub, intents, about, verdict in all_questions():
        if about.site_lost or about.hub_lost or about.expired or not about.removals or ancestor is ABSENT:
            continue
        if site is ABSENT and hub == ancestor and not about.site_evicts:
            assert verdict is Verdict.PUSH
        if hub is ABSENT and site == ancestor and ABSENT not in intents and not about.hub_evicts:
            assert verdict is Verdict.APPLY


def test_nothing_is_removed_but_for_a_removal():
    """I10, and the rest: not for what was lost, evicted or has expired, nor for what was never there."""
    for ancestor, site, hub, intents, about, verdict in all_questions():
        side = removes(site, hub, verdict)
        if side is None:
            continue
        assert about.removals
        assert not any((about.site_lost, about.hub_lost, about.expired))
        assert not (about.site_evicts if side == "hub" else about.hub_evicts)
        removed = hub if side == "hub" else site
        assert removed == ancestor or (side == "hub" and removed in intents)


def test_a_server_that_lost_something_gets_it_back_and_takes_nothing():
    """I10: where one alone has lost something, what the other holds is right."""
    for _, site, hub, _, about, verdict in all_questions():
        if about.site_lost == about.hub_lost or site == hub:
            continue
        keeps, gives = (hub, Verdict.APPLY) if about.site_lost else (site, Verdict.PUSH)
        other = Verdict.PUSH if gives is Verdict.APPLY else Verdict.APPLY
        assert verdict is (other if keeps is ABSENT else gives)


def test_where_both_have_lost_something_all_is_copied_and_nothing_chosen():
    for _, site, hub, _, about, verdict in all_questions():
        if about.site_lost and about.hub_lost:
            assert verdict is reconcile(ABSENT, site, hub)


def test_a_side_is_left_alone_only_where_its_loss_is_no_removal():
    for _, site, hub, _, about, verdict in all_questions():
        if verdict is Verdict.NOTHING:
            assert ABSENT in (site, hub)
            assert about.expired or (about.site_evicts if site is ABSENT else about.hub_evicts)


def test_what_a_push_of_ours_may_have_left_is_nobody_elses_change():
    for ancestor, site, hub, intents, about, verdict in all_questions():
        if about.site_lost or about.hub_lost:
            continue
        assert verdict is reconcile(hub if hub in intents else ancestor, site, hub, (), about)


def test_the_sides_are_treated_alike():
    turned = {Verdict.PUSH: Verdict.APPLY, Verdict.APPLY: Verdict.PUSH}
    for (ancestor, site, hub), about in product(STATES, ALL_CIRCUMSTANCES):
        other = Circumstances(
            about.removals, about.hub_lost, about.site_lost, about.hub_evicts, about.site_evicts, about.expired
        )
        verdict = reconcile(ancestor, hub, site, (), other)
        assert reconcile(ancestor, site, hub, (), about) is turned.get(verdict, verdict)


def test_what_an_apply_of_ours_may_have_left_at_the_site_is_no_change_of_a_client():
    """The hub had it then: what the hub holds now is newer. Otherwise all is as ever."""
    few = [(), *((value,) for value in VALUES), *combinations(VALUES, 2)]
    for (ancestor, site, hub), intents, applied, about in product(STATES, few[:5], few, ALL_CIRCUMSTANCES):
        verdict = reconcile(ancestor, site, hub, intents, about, applied)
        if about.site_lost or about.hub_lost:
            assert verdict is reconcile(ancestor, site, hub, intents, about)
        elif site in applied or (site == ancestor and hub in applied):
            assert verdict is reconcile(site, site, hub, (), about)
        elif hub in applied:
            assert verdict is reconcile(hub, site, hub, (), about)
        else:
            assert verdict is reconcile(ancestor, site, hub, intents, about)
