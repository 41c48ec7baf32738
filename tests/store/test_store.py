"""What the engine records it finds again, after an orderly end, a crash, or an upgrade; or nothing at all."""

import hashlib
import json
import os
import random
import sqlite3
import stat

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import HeldBy, Position
from redisrepl.engine.places import Seen
from redisrepl.store import Facts, Pair, StateDirectoryError, fallback, folding, open_store
from redisrepl.store import store as module
from redisrepl.store.journal import Kind, record
from redisrepl.wire.digests import DISPUTED
from tests.clock import Clock
from tests.store.stores import (
    PAIR,
    Model,
    assert_like,
    bucket_of,
    digest_of_hash,
    facts,
    name,
    new_store,
    strings,
    total_of,
)

OLD = {
    "replid": "8371b4fb1155b71f4a04d3e1bc3e18c4a990aeeb",
    "offset": 1234,
    "database": 3,
    "origin": "0123456789abcdef",
}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def opened(tmp_path, clock):
    """Open a store here; the one before is closed."""
    stores = []

    async def opened(directory=tmp_path, pair=PAIR, **options):
        for store in stores:
            await store.close()
        stores[:] = [new_store(directory, pair, clock=clock, **options)]
        return stores[0]

    yield opened
    for store in stores:
        await store.close()


async def worked(store):
    """Let the background come to an end."""
    if store._job:
        store._worker.submit(int).result()
        assert store._job.done()
    store.flush()


def aside(directory):
    return sorted(path.name.partition(".set-aside")[0] for path in directory.iterdir() if "set-aside" in path.name)


# There and back.


async def test_nothing_is_agreed_at_first(opened):
    with capture_logs() as logs:
        store = await opened()

    assert (store.fresh, store.saved, store.open_batches, store.number) == (True, {}, [], 0)
    assert await store.lookup([b"key"], elements=True) == {}
    assert await store.count() == 0
    assert logs == []


async def test_what_was_agreed_is_found_by_the_next(opened):
    store = await opened()
    store.agreed(strings((b"a", 1), (b"b", 2)))
    store.save({"position": 7, "ring": ["x"]})
    store = await opened()

    assert (store.fresh, store.saved, store.number) == (False, {"position": 7, "ring": ["x"]}, 1)
    found = await store.lookup([b"a", b"b", b"c"])
    assert {key: (one.digest, one.number) for key, one in found.items()} == {b"a": (1, 1), b"b": (2, 1)}


async def test_it_is_fresh_until_something_is_agreed(opened):
    store = await opened()
    store.sending(store.next_number(), strings((b"a", 1)))
    store = await opened()
    assert store.fresh
    store.acknowledged(1)
    store = await opened()
    assert not store.fresh  # although nothing was folded
    await store.fold()
    store = await opened()
    assert not store.fresh


async def test_numbers_go_on_far_behind_those_that_may_be_lost(opened):
    store = await opened()
    assert [store.next_number(), store.next_number()] == [1, 2]
    store.sending(2, strings((b"a", 1)))
    store.agreed(strings((b"b", 1)))
    store.sending(9, strings((b"c", 1)))
    store = await opened()

    assert store.number == 9
    first = store.next_number()
    assert first > 1_000_000
    assert store.next_number(apart=2) == first + 3


async def test_a_number_is_not_given_again_if_power_was_lost_before_the_journal_was_on_the_disk(opened):
    """The hub knows batches by their numbers: an old one must not be taken for a new one."""
    store = await opened()
    journal = store.file("journal")
    store.agreed(strings((b"a", 1)))
    store.flush()
    on_disk = journal.stat().st_size
    for _ in range(200):
        store.agreed(strings((b"a", 1)))
    await store.fold()
    assert store.number == 201
    await store.close()
    with journal.open("r+b") as file:
        file.truncate(on_disk)
    store = await opened()

    assert store.number == 201
    assert store.next_number() > 201


async def test_a_row_keeps_the_number_of_its_batch(opened):
    store = await opened()
    batch = store.next_number()
    store.sending(batch, strings((b"a", 1)))
    store.agreed(strings((b"b", 1)))
    store.acknowledged(batch)

    found = await store.lookup([b"a", b"b"])
    assert [found[key].number for key in (b"a", b"b")] == [1, 2]


async def test_a_document_that_says_the_same_is_not_written(opened):
    store = await opened()
    store.save({"a": [1]})
    store.flush()
    size = store._journal.size
    store.save({"a": [1]})
    store.flush()
    assert store._journal.size == size
    store.save({"a": [2]})
    store.flush()
    assert store._journal.size > size


async def test_the_next_process_knows_a_batch_that_left_without_a_flush(opened):
    """It was written before `sending` returned."""
    store = await opened()
    store.sending(1, strings((b"a", 1)))
    store.sending(2, strings((b"b", 1)))
    store.acknowledged(1)
    store._buffer.clear()  # as kill -9 would
    store = await opened()

    assert store.open_batches == [1, 2]


# Intents.


