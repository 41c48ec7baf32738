"""Notifications to systemd (sd_notify): ready, status, reloading, stopping, watchdog.

In: `NOTIFY_SOCKET` and `WATCHDOG_USEC` of the environment. Out: datagrams. Left to others: when to send them
(`daemon`). Without these variables nothing is sent or computed.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

from redisrepl.showing import plain

__all__ = ["Service"]

#: Seconds between two updates of the status.
_STATUS_PERIOD = 5.0
#: Seconds after which we report ready in any case: a hub that is away must not delay the boot of the machine.
_READY_AT_LATEST = 60.0


class Service:
    """The service manager that started this process, if there is one.

    Args:
        environment: where its variables are.
        clock: seconds that never go backwards.
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        self._ready = self._stopping = False
        self._began = self._looked_at = self._barked_at = clock()
        self._status = ""
        self._watchdog = 0.0
        if self._address:
            with contextlib.suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            ours = environment.get("WATCHDOG_PID", "") in {"", str(os.getpid())}
            period = environment.get("WATCHDOG_USEC", "")
            if ours and period.isdecimal():
                self._watchdog = int(period) / 1e6 / 3  # a third of the timeout, so that one late tick does no harm

    def tick(self, *, ready: bool, status: Callable[[], str]) -> None:
        """Send what has changed; call it often, from the event loop that the watchdog guards.

        Args:
            ready: the daemon was attached and subscribed once.
            status: returns its state in a line; called seldom.
        """
        if self._socket is None or self._stopping:
            return
        now, lines = self._clock(), []
        if not self._ready and (ready or now - self._began >= _READY_AT_LATEST):
            self._ready = True
            lines.append("READY=1")
            self._looked_at = -_STATUS_PERIOD  # send the status with it
        if now - self._looked_at >= _STATUS_PERIOD:
            self._looked_at = now
            if (said := status()) != self._status:
                self._status = said
                lines.append(f"STATUS={said}")
        if self._watchdog and now - self._barked_at >= self._watchdog:
            self._barked_at = now
            lines.append("WATCHDOG=1")
        if lines:
            self._send(*lines)

    def reloading(self) -> None:
        """The daemon begins to reload its files."""
        if self._ready:
            self._send("RELOADING=1", f"MONOTONIC_USEC={int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)}")

    def reloaded(self) -> None:
        """It has reloaded them; sent even if some cannot be used, since it goes on with the old ones."""
        if self._ready:
            self._send("READY=1")

    def stopping(self, status: str) -> None:
        """The daemon is shutting down."""
        self._send("STOPPING=1", f"STATUS={status}")
        self._stopping = True

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError):  # a service manager that does not read must not stop replication
            self._socket.sendto("\n".join(plain(line).replace("\n", " ") for line in lines).encode(), address)
