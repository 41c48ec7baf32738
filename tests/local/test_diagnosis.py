"""Why a link was lost: decided from what a server tells, and seen at real servers that drop it for each reason."""

import asyncio
import signal
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from redisrepl.changes import Position
from redisrepl.local import diagnosis as module
from redisrepl.local.address import parse_address
from redisrepl.local.diagnosis import LinkDiagnosis, LostLink, explain_full_sync, explain_loss
from redisrepl.local.info import BufferLimit, SiteInfo
from testbed import Certificates, Daemon, FaultProxy, RedisServer, eventually, eventually_async, free_port
from tests.e2e.support import certificate_flags

REPLID, OTHER = "a" * 40, "b" * 40
PLACE = Position(REPLID, 1000)
CLOSED = LostLink("it closed the link", PLACE)
WELL = SiteInfo(
    at=100.0,
    run_id="run",
    uptime=5000,
    role="master",
    history=(REPLID, "0" * 40),
    offset=1000,
    backlog_begins=1,
    overruns=3,
    kills=2,
    buffer_limit=BufferLimit(256 << 20, 64 << 20, 60),
    repl_timeout=60,
    ping_period=10,
    backlog_size=1 << 20,
)
AFTER = replace(WELL, at=110.0, uptime=5010)


def facts(**members):
    return replace(AFTER, **members)


# Deciding.


@pytest.mark.parametrize(
    ("loss", "before", "now", "cause", "remedy"),
    [
        (CLOSED, WELL, facts(run_id="new", uptime=3), "was restarted 3 s ago", "OOM"),
        (CLOSED, WELL, facts(run_id="new", uptime=9000), "another server answers", "--sentinel"),
        (CLOSED, WELL, facts(role="slave", master="h:1"), "became a replica of h:1", "--raddr"),
        (CLOSED, replace(WELL, role="slave"), AFTER, "became a master", "nothing"),
        (CLOSED, WELL, facts(overruns=4), "over its limit (256mb)", 'client-output-buffer-limit "replica 512mb 128mb'),
        (CLOSED, WELL, facts(overruns=4, buffer_limit=None), "over its limit, because", '"replica 512mb 128mb 60"'),
        (CLOSED, WELL, facts(kills=3), "CLIENT KILL", "nothing"),
        (CLOSED, None, facts(kills=3), "the network", "idle timeout"),
        (CLOSED, WELL, facts(overruns=None, offset=300 << 20), "299mb had not come yet", "CONFIG SET client-output"),
        (CLOSED, WELL, facts(overruns=None, offset=80 << 20), "79mb had not", "CONFIG SET client-output"),
        (CLOSED, WELL, facts(overruns=None, offset=9 << 30, buffer_limit=None), "the network", "idle timeout"),
        (CLOSED, WELL, facts(overruns=None, offset=9 << 30, buffer_limit=BufferLimit(0, 0, 0)), "the network", "idle"),
        (CLOSED, WELL, facts(overruns=None, offset=60 << 20), "the network", "idle timeout"),
        (replace(CLOSED, pause=61.0), WELL, AFTER, "nothing from us for 61 s", "CONFIG SET repl-timeout 122"),
        (replace(CLOSED, pause=59.0), WELL, AFTER, "the network", "idle timeout"),
        (replace(CLOSED, silence=60.0), WELL, AFTER, "no byte came for 60 s", "SLOWLOG"),
        (replace(CLOSED, silence=8.0), WELL, AFTER, "every 10 s", "repl-ping-replica-period 10, or --site-silence 30"),
        (replace(CLOSED, position=None), WELL, facts(repl_timeout=5), "snapshot took longer", "repl-timeout 60"),
        (LostLink("ERR max number of clients reached", PLACE), WELL, AFTER, "as many clients", "CONFIG SET maxclients"),
        (CLOSED, WELL, SiteInfo(failure="max number of clients reached"), "as many clients", "CONFIG SET maxclients"),
        (CLOSED, WELL, SiteInfo(failure="cannot be reached: refused"), "is down, or the network", "retries by itself"),
        (CLOSED, WELL, SiteInfo(failure="it refuses us: this user has no permissions"), "not known", "+info"),
        (CLOSED, WELL, AFTER, "the site's Redis is well", "idle timeout"),
        (CLOSED, WELL, SiteInfo(at=1.0), "the network", "idle timeout"),
    ],
)
def test_the_cause_of_a_loss(loss, before, now, cause, remedy):
    diagnosis = explain_loss(loss, before, now)
    assert cause in diagnosis.cause
    assert remedy in diagnosis.remedy
    assert "\n" not in diagnosis.cause + diagnosis.remedy


