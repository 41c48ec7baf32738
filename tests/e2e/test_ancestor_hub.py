"""What others wrote and removed at the hub while the site did not hear of it stands."""

import contextlib
from pathlib import Path

import pytest

from testbed import FaultProxy, eventually
from tests.e2e.pairs import REMOVALS, Pair, overrun, some, write

SOURCES = pytest.mark.parametrize("source", ["psync", "notify"])


@SOURCES
def test_what_was_removed_at_the_hub_while_its_link_was_cut_stays_removed(daemons, site, hub, at_hub, source):
    with FaultProxy(hub.port) as wire:
        pair = Pair(daemons, site, hub, *REMOVALS, source=source, hub_at=wire.port)
        fields = {b"site1:hash": {b"kept": b"v", b"removed": b"v"}}
        pair.fill(some("removed", 1000, "v"), some("kept", 2000, "v"), fields)
        mark = pair.daemon.mark()
        wire.down()
        pair.daemon.wait_for_log("subscribe.failed", after=mark)
        at_hub.delete(*some("removed", 1000, "v"))
        at_hub.hdel("site1:hash", "removed")
        write(pair.at_site, some("site", 100, "v"))
        wire.listen()
        pair.wait_for_hub(mark)
        pair.expect(some("kept", 2000, "v"), some("site", 100, "v"), {b"site1:hash": {b"kept": b"v"}})


@SOURCES
def test_what_was_removed_at_the_hub_while_nobody_was_subscribed_stays_removed(daemons, site, hub, at_hub, source):
    """Requests go on, and what the site writes arrives meanwhile."""
    pair = Pair(daemons, site, hub, *REMOVALS, source=source)
    pair.fill(some("removed", 300, "v"), some("kept", 600, "v"))
    mark = pair.daemon.mark()
    with at_hub.pipeline(transaction=True) as pipeline:  # so that nobody listens when they go
        pipeline.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        pipeline.delete(*some("removed", 300, "v"))
        pipeline.execute()
    write(pair.at_site, some("site", 100, "v"))
    pair.wait_for_hub(mark)
    pair.expect(some("kept", 600, "v"), some("site", 100, "v"))


@pytest.mark.parametrize(("source", "way"), [("psync", "kill"), ("notify", "stop")])
def test_what_was_removed_at_the_hub_while_the_daemon_was_away_stays_removed(
    daemons, site, hub, at_site, at_hub, source, way
):
    """The site has written too, more than its backlog holds."""
    pair = Pair(daemons, site, hub, *REMOVALS, source=source)
    pair.fill(some("removed", 300, "v"), some("kept", 600, "v"), some("site", 100, "old"))
    pair.end(way)
    at_hub.delete(*some("removed", 300, "v"))
    with overrun(at_site):
        write(at_site, some("site", 100, "new"))
    pair.start_again()
    pair.expect(some("kept", 600, "v"), some("site", 100, "new"))


@pytest.mark.parametrize(
    ("source", "backlog"),
    [("psync", "whole"), ("psync", "overrun"), ("notify", "whole")],
    ids=["psync", "psync, backlog overrun", "notify"],
)
def test_what_was_removed_on_one_side_and_written_on_the_other_is_there(
    daemons, site, hub, at_site, at_hub, source, backlog
):
    """A value goes before a removal, whichever side has it, and though the stream goes on with the removal."""
    pair = Pair(daemons, site, hub, *REMOVALS, source=source)
    pair.fill(some("site", 100, "old"), some("hub", 100, "old"), some("kept", 300, "v"))
    pair.end("kill")
    with overrun(at_site) if backlog == "overrun" else contextlib.nullcontext():
        write(at_site, some("site", 100, "new"))
        at_site.delete(*some("hub", 100, ""))
    write(at_hub, some("hub", 100, "new"))
    at_hub.delete(*some("site", 100, ""))
    pair.start_again()
    pair.expect(some("site", 100, "new"), some("hub", 100, "new"), some("kept", 300, "v"))


def test_another_database_in_the_place_of_the_hubs_is_what_others_wrote(daemons, site, hub, at_hub):
    """No event tells of SWAPDB: a comparison finds it."""
    pair = Pair(daemons, site, hub, *REMOVALS, "--sweep-period", "1")
    pair.fill(some("key", 200, "old"), some("only before", 50, "old"))
    with contextlib.closing(hub.server.client(db=1)) as other:
        write(other, some("key", 200, "new") | some("only after", 50, "new"))
    mark = pair.daemon.mark()
    at_hub.swapdb(0, 1)
    for _ in range(2):
        pair.daemon.wait_for_log("sweep.finished", after=mark)
        mark = pair.daemon.mark()
    pair.expect(some("key", 200, "new"), some("only after", 50, "new"))


def unread(server):
    """Bytes that clients have sent to a server and it has not read yet, as the kernel counts them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    of_server = (row for row in rows if row[1].endswith(f":{server.port:04X}") and row[3] == "01")  # established
    return sum(int(row[4].partition(":")[2], 16) for row in of_server)


@SOURCES
def test_what_the_hub_executed_though_its_proxy_answered_that_it_is_away_is_ours(daemons, site, hub, at_site, source):
    """Nginx answers 502 when Webdis goes away, and Redis executes what Webdis has sent it."""
    pair = Pair(daemons, site, hub, "--timeout", "20", source=source)
    pair.fill(some("key", 1, "agreed"))
    hub.server.pause()
    mark = pair.daemon.mark()
    write(at_site, some("key", 1, "sent"))
    eventually(lambda: unread(hub.server), 10, "the push is at the hub")
    hub.webdis.kill()
    said = pair.daemon.wait_for_log("push.failed", after=mark)
    assert "502" in said["error"]
    write(at_site, some("key", 1, "waiting"))
    failures = pair.daemon.state()["failures"]["push"]
    eventually(lambda: pair.daemon.state()["failures"]["push"] >= failures + 2, 20, "it was tried again")
    pair.saved()
    pair.end("kill")
    hub.server.resume()
    eventually(lambda: pair.at_hub.mget(some("key", 1, "")) == [b"sent"], 10, "it was executed")
    with overrun(at_site):
        write(at_site, some("key", 1, "last"))
    hub.webdis.start()
    pair.start_again()
    pair.expect(some("key", 1, "last"))
    assert not pair.daemon.logged("conflict.resolved")


def test_the_hub_notes_what_was_agreed_on_also_where_it_is_asked_each_second(daemons, site, hub, at_hub):
    """Else a hub that went back could not tell how far, and all that was ever agreed on might be older there."""
    pair = Pair(daemons, site, hub, *REMOVALS)

    def noted():
        return sum(int(at_hub.hget(key, "9998") or 0) for key in at_hub.keys("redisrepl:fence:*"))

    for value in (b"first", b"second"):
        before = noted()
        at_hub.set("site1:k", value)
        pair.expect({b"site1:k": value})
        eventually(lambda before=before: noted() > before, description="the hub notes more")
