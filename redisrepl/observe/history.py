"""The last hour in numbers, for small plots.

In: a sample now and then. Out: one point for each period. Left to others: what is measured (`observe.state`).
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

__all__ = ["PERIOD", "SERIES", "History"]

#: Seconds that one point covers.
PERIOD = 10
_POINTS = 360
#: The series. A point of the lag is the highest value of its period, one of the last two a counter's growth per second.
SERIES = ("lag_s", "waiting_keys", "pushed_per_s", "applied_per_s")


class History:
    """An hour of samples, some 12 kB; nothing is allocated once it is full."""

    def __init__(self) -> None:
        self._points = {name: array("f") for name in SERIES}
        self._began: float | None = None
        self._lag: float | None = 0.0
        self._counters: list[float] = []

    def is_due(self, now: float) -> bool:
        """Whether the next sample completes a point and needs the counters."""
        return self._began is None or now - self._began >= PERIOD

    def sample(self, now: float, lag: float | None, document: Mapping[str, object] | None) -> None:
        """Take a sample.

        Args:
            now: seconds that never go backwards.
            lag: seconds that the oldest change has waited; None if unknown.
            document: the daemon's state; None between two points.
        """
        self._lag = None if lag is None or self._lag is None else max(self._lag, lag)
        if document is None:
            return
        waiting, *counters = (_number(document, name) for name in ("waiting_keys", "pushed", "applied"))
        if self._began is not None:
            elapsed = now - self._began
            pushed, applied = (max(0.0, new - old) / elapsed for new, old in zip(counters, self._counters, strict=True))
            lowest = float("nan") if self._lag is None else self._lag
            for name, value in zip(SERIES, (lowest, waiting, pushed, applied), strict=True):
                points = self._points[name]
                if len(points) == _POINTS:
                    del points[0]
                points.append(value)
        self._began, self._counters, self._lag = now, counters, lag

    def points(self, name: str) -> list[float | None]:
        """The points of a series, oldest first; None where the value was unknown."""
        return [None if value != value else round(value, 3) for value in self._points[name]]  # noqa: PLR0124 - NaN


def _number(document: Mapping[str, object], name: str) -> float:
    value = document.get(name)
    return float(value) if isinstance(value, (int, float)) else 0.0
