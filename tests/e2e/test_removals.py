"""Removals and expiry times, which cross if `--replicate` names them."""

import pytest

from testbed import FaultProxy, eventually
from tests.e2e.pairs import Pair
from tests.e2e.support import ALL_KINDS, SWIFT, all_replicated, assert_equal_soon, settled

FAR = 4_102_444_800_123


def fill(client):
    client.mset({f"site1:{number}": "v" for number in range(10)})
    client.hset("site1:hash", mapping={"a": "1", "b": "2", "c": "3"})
    client.hset("site1:last", "field", "v")
    client.set("site1:ends", "v", pxat=FAR)
    client.hset("site1:hash ends", "field", "v")
    client.pexpireat("site1:hash ends", FAR)


REMOVALS = {
    "DEL": lambda client: client.delete("site1:1", "site1:2", "site1:hash"),
    "UNLINK": lambda client: client.unlink("site1:1", "site1:hash"),
    "GETDEL": lambda client: client.getdel("site1:1"),
    "HDEL": lambda client: client.hdel("site1:hash", "a", "c"),
    "HDEL of the last": lambda client: client.hdel("site1:last", "field"),
    "EXPIRE": lambda client: client.expire("site1:1", 5000),
    "EXPIRE of a hash": lambda client: client.expire("site1:hash", 5000),
    "PEXPIREAT": lambda client: client.pexpireat("site1:1", FAR + 1),
    "PERSIST": lambda client: client.persist("site1:ends"),
    "PERSIST of a hash": lambda client: client.persist("site1:hash ends"),
    "RENAME": lambda client: client.rename("site1:1", "site1:renamed"),
    "RENAME onto another": lambda client: client.rename("site1:hash", "site1:last"),
    "RENAME out": lambda client: client.rename("site1:1", "site2:renamed"),
    "expired at once": lambda client: client.pexpire("site1:1", -1),
    "expired in time": lambda client: client.pexpire("site1:1", 50),
}


@pytest.fixture(params=["up", "down"])
def there_and_back(request, daemons, site, hub, at_site, at_hub):
    """A daemon that carries everything; the side that is written, and the other."""
    daemons.live(site, hub, *SWIFT, *ALL_KINDS)
    return (at_site, at_hub) if request.param == "up" else (at_hub, at_site)


def test_removals_and_expiries_cross(there_and_back, at_site, at_hub):
    here, there = there_and_back
    for name, remove in REMOVALS.items():
        here.delete(*here.keys("site1:*"), "site1:x")
        all_replicated(at_site, at_hub)
        fill(here)
        before = assert_equal_soon(at_site, at_hub)
        assert len(before) == 14, name
        remove(here)
        if name == "expired in time":
            eventually(lambda: not there.exists("site1:1"))
        all_replicated(at_site, at_hub)
        after = assert_equal_soon(at_site, at_hub)
        assert after != before, name
    assert there.exists("site2:renamed") == 0


def test_a_flush_of_the_site_empties_its_namespace_only(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *SWIFT, *ALL_KINDS, rc=False)
    at_hub.set("site2:elsewhere", "v")
    fill(at_site)
    all_replicated(at_site, at_hub, back=False)
    assert len(assert_equal_soon(at_site, at_hub)) == 14
    daemon.mark()
    at_site.flushdb()
    eventually(lambda: not at_hub.keys("site1:*"), 20)
    assert at_hub.get("site2:elsewhere") == b"v"
    at_site.set("site1:after", "v")
    all_replicated(at_site, at_hub, back=False)
    assert assert_equal_soon(at_site, at_hub).keys() == {b"site1:after"}


