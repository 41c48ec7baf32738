"""What all scenarios share: who takes part, how much is measured, and whom to tell.

In: the command line's wishes. Out: `Bench`. Left to others: the scenarios.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.replication.scene import Contender
from benchmarks.replication.writers import Commands
from testbed import Certificates

__all__ = ["Bench"]


@dataclass
class Bench:
    """The amounts of a full run; `quick` makes a run that only shows that everything works.

    Args:
        keys: of a rate's measurement.
        rounds: how often a rate is measured, all contenders in turn, unless a busy machine takes too long over it.
        patience: seconds after which a scenario begins no further round.
        limit: seconds after which a rate is what has arrived by then.
        round_trips: distances beside none.
        settle: seconds after a start, before a daemon counts as idle.
    """

    certificates: Certificates
    contenders: list[Contender]
    say: Callable[[str], None] = print
    keys: int = 500_000
    rounds: int = 3
    patience: float = 150.0
    limit: float = 30.0
    round_trips: tuple[float, ...] = (0.05, 0.2)
    hot_seconds: float = 30.0
    lone_writes: int = 300
    distant_writes: int = 200
    fields: int = 20_000
    large_rounds: int = 5
    paced: tuple[tuple[int, float], ...] = ((100, 10.0), (1_000, 8.0), (10_000, 8.0), (100_000, 5.0))
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000, 3_000_000)
    growth_limit: float = 60.0
    idle_seconds: float = 30.0
    settle: float = 3.0
    everyday: tuple[int, ...] = (10, 100, 500, 1_000)
    everyday_seconds: float = 3.0
    quick: bool = False
    profile: Path | None = None
    commands: Commands = field(default_factory=Commands)

    def turns(self, rounds: int) -> Iterator[int]:
        """Rounds from 0 on; the first is always played."""
        began = time.monotonic()
        for turn in range(rounds):
            if turn and time.monotonic() - began > self.patience:
                self.say(f"no further round: {turn} took {time.monotonic() - began:.0f} s")
                return
            yield turn

    def hasten(self) -> None:
        """The amounts of a quick run."""
        self.quick = True
        self.keys, self.rounds, self.limit = 20_000, 1, 5.0
        self.round_trips = (0.05,)
        self.hot_seconds, self.idle_seconds, self.settle = 3.0, 5.0, 1.0
        self.everyday, self.everyday_seconds = (10, 100), 1.0
        self.lone_writes, self.distant_writes = 40, 20
        self.large_rounds = 2
        self.paced = ((100, 2.0), (1_000, 2.0), (10_000, 2.0))
        self.sizes, self.growth_limit = (1_000, 10_000, 100_000), 10.0
