"""Turns commands of the replication stream about consumer groups into changes, where groups are replicated.

In: the arguments of a command, as a master sends them to its replicas. Out: what it did to the stream's elements.
Left to others: whether groups are replicated, all other commands (`wire.commands`).

A master sends `XREADGROUP`, `XCLAIM` and `XAUTOCLAIM` as one `XCLAIM .. TIME .. RETRYCOUNT .. FORCE JUSTID LASTID ..`
for each entry, with the group's last id at that moment, and `XGROUP SETID` behind it (Redis 7.4, Valkey 9) or with
`NOACK`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from redisrepl.changes import Change, FieldsDeleted, HashSet, Invalidated
from redisrepl.wire.entries import entry_name, is_entry, plain_id
from redisrepl.wire.entrycommands import ENTRY_COMMANDS, created_with_group
from redisrepl.wire.groups import delivery, is_of_group, pending_name, place_name, removal_commands

__all__ = ["GROUP_COMMANDS", "shown_when_removed", "without_groups"]

Arguments = Sequence[bytes]

#: Options of `XCLAIM` behind the ids, and how many arguments each has.
_OPTIONS = {**dict.fromkeys((b"IDLE", b"TIME", b"RETRYCOUNT", b"LASTID"), 1), **dict.fromkeys((b"FORCE", b"JUSTID"), 0)}


def _xgroup(argv: Arguments) -> Sequence[Change]:
    """`XGROUP CREATE|SETID key group id ..`; the others do not name what they remove.

    A consumer that is made has no pending entries, so it is not replicated.
    """
    match argv[1].upper():
        case b"CREATE" | b"SETID":
            at = None if argv[4] == b"$" else _id(argv[4])
            return [*created_with_group(argv), HashSet(argv[2], {place_name(argv[3]): at}, "stream")]
        case b"CREATECONSUMER":
            return ()
        case _:
            return (Invalidated(argv[2], "streams", replaces=True),)


def _id(id_: bytes) -> bytes:
    return plain_id(entry_name(id_))


def _xclaim(argv: Arguments) -> Sequence[Change]:
    """`XCLAIM key group consumer idle id .. [TIME ms] [RETRYCOUNT n] [FORCE] [JUSTID] [LASTID id]`.

    The last id is news if it is that of the entry, which was read then. Else it is what it was, and another side may
    have read on.
    """
    key, group, consumer = argv[1:4]
    end = next((at for at in range(5, len(argv)) if argv[at].upper() in _OPTIONS), len(argv))
    given: dict[bytes, bytes] = {}
    place = end
    while place < len(argv):
        option = argv[place].upper()
        more = _OPTIONS.get(option, 0)
        given[option] = argv[place + more]
        place += 1 + more
    last = given.get(b"LASTID", b"")
    read: list[Change] = [HashSet(key, {place_name(group): _id(last)}, "stream")] if last in argv[5:end] else []
    value = None
    if {b"TIME", b"RETRYCOUNT"} <= given.keys():
        value = delivery(consumer, int(given[b"RETRYCOUNT"]), int(given[b"TIME"]))
    pending: dict[bytes, bytes | None] = dict.fromkeys((pending_name(group, id_) for id_ in argv[5:end]), value)
    return [*read, HashSet(key, pending, "stream")]


def _xack(argv: Arguments) -> Sequence[Change]:
    return (FieldsDeleted(argv[1], tuple(pending_name(argv[2], id_) for id_ in argv[3:]), "stream"),)


def _xackdel(argv: Arguments) -> Sequence[Change]:
    """`XACKDEL key group [KEEPREF|DELREF|ACKED] IDS n id ..` (Redis 8.2): it may keep the entry, and is read."""
    (change,) = ENTRY_COMMANDS[b"XACKDEL"](argv)
    if isinstance(change, HashSet):
        change.fields.update(dict.fromkeys(pending_name(argv[2], plain_id(name)) for name in [*change.fields]))
    return (change,)


#: By name in upper case.
GROUP_COMMANDS: dict[bytes, Callable[[Arguments], Sequence[Change]]] = {
    b"XGROUP": _xgroup,
    b"XCLAIM": _xclaim,
    b"XACK": _xack,
    b"XACKDEL": _xackdel,
}


def without_groups(change: Change) -> Change | None:
    """A change as it is where groups are not replicated; None: nothing is left of it."""
    if not isinstance(change, HashSet | FieldsDeleted) or change.type != "stream":
        return change
    if not any(map(is_of_group, change.fields)):
        return change
    if isinstance(change, FieldsDeleted):
        names = tuple(name for name in change.fields if not is_of_group(name))
        return FieldsDeleted(change.key, names, change.type) if names else None
    left = {name: value for name, value in change.fields.items() if not is_of_group(name)}
    return HashSet(change.key, left, change.type) if left else None


def shown_when_removed(change: FieldsDeleted) -> Sequence[Change]:
    """What the stream shows once elements of a stream were removed by `groups.removal_commands` and `XDEL`."""
    ours = [name for name in change.fields if is_of_group(name)]
    if not ours:
        return (change,)
    entries = tuple(filter(is_entry, change.fields))
    shown: list[Change] = [FieldsDeleted(change.key, entries, change.type)] if entries else []
    for command in removal_commands(change.key, ours):
        shown += GROUP_COMMANDS[command[0]](command)
    return shown
