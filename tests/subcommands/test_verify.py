"""`redisrepl verify` as a process of its own, between a real site and a real hub."""

import json

import pytest

from testbed import Daemon, Hub, RedisServer
from tests.samples import ALL_BYTES, AWKWARD_NAMES

SAME, DIFFERENT, UNAVAILABLE, REFUSED = 0, 1, 69, 77
FAR = 4_102_444_800_123


@pytest.fixture(scope="module")
def servers(certificates):
    with RedisServer() as site, Hub(certificates) as hub:
        yield site, hub


@pytest.fixture
def site(servers):
    client = servers[0].client()
    client.flushall()
    return client


@pytest.fixture
def hub(servers):
    servers[1].redis.flushall()
    return servers[1].redis


@pytest.fixture
def verify(servers, certificates):
    """Run it; exit code and what it said."""

    def verify(*args, haddr=None, ca=None):
        site, hub = servers
        words = ["verify", "--ns", "site1:", "--cert", certificates.client, "--key", certificates.client_key]
        words += ["--ca", ca or certificates.ca, "--raddr", f"127.0.0.1:{site.port}", "--haddr", haddr or hub.url]
        environment = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), "")
        with Daemon([*words, *args], env=environment) as process:
            code = process.wait(60)
        assert "Traceback" not in process.stderr
        return code, process.stdout, process.stderr

    return verify


def test_equal_sides(verify, site, hub):
    for client in (site, hub):
        client.set("site1:string", "v", pxat=FAR)
        client.hset("site1:hash", mapping={"a": "1", "b": "2"})
    site.set("site2:elsewhere", "site")
    hub.set("site2:elsewhere", "hub")
    assert verify() == (SAME, "2 keys compared: no difference\n", "")


def test_expiries_that_do_not_cross_are_not_compared(verify, site, hub):
    site.set("site1:string", "v", pxat=FAR)
    hub.set("site1:string", "v")
    assert verify()[0] == SAME


@pytest.mark.usefixtures("site", "hub")
def test_nothing_on_either_side(verify):
    assert verify() == (SAME, "0 keys compared: no difference\n", "")


def unlike(site, hub):
    """One key of each kind of difference."""
    site.set("site1:here", "v")
    hub.set("site1:there", "v")
    site.set("site1:value", "one")
    hub.set("site1:value", "two")
    site.set("site1:expiry", "v", pxat=FAR)
    hub.set("site1:expiry", "v")
    site.hset("site1:field", "f", "one")
    hub.hset("site1:field", "f", "two")
    site.set("site1:type", "v")
    hub.hset("site1:type", "f", "v")
    for client in (site, hub):
        client.set("site1:same", "v")


def test_each_kind_of_difference_is_named(verify, site, hub):
    unlike(site, hub)
    code, said, errors = verify("--replicate", "set,hset,expire")
    *lines, summary = said.splitlines()
    assert code == DIFFERENT
    assert errors == ""
    assert sorted(lines) == [
        "different         site1:expiry",
        "different         site1:field",
        "different         site1:type",
        "different         site1:value",
        "only at the hub   site1:there",
        "only at the site  site1:here",
    ]
    assert summary == "7 keys compared: 1 only at the site, 1 only at the hub, 4 different"


def test_the_same_as_json(verify, site, hub):
    unlike(site, hub)
    code, said, _ = verify("--json", "--replicate", "set,hset,expire")
    assert code == DIFFERENT
    assert said.count("\n") == 1
    found = json.loads(said)
    keys = found.pop("keys")
    assert found == {"equal": False, "compared": 7, "only_at_the_site": 1, "only_at_the_hub": 1, "different": 4}
    kinds = {entry["key"]: entry["difference"] for entry in keys}
    assert kinds["site1:here"] == "only at the site"
    assert kinds["site1:there"] == "only at the hub"
    assert sum(kind == "different" for kind in kinds.values()) == 4


@pytest.mark.usefixtures("site", "hub")
def test_equal_as_json(verify):
    code, said, _ = verify("--json")
    assert code == SAME
    assert json.loads(said)["equal"] is True


def test_keys_of_any_bytes_are_named_and_repaired(verify, site, hub):
    names = [b"site1:" + name for name in AWKWARD_NAMES]
    for name in names:
        site.set(name, ALL_BYTES)
        hub.hset(b"site1:hub:" + name, ALL_BYTES, name)
    code, said, _ = verify("--json")
    assert code == DIFFERENT
    assert len(json.loads(said)["keys"]) == 2 * len(names)
    code, said, _ = verify()
    assert code == DIFFERENT
    assert len(said.splitlines()) == 2 * len(names) + 1
    assert verify("--repair", "-rc")[0] == SAME
    for name in names:
        assert hub.get(name) == ALL_BYTES
        assert site.hgetall(b"site1:hub:" + name) == {ALL_BYTES: name}


@pytest.mark.parametrize(
    ("flags", "winner"),
    [
        (["-rc"], "hub"),
        (["-rc", "--on-conflict", "hub"], "hub"),
        (["-rc", "--on-conflict", "site"], "site"),
        ([], "site"),
    ],
)
def test_repair_goes_by_the_rules(verify, site, hub, flags, winner):
    site.set("site1:value", "site")
    hub.set("site1:value", "hub")
    site.hset("site1:hash", mapping={"both": "site", "here": "v"})
    hub.hset("site1:hash", mapping={"both": "hub"})
    site.set("site1:here", "v")
    code, said, _ = verify("--repair", *flags)
    assert (code, said) == (SAME, "3 keys compared: no difference\n")
    for client in (site, hub):
        assert client.get("site1:value") == winner.encode()
        assert client.hgetall("site1:hash") == {b"both": winner.encode(), b"here": b"v"}
        assert client.get("site1:here") == b"v"


def test_repair_copies_back_only_with_rc(verify, site, hub):
    hub.set("site1:there", "v")
    assert verify("--repair")[0] == DIFFERENT
    assert site.get("site1:there") is None
    assert verify("--repair", "-rc")[0] == SAME
    assert site.get("site1:there") == hub.get("site1:there") == b"v"


def test_repair_in_one_direction_only(verify, site, hub):
    site.set("site1:here", "v")
    hub.set("site1:there", "v")
    code, said, _ = verify("--repair", "-rc", "--initial-sync", "pull")
    assert code == DIFFERENT
    assert "only at the site  site1:here" in said
    assert hub.get("site1:here") is None
    assert site.get("site1:there") == b"v"


def test_without_repair_nothing_is_written(verify, site, hub):
    unlike(site, hub)
    before = [{key: client.dump(key) for key in client.keys(b"*")} for client in (site, hub)]
    verify("-rc")
    assert before == [{key: client.dump(key) for key in client.keys(b"*")} for client in (site, hub)]


def test_the_hub_is_away(verify):
    code, said, errors = verify(haddr="https://127.0.0.1:1/redis")
    assert (code, said) == (UNAVAILABLE, "")
    assert errors.startswith("redisrepl: the hub https://127.0.0.1:1/redis/ cannot be reached")


def test_the_hub_is_not_trusted(verify, certificates):
    code, said, errors = verify(ca=certificates.foreign_ca())
    assert (code, said) == (REFUSED, "")
    assert "not signed by the given CA" in errors
