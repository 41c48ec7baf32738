"""What an error of the hub's Redis means for what comes next.

In: Redis' own error text. Out: whether it will pass, whether scripts may run. Left to others: what is sent, and what
follows from it (`remote.push`, `remote.fetch`, `remote.compare`).
"""

from __future__ import annotations

import re

from redisrepl.errors import CommandRefusedError, denies_key

__all__ = ["is_denial", "is_passing", "is_unauthenticated", "refuses_scripts", "scripts_refused"]

#: Webdis answers with this where its own ACL denies a command.
_FORBIDDEN = 403
#: Errors of a server that will take the same command later.
_PASSING = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN")
#: Words with which scripts are refused: no permission, or a server that knows none.
_NO_SCRIPTS = ("NOPERM", "unknown command", "This Redis command is not allowed")
#: Webdis is not logged in, so nobody gets anything. Redis takes no large command from one who is not.
_UNAUTHENTICATED = ("NOAUTH", "WRONGPASS", "Protocol error: unauthenticated")
#: Redis or a proxy denies a command or a key to this client. (In a script Redis 7.0 says only that the user can't.)
_DENIED = re.compile(r"-?(NOPERM|ERR The user executing the script can't)|.* answered HTTP 40[13]\b")


def is_passing(error: str) -> bool:
    """Whether it stands for a state of the server, not for a fault of the command."""
    return error.removeprefix("ERR ").startswith(_PASSING) or (error.startswith("-") and is_passing(error[1:]))


def is_unauthenticated(error: str) -> bool:
    """Whether it concerns the connection, and no command."""
    return error.removeprefix("-").removeprefix("ERR ").startswith(_UNAUTHENTICATED)


def is_denial(error: str) -> bool:
    """Whether it is about permissions: of this key, or of all while somebody edits them."""
    return denies_key(error) or _DENIED.match(error) is not None


def scripts_refused(error: str) -> bool:
    """Whether it says that no script may run at all."""
    return error.removeprefix("ERR ").startswith(_NO_SCRIPTS)


def refuses_scripts(error: Exception) -> bool:
    """Whether a hub refused a script because it runs none for us: Redis says so, or Webdis' own ACL."""
    return isinstance(error, CommandRefusedError) and (error.status == _FORBIDDEN or scripts_refused(str(error)))
