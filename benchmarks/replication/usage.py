"""What a running process has used, as /proc tells.

In: a process id. Out: CPU seconds, peak memory, connections. Left to others: which process plays which part.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["connections", "cpu_seconds", "exact_cpu_seconds", "peak_memory", "resident_memory"]

_TICK = os.sysconf("SC_CLK_TCK")
_ESTABLISHED = "01"


def cpu_seconds(pid: int) -> float:
    """Of the process and its children, as nginx has them; in steps of 10 ms."""
    total = 0.0
    for member in _family(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / _TICK
    return total


def exact_cpu_seconds(pid: int) -> float:
    """Of the process alone, all threads that it has now, in nanoseconds."""
    total = 0.0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return total


def resident_memory(pid: int) -> float:
    """What it has in memory now, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def peak_memory(pid: int) -> float:
    """The most resident memory it ever had, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmHWM: this takes a Linux kernel, and a process that runs")


def connections(pid: int, port: int) -> int:
    """Established TCP connections of the process to this port."""
    sockets = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            name = str(descriptor.readlink())
            if name.startswith("socket:["):
                sockets.add(name[8:-1])
    count = 0
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            remote_port = int(fields[2].rpartition(":")[2], 16)
            count += remote_port == port and fields[3] == _ESTABLISHED and fields[9] in sockets
    return count


def _family(pid: int) -> list[int]:
    children = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [pid, *(member for child in children for member in _family(child))]
