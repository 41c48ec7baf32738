"""`--initial-sync`: which way what stood there before is copied; gaps that come later are healed all the same."""

import contextlib

import pytest

from testbed import FaultProxy, Hub, eventually
from tests.e2e.pairs import REMOVALS, held, overrun, write
from tests.e2e.support import SWIFT, all_replicated

KEYS = ("site1:site", "site1:hub", "site1:both")


@pytest.fixture
def stood_there(at_site, at_hub):
    """Each side has a key of its own and one with the other."""
    at_site.mset({"site1:site": "site", "site1:both": "site"})
    at_hub.mset({"site1:hub": "hub", "site1:both": "hub"})


def known(client):
    return tuple(value and value.decode() for value in client.mget(KEYS))


@pytest.mark.parametrize(
    ("way", "at_the_site", "at_the_hub"),
    [
        ("both", ("site", "hub", "hub"), ("site", "hub", "hub")),
        ("pull", ("site", "hub", "hub"), (None, "hub", "hub")),
        ("none", ("site", None, "site"), (None, "hub", "hub")),
    ],
)
@pytest.mark.usefixtures("stood_there")
def test_first_contact(daemons, site, hub, at_site, at_hub, way, at_the_site, at_the_hub):
    daemon = daemons.live(site, hub, *SWIFT, "--initial-sync", way)
    daemon.wait_for_log("sweep.finished")
    all_replicated(at_site, at_hub)
    eventually(lambda: (known(at_site), known(at_hub)) == (at_the_site, at_the_hub))


def test_it_is_told_that_redis_waits_before_it_sends(daemons, site, hub, at_site):
    at_site.config_set("repl-diskless-sync-delay", 3)
    daemon = daemons.start(site, hub)
    daemon.wait_for_log("stream.attached", timeout=30)

    said = [record["event"] for record in daemon.records if record["event"].startswith("stream.")]
    assert said == ["stream.waiting", "stream.full_sync", "stream.attached"]


@pytest.mark.parametrize("way", ["none", "push"])
def test_what_is_written_during_the_first_comparison_did_not_stand_there(daemons, site, hub, at_site, at_hub, way):
    """Whether or not the comparison finds it as well."""
    at_hub.mset({f"site1:{number}": "stood there" for number in range(600)})
    daemon = daemons.live(site, hub, *SWIFT, "--initial-sync", way, "--sweep-rate", "200")
    new = {b"site1:0", b"site1:599", b"site1:hub", b"site1:site"}
    at_hub.mset(dict.fromkeys(new - {b"site1:site"}, "new"))
    at_site.set("site1:site", "new")
    eventually(lambda: set(at_site.mget(new)) == {b"new"})
    assert not daemon.logged("sweep.finished")
    daemon.wait_for_log("sweep.finished", timeout=30)
    all_replicated(at_site, at_hub)
    assert {key for key in at_site.keys("site1:*") if not key.startswith(b"site1:~")} == new


@pytest.mark.usefixtures("stood_there")
def test_without_a_way_back_nothing_is_pushed_either(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub, *SWIFT, "--initial-sync", "none", rc=False)
    all_replicated(at_site, at_hub, back=False)
    assert known(at_hub) == (None, "hub", "hub")


@pytest.mark.usefixtures("stood_there")
def test_gaps_are_healed_the_way_that_was_missed(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *SWIFT, "--initial-sync", "none")
    daemon.wait_for_log("sweep.finished")
    all_replicated(at_site, at_hub)
    mark = daemon.mark()
    at_hub.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    daemon.wait_for_log("subscribe.started", after=mark)
    eventually(lambda: known(at_site) == ("site", "hub", "hub"))
    all_replicated(at_site, at_hub)
    assert known(at_hub) == (None, "hub", "hub")
    at_site.execute_command("DEBUG", "CHANGE-REPL-ID")
    at_site.execute_command("CLIENT", "KILL", "TYPE", "replica")
    eventually(lambda: known(at_site) == known(at_hub) == ("site", "hub", "hub"))


def test_all_that_was_missed_comes_however_long_that_takes(daemons, site, hub, at_site, at_hub):
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, "--initial-sync", "none", "--batch", "10")
        daemon.wait_for_log("sweep.finished")
        all_replicated(at_site, at_hub)
        mark = daemon.mark()
        at_hub.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        at_hub.mset({f"site1:missed:{number}": bytes(7000) for number in range(300)})
        daemon.wait_for_log("subscribe.started", after=mark)
        wire.trickle(2_500, 0.1, "to_client")  # 25 kB/s for each of its connections
        eventually(lambda: len(at_site.keys("site1:missed:*")) == 300, timeout=30)
        daemon.wait_for_log("sweep.finished", after=mark)


