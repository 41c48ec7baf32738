"""What a server that went back holds gives way; what may be newer of it is kept."""

import pytest

from redisrepl.changes import KINDS, Deleted, HashSet, HashState, Invalidated, StringSet
from redisrepl.engine.losses import Findings, Losses
from redisrepl.engine.places import Seen
from redisrepl.engine.plans import Policy, plan_for
from redisrepl.engine.reconcile import Circumstances
from redisrepl.engine.seen import Ring
from redisrepl.engine.winners import NEITHER, Lost, Ruling, WentBack
from redisrepl.wire.digests import digest_of, element_of
from redisrepl.wire.entries import LAST_ID, entry_name
from redisrepl.wire.groups import place_name
from tests.engine.sides import KEY, ancestor_of, hash_, string

A, B, C, D = (string(value) for value in "abcd")
AT_SITE, AT_HUB = Circumstances(site_lost=True), Circumstances(hub_lost=True)
TO_HUB, TO_SITE = Ruling("hub", "the site went back"), Ruling("site", "the hub went back")


def plan(site, hub, ancestor, about, back=NEITHER, winner="hub", **known):
    return plan_for(KEY, site, hub, ancestor_of(ancestor, **known), Policy(KINDS, winner), about, back)


def past(*states):
    digests = {digest_of(KEY, state) for state in states}
    return WentBack(past_of_site=lambda _: digests, past_of_hub=lambda _: digests)


@pytest.mark.parametrize("winner", ["hub", "site"])
@pytest.mark.parametrize("ancestor", [A, B])
def test_of_a_server_that_went_back_what_may_be_newer_gives_way_and_is_kept(winner, ancestor):
    found = plan(C, B, ancestor, AT_SITE, winner=winner)
    assert (found.apply, found.lost) == ([StringSet(KEY, b"b")], [Lost(TO_HUB, C)])

    found = plan(B, C, ancestor, AT_HUB, winner=winner)
    assert (found.push is not None, found.lost) == (True, [Lost(TO_SITE, C)])


@pytest.mark.parametrize(
    ("site", "hub", "about", "back"),
    [
        (C, B, AT_SITE, past(C)),
        (B, C, AT_HUB, past(C)),
        (A, B, AT_SITE, WentBack()),  # it is what was agreed on
        (None, B, AT_SITE, WentBack()),
        (C, None, AT_SITE, WentBack()),  # it goes to the hub
    ],
)
def test_what_is_known_to_be_older_or_is_not_replaced_is_not_kept(site, hub, about, back):
    assert plan(site, hub, A, about, back).lost == []


@pytest.mark.parametrize("about", [AT_SITE, AT_HUB])
@pytest.mark.parametrize("what", ["intents", "applied"])
def test_what_we_may_have_sent_is_kept_only_if_the_site_wrote_it_last_and_the_hub_may_never_have_had_it(about, what):
    kept = what == "intents" and about is AT_SITE
    site, hub = (C, B) if about is AT_SITE else (B, C)
    found = plan(site, hub, A, about, **{what: (digest_of(KEY, C),)})
    assert found.lost == ([Lost(TO_HUB, C)] if kept else [])
    elements = {f"element_{what}": {b"f": (element_of(b"f", b"2"),)}}
    site, hub = (hash_(f="2"), hash_(f="3")) if about is AT_SITE else (hash_(f="3"), hash_(f="2"))
    found = plan(site, hub, hash_(f="1"), about, **elements)
    assert found.lost == ([Lost(TO_HUB, hash_(f="2"))] if kept else [])


@pytest.mark.parametrize("winner", ["hub", "site"])
def test_where_both_went_back_the_policy_decides_and_the_other_is_kept(winner):
    found = plan(B, C, A, Circumstances(site_lost=True, hub_lost=True), winner=winner)
    assert found.lost == [Lost(Ruling(winner, "both sides went back"), B if winner == "hub" else C)]


@pytest.mark.parametrize("winner", ["hub", "site"])
@pytest.mark.parametrize(
    ("older", "wins"), [([], None), ([A], None), ([B], "hub"), ([C], "site"), ([B, C], None), ([None, C], "site")]
)
@pytest.mark.parametrize("about", [Circumstances(), Circumstances(site_lost=True, hub_lost=True)])
def test_of_two_that_conflict_one_that_was_agreed_on_before_gives_way(winner, older, wins, about):
    """A server that went back, perhaps that of another site, has brought it back over a removal."""
    digests = {digest_of(KEY, state) for state in older}
    found = plan(B, C, A, about, WentBack(agreed_before=lambda _: digests), winner=winner)
    assert bool(found.push) == ((wins or winner) == "site")
    assert [lost.value for lost in found.lost] == [C if found.push else B]


