"""What all servers of the test bed have in common: a directory, a port, a life cycle, and a readable failure.

In: a command line and a readiness check, from the subclass. Out: a running server on a free loopback port.
Left to others: configuration (each server's own module) and the death of orphans (`processes`).
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, ClassVar

from testbed.directories import new_directory
from testbed.logs import keep
from testbed.ports import free_port, release_port
from testbed.processes import at_exit, end_group, forget_at_exit, is_running, spawn

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType
    from typing import Self

__all__ = ["Server", "ServerFailedError"]

_PORT_TAKEN = ("Address already in use", "EADDRINUSE", "Could not create server TCP listening socket", "Unable to bind")


class ServerFailedError(RuntimeError):
    """A server did not come up; the message ends with the tail of its log."""


class Server(ABC):
    """One real server process in a temporary directory.

    `start`, `stop`, `kill` and `restart` keep the port and the directory, so that clients find the same data at the
    same address. `close` (or leaving the context) stops it and removes the directory.
    """

    name: ClassVar[str]
    not_ready: ClassVar[tuple[type[Exception], ...]] = (OSError, HTTPException)
    death_signal: ClassVar[str] = "KILL"
    start_timeout: ClassVar[float] = 20.0
    stop_timeout: ClassVar[float] = 10.0

    def __init__(self) -> None:
        self.directory = new_directory(self.name)
        self.log = self.directory / f"{self.name}.log"
        self.port = free_port()
        self._process: subprocess.Popen[Any] | None = None
        self._port_is_known = False
        self._last_refusal = "none"
        at_exit(self, self.close)

    @abstractmethod
    def configure(self) -> None:
        """Write the configuration into `directory`; called before every start."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line; the process must stay in the foreground."""

    @abstractmethod
    def check_ready(self) -> None:
        """Raise one of `not_ready` as long as the server does not answer as it should."""

    @property
    def running(self) -> bool:
        return self._process is not None and is_running(self._process)

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self._process.pid

    def start(self) -> Self:
        """Start and wait until it answers; before the first success another port is tried if this one is taken."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        for _ in range(5):
            self._launch()
            if self._wait_until_ready():
                self._port_is_known = True
                return self
            self.kill()
            if self._port_is_known or not self._port_was_taken():
                break
            self._change_ports()
        raise ServerFailedError(
            f"{self.name} did not come up on port {self.port}; last failed check: {self._last_refusal}; "
            f"its log ends with:\n{self.tail()}"
        )

    def stop(self) -> None:
        """Ask it to stop (SIGTERM), wait, and kill what is left of it."""
        if self._process is not None:
            end_group(self._process, gracefully_within=self.stop_timeout)

    def kill(self) -> None:
        """SIGKILL, children included: nothing is flushed, nothing is said to clients."""
        if self._process is not None:
            end_group(self._process)

    def restart(self) -> Self:
        """Stop and start on the same port with the same directory."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open, nothing is answered."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        os.killpg(self.pid, signal.SIGCONT)

    def tail(self, lines: int = 25) -> str:
        """The last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"

    def close(self) -> None:
        """Stop it, give its port back and remove its directory."""
        forget_at_exit(self)
        self.stop()
        release_port(self.port)
        keep(self.name, self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        if self.running:
            return self
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self) -> None:
        self.kill()  # what a server that ended by itself may have left behind
        self.configure()
        with self.log.open("ab") as log:
            log.write(f"--- start on port {self.port}\n".encode())
            log.flush()
            self._process = spawn(
                self.command(), death_signal=self.death_signal, cwd=self.directory, stdout=log, stderr=log
            )

    def _wait_until_ready(self) -> bool:
        """Whether it became ready; not if it ended or took too long."""
        deadline = time.monotonic() + self.start_timeout
        pause = 0.002
        while self.running and time.monotonic() < deadline:
            try:
                self.check_ready()
            except self.not_ready as error:
                self._last_refusal = repr(error)
                time.sleep(pause)
                pause = min(pause * 1.5, 0.05)
            else:
                # Somebody else's server on the same port would answer while ours has already given up.
                return self.running
        return False

    def _port_was_taken(self) -> bool:
        recent = self.tail().rpartition("--- start on port")[2]
        return any(sign in recent for sign in _PORT_TAKEN)

    def _change_ports(self) -> None:
        release_port(self.port)
        self.port = free_port()
