"""The site's Redis as a source: ways in, forms of the snapshot, interruptions, and what the stream may hold."""

import contextlib
import random
import threading
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from testbed import Certificates, FaultProxy, RedisServer, eventually
from tests.e2e.support import (
    ALPHABET,
    SWIFT,
    all_replicated,
    assert_equal_soon,
    certificate_flags,
    content,
    pushed,
    wait_until_live,
)

USERS = Path(__file__).parents[2] / "deploy" / "site" / "users.acl"
SECRET = "s3cret/with:odd@chars"
QUOTED = "s3cret%2Fwith%3Aodd%40chars"


@pytest.fixture
def password_file(tmp_path):
    file = tmp_path / "password"
    file.write_text(SECRET)
    return file


# EventChannel in.


def start_at(daemons, certificates, hub, raddr, *args):
    flags = [*certificate_flags(certificates), "--haddr", hub.url, "--ns", "site1:", "-rc"]
    daemon = daemons.raw(*flags, "--raddr", raddr, *args)
    wait_until_live(daemon, pull=True)
    return daemon


def test_a_password_in_the_address(certificates, daemons, hub, at_hub):
    with RedisServer(password=SECRET) as site:
        start_at(daemons, certificates, hub, f"redis://:{QUOTED}@localhost:{site.port}")
        all_replicated(site.client(), at_hub)


def test_a_user_with_few_rights(certificates, daemons, hub, at_hub, password_file):
    """Those of the users.acl that operators get, and no more."""
    line = next(line for line in USERS.read_text().splitlines() if line.startswith("user redisrepl "))
    assert "CHANGE-ME-SITE" in line
    with RedisServer(users=[line.replace("CHANGE-ME-SITE", SECRET)]) as site:
        args = ("--user", "redisrepl", "--password-file", password_file)
        start_at(daemons, certificates, hub, f"localhost:{site.port}", *args)
        at_site = site.client()
        at_site.incr("site1:computed")
        at_site.hset("site1:hash", "field", "v")
        at_hub.set("site1:down", "v", ex=1000)
        all_replicated(at_site, at_hub)
        assert len(assert_equal_soon(at_site, at_hub)) == 3


def test_a_user_in_the_address(certificates, daemons, hub, at_hub):
    with RedisServer(users=[f"repl on >{SECRET} ~* &* +@all", "default off"]) as site:
        start_at(daemons, certificates, hub, f"redis://repl:{QUOTED}@localhost:{site.port}/0")
        all_replicated(site.client(username="repl", password=SECRET), at_hub)


def test_a_unix_socket(certificates, daemons, hub, at_hub):
    with RedisServer(password=SECRET, unix_socket=True) as site:
        start_at(daemons, certificates, hub, f"unix://:{QUOTED}@{site.socket_path}?db=0")
        all_replicated(site.client(), at_hub)


@pytest.mark.parametrize("ask_for_certificate", [True, False])
def test_tls_of_its_own(certificates, daemons, hub, at_hub, ask_for_certificate):
    with (
        Certificates(client_name="redis-client") as of_site,
        RedisServer(tls=of_site, tls_auth_clients=ask_for_certificate, password=SECRET) as site,
    ):
        args = ["--site-ca", of_site.ca]
        if ask_for_certificate:
            args += ["--site-cert", of_site.client, "--site-key", of_site.client_key]
        start_at(daemons, certificates, hub, f"rediss://:{QUOTED}@localhost:{site.tls_port}", *args)
        at_site = site.tls_client()
        at_site.set("site1:large", random.Random(1).randbytes(1_000_000))
        all_replicated(at_site, at_hub)


def test_a_replica_as_the_source(daemons, site, hub, at_site, at_hub):
    with RedisServer(replica_of=site) as replica:
        eventually(lambda: replica.client().info("replication")["master_link_status"] == "up", description="in step")
        daemons.live(replica, hub, rc=False)
        for number in range(100):
            at_site.set(f"site1:{number}", number)
        at_site.hset("site1:hash", "field", "v")
        assert len(assert_equal_soon(at_site, at_hub)) == 101


# Snapshots.

SNAPSHOTS = {
    "diskless": {"repl-diskless-sync": "yes"},
    "from disk": {"repl-diskless-sync": "no"},
    "diskless, delayed": {"repl-diskless-sync": "yes", "repl-diskless-sync-delay": 1},
    "slow from disk": {"repl-diskless-sync": "no", "rdb-key-save-delay": 400},
    "slow diskless": {"repl-diskless-sync": "yes", "rdb-key-save-delay": 400},
}


