"""How long one write takes, a field of a large hash, and a large value.

In: contenders. Out: milliseconds from the write to the moment the other side's Redis announces it, and bytes.
Left to others: servers (`scene`).
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import time
from collections.abc import Iterator, Sequence

from benchmarks.replication.bench import Bench
from benchmarks.replication.outcome import Outcome, Samples, Table, at_most, short
from benchmarks.replication.scene import REPLICAOF, Contender, Scene
from benchmarks.replication.writers import NAMESPACE
from testbed import RedisServer, eventually

__all__ = ["FOREIGN", "OF_ANOTHER_SITE", "Watch", "field_writes", "hash_field", "large_value", "lone_writes"]

_EVENTS = {"notify-keyspace-events": "K$hg"}
_LARGE = 5_000_000
_BETWEEN = 0.02
_FIELD_WRITES = 15
FOREIGN, OF_ANOTHER_SITE = "pull of a foreign write", "pull of another site's write, hub to site"
_FIELD_WAYS = ("push", FOREIGN, OF_ANOTHER_SITE)


class Watch:
    """Blocks until a key is written: its Redis says so itself, over a connection without any delay."""

    def __init__(self, server: RedisServer) -> None:
        self._pubsub = server.client().pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe(f"__keyspace@0__:{NAMESPACE}*")
        self._pubsub.parse_response(block=True, timeout=5)

    def wait_for(self, key: str, timeout: float = 30.0) -> float:
        """When it was announced; announcements of other keys are passed over."""
        deadline = time.perf_counter() + timeout
        while (left := deadline - time.perf_counter()) > 0:
            message = self._pubsub.parse_response(block=True, timeout=left)
            if message and message[2].endswith(key.encode()):
                return time.perf_counter()
        raise RuntimeError(f"{key} did not arrive within {timeout:g} s")


def _lone_delays(bench: Bench, contender: Contender, count: int, round_trip: float | None) -> dict[str, list[float]]:
    """Milliseconds of each write, one at a time, by way."""
    delays: dict[str, list[float]] = {"push": [], "pull": [], "from another site": []}
    with Scene(bench.certificates, round_trip=round_trip) as scene:
        near, replicator = scene.start(contender, rc=True, **_EVENTS)
        far = scene.start_site(config=_EVENTS)
        scene.wait_until_ready(far, scene.start_replicator(contender, far, rc=True), rc=True)
        replicator.check()
        at_site, at_hub, at_far = Watch(near), Watch(scene.hub.server), Watch(far)
        site, hub = near.client(), scene.hub.redis
        for n in range(count):
            with _lone(round_trip):
                key = f"{NAMESPACE}push:{n}"
                began = time.perf_counter()
                site.set(key, n)
                pushed = at_hub.wait_for(key)
                delays["push"].append((pushed - began) * 1000)
                # The same write goes on to the other site.
                delays["from another site"].append((at_far.wait_for(key) - pushed) * 1000)
            with _lone(round_trip):
                key = f"{NAMESPACE}pull:{n}"
                began = time.perf_counter()
                hub.set(key, n)
                delays["pull"].append((at_site.wait_for(key) - began) * 1000)
    return delays


@contextlib.contextmanager
def _lone(round_trip: float | None) -> Iterator[None]:
    """What a write has caused is over before the next."""
    yield
    time.sleep(_BETWEEN + (round_trip or 0.0))


def _lone_delays_of_redis(bench: Bench, count: int, round_trip: float | None) -> list[float]:
    """The same by REPLICAOF: what of the delays is the machine's."""
    delays = []
    with Scene(bench.certificates, round_trip=round_trip) as scene:
        master = scene.start_site()
        watch, client = Watch(scene.start_replica(master, **_EVENTS)), master.client()
        for n in range(count):
            with _lone(round_trip):
                key = f"{NAMESPACE}push:{n}"
                began = time.perf_counter()
                client.set(key, n)
                delays.append((watch.wait_for(key) - began) * 1000)
    return delays


