"""Commands with their database and position; transactions in one piece, wherever the stream is cut."""

import itertools

import pytest

from redisrepl.changes import Position
from redisrepl.errors import ProtocolError
from redisrepl.wire.psync import encode_command
from redisrepl.wire.transactions import Command, CommandReader, StreamPlace, says_nothing

REPLID = "a" * 40
STREAM = [
    [b"SELECT", b"3"],
    [b"SET", b"a", b"1"],
    [b"ping"],
    [b"MULTI"],
    [b"SET", b"b", b"1"],
    [b"SELECT", b"4"],
    [b"SET", b"c", b"2"],
    [b"INCR", b"c"],
    [b"exec"],
    [b"multi"],
    [b"EXEC"],
    [b"REPLCONF", b"GETACK", b"*"],
    [b"SET", b"d", b"3"],
]
ENDS = list(itertools.accumulate((len(encode_command(*argv)) for argv in STREAM), initial=100))[1:]
MULTI_AT = ENDS[2]


START = Position(REPLID, 100)


def reader(prefixes=(), position=START, database=0):
    reader = CommandReader(prefixes)
    reader.start(position, database)
    return reader


def test_plumbing_is_followed_and_not_passed_on():
    events = reader().take(STREAM, ENDS)

    assert events == [
        Command([b"SET", b"a", b"1"], 3, REPLID, ENDS[1]),
        Command([b"SET", b"b", b"1"], 3, REPLID, MULTI_AT, MULTI_AT),
        Command([b"SET", b"c", b"2"], 4, REPLID, MULTI_AT, MULTI_AT),
        Command([b"INCR", b"c"], 4, REPLID, ENDS[8], MULTI_AT),
        Command([b"SET", b"d", b"3"], 4, REPLID, ENDS[12]),
    ]
    assert [event.completes for event in events] == [True, False, False, True, True]
    assert events[3].position == Position(REPLID, ENDS[8])


@pytest.mark.parametrize("size", range(1, len(STREAM)))
def test_the_pieces_do_not_matter(size):
    whole, pieces = reader().take(STREAM, ENDS), reader()

    parts = [pieces.take(STREAM[at : at + size], ENDS[at : at + size]) for at in range(0, len(STREAM), size)]

    assert list(itertools.chain(*parts)) == whole
    for part in parts:
        numbers = {event.transaction for event in part if event.transaction is not None}
        assert len([event for event in part if event.transaction is not None]) in (0, 3), numbers


@pytest.mark.parametrize("cut", range(len(STREAM) + 1))
def test_going_on_from_the_place_neither_loses_nor_repeats(cut):
    whole = reader().take(STREAM, ENDS)
    first = reader()
    before = first.take(STREAM[:cut], ENDS[:cut])

    position, database = first.place
    at = 0 if position.offset == 100 else ENDS.index(position.offset) + 1
    again = reader(position=position, database=database)

    assert before + again.take(STREAM[at:], ENDS[at:]) == whole
    assert at <= cut


def test_a_link_that_begins_anew_forgets_the_open_transaction():
    cut = reader()
    cut.take(STREAM[:5], ENDS[:5])

    assert cut.place == StreamPlace(Position(REPLID, MULTI_AT), 3)
    cut.start(Position("b" * 40, MULTI_AT), 3)
    events = cut.take(STREAM[3:], ENDS[3:])

    assert [event.argv[1] for event in events] == [b"b", b"c", b"c", b"d"]
    assert {event.replid for event in events} == {"b" * 40}


def test_prefixes_choose_commands_and_leave_the_place_alone():
    chosen = reader((b"c", b"x:"))

    events = chosen.take([*STREAM, [b"FLUSHDB"], [b"MSET", b"q", b"c", b"x:1", b"v"]], [*ENDS, 990, 1000])

    assert [event.argv[0] for event in events] == [b"SET", b"INCR", b"FLUSHDB", b"MSET"]
    assert events[1].offset == ENDS[8]
    assert chosen.place == StreamPlace(Position(REPLID, 1000), 4)


def test_a_transaction_of_which_nothing_was_chosen():
    chosen = reader((b"none",))

    assert chosen.take(STREAM, ENDS) == []
    assert chosen.place == StreamPlace(Position(REPLID, ENDS[-1]), 4)


def test_a_select_without_a_number():
    with pytest.raises(ProtocolError, match="selects no database"):
        reader().take([[b"SELECT", b"x"]], [200])


def test_spellings_that_a_peer_invents_are_not_kept():
    many = reader()
    names = [b"c%d" % n for n in range(3000)]

    assert len(many.take([[name, b"k"] for name in names], range(3000))) == 3000
    assert len(many._kinds) <= 1001


HELLO = [b"PUBLISH", b"__sentinel__:hello", b"127.0.0.1,26379,..."]


def test_going_on_behind_what_says_nothing():
    quiet = reader()
    quiet.take([[b"SELECT", b"2"], [b"SET", b"a", b"1"]], [123, 150])
    assert quiet.take([[b"PING"], HELLO, [b"REPLCONF", b"GETACK", b"*"]], [164, 250, 287]) == []

    assert quiet.place == StreamPlace(Position(REPLID, 287), 2)
    assert quiet.resume == StreamPlace(Position(REPLID, 150), 2)


def test_going_on_never_far_behind():
    quiet = reader()
    for end in range(114, 100_000, 14):
        quiet.take([[b"PING"]], [end])
        assert end - quiet.resume.position.offset < 16 << 10


def test_going_on_after_a_transaction_of_which_a_part_was_chosen():
    chosen = reader((b"a", b"b"))
    chosen.take(STREAM, ENDS)

    assert chosen.resume == StreamPlace(Position(REPLID, ENDS[10]), 4)  # the empty one after it says nothing
    chosen.forget()
    assert (chosen.place, chosen.resume) == (None, None)


def test_a_message_is_passed_on_unless_it_is_between_sentinels():
    message = [b"PUBLISH", b"channel", b"x"]

    assert [event.argv for event in reader().take([HELLO, message], [200, 300])] == [message]
    assert reader((b"channel",)).take([HELLO, message], [200, 300]) == []


def test_what_says_nothing():
    assert says_nothing([[b"ping"], HELLO, [b"REPLCONF", b"GETACK", b"*"]])
    assert not says_nothing([[b"PING"], [b"SET", b"a", b"1"]])
    assert not says_nothing([[b"PUBLISH", b"c", b"m"]])
    assert not says_nothing([[b"SELECT", b"1"]])
