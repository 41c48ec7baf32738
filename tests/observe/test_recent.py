"""The last warnings, and what to do about them; never the name of a key."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import redisrepl
from redisrepl.local.client import LOGIN_HINT
from redisrepl.observe.recent import RecentLines
from redisrepl.observe.remedies import REMEDIES, remedy
from redisrepl.observe.words import count, span
from redisrepl.remote.direct import DirectHub

PACKAGE = Path(redisrepl.__file__).parent


def told(*lines):
    recent = RecentLines()
    for level, line in lines:
        assert recent(None, level, dict(line)) == line
    return recent.lines()


def test_warnings_and_errors_are_kept_the_newest_first():
    lines = told(
        ("info", {"event": "stream.attached"}),
        ("warning", {"event": "push.failed", "error": "HTTP 502"}),
        ("error", {"event": "daemon.reload_failed", "error": "no such file"}),
        ("debug", {"event": "x"}),
    )

    assert [(line["event"], line["text"]) for line in lines] == [
        ("daemon.reload_failed", "no such file"),
        ("push.failed", "HTTP 502"),
    ]
    assert lines[1]["remedy"].startswith("Webdis at the hub is down or restarting")


def test_a_certificate_that_ends_is_named():
    hint = "renew it: redisrepl loads new files by itself"
    line = {"event": "certificate.expires", "certificate": "our certificate for the hub", "days_left": 4, "hint": hint}

    assert told(("warning", line))[0]["text"] == "our certificate for the hub"


def test_what_is_said_again_is_counted():
    same = ("warning", {"event": "push.failed", "error": "away"})
    (line,) = told(same, same, same)

    assert line["times"] == 3


def test_what_is_over_is_marked():
    failed, recovered = ("warning", {"event": "push.failed", "error": "away"}), ("info", {"event": "push.recovered"})
    newest, oldest = told(failed, recovered, failed)

    assert "over_at" in oldest
    assert "over_at" not in newest


def test_a_line_that_names_keys_is_kept_without_its_text():
    lines = told(
        ("error", {"event": "push.refused", "key": "site1:secret", "error": "WRONGTYPE of site1:secret"}),
        ("warning", {"event": "conflict.resolved", "key": "site1:secret"}),
    )

    assert "secret" not in str(lines)
    assert lines[1]["remedy"]


def test_there_are_not_more_than_that():
    lines = told(*(("warning", {"event": "push.failed", "error": "x" * 9999, "n": n}) for n in range(3)))
    assert len(lines[0]["text"]) == 500
    assert len(told(*(("warning", {"event": "e", "error": str(n)}) for n in range(100)))) == 20


def test_the_line_s_own_remedy_goes_before_ours():
    (line,) = told(("warning", {"event": "stream.lost", "cause": "overrun", "remedy": "CONFIG SET .."}))

    assert (line["text"], line["remedy"]) == ("overrun", "CONFIG SET ..")


def test_every_warning_of_the_program_has_a_remedy():
    said = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            name, first = ast.unparse(node.func), node.args[0].value
            if name in {"_log.warning", "_log.error"}:
                said.add(first)
            elif name == "FailureLog":
                said.add(f"{first}.failed")

    assert len(said) > 20
    assert said - REMEDIES.keys() == set()


def test_the_error_s_text_goes_before_the_event():
    assert remedy("push.failed", "HTTP 503") != remedy("push.failed")
    assert remedy("no such event") is None


@pytest.mark.parametrize(
    ("error", "names"),
    [
        ("the hub rediss://hub:6379/0 refuses us: WRONGPASS invalid: " + DirectHub.login_hint, "--hub-password-file"),
        ("the site's Redis redis://site:6379 refuses us: WRONGPASS invalid: " + LOGIN_HINT, " --password-file"),
        ("the site's Redis redis://site:6379 refuses us: NOAUTH Authentication required: " + LOGIN_HINT, "the site"),
        ("the hub refuses this client, whatever the key: NOAUTH Authentication required.", "webdis.json"),
    ],
)
def test_who_refuses_a_login_decides_which_password_to_check(error, names):
    assert names in remedy("push.failed", error)


def test_remedies_are_sentences():
    assert [said for said in REMEDIES.values() if not re.fullmatch(r"[A-Z].*[.]", said)] == []


def test_times_and_numbers_are_said_as_people_say_them():
    assert [span(s) for s in (-1, 0.4, 59, 61, 7199, 7200, 200_000)] == [
        "0 s",
        "0 s",
        "59 s",
        "1 min",
        "1 h",
        "2 h",
        "2 d",
    ]
    assert [count(n, "key") for n in (0, 1, 2000)] == ["0 keys", "1 key", "2,000 keys"]
