"""The last warnings and errors of the log, for the status page.

In: log lines. Out: the last of them, without the names of keys. Left to others: showing them (`listener.page`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import MutableMapping
from typing import Any

from redisrepl.observe.remedies import remedy

__all__ = ["RecentLines", "recent"]

_KEPT = 20
_LEVELS = frozenset({"warning", "error", "critical"})
#: Lines with these fields are shown without their text: who may read the page may not be allowed to see names of keys.
_SECRET = frozenset({"key", "keys", "more_keys", "field", "fields"})
_LONGEST = 500


class RecentLines:
    """The last log lines of level warning and above; a processor of structlog."""

    def __init__(self) -> None:
        self._lines: deque[dict[str, object]] = deque(maxlen=_KEPT)

    def __call__(self, _logger: object, level: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Keep a warning or error; a repetition of the last line replaces it and raises its count."""
        event = str(line.get("event", ""))
        if level in _LEVELS:
            self._keep(event, level, line)
        elif event.endswith(".recovered"):
            stem = event.removesuffix("recovered")
            for kept in self._lines:
                if kept["event"] == f"{stem}failed":
                    kept.setdefault("over_at", round(time.time(), 3))
        return line

    def lines(self) -> list[dict[str, object]]:
        """The lines, newest first."""
        return [dict(line) for line in reversed(self._lines)]

    def _keep(self, event: str, level: str, line: MutableMapping[str, Any]) -> None:
        names_keys = not _SECRET.isdisjoint(line)
        fields = ("error", "cause", "reason", "certificate", "hint")
        said = next((value for name in fields if (value := line.get(name))), "")
        text = "" if names_keys else str(said)[:_LONGEST]
        kept = {
            "at": round(time.time(), 3),
            "level": level,
            "event": event,
            "text": text,
            "remedy": str(line["remedy"]) if line.get("remedy") else remedy(event, str(said)),
            "times": 1,
        }
        last = self._lines[-1] if self._lines else None
        if last is not None and (last["event"], last["text"]) == (event, text) and "over_at" not in last:
            kept["times"] = int(str(last["times"])) + 1
            self._lines.pop()
        self._lines.append(kept)


#: The lines of this process: `observe.logging` fills them, the status page reads them.
recent = RecentLines()
