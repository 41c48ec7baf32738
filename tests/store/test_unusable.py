"""Files that cannot be used make way, and do not fill the disk."""

from __future__ import annotations

import pytest

from redisrepl.store import unusable
from redisrepl.store.unusable import set_aside


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.db"


def test_the_newest_are_kept(path):
    neighbour = path.with_name("state.db.set-aside-by-hand")
    neighbour.touch()
    asides = []
    for number in range(unusable._KEPT + 2):
        path.write_bytes(b"%d" % number)
        path.with_name("state.db-wal").write_bytes(b"log of %d" % number)
        asides.append(set_aside(path))
    kept = asides[-unusable._KEPT :]
    assert {each.name for each in path.parent.iterdir()} == {
        neighbour.name,
        *(each.name for each in kept),
        *(f"{each.name}-wal" for each in kept),
    }
    for number, aside in enumerate(asides):
        if aside in kept:
            assert aside.read_bytes() == b"%d" % number
            assert aside.with_name(f"{aside.name}-wal").read_bytes() == b"log of %d" % number


def test_files_that_cannot_be_removed_stop_nothing(path):
    for number in range(unusable._KEPT):
        path.with_name(f"state.db.set-aside-{number}").mkdir()
    path.write_bytes(b"unusable")
    aside = set_aside(path)
    assert aside.read_bytes() == b"unusable"
    assert not path.exists()