@pytest.mark.parametrize("form", SNAPSHOTS)
def test_snapshot_and_stream(daemons, hub, at_hub, form):
    """Keys from before come with the snapshot; writes made while it is under way come behind it."""
    with RedisServer(config=SNAPSHOTS[form]) as site:
        at_site = site.client()
        with at_site.pipeline(transaction=False) as pipeline:
            for number in range(1500):
                pipeline.set(f"site1:before:{number}", ALPHABET * (number % 4))
            pipeline.mset({f"outside:{number}": number for number in range(1500)})
            pipeline.execute()
        at_site.set("site1:before:large", random.Random(1).randbytes(2_000_000))
        daemon = daemons.start(site, hub, rc=False)
        daemon.wait_for_log("daemon.started")
        number = 0

        def attached():
            nonlocal number
            at_site.set(f"site1:meanwhile:{number}", number)
            at_site.append("site1:before:1", "!")
            number += 1
            return daemon.logged("stream.attached")

        eventually(attached, 30, "attached")
        at_site.hset("site1:after", "field", "v")
        assert len(assert_equal_soon(at_site, at_hub)) == 1501 + number + 1
        pushed(at_site)
        assert daemon.logged("stream.attached")[0]["partial"] is False
        assert len(daemon.logged("stream.full_sync")) == 1


def test_a_snapshot_that_breaks_off_is_taken_again(daemons, site, hub, at_site, at_hub):
    at_site.mset({f"site1:{number}": random.Random(number).randbytes(1000) for number in range(3000)})
    with FaultProxy(site.port) as wire:
        wire.trickle(50_000, 0.05, "to_client")
        wire.truncate(500_000, "to_client")
        daemon = daemons.start(wire.port, hub, *SWIFT, "--timeout", "30", rc=False)
        daemon.wait_for_log("stream.failed")
        wire.heal()
        daemon.wait_for_log("stream.attached", partial=False)
        assert len(assert_equal_soon(at_site, at_hub)) == 3000
        assert len(daemon.logged("stream.full_sync")) == 2


# Interruptions.


def attached_again(daemon, mark, *, partial=True):
    record = daemon.wait_for_log("stream.attached", after=mark)
    assert record["partial"] is partial
    return record


def test_a_killed_link_goes_on_where_it_was(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *SWIFT)
    for number in range(5):
        mark = daemon.mark()
        at_site.set(f"site1:before:{number}", number)
        assert at_site.execute_command("CLIENT", "KILL", "TYPE", "replica") == 1
        at_site.set(f"site1:after:{number}", number)
        attached_again(daemon, mark)
    all_replicated(at_site, at_hub)
    assert len(assert_equal_soon(at_site, at_hub)) == 10
    assert len(daemon.logged("stream.full_sync")) == 1


def test_nothing_written_during_a_cut_is_lost(daemons, site, hub, at_site, at_hub):
    with FaultProxy(site.port) as wire:
        daemon = daemons.live(wire.port, hub, *SWIFT)
        at_site.set("site1:before", "v")
        wire.down()
        daemon.wait_for_log("stream.failed")
        for number in range(500):
            at_site.set(f"site1:{number}", number)
            at_site.incr("site1:counter")
        at_site.hset("site1:hash", mapping={f"{n}": n for n in range(100)})
        mark = daemon.mark()
        wire.heal()
        wire.listen()
        attached_again(daemon, mark)
        all_replicated(at_site, at_hub)
        assert len(assert_equal_soon(at_site, at_hub)) == 503
        assert at_hub.get("site1:counter") == b"500"
        assert len(daemon.logged("stream.recovered")) == 1
        assert len(daemon.logged("stream.full_sync")) == 1


def test_cuts_inside_commands_and_transactions(daemons, site, hub, at_site, at_hub):
    """The stream ends anywhere; it goes on exactly there, and computed values come out right."""
    with FaultProxy(site.port) as wire:
        daemon = daemons.live(wire.port, hub, *SWIFT)
        choose = random.Random(7)
        for round_ in range(12):
            mark = daemon.mark()
            wire.truncate(choose.randrange(1, 3000), "to_client")
            with at_site.pipeline(transaction=round_ % 2 == 0) as pipeline:
                for number in range(100):
                    pipeline.set(f"site1:{round_}:{number}", ALPHABET)
                    pipeline.hincrby("site1:counters", f"{number}", 1)
                pipeline.execute()
            wire.cut()  # in case it was the other connection to the site that was cut short
            attached_again(daemon, mark)
        all_replicated(at_site, at_hub)
        assert len(assert_equal_soon(at_site, at_hub)) == 1201
        assert set(at_hub.hvals("site1:counters")) == {b"12"}
        assert len(daemon.logged("stream.full_sync")) == 1


