"""FLUSHALL is followed whenever it came, and takes nothing that was written after it; nor does a counter steer it."""

import pytest

from testbed import FaultProxy, RedisServer
from tests.e2e.pairs import REMOVALS, Pair, emptied, some, write
from tests.e2e.support import Monitor

SECRET = "s3cret"
#: Where no event tells of a flush it is found by comparing.
OFTEN = ("--sweep-period", "1")


def compared_again(pair):
    """Both sides were compared from the beginning since now."""
    mark = pair.daemon.mark()
    for _ in range(2):
        pair.daemon.wait_for_log("sweep.finished", 30, after=mark)
        mark = pair.daemon.mark()


def test_a_flush_of_the_hub_while_its_link_was_cut(daemons, site, hub, at_hub):
    """More keys than a comparison may remove without asking: but it was told to."""
    with FaultProxy(hub.port) as wire:
        pair = Pair(daemons, site, hub, *REMOVALS, hub_at=wire.port)
        pair.fill(some("key", 300, "v"), {b"site1:hash": {b"old": b"v"}})
        mark = pair.daemon.mark()
        wire.down()
        pair.daemon.wait_for_log("subscribe.failed", after=mark)
        at_hub.flushall()
        after = some("hub since", 10, "v"), some("site since", 10, "v"), {b"site1:hash": {b"new": b"v"}}
        write(at_hub, after[0] | after[2])
        write(pair.at_site, after[1])
        wire.listen()
        pair.wait_for_hub(mark)
        pair.expect(*after)


@pytest.mark.parametrize(("source", "count"), [("psync", 300), ("notify", 60)])
def test_a_flush_of_the_site_while_the_daemon_was_away(daemons, site, hub, at_site, at_hub, source, count):
    """It stands in the stream; where that is not followed, there are no more keys than a comparison may remove."""
    pair = Pair(daemons, site, hub, *REMOVALS, source=source)
    pair.fill(some("key", count, "v"), some("changed at the hub", 10, "old"))
    pair.end("kill")
    at_site.flushall()
    write(at_site, some("site since", 10, "v"))
    write(at_hub, some("hub since", 10, "v") | some("changed at the hub", 10, "new"))
    pair.start_again()
    pair.expect(some("site since", 10, "v"), some("hub since", 10, "v"), some("changed at the hub", 10, "new"))


@pytest.mark.parametrize("side", ["site", "hub"])
def test_a_flush_of_which_no_event_tells(daemons, site, hub, side):
    """What follows one that the stream tells of is in `test_removals.py`."""
    pair = Pair(daemons, site, hub, *REMOVALS, *OFTEN, source="notify")
    pair.fill(some("key", 80, "v"), {b"site1:hash": {b"old": b"v"}})
    after = some("site since", 10, "v"), some("hub since", 10, "v")
    (pair.at_site if side == "site" else pair.at_hub).flushall()
    write(pair.at_site, after[0])
    write(pair.at_hub, after[1])
    compared_again(pair)
    pair.expect(*after)


def test_counters_that_begin_anew(daemons, site, hub, at_site, at_hub):
    """CONFIG RESETSTAT at either side loses nothing, and hides nothing."""
    pair = Pair(daemons, site, hub, *REMOVALS, *OFTEN)
    gone = some("removed", 10, "v")
    pair.fill(some("key", 30, "v"), gone)
    with Monitor(site) as of_site, Monitor(hub.server) as of_hub:
        for client in (at_site, at_hub):
            client.config_resetstat()
        at_hub.delete(*list(gone)[:5])
        at_site.delete(*list(gone)[5:])
        compared_again(pair)
        pair.expect(some("key", 30, "v"))
        for watch in (of_site, of_hub):
            assert not emptied(watch).keys() - gone.keys()


def test_a_flush_that_the_counters_do_not_show(daemons, site, hub, at_site, at_hub):
    """There was one before, and there is one since they began anew."""
    pair = Pair(daemons, site, hub, *REMOVALS, *OFTEN)
    at_hub.flushall()
    pair.fill(some("key", 80, "v"))
    compared_again(pair)
    with at_hub.pipeline(transaction=True) as pipeline:
        pipeline.config_resetstat()
        pipeline.flushall()
        pipeline.execute()
    write(at_site, some("since", 10, "v"))
    compared_again(pair)
    pair.expect(some("since", 10, "v"))


@pytest.mark.parametrize(("source", "side"), [("psync", "site"), ("psync", "hub"), ("notify", "hub")])
def test_a_push_that_was_refused_hides_no_later_removal(daemons, site, hub, at_site, at_hub, side, source):
    """Only what concerns the key in question decides: that one was never at the hub."""
    pair = Pair(daemons, site, hub, *REMOVALS, *OFTEN, source=source)
    base, gone = some("key", 60, "v"), some("removed", 10, "v")
    pair.fill(base, gone)
    at_hub.rpush("site1:odd", "element")
    mark = pair.daemon.mark()
    at_site.hset("site1:odd", "field", "v")
    pair.daemon.wait_for_log("push.refused", after=mark)
    at_site.delete(*list(gone)[:5])
    at_hub.delete(*list(gone)[5:])
    compared_again(pair)
    here, there = {b"site1:odd": {b"field": b"v"}}, {b"site1:odd": b"list"}
    pair.expect_each([base, here], [base, there])
    if side == "hub":
        at_hub.flushall()
        pair.expect(here)
    else:
        at_site.flushall()
        compared_again(pair)
        pair.expect_each([], [there])


def test_an_apply_that_was_refused_hides_no_later_removal(daemons, hub, at_hub):
    """Likewise: the site keeps that key from us, so it was never there."""
    with RedisServer(users=[f"repl on >{SECRET} ~site1:key:* ~site1:since:* ~site1:~* &* +@all"]) as site:
        place = f"redis://repl:{SECRET}@localhost:{site.port}"
        pair = Pair(daemons, site, hub, *REMOVALS, *OFTEN, site_at=place)
        base, denied = some("key", 60, "v"), some("denied", 1, "v")
        pair.fill(base)
        mark = pair.daemon.mark()
        write(at_hub, denied)
        pair.daemon.wait_for_log("apply.refused", after=mark)
        pair.expect_each([base], [base, denied])
        pair.at_site.flushall()
        write(pair.at_site, some("since", 10, "v"))
        compared_again(pair)
        pair.expect_each([some("since", 10, "v")], [some("since", 10, "v"), denied])
