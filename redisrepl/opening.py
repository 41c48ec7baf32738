"""Opens the hub that the settings name, and the store that belongs to a site and a hub.

In: settings. Out: a hub, the store. Left to others: what is asked of the hub, and what is kept in the store
(`flow.saving`).
"""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

from redisrepl.changes import times_fields
from redisrepl.local.address import SiteAddress
from redisrepl.namespaces import Namespaces
from redisrepl.passwords import read_password
from redisrepl.remote.address import check_url, with_credentials
from redisrepl.remote.direct import DirectHub, direct_address
from redisrepl.remote.hub import Hub
from redisrepl.remote.session import HubSession
from redisrepl.settings.settings import Settings
from redisrepl.store import Pair, Store, open_store
from redisrepl.wire.digests import bucket_of, hash_digest
from redisrepl.wire.fieldtimes import FieldTimes

__all__ = ["open_hub", "open_state"]


def open_hub(settings: Settings, context: ssl.SSLContext, *, connections: int = 40) -> Hub:
    """The hub, to which nothing is connected yet.

    Args:
        settings: as for the daemon.
        context: TLS, with the client certificate.
        connections: how many requests may be under way.

    Raises:
        ConfigError: its address or the file with its password cannot be used.
    """
    limits: dict[str, Any] = {
        "connections": connections,
        "timeout": settings.timeout,
        "connect_timeout": settings.connect_timeout,
        "max_value": settings.max_value,
        "retry_max": settings.retry_max,
    }
    user, password = settings.hub_user, read_password(settings.hub_password_file, "--hub-password-file")
    if settings.haddr.startswith("rediss://"):
        address = direct_address(settings.haddr, settings.hub_database, user, password)
        hub: Hub = DirectHub(address, context, **limits)
    else:
        url = with_credentials(check_url(settings.haddr), user, password)
        hub = HubSession(url, context, subscribe=settings.subscribe, database=settings.hub_database, **limits)
    hub.clock_shift.fields = FieldTimes(wanted=times_fields(settings.kinds))
    return hub


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
        "kinds": sorted(settings.kinds),
    }
    pair = Pair(str(address), hub, json.dumps(scope, sort_keys=True))
    return open_store(directory or settings.state_dir, pair, digest_of_hash=hash_digest, bucket_of=bucket_of, **options)
