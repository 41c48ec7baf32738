"""Reads the checkpoint file of earlier versions, so that the first start with a journal continues from its position.

In: the file. Out: a state document. Left to others: saving it in the journal, and removing the file (`store.store`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from redisrepl.store.directory import Pair

__all__ = ["old_checkpoint"]

_FORMAT = 2


def old_checkpoint(path: Path, pair: Pair) -> dict[str, object] | None:
    """The state document in this file; None if it is missing, damaged or belongs to another pair."""
    try:
        saved = json.loads(path.read_bytes())
        checksum = saved.pop("checksum")
        whole = checksum == hashlib.sha256(json.dumps(saved, sort_keys=True).encode()).hexdigest()[:16]
        belongs_to = [saved[name] for name in ("format", "site", "hub", "scope")]
        if not whole or belongs_to != [_FORMAT, pair.site, pair.hub, pair.scope]:
            return None
        return {name: saved[name] for name in ("replid", "offset", "database", "origin")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
