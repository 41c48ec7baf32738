"""The file of kept losers: what comes out of it is what went in, and a file that is none is refused."""

import contextlib
import os
import sqlite3
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redisrepl.changes import HashState, SequenceState, StringState
from redisrepl.store import kept as module
from redisrepl.store.kept import KeptConflicts
from redisrepl.store.losers import (
    INSERT,
    Loser,
    claim,
    encode_value,
    open_for_writing,
    row_of,
)
from redisrepl.store.unusable import UnusableError
from tests.samples import ALL_BYTES, AWKWARD_NAMES

PLACE = ("redis://127.0.0.1:6379", 3)


def loser(state, key=b"site1:a", **changed):
    return Loser(**{
        "key": key, "at": 1_790_000_000.25, "winner": "hub", "reason": "both changed it", "site_digest": 1,
        "hub_digest": None, "loser": state, **changed,
    })  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "0123456789abcdef.conflicts"


def write(path, *kept, place=PLACE):
    db = open_for_writing(path, claim(path), place)
    for one in kept:
        db.execute(INSERT, row_of(one)._replace(value=encode_value(one.loser)))
    db.close()


def read(path, key=None):
    with KeptConflicts(path) as file:
        return [(kept, file.state(kept)) for kept in file.entries(key)]


@pytest.mark.parametrize(
    ("state", "kind", "fields", "size"),
    [
        (StringState(b""), "string", 0, 0),
        (StringState(ALL_BYTES, 1_790_000_000_123), "string", 0, 256),
        (HashState({}), "hash", 0, 0),
        (HashState({b"": b"", b"a": b"", b"\x00\xff": ALL_BYTES}, 5), "hash", 3, 259),
        (HashState({b"": b"", b"\x00\xff": b""}, None, "set"), "set", 2, 2),
        (HashState({b"a": b"-inf", b"b": b"0.10000000000000001"}, 5, "zset"), "zset", 2, 25),
        (SequenceState((b"", b"a", b"a", ALL_BYTES), 5), "list", 4, 258),
        (None, "none", 0, 0),
        ("stream", "stream", 0, 0),
    ],
)
def test_there_and_back(path, state, kind, fields, size):
    write(path, loser(state))
    ((kept, found),) = read(path)
    assert (kept.kind, kept.fields, kept.size) == (kind, fields, size)
    assert kept.has_value is (state is not None and not isinstance(state, str))
    assert found == (state if kept.has_value else None)
    assert kept.expires_at_ms == getattr(state, "expires_at_ms", None)
    assert kept[:7] == (1, 1_790_000_000.25, b"site1:a", "hub", "both changed it", "0000000000000001", None)


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=20), max_size=5))
def test_every_hash_comes_back(fields):
    value = encode_value(HashState(fields))
    assert dict(module._decode_fields(value)) == fields
    for cut in range(1, len(value)):
        with contextlib.suppress(UnusableError):
            assert dict(module._decode_fields(value[:cut])).items() < fields.items()


@pytest.mark.parametrize("digest", [0, 1, -1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)])
def test_digests_of_any_sign_and_size(path, digest):
    write(path, loser(None, site_digest=digest, hub_digest=digest))
    ((kept, _),) = read(path)
    assert int(kept.site_digest, 16) == int(kept.hub_digest, 16) == digest


@pytest.mark.parametrize("expires_at_ms", [1 << 63, 10**30, -(10**30)])
def test_what_sqlite_cannot_hold_is_kept_as_well_as_it_can(path, expires_at_ms):
    write(path, loser(StringState(b"v", expires_at_ms), reason="a\udcff"))
    ((kept, state),) = read(path)
    assert state.value == b"v"
    assert abs(kept.expires_at_ms) == (1 << 63) - 1
    assert kept.reason == "a\\udcff"


