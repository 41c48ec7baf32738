"""A site that reaches the hub's Redis itself, over TLS, beside one that comes by way of Webdis."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from testbed import Daemon, FaultProxy, Hub, RedisServer, eventually
from tests.e2e.conftest import Daemons
from tests.e2e.support import (
    ALPHABET,
    FENCE,
    SWIFT,
    all_replicated,
    assert_equal_soon,
    certificate_flags,
    content,
    pushed,
    settled,
)

ALL = ("--replicate", "all")
#: What deploy/hub gives a site.
ACL = Path(__file__).parents[2] / "deploy/hub/users.acl"


def user_of_a_site():
    """The line of a site in the shipped ACL file, for a user of another name."""
    (line,) = [line for line in ACL.read_text().splitlines() if "CHANGE-ME-SITE1" in line]
    return line.removeprefix("user default ").replace("CHANGE-ME-SITE1", "geheim")


@dataclass(frozen=True)
class Both:
    """Two sites at one hub: `direct` without Webdis, over a link that can be cut, and `webdis` with it."""

    hub: Hub
    link: FaultProxy
    direct: Daemon
    webdis: Daemon
    at_direct: redis.Redis
    at_webdis: redis.Redis
    at_hub: redis.Redis

    def assert_equal(self):
        """All three hold the same."""
        assert_equal_soon(self.at_direct, self.at_hub)
        assert_equal_soon(self.at_webdis, self.at_hub)


@pytest.fixture(scope="module")
def both(certificates):
    options = {"tls": certificates, "persistent": True, "users": [f"user site1 {user_of_a_site()}"]}
    with RedisServer() as site, RedisServer() as other, Hub(certificates, redis=options) as hub:
        password = hub.certificates.directory / "hub-password"
        password.write_text("geheim\n")
        with FaultProxy(hub.server.tls_port) as link, Daemons(certificates) as daemons:
            there = f"rediss://localhost:{link.port}/0"
            flags = (
                "--hub-user",
                "site1",
                "--hub-password-file",
                password,
                "--shutdown-timeout",
                "0.5",
                *SWIFT,
                *ALL,
            )
            direct = daemons.live(site, there, *flags)
            webdis = daemons.live(other, hub, *SWIFT, *ALL)
            yield Both(hub, link, direct, webdis, site.client(), other.client(), hub.redis)


def test_writes_and_removals_cross_both_ways(both):
    both.at_direct.set(b"site1:" + ALPHABET, ALPHABET)
    both.at_direct.hset("site1:h", mapping={"a": 1, "b": 2})
    both.at_direct.set("site1:large", bytes(2_000_000))
    both.at_direct.incr("site1:n")
    both.at_webdis.mset({"site1:x": 1, "site1:y": 2})
    both.assert_equal()
    both.at_webdis.delete("site1:x")
    both.at_webdis.hdel("site1:h", "a")
    both.at_direct.delete("site1:y", "site1:large")
    all_replicated(both.at_direct, both.at_hub)
    all_replicated(both.at_webdis, both.at_hub)
    both.assert_equal()

    assert both.at_direct.hgetall("site1:h") == {b"b": b"2"}
    assert both.at_webdis.exists("site1:x", "site1:y", "site1:large") == 0
    (subscription,) = both.direct.state()["subscriptions"]
    assert subscription["channel"] == "resp"
    assert len(both.at_hub.keys(FENCE + b"*")) == 2


def test_entries_of_streams_are_merged_by_id_over_an_outage(both):
    """Those of the direct site go below one of the other, at the hub and there; a removal and a trim with them."""
    sites = both.at_direct, both.at_webdis
    for number in range(1, 11):
        sites[number % 2].xadd("site1:stream", {"f": number}, id=f"{number}0-1")
        eventually(lambda number=number: all(site.xlen("site1:stream") == number for site in (*sites, both.at_hub)))
    for site in (*sites, both.at_hub):
        site.xgroup_create("site1:stream", "own", "0")
    all_replicated(both.at_direct, both.at_hub)
    all_replicated(both.at_webdis, both.at_hub)
    settled(both.direct)
    both.link.down()
    mark = both.direct.mark()
    both.at_direct.xadd("site1:stream", {"of": "direct"}, id="200-1")
    both.at_direct.xdel("site1:stream", "50-1")
    both.at_webdis.xadd("site1:stream", {"of": "webdis"}, id="300-1")
    both.at_webdis.xtrim("site1:stream", minid="30-0", approximate=False)
    pushed(both.at_webdis)
    both.direct.wait_for_log("push.failed", after=mark)
    both.link.listen()
    both.direct.wait_for_log("subscribe.started", after=mark)
    left = [*(b"%d0-1" % number for number in (3, 4, 6, 7, 8, 9, 10)), b"200-1", b"300-1"]

    for place in (*sites, both.at_hub):
        eventually(lambda place=place: [id_ for id_, _ in place.xrange("site1:stream")] == left, 20)
        assert place.xinfo_stream("site1:stream")["last-generated-id"] == b"300-1"
        assert [group["name"] for group in place.xinfo_groups("site1:stream")] == [b"own"]
    assert not both.direct.logged("push.refused")


@pytest.mark.parametrize("source", ["direct", "webdis"])
def test_what_one_pushes_the_other_takes_from_the_feed(both, source):
    writer, reader = both.at_direct, both.at_webdis
    follower = both.webdis
    if source == "webdis":
        writer, reader, follower = reader, writer, both.direct
    settled(follower)
    before = follower.state()["fed"]
    for number in range(20):
        key = b"site1:fed:%b:%d" % (source.encode(), number)
        writer.set(key, number)
        eventually(lambda key=key: reader.exists(key))

    assert follower.state()["fed"] - before >= 10


def test_a_daemon_that_is_killed_loses_nothing(both):
    both.at_hub.mset({f"site1:killed:{number}": "before" for number in range(500)})
    both.assert_equal()
    for number in range(500):
        both.at_direct.set(f"site1:killed:{number}", "on its way")
        if number == 250:
            both.direct.kill()
    both.at_webdis.set("site1:killed:hub", "meanwhile")
    both.at_webdis.delete("site1:killed:0")
    pushed(both.at_webdis)
    both.at_direct.delete("site1:killed:1")
    mark = both.direct.mark()
    both.direct.start()
    both.direct.wait_for_log("subscribe.started", after=mark)
    both.assert_equal()

    assert both.at_hub.mget("site1:killed:249", "site1:killed:499", "site1:killed:hub") == [
        b"on its way",
        b"on its way",
        b"meanwhile",
    ]
    assert not both.at_direct.exists("site1:killed:1")


def test_an_outage_of_the_link_undoes_no_write_and_no_removal(both):
    keys = [f"site1:cut:{number}" for number in range(300)]
    both.at_direct.mset(dict.fromkeys(keys, "before"))
    all_replicated(both.at_direct, both.at_hub)
    both.assert_equal()
    settled(both.direct)
    both.link.down()
    mark = both.direct.mark()
    both.at_direct.mset(dict.fromkeys(keys[:100], "here"))
    both.at_direct.delete(*keys[100:150])
    both.at_webdis.mset(dict.fromkeys(keys[150:250], "there"))
    both.at_webdis.delete(*keys[250:])
    pushed(both.at_webdis)
    both.direct.wait_for_log("push.failed", after=mark)
    both.link.listen()
    both.direct.wait_for_log("subscribe.started", after=mark)
    both.assert_equal()

    held = content(both.at_direct, b"site1:cut:")
    assert {value for _, value, _ in held.values()} == {b"here", b"there"}
    assert len(held) == 200


def test_a_value_that_the_hub_takes_from_nobody_is_named_and_holds_nothing_up(daemons, certificates):
    with RedisServer() as site, Hub(certificates, redis={"tls": certificates}) as hub:
        hub.redis.config_set("proto-max-bulk-len", "1mb")
        daemon = daemons.live(site, f"rediss://localhost:{hub.server.tls_port}", *SWIFT)
        at_site = site.client()
        with at_site.pipeline() as together:
            together.set("site1:before", "v").set("site1:large", bytes(3 << 20)).set("site1:after", "v").execute()
        refused = daemon.wait_for_log("push.refused")
        assert refused["key"] == "site1:large"
        assert "proto-max-bulk-len" in refused["error"]
        eventually(lambda: hub.redis.mget("site1:before", "site1:after") == [b"v"] * 2)
        at_site.set("site1:later", "v")
        eventually(lambda: hub.redis.get("site1:later") == b"v")
        at_site.set("site1:large", "small enough")
        all_replicated(at_site, hub.redis)
        assert "socket.send()" not in daemon.stderr


@pytest.mark.parametrize("first", ["the file", "the server"])
def test_a_new_password_is_used_without_a_restart(daemons, certificates, tmp_path, first):
    """At the site and at the hub; whether the file or the server changes first."""
    users = ["repl on >old-secret ~* &* +@all"]
    with RedisServer(users=users) as site, Hub(certificates, redis={"tls": certificates, "users": users}) as hub:
        password = tmp_path / "password"
        password.write_text("old-secret\n")
        flags = ("--user", "repl", "--password-file", password, "--hub-user", "repl", "--hub-password-file", password)
        daemon = daemons.live(site, f"rediss://localhost:{hub.server.tls_port}", *flags, *SWIFT)
        at_site = site.client()
        at_site.set("site1:before", "v")
        all_replicated(at_site, hub.redis)
        if first == "the file":
            password.write_text("new-secret\n")
        for server in (at_site, hub.redis):
            server.execute_command("ACL", "SETUSER", "repl", "resetpass", ">new-secret")
            server.execute_command("CLIENT", "KILL", "USER", "repl")
        at_site.set("site1:after", "v")
        if first == "the server":
            for event in ("subscribe.failed", "stream.failed"):
                eventually(lambda event=event: any("WRONGPASS" in line["error"] for line in daemon.logged(event)))
            password.write_text("new-secret\n")
        all_replicated(at_site, hub.redis)
        hub.redis.set("site1:from the hub", "v")
        assert_equal_soon(at_site, hub.redis)
        assert daemon.stop() == 0
        assert "-secret" not in daemon.stderr + daemon.stdout


def test_a_hub_that_is_killed_is_waited_for(both):
    both.at_direct.set("site1:hub", "before")
    all_replicated(both.at_direct, both.at_hub)
    mark = both.direct.mark()
    both.hub.server.kill()
    both.at_direct.set("site1:hub", "while it was away")
    both.direct.wait_for_log("push.failed", after=mark)
    both.hub.server.start()
    both.direct.wait_for_log("subscribe.started", after=mark)
    eventually(lambda: both.at_hub.get("site1:hub") == b"while it was away", 20)
    both.assert_equal()


def test_check_finds_everything_in_order(both, daemons, certificates):
    args = ["check", *certificate_flags(certificates), "--ns", "site1:", "-rc"]
    password = certificates.directory / "hub-password"
    port = both.hub.server.tls_port
    checked = daemons.raw(
        *args,
        "--hub-user",
        "site1",
        "--hub-password-file",
        password,
        "--haddr",
        f"rediss://localhost:{port}",
        "--raddr",
        f"127.0.0.1:{both.at_direct.connection_pool.connection_kwargs['port']}",
    )
    assert checked.wait() == 0
    assert "a message came back" in checked.stdout
    assert "by resp" in checked.stdout
