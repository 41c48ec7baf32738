"""Whatever a disk does, the store goes on, knows what it could not write, and writes it once it can."""

import errno
import os
import shutil
import sqlite3
from pathlib import Path
from unittest import mock

import pytest
from structlog.testing import capture_logs

from redisrepl.store import folding
from redisrepl.store import store as module
from testbed import SmallDisk
from tests.store.stores import Model, assert_like, disk_full, facts, name, new_store, strings


class Scene:
    """A store in a directory, its clock, and what it has said of its troubles."""

    def __init__(self, directory):
        self.directory = directory
        self.now = 100.0
        self.said = []
        self.open()

    def open(self):
        self.store = new_store(self.directory, clock=lambda: self.now, on_trouble=self.said.append)

    async def reopen(self):
        await self.store.close()
        self.open()

    def flush(self, seconds=0.0):
        """Some time later; the background has come to its end."""
        self.now += seconds
        self.store.flush()
        self.store._worker.submit(int).result()
        self.store.flush()

    async def digests(self, *keys):
        return {key: one.digest for key, one in (await self.store.lookup(keys)).items()}


@pytest.fixture
async def scene(tmp_path):
    scene = Scene(tmp_path / "state")
    yield scene
    await scene.store.close()


def refuse(monkeypatch, scene):
    monkeypatch.setattr(scene.store._journal, "append", disk_full)


# The journal cannot be written.


async def test_what_could_not_be_written_is_known(scene, monkeypatch):
    """And to the next process too, once it could be."""
    store = scene.store
    before = [("strings", [b"a", b"b", b"c"], [1, 1, 1]), ("hash", b"h", {name(1): 1, name(2): 1}, None)]
    store.agreed(facts(*before))
    store.sending(2, strings((b"c", 2)))
    store.sending(3, strings((b"b", 3)), to_site=True)
    await store.fold()
    scene.flush()
    refuse(monkeypatch, scene)
    store.agreed(facts(("string", b"a", 4, None), ("fields", b"h", {name(3): 1}, [name(1)]), ("gone", b"b")))
    store.sending(5, strings((b"d", 5)))
    store.acknowledged(2)
    store.save({"x": 1})
    scene.flush()

    assert store.failed == "no space left on device"
    assert scene.said == [store.failed]
    for step in ("full", "free", "next process"):
        if step == "free":
            monkeypatch.undo()
            scene.flush(4.9)
            assert store.failed
            scene.flush(0.2)
            assert scene.said == ["no space left on device", None]
        elif step == "next process":
            await scene.reopen()
            assert (scene.store.saved, scene.store.open_batches, scene.store.behind) == ({"x": 1}, [5], False)
        store = scene.store
        assert await scene.digests(b"a", b"b", b"c", b"d") == {b"a": 4, b"c": 2, b"d": None}
        found = await store.lookup([b"b", b"d"])
        assert {key: (one.intents, one.applied) for key, one in found.items()} == {b"d": ((5,), ())}
        assert await store.names(b"h") == {name(2), name(3)}
        since = await store.agreed_since(3, most=9)
        assert since == {b"a": {None: 4}, b"b": {None: 4}, b"h": {name(1): 4, name(3): 4}, b"d": {None: 5}}
        assert await store.unanswered("site", since, 4) == {(b"d", None): {5}}
        assert [seen.key for seen in await store.history(2, 9)][-1] == b"c"
        assert not store.take_forgot()


async def test_the_database_is_never_ahead_of_the_journal(scene, monkeypatch):
    """A process that is killed leaves what the file of the journal says, and a sign that there was more."""
    monkeypatch.setattr(folding, "_ENOUGH_KEYS", 1)
    scene.store.agreed(strings((b"a", 1)))
    await scene.store.fold()
    refuse(monkeypatch, scene)
    scene.store.agreed(strings((b"a", 2), (b"b", 2)))
    assert not await scene.store.fold()
    scene.flush(6.0)
    await scene.reopen()

    assert scene.store.behind
    assert await scene.digests(b"a", b"b") == {b"a": 1}


