"""The replica's state machine, byte by byte."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from redisrepl.changes import Position
from redisrepl.errors import (
    LimitExceededError,
    LinkLostError,
    PeerUnavailableError,
    ProtocolError,
    PsyncRefusedError,
    RdbError,
    RefusedError,
)
from redisrepl.wire.psync import (
    Commands,
    Continued,
    FullSync,
    ReplicaProtocol,
    SnapshotData,
    SnapshotEnd,
    encode_command,
)
from redisrepl.wire.rdb import Entry, RdbReader
from tests.samples import ALL_BYTES, REPLID, pieces, resp, resp_like
from tests.wire.rdb import build

MARK = b"0123456789abcdef0123456789abcdef01234567"
OTHER_ID = "f" * 40
HERE = Position(REPLID, 1000)
SET = resp(b"SET", b"site1:k", ALL_BYTES)
PING = resp(b"ping")
SNAPSHOT = build.rdb(build.key(0, b"site1:a", build.string(b"1")), build.key(0, b"site1:b", build.string(b"2")))
FULL = f"+FULLRESYNC {REPLID} 14\r\n".encode()
CONTINUE = f"+CONTINUE {REPLID}\r\n".encode()
SIZED = FULL + b"$%d\r\n" % len(SNAPSHOT) + SNAPSHOT
MARKED = FULL + b"$EOF:" + MARK + b"\r\n" + SNAPSHOT + MARK


class Account:
    """What a link told, in a form that does not depend on how its bytes were cut."""

    def __init__(self, protocol):
        self.protocol = protocol
        self.story = []  # events other than data
        self.entries = []
        self.size = 0
        self.totals = set()
        self.commands = []
        self.ends = []
        self.wants_ack = 0
        self.sent = protocol.data_to_send()

    def receive(self, data):
        for event in self.protocol.receive(data):
            match event:
                case SnapshotData(size, total, events):
                    self.size += size
                    self.totals.add(total)
                    self.entries += events
                case Commands(commands, ends, wants_ack):
                    self.commands += commands
                    self.ends += ends
                    self.wants_ack += wants_ack
                case _:
                    self.story.append(event)
        self.sent += self.protocol.data_to_send()

    def receive_all(self, data):
        for piece in data:
            self.receive(piece)

    @property
    def told(self):
        protocol = self.protocol
        state = (protocol.online, protocol.received, protocol.replid)
        return (self.story, self.entries, self.size, self.totals, self.commands, self.ends, self.sent, state)


def account(data, size=None, *, rdb=False, position=None, **options):
    """Feed a sample in pieces of so many bytes."""
    result = Account(ReplicaProtocol(position, snapshot=RdbReader() if rdb else None, **options))
    result.receive_all(pieces(data, size))
    return result


def check(data, **options):
    """Feed a sample whole, byte by byte and in between, alone and with more behind it; return its account."""
    whole = account(data, **options)

    for size in (1, 2, 7, 41):
        assert account(data, size, **options).told == whole.told
    if whole.protocol.online:
        for size in (None, 1, 5):
            longer = account(data + SET + PING, size, **options)
            assert longer.commands == [*whole.commands, [b"SET", b"site1:k", ALL_BYTES], [b"ping"]]
            assert longer.ends[-2:] == [whole.protocol.received + len(SET), whole.protocol.received + len(SET + PING)]
            assert longer.story == whole.story
        for cut in range(1, len(SET), 29):
            partly = account(data + SET[:cut], **options)
            assert partly.told == whole.told  # a part of a command is not taken in, and waits
            partly.receive(SET[cut:])
            assert partly.commands == [*whole.commands, [b"SET", b"site1:k", ALL_BYTES]]
            assert partly.protocol.received == whole.protocol.received + len(SET)
    return whole


def fails(error, data, match, **options):
    """Feed a sample whole and byte by byte; both must fail in the same way."""
    for size in (None, 1):
        with pytest.raises(error, match=match) as caught:
            account(data, size, **options)
        assert type(caught.value) is error


# The handshake.


def test_it_asks_for_a_snapshot_when_it_knows_no_position():
    link = check(b"+OK\r\n" + MARKED)

    assert link.sent == resp(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2") + resp(b"PSYNC", b"?", b"-1")
    assert link.story == [FullSync(Position(REPLID, 14)), SnapshotEnd(Position(REPLID, 14))]
    assert link.protocol.online


def test_it_asks_for_the_byte_after_its_position():
    link = check(b"+OK\r\n" + CONTINUE, position=HERE)

    assert link.sent.endswith(resp(b"PSYNC", REPLID.encode(), b"1001"))
    assert link.story == [Continued(HERE)]
    assert link.protocol.online
    assert link.protocol.received == 1000


def test_nothing_is_asked_before_the_reply_to_the_command_before():
    """A master refuses PSYNC while replies are outstanding."""
    protocol = ReplicaProtocol(HERE, password=b"pw")

    assert protocol.data_to_send() == resp(b"AUTH", b"pw")
    assert protocol.receive(b"+O") == []
    assert protocol.data_to_send() == b""
    assert protocol.receive(b"K\r\n") == []
    assert protocol.data_to_send() == resp(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2")
    assert protocol.receive(b"+OK\r\n") == []
    assert protocol.data_to_send() == resp(b"PSYNC", REPLID.encode(), b"1001")


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        ({}, b""),
        ({"username": b"site"}, b""),  # a user without a password has nothing to say
        ({"password": b""}, resp(b"AUTH", b"")),
        ({"password": ALL_BYTES}, resp(b"AUTH", ALL_BYTES)),
        ({"username": b"site", "password": b"pw"}, resp(b"AUTH", b"site", b"pw")),
    ],
)
def test_it_logs_in_with_what_it_was_given(credentials, expected):
    replies = b"+OK\r\n" * (2 if expected else 1)
    link = check(replies + CONTINUE, position=HERE, **credentials)

    assert link.sent.startswith(expected + resp(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"))


@pytest.mark.parametrize("reply", [b"-ERR Unrecognized REPLCONF option: capa", b"+OK with words"])
def test_refused_capabilities_do_not_matter(reply):
    link = check(reply + b"\r\n" + CONTINUE, position=HERE)

    assert link.story == [Continued(HERE)]


def test_a_version_is_announced_where_one_is_given_and_may_be_refused():
    link = check(
        b"+OK\r\n-ERR Unrecognized REPLCONF option: version\r\n" + CONTINUE, position=HERE, replica_version=b"9.0.0"
    )

    assert resp(b"REPLCONF", b"version", b"9.0.0") in link.sent
    assert link.story == [Continued(HERE)]


@pytest.mark.parametrize("reply", [b"+OK", b"-ERR Unrecognized REPLCONF option: rdb-filter-only"])
def test_a_snapshot_without_data_can_be_asked_for(reply):
    """Redis 6.2 refuses, and sends all of it."""
    link = check(b"+OK\r\n" + reply + b"\r\n" + MARKED, rdb=True, empty_snapshot=True)

    assert resp(b"REPLCONF", b"rdb-filter-only", b"") in link.sent
    assert link.story[-1] == SnapshotEnd(Position(REPLID, 14))


def test_a_failover_gives_the_history_a_new_name():
    link = check(f"+OK\r\n+CONTINUE {OTHER_ID}\r\n".encode(), position=HERE)

    assert link.story == [Continued(Position(OTHER_ID, 1000))]
    assert link.protocol.replid == OTHER_ID


def test_an_old_server_continues_without_naming_the_history():
    link = check(b"+OK\r\n+CONTINUE\r\n", position=HERE)

    assert link.story == [Continued(HERE)]


def test_a_snapshot_may_come_instead_of_the_rest():
    """The position is too old, or of another history: what follows counts from the snapshot."""
    link = check(b"+OK\r\n" + SIZED, position=HERE)

    assert link.story == [FullSync(Position(REPLID, 14)), SnapshotEnd(Position(REPLID, 14))]


@pytest.mark.parametrize("newlines", [b"\n", b"\n\n\n"])
def test_newlines_before_any_reply_say_that_the_master_is_alive(newlines):
    parts = [b"+OK\r\n", b"+OK\r\n", FULL, b"$%d\r\n" % len(SNAPSHOT) + SNAPSHOT]
    link = check(newlines + newlines.join(parts), rdb=True, password=b"pw")

    assert link.story[-1] == SnapshotEnd(Position(REPLID, 14))
    assert link.size == len(SNAPSHOT)


def test_newlines_before_a_continuation_count_nothing():
    assert check(b"\n+OK\r\n\n" + CONTINUE + b"\n", position=HERE).protocol.received == 1000


@pytest.mark.parametrize(
    "reply",
    [
        "LOADING Redis is loading the dataset in memory",
        "NOMASTERLINK Can't SYNC while not connected with my master",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "BUSY Redis is busy running a script.",
        "ERR BGSAVE failed, replication can't continue",
    ],
)
def test_a_server_that_is_not_ready_is_asked_again(reply):
    fails(PeerUnavailableError, b"+OK\r\n-" + reply.encode() + b"\r\n", "not ready: ")


@pytest.mark.parametrize("reply", ["LOADING Redis is loading", "ERR max number of clients reached"])
@pytest.mark.parametrize("options", [{}, {"password": b"pw"}])
def test_a_server_may_be_unready_from_its_first_word(reply, options):
    fails(PeerUnavailableError, b"-" + reply.encode() + b"\r\n", reply, **options)


def test_protected_mode_is_told_in_the_server_s_words():
    """The server says so as soon as we connect, and hangs up."""
    fails(PsyncRefusedError, b"-DENIED Redis is running in protected mode because\r\n", "protected mode")


@pytest.mark.parametrize(
    ("replies", "options"),
    [
        (b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", {"password": b"pw"}),
        (b"-ERR AUTH <password> called without any password configured\r\n", {"password": b"pw"}),
        (b"-NOAUTH Authentication required.\r\n", {}),
        (b"+OK\r\n-NOAUTH Authentication required.\r\n", {}),
    ],
)
def test_a_wrong_password_is_a_refusal(replies, options):
    fails(RefusedError, replies, "refuses the user or password: ", **options)


@pytest.mark.parametrize(
    "reply", ["NOPERM this user has no permissions to run the 'psync' command", "ERR unknown command"]
)
def test_refusing_psync_is_told_apart(reply):
    """A managed Redis that lets nobody replicate from it."""
    fails(PsyncRefusedError, b"+OK\r\n-" + reply.encode() + b"\r\n", f"refuses PSYNC: {reply}")


@pytest.mark.parametrize(
    "reply",
    [
        "NOPERM this user has no permissions to run the 'replconf' command",
        "ERR unknown command 'REPLCONF', with args beginning with",
        "ERR unknown command `REPLCONF`",
    ],
)
def test_without_replconf_there_is_no_replicating(reply):
    """It could not acknowledge, and would be sent an error in the stream again and again."""
    fails(PsyncRefusedError, b"-" + reply.encode() + b"\r\n", f"refuses REPLCONF: {reply}")


def test_a_reply_need_not_be_text():
    fails(PsyncRefusedError, b"+OK\r\n-ERR \xff\xfe\r\n", r"ERR \\xff\\xfe")


@pytest.mark.parametrize(
    "reply",
    [
        b"+OK",
        b"$5",
        b"+FULLRESYNC",
        b"+FULLRESYNC " + REPLID.encode(),
        b"+FULLRESYNC " + REPLID.encode() + b" x",
        b"+FULLRESYNC " + REPLID.encode() + b" -5",
        b"+FULLRESYNC " + REPLID.encode() + b" 5 5",
        b"+FULLRESYNC " + b"\xff" * 40 + b" 5",
        b"+FULLRESYNC " + REPLID.encode() + b" " + b"9" * 5000,
        b"+FULLRESYNC " + REPLID.encode() + b" %d" % (1 << 62),
        b"+FULLRESYNC " + REPLID.encode() + b" %d" % ((1 << 64) - 1),
        b"+FULLRESYNC " + b"a" * 65 + b" 5",
        b"+FULLRESYNC " + b"a:" * 20 + b" 5",
        b"+RDBCHANNELSYNC 5",
        b"+CONTINUE",
    ],
)
def test_a_reply_that_nobody_asked_for(reply):
    with pytest.raises(ProtocolError):
        account(b"+OK\r\n" + reply + b"\r\n")


@pytest.mark.parametrize("replid", [b"a" * 65, b"a:" * 20, b"\xff" * 40])
def test_a_history_that_goes_on_under_a_name_that_is_none(replid):
    protocol = ReplicaProtocol(Position(REPLID, 14))
    protocol.receive(b"+OK\r\n")
    with pytest.raises(ProtocolError, match="CONTINUE"):
        protocol.receive(b"+CONTINUE " + replid + b"\r\n")


def test_a_line_has_an_end():
    for data in (b"x" * 5000, b"x" * 5000 + b"\n"):
        with pytest.raises(LimitExceededError, match="reply line") as caught:
            account(data)
        assert caught.value.limit == 4096
    with pytest.raises(LimitExceededError):
        account(b"x" * 5000, 100)


# The snapshot.


@pytest.mark.parametrize("sample", [SIZED, MARKED], ids=["sized", "marked"])
def test_a_snapshot_is_read_while_it_arrives(sample):
    link = check(b"+OK\r\n" + sample, rdb=True)

    assert [(entry.key, entry.value) for entry in link.entries] == [(b"site1:a", b"1"), (b"site1:b", b"2")]
    assert link.story[-1] == SnapshotEnd(Position(REPLID, 14))
    assert link.protocol.received == 14


@pytest.mark.parametrize("sample", [SIZED, MARKED], ids=["sized", "marked"])
def test_a_snapshot_may_be_passed_over_unread(sample):
    link = check(b"+OK\r\n" + sample)

    assert link.size == len(SNAPSHOT)
    assert link.entries == []
    assert link.story[-1] == SnapshotEnd(Position(REPLID, 14))


def test_the_size_of_a_snapshot_is_told_where_it_is_known():
    assert account(b"+OK\r\n" + SIZED, rdb=True).totals == {len(SNAPSHOT)}
    assert account(b"+OK\r\n" + MARKED, rdb=True).totals == {None}


def test_the_end_comes_after_the_data_and_before_the_stream():
    events = ReplicaProtocol(snapshot=RdbReader()).receive(b"+OK\r\n" + MARKED + SET)

    assert [type(event) for event in events] == [FullSync, SnapshotData, SnapshotEnd, Commands]


@pytest.mark.parametrize("rdb", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize("cut", range(1, 41))
def test_the_mark_may_be_split_anywhere(cut, rdb):
    """And the first command may come in the same chunk as the mark's end."""
    sample = b"+OK\r\n" + MARKED
    link = account(sample[: len(sample) - cut], rdb=rdb)

    assert not link.protocol.online
    link.receive(sample[len(sample) - cut :] + SET)
    assert link.protocol.online
    assert link.commands == [[b"SET", b"site1:k", ALL_BYTES]]
    assert link.ends == [14 + len(SET)]
    assert link.size == len(SNAPSHOT)


