"""The files in deploy/hub, as they are, against the real servers."""

import json
import re
import socket
import subprocess
from contextlib import ExitStack, suppress

import httpx
import pytest
import redis

from testbed import Certificates, Nginx, RedisServer, Webdis, eventually
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
    "HSET/redisrepl%3afence%3asite2%3ax/epoch/9",
    "HGETALL/redisrepl%3afence%3asite2%3ax",
    "CONFIG/SET/notify-keyspace-events/KEA",
    "RANDOMKEY",
    "RENAME/site1%3aa/site1%3ab",
    "SCRIPT/FLUSH",
]


def redis_by_the_files(acl):
    """Redis with redis.conf; only the place of users.acl is another one."""
    directives = {}
    for line in (HUB_FILES / "redis.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            name, value = line.split(" ", 1)
            directives[name] = value
    return RedisServer(config=directives | {"aclfile": acl})


def webdis_by_the_file(server, **changes):
    settings = json.loads((HUB_FILES / "webdis.json").read_text())
    for own in ("redis_host", "redis_port", "http_host", "http_port", "logfile"):
        del settings[own]
    return Webdis(server, **settings | changes)


@pytest.fixture(scope="module")
def server():
    with redis_by_the_files(HUB_FILES / "users.acl") as server:
        yield server


@pytest.fixture(scope="module")
def webdis(server):
    with webdis_by_the_file(server) as webdis:
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
    """A known limit, told in deploy/hub/README.md: KEYS takes a pattern, not a key, so Redis does not check it."""
    admin.set("site2:name", "value")
    assert b"site2:name" in httpx.post(webdis.url, content="KEYS/%2a.raw").content


def test_nobody_gets_in_without_a_password(server):
    with pytest.raises(redis.AuthenticationError):
        server.client().ping()


def test_the_settings_of_redis_hold(admin):
    assert set(admin.config_get("notify-keyspace-events")["notify-keyspace-events"]) == set("K$hlstzgxe")


def test_nginx_accepts_its_configuration(webdis):
    with Certificates() as certificates:
        nginx = Nginx(webdis, certificates)
        said = nginx.check_configuration()
        nginx.close()
    assert "test is successful" in said
    assert "warn" not in said


def one_webdis_per_namespace(**ports):
    """The comment in nginx.conf as a part of it, with the subjects that the certificates of the tests have."""
    text = (HUB_FILES / "nginx.conf").read_text()
    sample = re.search(r"^    #   (map \$ssl_client_s_dn .*?\n    #   \})", text, re.MULTILINE | re.DOTALL).group(1)
    sample = re.sub(r"^    #   ", "", sample, flags=re.MULTILINE)
    upstreams = ""
    for name, port in ports.items():
        assert f"webdis_{name};" in sample
        sample = sample.replace(f"~^CN={name},O=Example$", f"~^CN={name},OU=")
        for upstream in (f"webdis_{name}", f"webdis_{name}_websocket"):
            upstreams += f"upstream {upstream} {{ server 127.0.0.1:{port}; }}\n"
    return {
        "    server {\n": f"{sample}\n{upstreams}    server {{\n",
        "proxy_pass http://webdis$websocket$webdis_path;": 'if ($webdis_instance = "") { return 403; }\n'
        "proxy_pass http://$webdis_instance$websocket$webdis_path;",
    }


def test_the_sample_of_one_webdis_per_namespace_works(webdis):
    """The comment in nginx.conf, taken at its word."""
    replacements = one_webdis_per_namespace(site1=webdis.port)
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


@pytest.mark.parametrize("anonymous", [False, True], ids=["with a certificate", "without"])
def test_who_never_ends_the_head_of_a_request_holds_nobody_up_for_long(webdis, anonymous):
    """A connection counts for nobody until then. With fewer of them than the file allows."""
    few = {"worker_processes auto;": "worker_processes 1;", "worker_connections 4096;": "worker_connections 32;"}
    with Certificates() as certificates, Nginx(webdis, certificates, replacements=few) as nginx, ExitStack() as held:
        context = certificates.ssl_context(anonymous=anonymous)
        with suppress(OSError):
            for _ in range(100):
                connection = socket.create_connection(("127.0.0.1", nginx.port), timeout=5)
                held.enter_context(connection)
                wrapped = held.enter_context(context.wrap_socket(connection, server_hostname="localhost"))
                wrapped.sendall(b"POST /redis HTTP/1.1\r\n")
        site = Site(nginx, certificates.ca, certificates.client_pair)
        assert site.says("PING.raw")[0] != 200
        eventually(lambda: site.says("PING.raw")[0] == 200, 30, "the hub answers again")


class Site:
    """Whoever holds the certificate of one site, with curl."""

    def __init__(self, nginx, ca, pair=None):
        self._nginx = nginx
        self._given = ["--cacert", ca, *(["--cert", pair.cert, "--key", pair.key] if pair else [])]

    def says(self, command, *options, path="", seconds=5):
        """Status and body of the answer to a body; 0 if there was no status line in this time."""
        sends = ["-m", str(seconds), *self._given, *options, "--data-binary", "@-", self._nginx.url + path]
        run = subprocess.run(
            ["curl", "-sS", "-w", "\n%{http_code}", *sends],
            input=command.encode(),
            capture_output=True,
            check=False,
        )
        body, _, status = run.stdout.rpartition(b"\n")
        return int(status), body


@pytest.fixture(scope="module")
def two_sites(webdis, tmp_path_factory):
    """Two namespaces, each with its Webdis and, since Webdis 0.1.9 knows no users, its Redis; one nginx."""
    acl = tmp_path_factory.mktemp("acl") / "users.acl"
    acl.write_text((HUB_FILES / "users.acl").read_text().replace("SITE1", "SITE2").replace("site1", "site2"))
    with (
        redis_by_the_files(acl) as other_server,
        webdis_by_the_file(other_server, redis_auth="CHANGE-ME-SITE2") as other_webdis,
        Certificates() as certificates,
    ):
        replacements = one_webdis_per_namespace(site1=webdis.port, site2=other_webdis.port)
        with Nginx(webdis, certificates, replacements=replacements) as nginx:
            other = certificates.issue("site2", "site2.example", common_name="site2")
            yield Site(nginx, certificates.ca, certificates.client_pair), Site(nginx, certificates.ca, other)


def test_each_site_has_its_namespace(two_sites):
    for site, own in zip(two_sites, ("site1", "site2"), strict=True):
        assert site.says(f"SET/{own}%3amine/{own}.raw") == (200, b"+OK\r\n")
        assert site.says(f"GET/{own}%3amine.raw") == (200, b"$5\r\n%b\r\n" % own.encode())


@pytest.mark.parametrize("command", DENIED_BY_REDIS)
def test_a_holder_of_the_other_certificate_is_denied_the_same(two_sites, command):
    swapped = command.replace("site2", "SITE").replace("site1", "site2").replace("SITE", "site1")
    status, body = two_sites[1].says(f"{swapped}.raw")
    assert status == 200
    assert re.match(rb"-NOPERM|-ERR The user executing the script can't access", body)


#: EventChannel of asking for the Webdis of another.
ELSEWHERE = [
    (["-H", "Host: webdis_site1"], ""),
    (["-H", "Host: localhost", "-H", "X-Forwarded-For: 127.0.0.1", "-H", "webdis_instance: webdis_site1"], ""),
    (["-H", "Upgrade: webdis_site1", "-H", "Connection: Upgrade"], ""),
    (["-H", "ssl_client_s_dn: CN=site1,OU=", "-H", "X-SSL-Client-S-DN: CN=site1,OU="], ""),
    (["--path-as-is"], "/../../webdis_site1/"),
    (["--path-as-is"], "/%2e%2e/%0d%0aHost:%20webdis_site1/"),
    (["--request-target", "http://webdis_site1/redis/"], ""),
    (["--request-target", "/redis@webdis_site1/"], ""),
]


@pytest.mark.parametrize(("options", "path"), ELSEWHERE)
def test_nothing_in_a_request_leads_to_the_redis_of_another(two_sites, options, path):
    one, other = two_sites
    assert one.says("SET/site1%3asecret/told.raw")[0] == 200
    for command in ("GET/site1%3asecret.raw", "KEYS/%2a.raw"):
        _, body = other.says(command, *options, path=path)
        assert b"told" not in body
        assert b"site1:secret" not in body


@pytest.mark.parametrize(
    "command", ["AUTH/CHANGE-ME-SITE1", "AUTH/default/CHANGE-ME-SITE1", "HELLO/3", "ACL/WHOAMI", "auth/x"]
)
def test_a_site_cannot_log_in_as_another(two_sites, command):
    assert two_sites[1].says(f"{command}.raw")[0] == 403


def test_a_site_cannot_listen_to_another(two_sites):
    assert two_sites[1].says(f"PSUBSCRIBE/{CHANNEL}.raw", seconds=0.5) == (0, b"")


def test_without_a_certificate_of_the_authority_nobody_gets_in(webdis):
    replacements = one_webdis_per_namespace(site1=webdis.port)
    with Certificates() as certificates, Nginx(webdis, certificates, replacements=replacements) as nginx:
        strangers = [certificates.foreign_client(), certificates.expired_client(), None]
        assert [Site(nginx, certificates.ca, pair).says("PING.raw")[0] for pair in strangers] == [400, 400, 400]
        assert Site(nginx, certificates.ca, certificates.client_pair).says("PING.raw")[0] == 200
