"""What the site wrote and removed while nobody carried it stands, however far its backlog reaches."""

import contextlib
import itertools

import pytest

from testbed import FaultProxy, RedisServer, SmallDisk, eventually
from tests.e2e.pairs import REMOVALS, Pair, held, overrun, some, write

#: Values of a hundred bytes, so that ten thousand keys are more than the 1 MB that a backlog has by default.
OLD, NEW = ("old" * 34)[:100], ("new" * 34)[:100]
MANY = 10_000


@pytest.mark.parametrize(("source", "way"), [("psync", "stop"), ("psync", "kill"), ("notify", "kill")])
def test_what_the_site_wrote_while_the_daemon_was_away_is_newer(daemons, site, hub, at_site, source, way):
    """Far more than the backlog holds; nobody has touched the hub."""
    pair = Pair(daemons, site, hub, source=source)
    pair.fill(some("key", MANY, OLD))
    pair.end(way)
    before = at_site.info("replication")
    write(at_site, some("key", MANY, NEW))
    after = at_site.info("replication")
    if source == "psync":
        assert after["repl_backlog_size"] == 1 << 20
        assert after["repl_backlog_first_byte_offset"] > before["master_repl_offset"] + 1
    pair.start_again()
    pair.expect(some("key", MANY, NEW))


@pytest.fixture
def lasting():
    """A site whose Redis keeps its data as most do."""
    with RedisServer(config={"appendonly": "yes", "appendfsync": "everysec"}) as server:
        yield server


def end_server(server, client, way):
    """End it in order or, once the kernel has all that it wrote, with kill -9."""
    if way == "stop":
        server.stop()
        return
    unwritten = ("aof_buffer_length", "aof_pending_bio_fsync")
    eventually(lambda: not any(client.info("persistence")[name] for name in unwritten))
    server.kill()


@pytest.mark.parametrize(
    ("source", "way", "of_daemon", "count"),
    [
        ("psync", "stop", "stop", 1000),
        ("psync", "kill", "kill", 4000),
        ("psync", "kill", None, 1000),
        ("notify", "stop", "stop", 1000),
        ("notify", "kill", "kill", 1000),
    ],
)
def test_what_the_site_wrote_before_its_machine_restarted_is_newer(
    daemons, lasting, hub, source, way, of_daemon, count
):
    """The hub cannot be reached all the while, and others write there."""
    with FaultProxy(hub.port) as wire:
        pair = Pair(daemons, lasting, hub, source=source, hub_at=wire.port)
        pair.fill(some("site", count, "old"), some("hub", 500, "old"), some("untouched", 500, "old"))
        mark = pair.daemon.mark()
        wire.down()
        write(pair.at_site, some("site", count, "new") | some("site alone", 100, "new"))
        pair.daemon.wait_for_log("push.failed", after=mark)
        write(pair.at_hub, some("hub", 500, "new") | some("hub alone", 100, "new"))
        if of_daemon:
            pair.end(of_daemon)
        mark = pair.daemon.mark()
        end_server(lasting, pair.at_site, way)
        lasting.start()
        assert held(pair.at_site).items() >= some("site", count, "new").items()
        if of_daemon:
            pair.daemon.start()
        pair.wait_for_site(mark)
        wire.listen()
        pair.wait_for_hub(mark)
        pair.expect(
            some("site", count, "new"),
            some("site alone", 100, "new"),
            some("hub", 500, "new"),
            some("hub alone", 100, "new"),
            some("untouched", 500, "old"),
        )


@pytest.mark.parametrize(("source", "way"), [("psync", "kill"), ("notify", "stop")])
def test_what_the_site_removed_while_the_daemon_was_away_stays_removed(daemons, site, hub, at_site, source, way):
    pair = Pair(daemons, site, hub, *REMOVALS, source=source)
    fields = {b"site1:hash": {b"kept": b"v", b"removed": b"v"}}
    pair.fill(some("removed", 300, "v"), some("kept", 600, "v"), fields)
    pair.end(way)
    with overrun(at_site):
        at_site.delete(*some("removed", 300, "v"))
        at_site.hdel("site1:hash", "removed")
    pair.start_again()
    pair.expect(some("kept", 600, "v"), {b"site1:hash": {b"kept": b"v"}})


def test_what_the_site_removed_while_its_link_was_cut_stays_removed(daemons, site, hub, at_site):
    with FaultProxy(site.port) as wire:
        pair = Pair(daemons, site, hub, *REMOVALS, site_at=wire.port)
        pair.fill(some("removed", 300, "v"), some("kept", 600, "v"))
        mark = pair.daemon.mark()
        wire.down()
        pair.daemon.wait_for_log("stream.failed", after=mark)
        with overrun(at_site):
            at_site.delete(*some("removed", 300, "v"))
        wire.listen()
        pair.wait_for_site(mark)
        pair.expect(some("kept", 600, "v"))


@pytest.mark.parametrize(
    ("source", "removals"),
    [("psync", ()), ("psync", REMOVALS), ("notify", REMOVALS)],
    ids=["psync, set,hset", "psync", "notify"],
)
def test_another_database_in_the_place_of_the_sites_is_what_it_wrote(daemons, site, hub, at_site, source, removals):
    """No event tells of SWAPDB, and one command in the stream does."""
    period = ("--sweep-period", "1") if source == "notify" else ()
    pair = Pair(daemons, site, hub, *removals, *period, source=source)
    pair.fill(some("key", 200, "old"), some("only before", 50, "old") if removals else {})
    with contextlib.closing(site.client(db=1)) as other:
        write(other, some("key", 200, "new") | some("only after", 50, "new"))
    mark = pair.daemon.mark()
    at_site.swapdb(0, 1)
    if source == "notify":
        for _ in range(2):
            pair.daemon.wait_for_log("sweep.finished", after=mark)
            mark = pair.daemon.mark()
    pair.expect(some("key", 200, "new"), some("only after", 50, "new"))


@pytest.mark.parametrize("of_key", ["key", "field"])
def test_what_was_removed_while_the_disk_was_full_and_came_again_is_kept(daemons, site, hub, at_site, of_key):
    """The daemon is killed that could not write so: for the next one it is agreed on, and missing at the site."""
    with SmallDisk() as disk:
        pair = Pair(daemons, site, hub, *REMOVALS, "--state-dir", disk.path / "state")
        here = {b"site1:key": b"v", b"site1:hash": {b"field": b"v", b"other": b"v"}}
        pair.fill(here)
        disk.fill([pair.daemon.pid])
        numbers = itertools.count()  # until the last page of the journal is full, too

        def refused():
            here[b"site1:filler"] = b"%d" % next(numbers)
            write(at_site, {b"site1:filler": here[b"site1:filler"]})
            return pair.daemon.logged("store.failed")

        eventually(refused)
        pair.expect(here)
        pair.at_hub.delete("site1:key") if of_key == "key" else pair.at_hub.hdel("site1:hash", "field")
        gone = b"site1:key" if of_key == "key" else b"field"
        eventually(lambda: gone not in (at_site.keys() if of_key == "key" else at_site.hgetall("site1:hash")))
        pair.end("kill")
        write(pair.at_hub, here)
        with overrun(at_site):
            disk.free()
        pair.start_again()
        pair.expect(here)
        pair.at_site.delete("site1:key")
        pair.at_site.hdel("site1:hash", "field")
        pair.expect({b"site1:hash": {b"other": b"v"}, b"site1:filler": here[b"site1:filler"]})  # removals count again
