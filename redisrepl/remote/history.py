"""Asks the hub for facts about its history: which process it is, how often it was flushed, whether it evicts keys.

In: INFO. Out: `HubFacts`. Left to others: what follows from them (`flow.judging`), the fence (`remote.fence`).

`FLUSHALL`, `FLUSHDB` and `SWAPDB` change every key without an event; but Redis counts them, and INFO shows the counts.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import structlog

from redisrepl.changes import State
from redisrepl.errors import CommandRefusedError
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.hub import Hub
from redisrepl.wire.digests import held_at
from redisrepl.wire.replies import CLOCK_TOLERANCE, as_info

__all__ = ["HubFacts", "HubHistory", "parse_info"]

_log = structlog.get_logger("redisrepl")

_RUN = re.compile(rb"^run_id:(\w{1,64})", re.MULTILINE)
_CALLS = re.compile(rb"^cmdstat_(?:flushall|flushdb|swapdb):calls=(\d{1,18})", re.MULTILINE)
_PROCESSED = re.compile(rb"^total_commands_processed:(\d{1,18})", re.MULTILINE)
_TIME = re.compile(rb"^server_time_usec:(\d{1,18})", re.MULTILINE)
_EVICTED = re.compile(rb"^evicted_keys:(\d{1,18})", re.MULTILINE)


class HubFacts(NamedTuple):
    """What the hub's INFO says.

    Attributes:
        run_id: of its process; empty if it does not tell.
        flushes: how often a database was emptied or swapped since the process started or its counters were reset.
        evicted: how many keys it has evicted since then.
        processed: how many commands it has executed since then; if this has shrunk, the counters were reset.
    """

    run_id: str = ""
    flushes: int = 0
    evicted: int = 0
    processed: int = 0

    def flushed_since(self, before: HubFacts) -> bool:
        """Whether the same process has emptied or swapped a database since then."""
        return self.flushes > (before.flushes if self.processed >= before.processed else 0)

    def evicted_since(self, before: HubFacts) -> bool:
        """Whether the same process has evicted keys since then."""
        return self.evicted > (before.evicted if self.processed >= before.processed else 0)


def parse_info(info: bytes) -> HubFacts:
    """The facts in the reply to `INFO all`."""
    run, evicted, processed = _RUN.search(info), _EVICTED.search(info), _PROCESSED.search(info)
    return HubFacts(
        run[1].decode("ascii", "replace") if run else "",
        sum(int(match[1]) for match in _CALLS.finditer(info)),
        int(evicted[1]) if evicted else 0,
        int(processed[1]) if processed else 0,
    )


class HubHistory:
    """Asks the hub.

    Args:
        hub: the hub to ask.
        reader: reads its keys.
        probes: commands that are refused where there are no expiries of fields; none: these are not wanted.

    Attributes:
        lacks_times: why expiries of fields cannot be replicated; empty: they can.
        clock_ahead: seconds by which the hub's clock is ahead of ours; None if unknown.
        clock_within: seconds by which that may be off.
    """

    def __init__(self, hub: Hub, reader: HubReader, probes: Sequence[Sequence[bytes]] = ()) -> None:
        self._hub = hub
        self._probes = probes
        self.lacks_times = ""
        self._reader = reader
        self._refused = False
        self._logged_clock = False
        self._policy: str | None = None
        self.clock_ahead: float | None = None
        self.clock_within = 0.0

    async def ask(self) -> HubFacts:
        """What the hub's INFO says now; empty facts where INFO is refused, which is logged once.

        Raises:
            RedisreplError: it cannot be asked.
        """
        await self._ask_for_times()
        asked_at = time.time()
        try:
            info = await self._hub.text(b"INFO", b"all")
        except CommandRefusedError as error:
            self.clock_ahead = None
            if not self._refused:
                self._refused = True
                hint = "let this client run INFO at the hub; until then a flush of it is undone by the sites"
                _log.warning("hub.flushes_unknown", error=str(error), hint=hint)
            return HubFacts()
        self._refused = False
        self._compare_clocks(info, asked_at, time.time())
        self._say_policy(info)
        return parse_info(info)

    async def _ask_for_times(self) -> None:
        try:
            for command in self._probes:
                await self._hub.integers(*command)
        except CommandRefusedError as error:
            self.lacks_times = str(error)
        else:
            self.lacks_times = ""

    def _compare_clocks(self, info: bytes, asked_at: float, answered_at: float) -> None:
        """Warn if the clocks differ."""
        if (there := _TIME.search(info)) is None:
            return
        self.clock_ahead = int(there[1]) / 1e6 - (asked_at + answered_at) / 2
        self.clock_within = abs(answered_at - asked_at) / 2
        differs = abs(self.clock_ahead) > CLOCK_TOLERANCE
        if differs and not self._logged_clock:
            hint = "expiries are converted; set the clock that is wrong: timedatectl set-ntp true"
            _log.warning("hub.clock_differs", ahead_s=round(self.clock_ahead, 1), hint=hint)
        self._logged_clock = differs

    @property
    def may_evict(self) -> bool:
        """Whether the hub evicts keys when its memory is full, as far as it tells."""
        return self._policy is not None

    def _say_policy(self, info: bytes) -> None:
        memory = info[max(0, info.find(b"# Memory")) :].partition(b"\r\n\r\n")[0]
        policy = as_info(memory, "INFO at the hub").evicts()
        if policy is not None and policy != self._policy:
            hint = "keys that it throws away stay at the sites: CONFIG SET maxmemory-policy noeviction"
            _log.warning("hub.may_evict", policy=policy, hint=hint)
        self._policy = policy

    async def held(self, places: Iterable[tuple[bytes, bytes | None]]) -> dict[tuple[bytes, bytes | None], int | None]:
        """The digests of what the hub holds now at these places: keys, and fields of hashes.

        Raises:
            RedisreplError: it cannot be asked.
        """

        async def read(keys: Sequence[bytes]) -> dict[bytes, State]:
            return (await self._reader.states(keys)).states

        return await held_at(places, read)
