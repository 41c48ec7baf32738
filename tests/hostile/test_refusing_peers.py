"""Peers that say no to everything, or what a terminal would obey; a hub that is not there, or whose clock jumps."""

import base64
import io
import random
import signal
import time

import pytest

from redisrepl.subcommands.status import watch
from redisrepl.wire.psync import encode_command
from testbed import Daemon, Hub, RedisServer, eventually
from testbed.clock import OtherClock
from testbed.programs import hub_redis
from tests.e2e.conftest import Daemons
from tests.e2e.support import ALL_KINDS, SWIFT, all_replicated, certificate_flags, wait_until_live
from tests.hostile.peers import EndsAfterTheHandshake, HangsUp, HostileHub, HostileSite, Switch, turned, whole

EVIL = "a\x1b]0;x\x07b\x9b31mc\x7fd\u202ee"
ERROR = f"-ERR {EVIL}".encode() + b"\r\n"
FOR_ALL = "refuses this client, whatever the key"
#: What it answers to each request, and what is said of it.
HUBS = {
    "password of Webdis": (whole(b"", 403), FOR_ALL),
    "NOPERM": (whole(b"-NOPERM this user has no permissions to run the 'x' command\r\n"), FOR_ALL),
    "unknown command": (whole(b"-ERR unknown command 'x', with args beginning with: \r\n"), FOR_ALL),
    "NOAUTH": (whole(b"-NOAUTH Authentication required.\r\n"), "NOAUTH"),
    "500": (whole(b"", 500), "HTTP 500"),
}
#: What may stand before a hub, or be in its place, or be said by a Redis that cannot serve just now.
ANSWERS = {
    "another page": whole(b"<html>no</html>"),
    "nothing": whole(b""),
    "404": whole(b"", 404),
    "413": whole(b"", 413),
    "502": whole(b"", 502),
    "an empty list": whole(b"*0\r\n"),
    "our own word": whole(b"$9\r\nUNCHANGED\r\n"),
    "too many clients": whole(b"-ERR max number of clients reached\r\n"),
    "protected": whole(b"-DENIED Redis is running in protected mode\r\n"),
    "another node": whole(b"-MOVED 123 127.0.0.1:1\r\n"),
    "no such script": whole(b"-NOSCRIPT No matching script. Please use EVAL.\r\n"),
    "no disk": whole(b"-MISCONF Redis is configured to save RDB snapshots\r\n"),
}
SITES = {
    "NOAUTH": (b"NOAUTH Authentication required.", "NOAUTH"),
    "NOPERM": (b"NOPERM this user has no permissions to run the 'x' command", "NOPERM"),
    "unknown command": (b"ERR unknown command 'x', with args beginning with: ", "unknown command"),
}

#: Commands that may be refused in five seconds: about eight tries, after the sixteen fetches that are under way.
MOST_ASKED = 100


@pytest.mark.parametrize("kind", HUBS)
def test_a_hub_that_refuses_everything_gives_up_no_key(daemon, scene, certificates, kind):
    site, hub, _, to_hub = scene
    answer, said = HUBS[kind]
    mark = daemon.mark()
    names = [f"site1:{kind}:{number}" for number in range(50)]
    with HostileHub(certificates, answer) as peer, turned(to_hub, peer, hub):
        site.client().mset(dict.fromkeys(names, "v"))
        site.client().set(f"site1:{kind}:large", "x" * 300_000)
        eventually(lambda: any(said in line["error"] for line in daemon.logged("push.failed", after=mark)), 20, said)
        asked = peer.asked
        eventually(lambda: peer.asked > asked + 5, 20, "it is asked again")
    eventually(lambda: hub.redis.exists(*names) == 50 and hub.redis.exists(f"site1:{kind}:large"), 20, "all is there")
    assert daemon.logged("push.refused", after=mark) == []
    all_replicated(site.client(), hub.redis)


