"""Opens the hub that the settings name, and the store and the kept losers that belong to a site and a hub.

In: settings. Out: a hub, the store, what keeps losers. Left to others: what is asked of the hub, and what is kept in
the store (`flow.saving`).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from pathlib import Path
from typing import Any

import structlog

from redisrepl.changes import times_fields
from redisrepl.engine.losers import ConflictLoss
from redisrepl.errors import ConfigError
from redisrepl.local.address import SiteAddress
from redisrepl.namespaces import Namespaces
from redisrepl.passwords import password_file, text_of
from redisrepl.remote.address import check_url, with_credentials
from redisrepl.remote.direct import DirectHub, direct_address
from redisrepl.remote.hub import Hub
from redisrepl.remote.session import HubSession
from redisrepl.settings.settings import Settings
from redisrepl.store import Pair, Store, open_store
from redisrepl.store.conflicts import Conflicts
from redisrepl.store.losers import SUFFIX, Loser
from redisrepl.wire.digests import bucket_of, digest_of, hash_digest
from redisrepl.wire.fieldtimes import FieldTimes

__all__ = ["keep_loss", "open_conflicts", "open_hub", "open_state", "refuse_one_for_both"]

_log = structlog.get_logger("redisrepl")


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
    user, password = settings.hub_user, password_file(settings.hub_password_file, "--hub-password-file")
    if settings.haddr.startswith("rediss://"):
        address = direct_address(settings.haddr, settings.hub_database, user, password)
        hub: Hub = DirectHub(address, context, **limits)
    else:
        url = with_credentials(check_url(settings.haddr), user, text_of(password))
        hub = HubSession(url, context, subscribe=settings.subscribe, database=settings.hub_database, **limits)
    hub.clock_shift.fields = FieldTimes(wanted=times_fields(settings.kinds))
    return hub


def refuse_one_for_both(address: SiteAddress, of_site: str | None, hub: Hub, of_hub: str | None) -> None:
    """Check that site and hub are two: what one Redis tells of each write would be written to it again, for ever.

    Args:
        address: of the site.
        of_site: its run id; None: it does not tell.
        hub: the hub.
        of_hub: its run id, likewise.

    Raises:
        ConfigError: they are one database of one Redis.
    """
    if of_site and of_site == of_hub and address.database == hub.database:
        where = f"database {hub.database} of the same Redis"
        raise ConfigError(f"--raddr {address} and --haddr {hub.url} lead to {where}: give --raddr the site's own Redis")


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


def open_conflicts(settings: Settings, address: SiteAddress, store: Store) -> Conflicts | None:
    """Where losers are kept beside this store; None: `--keep-conflicts off`."""
    retention = settings.keep_conflicts
    if not retention.max_bytes:
        return None
    return Conflicts(
        store.file(SUFFIX.removeprefix(".")),
        retention.max_bytes,
        retention.max_days,
        time.time,
        site=str(address),
        database=address.database,
        on_failed=lambda reason: _log.warning("conflicts.failed", error=reason),
    )


def keep_loss(conflicts: Conflicts | None, loss: ConflictLoss) -> None:
    """Keep what loses a conflict: on disk by the next turn, with what else loses in this one."""
    if conflicts is not None:
        held = digest_of(loss.key, loss.value)
        site, hub = (None, held) if loss.winner == "site" else (held, None)
        conflicts.keep(Loser(loss.key, time.time(), loss.winner, loss.reason, site, hub, loss.value))
        asyncio.get_running_loop().call_soon(conflicts.flush)
