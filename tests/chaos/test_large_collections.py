"""First contact of a collection that is sent in pieces, broken off again and again while both sides write to it.

Each side writes and removes elements of its own, so that what all are to hold in the end is known. A failing run prints
its seed, and where it put what the daemon said and remembers; REDISREPL_CHAOS_SEED plays it again.
REDISREPL_CHAOS_SECONDS has others follow it, each with the next seed.
"""

import json
import random
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest

from testbed import FaultProxy, Hub, RedisServer, eventually
from tests.chaos.scene import SWIFT
from tests.chaos.test_chaos import SECONDS, SEED
from tests.e2e.conftest import Daemons

KEY = b"site1:large"
#: Copies may differ this long after the last write and fault, in seconds.
PATIENCE = 120.0
#: Elements that the site and the hub hold before.
SIZES = [(90_000, 0), (0, 90_000), (60_000, 60_000), (90_000, 90_000), (45_000, 200)]
#: Elements that one writer changes, at least.
FEW = 1000
#: Likewise of a stream: to insert entries blocks a server (docs/guarantees.md).
STREAMS = [(42_000, 0), (0, 42_000), (10_000, 10_000), (42_000, 200)]
FAULTS = ["kill", "stop", "cut", "cut"]
#: Adds an entry behind the last one, by the clock, with an id that no other owner gives; returns it.
ADD_ENTRY = """
local t = redis.call('TIME')
local ms = t[1] * 1000 + math.floor(t[2] / 1000)
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for j = 1, #info, 2 do
    if info[j] == 'last-generated-id' then ms = math.max(ms, tonumber(string.match(info[j + 1], '^%d+')) + 1) end
  end
end
return redis.call('XADD', KEYS[1], string.format('%.0f-%s', ms, ARGV[1]), 'n', ARGV[2])
"""


def put(client, type_, element, number):
    match type_:
        case "set":
            client.sadd(KEY, element)
        case "zset":
            client.zadd(KEY, {element: number})
        case "stream":
            client.xadd(KEY, {"n": number}, id=element)
        case _:
            client.hset(KEY, element, number)


def remove(client, type_, element):
    {"set": client.srem, "zset": client.zrem, "hash": client.hdel, "stream": client.xdel}[type_](KEY, element)


def content(client, type_):
    """The numbers that were put there last, by element; of a set, which holds none, 0."""
    match type_:
        case "set":
            return dict.fromkeys(client.smembers(KEY), 0)
        case "zset":
            return {element: int(score) for element, score in client.zrange(KEY, 0, -1, withscores=True)}
        case "stream":
            return {id_: int(fields[b"n"]) for id_, fields in client.xrange(KEY)}
        case _:
            return {element: int(number) for element, number in client.hgetall(KEY).items()}


class Owner(threading.Thread):
    """The clients of one side, which write nothing but elements of their own; a context manager while they do.

    `held` is what these hold at last.
    """

    def __init__(self, server, owner, type_, size, seed):
        super().__init__(daemon=True)
        self.held = {}
        self._client, self._owner, self._type, self._size = server.client(), owner, type_, size
        self._rng = random.Random(seed)
        self._over = threading.Event()
        with self._client.pipeline(transaction=False) as pipeline:
            for number in range(size):
                self._put(pipeline, number, number)
                if number % 5000 == 4999:
                    pipeline.execute()
            pipeline.execute()

    def _element(self, number):
        return b"%d-%d" % (number + 1, self._owner)

    def _put(self, client, number, value):
        put(client, self._type, self._element(number), value)
        self.held[self._element(number)] = 0 if self._type == "set" else value

    def run(self):
        while not self._over.wait(0.01):
            with self._client.pipeline(transaction=False) as pipeline:
                for _ in range(20):
                    self._write(pipeline)
                pipeline.execute()

    def _write(self, pipeline):
        rng = self._rng
        number, value = rng.randrange(max(self._size, FEW)), rng.randrange(1_000_000)
        if rng.random() < 0.4:
            element = self._element(number)
            remove(pipeline, self._type, element)
            self.held.pop(element, None)
        elif self._type == "stream":  # of which an entry that is gone cannot be added again
            element = self._client.eval(ADD_ENTRY, 1, KEY, self._owner, value)
            self.held[element] = value
        else:
            self._put(pipeline, number, value)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()


def play(certificates, seed):
    """What is not as the clients left it, by element: what is held, and what is to be."""
    rng = random.Random(seed)
    type_ = rng.choice(["set", "zset", "hash", "stream"])
    sizes = rng.choice(STREAMS if type_ == "stream" else SIZES)
    faults = [(rng.uniform(0.3, 2.5), rng.choice(FAULTS), rng.uniform(0, 0.5)) for _ in range(rng.randint(2, 5))]
    print(f"REDISREPL_CHAOS_SEED={seed}: {type_} of {sizes}, {[name for _, name, _ in faults]}", flush=True)
    with (
        RedisServer() as site,
        Hub(certificates) as hub,
        tempfile.TemporaryDirectory() as state,
        Daemons(certificates) as daemons,
        FaultProxy(hub.port) as link,
    ):
        # On a busy machine an insertion may take longer; then all clients are refused.
        for server in (site, hub.server):
            server.client().config_set("lua-time-limit", 60_000)
        owners = [Owner(site, 1, type_, sizes[0], seed), Owner(hub.server, 2, type_, sizes[1], seed + 1)]
        flags = (*SWIFT, "--replicate", "all", "--state-dir", state)
        daemon = daemons.start(site, hub.url_at(link.port), *flags, rc=True)
        with owners[0], owners[1]:
            for before, name, during in faults:
                time.sleep(before)
                if name == "cut":
                    link.down()
                else:
                    daemon.kill() if name == "kill" else daemon.stop()
                time.sleep(during)
                link.listen() if name == "cut" else daemon.start()

        def equal():
            at_site, at_hub = content(site.client(), type_), content(hub.redis, type_)
            differing = len(at_site.items() ^ at_hub.items())
            assert not differing, f"{differing} differ of {len(at_site)}"
            return [at_site]

        wanted = owners[0].held | owners[1].held
        try:
            held = eventually(equal, PATIENCE, "the copies are equal")[0]
            wrong = len(held.items() ^ wanted.items())
            assert not wrong, f"{wrong} elements are not as clients left them"
        except AssertionError:
            keep(daemon, Path(state), content(site.client(), type_), wanted)
            raise


def keep(daemon, state, held, wanted):
    """Keep what the daemon said and remembers, and what is wrong at the site."""
    kept = Path(tempfile.mkdtemp(prefix="redisrepl-chaos-"))
    daemon.kill()
    shutil.copytree(state, kept / "state", ignore=shutil.ignore_patterns("*.sock"))
    kept.joinpath("daemon.jsonl").write_text(
        "".join(json.dumps(record, default=str) + "\n" for record in daemon.records)
    )
    wrong = {name.decode(): (held.get(name), wanted.get(name)) for name, _ in held.items() ^ wanted.items()}
    kept.joinpath("wrong.json").write_text(json.dumps(wrong))
    print(f"kept in {kept}", flush=True)


@pytest.mark.timeout(300 + 2 * SECONDS)
def test_first_contact_of_one_under_everything_at_once(certificates):
    end, seed = time.monotonic() + SECONDS, SEED
    while True:
        play(certificates, seed)
        seed += 1
        if time.monotonic() >= end:
            break
