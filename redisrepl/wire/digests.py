"""Digests of what keys hold, computed alike at the hub and at the site (in Lua) and here.

In: keys, states, replies. Out: digests, and the scripts that ask a server for them. Left to others: what a difference
means (`engine.reconcile`), where agreed digests are kept (`store.database`).

The digest of a string covers its key and value, so that the digests of many keys can be summed: two sides with equal
sums hold equal keys. The digest of a hash covers its key and the sum of its elements' digests, each of a field and its
value. A sum, because the fields have no order, and sorting them in Lua would use the collation of the server's locale,
which may call different names equal. SHA-1, because Redis' Lua has nothing faster. Sets and sorted sets are digested in
the same way, but their elements' digests are salted (`wire.collections`), so that no two types have the same digest.

The digest does not cover the expiry: expiries are compared only where they are replicated. Before Redis 7.0, and where
`PEXPIRETIME` is not allowed, a server tells only the time that is left, and the expiry is a `ReckonedExpiry`.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from hashlib import sha1
from typing import NamedTuple

from redisrepl.changes import HashState, SequenceState, State, StringState, TimedValue
from redisrepl.errors import ProtocolError
from redisrepl.wire.collections import COLLECTIONS, SEQUENCES
from redisrepl.wire.entries import plain_id
from redisrepl.wire.fieldtimes import marked
from redisrepl.wire.lua import BUCKET_OF, DIGEST_OF, EXPIRY_OF
from redisrepl.wire.states import expiry

__all__ = [
    "BUCKETS",
    "DISPUTED",
    "LOOK_SCRIPT",
    "PAGE_SCRIPT",
    "SUMS_SCRIPT",
    "UNREADABLE",
    "WORK",
    "Look",
    "Page",
    "Summed",
    "add_sums",
    "bucket_of",
    "digest_of",
    "element_of",
    "elements_of",
    "hash_digest",
    "held_at",
    "look_at",
    "parse_looks",
    "parse_page",
    "parse_sums",
    "sequence_digest",
    "string_digest",
    "total_of",
    "wanted_buckets",
]

#: The number of buckets in which keys are summed.
BUCKETS = 256
#: Sums are taken modulo this: sums of 48-bit numbers are exact in Lua's doubles.
_MODULUS = 1 << 48
_HALF = 48
#: A digest is the first hexadecimal digits of a SHA-1; the last twelve of them are summed.
_DIGITS = 15
_SHIFT = 64 - 4 * _DIGITS

#: In the place of the digest of a key whose value cannot be replicated: of another type, or denied by an ACL.
UNREADABLE = -1

#: In the place of an agreed digest: no value has it, so both sides count as changed. It counts in sums: were it 0, a
#: side that lacks the key would seem to hold what was agreed on.
DISPUTED = 1

_LONGEST_NUMBER = 18  # digits
_HEXADECIMAL = frozenset(b"0123456789abcdef")
_SUMS_HEAD = 3  # items of a reply before the keys that are left
_BUCKET = struct.Struct(">B6s")

#: The work of one run of a script, after which the rest is left to another run. The server does nothing else meanwhile.
WORK = 1_000_000


class Look(NamedTuple):
    """What a key holds, in short.

    Attributes:
        digest: of its value; None: there is no such key; `UNREADABLE`: its value cannot be replicated.
        expires_at_ms: Unix time in milliseconds; None: it does not expire.
        type: of a collection that is too large for one run of a script: its digest is to be found by `wire.totals`.
    """

    digest: int | None
    expires_at_ms: int | None = None
    type: str = ""


class Page(NamedTuple):
    """A step of a scan.

    Attributes:
        cursor: where to continue; `0`: the end.
        looks: by key, what it holds.
        left: keys that are still to be looked at, because the run had done enough.
    """

    cursor: bytes
    looks: dict[bytes, Look]
    left: tuple[bytes, ...] = ()


# Computed here.


def string_digest(key: bytes, value: bytes) -> int:
    """The digest of a string."""
    hashed = sha1(b"s%d:%b%b" % (len(key), key, value)).digest()  # noqa: S324 - what Redis' Lua has
    return int.from_bytes(hashed[:8], "big") >> _SHIFT


def element_of(field: bytes, value: bytes, kind: str = "hash") -> int:
    """The digest of one element of a collection with its value: two numbers of 48 bits in one."""
    if type(value) is TimedValue:
        text = b"t%d:%d:%b%b" % (value.expires_at_ms, len(field), field, value)
        return marked(sha1(text).digest()[:12])  # noqa: S324 - what Redis' Lua has
    salt = b"" if kind == "hash" else COLLECTIONS[kind].salt
    if kind == "stream":
        field = plain_id(field)
    hashed = sha1(b"%b%d:%b%b" % (salt, len(field), field, value)).digest()  # noqa: S324 - what Redis' Lua has
    return int.from_bytes(hashed[:12], "big")


def elements_of(fields: Mapping[bytes, bytes], kind: str = "hash") -> dict[bytes, int]:
    """The digest of each element of a collection of this type."""
    return {field: element_of(field, value, kind) for field, value in fields.items()}


def total_of(elements: Iterable[int]) -> tuple[int, int]:
    """The sums of the two halves of these digests."""
    first = second = 0
    for element in elements:
        first += element >> _HALF
        second += element % _MODULUS
    return first % _MODULUS, second % _MODULUS


def hash_digest(key: bytes, total: tuple[int, int]) -> int:
    """The digest of a hash whose elements sum up to this."""
    hashed = sha1(b"h%d:%b%d.%d" % (len(key), key, *total)).digest()  # noqa: S324 - what Redis' Lua has
    return int.from_bytes(hashed[:8], "big") >> _SHIFT


#: Items of a sequence that are digested at a time.
_ITEMS = 1000


def sequence_digest(key: bytes, items: Sequence[bytes], kind: str = "list") -> int:
    """The digest of a sequence of this type."""
    chain, its = b"", SEQUENCES[kind]
    if its.ignored:
        items = [item[: -its.ignored] for item in items]
    for start in range(0, len(items), _ITEMS):
        piece = b"".join([b"%d:%b" % (len(item), item) for item in items[start : start + _ITEMS]])
        chain = sha1(chain + piece).hexdigest().encode()  # noqa: S324 - what Redis' Lua has
    hashed = sha1(b"%b%d:%b%b" % (its.salt, len(key), key, chain)).digest()  # noqa: S324
    return int.from_bytes(hashed[:8], "big") >> _SHIFT


def digest_of(key: bytes, state: State) -> int | None:
    """The digest of a key's state; see `Look`."""
    match state:
        case None:
            return None
        case StringState(value):
            return string_digest(key, value)
        case SequenceState(items, _, kind):
            return sequence_digest(key, items, kind)
        case HashState(fields, _, kind):
            return hash_digest(key, total_of(elements_of(fields, kind).values()))
        case _:
            return UNREADABLE


