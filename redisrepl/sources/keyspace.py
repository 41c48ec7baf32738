"""The site's keyspace events in place of its stream: subscription > outbound > pushed by what is read then.

In: an address. Out: each event as a change, handed to `engine.outbound`. Left to others: the subscription
(`local.notify`), what crosses (`engine.outbound`), what a gap costs (`flow.sweep`).

For servers that refuse PSYNC. An event has no value and no position: what is pushed is read later, and what happened
while nobody listened is found only by comparing both sides. `Source` decides which of the two ways is taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import stamina
import structlog

from redisrepl.changes import Change, Deleted, Touch, is_replicated
from redisrepl.engine.inbound import Inbound
from redisrepl.engine.outbound import Outbound
from redisrepl.errors import PsyncRefusedError, RedisreplError, RefusedError
from redisrepl.local.apply import site_commands
from redisrepl.local.notify import Gap, Noticed, SiteEvents, Subscribed
from redisrepl.observe.troubles import Trouble
from redisrepl.sources.stream import Following, Listener
from redisrepl.wire.writes import events_of

__all__ = ["Noticing", "Source", "SourceChoice", "change_of", "echoes_of"]

_log = structlog.get_logger("redisrepl")

SourceChoice = Literal["auto", "psync", "notify"]

#: A subscription that lived this many seconds worked: pauses start small again after its end.
_WORKED = 5.0
#: Seconds after which the event of an apply that did not come is given up; its key is then fetched again.
_ECHO_PATIENCE = 15.0
_COST = (
    "values are read after the event, so intermediate ones are not seen and a hash crosses with all its fields; what"
    " changes while the link is down, and FLUSHALL, is found only by comparing both sides; more load at the site"
)
_REMEDY = "allow PSYNC and REPLCONF (ACL: +psync +replconf), or say --source notify; --source psync ends instead"

#: Events that set values or elements, by the kind of change. BITFIELD causes `setbit`, PFMERGE `pfadd`, and DECR
#: `incrby` or `decrby`.
_PUT = {
    **dict.fromkeys((b"set", b"setrange", b"append", b"incrby", b"decrby", b"incrbyfloat"), "set"),
    **dict.fromkeys((b"setbit", b"pfadd"), "set"),
    **dict.fromkeys((b"hset", b"hincrby", b"hincrbyfloat"), "hset"),
    b"sadd": "sets",
    b"zadd": "zsets",
    b"zincr": "zsets",
    **dict.fromkeys((b"xadd", b"xsetid", b"xgroup-create"), "streams"),
}
_FIELDS_GONE = frozenset({b"hdel", b"hexpired"})
#: Those of the other types after which the key may be gone, or has become another as a whole.
_REMOVED = {
    **dict.fromkeys((b"lpush", b"rpush", b"lpop", b"rpop", b"linsert", b"lset", b"lrem", b"ltrim"), "lists"),
    b"sortstore": "lists",
    **dict.fromkeys((b"srem", b"spop", b"sinterstore", b"sunionstore", b"sdiffstore"), "sets"),
    **dict.fromkeys((b"zrem", b"zpopmin", b"zpopmax"), "zsets"),
    **dict.fromkeys((b"zremrangebyscore", b"zremrangebyrank", b"zremrangebylex"), "zsets"),
    **dict.fromkeys((b"xdel", b"xtrim"), "streams"),
    **dict.fromkeys((b"zunionstore", b"zinterstore", b"zdiffstore", b"zrangestore"), "zsets"),
    **dict.fromkeys((b"georadiusstore", b"geosearchstore"), "zsets"),
}
_GONE = frozenset({b"del", b"expired", b"rename_from", b"move_from"})  # `evicted`: nobody removed it
_WHOLE = frozenset({b"rename_to", b"copy_to", b"move_to", b"restore"})
_EXPIRY = frozenset({b"expire", b"persist"})


def change_of(key: bytes, event: bytes, kinds: frozenset[str]) -> Change | None:
    """What an event says of a key; None if that does not cross."""
    change: Change
    if (kind := _PUT.get(event)) is not None:
        change = Touch(key, kind)
    elif event in _GONE:
        change = Deleted(key)
    elif event in _FIELDS_GONE and "del" in kinds:
        change = Touch(key, "hset", replaces=True)
    elif event in _EXPIRY:
        change = Touch(key, "expire")
    elif (kind := _REMOVED.get(event)) is not None:
        change = Touch(key, kind, replaces=True)
    elif event in _WHOLE:
        change = Touch(key, replaces=True)
    else:
        return None
    return change if is_replicated(change, kinds) else None


def echoes_of(change: Change, kinds: frozenset[str]) -> Iterator[bytes]:
    """The events by which an apply of this change will be noticed (`local.apply` runs these very commands)."""
    for command in site_commands(change):
        for event in events_of(command):
            if change_of(change.key, event, kinds) is not None:
                yield event


class Noticing:
    """Keeps `outbound` told of the site's keyspace events.

    Args:
        events: of the site.
        outbound: is told what they say.
        inbound: the other direction; None without `-rc`.
        covers: whether a key belongs to the namespaces.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.
        listener: is told when a subscription begins and ends, and when there may be something to push.

    Attributes:
        subscriptions: how many were made.
    """

    def __init__(
        self,
        events: SiteEvents,
        outbound: Outbound,
        inbound: Inbound | None,
        *,
        covers: Callable[[bytes], bool],
        retry: Mapping[str, Any],
        listener: Listener,
    ) -> None:
        self._events = events
        self._outbound = outbound
        self._inbound = inbound
        self._covers = covers
        self._retry = retry
        self._listener = listener
        self._subscribed_at: float | None = None
        self.trouble = Trouble("notice")
        self.subscriptions = 0

    async def run(self) -> None:
        """Subscribe, and subscribe again, for ever.

        Raises:
            RefusedError: the server refuses us, and never did otherwise.
        """
        kinds = self._outbound.kinds
        if self._inbound is not None:
            self._inbound.expect_events(lambda change: echoes_of(change, kinds), _ECHO_PATIENCE)

        def worth_another_try(error: Exception) -> bool:
            refused_at_start = isinstance(error, RefusedError) and not self.subscriptions
            return isinstance(error, RedisreplError) and not refused_at_start

        while True:
            async for attempt in stamina.retry_context(on=worth_another_try, **self._retry):
                with attempt:
                    await self._listen()

    async def _listen(self) -> None:
        """One subscription; returns at its end if it worked for a while, raises if it did not."""
        self._subscribed_at = None
        try:
            async for news in self._events.events():
                self._take(news)
                self._listener.wake()
        except RedisreplError as error:
            if self.subscriptions or not isinstance(error, RefusedError):
                self.trouble.failed(error)
            if not self._worked():
                raise
        finally:
            self._listener.detached()

    def _worked(self) -> bool:
        return self._subscribed_at is not None and time.monotonic() - self._subscribed_at >= _WORKED

    def _take(self, news: Subscribed | Noticed | Gap) -> None:
        match news:
            case Noticed(events):
                outbound, covers, kinds = self._outbound, self._covers, self._outbound.kinds
                for key, event in events:
                    if covers(key) and (change := change_of(key, event, kinds)) is not None:
                        outbound.noticed(key, event, change)
            case Subscribed():
                self._subscribed_at = time.monotonic()
                self.subscriptions += 1
                self.trouble.succeeded()
                self._outbound.start_over()  # there is no position, and what was expected before may have been missed
                _log.info("notice.started")
                self._listener.attached(resumed=False)
            case Gap(reason):
                self._outbound.start_over()
                _log.info("notice.gap", reason=reason)
                self._listener.attached(resumed=False)


class Source:
    """How the site's writes are seen: by its replication stream or, where that is refused, by its keyspace events.

    Args:
        choice: `auto` is the stream if the server lets us have it.
        following: the stream.
        noticing: the events.

    Attributes:
        kind: which of the two it is.
    """

    def __init__(self, choice: SourceChoice, following: Following, noticing: Noticing) -> None:
        self._choice = choice
        self._following = following
        self._noticing = noticing
        self.kind = "notify" if choice == "notify" else "psync"

    async def run(self) -> None:
        """Follow the site for ever.

        Raises:
            RefusedError: the server refuses us, and never did otherwise.
        """
        if self._choice != "notify":
            try:
                await self._following.run()
            except PsyncRefusedError as error:
                if self._choice == "psync":
                    raise
                _log.warning("source.psync_refused", error=str(error), then="keyspace events", cost=_COST, hint=_REMEDY)
        else:
            _log.info("source.notify", cost=_COST)
        self.kind = "notify"
        self._following.abandon()
        await self._noticing.run()
