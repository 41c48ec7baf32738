"""Turns changes into commands, and knows the keyspace events that these cause.

In: changes. Out: commands as lists of bytes; names of events. Left to others: encoding commands for the hub
(`wire.batches`, `wire.webdis`) and running them at the site (`local.apply`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

from redisrepl.changes import (
    Change,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    SequenceSet,
    SequenceState,
    State,
    StringSet,
    StringState,
    TimedValue,
    expiry_ms,
)
from redisrepl.wire.collections import COLLECTIONS, SEQUENCES, as_server_takes, name_here, names_at_server, put_words
from redisrepl.wire.digests import digest_of, element_of
from redisrepl.wire.entries import LAST_ID, entry_words, is_entry, plain_id
from redisrepl.wire.fieldtimes import (
    PUT_TIMED,
    PUT_TIMED_IF,
    expiring_fields,
    put_timed_commands,
    timing_commands,
)
from redisrepl.wire.groups import events_of_groups, is_of_group
from redisrepl.wire.opaque import restore_command

__all__ = [
    "CONDITIONAL",
    "GROUP_DEL",
    "MAX_BYTES_PER_COMMAND",
    "MAX_FIELDS_PER_COMMAND",
    "MAX_PAIRS_PER_COMMAND",
    "MAX_WORDS_AT_SITE",
    "MOVED",
    "NO_FIELD",
    "UNCHANGED",
    "commands_if",
    "commands_of",
    "commands_of_batch",
    "events_of",
    "halves_of",
    "plain_command",
    "simple_commands",
    "written_keys",
]

#: A field that no hash has: whether we may remove it shows whether we may write the key, and changes nothing.
NO_FIELD = b"redisrepl:no-field:5d0c0e8a7f3b41c2"
#: Our own command that removes elements of the groups of a stream; the script of `wire.batches` runs it.
GROUP_DEL = b"GROUPDEL"
#: Lua's C stack holds 8,000 values (LUAI_MAXCSTACK), and `unpack` puts a whole command on it.
MAX_FIELDS_PER_COMMAND = 1000
#: The same for the pairs of an `MSET`. From 50 to 1,000 it makes no difference (2 us of processor a pair, all servers).
MAX_PAIRS_PER_COMMAND = 500
#: Items of a list that are applied to the site in one command; Redis accepts a million words.
MAX_WORDS_AT_SITE = 500_000
#: A collection goes in commands of about this many bytes, so that a body can be split between them.
MAX_BYTES_PER_COMMAND = 64 << 10


def commands_of(change: Change) -> Iterator[list[bytes]]:
    """The commands for a change; several for a large collection.

    Args:
        change: a `Invalidated`, or a field of None, has no commands, because its value has to be read first.
    """
    match change:
        case StringSet(key, value, None):
            yield [b"SET", key, value]
        case StringSet(key, value, int(expires_at_ms)):
            yield [b"SET", key, value, b"PXAT", b"%d" % expires_at_ms]
        case HashSet(key, fields, kind):
            if (yield from _put_commands(key, fields, kind)):
                yield from timing_commands(key, fields)
        case SequenceSet(key, items, kind):
            yield [SEQUENCES[kind].put, key, *items]
        case Deleted(key):
            yield [b"DEL", key]
        case FieldsDeleted(key, fields, kind):
            if kind == "stream" and any(map(is_of_group, fields)):
                yield from _pieces([GROUP_DEL, key], tuple(filter(is_of_group, fields)))
                fields = tuple(filter(is_entry, fields))
            yield from _pieces([COLLECTIONS[kind].remove, key], [*names_at_server(kind, fields)])
        case ExpirySet(key, None):
            yield [b"PERSIST", key]
        case ExpirySet(key, int(expires_at_ms)):
            yield [b"PEXPIREAT", key, b"%d" % expires_at_ms]


def _pieces(head: Sequence[bytes], names: Sequence[bytes]) -> Iterator[list[bytes]]:
    """A command for some of these names after the other."""
    for start in range(0, len(names), MAX_FIELDS_PER_COMMAND):
        yield [*head, *names[start : start + MAX_FIELDS_PER_COMMAND]]


def commands_of_batch(changes: Iterable[Change], *, in_order: bool = False) -> list[list[bytes]]:
    """The commands for many changes: plain sets together in `MSET`s, then the others in their order.

    Args:
        changes: unless `in_order`, a plain set must be the only change of its key.
        in_order: keep the order of all changes, without `MSET`.
    """
    if in_order:
        return [command for change in changes for command in commands_of(change)]
    words: list[bytes] = []
    others: list[list[bytes]] = []
    for change in changes:
        if type(change) is StringSet and change.expires_at_ms is None:
            words += change.key, change.value
        else:
            others += commands_of(change)
    step = 2 * MAX_PAIRS_PER_COMMAND
    return [_set_command(words[start : start + step]) for start in range(0, len(words), step)] + others


def _set_command(words: Sequence[bytes]) -> list[bytes]:
    """Keys and values in turn as one command."""
    return [b"SET" if len(words) == 2 else b"MSET", *words]  # noqa: PLR2004 - one key, one value


def written_keys(command: Sequence[bytes]) -> Sequence[bytes]:
    """The key of each write of one of our commands."""
    return command[1::2] if command[0] == b"MSET" else command[1:2]


def simple_commands(command: Sequence[bytes]) -> list[Sequence[bytes]]:
    """One of our commands as commands of Redis: `LISTSET`, `STREAMSET` and `HTIMESET` become several."""
    if command[0] == PUT_TIMED:
        return put_timed_commands(command)
    if command[0] == b"STREAMSET":
        pairs = zip(command[2::2], command[3::2], strict=True)
        return [_stream_command(command[1], name, value) for name, value in pairs if not is_of_group(name)]
    if command[0] == GROUP_DEL:
        return []  # groups take scripts
    if command[0] == b"OPAQUESET":
        return [restore_command(command[1], command[2])]
    if command[0] != b"LISTSET":
        return [command]
    items = command[2:]
    pieces = [items[start : start + MAX_FIELDS_PER_COMMAND] for start in range(0, len(items), MAX_FIELDS_PER_COMMAND)]
    return [[b"DEL", command[1]], *([b"RPUSH", command[1], *piece] for piece in pieces)]


def _stream_command(key: bytes, name: bytes, value: bytes) -> list[bytes]:
    """The command that adds one entry at the end of a stream, or sets its last id."""
    return [b"XADD", key, plain_id(name), *entry_words(value)] if is_entry(name) else [b"XSETID", key, value]


def halves_of(command: Sequence[bytes]) -> list[list[bytes]]:
    """An `MSET` as two commands; any other command as it is."""
    if command[0] != b"MSET":
        return [list(command)]
    middle = 1 + len(command) // 4 * 2
    return [_set_command(command[1:middle]), _set_command(command[middle:])]


def _put_commands(key: bytes, fields: Mapping[bytes, bytes | None], kind: str) -> Generator[list[bytes], None, bool]:
    """The commands that set the known elements, each small enough for Lua's stack and a request body.

    Returns:
        Whether some are to expire.
    """
    its, timed = COLLECTIONS[kind], False
    head = [its.put, key, *its.options]
    command, size, room = head.copy(), 0, MAX_FIELDS_PER_COMMAND
    for field, value in as_server_takes(kind, fields).items():
        if value is None:
            continue
        if type(value) is TimedValue:
            value, timed = bytes(value), True  # noqa: PLW2901 - without its expiry
        command += (field,) if kind == "set" else (value, field) if kind == "zset" else (field, value)
        size += len(field) + len(value)
        room -= 1
        if not room or size >= MAX_BYTES_PER_COMMAND:
            yield command
            command, size, room = head.copy(), 0, MAX_FIELDS_PER_COMMAND
    if len(command) > len(head):
        yield command
    return timed


#: Why a command changed nothing: the key or element holds the wanted value already; or it holds another value than the
#: condition allows, because somebody wrote it meanwhile.
UNCHANGED = "UNCHANGED"
MOVED = "MOVED"

#: A condition: the key or element must have one of these digests (None: be absent).
_Alternatives = Sequence[int | None]
_NEW = (None,)


def commands_if(
    changes: Iterable[Change], whole: _Alternatives | None, fields: Mapping[bytes, _Alternatives] | None
) -> Iterator[list[bytes]]:
    """Conditional commands for changes of one key; the script of `wire.batches` runs them.

    `SETIF key value expiry digest ..`, `DELIF key digest ..`, `HSETIF key field digests value ..`, and
    `HDELIF key field digests ..`, where the digests of a field are joined by commas; in the same form `SADDIF`,
    `SREMIF`, `ZADDIF`, `ZREMIF`, `STREAMIF` and `XDELIF`; and `LISTIF key digests item ..` and `OPAQUEIF`. If the
    condition is that nothing is there, the commands are `SET .. NX`, `HSETNX`, `SADD`, `ZADDNX key member score ..` and
    `STREAMNEW key name value ..`, which are shorter. A field that expires takes a command of its own, `HTIMEIF`
    (`wire.fieldtimes`).

    Args:
        changes: in their order, with their values.
        whole: the digests that the key may have; None: each element has its own condition.
        fields: for each element that the changes name, the digests that it may have.
    """
    for change in changes:
        match change:
            case StringSet(key, value, expires_at_ms) if whole == _NEW:
                yield [b"SET", key, value, *_pxat(expires_at_ms), b"NX"]
            case StringSet(key, value, expires_at_ms):
                expiry = b"" if expires_at_ms is None else b"%d" % expires_at_ms
                yield [b"SETIF", key, value, expiry, *map(_key_digest, whole or ())]
            case Deleted(key) if whole != _NEW:
                yield [b"DELIF", key, *map(_key_digest, whole or ())]
            case SequenceSet(key, items, kind):
                digests = b",".join(map(_key_digest, whole or ()))
                yield [SEQUENCES[kind].put_if, key, digests, *items]
            case HashSet(key, values, kind) if timed := expiring_fields(values):
                plain = {name: value for name, value in values.items() if name not in timed}
                yield from _put_commands_if(HashSet(key, plain, kind), fields)
                for name, value in timed.items():
                    digests = _field_digests((fields or {}).get(name, _NEW))
                    yield [PUT_TIMED_IF, key, name, digests, bytes(value), b"%d" % max(value.expires_at_ms, 0)]
            case HashSet():
                yield from _put_commands_if(change, fields)
            case FieldsDeleted(key, names, kind):
                for name, at_server in zip(names, names_at_server(kind, names), strict=True):
                    digests = _field_digests((fields or {}).get(name, _NEW))
                    yield [COLLECTIONS[kind].remove_if, key, at_server, digests]
            case ExpirySet():
                yield from commands_of(change)


#: Names of our own commands, which only the script can run.
CONDITIONAL = frozenset(
    {
        b"SETIF",
        b"DELIF",
        b"ZADDNX",
        b"STREAMNEW",
        PUT_TIMED_IF,
        *(kind.put_if for kind in SEQUENCES.values()),
        *(word for kind in COLLECTIONS.values() for word in (kind.put_if, kind.remove_if)),
    }
)
_SEQUENCE_OF_COMMAND = {kind.put_if: kind for kind in SEQUENCES.values()}
_KIND_OF_COMMAND = {
    word: kind for kind, its in COLLECTIONS.items() for word in (its.put_if, its.put_new, its.remove_if)
}


def plain_command(command: Sequence[bytes], state: State) -> tuple[list[bytes] | None, str]:
    """A conditional command for a hub without scripts, after its key was read.

    Returns:
        The command to send; or None, and its outcome (`UNCHANGED`, `MOVED`).
    """
    name, key = command[0], command[1]
    if (sequence := _SEQUENCE_OF_COMMAND.get(name)) is not None:
        digest = digest_of(key, state)
        if _key_digest(digest) in command[2].split(b","):
            return [sequence.put, key, *command[3:]], ""
        return None, UNCHANGED if isinstance(state, SequenceState) and state.items == tuple(command[3:]) else MOVED
    if name in (b"SETIF", b"DELIF"):
        alternatives = command[4:] if name == b"SETIF" else command[2:]
        held = _key_digest(digest_of(key, state)) in alternatives
        if name == b"DELIF":
            return ([b"DEL", key], "") if held and state is not None else (None, MOVED if state else UNCHANGED)
        if held:
            return [b"SET", key, command[2], *([b"PXAT", command[3]] if command[3] else [])], ""
        return None, UNCHANGED if isinstance(state, StringState) and state.value == command[2] else MOVED
    kind = "hash" if name == PUT_TIMED_IF else _KIND_OF_COMMAND[name]
    its, field = COLLECTIONS[kind], command[2]
    alternatives = [b""] if name == its.put_new else command[3].split(b",")
    here = name_here(kind, field)
    value = state.fields.get(here) if isinstance(state, HashState) and state.type == kind else None
    held = (b"%024x" % element_of(here, value, kind) if value is not None else b"") in alternatives
    if name == its.remove_if:
        if value is None:
            return None, UNCHANGED
        return ([its.remove, key, field], "") if held else (None, MOVED)
    if name == PUT_TIMED_IF:
        wanted = TimedValue(command[4], int(command[5]))
        if value == wanted:
            return None, UNCHANGED
        return ([PUT_TIMED, key, field, *command[4:]], "") if held else (None, MOVED)
    if value == command[-1]:
        return None, UNCHANGED
    return ([its.put, key, *its.options, *put_words(kind, [(field, command[-1])])], "") if held else (None, MOVED)


#: Where our own commands have an expiry.
_EXPIRY_AT = {b"SET": 4, b"SETIF": 3, b"PEXPIREAT": 2, b"HPEXPIREAT": 2, PUT_TIMED_IF: 5}


def later(command: Sequence[bytes], ms: int) -> Sequence[bytes]:
    """One of our own commands with an expiry that is so many milliseconds later, if it has one."""
    at = _EXPIRY_AT.get(command[0])
    if at is None or len(command) <= at or not command[at]:
        return command
    return [*command[:at], b"%d" % expiry_ms(int(command[at]) + ms), *command[at + 1 :]]


def _pxat(expires_at_ms: int | None) -> list[bytes]:
    return [] if expires_at_ms is None else [b"PXAT", b"%d" % expires_at_ms]


def _key_digest(digest: int | None) -> bytes:
    return b"" if digest is None else b"%015x" % max(digest, 0)  # unreadable: no digest of a value


def _field_digests(alternatives: _Alternatives) -> bytes:
    return b",".join(b"" if digest is None else b"%024x" % digest for digest in alternatives)


def _put_commands_if(change: HashSet, fields: Mapping[bytes, _Alternatives] | None) -> Iterator[list[bytes]]:
    kind = change.type
    its, known = COLLECTIONS[kind], change.fields
    taken = as_server_takes(kind, known)
    new = fields is None or all(tuple(fields.get(name, _NEW)) == _NEW for name in known)
    for put in _put_commands(change.key, known, kind):
        words = put[2 + len(its.options) :]
        names = words if kind == "set" else words[kind == "zset" :: 2]
        command = [its.put_new if new else its.put_if, change.key]
        for name in names:
            here = name_here(kind, name)
            value = taken[name] or b""
            if not new:
                command += name, _field_digests((fields or {}).get(here, _NEW)), value
            elif kind == "set":
                command.append(name)
            else:
                command += name, value
        yield command


_EVENTS = {
    b"MSET": (b"set",),
    b"DEL": (b"del",),
    b"DELIF": (b"del",),
    b"PEXPIREAT": (b"expire",),
    b"PERSIST": (b"persist",),
    b"HPEXPIREAT": (b"hexpire",),
    PUT_TIMED_IF: (b"hset", b"hexpire"),
    b"RPUSH": (b"rpush",),
    **dict.fromkeys((b"RESTORE", b"OPAQUESET", b"OPAQUEIF"), (b"restore",)),
    **{
        word: (kind.put_event,)
        for type_, kind in COLLECTIONS.items()
        if type_ != "stream"
        for word in (kind.put, kind.put_new, kind.put_if)
    },
    **{word: (kind.remove_event,) for kind in COLLECTIONS.values() for word in (kind.remove, kind.remove_if)},
    b"XACK": (),
    b"XGROUP": (b"xgroup-destroy",),
}

#: Words of each entry in commands for streams. Entries are added one by one, so each causes an event.
_WORDS_OF_ENTRY = {b"STREAMSET": 2, b"STREAMNEW": 2, b"STREAMIF": 3}


def events_of(command: Sequence[bytes]) -> tuple[bytes, ...]:
    """The keyspace events that one of our commands causes on each of its keys, if it changes all that it names."""
    name = command[0]
    if name == GROUP_DEL or (name == b"XDELIF" and is_of_group(command[2])):
        return events_of_groups(command[2:] if name == GROUP_DEL else command[2:3], removed=True)
    if (events := _EVENTS.get(name)) is not None:
        return events
    if name == b"SET":
        return (b"set", b"expire") if b"PXAT" in command[3:4] else (b"set",)
    if name == b"SETIF":
        return (b"set", b"expire") if command[3] else (b"set",)
    if (step := _WORDS_OF_ENTRY.get(name)) is not None:
        names = command[2::step]
        added = sum(map(is_entry, names))
        return (b"xadd",) * added + (b"xsetid",) * (LAST_ID in names[added:]) + events_of_groups(names)
    items = len(command) - (2 if name == b"LISTSET" else 3)  # or `LISTIF`
    return (*[b"rpush"] * -(-items // MAX_FIELDS_PER_COMMAND), b"ltrim")