def test_a_snapshot_may_hold_its_own_mark():
    """The mark is the same for each transfer of a server process, so a client can know it."""
    snapshot = build.rdb(build.key(0, MARK, build.string(MARK * 3)), build.key(0, b"site1:after", build.string(b"x")))
    link = check(FULL.join([b"+OK\r\n", b"$EOF:" + MARK + b"\r\n" + snapshot + MARK]), rdb=True)

    assert [entry.key for entry in link.entries] == [MARK, b"site1:after"]
    assert link.story[-1] == SnapshotEnd(Position(REPLID, 14))


@pytest.mark.parametrize("size", [None, 1, 39, 40, 41])
def test_half_a_mark_is_no_mark(size):
    data = (MARK[:39] + b"x") * 5 + MARK[:20]
    link = account(b"+OK\r\n" + FULL + b"$EOF:" + MARK + b"\r\n" + data + MARK + PING, size)

    assert link.size == len(data)
    assert link.commands == [[b"ping"]]


def test_a_long_snapshot_passed_over_is_not_kept():
    protocol = ReplicaProtocol()
    protocol.receive(b"+OK\r\n" + FULL + b"$EOF:" + MARK + b"\r\n")
    for _ in range(100):
        protocol.receive(b"x" * 100_000)
        assert len(protocol._buffer) == 0
    protocol.receive(MARK)

    assert protocol.online


