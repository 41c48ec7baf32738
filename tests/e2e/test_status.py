"""`redisrepl status` asks running daemons by their sockets, and says what is wrong."""

import io
import json
import socket
import stat
from datetime import datetime
from pathlib import Path

import pytest

from redisrepl.subcommands.status import watch
from testbed import Daemon, FaultProxy, RedisServer, eventually
from tests.e2e.support import FOLLOWED, SWIFT, all_replicated, pushed

OK, WRONG, UNAVAILABLE, STARTING = 0, 1, 69, 75


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def status(state):
    """Run it; exit code, standard output, what it said otherwise."""

    def status(*args, directory=state, **env):
        flags = [] if directory is None else ["--state-dir", directory]
        with Daemon(["status", *flags, *args], env=env) as process:
            code = process.wait()
        assert "Traceback" not in process.stderr
        return code, process.stdout, process.stderr

    return status


def sockets(state):
    return list(state.glob("*.sock"))


def test_all_is_well(daemons, site, hub, at_site, at_hub, state, status):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state)
    at_hub.set("site1:from the hub", "s3cret-value")
    at_site.set("site1:from the site", "s3cret-value")
    all_replicated(at_site, at_hub)
    daemon.wait_for_log("sweep.finished")
    eventually(lambda: status("--json")[0] == OK, description="all is well")
    code, said, _ = status("--json")
    assert code == OK
    (line,) = said.splitlines()
    found = json.loads(line)
    assert found["problems"] == []
    assert found["site"] == f"redis://127.0.0.1:{site.port}"
    assert found["hub"].startswith("https://localhost")
    assert found["namespaces"] == ["site1:"]
    assert (found["direction"], found["source"], found["scripts"]) == ("both", "psync", True)
    assert found["position"].partition(":")[0] == at_site.info("replication")["master_replid"]
    assert found["lag_bytes"] >= found["unread_bytes"] >= 0
    assert (found["state"], found["well"], found["doing"], found["troubles"]) == ("well", True, None, [])
    assert found["started_at"] <= found["attached_at"]
    assert (found["waiting_keys"], found["push_failures"], found["failed"]) == (0, 0, 0)
    assert found["pushed"] >= 3
    assert found["applied"] >= 1
    (subscription,) = found["subscriptions"]
    assert subscription["live"] is True
    assert subscription["round_trip_s"] > 0
    assert found["sweep"]["runs"] >= 1
    assert found["sweep"]["next_at"] > found["started_at"] + 3000
    assert datetime.fromisoformat(found["certificate_expires_at"]).tzinfo is not None
    assert 10 << 20 < found["memory_bytes"] < 500 << 20
    assert found["pid"] == daemon.pid
    assert "s3cret" not in said
    code, said, _ = status()
    assert code == OK
    head, *rows = said.splitlines()
    assert head == f"{found['site']} <-> {found['hub']}: well"
    names = [row.split()[0] for row in rows]
    assert names == [
        *("namespaces", "site", "waiting", "pushed", "pulled", "subscription", "sweep", "scripts", "certificate"),
        *("certificate", "process"),
    ]
    assert found.keys() - {"lag_bytes", "unread_bytes"} <= daemon.state().keys()


def test_keys_that_are_refused_are_not_well_as_long_as_they_are(daemons, site, hub, at_site, at_hub, state, status):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state)
    at_hub.rpush("site1:list", "a")
    at_site.hset("site1:list", "field", "v")
    daemon.wait_for_log("push.refused")
    code, said, _ = status("--json")
    found = json.loads(said)
    assert (code, found["state"], found["refused_keys"]) == (WRONG, "not well", 1)
    assert found["problems"] == ["1 key refused by a server: the log names them (push.refused, apply.refused)"]

    at_hub.delete("site1:list")
    at_site.hset("site1:list", "field", "of now")
    daemon.wait_for_log("push.accepted")
    eventually(lambda: status("--json")[0] == OK, description="all is well")
    assert (daemon.state()["refused_keys"], daemon.state()["push_failures"]) == (0, 1)


SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "status.schema.json").read_text())


