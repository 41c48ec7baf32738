"""Damages good input of every parser that a socket or file reaches, and insists on values or an error of ours.

As a script it goes on for as long as told: `python -m tests.hostile.fuzz SECONDS [SEED]`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import resource
import struct
import sys
import time

from redis.exceptions import InvalidResponse

from redisrepl.changes import Position
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.outbound import Outbound
from redisrepl.errors import RedisreplError
from redisrepl.listener.http import BadRequestError, read_request
from redisrepl.local.address import parse_address
from redisrepl.remote.address import check_url
from redisrepl.remote.history import parse_info
from redisrepl.store.reading import MALFORMED, Reader
from redisrepl.wire.batches import parse_batch_reply
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.digests import BUCKETS, parse_looks, parse_page, parse_sums
from redisrepl.wire.elements import Question, parse_elements
from redisrepl.wire.entrypages import parse_entries
from redisrepl.wire.feed import parse_feed
from redisrepl.wire.http import ResponseReader
from redisrepl.wire.messages import MessageReader
from redisrepl.wire.psync import ReplicaProtocol, SnapshotData, encode_command
from redisrepl.wire.rdb import RdbReader
from redisrepl.wire.replies import as_clock, as_info, as_integer, as_option, as_page, as_pairs
from redisrepl.wire.replyreader import ReplyReader
from redisrepl.wire.resp import parse_one
from redisrepl.wire.states import parse_fetch, parse_states
from redisrepl.wire.totals import parse_total
from redisrepl.wire.unwanted import Unwanted
from redisrepl.wire.walker import Walker
from redisrepl.wire.webdis import CommandError, parse_integer
from tests.bodies import flat_reply, parse_reply
from tests.wire.rdb import build

#: Memory that no input may take, beside what the process had.
MOST = 128 << 20


def _flat(*words):
    return encode_command(*words)


def _covers(key):
    return key.startswith(b"ns:")


def _stream(data):
    protocol, decoder = (
        ReplicaProtocol(Position("0" * 40, 0), unwanted=Unwanted(_covers, 1 << 20)),
        ChangeDecoder(_covers),
    )
    protocol.receive(b"+OK\r\n")
    protocol.receive(b"+CONTINUE\r\n")
    for start in range(0, len(data), 50):
        for event in protocol.receive(data[start : start + 50]):
            for argv in event.commands:
                decoder.decode(argv)


def _handshake(data):
    protocol = ReplicaProtocol(username=b"u", password=b"p")
    for start in range(0, len(data), 7):
        protocol.receive(data[start : start + 7])


def _replies(data):
    reply = parse_one(data, 1 << 20)
    for parse in (as_integer, as_clock, as_page, as_pairs, as_option, as_info):
        try:
            parse(reply, "fuzz")
        except RedisreplError:
            continue


def _http(data):
    reader = ResponseReader()
    for start in range(0, len(data), 11):
        reader.feed(data[start : start + 11])


def _snapshot(data):
    outbound = Outbound(ChangeDecoder(_covers), ExpectedEvents(10))
    protocol = ReplicaProtocol(snapshot=RdbReader([b"ns:"], max_value=0))
    for start in range(0, len(data), 400):
        for event in protocol.receive(data[start : start + 400]):
            if isinstance(event, SnapshotData):
                outbound.read_snapshot(event.events, 0.0)


def _site_reader(data):
    reader = ReplyReader(1 << 30, protocolError=InvalidResponse, replyError=str, notEnoughData=None)
    with contextlib.suppress(InvalidResponse):
        for start in range(0, len(data), 30):
            reader.feed(data[start : start + 30])
            for _ in range(30):
                reader.gets()


def _records(data):
    """The payload of a record of the journal; its kind comes first."""
    with contextlib.suppress(*MALFORMED):
        reader = Reader()
        reader.take(data[0] % 8, data[1:])
        reader.applied_keys()


def _request(data):
    async def read():
        reader = asyncio.StreamReader(limit=1 << 14)
        reader.feed_data(data)
        reader.feed_eof()
        await read_request(reader)

    with contextlib.suppress(BadRequestError):
        _LOOP.run_until_complete(read())


def _feed(data):
    parse_feed(data).changes()


_LOOP = asyncio.new_event_loop()
COMMANDS = [
    [b"SET", b"ns:k", b"v" * 50],
    [b"MSET", b"ns:a", b"1", b"b", b"2"],
    [b"HSET", b"ns:h", b"f", b"v"],
    [b"SELECT", b"1"],
]
STREAM = b"".join(_flat(*argv) for argv in [*COMMANDS, [b"MULTI"], [b"DEL", b"ns:k"], [b"EXEC"], [b"PING"]])
#: What is parsed > how, and good samples of it.
_SECTIONS = Question(b"ns:k", "hash", b"all", (2, 4))
PARSERS = {
    "stream": (_stream, [STREAM, _flat(b"SET", b"other", b"x" * 300_000) + STREAM]),
    "snapshot": (
        _snapshot,
        [
            b"+OK\r\n+FULLRESYNC %b 100\r\n$%d\r\n%b" % (b"a" * 40, len(rdb), rdb) + STREAM
            for rdb in (
                build.rdb(
                    b"\xfa" + build.string(b"repl-stream-db") + build.string(b"3"),
                    build.key(0, b"ns:k", build.string(b"v" * 70)),
                    build.key(0, b"ns:l", build.string(b"v" * 17_000)),
                    build.key(4, b"ns:h", b"\x02" + build.string(b"f") + build.string(b"v") * 3),
                    build.key(16, b"ns:p", build.string(build.listpack(b"f", 1))),
                    build.key(2, b"ns:s", b"\x01" + build.string(b"m")),
                    checksum=False,
                ),
            )
        ],
    ),
    "INFO": (
        lambda data: (parse_info(data), as_info(data, "fuzz").evicts()),
        [
            (
                b"# Server\r\nrun_id:abc\r\nserver_time_usec:1\r\n"
                b"# Memory\r\nmaxmemory:1\r\nmaxmemory_policy:allkeys-lru\r\n\r\n"
            )
        ],
    ),
    "site reader": (_site_reader, [STREAM, b"+OK\r\n:1\r\n-ERR x\r\n$-1\r\n*2\r\n$1\r\na\r\n*0\r\n"]),
    "records": (
        _records,
        [bytes([kind]) + struct.pack("<QI", 7, 1) + struct.pack("<I", 1) + b"k" + b"\0" * 30 for kind in range(1, 8)],
    ),
    "request": (_request, [b"GET /metrics?x=1 HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer x\r\n\r\n"]),
    "handshake": (_handshake, [b"+OK\r\n+OK\r\n+FULLRESYNC %b 100\r\n$0\r\n" % (b"a" * 40) + STREAM]),
    "subscription": (
        lambda data: MessageReader().feed(data),
        [b"*3\r\n$10\r\npsubscribe\r\n$1\r\nx\r\n:1\r\n" + _flat(b"pmessage", b"x", b"ns:k", b"set") * 3],
    ),
    "reply": (parse_reply, [_flat(b"a", b"b"), b":1\r\n", b"$-1\r\n", b"-ERR x\r\n"]),
    "replies": (_replies, [_flat(b"10", b"20"), b"*2\r\n$1\r\n0\r\n" + _flat(b"k", b"l"), b"$6\r\na:1\r\nb\r\n"]),
    "JSON": (parse_integer, [b'{"PTTL":-1}', b'{"PTTL":[false,"ERR x"]}']),
    "states": (
        lambda data: parse_fetch(flat_reply(data), b"t"),
        [_flat(b"1 t", b"string", b"5", b"1", b"v", b"hash", b"", b"2", b"f", b"v", b"none", b"", b"0")],
    ),
    "words": (lambda data: parse_states(data.split(b",")), [b"1 t,string,5,1,v,hash,,2,f,v,none,,0"]),
    "batch": (lambda data: parse_batch_reply(flat_reply(data), 3, b"t"), [_flat(b"3 1000 t", b"1 ERR x")]),
    "looks": (
        lambda data: parse_looks(flat_reply(data), 3),
        [_flat(b"0123456789abcde 4102444800123", b""), _flat(b"0123456789abcde ~99", b"?")],
    ),
    "page": (lambda data: parse_page(flat_reply(data)), [_flat(b"0", b"ns:k", b"0123456789abcde", b"ns:l", b"!")]),
    "sections": (
        lambda data: parse_elements(flat_reply(data), b"t", _SECTIONS),
        [_flat(b"1 t", b"hash", b"", b"2", b"0", b"0123456789ab", b"2", b"f", b"v", b"ba9876543210", b"0")],
    ),
    "entries": (
        lambda data: parse_entries(flat_reply(data), b"t", b"(1-0"),
        [
            _flat(
                b"1 t", b"stream", b"9", b"2", b"3", b"1-0", b"3-0", b"3-1", b"2-0", b"\x92\xa1f\xa1v", b"3-0", b"\x90"
            )
        ],
    ),
    "total": (lambda data: parse_total(flat_reply(data)), [_flat(b"stream", b"3-0", b"7", b"8"), _flat(b"none")]),
    "sums": (
        lambda data: parse_sums(flat_reply(data), [0] * BUCKETS),
        [_flat(b"0", b"2", b"1", b"ns:k", b"ffffffffffffff07000000000002")],
    ),
    "feed": (
        _feed,
        [
            b"1 o " + base64.urlsafe_b64encode(b"".join(_flat(*argv) for argv in COMMANDS[:3])),
            b"1 o " + base64.urlsafe_b64encode(_flat(*COMMANDS[0])),
            b"1 o "
            + base64.urlsafe_b64encode(
                _flat(b"HSET", b"ns:h", b"f", b"v") + _flat(b"HPEXPIREAT", b"ns:h", b"9999", b"FIELDS", b"1", b"f")
            ),
        ],
    ),
    "walker": (lambda data: Walker(1 << 20).feed(data), [STREAM, b"*2\r\n*1\r\n:1\r\n$1\r\na\r\n"]),
    "HTTP": (
        _http,
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ],
    ),
    "site": (
        lambda data: parse_address(data.decode("latin-1")),
        [b"redis://me:pw@h:1/2?db=3", b"redis-sentinel://a:1,b/m"],
    ),
    "hub": (lambda data: check_url(data.decode("latin-1")), [b"https://me:pw@hub.lab:8443/redis"]),
}
_PIECES = [
    b"*1000000000\r\n",
    b">50000000\r\n",
    b"~50000000",
    b"$9999999999\r\n",
    b"\r\n",
    b"-1",
    b"\xff",
    b"\0",
    b"%",
    b">",
    b"~",
    b"*",
    b"$",
    b":",
    b"[",
    b"9" * 30,
]


def mutated(sample, rng):
    data = bytearray(sample)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randrange(1, 9)]
            case 2:
                data[at:at] = rng.choice(_PIECES)
            case 3:
                data[at:at] = data[at : at + rng.randrange(40)] * rng.randrange(4)
            case _:
                del data[at:]
    return bytes(data)


def examine(name, data):
    with contextlib.suppress(RedisreplError, CommandError):
        PARSERS[name][0](data)


def run(seconds, seed):
    """How many inputs were examined until then."""
    rng, count = random.Random(seed), 0
    most = _peak() + MOST
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, (_, samples) in PARSERS.items():
            data = mutated(rng.choice(samples), rng)
            try:
                examine(name, data)
                assert _peak() < most, f"it took {_peak() >> 20} MB"
            except BaseException:
                print(f"{name}, seed {seed}, input {count}: {json.dumps(data.decode('latin-1'))}", file=sys.stderr)
                raise
            count += 1
    return count


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    print(run(given[0] if given else 60, given[1] if len(given) > 1 else random.randrange(1 << 32)), "inputs")
