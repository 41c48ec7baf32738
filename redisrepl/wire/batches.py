"""Many commands in one request to the hub: the script that runs them, and what it answers.

In: commands. Out: request bodies; which writes failed, and when it ran. Left to others: which commands (`wire.writes`),
sending (`remote.push`), what is told beside (`wire.feed`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from hashlib import sha1

from redisrepl.errors import OutcomeUnknownError, ProtocolError
from redisrepl.wire.webdis import STRAY, escape, escape_words, flat_reply

__all__ = ["PUSH_SCRIPT", "UNCHANGED", "batch_body", "changed_nothing", "encode_batch_command", "parse_batch_reply"]

_LONGEST_TIME = 18  # digits

#: What stands for an error where a write changed nothing: a value was to be set only if there was none, and there was;
#: or what was to be removed is not there, or has the expiry that it should. Then the event of it does not come.
UNCHANGED = "UNCHANGED"
_MAY_CHANGE_NOTHING = frozenset({b"HSETNX", b"DEL", b"HDEL", b"PEXPIREAT", b"PERSIST"})

#: Runs each command by itself: one that fails does not stop the others. A write is a command, or a pair of an `MSET`;
#: pairs that cannot be set together are tried one by one, so that one bad key does not take others with it. If nothing
#: failed, what was done is told on a channel (`wire.feed`). Returns how many writes there were and the hub's time in
#: microseconds, and repeats what makes this request's answer known; then `index message` of each that failed, or
#: `index UNCHANGED`. ARGV: that token, a channel or nothing, what to tell there, and for each command its length, then
#: its words; `HSETNX` may name many fields.
PUSH_SCRIPT = b"""\
local out, i, n = {''}, 4, 0
local function tried(reply, unchanged)
  if type(reply) == 'table' and reply.err then
    out[#out + 1] = n .. ' ' .. reply.err
  elseif unchanged then
    out[#out + 1] = n .. ' UNCHANGED'
  end
  n = n + 1
end
while i <= #ARGV do
  local name, key, last = ARGV[i + 1], ARGV[i + 2], i + ARGV[i]
  if name == 'MSET' then
    if redis.pcall(unpack(ARGV, i + 1, last)).ok then
      n = n + (last - i - 1) / 2
    else
      for j = i + 2, last, 2 do
        tried(redis.pcall('SET', ARGV[j], ARGV[j + 1]))
      end
    end
  elseif name == 'HSETNX' then
    local reply, exists
    for j = i + 3, last, 2 do
      reply = redis.pcall('HSETNX', key, ARGV[j], ARGV[j + 1])
      exists = exists or reply == 0
      if type(reply) == 'table' then break end
    end
    tried(reply, exists)
  else
    local reply = redis.pcall(unpack(ARGV, i + 1, last))
    tried(reply, reply == false or reply == 0 and name ~= 'HSET')
  end
  i = last + 1
end
local t, now = redis.pcall('TIME'), ''
if not t.err then
  now = string.format('%.0f', t[1] * 1000000 + t[2])
  if ARGV[2] ~= '' and #out == 1 then redis.pcall('PUBLISH', ARGV[2], now .. ' ' .. ARGV[3]) end
end
out[1] = n .. ' ' .. now .. ' ' .. ARGV[1]
return out
"""

_PUSH_HEAD = b"EVAL/" + escape(PUSH_SCRIPT) + b"/0"
_PUSH_BY_HASH = b"EVALSHA/%b/0" % sha1(PUSH_SCRIPT, usedforsecurity=False).hexdigest().encode()


def encode_batch_command(command: Sequence[bytes]) -> bytes:
    """A command as `PUSH_SCRIPT` wants it: its length, then its words."""
    return b"%d/" % len(command) + escape_words(command)


def batch_body(
    encoded: Iterable[bytes], *, token: bytes = b"", by_hash: bool = False, told: tuple[bytes, bytes] = (b"", b"")
) -> bytes:
    """Many encoded commands in one request.

    Args:
        encoded: by `encode_batch_command`.
        token: by which the answer is known; without spaces.
        by_hash: for a hub that has run `PUSH_SCRIPT` before.
        told: a channel, and what to tell there behind the time.
    """
    return b"/".join([_PUSH_BY_HASH if by_hash else _PUSH_HEAD, token, *map(escape, told), *encoded]) + b".raw"


def changed_nothing(command: Sequence[bytes], reply: object) -> bool:
    """Whether a command that was sent by itself, and not refused, found nothing to do."""
    return reply is None or (reply == 0 and command[0] in _MAY_CHANGE_NOTHING)


def parse_batch_reply(reply: bytes, sent: int, token: bytes = b"") -> tuple[dict[int, str], float]:
    """What `PUSH_SCRIPT` answered to the request with this token, of so many writes.

    Returns:
        Error text by index of the write, for those that failed; and the hub's time in microseconds, infinity if it does
        not tell.

    Raises:
        CommandError: the script itself was refused.
        OutcomeUnknownError: it is the answer to another request.
        ProtocolError: the reply does not account for all `sent` writes.
    """
    items = flat_reply(reply)
    tried, _, rest = items[0].partition(b" ") if items else (b"", b"", b"")
    time, _, answers = rest.partition(b" ")
    if items and answers != token:
        raise OutcomeUnknownError(STRAY)
    if tried != b"%d" % sent or (time and not (time.isdigit() and len(time) <= _LONGEST_TIME)):
        raise ProtocolError(f"the hub did not say that it tried all {sent} writes")
    errors = {}
    for item in items[1:]:
        index, _, message = item.partition(b" ")
        if not index.isdigit() or int(index) >= sent:
            raise ProtocolError("the hub names a write that it was not sent")
        errors[int(index)] = message.decode("utf-8", "backslashreplace")
    return errors, int(time) if time else math.inf
