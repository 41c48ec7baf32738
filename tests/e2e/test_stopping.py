"""How it ends: at once, in order, by force."""

import signal
import threading

import pytest

from testbed import FaultProxy, Hub, eventually
from tests.e2e.support import SWIFT, all_replicated, assert_equal_soon, pushed, wait_until_live

#: Nothing but the end itself may be what ends the waiting for an answer.
IMPATIENT = ("--shutdown-timeout", "0.3", "--timeout", "600", "--connect-timeout", "1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it(daemons, site, hub, at_site, at_hub, number):
    daemon = daemons.live(site, hub)
    all_replicated(at_site, at_hub)
    daemon.signal(number)
    assert daemon.wait() == 0
    assert daemon.wait_for_log("daemon.stopped")["unpushed_keys"] == 0
    assert daemon.stdout == ""


def test_writes_that_wait_are_pushed_before_it_ends(daemons, site, hub, at_site, at_hub):
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, rc=False)
        at_site.set("site1:before", "v")
        pushed(at_site)
        wire.down()
        at_site.mset({f"site1:{number}": number for number in range(100)})  # in one piece, so read in one
        assert daemon.wait_for_log("push.failed")["pending_keys"] == 100
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_for_log("daemon.stopping")["waiting_keys"] == 100
        at_site.set("site1:too-late", "v")
        wire.listen()
        assert daemon.wait() == 0
        assert daemon.wait_for_log("daemon.stopped")["unpushed_keys"] == 0
        assert at_hub.mget(f"site1:{number}" for number in range(100)) == [b"%d" % n for n in range(100)]
        assert not at_hub.exists("site1:too-late")


@pytest.mark.parametrize("rc", [True, False])
@pytest.mark.parametrize("absence", ["refused", "silent"])
def test_an_absent_hub_does_not_hold_it(daemons, site, hub, at_site, rc, absence):
    """The hub was there once, or never; it refuses connections, or takes them and says nothing."""
    with FaultProxy(hub.port) as wire:
        {"refused": wire.down, "silent": wire.stall}[absence]()
        daemon = daemons.start(site, wire.port, *IMPATIENT, rc=rc)
        if absence == "refused":
            at_site.set("site1:key", "v")
            daemon.wait_for_log("push.failed")
        else:
            daemon.wait_for_log("stream.attached")
        assert daemon.stop() == 0
        daemon.wait_for_log("daemon.stopped")


def test_a_silent_site_does_not_hold_it(daemons, site, hub):
    with FaultProxy(site.port) as wire:
        wire.stall()
        daemon = daemons.start(wire.port, hub, *IMPATIENT)
        daemon.wait_for_log("subscribe.started")
        assert daemon.stop() == 0


def test_peers_that_are_silent_from_the_start_do_not_hold_it(daemons, site, hub):
    with FaultProxy(site.port) as to_site, FaultProxy(hub.port) as to_hub:
        to_site.stall()
        to_hub.stall()
        daemon = daemons.start(to_site.port, to_hub.port, "--timeout", "600", "--connect-timeout", "600")
        eventually(lambda: to_site.counters().open and to_hub.counters().open, description="it asks them")
        assert daemon.stop() == 0
        daemon.wait_for_log("daemon.stopped")


def test_what_could_not_be_pushed_is_told(daemons, site, hub, at_site):
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, "--shutdown-timeout", "0.3", rc=False)
        wire.down()
        at_site.mset({"site1:a": 1, "site1:b": 2})
        daemon.wait_for_log("push.failed")
        assert daemon.stop() == 0
        assert daemon.wait_for_log("daemon.stopped")["unpushed_keys"] == 2


def test_and_it_crosses_after_the_next_start(daemons, site, hub, at_site, at_hub):
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, "--shutdown-timeout", "0.3")
        wire.down()
        at_site.mset({"site1:a": 1, "site1:b": 2})
        daemon.wait_for_log("push.failed")
        assert daemon.stop() == 0
        at_site.set("site1:c", 3)
        wire.listen()
        mark = daemon.mark()
        daemon.start()
        wait_until_live(daemon, pull=True, after=mark)
        assert len(assert_equal_soon(at_site, at_hub)) == 3


def test_a_second_signal_does_not_wait(daemons, site, hub, at_site):
    with FaultProxy(hub.port) as wire:
        daemon = daemons.live(site, wire.port, *SWIFT, "--shutdown-timeout", "600", rc=False)
        wire.down()
        at_site.set("site1:key", "v")
        daemon.wait_for_log("push.failed")
        daemon.signal(signal.SIGTERM)
        daemon.wait_for_log("daemon.stopping")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 1
        daemon.wait_for_log("daemon.forced")


@pytest.mark.parametrize("round_", range(3))
def test_it_stops_in_the_middle_of_work(daemons, site, hub, round_):
    """A cancellation that comes just as a reply does must not be lost: then it would never end."""
    daemon = daemons.live(site, hub)
    over = threading.Event()

    def keep_writing(server, side):
        number = 0
        with server.client() as client:
            while not over.is_set():
                client.hset(f"site1:{side}:{number % 20}", "field", number)
                number += 1

    threads = [threading.Thread(target=keep_writing, args=pair) for pair in ((site, "site"), (hub.server, "hub"))]
    for thread in threads:
        thread.start()
    try:
        mark = daemon.mark()
        site.client().lpush(f"site1:list:{round_}", "x")
        daemon.wait_for_log("stream.not_replicated", after=mark)
        assert daemon.stop() == 0
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def test_what_cannot_leave_any_more_does_not_hold_it(daemons, certificates, site, at_site):
    """Keys in doubt are compared with what the site holds, which is not followed any more."""
    with Hub(certificates) as hub:
        flags = (*SWIFT, "--shutdown-timeout", "60")
        daemon = daemons.live(site, hub, *flags)
        names = [f"site1:{number}" for number in range(5)]
        at_site.mset(dict.fromkeys(names, "v"))
        all_replicated(at_site, hub.redis)
        daemon.stop()
        at_site.config_set("repl-backlog-size", 16_384)
        at_site.set("else", "x" * 100_000)  # more than the backlog, so that the start needs a snapshot
        at_site.mset(dict.fromkeys(names, "w"))
        hub.redis.config_set("maxmemory", 1)  # so that nothing is taken
        mark = daemon.mark()
        daemon.start()
        daemon.wait_for_log("push.failed", after=mark)
        assert daemon.stop() == 0
