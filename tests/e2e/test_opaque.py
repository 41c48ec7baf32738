"""Types that have no portable form, with `--opaque restore`: a module's of our own, by what DUMP says of its keys.

Real servers, with the module that is compiled here (`testbed.module`); the compiler is one of the programs that every
run of the tests installs, so nothing is skipped.
"""

from __future__ import annotations

import pytest

from testbed import Hub, RedisServer, eventually
from testbed.module import NOTES, NotesModule
from tests.e2e.pairs import Pair, overrun
from tests.e2e.support import PREFIX

OPAQUE = ("--replicate", "all", "--opaque", "restore")


@pytest.fixture(scope="module")
def module():
    with NotesModule() as module:
        yield {"loadmodule": str(module.file)}


def key(name):
    return PREFIX + name.encode()


def note(client, name, text):
    client.execute_command("NOTE.SET", key(name), text)


def held(client):
    """All notes, with their expiry, and the types of other keys."""
    found = {}
    for name in client.keys(PREFIX + b"*"):
        if b"~marker" not in name:
            kind = client.type(name)
            text = client.execute_command("NOTE.GET", name) if kind == NOTES else kind
            found[name.removeprefix(PREFIX).decode()] = (text, client.pexpiretime(name))
    return found


def come_to_hold(pair, *clients, **expected):
    """Both sides hold these notes: a text, or one with an expiry."""
    wanted = {name: text if isinstance(text, tuple) else (text, -1) for name, text in expected.items()}
    pair.level()

    def equal():
        for client in clients:
            assert held(client) == wanted
        return True

    eventually(equal, 20, "both sides hold the notes")


@pytest.mark.parametrize("source", ["psync", "notify"])
def test_keys_of_a_modules_type_are_replicated_as_whole_values(daemons, certificates, module, source):
    """At first contact, live from both sides, over an outage in which both write; the loser of a conflict is kept."""
    with RedisServer(config=module) as site, Hub(certificates, redis={"config": module}) as hub:
        at_site, at_hub = site.client(), hub.redis
        note(at_site, "site", b"\x00\xff")
        note(at_hub, "hub", b"%/?+\r\n")
        note(at_site, "both", b"of the site")
        note(at_hub, "both", b"of the hub")
        pair = Pair(daemons, site, hub, *OPAQUE, source=source)
        came = {"site": b"\x00\xff", "hub": b"%/?+\r\n", "both": b"of the hub"}
        come_to_hold(pair, at_site, at_hub, **came)

        note(at_site, "live", b"1")
        at_site.pexpireat(key("live"), 4_000_000_000_123)
        note(at_hub, "hub", b"newer")
        at_site.rename(key("site"), key("renamed"))
        note(at_site, "cut", b"")
        pair.level()
        at_site.execute_command("NOTE.CUT", key("cut"))
        note(at_site, "live", b"2" * 5000)
        now = {"renamed": b"\x00\xff", "hub": b"newer", "both": b"of the hub", "live": (b"2" * 5000, -1)}
        at_site.persist(key("live"))
        come_to_hold(pair, at_site, at_hub, **now)
        at_hub.pexpireat(key("live"), 4_000_000_000_123)
        now["live"] = (b"2" * 5000, 4_000_000_000_123)
        come_to_hold(pair, at_site, at_hub, **now)

        pair.end("kill")
        with overrun(at_site):
            note(at_site, "both", b"site again")
            note(at_hub, "both", b"hub again")
            note(at_site, "hub", b"changed here alone")
            at_hub.delete(key("renamed"))
            at_hub.delete(key("live"))
            at_hub.sadd(key("live"), "a set now")
        pair.start_again()
        left = {"both": b"hub again", "hub": b"changed here alone", "live": b"set"}
        come_to_hold(pair, at_site, at_hub, **left)

        lost = [(entry["key"], entry["winner"]) for entry in pair.daemon.logged("conflict.resolved")]
        assert lost == [("site1:both", "hub")] * 2
        assert not pair.daemon.logged("push.refused")
        assert not pair.daemon.logged("stream.not_replicated")
        pair.daemon.stop()


def test_what_the_other_side_does_not_take_is_named_and_stays(daemons, certificates, module):
    """The hub has no such type: the key is named once, with the reason; others are replicated."""
    with RedisServer(config=module) as site, Hub(certificates) as hub:
        at_site, at_hub = site.client(), hub.redis
        pair = Pair(daemons, site, hub, *OPAQUE)
        pair.level()
        note(at_site, "note", b"1")
        note(at_site, "note", b"2")
        at_site.set(key("string"), "v")
        pair.daemon.wait_for_log("push.refused", key="site1:note")
        pair.level()

        assert at_hub.get(key("string")) == b"v"
        assert at_site.execute_command("NOTE.GET", key("note")) == b"2"
        assert not at_hub.exists(key("note"))
        (refused,) = pair.daemon.logged("push.refused")
        assert refused["error"] == "ERR Bad data format"


def test_by_default_they_are_named_and_counted(daemons, certificates, module):
    with RedisServer(config=module) as site, Hub(certificates, redis={"config": module}) as hub:
        at_site = site.client()
        note(at_site, "in the snapshot", b"1")
        pair = Pair(daemons, site, hub, "--replicate", "all")
        note(at_site, "note", b"1")
        note(at_site, "note", b"2")
        at_site.rename(key("note"), key("other"))
        pair.level()

        told = {"snapshot:module2": 1, "NOTE.SET": 2, "type:testnotes": 1}
        eventually(lambda: pair.daemon.state()["not_replicated"] == told)
        pair.daemon.wait_for_log("stream.not_replicated", command="type:testnotes")
        assert not hub.redis.keys(PREFIX + b"*note*")
