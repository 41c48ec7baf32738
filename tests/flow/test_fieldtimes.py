"""Which servers have expiries of hash fields, and what is said if one has not."""

import pytest
from structlog.testing import capture_logs

from redisrepl.flow.fieldtimes import LackingTimes
from redisrepl.wire.fieldtimes import FieldTimes

UNKNOWN = "unknown command 'HPEXPIRETIME'"


def test_a_server_without_it_is_named_once_until_it_has_it():
    lacking = LackingTimes(None, times := FieldTimes(wanted=True))
    assert not lacking.known
    with capture_logs() as lines:
        assert [lacking.saw("site", ""), lacking.saw("hub", UNKNOWN), lacking.saw("hub", UNKNOWN)] == [
            False,
            True,
            False,
        ]
        assert lacking.known
        assert not times.on
        assert not lacking.saw("site", "NOPERM")
        assert not lacking.saw("hub", "")
        assert lacking.saw("site", "")
        assert times.on
    said = [(line["event"], line["side"]) for line in lines]
    assert said == [
        ("fields_expire.unavailable", "hub"),
        ("fields_expire.unavailable", "site"),
        ("fields_expire.available", "hub"),
        ("fields_expire.available", "site"),
    ]


@pytest.mark.parametrize(
    ("saved", "on", "known"),
    [
        (None, True, False),
        ({"site": False}, True, False),
        ({"site": False, "hub": False}, True, True),
        ({"site": False, "hub": True}, False, True),
        ({"site": "x", "hub": 1, "other": True}, True, False),
        ([], True, False),
    ],
)
def test_what_was_found_holds_for_the_next_process(saved, on, known):
    lacking = LackingTimes(saved, times := FieldTimes(wanted=True))
    assert (times.on, lacking.known) == (on, known)
    again = LackingTimes(lacking.saved(), more := FieldTimes(wanted=True))
    assert (more.on, again.known) == (on, known)


def test_where_it_is_not_wanted_nothing_is_asked_or_said():
    lacking = LackingTimes({"site": False, "hub": False}, times := FieldTimes())
    with capture_logs() as lines:
        assert lacking.known
        assert not lacking.saw("hub", UNKNOWN)
    assert not lines
    assert not times.on
