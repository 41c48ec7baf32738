"""A comparison that would remove most of what there is asks first; what a flush has removed needs no asking."""

import pytest

from testbed import Daemon, eventually
from tests.e2e.pairs import REMOVALS, Pair, emptied, overrun, some, write
from tests.e2e.support import Monitor

BASE = some("removed", 300, "v"), some("kept", 100, "v")


def remove_most(pair, side):
    """Remove three of four keys while the daemon is away and the site's backlog is overrun."""
    pair.end("kill")
    client = pair.at_site if side == "site" else pair.at_hub
    with overrun(pair.at_site):
        client.delete(*BASE[0])
        write(client, some("since", 10, "v"))
    pair.start_again()


def waiting(pair):
    """What the daemon says of removals that wait for a person."""
    return [problem for problem in pair.daemon.state()["problems"] if "removal" in problem]


@pytest.mark.parametrize(("source", "side"), [("psync", "site"), ("psync", "hub"), ("notify", "site")])
def test_most_keys_are_not_removed_before_a_person_says_so(daemons, site, hub, side, source):
    """What else differs is dealt with meanwhile."""
    pair = Pair(daemons, site, hub, *REMOVALS, source=source)
    pair.fill(*BASE)
    server, full = (hub.server, pair.at_hub) if side == "site" else (site, pair.at_site)
    mark = pair.daemon.mark()
    with Monitor(server) as watch:
        remove_most(pair, side)
        pair.daemon.wait_for_log("sweep.removals_held", 30, after=mark)
        eventually(lambda: full.exists(*some("since", 10, "")) == 10, description="other keys arrived")
        assert full.exists(*BASE[0]) == len(BASE[0])
        assert emptied(watch) == {}
    eventually(lambda: waiting(pair), description="the status says what waits")
    with Daemon(["verify", "--repair", "--removals", *pair.daemon.args], env=pair.daemon.env) as verify:
        assert verify.wait(60) == 78  # only the stopped daemon's state tells what was removed
    pair.end("stop")
    with Daemon(["verify", "--repair", "--removals", *pair.daemon.args], env=pair.daemon.env) as verify:
        assert verify.wait(60) == 0
    pair.start_again()
    pair.expect(BASE[1], some("since", 10, "v"))
    eventually(lambda: not waiting(pair), description="nothing waits any more")


def test_a_larger_ceiling_lets_them_go(daemons, site, hub):
    pair = Pair(daemons, site, hub, *REMOVALS, "--max-removals", "100")
    pair.fill(*BASE)
    remove_most(pair, "hub")
    pair.expect(BASE[1], some("since", 10, "v"))
