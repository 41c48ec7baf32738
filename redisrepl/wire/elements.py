"""The elements of one large collection at the hub, never all of them in one answer.

In: a key, the type of its collection, and which elements. Out: arguments of a script, and what its answers say. Left
to others: sending (`remote.elements`), what a difference means (`flow.elements`).

A keyspace event does not say which element of a collection has changed. But a server keeps elements in a table, where
each has its place; a scan goes through it by cursors whose last bits are the last bits of places, in the order of the
bits turned round (`dictScan` of Redis, `hashtableScan` of Valkey). So the places that end in the same bits are a
*section*: where it begins is known, it ends when the bits change, and it stays the same while elements come and go and
when the table grows. A digest of each section tells in which of them something has changed since. On a server whose
cursors are others, sections do not add up to as many elements as there are, which is looked at (`Elements.length`).

Each run of the script ends after some thousand elements, since the server does nothing else meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from redisrepl.errors import ProtocolError
from redisrepl.wire.collections import elements_in
from redisrepl.wire.fieldtimes import NO_TIMES, TIMED, timed_fields
from redisrepl.wire.lua import HEAD_OF
from redisrepl.wire.replies import natural
from redisrepl.wire.states import check_token, expiry, read_at

__all__ = ["ELEMENTS_SCRIPT", "MOST_NAMES", "MOST_SECTIONS", "Elements", "Question", "Section", "parse_elements"]

#: Elements that are asked for by name at a time, and sections by number.
MOST_NAMES = 500
MOST_SECTIONS = 8
_HEAD = 5
_DIGITS = 12
_LONGEST = 18

#: ARGV: the token of the request, the type and what is wanted (`digests` of sections, `all` with their elements, those
#: `at` some numbers, or `named` elements), with spaces between; the key; how many sections there are, a power of two,
#: and how many elements one has, about; the section to begin with; numbers or names. Returns the server's time and the
#: token, the key's type and expiry, and, if it is of that type, how many elements it has and the next section (0: there
#: is none); then digests, all in one; or for each section its digest, number of words, and these: elements with their
#: values. A section ends with some of the next one. Where it reads expiries of fields (`wire.fieldtimes`), the type of
#: a hash is `hash+`, and each of its fields has three words.
ELEMENTS_SCRIPT = (
    NO_TIMES
    + HEAD_OF
    + b"""\
local call, pack, sha1, sub, floor = redis.call, cmsgpack.pack, redis.sha1hex, string.sub, math.floor
local token, kind, wanted = string.match(ARGV[1], '^(%S*) (%S+) (%S+)$')
local key, most, size = ARGV[2], string.match(ARGV[3], '^(%d+) (%d+)$')
most, size = tonumber(most), tonumber(size)
local out, failed = head_of(key, token)
if failed then return failed end
if out[2] ~= kind then return out end
if triples and kind == 'hash' then out[2] = 'hash+' end
out[4], out[5] = tostring(call(({hash = 'HLEN', set = 'SCARD', zset = 'ZCARD'})[kind], key)), '0'
local n, words, bytes, digests = 5, 0, 0, {}
local function add(flat)
  for j = 1, #flat do out[n + j] = flat[j] end
  n = n + #flat
