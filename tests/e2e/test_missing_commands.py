"""Commands that a server does not know, or does not let us run: what works without them works (docs/permissions.md)."""

import pytest

from testbed import Hub, RedisServer, eventually
from tests.e2e.support import ALL_KINDS, SWIFT, all_replicated

SECRET = "s3cret"


def without(how, *commands):
    """Options of a server whose default user has none of these; `other` keeps all that the server knows."""
    denied = "".join(f" -{command}" for command in commands) if how == "denied" else ""
    renamed = [f'{command.upper()} ""' for command in commands] if how == "missing" else []
    users = [f"default on nopass ~* &* +@all{denied}", f"other on >{SECRET} ~* &* +@all"]
    return users, {"rename-command": renamed} if renamed else {}


@pytest.mark.parametrize("how", ["denied", "missing"])
def test_without_time_and_scan_on_either_side(daemons, certificates, how):
    """Live traffic needs neither. Comparisons of the site need SCAN, and say so; the hub lists its keys by KEYS."""
    users, config = without(how, "time", "scan")
    with (
        RedisServer(users=users, config=config) as site,
        Hub(certificates, redis={"users": [f"user {user}" for user in users], "config": config}) as hub,
    ):
        at_site, at_hub = (s.client(username="other", password=SECRET) for s in (site, hub.server))
        daemon = daemons.live(site, hub, *SWIFT, *ALL_KINDS)
        at_site.set("site1:up", 1, ex=1000)
        at_site.incr("site1:up")
        at_hub.hset("site1:down", "f", "v")
        at_hub.expire("site1:down", 1000)
        eventually(lambda: at_hub.get("site1:up") == b"2" and at_hub.ttl("site1:up") > 900)
        eventually(lambda: at_site.hget("site1:down", "f") == b"v" and at_site.ttl("site1:down") > 900)
        at_hub.delete("site1:down")
        eventually(lambda: not at_site.exists("site1:down"))
        all_replicated(at_site, at_hub)
        assert "scan" in daemon.wait_for_log("sweep.failed")["error"].lower()


@pytest.mark.parametrize("how", ["denied", "missing"])
def test_without_exists_at_the_hub(daemons, certificates, how):
    """Keys that may have expired are removed under a condition: by a script that needs no command of its own."""
    users, config = without(how, "exists")
    with (
        RedisServer() as site,
        Hub(certificates, redis={"users": [f"user {u}" for u in users], "config": config}) as hub,
    ):
        at_site, at_hub = site.client(), hub.server.client(username="other", password=SECRET)
        daemon = daemons.live(site, hub, *SWIFT, *ALL_KINDS)
        at_site.set("site1:expiring", "v", ex=1000)
        eventually(lambda: at_hub.get("site1:expiring") == b"v")
        daemon.wait_for_log("sweep.finished")
        at_site.delete("site1:expiring")
        eventually(lambda: at_hub.get("site1:expiring") is None)
        assert not daemon.logged("push.failed")


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("how", ["denied", "missing"])
def test_without_psubscribe_at_the_hub(daemons, certificates, how, direct):
    """What the site writes is pushed, from the start on; the log says what is likely wrong and how to allow it."""
    users, config = without(how, "psubscribe")
    options = {"users": [f"user {user}" for user in users], "config": config, "tls": certificates if direct else None}
    with RedisServer() as site, Hub(certificates, redis=options) as hub:
        place = f"rediss://localhost:{hub.server.tls_port}" if direct else hub
        daemon = daemons.start(site, place, *SWIFT, *ALL_KINDS)
        at_site, at_hub = site.client(), hub.server.client(username="other", password=SECRET)
        for command in ((b"SET", b"up", b"v"), (b"HSET", b"uh", b"f", b"v"), (b"INCR", b"counted")):
            at_site.execute_command(command[0], b"site1:" + command[1], *command[2:])
        eventually(lambda: (at_hub.get("site1:up"), at_hub.get("site1:counted")) == (b"v", b"1"))
        eventually(lambda: at_hub.hget("site1:uh", "f") == b"v")
        error = daemon.wait_for_log("subscribe.failed")["error"]
        for said in ("PSUBSCRIBE", "ACL SETUSER USER +psubscribe '&__keyspace@0__:site1:*'", "rename-command"):
            assert said in error
        at_site.delete("site1:up")
        eventually(lambda: not at_hub.exists("site1:up"))
        assert daemon.running


@pytest.mark.parametrize("how", ["denied", "missing"])
def test_without_transactions_and_ping_at_the_site(daemons, hub, at_hub, how):
    """Nothing of the hub's is applied, which is said with the remedy; what the site writes is pushed."""
    users, config = without(how, "multi", *(["ping"] if how == "denied" else []))
    with RedisServer(users=users, config=config) as site:
        at_site = site.client(username="other", password=SECRET)
        daemon = daemons.live(site, hub, *SWIFT)
        daemon.wait_for_log("sweep.finished")
        at_hub.set("site1:down", "v")
        eventually(lambda: any("multi" in line["error"].lower() for line in daemon.logged("apply.failed")))
        at_site.set("site1:up", "v")
        eventually(lambda: at_hub.get("site1:up") == b"v")
        assert daemon.running


@pytest.mark.parametrize("side", ["site", "hub"])
def test_an_expiry_that_changed_meanwhile_crosses_without_pexpiretime(daemons, certificates, side):
    """As with Redis before 7.0. What nobody has changed is not set anew."""
    _, config = without("missing", "pexpiretime")
    lacking = {"config": config}
    with (
        RedisServer(**lacking if side == "site" else {}) as site,
        Hub(certificates, redis=lacking if side == "hub" else {}) as hub,
    ):
        at_site, at_hub = site.client(), hub.redis
        daemon = daemons.live(site, hub, *SWIFT, *ALL_KINDS)
        for key in ("site1:by the site", "site1:by the hub", "site1:untouched"):
            at_site.set(key, "v", ex=1000)
        all_replicated(at_site, at_hub)
        daemon.wait_for_log("sweep.finished")
        daemon.kill()
        at_site.expire("site1:by the site", 5000)
        at_hub.persist("site1:by the hub")
        at_site.config_set("repl-backlog-size", "16kb")
        at_site.set("outside", bytes(100_000))
        mark = daemon.mark()
        daemon.start()
        daemon.wait_for_log("sweep.finished", after=mark)
        eventually(lambda: at_hub.ttl("site1:by the site") > 4000, description="the site's expiry is at the hub")
        eventually(lambda: at_site.ttl("site1:by the hub") == -1, description="the hub's is at the site")
        all_replicated(at_site, at_hub)
        assert not daemon.logged("conflict.resolved")