def test_one_key_or_all_oldest_first(path):
    names = [b"site1:" + name for name in AWKWARD_NAMES]
    write(path, *(loser(StringState(b"%d" % number), key) for number in range(150) for key in names))
    assert [kept.number for kept, _ in read(path)] == list(range(1, 150 * len(names) + 1))  # in more than one chunk
    for key in names:
        assert [state.value for _, state in read(path, key)] == [b"%d" % number for number in range(150)]
    assert read(path, b"site1:none") == []


def test_whose_losers_they_are(path):
    write(path)
    with KeptConflicts(path) as file:
        assert (file.site, file.database) == PLACE
    write(path, place=("unix:///x", 0))
    with KeptConflicts(path) as file:
        assert (file.site, file.database) == ("unix:///x", 0)


def test_a_file_in_which_nothing_was_written_yet(path):
    claim(path)
    with KeptConflicts(path) as file:
        assert (file.site, list(file.entries())) == ("", [])


# Whose the file is.


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_nobody_else_may_read_it(path, mask):
    before = os.umask(mask)
    try:
        db = open_for_writing(path, claim(path), PLACE)
        db.execute(INSERT, row_of(loser(None)))
    finally:
        os.umask(before)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    db.close()
    assert modes == dict.fromkeys((path.name, f"{path.name}-wal", f"{path.name}-shm"), 0o600)


def test_a_file_that_others_could_read_is_closed_to_them(path):
    write(path)
    path.chmod(0o644)
    claim(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_file_of_another_user_is_not_written(path):
    """Who has it open would read every value that loses."""
    path.write_bytes(b"")
    os.chown(path, 4242, 4242)
    with pytest.raises(OSError, match=r"another user \(uid 4242\)"):
        claim(path)


def test_a_link_is_not_followed(path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"")
    path.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        claim(path)
    with pytest.raises(UnusableError, match="not a regular file"):
        KeptConflicts(path)
    assert victim.read_bytes() == b""


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
def test_a_link_in_place_of_a_journal_is_not_followed(path, tmp_path, ending):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    write(path)
    path.with_name(path.name + ending).symlink_to(victim)
    with pytest.raises(sqlite3.Error):
        write(path, loser(None))
    assert victim.read_bytes() == b"mine"


def test_what_is_no_file(path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        claim(path)
    with pytest.raises(UnusableError, match="not a regular file"):
        KeptConflicts(path)


def test_another_file_than_the_one_that_was_claimed(path, tmp_path):
    file = claim(path)
    path.rename(tmp_path / "other")
    claim(path)
    with pytest.raises(OSError, match="another file instead"):
        open_for_writing(path, file, PLACE)


# What is in it.


def test_a_file_of_another_program(path):
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE losers (number)")
    db.close()
    with pytest.raises(UnusableError, match="belongs to another program"):
        write(path)
    with pytest.raises(UnusableError, match="belongs to another program"):
        KeptConflicts(path)


def test_a_file_of_another_version(path):
    write(path)
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(UnusableError, match="its format is 2, not 1"):
        KeptConflicts(path)


def test_a_file_that_is_no_database(path):
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(UnusableError, match="not a database"):
        KeptConflicts(path)


def test_a_place_that_is_missing(path):
    write(path)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("DELETE FROM place")
    db.close()
    with pytest.raises(UnusableError, match="whose losers"):
        KeptConflicts(path)


@pytest.mark.parametrize("column", ["at", "key", "winner", "kind", "size", "expires_at_ms", "hub_digest"])
def test_a_row_of_other_types(path, column):
    write(path, loser(StringState(b"v")))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(f"UPDATE losers SET {column} = ?", ("x" if column in {"at", "key", "size", "expires_at_ms"} else b"x",))
    db.close()
    with pytest.raises(UnusableError, match="never written"):
        read(path)


def test_random_damage_is_refused_or_harmless(path):
    """Any byte may have changed: what comes out is a loser or an `UnusableError`, nothing else."""
    write(path, *(loser(HashState({b"f%d" % n: bytes(100) for n in range(10)})) for _ in range(20)))
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read(path)
        except UnusableError:
            refused += 1
    assert refused
