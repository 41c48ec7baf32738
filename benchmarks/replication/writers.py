"""Writers that cost little, so that what is measured is not the writer.

In: a port and how much to write. Out: the writes, and the CPU seconds they took. Left to others: waiting for the
other side.
"""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

from testbed.directories import new_directory

__all__ = ["NAMESPACE", "Commands", "Writer", "hot_keys", "write_evenly"]

NAMESPACE = "bench:"
_VALUE = 64
_COMMAND = b"*3\r\n$3\r\nSET\r\n$%d\r\n%s%%012d\r\n$%d\r\n%%0%dd\r\n" % (
    len(NAMESPACE) + 12,
    NAMESPACE.encode(),
    _VALUE,
    _VALUE,
)
#: All commands have one length, so that the n-th of a file is found by counting.
LENGTH = len(_COMMAND % (0, 0))
_TICK = 0.005


class Commands:
    """Files of `SET`s of distinct keys with 64-byte values, as Redis reads them; each is made once."""

    def __init__(self) -> None:
        self.directory = new_directory("commands")
        self._files: dict[int, Path] = {}

    def file(self, count: int) -> Path:
        if count not in self._files:
            self._files[count] = self.directory / f"{count}.resp"
            with self._files[count].open("wb") as file:
                for start in range(0, count, 10_000):
                    file.write(b"".join(_COMMAND % (n, n) for n in range(start, min(start + 10_000, count))))
        return self._files[count]

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class Writer:
    """A process that writes; `seconds` and `cpu` are known once `wait` has returned."""

    def __init__(self, command: list[str], stdin: Path | None = None) -> None:
        self.began = time.perf_counter()
        with (stdin or Path(os.devnull)).open("rb") as source:
            self._process = subprocess.Popen(
                command, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
        self.ended = 0.0
        self.cpu = 0.0
        self._status = 0
        self._said = ""
        self._thread = threading.Thread(target=self._reap, daemon=True)
        self._thread.start()

    @classmethod
    def pipe(cls, port: int, file: Path) -> Writer:
        """Everything in the file, as fast as the server takes it."""
        return cls(["redis-cli", "-p", str(port), "--pipe"], file)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    def wait(self, timeout: float = 120.0) -> None:
        """Until everything is written."""
        self._thread.join(timeout)
        if self.running or self._status:
            self.end()
            raise RuntimeError(f"the writer failed ({self._status}): {self._said}")

    def end(self) -> None:
        """Whatever it has still to write."""
        if self.running:
            self._process.terminate()
            self._thread.join()

    def _reap(self) -> None:
        with self._process.stderr as stderr:
            self._said = stderr.read().strip()
        _, status, used = os.wait4(self._process.pid, 0)
        self.ended = time.perf_counter()
        self.cpu = used.ru_utime + used.ru_stime
        self._status = self._process.returncode = os.waitstatus_to_exitcode(status)


def hot_keys(port: int, keys: int) -> Writer:
    """`SET`s of a few keys and ever other values, by redis-benchmark, until it is ended."""
    value = "__rand_int__" * 5
    load = ["-P", "16", "-r", str(keys), "-n", "2000000000", "-q"]
    return Writer(["redis-benchmark", "-p", str(port), *load, "SET", f"{NAMESPACE}__rand_int__", value])


def write_evenly(port: int, file: Path, rate: float, seconds: float) -> int:
    """The first commands of the file, `rate` of them each second; how many were written."""
    total = int(rate * seconds)
    written = answered = 0
    began = time.perf_counter()
    with (
        socket.create_connection(("127.0.0.1", port)) as server,
        file.open("rb") as source,
        mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as commands,
    ):
        while answered < total * len(b"+OK\r\n"):
            due = min(total, int((time.perf_counter() - began) * rate) + 1)
            if due > written:
                server.sendall(commands[written * LENGTH : due * LENGTH])
                written = due
            if answered < written * len(b"+OK\r\n"):
                answered += len(server.recv(1 << 20))
            time.sleep(_TICK)
    return total
