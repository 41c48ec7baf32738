"""What another site has removed is removed here too, whatever comes between the news and the removing."""

import pytest

from redisrepl.changes import KINDS, Deleted, FieldsDeleted, HashSet
from redisrepl.echo import ExpectedEvents
from redisrepl.inbound import Inbound

KEY = b"ns:key"
REMOVALS = [Deleted(KEY), FieldsDeleted(KEY, (b"f",)), HashSet(KEY, {b"f": None, b"g": b"v"})]
WRITE = HashSet(KEY, {b"g": b"v"})


def told(change):
    """What has heard of a change by the feed; its events, if they come, will be taken for what they are."""
    inbound = Inbound(
        covers=lambda key: key.startswith(b"ns:"),
        kinds=KINDS,
        expected_local=ExpectedEvents(100),
        expected_remote=ExpectedEvents(100),
        busy=lambda _: False,
    )
    inbound.told(1, [change], now=0.0)
    assert inbound.dirty == {}
    return inbound


def changed_at_the_site(inbound):
    inbound.changed_at_site([KEY])


def the_link_was_lost(inbound):
    inbound.resubscribed()


def a_foreign_write_came(inbound):
    inbound.events([(KEY, b"hset"), (KEY, b"set")])
    inbound.untaken(inbound.take(1))


def a_client_wrote_as_it_was_applied(inbound):
    taken = inbound.take_told(1)
    assert inbound.removes(KEY) == any(change != WRITE for change in taken[KEY])
    inbound.not_applied(taken)


BETWEEN = [changed_at_the_site, the_link_was_lost, a_foreign_write_came, a_client_wrote_as_it_was_applied]


@pytest.mark.parametrize("removal", REMOVALS)
@pytest.mark.parametrize("between", BETWEEN)
def test_a_removal_that_was_told_and_not_applied_is_looked_for(between, removal):
    inbound = told(removal)
    assert inbound.removes(KEY)
    between(inbound)
    assert inbound.dirty == {KEY: True}
    assert inbound.removes(KEY)


@pytest.mark.parametrize("between", BETWEEN)
def test_a_write_that_was_told_removes_nothing(between):
    inbound = told(WRITE)
    assert not inbound.removes(KEY)
    between(inbound)
    assert inbound.dirty == {KEY: False}


@pytest.mark.parametrize(
    ("first", "second"), [(FieldsDeleted(KEY, (b"f",)), WRITE), (Deleted(KEY), WRITE), (WRITE, Deleted(KEY))]
)
def test_of_several_that_were_told_any_may_be_a_removal(first, second):
    inbound = told(first)
    inbound.told(2, [second], now=0.0)
    assert inbound.removes(KEY)
    changed_at_the_site(inbound)
    assert inbound.dirty == {KEY: True}


def test_once_it_was_applied_nothing_is_left_to_remove():
    inbound = told(Deleted(KEY))
    (changes,) = inbound.take_told(1).values()
    assert inbound.about_to_apply(KEY, changes)
    inbound.applied([KEY], deadline=1)
    assert not inbound.removes(KEY)
    assert inbound.dirty == {}
