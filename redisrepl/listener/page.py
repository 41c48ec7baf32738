"""Renders the status page: one HTML file with style and script, and sections that are sent again when they change.

In: the document of `status`, an hour of numbers, the last warnings. Out: HTML. Left to others: serving it
(`listener.server`), plots and the drawing of the links (`listener.drawing`).

The page works without script. With script, changed sections replace the old ones.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from typing import Any

from redisrepl.listener.drawing import links, plot
from redisrepl.observe.history import History
from redisrepl.observe.words import count, span

__all__ = ["StatusPage"]

_Document = dict[str, Any]

_STATES = {
    "well": ("well", "\N{CHECK MARK}", "Well"),
    "starting": ("starting", "\N{HORIZONTAL ELLIPSIS}", "Starting"),
    "not well": ("bad", "\N{BALLOT X}", "Not well"),
}
_CERTIFICATES = (
    ("certificate_expires_at", "ours, for the hub"),
    ("hub_certificate_expires_at", "the hub's"),
    ("site_client_certificate_expires_at", "ours, for the site"),
    ("site_certificate_expires_at", "the site's"),
    ("listen_certificate_expires_at", "this page's"),
)
#: Days before a certificate expires from which it is marked, and from which it counts as a problem.
_SOON, _NOW = 30, 7


class StatusPage:
    """Renders the page and its sections.

    Attributes:
        policy: the `Content-Security-Policy`: the page's own style, script and events only.
    """

    def __init__(self) -> None:
        self._frame = (files("redisrepl.listener") / "page.html").read_text("utf-8")
        style, script = (re.search(rf"<{tag}>(.*?)</{tag}>", self._frame, re.DOTALL) for tag in ("style", "script"))
        self.policy = (
            f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src 'self';"
            " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def whole(self, sections: dict[str, str]) -> bytes:
        """The page with all its sections."""
        return re.sub(r"<!--(\w+)-->", lambda match: sections[match[1]], self._frame).encode()

    def sections(
        self,
        document: _Document,
        lag: float | None,
        history: History,
        warnings: list[dict[str, object]],
        now: float,
    ) -> dict[str, str]:
        """The sections, by name.

        Args:
            document: the daemon's state.
            lag: seconds that the oldest change has waited; None if unknown.
            history: the last hour.
            warnings: the last log lines of level warning and above, newest first.
            now: Unix time.
        """
        return {
            "headline": _headline(document),
            "troubles": _troubles(document),
            "drawing": links(document, history, now),
            "numbers": _numbers(document, lag, history),
            "replication": _replication(document, now),
            "certificates": _certificates(document, now),
            "recent": _recent(warnings, now),
            "about": _about(document, now),
        }


def _hash(found: re.Match[str] | None) -> str:
    content = found[1] if found is not None else ""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _headline(document: _Document) -> str:
    kind, sign, name = _STATES[document["state"]]
    namespaces = ", ".join(document["namespaces"])
    match document["state"]:
        case "well":
            said = "The site and the hub are connected, and nothing is wrong."
        case "starting":
            said = f"Nothing is wrong. It is {document['doing']}."
        case _:
            wrong = len(document["problems"])
            said = f"{wrong} things are wrong at this moment." if wrong > 1 else "One thing is wrong at this moment."
    return (
        f"<h1>redisrepl <span class='soft'>{escape(namespaces)}</span></h1>"
        f"<span class='state {kind}'><span aria-hidden='true'>{sign}</span> {name}</span><p>{escape(said)}</p>"
    )


def _troubles(document: _Document) -> str:
    """Current failures, each with its remedy."""
    remedies = {f"{trouble['what']}: {trouble['error']}": trouble for trouble in document.get("troubles", ())}
    items = []
    for problem in document["problems"]:
        trouble = remedies.get(problem)
        lines = [f"<p><b>{escape(problem)}</b></p>"]
        if trouble is not None:
            if trouble["remedy"]:
                lines.append(f"<p>{escape(trouble['remedy'])}</p>")
            tries = count(trouble["failures"], "failure")
            lines.append(f"<p class='soft'>for {span(trouble['for_s'])}, {tries}</p>")
        items.append(f"<li>{''.join(lines)}</li>")
    if not items:
        return ""
    return f"<div class='card'><h2>What is wrong</h2><ul class='troubles'>{''.join(items)}</ul></div>"


def _numbers(document: _Document, lag: float | None, history: History) -> str:
    cards = []
    unread = document.get("unread_bytes")
    beside = "how long the oldest change waits"
    if lag is None:
        beside = "not attached yet" if document["state"] == "starting" else "the site is away"
    if unread:
        beside += f"; {count(unread, 'byte')} to read"
    shown = "unknown" if lag is None else "under 1 s" if lag < 1 else span(lag)
    cards.append(_card("Lag", shown, beside, plot("Lag", history.points("lag_s"), "s")))
    waiting = f"{document['waiting_keys']:,}"
    inward = document.get("dirty_keys")
    beside = f"{count(document['waiting_bytes'], 'byte')} for the hub"
    if inward:
        beside += f"; {count(inward, 'key')} to fetch from it"
    cards.append(_card("Waiting keys", waiting, beside, plot("Waiting keys", history.points("waiting_keys"), "keys")))
    for title, name, total in (
        ("Pushed to the hub", "pushed_per_s", "pushed"),
        ("Applied to the site", "applied_per_s", "applied"),
    ):
        if total not in document:
            cards.append(_card(title, "off", "without -rc nothing comes from the hub", ""))
            continue
        points = history.points(name)
        shown = _rate(points[-1]) if points else "\N{EN DASH}"
        curve = plot(title, points, "a second")
        cards.append(_card(title, shown, f"{count(document[total], 'change')} since the start", curve))
    return "".join(cards)


def _rate(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f}/s" if value >= 10 or value == 0 else f"{value:.1f}/s"  # noqa: PLR2004 - a matter of looks


def _card(title: str, number: str, beside: str, curve: str) -> str:
    return (
        f"<div class='card'><h2>{escape(title)}</h2><div class='number'>{escape(number)}</div>"
        f"<div class='soft'>{escape(beside)}</div>{curve}</div>"
    )


def _replication(document: _Document, now: float) -> str:
    return "<h2 id='replication-title'>Replication</h2>" + _list(_replication_rows(document, now))


def _replication_rows(document: _Document, now: float) -> Iterator[tuple[str, ...]]:
    yield "Direction", "both ways" if document["direction"] == "both" else "from the site to the hub"
    for subscription in document.get("subscriptions", ()):
        trip = subscription["round_trip_s"]
        alive = "live" if subscription["live"] else "no sign of life"
        channel = "" if subscription["channel"] is None else f", by {subscription['channel']}"
        said = f"{alive}{channel}" + ("" if trip is None else f", round trip {trip * 1000:.1f} ms")
        yield f"Events of {subscription['namespace']}", said
    refused, so_far = document["refused_keys"], document["push_failures"] + document.get("failed", 0)
    said = count(refused, "key") + (": the log names them" if refused else "")
    yield "Refused now", said + (f"; {count(so_far, 'change')} since the start" if so_far else ""), _mark(refused)
    if "conflicts" in document:
        conflicts, resolved = document["conflicts"], document["conflicts_resolved"]
        yield "Conflicts", f"{count(conflicts, 'key')} written on both sides at once", _mark(conflicts)
        if resolved:
            said = f"{count(resolved, 'value')} lost to the other side's: `redisrepl conflicts` lists them"
            yield "Conflicts decided", said, _mark(resolved)
    yield "Last comparison", _sweep(document["sweep"], now)
    yield "Links made", f"{document['partial_syncs']:,} went on, {document['full_syncs']:,} began with a snapshot"
    if not document["scripts"]:
        yield "Scripts", "refused by the hub: each write is a request"


def _mark(number: int) -> str:
    """The CSS class for a number that should be 0."""
    return "starting" if number else ""


def _sweep(sweep: _Document, now: float) -> str:
    parts = []
    if "finished_at" in sweep:
        parts.append(
            f"{span(now - sweep['finished_at'])} ago: {count(sweep['compared'], 'key')} compared,"
            f" {sweep['different']:,} different"
        )
    if held := sweep.get("removals_held"):
        parts.append(f"{count(held, 'removal')} held back: `verify --repair --removals` makes them, the daemon stopped")
    if sweep.get("running") is not None:
        parts.append("one is under way")
    if sweep.get("owed") is not None:
        parts.append(f"one is due ({sweep['owed']})")
    if sweep.get("next_at") is not None:
        parts.append(f"next in {span(sweep['next_at'] - now)}")
    return "; ".join(parts) or "none yet"


def _certificates(document: _Document, now: float) -> str:
    rows = []
    for place, name in _CERTIFICATES:
        if (end_text := document.get(place)) is None:
            continue
        end = datetime.fromisoformat(end_text)
        days = (end.timestamp() - now) / 86400
        kind = "bad" if days < _NOW else "starting" if days < _SOON else ""
        left = f"expired on {end:%Y-%m-%d}" if days <= 0 else f"{count(int(days), 'day')} left, until {end:%Y-%m-%d}"
        rows.append((name, left, kind))
    return "<h2 id='certificates-title'>Certificates</h2>" + (
        _list(rows) if rows else "<p class='soft'>None was seen yet.</p>"
    )


def _recent(warnings: list[dict[str, object]], now: float) -> str:
    title = "<h2 id='recent-title'>Last warnings</h2>"
    if not warnings:
        return title + "<p class='soft'>None since the start.</p>"
    items = []
    for line in warnings:
        at = float(str(line["at"]))
        when = f"{span(now - at)} ago" + (f", {line['times']} times" if line["times"] != 1 else "")
        if "over_at" in line:
            when += ", over"
        stamp = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        text = f": {line['text']}" if line["text"] else ""
        said = f"<p><b>{escape(str(line['event']))}</b>{escape(text)}</p>"
        if line["remedy"]:
            said += f"<p>{escape(str(line['remedy']))}</p>"
        items.append(f"<li>{said}<p class='soft'><time title='{stamp}'>{escape(when)}</time></p></li>")
    return f"{title}<ul class='troubles past'>{''.join(items)}</ul>"


def _about(document: _Document, now: float) -> str:
    started = datetime.fromtimestamp(document["started_at"], UTC)
    memory = document["memory_bytes"] >> 20
    return (
        f"Version {escape(document['version'])}, process {document['pid']}, {memory} MB, running"
        f" for {span(now - document['started_at'])}, since {started:%Y-%m-%d %H:%M} UTC."
        " For machines: <a href='metrics'>metrics</a>, <a href='status.json'>status.json</a>."
    )


def _list(rows: Iterable[tuple[str, ...]]) -> str:
    items = []
    for name, text, *kind in rows:
        mark = f" class='{kind[0]}'" if kind and kind[0] else ""
        items.append(f"<dt>{escape(name)}</dt><dd{mark}>{escape(text)}</dd>")
    return f"<dl>{''.join(items)}</dl>"
