"""What `redisrepl check` asks the hub: TLS, permissions, limits, events.

In: settings of a daemon. Out: findings. Left to others: the site (`check_site`), printing (`check`).

Nothing is changed there: a write is asked for in a form that Redis refuses after it has looked at the permissions, or
that finds nothing to write to.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence

from redisrepl.errors import (
    BodyTooLargeError,
    CommandRefusedError,
    ConfigError,
    ExitCode,
    HubError,
    LinkLostError,
    PeerUnavailableError,
    RedisreplError,
)
from redisrepl.local.address import SiteAddress
from redisrepl.local.info import ask_info
from redisrepl.namespaces import Namespaces, glob_escape, printable
from redisrepl.opening import open_hub, refuse_one_for_both
from redisrepl.remote.hub import Hub
from redisrepl.remote.push import HubPusher
from redisrepl.settings.settings import Settings
from redisrepl.subcommands.finding import Finding, clock_finding, eviction_findings, failed
from redisrepl.subcommands.losses import HUB_LOSSES, Loss, losses_for, without
from redisrepl.subcommands.needs import AT_HUB, commands_for, what_is_lost
from redisrepl.subcommands.refusals import Command, Refusals
from redisrepl.tested import not_tried
from redisrepl.tls.certificates import hub_files
from redisrepl.tls.contexts import client_context
from redisrepl.wire.keyspace import keyspace_channel, missing_flags
from redisrepl.wire.replies import as_clock, as_info, as_option

__all__ = ["check_hub"]

_CANARY_PATIENCE = 10.0
_SMALLEST_BODY = 16 << 10
_SERVER_ERROR = 500
_CONFIG_GET = (b"CONFIG", b"GET", b"notify-keyspace-events")


async def check_hub(settings: Settings, address: SiteAddress) -> AsyncIterator[Finding]:
    """Everything that a daemon needs of the hub; what rests on something that failed is left out."""
    try:
        context = client_context(hub_files(settings))
        hub, namespaces = open_hub(settings, context), Namespaces(settings.ns)
    except RedisreplError as error:
        yield failed("hub", error)
        return
    try:
        started = time.monotonic()
        await _answered(hub, b"PING")
        yield Finding("hub", f"{hub.url} answers after {(time.monotonic() - started) * 1000:.0f} ms")
        async for finding in _server(hub, settings, address):
            yield finding
        allowed = []
        for prefix in namespaces:
            finding = await _permissions(settings, hub, prefix)
            yield finding
            allowed += [prefix] if finding.code is ExitCode.OK else []
        scripts = True
        async for finding in _losses(settings, hub):
            scripts = scripts and finding.what != "hub scripts"
            yield finding
        if not allowed:
            return
        if scripts:
            yield await _scripts(hub, settings, allowed[0])
        yield await _body_limit(hub, settings, allowed[0])
        if settings.rc:
            async for finding in _pulling(settings, hub, allowed):
                yield finding
    except HubError as error:
        code = ExitCode.CONFIG if error.status == 404 else None  # noqa: PLR2004 - Not Found
        yield Finding("hub", str(error), code) if code else failed("hub", error)
    except RedisreplError as error:
        yield failed("hub", error)
    finally:
        await hub.close()


async def _answered(hub: Hub, *argv: bytes) -> object:
    """A command's reply; None where Redis or Webdis refuses this command, which is an answer too.

    Raises:
        CommandRefusedError: the refusal is about a password: nothing else will work either.
    """
    try:
        return await hub.command(*argv)
    except CommandRefusedError as error:
        if any(word in str(error) for word in ("NOAUTH", "WRONGPASS")):
            said = f"the hub's Redis refuses us: {error}: {hub.login_hint}"
            raise CommandRefusedError(said, status=error.status) from None
        return None


async def _server(hub: Hub, settings: Settings, address: SiteAddress) -> AsyncIterator[Finding]:
    """What the hub's Redis tells of itself."""
    info = await _answered(hub, b"INFO")
    info = as_info(b"" if info is None else info, f"INFO at the hub {hub.url}")
    site = await ask_info(address, settings.connect_timeout)
    try:
        refuse_one_for_both(address, site.run_id, hub, info.text("run_id"))
    except ConfigError as error:
        yield failed("hub", error)
    if info.text("cluster_enabled") == "1":
        remedy = "in its redis.conf: cluster-enabled no"
        yield Finding(
            "hub cluster", f"it is a Redis Cluster, of which Webdis sees one node only: {remedy}", ExitCode.CONFIG
        )
    if unlike := not_tried(info):
        yield Finding("hub version", unlike, None)
    for finding in eviction_findings("hub eviction", info):
        yield finding
    reply = await _answered(hub, b"TIME")
    if reply is not None:
        yield clock_finding("hub clock", as_clock(reply, f"TIME at the hub {hub.url}") / 1e6)