async def test_a_batch_is_an_intent_until_its_outcome_is_known(opened):
    store = await opened()
    store.agreed(strings((b"a", 1)))
    for batch, told in enumerate([("strings", [b"a"], [5]), ("gone", b"a"), ("string", b"a", 5, 99)], 11):
        store.sending(batch, facts(told))
    store.sending(14, facts(("hash", b"a", {name(1): 3}, None)))

    (one,) = (await store.lookup([b"a"])).values()
    assert (one.digest, one.intents) == (1, (5, None, digest_of_hash(b"a", (0, 3))))
    store = await opened()
    store.dropped(11)
    store.dropped(12)
    store.acknowledged(14)
    (one,) = (await store.lookup([b"a"])).values()
    assert (one.digest, one.total, one.number, one.intents) == (digest_of_hash(b"a", (0, 3)), (0, 3), 14, (5,))


E, F, G = (name(number) for number in (4, 5, 6))
SENT = (
    ("string", b"string", 5, None),
    ("gone", b"gone"),
    ("fields", b"hash", {E: 3, F: 4}, [G]),
    ("hash", b"whole", {E: 3, F: 4}, 9),
    ("string", b"other", 7, 8),
)


@pytest.mark.parametrize("ended", [True, False])
@pytest.mark.parametrize("again", ["", "opened", "renewed"])
async def test_what_is_agreed_on_later_is_no_trace_of_a_push_that_has_ended(opened, ended, again):
    """A client's later removal, or write of the same value, would be taken for the push."""
    store = await opened()
    number = store.next_number()
    store.sending(number, facts(*SENT))
    before = await store.lookup([b"string", b"gone", b"hash", b"whole", b"other"], elements=True)
    if ended:
        store.ended(number)
    store.agreed(facts(("string", b"string", 6, None), ("string", b"gone", 6, None), ("fields", b"hash", {E: 8}, [G])))
    store.agreed(facts(("fields", b"whole", {F: 8}), ("string", b"another", 1, None)))
    if again == "opened":
        store = await opened()
    elif again == "renewed":
        store.flush()
        store._worker.submit(store._folder.renew).result()
    known = await store.lookup([*before], elements=True)
    left = {
        key: (set(one.intents), {n: d for n, d in one.element_intents.items() if n in (E, F, G)})
        for key, one in known.items()
    }
    if ended:
        assert left == {
            b"string": (set(), {}),
            b"gone": (set(), {}),
            b"hash": (set(), {F: (4,)}),
            b"whole": (set(), {E: (3,)}),
            b"other": ({7}, {}),
        }
    else:
        assert left[b"string"] == ({5}, {})
        assert left[b"gone"] == ({None}, {})
        assert left[b"hash"][1] == {E: (3,), F: (4,), G: (None,)}
    assert store.open_batches == ([number] if again == "opened" else [])


async def test_what_is_sent_again_under_a_number_has_not_ended(opened):
    store = await opened()
    number = store.next_number()
    store.sending(number, facts(("string", b"a", 5, None)))
    store.ended(number)
    store.sending(number, facts(("string", b"a", 5, None)))
    store.agreed(facts(("string", b"a", 6, None)))
    assert (await store.lookup([b"a"]))[b"a"].intents == (5,)


async def test_a_key_of_which_there_is_only_an_intent(opened):
    store = await opened()
    store.sending(1, facts(("string", b"a", 5, None), ("expiry", b"b", 7), ("gone", b"c")))

    found = await store.lookup([b"a", b"b", b"c"])
    assert {key: (one.digest, one.number, one.intents) for key, one in found.items()} == {
        b"a": (None, 0, (5,)),
        b"c": (None, 0, (None,)),
    }


A, B, C = name(1), name(2), name(3)


@pytest.mark.parametrize("folded_behind", range(4))
@pytest.mark.parametrize(
    ("told", "expires_at_ms"),
    [
        # Emptied and filled again: it does not expire, unless that was set since.
        ([("fields", b"h", {}, [A, B]), ("fields", b"h", {A: 3})], None),
        ([("fields", b"h", {}, [A]), ("fields", b"h", {}, [B, B]), ("fields", b"h", {C: 3})], None),
        ([("fields", b"h", {C: 3}, [A, B]), ("fields", b"h", {}, [C]), ("fields", b"h", {A: 3})], None),
        ([("fields", b"h", {}, [A, B]), ("fields", b"h", {C: 3}), ("expiry", b"h", 9)], 9),
        ([("fields", b"h", {}, [A, B]), ("expiry", b"h", 9), ("fields", b"h", {C: 3})], None),
        ([("expiry", b"h", 9), ("fields", b"h", {}, [A, B]), ("fields", b"h", {C: 3})], None),
        ([("hash", b"h", {A: 3}, 9), ("fields", b"h", {}, [A]), ("fields", b"h", {A: 3})], None),
        ([("hash", b"h", {}, 9), ("fields", b"h", {A: 3})], None),
        # It had another element all the time.
        ([("fields", b"h", {}, [A]), ("fields", b"h", {C: 3})], 7),
        ([("fields", b"h", {C: 3}, [A, B]), ("fields", b"h", {A: 3})], 7),
        ([("fields", b"h", {}, [A]), ("expiry", b"h", 9), ("fields", b"h", {C: 3})], 9),
        ([("expiry", b"h", 9), ("fields", b"h", {}, [A]), ("fields", b"h", {C: 3})], 9),
    ],
)
async def test_what_a_hash_expires_at_that_may_have_been_absent(opened, told, expires_at_ms, folded_behind):
    store, model = await opened(), Model()
    for number, one in enumerate([("hash", b"h", {A: 1, B: 2}, 7), *told]):
        store.agreed(facts(one))
        model.agree([one], store.number)
        if number == folded_behind:
            await store.fold()
    await assert_like(store, model, [b"h"])
    (one,) = (await store.lookup([b"h"])).values()
    assert one.expires_at_ms == expires_at_ms


