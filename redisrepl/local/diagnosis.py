"""Explains why the site closed the replication link, or sent a snapshot again: the likely cause, and what helps.

In: how the link ended. Out: the log line `stream.lost`, with a cause and a remedy. Left to others: asking the site
(`local.info`), attaching again, which never waits for this (`sources.stream`).

A master does not tell its replica why it closes the link; it only writes that into its own log. But what it reports
about itself now, compared with what it reported while the link was up, mostly shows the cause. The server may refuse
any of these questions (ACL), or not know the answer.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import structlog

from redisrepl.changes import Position
from redisrepl.local.address import SiteAddress
from redisrepl.local.info import BufferLimit, SiteInfo, ask_info

__all__ = ["Diagnosis", "LinkDiagnosis", "LostLink", "explain_full_sync", "explain_loss"]

_log = structlog.get_logger("redisrepl")

#: Seconds for all questions to the site together.
_WAIT = 5.0
#: Seconds between questions while the link is up, so that a grown counter means the last minute.
_PERIOD = 60.0
#: Seconds before the same remedy is logged again.
_REPEAT = 30.0
_REFUSAL = "refuses us"
_MAX_CLIENTS = "max number of clients"
_LEAST_BACKLOG = 16 << 20
#: A `repl-timeout` below its default may be too short for a snapshot.
_SHORT_TIMEOUT = 60


@dataclass(frozen=True, slots=True)
class LostLink:
    """How a link ended.

    Attributes:
        error: how we noticed it.
        position: up to where commands had arrived; None: no snapshot was complete.
        pause: the longest time between two of our acknowledgements, in seconds.
        silence: we closed the link after this many seconds without a byte; None: we did not close it.
    """

    error: str
    position: Position | None
    pause: float = 0.0
    silence: float | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What happened, and what to do, in a sentence each.

    Attributes:
        cause: what most likely happened.
        remedy: what helps.
    """

    cause: str
    remedy: str


class LinkDiagnosis:
    """Asks the site when its link was lost, and now and then while it is up.

    Args:
        address: of the site.
        wait: seconds for an answer.

    Attributes:
        facts: the facts last reported while the link was up; None: none yet.
    """

    def __init__(self, address: SiteAddress, *, wait: float = _WAIT) -> None:
        self._address = address
        self._wait = wait
        self._news = asyncio.Event()
        self._attached = False
        self._loss: LostLink | None = None
        self._without: Position | None = None  # the position from which the site could not continue
        self._said, self._said_at = "", 0.0
        self.facts: SiteInfo | None = None

    def lost(self, loss: LostLink, *, logged: bool) -> None:
        """The link ended, or could not be made again; explained only if the failure was `logged`."""
        self._attached = False
        if _MAX_CLIENTS in loss.error:  # whatever ended the link before, this keeps it down now
            self._loss = loss
            self._news.set()
        elif logged:
            self._loss = self._loss or loss
            self._news.set()

    def restarted(self, position: Position) -> None:
        """The site sends a snapshot, although we asked it to continue from this position."""
        self._without = position
        self._news.set()

    def attached(self) -> None:
        """The link is up."""
        self._attached = True
        self._news.set()

    async def run(self) -> None:
        """Explain every loss, for ever."""
        while True:
            try:
                async with asyncio.timeout(_PERIOD):
                    await self._news.wait()
            except TimeoutError:
                if not self._attached:
                    continue
            self._news.clear()
            loss, without = self._loss, self._without
            full = loss is not None and _MAX_CLIENTS in loss.error
            now = SiteInfo() if full else await ask_info(self._address, self._wait)  # a full server cannot be asked
            if loss is not None:
                self._say(explain_loss(loss, self.facts, now))
                if self._attached or not now.failure or _REFUSAL in now.failure:
                    self._loss = None  # otherwise explain it again when the site answers
            if without is not None:
                self._say(explain_full_sync(without, self.facts, now))
                self._without = None
            if self._attached and not now.failure and not full:
                self.facts = now

    def _say(self, diagnosis: Diagnosis) -> None:
        now = time.monotonic()
        if diagnosis.remedy == self._said and now - self._said_at < _REPEAT:
            return
        self._said, self._said_at = diagnosis.remedy, now
        _log.warning("stream.lost", cause=diagnosis.cause, remedy=diagnosis.remedy)


