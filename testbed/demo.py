"""`make demo`: two sites and a hub, writes on every side, and what became of them.

In: nothing but installed servers. Out: what was replicated, how fast, and whether a write ran twice; exit code 0 only
if all three copies are equal in the end. Left to others: the servers (`testbed`) and their configuration (`deploy`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis
from rich.console import Console
from rich.live import Live
from rich.table import Table

from redisrepl.namespaces import printable
from testbed.certificates import Certificates
from testbed.daemon import Daemon, DaemonEndedError
from testbed.hub import Hub
from testbed.redis_server import RedisServer
from testbed.server import ServerFailedError

__all__ = ["Demo", "Side", "differences", "main"]

DEPLOY = Path(__file__).parents[1] / "deploy"
NAMESPACE = "demo:"
SITES = ("east", "west")
_WRITE_COMMANDS = ("set", "mset", "setnx", "hset", "hmset", "hsetnx", "del", "hdel")
_DIFFERENCES_SHOWN = 20
_COMPLAINTS_SHOWN = 5
_ALL_BYTES = bytes(range(256))
_LARGE = 3_000_000

#: One write: its key, and what is sent.
Write = tuple[bytes, tuple[bytes, ...]]


class Watcher:
    """Counts how often each key of the namespace was written, as Redis itself announces it."""

    def __init__(self, client: redis.Redis) -> None:
        self.writes: Counter[bytes] = Counter()
        self._channel = f"__keyspace@0__:{NAMESPACE}".encode()
        self._pubsub = client.pubsub(ignore_subscribe_messages=False)
        self._pubsub.psubscribe(self._channel + b"*")
        self._pubsub.get_message(timeout=5)  # the confirmation: from here on nothing is missed
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._over = threading.Event()
        self._thread.start()

    def _watch(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError, ValueError):
            while not self._over.is_set():
                message = self._pubsub.get_message(timeout=0.2)
                if message and message["type"] == "pmessage" and message["data"] in {b"set", b"hset"}:
                    self.writes[message["channel"][len(self._channel) - len(NAMESPACE) :]] += 1

    def close(self) -> None:
        self._over.set()
        self._thread.join(timeout=5)
        with contextlib.suppress(redis.RedisError, OSError):
            self._pubsub.close()


@dataclass
class Side:
    """One Redis that people write to: a site's, or the hub's."""

    name: str
    client: redis.Redis
    watcher: Watcher
    written: int = 0
    expected: Counter[bytes] = field(default_factory=Counter)

    def write(self, writes: Sequence[Write]) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for _, command in writes:
            pipeline.execute_command(*command)
        pipeline.execute()
        self.written += len(writes)

    def content(self) -> dict[bytes, object]:
        """Every key of the namespace and what it holds."""
        keys = sorted(self.client.scan_iter(match=f"{NAMESPACE}*", count=1000))
        pipeline = self.client.pipeline(transaction=False)
        for key in keys:
            pipeline.type(key)
        kinds = pipeline.execute()
        for key, kind in zip(keys, kinds, strict=True):
            pipeline.execute_command("HGETALL" if kind == b"hash" else "GET", key)
        return dict(zip(keys, pipeline.execute(raise_on_error=False), strict=True))

    def keys(self) -> int:
        """How many there are, without the daemons' own: a fence at the hub, a mark at a site."""
        own = self.client.scan_iter(match="redisrepl:*", count=100_000)
        return int(self.client.dbsize()) - sum(1 for _ in own)

    def commands(self) -> dict[str, int]:
        """How often each write command ran, by INFO commandstats."""
        stats = self.client.info("commandstats")
        calls = {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in _WRITE_COMMANDS}
        return {name.upper(): count for name, count in calls.items() if count}


def differences(copies: Mapping[str, Mapping[bytes, object]]) -> list[str]:
    """A line for each key that is not the same in all copies."""
    lines = []
    for key in sorted(set().union(*copies.values())):
        held = {name: copy.get(key) for name, copy in copies.items()}
        if any(value != next(iter(held.values())) for value in held.values()):
            shown = ", ".join(f"{name}: {_summary(value)}" for name, value in held.items())
            lines.append(f"{printable(key)}  {shown}")
    return lines


def _summary(value: object) -> str:
    match value:
        case None:
            return "missing"
        case bytes():
            return f"string of {len(value)} bytes"
        case dict():
            return f"hash of {len(value)} fields"
        case _:
            return type(value).__name__


