"""The files in deploy/hub, as they are, against the real servers."""

import json
import re

import httpx
import pytest
import redis

from testbed import Certificates, Nginx, RedisServer, Webdis
from testbed.nginx import HUB_FILES

PASSWORD = "CHANGE-ME-SITE1"
CHANNEL = "__keyspace@0__%3asite1%3a%2a"

NEEDED = [
    "PING",
    "TIME",
    "INFO/server",
    "CONFIG/GET/notify-keyspace-events",
    "SET/site1%3aa/1",
    "SET/site1%3aa/1/PXAT/4000000000000",
    "GET/site1%3aa",
    "TYPE/site1%3aa",
    "PTTL/site1%3aa",
    "PEXPIRETIME/site1%3aa",
    "PEXPIREAT/site1%3aa/4000000000001",
    "PERSIST/site1%3aa",
    "MSET/site1%3aa/1/site1%3ab/2",
    "HSET/site1%3ah/f/1",
    "HMSET/site1%3ah/f/1/g/2",
    "HDEL/site1%3ah/g",
    "HGETALL/site1%3ah",
    "KEYS/site1%3a%2a",
    "SCAN/0/MATCH/site1%3a%2a",
    "HSETNX/site1%3ah/f/1",
    "DEL/site1%3ab",
    "PUBLISH/__keyspace@0__%3asite1%3acanary/1",
    "SCRIPT/LOAD/return%201",
    "SCRIPT/EXISTS/0000000000000000000000000000000000000000",
    "EVAL/return%20redis%2ecall%28%27set%27%2cKEYS%5b1%5d%2cARGV%5b1%5d%29/1/site1%3aa/1",
    "EVALSHA/e0e1f9fabfc9d4800c877a703b823ac0578ff8db/0",
]

DENIED_BY_REDIS = [
    "SET/site2%3aa/1",
    "GET/site2%3aa",
    "MSET/site1%3aa/1/site2%3aa/1",
    "SET/site10/1",
    "EVAL/return%20redis%2ecall%28%27set%27%2cKEYS%5b1%5d%2cARGV%5b1%5d%29/1/site2%3aa/1",
    "EVAL/return%20redis%2ecall%28%27get%27%2c%27site2%3aa%27%29/0",
    "PUBLISH/__keyspace@0__%3asite2%3acanary/1",
    "CONFIG/SET/notify-keyspace-events/KEA",
    "RANDOMKEY",
    "RENAME/site1%3aa/site1%3ab",
    "SCRIPT/FLUSH",
]


