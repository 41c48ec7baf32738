"""Redisrepl processes that skip the import of its modules: children of one process that has loaded them.

In: arguments, environment, directory. Out: a process like that of `python -m redisrepl`, a few hundred milliseconds of
processor time earlier. Left to others: what it says and when it ends (`daemon`).

A run of all tests starts more than a thousand of them. Each is a process of its own, with a session, memory and file
descriptors of its own, and runs `redisrepl.cli.main` from the beginning; only the interpreter and the modules are there
already. What depends on how the interpreter starts is started afresh: see `suits`. So is everything while
`REDISREPL_FRESH` is set in the environment of the tests.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any, NoReturn

from testbed.processes import await_exit, spawn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["Forked", "Parent", "suits"]

_MODULES = (
    "redisrepl.daemon",
    "redisrepl.settings.validation",
    *(f"redisrepl.subcommands.{n}" for n in ("check", "verify")),
)
_LARGEST = 1 << 17
#: `prctl(2)`
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
#: What an interpreter looks at when it starts, and the loader of libraries.
_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "TZ")


def suits(interpreter: Sequence[str], env: Mapping[str, str]) -> bool:
    """Whether a process with this environment, added to ours, may be forked."""
    ordinary = tuple(interpreter) == (sys.executable,) and not any(name.startswith(_AT_START) for name in env)
    return ordinary and "REDISREPL_FRESH" not in os.environ


class Forked:
    """A process that was forked for us; as much of `subprocess.Popen` as is used of it."""

    def __init__(self, pid: int, stdout: IO[bytes], stderr: IO[bytes]) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; `subprocess.TimeoutExpired` if it does not end in time."""
        if self.returncode is None:
            if timeout is not None and not await_exit(self.pid, timeout):
                raise subprocess.TimeoutExpired("redisrepl", timeout)
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


class Parent:
    """The process that forks; started when it is asked first."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def fork(self, args: Sequence[str], env: Mapping[str, str], cwd: Path | str) -> Forked:
        """Start redisrepl with these arguments, and no other environment than this."""
        link = self._socket or self._start()
        stdout, theirs_out = os.pipe()
        stderr, theirs_err = os.pipe()
        order = json.dumps({"args": list(args), "env": dict(env), "cwd": str(cwd)}).encode()
        try:
            socket.send_fds(link, [order], [theirs_out, theirs_err])
        finally:
            os.close(theirs_out)
            os.close(theirs_err)
        pid = int(link.recv(64))
        return Forked(pid, os.fdopen(stdout, "rb"), os.fdopen(stderr, "rb"))

    def _start(self) -> socket.socket:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # so that what it forks becomes our child
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = f"from testbed.prefork import serve; serve({theirs.fileno()})"
        process = spawn([sys.executable, "-c", code], pass_fds=[theirs.fileno()])
        theirs.close()
        atexit.register(process.kill)
        self._socket = ours
        return ours


def serve(descriptor: int) -> None:
    """Fork for each order that comes; in the child, run redisrepl and end as it does."""
    for name in _MODULES:
        __import__(name)
    gc.freeze()
    with socket.socket(fileno=descriptor) as link:
        while True:
            message, descriptors, _, _ = socket.recv_fds(link, _LARGEST, 2)
            if not message:
                return
            if (pid := _fork_apart(link)) == 0:
                break
            for number in descriptors:
                os.close(number)
            link.send(b"%d" % pid)
    order = json.loads(message)
    _become(order["env"], order["cwd"], descriptors)
    from redisrepl.cli import main  # noqa: PLC0415 - it is not wanted by who imports this module

    _end(main, order["args"])


def _end(main: Callable[[Sequence[str]], int], args: Sequence[str]) -> NoReturn:
    """Run it and end as an interpreter does, but without taking apart what was there before the fork.

    That would write to the memory of all modules, so copy it: a third of the processor time of a short run.
    """
    code: object = 1
    try:
        code = main(args)
    except SystemExit as ending:
        code = ending.code
    except BaseException:  # noqa: BLE001 - said as the interpreter says it
        sys.excepthook(*sys.exc_info())
    threading._shutdown()  # type: ignore[attr-defined] - waits for threads
    atexit._run_exitfuncs()
    gc.collect()  # what nobody has closed says so
    sys.stdout.flush()
    sys.stderr.flush()
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    os._exit(code or 0)


def _fork_apart(link: socket.socket) -> int:
    """Fork a process whose parent is not we but our own; its id, and 0 in it."""
    told, tell = os.pipe()
    between = os.fork()
    if between:
        os.close(tell)
        pid = int(os.read(told, 64))
        os.close(told)
        os.waitpid(between, 0)
        return pid
    os.close(told)
    born = os.getpid()
    if pid := os.fork():
        os.write(tell, b"%d" % pid)
        os._exit(0)
    os.close(tell)
    link.close()
    while os.getppid() == born:
        time.sleep(0.0002)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return 0


def _become(env: Mapping[str, str], cwd: str, descriptors: Sequence[int]) -> None:
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for number, descriptor in zip((1, 2), descriptors, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = ["redisrepl"]
    sys.stdout, sys.stderr = _text(1, "strict"), _text(2, "backslashreplace")


def _text(descriptor: int, errors: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.FileIO(descriptor, "w", closefd=False),  # type: ignore[arg-type] - unbuffered, as PYTHONUNBUFFERED asks
        errors=errors,
        write_through=True,
    )


def _prctl(option: int, value: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")