@pytest.mark.parametrize("answer", ANSWERS)
def test_whatever_a_hub_answers_to_everything_no_key_is_given_up(daemon, scene, certificates, answer):
    site, hub, _, to_hub = scene
    at_site, names = site.client(), [f"site1:{answer}:{number}" for number in range(20)]
    at_site.set("site1:gone", answer)
    all_replicated(at_site, hub.redis)
    with HostileHub(certificates, ANSWERS[answer]) as peer, turned(to_hub, peer, hub):
        at_site.mset(dict.fromkeys(names, "v"))
        at_site.hset(f"site1:{answer}:hash", "f", "v")
        at_site.delete("site1:gone")
        eventually(lambda: peer.asked > 12, 20)
    eventually(lambda: hub.redis.exists(*names, f"site1:{answer}:hash") == 21, 20, "all is there")
    assert daemon.logged("push.refused") == daemon.logged("apply.refused") == []
    all_replicated(at_site, hub.redis)


@pytest.mark.parametrize("kind", [kind for kind in HUBS if kind != "500"])
def test_a_hub_that_refuses_everything_is_tried_seldom(scene, certificates, kind):
    """Six tries in three seconds, each of a dozen requests: they find out that it is not about a key."""
    site, hub, _, to_hub = scene
    with Daemons(certificates) as daemons, HostileHub(certificates, HUBS[kind][0]) as peer:
        daemon = daemons.live(site, hub.url_at(to_hub.port), rc=False)
        daemon.wait_for_log("sweep.finished")
        pushed = daemon.state()["pushed"]
        site.client().set("site1:passes", kind)  # until a key passed, each that is refused may be the only one
        eventually(lambda: daemon.state()["pushed"] > pushed)
        with turned(to_hub, peer, hub):
            site.client().mset({f"site1:seldom:{number}": kind for number in range(50)})
            eventually(lambda: daemon.logged("push.failed"), 20, "it is refused")
            until = time.monotonic() + 3
            while time.monotonic() < until:
                assert daemon.state()
                assert peer.asked < 150
        eventually(lambda: hub.redis.get("site1:seldom:1") == kind.encode(), 20, "all is there")


@pytest.mark.parametrize("change", ["-@all", "resetkeys"])
@pytest.mark.parametrize("direct", [False, True], ids=["Webdis", "direct"])
def test_a_hub_that_refuses_everything_is_seldom_fetched_from(certificates, direct, change):
    """Only events still come, and make keys dirty; sixteen fetches could be under way, each of fifty commands."""
    users = ["user default on nopass ~* &* +@all", "user other on >s3cret ~* &* +@all"]
    names = [f"site1:{number}" for number in range(3000)]
    options = {"users": users, "tls": certificates if direct else None}
    with RedisServer() as site, Hub(certificates, redis=options) as hub, Daemons(certificates) as daemons:
        at_hub = hub.server.client(username="other", password="s3cret")
        place = f"rediss://localhost:{hub.server.tls_port}" if direct else hub
        daemon = daemons.live(site, place, "--sweep-period", "0")
        daemon.wait_for_log("sweep.finished")
        at_hub.set("site1:before", "v")
        all_replicated(site.client(), at_hub)
        at_hub.execute_command("ACL", "SETUSER", "default", change, "+psubscribe", "+publish")
        at_hub.config_resetstat()
        at_hub.mset(dict.fromkeys(names, "v"))
        daemon.wait_for_log("fetch.failed")
        until = time.monotonic() + 5
        while time.monotonic() < until:
            assert daemon.state()
            assert asked(at_hub) < MOST_ASKED
        at_hub.execute_command("ACL", "SETUSER", "default", "~*", "+@all")
        eventually(lambda: site.client().exists(*names) == len(names), 20, "all is there")
        assert daemon.logged("apply.refused") == []


def asked(client):
    """How many commands a server was asked for that read keys."""
    stats = client.info("commandstats")
    words = ("cmdstat_eval", "cmdstat_evalsha", "cmdstat_get")
    return sum(stats[word]["calls"] + stats[word]["rejected_calls"] for word in words if word in stats)


