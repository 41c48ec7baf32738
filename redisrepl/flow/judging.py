"""Judges the history of each server after a link was made: whether it still holds what we saw of it.

In: word that a link was made; what the servers report. Out: judgements, handed to the core. Left to others: what
follows from one (`engine.continuity`), the evidence of a restarted server's own data (`engine.evidence`).

A server may have restarted empty or from an old file, a lagging replica may have taken over, or another server may be
behind the same address. What such a server lacks must not be taken for removed. So nothing is decided about missing
keys until its history is known. We judge the site by its replication id and offset, its process, and the last changes
that we saw; the hub by its fence, which it loses with whatever else it loses, and by its process.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from heapq import nlargest
from typing import Any

import structlog

from redisrepl.changes import Position
from redisrepl.engine.continuity import Event, Side, SideState
from redisrepl.engine.core import Core
from redisrepl.engine.evidence import Proof, holds_since, proved
from redisrepl.engine.losses import DigestsByPlace, Findings, Losses, agreed_since
from redisrepl.engine.places import Place, Places, Seen
from redisrepl.engine.seen import RING
from redisrepl.errors import RedisreplError
from redisrepl.flow.found import Found, Held, Judgement
from redisrepl.flow.known import Known
from redisrepl.flow.repeating import repeat
from redisrepl.local.history import SiteFacts, SiteHistory
from redisrepl.local.mark import Marked
from redisrepl.observe.failures import FailureLog
from redisrepl.remote.fence import Fence
from redisrepl.remote.history import HubFacts, HubHistory
from redisrepl.wire.digests import UNREADABLE
from redisrepl.wire.replies import CLOCK_TOLERANCE

__all__ = ["Judging"]

_log = structlog.get_logger("redisrepl")

_MAY_BE_OLDER = "the site is another process, which may hold older values"
#: Places of a server that went back at which it is looked, those that were agreed on last.
_LOOKED_AT = 1024


class Judging:
    """Judges each server after a link to it was made.

    Args:
        core: receives the judgements.
        known: what was last known.
        site, hub: report their history.
        fence: of the site, at the hub.
        number: returns the number of the last agreement.
        agreed_since: returns what was agreed, or was about to be, after a number, but for what lies before a place of
            the site's history.
        unanswered: returns what the side that is not this one was sent without an answer, after all that was agreed on
            of these places since a number.
        history: returns what was agreed on, in order; None if that is not known back to a number.
        marked: returns what the site has, by a mark that it holds.
        first: nothing was known when the daemon started.
        retry: how to wait between tries, as arguments of `stamina.retry_context`.
    """

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        core: Core,
        known: Known,
        site: SiteHistory,
        hub: HubHistory,
        fence: Fence,
        number: Callable[[], int],
        agreed_since: Callable[[float, Position | None], Awaitable[Places | None]],
        *,
        unanswered: Callable[[Side, Places, float], Awaitable[DigestsByPlace]],
        history: Callable[[float], Awaitable[Sequence[Seen] | None]],
        marked: Callable[[], Awaitable[Marked]],
        first: bool,
        retry: Mapping[str, Any],
    ) -> None:
        self.known = known
        self.failure_log = FailureLog("history")
        self._core = core
        self._site = site
        self._hub = hub
        self._fence = fence
        self._number = number
        self._agreed_since = agreed_since
        self._unanswered = unanswered
        self._history = history
        self._site_marked = marked
        self._first_at = {"site": first, "hub": first}
        self._retry = retry
        self._resumed = False
        self._marked = 0
        self._evicted_to = 0  # removals in the stream before this offset may be evictions
        self._work = asyncio.Event()
        self._judged = asyncio.Event()
        self.save: Callable[[], object] = lambda: None  # saves the judgement

    def site_attached(self, *, resumed: bool, history: str = "") -> None:
        """The site, which has this history, is followed: its stream goes on where it was, or it has begun anew."""
        self._resumed = resumed
        self._core.site_attached(history)
        if not resumed and not self._first_at["site"]:
            self._core.site_missed()  # record it now: the link may end before the judgement
        self._work.set()

    def site_begins(self, position: Position) -> None:
        """The site is about to send a snapshot, and is at this position: no process before this one saw more of it."""
        seen = self.known.seen
        if not self._core.record.complete and seen is not None and seen.replid == position.replid:
            self.known.seen, self.known.seen_number = position, self._number()

    def hub_heard(self) -> None:
        """The hub's events are heard from now on."""
        self._core.hub_heard()
        self._work.set()

    async def run(self, side: Side) -> None:
        """Judge the server of this side, for ever; a task for each, so that a silent one holds up only itself.

        The longer it takes, the more clients overwrite what a server could be judged by.
        """
        judge = self.judge_site if side == "site" else self.judge_hub
        await repeat(partial(self._when_due, self._core.continuity.of(side), judge), self._retry)

    async def _when_due(self, side: SideState, judge: Callable[[], Awaitable[None]]) -> None:
        while not side.followed or side.judged:
            self._work.clear()
            await self._work.wait()
        try:
            await judge()
        except RedisreplError as error:
            self.failure_log.failed(error)
            raise

    async def _ask_site(self) -> SiteFacts:
        facts = await self._site.ask()
        self._saw_clock("site", facts.clock_ahead, facts.clock_within)
        self._saw_times("site", facts.lacks_times)
        return facts

    async def _ask_hub(self) -> HubFacts:
        facts = await self._hub.ask()
        self._saw_clock("hub", self._hub.clock_ahead, self._hub.clock_within)
        self._saw_times("hub", self._hub.lacks_times)
        return facts

    async def see_clocks(self) -> None:
        """Look at both servers, unless they are known: what is pushed before that may expire at the wrong time.

        Raises:
            RedisreplError: a server cannot be asked.
        """
        if not (self.known.clocks.known and self.known.lacking.known):
            await self._ask_hub()
            facts = await self._ask_site()
            if self._first_at["site"] and not self.known.first_run_id:
                self.known.first_run_id = facts.run_id
                self.save()

    def _saw_clock(self, side: Side, ahead: float | None, within: float) -> None:
        clocks = self.known.clocks
        if clocks.saw(side, ahead, within=within):
            self._core.clock_was_set(clocks.off_by)

    def _saw_times(self, side: Side, lacks: str) -> None:
        if self.known.lacking.saw(side, lacks):
            self._core.times_fields(on=self.known.lacking.times.on)

    async def _perhaps_lost(self, judged: Judgement, losses: Losses, kept: Position | None = None) -> Places | None:
        """Agreements since what the server has for sure, and since it was lost; None: unknown, or all is well.

        Without those that lie before what a site has kept of its history.
        """
        since = min(judged.number, losses.renewed.from_number)
        return None if since == math.inf else await self._agreed_since(since, kept)

    async def _held(self, side: Side, judged: Judgement, agreed: Places | None) -> Held:
        """What a server that went back holds where it may have lost something: anything else was written since."""
        if judged.event is not Event.WENT_BACK:
            return {}
        losses, asked = (self._core.losses, self._site) if side == "site" else (self._core.hub_losses, self._hub)
        before = self._core.continuity.of(side).proved
        suspects = losses.suspects(before, judged.number, agreed, judged.kept_to) or {}
        numbers = {(key, part): number for key, parts in suspects.items() for part, number in parts.items()}
        held = await asked.held(nlargest(_LOOKED_AT, numbers, key=numbers.__getitem__))
        return {place: digest for place, digest in held.items() if digest != UNREADABLE}  # it may be readable later

    async def _since(self, judged: Judgement, held: Held) -> DigestsByPlace:
        """What else a site that went back may have held there."""
        number = self._core.record.ring.agreed_by(judged.number)
        history = await self._history(number) if held and number is not None else None
        return {} if history is None or number is None else agreed_since(held.keys(), history, number)

    async def _sent(self, side: Side, judged: Judgement, agreed: Places | None) -> DigestsByPlace:
        """What it may hold there that the other side was sent after all that was agreed on: that is no older."""
        if judged.event is not Event.WENT_BACK or agreed is None:
            return {}
        return await self._unanswered(side, agreed, judged.number)

    async def _past(self, side: Side, judged: Judgement) -> DigestsByPlace:
        """What was ever agreed on, as far back as that is remembered; of a server that has not gone back, nothing."""
        if judged.event is not Event.WENT_BACK and self._core.continuity.of(side).proved == math.inf:
            return {}
        past: dict[Place, set[int | None]] = {}
        for seen in await self._history(math.inf) or ():
            past.setdefault(seen.place, set()).add(seen.digest)
        return past

    async def known_now(self) -> None:
        """Return when both servers are followed and judged."""
        while not self._core.continuity.known:
            self._judged.clear()
            await self._judged.wait()

    # The site.

    async def judge_site(self) -> None:
        """Judge the site, once.

        Raises:
            RedisreplError: it cannot be asked.
        """
        side = self._core.continuity.site
        epoch, resumed = side.epoch, self._resumed
        facts = await self._ask_site()
        whole = self._continuous(facts, resumed=resumed)
        found = self._found_before(facts) if whole is None else None
        judged = whole or (found.judged if found else await self._of_another(facts))
        seen = self.known.seen
        kept = None if judged.kept_to is None or seen is None else Position(seen.replid, judged.kept_to)
        agreed = await self._perhaps_lost(judged, self._core.losses, kept)
        if found is None:
            held = await self._held("site", judged, agreed)
            found = Found((facts.run_id, facts.replid), judged, held, await self._since(judged, held))
        past, sent = await self._past("site", judged), await self._sent("site", judged, agreed)
        if side.epoch != epoch or not side.followed:
            self.known.found = found if whole is None else None
            return  # the link was lost meanwhile; the next may lead to another server
        self.known.found = None
        self._note_evictions(facts)
        side.run_id = facts.run_id
        self._first_at["site"] = False
        if facts.replid and self._core.following.by_events:  # which have no position
            self.known.seen = Position(facts.replid, facts.offset)
        self._core.outbound.new_from(facts.offset or self._core.following.read_to)
        self._tell("site", judged, agreed, found.held, since=found.since, past=past, sent=sent)

    def _continuous(self, facts: SiteFacts, *, resumed: bool) -> Judgement | None:
        """The judgement of a site of which all that we saw is still there; None: it may have gone back."""
        seen, run_id = self.known.seen, self._core.continuity.site.run_id or self.known.first_run_id
        if self._first_at["site"]:
            return Judgement(Event.FIRST, "first contact")
        same = bool(run_id) and facts.run_id == run_id
        if seen is not None and facts.replid and self._core.following.by_events:
            # We do not know how far we saw it, so only the same process counts as continuous.
            whole = same and (facts.alone or seen.replid in (facts.replid, facts.earlier))
        elif seen is not None and facts.replid:
            whole = facts.continues(seen.replid, seen.offset) or (same and facts.alone and seen.replid != facts.replid)
        else:
            whole = same or (resumed and not facts.run_id)
        to = self._number()
        if whole and not same and self._core.record.is_unseen(to) and self.known.seen_number < to:
            # A former process of ours ended before it had saved how far it had read: it may have seen more than this.
            return Judgement(Event.WENT_BACK, _MAY_BE_OLDER, self._core.record.ring.number)
        if whole:
            return Judgement(Event.RESUMED) if resumed else Judgement(Event.GAP, "writes of the site were missed")
        return None

    def _found_before(self, facts: SiteFacts) -> Found | None:
        """What was found of this process at the end of an earlier link, if it still is true."""
        found = self.known.found
        if found is None or not facts.run_id or found.process != (facts.run_id, facts.replid):
            return None
        number = self._number()
        if found.judged.event is Event.RESTARTED and self._core.record.evidence(number).number < number:
            return None  # what was agreed on since then, it may lack
        return found

    async def _of_another(self, facts: SiteFacts) -> Judgement:
        """The judgement of a site that is another process, by what it tells and what it holds."""
        seen, ring, marked = self.known.seen, self._core.record.evidence(self._number()), await self._site_marked()
        if seen is not None and seen.replid == facts.earlier:  # it was a replica until it took over, and tells itself
            kept_to, known_to = facts.earlier_to - 1, math.inf
            proof = Proof(max(ring.number_at(kept_to), marked.agreed))
        else:
            proof = proved(ring, await self._site.held(change.place for change in ring), marked.agreed)
            # What was agreed on just now may have been read at the site, ahead of its stream, and may be lost.
            kept_to, known_to = ring.offset_of(proof.changes), ring.number_at(sys.maxsize)
            if seen is not None and marked.history == seen.replid:
                kept_to = max(kept_to, marked.offset)
        if proof.number >= self._number():
            return Judgement(Event.RESTARTED, "the site is another process")
        return Judgement(Event.WENT_BACK, _MAY_BE_OLDER, proof.number, proof.kept, kept_to or None, known_to)

    async def look_at_clock(self) -> None:
        """Check whether the site's clock was set: if its Redis is on another machine, no other clock shows that.

        Raises:
            RedisreplError: it cannot be asked.
        """
        if self._core.continuity.site.judged:
            await self._ask_site()

    async def look_at_site(self) -> None:
        """Check whether the site's history changed since it was judged; keyspace events do not tell of that.

        Raises:
            RedisreplError: it cannot be asked.
        """
        seen = self.known.seen
        if not self._core.following.by_events or seen is None or not self._core.continuity.site.judged:
            return  # the stream would have told
        facts = await self._ask_site()
        if facts.replid and facts.replid != seen.replid and self._core.continuity.site.judged:
            self.site_attached(resumed=False, history=facts.replid)

    async def site_evicted(self) -> bool:
        """Whether removals in the stream until now may be evictions, which look the same there.

        Raises:
            RedisreplError: it cannot be asked.
        """
        self._note_evictions(await self._ask_site())
        return self._core.outbound.pending.acknowledged < self._evicted_to

    def _note_evictions(self, facts: SiteFacts) -> None:
        """If the site has evicted keys since it was asked last, its stream tells of that before this offset.

        Nobody has counted what a former process of it evicted at the end.
        """
        known = self._core.continuity.site.run_id
        another = bool(known) and facts.run_id != known
        if facts.evicted_since(self.known.evicted) or (another and facts.may_evict):
            self._core.continuity.site.evicts = True
            self._evicted_to = facts.offset
        self.known.evicted = facts.evictions

    # The hub.

    async def judge_hub(self) -> None:
        """Judge the hub, once.

        Raises:
            RedisreplError: it cannot be asked.
        """
        side = self._core.continuity.hub
        epoch = side.epoch
        await self._fence.look()
        facts = await self._ask_hub()
        if side.epoch != epoch:
            return
        judged = await self._judged_of_hub(facts)
        agreed = await self._perhaps_lost(judged, self._core.hub_losses)
        held = await self._held("hub", judged, agreed)
        since, past = agreed_since(held.keys(), judged.seen, judged.number), await self._past("hub", judged)
        sent = await self._sent("hub", judged, agreed)
        if side.epoch != epoch:
            return
        lost = self._fence.holds_up_to() != math.inf
        if (known := self.known.hub) is not None:
            # Nobody has counted what a former process evicted at the end.
            another = facts.run_id != known.run_id
            side.evicts = side.evicts or facts.evicted_since(known) or (another and self._hub.may_evict)
        self.known.hub = facts
        side.run_id = facts.run_id
        self._first_at["hub"] = False
        self._tell("hub", judged, agreed, held, since=since, past=past, sent=sent)
        if lost:  # save the judgement before the numbers that it rests on are forgotten
            self.save()
            self._fence.forget()
            self._fence.doubt()
            await self._fence.ready()
            await self._fence.mark(self._number())

    async def _judged_of_hub(self, facts: HubFacts) -> Judgement:
        before, fence = self.known.hub, self._fence
        if self._first_at["hub"]:
            return Judgement(Event.FIRST, "first contact")
        same = before is not None and bool(facts.run_id) and before.run_id == facts.run_id
        if same and before is not None and facts.flushed_since(before):
            self._core.flushed("hub")
            return Judgement(Event.GAP, "subscribed")
        if same and before is not None and facts.evicted_since(before):
            return Judgement(Event.GAP, "subscribed")  # the fence itself may have been evicted
        held = fence.holds_up_to()
        if held != math.inf:
            return Judgement(Event.WENT_BACK, "the hub has lost what was agreed", held)
        if same or before is None:
            return Judgement(Event.GAP, "subscribed")
        if fence.found is None:
            return Judgement(Event.WENT_BACK, "the hub is another process, and has no fence", 0)
        restarted = Judgement(Event.RESTARTED, "the hub is another process")
        if fence.highest >= self._number():
            return restarted
        seen = await self._history(fence.highest)
        if seen is not None and await self._hub_has_the_latest(fence.highest, seen):
            return restarted
        # It has all that we pushed, so what it lacks is no more than what its own clients wrote last.
        reason = "the hub is another process, which may lack what was agreed last"
        return Judgement(Event.WENT_BACK, reason, fence.highest, seen=seen or ())

    async def _hub_has_the_latest(self, noted: int, seen: Sequence[Seen]) -> bool:
        """Whether a new process still has what came from the hub after the last number that it noted."""
        latest = {change.place for change in [change for change in seen if change.number >= noted][-RING:]}
        of_these = [change for change in seen if change.place in latest]
        return holds_since(noted, of_these, await self._hub.held(latest))

    @property
    def hub_clock_ahead(self) -> float | None:
        """Seconds by which the hub's clock is ahead of ours; None if unknown."""
        return None if self._hub.clock_ahead is None else round(self._hub.clock_ahead, 1)

    async def look_at_hub(self) -> None:
        """Check whether the hub was flushed, or restarted, since the last look.

        Raises:
            RedisreplError: it cannot be asked.
        """
        before, side, ahead = self.known.hub, self._core.continuity.hub, self._hub.clock_ahead
        if before is None or not side.judged:
            return
        facts = await self._ask_hub()
        if abs((self._hub.clock_ahead or 0) - (ahead or 0)) > CLOCK_TOLERANCE:
            await self._ask_site()  # its clock was set, or ours, which most often is the site's
        if facts.run_id in ("", before.run_id) and not await self._fence.is_there():
            self.hub_heard()
            return
        if not facts.run_id or not side.judged:
            return
        if facts.run_id != before.run_id:
            self.hub_heard()  # the hub restarted: record it now, because subscriptions may notice it later
            return
        if facts.evicted_since(before):
            side.evicts = True
        if facts.flushed_since(before):
            self._core.flushed("hub")
        self.known.hub = facts

    async def mark(self, *, always: bool = False) -> None:
        """Note the number of the last agreement in the hub's fence, if it has grown, or `always`.

        Raises:
            RedisreplError: it cannot be asked.
        """
        number = self._number()
        if (always or number > self._marked) and self._core.continuity.hub.judged:
            if await self._fence.mark(number):
                self._marked = number
            else:
                self.hub_heard()

    async def same_hub(self) -> bool:
        """Whether the hub is still the process that was judged; asked before a key that it lacks is removed.

        Raises:
            RedisreplError: it cannot be asked.
        """
        epoch = self._core.continuity.epoch
        await self.look_at_hub()
        return self._core.continuity.epoch == epoch and self._core.continuity.hub.judged

    def _tell(
        self,
        side: Side,
        judged: Judgement,
        agreed: Places | None,
        held: Held,
        *,
        since: DigestsByPlace,
        past: DigestsByPlace,
        sent: DigestsByPlace,
    ) -> None:
        event, reason, number, kept, kept_to, known_to, seen = judged
        if event is Event.WENT_BACK:
            _log.warning(
                f"{side}.went_back",
                reason=reason,
                then="what it lacks is copied back, and what it holds differently gives way to the other side; "
                "of that, what is not known to be older is kept (redisrepl conflicts)",
            )
        of_lost = [change for change in seen if agreed is not None and change.key in agreed]
        findings = Findings(number, self._number(), agreed, kept_to, known_to, kept, held, since, past, of_lost, sent)
        self._core.judged(side, event, reason, findings)
        if self._core.continuity.known:
            self.failure_log.succeeded()
        self._judged.set()
