"""What an error of the hub's Redis means for what comes next.

In: Redis' own error text. Out: whether it will pass, whether scripts may run. Left to others: what follows from it
(`push`, `fetch`, `compare`).
"""

from __future__ import annotations

__all__ = ["PROBE_EVERY", "is_passing", "scripts_refused"]

#: Seconds after which refused scripts are tried again: an administrator may have allowed them meanwhile.
PROBE_EVERY = 300.0

#: Errors of a server that will take the same command later.
_PASSING = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN")
#: Words with which scripts are refused: no permission, or a server that knows none.
_NO_SCRIPTS = ("NOPERM", "unknown command", "This Redis command is not allowed")


def is_passing(error: str) -> bool:
    """Whether it stands for a state of the server, not for a fault of the command."""
    return error.removeprefix("ERR ").startswith(_PASSING) or (error.startswith("-") and is_passing(error[1:]))


def scripts_refused(error: str) -> bool:
    """Whether it says that no script may run at all."""
    return error.removeprefix("ERR ").startswith(_NO_SCRIPTS)
