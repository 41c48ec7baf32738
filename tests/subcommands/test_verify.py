"""`redisrepl verify` as a process of its own, between a real site and a real hub."""

import json
import signal

import pytest

from testbed import Daemon, Hub, RedisServer, eventually
from testbed.clock import OtherClock
from testbed.programs import hub_redis
from tests.samples import ALL_BYTES, AWKWARD_NAMES

SAME, DIFFERENT, UNAVAILABLE, REFUSED, MISTAKEN = 0, 1, 69, 77, 78
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
def words(servers, certificates, tmp_path):
    """Flags that a daemon takes as well as `verify`."""
    site, hub = servers
    files = ["--cert", certificates.client, "--key", certificates.client_key, "--ca", certificates.ca]
    where = ["--raddr", f"127.0.0.1:{site.port}", "--haddr", hub.url, "--state-dir", tmp_path / "state"]
    return ["--ns", "site1:", *files, *where]


@pytest.fixture
def verify(words):
    """Run it; exit code and what it said."""

    def verify(*args):
        environment = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), "")
        with Daemon(["verify", *words, *args], env=environment) as process:
            code = process.wait(60)
        assert "Traceback" not in process.stderr
        return code, process.stdout, process.stderr

    return verify


BOTH_WAYS = ["-rc", "--replicate", "set,hset,del"]


@pytest.fixture
def daemon(words, site, hub):  # noqa: ARG001 - both are empty before it starts
    """A daemon with a state directory, once both sides were compared."""
    with Daemon([*words, *BOTH_WAYS, "--log-format", "json"]) as daemon:
        daemon.wait_for_log("sweep.finished", 60)
        yield daemon


def test_equal_sides(verify, site, hub):
    for client in (site, hub):
        client.set("site1:string", "v", pxat=FAR)
        client.hset("site1:hash", mapping={"a": "1", "b": "2"})
    site.set("site2:elsewhere", "site")
    hub.set("site2:elsewhere", "hub")
    assert verify() == (SAME, "2 keys compared: no difference\n", "")


def test_what_a_daemon_with_other_settings_remembers_stays_as_it_is(verify, daemon, tmp_path):
    daemon.stop()
    before = {path.name for path in (tmp_path / "state").iterdir()}
    code, _, said = verify("--replicate", "set,hset")
    assert (code, "--replicate as the daemon has them" in said) == (MISTAKEN, True)
    assert {path.name for path in (tmp_path / "state").iterdir()} == before


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
        "different         changed on both sides  site1:field",
        "different         changed on both sides  site1:type",
        "different         changed on both sides  site1:value",
        "different         expiry differs         site1:expiry",
        "only at the hub   stays: no -rc          site1:there",
        "only at the site  to be pushed           site1:here",
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
    assert {entry["key"]: entry["would"] for entry in keys}["site1:here"] == "to be pushed"


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
    assert "only at the site  stays: not pushed      site1:here" in said
    assert hub.get("site1:here") is None
    assert site.get("site1:there") == b"v"


def test_without_repair_nothing_is_written(verify, site, hub):
    unlike(site, hub)
    before = [{key: client.dump(key) for key in client.keys(b"*")} for client in (site, hub)]
    verify("-rc")
    assert before == [{key: client.dump(key) for key in client.keys(b"*")} for client in (site, hub)]


def test_what_the_daemon_left_tells_which_is_newer(daemon, verify, site, hub):
    names = [f"site1:{name}" for name in ("hub", "site", "both", "gone-here", "gone-there")]
    for name in names:
        site.set(name, "old")
    eventually(lambda: hub.exists(*names) == len(names))
    daemon.stop()
    hub.set("site1:hub", "new")
    site.set("site1:site", "new")
    site.set("site1:both", "site")
    hub.set("site1:both", "hub")
    site.delete("site1:gone-here")
    hub.delete("site1:gone-there")

    code, said, _ = verify(*BOTH_WAYS)
    assert code == DIFFERENT
    assert sorted(said.splitlines()[:-1]) == [
        "different         changed on both sides  site1:both",
        "different         to be pulled           site1:hub",
        "different         to be pushed           site1:site",
        "only at the hub   to be pushed           site1:gone-here",
        "only at the site  to be pulled           site1:gone-there",
    ]
    code, said, errors = verify(*BOTH_WAYS, "--repair")
    assert (code, said) == (SAME, "3 keys compared: no difference\n")
    assert errors.count("\n") == 0
    assert "conflict.resolved            key=site1:both reason='changed on both sides' winner=hub" in errors
    for client in (site, hub):
        assert client.mget(names) == [b"new", b"new", b"hub", None, None]


def test_without_rc_a_removal_goes_to_the_hub_and_none_comes_back(daemon, verify, site, hub):
    names = ["site1:gone-here", "site1:gone-there"]
    for name in names:
        site.set(name, "v")
    eventually(lambda: hub.exists(*names) == len(names))
    daemon.stop()
    site.delete("site1:gone-here")
    hub.delete("site1:gone-there")
    hub.set("site1:never-here", "v")

    code, said, _ = verify("--replicate", "set,hset,del", "--repair")
    assert (code, said.splitlines()[0]) == (DIFFERENT, "only at the hub   stays: no -rc          site1:never-here")
    for client in (site, hub):
        assert client.mget(names) == [None, b"v"]


def test_many_removals_wait_for_a_word(daemon, verify, site, hub):
    names = [f"site1:{n}" for n in range(150)]
    for name in names:
        site.set(name, "v")
    eventually(lambda: hub.exists(*names) == len(names))
    daemon.stop()
    hub.delete(*names[:120])

    code, said, errors = verify(*BOTH_WAYS, "--repair")
    assert (code, said) == (MISTAKEN, "")
    assert "120 keys would be removed, more than --max-removals lets: give --removals if you mean it" in errors
    assert site.exists(*names) == 150
    assert verify(*BOTH_WAYS, "--repair", "--removals")[0] == SAME
    assert site.exists(*names) == hub.exists(*names) == 30


