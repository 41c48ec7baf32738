"""What a lone request to the hub costs by each HTTP client: httpx, httpx over aiohttp, aiohttp, and the daemon's own.

    python benchmarks/transports.py [REQUESTS]

Starts a hub (Redis, Webdis, nginx with mutual TLS) and sends `SET`s of 64 bytes, in three rounds that take turns:
REQUESTS (2,000) one right after the other, and a tenth as many 20 ms apart, as writes come at a site that has little to
do, and then what a processor remembers is somebody else's. For each client and each of the two: processor time of this
process for a request, and the time that a request takes, the median of the rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from importlib.metadata import version

import aiohttp
import httpx
from httpx_aiohttp import HttpxAiohttpClient

from redisrepl.remote.session import HubSession, check_url
from redisrepl.tls.contexts import CertificateFiles, client_context
from redisrepl.wire.webdis import body
from testbed import Hub

ROUNDS = 3
APART = 0.02


def context(hub):
    pair = hub.certificates
    return client_context(CertificateFiles(pair.ca, pair.client, pair.client_key))


@contextlib.asynccontextmanager
async def by_httpx(hub, client_class):
    async with client_class(verify=context(hub)) as client:

        async def send(content):
            return (await client.post(hub.url, content=content)).content

        yield send


@contextlib.asynccontextmanager
async def by_aiohttp(hub):
    connector = aiohttp.TCPConnector(ssl=context(hub))
    async with aiohttp.ClientSession(connector=connector) as session:

        async def send(content):
            async with session.post(hub.url, data=content) as response:
                return await response.read()

        yield send


@contextlib.asynccontextmanager
async def by_ours(hub):
    session = HubSession(check_url(hub.url), context(hub))
    yield session.post
    await session.close()


CLIENTS = {
    "httpx": lambda hub: by_httpx(hub, httpx.AsyncClient),
    "httpx over aiohttp": lambda hub: by_httpx(hub, HttpxAiohttpClient),
    "aiohttp": by_aiohttp,
    "redisrepl": by_ours,
}


async def measure(client, count, pause):
    """Microseconds of processor and of time, for each request."""
    async with client as send:
        await send(b"PING.raw")
        cpu, took = 0.0, 0.0
        for number in range(count):
            await asyncio.sleep(pause)
            content = body(b"SET", b"k%d" % number, b"x" * 64)
            began, before = time.perf_counter(), time.process_time()
            if await send(content) != b"+OK\r\n":
                raise RuntimeError("the hub did not take a SET")
            cpu, took = cpu + time.process_time() - before, took + time.perf_counter() - began
    return cpu / count * 1e6, took / count * 1e6


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(", ".join(f"{name} {version(name)}" for name in ("httpx", "httpx-aiohttp", "aiohttp")))
    ways = {"one after the other": (count, 0.0), f"{APART * 1000:.0f} ms apart": (max(1, count // 10), APART)}
    measured = {(way, name): [] for way in ways for name in CLIENTS}
    with Hub() as hub:
        for _ in range(ROUNDS):
            for way, (requests, pause) in ways.items():
                for name, client in CLIENTS.items():
                    measured[way, name].append(asyncio.run(measure(client(hub), requests, pause)))
    for way in ways:
        print(f"{way}:")
        for name in CLIENTS:
            cpu, took = (statistics.median(column) for column in zip(*measured[way, name], strict=True))
            print(f"  {name:20}{cpu:7.0f} us of processor{took:7.0f} us a request")


if __name__ == "__main__":
    main()
