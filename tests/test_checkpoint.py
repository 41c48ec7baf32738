"""The saved position survives what a disk, an operator or a crash does to it, or is not used at all."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from redisrepl import checkpoint as module
from redisrepl.changes import Position
from redisrepl.checkpoint import (
    Checkpoint,
    Pair,
    SavedPosition,
    StateDirectoryError,
    default_directory,
    open_checkpoint,
)
from redisrepl.errors import ConfigError, ExitCode, exit_code
from tests.samples import REPLID

PAIR = Pair("127.0.0.1:6379", "https://hub.example/redis/", '{"database": 0, "namespaces": ["73697465313a"]}')
SAVED = SavedPosition(Position(REPLID, 1234567890123), 3, "0123456789abcdef")
LATER = SavedPosition(Position(REPLID, 1234567890999), 0, "0123456789abcdef")


@pytest.fixture
def open_pair(tmp_path):
    """Open a checkpoint here; all are closed with the test."""
    opened = []

    def open_pair(pair=PAIR, directory=tmp_path, **options):
        opened.append(Checkpoint(directory, pair, **options))
        return opened[-1]

    yield open_pair
    for checkpoint in opened:
        checkpoint.close()


def reopened(checkpoint, pair=PAIR):
    """What another process would find."""
    checkpoint.close()
    with_lock = Checkpoint(checkpoint.path.parent, pair)
    try:
        return with_lock.load()
    finally:
        with_lock.close()


def aside(directory):
    return [path for path in directory.iterdir() if "set-aside" in path.name]


# There and back.


def test_nothing_is_saved_at_first(open_pair, tmp_path):
    with capture_logs() as logs:
        assert open_pair().load() is None
    assert logs == []
    assert aside(tmp_path) == []


def test_what_was_saved_is_loaded(open_pair):
    checkpoint = open_pair()
    checkpoint.save(SAVED)
    assert checkpoint.load() == SAVED
    assert reopened(checkpoint) == SAVED


@pytest.mark.parametrize(
    "saved",
    [
        SavedPosition(Position("0" * 40, 0), 0, ""),
        SavedPosition(Position("F" * 40, 2**63 - 1), 15, "a"),
        SavedPosition(Position(REPLID, 1), 0, 'é\n"\\'),
    ],
)
def test_the_extremes(open_pair, saved):
    checkpoint = open_pair()
    checkpoint.save(saved)
    assert reopened(checkpoint) == saved


def test_each_save_replaces_the_one_before(open_pair, tmp_path):
    checkpoint = open_pair()
    for number in range(50):
        checkpoint.save(SavedPosition(Position(REPLID, number), 0, "origin"))
    assert checkpoint.load().position.offset == 49
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".lock"}


def test_the_same_position_is_not_written_twice(open_pair):
    checkpoint = open_pair()
    checkpoint.save(SAVED)
    before = checkpoint.path.stat()
    checkpoint.save(SAVED)
    assert checkpoint.path.stat().st_ino == before.st_ino
    checkpoint.save(LATER)
    assert checkpoint.path.stat().st_ino != before.st_ino


def test_the_directory_is_made(open_pair, tmp_path):
    checkpoint = open_pair(directory=tmp_path / "a" / "b")
    checkpoint.save(SAVED)
    assert reopened(checkpoint) == SAVED


def test_what_is_forgotten_is_gone(open_pair):
    checkpoint = open_pair()
    checkpoint.forget()
    checkpoint.save(SAVED)
    checkpoint.forget()
    assert checkpoint.load() is None
    checkpoint.save(SAVED)  # the same again: written, although it was the last that was
    assert reopened(checkpoint) == SAVED


def test_the_disk_is_forced_at_most_once_in_a_period(open_pair, monkeypatch):
    forced, now = [], [100.0]
    monkeypatch.setattr(module.os, "fsync", forced.append)
    checkpoint = open_pair(sync_period=1.0, clock=lambda: now[0])
    for number, seconds in enumerate([0.0, 0.2, 0.9, 0.1, 0.5, 5.0]):
        now[0] += seconds
        checkpoint.save(SavedPosition(Position(REPLID, number), 0, ""))
    assert len(forced) == 3  # at once, then after 1.1 and 5.5 seconds


# A write that fails.


def test_a_write_that_fails_midway_leaves_the_old_file(open_pair, monkeypatch):
    checkpoint = open_pair()
    checkpoint.save(SAVED)

    def full(content, file, **_):
        file.write(json.dumps(content)[:20])
        file.flush()
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module.json, "dump", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(LATER)
    assert checkpoint.load() == SAVED
    monkeypatch.undo()
    checkpoint.save(LATER)  # tried again: what failed does not count as saved
    assert reopened(checkpoint) == LATER


@pytest.mark.parametrize("what", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_last_step_leaves_the_old_file(open_pair, monkeypatch, what):
    checkpoint = open_pair(sync_period=0.0)
    checkpoint.save(SAVED)

    def broken(*_):
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(*((module.os, "fsync") if what == "fsync" else (Path, "replace")), broken)
    with pytest.raises(OSError, match="Input/output"):
        checkpoint.save(LATER)
    monkeypatch.undo()
    assert checkpoint.load() == SAVED
    checkpoint.save(LATER)
    assert reopened(checkpoint) == LATER


def test_a_directory_that_went_away_is_an_error_of_the_system(open_pair, tmp_path):
    checkpoint = open_pair(directory=tmp_path / "gone")
    for path in (tmp_path / "gone").iterdir():
        path.unlink()
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError):
        checkpoint.save(SAVED)
    assert checkpoint.load() is None
    checkpoint.forget()


def test_a_half_written_file_beside_it_does_not_matter(open_pair):
    checkpoint = open_pair()
    checkpoint.save(SAVED)
    checkpoint.path.with_suffix(".new").write_text('{"format"')
    assert checkpoint.load() == SAVED
    checkpoint.save(LATER)
    assert reopened(checkpoint) == LATER


# A file that cannot be trusted.


def assert_set_aside(checkpoint, content, reason):
    """It is not used, the log names it, and it is kept as it was."""
    directory = checkpoint.path.parent
    before = set(aside(directory))
    checkpoint.path.write_bytes(content)
    with capture_logs() as logs:
        assert checkpoint.load() is None
    (record,) = logs
    assert record["event"] == "checkpoint.set_aside"
    assert record["log_level"] == "warning"
    assert record["file"] == str(checkpoint.path)
    assert reason in record["reason"]
    assert not checkpoint.path.exists()
    (kept,) = set(aside(directory)) - before
    assert record["kept_as"] == str(kept)
    assert kept.read_bytes() == content
    kept.unlink()
    checkpoint._saved = None
    checkpoint.save(SAVED)
    assert checkpoint.load() == SAVED


def test_a_file_cut_off_at_any_byte(open_pair):
    checkpoint = open_pair()
    checkpoint.save(SAVED)
    whole = checkpoint.path.read_bytes()
    for length in range(len(whole)):
        assert_set_aside(checkpoint, whole[:length], "damaged")


def test_a_file_with_a_damaged_byte_is_as_it_was_or_not_used(open_pair):
    """Also where a digit of the offset became another one."""
    checkpoint = open_pair()
    checkpoint.save(SAVED)
    whole = checkpoint.path.read_bytes()
    chance = random.Random(5)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        checkpoint.path.write_bytes(damaged)
        with capture_logs():
            assert checkpoint.load() in {None, SAVED}


@pytest.mark.parametrize("member", ["offset", "database"])
def test_a_flipped_digit_is_noticed(open_pair, member):
    checkpoint = open_pair()
    checkpoint.save(SAVED)
    content = json.loads(checkpoint.path.read_bytes())
    content[member] ^= 1
    assert_set_aside(checkpoint, json.dumps(content).encode(), "its checksum does not fit")


@pytest.mark.parametrize("checksum", ["", "0" * 16, None, 7, []])
def test_another_checksum(open_pair, checksum):
    checkpoint = open_pair()
    checkpoint.save(SAVED)
    content = json.loads(checkpoint.path.read_bytes()) | {"checksum": checksum}
    assert_set_aside(checkpoint, json.dumps(content).encode(), "its checksum does not fit")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 300,
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        b'{"format": 2}',
        b"[" * 100_000,
        b'{"format": 2, "offset": ' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_no_checkpoint_at_all(open_pair, content):
    assert_set_aside(open_pair(), content, "damaged")


def changed(checkpoint, **members):
    checkpoint.save(SAVED)
    content = json.loads(checkpoint.path.read_bytes()) | members
    content = {name: value for name, value in content.items() if value is not ...}
    if content.pop("checksum", None) is not None:
        content["checksum"] = module._checksum(content)
    return json.dumps(content).encode()


@pytest.mark.parametrize("number", [0, 1, 99, "2", None])
def test_another_format(open_pair, number):
    checkpoint = open_pair()
    assert_set_aside(checkpoint, changed(checkpoint, format=number), f"its format is {number}, not 2")


@pytest.mark.parametrize("member", ["site", "hub", "scope"])
def test_a_file_of_another_pair(open_pair, member):
    checkpoint = open_pair()
    assert_set_aside(checkpoint, changed(checkpoint, **{member: "other"}), "other addresses, namespaces or kinds")


@pytest.mark.parametrize(
    "members",
    [
        {"replid": "short"},
        {"replid": REPLID + "0"},
        {"replid": "g" * 40},
        {"replid": REPLID + "\n"},
        {"offset": -1},
        {"offset": "12"},
        {"offset": 1.5},
        {"offset": None},
        {"database": "0"},
        {"database": None},
        {"origin": 7},
        {"origin": None},
    ],
)
def test_a_file_that_holds_no_position(open_pair, members):
    checkpoint = open_pair()
    assert_set_aside(checkpoint, changed(checkpoint, **members), "it holds no position")


@pytest.mark.parametrize(
    "name", ["checksum", "format", "site", "hub", "scope", "replid", "offset", "database", "origin"]
)
def test_a_file_that_lacks_something(open_pair, name):
    checkpoint = open_pair()
    assert_set_aside(checkpoint, changed(checkpoint, **{name: ...}), "damaged")


def test_other_namespaces_of_the_same_pair_begin_anew(open_pair, tmp_path):
    checkpoint = open_pair()
    checkpoint.save(SAVED)
    checkpoint.close()
    other = Pair(PAIR.site, PAIR.hub, "other")
    assert other.stem == PAIR.stem
    with capture_logs() as logs:
        assert reopened(checkpoint, other) is None
    assert logs[0]["reason"].startswith("it was written for other")
    assert len(aside(tmp_path)) == 1


def test_a_directory_in_its_place(open_pair):
    checkpoint = open_pair()
    checkpoint.path.mkdir()
    with capture_logs() as logs:
        assert checkpoint.load() is None
    assert logs[0]["reason"] == "is a directory"
    checkpoint.save(SAVED)
    assert checkpoint.load() == SAVED


# Two daemons.


def test_a_second_one_on_the_same_pair_is_refused(open_pair, tmp_path):
    first = open_pair()
    first.save(SAVED)
    with pytest.raises(ConfigError) as caught:
        open_pair()
    text = str(caught.value)
    assert not isinstance(caught.value, StateDirectoryError)
    assert exit_code(caught.value) == ExitCode.CONFIG
    for part in (f"--state-dir {tmp_path}", PAIR.site, PAIR.hub, "stop it, or give"):
        assert part in text
    assert "\n" not in text
    first.close()
    assert open_pair().load() == SAVED


def test_the_lock_of_another_process_counts_until_it_is_killed(open_pair, tmp_path):
    script = (
        "import sys; from pathlib import Path; from redisrepl.checkpoint import Checkpoint, Pair\n"
        "kept = Checkpoint(Path(sys.argv[1]), Pair(*sys.argv[2:]))\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", script, str(tmp_path), PAIR.site, PAIR.hub, PAIR.scope]
    here = Path(__file__).parents[1]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=here) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ConfigError, match="another redisrepl replicates"):
            open_pair()
        other.kill()
    open_pair()


def test_other_pairs_share_a_directory(open_pair):
    pairs = [PAIR, Pair("127.0.0.1:6380", PAIR.hub, PAIR.scope), Pair(PAIR.site, "https://other/", PAIR.scope)]
    checkpoints = [open_pair(pair) for pair in pairs]
    for number, checkpoint in enumerate(checkpoints):
        checkpoint.save(SavedPosition(Position(REPLID, number), 0, ""))
    for number, (checkpoint, pair) in enumerate(zip(checkpoints, pairs, strict=True)):
        assert reopened(checkpoint, pair).position.offset == number


# Where it lies.


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"STATE_DIRECTORY": "/var/lib/redisrepl"}, "/var/lib/redisrepl"),
        ({"STATE_DIRECTORY": "/var/lib/one:/var/lib/two", "XDG_STATE_HOME": "/x"}, "/var/lib/one"),
        ({"XDG_STATE_HOME": "/home/me/state"}, "/home/me/state/redisrepl"),
        ({}, "/home/me/.local/state/redisrepl"),
        ({"STATE_DIRECTORY": "", "XDG_STATE_HOME": ""}, "/home/me/.local/state/redisrepl"),
    ],
)
def test_the_default_directory(monkeypatch, environment, directory):
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_directory() == Path(directory)


def test_the_default_directory_is_used_if_none_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "default"))
    default, named = open_checkpoint(None, PAIR), open_checkpoint(tmp_path / "named", PAIR)
    assert default.path.parent == tmp_path / "default"
    assert named.path.parent == tmp_path / "named"
    default.close()
    named.close()


def test_a_default_directory_that_cannot_be_used_is_a_warning(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "file"))
    with capture_logs() as logs:
        assert open_checkpoint(None, PAIR) is None
    (record,) = logs
    assert (record["event"], record["log_level"]) == ("checkpoint.none", "warning")
    assert str(tmp_path / "file") in record["error"]
    assert "--state-dir" in record["hint"]


@pytest.mark.parametrize("below", ["", "sub"])
def test_a_named_directory_that_cannot_be_used_is_an_error(tmp_path, below):
    (tmp_path / "file").touch()
    directory = tmp_path / "file" / below
    with pytest.raises(StateDirectoryError) as caught:
        open_checkpoint(directory, PAIR)
    assert str(caught.value).startswith(f"--state-dir {directory}: ")
    assert "give a directory that this user may write" in str(caught.value)
    assert exit_code(caught.value) == ExitCode.CONFIG


def test_a_second_daemon_in_the_default_directory_is_refused_too(monkeypatch, tmp_path):
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    first = open_checkpoint(None, PAIR)
    with pytest.raises(ConfigError, match="another redisrepl"):
        open_checkpoint(None, PAIR)
    first.close()
