"""What happens to a daemon in a year, seen from outside: writes on both sides, deaths, outages, restarts."""

import random

import pytest

from matrix.cases.agreeing import ALL_BYTES, agree, named
from testbed import eventually
from testbed.programs import version_of
from tests.e2e.pairs import overrun, write

#: Replication of a snapshot by a connection of its own, which a replica like ours does not ask for.
DUAL_CHANNEL = {"dual-channel-replication-enabled": "yes", "repl-rdb-channel": "yes"}


def test_both_ways(pair):
    up = {
        b"site1:up:binary:" + ALL_BYTES: ALL_BYTES * 3,
        b"site1:up:empty": b"",
        b"site1:up:number": b"12345",
        b"site1:up:large": ALL_BYTES * 5000,
        b"site1:up:hash": {ALL_BYTES: ALL_BYTES, b"n": b"1"},
        b"site1:up:wide": {b"f%d" % number: b"v" * 100 for number in range(600)},
    }
    down = {key.replace(b":up:", b":down:"): value for key, value in up.items()}
    write(pair.at_site, up)
    write(pair.at_hub, down)
    agree(pair, up | down)


def test_writes_of_many_kinds(pair):
    """What the server makes of each in its replication stream and its events is its own business, and changes."""
    for name, client, server in (("site", pair.at_site, pair.site), ("hub", pair.at_hub, pair.hub.server)):
        key = f"site1:kinds:{name}:"
        client.mset({key + "mset:1": "a", key + "mset:2": "b"})
        client.setnx(key + "setnx", "v")
        client.execute_command("SETEX", key + "setex", 1000, "v")
        client.append(key + "append", "ab")
        client.append(key + "append", "cd")
        client.setrange(key + "setrange", 2, "x")
        client.setbit(key + "setbit", 7, 1)
        client.incrby(key + "incr", 41)
        client.incr(key + "incr")
        client.incrbyfloat(key + "float", 1.5)
        client.execute_command("GETSET", key + "getset", "v")
        client.hset(key + "hash", mapping={"a": "1", "b": "2", "c": "3"})
        client.hincrby(key + "hash", "a", 4)
        client.hdel(key + "hash", "b")
        client.rename(key + "mset:1", key + "renamed")
        if version_of(server.program) >= (6, 2):
            client.copy(key + "mset:2", key + "copied")
        else:
            client.set(key + "copied", "b")
        client.eval("redis.call('SET', KEYS[1], ARGV[1])", 1, key + "script", "v")
        with client.pipeline(transaction=True) as transaction:
            transaction.set(key + "multi:1", "v")
            transaction.hset(key + "multi:2", "f", "v")
            transaction.execute()
    expected = {
        b"mset:2": b"b",
        b"renamed": b"a",
        b"copied": b"b",
        b"setnx": b"v",
        b"setex": b"v",
        b"append": b"abcd",
        b"setrange": b"\0\0x",
        b"setbit": b"\x01",
        b"incr": b"42",
        b"float": b"1.5",
        b"getset": b"v",
        b"hash": {b"a": b"5", b"c": b"3"},
        b"script": b"v",
        b"multi:1": b"v",
        b"multi:2": {b"f": b"v"},
    }
    both = {b"site1:kinds:%s:%s" % (side, key): value for key, value in expected.items() for side in (b"site", b"hub")}
    agree(pair, both, gone=[b"site1:kinds:site:mset:1", b"site1:kinds:hub:mset:1"])
    assert 0 < pair.at_hub.pttl("site1:kinds:site:setex") <= 1_000_000
    assert 0 < pair.at_site.pttl("site1:kinds:hub:setex") <= 1_000_000


@pytest.mark.parametrize("setting", ["maxmemory 1", "min-replicas-to-write 9", "replicaof 127.0.0.1 1"])
@pytest.mark.parametrize("side", ["site", "hub"])
def test_no_writes(pair, side, setting):
    """A server takes no writes for a while, and each version says so in words of its own, others in scripts.

    Some take those of scripts all the same.
    """
    server, other = (pair.at_hub, pair.at_site) if side == "hub" else (pair.at_site, pair.at_hub)
    if side == "site" and setting.startswith("replicaof"):
        pytest.skip("a site that follows another Redis is another site")
    name, *value = setting.split()
    case, mark = f"no writes {side} {name}", pair.daemon.mark()
    expected = named(case, 20, "v") | {b"site1:" + case.encode() + b":hash": {b"f": b"v"}}
    before = server.config_get(name).get(name, "0")
    server.replicaof(*value) if name == "replicaof" else server.config_set(name, *value)
    try:
        write(other, expected)
        event = "push.failed" if side == "hub" else "apply.failed"
        eventually(lambda: pair.daemon.logged(event, after=mark) or server.exists(*expected) == len(expected), 15)
    finally:
        server.replicaof("NO", "ONE") if name == "replicaof" else server.config_set(name, before)
    agree(pair, expected)
    assert pair.daemon.logged("push.refused", after=mark) == pair.daemon.logged("apply.refused", after=mark) == []


