"""How a daemon stands, for people and for `redisrepl status`.

In: its parts. Out: one flat document of numbers and texts, never of values. Left to others: when it is told (`daemon`,
`observe.socket`) and how it looks (`subcommands.status`).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator

import structlog
from cryptography import x509

from redisrepl import __version__
from redisrepl.errors import RedisreplError
from redisrepl.local.address import SiteAddress
from redisrepl.local.facts import ask_facts
from redisrepl.memory import resident
from redisrepl.namespaces import Namespaces, printable
from redisrepl.observe.troubles import Trouble
from redisrepl.parts import Parts
from redisrepl.tls import read_file

__all__ = ["State", "say_started"]

_log = structlog.get_logger("redisrepl")

#: Seconds that the site has to say how far it is.
_PATIENCE = 1.0
#: Marks of the stream that are remembered for the age of what waits; more only blur that of the later ones.
_MARKS = 1000


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


class State:
    """Looks at the parts of a daemon.

    Args:
        parts: they.
        address: the site's.
    """

    def __init__(self, parts: Parts, address: SiteAddress) -> None:
        self._parts = parts
        self._address = address
        self._started_at = time.time()
        self._marks: deque[tuple[float, int]] = deque()  # when the stream was read up to which offset

    def tick(self, now: float) -> None:
        """Remember how far the stream was read, for the age of what waits.

        Args:
            now: seconds that never go backwards.
        """
        position, acknowledged = self._parts.following.position, self._parts.outbound.acknowledged
        if position is None:
            self._marks.clear()
            return
        while self._marks and self._marks[0][1] <= acknowledged:
            self._marks.popleft()
        newest = self._marks[-1][1] if self._marks else acknowledged
        if position.offset > newest and len(self._marks) < _MARKS:
            self._marks.append((now, position.offset))

    def document(self) -> dict[str, object]:
        """All that is known without asking anybody."""
        parts = self._parts
        problems = list(self._problems())
        return {
            "well": not problems,
            "problems": problems,
            "site": str(self._address),
            "hub": parts.session.url,
            "namespaces": [printable(prefix) for prefix in parts.namespaces],
            "direction": "both" if parts.pull else "push",
            **self._site_fields(),
            **self._push_fields(),
            **self._pull_fields(),
            "sweep": parts.sweep.last
            | {"runs": parts.sweep.runs, "running": parts.sweep.running, "owed": parts.sweep.owed}
            | {"next_at": parts.sweep.next_at, "removals_held": parts.sweep.held}
            | {"settled": parts.core.continuity.site.settled and parts.core.continuity.hub.settled},
            "scripts": parts.pusher.scripts,
            "max_body": parts.pusher.max_body,
            "flights": parts.pacer.out,
            "flights_limit": parts.pacer.limit,
            "certificate_expires_at": self._certificate_end(),
            "memory_bytes": resident(),
            "version": __version__,
            "pid": os.getpid(),
            "started_at": round(self._started_at, 3),
        }

    async def full_document(self) -> dict[str, object]:
        """The same, with how far the site is ahead, which the site is asked for."""
        document, position = self.document(), self._parts.following.position
        document["lag_bytes"] = None
        if position is not None and self._parts.attached_at is not None:
            facts = await ask_facts(self._address, _PATIENCE)
            if facts.offset is not None and position.replid in facts.history:
                document["lag_bytes"] = max(0, facts.offset - position.offset)
        return document

    def _site_fields(self) -> dict[str, object]:
        parts = self._parts
        return {
            "source": parts.source.kind,
            "attached_at": parts.attached_at,
            "position": None if parts.following.position is None else str(parts.following.position),
            "acknowledged": parts.outbound.acknowledged,
            "full_syncs": parts.following.full_syncs,
            "partial_syncs": parts.following.partial_syncs,
        }

    def _push_fields(self) -> dict[str, object]:
        outbound = self._parts.outbound
        oldest = round(time.monotonic() - self._marks[0][0], 1) if self._marks and outbound.waiting else None
        return {
            "waiting_keys": outbound.waiting,
            "waiting_bytes": outbound.pending.bytes + outbound.doubtful.bytes,
            "oldest_s": oldest,
            "pushed": outbound.counters.pushed,
            "push_failures": outbound.counters.failed,
            "requests": outbound.counters.requests,
            "echoes_local": outbound.counters.echoes,
        }

    def _pull_fields(self) -> dict[str, object]:
        pull = self._parts.pull
        if pull is None:
            return {}
        counters = pull.inbound.counters
        subscriptions = [
            {
                "namespace": printable(prefix),
                "way": self._parts.ways.way,
                "live": subscription.live,
                "round_trip_s": subscription.round_trip,
                "made": subscription.subscriptions,
            }
            for prefix, subscription in zip(self._parts.namespaces, pull.subscriptions, strict=True)
        ]
        names = counters.__slots__
        fields = pull.inbound.outstanding() | {name: getattr(counters, name) for name in names}
        return fields | {"conflicts_resolved": self._parts.core.conflicts, "subscriptions": subscriptions}

    def _problems(self) -> Iterator[str]:
        """What is wrong at this moment, a sentence each."""
        parts = self._parts
        if parts.attached_at is None:
            yield "the site's Redis is not followed"
        if parts.sweep.held:
            yield f"sweep: {parts.sweep.held} removals are held, more than --max-removals lets a comparison follow"
        for name, trouble in self._troubles():
            if trouble.last_error is not None:
                yield f"{name}: {trouble.last_error}"
        for prefix, subscription in zip(parts.namespaces, parts.pull.subscriptions if parts.pull else (), strict=False):
            if not subscription.live and subscription.trouble.last_error is None:
                yield f"subscribe: no message came back yet through the hub for {printable(prefix)}"

    def _troubles(self) -> Iterator[tuple[str, Trouble]]:
        parts = self._parts
        yield "stream", parts.following.trouble
        yield "notice", parts.noticing.trouble
        yield "history", parts.judging.trouble
        yield "store", parts.saving.trouble
        yield "push", parts.pushing.trouble
        yield "sweep", parts.sweep.trouble
        if parts.pull is not None:
            yield "fetch", parts.pull.applying.fetch_trouble
            yield "apply", parts.pull.applying.apply_trouble
            for subscription in parts.pull.subscriptions:
                yield "subscribe", subscription.trouble

    def _certificate_end(self) -> str | None:
        file = self._parts.certificates.cert
        try:
            if file is None:
                return None
            return x509.load_pem_x509_certificates(read_file(file, "--cert"))[0].not_valid_after_utc.isoformat()
        except (RedisreplError, ValueError):
            return None  # the file was taken away since; what was read of it stays in use
