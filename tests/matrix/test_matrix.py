"""The table of programs, what is told of them, and what becomes of one that cannot be had."""

import subprocess
from pathlib import Path

import pytest

from matrix.__main__ import main
from matrix.fetching import Cache, Fetched, UnavailableError
from matrix.programs import PROGRAMS, SUITES, Deb, Installed, Program, Wheel
from matrix.report import document, passed, read, rows_of, updated
from matrix.runs import CASES, Outcome, Role, choice_of, roles_of, try_program

CHECKOUT = Path(__file__).parents[2]


def outcome(version="8.0", role="both", **cases):
    program = Fetched(Program("redis", version, Wheel(f"servers=={version}", "x")), "/x", version)
    counts = {name.replace("_", " "): numbers for name, numbers in cases.items()}
    return Outcome(program, Role(role, {}), 1, counts)


def test_each_program_is_named_once_and_can_be_tried():
    names = [program.name for program in PROGRAMS]
    assert sorted(names) == sorted(set(names))
    assert all(roles_of(program.family) for program in PROGRAMS)
    assert all(each.source.suite in SUITES for each in PROGRAMS if isinstance(each.source, Deb))


def test_no_registry_is_named():
    sources = [path.read_text() for path in (CHECKOUT / "matrix").rglob("*.py")]
    assert not [text for text in sources if "://" in text.replace("https://localhost", "")]


def test_the_table_comes_back_as_it_was_written():
    rows = rows_of(
        [outcome(both_ways=[3, 0, 0], rdb=[1, 1, 0], outage=[0, 0, 1]), outcome("7.2", tail=[1, 0, 0])], "2026-11-28"
    )
    text = document(rows, {"redis-9": "nobody has it"})
    assert read(text) == rows
    assert "- redis-9: nobody has it" in text
    cells = dict(zip(CASES, rows["Redis", "8.0", "PyPI servers==8.0", "both"][1:], strict=True))
    assert (cells["both ways"], cells["rdb"], cells["outage"], cells["tail"]) == ("ok", "1/2", "-", "-")
    assert passed(rows) == [("Redis", "7.2")]


def test_a_new_column_leaves_the_others_as_they_were():
    rows = rows_of([outcome(both_ways=[3, 0, 0], rdb=[1, 1, 0])], "2026-11-28")
    text = document(rows, {}).replace(" | outage | ", " | ")
    lines = [line.replace(" | - |", " |", 1) if line.startswith("| Redis |") else line for line in text.splitlines()]
    assert read("\n".join(lines)) == rows


def test_a_run_of_some_cases_leaves_the_other_cells_as_they_were():
    before = rows_of([outcome(both_ways=[3, 0, 0], rdb=[1, 1, 0])], "2026-11-28")
    news = rows_of([outcome(rdb=[2, 0, 0]), outcome("7.2", tail=[1, 0, 0])], "2026-11-29")
    rows = updated(before, news, whole=False)
    cells = {row[1]: dict(zip(CASES, rows[row][1:], strict=True)) for row in rows}
    assert {row[1]: rows[row][0] for row in rows} == {"8.0": "2026-11-29", "7.2": "2026-11-29"}
    assert (cells["8.0"]["both ways"], cells["8.0"]["rdb"], cells["7.2"]["tail"]) == ("ok", "ok", "ok")
    assert updated(before, news, whole=True) == before | news


def test_cases_are_chosen_by_their_tests():
    assert choice_of(["every command"]) == "test_types"
    assert choice_of(["restarts", "tail"]) == "test_life or (test_commands and (tail))"
    with pytest.raises(SystemExit):
        main(["--list", "--case", "suite"])


def test_rows_are_in_the_order_of_versions():
    rows = rows_of([outcome(version) for version in ("8.0", "10.0", "7.2")], "2026-11-28")
    text = document(rows, {})
    assert text.index("| 7.2 ") < text.index("| 8.0 ") < text.index("| 10.0 ")


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (Program("redis", "0", Installed("no-such-server")), "no-such-server is not installed"),
        (Program("redis", "0", Installed("false")), "false"),
        (Program("redis", "0", Installed("true")), "does not tell its version"),
    ],
)
def test_why_a_program_cannot_be_had(tmp_path, program, reason):
    with pytest.raises(UnavailableError, match=reason):
        Cache(tmp_path).get(program)


def test_a_program_that_does_not_start_is_left_out(tmp_path, monkeypatch, capsys):
    gone = Program("redis", "9", Installed("no-such-server"))
    monkeypatch.setattr("matrix.__main__.PROGRAMS", (gone,))
    monkeypatch.setenv("MATRIX_CACHE", str(tmp_path))
    assert main(["--report", str(tmp_path / "table.md")]) == 0
    assert "redis-9: left out, no-such-server is not installed" in capsys.readouterr().out


def test_a_failure_keeps_its_logs_and_says_its_seed(tmp_path):
    """A server that does not start fails every case."""
    program = Fetched(Program("redis", "0", Installed("false")), "false", "0")
    found = try_program(program, roles_of("redis")[0], tmp_path, seed=7, quick=True, choice="test_tail")
    assert found.failures == ["matrix/cases/test_commands.py::test_tail"]
    assert found.logs == tmp_path / "redis-0-both-7"
    assert "--randomly-seed=7" in (found.logs / "pytest.log").read_text()


def test_the_program_for_a_second_site_is_told_to_the_cases(tmp_path, monkeypatch):
    """Whatever the environment says of one."""
    told = []
    monkeypatch.setenv("TESTBED_AGAINST", "/of/the/environment")
    monkeypatch.setattr("matrix.runs.subprocess.run", lambda *_, env, **__: told.append(env.get("TESTBED_AGAINST")))
    program = Fetched(Program("redis", "0", Installed("false")), "false", "0")
    for against in (Path("/old/redisRepl"), None):
        try_program(program, roles_of("redis")[0], tmp_path, against=against)
    assert told == ["/old/redisRepl", None]


def test_a_program_that_cannot_be_run_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--list", "--against", "/no/such/program"])
    assert "cannot be run: give the path of an executable file" in capsys.readouterr().err


def test_a_name_that_is_none_is_refused():
    with pytest.raises(SystemExit):
        main(["--only", "redis-1.0"])


def test_make_knows_it():
    told = subprocess.run(["make", "help"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert "make matrix" in told
    assert "make kill9" in told
