"""Losers are kept within their bounds, and whatever a disk does is said and survived."""

import ast
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import HashState, StringState
from redisrepl.store import conflicts as module
from redisrepl.store.conflicts import Conflicts, Loser
from redisrepl.store.kept import KeptConflicts
from redisrepl.store.unusable import UnusableError
from testbed import SmallDisk
from tests.clock import Clock

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
NOW = 1_790_000_000.0
DAY = 86_400.0


@pytest.fixture
def clock():
    return Clock(NOW)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "0123456789abcdef.conflicts"


@pytest.fixture
def said():
    return []


@pytest.fixture
def conflicts(path, clock, said):
    """Opens it; what is open is closed with the test."""
    opened = []

    def conflicts(max_bytes=MIB, max_days=30.0, where=path):
        opened.append(Conflicts(where, max_bytes, max_days, clock, site="redis://site", on_failed=said.append))
        return opened[-1]

    yield conflicts
    for each in opened:
        each.close()


def loser(number, value=b"v", at=NOW, key=None):
    state = value if isinstance(value, HashState | str | None) else StringState(value)
    return Loser(key or b"site1:%d" % number, at, "hub", "both changed it", 1, 2, state)


def kept(path):
    """What another process reads: the key and the value of each."""
    script = (
        "import sys; from pathlib import Path; from redisrepl.store.kept import KeptConflicts\n"
        "with KeptConflicts(Path(sys.argv[1])) as f:\n"
        "    print([(k.key, getattr(f.state(k), 'value', None)) for k in f.entries()])"
    )
    run = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=True, cwd=ROOT)
    return ast.literal_eval(run.stdout.decode())


def numbers(path):
    with KeptConflicts(path) as file:
        return [int(each.key.partition(b":")[2]) for each in file.entries()]


def asides(path):
    return sorted(each for each in path.parent.iterdir() if "set-aside" in each.name and not each.name.endswith("-wal"))


# There and back.


def test_it_is_there_for_another_process_after_a_flush(conflicts, path):
    store = conflicts()
    store.keep(loser(1, b"one"))
    store.keep(loser(2, HashState({b"f": b"v"})))
    store.keep(loser(3, "list"))
    assert kept(path) == []
    store.flush()
    assert kept(path) == [(b"site1:1", b"one"), (b"site1:2", None), (b"site1:3", None)]
    assert (store.kept, store.digests_only, store.dropped, store.failed) == (3, 0, 0, None)
    with KeptConflicts(path) as file:
        assert file.site == "redis://site"


def test_it_is_there_after_a_close_and_goes_on_after_that(conflicts, path):
    for number in range(3):
        store = conflicts()
        store.keep(loser(number))
        store.close()
    assert numbers(path) == [0, 1, 2]


def test_it_is_there_after_a_kill(path):
    script = (
        "import os, sys; from pathlib import Path; from redisrepl.store.conflicts import Conflicts, Loser\n"
        "from redisrepl.changes import StringState\n"
        "c = Conflicts(Path(sys.argv[1]), 1 << 20, 30.0, lambda: 0.0)\n"
        "for n in range(9):\n"
        "    c.keep(Loser(b'site1:%d' % n, 0.0, 'hub', 'r', 1, 2, StringState(b'v')))\n"
        "    if n == 6: c.flush()\n"
        "os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", script, path], check=False, cwd=ROOT)
    assert run.returncode == -9
    assert numbers(path) == list(range(7))


def test_a_change_of_the_dictionary_afterwards_changes_nothing(conflicts, path):
    store = conflicts()
    fields = {b"f": b"before"}
    store.keep(loser(1, HashState(fields)))
    fields[b"f"] = b"after"
    store.flush()
    with KeptConflicts(path) as file:
        (entry,) = file.entries()
        assert file.state(entry) == HashState({b"f": b"before"})


def test_a_flush_without_losers_does_not_touch_the_disk(conflicts, monkeypatch):
    store = conflicts()

    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(store, "_attempt", fail)
    for _ in range(10):
        store.flush()


