"""Keyspace notifications at the hub: the flags that are needed are added to those that are set, never put in place.

In: the kinds of change that are pulled. Out: whether the hub will send their events. The hub is shared: other clients
rely on its other flags.
"""

from __future__ import annotations

from typing import Literal

import structlog

from redisrepl.errors import CommandRefusedError
from redisrepl.remote.session import HubSession
from redisrepl.wire.keyspace import NOTIFY_OPTION, missing_flags

__all__ = ["NotifyMode", "ensure_notifications", "missing_flags"]

_log = structlog.get_logger("redisrepl")

NotifyMode = Literal["merge", "check", "never"]

_OPTION = NOTIFY_OPTION.encode()


async def ensure_notifications(session: HubSession, kinds: frozenset[str], mode: NotifyMode) -> bool:
    """Make the hub send the events that are needed; a restart of its Redis may have taken them away.

    Returns:
        Whether the needed flags are known to be set.
    """
    if mode == "never":
        return True
    try:
        reply = await session.command(b"CONFIG", b"GET", _OPTION)
        flags = reply[1].decode("ascii", "replace") if isinstance(reply, list) and len(reply) > 1 else ""
        missing = missing_flags(flags, kinds)
        if not missing:
            return True
        if mode == "merge":
            await session.command(b"CONFIG", b"SET", _OPTION, (flags + missing).encode("ascii"))
            _log.info("hub.notifications_enabled", added=missing, before=flags)
            return True
    except CommandRefusedError as error:
        _log.warning(
            "hub.notifications_unknown",
            error=str(error),
            hint=f"the hub does not let us look: have its administrator set {_OPTION.decode()} to include K$hg",
        )
        return False
    _log.warning("hub.notifications_missing", missing=missing, flags=flags, hint="without them changes are not seen")
    return False
