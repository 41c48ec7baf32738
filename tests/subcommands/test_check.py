"""`redisrepl check` as a process of its own: each precondition a line, each failure with what to do."""

import contextlib
import datetime as dt
import json
import re
import shlex
import time

import pytest

from redisrepl.cli import main
from redisrepl.errors import CommandRefusedError
from redisrepl.subcommands.check_hub import _refusals
from redisrepl.subcommands.finding import clock_finding
from testbed import Daemon, Hub, RedisServer
from testbed.nginx import HUB_FILES
from tests.tls.test_certificates import old_authority

OK, UNAVAILABLE, REFUSED, CONFIG = 0, 69, 77, 78
ROOMY = {"config": {"repl-backlog-size": "16mb"}}
ADMIN = "user admin on >x ~* &* +@all"


def shipped_hub(certificates):
    """A hub from the files in deploy/hub; only places on this machine are others."""
    lines = (HUB_FILES / "redis.conf").read_text().splitlines()
    directives = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    webdis = json.loads((HUB_FILES / "webdis.json").read_text())
    for own in ("redis_host", "redis_port", "http_host", "http_port", "logfile"):
        del webdis[own]
    return Hub(certificates, redis={"config": directives | {"aclfile": HUB_FILES / "users.acl"}}, webdis=webdis)


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


def test_everything_holds(check, servers):
    before = [server.keys() for server in (servers[0].client(), servers[1].redis)]
    code, found, summary = check("-rc")
    assert code == OK
    assert {sign for sign, _ in found.values()} == {"ok"}, found
    assert list(found) == [
        *("namespaces", "state directory", "certificates", "site", "site clock", "site eviction"),
        *("site permissions site1:", "site backlog", "site buffer", "site timeouts", "site PSYNC"),
        *("hub", "hub eviction", "hub clock", "hub permissions site1:", "hub scripts", "hub body limit"),
        *("hub notifications", "hub subscription site1:"),
    ]
    assert summary == "19 checks, 0 failed, 0 could be better"
    assert [server.keys() for server in (servers[0].client(), servers[1].redis)] == before


def test_the_files_of_deploy_hub_are_all_that_a_daemon_needs(check, certificates):
    """Exactly those: users.acl, redis.conf, webdis.json and nginx.conf, with the password that they come with."""
    with shipped_hub(certificates) as hub:
        code, found, summary = check("-rc", "--replicate", "set,hset,del,expire", hub=hub.url)
    assert (code, {sign for sign, _ in found.values()}) == (OK, {"ok"}), found
    assert found["hub permissions site1:"][1] == "its keys may be read and written, its events heard"
    assert "leave it so if `hub notifications` is ok" in found["hub flags"][1]
    assert summary.endswith("0 failed, 0 could be better")


def test_a_namespace_that_the_hubs_users_do_not_have(check, certificates):
    with shipped_hub(certificates) as hub:
        code, found, _ = check("-rc", hub=hub.url, ns="site1:,site2:")
    assert code == REFUSED
    assert found["hub permissions site1:"][0] == found["hub subscription site1:"][0] == "ok"
    sign, said = found["hub permissions site2:"]
    assert sign == "FAIL"
    grants = "'~site2:*' '&__keyspace@0__:site2:*'"
    user = "(USER: the one in redis_auth of webdis.json, or default if that names none)"  # it may not ask who it is
    remedy = f"on the hub: redis-cli ACL SETUSER USER {grants}, then ACL SAVE {user}"
    assert said == f"the hub's Redis denies its keys, its channel, so that no events would come: {remedy}"
    assert "hub subscription site2:" not in found  # to ask would take until somebody loses patience


