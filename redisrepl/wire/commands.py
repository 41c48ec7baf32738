"""Turns commands of the replication stream into changes.

In: the arguments of one command after another, as a master sends them to its replicas. Out: what each did to the keys
of the database and namespaces that we follow. Left to others: offsets (`wire.psync`), echoes (`engine.outbound`).

A master rewrites some commands of its clients: `SETEX` arrives as `SET k v PXAT ms`, an expired key as `DEL`. It does
not send a command that was refused or changed nothing, so conditions (`NX`, `GT`, ...) are known to have been met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, starmap
from typing import NamedTuple

from redisrepl.changes import (
    KINDS,
    Change,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    Flushed,
    HashSet,
    Invalidated,
    StringSet,
    carries_groups,
    expiry_ms,
    is_replicated,
    times_fields,
)
from redisrepl.wire.collections import score_text
from redisrepl.wire.entrycommands import ENTRY_COMMANDS, created_with_group
from redisrepl.wire.fieldtimes import changed_times, named_fields
from redisrepl.wire.groupcommands import GROUP_COMMANDS
from redisrepl.wire.keys import keys_of, names_one_key
from redisrepl.wire.opaque import OPAQUE

__all__ = ["ORIGIN_CHANNEL", "ChangeDecoder"]

Arguments = Sequence[bytes]
_Handler = Callable[[Arguments], Sequence[Change]]


class _Form(NamedTuple):
    """How to decode a command of this name.

    Attributes:
        name: in upper case.
        one_key: whether it writes its first argument, and no other key.
        handler: returns its changes; None for commands that need more than their keys, and for unknown ones.
    """

    name: bytes
    one_key: bool
    handler: _Handler | None


#: A transaction of redisrepl publishes its origin on this channel: that shows in the stream, and leaves no key behind.
ORIGIN_CHANNEL = b"redisrepl:origin"

#: Commands in the stream that do not write a key.
_SILENT = frozenset({b"PING", b"REPLCONF", b"SPUBLISH", b"SCRIPT", b"FUNCTION", b"SWAPDB"})

#: `SET` options that take an argument and say nothing about the value or its expiry (Redis 8.4, Valkey 8.1).
_SET_CONDITIONS = frozenset({b"IFEQ", b"IFNE", b"IFDEQ", b"IFDNE"})


class ChangeDecoder:
    """Turns the commands of one replication stream into changes.

    Args:
        covers: whether a key belongs to the followed namespaces; asked for nearly every command.
        kinds: which of `changes.KINDS` are wanted; others are only counted.
        database: the followed database; commands of others yield nothing.

    Attributes:
        selected: the database that the stream has selected (`SELECT`); it survives a partial resynchronisation.
        in_transaction: whether the stream is inside MULTI .. EXEC, where no position may be saved.
        origin: the origin that the open transaction has published; None: none, so a client wrote it.
        times_fields: whether expiries of fields are replicated now (`wire.fieldtimes`).
        unreplicated: names of commands that wrote a followed key but yielded no wanted change, with their counts.
    """

    __slots__ = (
        "_forms",
        "_sets",
        "covers",
        "database",
        "in_transaction",
        "kinds",
        "origin",
        "selected",
        "times_fields",
        "unreplicated",
    )

    def __init__(self, covers: Callable[[bytes], bool], kinds: frozenset[str] = KINDS, database: int = 0) -> None:
        self.covers = covers
        self.kinds = kinds
        self._sets = "set" in kinds
        self.database = database
        self.selected = database
        self.in_transaction = False
        self.origin: bytes | None = None
        self.times_fields = times_fields(kinds)
        self.unreplicated: dict[str, int] = {}
        self._forms: dict[bytes, _Form] = {}  # by name as clients spell it; few spellings occur

    @property
    def plain(self) -> bool:
        """Whether a plain `SET key value` of a followed key can be taken as it is, without `decode`."""
        return self._sets and self.origin is None and self.selected == self.database

    def decode(self, argv: Arguments) -> Sequence[Change | Flushed]:
        """The changes that this command made to keys that we follow.

        Args:
            argv: command name and arguments. A known command in an unknown form invalidates every followed key in it.
        """
        name, one_key, handler = self._forms.get(argv[0]) or self._learn(argv[0])
        if one_key and len(argv) > 1 and not self.covers(argv[1]):
            return ()
        try:
            if handler is None:
                return self._decode_rare(name, argv)
            if self.selected != self.database:
                return ()
            written = handler(argv)
            if not one_key:
                written = [change for change in written if self.covers(change.key)]
        except (ValueError, IndexError):
            return self._in_another_form(argv, one_key=one_key)
        kinds = self.kinds
        wanted = [change for change in written if is_replicated(change, kinds)]
        if written and not wanted:
            self.count_unreplicated(name.decode("ascii", "backslashreplace"))
            if name in _STORING and "del" in kinds:  # an empty result removes the destination, of whatever type it was
                return [Invalidated(change.key, "del", replaces=True) for change in written]
        return wanted

    def _in_another_form(self, argv: Arguments, *, one_key: bool) -> Sequence[Change]:
        """A known command that is not understood: which key of it has lost elements is not known."""
        if self.selected != self.database:
            return ()
        if one_key:
            return [Invalidated(key, replaces=True) for key in argv[1:2]]
        return [Invalidated(argument) for argument in argv[1:] if self.covers(argument)]

    def _decode_rare(self, name: bytes, argv: Arguments) -> Sequence[Change | Flushed]:
        """Commands about the connection or whole databases, those that write another database, and unknown ones."""
        match name:
            case b"SELECT":
                self.selected = int(argv[1])
            case b"MULTI":
                self.in_transaction = True
            case b"EXEC":
                self.in_transaction = False
                self.origin = None
            case b"PUBLISH":
                if self.in_transaction and argv[1] == ORIGIN_CHANNEL:
                    self.origin = argv[2]
            case b"FLUSHALL":
                return (Flushed(emptied=True),)
            case b"FLUSHDB" if self.selected == self.database:
                return (Flushed(emptied=True),)
            case b"SWAPDB" if b"%d" % self.database in argv[1:3]:
                return (Flushed(emptied=False),)
            case b"MOVE" | b"COPY":
                return self._into_other_database(name, argv)
            case b"HSETEX" | b"XGROUP" if self.selected == self.database and any(map(self.covers, argv[1:3])):
                return self._in_part(name, argv)
            case _ if name not in _SILENT and self.selected == self.database and any(map(self.covers, argv[1:])):
                return self._unknown(name, argv)
        return ()

    def _unknown(self, name: bytes, argv: Arguments) -> Sequence[Change]:
        """A command of a module, or of a newer server: with `opaque`, invalidate every followed key in it.

        Those about expiries of fields concern nothing else, so they are known only where these are replicated.
        """
        if self.times_fields and (timed := changed_times(name, argv)) is not None:
            return [timed] if self.covers(timed.key) else ()
        if OPAQUE in self.kinds:
            return [Invalidated(argument, OPAQUE) for argument in argv[1:] if self.covers(argument)]
        self.count_unreplicated(name.decode("ascii", "backslashreplace"))
        return ()

    def _in_part(self, name: bytes, argv: Arguments) -> Sequence[Change]:
        """Commands that are replicated in part; the rest is counted: expiries of fields, and consumer groups.

        `HSETEX key [options] FIELDS n field value ..`; `XGROUP CREATE key group id MKSTREAM` may create the stream.
        """
        if self.times_fields and (timed := changed_times(name, argv)) is not None:
            return [timed] if self.covers(timed.key) else ()
        if name == b"XGROUP" or not _FIELD_EXPIRY.isdisjoint(named_fields(argv, 2)[1]):
            self.count_unreplicated(name.decode())
        changes = _hsetex(argv) if name == b"HSETEX" else created_with_group(argv)
        return [change for change in changes if self.covers(change.key) and is_replicated(change, self.kinds)]

    def _into_other_database(self, name: bytes, argv: Arguments) -> Sequence[Change]:
        """`MOVE key db` and `COPY src dst [DB db]`: the only commands that write outside the selected database."""
        options = [argument.upper() for argument in argv[3:]]
        changes: list[Change] = []
        if name == b"MOVE":
            written, target = argv[1], int(argv[2])
            if self.selected == self.database and "del" in self.kinds:
                changes.append(Deleted(written))
        else:
            written = argv[2]
            target = int(options[options.index(b"DB") + 1]) if b"DB" in options else self.selected
        if target == self.database:
            changes.append(Invalidated(written, replaces=True))
        return [change for change in changes if self.covers(change.key)]

    def count_unreplicated(self, text: str) -> None:
        """Count a write of a followed key that is not replicated."""
        if text in self.unreplicated or len(self.unreplicated) < _MAX_SPELLINGS:
            self.unreplicated[text] = self.unreplicated.get(text, 0) + 1

    def _learn(self, name: bytes) -> _Form:
        upper = name.upper()
        handler = GROUP_COMMANDS.get(upper) if carries_groups(self.kinds) else None
        form = _Form(upper, names_one_key(upper), handler or _HANDLERS.get(upper))
        if len(self._forms) < _MAX_SPELLINGS:
            self._forms[name] = form
        return form


#: Commands that store a result, whatever their destination was.
_STORING = frozenset({b"BITOP", b"SORT", b"GEORADIUS", b"GEORADIUSBYMEMBER", b"GEOSEARCHSTORE", b"ZRANGESTORE"}) | {
    kind + operation + b"STORE" for kind in (b"S", b"Z") for operation in (b"UNION", b"INTER", b"DIFF")
}

_MAX_SPELLINGS = 1000  # a peer that invents spellings must not fill our memory


def _set(argv: Arguments) -> Sequence[Change]:
    """`SET key value [NX|XX|..] [PXAT ms | EXAT s | EX s | PX ms | KEEPTTL]`."""
    if len(argv) == 3:  # noqa: PLR2004 - the plain form
        return (StringSet(argv[1], argv[2]),)
    expires_at_ms = None
    options = iter(argv[3:])
    for option in options:
        match option.upper():
            case b"NX" | b"XX" | b"GET":
                continue
            case b"PXAT":
                expires_at_ms = expiry_ms(int(next(options, b"")))
            case b"EXAT":
                expires_at_ms = expiry_ms(int(next(options, b"")) * 1000)
            case condition if condition in _SET_CONDITIONS:
                next(options, None)
            case (
                _
            ):  # EX and PX (Redis 6.2) count from the master's clock, and KEEPTTL keeps an expiry that we do not know
                return (Invalidated(argv[1], "set"),)
    return (StringSet(argv[1], argv[2], expires_at_ms),)


def _setnx(argv: Arguments) -> Sequence[Change]:
    return (StringSet(argv[1], argv[2]),)


def _mset(argv: Arguments) -> Sequence[Change]:
    return list(starmap(StringSet, zip(argv[1::2], argv[2::2], strict=True)))


def _msetex(argv: Arguments) -> Sequence[Change]:
    """`MSETEX numkeys key value [key value ..] [NX|XX] [PXAT ms | ..]` (Redis 8.4, Valkey 9.1)."""
    end = 2 + 2 * int(argv[1])
    pairs = argv[2:end]
    options = argv[end:]
    sets = [_set((b"SET", key, value, *options)) for key, value in zip(pairs[::2], pairs[1::2], strict=True)]
    return list(chain.from_iterable(sets))


def _hset(argv: Arguments) -> Sequence[Change]:
    fields: dict[bytes, bytes | None]
    fields = {argv[2]: argv[3]} if len(argv) == 4 else dict(zip(argv[2::2], argv[3::2], strict=True))  # noqa: PLR2004
    return (HashSet(argv[1], fields),)


_FIELD_EXPIRY = frozenset({b"EX", b"PX", b"EXAT", b"PXAT"})


def _hsetex(argv: Arguments) -> Sequence[Change]:
    """`HSETEX key [options] FIELDS n field value ..` (Redis 8.0), where expiries of fields are not replicated."""
    return _hset((argv[0], argv[1], *named_fields(argv, 2)[0]))


def _replaced(argv: Arguments) -> Sequence[Change]:
    return (Invalidated(argv[1], replaces=True),)


def _invalidate_string(argv: Arguments) -> Sequence[Change]:
    return (Invalidated(argv[1], "set"),)


def _invalidate_expiry(argv: Arguments) -> Sequence[Change]:
    return (Invalidated(argv[1], "expire"),)


def _bitop(argv: Arguments) -> Sequence[Change]:
    """`BITOP operation destination source ..`: sources that are not there remove the destination."""
    return (Invalidated(argv[2], "set", replaces=True),)


def _invalidate_field(argv: Arguments) -> Sequence[Change]:
    return (HashSet(argv[1], {argv[2]: None}),)


def _rename(argv: Arguments) -> Sequence[Change]:
    return (Deleted(argv[1]), Invalidated(argv[2], replaces=True))


def _delete(argv: Arguments) -> Sequence[Change]:
    return list(map(Deleted, argv[1:]))


def _delete_one(argv: Arguments) -> Sequence[Change]:
    return (Deleted(argv[1]),)


def _hdel(argv: Arguments) -> Sequence[Change]:
    return (FieldsDeleted(argv[1], tuple(argv[2:])),)


def _hgetdel(argv: Arguments) -> Sequence[Change]:
    """`HGETDEL key FIELDS n field ..` (Valkey 9.1 sends it as it is)."""
    return (FieldsDeleted(argv[1], tuple(argv[4:])),)


def _sadd(argv: Arguments) -> Sequence[Change]:
    return (HashSet(argv[1], dict.fromkeys(argv[2:], b""), "set"),)


def _srem(argv: Arguments) -> Sequence[Change]:
    return (FieldsDeleted(argv[1], tuple(argv[2:]), "set"),)


def _smove(argv: Arguments) -> Sequence[Change]:
    return (FieldsDeleted(argv[1], (argv[3],), "set"), HashSet(argv[2], {argv[3]: b""}, "set"))


def _replaced_set(argv: Arguments) -> Sequence[Change]:
    """`SUNIONSTORE destination key ..`, and `SPOP key`, which masters rewrite."""
    return (Invalidated(argv[1], "sets", replaces=True),)


_ZADD_OPTIONS = frozenset({b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"})


def _behind_options(argv: Arguments) -> int:
    """The index of the first score of a `ZADD`, or longitude of a `GEOADD`."""
    place = 2
    while argv[place].upper() in _ZADD_OPTIONS:
        place += 1
    return place


def _zadd(argv: Arguments) -> Sequence[Change]:
    """`ZADD key [NX|XX] [GT|LT] [CH] [INCR] score member ..`: with an option beside CH, the scores have to be read."""
    start = _behind_options(argv)
    members = argv[start + 1 :: 2]
    if any(option.upper() != b"CH" for option in argv[2:start]):
        return (HashSet(argv[1], dict.fromkeys(members), "zset"),)
    return (HashSet(argv[1], dict(zip(members, map(_score, argv[start::2]), strict=True)), "zset"),)


def _score(text: bytes) -> bytes | None:
    try:
        return score_text(text)
    except ValueError:  # hexadecimal, which Redis accepts
        return None


def _geoadd(argv: Arguments) -> Sequence[Change]:
    """`GEOADD key [NX|XX] [CH] longitude latitude member ..`, which masters rewrite."""
    start = _behind_options(argv)
    return (HashSet(argv[1], dict.fromkeys(argv[start + 2 :: 3]), "zset"),)


def _zincrby(argv: Arguments) -> Sequence[Change]:
    return (HashSet(argv[1], {argv[3]: None}, "zset"),)


def _zrem(argv: Arguments) -> Sequence[Change]:
    return (FieldsDeleted(argv[1], tuple(argv[2:]), "zset"),)


def _replaced_zset(argv: Arguments) -> Sequence[Change]:
    """`ZUNIONSTORE destination ..`; `ZPOPMIN key` and `ZREMRANGEBYRANK key ..`, which do not tell what they removed."""
    return (Invalidated(argv[1], "zsets", replaces=True),)


def _georadius(argv: Arguments) -> Sequence[Change]:
    """`GEORADIUS key .. STORE destination`, also with STOREDIST."""
    return [Invalidated(key, "zsets", replaces=True) for key in keys_of(argv)[1:]]


def _invalidate_lists(argv: Arguments) -> Sequence[Change]:
    """`LPUSH key item ..`, `LMOVE source destination ..`, `SORT key .. STORE destination`: every key that it writes."""
    keys = keys_of(argv)
    written = keys[1:] if argv[0].upper() == b"SORT" else keys
    return [Invalidated(key, "lists", replaces=True) for key in written]


def _pexpireat(argv: Arguments) -> Sequence[Change]:
    return (ExpirySet(argv[1], expiry_ms(int(argv[2]))),)


def _expireat(argv: Arguments) -> Sequence[Change]:
    return (ExpirySet(argv[1], expiry_ms(int(argv[2]) * 1000)),)


def _persist(argv: Arguments) -> Sequence[Change]:
    return (ExpirySet(argv[1], None),)


_HANDLERS: dict[bytes, _Handler] = {
    b"SET": _set,
    b"GETSET": _setnx,
    b"SETNX": _setnx,
    b"MSET": _mset,
    b"MSETNX": _mset,
    b"MSETEX": _msetex,
    b"HSET": _hset,
    b"HMSET": _hset,
    b"HSETNX": _hset,
    b"HINCRBY": _invalidate_field,
    b"HINCRBYFLOAT": _invalidate_field,
    b"RENAME": _rename,
    b"RENAMENX": _rename,
    b"DEL": _delete,
    b"UNLINK": _delete,
    b"GETDEL": _delete_one,
    b"DELEX": _delete_one,
    b"DELIFEQ": _delete_one,
    b"HDEL": _hdel,
    b"HGETDEL": _hgetdel,
    b"PEXPIREAT": _pexpireat,
    b"EXPIREAT": _expireat,
    b"PERSIST": _persist,
    b"RESTORE": _replaced,
    b"RESTORE-ASKING": _replaced,
    b"BITOP": _bitop,
    b"SADD": _sadd,
    b"SREM": _srem,
    b"SMOVE": _smove,
    **dict.fromkeys((b"SPOP", b"SINTERSTORE", b"SUNIONSTORE", b"SDIFFSTORE"), _replaced_set),
    b"ZADD": _zadd,
    b"ZINCRBY": _zincrby,
    b"GEOADD": _geoadd,
    b"ZREM": _zrem,
    **dict.fromkeys(
        (b"ZREMRANGEBYSCORE", b"ZREMRANGEBYRANK", b"ZREMRANGEBYLEX", b"ZPOPMIN", b"ZPOPMAX"), _replaced_zset
    ),
    **dict.fromkeys((b"ZUNIONSTORE", b"ZINTERSTORE", b"ZDIFFSTORE", b"ZRANGESTORE", b"GEOSEARCHSTORE"), _replaced_zset),
    **dict.fromkeys((b"GEORADIUS", b"GEORADIUSBYMEMBER"), _georadius),
    **dict.fromkeys(
        (b"LPUSH", b"RPUSH", b"LPUSHX", b"RPUSHX", b"LPOP", b"RPOP", b"LINSERT", b"LSET"), _invalidate_lists
    ),
    **dict.fromkeys((b"LREM", b"LTRIM", b"LMOVE", b"RPOPLPUSH", b"SORT"), _invalidate_lists),
    **ENTRY_COMMANDS,
    # A relative expiry (Redis 6.2) counts from the master's clock: read the outcome.
    **dict.fromkeys((b"EXPIRE", b"PEXPIRE", b"GETEX"), _invalidate_expiry),
    **dict.fromkeys((b"SETEX", b"PSETEX", b"INCR", b"DECR", b"INCRBY", b"DECRBY", b"INCRBYFLOAT"), _invalidate_string),
    **dict.fromkeys(
        (b"INCREX", b"APPEND", b"SETRANGE", b"SETBIT", b"BITFIELD", b"PFADD", b"PFCOUNT", b"PFMERGE"),
        _invalidate_string,
    ),
}
