"""What to do with one key, from what both sides hold and what they last agreed on.

The table of `reconcile` decides, for the key as a whole or for each element of a collection.

In: states, the ancestor, the policy. Out: a `Plan`. Left to others: which keys are looked at, and when what was planned
may be done (`engine.inbound`, `engine.outbound`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from redisrepl.changes import (
    DENIED,
    KIND_OF_TYPE,
    Change,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    Invalidated,
    SequenceSet,
    SequenceState,
    State,
    StringSet,
    StringState,
    TimedValue,
)
from redisrepl.engine.ancestor import NOTHING_AGREED, Agreed
from redisrepl.engine.expiries import by_the_clock_as_set, with_known_expiries
from redisrepl.engine.reconcile import ORDINARY, Circumstances, Digest, Verdict, reconcile
from redisrepl.engine.winners import NEITHER, ConflictWinner, Lost, Ruling, WentBack, ruling_on
from redisrepl.wire.digests import UNREADABLE, digest_of, element_of, elements_of
from redisrepl.wire.entries import LAST_ID, entry_name, greater_id, is_entry
from redisrepl.wire.fieldtimes import expiring_fields
from redisrepl.wire.groups import is_place
from redisrepl.wire.opaque import OPAQUE
from redisrepl.wire.states import TOO_LARGE

__all__ = [
    "Alternatives",
    "Expectation",
    "Plan",
    "Policy",
    "plan_for",
    "replacing",
]

#: What may be there: one of these digests (None: nothing).
Alternatives = tuple[Digest, ...]
#: What the hub must still hold for a push to happen: of the key, or of the elements that are pushed.
Expectation = Alternatives | Mapping[bytes, Alternatives]


@dataclass(frozen=True, slots=True)
class Policy:
    """What is replicated, and who wins.

    Attributes:
        kinds: which of `changes.KINDS` are replicated.
        winner: whose value wins where both changed.
        off_by: milliseconds by which an expiry at the hub may seem to be off since a clock was set.
    """

    kinds: frozenset[str]
    winner: ConflictWinner
    off_by: frozenset[int] = frozenset()


@dataclass(slots=True)
class Plan:
    """What to do with a key.

    Attributes:
        key: it.
        apply: changes that make the site hold what it should of the hub.
        push: the change that brings the hub what it should have of the site, its values to be read; None: nothing.
        expected: what the hub must still hold then.
        agreed: both sides hold the same and the ancestor does not say so: the site's state; for a collection, elements
            that are equal, and (as None) those that both lack.
        type: of that collection.
        expiry: likewise the expiry alone, Unix time in milliseconds or None.
        replaced: what the site holds where that was not agreed on, and `apply` replaces it: its state; for a
            collection, elements (None: it lacks them).
        lost: what of a loser is replaced, and will be kept.
        disputed: neither side holds what was agreed on about the key, until it is at the hub.
        clash: why the hub does not get what the site holds, though it would be replicated; None: nothing is in the way.
    """

    key: bytes
    apply: list[Change] = field(default_factory=list)
    push: Change | None = None
    expected: Expectation | None = None
    agreed: State | Mapping[bytes, bytes | None] | Literal["nothing"] = "nothing"
    type: str = "hash"
    expiry: int | Literal["nothing"] | None = "nothing"
    replaced: State | Mapping[bytes, bytes | None] | Literal["nothing"] = "nothing"
    lost: list[Lost] = field(default_factory=list)
    disputed: bool = False
    clash: str | None = None


def plan_for(
    key: bytes,
    site: State,
    hub: State,
    ancestor: Agreed | None,
    policy: Policy,
    about: Circumstances,
    back: WentBack = NEITHER,
    *,
    now_ms: float = 0,
) -> Plan:
    """What to do with a key of which this is known.

    Args:
        key: it.
        site: what the site holds.
        hub: what the hub holds.
        ancestor: what both last agreed on; None: nothing is known.
        policy: see `Policy`.
        about: see `Circumstances`.
        back: see there.
        now_ms: what was to expire by then, Unix time in milliseconds, a server may have let expire.
    """
    ancestor = ancestor or NOTHING_AGREED
    site, hub = with_known_expiries(site, hub, ancestor.expires_at_ms)
    hub, off = by_the_clock_as_set(hub, ancestor.expires_at_ms, policy.off_by)
    hub, off_fields = _fields_by_the_clock_as_set(hub, ancestor, policy)
    if isinstance(site, HashState) and isinstance(hub, HashState) and site.type == hub.type:
        plan = _plan_elements(key, site, hub, ancestor, policy, about, back, now_ms)
        if off_fields:
            _write_fields_anew(plan, site, off_fields)
        if _is_disputed(plan, about):  # then this is all that is left to agree on
            equal = {name: value for name, value in site.fields.items() if hub.fields.get(name) == value}
            plan.agreed = equal or "nothing"
    else:
        plan = _plan_whole(key, site, hub, ancestor, policy, about, back)
    plan.disputed = _is_disputed(plan, about)
    if off and "expire" in policy.kinds and (site is not None or not (plan.apply or plan.push)):
        _write_expiry_anew(plan, ancestor)
    return plan


def _fields_by_the_clock_as_set(
    hub: State, ancestor: Agreed, policy: Policy
) -> tuple[State, Mapping[bytes, Alternatives]]:
    """Likewise the fields of a hash; and what the hub holds of those whose expiries date from before."""
    if not policy.off_by or not isinstance(hub, HashState) or not (timed := expiring_fields(hub.fields)):
        return hub, {}
    agreed, fields, off = ancestor.elements or {}, dict(hub.fields), {}
    for name, value in timed.items():
        for ms in policy.off_by:
            then = TimedValue(value, value.expires_at_ms - ms)
            if element_of(name, then) == agreed.get(name):
                fields[name], off[name] = then, (element_of(name, value),)
    return (replace(hub, fields=fields), off) if off else (hub, {})


def _write_fields_anew(plan: Plan, site: HashState, off: Mapping[bytes, Alternatives]) -> None:
    """Nobody has changed these expiries at the hub, but they pass at the wrong time there, or have passed here."""
    back = {name for change in plan.apply if isinstance(change, HashSet) for name in change.fields}
    wrong = {name: held for name, held in off.items() if name in site.fields or name not in back}
    if not wrong or isinstance(plan.push, Invalidated):
        return
    put: dict[bytes, bytes | None] = dict.fromkeys(wrong)
    expected = plan.expected if isinstance(plan.expected, Mapping) else {}
    if isinstance(plan.push, HashSet):
        plan.push = HashSet(plan.key, {**put, **plan.push.fields})
    elif plan.push is None:
        plan.push = HashSet(plan.key, put)
    else:
        plan.push = Invalidated(plan.key, replaces=True)  # the fields that are expected, and the expiry
    plan.expected = {**expected, **wrong}


def _write_expiry_anew(plan: Plan, ancestor: Agreed) -> None:
    """Nobody has changed the expiry at the hub, but it passes at the wrong time there."""
    if plan.push is None:
        plan.push, plan.expected = ExpirySet(plan.key, ancestor.expires_at_ms), {}
    elif isinstance(plan.push, HashSet):
        plan.push = Invalidated(plan.key, replaces=True)  # the elements that are expected, and the expiry


def _is_disputed(plan: Plan, about: Circumstances) -> bool:
    """What a server lost must not look removed to a later comparison, should the hub not take it now."""
    return plan.push is not None and _any_lost(about)


def _any_lost(about: Circumstances) -> bool:
    """Whether a server may hold something older than what was agreed on: that alone decides then."""
    return about.site_lost or about.hub_lost


def _replicable(state: State, kinds: frozenset[str]) -> bool:
    match state:
        case None:
            return True
        case StringState():
            return "set" in kinds
        case HashState() | SequenceState():
            return KIND_OF_TYPE[state.type] in kinds
        case _:
            return False


def _clash(site: State, hub: State, kinds: frozenset[str]) -> str | None:
    """Why the hub does not get what the site holds; None: the site holds nothing for it, or that is told elsewhere."""
    if site is None or hub in (DENIED, TOO_LARGE) or not _replicable(site, kinds) or _replicable(hub, kinds):
        return None
    held = hub.type if isinstance(hub, HashState | SequenceState) else hub if isinstance(hub, str) else "string"
    return f"WRONGTYPE the hub holds a {held} there, which is not replicated"


def _plan_whole(
    key: bytes, site: State, hub: State, ancestor: Agreed, policy: Policy, about: Circumstances, back: WentBack
) -> Plan:
    plan = Plan(key)
    if site is None and ancestor == NOTHING_AGREED and _replicable(hub, policy.kinds):
        plan.apply = [] if hub is None else replacing(key, site, hub, policy.kinds)  # most of a first contact
        return plan
    held, far = digest_of(key, site), digest_of(key, hub)
    if UNREADABLE in (held, far) or not (_replicable(site, policy.kinds) and _replicable(hub, policy.kinds)):
        plan.clash = _clash(site, hub, policy.kinds)
        return plan  # what cannot be replicated must not be destroyed by what can
    if about == ORDINARY and ancestor.digest not in (held, far) and (both := _as_collections(site, hub, ancestor)):
        return _plan_elements(key, *both, ancestor, policy, about, back)
    intents, applied = ancestor.intents, ancestor.applied
    if ancestor.element_intents and _left_by(hub, ancestor, ancestor.element_intents):
        intents = (*intents, far)
    if ancestor.element_applied and _left_by(site, ancestor, ancestor.element_applied):
        applied = (*applied, held)
    verdict = reconcile(ancestor.digest, held, far, intents, about, applied)
    if verdict is Verdict.AGREE:
        if ancestor.digest != held or any((intents, applied, ancestor.element_intents, ancestor.element_applied)):
            plan.agreed = site
        _plan_expiry(plan, site, hub, ancestor, policy, same_value=ancestor.digest == held)
        return plan
    known = ancestor.digest, *applied
    if ruling := ruling_on(verdict, (held, far), known, intents, None, policy.winner, about, back):
        verdict = ruling.verdict
        plan.lost = [Lost(ruling, site if ruling.winner == "hub" else hub)]
    if verdict is Verdict.PUSH:
        plan.push, plan.expected = Invalidated(key, replaces=True), (far,)
    elif verdict is Verdict.APPLY:
        plan.apply = replacing(key, site, hub, policy.kinds)
        plan.replaced = "nothing" if held == ancestor.digest or _any_lost(about) else site
        if site is None and isinstance(hub, HashState) and ancestor.digest is not None:
            plan.agreed = None  # elements that are not in the new collection are not agreed on any more
    return plan


def _as_collections(site: State, hub: State, ancestor: Agreed) -> tuple[HashState, HashState] | None:
    """A collection that one side has removed while the other changed it: its elements are gone, each by itself.

    Otherwise the other's change would bring back those that it left alone. A stream is a key even without any.
    """
    match site, hub:
        case None, HashState(_, _, type_) if ancestor.elements and type_ != "stream":
            return HashState({}, None, type_), hub
        case HashState(_, _, type_), None if ancestor.elements and type_ != "stream":
            return site, HashState({}, None, type_)
    return None


def _left_by(state: State, ancestor: Agreed, left: Mapping[bytes, Alternatives]) -> bool:
    """Whether a key is as it was agreed on, but for elements that we may have left so."""
    if state is not None and not isinstance(state, HashState):
        return False
    held, agreed = elements_of(state.fields, state.type) if state is not None else {}, ancestor.elements or {}
    return all(
        held.get(name) == agreed.get(name) or held.get(name) in left.get(name, ())
        for name in held.keys() | agreed.keys() | left.keys()
    )


def replacing(key: bytes, site: State, hub: State, kinds: frozenset[str]) -> list[Change]:
    """What makes the site hold what the hub holds, where they are not two collections of a type."""
    match hub:
        case StringState(value, expires_at_ms):
            return [StringSet(key, value, expires_at_ms)]
        case HashState() | SequenceState():
            expires_at_ms = hub.expires_at_ms
            # What RESTORE refuses must not be missing afterwards; it replaces whatever is there.
            changes: list[Change] = [Deleted(key)] if site is not None and hub.type != OPAQUE else []
            if isinstance(hub, HashState):
                changes.append(HashSet(key, dict(hub.fields), hub.type))
            else:
                changes.append(SequenceSet(key, hub.items, hub.type))
            if "expire" in kinds and expires_at_ms is not None:
                changes.append(ExpirySet(key, expires_at_ms))
            return changes
        case _:
            return [Deleted(key)]


def _plan_elements(
    key: bytes,
    site: HashState,
    hub: HashState,
    ancestor: Agreed,
    policy: Policy,
    about: Circumstances,
    back: WentBack,
    now_ms: float = 0,
) -> Plan:
    """Two collections of a type: element by element."""
    plan, type_ = Plan(key, type=site.type), site.type
    if KIND_OF_TYPE[type_] not in policy.kinds:
        return plan
    verdicts = _verdicts(site, hub, ancestor, about, back, now_ms)
    lost = _any_lost(about)
    if type_ == "stream" and verdicts.get(LAST_ID) in _ONE_WINS:
        verdicts[LAST_ID] = _of_last_ids(site, hub, verdicts, lost=lost)
    for name in [name for name in verdicts if type_ == "stream" and is_place(name)]:
        both = name in site.fields and name in hub.fields
        if verdicts[name] is Verdict.CONFLICT or (lost and both):  # an id by which entries are counted
            verdicts[name] = _of_ids(site.fields[name], hub.fields[name])
    for ruling, names in _rulings(site, hub, ancestor, verdicts, policy, about, back).items():
        loser = site if ruling.winner == "hub" else hub
        plan.lost.append(Lost(ruling, HashState({name: loser.fields[name] for name in names}, None, type_)))
        verdicts |= dict.fromkeys(names, ruling.verdict)
    applied = [name for name, verdict in verdicts.items() if verdict is Verdict.APPLY]
    pushed = [name for name, verdict in verdicts.items() if verdict is Verdict.PUSH]
    agreed = [name for name, verdict in verdicts.items() if verdict is Verdict.AGREE]
    if put := {name: hub.fields[name] for name in applied if name in hub.fields}:
        plan.apply.append(HashSet(key, dict(put), type_))
    if gone := tuple(name for name in applied if name not in hub.fields):
        # A stream stays when it has no entry left, and takes a lower last id only then.
        plan.apply.insert(0 if type_ == "stream" else 1, FieldsDeleted(key, gone, type_))
    if not lost:
        plan.replaced = _not_agreed_on(site, applied, ancestor) or "nothing"
    if pushed:
        plan.push = HashSet(key, dict.fromkeys(pushed), type_)
        far = elements_of({name: hub.fields[name] for name in pushed if name in hub.fields}, type_)
        plan.expected = {name: (far.get(name),) for name in pushed}
    if agreed:
        plan.agreed = {name: site.fields.get(name) for name in agreed}
    outlived = ancestor.expires_at_ms is not None and ancestor.expires_at_ms <= now_ms
    _plan_expiry(plan, site, hub, ancestor, policy, same_value=False, outlived=outlived)
    return plan


def _not_agreed_on(site: HashState, names: Collection[bytes], ancestor: Agreed) -> dict[bytes, bytes | None]:
    """Of these elements, what the site holds (None: it lacks it) where that was not agreed on."""
    there = {name: site.fields[name] for name in names if name in site.fields}
    held, known = elements_of(there, site.type), ancestor.elements or {}
    return {name: there.get(name) for name in names if held.get(name) != known.get(name)}


def _verdicts(
    site: HashState, hub: HashState, ancestor: Agreed, about: Circumstances, back: WentBack, now_ms: float
) -> dict[bytes, Verdict]:
    """What to do with each element that is not the same everywhere."""
    known = ancestor.elements or {}
    held, far = elements_of(site.fields, site.type), elements_of(hub.fields, hub.type)
    verdicts: dict[bytes, Verdict] = {}
    for name in held.keys() | far.keys() | known.keys():
        ours, theirs, agreed = held.get(name), far.get(name), known.get(name)
        intents, applied = ancestor.element_intents.get(name, ()), ancestor.element_applied.get(name, ())
        if ours != theirs or ours != agreed or intents or applied:
            bears = back.bears(about, name)
            if ours is None or theirs is None:
                bears = _expiring(bears, site.fields.get(name) or hub.fields.get(name), now_ms)
            verdicts[name] = reconcile(agreed, ours, theirs, intents, bears, applied)
    return verdicts


def _rulings(
    site: HashState,
    hub: HashState,
    ancestor: Agreed,
    verdicts: Mapping[bytes, Verdict],
    policy: Policy,
    about: Circumstances,
    back: WentBack,
) -> Mapping[Ruling, list[bytes]]:
    """The elements of which one side loses something that may be newer, by who wins."""
    if not (_any_lost(about) or Verdict.CONFLICT in verdicts.values()):
        return {}
    names = [name for name, verdict in verdicts.items() if verdict in _ONE_WINS]
    if site.type == "stream":  # of two ids the greater stands
        names = [name for name in names if name != LAST_ID and not is_place(name)]
    agreed = ancestor.elements or {}
    held, far = (
        elements_of({name: side.fields[name] for name in names if name in side.fields}, side.type)
        for side in (site, hub)
    )
    rulings: dict[Ruling, list[bytes]] = {}
    for name in names:
        sides = held.get(name), far.get(name)
        known = agreed.get(name), *ancestor.element_applied.get(name, ())
        sent, bears = ancestor.element_intents.get(name, ()), back.bears(about, name)
        if ruling := ruling_on(verdicts[name], sides, known, sent, name, policy.winner, bears, back):
            rulings.setdefault(ruling, []).append(name)
    return rulings


_ONE_WINS = (Verdict.APPLY, Verdict.PUSH, Verdict.CONFLICT)


def _of_ids(ours: bytes, theirs: bytes) -> Verdict:
    """Which of two ids stands: the greater."""
    return Verdict.APPLY if greater_id(ours, theirs) == theirs else Verdict.PUSH


def _of_last_ids(site: HashState, hub: HashState, verdicts: Mapping[bytes, Verdict], *, lost: bool) -> Verdict:
    """Which of two last ids of a stream stands: the greater.

    A lower one does only if the one side that changed it has set it back, and no entry above it is left. What a server
    that went back (`lost`) holds tells no such thing.
    """
    verdict, ours, theirs = verdicts[LAST_ID], site.fields[LAST_ID], hub.fields[LAST_ID]
    greater = _of_ids(ours, theirs)
    higher, lowest = (hub, entry_name(ours)) if greater is Verdict.APPLY else (site, entry_name(theirs))
    above = (name for name in higher.fields if name > lowest and is_entry(name))
    if verdict is Verdict.CONFLICT or lost or any(verdicts.get(name) is not verdict for name in above):
        return greater
    return verdict


def _expiring(about: Circumstances, value: bytes | None, now_ms: float) -> Circumstances:
    """What bears on a field that one side lacks: it may have let it expire, and the other will too."""
    passed = isinstance(value, TimedValue) and value.expires_at_ms <= now_ms
    return replace(about, expired=True) if passed else about


def _plan_expiry(
    plan: Plan, site: State, hub: State, ancestor: Agreed, policy: Policy, *, same_value: bool, outlived: bool = False
) -> None:
    """Likewise the expiry of two equal values, agreed on before or not, or of two collections.

    A collection that has outlived its agreed expiry may be what a late push has left at the hub, without an expiry.
    """
    if site is None or hub is None or isinstance(site, str) or isinstance(hub, str):
        return
    if "expire" not in policy.kinds:
        if isinstance(site, StringState) and isinstance(hub, StringState):
            _plan_expiry_of_set(plan, site, hub, ancestor, policy, same_value=same_value)
        return
    ours, theirs, agreed = site.expires_at_ms, hub.expires_at_ms, ancestor.expires_at_ms
    if ours == theirs:
        if ours != agreed:
            plan.expiry = ours
        return
    if isinstance(plan.agreed, StringState | SequenceState):
        plan.agreed = replace(plan.agreed, expires_at_ms=agreed)  # the value is all that they agree on
    if ours == agreed or (theirs != agreed and policy.winner == "hub" and not outlived):
        plan.apply.append(ExpirySet(plan.key, theirs))
    elif plan.push is None:
        plan.push, plan.expected = ExpirySet(plan.key, ours), {}
    else:
        plan.push = Invalidated(plan.key, replaces=True)  # the elements that are expected, and the expiry


def _plan_expiry_of_set(
    plan: Plan, site: StringState, hub: StringState, ancestor: Agreed, policy: Policy, *, same_value: bool
) -> None:
    """Likewise of two equal strings, where expiries are replicated as far as `SET` gives them.

    Which command gave an expiry, no value tells. One that changed at the hub is taken for that of a `SET`, as it is
    where the hub told of an event; one that changed at the site is not: its stream would have told of the `SET`.
    """
    ours, theirs, agreed = site.expires_at_ms, hub.expires_at_ms, ancestor.expires_at_ms
    if isinstance(plan.agreed, StringState):
        plan.agreed = replace(plan.agreed, expires_at_ms=theirs)  # what changes from here on is told by this
    if not same_value or theirs == agreed:
        return
    if ours == agreed or (ours != theirs and policy.winner == "hub"):
        plan.apply.append(StringSet(plan.key, hub.value, theirs))
    else:
        plan.expiry = theirs
