"""Times `ReplicaStream` against what redis-benchmark writes.

    python benchmarks/stream.py [COMMANDS]

Starts a redis-server in a temporary directory and attaches; then redis-benchmark sends COMMANDS (3,000,000) `SET`s,
sixteen in a pipeline, to random ones of a million keys. Each way of reading runs against its own server: lists of
events, one event at a time, one at a time with prefixes. The rate is from the start of redis-benchmark to the last
command that came; beside it, what redis-benchmark says it wrote, the processor time of the reader for each command, and
whether the server dropped the link. `reader alone` decodes a stream that is in memory.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import redis

from redisrepl import Position, ReplicaStream, SnapshotEnd
from redisrepl.wire.psync import ReplicaProtocol, encode_command
from redisrepl.wire.transactions import CommandReader

CLIENTS, PIPELINE, VALUE = 50, 16, 32
CHUNK = 65536


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    cores = len(os.sched_getaffinity(0))
    server = subprocess.run(["redis-server", "--version"], capture_output=True, check=True, text=True).stdout
    print(f"machine   {model}, {cores} cores for everything, {platform.system()} {platform.release()}")
    print(f"server    redis-server {server.partition('v=')[2].split()[0]}")
    print(f"python    {platform.python_version()}, hiredis {version('hiredis')}, redis-py {version('redis')}")
    print(f"load      redis-benchmark -P {PIPELINE} -c {CLIENTS} -d {VALUE} -t set -r 1000000")


class Server:
    """A redis-server behind a unix socket, and the benchmark's writes to it."""

    def __enter__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="stream")
        self.path = f"{self._directory.name}/s"
        options = ["--port", "0", "--unixsocket", self.path, "--dir", self._directory.name, "--save", ""]
        options += ["--repl-diskless-sync-delay", "0"]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.PIPE, text=True)
        for line in self._process.stdout:
            if "eady to accept" in line:
                break
        self.client = redis.Redis(unix_socket_path=self.path)
        return self

    def __exit__(self, *_):
        self.client.close()
        self._process.kill()
        self._process.communicate()
        self._directory.cleanup()

    async def write(self, commands):
        """Run redis-benchmark; commands a second by its own account."""
        options = ["-s", self.path, "-P", PIPELINE, "-c", CLIENTS, "-d", VALUE, "-t", "set", "-r", 1_000_000]
        process = await asyncio.create_subprocess_exec(
            "redis-benchmark", *map(str, options), "-n", str(commands), "-q", stdout=subprocess.PIPE
        )
        text, _ = await process.communicate()
        self.client.set("end", "end")
        return float(re.findall(rb"([\d.]+) requests per second", text)[-1])


async def in_lists(stream):
    """How many commands, and when the first and the last came."""
    count = 0
    async for batch in stream.batches():
        count += len(batch)
        if batch[-1].argv[1] == b"end":
            break
    return count


async def one_by_one(stream):
    count = 0
    async for event in stream:
        count += 1
        if event.argv[1] == b"end":
            break
    return count


async def measure(label, read, commands, prefixes=()):
    with Server() as server:
        async with ReplicaStream(f"unix://{server.path}", snapshot=False, prefixes=prefixes) as stream:
            async for event in stream:  # the mark of an empty snapshot: the stream begins
                if isinstance(event, SnapshotEnd):
                    break
            writing = asyncio.ensure_future(server.write(commands))
            began, cpu = time.perf_counter(), time.process_time()
            count = await read(stream)
            ended = time.perf_counter()
            cpu = time.process_time() - cpu
            written = await writing
            clean = stream.full_syncs == 1 and stream.partial_syncs == 0
            assert count == commands + 1 or prefixes
            print(
                f"  {label:34}{count / (ended - began):11,.0f} /s   written {written:9,.0f} /s   "
                f"{cpu / count * 1e6:5.2f} us of processor each   {'kept up' if clean else 'LINK DROPPED'}"
            )


def from_memory(commands):
    protocol, reader = ReplicaProtocol(Position("0" * 40, 0)), CommandReader()
    protocol.receive(b"+OK\r\n")
    protocol.receive(b"+CONTINUE\r\n")
    reader.start(Position("0" * 40, 0), 0)
    data = b"".join(encode_command(b"SET", b"key:%012d" % n, b"x" * VALUE) for n in range(commands))
    began, count = time.perf_counter(), 0
    for start in range(0, len(data), CHUNK):
        for event in protocol.receive(data[start : start + CHUNK]):
            count += len(reader.take(event.commands, event.ends))
    assert count == commands
    print(f"  {'reader alone':34}{count / (time.perf_counter() - began):11,.0f} /s")


def main():
    commands = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000
    machine()
    from_memory(min(commands, 500_000))
    asyncio.run(measure("ReplicaStream.batches()", in_lists, commands))
    asyncio.run(measure("async for", one_by_one, commands))
    asyncio.run(measure("async for, prefix of all keys", one_by_one, commands, (b"key:", b"end")))


if __name__ == "__main__":
    main()
