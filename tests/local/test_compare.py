"""What a comparison asks of a real site, with scripts and without."""

from __future__ import annotations

import contextlib

import pytest

from redisrepl.changes import HashState, StringState
from redisrepl.errors import ProtocolError, RefusedError
from redisrepl.local.address import parse_address
from redisrepl.local.compare import SiteComparer
from redisrepl.local.connection import open_client
from redisrepl.local.read import SiteReader
from redisrepl.wire.collections import COLLECTIONS
from redisrepl.wire.digests import UNREADABLE, WORK, Look, look_at
from testbed import RedisServer
from tests.comparing import (
    PREFIX,
    fill,
    fill_large,
    pages,
    sees_all,
    sees_large_in_pieces,
    sums,
    without_expiries,
)
from tests.samples import write

WAYS = {
    "scripts": {},
    "no right to run them": {"users": ["default on nopass ~* &* +@all -eval"]},
    "no such command": {"config": {"rename-command": 'EVAL ""'}},
}


@pytest.fixture(scope="module", params=WAYS)
def server(request):
    with RedisServer(**WAYS[request.param]) as server:
        server.way = request.param
        yield server


@contextlib.asynccontextmanager
async def comparing(server, *, expiries=True, types=()):
    address = parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr")
    client = open_client(address, 5.0, connections=1)
    try:
        yield SiteComparer(client, address, SiteReader(client, address, types=types), expiries=expiries, types=types)
    finally:
        await client.aclose()


async def test_whichever_way_it_is_asked(server):
    expected = fill(server.client())
    async with comparing(server) as comparer:
        if server.way == "scripts":
            await sees_all(comparer, expected)
        else:  # such a server tells what is left of an expiry, not when it ends
            found, _ = await pages(comparer)
            assert without_expiries(found) == without_expiries(expected)
            assert (await sums(comparer))[1] == len(expected)
            exact = {key: look for key, look in expected.items() if look.expires_at_ms is None}
            assert await comparer.looks(list(exact)) == list(exact.values())


async def test_expiries_are_told_where_they_are_compared(server):
    expected = fill(server.client())
    if server.way != "scripts":
        return
    async with comparing(server, expiries=False) as comparer:
        assert (await pages(comparer))[0] == without_expiries(expected)


async def test_large_hashes_and_values_are_looked_at_a_few_at_a_time(server):
    """The server does nothing else while a script runs, so one run is bounded by fields and bytes, not by keys."""
    redis = server.client()
    redis.flushall()
    held = {PREFIX + b"h%d" % number: HashState({b"%d" % field: b"v" for field in range(2000)}) for number in range(6)}
    held |= {PREFIX + b"s%d" % number: StringState(bytes(WORK // 2)) for number in range(6)}
    for key, state in held.items():
        write(redis, key, state)
    server.reset_commandstats()
    async with comparing(server) as comparer:
        assert await comparer.looks(list(held)) == [look_at(key, state) for key, state in held.items()]
        assert (await pages(comparer))[0].keys() == held.keys()
    if server.way == "scripts":
        assert server.commandstats()["eval"] >= 12


async def test_a_large_collection_is_looked_at_in_pieces(server):
    expected = fill_large(server.client())
    async with comparing(server, types=COLLECTIONS) as comparer:
        await sees_large_in_pieces(comparer, expected, server, scripts=server.way == "scripts")


async def test_a_key_that_is_denied_does_not_hide_the_others(server):
    redis = server.client()
    redis.flushall()
    redis.mset({PREFIX + b"ours": "v", PREFIX + b"theirs": "v"})
    redis.execute_command("ACL", "SETUSER", "default", "resetkeys", b"~" + b"*ours")
    try:
        async with comparing(server) as comparer:
            expected = [look_at(PREFIX + b"ours", StringState(b"v")), Look(UNREADABLE)]
            assert await comparer.looks([PREFIX + b"ours", PREFIX + b"theirs"]) == expected
            assert set((await pages(comparer))[0].values()) == set(expected)
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "allkeys")


@pytest.mark.parametrize("reply", [b"OK", 5, [b"0", 5], [[b"0"]], None])
async def test_a_reply_that_the_script_does_not_give(server, monkeypatch, reply):
    if server.way != "scripts":
        return
    async with comparing(server) as comparer:

        async def answer(*_):
            return reply

        monkeypatch.setattr(comparer._reader._client, "execute_command", answer)
        with pytest.raises(ProtocolError):
            await comparer.page(PREFIX, b"0", 10, None)


async def test_a_command_that_is_denied_in_a_script_is_named(server):
    if server.way != "scripts":
        return
    server.client().execute_command("ACL", "SETUSER", "default", "-scan")
    try:
        async with comparing(server) as comparer:
            with pytest.raises(RefusedError, match="'scan'"):
                await comparer.page(PREFIX, b"0", 10, None)
    finally:
        server.client().execute_command("ACL", "SETUSER", "default", "+scan")
