"""Asks the Sentinels where the master is.

In: an address that names Sentinels and a service. Out: host and port of the current master. Left to others: checking
that it is one, and connecting (`local.connection`).

Nothing is cached: what a Sentinel said before a failover is wrong after it. Only which of them gave no answer is known:
such a one costs its timeout, so it is not asked again while another names a master.

A master that was replaced does not know that until a Sentinel demotes it, which takes some ten seconds. What is written
to it meanwhile is lost. So we leave it as soon as the Sentinels name another, and do not go to one whose failover has
begun: its snapshot would have what the new master lacks beside all that this one has, and nobody could tell which.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import redis.asyncio
import redis.exceptions

from redisrepl.errors import PeerUnavailableError, ProtocolError, RefusedError
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import ask, plain_client
from redisrepl.wire.replies import as_pairs, number

__all__ = ["WATCH_PERIOD", "MasterWatch", "ask_sentinels"]

#: Most seconds for one Sentinel: if it is dead, the next may answer.
_WAIT = 2.0
_LAST_PORT = 65535
#: Masters that a message names at most.
_MOST_NAMES = 10
WATCH_PERIOD = 1.0
"""Seconds between two checks that a master still is one."""
#: Where no Sentinel answers, so much longer than a check is the time until the next, up to so many seconds.
_UNANSWERED, _MOST_UNANSWERED = 9.0, 20.0


async def ask_sentinels(address: SiteAddress, wait: float) -> tuple[str, int]:
    """Host and port of the master, from the first Sentinel that knows one and does not count it as down.

    They are asked in the order of the address, but those last that gave no answer before.

    Args:
        address: one with a `service`.
        wait: seconds for each Sentinel; more than two count as two.

    Raises:
        PeerUnavailableError: no Sentinel knows a master. RefusedError: a Sentinel refuses us.
    """
    failures: list[str] = []
    for place in sorted(address.sentinels, key=address.silent.__contains__):
        host, port = place
        sentinel = SiteAddress(
            host,
            port,
            username=address.sentinel_username,
            secret=address.sentinel_secret,
            files=address.files,
            context=address.context,
        )
        client = plain_client(sentinel, min(wait, _WAIT), connections=1)
        try:
            master = await _master_by(client, (address.service or "").encode())
        except redis.exceptions.AuthenticationError as error:
            raise _refused_login(address, error) from error
        except redis.exceptions.InvalidResponse as error:
            failures.append(f"{sentinel}: not RESP: {error}")
        except redis.exceptions.ResponseError as error:
            raise RefusedError(f"a Sentinel of {address} refuses us: {error}") from error
        except (redis.exceptions.RedisError, OSError, ProtocolError) as error:
            if "Authentication" in str(error):
                raise _refused_login(address, error) from error
            address.silent.add(place)
            failures.append(f"{sentinel}: {error}")
        else:
            address.silent.discard(place)
            if not isinstance(master, str):
                return master
            failures.append(f"{sentinel}: {master}")
        finally:
            await client.aclose()
    why = f": {', '.join(failures)}" if failures else ""
    raise PeerUnavailableError(f"no Sentinel of {address} knows a working master named {address.service}{why}")


def _refused_login(address: SiteAddress, error: Exception) -> RefusedError:
    said = f"a Sentinel of {address} refuses the user or password: {str(error).rstrip('.')}"
    return RefusedError(f"{said}: check the password (--sentinel-password-file) and the user (--sentinel-user)")


async def _master_by(client: redis.asyncio.Redis, service: bytes) -> tuple[str, int] | str:
    """Host and port of the master of this name, by one Sentinel; or why it names none."""
    reply = await ask(client, b"SENTINEL", b"MASTERS")
    masters = [as_pairs(master, "SENTINEL MASTERS") for master in (reply if isinstance(reply, list) else [reply])]
    facts = next((facts for facts in masters if facts.get(b"name") == service), None)
    if facts is None:
        names = sorted(facts.get(b"name", b"").decode("utf-8", "backslashreplace") for facts in masters)
        return f"it knows no such master, but {', '.join(names[:_MOST_NAMES]) or 'none'}"
    flags = facts.get(b"flags", b"").split(b",")
    if b"master" not in flags or b"s_down" in flags or b"o_down" in flags:
        return "it counts that master as down"
    place = _place([facts.get(b"ip"), facts.get(b"port")])
    if b"failover_in_progress" not in flags:
        return place
    # It is still called the master, and takes writes; those after another was made master are lost.
    promoted = _place(await ask(client, b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service))
    return "a failover has begun" if promoted == place else promoted


def _place(reply: object) -> tuple[str, int]:
    match reply:
        case [bytes(host), bytes(digits)] if host and (port := number(digits)) is not None and 0 < port <= _LAST_PORT:
            return host.decode("utf-8", "backslashreplace"), port
    raise ProtocolError("a Sentinel names no host and port")


class MasterWatch:
    """Checks now and then that the server of one connection still is the master.

    Whoever uses the connection waits meanwhile. So where no Sentinel answers, they are asked less often.

    Args:
        address: with a `service`; without one, nobody is asked.
        wait: seconds for each Sentinel; more than two count as two.
        clock: seconds that never go backwards.

    Attributes:
        due: when to ask again, by the clock.
    """

    def __init__(self, address: SiteAddress, wait: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._address = address
        self._wait = wait
        self._clock = clock
        self.due = math.inf if address.service is None else -math.inf

    async def successor(self, host: str, port: int) -> str | None:
        """The master that the Sentinels name instead of this server; None if it is this one, or nobody was asked."""
        began = self._clock()
        if began < self.due:
            return None
        pause = WATCH_PERIOD
        try:
            named = await ask_sentinels(self._address, self._wait)
        except (PeerUnavailableError, RefusedError):
            if self._address.silent.issuperset(self._address.sentinels):
                pause = max(WATCH_PERIOD, min(_MOST_UNANSWERED, _UNANSWERED * (self._clock() - began)))
            return None  # without an answer, stay
        finally:
            self.due = self._clock() + pause
        return None if named == (host, port) else f"{named[0]}:{named[1]}"