async def test_intents_of_elements(opened):
    store = await opened()
    store.agreed(facts(("hash", b"h", {name(1): 1, name(2): 2}, None)))
    store.sending(2, facts(("fields", b"h", {name(1): 11, name(3): 3}, [name(2)])))
    store.sending(3, facts(("fields", b"h", {name(1): 12})))
    expected = {name(1): (11, 12), name(3): (3,), name(2): (None,)}

    for elements in (False, True):
        (one,) = (await store.lookup([b"h"], elements=elements)).values()
        assert (one.intents, one.element_intents) == ((), expected)
    assert one.elements == {name(1): 1, name(2): 2}


@pytest.mark.parametrize("told", [("gone", b"h"), ("string", b"h", 5, None), ("hash", b"h", {name(4): 4}, None)])
async def test_a_push_of_the_whole_key_may_have_taken_its_elements_away(opened, told):
    store = await opened()
    store.agreed(facts(("hash", b"h", {name(1): 1}, None)))
    store.sending(2, facts(told))

    (one,) = (await store.lookup([b"h"], elements=True)).values()
    assert one.element_intents == {name(1): (None,)} | ({name(4): (4,)} if told[0] == "hash" else {})
    assert len(one.intents) == 1


# From an earlier version.


def old_file(directory, pair=PAIR, **members):
    content = {"format": 2, "site": pair.site, "hub": pair.hub, "scope": pair.scope} | OLD | members
    content["checksum"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    path = directory / f"{pair.stem}.json"
    path.write_text(json.dumps(content))
    return path


async def test_the_position_of_an_earlier_version_is_taken_over(opened, tmp_path):
    path = old_file(tmp_path)
    store = await opened()
    assert (store.saved, store.fresh) == (OLD, True)
    assert path.exists()
    store = await opened()  # it ended before it had written anything of its own
    assert store.saved == OLD
    store.flush()
    assert not path.exists()
    store = await opened()
    assert store.saved == OLD


async def test_a_journal_is_newer_than_the_file_of_an_earlier_version(opened, tmp_path):
    store = await opened()
    store.save({"new": 1})
    old_file(tmp_path)
    store = await opened()
    assert store.saved == {"new": 1}


@pytest.mark.parametrize("content", [b"", b"null", b"[" * 100_000, b'{"format": 2}', b"\xff"])
async def test_a_damaged_file_of_an_earlier_version(opened, tmp_path, content):
    path = old_file(tmp_path)
    path.write_bytes(content)
    store = await opened()
    store.flush()
    assert store.saved == {}
    assert path.read_bytes() == content


@pytest.mark.parametrize("member", [{"format": 1}, {"site": "another"}, {"scope": "another"}])
async def test_another_file_of_an_earlier_version(opened, tmp_path, member):
    path = old_file(tmp_path, **member)
    store = await opened()
    store.flush()
    assert store.saved == {}
    assert path.exists()


async def test_a_flipped_digit_in_a_file_of_an_earlier_version(opened, tmp_path):
    path = old_file(tmp_path)
    path.write_text(path.read_text().replace("1234", "1235"))
    assert (await opened()).saved == {}


# Files that cannot be used.


@pytest.fixture
async def again(tmp_path):
    """Open what a test has damaged."""
    stores = []

    def again(pair=PAIR):
        with capture_logs() as logs:
            stores.append(new_store(tmp_path, pair))
        return stores[-1], [(one["event"], one["reason"]) for one in logs]

    yield again
    for store in stores:
        await store.close()


@pytest.fixture
async def files(tmp_path):
    """Journal and database of a store that has been used."""
    store = new_store(tmp_path)
    store.agreed(strings((b"a", 1)))
    store.sending(7, strings((b"b", 1)))
    store.save({"x": 1})
    await store.fold()
    await store.close()
    return store._directory.file("journal"), store._directory.file("db")


async def assert_fresh(store):
    assert store.fresh
    assert await store.count() == 0
    assert await store.lookup([b"a"]) == {}
    store.agreed(strings((b"c", 3)))
    assert (await store.lookup([b"c"]))[b"c"].digest == 3


@pytest.mark.parametrize("data", [b"", b"text", bytes(1000)])
async def test_a_damaged_journal(files, again, tmp_path, data):
    files[0].write_bytes(data)
    store, logs = again()

    assert logs == [
        ("store.set_aside", "it is damaged"),
        ("store.set_aside", "its journal is missing, or cannot be used"),
    ]
    assert (store.saved, store.open_batches) == ({}, [])
    assert aside(tmp_path) == sorted(path.name for path in files)
    await assert_fresh(store)


@pytest.mark.usefixtures("files")
async def test_other_namespaces_of_the_same_pair_begin_anew(again, tmp_path):
    store, logs = again(Pair(PAIR.site, PAIR.hub, "another"))

    assert logs[0] == ("store.set_aside", "it was written for other addresses, namespaces or kinds of change")
    assert len(aside(tmp_path)) == 2
    await assert_fresh(store)


async def test_a_database_without_its_journal(files, again):
    files[0].unlink()
    store, logs = again()

    assert logs == [("store.set_aside", "its journal is missing, or cannot be used")]
    assert store.saved == {}
    await assert_fresh(store)


def write_another(path, change):
    with sqlite3.connect(path) as connection:
        connection.execute(change)
    connection.close()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 100), "it is damaged"),
        (lambda path: write_another(path, "PRAGMA application_id = 5"), "it is not redisrepl's"),
        (lambda path: write_another(path, "PRAGMA user_version = 2"), "its format is 2, not 1"),
        (lambda path: write_another(path, "UPDATE about SET pair = 'x'"), "it was written for other addresses, namesp"),
        (lambda path: write_another(path, "DROP TABLE elements"), "it is damaged"),
        (lambda path: write_another(path, "DELETE FROM about"), "it is damaged"),
    ],
)
async def test_a_damaged_database(files, again, tmp_path, damage, reason):
    """The journal is good: it still tells what was on its way, and the state."""
    damage(files[1])
    store, ((event, said),) = again()

    assert (event, said[: len(reason)]) == ("store.set_aside", reason)
    assert (store.saved, store.open_batches, store.number) == ({"x": 1}, [7], 7)
    assert aside(tmp_path) == [files[1].name]
    await assert_fresh(store)


