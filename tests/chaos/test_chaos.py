"""Faults while everybody writes; afterwards all copies are equal and nothing that was accepted is lost.

A failing run prints its seed; REDISREPL_CHAOS_SEED plays it again. REDISREPL_CHAOS_SECONDS makes the mixed run longer.
"""

import os
import random
import time

import pytest

from tests.chaos.scene import Scene

SEED = int(os.environ.get("REDISREPL_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
SECONDS = float(os.environ.get("REDISREPL_CHAOS_SECONDS", "0"))

FAULTS = [
    "cut the link",
    "stall the link",
    "truncate an answer",
    "trickle",
    "kill a daemon",
    "pause a daemon",
    "restart the hub's Redis behind a living Webdis",
    "restart Webdis",
    "restart nginx",
    "reload nginx",
    "kill the subscription",
    "kill the replica link",
    "overrun the replica's buffer",
    "restart a site's Redis",
]


def check(scene):
    scene.settle()

    assert scene.lost() == []
    assert scene.strays() == []
    assert [record for daemon in scene.daemons for record in daemon.records if "Traceback" in record["event"]] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", FAULTS)
def test_all_copies_are_equal_after(fault, tmp_path):
    print(f"REDISREPL_CHAOS_SEED={SEED}")
    with Scene(SEED, tmp_path) as scene:
        scene.written(300)
        scene.faults[fault]()
        scene.written(300)

        check(scene)


@pytest.mark.timeout(300 + 2 * SECONDS)
def test_all_copies_are_equal_after_everything_at_once(tmp_path):
    print(f"REDISREPL_CHAOS_SEED={SEED}")
    with Scene(SEED, tmp_path) as scene:
        began = time.monotonic()
        rounds = 0
        while rounds < 8 or time.monotonic() - began < SECONDS:
            fault = scene.rng.choice(FAULTS)
            print(f"{time.monotonic() - began:7.1f} s  {fault}", flush=True)
            scene.faults[fault]()
            scene.written(300)
            rounds += 1

        check(scene)