def test_another_mark_at_the_end_is_noticed():
    fails(ProtocolError, b"+OK\r\n" + MARKED[:-1] + b"x", "not followed by the mark", rdb=True)


@pytest.mark.parametrize(
    "header", [b"$", b"$-1", b"$x", b"$EOF:" + MARK[:39], b"$EOF:" + MARK + b"0", b"*1", b"$1 2", b"\xff"]
)
def test_a_header_that_is_none(header):
    fails(ProtocolError, b"+OK\r\n" + FULL + header + b"\r\n", "not a snapshot header")


def test_a_snapshot_over_the_limit_is_refused_before_it_comes():
    data = b"+OK\r\n" + FULL + b"$1001\r\n"
    with pytest.raises(LimitExceededError, match="snapshot of 1001 bytes is over the limit of 1000"):
        account(data, max_snapshot=1000)
    assert account(data, max_snapshot=1001).protocol.online is False
    with pytest.raises(LimitExceededError):
        account(b"+OK\r\n" + FULL + b"$" + b"9" * 4000 + b"\r\n")


def test_a_snapshot_that_could_not_be_made():
    fails(LinkLostError, b"+OK\r\n" + FULL + b"-ERR out of disk\r\n", "could not make a snapshot: ERR out of disk")


def test_a_sized_snapshot_that_ends_too_early():
    data = b"+OK\r\n" + FULL + b"$%d\r\n" % (len(SNAPSHOT) - 1) + SNAPSHOT
    fails(RdbError, data, "truncated", rdb=True)


