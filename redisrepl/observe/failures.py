"""Logs repeated failures once: the first of each kind at once, then one line per period, then "recovered".

In: failures and successes of one link or task. Out: log lines. Left to others: what a failure means.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog

from redisrepl.errors import without_frames
from redisrepl.showing import plain

__all__ = ["FailureLog"]

_log = structlog.get_logger("redisrepl")


class FailureLog:
    """One thing that can go wrong again and again.

    Args:
        event: stem of the log events: `<event>.failed`, `<event>.recovered`.
        period: seconds between lines while it goes on.
        clock: seconds that never go backwards.

    Attributes:
        failures: failures since the last success.
        total: failures since the start.
        last_error: text of the last one, fit to be printed; None after a success.
    """

    def __init__(self, event: str, *, period: float = 30.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._event = event
        self._period = period
        self._clock = clock
        self._since = 0.0
        self._last_line = 0.0
        self._logged: set[type] = set()
        self.failures = 0
        self.total = 0
        self.last_error: str | None = None

    def failed(self, error: BaseException | str, **fields: Any) -> bool:
        """Count a failure; returns whether a log line was written.

        An error then forgets its calls: whoever retries keeps it for a while.
        """
        if isinstance(error, BaseException):
            without_frames(error)
        now = self._clock()
        self.failures += 1
        self.total += 1
        self.last_error = plain(str(error))
        if self.failures == 1:
            self._since = now
        elif now - self._last_line < self._period and type(error) in self._logged:
            return False
        self._last_line = now
        self._logged.add(type(error))  # "no answer" must not hide "certificate refused" for half a minute
        _log.warning(f"{self._event}.failed", error=self.last_error, failures=self.failures, **fields)
        return True

    @property
    def duration(self) -> float:
        """Seconds since the first failure after the last success; 0 if there was none."""
        return self._clock() - self._since if self.failures else 0.0

    def succeeded(self, **fields: Any) -> None:
        """Note a success; after failures, log the recovery."""
        if not self.failures:
            return
        duration = round(self._clock() - self._since, 1)
        _log.info(f"{self._event}.recovered", failures=self.failures, after_s=duration, **fields)
        self.failures = 0
        self.last_error = None
        self._logged.clear()
