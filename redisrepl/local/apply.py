"""Changes written to the site, and where in its replication stream they then stand.

In: changes. Out: the error of each that was refused, and an offset before which the stream shows the others. Left to
others: what to apply, and expecting its echo (`inbound`).
"""

from __future__ import annotations

from collections.abc import Sequence

import redis.asyncio

from redisrepl.changes import Change, HashSet, StringSet
from redisrepl.local.address import SiteAddress
from redisrepl.local.connection import translated
from redisrepl.wire.webdis import commands_of

__all__ = ["SiteWriter"]


class SiteWriter:
    """Writes the site's Redis.

    Args:
        client: its connection is used by nobody else while an apply is under way.
        address: for messages.
    """

    def __init__(self, client: redis.asyncio.Redis, address: SiteAddress) -> None:
        self._client = client
        self._address = address

    async def apply(self, changes: Sequence[Change]) -> tuple[dict[int, str], int]:
        """Make changes of different keys happen, and changes of one key in order.

        Returns:
            Error text by index of those refused for good, and the site's replication offset after them.

        Raises:
            LinkLostError: the connection failed; whether they happened is not known.
            PeerUnavailableError, RefusedError: the server does not take writes.
        """
        with translated(self._address):
            pipeline = self._client.pipeline(transaction=False)
            owners: list[list[int]] = []
            mset: list[bytes] = []  # one command for all plain sets: the stream shows it as it is
            in_mset: list[int] = []
            for index, change in enumerate(changes):
                if isinstance(change, StringSet) and change.expires_at_ms is None:
                    mset += change.key, change.value
                    in_mset.append(index)
                else:
                    for command in _commands(change):
                        pipeline.execute_command(*command)
                        owners.append([index])
            if mset:
                pipeline.execute_command("MSET", *mset)
                owners.append(in_mset)
            pipeline.info("replication")
            *replies, info = await pipeline.execute(raise_on_error=False)
            errors: dict[int, str] = {}
            for indexes, reply in zip(owners, replies, strict=True):
                if isinstance(reply, Exception):
                    if not str(reply).startswith("WRONGTYPE"):
                        raise reply
                    errors.update(dict.fromkeys(indexes, str(reply)))
            if isinstance(info, Exception):
                raise info
        return errors, info["master_repl_offset"]


def _commands(change: Change) -> list[list[bytes]]:
    """As for the hub, but a hash in one command: its echo is then one change too."""
    if isinstance(change, HashSet):
        return [[b"HSET", change.key, *(w for f, v in change.fields.items() if v is not None for w in (f, v))]]
    return list(commands_of(change))
