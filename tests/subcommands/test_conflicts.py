"""`redisrepl conflicts`: what it lists and shows, and what it writes at a real server."""

import base64
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from redisrepl.changes import HashState, SequenceState, StringState
from redisrepl.errors import RedisreplError, exit_code
from redisrepl.grammar.arguments import parser_of
from redisrepl.local.address import parse_address
from redisrepl.local.whole import run_whole
from redisrepl.store.conflicts import Conflicts, Loser
from redisrepl.subcommands.conflicts import Choice, run
from redisrepl.wire.entries import entry_name, entry_value
from testbed import Daemon, Hub, RedisServer, eventually
from testbed.ports import free_port, release_port
from tests.e2e.support import certificate_flags, place_flags, wait_until_live
from tests.samples import ALL_BYTES, AWKWARD_NAMES

OK, FAILED, USAGE, UNAVAILABLE, REFUSED, CONFIG = 0, 1, 2, 69, 77, 78
ROOT = Path(__file__).parents[2]
AT = 1_790_000_000.0  # 2026-09-21 14:13:20
V = entry_value([b"f", b"v"])
FAR = 4_102_444_800_123
PAST = 1_000_000_000_000
STEM = "0123456789abcdef"


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def site(server):
    client = server.client()
    client.flushall()
    return client


@pytest.fixture
def address(server):
    return f"redis://127.0.0.1:{server.port}"


@pytest.fixture
def state(tmp_path):
    return tmp_path


@pytest.fixture
def conflicts(state):
    """Run it; exit code, what it printed and what it said. No process of its own, which takes a second to start."""

    def conflicts(*words, directory=state, terminal=False):
        flags = parser_of("conflicts").parse([str(word) for word in words])
        address = parse_address(flags["raddr"] or "127.0.0.1:1", username=flags["user"])
        out = Terminal() if terminal else io.BytesIO()
        try:
            code, said = run(directory, Choice.of(flags), address, 10.0, out=out), ""
        except RedisreplError as error:
            code, said = exit_code(error), str(error)
        return code, out.getvalue().decode(), said

    return conflicts


class Terminal(io.BytesIO):
    def isatty(self):
        return True


@pytest.fixture
def keep(state, address):
    """Keep losers as a daemon does."""

    def keep(*lost, key=b"site1:a", site=address, database=0, stem=STEM, at=AT, **fields):
        store = Conflicts(state / f"{stem}.conflicts", 1 << 20, 1e6, time.time, site=site, database=database)
        for number, each in enumerate(lost):
            known = {"winner": "hub", "reason": "both sides changed it", "site_digest": 0xABC, "hub_digest": None}
            store.keep(Loser(key, at + number, **(known | fields), loser=each))
        store.close()
        assert store.failed is None

    return keep


def words(text):
    return " ".join(text.split())


# Listing.


def test_nothing_is_kept(conflicts, state):
    assert conflicts() == (OK, f"no value that lost a conflict is kept in {state}\n", "")
    assert conflicts("--json") == (OK, "", "")


def test_the_table(conflicts, keep):
    keep(StringState(b"s3cret"), HashState({b"a": b"1", b"b": b"s3cret"}), HashState({b"a": b""}), None, "module2")
    keep(StringState(bytes(2 << 20)), key=b"site1:big", winner="site", at=AT + 100)
    code, said, _ = conflicts()
    assert code == OK
    lines = [words(line) for line in said.splitlines() if line.strip()]
    assert lines[0] == "number when (UTC) key winner what was lost reason"
    assert lines[2:] == [
        "1 2026-09-21 14:13:20 site1:a hub string of 6 bytes both sides changed it",
        "2 2026-09-21 14:13:21 site1:a hub 2 fields of a hash, 9 bytes both sides changed it",
        "3 2026-09-21 14:13:22 site1:a hub 1 field of a hash, 1 byte both sides changed it",
        "4 2026-09-21 14:13:23 site1:a hub removal both sides changed it",
        "5 2026-09-21 14:13:24 site1:a hub module2 (digest only) both sides changed it",
        "6 2026-09-21 14:15:00 site1:big site string of 2,097,152 bytes (digest only) both sides changed it",
        "6 kept",
    ]
    assert "s3cret" not in said


