"""A server whose cursors never come to an end: each scan of it ends with an error that names the server."""

import asyncio
import contextlib
import itertools

import pytest

from redisrepl.changes import LargeState, StringState
from redisrepl.engine.ancestor import note_state
from redisrepl.errors import ProtocolError
from redisrepl.flow.comparison import Comparison
from redisrepl.local.address import parse_address
from redisrepl.local.compare import SiteComparer
from redisrepl.local.connection import open_client
from redisrepl.local.read import SiteReader
from redisrepl.remote.compare import HubComparer
from redisrepl.remote.direct import DirectHub, direct_address
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.session import HubSession
from redisrepl.store import Facts
from redisrepl.wire import scan
from tests.hostile.peers import HostileHub, HostileRedis, head

#: More than any circle of these tests takes.
MOST = 50
CURSORS = {
    "one": (lambda: itertools.repeat(7), "goes round in a circle"),
    "a circle": (lambda: itertools.cycle([3, 5, 9]), "goes round in a circle"),
    "ever new ones": (lambda: itertools.count(1), "has no end"),
}


def listed(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


#: What a step says of which nothing came but a cursor; and of a hash, before that, that it is large.
REPLIES = {
    "pages": lambda cursors: (listed(b"%d" % cursor) for cursor in cursors),
    "sums": lambda cursors: (listed(b"%d" % cursor, b"0", b"0", b"") for cursor in cursors),
    "a large hash": lambda cursors: itertools.chain(
        [listed(b"#hash")], (listed(b"hash", b"%d" % cursor, b"0", b"0") for cursor in cursors)
    ),
}


@contextlib.asynccontextmanager
async def webdis(certificates, replies):
    def answer(_):
        body = next(replies)
        yield head(200, len(body)) + body

    with HostileHub(certificates, answer) as peer:
        hub = HubSession(f"https://localhost:{peer.port}/", certificates.ssl_context())
        try:
            yield peer, HubComparer(hub, HubReader(hub), expiries=False), f"the hub https://localhost:{peer.port}"
        finally:
            await hub.close()


def redis(replies):
    return lambda words: [next(replies)] if words[0].startswith(b"EVAL") else [b"+PONG\r\n"]


@contextlib.asynccontextmanager
async def direct(certificates, replies):
    with HostileRedis(redis(replies), certificates) as peer:
        address = direct_address(f"rediss://localhost:{peer.port}", 0, None, None)
        hub = DirectHub(address, certificates.ssl_context())
        try:
            yield peer, HubComparer(hub, HubReader(hub), expiries=False), f"the hub rediss://localhost:{peer.port}"
        finally:
            await hub.close()


@contextlib.asynccontextmanager
async def site(_certificates, replies):
    with HostileRedis(redis(replies)) as peer, reading(peer) as (client, address, reader):
        yield peer, SiteComparer(client, address, reader, expiries=False), f"the site's Redis {address}"
        await client.aclose()


@contextlib.contextmanager
def reading(peer):
    address = parse_address(f"redis://127.0.0.1:{peer.port}", flag="--raddr")
    client = open_client(address, 5.0, connections=1)
    yield client, address, SiteReader(client, address)


@pytest.mark.parametrize("what", REPLIES)
@pytest.mark.parametrize("cursors", CURSORS)
@pytest.mark.parametrize("side", [webdis, direct, site])
async def test_a_scan_that_never_ends(certificates, store, monkeypatch, side, cursors, what):
    monkeypatch.setattr(scan, "_MOST", 20)
    values, said = CURSORS[cursors]
    if what == "sums":  # only where something is agreed
        facts = Facts()
        note_state(facts, b"ns:key", StringState(b"v"))
        store.agreed(facts)
    async with side(certificates, REPLIES[what](values())) as (peer, comparer, named):
        differing = Comparison(store, expiries=False, rate=1e9).differing(comparer, b"ns:")
        asking = comparer.looks([b"ns:hash"]) if what == "a large hash" else anext(differing)
        with pytest.raises(ProtocolError, match=said) as error:
            await asyncio.wait_for(asking, 20)
        assert named in str(error.value)
        assert peer.asked < MOST


async def test_a_large_hash_that_is_read_in_pages_without_an_end():
    with HostileRedis(lambda _: [b"*2\r\n$1\r\n7\r\n*0\r\n"]) as peer, reading(peer) as (client, _, reader):
        with pytest.raises(ProtocolError, match=r"HSCAN at the site's Redis .* goes round in a circle"):
            await asyncio.wait_for(reader._in_pages(b"ns:hash", LargeState("hash", 5000)), 20)
        await client.aclose()
        assert peer.asked < MOST