@pytest.mark.parametrize(
    ("before", "now", "cause", "remedy"),
    [
        (WELL, facts(offset=9000, backlog_begins=1002), "backlog (1mb) is too small: 8000", "repl-backlog-size 16mb"),
        (None, facts(offset=30 << 20, backlog_begins=9999), "too small: 29mb", "CONFIG SET repl-backlog-size 64mb"),
        (WELL, facts(backlog_size=None, backlog_begins=1002), "backlog is too small", "repl-backlog-size 16mb"),
        (WELL, facts(history=(OTHER,), run_id="new", uptime=2), "was restarted 2 s ago", "nothing if"),
        (WELL, facts(history=(OTHER,)), "began a new history", "CONFIG SET repl-backlog-ttl 0"),
        (None, facts(history=(OTHER,), uptime=7), "it runs since 7 s", "repl-backlog-ttl"),
        (None, facts(offset=999), "behind ours", "-rc"),
        (WELL, facts(role="slave", master="h:1"), "a replica of h:1", "--sentinel"),
        (None, AFTER, "does not say why", "log"),
        (None, SiteInfo(at=1.0), "does not say why", "log"),
        (None, SiteInfo(failure="it refuses us: no"), "not known", "+info"),
    ],
)
def test_the_cause_of_a_snapshot(before, now, cause, remedy):
    diagnosis = explain_full_sync(PLACE, before, now)
    assert cause in diagnosis.cause
    assert remedy in diagnosis.remedy


def test_a_backlog_that_still_holds_the_place_is_not_too_small():
    assert "too small" not in explain_full_sync(PLACE, WELL, facts(backlog_begins=1001)).cause


# At real servers. The hub need not be there for this.


@pytest.fixture(scope="module")
def certificates():
    with Certificates() as certificates:
        yield certificates


@pytest.fixture
def follow(certificates, tmp_path):
    """Start a daemon that follows the site at this port; wait until its link is whole and looked at."""
    started = []

    def follow(port, *args, site=None):
        hub = f"https://localhost:{free_port()}/redis"
        words = [*certificate_flags(certificates), "--ns", "n:", "--raddr", f"127.0.0.1:{port}", "--haddr", hub]
        words += ["--shutdown-timeout", "0", "--retry-max", "0.2", "--state-dir", tmp_path / "state"]
        daemon = Daemon([*words, *args], env={"REDISREPL_LOG_FORMAT": "json"}).start()
        started.append(daemon)
        daemon.wait_for_log("stream.attached")
        if site is not None:
            eventually(lambda: looked_at(site.client()), description="it knows how the site is when all is well")
        return daemon

    yield follow
    for daemon in started:
        daemon.close()
        assert "Traceback" not in daemon.stderr


def looked_at(client):
    """The site was asked, and the connection for it is closed again: the answer was read."""
    asked = client.info("commandstats").get("cmdstat_config|get", {}).get("calls", 0) >= 4
    return asked and not [entry for entry in client.client_list() if entry["cmd"] == "config|get"]


def lost(daemon, cause, remedy, *, after=0):
    """The line comes that says this, and the link is whole again."""
    found = eventually(
        lambda: [record for record in daemon.records[after:] if cause in record.get("cause", "")],
        description=f"the cause is found: {cause}; said: {daemon.logged('stream.lost')}",
    )
    assert found[0]["event"] == "stream.lost"
    assert found[0]["level"] == "warning"
    assert remedy in found[0]["remedy"]
    return found[0]


def kill_replicas(site):
    with site.client() as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")


def test_it_is_killed(follow):
    with RedisServer() as site:
        daemon = follow(site.port, site=site)
        kill_replicas(site)
        lost(daemon, "CLIENT KILL", "see who does")
        daemon.wait_for_log("stream.recovered")
        assert len(daemon.logged("stream.lost")) == 1


