"""`redisrepl verify` says whether both sides are equal, and what would be done about what differs.

In: settings of a daemon. Out: counts and the keys that differ, exit 0 or 1; with `repair`, the same after dealing with
them as the daemon does. Left to others: what is done about a key (`engine.core`), pushing and pulling.

What both sides last agreed on is taken from the state directory, unless a daemon runs that holds it: then nobody here
knows which of two values is newer, and what one side lacks is copied to it.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from redisrepl.changes import GROUPS, expiries_differ, types_of
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.continuity import Event
from redisrepl.engine.core import Core, CoreOptions
from redisrepl.engine.following import Following
from redisrepl.engine.reconcile import Circumstances, Verdict, circumstances, reconcile
from redisrepl.errors import ConfigError, ExitCode, RedisreplError
from redisrepl.flow.applying import Applying
from redisrepl.flow.clocks import Clocks
from redisrepl.flow.comparison import Holder
from redisrepl.flow.fieldtimes import LackingTimes
from redisrepl.flow.pacing import Pacer
from redisrepl.flow.pushing import Pushing
from redisrepl.flow.reach import StreamReach
from redisrepl.flow.sweep import FEW_REMOVALS
from redisrepl.local.address import SiteAddress
from redisrepl.local.apply import SiteWriter
from redisrepl.local.compare import SiteComparer
from redisrepl.local.connection import open_client
from redisrepl.local.history import SiteHistory
from redisrepl.local.read import SiteReader
from redisrepl.namespaces import Namespaces, printable
from redisrepl.opening import keep_loss, open_conflicts, open_hub, open_state
from redisrepl.remote.compare import HubComparer
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.history import HubHistory
from redisrepl.remote.hub import Hub
from redisrepl.remote.push import HubPusher
from redisrepl.settings.settings import Settings
from redisrepl.store import ForeignStateError, StateDirectoryError, Store
from redisrepl.store.conflicts import Conflicts
from redisrepl.subcommands.jsonlines import encode_bytes
from redisrepl.tls.certificates import hub_files
from redisrepl.tls.contexts import client_context
from redisrepl.wire.digests import UNREADABLE, Look
from redisrepl.wire.fieldtimes import probes
from redisrepl.wire.replies import CLOCK_TOLERANCE
from redisrepl.wire.scan import Scan

__all__ = ["Choice", "run"]

#: A key that is being replicated at this moment differs for a moment: it is looked at again after these seconds.
_PATIENCE = 1.0
#: Milliseconds by which the daemon's shift of expiries may be another than what we see of the clocks.
_ESTIMATED = int(2000 * CLOCK_TOLERANCE)
#: Seconds between two looks at what there is to push and to apply.
_TICK = 0.05
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do.

    Attributes:
        repair: deal with what differs, then compare again.
        removals: remove as many keys as that takes, even above `--max-removals`.
        as_json: print one JSON object, instead of lines for people.
        limit: how many keys are named; all are counted.
    """

    repair: bool = False
    removals: bool = False
    as_json: bool = False
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class _Difference:
    """A key that is not the same on both sides."""

    key: bytes
    site: Look
    hub: Look

    @property
    def kind(self) -> str:
        if self.hub.digest is None:
            return "only at the site"
        return "only at the hub" if self.site.digest is None else "different"


@dataclass(frozen=True, slots=True)
class _Sides:
    """Both sides, opened, and what is remembered of them.

    `beside` is whether a daemon runs, which alone knows what was agreed on. `conflicts` takes what loses a conflict.
    `tolerance_ms` is by how much expiries may be off, since the clocks differ and the daemon has not told by how much.
    """

    hub: Hub
    site: SiteReader
    writer: SiteWriter
    reader: HubReader
    site_looks: Holder
    hub_looks: Holder
    store: Store
    beside: bool
    conflicts: Conflicts | None
    clocks: Clocks
    tolerance_ms: int