def test_the_table_of_many_names_the_latest(conflicts, keep):
    keep(*(StringState(b"%d" % number) for number in range(1203)))
    code, said, _ = conflicts()
    assert code == OK
    rows = [line.split()[0] for line in said.splitlines() if line.strip()]
    assert rows[2:-1] == [str(number) for number in range(204, 1204)]
    assert said.endswith("\n1,203 kept; 203 older ones: --json lists them\n")
    assert len(conflicts("--json")[1].splitlines()) == 1203


def test_two_sites_are_told_apart(conflicts, keep, address):
    keep(StringState(b"v"))
    keep(StringState(b"w"), stem="f" * 16, site="redis://elsewhere:6379", database=3)
    _, said, _ = conflicts()
    assert "redis://elsewhere:6379" in said
    assert f"{address}" in said
    assert words(said).endswith("2 kept")


CONTROL = [*AWKWARD_NAMES, b"\x1b]0;title\x07", "\x9b31m\u202e\u2028\U000e0001".encode(), b"[red]x[/red] :smile:"]


@pytest.mark.parametrize("args", [(), ("--json",), ("--show",)])
def test_nothing_that_a_client_chose_reaches_the_terminal_raw(conflicts, keep, args, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    for name in CONTROL:
        keep(StringState(name), HashState({name: name}), key=name, reason=name.decode("latin-1"))
    runs = [[*args, os.fsdecode(name)] for name in CONTROL] if args == ("--show",) else [args]
    for run_ in runs:
        code, said, _ = conflicts(*run_, terminal=True)
        assert code == OK
        assert all(c.isprintable() or c == "\n" for c in strip_styles(said))
    if not args:
        assert "[red]x[/red] :smile:" in strip_styles(said)


def strip_styles(text):
    """Without what rich says to the terminal on its own account: bold, and the end of bold."""
    return text.replace("\x1b[1m", "").replace("\x1b[0m", "")


def test_json_loses_nothing(conflicts, keep, address):
    values = [*AWKWARD_NAMES, *CONTROL, b""]
    keep(*(StringState(value, FAR) for value in values), key=ALL_BYTES)
    keep(HashState({value: value for value in values}), None, key=b"site1:h", winner="site", reason="\x1b[1m")
    code, said, _ = conflicts("--json")
    assert code == OK
    assert said.isascii() or all(line.isprintable() for line in said.splitlines())
    *strings, fields, removal = [json.loads(line) for line in said.splitlines()]
    assert [decoded(line["value"]) for line in strings] == values
    assert {decoded(line["key"]) for line in strings} == {ALL_BYTES}
    assert [[decoded(part) for part in pair] for pair in fields["value"]] == [[v, v] for v in dict.fromkeys(values)]
    first = {"number": 1, "at": AT, "site": address, "db": 0, "winner": "hub", "reason": "both sides changed it"}
    first |= {"site_digest": "0000000000000abc", "hub_digest": None, "type": "string", "bytes": 256}
    assert strings[0] == first | {"key": strings[0]["key"], "value": strings[0]["value"], "expires_at_ms": FAR}
    assert (removal["type"], removal["value"], removal["reason"]) == ("none", None, "\x1b[1m")


def decoded(value):
    return value.encode() if isinstance(value, str) else base64.b64decode(value["base64"])


def test_nobody_reads_any_more(state, keep):
    keep(*(StringState(bytes(100)) for _ in range(5000)))
    command = [sys.executable, "-m", "redisrepl", "conflicts", "--state-dir", state, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as run:
        run.stdout.readline()
        run.stdout.close()
        assert run.stderr.read() == b""
        assert run.wait(20) == OK


def test_while_a_daemon_writes(conflicts, state):
    store = Conflicts(state / f"{STEM}.conflicts", 1 << 20, 1e6, time.time)
    store.keep(Loser(b"k", AT, "hub", "r", 1, 2, StringState(b"v")))
    store.flush()
    assert words(conflicts()[1]).endswith("1 kept")
    store.keep(Loser(b"k", AT, "hub", "r", 1, 2, StringState(b"v")))
    store.flush()
    assert words(conflicts()[1]).endswith("2 kept")
    store.close()


def test_the_directory_is_found_as_that_of_status(state, keep):
    keep(StringState(b"v"))
    for flags, env in (([], {"STATE_DIRECTORY": str(state)}), (["--state-dir", state], {})):
        with Daemon(["conflicts", *flags], env=env) as process:
            assert process.wait() == OK
        assert words(process.stdout).endswith("1 kept")


# Showing.


def test_show_a_string(conflicts, keep):
    keep(StringState(b"older"), StringState(b"one\ntwo \xc3\xb6", FAR))
    code, said, _ = conflicts("--show", "site1:a")
    assert code == OK
    assert said.splitlines() == [
        "site1:a, number 2: lost on 2026-09-21 14:13:21 to the hub's value",
        "  reason       both sides changed it",
        "  digests      site 0000000000000abc, hub not known",
        "  lost         string of 10 bytes",
        "  expires      2100-01-01 00:00:00",
        '"one\\ntwo ö"',
    ]
    assert conflicts("--show", "site1:a", "--number", "1")[1].endswith('\n"older"\n')
    (line,) = conflicts("--show", "site1:a", "--json")[1].splitlines()
    assert json.loads(line)["value"] == "one\ntwo ö"


def test_show_a_hash(conflicts, keep):
    keep(HashState({b"a": b"1", b"\xff": b""}))
    assert conflicts("--show", "site1:a")[1].splitlines()[-3:] == [
        "  lost         2 fields of a hash, 3 bytes",
        '"a": "1"',
        '{"base64":"/w=="}: ""',
    ]


def test_show_what_is_not_there(conflicts, keep):
    keep(StringState(b"v"))
    nothing = "site1:none: nothing is kept of it: `redisrepl conflicts` lists what is"
    assert conflicts("--show", "site1:none") == (FAILED, "", nothing)
    assert conflicts("--show", "site1:a", "--number", "2")[0] == FAILED
    assert conflicts("--restore", "site1:none")[0] == FAILED


def test_the_number_is_enough(conflicts, keep, server, site):
    """A key with a NUL cannot be given as an argument."""
    key = b"site1:\x00\xff"
    keep(StringState(b"other"))
    keep(StringState(b"lost"), key=key)
    code, said, _ = conflicts("--show", "--number", "2")
    assert (code, said.splitlines()[-1]) == (OK, '"lost"')
    (line,) = conflicts("--number", "2", "--json", "--show")[1].splitlines()
    assert decoded(json.loads(line)["key"]) == key
    assert conflicts("--restore", "--number", "2", *flags(server))[0] == OK
    assert site.get(key) == b"lost"
    nothing = "nothing is kept with number 3: `redisrepl conflicts` lists what is"
    assert conflicts("--show", "--number", "3") == (FAILED, "", nothing)


def test_a_number_that_several_files_hold_is_not_enough(conflicts, keep, server, site, state):
    keep(StringState(b"ours"))
    keep(StringState(b"theirs"), stem="f" * 16, key=b"site2:a", site="redis://elsewhere:6379")
    one, two = state / f"{STEM}.conflicts", state / f"{'f' * 16}.conflicts"
    said = f"number 1 is that of several values: site1:a in {one}, site2:a in {two}: give the key too"
    assert conflicts("--show", "--number", "1") == (FAILED, "", said)
    assert conflicts("--show", "site2:a", "--number", "1")[1].endswith('"theirs"\n')
    assert conflicts("--restore", "--number", "1", *flags(server))[0] == OK  # what was lost at this site
    assert site.get("site1:a") == b"ours"


# Restoring.


def flags(server):
    return ["--raddr", f"127.0.0.1:{server.port}"]


@pytest.mark.parametrize("value", [b"", b"v", ALL_BYTES, bytes(900_000)])
def test_restore_a_string(conflicts, keep, server, site, address, value):
    site.set("site1:a", "the winner", ex=100)
    keep(StringState(b"older"), StringState(value))
    size = f"{len(value):,} byte{'s' if len(value) != 1 else ''}"
    assert conflicts("--restore", "site1:a", *flags(server)) == (
        OK,
        f"{address}: site1:a: wrote a string of {size} in place of the string there\n",
        "",
    )
    assert site.get("site1:a") == value
    assert site.pexpiretime("site1:a") == -1


def test_restore_an_expiry(conflicts, keep, server, site, address):
    keep(StringState(b"v", FAR))
    said = f"{address}: site1:a: wrote a string of 1 byte, expiring on 2100-01-01 00:00:00\n"
    assert conflicts("--restore", "site1:a", *flags(server)) == (OK, said, "")
    assert (site.get("site1:a"), site.pexpiretime("site1:a")) == (b"v", FAR)


def test_restore_one_of_several(conflicts, keep, server, site):
    keep(StringState(b"one"), StringState(b"two"))
    assert conflicts("--restore", "site1:a", "--number", "1", *flags(server))[0] == OK
    assert site.get("site1:a") == b"one"


def test_restore_a_value_without_a_portable_form(conflicts, keep, server, site):
    site.set("site1:dumped", "x")
    site.hset("site1:key", "f", "v")
    keep(SequenceState((site.dump("site1:dumped"),), None, "opaque"), key=b"site1:key")
    code, told, _ = conflicts("--restore", "site1:key", *flags(server))

    assert code == OK
    assert told.endswith("wrote 1 value of a type without a portable form in place of the hash there\n")
    assert site.get("site1:key") == b"x"


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_restore_any_key(conflicts, keep, server, site, name):
    keep(StringState(b"v"), key=name)
    assert conflicts("--restore", os.fsdecode(name), *flags(server))[0] == OK
    assert site.get(name) == b"v"


def test_restore_a_string_over_a_hash(conflicts, keep, server, site):
    site.hset("site1:a", "f", "v")
    keep(StringState(b"v"))
    assert conflicts("--restore", "site1:a", *flags(server))[1].endswith(" in place of the hash there\n")
    assert site.get("site1:a") == b"v"


def test_restore_fields(conflicts, keep, server, site, address):
    site.hset("site1:a", mapping={"winner": "stays", "lost": "the hub's"})
    site.pexpireat("site1:a", FAR)
    keep(HashState({b"lost": b"ours", ALL_BYTES: ALL_BYTES}, PAST))
    said = f"{address}: site1:a: wrote 2 fields of a hash\n"
    assert conflicts("--restore", "site1:a", *flags(server)) == (OK, said, "")
    assert site.hgetall("site1:a") == {b"winner": b"stays", b"lost": b"ours", ALL_BYTES: ALL_BYTES}
    assert site.pexpiretime("site1:a") == FAR


def test_restore_fields_of_a_hash_that_is_gone(conflicts, keep, server, site):
    keep(HashState({b"%d" % number: b"v" for number in range(3000)}, FAR))
    _, said, _ = conflicts("--restore", "site1:a", *flags(server))
    assert said.endswith("wrote 3,000 fields of a hash that was gone, expiring on 2100-01-01 00:00:00\n")
    assert (site.hlen("site1:a"), site.pexpiretime("site1:a")) == (3000, FAR)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (HashState({b"b": b"", b"c": b""}, None, "set"), "wrote 2 members of a set\n"),
        (HashState({b"a": b"2.5"}, None, "zset"), "wrote 1 member of a sorted set\n"),
        (HashState({entry_name(b"5-1"): V, entry_name(b"7-0"): V}, None, "stream"), "wrote 2 entries of a stream\n"),
        (SequenceState((b"b", b"b")), "wrote 2 items of a list in place of the list there\n"),
    ],
)
def test_restore_members_and_items(conflicts, keep, server, site, lost, said):
    """Members join those that are there, entries in their place; a list takes the place of another."""
    site.xadd("site1:stream", {"g": "w"}, id="6-0")
    site.sadd("site1:set", "a", "b")
    site.zadd("site1:zset", {"a": 1, "b": 1})
    site.rpush("site1:list", "a")
    name = f"site1:{lost.type}"
    keep(lost, key=name.encode())
    code, told, _ = conflicts("--restore", name, *flags(server))
    assert (code, told.endswith(said)) == (OK, True)
    after = {
        "set": lambda: site.smembers(name) == {b"a", b"b", b"c"},
        "zset": lambda: site.zrange(name, 0, -1, withscores=True) == [(b"b", 1.0), (b"a", 2.5)],
        "list": lambda: site.lrange(name, 0, -1) == [b"b", b"b"],
        "stream": lambda: [id_ for id_, _ in site.xrange(name)] == [b"5-1", b"6-0", b"7-0"],
    }
    assert after[lost.type]()
    shown = conflicts("--show", name)[1]
    assert name in shown
    assert lost.type != "stream" or '"5-1": ["f","v"]' in shown


