"""FLUSHALL at the hub, of which no event tells, crosses where removals do; what is written since stays."""

import threading

from testbed import RedisServer, eventually
from tests.e2e.support import ALL_KINDS, SWIFT, BackgroundClient, all_replicated, assert_equal_soon, settled

CALM = ("--retry-max", "0.2", "--canary-period", "1")


def fill(client):
    client.mset({f"site1:{number}": "v" for number in range(10)})
    client.hset("site1:hash", mapping={"a": "1", "b": "2", "c": "3"})
    client.hset("site1:last", "field", "v")


def test_a_flush_of_the_hub_empties_the_namespace_only(daemons, site, hub, at_site, at_hub):
    """No event tells of it; what is written after it stays, on either side."""
    daemon = daemons.live(site, hub, *CALM, *ALL_KINDS)
    at_site.set("elsewhere", "v")
    fill(at_site)
    fill(at_hub)
    all_replicated(at_site, at_hub)
    assert len(assert_equal_soon(at_site, at_hub)) == 12
    settled(daemon)
    pipeline = at_hub.pipeline(transaction=True)
    pipeline.flushall().set("site1:after", "hub").hset("site1:hash", "a", "new").execute()
    at_site.set("site1:too", "site")
    at_site.hset("site1:last", "other", "v")
    eventually(lambda: len(at_site.keys("site1:[^~]*")) == 4, 20, "what was written since")
    all_replicated(at_site, at_hub)
    assert assert_equal_soon(at_site, at_hub) == {
        b"site1:after": ("string", b"hub", -1),
        b"site1:hash": ("hash", {b"a": b"new"}, -1),
        b"site1:too": ("string", b"site", -1),
        b"site1:last": ("hash", {b"other": b"v"}, -1),
    }
    assert at_site.get("elsewhere") == b"v"


def test_a_flush_of_the_hub_with_many_keys_and_two_sites(daemons, site, hub, at_site, at_hub):
    """No site brings back what the other is about to remove."""
    with RedisServer() as second:
        at_second = second.client()
        first, other = (daemons.live(place, hub, *CALM, *ALL_KINDS, "--sweep-period", "1") for place in (site, second))
        at_site.mset({f"site1:{number}": "v" for number in range(2000)})
        eventually(lambda: at_second.dbsize() >= 2000)
        for daemon in (first, other):
            settled(daemon)
        at_hub.flushdb(asynchronous=True)
        eventually(lambda: not at_site.keys("site1:[0-9]*") and not at_second.keys("site1:[0-9]*"), 20)
        all_replicated(at_site, at_hub)
        assert at_hub.keys("site1:[0-9]*") == []


def test_a_flush_of_another_database_of_the_hub_removes_nothing(daemons, site, hub, at_site, at_hub):
    daemon = daemons.live(site, hub, *CALM, *ALL_KINDS)
    fill(at_site)
    all_replicated(at_site, at_hub)
    settled(daemon)
    mark = daemon.mark()
    hub.server.client(db=1).flushdb()
    daemon.wait_for_log("sweep.finished", after=mark, reason="the hub was flushed")
    all_replicated(at_site, at_hub)
    assert len(assert_equal_soon(at_site, at_hub)) == 12


def test_a_flush_of_the_hub_removes_nothing_of_a_kind_that_does_not_cross(daemons, site, hub, at_site, at_hub):
    """It was never there."""
    daemon = daemons.live(site, hub, *SWIFT, "--replicate", "set,del")
    fill(at_site)
    all_replicated(at_site, at_hub)
    settled(daemon)
    mark = daemon.mark()
    at_hub.flushall()
    daemon.wait_for_log("sweep.finished", after=mark, reason="the hub was flushed")
    eventually(lambda: set(at_site.keys("site1:[^~]*")) == {b"site1:hash", b"site1:last"})
    all_replicated(at_site, at_hub)
    assert at_site.hgetall("site1:hash") == {b"a": b"1", b"b": b"2", b"c": b"3"}


