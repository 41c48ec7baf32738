"""Two daemons with states of their own beside one site, by mistake: they do not echo for ever, and one says so."""

import pytest

from testbed import eventually
from tests.e2e.pairs import REMOVALS, Pair

WRITING = ("set", "hset", "mset", "eval", "evalsha", "del")
#: Canaries that come at the hub, of both daemons together, while nothing else does.
CANARIES = 16


@pytest.mark.parametrize(("source", "removals"), [("psync", ()), ("notify", REMOVALS)], ids=["psync", "notify"])
def test_two_daemons_beside_one_site_are_quiet(daemons, site, hub, at_site, at_hub, source, removals):
    first = Pair(daemons, site, hub, *removals, source=source)
    second = Pair(daemons, site, hub, *removals, source=source)
    for pair in (first, second):
        pair.level()
    for number in range(5):
        at_site.set(f"site1:{number}", "v")
        at_site.hset("site1:hash", str(number), "v")
    at_hub.set("site1:down", "v")
    for pair in (first, second):
        pair.level()

    def calls(*names):
        return sum(hub.server.commandstats().get(name, 0) for name in names)

    def heard():
        """Canaries come, and nothing else does."""
        written, canaries = calls(*WRITING), calls("publish")
        eventually(lambda: calls("publish") >= canaries + CANARIES, 30)
        return calls(*WRITING) == written

    eventually(heard, 20, "nothing is written at the hub any more")
    assert len(first.at_site.keys("site1:[^~]*")) == 7
    first.expect(
        {b"site1:%d" % number: b"v" for number in range(5)},
        {b"site1:hash": {b"%d" % number: b"v" for number in range(5)}, b"site1:down": b"v"},
    )


def test_a_second_daemon_is_told_of(daemons, site, hub, at_site, at_hub):
    """One of them at least has seen the other's work in the stream; keyspace events do not tell whose it is."""
    pairs = [Pair(daemons, site, hub) for _ in range(2)]
    for number in range(3):
        at_hub.set(f"site1:down:{number}", "v")
        at_site.set(f"site1:up:{number}", "v")
        for pair in pairs:
            pair.level()
    told = eventually(lambda: [line for pair in pairs for line in pair.daemon.logged("site.another_redisrepl")])
    assert {line["level"] for line in told} == {"warning"}
