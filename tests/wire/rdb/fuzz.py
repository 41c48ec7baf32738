"""Damages good snapshots at random and insists on events or one RdbError, the same for any size of chunks.

As a script it goes on for as long as told: `python -m tests.wire.rdb.fuzz SECONDS [SEED]`.
"""

from __future__ import annotations

import random
import sys
import time

from redisrepl.errors import RdbError
from redisrepl.wire.rdb import RdbReader, assemble
from tests.wire.rdb import build
from tests.wire.rdb.test_hashes import FIELDS, template
from tests.wire.rdb.test_modules import EVERYTHING, MODULE_ID
from tests.wire.rdb.test_streams import NODE, stream

ONE, TWO = build.length(1), build.length(2)
PAIR = build.string(b"f") + build.string(b"v" * 70)
LISTPACK = build.listpack(b"f", 1, b"g" * 70, -70000)
ZIPLIST = build.ziplist(b"f", 1, b"g" * 70, -70000)
TRIPLES = build.listpack(b"f", b"v", 5, b"g", b"w", 0)

SAMPLES = [
    build.rdb(
        b"\xfa" + PAIR,
        b"\xf5" + build.string(b"#!lua"),
        b"\xf7" + MODULE_ID + TWO + ONE + EVERYTHING,
        b"\xfe\x01\xfb\x05\x05",
        build.key(0, b"s", build.repeated(b"x", 300)),
        b"\xfc" + build.millis(5) + build.key(0, b"int", build.integer(70000)),
        b"\xf9\x05" + build.key(0, b"plain", build.string(b"value" * 20)),
    ),
    build.rdb(
        build.key(1, b"1", TWO + PAIR),
        build.key(2, b"2", TWO + PAIR),
        build.key(3, b"3", TWO + build.string(b"m") + b"\x031.5" + build.string(b"n") + b"\xfe"),
        build.key(4, b"4", TWO + PAIR + PAIR),
        build.key(5, b"5", ONE + build.string(b"m") + build.double(2.5)),
        build.key(7, b"7", MODULE_ID + EVERYTHING),
        build.key(9, b"9", build.string(build.zipmap((b"f", b"v"), (b"g", b"w" * 300)))),
    ),
    build.rdb(
        *(build.key(kind, b"%d" % kind, build.string(ZIPLIST)) for kind in (10, 12, 13)),
        build.key(11, b"11", build.string(build.intset(4, 1, 2, 70000))),
        build.key(14, b"14", TWO + build.string(ZIPLIST) + build.string(ZIPLIST)),
    ),
    build.rdb(
        *(build.key(kind, b"%d" % kind, build.string(LISTPACK)) for kind in (16, 17, 20)),
        build.key(18, b"18", TWO + TWO + build.string(LISTPACK) + ONE + build.string(b"x" * 70)),
        build.key(22, b"22", ONE + build.length(5) + PAIR),
        build.key(23, b"23", build.string(TRIPLES)),
        build.key(24, b"24", build.millis(5) + ONE + ONE + PAIR),
        build.key(25, b"25", build.millis(5) + build.string(TRIPLES)),
        build.key(28, b"28", TWO + ONE + ONE + b"\x05\x01" + build.millis(1) + b"\x06\x00" + build.string(b"x")),
    ),
    *(
        build.rdb(build.key(kind, b"s", stream(layout, NODE)))
        for kind, layout in ((15, 1), (19, 2), (21, 3), (26, 4), (27, 5))
    ),
    build.rdb(
        template(3, *FIELDS),
        build.key(
            29, b"29", b"\x00" + build.string(build.listpack(*FIELDS)) + build.string(build.listpack(0, 1, 2, 3))
        ),
        build.key(30, b"30", build.string(build.listpack(3, 1, b"x", b""))),
        build.key(31, b"31", b"\x01\x01" + PAIR),
        build.key(32, b"32", b"\x03" + PAIR + build.string(b"w")),
        b"\xf3\x01abcd\x01\x05\x00" + build.key(0, b"k", build.string(b"v")),
    ),
    build.rdb(
        b"\xf3" + build.string(b"j" * 40) + ONE + b"\x00\x05",
        build.key(22, b"22", ONE + PAIR + build.millis(-1)),
        version=80,
        valkey=True,
    ),
]

INTERESTING = (0, 1, 2, 0x3F, 0x40, 0x7F, 0x80, 0x81, 0xC0, 0xC3, 0xF0, 0xF4, 0xFA, 0xFC, 0xFE, 0xFF)


def mutated(chance, sample):
    """The sample with one to four changes, behind its magic."""
    data = bytearray(sample)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(9, len(data))
        match chance.randrange(5):
            case 0:
                data[at] = chance.choice(INTERESTING)
            case 1:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                del data[at : at + chance.randint(1, 9)]
            case 3:
                data[at:at] = data[chance.randrange(len(data)) :][: chance.randint(1, 20)]
            case 4:
                data[at : at + 8] = chance.choice(
                    (b"\xff" * 8, b"\x81" + b"\xff" * 8, b"\x80\x7f\xff\xff\xff", bytes(8))
                )
    return bytes(data) if len(data) > 9 else sample


def outcome(data, chunk, **options):
    """The events and the error, as text; anything but an RdbError passes through."""
    reader = RdbReader(verify_checksum=False, **options)
    found = []
    try:
        found.extend(map(repr, assemble(pushed(reader, data, chunk))))
    except RdbError as error:
        found.append(error.reason)
    return found


def pushed(reader, data, chunk):
    for start in range(0, len(data), chunk):
        yield from reader.feed(data[start : start + chunk])
    reader.close()


def examine(data):
    whole = outcome(data, len(data))

    assert outcome(data, 1) == whole
    assert outcome(data, 13) == whole
    for options in ({"want_values": False}, {"prefixes": (b"2",)}, {"max_value": 0}):
        assert outcome(data, 1, **options)[-1:] == outcome(data, len(data), **options)[-1:]


def main():
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns()
    print(f"seed {seed}")
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < end:
        data = mutated(chance, chance.choice(SAMPLES))
        try:
            examine(data)
        except BaseException:
            print(f"after {runs} runs: {data!r}")
            raise
        runs += 1
    print(f"{runs} runs")


if __name__ == "__main__":
    main()