@pytest.mark.parametrize("lost", [StringState(b"v", PAST), HashState({b"f": b"v"}, PAST)])
def test_what_has_expired_is_not_written(conflicts, keep, server, site, lost):
    """Redis would remove the key instead."""
    if isinstance(lost, StringState):
        site.set("site1:a", "the winner")
    keep(lost)
    code, _, said = conflicts("--restore", "site1:a", *flags(server))
    assert (code, said) == (
        FAILED,
        "site1:a: what was lost has expired on 2001-09-09 01:46:40: --show still has it",
    )
    assert site.get("site1:a") == (b"the winner" if isinstance(lost, StringState) else None)


@pytest.mark.parametrize("lost", [None, "stream", StringState(bytes(1 << 20))])
def test_what_was_not_kept_is_not_written(conflicts, keep, server, site, lost):
    keep(lost)
    code, _, said = conflicts("--restore", "site1:a", *flags(server))
    assert code == FAILED
    assert said.endswith(": there is no value to restore")
    assert site.dbsize() == 0


def test_fields_are_not_written_to_another_type(conflicts, keep, server, site):
    site.set("site1:a", "v")
    keep(HashState({b"f": b"v"}))
    code, _, said = conflicts("--restore", "site1:a", *flags(server))
    assert code == FAILED
    assert said == "site1:a: a string is there, which takes no fields of a hash: remove it first"
    assert site.get("site1:a") == b"v"


