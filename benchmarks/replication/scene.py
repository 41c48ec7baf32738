"""A hub, sites and what replicates between them, at a distance if wanted.

In: who replicates, and how far away the hub is. Out: running servers, and the CPU seconds of each.
Left to others: writing and measuring.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from benchmarks.replication.usage import cpu_seconds
from benchmarks.replication.writers import NAMESPACE
from testbed import Certificates, FaultProxy, Hub, RedisServer, eventually
from testbed.directories import new_directory
from testbed.processes import end_group, spawn

__all__ = ["REPLICAOF", "Contender", "Replicator", "Scene", "count", "count_until", "find_profiler", "profiling"]

REPLICAOF = "REPLICAOF"
_PATIENCE = 30.0


@dataclass(frozen=True)
class Contender:
    """A program that takes the flags of redisRepl 1.2."""

    name: str
    command: tuple[str, ...]

    @classmethod
    def ours(cls) -> Contender:
        return cls("redisrepl", (sys.executable, "-m", "redisrepl"))


class Replicator:
    """One running contender."""

    def __init__(self, contender: Contender, arguments: list[str]) -> None:
        self.name = contender.name
        self.directory = new_directory("replicator")
        self.log = self.directory / "log"
        with self.log.open("wb") as log:
            self._process = spawn(
                [*contender.command, *arguments],
                cwd=self.directory,
                env={
                    "PATH": "/usr/local/bin:/usr/bin:/bin",
                    "STATE_DIRECTORY": str(self.directory),
                    "PYTHONPATH": str(Path(__file__).parents[2]),  # this checkout, whatever is installed
                },
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """Raise if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended ({self._process.returncode}); it said: {self.tail()}")

    def has_compared(self) -> bool:
        """Whether redisrepl said that the comparison of its start is done."""
        return b"sweep.finished" in self.log.read_bytes()

    def tail(self) -> str:
        return " / ".join(self.log.read_text(errors="replace").splitlines()[-5:])

    def close(self) -> None:
        end_group(self._process, gracefully_within=15.0)


class Scene(contextlib.ExitStack):
    """Servers of one measurement; all are new, so that no measurement depends on the one before.

    Args:
        certificates: of the hub and its clients.
        round_trip: seconds between sites and hub, by way of a proxy that takes its part of the processor; None: none.
    """

    def __init__(self, certificates: Certificates, *, round_trip: float | None = None) -> None:
        super().__init__()
        self.certificates = certificates
        self.round_trip = round_trip
        self.proxy: FaultProxy | None = None
        self._parts: dict[str, list[int]] = {}

    def start_hub(self) -> Hub:
        """Keyspace events are on, as any site with -rc needs them."""
        hub = self.hub = self.enter_context(
            Hub(self.certificates, redis={"config": {"notify-keyspace-events": "K$hg"}})
        )
        self.url = hub.url_at(self.distant(hub.port))
        self._parts |= {"hub redis": [hub.server.pid], "webdis": [hub.webdis.pid], "nginx": [hub.nginx.pid]}
        return hub

    def start_site(self, **options: object) -> RedisServer:
        site = self.enter_context(RedisServer(**options))
        self._parts.setdefault("site redis", []).append(site.pid)
        return site

    def start_replica(self, site: RedisServer, **options: object) -> RedisServer:
        """Redis' own replication, in place of hub and daemon."""
        port = self.distant(site.port)
        replica = self.enter_context(RedisServer(config={"replicaof": f"127.0.0.1 {port}"} | options))
        self._parts["replica"] = [replica.pid]
        client = replica.client()
        eventually(lambda: client.info("replication")["master_link_status"] == "up", description="a linked replica")
        return replica

    def start_replicator(
        self, contender: Contender, site: RedisServer, *, rc: bool, url: str | None = None
    ) -> Replicator:
        """Start it; it may not be ready yet. Without another address of the hub it goes by way of the proxy."""
        certificates = self.certificates
        flags = {
            "-haddr": url or self.url,
            "-raddr": f"localhost:{site.port}",
            "-nam": NAMESPACE,
            "-cert": certificates.client,
            "-key": certificates.client_key,
            "-CA": certificates.ca,
        }
        arguments = [str(word) for pair in flags.items() for word in pair]
        if self.round_trip is not None and contender.name == Contender.ours().name:
            arguments += ["--max-memory", "1GiB"]  # what has to be read again is no matter of distance
        replicator = Replicator(contender, arguments + ["-rc"] * rc)
        self.callback(replicator.close)
        self._parts.setdefault("daemon", []).append(replicator.pid)
        return replicator

    def start(self, contender: Contender, *, rc: bool, **options: object) -> tuple[RedisServer, Replicator]:
        """A hub, a site and the contender between them, ready."""
        self.start_hub()
        # Not needed by a replica; others see a site's writes by these events.
        events = {} if contender.name == Contender.ours().name else {"notify-keyspace-events": "K$hg"}
        site = self.start_site(config=events | options)
        replicator = self.start_replicator(contender, site, rc=rc)
        self.wait_until_ready(site, replicator, rc=rc)
        return site, replicator

    def wait_until_ready(self, site: RedisServer, replicator: Replicator, *, rc: bool) -> None:
        """Until a write at either side arrives at the other; before a program listens, it may miss what is written.

        Redisrepl compares both sides first, which takes round trips, and more work for each key that comes meanwhile.
        """
        ways = [(site.client(), self.hub.redis, b"there")] + [(self.hub.redis, site.client(), b"back")] * rc
        for source, target, name in ways:
            key = NAMESPACE.encode() + b"ready-%d-" % site.port + name
            deadline = time.monotonic() + _PATIENCE
            while not target.exists(key):
                replicator.check()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{replicator.name} lets no write cross; it said: {replicator.tail()}")
                source.set(key, str(time.monotonic()))
                _wait_for(target, key, 0.5 + (self.round_trip or 0.0))
        if rc and replicator.name.startswith(Contender.ours().name):
            eventually(replicator.has_compared, _PATIENCE, "a finished comparison")

    def distant(self, port: int) -> int:
        """The port that leads there by way of the proxy, if there is a distance."""
        if self.round_trip is None:
            return port
        self.proxy = self.enter_context(FaultProxy(port))
        self.proxy.delay(self.round_trip / 2)
        self._parts["proxy"] = [self.proxy._process.pid]
        return self.proxy.port

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far of each part."""
        return {part: sum(map(cpu_seconds, pids)) for part, pids in self._parts.items()}


def _wait_for(client: redis.Redis, key: bytes, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not client.exists(key) and time.monotonic() < deadline:
        time.sleep(0.005)


def count(client: redis.Redis) -> int:
    """How many keys of the namespace it holds, by a look at each: programs write keys of their own when they like."""
    return sum(1 for _ in client.scan_iter(match=f"{NAMESPACE}*", count=10_000))


def count_until(client: redis.Redis, keys: int, deadline: float) -> int:
    """How many keys of the namespace it holds, once they are so many, or at this time of `time.perf_counter`."""
    while (held := count(client)) < keys and time.perf_counter() < deadline:
        time.sleep(0.005)
    return held


def find_profiler() -> str | None:
    """Where py-spy is: beside this interpreter, or on PATH."""
    return shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


@contextlib.contextmanager
def profiling(pid: int, file: Path) -> Iterator[None]:
    """Have py-spy draw a flame graph of where the process spends its time."""
    command = [find_profiler() or "py-spy", "record", "--threads", "--pid", str(pid), "--output", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as profiler:
        try:
            yield
        finally:
            profiler.send_signal(signal.SIGINT)
