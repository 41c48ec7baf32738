"""Draws site, daemon and hub with their links, and small plots, as HTML with SVG.

In: the document of `status`, series of numbers. Out: HTML. Left to others: the rest of the page (`listener.page`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

from redisrepl.observe.history import PERIOD, History
from redisrepl.observe.words import count, span

__all__ = ["links", "plot"]

_Document = dict[str, Any]

_HEIGHT = 50
#: Widths of a plot in points: ten minutes while there are no more points, then an hour.
_SPANS = (60, 360)
_VERDICTS = {"well": "connected", "starting": "connecting", "bad": "broken"}
#: Failure logs of the link to the site, and of the link to the hub.
_SITE_TROUBLES = frozenset({"stream", "notice", "apply"})
_HUB_TROUBLES = frozenset({"push", "fetch", "subscribe"})


def links(document: _Document, history: History, now: float) -> str:
    """The drawing: a list of five items, so that a screen reader can read it out."""
    state = {"well": "well", "starting": "starting"}.get(document["state"], "bad")
    site, hub = _site_state(document), _hub_state(document)
    both = document["direction"] == "both"
    items = (
        _node("Site", _address(document["site"]), site),
        _link("Link to the site", site, _site_words(document, site, now), both=both),
        _node("redisrepl", escape(f"version {document['version']}"), state),
        _link("Link to the hub", hub, _hub_words(document, history), both=both),
        _node("Hub", _address(document["hub"]), hub),
    )
    return f"<ol>{''.join(items)}</ol>"


def _failing(document: _Document) -> set[str]:
    return {trouble["what"] for trouble in document.get("troubles", ())}


def _site_state(document: _Document) -> str:
    if _failing(document) & _SITE_TROUBLES:
        return "bad"
    if document["attached_at"] is None:
        return "starting" if document["state"] == "starting" else "bad"
    return "well"


def _hub_state(document: _Document) -> str:
    if _failing(document) & _HUB_TROUBLES:
        return "bad"
    if not all(subscription["live"] for subscription in document.get("subscriptions", ())):
        return "starting" if document["doing"] else "bad"
    return "well"


def _site_words(document: _Document, state: str, now: float) -> list[str]:
    source = str(document["source"])
    way = {"psync": "as a replica (PSYNC)", "notify": "by keyspace events"}.get(source, source)
    if document["attached_at"] is None:
        doing = document["doing"] if state == "starting" else None
        return [str(doing or "its writes are not seen")]
    return [way, f"for {span(now - document['attached_at'])}"]


def _hub_words(document: _Document, history: History) -> list[str]:
    words: list[str] = []
    trips = [
        s["round_trip_s"] for s in document.get("subscriptions", ()) if s["round_trip_s"] is not None and s["live"]
    ]
    if trips:
        words.append(f"round trip {max(trips) * 1000:.1f} ms")
    pushed = history.points("pushed_per_s")
    if pushed and pushed[-1]:
        words.append(f"{pushed[-1]:,.1f} changes/s out")
    applied = history.points("applied_per_s")
    if applied and applied[-1]:
        words.append(f"{applied[-1]:,.1f} changes/s in")
    if document["waiting_keys"]:
        words.append(f"{count(document['waiting_keys'], 'key')} waiting")
    return words or ["idle"]


def _node(name: str, where: str, state: str) -> str:
    return f"<li class='node is-{state}'><b>{escape(name)}</b><span class='soft'>{where}</span></li>"


def _address(url: object) -> str:
    """An address without its scheme, with marks where the line may break."""
    shown = escape(str(url).removeprefix("https://").removeprefix("redis://").rstrip("/"))
    return re.sub(r"([/@.])(?=.)|(?=:\d)", r"\1<wbr>", shown)


def _link(name: str, state: str, words: Sequence[str], *, both: bool) -> str:
    said = "".join(f"<span>{escape(word)}</span>" for word in words)
    return (
        f"<li class='link is-{state}' aria-label='{escape(name)}: {_VERDICTS[state]}, {escape(', '.join(words))}'>"
        f"{_wide(state, both=both)}{_tall(state, both=both)}"
        f"<span class='verdict'>{_VERDICTS[state]}</span>{said}</li>"
    )


def _wide(state: str, *, both: bool) -> str:
    """Horizontal arrows."""
    there, back = (10, 20) if both else (15, None)
    parts = [_arrow(state, f"M2 {there}H116", f"M110 {there - 5}l7 5l-7 5")]
    if back is not None:
        parts.append(_arrow(state, f"M118 {back}H4", f"M10 {back - 5}l-7 5l7 5"))
    if state == "bad":
        parts.append(_cross(60, 15))
    return f"<svg class='wide' viewBox='0 0 120 30' aria-hidden='true'>{''.join(parts)}</svg>"


def _tall(state: str, *, both: bool) -> str:
    """Vertical arrows, for narrow screens."""
    there, back = (21, 35) if both else (28, None)
    parts = [_arrow(state, f"M{there} 2V72", f"M{there - 5} 66l5 7l5 -7")]
    if back is not None:
        parts.append(_arrow(state, f"M{back} 74V4", f"M{back - 5} 10l5 -7l5 7"))
    if state == "bad":
        parts.append(_cross(28, 38))
    return f"<svg class='tall' viewBox='0 0 56 76' aria-hidden='true'>{''.join(parts)}</svg>"


def _arrow(state: str, line: str, head: str) -> str:
    dashes = "" if state == "well" else " stroke-dasharray='6 10'" if state == "starting" else " stroke-dasharray='3 5'"
    return (
        f"<path class='flow' d='{line}' fill='none' stroke='currentColor' stroke-width='2'{dashes}/>"
        f"<path d='{head}' fill='none' stroke='currentColor' stroke-width='2'/>"
    )


def _cross(x: int, y: int) -> str:
    return (
        f"<circle cx='{x}' cy='{y}' r='11' fill='var(--card)'/>"
        f"<path d='M{x - 6} {y - 6}l12 12m0 -12l-12 12' fill='none' stroke='currentColor' stroke-width='3'/>"
    )


def plot(name: str, points: Sequence[float | None], unit: str) -> str:
    """A curve of the last hour, and a sentence that says the same."""
    known = [value for value in points if value is not None]
    if not known:
        return "<p class='soft axis'>no numbers yet</p>"
    highest = max(known)
    width = next((width for width in _SPANS if len(points) <= width), _SPANS[-1])
    since = span(width * PERIOD)
    said = f"{name} in the last {since}: at most {_short(highest)} {unit}, now {_last(points)} {unit}"
    base = f"<path class='base' d='M0 {_HEIGHT}H{width}'/>"
    curves = "".join(_curve(run, highest) for run in _runs(points, width))
    return (
        f"<div class='axis top' aria-hidden='true'><span>at most {_short(highest)} {escape(unit)}</span></div>"
        f"<svg class='plot' viewBox='0 0 {width} {_HEIGHT}' preserveAspectRatio='none' role='img'"
        f" aria-label='{escape(said)}'>{base}{curves}</svg>"
        f"<div class='axis' aria-hidden='true'><span>{since} ago</span><span>now</span></div>"
    )


def _runs(points: Sequence[float | None], width: int) -> list[list[tuple[float, float]]]:
    """Runs of known points; the last point is at the right edge."""
    first = width - len(points)
    runs: list[list[tuple[float, float]]] = [[]]
    for x, value in enumerate(points, first + 1):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((x, value))
    return [run for run in runs if run]


def _curve(run: list[tuple[float, float]], highest: float) -> str:
    scale = (_HEIGHT - 2) / highest if highest else 0.0
    if len(run) == 1:
        run = [(run[0][0] - 1, run[0][1]), *run]
    line = "L".join(f"{x:g} {_HEIGHT - value * scale:.1f}" for x, value in run)
    area = f"M{run[0][0]:g} {_HEIGHT}L{line}L{run[-1][0]:g} {_HEIGHT}Z"
    return f"<path class='area' d='{area}'/><path class='curve' d='M{line}'/>"


def _last(points: Sequence[float | None]) -> str:
    return "unknown" if points[-1] is None else _short(points[-1])


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"  # noqa: PLR2004 - a matter of looks