def test_only_at_the_site_where_it_was_lost(conflicts, keep, server, site, address):
    keep(StringState(b"v"), site="redis://elsewhere:6379")
    code, _, said = conflicts("--restore", "site1:a", *flags(server))
    assert code == CONFIG
    assert said == (
        f"--raddr: site1:a was lost at redis://elsewhere:6379, not at {address}: give the address as the daemon has it"
    )
    assert site.dbsize() == 0
    keep(StringState(b"ours"), stem="f" * 16, at=AT - 1000)
    assert conflicts("--restore", "site1:a", *flags(server))[0] == OK
    assert site.get("site1:a") == b"ours"


@pytest.mark.usefixtures("site")
def test_only_in_the_database_where_it_was_lost(conflicts, keep, server, address):
    keep(StringState(b"v"), database=3)
    assert conflicts("--restore", "site1:a", *flags(server))[0] == CONFIG
    code, said, _ = conflicts("--restore", "site1:a", "--raddr", f"{address}/3")
    assert (code, said) == (OK, f"{address}, database 3: site1:a: wrote a string of 1 byte\n")
    assert server.client(db=3).get("site1:a") == b"v"


def test_the_site_is_away(conflicts, keep, unused_port):
    keep(StringState(b"v"), site="")
    code, _, said = conflicts("--restore", "site1:a", "--raddr", f"127.0.0.1:{unused_port}")
    assert code == UNAVAILABLE
    assert f"127.0.0.1:{unused_port}" in said


