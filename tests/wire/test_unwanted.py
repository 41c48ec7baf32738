"""What is left out of the stream while it comes: what is not ours, of any size, and what is too large."""

import resource

import pytest

from redisrepl.changes import Deleted, HashSet, Invalidated, Position, StringSet
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.psync import ReplicaProtocol, encode_command
from redisrepl.wire.unwanted import Unwanted

BIG = b"x" * 400_000
HUGE = b"y" * 2_000_000
SET = [b"SET", b"ns:k", b"v"]


#: Some 300 and 2,000 KB in short words.
SOME = [b"%03d" % number + b"x" * 1000 for number in range(300)]
MANY = [b"%04d" % number + b"x" * 1000 for number in range(2000)]


def covers(key):
    return key.startswith(b"ns:")


def attached(unwanted):
    protocol = ReplicaProtocol(Position("0" * 40, 0), unwanted=unwanted)
    protocol.receive(b"+OK\r\n")
    protocol.receive(b"+CONTINUE\r\n")
    return protocol


def changes(*commands, chunk=50_000):
    """What these commands of a stream did, and where it ends."""
    protocol, decoder = attached(Unwanted(covers, 1_000_000)), ChangeDecoder(covers)
    data = b"".join(encode_command(*argv) for argv in commands)
    found = []
    for start in range(0, len(data), chunk):
        for event in protocol.receive(data[start : start + chunk]):
            for argv in event.commands:
                found += decoder.decode(argv)
    assert protocol.received == len(data)
    return found


@pytest.mark.parametrize("chunk", [50_000, 7_000, 3_000_000])
@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([b"SET", b"other", HUGE], []),
        ([b"SET", b"other", BIG], []),
        ([b"SET", b"ns:a", BIG], [StringSet(b"ns:a", BIG)]),
        ([b"SET", b"ns:a", HUGE], [Invalidated(b"ns:a", replaces=True)]),
        ([b"SET", b"ns:a", HUGE, b"PXAT", b"1"], [Invalidated(b"ns:a", replaces=True)]),
        ([b"HSET", b"ns:h", b"f", BIG, b"g", HUGE], [Invalidated(b"ns:h", replaces=True)]),
        (
            [b"MSET", b"o", BIG, b"ns:a", b"1", b"ns:b", HUGE],
            [StringSet(b"ns:a", b"1"), Invalidated(b"ns:b", replaces=True)],
        ),
        ([b"MSET", b"ns:a", BIG, b"o", HUGE], [StringSet(b"ns:a", BIG)]),
        ([b"MSET", b"o", HUGE, b"p", HUGE], []),
        ([b"mset", HUGE, b"v", b"ns:a", b"1"], [StringSet(b"ns:a", b"1")]),
        (
            [b"MSETEX", b"2", b"ns:a", HUGE, b"ns:b", b"1"],
            [Invalidated(key, replaces=True) for key in (b"ns:a", b"ns:b")],
        ),
        ([b"MSETEX", b"2", b"o", HUGE, b"ns:a", b"1", b"PXAT", b"5"], [Invalidated(b"ns:a", replaces=True)]),
        ([b"msetex", b"1", b"o", HUGE], []),
        ([b"SMOVE", b"ns:a", b"ns:b", HUGE], [Invalidated(key, replaces=True) for key in (b"ns:a", b"ns:b")]),
        ([b"SMOVE", b"ns:a", b"o", HUGE], [Invalidated(b"ns:a", replaces=True)]),
        ([b"DEL", HUGE, b"ns:a"], [Deleted(b"ns:a")]),
        ([b"RENAME", b"ns:a", HUGE], [Deleted(b"ns:a")]),
        ([b"RENAME", HUGE, b"ns:a"], [Invalidated(b"ns:a", replaces=True)]),
        ([b"SET", b"ns:" + HUGE, b"v"], []),
        ([b"PUBLISH", b"channel", HUGE], []),
        ([b"UNKNOWN", HUGE, b"x"], []),
        ([HUGE, b"ns:a"], []),
        ([b"HSET", b"other", *MANY], []),
        ([b"HSET", HUGE, *MANY], []),
        ([b"HSET", b"ns:h", *SOME], [HashSet(b"ns:h", dict(zip(SOME[::2], SOME[1::2], strict=True)))]),
        ([b"HSET", b"ns:h", *MANY], [Invalidated(b"ns:h", replaces=True)]),
        ([b"HSET", b"ns:h", *MANY, b"f", HUGE], [Invalidated(b"ns:h", replaces=True)]),
        ([b"RPUSH", b"other", *MANY, BIG], []),
        ([b"MSET", *MANY, b"ns:a", b"1"], [StringSet(b"ns:a", b"1")]),
        (
            [b"MSET", b"ns:a", b"1", *MANY, b"ns:b", BIG, *MANY, b"o", BIG],
            [StringSet(b"ns:a", b"1"), StringSet(b"ns:b", BIG)],
        ),
        ([b"MSETNX", *MANY, b"o", HUGE], []),
        ([b"DEL", *MANY, b"ns:a", *MANY, b"ns:b", *MANY], [Deleted(b"ns:a"), Deleted(b"ns:b")]),
    ],
)
def test_what_a_large_command_amounts_to(argv, expected, chunk):
    ours = StringSet(b"ns:k", b"v")

    assert changes(SET, argv, SET, chunk=chunk) == [ours, *expected, ours]


@pytest.mark.parametrize("chunk", [50_000, 70_001])
def test_what_is_too_much_together_is_read_again(chunk):
    """However large the whole, no more is kept of it than may be."""
    keys = [b"ns:%04d" % number for number in range(2000)]
    found = changes([b"MSET", *(word for key in keys for word in (key, MANY[0]))], chunk=chunk)

    assert [change.key for change in sorted(found, key=lambda change: change.key)] == keys
    assert sum(isinstance(change, StringSet) for change in found) < 1100
    assert all(change in {StringSet(change.key, MANY[0]), Invalidated(change.key, replaces=True)} for change in found)


@pytest.mark.parametrize(
    ("name", "key"), [(b"HSET", b"other"), (b"SADD", b"other"), (b"MSET", b"o"), (b"DEL", b"o"), (b"ZADD", b"ns:z")]
)
def test_memory_does_not_depend_on_how_many_words_others_write(name, key):
    protocol = attached(Unwanted(covers, 1_000_000))
    piece = b"$8\r\nabcdefgh\r\n" * 5000
    protocol.receive(b"*%d\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (3 + 200 * 5000, len(name), name, len(key), key))
    for _ in range(20):
        protocol.receive(piece)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(180):
        assert protocol.receive(piece) == []
    (event,) = protocol.receive(piece[:14] + encode_command(*SET))

    assert event.commands[-1] == SET
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10


def test_memory_does_not_depend_on_what_others_write():
    protocol = attached(Unwanted(covers))
    piece = b"x" * 65536
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    protocol.receive(b"*3\r\n$3\r\nSET\r\n$5\r\nother\r\n$%d\r\n" % (4096 * len(piece)))
    for _ in range(4096):
        assert protocol.receive(piece) == []
    (event,) = protocol.receive(b"\r\n" + encode_command(*SET))

    assert event.commands[-1] == SET
    assert (
        event.ends[-1]
        == protocol.received
        == 4096 * 65536 + len(b"*3\r\n$3\r\nSET\r\n$5\r\nother\r\n$268435456\r\n\r\n") + len(encode_command(*SET))
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10
