"""Which programs the test bed starts: those of the machine, or others that the environment names.

In: environment variables. Out: a path or name for each kind of server, and the version that it tells.
Left to others: where other programs come from (`matrix`), configuring and starting them (each server's own module).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache

__all__ = ["connect_proxy", "daemon_python", "front_program", "hub_redis", "site_redis", "version_of", "webdis_program"]

_VERSION = re.compile(r"v=(\d+(?:\.\d+)+)")


def site_redis() -> str:
    """The redis-server of every role, if `TESTBED_REDIS` does not name another."""
    return os.environ.get("TESTBED_REDIS") or "redis-server"


def hub_redis() -> str:
    """The redis-server of the hub: `TESTBED_HUB_REDIS`, else that of the site."""
    return os.environ.get("TESTBED_HUB_REDIS") or site_redis()


def webdis_program() -> str:
    """The Webdis: `TESTBED_WEBDIS`, else the installed one."""
    return os.environ.get("TESTBED_WEBDIS") or "webdis"


def front_program() -> tuple[str, str]:
    """What ends TLS at the hub, and its program: `TESTBED_FRONT=haproxy=PATH`, else the installed nginx."""
    kind, _, program = os.environ.get("TESTBED_FRONT", "").partition("=")
    return kind or "nginx", program or kind or "nginx"


def connect_proxy() -> str:
    """The proxy by which sites may have to go out: `TESTBED_CONNECT`, else the installed tinyproxy."""
    return os.environ.get("TESTBED_CONNECT") or "tinyproxy"


def daemon_python() -> str:
    """The Python that runs the daemon: `TESTBED_PYTHON`, else the one that runs the tests."""
    return os.environ.get("TESTBED_PYTHON") or sys.executable


@cache
def version_of(redis_server: str) -> tuple[int, ...]:
    """What a redis-server or valkey-server calls its version.

    Raises:
        OSError: it cannot be started.
        RuntimeError: it tells none.
    """
    ran = subprocess.run([redis_server, "--version"], capture_output=True, text=True, check=False, timeout=30)
    found = _VERSION.search(ran.stdout)
    if found is None:
        raise RuntimeError(f"{redis_server} --version tells no version: {(ran.stdout + ran.stderr).strip()[:200]}")
    return tuple(map(int, found[1].split(".")))
