"""`redisrepl check`: every precondition, one line each, with what to do where one does not hold.

In: settings of a daemon. Out: lines, and the exit code that a daemon would end with. Left to others: healing anything:
nothing is changed on either side, but for a message on a channel of the namespace.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TextIO

import redis.asyncio
from cryptography import x509

from redisrepl.checkpoint import default_directory
from redisrepl.errors import (
    BodyTooLargeError,
    CommandRefusedError,
    ExitCode,
    LinkLostError,
    PeerUnavailableError,
    PsyncRefusedError,
    RedisreplError,
    RefusedError,
    exit_code,
)
from redisrepl.local.address import SiteAddress
from redisrepl.local.client import ask, translated
from redisrepl.local.connection import open_client
from redisrepl.local.facts import Facts, ask_facts
from redisrepl.local.stream import ReplicaLink
from redisrepl.namespaces import Namespaces, glob_escape, printable
from redisrepl.remote.push import HubPusher
from redisrepl.remote.session import HubSession, check_url
from redisrepl.remote.ways import Ways
from redisrepl.remote.websocket import WebSocketHub
from redisrepl.settings import Settings
from redisrepl.tls import CertificateFiles, client_context, read_file, readable_by_others
from redisrepl.wire.keyspace import NOTIFY_OPTION, missing_flags
from redisrepl.wire.psync import Continued, FullSync
from redisrepl.wire.replies import Info, as_clock, as_info, as_option
from redisrepl.wire.webdis import keyspace_channel

__all__ = ["Finding", "run"]

_EXPIRES_SOON = timedelta(days=14)
_CLOCK_TOLERANCE = 2.0
_MIN_BACKLOG = 16 << 20
#: Redis' own defaults leave 64 MiB for a minute; below that a burst of large values ends the link.
_MIN_BUFFER = 64 << 20
_MIN_TIMEOUT = 10
_CANARY_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        what: the precondition.
        said: what was found, and what to do if it does not hold.
        code: OK, or how a daemon would end; None for something that works but could be better.
    """

    what: str
    said: str
    code: ExitCode | None = ExitCode.OK


async def run(settings: Settings, address: SiteAddress, *, out: TextIO) -> int:
    """Check everything; what cannot be checked because something before it failed is left out."""
    findings = [finding async for finding in _findings(settings, address, out)]
    failed = [finding.code for finding in findings if finding.code]
    warned = sum(finding.code is None for finding in findings)
    out.write(f"{len(findings)} checks, {len(failed)} failed, {warned} could be better\n")
    return failed[0] if failed else ExitCode.OK


async def _findings(settings: Settings, address: SiteAddress, out: TextIO) -> AsyncIterator[Finding]:
    for group in (_check_settings, _check_site, _check_hub):
        async for finding in group(settings, address):
            sign = {ExitCode.OK: "ok  ", None: "note"}.get(finding.code, "FAIL")
            out.write(f"{sign} {finding.what}: {finding.said}\n")
            out.flush()
            yield finding


async def _check_settings(settings: Settings, _address: SiteAddress) -> AsyncIterator[Finding]:
    try:
        namespaces = Namespaces(settings.ns)
    except RedisreplError as error:
        yield Finding("namespaces", str(error), exit_code(error))
    else:
        for prefix in namespaces.without_delimiter():
            name = printable(prefix)
            yield Finding("namespaces", f"{name} also covers {name}2: end it with a colon", None)
        yield Finding("namespaces", ", ".join(map(printable, namespaces)))
    yield _state_finding(settings)
    try:
        client_context(CertificateFiles(settings.ca, settings.cert, settings.key))
    except RedisreplError as error:
        yield Finding("certificates", str(error), exit_code(error))
        return
    if settings.cert is None:
        yield Finding("certificates", "no client certificate is given: give --cert and --key", ExitCode.CONFIG)
        return
    if settings.key is not None and readable_by_others(settings.key):
        yield Finding("private key", f"{settings.key} can be read by others: chmod 600 {settings.key}", None)
    expiry = x509.load_pem_x509_certificates(read_file(settings.cert, "--cert"))[0].not_valid_after_utc
    said = f"{settings.cert} fits {settings.key} and expires on {expiry:%Y-%m-%d}"
    soon = expiry - datetime.now(UTC) < _EXPIRES_SOON
    yield Finding("certificates", f"{said}: renew it now" if soon else said, None if soon else ExitCode.OK)


def _state_finding(settings: Settings) -> Finding:
    """Whether the position can be kept; nothing is made for it."""
    directory = settings.state_dir or default_directory()
    existing = next((path for path in (directory, *directory.parents) if path.exists()), directory)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding("state directory", str(directory))
    said = f"{directory} cannot be written: each start is a full synchronisation: set --state-dir to one that can"
    return Finding("state directory", said, ExitCode.CONFIG if settings.state_dir is not None else None)


async def _check_site(settings: Settings, address: SiteAddress) -> AsyncIterator[Finding]:
    client = open_client(address, settings.connect_timeout, connections=2)
    try:
        try:
            with translated(address):
                info = as_info(await ask(client, b"INFO"), f"INFO at the site's Redis {address}")
                clock = as_clock(await ask(client, b"TIME"), f"TIME at the site's Redis {address}")
        except RedisreplError as error:
            yield Finding("site", str(error), exit_code(error))
            return
        version = info.text("valkey_version") or info.text("redis_version")
        said = f"{address} answers, version {version}, role {info.text('role')}"
        if settings.rc and info.text("role") == "slave":
            advice = "what comes from the hub it refuses: follow its master (--raddr, --sentinel)"
            yield Finding("site", f"{said}: {advice}", ExitCode.CONFIG)
        else:
            yield Finding("site", said)
        yield _clock_finding("site clock", clock / 1e6)
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


