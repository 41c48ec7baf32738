"""Keyspace notifications: what each event says about its key, and which flags a server needs to send these events.

In: names of events; the flags that are set. Out: effects; the flags that are missing. Left to others: reading and
setting flags, at the hub (`remote.notifications`) and at the site (`local.notify`); what follows from an event, at the
site (`sources.keyspace`) and at the hub (`engine.inbound`).

| effect | the key | at the site | at the hub |
|---|---|---|---|
| PUT | has a new value, or new elements | read and push them | fetch |
| CHANGED | has changed, only reading shows how; it may be gone | read and push it as a whole | fetch |
| REMOVED | has lost elements; it may be gone | read and push it as a whole | fetch, where removals are replicated |
| GONE | was removed | push the removal | fetch, where removals are replicated |
| EVICTED | was removed by the server, not by a client | nothing | fetch, where removals are replicated |
| REPLACED | has a new value, perhaps of another type | read and push it as a whole | fetch |
| EXPIRY | has another expiry, or none | push it | fetch, where expiry times are replicated |
| FIELD_EXPIRY | is a hash, and the same is true of a field | push it, where that is replicated | fetch, likewise |
| GROUPS | is a stream, and a consumer group has changed | compare it, where these are replicated | fetch, likewise |

Any other event concerns nothing that is replicated.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from redisrepl.changes import KIND_OF_TYPE, carries_groups, times_fields, types_of
from redisrepl.wire.collections import COLLECTIONS, READABLE

__all__ = [
    "EVENTS",
    "NOTIFY_OPTION",
    "KeyEffect",
    "KeyspaceEvent",
    "announced_events",
    "events_with",
    "keyspace_channel",
    "missing_flags",
]


class KeyEffect(Enum):
    """What happened to a key; the table above."""

    PUT = "put"
    CHANGED = "changed"
    REMOVED = "removed"
    GONE = "gone"
    EVICTED = "evicted"
    REPLACED = "replaced"
    EXPIRY = "expiry"
    FIELD_EXPIRY = "field expiry"
    GROUPS = "groups"


class KeyspaceEvent(NamedTuple):
    """What an event says about its key.

    Attributes:
        effect: see `KeyEffect`.
        kind: the one of `changes.KINDS` that the value belongs to; empty: any.
    """

    effect: KeyEffect
    kind: str = ""


def _rows(effect: KeyEffect, kind: str, *names: bytes) -> dict[bytes, KeyspaceEvent]:
    return dict.fromkeys(names, KeyspaceEvent(effect, kind))


#: Every event that may concern something replicated. Some have another name than their command: BITFIELD causes
#: `setbit`, PFMERGE `pfadd`, DECR `incrby` or `decrby`, GEORADIUS with STORE `georadiusstore`, SORT with STORE
#: `sortstore`, XGROUP CREATE with MKSTREAM `xgroup-create`.
EVENTS: dict[bytes, KeyspaceEvent] = {
    **_rows(KeyEffect.PUT, "set", b"set", b"setrange", b"append", b"incrby", b"decrby", b"incrbyfloat"),
    **_rows(KeyEffect.PUT, "set", b"setbit", b"pfadd"),
    **{kind.put_event: KeyspaceEvent(KeyEffect.PUT, KIND_OF_TYPE[type_]) for type_, kind in COLLECTIONS.items()},
    **{kind.remove_event: KeyspaceEvent(KeyEffect.REMOVED, KIND_OF_TYPE[type_]) for type_, kind in COLLECTIONS.items()},
    **_rows(KeyEffect.PUT, "hset", b"hincrby", b"hincrbyfloat"),
    **_rows(KeyEffect.REMOVED, "hset", b"hexpired"),
    **_rows(KeyEffect.REMOVED, "sets", b"spop"),
    **_rows(KeyEffect.CHANGED, "sets", b"sinterstore", b"sunionstore", b"sdiffstore"),
    **_rows(KeyEffect.PUT, "zsets", b"zincr"),
    **_rows(KeyEffect.REMOVED, "zsets", b"zpopmin", b"zpopmax"),
    **_rows(KeyEffect.REMOVED, "zsets", b"zremrangebyscore", b"zremrangebyrank", b"zremrangebylex"),
    **_rows(KeyEffect.CHANGED, "zsets", b"zunionstore", b"zinterstore", b"zdiffstore", b"zrangestore"),
    **_rows(KeyEffect.CHANGED, "zsets", b"georadiusstore", b"geosearchstore"),
    **_rows(KeyEffect.CHANGED, "lists", b"lpush", b"rpush", b"lpop", b"rpop", b"linsert", b"lset", b"lrem", b"ltrim"),
    **_rows(KeyEffect.CHANGED, "lists", b"sortstore"),
    **_rows(KeyEffect.PUT, "streams", b"xsetid", b"xgroup-create"),
    **_rows(KeyEffect.REMOVED, "streams", b"xtrim"),
    **_rows(KeyEffect.GROUPS, "streams", b"xgroup-setid", b"xgroup-destroy"),
    **_rows(KeyEffect.GROUPS, "streams", b"xgroup-createconsumer", b"xgroup-delconsumer"),
    **_rows(KeyEffect.GONE, "", b"del", b"expired", b"rename_from", b"move_from"),
    **_rows(KeyEffect.EVICTED, "", b"evicted"),
    **_rows(KeyEffect.REPLACED, "", b"rename_to", b"copy_to", b"move_to", b"restore"),
    **_rows(KeyEffect.EXPIRY, "", b"expire", b"persist"),
    **_rows(KeyEffect.FIELD_EXPIRY, "", b"hexpire", b"hpersist"),
}


def events_with(*effects: KeyEffect) -> frozenset[bytes]:
    """Names of the events that have one of these effects."""
    return frozenset(name for name, event in EVENTS.items() if event.effect in effects)


NOTIFY_OPTION = "notify-keyspace-events"
#: The flag `A` means these classes (`NOTIFY_ALL` in Redis' server.h).
_ALL = "g$lshzxetd"


def missing_flags(flags: str, kinds: frozenset[str]) -> str:
    """The flags that must be added to receive the events of these kinds: K for keyspace channels, and their classes.

    `$` strings, `h` hashes, `s` sets, `z` sorted sets, `l` lists, `t` streams and `d` types of modules; `g` covers
    RENAME, COPY, RESTORE, DEL and expiry times; `x` and `e` keys that expired or were evicted.
    """
    others = "".join(sorted(READABLE[type_].flag for type_ in types_of(kinds) & READABLE.keys() - {"hash"}))
    wanted = f"K$h{others}g" + ("xe" if "del" in kinds else "")
    present = flags.replace("A", _ALL)
    return "".join(flag for flag in wanted if flag not in present)


def announced_events(kinds: frozenset[str]) -> frozenset[bytes]:
    """Names of the events that our own commands cause, and that the flags for these kinds make the server send."""
    carried = [kind for type_, kind in COLLECTIONS.items() if type_ == "hash" or type_ in types_of(kinds)]
    events = {b"set", *(kind.put_event for kind in carried)}
    if "lists" in kinds:
        events |= {b"rpush", b"ltrim"}
    if "streams" in kinds:
        events.add(b"xsetid")
    if "opaque" in kinds:
        events.add(b"restore")
    if "del" in kinds:
        events |= {b"del", *(kind.remove_event for kind in carried)}
    if "expire" in kinds:
        events |= {b"expire", b"persist"}
    if times_fields(kinds):
        events.add(b"hexpire")
    if carries_groups(kinds):
        events |= {b"xgroup-setid", b"xgroup-destroy"}
    return frozenset(events)


def keyspace_channel(database: int, key: bytes) -> bytes:
    """The channel on which a server publishes the events of a key."""
    return b"__keyspace@%d__:%b" % (database, key)
