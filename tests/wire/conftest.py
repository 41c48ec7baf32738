"""A real Redis for what is run there: scripts, and what they say."""

from __future__ import annotations

import pytest

from testbed import RedisServer


@pytest.fixture(scope="module")
def redis():
    with RedisServer() as server:
        yield server.client()


@pytest.fixture(autouse=True)
def _empty(request):
    if "redis" in request.fixturenames:
        request.getfixturevalue("redis").flushall()
