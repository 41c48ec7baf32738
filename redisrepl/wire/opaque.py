"""Opaque values: keys of types without a portable form, replicated as a whole by `DUMP` and `RESTORE`.

In: nothing. Out: Lua, and which bytes of such a value are digested. Left to others: their place among the types
(`wire.collections`), reading and writing (`wire.states`, `wire.batches`, `local.apply`).

A type of a module, or of a newer server, has its own commands, which we do not know. But a server with the type can
serialise a value and restore it (`DUMP`, `RESTORE`). The serialisation ends with the version of the format and a
checksum, which differ between servers that hold the same value, so a digest leaves them out.

This works only if a restored value is serialised as before. A vector set is not: its graph is linked anew, so `DUMP`
differs after each `RESTORE` (Redis 8.0 to 8.6). Both sides would always seem to differ, so it is not replicated.
"""

from __future__ import annotations

__all__ = ["FOOTER", "OPAQUE", "OPAQUE_KIND", "PUT_OPAQUE", "restore_command"]

#: The type of every such key.
OPAQUE = "opaque"
#: Bytes of version and checksum at the end of a `DUMP`.
FOOTER = 10

#: Types that are not opaque: they have a portable form, or a serialisation that changes (vector sets).
_NOT_OPAQUE = b" none denied string hash list set zset stream vectorset "

#: Lua: `opaque_or` returns the type of a key as we replicate it, from the server's name for it; `opaque_digest` digests
#: such a value.
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

#: Lua: set such a value, whatever the key holds; the key keeps its expiry. Returns the server's reply.
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


def restore_command(key: bytes, value: bytes, expires_at_ms: int = 0) -> list[bytes]:
    """The command that sets such a value and its expiry (0: none), whatever the key holds."""
    return [b"RESTORE", key, b"%d" % expires_at_ms, value, b"REPLACE", b"ABSTTL"]
