"""Runs a hub, two sites and their daemons for long, and tells whether anything grows.

    python -m tests.chaos.soak [--minutes 30] [--faults] [--seed N] [--out samples.json] [--report docs/reliability.md]

Three clients write without pause, modestly. Every two minutes a link is cut or the hub's subscriptions are killed;
with `--faults` there is a fault of the chaos suite every half minute instead. Each ten seconds it notes what the
daemons hold and how many connections the servers have. Exit code 1: something grows, or the copies differ at the end.

In: the real servers. Out: a table, a file of all samples, a section of a document. Left to others: the scene, the
faults.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from testbed import Daemon, RedisServer
from tests.chaos.faults import FAULTS
from tests.chaos.scene import Scene

__all__ = ["Trend", "main", "trend"]

EVERY = 10.0
#: Seconds between disturbances.
DISTURBANCE, FAULT = 120.0, 30.0
#: Seconds between the bursts of each client, of about seven writes.
PAUSE = 0.05
#: The part of the run that is not judged: keys are still new, pools and heaps fill. A heap that fills slows down and is
#: nearly full by then; what leaks goes on as it began.
WARM_UP = 0.5
#: A rise over the judged part that says nothing yet, in MB or pieces.
FLOOR = 3.0
RULE = (
    "GROWING: the line fitted to the samples of the second half rises there by more than 3 (MB or pieces), and by more "
    "than the samples scatter around it (standard deviation). Else FLAT."
)
MARKS = "<!-- soak -->", "<!-- /soak -->"

Samples = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Trend:
    """One quantity after the warm-up; `slope` is per hour."""

    least: float
    median: float
    most: float
    slope: float
    growing: bool


def trend(values: list[float], times: list[float]) -> Trend:
    """What became of a quantity, sampled at these times (seconds)."""
    slope, start = statistics.linear_regression(times, values)
    rise = slope * (times[-1] - times[0])
    scatter = statistics.pstdev(value - start - slope * at for at, value in zip(times, values, strict=True))
    growing = rise > max(FLOOR, scatter)
    return Trend(min(values), statistics.median(values), max(values), slope * 3600, growing)


def judged(samples: Samples) -> dict[str, Trend]:
    times = samples["seconds"]
    start = next(n for n, seconds in enumerate(times) if seconds >= times[-1] * WARM_UP)
    return {name: trend(values[start:], times[start:]) for name, values in samples.items() if name != "seconds"}


def of_process(daemon: Daemon) -> dict[str, float]:
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return {
        "resident memory, MB": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024,
        "open files": len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())),
        "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
    }


def connections_to(port: int) -> int:
    """Established connections that were made to this port of ours."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == "01" and int(row[1].rpartition(":")[2], 16) == port for row in rows)


