"""Makes the hub send keyspace events: adds the flags that we need to those that are set, and removes none.

In: the kinds of change that are pulled. Out: the hub sends their events, or a log line says why not. Left to others:
which flags a kind needs (`wire.keyspace`), when to ask (`remote.subscribe`).

The hub is shared. Other clients rely on its other flags, and may remove ours: redisRepl 1.2 sets only the flags that it
needs itself, whenever it starts.
"""

from __future__ import annotations

import asyncio
from typing import Literal

import structlog

from redisrepl.errors import CommandRefusedError
from redisrepl.remote.hub import Hub
from redisrepl.wire.keyspace import NOTIFY_OPTION, missing_flags

__all__ = ["Notifications", "NotifyMode", "missing_flags"]

_log = structlog.get_logger("redisrepl")

NotifyMode = Literal["merge", "check", "never"]

_OPTION = NOTIFY_OPTION.encode()


class Notifications:
    """The flags that one client of the hub needs. Its subscriptions share this object, and each asks again and again.

    Args:
        hub: the hub.
        kinds: which of `changes.KINDS` are pulled.
        mode: `merge` adds missing flags, `check` only warns, `never` does not look.
        fresh: seconds for which an answer holds for all callers.

    Attributes:
        restored: how often flags were missing, so that events may have been lost, and were then set again.
    """

    def __init__(self, hub: Hub, kinds: frozenset[str], mode: NotifyMode, *, fresh: float = 0.0) -> None:
        self._hub = hub
        self._kinds = kinds
        self._mode = mode
        self._logged = ""  # the event that was logged and still holds; empty: nothing is wrong
        self._fresh = fresh
        self._fresh_until = 0.0
        self._asking: asyncio.Future[None] | None = None  # done when the present request is answered
        self._setting = False  # whether flags may have been set, and `restored` does not count that yet
        self.restored = 0

    async def ensure(self) -> bool:
        """Make the hub send the events that we need.

        Returns:
            Whether it may not have sent them before, and does from now on.
        """
        now = asyncio.get_running_loop().time
        if self._mode == "never" or now() < self._fresh_until:
            return False
        if self._asking is not None:
            await asyncio.wait((self._asking,))
            if now() < self._fresh_until:
                return False
        asking = self._asking = asyncio.get_running_loop().create_future()
        try:
            were_missing = await self._ask()
            self._fresh_until = now() + self._fresh
        finally:
            asking.set_result(None)
            if self._asking is asking:
                self._asking = None
        self.restored += were_missing
        return were_missing

    async def _ask(self) -> bool:
        hub = self._hub
        try:
            flags = await hub.option(_OPTION)
            missing = missing_flags(flags, self._kinds)
            if missing and self._mode == "merge":
                self._setting = True  # the answer may be lost, and the next that asks finds nothing missing
                await hub.command(b"CONFIG", b"SET", _OPTION, (flags + missing).encode())
                _log.info("hub.notifications_enabled", added=missing, before=flags)
        except CommandRefusedError as error:
            wanted = missing_flags("", self._kinds)
            hint = f"the hub does not let us look: have its administrator set {_OPTION.decode()} to include {wanted}"
            self._tell("hub.notifications_unknown", error=str(error), hint=hint)
            return False
        if missing and self._mode == "check":
            hint = "without them changes are not seen"
            self._tell("hub.notifications_missing", missing=missing, flags=flags, hint=hint)
            return False
        were_missing = bool(missing or self._logged or self._setting)
        self._logged, self._setting = "", False
        return were_missing

    def _tell(self, event: str, **facts: object) -> None:
        """Warn, once until the problem is over."""
        if self._logged != event:
            self._logged = event
            _log.warning(event, **facts)
