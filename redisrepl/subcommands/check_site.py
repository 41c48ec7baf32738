"""What `redisrepl check` asks the site's Redis: role, memory, limits, whether we may follow it.

In: settings of a daemon, an address. Out: findings. Left to others: the hub (`check_hub`), printing (`check`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from typing import Any, cast

import redis.asyncio
import redis.exceptions

from redisrepl.errors import (
    ExitCode,
    LinkLostError,
    PsyncRefusedError,
    RedisreplError,
    RefusedError,
    exit_code,
)
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import ask, is_refused, translated
from redisrepl.local.connection import open_client
from redisrepl.local.info import SiteInfo, ask_info
from redisrepl.local.stream import ReplicaLink
from redisrepl.namespaces import glob_escape, printable
from redisrepl.paths import default_directory
from redisrepl.settings.settings import Settings
from redisrepl.subcommands.finding import Finding, clock_finding, eviction_findings, failed
from redisrepl.subcommands.losses import SITE_LOSSES, losses_for, without
from redisrepl.subcommands.needs import AT_SITE, TO_APPLY, commands_for, what_is_lost
from redisrepl.subcommands.refusals import Command, Refusals
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
_MULTI = (b"MULTI",)
#: Begins the reply to an EXEC that is itself refused.
_EXEC_REFUSED = "Transaction discarded because of: "


async def check_site(settings: Settings, address: SiteAddress) -> AsyncIterator[Finding]:
    """Everything that a daemon needs of the site; what rests on something that failed is left out."""
    client = open_client(address, settings.connect_timeout, connections=2)
    try:
        try:
            reply = await _answered(address, client, b"INFO")
            info = None if reply is None else as_info(reply, f"INFO at the site's Redis {address}")
            reply = await _answered(address, client, b"TIME")
            clock = None if reply is None else as_clock(reply, f"TIME at the site's Redis {address}")
        except LinkLostError as error:
            hint = "" if address.context or address.path else "; if this port wants TLS: --raddr rediss://HOST:PORT"
            yield Finding("site", f"{error}{hint}", exit_code(error))
            return
        except RedisreplError as error:
            yield failed("site", error)
            return
        for finding in _server(settings, address, info, clock):
            yield finding
        for prefix in settings.ns:
            yield await _check_commands(settings, address, client, prefix)
        async for finding in _losses(settings, address, client):
            yield finding
        refused = settings.source == "notify"
        if not refused:
            for finding in _replica_findings(settings, info, await ask_info(address, settings.connect_timeout)):
                yield finding
            finding = await _check_psync(settings, address)
            yield finding
            refused = finding.code is None
        if refused:
            yield await _check_site_flags(settings, address, client)
            yield await _check_site_events(settings, address, client)
    finally:
        await client.aclose()


async def _answered(address: SiteAddress, client: redis.asyncio.Redis, *argv: bytes) -> object:
    """A command's reply; None where the site refuses this command, which is an answer too."""
    with translated(address):
        try:
            return cast("object", await ask(client, *argv))
        except redis.exceptions.ResponseError as error:
            if is_refused(error):
                return None
            raise


def _server(settings: Settings, address: SiteAddress, info: Info | None, clock: int | None) -> Iterator[Finding]:
    """What the site's Redis tells of itself."""
    if info is None:
        yield Finding("site", f"{address} answers")
    else:
        yield _role(settings, address, info)
        if unlike := not_tried(info):
            yield Finding("site version", unlike, None)
    if clock is not None:
        yield clock_finding("site clock", clock / 1e6)
    if info is not None:
        yield from eviction_findings("site eviction", info)
        yield from _other_followers(settings, address, info)


def _role(settings: Settings, address: SiteAddress, info: Info) -> Finding:
    """Whether it is a server that can be replicated."""
    version = info.text("valkey_version") or info.text("redis_version")
    said = f"{address} answers, version {version}, role {info.text('role')}"
    if info.text("cluster_enabled") == "1":
        remedy = "--raddr of a Redis without cluster-enabled yes"
        said = f"{said}, but of a Redis Cluster one node has some of the keys: {remedy}"
        return Finding("site", said, ExitCode.CONFIG)
    if settings.rc and info.text("role") == "slave":
        master = f"{info.text('master_host')}:{info.text('master_port')}"
        remedy = f"follow its master: --raddr {master}, or --sentinel HOST:PORT/SERVICE"
        return Finding("site", f"{said}, so it refuses what comes from the hub: {remedy}", ExitCode.CONFIG)
    return Finding("site", said)


