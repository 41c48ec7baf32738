"""Child processes that never outlive the test run.

In: a command line. Out: a `subprocess.Popen` in a process group of its own, which the kernel ends when we die.
Left to others: when it is ready, and how it is asked to stop.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Process", "at_exit", "await_exit", "end_group", "forget_at_exit", "is_running", "spawn"]

# The kernel sends the death signal when the THREAD that forked ends, not the process. All children are therefore
# born in this one thread, which lives as long as the interpreter.
_nursery = ThreadPoolExecutor(max_workers=1, thread_name_prefix="testbed-nursery")
_farewells: dict[int, Callable[[], None]] = {}


class Process(Protocol):
    """A child: `subprocess.Popen`, or `prefork.Forked`."""

    pid: int
    returncode: int | None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code."""


def spawn(command: Sequence[str], *, death_signal: str = "KILL", **options: Any) -> subprocess.Popen[Any]:
    """Start `command` with a parent-death signal, away from the terminal's Ctrl-C.

    `setpriv` sets the signal instead of a `preexec_fn`, which is not safe in a process with threads.
    """
    wrapped = ["setpriv", f"--pdeathsig={death_signal}", "--", *command]
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("start_new_session", True)
    return _nursery.submit(subprocess.Popen, wrapped, **options).result()


def end_group(process: Process, *, gracefully_within: float = 0.0) -> int:
    """End a process and its children: with SIGTERM if given time, else, or after that, with SIGKILL."""
    if process.returncode is None:  # not reaped, so nobody else can have got its id
        if gracefully_within:
            os.kill(process.pid, signal.SIGTERM)
            os.kill(process.pid, signal.SIGCONT)  # a paused process would sit on the SIGTERM
            await_exit(process.pid, gracefully_within)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def is_running(process: Process) -> bool:
    """Whether it still runs, found out without reaping it: its children could then no longer be told apart."""
    if process.returncode is not None:
        return False
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def await_exit(pid: int, timeout: float) -> bool:
    """Whether a child ends within so many seconds; it is not reaped."""
    descriptor = os.pidfd_open(pid)
    try:
        return bool(select.select([descriptor], [], [], timeout)[0])
    finally:
        os.close(descriptor)


def at_exit(owner: object, farewell: Callable[[], None]) -> None:
    """Have `farewell` called when the interpreter ends, unless `forget_at_exit` came first."""
    _farewells[id(owner)] = farewell


def forget_at_exit(owner: object) -> None:
    """The owner has cleaned up by itself."""
    _farewells.pop(id(owner), None)


@atexit.register
def _say_farewell() -> None:
    for farewell in reversed(list(_farewells.values())):
        with contextlib.suppress(Exception):
            farewell()