end
local scan = ({hash = 'HSCAN', set = 'SSCAN', zset = 'ZSCAN'})[kind]
local function section(number)
  local first, bit, left = 0, most / 2, number
  while bit >= 1 do
    if left % 2 == 1 then first = first + bit end
    left, bit = floor(left / 2), bit / 2
  end
  local cursor, parts, head, count, ask = tostring(first), {}, n, 0, floor(size * 0.8)
  if wanted ~= 'digests' then n = n + 2 end
  repeat
    local reply = call(scan, key, cursor, 'COUNT', ask)
    local flat = reply[2]
    if triples and kind == 'hash' then flat = triples(key, flat) end
    ask = math.max(5, floor(size / 10))
    cursor, count = reply[1], count + #flat
    local packed = pack(flat)
    parts[#parts + 1], bytes = packed, bytes + #packed
    if wanted ~= 'digests' then add(flat) end
  until cursor == '0' or cursor % most ~= first
  words = words + count
  local digest = sub(sha1(table.concat(parts)), 1, 12)
  if wanted == 'digests' then digests[#digests + 1] = digest
  else out[head + 1], out[head + 2] = digest, tostring(count) end
end
if wanted == 'named' then
  local get, found = ({hash = 'HGET', set = 'SISMEMBER', zset = 'ZSCORE'})[kind], {}
  for i = 5, #ARGV do
    local value = call(get, key, ARGV[i])
    if value and value ~= 0 then
      found[#found + 1] = ARGV[i]
      if kind ~= 'set' then found[#found + 1] = value end
      if time_of and kind == 'hash' then found[#found + 1] = time_of(key, ARGV[i]) end
    end
  end
  out[6], out[7], n = '', tostring(#found), 7
  add(found)
elseif wanted == 'at' then
  for i = 5, #ARGV do section(tonumber(ARGV[i])) end
else
  local number, limit = tonumber(ARGV[4]), wanted == 'all' and 4000 or 8000
  repeat
    section(number)
    number = number + 1
  until number == most or words > limit or bytes > 100 * limit
  if number < most then out[5] = tostring(number) end
  if wanted == 'digests' then out[6] = table.concat(digests) end
end
return out
"""
)


class Question(NamedTuple):
    """What one run of the script is to tell.

    Attributes:
        key: of the collection.
        kind: its type.
        wanted: see the script.
        shape: how many sections there are, and how many elements one has, about.
        first: section to begin with, for `all` and `digests`.
        names: of elements, or numbers of sections.
    """

    key: bytes
    kind: str
    wanted: bytes
    shape: tuple[int, int]
    first: int = 0
    names: Sequence[bytes] = ()

    def words(self, token: bytes) -> list[bytes]:
        """Arguments of the script; the token, without spaces, is that by which the answer is known."""
        head = b"%b %b %b" % (token, self.kind.encode(), self.wanted)
        return [head, self.key, b"%d %d" % self.shape, b"%d" % self.first, *self.names]

    def counts(self, following: int) -> int:
        """How many sections the answer has if another begins with that one (0: none does)."""
        match self.wanted:
            case b"named":
                return 1
            case b"at":
                return len(self.names)
            case _:
                return (following or self.shape[0]) - self.first


class Section(NamedTuple):
    """A section of a collection.

    Attributes:
        digest: of its elements, in their order.
        found: they with their values, and some of the next section; nothing, if only digests were asked for.
    """

    digest: bytes
    found: Mapping[bytes, bytes]


class Elements(NamedTuple):
    """Sections of a collection.

    Attributes:
        time: of the server, in microseconds.
        type: what the key holds; of another type than was asked for, there is nothing else.
        expires_at_ms: of the key.
        length: how many elements it has.
        following: the next section; 0: there is none.
        sections: in their order.
    """

    time: int
    type: str
    expires_at_ms: int | None
    length: int = 0
    following: int = 0
    sections: Sequence[Section] = ()


def parse_elements(items: Sequence[bytes], token: bytes, question: Question) -> Elements:
    """What the script answered to this question, asked with this token.

    Raises:
        OutcomeUnknownError: it is the answer to another request. ProtocolError: it is not what the script returns.
    """
    check_token(items, token)
    time = read_at(items)
    try:
        timed = items[1] == TIMED
        type_ = "hash" if timed else items[1].decode("ascii")
        expires_at_ms = expiry(items[2])
        if type_ != question.kind:
            return Elements(time, type_, expires_at_ms)
        count, following = _natural(items[3]), _natural(items[4])
        if question.wanted == b"digests" and len(items) == _HEAD + 1:
            sections = [Section(digest, {}) for digest in _digests(items[_HEAD])]
            at = len(items)
        else:
            sections, at = [], _HEAD
        while at < len(items):
            digest, words = items[at], _natural(items[at + 1])
            at += 2
            sections.append(Section(digest, _found(question.kind, items[at : at + words], timed=timed)))
            at += words
        forward = not following or question.first < following <= question.shape[0]
        if forward and at == len(items) and len(sections) == question.counts(following):
            return Elements(time, type_, expires_at_ms, count, following, sections)
    except (IndexError, ValueError):
        pass
    raise ProtocolError("the reply to a script that reads elements is not what it returns")


def _found(kind: str, words: Sequence[bytes], *, timed: bool) -> Mapping[bytes, bytes]:
    return timed_fields(words) if timed else elements_in(kind, words)


def _digests(text: bytes) -> list[bytes]:
    return [text[at : at + _DIGITS] for at in range(0, len(text), _DIGITS)]


def _natural(text: bytes) -> int:
    """A number that the script returned; none is negative or longer."""
    if len(text) > _LONGEST:
        raise ValueError
    return natural(text)
