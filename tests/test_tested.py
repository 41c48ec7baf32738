"""What `redisrepl check` says of a server that nobody has tried."""

import re
from pathlib import Path

import pytest

from matrix.report import passed, read
from redisrepl.tested import TESTED, not_tried
from redisrepl.wire.replies import as_info

TABLE = Path(__file__).parents[1] / "docs" / "compatibility.md"


def info(**fields):
    return as_info("".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode(), "INFO")


@pytest.mark.parametrize(
    ("fields", "nearest"),
    [
        ({"redis_version": "8.8.0"}, "8.6.3"),
        ({"redis_version": "7.1.3"}, "7.0.15"),
        ({"redis_version": "255.255.255"}, "8.6.3"),
        ({"redis_version": "7.2.4", "valkey_version": "10.0.0"}, "9.1.2"),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.11"}, "8.0.1"),
    ],
)
def test_the_nearest_that_was_tried_is_named(fields, nearest):
    assert f" {nearest}, the nearest" in not_tried(info(**fields))


@pytest.mark.parametrize(
    "fields", [{"redis_version": "8.6.99"}, {"redis_version": "7.2.4", "valkey_version": "9.1.0"}, {"role": "master"}]
)
def test_nothing_is_said_of_a_minor_version_that_was_tried_or_of_none(fields):
    assert not_tried(info(**fields)) is None


def test_a_server_without_pxat_is_too_old():
    assert "upgrade it to 6.2 or later" in not_tried(info(redis_version="6.0.16"))


def test_the_list_is_what_passed_every_case():
    """After `make matrix`, what it wrote goes into redisrepl/tested.py too."""
    assert {(family, version) for family, versions in TESTED.items() for version in versions} == {
        row[:2] for row in passed(read(TABLE.read_text())) if row[0] in TESTED
    }


def test_the_readme_points_to_the_table_and_names_no_server_version_by_hand():
    readme = (TABLE.parents[1] / "README.md").read_text()

    assert "](docs/compatibility.md)" in readme
    assert not re.findall(r"\b(?:Redis|Valkey|Webdis|nginx) v?\d+\.\d", readme)
