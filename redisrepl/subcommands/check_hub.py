"""What `redisrepl check` asks the hub: TLS, permissions, limits, events.

In: settings of a daemon. Out: findings. Left to others: the site (`check_site`), printing (`check`).

Nothing is changed there: a write is asked for in a form that Redis refuses after it has looked at the permissions, or
that finds nothing to write to.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence

from redisrepl.errors import (
    BodyTooLargeError,
    CommandRefusedError,
    ExitCode,
    HubError,
    LinkLostError,
    PeerUnavailableError,
    RedisreplError,
    denies_key,
)
from redisrepl.local.address import SiteAddress
from redisrepl.namespaces import Namespaces, glob_escape, printable
from redisrepl.remote.push import HubPusher
from redisrepl.remote.session import HubSession, check_url
from redisrepl.remote.ways import Ways
from redisrepl.settings.settings import Settings
from redisrepl.subcommands.finding import Finding, clock_finding, eviction_findings, failed
from redisrepl.tested import not_tried
from redisrepl.tls.certificates import hub_files
from redisrepl.tls.contexts import client_context
from redisrepl.wire.keyspace import missing_flags
from redisrepl.wire.replies import as_clock, as_info, as_option
from redisrepl.wire.webdis import keyspace_channel

__all__ = ["check_hub"]

_CANARY_PATIENCE = 10.0
_SMALLEST_BODY = 16 << 10
_FORBIDDEN = 403
_SERVER_ERROR = 500
#: What is asked of a key that is not there; `HSET` with half a pair, and an entry 0-0, are refused once the permission
#: is there. `SADD` and `RPUSH` have no form that would write nothing.
_ASKED: dict[str, tuple[tuple[bytes, ...], ...]] = {
    "": ((b"TYPE",), (b"GET",), (b"HGETALL",), (b"PTTL",)),
    "set": ((b"SET", b"", b"XX"),),
    "hset": ((b"HSET", b"f", b"v", b"f"),),
    "sets": ((b"SREM", b"m"), (b"SMEMBERS",), (b"SISMEMBER", b"m")),
    "zsets": ((b"ZADD", b"no score", b"m"), (b"ZREM", b"m"), (b"ZRANGE", b"0", b"-1"), (b"ZSCORE", b"m")),
    "lists": ((b"LTRIM", b"0", b"-1"), (b"LRANGE", b"0", b"-1"), (b"LLEN",)),
    "streams": (
        *((b"XADD", b"0-0", b"f", b"v"), (b"XSETID", b"0-0"), (b"XDEL", b"0-1"), (b"XTRIM", b"MAXLEN", b"0")),
        *((b"XRANGE", b"-", b"+"), (b"XREVRANGE", b"+", b"-")),
    ),
    "del": ((b"DEL",), (b"HDEL", b"f")),
    "expire": ((b"PEXPIRETIME",), (b"PEXPIREAT", b"1"), (b"PERSIST",)),
}
#: How Redis 7.2 and later name the user that they refuse.
_USER = re.compile(r"[Uu]ser (\S+) has no permissions")


async def check_hub(settings: Settings, _address: SiteAddress) -> AsyncIterator[Finding]:
    """Everything that a daemon needs of the hub; what rests on something that failed is left out."""
    try:
        context = client_context(hub_files(settings))
        url, namespaces = check_url(settings.haddr), Namespaces(settings.ns)
    except RedisreplError as error:
        yield failed("hub", error)
        return
    session = HubSession(url, context, timeout=settings.timeout, connect_timeout=settings.connect_timeout)
    ways = Ways(session, url, context, settings.subscribe, connect_timeout=settings.connect_timeout)
    try:
        started = time.monotonic()
        await _answered(session, b"PING")
        yield Finding("hub", f"{session.url} answers after {(time.monotonic() - started) * 1000:.0f} ms")
        async for finding in _server(session):
            yield finding
        allowed = []
        for prefix in namespaces:
            finding = await _permissions(settings, session, prefix)
            yield finding
            allowed += [prefix] if finding.code is ExitCode.OK else []
        if not allowed:
            return
        yield await _scripts(session, settings, allowed[0])
        yield await _body_limit(session, settings, allowed[0])
        if settings.rc:
            async for finding in _pulling(settings, session, ways, allowed):
                yield finding
    except HubError as error:
        code = ExitCode.CONFIG if error.status == 404 else None  # noqa: PLR2004 - Not Found
        yield Finding("hub", str(error), code) if code else failed("hub", error)
    except RedisreplError as error:
        yield failed("hub", error)
    finally:
        await session.close()


async def _answered(session: HubSession, *argv: bytes) -> object:
    """A command's reply; None where Redis or Webdis refuses this command, which is an answer too.

    Raises:
        CommandRefusedError: the refusal is about a password: nothing else will work either.
    """
    try:
        return await session.command(*argv)
    except CommandRefusedError as error:
        if any(word in str(error) for word in ("NOAUTH", "WRONGPASS")):
            remedy = "redis_auth in webdis.json must be the password in users.acl; restart Webdis then"
            raise CommandRefusedError(
                f"the hub's Redis refuses Webdis: {error}: {remedy}", status=error.status
            ) from None
        return None


async def _server(session: HubSession) -> AsyncIterator[Finding]:
    """What the hub's Redis tells of itself."""
    info = await _answered(session, b"INFO")
    told = as_info(b"" if info is None else info, f"INFO at the hub {session.url}")
    if told.text("cluster_enabled") == "1":
        remedy = "in its redis.conf: cluster-enabled no"
        yield Finding(
            "hub cluster", f"it is a Redis Cluster, of which Webdis sees one node only: {remedy}", ExitCode.CONFIG
        )
    if unlike := not_tried(told):
        yield Finding("hub version", unlike, None)
    for finding in eviction_findings("hub eviction", told):
        yield finding
    reply = await _answered(session, b"TIME")
    if reply is not None:
        yield clock_finding("hub clock", as_clock(reply, f"TIME at the hub {session.url}") / 1e6)
    else:
        yield Finding("hub clock", f"not known, TIME is refused: {_acl('+time')}", None)