def explain_loss(loss: LostLink, before: SiteInfo | None, now: SiteInfo) -> Diagnosis:
    """The likely cause of a link's end.

    Args:
        loss: how it ended.
        before: the site's facts while the link was up; None if it was not asked.
        now: its facts after the loss.
    """
    if _MAX_CLIENTS in loss.error or _MAX_CLIENTS in now.failure:
        return Diagnosis(
            "the site's Redis has as many clients as it may have (maxclients), and takes no more",
            "end clients there, or CONFIG SET maxclients to a larger number",
        )
    if now.failure:
        return _of_failure(now)
    known = _of_identity(before, now) or _of_counters(before, now) or _of_overrun(loss, now)
    return known or _of_silence(loss, now) or _of_network(loss, now)


def explain_full_sync(position: Position, before: SiteInfo | None, now: SiteInfo) -> Diagnosis:
    """Why the site sent a snapshot although we asked it to continue.

    Args:
        position: where we asked it to continue.
        before: as in `explain_loss`.
        now: its facts after the snapshot has begun.
    """
    if now.failure:
        return _of_failure(now)
    if now.history and position.replid not in now.history:
        return _of_identity(before, now) or _of_history(before, now)
    if now.backlog_begins is not None and position.offset + 1 < now.backlog_begins:
        return _of_backlog(position, now)
    if now.offset is not None and position.offset > now.offset:
        return Diagnosis(
            f"the site's Redis is at offset {now.offset}, behind ours: it lost its last writes (failover or restart)",
            "nothing: what it lost is at the hub, and comes back from there with -rc",
        )
    return _of_identity(before, now) or Diagnosis(
        "the site's Redis does not say why it cannot continue from our position", "look at its log"
    )


def _of_failure(now: SiteInfo) -> Diagnosis:
    if _REFUSAL in now.failure:
        return Diagnosis(
            f"not known: the site's Redis does not tell us about itself: {now.failure}",
            "look at its log; to have the cause named here allow +info +config|get to this user",
        )
    return Diagnosis(
        f"the site's Redis is down, or the network to it is: {now.failure}",
        "see whether it runs; redisrepl retries by itself",
    )


def _of_identity(before: SiteInfo | None, now: SiteInfo) -> Diagnosis | None:
    """It is another server or process than before, or has another role."""
    if before is None:
        return None
    if before.run_id and now.run_id and before.run_id != now.run_id:
        if now.uptime is not None and now.uptime > now.at - before.at + 1:
            return Diagnosis(
                "another server answers at this address: there was a failover, or the address was moved",
                "nothing if that was meant; where Sentinels see to it, --sentinel follows faster",
            )
        since = "" if now.uptime is None else f" {now.uptime} s ago"
        return Diagnosis(
            f"the site's Redis was restarted{since}",
            "nothing if that was meant, else look at its log and for OOM kills",
        )
    if before.role == "master" and now.role == "slave":
        return Diagnosis(
            f"the site's Redis became a replica of {now.master} (failover or REPLICAOF): what we apply it refuses",
            "follow the master: --raddr with its address, or --sentinel",
        )
    if before.role == "slave" and now.role == "master":
        return Diagnosis("the site's Redis became a master (failover or REPLICAOF NO ONE)", "nothing")
    return None


def _of_counters(before: SiteInfo | None, now: SiteInfo) -> Diagnosis | None:
    """A counter of the server has grown."""
    if before is None:
        return None
    if before.overruns is not None and now.overruns is not None and now.overruns > before.overruns:
        return _overrun(now, "")
    if before.kills is not None and now.kills is not None and now.kills > before.kills:
        return Diagnosis(
            "somebody ended the link with CLIENT KILL", "nothing if that was meant; else see who does: ACL LOG, MONITOR"
        )
    return None


def _of_overrun(loss: LostLink, now: SiteInfo) -> Diagnosis | None:
    """Before Redis 7.2 overruns are not counted, but we miss more bytes than the buffer can hold."""
    if now.overruns is not None or loss.silence is not None or now.offset is None or loss.position is None:
        return None
    missed = now.offset - loss.position.offset
    limit = now.buffer_limit
    if limit is None or missed < min(filter(None, (limit.hard, limit.soft)), default=missed + 1):
        return None
    return _overrun(now, f": {_size(missed)} had not come yet")


