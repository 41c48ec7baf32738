"""What both comparers, of the site and of the hub, must say of the same keys."""

from __future__ import annotations

from redisrepl.changes import HashState, StringState
from redisrepl.wire.digests import BUCKETS, Look, add_sums, bucket_of, look_at
from tests.samples import AWKWARD_NAMES, write

PREFIX = b"n*[:"  # a glob, were it not taken literally
FAR = 4_102_444_800_000


def states():
    """Keys of a namespace, with what they hold."""
    found = {PREFIX + b"s" + name: StringState(name) for name in AWKWARD_NAMES}
    found |= {PREFIX + b"h" + name: HashState({name: name, b"f": b"v"}) for name in AWKWARD_NAMES}
    found |= {PREFIX + b"%d" % number: StringState(b"v") for number in range(300)}
    found |= {PREFIX + b"es": StringState(b"v", FAR), PREFIX + b"eh": HashState({b"f": b"v"}, FAR)}
    return found


def fill(redis):
    """Have a server hold these, and others beside; returns what is to be seen of them."""
    redis.flushall()
    held = states()
    for key, state in held.items():
        write(redis, key, state)
    redis.rpush(PREFIX + b"list", "x")
    redis.mset({b"nx:": b"v", b"n": b"v", b"other": b"v"})
    return {key: look_at(key, state) for key, state in held.items()} | {PREFIX + b"list": look_at(b"", "list")}


async def pages(comparer, buckets=None, count=50):
    """What all steps say, and how many there were."""
    looks, cursor, steps = {}, b"0", 0
    while steps == 0 or cursor != b"0":
        page = await comparer.page(PREFIX, cursor, count, buckets)
        looks |= page.looks | dict(zip(page.left, await comparer.looks(page.left), strict=True))
        cursor, steps = page.cursor, steps + 1
    return looks, steps


async def sums(comparer, count=50):
    """The sums of all steps, and how many keys there were."""
    found, cursor, steps, keys = [0] * BUCKETS, b"0", 0, 0
    while steps == 0 or cursor != b"0":
        step = await comparer.sums(PREFIX, cursor, count, found)
        add_sums(found, dict(zip(step.left, await comparer.looks(step.left), strict=True)))
        cursor, steps, keys = step.cursor, steps + 1, keys + step.keys
    return found, keys


def without_expiries(looks):
    return {key: Look(look.digest) for key, look in looks.items()}


async def sees_all(comparer, expected):
    """A comparer that compares expiries says what is to be seen, whichever way it is asked."""
    found, steps = await pages(comparer)
    assert found == expected
    assert steps > 1
    wanted = set(range(0, BUCKETS, 3))
    some, _ = await pages(comparer, wanted)
    assert some == {key: look for key, look in expected.items() if bucket_of(key) in wanted}
    assert 0 < len(some) < len(expected)
    keys = [*expected, PREFIX + b"gone"]
    assert await comparer.looks(keys) == [*expected.values(), Look(None)]
    assert await comparer.looks([]) == []
    total = [0] * BUCKETS
    add_sums(total, expected)
    assert await sums(comparer) == (total, len(expected))


def fill_large(redis):
    """Have a server hold collections that are too large for one run of a script; returns what is to be seen of them."""
    redis.flushall()
    names = [b"%d" % number for number in range(5000)]
    held = {
        PREFIX + b"hash": HashState(dict.fromkeys(names, b"v"), FAR),
        PREFIX + b"set": HashState(dict.fromkeys(names, b""), None, "set"),
        PREFIX + b"zset": HashState(dict.fromkeys(names, b"0.10000000000000001"), None, "zset"),
    }
    redis.hset(PREFIX + b"hash", mapping=dict.fromkeys(names, b"v"))
    redis.pexpireat(PREFIX + b"hash", FAR)
    redis.sadd(PREFIX + b"set", *names)
    redis.zadd(PREFIX + b"zset", dict.fromkeys(names, 0.1))
    return {key: look_at(key, state) for key, state in held.items()}


def scripts_run(server):
    """How many runs of scripts a server counts, whether it was sent their text or their hash."""
    stats = server.commandstats()
    return stats.get("eval", 0) + stats.get("evalsha", 0)


async def sees_large_in_pieces(comparer, expected, server, *, scripts):
    """A comparer says what is to be seen of large collections; with scripts, by many short runs of one."""
    server.reset_commandstats()
    if scripts:
        await _sees_large(comparer, expected)
        assert scripts_run(server) >= 3 * 3 * 3  # of each type, each way, three runs at least
        assert not {"hgetall", "smembers", "zrange"} & server.commandstats().keys()
        await _sees_large_by_values(comparer, expected, server.client())
    else:
        found, _ = await pages(comparer)
        assert without_expiries(found) == without_expiries(expected)


async def _sees_large(comparer, expected):
    """A comparer that compares all types says what is to be seen of them."""
    assert await comparer.looks([*expected, PREFIX + b"none"]) == [*expected.values(), Look(None)]
    assert (await pages(comparer))[0] == expected
    by_bucket = [0] * BUCKETS
    add_sums(by_bucket, expected)
    assert await sums(comparer) == (by_bucket, len(expected))


async def _sees_large_by_values(comparer, expected, redis):
    """The same of a server that has a script say what is large, but not go through it."""
    redis.execute_command("ACL", "SETUSER", "default", "-hscan", "-sscan", "-zscan")
    try:
        found = await comparer.looks(list(expected))
    finally:
        redis.execute_command("ACL", "SETUSER", "default", "+@all")
    assert [look.digest for look in found] == [look.digest for look in expected.values()]
