"""A mark at the site: after a restart of the site's Redis, it shows how much of its history the site still has.

In: numbers of agreements. Out: the last mark that the site still has, with its number and its place in the site's
stream. Left to others: when to write one (`flow.saving`), what follows from it (`flow.judging`).

After a restart, a Redis has a prefix of its history. The mark is part of that history: if it is still there, so is
everything that was agreed on before it was written, and everything that the stream had told by then. A script writes
it, which looks at the history first: a server may take the data of another (`REPLICAOF`) without ending a connection.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import redis.asyncio
import redis.exceptions
import structlog

from redisrepl.local.address import SiteAddress
from redisrepl.local.client import Followed, ask, refuses_script, translated
from redisrepl.permission import Permission
from redisrepl.wire.replies import number

__all__ = ["Marked", "SiteMark"]

_log = structlog.get_logger("redisrepl")

_PREFIX = b"redisrepl:mark:"
#: Seconds after which the mark expires if nobody writes it again.
_LASTS = b"2592000"
#: ARGV: replication id, number, seconds, durable number. Nothing is written in another history.
_SCRIPT = b"""local info = redis.call('INFO', 'replication')
if string.find(info, 'master_replid:' .. ARGV[1], 1, true) then
local offset = string.match(info, 'master_repl_offset:(%d+)') or '0'
local mark = table.concat({ARGV[2], ARGV[1], offset, ARGV[4]}, ' ')
return redis.call('SET', KEYS[1], mark, 'EX', ARGV[3]) end"""


class Marked(NamedTuple):
    """What a site has that holds a mark.

    Attributes:
        agreed: all that was agreed on up to this number; 0: there is no mark.
        history: of which history this is a part, by its replication id; empty: that is not known.
        offset: all that the stream of that history had told before this.
        durable: up to this number our store was on the disk; a store that knows of less is an older copy of it.
    """

    agreed: int = 0
    history: str = ""
    offset: int = 0
    durable: int = 0

    @classmethod
    def of(cls, mark: bytes) -> Marked:
        """From the value of a mark; earlier versions wrote less."""
        agreed, *place = mark.split(b" ")
        match number(agreed), place:
            case int(up_to), []:
                return cls(up_to)
            case int(up_to), [history, offset, *durable] if len(durable) <= 1:
                numbers = [number(word) or 0 for word in (offset, *durable)]
                return cls(up_to, history.decode("ascii", "replace"), *numbers)
        return cls()


class SiteMark:
    """One key at the site, outside of the namespaces.

    Args:
        client: writes at the site.
        address: for messages.
        followed: the server of whose history the mark is a part.
        name: the first namespace and the origin, so that an ACL can tell the sites apart.
        clock: seconds that never go backwards.

    Attributes:
        key: the key of the mark.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        address: SiteAddress,
        followed: Followed,
        name: bytes,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.key = _PREFIX + name
        self._client = client
        self._address = address
        self._followed = followed
        self._permission = Permission(clock)

    async def write(self, agreed: int, durable: int) -> None:
        """Write what the site holds; does nothing while that is denied.

        Args:
            agreed: everything that was agreed on up to this number.
            durable: up to this number our store is on the disk.

        Raises:
            RedisreplError: the site cannot be written to.
        """
        history = self._followed.history.encode("ascii", "replace")
        if not self._permission.worth_trying or not history:
            return
        with translated(self._address):
            try:
                words = (history, b"%d" % agreed, _LASTS, b"%d" % durable)
                await ask(self._client, b"EVAL", _SCRIPT, b"1", self.key, *words)
            except redis.exceptions.ResponseError as error:
                if not refuses_script(error):
                    raise
                if self._permission.refused():
                    _log.warning(
                        "site.no_mark",
                        key=self.key.decode("ascii", "backslashreplace"),
                        error=str(error),
                        cost="after a restart of the site's Redis, fewer of its writes are known to be newer",
                        hint=f"let this user EVAL, INFO, SET and GET, with keys of {_PREFIX.decode()}, at the site",
                    )
                return
        if self._permission.granted():
            _log.info("site.mark_allowed", key=self.key.decode("ascii", "backslashreplace"))

    async def read(self, client: redis.asyncio.Redis | None = None) -> Marked:
        """The last mark that the site has; without a number: none, or we may not read it.

        Args:
            client: reads it, while no server is followed yet; None: the one that writes, as usual.

        Raises:
            RedisreplError: the site cannot be asked.
        """
        with translated(self._address):
            try:
                reply = await ask(client or self._client, b"GET", self.key)
            except redis.exceptions.ResponseError as error:
                if isinstance(error, redis.exceptions.NoPermissionError) or str(error).startswith("WRONGTYPE"):
                    return Marked()
                raise
        return Marked.of(reply) if isinstance(reply, bytes) else Marked()