@pytest.mark.parametrize("sample", [SIZED, MARKED], ids=["sized", "marked"])
def test_damage_in_a_snapshot_is_the_reader_s_to_tell(sample):
    fails(RdbError, b"+OK\r\n" + sample.replace(b"REDIS", b"RADIS"), "does not begin like a snapshot", rdb=True)


def test_a_snapshot_without_keys():
    empty = build.rdb()
    link = check(b"+OK\r\n" + FULL + b"$%d\r\n" % len(empty) + empty, rdb=True)

    assert not [entry for entry in link.entries if isinstance(entry, Entry)]
    assert check(b"+OK\r\n" + FULL + b"$0\r\n").protocol.online


# The stream.


def stream(data, size=None):
    link = account(b"+OK\r\n" + CONTINUE, position=Position(REPLID, 0))
    for piece in pieces(data, size):
        link.receive(piece)
    return link


@pytest.mark.parametrize("length", [0, 9, 10, 99, 100, 999, 1000, 4095, 4096, 9999, 10_000, 70_000])
def test_an_offset_counts_every_byte_whatever_an_argument_s_length(length):
    argv = [b"SET", b"k", b"x" * length]
    data = encode_command(*argv)

    assert data == resp(*argv)
    for size in (None, 1000):
        link = stream(data + PING, size)
        assert link.ends == [len(data), len(data) + len(PING)]
        assert link.commands == [argv, [b"ping"]]


