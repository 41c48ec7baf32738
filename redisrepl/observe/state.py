"""How a daemon stands, in numbers for people.

In: its parts. Out: log lines, or fields of one. Left to others: when it is said (`daemon`).
"""

from __future__ import annotations

import structlog

from redisrepl import __version__
from redisrepl.following import Following
from redisrepl.inbound import Inbound
from redisrepl.local.address import SiteAddress
from redisrepl.namespaces import Namespaces, printable
from redisrepl.outbound import Outbound

__all__ = ["say_started", "state_fields"]

_log = structlog.get_logger("redisrepl")


def say_started(address: SiteAddress, hub: str, namespaces: Namespaces, *, pull: bool) -> None:
    """Between whom the daemon runs, and what of that is seldom meant."""
    _log.info(
        "daemon.started",
        version=__version__,
        site=str(address),
        hub=hub,
        namespaces=[printable(prefix) for prefix in namespaces],
        pull=pull,
    )
    for prefix in namespaces.without_delimiter():
        name = printable(prefix)
        _log.warning("daemon.namespace_open", namespace=name, hint=f"{name} also covers {name}2: end it with a colon")


def state_fields(following: Following, outbound: Outbound, inbound: Inbound | None) -> dict[str, object]:
    """What waits where, and what was done since the start."""
    fields: dict[str, object] = {
        "position": str(following.position),
        "acknowledged": outbound.acknowledged,
        "waiting_keys": outbound.waiting,
        "waiting_bytes": outbound.pending.bytes + outbound.seeds.bytes,
        "pushed": outbound.counters.pushed,
        "push_failures": outbound.counters.failed,
        "requests": outbound.counters.requests,
        "echoes_local": outbound.counters.echoes,
    }
    if inbound is not None:
        counters = inbound.counters
        fields |= inbound.outstanding() | {name: getattr(counters, name) for name in counters.__slots__}
    return fields
