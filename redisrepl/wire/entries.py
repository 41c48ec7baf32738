"""Streams as collections: names and values of their elements, and the script that inserts entries.

In: ids and entries, as Redis writes them. Out: elements' names and values, and back; Lua. Left to others: which
elements (`engine.plans`), the other kinds of collection (`wire.collections`).

An element of a stream is an entry. Its name is its id with both numbers at full width, so that names sort as ids do; at
servers it has the plain id. Its value is its fields and their values in order, as MessagePack, which Lua scripts encode
in C. One more element holds the last id of the stream, so that a stream without entries is a collection too.

Redis accepts a new entry only above the last id. To insert one below, which another site added meanwhile, the script
removes the entries above it, sets the last id back, and adds all of them in order. It does so in one step: nobody sees
the stream without them, and consumer groups keep their pending entries. A node of Redis keeps the ids of removed
entries as long as it holds another, in front of all that is added later, and `XTRIM MINID` stops at the first of them.
So the script also removes the entries below, one by one, until Redis has dropped a node.

Where consumer groups are replicated, they and their pending entries are further elements (`wire.groups`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import TypeVar, cast

from redisrepl.errors import ProtocolError
from redisrepl.wire.groups import GROUP_ELEMENTS, is_element_of_group, is_of_group, value_at_server, value_here

__all__ = [
    "FIRST_ID",
    "HAS_GROUPS",
    "LAST_ID",
    "NO_GROUPS",
    "PUT_STREAM_IN_GROUPS_SCRIPT",
    "PUT_STREAM_SCRIPT",
    "REVIVED",
    "STREAMS",
    "as_server_takes_stream",
    "checked_elements",
    "element_name",
    "entries_in",
    "entry_name",
    "entry_value",
    "entry_words",
    "greater_id",
    "is_element_name",
    "is_entry",
    "last_id_of",
    "plain_id",
    "stream_elements",
    "stream_facts",
    "with_last_id",
]

#: Name of the element that holds the last id; it sorts behind all entries.
LAST_ID = b"last-id"
#: In a change, with the value None: all entries before the present first one are gone; the command (`XTRIM`) does not
#: name them. No stream has an element of this name.
FIRST_ID = b"first-id"

Value = TypeVar("Value")

_ID = re.compile(rb"(\d{1,20})(?:-(\d{1,20}))?")
_WIDTH = 20  # digits of 2**64
_NAME = re.compile(rb"\d{20}-\d{20}")


def entry_name(id_: bytes) -> bytes:
    """The name of the entry with this id, `ms-seq` or `ms`.

    Raises:
        ValueError: it is not an id.
    """
    ms, dash, seq = id_.partition(b"-")
    if (
        dash and ms.isdigit() and seq.isdigit() and len(ms) <= _WIDTH and len(seq) <= _WIDTH
    ):  # most ids, without a regex
        return ms.rjust(_WIDTH, b"0") + b"-" + seq.rjust(_WIDTH, b"0")
    if (found := _ID.fullmatch(id_)) is None:
        raise ValueError("an id that is none")
    ms, seq = found.groups()
    return ms.rjust(_WIDTH, b"0") + b"-" + (seq or b"0").rjust(_WIDTH, b"0")


def plain_id(name: bytes) -> bytes:
    """The id of the entry with this name, as Redis prints it; other names stay as they are."""
    if not is_entry(name):
        return name
    ms, _, seq = name.partition(b"-")
    return b"%b-%b" % (ms.lstrip(b"0") or b"0", seq.lstrip(b"0") or b"0")


def element_name(name: bytes) -> bytes:
    """The name of an element, from its name at a server: an id, `LAST_ID`, or that of an element of a group.

    Raises:
        ValueError: it is none of these.
    """
    return name if name == LAST_ID or is_of_group(name) else entry_name(name)


def is_entry(name: bytes) -> bool:
    """Whether an element of this name is an entry."""
    return name[:1].isdigit()


def is_element_name(name: bytes) -> bool:
    """Whether a stream may have an element of this name."""
    return name == LAST_ID or _NAME.fullmatch(name) is not None or is_element_of_group(name)


def entry_value(words: Iterable[bytes]) -> bytes:
    """The value of an entry, from its fields and values in turn."""
    packed = [part for word in words for part in (_head(len(word)), word)]
    count = len(packed) // 2
    if count < len(_FEW):
        return _FEW[count] + b"".join(packed)
    head = b"\xdc" + count.to_bytes(2) if count <= _TWO_BYTES else b"\xdd" + count.to_bytes(4)
    return head + b"".join(packed)


_TWO_BYTES = 0xFFFF
_FEW = [bytes((0x90 | count,)) for count in range(16)]
_SHORT = [*(bytes((0xA0 | size,)) for size in range(32)), *(bytes((0xD9, size)) for size in range(32, 256))]


def _head(size: int) -> bytes:
    """MessagePack's header of a string of this many bytes."""
    if size < len(_SHORT):
        return _SHORT[size]
    return b"\xda" + size.to_bytes(2) if size <= _TWO_BYTES else b"\xdb" + size.to_bytes(4)


