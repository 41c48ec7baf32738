"""Opens a store, in a temporary directory if the default one cannot be used.

In: a directory, or none. Out: the store. Left to others: everything that it does (`store.store`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import structlog

from redisrepl.paths import default_directory
from redisrepl.store.directory import Pair, StateDirectoryError
from redisrepl.store.store import Store

__all__ = ["open_store"]

_log = structlog.get_logger("redisrepl")


def open_store(directory: Path | None, pair: Pair, **options: Any) -> Store:
    """The store of a pair in this directory or, if none is named, in the default one.

    If the default one cannot be used, the store is kept in a temporary directory, which the next start does not find.

    Args:
        directory: None: the default one.
        pair: site and hub that it belongs to.
        options: as for `Store`.

    Raises:
        StateDirectoryError: the directory that was named cannot be used, or no temporary one either.
        ConfigError: another daemon uses it for the same pair.
    """
    try:
        return Store(directory or default_directory(), pair, **options)
    except StateDirectoryError as error:
        if directory is not None:
            raise
        _log.warning("store.temporary", error=str(error), hint="each start compares everything: set --state-dir")
    return Store(Path(tempfile.mkdtemp(prefix="redisrepl-")), pair, **options)
