"""Durations and counts in words.

In: numbers. Out: words. Left to others: where they are shown.
"""

__all__ = ["count", "span"]


def count(number: int, what: str) -> str:
    """A count with its noun, in the right number."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def span(seconds: float) -> str:
    """A duration in its largest unit."""
    whole = max(0, round(seconds))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
