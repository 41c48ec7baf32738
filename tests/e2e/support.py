"""Arguments of a daemon, what its two sides hold, and which writes they executed."""

from __future__ import annotations

import codecs
import itertools
import os
import random
import re
import socket
import threading
from collections import Counter

from testbed import eventually

PREFIX = b"site1:"
ALPHABET = bytes(range(256))

#: Short pauses, so that a test of an outage does not wait for the backoff.
SWIFT = ("--retry-max", "0.2", "--connect-timeout", "2", "--timeout", "2", "--canary-period", "0.3")

#: Everything crosses, removals and expiry times too.
ALL_KINDS = ("--replicate", "set,hset,del,expire")

#: What a daemon logs once it follows its site by this source.
FOLLOWED = {"psync": "stream.attached", "notify": "notice.started"}

_numbers = itertools.count(1)


def certificate_flags(certificates):
    return ["--ca", certificates.ca, "--cert", certificates.client, "--key", certificates.client_key]


def place_flags(site, hub):
    """Where the servers are: each a server of the test bed, a port of a proxy before it, or an address."""
    if isinstance(site, int):
        raddr = f"127.0.0.1:{site}"
    else:
        raddr = site if isinstance(site, str) else f"127.0.0.1:{site.port}"
    haddr = f"https://localhost:{hub}/redis" if isinstance(hub, int) else getattr(hub, "url", hub)
    return ["--raddr", raddr, "--haddr", haddr]


def wait_until_live(daemon, *, pull, namespaces=1, after=0):
    """Both directions are open: what is written from now on crosses as it is written."""
    daemon.wait_for_log("stream.attached", after=after)
    if pull:
        daemon.wait_for_log("subscribe.started", after=after)

        def subscribed():
            return {record["namespace"] for record in daemon.logged("subscribe.started", after=after)}

        eventually(lambda: len(subscribed()) == namespaces or not daemon.running, description="all are subscribed")


def forget_proxies(patch):
    """The hub is on loopback; a proxy that the machine's user has set up must not come in between."""
    for name in list(os.environ):
        if name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}:
            patch.delenv(name)


#: What a daemon keeps at the hub for itself.
FENCE = b"redisrepl:fence:"
#: And at the site.
MARK = b"redisrepl:mark:"


def content(client, prefix=PREFIX, *, without=b"~marker"):
    """All keys under a prefix: type, value, absolute expiry."""
    found = {}
    for key in client.keys(b"*"):
        if key.startswith(prefix) and without not in key and not key.startswith(FENCE):
            found[key] = state(client, key)
    return found


def state(client, key):
    """Type, value and expiry, at one moment: the type may be about to change."""
    pipeline = client.pipeline(transaction=True)
    pipeline.type(key)
    pipeline.get(key)
    pipeline.hgetall(key)
    pipeline.pexpiretime(key)
    kind, string, fields, expiry = pipeline.execute(raise_on_error=False)
    match kind:
        case b"string":
            return "string", string, expiry
        case b"hash":
            return "hash", fields, expiry
        case other:
            return other.decode(), None, None


def assert_equal_soon(site, hub, prefix=PREFIX, timeout=20.0):
    """Both clients come to see the same keys under the prefix; returns them."""

    def equal():
        here, there = content(site, prefix), content(hub, prefix)
        differing = {k for k in here.keys() | there.keys() if here.get(k) != there.get(k)}
        examples = {k[:60]: (_short(here.get(k)), _short(there.get(k))) for k in sorted(differing)[:3]}
        assert not differing, f"{len(differing)} keys differ, for example (site, hub): {examples}"
        return [here]

    return eventually(equal, timeout, "site and hub hold the same")[0]


def _short(value):
    text = repr(value)
    return text if len(text) < 200 else text[:200] + "..."


def pushed(site, timeout=15.0):
    """Everything written at the site so far is at the hub: the daemon acknowledges no earlier."""

    def acknowledged():
        replicas = max(1, site.info("replication")["connected_slaves"])  # after a failover the old master is one too
        with site.pipeline(transaction=False) as pipeline:
            pipeline.ping()  # WAIT is about what its own connection has seen
            pipeline.wait(replicas, 20)  # each asks for an acknowledgement, which otherwise comes once a second
            return pipeline.execute()[1] == replicas

    eventually(acknowledged, timeout, "the daemon acknowledged everything written at the site")


def all_replicated(site, hub, prefix=PREFIX, *, back=True, acknowledged=True):
    """Return when what was written before is replicated: later writes are, in both directions, twice.

    Twice, because what comes with a marker may be a step behind it. A site that is followed by its events has nothing
    acknowledged.
    """
    all_pushed = pushed if acknowledged else lambda _: None
    up, down = prefix + b"~marker:up", prefix + b"~marker:down"
    for _ in range(2):
        number = b"%d" % next(_numbers)
        site.set(up, number)
        eventually(lambda value=number: hub.get(up) == value, 15, "a marker reached the hub")
        all_pushed(site)
        if back:
            hub.set(down, number)
            eventually(lambda value=number: site.get(down) == value, 15, "a marker came back to the site")
    all_pushed(site)


def settled(daemon):
    """Both sides were compared since the last gap, so that it is known what a flush has removed."""
    eventually(lambda: daemon.state()["sweep"]["settled"])


class BackgroundClient:
    """A client of a server that does what `write` says again and again; `name` decides its choices.

    Between two times it waits `pause` seconds.
    """

    def __init__(self, name, server, pause=0.0):
        self.name = name
        self.client = server.client()
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        rng = random.Random(self.name)
        while not self._stop.wait(self._pause):
            self.write(rng)


_ARGUMENT = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_WRITES = {b"SET", b"SETEX", b"PSETEX", b"SETNX", b"HSET", b"HMSET", b"HSETNX", b"DEL"}


class Monitor:
    """MONITOR at one server: every command it executes, those inside scripts included."""

    def __init__(self, server):
        self._server = server
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self._lock = threading.Lock()
        self._lines = []
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"MONITOR\r\n")
        assert self._file.readline() == b"+OK\r\n"
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self):
        try:
            for line in self._file:
                with self._lock:
                    self._lines.append(line)
        except OSError:
            pass

    def commands(self):
        """All commands executed up to now."""
        marker = b"monitor:%d" % next(_numbers)
        with self._server.client() as client:
            client.echo(marker)

        def seen():
            with self._lock:
                return any(marker in line for line in self._lines[-20:]) and list(self._lines)

        lines = eventually(seen, description="MONITOR is level")
        return [_arguments(line) for line in lines]

    def writes(self):
        """How often each key was written with a value, those of daemons aside."""
        counts = Counter()
        for argv in self.commands():
            name = argv[0].upper() if argv else b""
            if any(argument.startswith((FENCE, MARK)) for argument in argv[1:4]):
                continue
            if name == b"MSET":
                counts.update(argv[1::2])
            elif name in _WRITES:
                counts[argv[1]] += 1
        return counts

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._file.close()
        self._socket.close()


def _arguments(line):
    _, _, text = line.partition(b"] ")
    return [codecs.escape_decode(argument)[0] for argument in _ARGUMENT.findall(text)]
