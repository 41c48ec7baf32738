"""Hot keys, CPU seconds per write, growth, and what it costs to do nothing.

In: contenders. Out: lags, CPU seconds, memory, connections. Left to others: servers (`scene`), writers (`writers`).
"""

from __future__ import annotations

import time

from benchmarks.replication.bench import Bench
from benchmarks.replication.outcome import Curve, Goal, Outcome, Samples, Table, at_least, at_most, short
from benchmarks.replication.scene import Scene, count, count_until
from benchmarks.replication.usage import connections, cpu_seconds, peak_memory
from benchmarks.replication.writers import NAMESPACE, Writer, hot_keys, write_evenly

__all__ = ["cost", "growth", "hot", "idle"]

_HOT = 100
_LAG_LIMIT = 30.0
_POLL = 0.005
_CEILING = 300.0
_FLAT = 0.8
_LARGE_ENOUGH = 100_000


def hot(bench: Bench) -> Outcome:
    """A hundred keys, written as fast as redis-benchmark -P 16 can."""
    drops, lags, rows = {}, {}, []
    for contender in bench.contenders:
        bench.say(f"{contender.name}, {_HOT} hot keys for {bench.hot_seconds:g} s")
        with Scene(bench.certificates) as scene:
            site, replicator = scene.start(contender, rc=True)
            at_site, at_hub = site.client(), scene.hub.redis
            before, cpu = site.commandstats().get("set", 0), cpu_seconds(replicator.pid)
            writer = hot_keys(site.port, _HOT)
            time.sleep(bench.hot_seconds)
            writer.end()
            ended = time.perf_counter()
            keys = [f"{NAMESPACE}{n:012d}" for n in range(_HOT)]
            while at_hub.mget(keys) != at_site.mget(keys) and time.perf_counter() - ended < _LAG_LIMIT:
                time.sleep(_POLL)
            lag = time.perf_counter() - ended
            written = site.commandstats()["set"] - before
            stats = at_site.info("stats")
            # Each attachment is a synchronisation; the first one is no drop.
            attached = stats["sync_full"] + stats["sync_partial_ok"]
            drops[contender.name] = Samples([float(max(0, attached - 1))])
            lags[contender.name] = Samples([lag])
            rows.append(
                [
                    contender.name,
                    short(written / writer.seconds),
                    str(attached),
                    short(lag) if lag < _LAG_LIMIT else f"over {_LAG_LIMIT:g}",
                    short((cpu_seconds(replicator.pid) - cpu) / written * 1e6),
                ]
            )
    title = f"{_HOT} hot keys, redis-benchmark -P 16, {bench.hot_seconds:g} s"
    return Outcome(
        goals=[
            at_most(f"{title}: link dropped", 0, "times", drops),
            at_most(f"{title}: lag at the end", 1, "s", lags),
        ],
        tables=[
            Table(
                f"{_HOT} hot keys, with -rc",
                ["who", "written, keys/s", "attached as a replica", "lag at the end, s", "daemon's CPU s/million"],
                rows,
            )
        ],
    )


def cost(bench: Bench) -> Outcome:
    """CPU seconds of the daemon per million pushed writes, by writes a second."""
    goals: dict[str, str] = {}
    rows, curves = [], []
    for contender in bench.contenders:
        points = []
        for rate, seconds in bench.paced:
            bench.say(f"{contender.name}, {rate:,} writes/s for {seconds:g} s")
            with Scene(bench.certificates) as scene:
                site, replicator = scene.start(contender, rc=False)
                file = bench.commands.file(int(rate * seconds))
                hub = scene.hub.redis
                before, size, cpu = count(hub), hub.dbsize(), scene.cpu()
                began = time.perf_counter()
                written = write_evenly(site.port, file, rate, seconds)
                offered = written / (time.perf_counter() - began)
                deadline = time.perf_counter() + bench.limit
                while hub.dbsize() - size < written and time.perf_counter() < deadline:
                    time.sleep(_POLL)
                used = {part: value - cpu[part] for part, value in scene.cpu().items()}
                replicator.check()
                held = count_until(hub, before + written, deadline) - before
            daemon = used["daemon"] / max(held, 1) * 1e6
            points.append((float(rate), daemon))
            all_parts = sum(used.values()) / max(held, 1) * 1e6
            missing = "none" if held == written else f"{written - held:,}"
            rows.append([contender.name, f"{rate:,}", short(offered), short(daemon), short(all_parts), missing])
            if rate == 10_000:
                goals[contender.name] = short(daemon)
        curves.append(Curve(contender.name, points))
    return Outcome(
        goals=[Goal("cost of a pushed write at 10,000/s", "CPU s per million writes", goals, None)],
        tables=[
            Table(
                "Cost of pushed writes",
                ["who", "wanted, writes/s", "written, writes/s", "daemon's CPU s/million", "all servers'", "missing"],
                rows,
            )
        ],
        curves=curves,
    )


