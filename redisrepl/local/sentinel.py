"""Where the master is, asked of the Sentinels that watch it.

In: an address that names Sentinels and a service. Out: host and port of the master of the moment. Left to others:
making sure that it is one, and connecting (`local.connection`).

Nothing is remembered from one question to the next: what a Sentinel said before a fail-over is worth nothing after it.

A master that was replaced does not know it until a Sentinel comes round to demoting it, which takes some ten seconds.
What it is told or tells in the meantime is lost, so it has to be left as soon as the Sentinels name another.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import redis.exceptions
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from redisrepl.errors import PeerUnavailableError, RefusedError
from redisrepl.local.address import SiteAddress
from redisrepl.local.tlsconnection import TlsConnection

__all__ = ["WATCH_PERIOD", "Epoch", "MasterWatch", "ask_sentinels"]

#: Seconds for one Sentinel: the next may know more than one that is dead.
_WAIT = 2.0
WATCH_PERIOD = 1.0
"""Seconds between questions whether a master still is one."""


async def ask_sentinels(address: SiteAddress, wait: float) -> tuple[str, int]:
    """Host and port of the master, from the first Sentinel that knows one and does not count it as down.

    Args:
        address: one with a `service`.
        wait: seconds for each Sentinel, two at most.

    Raises:
        PeerUnavailableError: none knows a master. RefusedError: a Sentinel refuses us.
    """
    options: dict[str, Any] = {
        "username": address.sentinel_username,
        "password": address.sentinel_password,
        "protocol": 2,
        "socket_timeout": min(wait, _WAIT),
        "socket_connect_timeout": min(wait, _WAIT),
        "retry": Retry(NoBackoff(), 0),
    }
    connection_class: type[redis.asyncio.Connection] = redis.asyncio.Connection
    if address.context is not None:
        connection_class = TlsConnection
        options["tls"] = address.context
    async with Sentinel([]) as sentinel:  # type: ignore[no-untyped-call]
        sentinel.sentinels = [_client(connection_class, host, port, options) for host, port in address.sentinels]
        try:
            host, port = await sentinel.discover_master(address.service or "")
        except redis.exceptions.ResponseError as error:
            raise RefusedError(f"a Sentinel of {address} refuses us: {error}") from error
        except redis.exceptions.ConnectionError as error:  # MasterNotFoundError among them
            if "Authentication" in str(error):
                raise RefusedError(f"a Sentinel of {address} refuses the user or password: {error}") from error
            raise PeerUnavailableError(f"no Sentinel of {address} knows a working master: {error}") from error
    return str(host), int(port)


def _client(
    connection_class: type[redis.asyncio.Connection], host: str, port: int, options: dict[str, Any]
) -> redis.asyncio.Redis:
    pool = redis.asyncio.ConnectionPool(connection_class=connection_class, host=host, port=port, **options)
    return redis.asyncio.Redis.from_pool(pool)


@dataclass(slots=True)
class Epoch:
    """Counts how often somebody found the master anew; what others know of it from before is in doubt."""

    number: int = 0

    def advance(self) -> None:
        """Have every watch of this epoch ask again before its connection is used."""
        self.number += 1


class MasterWatch:
    """Asks now and then whether the server of one connection still is the master.

    Args:
        address: with a `service`; without, there is nothing to ask.
        wait: seconds for each Sentinel, two at most.
        epoch: shared with whoever else follows this master; None: nobody does.
    """

    def __init__(self, address: SiteAddress, wait: float, epoch: Epoch | None = None) -> None:
        self._address = address
        self._wait = wait
        self._epoch = epoch or Epoch()
        self._asked_in = self._epoch.number
        self.due = math.inf if address.service is None else -math.inf  # when to ask again, `time.monotonic`

    async def successor(self, host: str, port: int) -> str | None:
        """The master that was named instead of this server; None also if it is not time to ask, or nobody answers."""
        if time.monotonic() < self.due and self._asked_in == self._epoch.number:
            return None
        self._asked_in = self._epoch.number
        try:
            named = await ask_sentinels(self._address, self._wait)
        except (PeerUnavailableError, RefusedError):
            return None  # no answer is no reason to leave
        finally:
            self.due = time.monotonic() + WATCH_PERIOD
        return None if named == (host, port) else f"{named[0]}:{named[1]}"
