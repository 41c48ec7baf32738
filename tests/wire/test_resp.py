"""RESP: what hiredis reads is read the same, however it is cut; and no header is believed."""

import base64
import contextlib
import resource
import time

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisrepl.errors import LimitExceededError, ProtocolError
from redisrepl.wire.feed import parse_feed
from redisrepl.wire.messages import MessageReader
from redisrepl.wire.psync import encode_command
from redisrepl.wire.replyreader import ReplyReader
from redisrepl.wire.resp import DAMAGED, PIECE, RespReader, announces_much, parse_all, parse_one, resp_size
from redisrepl.wire.walker import ELEMENT, LEFT_OUT, Walker
from tests.bodies import parse_reply

HUGE = b"*1000000000\r\n"
of = pytest.mark.parametrize


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def read(reader, data, size=PIECE):
    """Values and their sizes."""
    values, sizes = [], []
    for start in range(0, len(data), size):
        found = list(reader.feed(data[start : start + size]))
        of_found = reader.sizes
        if of_found is None:
            of_found = list(map(resp_size, found))
            reader.taken(sum(of_found))
        values += found
        sizes += of_found
    return values, sizes


LARGE = [b"MSET", b"k", b"x" * 300_000, b"l", b"y"]
MANY = [b"DEL", *(b"key:%d" % n for n in range(120_000))]
SMALL = [b"SET", b"key", b"value"]
TRICKY = [b"SET", b"key", b"*1000000\r\n%2000000\r\n>3000000" * 3]
SAMPLES = {
    "small": [SMALL] * 50,
    "large": [SMALL, LARGE, SMALL],
    "many": [SMALL, MANY, SMALL],
    "tricky": [SMALL, TRICKY, SMALL, TRICKY],
    "mixed": [LARGE, TRICKY, SMALL, MANY, LARGE, SMALL],
}


@of("name", SAMPLES)
@of("size", [PIECE, 4099, 65536])
def test_commands_are_read_however_they_are_cut(name, size):
    commands = SAMPLES[name]
    encoded = [encode_command(*argv) for argv in commands]
    reader = RespReader(1 << 30)

    values, sizes = read(reader, b"".join(encoded), size)

    assert values == commands
    assert sizes == list(map(len, encoded))
    assert reader.idle


@of("size", [1, 2, 7])
def test_small_commands_are_read_byte_by_byte(size):
    data = b"".join(encode_command(*argv) for argv in [SMALL, TRICKY, SMALL])

    assert read(RespReader(1 << 20), data, size)[0] == [SMALL, TRICKY, SMALL]


@of("announced", [HUGE, b"%500000000\r\n", b"~1000000000\r\n", b">1000000000\r\n", b"|500000000\r\n"])
@of("before", [b"", b"*2\r\n", encode_command(*SMALL), b"*2\r\n$1\r\naXX"])
@of("size", [PIECE, 5])
def test_a_list_is_not_made_before_its_elements_come(announced, before, size):
    """Cut anywhere, and behind a string that ends wrongly: hiredis would make a list of 8 GB."""
    rss = peak()
    began = time.process_time()
    with pytest.raises(ProtocolError):
        read(RespReader(1 << 20), before + announced + b"$1\r\nx\r\n" * 10, size)

    assert peak() - rss < 64
    assert time.process_time() - began < 1


def test_a_string_beyond_the_limit_is_refused_when_it_is_announced():
    with pytest.raises(LimitExceededError):
        read(RespReader(1 << 20), b"*2\r\n$3\r\nSET\r\n$1000000000\r\n" + b"x" * (128 << 10))


def test_what_is_left_out_takes_no_memory_and_does_not_count():
    value = b"x" * (1 << 20)
    walker = Walker(1 << 16, skip=lambda argv, length: argv[1:] == [b"other"] and length > 100)
    rss = peak()
    walker.feed(b"*3\r\n$3\r\nSET\r\n$5\r\nother\r\n$%d\r\n" % (256 << 20))
    for _ in range(256):
        assert walker.feed(value) == []

    assert walker.feed(b"\r\n" + encode_command(*SMALL)) == [[b"SET", b"other", LEFT_OUT], SMALL]
    assert walker.sizes[0] == len(b"*3\r\n$3\r\nSET\r\n$5\r\nother\r\n$268435456\r\n\r\n") + (256 << 20)
    assert peak() - rss < 16


def test_levels_are_limited():
    with pytest.raises(ProtocolError, match="levels"):
        Walker(1 << 20).feed(b"*1\r\n" * 20)


def test_a_line_without_an_end_is_refused():
    walker = Walker(1 << 20)
    walker.feed(b"+" + b"x" * 60_000)
    with pytest.raises(LimitExceededError):
        walker.feed(b"x" * 60_000)


@of("damage", [b"$5\r\nvalueXX", b"?\r\n", b"$x\r\n", b"*1_0\r\n", b":" + b"9" * 5000 + b"\r\n", b"$--1\r\n"])
def test_damage_is_an_error_of_ours(damage):
    with pytest.raises(ProtocolError):
        Walker(1 << 20).feed(damage)


VALUES = st.recursive(
    st.binary(max_size=30) | st.integers(-(1 << 63), (1 << 63) - 1) | st.none(),
    lambda v: st.lists(v, max_size=4),
    max_leaves=12,
)


def spelled(value):
    match value:
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case int():
            return b":%d\r\n" % value
        case None:
            return b"$-1\r\n"
    return b"*%d\r\n" % len(value) + b"".join(map(spelled, value))


