"""What keys hold, read by one script, the same at the hub and at the site.

In: the flat list of strings that `STATES_SCRIPT` returns. Out: states. Left to others: running it (`remote.fetch`,
`local.read`).
"""

from __future__ import annotations

from collections.abc import Sequence

from redisrepl.changes import DENIED, HashState, SequenceState, State, StringState
from redisrepl.errors import OutcomeUnknownError, ProtocolError
from redisrepl.wire.collections import COLLECTIONS, SEQUENCES, elements_in
from redisrepl.wire.entries import STREAMS
from redisrepl.wire.lua import ELEMENTS_OF, KIND_OF
from redisrepl.wire.replies import number

__all__ = ["STATES_SCRIPT", "STRAY", "TOO_LARGE", "parse_fetch", "parse_states"]

#: Reads keys until `ARGV[1]` bytes are full, at least one; a value of more than the bytes that a second number there
#: names is only said to be too large; behind these stands what is read beside strings and hashes. Returns the server's
#: time in microseconds (0: it does not tell) with `ARGV[2]`, by which this request's answer is known; and for each key:
#: type, expiry (absolute milliseconds or empty), number of strings that follow, and those: the value, or elements with
#: their values.
#: `GET` without `TYPE` would be cheaper for strings, but each hash would count in the server's statistics of errors.
STATES_SCRIPT = (
    KIND_OF
    + STREAMS
    + ELEMENTS_OF
    + b"""\
local call, try, format = redis.call, redis.pcall, string.format
local budget, most, others = string.match(ARGV[1], '^(%d+) ?(%d*)(.*)$')
local out, n, left = {}, 1, tonumber(budget)
most = tonumber(most) or math.huge
carries_opaque(others)
local t = try('TIME')
if t.err then t = {0, 0, failed = t} end
local now = t[1] * 1000 + math.floor(t[2] / 1000)
out[1] = format('%.0f %s', t[1] * 1000000 + t[2], ARGV[2])
local function expires(key)
  local at = try('PEXPIRETIME', key)
  if type(at) == 'table' then
    local ttl = call('PTTL', key)
    if ttl >= 0 and t.failed then error(t.failed.err) end
    at = ttl < 0 and ttl or now + ttl
  end
  return at < 0 and '' or format('%.0f', at)
end
for i = 3, #ARGV do
  if left <= 0 then break end
  local key = ARGV[i]
  local kind, failed = kind_of(key)
  if failed then return failed end
  local value = kind == 'string' and call('GET', key)
  local values = {}
  if kind == 'hash' or others ~= '' and string.find(others, ' ' .. kind .. ' ', 1, true) then
    values = elements_of(key, kind)
  end
  local size = value and #value or 0
  for j = 1, #values do size = size + #values[j] end
  if size > most then kind, value, values = 'too large', nil, {} end
  out[n + 1] = kind
  out[n + 2] = (kind == 'none' or kind == 'denied') and '' or expires(key)
  if value then
    out[n + 3] = '1'
    out[n + 4] = value
    n = n + 4
    left = left - #value - 101
  else
    out[n + 3] = tostring(#values)
    n = n + 3
    for j = 1, #values do
      n = n + 1
      out[n] = values[j]
      left = left - #values[j] - 100
    end
    left = left - 1
  end
end
return out
"""
)


#: Webdis can answer a request with the reply to one whose connection was closed. Then a batch that was not executed
#: would be taken for executed, and with -rc the values of other keys be applied; so the scripts repeat a token.
STRAY = "the hub answered with the reply to another request"

#: The state of a key whose value was not read for its size.
TOO_LARGE = "too large"


def parse_states(items: Sequence[bytes]) -> list[State]:
    """The states of the first keys that the script was asked for; the rest did not fit.

    Raises:
        ProtocolError: the list is not what the script returns.
    """
    _read_at(items)
    states: list[State] = []
    index, end = 1, len(items)
    try:
        while index < end:
            kind, expires, count = items[index], items[index + 1], _count(items[index + 2])
            index += 3
            expires_at_ms = _count(expires) if expires else None
            if kind == b"string":
                states.append(StringState(items[index], expires_at_ms))
            elif kind == b"hash":
                fields = dict(zip(items[index : index + count : 2], items[index + 1 : index + count : 2], strict=True))
                states.append(HashState(fields, expires_at_ms))
            elif count and (type_ := kind.decode("ascii", "backslashreplace")) in SEQUENCES:
                states.append(SequenceState(tuple(items[index : index + count]), expires_at_ms, type_))
            elif count and type_ in COLLECTIONS:
                elements = elements_in(type_, items[index : index + count])
                states.append(HashState(elements, expires_at_ms, type_))
            elif kind == b"none":
                states.append(None)
            else:
                states.append(DENIED if kind == b"denied" else kind.decode("ascii", "backslashreplace"))
            index += count
    except (IndexError, ValueError):
        raise ProtocolError("the reply to a reading script is not what the script returns") from None
    if index != end:
        raise ProtocolError("the reply to a reading script ends early")
    return states


#: Digits: until the year 33658.
_LONGEST_TIME = 18


def _read_at(items: Sequence[bytes]) -> int:
    """When the script read them: the server's time in microseconds.

    Raises:
        ProtocolError: the list is not what the script returns.
    """
    time = items[0].partition(b" ")[0] if items else b""
    if not time.isdigit() or len(time) > _LONGEST_TIME:
        raise ProtocolError("the reply to a reading script does not say when it ran")
    return int(time)


def _token_of(items: Sequence[bytes]) -> bytes:
    """Which request this answers."""
    return items[0].partition(b" ")[2] if items else b""


def parse_fetch(items: Sequence[bytes], token: bytes) -> tuple[int, list[State]]:
    """What the hub answered to the request with this token.

    Returns:
        The hub's time in microseconds, and the states of the keys that fitted.

    Raises:
        OutcomeUnknownError: it is the answer to another request. ProtocolError: it is not what the script returns.
    """
    if items and _token_of(items) != token:
        raise OutcomeUnknownError(STRAY)
    return _read_at(items), parse_states(items)


def _count(text: bytes) -> int:
    """How many strings follow; with a negative number the list would be read for ever."""
    if (count := number(text)) is None or count < 0:
        raise ValueError
    return count