@asynccontextmanager
async def _open(settings: Settings, address: SiteAddress, choice: Choice) -> AsyncIterator[_Sides]:
    if settings.cert is None or settings.key is None:
        raise ConfigError("no client certificate for the hub is given: give --cert and --key")
    context = client_context(hub_files(settings))
    async with AsyncExitStack() as stack:
        hub = open_hub(settings, context)
        stack.push_async_callback(hub.close)
        client = open_client(address, settings.timeout, connections=4)
        stack.push_async_callback(client.aclose)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="redisrepl-verify-"))
        store, beside = _open_store(settings, address, hub.url, None if choice.repair else Path(directory))
        stack.push_async_callback(store.close)
        conflicts = open_conflicts(settings, address, store) if choice.repair else None
        if conflicts is not None:
            stack.callback(conflicts.close)
        types = types_of(settings.kinds)
        times = hub.clock_shift.fields
        site, reader = SiteReader(client, address, types=types, times=times), HubReader(hub, types=types)
        expiries = "expire" in settings.kinds
        clocks = Clocks(store.saved.get("clocks"), hub.clock_shift)
        asked = probes(next(iter(Namespaces(settings.ns))), writes=False) if times.wanted else ()
        site_facts = await SiteHistory(client, address, site, asked).ask()
        hub_history = HubHistory(hub, reader, asked)
        await hub_history.ask()
        lacking = LackingTimes(None, times)
        lacking.saw("site", site_facts.lacks_times)
        lacking.saw("hub", hub_history.lacks_times)
        clocks.saw("site", site_facts.clock_ahead, within=site_facts.clock_within)
        clocks.saw("hub", hub_history.clock_ahead, within=hub_history.clock_within)
        estimated = _ESTIMATED if hub.clock_shift.ms and not store.saved else 0
        times.on = times.on and not estimated  # in digests, nothing is tolerated
        yield _Sides(
            hub,
            site,
            SiteWriter(client, address, groups=GROUPS in types),
            reader,
            SiteComparer(client, address, site, expiries=expiries, types=types, times=times),
            HubComparer(hub, reader, expiries=expiries, types=types),
            store,
            beside,
            conflicts,
            clocks,
            estimated,
        )


def _open_store(settings: Settings, address: SiteAddress, hub: str, spare: Path | None) -> tuple[Store, bool]:
    """What the daemon has left behind, or an empty one; and whether a daemon runs, which has the other one.

    What was written for other namespaces or kinds of change is left to the daemon that wrote it. An empty one is made
    in `spare`; without that the daemon must not run, for only what it remembers tells what is newer.
    """
    try:
        return open_state(settings, address, hub, sets_aside=False), False
    except (ForeignStateError, StateDirectoryError):
        raise
    except ConfigError as error:  # a daemon holds it
        if spare is None:
            advice = "it makes both sides equal by itself; to have it done here, stop it first"
            raise ConfigError(f"--repair: {error}: {advice}") from None
        return open_state(settings, address, hub, directory=spare), True


async def run(settings: Settings, address: SiteAddress, choice: Choice, *, out: TextIO) -> int:
    """Compare both sides once.

    Args:
        settings: as for the daemon.
        address: the site's Redis.
        choice: see there.
        out: where the result goes.

    Raises:
        PeerUnavailableError, RefusedError, HubError: a side cannot be asked.
        ConfigError: more keys would be removed than `--max-removals` says; a daemon runs, so that only it can repair.
    """
    namespaces = Namespaces(settings.ns)
    async with _open(settings, address, choice) as sides:
        first = sides.store.fresh
        found, compared = await _differences(settings, sides, namespaces)
        if choice.repair and found:
            if not choice.removals:
                await _check_removals(settings, sides.store, found)
            await _repair(settings, sides, namespaces, found)
            found, compared = await _differences(settings, sides, namespaces)
        named = [difference.key for difference in found[: choice.limit]]
        ancestors = await sides.store.lookup(named) if named else {}
        would = partial(_would, settings, first=first)
        told = [_BESIDE if sides.beside else would(d, ancestors.get(d.key)) for d in found[: choice.limit]]
        _report(found, told, compared, choice, out)
    return ExitCode.DIFFERENT if found else ExitCode.OK