def test_of_the_ids_by_which_a_group_counts_entries_the_greater_stands():
    """Otherwise entries would be delivered again."""
    place, last = place_name(b"g"), LAST_ID
    site = HashState({place: b"7-0", last: b"9-0"}, None, "stream")
    hub = HashState({place: b"5-0", last: b"9-0"}, None, "stream")
    kinds = KINDS | {"streams-groups"}
    found = plan_for(KEY, site, hub, ancestor_of(hub), Policy(kinds, "hub"), AT_SITE)
    assert (found.apply, found.push, found.lost) == ([], HashSet(KEY, {place: None}, "stream"), [])


def test_of_a_hash_fields_are_kept_of_which_nothing_is_known():
    agreed = hash_(known="1", new="1", theirs="1", both="1")
    site, hub = hash_(known="0", new="2", theirs="1", both="2"), hash_(known="1", new="1", theirs="3", both="3")
    back = WentBack(
        newer_at_site=[b"both"], past_of_site=lambda name: [element_of(name, b"0")] if name == b"known" else []
    )
    found = plan(site, hub, agreed, AT_SITE, back, winner="site")
    assert dict(found.lost) == {
        TO_HUB: hash_(new="2"),
        Ruling("site"): hash_(both="3"),  # both have changed it since, so the policy decides
    }
    assert found.apply == [HashSet(KEY, {b"known": b"1", b"new": b"1", b"theirs": b"3"})]
    assert found.push.fields.keys() == {b"both"}


def test_an_id_of_a_stream_gives_way_to_the_greater_one_and_is_not_kept():
    entry, other, last = entry_name(b"0-1"), entry_name(b"0-2"), LAST_ID
    site = HashState({entry: b"v", last: b"0-1"}, None, "stream")
    hub = HashState({other: b"w", last: b"0-2"}, None, "stream")
    assert plan(site, hub, hub, AT_SITE).lost == []


def seen(number, state):
    return Seen(number, KEY, None, digest_of(KEY, state))


def test_what_was_seen_agreed_on_or_held_in_between_is_known():
    losses = Losses()
    place = (KEY, None)
    findings = Findings(1, 3, {KEY: {None: 2}}, since={place: {digest_of(KEY, B)}})
    losses.went_back(Ring([seen(1, A), seen(2, D)]), float("inf"), (), findings)
    losses.remembers({place: {digest_of(KEY, C)}})
    assert losses.past(KEY, None) == {digest_of(KEY, state) for state in (A, B, C)}
    assert losses.past(b"other", None) == set()
    assert losses.agreed(KEY, None) == {digest_of(KEY, C)}
    assert losses.agreed(KEY, b"other") == ()
    losses.made_good()
    assert losses.past(KEY, None) == set()


@pytest.mark.parametrize(("side", "agreed", "known"), [("site", (), False), ("site", (B,), True), ("hub", (), True)])
def test_what_the_stream_of_a_site_told_last_may_not_have_been_pushed_yet(side, agreed, known):
    """Then nobody else has it. What is seen of a hub is what was agreed on."""
    losses = Losses(side)
    losses.went_back(Ring([seen(1, A), seen(2, B)]), float("inf"), (), Findings(1, 3, {}))
    losses.remembers({(KEY, None): {digest_of(KEY, state) for state in agreed}})
    assert losses.past(KEY, None) == {digest_of(KEY, state) for state in ((A, B) if known else (A,))}


def test_where_a_value_was_read_what_a_site_told_of_may_be_the_last_all_the_same():
    """A list that is written anew, as DEL and RPUSH, and read between the two writes."""
    losses, now = Losses(), Ring()
    now.add(1, [StringSet(b"other", b"v"), Invalidated(KEY), StringSet(b"other", b"v")], valueless=True)
    now.add_read({KEY: digest_of(KEY, B)})
    now.add(2, [Deleted(KEY), Invalidated(KEY)], valueless=True)
    losses.went_back(now, float("inf"), (), Findings(1, 3, {}))
    losses.remembers({(KEY, None): {digest_of(KEY, A)}})
    assert losses.past(KEY, None) == {digest_of(KEY, A)}