@pytest.mark.parametrize("rc", [True, False])
def test_it_says_what_its_schema_says(daemons, site, hub, at_site, at_hub, state, status, rc):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=rc)
    import jsonschema  # noqa: PLC0415 - takes seconds, which each process that collects tests would spend

    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
    document = json.loads(status("--json")[1])
    validator.validate(document)
    assert validator.is_valid(document | {"surprise": 1}) is False
    all_replicated(at_site, at_hub, back=rc)
    eventually(lambda: json.loads(status("--json")[1])["sweep"].get("finished_at") or not rc)
    validator.validate(json.loads(status("--json")[1]))
    hub.redis.connection_pool.disconnect()
    site.kill()
    daemon.wait_for_log("stream.failed")
    validator.validate(json.loads(status("--json")[1]))


def test_an_idle_link_is_not_behind(daemons, site, hub, at_site, state, status):
    """Whatever the site sends that is none of ours: pings, and the writes of other namespaces."""
    at_site.config_set("repl-ping-replica-period", 1)
    daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    at_site.set("site1:ours", "v")
    pushed(at_site)
    offset = at_site.info("replication")["master_repl_offset"]
    at_site.set("others:key", "v" * 5000)
    eventually(lambda: at_site.info("replication")["master_repl_offset"] > offset + 5100, description="a ping was sent")

    def behind():
        found = json.loads(status("--json")[1])
        return found["lag_bytes"], found["unread_bytes"], found["waiting_keys"]

    eventually(lambda: behind() == (0, 0, 0), description="nothing is behind")
    assert "nothing is behind" in status()[1]


def test_it_is_starting_until_the_first_snapshot_was_read(daemons, site, hub, at_site, state, status):
    at_site.config_set("repl-diskless-sync", "yes")
    at_site.config_set("repl-diskless-sync-delay", "3600")
    daemon = daemons.start(site, hub, *SWIFT, "--state-dir", state, rc=False)
    daemon.wait_for_log("daemon.started")
    _, said, _ = eventually(lambda: (found := status())[0] == STARTING and found)
    assert ": starting" in said.splitlines()[0]
    assert "starting     attaching to the site's Redis" in said
    assert "trouble" not in said
    at_site.config_set("repl-diskless-sync-delay", "0")
    eventually(lambda: status()[0] == OK, description="all is well")
    site.kill()  # that it is away later on is no start
    daemon.wait_for_log("stream.failed")
    assert status()[0] == WRONG


def test_a_hub_that_is_away_at_the_start_is_a_trouble(daemons, site, hub, state, status):
    with FaultProxy(hub.port) as wire:
        wire.down()
        daemon = daemons.start(site, wire.port, *SWIFT, "--state-dir", state)
        daemon.wait_for_log("daemon.started")
        eventually(lambda: status()[0] == WRONG)
        assert "See whether it runs, and whether this machine may reach it" in status()[1]


def test_a_table_of_all_daemons(daemons, site, hub, state):
    daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    with RedisServer() as other:
        daemons.live(other, hub, *SWIFT, "--state-dir", state, ns=("other:",))
        out = io.StringIO()
        eventually(lambda: watch(state, period=0.1, out=io.StringIO(), times=1) == OK)
        assert watch(state, period=0.1, out=out, times=2) == OK
    table = out.getvalue()
    assert "2 daemons in" in " ".join(table.split())
    for said in (f"{site.port}", f"{other.port}", "other:", "well", "0.0"):
        assert said in table, table


@pytest.mark.parametrize("source", ["psync", "notify"])
def test_something_is_wrong(daemons, site, hub, at_site, at_hub, state, status, source):
    with FaultProxy(hub.port) as wire:
        daemon = daemons.start(site, wire.port, *SWIFT, "--state-dir", state, "--source", source, rc=False)
        daemon.wait_for_log(FOLLOWED[source])
        at_site.set("site1:before", "v")
        eventually(lambda: at_hub.exists("site1:before") and json.loads(status("--json")[1])["waiting_keys"] == 0)
        assert status()[0] == OK
        wire.down()
        at_site.set("site1:key", "v")
        daemon.wait_for_log("push.failed")
        eventually(lambda: json.loads(status("--json")[1])["oldest_s"], description="it is known how long it waits")
        code, said, _ = status()
        assert code == WRONG
        assert ": NOT WELL" in said
        assert "trouble      push: " in said
        assert "waiting      1 keys" in said
        assert "pulled" not in said
        wire.listen()
        eventually(lambda: json.loads(status("--json")[1])["oldest_s"] is None, 30, "it has arrived")