def lone_writes(bench: Bench) -> Outcome:
    """One write at a time: p50 and p99."""
    outcome, rows = Outcome(), []
    wanted = {"push": (0.5, 2, 10), "pull": (1.5, 3, 15), "from another site": (0.5, 3, 15)}
    titles = {
        "push": "push of one write",
        "pull": FOREIGN,
        "from another site": OF_ANOTHER_SITE,
    }
    for round_trip, count in ((None, bench.lone_writes), (0.05, bench.distant_writes)):
        place = "loopback" if round_trip is None else f"{round_trip * 1000:.0f} ms round trip"
        delays = {}
        for contender in bench.contenders:
            bench.say(f"{contender.name}, {count} lone writes each way, {place}")
            delays[contender.name] = _lone_delays(bench, contender, count, round_trip)
        delays_of_redis = _lone_delays_of_redis(bench, count, round_trip)
        rows.append([REPLICAOF, "one write", place, *_spread(delays_of_redis)])
        for way, (trips, p50, p99) in wanted.items():
            distance = trips * (round_trip or 0.0) * 1000
            for name, share, more in (("p50", 0.5, p50), ("p99", 0.99, p99)):
                measured = {who: Samples([_percentile(ways[way], share)]) for who, ways in delays.items()}
                outcome.goals.append(at_most(f"{titles[way]}, {name}, {place}", distance + more, "ms", measured))
            rows += [[who, titles[way], place, *_spread(ways[way])] for who, ways in delays.items()]
    outcome.tables = [Table("Milliseconds of one write", ["who", "way", "place", "least", "p50", "p99", "most"], rows)]
    return outcome


def _spread(values: Sequence[float]) -> list[str]:
    return [short(_percentile(values, share)) for share in (0, 0.5, 0.99, 1)]


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def hash_field(bench: Bench) -> Outcome:
    """One field of a large hash: time without the proxy, bytes with it."""
    times: dict[str, dict[str, Samples]] = {way: {} for way in _FIELD_WAYS}
    sizes: dict[str, dict[str, Samples]] = {way: {} for way in _FIELD_WAYS}
    rows = []
    writes = 5 if bench.quick else _FIELD_WRITES
    for contender in bench.contenders:
        for way in _FIELD_WAYS:
            bench.say(f"{contender.name}, one field of a hash of {bench.fields:,}, {way}")
            direct = field_writes(bench, contender, way, writes, round_trip=None)
            proxied = field_writes(bench, contender, way, writes, round_trip=0.0)
            times[way][contender.name] = Samples([Samples([sample[0] for sample in direct]).median])
            up, down = (Samples([sample[n] for sample in proxied]).median for n in (1, 2))
            sizes[way][contender.name] = Samples([up])
            rows.append([contender.name, way, str(times[way][contender.name]), short(up), short(down)])
    title = f"one field of a hash of {bench.fields:,}"
    outcome = Outcome()
    for way in _FIELD_WAYS:
        outcome.goals += [
            at_most(f"{title}, {way}: to the hub", 1000, "bytes", sizes[way]),
            at_most(f"{title}, {way}: time, loopback", 2, "ms", times[way]),
        ]
    outcome.tables = [
        Table(
            f"One write of {title} (medians of {writes})",
            ["who", "way", "ms", "bytes to the hub", "bytes from the hub"],
            rows,
            "Bytes as they are on the wire, TLS included, of the site measured; those of an idle second are "
            "in the samples but not in the median.",
        )
    ]
    return outcome


