"""Agreements since a site was lost: which of them are about what it holds since it went back."""

from __future__ import annotations

import json

import pytest

from redisrepl.changes import Deleted, ExpirySet, FieldsDeleted, HashSet, Invalidated, StringSet
from redisrepl.engine import renewed as renewed_module
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.renewed import Renewed

KEY, OTHER, F, G = b"k", b"o", b"f", b"g"
AGREED = Agreed(1, 9)
#: The site was lost at 10.
LOST = 10


def lost(waiting=None, history="ours"):
    """It was lost, and this history was found since."""
    renewed = Renewed()
    renewed.lost(LOST, waiting or {})
    renewed.found(history)
    return renewed


def gone_back(waiting=None):
    renewed = lost(waiting)
    renewed.went_back(15)
    return renewed


def again(renewed):
    """In another process, with what was saved."""
    return Renewed.load(json.loads(json.dumps(renewed.saved())))


def held(renewed, key=KEY, parts=(None, F, G), ancestor=AGREED):
    return {part for part in parts if renewed.holds(key, part, ancestor)}


SET, FIELD, BOTH = StringSet(KEY, b"v"), HashSet(KEY, {F: b"v"}), HashSet(KEY, {F: b"v", G: b"v"})


def test_what_arrives_of_what_was_written_since_is_held():
    renewed = gone_back()
    assert held(renewed) == set()
    renewed.arrived([FIELD], 16)
    assert held(renewed) == {F}
    assert held(renewed, OTHER) == set()
    renewed.arrived([SET], 17)
    assert held(renewed) == {None, F, G}


@pytest.mark.parametrize(
    ("waiting", "arrives", "holds"),
    [
        ({None: 1}, SET, set()),
        ({None: 1}, FIELD, set()),
        ({F: 1}, SET, set()),
        ({F: 1}, FIELD, set()),
        ({F: 1}, BOTH, {G}),
    ],
)
def test_what_was_told_before_the_loss_tells_nothing_when_it_arrives_after_it(waiting, arrives, holds):
    """The site may have lost it. What follows it does tell."""
    renewed = gone_back({KEY: waiting})
    renewed.arrived([arrives], 16)
    assert held(renewed) == holds
    renewed.arrived([arrives], 17)
    assert held(renewed) >= ({F} if arrives is FIELD else {None} if arrives is SET else {F, G})


@pytest.mark.parametrize("process", [lambda renewed: renewed, again])
@pytest.mark.parametrize(("lacks", "holds"), [(set(), {None, F, G}), ({OTHER}, {None, F, G}), ({KEY}, set())])
def test_of_what_waited_and_the_site_has_all_that_arrives_is_held(process, lacks, holds):
    renewed = lost({KEY: {None: 1}})
    renewed.went_back(15)
    renewed.has_all_but(lacks)
    renewed = process(renewed)
    renewed.arrived([SET], 16)
    assert held(renewed) == holds


def test_what_waited_before_the_loss_of_another_server_it_may_lack_all_the_same():
    renewed = lost({KEY: {None: 1}})
    renewed.judged()
    renewed.lost(20, {OTHER: {None: 1}})
    renewed.found("ours")
    renewed.went_back(25)
    renewed.has_all_but(set())
    renewed.arrived([SET, StringSet(OTHER, b"v")], 26)
    assert (held(renewed), held(renewed, OTHER)) == (set(), {None, F, G})


def test_what_an_unjudged_server_told_last_another_one_may_lack():
    renewed = lost({KEY: {None: 1}})
    renewed.lost(20, {KEY: {None: 1}, OTHER: {None: 1}})
    renewed.found("ours")
    renewed.went_back(25)
    renewed.has_all_but(set())
    renewed.arrived([SET, StringSet(OTHER, b"v")], 26)
    assert (held(renewed), held(renewed, OTHER)) == ({None, F, G}, set())


def test_of_what_flew_already_something_older_may_be_left():
    renewed = gone_back({KEY: {None: 1}})
    renewed.arrived([SET], 16, more=[KEY])
    renewed.arrived([SET], 17)
    assert held(renewed) == set()


@pytest.mark.parametrize(
    ("waiting", "change", "holds"),
    [
        ({None: 1}, SET, {None, F, G}),
        ({None: 1}, Deleted(KEY), {None, F, G}),
        ({None: 1}, Invalidated(KEY), {None, F, G}),
        ({None: 1}, ExpirySet(KEY, 5), set()),
        ({F: 1, G: 1}, FieldsDeleted(KEY, (F,)), set()),
        ({F: 1}, FieldsDeleted(KEY, (F,)), {None, F, G}),
    ],
)
def test_what_a_client_writes_since_takes_the_place_of_what_waits(waiting, change, holds):
    renewed = gone_back({KEY: waiting})
    renewed.changed_by(change)
    renewed.arrived([SET], 16)
    assert held(renewed) == holds


