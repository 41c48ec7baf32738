"""What cannot work is said in one sentence, with an exit code that tells what kind of trouble it is."""

import re
import subprocess

import pytest

from redisrepl.local.address import parse_address
from redisrepl.settings.settings import load_settings
from testbed import Certificates, Hub, RedisServer, eventually
from tests.e2e.support import certificate_flags, place_flags

NOTHING = "127.0.0.1:1"  # a port on which nothing listens

USAGE, REFUSED, CONFIG = 2, 77, 78


def failure(daemon):
    """Exit code and the one sentence of a daemon that gives up."""
    code = daemon.wait()
    sentences = [record["event"] for record in daemon.records if record.keys() == {"event"}]
    assert len(sentences) == 1, f"not one sentence: {daemon.stderr}"
    sentence = sentences[0]
    assert sentence.startswith("redisrepl: ")
    assert "Traceback" not in daemon.stderr
    assert "\\n" not in sentence
    assert "None" not in sentence
    assert daemon.stdout == ""
    assert not [record for record in daemon.records if record.get("level") in {"error", "critical"}]
    return code, sentence.removeprefix("redisrepl: ")


@pytest.fixture
def start(certificates, daemons):
    """Start with good certificates and servers that are away, then with what a test gives; a later flag wins."""

    def start(*args, env=None, flags=True, ns=True):
        words = [*certificate_flags(certificates), "--raddr", NOTHING, "--haddr", f"https://{NOTHING}/redis"]
        words = (words if flags else []) + (["--ns", "site1:"] if flags and ns else [])
        return daemons.raw(*words, *args, env=env)

    return start


@pytest.fixture
def fails(start):
    """Likewise, and wait for the failure."""
    return lambda *args, **options: failure(start(*args, **options))


@pytest.fixture
def each_fails(start):
    """Failures of many command lines, with each its name; some run side by side, which is what takes the time."""

    def each_fails(cases):
        cases = list(cases)
        for first in range(0, len(cases), 4):
            started = [(name, start(*args)) for name, args in cases[first : first + 4]]
            for name, daemon in started:
                yield (name, *failure(daemon))

    return each_fails


# Usage.


def test_wrong_usage(each_fails):
    cases = {
        "--no-such-flag": ["--no-such-flag"],
        "--nss": ["--nss", "x"],
        "-cert": ["--cert"],
        "stray": ["stray"],
        "--rc takes no value: write --rc or --no-rc": ["-rc=maybe"],
    }
    for names, code, sentence in each_fails(cases.items()):
        assert code == USAGE
        assert names in sentence
        assert sentence.lower().endswith("see redisrepl --help")


# Values.


def test_a_bad_value_of_a_flag(each_fails):
    cases = {
        ("--batch", "0"): "must be at least 1",
        ("--timeout", "soon"): "must be a number",
        ("--max-body", "12 parsecs"): "must be a number of bytes",
        ("--log-level", "loud"): "must be debug, info",
        ("--replicate", "set,trees"): "trees is not one of",
        ("--notify-config", "always"): "must be merge, check or never",
    }
    for (flag, value), code, sentence in each_fails((case, [f"{case[0]}={case[1]}"]) for case in cases):
        assert code == CONFIG
        assert flag in sentence
        assert cases[flag, value] in sentence


