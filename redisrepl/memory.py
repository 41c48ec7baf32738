"""The memory of this process: how it is collected, how much it is, and that it goes back to the system.

In: nothing. Out: bytes. Left to others: what is kept in it, and how much of that (`engine.pending`).
"""

from __future__ import annotations

import ctypes
import gc
import resource

__all__ = ["collect_seldom", "give_back", "resident"]


def collect_seldom() -> None:
    """Have Python look for cycles less often.

    What waits is many small objects that live for long: looking at all of them again and again took a tenth of the
    time. Requests that are done are no cycles (`remote.session`), so nothing large waits for the collector.
    """
    gc.freeze()
    gc.set_threshold(10_000, 5, 5)


def give_back() -> None:
    """Give pages of the heap that hold nothing back to the system; takes milliseconds.

    By itself glibc does so at the end of the heap only, and what is long-lived there keeps all before it: a daemon that
    had a backlog, or was merely busy for an hour, would look as if it leaked. Other C libraries have no need of it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident() -> int:
    """Bytes that the process holds now; where the system does not tell, the most that it ever held."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - a pseudo-file, not a place
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
