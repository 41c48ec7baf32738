"""A key is denied alone if it is denied twice, and others pass in between."""

from __future__ import annotations

import pytest

from redisrepl.changes import DENIED, StringState
from redisrepl.errors import RefusedError
from redisrepl.flow import denials as module
from redisrepl.flow.denials import Denials

HELD = StringState(b"v")


class Server:
    """Denies some keys; what is asked of it is remembered."""

    def __init__(self):
        self.denied, self.asked = set(), []
        self.denials = Denials("the hub", self.is_denied)

    async def is_denied(self, key):
        self.asked.append(key)
        return key in self.denied

    async def look(self, *keys):
        return await self.denials.look({key: DENIED if key in self.denied else HELD for key in keys})


@pytest.fixture
def server():
    return Server()


async def test_a_key_that_is_denied_among_others_is_read_again_before_it_counts(server):
    server.denied = {b"k", b"l"}
    assert await server.look(b"k", b"a", b"l") == {b"k", b"l"}
    assert await server.look(b"k", b"a") == set()
    assert await server.look(b"k", b"a") == {b"k"}  # for another change, all begins anew
    assert server.asked == []  # the other key told enough


async def test_a_key_that_passed_meanwhile_is_read_again(server):
    server.denied = {b"k"}
    assert await server.look(b"k", b"a") == {b"k"}
    server.denied = set()
    await server.look(b"k")
    server.denied = {b"k"}
    assert await server.look(b"k", b"a") == {b"k"}


@pytest.mark.parametrize("passed", [True, False])
async def test_nothing_is_the_matter_with_a_key_if_others_are_denied_too(server, passed):
    if passed:
        await server.look(b"a")
    server.denied = {b"a", b"k"}
    for _ in range(3):
        with pytest.raises(RefusedError, match="the hub denies us every key"):
            await server.look(b"k")
        with pytest.raises(RefusedError, match=r"every key.*: NOPERM"):
            await server.denials.alone(b"k", "NOPERM")
    assert server.asked == [b"a"] * 6 * passed


async def test_a_key_that_is_denied_by_itself_is_tried_again_before_it_counts(server):
    server.denials.passed([b"a"])
    server.denied = {b"k"}
    assert not await server.denials.alone(b"k", "NOPERM")
    assert await server.denials.alone(b"k", "NOPERM")
    assert server.asked == [b"a", b"a"]
    assert not await server.denials.alone(b"k", "NOPERM")


async def test_what_is_remembered_is_bounded(server, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 2)
    server.denied = {b"k", b"l", b"m"}
    await server.look(b"k", b"l", b"m", b"a")
    assert await server.look(b"l", b"m", b"k", b"a") == {b"k"}