async def _differences(settings: Settings, sides: _Sides, namespaces: Namespaces) -> tuple[list[_Difference], int]:
    """Keys that differ at both of two looks, and how many were looked at."""
    suspects: dict[bytes, None] = {}
    compared = 0
    for prefix in namespaces:
        for holder, other in ((sides.site_looks, sides.hub_looks), (sides.hub_looks, sides.site_looks)):
            scan = Scan(f"a scan of {holder.where}")
            while True:
                started = time.monotonic()
                page = await holder.page(prefix, scan.cursor, _PAGE, None)
                keys = [key for key in (*page.looks, *page.left) if key.startswith(prefix)]
                looks = page.looks | dict(
                    zip(page.left, await holder.looks(page.left) if page.left else (), strict=True)
                )
                others = await other.looks(keys) if keys else []
                if holder is sides.site_looks:
                    compared += len(keys)
                else:
                    compared += sum(look.digest is None for look in others)
                for key, look in zip(keys, others, strict=True):
                    if _differ(looks[key], look, sides.tolerance_ms):
                        suspects[key] = None
                await asyncio.sleep(max(0.0, len(keys) / settings.sweep_rate - (time.monotonic() - started)))
                if scan.ends(page.cursor):
                    break
    if suspects:
        await asyncio.sleep(_PATIENCE)
    found: list[_Difference] = []
    left = list(suspects)
    while left:
        keys, left = left[:_PAGE], left[_PAGE:]
        site, hub = await asyncio.gather(sides.site_looks.looks(keys), sides.hub_looks.looks(keys))
        found += [
            _Difference(key, s, h)
            for key, s, h in zip(keys, site, hub, strict=True)
            if _differ(s, h, sides.tolerance_ms)
        ]
    return found, compared


def _differ(one: Look, other: Look, tolerance_ms: int) -> bool:
    if UNREADABLE in (one.digest, other.digest):
        return one.digest != other.digest
    return one.digest != other.digest or expiries_differ(one.expires_at_ms, other.expires_at_ms, tolerance_ms)


async def _check_removals(settings: Settings, store: Store, found: Sequence[_Difference]) -> None:
    """As for a comparison of the daemon: so many removals at once are believed only if somebody says so."""
    if "del" not in settings.kinds:
        return
    missing = [difference.key for difference in found if difference.kind != "different"]
    agreed = await store.lookup(missing)
    most = max(FEW_REMOVALS, int(settings.max_removals / 100 * await store.count()))
    if len(agreed) > most:
        raise ConfigError(
            f"{len(agreed)} keys would be removed, more than --max-removals lets: give --removals if you mean it"
        )


async def _repair(settings: Settings, sides: _Sides, namespaces: Namespaces, found: Sequence[_Difference]) -> None:
    """Push and pull what differs, without following either side: a daemon that runs sees it as anybody's writes."""
    core = Core(
        namespaces.covers,
        settings.kinds,
        options=CoreOptions(
            pulls=settings.rc,
            winner=settings.on_conflict or ("hub" if settings.rc else "site"),
            initial_sync=settings.initial_sync,
            max_memory=settings.max_memory,
            max_keys=settings.max_keys,
            expectations=None,
            off_by=sides.clocks.off_by,
        ),
        keep=partial(keep_loss, sides.conflicts),
    )
    core.site_attached()
    core.hub_heard()
    event = Event.FIRST if sides.store.fresh else Event.GAP  # at first contact --initial-sync decides
    core.judged("site", event, "verify")
    core.judged("hub", event, "verify")
    retry: dict[str, Any] = {"attempts": 5, "timeout": None, "wait_initial": 0.1, "wait_max": settings.retry_max}
    pushing = Pushing(
        core.outbound,
        sides.store,
        HubPusher(sides.hub, settings.max_body, types=types_of(settings.kinds)),
        sides.site,
        Pacer(4, worthwhile=settings.batch, interval=0.0),
        reach := StreamReach(Following(by_events=True), core.continuity),  # of which nobody hears
        site_evicted=_never,
        max_keys=settings.batch,
        retry=retry,
        clocks=sides.clocks,
    )
    lacking = [difference.key for difference in found if difference.site.digest is None]
    core.differs("site", lacking)
    core.differs("hub", [difference.key for difference in found if difference.site.digest is not None])
    try:
        async with asyncio.TaskGroup() as tasks:
            workers = [tasks.create_task(pushing.run(), name="push")]
            applying = _applying(settings, sides, core, reach, retry) if core.inbound is not None else None
            if applying is not None:
                workers.append(tasks.create_task(applying.run(), name="fetch"))
            workers.append(tasks.create_task(_keep_awake(pushing, applying), name="tick"))
            while not core.quiet or core.outbound.waiting:
                if applying is not None:
                    await applying.idle()
                await pushing.drained()
            for worker in workers:
                worker.cancel()
    except* RedisreplError as errors:  # of both directions, perhaps
        raise errors.exceptions[0] from errors.exceptions[0].__cause__


