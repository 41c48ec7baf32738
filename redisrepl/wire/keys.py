"""Finds the keys of a command of the replication stream.

In: the arguments of one command, as a master sends them to its replicas. Out: its keys. Left to others: what the
command did to them (`wire.commands`), which of them are followed.

A table of names suffices: masters send only commands that write, in a few forms. If a name is not in the table (a
module's, a newer server's), every argument counts as a key, so that none is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["keys_of", "names_one_key", "writes_whole_databases"]

Arguments = Sequence[bytes]


def keys_of(argv: Arguments) -> Sequence[bytes]:
    """The keys of a command; all its arguments if the command is unknown, or too short.

    `FLUSHALL` and the like have none: see `writes_whole_databases`.
    """
    find = _KEYS.get(argv[0]) or _KEYS.get(argv[0].upper())
    if find is None:
        return argv[1:]
    try:
        return find(argv)
    except (ValueError, IndexError):
        return argv[1:]


def names_one_key(name: bytes) -> bool:
    """Whether a command of this name has one key, its first argument."""
    return _KEYS.get(name.upper()) is _first


def writes_whole_databases(argv: Arguments) -> bool:
    """Whether the command may change every key of a database."""
    return argv[0].upper() in _WHOLE


_WHOLE = frozenset({b"FLUSHALL", b"FLUSHDB", b"SWAPDB"})


def _none(_argv: Arguments) -> Arguments:
    return ()


def _first(argv: Arguments) -> Arguments:
    return (argv[1],)


def _second(argv: Arguments) -> Arguments:
    return (argv[2],)


def _first_two(argv: Arguments) -> Arguments:
    return (argv[1], argv[2])


def _all(argv: Arguments) -> Arguments:
    return argv[1:]


def _pairs(argv: Arguments) -> Arguments:
    return argv[1::2]


def _from_second(argv: Arguments) -> Arguments:
    return argv[2:]


def _counted_pairs(argv: Arguments) -> Arguments:
    """`MSETEX numkeys key value [key value ..] options`."""
    return argv[2 : 2 + 2 * int(argv[1]) : 2]


def _target_and_counted(argv: Arguments) -> Arguments:
    """`ZUNIONSTORE destination numkeys key ..`."""
    return (argv[1], *argv[3 : 3 + int(argv[2])])


def _first_and_stored(argv: Arguments) -> Arguments:
    """`GEORADIUS key .. [STORE key] [STOREDIST key]`, `GEORADIUSBYMEMBER`, and `SORT key .. STORE key`.

    Of several destinations only the last one is written. Members and patterns may be called `store`, too.
    """
    options = _STORE_OPTIONS[argv[0].upper()]
    stored: Arguments = ()
    words = iter(argv[options.start :])
    for word in words:
        option = word.upper()
        if option in _STORES:
            stored = (next(words, b""),)
        else:
            for _ in range(options.words.get(option, 0)):
                next(words, None)
    return (argv[1], *stored)


class _Options(NamedTuple):
    """Options of a command that may store.

    Attributes:
        start: where they begin.
        words: how many more each of them takes, but for those that store.
    """

    start: int
    words: dict[bytes, int]


_STORES = frozenset({b"STORE", b"STOREDIST"})
_STORE_OPTIONS = {
    b"SORT": _Options(2, {b"BY": 1, b"GET": 1, b"LIMIT": 2}),
    b"GEORADIUS": _Options(6, {b"COUNT": 1}),
    b"GEORADIUSBYMEMBER": _Options(5, {b"COUNT": 1}),
}


#: Commands that write one key, their first argument.
_ONE = (
    # strings
    *("SET", "SETNX", "SETEX", "PSETEX", "GETSET", "GETDEL", "GETEX", "APPEND", "SETRANGE", "SETBIT", "BITFIELD"),
    *("INCR", "DECR", "INCRBY", "DECRBY", "INCRBYFLOAT", "INCREX", "DELEX", "DELIFEQ"),
    # hashes
    *("HSET", "HMSET", "HSETNX", "HSETEX", "HDEL", "HGETDEL", "HGETEX", "HINCRBY", "HINCRBYFLOAT", "HPEXPIREAT"),
    *("HEXPIRE", "HPEXPIRE", "HEXPIREAT", "HPERSIST"),
    # lists
    *("LPUSH", "RPUSH", "LPUSHX", "RPUSHX", "LPOP", "RPOP", "LINSERT", "LSET", "LREM", "LTRIM"),
    # sets
    *("SADD", "SREM", "SPOP"),
    # sorted sets
    *("ZADD", "ZINCRBY", "ZREM", "ZREMRANGEBYSCORE", "ZREMRANGEBYRANK", "ZREMRANGEBYLEX", "ZPOPMIN", "ZPOPMAX"),
    "GEOADD",
    # streams
    *("XADD", "XDEL", "XDELEX", "XTRIM", "XSETID", "XACK", "XACKDEL", "XCLAIM", "XAUTOCLAIM"),
    # keys as such
    *("EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT", "PERSIST", "RESTORE", "RESTORE-ASKING", "MOVE", "PFADD"),
)
_FORMS: tuple[tuple[Callable[[Arguments], Arguments], tuple[str, ...]], ...] = (
    (_first, _ONE),
    (_first_two, ("RENAME", "RENAMENX", "COPY", "SMOVE", "LMOVE", "RPOPLPUSH", "ZRANGESTORE", "GEOSEARCHSTORE")),
    (_all, ("DEL", "UNLINK", "PFMERGE", "SINTERSTORE", "SUNIONSTORE", "SDIFFSTORE")),
    (_pairs, ("MSET", "MSETNX")),
    (_second, ("XGROUP",)),
    (_from_second, ("BITOP",)),
    (_counted_pairs, ("MSETEX",)),
    (_first_and_stored, ("GEORADIUS", "GEORADIUSBYMEMBER", "SORT")),
    (_target_and_counted, ("ZUNIONSTORE", "ZINTERSTORE", "ZDIFFSTORE")),
    (_none, ("FLUSHALL", "FLUSHDB", "SWAPDB", "PUBLISH", "SPUBLISH", "SCRIPT", "FUNCTION")),
)
_KEYS = {name.encode(): find for find, names in _FORMS for name in names}
