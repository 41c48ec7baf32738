"""docs/mistakes.md says what the program says."""

from pathlib import Path

import pytest
import structlog

from tests.mistakes import MISTAKES, TABLE, good_files, row

ALL = [mistake for mistakes in MISTAKES.values() for mistake in mistakes]
SAID = [line for line in TABLE.read_text().splitlines() if line.startswith("| `")]


@pytest.fixture
def place(tmp_path, certificates, monkeypatch):
    with Path("/dev/null").open() as nobody, good_files(tmp_path, certificates):
        monkeypatch.setattr("sys.stdin", nobody)
        yield
    structlog.reset_defaults()


def test_the_table_has_every_mistake():
    assert len(SAID) == len(ALL) > 67


@pytest.mark.parametrize(("mistake", "line"), list(zip(ALL, SAID, strict=False)), ids=[one.shown for one in ALL])
@pytest.mark.usefixtures("place")
def test_a_mistake_is_answered_as_the_table_says(mistake, line):
    assert row(mistake) == line


def test_no_answer_shows_a_secret_or_where_python_was():
    for line in SAID:
        _, _, code, said = line.replace("\\|", "!").split("|")[:4]
        assert int(code) in {2, 69, 77, 78}
        assert "geheim" not in said
        assert "Traceback" not in said
        assert said.strip().startswith("redisrepl")


def test_each_mistake_is_told_what_to_do():
    """Wrong usage leads to the help; all else names a remedy after a colon or an example."""
    for line in SAID:
        said = line.replace("\\|", "!").split("|")[3]
        assert "ee redisrepl" in said or "for example" in said or said.count(":") >= 2, line
