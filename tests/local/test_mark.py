"""The mark at a real site: it goes back with the site, and costs nothing where it is denied."""

from __future__ import annotations

import time

import pytest
from structlog.testing import capture_logs

from redisrepl.errors import LinkLostError, PeerUnavailableError
from redisrepl.local.address import parse_address
from redisrepl.local.client import Followed
from redisrepl.local.connection import open_client
from redisrepl.local.mark import Marked, SiteMark
from testbed import RedisServer, eventually
from tests.clock import Clock

KEY = b"redisrepl:mark:ns:us"


@pytest.fixture
async def mark_of():
    clients = []

    def mark(server, clock=time.monotonic, **login):
        address = parse_address(f"redis://127.0.0.1:{server.port}", **login)
        clients.append(open_client(address, 5.0, connections=1))
        followed = Followed()
        followed.history = server.client().info("replication")["master_replid"]
        return SiteMark(clients[-1], address, followed, b"ns:us", clock=clock)

    yield mark
    for client in clients:
        await client.aclose()


async def test_a_mark_is_as_old_as_what_the_site_restores(mark_of):
    with RedisServer() as site:
        mark, at_site = mark_of(site), site.client()
        assert await mark.read() == Marked()
        await mark.write(7, 7)
        at_site.save()
        at_site.set("k", "v")
        told = at_site.info("replication")
        await mark.write(9, 4)
        assert await mark.read() == (9, told["master_replid"], told["master_repl_offset"], 4)
        assert 0 < at_site.ttl(KEY) <= 30 * 86400
        site.kill()
        with pytest.raises((LinkLostError, PeerUnavailableError)):
            await mark.write(10, 10)
        site.start()
        assert (await mark.read()).agreed == 7


async def test_a_server_that_has_taken_the_data_of_another_is_not_marked(mark_of):
    """Connections to it do not end."""
    with RedisServer() as site, RedisServer() as stranger:
        mark, at_site = mark_of(site), site.client()
        await mark.write(7, 7)
        at_site.replicaof("127.0.0.1", stranger.port)
        eventually(lambda: at_site.info("replication").get("master_link_status") == "up")
        at_site.replicaof("NO", "ONE")
        await mark.write(8, 8)
        assert await mark.read() == Marked()
        mark._followed.history = ""
        await mark.write(9, 9)
        assert await mark.read() == Marked()


@pytest.mark.parametrize("held", [b"x", b"-1x", b"9" * 5000, b"", b"1 h", b"x h x", b"1 2 3 4 5"])
async def test_what_is_no_number_is_no_mark(mark_of, held):
    with RedisServer() as site:
        site.client().set(KEY, held)
        assert await mark_of(site).read() == Marked()
        site.client().delete(KEY)
        site.client().rpush(KEY, "9")
        assert await mark_of(site).read() == Marked()


async def test_a_site_that_is_full_is_marked_again_once_it_is_not(mark_of):
    with RedisServer() as site:
        mark, at_site = mark_of(site), site.client()
        at_site.config_set("maxmemory", 1)
        with pytest.raises(PeerUnavailableError, match="maxmemory"):
            await mark.write(7, 7)
        at_site.config_set("maxmemory", 0)
        await mark.write(8, 8)
        assert (await mark.read()).agreed == 8


@pytest.mark.parametrize(("commands", "keys"), [("+@all", "ns:*"), ("-eval", "*"), ("-info", "*"), ("-set", "*")])
async def test_a_denied_mark_is_said_once_and_none(mark_of, commands, keys):
    with RedisServer() as site:
        all_but = list(dict.fromkeys(["+@all", commands]))
        site.client().acl_setuser("narrow", enabled=True, nopass=True, commands=all_but, keys=[keys])
        mark = mark_of(site, username="narrow", password="any")
        with capture_logs() as logs:
            await mark.write(7, 7)
            await mark.write(8, 8)
        assert [(line["event"], line["log_level"]) for line in logs] == [("site.no_mark", "warning")]
        assert await mark.read() == Marked()


async def test_a_denied_mark_is_tried_again_after_a_while_and_written_once_it_is_allowed(mark_of):
    with RedisServer() as site:
        acl, clock = site.client().acl_setuser, Clock()
        acl("narrow", enabled=True, nopass=True, commands=["+@all", "-eval"], keys=["*"])
        mark = mark_of(site, clock, username="narrow", password="any")
        with capture_logs() as logs:
            await mark.write(7, 7)
            clock.now += 301
            await mark.write(8, 8)  # denied again
            acl("narrow", commands=["+eval"])
            clock.now += 299
            await mark.write(9, 9)
            assert await mark.read() == Marked()
            clock.now += 2
            await mark.write(10, 10)
            await mark.write(11, 11)
        assert (await mark.read()).agreed == 11
        assert [line["event"] for line in logs] == ["site.no_mark", "site.mark_allowed"]