def _overrun(now: SiteInfo, detail: str) -> Diagnosis:
    limit = now.buffer_limit or BufferLimit(256 << 20, 64 << 20, 60)
    raised = f"replica {_size(2 * limit.hard)} {_size(2 * limit.soft)} {limit.seconds or 60}"
    said = "" if now.buffer_limit is None else f" ({_size(limit.hard)})"
    return Diagnosis(
        f"our output buffer at the site's Redis went over its limit{said}, because we read too slowly{detail}",
        f'CONFIG SET client-output-buffer-limit "{raised}"; is this machine short of processor time?',
    )


def _of_silence(loss: LostLink, now: SiteInfo) -> Diagnosis | None:
    """One side closed the link because it heard nothing from the other."""
    if loss.silence is not None:
        if now.ping_period is not None and now.ping_period >= loss.silence:
            return Diagnosis(
                f"the site's Redis pings its replicas every {now.ping_period} s, and after {loss.silence:g} s without a"
                " byte the link counts as dead here",
                f"CONFIG SET repl-ping-replica-period 10, or --site-silence {3 * now.ping_period}",
            )
        return Diagnosis(
            f"no byte came for {loss.silence:g} s: the site's Redis hung, or the network swallowed what it sent",
            "look at its log and SLOWLOG; where a firewall forgets quiet connections, lower repl-ping-replica-period",
        )
    if now.repl_timeout is not None and loss.pause >= now.repl_timeout:
        return Diagnosis(
            f"the site's Redis heard nothing from us for {loss.pause:.0f} s, more than its repl-timeout"
            f" ({now.repl_timeout} s): redisrepl or its machine was held up",
            f"CONFIG SET repl-timeout {max(60, 2 * round(loss.pause))}; is this machine short of processor time?",
        )
    return None


def _of_network(loss: LostLink, now: SiteInfo) -> Diagnosis:
    if loss.position is None and now.repl_timeout is not None and now.repl_timeout < _SHORT_TIMEOUT:
        return Diagnosis(
            f"the snapshot took longer than the site's repl-timeout ({now.repl_timeout} s), or the network failed",
            "CONFIG SET repl-timeout 60",
        )
    return Diagnosis(
        f"the network, or a proxy or firewall in between: the site's Redis is well, and counts nothing ({loss.error})",
        "nothing if it is rare; if it comes in equal intervals, look for an idle timeout in between",
    )


def _of_history(before: SiteInfo | None, now: SiteInfo) -> Diagnosis:
    """The server has another history, and is the same as far as we know."""
    if before is not None and before.run_id and before.run_id == now.run_id:
        return Diagnosis(
            "the site's Redis began a new history: it was made a replica for a while, or gave its backlog up after"
            " repl-backlog-ttl without replicas",
            "CONFIG SET repl-backlog-ttl 0 keeps the backlog",
        )
    since = "" if now.uptime is None else f"; it runs since {now.uptime} s"
    return Diagnosis(
        f"the history of the site's Redis is not the one that we followed: it was restarted, replaced, or gave its"
        f" backlog up while no replica was there{since}",
        "nothing if that was meant; CONFIG SET repl-backlog-ttl 0 keeps the backlog while redisrepl is down",
    )


def _of_backlog(position: Position, now: SiteInfo) -> Diagnosis:
    gap = 0 if now.offset is None else now.offset - position.offset
    wanted = _LEAST_BACKLOG
    while wanted < 2 * gap:
        wanted *= 2
    has = "" if now.backlog_size is None else f" ({_size(now.backlog_size)})"
    return Diagnosis(
        f"the site's backlog{has} is too small: {_size(gap)} were written while the link was down",
        f"CONFIG SET repl-backlog-size {_size(wanted)}",
    )


def _size(count: int) -> str:
    """A rounded size that `CONFIG SET` accepts."""
    for shift, unit in ((30, "gb"), (20, "mb"), (10, "kb")):
        if count >= 10 << shift or (count >= 1 << shift and not count % (1 << shift)):
            return f"{count >> shift}{unit}"
    return f"{count}"
