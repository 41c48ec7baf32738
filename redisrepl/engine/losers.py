"""What loses a conflict is named, counted, and handed on to be kept.

In: plans in which a conflict was decided. Out: log lines, what was lost. Left to others: who wins (`engine.plans`),
keeping the values (`store.conflicts`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from redisrepl.changes import State
from redisrepl.engine.plans import ConflictWinner, Plan
from redisrepl.namespaces import printable

__all__ = ["ConflictLoss", "Losers"]

_log = structlog.get_logger("redisrepl")

#: Conflicts that are named in the log one by one between two comparisons; of more, their number.
_NAMED = 1000


@dataclass(frozen=True, slots=True)
class ConflictLoss:
    """What lost a conflict.

    Attributes:
        key: whose.
        winner: the side whose value replaces it.
        value: of the loser; of a hash, the fields that lost.
    """

    key: bytes
    winner: ConflictWinner
    value: State


class Losers:
    """Names what loses.

    Args:
        keep: called with each.

    Attributes:
        count: keys that lost something, since the start.
    """

    def __init__(self, keep: Callable[[ConflictLoss], None]) -> None:
        self.count = 0
        self._keep = keep
        self._named = 0  # since the last comparison

    def lost(self, plan: Plan) -> None:
        """The winner's value is about to replace the other's."""
        if plan.lost is None or plan.winner is None:
            return
        self.count += 1
        self._named += 1
        if self._named <= _NAMED:
            _log.warning("conflict.resolved", key=printable(plan.key), winner=plan.winner)
        self._keep(ConflictLoss(plan.key, plan.winner, plan.lost))

    def compared(self) -> None:
        """A comparison is over: say how many were not named."""
        if self._named > _NAMED:
            _log.warning("conflict.resolved", more_keys=self._named - _NAMED)
        self._named = 0