@pytest.mark.parametrize("count", [1, 2, 9, 10, 99, 100, 1000])
def test_an_offset_counts_every_byte_whatever_the_number_of_arguments(count):
    argv = [b"DEL"] + [b"%d" % number for number in range(count - 1)]

    assert stream(resp(*argv) + PING, 3).ends == [len(resp(*argv)), len(resp(*argv)) + len(PING)]


@pytest.mark.parametrize("size", [0, 9, 10, 99, 100, 4095, 4096, 100_000])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_an_offset_counts_every_byte_whatever_the_size_of_arguments(size, count):
    argv = [b"x" * size] * count
    commands = [[b"SET", *argv], [b"SET", *argv[:-1], b"short"], [b"y" * size, b"a", b"b"]]
    link = stream(b"".join(resp(*command) for command in commands))

    assert link.commands == commands
    assert link.ends == list(itertools.accumulate(len(resp(*command)) for command in commands))


@given(st.lists(st.lists(st.binary(max_size=12), min_size=1, max_size=12), max_size=6), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_any_commands_come_out_as_they_went_in(commands, size):
    link = stream(b"".join(resp(*argv) for argv in commands), size)
    offset, ends = 0, []
    for argv in commands:
        offset += len(resp(*argv))
        ends.append(offset)

    assert link.commands == commands
    assert link.ends == ends
    assert link.protocol.received == offset


def test_a_chunk_larger_than_hiredis_likes():
    commands = [[b"SET", b"k%d" % number, b"v" * (number % 300)] for number in range(3000)]
    link = stream(b"".join(resp(*argv) for argv in commands))

    assert link.commands == commands
    assert link.protocol.received == sum(len(resp(*argv)) for argv in commands)


@pytest.mark.parametrize("verb", [b"REPLCONF", b"replconf"])
@pytest.mark.parametrize("word", [b"GETACK", b"getack"])
def test_the_master_may_ask_for_an_acknowledgement(verb, word):
    data = resp(verb, word, b"*")

    assert stream(data).wants_ack == 1
    assert stream(SET + data + SET).wants_ack == 1
    assert stream(data).protocol.received == len(data)


@pytest.mark.parametrize("argv", [(b"REPLCONF",), (b"REPLCONF", b"ACK", b"1"), (b"PING",), (b"SET", b"GETACK", b"*")])
def test_nothing_else_asks_for_one(argv):
    assert stream(resp(*argv)).wants_ack == 0


def test_an_acknowledgement_is_sent_once():
    protocol = stream(b"").protocol
    protocol.acknowledge(0)
    protocol.acknowledge(12345678901)

    assert protocol.data_to_send() == resp(b"REPLCONF", b"ACK", b"0") + resp(b"REPLCONF", b"ACK", b"12345678901")
    assert protocol.data_to_send() == b""


def test_a_newline_between_commands_is_no_command_and_counts_nothing():
    link = stream(b"")
    for piece in (b"\n", SET, b"\n\n", b"\n" + SET[:10], SET[10:]):
        link.receive(piece)

    assert len(link.commands) == 2
    assert link.protocol.received == 2 * len(SET)


def test_a_newline_inside_a_command_belongs_to_it():
    link = stream(b"")
    data = resp(b"SET", b"k", b"\n\n\n")
    for piece in pieces(data, 1):
        link.receive(piece)

    assert link.commands == [[b"SET", b"k", b"\n\n\n"]]


@pytest.mark.parametrize(
    "damage",
    [
        b"garbage\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b":5\r\n",
        b"+OK\r\n",
        b"$-1\r\n",
        b"*1\r\n:5\r\n",
        b"*1\r\n*1\r\n$1\r\na\r\n",
        b"*2\r\n$3\r\nSET\r\n$-1\r\n",
        b"*2\r\n$3\r\nSET\r\n:5\r\n",
        b"*2\r\n$3\r\nSET\r\n*1\r\n$1\r\na\r\n",
        b"*2\r\n$8\r\nREPLCONF\r\n*0\r\n",
        b"*2\r\n$3\r\nSET\r\n-ERR no\r\n",
        b"%1\r\n*0\r\n:1\r\n",
        b"*4294967295\r\n",
        b"$99999999999999999999\r\n",
    ],
)
def test_damage_names_its_place(damage):
    """Everything before it was taken in, or will come again: the position has not moved past it."""
    for size in (None, 1):
        link = stream(SET)
        with pytest.raises(ProtocolError, match=rf"(after offset {len(SET)}\b|not a command)"):
            link.receive_all(pieces(damage, size))
        assert link.protocol.received == len(SET)


def test_the_place_of_damage_counts_the_commands_before_it_in_the_same_chunk():
    with pytest.raises(ProtocolError, match=rf"after offset {2 * len(SET)}\b"):
        stream(SET + SET + b"garbage\r\n")


def test_an_error_in_the_stream_is_the_master_hanging_up():
    for size in (None, 1):
        with pytest.raises(LinkLostError, match="ended the link: ERR no more"):
            stream(SET + b"-ERR no more\r\n", size)


# Whatever arrives.


@pytest.mark.parametrize(
    "before",
    [b"", b"+OK\r\n", b"+OK\r\n" + FULL, b"+OK\r\n" + MARKED[:120], b"+OK\r\n" + SIZED[:80], b"+OK\r\n" + CONTINUE],
    ids=["capabilities", "psync", "header", "marked", "sized", "stream"],
)
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_bytes_give_events_or_an_error_of_ours(before, data):
    sample = data.draw(resp_like() | st.binary(max_size=60))
    size = data.draw(st.sampled_from([None, 1, 5]))
    protocol = ReplicaProtocol(HERE, snapshot=RdbReader() if data.draw(st.booleans()) else None)
    protocol.receive(before)
    try:
        for piece in pieces(sample, size):
            for event in protocol.receive(piece):
                if isinstance(event, Commands):
                    assert all(type(word) is bytes for argv in event.commands for word in argv)
                    assert len(event.ends) == len(event.commands)
    except (ProtocolError, LinkLostError, RefusedError, PeerUnavailableError):
        pass


@given(resp_like())
@settings(max_examples=150, deadline=None)
def test_any_bytes_in_the_stream_give_commands_or_an_error_of_ours(sample):
    for size in (None, 1):
        with contextlib.suppress(ProtocolError, LinkLostError):
            assert all(argv and all(type(word) is bytes for word in argv) for argv in stream(sample, size).commands)
