"""Where programs are kept, and the logs of what failed.

In: the environment. Out: directories. Left to others: filling and emptying them.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_directory", "logs_directory"]


def cache_directory() -> Path:
    """Fetched programs: `MATRIX_CACHE`, else redisrepl-matrix below the user's cache."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "redisrepl-matrix"
    return Path(os.environ.get("MATRIX_CACHE") or own)


def logs_directory() -> Path:
    """Logs of runs that failed, below the cache."""
    return cache_directory() / "logs"
