"""Everything that decides, in one object: what comes in, and what is to be done.

In: what the links tell (attached, lost, subscribed, flushed, ...), what comparisons find. Out: `engine.outbound` and
`engine.inbound` with what is to be pushed, fetched and applied; which sides must be compared. Left to others: every
wait and every byte (`flow`, `local`, `remote`); it is driven alike by the daemon and by the model.

Each event of a link is one method here, which does all that follows from it: nothing has to be kept in step elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from redisrepl.changes import KINDS, Change, HashState, Invalidated, SequenceState, State, StringState
from redisrepl.engine.ancestor import Agreed
from redisrepl.engine.continuity import SIDES, Continuity, Event, Side
from redisrepl.engine.doubts import Doubts
from redisrepl.engine.echo import ExpectedEvents
from redisrepl.engine.expiries import by_the_clock_as_set
from redisrepl.engine.following import Following
from redisrepl.engine.inbound import Inbound
from redisrepl.engine.losers import ConflictLoss, Losers
from redisrepl.engine.losses import NO_FINDINGS, Findings, Losses
from redisrepl.engine.outbound import Outbound
from redisrepl.engine.places import MOST_PLACES
from redisrepl.engine.plans import Plan, Policy, plan_for
from redisrepl.engine.pushes import OutboundOptions
from redisrepl.engine.reconcile import Circumstances, circumstances
from redisrepl.engine.record import StreamRecord
from redisrepl.engine.refusals import Refusals
from redisrepl.engine.seen import Ring
from redisrepl.engine.streamedkeys import StreamedKeys
from redisrepl.engine.winners import NEITHER, ConflictWinner, WentBack
from redisrepl.wire.commands import ChangeDecoder

__all__ = ["Core", "CoreOptions", "InitialSync"]

InitialSync = Literal["both", "push", "pull", "none"]

#: The hub is not followed by a stream: what it took since is known by agreements alone.
_NOT_SEEN = Ring()


@dataclass(frozen=True, slots=True)
class CoreOptions:
    """How it decides.

    Attributes:
        origin: who we are, in transactions that we apply.
        pulls: what others write at the hub is applied to the site (`-rc`).
        winner: whose value wins where both sides changed.
        initial_sync: which way the first contact copies what has no ancestor.
        max_memory: bytes for changes that wait for the hub.
        max_keys: how many keys may wait, each way.
        every_write: each change of a key reaches the hub, in order.
        expectations: how many fit into each echo map; None: neither side is followed.
        event_patience: seconds after which an event that did not come is overdue.
        off_by: see `Core.clock_was_set`.
    """

    origin: bytes = b""
    pulls: bool = True
    winner: ConflictWinner = "hub"
    initial_sync: InitialSync = "both"
    max_memory: int = 64 << 20
    max_keys: int = 2_000_000
    every_write: bool = False
    expectations: int | None = 300_000
    event_patience: float = 60.0
    off_by: frozenset[int] = frozenset()


class Core:
    """Decides for one site and one hub.

    Args:
        covers: whether a key belongs to the namespaces.
        kinds: which of `changes.KINDS` are replicated.
        database: of the site.
        options: see there.
        continuity: what is known of both histories, from the last process.
        ring: the last changes seen of the site, likewise.
        losses: what it may have lost, likewise.
        hub_losses: what the hub may have lost.
        streamed_keys, refused: which keys the site's stream told of, and which were refused, likewise.
        keep: called with what loses a conflict.

    Attributes:
        outbound: site to hub.
        inbound: hub to site; None if nothing is pulled.
        losses: what a site that went back may have lost.
        hub_losses: what a hub that went back may have lost.
        losers: names what loses a conflict.
        record: of what the site's stream told.
    """

    def __init__(  # noqa: PLR0913 - what a core is made of
        self,
        covers: Callable[[bytes], bool],
        kinds: frozenset[str] = KINDS,
        database: int = 0,
        options: CoreOptions | None = None,
        *,
        continuity: Continuity | None = None,
        ring: Ring | None = None,
        losses: Losses | None = None,
        hub_losses: Losses | None = None,
        streamed_keys: StreamedKeys | None = None,
        refused: object = None,
        keep: Callable[[ConflictLoss], None] = lambda _: None,
        outbound: type[Outbound] = Outbound,
        inbound: type[Inbound] = Inbound,
    ) -> None:
        self.options = options = options or CoreOptions()
        self.continuity = continuity or Continuity()
        self.losses = losses or Losses()
        self.hub_losses = hub_losses or Losses("hub")
        self.losses.streamed_keys = streamed_keys or self.losses.streamed_keys
        self.policy = Policy(kinds, options.winner, options.off_by)
        self.expected_local = ExpectedEvents(options.expectations)
        self.expected_remote = ExpectedEvents(options.expectations)
        self.following = Following()
        self.losers = Losers(keep)
        self.inbound = (
            inbound(
                covers=covers,
                kinds=kinds,
                expected_local=self.expected_local,
                expected_remote=self.expected_remote,
                busy=self._busy,
                changing=lambda key: self.outbound.changing(key),  # noqa: PLW0108 - it is made below
                epoch=lambda: self.continuity.epoch,
                whole=lambda: self.continuity.site.settled,
                following=self.following,
                event_patience=options.event_patience,
                max_keys=options.max_keys,
            )
            if options.pulls
            else None
        )
        self.outbound = outbound(
            ChangeDecoder(covers, kinds, database),
            self.expected_local,
            self.expected_remote if options.pulls else None,
            self.inbound,
            OutboundOptions(
                origin=options.origin,
                max_bytes=options.max_memory,
                max_keys=options.max_keys,
                yields=options.pulls or options.winner == "hub",
                event_patience=options.event_patience,
                every_write=options.every_write,
            ),
            Doubts(
                options.max_memory // 4,
                options.max_keys,
                kinds,
                self.inbound,
                may_judge=self._may_judge,
                went_back=self._site_went_back,
                evicts=lambda: self.continuity.site.may_lack,
                behind=lambda: self.continuity.behind,
            ),
            self.losses.renewed,
            self.following,
        )
        ring = Ring() if ring is None else ring  # one without changes may know the number
        self.record = StreamRecord(ring, self.outbound, self.continuity)
        for name, refusals in self._refusals():
            refusals.load(refused.get(name) if isinstance(refused, Mapping) else None)

    def _may_judge(self) -> bool:
        """Whether what the site holds can be compared with the ancestor.

        At first contact there is none, so the snapshot need not wait until it is whole.
        """
        site = self.continuity.site
        return (site.followed and site.judged) or site.untouched

    def _site_went_back(self, key: bytes, state: State, ancestor: Agreed) -> bool:
        return self.losses.may_be_older(key, state, ancestor, self.record.ring, self.continuity.site.proved)

    def _hub_went_back(self, key: bytes, state: State, ancestor: Agreed) -> bool:
        return self.hub_losses.may_be_older(key, state, ancestor, _NOT_SEEN, self.continuity.hub.proved)

    def _busy(self, key: bytes) -> bool:
        return self.outbound.busy(key)

    # What happens to the links.

    def site_lost(self, number: int) -> None:
        """The site is not followed any more; so many agreements there are."""
        streamed_keys = self.outbound.take_streamed_keys()
        self.losses.renewed.lost(number, self.outbound.pending.places(number, MOST_PLACES))
        if self.continuity.site.judged:  # otherwise it may have been another server's
            self.record.ends()
            self.losses.streamed_keys = streamed_keys
            self.losses.waiting = self.outbound.places(self.record.ring.number)
        else:
            self.losses.streamed_keys.followed_by(streamed_keys)
        self.continuity.happened("site", Event.DETACHED)

    def streamed_keys(self) -> StreamedKeys:
        """What the site's stream has told of; until the next one is judged, what it had told of in the end."""
        site, recent = self.continuity.site, self.outbound.recent.streamed_keys
        if site.followed and site.judged:
            return recent
        if site.followed:
            self.losses.streamed_keys.followed_by(recent)
        return self.losses.streamed_keys

    def site_attached(self, history: str = "") -> None:
        """The site is followed; what its history is turns out in a moment (`judged`).

        Args:
            history: its replication id; empty: it does not tell.
        """
        self.losses.renewed.found(history)
        self.outbound.void_expected()
        self.continuity.happened("site", Event.ATTACHED)

    def site_missed(self) -> None:
        """What the site did since it was followed last is not told by its stream."""
        self.continuity.happened("site", Event.MISSED, "writes of the site were missed")

    def hub_heard(self) -> None:
        """The hub's events are heard from now on: what was expected of the link before may have been missed."""
        self.continuity.happened("hub", Event.ATTACHED)
        if self.inbound is not None:
            self.inbound.resubscribed()

    def judged(self, side: Side, event: Event, reason: str = "", findings: Findings = NO_FINDINGS) -> None:
        """What the history of a server is, at the end of a link that was made.

        Args:
            side: of which.
            event: what it is.
            reason: see `Continuity.happened`.
            findings: what was found of it, most of all if it went back.
        """
        # What is seen of it from here on does not follow upon what was seen before.
        anew = side == "site" and (event is not Event.RESUMED or self.continuity.site.missed)
        losses, before = (self.losses if side == "site" else self.hub_losses), self.continuity.of(side).proved
        if event is Event.WENT_BACK:
            record = self.record
            ring, applies = (record.ring, record.unshown) if side == "site" else (Ring(findings.seen), ())
            losses.went_back(ring, before, applies, findings)
        else:
            losses.renewed.judged()
            losses.renewed.agreed(findings.agreed)
            if anew and before != math.inf:
                losses.interrupted(self.record.ring)
        losses.remembers(findings.past)
        self.continuity.happened(side, event, reason, proved=findings.proved)
        if anew:
            # What a server does after it went back, it does after all that was agreed before. Where it may be older, it
            # was looked at (`Findings.held`).
            went_back = event is Event.WENT_BACK
            self.record.begins_anew(findings.number if went_back else 0, agreed=went_back)

    def clock_was_set(self, off_by: frozenset[int]) -> None:
        """A clock was set: earlier expiries at the hub now read as off by one of these numbers of milliseconds."""
        self.policy = replace(self.policy, off_by=off_by)
        for side in SIDES:
            self.continuity.happened(side, Event.CLOCK_SET, "the clock of a server was set")

    def times_fields(self, *, on: bool) -> None:
        """Expiries of fields are replicated from now on, or not any more: what fields hold has another digest then."""
        self.outbound.decoder.times_fields = on
        self.continuity.digested_anew("expiries of fields are compared from now on, or not any more")

    def flushed(self, side: Side) -> None:
        """A side removed everything that it held."""
        self.continuity.happened(side, Event.FLUSHED, f"the {side} was flushed")

    def overdue(self, now: float) -> None:
        """Time passes."""
        self.outbound.tick(now)
        if self.inbound is not None:
            self.inbound.tick(now)
        self._owe_what_was_left_out()

    def _owe_what_was_left_out(self) -> None:
        """Compare for what could not be kept: it may be on either side that those keys differ."""
        outbound, inbound, happened = self.outbound, self.inbound, self.continuity.happened
        if inbound is not None and inbound.take_left_out():
            happened("hub", Event.MISSED, "more keys changed at the hub than --max-keys")
            happened("site", Event.LEFT_OUT, "more keys changed at the hub than --max-keys")
        if outbound.take_left_out():
            happened("site", Event.MISSED, "more keys waited than --max-keys")
            happened("hub", Event.LEFT_OUT, "more keys waited than --max-keys")
        if outbound.take_flush():
            self.flushed("site")

    # What comparisons find.

    def begin(self, sides: Iterable[Side]) -> dict[Side, str | None]:
        """A comparison of these sides begins; why each was owed."""
        if self.inbound is not None:
            self.inbound.comparison_begins()
        return {side: self.continuity.begin(side) for side in sides}

    def differs(self, side: Side, keys: Collection[bytes]) -> None:
        """What a side holds for these keys is not what was agreed on."""
        ways = self.options.initial_sync
        if self.inbound is not None:
            self.inbound.suspect(keys)
        elif ways in ("pull", "none") and not self.continuity.of(side).missed:
            return  # it was different when we came, and stays so
        elif side == "site":
            for key in keys:
                self.outbound.doubt(key)
        elif self.options.winner == "site":
            for key in keys:
                if self.outbound.pending.fields(key) is not None:  # otherwise all of it is on its way
                    self.outbound.pending.add(Invalidated(key))
        else:
            for key in keys:
                self.outbound.doubt(key)

    @property
    def room(self) -> int:
        """How many keys that differ can be remembered beside those that already are."""
        waiting = len(self.outbound.doubtful if self.inbound is None else self.inbound.dirty)
        return max(0, self.options.max_keys - waiting)

    def compared(self, sides: Iterable[Side]) -> None:
        """These sides were gone through, and all that was found is decided, see `undecided`."""
        for side in sides:
            self.continuity.happened(side, Event.COMPARED)
        if self.continuity.site.settled:  # not if it is owed again: more was left out meanwhile
            self.outbound.swept()
            self.losses.made_good()
        if self.continuity.hub.settled:
            self.hub_losses.made_good()
        self.losers.compared()

    @property
    def quiet(self) -> bool:
        """Whether nothing is in doubt."""
        return not len(self.outbound.doubtful) and (self.inbound is None or not self.inbound.compares)

    @property
    def undecided(self) -> bool:
        """Whether of what a comparison found, something may be left that rests on what is known of the sides."""
        return self.inbound is not None and self.inbound.undecided

    @property
    def certain(self) -> bool:
        """Whether, beyond that, both sides were compared since anything may have been missed."""
        continuity = self.continuity
        settled = continuity.site.settled and continuity.hub.settled
        return self.quiet and continuity.known and settled and not self.outbound.read_again_to

    # What is to be done with one key.

    def must_ask(self, key: bytes, *, suspect: bool) -> bool:
        """Whether the ancestor of a fetched key must be known, even if the hub lacks nothing of it.

        So it is with what the site has written and the hub refused: by all else, the key rests as it was agreed on.
        """
        return suspect or key in self.outbound.refusals or not self.continuity.site.settled

    def plan(
        self,
        key: bytes,
        site: State,
        hub: State,
        ancestor: Agreed | None,
        now_ms: float,
        *,
        without: Collection[bytes] = (),
    ) -> Plan:
        """What to do with a key of which all of this is known; of two hashes, without some fields."""
        site_lost = ancestor is not None and self._site_went_back(key, site, ancestor)
        hub_lost = ancestor is not None and self._hub_went_back(key, hub, ancestor)
        back = self._went_back(key, site, hub, ancestor, site_lost, hub_lost) if ancestor is not None else NEITHER
        of_all = Circumstances(
            removals="del" in self.policy.kinds and not self.continuity.behind,
            site_lost=site_lost,
            hub_lost=hub_lost,
            site_evicts=self.continuity.site.may_lack,
            hub_evicts=self.continuity.hub.may_lack,
        )
        agreed = None if ancestor is None else ancestor.expires_at_ms
        as_set, _ = by_the_clock_as_set(hub, agreed, self.policy.off_by)
        values = (state for state in (site, as_set) if isinstance(state, StringState | HashState | SequenceState))
        expiries = [state.expires_at_ms for state in values]
        about = circumstances(of_all, agreed, now_ms=now_ms, expiries=expiries)
        if without and isinstance(site, HashState) and isinstance(hub, HashState):
            site, hub = site.without(without), hub.without(without)
            ancestor = None if ancestor is None else ancestor.without(without)
        if ancestor is None and self.options.initial_sync != "both":
            return self._plan_of_first_contact(key, site, hub, about, now_ms)
        return plan_for(key, site, hub, ancestor, self.policy, about, back, now_ms=now_ms)

    def _went_back(
        self, key: bytes, site: State, hub: State, ancestor: Agreed, site_lost: bool, hub_lost: bool
    ) -> WentBack:
        if not (site_lost or hub_lost):
            return NEITHER
        names = {*(ancestor.elements or ())}.union(*(s.fields for s in (site, hub) if isinstance(s, HashState)))
        losses, hub_losses, of = self.losses, self.hub_losses, self.continuity
        at_site = losses.newer_fields(key, site, names, ancestor, self.record.ring, of.site.proved) if site_lost else ()
        at_hub = hub_losses.newer_fields(key, hub, names, ancestor, _NOT_SEEN, of.hub.proved) if hub_lost else ()
        agreed = (losses if site_lost else hub_losses).agreed
        known = (partial(known_of, key) for known_of in (losses.past, hub_losses.past, agreed))
        return WentBack(at_site, at_hub, *known)

    def _plan_of_first_contact(self, key: bytes, site: State, hub: State, about: Circumstances, now_ms: float) -> Plan:
        """What has no ancestor is copied the ways that `--initial-sync` says, unless it may be newer than that."""
        ways, policy, of, inbound = self.options.initial_sync, self.policy, self.continuity, self.inbound
        # What a link tells of was written since we came, and so after what stood there on the other side.
        by_site = self.outbound.recent.streamed_keys.tells_of(key)
        by_hub = inbound is not None and inbound.is_announced(key)
        if by_site != by_hub:
            policy = replace(policy, winner="site" if by_site else "hub")
        plan = plan_for(key, site, hub, None, policy, about, now_ms=now_ms)
        if ways != "pull" and not (of.hub.missed or by_hub):
            plan.apply = []
        if ways != "push" and not (of.site.missed or by_site):
            plan.push = None
        plan.lost = [lost for lost in plan.lost if (plan.apply if lost.ruling.winner == "hub" else plan.push)]
        return plan

    def push_planned(self, plan: Plan) -> None:
        """Have the hub get its part of a plan."""
        if plan.clash is not None and plan.key not in self.outbound.refusals:
            self.outbound.given_up(plan.key, plan.clash)
        if plan.push is None:
            return
        self.losers.lost(plan.key, plan.lost, "site")
        self.outbound.doubt(plan.key, plan.push, plan.expected)

    def apply_planned(self, plan: Plan) -> None:
        """The site is about to get its part of a plan."""
        self.losers.lost(plan.key, plan.lost, "hub")

    def applied(self, number: int, changes: Collection[Change]) -> None:
        """The site has taken these changes from the hub, under this number."""
        if self.losses.renewed.watches:
            self.losses.renewed.arrived(changes, number)
        self.pushed(number, changes)

    def pushed(self, number: int, changes: Collection[Change]) -> None:
        """The hub has taken these changes of the site, or held what they say, under this number."""
        if self.hub_losses.renewed.watches:
            self.hub_losses.renewed.arrived(changes, number)

    def saved(self) -> dict[str, object]:
        """What must survive the daemon, as JSON can hold it."""
        lost = self.losses.saved(whole=self.continuity.site.proved != math.inf)
        refused = {name: refusals.saved() for name, refusals in self._refusals()}
        continuity = self.continuity.saved(quiet=self.quiet and None not in refused.values())
        lost_at_hub = self.hub_losses.saved(whole=self.continuity.hub.proved != math.inf)
        more = {"losses": lost, "hub losses": lost_at_hub, "refused": refused}
        streamed_keys = self.outbound.recent if self.continuity.site.judged else self.losses
        return {"continuity": continuity, **more, **self.record.ring.saved(), **streamed_keys.streamed_keys.saved()}

    @property
    def refusals(self) -> list[Refusals]:
        """What the hub refuses, and what the site does."""
        return [refusals for _, refusals in self._refusals()]

    def _refusals(self) -> Iterator[tuple[str, Refusals]]:
        yield "push", self.outbound.refusals
        if self.inbound is not None:
            yield "apply", self.inbound.refusals
