"""What an error of the hub's Redis means for what comes next.

In: Redis' own error text. Out: whether it will pass, whether scripts may run, by their hash or in full, and when to try
again. Left to others: what is sent, and what follows from it (`push`, `fetch`, `compare`).
"""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Callable
from itertools import count
from typing import Protocol, TypeVar

from redisrepl.errors import CommandRefusedError, denies_key
from redisrepl.wire.webdis import CommandError

__all__ = ["ScriptRunner", "ScriptUser", "is_denial", "is_passing", "is_unauthenticated", "scripts_refused"]

#: Seconds after which refused scripts are tried again: an administrator may have allowed them meanwhile.
_PROBE_EVERY = 300.0

#: Errors of a server that will take the same command later.
_PASSING = ("BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN")
#: Words with which scripts are refused: no permission, or a server that knows none.
_NO_SCRIPTS = ("NOPERM", "unknown command", "This Redis command is not allowed")
#: Webdis is not logged in, so nobody gets anything. Redis takes no large command from one who is not.
_UNAUTHENTICATED = ("NOAUTH", "WRONGPASS", "Protocol error: unauthenticated")
#: Redis or a proxy denies a command or a key to this client. (In a script Redis 7.0 says only that the user can't.)
_DENIED = re.compile(r"-?(NOPERM|ERR The user executing the script can't)|.* answered HTTP 40[13]\b")


_Reply_co = TypeVar("_Reply_co", covariant=True)


class _Send(Protocol[_Reply_co]):
    """Sends a script, named by its hash or in full; the reply, understood.

    Raises:
        CommandError, CommandRefusedError: the script was refused.
    """

    async def __call__(self, *, by_hash: bool) -> _Reply_co: ...


class ScriptUser:
    """What uses scripts where the hub allows them, and now and then finds out whether it does again.

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


class ScriptRunner(ScriptUser):
    """What runs one script again and again, by its hash as soon as the hub knows it.

    Args:
        clock: seconds that never go backwards.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._by_hash = False  # the hub has run the script before, and knows it by its hash
        self._hash_refused = False
        self._name = secrets.token_hex(4).encode()
        self._numbers = count()

    def token(self) -> bytes:
        """What the answer to one request, and to no other of anybody's, repeats."""
        return b"%b-%d" % (self._name, next(self._numbers))

    async def run(self, send: _Send[_Reply_co]) -> _Reply_co:
        """Run the script, for who has just one: by its hash if the hub knows it, which takes 1,000 bytes off a request.

        Raises:
            CommandError, CommandRefusedError: it is refused in full too.
        """
        refused = False
        if self._by_hash:
            try:
                return await send(by_hash=True)
            except (CommandError, CommandRefusedError) as error:
                if is_passing(str(error)):
                    raise
                self._by_hash = False
                refused = not str(error).startswith("NOSCRIPT")  # else the hub was restarted, or its scripts flushed
        reply = await send(by_hash=False)
        self._hash_refused |= refused  # it was the hash, not the script
        self._by_hash = not self._hash_refused
        return reply


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
