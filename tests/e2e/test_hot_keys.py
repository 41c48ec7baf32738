"""A key that one side writes all the time still gets what the other side writes."""

import itertools

import pytest

from testbed import eventually
from tests.e2e.support import BackgroundClient

KEY = b"site1:device"


class Measuring(BackgroundClient):
    """Writes a field of a hash again and again."""

    def __init__(self, server, key, pause=0.0):
        super().__init__(key, server, pause)
        self._numbers = itertools.count()

    def write(self, _rng):
        self.client.hset(self.name, b"measured", next(self._numbers))


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.01])
def test_a_hash_that_the_site_writes_all_the_time_gets_what_the_hub_writes(link, pause):
    with Measuring(link.site, KEY, pause):
        for number in range(10):
            link.at_hub.hset(KEY, b"setpoint", number)
            eventually(lambda: link.at_site.hget(KEY, b"setpoint") == b"%d" % number)  # noqa: B023 - called at once
    eventually(lambda: link.at_hub.hgetall(KEY) == link.at_site.hgetall(KEY))


def test_what_was_in_doubt_is_pushed_although_the_site_goes_on_writing(daemons, site, hub, at_site, at_hub):
    """What was written while the daemon was away is read again, and compared: that must have its turn."""
    daemon = daemons.live(site, hub)
    at_site.hset(KEY, b"measured", 0)
    eventually(lambda: at_hub.hget(KEY, b"measured") == b"0")
    daemon.stop()
    at_site.hset(KEY, b"meanwhile", 1)
    with Measuring(site, KEY, 0.001), Measuring(site, b"site1:another"):
        daemon.start()
        eventually(lambda: at_hub.hget(KEY, b"meanwhile") == b"1")