async def _refused(hub: Hub, commands: Iterable[Command], refusals: Refusals) -> None:
    """Ask for each of these, and note what is refused."""

    async def ask(command: Command) -> None:
        try:
            await hub.command(*command)
        except CommandRefusedError as error:
            refusals.note(command, str(error), error.status)

    await asyncio.gather(*map(ask, dict.fromkeys(commands)))


async def _losses(settings: Settings, hub: Hub) -> AsyncIterator[Finding]:
    """What is lost since the hub refuses what replication can do without."""
    prefix = settings.ns[0]  # after which the fence is named
    refusals, losses = await _refusals(hub), losses_for(HUB_LOSSES, settings, prefix)
    publish = Loss("canary", (_publish(hub, prefix),), "a silent subscription is noticed late", rc=True)
    losses += [publish] if settings.rc else []
    await _refused(hub, [command for loss in losses if not loss.beside for command in loss.commands], refusals)
    beside = [loss for loss in losses if refusals.among(loss.beside)]  # such a command may cost the hub time
    await _refused(hub, [command for loss in beside for command in loss.commands], refusals)
    if refusals.of_channel(publish.commands[0]):
        losses.remove(publish)  # that is said of each namespace
    for finding in without("hub", losses, refusals, prefix):
        yield finding


async def _refusals(hub: Hub) -> Refusals:
    """To note what the hub refuses to the user who we are there."""
    user = hub.user
    if user is None:  # Webdis logs in
        name = await _answered(hub, b"ACL", b"WHOAMI")
        user = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else None
    return Refusals("the hub's Redis", "on the hub", user)


def _publish(hub: Hub, prefix: bytes) -> Command:
    return (b"PUBLISH", keyspace_channel(hub.database, prefix + b"redisrepl:check"), b"check")


async def _permissions(settings: Settings, hub: Hub, prefix: bytes) -> Finding:
    """Whether the hub's Redis lets us have this namespace: the commands, its keys, its channel."""
    what = f"hub permissions {printable(prefix)}"
    asked = list(commands_for(AT_HUB, settings.kinds, prefix + b"redisrepl:check"))
    commands, publish, refusals = [command for _, command in asked], _publish(hub, prefix), await _refusals(hub)
    await _refused(hub, [*commands, *([publish] if settings.rc else [])], refusals)
    commands += [publish] if refusals.of_channel(publish) else []
    if missing := refusals.among(commands):
        named = refusals.said(missing, channel="its channel, so that no events would come")
        lost = what_is_lost({kind for kind, command in asked if refusals.of_command(command)})
        remedy = refusals.remedy(missing, keys=prefix, channel=keyspace_channel(hub.database, prefix))
        return Finding(what, f"{named}{lost}: {remedy}", ExitCode.REFUSED)
    return Finding(what, "its keys may be read and written" + (", its events heard" if settings.rc else ""))


async def _scripts(hub: Hub, settings: Settings, prefix: bytes) -> Finding:
    """Whether the hub runs the script that pushes."""
    pusher = HubPusher(hub, settings.max_body)
    await pusher.push([[b"TYPE", prefix + b"redisrepl:check"]])
    if pusher.scripts.allowed:
        return Finding("hub scripts", "allowed")
    return Finding("hub scripts", "scripts are refused, so each write is a request of its own", None)


