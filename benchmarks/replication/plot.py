"""Rates by contender and distance, and what a write costs, as one SVG file.

In: an `Outcome`. Out: a file that reads well on white and on black. Left to others: where it is shown (`report`).
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.replication.outcome import Outcome, Rate

__all__ = ["draw"]

_GREY = "#808890"  # on white and on black alike
_COLOURS = ("#8c8c8c", "#3b82c4", "#2fa87a", "#d98a29", "#b5598f", "#7a6fd0", "#c0504d")


def draw(outcome: Outcome, file: Path) -> None:
    greys = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    style = dict.fromkeys(greys, _GREY) | {"svg.hashsalt": "redisrepl", "font.size": 9, "svg.fonttype": "none"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(10, 4), layout="constrained")
        rates, curve = figure.subplots(1, 2)
        _rates(rates, outcome.rates)
        _curve(curve, outcome)
        for axes in (rates, curve):
            axes.set_facecolor("none")
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
        figure.savefig(file, transparent=True, metadata={"Date": None})


def _rates(axes, rates: list[Rate]) -> None:
    """A group of bars for each place, a bar for each contender and way; whiskers from the least to the most."""
    series = list(dict.fromkeys((rate.contender, rate.way) for rate in rates))
    places = list(dict.fromkeys(rate.place for rate in rates))
    width = 0.8 / max(1, len(series))
    for n, (contender, way) in enumerate(series):
        found = {rate.place: rate.samples for rate in rates if (rate.contender, rate.way) == (contender, way)}
        where = [places.index(place) + (n - (len(series) - 1) / 2) * width for place in found]
        medians = [samples.median for samples in found.values()]
        spread = [
            [samples.median - min(samples.values) for samples in found.values()],
            [max(samples.values) - samples.median for samples in found.values()],
        ]
        label = contender if way == "replica" else f"{contender} {way}"
        axes.bar(where, medians, width, label=label, color=_COLOURS[n % len(_COLOURS)], yerr=spread, ecolor=_GREY)
    axes.set_yscale("log")
    least = min((min(rate.samples.values) for rate in rates), default=1.0)
    axes.set_ylim(bottom=10 ** math.floor(math.log10(max(least, 1.0))))
    axes.set_xticks(range(len(places)), [place if place == "loopback" else f"{place}\nby proxy" for place in places])
    axes.set_title("keys a second")
    axes.grid(axis="y", alpha=0.4)
    if series:
        axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.15), ncols=3)


def _curve(axes, outcome: Outcome) -> None:
    for n, curve in enumerate(outcome.curves):
        axes.plot(*zip(*curve.points, strict=True), marker="o", label=curve.contender, color=_COLOURS[1 + 2 * n])
    axes.set(xscale="log", yscale="log", xlabel="writes a second")
    axes.set_title("the daemon's CPU seconds per million pushed writes")
    axes.grid(alpha=0.4)
    if outcome.curves:
        axes.legend(frameon=False, fontsize=7)
