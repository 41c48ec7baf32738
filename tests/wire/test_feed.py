"""Messages of the feed: what one side puts into words the other understands, and nothing else."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisrepl.changes import FieldsDeleted, HashSet, StringSet, TimedValue
from redisrepl.errors import ProtocolError
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value
from redisrepl.wire.feed import feed_content, parse_feed
from redisrepl.wire.psync import encode_command
from redisrepl.wire.writes import commands_if, commands_of

V = entry_value([b"f", b"v"])
words = st.one_of(st.binary(max_size=20), st.sampled_from([b"NX", b"PXAT"]))
commands = st.one_of(
    st.tuples(st.just(b"SET"), words, words),
    st.tuples(st.just(b"SET"), words, words, st.just(b"PXAT"), st.just(b"1700000000000")),
    st.lists(st.tuples(words, words), min_size=1, max_size=4).map(
        lambda pairs: (b"MSET", *(word for pair in pairs for word in pair))
    ),
    st.tuples(words, st.lists(st.tuples(words, words), min_size=1, max_size=4)).map(
        lambda key: (b"HSET", key[0], *(word for pair in key[1] for word in pair))
    ),
)


def message(*argvs, time=b"5", origin=b"us"):
    return b" ".join([time, origin, base64.urlsafe_b64encode(b"".join(encode_command(*argv) for argv in argvs))])


@given(st.lists(commands, min_size=1, max_size=5))
def test_what_is_told_is_understood(batch):
    feed = parse_feed(b"1700000000000000 0123456789abcdef " + feed_content(batch))

    assert (feed.time, feed.origin) == (1_700_000_000_000_000, b"0123456789abcdef")
    assert [tuple(argv) for argv in feed.commands] == batch
    assert feed.changes() is not None


def test_the_longest_message_that_is_told_is_understood():
    pairs = [word for number in range(4096) for word in (number.to_bytes(2), b"")]
    content = feed_content([(b"HSET", b"", *pairs[:-10])])

    assert len(content) > 60_000
    assert len(parse_feed(b"1700000000000000 0123456789abcdef " + content).changes()[0].fields) == 4091


def test_changes():
    feed = parse_feed(
        message(
            (b"SET", b"k", b"\x00\xff"),
            (b"SET", b"e", b"v", b"PXAT", b"9"),
            (b"MSET", b"a", b"1", b"b", b"2"),
            (b"HSET", b"h", b"f", b"1", b"g", b"2"),
            (b"STREAMSET", b"s", b"5-1", V, b"last-id", b"7-0"),
            (b"XDEL", b"s", b"5-1"),
        )
    )

    assert feed.changes() == [
        StringSet(b"k", b"\x00\xff"),
        StringSet(b"e", b"v", 9),
        StringSet(b"a", b"1"),
        StringSet(b"b", b"2"),
        HashSet(b"h", {b"f": b"1", b"g": b"2"}),
        HashSet(b"s", {entry_name(b"5-1"): V, LAST_ID: b"7-0"}, "stream"),
        FieldsDeleted(b"s", (entry_name(b"5-1"),), "stream"),
    ]


FAR = 4_102_444_800_000
A, B = TimedValue(b"1", FAR), TimedValue(b"2", FAR + 1)
SET, TIMES = (b"HSET", b"h", b"f", b"1", b"g", b"2"), (b"HPEXPIREAT", b"h", b"%d" % FAR, b"FIELDS", b"1", b"f")


@pytest.mark.parametrize(
    "batch",
    [
        [HashSet(b"h", {b"f": A})],
        [HashSet(b"h", {b"f": A, b"g": b"2", b"": TimedValue(b"", FAR)})],
        [HashSet(b"h", {b"f": A, b"g": B}), StringSet(b"k", b"v"), HashSet(b"i", {b"f": b"1"})],
        [HashSet(b"h", {b"f": A}), HashSet(b"h", {b"f": b"1"}), HashSet(b"h", {b"f": B})],
        [HashSet(b"h", {b"%d" % number: A for number in range(700)})],
    ],
)
def test_a_field_that_expires_is_told_with_its_expiry(batch):
    """And so that the same commands, hence the same events, come of it."""
    commands = [argv for change in batch for argv in commands_of(change)]

    changes = parse_feed(b"5 us " + feed_content(commands)).changes()

    assert changes == batch
    assert [argv for change in changes for argv in commands_of(change)] == commands


def test_the_message_of_a_field_that_expires():
    """Who does not know `HPEXPIREAT` must not take the `HSET` for all there is: it is one message, and ends with it."""
    content = feed_content([*commands_of(HashSet(b"h", {b"f": A}))])

    assert base64.urlsafe_b64decode(content) == (
        b"*4\r\n$4\r\nHSET\r\n$1\r\nh\r\n$1\r\nf\r\n$1\r\n1\r\n"
        b"*6\r\n$10\r\nHPEXPIREAT\r\n$1\r\nh\r\n$13\r\n4102444800000\r\n$6\r\nFIELDS\r\n$1\r\n1\r\n$1\r\nf\r\n"
    )


@pytest.mark.parametrize("ms", [-1, 0, 1])
def test_what_the_hub_removed_at_once_is_fetched_with_all_of_its_key(ms):
    """It causes other events than those that a reader would expect."""
    over = (b"HPEXPIREAT", b"h", b"%d" % (FAR + ms), b"FIELDS", b"1", b"f")
    argvs = (b"HSET", b"h", b"g", b"1"), (b"SET", b"k", b"v"), SET, over, (b"HSET", b"h", b"e", b"3")

    changes = parse_feed(message(*argvs, time=b"%d" % (FAR * 1000))).changes()

    assert {change.key for change in changes} == ({b"k"} if ms <= 0 else {b"k", b"h"})


NO_TIMES_OF_A_VALUE = [
    (TIMES,),
    (TIMES, SET),
    ((b"HSET", b"i", b"f", b"1"), TIMES),
    (SET, (b"SET", b"k", b"v"), TIMES),
    (SET, (b"HPEXPIREAT", b"h", b"%d" % FAR, b"FIELDS", b"1", b"other")),
    (SET, (b"HPEXPIREAT", b"h", b"%d" % FAR, b"FIELDS", b"2", b"f", b"other")),
    ((b"SADD", b"h", b"f"), TIMES),
    ((b"SET", b"h", b"f"), TIMES),
]


@pytest.mark.parametrize("batch", NO_TIMES_OF_A_VALUE)
def test_an_expiry_whose_field_is_elsewhere_is_not_told(batch):
    assert feed_content(batch) == b""


@pytest.mark.parametrize(
    "argvs",
    [
        *NO_TIMES_OF_A_VALUE,
        (SET, (b"HPEXPIREAT", b"h", b"%d" % FAR, b"FIELDS", b"0")),
        (SET, (b"HPEXPIREAT", b"h", b"%d" % FAR, b"FIELDS", b"2", b"f")),
        (SET, (b"HPEXPIREAT", b"h", b"%d" % FAR, b"NX", b"FIELDS", b"1", b"f")),
        (SET, (b"HPEXPIREAT", b"h", b"x", b"FIELDS", b"1", b"f")),
        (SET, (b"HPEXPIREAT", b"h", b"9" * 5000, b"FIELDS", b"1", b"f")),
        (SET, (b"HPEXPIREAT", b"h")),
        (SET, (b"HPEXPIREAT",)),
    ],
)
def test_an_expiry_that_is_said_of_no_value(argvs):
    with pytest.raises(ProtocolError):
        parse_feed(message(*argvs)).changes()


def test_a_field_that_expires_is_not_told_on_a_condition():
    batch = list(commands_if([HashSet(b"h", {b"f": A})], None, None))

    assert [argv[0] for argv in batch] == [b"HTIMEIF"]
    assert feed_content(batch) == b""


@pytest.mark.parametrize(
    "argv",
    [
        (b"STREAMSET", b"s", b"5", b"1:f"),
        (b"STREAMSET", b"s", b"5-1"),
        (b"STREAMSET", b"s"),
        (b"STREAMSET", b"s", b"last-id", b"x"),
        (b"XDEL", b"s", b"last-id"),
        (b"XDEL", b"s"),
    ],
)
def test_what_is_said_of_streams_and_cannot_be(argv):
    with pytest.raises(ProtocolError):
        parse_feed(message(argv)).changes()


def test_a_message_is_ascii_so_that_readers_of_json_get_it_whole():
    content = feed_content([(b"SET", b"\x00\xff/ %", b'"\\\n')])

    assert content.isascii()
    assert json.loads(f'["{content.decode()}"]') == [content.decode()]


@pytest.mark.parametrize(
    "batch",
    [
        [(b"DEL", b"k")],
        [(b"SET", b"k", b"v"), (b"PERSIST", b"k")],
        [(b"SET", b"k", b"v", b"NX")],
        [(b"HSETNX", b"k", b"f", b"v")],
        [(b"SET", b"k%d" % n, b"v") for n in range(65)],
        [(b"SET", b"k", b"x" * 8192)],
    ],
)
def test_what_is_not_told(batch):
    assert feed_content(batch) == b""


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"5 us",
        b"5 us a b",
        b"x us " + base64.urlsafe_b64encode(encode_command(b"SET", b"k", b"v")),
        b"5 us !!!!",
        b"5 us " + base64.urlsafe_b64encode(encode_command(b"SET", b"k", bytes(100_000))),
        b"5 us " + base64.urlsafe_b64encode(encode_command(b"SET", b"k", b"v")[:-3]),
        b"5 us " + base64.urlsafe_b64encode(b"+OK\r\n"),
        b"5 us " + base64.urlsafe_b64encode(b"*1\r\n*0\r\n"),
        b"9" * 5000 + b" us " + base64.urlsafe_b64encode(encode_command(b"SET", b"k", b"v")),
    ],
)
def test_a_damaged_message(damaged):
    with pytest.raises(ProtocolError):
        parse_feed(damaged)


@pytest.mark.parametrize(
    "argv",
    [
        (b"FLUSHALL",),
        (b"DEL", b"k"),
        (b"SET", b"k"),
        (b"SET", b"k", b"v", b"NX"),
        (b"SET", b"k", b"v", b"PXAT", b"x"),
        (b"MSET", b"k"),
        (b"HSET", b"k"),
        (b"HSET", b"k", b"f"),
        (b"HSET",),
    ],
)
def test_a_command_that_is_not_told(argv):
    with pytest.raises(ProtocolError):
        parse_feed(message(argv)).changes()


@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_an_error_of_ours(data):
    for content in (data, b"5 us " + base64.urlsafe_b64encode(data)):
        try:
            parse_feed(content).changes()
        except ProtocolError:
            continue