@pytest.mark.parametrize("kind", SITES)
def test_a_site_that_refuses_everything_gives_up_no_key(daemon, scene, kind):
    site, hub, to_site, _ = scene
    error, said = SITES[kind]
    mark = daemon.mark()
    names = [f"site1:{kind}:{number}" for number in range(50)]
    with HostileSite(list, lambda: b"-%b\r\n" % error, b"-%b\r\n" % error) as peer, turned(to_site, peer, site):
        hub.redis.mset(dict.fromkeys(names, "v"))
        eventually(lambda: any(said in line["error"] for line in daemon.logged("stream.failed", after=mark)), 20, said)
        asked = peer.asked
        eventually(lambda: peer.asked > asked + 5, 20, "it is asked again")
    eventually(lambda: site.client().exists(*names) == 50, 20, "all is there")
    assert daemon.logged("apply.refused", after=mark) == []
    all_replicated(site.client(), hub.redis)


@pytest.mark.parametrize("how", [HangsUp, EndsAfterTheHandshake])
@pytest.mark.parametrize("direct", [False, True], ids=["Webdis", "direct"])
def test_a_hub_that_is_down_is_tried_ten_times_in_ten_seconds(certificates, direct, how):
    """All pushers and subscriptions together, by the clock; and all go on once one finds it back."""
    namespaces = [f"n{number}:" for number in range(50)]
    names = [f"n{number % 50}:{number}" for number in range(5000)]
    with (
        RedisServer() as site,
        Hub(certificates, redis={"tls": certificates if direct else None}) as hub,
        Daemons(certificates) as daemons,
    ):
        port = hub.server.tls_port if direct else hub.port
        with Switch(port) as to_hub:
            place = f"rediss://localhost:{to_hub.port}" if direct else hub.url_at(to_hub.port)
            daemon = daemons.live(site, place, ns=namespaces)
            daemon.wait_for_log("sweep.finished")
            # What is on its way when the hub goes away is no try: each of fifty canaries may be connecting just then.
            eventually(lambda: all(s["live"] for s in daemon.state()["subscriptions"]), 20, "all are live")
            with how(certificates) as peer:
                # To the daemon it goes away at one moment: the last of a hundred connections might still answer when
                # the first have ended, and then the hub is there for all that wait.
                daemon.signal(signal.SIGSTOP)
                to_hub.turn(peer.port)
                daemon.signal(signal.SIGCONT)
                until = time.monotonic() + 10
                site.client().mset(dict.fromkeys(names, "v"))
                eventually(lambda: peer.asked >= 4, 10, "it is tried")
                while time.monotonic() < until:
                    assert daemon.state()
                    assert peer.asked <= 10
                to_hub.turn(port)
            eventually(lambda: hub.redis.exists(*names) == 5000, 30, "all is there")
            eventually(lambda: all(s["live"] for s in daemon.state()["subscriptions"]), 10, "all are live")


def shown(*args):
    """What a command writes to its terminal."""
    with Daemon([*map(str, args)]) as process:
        process.wait()
    return process.stdout, process.stderr


def test_nothing_that_a_peer_says_is_obeyed_by_a_terminal(certificates, scene, tmp_path):
    site, hub, to_site, to_hub = scene
    flags = [*certificate_flags(certificates), "--raddr", f"127.0.0.1:{to_site.port}", "--ns", "site1:"]
    flags += ["--haddr", hub.url_at(to_hub.port), "--timeout", "1", "--connect-timeout", "1"]
    with (
        Daemons(certificates) as daemons,
        HostileHub(certificates, whole(ERROR)) as evil_hub,
        HostileSite(list, lambda: ERROR, ERROR) as evil_site,
    ):
        daemon = daemons.start(to_site.port, hub.url_at(to_hub.port), *SWIFT, "--state-dir", tmp_path)
        wait_until_live(daemon, pull=True)
        with turned(to_site, evil_site, site), turned(to_hub, evil_hub, hub):
            for what in ("subscribe", "stream"):
                eventually(lambda what=what: "]0;x" in failures(daemon).get(what, ""), 20, "it says so")
            out = io.StringIO()
            watch(tmp_path, period=0.1, out=out, times=1)
            said = [out.getvalue(), *shown("status", "--state-dir", tmp_path), *shown("check", *flags)]
            said += [*shown("status", "--state-dir", tmp_path, "--json"), *shown("tail", *flags[6:10])]
            assert daemon.stop() == 0
    for text in said:
        assert all(line.isprintable() for line in text.splitlines()), text
    assert sum("]0;x" in text.replace("\n", "") for text in said) >= 4


