"""The commands for people, at this server: `check`, `verify`, `tail`, `rdb`."""

import json

import pytest
import redis

from matrix.cases.agreeing import ALL_BYTES
from testbed import Daemon, eventually
from tests.e2e.pairs import write
from tests.e2e.support import certificate_flags, place_flags
from tests.subcommands.test_tail import Tail

#: A key of each type that a server may know; what it does not know it refuses, and it is left out.
EVERY_TYPE = (
    ("string", "SET", "rdb:string", ALL_BYTES),
    ("string", "SET", "rdb:expiring", "v", "EX", "1000"),
    ("list", "RPUSH", "rdb:list", *map(str, range(300))),
    ("set", "SADD", "rdb:intset", "1", "2", "3"),
    ("set", "SADD", "rdb:set", "a", ALL_BYTES),
    ("zset", "ZADD", "rdb:zset", "1", "a", "2.5", "b", "inf", "c"),
    ("hash", "HSET", "rdb:hash", "a", "1", "b", ALL_BYTES),
    ("hash", "HSET", "rdb:wide", *(word for number in range(600) for word in (f"f{number}", "v" * 70))),
    ("hash", "HSETEX", "rdb:fields", "EX", "1000", "FIELDS", "1", "a", "1"),
    ("stream", "XADD", "rdb:stream", "1-1", "a", "1"),
    ("string", "PFADD", "rdb:hyperloglog", "a", "b"),
    ("string", "SETBIT", "rdb:bits", "7", "1"),
    ("zset", "GEOADD", "rdb:places", "13.36", "38.11", "here"),
    ("module2", "VADD", "rdb:vectors", "VALUES", "2", "1", "2", "item"),
    ("array", "ARSET", "rdb:array", "3", "v"),
)


@pytest.fixture(scope="module")
def words(servers, certificates, tmp_path_factory):
    site, hub = servers
    state = tmp_path_factory.mktemp("state")
    return ["--ns", "site1:", *certificate_flags(certificates), *place_flags(site, hub), "--state-dir", state]


def run(*args):
    with Daemon(args) as process:
        code = process.wait(60)
    assert "Traceback" not in process.stderr
    return code, process.stdout, process.stderr


def test_check(words):
    code, said, errors = run("check", "-rc", *words)
    assert (code, "FAIL" in said) == (0, False), said + errors


def test_verify(servers, words):
    site, hub = servers[0].client(), servers[1].redis
    for client in (site, hub):
        write(client, {b"site1:verify:" + ALL_BYTES: ALL_BYTES, b"site1:verify:hash": {b"a": b"1", b"b": b"2"}})
    assert run("verify", *words)[0] == 0
    hub.set("site1:verify:only the hub", "v")
    site.hset("site1:verify:hash", "b", "3")
    code, said, _ = run("verify", "-rc", *words)
    assert code == 1
    assert "site1:verify:only the hub" in said
    assert "site1:verify:hash" in said
    hub.delete("site1:verify:only the hub")
    site.hset("site1:verify:hash", "b", "2")


def test_tail(servers):
    client = servers[0].client()
    client.set("tail:before", "v")
    with Tail("--raddr", f"127.0.0.1:{servers[0].port}", "--ns", "tail:") as tail:
        try:
            eventually(lambda: [line for line in tail.lines if line.get("key") == "tail:before"], 60, "the snapshot")
        except AssertionError:
            pytest.fail(f"no snapshot came; it said {tail.lines} {tail.errors}")
        client.set("tail:after", "w")
        client.hset("tail:hash", "f", "v")
        eventually(lambda: len([line for line in tail.lines if "argv" in line]) == 2, 20, "both writes")
        lines = list(tail.lines)
    assert [line["value"] for line in lines if "key" in line] == ["v"]
    written = [line["argv"] for line in lines if "argv" in line]
    assert written == [["SET", "tail:after", "w"], [written[1][0], "tail:hash", "f", "v"]]


def test_rdb(servers):
    """A snapshot with a key of every type that the server knows; each value is what the server answers."""
    client = servers[0].client()
    expected = {}
    for kind, *command in EVERY_TYPE:
        try:
            client.execute_command(*command)
        except redis.ResponseError:
            continue
        expected[command[1]] = kind
    client.save()
    dump = servers[0].directory / client.config_get("dbfilename")["dbfilename"]
    code, said, errors = run("rdb", dump, "--ns", "rdb:")
    assert code == 0, errors
    found = {line["key"]: line for line in map(json.loads, said.splitlines())}
    assert {key: line["type"] for key, line in found.items()} == expected
    assert found["rdb:list"]["value"] == [str(number) for number in range(300)]
    assert sorted(found["rdb:intset"]["value"]) == ["1", "2", "3"]
    assert dict(found["rdb:zset"]["value"]) == {"a": 1, "b": 2.5, "c": "inf"}
    assert dict(found["rdb:wide"]["value"]) == {f"f{number}": "v" * 70 for number in range(600)}
    assert found["rdb:expiring"]["expires_at_ms"] > 0
    assert found["rdb:stream"]["value"]["entries"] == [["1-1", [["a", "1"]]]]
