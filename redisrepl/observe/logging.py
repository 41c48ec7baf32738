"""Log lines on stderr: a fixed event name, fields, UTC time; text for people or JSON for machines.

In: the format and level. Out: structlog, configured. Left to others: what to log, which is never the value of a key.
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


def configure_logging(log_format: str, level: str) -> None:
    """Set up structlog for this process."""
    stamina.instrumentation.set_on_retry_hooks([])  # `observe.failures` logs failures, and repetitions less often
    renderer: structlog.typing.Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")  # no-color.org
        renderer = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=28)
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
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
