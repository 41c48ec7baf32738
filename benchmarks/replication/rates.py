"""How many keys a second: push, pull and REPLICAOF, in turn, at every distance.

In: contenders and how many keys. Out: rates, their ratios, and the CPU seconds of each process behind them.
Left to others: servers (`scene`), writers (`writers`).
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

import redis

from benchmarks.replication.bench import Bench
from benchmarks.replication.outcome import Outcome, Rate, Samples, Table, at_least, short
from benchmarks.replication.scene import REPLICAOF, Contender, Scene, start_profiler
from benchmarks.replication.writers import NAMESPACE, Writer
from testbed import FaultProxy

__all__ = ["Run", "distance", "measure", "push_and_pull", "relay"]

_POLL = 0.003
_PROBED = 1000
PARTS = ("writer", "site redis", "daemon", "proxy", "nginx", "webdis", "hub redis", "replica")


@dataclass(frozen=True)
class Run:
    """One measurement: from the writer's start until the other side held every key, or time was up."""

    seconds: float
    held: int
    missing: int
    written_in: float
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        return self.held / self.seconds


def measure(bench: Bench, contender: Contender | str, way: str, *, round_trip: float | None = None) -> Run:
    """One way (`push`, `push -rc`, `pull`) of a contender, or Redis' own replication, with servers of its own."""
    with Scene(bench.certificates, round_trip=round_trip) as scene:
        if isinstance(contender, str):
            site = scene.start_site()
            source, target = site, scene.start_replica(site)
        else:
            site, replicator = scene.start(contender, rc=way != "push")
            source, target = (scene.hub.server, site) if way == "pull" else (site, scene.hub.server)
            if bench.profile and way == "push":
                profiler = start_profiler(replicator.pid, bench.profile)
                scene.callback(profiler.wait)
                scene.callback(profiler.send_signal, signal.SIGINT)
        return _run(bench, scene, source.client(), target.client(), source.port)


def _run(bench: Bench, scene: Scene, source: redis.Redis, target: redis.Redis, port: int) -> Run:
    file = bench.commands.file(bench.keys)
    before, cpu = target.dbsize(), scene.cpu()
    began = time.perf_counter()
    writer = Writer.pipe(port, file)
    held, ended = 0, began
    while held < bench.keys and time.perf_counter() - began < bench.limit:
        time.sleep(_POLL)
        held, ended = target.dbsize() - before, time.perf_counter()
    writer.wait()
    used = {part: seconds - cpu[part] for part, seconds in scene.cpu().items()} | {"writer": writer.cpu}
    per_million = {part: seconds / max(held, 1) * 1e6 for part, seconds in used.items()}
    if held == bench.keys:
        _compare(source, target, bench.keys)
    return Run(ended - began, held, bench.keys - held, writer.seconds, per_million)


