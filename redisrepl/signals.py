"""What the process does when it is told to.

In: SIGTERM, SIGINT, SIGUSR1, SIGHUP. Out: an event set, a call made; at a second order to stop, the end. Left to
others: stopping in order (`daemon`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import structlog

from redisrepl.errors import ExitCode

__all__ = ["process_signals"]

_log = structlog.get_logger("redisrepl")


@contextlib.contextmanager
def process_signals(stop: asyncio.Event, say_state: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT ask for a clean stop, a second one does not wait; SIGUSR1 asks how things stand.

    Args:
        stop: set at the first order to stop.
        say_state: called at SIGUSR1.
        reload: called at SIGHUP.
    """
    loop = asyncio.get_running_loop()

    def order() -> None:
        if stop.is_set():
            _log.warning("daemon.forced")
            os._exit(ExitCode.UNEXPECTED)
        stop.set()

    handlers = {signal.SIGTERM: order, signal.SIGINT: order, signal.SIGUSR1: say_state, signal.SIGHUP: reload}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