async def test_a_database_that_is_older_than_the_journal(tmp_path, again):
    """From a backup: what was folded and is not in the journal any more is missing in it."""
    store = new_store(tmp_path)
    store.agreed(strings((b"a", 1)))
    await store.fold()
    await store.close()
    path = store._directory.file("db")
    before = path.read_bytes()
    store = new_store(tmp_path)
    store.agreed(strings((b"a", 2)))
    store.flush()
    store._worker.submit(store._folder.renew).result()
    await store.close()
    path.write_bytes(before)

    store, _ = again()
    await assert_fresh(store)


async def test_a_database_that_was_removed_is_made_again_from_a_journal_that_has_everything(files, again):
    files[1].unlink()
    store, logs = again()

    assert logs == []
    assert not store.fresh
    assert (await store.lookup([b"a"]))[b"a"].digest == 1


async def test_a_torn_tail_is_cut_and_named_once(files, again):
    size = files[0].stat().st_size
    with files[0].open("ab") as file:
        file.write(b"\x00garbage")
    store, logs = again()

    assert logs == [("store.cut", "no whole record")]
    assert files[0].stat().st_size == size
    assert store.open_batches == [7]
    await store.close()
    store, logs = again()
    assert logs == []


async def test_a_journal_cut_anywhere_ends_with_a_whole_record(tmp_path, again):
    """Whatever is folded already."""
    store, model, stages = new_store(tmp_path), Model(), []
    journal, database = (store._directory.file(ending) for ending in ("journal", "db"))
    stages.append((journal.stat().st_size, model.copy()))
    for number in range(1, 6):
        told = [("strings", [b"a", b"%d" % number], [number, number]), ("fields", b"h", {name(number): number})]
        store.agreed(facts(*told))
        store.flush()
        model.agree(told, store.number)
        stages.append((journal.stat().st_size, model.copy()))
        if number == 3:
            await store.fold()
            folded = journal.stat().st_size
    store._buffer.clear()
    await store.close()
    whole, base = journal.read_bytes(), database.read_bytes()
    for length in range(stages[0][0], len(whole) + 1):
        journal.write_bytes(whole[:length])
        database.write_bytes(base)
        store, _ = again()
        held = next(state for size, state in reversed(stages) if size <= max(length, folded))
        await assert_like(store, held, [b"a", b"h", *(b"%d" % number for number in range(1, 6))])
        store.agreed(strings((b"z", length)))  # what is recorded now is not taken for what was folded
        assert (await store.lookup([b"z"]))[b"z"].digest == length
        await store.close()


@pytest.mark.parametrize("bad", [record(Kind.HEADER, b"12345678"), record(Kind.SENDING, b"1")])
async def test_a_record_that_makes_no_sense_is_cut(files, again, bad):
    with files[0].open("ab") as file:
        file.write(bad)
    _, logs = again()

    assert logs == [("store.cut", "no whole record")]


async def test_facts_that_make_no_sense_end_all_agreement(files, again):
    """Their checksum fits: this is another program's, or a mistake of ours."""
    with files[0].open("ab") as file:
        file.write(record(Kind.AGREED, bytes(8), b"\x63no facts at all"))
    store, _ = again()
    with capture_logs() as logs:
        await store.fold()

    assert [one["event"] for one in logs] == ["store.unreadable"]
    await assert_fresh(store)


# In the background.


