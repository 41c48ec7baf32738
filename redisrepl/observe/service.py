"""What systemd is told: that the daemon is ready, how it stands, that it reloads, that it lives (sd_notify).

In: `NOTIFY_SOCKET` and `WATCHDOG_USEC` of the environment. Out: datagrams. Left to others: when each is true
(`daemon`). Without these variables nothing happens, and nothing is computed for it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

__all__ = ["Service"]

#: Seconds between two looks at how things stand.
_STATUS_PERIOD = 5.0
#: Who has waited for readiness so long waits no longer: a hub that is away must not hold up a machine that starts.
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
                self._watchdog = int(period) / 1e6 / 3

    def tick(self, *, ready: bool, status: Callable[[], str]) -> None:
        """Tell what is new; call it often, from the loop whose life counts.

        Args:
            ready: everything was there once.
            status: how it stands, in a line; asked seldom.
        """
        if self._socket is None or self._stopping:
            return
        now, lines = self._clock(), []
        if not self._ready and (ready or now - self._began >= _READY_AT_LATEST):
            self._ready = True
            lines.append("READY=1")
            self._looked_at = -_STATUS_PERIOD
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
        """It begins to read its files again."""
        if self._ready:
            self._send("RELOADING=1", f"MONOTONIC_USEC={int(time.clock_gettime(time.CLOCK_MONOTONIC) * 1e6)}")

    def reloaded(self) -> None:
        """It has read them; said even if some cannot be used, since it goes on with what it had."""
        if self._ready:
            self._send("READY=1")

    def stopping(self, status: str) -> None:
        """It takes nothing in any more."""
        self._send("STOPPING=1", f"STATUS={status}")
        self._stopping = True

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError):  # nobody reads: that must not hold up replication
            self._socket.sendto("\n".join(line.replace("\n", " ") for line in lines).encode(), address)
