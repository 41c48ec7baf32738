"""The script that reads what keys hold, at the hub and at the site, and its reply.

In: the flat list of strings that `STATES_SCRIPT` returns. Out: states. Left to others: running it (`remote.fetch`,
`local.read`).
"""

from __future__ import annotations

from collections.abc import Sequence

from redisrepl.changes import (
    DENIED,
    HashState,
    LargeState,
    ReckonedExpiry,
    SequenceState,
    State,
    StringState,
    expiry_ms,
)
from redisrepl.errors import OutcomeUnknownError, ProtocolError
from redisrepl.wire.collections import COLLECTIONS, SEQUENCES, elements_in
from redisrepl.wire.entries import STREAMS
from redisrepl.wire.fieldtimes import TIMED, timed_fields
from redisrepl.wire.lua import ELEMENTS_OF, EXPIRY_OF, KIND_OF
from redisrepl.wire.replies import natural

__all__ = ["STATES_SCRIPT", "STRAY", "TOO_LARGE", "check_token", "expiry", "parse_fetch", "parse_states", "read_at"]

#: Reads keys, at least one, until the reply has a number of bytes; what is too large counts too, as the server serves
#: nobody else while it reads that. ARGV[1]: that number, then the limit of a value in bytes, then optionally the most
#: elements of a collection that is read, then the types to read beside strings and hashes. ARGV[2]: a token. The rest:
#: keys.
#:
#: Returns first the server's time in microseconds (0: it does not tell) and the token, by which we know that this is
#: the reply to our request; then for each key its type (`too large` instead of a larger value, `large` and the type
#: instead of a larger collection), its expiry (Unix time in milliseconds, after `~` if it was reckoned; or empty), the
#: number of strings that follow, and those: the value, or elements with their values; of a larger collection how many
#: elements it has. Where it reads expiries of fields (`wire.fieldtimes`), the type of a hash is `hash+`, and each of
#: its fields has three strings.
#:
#: `GET` without `TYPE` would be cheaper for strings, but each hash would then count as an error in the server's INFO.
STATES_SCRIPT = (
    KIND_OF
    + STREAMS
    + ELEMENTS_OF
    + EXPIRY_OF
    + b"""\
local call, try, format = redis.call, redis.pcall, string.format
local budget, most, large, others = string.match(ARGV[1], '^(%d+) ?(%d*):?(%d*)(.*)$')
local out, n, left = {}, 1, tonumber(budget)
most, large = tonumber(most) or math.huge, tonumber(large)
local length = large and {hash = 'HLEN', set = 'SCARD', zset = 'ZCARD'} or {}
carry_more(others)
if large and not has_groups then length.stream = 'XLEN' end
local t = try('TIME')
if t.err then t = {0, 0} end
out[1] = format('%.0f %s', t[1] * 1000000 + t[2], ARGV[2])
for i = 3, #ARGV do
  if left <= 0 then break end
  local key = ARGV[i]
  local kind, failed = kind_of(key)
  if failed then return failed end
  local value = kind == 'string' and call('GET', key)
  local values = {}
  if kind == 'hash' or others ~= '' and string.find(others, ' ' .. kind .. ' ', 1, true) then
    local count = length[kind] and try(length[kind], key)
    if type(count) == 'number' and count > large then
      kind, value = 'large ' .. kind, tostring(count)
    else
      values = elements_of(key, kind)
      if triples and kind == 'hash' then kind = 'hash+' end
    end
  end
  local size = value and #value or 0
  for j = 1, #values do size = size + #values[j] end
  if size > most then kind, value, values, left = 'too large', nil, {}, left - size end
  out[n + 1] = kind
  out[n + 2] = (kind == 'none' or kind == 'denied') and '' or expiry_of(key)
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


#: Webdis can answer a request with the reply to an earlier one whose connection was closed. Without a token, we would
#: then take a batch that was not executed for executed, and with -rc apply the values of other keys.
STRAY = "the hub answered with the reply to another request"

#: Begins the type of a collection that was not read.
_LARGE = b"large "

#: The state of a key whose value is too large to be read.
TOO_LARGE = "too large"


def expiry(text: bytes) -> int | None:
    """The expiry of a key that a script tells: Unix time in milliseconds, after `~` if it was reckoned; or empty: none.

    Raises:
        ValueError: it is none of these.
    """
    if not text:
        return None
    return ReckonedExpiry(natural(text[1:])) if text.startswith(b"~") else expiry_ms(natural(text))


def parse_states(items: Sequence[bytes]) -> list[State | LargeState]:
    """Parse the states of the first keys that the script was asked for; the rest did not fit.

    Raises:
        ProtocolError: the list is not what the script returns.
    """
    read_at(items)
    states: list[State | LargeState] = []
    index, end = 1, len(items)
    try:
        while index < end:  # a negative count would let it loop for ever
            kind, expires, count = items[index], items[index + 1], natural(items[index + 2])
            index += 3
            expires_at_ms = expiry(expires)
            if kind == b"string":
                states.append(StringState(items[index], expires_at_ms))
            elif kind == b"hash":
                fields = dict(zip(items[index : index + count : 2], items[index + 1 : index + count : 2], strict=True))
                states.append(HashState(fields, expires_at_ms))
            elif kind == TIMED:
                states.append(HashState(timed_fields(items[index : index + count]), expires_at_ms))
            elif kind.startswith(_LARGE):
                type_ = kind.removeprefix(_LARGE).decode("ascii")
                states.append(LargeState(type_, natural(items[index]), expires_at_ms))
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


def read_at(items: Sequence[bytes]) -> int:
    """The server's time in microseconds when the script ran.

    Raises:
        ProtocolError: the list is not what the script returns.
    """
    time = items[0].partition(b" ")[0] if items else b""
    if not time.isdigit() or len(time) > _LONGEST_TIME:
        raise ProtocolError("the reply to a reading script does not say when it ran")
    return int(time)


def check_token(items: Sequence[bytes], token: bytes) -> None:
    """Check that the hub answered the request with this token.

    Raises:
        OutcomeUnknownError: it is the reply to another request.
    """
    if items and items[0].partition(b" ")[2] != token:
        raise OutcomeUnknownError(STRAY)


def parse_fetch(items: Sequence[bytes], token: bytes) -> tuple[int, list[State | LargeState]]:
    """Parse the hub's reply to the request with this token.

    Returns:
        The hub's time in microseconds, and the states of the keys that fitted.

    Raises:
        OutcomeUnknownError: it is the reply to another request. ProtocolError: it is not what the script returns.
    """
    check_token(items, token)
    return read_at(items), parse_states(items)