def _other_followers(settings: Settings, address: SiteAddress, info: Info) -> Iterator[Finding]:
    """Another redisrepl, as far as it can be told: a replica that names no port, and is no daemon of this directory."""
    links = sum(_REPLICA.fullmatch(name) is not None and info.part(name, "port") == 0 for name in info.names())
    ours = documents(settings.state_dir or default_directory())
    links -= sum(said["site"] == str(address) and said["attached_at"] is not None for said in ours)
    if links > 0:
        said = f"{links} more follow it as replicas without a port, perhaps another redisrepl"
        remedy = "redis-cli CLIENT LIST TYPE replica shows them; one for each namespace is enough"
        yield Finding("site followers", f"{said}: {remedy}", None)


def _replica_findings(settings: Settings, info: Info | None, facts: SiteInfo) -> Iterator[Finding]:
    """How long an outage may be, and what ends a link."""
    backlog = facts.backlog_size if info is None else info.number("repl_backlog_size") or 0
    if backlog is None:
        yield Finding("site backlog", "not known, INFO is refused")
    elif backlog < _MIN_BACKLOG:
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


async def _refused(
    address: SiteAddress, client: redis.asyncio.Redis, commands: Iterable[Command], queued: Iterable[Command]
) -> Refusals:
    """What of these the site refuses; `queued` are asked for between MULTI and DISCARD, and not executed."""
    refusals = Refusals("the site's Redis", "at the site", address.username or "default")
    pool, commands, queued = client.connection_pool, list(dict.fromkeys(commands)), list(dict.fromkeys(queued))
    with translated(address):
        connection: Any = await pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            replies = await connection.exchange(commands)
            if queued:
                (begun,) = await connection.exchange([_MULTI])
                commands, replies = [*commands, _MULTI], [*replies, begun]
                if not isinstance(begun, Exception):  # else what follows would be executed
                    commands, replies = [*commands, *queued], [*replies, *await connection.exchange(queued)]
                    await connection.exchange([[b"DISCARD"]])
        finally:
            await connection.disconnect(nowait=True)  # it may watch a key, or be in a transaction
            await pool.release(connection)
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, redis.exceptions.NoPermissionError):
            refusals.note(command, f"NOPERM {reply}")  # which redis-py takes away
        elif isinstance(reply, redis.exceptions.ResponseError):
            refusals.note(command, str(reply).removeprefix(_EXEC_REFUSED))
    return refusals


async def _losses(settings: Settings, address: SiteAddress, client: redis.asyncio.Redis) -> AsyncIterator[Finding]:
    """What is lost since the site refuses what replication can do without."""
    losses = losses_for(SITE_LOSSES, settings, settings.ns[0])  # after which the mark is named
    asked = [command for loss in losses if not loss.queued for command in loss.commands if command != _MULTI]
    queued = [command for loss in losses if loss.queued for command in loss.commands]
    refusals = await _refused(address, client, asked, queued)
    for finding in without("site", losses, refusals, settings.ns[0]):
        yield finding


async def _check_commands(
    settings: Settings, address: SiteAddress, client: redis.asyncio.Redis, prefix: bytes
) -> Finding:
    """Whether we may use what the kinds that are replicated need."""
    what, key = f"site permissions {printable(prefix)}", prefix + b"redisrepl:check"
    read = list(commands_for(AT_SITE, settings.kinds, key))
    write = list(commands_for(TO_APPLY, settings.kinds, key)) if settings.rc else []
    refusals = await _refused(address, client, [command for _, command in read], [command for _, command in write])
    if missing := refusals.among(command for _, command in (*read, *write)):
        lost = what_is_lost({kind for kind, command in (*read, *write) if refusals.of_command(command)})
        remedy = refusals.remedy(missing, keys=prefix)
        return Finding(what, f"{refusals.said(missing)}{lost}: {remedy}", ExitCode.REFUSED)
    unasked = ", what it may write was not asked, since MULTI is refused" if refusals.among([_MULTI]) else ""
    return Finding(what, "its keys may be read" + (unasked or (" and written" if settings.rc else "")))


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
