"""Keys of types that have no portable form, as whole values: what `DUMP` makes of them.

In: nothing. Out: Lua, and which bytes of such a value say what it is. Left to others: where it may stand
(`wire.collections`), reading and writing (`wire.states`, `wire.batches`, `local.apply`).

A type of a module, or one of a newer server, has commands of its own, which nobody knows here. But a server that has
the type can write it down and read it again (`DUMP`, `RESTORE`). What it writes ends with the version of the format
and a checksum, which differ between servers that hold the same, so a digest leaves them out.

That works only where a value that was restored is written down as before. A vector set is not: its graph is linked
anew, and what `DUMP` makes of it is different after each `RESTORE` (Redis 8.0 to 8.6). So both sides would always seem
to differ, and it is left out.
"""

from __future__ import annotations

__all__ = ["FOOTER", "OPAQUE", "OPAQUE_KIND", "PUT_OPAQUE", "restore_command"]

#: In the place of the type of every such key.
OPAQUE = "opaque"
#: Bytes at the end of what `DUMP` returns: the version, and the checksum.
FOOTER = 10

#: Types that are not such: they have a form of their own, or none that lasts.
_NOT_OPAQUE = b" none denied string hash list set zset stream vectorset "

#: Lua: the type of a key as it is replicated, from the one that the server names; what is digested of such a value.
OPAQUE_KIND = (
    b"""\
local function opaque_or(kind)
  return string.find('"""
    + _NOT_OPAQUE
    + b"""', ' ' .. kind .. ' ', 1, true) and kind or 'opaque'
end
local function opaque_digest(key)
  local body = string.sub(redis.call('DUMP', key), 1, -11)
  local chain = redis.sha1hex(#body .. ':' .. body)
  return string.sub(redis.sha1hex('o' .. #key .. ':' .. key .. chain), 1, 15), #body
end
"""
)

#: Lua: put such a value there, whatever the key holds; it keeps its expiry. Returns what the server answers.
PUT_OPAQUE = (
    OPAQUE_KIND
    + b"""\
local function put_opaque(key, value)
  local words, at = {'RESTORE', key, '0', value, 'REPLACE', 'ABSTTL'}, redis.pcall('PEXPIRETIME', key)
  if type(at) == 'table' then at, words[6] = redis.pcall('PTTL', key), nil end
  if type(at) == 'number' and at > 0 then words[3] = string.format('%.0f', at) end
  return redis.pcall(unpack(words))
end
"""
)


def restore_command(key: bytes, value: bytes) -> list[bytes]:
    """The command that puts such a value there, whatever the key holds; it does not expire then."""
    return [b"RESTORE", key, b"0", value, b"REPLACE", b"ABSTTL"]