def test_a_flush_is_one_transaction(conflicts, path):
    store = conflicts()
    statements = []
    store._db.set_trace_callback(statements.append)
    for number in range(500):
        store.keep(loser(number))
    assert statements == []
    store.flush()
    assert statements.count("COMMIT") == 1
    assert len(numbers(path)) == 500


def test_much_is_written_before_the_flush(conflicts, path):
    """Memory has a bound as well."""
    store = conflicts(64 * MIB)
    for number in range(5):
        store.keep(loser(number, bytes(MIB)))
    assert numbers(path) == [0, 1, 2, 3]
    assert store.dropped == 0


def test_a_reader_that_reads_for_long_holds_up_nobody(conflicts, path):
    store = conflicts()
    store.keep(loser(1))
    store.flush()
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)
    db.execute("BEGIN")
    assert db.execute("SELECT count(*) FROM losers").fetchone() == (1,)
    store.keep(loser(2))
    store.flush()
    assert store.failed is None
    assert db.execute("SELECT count(*) FROM losers").fetchone() == (1,)
    db.execute("COMMIT")
    assert db.execute("SELECT count(*) FROM losers").fetchone() == (2,)
    db.close()


# Bounds.


@pytest.mark.parametrize("size", [1, 100, 2100, 4000, 4090, 9000, 100_000, 400_000])
def test_the_file_is_bounded_and_the_oldest_go_first(conflicts, path, size):
    store = conflicts()
    total = 3 * MIB // (size + 150)
    for number in range(total):
        store.keep(loser(number, bytes(size)))
        if number % 100 == 99:
            store.flush()
    store.close()
    left = numbers(path)
    assert left == list(range(total - len(left), total))
    assert path.stat().st_size <= MIB
    assert len(left) * (size + 100) > 0.3 * MIB
    assert store.failed is None


def test_a_bound_that_was_lowered_shrinks_the_file(conflicts, path):
    store = conflicts(8 * MIB)
    for number in range(70):
        store.keep(loser(number, bytes(100_000)))
    store.close()
    assert path.stat().st_size > 6 * MIB
    conflicts(MIB).close()
    assert path.stat().st_size <= MIB
    assert numbers(path)[-1] == 69


def test_what_is_larger_than_the_bound_is_kept_as_digest_only(conflicts, path):
    store = conflicts()
    store.keep(loser(0))
    with capture_logs() as logs:
        store.keep(loser(1, bytes(MIB)))
        store.keep(loser(2, HashState({b"%d" % n: bytes(1000) for n in range(1100)})))
        store.keep(loser(3, bytes(900_000)))
    store.close()
    assert store.digests_only == 2
    (said,) = logs  # the first; the others are counted
    assert (said["event"], said["key"], said["bytes"]) == ("conflicts.digest_only", "site1:1", MIB)
    with KeptConflicts(path) as file:
        entries = list(file.entries())
        assert [(each.kind, each.size, each.has_value) for each in entries][-3:] == [
            ("string", MIB, False),
            ("hash", sum(len(b"%d" % n) + 1000 for n in range(1100)), False),
            ("string", 900_000, True),
        ]
        assert [file.state(each) for each in entries[-3:-1]] == [None, None]
        assert entries[-3].site_digest == "0000000000000001"
    assert path.stat().st_size <= MIB


def test_a_key_that_is_larger_than_the_bound_is_dropped(conflicts, path):
    store = conflicts()
    store.keep(loser(1))
    store.keep(loser(2, key=bytes(2 * MIB)))
    store.close()
    assert numbers(path) == [1]
    assert store.dropped == 1
    assert path.stat().st_size <= MIB


