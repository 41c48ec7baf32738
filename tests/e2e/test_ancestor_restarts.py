"""A server that lost its history gets its data back, and takes nothing from the other side at any moment.

There are fewer keys than a comparison may remove without asking, so that nothing but the judgement protects them.
"""

import json
from contextlib import contextmanager

import pytest

from testbed import Daemon, RedisServer, eventually
from tests.e2e.pairs import REMOVALS, Pair, emptied, some, write, written
from tests.e2e.support import BackgroundClient, Monitor

#: Which server, and what becomes of the daemon meanwhile.
CASES = [("site", "running"), ("site", "stopped"), ("hub", "running"), ("hub", "stopped")]


class Busy(BackgroundClient):
    def write(self, rng):
        self.client.set("site1:busy:0", rng.random())


def of(side, pair):
    """The server of a side, a client of it, and the server of the other side."""
    site, hub = (pair.site, pair.at_site), (pair.hub.server, pair.at_hub)
    here, there = (site, hub) if side == "site" else (hub, site)
    return *here, there[0]


@contextmanager
def daemon_is(pair, state, side):
    """What happens to this side's server here happens while the daemon runs, or while it is stopped."""
    if state == "stopped":
        pair.end("stop")
    mark = pair.daemon.mark()
    yield
    if state == "stopped":
        pair.start_again()
    elif side == "site":
        pair.wait_for_site(mark)
    else:
        pair.wait_for_hub(mark)


@pytest.mark.parametrize(
    ("side", "state", "removals", "source"),
    [(*case, REMOVALS, "psync") for case in CASES]
    + [(*case, REMOVALS, "notify") for case in CASES if case != ("hub", "running")]
    + [(side, "stopped", (), "psync") for side in ("site", "hub")],
    ids=lambda value: value if isinstance(value, str) else "del" if value else "no del",
)
def test_a_server_that_comes_back_empty_empties_nobody(daemons, site, hub, side, state, removals, source):
    pair = Pair(daemons, site, hub, *removals, source=source)
    base = some("key", 80, "v"), {b"site1:hash": {b"a": b"v", b"b": b"v"}}
    pair.fill(*base)
    server, client, other = of(side, pair)
    with Monitor(other) as watch:
        with daemon_is(pair, state, side):
            server.kill()
            server.start()
            write(client, some("since", 3, "new"))
        pair.expect(*base, some("since", 3, "new"))
        assert emptied(watch) == {}


@pytest.mark.parametrize(
    "side",
    ["site", "hub"],
)
def test_a_daemon_that_dies_while_it_gives_the_data_back_goes_on_with_it(daemons, site, hub, side):
    """That the server lost its history must outlive the daemon: what is not back yet was not removed."""
    pair = Pair(daemons, site, hub, *REMOVALS, "--batch", "50", "--flights", "1")
    base = some("key", 2000, "v")
    pair.fill(base)
    server, client, other = of(side, pair)
    with Monitor(other) as watch:
        pair.end("kill")
        server.kill()
        server.start()
        for _ in range(2):
            some_more = min(client.exists(*base) + 1, len(base))
            pair.daemon.start()
            eventually(lambda: client.exists(*base) >= some_more, 20, "more is back")  # noqa: B023 - called at once
            pair.end("kill")
        pair.start_again()
        pair.expect(base)
        assert emptied(watch) == {}


@pytest.mark.parametrize(
    ("side", "state", "source"),
    [(*case, "psync") for case in CASES] + [("site", state, "notify") for state in ("running", "stopped")],
)
def test_a_server_that_comes_back_with_an_older_file_spreads_nothing_of_it(daemons, site, hub, side, state, source):
    """What was written since is still on the other side, and stands."""
    pair = Pair(daemons, site, hub, *REMOVALS, source=source)
    pair.fill(some("key", 80, "first"), {b"site1:hash": {b"a": b"first"}})
    server, client, other = of(side, pair)
    client.save()
    write(pair.at_site, some("key", 40, "second") | some("later", 20, "second"))
    write(pair.at_hub, {b"site1:hash": {b"a": b"second", b"b": b"second"}})
    since = {**some("key", 80, "first"), **some("key", 40, "second"), **some("later", 20, "second")}
    fields = {b"site1:hash": {b"a": b"second", b"b": b"second"}}
    pair.expect(since, fields)
    with Monitor(other) as watch:
        with daemon_is(pair, state, side):
            server.kill()
            server.start()
            assert client.get("site1:key:0") == b"first"
        pair.expect(since, fields)
        assert emptied(watch) == {}
        assert written(watch, b"first") == []
    assert pair.daemon.logged("conflict.resolved") == []  # all of it is known to be older


def test_a_hub_that_comes_back_with_an_older_file_while_the_site_writes_spreads_nothing_of_it(daemons, site, hub):
    """What is pushed before anybody has asked the hub must not hide that it went back."""
    pair = Pair(daemons, site, hub, *REMOVALS, "--flights", "1", "--canary-period", "5")
    pair.fill(some("key", 80, "first"))
    pair.at_hub.save()
    since, end = some("key", 80, "second"), some("busy", 1, "end")
    write(pair.at_site, since)
    pair.expect(since)
    with Busy("site", site, pause=0.003):
        hub.server.kill()
        hub.server.start()
        eventually(lambda: pair.at_hub.get("site1:key:0") == b"second", description="the hub has its data back")
    write(pair.at_site, end)
    pair.expect(since, end)