def test_a_flush_while_the_hub_is_away_takes_nothing_that_is_newer(daemons, site, hub, at_site, at_hub):
    """What another site has written meanwhile must not go with the rest."""
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, *ALL_KINDS)
        at_site.mset({f"site1:{number}": "v" for number in range(20)})
        all_replicated(at_site, at_hub)
        wire.down()
        at_site.flushdb()
        daemon.wait_for_log("subscribe.failed")
        at_hub.mset({f"site1:new:{number}": "v" for number in range(20)})
        wire.listen()
        eventually(lambda: len(at_site.keys("site1:new:*")) == 20, 20)
        eventually(lambda: not at_hub.keys("site1:[0-9]*"), 20)
        all_replicated(at_site, at_hub)
        assert len(assert_equal_soon(at_site, at_hub)) == 20


def test_a_flush_of_the_site_with_a_way_back(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *SWIFT, *ALL_KINDS)
    fill(at_site)
    all_replicated(at_site, at_hub)
    settled(daemon)
    at_site.flushdb()
    eventually(lambda: not at_hub.keys("site1:[^~]*"), 20)
    all_replicated(at_site, at_hub)
    assert assert_equal_soon(at_site, at_hub) == {}


def test_a_flush_of_the_site_removes_only_what_can_have_been_there(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *SWIFT, *ALL_KINDS)
    at_hub.rpush("site1:list", "element")
    fill(at_site)
    all_replicated(at_site, at_hub)
    settled(daemon)
    at_site.flushall()
    eventually(lambda: at_hub.keys("site1:[^~]*") == [b"site1:list"])
    all_replicated(at_site, at_hub)
    assert at_hub.lrange("site1:list", 0, -1) == [b"element"]


def test_a_flush_of_the_site_leaves_what_was_never_there(daemons, site, hub, at_site, at_hub):
    at_hub.mset({f"site1:{number}": "v" for number in range(600)})
    daemon = daemons.live(site, hub, *SWIFT, *ALL_KINDS, "--initial-sync", "push")
    settled(daemon)
    at_site.flushall()
    daemon.wait_for_log("sweep.finished", reason="the site was flushed")
    all_replicated(at_site, at_hub)
    assert len(at_hub.keys("site1:[^~]*")) == 600


def test_a_comparison_leaves_an_expiry_alone_that_does_not_cross(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *SWIFT, "--sweep-period", "0.5")
    at_site.set("site1:key", "v")
    all_replicated(at_site, at_hub)
    at_site.expire("site1:key", 1000)
    all_replicated(at_site, at_hub)
    daemon.wait_for_log("sweep.finished", after=daemon.mark())
    daemon.wait_for_log("sweep.finished", after=daemon.mark())
    all_replicated(at_site, at_hub)
    assert at_site.ttl("site1:key") > 0
    assert at_hub.ttl("site1:key") == -1


@pytest.mark.parametrize(
    ("kinds", "outage"), [("set,hset", True), ("set,hset,del", False), ("set,hset,del,expire", True)]
)
@pytest.mark.parametrize("side", ["site", "hub"])
def test_a_key_that_outlives_its_agreed_expiry_comes_back_to_the_side_that_let_it_expire(
    daemons, site, hub, kinds, outage, side
):
    """Nobody tells that side of the later expiry: it is not replicated, or it was given while nobody carried it."""
    pair, key = Pair(daemons, site, hub, "--replicate", kinds, "--sweep-period", "0.5"), "site1:outlives"
    here, there = (pair.at_site, pair.at_hub) if side == "site" else (pair.at_hub, pair.at_site)
    for ms in (500, 1000, 2000, 4000, 8000):  # until it lives long enough for this machine
        here.set(key, "v", px=ms)
        arrived = eventually(lambda: there.exists(key) or not here.exists(key)) and there.exists(key)
        if outage:
            pair.end("stop")
        if here.pexpire(key, 10**6) and arrived:
            break
        if outage:
            pair.start_again()
    eventually(lambda: not 0 <= there.pttl(key) <= 8000, 20, "it has expired there, and may be back already")
    if outage:
        pair.start_again()
    eventually(lambda: there.get(key) == b"v", 20, "it is there again")
    assert here.get(key) == b"v"


