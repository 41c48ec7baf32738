"""Times what every command of the site's stream costs before a request is made of it.

    python benchmarks/hot_loop.py [COMMANDS]

Plays COMMANDS (200,000) commands of a replication stream, in pieces of 64 KiB, through the daemon's own parts, all in
memory: `receive` is bytes to arguments and offsets (`wire.psync`), `read` is arguments to what waits
(`Outbound.read`), `take` and `done` are batches of a thousand leaving and arriving (`Pending`). Microseconds of
processor time for each command, the best of five runs; loads side by side, so that one can be judged by another.
"""

from __future__ import annotations

import gc
import sys
import time

from redisrepl.changes import Position
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.outbound import Outbound
from redisrepl.namespaces import Namespaces
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.psync import ReplicaProtocol, encode_command

CHUNK, BATCH, MAX_BODY = 65536, 1000, 900_000
VALUE = b"x" * 64
STAGES = ("receive", "read", "take", "done")

LOADS = {
    "HSET, one hash": lambda n: (b"HSET", b"site1:hash", b"field:%012d" % n, VALUE),
    "SADD, one set": lambda n: (b"SADD", b"site1:set", b"member:%012d" % n),
    "XADD, one stream": lambda n: (b"XADD", b"site1:stream", b"1700000000000-%d" % n, b"field", VALUE),
    "XADD, distinct keys": lambda n: (b"XADD", b"site1:key:%012d" % n, b"1700000000000-0", b"field", VALUE),
    "SET, distinct keys": lambda n: (b"SET", b"site1:key:%012d" % n, VALUE),
    "SET, 100 hot keys": lambda n: (b"SET", b"site1:key:%012d" % (n % 100), VALUE),
    "SET, other namespace": lambda n: (b"SET", b"site2:key:%012d" % n, VALUE),
    "HSET, distinct keys": lambda n: (b"HSET", b"site1:key:%012d" % n, b"field", VALUE),
    "HSET, other namespace": lambda n: (b"HSET", b"site2:key:%012d" % n, b"field", VALUE),
    "INCR, distinct keys": lambda n: (b"INCR", b"site1:key:%012d" % n),
    "INCR, other namespace": lambda n: (b"INCR", b"site2:key:%012d" % n),
}


class Watch:
    """Adds up processor time by stage."""

    def __init__(self):
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._began = 0.0

    def start(self):
        self._began = time.process_time()

    def lap(self, stage):
        now = time.process_time()
        self.seconds[stage] += now - self._began
        self._began = now


def attached():
    protocol = ReplicaProtocol(Position("0" * 40, 0))
    protocol.receive(b"+OK\r\n")
    protocol.receive(b"+CONTINUE\r\n")
    return protocol


def play(data):
    """One run: pushes as it reads, as the daemon does with a hub that is near."""
    watch, protocol = Watch(), attached()
    outbound = Outbound(ChangeDecoder(Namespaces([b"site1:"]).covers), ExpectedEvents(1000))
    pending = outbound.pending
    for start in range(0, len(data), CHUNK):
        piece = data[start : start + CHUNK]
        watch.start()
        events = protocol.receive(piece)
        watch.lap("receive")
        for event in events:
            outbound.read(event.commands, event.ends[-1], event.ends)
        del events
        watch.lap("read")
        while outbound.ready:
            watch.start()
            batch = outbound.take(BATCH, MAX_BODY)
            watch.lap("take")
            keys = [change.key for change in batch.changes]
            watch.start()
            pending.done(keys)
            watch.lap("done")
    assert pending.acknowledged == len(data)
    assert not len(pending)
    return watch.seconds


def main():
    commands = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    gc.freeze()
    gc.set_threshold(10_000, 5, 5)  # as the daemon does
    print(f"{'us for each command':24}" + "".join(f"{stage:>9}" for stage in (*STAGES, "all")))
    for name, command in LOADS.items():
        data = b"".join(encode_command(*command(number)) for number in range(commands))
        runs = [play(data) for _ in range(5)]
        best = [min(run[stage] for run in runs) / commands * 1e6 for stage in STAGES]
        print(f"{name:24}" + "".join(f"{each:9.2f}" for each in (*best, sum(best))))


if __name__ == "__main__":
    main()
