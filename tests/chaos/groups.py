"""What clients do with consumer groups of streams, where they are replicated.

In: a client and its random choices, what it knows of a stream. Out: reads and writes, and what they make of each
element of a group, by the names and values of `wire.groups`; what a server holds. Left to others: entries
(`collections`).

A consumer without pending entries, a pending entry whose entry is gone, the time of a delivery and the lag of a group
are not replicated, so they are not looked at.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager

import redis

from redisrepl.wire.entries import entry_name
from redisrepl.wire.groups import delivery, is_of_group, pending_name, place_name

__all__ = ["GROUP", "GroupError", "announce", "elements_of_groups", "in_order", "pending_of", "read_own", "read_shared"]

GROUP = b"g"
CONSUMERS = b"one", b"two", b"\xff\x00three"
_PLACE = place_name(GROUP)

Saying = Callable[[Mapping[bytes | None, object]], AbstractContextManager[None]]


class GroupError(redis.RedisError):
    """A group of which no other client reads gave other entries than those that are next."""


def in_order(ids: Iterable[bytes]) -> list[bytes]:
    """Ids of entries, from the lowest."""
    return sorted(ids, key=entry_name)


def pending_of(ids: Iterable[bytes], held: Collection[bytes]) -> list[bytes]:
    """Those elements of the group that are gone with these entries."""
    return [name for name in (pending_name(GROUP, id_) for id_ in ids) if name in held]


def read_shared(client: redis.Redis, rng: random.Random, key: bytes) -> None:
    """Do something with a group that others read from, too; if it is not there, make it."""
    consumer = rng.choice(CONSUMERS)
    with contextlib.suppress(redis.ResponseError):  # others have made the group, or destroyed it
        rows = client.xpending_range(key, GROUP, "-", "+", 3)
        ids = [row["message_id"] for row in rows]
        match rng.choice(["read", "read", "read", "ack", "ack", "claim", "set", "leave"]):
            case "ack" if ids:
                client.xack(key, GROUP, *ids[:2])
            case "claim" if ids:
                client.xclaim(key, GROUP, consumer, 0, ids)
            case "set":
                client.xgroup_setid(key, GROUP, rng.choice([b"$", *ids]))
            case "leave":
                client.xgroup_delconsumer(key, GROUP, consumer)
            case "read":
                client.xreadgroup(GROUP, consumer, {key: ">"}, count=2, noack=rng.random() < 0.1)
        if rng.random() < 0.02:
            client.xgroup_destroy(key, GROUP)
        return
    with contextlib.suppress(redis.ResponseError):
        client.xgroup_create(key, GROUP, rng.choice(["0", "$"]), mkstream=True)


def read_own(
    client: redis.Redis,
    rng: random.Random,
    key: bytes,
    held: Mapping[bytes, object],
    saying: Saying,
) -> bool:
    """Do something with a group of a stream, both of which no other client uses; whether there was anything to do.

    Args:
        client: of the one who does.
        rng: likewise.
        key: of the stream.
        held: elements of the stream and of the group that it surely holds, and there are no others.
        saying: as in `collections.write_own`.

    Raises:
        GroupError: the group is not as it was left.
    """
    ids = in_order(name for name in held if not is_of_group(name))
    pending = {id_: bytes(held[name]) for id_ in ids for name in pending_of([id_], held)}
    consumer = rng.choice(CONSUMERS)
    if _PLACE not in held:
        at = rng.choice([b"0-0", *ids])
        with saying({_PLACE: at}):
            client.xgroup_create(key, GROUP, at, mkstream=True)
        return True
    some = rng.sample(sorted(pending), k=min(len(pending), rng.randint(1, 3)))
    match rng.choice(["read", "read", "read", "ack", "ack", "claim", "set", "come", "leave", "destroy"]):
        case "read":
            behind = [id_ for id_ in ids if entry_name(id_) > entry_name(bytes(held[_PLACE]))]
            return _read(client, rng, key, consumer, behind[: rng.randint(1, 3)], saying)
        case "ack" if some:
            with saying(dict.fromkeys(pending_of(some, held))):
                client.xack(key, GROUP, *some)
        case "claim" if some:
            counts = {id_: int(pending[id_].partition(b" ")[0]) for id_ in some}
            with saying({pending_name(GROUP, id_): delivery(consumer, counts[id_] + 1, None) for id_ in some}):
                client.xclaim(key, GROUP, consumer, 0, some)
        case "set":
            at = rng.choice([b"0-0", *ids])
            with saying({_PLACE: at}):
                client.xgroup_setid(key, GROUP, at)
        case "come":
            client.xgroup_createconsumer(key, GROUP, consumer)
        case "leave":
            gone = [id_ for id_, value in pending.items() if value.partition(b" ")[2] == consumer]
            with saying(dict.fromkeys(pending_of(gone, held))):
                client.xgroup_delconsumer(key, GROUP, consumer)
        case "destroy" if rng.random() < 0.2:
            with saying(dict.fromkeys(filter(is_of_group, held))):
                client.xgroup_destroy(key, GROUP)
        case _:
            return False
    return True


def _read(
    client: redis.Redis, rng: random.Random, key: bytes, consumer: bytes, ids: list[bytes], saying: Saying
) -> bool:
    """Read these entries, which are next."""
    if not ids:
        return False
    noack = rng.random() < 0.1  # then an entry that is pending stays so

    def delivered(ids: list[bytes]) -> dict[bytes, object]:
        pending = {} if noack else {pending_name(GROUP, id_): delivery(consumer, 1, None) for id_ in ids}
        return {_PLACE: ids[-1], **pending}

    with saying(delivered(ids)):
        told = client.xreadgroup(GROUP, consumer, {key: ">"}, count=len(ids), noack=noack)
        got = [id_ for _, entries in told for id_, _ in entries]
        if got != ids:
            if got:
                with saying(delivered(got)):
                    pass  # whatever it should have been, the group holds this now
            raise GroupError(f"{key} {ids} {got}")
    return True


def elements_of_groups(about: Mapping[str, object]) -> dict[bytes, bytes]:
    """The elements of all groups, from the reply to `XINFO STREAM .. FULL COUNT 0`."""
    found: dict[bytes, bytes] = {}
    for group in about["groups"]:
        name = group["name"]
        found[place_name(name)] = group["last-delivered-id"]
        for id_, consumer, at_ms, count in group["pending"]:
            if id_ in about["entries"]:
                found[pending_name(name, id_)] = delivery(consumer, count, at_ms)
    return found


def announce(client: redis.Redis, keys: Iterable[bytes]) -> None:
    """Cause an event of each of these streams: reading, claiming and acknowledging cause none."""
    for key in keys:
        client.pipeline().xgroup_create(key, b"nobody", "$").xgroup_destroy(key, b"nobody").execute()
