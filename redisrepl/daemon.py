"""The daemon: builds the parts, starts every task in one group, minds signals, stops in phases.

In: settings. Out: an exit when told to. Left to others: every change; this module never looks inside one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import stamina
import structlog

from redisrepl import __version__
from redisrepl.changes import Position
from redisrepl.echo import ExpectedEvents
from redisrepl.errors import (
    CommandRefusedError,
    ConfigError,
    ExitCode,
    HubError,
    LinkLostError,
    PeerUnavailableError,
    ProtocolError,
    RedisreplError,
    RefusedError,
)
from redisrepl.inbound import Applying, Inbound
from redisrepl.local.address import SiteAddress
from redisrepl.local.apply import SiteWriter
from redisrepl.local.connection import open_client, translated
from redisrepl.local.read import SiteReader
from redisrepl.local.stream import ReplicaLink
from redisrepl.namespaces import Namespaces, printable
from redisrepl.observe.troubles import Trouble
from redisrepl.outbound import Outbound, Pushing
from redisrepl.pacing import Pacer
from redisrepl.pending import Pending
from redisrepl.remote.fetch import HubReader
from redisrepl.remote.push import HubPusher
from redisrepl.remote.session import HubSession, check_url
from redisrepl.remote.subscribe import Subscription, SubscriptionOptions
from redisrepl.settings import Settings
from redisrepl.sweep import HubSweep
from redisrepl.tls import CertificateFiles, client_context
from redisrepl.wire.commands import ChangeDecoder
from redisrepl.wire.psync import Commands, Continued, Event, FullSync, SnapshotData, SnapshotEnd
from redisrepl.wire.rdb import RdbReader

__all__ = ["Daemon"]

_log = structlog.get_logger("redisrepl")

#: Expectations that fit into each echo map.
_EXPECTATIONS = 1_000_000
#: Batches being fetched and applied side by side.
_FETCHES = 4
_TICK = 1.0
_DRAIN_POLL = 0.02


@dataclass(frozen=True, slots=True)
class _Pull:
    """The parts of the direction from hub to site."""

    inbound: Inbound
    applying: Applying
    sweep: HubSweep
    subscriptions: Sequence[Subscription]


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
        self._session = HubSession(
            check_url(settings.haddr),
            client_context(CertificateFiles(settings.ca, settings.cert, settings.key)),
            connections=settings.flights + _FETCHES + 2,
            timeout=settings.timeout,
            connect_timeout=settings.connect_timeout,
        )
        self._hub_reader = HubReader(self._session)
        self._read_client, self._write_client = (open_client(address, settings.timeout) for _ in range(2))
        self._retry: dict[str, Any] = {
            "attempts": None,
            "timeout": None,
            "wait_initial": 0.1,
            "wait_max": settings.retry_max,
            "wait_jitter": 0.5,
        }
        self._position: Position | None = None
        self._stop = asyncio.Event()
        self._stream_trouble = Trouble("stream")
        self._told_unreplicated: set[str] = set()
        expected_local, expected_remote = ExpectedEvents(_EXPECTATIONS), ExpectedEvents(_EXPECTATIONS)
        self._pull = self._build_pull(expected_local, expected_remote) if settings.rc else None
        self.outbound = Outbound(
            ChangeDecoder(self._namespaces.covers, settings.replicate, address.database),
            Pending(settings.max_memory, settings.max_keys),
            Pending(settings.max_memory // 4, settings.max_keys),
            kinds=settings.replicate,
            expected_local=expected_local,
            expected_remote=expected_remote if settings.rc else None,
            pulling=self._pull.inbound if self._pull else None,
        )
        self._pushing = Pushing(
            self.outbound,
            HubPusher(self._session, settings.max_body),
            SiteReader(self._read_client, address),
            Pacer(settings.flights, worthwhile=max(1, settings.batch // 2), interval=0.002),
            max_keys=settings.batch,
            max_bytes=settings.max_body,
            retry=self._retry,
        )

    def _build_pull(self, expected_local: ExpectedEvents, expected_remote: ExpectedEvents) -> _Pull:
        settings = self._settings
        inbound = Inbound(
            covers=self._namespaces.covers,
            kinds=settings.replicate,
            expected_local=expected_local,
            expected_remote=expected_remote,
            busy=lambda key: self.outbound.busy(key),
        )
        applying = Applying(
            inbound,
            self._hub_reader,
            SiteReader(self._write_client, self._address),
            SiteWriter(self._write_client, self._address),
            max_keys=settings.batch,
            retry=self._retry,
        )
        sweep = HubSweep(self._hub_reader, self._namespaces, inbound, applying.wake, self._retry)

        def on_event(key: bytes, event: bytes) -> None:
            inbound.event(key, event)
            applying.wake()

        def on_subscribed() -> None:
            inbound.resubscribed()
            sweep.owe()

        options = SubscriptionOptions(
            database=settings.hub_database,
            origin=secrets.token_hex(8).encode(),
            kinds=settings.replicate,
            notify=settings.notify_config,
            canary_period=settings.canary_period,
            retry=self._retry,
        )
        subscriptions = [
            Subscription(self._session, prefix, options=options, on_event=on_event, on_subscribed=on_subscribed)
            for prefix in self._namespaces
        ]
        return _Pull(inbound, applying, sweep, subscriptions)

    async def run(self) -> None:
        """Run until a signal says stop.

        Raises:
            RefusedError: a peer refuses us at the start. ConfigError: what is configured cannot work there.
        """
        with self._signals():
            try:
                await self._check_peers()
                async with asyncio.TaskGroup() as tasks:
                    await self._run_tasks(tasks)
            except* RedisreplError as errors:
                raise errors.exceptions[0] from errors.exceptions[0].__cause__
            finally:
                await self._session.close()
                for client in (self._read_client, self._write_client):
                    await client.aclose()
        _log.info("daemon.stopped", unpushed_keys=self.outbound.waiting)

    async def _run_tasks(self, tasks: asyncio.TaskGroup) -> None:
        """Start everything, wait for the word to stop, then: take nothing in, push what waits, end."""
        settings, pull = self._settings, self._pull
        intake = [tasks.create_task(self._follow_site(), name="stream")]
        others = [tasks.create_task(self._pushing.run(), name=f"push {n}") for n in range(settings.flights)]
        others.append(tasks.create_task(self._tick(), name="tick"))
        if pull is not None:
            intake.append(tasks.create_task(pull.sweep.run(), name="sweep"))
            for subscription in pull.subscriptions:
                intake.append(tasks.create_task(subscription.listen(), name="subscribe"))
                intake.append(tasks.create_task(subscription.send_canaries(), name="canary"))
            others += [tasks.create_task(pull.applying.run(), name=f"fetch {n}") for n in range(_FETCHES)]
        _log.info(
            "daemon.started",
            version=__version__,
            site=str(self._address),
            hub=self._session.url,
            namespaces=[printable(prefix) for prefix in self._namespaces],
            pull=settings.rc,
        )
        for prefix in self._namespaces.without_delimiter():
            name = printable(prefix)
            _log.warning(
                "daemon.namespace_open", namespace=name, hint=f"{name} also covers {name}2: end it with a colon"
            )
        await self._stop.wait()
        _log.info("daemon.stopping", waiting_keys=self.outbound.waiting)
        for task in intake:
            task.cancel()
        await self._drain()
        for task in others:
            task.cancel()

    async def _check_peers(self) -> None:
        """Find out at once what waiting would not heal; a peer that merely cannot be reached is waited for."""
        try:
            with translated(self._address):
                await self._read_client.ping()
        except (PeerUnavailableError, LinkLostError) as error:
            self._stream_trouble.failed(error, hint="waiting for it")
        try:
            info = await self._session.command(b"INFO", b"cluster")
            if isinstance(info, bytes) and b"cluster_enabled:1" in info:
                raise ConfigError(f"the hub {self._session.url} is a Redis cluster, of which Webdis sees one node only")
        except CommandRefusedError as error:
            _log.debug("hub.info_refused", error=str(error))
        except (PeerUnavailableError, LinkLostError, HubError, ProtocolError) as error:
            self._pushing.trouble.failed(error, hint="waiting for it")

    async def _follow_site(self) -> None:
        """Attach to the site's Redis, and attach again, for ever."""

        def worth_another_try(error: Exception) -> bool:
            refused_at_start = isinstance(error, RefusedError) and self._position is None
            return isinstance(error, RedisreplError) and not refused_at_start

        while True:
            async for attempt in stamina.retry_context(on=worth_another_try, **self._retry):
                with attempt:
                    await self._follow_link()

    async def _follow_link(self) -> None:
        """One replica link, from attaching to its end; returns if it worked for a while, raises if it did not."""
        reader = RdbReader(self._namespaces.prefixes)
        link = ReplicaLink(
            self._address,
            self._position,
            snapshot=reader,
            acknowledged=lambda: self.outbound.acknowledged,
            silence=self._settings.site_silence,
            connect_wait=self._settings.connect_timeout,
        )
        attached = False
        try:
            async for event in link.events():
                match event:
                    case Commands(commands, ends):
                        self.outbound.read(commands, ends[-1])
                        self._position = link.position
                    case SnapshotData(events=entries):
                        self.outbound.read_snapshot(entries, time.time())
                    case FullSync(position):
                        _log.info("stream.full_sync", position=str(position))
                        self._position = None  # until the snapshot is complete there is no place to go on from
                        self.outbound.start_over()
                    case SnapshotEnd(position) | Continued(position):
                        attached = True
                        self._position = position
                        self._attached(event, position)
                self._pushing.wake()
        except RedisreplError as error:
            self._stream_trouble.failed(error)
            if not attached:
                raise
        finally:
            if self._pull is not None:
                self._pull.applying.attached.clear()

    def _attached(self, event: Event, position: Position) -> None:
        if isinstance(event, SnapshotEnd):
            self.outbound.pending.read_up_to(position.offset)
        elif self.outbound.pending.acknowledged == 0 and not self.outbound.waiting:
            self.outbound.pending.resume_at(position.offset)
        self._stream_trouble.succeeded()
        _log.info("stream.attached", position=str(position), partial=isinstance(event, Continued))
        if self._pull is not None:
            self._pull.applying.attached.set()
            if isinstance(event, SnapshotEnd):
                self._pull.sweep.owe()

    async def _tick(self) -> None:
        """What time alone brings: overdue events, and the names of commands that do not cross."""
        while True:
            await asyncio.sleep(_TICK)
            if self._pull is not None:
                self._pull.inbound.tick(time.monotonic())
                self._pull.applying.wake()
            for name, count in self.outbound.decoder.unreplicated.items():
                if name not in self._told_unreplicated:
                    self._told_unreplicated.add(name)
                    _log.warning("stream.not_replicated", command=name, count=count)

    async def _drain(self) -> None:
        """Push what waits, as long as the shutdown may take."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.shutdown_timeout):
                while not self._pushing.idle:
                    await asyncio.sleep(_DRAIN_POLL)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT ask for a clean stop; a second one does not wait."""
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self._stop.is_set():
                _log.warning("daemon.forced", unpushed_keys=self.outbound.waiting)
                os._exit(ExitCode.UNEXPECTED)
            self._stop.set()

        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
