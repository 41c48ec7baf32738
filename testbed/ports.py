"""Free loopback ports that stay ours until we give them back.

In: nothing. Out: a TCP port number that no other test bed on this machine has taken.
Left to others: binding it. A stranger may still take the port in between, so servers retry with another one.
"""

from __future__ import annotations

import atexit
import errno
import random
import socket
from pathlib import Path

__all__ = ["claim_port", "free_port", "release_port"]

_FIRST = 15_000
_claims: dict[int, socket.socket] = {}


def free_port() -> int:
    """Claim a port below the kernel's ephemeral range.

    Below, because an outgoing connection could take an ephemeral port while its server is down between two tests of
    a restart, and because a client that polls a closed ephemeral port of its own machine can connect to itself.
    """
    last = _first_ephemeral_port() - 1
    for port in random.sample(range(_FIRST, last), k=500):
        if claim_port(port):
            return port
    raise OSError(errno.EADDRINUSE, f"no free port found between {_FIRST} and {last}")


def claim_port(port: int) -> bool:
    """Claim this very port; whether it was free."""
    if _claim(port):
        if _is_unused(port):
            return True
        release_port(port)
    return False


def release_port(port: int) -> None:
    """Give a port back that `free_port` returned."""
    if claim := _claims.pop(port, None):
        claim.close()


@atexit.register
def _release_all() -> None:
    for port in list(_claims):
        release_port(port)


def _claim(port: int) -> bool:
    """Bind an abstract Unix socket named after the port: atomic, machine-wide, and gone when this process is."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0redisrepl-testbed-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims[port] = claim
    return True


def _is_unused(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is as good as free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _first_ephemeral_port() -> int:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return first if first > _FIRST + 1_000 else 32_768