@pytest.mark.parametrize("side", ["site", "hub"])
def test_a_daemon_that_dies_while_an_older_file_gives_way_goes_on_with_it(daemons, site, hub, side, tmp_path):
    """What is not back yet is older all the same, and known to be."""
    pair = Pair(daemons, site, hub, *REMOVALS, "--batch", "50", "--flights", "1", "--state-dir", tmp_path / "state")
    base = some("key", 2000, "first"), {b"site1:hash": {b"a": b"first", b"b": b"v"}}
    pair.fill(*base)
    server, client, _ = of(side, pair)
    client.save()
    last = some("key", 2000, "last"), {b"site1:hash": {b"a": b"last", b"b": b"v"}}
    for values in last:
        write(client, values)
    pair.expect(*last)
    server.kill()
    server.start()
    for _ in range(2):
        eventually(lambda: b"last" in client.mget(*last[0]), 20, "some are back")
        pair.end("kill")
        pair.start_again()
    pair.expect(*last)
    assert pair.daemon.logged("conflict.resolved") == []


@pytest.mark.parametrize("side", ["site", "hub"])
def test_what_only_the_older_file_holds_gives_way_and_is_kept(daemons, site, hub, side, tmp_path):
    """The daemon was away when it was written, and when it was replaced: nobody knows how old it is."""
    state = tmp_path / "state"
    pair = Pair(daemons, site, hub, *REMOVALS, "--state-dir", state)
    pair.fill(some("key", 5, "first"), {b"site1:hash": {b"a": b"first", b"b": b"first"}})
    server, client, _ = of(side, pair)
    pair.end("stop")
    write(client, some("key", 5, "unseen") | {b"site1:hash": {b"a": b"unseen"}})
    client.save()
    write(client, some("key", 5, "last") | {b"site1:hash": {b"a": b"last"}})
    pair.start_again()
    last = some("key", 5, "last"), {b"site1:hash": {b"a": b"last", b"b": b"first"}}
    pair.expect(*last)
    with daemon_is(pair, "running", side):
        server.kill()
        server.start()
        assert client.get("site1:key:0") == b"unseen"
    pair.expect(*last)

    def kept():
        with Daemon(["conflicts", "--json", "--state-dir", state]) as process:
            assert process.wait() == 0, process.stderr
        lines = map(json.loads, process.stdout.splitlines())
        return {line["key"]: (line["value"], line["winner"], line["reason"]) for line in lines}

    about = "hub" if side == "site" else "site", f"the {side} went back"
    expected = {key.decode(): ("unseen", *about) for key in some("key", 5, "")}
    expected["site1:hash"] = ([["a", "unseen"]], *about)
    eventually(lambda: kept() == expected, description="what nobody else has is kept")
    assert {line["reason"] for line in pair.daemon.logged("conflict.resolved")} == {about[1]}


@pytest.mark.parametrize("source", ["psync", "notify"])
@pytest.mark.parametrize("side", ["site", "hub"])
def test_a_server_that_was_the_replica_of_another_gets_its_data_back(daemons, site, hub, side, source):
    """The other one's data takes the place of its own, as if it were a server behind the same address."""
    pair = Pair(daemons, site, hub, *REMOVALS, "--sweep-period", "1", source=source)
    base = some("key", 80, "v"), {b"site1:hash": {b"a": b"v", b"b": b"v"}}
    pair.fill(*base)
    _, client, other = of(side, pair)
    with RedisServer() as stranger, Monitor(other) as watch:
        write(stranger.client(), some("strange", 5, "v"))
        client.replicaof("127.0.0.1", stranger.port)
        eventually(lambda: client.info("replication").get("master_link_status") == "up")
        write(pair.at_hub if side == "site" else pair.at_site, some("meanwhile", 5, "v"))
        client.replicaof("NO", "ONE")
        pair.expect(*base, some("strange", 5, "v"), some("meanwhile", 5, "v"))
        assert emptied(watch) == {}


def test_a_reload_of_either_server_changes_nothing(daemons, site, hub, at_site, at_hub):
    pair = Pair(daemons, site, hub, *REMOVALS)
    pair.fill(some("key", 80, "v"), some("site", 10, "v"), some("hub", 10, "v"))
    with Monitor(site) as of_site, Monitor(hub.server) as of_hub:
        for client in (at_site, at_hub):
            client.execute_command("DEBUG", "RELOAD")
        at_site.delete(*some("site", 10, ""))
        at_hub.delete(*some("hub", 10, ""))
        pair.expect(some("key", 80, "v"))
        for watch in (of_site, of_hub):
            assert not emptied(watch).keys() & some("key", 80, "").keys()
            assert not watch.writes().keys() & some("key", 80, "").keys()
