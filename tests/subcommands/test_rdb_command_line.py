"""`redisrepl rdb` as it is typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wire.rdb import build

CHECKOUT = Path(__file__).parents[2]
SNAPSHOT = build.rdb(
    b"\xfe\x00",
    build.key(0, b"site:s", build.string(b"1")),
    build.key(2, b"site:set", build.length(1) + build.string(b"m")),
    b"\xfe\x03",
    build.key(0, b"other\xff", build.string(b"2")),
)


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump.rdb"
    path.write_bytes(SNAPSHOT)
    return path


def rdb(*args, data=None):
    command = [sys.executable, "-m", "redisrepl", "rdb", *map(str, args)]
    done = subprocess.run(command, input=data, capture_output=True, check=False, cwd=CHECKOUT)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def keys(*args):
    code, out, err = rdb(*args)
    assert (code, err) == (0, "")
    return [json.loads(line)["key"] for line in out.splitlines()]


def test_filters(dump):
    assert keys(dump) == ["site:s", "site:set", {"base64": "b3RoZXL/"}]
    assert keys(dump, "--ns", "site:", "--ns", "x") == ["site:s", "site:set"]
    assert keys(dump, "--ns", b"oth".decode(), "--db", 3) == [{"base64": "b3RoZXL/"}]
    assert keys(dump, "--type", "set", "--type", "hash") == ["site:set"]
    assert keys(dump, "--db", 0, "--type", "string") == ["site:s"]


def test_keys_and_a_summary(dump):
    assert rdb(dump, "--keys", "--db", "0") == (0, '"site:s"\n"site:set"\n', "")
    code, out, _ = rdb(dump, "--summary")

    assert code == 0
    assert "site:set" in out


def test_standard_input():
    assert rdb("-", "--keys", "--db", "0", data=SNAPSHOT)[:2] == (0, '"site:s"\n"site:set"\n')


def test_the_mark_that_redis_cli_leaves_behind_a_snapshot_is_no_rest():
    assert rdb("-", "--keys", "--db", "0", data=SNAPSHOT + b"0f" * 20)[2] == ""
    assert "was not read" in rdb("-", "--keys", data=SNAPSHOT + b"0f" * 19)[2]


def by_shell(redirection, dump):
    """Exit code and the message."""
    command = f"{sys.executable} -m redisrepl rdb {redirection.format(dump=dump)}"
    done = subprocess.run(command, shell=True, capture_output=True, check=False, cwd=CHECKOUT)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    ("redirection", "says"),
    [
        ("{dump} >/dev/full", "standard output cannot be written: No space left"),
        ("{dump} --summary >/dev/full", "standard output cannot be written: No space left"),
        ("{dump} >&-", "standard output is closed"),
        ("- <&-", "standard input is closed"),
    ],
)
def test_a_full_or_closed_end_is_one_sentence(redirection, says, dump):
    code, err = by_shell(redirection, dump)

    assert code == (78 if "input" in says else 74)
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_version_that_is_not_known_is_said(tmp_path):
    path = tmp_path / "new.rdb"
    path.write_bytes(build.rdb(b"\xee", version=99))

    assert "newer than the newest known here" in rdb(path)[2]


def test_a_damaged_snapshot_is_printed_up_to_the_damage(tmp_path):
    cut = tmp_path / "cut.rdb"
    cut.write_bytes(SNAPSHOT[:40])
    code, out, err = rdb(cut)

    assert code == 1
    assert json.loads(out.splitlines()[0])["key"] == "site:s"
    assert "truncated" in err
    assert len(err.splitlines()) == 1


def test_a_file_that_is_not_there(tmp_path):
    code, out, err = rdb(tmp_path / "none")

    assert (code, out) == (78, "")
    assert "no such file" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    "args", [(), ("f", "--db", "-1"), ("f", "--db", "x"), ("f", "--type", "x"), ("f", "--keys", "--summary")]
)
def test_wrong_usage(args):
    code, out, err = rdb(*args)

    assert (code, out) == (2, "")
    assert "redisrepl rdb --help" in err


def test_help_begins_with_an_example():
    code, out, _ = rdb("--help")

    assert code == 0
    assert out.index("example:") < out.index("options:")
    assert "exit codes" in out