@given(st.lists(VALUES, max_size=5), st.integers(1, 40))
def test_a_walker_reads_what_hiredis_reads(values, size):
    data = b"".join(map(spelled, values))
    nothing = object()
    reader = hiredis.Reader(notEnoughData=nothing)
    reader.feed(data)
    walker = Walker(1 << 20)
    found = [value for start in range(0, len(data), size) for value in walker.feed(data[start : start + size])]

    assert found == values == list(iter(reader.gets, nothing))
    assert walker.idle
    assert parse_all(data, 1 << 20) == values


@given(
    st.binary(max_size=400)
    | st.lists(st.sampled_from([b"*", b"$", b"3", b"\r\n", b"-E", b"x", b":", HUGE])).map(b"".join)
)
def test_any_bytes_are_values_or_an_error_of_ours(data):
    for parse in (lambda: read(RespReader(1 << 16), data), lambda: read(RespReader(1 << 16), data, 3)):
        with contextlib.suppress(ProtocolError, *DAMAGED):
            parse()
    for parse in (lambda: parse_one(data, 1 << 16), lambda: Walker(1 << 16).feed(data)):
        with contextlib.suppress(ProtocolError):
            parse()


@of("cut", [b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n", b"*1\r\n", b"$5\r\nab", b"$5\r\n", b"*", b"*2\r\n$1\r\nx\r\n"])
def test_what_is_cut_off_is_not_whole(cut):
    with pytest.raises(ProtocolError):
        parse_all(cut, 1 << 20)
    with pytest.raises(ProtocolError):
        parse_all(encode_command(*SMALL) + cut, 1 << 20)


def test_a_reply_of_the_hub_is_not_believed():
    rss = peak()
    for reply in (HUGE, b"*1\r\n" + HUGE, b"$4\r\nabcd\r\n" + HUGE):
        with pytest.raises(ProtocolError):
            parse_reply(reply)

    assert peak() - rss < 64


def test_a_feed_message_is_not_believed():
    rss = peak()
    for content in (HUGE, b"*3\r\n" + HUGE, encode_command(*SMALL) + b"*99999\r\n"):
        with pytest.raises(ProtocolError):
            parse_feed(b"1 origin " + base64.urlsafe_b64encode(content))
    with pytest.raises(ProtocolError):
        parse_feed(b"1 origin " + base64.urlsafe_b64encode(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n"))  # cut off

    assert peak() - rss < 64


def messages(data, size):
    reader = MessageReader()
    return [message for start in range(0, len(data), size) for message in reader.feed(data[start : start + size])]


def test_a_subscription_is_not_believed():
    rss = peak()
    for size in (3, PIECE):
        with pytest.raises(ProtocolError):
            messages(HUGE + b"$1\r\nx\r\n", size)

    assert peak() - rss < 64


def test_a_message_of_gigabytes_is_left_out_of_a_subscription():
    reader = MessageReader()
    rss = peak()
    head = b"*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\nab\r\n"
    assert reader.feed(head + b"$3\r\nset\r\n") == [(b"ab", b"set")]
    reader.feed(head + b"$%d\r\n" % (512 << 20))
    for _ in range(512):
        assert reader.feed(b"x" * (1 << 20)) == []

    assert reader.feed(b"\r\n" + head + b"$3\r\ndel\r\n") == [(b"ab", LEFT_OUT), (b"ab", b"del")]
    assert peak() - rss < 32


def test_ordinary_commands_announce_little():
    assert not announces_much(b"".join(encode_command(*SMALL) for _ in range(100)))


@of("element", [b"*0\r\n", b"$0\r\n\r\n", b":1\r\n", b"$-1\r\n", b"+\r\n"])
def test_elements_count_with_what_they_take(element):
    """Of a few bytes on the wire each makes an object: by these alone it could take sixteen times as much."""
    count, limit = 100_000, 4 << 20
    assert count * len(element) < limit < count * ELEMENT
    reader = ReplyReader(limit, replyError=str, notEnoughData=Ellipsis)
    with pytest.raises(LimitExceededError):
        reader.feed(b"*%d\r\n" % count + element * count)
    # The same where each list announces few.
    reader = ReplyReader(limit, replyError=str, notEnoughData=Ellipsis)
    inner = b"*50000\r\n" + element * 50_000
    with pytest.raises(LimitExceededError):
        reader.feed(b"*40\r\n" + inner * 40)
    # And without a cost, as in the stream of a server that its own clients may fill.
    assert len(Walker(limit).feed(b"*%d\r\n" % count + element * count)[0]) == count


@of("element", [b"*0\r\n", b":1\r\n", b"$-1\r\n", b"+\r\n", b"-E\r\n"])
def test_a_list_of_strings_ends_at_the_first_element_that_is_none(element):
    walker = Walker(1 << 20, flat=True)
    assert walker.feed(b"*2\r\n$1\r\nx\r\n$1\r\ny\r\n+OK\r\n") == [[b"x", b"y"], b"OK"]
    with pytest.raises(ProtocolError, match="something else"):
        walker.feed(b"*3\r\n$1\r\nx\r\n" + element)


@of("number", [b"$01\r\nx\r\n", b"*00\r\n", b":-01\r\n"])
def test_a_number_that_no_server_would_write_so_is_refused(number):
    with pytest.raises(ProtocolError):
        Walker(1 << 20).feed(number)