def test_a_run_of_writes_does_so_too():
    renewed = gone_back({KEY: {None: 1}, OTHER: {None: 1}})
    renewed.changed([KEY, b"else"])
    renewed.arrived([SET, StringSet(OTHER, b"v")], 16)
    assert held(renewed) == {None, F, G}
    assert held(renewed, OTHER) == set()


@pytest.mark.parametrize("restarts", [0, 1, 2])
@pytest.mark.parametrize(
    ("waiting", "sent", "agreed", "holds"),
    [
        ({}, 0, {None: 11}, {None, F, G}),
        ({}, 0, {None: LOST}, set()),
        ({}, 0, {F: 11, G: LOST}, {F}),
        ({None: 1}, 0, {None: 11}, set()),
        ({F: 1}, 0, {None: 11, F: 11, G: 11}, {G}),
        ({None: 1}, 12, {None: 12}, set()),
        ({None: 1}, 12, {None: 13}, {None, F, G}),
        ({F: 1}, 12, {F: 12, G: 12}, {G}),
        ({F: 1}, 12, {None: 12}, set()),
        ({F: 1}, 12, {F: 13}, {F}),
    ],
)
def test_another_process_goes_by_what_was_agreed_on(restarts, waiting, sent, agreed, holds):
    renewed = lost({KEY: waiting} if waiting else {})
    if sent:
        renewed.arrived([SET if None in waiting else FIELD], sent)
    for _ in range(restarts):
        renewed = again(renewed)
    assert renewed.from_number == LOST
    renewed.went_back(15)
    renewed.agreed({KEY: agreed})
    assert renewed.from_number == LOST
    assert held(renewed) == holds


@pytest.mark.parametrize(("history", "since"), [("ours", LOST), ("other", 15), ("", 15)])
@pytest.mark.parametrize("restarts", [0, 1])
def test_what_is_agreed_with_one_server_tells_nothing_of_another(history, since, restarts):
    renewed = lost()
    for _ in range(restarts):
        renewed = again(renewed)
    renewed.found(history)
    renewed.went_back(15)
    assert renewed.since == since


def test_each_loss_begins_anew():
    renewed = gone_back()
    renewed.arrived([SET], 16)
    renewed.lost(20, {})
    renewed.went_back(25)
    assert renewed.since == 20
    assert held(renewed) == set()


def test_a_server_that_had_gone_back_and_has_not_again_stays_judged_by_the_first_time():
    renewed = gone_back()
    renewed.lost(20, {})
    renewed.found("ours")
    renewed.judged()
    renewed.agreed({KEY: {None: 11}})
    assert held(renewed) == {None, F, G}


def test_without_a_loss_there_is_nothing_to_watch():
    renewed = Renewed()
    renewed.found("ours")
    renewed.agreed({KEY: {None: 11}})
    renewed.arrived([SET], 16)
    assert not renewed.watches
    assert held(renewed) == set()
    assert gone_back().watches
    assert lost().watches
    done = lost()
    done.judged()
    assert not done.watches


def test_what_is_made_good_tells_nothing_any_more():
    renewed = gone_back()
    renewed.arrived([SET], 16)
    renewed.made_good()
    assert held(renewed) == set()
    assert not renewed.watches


@pytest.mark.parametrize(
    ("ancestor", "holds"),
    [(Agreed(1, 9, applied=(2,)), set()), (Agreed(1, 9, element_applied={F: (2,)}), {None, G})],
)
def test_an_apply_of_unknown_outcome_tells_nothing(ancestor, holds):
    renewed = gone_back()
    renewed.arrived([SET], 16)
    assert held(renewed, ancestor=ancestor) == holds


@pytest.mark.parametrize("known", [True, False])
def test_where_too_much_waits_no_agreement_tells_anything(monkeypatch, known):
    monkeypatch.setattr(renewed_module, "MOST_PLACES", 2)
    renewed = Renewed()
    renewed.lost(LOST, {b"%d" % n: {None: 1} for n in range(3)} if known else None)
    renewed.went_back(15)
    renewed.arrived([SET], 16)
    assert held(renewed) == held(again(renewed)) == set()
    renewed.made_good()
    renewed.lost(20, {})
    renewed.went_back(25)
    renewed.arrived([SET], 26)
    assert held(renewed) == {None, F, G}


def test_what_is_saved_is_made_once_while_nothing_changes():
    """There may be a hundred thousand places, and it is asked for five times a second."""
    renewed = gone_back({KEY: {None: 1}, OTHER: {None: 1}})
    saved = renewed.saved()
    renewed.arrived([StringSet(b"else", b"v")], 16)
    assert renewed.saved() is saved
    renewed.arrived([SET], 17)
    assert renewed.saved() != saved


@pytest.mark.parametrize("document", [None, 7, {}, {"waiting": [["xx", [None]]]}, {"since": "7", "sent": [[1]]}])
def test_what_cannot_be_read_tells_nothing(document):
    renewed = Renewed.load(document)
    assert not renewed.watches
