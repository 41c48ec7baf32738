"""A state directory that is lost, or ends in the middle of a byte more or less, or is full, costs no data."""

import itertools
import random
import shutil

import pytest

from testbed import SmallDisk, eventually
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


@pytest.mark.parametrize("source", ["psync", "notify"])
def test_what_was_written_while_the_disk_was_full_can_be_removed(daemons, site, hub, at_site, at_hub, source):
    """By clients of the hub, at once, after the disk has room again, or before the next daemon has started."""
    with SmallDisk() as disk:
        flags = (*REMOVALS, "--sweep-period", "1", "--state-dir", disk.path / "state")
        pair = Pair(daemons, site, hub, *flags, source=source)
        held = some("before", 40, "v")
        pair.fill(held)
        disk.fill([pair.daemon.pid])
        numbers = itertools.count()  # until the last page of the journal is full, too
        eventually(lambda: at_site.set("site1:filler", next(numbers)) and pair.daemon.logged("store.failed"))
        at_site.delete("site1:filler")
        for client, name in ((at_site, "of the site"), (at_hub, "of the hub")):
            here = some(name, 40, "v") | {
                b"site1:hash %s" % name.encode(): dict.fromkeys((b"1", b"2", b"3", b"4"), b"v")
            }
            write(client, here)
            held |= here
        pair.expect(held)

        def remove(first, field):
            for kind in ("before", "of the site", "of the hub"):
                gone = list(some(kind, 40, "v"))[first : first + 10]
                at_hub.delete(*gone)
                for key in gone:
                    del held[key]
            for name in (b"of the site", b"of the hub"):
                at_hub.hdel(b"site1:hash " + name, field)
                del held[b"site1:hash " + name][field]

        remove(0, b"1")
        pair.expect(held)
        mark = pair.daemon.mark()
        disk.free()
        pair.daemon.wait_for_log("store.recovered", 15, after=mark)
        remove(10, b"2")
        for _ in range(2):
            mark = pair.daemon.mark()
            pair.daemon.wait_for_log("sweep.finished", 15, after=mark)
        pair.expect(held)
        pair.end("kill")
        remove(20, b"3")
        pair.start_again()
        pair.expect(held)


@pytest.mark.parametrize("source", ["psync", "notify"])
def test_an_older_copy_of_the_state_directory_decides_nothing(daemons, site, hub, at_site, at_hub, tmp_path, source):
    """By it, what was removed since on both sides and then written again on one has been removed on the other."""
    state, copy = tmp_path / "state", tmp_path / "copy"
    pair = Pair(daemons, site, hub, *REMOVALS, "--state-dir", state, source=source)
    kept, removed = some("untouched", 40, "v"), some("removed", 40, "v")
    pair.fill(kept | removed)
    pair.end("stop")
    shutil.copytree(state, copy)

    def is_marked():
        """With a number of the second daemon: those of two processes are far apart."""
        [mark] = at_site.keys("redisrepl:mark:*")
        return int(at_site.get(mark).split()[3]) > 1 << 24

    pair.start_again()
    at_hub.delete(*removed)
    pair.expect(kept)
    numbers = itertools.count()
    eventually(lambda: at_site.set("site1:number", next(numbers)) and is_marked(), 20, "the site is marked")
    pair.end("stop")
    shutil.rmtree(state)
    shutil.copytree(copy, state)
    at_site.delete("site1:number")
    keys = list(removed)
    write(at_site, {key: removed[key] for key in keys[:20]})
    write(at_hub, {key: removed[key] for key in keys[20:]})
    pair.start_again()
    pair.daemon.wait_for_log("store.older")
    pair.level()
    at_hub.delete("site1:number")
    pair.expect(kept | removed)