async def test_what_was_recorded_is_folded_after_a_while_without_records(opened, clock):
    store = await opened()
    store.agreed(strings((b"a", 1)))
    store.flush()
    clock.now += 4.9
    store.flush()
    await worked(store)
    assert store._folder._database.empty
    clock.now += 0.2
    store.flush()
    await worked(store)
    assert not store._folder._database.empty
    store.flush()
    assert store._job is None


async def test_a_journal_that_has_grown_is_begun_anew(opened, monkeypatch):
    monkeypatch.setattr(module, "_RENEW", 10_000)
    store = await opened()
    store.sending(1, strings((b"open", 5)))
    store.save({"x": 1})
    for number in range(300):
        store.agreed(strings((b"%0100d" % number, number)))
    store.flush()
    await worked(store)

    assert store._journal.base > 10_000
    assert store._journal.size < 1000
    store = await opened()
    assert (store.saved, store.open_batches, store.number) == ({"x": 1}, [1], 300 + 1)
    assert await store.count() == 300
    assert (await store.lookup([b"open"]))[b"open"].intents == (5,)


async def test_what_was_agreed_since_is_known_as_far_back_as_the_journal_reaches(opened):
    store = await opened()
    store.agreed(strings((b"before", 11)))
    number = store.number
    store.agreed(facts(("strings", [b"s"], [11]), ("fields", b"h", {b"f": 1}, [b"gone"]), ("gone", b"removed")))
    store.agreed(facts(("fields", b"h", {b"g": 1}), ("hash", b"whole", {b"f": 1}), ("fields", b"whole", {b"g": 1})))
    for batch, ends, to_site in (
        (1, store.acknowledged, False),
        (2, store.dropped, False),
        (3, None, False),
        (4, None, True),
    ):
        sent = store.next_number()
        store.sending(sent, facts(("fields", b"batch %d" % batch, {b"f": 1})), to_site=to_site)
        if ends:
            ends(sent)
    sent = store.number - 3
    since = {
        b"s": {None: number + 1},
        b"removed": {None: number + 1},
        b"whole": {None: number + 2},
        b"h": {b"f": number + 1, b"gone": number + 1, b"g": number + 2},
        **{b"batch %d" % batch: {b"f": sent + batch - 1} for batch in (1, 3, 4)},  # an open one may be acknowledged yet
    }
    assert await store.agreed_since(number, most=10) == since
    assert await store.agreed_since(number, most=6) is None  # too many
    assert (await store.agreed_since(0, most=10)).keys() == since.keys() | {b"before"}

    store._folder.renew()
    last = store.number
    assert await store.agreed_since(number, most=10) is None  # that is not in the journal any more
    assert (await store.agreed_since(last, most=10)).keys() == {b"batch 3", b"batch 4"}


async def test_what_was_sent_last_without_an_answer_is_known(opened):
    """Of a place where nothing was agreed on since, and nothing else was sent."""
    store = await opened()

    def sent(*changes, to_site=False):
        number = store.next_number()
        store.sending(number, facts(*changes), to_site=to_site)
        return number

    store.agreed(strings((b"s", 11), (b"later", 12)))
    before, first = store.number, sent(("strings", [b"s", b"earlier"], [14, 2]), ("fields", b"h", {b"f": 3}, [b"gone"]))
    store.agreed(strings((b"earlier", 13)))
    store.agreed(facts(("fields", b"h", {b"g": 4})))
    later = sent(("strings", [b"later"], [5]), ("fields", b"h", {b"g": 6}))
    sent(("strings", [b"later", b"of the hub"], [7, 8]), to_site=True)
    store.dropped(sent(("strings", [b"s"], [9])))
    places = await store.agreed_since(before, most=10)
    assert places[b"earlier"] == {None: first + 1}  # that the batch may be acknowledged yet, bears no more on it
    of_h = {(b"h", b"f"): {3}, (b"h", b"gone"): {None}, (b"h", b"g"): {6}}
    assert await store.unanswered("site", places, before) == {(b"s", None): {14}, **of_h}
    assert await store.unanswered("site", places, later - 1) == {(b"h", b"g"): {6}}
    assert await store.unanswered("hub", places, before) == {(b"later", None): {7}, (b"of the hub", None): {8}}
    store.agreed(strings((b"h", 10)))  # it is a string now
    assert await store.unanswered("site", await store.agreed_since(before, most=10), before) == {(b"s", None): {14}}


async def test_what_is_disputed_is_not_agreed_on(opened):
    """A daemon that is killed while a server is given back what it lost may leave it so."""
    store = await opened()
    store.agreed(facts(("strings", [b"s", b"h"], [11, 12])))
    first = store.number
    store.agreed(facts(("string", b"s", DISPUTED, None), ("string", b"h", DISPUTED, None), ("fields", b"h", {b"f": 1})))
    assert await store.agreed_since(0, most=10) == {b"s": {None: first}, b"h": {None: first, b"f": first + 1}}
    assert await store.agreed_since(first, most=10) == {b"h": {b"f": first + 1}}
    agreed = [(seen.key, seen.field, seen.digest) for seen in await store.history(0, most=10)]
    assert agreed == [(b"s", None, 11), (b"h", None, 12), (b"h", b"f", 1)]
    assert (await store.lookup([b"s"]))[b"s"].digest == DISPUTED


