"""`redisrepl verify` says whether both sides are equal.

In: settings of a daemon. Out: counts and the keys that differ, exit 0 or 1; with `repair`, the same after healing them
by the rules of the sweep. Left to others: comparing (`sweep`), pushing and pulling.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from redisrepl.applying import Applying
from redisrepl.certificates import hub_files
from redisrepl.comparison import Comparison
from redisrepl.echo import ExpectedEvents
from redisrepl.errors import ConfigError, ExitCode
from redisrepl.healing import Difference, Healing
from redisrepl.inbound import Inbound
from redisrepl.jsonlines import encode_bytes
from redisrepl.local.address import SiteAddress
from redisrepl.local.apply import SiteWriter
from redisrepl.local.connection import open_client
from redisrepl.local.read import SiteReader
from redisrepl.namespaces import Namespaces, printable
from redisrepl.outbound import Outbound, OutboundOptions
from redisrepl.pacing import Pacer
from redisrepl.pushing import Pushing
from redisrepl.remote.compare import HubComparer
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.push import HubPusher
from redisrepl.remote.session import HubSession, check_url
from redisrepl.settings import Settings
from redisrepl.tls import client_context
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.digests import NO_KEY

__all__ = ["run"]

#: A key that is being replicated at this moment differs for a moment: it is looked at again after these seconds.
_PATIENCE = 1.0


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both sides, opened."""

    session: HubSession
    site: SiteReader
    writer: SiteWriter
    hub: HubReader
    comparison: Comparison


@asynccontextmanager
async def _open(settings: Settings, address: SiteAddress) -> AsyncIterator[_Sides]:
    if settings.cert is None or settings.key is None:
        raise ConfigError("no client certificate for the hub is given: give --cert and --key")
    context = client_context(hub_files(settings))
    session = HubSession(
        check_url(settings.haddr), context, timeout=settings.timeout, connect_timeout=settings.connect_timeout
    )
    client = open_client(address, settings.timeout, connections=4)
    try:
        site, hub = SiteReader(client, address), HubReader(session)
        expiries = "expire" in settings.replicate
        comparer = HubComparer(session, hub, expiries=expiries)
        comparison = Comparison(site, comparer, expiries=expiries, rate=settings.sweep_rate, patience=_PATIENCE)
        yield _Sides(session, site, SiteWriter(client, address), hub, comparison)
    finally:
        await session.close()
        await client.aclose()


async def run(
    settings: Settings, address: SiteAddress, *, repair: bool, as_json: bool, out: TextIO, limit: int = 1000
) -> int:
    """Compare both sides once.

    Args:
        settings: as for the daemon.
        address: the site's Redis.
        repair: heal what differs, then compare again.
        as_json: one JSON object, instead of lines for people.
        out: where the result goes.
        limit: how many keys are named; all are counted.

    Raises:
        PeerUnavailableError, RefusedError, HubError: a side cannot be asked.
    """
    namespaces = Namespaces(settings.ns)
    async with _open(settings, address) as sides:
        found = [difference async for difference in _differences(sides, namespaces)]
        if repair and found:
            await _repair(settings, sides, namespaces, found)
            sides.comparison.compared = 0
            found = [difference async for difference in _differences(sides, namespaces)]
        _report(found, sides.comparison.compared, as_json=as_json, out=out, limit=limit)
    return ExitCode.DIFFERENT if found else ExitCode.OK


async def _differences(sides: _Sides, namespaces: Namespaces) -> AsyncIterator[Difference]:
    for prefix in namespaces:
        async for differences in sides.comparison.differences(prefix):
            for difference in differences:
                yield difference


async def _repair(settings: Settings, sides: _Sides, namespaces: Namespaces, found: list[Difference]) -> None:
    """Push and pull what differs, without following either side: a daemon that runs sees it as anybody's writes."""
    expected = ExpectedEvents(1_000_000)
    winner = settings.on_conflict or ("hub" if settings.rc else "site")
    outbound = Outbound(
        ChangeDecoder(namespaces.covers, settings.replicate),
        expected,
        options=OutboundOptions(max_bytes=settings.max_memory, max_keys=settings.max_keys, site_wins=winner == "site"),
    )
    inbound = Inbound(
        covers=namespaces.covers,
        kinds=settings.replicate,
        expected_local=expected,
        expected_remote=ExpectedEvents(0),
        busy=outbound.busy,
    )
    retry: dict[str, Any] = {"attempts": 5, "timeout": None, "wait_initial": 0.1, "wait_max": settings.retry_max}
    pushing = Pushing(
        outbound,
        HubPusher(sides.session, settings.max_body),
        sides.site,
        Pacer(4, worthwhile=settings.batch, interval=0.0),
        max_keys=settings.batch,
        retry=retry,
    )
    applying = Applying(
        inbound,
        sides.hub,
        sides.site,
        sides.writer,
        read_to=lambda: math.inf,
        max_keys=settings.batch,
        retry=retry,
    )
    healing = Healing(outbound, inbound if settings.rc else None, winner, settings.initial_sync)
    for difference in found:
        healing.heal(difference)
    async with asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(pushing.run(), name="push")]
        applying.attached.set()
        workers.append(tasks.create_task(applying.run(), name="fetch"))
        await pushing.drained()
        applying.wake()
        await applying.idle()
        for worker in workers:
            worker.cancel()


def _report(found: list[Difference], compared: int, *, as_json: bool, out: TextIO, limit: int) -> None:
    kinds = [_kind(difference) for difference in found]
    counts = {kind: kinds.count(kind) for kind in ("only at the site", "only at the hub", "different")}
    if as_json:
        keys = [
            '{"key":' + encode_bytes(difference.key) + ',"difference":' + json.dumps(kind) + "}"
            for difference, kind in zip(found[:limit], kinds, strict=False)
        ]
        head = json.dumps(
            {"equal": not found, "compared": compared, **{k.replace(" ", "_"): n for k, n in counts.items()}}
        )
        out.write(head[:-1] + ', "keys": [' + ", ".join(keys) + "]}\n")
        return
    out.writelines(
        f"{kind:17} {printable(difference.key, 200)}\n" for difference, kind in zip(found[:limit], kinds, strict=False)
    )
    if len(found) > limit:
        out.write(f"... and {len(found) - limit} more\n")
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no difference"
    out.write(f"{compared} keys compared: {said}\n")


def _kind(difference: Difference) -> str:
    if difference.hub == NO_KEY:
        return "only at the site"
    return "only at the hub" if difference.site == NO_KEY else "different"
