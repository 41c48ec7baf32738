"""Lua functions that several scripts share.

In: nothing. Out: text of scripts, and the hash by which a server knows one. Left to others: the scripts that use them
(`wire.states`, `wire.digests`, `wire.batches`).
"""

from __future__ import annotations

from functools import cache
from hashlib import sha1

from redisrepl.wire.entries import STREAMS
from redisrepl.wire.fieldtimes import NO_TIMES
from redisrepl.wire.opaque import OPAQUE_KIND

__all__ = [
    "BUCKET_OF",
    "DIGEST_OF",
    "ELEMENTS_OF",
    "ELEMENT_HASH",
    "EXPIRY_OF",
    "HEAD_OF",
    "KIND_OF",
    "SEQUENCE_DIGEST",
    "sha_of",
]


#: Lua: the type of a key, `denied` if an ACL denies us the key: that must not fail the other keys of a request. Any
#: other error is the second result. `carry_more` takes the replicated types (`collections.extra_types`). If `opaque` is
#: one, it is the type of all keys without a portable form; if `groups` is one, streams have them.
KIND_OF = (
    OPAQUE_KIND
    + b"""\
local has_opaque, has_groups
local function carry_more(others)
  has_opaque = string.find(others, ' opaque ', 1, true)
  has_groups = string.find(others, ' groups ', 1, true)
end
local function kind_of(key)
  local kind = redis.pcall('TYPE', key)
  if kind.err and not string.find(kind.err, 'access') then return nil, kind end
  kind = kind.ok or 'denied'
  return has_opaque and opaque_or(kind) or kind
end
"""
)

#: Lua, needs `STREAMS`. `elements_of`: all elements of a collection as a flat list, how many strings an element takes,
#: and the salt of its digests. `value_at`: the value of the element at an index of that list.
ELEMENTS_OF = (
    NO_TIMES
    + b"""\
local function elements_of(key, kind)
  if kind == 'hash' then
    local flat = redis.call('HGETALL', key)
    if triples then return triples(key, flat), 3, '' end
    return flat, 2, ''
  end
  if kind == 'set' then return redis.call('SMEMBERS', key), 1, 'm' end
  if kind == 'list' then return redis.call('LRANGE', key, 0, -1), 1, '' end
  if kind == 'opaque' then return {redis.call('DUMP', key)}, 1, '' end
  if kind == 'stream' then return streams().elements(key), 2, 'x' end
  return redis.call('ZRANGE', key, 0, -1, 'WITHSCORES'), 2, 'z'
end
local function value_at(flat, j, kind)
  if kind == 'zset' then return string.format('%.17g', tonumber(flat[j + 1]) + 0) end
  if kind == 'stream' and has_groups then return streams().digested(flat[j], flat[j + 1]) end
  return kind == 'set' and '' or flat[j + 1]
end
"""
)

#: Lua: the SHA-1 that is the digest of the element at an index of such a list, with this value and salt.
ELEMENT_HASH = b"""\
step == 3 and flat[j + 2] ~= '' and mark(flat[j + 2], #flat[j] .. ':' .. flat[j] .. value)
      or sha1(salt .. #flat[j] .. ':' .. flat[j] .. value)
"""

#: Lua: the digest of a list (`wire.digests.sequence_digest`), and the work that it took.
SEQUENCE_DIGEST = b"""\
local function digest_of_list(key)
  local chain, from, work = '', 0, 0
  repeat
    local items = redis.call('LRANGE', key, from, from + 999)
    for j = 1, #items do
      work = work + #items[j] + 400
      items[j] = #items[j] .. ':' .. items[j]
    end
    if #items > 0 then chain = redis.sha1hex(chain .. table.concat(items)) end
    from = from + 1000
  until #items < 1000
  return string.sub(redis.sha1hex('l' .. #key .. ':' .. key .. chain), 1, 15), work
end
"""

#: Lua: `carry` sets which types are replicated; `digest_of` digests what a key holds (`wire.digests`), and counts down
#: the work that is left.
DIGEST_OF = (
    KIND_OF
    + b"""\
local sha1, sub, format = redis.sha1hex, string.sub, string.format
local left = 0
local carried = function(kind) return kind == 'string' or kind == 'hash' end
local function carry(others)
  carry_more(others)
  carried = function(kind)
    return kind == 'string' or kind == 'hash' or string.find(others, ' ' .. kind .. ' ', 1, true)
  end
end
"""
    + STREAMS
    + ELEMENTS_OF
    + SEQUENCE_DIGEST
    + b"""\
local function sum_of(key, kind)
  local a, b, m = 0, 0, 281474976710656
  local flat, step, salt = elements_of(key, kind)
  for j = 1, #flat, step do
    local value = value_at(flat, j, kind)
    left = left - #flat[j] - #value - 400
    local h = """
    + ELEMENT_HASH
    + b"""\
    a = (a + tonumber(sub(h, 1, 12), 16)) % m
    b = (b + tonumber(sub(h, 13, 24), 16)) % m
  end
  return format('%.0f.%.0f', a, b)
end
local length = {hash = 'HLEN', set = 'SCARD', zset = 'ZCARD', stream = 'XLEN'}
local function is_large(key, kind)
  if kind == 'stream' and has_groups then return false end
  local count = length[kind] and carried(kind) and redis.pcall(length[kind], key)
  return type(count) == 'number' and count > 2000
end
local function digest_of(key, kind)
  left = left - 400
  if kind == 'none' then return '' end
  if kind == 'string' then
    local value = redis.call('GET', key)
    left = left - #value
    return sub(sha1('s' .. #key .. ':' .. key .. value), 1, 15)
  end
  if not carried(kind) then return '?' end
  if kind == 'list' or kind == 'opaque' then
    local digest, work = (kind == 'list' and digest_of_list or opaque_digest)(key)
    left = left - work
    return digest
  end
  return sub(sha1('h' .. #key .. ':' .. key .. sum_of(key, kind)), 1, 15)
end
"""
)

#: Lua: a key's expiry, in the form that `states.expiry` parses.
EXPIRY_OF = b"""\
local function expiry_of(key)
  local at = redis.pcall('PEXPIRETIME', key)
  if type(at) ~= 'table' then return at >= 0 and string.format('%.0f', at) or '' end
  local ttl = redis.call('PTTL', key)
  if ttl < 0 then return '' end
  local t = redis.call('TIME')
  return string.format('~%.0f', t[1] * 1000 + math.floor(t[2] / 1000) + ttl)
end
"""

#: Lua: how an answer about one key begins: the server's time in microseconds and a token, the key's type and expiry.
#: An error is the second result.
HEAD_OF = (
    EXPIRY_OF
    + b"""\
local function head_of(key, token)
  local held = redis.pcall('TYPE', key)
  if held.err then return nil, held end
  local t = redis.call('TIME')
  return {string.format('%.0f %s', t[1] * 1000000 + t[2], token), held.ok, expiry_of(key)}
end
"""
)

#: Lua: the bucket of a key (`wire.digests.bucket_of`).
BUCKET_OF = b"""\
local byte = string.byte
local function bucket_of(key)
  local a, b, c = byte(key, -1), byte(key, -2), byte(key, -3)
  return ((a or 0) + 31 * (b or 0) + 961 * (c or 0)) % 256
end
"""


@cache
def sha_of(script: bytes) -> bytes:
    """The hash by which a server knows a script that it has run."""
    return sha1(script, usedforsecurity=False).hexdigest().encode()
