"""A key that one side writes all the time still gets what the other side writes."""

import threading
import time

import pytest

from testbed import eventually


class Busy:
    """A client that writes a field of a hash again and again."""

    def __init__(self, client, key, pause=0.0):
        self._client, self._key, self._pause = client, key, pause
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.written = 0

    def _write(self):
        while not self._over.is_set():
            self.written += 1
            self._client.hset(self._key, b"measured", self.written)
            if self._pause:
                time.sleep(self._pause)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.01])
def test_a_hash_that_the_site_writes_all_the_time_gets_what_the_hub_writes(link, pause):
    key = b"site1:device"
    with Busy(link.at_site, key, pause):
        for number in range(10):
            link.at_hub.hset(key, b"setpoint", number)
            eventually(lambda: link.at_site.hget(key, b"setpoint") == b"%d" % number)  # noqa: B023 - called at once
    eventually(lambda: link.at_hub.hgetall(key) == link.at_site.hgetall(key))


def test_what_was_in_doubt_is_pushed_although_the_site_goes_on_writing(daemons, site, hub, at_site, at_hub):
    """What was written while the daemon was away is read again, and compared: that must have its turn."""
    daemon = daemons.live(site, hub)
    key = b"site1:device"
    at_site.hset(key, b"measured", 0)
    eventually(lambda: at_hub.hget(key, b"measured") == b"0")
    daemon.stop()
    at_site.hset(key, b"meanwhile", 1)
    with Busy(at_site, key, 0.001), Busy(site.client(), b"site1:another"):
        daemon.start()
        eventually(lambda: at_hub.hget(key, b"meanwhile") == b"1")
