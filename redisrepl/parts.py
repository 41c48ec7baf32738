"""The parts of the daemon: each is built here, once, and told of the others.

In: settings. Out: `Parts`, in which nothing runs yet. Left to others: running them (`daemon`), and every change; this
module never looks inside one.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from redisrepl.applying import Applying
from redisrepl.backpressure import Backpressure
from redisrepl.changes import Change
from redisrepl.checkpoint import Checkpoint, Pair, open_checkpoint
from redisrepl.comparison import Comparison
from redisrepl.echo import ExpectedEvents
from redisrepl.errors import ConfigError
from redisrepl.following import Following, LinkOptions
from redisrepl.healing import ConflictWinner, Healing, Way
from redisrepl.inbound import Inbound
from redisrepl.local.address import SiteAddress
from redisrepl.local.apply import SiteWriter
from redisrepl.local.connection import open_client
from redisrepl.local.facts import ask_facts
from redisrepl.local.notify import SiteEvents
from redisrepl.local.read import SiteReader
from redisrepl.local.sentinel import Epoch
from redisrepl.namespaces import Namespaces
from redisrepl.noticing import Noticing, Source
from redisrepl.outbound import Outbound, OutboundOptions
from redisrepl.pacing import Pacer
from redisrepl.pushing import Pushing
from redisrepl.remote.compare import HubComparer
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.flushes import Flushes
from redisrepl.remote.push import HubPusher
from redisrepl.remote.session import HubSession, check_url
from redisrepl.remote.subscribe import Subscription, SubscriptionOptions
from redisrepl.remote.ways import Ways
from redisrepl.remote.websocket import WebSocketHub
from redisrepl.replaced import Replacements
from redisrepl.settings import Settings
from redisrepl.sweep import Sweep
from redisrepl.tls import CertificateFiles, client_context
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.feed import FeedWriter

__all__ = ["FETCHES", "Parts", "Pull"]

#: Expectations that fit into each echo map. Pushes wait before there are so many (`pacing`), unless the hub is silent.
_EXPECTATIONS = 300_000
#: Batches being fetched and applied side by side.
FETCHES = 16
#: A difference found by a sweep is looked at again after this many seconds: it may have been on its way.
_SECOND_LOOK = 1.0


@dataclass(frozen=True, slots=True)
class Pull:
    """The parts of the direction from hub to site."""

    inbound: Inbound
    applying: Applying
    subscriptions: list[Subscription]
    replacements: Replacements
    flushes: Flushes | None


class Parts:
    """The parts of one daemon, put together.

    Args:
        settings: all of them.
        address: the site's Redis, with its password.

    Attributes:
        ways: on which the hub's events come.
        pull: the direction from hub to site; None without `-rc`.
        attached_at: since when the site's writes are seen, Unix time; None: they are not.

    Raises:
        ConfigError, CertificateError: what is configured cannot be used.
    """

    def __init__(self, settings: Settings, address: SiteAddress) -> None:
        if settings.cert is None or settings.key is None:
            raise ConfigError("no client certificate for the hub is given: give --cert and --key")
        self._settings = settings
        self._address = address
        self.namespaces = Namespaces(settings.ns)
        self.certificates = CertificateFiles(settings.ca, settings.cert, settings.key)
        self.context = client_context(self.certificates)
        url = check_url(settings.haddr)
        self.session = HubSession(
            url,
            self.context,
            connections=settings.flights + FETCHES + 4 + len(self.namespaces.prefixes),  # a long poll each
            timeout=settings.timeout,
            connect_timeout=settings.connect_timeout,
            max_value=settings.max_value,
            retry_max=settings.retry_max,
        )
        self.ways = Ways(
            self.session,
            WebSocketHub(url, self.context),
            settings.subscribe,
            connect_timeout=settings.connect_timeout,
        )
        self._hub_reader = HubReader(self.session, max_value=settings.max_value)
        self._master_epoch = Epoch()
        self.read_client = open_client(address, settings.timeout, connections=2, epoch=self._master_epoch)
        self.write_client = open_client(address, settings.timeout, connections=2, epoch=self._master_epoch)
        self._site_reader = SiteReader(self.read_client, address, settings.max_value)
        self._retry: dict[str, Any] = {
            "attempts": None,
            "timeout": None,
            "wait_initial": 0.1,
            "wait_max": settings.retry_max,
            "wait_jitter": 0.5,
        }
        self._soon = self._retry | {
            "wait_max": min(0.5, settings.retry_max)
        }  # the pauses are those of `session.health`
        self.checkpoint = self._open_checkpoint()
        saved = self.checkpoint.load() if self.checkpoint is not None else None
        self._origin = saved.origin.encode() if saved is not None else secrets.token_hex(8).encode()
        self.attached_at: float | None = None
        self._gaps = 0
        self._never_noticed = saved is None
        self._never_subscribed = set(self.namespaces) if saved is None else set()  # of them, nothing can be missed
        expected_local, expected_remote = ExpectedEvents(_EXPECTATIONS), ExpectedEvents(_EXPECTATIONS)
        self.pull = self._build_pull(expected_local, expected_remote) if settings.rc else None
        winner: ConflictWinner = settings.on_conflict or ("hub" if settings.rc else "site")
        self._winner = winner
        self.outbound = Outbound(
            ChangeDecoder(self.namespaces.covers, settings.replicate, address.database),
            expected_local,
            expected_remote if settings.rc else None,
            self.pull.replacements if self.pull else None,
            OutboundOptions(
                origin=self._origin,
                max_bytes=settings.max_memory,
                max_keys=settings.max_keys,
                site_wins=winner == "site",
                every_write=settings.every_write,
            ),
        )
        teller = FeedWriter(self._origin, settings.hub_database, self.namespaces.prefixes) if settings.feed else None
        # Within one second no more leaves than is allowed in one.
        batch = min(settings.batch, math.ceil(settings.max_push_rate)) or settings.batch
        self.pusher = HubPusher(
            self.session, settings.max_body, side_by_side=settings.flights, teller=teller, timed=settings.rc
        )
        self.pacer = Pacer(settings.flights, worthwhile=max(1, batch // 2), interval=0.002, rate=settings.max_push_rate)
        self.pushing = Pushing(
            self.outbound,
            self.pusher,
            self._site_reader,
            self.pacer,
            max_keys=batch,
            retry=self._soon,
        )
        self.sweep = self._build_sweep(winner)
        self.following = Following(
            address,
            self.outbound,
            self.namespaces.prefixes,
            self.checkpoint,
            saved,
            Backpressure(self.outbound, self.pushing.returned, partial(ask_facts, address, settings.connect_timeout)),
            options=LinkOptions.of(settings, self._retry),
            listener=self,
        )
        self.noticing = Noticing(
            SiteEvents(
                address,
                self.read_client,
                self.namespaces.prefixes,
                settings.replicate,
                silence=settings.site_silence,
                connect_wait=settings.connect_timeout,
            ),
            self.outbound,
            self.pull.inbound if self.pull else None,
            covers=self.namespaces.covers,
            retry=self._retry,
            listener=self,
            owe=self._noticing_gap,
        )
        self.source = Source(settings.source, self.following, self.noticing)

    def _open_checkpoint(self) -> Checkpoint | None:
        settings = self._settings
        scope = {
            "database": self._address.database,
            "namespaces": [prefix.hex() for prefix in self.namespaces],
            "kinds": sorted(settings.replicate),
        }
        pair = Pair(str(self._address), self.session.url, json.dumps(scope, sort_keys=True))
        return open_checkpoint(settings.state_dir, pair)

    def _build_sweep(self, winner: ConflictWinner) -> Sweep:
        settings = self._settings
        expiries = "expire" in settings.replicate
        return Sweep(
            Comparison(
                self._site_reader,
                HubComparer(self.session, self._hub_reader, expiries=expiries),
                expiries=expiries,
                rate=settings.sweep_rate,
                patience=_SECOND_LOOK,
                before_telling=self._before_differences,
            ),
            self.namespaces,
            Healing(
                self.outbound,
                self.pull.replacements if self.pull else None,
                winner,
                settings.initial_sync,
                self._hearing,
            ),
            period=settings.sweep_period,
            wake=self.wake,
            retry=self._retry,
        )

    def _build_pull(self, expected_local: ExpectedEvents, expected_remote: ExpectedEvents) -> Pull:
        settings = self._settings
        inbound = Inbound(
            covers=self.namespaces.covers,
            kinds=settings.replicate,
            expected_local=expected_local,
            expected_remote=expected_remote,
            busy=self._busy,
            max_keys=settings.max_keys,
        )
        applying = Applying(
            inbound,
            self._hub_reader,
            SiteReader(self.write_client, self._address, settings.max_value),
            SiteWriter(self.write_client, self._address, self._origin),
            read_to=lambda: self.following.read_to,
            max_keys=settings.batch,
            retry=self._retry,
        )

        def on_events(events: list[tuple[bytes, bytes]]) -> None:
            echoes = inbound.counters.echoes
            inbound.events(events)
            if inbound.counters.echoes != echoes:
                self.pushing.heard()
            applying.wake()

        def on_feed(time_us: int, changes: list[Change]) -> None:
            inbound.told(time_us, changes, time.monotonic())
            applying.wake()

        def on_subscribed(prefix: bytes) -> None:
            self._gaps += 1
            inbound.resubscribed()
            missed: tuple[Way, ...] = () if prefix in self._never_subscribed else ("pull",)
            self._never_subscribed.discard(prefix)
            self.sweep.owe("subscribed", *missed)

        options = SubscriptionOptions(
            database=settings.hub_database,
            origin=self._origin,
            kinds=settings.replicate,
            notify=settings.notify_config,
            canary_period=settings.canary_period,
            retry=self._soon,
        )
        subscriptions = [
            Subscription(
                self.session,
                self.ways,
                prefix,
                options=options,
                on_events=on_events,
                on_feed=on_feed,
                on_subscribed=partial(on_subscribed, prefix),
            )
            for prefix in self.namespaces
        ]
        replacements = Replacements(inbound)
        replacements.watch()
        applying.on_apply = replacements.applying
        flushes = Flushes(
            self.session, settings.canary_period, on_flush=self._hub_flushed, on_restart=self._hub_restarted
        )
        return Pull(inbound, applying, subscriptions, replacements, flushes if "del" in settings.replicate else None)

    async def _before_differences(self) -> None:
        """What the hub lacks may have been flushed; what it has alone may be newer than a flush of the site."""
        if self.pull is not None and self.pull.flushes is not None:
            await self.pull.flushes.look()
            if self.sweep.follows_flush_of("site"):
                for subscription in self.pull.subscriptions:
                    await subscription.caught_up()

    def _hub_restarted(self) -> None:
        """A gap, of which its subscribers may hear later."""
        self._gaps += 1
        self.sweep.owe("the hub is another process", "pull")

    def _hub_flushed(self) -> None:
        self.sweep.hub_flushed(followed=self.source.kind == "psync")

    def _busy(self, key: bytes) -> bool:
        return self.outbound.busy(key)

    def _hearing(self) -> int | None:
        """How many gaps there were in what the hub tells; None while it tells nothing."""
        if self.pull is not None and not all(subscription.live for subscription in self.pull.subscriptions):
            return None
        return self._gaps

    def _noticing_gap(self, reason: str) -> None:
        missed: tuple[Way, ...] = () if self._never_noticed else ("push",)
        self._never_noticed = False
        self.sweep.owe(reason, *missed)

    # What `following` tells.

    def attached(self, *, continued: bool) -> None:
        """The site's stream is followed: what is decided about its keys is no longer blind."""
        self._master_epoch.advance()  # it may be another server's: what a replaced one is told or tells is lost
        self.attached_at = round(time.time(), 3)
        self.sweep.attached.set()
        if self.pull is not None:
            if continued or self.following.first_contact or self._winner == "site":
                self.pull.replacements.no_gap()
            else:
                self.pull.replacements.gap()
            self.pull.applying.attached.set()
            self.pull.applying.wake()
        if not continued and self._settings.rc:
            missed: tuple[Way, ...] = () if self.following.first_contact else ("push", "pull")
            self.sweep.owe("full synchronisation or failover", *missed)

    def detached(self) -> None:
        """The site's stream is lost."""
        self.attached_at = None
        self.sweep.detached()
        if self.pull is not None:
            self.pull.replacements.watch()
            self.pull.applying.attached.clear()
            self.pull.inbound.distrust_fetched()
            self.pull.applying.stream_moved()

    def tick(self) -> None:
        """Time passes: what a gap has hidden may have been healed."""
        pull, sweep = self.pull, self.sweep
        if pull is None or self.attached_at is None or not pull.replacements.watching:
            return
        if not (sweep.owed or sweep.running or len(self.outbound.seeds) or pull.inbound.unsettled):
            pull.replacements.healed()

    def wake(self) -> None:
        """There may be something to push, to pull or to compare."""
        self._owe_what_was_left()
        self.pushing.wake()
        if self.pull is not None:
            self.pull.applying.stream_moved()
            if self.pull.inbound.waiting:
                self.pull.applying.wake()

    def _owe_what_was_left(self) -> None:
        """Compare for what did not wait; until that is done the position before it is the one to go on from."""
        outbound, sweep = self.outbound, self.sweep
        outbound.unswept = outbound.unswept and sweep.unfinished
        if self.pull is not None and self.pull.inbound.overflowed:
            self.pull.inbound.overflowed = False
            sweep.owe("more keys changed at the hub than --max-keys", "pull")
        if outbound.pending.overflowed or outbound.seeds.overflowed:
            if outbound.pending.overflowed and self.pull is not None and self._winner == "hub":
                self.pull.replacements.gap()
            outbound.pending.overflowed = outbound.seeds.overflowed = False
            outbound.unswept = True
            sweep.owe("more keys waited than --max-keys", "push")
        if (flushed := outbound.flushed) is not None:
            outbound.flushed, outbound.unswept = None, True
            if flushed.emptied and "del" in self._settings.replicate:
                sweep.site_flushed()
            else:
                sweep.owe("the site was flushed", "push")

    async def close(self) -> None:
        """Close every connection, and let go of the checkpoint."""
        await self.session.close()
        await self.read_client.aclose()
        await self.write_client.aclose()
        if self.checkpoint is not None:
            self.checkpoint.close()
