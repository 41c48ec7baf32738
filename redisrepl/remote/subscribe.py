"""The subscription: keyspace events of one namespace, and proof that they still come.

In: a namespace. Out: calls for each event, for each new subscription, and the canary's round trip. Left to others:
how messages get here (`remote.hub`), what an event means (`engine.inbound`), what a gap costs (`flow.sweep`).

A subscription is not to be trusted: over HTTP bursts arrive in reverse, and the stream of a hub whose Redis was
restarted stays open and says nothing. So an event means "look at this key" and no more, and a canary, a message of our
own on a channel that the pattern matches, must come back again and again.
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
from redisrepl.remote.hub import Hub
from redisrepl.remote.notifications import Notifications
from redisrepl.wire.feed import FEED_KEY, parse_feed
from redisrepl.wire.keyspace import keyspace_channel
from redisrepl.wire.messages import Message

__all__ = ["Subscription", "SubscriptionOptions"]

_log = structlog.get_logger("redisrepl")

_CANARY = b"redisrepl:canary:"
#: Sent as a canary by whoever made the hub send events again: the others, who see the flags that they need, must know.
_GAP = b"gap:"
#: After this many periods without a canary the stream is taken for dead.
_PATIENCE = 3
#: What limits them at the hub. A namespace holds one of each all the time.
_LIMITS = "nginx: limit_conn and worker_connections; Webdis: LimitNOFILE; Redis: maxclients"


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """How a subscription is made and watched.

    Attributes:
        database: number of the hub's database, part of the channel's name.
        origin: who we are, in canaries.
        canary_period: seconds between canaries; must be below the idle timeout of the proxy before the hub.
        retry: how to wait between subscriptions, as arguments of `stamina.retry_context`.
    """

    database: int
    origin: bytes
    canary_period: float
    retry: Mapping[str, Any]


class Subscription:
    """Events of one namespace at the hub.

    Args:
        hub: where they happen.
        notifications: see to it that the hub sends them.
        prefix: the namespace.
        options: see there.
        on_events: called with keys and event names that came together.
        on_feed: called with what the push of another redisrepl did and when, by the hub's clock in microseconds; before
            the events of it that came together.
        on_subscribed: called when a subscription starts: what happened before it was not seen.

    Attributes:
        live: the last canary came back.
        round_trip: seconds that it took, None before the first.
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
        self._restored = 0  # of `notifications`, what was dealt with
        self._canary_head = b"canary:" + options.origin + b":"
        self._gap = _GAP + options.origin
        self._untold = False  # that the hub did not send events until now
        self._period = options.canary_period
        self._on_events = on_events
        self._on_feed = on_feed
        self._on_subscribed = on_subscribed
        self._sent: dict[bytes, float] = {}  # canaries under way, with the time they left
        self._awaited: dict[bytes, asyncio.Event] = {}  # those that `caught_up` waits for
        self._numbers = itertools.count(1)
        self._deadline = 0.0  # when the next canary must be back
        self._subscribed = asyncio.Event()
        self._links = Links(options.retry, works_after=0.0)  # one is made once it has brought a canary back
        self._links.accepted()  # a refusal is waited out: the daemon goes on pushing
        self._mute = False  # the hub does not let us publish: only silence can tell that the stream is dead
        self.trouble = FailureLog("subscribe")
        self.live = False
        self.round_trip: float | None = None
        self.subscriptions = 0

    async def listen(self) -> None:
        """Subscribe, and subscribe again, for ever."""
        async for _ in self._links:
            try:
                await self._listen_once()
            except RedisreplError as error:
                self._links.lost(error)
                self.trouble.failed(self._explained(error), namespace=printable(self._prefix))

    def _explained(self, error: RedisreplError) -> RedisreplError | str:
        """What to say of a failure: if other namespaces are listened to, again and again, the hub may be at a limit."""
        others = self._hub.listening
        if self._links.is_made or not self.trouble.failures or not others or isinstance(error, CommandRefusedError):
            return error
        return f"{error}; {others} other namespaces are listened to: does the hub take more connections ({_LIMITS})?"

    async def _listen_once(self) -> None:
        try:
            self._untold |= await self._sent_less()
            pattern = self._channel + glob_escape(self._prefix) + b"*"
            async with self._hub.psubscribe(pattern, silence=_PATIENCE * self._period) as lists:
                async for messages in lists:
                    if not self._subscribed.is_set():
                        self._start()
                    self._dispatch(messages)
                    self._demand_canary()
            raise LinkLostError("the hub ended the subscription")
        except SilentError as error:
            if not self._links.is_made and not self._mute:
                await self._hub.distrust(error)
            raise
        finally:
            self._subscribed.clear()
            self._sent.clear()
            self.live = False

    async def _sent_less(self) -> bool:
        """Whether the hub may have sent less than is needed until now; from here on it does not."""
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
        """Hand on the messages that came together: first what the feed tells, which makes its events expected ones."""
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
        told: list[tuple[int, list[Change]]] = []
        for message in messages:
            if message.split(b" ", 2)[1:2] == [self._options.origin]:
                continue  # our own: nothing in it is news
            try:
                feed = parse_feed(message)
                told.append((feed.time, feed.changes()))
            except ProtocolError as error:  # nothing is lost: the events of what it would have told come as well
                _log.debug("subscribe.feed_damaged", error=str(error))
        for time_us, changes in sorted(told, key=itemgetter(0)):
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
            self.live = True
            self.trouble.succeeded(namespace=printable(self._prefix))

    def _demand_canary(self) -> None:
        if not self._mute and time.monotonic() > self._deadline:
            raise SilentError("events come, but no canary came back in time")

    def _next_canary(self) -> bytes:
        return self._canary_head + b"%d" % next(self._numbers)

    async def caught_up(self) -> None:
        """Return when everything that the hub has announced until now was heard, as far as that can be told.

        A canary may come before what the hub announced just before it, since Webdis delivers a burst in reverse; one
        that is sent when another has come back does not belong to that burst.

        Raises:
            RedisreplError: it was not, in time.
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
        """Publish a canary per period, for ever, while there is a subscription that should bring it back.

        And see to it that the hub still sends events: without them there is nothing wrong with the subscription. Who
        finds that it did not tells the others of the namespace: they would find nothing amiss any more.
        """
        while True:
            await self._subscribed.wait()
            try:
                if await self._sent_less():
                    self._untold = True
                    self._on_subscribed()  # likewise: what happened until now may not have been seen
                if self._untold:
                    await self._hub.command(b"PUBLISH", self._canary_channel, self._gap)
                    self._untold = False
                canary = self._next_canary()
                self._sent[canary] = time.monotonic()
                await self._hub.command(b"PUBLISH", self._canary_channel, canary)
            except CommandRefusedError as error:
                self._sent.clear()
                self.live = True
                if not self._mute:
                    self._mute = True
                    _log.warning("subscribe.no_canary", error=str(error), hint="let this client PUBLISH at the hub")
            except RedisreplError as error:
                _log.debug("subscribe.canary_lost", error=str(error))
            await asyncio.sleep(self._period)