@pytest.fixture
def unused_port():
    port = free_port()
    yield port
    release_port(port)


def test_the_site_refuses_us_and_nothing_tells_a_value(conflicts, keep):
    users = ["site on >pw ~site1:* +type +time +set", "few on >pw ~site1:* +type +time"]
    with RedisServer(users=users) as server:
        keep(StringState(b"s3cret"), site="")
        for user, password, expected in (("few", "pw", REFUSED), ("site", "wrong", REFUSED), ("site", "pw", OK)):
            raddr = f"redis://:{password}@127.0.0.1:{server.port}"
            code, printed, said = conflicts("--restore", "site1:a", "--raddr", raddr, "--user", user)
            assert code == expected
            assert "s3cret" not in printed + said
        assert server.client().get("site1:a") == b"s3cret"


# All or nothing.

#: What lost (None: an opaque value, made by this server), what is there, and the commands that the user needs.
WHOLE = {
    "string": (StringState(b"v", FAR), ["SET", "k", "present"], ["set"]),
    "string over a list": (StringState(b"v"), ["RPUSH", "k", "present"], ["set"]),
    "list": (SequenceState((b"a",) * 3, FAR), ["RPUSH", "k", "present"], ["del", "rpush", "pexpireat"]),
    "list over a string": (SequenceState((b"a",)), ["SET", "k", "present", "PX", "1000000"], ["del", "rpush"]),
    "list over a hash": (SequenceState((b"a",)), ["HSET", "k", "f", "present"], ["del", "rpush", "multi", "exec"]),
    "hash": (HashState({b"f": b"v", b"g": b"v"}), ["HSET", "k", "f", "present"], ["hset"]),
    "hash that was gone": (HashState({b"f": b"v"}, FAR), ["DEL", "k"], ["hset", "pexpireat", "multi", "exec"]),
    "set": (HashState({b"m": b""}, None, "set"), ["SADD", "k", "present"], ["sadd"]),
    "sorted set": (HashState({b"m": b"2"}, None, "zset"), ["ZADD", "k", "1", "m"], ["zadd"]),
    "stream": (
        HashState({entry_name(b"5-0"): V, entry_name(b"9-0"): V}, None, "stream"),
        ["XADD", "k", "7-0", "present", ""],
        ["eval", "multi", "xadd", "xdel", "xtrim", "xsetid", "xrange", "xrevrange", "xinfo"],
    ),
    "opaque": (None, ["RPUSH", "k", "present"], ["restore"]),
}