def test_the_site_is_away(daemons, site, hub, state, status):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    site.kill()
    daemon.wait_for_log("stream.failed")
    code, said, _ = status("--json")
    assert code == WRONG
    found = json.loads(said)
    assert found["attached_at"] is found["lag_bytes"] is None
    assert found["problems"][0] == "the site's Redis is not followed"


def test_nobody_answers(state, status):
    state.mkdir()
    code, said, error = status()
    assert (code, said) == (UNAVAILABLE, "")
    assert error.startswith(f"redisrepl: no daemon answers in {state}: ")
    assert error.count("\n") == 0
    with socket.socket(socket.AF_UNIX) as dead:  # of one that was killed
        dead.bind(str(state / "0123.sock"))
    assert status()[0] == UNAVAILABLE


def test_the_default_directory(daemons, site, hub, state, status):
    daemons.live(site, hub, *SWIFT, rc=False, env={"STATE_DIRECTORY": str(state)})
    assert status(directory=None, STATE_DIRECTORY=str(state))[0] == OK
    assert status(directory=None, REDISREPL_STATE_DIR=str(state))[0] == OK


def test_several_daemons_in_one_directory(daemons, site, hub, state, status):
    daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    with RedisServer() as other, FaultProxy(hub.port) as wire:
        daemon = daemons.live(other, wire.port, *SWIFT, "--state-dir", state, rc=False)
        code, said, _ = status("--json")
        assert code == OK
        found = [json.loads(line) for line in said.splitlines()]
        assert {document["site"] for document in found} == {f"redis://127.0.0.1:{s.port}" for s in (site, other)}
        wire.down()
        other.client().set("site1:key", "v")
        daemon.wait_for_log("push.failed")
        assert status()[0] == WRONG


# The socket.


def test_only_its_user_may_ask_and_it_is_gone_at_the_end(daemons, site, hub, state):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    (path,) = eventually(lambda: sockets(state))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert daemon.stop() == 0
    assert sockets(state) == []


def test_one_that_was_left_behind_is_replaced(daemons, site, hub, state, status):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    (path,) = eventually(lambda: sockets(state))
    daemon.kill()
    assert path.exists()
    assert status()[0] == UNAVAILABLE
    mark = daemon.mark()
    daemon.start()
    daemon.wait_for_log("stream.attached", after=mark)
    eventually(lambda: status()[0] == OK)


def test_who_asks_and_does_not_read_holds_nobody_up(daemons, site, hub, state, status):
    daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    (path,) = eventually(lambda: sockets(state))
    deaf = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    try:
        for connection in deaf:
            connection.connect(str(path))
        assert status()[0] == OK
    finally:
        for connection in deaf:
            connection.close()


def test_a_path_longer_than_the_address_of_a_socket(daemons, site, hub, state, status):
    deep = state / ("d" * 100) / ("e" * 100)
    daemons.live(site, hub, *SWIFT, "--state-dir", deep, rc=False)
    eventually(lambda: status(directory=deep)[0] == OK)


def test_a_socket_that_cannot_be_made_is_a_warning(daemons, site, hub, at_site, at_hub, state, status):
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    (path,) = eventually(lambda: sockets(state))
    assert daemon.stop() == 0
    path.mkdir()
    daemon = daemons.live(site, hub, *SWIFT, "--state-dir", state, rc=False)
    told = daemon.wait_for_log("daemon.no_socket")
    assert told["level"] == "warning"
    assert told["file"] == str(path)
    all_replicated(at_site, at_hub, back=False)
    assert status()[0] == UNAVAILABLE
