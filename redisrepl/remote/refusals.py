"""What an error of the hub's Redis means for what comes next.

In: Redis' own error text. Out: whether it will pass, whether scripts may run and when to try again. Left to others:
what follows from it (`push`, `fetch`, `compare`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["ScriptRunner", "is_passing", "scripts_refused"]

#: Seconds after which refused scripts are tried again: an administrator may have allowed them meanwhile.
_PROBE_EVERY = 300.0

#: Errors of a server that will take the same command later.
_PASSING = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN")
#: Words with which scripts are refused: no permission, or a server that knows none.
_NO_SCRIPTS = ("NOPERM", "unknown command", "This Redis command is not allowed")


class ScriptRunner:
    """What runs scripts where the hub allows them, and now and then finds out whether it does again.

    Args:
        clock: seconds that never go backwards.

    Attributes:
        scripts: whether the hub allows `EVAL`; found out by trying.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._probe_at = math.inf
        self.scripts = True

    def tries_scripts(self) -> bool:
        """Whether the next request should be a script."""
        return self.scripts or self._clock() >= self._probe_at

    def no_scripts(self) -> None:
        """One was refused: none is tried for a while."""
        self.scripts = False
        self._probe_at = self._clock() + _PROBE_EVERY


def is_passing(error: str) -> bool:
    """Whether it stands for a state of the server, not for a fault of the command."""
    return error.removeprefix("ERR ").startswith(_PASSING) or (error.startswith("-") and is_passing(error[1:]))


def scripts_refused(error: str) -> bool:
    """Whether it says that no script may run at all."""
    return error.removeprefix("ERR ").startswith(_NO_SCRIPTS)
