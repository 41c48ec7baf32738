"""A key that both sides changed while nobody carried it: the policy decides, and what lost is named and kept."""

import contextlib
import json

import pytest

from testbed import Daemon, eventually
from tests.e2e.pairs import REMOVALS, Pair, overrun, some, write

KEYS = some("both", 10, "")
HASH = b"site1:hash"

#: The source, whether the site's stream goes on where it was, and whose value wins.
CASES = [
    ("psync", "overrun", "hub"),
    ("psync", "overrun", "site"),
    ("psync", "whole", "hub"),
    ("psync", "whole", "site"),
    ("notify", "whole", "hub"),
]
EACH = pytest.mark.parametrize(("source", "backlog", "winner"), CASES)
FEW = pytest.mark.parametrize(("source", "backlog", "winner"), [CASES[3], CASES[4]])


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def conflict(daemons, site, hub, state, source, backlog, winner):
    """Ten strings and a field were changed on both sides, and other fields of the hash on one side each."""
    policy = ("--on-conflict", "site") if winner == "site" else ()
    pair = Pair(daemons, site, hub, *REMOVALS, *policy, "--state-dir", state, source=source)
    pair.fill(dict.fromkeys(KEYS, b"old"), {HASH: {b"both": b"old"}}, some("untouched", 10, "v"))
    pair.end("kill")
    with overrun(pair.at_site) if backlog == "overrun" else contextlib.nullcontext():
        for side, client in ((b"site", pair.at_site), (b"hub", pair.at_hub)):
            write(client, dict.fromkeys(KEYS, side) | {HASH: {b"both": side, b"of the " + side: side}})
    pair.start_again()
    return pair


def decided(value):
    """What both sides hold after it was decided like this."""
    hash_ = {b"both": value, b"of the site": b"site", b"of the hub": b"hub"}
    return dict.fromkeys(KEYS, value), {HASH: hash_}, some("untouched", 10, "v")


@EACH
def test_the_policy_decides(conflict, winner):
    """Between two values; what only one side changed is no matter of policy."""
    conflict.expect(*decided(winner.encode()))


def command(*args):
    """What a command prints, and its exit code."""
    with Daemon(args) as process:
        code = process.wait()
    assert "Traceback" not in process.stderr
    return code, process.stdout


@FEW
def test_the_loser_is_named(conflict, winner):
    """Each key once, and nothing that was changed on one side alone."""
    conflict.expect(*decided(winner.encode()))
    told = conflict.daemon.logged("conflict.resolved")
    assert sorted(line["key"] for line in told) == sorted(key.decode() for key in (*KEYS, HASH))
    assert {line["winner"] for line in told} == {winner}


@FEW
def test_the_loser_is_kept_and_can_be_restored(conflict, state, site, winner):
    """While the daemon runs, which replicates what is restored as any write."""
    loser = "site" if winner == "hub" else "hub"
    conflict.expect(*decided(winner.encode()))

    def listed():
        code, said = command("conflicts", "--json", "--state-dir", state)
        assert code == 0, said
        return {line["key"]: line for line in map(json.loads, said.splitlines())}

    kept = eventually(lambda: len(found := listed()) == len(KEYS) + 1 and found, description="all losers are kept")
    for key in KEYS:
        entry = kept[key.decode()]
        assert (entry["winner"], entry["type"], entry["value"]) == (winner, "string", loser)
    assert kept[HASH.decode()]["value"] == [["both", loser]]

    for key in (next(iter(KEYS)), HASH):
        place = ("--raddr", f"127.0.0.1:{site.port}")
        assert command("conflicts", "--restore", key.decode(), "--state-dir", state, *place)[0] == 0
    strings, fields, untouched = decided(winner.encode())
    strings[next(iter(KEYS))] = fields[HASH][b"both"] = loser.encode()
    conflict.expect(strings, fields, untouched)
