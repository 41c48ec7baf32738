"""What was last known of both servers, for the next process as well.

In: what they told, once it is judged. Out: that, and as a document. Left to others: judging (`flow.judging`), saving
(`flow.saving`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redisrepl.changes import Position
from redisrepl.flow.clocks import Clocks
from redisrepl.flow.fieldtimes import LackingTimes
from redisrepl.flow.found import Found
from redisrepl.local.history import Evictions
from redisrepl.remote.clock_shift import ClockShift
from redisrepl.remote.history import HubFacts
from redisrepl.wire.fieldtimes import FieldTimes

__all__ = ["Known"]


class Known:
    """What was last known of both servers; it is saved.

    Args:
        document: what was saved.
        clock_shift: of the hub.

    Attributes:
        seen: how far the site's stream was read at most, by its history.
        seen_number: what was agreed on up to this number lies before that.
        hub: what the hub told last.
        evicted: what the site told of its evictions when it was asked last.
        clocks: of both.
        lacking: which of them have no expiries of fields.
        found: of the site, though the link was lost before it was told.
        first_run_id: of the site's process before anything was pushed: a snapshot is pushed while it is read, and the
            daemon may end before the site was ever judged.
    """

    def __init__(self, document: Mapping[str, Any], clock_shift: ClockShift | None = None) -> None:
        match document.get("seen"):
            case [str(replid), int(offset)]:
                self.seen: Position | None = Position(replid, offset)
            case _:
                self.seen = None
        number = document.get("seen number")
        self.seen_number = number if isinstance(number, int) else 0
        match document.get("hub"):
            case [str(run_id), int(flushes), int(evicted), int(processed)]:
                self.hub: HubFacts | None = HubFacts(run_id, flushes, evicted, processed)
            case _:
                self.hub = None
        match document.get("evicted"):
            case [int(keys), int(processed)]:
                self.evicted = Evictions(keys, processed)
            case int(keys):  # as it was called at first
                self.evicted = Evictions(keys)
            case _:
                self.evicted = Evictions()
        self.lacking = LackingTimes(document.get("fields expire"), clock_shift.fields if clock_shift else FieldTimes())
        self.clocks = Clocks(document.get("clocks"), clock_shift)
        self.found = Found.load(document.get("found"))
        first_run_id = document.get("first run id")
        self.first_run_id = first_run_id if isinstance(first_run_id, str) else ""

    def saved(self) -> dict[str, object]:
        """As a document, for the next process."""
        return {
            "seen": None if self.seen is None else list(self.seen),
            "seen number": self.seen_number,
            "hub": None if self.hub is None else list(self.hub),
            "evicted": list(self.evicted),
            "clocks": self.clocks.saved(),
            "found": None if self.found is None else self.found.saved,
            **({"first run id": self.first_run_id} if self.first_run_id else {}),
            **({"fields expire": lacking} if (lacking := self.lacking.saved()) else {}),
        }
