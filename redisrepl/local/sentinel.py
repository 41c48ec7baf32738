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

import redis.exceptions

from redisrepl.errors import PeerUnavailableError, ProtocolError, RefusedError
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import ask, plain_client
from redisrepl.wire.replies import as_pairs, number

__all__ = ["WATCH_PERIOD", "MasterWatch", "ask_sentinels"]

#: Seconds for one Sentinel: the next may know more than one that is dead.
_WAIT = 2.0
_LAST_PORT = 65535
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
    failures: list[str] = []
    for host, port in address.sentinels:
        sentinel = SiteAddress(
            host,
            port,
            username=address.sentinel_username,
            password=address.sentinel_password,
            files=address.files,
            context=address.context,
        )
        client = plain_client(sentinel, min(wait, _WAIT), connections=1)
        try:
            masters = await ask(client, b"SENTINEL", b"MASTERS")
            if (place := _working_master(masters, (address.service or "").encode())) is not None:
                return place
        except redis.exceptions.AuthenticationError as error:
            raise RefusedError(f"a Sentinel of {address} refuses the user or password: {error}") from error
        except redis.exceptions.InvalidResponse as error:
            failures.append(f"{sentinel}: not RESP: {error}")
        except redis.exceptions.ResponseError as error:
            raise RefusedError(f"a Sentinel of {address} refuses us: {error}") from error
        except (redis.exceptions.RedisError, OSError, ProtocolError) as error:
            if "Authentication" in str(error):
                raise RefusedError(f"a Sentinel of {address} refuses the user or password: {error}") from error
            failures.append(f"{sentinel}: {error}")
        finally:
            await client.aclose()
    why = f": {', '.join(failures)}" if failures else ""
    raise PeerUnavailableError(f"no Sentinel of {address} knows a working master{why}")


def _working_master(reply: object, service: bytes) -> tuple[str, int] | None:
    """Where the master of this name is, unless it is down in the eyes of who answers `SENTINEL MASTERS`."""
    for master in reply if isinstance(reply, list) else [reply]:
        told = as_pairs(master, "SENTINEL MASTERS")
        flags = told.get(b"flags", b"").split(b",")
        if told.get(b"name") != service or b"master" not in flags or b"s_down" in flags or b"o_down" in flags:
            continue
        host, port = told.get(b"ip", b"").decode("utf-8", "backslashreplace"), number(told.get(b"port", b""))
        if not host or port is None or not 0 < port <= _LAST_PORT:
            raise ProtocolError("SENTINEL MASTERS names no host and port")
        return host, port
    return None


class MasterWatch:
    """Asks now and then whether the server of one connection still is the master.

    Args:
        address: with a `service`; without, there is nothing to ask.
        wait: seconds for each Sentinel, two at most.
    """

    def __init__(self, address: SiteAddress, wait: float) -> None:
        self._address = address
        self._wait = wait
        self.due = math.inf if address.service is None else -math.inf  # when to ask again, `time.monotonic`

    async def successor(self, host: str, port: int) -> str | None:
        """The master that was named instead of this server; None also if it is not time to ask, or nobody answers."""
        if time.monotonic() < self.due:
            return None
        try:
            named = await ask_sentinels(self._address, self._wait)
        except (PeerUnavailableError, RefusedError):
            return None  # no answer is no reason to leave
        finally:
            self.due = time.monotonic() + WATCH_PERIOD
        return None if named == (host, port) else f"{named[0]}:{named[1]}"
