"""Expiries of hash fields (Redis 7.4, Valkey 9): how they are read, digested and written with the value of a field.

In: whether both servers have them. Out: what is added to scripts, fields from replies, commands, and what those of
another site did. Left to others: asking the servers (`flow.judging`), the clocks (`remote.clock_shift`), all that
compares values (`changes.TimedValue`).

An expiry is part of the value of a field, as a score is the value of a member: `HSET` takes it away. So it has no
change, no event and no place in the ancestor of its own. The digest of a field that expires begins with a salt that
holds the expiry, and a script reads three words for each field instead of two: name, value, and expiry or nothing.

A server tells by `HDEL` that a field was removed and that it has expired. To tell them apart later, the digest of a
field that expires has a mark, which that of another has in one of 65,536 cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

from redisrepl.changes import Change, HashSet, TimedValue

__all__ = [
    "NO_PUT_TIMED",
    "NO_TIMES",
    "PUT_TIMED",
    "PUT_TIMED_IF",
    "TIMED",
    "FieldTimes",
    "changed_times",
    "expiring_fields",
    "has_times",
    "marked",
    "may_expire",
    "moved_by",
    "named_fields",
    "plain_values",
    "probes",
    "put_timed_commands",
    "question_of_times",
    "shown_when_applied",
    "timed_by",
    "timed_fields",
    "times_of",
    "timing_commands",
    "with_times",
    "without_times",
]

#: Lua: where scripts read no expiries of fields. `FieldTimes` replaces it.
NO_TIMES = b"local triples, time_of, mark\n"
#: Lua, likewise where they do. `time_of`: the expiry of a field in digits, less the shift; empty: none. `triples`:
#: names and values in turn, with such expiries behind them. `mark`: the SHA-1 of a field that expires, marked.
_TIMES = b"""\
local function told(at)
  return type(at) == 'number' and at >= 0 and string.format('%%.0f', at - %d) or ''
end
local function time_of(key, name)
  return told(redis.pcall('HPEXPIRETIME', key, 'FIELDS', '1', name)[1])
