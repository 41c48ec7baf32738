"""Commands for the site are packed in C, and mean what redis-py would have sent."""

from redisrepl.local.address import parse_address
from redisrepl.local.connection import open_client
from testbed import RedisServer
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
