"""Follows the site by its keyspace events, for servers that refuse PSYNC: subscription > outbound > read > push.

In: keyspace events. Out: each event as a change, handed to `engine.outbound`. Left to others: the subscription
(`local.notify`), reading the values and pushing them (`flow.pushing`), comparing after an outage (`flow.sweep`).

An event has no value and no position. So values are read later, and only a comparison of both sides finds what changed
during an outage. `Source` chooses between the stream and the events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Literal

import structlog

from redisrepl.changes import Change, Deleted, Invalidated, carries_groups, is_replicated
from redisrepl.engine.following import Following
from redisrepl.engine.outbound import Outbound
from redisrepl.errors import PsyncRefusedError, RedisreplError
from redisrepl.links import Links
from redisrepl.local.apply import site_commands
from redisrepl.local.notify import EventsLost, SiteEvents, SiteKeyEvents, Subscribed
from redisrepl.observe.failures import FailureLog
from redisrepl.sources.stream import LinkListener, StreamSource
from redisrepl.wire.keyspace import EVENTS, KeyEffect
from redisrepl.wire.opaque import OPAQUE
from redisrepl.wire.writes import events_of

__all__ = ["KeyspaceSource", "Source", "SourceChoice", "change_of", "echoes_of"]

_log = structlog.get_logger("redisrepl")

SourceChoice = Literal["auto", "psync", "notify"]

_COST = (
    "values are read after the event, so intermediate ones are lost, and of a collection all elements are read; only a "
    "comparison of both sides finds FLUSHALL and changes made while the link is down; the site has more load"
)
_REMEDY = "allow PSYNC and REPLCONF (ACL: +psync +replconf), or accept this with --source notify"


def change_of(key: bytes, event: bytes, kinds: frozenset[str]) -> Change | None:
    """The change that an event reports; None if it is not replicated."""
    known = EVENTS.get(event)
    if known is None:
        return Invalidated(key, OPAQUE) if OPAQUE in kinds else None  # an unknown event may come from a module's type
    change: Change
    match known.effect:
        case KeyEffect.PUT:
            change = Invalidated(key, known.kind)
        case KeyEffect.CHANGED:
            change = Invalidated(key, known.kind, replaces=True)
        case KeyEffect.REMOVED:
            if known.kind == "hset" and "del" not in kinds:
                return None  # without `del`, the hub keeps fields that were removed here
            change = Invalidated(key, known.kind, replaces=True)
        case KeyEffect.GONE:
            change = Deleted(key)
        case KeyEffect.REPLACED:
            change = Invalidated(key, replaces=True)
        case KeyEffect.EXPIRY:
            change = Invalidated(key, "expire")
        case KeyEffect.FIELD_EXPIRY if "hset" in kinds:
            change = Invalidated(key, "fields-expire")
        case KeyEffect.GROUPS if carries_groups(kinds):
            change = Invalidated(key, "streams", replaces=True)
        case KeyEffect.EVICTED | KeyEffect.FIELD_EXPIRY | KeyEffect.GROUPS:
            return None  # no client removed the key
    return change if is_replicated(change, kinds) else None


def echoes_of(change: Change, kinds: frozenset[str]) -> Iterator[bytes]:
    """The keyspace events that an apply of this change causes; `local.apply` runs the same commands."""
    for command in site_commands(change):
        for event in events_of(command):
            if change_of(change.key, event, kinds) is not None:
                yield event


class KeyspaceSource:
    """Feeds the site's keyspace events to `outbound`.

    Args:
        events: of the site.
        outbound: receives the changes.
        covers: whether a key belongs to the namespaces.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.
        listener: hears when a subscription begins and ends, and when there may be something to push.

    Attributes:
        failure_log: failures to subscribe.
        subscriptions: how many were made.
    """

    def __init__(
        self,
        events: SiteEvents,
        outbound: Outbound,
        *,
        covers: Callable[[bytes], bool],
        retry: Mapping[str, Any],
        listener: LinkListener,
    ) -> None:
        self._events = events
        self._outbound = outbound
        self._covers = covers
        self._links = Links(retry)
        self._listener = listener
        self.failure_log = FailureLog("notice")
        self.subscriptions = 0
        self._history = ""

    async def run(self) -> None:
        """Subscribe, and subscribe again after each failure, for ever.

        Raises:
            RefusedError: the server refuses us, and never accepted us before.
        """
        self.begin()
        async for _ in self._links:
            try:
                await self._listen()
            except RedisreplError as error:
                self._links.lost(error)
                if not self._links.is_final(error):  # `self._links` raises a final one
                    self.failure_log.failed(error)

    def begin(self) -> None:
        """From here on the site is followed by its events, and never by its stream again."""
        self._outbound.following.follow_events(partial(echoes_of, kinds=self._outbound.kinds))

    async def caught_up(self) -> None:
        """Return once the events were taken of all that happened at the site before this was called.

        Raises:
            LinkLostError: there is no subscription, or it ended meanwhile.
        """
        await self._events.caught_up()

    async def _listen(self) -> None:
        """One subscription, until its end."""
        await self._listener.about_to_follow()
        try:
            async with aclosing(self._events.events()) as events:
                async for news in events:
                    self._take(news)
                    self._listener.wake()
        finally:
            self._listener.detached()

    def _take(self, news: Subscribed | SiteKeyEvents | EventsLost) -> None:
        match news:
            case SiteKeyEvents(events):
                outbound, covers, kinds = self._outbound, self._covers, self._outbound.kinds
                for key, event in events:
                    if covers(key) and (change := change_of(key, event, kinds)) is not None:
                        outbound.key_event(key, event, change)
            case Subscribed(history):
                self._links.made()
                self.subscriptions += 1
                self._history = history
                self.failure_log.succeeded()
                self._outbound.start_over()  # events have no position: expected ones may have been lost meanwhile
                _log.info("notice.started")
                self._listener.attached(resumed=False, history=history)
            case EventsLost(reason):  # the subscription goes on, but events were lost: as after a new one
                self._outbound.start_over()
                _log.info("notice.gap", reason=reason)
                self._listener.attached(resumed=False, history=self._history)


class Source:
    """Follows the site by its replication stream or, where the server refuses that, by its keyspace events.

    Args:
        choice: `auto` means the stream, unless the server refuses PSYNC.
        stream: follows the replication stream.
        keyspace: follows the keyspace events.
        following: tells which of the two does so now.
    """

    def __init__(
        self, choice: SourceChoice, stream: StreamSource, keyspace: KeyspaceSource, following: Following
    ) -> None:
        self._choice = choice
        self._stream = stream
        self._keyspace = keyspace
        self._following = following

    @property
    def kind(self) -> str:
        """Which of the two is used: `psync` or `notify`."""
        return "notify" if self._choice == "notify" or self._following.by_events else "psync"

    async def run(self) -> None:
        """Follow the site for ever.

        Raises:
            RefusedError: the server refuses us, and never accepted us before.
        """
        if self._choice != "notify":
            try:
                await self._stream.run()
            except PsyncRefusedError as error:
                if self._choice == "psync":
                    raise
                _log.warning("source.psync_refused", error=str(error), then="keyspace events", cost=_COST, hint=_REMEDY)
        else:
            _log.info("source.notify", cost=_COST)
        self._stream.begin_anew()  # its position would be out of date if it were followed again later
        await self._keyspace.run()
