"""A site whose Redis refuses PSYNC, followed by its keyspace events instead."""

import random
import threading

import pytest

from testbed import RedisSentinel, RedisServer, eventually
from tests.e2e.support import (
    ALL_KINDS,
    ALPHABET,
    SWIFT,
    Monitor,
    assert_equal_soon,
    certificate_flags,
    content,
    place_flags,
    state,
)

SECRET = "s3cret"
#: What docs/permissions.md asks for where PSYNC is refused.
RIGHTS = (
    "~site1:* ~redisrepl:mark:site1:* -@all resetchannels &redisrepl:origin &__keyspace@0__:site1:* +psubscribe +ping"
    " +config|get +config|set +type +get +mget +hmget +hgetall +pttl +pexpiretime +time +eval +scan +info +select"
    " +set +mset +hset +del +hdel +pexpireat +persist +watch +unwatch +multi +exec +publish"
)


@pytest.fixture(params=["ACL", "rename-command"])
def managed(request, tmp_path):
    """A Redis that refuses PSYNC one way or the other, and the flags to log in there."""
    file = tmp_path / "password"
    file.write_text(SECRET)
    if request.param == "ACL":
        with RedisServer(users=[f"repl on >{SECRET} {RIGHTS}"]) as server:
            yield server, ["--user", "repl", "--password-file", file]
    else:
        with RedisServer(config={"rename-command": 'PSYNC ""'}) as server:
            yield server, []


@pytest.fixture
def renamed():
    with RedisServer(config={"rename-command": 'PSYNC ""'}) as server:
        yield server


def live(daemons, site, hub, *args, rc=True):
    """Both directions are open, and both sides were compared."""
    daemon = daemons.start(site, hub, *args, rc=rc)
    daemon.wait_for_log("notice.started")
    if rc:
        daemon.wait_for_log("subscribe.started")
    daemon.wait_for_log("sweep.finished")
    return daemon


def all_replicated(at_site, at_hub, *, back=True):
    """Return when what was written before is replicated: later writes are, in both directions, twice."""
    for number in range(2):
        value = b"%d %f" % (number, random.random())
        at_site.set(b"site1:~marker:up", value)
        eventually(lambda value=value: at_hub.get(b"site1:~marker:up") == value, 15, "a marker reached the hub")
        if back:
            at_hub.set(b"site1:~marker:down", value)
            eventually(lambda value=value: at_site.get(b"site1:~marker:down") == value, 15, "a marker came back")


def flags(client):
    return set(client.config_get("notify-keyspace-events")["notify-keyspace-events"])


def test_auto_falls_back_with_one_warning(daemons, managed, hub, at_hub):
    site, args = managed
    daemon = live(daemons, site, hub, *args)
    at_site = site.client()
    for way, client in (("up", at_site), ("down", at_hub)):
        client.set(f"site1:{way}:".encode() + ALPHABET, ALPHABET)
        client.hset(f"site1:{way}:h:".encode() + ALPHABET, mapping={ALPHABET: ALPHABET, b"": b"", b"x": b"1"})
        client.set(f"site1:{way}:timed", "1", ex=1000)
        client.incrby(f"site1:{way}:counter", 5)
        client.hincrby(f"site1:{way}:hcounter", "f", 5)
    assert len(assert_equal_soon(at_site, at_hub)) == 10
    warnings = [record["event"] for record in daemon.records if record.get("level") == "warning"]
    assert warnings == ["source.psync_refused"]
    assert "compar" in daemon.logged("source.psync_refused")[0]["cost"]
    assert daemon.state()["source"] == "notify"
    assert daemon.stop() == 0


def test_each_write_is_executed_once_on_each_side(daemons, renamed, hub, at_hub):
    at_site = renamed.client()
    daemon = live(daemons, renamed, hub, *ALL_KINDS)
    all_replicated(at_site, at_hub)
    expected = {}
    with Monitor(renamed) as of_site, Monitor(hub.server) as of_hub:
        for number in range(80):
            for way, client in (("up", at_site), ("down", at_hub)):
                string, mapping = f"site1:{way}:s{number}".encode(), f"site1:{way}:h{number}".encode()
                client.set(string, number)
                client.hset(mapping, mapping={"field": number, ALPHABET: ALPHABET})
                expected[string] = expected[mapping] = 1
                if number % 10 == 0:
                    client.set(string + b"timed", number, ex=1000)
                    expected[string + b"timed"] = 1
        assert assert_equal_soon(at_site, at_hub).keys() == expected.keys()
        all_replicated(at_site, at_hub)
        for monitor in (of_site, of_hub):
            assert {k: n for k, n in monitor.writes().items() if b"~marker" not in k} == expected
    assert daemon.state()["expected_local"] == 0


