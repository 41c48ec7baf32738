"""Times `redisrepl rdb` on a million small keys written by a real server.

    python benchmarks/rdb.py [KEYS] [FILE]

Starts a redis-server in a temporary directory, lets it write KEYS strings (1,000,000) and a hash of as many fields, and
reads both snapshots: the bare reader in this process, then the subcommand in one of its own, as JSON lines and with
`--keys`, for its peak memory. With FILE that snapshot is read instead. Best of three.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import redis

from redisrepl.wire.rdb import RdbReader, crc64, lzf

ROUNDS = 3
CHUNK = 256 << 10

CHILD = """
import io, json, resource, sys, time
from redisrepl.subcommands.rdb import run

began = time.perf_counter()
with open("/dev/null", "wb") as out:
    run(sys.argv[1], ns=[], types=[], dbs=[], keys=sys.argv[2] == "keys", summary=False, out=out, err=sys.stderr)
print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""

STRINGS = "for i = 1, ARGV[1] do redis.call('SET', 'site:channel:' .. i, 'value of channel number ' .. i) end"
HASH = "for i = 1, ARGV[1] do redis.call('HSET', 'site:hash', 'channel:' .. i, 'value number ' .. i) end"


def snapshots(keys, directory):
    """Paths of a snapshot of many strings and one of a big hash."""
    socket = f"{directory}/s"
    command = ["redis-server", "--port", "0", "--unixsocket", socket, "--dir", directory, "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if "eady to accept" in line:
                break
        with redis.Redis(unix_socket_path=socket, socket_timeout=300) as client:
            print(f"server    {client.info()['redis_version']}")
            for name, script in (("strings", STRINGS), ("hash", HASH)):
                client.flushall()
                client.eval(script, 0, keys)
                client.save()
                yield name, Path(directory, "dump.rdb").rename(Path(directory, name))
        process.kill()


def bare(path, **options):
    """Seconds that the reader alone takes, and the elements it reports."""
    reader = RdbReader(**options)
    elements = 0
    began = time.perf_counter()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for event in reader.feed(chunk):
                elements += len(event.value) if isinstance(event.value, list) else 1
    reader.close()
    return time.perf_counter() - began, elements


def subcommand(path, mode):
    """Seconds that the subcommand takes in a process of its own, and its peak memory in MB."""
    done = subprocess.run([sys.executable, "-c", CHILD, path, mode], capture_output=True, check=True, text=True)
    return json.loads(done.stdout)


def report(path, elements, what):
    size = path.stat().st_size

    def line(label, seconds, more=""):
        rate = elements / seconds
        print(f"  {label:28}{seconds:7.2f} s {rate:12,.0f} {what}/s {size / seconds / 1e6:7.0f} MB/s{more}")

    print(f"{path.name}: {size:,} bytes, {elements:,} {what}")
    for label, options in (
        ("reader", {}),
        ("reader, no checksum", {"verify_checksum": False}),
        ("reader, keys only", {"want_values": False}),
        ("reader, other prefix", {"prefixes": (b"elsewhere:",)}),
    ):
        line(label, min(bare(path, **options)[0] for _ in range(ROUNDS)))
    for mode in ("json", "keys"):
        seconds, memory = min(subcommand(path, mode) for _ in range(ROUNDS))
        line(f"redisrepl rdb, {mode}", seconds, f"   peak {memory:.0f} MB")


def machine():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    print(f"machine   {model}, {platform.system()} {platform.release()}")
    print(f"python    {platform.python_version()}, redis-py {version('redis')}")
    print(f"C extras  crc64 {'yes' if crc64.NATIVE else 'no'}, lzf {'yes' if lzf.NATIVE else 'no'}")


def main():
    machine()
    if len(sys.argv) > 2:
        path = Path(sys.argv[2])
        report(path, bare(path)[1], "elements")
        return
    with tempfile.TemporaryDirectory(prefix="rdb") as directory:
        for name, path in snapshots(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, directory):
            report(path, bare(path)[1], "keys" if name == "strings" else "fields")


if __name__ == "__main__":
    main()
