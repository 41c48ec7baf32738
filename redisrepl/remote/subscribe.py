"""Subscribes to the keyspace events of one namespace, and checks that they still arrive.

In: a namespace. Out: calls for events, for each new subscription, and the canary's round trip. Left to others: how
messages arrive (`remote.hub`), what an event means (`engine.inbound`), comparing after an outage (`flow.sweep`).

A subscription cannot be trusted: over HTTP, bursts arrive in reverse, and when the hub's Redis restarts the stream
stays open and silent. So an event means "look at this key" and no more, and a canary must come back again and again: a
message that we publish ourselves, on a channel that the pattern matches.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import structlog

from redisrepl.changes import Change
from redisrepl.errors import CommandRefusedError, LinkLostError, ProtocolError, RedisreplError, SilentError
from redisrepl.links import Links
from redisrepl.namespaces import glob_escape, printable
from redisrepl.observe.failures import FailureLog
from redisrepl.pauses import Pauses
from redisrepl.remote.hub import Hub
from redisrepl.remote.notifications import Notifications
from redisrepl.wire.feed import FEED_KEY, parse_feed
from redisrepl.wire.keyspace import keyspace_channel
from redisrepl.wire.messages import Message

__all__ = ["Subscription", "SubscriptionOptions"]

_log = structlog.get_logger("redisrepl")

_CANARY = b"redisrepl:canary:"
#: Sent as a canary by the client that set missing notification flags again: events were lost, and the other clients,
#: which now find their flags set, could not know.
_GAP = b"gap:"
#: After this many periods without a canary the stream counts as dead.
_PATIENCE = 3
#: The hub's limits on connections. Each namespace uses one connection of each kind all the time.
_LIMITS = "nginx: limit_conn and worker_connections; Webdis: LimitNOFILE; Redis: maxclients"


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """How a subscription is made and watched.

    Attributes:
        database: number of the hub's database, part of the channel's name.
        origin: identifies this daemon in its canaries.
        canary_period: seconds between canaries; must be below the idle timeout of the proxy before the hub.
        retry: how to wait between subscriptions, as arguments of `stamina.retry_context`.
        longest_pause: seconds of the longest pause while the hub answers, but refuses to subscribe us: its health makes
            nobody wait then.
    """

    database: int
    origin: bytes
    canary_period: float
    retry: Mapping[str, Any]
    longest_pause: float


class Subscription:
    """Events of one namespace at the hub.

    Args:
        hub: the hub.
        notifications: makes the hub send events.
        prefix: the namespace.
        options: see `SubscriptionOptions`.
        on_events: called with the keys and event names of one read.
        on_feed: called with the changes that another redisrepl pushed, and the hub's time in microseconds; before the
            events of the same read.
        on_subscribed: called when a subscription starts, or events were lost: changes before that may not have been
            seen.

    Attributes:
        failure_log: failures to subscribe.
        live: whether the last canary came back.
        round_trip: seconds that it took; None before the first.
        subscriptions: how many were made.
    """

    def __init__(
        self,
        hub: Hub,
        notifications: Notifications,
        prefix: bytes,
        *,
        options: SubscriptionOptions,
        on_events: Callable[[list[tuple[bytes, bytes]]], None],
        on_feed: Callable[[int, list[Change]], None],
        on_subscribed: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._prefix = prefix
        self._options = options
        self._channel = keyspace_channel(options.database, b"")
        self._canary_channel = keyspace_channel(options.database, prefix + _CANARY)
        self._feed_channel = keyspace_channel(options.database, prefix + FEED_KEY)
        self._notifications = notifications
        self._restored = 0  # the value of `notifications.restored` that we have acted on
        self._canary_head = b"canary:" + options.origin + b":"
        self._gap = _GAP + options.origin
        self._gap_pending = False  # whether events were lost and the other clients have not been told (`_GAP`)
        self._period = options.canary_period
        self._on_events = on_events
        self._on_feed = on_feed
        self._on_subscribed = on_subscribed
        self._sent: dict[bytes, float] = {}  # canaries that have not come back, with the time when they were sent
        self._awaited: dict[bytes, asyncio.Event] = {}  # canaries that `caught_up` waits for
        self._numbers = itertools.count(1)
        self._deadline = 0.0  # when the next canary must be back
        self._subscribed = asyncio.Event()
        self._lifetime: asyncio.Timeout | None = None  # of the canaries of one subscription; it expires with that
        self._pauses = Pauses(self._period)  # before the next canary, if this one cannot be sent
        # A subscription counts as made when its canary comes back. A refusal is not final: the daemon goes on pushing.
        self._links = Links(options.retry, works_after=0.0, is_final=lambda _: False)
        self._refusals = Pauses(options.longest_pause)
        self._mute = False  # whether the hub refused PUBLISH: then only silence shows that the stream is dead
        self.failure_log = FailureLog("subscribe")
        self.live = False
        self.round_trip: float | None = None
        self.subscriptions = 0

    async def listen(self) -> None:
        """Subscribe, and subscribe again after each failure, for ever."""
        async for _ in self._links:
            try:
                await self._listen_once()
            except RedisreplError as error:
                self._links.lost(error)
                self.failure_log.failed(self._explained(error), namespace=printable(self._prefix))
                if isinstance(error, CommandRefusedError | ProtocolError):
                    await asyncio.sleep(self._refusals.next())

    def _explained(self, error: RedisreplError) -> RedisreplError | str:
        """The text for a failure: if it repeats while other namespaces work, the hub may be at a limit."""
        others = self._hub.listening
        if self._links.is_made or not self.failure_log.failures or not others or isinstance(error, CommandRefusedError):
            return error
        return f"{error}; {others} other namespaces are listened to: does the hub take more connections ({_LIMITS})?"

    async def _listen_once(self) -> None:
        try:
            if await self._sent_less():
                self._gap_pending = True
            pattern = self._channel + glob_escape(self._prefix) + b"*"
            async with self._hub.psubscribe(pattern, silence=_PATIENCE * self._period) as lists:
                async for messages in lists:
                    if not self._subscribed.is_set():
                        self._start()
                    self._dispatch(messages)
                    self._demand_canary()
            raise LinkLostError("the hub ended the subscription")
        except SilentError as error:
            if not self._links.is_made and not self._mute:  # no canary ever came back: this channel may not work here
                await self._hub.distrust(error)
            raise
        finally:
            self._subscribed.clear()
            if self._lifetime is not None and not self._lifetime.expired():
                self._lifetime.reschedule(asyncio.get_running_loop().time())
            self._sent.clear()
            self.live = False

    async def _sent_less(self) -> bool:
        """Set missing flags; whether the hub may have sent too few events until now."""
        await self._notifications.ensure()
        before, self._restored = self._restored, self._notifications.restored
        return self._restored != before

    def _start(self) -> None:
        self.subscriptions += 1
        self._deadline = time.monotonic() + _PATIENCE * self._period
        self._subscribed.set()
        self._on_subscribed()
        _log.info("subscribe.started", namespace=printable(self._prefix))

    def _dispatch(self, messages: list[Message]) -> None:
        """Hand on the messages of one read: the feed first, because it makes the events that follow expected ones."""
        head, ours = self._channel, (self._canary_channel, self._feed_channel)
        start = len(head)
        if feeds := [data for channel, data in messages if channel == self._feed_channel]:
            self._tell(feeds)
        for canary in [data for channel, data in messages if channel == self._canary_channel]:
            self._canary(canary)
        events = [(c[start:], data) for c, data in messages if c.startswith(head) and c not in ours]
        if events:
            self._on_events(events)

    def _tell(self, messages: Iterable[bytes]) -> None:
        fed: list[tuple[int, list[Change]]] = []
        for message in messages:
            if message.split(b" ", 2)[1:2] == [self._options.origin]:
                continue  # our own push
            try:
                feed = parse_feed(message)
                fed.append((feed.time, self._hub.clock_shift.changes(feed.changes())))
            except ProtocolError as error:  # nothing is lost: the keyspace events of the same push arrive as well
                _log.debug("subscribe.feed_damaged", error=str(error))
        for time_us, changes in sorted(fed, key=itemgetter(0)):
            self._on_feed(time_us, changes)

    def _canary(self, canary: bytes) -> None:
        if canary.startswith(_GAP) and canary != self._gap:
            self._on_subscribed()
        if (awaited := self._awaited.get(canary)) is not None:
            awaited.set()
        sent = self._sent.pop(canary, None)
        if sent is not None:
            now = time.monotonic()
            self.round_trip = now - sent
            self._deadline = now + _PATIENCE * self._period
            self._links.made()
            self._refusals.passed()
            self.live = True
            self.failure_log.succeeded(namespace=printable(self._prefix))

    def _demand_canary(self) -> None:
        if not self._mute and time.monotonic() > self._deadline:
            raise SilentError("events come, but no canary came back in time")

    def _next_canary(self) -> bytes:
        return self._canary_head + b"%d" % next(self._numbers)

    async def caught_up(self) -> None:
        """Return when we have received everything that the hub has announced until now, as far as we can tell.

        One canary is not enough: Webdis delivers a burst in reverse, so the canary may arrive before earlier events. A
        second one, sent when the first has come back, does not belong to that burst.

        Raises:
            RedisreplError: no canary came back in time.
        """
        for _ in range(0 if self._mute else 2):
            canary = self._next_canary()
            heard = self._awaited[canary] = asyncio.Event()
            try:
                await self._hub.command(b"PUBLISH", self._canary_channel, canary)
                async with asyncio.timeout(_PATIENCE * self._period):
                    await heard.wait()
            except TimeoutError:
                raise SilentError("no canary came back in time") from None
            finally:
                del self._awaited[canary]

    async def send_canaries(self) -> None:
        """Publish a canary when a subscription starts and then once per period, until it ends; for ever.

        Nothing of one subscription is waited for in the next, neither the rest of a period nor the answer to a canary:
        whether the next one lives is to be known at once.
        """
        while True:
            await self._subscribed.wait()
            self._lifetime = asyncio.timeout(None)
            try:
                async with self._lifetime:
                    while self._subscribed.is_set():
                        pause = await self._send_canary()
                        await asyncio.sleep(pause)
            except TimeoutError:
                pass  # the subscription has ended
            finally:
                self._lifetime = None

    async def _send_canary(self) -> float:
        """Publish a canary; returns the seconds until the next.

        Also check that the hub still sends events: canaries come back without them. If flags were missing, tell the
        other clients of the namespace: they find the flags set again, and could not know.
        """
        try:
            if await self._sent_less():
                self._gap_pending = True
                self._on_subscribed()  # as after a new subscription: changes until now may not have been seen
            if self._gap_pending:
                await self._hub.command(b"PUBLISH", self._canary_channel, self._gap)
                self._gap_pending = False
            canary = self._next_canary()
            self._sent[canary] = time.monotonic()
            await self._hub.command(b"PUBLISH", self._canary_channel, canary)
            if self._mute:  # it is allowed again
                self._mute, self._deadline = False, time.monotonic() + _PATIENCE * self._period
        except CommandRefusedError as error:
            self._sent.clear()
            self.live = True
            if not self._mute:
                self._mute = True
                _log.warning("subscribe.no_canary", error=str(error), hint="let this client PUBLISH at the hub")
        except RedisreplError as error:
            _log.debug("subscribe.canary_lost", error=str(error))
            return self._pauses.next()
        self._pauses.passed()
        return self._period
