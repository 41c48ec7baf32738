"""Runs commands at the site's Redis as one step: all of them or none.

In: a connection of our own, commands. Out: whether they ran. Left to others: which commands (`subcommands.conflicts`),
our errors for redis-py's (`local.client`), applying what comes from the hub (`local.apply`).

Redis rolls nothing back. But what it refuses in general (memory is full, a permission is missing, the disk or a replica
fails) it refuses when a command is queued or when EXEC begins, and then runs none of them. What a script runs is not
queued, so a caller asks for the permissions of that before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["ask_permission", "run_whole"]

_Commands = Sequence[Sequence[bytes]]


async def run_whole(connection: Any, commands: _Commands) -> bool:
    """Run them in one transaction.

    Args:
        connection: that may watch keys. After an error it may be in a transaction, so it must be closed.
        commands: such as cannot fail once they are queued, or one alone.

    Returns:
        Whether they ran; False if a watched key was changed.

    Raises:
        redis.exceptions.RedisError: a command was refused, and so none ran.
    """
    if len(commands) == 1:  # a step by itself, which needs no permission beside its own
        _raise_first(await connection.exchange(commands))
        return True
    *_, executed = await _queued(connection, [*commands, [b"EXEC"]])
    _raise_first(executed or ())
    return executed is not None


async def ask_permission(connection: Any, commands: _Commands) -> None:
    """Have the server check permissions for these commands, without running them.

    Args:
        connection: as above. It is closed, and opened anew by what is sent next.
        commands: in a form that can be queued.

    Raises:
        redis.exceptions.RedisError: one was refused.
    """
    await _queued(connection, commands)
    await connection.disconnect(nowait=True)  # DISCARD takes a permission that few users have


async def _queued(connection: Any, commands: _Commands) -> list[Any]:
    """Begin a transaction and send these commands; their replies."""
    for sent in ([[b"MULTI"]], commands):  # behind a MULTI that is refused each command would run by itself
        replies: list[Any] = await connection.exchange(sent)
        _raise_first(replies)
    return replies


def _raise_first(replies: Iterable[Any]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
