"""Removals by everybody, while both sides are compared again and again: what is removed stays so."""

from testbed import FaultProxy, RedisServer, eventually
from tests.e2e.support import ALL_KINDS, BackgroundClient, all_replicated, assert_equal_soon, settled

#: Each way, so that much is on its way whenever the sides are looked at.
DELAY = 0.1
SWEEPS = 4


class Client(BackgroundClient):
    """Writes and removes keys and fields that nobody else does, and remembers what it has left of each."""

    def __init__(self, name, server):
        super().__init__(name, server, pause=0.01)
        self.left = {}

    def write(self, rng):
        value = b"%s %d" % (self.name, rng.randrange(1000))
        key = b"site1:%s:%d" % (self.name, rng.randrange(30))
        place = b"site1:hash:%d" % rng.randrange(30), b"%s %d" % (self.name, rng.randrange(4))
        match rng.randrange(4):
            case 0:
                self.client.set(key, value)
                self.left[key, None] = value
            case 1:
                self.client.delete(key)
                self.left[key, None] = None
            case 2:
                self.client.hset(*place, value)
                self.left[place] = value
            case 3:
                self.client.hdel(*place)
                self.left[place] = None


def test_what_is_removed_stays_removed_whenever_both_sides_are_compared(daemons, site, hub, at_site, at_hub):
    with RedisServer() as second, FaultProxy(hub.port) as wire, FaultProxy(hub.port) as other:
        at_second = second.client()
        flags = (*ALL_KINDS, "--retry-max", "0.2", "--sweep-period", "0.2")
        both = [daemons.live(place, link.port, *flags) for place, link in ((site, wire), (second, other))]
        for daemon in both:
            settled(daemon)
        for link in (wire, other):
            link.delay(DELAY)
        with Client(b"site", site) as one, Client(b"second", second) as two, Client(b"hub", hub.server) as three:
            marks = [daemon.mark() for daemon in both]
            for daemon, mark in zip(both, marks, strict=True):
                eventually(
                    lambda d=daemon, m=mark: len(d.logged("sweep.finished", after=m)) >= SWEEPS,
                    60,
                    "both sides were compared",
                )
        for daemon, mark in zip(both, marks, strict=True):
            assert {sweep["reason"] for sweep in daemon.logged("sweep.finished", after=mark)} == {"timer"}
        for link in (wire, other):
            link.heal()
        for client in (at_site, at_second):
            all_replicated(client, at_hub)
            held = assert_equal_soon(client, at_hub)
        for client in (one, two, three):
            assert None in client.left.values()
            for (key, field), value in client.left.items():
                _, whole, _ = held.get(key, (None, None, None))
                assert (whole if field is None or whole is None else whole.get(field)) == value