HERE, ELSEWHERE = "a" * 40, "b" * 40


async def test_what_the_site_held_by_a_place_of_its_history_is_not_agreed_since(opened):
    """A replica that took over, and kept the history of its master up to there, has that for sure."""
    store = await opened()
    for key, at in ((b"told", (HERE, 5)), (b"later", (HERE, 6)), (b"other", (ELSEWHERE, 5))):
        store.agreed(strings((key, 11)), HeldBy(Position(*at)))
    for number, later in enumerate([{b"b": 6}, {b"b": 5, b"c": 1 << 40}]):
        keys = [b"%d %b" % (number, name) for name in (b"a", b"b", b"c")]
        by = HeldBy(Position(HERE, 4), {b"%d %b" % (number, name): offset for name, offset in later.items()})
        store.agreed(strings(*((key, 11) for key in keys)), by)
    store.agreed(strings((b"unknown", 11)))
    for at in (5, 9, 0):
        for to_site in (False, True):
            sent = store.next_number()
            store.sending(sent, strings((b"sent %d %d" % (at, to_site), 11)), to_site=to_site)
            store.acknowledged(sent, (), HeldBy(Position(HERE, at)) if at else None)
    # What is not known to have been held by it was, if what was agreed on afterwards was.
    for number, later in enumerate(
        [("fields", {b"f": 2}), ("fields", {b"g": 1}), ("hash", {b"g": 1}), ("string", 5)],
    ):
        key = b"h%d" % number
        store.agreed(facts(("fields", key, {b"f": 1})))
        store.agreed(facts((later[0], key, *later[1:])), HeldBy(Position(HERE, 5)))
    store.agreed(strings((b"again", 11)), HeldBy(Position(HERE, 5)))
    store.agreed(strings((b"again", 2)))
    unknown = {b"later", b"other", b"unknown", b"again", b"h1", b"0 b", b"1 c"}
    unknown |= {b"sent %d %d" % (offset, to_site) for offset in (9, 0) for to_site in (0, 1)}
    since = await store.agreed_since(0, Position(HERE, 5), most=100)
    assert since.keys() == unknown
    assert since[b"h1"].keys() == {b"f"}
    all_of_it = await store.agreed_since(0, most=100)
    assert all_of_it.keys() > unknown
    assert await store.agreed_since(0, Position(HERE, 3), most=100) == all_of_it
    assert b"1 c" in await store.agreed_since(0, Position(HERE, 1 << 41), most=100)  # how much later is not recorded
    assert (await store.lookup([b"told"]))[b"told"].digest == 11


async def test_what_was_agreed_of_late_is_found_without_reading_the_whole_journal(opened, monkeypatch):
    monkeypatch.setattr(folding, "_MARK_EVERY", 300)
    rng, open_batches = random.Random(7), []
    store = await opened()
    for batch in (store.next_number(), store.next_number()):
        store.sending(batch, strings((b"batch %d" % batch, batch)))
    for n in range(300):
        told = facts(("fields", b"k%d" % rng.randrange(50), {b"%d" % rng.randrange(5): n}))
        match rng.randrange(4):
            case 0:
                store.agreed(told)
            case 1 if len(open_batches) < 5:
                open_batches.append(store.next_number())
                store.sending(open_batches[-1], told, to_site=rng.random() < 0.5)
            case _ if open_batches:
                ends = store.dropped if rng.random() < 0.3 else store.acknowledged
                ends(open_batches.pop(rng.randrange(len(open_batches))))
    store.acknowledged(1)  # and 2 is still open
    for _ in range(2):
        folder, journal = store._folder, store._journal
        since = {number: await store.agreed_since(number, most=1000) for number in range(0, store.number + 1, 7)}
        told = {most: await store.history(store.number, most) for most in (1, 5, 50, 1000)}
        begun = next(folder._ever_earlier())[0]
        with monkeypatch.context() as patch:
            patch.setattr(folder, "_marks", [])
            assert since == {number: folder.agreed_since(number, most=1000) for number in since}
            assert told == {most: folder.history(store.number, most) for most in told}
        assert begun > journal.base
        place, _ = folder._read_before(store.number - 5)
        assert journal.end - place < (journal.end - journal.base) / 5
        store = await opened()  # as a new process


async def test_what_was_agreed_on_is_told_in_order_as_far_back_as_the_journal_reaches(opened):
    store = await opened()
    store.agreed(facts(("strings", [b"s"], [11]), ("fields", b"h", {b"f": 1}, [b"gone"])))
    first = store.number
    store.agreed(facts(("gone", b"s"), ("hash", b"h", {b"g": 2})))
    sent = store.next_number()
    store.sending(sent, facts(("strings", [b"s"], [3]), ("strings", [b"refused"], [3])))
    store.agreed(strings((b"s", 2)))
    store.acknowledged(sent, [b"refused"])
    store.sending(store.next_number(), strings((b"open", 4)))
    entries = [
        (first, b"s", None, 11),
        (first, b"h", b"f", 1),
        (first, b"h", b"gone", None),
        (first + 1, b"s", None, None),
        (first + 1, b"h", b"g", 2),
        (sent + 1, b"s", None, 2),
        (sent, b"s", None, 3),
    ]
    entries = [Seen(number - 1, *what) for number, *what in entries]
    assert await store.history(0, 10) == entries
    assert await store.history(0, 7) is None  # perhaps there are more
    assert await store.history(first + 2, 4) == entries[-4:]

    store._folder.renew()
    assert await store.history(first, 10) is None  # that is not in the journal any more
    assert await store.history(store.number, 10) == []


