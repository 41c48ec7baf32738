"""A hub, two sites and their daemons behind faulty links, with clients that write everywhere.

In: a seed. Out: faults by name, and the differences that remain after them. Left to others: which faults, and how long.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import redis

from testbed import Daemon, FaultProxy, Hub, RedisServer, eventually

__all__ = ["Scene"]

NAMESPACE = b"lab:"
HOT = 5
COLD = 3000
#: A copy may differ this long after the writers have stopped and the faults have ended, in seconds.
PATIENCE = 90.0


class Writer(threading.Thread):
    """A client that writes strings and hashes, to few hot keys and many cold ones, until told to stop."""

    def __init__(self, name: str, server: RedisServer, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self._server = server
        self._rng = random.Random(seed)
        self._ended = threading.Event()
        self.accepted = 0
        self.refused = 0
        self.last: dict[bytes, bytes] = {}

    def run(self) -> None:
        client = self._server.client()
        while not self._ended.wait(0.002):
            try:
                self._write(client)
            except redis.exceptions.RedisError:
                self.refused += 1

    def _write(self, client: redis.Redis) -> None:
        rng = self._rng
        for _ in range(rng.randint(1, 10)):
            number = rng.randrange(HOT) if rng.random() < 0.5 else HOT + rng.randrange(COLD)
            value = b"%b %d " % (self.name.encode(), self.accepted) + rng.randbytes(rng.randrange(20))
            if rng.random() < 0.5:
                client.set(NAMESPACE + b"s%d" % number, value)
            else:
                client.hset(NAMESPACE + b"h%d" % number, b"f%d" % rng.randrange(8), value)
            self.accepted += 1
        # A key that only this client writes: its last value must be everywhere in the end.
        key = NAMESPACE + b"own:%b:%d" % (self.name.encode(), rng.randrange(50))
        value = b"%d" % self.accepted
        self.last.pop(key, None)  # a write whose answer is lost may have happened or not
        client.set(key, value)
        self.last[key] = value
        client.set(b"elsewhere:%b" % self.name.encode(), value)

    def stop(self) -> None:
        self._ended.set()
        self.join()


class Scene:
    """All of it; a context manager."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.rng = random.Random(seed)
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self.faults: dict[str, Callable[[], None]] = {
            "cut the link": self.cut,
            "stall the link": self.stall,
            "truncate an answer": self.truncate,
            "trickle": self.trickle,
            "kill a daemon": self.kill_daemon,
            "restart the hub's Redis behind a living Webdis": self.restart_hub_redis,
            "restart Webdis": self.restart_webdis,
            "restart nginx": self.restart_nginx,
            "reload nginx": self.reload_nginx,
            "kill the subscription": self.kill_subscription,
            "kill the replica link": self.kill_replica_link,
            "overrun the replica's buffer": self.overrun_replica,
            "restart a site's Redis": self.restart_site,
            "pause a daemon": self.pause_daemon,
        }

    def __enter__(self) -> Self:
        enter = self._stack.enter_context
        self.hub = enter(Hub(redis={"persistent": True}))
        self.sites = [enter(RedisServer(persistent=True)) for _ in range(2)]
        self.proxies = [enter(FaultProxy(self.hub.port)) for _ in self.sites]
        pair = self.hub.certificates
        self.daemons = []
        for number, (site, proxy) in enumerate(zip(self.sites, self.proxies, strict=True)):
            state = self._directory / f"site{number}"
            flags = [
                "--cert",
                pair.client,
                "--key",
                pair.client_key,
                "--ca",
                pair.ca,
                "-rc",
                "--ns",
                NAMESPACE.decode(),
            ]
            flags += ["--haddr", self.hub.url_at(proxy.port), "--raddr", f":{site.port}", "--state-dir", state]
            flags += ["--canary-period", "0.5", "--timeout", "3", "--retry-max", "1", "--log-format", "json"]
            self.daemons.append(enter(Daemon(flags)))
        for daemon in self.daemons:
            daemon.wait_for_log("stream.attached")
            daemon.wait_for_log("subscribe.started")
        self.writers = [
            Writer(name, server, self.rng.random())
            for name, server in [("hub", self.hub.server), *((f"site{n}", s) for n, s in enumerate(self.sites))]
        ]
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.stop()
        self._stack.close()

    # Faults. Each ends what it began.

    def some(self, things: list) -> object:
        return self.rng.choice(things)

    def written(self, count: int) -> None:
        """Return when the clients have written this much more: time in this scene is counted in writes."""
        goal = sum(w.accepted + w.refused for w in self.writers) + count
        eventually(lambda: sum(w.accepted + w.refused for w in self.writers) >= goal, timeout=60)

    def cut(self) -> None:
        proxy = self.some(self.proxies)
        for _ in range(3):
            proxy.cut()
            self.written(200)

    def stall(self) -> None:
        proxy = self.some(self.proxies)
        proxy.stall(self.rng.choice(["both", "to_target", "to_client"]))
        self.written(3000)
        proxy.heal()

    def truncate(self) -> None:
        proxy = self.some(self.proxies)
        proxy.truncate(self.rng.randrange(1, 20_000), self.rng.choice(["to_target", "to_client"]))
        self.written(1000)
        proxy.heal()

    def trickle(self) -> None:
        proxy = self.some(self.proxies)
        proxy.trickle(2000, 0.01, "both")
        self.written(1000)
        proxy.heal()

    def kill_daemon(self) -> None:
        daemon = self.some(self.daemons)
        daemon.kill()
        self.written(500)
        daemon.start()

    def pause_daemon(self) -> None:
        daemon = self.some(self.daemons)
        daemon.signal(signal.SIGSTOP)
        self.written(2000)
        daemon.signal(signal.SIGCONT)

    def restart_hub_redis(self) -> None:
        self.hub.server.restart()

    def restart_webdis(self) -> None:
        self.hub.webdis.restart()

    def restart_nginx(self) -> None:
        self.hub.nginx.restart()

    def reload_nginx(self) -> None:
        self.hub.nginx.reload()

    def kill_subscription(self) -> None:
        self.hub.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def kill_replica_link(self) -> None:
        self.some(self.sites).client().execute_command("CLIENT", "KILL", "TYPE", "replica")

    def overrun_replica(self) -> None:
        """The master drops us, and its backlog does not reach back: a full synchronisation."""
        site = self.some(self.sites)
        client = site.client()
        client.config_set("repl-backlog-size", "16kb")
        daemon = self.daemons[self.sites.index(site)]
        daemon.kill()
        self.written(2000)
        daemon.start()

    def restart_site(self) -> None:
        self.some(self.sites).restart()

    # What must hold in the end.

    def settle(self) -> None:
        """Stop the clients, and wait until all copies are equal."""
        for writer in self.writers:
            writer.stop()

        def equal() -> bool:
            differences = self.differences()
            assert not differences, f"{len(differences)} differences, such as {differences[:3]}"
            return True

        eventually(equal, timeout=PATIENCE)

    def content(self, server: RedisServer) -> dict[bytes, object]:
        client = server.client()
        keys = sorted(client.scan_iter(NAMESPACE + b"*", count=10_000))
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key) if key.startswith(NAMESPACE + b"h") else pipeline.get(key)
        return dict(zip(keys, pipeline.execute(), strict=True))

    def differences(self) -> list[object]:
        hub, *sites = [self.content(server) for server in (self.hub.server, *self.sites)]
        return [
            (number, key, hub.get(key), site.get(key))
            for number, site in enumerate(sites)
            for key in sorted(hub.keys() | site.keys())
            if hub.get(key) != site.get(key)
        ]

    def lost(self) -> list[object]:
        """Last values of keys that only one client wrote, and that are not what all hold now.

        A site whose history was cut (a full synchronisation after the first) is left out: there the hub's value
        stands, by rule, and the log says which keys that concerned.
        """
        hub = self.content(self.hub.server)
        cut = [len(daemon.logged("stream.full_sync")) > 1 for daemon in self.daemons]
        return [
            (key, value, hub.get(key))
            for writer, skipped in zip(self.writers, [False, *cut], strict=True)
            if not skipped
            for key, value in writer.last.items()
            if hub.get(key) != value
        ]

    def strays(self) -> list[bytes]:
        """Keys outside the namespace that are where nobody wrote them."""
        return [
            key
            for writer, server in zip(self.writers, (self.hub.server, *self.sites), strict=True)
            for key in server.client().keys("elsewhere:*")
            if key != b"elsewhere:%b" % writer.name.encode()
        ]
