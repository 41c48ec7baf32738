"""The daemon: builds the parts, starts every task in one group, minds signals, stops in phases.

In: settings. Out: an exit when told to. Left to others: every change; this module never looks inside one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import secrets
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from redisrepl.applying import Applying
from redisrepl.checkpoint import Checkpoint, Pair, open_checkpoint
from redisrepl.echo import ExpectedEvents
from redisrepl.errors import (
    CommandRefusedError,
    ConfigError,
    HubError,
    LinkLostError,
    PeerUnavailableError,
    ProtocolError,
    RedisreplError,
)
from redisrepl.following import Following, LinkOptions
from redisrepl.inbound import Inbound
from redisrepl.local.address import SiteAddress
from redisrepl.local.apply import SiteWriter
from redisrepl.local.connection import open_client, translated
from redisrepl.local.notify import SiteEvents
from redisrepl.local.read import SiteReader
from redisrepl.local.sentinel import Epoch
from redisrepl.namespaces import Namespaces
from redisrepl.noticing import Noticing, Source
from redisrepl.observe.state import say_started, state_fields
from redisrepl.outbound import Outbound, OutboundOptions
from redisrepl.pacing import Pacer
from redisrepl.pushing import Pushing
from redisrepl.remote.compare import HubComparer
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.push import HubPusher
from redisrepl.remote.session import HubSession, check_url
from redisrepl.remote.subscribe import Subscription, SubscriptionOptions
from redisrepl.settings import Settings
from redisrepl.signals import process_signals
from redisrepl.sweep import Comparison, ConflictWinner, Healing, Sweep
from redisrepl.tls import CertificateFiles, client_context, renew
from redisrepl.wire.commands import ChangeDecoder

__all__ = ["Daemon"]

_log = structlog.get_logger("redisrepl")

#: Expectations that fit into each echo map.
_EXPECTATIONS = 1_000_000
#: Batches being fetched and applied side by side.
_FETCHES = 4
_TICK = 1.0
#: A difference found by a sweep is looked at again after this many seconds: it may have been on its way.
_SECOND_LOOK = 1.0


@dataclass(frozen=True, slots=True)
class _Pull:
    """The parts of the direction from hub to site."""

    inbound: Inbound
    applying: Applying
    subscriptions: list[Subscription]


class Daemon:
    """One site, one hub, and what keeps their namespaces equal.

    Args:
        settings: all of them.
        address: the site's Redis, with its password.

    Raises:
        ConfigError, CertificateError: what is configured cannot be used.
    """

    def __init__(self, settings: Settings, address: SiteAddress) -> None:
        if settings.cert is None or settings.key is None:
            raise ConfigError("no client certificate for the hub is given: give --cert and --key")
        self._settings = settings
        self._address = address
        self._namespaces = Namespaces(settings.ns)
        self._certificates = CertificateFiles(settings.ca, settings.cert, settings.key)
        self._context = client_context(self._certificates)
        self._session = HubSession(
            check_url(settings.haddr),
            self._context,
            connections=settings.flights + _FETCHES + 4,
            timeout=settings.timeout,
            connect_timeout=settings.connect_timeout,
        )
        self._hub_reader = HubReader(self._session)
        self._master_epoch = Epoch()
        self._read_client = open_client(address, settings.timeout, connections=2, epoch=self._master_epoch)
        self._write_client = open_client(address, settings.timeout, connections=1, epoch=self._master_epoch)
        self._site_reader = SiteReader(self._read_client, address)
        self._retry: dict[str, Any] = {
            "attempts": None,
            "timeout": None,
            "wait_initial": 0.1,
            "wait_max": settings.retry_max,
            "wait_jitter": 0.5,
        }
        self._stop = asyncio.Event()
        self._told_unreplicated: set[str] = set()
        self._checkpoint = self._open_checkpoint()
        saved = self._checkpoint.load() if self._checkpoint is not None else None
        self._origin = saved.origin.encode() if saved is not None else secrets.token_hex(8).encode()
        expected_local, expected_remote = ExpectedEvents(_EXPECTATIONS), ExpectedEvents(_EXPECTATIONS)
        self._pull = self._build_pull(expected_local, expected_remote) if settings.rc else None
        winner: ConflictWinner = settings.on_conflict or ("hub" if settings.rc else "site")
        self._outbound = Outbound(
            ChangeDecoder(self._namespaces.covers, settings.replicate, address.database),
            expected_local,
            expected_remote if settings.rc else None,
            self._pull.inbound if self._pull else None,
            OutboundOptions(
                origin=self._origin,
                max_bytes=settings.max_memory,
                max_keys=settings.max_keys,
                site_wins=winner == "site",
            ),
        )
        self._pushing = Pushing(
            self._outbound,
            HubPusher(self._session, settings.max_body),
            self._site_reader,
            Pacer(settings.flights, worthwhile=max(1, settings.batch // 2), interval=0.002),
            max_keys=settings.batch,
            max_bytes=settings.max_body,
            retry=self._retry,
        )
        self._sweep = self._build_sweep(winner)
        self._following = Following(
            address,
            self._outbound,
            self._namespaces.prefixes,
            self._checkpoint,
            saved,
            options=LinkOptions(settings.site_silence, settings.connect_timeout, self._retry),
            listener=self,
        )
        self._source = Source(
            settings.source,
            self._following,
            Noticing(
                SiteEvents(
                    address,
                    self._read_client,
                    self._namespaces.prefixes,
                    settings.replicate,
                    silence=settings.site_silence,
                    connect_wait=settings.connect_timeout,
                ),
                self._outbound,
                self._pull.inbound if self._pull else None,
                covers=self._namespaces.covers,
                retry=self._retry,
                listener=self,
                owe=self._sweep.owe,
            ),
        )

    def _open_checkpoint(self) -> Checkpoint | None:
        settings = self._settings
        scope = {
            "database": self._address.database,
            "namespaces": [prefix.hex() for prefix in self._namespaces],
            "kinds": sorted(settings.replicate),
        }
        pair = Pair(str(self._address), self._session.url, json.dumps(scope, sort_keys=True))
        return open_checkpoint(settings.state_dir, pair)

    def _build_sweep(self, winner: ConflictWinner) -> Sweep:
        settings = self._settings
        expiries = "expire" in settings.replicate
        return Sweep(
            Comparison(
                self._site_reader,
                HubComparer(self._session, self._hub_reader, expiries=expiries),
                expiries=expiries,
                rate=settings.sweep_rate,
                patience=_SECOND_LOOK,
            ),
            self._namespaces,
            Healing(self._outbound, self._pull.inbound if self._pull else None, winner, settings.initial_sync),
            period=settings.sweep_period,
            wake=self.wake,
            retry=self._retry,
        )

    def _build_pull(self, expected_local: ExpectedEvents, expected_remote: ExpectedEvents) -> _Pull:
        settings = self._settings
        inbound = Inbound(
            covers=self._namespaces.covers,
            kinds=settings.replicate,
            expected_local=expected_local,
            expected_remote=expected_remote,
            busy=self._busy,
        )
        applying = Applying(
            inbound,
            self._hub_reader,
            SiteReader(self._write_client, self._address),
            SiteWriter(self._write_client, self._address, self._origin),
            max_keys=settings.batch,
            retry=self._retry,
        )

        def on_event(key: bytes, event: bytes) -> None:
            inbound.event(key, event)
            applying.wake()

        def on_subscribed() -> None:
            inbound.resubscribed()
            self._sweep.owe("subscribed")

        options = SubscriptionOptions(
            database=settings.hub_database,
            origin=self._origin,
            kinds=settings.replicate,
            notify=settings.notify_config,
            canary_period=settings.canary_period,
            retry=self._retry,
        )
        subscriptions = [
            Subscription(self._session, prefix, options=options, on_event=on_event, on_subscribed=on_subscribed)
            for prefix in self._namespaces
        ]
        return _Pull(inbound, applying, subscriptions)

    def _busy(self, key: bytes) -> bool:
        return self._outbound.busy(key)

    # What `following` tells.

    def attached(self, *, continued: bool) -> None:
        """The site's stream is followed: what is decided about its keys is no longer blind."""
        self._master_epoch.advance()  # it may be another server's: what a replaced one is told or tells is lost
        self._sweep.attached.set()
        if self._pull is not None:
            self._pull.applying.attached.set()
            self._pull.applying.wake()
        if not continued and self._settings.rc:
            self._sweep.owe("full synchronisation or failover")

    def detached(self) -> None:
        """The site's stream is lost."""
        self._sweep.attached.clear()
        if self._pull is not None:
            self._pull.applying.attached.clear()
            self._pull.inbound.distrust_fetched()

    def wake(self) -> None:
        """There may be something to push or to pull."""
        self._pushing.wake()
        if self._pull is not None and self._pull.inbound.dirty:
            self._pull.applying.wake()

    # Life.

    async def run(self) -> None:
        """Run until a signal says stop.

        Raises:
            RefusedError: a peer refuses us at the start. ConfigError: what is configured cannot work there.
        """
        # What waits is many small objects that live for long: looking at all of them again and again took a tenth of
        # the time. Not rarer than this: requests that are done are cycles that hold their bodies.
        gc.freeze()
        gc.set_threshold(10_000, 5, 5)
        with process_signals(self._stop, self._say_state, self._reload):
            try:
                await self._unless_stopped(self._check_peers())
                if not self._stop.is_set():
                    async with asyncio.TaskGroup() as tasks:
                        await self._run_tasks(tasks)
            except* RedisreplError as errors:
                raise errors.exceptions[0] from errors.exceptions[0].__cause__
            finally:
                await self._session.close()
                await self._read_client.aclose()
                await self._write_client.aclose()
                if self._checkpoint is not None:
                    self._checkpoint.close()
        _log.info("daemon.stopped", unpushed_keys=self._outbound.waiting)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this, but no longer than until a signal says stop: a silent peer must not hold us."""
        task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for future in (task, stopped):
            future.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
        if not task.cancelled():
            task.result()

    async def _run_tasks(self, tasks: asyncio.TaskGroup) -> None:
        """Start everything, wait for the word to stop, then: take nothing in, push what waits, save, end."""
        settings, pull = self._settings, self._pull
        intake = [
            tasks.create_task(self._source.run(), name="source"),
            tasks.create_task(self._sweep.run(), name="sweep"),
        ]
        others = [tasks.create_task(self._pushing.run(), name=f"push {n}") for n in range(settings.flights)]
        others.append(tasks.create_task(self._following.save_forever(), name="checkpoint"))
        others.append(tasks.create_task(self._tick(), name="tick"))
        if pull is not None:
            for subscription in pull.subscriptions:
                intake.append(tasks.create_task(subscription.listen(), name="subscribe"))
                intake.append(tasks.create_task(subscription.send_canaries(), name="canary"))
            intake += [tasks.create_task(pull.applying.run(), name=f"fetch {n}") for n in range(_FETCHES)]
        say_started(self._address, self._session.url, self._namespaces, pull=settings.rc)
        await self._stop.wait()
        _log.info("daemon.stopping", waiting_keys=self._outbound.waiting)
        for task in intake:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.shutdown_timeout):
                await self._pushing.drained()
        for task in others:
            task.cancel()
        self._following.save()

    async def _check_peers(self) -> None:
        """Find out at once what waiting would not heal; a peer that merely cannot be reached is waited for."""
        async with asyncio.TaskGroup() as checks:
            checks.create_task(self._check_site())
            checks.create_task(self._check_hub())

    async def _check_site(self) -> None:
        try:
            with translated(self._address):
                async with asyncio.timeout(self._settings.connect_timeout):
                    await self._read_client.ping()
        except (PeerUnavailableError, LinkLostError) as error:
            self._following.trouble.failed(error, hint="waiting for it")

    async def _check_hub(self) -> None:
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                info = await self._session.command(b"INFO", b"cluster")
            if isinstance(info, bytes) and b"cluster_enabled:1" in info:
                raise ConfigError(f"the hub {self._session.url} is a Redis cluster, of which Webdis sees one node only")
        except CommandRefusedError as error:
            _log.debug("hub.info_refused", error=str(error))
        except (PeerUnavailableError, LinkLostError, HubError, ProtocolError) as error:
            self._pushing.trouble.failed(error, hint="waiting for it")
        except TimeoutError:
            self._pushing.trouble.failed(f"the hub {self._session.url} does not answer", hint="waiting for it")

    async def _tick(self) -> None:
        """What time alone brings: overdue events, owed sweeps, and the names of commands that do not cross."""
        while True:
            await asyncio.sleep(_TICK)
            if self._pull is not None:
                self._pull.inbound.tick(time.monotonic())
            if self._outbound.pending.overflowed or self._outbound.seeds.overflowed:
                self._outbound.pending.overflowed = self._outbound.seeds.overflowed = False
                self._sweep.owe("more keys waited than --max-keys")
            if (flushed := self._outbound.flushed) is not None:
                self._outbound.flushed = None
                self._sweep.owe("the site was flushed", removals=flushed.emptied and "del" in self._settings.replicate)
            self.wake()
            for name, count in self._outbound.decoder.unreplicated.items():
                if name not in self._told_unreplicated:
                    self._told_unreplicated.add(name)
                    _log.warning("stream.not_replicated", command=name, count=count)

    def _reload(self) -> None:
        """Take new certificates from the same files, for the connections that follow (SIGHUP)."""
        try:
            renew(self._context, self._certificates)
        except RedisreplError as error:
            _log.error("daemon.reload_failed", error=str(error), then="the old certificates stay in use")
        else:
            _log.info("daemon.reloaded", certificate=str(self._certificates.cert))

    def _say_state(self) -> None:
        """How things stand, in numbers (SIGUSR1)."""
        inbound = self._pull.inbound if self._pull else None
        _log.info("daemon.state", source=self._source.kind, **state_fields(self._following, self._outbound, inbound))