async def _permissions(settings: Settings, session: HubSession, prefix: bytes) -> Finding:
    """Whether the hub's Redis lets us have this namespace: the commands, its keys, its channel."""
    what = f"hub permissions {printable(prefix)}"
    denied: dict[str, str] = {}  # what is missing, as an ACL says it > what that means
    user = "default"
    for name, *rest in _commands(settings, prefix):
        try:
            await session.command(name, *rest)
        except CommandRefusedError as error:
            text = str(error)
            if error.status == _FORBIDDEN:
                remedy = f"take {name.decode()} out of 'disabled' in its webdis.json"
                return Finding(what, f"Webdis refuses {name.decode()}: {remedy}", ExitCode.REFUSED)
            if "NOPERM" in text:
                if match := _USER.search(text):
                    user = match[1]
                grant, said = _missing(name, text, keyspace_channel(settings.hub_database, prefix), prefix)
                denied[grant] = said
    if denied:
        said = ", ".join(dict.fromkeys(denied.values()))
        return Finding(what, f"the hub's Redis denies {said}: {_acl(' '.join(denied), user)}", ExitCode.REFUSED)
    return Finding(what, "its keys may be read and written" + (", its events heard" if settings.rc else ""))


def _commands(settings: Settings, prefix: bytes) -> Iterator[Sequence[bytes]]:
    key = prefix + b"redisrepl:check"
    for kind in ("", *sorted(settings.replicate)):
        for name, *rest in _ASKED[kind]:
            yield name, key, *rest
    if settings.rc:
        yield b"PUBLISH", keyspace_channel(settings.hub_database, key), b"check"


def _missing(name: bytes, error: str, channel: bytes, prefix: bytes) -> tuple[str, str]:
    """What an ACL lacks, and what that is."""
    if "channel" in error:
        return f"'&{channel.decode('utf-8', 'backslashreplace')}*'", "its channel, so that no events would come"
    if denies_key(error):
        return f"'~{prefix.decode('utf-8', 'backslashreplace')}*'", "its keys"
    return f"+{name.decode().lower()}", name.decode()


def _acl(words: str, user: str = "default") -> str:
    """The command that gives the hub's user what is missing."""
    return f"on the hub: redis-cli ACL SETUSER {user} {words}, then ACL SAVE"


async def _scripts(session: HubSession, settings: Settings, prefix: bytes) -> Finding:
    pusher = HubPusher(session, settings.max_body)
    await pusher.push([[b"TYPE", prefix + b"redisrepl:check"]])
    if pusher.scripts:
        return Finding("hub scripts", "allowed")
    said = "EVAL is refused, so each write is a request of its own"
    return Finding("hub scripts", f"{said}: {_acl('+eval +evalsha')}", None)


async def _body_limit(session: HubSession, settings: Settings, prefix: bytes) -> Finding:
    """Whether a request of the largest size arrives: the name of a key that nobody has may be long."""
    size = int(settings.max_body)
    trouble = ""
    while size >= _SMALLEST_BODY:
        try:
            await session.command(b"GET", prefix + b"x" * (size - len(prefix) - len(b"GET/.raw")))
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


async def _pulling(
    settings: Settings, session: HubSession, ways: Ways, prefixes: Sequence[bytes]
) -> AsyncIterator[Finding]:
    yield await _notifications(settings, session)
    if "del" in settings.replicate:
        if await _answered(session, b"INFO", b"all") is None:
            said = "INFO is refused, so a FLUSHALL there is undone instead of followed"
            yield Finding("hub flushes", f"{said}: {_acl('+info')}", None)
        else:
            yield Finding("hub flushes", "INFO tells of them")
    for prefix in prefixes:
        yield await _subscription(settings, session, ways, prefix)


async def _notifications(settings: Settings, session: HubSession) -> Finding:
    what = "hub notifications"
    reply = await _answered(session, b"CONFIG", b"GET", b"notify-keyspace-events")
    wanted = missing_flags("", settings.replicate)
    remedy = f"on the hub: redis-cli CONFIG SET notify-keyspace-events {wanted}, and the same in its redis.conf"
    if reply is None:
        said = f"not known, CONFIG GET is refused: {_acl('+config|get')}; or see that it has {wanted}"
        return Finding(what, said, None)
    flags = as_option(reply, f"CONFIG GET at the hub {session.url}")
    missing = missing_flags(flags, settings.replicate)
    if not missing:
        return Finding(what, flags)
    if settings.notify_config == "merge":
        return Finding(
            what, f"{missing} is missing and will be added at the start if CONFIG SET is allowed, else {remedy}"
        )
    remedy = remedy.replace(wanted, flags + missing)
    return Finding(what, f"{missing} is missing: have it set there: {remedy}", ExitCode.CONFIG)


async def _subscription(settings: Settings, session: HubSession, ways: Ways, prefix: bytes) -> Finding:
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
        return Finding(what, f"{error}: {_acl('+psubscribe +publish')}", ExitCode.REFUSED)
    except (LinkLostError, PeerUnavailableError) as error:
        name = pattern.decode("utf-8", "backslashreplace")
        remedy = f"{_acl(repr('&' + name))}; and no proxy may buffer the answer (nginx: proxy_buffering off;)"
        return Finding(what, f"no message came back: {error}: {remedy}", ExitCode.UNAVAILABLE)
    return Finding(what, "the hub ended the subscription: see its log", ExitCode.UNAVAILABLE)