end
local function triples(key, flat)
  local out, n = {}, 0
  for from = 1, #flat, 2000 do
    local names = {}
    for j = from, math.min(from + 1999, #flat), 2 do names[#names + 1] = flat[j] end
    local times = redis.pcall('HPEXPIRETIME', key, 'FIELDS', #names, unpack(names))
    for j = 1, #names do
      out[n + 1], out[n + 2], out[n + 3] = names[j], flat[from + 2 * j - 1], told(times[j])
      n = n + 3
    end
  end
  return out
end
local function mark(at, text)
  local h = redis.sha1hex('t' .. at .. ':' .. text)
  return string.sub(h, 1, 8) .. '7e57' .. string.sub(h, 13)
end
"""
#: Lua of `wire.batches`, likewise: `HTIMEIF`.
NO_PUT_TIMED = b"local put_timed\n"
_PUT_TIMED_LUA = b"""\
local function put_timed(key, name, digests, value, wanted)
  local held, failed, at = element('H', key, name)
  if failed then return tried(failed) end
  local there = held and redis.pcall('HPEXPIRETIME', key, 'FIELDS', '1', name)[1]
  if held == value and there == tonumber(wanted) then return tried(nil, 'UNCHANGED') end
  if not element_holds('H', name, held, digests, at) then return tried(nil, 'MOVED') end
  local reply = pcall('HSET', key, name, value)
  if type(reply) == 'table' then return tried(reply) end
  tried(pcall('HPEXPIREAT', key, wanted, 'FIELDS', '1', name))
end
"""
#: The mark in the digest of a field that expires: bits 48 to 63 of 96.
_MARK = 0x7E57
_MARK_AT = 48

#: The type, in the replies of scripts, of a hash whose fields are triples.
TIMED = b"hash+"
#: Our own commands that set a field with an expiry: `HTIMEIF key field digests value expiry`, on a condition, which the
#: script of `wire.batches` runs; and `HTIMESET key field value expiry`, for where scripts are refused.
PUT_TIMED_IF = b"HTIMEIF"
PUT_TIMED = b"HTIMESET"
#: Fields that one command reads or sets the expiries of: Lua's stack holds 8,000 values.
_MOST = 1000


#: A name, behind a namespace, that no key has.
_ABSENT = b"redisrepl:check"


class FieldTimes:
    """Whether expiries of fields are replicated now.

    Args:
        wanted: they are to be.

    Attributes:
        wanted: likewise.
        on: they are: as far as is known, both servers have them.
    """

    __slots__ = ("on", "wanted")

    def __init__(self, *, wanted: bool = False) -> None:
        self.on = self.wanted = wanted

    def script(self, script: bytes, shift_ms: int = 0) -> bytes:
        """A script, reading expiries of fields if they are replicated.

        Args:
            script: which; it begins with `NO_TIMES`, or has it somewhere.
            shift_ms: by how much the server's clock is ahead of that by which expiries are digested.
        """
        return _with_times(script, shift_ms) if self.on else script

    def changes(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Changes as they are replicated now: without expiries of fields if one of the servers has none."""
        return changes if self.on or not self.wanted else list(map(without_times, changes))


@cache
def _with_times(script: bytes, shift_ms: int) -> bytes:
    return script.replace(NO_TIMES, _TIMES % shift_ms, 1).replace(NO_PUT_TIMED, _PUT_TIMED_LUA, 1)


def without_times(change: Change) -> Change:
    """A change of fields, none of which expires."""
    if not isinstance(change, HashSet) or not has_times(change.fields):
        return change
    return replace(change, fields=plain_values(change.fields))


def has_times(fields: Mapping[bytes, bytes | None]) -> bool:
    """Whether one of these fields expires; asked for each hash."""
    return TimedValue in map(type, fields.values())


def plain_values(fields: dict[bytes, bytes | None]) -> dict[bytes, bytes | None]:
    """These fields without their expiries."""
    if not has_times(fields):
        return fields
    return {name: bytes(value) if type(value) is TimedValue else value for name, value in fields.items()}


def moved_by(fields: Mapping[bytes, bytes], ms: int) -> Mapping[bytes, bytes]:
    """Fields whose expiries are so many milliseconds later."""
    if not has_times(fields):
        return fields
    return {
        name: TimedValue(value, value.expires_at_ms + ms) if isinstance(value, TimedValue) else value
        for name, value in fields.items()
    }


# Digests.


def marked(hashed: bytes) -> int:
    """The digest of a field that expires, from the first twelve bytes of its SHA-1."""
    digest = int.from_bytes(hashed, "big")
    return digest & ~(0xFFFF << _MARK_AT) | _MARK << _MARK_AT


def may_expire(digest: int) -> bool:
    """Whether this may be the digest of a field that expires."""
    return digest >> _MARK_AT & 0xFFFF == _MARK


# Replies.


def timed_fields(triples: Sequence[bytes]) -> dict[bytes, bytes]:
    """Fields from what scripts return: name, value, and expiry or nothing.

    Raises:
        ValueError: it is not that.
    """
    return {
        name: TimedValue(value, _digits(at)) if at else value
        for name, value, at in zip(triples[::3], triples[1::3], triples[2::3], strict=True)
    }


def _digits(text: bytes) -> int:
    sign = text.startswith(b"-")  # of a server whose clock is far ahead, less the shift
    if not text[sign:].isdigit() or len(text) > _LONGEST:
        raise ValueError
    return int(text)


_LONGEST = 18


def question_of_times(key: bytes, names: Sequence[bytes]) -> list[bytes]:
    """The command that reads the expiries of these fields."""
    return [b"HPEXPIRETIME", key, b"FIELDS", b"%d" % len(names), *names]


def times_of(values: Sequence[bytes | None], reply: object) -> list[bytes | None]:
    """Values of fields with their expiries, from the reply to `question_of_times`; without, if it is no such reply."""
    if not isinstance(reply, list) or len(reply) != len(values):
        return list(values)
    return [
        TimedValue(value, at) if value is not None and isinstance(at, int) and at >= 0 else value
        for value, at in zip(values, reply, strict=True)
    ]


def with_times(fields: Mapping[bytes, bytes], reply: object) -> dict[bytes, bytes]:
    """Likewise fields, all of which have values."""
    values = times_of([*fields.values()], reply)
    return {name: value for name, value in zip(fields, values, strict=True) if value is not None}


# Commands.


def expiring_fields(fields: Mapping[bytes, bytes | None]) -> dict[bytes, TimedValue]:
    """Those of these that expire."""
    if not has_times(fields):
        return {}
    return {name: value for name, value in fields.items() if type(value) is TimedValue}


def timing_commands(key: bytes, fields: Mapping[bytes, bytes | None]) -> Iterator[list[bytes]]:
    """The commands that give fields their expiries, once their values are set."""
    by_time: dict[int, list[bytes]] = {}
    for name, value in fields.items():
        if type(value) is TimedValue:
            by_time.setdefault(value.expires_at_ms, []).append(name)
    for at, names in by_time.items():
        for start in range(0, len(names), _MOST):
            some = names[start : start + _MOST]
            yield [b"HPEXPIREAT", key, b"%d" % max(at, 0), b"FIELDS", b"%d" % len(some), *some]


def timed_by(change: Change, argv: Sequence[bytes]) -> HashSet:
    """A change that set fields, once one of `timing_commands` has given expiries to some of them.

    Raises:
        ValueError: it is no such command, or names other fields.
    """
    match change, argv:
        case HashSet(key, fields, "hash"), [b"HPEXPIREAT", of, at, b"FIELDS", count, *names] if of == key:
            expires_at_ms = _digits(at)
            if count != b"%d" % len(names):
                raise ValueError
            timed = {
                name: TimedValue(value, expires_at_ms) for name in names if (value := fields.get(name)) is not None
            }
            if names and len(timed) == len(names):
                return replace(change, fields=fields | timed)
    raise ValueError


def put_timed_commands(command: Sequence[bytes]) -> list[Sequence[bytes]]:
    """`HTIMESET` as commands of Redis."""
    key, name, value, at = command[1:]
    return [[b"HSET", key, name, value], [b"HPEXPIREAT", key, at, b"FIELDS", b"1", name]]


# The stream.


def shown_when_applied(change: HashSet) -> list[Change]:
    """What the stream shows once fields were set, of which some expire: their values, then that they changed."""
    timed = expiring_fields(change.fields)
    times = [named_fields(command)[0] for command in timing_commands(change.key, timed)]
    return [without_times(change), *(HashSet(change.key, dict.fromkeys(names)) for names in times)]


def named_fields(argv: Sequence[bytes], width: int = 1) -> tuple[Sequence[bytes], list[bytes]]:
    """The words behind `FIELDS n`, so many for each field, and all other options, which may stand on either side.

    Raises:
        ValueError, IndexError: it has another form.
    """
    before = [argument.upper() for argument in argv[2:8]]
    start = 2 + before.index(b"FIELDS") + 2
    end = start + width * int(argv[start - 1])
    return argv[start:end], [*before[: start - 4], *(argument.upper() for argument in argv[end:])]


_ABSOLUTE = {b"PXAT": 1, b"EXAT": 1000}
_WITHOUT_TIME = frozenset({b"EX", b"PX", b"KEEPTTL"})
_TIMING = frozenset({b"HPEXPIREAT", b"HEXPIREAT", b"HPEXPIRE", b"HEXPIRE", b"HPERSIST", b"HGETEX"})


def changed_times(name: bytes, argv: Sequence[bytes]) -> HashSet | None:
    """What a command that may change expiries did to a hash; None: it is no such command.

    `HPEXPIREAT key ms [condition] FIELDS n field ..` and the like do not tell values. Of `HSETEX` a master sends
    `PXAT`, or `KEEPTTL`, which keeps an expiry that we do not know.

    Raises:
        ValueError, IndexError: it has another form.
    """
    if name in _TIMING:
        return HashSet(argv[1], dict.fromkeys(named_fields(argv)[0]))
    if name != b"HSETEX":
        return None
    words, options = named_fields(argv, 2)
    pairs = list(zip(words[::2], words[1::2], strict=True))
    fields: dict[bytes, bytes | None] = dict(pairs)
    for index, option in enumerate(options):
        if option in _WITHOUT_TIME:
            fields = dict.fromkeys(fields)
        elif option in _ABSOLUTE:
            at = int(options[index + 1]) * _ABSOLUTE[option]
            fields = {field: TimedValue(value, at) for field, value in pairs}
    return HashSet(argv[1], fields)


def probes(prefix: bytes, *, writes: bool) -> list[list[bytes]]:
    """Commands that a server without expiries of fields refuses; they change nothing, since no key has this name."""
    key = prefix + _ABSENT
    read = question_of_times(key, [b"f"])
    return [read, [b"HPEXPIREAT", key, b"1", b"FIELDS", b"1", b"f"]] if writes else [read]
