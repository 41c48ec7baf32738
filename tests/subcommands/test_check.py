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
        *("namespaces", "state directory", "certificates", "site", "site clock"),
        *("site backlog", "site buffer", "site timeouts", "site PSYNC"),
        *("hub", "hub clock", "hub scripts", "hub body limit", "hub notifications", "hub subscription site1:"),
    ]
    assert summary == "15 checks, 0 failed, 0 could be better"


def test_whether_a_flush_of_the_hub_would_be_noticed(check, servers):
    removals = ("-rc", "--replicate", "set,hset,del")
    code, found, _ = check(*removals)
    assert (code, found["hub flushes"]) == (OK, ("ok", "INFO tells of them"))
    servers[1].redis.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        code, found, summary = check(*removals)
    finally:
        servers[1].redis.execute_command("ACL", "SETUSER", "default", "+info")
    assert code == OK
    sign, said = found["hub flushes"]
    assert sign != "ok"
    assert "allow INFO" in said
    assert summary.endswith("0 failed, 1 could be better")


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


@pytest.mark.parametrize(
    ("config", "what", "remedy"),
    [
        ({"client-output-buffer-limit": "replica 16mb 8mb 60"}, "site buffer", "CONFIG SET client-output-buffer-limit"),
        ({"repl-timeout": 5}, "site timeouts", "CONFIG SET repl-timeout 60"),
        ({"repl-ping-replica-period": 90}, "site timeouts", "CONFIG SET repl-ping-replica-period 10"),
    ],
)
def test_limits_that_end_links(check, config, what, remedy):
    with RedisServer(config=ROOMY["config"] | config) as site:
        code, found, summary = check(site=site)
    assert code == OK
    assert found[what][0] == "note"
    assert remedy in found[what][1]
    assert summary.endswith("0 failed, 1 could be better")


def test_a_buffer_without_a_limit(check):
    with RedisServer(config=ROOMY["config"] | {"client-output-buffer-limit": "replica 0 0 0"}) as site:
        assert check(site=site)[1]["site buffer"] == ("ok", "replica 0 0 0")


def test_a_site_that_is_a_replica(check, servers):
    with RedisServer(replica_of=servers[0], **ROOMY) as replica:
        code, found, _ = check("-rc", site=replica)
        assert code == CONFIG
        assert found["site"][0] == "FAIL"
        assert "--sentinel" in found["site"][1]
        assert check(site=replica)[1]["site"][0] == "ok"


def test_a_state_directory_that_cannot_be_used(check, tmp_path):
    (tmp_path / "file").touch()
    code, found, _ = check("--state-dir", tmp_path / "file")
    assert code == CONFIG
    assert found["state directory"][0] == "FAIL"
    assert "--state-dir" in found["state directory"][1]
    assert check("--state-dir", tmp_path / "new" / "one")[1]["state directory"][0] == "ok"
    assert not (tmp_path / "new").exists()


# Where keyspace events are followed.


@pytest.mark.parametrize("source", ["auto", "notify"])
def test_events_of_the_site(check, source, tmp_path):
    (tmp_path / "password").write_text("secret")
    users = ["weak on >secret ~* &* +@all -psync -sync"]
    args = ("--user", "weak", "--password-file", tmp_path / "password", "--source", source, "--replicate", "set,del")
    with RedisServer(users=users, **ROOMY) as site:
        code, found, _ = check(*args, site=site)
        assert code == OK
        assert found["site notifications"][0] == "ok"
        assert "K$hgxe is missing: it is added at the start if CONFIG SET is allowed" in found["site notifications"][1]
        assert site.client().config_get("notify-keyspace-events") == {"notify-keyspace-events": ""}  # still
        assert found["site events"] == ("ok", "PSUBSCRIBE __keyspace@0__:site1:* is allowed")
        site.client().config_set("notify-keyspace-events", "KA")
        assert check(*args, site=site)[1]["site notifications"][0] == "ok"


def test_events_of_the_site_that_are_not_allowed(check, tmp_path):
    (tmp_path / "password").write_text("secret")
    users = ["weak on >secret ~* resetchannels &other +@all -psync -sync -config"]
    args = ("--user", "weak", "--password-file", tmp_path / "password", "--source", "notify")
    with RedisServer(users=users, **ROOMY) as site:
        code, found, _ = check(*args, site=site)
    assert code == REFUSED
    assert found["site notifications"][0] == "note"
    assert "have notify-keyspace-events include K$hg" in found["site notifications"][1]
    assert found["site events"][0] == "FAIL"
    assert "(ACL: +psubscribe &__keyspace@0__:site1:*)" in found["site events"][1]
    assert "site PSYNC" not in found


def test_a_user_who_may_not_see_the_configuration(check, tmp_path):
    (tmp_path / "password").write_text("secret")
    users = ["weak on >secret ~* &* +@all -config"]
    with RedisServer(users=users, **ROOMY) as site:
        code, found, _ = check("--user", "weak", "--password-file", tmp_path / "password", site=site)
    assert code == OK
    assert found["site buffer"] == ("ok", "not known, CONFIG GET is refused; the default is enough")
    assert "site timeouts" not in found


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
