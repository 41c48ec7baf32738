"""`redisrepl check` as a process of its own: each precondition a line, each failure with what to do."""

import contextlib
import datetime as dt

import pytest

from testbed import Daemon, Hub, RedisServer

OK, UNAVAILABLE, REFUSED, CONFIG = 0, 69, 77, 78
ROOMY = {"config": {"repl-backlog-size": "16mb"}}


@pytest.fixture(scope="module")
def servers(certificates):
    with RedisServer(**ROOMY) as site, Hub(certificates) as hub:
        yield site, hub


@pytest.fixture
def check(servers, certificates):
    """Run it between these servers; exit code, lines by precondition, the last line."""

    def check(*args, site=None, hub=None, pair=None, ns="site1:"):
        site, hub, pair = site or servers[0], hub or servers[1], pair or certificates.client_pair
        words = ["check", "--ns", ns, "--ca", certificates.ca, "--cert", pair.cert, "--key", pair.key]
        words += ["--raddr", f"127.0.0.1:{site.port}", "--haddr", getattr(hub, "url", hub)]
        environment = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), "")
        with Daemon([*words, *args], env=environment) as process:
            code = process.wait(60)
        assert "Traceback" not in process.stderr
        *lines, summary = process.stdout.splitlines()
        found = {}
        for line in lines:
            what, _, said = line[5:].partition(": ")
            found[what] = (line[:4].strip(), said)
        assert summary.startswith(f"{len(lines)} checks, ")
        return code, found, summary

    return check


def test_everything_holds(check):
    code, found, summary = check("-rc")
    assert code == OK
    assert {sign for sign, _ in found.values()} == {"ok"}, found
    assert list(found) == [
        *("namespaces", "certificates", "site", "site clock", "site backlog", "site PSYNC"),
        *("hub", "hub clock", "hub scripts", "hub body limit", "hub notifications", "hub subscription site1:"),
    ]
    assert summary == "12 checks, 0 failed, 0 could be better"


def test_without_rc_the_hub_needs_no_notifications(check):
    code, found, _ = check()
    assert code == OK
    assert not [what for what in found if "notifications" in what or "subscription" in what]


def test_an_open_namespace(check):
    code, found, summary = check(ns="site1")
    assert code == OK
    assert "could be better" in summary
    assert found["hub"][0] == "ok"


def test_a_small_backlog_is_a_note(check):
    with RedisServer() as site:
        code, found, summary = check(site=site)
    assert code == OK
    assert found["site backlog"][0] == "note"
    assert "CONFIG SET repl-backlog-size 16mb" in found["site backlog"][1]
    assert summary.endswith("0 failed, 1 could be better")


def test_flags_are_missing_and_may_only_be_checked(check, servers):
    servers[1].redis.config_set("notify-keyspace-events", "Kg")
    code, found, _ = check("-rc", "--notify-config", "check")
    assert code == CONFIG
    sign, said = found["hub notifications"]
    assert sign == "FAIL"
    assert "is missing: have it set there" in said
    assert "$" in said
    code, found, _ = check("-rc")
    assert code == OK
    assert "will be added at the start" in found["hub notifications"][1]
    assert servers[1].redis.config_get("notify-keyspace-events") != {}


def test_scripts_are_not_allowed(check, certificates):
    users = ["user default on nopass ~* &* +@all -eval"]
    with Hub(certificates, redis={"users": users}) as hub:
        code, found, _ = check(hub=hub)
    assert code == OK
    assert found["hub scripts"] == ("note", "EVAL is refused, so each write is a request of its own: allow it")


def test_a_small_body_limit(check, certificates):
    with Hub(certificates, nginx={"client_max_body_size": "100k"}) as hub:
        code, found, _ = check(hub=hub)
        assert code == OK
        sign, said = found["hub body limit"]
        assert sign == "note"
        assert "client_max_body_size" in said
        assert "--max-body" in said
        assert check("--max-body", "50000", hub=hub)[1]["hub body limit"][0] == "ok"


@pytest.mark.parametrize(("source", "sign"), [("psync", "FAIL"), ("auto", "note")])
def test_psync_is_refused(check, source, sign, tmp_path):
    (tmp_path / "password").write_text("secret")
    users = ["weak on >secret ~* &* +@all -psync -sync"]
    with RedisServer(users=users, **ROOMY) as site:
        code, found, _ = check(
            *("--user", "weak", "--password-file", tmp_path / "password", "--source", source), site=site
        )
    assert code == (REFUSED if source == "psync" else OK)
    assert found["site PSYNC"][0] == sign
    assert "psync" in found["site PSYNC"][1].lower()
    assert found["hub"][0] == "ok"


def test_a_wrong_password(check, tmp_path):
    (tmp_path / "password").write_text("wrong")
    with RedisServer(password="right") as site:
        code, found, _ = check("--password-file", tmp_path / "password", site=site)
    assert code == REFUSED
    assert found["site"][0] == "FAIL"
    assert "password" in found["site"][1].lower()
    assert "site PSYNC" not in found
    assert found["hub"][0] == "ok"


def test_an_expired_certificate(check, certificates):
    code, found, _ = check(pair=certificates.expired_client())
    assert code == REFUSED
    assert found["certificates"][0] == "FAIL"
    assert "renew it" in found["certificates"][1]
    assert found["site"][0] == "ok"


def test_a_certificate_that_expires_soon(check, certificates):
    code, found, _ = check(pair=certificates.expiring_client(dt.timedelta(days=3)))
    assert code == OK
    assert found["certificates"][0] == "note"
    assert found["certificates"][1].endswith("renew it now")


def test_the_hub_is_away(check):
    code, found, _ = check(hub="https://127.0.0.1:1/redis")
    assert code == UNAVAILABLE
    assert found["hub"][0] == "FAIL"
    assert "cannot be reached" in found["hub"][1]
    assert found["site PSYNC"][0] == "ok"


def test_the_site_is_away(check):
    with contextlib.closing(RedisServer()) as away:
        code, found, _ = check(site=away)
    assert code == UNAVAILABLE
    assert found["site"][0] == "FAIL"
    assert found["hub"][0] == "ok"
