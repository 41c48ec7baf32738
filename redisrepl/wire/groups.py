"""Consumer groups as elements of their stream: names, values, and the Lua that reads and writes them.

In: names and values, as servers and scripts tell them. Out: the same in the form that all other modules know; commands.
Left to others: entries (`wire.entries`), commands in the replication stream (`wire.groupcommands`).

A group is an element whose value is the id that it has delivered last. Each of its pending entries is another element:
its value is who has it and how often it was delivered. So an XACK is the removal of an element, and two sides that both
work on a group are merged entry by entry, as members of a set are.

- A consumer is known by its pending entries alone. Servers make consumers when they read, and do not tell their own
  replicas of those that received nothing.
- The time of delivery travels with the value, but is no part of it: servers do not take a time in the future, so two
  sides whose clocks differ would never be equal.
- A pending entry that the stream does not hold any more is left out: no server makes one (`XCLAIM .. FORCE`).
- `entries-read` belongs to the server's own count of entries, which is not replicated. The script computes it anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

__all__ = [
    "GROUP_ELEMENTS",
    "Delivery",
    "checked_names",
    "delivery",
    "events_of_groups",
    "is_element_of_group",
    "is_of_group",
    "is_place",
    "pending_name",
    "place_name",
    "questions_of_groups",
    "removal_commands",
    "value_at_server",
    "value_here",
    "values_of_groups",
]

#: What the names of all elements of groups begin with; they sort behind the last id of the stream.
_MARK = b"xgroup-"
#: `xgroup-at:GROUP`, whose value is the last delivered id, and `xgroup-pending:LENGTH:GROUPID`, a pending entry.
_AT = b"xgroup-at:"
_PENDING = b"xgroup-pending:"

_ID = re.compile(rb"(\d{1,20})(?:-(\d{1,20}))?")
_PENDING_NAME = re.compile(rb"xgroup-pending:(\d{1,9}):(.*)", re.DOTALL)
_DELIVERY = re.compile(rb"(\d{1,19}) (\d{0,18}) (.*)", re.DOTALL)
_LARGEST = (1 << 64) - 1
#: Ids that one command names: Lua's stack holds 8,000 values.
_MOST = 1000


class Delivery(bytes):
    """The value of a pending entry, `COUNT CONSUMER`. Two are equal whenever it was delivered.

    Attributes:
        at_ms: when, in Unix milliseconds by the clock of the server; None: that is not known.
    """

    at_ms: int | None

    def __new__(cls, value: bytes, at_ms: int | None) -> Self:
        """See the class."""
        made = super().__new__(cls, value)
        made.at_ms = at_ms
        return made


def delivery(consumer: bytes, count: int, at_ms: int | None) -> Delivery:
    """The value of an entry that a consumer received so many times, the last time then."""
    return Delivery(b"%d %b" % (count, consumer), at_ms)


def place_name(group: bytes) -> bytes:
    """The name of the element that holds a group's last delivered id."""
    return _AT + group


def pending_name(group: bytes, id_: bytes) -> bytes:
    """The name of the element for a pending entry of a group.

    Raises:
        ValueError: it is not an id.
    """
    return b"%b%d:%b%b" % (_PENDING, len(group), group, _plain(id_))


def is_of_group(name: bytes) -> bool:
    """Whether an element of this name belongs to a group."""
    return name.startswith(_MARK)


def is_element_of_group(name: bytes) -> bool:
    """Whether a group may have an element of this name."""
    try:
        _parts(name)
    except ValueError:
        return False
    return True


def is_place(name: bytes) -> bool:
    """Whether it is the element that holds a group's last delivered id."""
    return name.startswith(_AT)


def _plain(id_: bytes) -> bytes:
    found = _ID.fullmatch(id_)
    ms, seq = (int(found[1]), int(found[2] or 0)) if found else (_LARGEST + 1, 0)
    if max(ms, seq) > _LARGEST:
        raise ValueError("an id that is none")
    return b"%d-%d" % (ms, seq)


def _parts(name: bytes) -> tuple[bytes, bytes]:
    """The group that an element belongs to, and the id of the entry; empty: it is the group itself.

    Raises:
        ValueError: it is not the name of such an element.
    """
    if name.startswith(_AT):
        return name.removeprefix(_AT), b""
    if (found := _PENDING_NAME.fullmatch(name)) is not None and int(found[1]) <= len(found[2]):
        size, rest = int(found[1]), found[2]
        if pending_name(rest[:size], rest[size:]) == name:
            return rest[:size], rest[size:]
    raise ValueError("no element of a group")


def checked_names(names: Sequence[bytes]) -> tuple[bytes, ...]:
    """Names of elements of groups, in messages that any client of the hub can send.

    Raises:
        ValueError: one of them is not.
    """
    for name in names:
        _parts(name)
    return tuple(names)


