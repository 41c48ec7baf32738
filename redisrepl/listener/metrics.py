"""Metrics for Prometheus, from the same document that `status` shows.

In: a document. Out: the text of /metrics, in the requested format. Left to others: the numbers (`observe.state`).

Names follow Prometheus' rules: base units, and `_total` for counters. No label holds a key.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, StateSetMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import CollectorRegistry

__all__ = ["COUNTERS", "GAUGES", "Metrics"]

#: Counters: name without `_total`, field of the document, help text.
COUNTERS = (
    ("redisrepl_pushed_changes", "pushed", "Changes of the site that the hub has acknowledged."),
    (
        "redisrepl_push_refused",
        "push_failures",
        "Changes of the site that the hub refused; the log names them, and they are tried again.",
    ),
    ("redisrepl_push_requests", "requests", "Requests with changes that were sent to the hub."),
    ("redisrepl_hub_events", "events", "Keyspace events of the namespaces that the hub sent."),
    (
        "redisrepl_fed_changes",
        "fed",
        "Changes that other redisrepl sites sent with their push, applied without a fetch.",
    ),
    ("redisrepl_fetched_keys", "fetched", "Keys that were read from the hub."),
    ("redisrepl_applied_changes", "applied", "Changes of the hub that were written to the site."),
    ("redisrepl_apply_refused", "failed", "Changes of the hub that the site refused; likewise."),
    (
        "redisrepl_conflicts",
        "conflicts",
        "Keys that a client wrote at the site while a change of the hub was under way.",
    ),
    (
        "redisrepl_conflicts_resolved",
        "conflicts_resolved",
        "Values that lost a conflict with the other side; `redisrepl conflicts` lists them.",
    ),
    (
        "redisrepl_full_syncs",
        "full_syncs",
        "Snapshots that the site sent: at first contact, or when its backlog was too small.",
    ),
    ("redisrepl_partial_syncs", "partial_syncs", "Times that the site's stream continued where it was."),
)

#: Gauges: name, field of the document, help text.
GAUGES = (
    ("redisrepl_waiting_keys", "waiting_keys", "Keys that wait for the hub."),
    ("redisrepl_waiting_bytes", "waiting_bytes", "Memory that waiting changes take."),
    ("redisrepl_refused_keys", "refused_keys", "Keys that the hub or the site refuses now; the log names them."),
    ("redisrepl_unread_bytes", "unread_bytes", "Bytes of the site's stream that we have not read yet."),
    (
        "redisrepl_lag_bytes",
        "lag_bytes",
        "Bytes of the site's stream that we have not read yet, and those that wait for the hub.",
    ),
    ("redisrepl_push_flights", "flights", "Requests with changes that have no answer yet."),
    ("redisrepl_start_timestamp_seconds", "started_at", "When the daemon was started, in Unix time."),
)

_SWEEP = (
    ("redisrepl_sweep_compared_keys", "compared", "Keys that the last comparison looked at, on each side."),
    ("redisrepl_sweep_different_keys", "different", "Keys that differed in the last comparison, and were made equal."),
    ("redisrepl_sweep_duration_seconds", "duration_s", "How long the last comparison took."),
    ("redisrepl_sweep_removals_held", "removals_held", "Removals that wait for a person; see --max-removals."),
    ("redisrepl_sweep_timestamp_seconds", "finished_at", "When the last comparison ended, in Unix time."),
)

_STATES = ("starting", "well", "not well")
_CERTIFICATES = (
    ("certificate_expires_at", "hub", "client"),
    ("hub_certificate_expires_at", "hub", "server"),
    ("site_client_certificate_expires_at", "site", "client"),
    ("site_certificate_expires_at", "site", "server"),
    ("listen_certificate_expires_at", "listener", "server"),
)

_Document = dict[str, Any]


@dataclass(slots=True)
class _Families:
    """One document as metric families; prometheus-client's encoders call `collect`."""

    document: _Document
    lag: float | None
    process: ProcessCollector

    def collect(self) -> Iterator[Metric]:
        """All metric families."""
        document = self.document
        yield from self._about()
        if self.lag is not None:
            text = "How long the oldest change has waited for the hub; absent while the site is away."
            yield GaugeMetricFamily("redisrepl_lag_seconds", text, self.lag)
        for name, place, text in COUNTERS:
            if document.get(place) is not None:
                yield CounterMetricFamily(name, text, document[place])
        for name, place, text in GAUGES:
            if document.get(place) is not None:
                yield GaugeMetricFamily(name, text, document[place])
        yield from self._troubles()
        yield from self._not_replicated()
        yield from self._subscriptions()
        yield from self._sweeps()
        yield from self._certificates()
        yield from self.process.collect()

    def _about(self) -> Iterator[Metric]:
        document = self.document
        text = "The daemon, always 1: its version, the Python that runs it, and which way it replicates."
        build = GaugeMetricFamily("redisrepl_build_info", text, labels=("version", "python", "direction", "source"))
        labels = (document["version"], platform.python_version(), document["direction"], document["source"])
        build.add_metric(labels, 1)
        yield build
        state = StateSetMetricFamily("redisrepl_state", "The state of the daemon: one of these is 1.")
        state.add_metric((), {name: document["state"] == name for name in _STATES})
        yield state
        yield GaugeMetricFamily(
            "redisrepl_well", "1 if nothing is wrong, as `redisrepl status` says.", document["well"]
        )
        attached = document.get("attached_at") is not None
        yield GaugeMetricFamily("redisrepl_site_attached", "1 if the site's writes are followed.", attached)

    def _troubles(self) -> Iterator[Metric]:
        failures = CounterMetricFamily(
            "redisrepl_failures", "Failures since the start, by what failed; redisrepl retries each.", labels=("what",)
        )
        failing = GaugeMetricFamily("redisrepl_failing", "1 while it fails, by what fails.", labels=("what",))
        now = {trouble["what"] for trouble in self.document.get("troubles", ())}
        for what, count in self.document.get("failures", {}).items():
            failures.add_metric((what,), count)
            failing.add_metric((what,), what in now)
        yield failures
        yield failing

    def _not_replicated(self) -> Iterator[Metric]:
        text = "Writes of the site that are not replicated, by command, or by type of the key."
        family = CounterMetricFamily("redisrepl_not_replicated", text, labels=("what",))
        for what, count in self.document.get("not_replicated", {}).items():
            family.add_metric((what,), count)
        yield family

    def _subscriptions(self) -> Iterator[Metric]:
        subscriptions = self.document.get("subscriptions")
        if subscriptions is None:
            return
        label = ("namespace",)
        live = GaugeMetricFamily(
            "redisrepl_subscription_live", "1 if our last test message came back through the hub.", labels=label
        )
        trip = GaugeMetricFamily(
            "redisrepl_round_trip_seconds", "How long our last test message took through the hub.", labels=label
        )
        made = CounterMetricFamily("redisrepl_subscriptions", "Subscriptions that were made at the hub.", labels=label)
        for subscription in subscriptions:
            labels = (subscription["namespace"],)
            live.add_metric(labels, subscription["live"])
            if subscription["round_trip_s"] is not None:
                trip.add_metric(labels, subscription["round_trip_s"])
            made.add_metric(labels, subscription["made"])
        yield from (live, trip, made)

    def _sweeps(self) -> Iterator[Metric]:
        sweep = self.document.get("sweep") or {}
        if "runs" in sweep:
            yield CounterMetricFamily(
                "redisrepl_sweeps", "Comparisons of both sides that were finished.", sweep["runs"]
            )
            running, owed = sweep.get("running") is not None, sweep.get("owed") is not None
            yield GaugeMetricFamily("redisrepl_sweep_running", "1 while both sides are compared.", running)
            yield GaugeMetricFamily("redisrepl_sweep_owed", "1 while a comparison is due.", owed)
        for name, place, text in _SWEEP:
            if sweep.get(place) is not None:
                yield GaugeMetricFamily(name, text, sweep[place])

    def _certificates(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "redisrepl_certificate_expiry_timestamp_seconds",
            "When a certificate ends, in Unix time: ours (client) and that of the other side (server), by link.",
            labels=("link", "role"),
        )
        for place, link, role in _CERTIFICATES:
            if (end := self.document.get(place)) is not None:
                family.add_metric((link, role), datetime.fromisoformat(end).timestamp())
        yield family


class Metrics:
    """Produces the text of /metrics."""

    def __init__(self) -> None:
        self._process = ProcessCollector(registry=CollectorRegistry(auto_describe=False))

    def text(self, document: _Document, lag: float | None, accept: str = "") -> tuple[bytes, str]:
        """The text, and its content type.

        Args:
            document: the daemon's state.
            lag: seconds that the oldest change has waited; None if unknown.
            accept: the `Accept` header of the request; one that cannot be understood counts as none.
        """
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it compares each part of a version with a number, whatever the part is
            encode, content_type = choose_encoder("")
        return encode(_Families(document, lag, self._process)), content_type