@pytest.mark.parametrize("way", ["up", "down"])
def test_removals_and_expiries_cross(daemons, renamed, hub, at_hub, way):
    at_site = renamed.client()
    live(daemons, renamed, hub, *ALL_KINDS)
    here = at_site if way == "up" else at_hub
    for number in range(20):
        here.set(f"site1:s{number}", number)
        here.hset(f"site1:h{number}", mapping={"a": 1, "b": 2})
    assert_equal_soon(at_site, at_hub)
    here.delete("site1:s0", "site1:h0")
    here.unlink("site1:s1")
    here.rename("site1:s2", "site1:renamed")
    here.hdel("site1:h1", "a")
    here.hdel("site1:h2", "a", "b")
    here.expire("site1:s3", 1000)
    here.expire("site1:h3", 1000)
    here.pexpire("site1:s4", 50)
    here.getdel("site1:s5")
    here.delete("site1:h6")
    here.set("site1:h6", "a string now")
    here.set("site1:s7", "1", ex=1000)
    here.persist("site1:s7")
    eventually(lambda: not here.exists("site1:s4"))
    held = assert_equal_soon(at_site, at_hub)
    assert not held.keys() & {b"site1:s0", b"site1:h0", b"site1:s1", b"site1:s2", b"site1:h2", b"site1:s4", b"site1:s5"}
    assert held[b"site1:h1"][1] == {b"b": b"2"}
    assert held[b"site1:s3"][2] > 0
    assert held[b"site1:h3"][2] > 0
    all_replicated(at_site, at_hub)
    assert content(at_site) == content(at_hub) == held


#: Of a type: what adds or changes elements 1 to 9, what removes one, and which a server holds.
COLLECTIONS = {
    "hash": (
        lambda client, key, n, value: client.hset(key, f"f{n}", value),
        lambda client, key, n: client.hdel(key, f"f{n}"),
        lambda client, key: client.hgetall(key),
    ),
    "set": (
        lambda client, key, n, value: client.sadd(key, f"{n} {value}"),
        lambda client, key, n: client.srem(key, f"{n} old"),
        lambda client, key: client.smembers(key),
    ),
    "zset": (
        lambda client, key, n, value: client.zadd(key, {f"m{n}": 1 if value == "old" else 2}),
        lambda client, key, n: client.zrem(key, f"m{n}"),
        lambda client, key: client.zrange(key, 0, -1, withscores=True),
    ),
    "stream": (
        lambda client, key, n, value: client.xadd(key, {"f": value}, id=f"{n if value == 'old' else n + 10}-1"),
        lambda client, key, n: client.xdel(key, f"{n}-1"),
        lambda client, key: client.xrange(key),
    ),
}


@pytest.mark.parametrize("type_", COLLECTIONS)
def test_elements_that_both_sides_change_in_the_same_moment_change_on_both(daemons, renamed, hub, at_hub, type_):
    """An event names no element, and may not have come yet when the other side's change is applied."""
    at_site, rng = renamed.client(), random.Random(type_)
    live(daemons, renamed, hub, "--replicate", "all")
    put, remove, held = COLLECTIONS[type_]

    def add(client, key, n):
        put(client, key, n, "old")

    def change(client, key, n):
        put(client, key, n, "new")

    keys = [f"site1:{number}" for number in range(24)]
    with RedisServer() as other:
        alike = other.client()
        for key in keys:
            for n in range(1, 9):
                add(at_site, key, n)
                add(alike, key, n)
        eventually(lambda: all(held(at_hub, key) == held(at_site, key) for key in keys), 20, "they are there")
        for key in keys:
            of_hub, of_site = rng.choice([(add, 9), (change, 5), (remove, 5)]), (rng.choice([change, remove]), 3)
            if type_ == "stream" and of_hub[0] is not remove:
                of_site = remove, 3  # a new entry there might be refused: the hub's may have come before it
            for client, (write, n) in rng.sample([(at_site, of_site), (at_hub, of_hub)], 2):
                write(client, key, n)
            for write, n in (of_hub, of_site):
                write(alike, key, n)
            all_replicated(at_site, at_hub)
        wanted = {key: held(alike, key) for key in keys}
    for client in (at_site, at_hub):
        eventually(lambda client=client: {key: held(client, key) for key in keys} == wanted, 20, "all changes")


