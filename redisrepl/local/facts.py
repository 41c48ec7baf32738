"""What a site's Redis tells of itself, as far as it lets us know.

In: an address. Out: `Facts`. Left to others: what follows from them (`local.diagnosis`, `observe.state`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import redis.exceptions

from redisrepl.errors import RedisreplError
from redisrepl.local.address import SiteAddress
from redisrepl.local.connection import open_client, translated

__all__ = ["BufferLimit", "Facts", "ask_facts"]

_SECTIONS = ("server", "replication", "stats", "commandstats")
_OPTIONS = ("client-output-buffer-limit", "repl-timeout", "repl-ping-replica-period", "repl-backlog-size")


@dataclass(frozen=True, slots=True)
class BufferLimit:
    """`client-output-buffer-limit` for replicas, in bytes and seconds; 0: none."""

    hard: int
    soft: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server tells of itself; None, or no text, is what it does not tell.

    Attributes:
        at: when it was asked, in seconds that never go backwards.
        failure: why nothing could be learned.
        history: its replication ids, the one before a failover included.
        overruns: clients whose output buffer went over its limit (Redis 7.2 and later).
        kills: how often `CLIENT KILL` was called (Redis 7 and later).
        backlog_begins: the first offset that it can go on from.
    """

    at: float = 0.0
    failure: str = ""
    run_id: str = ""
    uptime: int | None = None
    role: str = ""
    master: str = ""
    history: tuple[str, ...] = ()
    offset: int | None = None
    backlog_begins: int | None = None
    overruns: int | None = None
    kills: int | None = None
    buffer_limit: BufferLimit | None = None
    repl_timeout: int | None = None
    ping_period: int | None = None
    backlog_size: int | None = None


async def ask_facts(address: SiteAddress, wait: float) -> Facts:
    """Ask the site, on a connection of its own, for at most `wait` seconds; that it fails is a fact too."""
    client = open_client(address, wait, connections=1)
    at = time.monotonic()
    try:
        async with asyncio.timeout(wait):
            with translated(address):
                pipeline = client.pipeline(transaction=False)
                for section in _SECTIONS:
                    pipeline.info(section)
                for option in _OPTIONS:
                    pipeline.config_get(option)
                replies = await pipeline.execute(raise_on_error=False)
    except RedisreplError as error:
        return Facts(at, failure=str(error))
    except TimeoutError:
        return Facts(at, failure=f"the site's Redis {address} does not answer")
    finally:
        await client.aclose()
    refusals = [reply for reply in replies if isinstance(reply, redis.exceptions.ResponseError)]
    if len(refusals) == len(replies):
        return Facts(at, failure=f"the site's Redis {address} refuses us: {refusals[0]}")
    return _facts(at, replies)


def _facts(at: float, replies: list[Any]) -> Facts:
    told: dict[str, Any] = {}
    for reply in replies:
        if isinstance(reply, Mapping):
            told |= {_text(name): value for name, value in reply.items()}
    master = f"{told['master_host']}:{told['master_port']}" if "master_host" in told else ""
    killed = told.get("cmdstat_client|kill", {}) if "redis_version" in told else None
    backlog = told.get("repl_backlog_active") == 1
    return Facts(
        at,
        run_id=str(told.get("run_id", "")),
        uptime=_number(told.get("uptime_in_seconds")),
        role=str(told.get("role", "")),
        master=master,
        history=tuple(str(told[name]) for name in ("master_replid", "master_replid2") if name in told),
        offset=_number(told.get("master_repl_offset")),
        backlog_begins=_number(told.get("repl_backlog_first_byte_offset")) if backlog else None,
        overruns=_number(told.get("client_output_buffer_limit_disconnections")),
        kills=None if killed is None else _number(killed.get("calls", 0)),
        buffer_limit=_buffer_limit(_text(told.get("client-output-buffer-limit", ""))),
        repl_timeout=_number(told.get("repl-timeout")),
        ping_period=_number(told.get("repl-ping-replica-period")),
        backlog_size=_number(told.get("repl-backlog-size", told.get("repl_backlog_size"))),
    )


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _number(value: object) -> int | None:
    text = _text(value)
    return int(text) if text.isascii() and text.isdigit() else None


def _buffer_limit(text: str) -> BufferLimit | None:
    """Of `normal 0 0 0 slave 268435456 67108864 60 pubsub ..`; the word is `replica` in some versions."""
    words = text.split()
    for name in ("replica", "slave"):
        if name in words:
            numbers = [_number(word) for word in words[words.index(name) + 1 :][:3]]
            match numbers:
                case [int(hard), int(soft), int(seconds)]:
                    return BufferLimit(hard, soft, seconds)
    return None
