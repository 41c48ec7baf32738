"""What `redisrepl check` asks the site's Redis: role, memory, limits, whether we may follow it.

In: settings of a daemon, an address. Out: findings. Left to others: the hub (`check_hub`), printing (`check`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import redis.asyncio
import redis.exceptions

from redisrepl.errors import (
    ExitCode,
    LinkLostError,
    PsyncRefusedError,
    RedisreplError,
    RefusedError,
    denies_key,
    exit_code,
)
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import ask, translated
from redisrepl.local.connection import open_client
from redisrepl.local.facts import Facts, ask_facts
from redisrepl.local.stream import ReplicaLink
from redisrepl.namespaces import glob_escape, printable
from redisrepl.places import default_directory
from redisrepl.settings.settings import Settings
from redisrepl.subcommands.finding import Finding, clock_finding, eviction_findings, failed
from redisrepl.subcommands.needs import AT_SITE, TO_APPLY, commands_for, what_is_lost
from redisrepl.subcommands.status import documents
from redisrepl.tested import not_tried
from redisrepl.wire.keyspace import NOTIFY_OPTION, keyspace_channel, missing_flags
from redisrepl.wire.psync import Continued, FullSync
from redisrepl.wire.replies import Info, as_clock, as_info, as_option

__all__ = ["check_site"]

_MIN_BACKLOG = 16 << 20
_REPLICA = re.compile(r"slave\d+")
#: Redis' own defaults leave 64 MiB for a minute; below that a burst of large values ends the link.
_MIN_BUFFER = 64 << 20
_MIN_TIMEOUT = 10


async def check_site(settings: Settings, address: SiteAddress) -> AsyncIterator[Finding]:
    """Everything that a daemon needs of the site; what rests on something that failed is left out."""
    client = open_client(address, settings.connect_timeout, connections=2)
    try:
        try:
            with translated(address):
                info = as_info(await ask(client, b"INFO"), f"INFO at the site's Redis {address}")
                clock = as_clock(await ask(client, b"TIME"), f"TIME at the site's Redis {address}")
        except LinkLostError as error:
            hint = "" if address.context or address.path else "; if this port wants TLS: --raddr rediss://HOST:PORT"
            yield Finding("site", f"{error}{hint}", exit_code(error))
            return
        except RedisreplError as error:
            yield failed("site", error)
            return
        version = info.text("valkey_version") or info.text("redis_version")
        said = f"{address} answers, version {version}, role {info.text('role')}"
        if info.text("cluster_enabled") == "1":
            remedy = "--raddr of a Redis without cluster-enabled yes"
            yield Finding(
                "site", f"{said}, but of a Redis Cluster one node has some of the keys: {remedy}", ExitCode.CONFIG
            )
        elif settings.rc and info.text("role") == "slave":
            master = f"{info.text('master_host')}:{info.text('master_port')}"
            remedy = f"follow its master: --raddr {master}, or --sentinel HOST:PORT/SERVICE"
            yield Finding("site", f"{said}, so it refuses what comes from the hub: {remedy}", ExitCode.CONFIG)
        else:
            yield Finding("site", said)
        if unlike := not_tried(info):
            yield Finding("site version", unlike, None)
        yield clock_finding("site clock", clock / 1e6)
        for finding in eviction_findings("site eviction", info):
            yield finding
        permissions = [await _check_commands(settings, address, client, prefix) for prefix in settings.ns]
        for finding in (*_other_followers(settings, address, info), *permissions):
            yield finding
        refused = settings.source == "notify"
        if not refused:
            for finding in _replica_findings(settings, info, await ask_facts(address, settings.connect_timeout)):
                yield finding
            finding = await _check_psync(settings, address)
            yield finding
            refused = finding.code is None
        if refused:
            yield await _check_site_flags(settings, address, client)
            yield await _check_site_events(settings, address, client)
    finally:
        await client.aclose()


def _other_followers(settings: Settings, address: SiteAddress, info: Info) -> Iterator[Finding]:
    """Another redisrepl, as far as it can be told: a replica that names no port, and is no daemon of this directory."""
    links = sum(_REPLICA.fullmatch(name) is not None and info.part(name, "port") == 0 for name in info.names())
    ours = documents(settings.state_dir or default_directory())
    links -= sum(said["site"] == str(address) and said["attached_at"] is not None for said in ours)
    if links > 0:
        said = f"{links} more follow it as replicas without a port, perhaps another redisrepl"
        remedy = "redis-cli CLIENT LIST TYPE replica shows them; one for each namespace is enough"
        yield Finding("site followers", f"{said}: {remedy}", None)


def _replica_findings(settings: Settings, info: Info, facts: Facts) -> Iterator[Finding]:
    """How long an outage may be, and what ends a link."""
    backlog = info.number("repl_backlog_size") or 0
    if backlog < _MIN_BACKLOG:
        advice = f"CONFIG SET repl-backlog-size {_MIN_BACKLOG >> 20}mb, or a longer outage is a full synchronisation"
        yield Finding("site backlog", f"{backlog >> 10} KiB: {advice}", None)
    else:
        yield Finding("site backlog", f"{backlog >> 20} MiB")
    limit = facts.buffer_limit
    if limit is None:
        yield Finding("site buffer", "not known, CONFIG GET is refused; the default is enough")
        return
    smallest = min(filter(None, (limit.hard, limit.soft)), default=_MIN_BUFFER)
    said = f"replica {limit.hard} {limit.soft} {limit.seconds}"
    if smallest < _MIN_BUFFER:
        advice = 'CONFIG SET client-output-buffer-limit "replica 256mb 64mb 60", or bursts of writes end the link'
        yield Finding("site buffer", f"{said}: {advice}", None)
    else:
        yield Finding("site buffer", said)
    said = f"repl-timeout {facts.repl_timeout} s, a ping every {facts.ping_period} s"
    if facts.repl_timeout is not None and facts.repl_timeout < _MIN_TIMEOUT:
        yield Finding("site timeouts", f"{said}: CONFIG SET repl-timeout 60, or a short pause ends the link", None)
    elif facts.ping_period is not None and facts.ping_period >= settings.site_silence:
        advice = f"CONFIG SET repl-ping-replica-period 10, or --site-silence {3 * facts.ping_period}"
        yield Finding("site timeouts", f"{said}, but --site-silence is {settings.site_silence:g} s: {advice}", None)
    else:
        yield Finding("site timeouts", said)


async def _check_commands(
    settings: Settings, address: SiteAddress, client: redis.asyncio.Redis, prefix: bytes
) -> Finding:
    """Whether we may use what the kinds that are replicated need."""
    what, key = f"site permissions {printable(prefix)}", prefix + b"redisrepl:check"
    asked = list(commands_for(AT_SITE, settings.kinds, key))
    asked += commands_for(TO_APPLY, settings.kinds, key) if settings.rc else []
    pool = client.connection_pool
    with translated(address):
        connection: Any = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            (begun,) = await connection.exchange([[b"MULTI"]])
            if isinstance(begun, Exception):  # what follows would be executed
                lost = "nothing of the hub's can be applied" if settings.rc else "other commands were not asked for"
                code = ExitCode.REFUSED if settings.rc else None
                return Finding(what, f"MULTI is refused, so {lost}: {_acl('+multi +exec', address)}", code)
            *replies, _ = await connection.exchange([*(command for _, command in asked), [b"DISCARD"]])
        finally:
            await pool.release(connection)
    denied: dict[str, str] = {}  # what is missing, as an ACL says it > what that is
    without: set[str] = set()
    for (kind, (name, *_)), reply in zip(asked, replies, strict=True):
        unknown = isinstance(reply, redis.exceptions.ResponseError) and str(reply).startswith("unknown command")
        if not (unknown or isinstance(reply, redis.exceptions.NoPermissionError)):
            continue
        if denies_key(str(reply)):
            denied[f"'~{prefix.decode('utf-8', 'backslashreplace')}*'"] = "its keys"
        else:
            denied[f"+{name.decode().lower()}"] = name.decode()
            without.add(kind)
    if not denied:
        return Finding(what, "its keys may be read" + (" and written" if settings.rc else ""))
    said = ", ".join(denied.values()) + what_is_lost(without)
    return Finding(
        what, f"the site's Redis denies or lacks {said}: {_acl(' '.join(denied), address)}", ExitCode.REFUSED
    )


def _acl(words: str, address: SiteAddress) -> str:
    """The command that gives the site's user what is missing."""
    return f"at the site: redis-cli ACL SETUSER {address.username or 'default'} {words}, then ACL SAVE"


