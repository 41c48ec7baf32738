"""`make kill9`: many short runs of one scene, of which one in 94 once did not converge.

In: a site, a hub, how often, a seed. Out: how many runs converged; of one that did not, every log and its seed.
Left to others: the servers (`programs`), the daemon.

The scene: four `kill -9` of the daemon amid writes on both sides, to keys of both kinds that both sides share. Each run
uses keys of its own, and the same servers as the run before, so that a run costs little more than its daemons' starts.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import threading
import time
from pathlib import Path

import redis

from matrix.fetching import Cache, UnavailableError
from matrix.places import cache_directory, logs_directory
from matrix.programs import PROGRAMS
from testbed import Certificates, Hub, RedisServer, eventually
from testbed.logs import keep
from tests.e2e.support import SWIFT, certificate_flags, place_flags

__all__ = ["main"]

_KILLS = 4
_PATIENCE = 90.0
#: What a daemon imports when it needs it.
_LATE = ("redis.asyncio", "httpx", "websockets.asyncio.client", "hiredis", "redisrepl.listener")


class _Writers:
    """Both sides write at random to a few keys of a run until they are told to stop."""

    def __init__(self, clients: dict[str, redis.Redis], prefix: str, seed: int) -> None:
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(client, prefix, name, random.Random(f"{seed}:{name}")))
            for name, client in clients.items()
        ]

    def _write(self, client: redis.Redis, prefix: str, name: str, rng: random.Random) -> None:
        number = 0
        while not self._over.wait(rng.uniform(0.0, 0.01)):
            number += 1
            value, key = f"{name}:{number}", f"{prefix}{rng.randrange(40)}"
            if rng.random() < 0.5:
                client.set(f"{key}:s", value)
            else:
                client.hset(f"{key}:h", f"f{rng.randrange(3)}", value)

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def _held(client: redis.Redis, prefix: str) -> dict[bytes, object]:
    keys = sorted(client.scan_iter(match=f"{prefix}*", count=1000))
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.execute_command("HGETALL" if key.endswith(b":h") else "GET", key)
        return dict(zip(keys, pipeline.execute(), strict=True))


class _Daemon:
    """A daemon that is forked from a process that has imported everything: its start costs almost nothing."""

    def __init__(self, words: list[str], state: Path, log: Path) -> None:
        self._words, self._state, self._log = words, state, log
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["redisrepl.daemon", "redisrepl.cli", *_LATE])

    def start(self) -> None:
        self._said_before = self._said()
        self._process = self._context.Process(target=_serve, args=(self._words, self._state, self._log), daemon=True)
        self._process.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def wait_until_live(self) -> None:
        eventually(lambda: self._said() > self._said_before, 60, "the daemon hears the hub")

    def _said(self) -> int:
        return self._log.read_bytes().count(b'"subscribe.started"') if self._log.exists() else 0


def _serve(words: list[str], state: Path, log: Path) -> None:
    """The process of one daemon."""
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("REDISREPL_")]:
        del os.environ[name]
    os.environ |= {"REDISREPL_LOG_FORMAT": "json", "STATE_DIRECTORY": str(state)}
    sys.argv = ["redisrepl", *words]
    main_module = importlib.import_module("redisrepl.cli")
    sys.exit(main_module.main())


def _run(number: int, seed: int, site: RedisServer, hub: Hub, certificates: Certificates) -> str:
    """One run; returns what differs in the end, "" if nothing does."""
    rng, prefix = random.Random(seed), f"site1:{number}:"
    clients = {"site": site.client(), "hub": hub.redis}
    words = [*certificate_flags(certificates), *place_flags(site, hub), "-rc", "--ns", prefix, *SWIFT]
    log = site.directory / f"daemon-{number}-seed-{seed}.log"
    daemon = _Daemon(list(map(str, words)), site.directory / f"state-{number}", log)
    daemon.start()
    try:
        with _Writers(clients, prefix, seed):
            for _ in range(_KILLS):
                if rng.random() < 0.7:
                    daemon.wait_until_live()
                time.sleep(rng.uniform(0.0, 0.4))  # any moment of the daemon's life is one to be killed at
                daemon.kill()
                time.sleep(rng.uniform(0.0, 0.1))
                daemon.start()

        def differing() -> bool:
            assert _held(clients["site"], prefix) == _held(clients["hub"], prefix)
            return True

        try:
            eventually(differing, _PATIENCE)
        except AssertionError:
            here, there = (_held(client, prefix) for client in clients.values())
            keys = [key for key in here.keys() | there.keys() if here.get(key) != there.get(key)]
            lines = [f"{key!r}: site {here.get(key)!r}, hub {there.get(key)!r}" for key in sorted(keys)]
            keep("differing", {"differing.txt": "\n".join([f"seed {seed}", *lines]) + "\n"})
            return f"{len(keys)} keys differ: {lines[0] if lines else 'but not a moment later'}"
    finally:
        daemon.kill()
    if b"Traceback" in log.read_bytes():
        return f"the daemon met an unexpected error, in {log.name}"
    log.unlink()
    return ""


def main() -> int:
    """Run it, and say how each run ended."""
    parser = argparse.ArgumentParser(prog="make kill9", description=__doc__.partition("\n")[0])
    parser.add_argument("--site", default="redis-installed")
    parser.add_argument("--hub", default="redis-7.2")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    given = parser.parse_args()
    cache, chosen = Cache(cache_directory()), {}
    for role, name in (("site", given.site), ("hub", given.hub)):
        program = next((program for program in PROGRAMS if program.name == name), None)
        if program is None:
            parser.error(f"--{role} {name}: no such program; one of {', '.join(each.name for each in PROGRAMS)}")
        try:
            chosen[role] = cache.get(program)
        except UnavailableError as error:
            print(f"{name} cannot be had here: {error}")
            return 1
    print(f"site {chosen['site'].name}, hub {chosen['hub'].name}, {given.runs} runs from seed {given.seed}", flush=True)
    logs = logs_directory() / f"kill9-{given.seed}"
    os.environ["TESTBED_KEEP"] = str(logs)
    until, done, failed = time.monotonic() + 60 * given.minutes, 0, 0
    while done < given.runs and time.monotonic() < until:
        failed_here = False
        with (
            Certificates() as certificates,
            RedisServer(program=chosen["site"].path) as site,
            Hub(certificates, redis={"program": chosen["hub"].path}) as hub,
        ):
            for number in range(done, min(done + 25, given.runs)):
                said = _run(number, given.seed + number, site, hub, certificates)
                done += 1
                if not done % 25:
                    print(f"{done} runs", flush=True)
                if said:
                    failed, failed_here = failed + 1, True
                    print(f"run {number}, seed {given.seed + number}: {said}; logs in {logs}", flush=True)
                    break
                if time.monotonic() > until:
                    break
        if not failed_here and not failed:
            shutil.rmtree(logs, ignore_errors=True)
    print(f"{done} runs, {failed} did not converge")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