def _compare(source: redis.Redis, target: redis.Redis, keys: int) -> None:
    """Keys were counted; values of some of them must be the same."""
    names = [f"{NAMESPACE}{n:012d}" for n in range(0, keys, max(1, keys // _PROBED))]
    if source.mget(names) != target.mget(names):
        raise RuntimeError("the other side holds all keys, but not the same values")


def push_and_pull(bench: Bench) -> Outcome:
    """On loopback, beside REPLICAOF."""
    subjects = [(REPLICAOF, "replica")] + [
        (contender, way)
        for contender in bench.contenders
        for way in (("push", "pull") if bench.quick else ("push", "push -rc", "pull"))
    ]
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for turn in range(bench.rounds):
        for contender, way in subjects:
            name = contender if isinstance(contender, str) else contender.name
            bench.say(f"{name} {way}, {bench.keys:,} keys, round {turn + 1} of {bench.rounds}")
            runs[name, way].append(measure(bench, contender, way))
    redis_rates = [run.rate for run in runs[REPLICAOF, "replica"]]

    def ratios(way: str) -> dict[str, Samples]:
        return {
            contender.name: Samples(
                [run.rate / rate for run, rate in zip(runs[contender.name, way], redis_rates, strict=True)]
            )
            for contender in bench.contenders
        }

    outcome = Outcome()
    outcome.goals = [
        at_least("push, distinct keys, loopback", 0.7, "of REPLICAOF", ratios("push")),
        at_least("pull, distinct keys, loopback", 0.35, "of REPLICAOF", ratios("pull")),
    ]
    for (name, way), measured in runs.items():
        outcome.rates.append(Rate(name, way, "loopback", Samples([run.rate for run in measured])))
    outcome.tables = _tables(bench, "on loopback", {(*subject, ""): measured for subject, measured in runs.items()})
    return outcome


def distance(bench: Bench) -> Outcome:
    """The same through a proxy that delays: no delay, then more."""
    places = {0.0: "0 ms"} | {seconds: f"{seconds * 1000:.0f} ms" for seconds in bench.round_trips}
    runs: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for turn in range(max(1, bench.rounds - 1)):
        for contender, way in [
            (REPLICAOF, "replica"),
            *((contender, way) for contender in bench.contenders for way in ("push", "pull")),
        ]:
            name = contender if isinstance(contender, str) else contender.name
            if turn and name not in {REPLICAOF, bench.contenders[0].name}:
                continue  # its rate is far from the others', once is enough
            for round_trip, place in places.items():
                bench.say(f"{name} {way} at {place} round trip, {bench.keys:,} keys")
                runs[name, way, place].append(measure(bench, contender, way, round_trip=round_trip))
    outcome = Outcome()
    for way in ("push", "pull"):
        for place in list(places.values())[1:]:
            ratios = {
                contender.name: Samples(
                    [
                        run.rate / near.rate
                        for run, near in zip(
                            runs[contender.name, way, place], runs[contender.name, way, "0 ms"], strict=True
                        )
                    ]
                )
                for contender in bench.contenders
            }
            outcome.goals.append(at_least(f"{way} at {place} round trip", 0.9, "of the rate at 0 ms", ratios))
    for (name, way, place), measured in runs.items():
        outcome.rates.append(Rate(name, way, place, Samples([run.rate for run in measured])))
    outcome.tables = _tables(bench, "at a distance, through the delaying proxy", runs)
    outcome.tables[0] = Table(
        outcome.tables[0].title,
        outcome.tables[0].columns,
        outcome.tables[0].rows,
        f"The proxy itself, without a delay, relays {relay():,.0f} MB/s over one connection.",
    )
    return outcome


def _tables(bench: Bench, where: str, runs: dict[tuple[str, str, str], list[Run]]) -> list[Table]:
    rates, cpu = [], []
    for (name, way, place), measured in runs.items():
        title = [name, " ".join(filter(None, (way, place)))]
        missing = max(run.missing for run in measured)
        rates.append(
            [
                *title,
                str(Samples([run.rate for run in measured])),
                short(Samples([bench.keys / run.written_in for run in measured]).median),
                f"{missing:,} of {bench.keys:,} within {bench.limit:g} s" if missing else "none",
            ]
        )
        medians = {
            part: Samples([run.cpu[part] for run in measured]).median for part in PARTS if part in measured[0].cpu
        }
        cpu.append([*title, *(short(medians[part]) if part in medians else "" for part in PARTS)])
    parts = [part for n, part in enumerate(PARTS) if any(row[n + 2] for row in cpu)]
    kept = [0, 1, *(PARTS.index(part) + 2 for part in parts)]
    return [
        Table(f"Keys a second {where}", ["who", "way", "keys/s", "written, keys/s", "missing"], rates),
        Table(
            f"CPU seconds per million keys {where}",
            ["who", "way", *parts],
            [[row[n] for n in kept] for row in cpu],
        ),
    ]


def relay(megabytes: int = 128) -> float:
    """MB a second that the proxy passes on without a delay, so that it is known not to be what is measured."""
    piece = bytes(1 << 18)
    with socket.create_server(("127.0.0.1", 0)) as sink, FaultProxy(sink.getsockname()[1]) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as source:
            receiver, _ = sink.accept()
            total = megabytes << 20
            sender = threading.Thread(target=lambda: [source.sendall(piece) for _ in range(total // len(piece))])
            began = time.perf_counter()
            sender.start()
            received = 0
            with receiver:
                while received < total:
                    received += len(receiver.recv(1 << 18))
            sender.join()
            return megabytes * 1.048576 / (time.perf_counter() - began)