def test_what_is_counted_in_a_hash_whose_other_fields_the_hub_changes_is_counted(daemons, renamed, hub, at_hub):
    at_site = renamed.client()
    live(daemons, renamed, hub)
    for number in range(300):
        at_site.hincrby("site1:h", "n", 1)
        at_hub.hincrby("site1:h", "m", 1)
        at_hub.hset("site1:h", f"f{number % 7}", number)
    wanted = {b"n": b"300", b"m": b"300"}
    for client in (at_site, at_hub):
        eventually(lambda client=client: client.hgetall("site1:h").items() >= wanted.items(), 20, "both counts")


def test_what_was_there_before_crosses_without_rc(daemons, renamed, hub, at_hub):
    at_site = renamed.client()
    at_site.set("site1:old", ALPHABET)
    at_site.hset("site1:h", ALPHABET, ALPHABET)
    at_hub.set("site1:hub", "stays there")
    live(daemons, renamed, hub, rc=False)
    at_site.set("site1:new", "1")
    for key in ("site1:old", "site1:h", "site1:new"):
        eventually(lambda key=key: state(at_hub, key) == state(at_site, key))
    assert not at_site.exists("site1:hub")


def test_psync_only_ends_with_one_sentence(daemons, managed, hub):
    site, args = managed
    daemon = daemons.start(site, hub, *args, "--source", "psync")
    assert daemon.wait() == 77
    assert [r["event"] for r in daemon.records if r["event"].startswith("redisrepl:") and "PSYNC" in r["event"]]
    assert not [record for record in daemon.records if record.get("level") in {"warning", "error"}]


def test_notify_uses_events_from_the_start(daemons, site, hub, at_site, at_hub):
    daemon = live(daemons, site, hub, "--source", "notify")
    all_replicated(at_site, at_hub)
    assert not at_site.info("replication")["connected_slaves"]
    assert not daemon.logged("source.psync_refused")
    assert daemon.logged("source.notify")


def test_auto_follows_the_stream_where_it_may(daemons, site, hub, at_site):
    daemon = daemons.live(site, hub)
    assert flags(at_site) == set()
    assert daemon.state()["source"] == "psync"


def test_flags_of_the_site_are_added_to(daemons, renamed, hub):
    at_site = renamed.client()
    at_site.config_set("notify-keyspace-events", "Elx")
    daemon = live(daemons, renamed, hub)
    assert flags(at_site) == set("ElxK$hg")
    assert daemon.wait_for_log("site.notifications_enabled")["added"] == "K$hg"


def test_flags_may_be_out_of_our_reach(daemons, hub, at_hub, tmp_path):
    (tmp_path / "password").write_text(SECRET)
    rights = RIGHTS.replace("+config|get +config|set", "")
    config = {"notify-keyspace-events": "K$hg"}
    with RedisServer(users=[f"repl on >{SECRET} {rights}"], config=config) as site:
        args = ["--user", "repl", "--password-file", tmp_path / "password", *SWIFT]
        daemon = live(daemons, site, hub, *args)
        all_replicated(site.client(), at_hub)
        site.restart()
        eventually(lambda: len(daemon.logged("notice.started")) == 2, 20, "subscribed again")
        all_replicated(site.client(), at_hub)
        told = daemon.logged("site.notifications_unknown")
        assert len(told) == 1
        assert "K$hg" in told[0]["hint"]


def test_a_user_who_may_not_subscribe_is_told(daemons, hub, tmp_path):
    (tmp_path / "password").write_text(SECRET)
    with RedisServer(users=[f"repl on >{SECRET} {RIGHTS.replace('+psubscribe', '')}"]) as site:
        daemon = daemons.start(site, hub, "--user", "repl", "--password-file", tmp_path / "password")
        assert daemon.wait() == 77
        assert "&__keyspace@0__:site1:*" in daemon.stderr
        assert SECRET not in daemon.stderr


