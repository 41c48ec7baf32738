"""How much is done for one write: tasks woken, timers, requests, records, files. Counted: no time is to be trusted.

A daemon runs in this process, so that its event loop can be looked at; a thread writes, and waits for each write until
nothing of it is under way any more. Of several rounds the quietest counts: other work, such as a tick, only adds.
"""

import asyncio
import sys

import pytest

from redisrepl.daemon import Daemon
from redisrepl.local.address import parse_address
from redisrepl.remote.transport import HubTransport
from redisrepl.settings.settings import load_settings
from redisrepl.store.journal import Journal
from testbed import Hub, RedisServer, eventually

ROUNDS, WRITES = 8, 25
#: The site's stream wakes who reads it, that one who pushes, the hub's answer him again, its event who listens.
PUSH = {"woken": 4.5, "timers": 0.5, "requests": 1.3, "records": 1.5, "files": 0}
#: The hub's event wakes who listens, that one who fetches; the hub's answer him, two of the site too; then its stream.
PULL = {"woken": 6.5, "timers": 0.5, "requests": 1.3, "records": 1.5, "files": 0}


class Counts:
    """What has been done since the counting began, by name."""

    def __init__(self):
        self.done = dict.fromkeys(PUSH, 0)
        self.directory = None
        sys.addaudithook(self._heard)  # for ever: nobody can take it away

    def counting(self, name, function):
        """The same function, counted."""

        def counted(*args, **options):
            self.done[name] += 1
            return function(*args, **options)

        return counted

    def _heard(self, event, arguments):
        if event == "open" and self.directory is not None and str(self.directory) in str(arguments[0]):
            self.done["files"] += 1

    def of_rounds(self, write):
        """For one write, in the quietest of some rounds."""
        rounds = []
        for _ in range(ROUNDS):
            before = dict(self.done)
            for _ in range(WRITES):
                write()
            rounds.append({name: (count - before[name]) / WRITES for name, count in self.done.items()})
        return {name: min(done[name] for done in rounds) for name in self.done}


class Scene:
    """A daemon in this process, between a site and a hub."""

    def __init__(self, certificates, hub, site, directory):
        flags = {"cert": certificates.client, "key": certificates.client_key, "ca": certificates.ca}
        flags |= {"ns": ["site1:"], "rc": True, "haddr": hub.url, "state_dir": directory, "canary_period": 300.0}
        self.daemon = Daemon(load_settings(flags), parse_address(f"127.0.0.1:{site.port}"))
        self.at_site, self.at_hub = site.client(), hub.redis
        self._written = 0

    def _is_quiet(self):
        outbound, inbound = self.daemon._parts.outbound, self.daemon._parts.pull.inbound
        return not (outbound.waiting or outbound.unheard or inbound.in_progress)

    def write(self, source, target, *words):
        """Run a command over a new key, and wait until it is done with."""
        self._written += 1
        key = f"site1:{self._written}"
        source.execute_command(words[0], key, *words[1:])
        eventually(lambda: target.exists(key) and self._is_quiet(), timeout=20, description=f"{key} there")

    def everything(self, counts, directory):
        """What one write takes, by way."""
        ways = {
            "push": lambda: self.write(self.at_site, self.at_hub, "SET", "value"),
            "push of a field": lambda: self.write(self.at_site, self.at_hub, "HSET", "field", "value"),
            "pull": lambda: self.write(self.at_hub, self.at_site, "SET", "value"),
        }
        eventually(lambda: self.daemon._state.ready, timeout=30, description="a daemon that is ready")
        for write in ways.values():
            write()  # which opens what is opened once
        counts.directory = directory
        return {way: counts.of_rounds(write) for way, write in ways.items()}

    async def run(self, counts, directory):
        running = asyncio.ensure_future(self.daemon.run())
        try:
            return await asyncio.to_thread(self.everything, counts, directory)
        finally:
            counts.directory = None
            self.daemon._stop.set()
            await running


@pytest.fixture(scope="module")
def measured(certificates, tmp_path_factory):
    """What was counted, by way."""
    counts, loop, directory = Counts(), asyncio.SelectorEventLoop(), tmp_path_factory.mktemp("state")
    loop.call_soon = counts.counting("woken", loop.call_soon)  # what a task is put on to when it is woken
    loop.call_at = counts.counting("timers", loop.call_at)
    with pytest.MonkeyPatch.context() as patch, Hub(certificates) as hub, RedisServer() as site:
        request = HubTransport.handle_async_request
        patch.setattr(HubTransport, "handle_async_request", counts.counting("requests", request))
        patch.setattr(Journal, "append", counts.counting("records", Journal.append))
        with asyncio.Runner(debug=False, loop_factory=lambda: loop) as runner:
            return runner.run(Scene(certificates, hub, site, directory).run(counts, directory))


@pytest.mark.parametrize(("way", "most"), [("push", PUSH), ("push of a field", PUSH), ("pull", PULL)])
def test_a_lone_write_takes_so_much_and_no_more(measured, way, most):
    assert {name: count for name, count in measured[way].items() if count > most[name]} == {}
