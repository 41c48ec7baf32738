"""Consumer groups of a stream as far as the daemon can tell: what they hold, and the commands about them.

In: commands. Out: outcomes and events, what replicas are told. Left to others: entries, all other types (`servers`).

They are elements of their stream, by the names and values of `wire.groups`. What is pending of an entry that is gone
is still there, but not shown: it is again once the entry is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from redisrepl.changes import HashState
from redisrepl.wire.entries import entry_name, is_entry, plain_id
from redisrepl.wire.groups import _parts, delivery, is_of_group, is_place, pending_name, place_name
from redisrepl.wire.rdb import Consumer, Group
from redisrepl.wire.writes import UNCHANGED

if TYPE_CHECKING:
    from tests.model.servers import Outcome

__all__ = ["UNSEEN", "GroupsMixin", "groups_of", "pending_of", "rdb_groups", "shown"]

#: Commands that `WATCH` does not see (measured with Redis 7.0.15).
UNSEEN = (b"XGROUP", b"XREADGROUP", b"XCLAIM", b"XACK", b"XSETID")


def groups_of(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The last delivered id of each group."""
    return {_parts(name)[0]: value for name, value in fields.items() if is_place(name)}


def pending_of(fields: Mapping[bytes, bytes], group: bytes) -> dict[bytes, tuple[int, bytes]]:
    """How often each pending entry of a group was delivered, and to whom, by its id."""
    rows = {}
    for name in filter(is_of_group, fields):
        of_group, id_ = _parts(name)
        if id_ and of_group == group:
            count, _, consumer = fields[name].partition(b" ")
            rows[id_] = int(count), consumer
    return rows


def shown(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What can be read of a stream: nothing that is pending of an entry that is gone."""
    pending = [name for name in filter(is_of_group, fields) if not is_place(name)]
    hidden = {name for name in pending if entry_name(_parts(name)[1]) not in fields}
    return {name: value for name, value in fields.items() if name not in hidden}


def rdb_groups(fields: Mapping[bytes, bytes]) -> list[Group]:
    """As a snapshot tells them."""
    found = []
    for group, at in groups_of(fields).items():
        rows = sorted(pending_of(fields, group).items(), key=lambda row: entry_name(row[0]))
        consumers = {who: Consumer(who, 0, 0, []) for _, (_, who) in rows}
        for id_, (_, who) in rows:
            consumers[who].pending.append(id_.decode())
        told = [(id_.decode(), 0, count) for id_, (count, _) in rows]
        found.append(Group(group, at.decode(), None, told, [*consumers.values()], []))
    return found


class GroupsMixin:
    """The commands about groups, for `servers.Server`. `WATCH` sees none of them, and few cause an event."""

    def _set_groups(self, key: bytes, changed: Mapping[bytes, bytes | None]) -> None:
        """Elements of groups change, as nobody is told."""
        fields = {**self.data[key].fields, **changed}
        left = {name: value for name, value in fields.items() if value is not None}
        self.data[key] = HashState(left, None, "stream")

    def _pend(self, key: bytes, group: bytes, id_: bytes, consumer: bytes, count: int) -> None:
        """An entry is pending from now on, and replicas are told."""
        self._set_groups(key, {pending_name(group, id_): delivery(consumer, count, 0)})
        last = self.data[key].fields[place_name(group)]
        words = (b"TIME", b"0", b"RETRYCOUNT", b"%d" % count, b"FORCE", b"JUSTID", b"LASTID", last)
        self._replicate(b"XCLAIM", key, group, consumer, b"0", id_, *words)

    def _xgroup(self, what: bytes, key: bytes, group: bytes, *words: bytes) -> Outcome:
        """`XGROUP CREATE|SETID|DESTROY|DELCONSUMER`."""
        held = self._elements("stream", key)
        there = bool(held) and place_name(group) in held
        if not held or (there if what == b"CREATE" else not there):
            return "ERR no such stream or group, or it is there", []
        if what in (b"CREATE", b"SETID"):
            self._set_groups(key, {place_name(group): plain_id(entry_name(words[0]))})
        else:
            left = words[0] if what == b"DELCONSUMER" else None
            gone = [
                pending_name(group, id_) for id_, (_, who) in pending_of(held, group).items() if left in (None, who)
            ]
            self._set_groups(key, dict.fromkeys([*gone, *([] if left else [place_name(group)])]))
        self._replicate(b"XGROUP", what, key, group, *words)
        return None, [(key, b"xgroup-" + what.lower())]

    def _xreadgroup(self, key: bytes, group: bytes, consumer: bytes, most: bytes) -> Outcome:
        """`XREADGROUP GROUP group consumer COUNT most STREAMS key >`, of which no event tells."""
        held = self._elements("stream", key) or {}
        if (at := held.get(place_name(group))) is None:
            return "ERR NOGROUP", []
        following = sorted(name for name in filter(is_entry, held) if name > entry_name(at))
        for name in following[: int(most)]:
            self._set_groups(key, {place_name(group): plain_id(name)})
            self._pend(key, group, plain_id(name), consumer, 1)
        return None, []

    def _xclaim(self, key: bytes, group: bytes, consumer: bytes, id_: bytes) -> Outcome:
        """`XCLAIM key group consumer 0 id`, likewise, of an entry that is there."""
        held = self._elements("stream", key) or {}
        if entry_name(id_) in held and (row := pending_of(held, group).get(id_)):
            self._pend(key, group, id_, consumer, row[0] + 1)
        return None, []

    def _xack(self, key: bytes, group: bytes, *ids: bytes) -> Outcome:
        """Likewise."""
        held = self._elements("stream", key) or {}
        if gone := [name for id_ in ids if (name := pending_name(group, id_)) in held]:
            self._set_groups(key, dict.fromkeys(gone))
            self._replicate(b"XACK", key, group, *ids)
        return None, []

    def _put_groups(self, key: bytes, elements: Mapping[bytes, bytes]) -> tuple[list[tuple[bytes, bytes]], bool]:
        """What scripts do to put these; the events, and whether something that they need is not there."""
        held = self._elements("stream", key) or {}
        if not held:
            return [], bool(elements)
        groups, events, missing = groups_of(held), [], False
        wanted = {group: groups[group] for group, _ in map(_parts, elements) if group in groups} | groups_of(elements)
        for group, at in wanted.items():
            if group not in groups:
                events += self._xgroup(b"CREATE", key, group, at)[1]
            events += self._xgroup(b"SETID", key, group, at)[1]
        for name, value in elements.items():
            group, id_ = _parts(name)
            if id_ and group in wanted and entry_name(id_) in held:
                count, _, consumer = value.partition(b" ")
                self._pend(key, group, id_, consumer, int(count))
            elif id_:
                missing = True
        return events, missing

    def _groupdel(self, key: bytes, *names: bytes) -> Outcome:
        """What scripts do to remove these; `UNCHANGED` if one of the groups is not there."""
        groups = groups_of(self._elements("stream", key) or {})
        events, acked, missing = [], {}, False
        for name in names:
            group, id_ = _parts(name)
            if group not in groups:
                missing = True
            elif not id_:
                events += self._xgroup(b"DESTROY", key, group)[1]
            else:
                self._xack(key, group, id_)
                acked[group] = groups[group]
        for group, at in acked.items():
            events += self._xgroup(b"SETID", key, group, at)[1]
        return (UNCHANGED if missing else None), events