def _replica_findings(settings: Settings, info: Info, facts: Facts) -> Iterator[Finding]:
    """How long a gap may be, and what ends a link."""
    backlog = info.number("repl_backlog_size") or 0
    if backlog < _MIN_BACKLOG:
        advice = f"CONFIG SET repl-backlog-size {_MIN_BACKLOG >> 20}mb, or a longer gap is a full synchronisation"
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
    wanted = missing_flags("", settings.replicate)
    try:
        with translated(address):
            reply = await ask(client, b"CONFIG", b"GET", NOTIFY_OPTION.encode())
        flags = as_option(reply, f"CONFIG GET at the site's Redis {address}")
    except RedisreplError as error:
        advice = f"have {NOTIFY_OPTION} include {wanted}, by the service's own means"
        return Finding("site notifications", f"not known, {error}: {advice}", None)
    if not (missing := missing_flags(flags, settings.replicate)):
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


async def _check_hub(settings: Settings, _address: SiteAddress) -> AsyncIterator[Finding]:
    try:
        context = client_context(CertificateFiles(settings.ca, settings.cert, settings.key))
        url, namespaces = check_url(settings.haddr), Namespaces(settings.ns)
    except RedisreplError as error:
        yield Finding("hub", str(error), exit_code(error))
        return
    session = HubSession(url, context, timeout=settings.timeout, connect_timeout=settings.connect_timeout)
    ways = Ways(session, WebSocketHub(url, context), settings.subscribe, connect_timeout=settings.connect_timeout)
    try:
        started = time.monotonic()
        await session.command(b"EXISTS", namespaces.prefixes[0] + b"redisrepl:check")
        yield Finding("hub", f"{url} answers after {(time.monotonic() - started) * 1000:.0f} ms")
        async for finding in _check_hub_abilities(settings, session, ways, namespaces):
            yield finding
    except RedisreplError as error:
        yield Finding("hub", str(error), exit_code(error))
    finally:
        await session.close()


async def _check_hub_abilities(
    settings: Settings, session: HubSession, ways: Ways, namespaces: Namespaces
) -> AsyncIterator[Finding]:
    try:
        yield _clock_finding("hub clock", await session.clock() / 1e6)
    except CommandRefusedError as error:
        yield Finding("hub clock", str(error), None)
    pusher = HubPusher(session, settings.max_body)
    await pusher.push([[b"EXISTS", namespaces.prefixes[0]]])
    if pusher.scripts:
        yield Finding("hub scripts", "allowed")
    else:
        yield Finding("hub scripts", "EVAL is refused, so each write is a request of its own: allow it", None)
    try:
        await session.command(b"EXISTS", *[b"x" * 1000] * (settings.max_body // 1000))
        yield Finding("hub body limit", f"{settings.max_body} bytes pass")
    except BodyTooLargeError as error:
        yield Finding("hub body limit", f"{error}: raise it there, or lower --max-body", None)
    if not settings.rc:
        return
    try:
        flags = await session.option(NOTIFY_OPTION.encode())
        missing = missing_flags(flags, settings.replicate)
        if not missing:
            yield Finding("hub notifications", flags)
        elif settings.notify_config == "merge":
            yield Finding("hub notifications", f"{missing} is missing and will be added at the start")
        else:
            yield Finding("hub notifications", f"{missing} is missing: have it set there", ExitCode.CONFIG)
    except CommandRefusedError as error:
        yield Finding("hub notifications", f"{error}: make sure that notify-keyspace-events has K$hg", None)
    if "del" in settings.replicate:
        yield await _check_flushes(session)
    for prefix in namespaces:
        yield await _check_subscription(settings, session, ways, prefix)


async def _check_flushes(session: HubSession) -> Finding:
    try:
        await session.text(b"INFO", b"all")
    except CommandRefusedError as error:
        return Finding("hub flushes", f"{error}: allow INFO, or a FLUSHALL there is undone instead of followed", None)
    return Finding("hub flushes", "INFO tells of them")


async def _check_subscription(settings: Settings, session: HubSession, ways: Ways, prefix: bytes) -> Finding:
    """Subscribe, publish, and see the message come back."""
    what = f"hub subscription {printable(prefix)}"
    channel = keyspace_channel(settings.hub_database, prefix + b"redisrepl:check")
    pattern = keyspace_channel(settings.hub_database, glob_escape(prefix)) + b"*"
    try:
        async with ways.subscribe(pattern, silence=_CANARY_PATIENCE) as lists:
            sent = 0.0
            async for messages in lists:
                if any(heard == channel for heard, _ in messages):
                    took = (time.monotonic() - sent) * 1000
                    return Finding(what, f"a message came back after {took:.0f} ms, by {ways.way}")
                if not sent:
                    sent = time.monotonic()
                    await session.command(b"PUBLISH", channel, b"check")
    except CommandRefusedError as error:
        return Finding(what, str(error), None)
    except (LinkLostError, PeerUnavailableError) as error:
        advice = f"allow the channel {pattern.decode('utf-8', 'backslashreplace')}, and no proxy may buffer the answer"
        return Finding(what, f"no message came back: {error}: {advice}", ExitCode.UNAVAILABLE)
    return Finding(what, "the hub ended the subscription", ExitCode.UNAVAILABLE)


def _clock_finding(what: str, there: float) -> Finding:
    off = there - time.time()
    if abs(off) > _CLOCK_TOLERANCE:
        return Finding(
            what, f"{off:+.1f} s from ours: keys with an expiry end at other times there: set it right", None
        )
    return Finding(what, f"{off:+.1f} s from ours")
