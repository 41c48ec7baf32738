"""A daemon that ends and starts again goes on where it was, or says why it cannot."""

import pytest

from testbed import FaultProxy, eventually
from tests.e2e.support import ALL_KINDS, SWIFT, all_replicated, assert_equal_soon, pushed, wait_until_live

CONFIG = 78


def end(daemon, way):
    assert daemon.stop() == 0 if way == "SIGTERM" else daemon.kill()


def start_again(daemon, *, pull=True):
    """Start it with the same arguments; how its link began."""
    mark = daemon.mark()
    daemon.start()
    wait_until_live(daemon, pull=pull, after=mark)
    return daemon.wait_for_log("stream.attached", after=mark)


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def saved(state):
    """The journal, once there is a position in it."""

    def found():
        return [path for path in state.glob("*.journal") if b'"replid": "' in path.read_bytes()]

    return lambda: eventually(found, description="a position was saved")[0]


@pytest.mark.parametrize("way", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("rc", [True, False])
def test_it_goes_on_where_it_was(daemons, site, hub, state, saved, way, rc):
    at_site, at_hub = site.client(), hub.redis
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=rc)
    at_site.set("site1:before", "v")
    all_replicated(at_site, at_hub, back=rc)
    saved()
    end(daemon, way)
    at_site.set("site1:meanwhile", "v")
    at_site.hset("site1:hash", "field", "v")
    at_site.incr("site1:counter", 5)
    if rc:
        at_hub.set("site1:from the hub", "v")
    attached = start_again(daemon, pull=rc)
    assert attached["partial"] is True
    assert len(daemon.logged("stream.full_sync")) == 1
    assert len(assert_equal_soon(at_site, at_hub)) == 4 + rc
    all_replicated(at_site, at_hub, back=rc)
    assert at_hub.get("site1:counter") == b"5"


@pytest.mark.parametrize("way", ["SIGTERM", "SIGKILL"])
def test_what_it_applied_is_not_pushed_over_a_newer_value(daemons, site, hub, at_site, at_hub, state, saved, way):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state)
    all_replicated(at_site, at_hub)
    saved()
    keys = [f"site1:{number}" for number in range(20)]
    at_hub.mset(dict.fromkeys(keys, "older"))
    at_hub.hset("site1:hash", "field", "older")
    eventually(lambda: at_site.mget(keys) == [b"older"] * 20 and at_site.hget("site1:hash", "field"))
    end(daemon, way)
    at_hub.mset(dict.fromkeys(keys, "newer"))
    at_hub.hset("site1:hash", "field", "newer")
    assert start_again(daemon)["partial"] is True
    found = assert_equal_soon(at_site, at_hub)
    all_replicated(at_site, at_hub)
    assert found == assert_equal_soon(at_site, at_hub)
    assert at_hub.mget(keys) == at_site.mget(keys) == [b"newer"] * 20
    assert at_hub.hget("site1:hash", "field") == at_site.hget("site1:hash", "field") == b"newer"


def test_many_restarts_while_the_site_writes(daemons, site, hub, at_site, at_hub, state, saved):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    for number in range(6):
        at_site.mset({f"site1:{number}:{key}": number for key in range(100)})
        at_site.incr("site1:counter")
        if number == 0:
            pushed(at_site)
            saved()
        end(daemon, "SIGKILL" if number % 2 else "SIGTERM")
        at_site.incr("site1:counter")
        assert start_again(daemon, pull=False)["partial"] is True
    assert len(assert_equal_soon(at_site, at_hub)) == 601
    assert at_hub.get("site1:counter") == b"12"


@pytest.mark.parametrize("damage", ["empty", "foreign"])
def test_a_damaged_journal_is_named_and_everything_compared(daemons, site, hub, at_site, at_hub, state, saved, damage):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state)
    at_site.set("site1:before", "v")
    all_replicated(at_site, at_hub)
    file = saved()
    end(daemon, "SIGTERM")
    file.write_bytes({"empty": b"", "foreign": b'{"format": 7}'}[damage])
    at_site.set("site1:meanwhile", "site")
    at_hub.set("site1:from the hub", "hub")
    mark = daemon.mark()
    assert start_again(daemon)["partial"] is False
    told = daemon.wait_for_log("store.set_aside", after=mark)
    assert told["level"] == "warning"
    assert told["file"] in (str(file), str(file.with_suffix(".db")))
    assert told["kept_as"].rpartition("/")[2] in [path.name for path in state.glob("*set-aside*")]
    assert len(assert_equal_soon(at_site, at_hub)) == 3
    all_replicated(at_site, at_hub)


