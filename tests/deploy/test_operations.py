"""docs/operations.md and README.md: what they say of the program is so."""

import re
from pathlib import Path

import pytest

from redisrepl.errors import ExitCode

CHECKOUT = Path(__file__).parents[2]
RUNBOOK = (CHECKOUT / "docs" / "operations.md").read_text()
README = (CHECKOUT / "README.md").read_text()
DAEMON = [path for path in (CHECKOUT / "redisrepl").rglob("*.py") if "subcommands" not in path.parts]
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *(CHECKOUT / "docs").glob("*.md")]


def events():
    """Every event that asks for attention."""
    found = set()
    for path in DAEMON:
        text = path.read_text()
        found |= set(re.findall(r'_log\.(?:warning|error)\(\s*"([a-z_.]+)"', text))
        either = re.findall(r'_log\.(?:warning|error)\(\s*f"\{side\}([a-z_.]+)"', text)
        found |= {side + event for event in either for side in ("site", "hub")}
        found |= {f"{stem}.failed" for stem in re.findall(r'Trouble\("([a-z_]+)"', text)}
    return found


def test_every_warning_and_error_is_in_the_runbook():
    assert len(events()) > 10
    assert {event for event in events() if f"`{event}`" not in RUNBOOK} == set()


def test_no_event_in_the_runbook_is_unknown_to_the_program():
    told = set(re.findall(r"`([a-z]+\.[a-z_]+)`", RUNBOOK.partition("## Messages")[2].partition("## Exit codes")[0]))
    text = "".join(path.read_text() for path in DAEMON)

    assert {event for event in told - events() if f'"{event}"' not in text} == set()


def test_the_exit_codes_are_those_of_the_program():
    told = {int(code) for code in re.findall(r"(?m)^\| (\d+) \|", README.partition("## Exit codes")[2])}

    assert told == {int(code) for code in ExitCode}


def test_the_permissions_at_the_site_are_those_of_the_file():
    users = (CHECKOUT / "deploy" / "site" / "users.acl").read_text()
    rows = RUNBOOK.partition("**At the site**")[2].partition("**At the hub**")[0]

    assert set(re.findall(r"\+[a-z|]+", users)) == set(re.findall(r"\+[a-z|]+", rows))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
