"""What follows from each event, whatever was known before."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisrepl.engine.continuity import EFFECTS, Continuity, Event, SideState

#: `.`: as it was; `reason`: that which is told, unless there is one already; `least`: the least number told since;
#: `*`: only if the side is not owed a comparison.
TABLE = """
| event     | epoch | followed | judged | owed   | missed | settled | proved | flushed | evicts | run_id |
|-----------|-------|----------|--------|--------|--------|---------|--------|---------|--------|--------|
| DETACHED  | next  | no       | no     | .      | .      | .       | .      | .       | .      | .      |
| ATTACHED  | next  | yes      | no     | .      | .      | .       | .      | .       | .      | .      |
| RESUMED   | .     | .        | yes    | .      | .      | .       | .      | .       | .      | .      |
| FIRST     | next  | .        | yes    | reason | .      | no      | .      | .       | .      | .      |
| GAP       | next  | .        | yes    | reason | yes    | no      | .      | .       | .      | .      |
| FLUSHED   | .     | .        | .      | reason | yes    | no      | .      | yes     | .      | .      |
| CLOCK_SET | next  | .        | .      | reason | .      | no      | .      | .       | .      | .      |
| LEFT_OUT  | .     | .        | .      | reason | .      | no      | .      | .       | .      | .      |
| MISSED    | next  | .        | .      | reason | yes    | no      | .      | .       | .      | .      |
| RESTARTED | next  | .        | yes    | reason | yes    | no      | .      | .       | .      | .      |
| WENT_BACK | next  | .        | yes    | reason | yes    | no      | least  | .       | .      | .      |
| COMPARED  | .     | .        | .      | .      | no*    | yes*    | all*   | no*     | .      | .      |
"""
REASON, NUMBER = "what happened", 5.0


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


HEAD, _, *ROWS = map(cells, TABLE.strip().splitlines())
EXPECTED = {row[0]: dict(zip(HEAD[1:], row[1:], strict=True)) for row in ROWS}
STATES = [
    SideState(3, followed, judged, owed, missed, settled, proved, flushed, evicts, "run")
    for followed, judged, owed, missed, settled, proved, flushed, evicts in product(
        (False, True),
        (False, True),
        (None, "before"),
        (False, True),
        (False, True),
        (math.inf, 7.0, 4.0),
        (False, True),
        (False, True),
    )
]


def expected(state, event):
    """The state that the table tells."""
    found = asdict(state)
    for name, cell in EXPECTED[event.name].items():
        if cell == "." or (cell.endswith("*") and state.owed is not None):
            continue
        found[name] = {
            "next": state.epoch + 1,
            "yes": True,
            "no": False,
            "reason": state.owed or REASON,
            "least": min(state.proved, NUMBER),
            "all": math.inf,
        }[cell.rstrip("*")]
    if event is Event.COMPARED and state.owed is not None:
        found["settled"] = False
    return SideState(**found)


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("side", ["site", "hub"])
def test_what_follows_from_an_event(side, event):
    for state in STATES:
        continuity = Continuity(replace(state), replace(state))
        continuity.happened(side, event, REASON, proved=NUMBER)
        other = continuity.hub if side == "site" else continuity.site

        assert continuity.of(side) == expected(state, event), state
        assert other == state  # what happens to one side tells nothing of the other


def test_each_event_has_its_effects():
    assert EFFECTS.keys() == set(Event)
    assert EXPECTED.keys() == {event.name for event in Event}


def test_the_epoch_is_another_one_whenever_either_links_is():
    continuity, seen = Continuity(), {0}
    for side, event in product(("site", "hub"), Event):
        continuity.happened(side, event, REASON)
        seen.add(continuity.epoch)
    assert len(seen) == 1 + 2 * sum(effect.epoch for effect in EFFECTS.values())


def test_histories_are_known_once_both_servers_were_judged():
    for site_followed, site_judged, hub_followed, hub_judged in product((False, True), repeat=4):
        continuity = Continuity(
            SideState(followed=site_followed, judged=site_judged), SideState(followed=hub_followed, judged=hub_judged)
        )
        assert continuity.known == (site_followed and site_judged and hub_judged)


def test_a_side_that_is_owed_another_comparison_meanwhile_is_not_settled():
    continuity = Continuity()
    continuity.happened("hub", Event.GAP, "first")
    continuity.happened("hub", Event.GAP, "second")
    assert continuity.begin("hub") == "first"
    assert (continuity.hub.owed, continuity.begin("site")) == (None, None)
    continuity.happened("hub", Event.GAP, "third")
    continuity.happened("hub", Event.COMPARED)
    assert not continuity.hub.settled
    assert continuity.begin("hub") == "third"
    continuity.happened("hub", Event.COMPARED)
    assert continuity.hub.settled


def test_new_digests_owe_a_comparison_but_to_a_side_of_which_nothing_was_known():
    continuity = Continuity()
    continuity.happened("hub", Event.ATTACHED)
    continuity.digested_anew("new digests")
    assert continuity.site.untouched  # what a first snapshot holds may still be pushed while it is read
    assert (continuity.hub.owed, continuity.hub.epoch) == ("new digests", 2)


def test_what_was_not_settled_is_owed_after_a_restart_and_what_is_proved_is_kept():
    for state in STATES:
        saved = json.loads(json.dumps(Continuity(state, SideState()).saved(quiet=True)))
        loaded = Continuity.load(saved).site
        owed = None if state.settled else "not all was compared before the last stop"
        assert loaded == SideState(
            owed=owed,
            missed=state.missed,
            settled=state.settled,
            proved=state.proved,
            evicts=state.evicts,
            run_id="run",
        )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["site", "hub", "run_id", "settled", "proved", "evicts", "missed"]), inner)
    ),
    max_leaves=8,
)


@given(JSON)
def test_a_document_that_nobody_wrote_makes_nothing_known(document):
    continuity = Continuity.load(document)
    assert not continuity.known
    for side in (continuity.site, continuity.hub):
        assert not any((side.followed, side.judged))
        assert isinstance(side.proved, float)


def test_nothing_saved_is_nothing_known():
    for document in (None, {}, [], "x", {"site": 5}):
        assert Continuity.load(document) == Continuity()