def look_at(key: bytes, state: State) -> Look:
    """The look that a server's script would return for a key in this state."""
    return Look(digest_of(key, state), None if state is None or isinstance(state, str) else state.expires_at_ms)


def bucket_of(key: bytes) -> int:
    """The bucket in which a key is summed, from its last three bytes, which differ most."""
    length = len(key)
    bucket = key[-1] if length else 0
    if length > 1:
        bucket += 31 * key[-2]
    if length > 2:  # noqa: PLR2004 - as far as the scripts look
        bucket += 961 * key[-3]
    return bucket % BUCKETS


def add_sums(sums: list[int], looks: Mapping[bytes, Look]) -> None:
    """Add the digests of keys to the sums of their buckets."""
    for key, look in looks.items():
        if look.digest is not None and look.digest != UNREADABLE:
            bucket = bucket_of(key)
            sums[bucket] = (sums[bucket] + look.digest) % _MODULUS


# Computed at a server.

#: Lua: what is told of a key, and its expiry, if the first argument says so.
_WITH_EXPIRY = (
    EXPIRY_OF
    + b"""\
local function with_expiry(told, key, kind)
  if sub(ARGV[1], 1, 1) ~= '1' or not carried(kind) then return told end
  local expiry = expiry_of(key)
  return expiry == '' and told or told .. ' ' .. expiry
end
"""
)

