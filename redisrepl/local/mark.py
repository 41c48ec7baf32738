"""A mark at the site: after a restart of the site's Redis, it shows up to which agreement the site holds everything.

In: numbers of agreements. Out: the last number that the site still has. Left to others: when to write one
(`flow.saving`), what follows from it (`flow.judging`).

After a restart, a Redis has a prefix of its history. The mark is part of that history: if a mark that was written after
an agreement is still there, so is everything that was agreed on. A script writes it, which looks at the history first:
a server may take the data of another (`REPLICAOF`) without ending a connection.
"""

from __future__ import annotations

import redis.asyncio
import redis.exceptions
import structlog

from redisrepl.local.address import SiteAddress
from redisrepl.local.client import Followed, ask, refuses_script, translated
from redisrepl.wire.replies import number

__all__ = ["SiteMark"]

_log = structlog.get_logger("redisrepl")

_PREFIX = b"redisrepl:mark:"
#: Seconds after which the mark expires if nobody writes it again.
_LASTS = b"2592000"
#: ARGV: replication id, number, seconds. Nothing is written in another history.
_SCRIPT = b"""if string.find(redis.call('INFO', 'replication'), 'master_replid:' .. ARGV[1], 1, true) then
return redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end"""


class SiteMark:
    """One key at the site, outside of the namespaces.

    Args:
        client: writes at the site.
        address: for messages.
        followed: the server of whose history the mark is a part.
        name: the first namespace and the origin, so that an ACL can tell the sites apart.

    Attributes:
        key: the key of the mark.
    """

    def __init__(self, client: redis.asyncio.Redis, address: SiteAddress, followed: Followed, name: bytes) -> None:
        self.key = _PREFIX + name
        self._client = client
        self._address = address
        self._followed = followed
        self._allowed = True

    async def write(self, agreed: int) -> None:
        """Write that the site holds everything that was agreed on up to this number; does nothing if that is denied.

        Raises:
            RedisreplError: the site cannot be written to.
        """
        history = self._followed.history.encode("ascii", "replace")
        if not self._allowed or not history:
            return
        with translated(self._address):
            try:
                await ask(self._client, b"EVAL", _SCRIPT, b"1", self.key, history, b"%d" % agreed, _LASTS)
            except redis.exceptions.ResponseError as error:
                if not refuses_script(error):
                    raise
                self._allowed = False
                _log.info(
                    "site.no_mark",
                    key=self.key.decode("ascii", "backslashreplace"),
                    error=str(error),
                    cost="after a restart of the site's Redis, fewer of its writes are known to be newer",
                    hint=f"let this user EVAL, INFO, SET and GET, with keys of {_PREFIX.decode()}, at the site",
                )

    async def read(self) -> int:
        """The last number that the site has; 0: none, or we may not read it.

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