@pytest.mark.parametrize(
    ("denied", "args", "said"),
    [
        ("-hset", (), "HSET: on the hub: redis-cli ACL SETUSER default +hset, then ACL SAVE"),
        ("-set", ("--replicate", "hset"), None),
        (
            "-del -hdel",
            ("--replicate", "set,del"),
            "DEL, HDEL: on the hub: redis-cli ACL SETUSER default +del +hdel, ",
        ),
        (
            "resetchannels &other",
            ("-rc",),
            "its channel, so that no events would come: on the hub: redis-cli",
        ),
        (
            "-xinfo -lrange",
            ("--replicate", "all"),
            "LRANGE, XINFO, so lists and streams are not fully replicated: on the hub: redis-cli ACL SETUSER default ",
        ),
        (
            "-dump -restore",
            ("--opaque", "restore"),
            "DUMP, RESTORE, so types of modules are not fully replicated: on the hub: redis-cli ACL SETUSER default ",
        ),
        ("resetkeys ~site10:*", (), "its keys: on the hub: redis-cli ACL SETUSER default '~site1:*', then"),
    ],
)
def test_what_the_hubs_users_may_not_do(check, certificates, denied, args, said):
    """And the remedy is one: with it the check passes."""
    with Hub(certificates, redis={"users": [f"user default on nopass ~* &* +@all {denied}", ADMIN]}) as hub:
        code, found, _ = check(*args, hub=hub)
        if said is None:
            assert (code, found["hub permissions site1:"][0]) == (OK, "ok")
            return
        assert (code, found["hub permissions site1:"][0]) == (REFUSED, "FAIL")
        assert found["hub permissions site1:"][1].startswith(f"the hub's Redis denies {said}")
        remedy = re.search(r"redis-cli (ACL SETUSER .*?), then", found["hub permissions site1:"][1])[1]
        hub.server.client(username="admin", password="x").execute_command(*shlex.split(remedy))
        assert check(*args, hub=hub)[0] == OK


@pytest.mark.parametrize(
    ("denied", "args", "said"),
    [
        ("-hset", ("--replicate", "all"), None),
        ("-hset", ("-rc",), "denies HSET: at the site: redis-cli ACL SETUSER default +hset, then ACL SAVE"),
        (
            "-xinfo -sadd",
            ("-rc", "--replicate", "all"),
            "denies XINFO, SADD, so sets and streams are not fully replicated: at the site: redis-cli ACL SETUSER ",
        ),
        ("-dump", ("--opaque", "restore"), "denies DUMP, so types of modules are not fully replicated: at the site: "),
        ("resetkeys ~site10:*", (), "denies its keys: at the site: redis-cli ACL SETUSER default '~site1:*', then"),
        ("-multi", ("-rc",), None),
    ],
)
def test_what_the_sites_users_may_not_do(check, denied, args, said):
    """And the remedy is one; nothing is written meanwhile."""
    with RedisServer(users=[f"user default on nopass ~* &* +@all {denied}", ADMIN], **ROOMY) as site:
        admin = site.client(username="admin", password="x")
        everything = check(*args, site=site)[1]
        found = everything["site permissions site1:"]
        assert not admin.keys()
        if denied == "-multi":
            said = "the site's Redis denies MULTI, so nothing of the hub's can be applied"
            assert everything["site applying"] == ("FAIL", f"{said}: {_MULTI}")
            assert found == ("ok", "its keys may be read, what it may write was not asked, since MULTI is refused")
        elif said is None:
            assert found[0] == "ok"
        else:
            assert found[0] == "FAIL"
            assert found[1].startswith(f"the site's Redis {said}")
            remedy = re.search(r"redis-cli (ACL SETUSER .*?), then", found[1])[1]
            admin.execute_command(*shlex.split(remedy))
            assert check(*args, site=site)[1]["site permissions site1:"][0] == "ok"
            assert not admin.keys()


_MULTI = "at the site: redis-cli ACL SETUSER default +multi, then ACL SAVE"


def test_a_command_that_the_site_does_not_know(check):
    with RedisServer(config=ROOMY["config"] | {"rename-command": 'XINFO ""'}) as site:
        found = check("--replicate", "all", site=site)[1]["site permissions site1:"]
    assert found[0] == "FAIL"
    remedy = "take the rename-command of XINFO out of redis.conf, or use a server that has it"
    lost = "does not know XINFO, so streams are not fully replicated"
    assert found[1] == f"the site's Redis {lost}: at the site: {remedy}"


def test_a_command_that_webdis_refuses(check, certificates):
    with Hub(certificates, webdis={"acl": [{"disabled": ["DEBUG", "HSET"]}]}) as hub:
        code, found, _ = check(hub=hub)
    assert code == REFUSED
    refusal = "Webdis refuses HSET: take HSET out of 'disabled' in its webdis.json"
    assert found["hub permissions site1:"] == ("FAIL", refusal)


def test_a_hub_whose_password_webdis_does_not_have(check, certificates):
    with Hub(certificates, redis={"users": ["user default on >secret ~* &* +@all"]}) as hub:
        code, found, _ = check(hub=hub)
    assert code == REFUSED
    assert found["hub"][0] == "FAIL"
    assert "redis_auth in webdis.json must be the password in users.acl" in found["hub"][1]


