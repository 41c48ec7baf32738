"""Changes as commands that make them happen, and the keyspace events that those cause.

In: changes. Out: commands as lists of bytes; names of events. Left to others: how commands are spelled for the hub
(`wire.batches`, `wire.webdis`) and run at the site (`local.apply`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from redisrepl.changes import Change, Deleted, ExpirySet, FieldsDeleted, HashSet, StringSet

__all__ = [
    "MAX_BYTES_PER_COMMAND",
    "MAX_FIELDS_PER_COMMAND",
    "MAX_PAIRS_PER_COMMAND",
    "commands_of",
    "commands_of_batch",
    "events_of",
    "halves_of",
    "keys_of",
]

#: Lua's C stack takes 8,000 values (LUAI_MAXCSTACK) and `unpack` puts a whole command on it.
MAX_FIELDS_PER_COMMAND = 1000
#: Likewise for the pairs of an `MSET`. From 50 to 1,000 it makes no difference (2 us of processor a pair, all servers).
MAX_PAIRS_PER_COMMAND = 500
#: A hash goes in commands of about this many bytes, so that a body can be split between them.
MAX_BYTES_PER_COMMAND = 64 << 10


def commands_of(change: Change, *, if_absent: bool = False) -> Iterator[list[bytes]]:
    """The commands that make a change happen; large hashes in several.

    Args:
        change: what was to be read first (`Touch`, fields of None) has no commands.
        if_absent: a string, or a field of a hash, is set only where there is none.
    """
    if if_absent:
        yield from _commands_if_absent(change)
        return
    match change:
        case StringSet(key, value, None):
            yield [b"SET", key, value]
        case StringSet(key, value, int(expires_at_ms)):
            yield [b"SET", key, value, b"PXAT", b"%d" % expires_at_ms]
        case HashSet(key, fields):
            yield from _hset_commands(key, fields)
        case Deleted(key):
            yield [b"DEL", key]
        case FieldsDeleted(key, fields):
            for start in range(0, len(fields), MAX_FIELDS_PER_COMMAND):
                yield [b"HDEL", key, *fields[start : start + MAX_FIELDS_PER_COMMAND]]
        case ExpirySet(key, None):
            yield [b"PERSIST", key]
        case ExpirySet(key, int(expires_at_ms)):
            yield [b"PEXPIREAT", key, b"%d" % expires_at_ms]


def commands_of_batch(
    changes: Iterable[Change], *, if_absent: bool = False, in_order: bool = False
) -> list[list[bytes]]:
    """The commands for many changes: plain sets together in `MSET`s, then the others in their order.

    Args:
        changes: a plain set is the only change of its key, unless `in_order`.
        if_absent: see `commands_of`.
        in_order: each change by itself, in its place.
    """
    if in_order:
        return [command for change in changes for command in commands_of(change, if_absent=if_absent)]
    words: list[bytes] = []
    others: list[list[bytes]] = []
    for change in changes:
        if type(change) is StringSet and change.expires_at_ms is None and not if_absent:
            words += change.key, change.value
        else:
            others += commands_of(change, if_absent=if_absent)
    step = 2 * MAX_PAIRS_PER_COMMAND
    return [_set_command(words[start : start + step]) for start in range(0, len(words), step)] + others


def _set_command(words: Sequence[bytes]) -> list[bytes]:
    """Keys and values in turn as one command."""
    return [b"SET" if len(words) == 2 else b"MSET", *words]  # noqa: PLR2004 - one key, one value


def keys_of(command: Sequence[bytes]) -> Sequence[bytes]:
    """The key of each write of a command of ours."""
    return command[1::2] if command[0] == b"MSET" else command[1:2]


def halves_of(command: Sequence[bytes]) -> list[list[bytes]]:
    """An `MSET` as two commands; any other command as it is."""
    if command[0] != b"MSET":
        return [list(command)]
    middle = 1 + len(command) // 4 * 2
    return [_set_command(command[1:middle]), _set_command(command[middle:])]


def _hset_commands(key: bytes, fields: Mapping[bytes, bytes | None]) -> Iterator[list[bytes]]:
    """The known fields, in commands that Lua can unpack and a request body can hold."""
    command, size = [b"HSET", key], 0
    for field, value in fields.items():
        if value is None:
            continue
        command += field, value
        size += len(field) + len(value)
        if len(command) >= 2 + 2 * MAX_FIELDS_PER_COMMAND or size >= MAX_BYTES_PER_COMMAND:
            yield command
            command, size = [b"HSET", key], 0
    if len(command) > 2:  # noqa: PLR2004 - more than name and key
        yield command


def _commands_if_absent(change: Change) -> Iterator[list[bytes]]:
    for command in commands_of(change):
        if command[0] == b"SET":
            yield [*command, b"NX"]
        elif command[0] == b"HSET":
            yield [b"HSETNX", *command[1:]]


_EVENTS = {
    b"MSET": b"set",
    b"HSET": b"hset",
    b"DEL": b"del",
    b"HDEL": b"hdel",
    b"PEXPIREAT": b"expire",
    b"PERSIST": b"persist",
}


def events_of(command: Sequence[bytes]) -> tuple[bytes, ...]:
    """The keyspace events that a command of ours causes on each of its keys when it changes what it names."""
    if command[0] == b"SET":
        return (b"set",) if len(command) == 3 else (b"set", b"expire")  # noqa: PLR2004 - SET key value
    return (_EVENTS[command[0]],)
