"""What the daemon costs where little is written, and what the commands cost that people run.

In: contenders. Out: microseconds of processor for each lone write by rate, resident memory, the cost of a start.
Left to others: servers (`scene`).
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import redis

from benchmarks.replication.bench import Bench
from benchmarks.replication.outcome import Goal, Outcome, Samples, Table, at_most, short
from benchmarks.replication.scene import Contender, Replicator, Scene
from benchmarks.replication.usage import exact_cpu_seconds, resident_memory
from benchmarks.replication.writers import NAMESPACE

__all__ = ["everyday", "starts"]

#: Seconds for what is under way to arrive, behind the last write of a turn.
_ARRIVAL = 0.3
#: Milliseconds for those who prefer less work to the least delay; shown beside the goals, which are for the default.
_LINGER = 100
_FIELDS = 50
_IDLE_MEMORY = 40.0
_COMMAND_MEMORY = 30.0
_COMMAND_CPU = 0.12

_Write = Callable[[redis.Redis, int], object]


@dataclass
class _Running:
    """One contender between servers of its own."""

    scene: Scene
    replicator: Replicator
    site: redis.Redis
    hub: redis.Redis


def _set(client: redis.Redis, number: int) -> object:
    return client.set(f"{NAMESPACE}{number:012d}", f"{number:064d}")


def _set_field(client: redis.Redis, number: int) -> object:
    return client.hset(f"{NAMESPACE}hash:{number % _FIELDS}", f"{number:012d}", f"{number:064d}")


_WAYS: dict[str, tuple[bool, _Write]] = {
    "push": (True, _set),
    "push of a field": (True, _set_field),
    "pull": (False, _set),
    "pull of a field": (False, _set_field),
}


def everyday(bench: Bench) -> Outcome:
    """Lone writes at everyday rates.

    All contenders run at once and take turns of a few seconds, so that what else the machine does meets all of them.
    """
    measured: dict[tuple[str, int, str], list[float]] = {}
    memory: dict[str, Samples] = {}
    with contextlib.ExitStack() as stack:
        contenders = [*bench.contenders, _lingering(bench.contenders[0])]
        running = {contender.name: _start(bench, contender, stack) for contender in contenders}
        time.sleep(bench.settle)
        for name, each in running.items():
            memory[name] = Samples([resident_memory(each.replicator.pid)])
        numbers = iter(range(10**9))
        for turn in bench.turns(bench.rounds):
            for way, (pushes, write) in _WAYS.items():
                for rate in bench.everyday:
                    bench.say(f"round {turn + 1}, {way}, {rate:,} writes/s for {bench.everyday_seconds:g} s each")
                    for name, each in running.items():
                        client = each.site if pushes else each.hub
                        spent = _spent(each, client, write, rate, bench.everyday_seconds, numbers)
                        measured.setdefault((way, rate, name), []).append(spent)
                        each.replicator.check()
    rows = [
        [name, way, f"{rate:,}", str(Samples(measured[way, rate, name]))]
        for way in _WAYS
        for rate in bench.everyday
        for name in running
    ]
    goals = []
    names = [contender.name for contender in bench.contenders]
    for way in _WAYS:
        for rate in bench.everyday:
            shown = {name: str(Samples(measured[way, rate, name])) for name in names}
            medians = [Samples(measured[way, rate, name]).median for name in names]
            met = medians[0] <= min(medians[1:]) if len(medians) > 1 else None
            goals.append(Goal(f"{way} of one write at {rate:,}/s", "CPU us, at most that of the others", shown, met))
    return Outcome(
        goals=[*goals, at_most("resident memory, idle", _IDLE_MEMORY, "MB", memory)],
        tables=[Table("Microseconds of processor for a lone write", ["who", "way", "writes/s", "us"], rows)],
    )


def _lingering(contender: Contender) -> Contender:
    flags = ("--linger", str(_LINGER))
    return Contender(" ".join((contender.name, *flags)), (*contender.command, *flags))


def _start(bench: Bench, contender: Contender, stack: contextlib.ExitStack) -> _Running:
    scene = stack.enter_context(Scene(bench.certificates))
    site, replicator = scene.start(contender, rc=True)
    return _Running(scene, replicator, site.client(), scene.hub.redis)


def _spent(
    each: _Running, client: redis.Redis, write: _Write, rate: int, seconds: float, numbers: Iterator[int]
) -> float:
    """Microseconds of the daemon's processor for each of some writes."""
    count = max(10, int(rate * seconds))
    began, cpu = time.perf_counter(), exact_cpu_seconds(each.replicator.pid)
    for n in range(count):
        time.sleep(max(0.0, began + n / rate - time.perf_counter()))
        write(client, next(numbers))
    time.sleep(_ARRIVAL)
    return (exact_cpu_seconds(each.replicator.pid) - cpu) / count * 1e6


def starts(bench: Bench) -> Outcome:
    """What `--version`, `--help` and `status` cost: they run often, `status` every few seconds in many places."""
    goals: list[Goal] = []
    rows = []
    for words in (["--version"], ["--help"], ["status", "--state-dir", "/nonexistent"]):
        cpu: dict[str, Samples] = {}
        memory: dict[str, Samples] = {}
        for contender in bench.contenders:
            bench.say(f"{contender.name} {words[0]}")
            samples = [_run([*contender.command, *words]) for _ in range(2 + bench.rounds)][1:]  # the first compiles
            cpu[contender.name] = Samples([seconds for seconds, _ in samples])
            memory[contender.name] = Samples([peak for _, peak in samples])
            rows.append([contender.name, words[0], str(cpu[contender.name]), short(memory[contender.name].median)])
        goals.append(at_most(f"{words[0]}: processor", _COMMAND_CPU, "s", cpu))
        goals.append(at_most(f"{words[0]}: memory", _COMMAND_MEMORY, "MB", memory))
    return Outcome(
        goals=goals,
        tables=[Table("What a command costs", ["who", "command", "CPU s", "peak memory, MB"], rows)],
    )


def _run(command: list[str]) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of a command."""
    # From a small process: what starts another one counts as memory of that.
    done = subprocess.run([sys.executable, "-S", "-c", _STARTER, *command], capture_output=True, text=True, check=True)
    seconds, kilobytes = done.stdout.split()[-2:]
    return float(seconds), int(kilobytes) / 1024


_STARTER = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
