"""`redisrepl check`: every precondition, one line each, with what to do where one does not hold.

In: settings of a daemon. Out: lines, and the exit code that a daemon would end with. Left to others: asking the servers
(`check_site`, `check_hub`); healing anything: nothing is changed on either side, but for a message on a channel of the
namespace.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TextIO

from redisrepl.errors import ExitCode, RedisreplError
from redisrepl.local.address import SiteAddress
from redisrepl.namespaces import Namespaces, printable
from redisrepl.paths import default_directory
from redisrepl.settings.settings import Settings
from redisrepl.subcommands.check_hub import check_hub
from redisrepl.subcommands.check_site import check_site
from redisrepl.subcommands.finding import Finding, failed
from redisrepl.tls.certificates import hub_files
from redisrepl.tls.contexts import client_context, readable_by_others

__all__ = ["Finding", "run"]

_EXPIRES_SOON = timedelta(days=14)


async def run(settings: Settings, address: SiteAddress, *, out: TextIO) -> int:
    """Check everything; what cannot be checked because something before it failed is left out."""
    findings = [finding async for finding in _findings(settings, address, out)]
    codes = [finding.code for finding in findings if finding.code]
    warned = sum(finding.code is None for finding in findings)
    out.write(f"{len(findings)} checks, {len(codes)} failed, {warned} could be better\n")
    return codes[0] if codes else ExitCode.OK


async def _findings(settings: Settings, address: SiteAddress, out: TextIO) -> AsyncIterator[Finding]:
    for group in (_check_settings, check_site, check_hub):
        async for finding in group(settings, address):
            sign = {ExitCode.OK: "ok  ", None: "note"}.get(finding.code, "FAIL")
            out.write(f"{sign} {finding.what}: {finding.said}\n")
            out.flush()
            yield finding


async def _check_settings(settings: Settings, _address: SiteAddress) -> AsyncIterator[Finding]:
    try:
        namespaces = Namespaces(settings.ns)
    except RedisreplError as error:
        yield failed("namespaces", error)
    else:
        for prefix in namespaces.without_delimiter():
            name = printable(prefix)
            yield Finding("namespaces", f"{name} also covers {name}2: end it with a colon, --ns {name}:", None)
        yield Finding("namespaces", ", ".join(map(printable, namespaces)))
    yield _state_finding(settings)
    try:
        context = client_context(hub_files(settings))
    except RedisreplError as error:
        yield failed("certificates", error)
        return
    for complaint in context.complaints:
        yield Finding("authorities", f"{complaint}; --strict-certificates would refuse it", None)
    expiry = context.ends_at
    if settings.cert is None or expiry is None:
        yield Finding("certificates", "no client certificate is given: --cert FILE --key FILE", ExitCode.CONFIG)
        return
    if settings.key is not None and readable_by_others(settings.key):
        yield Finding("private key", f"{settings.key} can be read by others: chmod 600 {settings.key}", None)
    said = f"{settings.cert} fits {settings.key} and expires on {expiry:%Y-%m-%d}"
    soon = expiry - datetime.now(UTC) < _EXPIRES_SOON
    yield Finding("certificates", f"{said}: renew it now" if soon else said, None if soon else ExitCode.OK)


def _state_finding(settings: Settings) -> Finding:
    """Whether the position can be kept; nothing is made for it."""
    directory = settings.state_dir or default_directory()
    existing = next((path for path in (directory, *directory.parents) if path.exists()), directory)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding("state directory", str(directory))
    remedy = f"install -d -m 700 {directory} as its user, or --state-dir with another one"
    said = f"{directory} cannot be written, so that each start is a full synchronisation: {remedy}"
    return Finding("state directory", said, ExitCode.CONFIG if settings.state_dir is not None else None)
