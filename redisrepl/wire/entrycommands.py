"""Turns commands of the replication stream that write streams into changes.

In: the arguments of a command, as a master sends them to its replicas. Out: what it did to the stream's entries and
last id. Left to others: all other commands, and which keys are followed (`wire.commands`).

A master sends the id of each new entry, even if its client left it out. It does not say which entries a trim removed,
so we mark the change (`wire.entries.FIRST_ID`), and read the first entry when it is pushed. Consumer groups are not
replicated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redisrepl.changes import Change, FieldsDeleted, HashSet
from redisrepl.wire.entries import FIRST_ID, LAST_ID, entry_name, entry_value, last_id_of

__all__ = ["ENTRY_COMMANDS", "created_with_group"]

Arguments = Sequence[bytes]

#: Options of `XADD` before the id, and how many arguments each has. `=` or `~` may follow a limit.
_OPTIONS = {
    **dict.fromkeys((b"NOMKSTREAM", b"KEEPREF", b"DELREF", b"ACKED"), 0),
    **dict.fromkeys((b"MAXLEN", b"MINID", b"LIMIT", b"IDMPAUTO"), 1),
    b"IDMP": 2,
}
_TRIMS = frozenset({b"MAXLEN", b"MINID"})


def _xadd(argv: Arguments) -> Sequence[Change]:
    """`XADD key [NOMKSTREAM] [KEEPREF] [MAXLEN|MINID [=|~] threshold [LIMIT count]] id field value ..`."""
    place, trims = 2, False
    while (more := _OPTIONS.get(option := argv[place].upper())) is not None:
        trims = trims or option in _TRIMS
        place += 1
        if option in _TRIMS and argv[place] in (b"=", b"~"):
            place += 1
        place += more
    elements: dict[bytes, bytes | None] = {entry_name(argv[place]): entry_value(argv[place + 1 :])}
    if trims:
        elements[FIRST_ID] = None
    return (HashSet(argv[1], elements, "stream"),)


def _xdel(argv: Arguments) -> Sequence[Change]:
    return (FieldsDeleted(argv[1], tuple(map(entry_name, argv[2:])), "stream"),)


def _xdelex(argv: Arguments) -> Sequence[Change]:
    """`XDELEX key [KEEPREF|DELREF|ACKED] IDS n id ..` and `XACKDEL key group ..` (Redis 8.2), which may keep entries.

    So the entries are read.
    """
    start = 2 + [argument.upper() for argument in argv[2:]].index(b"IDS") + 2
    return (HashSet(argv[1], dict.fromkeys(map(entry_name, argv[start:])), "stream"),)


def _xtrim(argv: Arguments) -> Sequence[Change]:
    return (HashSet(argv[1], {FIRST_ID: None}, "stream"),)


def _xsetid(argv: Arguments) -> Sequence[Change]:
    """`XSETID key id [ENTRIESADDED n] [MAXDELETEDID id]`: only the last id is replicated."""
    return (HashSet(argv[1], {LAST_ID: last_id_of(argv[2])}, "stream"),)


def created_with_group(argv: Arguments) -> Sequence[Change]:
    """The stream that `XGROUP CREATE key group id MKSTREAM` may have created."""
    makes = argv[1].upper() == b"CREATE" and b"MKSTREAM" in map(bytes.upper, argv[5:])
    return (HashSet(argv[2], {LAST_ID: None}, "stream"),) if makes else ()


#: By name in upper case.
ENTRY_COMMANDS: dict[bytes, Callable[[Arguments], Sequence[Change]]] = {
    b"XADD": _xadd,
    b"XDEL": _xdel,
    b"XDELEX": _xdelex,
    b"XACKDEL": _xdelex,
    b"XTRIM": _xtrim,
    b"XSETID": _xsetid,
}
