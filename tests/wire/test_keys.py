"""Which arguments of a replicated command are keys."""

import pytest

from redisrepl.wire.keys import keys_of, writes_whole_databases
from testbed import RedisServer

ONE_KEY_WRITES = [
    *(b"SET a 1", b"GETSET a 2", b"APPEND a x", b"SETRANGE a 0 y", b"SETBIT a 1 1", b"SETEX a 100 v", b"HSET h f v"),
    *(b"HINCRBY h n 1", b"HDEL h f", b"RPUSH l 1 2 3", b"LPOP l", b"LSET l 0 x", b"LTRIM l 0 0", b"SADD s 1 2 3"),
    *(b"SPOP s", b"SREM s 1", b"ZADD z 1 a 2 b", b"ZINCRBY z 1 a", b"ZPOPMIN z", b"GEOADD g 1 1 x", b"XADD x 1-1 f v"),
    *(b"XTRIM x MAXLEN 0", b"PEXPIRE a 100000", b"PERSIST a", b"PFADD p 1", b"INCR i", b"INCRBYFLOAT i 1.5"),
    *(b"MSET a 1 b 2", b"DEL a h", b"UNLINK b i", b"SET a 1", b"RENAME a b", b"COPY b c", b"RPUSH l 1 2"),
    *(b"LMOVE l m LEFT RIGHT", b"SADD s 1 2", b"SMOVE s t 1", b"SUNIONSTORE u s t", b"ZADD z 1 a", b"ZADD y 1 b"),
    *(b"ZUNIONSTORE w 2 z y", b"BITOP NOT v b", b"XGROUP CREATE x grp 0 MKSTREAM", b"MOVE c 1"),
]


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (b"SET k v", [b"k"]),
        (b"set k v", [b"k"]),
        (b"SET k", [b"k"]),
        (b"MSET a 1 b 2", [b"a", b"b"]),
        (b"DEL a b", [b"a", b"b"]),
        (b"RENAME a b", [b"a", b"b"]),
        (b"COPY a b DB 3", [b"a", b"b"]),
        (b"BITOP AND d a b", [b"d", b"a", b"b"]),
        (b"MSETEX 2 a 1 b 2 PXAT 5", [b"a", b"b"]),
        (b"ZUNIONSTORE d 2 a b WEIGHTS 1 2", [b"d", b"a", b"b"]),
        (b"SORT k BY store GET # GET store LIMIT 0 9 DESC STORE a store b", [b"k", b"b"]),
        (b"SORT store LIMIT store STORE", [b"store"]),
        (b"GEORADIUS k 1 2 3 km COUNT 5 ANY STORE a STOREDIST b", [b"k", b"b"]),
        (b"GEORADIUSBYMEMBER k store 3 km WITHDIST STORE a", [b"k", b"a"]),
        (b"XGROUP CREATE s g 0", [b"s"]),
        (b"PUBLISH channel message", []),
        (b"FLUSHALL", []),
        (b"MODULE.WRITE x y", [b"x", b"y"]),
    ],
)
def test_the_keys_of(command, keys):
    assert list(keys_of(command.split())) == keys


@pytest.mark.parametrize("command", [b"MSETEX", b"MSETEX x a 1", b"ZUNIONSTORE d", b"RENAME a", b"SET", b"SORT"])
def test_a_known_name_in_an_unknown_form_may_name_keys_anywhere(command):
    argv = command.split()

    assert list(keys_of(argv)) == argv[1:]


def test_whole_databases():
    assert writes_whole_databases([b"flushdb", b"ASYNC"])
    assert not writes_whole_databases([b"DEL", b"a"])


def test_a_real_server_says_the_same():
    with RedisServer() as server:
        client = server.client()
        for line in ONE_KEY_WRITES:
            argv = line.split()
            said = client.execute_command("COMMAND GETKEYS", *argv)

            assert sorted(keys_of(argv)) == sorted(key.encode() for key in said), line
