"""A daemon as the listener sees it, in whatever state a test wants."""

from __future__ import annotations

import copy

DOCUMENT = {
    "state": "well",
    "well": True,
    "problems": [],
    "doing": None,
    "troubles": [],
    "failures": {"push": 3, "stream": 0},
    "site": "redis://127.0.0.1:6379",
    "hub": "https://hub.example.org/redis/",
    "namespaces": ["site1:"],
    "direction": "both",
    "source": "psync",
    "attached_at": 1_000_000.0,
    "position": "8371b4:1234",
    "acknowledged": 1234,
    "full_syncs": 1,
    "partial_syncs": 2,
    "waiting_keys": 12,
    "waiting_bytes": 3456,
    "oldest_s": None,
    "pushed": 1000,
    "push_failures": 1,
    "refused_keys": 2,
    "requests": 50,
    "echoes_local": 0,
    "not_replicated": {"BF.ADD": 2},
    "dirty_keys": 0,
    "fetching_keys": 0,
    "fed_keys": 0,
    "expected_local": 0,
    "expected_remote": 0,
    "applied": 20,
    "conflicts": 4,
    "echoes": 900,
    "equal": 0,
    "events": 950,
    "failed": 2,
    "fed": 6,
    "fetched": 7,
    "stale": 0,
    "conflicts_resolved": 5,
    "subscriptions": [{"namespace": "site1:", "channel": "http", "live": True, "round_trip_s": 0.0123, "made": 2}],
    "sweep": {
        "reason": "subscribed",
        "compared": 500,
        "different": 8,
        "duration_s": 0.5,
        "finished_at": 999_900.0,
        "runs": 3,
        "running": None,
        "owed": None,
        "next_at": 1_003_600.0,
        "removals_held": 0,
        "settled": True,
    },
    "scripts": True,
    "max_body": 900_000,
    "flights": 1,
    "flights_limit": 64,
    "hub_clock_ahead_s": 0.0,
    "certificate_expires_at": "1970-02-12T00:00:00+00:00",
    "hub_certificate_expires_at": None,
    "site_client_certificate_expires_at": None,
    "site_certificate_expires_at": None,
    "listen_certificate_expires_at": None,
    "memory_bytes": 70 << 20,
    "version": "2.0.0",
    "pid": 42,
    "started_at": 990_000.0,
    "asked_at": 1_000_010.0,
    "lag_bytes": 3496,
    "unread_bytes": 40,
}


class Subject:
    """Says what it was given; counts how often it was asked."""

    def __init__(self, **changes):
        self.changes = changes
        self.delay = 0.0
        self.asked = 0

    def document(self):
        return copy.deepcopy(DOCUMENT) | self.changes

    async def full_document(self):
        self.asked += 1
        return self.document()

    def lag(self):
        return self.changes.get("lag", 0.0)
