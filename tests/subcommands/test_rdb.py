"""`redisrepl rdb` on files and standard input."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from redisrepl.errors import ConfigError
from redisrepl.subcommands import rdb
from tests.wire.rdb import build

RECORDS = (
    b"\xfa" + build.string(b"redis-ver") + build.string(b"7.0.15"),
    b"\xfa" + build.string(b"redis-bits") + build.integer(64),
    b"\xf5" + build.string(b"#!lua name=f\n"),
    b"\xfe\x00",
    b"\xfc" + build.millis(5000) + build.key(0, b"site:s", build.string(b"value")),
    build.key(4, b"site:h", build.length(1) + build.string(b"f") + build.string(b"\xff")),
    b"\xfe\x03",
    build.key(2, b"other:set\xff", build.length(1) + build.string(b"m" * 100)),
)
SNAPSHOT = build.rdb(*RECORDS)
NAMES = ["site:s", "site:h", {"base64": "b3RoZXI6c2V0/w=="}]


class Terminal(io.StringIO):
    def isatty(self):
        return True


class TerminalBytes(io.BytesIO):
    def isatty(self):
        return True


@pytest.fixture
def snapshot(tmp_path):
    path = tmp_path / "dump.rdb"
    path.write_bytes(SNAPSHOT)
    return str(path)


def run(file, *, out=None, err=None, **options):
    out = out or io.BytesIO()
    err = err or io.StringIO()
    settings = {"ns": [], "types": [], "dbs": [], "keys": False, "summary": False} | options
    code = rdb.run(file, **settings, out=out, err=err)
    return code, out.getvalue().decode(), err.getvalue()


def lines(file, **options):
    code, out, err = run(file, **options)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_one_object_a_line(snapshot):
    assert lines(snapshot) == [
        {"db": None, "key": None, "type": "function", "value": "#!lua name=f\n", "expires_at_ms": None},
        {"db": 0, "key": "site:s", "type": "string", "value": "value", "expires_at_ms": 5000},
        {"db": 0, "key": "site:h", "type": "hash", "value": [["f", {"base64": "/w=="}]], "expires_at_ms": None},
        {"db": 3, "key": NAMES[2], "type": "set", "value": ["m" * 100], "expires_at_ms": None},
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ns": [b"site:"]}, NAMES[:2]),
        ({"ns": [b"site:s", b"other:"]}, [NAMES[0], NAMES[2]]),
        ({"types": ["hash", "set"]}, NAMES[1:]),
        ({"types": ["function"]}, [None]),
        ({"types": ["function", "string"]}, [None, NAMES[0]]),
        ({"dbs": [3]}, NAMES[2:]),
        ({"dbs": [0, 3], "types": ["set"], "ns": [b"o"]}, NAMES[2:]),
        ({"dbs": [9]}, []),
    ],
)
def test_choosing(snapshot, options, expected):
    assert [line["key"] for line in lines(snapshot, **options)] == expected


def test_keys_only(snapshot):
    assert lines(snapshot, keys=True) == NAMES
    assert lines(snapshot, keys=True, types=["hash"]) == ["site:h"]


def test_a_big_value_is_one_line(tmp_path):
    items = [b"%d" % number for number in range(20000)]
    path = tmp_path / "big.rdb"
    path.write_bytes(build.rdb(build.key(1, b"l", build.length(20000) + b"".join(map(build.string, items)))))

    (line,) = lines(str(path))

    assert line["value"] == [item.decode() for item in items]


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SNAPSHOT)))

    assert lines("-", keys=True) == NAMES


def test_output_in_batches(tmp_path):
    records = [build.key(0, b"%d" % number, build.string(b"v" * 5000)) for number in range(40)]
    path = tmp_path / "many.rdb"
    path.write_bytes(build.rdb(*records))

    assert [line["key"] for line in lines(str(path))] == [str(number) for number in range(40)]


def test_damage_is_reported_after_what_could_be_read(tmp_path):
    path = tmp_path / "bad.rdb"
    path.write_bytes(build.rdb(*RECORDS[4:6], b"\x06"))

    code, out, err = run(str(path))

    assert code == 1
    assert [json.loads(line)["key"] for line in out.splitlines()] == NAMES[:2]
    assert err.count("\n") == 1
    assert err.startswith(f"{path}: unknown value type: ")


@pytest.mark.parametrize("options", [{}, {"keys": True}, {"summary": True}])
def test_a_truncated_file(tmp_path, options):
    path = tmp_path / "cut.rdb"
    path.write_bytes(SNAPSHOT[:-1])

    code, out, err = run(str(path), **options)

    assert code == 1
    assert "site:s" in out
    assert "truncated" in err


def test_a_line_cut_short_cannot_be_taken_for_whole(tmp_path):
    items = b"".join(build.string(b"%d" % number) for number in range(20000))
    path = tmp_path / "cut.rdb"
    path.write_bytes(build.rdb(build.key(1, b"l", build.length(20000) + items))[:-5000])

    code, out, _ = run(str(path))

    assert code == 1
    assert out.endswith("\n")
    with pytest.raises(json.JSONDecodeError):
        json.loads(out)


def test_bytes_behind_the_snapshot_are_mentioned(tmp_path):
    path = tmp_path / "more.rdb"
    path.write_bytes(SNAPSHOT + b"*1\r\n$4\r\nPING\r\n")

    code, out, err = run(str(path), keys=True)

    assert code == 0
    assert len(out.splitlines()) == 3
    assert err == f"{path}: what follows the snapshot was not read\n"


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.rdb cannot be read: no such file"):
        run(str(tmp_path / "nothing.rdb"))
    with pytest.raises(ConfigError, match="is a directory"):
        run(str(tmp_path))


@pytest.mark.parametrize("options", [{}, {"keys": True}, {"summary": True}])
def test_nobody_reads_any_more(snapshot, options):
    reading, writing = os.pipe()
    os.close(reading)
    err = io.StringIO()

    with os.fdopen(writing, "wb") as out:
        settings = {"ns": [], "types": [], "dbs": [], "keys": False, "summary": False} | options
        code = rdb.run(snapshot, **settings, out=out, err=err)
        out.write(b"goes nowhere")

    assert (code, err.getvalue()) == (0, "")


def test_nobody_reads_something_that_is_no_file(snapshot):
    class Broken(io.BytesIO):
        def write(self, _data):
            raise BrokenPipeError

    assert run(snapshot, out=Broken())[0] == 0


def test_progress_on_a_terminal(snapshot):
    err = Terminal()

    code, out, _ = run(snapshot, err=err)

    assert code == 0
    assert len(out.splitlines()) == 4
    assert "━" in err.getvalue()


def test_no_progress_among_the_data(snapshot):
    assert run(snapshot, err=Terminal(), out=TerminalBytes())[2] == ""


def test_summary(tmp_path):
    path = tmp_path / "dump.rdb"
    path.write_bytes(build.rdb(*RECORDS, *(build.key(0, b"[red]%065d" % n, build.string(b"v")) for n in range(20))))

    code, out, err = run(str(path), summary=True)
    rows = [line.split() for line in out.splitlines()]

    assert (code, err) == (0, "")
    assert rows[0][:5] == ["RDB", "version", "11,", "redis", "7.0.15,"]
    assert "1 functions" in out
    assert ["0", "hash", "1", "0", "5"] in rows
    assert ["0", "string", "1", "1", "6"] in rows
    assert ["3", "string", "20", "0", "40"] in rows
    assert ["all", "23", "1", "154"] in rows
    assert ["103", "3", "set", '{"base64":"b3RoZXI6c2V0/w=="}'] in rows
    assert "[red]000" in out
    assert "…" in out
    assert len(rows[-12:]) == 12


def test_summary_of_an_unknown_server(tmp_path):
    path = tmp_path / "dump.rdb"
    path.write_bytes(build.rdb())

    assert "unknown server" in run(str(path), summary=True)[1]