def value_here(name: bytes, reply: bytes) -> bytes:
    """The value of an element of a group, from what scripts return and accept: an id, or `COUNT TIME CONSUMER`.

    Raises:
        ValueError: it is none, or the name is not that of such an element.
    """
    if not _parts(name)[1]:
        return _plain(reply)
    if (found := _DELIVERY.fullmatch(reply)) is None:
        raise ValueError("no pending entry")
    return delivery(found[3], int(found[1]), int(found[2]) if found[2] else None)


def value_at_server(name: bytes, value: bytes) -> bytes:
    """The contrary."""
    if is_place(name):
        return value
    count, _, consumer = value.partition(b" ")
    at_ms = value.at_ms if isinstance(value, Delivery) else None
    return b"%b %b %b" % (count, b"" if at_ms is None else b"%d" % at_ms, consumer)


def _by_group(names: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    """The ids that these names are of, by group; the group itself as an empty one."""
    ids: dict[bytes, list[bytes]] = {}
    for name in names:
        group, id_ = _parts(name)
        ids.setdefault(group, []).append(id_)
    return ids


def removal_commands(key: bytes, names: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Redis' own commands that remove elements of groups.

    Raises:
        ValueError: a name is not that of such an element.
    """
    for group, ids in _by_group(names).items():
        if b"" in ids:
            yield [b"XGROUP", b"DESTROY", key, group]
            continue
        for start in range(0, len(ids), _MOST):
            yield [b"XACK", key, group, *ids[start : start + _MOST]]


def events_of_groups(names: Iterable[bytes], *, removed: bool = False) -> tuple[bytes, ...]:
    """The keyspace events that the scripts cause when they put, or remove, these elements.

    No command about pending entries causes an event. So that others hear of it, the last id of each group that has
    changed is set to what it is.
    """
    by_group = _by_group(name for name in names if is_of_group(name))
    return tuple(b"xgroup-destroy" if removed and b"" in ids else b"xgroup-setid" for ids in by_group.values())


# Reading them without a script.


def questions_of_groups(key: bytes, names: Sequence[bytes]) -> list[list[bytes]]:
    """The commands that read these elements."""
    asked = [[b"TIME"], [b"XINFO", b"GROUPS", key]] if names else []
    for name in names:
        group, id_ = _parts(name)
        if id_:
            asked += [[b"XPENDING", key, group, id_, id_, b"1"], [b"XRANGE", key, id_, id_]]
    return asked


def values_of_groups(names: Sequence[bytes], replies: Sequence[object]) -> dict[bytes, bytes]:
    """The values of these elements, from the replies to that; those that are not there are left out."""
    if not names:
        return {}
    clock, groups, *others = replies
    found: dict[bytes, bytes] = {}
    for one in groups if isinstance(groups, list) else ():
        match _pairs(one):
            case {b"name": bytes(group), b"last-delivered-id": bytes(last)}:
                found[place_name(group)] = _plain(last)
            case _:
                pass
    found = {name: value for name, value in found.items() if name in names}
    now = _milliseconds(clock)
    for name, pending, entries in zip(filter(_is_pending, names), others[::2], others[1::2], strict=True):
        match pending, entries:
            case [[bytes(), bytes(consumer), int(idle), int(count)]], [_]:
                found[name] = delivery(consumer, count, None if now is None else max(now - idle, 0))
            case _:
                pass
    return found


def _is_pending(name: bytes) -> bool:
    return name.startswith(_PENDING)


def _pairs(flat: object) -> Mapping[object, object]:
    return dict(zip(flat[::2], flat[1::2], strict=False)) if isinstance(flat, list) else {}


def _milliseconds(clock: object) -> int | None:
    match clock:
        case [bytes(seconds), bytes(micros)] if seconds.isdigit() and micros.isdigit():
            return int(seconds) * 1000 + int(micros) // 1000
        case _:
            return None


#: Lua, part of `wire.entries.STREAMS`. `add_groups(key, flat)`: add the elements of all groups to those of the stream.
#: `group_element(key, name)`: the value of one, nil if it is absent, or an error. `put_groups(key, set)`: put elements,
#: names and values in turn; returns an error or nil, and whether something that they need is not there: the stream, the
#: group or an entry. `remove_groups(key, names)`: returns an error or nil, and whether all groups were there.
#: `are_pending(key, ids)`: whether an entry of one of these ids is pending in some group. `digested(name, value)`: the
#: part of a value that is digested.
GROUP_ELEMENTS = b"""\
  local sub, format = string.sub, string.format
  local function is_of_group(name) return sub(name, 1, 7) == 'xgroup-' end
  local function place_of(name) return sub(name, 1, 10) == 'xgroup-at:' and sub(name, 11) or nil end
  local function pending_of(name)
    local size, rest = string.match(name, '^xgroup%-pending:(%d+):(.*)$')
    if not size then return nil end
    return sub(rest, 1, tonumber(size)), sub(rest, tonumber(size) + 1)
  end
  local function groups_of(key)
    local list, groups = try('XINFO', 'GROUPS', key), {}
    if list.err then return nil, not find(list.err, 'no such key', 1, true) and list or nil end
    for _, flat in ipairs(list) do
      local group = {}
      for j = 1, #flat, 2 do group[flat[j]] = flat[j + 1] end
      groups[group.name] = group
    end
    return groups
  end
  local function now_ms()
    local t = try('TIME')
    return not t.err and t[1] * 1000 + math.floor(t[2] / 1000)
  end
  local function told_of(row, now)
    local at = now and format('%.0f', math.max(now - row[3], 0)) or ''
    return format('%.0f', row[4]) .. ' ' .. at .. ' ' .. row[2]
  end
  local function add_groups(key, flat)
    local n, there, now = #flat, {}, now_ms()
    for j = 1, n, 2 do there[flat[j]] = true end
    for name, group in pairs(groups_of(key)) do
      flat[n + 1], flat[n + 2] = 'xgroup-at:' .. name, group['last-delivered-id']
      n = n + 2
      local rows = group.pending > 0 and call('XPENDING', key, name, '-', '+', group.pending) or {}
      for _, row in ipairs(rows) do
        if there[row[1]] then
          flat[n + 1] = 'xgroup-pending:' .. #name .. ':' .. name .. row[1]
          flat[n + 2] = told_of(row, now)
          n = n + 2
        end
      end
    end
    return flat
  end
  local function group_element(key, name)
    local place = place_of(name)
    if place then
      local groups, failed = groups_of(key)
      local group = groups and groups[place]
      return group and group['last-delivered-id'] or nil, failed
    end
    local group, id = pending_of(name)
    local rows = try('XPENDING', key, group, id, id, 1)
    if rows.err then return nil, not find(rows.err, 'NOGROUP', 1, true) and rows or nil end
    if rows[1] and call('XRANGE', key, id, id)[1] then return told_of(rows[1], now_ms()) end
  end
  local function read_by(key, info, group, at)
    local added, read, from = info['entries-added'], group['entries-read'], group['last-delivered-id']
    if not added then return nil end
    if at == info['last-generated-id'] then return added end
    if read and at == from then return read end
    if read and name_of(at) > name_of(from) then
      local more = #call('XRANGE', key, '(' .. from, at, 'COUNT', 1001)
      if more <= 1000 then return read + more end
    end
    local left = #call('XRANGE', key, '(' .. at, '+', 'COUNT', 1001)
    return left <= 1000 and math.max(added - left, 0) or nil
  end
  local function set_place(key, info, group, at)
    local read = read_by(key, info, group, at)
    if read then return try('XGROUP', 'SETID', key, group.name, at, 'ENTRIESREAD', read) end
    return try('XGROUP', 'SETID', key, group.name, at)
  end
  local function put_groups(key, set)
    local groups, failed = groups_of(key)
    if not groups then return failed, true end
    local wanted, missing, info = {}, nil, info_of(key)
    for j = 1, #set, 2 do
      local name = place_of(set[j])
      if name then wanted[name] = set[j + 1] end
    end
    for j = 1, #set, 2 do
      local name = not place_of(set[j]) and pending_of(set[j])
      if name and groups[name] and not wanted[name] then wanted[name] = groups[name]['last-delivered-id'] end
    end
    for name, at in pairs(wanted) do
      local reply = not groups[name] and try('XGROUP', 'CREATE', key, name, at)
      if reply and reply.err then return reply end
      reply = set_place(key, info, groups[name] or {name = name}, at)
      if reply.err then return reply end
    end
    for j = 1, #set, 2 do
      local name, id = pending_of(set[j])
      if name and wanted[name] then
        local count, at, consumer = string.match(set[j + 1], '^(%d+) (%d*) (.*)$')
        local words = {'XCLAIM', key, name, consumer, 0, id, 'RETRYCOUNT', count, 'FORCE', 'JUSTID'}
        if at ~= '' then words[11], words[12] = 'TIME', at end
        local reply = try(unpack(words))
        if reply.err then return reply end
        missing = missing or not reply[1]
      elseif name then
        missing = true
      end
    end
    return nil, missing
  end
  local function remove_groups(key, names)
    local groups, failed = groups_of(key)
    if not groups then return failed, false end
    local info, acked, all = info_of(key), {}, true
    for j = 1, #names do
      local place = place_of(names[j])
      local name, id = place, nil
      if not place then name, id = pending_of(names[j]) end
      if not groups[name] then all = false
      elseif place then
        call('XGROUP', 'DESTROY', key, name)
      else
        call('XACK', key, name, id)
        acked[name] = groups[name]
      end
    end
    for _, group in pairs(acked) do set_place(key, info, group, group['last-delivered-id']) end
    return nil, all
  end
  local function are_pending(key, ids)
    for name, group in pairs(groups_of(key) or {}) do
      for j = 1, group.pending > 0 and #ids or 0 do
        if try('XPENDING', key, name, ids[j], ids[j], 1)[1] then return true end
      end
    end
  end
  local function digested(name, value)
    if sub(name, 1, 15) ~= 'xgroup-pending:' then return value end
    local count, consumer = string.match(value, '^(%d+) %d* (.*)$')
    return count .. ' ' .. consumer
  end
"""
