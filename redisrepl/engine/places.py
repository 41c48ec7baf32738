"""Keys and fields as places, what was seen at them, and both as JSON can hold them.

In: places, and digests of what is there. Out: entries of a document, and places from them. Left to others: which are
remembered (`engine.seen`), and what follows from them (`engine.losses`, `engine.renewed`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

__all__ = [
    "MOST_PLACES",
    "Place",
    "Places",
    "Seen",
    "Valueless",
    "digests_of",
    "entries_of_digests",
    "entry_of",
    "entry_of_place",
    "entry_of_valueless",
    "field_or_none",
    "hex_or_none",
    "list_of",
    "place_of",
    "seen_of",
    "valueless_of",
]

#: A key as a whole (None), or a field of a hash.
Place = tuple[bytes, bytes | None]
#: For each key when it was agreed on last, by the store's count: as a whole (None), and fields of it.
Places = Mapping[bytes, Mapping[bytes | None, int]]
#: Places of which something is not known, each with the number of agreements when that began.
Valueless = Mapping[Place, float]
#: Keys that are remembered as places.
MOST_PLACES = 100_000


class Seen(NamedTuple):
    """A change that was seen.

    Attributes:
        number: agreements up to this one were made before it.
        key: what changed.
        field: of a hash; None: the key as a whole.
        digest: of what is there since; None: nothing.
    """

    number: int
    key: bytes
    field: bytes | None
    digest: int | None

    @property
    def place(self) -> Place:
        """What changed."""
        return self.key, self.field


def hex_or_none(field: bytes | None) -> str | None:
    """A field as JSON can hold it; None stands for the key as a whole."""
    return None if field is None else field.hex()


def field_or_none(text: str | None) -> bytes | None:
    """From what JSON held.

    Raises:
        ValueError, TypeError: that is none.
    """
    return None if text is None else bytes.fromhex(text)


def entries_of_digests(by_place: Mapping[Place, Iterable[int | None]]) -> list[tuple[int | str | None, ...]]:
    """Places with all digests that may have been there, as JSON can hold them."""
    return [(*entry_of_place(place), *digests) for place, digests in by_place.items()]


def digests_of(entries: Iterable[Any]) -> dict[Place, list[int | None]]:
    """From what `entries_of_digests` made.

    Raises:
        ValueError, TypeError: that is none.
    """
    return {place_of(key, field): digests for key, field, *digests in entries}


def entry_of(seen: Seen, later: int = 0) -> tuple[int | str | None, ...]:
    """As JSON can hold it; with how many of the entries before it are of later changes."""
    entry = seen.number, seen.key.hex(), hex_or_none(seen.field), seen.digest
    return (*entry, later) if later else entry


def seen_of(entry: object) -> Seen | None:
    """From what JSON held; None: that is no such entry."""
    match entry:
        case [int(number), str(key), str() | None as field, int() | None as digest, *_]:
            with suppress(ValueError):
                return Seen(number, *place_of(key, field), digest)
    return None


def entry_of_place(place: Place) -> tuple[str, str | None]:
    """As JSON can hold it."""
    key, field = place
    return key.hex(), hex_or_none(field)


def place_of(key: str, field: str | None) -> Place:
    """From what JSON held; raises what `field_or_none` does."""
    return bytes.fromhex(key), field_or_none(field)


def list_of(value: object) -> list[Any]:
    """A list from what JSON held; what is none counts as empty."""
    return value if isinstance(value, list) else []


def entry_of_valueless(place: Place, number: float) -> tuple[object, ...]:
    """As JSON can hold it, which has no infinity."""
    return entry_of_place(place) if number == math.inf else (*entry_of_place(place), number)


def valueless_of(entries: Iterable[object]) -> dict[Place, float]:
    """From what JSON held; without a number, it may have been at any time."""
    valueless: dict[Place, float] = {}
    for entry in entries:
        match entry:
            case [str(key), str() | None as field, *number]:
                with suppress(ValueError):
                    valueless[place_of(key, field)] = number[0] if number and isinstance(number[0], int) else math.inf
    return valueless
