"""A push that happens only if the hub still holds what was agreed: what the site changed while nobody followed it.

In: what the site holds, and the ancestor. Out: what to push and on which condition, or that nothing is to be pushed.
Left to others: which keys are in doubt (`engine.outbound`), the commands (`wire.writes`), the hub's answer
(`engine.outbound`).

If another site has changed the key at the hub meanwhile, the condition fails and the key is compared as a whole
(`engine.plans`). So the common case, in which nobody has, costs one request for a thousand keys, and nothing is read
at the hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from redisrepl.changes import (
    KIND_OF_TYPE,
    Change,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    SequenceSet,
    SequenceState,
    State,
    StringSet,
    StringState,
)
from redisrepl.engine.ancestor import NOTHING_AGREED, Agreed
from redisrepl.engine.expiries import with_known_expiry
from redisrepl.engine.plans import Alternatives, Expectation
from redisrepl.wire.digests import digest_of, element_of, elements_of
from redisrepl.wire.entries import LAST_ID, is_element_name

__all__ = ["Condition", "condition_for", "condition_of_state", "state_of"]


@dataclass(frozen=True, slots=True)
class Condition:
    """A push, and what the hub must hold for it.

    Attributes:
        changes: of one key, in order.
        whole: one of these must be the digest of the key; None: only elements matter.
        fields: for each element that is pushed or removed, one of these must be its digest.
    """

    changes: tuple[Change, ...]
    whole: Alternatives | None = None
    fields: Mapping[bytes, Alternatives] | None = None


def condition_of_state(
    key: bytes, state: State, ancestor: Agreed | None, expected: Expectation | None, kinds: frozenset[str]
) -> Condition | None:
    """How to push what the site holds now, all of it; None if the hub is to have nothing of it.

    Args:
        key: it.
        state: what the site holds.
        ancestor: what was agreed on; None: nothing.
        expected: what the hub is known to hold; None: it is taken to hold the ancestor.
        kinds: which of `changes.KINDS` are replicated.
    """
    known = ancestor or NOTHING_AGREED
    state = with_known_expiry(state, known.expires_at_ms)
    unchanged = _is_as_agreed(key, state, known) and not known.intents and not known.element_intents
    whole = expected if isinstance(expected, tuple) else (known.digest, *known.intents)
    match state:
        case None if "del" in kinds and not (unchanged and expected is None):
            return Condition((Deleted(key),), whole)
        case StringState(value, expires_at_ms) if "set" in kinds:
            same_expiry = "expire" not in kinds or expires_at_ms == known.expires_at_ms
            if unchanged and same_expiry and expected is None:
                return None
            return Condition((StringSet(key, value, expires_at_ms),), whole)
        case SequenceState(items, expires_at_ms, type_) if KIND_OF_TYPE[type_] in kinds:
            if unchanged and expected is None and ("expire" not in kinds or expires_at_ms == known.expires_at_ms):
                return None
            expiry: list[Change] = [ExpirySet(key, expires_at_ms)] if "expire" in kinds else []
            return Condition((SequenceSet(key, items, type_), *expiry), whole)
        case HashState(fields, expires_at_ms, type_) if KIND_OF_TYPE[type_] in kinds:
            if isinstance(expected, tuple) or (expected is None and _was_another(known, state, kinds)):
                # The key is missing there, or another type, or was when it was agreed on.
                changes: list[Change] = [Deleted(key), HashSet(key, dict(fields), type_)]
                if "expire" in kinds and expires_at_ms is not None:
                    changes.append(ExpirySet(key, expires_at_ms))
                return Condition(tuple(changes), whole)
            return _condition_of_elements(key, state, known, expected or {}, kinds)
        case _:
            return None


def _is_as_agreed(key: bytes, state: State, known: Agreed) -> bool:
    """Whether it is what was agreed on.

    At first contact that is nothing, and millions of keys need no digest to be told apart from it.
    """
    return state is None if known.digest is None else digest_of(key, state) == known.digest


def _was_no_collection(known: Agreed) -> bool:
    """Whether it was a string when it was agreed on."""
    return known.digest is not None and known.elements is None


def _was_another(known: Agreed, state: HashState, kinds: frozenset[str]) -> bool:
    """Whether it was of another type when it was agreed on, or has none of the elements any more that it had."""
    if known.elements and "del" in kinds:
        if state.type == "stream":  # which stays when it has no entry left, and so do its consumer groups
            return LAST_ID not in known.elements
        return known.elements.keys().isdisjoint(state.fields)
    return _was_no_collection(known)


def _condition_of_elements(
    key: bytes, state: HashState, known: Agreed, expected: Mapping[bytes, Alternatives], kinds: frozenset[str]
) -> Condition | None:
    agreed = known.elements or {}
    held, type_ = elements_of(state.fields, state.type), state.type
    intents = known.element_intents
    changed = {f: state.fields[f] for f, e in held.items() if agreed.get(f) != e or f in intents or f in expected}
    gone = [f for f in {*agreed, *intents, *expected} if f not in held] if "del" in kinds else []
    if type_ == "stream":  # what was agreed on or sent of it may be of another type
        gone = list(filter(is_element_name, gone))
    changes: list[Change] = []
    if changed:
        changes.append(HashSet(key, dict(changed), type_))
    if gone:
        # A stream stays when it has no entry left, and takes a lower last id only then.
        changes.insert(0 if type_ == "stream" else 1, FieldsDeleted(key, tuple(gone), type_))
    if "expire" in kinds and (state.expires_at_ms != known.expires_at_ms or expected):  # which was planned with them
        changes.append(ExpirySet(key, state.expires_at_ms))
    if not changes:
        return None
    fields = {f: expected.get(f, (agreed.get(f), *intents.get(f, ()))) for f in (*changed, *gone)}
    return Condition(tuple(changes), fields=fields)


def condition_for(
    changes: tuple[Change, ...], ancestor: Agreed | None, expected: Expectation | None, kinds: frozenset[str]
) -> Condition | None:
    """How to push changes that tell no whole state: elements of a collection, or a value as a snapshot has it.

    Args:
        changes: of one key, with their values.
        ancestor: what was agreed on; None: nothing.
        expected: what the hub is known to hold; None: it is taken to hold the ancestor.
        kinds: which of `changes.KINDS` are replicated.
    """
    known = ancestor or NOTHING_AGREED
    first = changes[0]
    if isinstance(first, StringSet | SequenceSet):
        same = _is_as_agreed(first.key, state_of(changes), known)
        if isinstance(first, StringSet):
            same = same and ("expire" not in kinds or first.expires_at_ms == known.expires_at_ms)
        if same and not known.intents and expected is None:
            return None
        if isinstance(first, SequenceSet) and "expire" in kinds and known.expires_at_ms is not None:
            changes = (first, ExpirySet(first.key, None))  # had it one still, the key would have been read
        return Condition(changes, expected if isinstance(expected, tuple) else (known.digest, *known.intents))
    if isinstance(first, HashSet) and expected is None and _was_no_collection(known):
        return Condition((Deleted(first.key), *changes), (known.digest, *known.intents))
    left: list[Change] = []
    fields: dict[bytes, Alternatives] = {}
    for change in changes:
        match change:
            case HashSet(key, named, type_):
                conditions = {name: _alternatives(name, known, expected) for name in named}
                fresh: dict[bytes, bytes | None] = {
                    name: value
                    for name, value in named.items()
                    if value is not None
                    and (expected is not None or conditions[name] != (element_of(name, value, type_),))
                }
                if fresh:
                    left.append(HashSet(key, fresh, type_))
                    fields |= {name: conditions[name] for name in fresh}
            case FieldsDeleted(_, names):
                left.append(change)
                fields |= {name: _alternatives(name, known, expected) for name in names}
            case ExpirySet(_, expires_at_ms):
                if expires_at_ms != known.expires_at_ms or expected is not None:
                    left.append(change)
            case _:
                raise AssertionError("what is pushed on a condition has its values")
    return Condition(tuple(left), fields=fields) if left else None


def state_of(changes: tuple[Change, ...]) -> State:
    """What the site holds as far as changes of one key tell it: strings and sequences as a whole."""
    match changes[0]:
        case StringSet(_, value, expires_at_ms):
            return StringState(value, expires_at_ms)
        case SequenceSet(_, items, type_):
            return SequenceState(items, None, type_)
        case _:
            return HashState({})


def _alternatives(name: bytes, known: Agreed, expected: Expectation | None) -> Alternatives:
    if isinstance(expected, Mapping):
        return expected.get(name, (None,))
    return ((known.elements or {}).get(name), *known.element_intents.get(name, ()))
