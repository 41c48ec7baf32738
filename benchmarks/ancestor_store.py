"""Times what it costs to remember the digests of a million keys, and why SQLite does it.

    python benchmarks/ancestor_store.py [KEYS]

Keys of 26 bytes, in random order, in batches of 1,000. `record` is `sending` and `acknowledged` of a batch, without
making digests; `fold` is the journal into the database; `start` is a process of its own that opens what is there.
Microseconds of processor time for each key. LMDB is measured where it is installed (`pip install lmdb`): the same
digests in the same order, in the same transactions, with 16 bytes of value.

1,000,000 keys on a machine of two cores that was busy with other work (which more than doubles all of them; SQLite
alone took 4.1 to 4.9 when less was going on):

    SQLite                       11.1 us a key, 45 MB
    LMDB                          7.6 us a key, 212 MB
    record                        0.6 us a key, 38.0 bytes of journal
    fold                         13.6 us a key, 52 MB
    lookup of 10,000             16   us a key
    start with 3,000,000 keys, and 1,000,000 unacknowledged: 1.6 s, 138 MB of memory

LMDB takes two thirds of the time, in the background, and four times the disk; and it is one more thing to install, with
no wheel for 32-bit ARM. SQLite is everywhere.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from redisrepl.store import Facts, Pair, Store
from redisrepl.wire.digests import bucket_of, hash_digest

BATCH, CHUNK = 1000, 100_000
PAIR = Pair("127.0.0.1:6379", "https://hub.example/", "")


def new_store(directory):
    return Store(directory, PAIR, digest_of_hash=hash_digest, bucket_of=bucket_of)


def load(count):
    chance = random.Random(1)
    keys = [b"site1:key:%016d" % number for number in range(count)]
    chance.shuffle(keys)
    return keys, [chance.getrandbits(60) for _ in keys]


def report(name, seconds, count, *more):
    print(f"{name:28} {seconds / count * 1e6:6.2f} us a key ", *more, flush=True)


def megabytes(directory):
    return sum(path.stat().st_size for path in directory.iterdir()) / 1e6


def chunks(keys, digests):
    for start in range(0, len(keys), CHUNK):
        yield sorted(zip(keys[start : start + CHUNK], digests[start : start + CHUNK], strict=True))


def sqlite(directory, keys, digests):
    connection = sqlite3.connect(directory / "db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 8000")
    connection.execute("PRAGMA cache_size = -32000")
    connection.execute("CREATE TABLE keys (key BLOB PRIMARY KEY, digest INTEGER, number INTEGER) WITHOUT ROWID")
    began = time.process_time()
    for rows in chunks(keys, digests):
        connection.execute("BEGIN")
        connection.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?, 1)", rows)
        connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    seconds = time.process_time() - began
    connection.close()
    return seconds


def lmdb(directory, keys, digests):
    import lmdb as library  # noqa: PLC0415 - not everywhere

    environment = library.open(str(directory), map_size=8 << 30, metasync=False)
    pack = struct.Struct("<QQ").pack
    began = time.process_time()
    for rows in chunks(keys, digests):
        with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
            cursor.putmulti((key, pack(digest, 1)) for key, digest in rows)
    environment.sync(True)
    seconds = time.process_time() - began
    environment.close()
    return seconds


def compare(keys, digests):
    for engine in (sqlite, lmdb):
        directory = Path(tempfile.mkdtemp(prefix="ancestor-"))
        try:
            seconds = engine(directory, keys, digests)
            report(engine.__name__, seconds, len(keys), f"{megabytes(directory):.0f} MB")
        except ImportError:
            print(f"{engine.__name__:28} is not installed")
        finally:
            shutil.rmtree(directory)


async def remember(directory, keys, digests):
    """What the daemon does with a million keys, from the first to the last."""
    store = new_store(directory)
    recorded = folded = 0.0
    for start in range(0, len(keys), BATCH):
        began = time.process_time()
        facts = Facts()
        facts.strings(keys[start : start + BATCH], digests[start : start + BATCH])
        batch = store.next_number()
        store.sending(batch, facts)
        store.acknowledged(batch)
        recorded += time.process_time() - began
        if start % CHUNK == 0:
            began = time.process_time()
            await store.fold()
            folded += time.process_time() - began
    began = time.process_time()
    await store.fold()
    folded += time.process_time() - began
    report("record", recorded, len(keys), f"{store._journal.size / len(keys):.1f} bytes of journal a key")
    report("fold", folded, len(keys), f"{store._directory.file('db').stat().st_size / 1e6:.0f} MB of database")
    began = time.process_time()
    await store.lookup(keys[:10_000])
    report("lookup of 10,000", time.process_time() - began, 10_000)
    began = time.perf_counter()
    await store.sums(b"site1:")
    print(f"{'sums of all':28} {time.perf_counter() - began:6.2f} s")
    await large_hash(store)
    await store.close()


async def large_hash(store):
    """One field of 20,000 changes at a time."""
    names = [b"field:%06d" % number for number in range(20_000)]
    facts = Facts()
    facts.hash(b"site1:hash", dict.fromkeys(names, 1 << 90))
    store.agreed(facts)
    await store.fold()
    began = time.process_time()
    for name in names[:1000]:
        facts = Facts()
        facts.fields(b"site1:hash", {name: 7})
        store.agreed(facts)
        await store.fold()
    report("fold of a field of 20,000", time.process_time() - began, 1000, "and transaction")


def start(directory):
    began = time.perf_counter()
    store = new_store(Path(directory))
    opened = time.perf_counter() - began
    held = asyncio.run(store.count())
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(f"{'start with what is there':28} {opened:6.2f} s, {held} keys, at most {peak:.0f} MB of memory")
    asyncio.run(store.close())


def main():
    if os.path.isdir(sys.argv[-1]):  # noqa: PTH112 - not yet a path
        start(sys.argv[-1])
        return
    keys, digests = load(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    compare(keys, digests)
    directory = Path(tempfile.mkdtemp(prefix="ancestor-"))
    try:
        asyncio.run(remember(directory, keys, digests))
        subprocess.run([sys.executable, __file__, str(directory)], check=True)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
