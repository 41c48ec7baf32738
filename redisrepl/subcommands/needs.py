"""Which commands each kind of `--replicate` needs at a server, and what is lost without them.

In: kinds, a key. Out: commands to ask a server for. Left to others: asking (`check_hub`, `check_site`).

At the hub each is executed, on a key that is not there, in a form that writes nothing: `HSET` with half a pair, an
entry 0-0 and an empty `RESTORE` are refused once the permission is there. `SADD` and `RPUSH` have no such form. At the
site, writes are queued between `MULTI` and `DISCARD`, which asks for permission and executes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["AT_HUB", "AT_SITE", "TO_APPLY", "commands_for", "what_is_lost"]

#: Stands for the key where it is not the second word.
_KEY = b"{key}"
_Needs = dict[str, tuple[tuple[bytes, ...], ...]]
_READ_GROUPS = ((b"XINFO", b"GROUPS", _KEY), (b"XPENDING", b"g"))
_CLAIM = (b"XCLAIM", b"g", b"c", b"0", b"0-1", b"JUSTID")
_WRITE_GROUPS = ((b"XGROUP", b"DESTROY", _KEY, b"g"), _CLAIM, (b"XACK", b"g", b"0-1"))

AT_HUB: _Needs = {
    "": ((b"TYPE",), (b"GET",), (b"HGETALL",)),
    "set": ((b"SET", b"", b"XX"),),
    "hset": ((b"HSET", b"f", b"v", b"f"),),
    "sets": ((b"SREM", b"m"), (b"SMEMBERS",), (b"SISMEMBER", b"m")),
    "zsets": ((b"ZADD", b"no score", b"m"), (b"ZREM", b"m"), (b"ZRANGE", b"0", b"-1"), (b"ZSCORE", b"m")),
    "lists": ((b"LTRIM", b"0", b"-1"), (b"LRANGE", b"0", b"-1"), (b"LLEN",)),
    "streams": (
        *((b"XADD", b"0-0", b"f", b"v"), (b"XSETID", b"0-0"), (b"XDEL", b"0-1"), (b"XTRIM", b"MAXLEN", b"0")),
        *((b"XRANGE", b"-", b"+"), (b"XREVRANGE", b"+", b"-"), (b"XINFO", b"STREAM", _KEY)),
    ),
    "streams-groups": (*_READ_GROUPS, *_WRITE_GROUPS),
    "opaque": ((b"DUMP",), (b"RESTORE", b"0", b"")),
    "del": ((b"DEL",), (b"HDEL", b"f")),
    "expire": ((b"PEXPIREAT", b"1"), (b"PERSIST",)),
}

#: What is read of the site.
AT_SITE: _Needs = {
    "": ((b"TYPE",), (b"GET",), (b"HGETALL",), (b"PTTL",)),
    "hset": ((b"HMGET", b"f"),),
    "sets": ((b"SMEMBERS",), (b"SMISMEMBER", b"m")),
    "zsets": ((b"ZRANGE", b"0", b"-1"), (b"ZMSCORE", b"m")),
    "lists": ((b"LRANGE", b"0", b"-1"),),
    "streams": ((b"XRANGE", b"-", b"+"), (b"XINFO", b"STREAM", _KEY)),
    "streams-groups": _READ_GROUPS,
    "opaque": ((b"DUMP",),),
}

#: What is applied to the site.
TO_APPLY: _Needs = {
    "set": ((b"SET", b""), (b"MSET", b"")),
    "hset": ((b"HSET", b"f", b""),),
    "sets": ((b"SADD", b"m"), (b"SREM", b"m")),
    "zsets": ((b"ZADD", b"0", b"m"), (b"ZREM", b"m")),
    "lists": ((b"RPUSH", b"m"), (b"DEL",)),
    "streams": (
        *((b"XADD", b"0-1", b"f", b"v"), (b"XSETID", b"0-1"), (b"XDEL", b"0-1"), (b"XTRIM", b"MAXLEN", b"0")),
        (b"XREVRANGE", b"+", b"-"),
    ),
    "streams-groups": _WRITE_GROUPS,
    "opaque": ((b"RESTORE", b"0", b""),),
    "del": ((b"DEL",), (b"HDEL", b"f")),
    "expire": ((b"PEXPIREAT", b"1"), (b"PERSIST",)),
}

#: What is not replicated, or not fully, without what a kind needs; strings and hashes need no word.
_LOST = {
    "sets": "sets",
    "zsets": "sorted sets",
    "lists": "lists",
    "streams": "streams",
    "streams-groups": "consumer groups",
    "opaque": "types of modules",
    "expire": "expiry times",
}


def what_is_lost(kinds: Iterable[str]) -> str:
    """What is not replicated where these kinds lack a command; empty where it goes without saying."""
    lost = [_LOST[kind] for kind in sorted(kinds) if kind in _LOST]
    return f", so {' and '.join(lost)} are not fully replicated" if lost else ""


def commands_for(needs: _Needs, kinds: Iterable[str], key: bytes) -> Iterator[tuple[str, tuple[bytes, ...]]]:
    """The commands that what is replicated needs, on this key, each with its kind."""
    for kind in ("", *sorted(kinds)):
        for name, *rest in needs.get(kind, ()):
            words = rest if _KEY in rest else [_KEY, *rest]
            yield kind, (name, *(key if word is _KEY else word for word in words))
