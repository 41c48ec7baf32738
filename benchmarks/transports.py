"""What a lone request to the hub costs by each HTTP client: httpx, httpx over aiohttp (what the daemon uses), aiohttp.

    python benchmarks/transports.py [REQUESTS]

Starts a hub (Redis, Webdis, nginx with mutual TLS) and sends REQUESTS (2,000) `SET`s of 64 bytes one after the other,
in three rounds that take turns. For each client: processor time of this process for a request, and the time that a
request takes, the median of the rounds.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from importlib.metadata import version

import aiohttp
import httpx
from httpx_aiohttp import HttpxAiohttpClient

from redisrepl.tls import CertificateFiles, client_context
from redisrepl.wire.webdis import body
from testbed import Hub

ROUNDS = 3


def context(hub):
    pair = hub.certificates
    return client_context(CertificateFiles(pair.ca, pair.client, pair.client_key))


async def by_httpx(hub, requests, client_class):
    async with client_class(verify=context(hub)) as client:
        for number in requests:
            response = await client.post(hub.url, content=body(b"SET", b"k%d" % number, b"x" * 64))
            assert response.content == b"+OK\r\n"


async def by_aiohttp(hub, requests):
    connector = aiohttp.TCPConnector(ssl=context(hub))
    async with aiohttp.ClientSession(connector=connector) as session:
        for number in requests:
            async with session.post(hub.url, data=body(b"SET", b"k%d" % number, b"x" * 64)) as response:
                assert await response.read() == b"+OK\r\n"


CLIENTS = {
    "httpx": lambda hub, requests: by_httpx(hub, requests, httpx.AsyncClient),
    "httpx over aiohttp": lambda hub, requests: by_httpx(hub, requests, HttpxAiohttpClient),
    "aiohttp": by_aiohttp,
}


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    names = ("httpx", "httpx-aiohttp", "aiohttp")
    print(", ".join(f"{name} {version(name)}" for name in names))
    measured = {name: [] for name in CLIENTS}
    with Hub() as hub:
        for _ in range(ROUNDS):
            for name, send in CLIENTS.items():
                began, cpu = time.perf_counter(), time.process_time()
                asyncio.run(send(hub, range(count)))
                cpu, took = time.process_time() - cpu, time.perf_counter() - began
                measured[name].append((cpu / count * 1e6, took / count * 1e6))
    for name, rounds in measured.items():
        cpu, took = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(f"  {name:20}{cpu:7.0f} us of processor{took:7.0f} us a request")


if __name__ == "__main__":
    main()
