"""The digest of a large collection, summed over many runs of a script: one would hold the server up for too long.

In: a key, the type of its collection. Out: the script, and what it says. Left to others: running it (`local.compare`,
`remote.compare`), the digests themselves (`wire.digests`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from redisrepl.errors import ProtocolError
from redisrepl.wire.digests import UNREADABLE, Look, hash_digest
from redisrepl.wire.entries import NO_GROUPS, STREAMS
from redisrepl.wire.lua import ELEMENT_HASH, ELEMENTS_OF
from redisrepl.wire.replies import number
from redisrepl.wire.scan import Scan

__all__ = ["TOTAL_SCRIPT", "Total", "look_at_large", "parse_total"]

#: Of a scan; or an id, with which the rest of a stream begins.
_CURSOR = re.compile(r"\d+(-\d+)?", re.ASCII)

#: ARGV: the key, its type, a cursor. Returns the type, and if it is still that one, the next cursor and two sums.
TOTAL_SCRIPT = (
    NO_GROUPS
    + STREAMS
    + ELEMENTS_OF
    + b"""\
local call, sha1, sub = redis.call, redis.sha1hex, string.sub
local key, kind, cursor = ARGV[1], ARGV[2], ARGV[3]
local held = redis.pcall('TYPE', key)
if held.err then return held end
if held.ok ~= kind then return {held.ok} end
local scan = ({hash = 'HSCAN', set = 'SSCAN', zset = 'ZSCAN'})[kind]
local step, salt = kind == 'set' and 1 or 2, ({hash = '', set = 'm', zset = 'z', stream = 'x'})[kind]
local t, a, b, m, n, bytes = call('TIME'), 0, 0, 281474976710656, 0, 0
local now = t
repeat
  local flat = {}
  if kind == 'stream' then cursor = streams().page(key, cursor, flat)
  else cursor, flat = unpack(call(scan, key, cursor, 'COUNT', 100)) end
  if triples and kind == 'hash' then flat, step = triples(key, flat), 3 end
  n = n + #flat / step
  for j = 1, #flat, step do
    local value = value_at(flat, j, kind)
    local h = """
    + ELEMENT_HASH
    + b"""\
    a = (a + tonumber(sub(h, 1, 12), 16)) % m
    b = (b + tonumber(sub(h, 13, 24), 16)) % m
    bytes = bytes + #value
  end
  now = call('TIME')
until cursor == '0' or n > 2000 or bytes > 500000 or (now[1] - t[1]) * 1000000 + now[2] - t[2] > 3500
return {kind, cursor, string.format('%.0f', a), string.format('%.0f', b)}
"""
)


class Total(NamedTuple):
    """What one run said.

    Attributes:
        type: what the key holds.
        cursor: where to go on; `0`: the end.
        sums: of both halves of digests, over some elements.
    """

    type: str
    cursor: bytes = b"0"
    sums: tuple[int, int] = (0, 0)


def parse_total(items: Sequence[bytes]) -> Total:
    """What the script returned.

    Raises:
        ProtocolError: it is not what it returns.
    """
    match [item.decode("ascii", "backslashreplace") for item in items]:
        case [type_]:
            return Total(type_)
        case [type_, cursor, first, second] if _CURSOR.fullmatch(cursor):
            sums = number(first), number(second)
            if sums[0] is not None and sums[1] is not None:
                return Total(type_, cursor.encode(), (sums[0], sums[1]))
    raise ProtocolError("a server's reply to a step through a collection is not what the script returns")


async def look_at_large(
    key: bytes, look: Look, where: str, run: Callable[[bytes, bytes, bytes], Awaitable[Total | None]]
) -> Look | None:
    """The digest of a large collection, of which only the type and the expiry were seen.

    Args:
        key: of it.
        look: what was seen.
        where: at which server, for messages.
        run: the script, once; None: it is refused.

    Returns:
        None: likewise.
    """
    first, second, scan = 0, 0, Scan(f"a scan of a {look.type} at {where}")
    while True:
        total = await run(key, look.type.encode(), scan.cursor)
        if total is None:
            return None
        if total.type != look.type:  # it has just been changed, and will be looked at for that
            return look._replace(digest=None if total.type == "none" else UNREADABLE, type="")
        first, second = (first + total.sums[0]) % (1 << 48), (second + total.sums[1]) % (1 << 48)
        if scan.ends(total.cursor):
            return look._replace(digest=hash_digest(key, (first, second)), type="")
