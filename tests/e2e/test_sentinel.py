"""A site whose master Sentinels choose: the daemon's stream, reads and writes go where it goes."""

import pytest

from testbed import RedisSentinel, RedisServer, eventually
from tests.e2e.support import SWIFT, all_replicated, assert_equal_soon, certificate_flags, pushed, wait_until_live


@pytest.fixture
def trio():
    with (
        RedisServer() as master,
        RedisServer(replica_of=master) as replica,
        RedisSentinel(master) as sentinel,
    ):
        eventually(lambda: master.client().info("replication").get("slave0", {}).get("state") == "online")
        eventually(lambda: replica.port in sentinel.replica_ports())
        yield master, replica, sentinel


def test_both_directions_follow_a_fail_over(certificates, daemons, hub, at_hub, trio):
    master, replica, sentinel = trio
    site = f"127.0.0.1:{sentinel.port}/{sentinel.service}"
    flags = [*certificate_flags(certificates), "--haddr", hub.url, "--ns", "site1:", "-rc", *SWIFT]
    daemon = daemons.raw(*flags, "--sentinel", site)
    wait_until_live(daemon, pull=True)
    old = master.client()
    old.set("site1:before", 1)
    old.incr("site1:computed")
    all_replicated(old, at_hub)
    # What the replica does not have yet would be lost with its master; that is Redis' own affair. The mark counts too.
    old.client_pause(5_000, all=False)
    written = old.info("replication")["master_repl_offset"]
    eventually(lambda: replica.client().info("replication")["slave_repl_offset"] >= written)
    mark = daemon.mark()

    assert sentinel.fail_over() == replica.port

    daemon.wait_for_log("stream.attached", after=mark, partial=True)
    new = replica.client()
    new.set("site1:after", 2)
    new.incr("site1:computed")
    at_hub.set("site1:from-hub", 3)
    eventually(lambda: new.get("site1:from-hub") == b"3")
    pushed(new)
    assert_equal_soon(new, at_hub)
    assert at_hub.get("site1:after") == b"2"
    assert at_hub.get("site1:computed") == b"2"
    assert not daemon.logged("stream.full_sync")[1:]
    assert daemon.stop() == 0


def test_a_master_that_dies(certificates, daemons, hub, at_hub, trio):
    master, replica, sentinel = trio
    flags = [*certificate_flags(certificates), "--haddr", hub.url, "--ns", "site1:", "-rc", *SWIFT]
    daemon = daemons.raw(*flags, "--raddr", f"redis-sentinel://127.0.0.1:{sentinel.port}/{sentinel.service}")
    wait_until_live(daemon, pull=True)
    old = master.client()
    old.set("site1:before", 1)
    old.wait(2, 5000)
    mark = daemon.mark()

    master.kill()

    eventually(lambda: sentinel.master_port == replica.port, 30, "another master")
    daemon.wait_for_log("stream.attached", 30, after=mark, partial=True)
    new = replica.client()
    new.set("site1:after", 2)
    at_hub.set("site1:from-hub", 3)
    eventually(lambda: new.get("site1:from-hub") == b"3", 20)
    assert_equal_soon(new, at_hub)
