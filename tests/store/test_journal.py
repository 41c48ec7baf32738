"""The journal gives back what was appended to it, up to where a crash or a disk has cut it, and nothing else."""

import os
import random

import pytest

from redisrepl.store import journal as module
from redisrepl.store.directory import Pair
from redisrepl.store.journal import Journal, Kind, parse, record
from redisrepl.store.unusable import UnusableError
from tests.store.stores import PAIR

RECORDS = [record(Kind.SENDING, b"x" * size) for size in (0, 1, 10, 100)]


@pytest.fixture
def open_journal(tmp_path):
    opened = []

    def open_journal(pair=PAIR):
        opened.append(Journal(tmp_path / "journal", pair))
        return opened[-1]

    yield open_journal
    for journal in opened:
        journal.close()


def content(journal, start=None):
    return [
        (kind, payload) for kind, payload, _ in journal.records(journal.base if start is None else start, journal.end)
    ]


def expected(records):
    return [(kind, payload) for kind, payload, _ in parse(b"".join(records))]


def test_what_was_appended_is_read(open_journal):
    journal = open_journal()
    journal.append(RECORDS[0])
    journal.append(b"".join(RECORDS[1:]))

    assert not journal.existed
    assert content(journal) == expected(RECORDS)
    again = open_journal()
    assert again.existed
    assert content(again) == expected(RECORDS)
    assert (again.base, again.end, again.size) == (journal.base, journal.end, journal.size)


def test_a_record_longer_than_what_is_read_at_once(open_journal, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 50)
    journal = open_journal()
    for one in RECORDS * 3:
        journal.append(one)

    assert content(journal) == expected(RECORDS * 3)


def test_cut_at_any_byte(open_journal):
    journal = open_journal()
    first = journal.size
    journal.append(b"".join(RECORDS))
    whole, ends = journal.path.read_bytes(), [end for *_, end in journal.records(0, journal.end)]
    for length in range(first, len(whole)):
        journal.path.write_bytes(whole[:length])
        cut = Journal(journal.path, PAIR)
        fitting = sum(end <= length - first for end in ends)
        assert content(cut) == expected(RECORDS[:fitting])
        cut.close()


@pytest.mark.parametrize(
    "garbage",
    [
        bytes(100),
        b"\xff" * 100,
        b"\xff\xff\xff\x7f\x02" + bytes(50),  # a length of 2 GB
        random.Random(3).randbytes(5000),
        record(Kind.SENDING, b"payload")[:-1] + b"!",
    ],
)
def test_garbage_behind_the_last_record(open_journal, garbage):
    journal = open_journal()
    journal.append(b"".join(RECORDS))
    with journal.path.open("ab") as file:
        file.write(garbage)
    again = open_journal()

    assert content(again) == expected(RECORDS)
    assert again.cut(journal.end) == len(garbage)
    again.append(RECORDS[2])
    assert content(open_journal()) == expected([*RECORDS, RECORDS[2]])