async def test_a_process_that_ends_while_nothing_can_be_written_leaves_a_sign(scene, monkeypatch):
    """Until both sides were compared; one that was able to write again leaves none."""
    scene.store.agreed(strings((b"a", 1)))
    scene.flush()
    for ends in (True, False):
        refuse(monkeypatch, scene)
        scene.store.agreed(strings((b"a", 2)))
        scene.flush()
        if not ends:
            monkeypatch.undo()
            scene.flush(5.0)
        await scene.reopen()
        monkeypatch.undo()
        assert scene.store.behind is ends
        await scene.reopen()
        assert scene.store.behind is ends
        scene.store.caught_up()
        await scene.reopen()
        assert not scene.store.behind


async def test_a_sign_that_cannot_be_removed_is_reported_and_ends_nothing(scene, monkeypatch):
    """The next process compares everything, though it need not."""
    refuse(monkeypatch, scene)
    scene.store.agreed(strings((b"a", 1)))
    scene.flush()
    monkeypatch.undo()
    monkeypatch.setattr(Path, "unlink", mock.Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    scene.flush(5.0)
    assert "permission denied" in scene.said
    scene.store.caught_up()
    monkeypatch.undo()
    await scene.reopen()
    assert scene.store.behind
    assert (await scene.store.lookup([b"a"]))[b"a"].digest == 1


async def test_what_ended_while_nothing_could_be_written(scene, monkeypatch):
    """Sent and acknowledged meanwhile: agreed on. Still on its way: an intent, also for the next process."""
    store = scene.store
    store.agreed(strings((b"a", 1), (b"b", 1), (b"c", 1)))
    store.sending(2, strings((b"c", 9)))
    scene.flush()
    refuse(monkeypatch, scene)
    store.sending(3, strings((b"a", 3)))
    store.sending(4, strings((b"b", 4)))
    store.sending(5, strings((b"e", 5)))
    store.acknowledged(3)
    store.dropped(5)
    store.dropped(2)
    monkeypatch.undo()
    scene.flush(5.0)
    await scene.reopen()

    assert scene.store.open_batches == [4]
    assert await scene.digests(b"a", b"b", b"c", b"e") == {b"a": 3, b"b": 1, b"c": 1}
    assert (await scene.store.lookup([b"b"]))[b"b"].intents == (4,)


async def test_what_is_on_the_disk_is_known_by_its_number(scene, monkeypatch):
    """By it, a later process tells that its files are an older copy."""
    store = scene.store
    store.agreed(strings((b"a", 1)))
    assert store.durable == 0
    scene.flush(1.0)
    assert store.durable == store.number == 1
    refuse(monkeypatch, scene)
    store.agreed(strings((b"a", 2)))
    scene.flush(1.0)
    assert store.durable == 1
    monkeypatch.undo()
    scene.flush(5.0)
    scene.flush(1.0)
    assert store.durable == 2
    await scene.reopen()
    assert scene.store.durable == 2


async def test_what_an_older_copy_of_the_files_tells_is_forgotten(scene):
    scene.store.agreed(strings((b"a", 1)))
    with capture_logs() as logs:
        await scene.store.forget(1000)
        assert scene.store.behind
        assert await scene.digests(b"a") == {}
    assert not scene.store.take_forgot()  # who had it forgotten knows
    assert logs == []
    assert scene.store.durable == 1000 < scene.store.next_number()


async def test_the_next_write_is_not_tried_between_attempts(scene, monkeypatch):
    """Else an earlier fact would be lost, and a later one kept."""
    store = scene.store
    store.agreed(strings((b"a", 1)))
    scene.flush()
    refuse(monkeypatch, scene)
    store.agreed(facts(("gone", b"a")))
    scene.flush()
    monkeypatch.undo()
    store.agreed(strings((b"b", 2)))
    scene.flush(1.0)
    assert store.failed
    await scene.reopen()  # tries once more

    assert await scene.digests(b"a", b"b") == {b"b": 2}


@pytest.mark.parametrize("refuses", ["the journal", "all"])
async def test_too_much_that_could_not_be_written_ends_all_agreement(scene, monkeypatch, refuses):
    """What is agreed on since is known, and what was sent without an answer; memory is bounded, and it is said once."""
    monkeypatch.setattr(folding, "_MOST_UNWRITTEN", 5000)
    monkeypatch.setattr(folding, "_MARK_EVERY", 200)
    store = scene.store
    store.agreed(strings((b"a", 1)))
    store.sending(2, strings((b"b", 2)))
    store.sending(3, strings((b"c", 3)), to_site=True)
    await store.fold()
    scene.flush()
    with pytest.MonkeyPatch.context() as disk, capture_logs() as logs:
        refuse(disk, scene)
        if refuses == "all":
            disk.setattr(store._folder._database, "clear", mock.Mock(side_effect=sqlite3.OperationalError("full")))
        store.save({"x": 1})
        for number in range(10, 400):
            store.number = number - 1
            store.agreed(strings((b"%0100d" % number, number)))
            found = await scene.digests(b"a", b"%0100d" % number)
            assert store._journal.unwritten < 5500
            if number == 200:
                store.dropped(3)
        assert found == ({b"%0100d" % 399: 399} if refuses == "the journal" else {})
        assert not store.take_forgot()
        assert await store.agreed_since(200, most=1000) is None
        if found:
            since = await store.agreed_since(398, most=1000)
            assert since == {b"%0100d" % 399: {None: 399}, b"b": {None: 2}}
        assert [one["event"] for one in logs] == ["store.forgot"]
    for _ in range(2):
        scene.flush(5.0)
    assert store.failed is None
    assert [store.take_forgot() for _ in range(2)] == [True, False]
    for _ in range(2):
        assert scene.store.behind
        assert await scene.digests(b"a", b"b", b"c", b"%0100d" % 11) == {b"b": None}
        assert await scene.digests(b"%0100d" % 399) == {b"%0100d" % 399: 399}
        await scene.reopen()
    assert (scene.store.open_batches, list(scene.store.open_applies), scene.store.saved) == ([2], [], {"x": 1})
    scene.store.caught_up()
    await scene.reopen()
    assert not scene.store.behind


async def test_of_what_was_forgotten_nobody_knows_what_was_to_be_applied_over_it(scene, monkeypatch):
    """What the site holds may be what was agreed on before: it must not be taken for written since."""
    monkeypatch.setattr(folding, "_MOST_UNWRITTEN", 5000)
    store = scene.store
    store.agreed(facts(("strings", [b"a", b"b"], [1, 1]), ("hash", b"h", {name(1): 1}, None)))
    with pytest.MonkeyPatch.context() as disk:
        refuse(disk, scene)
        store.agreed(strings(*((b"%0100d" % number, number) for number in range(100))))
        await store.lookup([])
        store.agreed(facts(("string", b"b", 1), ("fields", b"h", {name(2): 2})))
        store.sending(
            900, facts(("strings", [b"a", b"b"], [2, 2]), ("fields", b"h", {name(1): 3, name(2): 3})), to_site=True
        )

    for step in ("full", "free", "next process", "compared"):
        if step == "free":
            scene.flush(5.0)
            assert scene.store.take_forgot()
        elif step == "next process":
            await scene.reopen()
        elif step == "compared":
            scene.store.caught_up()
        found = await scene.store.lookup([b"a", b"b", b"h"], elements=True)
        left = {b"a": (2,), b"b": (2,)} if step == "compared" else {b"b": (2,)}
        assert {key: one.applied for key, one in found.items() if one.applied} == left
        assert found[b"h"].element_applied.keys() == {name(2)} | ({name(1)} if step == "compared" else set())


async def test_a_process_that_ends_with_too_much_that_could_not_be_written(scene, monkeypatch):
    """The next one finds nothing agreed on, or what was written before, and the sign."""
    monkeypatch.setattr(folding, "_MOST_UNWRITTEN", 5000)
    scene.store.agreed(strings((b"a", 1)))
    await scene.store.fold()
    with pytest.MonkeyPatch.context() as disk:
        refuse(disk, scene)
        for number in range(10, 200):
            scene.store.agreed(strings((b"%0100d" % number, number)))
            await scene.store.lookup([])
        await scene.reopen()
    assert scene.store.behind
    assert scene.store.fresh
    scene.store.agreed(strings((b"b", 2)))
    await scene.reopen()
    assert await scene.digests(b"a", b"b") == {b"b": 2}


# A disk that is really full.


@pytest.mark.parametrize("may_mount", [True, False], ids=["as this machine allows", "without a mount"])
async def test_a_full_disk(may_mount):
    with SmallDisk(may_mount=may_mount) as disk:
        scene, model = Scene(disk.path / "state"), Model()
        keys = [b"%05d" % number for number in range(40)]
        model.agree([("strings", keys, [1] * 40)], 1)
        scene.store.agreed(strings(*((key, 1) for key in keys)))
        await scene.store.fold()
        disk.fill([os.getpid()])
        try:
            for number in range(2, 200):
                scene.store.agreed(strings((b"%0200d" % number, number)))
                scene.store.agreed(strings((keys[number % 20], number)))
                scene.flush()
                model.agree([("string", b"%0200d" % number, number, None)], 2 * number - 2)
                model.agree([("string", keys[number % 20], number, None)], 2 * number - 1)
                assert await scene.digests(*model.keys) == {key: held.digest for key, held in model.keys.items()}
            assert scene.store.failed in {"no space left on device", "file too large"}
            assert scene.said[-1] == scene.store.failed
            assert await scene.store.sums(b"") == model.sums(b"")
        finally:
            disk.free()
        scene.flush(5.0)
        scene.flush(5.0)
        assert scene.store.failed is None
        assert scene.said[-1] is None
        assert not scene.store.take_forgot()
        for _ in range(2):
            await assert_like(scene.store, model, [*model.keys])
            await scene.reopen()
        await scene.store.close()


async def test_a_database_that_cannot_be_written_while_the_journal_can(scene, monkeypatch):
    """Lookups read the journal; nothing is lost."""
    store, model = scene.store, Model()
    keys = [b"a", b"h", b"s", b"gone"]
    before = [("hash", b"h", {name(1): 1, name(2): 2}, 5), ("string", b"s", 1, 5), ("string", b"gone", 1, None)]
    store.agreed(facts(*before))
    model.agree(before, 1)
    await store.fold()
    monkeypatch.setattr(folding, "_ENOUGH_KEYS", 1)
    with pytest.MonkeyPatch.context() as disk:

        def refuse(*_):
            raise sqlite3.OperationalError("database or disk is full")

        disk.setattr(store._folder._database, "write", refuse)
        after = [
            ("fields", b"h", {name(1): 7}, [name(2)]),
            ("expiry", b"s", 6),
            ("gone", b"gone"),
            ("string", b"a", 4, None),
        ]
        for told in after:
            store.agreed(facts(told))
            model.agree([told], store.number)
        assert {key: one.digest for key, one in (await store.lookup(keys)).items()} == {
            key: held.digest for key, held in model.keys.items()
        }
        scene.flush(6.0)
        assert store.failed == "database or disk is full"
        assert await store.count() == 3  # as it was
    scene.flush(5.0)
    assert store.failed is None
    assert scene.said == ["database or disk is full", None]
    await assert_like(store, model, keys)


async def test_a_database_that_can_never_be_written_does_not_fill_the_memory(scene, monkeypatch):
    monkeypatch.setattr(folding, "_ENOUGH_KEYS", 10)
    monkeypatch.setattr(folding, "_TOO_MANY_KEYS", 50)

    def refuse(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.MonkeyPatch.context() as disk:
        disk.setattr(scene.store._folder._database, "write", refuse)
        for number in range(100):
            scene.store.agreed(strings((b"%d" % number, number)))
        assert await scene.store.lookup([b"5"]) == {}
        assert len(scene.store._folder._changes) == 50
        scene.flush()
        assert scene.store.failed == "database or disk is full"
    scene.flush(5.0)
    assert scene.store.failed is None
    assert await scene.digests(b"5") == {b"5": 5}


async def test_a_journal_that_cannot_be_folded_ends_somewhere(scene, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", 10_000)
    scene.store._folder.trouble = "database or disk is full"
    for number in range(200):
        scene.store.agreed(strings((b"%0100d" % number, number)))
        scene.store._write()

    assert scene.store._journal.size < 11_000
    assert "cannot be folded" in scene.store.failed


async def test_a_journal_that_could_not_be_folded_goes_on_when_it_can_be(scene, monkeypatch):
    """Not before: no attempt to fold it lets it grow further."""
    monkeypatch.setattr(module, "_LONGEST", 10_000)
    monkeypatch.setattr(module, "_RENEW", 5000)
    store = scene.store
    with pytest.MonkeyPatch.context() as disk:

        def refuse():
            raise sqlite3.OperationalError("database is locked")

        disk.setattr(store._folder._database, "_transaction", refuse)
        for number in range(200):
            store.agreed(strings((b"%0100d" % number, number)))
            scene.flush(1.0)
        assert store._journal.size < 11_000
        assert "cannot be folded" in store.failed
    for _ in range(3):
        scene.flush(5.0)
    assert store.failed is None
    assert await store.count() == 200


async def test_a_disk_that_does_not_take_the_journal_is_named(scene):
    with pytest.MonkeyPatch.context() as disk:

        def broken():
            raise OSError(5, os.strerror(5))

        disk.setattr(scene.store._journal, "sync", broken)
        scene.store.agreed(strings((b"a", 1)))
        scene.flush(2.0)
        assert scene.said == ["input/output error"]
    scene.flush(2.0)
    assert len(scene.said) == 1
    scene.flush(5.0)
    assert scene.said == ["input/output error", None]


# The directory.


async def test_a_directory_that_was_removed_is_written_again(scene):
    told = [("strings", [b"a"], [1]), ("hash", b"h", {name(1): 1}, None)]
    model = Model()
    model.agree(told, 1)
    scene.store.agreed(facts(*told))
    scene.store.sending(2, strings((b"c", 2)))
    scene.store.save({"x": 1})
    await scene.store.fold()
    scene.flush(2.0)
    shutil.rmtree(scene.directory)
    told = [("string", b"b", 5, None)]
    model.agree(told, 3)
    scene.store.agreed(facts(*told))
    scene.flush(2.0)

    assert scene.store.failed is None
    assert sorted(path.suffix for path in scene.directory.iterdir()) == [".db", ".db-wal", ".journal", ".lock"]
    for _ in range(2):
        await assert_like(scene.store, model, [b"a", b"b", b"c", b"h"])
        await scene.reopen()
    assert scene.store.open_batches == [2]
    assert scene.store.saved == {"x": 1}


async def test_a_directory_that_was_removed_while_nothing_could_be_written(scene, monkeypatch):
    scene.store.agreed(strings((b"a", 1)))
    await scene.store.fold()
    refuse(monkeypatch, scene)
    scene.store.agreed(strings((b"b", 2)))
    shutil.rmtree(scene.directory)
    scene.flush(6.0)
    monkeypatch.undo()
    scene.flush(5.0)
    scene.flush(5.0)

    assert scene.store.failed is None
    for _ in range(2):
        assert await scene.digests(b"a", b"b") == {b"a": 1, b"b": 2}
        await scene.reopen()
    assert not scene.store.behind


async def test_a_directory_that_was_removed_and_cannot_be_made(scene):
    scene.store.agreed(strings((b"a", 1)))
    shutil.rmtree(scene.directory)
    scene.directory.touch()
    scene.flush(2.0)
    assert len(scene.said) == 1
    assert f"--state-dir {scene.directory}" in scene.store.failed
    assert await scene.digests(b"a") == {b"a": 1}
    scene.directory.unlink()
    scene.flush(5.0)
    assert scene.store.failed is None
    await scene.reopen()
    assert await scene.digests(b"a") == {b"a": 1}


# Damage while it runs.


async def test_a_database_that_is_damaged_while_it_is_used(scene):
    scene.store.agreed(strings(*((b"%05d" % number, number) for number in range(5000))))
    await scene.store.fold()
    scene.flush()
    scene.store._worker.submit(scene.store._folder._database.checkpoint).result()
    path = scene.store._directory.file("db")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    scene.store._folder._database._connection.execute("PRAGMA shrink_memory")
    scene.store.agreed(strings((b"new", 1)))
    with capture_logs() as logs:
        assert await scene.digests(b"00001", b"03000") == {}
    assert [one["event"] for one in logs] == ["store.set_aside"]
    assert scene.store.fresh
    assert "malformed" in logs[0]["reason"]
    scene.store.agreed(strings((b"newer", 2)))
    await scene.reopen()
    assert await scene.digests(b"00001", b"newer") == {b"newer": 2}


async def test_a_journal_that_is_damaged_while_it_is_used(scene):
    scene.store.agreed(strings((b"a", 1)))
    await scene.store.fold()
    scene.store.agreed(strings((b"b", 1)))
    scene.store._write()
    path = scene.store._journal.path
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 1)
        file.write(b"\xff")
    with capture_logs() as logs:
        assert await scene.digests(b"a", b"b") == {}
    assert [one["event"] for one in logs] == ["store.unreadable"]
    assert scene.store.fresh
    assert scene.store.take_forgot()
    scene.store.agreed(strings((b"c", 1)))
    assert await scene.digests(b"a", b"b", b"c") == {b"c": 1}