@pytest.fixture(params=WHOLE)
def whole(request, site, keep):
    """What is there of the key, and what the user needs."""
    lost, present, needed = WHOLE[request.param]
    site.set("k", "dumped")
    keep(lost or SequenceState((site.dump("k"),), FAR, "opaque"), key=b"k")
    site.delete("k")
    site.execute_command(*present)
    return (lambda: (site.dump("k"), site.pexpiretime("k"), site.dbsize())), needed


def test_all_or_nothing_where_memory_is_full(conflicts, server, site, whole):
    there, _ = whole
    before = there()
    site.config_set("maxmemory", "1mb")
    try:
        code, _, said = conflicts("--restore", "k", *flags(server))
        assert (code, there()) == (UNAVAILABLE, before)
        assert "OOM" in said or "maxmemory" in said
    finally:
        site.config_set("maxmemory", "0")
    assert conflicts("--restore", "k", *flags(server))[0] == OK
    assert there() != before


def test_all_or_nothing_where_a_permission_is_missing(conflicts, server, site, whole):
    there, needed = whole
    before = there()
    for command in ("type", "time", *needed):
        site.execute_command("ACL", "SETUSER", "few", "reset", "on", "nopass", "~*", "&*", "+@all", f"-{command}")
        code, _, said = conflicts("--restore", "k", *flags(server), "--user", "few")
        refused = UNAVAILABLE if command == "exec" else REFUSED  # to redis-py this refusal is one of the transaction
        assert (command, code, there()) == (command, refused, before)
        assert command in said
    only = [f"+{command}" for command in ("type", "time", "multi", "exec", *needed)]
    site.execute_command("ACL", "SETUSER", "few", "reset", "on", "nopass", "~k", *only)
    assert conflicts("--restore", "k", *flags(server), "--user", "few")[0] == OK
    assert there() != before


def test_a_client_that_writes_at_the_same_moment_keeps_its_value(conflicts, keep, server, site, monkeypatch):
    async def late(*args):
        site.set("site1:a", "the client's")
        return await run_whole(*args)

    monkeypatch.setattr("redisrepl.local.whole.run_whole", late)
    keep(HashState({b"f": b"v"}, FAR))
    said = "site1:a: a client wrote it at the same moment, so nothing was restored: try again"
    assert conflicts("--restore", "site1:a", *flags(server)) == (FAILED, "", said)
    assert (site.get("site1:a"), site.pexpiretime("site1:a")) == (b"the client's", -1)


