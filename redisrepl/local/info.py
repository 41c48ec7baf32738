"""Asks the site's Redis for facts about itself, as far as it tells.

In: an address. Out: `SiteInfo`. Left to others: what follows from them (`local.diagnosis`, `observe.state`,
`sources.backpressure`).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis.exceptions

from redisrepl.changes import Position
from redisrepl.errors import ProtocolError, RedisreplError, RefusedError
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import INFO, ask, ask_all, translated
from redisrepl.local.connection import open_client
from redisrepl.wire.replies import Info, as_info, as_pairs, number
from redisrepl.wire.transactions import StreamPlace

__all__ = ["BufferLimit", "SiteInfo", "ask_info", "ask_place"]

_SECTIONS = (b"server", b"replication", b"stats", b"commandstats")
_OPTIONS = (
    b"client-output-buffer-limit",
    b"repl-timeout",
    b"repl-ping-replica-period",
    b"repl-backlog-size",
)


@dataclass(frozen=True, slots=True)
class BufferLimit:
    """`client-output-buffer-limit` for replicas, in bytes and seconds; 0: none."""

    hard: int
    soft: int
    seconds: int


@dataclass(frozen=True, slots=True)
class SiteInfo:
    """SiteInfo about a server; None or an empty text: it does not tell.

    Attributes:
        at: when it was asked, in seconds that never go backwards.
        failure: why it could not be asked.
        history: its replication ids, including the one before a failover.
        overruns: clients whose output buffer went over its limit (Redis 7.2 and later).
        kills: how often `CLIENT KILL` was called (Redis 7 and later).
        backlog_begins: the first offset from which it can continue.
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


async def ask_info(address: SiteAddress, wait: float) -> SiteInfo:
    """Ask the site, on a separate connection, for at most `wait` seconds; a failure is among the facts."""
    client = open_client(address, wait, connections=1)
    at = time.monotonic()
    try:
        async with asyncio.timeout(wait):
            with translated(address):
                sections = [[b"INFO", section] for section in _SECTIONS]
                options = [[b"CONFIG", b"GET", option] for option in _OPTIONS]
                replies = await ask_all(client, [*sections, *options])
    except RedisreplError as error:
        return SiteInfo(at, failure=str(error))
    except TimeoutError:
        return SiteInfo(at, failure=f"the site's Redis {address} does not answer")
    finally:
        await client.aclose()
    refusals = [reply for reply in replies if isinstance(reply, redis.exceptions.ResponseError)]
    if len(refusals) == len(replies):
        return SiteInfo(at, failure=f"the site's Redis {address} refuses us: {refusals[0]}")
    return _facts(at, replies)


async def ask_place(address: SiteAddress, wait: float) -> StreamPlace | None:
    """The present position of the site's stream; None if it cannot continue from there, or its database is unknown."""
    client = open_client(address, wait, connections=1)
    source = f"INFO at the site's Redis {address}"
    try:
        with translated(address):
            state = as_info(await ask(client, *INFO), source)
            keyspace = as_info(await ask(client, b"INFO", b"keyspace"), source).names()
    except RefusedError:
        return None  # a user that may only replicate; if the user is refused altogether, the link will say so
    finally:
        await client.aclose()
    databases = [number(name.removeprefix("db")) for name in keyspace]
    replid, offset = state.text("master_replid"), state.number("master_repl_offset")
    database = databases[0] if databases else 0
    if state.number("repl_backlog_active") != 1 or len(databases) > 1 or not replid or offset is None:
        return None
    return None if database is None else StreamPlace(Position(replid, offset), database)


def _facts(at: float, replies: list[Any]) -> SiteInfo:
    info, options = _info_and_options(replies)
    known = "redis_version" in info
    master = f"{info.text('master_host')}:{info.text('master_port')}" if "master_host" in info else ""
    backlog = info.number("repl_backlog_active") == 1
    return SiteInfo(
        at,
        run_id=info.text("run_id") or "",
        uptime=_natural(info.text("uptime_in_seconds")),
        role=info.text("role") or "",
        master=master,
        history=tuple(
            replid for name in ("master_replid", "master_replid2") if (replid := info.text(name)) is not None
        ),
        offset=_natural(info.text("master_repl_offset")),
        backlog_begins=_natural(info.text("repl_backlog_first_byte_offset")) if backlog else None,
        overruns=_natural(info.text("client_output_buffer_limit_disconnections")),
        kills=(info.part("cmdstat_client|kill", "calls") or 0) if known else None,
        buffer_limit=_buffer_limit(options.get("client-output-buffer-limit", "")),
        repl_timeout=_natural(options.get("repl-timeout")),
        ping_period=_natural(options.get("repl-ping-replica-period")),
        backlog_size=_natural(options.get("repl-backlog-size") or info.text("repl_backlog_size")),
    )


def _info_and_options(replies: list[Any]) -> tuple[Info, dict[str, str]]:
    """The fields of INFO, and options; malformed replies are left out."""
    text = b""
    options: dict[str, str] = {}
    for reply in replies[: len(_SECTIONS)]:
        if isinstance(reply, bytes):
            text += reply + b"\r\n"
    for reply in replies[len(_SECTIONS) :]:
        with suppress(ProtocolError):
            options |= {_text(name): _text(value) for name, value in as_pairs(reply, "CONFIG GET").items()}
    return as_info(text, "INFO"), options


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _natural(text: str | None) -> int | None:
    value = None if text is None else number(text)
    return value if value is not None and value >= 0 else None


def _buffer_limit(text: str) -> BufferLimit | None:
    """Parse `normal 0 0 0 slave 268435456 67108864 60 pubsub ..`; some versions say `replica`."""
    words = text.split()
    for name in ("replica", "slave"):
        if name in words:
            numbers = [_natural(word) for word in words[words.index(name) + 1 :][:3]]
            match numbers:
                case [int(hard), int(soft), int(seconds)]:
                    return BufferLimit(hard, soft, seconds)
    return None
