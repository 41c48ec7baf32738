"""A state directory that is lost, or ends in the middle of a byte more or less, costs no data."""

import random
import shutil

import pytest

from testbed import eventually
from tests.e2e.pairs import REMOVALS, Pair, held, some, write


def lose(state):
    shutil.rmtree(state)


def cut(seed):
    """One file is cut at a random byte: the journal, if there is one, else that which was written last."""

    def damage(state):
        files = sorted(files_of(state), key=lambda path: ("journal" in path.name, path.stat().st_mtime))
        end_early(files[-1], random.Random(seed))

    return damage


def cut_all(state):
    rng = random.Random(4)
    for path in sorted(files_of(state)):
        end_early(path, rng)


def files_of(state):
    return [path for path in state.rglob("*") if path.is_file() and path.suffix != ".lock" and path.stat().st_size]


def end_early(path, rng):
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


DAMAGES = {"lost": lose, "cut 1": cut(1), "cut 2": cut(2), "all cut": cut_all}


@pytest.mark.parametrize(
    ("source", "damage"),
    [*(("psync", name) for name in DAMAGES), ("notify", "lost")],
)
def test_nothing_is_lost_with_what_was_remembered(daemons, site, hub, at_site, at_hub, tmp_path, source, damage):
    """What the site wrote before is in the stream still, and no newer than what others wrote over it since."""
    state = tmp_path / "state"
    pair = Pair(daemons, site, hub, *REMOVALS, "--state-dir", state, source=source)
    pair.fill(some("untouched", 100, "v"))
    for value in ("older", "old"):
        pair.fill(
            some("untouched", 100, "v"),
            some("changed at the site", 50, value),
            some("changed at the hub", 50, value),
            {b"site1:hash": {b"both": b"v", b"changed at the hub": value.encode()}},
        )
    eventually(lambda: source == "notify" or files_of(state), description="something was saved")
    pair.end("kill")
    write(at_site, some("changed at the site", 50, "new") | some("new at the site", 20, "v"))
    write(at_hub, some("changed at the hub", 50, "new") | some("new at the hub", 20, "v"))
    write(at_hub, {b"site1:hash": {b"changed at the hub": b"new", b"of the hub": b"v"}})
    at_site.hset("site1:hash", "of the site", "v")
    if source == "psync" or files_of(state):
        DAMAGES[damage](state)
    pair.start_again()
    pair.level()
    found = eventually(lambda: (one := held(at_site)) == held(at_hub) and one, description="both sides are equal")
    decided = some("changed at the site", 50, "")  # as by a conflict, of which nobody knows better
    assert {found.pop(key, None) for key in decided} <= {b"old", b"new"}
    expected = (
        some("untouched", 100, "v"),
        some("changed at the hub", 50, "new"),
        some("new at the site", 20, "v"),
        some("new at the hub", 20, "v"),
        {b"site1:hash": {b"both": b"v", b"changed at the hub": b"new", b"of the site": b"v", b"of the hub": b"v"}},
    )
    assert found == {key: value for part in expected for key, value in part.items()}
