"""Connections to the site: commands are packed in C, and mean what redis-py would have sent; an end of one is told."""

import contextlib

import pytest
from redis.exceptions import WatchError

from redisrepl.local.address import parse_address
from redisrepl.local.connection import open_client
from testbed import FaultProxy, RedisServer
from tests.samples import ALL_BYTES


async def test_words_of_any_kind_arrive_as_they_are():
    with RedisServer() as server:
        client = open_client(parse_address(f"redis://127.0.0.1:{server.port}", flag="--raddr"), 5.0, connections=1)
        try:
            await client.execute_command("SET", ALL_BYTES, ALL_BYTES * 100)
            await client.execute_command("SET", "ä", 1.5)
            await client.execute_command(b"SET", "n", 7)

            assert await client.mget(ALL_BYTES, "ä".encode(), b"n") == [ALL_BYTES * 100, b"1.5", b"7"]
            assert await client.config_get("port") == {"port": str(server.port)}  # a name of two words
        finally:
            await client.aclose()


async def test_a_connection_that_the_server_has_closed_is_not_made_again_in_silence():
    """What was watched on it is not watched any more."""
    with RedisServer() as server, FaultProxy(server.port) as wire:
        address = parse_address(f"redis://127.0.0.1:{wire.port}", flag="--raddr")
        client = open_client(address, 5.0, connections=1)
        try:
            async with client.pipeline() as pipeline:
                await pipeline.watch("key")
                wire.cut()
                with contextlib.suppress(OSError):
                    await pipeline.connection._writer.wait_closed()
                pipeline.multi()
                pipeline.set("key", "value")
                with pytest.raises(WatchError, match="ConnectionError"):  # redis-py: try the whole again
                    await pipeline.execute()
            assert await client.get("key") is None
        finally:
            await client.aclose()
