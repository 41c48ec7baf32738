"""The script that runs many commands in one request to the hub, and its reply.

In: commands. Out: arguments of the script; which writes failed, and when it ran. Left to others: which commands
(`wire.writes`), sending (`remote.push`), the message that it publishes (`wire.feed`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from redisrepl.changes import GROUPS
from redisrepl.errors import FencedError, OutcomeUnknownError, ProtocolError
from redisrepl.wire.entries import HAS_GROUPS, NO_GROUPS, STREAMS
from redisrepl.wire.fieldtimes import NO_PUT_TIMED
from redisrepl.wire.lua import ELEMENT_HASH, ELEMENTS_OF, SEQUENCE_DIGEST
from redisrepl.wire.opaque import OPAQUE, PUT_OPAQUE
from redisrepl.wire.states import STRAY
from redisrepl.wire.writes import MOVED, UNCHANGED

__all__ = [
    "MOVED",
    "NO_FENCE",
    "PUSH_SCRIPT",
    "UNCHANGED",
    "Answer",
    "Fencing",
    "batch_words",
    "changed_nothing",
    "command_words",
    "parse_batch_reply",
    "push_script",
]

_LONGEST_TIME = 18  # digits

_MAY_CHANGE_NOTHING = frozenset(
    {b"DEL", b"HDEL", b"PEXPIREAT", b"PERSIST", b"SADD", b"SREM", b"XDEL", b"ZADD", b"ZREM"}
)


def _without_indents(script: bytes) -> bytes:
    """The script as it is sent: a twelfth shorter."""
    return re.sub(rb"\n +", b"\n", script)


class Fencing(NamedTuple):
    """What keeps a request that timed out from being executed later, and shows which batches were executed.

    Attributes:
        key: the site's fence at the hub, a hash (`remote.fence`); empty: it has none.
        epoch: of the site; the hub refuses requests with an earlier one.
        slot: which of the parallel requests this is.
        number: of the batch. The hub notes the last one of each slot, and again under `SLOT!` if not all of it was
            executed.
        known: the number that the hub is known to have noted for this slot. One that has a lower number went back to
            older data, and is not to note another before that was seen. If it has a higher one, and not one before
            `number`, this request has been executed already.
    """

    key: bytes = b""
    epoch: int = 0
    slot: int = 0
    number: int = 0
    known: int = 0


#: Runs each command by itself: one that fails does not stop the others. A write is a command, or a pair of an `MSET`.
#: Pairs that cannot be set together are set one by one, so that only the bad key fails. If every write changed
#: something, the script publishes them (`wire.feed`).
#:
#: ARGV: a token, a channel or nothing, the message for it, the key of the fence or nothing, the epoch, the slot, the
#: number of the batch, and the one that the slot is known to have; then for each command its length and its words.
#: `HSETNX` may name many fields. The conditional commands are described in `wire.writes.commands_if`.
#:
#: Returns first the number of writes, the hub's time in microseconds and the token, by which we know that this is the
#: reply to our request; then for each write that was not made as it stands `index error`, `index UNCHANGED` or
#: `index MOVED`. If the fence has a later epoch, it runs nothing, and returns `FENCED token`; likewise `REPEATED token`
#: if a proxy has sent a request again that was executed: others may have written since. Parts of a batch but its last
#: have slots above 10000.
_PUSH = (
    ELEMENTS_OF
    + SEQUENCE_DIGEST
    + b"""\
local call, pcall, sha1, sub, find = redis.call, redis.pcall, redis.sha1hex, string.sub, string.find
local fence, now = ARGV[4], ''
if fence ~= '' then
  local epoch = pcall('HGET', fence, 'epoch')
  if type(epoch) == 'table' then fence = '-'
  elseif epoch and tonumber(epoch) > tonumber(ARGV[5]) then return {'FENCED ' .. ARGV[1]}
  elseif not epoch then fence = '?'
  else
    local noted, known = tonumber(call('HGET', fence, ARGV[6] % 10000) or 0), tonumber(ARGV[8])
    if noted < known then fence = '?'
    elseif noted > known and noted >= tonumber(ARGV[7]) then return {'REPEATED ' .. ARGV[1]} end
  end
