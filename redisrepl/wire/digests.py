"""Digests of what keys hold, the same at the hub (in Lua) and here: equal values need not cross to be compared.

In: keys, states, replies. Out: request bodies, digests. Left to others: what a difference means (`sweep`).

Before Redis 7.0, and where `PEXPIRETIME` is not allowed, a hub tells only what is left of an expiry. So the digest has
a `~` before the time, and `alike` is content with a few milliseconds.

A string's digest is the SHA-1 of its value. A hash's is the sum over its fields of the SHA-1 of field and value, so
that the order of fields does not matter: Lua sorts by the collation of the server's locale, which may call different
names equal. To both belongs the expiry, but only where expiries cross: what a client of the site has set with `EXPIRE`
and is kept from the hub is no difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1

from redisrepl.changes import HashState, State, StringState
from redisrepl.errors import ProtocolError
from redisrepl.wire.replies import number
from redisrepl.wire.states import KIND_OF
from redisrepl.wire.webdis import escape, flat_reply

__all__ = ["NO_KEY", "alike", "digest", "digest_body", "parse_digest_reply", "parse_scan_reply", "scan_body"]

#: The digest of a key that is not there.
NO_KEY = b""

#: Half of a SHA-1 is added as two numbers of 48 bits: sums of those are exact in Lua's doubles.
_PART = 12
_MODULUS = 1 << 48

#: Milliseconds that may pass between what a script reads of the clock and what is left of an expiry.
_INEXACT = 20
_LONGEST_TIME = 18  # digits

#: How much one run of the script does before it leaves the rest to another, in bytes that are digested; a field or a
#: key costs as much as 400 of them. The server does nothing else meanwhile.
_WORK = 1_000_000

_DIGEST_SCRIPT = (
    KIND_OF
    + b"""\
local out, left = {}, tonumber(ARGV[2])
for i = 3, #ARGV do
  if left <= 0 then break end
  local key = ARGV[i]
  local kind, failed = kind_of(key)
  if failed then return failed end
  local sum = ''
  if kind == 'string' then
    local value = redis.call('GET', key)
    left = left - #value
    sum = redis.sha1hex(value)
  elseif kind == 'hash' then
    local flat, a, b, m = redis.call('HGETALL', key), 0, 0, 281474976710656
    for j = 1, #flat, 2 do
      left = left - #flat[j] - #flat[j + 1] - 400
      local h = redis.sha1hex(#flat[j] .. ':' .. flat[j] .. flat[j + 1])
      a = (a + tonumber(string.sub(h, 1, 12), 16)) % m
      b = (b + tonumber(string.sub(h, 13, 24), 16)) % m
    end
    sum = string.format('%.0f.%.0f', a, b)
  end
  left = left - 400
  local at, about = '', ''
  if ARGV[1] == '1' and (kind == 'string' or kind == 'hash') then
    at = redis.pcall('PEXPIRETIME', key)
    if type(at) == 'table' then
      local t = redis.call('TIME')
      local ttl = redis.call('PTTL', key)
      about, at = '~', ttl < 0 and ttl or t[1] * 1000 + math.floor(t[2] / 1000) + ttl
    end
    at = at >= 0 and about .. string.format('%.0f', at) or ''
  end
  out[#out + 1] = kind == 'none' and '' or kind .. ' ' .. sum .. ' ' .. at
end
return out
"""
)

#: One step of a SCAN as strings: the next cursor, then keys. `.raw` cannot carry SCAN's own nested reply.
_SCAN_SCRIPT = b"""\
local reply = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local out = {reply[1]}
for _, key in ipairs(reply[2]) do out[#out + 1] = key end
return out
"""


def digest(state: State, *, expiries: bool) -> bytes:
    """What `_DIGEST_SCRIPT` returns for a key that holds this.

    Args:
        state: of the key.
        expiries: whether the expiry of a key counts.
    """
    match state:
        case None:
            return NO_KEY
        case StringState(value, expires_at_ms):
            expiry = _number(expires_at_ms if expiries else None)
            return b"string %b %b" % (sha1(value).hexdigest().encode(), expiry)  # noqa: S324 - Redis' Lua has SHA-1
        case HashState(fields, expires_at_ms):
            first = second = 0
            for field, value in fields.items():
                hexdigest = sha1(b"%d:%b%b" % (len(field), field, value)).hexdigest()  # noqa: S324 - Redis' Lua has SHA-1
                first += int(hexdigest[:_PART], 16)
                second += int(hexdigest[_PART : 2 * _PART], 16)
            total = b"%d.%d" % (first % _MODULUS, second % _MODULUS)
            return b"hash %b %b" % (total, _number(expires_at_ms if expiries else None))
        case _:
            return b"%b  " % state.encode("ascii", "backslashreplace")


def alike(site: bytes, hub: bytes) -> bool:
    """Whether these digests, one of either side, mean that both hold the same."""
    if site == hub:
        return True
    held, _, inexact = hub.partition(b" ~")
    ours, _, exact = site.rpartition(b" ")
    times = exact.isdigit() and inexact.isdigit() and len(inexact) <= _LONGEST_TIME
    return times and held == ours and abs(int(exact) - int(inexact)) <= _INEXACT


def _number(value: int | None) -> bytes:
    return b"" if value is None else b"%d" % value


_DIGEST_HEAD = b"EVAL/" + escape(_DIGEST_SCRIPT) + b"/0"
_SCAN_HEAD = b"EVAL/" + escape(_SCAN_SCRIPT) + b"/0"


def digest_body(keys: Sequence[bytes], *, expiries: bool) -> bytes:
    """Ask for the digests of these keys; the answer is about the first of them, at least one."""
    return b"/".join([_DIGEST_HEAD, b"1" if expiries else b"0", b"%d" % _WORK, *map(escape, keys)]) + b".raw"


def parse_digest_reply(reply: bytes, asked: int) -> list[bytes]:
    """The digests of the first keys, in their order."""
    digests = flat_reply(reply)
    if not 0 < len(digests) <= asked:
        raise ProtocolError(f"the hub returned {len(digests)} digests for {asked} keys")
    return digests


def scan_body(cursor: bytes, pattern: bytes, count: int) -> bytes:
    """One step of a SCAN, from this cursor (`0` to begin)."""
    return b"/".join([_SCAN_HEAD, escape(cursor), escape(pattern), b"%d" % count]) + b".raw"


def parse_scan_reply(reply: bytes) -> tuple[bytes, list[bytes]]:
    """The next cursor (`0` at the end) and the keys of this step."""
    items = flat_reply(reply)
    if not items or number(items[0]) is None:
        raise ProtocolError("the hub's reply to a scan has no cursor")
    return items[0], items[1:]
