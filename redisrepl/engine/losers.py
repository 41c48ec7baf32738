"""What loses a conflict is named, counted, and handed on to be kept.

In: plans in which a conflict was decided. Out: log lines, what was lost. Left to others: who wins (`engine.winners`),
keeping the values (`store.conflicts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from redisrepl.changes import State
from redisrepl.engine.winners import BOTH_CHANGED, ConflictWinner, Lost
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
        value: of the loser; of a collection, the elements that lost.
        reason: why nobody can tell which is newer.
    """

    key: bytes
    winner: ConflictWinner
    value: State
    reason: str = BOTH_CHANGED


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

    def lost(self, key: bytes, losers: Iterable[Lost], winner: ConflictWinner) -> None:
        """The value of this side replaces the other's, or is about to."""
        for lost in losers:
            if lost.ruling.winner != winner:
                continue
            self.count += 1
            self._named += 1
            if self._named <= _NAMED:
                _log.warning("conflict.resolved", key=printable(key), winner=winner, reason=lost.ruling.reason)
            self._keep(ConflictLoss(key, winner, lost.value, lost.ruling.reason))

    def compared(self) -> None:
        """A comparison is over: say how many were not named."""
        if self._named > _NAMED:
            _log.warning("conflict.resolved", more_keys=self._named - _NAMED)
        self._named = 0