def test_an_entry_that_comes_back_may_be_pending_in_a_group_by_that(verify, site, hub):
    """Redis keeps it pending while it is gone, and tells nobody: so the group of the hub lacks it."""
    for client in (site, hub):
        client.xadd("site1:stream", {"f": "v"}, "1-0")
        client.xgroup_create("site1:stream", "g", "0")
    site.xreadgroup("g", "consumer", {"site1:stream": ">"})
    site.xdel("site1:stream", "1-0")
    site.xadd("site1:stream", {"f": "v"}, "2-0")  # to be pushed meanwhile
    hub.xgroup_setid("site1:stream", "g", "1-0")

    assert verify("-rc", "--replicate", "streams,del,streams-groups", "--repair")[0] == SAME
    for client in (site, hub):
        assert client.xpending("site1:stream", "g")["pending"] == 1
        assert client.xlen("site1:stream") == 2


def test_only_the_daemon_repairs_while_it_runs(daemon, verify, site, hub):
    """It alone knows which of two values is newer, and what was removed."""
    site.mset({"site1:newer": "old", "site1:removed": "v"})
    eventually(lambda: hub.exists("site1:newer", "site1:removed") == 2)
    daemon.signal(signal.SIGSTOP)
    site.set("site1:newer", "new")
    site.delete("site1:removed")
    code, said, _ = verify(*BOTH_WAYS)
    refused = verify(*BOTH_WAYS, "--repair")
    held = site.get("site1:newer"), site.get("site1:removed"), hub.get("site1:newer"), hub.get("site1:removed")
    daemon.signal(signal.SIGCONT)
    assert (code, said.count("left to the daemon")) == (DIFFERENT, 2)
    assert (refused[0], refused[1]) == (MISTAKEN, "")
    assert "it makes both sides equal by itself; to have it done here, stop it first" in refused[2]
    assert held == (b"new", None, b"old", b"v")
    eventually(lambda: (hub.get("site1:newer"), hub.get("site1:removed")) == (b"new", None))
    assert daemon.running


def test_what_loses_is_kept(verify, site, hub, tmp_path):
    site.hset("site1:hash", mapping={"f": "site", "same": "v"})
    hub.hset("site1:hash", mapping={"f": "hub", "same": "v"})
    assert verify(*BOTH_WAYS, "--repair")[0] == SAME
    assert site.hgetall("site1:hash") == {b"f": b"hub", b"same": b"v"}
    with Daemon(["conflicts", "--json", "--state-dir", tmp_path / "state"]) as conflicts:
        assert conflicts.wait(60) == 0
    kept = json.loads(conflicts.stdout)
    assert (kept["key"], kept["winner"], kept["value"]) == ("site1:hash", "hub", [["f", "site"]])


def test_the_hub_is_away(verify):
    code, said, errors = verify("--haddr", "https://127.0.0.1:1/redis")
    assert (code, said) == (UNAVAILABLE, "")
    assert errors.startswith("redisrepl: the hub https://127.0.0.1:1/redis/ cannot be reached")


@pytest.mark.parametrize("side", ["site", "hub"])
def test_a_side_takes_no_writes(verify, site, hub, side):
    """It is tried again a few times, and then said in one sentence."""
    site.set("site1:here", "v")
    hub.set("site1:there", "v")
    client = site if side == "site" else hub
    client.config_set("min-replicas-to-write", 1)
    try:
        code, said, errors = verify("-rc", "--repair")
    finally:
        client.config_set("min-replicas-to-write", 0)
    assert (code, said) == (UNAVAILABLE, "")
    assert "NOREPLICAS" in errors.splitlines()[-1]


def test_the_hub_is_not_trusted(verify, certificates):
    code, said, errors = verify("--ca", certificates.foreign_ca())
    assert (code, said) == (REFUSED, "")
    assert "not signed by the given CA" in errors


@pytest.mark.parametrize("running", [False, True], ids=["no daemon", "beside a daemon"])
def test_expiries_are_compared_by_the_time_that_is_left(servers, certificates, tmp_path, running):
    """The hub is two hours ahead; beside a daemon, nobody tells which difference that one has measured."""
    kinds = ["-rc", "--replicate", "set,hset,del,expire"]
    with OtherClock(7200) as clock, Hub(certificates, redis={"program": clock.program(hub_redis())}) as hub:
        at_site = servers[0].client()
        at_site.flushall()
        files = ["--cert", certificates.client, "--key", certificates.client_key, "--ca", certificates.ca]
        where = ["--raddr", f"127.0.0.1:{servers[0].port}", "--haddr", hub.url, "--state-dir", tmp_path / "state"]
        words = ["--ns", "site1:", *files, *where, *kinds]

        def verify(*args):
            environment = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"), "")
            with Daemon(["verify", *words, *args], env=environment) as process:
                return process.wait(60)

        at_site.set("site1:a", "v", ex=3600)
        hub.redis.set("site1:b", "v", ex=3600)
        if running:
            with Daemon([*words, "--log-format", "json"]) as daemon:
                daemon.wait_for_log("sweep.finished", 60)
                eventually(lambda: verify() == 0, 30, "both sides are equal")
        else:
            assert verify() == 1
            assert verify("--repair") == 0
        for client in (at_site, hub.redis):
            assert all(3500 < client.ttl(key) <= 3600 for key in ("site1:a", "site1:b"))
        assert at_site.expire("site1:a", 1800)
        assert verify() == 1
