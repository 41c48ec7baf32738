"""Leaves out what libraries load only because it is installed.

In: names of modules. Out: imports that do not find them. Left to others: which imports those are (`cli`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without"]


@contextmanager
def without(*names: str) -> Iterator[None]:
    """What is imported inside of this context finds none of these modules, unless they are loaded already.

    structlog loads rich to print tracebacks, and httpx loads it with click for a command of its own. A daemon shows
    neither, and would hold 6 MB for them as long as it runs. Both do without where they are not installed.
    """
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # which makes the import fail, by the language's rules
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