def field_writes(
    bench: Bench, contender: Contender, way: str, writes: int, *, round_trip: float | None
) -> list[tuple[float, int, int]]:
    """Milliseconds, bytes to the hub and bytes from it, of each write."""
    key = f"{NAMESPACE}hash"
    samples = []
    with Scene(bench.certificates, round_trip=round_trip) as scene:
        near, _ = scene.start(contender, rc=True, **_EVENTS)
        source, hub = near.client(), scene.hub.server
        path = [hub] if way == "push" else [near]
        if way == FOREIGN:
            source = hub.client()
        elif way == OF_ANOTHER_SITE:
            far = scene.start_site(config=_EVENTS)
            # Not through the proxy: its bytes are not those of the site that pulls.
            replicator = scene.start_replicator(contender, far, rc=True, url=scene.hub.url)
            scene.wait_until_ready(far, replicator, rc=True)
            source, path = far.client(), [hub, near]
        source.hset(key, mapping={f"field:{n}": f"value {n}" for n in range(bench.fields)})
        ends = [hub.client(), near.client()]
        eventually(lambda: {end.hlen(key) for end in ends} == {bench.fields}, timeout=20, description="the hash")
        stages = [Watch(server) for server in path]
        for n in range(writes):
            _wait_for_silence(scene)
            before = scene.proxy.counters() if scene.proxy else None
            passed = [time.perf_counter()]
            source.hset(key, f"field:{n}", f"another value {n}")
            passed += [stage.wait_for(key) for stage in stages]
            delay = (passed[-1] - passed[-2]) * 1000
            if scene.proxy and before:
                _wait_for_silence(scene)
                after = scene.proxy.counters()
                up, down = (
                    after.bytes_to_target - before.bytes_to_target,
                    after.bytes_to_client - before.bytes_to_client,
                )
                samples.append((delay, up, down))
            else:
                samples.append((delay, 0, 0))
    return samples


def _wait_for_silence(scene: Scene, quiet: float = 0.15) -> None:
    """Until nothing crosses any more, which only the proxy can tell; without it, a moment."""
    if scene.proxy is None:
        time.sleep(_BETWEEN)
    while scene.proxy:
        before = scene.proxy.counters()
        time.sleep(quiet)
        if scene.proxy.counters() == before:
            return


def large_value(bench: Bench) -> Outcome:
    """5 MB of random bytes, and curl with the same bytes and the same hub, in turn."""
    data = os.urandom(_LARGE)
    times: dict[str, list[float]] = {}
    curls: list[float] = []
    for contender in bench.contenders:
        bench.say(f"{contender.name} and curl, a value of 5 MB")
        times[contender.name] = []
        with Scene(bench.certificates) as scene:
            near, _ = scene.start(contender, rc=False)
            site, watch = near.client(), Watch(scene.hub.server)
            file = near.directory / "value"
            file.write_bytes(data)
            for n in range(bench.large_rounds):
                key = f"{NAMESPACE}large:{n}"
                began = time.perf_counter()
                site.set(key, data)
                times[contender.name].append((watch.wait_for(key) - began) * 1000)
                if scene.hub.redis.get(key) != data:
                    raise RuntimeError(f"{contender.name}: the hub holds other bytes than the site")
                curls.append(_curl(scene, file, f"{NAMESPACE}curl:{n}", data))
    reference = Samples(curls)
    measured = {who: Samples([value / reference.median for value in values]) for who, values in times.items()}
    rows = [[who, str(Samples(values))] for who, values in times.items()]
    return Outcome(
        goals=[at_most("5 MB binary value, push", 2, "times curl --data-binary", measured)],
        tables=[Table("Milliseconds of a binary value of 5 MB", ["who", "ms"], [*rows, ["curl", str(reference)]])],
    )


def _curl(scene: Scene, file: object, key: str, data: bytes) -> float:
    """Milliseconds by its own account, connection and TLS included."""
    certificates = scene.certificates
    options = ["--cert", certificates.client, "--key", certificates.client_key, "--cacert", certificates.ca]
    command = ["curl", "-sS", "-o", os.devnull, "-w", "%{time_total}", "-X", "PUT", "-H", "Expect:", *options]
    url = f"{scene.hub.url}/SET/{key}"
    done = subprocess.run(
        [*map(str, command), "--data-binary", f"@{file}", url], capture_output=True, text=True, check=True, timeout=60
    )
    if scene.hub.redis.get(key) != data:
        raise RuntimeError("curl's value did not arrive as it is")
    return float(done.stdout) * 1000