def failures(daemon):
    return {trouble["what"]: trouble["error"] for trouble in daemon.state()["troubles"]}


def test_a_hub_whose_clock_jumps_takes_nothing_from_the_site(certificates):
    """What has expired by such a clock may be missing at the hub: nobody removed it, and it is not lost at the site."""
    rng = random.Random(1)
    names = [f"site1:{number}" for number in range(5)]
    with (
        OtherClock() as clock,
        RedisServer() as site,
        Hub(certificates, redis={"program": clock.program(hub_redis())}) as hub,
        Daemons(certificates) as daemons,
    ):
        at_site = site.client()
        daemon = daemons.live(site, hub, *SWIFT, *ALL_KINDS, "--sweep-period", "1")
        daemon.wait_for_log("sweep.finished")
        for name in names:
            at_site.set(name, "v", ex=3600)
            clock.set(rng.choice([-1, 1]) * rng.randrange(7200, 86_400))
            hub.redis.keys("*")  # which has it look at expiries
            mark = daemon.mark()
            eventually(lambda mark=mark: daemon.logged("sweep.finished", after=mark), 20, "both sides were compared")
            assert daemon.state()
            assert at_site.exists(*names) == names.index(name) + 1
        clock.set(0)
        at_site.mset(dict.fromkeys(names, "w"))
        eventually(lambda: hub.redis.mget(names) == [b"w"] * len(names), 30, "what is written now is there")


@pytest.mark.parametrize("ahead", [-7200, 7200])
def test_no_expiry_that_a_peer_claims_is_too_large(certificates, ahead):
    """Redis takes any that fits into 64 bits, which it does not when the clocks differ; and a peer may write more."""
    latest = (1 << 63) - 1
    with (
        OtherClock(ahead) as clock,
        RedisServer() as site,
        Hub(certificates, redis={"program": clock.program(hub_redis())}) as hub,
        Daemons(certificates) as daemons,
    ):
        at_site, at_hub = site.client(), hub.redis
        daemon = daemons.live(site, hub, *SWIFT, "--replicate", "all")
        daemon.wait_for_log("sweep.finished")
        for client, name in ((at_site, "up"), (at_hub, "down")):
            client.set(f"site1:{name}", "v")
            client.pexpireat(f"site1:{name}", latest)
            client.hset(f"site1:{name}:hash", "f", "v")
            client.pexpireat(f"site1:{name}:hash", latest - 1)
        for number, expiry in enumerate((b"9" * 30, b"-5", b"0", b"%d" % latest)):
            command = encode_command(b"SET", b"site1:fed%d" % number, b"v", b"PXAT", expiry)
            now = int(time.time() * 1e6) + (number << 40)
            message = b"%d other %b" % (now, base64.urlsafe_b64encode(command))
            at_hub.publish("__keyspace@0__:site1:redisrepl:feed", message)
        names = ["site1:up", "site1:up:hash", "site1:down", "site1:down:hash"]
        eventually(lambda: at_site.exists(*names) == at_hub.exists(*names) == 4, 20, "they are on both sides")
        at_hub.set("site1:after", "v")
        at_site.set("site1:behind", "v")
        eventually(lambda: at_site.exists("site1:after") and at_hub.exists("site1:behind"), 20, "it goes on")
        assert daemon.logged("push.refused") == daemon.logged("apply.refused") == []
        assert daemon.stop() == 0