def test_both_sides_are_compared_once_what_was_agreed_on_is_lost(daemons, site, hub, at_site, at_hub, state, saved):
    """The site's stream goes on where it was, so the loss alone is a reason to compare the site."""
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state, *ALL_KINDS)
    at_site.set("site1:key", "v")
    all_replicated(at_site, at_hub)
    file = saved()
    end(daemon, "SIGTERM")
    file.with_suffix(".db").write_bytes(bytes(8192))
    at_hub.delete("site1:key")  # nobody knows any more that it was there
    mark = daemon.mark()
    assert start_again(daemon)["partial"] is True
    daemon.wait_for_log("store.set_aside", after=mark)
    eventually(lambda: at_hub.get("site1:key") == b"v")


def test_other_namespaces_than_before_are_compared_anew(daemons, site, hub, at_site, at_hub, state, saved):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    at_site.set("site1:key", "v")
    at_site.set("site2:key", "v")
    all_replicated(at_site, at_hub, back=False)
    saved()
    end(daemon, "SIGTERM")
    other = daemons.live(site, hub, *SWIFT, "--state-dir", state, ns=("site1:", "site2:"), rc=False)
    other.wait_for_log("store.set_aside")
    assert other.logged("stream.attached")[0]["partial"] is False
    eventually(lambda: at_hub.get("site2:key") == b"v")


def test_a_second_daemon_on_the_same_directory_is_refused(daemons, site, hub, at_site, at_hub, state):
    first = daemons.live(site, hub, *SWIFT, "--state-dir", state)
    second = daemons.start(site, hub, *SWIFT, "--state-dir", state)
    assert second.wait() == CONFIG
    (record,) = second.records
    assert record["event"].startswith(f"redisrepl: --state-dir {state}: another redisrepl replicates ")
    assert "stop it" in record["event"]
    at_site.set("site1:key", "v")
    all_replicated(at_site, at_hub)
    end(first, "SIGKILL")
    second.start()  # the lock ended with the first
    second.wait_for_log("stream.attached")


def test_a_directory_that_cannot_be_used(daemons, site, hub, tmp_path):
    (tmp_path / "file").touch()
    daemon = daemons.start(site, hub, "--state-dir", tmp_path / "file" / "state")
    assert daemon.wait() == CONFIG
    (record,) = daemon.records
    assert record["event"].startswith(f"redisrepl: --state-dir {tmp_path / 'file' / 'state'}: not a directory")


def test_a_default_directory_that_cannot_be_used_is_one_warning(daemons, site, hub, at_site, at_hub, tmp_path):
    (tmp_path / "file").touch()
    daemon = daemons.live(site, hub, *SWIFT, env={"STATE_DIRECTORY": str(tmp_path / "file")})
    at_site.set("site1:key", "v")
    all_replicated(at_site, at_hub)
    assert assert_equal_soon(at_site, at_hub).keys() == {b"site1:key"}
    (told,) = daemon.logged("store.temporary")
    assert told["level"] == "warning"
    assert "--state-dir" in told["hint"]
    assert daemon.stop() == 0


@pytest.mark.parametrize("rc", [True, False])
def test_a_flush_that_the_hub_has_not_heard_of_is_not_forgotten(daemons, site, hub, state, saved, rc):
    """What the hub was given meanwhile stays."""
    at_site, at_hub = site.client(), hub.redis
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, *ALL_KINDS, "--state-dir", state, rc=rc)
        at_site.mset({f"site1:{number}": "v" for number in range(100)})
        all_replicated(at_site, at_hub, back=rc)
        saved()
        wire.down()
        at_site.flushdb()
        eventually(lambda: daemon.state()["sweep"]["owed"], description="the flush was read")
        at_hub.set("site1:new", "v")
        end(daemon, "SIGTERM")
        wire.listen()
        start_again(daemon, pull=rc)
        eventually(lambda: not at_hub.keys("site1:[0-9]*"), 20, "the hub's keys are gone")
        if rc:
            assert assert_equal_soon(at_site, at_hub).keys() == {b"site1:new"}
        else:
            assert (at_site.keys("site1:*"), at_hub.keys("site1:*")) == ([], [b"site1:new"])


def test_keys_that_found_no_room_are_not_forgotten(daemons, site, hub, at_site, at_hub, state, saved):
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, "--max-keys", "1000", "--state-dir", state, rc=False)
        all_replicated(at_site, at_hub, back=False)
        saved()
        wire.down()
        at_site.mset({f"site1:{number}": "v" for number in range(3000)})
        daemon.wait_for_log("push.failed")
        wire.listen()
        eventually(lambda: at_hub.exists("site1:999"), description="those that waited are pushed")
        end(daemon, "SIGTERM")
        start_again(daemon, pull=False)
        assert len(assert_equal_soon(at_site, at_hub)) == 3000
