"""The daemon: starts every task in one group, minds signals, stops in phases.

In: settings. Out: an exit when told to. Left to others: building the parts (`parts`), and every change; this module
never looks inside one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import redis.exceptions
import structlog

from redisrepl.engine.continuity import SIDES
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
from redisrepl.local.client import ask, translated
from redisrepl.memory import clear_away, collect_seldom, give_back
from redisrepl.observe.service import Service
from redisrepl.observe.socket import serve_state
from redisrepl.observe.state import DaemonState, say_started
from redisrepl.opening import refuse_one_for_both
from redisrepl.parts import FETCHES, Parts
from redisrepl.settings.settings import Settings
from redisrepl.signals import process_signals
from redisrepl.tls.certificates import CertificateWatch, site_files
from redisrepl.tls.contexts import readable_by_others
from redisrepl.tls.verdict import VERDICT_WAIT
from redisrepl.wire.replies import as_info

if TYPE_CHECKING:
    from redisrepl.listener.addresses import Listening
    from redisrepl.listener.server import Listener

__all__ = ["Daemon"]

_log = structlog.get_logger("redisrepl")

_TICK = 1.0
#: Seconds between two times that memory is given back.
_GIVE_BACK_PERIOD = 60.0
#: Seconds between two looks for what refused replies have left: with much in memory each takes a second.
_CLEAR_PERIOD = 5.0


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
        listening = self._listening()  # what is wrong with it must be said before the state is opened
        self._parts = Parts(settings, address)
        for key in filter(None, (settings.key, settings.site_key)):
            if readable_by_others(key):
                _log.warning("tls.key_readable", file=str(key), hint=f"others can read it: chmod 600 {key}")
        links = {"hub": (self._parts.context, self._parts.certificates)}
        if address.context is not None:
            links["site"] = (address.context, site_files(settings))
        self._certificates = CertificateWatch(links, self._renewed)
        self._state = DaemonState(self._parts, address, self._certificates)
        self._service = Service()
        self._listener = None if listening is None else self._open_listener(listening)
        self._stop = asyncio.Event()
        self._logged_unreplicated: set[str] = set()

    def _listening(self) -> Listening | None:
        if not self._settings.listen:
            return None
        from redisrepl.listener.addresses import Listening  # noqa: PLC0415 - a daemon that does not listen need not load it

        return Listening.of(self._settings)

    def _open_listener(self, listening: Listening) -> Listener:
        from redisrepl.listener.server import Listener  # noqa: PLC0415 - likewise

        listener = Listener(listening, self._state)
        self._state.watch("listen", listener.failure_log)
        if listener.access.context is not None and listener.access.files is not None:
            self._certificates.add("listener", listener.access.context, listener.access.files)
        return listener

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
        others.append(tasks.create_task(parts.saving.run(), name="saving"))
        others += [tasks.create_task(parts.judging.run(side), name=f"judging {side}") for side in SIDES]
        others.append(tasks.create_task(self._look_at_hub(), name="hub"))
        others.append(tasks.create_task(parts.stream.diagnosis.run(), name="diagnosis"))
        others.append(tasks.create_task(self._tick(), name="tick"))
        others.append(tasks.create_task(serve_state(parts.store.file("sock"), self._state.full_document), name="state"))
        if self._listener is not None:
            others.append(tasks.create_task(self._listener.run(), name="listen"))
        if pull is not None:
            for subscription in pull.subscriptions:
                intake.append(tasks.create_task(subscription.listen(), name="subscribe"))
                intake.append(tasks.create_task(subscription.send_canaries(), name="canary"))
            intake += [tasks.create_task(pull.applying.run(), name=f"fetch {n}") for n in range(FETCHES)]
        say_started(self._address, parts.hub.url, parts.namespaces, pull=settings.rc)
        self._certificates.begin()
        await self._stop.wait()
        _log.info("daemon.stopping", waiting_keys=parts.outbound.waiting)
        self._service.stopping(f"stopping: {parts.outbound.waiting} keys wait for the hub")
        await parts.linger.catch_up()
        for task in intake:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(settings.shutdown_timeout):
                await asyncio.wait(intake)  # only then is it known what can still leave
                await parts.pushing.drained()
        for task in others:
            task.cancel()
        parts.saving.save()

    async def _check_peers(self) -> None:
        """Find out at once what waiting would not heal; a peer that merely cannot be reached is waited for."""
        async with asyncio.TaskGroup() as checks:
            site, hub = checks.create_task(self._check_site()), checks.create_task(self._check_hub())
        refuse_one_for_both(self._address, site.result(), self._parts.hub, hub.result())

    async def _check_site(self) -> str | None:
        """Its run id, if it tells."""
        try:
            with translated(self._address):
                # Time too to find out why nothing answers.
                async with asyncio.timeout(self._settings.connect_timeout + VERDICT_WAIT):
                    with contextlib.suppress(redis.exceptions.NoPermissionError):  # an answer too
                        reply = await ask(self._parts.read_client, b"INFO", b"server")
                        return as_info(reply, f"INFO at the site's Redis {self._address}").text("run_id")
        except (PeerUnavailableError, LinkLostError, ProtocolError) as error:
            self._parts.stream.failure_log.failed(error, hint="waiting for it")
        return None

    async def _check_hub(self) -> str | None:
        """Likewise."""
        hub, pushing = self._parts.hub, self._parts.pushing
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                info = as_info(await hub.command(b"INFO"), f"INFO at the hub {hub.url}")
            if info.text("cluster_enabled") == "1":
                raise ConfigError(f"the hub {hub.url} is a Redis cluster, of which only one node would be used")
            return info.text("run_id")
        except CommandRefusedError as error:
            _log.debug("hub.info_refused", error=str(error))
        except (PeerUnavailableError, LinkLostError, HubError, ProtocolError) as error:
            pushing.failure_log.failed(error, hint="waiting for it")
        except TimeoutError:
            pushing.failure_log.failed(f"the hub {hub.url} does not answer", hint="waiting for it")
        return None

    async def _look_at_hub(self) -> None:
        """Whether it was emptied, or is another process: of neither does an event tell. Nor of a clock that was set."""
        judging = self._parts.judging
        if self._parts.pull is None:
            judging.hub_heard()  # nobody listens: what is known of it is what it says when it is asked
        look_at = 0.0
        while True:
            await asyncio.sleep(_TICK)
            try:
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + self._settings.canary_period
                    await judging.look_at_hub()
                    await judging.look_at_clock()
                await judging.mark()
            except RedisreplError as error:
                _log.debug("hub.not_asked", error=str(error))

    async def _tick(self) -> None:
        """What time alone brings: overdue events, memory to give back, and commands that are not replicated."""
        outbound = self._parts.outbound
        gave_back_at = cleared_at = time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            if time.monotonic() - cleared_at >= _CLEAR_PERIOD and clear_away():
                cleared_at = time.monotonic()
            if time.monotonic() - gave_back_at >= _GIVE_BACK_PERIOD:
                give_back()
                gave_back_at = time.monotonic()
            self._parts.tick(time.monotonic())
            self._state.tick(time.monotonic())
            self._certificates.tick(time.monotonic())
            if self._listener is not None:
                self._listener.tick(time.monotonic())
            self._service.tick(ready=self._state.ready, status=self._state.line)
            for name, count in outbound.decoder.unreplicated.items():
                if name not in self._logged_unreplicated:
                    self._logged_unreplicated.add(name)
                    _log.warning("stream.not_replicated", command=name, count=count)

    def _reload(self) -> None:
        """Take new certificates from the same files, for the connections that follow (SIGHUP)."""
        self._service.reloading()
        self._certificates.reload()
        self._service.reloaded()

    def _renewed(self, link: str, drop: bool) -> None:
        """Connections to a server whose authority is not trusted any more end at once; others are used up."""
        if link == "hub":
            self._parts.hub.renew(self._parts.context, drop=drop)
        elif link == "site" and drop and self._address.context is not None:
            self._address.context.end_connections()
        elif link == "listener" and drop and self._listener is not None:
            self._listener.end_connections()

    def _say_state(self) -> None:
        """How things stand, in numbers (SIGUSR1)."""
        _log.info("daemon.state", **self._state.document())