async def test_a_journal_of_open_batches_is_not_begun_anew_for_ever(opened, monkeypatch):
    monkeypatch.setattr(module, "_RENEW", 10_000)
    store = await opened()
    for batch in range(1, 400):
        store.sending(batch, strings((b"%0100d" % batch, batch)))
    store.flush()
    await worked(store)
    base = store._journal.base
    assert base
    store.flush()
    await worked(store)
    assert store._journal.base == base


async def test_the_journal_is_forced_to_the_disk_in_the_background_once_a_second(opened, clock, monkeypatch):
    store = await opened()
    forced = []
    monkeypatch.setattr(store._journal, "sync", lambda: forced.append(clock.now))
    for _ in range(20):
        clock.now += 0.25
        store.agreed(strings((b"a", 1)))
        store.flush()
        assert store._job is None or len(forced) <= 5
        await worked(store)
    assert len(forced) == 5


# Where it lies.


@pytest.mark.parametrize("mask", [0, 0o077, 0o377])
async def test_nobody_else_may_read_it(tmp_path, mask):
    before = os.umask(mask)
    try:
        store = new_store(tmp_path / "a" / "state")
        store.agreed(strings((b"a", 1)))
        await store.fold()
        store._worker.submit(store._folder.renew).result()
        store.agreed(strings((b"a", 2)))
        await store.fold()
    finally:
        os.umask(before)
    modes = {
        path.name.rpartition(".")[2]: stat.S_IMODE(path.stat().st_mode) for path in store._directory.path.iterdir()
    }
    await store.close()

    assert stat.S_IMODE((tmp_path / "a" / "state").stat().st_mode) == 0o700
    assert modes == {"journal": 0o600, "lock": 0o600, "db": 0o600, "db-wal": 0o600}


@pytest.mark.parametrize("ending", ["lock", "journal", "db"])
async def test_a_link_is_not_followed(tmp_path, ending):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"{PAIR.stem}.{ending}").symlink_to(victim)
    if ending == "db":
        store = new_store(tmp_path)  # set aside, as a database without a journal
        await store.close()
    else:
        with pytest.raises(StateDirectoryError, match="is no regular file"):
            new_store(tmp_path)
    assert victim.read_text() == "precious"


async def test_a_link_in_the_place_of_the_next_journal_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f"{PAIR.stem}.journal.new").symlink_to(victim)
    store = new_store(tmp_path)
    store.agreed(strings((b"a", 1)))
    await store.fold()
    store._worker.submit(store._folder.renew).result()
    await store.close()

    assert victim.read_text() == "precious"
    assert not (tmp_path / f"{PAIR.stem}.journal").is_symlink()


async def test_a_directory_that_cannot_be_used(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StateDirectoryError, match=f"--state-dir {tmp_path}/file/below: .*give a directory that"):
        new_store(tmp_path / "file" / "below")


async def test_without_a_directory_it_remembers_for_this_life(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "file"))
    monkeypatch.setattr(fallback.tempfile, "mkdtemp", lambda prefix: str(tmp_path / prefix))
    options = {"digest_of_hash": digest_of_hash, "bucket_of": bucket_of}
    with capture_logs() as logs:
        store = open_store(None, PAIR, **options)
    store.agreed(strings((b"a", 1)))

    assert (await store.lookup([b"a"]))[b"a"].digest == 1
    assert [(one["event"], one["log_level"]) for one in logs] == [("store.temporary", "warning")]
    await store.close()
    with pytest.raises(StateDirectoryError):
        open_store(tmp_path / "file", PAIR, **options)


async def test_a_large_hash_of_which_one_element_changes(opened):
    """Only that element is read and written."""
    store = await opened()
    elements = {number.to_bytes(8): number for number in range(5000)}
    store.agreed(facts(("hash", b"h", elements, None)))
    await store.fold()
    connection, steps = store._folder._database._connection, []
    connection.set_progress_handler(lambda: steps.append(1) and 0, 100)
    store.agreed(facts(("fields", b"h", {(7).to_bytes(8): 1 << 90})))
    await store.fold()
    connection.set_progress_handler(None, 0)

    assert len(steps) < 20  # of 100 instructions each
    (one,) = (await store.lookup([b"h"], elements=True)).values()
    assert one.elements == elements | {(7).to_bytes(8): 1 << 90}
    assert one.total == total_of(one.elements)


