"""The memory of this process: how it is collected, how much it is, and that it goes back to the system.

In: nothing. Out: bytes. Left to others: what is kept in it, and how much of that (`engine.pending`).
"""

from __future__ import annotations

import ctypes
import gc
import resource

__all__ = ["clear_away", "collect_seldom", "give_back", "left_over", "resident"]


def collect_seldom() -> None:
    """Have Python look for cycles less often.

    What waits is many small objects that live for long: looking at all of them again and again took a tenth of the
    time. Requests that are done are no cycles (`remote.session`), and errors that are kept do not keep what was read
    (`errors.without_frames`), so nothing large waits for the collector. In case it does: `left_over`.
    """
    gc.freeze()
    gc.set_threshold(10_000, 5, 5)


_owed = False


def left_over() -> None:
    """A large reply was refused: what it took is to be cleared away soon."""
    global _owed  # noqa: PLW0603 - there is one memory in a process
    _owed = True


def clear_away() -> bool:
    """If that is owed, look for cycles at once and give memory back; returns whether it was owed."""
    global _owed
    owed, _owed = _owed, False
    if owed:
        gc.collect()
        give_back()
    return owed


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