class Observer:
    """Looks at everything; its own connections are among those that it counts, always the same."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._clients: dict[RedisServer, object] = {}

    def sample(self) -> dict[str, float]:
        scene, found = self._scene, {}
        for n, daemon in enumerate(scene.daemons):
            found |= {f"daemon {n}: {what}": value for what, value in of_process(daemon).items()}
        hub = self._client(scene.hub.server)
        found["hub's Redis: CLIENT LIST"] = len(hub.client_list())
        found["hub's Redis: pub/sub clients"] = len(hub.client_list(_type="pubsub"))
        found["hub's nginx: connections"] = connections_to(scene.hub.nginx.port)
        found["hub's Webdis: connections"] = connections_to(scene.hub.webdis.port)
        for n, site in enumerate(scene.sites):
            client = self._client(site.master)
            found[f"site {n}'s Redis: clients"] = client.info("clients")["connected_clients"]
            found[f"site {n}'s Redis: replicas"] = client.info("replication")["connected_slaves"]
        return found

    def _client(self, server: RedisServer):
        if server not in self._clients:
            self._clients[server] = server.client()
        return self._clients[server]


def disturbances(scene: Scene) -> Iterator[tuple[str, Callable[[], object]]]:
    """A link cut and a subscription killed, in turns."""
    while True:
        for n, proxy in enumerate(scene.proxies):
            yield f"the link of site {n} is cut", proxy.cut
            yield "the subscriptions are killed", lambda: FAULTS["the subscription is killed"](scene)


def faults(scene: Scene) -> Iterator[tuple[str, Callable[[], object]]]:
    """Any of the chaos suite."""
    while True:
        name = scene.rng.choice(list(FAULTS))
        yield name, lambda name=name: FAULTS[name](scene)


def run(scene: Scene, minutes: float, *, with_faults: bool, console: Console) -> Samples:
    """Sample until the time is over."""
    samples: Samples = {"seconds": []}
    observer, began = Observer(scene), time.monotonic()
    trouble, period = (faults(scene), FAULT) if with_faults else (disturbances(scene), DISTURBANCE)
    next_trouble = period
    while (now := time.monotonic() - began) < minutes * 60:
        if now >= next_trouble:
            name, happen = next(trouble)
            console.print(f"{now:7.0f} s  {name}")
            happen()
            next_trouble += period
        samples["seconds"].append(time.monotonic() - began)
        for name, value in observer.sample().items():
            samples.setdefault(name, []).append(value)
        time.sleep(max(0.0, EVERY - (time.monotonic() - began - now)))
    return samples


def table(trends: dict[str, Trend]) -> Table:
    shown = Table("", *(("least", "median", "most", "slope per hour", "verdict")), title="the second half of the run")
    for column in shown.columns[1:5]:
        column.justify = "right"
    for name, row in trends.items():
        shown.add_row(name, *cells(row), "[red]GROWING" if row.growing else "FLAT")
    return shown


def cells(row: Trend) -> list[str]:
    return [f"{value:,.1f}".removesuffix(".0") for value in (row.least, row.median, row.most)] + [f"{row.slope:+.2f}"]


def setting(minutes: float, written: int, *, with_faults: bool) -> list[str]:
    """Where and on what this was measured."""
    cpus = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", cpus)
    redis_server = subprocess.run(["redis-server", "--version"], capture_output=True, check=True, text=True).stdout
    nginx = subprocess.run(["nginx", "-v"], capture_output=True, check=True, text=True).stderr
    trouble = (
        "a fault of the chaos suite every 30 s" if with_faults else "a link cut or the subscriptions killed every 2 min"
    )
    versions = [
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        f"redisrepl {version('redisrepl')}",
        f"redis-server {redis_server.partition('v=')[2].split()[0]}",
        nginx.strip().partition(": ")[2],
    ]
    cores = len(os.sched_getaffinity(0))
    return [
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}: {minutes:g} minutes, {written:,} writes by three clients, {trouble}.",
        f"{model[1] if model else platform.machine()}, {cores} cores for everything; {', '.join(versions)}.",
        f"Made by `make soak MINUTES={minutes:g}{' FAULTS=1' if with_faults else ''}`.",
    ]


def section(about: list[str], trends: dict[str, Trend]) -> str:
    rows = [
        f"| {name} | {' | '.join(cells(row))} | {'**GROWING**' if row.growing else 'flat'} |"
        for name, row in trends.items()
    ]
    head = ["| | least | median | most | slope per hour | |", "|---|---:|---:|---:|---:|---|"]
    return "\n".join([*about, "", *head, *rows])


def write_report(path: Path, text: str) -> None:
    """Put the text between the marks of a document."""
    before, begin, rest = path.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (begin and end):
        raise SystemExit(f"{path} has no {MARKS[0]} and {MARKS[1]} to write between")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--faults", action="store_true", help="a fault of the chaos suite every half minute")
    parser.add_argument("--seed", type=int, default=0, help="of all choices; default: a new one")
    parser.add_argument("--out", type=Path, help="file for all samples (JSON)")
    parser.add_argument("--report", type=Path, help="document to write the numbers into, between its marks")
    options = parser.parse_args()
    if options.minutes < 1:
        parser.error("--minutes: less than a minute tells nothing")
    console = Console()
    seed = options.seed or random.SystemRandom().randrange(1 << 32)
    console.print(f"seed {seed}, {options.minutes:g} minutes")
    with Scene(seed, pause=PAUSE, flags=(), all_types=False) as scene:
        samples = run(scene, options.minutes, with_faults=options.faults, console=console)
        written = sum(writer.accepted for writer in scene.writers)
        try:
            scene.check()
        except AssertionError as error:
            failure: str | None = str(error)
        else:
            failure = None
    trends, about = judged(samples), setting(options.minutes, written, with_faults=options.faults)
    if options.out:
        content = {"about": about, "trends": {name: asdict(row) for name, row in trends.items()}, "samples": samples}
        options.out.write_text(json.dumps(content, indent=1))
    console.print(*about, table(trends), RULE, sep="\n")
    console.print(f"[red]copies: {failure}" if failure else "copies: equal, and nothing lost")
    growing = any(row.growing for row in trends.values())
    if options.report and not failure:
        write_report(options.report, section(about, trends))
    return 1 if growing or failure else 0


if __name__ == "__main__":
    sys.exit(main())
