"""`redisrepl check` names each command of the table in docs/permissions.md that a server denies or does not know."""

import re
from pathlib import Path

import pytest

from redisrepl.changes import KINDS
from redisrepl.cli import main
from redisrepl.subcommands import check_hub
from testbed import Hub, RedisServer
from tests.e2e.support import certificate_flags, forget_proxies, place_flags

DOCUMENT = Path(__file__).parents[2] / "docs/permissions.md"
ADMIN = "user admin on >x ~* &* +@all"
ROOMY = {"repl-backlog-size": "16mb"}
OK = 0


def rows():
    """Each command of the table: its side, what else must be missing, and what is lost without."""
    section = DOCUMENT.read_text().partition("## What is lost without a command")[2].partition("\n## ")[0]
    for side, commands, lost in re.findall(r"^\| (site|hub) \| (.*?) \| (.*) \|$", section, re.MULTILINE):
        named, _, beside = commands.partition(", with ")
        named, _, keys = named.partition(" on ")
        also = re.findall("`([A-Z]+)`", beside)[:1]
        for command in re.findall("`([A-Z ]+)`", named):
            if command.startswith("HPEXPIRE"):  # servers before Redis 7.4 have none such: `matrix` tries them
                continue
            yield side, command, (*also, *re.findall("`(redisrepl:[a-z]+:)", keys)), lost


ROWS = list(rows())
every_row = pytest.mark.parametrize(
    ("side", "command", "beside", "lost"), ROWS, ids=["-".join((s, c.replace(" ", "_"), *b)) for s, c, b, _ in ROWS]
)


@pytest.fixture(scope="module")
def servers(certificates):
    redis = {"users": ["user default on nopass ~* &* +@all", ADMIN]}
    with RedisServer(config=ROOMY, users=redis["users"]) as site, Hub(certificates, redis=redis) as hub:
        yield site, hub


@pytest.fixture
def check(certificates, capsys, monkeypatch, tmp_path):
    """The exit code and the lines between these servers."""
    forget_proxies(monkeypatch)
    monkeypatch.setattr(check_hub, "_CANARY_PATIENCE", 0.3)

    def check(site, hub):
        words = ["check", *certificate_flags(certificates), *place_flags(site, hub), "--ns", "site1:", "-rc"]
        kinds = ",".join(sorted(KINDS - {"fields-expire"} | {"streams-groups"}))
        code = main([*map(str, words), "--replicate", kinds, "--state-dir", str(tmp_path)])
        return code, capsys.readouterr().out.splitlines()

    return check


def named(lines, side, command):
    """The lines of this side that tell of this command that it is missing."""
    found = []
    for line in lines:
        what, _, said = line[5:].partition(": ")
        told = f"the {side}'s Redis (denies|does not know)|refuse|confirm PSUBSCRIBE"
        if what.startswith(side) and re.search(told, said) and re.search(rf"\b{command}\b", said):
            found.append(line)
    return found


def assert_named(code, lines, side, command, lost):
    found = named(lines, side, command)
    assert found, lines
    assert any(re.search(r"ACL|rename-command", line) for line in found), found  # the remedy
    if re.match(r"speed|nothing(?! that)", lost) and "streams" not in lost:
        assert code == OK
    assert "checks, " in lines[-1]
    for needed in ("site PSYNC", "hub permissions"):  # all else is checked too
        assert any(needed in line for line in lines)


def test_the_table_is_read():
    assert len(ROWS) > 50
    assert {side for side, *_ in ROWS} == {"site", "hub"}
    assert ("hub", "KEYS", ("SCAN",)) in {row[:3] for row in ROWS}


def test_nothing_is_named_where_nothing_is_missing(check, servers):
    code, lines = check(*servers)
    assert code == OK
    assert all(line.startswith("ok ") for line in lines[:-1]), lines


@every_row
def test_a_command_that_is_denied(check, servers, side, command, beside, lost):
    server = servers[0] if side == "site" else servers[1].server
    admin = server.client(username="admin", password="x")
    keys = [word for word in beside if word.endswith(":")]
    denied = [f"-{word.lower().replace(' ', '|')}" for word in (command, *beside) if word not in keys]
    if keys:
        denied = ["resetkeys", "~site1:*"]
    admin.execute_command("ACL", "SETUSER", "default", *denied)
    try:
        code, lines = check(*servers)
    finally:
        admin.execute_command("ACL", "SETUSER", "default", "allkeys", "+@all")
    if keys:
        assert code == OK
        assert [line for line in lines if f"'~{keys[0]}site1:*'" in line and line.startswith("note")], lines
    else:
        assert_named(code, lines, side, command, lost)


@every_row
def test_a_command_that_is_not_known(check, certificates, servers, side, command, beside, lost):
    words = {word.split()[0] for word in (command, *beside) if not word.endswith(":")}
    config = ROOMY | {"rename-command": [f'{word} ""' for word in words]}
    with RedisServer(config=config, tls=certificates if side == "hub" else None) as server:
        pair = (server, servers[1]) if side == "site" else (servers[0], f"rediss://localhost:{server.tls_port}")
        assert_named(*check(*pair), side, command, lost)