async def _body_limit(hub: Hub, settings: Settings, prefix: bytes) -> Finding:
    """Whether a request of the largest size arrives: the name of a key that nobody has may be long."""
    size = int(settings.max_body)
    trouble = ""
    while size >= _SMALLEST_BODY:
        try:
            await hub.command(b"GET", prefix + b"x" * (size - len(prefix) - len(b"GET/.raw")))
        except BodyTooLargeError as error:
            trouble = trouble or f"{error}"
        except HubError as error:
            if error.status != _SERVER_ERROR:
                raise
            trouble = trouble or f"{error}: its proxy may lack a directory for bodies (nginx: client_body_temp_path)"
        else:
            if not trouble:
                return Finding("hub body limit", f"{settings.max_body} bytes pass")
            remedy = f"raise it there (client_max_body_size 64m;), or --max-body {size}"
            return Finding("hub body limit", f"{trouble}; {size} bytes pass: {remedy}", None)
        size //= 2
    return Finding("hub body limit", trouble or "not tried", None)


async def _pulling(settings: Settings, hub: Hub, prefixes: Sequence[bytes]) -> AsyncIterator[Finding]:
    yield await _notifications(settings, hub)
    if "del" in settings.kinds and await _answered(hub, b"INFO", b"all") is not None:
        yield Finding("hub flushes", "INFO tells of them")
    for prefix in prefixes:
        yield await _subscription(hub, prefix)


async def _notifications(settings: Settings, hub: Hub) -> Finding:
    what = "hub notifications"
    reply = await _answered(hub, *_CONFIG_GET)
    wanted = missing_flags("", settings.kinds)
    remedy = f"on the hub: redis-cli CONFIG SET notify-keyspace-events {wanted}, and the same in its redis.conf"
    if reply is None:
        refusals = await _refusals(hub)
        await _refused(hub, [_CONFIG_GET], refusals)
        allowed = refusals.remedy([_CONFIG_GET], keys=b"")
        return Finding(what, f"not known, CONFIG GET is refused: {allowed}; or see that it has {wanted}", None)
    flags = as_option(reply, f"CONFIG GET at the hub {hub.url}")
    missing = missing_flags(flags, settings.kinds)
    if not missing:
        return Finding(what, flags)
    if settings.notify_config == "merge":
        return Finding(
            what, f"{missing} is missing and will be added at the start if CONFIG SET is allowed, else {remedy}"
        )
    remedy = remedy.replace(wanted, flags + missing)
    return Finding(what, f"{missing} is missing: have it set there: {remedy}", ExitCode.CONFIG)


async def _subscription(hub: Hub, prefix: bytes) -> Finding:
    """Subscribe, publish, and see the message come back."""
    what = f"hub subscription {printable(prefix)}"
    publish = _publish(hub, prefix)
    pattern = keyspace_channel(hub.database, glob_escape(prefix)) + b"*"
    sent = 0.0
    try:
        async with hub.psubscribe(pattern, silence=_CANARY_PATIENCE) as lists:
            async for messages in lists:
                if any(heard == publish[1] for heard, _ in messages):
                    took = (time.monotonic() - sent) * 1000
                    return Finding(what, f"a message came back after {took:.0f} ms, by {hub.event_channel}")
                if not sent:
                    sent = time.monotonic()
                    await hub.command(*publish)
    except CommandRefusedError as error:
        if sent:
            return Finding(what, f"confirmed by {hub.event_channel}, and not tried: PUBLISH is refused", None)
        return Finding(what, str(error), ExitCode.REFUSED)
    except (LinkLostError, PeerUnavailableError) as error:
        buffered = ": no proxy may buffer the answer (nginx: proxy_buffering off;)" if sent else ""
        return Finding(what, f"no message came back: {error}{buffered}", ExitCode.UNAVAILABLE)
    return Finding(what, "the hub ended the subscription: see its log", ExitCode.UNAVAILABLE)
