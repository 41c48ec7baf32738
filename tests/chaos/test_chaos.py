"""Faults while everybody writes; afterwards all copies are equal and nothing that was accepted is lost.

A failing run prints its seed; REDISREPL_CHAOS_SEED plays its faults again in the same order. REDISREPL_CHAOS_SECONDS
makes the mixed run longer.
"""

import os
import random
import time
from pathlib import Path

import pytest

from tests.chaos.faults import FAULTS, GROUPS
from tests.chaos.scene import Scene

SEED = int(os.environ.get("REDISREPL_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
SECONDS = float(os.environ.get("REDISREPL_CHAOS_SECONDS", "0"))
#: Seconds between bursts of writes, of which each fault has as many before and after it; few in a run of its own.
PAUSE = 0.002 if SECONDS else 0.03
#: Faults between two comparisons of the mixed run.
ROUND = 6


class Play:
    """Faults, one after the other, and said as they begin."""

    def __init__(self, scene):
        print(f"REDISREPL_CHAOS_SEED={SEED}")
        self.scene = scene
        self._began = time.monotonic()

    @property
    def seconds(self):
        return time.monotonic() - self._began

    def fault(self, name):
        print(f"{self.seconds:7.1f} s  {name}", flush=True)
        self.scene.written(200)
        FAULTS[name](self.scene)
        self.scene.written(200)

    def check(self):
        before = self.seconds
        self.scene.check()
        print(f"{self.seconds:7.1f} s  equal after {self.seconds - before:.1f} s", flush=True)


def test_the_document_names_every_fault():
    document = Path(__file__).parents[2].joinpath("docs", "reliability.md").read_text()

    assert [name for name in FAULTS if f"`{name}`" not in document] == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("group", GROUPS)
def test_all_copies_are_equal_after_each_fault_of(group):
    with Scene(SEED, pause=PAUSE) as scene:
        play = Play(scene)
        for name in scene.rng.sample(list(GROUPS[group]), k=len(GROUPS[group])):
            play.fault(name)
            play.check()


@pytest.mark.timeout(300 + 2 * SECONDS)
@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="streams"),
        pytest.param({"events": True}, id="events"),  # beside the others, a site that is followed by keyspace events
        pytest.param({"groups": True}, id="groups"),
    ],
)
def test_all_copies_are_equal_after_everything_at_once(more):
    with Scene(SEED, pause=PAUSE, **more) as scene:
        play = Play(scene)
        while True:
            for _ in range(ROUND):
                play.fault(scene.rng.choice(list(FAULTS)))
            play.check()
            if play.seconds >= SECONDS:
                break
