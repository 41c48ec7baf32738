"""Expiries of the hub are told by the site's clock, and those of the site are sent by the hub's."""

import pytest

from redisrepl.changes import (
    Deleted,
    ExpirySet,
    HashSet,
    HashState,
    LargeState,
    ReckonedExpiry,
    SequenceState,
    StringSet,
    StringState,
    TimedValue,
)
from redisrepl.remote.clock_shift import ClockShift
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.digests import LOOK_SCRIPT, Look
from redisrepl.wire.elements import Elements, Section
from redisrepl.wire.fieldtimes import FieldTimes
from redisrepl.wire.writes import commands_if, commands_of


def shifted(ms=500):
    shift = ClockShift()
    shift.ms = ms
    return shift


@pytest.mark.parametrize(
    "made",
    [
        lambda at: StringState(b"v", at),
        lambda at: HashState({b"f": b"v"}, at),
        lambda at: SequenceState((b"v",), at),
    ],
)
def test_what_the_hub_holds_is_told_by_the_clock_of_the_site(made):
    assert shifted().state(made(2000)) == made(1500)
    assert shifted().state(made(None)) == made(None)
    assert shifted(0).state(made(2000)) == made(2000)


def test_what_else_is_told_of_the_hub():
    shift = shifted()
    assert [shift.state(state) for state in (None, "other")] == [None, "other"]
    assert shift.large(LargeState("set", 7, 2000)) == LargeState("set", 7, 1500)
    looks = {b"k": Look(1, ReckonedExpiry(2000)), b"gone": Look(None)}
    moved = shift.looks(looks)
    assert moved == {b"k": Look(1, 1500), b"gone": Look(None)}
    assert isinstance(moved[b"k"].expires_at_ms, ReckonedExpiry)
    told = [StringSet(b"k", b"v", 2000), StringSet(b"k", b"v", None), ExpirySet(b"k", 2000), Deleted(b"k")]
    here = [StringSet(b"k", b"v", 1500), StringSet(b"k", b"v", None), ExpirySet(b"k", 1500), Deleted(b"k")]
    assert shift.changes(told) == here
    assert shifted(0).changes(told) == told


@pytest.mark.parametrize("changed", [lambda at: StringSet(b"k", b"v", at), lambda at: ExpirySet(b"k", at)])
@pytest.mark.parametrize(
    "spelled",
    [
        commands_of,
        lambda change: commands_if([change], (None,), None),
        lambda change: commands_if([change], (5, 6), None),
    ],
    ids=["for sure", "if nothing is there", "if that is there"],
)
def test_what_the_hub_is_sent_is_by_its_own_clock(changed, spelled):
    assert shifted().commands(list(spelled(changed(1500)))) == list(spelled(changed(2000)))
    assert shifted(-1500).commands(list(spelled(changed(1500)))) == list(spelled(changed(1)))  # not before 1970
    assert shifted().commands(list(spelled(changed(None)))) == list(spelled(changed(None)))
    assert shifted(0).commands(list(spelled(changed(1500)))) == list(spelled(changed(1500)))


def test_fields_that_expire_are_moved_with_their_keys():
    there, here = {b"f": TimedValue(b"v", 2000), b"g": b"v"}, {b"f": TimedValue(b"v", 1500), b"g": b"v"}
    assert shifted().state(HashState(there, 900)) == HashState(here, 400)
    elements = Elements(1, "hash", 900, 2, 0, [Section(b"d", there)])
    assert shifted().elements(elements) == Elements(1, "hash", 400, 2, 0, [Section(b"d", here)])
    assert shifted(0).elements(elements) is elements
    change = HashSet(b"k", here)
    assert shifted().commands(list(commands_of(change))) == list(commands_of(HashSet(b"k", there)))
    condition = list(commands_if([change], None, {b"f": (7,), b"g": (None,)}))
    assert shifted().commands(condition)[1] == [*condition[1][:5], b"2000"]


def test_what_is_told_of_fields_that_expire():
    there, here = {b"f": TimedValue(b"v", 2000), b"g": b"v"}, {b"f": TimedValue(b"v", 1500), b"g": b"v"}
    told, plain = [HashSet(b"k", there), StringSet(b"k", b"v", 2000)], HashSet(b"k", {b"f": b"v", b"g": b"v"})
    for ms, fields, expected in ((500, here, 1500), (0, there, 2000)):
        shift = shifted(ms)
        assert shift.changes(told) == [plain, StringSet(b"k", b"v", expected)]  # not replicated
        shift.fields = FieldTimes(wanted=True)
        assert shift.changes(told) == [HashSet(b"k", fields), StringSet(b"k", b"v", expected)]
        shift.fields.on = False  # one of the servers has none
        assert shift.changes(told) == [plain, StringSet(b"k", b"v", expected)]


def test_scripts_at_the_hub_digest_them_by_the_clock_of_the_site():
    shift = shifted()
    assert shift.digesting(LOOK_SCRIPT) == LOOK_SCRIPT
    shift.fields = FieldTimes(wanted=True)
    assert b"at - 500)" in shift.digesting(LOOK_SCRIPT)


def test_other_commands_are_sent_as_they_are():
    commands = [[b"MSET", b"k", b"1", b"l", b"2"], [b"DEL", b"5"], [b"HSET", b"k", b"5", b"6", b"7", b"8"]]
    assert shifted().commands(commands) == commands


def test_an_expiry_stays_one_that_a_server_can_hold():
    shift, latest = ClockShift(), (1 << 63) - 1
    for shift.ms, told, expected in ((-1000, latest, latest), (1000, latest, latest - 1000), (1000, 5, 1)):
        assert shift.expiry(told) == expected
    for shift.ms, told, expected in ((1000, latest, latest), (-1000, 5, 1)):
        assert shift.commands([[b"PEXPIREAT", b"k", b"%d" % told]]) == [[b"PEXPIREAT", b"k", b"%d" % expected]]


@pytest.mark.parametrize("text", [b"9" * 30, b"9" * 4000, b"%d" % (1 << 63), b"-5", b"0"])
def test_an_expiry_that_is_claimed_is_one_that_a_server_can_hold(text):
    decoder = ChangeDecoder(lambda _: True)
    for argv in ([b"SET", b"k", b"v", b"PXAT", text], [b"SET", b"k", b"v", b"EXAT", text], [b"PEXPIREAT", b"k", text]):
        for change in decoder.decode(argv):
            assert 0 < change.expires_at_ms < 1 << 63
