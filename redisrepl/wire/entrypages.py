"""Entries of a large stream, never all of them in one answer.

In: a key, and with which entry to begin. Out: arguments of a script, and what its answers say. Left to others: sending
(`remote.elements`, `local.read`), what follows from it (`flow.streams`).

A stream is in the order of its ids, and clients add at its end. So whoever has seen all of it and knows how many
entries were ever added needs to read no more than those behind its last id (`StreamFacts.removed_since`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from redisrepl.errors import ProtocolError
from redisrepl.wire.entries import NO_GROUPS, STREAMS, entry_name, last_id_of, stream_elements
from redisrepl.wire.lua import HEAD_OF
from redisrepl.wire.replies import natural
from redisrepl.wire.states import check_token, expiry, read_at

__all__ = ["BEGINNING", "ENTRIES_SCRIPT", "EntryPage", "StreamFacts", "behind", "parse_entries", "words_of"]

#: Where a stream begins; as an id to go on with, that nothing follows.
BEGINNING = b"0"
_HEAD = 8
_ID = re.compile(rb"\d{1,20}-\d{1,20}")

#: ARGV: the token of the request, the key, the id to begin with (`(` before it: with the next one), how many entries
#: are enough, and how many bytes. Returns the server's time and the token, the key's type and expiry, and, if it is a
#: stream, how many entries it has, how many were ever added (empty before Redis 7.0), the first id and the last one,
#: and the id to go on with (0: there is nothing more); then names and values in turn, with the last id behind the last
#: entry.
ENTRIES_SCRIPT = (
    NO_GROUPS
    + STREAMS
    + HEAD_OF
    + b"""\
local key, from, enough, limit = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local out, failed = head_of(key, ARGV[1])
if failed then return failed end
if out[2] ~= 'stream' then return out end
local info = streams().info_of(key)
local added, first = info['entries-added'], info['first-entry']
out[4], out[5] = tostring(info.length), added and string.format('%.0f', added) or ''
out[6], out[7] = first and first[1] or '', streams().last_of(info)
if string.sub(from, 1, 1) == '(' then
  from = streams().after(string.sub(from, 2))
  if from == '0' then enough = 0 end
end
local n, bytes = 8, 0
while enough > 0 and bytes < limit do
  local flat = {}
  from = streams().page(key, from, flat)
  for j = 1, #flat do
    out[n + j] = flat[j]
    bytes = bytes + #flat[j]
  end
  n, enough = n + #flat, enough - #flat / 2
  if from == '0' then break end
end
out[8] = from
return out
"""
)


class StreamFacts(NamedTuple):
    """What is known of a stream as a whole.

    Attributes:
        length: how many entries it has.
        added: how many were ever added; None: the server does not tell.
        first: name of its first entry; None: it has none.
        last: its last id.
    """

    length: int
    added: int | None
    first: bytes | None
    last: bytes

    def removed_since(self, before: StreamFacts, new: int) -> int | None:
        """How many entries are gone since.

        Args:
            before: what was known then.
            new: how many entries there are behind the last id of then.

        Returns:
            None: nobody knows, or entries were added elsewhere than at the end.
        """
        if self.added is None or before.added is None or self.added - before.added != new:
            return None
        removed = before.length + new - self.length
        return removed if removed >= 0 else None


class EntryPage(NamedTuple):
    """Some entries of a stream.

    Attributes:
        time: of the server, in microseconds.
        type: what the key holds; of another type than `stream`, there is nothing else.
        expires_at_ms: of the key.
        facts: of all of it; None: it is no stream.
        following: the id to go on with; `BEGINNING`: these are the last.
        found: elements with their values, in their order; the last id is behind the last entry.
    """

    time: int
    type: str
    expires_at_ms: int | None
    facts: StreamFacts | None = None
    following: bytes = BEGINNING
    found: Mapping[bytes, bytes] = {}


def behind(id_: bytes) -> bytes:
    """Where to begin with the entries that follow this id."""
    return b"(" + id_


def words_of(token: bytes, key: bytes, begin: bytes, enough: int, max_bytes: int) -> list[bytes]:
    """Arguments of the script.

    Args:
        token: without spaces; the answer repeats it.
        key: of the stream.
        begin: the id to begin with.
        enough: entries after which no more are read; 0: none are.
        max_bytes: likewise.
    """
    return [token, key, begin, b"%d" % enough, b"%d" % max_bytes]


def parse_entries(items: Sequence[bytes], token: bytes, begin: bytes) -> EntryPage:
    """What the script answered to a request with this token that began with this id.

    Raises:
        OutcomeUnknownError: it is the answer to another request. ProtocolError: it is not what the script returns.
    """
    check_token(items, token)
    time = read_at(items)
    try:
        type_ = items[1].decode("ascii")
        expires_at_ms = expiry(items[2])
        if type_ != "stream":
            return EntryPage(time, type_, expires_at_ms)
        added = natural(items[4]) if items[4] else None
        first = entry_name(items[5]) if items[5] else None
        facts = StreamFacts(natural(items[3]), added, first, last_id_of(items[6]))
        found = stream_elements(items[_HEAD:])
        if _goes_on(begin, items[7], found):
            return EntryPage(time, type_, expires_at_ms, facts, items[7], found)
    except (IndexError, ValueError):
        pass
    raise ProtocolError("the reply to a script that reads entries is not what it returns")


def _goes_on(begin: bytes, following: bytes, found: Mapping[bytes, bytes]) -> bool:
    """Whether these entries come in their order, from one id on, and further; else a server might have no end."""
    start, names = entry_name(begin.removeprefix(b"(")), [*found]
    if names != sorted(names) or (names and names[0] < start):
        return False
    return following == BEGINNING or bool(names and _ID.fullmatch(following) and names[-1] < entry_name(following))
