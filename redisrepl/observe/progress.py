"""Progress of a snapshot: a bar on a terminal, otherwise a log line every few seconds.

In: bytes and keys of each piece. Out: what a person sees. Left to others: reading the pieces (`sources.stream`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

import structlog

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["SnapshotProgress"]

_log = structlog.get_logger("redisrepl")


class SnapshotProgress:
    """Shows the progress of one snapshot at a time.

    Args:
        stream: where logs go; a bar is shown if it is a terminal. None: standard error.
        period: seconds between log lines.
        clock: seconds that never go backwards.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        period: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream or sys.stderr
        self._period = period
        self._clock = clock
        self._bar: Progress | None = None
        self._begun: float | None = None
        self._logged_at = 0.0
        self._bytes = 0
        self._keys = 0

    def begin(self) -> None:
        """A snapshot begins."""
        self.end()
        self._begun = self._logged_at = self._clock()
        self._bytes = self._keys = 0
        if self._stream.isatty():
            self._bar = _bar(self._stream)
            self._bar.start()

    def advance(self, size: int, total: int | None, keys: int) -> None:
        """A piece came.

        Args:
            size: its bytes.
            total: bytes of the whole snapshot; None if the server does not say (diskless).
            keys: how many keys of our namespaces ended in it.
        """
        if self._begun is None:
            return
        self._bytes += size
        self._keys += keys
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._bytes, total=total, keys=f"{self._keys:,} keys")
        elif (now := self._clock()) - self._logged_at >= self._period:
            self._logged_at = now
            _log.info("snapshot.reading", **self._figures(total, now - self._begun))

    def end(self) -> None:
        """The snapshot is over, complete or not; harmless if none had begun."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._begun is not None and self._bytes:
            _log.info("snapshot.read", **self._figures(None, self._clock() - self._begun))
        self._begun = None

    def _figures(self, total: int | None, seconds: float) -> dict[str, object]:
        rate = self._bytes / seconds if seconds > 0 else 0.0
        figures: dict[str, object] = {"bytes": self._bytes, "keys": self._keys, "bytes_per_s": round(rate)}
        if total is not None:
            left = total - self._bytes
            figures |= {"total_bytes": total, "eta_s": round(left / rate, 1) if rate else None}
        return figures


def _bar(stream: TextIO) -> Progress:
    from rich.console import Console  # noqa: PLC0415 - most runs show no bar and need not load it
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    text = TextColumn("{task.description}"), TextColumn("{task.fields[keys]}")
    columns = (text[0], BarColumn(), DownloadColumn(), TransferSpeedColumn(), text[1], TimeRemainingColumn())
    bar = Progress(*columns, console=Console(file=stream), transient=True)
    bar.add_task("snapshot", total=None, keys="")
    return bar