@pytest.fixture(scope="module")
def server():
    """Redis with users.acl and redis.conf; only the place of users.acl is another one."""
    directives = {}
    for line in (HUB_FILES / "redis.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            name, value = line.split(" ", 1)
            directives[name] = value
    directives["aclfile"] = HUB_FILES / "users.acl"
    with RedisServer(config=directives) as server:
        yield server


@pytest.fixture(scope="module")
def webdis(server):
    settings = json.loads((HUB_FILES / "webdis.json").read_text())
    for own in ("redis_host", "redis_port", "http_host", "http_port", "logfile"):
        del settings[own]
    with Webdis(server, **settings) as webdis:
        yield webdis


@pytest.fixture(scope="module")
def admin(server):
    return server.client(username="admin", password="CHANGE-ME-ADMIN")


@pytest.mark.parametrize("command", NEEDED)
def test_what_redisrepl_sends_is_allowed(webdis, command):
    answer = httpx.post(webdis.url, content=f"{command}.raw")
    assert answer.status_code == 200
    assert not re.match(r"-(?!NOSCRIPT)", answer.text)  # a script that is not there yet is no refusal


@pytest.mark.parametrize("command", DENIED_BY_REDIS)
def test_other_keys_channels_and_commands_are_denied_by_redis(webdis, command):
    answer = httpx.post(webdis.url, content=f"{command}.raw")
    assert answer.status_code == 200
    assert re.match(r"-NOPERM|-ERR The user executing the script can't access", answer.text)


def test_each_command_that_webdis_refuses_is_refused(webdis):
    for command in webdis.settings["acl"][0]["disabled"]:
        assert httpx.post(webdis.url, content=f"{command}/a").status_code == 403, command


def test_the_channel_of_the_namespace_can_be_subscribed_to(webdis, admin):
    admin.delete("site1:news")
    with httpx.stream("POST", webdis.url, content=f"PSUBSCRIBE/{CHANNEL}.raw", timeout=5) as answer:
        chunks = answer.iter_raw()
        assert b"psubscribe" in next(chunks)
        admin.hset("site1:news", "f", 1)
        assert b"site1:news" in next(chunks)


def test_a_wider_channel_cannot(webdis):
    """Webdis answers a subscription that Redis denies with silence, not even a status line."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(webdis.url, content="PSUBSCRIBE/__keyspace@0__%3a%2a.raw", timeout=0.3)


def test_names_of_foreign_keys_show_in_keys(webdis, admin):
    """A known limit, told in README.md: KEYS takes a pattern, not a key, so Redis does not check it."""
    admin.set("site2:name", "value")
    assert b"site2:name" in httpx.post(webdis.url, content="KEYS/%2a.raw").content


def test_nobody_gets_in_without_a_password(server):
    with pytest.raises(redis.AuthenticationError):
        server.client().ping()


def test_the_settings_of_redis_hold(admin):
    assert set(admin.config_get("notify-keyspace-events")["notify-keyspace-events"]) == set("K$hlszgxe")


def test_nginx_accepts_its_configuration(webdis):
    with Certificates() as certificates:
        nginx = Nginx(webdis, certificates)
        said = nginx.check_configuration()
        nginx.close()
    assert "test is successful" in said
    assert "warn" not in said


def test_the_sample_of_one_webdis_per_namespace_works(webdis):
    """The comment in nginx.conf, taken at its word."""
    text = (HUB_FILES / "nginx.conf").read_text()
    sample = re.search(r"^    #   (map \$ssl_client_s_dn .*?\n    #   \})", text, re.MULTILINE | re.DOTALL).group(1)
    sample = re.sub(r"^    #   ", "", sample, flags=re.MULTILINE)
    assert "webdis_site1" in sample
    replacements = {
        "    server {\n": sample.replace("~^CN=site1,O=Example$", "~CN=site1(,|$)")
        + f"\nupstream webdis_site1 {{ server 127.0.0.1:{webdis.port}; }}\n    server {{\n",
        "proxy_pass http://webdis$websocket$webdis_path;": 'if ($webdis_instance = "") { return 403; }\n'
        "proxy_pass http://$webdis_instance$websocket$webdis_path;",
    }
    with Certificates() as certificates, Nginx(webdis, certificates, replacements=replacements) as nginx:
        known = certificates.ssl_context()
        other = certificates.ssl_context(certificates.issue("site3", "site3.example", common_name="site3"))
        upper = certificates.ssl_context(certificates.issue("upper", "site1.example", common_name="SITE1"))
        assert httpx.post(nginx.url, content=b"PING", verify=known).status_code == 200
        assert httpx.post(nginx.url, content=b"PING", verify=other).status_code == 403
        assert httpx.post(nginx.url, content=b"PING", verify=upper).status_code == 403


def test_one_certificate_cannot_use_up_the_hub(webdis):
    """With limits that a test can reach."""
    limits = {
        "limit_conn connections 1000;": "limit_conn connections 2;",
        "burst=5000": "burst=5",
        "rate=5000r/s": "rate=1r/m",
    }
    with Certificates() as certificates, Nginx(webdis, certificates, replacements=limits) as nginx:
        one = certificates.ssl_context()
        other = certificates.ssl_context(certificates.issue("site3", "site3.example", common_name="site3"))
        said = [httpx.post(nginx.url, content=b"PING", verify=one).status_code for _ in range(10)]

        assert said[-1] == 429
        assert httpx.post(nginx.url, content=b"PING", verify=other).status_code == 200