def test_the_output_buffer_overruns(follow):
    with RedisServer(config={"client-output-buffer-limit": "replica 1mb 1mb 1"}) as site:
        daemon = follow(site.port, site=site)
        daemon.signal(signal.SIGSTOP)
        client = site.client()
        try:
            for _ in range(60):
                client.set("x", bytes(1 << 20))
            eventually(lambda: client.info("replication")["connected_slaves"] == 0, description="the limit was hit")
        finally:
            daemon.signal(signal.SIGCONT)
        lost(daemon, "went over its limit (1mb)", 'CONFIG SET client-output-buffer-limit "replica 2mb 2mb 1"')
        lost(daemon, "backlog (1mb) is too small", "CONFIG SET repl-backlog-size 128mb")


def test_the_backlog_is_too_small(follow):
    with RedisServer(config={"repl-backlog-size": "16kb"}) as site, FaultProxy(site.port) as wire:
        daemon = follow(wire.port, site=site)
        wire.down()
        daemon.wait_for_log("stream.failed")
        site.client().set("x", bytes(1 << 20))
        wire.listen()
        said = lost(daemon, "backlog (16kb) is too small", "CONFIG SET repl-backlog-size 16mb")
        assert "1024kb" in said["cause"] or "1mb" in said["cause"] or "104" in said["cause"]


def test_the_site_is_restarted(follow):
    with RedisServer() as site:
        daemon = follow(site.port, site=site)
        site.kill()
        site.start()
        lost(daemon, "was restarted", "look at its log")


def test_the_site_becomes_a_replica(follow):
    with RedisServer() as site, RedisServer() as master:
        daemon = follow(site.port, site=site)
        site.client().replicaof("127.0.0.1", master.port)
        lost(daemon, f"became a replica of 127.0.0.1:{master.port}", "--sentinel")


def test_we_are_silent_for_longer_than_the_site_waits(follow):
    with RedisServer(config={"repl-timeout": 2, "repl-ping-replica-period": 1}) as site:
        daemon = follow(site.port, site=site)
        daemon.signal(signal.SIGSTOP)
        try:
            eventually(lambda: site.client().info("replication")["connected_slaves"] == 0)
        finally:
            daemon.signal(signal.SIGCONT)
        lost(daemon, "more than its repl-timeout (2 s)", "CONFIG SET repl-timeout 60")


def test_the_site_is_silent(follow):
    with RedisServer() as site:
        daemon = follow(site.port, "--site-silence", "1", site=site)
        lost(daemon, "pings its replicas every 10 s", "--site-silence 30")


def test_the_network_is_cut(follow):
    with RedisServer() as site, FaultProxy(site.port) as wire:
        daemon = follow(wire.port, site=site)
        wire.cut()
        lost(daemon, "the network", "idle timeout")


def test_the_site_is_down(follow):
    with RedisServer() as site:
        daemon = follow(site.port, site=site)
        site.kill()
        lost(daemon, "is down, or the network to it is", "retries by itself")
        site.start()
        lost(daemon, "was restarted", "look at its log")


def test_there_are_too_many_clients(follow):
    with RedisServer() as site:
        daemon = follow(site.port, site=site)
        client = site.client()
        client.ping()
        client.config_set("maxclients", 1)
        client.execute_command("CLIENT", "KILL", "TYPE", "replica")
        lost(daemon, "as many clients", "CONFIG SET maxclients")


def test_a_user_who_may_not_ask(follow, tmp_path):
    (tmp_path / "password").write_text("secret")
    users = ["narrow on >secret ~* &* +psync +replconf +ping"]
    with RedisServer(users=users) as site:
        daemon = follow(site.port, "--user", "narrow", "--password-file", tmp_path / "password")
        kill_replicas(site)
        lost(daemon, "not known", "allow +info +config|get")


async def test_a_loss_is_explained_once_however_often_the_site_is_looked_at(monkeypatch):
    asked = []

    async def ask(_address, _wait):
        asked.append(1)
        return SiteInfo(failure="it refuses us: no permission")

    monkeypatch.setattr(module, "ask_info", ask)
    monkeypatch.setattr(module, "_PERIOD", 0.001)
    monkeypatch.setattr(module, "_REPEAT", 0.0)
    diagnosis = LinkDiagnosis(parse_address("127.0.0.1:1"))
    with capture_logs() as logs:
        task = asyncio.ensure_future(diagnosis.run())
        diagnosis.lost(CLOSED, logged=True)
        await eventually_async(lambda: len(asked) == 1)
        diagnosis.attached()
        await eventually_async(lambda: len(asked) > 5)
        diagnosis.lost(CLOSED, logged=False)  # the log does not tell of every failure, nor does this
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [record["event"] for record in logs] == ["stream.lost"]