def test_a_flush_of_the_hub_is_undone_if_removals_do_not_cross(daemons, site, hub, at_site, at_hub):
    daemons.live(site, hub, *SWIFT, "--sweep-period", "1")
    at_site.mset({f"site1:{number}": "v" for number in range(20)})
    all_replicated(at_site, at_hub)
    at_hub.flushall()
    eventually(lambda: len(at_hub.keys("site1:[0-9]*")) == 20, 20, "a comparison has brought them back")
    assert len(at_site.keys("site1:[0-9]*")) == 20


def test_a_flush_of_the_hub_while_the_daemon_was_away(daemons, site, hub, at_site, at_hub):
    """What was written at either side since stays."""
    daemon = daemons.live(site, hub, *SWIFT, *ALL_KINDS)
    at_site.mset({f"site1:{number}": "v" for number in range(20)})
    all_replicated(at_site, at_hub)
    settled(daemon)
    daemon.stop()
    at_hub.flushall()
    at_hub.set("site1:0", "since")
    at_site.set("site1:1", "since")
    daemon.start()
    eventually(lambda: sorted(at_site.keys("site1:[0-9]*")) == [b"site1:0", b"site1:1"], 20)
    all_replicated(at_site, at_hub)
    assert {key: value for key, (_, value, _) in assert_equal_soon(at_site, at_hub).items()} == {
        b"site1:0": b"since",
        b"site1:1": b"since",
    }


class Writer(BackgroundClient):
    """Of what it wrote after the flush it remembers the last value of each key and field."""

    def __init__(self, name, server):
        super().__init__(name, server, pause=0.005)
        self._flushed = threading.Event()
        self.written = 0
        self.last = {}

    def flushed(self):
        self._flushed.set()
        return self.written

    def write(self, rng):
        after = self._flushed.is_set()
        value = b"%s %d" % (self.name, self.written)
        match rng.randrange(3):
            case 0:
                place = b"site1:%d:%s" % (rng.randrange(500), self.name), None
                self.client.set(place[0], value)
            case 1:
                place = b"site1:new:%s" % value, None
                self.client.set(place[0], value)
            case 2:
                place = b"site1:hash:%d" % rng.randrange(100), value
                self.client.hset(*place, value)
        if after:
            self.last[place] = value
        self.written += 1


def test_what_is_written_after_a_flush_of_the_hub_stays_and_what_was_before_goes(daemons, site, hub, at_site, at_hub):
    with RedisServer() as second:
        at_second = second.client()
        both = [daemons.live(place, hub, *CALM, *ALL_KINDS, "--sweep-period", "1") for place in (site, second)]
        names = ("site", "second", "hub")
        at_site.mset({f"site1:{number}:{name}": "old" for number in range(500) for name in names})
        for number in range(100):
            at_hub.hset(f"site1:hash:{number}", "old", "v")
        for client in (at_site, at_second):
            all_replicated(client, at_hub)
            assert len(assert_equal_soon(client, at_hub)) == 1600
        for daemon in both:
            settled(daemon)
        with Writer(b"site", site) as one, Writer(b"second", second) as two, Writer(b"hub", hub.server) as three:
            writers = one, two, three
            eventually(lambda: all(writer.written > 200 for writer in writers))
            at_hub.flushall()
            before = [writer.flushed() for writer in writers]
            for daemon in both:
                daemon.wait_for_log("sweep.finished", 30, reason="the hub was flushed")
            eventually(lambda: all(writer.written > n + 200 for writer, n in zip(writers, before, strict=True)))
        for client in (at_site, at_second):
            all_replicated(client, at_hub)
            held = assert_equal_soon(client, at_hub)
        for writer in writers:
            assert writer.last
            for (key, field), value in writer.last.items():
                assert (held[key][1] if field is None else held[key][1][field]) == value
        assert not [key for key, (_, value, _) in held.items() if value == b"old" or b"old" in value]
