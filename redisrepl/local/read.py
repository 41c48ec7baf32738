"""What keys hold at the site.

In: keys. Out: states. Left to others: which keys, and what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import redis.asyncio
import redis.exceptions

from redisrepl.changes import DENIED, HashState, State, StringState
from redisrepl.errors import PeerUnavailableError, denies_key
from redisrepl.local.address import SiteAddress
from redisrepl.local.connection import translated
from redisrepl.namespaces import glob_escape
from redisrepl.wire.states import STATES_SCRIPT, parse_states

__all__ = ["SiteReader", "scripts_denied"]

#: Bytes of values in one reply, before the rest of the keys is read by another command.
_MAX_REPLY = 8 << 20
#: Keys read together where no script can say when it is enough.
_FEW = 20


class SiteReader:
    """Reads the site's Redis.

    Args:
        client: its connection is used by nobody else.
        address: for messages.
    """

    def __init__(self, client: redis.asyncio.Redis, address: SiteAddress) -> None:
        self._client = client
        self._address = address
        self._scripts = True

    def request(self, keys: Sequence[bytes], large: frozenset[bytes] = frozenset()) -> list[list[bytes]]:
        """What asks for `states`, for who has more to ask in one go; what a script must do only where it may.

        Args:
            keys: any.
            large: of these, such as hold a large hash. In a script Redis would take five times as long to read them,
                and serve nobody else meanwhile.
        """
        small, alone = _apart(keys, large)
        commands = [command for key in alone for command in ([b"PEXPIRETIME", key], [b"HGETALL", key])]
        return [*commands, _command(small, _MAX_REPLY)] if small and self._scripts else commands

    async def states(
        self, keys: Sequence[bytes], replies: Sequence[object] = (), large: frozenset[bytes] = frozenset()
    ) -> list[State]:
        """What these keys hold, in their order.

        Args:
            keys: any.
            replies: to `request` for these, if that was asked already; what they do not tell is asked for here.
            large: as there.
        """
        small, alone = _apart(keys, large)
        found = _large_states(alone, replies)
        states: list[State] = []
        for reply in replies[2 * len(alone) :]:
            if isinstance(reply, list):
                states += parse_states(reply)
        left = [*small, *(key for key in alone if key not in found)] if alone else small
        while len(states) < len(left):
            states += await self.first_states(left[len(states) :], _MAX_REPLY)
        if not alone:
            return states
        found.update(zip(left, states, strict=True))
        return [found[key] for key in keys]

    async def first_states(self, keys: Sequence[bytes], max_bytes: int) -> list[State]:
        """What the first of these keys hold: one at least, and no further ones once so many bytes are read."""
        if self._scripts:
            return await self._by_script(keys, max_bytes)
        return await self._one_by_one(keys[:_FEW])

    async def _by_script(self, keys: Sequence[bytes], max_bytes: int) -> list[State]:
        with translated(self._address):
            try:
                reply = await self._client.execute_command(*_command(keys, max_bytes))  # type: ignore[no-untyped-call]
            except redis.exceptions.ResponseError as error:
                if not scripts_denied(error):
                    raise
                self._scripts = False
                return await self._one_by_one(keys[:_FEW])
        return parse_states(reply)

    async def _one_by_one(self, keys: Sequence[bytes]) -> list[State]:
        """Where scripts are not allowed."""
        with translated(self._address):
            pipeline = self._client.pipeline(transaction=False)
            pipeline.time()
            for key in keys:
                pipeline.type(key)
                pipeline.pttl(key)
                pipeline.execute_command("GET", key)
                pipeline.execute_command("HGETALL", key)
            clock, *replies = await pipeline.execute(raise_on_error=False)
        now = clock[0] * 1000 + clock[1] // 1000
        return [self._state(now, *replies[start : start + 4]) for start in range(0, len(replies), 4)]

    def _state(self, now: int, kind: Any, left: Any, string: Any, fields: Any) -> State:
        if isinstance(kind, Exception) and denies_key(str(kind)):
            return DENIED
        if isinstance(kind, Exception) or isinstance(left, Exception):
            raise PeerUnavailableError(f"the site's Redis {self._address} answered: {kind} {left}")
        expires_at_ms = now + left if left >= 0 else None
        match kind:
            case b"string" if isinstance(string, bytes):
                return StringState(string, expires_at_ms)
            case b"hash" if isinstance(fields, dict):
                return HashState(fields, expires_at_ms)
            case b"string" | b"hash" | b"none":
                return None  # gone between two commands
            case _:
                return str(kind, "ascii", "backslashreplace")

    async def page(self, prefix: bytes, cursor: bytes, count: int) -> tuple[bytes, list[bytes]]:
        """Keys of a namespace, from cursor `0` on, and the next cursor; `0` is the end. Some may come twice."""
        with translated(self._address):
            reply = await self._client.scan(int(cursor), match=glob_escape(prefix) + b"*", count=count)
        return b"%d" % int(reply[0]), cast("list[bytes]", reply[1])

    async def fields(self, key: bytes, fields: Sequence[bytes]) -> list[bytes | None]:
        """What these fields of a hash hold; None for one that is not there, and for all if the key is no hash.

        Raises:
            KeyDeniedError: the server does not let us read the key.
        """
        with translated(self._address):
            try:
                return list(await self._client.hmget(key, list(fields)))  # type: ignore[arg-type]
            except redis.exceptions.ResponseError as error:
                if str(error).startswith("WRONGTYPE"):
                    return [None] * len(fields)
                raise


def _apart(keys: Sequence[bytes], large: frozenset[bytes]) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Those that a script may read, and those that are read by themselves, most of the time none."""
    if not large:
        return keys, ()
    return [key for key in keys if key not in large], [key for key in keys if key in large]


def _large_states(keys: Sequence[bytes], replies: Sequence[object]) -> dict[bytes, State]:
    """What keys hold, from what `PEXPIRETIME` and `HGETALL` say of each; not of those of which they do not tell."""
    found: dict[bytes, State] = {}
    for key, at, flat in zip(keys, replies[::2], replies[1::2], strict=False):
        if isinstance(at, int) and isinstance(flat, list):  # Redis 7.0 or later, and a hash, or nothing
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            found[key] = HashState(fields, at if at >= 0 else None) if fields else None
    return found


def _command(keys: Sequence[bytes], max_bytes: int) -> list[bytes]:
    """Reads these keys until so many bytes are full."""
    return [b"EVAL", STATES_SCRIPT, b"0", b"%d" % max_bytes, b"", *keys]


def scripts_denied(error: redis.exceptions.ResponseError) -> bool:
    """Whether it says that no script may run."""
    refused = isinstance(error, redis.exceptions.NoPermissionError)  # redis-py takes NOPERM off its text
    return refused or str(error).startswith(("unknown command", "This Redis command is not allowed"))
