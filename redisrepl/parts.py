"""The parts of the daemon: each is built here, once, and told of the others.

In: settings; later, that the site is attached or lost (`sources.stream.LinkListener`), and that time passes. Out:
`Parts`, in which nothing runs yet; calls of the parts that such news concern. Left to others: running them (`daemon`),
what follows from the news (`engine`, `flow.judging`), and every change; this module never looks inside one.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import structlog

from redisrepl.changes import GROUPS, Change, Position, types_of
from redisrepl.engine.continuity import Continuity, Side
from redisrepl.engine.core import Core, CoreOptions
from redisrepl.engine.inbound import Inbound
from redisrepl.engine.losses import Losses
from redisrepl.engine.places import MOST_PLACES
from redisrepl.engine.seen import HISTORY, Ring
from redisrepl.engine.streamedkeys import StreamedKeys
from redisrepl.errors import ConfigError
from redisrepl.flow.applying import Applying
from redisrepl.flow.comparison import Comparison, Holder
from redisrepl.flow.elements import LargeCollections
from redisrepl.flow.judging import Judging
from redisrepl.flow.known import Known
from redisrepl.flow.pacing import Pacer
from redisrepl.flow.pages import Pages
from redisrepl.flow.pushing import Pushing
from redisrepl.flow.reach import StreamReach
from redisrepl.flow.saving import SavedState, Saving
from redisrepl.flow.sweep import Sweep
from redisrepl.local.address import SiteAddress
from redisrepl.local.apply import SiteWriter
from redisrepl.local.client import Followed
from redisrepl.local.compare import SiteComparer
from redisrepl.local.connection import open_client
from redisrepl.local.history import SiteHistory
from redisrepl.local.info import ask_info
from redisrepl.local.linger import Linger
from redisrepl.local.mark import SiteMark
from redisrepl.local.notify import SiteEvents
from redisrepl.local.read import SiteReader
from redisrepl.namespaces import Namespaces
from redisrepl.opening import keep_loss, open_conflicts, open_hub, open_state
from redisrepl.remote.compare import HubComparer
from redisrepl.remote.elements import HubElements
from redisrepl.remote.fence import Fence
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.history import HubHistory
from redisrepl.remote.notifications import Notifications
from redisrepl.remote.push import HubPusher
from redisrepl.remote.subscribe import Subscription, SubscriptionOptions
from redisrepl.settings.settings import Settings
from redisrepl.sources.backpressure import Backpressure
from redisrepl.sources.keyspace import KeyspaceSource, Source
from redisrepl.sources.stream import StreamOptions, StreamSource
from redisrepl.tls.certificates import client_context, hub_files
from redisrepl.wire.feed import FeedWriter
from redisrepl.wire.fieldtimes import FieldTimes, probes

_log = structlog.get_logger("redisrepl")

__all__ = ["FETCHES", "Parts", "Pull"]

#: Expectations that fit into each echo map. Pushes wait before there are so many (`pacing`), unless the hub is silent.
_EXPECTATIONS = 300_000
#: Batches being fetched and applied side by side.
FETCHES = 16


@dataclass(frozen=True, slots=True)
class Pull:
    """The parts of the direction from hub to site."""

    inbound: Inbound
    applying: Applying
    subscriptions: list[Subscription]


class Parts:
    """The parts of one daemon, put together; it hears of the link to the site (`sources.stream.LinkListener`).

    Args:
        settings: all of them.
        address: the site's Redis, with its password.

    Attributes:
        pull: the direction from hub to site; None without `-rc`.

    Raises:
        ConfigError, CertificateError: what is configured cannot be used.
    """

    def __init__(self, settings: Settings, address: SiteAddress) -> None:
        if settings.cert is None or settings.key is None:
            raise ConfigError("no client certificate for the hub is given: give --cert and --key")
        self._settings = settings
        self._address = address
        self.namespaces = Namespaces(settings.ns)
        self.certificates = hub_files(settings)
        self.context = client_context(self.certificates)
        self.hub = open_hub(settings, self.context, connections=settings.flights + FETCHES + 4)
        self._types = types_of(settings.kinds)
        self._hub_reader = HubReader(self.hub, max_value=settings.max_value, types=self._types)
        self._followed = Followed()
        client = partial(open_client, address, settings.timeout, connect_wait=settings.connect_timeout)
        self.read_client, self.write_client = client(2, self._followed), client(2, self._followed)
        self._unbound_client = client(1)  # of whichever server is about to be followed
        self._site_reader = SiteReader(self.read_client, address, settings.max_value, self._types, self._times)
        self._retry: dict[str, Any] = {
            "attempts": None,
            "timeout": None,
            "wait_initial": 0.1,
            "wait_max": settings.retry_max,
            "wait_jitter": 0.5,
        }
        self._soon = self._retry | {"wait_max": min(0.5, settings.retry_max)}  # the pauses are those of `hub.health`
        self.store = open_state(settings, address, self.hub.url, on_trouble=self._store_failed)
        saved = SavedState.load(self.store.saved)
        who = saved.origin or secrets.token_hex(8)
        self.origin = b"%b %b" % (who.encode(), _identity(self.hub.url, self.hub.database))
        self._attached_at = 0.0
        self.another: str | None = None
        self.conflicts = open_conflicts(settings, address, self.store)
        known = Known(self.store.saved, self.hub.clock_shift)
        self.core = self._build_core(known)
        name = next(iter(self.namespaces)) + who.encode()
        self.fence = Fence(self.hub, name, saved.epoch, saved.executed, before=saved.fence)
        self.core.differs("site", self.store.open_applies)
        self.outbound = self.core.outbound
        if saved.position is not None:
            self.outbound.resume_at(saved.position.offset, saved.database)
        teller = FeedWriter(who.encode(), self.hub.database, self.namespaces.prefixes) if settings.feed else None
        # Within one second no more leaves than is allowed in one.
        batch = min(settings.batch, math.ceil(settings.max_push_rate)) or settings.batch
        self.pusher = HubPusher(
            self.hub,
            settings.max_body,
            side_by_side=settings.flights,
            teller=teller,
            fence=self.fence,
            on_fence_lost=self._fence_lost,
            types=self._types,
        )
        self.pacer = Pacer(
            settings.flights,
            worthwhile=max(1, batch // 2),
            interval=0.002,
            rate=settings.max_push_rate,
            longest_pause=settings.retry_max,
        )
        history = SiteHistory(self.read_client, address, self._site_reader, self._probes(writes=settings.rc))
        self._mark = mark = SiteMark(self.write_client, address, self._followed, name)
        self.judging = Judging(
            self.core,
            known,
            history,
            HubHistory(self.hub, self._hub_reader, self._probes(writes=True)),
            self.fence,
            lambda: self.store.number,
            partial(self.store.agreed_since, most=MOST_PLACES),
            unanswered=self.store.unanswered,
            history=partial(self.store.history, most=HISTORY),
            marked=mark.read,
            first="continuity" not in self.store.saved,
            retry=self._retry,
        )
        self.keyspace = KeyspaceSource(
            SiteEvents(
                address,
                self._unbound_client,
                self.namespaces.prefixes,
                settings.kinds,
                silence=settings.site_silence,
                connect_wait=settings.connect_timeout,
                followed=self._followed,
                linger=self.linger,
            ),
            self.outbound,
            covers=self.namespaces.covers,
            retry=self._retry,
            listener=self,
        )
        self.reach = StreamReach(
            self.core.following,
            self.core.continuity,
            self.core.streamed_keys,
            caught_up=self.keyspace.caught_up,
            hurried=self.linger.hurried,
        )
        self.pushing = Pushing(
            self.outbound,
            self.store,
            self.pusher,
            self._site_reader,
            self.pacer,
            self.reach,
            took=self.core.pushed,
            site_evicted=self.judging.site_evicted,
            max_keys=batch,
            retry=self._soon,
            clocks=known.clocks,
            see_clocks=self.judging.see_clocks,
            times=self._times,
            pages=self._pages(),
        )
        self.stream = StreamSource(
            address,
            self.outbound,
            self.namespaces.prefixes,
            saved.position,
            Backpressure(self.outbound, self.pushing.returned, partial(ask_info, address, settings.connect_timeout)),
            options=StreamOptions.of(settings, self._retry),
            listener=self,
            followed=self._followed,
            linger=self.linger,
        )
        marks = mark if settings.rc and not self.namespaces.covers(mark.key) else None
        self.saving = Saving(self.store, self.core, self.stream, known, self.fence, history.held, who, marks)
        self.judging.save = self.saving.save
        self._sides = self._build_sides()
        self.pull = self._build_pull(who.encode()) if self.core.inbound is not None else None
        self.sweep = self._build_sweep()
        self.source = Source(settings.source, self.stream, self.keyspace, self.core.following)

    def _store_failed(self, trouble: str | None) -> None:
        self.saving.failed(trouble)

    def _build_core(self, known: Known) -> Core:
        settings = self._settings
        core = Core(
            self.namespaces.covers,
            settings.kinds,
            self._address.database,
            CoreOptions(
                origin=self.origin,
                pulls=settings.rc,
                winner=settings.on_conflict or ("hub" if settings.rc else "site"),
                initial_sync=settings.initial_sync,
                max_memory=settings.max_memory,
                max_keys=settings.max_keys,
                every_write=settings.every_write,
                expectations=_EXPECTATIONS,
                off_by=known.clocks.off_by,
            ),
            continuity=Continuity.load(self.store.saved.get("continuity")),
            ring=Ring.load(self.store.saved),
            losses=Losses.load(self.store.saved.get("losses")),
            hub_losses=Losses.load(self.store.saved.get("hub losses"), "hub"),
            streamed_keys=StreamedKeys.load(self.store.saved),
            refused=self.store.saved.get("refused"),
            keep=partial(keep_loss, self.conflicts),
        )
        core.outbound.decoder.times_fields = self._times.on
        if self.store.behind:
            core.continuity.is_behind()
        return core

    @cached_property
    def linger(self) -> Linger:
        """Of whichever link the site is followed by."""
        return Linger(self._settings.linger / 1000)

    @property
    def _times(self) -> FieldTimes:
        """Whether expiries of fields are replicated."""
        return self.hub.clock_shift.fields

    def _probes(self, *, writes: bool) -> Sequence[Sequence[bytes]]:
        """What shows whether a server has expiries of fields, if these are wanted."""
        return probes(next(iter(self.namespaces)), writes=writes) if self._times.wanted else ()

    def _build_sweep(self) -> Sweep:
        settings = self._settings
        return Sweep(
            self.core,
            Comparison(self.store, expiries="expire" in settings.kinds, rate=settings.sweep_rate),
            self._sides,
            self.store,
            self.namespaces,
            ready=self._ready_to_compare,
            period=settings.sweep_period,
            max_removals=settings.max_removals / 100,
            wake=self.wake,
            retry=self._retry,
        )

    def _pages(self) -> Pages | None:
        """Reads large collections page by page, where keys can be compared as a whole afterwards."""
        inbound = self.core.inbound
        return None if inbound is None else Pages(self.outbound, self._site_reader, inbound.suspect)

    def _build_sides(self) -> Mapping[Side, Holder]:
        """What tells digests of what either side holds."""
        compared: dict[str, Any] = {"expiries": "expire" in self._settings.kinds, "types": self._types}
        return {
            "site": SiteComparer(self.read_client, self._address, self._site_reader, **compared, times=self._times),
            "hub": HubComparer(self.hub, self._hub_reader, **compared),
        }

    async def _ready_to_compare(self) -> None:
        await self.judging.look_at_site()
        await self.judging.known_now()
        await self.judging.site_evicted()
        await self.fence.ready()
        await self.fence.ask_again()
        await self.judging.mark(always=True)  # which also puts off the fence's expiry

    def _build_pull(self, who: bytes) -> Pull:
        settings = self._settings
        applying = Applying(
            self.core,
            self.store,
            self._hub_reader,
            SiteReader(self.write_client, self._address, settings.max_value, self._types, self._times),
            SiteWriter(self.write_client, self._address, self.origin, groups=GROUPS in self._types),
            same_hub=self.judging.same_hub,
            site_evicted=self.judging.site_evicted,
            outcomes=self.pushing.outcomes,
            reach=self.reach,
            max_keys=settings.batch,
            retry=self._retry,
            longest_pause=settings.retry_max,
            linger=settings.linger / 1000,
            clocks=self.judging.known.clocks,
            elements=LargeCollections(
                self.core, self.store, HubElements(self.hub), settings.max_value, sides=self._sides
            ),
        )
        inbound = applying.inbound

        def on_events(events: list[tuple[bytes, bytes]]) -> None:
            echoes = inbound.counters.echoes
            inbound.events(events)
            if inbound.counters.echoes != echoes:
                self.pushing.heard()
            applying.wake()

        def on_feed(time_us: int, changes: list[Change]) -> None:
            inbound.feed(time_us, changes, time.monotonic())
            applying.wake()

        options = SubscriptionOptions(
            database=self.hub.database,
            origin=who,
            canary_period=settings.canary_period,
            retry=self._soon,
            longest_pause=settings.retry_max,
        )
        notifications = Notifications(
            self.hub, settings.kinds, settings.notify_config, fresh=settings.canary_period / 2
        )
        subscriptions = [
            Subscription(
                self.hub,
                notifications,
                prefix,
                options=options,
                on_events=on_events,
                on_feed=on_feed,
                on_subscribed=self.judging.hub_heard,
            )
            for prefix in self.namespaces
        ]
        return Pull(inbound, applying, subscriptions)

    def _fence_lost(self) -> None:
        """The hub has no fence of ours any more."""
        if self.core.continuity.hub.judged:
            self.judging.hub_heard()

    # What `sources.stream` and `sources.keyspace` tell.

    async def about_to_follow(self) -> None:
        """Compare the store with our mark at the site: an older copy of it must not decide anything."""
        if self._attached_at or not self._settings.rc:  # without -rc there is no mark, and we need not be let read one
            return
        durable = (await self._mark.read(self._unbound_client)).durable
        if durable > self.store.durable:
            _log.warning("store.older", file=str(self.store.file("journal")), then="everything is compared again")
            await self.store.forget(durable)
            self.core.continuity.is_behind("the state directory is an older copy")
            self.stream.begin_anew()

    def begins(self, position: Position) -> None:
        """The site sends a snapshot."""
        self.judging.site_begins(position)

    def attached(self, *, resumed: bool, history: str) -> None:
        """The site is followed: what is decided about its keys is no longer blind."""
        self._followed.found(history)
        self._attached_at = round(time.time(), 3)
        self.judging.site_attached(resumed=resumed, history=history)

    def detached(self) -> None:
        """The site is not followed any more."""
        self._followed.lost()
        if self.core.continuity.site.judged:
            self.core.record.saw(self.store.number)  # of what the next link tells, nobody knows yet whose history it is
            self.judging.known.seen = self.stream.seen or self.judging.known.seen
        self.core.site_lost(self.store.number)
        self.reach.moved()

    @property
    def attached_at(self) -> float | None:
        """Since when the site's writes are seen, Unix time; None: they are not."""
        return self._attached_at if self.core.continuity.site.followed else None

    def tick(self, now: float) -> None:
        """Time passes."""
        self.core.overdue(now)
        if self.store.take_forgot():
            self.core.continuity.is_behind("what was agreed on was forgotten")
        if self.store.behind and not self.core.continuity.behind:
            self.store.caught_up()
        self._look_for_another()
        if self.conflicts is not None:
            self.conflicts.flush()
        if self.core.certain:
            self.pushing.nothing_in_doubt()
        self.saving.tick()
        self._look()

    def _look_for_another(self) -> None:
        """Say once that another redisrepl applies to this site what comes from the same hub."""
        other = self.outbound.foreign_origin
        if other is not None and self.another is None:
            self.another = other.decode("ascii", "backslashreplace")
            _log.warning(
                "site.another_redisrepl",
                origin=self.another,
                cost="each write of the hub is applied and compared twice",
                hint="two daemons beside one site do the work of one: stop one of them",
            )

    def wake(self) -> None:
        """There may be something to push, to pull, to compare and to save."""
        self.saving.wake()
        self._look()

    def _look(self) -> None:
        self.pushing.wake()
        self.sweep.look()
        self.reach.moved()
        if self.pull is not None and self.pull.inbound.waiting:
            self.pull.applying.wake()

    async def close(self) -> None:
        """Close every connection, and let go of the store."""
        await self.hub.close()
        await self.read_client.aclose()
        await self.write_client.aclose()
        await self._unbound_client.aclose()
        if self.conflicts is not None:
            self.conflicts.close()
        await self.store.close()


def _identity(hub: str, database: int) -> bytes:
    """By which two daemons know that they serve the same hub."""
    return hashlib.sha256(f"{hub}\n{database}".encode()).hexdigest()[:8].encode()
