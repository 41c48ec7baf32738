"""`--linger`: writes that come one by one share requests, each way; one that comes alone still leaves at once."""

import math
import time

import pytest

from testbed import RedisServer, eventually
from tests.e2e.support import Monitor, certificate_flags

WRITES = 100
#: Seconds between two writes, longer than a request takes.
APART = 0.005


@pytest.fixture
def requests_for(daemons, site, hub):
    """Write keys one by one at one server; returns how many requests ran at the hub, and the seconds that it took."""

    def run(writes, reads, *flags):
        daemon = daemons.start(site, hub, "--canary-period", "300", *flags)
        daemon.wait_for_log("sweep.finished")  # the comparison of the start sends requests of its own
        with Monitor(hub.server) as monitor:
            began = time.monotonic()
            for number in range(WRITES):
                writes.set(f"site1:{number}", number)
                time.sleep(APART)
            eventually(lambda: reads.exists(f"site1:{WRITES - 1}"), description="the last write is at the other side")
            seconds = time.monotonic() - began
            commands = monitor.commands()
        return sum(argv[0].startswith(b"EVAL") for argv in commands if argv), seconds

    return run


@pytest.fixture
def ways(at_site, at_hub):
    return {"push": (at_site, at_hub), "pull": (at_hub, at_site)}


@pytest.mark.parametrize("source", ["psync", "notify"])
@pytest.mark.parametrize("way", ["push", "pull"])
def test_writes_that_come_one_by_one_share_requests(requests_for, ways, way, source):
    requests, seconds = requests_for(*ways[way], "--linger", "200", "--source", source)

    assert requests <= 2 + math.ceil(seconds / 0.2)


@pytest.mark.parametrize("way", ["push", "pull"])
def test_without_it_most_have_one_of_their_own(requests_for, ways, way):
    requests, _ = requests_for(*ways[way])

    assert requests > WRITES / 2


@pytest.mark.parametrize("source", ["psync", "notify"])
def test_what_was_written_during_a_pause_is_pushed_at_the_end(daemons, site, hub, at_site, at_hub, source):
    daemon = daemons.start(site, hub, "--linger", "1000", "--source", source, rc=False)
    daemon.wait_for_log("sweep.finished")
    at_site.set("site1:first", "v")
    eventually(lambda: at_hub.exists("site1:first"))  # with which the pause begins, if there is none already
    for number in range(5):
        at_site.set(f"site1:{number}", number)
    assert daemon.stop() == 0
    assert at_hub.mget(f"site1:{number}" for number in range(5)) == [b"%d" % number for number in range(5)]


def test_what_the_site_had_sent_before_it_died_is_pushed(daemons, certificates, hub, at_hub):
    """Nobody writes to it meanwhile: for that the system would throw away what it has sent."""
    with RedisServer(unix_socket=True) as site:
        client = site.client()
        flags = (*certificate_flags(certificates), "--raddr", site.unix_url.partition("?")[0], "--haddr", hub.url)
        daemon = daemons.raw(*flags, "--ns", "site1:", "--linger", "1000")
        daemon.wait_for_log("sweep.finished")
        for number in range(10):  # an acknowledgement falls into one of these pauses
            client.set("site1:key", number)
            eventually(lambda number=number: at_hub.get("site1:key") == b"%d" % number)
        client.set("site1:last", "v")
        client.wait(1, 1)  # it was sent
        site.kill()
        eventually(lambda: at_hub.exists("site1:last"))