def test_kill_9(pair):
    """Twice amid writes on both sides."""
    expected = {}
    for round_number in range(2):
        for name, client in (("site", pair.at_site), ("hub", pair.at_hub)):
            values = named(f"kill:{round_number}:{name}", 50, f"before {round_number}")
            write(client, values)
            expected |= values
        pair.end("kill")
        for name, client in (("site", pair.at_site), ("hub", pair.at_hub)):
            values = named(f"kill:{round_number}:{name}", 25, f"after {round_number}")
            write(client, values)
            expected |= values
        pair.start_again()
    agree(pair, expected)


def test_outage(pair):
    """The hub cannot be reached while both sides write."""
    pair.hub.nginx.stop()
    up, down = named("outage:up", 100, "v"), named("outage:down", 100, "v")
    write(pair.at_site, up)
    write(pair.at_hub, down)
    mark = pair.daemon.mark()
    pair.hub.nginx.start()
    pair.wait_for_hub(mark)
    agree(pair, up | down)


def _write_around(pair, case, restart):
    before, after = named(f"{case}:before", 50, "v"), named(f"{case}:after", 50, "v")
    write(pair.at_site, before)
    agree(pair, before)
    mark = pair.daemon.mark()
    restart()
    write(pair.at_hub, after)
    return before | after, mark


@pytest.mark.parametrize("how", ["with its data", "empty"])
def test_restart_of_the_site(pair, how):
    def restart():
        if how == "empty":
            pair.site.kill()
            (pair.site.directory / "dump.rdb").unlink(missing_ok=True)
        else:
            pair.at_site.save()
            pair.site.stop()
        pair.site.start()

    expected, mark = _write_around(pair, f"site {how}", restart)
    pair.wait_for_site(mark)
    agree(pair, expected)


@pytest.mark.parametrize("how", ["with its data", "empty"])
def test_restart_of_the_hub(pair, how):
    """All three of it."""

    def restart():
        if how == "with its data":
            pair.at_hub.save()
        pair.hub.kill()
        if how == "empty":
            (pair.hub.server.directory / "dump.rdb").unlink(missing_ok=True)
        pair.hub.start()

    expected, mark = _write_around(pair, f"hub {how}", restart)
    pair.wait_for_hub(mark)
    agree(pair, expected)


def test_backlog_lost(pair):
    """More was written than the site's backlog holds, while the daemon was away."""
    _full_resynchronisation(pair, "backlog")


def test_dual_channel(pair):
    """The server offers snapshots by a second connection; the daemon gets its one all the same."""
    known = [name for name in DUAL_CHANNEL if pair.at_site.config_get(name)]
    if not known:
        pytest.skip("the site's server has no second channel")
    for name in known:
        pair.at_site.config_set(name, DUAL_CHANNEL[name])
    try:
        _full_resynchronisation(pair, "dual")
    finally:
        for name in known:
            pair.at_site.config_set(name, "no")


def _full_resynchronisation(pair, case):
    before = named(f"{case}:before", 50, "v")
    write(pair.at_site, before)
    agree(pair, before)
    pair.end("stop")
    with overrun(pair.at_site):
        up, down = named(f"{case}:up", 50, "v"), named(f"{case}:down", 50, "v")
        write(pair.at_site, up)
        write(pair.at_hub, down)
    pair.start_again()
    agree(pair, before | up | down)


@pytest.mark.parametrize("daemon", ["running", "stopped"])
def test_removals(pair, daemon):
    """Keys and fields, on both sides; those of an outage too."""
    case = f"removals {daemon}"
    keys = sorted(named(case, 40, "v"))
    fields = b"site1:" + case.encode() + b":hash"
    write(pair.at_site, named(case, 40, "v") | {fields: {b"up": b"v", b"down": b"v", b"stays": b"v"}})
    agree(pair, named(case, 40, "v"))
    if daemon == "stopped":
        pair.end("stop")
    random.shuffle(keys)
    up, down, rest = keys[:10], keys[10:20], keys[20:]
    pair.at_site.delete(*up)
    pair.at_site.hdel(fields, "up")
    pair.at_hub.unlink(*down)
    if daemon == "stopped":
        pair.start_again()
    else:
        agree(pair, {}, gone=up + down)
    pair.at_hub.hdel(fields, "down")
    agree(pair, {**dict.fromkeys(rest, b"v"), fields: {b"stays": b"v"}}, gone=up + down)
