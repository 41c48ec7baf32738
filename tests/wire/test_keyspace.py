"""The table of keyspace events, held against what a real server announces."""

import os
import random
import re

import pytest
import redis

from redisrepl.changes import KINDS
from redisrepl.wire import keyspace
from redisrepl.wire.keyspace import EVENTS, KeyEffect, KeyspaceEvent, events_with, missing_flags
from testbed import RedisServer
from tests.e2e.commands import ARGUMENTS, Words, writes
from tests.e2e.support import PREFIX
from tests.e2e.test_types import held

#: Commands, and the keys that they write; each stands for all that cause the same event.
COMMANDS = [
    "SET s 1",
    "SETRANGE s 0 2",
    "APPEND s 3",
    "INCR s",
    "DECR s",
    "INCRBYFLOAT s 0.5",
    "SETBIT b 1 1",
    "BITFIELD b SET u8 0 1",
    "PFADD p a",
    "PFMERGE q p",
    "HSET h f 1 g 2",
    "HINCRBY h f 1",
    "HINCRBYFLOAT h f 0.5",
    "HDEL h g",
    "SADD m a b c",
    "SREM m a",
    "SPOP m",
    "SINTERSTORE t m m",
    "SUNIONSTORE t m m",
    "SDIFFSTORE t m none",
    "ZADD z 1 a 2 b 3 c 4 d 5 e 6 f 7 g",
    "ZINCRBY z 1 a",
    "ZREM z a",
    "ZPOPMIN z",
    "ZPOPMAX z",
    "ZREMRANGEBYSCORE z 3 3",
    "ZREMRANGEBYRANK z 0 0",
    "ZUNIONSTORE y 1 z",
    "ZINTERSTORE y 1 z",
    "ZDIFFSTORE y 1 z",
    "ZRANGESTORE y z 0 -1",
    "ZADD x 0 a 0 b",
    "ZREMRANGEBYLEX x [a [a",
    "GEOADD geo 1 1 a",
    "GEORADIUS geo 1 1 10 km STORE near",
    "GEOSEARCHSTORE near geo FROMMEMBER a BYRADIUS 1 km",
    "RPUSH l 3 1 2",
    "LPUSH l 4",
    "LINSERT l BEFORE 1 9",
    "LSET l 0 5",
    "LREM l 1 9",
    "LTRIM l 0 2",
    "LPOP l",
    "SORT l STORE sorted",
    "RPOP l",
    "XADD e 1-1 f v",
    "XADD e 2-1 f v",
    "XADD e 3-1 f v",
    "XDEL e 2-1",
    "XTRIM e MAXLEN 1",
    "XSETID e 9-9",
    "XGROUP CREATE made g $ MKSTREAM",
    "XGROUP SETID made g 0",
    "XGROUP CREATECONSUMER made g c",
    "XGROUP DELCONSUMER made g c",
    "XGROUP DESTROY made g",
    "RENAME s renamed",
    "COPY renamed copied",
    "MOVE renamed 1",
    "PEXPIREAT copied 4102444800000",
    "PERSIST copied",
    "DEL copied",
    "SET soon 1 PX 1",
]
#: Caused by Redis 7.4 and later, by a full server, or by a clock; `decrby` is what Redis' documentation says of DECRBY.
OTHERS = {b"hexpired", b"hexpire", b"hpersist", b"evicted", b"expired", b"decrby"}


@pytest.fixture(scope="module")
def announced():
    """The names of all events that the commands cause."""
    with RedisServer(config={"notify-keyspace-events": "KA"}) as server:
        client = server.client()
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        pubsub.psubscribe("__keyspace@*", "end")
        pubsub.get_message(timeout=5)
        client.set("restored", 1)
        dump = client.dump("restored")
        for command in COMMANDS:
            client.execute_command(*command.split())
        client.restore("again", 0, dump)
        client.publish("end", "")
        seen = set()
        while (message := pubsub.get_message(timeout=5)) is None or message["channel"] != b"end":
            if message is not None:
                seen.add(message["data"])
        pubsub.close()
        yield seen


def test_every_event_of_a_write_has_a_row(announced):
    assert announced - EVENTS.keys() == set()


def test_every_row_is_an_event(announced):
    assert EVENTS.keys() - announced - OTHERS == set()


def test_each_key_that_a_listed_command_changes_has_an_event_that_has_a_row():
    """For each that the server lists as a write, with arguments by chance, and with just the flags that we ask for."""
    rng = random.Random(int(os.environ.get("TESTBED_SEED", "16")))
    with RedisServer(config={"notify-keyspace-events": missing_flags("", KINDS)}) as server:
        client = server.client()
        client.sadd("dumped", 1, "x")
        names = writes(client)
        words = Words(rng, PREFIX, {b"set": client.dump("dumped")}, names)
        pubsub = client.pubsub(ignore_subscribe_messages=True)
        pubsub.psubscribe(b"__keyspace@0__:" + PREFIX + b"*", "end")
        pubsub.get_message(timeout=5)
        silent, changing, before = {}, set(), {}
        for name in [name for _ in range(12) for name in rng.sample(names, len(names))]:
            command = [name.upper().encode(), *ARGUMENTS[name](words)]
            try:
                client.execute_command(*command)
            except redis.ResponseError:
                continue
            client.publish("end", "")
            told = set()
            while (message := pubsub.get_message(timeout=5)) is None or message["channel"] != b"end":
                if message is not None and message["data"] in EVENTS:
                    told.add(message["channel"].removeprefix(b"__keyspace@0__:"))
            after = held(client)
            changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
            if missed := changed - told:
                silent[name] = command, missed
            changing |= {name} if changed else set()
            before = after
        pubsub.close()
    assert not silent
    assert len(changing) > len(names) * 3 // 4


def test_the_head_of_the_module_lists_the_effects():
    assert set(re.findall(r"(?m)^\| ([A-Z_]+) \|", keyspace.__doc__)) == set(KeyEffect.__members__)


def test_events_of_an_effect():
    assert EVENTS[b"zadd"] == KeyspaceEvent(KeyEffect.PUT, "zsets")
    assert events_with(KeyEffect.EVICTED, KeyEffect.EXPIRY) == {b"evicted", b"expire", b"persist"}
