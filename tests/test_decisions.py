"""Documents that list files list all of them, and name none that is not there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DECISIONS = ROOT / "docs/decisions"


def test_every_decision_is_listed_with_its_date():
    listed = re.findall(r"(?m)^\| (\S+) \| \[.+\]\((\S+)\) \|$", (DECISIONS / "README.md").read_text())

    assert sorted(name for _, name in listed) == sorted(p.name for p in DECISIONS.glob("2*.md"))
    assert all(name.startswith(date) for date, name in listed)
    assert listed == sorted(listed, key=lambda row: row[0])


@pytest.mark.parametrize(
    "document", ["CONTRIBUTING.md", *(f"docs/decisions/{p.name}" for p in DECISIONS.glob("2*.md"))]
)
def test_files_that_are_named_exist(document):
    """Paths from the root of the repository, or below the package."""
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.[a-z]+)?|[a-z_]+\.py)`", (ROOT / document).read_text())

    assert named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "redisrepl" / name).exists(), name