def test_what_is_too_old_goes(conflicts, path, clock):
    store = conflicts(max_days=2.0)
    store.keep(loser(1, at=NOW))
    store.keep(loser(2, at=NOW + DAY))
    store.flush()
    clock.now = NOW + 2 * DAY + 1
    store.flush()
    assert numbers(path) == [2]
    clock.now = NOW + 3 * DAY + 1
    conflicts(max_days=2.0)  # at a start too
    assert numbers(path) == []


def test_a_clock_that_is_set_back_changes_nothing(conflicts, path, clock):
    store = conflicts(max_days=2.0)
    store.keep(loser(1))
    clock.now = NOW - 1000 * DAY
    store.flush()
    assert numbers(path) == [1]


# Disks.


@pytest.mark.parametrize("may_mount", [True, False])
def test_a_full_disk_is_said_once_and_survived(may_mount):
    """In a process of its own, since without a disk of our own it is one whose files may not grow."""
    script = (
        "import sys; from pathlib import Path; from redisrepl.changes import StringState\n"
        "from redisrepl.store.conflicts import Conflicts, Loser\n"
        "said, now = [], [0.0]\n"
        "c = Conflicts(Path(sys.argv[1]), 1 << 20, 30.0, lambda: now[0], on_failed=said.append)\n"
        "for line in sys.stdin:\n"
        "    now[0] += 10\n"
        "    c.keep(Loser(b'site1:' + line.strip().encode(), now[0], 'hub', 'r', 1, 2, StringState(bytes(10_000))))\n"
        "    c.flush()\n"
        "    print([c.failed, c.kept, said], flush=True)\n"
        "c.close()\n"
    )
    with SmallDisk(may_mount=may_mount) as disk:
        path = disk.path / "x.conflicts"
        command = [sys.executable, "-c", script, path]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:

            def keep(number):
                process.stdin.write(b"%d\n" % number)
                process.stdin.flush()
                return ast.literal_eval(process.stdout.readline().decode())

            assert keep(0) == [None, 1, []]
            disk.fill([process.pid])
            answers = [keep(number) for number in range(1, 21)]
            failed, count, said = answers[-1]
            assert said == [failed]
            assert failed.startswith(f"{path}: ")
            assert failed.endswith(": values that lose a conflict cannot be kept: make it writable")
            assert count < 21
            disk.free()
            assert keep(21) == [None, 22, said]
            process.stdin.close()
            assert process.wait(20) == 0
        assert numbers(path) == list(range(22))


def test_a_disk_that_fails_is_not_tried_for_each_loser(conflicts, path, clock, said, monkeypatch):
    path.mkdir()
    store = conflicts(64 * MIB)
    attempts = []
    attempt = store._attempt
    monkeypatch.setattr(store, "_attempt", lambda: attempts.append(clock.now) or attempt())
    for number in range(100):
        store.keep(loser(number, bytes(100_000)))
        store.flush()
    assert attempts == []
    assert len(said) == 1
    assert 50 < store.dropped < 70  # about 4 MB wait
    clock.now += 6
    store.flush()
    clock.now -= 1000  # set back
    store.flush()
    assert len(attempts) == 2
    path.rmdir()
    store.close()  # tries once more
    assert numbers(path)[-1] == 99
    assert len(numbers(path)) == 100 - store.dropped


def test_it_is_said_again_when_it_fails_again(conflicts, path, clock, said):
    path.mkdir()
    store = conflicts()
    path.rmdir()
    clock.now += 6
    store.flush()
    assert store.failed is None
    path.unlink()
    path.mkdir()
    store.keep(loser(1))
    store.flush()
    assert store.failed is not None
    assert len(said) == 2


def test_a_directory_that_is_not_there(conflicts, tmp_path, said):
    store = conflicts(where=tmp_path / "none" / "x.conflicts")
    store.keep(loser(1))
    store.close()
    (sentence,) = said
    assert "x.conflicts: no such file or directory: " in sentence