async def test_pages_of_what_is_in_some_buckets(opened):
    store = await opened()
    keys = [b"%s:%04d" % (prefix, number) for prefix in (b"a", b"b") for number in range(3500)]
    store.agreed(strings(*((key, number) for number, key in enumerate(keys))))
    wanted = {ord("1"), ord("4"), ord("5"), ord("6"), ord("7")}

    pages = [page async for page in store.listed(b"b:", wanted)]
    assert [len(page) for page in pages] == [1000, 750]
    expected = [(key, number) for number, key in enumerate(keys) if key[:2] == b"b:" and key[-1] in wanted]
    assert [row for page in pages for row in page] == expected
    assert [page async for page in store.listed(b"b:", set())] == []


async def test_what_was_applied_to_the_site_is_known_until_its_outcome_is_or_the_key_is_agreed_on_again(tmp_path):
    store = new_store(tmp_path)
    store.agreed(facts(("strings", [b"a", b"b", b"c", b"d"], [1, 2, 3, 4])))
    for key, digest in ((b"a", 11), (b"b", 12), (b"c", 13)):
        store.sending(store.next_number(), facts(("strings", [key, b"d"], [digest, digest])), to_site=True)
    store.acknowledged(store.number, [b"d"])
    store.dropped(store.number - 1)
    found = await store.lookup([b"a", b"b", b"c", b"d"])
    assert [found[key].applied for key in (b"a", b"b", b"c", b"d")] == [(11,), (), (), (11,)]
    assert found[b"c"].digest == 13
    assert not any(one.intents for one in found.values())

    store._worker.submit(store._folder.renew).result()
    store.agreed(facts(("gone", b"d")))
    await store.close()
    store = new_store(tmp_path)
    assert store.open_batches == []
    assert store.open_applies == {b"a"}
    found = await store.lookup([b"a", b"d"])
    assert found[b"a"].applied == (11,)
    assert b"d" not in found

    store.agreed(facts(("string", b"a", 5, None)))
    assert (await store.lookup([b"a"]))[b"a"].applied == ()
    assert not store._folder._reader.applying
    await store.close()


async def test_fields_that_were_applied_to_the_site(tmp_path):
    store = new_store(tmp_path)
    store.agreed(facts(("hash", b"h", {b"f": 1, b"g": 2}, None)))
    store.sending(store.next_number(), facts(("fields", b"h", {b"f": 3}, [b"g"])), to_site=True)
    found = (await store.lookup([b"h"], elements=True))[b"h"]
    assert found.element_applied == {b"f": (3,), b"g": (None,)}
    assert found.elements == {b"f": 1, b"g": 2}
    assert not found.element_intents
    await store.close()


@pytest.mark.parametrize(("agreed_on", "left"), [({b"g": 5}, {b"f": 3, b"g": 5}), ({b"f": 5}, {b"f": 5, b"g": 2})])
async def test_an_agreement_about_other_fields_leaves_what_was_applied_as_it_is(opened, agreed_on, left):
    """A push of one field may be answered between an apply of another and its outcome."""
    store = await opened()
    store.agreed(facts(("hash", b"h", {b"f": 1, b"g": 2}, None)))
    number = store.next_number()
    store.sending(number, facts(("fields", b"h", {b"f": 3}, [])), to_site=True)
    store.agreed(facts(("fields", b"h", agreed_on, [])))
    store.acknowledged(number)

    assert (await store.lookup([b"h"], elements=True))[b"h"].elements == left


@pytest.mark.parametrize("folded", [True, False])
async def test_elements_before_a_name(opened, folded):
    store = await opened()
    facts = Facts()
    facts.hash(b"k", {b"1": 1, b"2": 1, b"3": 1})
    facts.hash(b"other", {b"0": 1})
    store.agreed(facts)
    if folded:
        await store.fold()
    assert await store.names(b"k", before=b"3") == {b"1", b"2"}
    facts = Facts()
    facts.fields(b"k", {b"0": 1, b"4": 1}, [b"2"])
    store.agreed(facts)
    assert await store.names(b"k", before=b"3") == {b"0", b"1"}
    facts = Facts()
    facts.hash(b"k", {b"2": 1})
    facts.gone(b"other")
    store.agreed(facts)
    assert await store.names(b"k", before=b"3") == {b"2"}
    assert await store.names(b"other", before=b"3") == await store.names(b"none", before=b"3") == set()


async def test_of_some_collections_only_the_named_elements_are_looked_up(tmp_path):
    store = new_store(tmp_path)
    store.agreed(facts(("hash", b"a", {b"x": 1, b"y": 2}), ("hash", b"b", {b"x": 3, b"y": 4})))
    for _ in range(2):  # from memory, and from the database
        found = await store.lookup([b"a", b"b"], elements=True, names={b"a": [b"y", b"z"]})
        assert {key: known.elements for key, known in found.items()} == {b"a": {b"y": 2}, b"b": {b"x": 3, b"y": 4}}
        await store.fold()
    await store.close()


@pytest.mark.parametrize("folded", [False, True])
async def test_a_hash_in_the_place_of_a_string_has_nothing_of_its_expiry(opened, folded):
    """That its removal would be taken for an expiry."""
    store = await opened()
    store.agreed(facts(("string", b"a", 5, 99)))
    if folded:
        await store.fold()
    store.agreed(facts(("fields", b"a", {name(1): 3})))
    assert (await store.lookup([b"a"]))[b"a"].expires_at_ms is None
