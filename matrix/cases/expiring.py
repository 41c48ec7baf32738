"""Hashes whose fields expire, as the cases compare them.

In: pairs, clients, keys. Out: an AssertionError that says what is not as it must be. Left to others: what is written.
"""

import time

import pytest
import redis

from testbed import RedisServer, eventually
from testbed.programs import hub_redis, site_redis
from tests.e2e.support import PREFIX, Monitor

__all__ = ["HOUR", "KINDS", "fields", "known", "now_ms", "quiet", "same", "skip_without_them"]

KINDS = ("--replicate", "all")
HOUR = 3_600_000


WRITES = {b"HSET", b"HDEL", b"HPEXPIREAT", b"HPERSIST", b"DEL"}


def now_ms():
    return int(time.time() * 1000)


def fields(client, key):
    """What a hash holds: each field with its value, and when it expires (-1: never)."""
    with client.pipeline(transaction=True) as pipeline:
        pipeline.hgetall(key)
        held = pipeline.execute()[0]
    if not held:
        return {}
    times = client.execute_command("HPEXPIRETIME", key, "FIELDS", len(held), *held)
    return {name: (value, at) for (name, value), at in zip(held.items(), times, strict=True)}


def known(client):
    try:
        return client.execute_command("HPEXPIRETIME", "none", "FIELDS", 1, "f") is not None
    except redis.ResponseError:
        return False


def skip_without_them():
    """The cases are for servers that have expiries of fields."""
    for program in {site_redis(), hub_redis()}:
        with RedisServer(program=program) as server:
            if not known(server.client()):
                pytest.skip("one of the servers has no expiries of fields")


def same(pair, key, expected=None):
    """Both sides come to hold the same for a key, with expiries."""

    def agreed():
        here, there = fields(pair.at_site, key), fields(pair.at_hub, key)
        assert here == there, f"{key!r}: {str(here)[:300]} {str(there)[:300]}"
        assert expected is None or here == expected, f"{key!r}: {str(here)[:300]} {str(expected)[:300]}"
        return True

    eventually(agreed, 20, "both sides hold the same fields with the same expiries")


def quiet(pair):
    """Nothing of this is written any more: the sides do not answer each other for ever."""
    pair.level()
    with Monitor(pair.site) as here, Monitor(pair.hub.server) as there:
        pair.level()
        again = [argv for side in (here, there) for argv in side.commands() if argv[:1] and argv[0].upper() in WRITES]
    assert not [argv for argv in again if argv[1].startswith(PREFIX) and not argv[1].endswith(b"redisrepl:check")]