def test_a_value_that_the_server_cannot_read_replaces_nothing(conflicts, keep, server, site):
    site.set("site1:a", "present")
    keep(SequenceState((b"no dump",), FAR, "opaque"))
    assert conflicts("--restore", "site1:a", *flags(server))[0] == UNAVAILABLE
    assert (site.get("site1:a"), site.pexpiretime("site1:a")) == (b"present", -1)


def test_a_long_list_is_restored_with_its_expiry(conflicts, keep, server, site, monkeypatch):
    """In commands of a bounded size, which are one step all the same."""
    monkeypatch.setattr("redisrepl.local.apply.MAX_WORDS_AT_SITE", 10)
    items = tuple(b"%d" % number for number in range(95))
    keep(SequenceState(items, FAR))
    assert conflicts("--restore", "site1:a", *flags(server))[0] == OK
    assert (site.lrange("site1:a", 0, -1), site.pexpiretime("site1:a")) == ([*items], FAR)


@pytest.mark.usefixtures("site")
def test_a_running_daemon_replicates_it(certificates, conflicts, keep, server, state):
    with Hub(certificates) as hub:
        args = [*certificate_flags(certificates), *place_flags(server, hub), "--ns", "site1:", "-rc"]
        args += ["--replicate", "set,hset,del,expire,lists"]
        with Daemon([*args, "--state-dir", state], env={"REDISREPL_LOG_FORMAT": "json"}) as daemon:
            wait_until_live(daemon, pull=True)
            keep(StringState(b"restored"))
            keep(HashState({b"f": b"restored"}), key=b"site1:h")
            server.client().set("site1:l", "the winner")
            eventually(lambda: hub.redis.get("site1:l") == b"the winner", description="the winner is at the hub")
            keep(SequenceState((b"restored", b"restored"), FAR), key=b"site1:l")
            for key in ("site1:a", "site1:h", "site1:l"):
                assert conflicts("--restore", key, *flags(server))[0] == OK
            eventually(lambda: hub.redis.get("site1:a") == b"restored", description="the string is at the hub")
            eventually(lambda: hub.redis.hget("site1:h", "f") == b"restored", description="the field is at the hub")
            eventually(lambda: hub.redis.type("site1:l") == b"list", description="the list is at the hub")
            eventually(lambda: hub.redis.lrange("site1:l", 0, -1) == [b"restored"] * 2, description="with its items")
            eventually(lambda: hub.redis.pexpiretime("site1:l") == FAR, description="and its expiry")
            assert daemon.stop() == 0


# What is wrong.


def test_wrong_usage(conflicts):
    with Daemon(["conflicts", "--show", "a", "--restore", "a"]) as process:
        assert process.wait() == USAGE
    code, _, said = conflicts("--number", "1")
    assert (code, said) == (CONFIG, "--number says which value is meant: give it with --show or --restore")
    code, _, said = conflicts("--restore")
    assert (code, "--restore KEY, or --restore --number N" in said) == (CONFIG, True)


def test_help_leads_with_an_example():
    with Daemon(["conflicts", "--help"]) as process:
        assert process.wait() == OK
    said = process.stdout
    assert said.index("redisrepl conflicts --state-dir /var/lib/redisrepl") < said.index("\n  --restore [KEY]")
    assert "exit codes:" in said


def test_a_directory_that_is_not_there(conflicts, state):
    code, _, said = conflicts(directory=state / "none")
    assert code == CONFIG
    hint = "give the --state-dir of a daemon, as its user or as root"
    assert said == f"--state-dir {state}/none: no such file or directory: {hint}"


@pytest.mark.parametrize("damage", ["no database", "another program", "a link"])
def test_a_file_that_cannot_be_read_is_named(conflicts, keep, state, damage):
    keep(StringState(b"v"))
    bad = state / "zz.conflicts"
    match damage:
        case "no database":
            bad.write_bytes(b"no database" * 1000)
        case "another program":
            bad.write_bytes((state / f"{STEM}.conflicts").read_bytes().replace(b"rrcf", b"mine"))
        case _:
            bad.symlink_to(state / f"{STEM}.conflicts")
    code, _, said = conflicts()
    assert code == FAILED
    assert said.startswith(f"{bad}: what lost conflicts cannot be read: ")
    assert said.endswith(": move the file away")