def test_a_bad_value_is_told_by_where_it_was_said(fails, tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text('batch = "many"\n')
    for place, args, env in (
        ("--batch:", ["-batch", "many"], {"REDISREPL_BATCH": "more"}),
        ("variable REDISREPL_BATCH:", ["--config", file], {"REDISREPL_BATCH": "many"}),
        (f"--config {file}: batch:", [], {"REDISREPL_CONFIG": str(file)}),
    ):
        code, sentence = fails(*args, env=env)
        assert code == CONFIG
        assert place in sentence


def test_a_bad_file_of_settings(each_fails, tmp_path):
    cases = {
        b"ns = [": "not TOML",
        b"namespace = 'site1:'": "namespace is not a setting",
        b"[hub]\nhaddr = 'x'": "hub is not a setting",
        b"rc = 'perhaps'": "rc",
        b"\xff": "not TOML",
    }
    files = {content: tmp_path / f"{number}.toml" for number, content in enumerate(cases)}
    for content, file in files.items():
        file.write_bytes(content)
    for content, code, sentence in each_fails((content, ["--config", file]) for content, file in files.items()):
        assert code == CONFIG
        assert f"--config {files[content]}" in sentence
        assert cases[content] in sentence


# Namespaces.


def test_no_namespace(fails):
    code, sentence = fails(ns=False, env={"REDISREPL_NS": ""})
    assert code == CONFIG
    assert "no namespace" in sentence
    assert "--ns" in sentence


def test_an_empty_namespace(each_fails):
    for _, code, sentence in each_fails((None, args) for args in (["--ns", ""], ["-nam="], ["--ns", "x:", "--ns="])):
        assert code == CONFIG
        assert "--ns is empty" in sentence


def test_overlapping_namespaces(fails):
    code, sentence = fails("--ns", "a:", "--ns", "site1:sub:")
    assert code == CONFIG
    assert "--ns site1:sub: lies inside --ns site1:" in sentence


# Addresses.


def test_a_bad_address_of_the_hub(each_fails):
    urls = [
        "http://hub.example/redis",
        "hub.example",
        "https://",
        "",
        "https://hub.example:99999/redis",
        "https://[::1/redis",
    ]
    for url, code, sentence in each_fails((url, ["--haddr", url]) for url in urls):
        assert code == CONFIG
        shown = url or "''"
        assert f"--haddr {shown}: " in sentence
        assert "https://" in sentence


def test_a_bad_address_of_the_site(each_fails):
    addresses = [
        "http://localhost:6379",
        "redis://localhost:99999",
        "redis://localhost/zero",
        "unix://",
    ]
    for address, code, sentence in each_fails((address, ["--raddr", address]) for address in addresses):
        assert code == CONFIG
        assert "--raddr" in sentence
        assert address in sentence


def test_a_bad_address_is_told_without_its_password(each_fails):
    cases = [
        ("--raddr", "ftp://user:geheim@localhost"),
        ("--raddr", "redis://:geheim@localhost:99999"),
        ("--haddr", "ftp://user:geheim@localhost"),
        ("--haddr", "https://:geheim@localhost:99999"),
    ]
    for flag, code, sentence in each_fails((case[0], case) for case in cases):
        assert code == CONFIG
        assert flag in sentence
        assert "geheim" not in sentence


# Files.


def test_a_file_that_is_missing_or_no_file(each_fails, tmp_path):
    reasons = {tmp_path / "missing": "no such file or directory", tmp_path: "is a directory"}
    missing, directory = reasons
    cases = [("--ca", missing), ("--cert", directory), ("--key", missing), ("--key", directory)]
    cases += [("--password-file", missing), ("--config", missing), ("--config", directory)]
    for (flag, path), code, sentence in each_fails((case, case) for case in cases):
        assert code == CONFIG
        assert sentence.startswith(f"{flag} {path}: {reasons[path]}")


def test_a_missing_file_for_tls_at_the_site(certificates, each_fails, tmp_path):
    missing = tmp_path / "missing"
    good = {"--site-ca": certificates.ca, "--site-cert": certificates.client, "--site-key": certificates.client_key}
    cases = [
        (flag, ["--raddr", "rediss://localhost", *(word for pair in (good | {flag: missing}).items() for word in pair)])
        for flag in good
    ]
    for flag, code, sentence in each_fails(cases):
        assert code == CONFIG
        assert sentence.startswith(f"{flag} {missing}: no such file or directory")


def test_an_empty_password_file(fails, tmp_path):
    file = tmp_path / "password"
    file.write_text("\n")
    code, sentence = fails("--password-file", file)
    assert code == CONFIG
    assert f"--password-file {file}: is empty" in sentence


def test_pass_without_a_terminal(fails):
    code, sentence = fails("-pass")
    assert code == CONFIG
    assert "--pass" in sentence
    assert "--password-file" in sentence


@pytest.mark.parametrize(("missing", "given"), [("--cert", "--key"), ("--key", "--cert")])
def test_half_a_client_certificate(certificates, fails, missing, given):
    file = certificates.client if given == "--cert" else certificates.client_key
    code, sentence = fails("--ns", "site1:", given, file, flags=False)
    assert code == CONFIG
    assert missing in sentence


def test_no_client_certificate(fails):
    code, sentence = fails("--ns", "site1:", flags=False)
    assert code == CONFIG
    assert "--cert" in sentence
    assert "--key" in sentence


def test_a_file_that_is_no_pem(each_fails, tmp_path):
    files = [tmp_path / name for name in ("empty", "binary", "damaged")]
    contents = (b"", b"\xff\x00", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    cases = list(zip(("--ca", "--cert", "--key"), files, strict=True))
    cases += [("--cert", files[2]), ("--key", files[0])]
    for (flag, file), code, sentence in each_fails((case, case) for case in cases):
        assert code == CONFIG
        assert sentence.startswith(f"{flag} {file}: ")


def test_a_key_that_does_not_fit(certificates, fails):
    pair = certificates.mismatched_client()
    code, sentence = fails("--cert", pair.cert, "--key", pair.key)
    assert code == CONFIG
    assert f"--key {pair.key} is not the key of --cert {pair.cert}" in sentence


@pytest.mark.parametrize("form", ["pkcs8", "traditional"])
def test_an_encrypted_key(certificates, fails, tmp_path, form):
    encrypted = tmp_path / "encrypted.pem"
    command = ["openssl", "pkcs8", "-topk8"] if form == "pkcs8" else ["openssl", "ec", "-aes128"]
    subprocess.run(
        [*command, "-in", certificates.client_key, "-out", encrypted, "-passout", "pass:geheim"],
        check=True,
        capture_output=True,
    )
    code, sentence = fails("--key", encrypted)
    assert code == CONFIG
    assert f"--key {encrypted}: the key is encrypted" in sentence


# Certificates.


def test_an_expired_certificate(certificates, fails):
    pair = certificates.expired_client()
    code, sentence = fails("--cert", pair.cert, "--key", pair.key)
    assert code == REFUSED
    assert re.search(rf"--cert {pair.cert}: the certificate expired on 20\d\d-\d\d-\d\d .*: renew it", sentence)


def at_servers(daemons, site, hub, *args):
    """The failure of a daemon that finds these servers; `args` come last and win."""
    return failure(daemons.start(site, hub, *args))


def test_a_ca_that_is_not_the_hubs(certificates, daemons, site, hub):
    code, sentence = at_servers(daemons, site, hub, "--ca", certificates.foreign_ca())
    assert code == REFUSED
    assert hub.url in sentence
    assert "CA" in sentence
    assert "check the CA file" in sentence


def test_a_client_certificate_that_the_hub_refuses(certificates, daemons, site, hub):
    pair = certificates.foreign_client()
    code, sentence = at_servers(daemons, site, hub, "--cert", pair.cert, "--key", pair.key)
    assert code == REFUSED
    assert hub.url in sentence
    assert "client certificate" in sentence


@pytest.mark.parametrize(
    ("kind", "says"), [("expired_server", "certificate has expired"), ("misnamed_server", "another host name")]
)
def test_a_server_certificate_that_is_no_good(certificates, daemons, site, kind, says):
    with Hub(certificates, nginx={"server_pair": getattr(certificates, kind)()}) as hub:
        code, sentence = at_servers(daemons, site, hub)
        assert code == REFUSED
        assert hub.url in sentence
        assert says in sentence


def test_a_site_that_speaks_no_tls(daemons, site, hub):
    daemon = daemons.start(f"rediss://127.0.0.1:{site.port}", hub, "--connect-timeout", "1")
    eventually(lambda: any("write redis:// instead of rediss://" in r["error"] for r in daemon.logged("stream.failed")))


def test_a_hub_that_speaks_no_tls(daemons, site, hub):
    code, sentence = at_servers(daemons, site, f"https://localhost:{hub.webdis.port}/redis")
    assert code == REFUSED
    assert f"https://localhost:{hub.webdis.port}/redis" in sentence
    assert "does not speak TLS" in sentence


@pytest.mark.parametrize("trouble", ["foreign CA", "foreign client", "other name"])
def test_tls_trouble_at_the_site(daemons, hub, trouble):
    with Certificates() as of_site:
        ca, pair = of_site.ca, of_site.client_pair
        match trouble:
            case "foreign CA":
                ca, says = of_site.foreign_ca(), "give the certificate of that as the CA file"
            case "foreign client":
                pair, says = of_site.foreign_client(), "the CA of our certificate"
            case _:
                of_site.issue("server", "elsewhere.example")
                says = "another host name"
        with RedisServer(tls=of_site) as site:
            args = ["--site-ca", ca, "--site-cert", pair.cert, "--site-key", pair.key]
            code, sentence = at_servers(daemons, f"rediss://localhost:{site.tls_port}", hub, *args)
            assert code == REFUSED
            assert f"rediss://localhost:{site.tls_port}" in sentence
            assert says in sentence


# The site refuses us.

SECRET = "geheim-42"


@pytest.mark.parametrize("trouble", ["wrong password", "no password", "unknown user", "wrong password of a user"])
def test_the_site_refuses_the_password(daemons, hub, tmp_path, trouble):
    file = tmp_path / "password"
    file.write_text("wrong-" + SECRET)
    with RedisServer(password=SECRET, users=[f"repl on >{SECRET} ~* &* +@all"]) as site:
        args = {
            "wrong password": ["--password-file", file],
            "no password": [],
            "unknown user": ["--user", "nobody", "--password-file", file],
            "wrong password of a user": ["--user", "repl", "--password-file", file],
        }[trouble]
        daemon = daemons.start(site, hub, *args, "--log-level", "debug")
        code, sentence = failure(daemon)
        assert code == REFUSED
        assert f"127.0.0.1:{site.port}" in sentence
        assert "password" in sentence
        assert SECRET not in daemon.stderr


@pytest.mark.parametrize("how", ["ACL", "rename-command"])
def test_the_site_refuses_psync(daemons, hub, how, tmp_path):
    file = tmp_path / "password"
    file.write_text(SECRET)
    if how == "ACL":
        options, args = {"users": [f"repl on >{SECRET} ~* &* +@all -psync -sync"]}, ["--user", "repl"]
        args += ["--password-file", file]
    else:
        options, args = {"config": {"rename-command": 'PSYNC ""'}}, []
    with RedisServer(**options) as site:
        daemon = daemons.start(site, hub, *args, "--source", "psync")
        code, sentence = failure(daemon)
        assert code == REFUSED
        assert f"127.0.0.1:{site.port}" in sentence
        assert "PSYNC" in sentence
        assert SECRET not in daemon.stderr


# The hub cannot work.


def test_a_hub_that_is_a_cluster(certificates, daemons, site):
    with Hub(certificates, redis={"config": {"cluster-enabled": "yes"}}) as hub:
        code, sentence = at_servers(daemons, site, hub)
        assert code == CONFIG
        assert hub.url in sentence
        assert "cluster" in sentence


def test_one_redis_for_both(daemons, hub):
    code, sentence = at_servers(daemons, hub.server, hub)
    assert code == CONFIG
    assert f"127.0.0.1:{hub.server.port}" in sentence
    assert hub.url in sentence
    assert sentence.endswith("lead to database 0 of the same Redis: give --raddr the site's own Redis")


def test_two_databases_of_one_redis_are_two(daemons, hub):
    daemon = daemons.start(f"127.0.0.1:{hub.server.port}/3", hub)
    site = hub.server.client(db=3)
    site.set("site1:key", "v")
    eventually(lambda: hub.redis.get("site1:key") == b"v")
    assert daemon.running


def test_a_wrong_path_at_the_hub_is_told_and_waited_for(daemons, site, hub):
    """It may be a proxy that is being set up; the log says what to check."""
    daemon = daemons.start(site, f"https://localhost:{hub.port}/elsewhere")
    told = daemon.wait_for_log("push.failed")
    assert "404" in told["error"]
    assert "check the path" in told["error"]
    assert daemon.stop() == 0


# Passwords stay secret.


def test_no_password_is_ever_shown(daemons, hub):
    with RedisServer(password=SECRET) as site:
        address = f"redis://:{SECRET}@localhost:{site.port}"
        daemon = daemons.live(address, hub, "--log-level", "debug")
        daemon.restart()
        site.client().set("site1:key", "v")
        mark = daemon.mark()
        site.restart()
        daemon.wait_for_log("stream.attached", after=mark)
        assert daemon.stop() == 0
        assert SECRET not in daemon.stderr + daemon.stdout
    assert SECRET not in daemon.stderr


def test_credentials_in_the_address_of_the_hub_stay_secret(daemons, site, hub):
    url = f"https://user:{SECRET}@localhost:{hub.port}/redis"
    daemon = daemons.live(site, url, "--log-level", "debug", "--shutdown-timeout", "0.3")
    hub.nginx.stop()
    mark = daemon.mark()
    site.client().set("site1:key", "v")
    daemon.wait_for_log("push.failed", after=mark)
    assert daemon.stop() == 0
    assert SECRET not in daemon.stderr + daemon.stdout


def test_no_setting_shows_a_password():
    settings = load_settings({"raddr": f"redis://user:{SECRET}@localhost", "haddr": f"https://user:{SECRET}@hub/redis"})
    assert SECRET not in repr(settings) + str(settings)
    address = parse_address(settings.raddr)
    assert address.password == SECRET
    assert SECRET not in repr(address) + str(address)


def test_an_address_of_the_environment_is_not_shown_by_help(daemons):
    daemon = daemons.raw("--help", env={"REDISREPL_RADDR": f"redis://:{SECRET}@localhost"})
    assert daemon.wait() == 0
    assert SECRET not in daemon.stdout + daemon.stderr


# Servers that are merely away are no error.


def test_peers_that_are_away_are_waited_for(certificates, daemons):
    daemon = daemons.raw(
        *certificate_flags(certificates), *place_flags(NOTHING, f"https://{NOTHING}/redis"), "--ns", "site1:", "-rc"
    )
    daemon.wait_for_log("daemon.started")
    for link in ("stream.failed", "push.failed"):
        assert NOTHING in daemon.wait_for_log(link)["error"]
    assert daemon.running
    assert daemon.stop() == 0