async def _keep_awake(pushing: Pushing, applying: Applying | None) -> None:
    """What one has found may be for the other, or wait for it: so each looks now and then, as in a daemon."""
    while True:
        pushing.wake()
        if applying is not None:
            applying.wake()
        await asyncio.sleep(_TICK)


async def _always() -> bool:
    return True


async def _never() -> bool:
    return False


def _applying(settings: Settings, sides: _Sides, core: Core, reach: StreamReach, retry: Mapping[str, Any]) -> Applying:
    return Applying(
        core,
        sides.store,
        sides.reader,
        sides.site,
        sides.writer,
        same_hub=_always,
        site_evicted=_never,
        reach=reach,
        max_keys=settings.batch,
        retry=retry,
        clocks=sides.clocks,
    )


#: What a daemon that runs will do, it alone knows.
_BESIDE = "left to the daemon"
_WORDS = {
    Verdict.AGREE: "expiry differs",
    Verdict.NOTHING: "stays: evicted or expired",
    Verdict.PUSH: "to be pushed",
    Verdict.APPLY: "to be pulled",
    Verdict.CONFLICT: "changed on both sides",
}


def _would(settings: Settings, difference: _Difference, ancestor: Agreed | None, *, first: bool) -> str:
    """What a comparison would do about a key, in two words."""
    if UNREADABLE in (difference.site.digest, difference.hub.digest):
        return "stays: not replicated"
    base = Circumstances(removals="del" in settings.kinds)
    expiries = [look.expires_at_ms for look in (difference.site, difference.hub) if look.digest is not None]
    agreed = None if ancestor is None else ancestor.expires_at_ms
    about = circumstances(base, agreed, now_ms=time.time() * 1000, expiries=expiries)
    known, intents = (None, ()) if ancestor is None else (ancestor.digest, ancestor.intents)
    verdict = reconcile(known, difference.site.digest, difference.hub.digest, intents, about)
    if first and verdict is Verdict.APPLY and settings.initial_sync not in ("both", "pull"):
        return "stays: not pulled"
    if first and verdict is Verdict.PUSH and settings.initial_sync not in ("both", "push"):
        return "stays: not pushed"
    if verdict is Verdict.APPLY and not settings.rc:  # the site's value goes, unless it was said that the hub's wins
        return _WORDS[Verdict.PUSH] if difference.site.digest and settings.on_conflict != "hub" else "stays: no -rc"
    return _WORDS[verdict]


def _report(found: Sequence[_Difference], would: Sequence[str], compared: int, choice: Choice, out: TextIO) -> None:
    kinds = [difference.kind for difference in found]
    counts = {kind: kinds.count(kind) for kind in ("only at the site", "only at the hub", "different")}
    shown = [(d.kind, d.key, what) for d, what in zip(found, would, strict=False)]
    if choice.as_json:
        keys = [
            '{"key":' + encode_bytes(key) + ',"difference":' + json.dumps(kind) + ',"would":' + json.dumps(what) + "}"
            for kind, key, what in shown
        ]
        head = json.dumps(
            {"equal": not found, "compared": compared, **{k.replace(" ", "_"): n for k, n in counts.items()}}
        )
        out.write(head[:-1] + ', "keys": [' + ", ".join(keys) + "]}\n")
        return
    out.write("".join(f"{kind:17} {what:22} {printable(key, 200)}\n" for kind, key, what in shown))
    if len(found) > choice.limit:
        out.write(f"... and {len(found) - choice.limit} more\n")
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count) or "no difference"
    out.write(f"{compared} keys compared: {said}\n")