@pytest.mark.parametrize("kinds", ["set,hset,sets,zsets,expire", "all"])
def test_a_collection_that_is_filled_anew_does_not_expire_as_the_one_before(daemons, site, hub, at_site, at_hub, kinds):
    """Whether it was emptied or removed, at once or a while before; also where removals are not replicated."""
    daemon = daemons.live(site, hub, *SWIFT, "--replicate", kinds)
    daemon.wait_for_log("sweep.finished")  # which would copy back what the site has removed
    emptied = {
        "hash": [["HSET", "k", "e", "v"], ["HDEL", "k", "e"], ["HSET", "k", "f", "v"]],
        "removed": [["HSET", "k", "e", "v"], ["DEL", "k"], ["HSET", "k", "f", "v"]],
        "set": [["SADD", "k", "e"], ["SREM", "k", "e"], ["SADD", "k", "f"]],
        "zset": [["ZADD", "k", "1", "e"], ["ZREM", "k", "e"], ["ZINCRBY", "k", "1", "e"]],
    }
    keys = {f"site1:{name}:{apart}": (commands, apart) for name, commands in emptied.items() for apart in (0, 1)}
    for step in range(3):
        for key, (commands, apart) in keys.items():
            with at_site.pipeline(transaction=True) as pipeline:
                for command in commands[step : step + 1] if apart or not step else commands[1:] if step == 2 else ():
                    pipeline.execute_command(*(key if word == "k" else word for word in command))
                if not step:
                    pipeline.pexpireat(key, FAR)
                pipeline.execute()
        all_replicated(at_site, at_hub)
        if not step:
            assert {at_hub.pexpiretime(key) for key in keys} == {FAR}
    assert {key: at_site.pttl(key) for key in keys} == dict.fromkeys(keys, -1)
    assert {key: at_hub.pttl(key) for key in keys} == dict.fromkeys(keys, -1)


def test_by_default_removals_and_expiries_do_not_cross(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub, *SWIFT).wait_for_log("sweep.finished")  # which would copy back what is removed
    at_site.mset({"site1:site": "v", "site1:hub": "v", "site1:gone": "v"})
    at_site.hset("site1:hash", mapping={"a": "1", "b": "2"})
    all_replicated(at_site, at_hub)
    at_site.delete("site1:site")
    at_site.hdel("site1:hash", "a")
    at_site.unlink("site1:gone")
    at_hub.delete("site1:hub")
    all_replicated(at_site, at_hub)
    assert at_hub.get("site1:site") == at_hub.get("site1:gone") == b"v"
    assert at_hub.hgetall("site1:hash") == {b"a": b"1", b"b": b"2"}
    assert at_site.get("site1:hub") == b"v"


def test_a_removal_that_finds_nothing_does_not_hide_the_next_one(daemons, site, hub, at_site, at_hub):
    """It causes no event at the hub, so the next one is somebody else's."""
    daemons.live(site, hub, *ALL_KINDS)
    at_hub.hset("site1:hash", mapping={"kept": "v"})
    all_replicated(at_site, at_hub)
    at_site.pipeline(transaction=True).set("site1:k", "v").delete("site1:k").execute()
    at_site.pipeline(transaction=True).hset("site1:hash", "f", "v").hdel("site1:hash", "f").execute()
    all_replicated(at_site, at_hub)
    at_hub.set("site1:k", "v")
    at_hub.hset("site1:hash", "f", "v")
    all_replicated(at_site, at_hub)
    assert at_site.get("site1:k") == b"v"
    assert at_site.hget("site1:hash", "f") == b"v"
    at_hub.delete("site1:k")
    at_hub.hdel("site1:hash", "f")
    all_replicated(at_site, at_hub)

    assert_equal_soon(at_site, at_hub, timeout=5)
    assert not at_site.exists("site1:k")
    assert at_site.hgetall("site1:hash") == {b"kept": b"v"}