def test_a_link_is_not_followed(conflicts, path, tmp_path, said):
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    path.symlink_to(victim)
    store = conflicts()
    store.keep(loser(1))
    store.close()
    assert victim.read_bytes() == b""
    assert "it is a symbolic link" in said[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_read_only(conflicts, path, said):
    path.parent.chmod(0o500)
    store = conflicts()
    store.keep(loser(1))
    store.flush()
    path.parent.chmod(0o700)
    assert "permission denied" in said[0]


def test_a_write_that_fails_half_way_is_made_again_as_a_whole(conflicts, path, clock, monkeypatch):
    store = conflicts()
    store.keep(loser(1))
    with monkeypatch.context() as patch:
        patch.setattr(module, "INSERT", "INSERT INTO none VALUES (1)")
        store.flush()
    assert store.failed is not None
    clock.now += 6
    store.keep(loser(2))
    store.flush()
    assert store.failed is None
    assert numbers(path) == [1, 2]
    assert store.kept == 2


@pytest.mark.parametrize("how", ["removed", "replaced", "directory removed and made again"])
def test_a_file_that_goes_while_it_is_open(conflicts, path, how):
    store = conflicts()
    store.keep(loser(1))
    store.flush()
    match how:
        case "removed":
            path.unlink()
        case "replaced":
            path.unlink()
            path.write_bytes(b"")
        case _:
            shutil.rmtree(path.parent)
            path.parent.mkdir()
    store.keep(loser(2))
    store.flush()
    assert store.failed is None
    assert numbers(path) == [2]


# Damage.


@pytest.mark.parametrize("content", [b"no database" * 1000, b"SQLite format 3\x00" + bytes(5000)])
def test_a_damaged_file_is_set_aside_and_named(conflicts, path, content):
    path.write_bytes(content)
    with capture_logs() as logs:
        store = conflicts()
    store.keep(loser(1))
    store.flush()
    assert store.failed is None
    assert numbers(path) == [1]
    (aside,) = asides(path)
    assert aside.read_bytes() == content
    (said,) = logs
    assert (said["event"], said["file"], said["kept_as"]) == ("conflicts.set_aside", str(path), str(aside))
    assert said["reason"]


def test_the_journal_of_a_damaged_file_goes_with_it(conflicts, path):
    """SQLite removes it, or leaves it where it can make nothing of it."""
    store = conflicts()
    store.close()
    journal, index = path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")
    journal.write_bytes(b"journal")
    index.write_bytes(b"index")
    store._set_aside(UnusableError("it is damaged"))
    (aside,) = asides(path)
    assert aside.with_name(aside.name + "-wal").read_bytes() == b"journal"
    assert not journal.exists()
    assert not index.exists()


def test_a_file_of_another_version_is_set_aside(conflicts, path):
    conflicts().close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()
    with capture_logs() as logs:
        conflicts()
    assert logs[0]["reason"] == "its format is 2, not 1"


def test_damage_that_shows_later_loses_nothing_that_waits(conflicts, path):
    store = conflicts()
    for number in range(2000):
        store.keep(loser(number, bytes(100)))
    store.close()
    whole = path.read_bytes()
    for at in range(4096 * 3, len(whole), 4096):
        whole = whole[:at] + b"\xff" * 100 + whole[at + 100 :]
    path.write_bytes(whole)
    with capture_logs() as logs:
        store = conflicts()
        for number in range(2000, 2010):
            store.keep(loser(number))
            store.flush()
    assert [said["event"] for said in logs] == ["conflicts.set_aside"]
    assert store.failed is None
    assert numbers(path) == list(range(2000, 2010))


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_never_raises(conflicts, path, seed):
    chance = random.Random(seed)
    store = conflicts()
    for number in range(300):
        store.keep(loser(number, bytes(200)))
    store.close()
    whole = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 10, 1000])):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    path.write_bytes(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
    store = conflicts()
    for number in range(1000, 1300):
        store.keep(loser(number, bytes(chance.choice([10, 10_000]))))
        if number % 50 == 0:
            store.flush()
    store.close()
    assert store.failed is None
