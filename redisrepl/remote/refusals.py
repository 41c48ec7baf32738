"""Classifies errors of the hub's Redis.

In: Redis' own error text. Out: the error to raise for it; whether it is about scripts, or about permissions. Left to
others: what follows from that (`remote.push`, `remote.fetch`, `remote.compare`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from redisrepl.errors import CommandRefusedError, HubError, ValueTooLargeError, concerns_value, denies_key

__all__ = [
    "ends_connection",
    "is_denial",
    "is_passing",
    "is_unauthenticated",
    "may_concern_all",
    "refusal",
    "refuses_script",
    "refuses_scripts",
    "scripts_refused",
    "unready",
]

#: What Redis itself says comes with this status.
_OK = 200

#: Webdis answers with this where its own ACL denies a command.
_FORBIDDEN = 403
#: What stands before Redis' error: in a script up to 6.2, which script, its place and a dash; a code that says nothing.
_BEFORE = re.compile(r"(ERR Error running script \(call to \w+\): )?(@user_script: ?\d+: )*-?(ERR )?")
#: Errors of a server that will accept the same command later; and of one that has become a node of a cluster, which
#: says so in other words to a script.
_PASSING = (
    *("BUSY ", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN"),
    *("ASK ", "CROSSSLOT", "MOVED ", "Script attempted to ", "Can not run script on cluster"),
)
#: Errors that refuse scripts: no permission, or a server without them.
_NO_SCRIPTS = ("NOPERM", "unknown command", "This Redis command is not allowed")
#: Webdis is not logged in, so every command fails. (A large command then gets the protocol error.)
_UNAUTHENTICATED = ("NOAUTH", "WRONGPASS", "Protocol error: unauthenticated")
#: A value is larger than Redis takes, or a command has more words. Redis then closes the connection.
_TOO_LARGE = ("Protocol error: invalid bulk length", "Protocol error: invalid multibulk length")
#: Redis or a proxy denies a command or a key to this client, or does not know the command. (The others are what Redis
#: says in a script.)
_DENIED = re.compile(
    r"NOPERM|The user executing the script can't|(?i:unknown( redis)? command)|.* answered HTTP 40[13]\b"
)


def is_passing(error: str) -> bool:
    """Whether it reports a state of the server that will pass, not a fault of the command."""
    return _said(error).startswith(_PASSING)


def ends_connection(error: str) -> bool:
    """Whether Redis closes the connection after it: it cannot tell where the next command begins."""
    return _said(error).startswith("Protocol error")


def is_unauthenticated(error: str) -> bool:
    """Whether the connection is not logged in: it concerns no single command."""
    return _said(error).startswith(_UNAUTHENTICATED)


def is_denial(error: str) -> bool:
    """Whether it is about permissions: of this key, or of all keys."""
    return denies_key(error) or _DENIED.match(_said(error)) is not None


def may_concern_all(error: str) -> bool:
    """Whether other keys may be refused likewise: it is about permissions, or we do not know what it is about."""
    return is_denial(error) or not (concerns_value(_said(error)) or " answered HTTP " in error)


def scripts_refused(error: str) -> bool:
    """Whether it says that no script may run at all."""
    return _said(error).startswith(_NO_SCRIPTS)


def _said(error: str) -> str:
    """What Redis says, without what stands before it."""
    return _BEFORE.sub("", error, count=1)


def refuses_scripts(error: Exception) -> bool:
    """Whether the hub runs no scripts for us: Redis says so, or Webdis' own ACL."""
    return isinstance(error, CommandRefusedError) and (error.status == _FORBIDDEN or scripts_refused(str(error)))


def refuses_script(error: Exception) -> bool:
    """Whether it is about scripts at all, or about a command in this one: either way there is another way."""
    if isinstance(error, CommandRefusedError) and error.status == _OK:
        return not str(error).startswith("NOSCRIPT")
    return refuses_scripts(error)


def refusal(error: str) -> HubError:
    """What to raise for Redis' own error: only what the server will not do later either is refused."""
    if is_passing(error):
        return HubError(f"the hub is not ready: {error}", status=_OK)
    if _said(error).startswith(_TOO_LARGE):
        said = "a value is larger than the hub's Redis takes (proto-max-bulk-len)"
        return ValueTooLargeError(f"{error}: {said}", status=_OK)
    return CommandRefusedError(error, status=_OK)


@contextmanager
def unready(what: str) -> Iterator[None]:
    """Within this, a script that the hub's Redis does not refuse for good, but fails, is one that it is not ready for.

    Args:
        what: begins the error, and says what was asked for.

    Raises:
        HubError: the hub is not ready.
    """
    try:
        yield
    except CommandRefusedError as error:
        if error.status != _OK:
            raise
        raise HubError(f"{what}: {error}", status=_OK) from None
