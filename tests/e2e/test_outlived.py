"""Names that outlive an agreed expiry: a later expiry that the hub did not hear of in time, a key written anew."""

import pytest

from testbed import FaultProxy, eventually
from tests.e2e.pairs import Pair
from tests.e2e.support import all_replicated, assert_equal_soon, content

ALL = ("--replicate", "all")
#: Milliseconds until the keys expire: enough to write all of them, and have them replicated.
SHORT = 3_000

#: Adds the element of this number; of a string, these bytes.
PUT = {
    "string": lambda client, key, number: client.append(key, number),
    "hash": lambda client, key, number: client.hset(key, f"field{number}", number),
    "set": lambda client, key, number: client.sadd(key, number),
    "sorted set": lambda client, key, number: client.zadd(key, {f"member{number}": number}),
    "list": lambda client, key, number: client.rpush(key, number),
    "stream": lambda client, key, number: client.xadd(key, {"field": number}, id=f"{number}-1"),
}
KEEP = {
    "later expiry": lambda client, key, _: client.expire(key, 10_000),
    "no expiry": lambda client, key, _: client.persist(key),
    "written meanwhile": lambda client, key, kind: (PUT[kind](client, key, 2), client.expire(key, 10_000)),
    "written afterwards": lambda client, key, kind: (client.expire(key, 10_000), PUT[kind](client, key, 2)),
}


def names(*parts):
    return {f"site1:{kind}:{':'.join(more)}": (kind, *more) for kind in PUT for more in parts}


def fill(client, keys):
    """All of them expire soon."""
    for key, (kind, *_) in keys.items():
        PUT[kind](client, key, 1)
        client.pexpire(key, SHORT)


@pytest.mark.parametrize("source", ["psync", "notify"])
@pytest.mark.parametrize("outage", ["link", "stop", "kill"])
def test_what_was_kept_during_an_outage_is_on_both_sides(daemons, site, hub, at_site, at_hub, outage, source):
    keys = names(*((how, side) for how in KEEP for side in ("site", "hub")))
    clients = {"site": at_site, "hub": at_hub}
    with FaultProxy(hub.port) as wire:
        pair = Pair(daemons, site, hub, *ALL, source=source, hub_at=wire.port)
        fill(at_site, keys)
        assert assert_equal_soon(at_site, at_hub).keys() >= {key.encode() for key in keys}
        wire.down() if outage == "link" else pair.end(outage)
        for key, (kind, how, side) in keys.items():
            KEEP[how](clients[side], key, kind)
        held = {key: content(clients[side])[key.encode()] for key, (*_, side) in keys.items()}
        eventually(lambda: len(at_hub.keys("site1:*:hub")) == len(at_hub.keys("site1:*:*:*")), description="expired")
        wire.listen() if outage == "link" else pair.start_again()
        pair.level()
        both = assert_equal_soon(at_site, at_hub)
    assert {key: both.get(key.encode()) for key in keys} == held


@pytest.mark.parametrize(
    ("kinds", "first"), [("set,hset,del", "string"), ("all", "string"), ("all", "hash"), ("all", "set")]
)
def test_a_name_whose_key_expired_has_nothing_of_that_expiry(daemons, site, hub, at_site, at_hub, kinds, first):
    clients = {"site": at_site, "hub": at_hub}
    keys = [(a, b, f"site1:{a}:{b}:{n}") for a in clients for b in clients for n in range(3)]
    pair = Pair(daemons, site, hub, "--replicate", kinds)
    for _, _, key in keys:
        if first == "string":
            at_site.set(key, "v", px=SHORT)
        else:
            PUT[first](at_site, key, 1)
            at_site.pexpire(key, SHORT)
    assert len(assert_equal_soon(at_site, at_hub)) >= len(keys)
    again = "hash" if first == "string" else first
    left = list(keys)
    while left:  # at once, and later
        for filler, _, key in list(left):
            if not clients[filler].exists(key):
                PUT[again](clients[filler], key, 1)
                left.remove((filler, _, key))
    pair.level()
    assert assert_equal_soon(at_site, at_hub).keys() == {key.encode() for *_, key in keys}
    for _, remover, key in keys:
        clients[remover].delete(key)
    all_replicated(at_site, at_hub)
    eventually(lambda: not at_site.keys("site1:*:*:*") + at_hub.keys("site1:*:*:*"), description="all are removed")
    pair.end("stop")
    pair.start_again()
    pair.level()
    assert not at_site.keys("site1:*:*:*") + at_hub.keys("site1:*:*:*")
