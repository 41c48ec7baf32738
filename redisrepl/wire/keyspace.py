"""Keyspace notifications: which of a server's flags make it tell what we must see.

In: the flags that are set. Out: those that are missing. Left to others: reading and setting them, at the hub
(`remote.notifications`) and at the site (`local.notify`).
"""

from __future__ import annotations

from redisrepl.changes import types_of
from redisrepl.wire.collections import COLLECTIONS, READABLE

__all__ = ["NOTIFY_OPTION", "announced_events", "missing_flags"]

NOTIFY_OPTION = "notify-keyspace-events"
#: `A` stands for these classes (`NOTIFY_ALL` in Redis' server.h).
_ALL = "g$lshzxetd"


def missing_flags(flags: str, kinds: frozenset[str]) -> str:
    """Which flags must be added to see what is replicated: K for keyspace channels, and the classes of the events.

    `$` strings, `h` hashes, `s` sets, `z` sorted sets, `l` lists and `t` streams; `g` tells of RENAME, COPY and
    RESTORE, of DEL and of expiry times; `x` and `e` of keys that expired or were evicted.
    """
    others = "".join(sorted(READABLE[type_].flag for type_ in types_of(kinds) & READABLE.keys() - {"hash"}))
    wanted = f"K$h{others}g" + ("xe" if "del" in kinds else "")
    present = flags.replace("A", _ALL)
    return "".join(flag for flag in wanted if flag not in present)


def announced_events(kinds: frozenset[str]) -> frozenset[bytes]:
    """Names of the events that our own commands cause and that these flags make the server send."""
    carried = [kind for type_, kind in COLLECTIONS.items() if type_ == "hash" or type_ in types_of(kinds)]
    events = {b"set", *(kind.put_event for kind in carried)}
    if "lists" in kinds:
        events |= {b"rpush", b"ltrim"}
    if "streams" in kinds:
        events.add(b"xsetid")
    if "del" in kinds:
        events |= {b"del", *(kind.remove_event for kind in carried)}
    if "expire" in kinds:
        events |= {b"expire", b"persist"}
    return frozenset(events)