def entry_words(value: bytes) -> list[bytes]:
    """The fields and values of an entry in turn.

    Raises:
        ValueError: it is not the value of an entry.
    """
    count, at = _length(value, 0, 0x90, 16, _ARRAYS)
    words: list[bytes] = []
    while at < len(value):
        size, start = _length(value, at, 0xA0, 32, _STRINGS)
        at = start + size
        words.append(value[start:at])
    if at != len(value) or len(words) != count or count % 2:
        raise ValueError("no entry of a stream")
    return words


#: By MessagePack's first byte: how many bytes of length follow.
_ARRAYS = {0xDC: 2, 0xDD: 4}
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}


def _length(value: bytes, at: int, short: int, shorts: int, long: Mapping[int, int]) -> tuple[int, int]:
    """The length at an index, and the index behind it."""
    first = value[at] if at < len(value) else 0
    if short <= first < short + shorts:
        return first - short, at + 1
    if (size := long.get(first)) is None or at + 1 + size > len(value):
        raise ValueError("no entry of a stream")
    return int.from_bytes(value[at + 1 : at + 1 + size]), at + 1 + size


def stream_elements(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """The elements of a stream, from names and values in turn, as scripts return and accept them.

    Raises:
        ValueError: they are not elements of a stream.
    """
    elements = {element_name(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    for name in filter(is_of_group, elements):
        elements[name] = value_here(name, elements[name])
    return elements


def as_server_takes_stream(elements: Mapping[bytes, Value]) -> dict[bytes, Value]:
    """The contrary, in the order in which they can be added; some values may be unknown."""
    taken = {plain_id(name): value for name, value in sorted(elements.items(), key=itemgetter(0))}
    for name in filter(is_of_group, elements):
        if isinstance(value := taken[name], bytes):
            taken[name] = cast("Value", value_at_server(name, value))
    return taken


def checked_elements(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """As `stream_elements`, but checks the values too, for messages that any client of the hub can send.

    Raises:
        ValueError: they are not elements that a stream can hold.
    """
    elements = stream_elements(flat)
    for name, value in elements.items():
        if name == LAST_ID:
            entry_name(value)
        elif is_entry(name) and not entry_words(value):
            raise ValueError("no entry of a stream")
    return elements


def greater_id(first: bytes, second: bytes) -> bytes:
    """The greater of two ids."""
    return max(first, second, key=entry_name)


def entries_in(reply: Sequence[object]) -> dict[bytes, bytes]:
    """The entries of a stream in the reply to `XRANGE`.

    Raises:
        ProtocolError: it is not what `XRANGE` returns.
    """
    elements: dict[bytes, bytes] = {}
    for entry in reply:
        match entry:
            case [bytes(id_), list(words)] if all(isinstance(word, bytes) for word in words):
                elements[entry_name(id_)] = entry_value(words)
            case _:
                raise ProtocolError("a server did not answer XRANGE with entries")
    return elements


def last_id_of(id_: bytes) -> bytes:
    """The last id in the form that we compare: 0-0 counts as 0-1.

    Once an entry was removed, XSETID cannot set the last id back to 0-0.

    Raises:
        ValueError: it is not an id.
    """
    return max(plain_id(entry_name(id_)), b"0-1", key=entry_name)


def with_last_id(elements: Mapping[bytes, bytes | None]) -> Mapping[bytes, bytes | None]:
    """Elements to add at the end of a stream, with the last id that it has then; if that is to be read, as they are."""
    last = elements.get(LAST_ID, b"0-0")
    entries = [name for name, value in elements.items() if value is not None and is_entry(name)]
    if last is None or not entries:
        return elements
    return {**elements, LAST_ID: greater_id(last, plain_id(max(entries)))}


def stream_facts(flat: object, asked: str) -> tuple[bytes, bytes | None]:
    """The last id of a stream and the name of its first entry, from the reply to `XINFO STREAM`.

    Args:
        flat: the reply.
        asked: the command and the server, for messages.

    Raises:
        ProtocolError: it is not what XINFO returns.
    """
    facts = dict(zip(flat[::2], flat[1::2], strict=False)) if isinstance(flat, list) and flat else {}
    last_id, first = facts.get(b"last-generated-id"), facts.get(b"first-entry")
    match last_id, first:
        case bytes(), None if _ID.fullmatch(last_id):
            return last_id_of(last_id), None
        case bytes(), [bytes(id_), *_] if _ID.fullmatch(last_id) and _ID.fullmatch(id_):
            return last_id_of(last_id), entry_name(id_)
        case _:
            raise ProtocolError(f"{asked} did not answer with what is known of a stream")


#: Lua: functions for streams, which are only created when a script needs them.
#: `elements(key)`: names and values in turn. `element(key, name)`: the value of one, nil if it is absent, or an error.
#: `page(key, from, flat)`: add some, beginning with the entry of that id or the next one, without groups; returns the
#: id to go on with, `0` after the last one. `after(id)`: the next id; `0`: there is none. `info_of(key)`: of `XINFO`.
#: `put(key, set)`: add elements, names and values in turn and in the order of ids; returns an error or nil, whether it
#: only added new entries at the end, set the last id and put elements of groups, and whether something that these need
#: is not there, or an entry above the last id still is, or one came back that is pending; and whether that is so.
#: `remove_groups` and `digested`: see `GROUP_ELEMENTS`.
STREAMS = (
    b"""\
local made_streams
local function make_streams()
  local try, call, find = redis.pcall, redis.call, string.find
  local value_of, words_of = cmsgpack.pack, cmsgpack.unpack
  local function name_of(id)
    local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
    return string.rep('0', 20 - #ms) .. ms .. '-' .. string.rep('0', 20 - #seq) .. seq
  end
  local function info_of(key, run)
    local flat, info = (run or call)('XINFO', 'STREAM', key), {}
    if flat.err then return nil, flat end
    for j = 1, #flat, 2 do info[flat[j]] = flat[j + 1] end
    return info
  end
  local function last_of(info)
    local last = info['last-generated-id']
    return last == '0-0' and '0-1' or last
  end
"""
    + GROUP_ELEMENTS
    + b"""\
  local function add_entries(flat, entries)
    local n = #flat
    for j = 1, #entries do
      flat[n + 1], flat[n + 2] = entries[j][1], value_of(entries[j][2])
      n = n + 2
    end
    return n
  end
  local function elements(key)
    local flat = {}
    local n = add_entries(flat, call('XRANGE', key, '-', '+'))
    flat[n + 1], flat[n + 2] = 'last-id', last_of(info_of(key))
    if has_groups then add_groups(key, flat) end
    return flat
  end
  local largest = '18446744073709551615'
  local function increased(digits)
    local head, nines = string.match(digits, '^(.-)(9*)$')
    local zeros = string.rep('0', #nines)
    if head == '' then return '1' .. zeros end
    return string.sub(head, 1, -2) .. (tonumber(string.sub(head, -1)) + 1) .. zeros
  end
  local function after(id)
    local ms, seq = string.match(id, '^(%d+)%-(%d+)$')
    if seq ~= largest then return ms .. '-' .. increased(seq) end
    return ms ~= largest and increased(ms) .. '-0' or '0'
  end
  local function page(key, from, flat)
    local entries = call('XRANGE', key, from, '+', 'COUNT', 50)
    local n = add_entries(flat, entries)
    local following = entries[50] and after(entries[50][1]) or '0'
    if following == '0' then flat[n + 1], flat[n + 2] = 'last-id', last_of(info_of(key)) end
    return following
  end
  local function element(key, name)
    if name == 'last-id' then
      local info, failed = info_of(key, try)
      if not failed then return last_of(info) end
      if not find(failed.err, 'no such key', 1, true) then return nil, failed end
      return nil
    end
    if is_of_group(name) then return group_element(key, name) end
    local found = try('XRANGE', key, name, name)
    if found.err then return nil, found end
    return found[1] and value_of(found[1][2])
  end
  local function set_last(key, last, added, deleted)
    local words = {'XSETID', key, last}
    if added then
      words[4], words[5] = 'ENTRIESADDED', added
      if deleted ~= '0-0' then words[6], words[7] = 'MAXDELETEDID', deleted end
    end
    return try(unpack(words))
  end
  local function force_last(key, last)
    local reply = set_last(key, last)
    local failed = type(reply) == 'table' and reply.err
    if failed and find(failed, 'no such key', 1, true) then
      reply = try('XADD', key, last, '', '')
      if type(reply) == 'table' then return reply end
      call('XTRIM', key, 'MAXLEN', 0)
      reply = set_last(key, last)
    elseif failed and find(failed, 'max_deleted', 1, true) then
      local info = info_of(key)
      set_last(key, info['last-generated-id'], info['entries-added'], '0-1')
      reply = set_last(key, last)
    end
    failed = type(reply) == 'table' and reply.err
    if failed and find(failed, 'top item', 1, true) then return nil, true end
    return failed and reply
  end
  local function merged(key, set, fresh)
    local tail, ids, words, gone = call('XRANGE', key, set[1], '+'), {}, {}, {}
    local n, removed, i, j = 0, 0, 1, 1
    local there, new  -- names of the next of each; none are needed once one of both has ended
    while tail[i] or set[j] do
      if tail[i] and set[j] then there, new = there or name_of(tail[i][1]), new or name_of(set[j]) end
      local same = tail[i] and there == new
      local put = set[j] and (same or not tail[i] or new < there)
      if n > 0 or (put and not (same and value_of(tail[i][2]) == set[j + 1])) then
        n = n + 1
        ids[n] = put and set[j] or tail[i][1]
        words[n] = put and words_of(set[j + 1]) or tail[i][2]
        if put and not same then fresh[#fresh + 1] = set[j] end
        if #words[n] > 7000 then return nil, {err = 'ERR an entry with more than 3,500 fields cannot be moved'} end
      end
      if tail[i] and (same or not put) then
        if n > 0 then
          removed = removed + 1
          gone[removed] = tail[i][1]
        end
        i, there = i + 1, nil
      end
      if put then j, new = j + 2, nil end
    end
    return ids, words, gone
  end
  local function insert(key, set, fresh)
    local ids, words, gone = merged(key, set, fresh)
    if not ids then return words end
    if not ids[1] then return end
    local info = info_of(key)
    local last, added, deleted = info['last-generated-id'], info['entries-added'], info['max-deleted-entry-id']
    local all, below, n = #gone == info['length'], {}, 0
    if name_of(ids[1]) <= name_of(last) then
      local lowest = (all and (deleted or '0-0') == '0-0') and '0-0' or '0-1'
      if ids[1] == lowest then return {err = 'ERR an entry 0-1 cannot be added any more'} end
      if all then call('XTRIM', key, 'MAXLEN', 0) end
      for j = 1, all and 0 or #gone, 1000 do call('XDEL', key, unpack(gone, j, math.min(j + 999, #gone))) end
      local nodes = info_of(key)['radix-tree-keys']
      while #gone + n < info['length'] and info_of(key)['radix-tree-keys'] == nodes do
        local entry = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
        if entry[1] == '0-1' or #entry[2] > 7000 then break end  -- it cannot be added again
        n = n + 1
        below[n] = entry
        call('XDEL', key, entry[1])
      end
      if added and lowest ~= '0-0' then set_last(key, last, added, '0-1') end
      local before = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
      set_last(key, before and before[1] or lowest)
    end
    local failed
    local function add(id, fields)
      local reply = try('XADD', key, id, unpack(fields))
      if type(reply) == 'table' then failed = reply end
    end
    for j = n, 1, -1 do add(below[j][1], below[j][2]) end
    for j = 1, #ids do add(ids[j], words[j]) end
    if name_of(ids[#ids]) > name_of(last) then last = ids[#ids] end
    set_last(key, last, added and added + #ids - #gone, deleted)
    return failed
  end
  local function put(key, set)
    local late, last, added, groups, n, fresh = {}, nil, false, {}, 0, {}
    for j = 1, #set, 2 do
      if set[j] == 'last-id' then
        last = set[j + 1]
      elseif is_of_group(set[j]) then
        groups[#groups + 1], groups[#groups + 2] = set[j], set[j + 1]
      elseif n > 0 then
        n = n + 2
        late[n - 1], late[n] = set[j], set[j + 1]
      else
        local words = words_of(set[j + 1])
        if #words > 7000 then return {err = 'ERR an entry with more than 3,500 fields'} end
        local reply = try('XADD', key, set[j], unpack(words))
        if type(reply) ~= 'table' then
          added = true
          fresh[#fresh + 1] = set[j]
        elseif find(reply.err, 'equal or smaller', 1, true) then
          late[1], late[2], n = set[j], set[j + 1], 2
        else
          return reply
        end
      end
    end
    local failed, above, missing
    if n > 0 then failed = insert(key, late, fresh) end
    for j = 1, failed and n or 0, 2 do  -- what comes at the end is added all the same
      local words = words_of(late[j + 1])
      if #words <= 7000 then try('XADD', key, late[j], unpack(words)) end
    end
    local revived = has_groups and #fresh > 0 and are_pending(key, fresh)
    if last and not failed then failed, above = force_last(key, last) end
    if #groups > 0 and not failed then failed, missing = put_groups(key, groups) end
    return failed, n == 0 and (added or last ~= nil or #groups > 0), missing or above or revived, revived
  end
  return {
    elements = elements, element = element, page = page, after = after, info_of = info_of, last_of = last_of,
    put = put, remove_groups = remove_groups, digested = digested,
  }
end
local function streams()
  made_streams = made_streams or make_streams()
  return made_streams
end
"""
)

#: Lua: what stands before `STREAMS`, where groups are not replicated and where they are.
NO_GROUPS = b"local has_groups\n"
HAS_GROUPS = b"local has_groups = true\n"

_PUT_STREAM = b"""\
local failed, _, _, revived = streams().put(KEYS[1], ARGV)
return failed or revived and {ok = 'REVIVED'} or 1
"""
#: Adds elements to a stream of the site: names and values in turn. The key is in KEYS, as clusters require. Returns 1
#: or `REVIVED`.
PUT_STREAM_SCRIPT = NO_GROUPS + STREAMS + _PUT_STREAM
#: Likewise where groups are replicated.
PUT_STREAM_IN_GROUPS_SCRIPT = HAS_GROUPS + STREAMS + _PUT_STREAM
#: An entry that came back is pending again in a group of this server: Redis keeps it pending while it is gone.
REVIVED = b"REVIVED"