#: Looks at keys, at least one, until the work is done (in digested bytes; a field or a key counts as 400). ARGV: `1` or
#: `0`, whether to return expiries, followed by the replicated types (`extra_types`); the work; keys.
LOOK_SCRIPT = (
    DIGEST_OF
    + _WITH_EXPIRY
    + b"""\
left = tonumber(ARGV[2])
local out = {}
if #ARGV[1] > 1 then carry(ARGV[1]) end
for i = 3, #ARGV do
  if left <= 0 then break end
  local kind, failed = kind_of(ARGV[i])
  if failed then return failed end
  local told = is_large(ARGV[i], kind) and '#' .. kind or digest_of(ARGV[i], kind)
  out[#out + 1] = with_expiry(told, ARGV[i], kind)
end
return out
"""
)

#: One step of a scan: keys in wanted buckets with their digests. ARGV: the first as above, cursor, pattern, count, the
#: work, then `*` or the wanted buckets. Returns the next cursor, then keys and their looks in turn, `!` for a key that
#: would have been too much work.
PAGE_SCRIPT = (
    DIGEST_OF
    + _WITH_EXPIRY
    + BUCKET_OF
    + b"""\
local reply = redis.call('SCAN', ARGV[2], 'MATCH', ARGV[3], 'COUNT', ARGV[4])
local out, wanted = {reply[1]}, ARGV[6] ~= '*' and {}
left = tonumber(ARGV[5])
if #ARGV[1] > 1 then carry(ARGV[1]) end
for i = 6, wanted and #ARGV or 0 do wanted[tonumber(ARGV[i])] = true end
for _, key in ipairs(reply[2]) do
  if not wanted or wanted[bucket_of(key)] then
    local told = '!'
    local kind, failed = kind_of(key)
    if failed then return failed end
    if left > 0 and not is_large(key, kind) then
      told = with_expiry(digest_of(key, kind), key, kind)
    end
    out[#out + 1] = key
    out[#out + 1] = told
  end
end
return out
"""
)

#: One step of a scan, its keys summed. ARGV: cursor, pattern, count, the work, the replicated types. Returns the next
#: cursor, the number of keys, the number of keys that would have been too much work and those keys; then in one string
#: the buckets and their sums, each as 2 and 12 hexadecimal digits (in three pieces, for where a `long` has 32 bits).
SUMS_SCRIPT = (
    DIGEST_OF
    + BUCKET_OF
    + b"""\
local reply = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local sums, m = {}, 281474976710656
local out = {reply[1], tostring(#reply[2]), '0'}
left = tonumber(ARGV[4])
if ARGV[5] then carry(ARGV[5]) end
for _, key in ipairs(reply[2]) do
  local kind, failed = kind_of(key)
  if failed then return failed end
  if left <= 0 or is_large(key, kind) then
    out[#out + 1] = key
  else
    if carried(kind) then
      local bucket = bucket_of(key)
      sums[bucket] = ((sums[bucket] or 0) + tonumber(sub(digest_of(key, kind), 4, 15), 16)) % m
    end
  end
end
out[3] = tostring(#out - 3)
local told = {}
for bucket, sum in pairs(sums) do
  told[#told + 1] = format('%02x%06x%06x', bucket, math.floor(sum / 16777216), sum % 16777216)
end
out[#out + 1] = table.concat(told)
return out
"""
)


def parse_looks(items: Sequence[bytes], asked: int) -> list[Look]:
    """Parse the reply of `LOOK_SCRIPT`: looks at the first keys, in their order.

    Raises:
        ProtocolError: it is not what the script returns.
    """
    if not 0 < len(items) <= asked:
        raise ProtocolError(f"a server returned {len(items)} digests for {asked} keys")
    return list(map(_parse_look, items))


