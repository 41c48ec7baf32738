"""Messages of the feed: what one side puts into words the other understands, and nothing else."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisrepl.changes import FieldsDeleted, HashSet, StringSet
from redisrepl.errors import ProtocolError
from redisrepl.wire.entries import LAST_ID, entry_name, entry_value
from redisrepl.wire.feed import feed_content, parse_feed
from redisrepl.wire.psync import encode_command

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
