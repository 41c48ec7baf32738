"""Keys that an ACL keeps from us: they are named, and hold nobody else up."""

import pytest

from testbed import Hub, RedisServer, eventually
from tests.e2e.support import SWIFT, all_replicated

SECRET = "s3cret"
DENIED = [b"site1:x%d" % number for number in range(3)]
ALLOWED = [b"site1:a%d" % number for number in range(400)]


def named(daemon, event):
    return {line["key"].encode() for line in daemon.logged(event)}


@pytest.mark.parametrize("rights", ["", "%R~site1:x*", "-eval", "-watch"])
def test_the_hubs_writes_where_the_site_denies_a_key(daemons, hub, at_hub, rights):
    with RedisServer(users=[f"repl on >{SECRET} ~site1:a* ~site1:~* &* +@all {rights}"]) as site:
        at_site = site.client()
        daemon = daemons.live(f"redis://repl:{SECRET}@localhost:{site.port}", hub, *SWIFT)
        daemon.wait_for_log("sweep.finished")
        with at_hub.pipeline(transaction=False) as pipeline:
            for number, key in enumerate(ALLOWED):
                pipeline.set(key, "v")
                if number == 100:
                    pipeline.mset(dict.fromkeys(DENIED, "v"))
            pipeline.execute()
        eventually(lambda: at_site.exists(*ALLOWED) == len(ALLOWED))
        eventually(lambda: named(daemon, "apply.refused") == set(DENIED))
        assert at_site.exists(*DENIED) == 0
        all_replicated(at_site, at_hub)


def test_the_hubs_writes_where_the_hub_denies_a_key(certificates, daemons, site, at_site):
    users = ["user default on nopass ~site1:a* ~site1:~* &* +@all", f"user other on >{SECRET} ~* &* +@all"]
    with Hub(certificates, redis={"users": users}) as hub:
        at_hub = hub.server.client(username="other", password=SECRET)
        daemon = daemons.live(site, hub, *SWIFT)
        daemon.wait_for_log("sweep.finished")
        at_hub.mset(dict.fromkeys((*ALLOWED, *DENIED), "v"))
        eventually(lambda: at_site.exists(*ALLOWED) == len(ALLOWED))
        eventually(lambda: named(daemon, "apply.refused") == set(DENIED))
        at_site.mset(dict.fromkeys((*ALLOWED, *DENIED), "w"))
        eventually(lambda: at_hub.mget(ALLOWED) == [b"w"] * len(ALLOWED))
        eventually(lambda: named(daemon, "push.refused") == set(DENIED))
        all_replicated(at_site, at_hub)


def test_the_sites_computed_writes_where_it_denies_reading_them(daemons, hub, at_hub):
    with RedisServer(users=[f"repl on >{SECRET} ~site1:a* ~site1:~* &* +@all"]) as site:
        at_site = site.client()
        daemon = daemons.live(f"redis://repl:{SECRET}@localhost:{site.port}", hub, *SWIFT)
        daemon.wait_for_log("sweep.finished")
        for key in (*ALLOWED[:10], DENIED[0]):
            at_site.incr(key)
        for key in (*ALLOWED[10:20], DENIED[1]):
            at_site.hincrby(key, "field", 5)
        at_site.set(DENIED[2], "the stream tells this value")
        eventually(lambda: named(daemon, "push.refused") == set(DENIED[:2]))
        all_replicated(at_site, at_hub)
        assert at_hub.exists(*ALLOWED[:20], *DENIED) == 21


def test_a_comparison_where_each_side_denies_a_key(certificates, daemons):
    users = ["user default on nopass ~site1:a* ~site1:x* ~site1:~* &* +@all", f"user other on >{SECRET} ~* &* +@all"]
    with (
        Hub(certificates, redis={"users": users}) as hub,
        RedisServer(users=[f"repl on >{SECRET} ~site1:a* ~site1:y* ~site1:~* &* +@all"]) as site,
    ):
        at_site, at_hub = site.client(), hub.server.client(username="other", password=SECRET)
        at_site.mset(dict.fromkeys((*ALLOWED[:200], b"site1:x", b"site1:y"), "v"))
        at_hub.mset(dict.fromkeys((*ALLOWED[200:], b"site1:x", b"site1:y"), "w"))
        daemon = daemons.live(f"redis://repl:{SECRET}@localhost:{site.port}", hub, *SWIFT)
        eventually(lambda: at_site.exists(*ALLOWED) == at_hub.exists(*ALLOWED) == len(ALLOWED))
        daemon.wait_for_log("sweep.finished")
        eventually(lambda: named(daemon, "apply.refused") == {b"site1:x", b"site1:y"})
        all_replicated(at_site, at_hub)