def test_clusters(check, certificates):
    with RedisServer(config={**ROOMY["config"], "cluster-enabled": "yes"}) as site:
        code, found, _ = check(site=site)
        assert (code, found["site"][0]) == (CONFIG, "FAIL")
        assert found["site"][1].endswith("--raddr of a Redis without cluster-enabled yes")
    with Hub(certificates, redis={"config": {"cluster-enabled": "yes"}}) as hub:
        code, found, _ = check(hub=hub)
        assert (code, found["hub cluster"][0]) == (CONFIG, "FAIL")
        assert found["hub cluster"][1].endswith("cluster-enabled no")


def test_one_redis_for_both(check, servers):
    code, found, _ = check(site=servers[1].server)
    assert (code, found["hub"][0]) == (CONFIG, "FAIL")
    assert found["hub"][1].endswith("lead to database 0 of the same Redis: give --raddr the site's own Redis")


def test_eviction(check, certificates):
    evicting = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}
    with RedisServer(config=ROOMY["config"] | evicting) as site, Hub(certificates, redis={"config": evicting}) as hub:
        code, found, summary = check(site=site, hub=hub)
        assert code == OK
        for side in ("site", "hub"):
            sign, said = found[f"{side} eviction"]
            assert (sign, said[:28]) == ("note", "allkeys-lru above 100 MiB re")
            assert "CONFIG SET maxmemory-policy noeviction" in said
        assert summary.endswith("0 failed, 2 could be better")
        site.client().config_set("maxmemory-policy", "noeviction")
        assert check(site=site)[1]["site eviction"] == ("ok", "maxmemory 100 MiB, noeviction")


def test_a_wrong_clock_is_told_with_the_remedy():
    there = time.time() + 60
    finding = clock_finding("hub clock", there)
    assert finding.code is None
    assert re.match(r"\+(60|59)\.\d s from ours, so expiries are converted", finding.said)
    assert finding.said.endswith("timedatectl set-ntp true")
    assert clock_finding("hub clock", time.time()).code == OK


def test_another_redisrepl_at_the_same_site(check, certificates, servers, tmp_path):
    """One that keeps its state elsewhere is told; the one that this command line is of is not."""
    with RedisServer(**ROOMY) as site:
        words = ["--ns", "site1:", "--ca", certificates.ca, "--cert", certificates.client]
        words += ["--key", certificates.client_key, "--raddr", f"127.0.0.1:{site.port}", "--haddr", servers[1].url]
        with Daemon([*words, "--state-dir", tmp_path / "one", "--log-format", "json"]) as daemon:
            daemon.wait_for_log("stream.attached")
            _, found, _ = check("--state-dir", tmp_path / "two", site=site)
            assert found["site followers"][0] == "note"
            assert found["site followers"][1].startswith("1 more follow it as replicas without a port, perhaps another")
            assert "site followers" not in check("--state-dir", tmp_path / "one", site=site)[1]


def test_a_proxy_that_cannot_keep_bodies(check, certificates, tmp_path):
    """A proxy answers 500 when a body is larger than its buffer and there is no directory for it."""
    away = tmp_path / "away"
    away.mkdir()
    with (
        Hub(
            certificates, nginx={"replacements": {"client_body_temp_path ": f"client_body_temp_path {away}; #"}}
        ) as hub,
        RedisServer(**ROOMY) as site,
    ):
        away.rmdir()
        code, found, _ = check("--max-body", "4MB", hub=hub, site=site)
    assert code == OK
    sign, said = found["hub body limit"]
    assert sign == "note"
    assert "HTTP 500" in said
    assert "client_body_temp_path" in said
    assert re.search(r"--max-body \d+$", said)


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("rediss://localhost:{plain}", UNAVAILABLE, "write redis:// instead of rediss://"),
        ("redis://localhost:{tls}", UNAVAILABLE, "if this port wants TLS: --raddr rediss://HOST:PORT"),
        ("redis://localhost:{plain}/99", CONFIG, "has no database 99"),
        ("localhost:{http}", UNAVAILABLE, "is no Redis: check address and port (--raddr)"),
    ],
)
def test_wrong_addresses_of_the_site(check, certificates, servers, address, code, said):
    with RedisServer(tls=certificates) as tls:
        place = address.format(plain=servers[0].port, tls=tls.tls_port, http=servers[1].webdis.port)
        got, found, _ = check("--raddr", place, "--connect-timeout", "1", "--site-ca", certificates.ca)
    assert (got, found["site"][0]) == (code, "FAIL")
    assert said in found["site"][1]


