"""A mark at the site: up to which agreement it holds everything, should it be restarted.

In: numbers of agreements. Out: the last one that the site still has. Left to others: when one is written
(`flow.saving`), what follows from it (`flow.judging`).

What a Redis restores after a restart is a prefix of its history. A mark is part of that history: if the one that was
written after an agreement is there, so is all that the agreement is about.
"""

from __future__ import annotations

import redis.asyncio
import redis.exceptions
import structlog

from redisrepl.local.address import SiteAddress
from redisrepl.local.client import ask, translated
from redisrepl.wire.replies import number

__all__ = ["SiteMark"]

_log = structlog.get_logger("redisrepl")

_PREFIX = b"redisrepl:mark:"
#: Seconds after which one that is not written any more expires.
_LASTS = b"2592000"


class SiteMark:
    """One key at the site, outside of the namespaces.

    Args:
        client: writes at the site.
        address: for messages.
        name: the first namespace and the origin, so that an ACL can tell the sites apart.

    Attributes:
        key: it.
    """

    def __init__(self, client: redis.asyncio.Redis, address: SiteAddress, name: bytes) -> None:
        self.key = _PREFIX + name
        self._client = client
        self._address = address
        self._allowed = True

    async def write(self, agreed: int) -> None:
        """All that was agreed on up to this number is about what the site holds now; nothing where that is denied.

        Raises:
            RedisreplError: the site cannot be written to.
        """
        if not self._allowed:
            return
        with translated(self._address):
            try:
                await ask(self._client, b"SET", self.key, b"%d" % agreed, b"EX", _LASTS)
            except redis.exceptions.NoPermissionError as error:
                self._allowed = False
                _log.info(
                    "site.no_mark",
                    key=self.key.decode("ascii", "backslashreplace"),
                    error=str(error),
                    cost="after a restart of the site's Redis, fewer of its writes are known to be newer",
                    hint=f"let this user SET and GET keys that begin with {_PREFIX.decode()} at the site",
                )

    async def read(self) -> int:
        """The last number that the site has; 0: none, or it may not be read.

        Raises:
            RedisreplError: the site cannot be asked.
        """
        with translated(self._address):
            try:
                reply = await ask(self._client, b"GET", self.key)
            except redis.exceptions.ResponseError as error:
                if isinstance(error, redis.exceptions.NoPermissionError) or str(error).startswith("WRONGTYPE"):
                    return 0
                raise
        return (number(reply) or 0) if isinstance(reply, bytes) else 0
