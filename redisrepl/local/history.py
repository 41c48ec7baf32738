"""Asks the site about its history, and whether it still holds the last changes that we have seen.

In: INFO, and the values of a few hundred keys. Out: `SiteFacts`, digests. Left to others: what follows from them
(`flow.judging`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import redis.asyncio
import redis.exceptions
import structlog

from redisrepl.changes import State
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import ask_all, is_refused, translated
from redisrepl.local.read import SiteReader
from redisrepl.wire.digests import held_at
from redisrepl.wire.replies import CLOCK_TOLERANCE, Info, as_info, merged

__all__ = ["Evictions", "SiteFacts", "SiteHistory"]

_MAX_BYTES = 8 << 20
_NO_EVICTION = "keys that it throws away stay on the other side: CONFIG SET maxmemory-policy noeviction"
_SET_CLOCK = "expiries are converted; set the clock that is wrong: timedatectl set-ntp true"
#: The offset last: each command may evict keys, and of those that are counted it must be behind the removals.
_SECTIONS = (b"server", b"memory", b"stats", b"replication")
_log = structlog.get_logger("redisrepl")


class Evictions(NamedTuple):
    """The counters of evicted keys, and of executed commands; see `SiteFacts`."""

    keys: int = 0
    processed: int = 0


@dataclass(frozen=True, slots=True)
class SiteFacts:
    """Facts about the site; empty or None: it does not tell.

    Attributes:
        run_id: of its process.
        role: `master` or `slave`.
        replid, offset: of its present history.
        earlier, earlier_to: the history that it continued after a failover, and the first offset that it does not
            share with it (`second_repl_offset`).
        evicted: how many keys it has evicted since it started, or since its counters were reset.
        may_evict: whether it evicts keys when its memory is full.
        processed: how many commands it has executed since then; if this has shrunk, the counters were reset.
        clock_ahead: seconds by which its clock is ahead of ours.
        clock_within: seconds by which that may be off.
        lacks_times: why expiries of fields cannot be replicated; empty: they can.
    """

    run_id: str = ""
    role: str = ""
    replid: str = ""
    offset: int = 0
    earlier: str = ""
    earlier_to: int = 0
    evicted: int = 0
    may_evict: bool = False
    clock_ahead: float | None = None
    clock_within: float = 0.0
    processed: int = 0
    lacks_times: str = ""

    def continues(self, replid: str, seen: int) -> bool:
        """Whether this history includes all of that one up to the offset `seen`."""
        if replid == self.replid:
            return self.offset >= seen
        return replid == self.earlier and self.earlier_to > seen

    @property
    def evictions(self) -> Evictions:
        """Its counters, to compare later ones with."""
        return Evictions(self.evicted, self.processed)

    def evicted_since(self, before: Evictions) -> bool:
        """Whether it has evicted keys since it told this, or is another process that may have."""
        return self.evicted != before.keys or (self.processed < before.processed and bool(self.evicted))

    @property
    def alone(self) -> bool:
        """Whether it has always been a master.

        Its id alone does not show that: a master without replicas takes a new id after `repl-backlog-ttl`. But it then
        has no earlier history, which is forty zeros.
        """
        return self.role == "master" and not self.earlier.strip("0")


class SiteHistory:
    """Asks the site.

    Args:
        client: nobody else may use its connection meanwhile.
        address: for messages.
        reader: reads keys.
        probes: commands that are refused where there are no expiries of fields; none: these are not wanted.
    """

    def __init__(
        self,
        client: redis.asyncio.Redis,
        address: SiteAddress,
        reader: SiteReader,
        probes: Sequence[Sequence[bytes]] = (),
    ) -> None:
        self._probes = probes
        self._client = client
        self._address = address
        self._reader = reader
        self._policy: str | None = None
        self._logged_clock = False

    async def ask(self) -> SiteFacts:
        """The site's present facts; empty where INFO is refused.

        Raises:
            RedisreplError: it cannot be asked.
        """
        infos: list[Info] = []
        asked_at = time.time()
        with translated(self._address):
            asked = [*([b"INFO", section] for section in _SECTIONS), *self._probes]
            replies = await ask_all(self._client, asked)
            refused = [str(reply) for reply in replies[len(_SECTIONS) :] if isinstance(reply, Exception)]
            for reply in replies[: len(_SECTIONS)]:
                if is_refused(reply):
                    continue
                if isinstance(reply, Exception):
                    raise reply
                infos.append(as_info(reply, f"INFO at the site's Redis {self._address}"))
        info = merged(infos)
        there = info.number("server_time_usec")
        answered_at = time.time()
        ahead = None if there is None else there / 1e6 - (asked_at + answered_at) / 2
        self._say_clock(ahead)
        if (policy := info.evicts()) is not None and policy != self._policy:
            _log.warning("site.may_evict", policy=policy, hint=_NO_EVICTION)
        self._policy = policy
        return SiteFacts(
            run_id=info.text("run_id") or "",
            role=info.text("role") or "",
            replid=info.text("master_replid") or "",
            offset=info.number("master_repl_offset") or 0,
            earlier=info.text("master_replid2") or "",
            earlier_to=max(0, info.number("second_repl_offset") or 0),
            evicted=info.number("evicted_keys") or 0,
            may_evict=policy is not None,
            clock_ahead=ahead,
            clock_within=0.0 if ahead is None else abs(answered_at - asked_at) / 2,
            processed=info.number("total_commands_processed") or 0,
            lacks_times=next(iter(refused), ""),
        )

    def _say_clock(self, ahead: float | None) -> None:
        differs = ahead is not None and abs(ahead) > CLOCK_TOLERANCE
        if ahead is not None and differs and not self._logged_clock:
            _log.warning("site.clock_differs", ahead_s=round(ahead, 1), hint=_SET_CLOCK)
        self._logged_clock = differs

    async def held(self, places: Iterable[tuple[bytes, bytes | None]]) -> dict[tuple[bytes, bytes | None], int | None]:
        """The digests of what the site holds now at these places: keys, and fields of hashes.

        Raises:
            RedisreplError: it cannot be asked.
        """

        async def read(keys: Sequence[bytes]) -> dict[bytes, State]:
            return dict(zip(keys, await self._reader.first_states(keys, _MAX_BYTES), strict=False))

        return await held_at(places, read)
