"""The daemon: starts every task in one group, minds signals, stops in phases.

In: settings. Out: an exit when told to. Left to others: building the parts (`parts`), and every change; this module
never looks inside one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Coroutine
from typing import Any

import structlog

from redisrepl.errors import (
    CommandRefusedError,
    ConfigError,
    HubError,
    LinkLostError,
    PeerUnavailableError,
    ProtocolError,
    RedisreplError,
)
from redisrepl.local.address import SiteAddress
from redisrepl.local.connection import translated
from redisrepl.memory import collect_seldom, give_back
from redisrepl.observe.socket import serve_state
from redisrepl.observe.state import State, say_started
from redisrepl.parts import FETCHES, Parts
from redisrepl.settings import Settings
from redisrepl.signals import process_signals
from redisrepl.tls import client_context, readable_by_others

__all__ = ["Daemon"]

_log = structlog.get_logger("redisrepl")

_TICK = 1.0
#: Seconds between two times that memory is given back.
_GIVE_BACK_PERIOD = 60.0


class Daemon:
    """One site, one hub, and what keeps their namespaces equal.

    Args:
        settings: all of them.
        address: the site's Redis, with its password.

    Raises:
        ConfigError, CertificateError: what is configured cannot be used.
    """

    def __init__(self, settings: Settings, address: SiteAddress) -> None:
        self._settings = settings
        self._address = address
        self._parts = Parts(settings, address)
        for key in filter(None, (settings.key, settings.site_key)):
            if readable_by_others(key):
                _log.warning("tls.key_readable", file=str(key), hint=f"others can read it: chmod 600 {key}")
        self._state = State(self._parts, address)
        self._stop = asyncio.Event()
        self._told_unreplicated: set[str] = set()

    async def run(self) -> None:
        """Run until a signal says stop.

        Raises:
            RefusedError: a peer refuses us at the start. ConfigError: what is configured cannot work there.
        """
        collect_seldom()
        with process_signals(self._stop, self._say_state, self._reload):
            try:
                await self._unless_stopped(self._check_peers())
                if not self._stop.is_set():
                    async with asyncio.TaskGroup() as tasks:
                        await self._run_tasks(tasks)
            except* RedisreplError as errors:
                raise errors.exceptions[0] from errors.exceptions[0].__cause__
            finally:
                await self._parts.close()
        _log.info("daemon.stopped", unpushed_keys=self._parts.outbound.waiting)

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
        settings, parts, pull = self._settings, self._parts, self._parts.pull
        intake = [
            tasks.create_task(parts.source.run(), name="source"),
            tasks.create_task(parts.sweep.run(), name="sweep"),
        ]
        others = [tasks.create_task(parts.pushing.run(), name=f"push {n}") for n in range(settings.flights)]
        others.append(tasks.create_task(parts.following.save_forever(), name="checkpoint"))
        others.append(tasks.create_task(parts.following.diagnosis.run(), name="diagnosis"))
        others.append(tasks.create_task(self._tick(), name="tick"))
        if parts.checkpoint is not None:
            path = parts.checkpoint.path.with_suffix(".sock")
            others.append(tasks.create_task(serve_state(path, self._state.full_document), name="state"))
        if pull is not None:
            for subscription in pull.subscriptions:
                intake.append(tasks.create_task(subscription.listen(), name="subscribe"))
                intake.append(tasks.create_task(subscription.send_canaries(), name="canary"))
            if pull.flushes is not None:
                intake.append(tasks.create_task(pull.flushes.watch(), name="flushes"))
            intake += [tasks.create_task(pull.applying.run(), name=f"fetch {n}") for n in range(FETCHES)]
        say_started(self._address, parts.session.url, parts.namespaces, pull=settings.rc)
        await self._stop.wait()
        _log.info("daemon.stopping", waiting_keys=parts.outbound.waiting)
        for task in intake:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.shutdown_timeout):
                await parts.pushing.drained()
        for task in others:
            task.cancel()
        parts.following.save()

    async def _check_peers(self) -> None:
        """Find out at once what waiting would not heal; a peer that merely cannot be reached is waited for."""
        async with asyncio.TaskGroup() as checks:
            checks.create_task(self._check_site())
            checks.create_task(self._check_hub())

    async def _check_site(self) -> None:
        try:
            with translated(self._address):
                async with asyncio.timeout(self._settings.connect_timeout):
                    await self._parts.read_client.ping()
        except (PeerUnavailableError, LinkLostError) as error:
            self._parts.following.trouble.failed(error, hint="waiting for it")

    async def _check_hub(self) -> None:
        session, pushing = self._parts.session, self._parts.pushing
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                info = await session.command(b"INFO", b"cluster")
            if isinstance(info, bytes) and b"cluster_enabled:1" in info:
                raise ConfigError(f"the hub {session.url} is a Redis cluster, of which Webdis sees one node only")
        except CommandRefusedError as error:
            _log.debug("hub.info_refused", error=str(error))
        except (PeerUnavailableError, LinkLostError, HubError, ProtocolError) as error:
            pushing.trouble.failed(error, hint="waiting for it")
        except TimeoutError:
            pushing.trouble.failed(f"the hub {session.url} does not answer", hint="waiting for it")

    async def _tick(self) -> None:
        """What time alone brings: overdue events, memory to give back, and the names of commands that do not cross."""
        outbound, pull = self._parts.outbound, self._parts.pull
        gave_back_at = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            if time.monotonic() - gave_back_at >= _GIVE_BACK_PERIOD:
                give_back()
                gave_back_at = time.monotonic()
            if pull is not None:
                pull.inbound.tick(time.monotonic())
            self._parts.wake()
            self._parts.tick()
            self._state.tick(time.monotonic())
            for name, count in outbound.decoder.unreplicated.items():
                if name not in self._told_unreplicated:
                    self._told_unreplicated.add(name)
                    _log.warning("stream.not_replicated", command=name, count=count)

    def _reload(self) -> None:
        """Take new certificates from the same files, for the connections that follow (SIGHUP)."""
        try:
            self._renew(client_context(self._parts.certificates))
        except RedisreplError as error:
            _log.error("daemon.reload_failed", error=str(error), then="the old certificates stay in use")
        else:
            _log.info("daemon.reloaded", certificate=str(self._parts.certificates.cert))

    def _renew(self, context: ssl.SSLContext) -> None:
        """Connections to a hub whose authority is not trusted any more end at once; others are used up."""
        parts = self._parts
        before, now = (set(c.get_ca_certs(binary_form=True)) for c in (parts.context, context))
        parts.context = context
        for part in (parts.session, parts.ways):
            part.renew(context, drop=not before <= now)

    def _say_state(self) -> None:
        """How things stand, in numbers (SIGUSR1)."""
        _log.info("daemon.state", **self._state.document())