async def _check_psync(settings: Settings, address: SiteAddress) -> Finding:
    link = ReplicaLink(address, acknowledged=lambda: 0, connect_wait=settings.connect_timeout)
    try:
        async with asyncio.timeout(settings.timeout), aclosing(link.events()) as events:
            async for event in events:
                if isinstance(event, (FullSync, Continued)):
                    return Finding("site PSYNC", f"allowed, at {event.position}")
    except PsyncRefusedError as error:
        return Finding("site PSYNC", str(error), None if settings.source == "auto" else exit_code(error))
    except (RedisreplError, TimeoutError) as error:
        code = exit_code(error) if isinstance(error, RedisreplError) else ExitCode.UNAVAILABLE
        return Finding("site PSYNC", str(error) or "no answer in time", code)
    return Finding("site PSYNC", "the link ended before it began", ExitCode.UNAVAILABLE)


async def _check_site_flags(settings: Settings, address: SiteAddress, client: redis.asyncio.Redis) -> Finding:
    """Where keyspace events are followed, the site must send them."""
    wanted = missing_flags("", settings.kinds)
    try:
        with translated(address):
            reply = await ask(client, b"CONFIG", b"GET", NOTIFY_OPTION.encode())
        flags = as_option(reply, f"CONFIG GET at the site's Redis {address}")
    except RedisreplError as error:
        advice = f"have {NOTIFY_OPTION} include {wanted}, by the service's own means"
        return Finding("site notifications", f"not known, {error}: {advice}", None)
    if not (missing := missing_flags(flags, settings.kinds)):
        return Finding("site notifications", flags)
    advice = f"it is added at the start if CONFIG SET is allowed, else have {NOTIFY_OPTION} include {wanted}"
    return Finding("site notifications", f"{missing} is missing: {advice}")


async def _check_site_events(settings: Settings, address: SiteAddress, client: redis.asyncio.Redis) -> Finding:
    """Where keyspace events are followed, we must be let subscribe to them."""
    patterns = [keyspace_channel(address.database, glob_escape(prefix)) + b"*" for prefix in settings.ns]
    names = " ".join("&" + pattern.decode("utf-8", "backslashreplace") for pattern in patterns)
    try:
        async with asyncio.timeout(settings.timeout), client.pubsub() as subscription:
            with translated(address):
                await subscription.psubscribe(*patterns)
                for _ in patterns:
                    await subscription.parse_response()
    except RefusedError as error:
        return Finding("site events", f"{error}: allow them (ACL: +psubscribe {names})", ExitCode.REFUSED)
    except RedisreplError as error:
        return Finding("site events", str(error), exit_code(error))
    except TimeoutError:
        return Finding("site events", "no answer to PSUBSCRIBE in time", ExitCode.UNAVAILABLE)
    return Finding("site events", f"PSUBSCRIBE {names.replace('&', '')} is allowed")