def growth(bench: Bench) -> Outcome:
    """First contact with ever more keys: rate and memory."""
    flat, memory, rows = {}, {}, []
    for contender in bench.contenders:
        rates, peaks = [], []
        for keys in bench.sizes:
            bench.say(f"{contender.name}, first contact with {keys:,} keys")
            with Scene(bench.certificates) as scene:
                scene.start_hub()
                site = scene.start_site()
                Writer.pipe(site.port, bench.commands.file(keys)).wait()
                hub, held, first = scene.hub.redis, 0, 0.0
                began = time.perf_counter()
                replicator = scene.start_replicator(contender, site, rc=False)
                while held < keys and time.perf_counter() - began < bench.growth_limit:
                    time.sleep(_POLL)
                    held = hub.dbsize()
                    first = first or (time.perf_counter() if held else 0.0)
                ended = time.perf_counter()
                replicator.check()
                held = count_until(hub, keys, began + bench.growth_limit)
                peak = peak_memory(replicator.pid)
            peaks.append(peak)
            # Few keys are there at once: no rate can be told of them.
            rate = held / (ended - first) if first and held >= 10_000 else 0.0
            if keys >= _LARGE_ENOUGH:
                rates.append(rate)
            rows.append(
                [
                    contender.name,
                    f"{keys:,}",
                    short(ended - began),
                    short(rate) if rate else "",
                    short(peak),
                    "none" if held == keys else f"{keys - held:,} after {bench.growth_limit:g} s",
                ]
            )
            if held < keys:
                break  # more keys would only take longer
        flat[contender.name] = Samples([min(rates) / max(rates) if rates and max(rates) else 0.0])
        memory[contender.name] = Samples([max(peaks)])
    most = f"{bench.sizes[-1]:,} keys"
    return Outcome(
        goals=[
            _flat(f"growth to {most}: slowest rate", flat),
            at_most(f"growth to {most}: memory", _CEILING, "MB", memory),
        ],
        tables=[
            Table(
                "First contact: the keys are at the site, the daemon starts",
                ["who", "keys", "s since its start", "keys/s since the first", "peak memory, MB", "missing"],
                rows,
            )
        ],
    )


def _flat(what: str, measured: dict[str, Samples]) -> Goal:
    return at_least(what, _FLAT, f"of the fastest, from {_LARGE_ENOUGH:,} keys on", measured)


def idle(bench: Bench) -> Outcome:
    """Connected with -rc, and nothing to do."""
    shares, sockets = {}, {}
    for contender in bench.contenders:
        bench.say(f"{contender.name}, idle for {bench.idle_seconds:g} s")
        with Scene(bench.certificates) as scene:
            _, replicator = scene.start(contender, rc=True)
            time.sleep(bench.settle)
            began, cpu = time.perf_counter(), cpu_seconds(replicator.pid)
            time.sleep(bench.idle_seconds)
            used = cpu_seconds(replicator.pid) - cpu
            shares[contender.name] = Samples([used / (time.perf_counter() - began) * 100])
            sockets[contender.name] = Samples([float(connections(replicator.pid, scene.hub.port))])
    return Outcome(
        goals=[
            at_most("idle", 0.5, "% of a core", shares),
            at_most("idle", 2, "connections to the hub", sockets),
        ]
    )
