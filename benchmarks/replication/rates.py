"""How many keys a second: push, pull and REPLICAOF, in turn, at every distance.

In: contenders and how many keys. Out: rates, their ratios, and the CPU seconds of each process behind them.
Left to others: servers (`scene`), writers (`writers`).
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import redis

from benchmarks.replication.bench import Bench
from benchmarks.replication.outcome import Outcome, Rate, Samples, Table, at_least, short
from benchmarks.replication.scene import REPLICAOF, Contender, Scene, count, count_until, profiling
from benchmarks.replication.writers import NAMESPACE, Writer
from testbed import FaultProxy, RedisServer

__all__ = ["Run", "distance", "measure", "push_and_pull", "relay"]

_POLL = 0.003
_PROBED = 1000
#: A push at a distance has so many times the keys of other rates: what its first and last round trip take is no rate.
_MORE_PUSHED = 4
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
    def keys(self) -> int:
        return self.held + self.missing

    @property
    def rate(self) -> float:
        return self.held / self.seconds


def measure(
    bench: Bench,
    contender: Contender | str,
    way: str,
    *,
    keys: int | None = None,
    round_trip: float | None = None,
    profile: Path | None = None,
) -> Run:
    """One way (`push`, `push -rc`, `pull`) of a contender, or Redis' own replication, with servers of its own."""
    with Scene(bench.certificates, round_trip=round_trip) as scene:
        if isinstance(contender, str):
            site = scene.start_site()
            source, target = site, scene.start_replica(site)
        else:
            site, replicator = scene.start(contender, rc=way != "push")
            source, target = (scene.hub.server, site) if way == "pull" else (site, scene.hub.server)
            if profile:
                scene.enter_context(profiling(replicator.pid, profile))
        return _run(bench, scene, source, target, keys or bench.keys)


def _run(bench: Bench, scene: Scene, source_server: RedisServer, target_server: RedisServer, keys: int) -> Run:
    source, target = source_server.client(), target_server.client()
    file = bench.commands.file(keys)
    before, size, cpu = count(target), target.dbsize(), scene.cpu()
    began = time.perf_counter()
    writer = Writer.pipe(source_server.port, file)
    grown, ended = 0, began
    while grown < keys and time.perf_counter() - began < bench.limit:
        time.sleep(_POLL)
        grown, ended = target.dbsize() - size, time.perf_counter()
    writer.wait()
    # A program's own key may be among them, and stand for the last: no matter for the time, but for what is missing.
    held = count_until(target, before + keys, began + bench.limit) - before
    used = {part: seconds - cpu[part] for part, seconds in scene.cpu().items()} | {"writer": writer.cpu}
    per_million = {part: seconds / max(held, 1) * 1e6 for part, seconds in used.items()}
    if held == keys:
        _compare(source, target, keys)
    return Run(ended - began, held, keys - held, writer.seconds, per_million)


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
    for turn in bench.turns(bench.rounds):
        for contender, way in subjects:
            name = contender if isinstance(contender, str) else contender.name
            bench.say(f"{name} {way}, {bench.keys:,} keys, round {turn + 1} of {bench.rounds}")
            runs[name, way].append(measure(bench, contender, way))
    if bench.profile:
        bench.say("push, under py-spy; not counted")
        measure(bench, bench.contenders[0], "push", profile=bench.profile)
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
    for turn in bench.turns(max(1, bench.rounds - 1)):
        for contender, way in [
            (REPLICAOF, "replica"),
            *((contender, way) for contender in bench.contenders for way in ("push", "pull")),
        ]:
            name = contender if isinstance(contender, str) else contender.name
            if turn and name not in {REPLICAOF, bench.contenders[0].name}:
                continue  # its rate is far from the others', once is enough
            keys = bench.keys if way == "pull" else _MORE_PUSHED * bench.keys
            for round_trip, place in places.items():
                bench.say(f"{name} {way} at {place} round trip, {keys:,} keys")
                runs[name, way, place].append(measure(bench, contender, way, keys=keys, round_trip=round_trip))
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
    proxy = f"The proxy itself, without a delay, relays {relay():,.0f} MB/s over one connection."
    outcome.tables = _tables(bench, "at a distance, through the delaying proxy", runs, proxy)
    return outcome


def _tables(bench: Bench, where: str, runs: dict[tuple[str, str, str], list[Run]], note: str = "") -> list[Table]:
    cores = len(os.sched_getaffinity(0))
    parts = [part for part in PARTS if any(part in measured[0].cpu for measured in runs.values())]
    rates, cpu = [], []
    for (name, way, place), measured in runs.items():
        title = [name, " ".join(filter(None, (way, place)))]
        missing = max(run.missing for run in measured)
        rates.append(
            [
                *title,
                str(Samples([run.rate for run in measured])),
                short(Samples([run.keys / run.written_in for run in measured]).median),
                f"{missing:,} of {measured[0].keys:,} after {bench.limit:g} s" if missing else "none",
            ]
        )
        medians = {part: Samples([run.cpu[part] for run in measured]).median for part in measured[0].cpu}
        total = sum(medians.values())
        cpu.append(
            [
                *title,
                *(short(medians[part]) if part in medians else "" for part in parts),
                short(total),
                short(cores / total * 1e6),
            ]
        )
    return [
        Table(f"Keys a second {where}", ["who", "way", "keys/s", "written, keys/s", "missing"], rates, note),
        Table(
            f"CPU seconds per million keys {where}",
            ["who", "way", *parts, "all", "limit, keys/s"],
            cpu,
            f"The limit is what {cores} cores could do if all of this were spread over them without idle time.",
        ),
    ]


def relay(megabytes: int = 128) -> float:
    """MB a second that the proxy passes on without a delay, so that it is known not to be what is measured."""
    piece, pieces = bytes(1 << 18), megabytes * 4
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        proxy = stack.enter_context(FaultProxy(sink.getsockname()[1]))
        source = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
        receiver = stack.enter_context(sink.accept()[0])
        sender = threading.Thread(target=lambda: [source.sendall(piece) for _ in range(pieces)])
        began = time.perf_counter()
        sender.start()
        received = 0
        while received < pieces * len(piece):
            received += len(receiver.recv(len(piece)))
        seconds = time.perf_counter() - began
        sender.join()
    return received / seconds / 1e6
