"""Keyspace notifications at the hub: the flags that are needed are added to those that are set, never put in place.

In: the kinds of change that are pulled. Out: the hub sends their events, or it is said why not. The hub is shared:
other clients rely on its other flags, and may take ours away: redisRepl 1.2 sets those that it needs itself, and no
others, whenever it starts.
"""

from __future__ import annotations

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
    """The flags that one client of the hub needs.

    Args:
        hub: whose flags they are.
        kinds: which of `changes.KINDS` are pulled.
        mode: `merge` adds what is missing, `check` tells, `never` does not look.
    """

    def __init__(self, hub: Hub, kinds: frozenset[str], mode: NotifyMode) -> None:
        self._hub = hub
        self._kinds = kinds
        self._mode = mode
        self._told = ""  # what is wrong, since when it was told

    async def ensure(self) -> bool:
        """Make the hub send the events that are needed.

        Returns:
            Whether it may not have sent them until now, and does so from now on.
        """
        if self._mode == "never":
            return False
        hub = self._hub
        try:
            flags = await hub.option(_OPTION)
            missing = missing_flags(flags, self._kinds)
            if missing and self._mode == "merge":
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
        were_missing = bool(missing or self._told)
        self._told = ""
        return were_missing

    def _tell(self, event: str, **facts: object) -> None:
        """Warn, once until it is over."""
        if self._told != event:
            self._told = event
            _log.warning(event, **facts)