def test_a_restart_of_the_site_and_what_was_written_meanwhile(daemons, hub, at_hub):
    """A new subscription, flags set anew, and what nobody told of is found by comparing."""
    with RedisServer(config={"rename-command": 'PSYNC ""'}, persistent=True) as site:
        at_site = site.client()
        daemon = live(daemons, site, hub, *SWIFT)
        all_replicated(at_site, at_hub)
        site.stop()
        at_hub.set("site1:gap:down", "1")
        site.start()
        at_site.set("site1:gap:up", "1")
        at_site.hset("site1:gap:h", ALPHABET, ALPHABET)
        eventually(lambda: len(daemon.logged("notice.started")) == 2, 20, "subscribed again")
        for key in (b"site1:gap:up", b"site1:gap:h", b"site1:gap:down"):
            eventually(lambda key=key: state(at_hub, key) == state(at_site, key), 20, "what was missed is replicated")
        assert flags(at_site) >= set("K$hg")
        all_replicated(at_site, at_hub)
        assert content(at_site) == content(at_hub)


def test_a_lost_subscription_is_made_again(daemons, renamed, hub, at_hub):
    at_site = renamed.client()
    daemon = live(daemons, renamed, hub, *SWIFT)
    for number in range(2, 5):
        with at_site.pipeline(transaction=True) as pipeline:  # so that nothing listens when the writes come
            pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            pipeline.set(f"site1:missed:{number}", number)
            pipeline.execute()
        eventually(lambda number=number: at_hub.get(f"site1:missed:{number}") == b"%d" % number, 20)
        eventually(lambda number=number: len(daemon.logged("notice.started")) == number, 20)
    all_replicated(at_site, at_hub)


def test_both_sides_write_the_same_keys_and_end_equal(daemons, renamed, hub, at_hub):
    live(daemons, renamed, hub, *ALL_KINDS)
    start = threading.Barrier(2)

    def write(server, side):
        choose = random.Random(side)
        with server.client() as client:
            start.wait()
            for number in range(1500):
                key = f"site1:{choose.randrange(8)}"
                match choose.randrange(6):
                    case 0:
                        client.hset(f"{key}:h", choose.randrange(3), f"{side} {number}")
                    case 1:
                        client.incrby(f"{key}:n", choose.randrange(9))
                    case 2:
                        client.delete(key)
                    case 3:
                        client.hdel(f"{key}:h", choose.randrange(3))
                    case _:
                        client.set(key, f"{side} {number}")

    threads = [threading.Thread(target=write, args=pair) for pair in ((renamed, "site"), (hub.server, "hub"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    at_site = renamed.client()
    assert_equal_soon(at_site, at_hub, timeout=40)
    all_replicated(at_site, at_hub)
    assert content(at_site) == content(at_hub)


def test_other_namespaces_are_left_alone(daemons, certificates, renamed, hub, at_hub):
    """Prefixes are literal, though what is subscribed to is a pattern."""
    at_site = renamed.client()
    flags_ = [
        *certificate_flags(certificates),
        *place_flags(renamed, hub),
        "--ns",
        "a*[b]?\\:",
        "--ns",
        "other:",
        "-rc",
    ]
    daemon = daemons.raw(*flags_)
    daemon.wait_for_log("sweep.finished")
    for prefix in (b"a*[b]?\\:", b"other:", b"aXb?\\:", b"a", b"site1:"):
        at_site.set(prefix + ALPHABET, "1")
    for prefix in (b"a*[b]?\\:", b"other:"):
        eventually(lambda prefix=prefix: at_hub.get(prefix + ALPHABET) == b"1")
    assert len([key for key in at_hub.keys("*") if not key.startswith(b"redisrepl:fence:")]) == 2


def test_events_follow_a_fail_over(daemons, certificates, hub, at_hub):
    with RedisServer() as master, RedisServer(replica_of=master) as replica, RedisSentinel(master) as sentinel:
        eventually(lambda: master.client().info("replication").get("slave0", {}).get("state") == "online")
        eventually(lambda: replica.port in sentinel.replica_ports())
        args = [*certificate_flags(certificates), "--haddr", hub.url, "--ns", "site1:", "-rc", "--source", "notify"]
        daemon = daemons.raw(*args, *SWIFT, "--sentinel", f"127.0.0.1:{sentinel.port}/{sentinel.service}")
        daemon.wait_for_log("notice.started")
        daemon.wait_for_log("subscribe.started")
        all_replicated(master.client(), at_hub)
        mark = daemon.mark()

        assert sentinel.fail_over() == replica.port

        daemon.wait_for_log("notice.started", 30, after=mark)
        new = replica.client()
        new.set("site1:after", 2)
        at_hub.set("site1:from-hub", 3)
        eventually(lambda: new.get("site1:from-hub") == b"3", 20)
        all_replicated(new, at_hub)
        assert_equal_soon(new, at_hub)
        assert daemon.stop() == 0
