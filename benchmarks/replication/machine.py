"""What the numbers were measured on.

In: nothing. Out: lines of name and value. Left to others: printing them.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

from redisrepl import __version__

__all__ = ["machine"]

_CHECKOUT = Path(__file__).parents[2]
_PACKAGES = ("hiredis", "redis", "httpx", "httptools")


def machine() -> dict[str, str]:
    """Processor, memory, kernel, and the versions of everything that takes part."""
    models = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        "redisrepl": f"{__version__} at {_said('git', '-C', str(_CHECKOUT), 'describe', '--always', '--dirty')}",
        "processor": f"{models[0] if models else '?'}, {len(os.sched_getaffinity(0))} cores for everything",
        "memory": f"{memory:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "redis-server": _number("redis-server", "--version"),
        # Webdis has no flag that tells its version.
        "Webdis": _said("dpkg-query", "-W", "-f", "${Version}", "webdis"),
        "nginx": _number("nginx", "-v"),
        "curl": _number("curl", "--version"),
        "Python": f"{platform.python_version()} with {', '.join(f'{name} {version(name)}' for name in _PACKAGES)}",
    }


def _number(*command: str) -> str:
    found = re.search(r"\d+(\.\d+)+", _said(*command))
    return found[0] if found else "?"


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except FileNotFoundError:
        return "?"
    return (done.stdout + done.stderr).strip() if done.returncode == 0 else "?"
