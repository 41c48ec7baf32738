"""Logs that outlive their servers, for a run that may have to be explained afterwards.

In: the directory of a server that goes away, or texts. Out: copies below the directory that `TESTBED_KEEP` names.
Left to others: removing them where all went well (`matrix`).
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

__all__ = ["keep"]

_numbers = itertools.count(1)
_KEPT = {".log", ".conf", ".json", ".cfg"}


def keep(name: str, what: Path | Mapping[str, str]) -> None:
    """Keep logs and configuration of one server, if they are wanted; its data are not kept."""
    wanted = os.environ.get("TESTBED_KEEP")
    if not wanted:
        return
    place = Path(wanted) / f"{os.getpid()}-{next(_numbers):03}-{name}"
    place.mkdir(parents=True)
    if isinstance(what, Path):
        for path in what.iterdir():
            if path.suffix in _KEPT:
                shutil.copy(path, place)
        return
    for file, text in what.items():
        (place / file).write_text(text)