@pytest.mark.parametrize(
    ("part", "said"),
    [("webdis", "Webdis is down or restarting"), ("server", "Webdis is down or restarting, or its Redis is")],
)
def test_a_part_of_the_hub_is_down(check, certificates, part, said):
    with Hub(certificates) as hub:
        getattr(hub, part).stop()
        code, found, _ = check(hub=hub)
    assert (code, found["hub"][0]) == (UNAVAILABLE, "FAIL")
    assert found["hub"][1].endswith(said)


def test_a_wrong_path_at_the_hub(check, servers):
    code, found, _ = check(hub=servers[1].url.replace("/redis", "/elsewhere"))
    assert (code, found["hub"][0]) == (CONFIG, "FAIL")
    assert "check the path" in found["hub"][1]


def test_a_web_server_behind_the_address_of_a_redis(check, servers):
    _, found, _ = check(hub=f"rediss://localhost:{servers[1].port}")
    assert found["hub"][0] == "FAIL"
    assert "write https:// instead of rediss://" in found["hub"][1]


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
    assert "redis-cli ACL SETUSER default +info" in said
    assert "hub eviction" not in found
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
    said = "the hub's Redis denies EVAL, so each write is a request of its own"
    remedy = "on the hub: redis-cli ACL SETUSER default +eval, then ACL SAVE"
    assert found["hub scripts"] == ("note", f"{said}: {remedy}")


def test_the_remedy_names_the_user_who_is_refused(check, certificates, tmp_path):
    """Nobody else's permissions may be widened by what an administrator copies from it."""
    (tmp_path / "password").write_text("secret")
    login = ("--hub-user", "lim", "--hub-password-file", tmp_path / "password")
    with RedisServer(tls=certificates, users=["lim on >secret ~* &* +@all -eval -hset"]) as hub:
        code, found, _ = check(*login, hub=f"rediss://localhost:{hub.tls_port}")
    assert code == REFUSED
    for what, grant in (("hub permissions site1:", "+hset"), ("hub scripts", "+eval")):
        assert found[what][1].endswith(f": on the hub: redis-cli ACL SETUSER lim {grant}, then ACL SAVE")


@pytest.mark.parametrize(("answer", "named"), [(b"lim", "SETUSER lim +hset"), (None, "SETUSER USER +hset")])
async def test_the_user_as_whom_webdis_logs_in_is_asked_for(answer, named):
    """A fake: the Webdis of Debian logs in as `default` only."""

    class FakeHub:
        user = None

        async def command(self, *argv):
            assert argv == (b"ACL", b"WHOAMI")
            if answer is None:
                raise CommandRefusedError("NOPERM", status=200)
            return answer

    refusals = await _refusals(FakeHub())
    refusals.note((b"HSET",), "NOPERM this user has no permissions to run the 'hset' command")
    remedy = refusals.remedy([(b"HSET",)], keys=b"site1:")
    assert named in remedy
    assert ("redis_auth" in remedy) is (answer is None)


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


def test_an_authority_that_a_strict_check_would_refuse(check, certificates, tmp_path):
    old, _, _ = old_authority(tmp_path, "basicConstraints = critical,CA:TRUE", "subjectKeyIdentifier = hash")
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.ca.read_bytes() + old.read_bytes())
    code, found, _ = check("--ca", both)
    assert (code, found["authorities"][0]) == (OK, "note")
    assert "lacks the extension keyUsage" in found["authorities"][1]


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


def test_a_server_like_none_that_was_tried_is_told_on_both_sides(servers, certificates, monkeypatch, capsys):
    monkeypatch.setattr("redisrepl.tested.TESTED", {"Redis": ("6.2.5",), "Valkey": ("8.0.1",)})
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    site, hub = servers
    words = ["check", "--ns", "site1:", "--ca", certificates.ca, "--cert", certificates.client]
    words += ["--key", certificates.client_key, "--raddr", f"127.0.0.1:{site.port}", "--haddr", hub.url]
    assert main(list(map(str, words))) == OK
    said = capsys.readouterr().out
    for side in ("site", "hub"):
        assert re.search(
            rf"^note {side} version: (Redis|Valkey) \S+ was not tried .*, the nearest that was", said, re.MULTILINE
        )
