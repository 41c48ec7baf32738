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
