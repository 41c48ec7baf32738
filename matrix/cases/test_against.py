"""Another program with the flags of redisRepl 1.2 at a second site of the same hub, beside the daemon at the first.

`TESTBED_AGAINST` names it (`make matrix AGAINST=PATH`); without it, the case is skipped. What 1.2 is known to do is
asked of it, and no more: strings and hashes that are written while it runs.
"""

import os
import subprocess

import pytest

from testbed import RedisServer, eventually
from testbed.processes import end_group, spawn
from tests.e2e.pairs import REMOVALS, Pair, held, write
from tests.e2e.support import PREFIX, certificate_flags, place_flags

PROGRAM = os.environ.get("TESTBED_AGAINST", "")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="no other program is named (--against)")


@pytest.fixture
def other(servers, certificates, tmp_path):
    """A second site, which the other program follows."""
    with RedisServer() as site, (tmp_path / "log").open("wb") as log:
        ca, cert, key = certificate_flags(certificates)[1::2]
        raddr, haddr = place_flags(site, servers[1])[1::2]
        words = [
            "-CA",
            ca,
            "-cert",
            cert,
            "-key",
            key,
            "-raddr",
            raddr,
            "-nam",
            PREFIX.decode(),
            "-haddr",
            haddr,
            "-rc",
        ]
        # What `--against` names may be ours, which keeps its state somewhere.
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "STATE_DIRECTORY": str(tmp_path)}
        process = spawn(
            [PROGRAM, *map(str, words)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        yield site.client()
        end_group(process, gracefully_within=5)


def test_what_any_of_three_sides_writes_comes_to_all(daemons, servers, other):
    pair = Pair(daemons, *servers, *REMOVALS)
    clients = {"site": pair.at_site, "hub": pair.at_hub, "other": other}

    def heard():
        """The other program has started: it carries both ways."""
        other.incr(PREFIX + b"up")
        pair.at_hub.incr(PREFIX + b"down")
        return pair.at_hub.exists(PREFIX + b"up") and other.exists(PREFIX + b"down")

    eventually(heard, 30, "the other program carries both ways")
    for name, client in clients.items():
        values = {b"%s%s:%d" % (PREFIX, name.encode(), number): b"v%d" % number for number in range(20)}
        write(client, values | {PREFIX + name.encode() + b":hash": {b"a": b"1", b"b": b"2"}})

    def equal():
        found = [{key: value for key, value in held(each).items() if b":" in key[6:]} for each in clients.values()]
        assert len(found[0]) >= 63
        assert found[0] == found[1] == found[2], [len(each) for each in found]
        return True

    eventually(equal, 30, "all three hold the same")
    pair.end("stop")