def writes_of(side: str, topic: str, count: int) -> list[Write]:
    """Writes of every kind: text, hashes, and keys, fields and values of all 256 bytes."""
    made: list[Write] = []
    for number in range(count):
        key = f"{NAMESPACE}{side}:{topic}:{number}".encode()
        match number % 4:
            case 0:
                made.append((key, (b"SET", key, f"value {number} of {side}".encode())))
            case 1:
                fields = (word for n in range(5) for word in (b"field%d" % n, b"%d.%d" % (number, n)))
                made.append((key, (b"HSET", key, *fields)))
            case 2:
                key += b"/a/b.c?d+e%2f&g h\r\n\x00\xff"
                made.append((key, (b"SET", key, _ALL_BYTES)))
            case _:
                key += b"\xc3\xa4" + _ALL_BYTES[-8:]
                made.append((key, (b"HSET", key, _ALL_BYTES, _ALL_BYTES[::-1], b"empty", b"")))
    return made


class Screen:
    """A live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._table: Callable[[], Table] | None = None
        self.is_live = console.is_terminal

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def showing(self, table: Callable[[], Table]) -> Iterator[None]:
        """Keep the table before the eyes; elsewhere it is printed once, at the end."""
        self._table = table
        if not self.is_live:
            yield
            return
        with Live(table(), console=self._console, auto_refresh=False) as live:
            self._live = live
            try:
                yield
                self.refresh()
            finally:
                self._live = self._table = None

    def refresh(self) -> None:
        if self._live is not None and self._table is not None:
            self._live.update(self._table(), refresh=True)


class Demo:
    """The whole of it: servers, daemons, writes, judgement.

    Args:
        screen: where it is told.
        count: writes in the burst.
        steady: seconds of steady writing before it.
        patience: seconds to wait for equal copies.
    """

    def __init__(self, screen: Screen, *, count: int, steady: float, patience: float) -> None:
        self.screen = screen
        self.count = count
        self.steady = steady
        self.patience = patience
        self.sides: list[Side] = []
        self.daemons: list[Daemon] = []
        self.stage = "starting"

    def run(self) -> int:
        """Return the exit code."""
        with contextlib.ExitStack() as stack:
            started = time.monotonic()
            self._start_servers(stack)
            before = self._write_before()
            self._start_daemons(stack)
            waited = self._until_equal(before)
            self.screen.say(f"{before} older keys were copied to every side in {waited:.1f} s")
            for side in self.sides:
                side.written = 0
                side.client.config_resetstat()
                side.watcher = Watcher(side.client)
                stack.callback(side.watcher.close)
            delays = self._single_writes()
            with self.screen.showing(self._table):
                self._steady_writes()
                burst = self._burst()
            self._tell_speed(delays, burst)
            equal = self._judge()
            stopped = self._stop_daemons()
            self.screen.say(f"done in {time.monotonic() - started:.0f} s")
        return 0 if equal and stopped else 1

    # Servers and daemons.

    def _start_servers(self, stack: contextlib.ExitStack) -> None:
        certificates = stack.enter_context(Certificates())
        self._directory = certificates.directory
        password, self._admin, site_password = (secrets.token_hex(16) for _ in range(3))
        self._hub = stack.enter_context(_hub(certificates, password, self._admin))
        self._password_file = self._directory / "site-password"
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(site_password)
        site_users = (DEPLOY / "site" / "users.acl").read_text().replace("site1:", NAMESPACE)
        site_users = site_users.replace("CHANGE-ME-SITE", site_password).removeprefix("user ").strip()
        self._sites = [
            stack.enter_context(RedisServer(users=[site_users], config={"notify-keyspace-events": "K$h"}))
            for _ in SITES
        ]
        version = self._sites[0].client().info("server")["redis_version"]
        ports = ", ".join(f"{name} on port {site.port}" for name, site in zip(SITES, self._sites, strict=True))
        self.screen.say(f"redis-server {version}: {ports}; hub behind Webdis and nginx at {self._hub.url}")
        clients = {name: site.client() for name, site in zip(SITES, self._sites, strict=True)}
        clients["hub"] = self._hub.server.client(username="admin", password=self._admin)
        for name in (SITES[0], "hub", SITES[1]):
            watcher = Watcher(clients[name])
            stack.callback(watcher.close)
            self.sides.append(Side(name, clients[name], watcher))

    def daemon_arguments(self, site: RedisServer, name: str) -> list[object]:
        """The command line of one site's daemon."""
        pair = self._hub.certificates.issue(name, f"{name}.example", common_name=name)
        return [
            *("--haddr", self._hub.url, "--ca", self._hub.certificates.ca, "--cert", pair.cert, "--key", pair.key),
            *("--raddr", f"127.0.0.1:{site.port}", "--user", "redisrepl", "--password-file", self._password_file),
            *("-rc", "--ns", NAMESPACE, "--log-format", "json", "--retry-max", "1"),
        ]

    def _start_daemons(self, stack: contextlib.ExitStack) -> None:
        for name, site in zip(SITES, self._sites, strict=True):
            state = self._directory / f"state-{name}"
            daemon = Daemon(self.daemon_arguments(site, name), env={"STATE_DIRECTORY": str(state)})
            stack.callback(daemon.close)
            self.daemons.append(daemon.start())
        for daemon in self.daemons:
            daemon.wait_for_log("stream.attached")
        self.screen.say("two daemons attached: redisrepl -rc --ns demo: ...")

    def _stop_daemons(self) -> bool:
        codes = {}
        for name, daemon in zip(SITES, self.daemons, strict=True):
            codes[name] = daemon.stop()
            told = [r for r in daemon.records if r.get("level") not in {"debug", "info"}]
            for record in told[:_COMPLAINTS_SHOWN]:
                self.screen.say(f"the daemon of {name} said: {json.dumps(record)}")
            if len(told) > _COMPLAINTS_SHOWN:
                self.screen.say(f"... and {len(told) - _COMPLAINTS_SHOWN} lines more")
        self.screen.say(f"daemons stopped by SIGTERM, exit codes {', '.join(f'{n}: {c}' for n, c in codes.items())}")
        return not any(codes.values())

    # Writes.

    def _write_before(self) -> int:
        for side in self.sides:
            side.write(writes_of(side.name, "before", 100))
        return sum(side.written for side in self.sides)

    def _single_writes(self, samples: int = 25) -> dict[str, float]:
        """Median seconds from a write on one side until another side shows it."""
        east, hub, west = self.sides
        medians = {}
        for source, target in ((east, hub), (hub, east), (east, west)):
            delays = []
            for number in range(samples):
                key = f"{NAMESPACE}{source.name}-{target.name}:{number}".encode()
                start = time.perf_counter()
                source.write([(key, (b"SET", key, b"x"))])
                while not target.client.exists(key):
                    if time.perf_counter() - start > self.patience:
                        break
                delays.append(time.perf_counter() - start)
                if delays[-1] > self.patience:
                    break
            medians[f"{source.name} to {target.name}"] = statistics.median(delays)
        return medians

    def _steady_writes(self) -> None:
        """Some writes on every side, ten times a second."""
        self.stage = "steady"
        steps = int(self.steady * 10)
        parts = {side.name: _chunks(writes_of(side.name, "steady", 20 * steps), 20) for side in self.sides}
        for step in range(steps):
            start = time.monotonic()
            for side in self.sides:
                side.write(parts[side.name][step])
            self.screen.refresh()
            time.sleep(max(0.0, 0.1 - (time.monotonic() - start)))

    def _burst(self) -> tuple[int, float]:
        """As many writes as fit into the connections; how many, and seconds until all sides had them."""
        self.stage = "burst"
        self._until_equal()
        each = max(1, self.count // len(self.sides))
        parts = {side.name: _chunks(writes_of(side.name, "burst", each), 100) for side in self.sides}
        for side in self.sides:
            large = f"{NAMESPACE}{side.name}:large".encode()
            parts[side.name].append([(large, (b"SET", large, os.urandom(_LARGE)))])
        written = sum(len(chunk) for chunks in parts.values() for chunk in chunks)
        start = time.monotonic()
        threads = [
            threading.Thread(target=lambda s=side: [s.write(chunk) for chunk in parts[s.name]], daemon=True)
            for side in self.sides
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(timeout=0.1)
                self.screen.refresh()
        self._until_equal()
        self.stage = "settled"
        return written, time.monotonic() - start

    def _until_equal(self, keys: int | None = None) -> float:
        """Wait until every side has every key and the events of all writes have come; seconds that took."""
        start = time.monotonic()
        while time.monotonic() - start < self.patience:
            if keys is not None or self._all_seen():
                counts = {side.keys() for side in self.sides}
                if len(counts) == 1 and (keys is None or counts == {keys}):
                    break
            for daemon in self.daemons:
                if not daemon.running:
                    raise DaemonEndedError(f"a daemon ended: {daemon.stderr[-2000:]}")
            self.screen.refresh()
            time.sleep(0.02)
        else:
            self.screen.say(f"after {self.patience:g} s not every write is everywhere")
        return time.monotonic() - start

    def _all_seen(self) -> bool:
        total = sum(side.written for side in self.sides)
        return all(sum(side.watcher.writes.values()) >= total for side in self.sides)

    # What became of them.

    def _rows(self) -> list[list[str]]:
        total = sum(side.written for side in self.sides)
        rows = []
        for side in self.sides:
            seen = sum(side.watcher.writes.values())
            twice = sum(count - 1 for count in side.watcher.writes.values() if count > 1)
            rows.append([side.name, f"{side.written:,}", f"{seen:,}", f"{max(0, total - seen):,}", f"{twice:,}"])
        return rows

    _COLUMNS = ("", "written here", "executed here", "still to come", "executed twice")

    def _table(self) -> Table:
        table = Table(title=f"namespace {NAMESPACE} · {self.stage}", title_justify="left")
        for name in self._COLUMNS:
            table.add_column(name, justify="right" if name else "left")
        for row in self._rows():
            table.add_row(*row)
        return table

    def _tell_speed(self, delays: Mapping[str, float], burst: tuple[int, float]) -> None:
        if not self.screen.is_live:
            for row in self._rows():
                told = (f"{name} {value}" for name, value in zip(self._COLUMNS[1:], row[1:], strict=True))
                self.screen.say(f"{row[0]}: {', '.join(told)}")
        written, seconds = burst
        self.screen.say("one write: " + ", ".join(f"{name} {delay * 1000:.1f} ms" for name, delay in delays.items()))
        self.screen.say(
            f"burst: {written:,} writes on three sides, 3 values of 3 MB among them, everywhere after {seconds:.1f} s "
            f"({written / seconds:,.0f}/s)"
        )

    def _judge(self) -> bool:
        copies = {side.name: side.content() for side in self.sides}
        found = differences(copies)
        for line in found[:_DIFFERENCES_SHOWN]:
            self.screen.say(f"DIFFERENT {line}")
        if len(found) > _DIFFERENCES_SHOWN:
            self.screen.say(f"... and {len(found) - _DIFFERENCES_SHOWN} more")
        for side in self.sides:
            commands = ", ".join(f"{name} {count:,}" for name, count in side.commands().items())
            self.screen.say(f"INFO commandstats of {side.name}: {commands}")
        total = sum(side.written for side in self.sides)
        echoes = {side.name: [key for key, count in side.watcher.writes.items() if count > 1] for side in self.sides}
        for name, keys in echoes.items():
            for key in keys[:_DIFFERENCES_SHOWN]:
                self.screen.say(f"ECHO {name} executed a write of {printable(key)} more than once")
        if found:
            self.screen.say(f"NOT EQUAL: {len(found)} keys differ")
            return False
        if any(echoes.values()):
            self.screen.say("EQUAL, but some writes were executed more than once")
            return False
        self.screen.say(
            f"EQUAL: {len(copies['hub']):,} keys, byte for byte, on {', '.join(copies)}; "
            f"each of {total:,} writes was executed once per server, no echo"
        )
        return True


def _hub(certificates: Certificates, password: str, admin: str) -> Hub:
    """A hub with the files of deploy/hub; only ports, paths, passwords and the namespace are its own."""
    files = DEPLOY / "hub"
    acl = certificates.directory / "users.acl"
    text = (files / "users.acl").read_text()
    for old, new in (("CHANGE-ME-SITE1", password), ("CHANGE-ME-ADMIN", admin), ("site1:", NAMESPACE)):
        text = text.replace(old, new)
    acl.touch(mode=0o600)
    acl.write_text(text)
    lines = (files / "redis.conf").read_text().splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    directives: dict[str, object] = dict(pairs)
    directives["aclfile"] = acl
    webdis = json.loads((files / "webdis.json").read_text())
    for own in ("redis_host", "redis_port", "redis_auth", "http_host", "http_port", "logfile"):
        del webdis[own]
    return Hub(certificates, redis={"config": directives}, webdis={**webdis, "password": password})


def _chunks(items: list[Write], size: int) -> list[list[Write]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; return its exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="two sites, one hub, writes on every side")
    parser.add_argument("--writes", type=int, default=30_000, help="writes in the burst (default: 30000)")
    parser.add_argument("--steady", type=float, default=4.0, help="seconds of steady writes (default: 4)")
    parser.add_argument("--patience", type=float, default=15.0, help="seconds to wait for equal copies (default: 15)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    screen = Screen(Console())
    demo = Demo(screen, count=options.writes, steady=options.steady, patience=options.patience)
    try:
        return demo.run()
    except KeyboardInterrupt:
        screen.say("interrupted; everything that was started is stopped")
        return 130
    except (ServerFailedError, DaemonEndedError, AssertionError, FileNotFoundError) as error:
        screen.say(f"the demonstration failed: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