def test_a_stalled_link_is_given_up_and_goes_on(daemons, site, hub, at_site, at_hub):
    with FaultProxy(site.port) as wire:
        daemon = daemons.live(wire.port, hub, *SWIFT, "--site-silence", "1", rc=False)
        at_site.config_set("repl-ping-replica-period", 1)
        mark = daemon.mark()
        wire.stall()
        at_site.set("site1:meanwhile", "v")
        daemon.wait_for_log("stream.failed", after=mark)
        at_site.set("site1:later", "v")
        mark = daemon.mark()
        wire.heal()
        attached_again(daemon, mark)
        all_replicated(at_site, at_hub, back=False)
        assert len(assert_equal_soon(at_site, at_hub)) == 2


@pytest.mark.parametrize("rc", [True, False])
def test_a_gap_larger_than_the_backlog_is_closed_by_a_snapshot(daemons, hub, at_hub, rc):
    with RedisServer(config={"repl-backlog-size": "16kb"}) as site, FaultProxy(site.port) as wire:
        at_site = site.client()
        daemon = daemons.live(wire.port, hub, *SWIFT, rc=rc)
        at_site.set("site1:before", "v")
        all_replicated(at_site, at_hub, back=rc)
        wire.down()
        daemon.wait_for_log("stream.failed")
        for number in range(200):
            at_site.set(f"site1:{number}", ALPHABET)
        mark = daemon.mark()
        wire.listen()
        attached_again(daemon, mark, partial=False)
        all_replicated(at_site, at_hub, back=rc)
        assert len(assert_equal_soon(at_site, at_hub)) == 201


def test_a_failover_goes_on_at_the_new_master(daemons, site, hub, at_site, at_hub):
    with RedisServer(replica_of=site) as heir, FaultProxy(site.port) as wire:
        at_heir = heir.client()
        daemon = daemons.live(wire.port, hub, *SWIFT)
        at_site.set("site1:before", "v")
        all_replicated(at_site, at_hub)
        wire.down()
        at_site.set("site1:unseen", "v")
        at_site.wait(1, 10_000)
        eventually(lambda: at_heir.get("site1:unseen") == b"v", description="the replica is level")
        at_heir.replicaof("NO", "ONE")
        at_heir.set("site1:after", "v")
        site.stop()
        mark = daemon.mark()
        wire.aim(heir.port)
        wire.listen()
        attached_again(daemon, mark)
        all_replicated(at_heir, at_hub)
        assert assert_equal_soon(at_heir, at_hub).keys() == {b"site1:before", b"site1:unseen", b"site1:after"}


# What the stream may hold.


def test_other_databases_do_not_cross(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub)
    other = site.client(db=1)
    for number in range(50):
        at_site.set(f"site1:{number}", "database 0")
        other.set(f"site1:{number}", "database 1")
        other.set(f"site1:other:{number}", "database 1")
        other.incr("site1:counter")
    other.copy("site1:other:1", "site1:copied", 0)
    at_site.set("site1:to-copy", "database 0")
    at_site.copy("site1:to-copy", "site1:other:copied", 1)
    all_replicated(at_site, at_hub)
    expected = {f"site1:{n}".encode(): ("string", b"database 0", -1) for n in range(50)}
    expected |= {b"site1:copied": ("string", b"database 1", -1), b"site1:to-copy": ("string", b"database 0", -1)}
    assert content(at_hub) == content(at_site) == expected
    assert len(content(other)) == 50 + 50 + 2


def test_another_database_than_0(certificates, daemons, site, hub, at_site, at_hub):
    other = site.client(db=1)
    other.set("site1:before", "database 1")
    at_site.set("site1:elsewhere:before", "database 0")
    start_at(daemons, certificates, hub, f"redis://localhost:{site.port}/1")
    other.set("site1:up", "database 1")
    at_site.set("site1:elsewhere:up", "database 0")
    other.incr("site1:counter")
    at_hub.set("site1:down", "hub")
    all_replicated(other, at_hub)
    assert content(other) == content(at_hub)
    assert content(other).keys() == {b"site1:before", b"site1:up", b"site1:counter", b"site1:down"}
    assert content(at_site).keys() == {b"site1:elsewhere:before", b"site1:elsewhere:up"}


def test_the_selected_database_is_known_after_a_cut(daemons, site, hub, at_site, at_hub):
    """After +CONTINUE the master does not say SELECT again."""
    with FaultProxy(site.port) as wire:
        daemon = daemons.live(wire.port, hub, *SWIFT, rc=False)
        other = site.client(db=3)
        for round_ in range(3):
            at_site.set(f"site1:{round_}", "database 0")
            other.set("site1:other", f"before {round_}")
            mark = daemon.mark()
            wire.cut()
            attached_again(daemon, mark)
            other.set("site1:other", f"after {round_}")
        all_replicated(at_site, at_hub, back=False)
        assert content(at_hub).keys() == {b"site1:0", b"site1:1", b"site1:2"}