@pytest.mark.parametrize("change", ["-@all", "resetkeys", "resetpass"])
def test_a_hub_that_refuses_everybody_for_a_while_loses_nothing(daemons, certificates, site, at_site, change):
    """An ACL that is edited, and a password that Webdis does not have yet."""
    users = ["user default on nopass ~* &* +@all", f"user other on >{SECRET} ~* &* +@all"]
    with Hub(certificates, redis={"users": users}) as hub:
        at_hub = hub.server.client(username="other", password=SECRET)
        daemon = daemons.live(site, hub, *SWIFT)
        at_site.set("site1:before", "v")
        all_replicated(at_site, at_hub)
        at_hub.execute_command("ACL", "SETUSER", "default", change)
        if change == "resetpass":
            at_hub.client_kill_filter(skipme=True)
        mark = daemon.mark()
        names = [f"site1:{number}" for number in range(50)]
        at_site.mset(dict.fromkeys(names, "v"))
        at_site.hset("site1:hash", "f", "v")
        at_site.set("site1:large", "x" * 3_000_000)
        daemon.wait_for_log("push.failed", after=mark)
        eventually(lambda: refusals(at_hub) > 30, 20)
        at_hub.execute_command("ACL", "SETUSER", "default", "nopass", "~*", "&*", "+@all")
        eventually(lambda: at_hub.exists(*names, "site1:hash") == 51 and at_hub.strlen("site1:large") == 3_000_000, 20)
        assert daemon.logged("push.refused") == []
        assert daemon.stop() == 0


def refusals(client):
    stats = client.info("errorstats")
    return sum(
        stats.get(f"errorstat_{name}", {"count": 0})["count"] for name in ("NOPERM", "NOAUTH", "WRONGPASS", "ERR")
    )


@pytest.mark.parametrize("change", [["resetkeys"], ["resetkeys", "%R~*"], ["-@all", "+info", "+replconf", "+psync"]])
def test_a_site_that_refuses_everything_for_a_while_loses_nothing_of_the_hub(daemons, hub, at_hub, change):
    """An ACL that is edited: while it is, all that is pulled waits; a sweep is an hour away."""
    with RedisServer(users=[f"repl on >{SECRET} ~* &* +@all"]) as site:
        at_site = site.client()
        daemon = daemons.live(f"redis://repl:{SECRET}@localhost:{site.port}", hub, *SWIFT)
        daemon.wait_for_log("sweep.finished")
        all_replicated(at_site, at_hub)
        at_site.execute_command("ACL", "SETUSER", "repl", *change)
        mark = daemon.mark()
        names = [f"site1:{number}" for number in range(50)]
        at_hub.mset(dict.fromkeys(names, "v"))
        at_hub.hset("site1:hash", "f", "v")
        at_site.incr("site1:counter")  # to push this, the site must be read
        daemon.wait_for_log("apply.failed", after=mark)
        if change == ["resetkeys"]:
            daemon.wait_for_log("push.failed", after=mark)
        at_site.execute_command("ACL", "SETUSER", "repl", "~*", "+@all")
        eventually(lambda: at_hub.get("site1:counter") == b"1")
        eventually(lambda: at_site.exists(*names, "site1:hash") == 51)
        assert daemon.logged("apply.refused") == daemon.logged("push.refused") == []


@pytest.mark.parametrize("change", [["resetkeys"], ["resetkeys", "%R~*"], ["resetkeys", "%W~*"]])
def test_a_hub_whose_keys_are_denied_for_a_while_loses_nothing_of_either_side(daemons, certificates, site, change):
    users = ["user default on nopass ~* &* +@all", f"user other on >{SECRET} ~* &* +@all"]
    with Hub(certificates, redis={"users": users}) as hub:
        at_hub, at_site = hub.server.client(username="other", password=SECRET), site.client()
        daemon = daemons.live(site, hub, *SWIFT)
        daemon.wait_for_log("sweep.finished")
        all_replicated(at_site, at_hub)
        at_hub.execute_command("ACL", "SETUSER", "default", *change)
        mark = daemon.mark()
        at_hub.mset({f"site1:h{number}": "v" for number in range(50)})
        at_site.mset({f"site1:s{number}": "v" for number in range(50)})
        if change != ["resetkeys", "%R~*"]:
            daemon.wait_for_log("fetch.failed", after=mark)
        if change != ["resetkeys", "%W~*"]:
            daemon.wait_for_log("push.failed", after=mark)
        at_hub.execute_command("ACL", "SETUSER", "default", "~*")
        eventually(lambda: len(at_site.keys("site1:h*")) == len(at_hub.keys("site1:s*")) == 50)
        assert daemon.logged("apply.refused") == daemon.logged("push.refused") == []


def test_what_one_key_was_refused_for_is_tried_again(daemons, hub, at_hub):
    """Once another key passes that was refused for the same reason; nothing else leads to a comparison."""
    with RedisServer(users=[f"repl on >{SECRET} ~site1:a* ~site1:~* &* +@all"]) as site:
        at_site = site.client()
        daemon = daemons.live(f"redis://repl:{SECRET}@localhost:{site.port}", hub, *SWIFT)
        daemon.wait_for_log("sweep.finished")
        all_replicated(at_site, at_hub)
        at_hub.mset(dict.fromkeys(DENIED, "v"))
        eventually(lambda: named(daemon, "apply.refused") == set(DENIED))
        at_site.execute_command("ACL", "SETUSER", "repl", "~*")
        at_hub.set(DENIED[0], "w")
        eventually(lambda: at_site.mget(DENIED) == [b"w", b"v", b"v"])
