"""The state directory: who may write it, and who made what is in it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from redisrepl.store import StateDirectoryError
from redisrepl.store.directory import StateDirectory
from tests.hostile.test_odd_files import made
from tests.store.stores import PAIR, new_store


async def test_a_directory_is_made_without_a_moment_in_which_others_may_write(tmp_path, monkeypatch):
    seen = []
    chmod = Path.chmod

    def looking(self, mode):
        seen.append(stat.S_IMODE(self.stat().st_mode))
        chmod(self, mode)

    monkeypatch.setattr(Path, "chmod", looking)
    before = os.umask(0)
    try:
        store = new_store(tmp_path / "a" / "b" / "state")
    finally:
        os.umask(before)
    await store.close()

    assert seen == [0o700]
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a", "a/b")] == [0o755, 0o755]


def somebody(monkeypatch, uid):
    """Have the daemon run as this user."""
    monkeypatch.setattr("redisrepl.store.directory.os.geteuid", lambda: uid)


def as_if_of(monkeypatch, owner):
    """Have every directory belong to this user."""
    stated = Path.stat

    def told(self, **options):
        found = stated(self, **options)
        fields = list(found)
        fields[stat.ST_UID] = owner
        return os.stat_result(fields) if stat.S_ISDIR(found.st_mode) else found

    monkeypatch.setattr(Path, "stat", told)


@pytest.mark.parametrize("mode", [0o770, 0o777, 0o1777])
def test_a_directory_of_another_user_that_others_may_write_is_refused(tmp_path, monkeypatch, mode):
    tmp_path.chmod(mode)
    as_if_of(monkeypatch, 4243)
    somebody(monkeypatch, 4242)
    with pytest.raises(
        StateDirectoryError, match=r"another user \(uid 4243\), and others may write it: chown 4242 it, or"
    ):
        new_store(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("owner", "us", "mode", "warns"),
    [
        (4242, 4242, 0o700, False),
        (4242, 4242, 0o755, False),  # systemd's StateDirectory, unless told otherwise
        (4242, 4242, 0o770, True),
        (4242, 4242, 0o777, True),
        (0, 4242, 0o2775, False),  # a volume in Kubernetes, by fsGroup
        (0, 4242, 0o1777, False),
        (0, 4242, 0o777, True),
        (0, 0, 0o755, False),
        (0, 0, 0o775, True),
        (4242, 0, 0o700, False),  # root looks at a daemon's
        (4242, 0, 0o777, True),
    ],
)
async def test_a_directory_that_others_may_write_is_warned_of_once(tmp_path, monkeypatch, owner, us, mode, warns):
    tmp_path.chmod(mode)
    as_if_of(monkeypatch, owner)
    somebody(monkeypatch, us)
    monkeypatch.setattr(
        "redisrepl.store.directory.os.fstat", lambda _: os.stat_result([stat.S_IFREG, 0, 0, 0, us, 0, 0, 0, 0, 0])
    )
    with capture_logs() as logs:
        directory = StateDirectory(tmp_path, PAIR)
        directory.file("lock").unlink()
        directory.acquire_again()
    directory.release()

    told = [line for line in logs if line["event"] == "store.open_to_others"]
    assert len(told) == warns
    assert not warns or told[0]["hint"].endswith(f"chmod 700 {tmp_path}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("ending", ["lock", "journal"])
def test_a_file_that_another_user_made_is_refused(tmp_path, ending):
    """Who made the lock may keep it open, and locked, for ever."""
    made = tmp_path / f"{PAIR.stem}.{ending}"
    made.touch(mode=0o666)
    os.chown(made, 4242, 4242)
    with pytest.raises(
        StateDirectoryError, match=rf"{ending} belongs to another user \(uid 4242\).* remove it, or give"
    ):
        new_store(tmp_path)

    os.chown(made, 0, 0)
    made.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_root_may_use_the_directory_of_a_daemon(tmp_path):
    state = tmp_path / "state"
    await new_store(state).close()
    for path in (state, *state.iterdir()):
        os.chown(path, 4242, 4242)
    store = new_store(state)
    await store.close()


@pytest.mark.parametrize("kind", ["fifo", "socket", "directory", "device"])
@pytest.mark.parametrize("ending", ["lock", "journal", "db"])
async def test_what_is_no_file_is_named(tmp_path, kind, ending):
    await new_store(tmp_path).close()
    path = tmp_path / f"{PAIR.stem}.{ending}"
    path.unlink()
    made(kind, path)
    with pytest.raises(StateDirectoryError, match=rf"{ending} is no regular file: remove it, or give a directory"):
        new_store(tmp_path)