def test_a_flipped_bit_ends_it_there(open_journal):
    journal = open_journal()
    first = journal.size
    journal.append(b"".join(RECORDS))
    whole, chance = journal.path.read_bytes(), random.Random(5)
    ends = [end for *_, end in journal.records(0, journal.end)]
    for at in range(first, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << chance.randrange(8)
        journal.path.write_bytes(damaged)
        again = Journal(journal.path, PAIR)
        assert content(again) == expected(RECORDS[: sum(end <= at - first for end in ends)])
        again.close()


def test_a_header_that_is_damaged_at_any_byte(open_journal):
    journal = open_journal()
    header, chance = journal.path.read_bytes(), random.Random(6)
    for at in range(len(header)):
        damaged = bytearray(header)
        damaged[at] ^= 1 << chance.randrange(8)
        for data in (damaged, header[:at]):
            journal.path.write_bytes(data)
            with pytest.raises(UnusableError, match="it is damaged"):
                Journal(journal.path, PAIR)


@pytest.mark.parametrize("member", ["site", "hub", "scope"])
def test_one_of_another_pair(open_journal, member):
    ours = {"site": PAIR.site, "hub": PAIR.hub, "scope": PAIR.scope}
    open_journal(Pair(**ours | {member: "another"}))
    with pytest.raises(UnusableError, match="other addresses, namespaces or kinds"):
        open_journal()


def test_one_of_another_format(open_journal, monkeypatch):
    monkeypatch.setattr(module, "_FORMAT", 3)
    open_journal()
    monkeypatch.undo()
    with pytest.raises(UnusableError, match="its format is 3, not 2"):
        open_journal()


@pytest.mark.parametrize("written", [0, 5, 50])
def test_a_write_that_fails_leaves_it_as_it_was(open_journal, monkeypatch, written):
    journal = open_journal()
    journal.append(RECORDS[3])
    before = journal.path.read_bytes()
    write = os.pwrite

    def full(file, data, offset):
        if len(data) == len(RECORDS[3]) and written:
            return write(file, data[:written], offset)
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module.os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        journal.append(RECORDS[3])
    monkeypatch.undo()
    assert content(open_journal()) == expected([RECORDS[3]])
    journal.keep(RECORDS[1])
    journal.keep(RECORDS[2])
    assert content(journal) == expected([RECORDS[3], *RECORDS[1:3]])
    journal.append(RECORDS[0])
    assert journal.path.read_bytes() == before + RECORDS[1] + RECORDS[2] + RECORDS[0]


def test_what_is_kept_is_read_behind_the_file_and_written_before_all_else(open_journal):
    journal = open_journal()
    journal.append(RECORDS[0])
    journal.keep(RECORDS[1])
    place = journal.end
    journal.keep(RECORDS[2])

    assert content(journal) == expected(RECORDS[:3])
    assert content(journal, place) == expected([RECORDS[2]])
    assert content(open_journal()) == expected([RECORDS[0]])
    assert (journal.written, journal.unwritten) == (len(RECORDS[0]), len(RECORDS[1]) + len(RECORDS[2]))
    assert journal.keep_instead(place, RECORDS[3]) == journal.written
    assert content(journal) == expected([RECORDS[0], RECORDS[3], RECORDS[2]])
    journal.append(RECORDS[1])
    assert journal.keep_instead(place, b"") == place  # it was written meanwhile
    for one in (journal, open_journal()):
        assert content(one) == expected([RECORDS[0], RECORDS[3], RECORDS[2], RECORDS[1]])


def test_begun_anew_it_holds_what_was_kept(open_journal):
    journal = open_journal()
    journal.append(RECORDS[0])
    journal.keep(RECORDS[1])
    journal.renew(journal.written, RECORDS[2])

    assert journal.unwritten == 0
    for one in (journal, open_journal()):
        assert content(one) == expected([RECORDS[2], RECORDS[1]])


# Begun anew.


def test_begun_anew_it_carries_what_is_asked_and_keeps_what_comes_behind(open_journal):
    journal = open_journal()
    journal.append(b"".join(RECORDS[:2]))
    place = journal.end
    journal.append(b"".join(RECORDS[2:]))
    carried = record(Kind.DOCUMENT, b"{}")
    journal.renew(place, carried)

    assert journal.base == place
    for one in (journal, open_journal()):
        assert content(one) == expected([carried, *RECORDS[2:]])
    journal.append(RECORDS[0])
    again = open_journal()
    assert content(again) == expected([carried, *RECORDS[2:], RECORDS[0]])
    assert (again.base, again.end) == (journal.base, journal.end)


def test_what_is_appended_while_it_is_begun_anew_is_kept(open_journal, monkeypatch):
    journal = open_journal()
    late = iter(RECORDS[1:])
    monkeypatch.setattr(module.os, "fsync", lambda _: journal.append(next(late)))
    journal.renew(0, RECORDS[0])
    monkeypatch.undo()

    assert content(journal) == content(open_journal())
    assert content(journal) == expected(RECORDS[:3])  # one before the names were changed, one after


@pytest.mark.parametrize("step", ["write", "fsync"])
def test_a_disk_that_fails_while_it_is_begun_anew_leaves_the_old_one(open_journal, monkeypatch, step, tmp_path):
    journal = open_journal()
    journal.append(RECORDS[3])

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module.os, step, full)
    with pytest.raises(OSError, match="No space left"):
        journal.renew(journal.end, b"")
    monkeypatch.undo()

    assert [path.name for path in tmp_path.iterdir()] == ["journal"]
    journal.append(RECORDS[0])
    assert content(open_journal()) == expected([RECORDS[3], RECORDS[0]])


def test_a_half_made_new_one_does_not_matter(open_journal):
    journal = open_journal()
    journal.path.with_name("journal.new").write_bytes(b"half")
    journal.append(RECORDS[1])
    journal.renew(0, b"")

    assert content(open_journal()) == expected([RECORDS[1]])


def test_whether_it_was_removed(open_journal):
    journal = open_journal()
    assert not journal.removed
    journal.renew(0, b"")
    assert not journal.removed
    journal.path.unlink()
    assert journal.removed
    journal.path.touch()
    assert journal.removed