end
local out, i, n, flaw = {''}, 9, 0, ''
local function tried(reply, unchanged)
  if type(reply) == 'table' and reply.err then
    out[#out + 1] = n .. ' ' .. reply.err
    flaw = '!'
  elseif unchanged then
    if unchanged == 'MOVED' then flaw = '!' end
    out[#out + 1] = n .. ' ' .. unchanged
  end
  n = n + 1
end
local function digest_of(key)
  local kind = pcall('TYPE', key)
  if kind.err then return nil, kind end
  kind = kind.ok
  if kind == 'none' then return '' end
  if kind == 'string' then return sub(sha1('s' .. #key .. ':' .. key .. call('GET', key)), 1, 15) end
  if kind == 'list' then return (digest_of_list(key)) end
  if put_opaque and opaque_or(kind) == 'opaque' then return (opaque_digest(key)) end
  if kind ~= 'hash' and kind ~= 'set' and kind ~= 'zset' and not (streams and kind == 'stream') then return '?' end
  local a, b, m = 0, 0, 281474976710656
  local flat, step, salt = elements_of(key, kind)
  for j = 1, #flat, step do
    local value = value_at(flat, j, kind)
    local h = """
    + ELEMENT_HASH
    + b"""\
    a = (a + tonumber(sub(h, 1, 12), 16)) % m
    b = (b + tonumber(sub(h, 13, 24), 16)) % m
  end
  return sub(sha1('h' .. #key .. ':' .. key .. string.format('%.0f.%.0f', a, b)), 1, 15)
end
local function holds(key, first, last)
  local held, failed = digest_of(key)
  if failed then return false, failed end
  for j = first, last do if ARGV[j] == held then return true end end
  return false
end
local get, put, remove, salt, new, put_if, remove_if
local function prepare()
  get = {H = 'HGET', S = 'SISMEMBER', Z = 'ZSCORE'}
  put = {H = 'HSET', S = 'SADD', Z = 'ZADD'}
  remove = {H = 'HDEL', S = 'SREM', Z = 'ZREM', X = 'XDEL'}
  salt = {H = '', S = 'm', Z = 'z', X = 'x'}
  new = {HSETNX = 'H', ZADDNX = 'Z', STREAMNEW = 'X'}
  put_if = {HSETIF = 'H', SADDIF = 'S', ZADDIF = 'Z', STREAMIF = 'X'}
  remove_if = {HDELIF = 'H', SREMIF = 'S', ZREMIF = 'Z', XDELIF = 'X'}
end
local function element(kind, key, name)
  if kind == 'X' then return streams().element(key, name) end
  local held = pcall(get[kind], key, name)
  if type(held) == 'table' then return nil, held end
  if kind == 'S' then return held == 1 and '' end
  if kind == 'Z' and held then return string.format('%.17g', tonumber(held) + 0) end
  return held, nil, held and time_of and time_of(key, name)
end
local function element_holds(kind, name, value, digests, at)
  local held = ''
  if kind == 'X' and value then value = streams().digested(name, value) end
  if at and at ~= '' and value then held = sub(mark(at, #name .. ':' .. name .. value), 1, 24)
  elseif value then held = sub(sha1(salt[kind] .. #name .. ':' .. name .. value), 1, 24) end
  return find(',' .. digests .. ',', ',' .. held .. ',', 1, true)
end
local function put_stream(key, set, moved)
  local failed, added, missing = streams().put(key, set)
  tried(failed, (moved or missing) and 'MOVED' or not added and 'UNCHANGED')
end
local function put_elements(name, key, last)
  local kind, step = new[name], 2
  if not kind then kind, step = put_if[name], 3 end
  local failed, held, moved, set, at = nil, nil, nil, {}, nil
  for j = i + 3, last, step do
    held, failed, at = element(kind, key, ARGV[j])
    if failed then return tried(failed) end
    local value, digests = ARGV[j + step - 1], step == 3 and ARGV[j + 1] or ''
    if held ~= value or at and at ~= '' then
      if element_holds(kind, ARGV[j], held, digests, at) then
        if kind == 'Z' then set[#set + 1] = value end
        set[#set + 1] = ARGV[j]
        if kind == 'H' or kind == 'X' then set[#set + 1] = value end
      else
        moved = 'MOVED'
      end
    end
  end
  if #set > 0 and kind == 'X' then
    put_stream(key, set, moved)
  elseif #set > 0 then
    tried(pcall(put[kind], key, unpack(set)), moved)
  else
    tried(nil, moved or 'UNCHANGED')
  end
end
local function remove_element(kind, key)
  local held, failed, at = element(kind, key, ARGV[i + 3])
  if failed then tried(failed)
  elseif not held then tried(nil, 'UNCHANGED')
  elseif element_holds(kind, ARGV[i + 3], held, ARGV[i + 4], at) then
    if sub(ARGV[i + 3], 1, 7) == 'xgroup-' and kind == 'X' then tried((streams().remove_groups(key, {ARGV[i + 3]})))
    else tried(pcall(remove[kind], key, ARGV[i + 3])) end
  else tried(nil, 'MOVED') end
end
"""
    + NO_PUT_TIMED
    + b"""\
local function put_list(key, first, last)
  local kind = pcall('TYPE', key)
  if kind.err then return tried(kind) end
  local before = 0
  if kind.ok == 'list' then before = call('LLEN', key)
  elseif kind.ok ~= 'none' then call('DEL', key) end
  for j = first, last, 1000 do
    local reply = pcall('RPUSH', key, unpack(ARGV, j, math.min(j + 999, last)))
    if type(reply) == 'table' then return tried(reply) end
  end
  tried(pcall('LTRIM', key, before, -1))
end
local function holds_list(key, first, last)
  if call('TYPE', key).ok ~= 'list' or call('LLEN', key) ~= last - first + 1 then return false end
  local items = call('LRANGE', key, 0, -1)
  for j = 1, #items do if items[j] ~= ARGV[first + j - 1] then return false end end
  return true
end
local function plain(name, key, last)
  local reply = pcall(unpack(ARGV, i + 1, last))
  if name == 'SET' and reply == false then tried(nil, pcall('GET', key) == ARGV[i + 3] and 'UNCHANGED' or 'MOVED')
  else tried(reply, (reply == false or reply == 0 and name ~= 'HSET') and 'UNCHANGED') end
end
while i <= #ARGV do
  local name, key, last = ARGV[i + 1], ARGV[i + 2], i + ARGV[i]
  if name == 'MSET' then
    if pcall(unpack(ARGV, i + 1, last)).ok then
      n = n + (last - i - 1) / 2
    else
      for j = i + 2, last, 2 do
        tried(pcall('SET', ARGV[j], ARGV[j + 1]))
      end
    end
  elseif name == 'HSET' or name == 'SET' then
    plain(name, key, last)
  elseif name == 'SETIF' then
    local held, failed = holds(key, i + 5, last)
    if failed then tried(failed)
    elseif held then
      if ARGV[i + 4] == '' then tried(pcall('SET', key, ARGV[i + 3]))
      else tried(pcall('SET', key, ARGV[i + 3], 'PXAT', ARGV[i + 4])) end
    elseif call('TYPE', key).ok == 'string' and call('GET', key) == ARGV[i + 3] then tried(nil, 'UNCHANGED')
    else tried(nil, 'MOVED') end
  elseif name == 'DELIF' then
    local held, failed = holds(key, i + 3, last)
    if failed then tried(failed)
    elseif call('TYPE', key).ok == 'none' then tried(nil, 'UNCHANGED')
    elseif held then tried(pcall('DEL', key))
    else tried(nil, 'MOVED') end
  else
    if not get then prepare() end
    if name == 'HTIMEIF' then put_timed(key, unpack(ARGV, i + 3, last))
    elseif new[name] or put_if[name] then put_elements(name, key, last)
    elseif remove_if[name] then remove_element(remove_if[name], key)
    elseif name == 'STREAMSET' then
      local set = {}
      for j = i + 3, last do set[#set + 1] = ARGV[j] end
      put_stream(key, set)
    elseif name == 'GROUPDEL' then
      local failed, all = streams().remove_groups(key, {unpack(ARGV, i + 3, last)})
      tried(failed, not all and 'UNCHANGED')
    elseif name == 'LISTSET' then put_list(key, i + 3, last)
    elseif name == 'OPAQUESET' then tried(put_opaque(key, ARGV[last]))
    elseif name == 'LISTIF' or name == 'OPAQUEIF' then
      local held, failed = digest_of(key)
      if failed then tried(failed)
      elseif not find(',' .. ARGV[i + 3] .. ',', ',' .. held .. ',', 1, true) then
        tried(nil, name == 'LISTIF' and holds_list(key, i + 4, last) and 'UNCHANGED' or 'MOVED')
      elseif name == 'LISTIF' then put_list(key, i + 4, last)
      else tried(put_opaque(key, ARGV[last])) end
    else plain(name, key, last) end
  end
  i = last + 1
end
local t = pcall('TIME')
if not t.err then
  now = string.format('%.0f', t[1] * 1000000 + t[2])
  if ARGV[2] ~= '' and #out == 1 then pcall('PUBLISH', ARGV[2], now .. ' ' .. ARGV[3]) end
end
if fence == '-' or fence == '?' then n = n .. fence
elseif fence ~= '' then
  pcall('HSET', fence, ARGV[6], ARGV[7])
  if flaw ~= '' then pcall('HSET', fence, ARGV[6] .. flaw, ARGV[7]) end
end
out[1] = n .. ' ' .. now .. ' ' .. ARGV[1]
return out
"""
)


@cache
def push_script(types: frozenset[str] = frozenset()) -> bytes:
    """The script for these types; without streams it is a third shorter."""
    streams = STREAMS if "stream" in types else b"local streams\n"
    groups = HAS_GROUPS if GROUPS in types else NO_GROUPS
    opaque = PUT_OPAQUE if OPAQUE in types else b"local put_opaque\n"
    return _without_indents(groups + streams + opaque + _PUSH)


PUSH_SCRIPT = push_script()
NO_FENCE = Fencing()


def command_words(command: Sequence[bytes]) -> Sequence[bytes]:
    """A command as arguments of `PUSH_SCRIPT`: its length, then its words."""
    return b"%d" % len(command), *command


def batch_words(token: bytes = b"", feed: tuple[bytes, bytes] = (b"", b""), fencing: Fencing = NO_FENCE) -> list[bytes]:
    """The arguments of `PUSH_SCRIPT` before the commands.

    Args:
        token: identifies the reply; without spaces.
        feed: a channel, and the message to publish there after the time.
        fencing: see `Fencing`.
    """
    return [token, *feed, fencing.key, *(b"%d" % number for number in fencing[1:])]


def changed_nothing(command: Sequence[bytes], reply: object) -> str | None:
    """`UNCHANGED` or `MOVED`, if a command that was sent by itself and not refused changed nothing."""
    if reply is None or (reply == 0 and command[0] == b"HSETNX"):
        return MOVED  # `SET .. NX` or HSETNX: somebody has set the key or field meanwhile
    return UNCHANGED if reply == 0 and command[0] in _MAY_CHANGE_NOTHING else None


class Answer(NamedTuple):
    """The reply of `PUSH_SCRIPT`.

    Attributes:
        errors: by index of the write: an error, `UNCHANGED`, or `MOVED` if a condition did not hold.
        time: of the hub, in microseconds; infinity if it does not tell.
        fence: `-`: the hub does not let us have a fence; `?`: it has lost our fence, or its latest number, and perhaps
            more; else empty.
    """

    errors: dict[int, str]
    time: float
    fence: str = ""


def parse_batch_reply(items: Sequence[bytes], sent: int, token: bytes = b"") -> Answer:
    """Parse the reply of `PUSH_SCRIPT` to the request with this token, of `sent` writes.

    Raises:
        OutcomeUnknownError: it is the reply to another request, or to a repetition of this one.
        FencedError: the hub knows a later epoch, and has executed nothing.
        ProtocolError: the reply does not account for all `sent` writes.
    """
    if list(items) == [b"FENCED " + token]:
        raise FencedError("the hub knows a later epoch of this site: another process of it pushes")
    if list(items) == [b"REPEATED " + token]:
        raise OutcomeUnknownError("a proxy has sent the request twice, and answers the second one")
    tried, _, rest = items[0].partition(b" ") if items else (b"", b"", b"")
    time, _, answers = rest.partition(b" ")
    if items and answers != token:
        raise OutcomeUnknownError(STRAY)
    fence = tried[-1:].decode("ascii", "replace") if tried[-1:] in (b"-", b"?") else ""
    if tried.rstrip(b"-?") != b"%d" % sent or (time and not (time.isdigit() and len(time) <= _LONGEST_TIME)):
        raise ProtocolError(f"the hub did not say that it tried all {sent} writes")
    errors = {}
    for item in items[1:]:
        index, _, message = item.partition(b" ")
        if not index.isdigit() or int(index) >= sent:
            raise ProtocolError("the hub names a write that it was not sent")
        errors[int(index)] = message.decode("utf-8", "backslashreplace")
    return Answer(errors, int(time) if time else math.inf, fence)