def test_transactions_and_scripts(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub)
    for number in range(50):
        with at_site.pipeline(transaction=True) as pipeline:
            pipeline.set(f"site1:t{number}", number)
            pipeline.set("outside", number)
            pipeline.hset("site1:hash", f"{number}", number)
            pipeline.incr("site1:counter")
            pipeline.execute()
        at_site.eval(
            "redis.call('SET', KEYS[1], ARGV[1]) redis.call('HINCRBY', KEYS[2], 'n', 1) redis.call('SELECT', 5)"
            "redis.call('SET', 'site1:in-database-5', 1)",
            *(2, f"site1:e{number}", "site1:scripted", number),
        )
    all_replicated(at_site, at_hub)
    assert len(assert_equal_soon(at_site, at_hub)) == 50 + 50 + 3
    assert at_hub.get("site1:counter") == at_hub.hget("site1:scripted", "n") == b"50"


def test_a_function_writes(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub)
    at_site.function_load(
        "#!lua name=lib\nredis.register_function('put', function(k, a) return redis.call('SET', k[1], a[1]) end)"
    )
    at_site.fcall("put", 1, "site1:by-function", "v")
    all_replicated(at_site, at_hub)
    assert at_hub.get("site1:by-function") == b"v"


def test_keys_expire_at_the_site_without_harm(daemons, site, hub, at_site, at_hub):
    """An expired key arrives as DEL, which does not cross by default; the hub's copy expires by itself."""
    daemons.live(site, hub)
    at_site.set("site1:short", "v", px=300)
    at_site.set("site1:long", "v")
    eventually(lambda: not at_site.exists("site1:short"), description="expired at the site")
    all_replicated(at_site, at_hub)
    eventually(lambda: not at_hub.exists("site1:short"), description="expired at the hub")
    assert content(at_site) == content(at_hub) == {b"site1:long": ("string", b"v", -1)}


def test_a_long_pipeline_from_many_clients(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub)

    def write(number):
        choose = random.Random(number)
        with site.client() as client, client.pipeline(transaction=False) as pipeline:
            for index in range(4000):
                pipeline.set(f"site1:{number}:{index % 1000}", choose.randbytes(choose.randrange(200)))
                pipeline.incr("site1:counter")
            pipeline.execute()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(assert_equal_soon(at_site, at_hub, timeout=40)) == 3001
    assert at_hub.get("site1:counter") == b"12000"


# What the site may ask.


def test_wait_means_that_the_hub_has_it(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub, rc=False)
    for number in range(20):
        at_site.set("site1:key", number)
        at_site.hset("site1:hash", f"{number}", number)
        pushed(at_site)
        assert at_hub.get("site1:key") == b"%d" % number
        assert at_hub.hget("site1:hash", f"{number}") == b"%d" % number


def test_wait_waits_while_the_hub_is_away(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *SWIFT, rc=False)
    at_site.set("site1:before", "v")
    pushed(at_site)
    hub.nginx.stop()
    at_site.set("site1:key", "v")
    daemon.wait_for_log("push.failed")
    with at_site.pipeline(transaction=False) as pipeline:
        pipeline.ping()
        pipeline.wait(1, 300)
        assert pipeline.execute()[1] == 0
    hub.nginx.start()
    pushed(at_site)
    assert at_hub.get("site1:key") == b"v"


def test_acknowledgements_are_those_of_a_replica_that_is_level(daemons, site, hub, at_site):
    daemons.live(site, hub)
    at_site.set("site1:key", "v")
    at_site.set("outside", "v")
    pushed(at_site)

    def level():
        info = at_site.info("replication")
        return info["connected_slaves"] == 1 and info["slave0"]["offset"] == info["master_repl_offset"]

    eventually(level, description="the offset acknowledged is the master's")
    assert at_site.info("replication")["slave0"]["state"] == "online"
    assert at_site.info("replication")["slave0"]["port"] == 0


def test_the_site_shuts_down_without_waiting_for_us(daemons, site, hub, at_site):
    """A master that stops waits (10 s by default) for replicas that lag; SHUTDOWN says at the end whether it had to."""
    daemons.live(site, hub, rc=False)
    at_site.set("site1:key", "v")
    pushed(at_site)
    with redis.Redis(port=site.port, retry=Retry(NoBackoff(), 0), socket_timeout=60) as client:
        client.shutdown(nosave=True)
    eventually(lambda: not site.running, description="it stopped")
    assert "replicas are in sync" in site.tail(50) or "lagging" not in site.tail(50)


def test_min_replicas_counts_us(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub)
    at_site.config_set("min-replicas-to-write", 1)

    def accepted():
        with contextlib.suppress(redis.ResponseError):  # NOREPLICAS: the master has not counted us yet
            return at_site.set("site1:key", "v")

    eventually(accepted, description="the site takes writes")
    all_replicated(at_site, at_hub)
