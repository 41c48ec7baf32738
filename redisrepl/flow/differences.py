"""What must be applied so that the site holds what the hub holds: no more than what differs.

In: what a key holds on either side. Out: changes. Left to others: which keys are looked at, and whether what was found
is still true when it is applied (`engine.inbound`); what to do where the hub lacks something (`engine.plans`).
"""

from __future__ import annotations

from collections.abc import Sequence

from redisrepl.changes import (
    KIND_OF_TYPE,
    Change,
    ExpirySet,
    HashSet,
    HashState,
    SequenceState,
    State,
    StringSet,
    StringState,
    expiries_differ,
)
from redisrepl.engine.plans import replacing

__all__ = ["difference", "lacks", "news_of"]


def lacks(hub: State, site: State) -> bool:
    """Whether the hub lacks something that the site has: a key, or an element of a collection."""
    match hub, site:
        case (None, StringState() | HashState() | SequenceState()):
            return True
        case HashState(fields), HashState(ours) if hub.type == site.type:
            return not ours.keys() <= fields.keys()
        case _:
            return False


def news_of(changes: Sequence[Change], state: State) -> list[Change]:
    """Of what is to be applied to a key that holds this, what would change something."""
    news: list[Change] = []
    for change in changes:
        match change, state:
            case StringSet(), StringState() if _is_same(change, state):
                continue
            case HashSet(_, fields), HashState(held) if change.type == state.type:
                if all(held.get(name) == value for name, value in fields.items()):
                    continue
            case _:
                pass
        news.append(change)
    return news


def difference(key: bytes, hub: State, site: State, kinds: frozenset[str]) -> list[Change]:
    """What must be applied so that the site holds what the hub holds.

    Args:
        key: the key.
        hub: what it holds there.
        site: what it holds here.
        kinds: which of `changes.KINDS` are replicated.
    """
    if isinstance(hub, StringState) and "set" in kinds:  # what most keys are
        return [] if _is_same(hub, site) else [StringSet(key, hub.value, hub.expires_at_ms)]
    match hub, site:
        case (HashState(), HashState()) if hub.type == site.type and KIND_OF_TYPE[hub.type] in kinds:
            return [*_field_differences(key, hub, site), *_expiry_difference(key, hub, site, kinds)]
        case (SequenceState(), SequenceState()) if hub.items == site.items and hub.type == site.type:
            return _expiry_difference(key, hub, site, kinds) if KIND_OF_TYPE[hub.type] in kinds else []
        case (HashState() | SequenceState(), _) if KIND_OF_TYPE[hub.type] in kinds:
            return replacing(key, site, hub, kinds)
        case _:
            return []


def _is_same(one: StringSet | StringState, other: State) -> bool:
    if not isinstance(other, StringState) or one.value != other.value:
        return False
    return not expiries_differ(one.expires_at_ms, other.expires_at_ms)


def _field_differences(key: bytes, hub: HashState, site: HashState) -> list[Change]:
    site_fields = site.fields
    differing: dict[bytes, bytes | None] = {f: v for f, v in hub.fields.items() if site_fields.get(f) != v}
    return [HashSet(key, differing, hub.type)] if differing else []


def _expiry_difference(
    key: bytes, hub: HashState | SequenceState, site: HashState | SequenceState, kinds: frozenset[str]
) -> list[Change]:
    if "expire" not in kinds or not expiries_differ(hub.expires_at_ms, site.expires_at_ms):
        return []
    return [ExpirySet(key, hub.expires_at_ms)]
