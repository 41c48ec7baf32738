"""What must be applied so that the site holds what the hub holds: no more than what differs.

In: what a key holds on either side. Out: changes. Left to others: which keys are looked at, and whether what was found
is still true when it is applied (`inbound`).
"""

from __future__ import annotations

from redisrepl.changes import (
    Change,
    Deleted,
    ExpirySet,
    FieldsDeleted,
    HashSet,
    HashState,
    State,
    StringSet,
    StringState,
)

__all__ = ["difference"]


def difference(key: bytes, hub: State, site: State, kinds: frozenset[str], *, may_delete: bool) -> list[Change]:
    """What must be applied so that the site holds what the hub holds.

    Args:
        key: the key.
        hub: what it holds there.
        site: what it holds here.
        kinds: which of `changes.KINDS` cross.
        may_delete: the hub is known to have removed something; never so on a guess, after a gap.
    """
    if isinstance(hub, StringState) and "set" in kinds:  # what most keys are
        return [] if hub == site else [StringSet(key, hub.value, hub.expires_at_ms)]
    delete = may_delete and "del" in kinds
    match hub, site:
        case (HashState(), HashState()) if "hset" in kinds:
            return [*_field_differences(key, hub, site, delete=delete), *_expiry_difference(key, hub, site, kinds)]
        case (HashState(), _) if "hset" in kinds:
            replaced: list[Change] = [Deleted(key)] if site is not None else []
            return [*replaced, HashSet(key, dict(hub.fields)), *_expiry_difference(key, hub, HashState({}), kinds)]
        case (None, StringState() | HashState()) if delete:
            return [Deleted(key)]
        case _:
            return []


def _field_differences(key: bytes, hub: HashState, site: HashState, *, delete: bool) -> list[Change]:
    changes: list[Change] = []
    site_fields = site.fields
    differing: dict[bytes, bytes | None] = {f: v for f, v in hub.fields.items() if site_fields.get(f) != v}
    if differing:
        changes.append(HashSet(key, differing))
    gone = tuple(field for field in site_fields if field not in hub.fields) if delete else ()
    if gone:
        changes.append(FieldsDeleted(key, gone))
    return changes


def _expiry_difference(key: bytes, hub: HashState, site: HashState, kinds: frozenset[str]) -> list[Change]:
    if "expire" not in kinds or hub.expires_at_ms == site.expires_at_ms:
        return []
    return [ExpirySet(key, hub.expires_at_ms)]