def parse_page(items: Sequence[bytes]) -> Page:
    """Parse the reply of `PAGE_SCRIPT`.

    Raises:
        ProtocolError: it is not what the script returns.
    """
    if len(items) % 2 != 1:
        raise ProtocolError("a server's reply to a step of a comparison is not what the script returns")
    _number(items[0], 20)  # check the cursor, which goes back to the server as it is
    texts = dict(zip(items[1::2], items[2::2], strict=True))
    left = tuple(key for key, text in texts.items() if text == b"!")
    looks = {key: _parse_look(text) for key, text in texts.items() if text != b"!"}
    return Page(items[0], looks, left)


class Summed(NamedTuple):
    """A step of a scan whose keys were summed.

    Attributes:
        cursor: where to continue; `0`: the end.
        keys: how many keys there were.
        left: those of them that are still to be summed.
    """

    cursor: bytes
    keys: int
    left: Sequence[bytes] = ()


def parse_sums(items: Sequence[bytes], sums: list[int]) -> Summed:
    """Parse the reply of `SUMS_SCRIPT`, and add it to the sums of the buckets.

    Raises:
        ProtocolError: it is not what the script returns.
    """
    if len(items) < _SUMS_HEAD or len(items) != _SUMS_HEAD + (left := _number(items[2])) + 1:
        raise ProtocolError("a server's reply to a step of a comparison is not what the script returns")
    _number(items[0], 20)  # it goes back to the server as it is
    if len(items[-1]) % (2 * _BUCKET.size) or not _HEXADECIMAL.issuperset(items[-1]):
        raise ProtocolError("a server's reply to a step of a comparison holds no sums")
    for bucket, total in _BUCKET.iter_unpack(bytes.fromhex(items[-1].decode("ascii"))):
        sums[bucket] = (sums[bucket] + int.from_bytes(total, "big")) % _MODULUS
    return Summed(items[0], _number(items[1]), items[_SUMS_HEAD : _SUMS_HEAD + left])


def _parse_look(text: bytes) -> Look:
    digest, _, expires = text.partition(b" ")
    if not digest:
        return Look(None)
    if digest == b"?":
        return Look(UNREADABLE)
    known, large = UNREADABLE, ""
    if len(digest) == _DIGITS and _HEXADECIMAL.issuperset(digest):
        known = int(digest, 16)
    elif digest.startswith(b"#"):
        large = digest[1:].decode("ascii", "backslashreplace")
    else:
        raise ProtocolError("a server's reply to a step of a comparison holds no digest")
    try:
        return Look(known, expiry(expires), large)
    except ValueError:
        raise ProtocolError("a server's reply to a step of a comparison holds no expiry where one belongs") from None


def _number(text: bytes, longest: int = _LONGEST_NUMBER) -> int:
    if not text.isdigit() or len(text) > longest:
        raise ProtocolError("a server's reply to a step of a comparison holds no number where one belongs")
    return int(text)


def wanted_buckets(buckets: Collection[int] | None) -> list[bytes]:
    """Buckets as arguments of `PAGE_SCRIPT`; None: all."""
    return [b"*"] if buckets is None else [b"%d" % bucket for bucket in sorted(buckets)]


async def held_at(
    places: Iterable[tuple[bytes, bytes | None]], read: Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, State]]]
) -> dict[tuple[bytes, bytes | None], int | None]:
    """The digests of what a server holds at these places: keys, and fields of hashes.

    Args:
        places: each a key, and a field of it or None.
        read: returns the states of some of these keys, at least one.
    """
    held: dict[tuple[bytes, bytes | None], int | None] = dict.fromkeys(places)
    left: dict[bytes, list[bytes | None]] = {}
    for key, field in held:
        left.setdefault(key, []).append(field)
    while left:
        for key, state in (await read(list(left))).items():
            for field in left.pop(key):
                if field is None:
                    held[key, field] = digest_of(key, state)
                elif isinstance(state, HashState) and (value := state.fields.get(field)) is not None:
                    held[key, field] = element_of(field, value, state.type)
    return held