@pytest.mark.usefixtures("stood_there")
def test_a_snapshot_after_a_gap_is_pushed(daemons, site, hub, at_site, at_hub, tmp_path):
    """Nobody can tell what changed in the gap from what has been different since first contact."""
    daemon = daemons.live(site, hub, *SWIFT, "--initial-sync", "none", "--state-dir", tmp_path, rc=False)
    all_replicated(at_site, at_hub, back=False)
    assert daemon.stop() == 0
    at_site.execute_command("DEBUG", "CHANGE-REPL-ID")
    daemon.start()
    daemon.wait_for_log("stream.lost")
    all_replicated(at_site, at_hub, back=False)
    eventually(lambda: known(at_hub) == ("site", "hub", "site"))


@pytest.mark.usefixtures("stood_there")
def test_keys_that_both_sides_changed_while_nobody_followed_are_named(daemons, site, hub, at_site, at_hub, tmp_path):
    """Not for what the hub announces, and not where a hash only gained fields."""
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", tmp_path)
    at_site.mset({"site1:same": "v", "site1:string": "v"})
    at_site.hset("site1:hash", mapping={"field": "v", "other": "v"})
    at_site.hset("site1:gains", "field", "v")
    all_replicated(at_site, at_hub)
    daemon.wait_for_log("sweep.finished")
    at_hub.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    at_hub.set("site1:string", "newer")
    eventually(lambda: at_site.get("site1:string") == b"newer")
    all_replicated(at_site, at_hub)
    assert daemon.stop() == 0
    at_site.execute_command("DEBUG", "CHANGE-REPL-ID")
    for client, value in ((at_site, "s3cret of the site"), (at_hub, "of the hub")):
        client.set("site1:string", value)
        client.hset("site1:hash", "field", value)
        client.hset("site1:gains", value, "v")
    mark = daemon.mark()
    daemon.start()
    eventually(lambda: at_site.get("site1:string") == b"of the hub")
    eventually(lambda: at_site.hgetall("site1:gains") == at_hub.hgetall("site1:gains"))
    daemon.wait_for_log("sweep.finished", after=mark)
    named = [record["key"] for record in daemon.records[mark:] if record["event"] == "conflict.resolved"]
    assert sorted(named) == ["site1:hash", "site1:string"]
    assert len(at_hub.hgetall("site1:gains")) == 3
    assert "s3cret" not in daemon.stderr


def test_a_snapshot_waits_for_the_hub_so_that_its_values_need_not_be_read_again(daemons, site, hub, at_site, at_hub):
    """Half of a quarter of the ceiling is room for some 2,000 of these keys."""
    number_of_keys = 60_000
    at_site.mset({f"site1:{number}": f"value {number}" for number in range(number_of_keys)})
    daemon = daemons.live(site, hub, "--max-memory", "4MiB", rc=False)
    eventually(lambda: at_hub.dbsize() == number_of_keys + 1, timeout=30, description="all keys, and the fence")
    assert at_hub.mget("site1:0", "site1:59999") == [b"value 0", b"value 59999"]
    assert "eval" not in site.commandstats()
    assert daemon.logged("snapshot.unpaced") == []
    all_replicated(at_site, at_hub, back=False)


def test_keys_above_the_ceiling_arrive_by_a_comparison(daemons, site, certificates):
    """The hub is away, so the snapshot does not wait."""
    number_of_keys = 20_000
    at_site = site.client()
    at_site.mset({f"site1:{number}": number for number in range(number_of_keys)})
    with Hub(certificates) as hub:
        hub.nginx.stop()
        daemon = daemons.start(site, hub, "--max-keys", "5000", *SWIFT, rc=False)
        daemon.wait_for_log("stream.attached")
        assert len(daemon.logged("snapshot.unpaced")) == 1
        hub.nginx.start()
        eventually(lambda: hub.redis.dbsize() == number_of_keys + 1, timeout=30, description="all keys, and the fence")
        assert "eval" in site.commandstats()


@pytest.mark.parametrize("way", ["stop", "kill"])
@pytest.mark.parametrize("kind", ["strings", "hash"])
def test_what_the_site_writes_after_a_first_contact_was_broken_off_is_newer(daemons, site, hub, kind, way):
    """What stood there is pushed while it is read; the site's Redis is the same process all along."""
    first, last = ({b"site1:%d" % n: value * 20 for n in range(60_000)} for value in (b"first", b"last!"))
    if kind == "hash":
        first, last = {b"site1:h": first}, {b"site1:h": last}
    with contextlib.closing(site.client()) as at_site:
        write(at_site, first)
        daemon = daemons.start(site, hub, *SWIFT, "--shutdown-timeout", "0.5", *REMOVALS)
        eventually(lambda: hub.redis.dbsize() > 100 or hub.redis.hlen("site1:h"), 20, "some of it is at the hub")
        (daemon.stop if way == "stop" else daemon.kill)()
        assert not daemon.logged("stream.attached")
        with overrun(at_site):
            write(at_site, last)
        daemon.start()
        eventually(lambda: held(at_site) == held(hub.redis) == last, 30, "the last values are on both sides")
    assert not daemon.logged("site.went_back")
    assert not daemon.logged("conflict.resolved")
