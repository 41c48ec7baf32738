"""Opens the store that belongs to a site and a hub.

In: settings. Out: the store. Left to others: what is kept in it (`store`, `flow.saving`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from redisrepl.local.address import SiteAddress
from redisrepl.namespaces import Namespaces
from redisrepl.settings.settings import Settings
from redisrepl.store import Pair, Store, open_store
from redisrepl.wire.digests import bucket_of, hash_digest

__all__ = ["open_state"]


def open_state(
    settings: Settings, address: SiteAddress, hub: str, *, directory: Path | None = None, **options: Any
) -> Store:
    """The store of a daemon with these settings.

    Args:
        settings: as for the daemon.
        address: of the site.
        hub: its address, without credentials.
        directory: another one than that of the settings.
        options: as for `Store`.

    Raises:
        StateDirectoryError: the directory that was named cannot be used.
        ConfigError: another process uses it for the same site and hub.
    """
    scope = {
        "database": address.database,
        "namespaces": [prefix.hex() for prefix in Namespaces(settings.ns)],
        "kinds": sorted(settings.replicate),
    }
    pair = Pair(str(address), hub, json.dumps(scope, sort_keys=True))
    return open_store(directory or settings.state_dir, pair, digest_of_hash=hash_digest, bucket_of=bucket_of, **options)
