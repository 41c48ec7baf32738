"""The state of a daemon, for people and for `redisrepl status`.

In: the daemon's parts. Out: one document of numbers and texts, never with values of keys. Left to others: serving it
(`daemon`, `observe.socket`) and how it looks (`subcommands.status`).
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator

import structlog

from redisrepl import __version__
from redisrepl.local.address import SiteAddress
from redisrepl.local.info import ask_info
from redisrepl.memory import resident
from redisrepl.namespaces import Namespaces, printable
from redisrepl.observe.failures import FailureLog
from redisrepl.observe.remedies import remedy
from redisrepl.observe.words import count
from redisrepl.parts import Parts
from redisrepl.tls.certificates import CertificateWatch

__all__ = ["DaemonState", "say_started"]

_log = structlog.get_logger("redisrepl")

#: Seconds within which the site must report its offset.
_PATIENCE = 1.0
#: How many (time, offset) marks of the stream are kept to compute the lag. Only the oldest one is used, so a change
#: beyond them only gets a later mark than it should.
_MARKS = 1000


def say_started(address: SiteAddress, hub: str, namespaces: Namespaces, *, pull: bool) -> None:
    """Log which site and hub the daemon replicates, and warn about settings that are seldom intended."""
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


class DaemonState:
    """Reads the state of a daemon from its parts.

    Args:
        parts: of the daemon.
        address: of the site.
        certificates: of the links.
    """

    def __init__(self, parts: Parts, address: SiteAddress, certificates: CertificateWatch) -> None:
        self._parts = parts
        self._address = address
        self._certificates = certificates
        self._others: list[tuple[str, FailureLog]] = []
        self._began = False  # the daemon was attached and subscribed once
        self._started_at = time.time()
        self._marks: deque[tuple[float, int]] = deque()  # when the site was read up to which point; see `tick`
        self._by_offset = True

    def tick(self, now: float) -> None:
        """Remember how far the site was read, to compute the lag.

        By offsets of its stream; where there is none, as with `--source notify`, by how many changes have to be
        answered until all that wait now have been.

        Args:
            now: seconds that never go backwards.
        """
        outbound, position = self._parts.outbound, self._parts.stream.position
        if position is not None:
            arrived, read = outbound.acknowledged, position.offset
        else:
            arrived = outbound.counters.answered
            read = arrived + outbound.waiting
        if self._by_offset != (position is not None) or not outbound.waiting:
            self._marks.clear()
            self._by_offset = position is not None
        while self._marks and self._marks[0][1] <= arrived:
            self._marks.popleft()
        newest = self._marks[-1][1] if self._marks else arrived
        if read > newest and len(self._marks) < _MARKS:
            self._marks.append((now, read))

    def document(self) -> dict[str, object]:
        """The state as far as it is known without asking a server."""
        parts = self._parts
        starting, problems = self._starting(), list(self._problems())
        self._began = self._began or not starting
        state = "not well" if problems else "starting" if starting else "well"
        return {
            "state": state,
            "well": state == "well",
            "problems": problems,
            "doing": starting,
            "troubles": [_failure_fields(name, t) for name, t in self._failure_logs() if t.last_error is not None],
            "failures": self._failures(),
            "site": str(self._address),
            "hub": parts.hub.url,
            "namespaces": [printable(prefix) for prefix in parts.namespaces],
            "direction": "both" if parts.pull else "push",
            **self._site_fields(),
            **self._push_fields(),
            **self._pull_fields(),
            "sweep": parts.sweep.last
            | {"runs": parts.sweep.runs, "running": parts.sweep.running, "owed": parts.sweep.owed}
            | {"next_at": parts.sweep.next_at, "removals_held": parts.sweep.held}
            | {"settled": parts.core.continuity.site.settled and parts.core.continuity.hub.settled},
            "scripts": parts.pusher.scripts.allowed,
            "max_body": parts.pusher.max_body,
            "flights": parts.pacer.out,
            "flights_limit": parts.pacer.limit,
            "hub_clock_ahead_s": parts.judging.hub_clock_ahead,
            **self._certificates.document(),
            "memory_bytes": resident(),
            "version": __version__,
            "pid": os.getpid(),
            "started_at": round(self._started_at, 3),
            "asked_at": round(time.time(), 3),
        }

    async def full_document(self) -> dict[str, object]:
        """The same with the lag in bytes, which takes a request to the site."""
        following, facts = self._parts.stream, None
        if following.position is not None and self._parts.attached_at is not None:
            facts = await ask_info(self._address, _PATIENCE)
        document, position = self.document(), following.position
        document["lag_bytes"] = document["unread_bytes"] = None
        if facts is not None and position is not None and facts.offset is not None and position.replid in facts.history:
            # Compare with the offset read, not with the saved position: that one lags behind the site's own pings.
            unread = max(0, facts.offset - self._parts.core.following.read_to)
            document |= {"unread_bytes": unread, "lag_bytes": unread + self._waiting_bytes()}
        return document

    def watch(self, name: str, failure_log: FailureLog) -> None:
        """Report this failure log too."""
        self._others.append((name, failure_log))

    @property
    def ready(self) -> bool:
        """Whether the daemon was attached and subscribed at least once."""
        self._began = self._began or self._starting() is None
        return self._began

    def line(self) -> str:
        """The state in one line, for the service manager."""
        document = self.document()
        if problems := [str(problem) for problem in self._problems()]:
            return f"not well: {problems[0]}"
        if document["doing"]:
            return f"starting: {document['doing']}"
        return f"well: {document['waiting_keys']} keys wait for the hub"

    def lag(self) -> float | None:
        """Seconds that the oldest change has waited for the hub; 0 if none waits, None while the site is away."""
        if self._parts.attached_at is None:
            return None
        if not self._marks or not self._parts.outbound.waiting:
            return 0.0
        return time.monotonic() - self._marks[0][0]

    def _starting(self) -> str | None:
        """What a daemon that has just started is still waiting for; None once it was attached and subscribed."""
        parts = self._parts
        if self._began:
            return None
        if parts.attached_at is None:
            return "reading the site's snapshot" if parts.stream.full_syncs else "attaching to the site's Redis"
        if parts.pull is not None and not all(subscription.live for subscription in parts.pull.subscriptions):
            return "waiting for the hub's first message"
        return None

    def _site_fields(self) -> dict[str, object]:
        parts = self._parts
        return {
            "source": parts.source.kind,
            "attached_at": parts.attached_at,
            "position": None if parts.stream.position is None else str(parts.stream.position),
            "acknowledged": parts.outbound.acknowledged,
            "full_syncs": parts.stream.full_syncs,
            "partial_syncs": parts.stream.partial_syncs,
        }

    def _waiting_bytes(self) -> int:
        return self._parts.outbound.pending.bytes + self._parts.outbound.doubtful.bytes

    def _push_fields(self) -> dict[str, object]:
        outbound = self._parts.outbound
        oldest = round(time.monotonic() - self._marks[0][0], 1) if self._marks and outbound.waiting else None
        return {
            "waiting_keys": outbound.waiting,
            "waiting_bytes": self._waiting_bytes(),
            "oldest_s": oldest,
            "pushed": outbound.counters.pushed,
            "push_failures": outbound.counters.failed,
            "refused_keys": sum(map(len, self._parts.core.refusals)),
            "requests": outbound.counters.requests,
            "echoes_local": outbound.counters.echoes,
            "not_replicated": dict(outbound.decoder.unreplicated),
        }

    def _pull_fields(self) -> dict[str, object]:
        pull = self._parts.pull
        if pull is None:
            return {}
        counters = pull.inbound.counters
        subscriptions = [
            {
                "namespace": printable(prefix),
                "channel": self._parts.hub.event_channel,
                "live": subscription.live,
                "round_trip_s": subscription.round_trip,
                "made": subscription.subscriptions,
            }
            for prefix, subscription in zip(self._parts.namespaces, pull.subscriptions, strict=True)
        ]
        names = counters.__slots__
        fields = pull.inbound.outstanding() | {name: getattr(counters, name) for name in names}
        return fields | {"conflicts_resolved": self._parts.core.losers.count, "subscriptions": subscriptions}

    def _problems(self) -> Iterator[str]:
        """What is wrong now, one sentence each."""
        parts = self._parts
        if parts.attached_at is None and (self._began or parts.stream.failure_log.last_error is not None):
            yield "the site's Redis is not followed"
        if refused := sum(map(len, parts.core.refusals)):
            yield f"{count(refused, 'key')} refused by a server: the log names them (push.refused, apply.refused)"
        if parts.sweep.held:
            yield f"sweep: {parts.sweep.held} removals are held, more than --max-removals lets a comparison follow"
        for name, failure_log in self._failure_logs():
            if failure_log.last_error is not None:
                yield f"{name}: {failure_log.last_error}"
        for prefix, subscription in zip(parts.namespaces, parts.pull.subscriptions if parts.pull else (), strict=False):
            if self._began and not subscription.live and subscription.failure_log.last_error is None:
                yield f"subscribe: no message came back yet through the hub for {printable(prefix)}"
        yield from self._certificates.problems()

    def _failures(self) -> dict[str, int]:
        failures: dict[str, int] = {}
        for name, failure_log in self._failure_logs():
            failures[name] = failures.get(name, 0) + failure_log.total
        return failures

    def _failure_logs(self) -> Iterator[tuple[str, FailureLog]]:
        parts = self._parts
        yield "stream", parts.stream.failure_log
        yield "notice", parts.keyspace.failure_log
        yield "history", parts.judging.failure_log
        yield "store", parts.saving.failure_log
        yield "push", parts.pushing.failure_log
        yield "sweep", parts.sweep.failure_log
        for failure_log in self._certificates.failure_logs:
            yield "certificate", failure_log
        yield from self._others
        if parts.pull is not None:
            yield "fetch", parts.pull.applying.fetch_failures
            yield "apply", parts.pull.applying.apply_failures
            for subscription in parts.pull.subscriptions:
                yield "subscribe", subscription.failure_log


def _failure_fields(name: str, failure_log: FailureLog) -> dict[str, object]:
    return {
        "what": name,
        "error": failure_log.last_error,
        "failures": failure_log.failures,
        "for_s": round(failure_log.duration, 1),
        "remedy": remedy(f"{name}.failed", failure_log.last_error or ""),
    }
