"""Changes written to the site, and where in its replication stream they then stand.

In: changes. Out: the error of each that was refused, and an offset before which the stream shows the others. Left to
others: what to apply, and expecting its echo (`inbound`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis.asyncio
import redis.exceptions
import structlog

from redisrepl.changes import Change, HashSet, StringSet
from redisrepl.local.address import SiteAddress
from redisrepl.local.connection import translated
from redisrepl.wire.commands import ORIGIN_CHANNEL
from redisrepl.wire.webdis import commands_of

__all__ = ["SiteWriter", "site_commands"]

_log = structlog.get_logger("redisrepl")


class SiteWriter:
    """Writes the site's Redis.

    What is applied stands in one transaction behind a message that says who applied it. Both show in the replication
    stream, so that our own writes are known there even by a daemon that was restarted and expects nothing any more.

    Args:
        client: its connection is used by nobody else while an apply is under way.
        address: for messages.
        origin: who we are; None: leave no message.
    """

    def __init__(self, client: redis.asyncio.Redis, address: SiteAddress, origin: bytes | None = None) -> None:
        self._client = client
        self._address = address
        self._origin = origin

    async def apply(self, changes: Sequence[Change]) -> tuple[dict[int, str], int]:
        """Make changes of different keys happen, and changes of one key in order.

        Returns:
            Error text by index of those refused for good, and the site's replication offset after them.

        Raises:
            LinkLostError: the connection failed; whether they happened is not known.
            PeerUnavailableError, RefusedError: the server does not take writes.
        """
        commands: list[list[bytes]] = []
        owners: list[list[int]] = []
        mset: list[bytes] = [b"MSET"]  # one command for all plain sets: the stream shows it as it is
        in_mset: list[int] = []
        for index, change in enumerate(changes):
            if isinstance(change, StringSet) and change.expires_at_ms is None:
                mset += change.key, change.value
                in_mset.append(index)
            else:
                of_change = site_commands(change)
                commands += of_change
                owners += [[index]] * len(of_change)
        if in_mset:
            commands.append(mset)
            owners.append(in_mset)
        with translated(self._address):
            replies, offset = await self._run(commands)
            errors: dict[int, str] = {}
            for indexes, reply in zip(owners, replies, strict=True):
                if isinstance(reply, Exception):
                    if not str(reply).startswith("WRONGTYPE"):
                        raise reply
                    errors.update(dict.fromkeys(indexes, str(reply)))
        return errors, offset

    async def _run(self, commands: Sequence[Sequence[bytes]]) -> tuple[list[Any], int]:
        """The replies, and the replication offset after the last."""
        pipeline = self._client.pipeline(transaction=False)
        if self._origin is not None:
            pipeline.execute_command("MULTI")
            pipeline.execute_command("PUBLISH", ORIGIN_CHANNEL, self._origin)
        for command in commands:
            pipeline.execute_command(*command)
        if self._origin is not None:
            pipeline.execute_command("EXEC")
        pipeline.info("replication")
        *replies, info = await pipeline.execute(raise_on_error=False)
        if self._origin is not None:
            if isinstance(replies[1], redis.exceptions.NoPermissionError):
                _log.warning(
                    "apply.no_origin",
                    error=str(replies[1]),
                    hint=f"after a restart our own writes are pushed again: allow PUBLISH on {ORIGIN_CHANNEL.decode()}",
                )
                self._origin = None
                return await self._run(commands)
            executed = replies[-1]
            if isinstance(executed, Exception):
                raise executed
            replies = executed[1:]
        if isinstance(info, Exception):
            raise info
        return replies, info["master_repl_offset"]


def site_commands(change: Change) -> list[list[bytes]]:
    """As for the hub, but a hash in one command: its echo is then one change too."""
    if isinstance(change, HashSet):
        return [[b"HSET", change.key, *(w for f, v in change.fields.items() if v is not None for w in (f, v))]]
    return list(commands_of(change))
