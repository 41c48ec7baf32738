"""What a scenario hands over: goals with their verdicts, tables, and what the plot is made of.

In: samples. Out: values that print themselves. Left to others: where they are printed (`report`, `plot`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Curve", "Goal", "Outcome", "Rate", "Samples", "Table", "at_least", "at_most", "short"]


@dataclass(frozen=True)
class Samples:
    """Repeated measurements of one thing; the median speaks for them."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return short(self.median)
        return f"{short(self.median)} ({short(min(self.values))} to {short(max(self.values))})"


def short(value: float) -> str:
    """Three digits that mean something, and whole numbers as they are."""
    if value == int(value) and abs(value) < 100:
        return f"{value:.0f}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


@dataclass(frozen=True)
class Goal:
    """One line of the goals: `measured` by contender; `met` says how the first of them did."""

    what: str
    wanted: str
    measured: dict[str, str]
    met: bool | None

    @property
    def verdict(self) -> str:
        return {True: "met", False: "NOT MET", None: ""}[self.met]


@dataclass(frozen=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Rate:
    """Keys a second of one contender, one way, at one distance."""

    contender: str
    way: str
    place: str
    samples: Samples


@dataclass(frozen=True)
class Curve:
    """CPU seconds per million writes of one contender, by writes a second."""

    contender: str
    points: Sequence[tuple[float, float]]


@dataclass
class Outcome:
    goals: list[Goal] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.goals += other.goals
        self.tables += other.tables
        self.rates += other.rates
        self.curves += other.curves


def at_least(what: str, limit: float, unit: str, measured: dict[str, Samples]) -> Goal:
    return _goal(what, f"at least {short(limit)} {unit}", measured, lambda value: value >= limit)


def at_most(what: str, limit: float, unit: str, measured: dict[str, Samples]) -> Goal:
    return _goal(what, f"at most {short(limit)} {unit}", measured, lambda value: value <= limit)


def _goal(what, wanted, measured, fulfils) -> Goal:
    first = next(iter(measured.values()), None)
    shown = {contender: str(samples) for contender, samples in measured.items()}
    return Goal(what, wanted, shown, fulfils(first.median) if first else None)
