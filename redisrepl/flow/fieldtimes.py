"""Whether both servers have expiries of hash fields, as `--replicate fields-expire` needs.

In: what each answered when it was asked. Out: whether they are replicated now, and one line in the log if not. Left to
others: asking (`local.history`, `remote.history`), what follows (`engine.core`).

A server that has none is no fault: everything else is replicated as without the kind. It may be exchanged for another
one at any time, so each is asked again whenever it is asked about its history.
"""

from __future__ import annotations

import structlog

from redisrepl.engine.continuity import SIDES, Side
from redisrepl.wire.fieldtimes import FieldTimes

__all__ = ["LackingTimes"]

_log = structlog.get_logger("redisrepl")
_LOST = "fields of hashes are replicated without their expiry times; all else is as without fields-expire"
_REMEDY = (
    "Redis 7.4 or Valkey 9 there, and a user that may run HPEXPIRETIME and HPEXPIREAT (ACL: +hpexpiretime"
    " +hpexpireat); or leave fields-expire out of --replicate"
)


class LackingTimes:
    """Knows which servers have no expiries of fields.

    Args:
        saved: what was saved; None: nothing.
        times: is told.

    Attributes:
        times: likewise.
    """

    def __init__(self, saved: object, times: FieldTimes) -> None:
        self.times = times
        document = saved if isinstance(saved, dict) else {}
        self._lacks: dict[Side, bool] = {side: document[side] for side in SIDES if isinstance(document.get(side), bool)}
        self._said: dict[Side, str] = {}
        times.on = times.wanted and not any(self._lacks.values())

    @property
    def known(self) -> bool:
        """Whether nothing is left to ask, by this process or one before it."""
        return not self.times.wanted or len(self._lacks) == len(SIDES)

    def saw(self, side: Side, lacks: str) -> bool:
        """A server was asked.

        Args:
            side: which.
            lacks: why it has none; empty: it has.

        Returns:
            Whether they are replicated from now on, or not any more.
        """
        if not self.times.wanted:
            return False
        if lacks and self._said.get(side) != lacks:
            _log.warning("fields_expire.unavailable", side=side, error=lacks, then=_LOST, hint=_REMEDY)
        elif not lacks and self._said.get(side):
            _log.info("fields_expire.available", side=side)
        self._said[side], self._lacks[side] = lacks, bool(lacks)
        before, self.times.on = self.times.on, not any(self._lacks.values())
        return self.times.on != before

    def saved(self) -> dict[Side, bool]:
        """For the next process."""
        return dict(self._lacks)
