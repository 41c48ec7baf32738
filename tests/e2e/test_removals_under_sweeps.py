"""Removals by everybody, while both sides are compared again and again: what is removed stays so."""

import random
import threading

from testbed import FaultProxy, RedisServer, eventually
from tests.e2e.support import ALL_KINDS, assert_equal_soon, crossed, settled

#: Each way, so that much is on its way whenever the sides are looked at.
DELAY = 0.1
SWEEPS = 4


class Client:
    """Writes and removes keys and fields that nobody else does, and remembers what it has left of each."""

    def __init__(self, name, server):
        self._name = name
        self._client = server.client()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.left = {}

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _write(self):
        rng = random.Random(self._name)
        while not self._stop.wait(0.002):
            value = b"%s %d" % (self._name, rng.randrange(1000))
            key = b"site1:%s:%d" % (self._name, rng.randrange(30))
            place = b"site1:hash:%d" % rng.randrange(30), b"%s %d" % (self._name, rng.randrange(4))
            match rng.randrange(4):
                case 0:
                    self._client.set(key, value)
                    self.left[key, None] = value
                case 1:
                    self._client.delete(key)
                    self.left[key, None] = None
                case 2:
                    self._client.hset(*place, value)
                    self.left[place] = value
                case 3:
                    self._client.hdel(*place)
                    self.left[place] = None


def sweeps(daemon, after):
    return [record for record in daemon.records[after:] if record["event"] == "sweep.finished"]


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
                eventually(lambda d=daemon, m=mark: len(sweeps(d, m)) >= SWEEPS, 60, "both sides were compared")
        found = [sweep for daemon, mark in zip(both, marks, strict=True) for sweep in sweeps(daemon, mark)]
        assert {sweep["reason"] for sweep in found} == {"timer"}
        for link in (wire, other):
            link.heal()
        for client in (at_site, at_second):
            crossed(client, at_hub)
            held = assert_equal_soon(client, at_hub)
        for client in (one, two, three):
            assert None in client.left.values()
            for (key, field), value in client.left.items():
                _, whole, _ = held.get(key, (None, None, None))
                assert (whole if field is None or whole is None else whole.get(field)) == value
