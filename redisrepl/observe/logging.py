"""Log lines on stderr: a fixed event name, fields, UTC time; text for people or JSON for machines.

In: the format and level. Out: structlog, configured. Left to others: what to log, which is never the value of a key;
standard error (`stdio`).
"""

from __future__ import annotations

import logging
import os
import sys

import stamina.instrumentation
import structlog

from redisrepl.observe.recent import recent
from redisrepl.showing import plain_fields

__all__ = ["configure_logging"]


class _Lines:
    """Where lines go; those that could not be written are counted, and that is said when one can be written again."""

    def __init__(self) -> None:
        self._lost = 0

    def msg(self, line: str) -> None:
        """Write a line."""
        if not sys.stderr.write(f"{line}\n"):
            self._lost += 1
        elif self._lost:
            lost, self._lost = self._lost, 0
            structlog.get_logger("redisrepl").warning("log.lost", lines=lost)

    debug = info = warning = error = critical = msg


def configure_logging(log_format: str, level: str) -> None:
    """Set up structlog for this process."""
    stamina.instrumentation.set_on_retry_hooks([])  # `observe.failures` logs failures, and repetitions less often
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")  # no-color.org
        renderer = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=28)
    lines = _Lines()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            recent,
            structlog.processors.format_exc_info,
            *([] if log_format == "json" else [plain_fields]),  # JSON escapes by itself
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
