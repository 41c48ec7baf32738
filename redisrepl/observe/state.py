"""How a daemon stands, in numbers for people.

In: its parts. Out: fields of a log line. Left to others: when it is said (`daemon`).
"""

from __future__ import annotations

from redisrepl.following import Following
from redisrepl.inbound import Inbound
from redisrepl.outbound import Outbound

__all__ = ["state_fields"]


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
